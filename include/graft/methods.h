/* Options of the methods besides LoRA, named as peft 0.21's configurations name them. target_modules, exclude_modules and
 * modules_to_save stand in graft_lora_options for every method that has them. */
#ifndef GRAFT_METHODS_H
#define GRAFT_METHODS_H

#include "graft/lora.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct graft_method_options {
    /* ia3 (Liu et al. 2022, arXiv 2205.05638): modules whose input is scaled instead of their output; empty: what peft
     * takes for the model's type (down_proj for Llama), "none": none. */
    graft_texts feedforward_modules;
} graft_method_options;

#ifdef __cplusplus
}
#endif
#endif
