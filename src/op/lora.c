/* Low-rank update (Hu et al. 2021): y += s drop(x) A^T B^T on the covered rows, for up to three pairs that read the same x.
 * With u = drop(x) A^T and du = s dy B: dB += s dy^T u; dA += du^T drop(x); dx += drop(du A); y's gradient is dy.
 *
 * The pairs' A are stacked, so that one product reads x once for all of them, and so is du A. That needs one drop(x) for
 * all: with dropout every pair has a mask of its own and goes alone. u (rows, sum of ranks) is kept for the backward.
 * A and B are rounded to the type of the activations, as they are wherever a product of that type is taken. */
#include "op/common.h"

typedef struct pair {
    int a, b;            /* inputs */
    int64_t rank, out;
    int64_t column, at;  /* first column in y, and in u */
    double scale;
    uint64_t stream;
    void *b_dt; /* forward (out, rank); backward (rank, out), so that du = dy B reads both along the row */
} pair;

/* Pairs that go through together: ranks side by side in columns [at, at + rank) of u, a_dt (rank, K). */
typedef struct bundle {
    int first, n;
    int64_t at, rank;
    void *a_dt;
} bundle;

typedef struct plan {
    int n, n_bundles, n_ranges;
    pair pair[GR_LORA_PAIRS];
    bundle bundle[GR_LORA_PAIRS];
    const gr_row_range *ranges;
    gr_row_range all;
    int64_t rows, in, width, rank;  /* rank: of all pairs, the width of u */
    gr_dtype dt;
    void *u, *du, *da, *dropped, *dropped_dx;
    const uint64_t *key;
    double dropout;
} plan;

static void make_plan(const gr_op_call *c, plan *w) {
    const gr_lora_params *p = c->params;
    *w = (plan){.rows = gr_rows(&c->in[0]), .in = gr_cols(&c->in[1]), .width = gr_cols(&c->in[0]), .dt = c->in[0].dtype,
                .dropout = p->dropout};
    for (int i = 0; i < GR_LORA_PAIRS; i++) {
        if (3 + 2 * i >= c->n_in || c->in[2 + 2 * i].shape.n != 2) continue;
        const gr_shape *a = &c->in[2 + 2 * i].shape, *b = &c->in[3 + 2 * i].shape;
        pair *q = &w->pair[w->n];
        *q = (pair){.a = 2 + 2 * i, .b = 3 + 2 * i, .rank = a->d[0], .out = b->d[0], .column = p->column[i],
                    .at = w->rank, .scale = p->scale[i], .stream = p->stream[i]};
        if (p->dropout > 0 || w->n == 0)
            w->bundle[w->n_bundles++] = (bundle){.first = w->n, .n = 1, .at = q->at, .rank = q->rank};
        else {
            w->bundle[0].n++;
            w->bundle[0].rank += q->rank;
        }
        w->rank += q->rank;
        w->n++;
    }
    w->all = (gr_row_range){0, w->rows};
    w->n_ranges = p->n_ranges ? p->n_ranges : 1;
}

/* The ranges, once params' arrays may be read. */
static void set_ranges(const gr_op_call *c, plan *w) {
    const gr_lora_params *p = c->params;
    w->ranges = p->n_ranges ? p->ranges : &w->all;
}

static graft_status check_pair(const gr_op_call *c, const gr_lora_params *p, int i, graft_error *err) {
    int a = 2 + 2 * i, b = a + 1;
    char name[8];
    gr_dtype dt = c->in[0].dtype;
    if (!gr_op_has(c, a) && !gr_op_has(c, b)) return GRAFT_OK;
    snprintf(name, sizeof name, "A%d", i);
    GR_TRY(gr_op_want_parameter(c, a, name, gr_shape2(-1, gr_cols(&c->in[1])), dt, err));
    snprintf(name, sizeof name, "B%d", i);
    GR_TRY(gr_op_want_parameter(c, b, name, gr_shape2(-1, gr_rows(&c->in[a])), dt, err));
    return gr_op_want_columns(name, p->column[i], gr_rows(&c->in[b]), gr_cols(&c->in[0]), err);
}

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_lora_params *p = c->params;
    GR_TRY(gr_op_want(c, 0, "y", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "y", err));
    GR_TRY(gr_op_want(c, 1, "x", gr_shape2(gr_rows(&c->in[0]), -1), err));
    GR_TRY(gr_op_want_type(c, 1, "x", c->in[0].dtype, err));
    for (int i = 0; i < GR_LORA_PAIRS; i++) GR_TRY(check_pair(c, p, i, err));
    if (!(p->dropout >= 0 && p->dropout < 1))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "dropout must be from 0 to below 1, found %g", p->dropout);
    if (p->n_ranges < 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%d row ranges", p->n_ranges);
    int64_t end = 0, rows = gr_rows(&c->in[0]);
    for (int i = 0; p->ranges && i < p->n_ranges; i++) {
        if (p->ranges[i].begin < end || p->ranges[i].end < p->ranges[i].begin || p->ranges[i].end > rows)
            return gr_fail(err, GRAFT_ERR_MISMATCH, "row range %d, %lld to %lld, is not in order within %lld rows", i,
                           (long long)p->ranges[i].begin, (long long)p->ranges[i].end, (long long)rows);
        end = p->ranges[i].end;
    }
    plan w;
    make_plan(c, &w);
    c->out[0] = (gr_array){c->in[0].dtype, c->in[0].shape, NULL};
    c->out[1] = (gr_array){c->in[0].dtype, gr_shape2(rows, w.rank), NULL};
    return GRAFT_OK;
}

