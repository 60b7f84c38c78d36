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
    gr_free_aligned(a->a, s->frozen_memory);
    s->frozen = NULL;
    s->frozen_memory = NULL;
    s->n_frozen = 0;
}

static const gr_lora_pair *pair_of(const gr_lora *s, const gr_site *site) {
    const int at = s->pair_of_site[site->index];
    return at >= 0 && s->pairs[at].r > 0 ? &s->pairs[at] : NULL;
}

/* Each product is met at the first of its sites that has a pair. */
static bool is_first(const gr_lora *s, const gr_linear *l, const gr_site *site) {
    for (int i = 0; i < l->n_parts; i++)
        if (pair_of(s, l->site[i])) return l->site[i] == site;
    return false;
}

/* The pairs of a product; their number. */
static int pairs_of(const gr_adapter *a, const gr_linear *l, gr_low_rank_pair pairs[GR_LOW_RANK_PAIRS]) {
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
    return n;
}

/* Goes through the products that have factors: adds up what they take, or, where there is memory, makes them ready in it. */
static graft_status freeze_all(gr_adapter *a, char *memory, size_t *bytes, graft_error *err) {
    gr_lora *s = a->state;
    gr_device *d = gr_model_device(a->model);
    const gr_dtype dt = gr_model_dtype(a->model);
    *bytes = 0;
    for (size_t i = 0; i < s->n_pairs; i++) {
        const gr_site *site = s->pairs[i].site;
        const gr_linear *l = site->role == GR_ROLE_HEAD ? NULL : gr_model_linear(a->model, site);
        gr_low_rank_pair pairs[GR_LOW_RANK_PAIRS];
        size_t more;
        if (!l || !is_first(s, l, site)) continue;
        const int n = pairs_of(a, l, pairs);
        GR_TRY(gr_low_rank_planned_bytes(d, dt, l->in, n, pairs, &more, err));
        if (memory) {
            gr_low_rank **to = &s->frozen[l->site[0]->index];
            GR_TRY(gr_low_rank_new(d, dt, l->in, n, pairs, memory + *bytes, to, err));
            a->bytes += gr_low_rank_bytes(*to);
        }
        if (__builtin_add_overflow(*bytes, more, bytes)) return gr_fail_memory(err);
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
    size_t bytes;
    char *memory = NULL;
    graft_status st = freeze_all(a, NULL, &bytes, err);
    if (st == GRAFT_OK && !(memory = gr_alloc_huge(a->a, bytes, &s->frozen_memory))) st = gr_fail_memory(err);
    if (st == GRAFT_OK) st = freeze_all(a, memory, &bytes, err);
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
