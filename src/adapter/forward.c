/* graft_forward: one pass on given tensors, to be held against the reference library.
 *
 * The reference pads: masked tokens stand in the row but are seen by nobody. Here they are left out, and each row becomes
 * the runs of its visible tokens, every run continuing the one before at its own place, so that positions, windows and
 * causality are those of the padded row. One thing of the padding reaches the reference's loss: logits at a masked
 * position count where the next token has a label. Such positions are computed too, as tokens that nobody sees.
 *
 * Where the adapter has virtual input rows they stand in front of every row, and in its logits. */
#include <stdio.h>

#include "adapter/method.h"
#include "io/paths.h"
#include "model/public.h"

typedef struct padded {
    int64_t rows, columns; /* columns with the virtual ones */
    int64_t ahead;         /* virtual columns */
    const gr_named_tensor *ids, *mask, *labels, *positions;
} padded;

typedef struct ragged {
    gr_batch batch;
    int32_t *ids, *positions, *labels, *cell; /* cell: row * columns + column of each token */
    int32_t *bounds, *start, *parent, *rope_length;
    float *weight;
    bool *blind;
    int64_t n_labels;
} ragged;

/* --- Input -------------------------------------------------------------------------------------------------------------------------- */

static int64_t integer_at(const gr_tensor_view *v, int64_t i) {
    int64_t x = 0;
    int32_t y = 0;
    switch (v->dtype) {
    case GR_I64: memcpy(&x, (const char *)v->data + i * 8, 8); return x;
    case GR_I32: memcpy(&y, (const char *)v->data + i * 4, 4); return y;
    case GR_U8:
    case GR_BOOL: return ((const uint8_t *)v->data)[i];
    default: return ((const int8_t *)v->data)[i];
    }
}

static graft_status find_input(const gr_tensor_list *list, const char *path, const char *name, const gr_shape *shape,
                               const gr_named_tensor **out, graft_error *err) {
    const gr_named_tensor *t = gr_tensor_list_find(list, name);
    char found[GR_SHAPE_TEXT], expected[GR_SHAPE_TEXT];
    if (!t) return GRAFT_OK;
    gr_dtype d = t->view.dtype;
    if (d != GR_I64 && d != GR_I32 && d != GR_U8 && d != GR_BOOL && d != GR_I8)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: '%s' has type %s, expected I64", path, name, gr_dtype_name(d));
    if (shape ? !gr_shape_equal(&t->view.shape, shape) : t->view.shape.n != 2)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: '%s' has shape %s, expected %s", path, name,
                       gr_shape_format(&t->view.shape, found, sizeof found),
                       shape ? gr_shape_format(shape, expected, sizeof expected) : "[rows, columns]");
    *out = t;
    return GRAFT_OK;
}

static graft_status read_input(const gr_tensor_list *list, const char *path, int64_t ahead, padded *in, graft_error *err) {
    *in = (padded){.ahead = ahead};
    for (size_t i = 0; i < list->n; i++) {
        const char *n = list->items[i].name;
        if (strcmp(n, "input_ids") != 0 && strcmp(n, "attention_mask") != 0 && strcmp(n, "labels") != 0 &&
            strcmp(n, "position_ids") != 0)
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: this model takes no '%s'", path, n);
    }
    GR_TRY(find_input(list, path, "input_ids", NULL, &in->ids, err));
    if (!in->ids) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: no 'input_ids'", path);
    gr_shape shape = in->ids->view.shape;
    in->rows = shape.d[0];
    in->columns = shape.d[1];
    if (in->rows < 1 || in->columns < 1 || in->rows > INT32_MAX / (in->columns + ahead) / 2)
        return gr_fail(err, GRAFT_ERR_LIMIT, "%s: 'input_ids' of %lld x %lld", path, (long long)in->rows,
                       (long long)in->columns);
    GR_TRY(find_input(list, path, "attention_mask", &shape, &in->mask, err));
    GR_TRY(find_input(list, path, "labels", &shape, &in->labels, err));
    GR_TRY(find_input(list, path, "position_ids", &shape, &in->positions, err));
    if (in->positions && ahead)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: 'position_ids' cannot be given to an adapter with virtual tokens",
                       path);
    in->columns += ahead;
    return GRAFT_OK;
}

