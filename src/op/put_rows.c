/* Rows of a trained table in place of rows of x (virtual tokens, Lester et al. 2021; prefixes, Li & Liang 2021):
 * y[at[i]] = table[id[i] * stride + offset], other rows y = x. dx is dy with these rows zero; each of them is added to its row
 * of dtable, in the order of i. */
#include "op/common.h"

/* A table that is not trained may be in the rows' own type. */
static graft_status want_table(const gr_op_call *c, gr_shape shape, gr_dtype dt, graft_error *err) {
    if (c->in[1].dtype == dt && !(c->wants & 2)) return gr_op_want(c, 1, "table", shape, err);
    return gr_op_want_parameter(c, 1, "table", shape, dt, err);
}

static int64_t row_of(const gr_put_rows_params *p, int64_t i) { return p->id[i] * p->stride + p->offset; }

static graft_status check_rows(const gr_op_call *c, const gr_put_rows_params *p, int64_t rows, graft_error *err) {
    for (int64_t i = 0; p->at && p->id && i < p->n; i++) {
        if (p->at[i] < 0 || p->at[i] >= rows || (i && p->at[i] <= p->at[i - 1]))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "row %d at place %lld is not in order within %lld rows", p->at[i],
                           (long long)i, (long long)rows);
        if (p->id[i] < 0 || row_of(p, i) >= gr_rows(&c->in[1]))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "row %lld at place %lld is outside a table of %lld rows",
                           (long long)row_of(p, i), (long long)i, (long long)gr_rows(&c->in[1]));
    }
    return GRAFT_OK;
}

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_put_rows_params *p = c->params;
    int64_t rows = p->rows;
    gr_dtype dt = p->dt;
    if (gr_op_has(c, 0)) {
        GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
        GR_TRY(gr_op_want_activation(c, 0, "x", err));
        rows = gr_rows(&c->in[0]);
        dt = c->in[0].dtype;
        GR_TRY(want_table(c, gr_shape2(-1, gr_cols(&c->in[0])), dt, err));
    } else
        GR_TRY(want_table(c, gr_shape2(-1, -1), dt, err));
    if (p->n < 0 || rows < 0 || p->stride < 1 || p->offset < 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%lld of %lld rows", (long long)p->n, (long long)rows);
    GR_TRY(check_rows(c, p, rows, err));
    c->out[0] = (gr_array){dt, gr_shape2(rows, gr_cols(&c->in[1])), NULL};
    return GRAFT_OK;
}

/* Rows from i on that follow each other in the table as they do in y. */
static int64_t run_length(const gr_put_rows_params *p, int64_t i) {
    int64_t n = 1;
    while (p->stride == 1 && i + n < p->n && p->at[i + n] == p->at[i] + n && p->id[i + n] == p->id[i] + n) n++;
    return n;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_put_rows_params *p = c->params;
    const gr_array *y = &c->out[0], *table = &c->in[1];
    int64_t cols = gr_cols(y);
    if (gr_op_has(c, 0))
        gr_op_carry(c);
    else
        gr_op_zero(c->dev, y->dtype, gr_rows(y), cols, y->data, cols);
    for (int64_t i = 0, n; i < p->n; i += n) {
        const void *from = gr_op_at(table->data, table->dtype, row_of(p, i) * cols);
        void *to = gr_op_at(y->data, y->dtype, p->at[i] * cols);
        n = run_length(p, i);
        if (table->dtype == y->dtype)
            gr_op_copy(c->dev, y->dtype, n, cols, from, cols, to, cols);
        else
            c->dev->k->convert(c->dev, table->dtype, from, y->dtype, to, n * cols);
    }
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_put_rows_params *p = c->params;
    const gr_array *dy = &c->dout[0], *dx = &c->din[0];
    int64_t cols = gr_cols(dy);
    const int32_t first = 0;
    for (int64_t i = 0; c->din[1].data && i < p->n; i++)
        c->dev->k->embedding_backward(c->dev, dy->dtype, 1, cols, &first, gr_op_at(dy->data, dy->dtype, p->at[i] * cols), cols,
                                      gr_op_at(c->din[1].data, c->in[1].dtype, row_of(p, i) * cols));
    if (!dx->data) return GRAFT_OK;
    if (dx->data != dy->data) gr_op_copy(c->dev, dy->dtype, gr_rows(dy), cols, dy->data, cols, dx->data, cols);
    for (int64_t i = 0; i < p->n; i++)
        gr_op_zero(c->dev, dx->dtype, 1, cols, gr_op_at(dx->data, dx->dtype, p->at[i] * cols), cols);
    return GRAFT_OK;
}

const gr_op gr_op_put_rows = {.name = "put_rows",
                              .params_size = sizeof(gr_put_rows_params),
                              .shape = shape,
                              .forward = forward,
                              .backward = backward,
                              .parameters = 2,
                              .in_place = true,
                              .grad_in_place = true};
