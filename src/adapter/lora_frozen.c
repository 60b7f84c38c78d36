/* Factors of adapters that are not trained, made ready once: in passes that keep nothing for a backward the rows of all
 * adapters of a batch take their updates in one loop (gr_low_rank_apply), with the bits of gr_op_lora. */
#include "adapter/lora.h"

void gr_lora_thaw(gr_adapter *a) {
    gr_lora *s = a->state;
    for (size_t i = 0; i < s->n_frozen; i++) {
        if (s->frozen[i]) a->bytes -= gr_low_rank_bytes(s->frozen[i]);
        gr_low_rank_free(s->frozen[i]);
    }
    gr_free(a->a, s->frozen);
    s->frozen = NULL;
    s->n_frozen = 0;
}

static const gr_lora_pair *pair_of(const gr_lora *s, const gr_site *site) {
    const int at = s->pair_of_site[site->index];
    return at >= 0 && s->pairs[at].r > 0 ? &s->pairs[at] : NULL;
}

static graft_status freeze_linear(gr_adapter *a, const gr_linear *l, gr_low_rank **out, graft_error *err) {
    gr_low_rank_pair pairs[GR_LOW_RANK_PAIRS];
    int n = 0;
    for (int i = 0; i < l->n_parts; i++) {
        const gr_lora_pair *p = pair_of(a->state, l->site[i]);
        if (p)
            pairs[n++] = (gr_low_rank_pair){.rank = p->r,
                                            .out = l->offset[i + 1] - l->offset[i],
                                            .column = l->offset[i],
                                            .a = p->a->value,
                                            .b = p->b->value};
    }
    if (n == 0) return GRAFT_OK;
    GR_TRY(gr_low_rank_new(gr_model_device(a->model), gr_model_dtype(a->model), l->in, n, pairs, out, err));
    a->bytes += gr_low_rank_bytes(*out);
    return GRAFT_OK;
}

static graft_status freeze_all(gr_adapter *a, graft_error *err) {
    gr_lora *s = a->state;
    for (size_t i = 0; i < s->n_pairs; i++) {
        const gr_site *site = s->pairs[i].site;
        const gr_linear *l = site->role == GR_ROLE_HEAD ? NULL : gr_model_linear(a->model, site);
        if (l && !s->frozen[l->site[0]->index]) GR_TRY(freeze_linear(a, l, &s->frozen[l->site[0]->index], err));
    }
    return GRAFT_OK;
}

/* The factors as the file has them are read again by merging, or to be combined or saved. What a start from the base's weights
 * (own_a) and other methods than LoRA have as factors they make. */
static void leave_values(gr_adapter *a) {
    gr_lora *s = a->state;
    for (size_t i = 0; a->method == &gr_adapter_lora && i < s->n_pairs; i++) {
        const gr_lora_pair *p = &s->pairs[i];
        const gr_linear *l = p->site->role == GR_ROLE_HEAD ? NULL : gr_model_linear(a->model, p->site);
        if (!l || !s->frozen[l->site[0]->index] || p->own_a) continue;
        gr_adapter_leave_values(a, p->a);
        gr_adapter_leave_values(a, p->b);
    }
}

/* All or none: a product that is not among them would count as one without an update. */
graft_status gr_lora_freeze(gr_adapter *a, graft_error *err) {
    gr_lora *s = a->state;
    gr_lora_thaw(a);
    if (s->config.dora || a->shared || gr_model_dtype(a->model) == GR_F64) return GRAFT_OK;
    const size_t n = gr_model_n_sites(a->model);
    if (!(s->frozen = gr_calloc(a->a, n, sizeof *s->frozen))) return gr_fail_memory(err);
    s->n_frozen = n;
    const graft_status st = freeze_all(a, err);
    if (st == GRAFT_OK)
        leave_values(a);
    else
        gr_lora_thaw(a);
    return st;
}

bool gr_lora_update(const gr_adapter *a, const gr_linear *l, gr_low_rank_use *use) {
    const gr_lora *s = a->state;
    if (!s->frozen) return false;
    int n = 0;
    use->f = l->site[0]->role == GR_ROLE_HEAD ? NULL : s->frozen[l->site[0]->index];
    for (int i = 0; use->f && i < l->n_parts; i++) {
        const gr_lora_pair *p = pair_of(s, l->site[i]);
        if (p) use->scale[n++] = p->scale;
    }
    return true;
}
