/* y = x W^T. dx = dy W; dW_i = dy[:, part i]^T x, summed group by group. A frozen W needs no x for its backward. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_linear_params *p = c->params;
    int64_t out = gr_matrix_out(p->w), in = gr_matrix_in(p->w);
    gr_dtype dt = gr_matrix_dtype(p->w);
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, in), err));
    GR_TRY(gr_op_want_type(c, 0, "x", dt, err));
    for (int i = 0; i < GR_MATRIX_PARTS; i++) {
        if (!gr_op_has(c, 1 + i)) continue;
        bool turned = p->transposed[i];
        GR_TRY(gr_op_want_parameter(c, 1 + i, "weight", turned ? gr_shape2(in, -1) : gr_shape2(-1, in), dt, err));
        GR_TRY(gr_op_want_columns("weight", p->column[i], c->in[1 + i].shape.d[turned ? 1 : 0], out, err));
    }
    c->out[0] = (gr_array){p->wide ? gr_param_dtype(dt) : dt, gr_shape2(gr_rows(&c->in[0]), out), NULL};
    return GRAFT_OK;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    const gr_linear_params *p = c->params;
    const gr_array *x = &c->in[0], *y = &c->out[0];
    return gr_matrix_forward(p->w, gr_rows(x), x->data, gr_cols(x), y->dtype, y->data, gr_cols(y), false, err);
}

/* Wide gradients are narrowed to the type of the products. */
static bool narrows(const gr_op_call *c) { return c->out[0].dtype != c->in[0].dtype; }

static size_t scratch(const gr_op_call *c, bool backward) {
    return backward && narrows(c) ? gr_op_bytes(c->in[0].dtype, gr_rows(&c->out[0]) * gr_cols(&c->out[0])) : 0;
}

static void saves(const gr_op_call *c, uint32_t *in, uint32_t *out) {
    (void)out;
    if (!(c->wants & ~1u)) *in = 0;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    const gr_linear_params *p = c->params;
    const gr_array *x = &c->in[0];
    gr_dtype dt = x->dtype;
    int64_t rows = gr_rows(x), in = gr_cols(x), out = gr_cols(&c->out[0]);
    const void *dy = c->dout[0].data;
    if (narrows(c)) {
        c->dev->k->convert(c->dev, c->out[0].dtype, dy, dt, c->scratch, rows * out);
        dy = c->scratch;
    }
    for (int i = 0; i < GR_MATRIX_PARTS; i++) {
        if (1 + i >= c->n_in || !c->din[1 + i].data) continue;
        GR_TRY(gr_op_weight_gradient(c, dt, rows, c->in[1 + i].shape.d[p->transposed[i] ? 1 : 0],
                                     gr_op_at(dy, dt, p->column[i]), out, in, x->data, in, p->transposed[i],
                                     c->din[1 + i].data, err));
    }
    if (!c->din[0].data) return GRAFT_OK;
    return gr_matrix_backward(p->w, rows, dy, out, c->din[0].data, in, c->add[0], err);
}

const gr_op gr_op_linear = {.name = "linear",
                            .params_size = sizeof(gr_linear_params),
                            .shape = shape,
                            .forward = forward,
                            .backward = backward,
                            .scratch = scratch,
                            .save_in = 1,
                            .saves = saves,
                            .parameters = 0x1Eu,
                            .adds = 1};
