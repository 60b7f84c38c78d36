/* The padded input of graft_forward as a ragged batch.
 *
 * The reference pads: masked tokens stand in the row but are seen by nobody. Here they are left out, and each row
 * becomes the runs of its visible tokens, every run continuing the one before at its own place, so that positions,
 * windows and causality are those of the padded row. One thing of the padding reaches the reference's loss: logits at a
 * masked position count where the next token has a label, and a classification may take a masked token's hidden state.
 * Such positions are computed too, as tokens that nobody sees. Where tokens see all of their row it is one sequence. */
#include "adapter/forward.h"

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

/* Labels of rows: one class each, or floats, one a row or one a label of the model. */
static graft_status find_row_labels(const gr_tensor_list *list, const char *path, const gr_model *m, gr_padded *in, graft_error *err) {
    const gr_named_tensor *t = gr_tensor_list_find(list, "labels");
    const int64_t n = gr_model_get_config(m)->n_labels;
    const gr_shape flat = gr_shape1(in->rows), wide = gr_shape2(in->rows, n);
    char found[GR_SHAPE_TEXT];
    if (!t) return GRAFT_OK;
    const bool floats = t->view.dtype == GR_F32;
    if (!floats) GR_TRY(find_input(list, path, "labels", &flat, &t, err));
    if (floats && !gr_shape_equal(&t->view.shape, &wide) && !(n == 1 && gr_shape_equal(&t->view.shape, &flat)))
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: 'labels' has shape %s, expected [%lld, %lld]", path,
                       gr_shape_format(&t->view.shape, found, sizeof found), (long long)in->rows, (long long)n);
    in->labels = t;
    return GRAFT_OK;
}

static bool is_input(const gr_model_config *c, int64_t n_tasks, const char *name) {
    bool decoder = strcmp(name, "decoder_input_ids") == 0 || strcmp(name, "decoder_attention_mask") == 0;
    if (strcmp(name, "task_ids") == 0) return n_tasks > 0;
    if (strcmp(name, "labels") == 0) return c->task != GR_TASK_FEATURES;
    if (strcmp(name, "token_type_ids") == 0) return c->type_vocab_size;
    if (strcmp(name, "position_ids") == 0 || decoder) return decoder == (c->n_encoder_layers > 0);
    return strcmp(name, "input_ids") == 0 || strcmp(name, "attention_mask") == 0;
}

static graft_status read_tasks(const gr_tensor_list *list, const char *path, gr_padded *in, graft_error *err) {
    const gr_named_tensor *t = gr_tensor_list_find(list, "task_ids");
    if (!t) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: no 'task_ids', by which the adapter chooses its prompt", path);
    if (t->view.dtype != GR_I64 || t->view.shape.n != 1 || t->view.shape.d[0] != in->rows)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: 'task_ids': expected %lld integers of 64 bits", path, (long long)in->rows);
    for (int64_t r = 0; r < in->rows; r++)
        if (integer_at(&t->view, r) < 0 || integer_at(&t->view, r) >= in->n_tasks)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: task_ids[%lld] is %lld, expected 0 to %lld", path, (long long)r,
                           (long long)integer_at(&t->view, r), (long long)in->n_tasks - 1);
    in->tasks = t;
    return GRAFT_OK;
}

static graft_status read_ids(const gr_tensor_list *list, const char *path, int64_t ahead, gr_padded *in,
                             graft_error *err) {
    GR_TRY(find_input(list, path, "input_ids", NULL, &in->ids, err));
    if (!in->ids) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: no 'input_ids'", path);
    gr_shape shape = in->ids->view.shape;
    in->rows = shape.d[0];
    in->columns = shape.d[1];
    if (in->rows < 1 || in->columns < 1 || in->rows > INT32_MAX / (in->columns + ahead) / 2)
        return gr_fail(err, GRAFT_ERR_LIMIT, "%s: 'input_ids' of %lld x %lld", path, (long long)in->rows,
                       (long long)in->columns);
    in->columns += ahead;
    if (in->n_tasks) GR_TRY(read_tasks(list, path, in, err));
    return find_input(list, path, "attention_mask", &shape, &in->mask, err);
}