static void saves(const gr_op_call *c, uint32_t *in, uint32_t *out) {
    uint32_t factors = c->wants & 0xFCu, a = factors & 0x54u;
    *in = 0xFCu | (a ? 2 : 0);        /* x only for dA */
    *out = factors & 0xA8u ? 2 : 0;   /* u only for dB */
    if (!(c->wants & ~1u)) *in = 0;   /* dy is only handed on */
}

static size_t lay_out(const gr_op_call *c, bool backward, char *base, plan *w) {
    const gr_lora_params *p = c->params;
    char *at = base;
    for (int i = 0; i < w->n_bundles; i++)
        w->bundle[i].a_dt = gr_op_cut(&at, gr_op_bytes(w->dt, w->bundle[i].rank * w->in));
    for (int i = 0; i < w->n; i++) w->pair[i].b_dt = gr_op_cut(&at, gr_op_bytes(w->dt, w->pair[i].out * w->pair[i].rank));
    w->u = c->out[1].data;
    if (!w->u && !backward) w->u = gr_op_cut(&at, gr_op_bytes(w->dt, w->rows * w->rank));
    if (backward) w->du = gr_op_cut(&at, gr_op_bytes(w->dt, w->rows * w->rank));
    if (backward && w->bundle[0].n > 1 && (c->wants & 0x54u))
        w->da = gr_op_cut(&at, gr_op_bytes(gr_param_dtype(w->dt), w->bundle[0].rank * w->in));
    if (w->dropout > 0) {
        bool x = !backward || (c->wants & 0x54u), dx = backward && c->din[1].data;
        void *keys = p->key ? NULL : gr_op_cut(&at, (size_t)w->rows * sizeof(uint64_t));
        if (c->scratch) w->key = gr_op_keys(p->key, w->rows, keys);
        if (x) w->dropped = gr_op_cut(&at, gr_op_bytes(w->dt, w->rows * w->in));
        if (dx) w->dropped_dx = gr_op_cut(&at, gr_op_bytes(w->dt, w->rows * w->in));
    }
    return (size_t)(at - base);
}

static size_t scratch(const gr_op_call *c, bool backward) {
    plan w;
    make_plan(c, &w);
    return lay_out(c, backward, GR_OP_NO_BASE, &w);
}

static void transpose_factor(gr_dtype from_dt, const void *from, gr_dtype dt, void *to, int64_t rows, int64_t cols) {
    for (int64_t j = 0; j < cols; j++)
        for (int64_t i = 0; i < rows; i++) {
            int64_t at = j * rows + i, source = i * cols + j;
            if (from_dt == GR_F64)
                ((double *)to)[at] = ((const double *)from)[source];
            else if (dt == GR_F32)
                ((float *)to)[at] = ((const float *)from)[source];
            else
                ((uint16_t *)to)[at] = gr_f32_to_bf16(((const float *)from)[source]);
        }
}

static void convert_factors(const gr_op_call *c, plan *w, bool backward) {
    gr_dtype from = gr_param_dtype(w->dt);
    for (int b = 0; b < w->n_bundles; b++)
        for (int i = w->bundle[b].first; i < w->bundle[b].first + w->bundle[b].n; i++) {
            const pair *q = &w->pair[i];
            void *a = gr_op_at(w->bundle[b].a_dt, w->dt, (q->at - w->bundle[b].at) * w->in);
            c->dev->k->convert(c->dev, from, c->in[q->a].data, w->dt, a, q->rank * w->in);
            if (backward)
                transpose_factor(from, c->in[q->b].data, w->dt, q->b_dt, q->out, q->rank);
            else
                c->dev->k->convert(c->dev, from, c->in[q->b].data, w->dt, q->b_dt, q->out * q->rank);
        }
}

