#include <math.h>

#include "train/engine.h"

struct gr_engine {
    const graft_allocator *a;
    gr_model *model;
    gr_engine_options o;
    gr_pool *pool;
    bool borrowed; /* the pool */
    gr_tape *tape, *eval_tape; /* recording and not, over one pool; made when first needed */
    gr_pass *pass;
    /* Of the micro-batch in flight. */
    int32_t *bounds, *source_bounds;
    float *weight;
    uint64_t *key, *source_key;
    gr_batch source;
    size_t bounds_cap, source_bounds_cap, weight_cap, key_cap, source_key_cap;
    gr_target_rows targets;
    uint32_t bad_example;
    /* With a trunk. */
    gr_pass *trunk_pass;
    char *hidden;      /* rows of the micro-batch */
    int32_t *part_ids, *part_types, *part_bounds; /* its sequences whose rows are missing */
    int32_t *trunk_key; /* of a sequence */
    int *missing;
    size_t hidden_cap, part_ids_cap, part_types_cap, part_bounds_cap, missing_cap, trunk_key_cap;
};

graft_status gr_engine_new(gr_model *m, const gr_engine_options *o, gr_engine **out, graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(m));
    gr_engine *e = gr_calloc(a, 1, sizeof *e);
    if (!e) return gr_fail_memory(err);
    *e = (gr_engine){.a = a, .model = m, .o = *o};
    graft_status st = gr_pass_new(m, &e->pass, err);
    if (st == GRAFT_OK && o->trunk) st = gr_pass_new(m, &e->trunk_pass, err);
    if (st != GRAFT_OK) {
        gr_engine_free(e);
        return st;
    }
    *out = e;
    return GRAFT_OK;
}

void gr_engine_free(gr_engine *e) {
    if (!e) return;
    gr_tape_free(e->tape);
    gr_tape_free(e->eval_tape);
    gr_pass_free(e->pass);
    gr_pass_free(e->trunk_pass);
    if (!e->borrowed) gr_pool_free(e->pool);
    gr_free(e->a, e->hidden);
    gr_free(e->a, e->part_ids);
    gr_free(e->a, e->part_types);
    gr_free(e->a, e->trunk_key);
    gr_free(e->a, e->part_bounds);
    gr_free(e->a, e->missing);
    gr_free(e->a, e->bounds);
    gr_free(e->a, e->source_bounds);
    gr_free(e->a, e->source_key);
    gr_free(e->a, e->weight);
    gr_free(e->a, e->key);
    gr_target_rows_free(&e->targets, e->a);
    gr_free(e->a, e);
}

void gr_engine_set_limits(gr_engine *e, size_t max_seqs, size_t max_tokens, gr_recompute recompute) {
    e->o.max_seqs = max_seqs;
    e->o.max_tokens = max_tokens;
    e->o.recompute = recompute;
}

uint32_t gr_engine_bad_example(const gr_engine *e) { return e->bad_example; }

void gr_engine_use_pool(gr_engine *e, gr_pool *pool) {
    e->pool = pool;
    e->borrowed = true;
}

graft_status gr_engine_reserve(gr_engine *e, size_t pool_bytes, graft_error *err) {
    if (e->pool) return GRAFT_OK;
    return gr_pool_new(e->a, pool_bytes, false, &e->pool, err);
}

static graft_status get_tape(gr_engine *e, bool record, gr_tape **out, graft_error *err) {
    GR_TRY(gr_engine_reserve(e, 0, err));
    gr_tape **tape = record ? &e->tape : &e->eval_tape;
    const gr_tape_options o = {.record = record, .recompute_cheap = e->o.recompute != GR_RECOMPUTE_NOTHING};
    if (!*tape) GR_TRY(gr_tape_new(gr_model_device(e->model), e->pool, &o, tape, err));
    *out = *tape;
    return GRAFT_OK;
}

/* Sequences [from, *end) of the batch make the next micro-batch: at least one, and no more than the limits allow. */
static size_t micro_end(const gr_engine *e, const gr_data_batch *b, size_t from) {
    size_t end = from + 1;
    while (end < b->n_seqs) {
        if (e->o.max_seqs && end - from >= e->o.max_seqs) break;
        if (e->o.max_tokens && gr_data_batch_tokens(b, from, end + 1) > e->o.max_tokens) break;
        end++;
    }
    return end;
}

size_t gr_engine_largest_micro(const gr_engine *e, const gr_data_batch *b, size_t *n_seqs) {
    size_t most = 0;
    if (n_seqs) *n_seqs = 0;
    for (size_t from = 0, end; from < b->n_seqs; from = end) {
        end = micro_end(e, b, from);
        most = GR_MAX(most, gr_data_batch_tokens(b, from, end));
        if (n_seqs) *n_seqs = GR_MAX(*n_seqs, end - from);
    }
    return most;
}

