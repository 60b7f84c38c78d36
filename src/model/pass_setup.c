/* What a pass knows of its batch before it runs: positions and angles, who attends to what, which rows are wanted and
 * whose adapters they have. */
#include "model/pass.h"

graft_status gr_pass_new(gr_model *m, gr_pass **out, graft_error *err) {
    int half = m->config.head_dim / 2, layers = m->config.n_layers;
    gr_pass *p = gr_calloc(m->a, 1, sizeof *p);
    if (!p) return gr_fail_memory(err);
    p->model = m;
    p->calls = gr_calloc(m->a, (size_t)layers, sizeof *p->calls);
    p->inv_freq = gr_calloc(m->a, (size_t)half + 1, sizeof *p->inv_freq);
    if (!p->calls || !p->inv_freq) {
        gr_pass_free(p);
        return gr_fail_memory(err);
    }
    for (int l = 0; l < layers; l++) p->calls[l] = (gr_layer_call){p, l};
    *out = p;
    return GRAFT_OK;
}

void gr_pass_free(gr_pass *p) {
    if (!p) return;
    const graft_allocator *a = p->model->a;
    for (int i = 0; i < GR_PASS_ARRAYS; i++) gr_free_aligned(a, p->arrays[i].data);
    gr_free(a, p->calls);
    gr_free(a, p->inv_freq);
    gr_free(a, p);
}

size_t gr_pass_bytes(const gr_pass *p) {
    size_t bytes = 0;
    for (int i = 0; i < GR_PASS_ARRAYS; i++) bytes += p->arrays[i].bytes;
    return bytes;
}

graft_status gr_pass_reserve(gr_pass *p, gr_pass_array which, size_t bytes, void **out, graft_error *err) {
    if (!p->arrays[which].data || p->arrays[which].bytes < bytes) {
        void *data = gr_alloc_aligned(p->model->a, bytes);
        if (!data) return gr_fail_memory(err);
        gr_free_aligned(p->model->a, p->arrays[which].data);
        p->arrays[which].data = data;
        p->arrays[which].bytes = bytes;
    }
    *out = p->arrays[which].data;
    return GRAFT_OK;
}

const gr_model *gr_pass_model(const gr_pass *p) { return p->model; }
const gr_modules *gr_pass_modules(const gr_pass *p) { return p->modules; }
gr_run *gr_pass_run_all(gr_pass *p) { return &p->all; }
gr_run *gr_pass_run_wanted(gr_pass *p) { return p->all_wanted ? &p->all : &p->wanted; }
const int32_t *gr_pass_positions(const gr_pass *p) { return p->positions; }

graft_status gr_pass_check_positions(const gr_pass *p, int64_t n, graft_error *err) {
    const gr_batch *b = p->batch;
    for (int s = 0; s < b->n_seqs; s++)
        for (int32_t i = b->bounds[s]; i < b->bounds[s + 1]; i++)
            if (p->positions[i] < 0 || p->positions[i] >= n)
                return gr_fail(err, GRAFT_ERR_LIMIT, "sequence %d has a token at position %d, but the model knows positions 0 to %lld",
                               s, p->positions[i], (long long)n - 1);
    return GRAFT_OK;
}

graft_status gr_pass_token_types(gr_pass *p, const int32_t **out, graft_error *err) {
    const gr_batch *b = p->batch;
    int32_t *types;
    *out = b->token_types;
    if (*out) return GRAFT_OK;
    GR_TRY(gr_pass_reserve(p, GR_PASS_TOKEN_TYPES, (size_t)b->n_tokens * sizeof *types, (void **)&types, err));
    memset(types, 0, (size_t)b->n_tokens * sizeof *types);
    *out = types;
    return GRAFT_OK;
}

void gr_pass_use(gr_pass *p, gr_run *run) { gr_tape_set_groups(p->tape, run->batch->n_seqs, run->bounds); }

graft_status gr_pass_gather(gr_pass *p, gr_var **x, graft_error *err) {
    if (p->all_wanted) return GRAFT_OK;
    gr_gather_rows_params params = {.n = p->wanted.n_rows, .rows = p->wanted.token};
    gr_var *y;
    GR_TRY(gr_tape_apply(p->tape, &gr_op_gather_rows, x, 1, &params, &y, err));
    gr_var_drop(*x);
    *x = y;
    return GRAFT_OK;
}

