/* Optimisers: from gradients to new parameters. One rule a file, one line in optimizer.def. A rule has up to two states a
 * parameter, each of the parameter's shape: F32, or codes in 8 bits with an absmax a block (quant/scaled.h). They start at
 * zero, and lie in memory or, paged, in a scratch file that the system may write out (base/scratch.h). */
#ifndef GR_TRAIN_OPTIMIZER_H
#define GR_TRAIN_OPTIMIZER_H

#include "kernel/kernel.h"
#include "nn/seam.h"

enum {
    GR_OPTIMIZER_MAX_STATES = 2,
    GR_LEAST_8BIT = 4096,          /* parameters of fewer elements keep F32 states (bitsandbytes' min_8bit_size) */
    GR_OPTIMIZER_WINDOW = 16 << 20 /* bytes of paged state that are worked on at a time */
};

typedef struct gr_optimizer_options {
    double beta1, beta2, epsilon; /* adamw */
    double weight_decay;          /* of parameters with gr_param.decay */
    double momentum;              /* sgd */
    bool nesterov;
    bool paged;
    const char *paged_dir; /* of the scratch file; NULL: paged state lies in memory after all (a plan's trial) */
} gr_optimizer_options;

typedef struct gr_optimizer_state {
    void *data;      /* n floats or codes */
    float *absmax;   /* one a block of codes; NULL: floats */
    size_t bytes, n_absmax; /* of data; of absmax */
} gr_optimizer_state;

/* A range of a parameter, whole blocks but for its end. */
typedef struct gr_update {
    gr_device *dev;
    const gr_optimizer_options *options;
    const gr_dynamic_code *code[GR_OPTIMIZER_MAX_STATES]; /* of states in 8 bits */
    int64_t n;
    float *value, *grad;
    bool decay;
    gr_optimizer_state state[GR_OPTIMIZER_MAX_STATES];
    double lr;
    double grad_scale; /* the gradient is grad times this */
    int64_t step;      /* 1 for the first */
} gr_update;

typedef struct gr_optimizer_rule {
    const char *names[4];                           /* the names that mean it, the first is its own; NULL-terminated */
    const char *paged_name;                         /* the same with paged state; NULL: none */
    const char *states[GR_OPTIMIZER_MAX_STATES];    /* their names in checkpoints, torch's; NULL: fewer */
    const char *absmax[GR_OPTIMIZER_MAX_STATES];    /* of states in 8 bits: the names of their absmax; NULL: F32 */
    const float *map[GR_OPTIMIZER_MAX_STATES];      /* and their maps */
    int (*n_states)(const gr_optimizer_options *o); /* how many of them these options need */
    void (*update)(const gr_update *u);             /* may change grad */
} gr_optimizer_rule;

#define X(name) extern const gr_optimizer_rule gr_optimizer_##name;
#include "train/optimizer.def"
#undef X

/* `name` as in graft_sft_options.optim; `args` as optim_args, may be NULL and only adds to *options. */
graft_status gr_optimizer_find(const char *name, const char *args, gr_optimizer_options *options,
                               const gr_optimizer_rule **out, graft_error *err);

typedef struct gr_optimizer gr_optimizer;

/* The parameters (F32, with gradients) are borrowed. */
graft_status gr_optimizer_new(gr_device *d, const gr_optimizer_rule *rule, const gr_optimizer_options *options,
                              gr_param *const *params, size_t n, gr_optimizer **out, graft_error *err);
void gr_optimizer_free(gr_optimizer *o);
/* What the states take; of paged ones in the file. */
size_t gr_optimizer_bytes(const gr_optimizer_rule *rule, const gr_optimizer_options *options, gr_param *const *params,
                          size_t n);

void gr_optimizer_zero_grad(gr_optimizer *o);
/* 2-norm of all gradients together, summed in double in a fixed order; not finite when a gradient is not. */
double gr_optimizer_grad_norm(const gr_optimizer *o);
/* Factor that limits the norm to max_norm as torch's clip_grad_norm_ does: min(1, max_norm / (norm + 1e-6)). */
double gr_clip_factor(double norm, double max_norm);
void gr_optimizer_step(gr_optimizer *o, double lr, double grad_scale);

int64_t gr_optimizer_steps(const gr_optimizer *o); /* steps taken */
void gr_optimizer_set_steps(gr_optimizer *o, int64_t steps);
const gr_optimizer_rule *gr_optimizer_get_rule(const gr_optimizer *o);
int gr_optimizer_n_states(const gr_optimizer *o);
size_t gr_optimizer_n_params(const gr_optimizer *o);
gr_param *gr_optimizer_param(const gr_optimizer *o, size_t i);
gr_optimizer_state gr_optimizer_get_state(const gr_optimizer *o, size_t param, int state);
/* Paged state that was read or written from outside need not stay in memory. */
void gr_optimizer_release(const gr_optimizer *o, const void *data, size_t bytes);

#endif
