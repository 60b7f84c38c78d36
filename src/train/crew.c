/* Micro-batches are filled with sequences of one item after the other, in order, up to a number of tokens. */
#include "train/crew.h"

#include <math.h>

struct gr_crew {
    const graft_allocator *a;
    gr_adapter_set *set;
    gr_pool *pool;
    gr_tape *tape;
    gr_pass *pass;
    size_t max_tokens;
    gr_recompute recompute;
    /* Of the micro-batch in flight. */
    int32_t *bounds, *adapter, *ids, *labels, *source_bounds, *source_ids;
    gr_batch source;
    size_t *item;      /* of each sequence */
    uint32_t *example; /* of each sequence */
    float *weight;
    uint64_t *key, *source_key;
    size_t source_bounds_cap, source_ids_cap, source_key_cap;
    size_t bounds_cap, adapter_cap, ids_cap, labels_cap, item_cap, example_cap, weight_cap, key_cap;
};

/* Where the next micro-batch begins: sequence s of item i. */
typedef struct place {
    size_t i, s;
} place;

graft_status gr_crew_new(gr_adapter_set *set, gr_pool *pool, size_t max_tokens, gr_recompute recompute, gr_crew **out,
                         graft_error *err) {
    gr_model *m = gr_adapter_set_model(set);
    const graft_allocator *a = gr_allocator(gr_model_context(m));
    gr_crew *c = gr_calloc(a, 1, sizeof *c);
    if (!c) return gr_fail_memory(err);
    *c = (gr_crew){.a = a, .set = set, .pool = pool, .max_tokens = max_tokens, .recompute = recompute};
    const gr_tape_options o = {.record = true, .recompute_cheap = recompute != GR_RECOMPUTE_NOTHING};
    graft_status st = gr_pass_new(m, &c->pass, err);
    if (st == GRAFT_OK) st = gr_tape_new(gr_model_device(m), pool, &o, &c->tape, err);
    if (st != GRAFT_OK) {
        gr_crew_free(c);
        return st;
    }
    *out = c;
    return GRAFT_OK;
}

void gr_crew_free(gr_crew *c) {
    if (!c) return;
    gr_tape_free(c->tape);
    gr_pass_free(c->pass);
    gr_free(c->a, c->bounds);
    gr_free(c->a, c->adapter);
    gr_free(c->a, c->ids);
    gr_free(c->a, c->source_bounds);
    gr_free(c->a, c->source_ids);
    gr_free(c->a, c->source_key);
    gr_free(c->a, c->labels);
    gr_free(c->a, c->item);
    gr_free(c->a, c->example);
    gr_free(c->a, c->weight);
    gr_free(c->a, c->key);
    gr_free(c->a, c);
}

static size_t seq_tokens(const gr_data_batch *b, size_t s) { return (size_t)(b->bounds[s + 1] - b->bounds[s]); }

/* One step on from sequence p->s, over items that have none left. False at the end. */
static bool settle(const gr_crew_item *items, size_t n, place *p) {
    while (p->i < n && p->s >= items[p->i].batch->n_seqs) *p = (place){p->i + 1, 0};
    return p->i < n;
}

/* Sequences, and tokens of both sides, of the micro-batch that begins at `from`; at least one sequence. */
static place micro_end(const gr_crew *c, const gr_crew_item *items, size_t n, place from, size_t *n_seqs, size_t *n_tokens) {
    place p = from;
    *n_seqs = *n_tokens = 0;
    while (settle(items, n, &p)) {
        size_t tokens = gr_data_batch_tokens(items[p.i].batch, p.s, p.s + 1);
        if (*n_seqs && *n_tokens + tokens > c->max_tokens) break;
        *n_tokens += tokens;
        ++*n_seqs;
        p.s++;
    }
    return p;
}

