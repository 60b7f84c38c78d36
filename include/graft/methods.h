/* Options of the methods besides LoRA, named as peft 0.21's configurations name them. target_modules, exclude_modules and
 * modules_to_save stand in graft_lora_options for every method that has them. */
#ifndef GRAFT_METHODS_H
#define GRAFT_METHODS_H

#include <stdint.h>

#include "graft/lora.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct graft_method_options {
    /* ia3 (Liu et al. 2022, arXiv 2205.05638): modules whose input is scaled instead of their output; empty: what peft
     * takes for the model's type (down_proj for Llama), "none": none. */
    graft_texts feedforward_modules;

    /* prompt-tuning, prefix-tuning, p-tuning: virtual tokens in front of every sequence, 0: 20 */
    int num_virtual_tokens;
    /* prompt-tuning, p-tuning: where the pseudo-tokens stand among fixed anchors and the record's fields, as
     * "[P0..P4] premise [P5] \"?\" [P6] [MASK]" (docs/methods.md); their number follows from it. NULL: in front */
    const char *prompt_template;
    /* prompt-tuning (Lester et al. 2021, arXiv 2104.08691): "RANDOM" (NULL), "TEXT" or "SAMPLE_VOCAB"; prefix-tuning:
     * "RANDOM", or "TEXT": what the bare model has as keys and values of the text */
    const char *prompt_tuning_init;
    const char *prompt_tuning_init_text; /* for TEXT */
    const char *tokenizer_name_or_path;  /* for TEXT; NULL: the model's */
    /* prefix-tuning (Li & Liang 2021, arXiv 2101.00190): the rows are made by a network of encoder_hidden_size */
    int prefix_projection;
    /* prefix-tuning: "zero" or NULL, random; vera, loha, lokr, oft: "true" (NULL), "false" (random: a fresh adapter changes the model);
     * lokr: "lycoris" too (w1 random, w2 zero) */
    const char *init_weights;
    /* vera (Kopiczko et al. 2024, arXiv 2310.11454), loha (Hyeon-Woo et al. 2022, arXiv 2108.06098), lokr (Yeh et al. 2024, arXiv
     * 2309.14859): rank, 0: 256, 8, 8; loha, lokr: alpha, 0: 8 (the delta is scaled by alpha / r) */
    int r; /* oft: blocks of a module */
    double alpha;
    double vera_dropout;
    double d_initial;              /* vera: first values of lambda_d; 0: 0.1 */
    int64_t projection_prng_key;   /* vera: seed of the shared matrices */
    int no_save_projection;        /* vera: leave them out of the file, they follow from the key */
    int decompose_both;            /* lokr: w1 as a product of rank r too */
    int decompose_factor;          /* lokr: size of w1; 0: near the root of the weight's */
    /* adalora (Zhang et al. 2023, arXiv 2303.10512): rank of every module at first, 0: 12, and on average in the end, 0: 8; steps
     * before and after ranks are allocated, and between two allocations, 0: 1; factors of the averages of sensitivity and
     * uncertainty, 0: 0.85; weight of the penalty for what is not orthogonal (peft's 0.5 by default); steps in all, 0: the run's */
    int init_r, target_r;
    int64_t tinit, tfinal, delta_t;
    double beta1, beta2;
    double orth_reg_weight;
    int64_t total_step;
    /* oft (Qiu et al. 2023, arXiv 2306.07280; 2025, arXiv 2506.19847): size of the blocks, 0: 32, or `r` of them; rotations kept
     * within eps (0: 6e-5); one for all blocks of a module; exact (Cayley), or by so many terms of a series, 0: 5 */
    int oft_block_size;
    int coft;
    double eps;
    int block_share;
    int no_use_cayley_neumann;
    int num_cayley_neumann_terms;
    /* multitask-prompt-tuning (Wang et al. 2023, arXiv 2303.02861): tasks, which the records name in "task_ids", 0: 1; ranks of their
     * factors, 0: 1. prompt_tuning_init "RANDOM" (NULL), "TEXT", or from the safetensors file of another such adapter
     * "ONLY_SOURCE_SHARED", "AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK" (of its tasks that one; both of one task only) */
    int num_tasks, num_ranks;
    const char *prompt_tuning_init_state_dict_path;
    int prompt_tuning_init_task;
    /* p-tuning (Liu et al. 2021, arXiv 2103.10385) */
    const char *encoder_reparameterization_type; /* "MLP" (NULL) or "LSTM" */
    int encoder_hidden_size;                     /* 0: 128 */
    int encoder_num_layers;                      /* of the LSTM, 0: 2 */
    double encoder_dropout;                      /* between its layers */
    /* llama-adapter (Zhang et al. 2023, arXiv 2303.16199): prompts in each of the top layers; 0: 10 in the top 30, or in all */
    int adapter_len, adapter_layers;
} graft_method_options;

#ifdef __cplusplus
}
#endif
#endif