/* The bundle's input for rows r: x itself, or dropped out. */
static const void *input_rows(const gr_op_call *c, const plan *w, const bundle *b, gr_row_range r) {
    const void *x = gr_op_at(c->in[1].data, w->dt, r.begin * w->in);
    if (w->dropout == 0) return x;
    const gr_lora_params *p = c->params;
    void *to = gr_op_at(w->dropped, w->dt, r.begin * w->in);
    c->dev->k->dropout(c->dev, w->dt, r.end - r.begin, w->in, x, w->in, to, w->in, w->dropout, p->seed,
                       w->pair[b->first].stream, w->key + r.begin);
    return to;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    plan w;
    make_plan(c, &w);
    set_ranges(c, &w);
    lay_out(c, false, c->scratch, &w);
    convert_factors(c, &w, false);
    gr_op_carry(c);
    for (int i = 0; i < w.n_ranges; i++) {
        gr_row_range r = w.ranges[i];
        int64_t n = r.end - r.begin;
        if (n == 0) continue;
        void *u = gr_op_at(w.u, w.dt, r.begin * w.rank), *y = gr_op_at(c->out[0].data, w.dt, r.begin * w.width);
        for (int b = 0; b < w.n_bundles; b++) {
            const bundle *k = &w.bundle[b];
            GR_TRY(gr_gemm(c->dev, false, true, n, k->rank, w.in, 1, w.dt, input_rows(c, &w, k, r), w.in, k->a_dt, w.in,
                           0, w.dt, gr_op_at(u, w.dt, k->at), w.rank, err));
        }
        for (int j = 0; j < w.n; j++) {
            const pair *q = &w.pair[j];
            GR_TRY(gr_gemm(c->dev, false, true, n, q->out, q->rank, q->scale, w.dt, gr_op_at(u, w.dt, q->at), w.rank,
                           q->b_dt, q->rank, 1, w.dt, gr_op_at(y, w.dt, q->column), w.width, err));
        }
    }
    return GRAFT_OK;
}

/* dA of the bundle's pairs as one product, which packs x once. What stands there is added to group by group, as each
 * would be alone. */
static graft_status bundle_a(const gr_op_call *c, const plan *w, const bundle *b, const gr_row_groups *over, int64_t n,
                             const void *du, const void *x, graft_error *err) {
    const gr_dtype type = gr_param_dtype(w->dt);
    for (int i = b->first; i < b->first + b->n; i++) {
        const pair *q = &w->pair[i];
        void *row = gr_op_at(w->da, type, (q->at - b->at) * w->in);
        const size_t bytes = (size_t)(q->rank * w->in) * gr_op_size(type);
        if (c->din[q->a].data)
            memcpy(row, c->din[q->a].data, bytes);
        else
            memset(row, 0, bytes);
    }
    GR_TRY(gr_gemm_groups(c->dev, n, b->rank, w->in, 1, w->dt, du, w->rank, x, w->in, w->da, w->in, over, err));
    for (int i = b->first; i < b->first + b->n; i++) {
        const pair *q = &w->pair[i];
        if (c->din[q->a].data)
            memcpy(c->din[q->a].data, gr_op_at(w->da, type, (q->at - b->at) * w->in),
                   (size_t)(q->rank * w->in) * gr_op_size(type));
    }
    return GRAFT_OK;
}

/* dB and dA of the bundle's pairs over rows r, group by group. */
static graft_status bundle_factors(const gr_op_call *c, const plan *w, const bundle *b, const gr_op_groups *groups,
                                   gr_row_range r, graft_error *err) {
    const gr_row_groups over = gr_op_row_groups(groups, r.begin);
    const void *dy = gr_op_at(c->dout[0].data, w->dt, r.begin * w->width);
    const void *u = gr_op_at(w->u, w->dt, r.begin * w->rank), *du = gr_op_at(w->du, w->dt, r.begin * w->rank + b->at);
    const int64_t n = r.end - r.begin;
    int wanted = 0;
    for (int i = b->first; i < b->first + b->n; i++) {
        const pair *q = &w->pair[i];
        wanted += c->din[q->a].data != NULL;
        if (c->din[q->b].data)
            GR_TRY(gr_gemm_groups(c->dev, n, q->out, q->rank, q->scale, w->dt, gr_op_at(dy, w->dt, q->column), w->width,
                                  gr_op_at(u, w->dt, q->at), w->rank, c->din[q->b].data, q->rank, &over, err));
    }
    if (!wanted) return GRAFT_OK;
    const void *x = input_rows(c, w, b, r);
    if (b->n > 1) return bundle_a(c, w, b, &over, n, du, x, err);
    return gr_gemm_groups(c->dev, n, b->rank, w->in, 1, w->dt, du, w->rank, x, w->in, c->din[w->pair[b->first].a].data,
                          w->in, &over, err);
}