void gr_pass_attention(gr_pass *p, int layer, gr_nn_attention *a) {
    size_t at = p->per_layer ? (size_t)layer * (size_t)p->batch->n_seqs : 0;
    a->seqs = p->seqs + at;
    a->cos_sin = p->model->config.layer_rope[layer] ? p->cos_sin : NULL;
}

/* --- Sequences ----------------------------------------------------------------------------------------------------------- */

static int64_t seq_len(const gr_batch *b, int s) { return b->bounds[s + 1] - b->bounds[s]; }
static int parent_of(const gr_batch *b, int s) { return b->parent ? b->parent[s] : -1; }
static bool is_blind(const gr_batch *b, int s) { return b->blind && b->blind[s]; }

static int root_of(const gr_batch *b, int s) {
    while (parent_of(b, s) >= 0) s = parent_of(b, s);
    return s;
}

static int64_t history_end(const gr_batch *b, int s) {
    if (!b->kv || !b->kv[s] || !b->kv[s]->layers[0].n_segments) return 0;
    const gr_kv_layer *l = &b->kv[s]->layers[0];
    const int64_t end = l->segments[l->n_segments - 1].pos + l->segments[l->n_segments - 1].n;
    return b->kv[s]->whole ? end - seq_len(b, s) : end;
}

/* Place of the first token of every sequence within it. */
static graft_status fill_starts(gr_pass *p, graft_error *err) {
    const gr_batch *b = p->batch;
    int32_t *starts;
    GR_TRY(gr_pass_reserve(p, GR_PASS_STARTS, (size_t)b->n_seqs * sizeof *starts, (void **)&starts, err));
    for (int s = 0; s < b->n_seqs; s++) {
        int parent = parent_of(b, s);
        if (parent >= 0 && b->kv && b->kv[s] && b->kv[s]->layers[0].n_segments)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d continues another and has a history of its own", s);
        int64_t start = b->seq_start  ? b->seq_start[s]
                        : parent >= 0 ? starts[parent] + seq_len(b, parent)
                                      : history_end(b, s);
        if (start < 0 || start + seq_len(b, s) > INT32_MAX)
            return gr_fail(err, GRAFT_ERR_LIMIT, "sequence %d begins at place %lld", s, (long long)start);
        starts[s] = (int32_t)start;
    }
    p->starts = starts;
    return GRAFT_OK;
}

/* Key/value rows in front of sequence s. */
static int32_t prefix_of(const gr_pass *p, int s) {
    const int32_t *bounds = p->all.prefix_bounds;
    return bounds ? bounds[s + 1] - bounds[s] : 0;
}

/* Rows of the batch that sequence s sees, into out (NULL: only counted): ancestors from the first on, then itself. */
static int visible_rows(const gr_pass *p, int s, gr_kv_rows *out) {
    const gr_batch *b = p->batch;
    int n = 0;
    for (int i = s; i >= 0; i = parent_of(b, i)) n += !is_blind(b, i) && seq_len(b, i) > 0;
    int at = n;
    for (int i = s; out && i >= 0; i = parent_of(b, i))
        if (!is_blind(b, i) && seq_len(b, i) > 0)
            out[--at] = (gr_kv_rows){.begin = b->bounds[i], .n = seq_len(b, i), .pos = p->starts[i]};
    return n;
}

static graft_status fill_sequences(gr_pass *p, graft_error *err) {
    const gr_batch *b = p->batch;
    size_t total = 0, n = (size_t)b->n_seqs;
    gr_kv_rows *rows;
    p->per_layer = b->kv != NULL;
    size_t layers = p->per_layer ? (size_t)gr_model_kv_layers(p->model) : 1;
    for (int s = 0; s < b->n_seqs; s++) total += (size_t)visible_rows(p, s, NULL);
    GR_TRY(gr_pass_reserve(p, GR_PASS_KV_ROWS, total * sizeof *rows, (void **)&rows, err));
    GR_TRY(gr_pass_reserve(p, GR_PASS_SEQS, layers * n * sizeof *p->seqs, (void **)&p->seqs, err));
    for (int s = 0; s < b->n_seqs; s++) {
        gr_attention_rows r = {.q_begin = b->bounds[s], .q_len = seq_len(b, s), .q_pos = p->starts[s], .rows = rows,
                               .n_rows = visible_rows(p, s, rows)};
        rows += r.n_rows;
        r.virtual_len = prefix_of(p, s);
        r.virtual_begin = r.virtual_len ? p->all.prefix_bounds[s] : 0;
        const gr_kv *kv = b->kv ? b->kv[root_of(b, s)] : NULL;
        if (kv && kv->whole) r.n_rows = 0;
        for (size_t l = 0; l < layers; l++) {
            if (kv) {
                r.n_history = kv->layers[l].n_segments;
                r.history = kv->layers[l].segments;
            }
            p->seqs[l * n + (size_t)s] = r;
        }
    }
    return GRAFT_OK;
}

