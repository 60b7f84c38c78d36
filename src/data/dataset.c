/* Five bytes a token: the id, and whether it is learnt. A label is nearly always the token's own id; the rare
 * other ones of pre-tokenised records lie in a list of their own, in order. */
#include <time.h>

#include "data/dataset.h"
#include "data/encode.h"
#include "data/labels.h"
#include "data/scan.h"

enum { IGNORED, OWN, OTHER }; /* what a token's label is; of a classification the token types stand there */

typedef struct entry {
    size_t start; /* in ids */
    uint32_t file, line;
    int32_t class;
    bool given;
    int32_t adapter, task;
} entry;

typedef struct other_label {
    size_t at;
    int32_t label;
} other_label;

struct graft_dataset {
    const graft_allocator *a;
    char **paths;
    size_t n_paths;
    entry *entries; /* n + 1 where n > 0: the last one's start is the end */
    uint32_t *n_source; /* of each; NULL: none has a source apart */
    size_t n, entry_cap, source_cap;
    int32_t *ids;
    uint8_t *kind;
    size_t n_ids, id_cap, kind_cap;
    other_label *others;
    size_t n_others, other_cap;
    graft_learn learn;
    graft_problem problem;
    size_t n_labels;
    float *values; /* (n, n_labels) of MULTI and REGRESSION */
    size_t value_cap;
    graft_data_stats stats;
    gr_scan scan;
};

void graft_dataset_free(graft_dataset *ds) {
    if (!ds) return;
    const graft_allocator *a = ds->a;
    for (size_t i = 0; i < ds->n_paths; i++) gr_free(a, ds->paths[i]);
    gr_free(a, ds->paths);
    gr_free(a, ds->entries);
    gr_free(a, ds->n_source);
    gr_free(a, ds->ids);
    gr_free(a, ds->kind);
    gr_free(a, ds->others);
    gr_free(a, ds->values);
    gr_scan_free(&ds->scan);
    gr_free(a, ds);
}

static graft_status new_dataset(graft_context *ctx, const char *const *paths, size_t n, graft_dataset **out,
                                graft_error *err) {
    const graft_allocator *a = gr_allocator(ctx);
    graft_dataset *ds = gr_calloc(a, 1, sizeof *ds);
    if (!ds) return gr_fail_memory(err);
    ds->a = ds->scan.a = a;
    ds->paths = gr_calloc(a, n, sizeof *ds->paths);
    for (; ds->paths && ds->n_paths < n; ds->n_paths++)
        if (!(ds->paths[ds->n_paths] = gr_strdup(a, paths[ds->n_paths]))) break;
    if (!ds->paths || ds->n_paths < n) {
        graft_dataset_free(ds);
        return gr_fail_memory(err);
    }
    *out = ds;
    return GRAFT_OK;
}

static graft_status add_example(graft_dataset *ds, const gr_tokens *t, size_t file, size_t line, graft_error *err) {
    const graft_allocator *a = ds->a;
    if (ds->n + 1 >= UINT32_MAX || t->n > INT32_MAX)
        return gr_fail(err, GRAFT_ERR_LIMIT, "expected fewer than %u examples of fewer than %d tokens", UINT32_MAX - 1,
                       INT32_MAX);
    GR_TRY(gr_grow(a, (void **)&ds->entries, &ds->entry_cap, ds->n + 2, sizeof *ds->entries, err));
    if (t->n_source || ds->n_source) {
        GR_TRY(gr_grow(a, (void **)&ds->n_source, &ds->source_cap, ds->n + 1, sizeof *ds->n_source, err));
        ds->n_source[ds->n] = (uint32_t)t->n_source;
    }
    GR_TRY(gr_grow(a, (void **)&ds->ids, &ds->id_cap, ds->n_ids + t->n, sizeof *ds->ids, err));
    GR_TRY(gr_grow(a, (void **)&ds->kind, &ds->kind_cap, ds->n_ids + t->n, sizeof *ds->kind, err));
    for (size_t i = 0; i < t->n; i++) {
        uint8_t kind = t->labels[i] == GRAFT_IGNORE_LABEL ? IGNORED : t->labels[i] == t->ids[i] ? OWN : OTHER;
        if (kind == OTHER) {
            GR_TRY(gr_grow(a, (void **)&ds->others, &ds->other_cap, ds->n_others + 1, sizeof *ds->others, err));
            ds->others[ds->n_others++] = (other_label){ds->n_ids + i, t->labels[i]};
        }
        ds->kind[ds->n_ids + i] = ds->learn == GRAFT_LEARN_CLASSES ? (uint8_t)(t->types ? t->types[i] : 0) : kind;
    }
    memcpy(ds->ids + ds->n_ids, t->ids, t->n * sizeof *t->ids);
    ds->entries[ds->n++] =
        (entry){ds->n_ids,  (uint32_t)file, (uint32_t)GR_MIN(line, UINT32_MAX), GRAFT_IGNORE_LABEL, t->given,
                t->adapter, t->task};
    ds->n_ids += t->n;
    ds->entries[ds->n] = (entry){.start = ds->n_ids};
    graft_data_stats *s = &ds->stats;
    s->examples++;
    s->tokens += t->n;
    s->labels += t->n_labels;
    s->longest = GR_MAX(s->longest, t->n);
    s->fingerprint =
        gr_hash_bytes(t->ids, t->n * sizeof *t->ids,
                      s->fingerprint + t->n + ((uint64_t)t->n_source << 32) + ((uint64_t)t->task << 16));
    s->fingerprint = gr_hash_bytes(t->labels, t->n * sizeof *t->labels, s->fingerprint);
    return GRAFT_OK;
}

