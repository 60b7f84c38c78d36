/* Root-mean-square norm of each q and k head in fused rows (Qwen3), as rmsnorm with T * heads rows of head_dim.
 * Done in place, for v takes no part. What the backward needs of the input, its q and k columns, is copied aside. */
#include "op/common.h"

static int64_t heads(const gr_qkv_norm_params *p) { return (int64_t)p->n_heads + p->n_kv_heads; }

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_qkv_norm_params *p = c->params;
    if (p->n_heads < 1 || p->n_kv_heads < 1 || p->head_dim < 1)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%d and %d heads of %d", p->n_heads, p->n_kv_heads, p->head_dim);
    GR_TRY(gr_op_want(c, 0, "qkv", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "qkv", err));
    gr_dtype dt = c->in[0].dtype;
    int64_t rows = gr_rows(&c->in[0]), width = heads(p) * p->head_dim;
    GR_TRY(gr_op_want_columns("q and k heads", 0, width, gr_cols(&c->in[0]), err));
    GR_TRY(gr_op_want_parameter(c, 1, "q weight", gr_shape1(p->head_dim), dt, err));
    GR_TRY(gr_op_want_parameter(c, 2, "k weight", gr_shape1(p->head_dim), dt, err));
    c->out[0] = (gr_array){dt, c->in[0].shape, NULL};
    c->out[1] = (gr_array){dt, gr_shape2(rows, width), NULL};
    c->out[2] = (gr_array){gr_param_dtype(dt), gr_shape1(rows * heads(p)), NULL}; /* q heads of all rows, then k heads */
    return GRAFT_OK;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_qkv_norm_params *p = c->params;
    gr_dtype dt = c->in[0].dtype;
    int64_t rows = gr_rows(&c->in[0]), ld = gr_cols(&c->in[0]), q = (int64_t)p->n_heads * p->head_dim;
    int64_t x_ld = ld;
    const void *x = c->in[0].data;
    if (c->out[1].data) {
        x_ld = heads(p) * p->head_dim;
        gr_op_copy(c->dev, dt, rows, x_ld, x, ld, c->out[1].data, x_ld);
        x = c->out[1].data;
    }
    gr_op_carry(c);
    void *rstd = c->out[2].data, *y = c->out[0].data;
    void *k_rstd = rstd ? gr_op_at(rstd, c->out[2].dtype, rows * p->n_heads) : NULL;
    c->dev->k->rmsnorm(c->dev, dt, rows, p->n_heads, p->head_dim, x, x_ld, c->in[1].data, p->eps, y, ld, rstd);
    c->dev->k->rmsnorm(c->dev, dt, rows, p->n_kv_heads, p->head_dim, gr_op_at(x, dt, q), x_ld, c->in[2].data, p->eps,
                       gr_op_at(y, dt, q), ld, k_rstd);
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_qkv_norm_params *p = c->params;
    gr_dtype dt = c->in[0].dtype;
    int64_t rows = gr_rows(&c->in[0]), ld = gr_cols(&c->in[0]), q = (int64_t)p->n_heads * p->head_dim;
    int64_t x_ld = heads(p) * p->head_dim;
    const void *x = c->out[1].data, *rstd = c->out[2].data, *dy = c->dout[0].data;
    void *dx = c->din[0].data;
    c->dev->k->rmsnorm_backward(c->dev, dt, rows, p->n_heads, p->head_dim, x, x_ld, c->in[1].data, rstd, dy, ld, dx, ld,
                                false, c->din[1].data);
    c->dev->k->rmsnorm_backward(c->dev, dt, rows, p->n_kv_heads, p->head_dim, gr_op_at(x, dt, q), x_ld, c->in[2].data,
                                gr_op_at(rstd, c->out[2].dtype, rows * p->n_heads), gr_op_at(dy, dt, q), ld,
                                dx ? gr_op_at(dx, dt, q) : NULL, ld, false, c->din[2].data);
    if (dx && dx != dy)
        gr_op_copy(c->dev, dt, rows, ld - x_ld, gr_op_at(dy, dt, x_ld), ld, gr_op_at(dx, dt, x_ld), ld);
    return GRAFT_OK;
}

const gr_op gr_op_qkv_norm = {.name = "qkv_norm",
                              .params_size = sizeof(gr_qkv_norm_params),
                              .n_aux = 2,
                              .shape = shape,
                              .forward = forward,
                              .backward = backward,
                              .save_in = 1u << 1 | 1u << 2,
                              .save_out = 1u << 1 | 1u << 2,
                              .parameters = 1u << 1 | 1u << 2,
                              .in_place = true,
                              .grad_in_place = true};
