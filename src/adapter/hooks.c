/* The hooks through which passes reach adapters: each goes through the adapters that have rows in flight and lets their
 * methods do their part. */
#include <limits.h>
#include <math.h>

#include "adapter/method.h"

static int hook_find(void *self, const char *name) { return gr_adapter_set_find(self, name); }
static int hook_count(void *self) { return gr_adapter_set_count(self); }

static int64_t hook_identity(void *self, int adapter) {
    const gr_adapter *a = gr_adapter_at(self, adapter);
    return a ? a->identity : 0;
}

/* Updates of the product's rows that are made together. */
typedef struct updates {
    gr_run *run;
    gr_var *x;
    int n;
    gr_low_rank_use uses[64];
} updates;

static graft_status flush(updates *u, gr_var *y, graft_error *err) {
    const gr_array *x = gr_var_array(u->x), *out = gr_var_array(y);
    const int n = u->n;
    u->n = 0;
    if (n == 0 || gr_tape_is_dry(u->run->tape)) return GRAFT_OK;
    gr_device *d = gr_tape_device(u->run->tape);
    return gr_low_rank_apply(d, n, u->uses, x->data, x->shape.d[1], out->data, out->shape.d[1], err);
}

static graft_status add_ranges(updates *u, const gr_run_adapter *rows, const gr_low_rank_use *use, gr_var *y,
                               graft_error *err) {
    const gr_row_range all = {0, u->run->n_rows};
    for (int i = 0; i < (rows->n_ranges ? rows->n_ranges : 1); i++) {
        const gr_row_range *r = rows->n_ranges ? &rows->ranges[i] : &all;
        if (u->n == (int)GR_COUNT(u->uses)) GR_TRY(flush(u, y, err));
        gr_low_rank_use *to = &u->uses[u->n++];
        *to = *use;
        to->begin = r->begin;
        to->end = r->end;
    }
    return GRAFT_OK;
}

/* Rows of different adapters have nothing in common, so that those of frozen factors may be done last, all at once. */
static graft_status hook_linear(void *self, gr_run *run, const gr_linear *l, gr_var *x, gr_var **y, graft_error *err) {
    const bool together = !gr_tape_records(run->tape) && !run->batch->training;
    updates u;
    u.run = run;
    u.x = x;
    u.n = 0;
    for (int i = 0; i < run->n_adapters; i++) {
        gr_adapter *a = gr_adapter_at(self, run->adapters[i].index);
        gr_low_rank_use use;
        if (together && a->method->update && a->method->update(a, l, &use)) {
            if (use.f) GR_TRY(add_ranges(&u, &run->adapters[i], &use, *y, err));
        } else if (a->method->linear) {
            GR_TRY(a->method->linear(a, run, &run->adapters[i], l, x, y, err));
        }
    }
    return flush(&u, *y, err);
}

static graft_status hook_embedding(void *self, gr_run *run, const gr_embedding *e, gr_var **y, graft_error *err) {
    for (int i = 0; i < run->n_adapters; i++) {
        gr_adapter *a = gr_adapter_at(self, run->adapters[i].index);
        if (a->method->embedding) GR_TRY(a->method->embedding(a, run, &run->adapters[i], e, y, err));
    }
    return GRAFT_OK;
}

static graft_status hook_head(void *self, gr_run *run, const gr_linear *head, gr_var *x, gr_head_update *out, int *n,
                              graft_error *err) {
    for (int i = 0; i < run->n_adapters; i++) {
        gr_adapter *a = gr_adapter_at(self, run->adapters[i].index);
        if (a->method->head) GR_TRY(a->method->head(a, run, &run->adapters[i], head, x, out, n, err));
    }
    return GRAFT_OK;
}

static graft_status hook_scale(void *self, gr_run *run, const gr_linear *l, bool input, gr_var **y, graft_error *err) {
    for (int i = 0; i < run->n_adapters; i++) {
        gr_adapter *a = gr_adapter_at(self, run->adapters[i].index);
        if (a->method->scale) GR_TRY(a->method->scale(a, run, &run->adapters[i], l, input, y, err));
    }
    return GRAFT_OK;
}

static int hook_n_virtual(void *self, int adapter) { return gr_adapter_n_virtual(self, adapter); }

static int hook_n_rows(void *self, int adapter) {
    const gr_adapter *a = gr_adapter_at(self, adapter);
    return a ? a->n_rows : 0;
}