/* What an input says of column c of a row, c not virtual. */
static int64_t input_at(const padded *in, const gr_named_tensor *t, int64_t row, int64_t c) {
    return integer_at(&t->view, row * (in->columns - in->ahead) + c - in->ahead);
}

static bool is_visible(const padded *in, int64_t row, int64_t c) {
    return c < in->ahead || !in->mask || input_at(in, in->mask, row, c) != 0;
}

/* --- The ragged form ------------------------------------------------------------------------------------------------------------------ */

static void free_ragged(const graft_allocator *a, ragged *r) {
    void *const all[] = {r->ids, r->positions, r->labels, r->cell, r->bounds, r->start, r->parent, r->rope_length,
                         r->weight, r->blind};
    for (size_t i = 0; i < GR_COUNT(all); i++) gr_free(a, all[i]);
}

static graft_status alloc_ragged(const graft_allocator *a, ragged *r, int64_t n, graft_error *err) {
    int32_t **const ints[] = {&r->ids, &r->positions, &r->labels, &r->cell, &r->bounds, &r->start, &r->parent,
                              &r->rope_length};
    for (size_t i = 0; i < GR_COUNT(ints); i++)
        if (!(*ints[i] = gr_calloc(a, (size_t)n + 1, sizeof(int32_t)))) return gr_fail_memory(err);
    r->weight = gr_calloc(a, (size_t)n + 1, sizeof *r->weight);
    r->blind = gr_calloc(a, (size_t)n + 1, sizeof *r->blind);
    return r->weight && r->blind ? GRAFT_OK : gr_fail_memory(err);
}

static void add_token(ragged *r, const padded *in, int64_t row, int64_t column, int32_t label) {
    int64_t cell = row * in->columns + column, at = r->batch.n_tokens++;
    int64_t id = column < in->ahead ? 0 : input_at(in, in->ids, row, column);
    r->ids[at] = id < 0 || id > INT32_MAX ? INT32_MAX : (int32_t)id; /* refused by the batch's check */
    if (column < in->ahead) r->ids[at] = (int32_t)(-1 - column);
    r->positions[at] = (int32_t)column;
    if (in->positions) r->positions[at] = (int32_t)input_at(in, in->positions, row, column);
    r->labels[at] = label;
    r->cell[at] = (int32_t)cell;
    r->n_labels += label >= 0;
    r->bounds[r->batch.n_seqs] = (int32_t)r->batch.n_tokens;
}

static void begin_sequence(ragged *r, int64_t column, int32_t parent, bool blind) {
    int s = r->batch.n_seqs++;
    r->bounds[s] = (int32_t)r->batch.n_tokens;
    r->start[s] = (int32_t)column;
    r->parent[s] = parent;
    r->blind[s] = blind;
}

static graft_status fill_row(ragged *r, const padded *in, int64_t row, graft_error *err) {
    int32_t run = -1;      /* the last run of visible tokens */
    int64_t run_end = -1;  /* the column after it */
    for (int64_t c = 0; c < in->columns; c++) {
        int64_t label = -100;
        bool visible = is_visible(in, row, c);
        if (in->labels && c + 1 < in->columns && c + 1 >= in->ahead) label = input_at(in, in->labels, row, c + 1);
        if (label > INT32_MAX || (label < 0 && label != -100))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "labels[%lld][%lld] is %lld, expected a token id or -100",
                           (long long)row, (long long)(c + 1 - in->ahead), (long long)label);
        if (visible && run_end != c) {
            begin_sequence(r, c, run, false);
            run = r->batch.n_seqs - 1;
        } else if (!visible && label >= 0)
            begin_sequence(r, c, run, true);
        if (visible || label >= 0) add_token(r, in, row, c, (int32_t)label);
        if (visible) run_end = c + 1;
    }
    return GRAFT_OK;
}