/* --- Positions ------------------------------------------------------------------------------------------------------------ */

int64_t gr_model_pooled_token(const gr_model *m, const int32_t *ids, int64_t n, bool has_virtual) {
    const gr_model_config *c = &m->config;
    if (c->bidirectional) return 0;
    if (c->n_encoder_layers) {
        for (int64_t i = n; i-- > 0;)
            if (ids[i] == c->eos_token_ids[0]) return i;
        return -1;
    }
    if (has_virtual || c->pad_token_id < 0) return n - 1;
    for (int64_t i = n; i-- > 0;)
        if (ids[i] != c->pad_token_id) return i;
    return 0;
}

void gr_model_fill_positions(const gr_model *m, const int32_t *ids, int64_t n, bool has_virtual, int32_t first, int32_t *out) {
    const gr_model_config *c = &m->config;
    if (!c->positions_after_pad) {
        for (int64_t i = 0; i < n; i++) out[i] = first + (int32_t)i;
        return;
    }
    int32_t pad = (int32_t)c->pad_token_id, place = pad + first;
    for (int64_t i = 0; i < n; i++) {
        bool counts = has_virtual || !ids || ids[i] != pad;
        out[i] = counts ? ++place : pad;
    }
}

static graft_status fill_positions(gr_pass *p, graft_error *err) {
    const gr_batch *b = p->batch;
    int32_t *positions;
    p->positions = b->positions;
    if (b->positions && !p->all.prefix_bounds) return GRAFT_OK;
    GR_TRY(gr_pass_reserve(p, GR_PASS_POSITIONS, (size_t)b->n_tokens * sizeof *positions, (void **)&positions, err));
    const gr_hooks *h = p->options.hooks;
    for (int s = 0; s < b->n_seqs; s++) {
        int32_t begin = b->bounds[s], end = b->bounds[s + 1];
        int (*own)(void *, int) = !h ? NULL : h->n_rows ? h->n_rows : h->n_virtual;
        bool has_virtual = own && own(h->self, gr_batch_adapter(b, s)) > 0;
        const int32_t *ids = b->ids && !gr_tape_is_dry(p->tape) ? b->ids + begin : NULL;
        if (!b->positions)
            gr_model_fill_positions(p->model, ids, end - begin, has_virtual, prefix_of(p, s) + p->starts[s], positions + begin);
        for (int32_t i = begin; b->positions && i < end; i++) positions[i] = prefix_of(p, s) + b->positions[i];
    }
    p->positions = positions;
    return GRAFT_OK;
}

static void fill_angles(void *arg, size_t begin, size_t end, int thread) {
    gr_pass *p = arg;
    (void)thread;
    gr_rope_fill(p->model->config.head_dim, p->inv_freq, p->rope_factor, p->positions, (int64_t)begin, (int64_t)end,
                 p->model->param_dtype, p->cos_sin);
}

/* Dynamic scaling goes by each sequence's own length, so that a sequence does not depend on its batch-mates. */
static void fill_dynamic(gr_pass *p) {
    const gr_batch *b = p->batch;
    for (int s = 0; s < b->n_seqs; s++) {
        int64_t length = 0;
        for (int32_t i = b->bounds[s]; i < b->bounds[s + 1]; i++) length = GR_MAX(length, p->positions[i] + 1);
        if (b->rope_length) length = b->rope_length[s] + prefix_of(p, s);
        gr_rope_frequencies(&p->model->config, length, p->model->freq_factors, p->inv_freq, &p->rope_factor);
        fill_angles(p, (size_t)b->bounds[s], (size_t)b->bounds[s + 1], 0);
    }
}