static graft_status grow(gr_crew *c, size_t n_seqs, size_t n_tokens, graft_error *err) {
    GR_TRY(gr_grow(c->a, (void **)&c->bounds, &c->bounds_cap, n_seqs + 1, sizeof *c->bounds, err));
    GR_TRY(gr_grow(c->a, (void **)&c->adapter, &c->adapter_cap, n_seqs, sizeof *c->adapter, err));
    GR_TRY(gr_grow(c->a, (void **)&c->item, &c->item_cap, n_seqs, sizeof *c->item, err));
    GR_TRY(gr_grow(c->a, (void **)&c->example, &c->example_cap, n_seqs, sizeof *c->example, err));
    GR_TRY(gr_grow(c->a, (void **)&c->ids, &c->ids_cap, n_tokens, sizeof *c->ids, err));
    GR_TRY(gr_grow(c->a, (void **)&c->labels, &c->labels_cap, n_tokens, sizeof *c->labels, err));
    GR_TRY(gr_grow(c->a, (void **)&c->weight, &c->weight_cap, n_tokens, sizeof *c->weight, err));
    return gr_grow(c->a, (void **)&c->key, &c->key_cap, n_tokens, sizeof *c->key, err);
}

/* The source of sequence s of an item behind the k that are there. */
static graft_status add_source(gr_crew *c, const gr_crew_item *x, size_t s, size_t k, graft_error *err) {
    const gr_data_batch *b = x->batch;
    size_t at = k ? (size_t)c->source_bounds[k] : 0, tokens = (size_t)(b->source_bounds[s + 1] - b->source_bounds[s]);
    uint64_t record = gr_engine_record_key(x->seed, x->step, b->examples[s]);
    GR_TRY(gr_grow(c->a, (void **)&c->source_bounds, &c->source_bounds_cap, k + 2, sizeof *c->source_bounds, err));
    GR_TRY(gr_grow(c->a, (void **)&c->source_ids, &c->source_ids_cap, at + tokens, sizeof *c->source_ids, err));
    GR_TRY(gr_grow(c->a, (void **)&c->source_key, &c->source_key_cap, at + tokens, sizeof *c->source_key, err));
    memcpy(c->source_ids + at, b->source_ids + b->source_bounds[s], tokens * sizeof *c->source_ids);
    for (size_t i = 0; i < tokens; i++) c->source_key[at + i] = gr_engine_token_key(record, (int32_t)i);
    c->source_bounds[0] = 0;
    c->source_bounds[k + 1] = (int32_t)(at + tokens);
    return GRAFT_OK;
}

static graft_status cut(gr_crew *c, const gr_crew_item *items, size_t n, place from, size_t n_seqs, size_t n_tokens, gr_batch *out,
                        graft_error *err) {
    GR_TRY(grow(c, n_seqs, n_tokens, err));
    int32_t at = 0;
    place p = from;
    for (size_t k = 0; k < n_seqs; k++, p.s++) {
        settle(items, n, &p);
        const gr_crew_item *x = &items[p.i];
        const gr_data_batch *b = x->batch;
        size_t tokens = seq_tokens(b, p.s);
        float weight = (float)(1.0 / (double)GR_MAX(b->n_labels, (size_t)1));
        uint64_t record = gr_engine_record_key(x->seed, x->step, b->examples[p.s]);
        memcpy(c->ids + at, b->ids + b->bounds[p.s], tokens * sizeof *c->ids);
        memcpy(c->labels + at, b->labels + b->bounds[p.s], tokens * sizeof *c->labels);
        for (size_t i = 0; i < tokens; i++) {
            c->weight[at + (int32_t)i] = weight;
            c->key[at + (int32_t)i] = gr_engine_token_key(record, (int32_t)i);
        }
        c->bounds[k] = at;
        c->adapter[k] = x->adapter;
        c->item[k] = p.i;
        c->example[k] = b->examples[p.s];
        at += (int32_t)tokens;
        if (b->source_bounds) GR_TRY(add_source(c, x, p.s, k, err));
    }
    c->bounds[n_seqs] = at;
    *out = (gr_batch){.n_tokens = at, .n_seqs = (int)n_seqs, .bounds = c->bounds, .ids = c->ids, .adapter = c->adapter,
                      .labels = c->labels, .weight = c->weight, .training = true, .dropout_key = c->key};
    if (!items[from.i].batch->source_bounds) return GRAFT_OK;
    c->source = (gr_batch){.n_tokens = c->source_bounds[n_seqs], .n_seqs = (int)n_seqs, .bounds = c->source_bounds,
                           .ids = c->source_ids, .adapter = c->adapter, .training = true, .dropout_key = c->source_key};
    out->source = &c->source;
    return GRAFT_OK;
}

