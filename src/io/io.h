/* Room 2, io: files that models live in. Tensor files (safetensors, GGUF) are mapped, never copied, and everything in
 * them is checked before anything is handed out; gr_weights puts both behind one interface with Hugging Face tensor
 * names; gr_model_config does the same for their configurations; hub.h fetches them. */
#ifndef GR_IO_H
#define GR_IO_H

#include "io/gguf.h"
#include "io/hf_config.h"
#include "io/safetensors.h"
#include "io/weights.h"

#endif
