/* y = f(x), element by element. dx = dy f'(x): tanh and relu give it from y (1 - y^2, y > 0), so that nobody keeps x and y
 * may lie over it; the others need x. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "x", err));
    c->out[0] = (gr_array){c->in[0].dtype, c->in[0].shape, NULL};
    return GRAFT_OK;
}

static bool keeps_output(const gr_op_call *c) {
    const gr_activation_params *p = c->params;
    return gr_activation_keeps_output(p->f);
}

static void saves(const gr_op_call *c, uint32_t *in, uint32_t *out) {
    *in = keeps_output(c) ? 0 : 1;
    *out = keeps_output(c) ? 1 : 0;
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
    const gr_array *kept = keeps_output(c) ? &c->out[0] : &c->in[0];
    c->dev->k->activation_backward(c->dev, kept->dtype, p->f, gr_rows(kept) * gr_cols(kept), kept->data, c->dout[0].data,
                                   c->din[0].data);
    return GRAFT_OK;
}

const gr_op gr_op_activation = {.name = "activation",
                                .params_size = sizeof(gr_activation_params),
                                .shape = shape,
                                .forward = forward,
                                .backward = backward,
                                .save_in = 1,
                                .save_out = 1,
                                .saves = saves,
                                .in_place = true,
                                .grad_in_place = true,
                                .cheap = true};
