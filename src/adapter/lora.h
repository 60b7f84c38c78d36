/* LoRA's configuration and state. Shared by lora.c and lora_config.c. */
#ifndef GR_ADAPTER_LORA_H
#define GR_ADAPTER_LORA_H

#include "adapter/method.h"

enum { GR_LORA_MAX_RANK = 65536 };
typedef enum gr_lora_init { GR_LORA_KAIMING, GR_LORA_GAUSSIAN, GR_LORA_RANDOM, GR_LORA_PISSA, GR_LORA_OLORA, GR_LORA_LOFTQ } gr_lora_init;
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

/* What AdaLoRA's configuration has beside LoRA's. */
typedef struct gr_rank_plan {
    int64_t init_r, target_r, tinit, tfinal, delta_t;
    int64_t total_step; /* 0: that of the run */
    double beta1, beta2, orth_reg_weight;
    const gr_adapter *adapter; /* whose ranks they are */
} gr_rank_plan;

/* adapter_config.json, with peft's defaults. */
typedef struct gr_lora_config {
    int64_t r;
    double alpha, dropout;
    bool rslora, dora, ensure_weight_tying;
    bool fan_in_fan_out; /* some adapted weight is stored as (in, out); peft warns where that is not said */
    gr_lora_bias bias;
    gr_lora_init init;
    const char *init_text; /* as the file had it where it is a string */
    int64_t loftq_bits, loftq_iter; /* 0: not said */
    int64_t pissa_rounds;  /* of a subspace iteration; -1: the exact decomposition */
    gr_targets targets, exclude, modules_to_save, layers_pattern;
    bool layers_pattern_text; /* it was a string, not a list */
    bool layers_given, layers_single;
    int64_t *layers;
    size_t n_layers;
    gr_lora_patterns rank, alpha_of;
    gr_common_config common;
    const gr_rank_plan *plan; /* AdaLoRA's, whose rank_pattern is of another kind; NULL: LoRA */
} gr_lora_config;

/* A module's pair of factors. */
typedef struct gr_lora_pair {
    const gr_site *site;
    int64_t r;
    double unit, scale; /* scale of the adapter as it was trained; times what it was loaded with */
    gr_param *a, *b;
    uint64_t stream;
    void *identity; /* head: (r, r) */
    /* DoRA, else NULL: trained magnitudes; of a step, factor and shift of the output, norms of rows, the base's bias. */
    gr_param *magnitude, *factor, *shift;
    double *norm;
    float *bias;
    const gr_param *own_bias; /* the bias where it is trained, NULL: it is the base's */
    gr_matrix *w;             /* with dropout: the site's weight alone, for a product of its own */
    /* Where it starts from the weight's own factors, else NULL: what is trained, the first half of a and of b; r counts both
     * halves. b_start: the second half of b apart, (out, r / 2), where there is dropout. */
    gr_param *own_a, *own_b;
    void *b_start;
} gr_lora_pair;

/* The first member of the state of LoRA and of methods whose deltas are low-rank products too. */
typedef struct gr_lora {
    gr_lora_config config;
    gr_lora_pair *pairs;
    size_t n_pairs;
    int *pair_of_site; /* -1: none */
    gr_low_rank **frozen; /* where nothing is trained: of the product that begins with a site; NULL: none */
    size_t n_frozen;
    void *frozen_memory; /* of their values, in the order in which a pass reads them */
} gr_lora;

/* lora.c: room for n pairs, and the hooks over them. */
graft_status gr_lora_alloc(gr_adapter *a, size_t n, graft_error *err);
void gr_lora_free(gr_adapter *a);
graft_status gr_lora_linear(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_linear *l, gr_var *x, gr_var **y,
                            graft_error *err);
graft_status gr_lora_head(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_linear *l, gr_var *x, gr_head_update *out,
                          int *n, graft_error *err);