/* SplitMix64's finaliser (Steele et al. 2014): a bijection that leaves no pattern of neighbouring inputs. */
static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

uint64_t gr_engine_record_key(uint64_t seed, int64_t step, uint32_t example) { return mix(mix(mix(seed) + (uint64_t)step) + example); }
uint64_t gr_engine_token_key(uint64_t record_key, int32_t place) { return mix(record_key + (uint64_t)place); }
uint64_t gr_engine_adapter_key(uint64_t seed, int64_t step) { return mix(mix(seed) + (uint64_t)step) | 1; /* 0 would mean none */ }

/* Bounds that begin with 0, and keys of the tokens, for sequences [from, end). */
static void cut_side(const gr_engine *e, const gr_data_batch *b, const int32_t *all, size_t from, size_t end,
                     int64_t step, int32_t *bounds, uint64_t *key) {
    for (size_t s = 0; s <= end - from; s++) bounds[s] = all[from + s] - all[from];
    for (size_t s = 0; s < end - from; s++) {
        uint64_t record = gr_engine_record_key(e->o.seed, step, b->examples[from + s]);
        for (int32_t t = bounds[s]; t < bounds[s + 1]; t++) key[t] = gr_engine_token_key(record, t - bounds[s]);
    }
}

/* The sources of sequences [from, end) into e->source. */
static graft_status cut_sources(gr_engine *e, const gr_data_batch *b, size_t from, size_t end, int64_t step,
                                graft_error *err) {
    int32_t first = b->source_bounds[from];
    size_t n = end - from, n_tokens = (size_t)(b->source_bounds[end] - first);
    GR_TRY(gr_grow(e->a, (void **)&e->source_bounds, &e->source_bounds_cap, n + 1, sizeof *e->source_bounds, err));
    GR_TRY(gr_grow(e->a, (void **)&e->source_key, &e->source_key_cap, n_tokens, sizeof *e->source_key, err));
    cut_side(e, b, b->source_bounds, from, end, step, e->source_bounds, e->source_key);
    e->source = (gr_batch){.n_tokens = (int64_t)n_tokens,
                           .n_seqs = (int)n,
                           .bounds = e->source_bounds,
                           .ids = b->source_ids + first,
                           .one_adapter = e->o.adapter,
                           .dropout_key = e->source_key};
    return GRAFT_OK;
}

/* Fills `out` with sequences [from, end). */
static graft_status cut(gr_engine *e, const gr_data_batch *b, size_t from, size_t end, int64_t step, gr_batch *out,
                        graft_error *err) {
    int32_t first = b->bounds[from];
    size_t n = end - from, n_tokens = (size_t)(b->bounds[end] - first);
    GR_TRY(gr_grow(e->a, (void **)&e->bounds, &e->bounds_cap, n + 1, sizeof *e->bounds, err));
    GR_TRY(gr_grow(e->a, (void **)&e->weight, &e->weight_cap, n_tokens, sizeof *e->weight, err));
    GR_TRY(gr_grow(e->a, (void **)&e->key, &e->key_cap, n_tokens, sizeof *e->key, err));
    float weight = (float)(1.0 / (double)GR_MAX(b->n_labels, (size_t)1));
    for (size_t t = 0; t < n_tokens; t++) e->weight[t] = weight;
    cut_side(e, b, b->bounds, from, end, step, e->bounds, e->key);
    if (b->source_bounds) GR_TRY(cut_sources(e, b, from, end, step, err));
    *out = (gr_batch){.n_tokens = (int64_t)n_tokens,
                      .n_seqs = (int)n,
                      .bounds = e->bounds,
                      .ids = b->ids + first,
                      .one_adapter = e->o.adapter,
                      .labels = b->labels + first,
                      .weight = e->weight,
                      .source = b->source_bounds ? &e->source : NULL,
                      .training = true,
                      .dropout_key = e->key};
    return gr_target_rows_fill(&e->targets, e->a, e->model, b, from, out, err);
}

/* Adds one label after the other, so that the sum does not depend on where batches are cut. */
static graft_status count(gr_engine *e, const gr_data_batch *b, size_t from, const gr_batch *micro, const gr_loss *loss,
                          gr_tally *tally, graft_error *err) {
    for (int64_t i = 0; i < loss->n_rows; i++) {
        if (!isfinite(loss->losses[i])) {
            size_t s = 0;
            while (loss->rows[i] >= micro->bounds[s + 1]) s++;
            e->bad_example = b->examples[from + s];
            return gr_fail(err, GRAFT_ERR_NUMERIC, "the loss is %g", loss->losses[i]);
        }
        tally->loss += loss->losses[i];
    }
    if (loss->logits && tally->classes) gr_target_rows_count(&e->targets, loss, tally->classes);
    tally->n_labels += loss->n_labels;
    tally->n_correct += loss->n_correct;
    for (int64_t i = 0; i < micro->n_tokens; i++) tally->n_tokens += micro->ids[i] >= 0; /* the records' own */
    for (int64_t i = 0; micro->source && i < micro->source->n_tokens; i++) tally->n_tokens += micro->source->ids[i] >= 0;
    tally->n_seqs += micro->n_seqs;
    return GRAFT_OK;
}

