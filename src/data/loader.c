#include "data/dataset.h"
#include "data/loader.h"
#include "data/pack.h"

enum { PACK_RUN = 1000 }; /* examples that are packed together, as datasets' batched map hands them to trl */

struct gr_loader {
    graft_context *ctx;
    const graft_dataset *ds;
    gr_loader_options o;
    size_t n_rows, max_tokens;
    uint32_t *members; /* with packing: examples row after row */
    size_t *row_start; /* n_rows + 1, in members; NULL without packing: row r is example r */
    uint32_t *order;   /* rows of the epoch that is at hand; NULL without shuffling */
    uint64_t epoch;    /* which one */
    bool ordered;      /* order is filled */
    int32_t *bounds, *ids, *labels, *adapters, *source_bounds, *source_ids, *types, *classes;
    float *values;
    uint32_t *examples;
    size_t adapters_cap, bounds_cap, ids_cap, labels_cap, examples_cap, source_bounds_cap, source_ids_cap,
        types_cap, classes_cap;
    size_t values_cap;
};

void gr_loader_free(gr_loader *l) {
    if (!l) return;
    const graft_allocator *a = gr_allocator(l->ctx);
    gr_free(a, l->members);
    gr_free(a, l->row_start);
    gr_free(a, l->order);
    gr_free(a, l->bounds);
    gr_free(a, l->ids);
    gr_free(a, l->labels);
    gr_free(a, l->source_bounds);
    gr_free(a, l->source_ids);
    gr_free(a, l->adapters);
    gr_free(a, l->examples);
    gr_free(a, l->types);
    gr_free(a, l->classes);
    gr_free(a, l->values);
    gr_free(a, l);
}

static size_t length_of(const graft_dataset *ds, size_t i) {
    size_t n;
    gr_dataset_ids(ds, i, &n);
    return n;
}

static graft_status pack_run(gr_loader *l, size_t from, size_t n, uint32_t *scratch, graft_error *err) {
    uint32_t *lengths = scratch, *order = lengths + PACK_RUN, *starts = order + PACK_RUN;
    size_t bins, total = 0;
    for (size_t i = 0; i < n; i++) total += lengths[i] = (uint32_t)length_of(l->ds, from + i);
    /* A row that holds the whole run is as good as any longer one, and the packer's memory grows with the capacity. */
    uint32_t capacity = (uint32_t)GR_MIN(l->o.max_length, GR_MIN(total, (size_t)INT32_MAX));
    GR_TRY(gr_pack_bins(gr_allocator(l->ctx), lengths, n, capacity, order, starts, &bins, err));
    for (size_t i = 0; i < n; i++) l->members[from + i] = (uint32_t)from + order[i];
    for (size_t b = 0; b < bins; b++) l->row_start[l->n_rows++] = from + starts[b];
    l->row_start[l->n_rows] = from + n;
    return GRAFT_OK;
}

static graft_status pack(gr_loader *l, graft_error *err) {
    const graft_allocator *a = gr_allocator(l->ctx);
    size_t n = graft_dataset_count(l->ds);
    l->members = gr_realloc_array(a, NULL, n, sizeof *l->members);
    l->row_start = gr_realloc_array(a, NULL, n + 1, sizeof *l->row_start);
    uint32_t *scratch = gr_realloc_array(a, NULL, 3 * PACK_RUN + 1, sizeof *scratch);
    graft_status st = l->members && l->row_start && scratch ? GRAFT_OK : gr_fail_memory(err);
    for (size_t from = 0; from < n && st == GRAFT_OK; from += PACK_RUN)
        st = pack_run(l, from, GR_MIN((size_t)PACK_RUN, n - from), scratch, err);
    gr_free(a, scratch);
    return st;
}

static void row_members(const gr_loader *l, size_t row, size_t *first, size_t *n) {
    *first = l->row_start ? l->row_start[row] : row;
    *n = l->row_start ? l->row_start[row + 1] - *first : 1;
}

static size_t row_tokens(const gr_loader *l, size_t row) {
    size_t first, n, tokens = 0;
    row_members(l, row, &first, &n);
    for (size_t i = first; i < first + n; i++) tokens += length_of(l->ds, l->members ? l->members[i] : i);
    return tokens + n * (size_t)l->o.n_virtual;
}