/* The decoder's side. */
static graft_status read_targets(const gr_tensor_list *list, const char *path, const gr_model *m,
                                 const gr_padded *source, gr_padded *in, graft_error *err) {
    const gr_model_config *c = gr_model_get_config(m);
    const bool classifies = c->task == GR_TASK_SEQ_CLS;
    *in = (gr_padded){.first_id = (int32_t)c->decoder_start_token_id,
                      .pad_id = (int32_t)c->pad_token_id,
                      .per_row = classifies};
    GR_TRY(find_input(list, path, "decoder_input_ids", classifies ? &source->ids->view.shape : NULL, &in->ids, err));
    if (!classifies)
        GR_TRY(find_input(list, path, "labels", in->ids ? &in->ids->view.shape : NULL, &in->labels, err));
    in->moved = classifies ? source->ids : in->labels;
    const gr_named_tensor *either = in->ids ? in->ids : in->moved;
    if (!either) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: expected 'labels' or 'decoder_input_ids'", path);
    gr_shape shape = either->view.shape;
    GR_TRY(find_input(list, path, "decoder_attention_mask", &shape, &in->mask, err));
    in->rows = shape.d[0];
    in->columns = shape.d[1];
    if (in->rows != source->rows || in->columns < 1 || in->columns > INT32_MAX / in->rows / 2)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: '%s' of %lld x %lld beside 'input_ids' of %lld rows", path,
                       either->name, (long long)in->rows, (long long)in->columns, (long long)source->rows);
    if (!in->ids && in->pad_id < 0)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: the model has no pad_token_id to stand for ignored labels",
                       path);
    return classifies ? find_row_labels(list, path, m, in, err) : GRAFT_OK;
}

graft_status gr_padded_read(const gr_tensor_list *list, const char *path, const gr_model *m, int64_t ahead,
                            int64_t n_tasks, gr_padded *in, gr_padded *source, graft_error *err) {
    const gr_model_config *c = gr_model_get_config(m);
    *source = (gr_padded){.ahead = ahead, .n_tasks = n_tasks};
    for (size_t i = 0; i < list->n; i++)
        if (!is_input(c, n_tasks, list->items[i].name))
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: this model takes no '%s'", path, list->items[i].name);
    if (c->n_encoder_layers) {
        GR_TRY(read_ids(list, path, ahead, source, err));
        return read_targets(list, path, m, source, in, err);
    }
    *in = (gr_padded){.ahead = ahead, .n_tasks = n_tasks, .shifted = !c->bidirectional, .per_row = c->task == GR_TASK_SEQ_CLS,
                      .encodes = c->bidirectional};
    GR_TRY(read_ids(list, path, ahead, in, err));
    gr_shape shape = in->ids->view.shape;
    if (in->per_row)
        GR_TRY(find_row_labels(list, path, m, in, err));
    else
        GR_TRY(find_input(list, path, "labels", &shape, &in->labels, err));
    GR_TRY(find_input(list, path, "token_type_ids", &shape, &in->types, err));
    GR_TRY(find_input(list, path, "position_ids", &shape, &in->positions, err));
    if (in->positions && ahead)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "%s: 'position_ids' cannot be given to an adapter with virtual tokens", path);
    return GRAFT_OK;
}

/* What an input says of column c of a row, c not virtual. */
static int64_t input_at(const gr_padded *in, const gr_named_tensor *t, int64_t row, int64_t c) {
    return integer_at(&t->view, row * (in->columns - in->ahead) + c - in->ahead);
}

bool gr_padded_visible(const gr_padded *in, int64_t row, int64_t c) {
    return c < in->ahead || !in->mask || input_at(in, in->mask, row, c) != 0;
}

/* --- The ragged form ------------------------------------------------------------------------------------------------------------------ */

