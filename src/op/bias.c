/* y = x + b on a block of columns. dx = dy; db = sum over rows of dy, one row after the other. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_bias_params *p = c->params;
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "x", err));
    GR_TRY(gr_op_want_parameter(c, 1, "bias", gr_shape1(-1), c->in[0].dtype, err));
    GR_TRY(gr_op_want_columns("bias", p->column, gr_rows(&c->in[1]), gr_cols(&c->in[0]), err));
    c->out[0] = (gr_array){c->in[0].dtype, c->in[0].shape, NULL};
    return GRAFT_OK;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_bias_params *p = c->params;
    gr_array *y = &c->out[0];
    gr_op_carry(c);
    c->dev->k->bias_add(c->dev, y->dtype, gr_rows(y), gr_rows(&c->in[1]), gr_op_at(y->data, y->dtype, p->column),
                        gr_cols(y), c->in[1].data);
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_bias_params *p = c->params;
    const gr_array *dy = &c->dout[0];
    c->dev->k->column_sum(c->dev, dy->dtype, gr_rows(dy), gr_rows(&c->in[1]), gr_op_at(dy->data, dy->dtype, p->column),
                          gr_cols(dy), c->din[1].data);
    return GRAFT_OK;
}

const gr_op gr_op_bias = {.name = "bias",
                          .params_size = sizeof(gr_bias_params),
                          .shape = shape,
                          .forward = forward,
                          .backward = backward,
                          .parameters = 1u << 1,
                          .passes = 1,
                          .in_place = true};