static graft_status fill_rope(gr_pass *p, graft_error *err) {
    const gr_model *m = p->model;
    int64_t n = p->batch->n_tokens;
    size_t bytes;
    gr_shape shape = gr_shape2(n, m->config.head_dim);
    if (m->config.rope.type == GR_ROPE_NONE) return GRAFT_OK;
    GR_TRY(gr_tensor_bytes(m->param_dtype, &shape, &bytes, err));
    GR_TRY(gr_pass_reserve(p, GR_PASS_COS_SIN, bytes, &p->cos_sin, err));
    if (gr_tape_is_dry(p->tape)) return GRAFT_OK;
    if (m->config.rope.type == GR_ROPE_DYNAMIC) {
        fill_dynamic(p);
        return GRAFT_OK;
    }
    gr_rope_frequencies(&m->config, 0, m->freq_factors, p->inv_freq, &p->rope_factor);
    gr_parallel_for(m->dev->team, (size_t)n, 64, fill_angles, p);
    return GRAFT_OK;
}

graft_status gr_pass_fill_ids(gr_pass *p, gr_run *run, gr_pass_array where, bool virtual, graft_error *err) {
    const gr_batch *b = run->batch;
    int32_t *ids;
    run->ids = b->ids;
    const gr_hooks *h = p->options.hooks;
    bool negative = false;
    for (int s = 0; b->ids && s < b->n_seqs; s++) {
        int (*rows)(void *, int) = !virtual || !h ? NULL : h->n_rows ? h->n_rows : h->n_virtual;
        int n = rows ? rows(h->self, gr_batch_adapter(b, s)) : 0;
        for (int32_t i = b->bounds[s]; i < b->bounds[s + 1]; i++) {
            negative |= b->ids[i] < 0;
            if (b->ids[i] < -n)
                return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d: id %d, but its adapter has %d virtual rows", s,
                               b->ids[i], n);
        }
    }
    if (!negative) return GRAFT_OK;
    GR_TRY(gr_pass_reserve(p, where, (size_t)b->n_tokens * sizeof *ids, (void **)&ids, err));
    for (int64_t i = 0; i < b->n_tokens; i++) ids[i] = GR_MAX(b->ids[i], 0);
    run->ids = ids;
    return GRAFT_OK;
}

/* --- Rows in flight --------------------------------------------------------------------------------------------------------- */

/* Neighbouring ranges are joined. */
graft_status gr_pass_fill_adapters(gr_pass *p, gr_run *run, gr_pass_array list_at, gr_pass_array ranges_at,
                                   gr_run_adapter **out, graft_error *err) {
    const gr_batch *b = run->batch;
    gr_run_adapter *list;
    gr_row_range *ranges;
    int32_t lowest = INT32_MAX, highest = -1;
    for (int s = 0; s < b->n_seqs; s++) {
        lowest = GR_MIN(lowest, gr_batch_adapter(b, s));
        highest = GR_MAX(highest, gr_batch_adapter(b, s));
    }
    run->n_adapters = 0;
    if (highest < 0) return GRAFT_OK;
    GR_TRY(gr_pass_reserve(p, list_at, (size_t)b->n_seqs * sizeof *list, (void **)&list, err));
    GR_TRY(gr_pass_reserve(p, ranges_at, (size_t)b->n_seqs * sizeof *ranges, (void **)&ranges, err));
    run->adapters = *out = list;
    if (lowest == highest) {
        list[run->n_adapters++] = (gr_run_adapter){.index = highest};
        return GRAFT_OK;
    }
    for (int32_t a = GR_MAX(lowest, 0); a <= highest; a++) {
        int n = 0;
        for (int s = 0; s < b->n_seqs; s++) {
            if (gr_batch_adapter(b, s) != a || run->bounds[s] == run->bounds[s + 1]) continue;
            if (n && ranges[n - 1].end == run->bounds[s])
                ranges[n - 1].end = run->bounds[s + 1];
            else
                ranges[n++] = (gr_row_range){run->bounds[s], run->bounds[s + 1]};
        }
        if (!n) continue;
        list[run->n_adapters++] = (gr_run_adapter){.index = a, .n_ranges = n, .ranges = ranges};
        ranges += n;
    }
    return GRAFT_OK;
}

/* Places of the adapters' own rows: virtual tokens, and key/value rows of their sequences. */
typedef struct own_places {
    int32_t *at, *id;
} own_places;

static void add_own(gr_own_rows *rows, own_places *w, int32_t at, int32_t id) {
    *w->at++ = at;
    *w->id++ = id;
    rows->n++;
}

