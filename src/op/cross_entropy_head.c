/* Head and loss in one: logits = x W^T + b + sum_i u_i B_i^T, loss = sum_r weight_r (log sum_v exp logit_rv - logit_r,label(r)).
 * dlogits = weight (softmax - onehot); dx = dlogits W; dW = dlogits^T x; du_i = dlogits B_i; dB_i = dlogits^T u_i;
 * db = sum over rows of dlogits.
 *
 * Logits of all rows would be the largest thing in memory (rows x vocabulary), so rows go through in chunks, their gradients
 * a slab of the vocabulary at a time, and since
 * the gradient of the loss needs nothing that comes later but one factor, dx is made in the same go, while the logits are
 * there (as in Liger Kernel, Hsu et al. 2024, arXiv 2410.10989). A trained head or bias, or a head with low-rank updates, differs: its gradient has to be added to
 * the parameter group by group, with the factor known, so that the bits do not depend on how a batch is split; then both
 * gradients are made in the backward from logits computed a second time.
 *
 * Rows of an update with a factor c (DoRA, Liu et al. 2024, on the head): with z = x W^T + u B^T, logits = c z + b; dz = c dlogits takes
 * the place of dlogits above, dc = sum over rows of dlogits z. With dropout z = x' W^T + u B^T and logits = x W^T - x' W^T + c z + b: of
 * W's two products one has dlogits, the other (c - 1) dlogits, whose dx' goes through the mask again. */
#include "op/common.h"

enum { LOGIT_BYTES = 48 << 20, MIN_CHUNK = 64, MAX_CHUNK = 256, PAIRS = GR_HEAD_UPDATES, BIAS = 8, FACTOR = 9 };
/* dlogits are made and used so many columns at a time, while they and the rows of W are in the cache. */
enum { SLAB = 4096 };

static bool has_pair(const gr_op_call *c, int i) { return 3 + 2 * i < c->n_in && c->in[3 + 2 * i].shape.n == 2; }

static bool has_factor(const gr_op_call *c, int i) { return has_pair(c, i) && FACTOR + i < c->n_in && c->in[FACTOR + i].shape.n == 1; }
static bool has_factors(const gr_op_call *c) { return has_factor(c, 0) || has_factor(c, 1) || has_factor(c, 2); }
static double dropout_of(const gr_op_call *c, int i) {
    const gr_cross_entropy_params *p = c->params;
    return has_factor(c, i) ? p->update[i].dropout : 0;
}
static bool drops(const gr_op_call *c) { return dropout_of(c, 0) > 0 || dropout_of(c, 1) > 0 || dropout_of(c, 2) > 0; }

/* Whether the gradients are left to the backward. */
static bool deferred(const gr_op_call *c) {
    bool updates = false;
    for (int i = 0; i < PAIRS; i++) updates |= has_pair(c, i);
    return (c->wants & (2 | 1u << BIAS)) != 0 || (updates && c->wants != 0);
}

static int64_t chunk_of(const gr_op_call *c) {
    const gr_cross_entropy_params *p = c->params;
    int64_t vocab = gr_matrix_out(p->head), rows = gr_rows(&c->in[0]), chunk = p->chunk;
    const int64_t bytes = has_factors(c) ? LOGIT_BYTES / 2 : LOGIT_BYTES; /* z stands beside the logits */
    if (chunk <= 0) chunk = GR_MIN(GR_MAX(bytes / (vocab * 4) / 16 * 16, MIN_CHUNK), MAX_CHUNK);
    return GR_MAX(GR_MIN(chunk, rows), 1);
}