static const char *hook_prompt_template(void *self, int adapter) { return gr_adapter_prompt_template(self, adapter); }

static int hook_n_prefix(void *self, int adapter) {
    const gr_adapter *a = gr_adapter_at(self, adapter);
    return a ? a->n_prefix : 0;
}

static int hook_n_tasks(void *self, int adapter) { return gr_adapter_n_tasks(self, adapter); }

static int hook_n_gated(void *self, int adapter) {
    const gr_adapter *a = gr_adapter_at(self, adapter);
    return a ? a->n_gated : 0;
}

/* One attention over all adapters' rows; what it gives is added to each one's own rows of *y. */
static graft_status hook_gated(void *self, gr_run *run, const gr_nn_attention *at, gr_var *q, gr_var **y, graft_error *err) {
    gr_var *in[3] = {q, NULL, NULL}, *u;
    for (int i = 0; i < run->n_adapters; i++) {
        gr_adapter *a = gr_adapter_at(self, run->adapters[i].index);
        if (a->n_gated) GR_TRY(a->method->gated_rows(a, run, &run->adapters[i], at->layer, &in[1], &in[2], err));
    }
    if (!in[1]) return GRAFT_OK; /* nobody's layer */
    gr_attention_params params = {.n_heads = at->n_heads, .n_kv_heads = at->n_kv_heads, .head_dim = at->head_dim,
                                  .scale = 1 / sqrt(at->head_dim), .n_seqs = run->batch->n_seqs,
                                  .seqs = run->gated_seqs};
    GR_TRY(gr_tape_apply(run->tape, &gr_op_attention, in, 3, &params, &u, err));
    gr_var_drop(in[1]);
    gr_var_drop(in[2]);
    for (int i = 0; i < run->n_adapters; i++) {
        gr_adapter *a = gr_adapter_at(self, run->adapters[i].index);
        if (a->n_gated) GR_TRY(a->method->gate(a, run, &run->adapters[i], at->layer, u, y, err));
    }
    gr_var_drop(u);
    return GRAFT_OK;
}

static graft_status hook_kv_rows(void *self, gr_run *run, int layer, gr_var **k, gr_var **v, graft_error *err) {
    for (int i = 0; i < run->n_adapters; i++) {
        gr_adapter *a = gr_adapter_at(self, run->adapters[i].index);
        if (a->n_prefix) GR_TRY(a->method->kv_rows(a, run, &run->adapters[i], layer, k, v, err));
    }
    return GRAFT_OK;
}

static graft_status hook_variant(void *self, const gr_batch *b, const gr_variant **out, graft_error *err) {
    const gr_adapter *first = NULL;
    for (int s = 0; s < b->n_seqs; s++) {
        int32_t index = gr_batch_adapter(b, s);
        const gr_adapter *a = index < 0 ? NULL : gr_adapter_at(self, index);
        if (index >= 0 && !a) return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d: adapter %d was removed", s, index);
        if (s == 0) first = a;
        const gr_variant *one = first ? first->variant : NULL, *other = a ? a->variant : NULL;
        if (one != other)
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                           "adapter '%s' brings whole modules of its own and cannot share a batch with others",
                           one ? first->name : a->name);
    }
    *out = first ? first->variant : NULL;
    return GRAFT_OK;
}

static int hook_lowest_layer(void *self, const gr_batch *b) {
    int lowest = INT_MAX;
    for (int s = 0; s < b->n_seqs; s++) {
        const gr_adapter *a = gr_adapter_at(self, gr_batch_adapter(b, s));
        if (a) lowest = GR_MIN(lowest, a->lowest_layer);
    }
    return lowest;
}

void gr_adapter_fill_hooks(gr_adapter_set *s) {
    s->hooks = (gr_hooks){.self = s, .find = hook_find, .count = hook_count, .identity = hook_identity,
                          .linear = hook_linear, .embedding = hook_embedding, .head = hook_head, .scale = hook_scale,
                          .n_virtual = hook_n_virtual, .n_rows = hook_n_rows,
                          .prompt_template = hook_prompt_template, .n_prefix = hook_n_prefix, .n_tasks = hook_n_tasks, .kv_rows = hook_kv_rows,
                          .n_gated = hook_n_gated, .gated = hook_gated,
                          .variant = hook_variant, .lowest_layer = hook_lowest_layer};
}
