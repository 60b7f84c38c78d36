/* Texts through a model once, in ragged batches: classification, masks, embeddings. A text gives the same
 * bits in any batch. */
#include "graft/encode.h"

#include <math.h>

#include "graft/data.h"
#include "infer/pooling.h"
#include "model/public.h"
#include "text/slots.h"

enum { BATCH_TOKENS = 1024 };

typedef struct encoding {
    graft_model *m;
    const graft_allocator *a;
    int32_t adapter;
    const char *adapter_name;
    bool filled; /* the adapter has a template */
    int n_virtual, n_tasks;
    const int32_t *task_ids; /* of the texts; NULL: none */
    gr_pool *pool;
    gr_tape *tape;
    gr_pass *pass;
    /* Of the batch in flight. */
    int32_t *ids, *types, *bounds;
    size_t ids_cap, types_cap, bounds_cap;
    size_t n_tokens;
    int n_seqs;
} encoding;

static void close_encoding(encoding *e) {
    gr_pass_free(e->pass);
    gr_tape_free(e->tape);
    gr_pool_free(e->pool);
    gr_free(e->a, e->ids);
    gr_free(e->a, e->types);
    gr_free(e->a, e->bounds);
}

static graft_status open_encoding(encoding *e, graft_model *m, const graft_encode_options *o, graft_error *err) {
    gr_tape_options tape = {0};
    *e = (encoding){.m = m, .a = gr_allocator(m->ctx), .adapter = -1};
    if (o && o->adapter && (e->adapter = m->hooks->find(m->hooks->self, o->adapter)) < 0)
        return gr_fail(err, GRAFT_ERR_NOT_FOUND, "there is no adapter named '%s'", o->adapter);
    e->adapter_name = o ? o->adapter : NULL;
    e->filled = e->adapter >= 0 && m->hooks->prompt_template(m->hooks->self, e->adapter);
    e->n_virtual = m->hooks->n_virtual(m->hooks->self, e->adapter);
    e->n_tasks = m->hooks->n_tasks(m->hooks->self, e->adapter);
    e->task_ids = o ? o->task_ids : NULL;
    GR_TRY(gr_pool_new(e->a, 0, false, &e->pool, err));
    GR_TRY(gr_tape_new(gr_model_device(m->model), e->pool, &tape, &e->tape, err));
    return gr_pass_new(m->model, &e->pass, err);
}

static size_t room_of(const encoding *e, const graft_encode_options *o, size_t otherwise) {
    if (o && o->max_length > 0) return (size_t)o->max_length;
    const gr_model_config *c = gr_model_get_config(e->m->model);
    int64_t places = c->max_position_embeddings - (c->positions_after_pad ? c->pad_token_id + 1 : 0) -
                     gr_hooks_ahead(e->m->hooks, e->adapter);
    size_t most = (size_t)GR_MAX(places, 1);
    return otherwise ? GR_MIN(otherwise, most) : most;
}

/* The tokens of a text and their types, which the caller frees. */
static graft_status encode_text(const encoding *e, const graft_tokenizer *tok, const graft_text *t,
                                size_t max, int32_t **ids, int32_t **types, size_t *n, graft_error *err) {
    int32_t *own = NULL, *zeros;
    if (!t->ids && !e->filled)
        return graft_tokenizer_encode_pair(tok, t->text, t->len, t->pair, t->pair_len, max, ids, types, n,
                                           err);
    if (t->ids)
        *n = t->n_ids;
    else
        GR_TRY(graft_prompt_fill(e->m, tok, e->adapter_name, t->text, t->len, &own, n, err));
    if (t->ids && (own = gr_realloc_array(e->a, NULL, *n + 1, sizeof *own))) memcpy(own, t->ids, *n * sizeof *own);
    if (!own || !(zeros = gr_calloc(e->a, *n + 1, sizeof *zeros))) {
        gr_free(e->a, own);
        return gr_fail_memory(err);
    }
    *ids = own;
    *types = zeros;
    return GRAFT_OK;
}

static graft_status task_of(const encoding *e, size_t text, int32_t *out, graft_error *err) {
    const int32_t task = e->task_ids ? e->task_ids[text] : -1;
    if (task >= e->n_tasks || (e->n_tasks > 1 && task < 0))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       e->n_tasks ? "expected one of the adapter's %d tasks (task_ids), found %d"
                                  : "the adapter has %d tasks, found task %d",
                       e->n_tasks, task);
    *out = GR_MAX(task, 0);
    return GRAFT_OK;
}

