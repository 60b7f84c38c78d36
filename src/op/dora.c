/* What DoRA adds to a product of its own input where that is dropped out (Liu et al. 2024): y += (c - 1) w + c l on the covered
 * rows of a block of columns, with x' = drop(x), w = x' W^T, l = s x' A^T B^T. Reference: peft 0.21 tuners/lora/dora.py; without
 * dropout x' is x, y holds w already, and c scales it in place (scale_columns).
 *
 * With g = dy there, t = c g, u = x' A^T: dB += s t^T u; du = s t B; dA += du^T x'; dx += drop(du A + ((c - 1) g) W);
 * dc = sum over rows of g (w + l), row after row. */
#include "op/common.h"

typedef struct plan {
    gr_dtype dt, wide;
    int64_t rows, in, out, rank, ld; /* ld: of y */
    bool factors; /* dA, dB or dx */
    void *less;                      /* c - 1, (out) */
    void *a, *b;                     /* in dt; forward: B's rows as they are and times c */
    void *cb;
    void *x, *h, *u, *t, *du, *dx;   /* of all rows, but t and dx */
    const uint64_t *key;
} plan;

static plan make_plan(const gr_op_call *c) {
    return (plan){.dt = c->in[0].dtype, .wide = gr_param_dtype(c->in[0].dtype), .rows = gr_rows(&c->in[0]),
                  .in = gr_cols(&c->in[1]), .out = gr_rows(&c->in[3]), .rank = gr_rows(&c->in[2]), .ld = gr_cols(&c->in[0]),
                  .factors = (c->wants & 0xE) != 0};
}

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_dora_params *p = c->params;
    gr_dtype dt = gr_matrix_dtype(p->w);
    int64_t in = gr_matrix_in(p->w), out = gr_matrix_out(p->w);
    GR_TRY(gr_op_want(c, 0, "y", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_type(c, 0, "y", dt, err));
    int64_t rows = gr_rows(&c->in[0]);
    GR_TRY(gr_op_want(c, 1, "x", gr_shape2(rows, in), err));
    GR_TRY(gr_op_want_type(c, 1, "x", dt, err));
    GR_TRY(gr_op_want_parameter(c, 2, "A", gr_shape2(-1, in), dt, err));
    GR_TRY(gr_op_want_parameter(c, 3, "B", gr_shape2(out, gr_rows(&c->in[2])), dt, err));
    GR_TRY(gr_op_want_parameter(c, 4, "factor", gr_shape1(out), dt, err));
    GR_TRY(gr_op_want_columns("product", p->column, out, gr_cols(&c->in[0]), err));
    if (!(p->dropout >= 0 && p->dropout < 1))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "dropout must be from 0 to below 1, found %g", p->dropout);
    GR_TRY(gr_op_want_ranges(p->n_ranges, p->ranges, rows, err));
    c->out[0] = (gr_array){dt, c->in[0].shape, NULL};
    c->out[1] = (gr_array){dt, gr_shape2(rows, out), NULL};                   /* w + l */
    c->out[2] = (gr_array){dt, gr_shape2(rows, gr_rows(&c->in[2])), NULL};    /* u */
    return GRAFT_OK;
}

static void saves(const gr_op_call *c, uint32_t *in, uint32_t *out) {
    bool dx = c->wants & 2, da = c->wants & 4, db = c->wants & 8;
    *in = (da ? 2u : 0) | (dx ? 4u : 0) | (dx || da ? 8u : 0) | (dx || da || db ? 16u : 0);
    *out = (c->wants & 16 ? 2u : 0) | (db ? 4u : 0);
}

static size_t lay_out(const gr_op_call *c, bool backward, char *base, plan *w) {
    const gr_dora_params *p = c->params;
    char *at = base;
    void *keys = p->key ? NULL : gr_op_cut(&at, (size_t)w->rows * sizeof(uint64_t));
    if (c->scratch) w->key = gr_op_keys(p->key, w->rows, keys);
    if (backward && !w->factors) return (size_t)(at - base);
    w->less = gr_op_cut(&at, gr_op_bytes(w->wide, w->out));
    w->t = gr_op_cut(&at, gr_op_bytes(w->dt, w->rows * w->out));
    w->a = gr_op_cut(&at, gr_op_bytes(w->dt, w->rank * w->in));
    w->b = gr_op_cut(&at, gr_op_bytes(w->dt, w->out * w->rank));
    w->h = c->out[1].data;
    w->u = c->out[2].data;
    if (!backward) {
        w->cb = gr_op_cut(&at, gr_op_bytes(w->dt, w->out * w->rank));
        if (!w->h) w->h = gr_op_cut(&at, gr_op_bytes(w->dt, w->rows * w->out));
        if (!w->u) w->u = gr_op_cut(&at, gr_op_bytes(w->dt, w->rows * w->rank));
    } else
        w->du = gr_op_cut(&at, gr_op_bytes(w->dt, w->rows * w->rank));
    if (!backward || (c->wants & 4)) w->x = gr_op_cut(&at, gr_op_bytes(w->dt, w->rows * w->in));
    if (backward && c->din[1].data) w->dx = gr_op_cut(&at, gr_op_bytes(w->dt, w->rows * w->in));
    return (size_t)(at - base);
}