/* Rows ascend, and with them the sequences of each item. */
static void count(const gr_crew *c, gr_crew_item *items, const gr_batch *b, const gr_loss *loss) {
    int s = 0;
    for (int64_t i = 0; i < loss->n_rows; i++) {
        while (loss->rows[i] >= b->bounds[s + 1]) s++;
        gr_crew_item *x = &items[c->item[s]];
        if (!isfinite(loss->losses[i]) && x->status == GRAFT_OK) {
            x->status = GRAFT_ERR_NUMERIC;
            x->bad_example = c->example[s];
            x->bad_loss = loss->losses[i];
        }
        x->tally->loss += loss->losses[i];
        x->tally->n_labels++;
        x->tally->n_correct += loss->correct[i] != 0;
    }
    for (s = 0; s < b->n_seqs; s++) {
        gr_tally *t = items[c->item[s]].tally;
        for (int32_t i = b->bounds[s]; i < b->bounds[s + 1]; i++) t->n_tokens += b->ids[i] >= 0;
        for (int32_t i = b->source ? b->source->bounds[s] : 0; b->source && i < b->source->bounds[s + 1]; i++)
            t->n_tokens += b->source->ids[i] >= 0;
        t->n_seqs++;
    }
}

static gr_pass_options pass_options(const gr_crew *c) {
    return (gr_pass_options){.hooks = gr_adapter_set_hooks(c->set),
                             .recompute = c->recompute == GR_RECOMPUTE_LAYERS,
                             .recompute_cheap = c->recompute != GR_RECOMPUTE_NOTHING};
}

static graft_status run(gr_crew *c, gr_crew_item *items, const gr_batch *b, graft_error *err) {
    const gr_pass_options po = pass_options(c);
    gr_loss loss = {0};
    GR_TRY(gr_check_cancel(gr_model_context(gr_adapter_set_model(c->set)), err));
    graft_status st = gr_pass_loss(c->pass, c->tape, b, &po, &loss, err);
    if (st == GRAFT_OK) {
        count(c, items, b, &loss);
        st = gr_tape_backward(c->tape, loss.var, NULL, err);
    }
    gr_loss_drop(&loss);
    gr_tape_reset(c->tape);
    return st;
}

graft_status gr_crew_train(gr_crew *c, gr_crew_item *items, size_t n, graft_error *err) {
    for (size_t i = 0; i < n; i++) {
        items[i].status = GRAFT_OK;
        GR_TRY(gr_adapter_refresh(c->set, items[i].adapter, gr_engine_adapter_key(items[i].seed, items[i].step), true, err));
    }
    place p = {0, 0};
    while (settle(items, n, &p)) {
        size_t n_seqs, n_tokens;
        gr_batch b;
        place end = micro_end(c, items, n, p, &n_seqs, &n_tokens);
        GR_TRY(cut(c, items, n, p, n_seqs, n_tokens, &b, err));
        GR_TRY(run(c, items, &b, err));
        p = end;
    }
    for (size_t i = 0; i < n; i++) GR_TRY(gr_adapter_collect(c->set, items[i].adapter, err));
    return GRAFT_OK;
}

graft_status gr_crew_plan(gr_crew *c, const gr_crew_item *items, size_t n, size_t *pool_bytes, graft_error *err) {
    const gr_pass_options po = pass_options(c);
    size_t largest = 0, n_seqs, n_tokens;
    *pool_bytes = 0;
    for (place p = {0, 0}; settle(items, n, &p);) {
        p = micro_end(c, items, n, p, &n_seqs, &n_tokens);
        largest = GR_MAX(largest, n_tokens);
    }
    for (place p = {0, 0}, end; settle(items, n, &p); p = end) {
        gr_batch b;
        size_t bytes;
        end = micro_end(c, items, n, p, &n_seqs, &n_tokens);
        if (n_tokens < largest - largest / 4) continue;
        GR_TRY(cut(c, items, n, p, n_seqs, n_tokens, &b, err));
        GR_TRY(gr_pass_plan(c->pass, &b, &po, true, &bytes, err));
        *pool_bytes = GR_MAX(*pool_bytes, bytes);
    }
    return GRAFT_OK;
}
