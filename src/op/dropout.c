/* Inverted dropout (Srivastava et al. 2014) with counted random numbers: the mask is made again in the backward, and does
 * not depend on where in a batch a row stands. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_dropout_params *p = c->params;
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "x", err));
    if (!(p->p >= 0 && p->p < 1)) return gr_fail(err, GRAFT_ERR_ARGUMENT, "p must be from 0 to below 1, found %g", p->p);
    c->out[0] = (gr_array){c->in[0].dtype, c->in[0].shape, NULL};
    return GRAFT_OK;
}

static size_t scratch(const gr_op_call *c, bool backward) {
    (void)backward;
    const gr_dropout_params *p = c->params;
    return p->key ? 0 : (size_t)gr_rows(&c->in[0]) * sizeof(uint64_t);
}

static void drop(const gr_op_call *c, const gr_array *from, const gr_array *to) {
    const gr_dropout_params *p = c->params;
    int64_t rows = gr_rows(from), cols = gr_cols(from);
    c->dev->k->dropout(c->dev, from->dtype, rows, cols, from->data, cols, to->data, cols, p->p, p->seed, p->stream,
                       gr_op_keys(p->key, rows, c->scratch));
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    (void)err;
    drop(c, &c->in[0], &c->out[0]);
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    drop(c, &c->dout[0], &c->din[0]);
    return GRAFT_OK;
}

const gr_op gr_op_dropout = {.name = "dropout",
                             .params_size = sizeof(gr_dropout_params),
                             .shape = shape,
                             .forward = forward,
                             .backward = backward,
                             .scratch = scratch,
                             .in_place = true,
                             .grad_in_place = true};