/* Gives back what doubling took too much; without memory for that, nothing is lost. */
static void shrink(const graft_allocator *a, void **items, size_t *cap, size_t n, size_t size) {
    void *p = *cap > n && n ? gr_realloc_array(a, *items, n, size) : NULL;
    if (!p) return;
    *items = p;
    *cap = n;
}

typedef struct loading {
    graft_dataset *ds;
    gr_encoder encoder;
    const graft_data_options *options;
    gr_label_rule rule; /* of classes; made at the first record */
} loading;

/* Beside the example that was added last. */
static graft_status add_label(loading *l, const gr_record *record, int32_t class, const float *values,
                              graft_error *err) {
    graft_dataset *ds = l->ds;
    bool numbers = l->rule.problem != GRAFT_PROBLEM_SINGLE;
    size_t n = ds->n_labels, from = (ds->n - 1) * n;
    graft_data_stats *s = &ds->stats;
    ds->entries[ds->n - 1].class = class;
    s->fingerprint = gr_hash_bytes(&class, sizeof class, s->fingerprint);
    (void)record;
    if (!numbers) return GRAFT_OK;
    GR_TRY(gr_grow(ds->a, (void **)&ds->values, &ds->value_cap, from + n, sizeof *ds->values, err));
    memcpy(ds->values + from, values, n * sizeof *values);
    s->fingerprint = gr_hash_bytes(values, n * sizeof *values, s->fingerprint);
    return GRAFT_OK;
}

static graft_status load_classified(loading *l, gr_arena *arena, const gr_scan_place *place, const gr_record *record,
                                    const gr_tokens *t, graft_error *err) {
    const graft_data_options *o = l->options;
    graft_dataset *ds = l->ds;
    int32_t class;
    if (!l->rule.n) {
        ds->problem = o->problem != GRAFT_PROBLEM_AUTO ? o->problem : gr_label_problem(record, o->n_labels);
        GR_TRY(gr_label_rule_init(&l->rule, ds->a, ds->problem, o->labels, o->n_labels, err));
    }
    float *values = gr_arena_alloc(arena, ds->n_labels * sizeof *values);
    if (!values) return gr_fail_memory(err);
    GR_TRY(gr_label_read(&l->rule, record, &class, values, err));
    GR_TRY(add_example(ds, t, place->file, place->line, err));
    return add_label(l, record, class, values, err);
}

static graft_status load_record(void *user, gr_arena *arena, const gr_scan_place *place, const gr_record *record,
                                graft_error *err) {
    loading *l = user;
    gr_tokens t;
    GR_TRY(gr_encode_record(&l->encoder, arena, record, &t, err));
    l->ds->stats.truncated += t.truncated;
    l->ds->stats.split_prompt += t.split_prompt;
    t.adapter = l->encoder.model ? t.adapter : -1;
    if (t.n_labels && l->ds->learn == GRAFT_LEARN_CLASSES) return load_classified(l, arena, place, record, &t, err);
    if (t.n_labels) return add_example(l->ds, &t, place->file, place->line, err);
    l->ds->stats.empty++;
    return GRAFT_OK;
}

