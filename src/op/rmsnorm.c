/* Root-mean-square norm (Zhang & Sennrich 2019): y = x r w, r = 1 / sqrt(mean(x^2) + eps).
 * With g = dy w: dx = r g - x r^3 mean(g x); dw = sum over rows of dy x r. r is kept per row. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "x", err));
    gr_dtype dt = c->in[0].dtype;
    GR_TRY(gr_op_want_parameter(c, 1, "weight", gr_shape1(gr_cols(&c->in[0])), dt, err));
    c->out[0] = (gr_array){dt, c->in[0].shape, NULL};
    c->out[1] = (gr_array){gr_param_dtype(dt), gr_shape1(gr_rows(&c->in[0])), NULL};
    return GRAFT_OK;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_rmsnorm_params *p = c->params;
    const gr_array *x = &c->in[0];
    int64_t cols = gr_cols(x);
    c->dev->k->rmsnorm(c->dev, x->dtype, gr_rows(x), 1, cols, x->data, cols, c->in[1].data, p->eps, c->out[0].data, cols,
                       c->out[1].data);
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_array *x = &c->in[0];
    int64_t cols = gr_cols(x);
    c->dev->k->rmsnorm_backward(c->dev, x->dtype, gr_rows(x), 1, cols, x->data, cols, c->in[1].data, c->out[1].data,
                                c->dout[0].data, cols, c->din[0].data, cols, c->add[0], c->din[1].data);
    return GRAFT_OK;
}

const gr_op gr_op_rmsnorm = {.name = "rmsnorm",
                             .params_size = sizeof(gr_rmsnorm_params),
                             .n_aux = 1,
                             .shape = shape,
                             .forward = forward,
                             .backward = backward,
                             .save_in = 3,
                             .save_out = 1u << 1,
                             .parameters = 1u << 1,
                             .adds = 1,
                             .grad_in_place = true,
                             .cheap = true};