void gr_ragged_free(const graft_allocator *a, gr_ragged *r) {
    void *const all[] = {r->ids, r->positions, r->types, r->labels, r->token, r->bounds, r->start, r->parent, r->rope_length,
                         r->pooled, r->classes, r->first, r->reads, r->weight, r->values, r->blind};
    for (size_t i = 0; i < GR_COUNT(all); i++) gr_free(a, all[i]);
}

static graft_status alloc_ragged(const graft_allocator *a, gr_ragged *r, int64_t n, int64_t n_values, graft_error *err) {
    int32_t **const ints[] = {&r->ids, &r->positions, &r->types, &r->labels, &r->token, &r->bounds, &r->start, &r->parent,
                              &r->rope_length, &r->pooled, &r->classes, &r->first, &r->reads};
    for (size_t i = 0; i < GR_COUNT(ints); i++)
        if (!(*ints[i] = gr_calloc(a, (size_t)n + 1, sizeof(int32_t)))) return gr_fail_memory(err);
    r->weight = gr_calloc(a, (size_t)n + 1, sizeof *r->weight);
    r->values = gr_calloc(a, (size_t)n_values + 1, sizeof *r->values);
    r->blind = gr_calloc(a, (size_t)n + 1, sizeof *r->blind);
    return r->weight && r->values && r->blind ? GRAFT_OK : gr_fail_memory(err);
}

/* One row of the input with what is computed from it. */
typedef struct row_view {
    const gr_padded *in;
    int64_t row;
    int32_t *ids, *positions, *labels; /* a number a column; virtual ids are negative */
    int64_t pooled;                    /* the column that a pooler takes, -1: there is none */
} row_view;

/* The token of a column that is not virtual. */
static int64_t id_at(const gr_padded *in, int64_t row, int64_t column) {
    if (in->ids) return input_at(in, in->ids, row, column);
    int64_t id = column ? input_at(in, in->moved, row, column - 1) : in->first_id;
    return id == -100 ? in->pad_id : id;
}

/* Of an encoder-decoder by the source's tokens. */
static graft_status find_pooled(row_view *v, const gr_model *m, bool prompted, graft_error *err) {
    const gr_padded *in = v->in;
    const gr_task task = gr_model_get_config(m)->task;
    const int32_t *ids = v->ids;
    v->pooled = -1;
    if (task != GR_TASK_SEQ_CLS && task != GR_TASK_FEATURES) return GRAFT_OK;
    for (int64_t c = 0; in->moved && c < in->columns; c++)
        v->positions[c] = (int32_t)input_at(in, in->moved, v->row, c);
    if (in->moved) ids = v->positions; /* which are not filled yet */
    v->pooled = gr_model_pooled_token(m, ids, in->columns, prompted);
    if (v->pooled >= 0) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_ARGUMENT, "input_ids[%lld] has no end of text, where the classifier looks",
                   (long long)v->row);
}

static graft_status view_row(row_view *v, const gr_model *m, graft_error *err) {
    const gr_padded *in = v->in;
    int64_t first = in->tasks ? integer_at(&in->tasks->view, v->row) * in->ahead : 0;
    for (int64_t c = 0; c < in->columns; c++) {
        int64_t id = c < in->ahead ? -1 - first - c : id_at(in, v->row, c), at = c + in->shifted, label = -100;
        /* Ids that are none are refused by the batch's check. */
        v->ids[c] = c >= in->ahead && (id < -in->placed || id > INT32_MAX) ? INT32_MAX : (int32_t)id;
        if (in->labels && !in->per_row && at < in->columns && at >= in->ahead) label = input_at(in, in->labels, v->row, at);
        if (label > INT32_MAX || (label < 0 && label != -100))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "labels[%lld][%lld] is %lld, expected a token id or -100", (long long)v->row,
                           (long long)(at - in->ahead), (long long)label);
        v->labels[c] = (int32_t)label;
    }
    const bool prompted = in->ahead > 0 || in->placed > 0; /* the reference has embeddings then, and sees no pads */
    GR_TRY(find_pooled(v, m, prompted, err));
    gr_model_fill_positions(m, v->ids, in->columns, prompted, 0, v->positions);
    for (int64_t c = 0; in->positions && c < in->columns; c++) v->positions[c] = (int32_t)input_at(in, in->positions, v->row, c);
    return GRAFT_OK;
}