/* The reference computes dynamic scaling for the longest position of the whole batch. */
static graft_status fill_ragged(const graft_allocator *a, ragged *r, const padded *in, int32_t adapter, graft_error *err) {
    *r = (ragged){0};
    GR_TRY(alloc_ragged(a, r, in->rows * in->columns, err));
    for (int64_t row = 0; row < in->rows; row++) GR_TRY(fill_row(r, in, row, err));
    if (!r->batch.n_tokens) return gr_fail(err, GRAFT_ERR_ARGUMENT, "attention_mask hides every token");
    int64_t longest = in->columns;
    for (int64_t i = 0; in->positions && i < in->rows * in->columns; i++) /* nothing is virtual then */
        longest = GR_MAX(i ? longest : 0, integer_at(&in->positions->view, i) + 1);
    for (int s = 0; s < r->batch.n_seqs; s++) r->rope_length[s] = (int32_t)GR_MIN(longest, INT32_MAX);
    for (int64_t i = 0; i < r->batch.n_tokens; i++) r->weight[i] = 1.0f / (float)r->n_labels;
    r->batch.bounds = r->bounds;
    r->batch.ids = r->ids;
    r->batch.positions = r->positions;
    r->batch.seq_start = r->start;
    r->batch.parent = r->parent;
    r->batch.blind = r->blind;
    r->batch.rope_length = r->rope_length;
    r->batch.one_adapter = adapter;
    r->batch.labels = r->labels;
    r->batch.weight = r->weight;
    return GRAFT_OK;
}

/* --- Running ---------------------------------------------------------------------------------------------------------------------------- */

typedef struct forward_job {
    gr_model *m;
    gr_adapter_set *set;
    const graft_allocator *a;
    int adapter; /* -1: none */
    bool backward;
    padded in;
    ragged r;
    gr_pass *pass;
    gr_pool *pool;
    double loss;
} forward_job;

static graft_status new_tape(forward_job *j, bool record, gr_tape **out, graft_error *err) {
    gr_tape_options o = {.record = record};
    return gr_tape_new(gr_model_device(j->m), j->pool, &o, out, err);
}

static graft_status run_loss(forward_job *j, graft_error *err) {
    gr_tape *t = NULL;
    gr_loss loss;
    gr_pass_options o = {.hooks = gr_adapter_set_hooks(j->set)};
    graft_status st = new_tape(j, j->backward, &t, err);
    if (st == GRAFT_OK) st = gr_pass_loss(j->pass, t, &j->r.batch, &o, &loss, err);
    if (st == GRAFT_OK) j->loss = loss.sum / (double)loss.n_labels;
    if (st == GRAFT_OK && j->backward && gr_var_needs_grad(loss.var)) st = gr_tape_backward(t, loss.var, NULL, err);
    gr_tape_free(t);
    return st;
}

static graft_status write_zeros(gr_safetensors_writer *w, int64_t n, graft_error *err) {
    static const float zeros[1024];
    for (; n > 0; n -= (int64_t)GR_COUNT(zeros))
        GR_TRY(gr_safetensors_write(w, zeros, (size_t)GR_MIN(n, (int64_t)GR_COUNT(zeros)) * sizeof *zeros, err));
    return GRAFT_OK;
}

static graft_status write_floats(const forward_job *j, gr_safetensors_writer *w, const void *x, int64_t n, graft_error *err) {
    gr_device *dev = gr_model_device(j->m);
    if (gr_model_param_dtype(j->m) == GR_F32) return gr_safetensors_write(w, x, (size_t)n * sizeof(float), err);
    float part[256];
    for (int64_t i = 0; i < n; i += (int64_t)GR_COUNT(part)) {
        int64_t k = GR_MIN(n - i, (int64_t)GR_COUNT(part));
        dev->k->convert(dev, GR_F64, (const double *)x + i, GR_F32, part, k);
        GR_TRY(gr_safetensors_write(w, part, (size_t)k * sizeof *part, err));
    }
    return GRAFT_OK;
}