static size_t scratch(const gr_op_call *c, bool backward) {
    plan w = make_plan(c);
    return lay_out(c, backward, GR_OP_NO_BASE, &w);
}

static double value(const gr_array *a, int64_t i) {
    return a->dtype == GR_F64 ? ((const double *)a->data)[i] : ((const float *)a->data)[i];
}

static void set_less(const gr_op_call *c, const plan *w) {
    for (int64_t i = 0; i < w->out; i++)
        if (w->wide == GR_F64)
            ((double *)w->less)[i] = value(&c->in[4], i) - 1;
        else
            ((float *)w->less)[i] = (float)(value(&c->in[4], i) - 1);
}

/* Row i of B times c[i], rounded once. */
static void scale_factor(const gr_op_call *c, const plan *w) {
    for (int64_t i = 0; i < w->out; i++)
        for (int64_t k = i * w->rank; k < (i + 1) * w->rank; k++) {
            double v = value(&c->in[4], i) * value(&c->in[3], k);
            if (w->dt == GR_F64)
                ((double *)w->cb)[k] = v;
            else if (w->dt == GR_F32)
                ((float *)w->cb)[k] = (float)v;
            else
                ((uint16_t *)w->cb)[k] = gr_f32_to_bf16((float)v);
        }
}

static void drop(const gr_op_call *c, const plan *w, gr_row_range r, const void *from, void *to) {
    const gr_dora_params *p = c->params;
    c->dev->k->dropout(c->dev, w->dt, r.end - r.begin, w->in, from, w->in, to, w->in, p->dropout, p->seed, p->stream,
                       w->key + r.begin);
}

static void convert(const gr_op_call *c, const plan *w, int i, void *to, int64_t n) {
    if (c->in[i].data) c->dev->k->convert(c->dev, w->wide, c->in[i].data, w->dt, to, n);
}

static graft_status forward_rows(const gr_op_call *c, const plan *w, gr_row_range r, graft_error *err) {
    const gr_dora_params *p = c->params;
    gr_dtype dt = w->dt;
    int64_t n = r.end - r.begin;
    void *x = gr_op_at(w->x, dt, r.begin * w->in), *h = gr_op_at(w->h, dt, r.begin * w->out);
    void *u = gr_op_at(w->u, dt, r.begin * w->rank);
    drop(c, w, r, gr_op_at(c->in[1].data, dt, r.begin * w->in), x);
    GR_TRY(gr_matrix_forward(p->w, n, x, w->in, dt, h, w->out, false, err));
    GR_TRY(gr_gemm(c->dev, false, true, n, w->rank, w->in, 1, dt, x, w->in, w->a, w->in, 0, dt, u, w->rank, err));
    c->dev->k->mul_columns(c->dev, dt, n, w->out, h, w->out, w->less, NULL, w->t, w->out);
    GR_TRY(gr_gemm(c->dev, false, true, n, w->out, w->rank, p->scale, dt, u, w->rank, w->cb, w->rank, 1, dt, w->t, w->out, err));
    for (int64_t i = 0; i < n; i++) {
        void *y = gr_op_at(c->out[0].data, dt, (r.begin + i) * w->ld + p->column);
        c->dev->k->add(c->dev, dt, w->out, y, gr_op_at(w->t, dt, i * w->out), y);
    }
    if (!c->out[1].data) return GRAFT_OK;
    return gr_gemm(c->dev, false, true, n, w->out, w->rank, p->scale, dt, u, w->rank, w->b, w->rank, 1, dt, h, w->out, err);
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    const gr_dora_params *p = c->params;
    plan w = make_plan(c);
    lay_out(c, false, c->scratch, &w);
    set_less(c, &w);
    scale_factor(c, &w);
    convert(c, &w, 2, w.a, w.rank * w.in);
    convert(c, &w, 3, w.b, w.out * w.rank);
    gr_op_carry(c);
    for (int i = 0; i < gr_op_n_ranges(p->n_ranges); i++) {
        gr_row_range r = gr_op_range(p->n_ranges, p->ranges, w.rows, i);
        if (r.begin < r.end) GR_TRY(forward_rows(c, &w, r, err));
    }
    return GRAFT_OK;
}