static graft_status want_factors(const gr_op_call *c, graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    int64_t vocab = gr_matrix_out(p->head);
    for (int i = 0; i < PAIRS; i++) {
        if (!gr_op_has(c, FACTOR + i)) continue;
        const gr_head_rows *u = &p->update[i];
        GR_TRY(gr_op_want_parameter(c, FACTOR + i, "update's factor", gr_shape1(vocab), c->in[0].dtype, err));
        GR_TRY(gr_op_want_ranges(u->n_ranges, u->ranges, gr_rows(&c->in[0]), err));
        if (!has_pair(c, i)) return gr_fail(err, GRAFT_ERR_MISMATCH, "update's factor: expected its u and B, found none");
        if (gr_op_has(c, 1)) return gr_fail(err, GRAFT_ERR_MISMATCH, "update's factor: expected a frozen head weight");
        if (!(u->dropout >= 0 && u->dropout < 1))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "dropout must be from 0 to below 1, found %g", u->dropout);
    }
    return GRAFT_OK;
}

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    int64_t vocab = gr_matrix_out(p->head), cols = gr_matrix_in(p->head);
    gr_dtype dt = gr_matrix_dtype(p->head);
    GR_TRY(gr_op_want(c, 0, "x", gr_shape2(-1, cols), err));
    GR_TRY(gr_op_want_type(c, 0, "x", dt, err));
    if (gr_op_has(c, 1)) GR_TRY(gr_op_want_parameter(c, 1, "head weight", gr_shape2(vocab, cols), dt, err));
    for (int i = 0; i < PAIRS; i++) {
        if (!has_pair(c, i)) continue;
        GR_TRY(gr_op_want_parameter(c, 3 + 2 * i, "update's B", gr_shape2(vocab, -1), dt, err));
        GR_TRY(gr_op_want(c, 2 + 2 * i, "update's u", gr_shape2(gr_rows(&c->in[0]), gr_cols(&c->in[3 + 2 * i])), err));
        GR_TRY(gr_op_want_type(c, 2 + 2 * i, "update's u", dt, err));
    }
    if (gr_op_has(c, BIAS)) GR_TRY(gr_op_want_parameter(c, BIAS, "bias", gr_shape1(vocab), dt, err));
    GR_TRY(want_factors(c, err));
    c->out[0] = (gr_array){GR_F64, gr_shape1(1), NULL};
    c->out[1] = (gr_array){dt, gr_shape2(deferred(c) ? 0 : gr_rows(&c->in[0]), cols), NULL}; /* dx with factor 1 */
    return GRAFT_OK;
}

static void saves(const gr_op_call *c, uint32_t *in, uint32_t *out) {
    *in = deferred(c) ? 0xFFDu : 0;
    *out = deferred(c) ? 0 : 2;
}

/* Scratch of one chunk. What has no use is NULL. */
typedef struct space {
    int64_t chunk, slab, ld, slab_ld;
    void *logits, *dlogits;  /* dlogits (chunk, slab); NULL: made where the logits stand */
    void *dx, *du[PAIRS];    /* sums over slabs, of the wide type; NULL: summed where the result goes */
    double *loss, *lse;
    int32_t *hit;
    float *weight;
    void *b[PAIRS]; /* B_i in the activations' type */
    /* Of factors: z (chunk, ld); a row of logits; dlogits times something (chunk, slab) before they are rounded; c_i - 1; rows that
     * are dropped out (chunk, C), and sums over slabs of their gradient. */
    void *z, *row, *wide, *less[PAIRS], *x, *dropped;
    const uint64_t *key;
} space;

/* Elements from row to row: never a multiple of a page, which would put a column of rows into the same few cache lines. */
static int64_t apart(int64_t n) { return (n + 31) / 32 * 32 + 32; }

static void lay_out_dropped(const gr_op_call *c, bool gradient, char **at, space *s) {
    const gr_cross_entropy_params *p = c->params;
    const gr_dtype dt = c->in[0].dtype, wide = gr_param_dtype(dt);
    const int64_t rows = gr_rows(&c->in[0]), elements = s->chunk * gr_cols(&c->in[0]);
    void *keys = p->key ? NULL : gr_op_cut(at, (size_t)rows * sizeof(uint64_t));
    if (c->scratch) s->key = gr_op_keys(p->key, rows, keys);
    s->row = gr_op_cut(at, gr_op_bytes(wide, gr_matrix_out(p->head)));
    s->x = gr_op_cut(at, gr_op_bytes(dt, elements));
    if (gradient) s->dropped = gr_op_cut(at, gr_op_bytes(wide, elements));
    for (int i = 0; gradient && i < PAIRS; i++)
        if (dropout_of(c, i) > 0) s->less[i] = gr_op_cut(at, gr_op_bytes(wide, gr_matrix_out(p->head)));
}

