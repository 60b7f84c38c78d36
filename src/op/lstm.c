/* LSTM over rows (Hochreiter & Schmidhuber 1997; torch.nn.LSTM, one layer, one direction):
 *   (i, f, g, o) = x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh, the first two and o through sigmoid, g through tanh
 *   c_t = f c_{t-1} + i g; h_t = o tanh(c_t)
 * The products with x are one for all rows; gates and c are kept for the backward, which goes through the rows the other way
 * and leaves one product for each weight. */
#include "op/common.h"

typedef struct plan {
    const gr_lstm_params *p;
    gr_dtype dt;
    int64_t rows, in, n;
    void *gates, *c;                    /* (T,4H), (T,H) */
    void *w_ih, *w_hh;                  /* in dt */
    void *dgates, *dh, *dc;             /* backward: (T,4H), (H), (H) */
} plan;

static graft_status shape(gr_op_call *c, graft_error *err) {
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "x", err));
    gr_dtype dt = c->in[0].dtype;
    GR_TRY(gr_op_want_parameter(c, 2, "weight_hh", gr_shape2(-1, -1), dt, err));
    int64_t n = gr_cols(&c->in[2]);
    GR_TRY(gr_op_want_parameter(c, 2, "weight_hh", gr_shape2(4 * n, n), dt, err));
    GR_TRY(gr_op_want_parameter(c, 1, "weight_ih", gr_shape2(4 * n, gr_cols(&c->in[0])), dt, err));
    GR_TRY(gr_op_want_parameter(c, 3, "bias_ih", gr_shape1(4 * n), dt, err));
    GR_TRY(gr_op_want_parameter(c, 4, "bias_hh", gr_shape1(4 * n), dt, err));
    int64_t rows = gr_rows(&c->in[0]);
    c->out[0] = (gr_array){dt, gr_shape2(rows, n), NULL};
    c->out[1] = (gr_array){dt, gr_shape2(rows, 4 * n), NULL};
    c->out[2] = (gr_array){dt, gr_shape2(rows, n), NULL};
    return GRAFT_OK;
}

static size_t lay_out(const gr_op_call *c, bool backward, char *base, plan *w) {
    char *at = base;
    *w = (plan){.p = c->params, .dt = c->in[0].dtype, .rows = gr_rows(&c->in[0]), .in = gr_cols(&c->in[0]),
                .n = gr_cols(&c->in[2]), .gates = c->out[1].data, .c = c->out[2].data, .w_ih = c->in[1].data,
                .w_hh = c->in[2].data};
    if (!w->gates && !backward) w->gates = gr_op_cut(&at, gr_op_bytes(w->dt, w->rows * 4 * w->n));
    if (!w->c && !backward) w->c = gr_op_cut(&at, gr_op_bytes(w->dt, w->rows * w->n));
    if (w->dt == GR_BF16) {
        w->w_ih = gr_op_cut(&at, gr_op_bytes(w->dt, 4 * w->n * w->in));
        w->w_hh = gr_op_cut(&at, gr_op_bytes(w->dt, 4 * w->n * w->n));
    }
    if (backward) {
        w->dgates = gr_op_cut(&at, gr_op_bytes(w->dt, w->rows * 4 * w->n));
        w->dh = gr_op_cut(&at, gr_op_bytes(w->dt, w->n));
        w->dc = gr_op_cut(&at, gr_op_bytes(w->dt, w->n));
    }
    return (size_t)(at - base);
}

static size_t scratch(const gr_op_call *c, bool backward) {
    plan w;
    return lay_out(c, backward, GR_OP_NO_BASE, &w);
}

static void open_plan(const gr_op_call *c, bool backward, plan *w) {
    lay_out(c, backward, c->scratch, w);
    if (w->dt != GR_BF16) return;
    c->dev->k->convert(c->dev, GR_F32, c->in[1].data, w->dt, w->w_ih, 4 * w->n * w->in);
    c->dev->k->convert(c->dev, GR_F32, c->in[2].data, w->dt, w->w_hh, 4 * w->n * w->n);
}

/* Row of step t, and of the step before it (-1: none). */
static int64_t row_of(const plan *w, int64_t t) { return w->p->reverse ? w->rows - 1 - t : t; }
static int64_t before(const plan *w, int64_t t) { return t ? row_of(w, t - 1) : -1; }

