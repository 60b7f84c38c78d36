/* AdaLoRA's state. Shared by adalora.c and adalora_ranks.c. */
#ifndef GR_ADAPTER_ADALORA_H
#define GR_ADAPTER_ADALORA_H

#include "adapter/lora.h"

enum { GR_TRIPLET_A, GR_TRIPLET_E, GR_TRIPLET_B, GR_TRIPLET_PARTS };

/* Of a module: B diag(E) A, with parameters A (r, in), E (r, 1), B (out, r). */
typedef struct gr_triplet {
    const char *name;                    /* rank_pattern's, "model.layers.0.self_attn.q_proj.lora_E" */
    const bool *given;                   /* which of the init_r triplets the file has; NULL: all */
    gr_param *part[GR_TRIPLET_PARTS];
    gr_param *ipt[GR_TRIPLET_PARTS];     /* of an adapter that is trained: averages of sensitivity and uncertainty */
    gr_param *unc[GR_TRIPLET_PARTS];
    gr_param *kept;                      /* (r): 1, or 0 where the last allocation left it out */
} gr_triplet;

typedef struct gr_adalora {
    gr_lora lora;
    gr_rank_plan plan;
    gr_triplet *of; /* of each pair */
    size_t *order;  /* of the pairs by name */
    double *norms;  /* of each pair: how far A and B are from orthogonal */
    bool any_given;
    gr_param *allocations; /* (1): how often ranks were allocated; NULL: the adapter is not trained */
} gr_adalora;

static inline bool gr_adalora_is_allocated(const gr_adalora *s) { return s->allocations && gr_param_at(s->allocations, 0) > 0; }

/* adalora_ranks.c */
graft_status gr_adalora_begin_run(gr_adapter *a, int64_t n_steps, graft_error *err);
graft_status gr_adalora_stepped(gr_adapter *a, int64_t step, double clip, graft_error *err);
graft_status gr_adalora_check_plan(const gr_adapter *a, const gr_rank_plan *p, graft_error *err);

#endif