/* dx += drop(du A). `write`: the first bundle, where nothing stands yet. */
static graft_status bundle_input(const gr_op_call *c, const plan *w, const bundle *b, gr_row_range r, bool write,
                                 graft_error *err) {
    int64_t n = r.end - r.begin;
    const void *du = gr_op_at(w->du, w->dt, r.begin * w->rank + b->at);
    void *dx = gr_op_at(c->din[1].data, w->dt, r.begin * w->in);
    if (w->dropout == 0)
        return gr_gemm(c->dev, false, false, n, w->in, b->rank, 1, w->dt, du, w->rank, b->a_dt, w->in, write ? 0 : 1,
                       w->dt, dx, w->in, err);
    const gr_lora_params *p = c->params;
    void *to = write ? dx : w->dropped_dx;
    GR_TRY(gr_gemm(c->dev, false, false, n, w->in, b->rank, 1, w->dt, du, w->rank, b->a_dt, w->in, 0, w->dt, to, w->in,
                   err));
    c->dev->k->dropout(c->dev, w->dt, n, w->in, to, w->in, to, w->in, w->dropout, p->seed, w->pair[b->first].stream,
                       w->key + r.begin);
    if (!write) c->dev->k->add(c->dev, w->dt, n * w->in, dx, to, dx);
    return GRAFT_OK;
}

/* Rows of dx that no range covers. */
static void zero_uncovered(const gr_op_call *c, const plan *w) {
    int64_t next = 0;
    for (int i = 0; i <= w->n_ranges; i++) {
        int64_t begin = i < w->n_ranges ? w->ranges[i].begin : w->rows;
        gr_op_zero(c->dev, w->dt, 1, (begin - next) * w->in, gr_op_at(c->din[1].data, w->dt, next * w->in), 0);
        if (i < w->n_ranges) next = w->ranges[i].end;
    }
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    gr_op_groups groups;
    plan w;
    make_plan(c, &w);
    set_ranges(c, &w);
    lay_out(c, true, c->scratch, &w);
    if (c->wants & 0xFCu)
        GR_TRY(gr_op_get_groups(c, w.rows, &groups, err));
    else
        groups = (gr_op_groups){0};
    convert_factors(c, &w, true);
    if (c->din[1].data && !c->add[1]) zero_uncovered(c, &w);
    for (int i = 0; i < w.n_ranges; i++) {
        gr_row_range r = w.ranges[i];
        int64_t n = r.end - r.begin;
        if (n == 0) continue;
        for (int j = 0; j < w.n; j++) {
            const pair *q = &w.pair[j];
            GR_TRY(gr_gemm(c->dev, false, true, n, q->rank, q->out, q->scale, w.dt,
                           gr_op_at(c->dout[0].data, w.dt, r.begin * w.width + q->column), w.width, q->b_dt, q->out, 0,
                           w.dt, gr_op_at(w.du, w.dt, r.begin * w.rank + q->at), w.rank, err));
        }
        for (int b = 0; b < w.n_bundles; b++) {
            GR_TRY(bundle_factors(c, &w, &w.bundle[b], &groups, r, err));
            if (c->din[1].data) GR_TRY(bundle_input(c, &w, &w.bundle[b], r, b == 0 && !c->add[1], err));
        }
    }
    return GRAFT_OK;
}

const gr_op gr_op_lora = {.name = "lora",
                          .params_size = sizeof(gr_lora_params),
                          .n_aux = 1,
                          .shape = shape,
                          .forward = forward,
                          .backward = backward,
                          .scratch = scratch,
                          .save_in = 0xFEu,
                          .save_out = 2,
                          .saves = saves,
                          .parameters = 0xFCu,
                          .adds = 2,
                          .passes = 1,
                          .in_place = true};
