/* Rotary position embedding (Su et al. 2021) in the Llama layout: a head's halves (x1, x2) become (x1 c - x2 s,
 * x2 c + x1 s). The backward is the rotation back. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_rope_params *p = c->params;
    if (p->n_heads < 1 || p->head_dim < 2 || p->head_dim % 2)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%d heads of %d: an even head size is needed", p->n_heads, p->head_dim);
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "x", err));
    GR_TRY(gr_op_want_columns("heads", p->column, (int64_t)p->n_heads * p->head_dim, gr_cols(&c->in[0]), err));
    c->out[0] = (gr_array){c->in[0].dtype, c->in[0].shape, NULL};
    return GRAFT_OK;
}

static void rotate(const gr_op_call *c, const gr_array *x, bool inverse) {
    const gr_rope_params *p = c->params;
    c->dev->k->rope(c->dev, x->dtype, gr_rows(x), p->n_heads, p->head_dim, gr_op_at(x->data, x->dtype, p->column),
                    gr_cols(x), p->cos_sin, inverse);
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    (void)err;
    gr_op_carry(c);
    rotate(c, &c->out[0], false);
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_array *dy = &c->dout[0], *dx = &c->din[0];
    if (dx->data != dy->data)
        gr_op_copy(c->dev, dy->dtype, gr_rows(dy), gr_cols(dy), dy->data, gr_cols(dy), dx->data, gr_cols(dx));
    rotate(c, dx, true);
    return GRAFT_OK;
}

const gr_op gr_op_rope = {.name = "rope",
                          .params_size = sizeof(gr_rope_params),
                          .shape = shape,
                          .forward = forward,
                          .backward = backward,
                          .in_place = true,
                          .grad_in_place = true};
