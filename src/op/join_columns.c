/* y = [a, b] side by side. da and db are dy's columns. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    GR_TRY(gr_op_want(c, 0, "a", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "a", err));
    GR_TRY(gr_op_want(c, 1, "b", gr_shape2(gr_rows(&c->in[0]), -1), err));
    GR_TRY(gr_op_want_type(c, 1, "b", c->in[0].dtype, err));
    c->out[0] = (gr_array){c->in[0].dtype, gr_shape2(gr_rows(&c->in[0]), gr_cols(&c->in[0]) + gr_cols(&c->in[1])), NULL};
    return GRAFT_OK;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_array *a = &c->in[0], *b = &c->in[1], *y = &c->out[0];
    gr_op_copy(c->dev, y->dtype, gr_rows(y), gr_cols(a), a->data, gr_cols(a), y->data, gr_cols(y));
    gr_op_copy(c->dev, y->dtype, gr_rows(y), gr_cols(b), b->data, gr_cols(b), gr_op_at(y->data, y->dtype, gr_cols(a)),
               gr_cols(y));
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_array *dy = &c->dout[0];
    int64_t at = 0;
    for (int i = 0; i < 2; i++) {
        int64_t n = gr_cols(&c->in[i]);
        if (c->din[i].data)
            gr_op_copy(c->dev, dy->dtype, gr_rows(dy), n, gr_op_at(dy->data, dy->dtype, at), gr_cols(dy), c->din[i].data, n);
        at += n;
    }
    return GRAFT_OK;
}

const gr_op gr_op_join_columns = {.name = "join_columns", .shape = shape, .forward = forward, .backward = backward};
