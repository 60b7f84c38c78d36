/* Adapters of a model: made new, loaded, saved, by name. Files are peft's. */
#ifndef GRAFT_ADAPTER_H
#define GRAFT_ADAPTER_H

#include "graft/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A fresh adapter. `config_json` is an object as in adapter_config.json; absent keys have peft's defaults. The method
 * stands in "peft_type": "LORA" (r, lora_alpha, lora_dropout, use_rslora, use_dora, target_modules (list, regular expression or
 * "all-linear"), exclude_modules, layers_to_transform, layers_pattern, rank_pattern, alpha_pattern, modules_to_save,
 * bias, init_lora_weights), "IA3", "PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT", "LN_TUNING", "VERA", "LOHA", "LOKR", "BITFIT"
 * (target_modules, exclude_modules), or "FULL" for all of the model's own tensors. The same seed gives the same values. */
graft_status graft_adapter_new(graft_model *m, const char *name, const char *config_json, uint64_t seed,
                               graft_error *err);
/* Loads an adapter directory under a name; its delta is multiplied by `scale` (1: as trained). */
graft_status graft_adapter_load(graft_model *m, const char *name, const char *dir, double scale, graft_error *err);
/* The same, ready to be trained further. */
graft_status graft_adapter_load_trainable(graft_model *m, const char *name, const char *dir, graft_error *err);
/* Multiplies its delta by another number from now on (LoRA without DoRA, IA3, what is not being trained). An adapter acts on the
 * sequences that name it and on no others: to switch is to name another one, to disable is to name none. */
graft_status graft_adapter_set_scale(graft_model *m, const char *name, double scale, graft_error *err);

/* A new LoRA `name` from n others and their weights (negative ones too), as peft 0.21's add_weighted_adapter makes it. */
typedef struct graft_combine_options {
    /* "cat" (NULL): factors side by side, exact, the ranks add up; "svd": the best approximation of the sum of svd_rank; "linear",
     * "ties", "dare_linear", "dare_ties", "magnitude_prune": of equal ranks, A with A and B with B */
    const char *type;
    int svd_rank;                    /* 0: the largest of the ranks */
    double density;                  /* share of the values that ties, dare_* and magnitude_prune keep, above 0 */
    const char *majority_sign_method; /* of ties, dare_ties: "total" (NULL) or "frequency" */
    uint64_t seed;                   /* which values dare_* keeps */
} graft_combine_options;
graft_status graft_adapter_combine(graft_model *m, const char *name, const char *const *adapters, const double *weights, size_t n,
                                   const graft_combine_options *options, graft_error *err);
/* No generation may be using it. */
graft_status graft_adapter_remove(graft_model *m, const char *name, graft_error *err);
/* Writes adapter_config.json, adapter_model.safetensors and README.md (FULL: a model directory). */
graft_status graft_adapter_save(const graft_model *m, const char *name, const char *dir, graft_error *err);

size_t graft_adapter_count(const graft_model *m);
const char *graft_adapter_name(const graft_model *m, size_t i);      /* NULL past the end; borrowed */
/* The template that says where its pseudo-tokens stand (docs/methods.md), NULL: none; and the labels of the template's verbaliser,
 * which a masked language model says as words: their number, 0: none, and their names, NULL when i is too large. Borrowed. */
const char *graft_adapter_prompt_template(const graft_model *m, const char *name);
size_t graft_adapter_n_words(const graft_model *m, const char *name);
const char *graft_adapter_word_label(const graft_model *m, const char *name, size_t i);
int64_t graft_adapter_n_params(const graft_model *m, const char *name); /* trainable elements, -1: no such adapter */

#ifdef __cplusplus
}
#endif
#endif