/* Logits token by token in the padded order, a few rows of the head at a time; masked cells get zeros. */
static graft_status write_logits(forward_job *j, gr_tape *t, gr_safetensors_writer *w, graft_error *err) {
    enum { ROWS = 64 };
    int64_t vocab = gr_model_get_config(j->m)->vocab_size, next = 0, done = 0;
    gr_pass_options o = {.hooks = gr_adapter_set_hooks(j->set)};
    gr_var *hidden, *logits = NULL;
    GR_TRY(gr_pass_hidden(j->pass, t, &j->r.batch, &o, NULL, 0, &hidden, err));
    for (int64_t cell = 0; cell < j->in.rows * j->in.columns; cell++) {
        bool visible = is_visible(&j->in, cell / j->in.columns, cell % j->in.columns);
        bool here = next < j->r.batch.n_tokens && j->r.cell[next] == cell;
        if (here && next >= done) {
            gr_var_drop(logits);
            int64_t n = GR_MIN(ROWS, j->r.batch.n_tokens - done);
            GR_TRY(gr_pass_head(j->pass, hidden, done, n, &logits, err));
            done += n;
        }
        if (here && visible) {
            const gr_array *x = gr_var_array(logits);
            int64_t row = next - (done - x->shape.d[0]);
            const char *at = (const char *)x->data + gr_dtype_bytes(x->dtype, (size_t)(row * vocab));
            GR_TRY(write_floats(j, w, at, vocab, err));
        } else
            GR_TRY(write_zeros(w, vocab, err));
        next += here;
    }
    gr_var_drop(logits);
    gr_var_drop(hidden);
    return GRAFT_OK;
}

static graft_status declare(const forward_job *j, gr_safetensors_writer *w, graft_error *err) {
    char name[400];
    gr_shape logits = gr_shape3(j->in.rows, j->in.columns, gr_model_get_config(j->m)->vocab_size), one = gr_shape1(1);
    GR_TRY(gr_safetensors_declare(w, "logits", GR_F32, &logits, err));
    if (j->r.n_labels) GR_TRY(gr_safetensors_declare(w, "loss", GR_F32, &one, err));
    for (size_t i = 0; j->backward && i < gr_adapter_n_params(j->set, j->adapter); i++) {
        const gr_param *p = gr_adapter_param(j->set, j->adapter, i);
        snprintf(name, sizeof name, "grad.%s", p->name);
        GR_TRY(gr_safetensors_declare(w, name, GR_F32, &p->shape, err));
    }
    return GRAFT_OK;
}

static graft_status write_all(forward_job *j, gr_tape *t, gr_safetensors_writer *w, graft_error *err) {
    const size_t *order;
    size_t others = j->r.n_labels ? 2 : 1, n = others + (j->backward ? gr_adapter_n_params(j->set, j->adapter) : 0);
    float loss = (float)j->loss;
    GR_TRY(declare(j, w, err));
    GR_TRY(gr_safetensors_writer_begin(w, &order, err));
    for (size_t i = 0; i < n; i++) {
        if (order[i] == 0)
            GR_TRY(write_logits(j, t, w, err));
        else if (order[i] < others)
            GR_TRY(gr_safetensors_write(w, &loss, sizeof loss, err));
        else {
            const gr_param *p = gr_adapter_param(j->set, j->adapter, order[i] - others);
            GR_TRY(write_floats(j, w, p->grad, p->n, err));
        }
    }
    return GRAFT_OK;
}

