/* y = f(x), element by element. dx = dy f'(x), which both functions give from y: 1 - y^2 of tanh, y > 0 of relu. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "x", err));
    c->out[0] = (gr_array){c->in[0].dtype, c->in[0].shape, NULL};
    return GRAFT_OK;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_activation_params *p = c->params;
    const gr_array *x = &c->in[0];
    c->dev->k->activation(c->dev, x->dtype, p->f, gr_rows(x) * gr_cols(x), x->data, c->out[0].data);
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_activation_params *p = c->params;
    const gr_array *y = &c->out[0];
    c->dev->k->activation_backward(c->dev, y->dtype, p->f, gr_rows(y) * gr_cols(y), y->data, c->dout[0].data, c->din[0].data);
    return GRAFT_OK;
}

const gr_op gr_op_activation = {.name = "activation",
                                .params_size = sizeof(gr_activation_params),
                                .shape = shape,
                                .forward = forward,
                                .backward = backward,
                                .save_out = 1,
                                .in_place = true,
                                .grad_in_place = true};