/* The batch_size largest rows together: no batch of any order is larger. A heap of the largest so far, least on top. */
static graft_status bound_tokens(gr_loader *l, graft_error *err) {
    const graft_allocator *a = gr_allocator(l->ctx);
    size_t k = GR_MIN(l->o.batch_size, l->n_rows), n = 0;
    size_t *heap = gr_realloc_array(a, NULL, k, sizeof *heap);
    if (!heap) return gr_fail_memory(err);
    for (size_t row = 0; row < l->n_rows; row++) {
        size_t v = row_tokens(l, row), at;
        if (n < k) {
            for (at = n++; at > 0 && heap[(at - 1) / 2] > v; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
        } else if (v > heap[0]) {
            for (at = 0; 2 * at + 1 < k;) {
                size_t child = 2 * at + 1;
                if (child + 1 < k && heap[child + 1] < heap[child]) child++;
                if (heap[child] >= v) break;
                heap[at] = heap[child];
                at = child;
            }
        } else {
            continue;
        }
        heap[at] = v;
    }
    size_t total = 0;
    for (size_t i = 0; i < n; i++) total += heap[i];
    gr_free(a, heap);
    if (total > INT32_MAX)
        return gr_fail(err, GRAFT_ERR_LIMIT,
                       "a batch could have %zu tokens, expected at most %d: a smaller batch size is needed",
                       total, INT32_MAX);
    l->max_tokens = total;
    return GRAFT_OK;
}

graft_status gr_loader_new(graft_context *ctx, const graft_dataset *ds, const gr_loader_options *o, gr_loader **out,
                           graft_error *err) {
    const graft_allocator *a = gr_allocator(ctx);
    if (o->batch_size == 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected a batch size of at least 1, found 0");
    if (o->packing && o->seq2seq)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "packing: sources and targets are not packed (there is no padding without it either)");
    if (o->packing && o->max_length == 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "packing needs a maximum length, found none");
    gr_loader *l = gr_calloc(a, 1, sizeof *l);
    if (!l) return gr_fail_memory(err);
    l->ctx = ctx;
    l->ds = ds;
    l->o = *o;
    graft_status st = GRAFT_OK;
    if (o->packing) st = pack(l, err);
    else l->n_rows = graft_dataset_count(ds);
    if (st == GRAFT_OK) st = bound_tokens(l, err);
    if (st == GRAFT_OK && o->shuffle && !(l->order = gr_realloc_array(a, NULL, l->n_rows, sizeof *l->order)))
        st = gr_fail_memory(err);
    if (st != GRAFT_OK) {
        gr_loader_free(l);
        return st;
    }
    *out = l;
    return GRAFT_OK;
}

size_t gr_loader_rows(const gr_loader *l) { return l->n_rows; }

size_t gr_loader_batches(const gr_loader *l) { return (l->n_rows + l->o.batch_size - 1) / l->o.batch_size; }

size_t gr_loader_max_tokens(const gr_loader *l) { return l->max_tokens; }

static int32_t virtual_id(const gr_loader *l, size_t example, int v) {
    return -1 - gr_dataset_task(l->ds, example) * l->o.n_virtual - v;
}

/* Virtual tokens in front of an example: the last one is followed by the example's first token. */
static void add_virtual(gr_loader *l, size_t example, gr_data_batch *b) {
    for (int v = 0; v < l->o.n_virtual; v++) {
        bool last = v == l->o.n_virtual - 1 && gr_dataset_learn(l->ds) == GRAFT_LEARN_TEXT;
        l->ids[b->n_tokens] = virtual_id(l, example, v);
        l->labels[b->n_tokens] = last ? gr_dataset_first_label(l->ds, example) : GRAFT_IGNORE_LABEL;
        b->n_labels += l->labels[b->n_tokens++] != GRAFT_IGNORE_LABEL;
    }
}

/* Appends an example as a source and the target behind start_id. */
static graft_status add_pair(gr_loader *l, size_t example, gr_data_batch *b, size_t *n_source_tokens,
                             graft_error *err) {
    const graft_allocator *a = gr_allocator(l->ctx);
    size_t len, source = gr_dataset_n_source(l->ds, example), at = *n_source_tokens;
    const int32_t *ids = gr_dataset_ids(l->ds, example, &len);
    size_t target = len - source;
    GR_TRY(gr_grow(a, (void **)&l->source_bounds, &l->source_bounds_cap, b->n_seqs + 2, sizeof *l->source_bounds, err));
    GR_TRY(gr_grow(a, (void **)&l->source_ids, &l->source_ids_cap, at + source + (size_t)l->o.n_virtual,
                   sizeof *l->source_ids, err));
    GR_TRY(gr_grow(a, (void **)&l->ids, &l->ids_cap, b->n_tokens + target, sizeof *l->ids, err));
    GR_TRY(gr_grow(a, (void **)&l->labels, &l->labels_cap, b->n_tokens + target, sizeof *l->labels, err));
    l->source_bounds[0] = 0;
    for (int v = 0; v < l->o.n_virtual; v++) l->source_ids[at++] = virtual_id(l, example, v);
    memcpy(l->source_ids + at, ids, source * sizeof *ids);
    *n_source_tokens = at + source;
    l->source_bounds[b->n_seqs + 1] = (int32_t)*n_source_tokens;
    int32_t *inputs = l->ids + b->n_tokens, *labels = l->labels + b->n_tokens;
    b->n_labels += gr_dataset_target_labels(l->ds, example, labels);
    for (size_t i = 0; i < target; i++)
        inputs[i] = i == 0                                ? l->o.start_id
                    : labels[i - 1] == GRAFT_IGNORE_LABEL ? l->o.pad_id
                                                          : ids[source + i - 1];
    b->n_tokens += target;
    return GRAFT_OK;
}

/* Hides tokens of an example whose ids stand at `ids`: a draw each whether, and how. Where chance leaves all,
 * the one with the least draw is hidden, so that every sequence teaches something. */
static size_t hide_tokens(const gr_loader *l, size_t example, uint64_t epoch, size_t len, int32_t *ids,
                          int32_t *labels) {
    uint64_t stream = gr_rng_stream(GR_RNG_MASK, epoch), first = (uint64_t)example << 32;
    double least = 2;
    size_t n = 0, least_at = len;
    for (size_t t = 0; t < len; t++) {
        if (labels[t] == GRAFT_IGNORE_LABEL) continue;
        double u = gr_rng_uniform(l->o.seed, stream, (first | t) << 1);
        n += u < l->o.mlm_probability;
        if (u < least) {
            least = u;
            least_at = t;
        }
    }
    for (size_t t = 0; t < len; t++) {
        if (labels[t] == GRAFT_IGNORE_LABEL) continue;
        double u = gr_rng_uniform(l->o.seed, stream, (first | t) << 1);
        if (u >= l->o.mlm_probability && (n || t != least_at)) {
            labels[t] = GRAFT_IGNORE_LABEL;
            continue;
        }
        uint32_t draw[4];
        gr_rng_draw4(l->o.seed, stream, (first | t) << 1 | 1, draw);
        double way = draw[0] / 4294967296.0;
        if (way < 0.8)
            ids[t] = l->o.mask_id;
        else if (way < 0.9)
            ids[t] = (int32_t)((uint64_t)draw[1] * (uint64_t)l->o.vocab_size >> 32);
    }
    return GR_MAX(n, (size_t)(least_at < len));
}

static size_t add_labels(gr_loader *l, size_t example, uint64_t epoch, size_t len, const gr_data_batch *b) {
    int32_t *ids = l->ids + b->n_tokens, *labels = l->labels + b->n_tokens;
    bool given;
    switch (gr_dataset_learn(l->ds)) {
    case GRAFT_LEARN_MASKED: {
        size_t n = gr_dataset_masked_labels(l->ds, example, labels, &given);
        return given ? n : hide_tokens(l, example, epoch, len, ids, labels);
    }
    case GRAFT_LEARN_CLASSES:
        for (size_t t = 0; t < len; t++) labels[t] = GRAFT_IGNORE_LABEL;
        return 1;
    default: return gr_dataset_shifted_labels(l->ds, example, labels);
    }
}

/* Class or values of an example, and the types of its tokens, which begin at the batch's n_tokens. */
static graft_status add_class(gr_loader *l, size_t example, size_t n_virtual, size_t len,
                              const gr_data_batch *b, graft_error *err) {
    const graft_allocator *a = gr_allocator(l->ctx);
    size_t n = gr_dataset_n_labels(l->ds), s = b->n_seqs;
    if (!n) return GRAFT_OK;
    const float *values = gr_dataset_values(l->ds, example);
    GR_TRY(gr_grow(a, (void **)&l->types, &l->types_cap, b->n_tokens + len, sizeof *l->types, err));
    GR_TRY(gr_grow(a, (void **)&l->classes, &l->classes_cap, s + 1, sizeof *l->classes, err));
    if (values) GR_TRY(gr_grow(a, (void **)&l->values, &l->values_cap, (s + 1) * n, sizeof *l->values, err));
    memset(l->types + b->n_tokens - n_virtual, 0, n_virtual * sizeof *l->types);
    gr_dataset_types(l->ds, example, l->types + b->n_tokens);
    l->classes[s] = gr_dataset_class(l->ds, example);
    if (values) memcpy(l->values + s * n, values, n * sizeof *values);
    return GRAFT_OK;
}

/* Appends one row to the batch. */
static graft_status add_row(gr_loader *l, size_t row, uint64_t epoch, gr_data_batch *b,
                            size_t *n_source_tokens, graft_error *err) {
    const graft_allocator *a = gr_allocator(l->ctx);
    size_t first, n;
    row_members(l, row, &first, &n);
    GR_TRY(gr_grow(a, (void **)&l->bounds, &l->bounds_cap, b->n_seqs + n + 1, sizeof *l->bounds, err));
    GR_TRY(gr_grow(a, (void **)&l->examples, &l->examples_cap, b->n_seqs + n, sizeof *l->examples, err));
    GR_TRY(gr_grow(a, (void **)&l->adapters, &l->adapters_cap, b->n_seqs + n, sizeof *l->adapters, err));
    for (size_t i = first; i < first + n; i++) {
        size_t example = l->members ? l->members[i] : i, len;
        l->examples[b->n_seqs] = (uint32_t)example;
        l->adapters[b->n_seqs] = gr_dataset_adapter(l->ds, example);
        if (l->o.seq2seq) {
            GR_TRY(add_pair(l, example, b, n_source_tokens, err));
            l->bounds[++b->n_seqs] = (int32_t)b->n_tokens;
            continue;
        }
        const int32_t *ids = gr_dataset_ids(l->ds, example, &len);
        size_t room = b->n_tokens + len + (size_t)l->o.n_virtual;
        GR_TRY(gr_grow(a, (void **)&l->ids, &l->ids_cap, room, sizeof *l->ids, err));
        GR_TRY(gr_grow(a, (void **)&l->labels, &l->labels_cap, room, sizeof *l->labels, err));
        add_virtual(l, example, b);
        if (len) memcpy(l->ids + b->n_tokens, ids, len * sizeof *ids);
        b->n_labels += add_labels(l, example, epoch, len, b);
        GR_TRY(add_class(l, example, (size_t)l->o.n_virtual, len, b, err));
        b->n_tokens += len;
        l->bounds[++b->n_seqs] = (int32_t)b->n_tokens;
    }
    return GRAFT_OK;
}

graft_status gr_loader_next(gr_loader *l, gr_data_cursor *cursor, gr_data_batch *out, graft_error *err) {
    if (cursor->row >= l->n_rows)
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "the data cursor stands at row %llu, but an epoch of these data has %zu",
                       (unsigned long long)cursor->row, l->n_rows);
    if (l->order && (!l->ordered || l->epoch != cursor->epoch)) {
        gr_rng_permutation(l->o.seed, gr_rng_stream(GR_RNG_SHUFFLE, cursor->epoch), l->order, l->n_rows);
        l->epoch = cursor->epoch;
        l->ordered = true;
    }
    gr_data_batch b = {0};
    size_t n_source_tokens = 0;
    size_t end = (size_t)GR_MIN(cursor->row + l->o.batch_size, l->n_rows);
    GR_TRY(gr_grow(gr_allocator(l->ctx), (void **)&l->bounds, &l->bounds_cap, 1, sizeof *l->bounds, err));
    l->bounds[0] = 0;
    for (size_t row = (size_t)cursor->row; row < end; row++)
        GR_TRY(add_row(l, l->order ? l->order[row] : row, cursor->epoch, &b, &n_source_tokens, err));
    b.problem = gr_dataset_problem(l->ds);
    b.n_values = gr_dataset_n_labels(l->ds);
    b.types = b.n_values ? l->types : NULL;
    b.classes = b.problem == GRAFT_PROBLEM_SINGLE ? l->classes : NULL;
    b.values = b.problem == GRAFT_PROBLEM_SINGLE ? NULL : l->values;
    b.bounds = l->bounds;
    b.ids = l->ids;
    b.labels = l->labels;
    b.adapters = l->adapters;
    b.examples = l->examples;
    if (l->o.seq2seq) {
        b.source_bounds = l->source_bounds;
        b.source_ids = l->source_ids;
    }
    *cursor = end == l->n_rows ? (gr_data_cursor){cursor->epoch + 1, 0} : (gr_data_cursor){cursor->epoch, end};
    *out = b;
    return GRAFT_OK;
}