graft_status gr_lora_merge(const gr_adapter *a, const gr_site *site, int64_t row, int64_t n, float *w, graft_error *err);
bool gr_lora_unties(const gr_adapter *a);
graft_status gr_lora_rescale(gr_adapter *a, graft_error *err);
graft_status gr_lora_make_identity(gr_adapter *a, gr_lora_pair *p, graft_error *err);

/* lora_frozen.c: the hooks freeze and update of gr_adapter_method. */
graft_status gr_lora_freeze(gr_adapter *a, graft_error *err);
void gr_lora_thaw(gr_adapter *a);
bool gr_lora_update(const gr_adapter *a, const gr_linear *l, gr_low_rank_use *use);

/* lora_start.c */
bool gr_lora_starts_from_weight(const gr_lora_config *c);
double gr_lora_start_alpha(const gr_lora_config *c); /* on lora_alpha, where the rank is twice what was asked for */
/* Makes own_a and own_b beside a and b, which are there, and fills the second halves; `fresh`: the first too. */
graft_status gr_lora_start_add(gr_adapter *a, gr_lora_pair *p, const gr_lora_config *c, bool fresh, graft_error *err);
void gr_lora_start_refresh(const gr_lora_pair *p, bool training);
void gr_lora_start_collect(const gr_lora_pair *p);
void gr_lora_start_loaded(gr_adapter *a, const gr_lora_pair *p);
/* y += s B drop(x) A^T of the first half, and of the second without dropout. */
graft_status gr_lora_start_dropped(gr_run *run, const gr_run_adapter *rows, const gr_lora_pair *p, int64_t column, double dropout,
                                   gr_var *x, gr_var **y, graft_error *err);
/* y -= s B drop(x) A^T - s B x A^T of the second half, which is part of the weight that the first one is added to. */
graft_status gr_lora_start_redropped(gr_run *run, const gr_run_adapter *rows, const gr_lora_pair *p, int64_t column, double dropout,
                                     gr_var *x, gr_var **y, graft_error *err);

/* loftq.c: whether a base can begin so; A and B of a pair. */
graft_status gr_loftq_check(gr_adapter *a, const gr_lora_config *c, const gr_site *const *sites, size_t n, graft_error *err);
graft_status gr_loftq_fill(gr_adapter *a, gr_lora_pair *p, graft_error *err);

/* dora.c */
graft_status gr_dora_add(gr_adapter *a, gr_lora_pair *p, bool dropout, graft_error *err);
graft_status gr_dora_initialise(gr_adapter *a, gr_lora_pair *p, graft_error *err);
graft_status gr_dora_refresh(gr_adapter *a, gr_lora_pair *p, bool training, graft_error *err);
void gr_dora_collect(gr_lora_pair *p);
/* The pair's columns of *y, which begin at `column`, once LoRA's delta is in them. */
graft_status gr_dora_scale(gr_run *run, const gr_run_adapter *rows, const gr_lora_pair *p, int64_t column, gr_var **y,
                           graft_error *err);

/* The same in place of LoRA's delta, with dropout. */
graft_status gr_dora_dropped(gr_run *run, const gr_run_adapter *rows, const gr_lora_pair *p, int64_t column, double dropout, gr_var *x,
                             gr_var **y, graft_error *err);

/* `plan`: AdaLoRA's configuration, which has these keys too. */
graft_status gr_lora_read_config(gr_adapter *a, const gr_json_value *json, bool fresh, const gr_rank_plan *plan, gr_lora_config *c,
                                 graft_error *err);
void gr_adalora_write_pattern(const gr_adapter *a, gr_buf *b);
void gr_lora_write_config(const gr_lora_config *c, gr_buf *b);
void gr_lora_free_config(gr_lora_config *c);

/* What LoRA shares with its kin: which modules, which layers, patterns, the common keys. */
graft_status gr_lora_read_chosen(gr_adapter *a, const gr_json_value *json, gr_lora_config *c, graft_error *err);
void gr_lora_write_layers(gr_buf *b, const gr_lora_config *c);
void gr_lora_write_patterns(gr_buf *b, const char *key, const gr_lora_patterns *p, double times);
void gr_lora_write_number(gr_buf *b, double v);

