/* y = a + b, the residual connection. da = db = dy: the gradient is handed on, nothing is computed. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    if (!gr_op_has(c, 0)) return gr_fail(err, GRAFT_ERR_MISMATCH, "a is missing");
    GR_TRY(gr_op_want_activation(c, 0, "a", err));
    GR_TRY(gr_op_want(c, 1, "b", c->in[0].shape, err));
    GR_TRY(gr_op_want_type(c, 1, "b", c->in[0].dtype, err));
    c->out[0] = (gr_array){c->in[0].dtype, c->in[0].shape, NULL};
    return GRAFT_OK;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    (void)err;
    int64_t n = 0;
    gr_shape_elements(&c->in[0].shape, &n);
    c->dev->k->add(c->dev, c->in[0].dtype, n, c->in[0].data, c->in[1].data, c->out[0].data);
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)c;
    return gr_fail(err, GRAFT_ERR_INTERNAL, "both gradients are handed on");
}

const gr_op gr_op_add = {
    .name = "add", .shape = shape, .forward = forward, .backward = backward, .passes = 3, .in_place = true};