static void warn(graft_context *ctx, const graft_dataset *ds, const gr_encoder *e) {
    const graft_data_stats *s = &ds->stats;
    if (s->bad)
        gr_log(ctx, GRAFT_LOG_WARNING, "%zu of %zu records are bad and were skipped; the first: %s", s->bad, s->records,
               ds->scan.reason[0]);
    if (s->truncated)
        gr_log(ctx, GRAFT_LOG_WARNING, "%zu of %zu records are longer than %zu tokens and were cut", s->truncated,
               s->records, e->max_length);
    if (s->empty)
        gr_log(ctx, GRAFT_LOG_WARNING, "%zu of %zu records have no token to learn and were left out",
               s->empty, s->records);
    if (s->split_prompt)
        gr_log(ctx, GRAFT_LOG_WARNING,
               "in %zu of %zu records the tokens of the prompt alone are not how prompt and completion begin; the "
               "completion was taken to start where they differ",
               s->split_prompt, s->records);
}

graft_status graft_dataset_load(graft_context *ctx, const graft_tokenizer *tok, const graft_data_options *options,
                                graft_dataset **out, graft_error *err) {
    loading l = {.options = options};
    if (options->learn == GRAFT_LEARN_CLASSES && !options->n_labels)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected the number of labels of a classification");
    const size_t given = options->vocab_size > 0 ? (size_t)options->vocab_size : (size_t)INT32_MAX;
    const size_t vocab = tok ? graft_tokenizer_vocab_size(tok) : given;
    int64_t now = options->now ? options->now : (int64_t)time(NULL);
    GR_TRY(gr_encoder_open(&l.encoder, ctx, tok, options, now, err));
    graft_status st = new_dataset(ctx, options->paths, options->n_paths, &l.ds, err);
    graft_dataset *ds = l.ds;
    if (st == GRAFT_OK) {
        ds->learn = options->learn;
        ds->n_labels = options->learn == GRAFT_LEARN_CLASSES ? options->n_labels : 0;
        st = gr_scan_records(ctx, options, vocab, load_record, &l, &ds->scan, err);
        ds->stats.records = ds->scan.records;
        ds->stats.bad = ds->scan.bad;
        ds->stats.now = now;
        if (st == GRAFT_OK && ds->n == 0)
            st = gr_scan_fail_empty(&ds->scan, options,
                                    ds->stats.truncated == ds->scan.records
                                        ? "are longer than max_length, and what is left has no token to learn"
                                        : "have no token to learn",
                                    err);
    }
    if (st == GRAFT_OK) {
        shrink(ds->a, (void **)&ds->ids, &ds->id_cap, ds->n_ids, sizeof *ds->ids);
        shrink(ds->a, (void **)&ds->kind, &ds->kind_cap, ds->n_ids, sizeof *ds->kind);
        shrink(ds->a, (void **)&ds->entries, &ds->entry_cap, ds->n + 1, sizeof *ds->entries);
        warn(ctx, ds, &l.encoder);
    }
    gr_encoder_close(&l.encoder);
    gr_label_rule_free(&l.rule);
    if (st != GRAFT_OK) graft_dataset_free(ds);
    else *out = ds;
    return st;
}

graft_status gr_dataset_from_tokens(graft_context *ctx, const int32_t *ids, const int32_t *labels, const size_t *bounds,
                                    size_t n, graft_dataset **out, graft_error *err) {
    static const char *const path = "tokens";
    graft_dataset *ds;
    GR_TRY(new_dataset(ctx, &path, 1, &ds, err));
    for (size_t i = 0; i < n; i++) {
        /* The arrays are only read, but gr_tokens is also what an encoder writes. */
        gr_tokens t = {.ids = (int32_t *)ids + bounds[i],
                       .labels = (int32_t *)labels + bounds[i],
                       .n = bounds[i + 1] - bounds[i],
                       .adapter = -1};
        for (size_t k = 1; k < t.n; k++) t.n_labels += t.labels[k] != GRAFT_IGNORE_LABEL;
        graft_status st = add_example(ds, &t, 0, i + 1, err);
        if (st != GRAFT_OK) {
            graft_dataset_free(ds);
            return st;
        }
        ds->stats.records++;
    }
    *out = ds;
    return GRAFT_OK;
}

size_t graft_dataset_count(const graft_dataset *ds) { return ds->n; }

void graft_dataset_get_stats(const graft_dataset *ds, graft_data_stats *out) { *out = ds->stats; }

const char *graft_dataset_bad_reason(const graft_dataset *ds, size_t i) {
    return i < GR_SCAN_REASONS ? ds->scan.reason[i] : NULL;
}

const int32_t *gr_dataset_ids(const graft_dataset *ds, size_t i, size_t *n) {
    *n = ds->entries[i + 1].start - ds->entries[i].start;
    return ds->ids + ds->entries[i].start;
}

