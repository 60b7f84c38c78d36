/* Learned scaling of activations (Liu et al. 2022, (IA)^3): y = l * x + t on the covered rows of a block of columns.
 * dx = l * dy there and dy elsewhere; dl = sum over the covered rows of dy * x, dt = sum of dy, row after row. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_scale_columns_params *p = c->params;
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "x", err));
    GR_TRY(gr_op_want_parameter(c, 1, "scale", gr_shape1(-1), c->in[0].dtype, err));
    if (gr_op_has(c, 2)) GR_TRY(gr_op_want_parameter(c, 2, "shift", gr_shape1(gr_rows(&c->in[1])), c->in[0].dtype, err));
    GR_TRY(gr_op_want_columns("scale", p->column, gr_rows(&c->in[1]), gr_cols(&c->in[0]), err));
    GR_TRY(gr_op_want_ranges(p->n_ranges, p->ranges, gr_rows(&c->in[0]), err));
    c->out[0] = (gr_array){c->in[0].dtype, c->in[0].shape, NULL};
    return GRAFT_OK;
}

static void saves(const gr_op_call *c, uint32_t *in, uint32_t *out) {
    *in = (c->wants & 2 ? 1u : 0) | (c->wants & 1 ? 2u : 0); /* the shift is added, and only its presence matters */
    *out = 0;
}

/* The covered block of y = l * (the same of x) + shift. */
static void scale_rows(const gr_op_call *c, const void *x, void *y, const void *shift) {
    const gr_scale_columns_params *p = c->params;
    gr_dtype dt = c->in[0].dtype;
    int64_t rows = gr_rows(&c->in[0]), ld = gr_cols(&c->in[0]);
    for (int i = 0; i < gr_op_n_ranges(p->n_ranges); i++) {
        gr_row_range r = gr_op_range(p->n_ranges, p->ranges, rows, i);
        int64_t at = r.begin * ld + p->column;
        c->dev->k->mul_columns(c->dev, dt, r.end - r.begin, gr_rows(&c->in[1]), gr_op_at(x, dt, at), ld, c->in[1].data, shift,
                               gr_op_at(y, dt, at), ld);
    }
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    (void)err;
    gr_op_carry(c);
    scale_rows(c, c->out[0].data, c->out[0].data, gr_op_has(c, 2) ? c->in[2].data : NULL);
    return GRAFT_OK;
}

/* One row after the other: groups need no care. */
static void factor_gradient(const gr_op_call *c) {
    const gr_scale_columns_params *p = c->params;
    gr_dtype dt = c->in[0].dtype;
    int64_t rows = gr_rows(&c->in[0]), ld = gr_cols(&c->in[0]);
    for (int i = 0; i < gr_op_n_ranges(p->n_ranges); i++) {
        gr_row_range r = gr_op_range(p->n_ranges, p->ranges, rows, i);
        int64_t at = r.begin * ld + p->column;
        const void *dy = gr_op_at(c->dout[0].data, dt, at);
        if (c->din[1].data)
            c->dev->k->mul_column_sum(c->dev, dt, r.end - r.begin, gr_rows(&c->in[1]), dy, ld, gr_op_at(c->in[0].data, dt, at),
                                      ld, c->din[1].data);
        if (c->din[2].data) c->dev->k->column_sum(c->dev, dt, r.end - r.begin, gr_rows(&c->in[1]), dy, ld, c->din[2].data);
    }
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_array *dy = &c->dout[0], *dx = &c->din[0];
    factor_gradient(c); /* first: dx may be dy */
    if (!dx->data) return GRAFT_OK;
    int64_t cols = gr_cols(&c->in[0]);
    if (dx->data != dy->data) gr_op_copy(c->dev, dy->dtype, gr_rows(dy), cols, dy->data, cols, dx->data, cols);
    scale_rows(c, dx->data, dx->data, NULL);
    return GRAFT_OK;
}

const gr_op gr_op_scale_columns = {.name = "scale_columns",
                                   .params_size = sizeof(gr_scale_columns_params),
                                   .shape = shape,
                                   .forward = forward,
                                   .backward = backward,
                                   .save_in = 7,
                                   .saves = saves,
                                   .parameters = 6,
                                   .in_place = true,
                                   .grad_in_place = true};
