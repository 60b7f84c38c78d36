/* y = x W^T + b with parameters as they stand. dx = dy W; dW = dy^T x; db = sum over rows of dy. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "x", err));
    GR_TRY(gr_op_want_parameter(c, 1, "weight", gr_shape2(-1, gr_cols(&c->in[0])), c->in[0].dtype, err));
    if (gr_op_has(c, 2)) GR_TRY(gr_op_want_parameter(c, 2, "bias", gr_shape1(gr_rows(&c->in[1])), c->in[0].dtype, err));
    c->out[0] = (gr_array){c->in[0].dtype, gr_shape2(gr_rows(&c->in[0]), gr_rows(&c->in[1])), NULL};
    return GRAFT_OK;
}

static void saves(const gr_op_call *c, uint32_t *in, uint32_t *out) {
    *in = (c->wants & 2 ? 1u : 0) | (c->wants & 1 ? 2u : 0);
    *out = 0;
}

/* W in x's type, where it is not already. */
static size_t scratch(const gr_op_call *c, bool backward) {
    (void)backward;
    return c->in[1].dtype == c->in[0].dtype ? 0 : gr_op_bytes(c->in[0].dtype, gr_rows(&c->in[1]) * gr_cols(&c->in[1]));
}

static const void *weight(const gr_op_call *c) {
    const gr_array *w = &c->in[1];
    if (!c->scratch) return w->data;
    c->dev->k->convert(c->dev, w->dtype, w->data, c->in[0].dtype, c->scratch, gr_rows(w) * gr_cols(w));
    return c->scratch;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    gr_dtype dt = c->in[0].dtype;
    int64_t rows = gr_rows(&c->in[0]), k = gr_cols(&c->in[0]), n = gr_rows(&c->in[1]);
    GR_TRY(gr_gemm(c->dev, false, true, rows, n, k, 1, dt, c->in[0].data, k, weight(c), k, 0, dt, c->out[0].data, n, err));
    if (gr_op_has(c, 2)) c->dev->k->bias_add(c->dev, dt, rows, n, c->out[0].data, n, c->in[2].data);
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    gr_dtype dt = c->in[0].dtype;
    int64_t rows = gr_rows(&c->in[0]), k = gr_cols(&c->in[0]), n = gr_rows(&c->in[1]);
    const void *dy = c->dout[0].data;
    if (c->din[0].data)
        GR_TRY(gr_gemm(c->dev, false, false, rows, k, n, 1, dt, dy, n, weight(c), k, c->add[0] ? 1 : 0, dt, c->din[0].data, k,
                       err));
    if (c->din[1].data) GR_TRY(gr_op_weight_gradient(c, dt, rows, n, dy, n, k, c->in[0].data, k, false, c->din[1].data, err));
    if (c->din[2].data) c->dev->k->column_sum(c->dev, dt, rows, n, dy, n, c->din[2].data);
    return GRAFT_OK;
}

const gr_op gr_op_affine = {.name = "affine",
                            .shape = shape,
                            .forward = forward,
                            .backward = backward,
                            .scratch = scratch,
                            .save_in = 3,
                            .saves = saves,
                            .parameters = 6,
                            .adds = 1};