/* lora_kin.c: methods whose delta is a product of two factors that follow from their own parameters. The factors are made in
 * front of the passes of a step (refresh) and their gradients handed on behind them (collect); all hooks are LoRA's. */
/* r, alpha, init_weights and what chooses modules into the gr_lora's configuration; alpha and init get defaults. `init` NULL: the
 * method reads init_weights itself. */
graft_status gr_kin_read(gr_adapter *a, const gr_json_value *json, bool fresh, int64_t r, const char *const *known,
                         bool *init, graft_error *err);
/* LoHa and LoKr: rank_dropout and module_dropout, which are refused in training; the first and last keys of their configurations. */
graft_status gr_kin_refuse_dropouts(gr_adapter *a, const gr_json_value *json, graft_error *err);
void gr_kin_write_begin(gr_buf *b, const gr_lora_config *c);
void gr_kin_write_end(gr_buf *b, const gr_lora_config *c, bool conv);
/* Finds the sites, makes a pair with rank and scale of each, calls `add` for it, and makes the modules that are trained whole. */
typedef graft_status (*gr_kin_add)(gr_adapter *a, size_t i, const gr_site *site, bool fresh, uint64_t seed, graft_error *err);
graft_status gr_kin_create(gr_adapter *a, const gr_site *const *sites, size_t n, bool fresh, uint64_t seed, gr_kin_add add,
                           graft_error *err);
/* The site's weight as a matrix of its own, whatever product it is a part of. */
graft_status gr_lora_make_matrix(gr_adapter *a, const gr_site *site, gr_matrix **out, graft_error *err);
/* A parameter under "base_model.model.SITE.name"; uniform within +-bound where it is new and bound is above 0. */
graft_status gr_kin_param(gr_adapter *a, const gr_site *site, const char *name, gr_shape shape, double bound, bool fresh,
                          uint64_t seed, gr_param **out, graft_error *err);
/* Makes the pair's factors of rank r where they are not there yet; `training`: their gradients become zero. */
graft_status gr_kin_factors(gr_adapter *a, gr_lora_pair *p, int64_t r, bool training, graft_error *err);
void gr_kin_facts(const gr_adapter *a, gr_buf *b);

static inline double gr_param_at(const gr_param *p, int64_t i) {
    return p->dtype == GR_F64 ? ((const double *)p->value)[i] : (double)((const float *)p->value)[i];
}
static inline double gr_param_grad_at(const gr_param *p, int64_t i) {
    return p->dtype == GR_F64 ? ((const double *)p->grad)[i] : (double)((const float *)p->grad)[i];
}
static inline void gr_param_put(const gr_param *p, int64_t i, double v) {
    if (p->dtype == GR_F64)
        ((double *)p->value)[i] = v;
    else
        ((float *)p->value)[i] = (float)v;
}
static inline void gr_param_add_grad(const gr_param *p, int64_t i, double v) {
    if (p->dtype == GR_F64)
        ((double *)p->grad)[i] += v;
    else
        ((float *)p->grad)[i] += (float)v;
}

/* The chosen sites, in order; in the arena. */
graft_status gr_lora_find_targets(gr_adapter *a, gr_lora_config *c, bool fresh, const gr_site ***out, size_t *n,
                                  graft_error *err);
/* The value for a module: of the first pattern that matches, else `otherwise`. */
graft_status gr_lora_pattern_value(gr_lora_patterns *p, const char *module, double otherwise, double *out, graft_error *err);
/* Tensors of modules_to_save and trained biases: names in the model and in the file; in the arena. */
graft_status gr_lora_find_extra(gr_adapter *a, const gr_lora_config *c, const gr_site *const *sites, size_t n_sites,
                                const char ***tensors, const char ***stored, size_t *n, graft_error *err);

#endif