/* Rows 0, 1, ... of the adapter in each of its sequences. */
static void fill_copies(const gr_batch *b, int32_t adapter, const int32_t *bounds, gr_own_rows *rows, own_places *w) {
    *rows = (gr_own_rows){0, w->at, w->id};
    for (int s = 0; bounds && s < b->n_seqs; s++)
        for (int32_t i = bounds[s]; gr_batch_adapter(b, s) == adapter && i < bounds[s + 1]; i++)
            add_own(rows, w, i, i - bounds[s]);
}

static void fill_virtual(const gr_batch *b, int32_t adapter, gr_own_rows *rows, own_places *w) {
    *rows = (gr_own_rows){0, w->at, w->id};
    for (int s = 0; b->ids && s < b->n_seqs; s++)
        for (int32_t i = b->bounds[s]; gr_batch_adapter(b, s) == adapter && i < b->bounds[s + 1]; i++)
            if (b->ids[i] < 0) add_own(rows, w, i, -1 - b->ids[i]);
}

graft_status gr_pass_fill_virtual(gr_pass *p, const gr_run *run, gr_run_adapter *adapters, gr_pass_array where,
                                  graft_error *err) {
    const gr_batch *b = run->batch;
    size_t n = 0;
    own_places w;
    for (int64_t i = 0; b->ids && i < b->n_tokens; i++) n += b->ids[i] < 0;
    if (!n) return GRAFT_OK;
    GR_TRY(gr_pass_reserve(p, where, 2 * n * sizeof *w.at, (void **)&w.at, err));
    w.id = w.at + n;
    for (int k = 0; k < run->n_adapters; k++) fill_virtual(b, adapters[k].index, &adapters[k].input, &w);
    return GRAFT_OK;
}

static graft_status fill_own_rows(gr_pass *p, graft_error *err) {
    const gr_batch *b = p->batch;
    const int32_t *prefixes = p->all.prefix_bounds, *gated = p->all.gated_bounds;
    int64_t n = (prefixes ? prefixes[b->n_seqs] : 0) + (gated ? gated[b->n_seqs] : 0);
    own_places w;
    for (int64_t i = 0; b->ids && i < b->n_tokens; i++) n += b->ids[i] < 0;
    if (!n) return GRAFT_OK;
    GR_TRY(gr_pass_reserve(p, GR_PASS_OWN_ROWS, 2 * (size_t)n * sizeof *w.at, (void **)&w.at, err));
    w.id = w.at + n;
    for (int k = 0; k < p->all.n_adapters; k++) {
        gr_run_adapter *a = &p->adapters[k];
        fill_virtual(b, a->index, &a->input, &w);
        fill_copies(b, a->index, prefixes, &a->prefix, &w);
        fill_copies(b, a->index, gated, &a->gated, &w);
    }
    return GRAFT_OK;
}

/* Bounds of each sequence's rows, by what the adapter of a sequence has; NULL where there are none at all. */
static graft_status fill_bounds(gr_pass *p, int (*count)(void *self, int adapter), gr_pass_array where, const int32_t **out,
                                graft_error *err) {
    const gr_batch *b = p->batch;
    const gr_hooks *h = p->options.hooks;
    int32_t *bounds;
    bool any = false;
    for (int s = 0; count && s < b->n_seqs; s++) any |= count(h->self, gr_batch_adapter(b, s)) > 0;
    if (!any) return GRAFT_OK;
    GR_TRY(gr_pass_reserve(p, where, ((size_t)b->n_seqs + 1) * sizeof *bounds, (void **)&bounds, err));
    bounds[0] = 0;
    for (int s = 0; s < b->n_seqs; s++) {
        int64_t end = bounds[s] + (int64_t)count(h->self, gr_batch_adapter(b, s));
        if (end > INT32_MAX) return gr_fail(err, GRAFT_ERR_LIMIT, "sequence %d: %lld rows of adapters", s, (long long)end);
        bounds[s + 1] = (int32_t)end;
    }
    *out = bounds;
    return GRAFT_OK;
}

/* Sequences of the gated attention: all of a sequence's own rows, no mask. */
static graft_status fill_gated(gr_pass *p, graft_error *err) {
    const gr_batch *b = p->batch;
    const int32_t *bounds = p->all.gated_bounds;
    size_t n = (size_t)b->n_seqs;
    gr_attention_rows *seqs;
    if (!bounds) return GRAFT_OK;
    GR_TRY(gr_pass_reserve(p, GR_PASS_GATED_SEQS, n * (sizeof *seqs + sizeof(gr_kv_rows)), (void **)&seqs, err));
    gr_kv_rows *rows = (gr_kv_rows *)(void *)(seqs + n);
    for (size_t s = 0; s < n; s++) {
        rows[s] = (gr_kv_rows){.begin = bounds[s], .n = bounds[s + 1] - bounds[s]};
        seqs[s] = (gr_attention_rows){.q_begin = b->bounds[s], .q_len = seq_len(b, (int)s), .n_rows = rows[s].n > 0,
                                      .rows = &rows[s]};
    }
    p->all.gated_seqs = seqs;
    return GRAFT_OK;
}

