/* What a GGUF file says besides its tensors, made from a Hugging Face directory as llama.cpp's converter makes it. */
#ifndef GR_IO_GGUF_EXPORT_H
#define GR_IO_GGUF_EXPORT_H

#include "graft/tokenizer.h"
#include "io/gguf.h"
#include "io/hf_config.h"

/* general.architecture of a configuration; NULL: graft does not write such models as GGUF. */
const char *gr_gguf_arch(const gr_model_config *c);
/* The keys of a configuration. `name`: general.name. GRAFT_ERR_UNSUPPORTED names what GGUF has no key for. */
graft_status gr_gguf_add_config(gr_gguf_writer *w, const gr_model_config *c, const char *name, graft_error *err);
/* The keys of the tokenizer in `path` (a directory). The pre-tokeniser's name is the one whose rules give the very
 * ids of the tokenizer on a text that tells them all apart; where there is none, GRAFT_ERR_UNSUPPORTED. */
graft_status gr_gguf_add_tokenizer(gr_gguf_writer *w, graft_context *ctx, const char *path, const gr_model_config *c,
                                   graft_error *err);

#endif