/* Adds a text to the batch in flight; *full where it did not fit any more. */
static graft_status add_text(encoding *e, const graft_tokenizer *tok, const graft_text *t, size_t at,
                             size_t max, bool *full, graft_error *err) {
    int32_t *ids, *types;
    size_t n, first = e->n_tokens, ahead = (size_t)e->n_virtual;
    int32_t task;
    *full = false;
    GR_TRY(task_of(e, at, &task, err));
    GR_TRY(encode_text(e, tok, t, max, &ids, &types, &n, err));
    graft_status st = GRAFT_OK;
    if (e->n_seqs && first + ahead + n > BATCH_TOKENS) *full = true;
    if (!*full) st = gr_grow(e->a, (void **)&e->ids, &e->ids_cap, first + ahead + n + 1, sizeof *e->ids, err);
    if (!*full && st == GRAFT_OK)
        st = gr_grow(e->a, (void **)&e->types, &e->types_cap, first + ahead + n + 1, sizeof *e->types, err);
    if (!*full && st == GRAFT_OK)
        st = gr_grow(e->a, (void **)&e->bounds, &e->bounds_cap, (size_t)e->n_seqs + 2, sizeof *e->bounds, err);
    if (!*full && st == GRAFT_OK && ahead + n == 0) st = gr_fail(err, GRAFT_ERR_ARGUMENT, "a text without any token");
    if (!*full && st == GRAFT_OK) {
        for (size_t i = 0; i < ahead; i++) {
            e->ids[first + i] = -1 - task * e->n_virtual - (int32_t)i;
            e->types[first + i] = 0;
        }
        memcpy(e->ids + first + ahead, ids, n * sizeof *ids);
        memcpy(e->types + first + ahead, types, n * sizeof *types);
        e->n_tokens += ahead + n;
        e->bounds[0] = 0;
        e->bounds[++e->n_seqs] = (int32_t)e->n_tokens;
    }
    gr_free(e->a, ids);
    gr_free(e->a, types);
    return st;
}

static gr_batch batch_of(const encoding *e) {
    bool types = gr_model_get_config(e->m->model)->type_vocab_size > 1;
    return (gr_batch){.n_tokens = (int64_t)e->n_tokens, .n_seqs = e->n_seqs, .bounds = e->bounds, .ids = e->ids,
                      .token_types = types ? e->types : NULL, .one_adapter = e->adapter};
}

/* Calls `fn` for batch after batch; `done` texts stand before it. */
typedef graft_status (*batch_fn)(encoding *e, size_t done, void *arg, graft_error *err);
static graft_status each_batch(encoding *e, const graft_tokenizer *tok, const graft_text *texts, size_t n, size_t max,
                               batch_fn fn, void *arg, graft_error *err) {
    for (size_t i = 0, done = 0; i < n; done = i) {
        bool full = false;
        e->n_tokens = 0;
        e->n_seqs = 0;
        GR_TRY(gr_check_cancel(e->m->ctx, err));
        for (; i < n && !full; i += !full) {
            graft_status st = add_text(e, tok, &texts[i], i, max, &full, err);
            if (st != GRAFT_OK) return gr_error_prefix(err, st, "text %zu", i);
        }
        GR_TRY(fn(e, done, arg, err));
        gr_tape_reset(e->tape);
    }
    return GRAFT_OK;
}

/* Element i of an array in any type of activations. */
static float value_at(const encoding *e, const gr_array *x, int64_t i) {
    gr_device *dev = gr_model_device(e->m->model);
    float y;
    dev->k->convert(dev, x->dtype, (const char *)x->data + gr_dtype_bytes(x->dtype, (size_t)i), GR_F32, &y, 1);
    return y;
}

static void softmax(float *x, size_t n) {
    double sum = 0, most = -INFINITY;
    for (size_t i = 0; i < n; i++) most = fmax(most, x[i]);
    for (size_t i = 0; i < n; i++) sum += exp(x[i] - most);
    for (size_t i = 0; i < n; i++) x[i] = (float)(exp(x[i] - most) / sum);
}

/* --- Classification ----------------------------------------------------------------------------------------------- */

typedef struct classifying {
    float *out;
    size_t n_labels;
    gr_problem problem;
    bool raw;
} classifying;