static graft_status fill_wanted(gr_pass *p, const int32_t *rows, int64_t n, graft_error *err) {
    const gr_batch *b = p->batch;
    int32_t *bounds;
    uint64_t *keys = NULL;
    p->all_wanted = !rows || n == b->n_tokens;
    if (p->all_wanted) return GRAFT_OK;
    for (int64_t i = 0; i < n; i++)
        if (rows[i] < (i ? rows[i - 1] + 1 : 0) || rows[i] >= b->n_tokens)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "wanted rows must ascend within 0 .. %lld", (long long)b->n_tokens - 1);
    GR_TRY(gr_pass_reserve(p, GR_PASS_WANTED_BOUNDS, ((size_t)b->n_seqs + 1) * sizeof *bounds, (void **)&bounds, err));
    GR_TRY(gr_pass_reserve(p, GR_PASS_WANTED_KEYS, (size_t)n * sizeof *keys, (void **)&keys, err));
    int64_t at = 0;
    for (int s = 0; s <= b->n_seqs; s++) {
        while (at < n && rows[at] < b->bounds[s]) at++;
        bounds[s] = (int32_t)at;
    }
    for (int64_t i = 0; i < n; i++) keys[i] = b->dropout_key ? b->dropout_key[rows[i]] : (uint64_t)rows[i];
    p->wanted = (gr_run){.tape = p->tape, .batch = b, .hooks = p->options.hooks, .n_rows = n, .bounds = bounds,
                         .token = rows, .dropout_key = keys};
    gr_run_adapter *list;
    return gr_pass_fill_adapters(p, &p->wanted, GR_PASS_WANTED_ADAPTERS, GR_PASS_WANTED_RANGES, &list, err);
}

graft_status gr_pass_begin(gr_pass *p, gr_tape *t, const gr_batch *b, const gr_pass_options *o, const int32_t *rows,
                           int64_t n_rows, graft_error *err) {
    const gr_model *m = p->model;
    p->tape = t;
    GR_TRY(gr_pass_read_twice(p, &b, err));
    p->batch = b;
    p->options = o ? *o : (gr_pass_options){0};
    const gr_hooks *h = p->options.hooks;
    int n_adapters = h && h->count ? h->count(h->self) : 0;
    GR_TRY(gr_batch_check(b, gr_tape_is_dry(t) ? -1 : m->config.vocab_size, gr_model_kv_layers(m), n_adapters, err));
    if (rows && n_rows <= 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "no rows are wanted");
    const gr_variant *v = NULL;
    if (h && h->variant) GR_TRY(h->variant(h->self, b, &v, err));
    p->modules = v ? gr_variant_modules(v) : &m->modules;
    p->all = (gr_run){.tape = t, .batch = b, .hooks = h, .n_rows = b->n_tokens, .bounds = b->bounds,
                      .dropout_key = b->dropout_key};
    if (h) GR_TRY(fill_bounds(p, h->n_prefix, GR_PASS_PREFIX, &p->all.prefix_bounds, err));
    if (h) GR_TRY(fill_bounds(p, h->n_gated, GR_PASS_GATED, &p->all.gated_bounds, err));
    GR_TRY(fill_gated(p, err));
    GR_TRY(gr_pass_fill_adapters(p, &p->all, GR_PASS_ADAPTERS, GR_PASS_RANGES, &p->adapters, err));
    GR_TRY(fill_own_rows(p, err));
    GR_TRY(fill_wanted(p, rows, n_rows, err));
    GR_TRY(fill_starts(p, err));
    GR_TRY(fill_sequences(p, err));
    GR_TRY(fill_positions(p, err));
    GR_TRY(fill_rope(p, err));
    GR_TRY(gr_pass_fill_ids(p, &p->all, GR_PASS_IDS, m->config.n_encoder_layers == 0, err));
    p->wanted.ids = p->all.ids;
    return gr_pass_begin_source(p, n_adapters, err);
}
