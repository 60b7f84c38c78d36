/* The source side of a pass over an encoder-decoder: rows of the source batch through the encoder's layers, and what
 * the targets see of it. */
#include "model/pass.h"

gr_run *gr_pass_run_source(gr_pass *p) { return &p->source; }
gr_var *gr_pass_encoded(gr_pass *p) { return p->encoded; }

void gr_pass_source_attention(gr_pass *p, gr_nn_attention *a) { a->seqs = p->source_seqs; }

/* Keys and values of a source that are read as they are kept. */
static const gr_kv *kept_of(const gr_batch *source, int r) {
    return source->kv && source->kv[r] && source->kv[r]->whole ? source->kv[r] : NULL;
}

/* Whether what targets see differs from layer to layer. */
static bool cross_differs(const gr_batch *b) { return b->source_kv || (b->source && b->source->kv); }

void gr_pass_cross_attention(gr_pass *p, const gr_run *run, int layer, gr_nn_attention *a) {
    size_t n = (size_t)p->batch->n_seqs;
    if (run == &p->wanted)
        a->seqs = p->cross_wanted; /* of the last layer */
    else
        a->seqs = p->cross_seqs + (cross_differs(p->batch) ? (size_t)layer * n : 0);
}

/* --- Who sees what ------------------------------------------------------------------------------------------------------- */

/* Sequences of the source that belong together: r and those that continue it. */
static int family_of(const gr_batch *source, int r) {
    int n = 1;
    while (r + n < source->n_seqs && source->parent && source->parent[r + n] >= 0) n++;
    return n;
}

static graft_status check_source(const gr_batch *s, graft_error *err) {
    for (int i = 0; i < s->n_seqs; i++) {
        if (s->parent && s->parent[i] >= 0 && s->parent[i] != i - 1)
            return gr_fail(err, GRAFT_ERR_ARGUMENT,
                           "source sequence %d continues sequence %d, expected the one before it", i, s->parent[i]);
        if (s->blind && s->blind[i]) return gr_fail(err, GRAFT_ERR_ARGUMENT, "source sequence %d is blind", i);
    }
    if (s->source || s->source_kv) return gr_fail(err, GRAFT_ERR_ARGUMENT, "a source cannot read a source of its own");
    return GRAFT_OK;
}

/* The sequence of the source that target s reads; -1: a kept one. */
static int read_by(const gr_batch *b, int s) {
    if (b->source_kv && b->source_kv[s]) return -1;
    return b->reads ? b->reads[s] : s;
}

static graft_status check_reads(const gr_batch *b, int n_kv_layers, graft_error *err) {
    const gr_batch *from = b->source;
    for (int s = 0; s < b->n_seqs; s++) {
        int r = read_by(b, s);
        if (r < 0 && b->source_kv && b->source_kv[s]) {
            if (b->source_kv[s]->n_layers != n_kv_layers)
                return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d: its source has %d layers, the decoder %d", s,
                               b->source_kv[s]->n_layers, n_kv_layers);
            continue;
        }
        if (!from || r < 0 || r >= from->n_seqs || (from->parent && from->parent[r] >= 0))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d reads no source, but the model is an encoder-decoder",
                           s);
        if (gr_batch_adapter(from, r) != gr_batch_adapter(b, s))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d has adapter %d, its source %d", s,
                           gr_batch_adapter(b, s), gr_batch_adapter(from, r));
    }
    return GRAFT_OK;
}

/* Both ways: every sequence sees its whole family. */
static graft_status fill_source_seqs(gr_pass *p, graft_error *err) {
    const gr_batch *b = p->batch->source;
    size_t n = (size_t)b->n_seqs;
    gr_kv_rows *rows;
    GR_TRY(gr_pass_reserve(p, GR_PASS_SOURCE_ROWS, n * sizeof *rows, (void **)&rows, err));
    GR_TRY(gr_pass_reserve(p, GR_PASS_SOURCE_SEQS, n * sizeof *p->source_seqs, (void **)&p->source_seqs, err));
    p->source_rows = rows;
    for (int r = 0, members; r < b->n_seqs; r += members) {
        members = family_of(b, r);
        int64_t end = 0;
        for (int i = r; i < r + members; i++) {
            int64_t begin = b->bounds[i], len = b->bounds[i + 1] - begin, pos = b->seq_start ? b->seq_start[i] : end;
            if (pos < 0 || pos + len > INT32_MAX)
                return gr_fail(err, GRAFT_ERR_LIMIT, "source sequence %d begins at place %lld", i, (long long)pos);
            rows[i] = (gr_kv_rows){.begin = begin, .n = len, .pos = pos};
            p->source_seqs[i] = (gr_attention_rows){.q_begin = begin, .q_len = len, .q_pos = pos, .n_rows = members,
                                                    .rows = &rows[r]};
            end = pos + len;
        }
    }
    return GRAFT_OK;
}