static size_t lay_out(const gr_op_call *c, bool gradient, char *base, space *s) {
    const gr_cross_entropy_params *p = c->params;
    gr_dtype dt = c->in[0].dtype, wide = gr_param_dtype(dt);
    int64_t chunk = chunk_of(c), vocab = gr_matrix_out(p->head);
    const bool narrow = gradient && dt != wide, factors = has_factors(c), dropped = drops(c);
    char *at = base;
    *s = (space){.chunk = chunk, .slab = GR_MIN(vocab, (int64_t)SLAB), .ld = apart(vocab)};
    s->slab_ld = narrow ? apart(s->slab) : s->ld;
    s->logits = gr_op_cut(&at, gr_op_bytes(wide, chunk * s->ld));
    if (gradient && factors) s->slab_ld = apart(s->slab);
    if (narrow || (gradient && factors)) s->dlogits = gr_op_cut(&at, gr_op_bytes(dt, chunk * s->slab_ld));
    if (narrow) s->dx = gr_op_cut(&at, gr_op_bytes(wide, chunk * gr_matrix_in(p->head)));
    s->loss = gr_op_cut(&at, (size_t)chunk * sizeof(double));
    s->lse = gr_op_cut(&at, (size_t)chunk * sizeof(double));
    s->hit = gr_op_cut(&at, (size_t)chunk * sizeof(int32_t));
    s->weight = gr_op_cut(&at, (size_t)chunk * sizeof(float));
    for (int i = 0; i < PAIRS; i++) {
        if (!has_pair(c, i)) continue;
        s->b[i] = gr_op_cut(&at, gr_op_bytes(dt, vocab * gr_cols(&c->in[3 + 2 * i])));
        if (narrow) s->du[i] = gr_op_cut(&at, gr_op_bytes(wide, chunk * gr_cols(&c->in[3 + 2 * i])));
    }
    if (factors && (gradient || dropped)) s->z = gr_op_cut(&at, gr_op_bytes(wide, chunk * s->ld));
    if (factors && narrow) s->wide = gr_op_cut(&at, gr_op_bytes(wide, chunk * s->slab_ld));
    if (dropped) lay_out_dropped(c, gradient, &at, s);
    return (size_t)(at - base);
}

static size_t scratch(const gr_op_call *c, bool backward) {
    space s;
    if (backward && !deferred(c)) return 0;
    return lay_out(c, backward || (c->wants & 1), GR_OP_NO_BASE, &s);
}

static void set_less(const gr_op_call *c, const space *s, int i) {
    const gr_array *f = &c->in[FACTOR + i];
    for (int64_t v = 0; v < gr_rows(f); v++)
        if (f->dtype == GR_F64)
            ((double *)s->less[i])[v] = ((const double *)f->data)[v] - 1;
        else
            ((float *)s->less[i])[v] = ((const float *)f->data)[v] - 1;
}

static void convert_updates(const gr_op_call *c, const space *s) {
    gr_dtype dt = c->in[0].dtype;
    for (int i = 0; i < PAIRS; i++) {
        if (!has_pair(c, i)) continue;
        if (s->less[i]) set_less(c, s, i);
        const gr_array *b = &c->in[3 + 2 * i];
        c->dev->k->convert(c->dev, b->dtype, b->data, dt, s->b[i], gr_rows(b) * gr_cols(b));
    }
}

/* --- Rows with a factor ------------------------------------------------------------------------------------------------- */