static graft_status forward(gr_op_call *c, graft_error *err) {
    plan w;
    open_plan(c, false, &w);
    int64_t wide = 4 * w.n;
    void *h = c->out[0].data;
    GR_TRY(gr_gemm(c->dev, false, true, w.rows, wide, w.in, 1, w.dt, c->in[0].data, w.in, w.w_ih, w.in, 0, w.dt, w.gates,
                   wide, err));
    for (int i = 3; i < 5; i++) c->dev->k->bias_add(c->dev, w.dt, w.rows, wide, w.gates, wide, c->in[i].data);
    for (int64_t t = 0; t < w.rows; t++) {
        int64_t r = row_of(&w, t), b = before(&w, t);
        void *gates = gr_op_at(w.gates, w.dt, r * wide);
        if (b >= 0)
            GR_TRY(gr_gemm(c->dev, false, true, 1, wide, w.n, 1, w.dt, gr_op_at(h, w.dt, b * w.n), w.n, w.w_hh, w.n, 1, w.dt,
                           gates, wide, err));
        c->dev->k->lstm_cell(c->dev, w.dt, w.n, gates, b >= 0 ? gr_op_at(w.c, w.dt, b * w.n) : NULL,
                             gr_op_at(w.c, w.dt, r * w.n), gr_op_at(h, w.dt, r * w.n));
    }
    return GRAFT_OK;
}

/* dgates of every row, from the last step to the first. */
static graft_status through_time(const gr_op_call *c, const plan *w, graft_error *err) {
    int64_t wide = 4 * w->n;
    gr_op_zero(c->dev, w->dt, 1, w->n, w->dc, w->n);
    for (int64_t t = w->rows - 1; t >= 0; t--) {
        int64_t r = row_of(w, t), b = before(w, t);
        gr_op_copy(c->dev, w->dt, 1, w->n, gr_op_at(c->dout[0].data, w->dt, r * w->n), w->n, w->dh, w->n);
        if (t + 1 < w->rows)
            GR_TRY(gr_gemm(c->dev, false, false, 1, w->n, wide, 1, w->dt, gr_op_at(w->dgates, w->dt, row_of(w, t + 1) * wide),
                           wide, w->w_hh, w->n, 1, w->dt, w->dh, w->n, err));
        c->dev->k->lstm_cell_backward(c->dev, w->dt, w->n, gr_op_at(w->gates, w->dt, r * wide),
                                      b >= 0 ? gr_op_at(w->c, w->dt, b * w->n) : NULL, gr_op_at(w->c, w->dt, r * w->n), w->dh,
                                      w->dc, gr_op_at(w->dgates, w->dt, r * wide));
    }
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    plan w;
    open_plan(c, true, &w);
    int64_t wide = 4 * w.n;
    gr_dtype param = gr_param_dtype(w.dt);
    GR_TRY(through_time(c, &w, err));
    if (c->din[0].data)
        GR_TRY(gr_gemm(c->dev, false, false, w.rows, w.in, wide, 1, w.dt, w.dgates, wide, w.w_ih, w.in, c->add[0] ? 1 : 0, w.dt,
                       c->din[0].data, w.in, err));
    if (c->din[1].data)
        GR_TRY(gr_gemm(c->dev, true, false, wide, w.in, w.rows, 1, w.dt, w.dgates, wide, c->in[0].data, w.in, 1, param,
                       c->din[1].data, w.in, err));
    if (c->din[2].data && w.rows > 1) { /* every step but the first, with the state before it */
        const void *dg = gr_op_at(w.dgates, w.dt, w.p->reverse ? 0 : wide);
        const void *h = gr_op_at(c->out[0].data, w.dt, w.p->reverse ? w.n : 0);
        GR_TRY(gr_gemm(c->dev, true, false, wide, w.n, w.rows - 1, 1, w.dt, dg, wide, h, w.n, 1, param, c->din[2].data, w.n,
                       err));
    }
    for (int i = 3; i < 5; i++)
        if (c->din[i].data) c->dev->k->column_sum(c->dev, w.dt, w.rows, wide, w.dgates, wide, c->din[i].data);
    return GRAFT_OK;
}

const gr_op gr_op_lstm = {.name = "lstm",
                          .params_size = sizeof(gr_lstm_params),
                          .n_aux = 2,
                          .shape = shape,
                          .forward = forward,
                          .backward = backward,
                          .scratch = scratch,
                          .save_in = 7,
                          .save_out = 7,
                          .parameters = 0x1E,
                          .adds = 1};