static void add_token(gr_ragged *r, const row_view *v, int64_t column) {
    const gr_padded *in = v->in;
    int64_t at = r->batch.n_tokens++;
    r->ids[at] = v->ids[column];
    r->positions[at] = v->positions[column];
    if (in->types && column >= in->ahead) r->types[at] = (int32_t)input_at(in, in->types, v->row, column);
    r->labels[at] = v->labels[column];
    r->token[v->row * in->columns + column] = (int32_t)at;
    r->n_labels += v->labels[column] >= 0;
    if (column == v->pooled) r->pooled[v->row] = (int32_t)at;
    r->bounds[r->batch.n_seqs] = (int32_t)r->batch.n_tokens;
}

static void begin_sequence(gr_ragged *r, int64_t column, int32_t parent, bool blind) {
    int s = r->batch.n_seqs++;
    r->bounds[s] = (int32_t)r->batch.n_tokens;
    r->start[s] = (int32_t)column;
    r->parent[s] = parent;
    r->blind[s] = blind;
}

static bool is_wanted(const row_view *v, int64_t c) { return v->labels[c] >= 0 || c == v->pooled; }

static void fill_row(gr_ragged *r, const row_view *v) {
    int32_t run = -1;     /* the last run of visible tokens */
    int64_t run_end = -1; /* the column after it */
    for (int64_t c = 0; c < v->in->columns; c++) {
        bool visible = gr_padded_visible(v->in, v->row, c);
        if (visible && run_end != c) {
            begin_sequence(r, c, run, false);
            run = r->batch.n_seqs - 1;
        } else if (!visible && is_wanted(v, c))
            begin_sequence(r, c, run, true);
        if (visible || is_wanted(v, c)) add_token(r, v, c);
        if (visible) run_end = c + 1;
    }
}

/* Places do not matter where nothing is hidden by them: the visible tokens are one sequence, hidden ones stand behind it. */
static void fill_encoded_row(gr_ragged *r, const row_view *v) {
    int32_t run = -1;
    for (int hidden = 0; hidden < 2; hidden++)
        for (int64_t c = 0; c < v->in->columns; c++) {
            if (gr_padded_visible(v->in, v->row, c) == hidden || (hidden && !is_wanted(v, c))) continue;
            if (hidden || run < 0) begin_sequence(r, c, run, hidden);
            if (!hidden && run < 0) run = r->batch.n_seqs - 1;
            add_token(r, v, c);
        }
}

static graft_status fill_targets(gr_ragged *r, const gr_model *m, const gr_padded *in, graft_error *err) {
    const gr_model_config *c = gr_model_get_config(m);
    gr_class_targets *g = &r->targets;
    *g = (gr_class_targets){.n = in->rows, .rows = r->pooled, .weight = r->weight};
    if (!in->labels || !in->per_row) return GRAFT_OK;
    const gr_tensor_view *v = &in->labels->view;
    bool floats = v->dtype == GR_F32;
    gr_problem problem = gr_problem_of(c, floats);
    if (floats == (problem == GR_PROBLEM_SINGLE))
        return gr_fail(err, GRAFT_ERR_FORMAT, "'labels' has type %s, expected %s for %s", gr_dtype_name(v->dtype),
                       floats ? "I64" : "F32", gr_problem_name(problem));
    for (int64_t i = 0; i < in->rows; i++) {
        int64_t label = floats ? 0 : integer_at(v, i);
        if (label >= c->n_labels || (label < 0 && label != -100))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "labels[%lld] is %lld, expected a class below %d, or -100", (long long)i,
                           (long long)label, c->n_labels);
        r->classes[i] = (int32_t)label;
        r->n_labels += label >= 0;
    }
    if (floats) memcpy(r->values, v->data, (size_t)in->rows * (size_t)c->n_labels * sizeof *r->values);
    g->problem = problem;
    g->classes = floats ? NULL : r->classes;
    g->values = floats ? r->values : NULL;
    return GRAFT_OK;
}