static int n_ranges(const gr_op_call *c, int i) {
    const gr_cross_entropy_params *p = c->params;
    return has_factor(c, i) ? gr_op_n_ranges(p->update[i].n_ranges) : 0;
}

/* What of range k of update i lies in rows [begin, begin + n), counted from `begin`. */
static gr_row_range part_of(const gr_op_call *c, int i, int k, int64_t begin, int64_t n) {
    const gr_cross_entropy_params *p = c->params;
    const gr_row_range r = gr_op_range(p->update[i].n_ranges, p->update[i].ranges, gr_rows(&c->in[0]), k);
    const int64_t first = GR_MAX(r.begin - begin, (int64_t)0), end = GR_MIN(r.end - begin, n);
    return (gr_row_range){first, GR_MAX(first, end)};
}

static void drop(const gr_op_call *c, const space *s, int i, int64_t row, int64_t n, const void *from, void *to) {
    const gr_cross_entropy_params *p = c->params;
    const int64_t cols = gr_cols(&c->in[0]);
    c->dev->k->dropout(c->dev, c->in[0].dtype, n, cols, from, cols, to, cols, p->update[i].dropout, p->seed, p->update[i].stream,
                       s->key + row);
}

/* Logits x W^T of rows r of a chunk become those with update i, without the bias; z stays beside them where there is room for it. */
static graft_status adapt_rows(const gr_op_call *c, const space *s, int i, int64_t begin, gr_row_range r, graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    gr_dtype dt = c->in[0].dtype, wide = gr_param_dtype(dt);
    const int64_t n = r.end - r.begin, cols = gr_cols(&c->in[0]), vocab = gr_matrix_out(p->head), rank = gr_cols(&c->in[3 + 2 * i]);
    const bool dropped = dropout_of(c, i) > 0;
    const void *u = gr_op_at(c->in[2 + 2 * i].data, dt, (begin + r.begin) * rank), *factor = c->in[FACTOR + i].data;
    void *logits = gr_op_at(s->logits, wide, r.begin * s->ld), *z = gr_op_at(s->z, wide, r.begin * s->ld);
    if (dropped) {
        drop(c, s, i, begin + r.begin, n, gr_op_at(c->in[0].data, dt, (begin + r.begin) * cols), s->x);
        GR_TRY(gr_matrix_forward(p->head, n, s->x, cols, wide, z, s->ld, false, err));
        for (int64_t k = 0; k < n; k++)
            c->dev->k->scale(c->dev, wide, vocab, -1, gr_op_at(z, wide, k * s->ld), gr_op_at(logits, wide, k * s->ld), true);
    }
    GR_TRY(gr_gemm(c->dev, false, true, n, vocab, rank, 1, dt, u, rank, s->b[i], rank, 1, wide, dropped ? z : logits, s->ld, err));
    if (!dropped) {
        if (z) gr_op_copy(c->dev, wide, n, vocab, logits, s->ld, z, s->ld);
        c->dev->k->mul_columns(c->dev, wide, n, vocab, logits, s->ld, factor, NULL, logits, s->ld);
        return GRAFT_OK;
    }
    for (int64_t k = 0; k < n; k++) {
        void *to = gr_op_at(logits, wide, k * s->ld);
        c->dev->k->mul_columns(c->dev, wide, 1, vocab, gr_op_at(z, wide, k * s->ld), s->ld, factor, NULL, s->row, vocab);
        c->dev->k->add(c->dev, wide, vocab, to, s->row, to);
    }
    return GRAFT_OK;
}