size_t gr_dataset_n_source(const graft_dataset *ds, size_t i) { return ds->n_source ? ds->n_source[i] : 0; }
int32_t gr_dataset_adapter(const graft_dataset *ds, size_t i) { return ds->entries[i].adapter; }
int32_t gr_dataset_task(const graft_dataset *ds, size_t i) { return ds->entries[i].task; }

void graft_dataset_get(const graft_dataset *ds, size_t i, graft_example *out) {
    graft_example e = {.path = ds->paths[ds->entries[i].file], .line = ds->entries[i].line};
    e.ids = gr_dataset_ids(ds, i, &e.n);
    e.n_source = gr_dataset_n_source(ds, i);
    *out = e;
}

/* Place of the first other label at or behind token `at`. */
static size_t first_other(const graft_dataset *ds, size_t at) {
    size_t low = 0, high = ds->n_others;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (ds->others[mid].at < at) low = mid + 1;
        else high = mid;
    }
    return low;
}

size_t gr_dataset_target_labels(const graft_dataset *ds, size_t i, int32_t *out) {
    size_t start = ds->entries[i].start + gr_dataset_n_source(ds, i), end = ds->entries[i + 1].start, n = 0;
    size_t k = first_other(ds, start);
    for (size_t t = start; t < end; t++) {
        n += ds->kind[t] != IGNORED;
        out[t - start] = ds->kind[t] == OWN     ? ds->ids[t]
                         : ds->kind[t] == OTHER ? ds->others[k++].label
                                                : GRAFT_IGNORE_LABEL;
    }
    return n;
}

void graft_dataset_get_labels(const graft_dataset *ds, size_t i, int32_t *out) {
    size_t start = ds->entries[i].start, end = ds->entries[i + 1].start, k = first_other(ds, start);
    for (size_t t = start; t < end; t++) out[t - start] = GRAFT_IGNORE_LABEL;
    for (size_t t = start; t < end && ds->learn != GRAFT_LEARN_CLASSES; t++)
        out[t - start] = ds->kind[t] == OWN     ? ds->ids[t]
                         : ds->kind[t] == OTHER ? ds->others[k++].label
                                                : GRAFT_IGNORE_LABEL;
}

graft_learn gr_dataset_learn(const graft_dataset *ds) { return ds->learn; }
graft_problem gr_dataset_problem(const graft_dataset *ds) { return ds->problem; }
size_t gr_dataset_n_labels(const graft_dataset *ds) { return ds->n_labels; }
int32_t gr_dataset_class(const graft_dataset *ds, size_t i) { return ds->entries[i].class; }
const float *gr_dataset_values(const graft_dataset *ds, size_t i) {
    return ds->values ? ds->values + i * ds->n_labels : NULL;
}

void gr_dataset_types(const graft_dataset *ds, size_t i, int32_t *out) {
    size_t start = ds->entries[i].start, end = ds->entries[i + 1].start;
    for (size_t t = start; t < end; t++) out[t - start] = ds->learn == GRAFT_LEARN_CLASSES ? ds->kind[t] : 0;
}

size_t gr_dataset_masked_labels(const graft_dataset *ds, size_t i, int32_t *out, bool *given) {
    size_t start = ds->entries[i].start, end = ds->entries[i + 1].start, n = 0;
    graft_dataset_get_labels(ds, i, out);
    for (size_t t = start; t < end; t++) n += ds->kind[t] != IGNORED;
    *given = ds->entries[i].given;
    return n;
}

int32_t gr_dataset_first_label(const graft_dataset *ds, size_t i) {
    size_t t = ds->entries[i].start;
    if (t == ds->entries[i + 1].start) return GRAFT_IGNORE_LABEL;
    return ds->kind[t] == OWN     ? ds->ids[t]
           : ds->kind[t] == OTHER ? ds->others[first_other(ds, t)].label
                                  : GRAFT_IGNORE_LABEL;
}

size_t gr_dataset_shifted_labels(const graft_dataset *ds, size_t i, int32_t *out) {
    size_t start = ds->entries[i].start, end = ds->entries[i + 1].start, n = 0;
    if (start == end) return 0;
    size_t k = first_other(ds, start + 1);
    for (size_t t = start + 1; t < end; t++) {
        n += ds->kind[t] != IGNORED;
        out[t - 1 - start] = ds->kind[t] == OWN     ? ds->ids[t]
                             : ds->kind[t] == OTHER ? ds->others[k++].label
                                                    : GRAFT_IGNORE_LABEL;
    }
    out[end - 1 - start] = GRAFT_IGNORE_LABEL;
    return n;
}
