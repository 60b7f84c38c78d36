/* Gated feed-forward activation (Shazeer 2020): y = f(g) u from rows that hold g then u; f is silu(g) = g sigmoid(g) where
 * nothing else is asked for. du = dy f(g); dg = dy u f'(g). */
#include "op/common.h"

static gr_activation function(const gr_op_call *c) {
    const gr_swiglu_params *p = c->params;
    return p ? p->f : GR_ACTIVATION_SILU;
}

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
    c->dev->k->gated(c->dev, x->dtype, function(c), gr_rows(x), cols, x->data, gr_op_at(x->data, x->dtype, cols), 2 * cols,
                     c->out[0].data, cols);
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_array *x = &c->in[0], *dx = &c->din[0];
    int64_t cols = gr_cols(x) / 2;
    c->dev->k->gated_backward(c->dev, x->dtype, function(c), gr_rows(x), cols, x->data, gr_op_at(x->data, x->dtype, cols),
                              2 * cols, c->dout[0].data, cols, dx->data, gr_op_at(dx->data, x->dtype, cols), 2 * cols);
    return GRAFT_OK;
}

const gr_op gr_op_swiglu = {.name = "swiglu",
                            .params_size = sizeof(gr_swiglu_params),
                            .shape = shape,
                            .forward = forward,
                            .backward = backward,
                            .save_in = 1,
                            .grad_over_in = true,
                            .cheap = true};
