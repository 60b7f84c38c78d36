/* y = x + u B^T. du = dy B; dB = dy^T u; x's gradient is dy. Products are taken in y's type, so that logits in single
 * precision stay whole. */
#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want(c, 1, "u", gr_shape2(gr_rows(&c->in[0]), -1), err));
    GR_TRY(gr_op_want_activation(c, 1, "u", err));
    gr_dtype dt = c->in[1].dtype;
    if (c->in[0].dtype != dt && c->in[0].dtype != gr_param_dtype(dt)) GR_TRY(gr_op_want_type(c, 0, "x", dt, err));
    GR_TRY(gr_op_want_parameter(c, 2, "B", gr_shape2(gr_cols(&c->in[0]), gr_cols(&c->in[1])), dt, err));
    c->out[0] = (gr_array){c->in[0].dtype, c->in[0].shape, NULL};
    return GRAFT_OK;
}

static void saves(const gr_op_call *c, uint32_t *in, uint32_t *out) {
    *in = (c->wants & 4 ? 2u : 0) | (c->wants & 2 ? 4u : 0);
    *out = 0;
}

/* u and B in y's type, and du before it is rounded; the arrays themselves where no conversion is needed. */
typedef struct space {
    gr_dtype type;
    void *u, *b, *du;
} space;

static size_t lay_out(const gr_op_call *c, char *base, space *s) {
    char *at = base;
    const gr_array *u = &c->in[1], *b = &c->in[2];
    *s = (space){.type = c->in[0].dtype, .u = u->data, .b = b->data, .du = c->din[1].data};
    if (u->dtype != s->type) s->u = gr_op_cut(&at, gr_op_bytes(s->type, gr_rows(u) * gr_cols(u)));
    if (b->dtype != s->type) s->b = gr_op_cut(&at, gr_op_bytes(s->type, gr_rows(b) * gr_cols(b)));
    if (u->dtype != s->type) s->du = gr_op_cut(&at, gr_op_bytes(s->type, gr_rows(u) * gr_cols(u)));
    return (size_t)(at - base);
}

static size_t scratch(const gr_op_call *c, bool backward) {
    (void)backward;
    space s;
    return lay_out(c, GR_OP_NO_BASE, &s);
}

static void convert(const gr_op_call *c, const gr_array *from, gr_dtype to_type, void *to) {
    if (from->data && from->data != to)
        c->dev->k->convert(c->dev, from->dtype, from->data, to_type, to, gr_rows(from) * gr_cols(from));
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    space s;
    int64_t rows = gr_rows(&c->in[0]), n = gr_cols(&c->in[0]), rank = gr_cols(&c->in[1]);
    lay_out(c, c->scratch, &s);
    convert(c, &c->in[1], s.type, s.u);
    convert(c, &c->in[2], s.type, s.b);
    gr_op_carry(c);
    return gr_gemm(c->dev, false, true, rows, n, rank, 1, s.type, s.u, rank, s.b, rank, 1, s.type, c->out[0].data, n, err);
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    space s;
    gr_dtype dt = c->in[1].dtype;
    int64_t rows = gr_rows(&c->in[0]), n = gr_cols(&c->in[0]), rank = gr_cols(&c->in[1]);
    lay_out(c, c->scratch, &s);
    if (c->din[1].data) {
        convert(c, &c->in[2], s.type, s.b);
        GR_TRY(gr_gemm(c->dev, false, false, rows, rank, n, 1, s.type, c->dout[0].data, n, s.b, rank, 0, s.type, s.du, rank,
                       err));
        if (s.du != c->din[1].data) c->dev->k->convert(c->dev, s.type, s.du, dt, c->din[1].data, rows * rank);
    }
    if (!c->din[2].data) return GRAFT_OK;
    convert(c, &c->in[1], s.type, s.u);
    return gr_op_weight_gradient(c, s.type, rows, n, c->dout[0].data, n, rank, s.u, rank, false, c->din[2].data, err);
}

const gr_op gr_op_low_rank = {.name = "low_rank",
                              .shape = shape,
                              .forward = forward,
                              .backward = backward,
                              .scratch = scratch,
                              .save_in = 6,
                              .saves = saves,
                              .parameters = 4,
                              .passes = 1,
                              .in_place = true};