static void finish_scores(const classifying *c, float *row) {
    if (c->raw || c->problem == GR_PROBLEM_REGRESSION) return;
    if (c->problem != GR_PROBLEM_MULTI && c->n_labels > 1) {
        softmax(row, c->n_labels);
        return;
    }
    for (size_t i = 0; i < c->n_labels; i++) row[i] = (float)(1 / (1 + exp(-(double)row[i])));
}

static graft_status classify_batch(encoding *e, size_t done, void *arg, graft_error *err) {
    const classifying *c = arg;
    const gr_batch b = batch_of(e);
    const gr_pass_options o = {.hooks = e->m->hooks};
    gr_var *logits = NULL;
    int32_t *rows = gr_alloc(e->a, (size_t)e->n_seqs * sizeof *rows);
    if (!rows) return gr_fail_memory(err);
    graft_status st = GRAFT_OK;
    for (int s = 0; st == GRAFT_OK && s < e->n_seqs; s++) {
        int32_t begin = e->bounds[s], len = e->bounds[s + 1] - begin;
        const int64_t at = gr_model_pooled_token(e->m->model, e->ids + begin, len, e->n_virtual > 0 || e->filled);
        rows[s] = begin + (int32_t)at;
        if (at < 0)
            st = gr_fail(err, GRAFT_ERR_ARGUMENT,
                         "text %zu: expected an end of text, where the classifier looks, found none", done + (size_t)s);
    }
    if (st == GRAFT_OK) st = gr_pass_logits(e->pass, e->tape, &b, &o, rows, e->n_seqs, &logits, err);
    for (size_t s = 0; st == GRAFT_OK && s < (size_t)e->n_seqs; s++) {
        float *row = c->out + (done + s) * c->n_labels;
        for (size_t i = 0; i < c->n_labels; i++)
            row[i] = value_at(e, gr_var_array(logits), (int64_t)(s * c->n_labels + i));
        finish_scores(c, row);
    }
    gr_var_drop(logits);
    gr_free(e->a, rows);
    return st;
}

static graft_status want_task(const graft_model *m, gr_task task, const char *what, graft_error *err) {
    gr_task found = gr_model_get_config(m->model)->task;
    if (found == task) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: %s needs a model of the task %s, found %s", gr_model_path(m->model),
                   what, gr_task_name(task), gr_task_name(found));
}

typedef struct wording {
    gr_slots slots;
    int32_t *ids; /* of its words */
    int32_t mask;
    classifying scores;
} wording;

static graft_status word_batch(encoding *e, size_t done, void *arg, graft_error *err) {
    const wording *w = arg;
    const gr_batch b = batch_of(e);
    const gr_pass_options o = {.hooks = e->m->hooks};
    const int64_t vocab = gr_model_get_config(e->m->model)->vocab_size;
    gr_var *logits = NULL;
    int32_t *rows = gr_alloc(e->a, (size_t)e->n_seqs * sizeof *rows), found = 0;
    graft_status st = rows ? GRAFT_OK : gr_fail_memory(err);
    for (int s = 0; st == GRAFT_OK && s < e->n_seqs; s++) {
        for (int32_t i = e->bounds[s]; found == s && i < e->bounds[s + 1]; i++)
            if (e->ids[i] == w->mask) rows[found++] = i;
        if (found == s)
            st = gr_fail(err, GRAFT_ERR_ARGUMENT, "text %zu: expected a mask token, found none",
                         done + (size_t)s);
    }
    if (st == GRAFT_OK) st = gr_pass_logits(e->pass, e->tape, &b, &o, rows, e->n_seqs, &logits, err);
    for (int64_t s = 0; st == GRAFT_OK && s < e->n_seqs; s++) {
        float *row = w->scores.out + (done + (size_t)s) * w->slots.n_words;
        for (size_t i = 0; i < w->slots.n_words; i++) row[i] = value_at(e, gr_var_array(logits), s * vocab + w->ids[i]);
        finish_scores(&w->scores, row);
    }
    gr_var_drop(logits);
    gr_free(e->a, rows);
    return st;
}

