/* Options of LoRA (Hu et al. 2021, arXiv 2106.09685), named as peft 0.21's LoraConfig names them. */
#ifndef GRAFT_LORA_H
#define GRAFT_LORA_H

#include <stddef.h>
#include "graft/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A borrowed list of borrowed texts. */
typedef struct graft_texts {
    const char *const *items;
    size_t n;
} graft_texts;

/* "PATTERN" = value for every module whose name ends with, or as a regular expression matches, PATTERN. */
typedef struct graft_lora_pattern {
    const char *key;
    double value;
} graft_lora_pattern;

typedef struct graft_lora_options {
    int r;             /* rank, 8 */
    double lora_alpha; /* 8; the delta is scaled by lora_alpha / r, with use_rslora by lora_alpha / sqrt(r) */
    double lora_dropout; /* 0 */
    int use_rslora;      /* 0 (Kalajdzievski 2023, arXiv 2312.03732) */
    int use_dora;        /* 0 (Liu et al. 2024, arXiv 2402.09353) */
    const char *bias;    /* "none" (NULL), "all" or "lora_only" */
    /* Names of modules ("q_proj"), one full regular expression, or "all-linear" (every linear layer but the head).
     * Empty: what peft takes for the model's type (q_proj and v_proj for Llama). */
    graft_texts target_modules;
    graft_texts exclude_modules;
    const int *layers_to_transform; /* NULL: every layer */
    size_t n_layers_to_transform;
    const graft_lora_pattern *rank_pattern;
    size_t n_rank_pattern;
    const graft_lora_pattern *alpha_pattern;
    size_t n_alpha_pattern;
    graft_texts modules_to_save; /* trained and saved whole: "lm_head", "embed_tokens", ... */
    /* LoRA+ (Hayou et al. 2024, arXiv 2402.12354): B, and every vector, learn at this many times learning_rate; 0: as A. */
    double loraplus_lr_ratio;
    double loraplus_lr_embedding; /* learning rate of factors of an embedding then; 0: 1e-6 */
    const char *init_lora_weights; /* "true" (NULL: A Kaiming-uniform, B zero), "gaussian", "false" (B random too); or
     * factors of the weight, which is then what is left of it: "pissa" (Meng et al. 2024, arXiv 2404.02948), "pissa_niter_N" (fast,
     * N rounds), "olora" (Buyukakyuz 2024, arXiv 2406.01775). Such an adapter is saved as a LoRA of twice the rank. Or
     * "loftq" (Li et al. 2024, arXiv 2310.08659): factors of what load_in_4bit or load_in_8bit takes from the weight. */
} graft_lora_options;

/* peft's defaults. */
graft_lora_options graft_lora_options_default(void);

#ifdef __cplusplus
}
#endif
#endif