/* Of rows r: dB and dA group by group. t holds c g. */
static graft_status factor_gradients(const gr_op_call *c, const plan *w, const gr_op_groups *groups, gr_row_range r,
                                     graft_error *err) {
    const gr_dora_params *p = c->params;
    const gr_row_groups over = gr_op_row_groups(groups, r.begin);
    gr_dtype dt = w->dt;
    int64_t n = r.end - r.begin;
    void *du = gr_op_at(w->du, dt, r.begin * w->rank);
    if (c->din[3].data)
        GR_TRY(gr_gemm_groups(c->dev, n, w->out, w->rank, p->scale, dt, w->t, w->out, gr_op_at(w->u, dt, r.begin * w->rank), w->rank,
                              c->din[3].data, w->rank, &over, err));
    if (!c->din[1].data && !c->din[2].data) return GRAFT_OK;
    GR_TRY(gr_gemm(c->dev, false, false, n, w->rank, w->out, p->scale, dt, w->t, w->out, w->b, w->rank, 0, dt, du, w->rank, err));
    if (!c->din[2].data) return GRAFT_OK;
    void *x = gr_op_at(w->x, dt, r.begin * w->in);
    drop(c, w, r, gr_op_at(c->in[1].data, dt, r.begin * w->in), x);
    return gr_gemm_groups(c->dev, n, w->rank, w->in, 1, dt, du, w->rank, x, w->in, c->din[2].data, w->in, &over, err);
}

static graft_status backward_rows(const gr_op_call *c, const plan *w, const gr_op_groups *groups, gr_row_range r, graft_error *err) {
    const gr_dora_params *p = c->params;
    gr_dtype dt = w->dt;
    int64_t n = r.end - r.begin;
    const void *g = gr_op_at(c->dout[0].data, dt, r.begin * w->ld + p->column);
    if (c->din[4].data)
        c->dev->k->mul_column_sum(c->dev, dt, n, w->out, g, w->ld, gr_op_at(c->out[1].data, dt, r.begin * w->out), w->out,
                                  c->din[4].data);
    if (!w->factors) return GRAFT_OK;
    c->dev->k->mul_columns(c->dev, dt, n, w->out, g, w->ld, c->in[4].data, NULL, w->t, w->out);
    GR_TRY(factor_gradients(c, w, groups, r, err));
    if (!c->din[1].data) return GRAFT_OK;
    void *dx = gr_op_at(c->din[1].data, dt, r.begin * w->in), *to = c->add[1] ? gr_op_at(w->dx, dt, r.begin * w->in) : dx;
    c->dev->k->mul_columns(c->dev, dt, n, w->out, g, w->ld, w->less, NULL, w->t, w->out);
    GR_TRY(gr_matrix_backward(p->w, n, w->t, w->out, to, w->in, false, err));
    GR_TRY(gr_gemm(c->dev, false, false, n, w->in, w->rank, 1, dt, gr_op_at(w->du, dt, r.begin * w->rank), w->rank, w->a, w->in, 1, dt,
                   to, w->in, err));
    drop(c, w, r, to, to);
    if (to != dx) c->dev->k->add(c->dev, dt, n * w->in, dx, to, dx);
    return GRAFT_OK;
}

/* Rows of dx that no range covers. */
static void zero_uncovered(const gr_op_call *c, const plan *w) {
    const gr_dora_params *p = c->params;
    int64_t next = 0;
    for (int i = 0; i <= p->n_ranges && p->n_ranges; i++) {
        int64_t begin = i < p->n_ranges ? p->ranges[i].begin : w->rows;
        gr_op_zero(c->dev, w->dt, 1, (begin - next) * w->in, gr_op_at(c->din[1].data, w->dt, next * w->in), 0);
        if (i < p->n_ranges) next = p->ranges[i].end;
    }
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    const gr_dora_params *p = c->params;
    gr_op_groups groups = {0};
    plan w = make_plan(c);
    lay_out(c, true, c->scratch, &w);
    if (w.factors) {
        GR_TRY(gr_op_get_groups(c, w.rows, &groups, err));
        set_less(c, &w);
        convert(c, &w, 2, w.a, w.rank * w.in);
        convert(c, &w, 3, w.b, w.out * w.rank);
    }
    if (c->din[1].data && !c->add[1]) zero_uncovered(c, &w);
    for (int i = 0; i < gr_op_n_ranges(p->n_ranges); i++) {
        gr_row_range r = gr_op_range(p->n_ranges, p->ranges, w.rows, i);
        if (r.begin < r.end) GR_TRY(backward_rows(c, &w, &groups, r, err));
    }
    return GRAFT_OK;
}

const gr_op gr_op_dora = {.name = "dora",
                          .params_size = sizeof(gr_dora_params),
                          .n_aux = 2,
                          .shape = shape,
                          .forward = forward,
                          .backward = backward,
                          .scratch = scratch,
                          .save_in = 0x1Eu,
                          .save_out = 6,
                          .saves = saves,
                          .parameters = 0x1Cu,
                          .adds = 2,
                          .passes = 1,
                          .in_place = true};
