/* LoRA's configuration and state. Shared by lora.c and lora_config.c. */
#ifndef GR_ADAPTER_LORA_H
#define GR_ADAPTER_LORA_H

#include "adapter/method.h"

enum { GR_LORA_MAX_RANK = 65536 };
typedef enum gr_lora_init { GR_LORA_KAIMING, GR_LORA_GAUSSIAN, GR_LORA_RANDOM } gr_lora_init;
typedef enum gr_lora_bias { GR_LORA_BIAS_NONE, GR_LORA_BIAS_ALL, GR_LORA_BIAS_OWN } gr_lora_bias;

/* rank_pattern, alpha_pattern: the first key that matches a module decides. */
typedef struct gr_lora_pattern {
    const char *key;
    double value;
    gr_pattern *pattern;
    bool used;
} gr_lora_pattern;

typedef struct gr_lora_patterns {
    gr_lora_pattern *items;
    size_t n;
} gr_lora_patterns;

/* adapter_config.json, with peft's defaults. */
typedef struct gr_lora_config {
    int64_t r;
    double alpha, dropout;
    bool rslora, dora, ensure_weight_tying;
    bool fan_in_fan_out; /* some adapted weight is stored as (in, out); peft warns where that is not said */
    gr_lora_bias bias;
    gr_lora_init init;
    const char *init_text; /* as the file had it where it is a string */
    gr_targets targets, exclude, modules_to_save, layers_pattern;
    bool layers_pattern_text; /* it was a string, not a list */
    bool layers_given, layers_single;
    int64_t *layers;
    size_t n_layers;
    gr_lora_patterns rank, alpha_of;
    gr_common_config common;
} gr_lora_config;

/* A module's pair of factors. */
typedef struct gr_lora_pair {
    const gr_site *site;
    int64_t r;
    double scale;
    gr_param *a, *b;
    uint64_t stream;
    void *identity; /* head: (r, r) */
    /* DoRA, else NULL: trained magnitudes; of a step, factor and shift of the output, norms of rows, the base's bias. */
    gr_param *magnitude, *factor, *shift;
    double *norm;
    float *bias;
} gr_lora_pair;

/* dora.c */
graft_status gr_dora_add(gr_adapter *a, gr_lora_pair *p, graft_error *err);
graft_status gr_dora_initialise(gr_adapter *a, gr_lora_pair *p, graft_error *err);
graft_status gr_dora_refresh(gr_adapter *a, gr_lora_pair *p, bool training, graft_error *err);
void gr_dora_collect(gr_lora_pair *p);
/* The pair's columns of *y, which begin at `column`, once LoRA's delta is in them. */
graft_status gr_dora_scale(gr_run *run, const gr_run_adapter *rows, const gr_lora_pair *p, int64_t column, gr_var **y,
                           graft_error *err);

graft_status gr_lora_read_config(gr_adapter *a, const gr_json_value *json, bool fresh, gr_lora_config *c, graft_error *err);
void gr_lora_write_config(const gr_lora_config *c, gr_buf *b);
void gr_lora_free_config(gr_lora_config *c);

/* The chosen sites, in order; in the arena. */
graft_status gr_lora_find_targets(gr_adapter *a, gr_lora_config *c, bool fresh, const gr_site ***out, size_t *n,
                                  graft_error *err);
/* The value for a module: of the first pattern that matches, else `otherwise`. */
graft_status gr_lora_pattern_value(gr_lora_patterns *p, const char *module, double otherwise, double *out, graft_error *err);
/* Tensors of modules_to_save and trained biases: names in the model and in the file; in the arena. */
graft_status gr_lora_find_extra(gr_adapter *a, const gr_lora_config *c, const gr_site *const *sites, size_t n_sites,
                                const char ***tensors, const char ***stored, size_t *n, graft_error *err);

#endif
