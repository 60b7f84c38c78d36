/* Layer norm (Ba et al. 2016): y = h w + b, h = (x - mean) r, r = 1 / sqrt(var + eps), mean and variance of the row.
 * With g = dy w: dx = r (g - mean(g) - h mean(h g)); dw = sum over rows of dy h; db = sum over rows of dy. mean and r are
 * kept per row. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "x", err));
    gr_dtype dt = c->in[0].dtype;
    const gr_shape row = gr_shape1(gr_cols(&c->in[0]));
    GR_TRY(gr_op_want_parameter(c, 1, "weight", row, dt, err));
    if (gr_op_has(c, 2)) GR_TRY(gr_op_want_parameter(c, 2, "bias", row, dt, err));
    c->out[0] = (gr_array){dt, c->in[0].shape, NULL};
    c->out[1] = (gr_array){gr_param_dtype(dt), gr_shape2(gr_rows(&c->in[0]), 2), NULL};
    return GRAFT_OK;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_layernorm_params *p = c->params;
    const gr_array *x = &c->in[0];
    int64_t cols = gr_cols(x);
    c->dev->k->layernorm(c->dev, x->dtype, gr_rows(x), cols, x->data, cols, c->in[1].data,
                         gr_op_has(c, 2) ? c->in[2].data : NULL, p->eps, c->out[0].data, cols, c->out[1].data);
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_array *x = &c->in[0];
    int64_t rows = gr_rows(x), cols = gr_cols(x);
    /* First: dx may be dy. */
    if (c->din[2].data) c->dev->k->column_sum(c->dev, x->dtype, rows, cols, c->dout[0].data, cols, c->din[2].data);
    c->dev->k->layernorm_backward(c->dev, x->dtype, rows, cols, x->data, cols, c->in[1].data, c->out[1].data,
                                  c->dout[0].data, cols, c->din[0].data, cols, c->add[0], c->din[1].data);
    return GRAFT_OK;
}

const gr_op gr_op_layernorm = {.name = "layernorm",
                               .params_size = sizeof(gr_layernorm_params),
                               .n_aux = 1,
                               .shape = shape,
                               .forward = forward,
                               .backward = backward,
                               .save_in = 7,
                               .save_out = 1u << 1,
                               .parameters = 3u << 1,
                               .adds = 1,
                               .grad_in_place = true,
                               .cheap = true};
