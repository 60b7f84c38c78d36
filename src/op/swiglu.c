/* Gated feed-forward activation (Shazeer 2020): y = silu(g) u, silu(g) = g sigmoid(g), from rows that hold g then u.
 * du = dy silu(g); dg = dy u (s + g s (1 - s)), s = sigmoid(g). */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    GR_TRY(gr_op_want(c, 0, "gate and up", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "gate and up", err));
    if (gr_cols(&c->in[0]) % 2)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "gate and up must have an even width, found %lld",
                       (long long)gr_cols(&c->in[0]));
    c->out[0] = (gr_array){c->in[0].dtype, gr_shape2(gr_rows(&c->in[0]), gr_cols(&c->in[0]) / 2), NULL};
    return GRAFT_OK;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_array *x = &c->in[0];
    int64_t cols = gr_cols(x) / 2;
    c->dev->k->swiglu(c->dev, x->dtype, gr_rows(x), cols, x->data, gr_op_at(x->data, x->dtype, cols), 2 * cols,
                      c->out[0].data, cols);
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_array *x = &c->in[0], *dx = &c->din[0];
    int64_t cols = gr_cols(x) / 2;
    c->dev->k->swiglu_backward(c->dev, x->dtype, gr_rows(x), cols, x->data, gr_op_at(x->data, x->dtype, cols), 2 * cols,
                               c->dout[0].data, cols, dx->data, gr_op_at(dx->data, x->dtype, cols), 2 * cols);
    return GRAFT_OK;
}

const gr_op gr_op_swiglu = {.name = "swiglu",
                            .shape = shape,
                            .forward = forward,
                            .backward = backward,
                            .save_in = 1,
                            .grad_over_in = true,
                            .cheap = true};