/* The first mask of a text counts: a template has one, and a field's text may bring others. */
static graft_status classify_words(encoding *e, const graft_tokenizer *tok, const graft_text *texts, size_t n,
                                   bool raw, float *out, graft_error *err) {
    wording w = {.mask = graft_tokenizer_special_id(tok, GRAFT_TOKEN_MASK)};
    gr_arena arena;
    gr_arena_init(&arena, e->a, 0);
    graft_status st = gr_slots_parse(
        &arena, "template", e->m->hooks->prompt_template(e->m->hooks->self, e->adapter), &w.slots, err);
    if (st == GRAFT_OK && !w.slots.n_words)
        st = gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                     "the adapter's template has no words for labels, which could be scored");
    if (st == GRAFT_OK) st = gr_slots_word_ids(tok, e->a, &arena, &w.slots, &w.ids, err);
    w.scores = (classifying){.out = out, .n_labels = w.slots.n_words, .problem = GR_PROBLEM_SINGLE, .raw = raw};
    if (st == GRAFT_OK) st = each_batch(e, tok, texts, n, room_of(e, NULL, 0), word_batch, &w, err);
    gr_arena_free(&arena);
    return st;
}

graft_status graft_classify(graft_model *m, const graft_tokenizer *tok, const graft_text *texts, size_t n,
                            const graft_encode_options *options, float *out, graft_error *err) {
    encoding e;
    const gr_model_config *c = gr_model_get_config(m->model);
    classifying job = {
        .out = out, .n_labels = graft_model_n_labels(m), .problem = c->problem, .raw = options && options->raw};
    const bool words = c->task == GR_TASK_MASKED_LM && options && options->adapter;
    if (!words) GR_TRY(want_task(m, GR_TASK_SEQ_CLS, "classification", err));
    graft_status st = open_encoding(&e, m, options, err);
    if (st == GRAFT_OK && words) {
        st = e.filled ? classify_words(&e, tok, texts, n, job.raw, out, err)
                      : want_task(m, GR_TASK_SEQ_CLS, "classification", err);
        close_encoding(&e);
        return st;
    }
    if (st == GRAFT_OK) st = each_batch(&e, tok, texts, n, room_of(&e, options, 0), classify_batch, &job, err);
    close_encoding(&e);
    return st;
}

/* --- Masks -------------------------------------------------------------------------------------------------------- */

/* The k largest of a row, in order; the first of equals first. */
static void take_largest(const float *row, int64_t n, size_t k, graft_fill *out) {
    size_t have = 0;
    for (int64_t i = 0; i < n; i++) {
        if (have == k && !(row[i] > out[k - 1].score)) continue;
        size_t at = have < k ? have++ : k - 1;
        for (; at > 0 && out[at - 1].score < row[i]; at--) out[at] = out[at - 1];
        out[at] = (graft_fill){(int32_t)i, row[i]};
    }
}

static graft_status fill_masks(encoding *e, int32_t mask, size_t k, graft_fill **out, size_t *n_masks,
                               graft_error *err) {
    const gr_batch b = batch_of(e);
    const gr_pass_options o = {.hooks = e->m->hooks};
    int64_t vocab = gr_model_get_config(e->m->model)->vocab_size;
    size_t n = 0;
    gr_var *logits = NULL;
    int32_t *rows = gr_alloc(e->a, e->n_tokens * sizeof *rows);
    float *row = gr_alloc(e->a, (size_t)vocab * sizeof *row);
    graft_status st = rows && row ? GRAFT_OK : gr_fail_memory(err);
    for (size_t i = 0; st == GRAFT_OK && i < e->n_tokens; i++)
        if (e->ids[i] == mask) rows[n++] = (int32_t)i;
    if (st == GRAFT_OK && !n)
        st = gr_fail(err, GRAFT_ERR_ARGUMENT, "the text has no mask token, in whose place words could stand");
    graft_fill *list = st == GRAFT_OK ? gr_calloc(e->a, n * k, sizeof *list) : NULL;
    if (st == GRAFT_OK && !list) st = gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_pass_logits(e->pass, e->tape, &b, &o, rows, (int64_t)n, &logits, err);
    for (size_t i = 0; st == GRAFT_OK && i < n; i++) {
        for (int64_t v = 0; v < vocab; v++) row[v] = value_at(e, gr_var_array(logits), (int64_t)i * vocab + v);
        softmax(row, (size_t)vocab);
        take_largest(row, vocab, k, list + i * k);
    }
    gr_var_drop(logits);
    gr_free(e->a, rows);
    gr_free(e->a, row);
    if (st != GRAFT_OK) {
        gr_free(e->a, list);
        return st;
    }
    *out = list;
    *n_masks = n;
    return GRAFT_OK;
}

