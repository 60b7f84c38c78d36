/* Look-up of rows: y[t] = scale * table[ids[t]]. dtable[ids[t]] += scale * dy[t], row after row, rows of the
 * pad left out. */
#include "op/common.h"

static double scale_of(const gr_embedding_params *p) { return p->scale == 0 ? 1 : p->scale; }

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_embedding_params *p = c->params;
    int64_t vocab = gr_matrix_out(p->table), cols = gr_matrix_in(p->table);
    gr_dtype dt = gr_matrix_dtype(p->table);
    if (p->n < 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%lld ids", (long long)p->n);
    if (gr_op_has(c, 0)) GR_TRY(gr_op_want_parameter(c, 0, "table", gr_shape2(vocab, cols), dt, err));
    c->out[0] = (gr_array){dt, gr_shape2(p->n, cols), NULL};
    return GRAFT_OK;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    const gr_embedding_params *p = c->params;
    int64_t vocab = gr_matrix_out(p->table), cols = gr_matrix_in(p->table);
    const gr_array *y = &c->out[0];
    for (int64_t i = 0; i < p->n; i++)
        if (p->ids[i] < 0 || p->ids[i] >= vocab)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "id %d at row %lld is outside a table of %lld rows", p->ids[i],
                           (long long)i, (long long)vocab);
    GR_TRY(gr_matrix_gather(p->table, p->n, p->ids, y->dtype, y->data, cols, err));
    if (scale_of(p) != 1) c->dev->k->scale(c->dev, y->dtype, p->n * cols, scale_of(p), y->data, y->data, false);
    return GRAFT_OK;
}

static size_t scratch(const gr_op_call *c, bool backward) {
    const gr_embedding_params *p = c->params;
    return backward && scale_of(p) != 1 ? gr_op_bytes(c->out[0].dtype, p->n * gr_cols(&c->out[0])) : 0;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_embedding_params *p = c->params;
    const gr_array *dy = &c->dout[0];
    const void *from = dy->data;
    if (c->scratch) {
        c->dev->k->scale(c->dev, dy->dtype, p->n * gr_cols(dy), scale_of(p), from, c->scratch, false);
        from = c->scratch;
    }
    size_t row = gr_op_bytes(dy->dtype, gr_cols(dy));
    for (int64_t begin = 0, end; begin < p->n; begin = end + 1) { /* the runs between pads */
        for (end = begin; end < p->n && !(p->has_pad && p->ids[end] == p->pad_id); end++) continue;
        c->dev->k->embedding_backward(c->dev, dy->dtype, end - begin, gr_cols(dy), p->ids + begin,
                                      (const char *)from + (size_t)begin * row, gr_cols(dy), c->din[0].data);
    }
    return GRAFT_OK;
}

const gr_op gr_op_embedding = {.name = "embedding",
                               .params_size = sizeof(gr_embedding_params),
                               .shape = shape,
                               .forward = forward,
                               .backward = backward,
                               .scratch = scratch,
                               .parameters = 1};