/* dlogits, rounded, of rows r of a slab, times a factor (NULL: 1), whose elements are those of the slab. */
static void render(const gr_op_call *c, const space *s, gr_row_range r, int64_t v, int64_t width, const void *factor) {
    gr_dtype dt = c->in[0].dtype, wide = gr_param_dtype(dt);
    const int64_t n = r.end - r.begin;
    void *to = gr_op_at(s->dlogits, dt, r.begin * s->slab_ld), *scaled = s->wide ? gr_op_at(s->wide, wide, r.begin * s->slab_ld) : to;
    const void *from = gr_op_at(s->logits, wide, r.begin * s->ld + v);
    int64_t ld = s->ld;
    if (factor) {
        c->dev->k->mul_columns(c->dev, wide, n, width, from, ld, gr_op_at(factor, wide, v), NULL, scaled, s->slab_ld);
        from = scaled;
        ld = s->slab_ld;
    }
    if (dt == wide && !factor) gr_op_copy(c->dev, dt, n, width, from, ld, to, s->slab_ld);
    for (int64_t k = 0; dt != wide && k < n; k++)
        c->dev->k->convert(c->dev, wide, gr_op_at(from, wide, k * ld), dt, gr_op_at(to, dt, k * s->slab_ld), width);
}

/* --- Chunks ---------------------------------------------------------------------------------------------------------------- */

/* Logits of rows [begin, begin + n) and their losses. */
static graft_status run_chunk(const gr_op_call *c, const space *s, int64_t begin, int64_t n, graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    const gr_array *x = &c->in[0];
    gr_dtype dt = x->dtype, wide = gr_param_dtype(dt);
    int64_t cols = gr_cols(x), vocab = gr_matrix_out(p->head);
    GR_TRY(gr_matrix_forward(p->head, n, gr_op_at(x->data, dt, begin * cols), cols, wide, s->logits, s->ld, false, err));
    for (int i = 0; i < PAIRS; i++) {
        for (int k = 0; k < n_ranges(c, i); k++) {
            const gr_row_range r = part_of(c, i, k, begin, n);
            if (r.begin < r.end) GR_TRY(adapt_rows(c, s, i, begin, r, err));
        }
        if (!has_pair(c, i) || has_factor(c, i)) continue;
        int64_t rank = gr_cols(&c->in[3 + 2 * i]);
        GR_TRY(gr_gemm(c->dev, false, true, n, vocab, rank, 1, dt, gr_op_at(c->in[2 + 2 * i].data, dt, begin * rank), rank,
                       s->b[i], rank, 1, wide, s->logits, s->ld, err));
    }
    if (gr_op_has(c, BIAS)) c->dev->k->bias_add(c->dev, wide, n, vocab, s->logits, s->ld, c->in[BIAS].data);
    c->dev->k->cross_entropy(c->dev, n, vocab, wide, s->logits, s->ld, p->labels + begin, s->loss, s->hit, s->lse);
    return GRAFT_OK;
}

/* Where the gradients of one chunk go; data NULL: not wanted. Rows of dx and du are those of the chunk. */
typedef struct target {
    void *dx, *dw, *bias, *du[PAIRS], *db[PAIRS], *factor[PAIRS];
    bool add_dx, add_du[PAIRS];
} target;

/* Rows r of a slab; `add`: to the sums of du. */
static graft_status pair_rows(const gr_op_call *c, const space *s, const target *to, int i, int64_t begin, gr_row_range r, int64_t v,
                              int64_t width, bool add, graft_error *err) {
    gr_dtype dt = c->in[0].dtype, wide = gr_param_dtype(dt);
    const int64_t rank = gr_cols(&c->in[3 + 2 * i]), ld = s->slab_ld, n = r.end - r.begin;
    const void *dlogits = s->dlogits ? gr_op_at(s->dlogits, dt, r.begin * ld) : gr_op_at(s->logits, wide, r.begin * ld + v);
    if (to->du[i])
        GR_TRY(gr_gemm(c->dev, false, false, n, rank, width, 1, dt, dlogits, ld, gr_op_at(s->b[i], dt, v * rank), rank, add ? 1 : 0,
                       wide, gr_op_at(s->du[i] ? s->du[i] : to->du[i], wide, r.begin * rank), rank, err));
    if (!to->db[i]) return GRAFT_OK;
    return gr_gemm(c->dev, true, false, width, rank, n, 1, dt, dlogits, ld,
                   gr_op_at(c->in[2 + 2 * i].data, dt, (begin + r.begin) * rank), rank, 1, wide, gr_op_at(to->db[i], wide, v * rank),
                   rank, err);
}

