/* y[i] = x[rows[i]]; dx[rows[i]] += dy[i], in the order of i. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_gather_rows_params *p = c->params;
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "x", err));
    if (p->n < 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%lld rows", (long long)p->n);
    c->out[0] = (gr_array){c->in[0].dtype, gr_shape2(p->n, gr_cols(&c->in[0])), NULL};
    return GRAFT_OK;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    const gr_gather_rows_params *p = c->params;
    const gr_array *x = &c->in[0], *y = &c->out[0];
    int64_t cols = gr_cols(x);
    for (int64_t i = 0; i < p->n; i++) {
        if (p->rows[i] < 0 || p->rows[i] >= gr_rows(x))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "row %d at place %lld is outside %lld rows", p->rows[i], (long long)i,
                           (long long)gr_rows(x));
        memcpy(gr_op_at(y->data, y->dtype, i * cols), gr_op_at(x->data, x->dtype, p->rows[i] * cols),
               (size_t)cols * gr_op_size(x->dtype));
    }
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_gather_rows_params *p = c->params;
    const gr_array *dy = &c->dout[0], *dx = &c->din[0];
    int64_t cols = gr_cols(dx), next = 0;
    bool ascending = !c->add[0];
    for (int64_t i = 1; i < p->n && ascending; i++) ascending = p->rows[i] > p->rows[i - 1];
    if (!ascending) {
        if (!c->add[0]) gr_op_zero(c->dev, dx->dtype, gr_rows(dx), cols, dx->data, cols);
        for (int64_t i = 0; i < p->n; i++) {
            void *to = gr_op_at(dx->data, dx->dtype, p->rows[i] * cols);
            c->dev->k->add(c->dev, dx->dtype, cols, to, gr_op_at(dy->data, dy->dtype, i * cols), to);
        }
        return GRAFT_OK;
    }
    /* Nothing to add: every row of dx is written once, as a copy or as zeros. */
    for (int64_t i = 0; i < p->n; i++) {
        int64_t row = p->rows[i];
        gr_op_zero(c->dev, dx->dtype, 1, (row - next) * cols, gr_op_at(dx->data, dx->dtype, next * cols), 0);
        memcpy(gr_op_at(dx->data, dx->dtype, row * cols), gr_op_at(dy->data, dy->dtype, i * cols),
               (size_t)cols * gr_op_size(dx->dtype));
        next = row + 1;
    }
    gr_op_zero(c->dev, dx->dtype, 1, (gr_rows(dx) - next) * cols, gr_op_at(dx->data, dx->dtype, next * cols), 0);
    return GRAFT_OK;
}

const gr_op gr_op_gather_rows = {.name = "gather_rows",
                                 .params_size = sizeof(gr_gather_rows_params),
                                 .shape = shape,
                                 .forward = forward,
                                 .backward = backward,
                                 .adds = 1};