/* --- The trunk ------------------------------------------------------------------------------------------------------- */

static size_t hidden_row_bytes(const gr_engine *e) {
    return gr_dtype_bytes(gr_model_dtype(e->model), (size_t)gr_model_get_config(e->model)->hidden_size);
}

/* Tokens of sequence s, and their types where there are some: what its rows follow from. */
static graft_status find_key(gr_engine *e, const gr_batch *b, int s, size_t *n, graft_error *err) {
    const size_t tokens = (size_t)(b->bounds[s + 1] - b->bounds[s]);
    *n = b->token_types ? 2 * tokens : tokens;
    GR_TRY(gr_grow(e->a, (void **)&e->trunk_key, &e->trunk_key_cap, *n, sizeof *e->trunk_key, err));
    memcpy(e->trunk_key, b->ids + b->bounds[s], tokens * sizeof *b->ids);
    if (b->token_types) memcpy(e->trunk_key + tokens, b->token_types + b->bounds[s], tokens * sizeof *b->token_types);
    return GRAFT_OK;
}

/* The batch of the sequences whose rows are not kept. */
static graft_status collect_missing(gr_engine *e, const gr_batch *b, gr_batch *out, graft_error *err) {
    size_t row = hidden_row_bytes(e), n = 0;
    GR_TRY(gr_grow(e->a, (void **)&e->hidden, &e->hidden_cap, (size_t)b->n_tokens * row, 1, err));
    GR_TRY(gr_grow(e->a, (void **)&e->part_ids, &e->part_ids_cap, (size_t)b->n_tokens, sizeof *e->part_ids, err));
    GR_TRY(gr_grow(e->a, (void **)&e->part_types, &e->part_types_cap, (size_t)b->n_tokens, sizeof *e->part_types, err));
    GR_TRY(gr_grow(e->a, (void **)&e->part_bounds, &e->part_bounds_cap, (size_t)b->n_seqs + 1, sizeof *e->part_bounds, err));
    GR_TRY(gr_grow(e->a, (void **)&e->missing, &e->missing_cap, (size_t)b->n_seqs, sizeof *e->missing, err));
    e->part_bounds[0] = 0;
    for (int s = 0; s < b->n_seqs; s++) {
        const int32_t *ids = b->ids + b->bounds[s];
        size_t tokens = (size_t)(b->bounds[s + 1] - b->bounds[s]), n_key;
        GR_TRY(find_key(e, b, s, &n_key, err));
        const void *rows = gr_trunk_find(e->o.trunk, e->trunk_key, n_key);
        if (rows) {
            memcpy(e->hidden + (size_t)b->bounds[s] * row, rows, tokens * row);
            continue;
        }
        memcpy(e->part_ids + e->part_bounds[n], ids, tokens * sizeof *ids);
        if (b->token_types)
            memcpy(e->part_types + e->part_bounds[n], b->token_types + b->bounds[s], tokens * sizeof *e->part_types);
        e->part_bounds[n + 1] = e->part_bounds[n] + (int32_t)tokens;
        e->missing[n++] = s;
    }
    *out = (gr_batch){.n_tokens = e->part_bounds[n], .n_seqs = (int)n, .bounds = e->part_bounds, .ids = e->part_ids,
                      .token_types = b->token_types ? e->part_types : NULL, .one_adapter = e->o.adapter};
    return GRAFT_OK;
}

/* Fills e->hidden with what enters the trunk's upper end. */
static graft_status fill_hidden(gr_engine *e, const gr_batch *b, graft_error *err) {
    const gr_pass_options po = {.hooks = e->o.hooks};
    size_t row = hidden_row_bytes(e);
    gr_batch part;
    gr_tape *tape;
    gr_var *x = NULL;
    GR_TRY(collect_missing(e, b, &part, err));
    if (!part.n_seqs) return GRAFT_OK;
    GR_TRY(get_tape(e, false, &tape, err));
    graft_status st = gr_pass_trunk(e->trunk_pass, tape, &part, &po, e->o.trunk_layer, &x, err);
    for (int i = 0; st == GRAFT_OK && i < part.n_seqs; i++) {
        int s = e->missing[i];
        size_t tokens = (size_t)(b->bounds[s + 1] - b->bounds[s]), n_key;
        const char *rows = (const char *)gr_var_array(x)->data + (size_t)part.bounds[i] * row;
        memcpy(e->hidden + (size_t)b->bounds[s] * row, rows, tokens * row);
        st = find_key(e, b, s, &n_key, err);
        if (st == GRAFT_OK) st = gr_trunk_add(e->o.trunk, e->trunk_key, n_key, rows, tokens, err);
    }
    gr_var_drop(x);
    gr_tape_reset(tape);
    return st;
}