static graft_status fill_rows(const graft_allocator *a, gr_ragged *r, const gr_model *m, const gr_padded *in, graft_error *err) {
    int32_t *scratch = gr_calloc(a, 3 * (size_t)in->columns, sizeof *scratch);
    graft_status st = scratch ? GRAFT_OK : gr_fail_memory(err);
    row_view v = {.in = in, .ids = scratch, .positions = scratch + in->columns, .labels = scratch + 2 * in->columns};
    for (; st == GRAFT_OK && v.row < in->rows; v.row++) {
        r->first[v.row] = r->batch.n_seqs;
        st = view_row(&v, m, err);
        if (st == GRAFT_OK) (in->encodes ? fill_encoded_row : fill_row)(r, &v);
    }
    gr_free(a, scratch);
    return st;
}

/* The reference computes dynamic scaling for the longest position of the whole batch. */
graft_status gr_ragged_fill(const graft_allocator *a, gr_ragged *r, const gr_model *m, const gr_padded *in, int32_t adapter,
                            graft_error *err) {
    int64_t cells = in->rows * in->columns;
    *r = (gr_ragged){0};
    GR_TRY(alloc_ragged(a, r, cells, in->per_row ? in->rows * gr_model_get_config(m)->n_labels : 0, err));
    for (int64_t i = 0; i < cells; i++) r->token[i] = -1;
    GR_TRY(fill_rows(a, r, m, in, err));
    if (!r->batch.n_tokens) return gr_fail(err, GRAFT_ERR_ARGUMENT, "attention_mask hides every token");
    GR_TRY(fill_targets(r, m, in, err));
    int64_t longest = in->columns;
    for (int64_t i = 0; in->positions && i < cells; i++) /* nothing is virtual then */
        longest = GR_MAX(i ? longest : 0, integer_at(&in->positions->view, i) + 1);
    for (int s = 0; s < r->batch.n_seqs; s++) r->rope_length[s] = (int32_t)GR_MIN(longest, INT32_MAX);
    for (int64_t i = 0; i < GR_MAX(r->batch.n_tokens, in->rows); i++) r->weight[i] = 1.0f / (float)r->n_labels;
    r->batch.bounds = r->bounds;
    r->batch.ids = r->ids;
    r->batch.positions = r->positions;
    r->batch.token_types = in->types ? r->types : NULL;
    r->batch.seq_start = r->start;
    r->batch.parent = r->parent;
    r->batch.blind = r->blind;
    r->batch.rope_length = r->rope_length;
    r->batch.one_adapter = adapter;
    r->batch.labels = in->per_row ? NULL : r->labels;
    r->batch.targets = in->labels && in->per_row ? &r->targets : NULL;
    r->batch.weight = r->weight;
    return GRAFT_OK;
}

graft_status gr_ragged_read(gr_ragged *targets, const gr_padded *in, const gr_ragged *source, graft_error *err) {
    int s = 0;
    for (int64_t row = 0; row < in->rows; row++) {
        int end = row + 1 < in->rows ? targets->first[row + 1] : targets->batch.n_seqs;
        int32_t first = source->first[row], next = row + 1 < in->rows ? source->first[row + 1] : source->batch.n_seqs;
        if (first == next && s < end)
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "attention_mask hides every token of row %lld", (long long)row);
        for (; s < end; s++) targets->reads[s] = first;
    }
    targets->batch.source = &source->batch;
    targets->batch.reads = targets->reads;
    return GRAFT_OK;
}