static graft_status pair_gradients(const gr_op_call *c, const space *s, const target *to, int i, int64_t begin, int64_t n, int64_t v,
                                   int64_t width, graft_error *err) {
    const bool add = v > 0 || (!s->du[i] && to->add_du[i]);
    gr_dtype wide = gr_param_dtype(c->in[0].dtype);
    if (!has_factor(c, i)) return pair_rows(c, s, to, i, begin, (gr_row_range){0, n}, v, width, add, err);
    if (to->du[i] && !add) gr_op_zero(c->dev, wide, 1, n * gr_cols(&c->in[3 + 2 * i]), s->du[i] ? s->du[i] : to->du[i], 0);
    for (int k = 0; k < n_ranges(c, i); k++) {
        const gr_row_range r = part_of(c, i, k, begin, n);
        if (r.begin < r.end) GR_TRY(pair_rows(c, s, to, i, begin, r, v, width, true, err));
    }
    return GRAFT_OK;
}

/* dx of the product with rows that are dropped out; behind it the slab has these rows' c dlogits. */
static graft_status dropped_gradients(const gr_op_call *c, const space *s, const target *to, int64_t begin, int64_t n, int64_t v,
                                      int64_t width, graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    gr_dtype dt = c->in[0].dtype, wide = gr_param_dtype(dt);
    const int64_t cols = gr_cols(&c->in[0]);
    for (int i = 0; i < PAIRS; i++)
        for (int k = 0; dropout_of(c, i) > 0 && k < n_ranges(c, i); k++) {
            const gr_row_range r = part_of(c, i, k, begin, n);
            if (r.begin == r.end) continue;
            if (to->dx) {
                render(c, s, r, v, width, s->less[i]);
                GR_TRY(gr_matrix_backward_slab(p->head, v, width, r.end - r.begin, gr_op_at(s->dlogits, dt, r.begin * s->slab_ld),
                                               s->slab_ld, wide, gr_op_at(s->dropped, wide, r.begin * cols), cols, v > 0, err));
            }
            render(c, s, r, v, width, c->in[FACTOR + i].data);
        }
    return GRAFT_OK;
}

/* The factors' gradients, and the slab's dlogits as dx needs them, of a chunk whose logits are dlogits already. */
static void render_slab(const gr_op_call *c, const space *s, const target *to, int64_t begin, int64_t n, int64_t v, int64_t width) {
    gr_dtype wide = gr_param_dtype(c->in[0].dtype);
    render(c, s, (gr_row_range){0, n}, v, width, NULL);
    for (int i = 0; i < PAIRS; i++)
        for (int k = 0; k < n_ranges(c, i); k++) {
            const gr_row_range r = part_of(c, i, k, begin, n);
            const int64_t at = r.begin * s->ld + v;
            if (r.begin == r.end) continue;
            if (to->factor[i])
                c->dev->k->mul_column_sum(c->dev, wide, r.end - r.begin, width, gr_op_at(s->logits, wide, at), s->ld,
                                          gr_op_at(s->z, wide, at), s->ld, gr_op_at(to->factor[i], wide, v));
            if (dropout_of(c, i) == 0) render(c, s, r, v, width, c->in[FACTOR + i].data);
        }
}

