/* The padded input of graft_forward as a ragged batch.
 *
 * The reference pads: masked tokens stand in the row but are seen by nobody. Here they are left out, and each row becomes
 * the runs of its visible tokens, every run continuing the one before at its own place, so that positions, windows and
 * causality are those of the padded row. One thing of the padding reaches the reference's loss: logits at a masked
 * position count where the next token has a label. Such positions are computed too, as tokens that nobody sees. */
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

graft_status gr_padded_read(const gr_tensor_list *list, const char *path, int64_t ahead, gr_padded *in, graft_error *err) {
    *in = (gr_padded){.ahead = ahead};
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
static int64_t input_at(const gr_padded *in, const gr_named_tensor *t, int64_t row, int64_t c) {
    return integer_at(&t->view, row * (in->columns - in->ahead) + c - in->ahead);
}

bool gr_padded_visible(const gr_padded *in, int64_t row, int64_t c) {
    return c < in->ahead || !in->mask || input_at(in, in->mask, row, c) != 0;
}

/* --- The ragged form ------------------------------------------------------------------------------------------------------------------ */

void gr_ragged_free(const graft_allocator *a, gr_ragged *r) {
    void *const all[] = {r->ids, r->positions, r->labels, r->cell, r->bounds, r->start, r->parent, r->rope_length,
                         r->weight, r->blind};
    for (size_t i = 0; i < GR_COUNT(all); i++) gr_free(a, all[i]);
}

static graft_status alloc_ragged(const graft_allocator *a, gr_ragged *r, int64_t n, graft_error *err) {
    int32_t **const ints[] = {&r->ids, &r->positions, &r->labels, &r->cell, &r->bounds, &r->start, &r->parent,
                              &r->rope_length};
    for (size_t i = 0; i < GR_COUNT(ints); i++)
        if (!(*ints[i] = gr_calloc(a, (size_t)n + 1, sizeof(int32_t)))) return gr_fail_memory(err);
    r->weight = gr_calloc(a, (size_t)n + 1, sizeof *r->weight);
    r->blind = gr_calloc(a, (size_t)n + 1, sizeof *r->blind);
    return r->weight && r->blind ? GRAFT_OK : gr_fail_memory(err);
}

static void add_token(gr_ragged *r, const gr_padded *in, int64_t row, int64_t column, int32_t label) {
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

static void begin_sequence(gr_ragged *r, int64_t column, int32_t parent, bool blind) {
    int s = r->batch.n_seqs++;
    r->bounds[s] = (int32_t)r->batch.n_tokens;
    r->start[s] = (int32_t)column;
    r->parent[s] = parent;
    r->blind[s] = blind;
}

static graft_status fill_row(gr_ragged *r, const gr_padded *in, int64_t row, graft_error *err) {
    int32_t run = -1;      /* the last run of visible tokens */
    int64_t run_end = -1;  /* the column after it */
    for (int64_t c = 0; c < in->columns; c++) {
        int64_t label = -100;
        bool visible = gr_padded_visible(in, row, c);
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
graft_status gr_ragged_fill(const graft_allocator *a, gr_ragged *r, const gr_padded *in, int32_t adapter, graft_error *err) {
    *r = (gr_ragged){0};
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