static graft_status write_output(forward_job *j, const char *path, graft_error *err) {
    const char *base = gr_path_base(path), *tail = ".safetensors";
    bool named = gr_ends_with(base, tail) && strlen(base) > strlen(tail);
    char *dir = gr_path_dir(j->a, path), *made = NULL;
    char *stem = gr_strndup(j->a, base, strlen(base) - (named ? strlen(tail) : 0));
    gr_safetensors_writer *w = NULL;
    gr_tape *t = NULL;
    gr_safetensors_options options = {.stem = stem};
    graft_status st = dir && stem ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK) st = new_tape(j, false, &t, err);
    if (st == GRAFT_OK) st = gr_safetensors_writer_new(j->a, dir, &options, &w, err);
    if (st == GRAFT_OK && (st = write_all(j, t, w, err)) == GRAFT_OK) {
        st = gr_safetensors_writer_commit(w, err);
        w = NULL;
    }
    if (st == GRAFT_OK && !named) { /* the writer gives its files their usual ending */
        gr_buf b;
        gr_buf_init(&b, j->a);
        gr_buf_add_format(&b, "%s%s", path, tail);
        st = gr_buf_take(&b, &made, NULL, err);
        if (st == GRAFT_OK && rename(made, path) != 0) st = gr_fail(err, GRAFT_ERR_IO, "%s: cannot be written", path);
        gr_buf_free(&b);
    }
    gr_safetensors_writer_abort(w);
    gr_tape_free(t);
    gr_free(j->a, made);
    gr_free(j->a, dir);
    gr_free(j->a, stem);
    return st;
}

static graft_status run_forward(forward_job *j, const graft_forward_options *o, graft_error *err) {
    gr_safetensors *f;
    GR_TRY(gr_safetensors_open(j->a, o->input, &f, err));
    graft_status st;
    GR_GO(done, read_input(gr_safetensors_tensors(f), o->input, gr_adapter_n_virtual(j->set, j->adapter), &j->in, err));
    GR_GO(done, fill_ragged(j->a, &j->r, &j->in, j->adapter, err));
    if (j->backward && !j->r.n_labels)
        GR_GO(done, gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: gradients need 'labels' that are not all ignored", o->input));
    GR_GO(done, gr_pool_new(j->a, 0, false, &j->pool, err));
    GR_GO(done, gr_pass_new(j->m, &j->pass, err));
    for (size_t i = 0; j->backward && i < gr_adapter_n_params(j->set, j->adapter); i++) {
        gr_param *p = gr_adapter_param(j->set, j->adapter, i);
        memset(p->grad, 0, gr_dtype_bytes(p->dtype, (size_t)p->n));
    }
    if (j->backward) GR_GO(done, gr_adapter_refresh(j->set, j->adapter, 0, true, err));
    if (j->r.n_labels) GR_GO(done, run_loss(j, err));
    if (j->backward) GR_GO(done, gr_adapter_collect(j->set, j->adapter, err));
    GR_GO(done, write_output(j, o->output, err));
done:
    gr_pass_free(j->pass);
    gr_pool_free(j->pool);
    free_ragged(j->a, &j->r);
    gr_safetensors_close(f);
    return st;
}

graft_status graft_forward(graft_model *m, const graft_forward_options *o, graft_error *err) {
    static const char everything[] = "{\"peft_type\": \"FULL\"}";
    forward_job j = {.m = m->model, .set = m->adapters, .a = gr_allocator(m->ctx), .backward = o->backward != 0};
    int temporary = -1;
    if (!o->input || !o->output) return gr_fail(err, GRAFT_ERR_ARGUMENT, "a forward pass needs an input and an output file");
    GR_TRY(gr_model_choose_adapter(m, o->adapter, &j.adapter, err));
    if (j.backward && j.adapter < 0) {
        GR_TRY(gr_adapter_set_create(j.set, "all tensors", everything, strlen(everything), 0, &temporary, err));
        j.adapter = temporary;
    } else if (j.backward && gr_adapter_n_params(j.set, j.adapter) && !gr_adapter_param(j.set, j.adapter, 0)->grad)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "adapter '%s' was not loaded to be trained: it has no gradients",
                       gr_adapter_set_name(j.set, j.adapter));
    graft_status st = run_forward(&j, o, err);
    if (temporary >= 0) gr_adapter_set_remove(j.set, temporary);
    return st;
}