graft_status graft_fill_mask(graft_model *m, const graft_tokenizer *tok, const graft_text *text, size_t k,
                             const graft_encode_options *options, graft_fill **out, size_t *n_masks, graft_error *err) {
    encoding e;
    bool full;
    int32_t mask = graft_tokenizer_special_id(tok, GRAFT_TOKEN_MASK);
    GR_TRY(want_task(m, GR_TASK_MASKED_LM, "filling masks", err));
    if (mask < 0) return gr_fail(err, GRAFT_ERR_MISMATCH, "the tokenizer has no mask token");
    if (k < 1 || k > (size_t)gr_model_get_config(m->model)->vocab_size)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected 1 to %lld words a mask, found %zu",
                       (long long)gr_model_get_config(m->model)->vocab_size, k);
    graft_status st = open_encoding(&e, m, options, err);
    if (st == GRAFT_OK) st = add_text(&e, tok, text, 0, room_of(&e, options, 0), &full, err);
    if (st == GRAFT_OK) st = fill_masks(&e, mask, k, out, n_masks, err);
    close_encoding(&e);
    return st;
}

/* --- Embeddings --------------------------------------------------------------------------------------------------- */

typedef struct embedding {
    float *out;
    int64_t width;
    gr_pooling pooling;
} embedding;

/* One vector of the rows of a sequence. */
static void pool_rows(const encoding *e, const embedding *j, const gr_array *x, int64_t begin, int64_t end,
                      float *out) {
    double length = 0, n = (double)(end - begin);
    for (int64_t c = 0; c < j->width; c++) {
        double sum = 0, most = -INFINITY;
        for (int64_t r = begin; r < end; r++) {
            double v = value_at(e, x, r * j->width + c);
            sum += v;
            most = fmax(most, v);
        }
        double y = j->pooling.how == GR_POOL_MEAN        ? sum / n
                   : j->pooling.how == GR_POOL_MEAN_SQRT ? sum / sqrt(n)
                   : j->pooling.how == GR_POOL_MAX
                       ? most
                       : value_at(e, x, (j->pooling.how == GR_POOL_FIRST ? begin : end - 1) * j->width + c);
        out[c] = (float)y;
        length += y * y;
    }
    for (int64_t c = 0; j->pooling.normalize && c < j->width; c++) out[c] = (float)(out[c] / fmax(sqrt(length), 1e-12));
}

static graft_status embed_batch(encoding *e, size_t done, void *arg, graft_error *err) {
    const embedding *j = arg;
    const gr_batch b = batch_of(e);
    const gr_pass_options o = {.hooks = e->m->hooks};
    gr_var *hidden;
    GR_TRY(gr_pass_hidden(e->pass, e->tape, &b, &o, NULL, 0, &hidden, err));
    for (int s = 0; s < e->n_seqs; s++) {
        int64_t first =
            e->n_virtual && e->n_virtual < e->bounds[s + 1] - e->bounds[s] ? e->n_virtual : 0; /* the text's own */
        pool_rows(e, j, gr_var_array(hidden), e->bounds[s] + first, e->bounds[s + 1],
                  j->out + (done + (size_t)s) * (size_t)j->width);
    }
    gr_var_drop(hidden);
    return GRAFT_OK;
}

size_t graft_model_embedding_size(const graft_model *m) { return (size_t)gr_model_get_config(m->model)->hidden_size; }

graft_status graft_embed(graft_model *m, const graft_tokenizer *tok, const graft_text *texts, size_t n,
                         const graft_encode_options *options, float *out, graft_error *err) {
    encoding e;
    gr_task task = gr_model_get_config(m->model)->task;
    embedding job = {.out = out, .width = gr_model_get_config(m->model)->hidden_size};
    if (task != GR_TASK_FEATURES && task != GR_TASK_CAUSAL_LM)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "%s: embeddings need a model of the task FEATURE_EXTRACTION, found %s: task_type can say so",
                       gr_model_path(m->model), gr_task_name(task));
    GR_TRY(gr_pooling_load(gr_allocator(m->ctx), gr_model_path(m->model), &job.pooling, err));
    graft_status st = open_encoding(&e, m, options, err);
    if (st == GRAFT_OK)
        st = each_batch(&e, tok, texts, n, room_of(&e, options, job.pooling.max_length), embed_batch, &job, err);
    close_encoding(&e);
    return st;
}