/* What the dlogits of one slab, columns [v, v + width) of n rows, give. */
static graft_status slab_gradients(const gr_op_call *c, const space *s, const target *to, int64_t begin, int64_t n,
                                   int64_t v, int64_t width, graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    gr_dtype dt = c->in[0].dtype, wide = gr_param_dtype(dt);
    const bool factors = has_factors(c);
    int64_t cols = gr_cols(&c->in[0]), ld = s->slab_ld;
    void *logits = gr_op_at(s->logits, wide, v), *dlogits = s->dlogits ? s->dlogits : logits;
    c->dev->k->cross_entropy_backward(c->dev, n, v, width, wide, logits, s->ld, p->labels + begin, s->weight, s->lse,
                                      factors ? wide : dt, factors ? logits : dlogits, factors ? s->ld : ld);
    if (to->bias)
        c->dev->k->column_sum(c->dev, factors ? wide : dt, n, width, factors ? logits : dlogits, factors ? s->ld : ld,
                              gr_op_at(to->bias, wide, v));
    if (factors) render_slab(c, s, to, begin, n, v, width);
    if (to->dx)
        GR_TRY(gr_matrix_backward_slab(p->head, v, width, n, dlogits, ld, wide, s->dx ? s->dx : to->dx, cols,
                                       v > 0 || (!s->dx && to->add_dx), err));
    if (to->dw)
        GR_TRY(gr_gemm(c->dev, true, false, width, cols, n, 1, dt, dlogits, ld, gr_op_at(c->in[0].data, dt, begin * cols),
                       cols, 1, wide, gr_op_at(to->dw, wide, v * cols), cols, err));
    if (s->dropped) GR_TRY(dropped_gradients(c, s, to, begin, n, v, width, err));
    for (int i = 0; i < PAIRS; i++)
        if (has_pair(c, i)) GR_TRY(pair_gradients(c, s, to, i, begin, n, v, width, err));
    return GRAFT_OK;
}

/* Rounds sums over slabs into the result. The sums' memory takes the rounded values first where they are to be added. */
static void narrow(const gr_op_call *c, int64_t n, void *sums, void *to, bool add) {
    gr_dtype dt = c->in[0].dtype;
    if (!sums || !to) return;
    c->dev->k->convert(c->dev, gr_param_dtype(dt), sums, dt, add ? sums : to, n);
    if (add) c->dev->k->add(c->dev, dt, n, to, sums, to);
}

/* The gradient of rows that were dropped out goes through the mask into that of x. */
static void add_dropped(const gr_op_call *c, const space *s, const target *to, int64_t begin, int64_t n) {
    gr_dtype dt = c->in[0].dtype, wide = gr_param_dtype(dt);
    const int64_t cols = gr_cols(&c->in[0]);
    for (int i = 0; i < PAIRS; i++)
        for (int k = 0; dropout_of(c, i) > 0 && k < n_ranges(c, i); k++) {
            const gr_row_range r = part_of(c, i, k, begin, n);
            const int64_t m = r.end - r.begin;
            void *sums = gr_op_at(s->dropped, wide, r.begin * cols), *d = dt == wide ? sums : s->x, *dx = gr_op_at(to->dx, dt, r.begin * cols);
            if (m == 0) continue;
            if (d != sums) c->dev->k->convert(c->dev, wide, sums, dt, d, m * cols);
            drop(c, s, i, begin + r.begin, m, d, d);
            c->dev->k->add(c->dev, dt, m * cols, dx, d, dx);
        }
}