static graft_status plan_trunk(gr_engine *e, const gr_batch *micro, size_t *bytes, graft_error *err) {
    const gr_pass_options po = {.hooks = e->o.hooks};
    size_t below;
    GR_TRY(gr_pass_plan_trunk(e->trunk_pass, micro, &po, e->o.trunk_layer, &below, err));
    *bytes = GR_MAX(*bytes, below) + (size_t)micro->n_tokens * hidden_row_bytes(e);
    return GRAFT_OK;
}

/* --- Batches ----------------------------------------------------------------------------------------------------------- */

static graft_status run(gr_engine *e, const gr_data_batch *b, int64_t step, bool train, gr_tally *tally,
                        graft_error *err) {
    gr_tape *tape;
    GR_TRY(get_tape(e, train, &tape, err));
    gr_pass_options po = {.hooks = e->o.hooks, .recompute = train && e->o.recompute == GR_RECOMPUTE_LAYERS};
    for (size_t from = 0, end; from < b->n_seqs; from = end) {
        gr_batch micro;
        gr_loss loss = {0};
        end = micro_end(e, b, from);
        GR_TRY(gr_check_cancel(gr_model_context(e->model), err));
        GR_TRY(cut(e, b, from, end, step, &micro, err));
        micro.training = e->source.training = train;
        if (e->o.trunk) {
            GR_TRY(fill_hidden(e, &micro, err));
            po.first_layer = e->o.trunk_layer;
            po.hidden = e->hidden;
        }
        graft_status st = gr_pass_loss(e->pass, tape, &micro, &po, &loss, err);
        if (st == GRAFT_OK) st = count(e, b, from, &micro, &loss, tally, err);
        if (st == GRAFT_OK && train) st = gr_tape_backward(tape, loss.var, NULL, err);
        gr_loss_drop(&loss);
        gr_tape_reset(tape);
        GR_TRY(st);
    }
    return GRAFT_OK;
}

graft_status gr_engine_train(gr_engine *e, const gr_data_batch *b, int64_t step, gr_tally *tally, graft_error *err) {
    GR_TRY(gr_engine_reserve(e, 0, err));
    if (e->o.set) GR_TRY(gr_adapter_refresh(e->o.set, e->o.adapter, gr_engine_adapter_key(e->o.seed, step), true, err));
    GR_TRY(run(e, b, step, true, tally, err));
    return e->o.set ? gr_adapter_collect(e->o.set, e->o.adapter, err) : GRAFT_OK;
}

graft_status gr_engine_eval(gr_engine *e, const gr_data_batch *b, gr_tally *tally, graft_error *err) {
    if (e->o.set) GR_TRY(gr_adapter_refresh(e->o.set, e->o.adapter, 0, false, err));
    return run(e, b, 0, false, tally, err);
}

graft_status gr_engine_plan(gr_engine *e, const gr_data_batch *b, bool backward, size_t *pool_bytes, graft_error *err) {
    const gr_pass_options po = {.hooks = e->o.hooks,
                                .recompute = backward && e->o.recompute == GR_RECOMPUTE_LAYERS,
                                .recompute_cheap = e->o.recompute != GR_RECOMPUTE_NOTHING,
                                .first_layer = e->o.trunk ? e->o.trunk_layer : 0,
                                .hidden = e->o.trunk ? e : NULL /* a mark: a plan touches no data */};
    size_t peak = 0, largest = gr_engine_largest_micro(e, b, NULL);
    for (size_t from = 0, end; from < b->n_seqs; from = end) {
        gr_batch micro;
        size_t bytes;
        end = micro_end(e, b, from);
        if (gr_data_batch_tokens(b, from, end) < largest - largest / 4) continue;
        GR_TRY(cut(e, b, from, end, 0, &micro, err));
        micro.training = backward;
        GR_TRY(gr_pass_plan(e->pass, &micro, &po, backward, &bytes, err));
        if (e->o.trunk) GR_TRY(plan_trunk(e, &micro, &bytes, err));
        peak = GR_MAX(peak, bytes);
    }
    *pool_bytes = peak;
    return GRAFT_OK;
}