static void fill_cross(const gr_pass *p, const int32_t *bounds, size_t layer, gr_attention_rows *out) {
    const gr_batch *b = p->batch;
    for (int s = 0; s < b->n_seqs; s++) {
        gr_attention_rows *a = &out[s];
        int r = read_by(b, s);
        const gr_kv *kv = r < 0 ? b->source_kv[s] : kept_of(b->source, r);
        *a = (gr_attention_rows){.q_begin = bounds[s], .q_len = bounds[s + 1] - bounds[s]};
        if (kv) {
            a->n_history = kv->layers[layer].n_segments;
            a->history = kv->layers[layer].segments;
        } else {
            a->n_rows = family_of(b->source, r);
            a->rows = &p->source_rows[r];
        }
    }
}

static graft_status fill_cross_seqs(gr_pass *p, int n_kv_layers, graft_error *err) {
    const gr_batch *b = p->batch;
    size_t n = (size_t)b->n_seqs, layers = cross_differs(b) ? (size_t)n_kv_layers : 1;
    GR_TRY(
        gr_pass_reserve(p, GR_PASS_CROSS_SEQS, (layers + 1) * n * sizeof *p->cross_seqs, (void **)&p->cross_seqs, err));
    p->cross_wanted = p->cross_seqs + layers * n;
    for (size_t l = 0; l < layers; l++) fill_cross(p, b->bounds, l, p->cross_seqs + l * n);
    fill_cross(p, gr_pass_run_wanted(p)->bounds, (size_t)n_kv_layers - 1, p->cross_wanted);
    return GRAFT_OK;
}

/* The decoder's inputs are the source moved by one. */
graft_status gr_pass_read_twice(gr_pass *p, const gr_batch **batch, graft_error *err) {
    const gr_model_config *c = &p->model->config;
    const gr_batch *b = *batch;
    gr_batch *target = &p->twice[0], *source = &p->twice[1];
    bool dry = gr_tape_is_dry(p->tape);
    int32_t *ids;
    if (c->task != GR_TASK_SEQ_CLS || !c->n_encoder_layers || b->source || b->source_kv) return GRAFT_OK;
    if (b->parent || b->kv || b->blind || b->seq_start || b->reads)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "a classifier with an encoder reads whole sequences");
    GR_TRY(gr_batch_check(b, -1, gr_model_kv_layers(p->model), INT32_MAX, err));
    *source = *b;
    source->labels = NULL;
    source->targets = NULL;
    *target = *b;
    target->source = source;
    *batch = target;
    if (dry || !b->ids) return GRAFT_OK;
    GR_TRY(gr_pass_reserve(p, GR_PASS_MOVED_IDS, (size_t)b->n_tokens * sizeof *ids, (void **)&ids, err));
    for (int s = 0; s < b->n_seqs; s++)
        for (int32_t i = b->bounds[s]; i < b->bounds[s + 1]; i++)
            ids[i] = i > b->bounds[s] ? b->ids[i - 1] : (int32_t)c->decoder_start_token_id;
    target->ids = ids;
    return GRAFT_OK;
}

graft_status gr_pass_begin_source(gr_pass *p, int n_adapters, graft_error *err) {
    const gr_model_config *c = &p->model->config;
    const gr_batch *b = p->batch, *from = b->source;
    int n_kv_layers = c->n_layers - c->n_encoder_layers;
    p->encoded = NULL;
    if (!c->n_encoder_layers) {
        if (from || b->reads || b->source_kv)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "the batch has a source, but the model has no encoder");
        return GRAFT_OK;
    }
    if (from) {
        bool dry = gr_tape_is_dry(p->tape);
        GR_TRY(gr_batch_check(from, dry ? -1 : c->vocab_size, n_kv_layers, n_adapters, err));
        GR_TRY(check_source(from, err));
    }
    GR_TRY(check_reads(b, n_kv_layers, err));
    p->source = (gr_run){.tape = p->tape, .batch = from, .hooks = p->options.hooks, .is_source = true};
    if (from) {
        p->source.n_rows = from->n_tokens;
        p->source.bounds = from->bounds;
        p->source.dropout_key = from->dropout_key;
        GR_TRY(gr_pass_fill_adapters(p, &p->source, GR_PASS_SOURCE_ADAPTERS, GR_PASS_SOURCE_RANGES, &p->source_adapters,
                                     err));
        GR_TRY(gr_pass_fill_virtual(p, &p->source, p->source_adapters, GR_PASS_SOURCE_OWN_ROWS, err));
        GR_TRY(gr_pass_fill_ids(p, &p->source, GR_PASS_SOURCE_IDS, true, err));
        GR_TRY(fill_source_seqs(p, err));
    }
    return fill_cross_seqs(p, n_kv_layers, err);
}