/* What rows [begin, begin + n), whose logits are there, give to parameters and inputs; the weights times `factor`. */
static graft_status chunk_gradients(const gr_op_call *c, const space *s, const target *to, int64_t begin, int64_t n,
                                    double factor, graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    int64_t vocab = gr_matrix_out(p->head);
    for (int64_t r = 0; r < n; r++) s->weight[r] = (float)((p->weight ? p->weight[begin + r] : 1) * factor);
    for (int64_t v = 0; v < vocab; v += s->slab)
        GR_TRY(slab_gradients(c, s, to, begin, n, v, GR_MIN(s->slab, vocab - v), err));
    narrow(c, n * gr_cols(&c->in[0]), s->dx, to->dx, to->add_dx);
    if (to->dx && s->dropped) add_dropped(c, s, to, begin, n);
    for (int i = 0; i < PAIRS; i++)
        if (has_pair(c, i)) narrow(c, n * gr_cols(&c->in[3 + 2 * i]), s->du[i], to->du[i], to->add_du[i]);
    return GRAFT_OK;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    const gr_array *dx = &c->out[1];
    int64_t rows = gr_rows(&c->in[0]), cols = gr_cols(&c->in[0]), vocab = gr_matrix_out(p->head);
    bool gradient = (c->wants & 1) && !deferred(c);
    double sum = 0;
    space s;
    for (int64_t r = 0; r < rows; r++)
        if (p->labels[r] >= vocab)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "label %d at row %lld is outside a vocabulary of %lld", p->labels[r],
                           (long long)r, (long long)vocab);
    lay_out(c, gradient, c->scratch, &s);
    convert_updates(c, &s);
    for (int64_t begin = 0; begin < rows; begin += s.chunk) {
        int64_t n = GR_MIN(s.chunk, rows - begin);
        GR_TRY(run_chunk(c, &s, begin, n, err));
        for (int64_t r = 0; r < n; r++) sum += (p->weight ? (double)p->weight[begin + r] : 1) * s.loss[r];
        if (p->losses) memcpy(p->losses + begin, s.loss, (size_t)n * sizeof *s.loss);
        if (p->hits) memcpy(p->hits + begin, s.hit, (size_t)n * sizeof *s.hit);
        target to = {.dx = gr_op_at(dx->data, dx->dtype, begin * cols)};
        if (gradient) GR_TRY(chunk_gradients(c, &s, &to, begin, n, 1, err));
    }
    *(double *)c->out[0].data = sum;
    return GRAFT_OK;
}

static graft_status backward_deferred(gr_op_call *c, double factor, graft_error *err) {
    gr_dtype dt = c->in[0].dtype;
    gr_op_groups groups;
    space s;
    GR_TRY(gr_op_get_groups(c, gr_rows(&c->in[0]), &groups, err));
    lay_out(c, true, c->scratch, &s);
    convert_updates(c, &s);
    for (int g = 0; g < groups.n; g++) {
        gr_row_range range = gr_op_group(&groups, g);
        for (int64_t begin = range.begin; begin < range.end; begin += s.chunk) {
            int64_t n = GR_MIN(s.chunk, range.end - begin);
            target to = {.dx = gr_op_at(c->din[0].data, dt, begin * gr_cols(&c->in[0])), .dw = c->din[1].data,
                         .bias = c->din[BIAS].data, .add_dx = c->add[0]};
            for (int i = 0; i < PAIRS; i++) {
                if (!has_pair(c, i)) continue;
                int u = 2 + 2 * i;
                to.du[i] = gr_op_at(c->din[u].data, dt, begin * gr_cols(&c->in[u + 1]));
                to.db[i] = c->din[u + 1].data;
                to.add_du[i] = c->add[u];
                to.factor[i] = c->din[FACTOR + i].data;
            }
            GR_TRY(run_chunk(c, &s, begin, n, err));
            GR_TRY(chunk_gradients(c, &s, &to, begin, n, factor, err));
        }
    }
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    double factor = *(const double *)c->dout[0].data;
    if (deferred(c)) return backward_deferred(c, factor, err);
    const gr_array *dx = &c->din[0];
    c->dev->k->scale(c->dev, dx->dtype, gr_rows(dx) * gr_cols(dx), factor, c->out[1].data, dx->data, c->add[0]);
    return GRAFT_OK;
}

const gr_op gr_op_cross_entropy_head = {.name = "cross_entropy_head",
                                        .params_size = sizeof(gr_cross_entropy_params),
                                        .n_aux = 1,
                                        .shape = shape,
                                        .forward = forward,
                                        .backward = backward,
                                        .scratch = scratch,
                                        .save_in = 0xFFDu,
                                        .save_out = 2,
                                        .saves = saves,
                                        .parameters = 0xFAAu,
                                        .adds = 0x55u};
