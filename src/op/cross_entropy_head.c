/* Head and loss in one: logits = x W^T + b + sum_i u_i B_i^T, loss = sum_r weight_r (log sum_v exp logit_rv - logit_r,label(r)).
 * dlogits = weight (softmax - onehot); dx = dlogits W; dW = dlogits^T x; du_i = dlogits B_i; dB_i = dlogits^T u_i;
 * db = sum over rows of dlogits.
 *
 * Logits of all rows would be the largest thing in memory (rows x vocabulary), so rows go through in chunks, their gradients
 * a slab of the vocabulary at a time, and since
 * the gradient of the loss needs nothing that comes later but one factor, dx is made in the same go, while the logits are
 * there (as in Liger Kernel, Hsu et al. 2024, arXiv 2410.10989). A trained head or bias, or a head with low-rank updates, differs: its gradient has to be added to
 * the parameter group by group, with the factor known, so that the bits do not depend on how a batch is split; then both
 * gradients are made in the backward from logits computed a second time. */
#include "op/common.h"

enum { LOGIT_BYTES = 48 << 20, MIN_CHUNK = 64, MAX_CHUNK = 256, PAIRS = 3, BIAS = 8 };
/* dlogits are made and used so many columns at a time, while they and the rows of W are in the cache. */
enum { SLAB = 4096 };

static bool has_pair(const gr_op_call *c, int i) { return 3 + 2 * i < c->n_in && c->in[3 + 2 * i].shape.n == 2; }

/* Whether the gradients are left to the backward. */
static bool deferred(const gr_op_call *c) {
    bool updates = false;
    for (int i = 0; i < PAIRS; i++) updates |= has_pair(c, i);
    return (c->wants & (2 | 1u << BIAS)) != 0 || (updates && c->wants != 0);
}

static int64_t chunk_of(const gr_op_call *c) {
    const gr_cross_entropy_params *p = c->params;
    int64_t vocab = gr_matrix_out(p->head), rows = gr_rows(&c->in[0]), chunk = p->chunk;
    if (chunk <= 0) chunk = GR_MIN(GR_MAX(LOGIT_BYTES / (vocab * 4) / 16 * 16, MIN_CHUNK), MAX_CHUNK);
    return GR_MAX(GR_MIN(chunk, rows), 1);
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
    c->out[0] = (gr_array){GR_F64, gr_shape1(1), NULL};
    c->out[1] = (gr_array){dt, gr_shape2(deferred(c) ? 0 : gr_rows(&c->in[0]), cols), NULL}; /* dx with factor 1 */
    return GRAFT_OK;
}

static void saves(const gr_op_call *c, uint32_t *in, uint32_t *out) {
    *in = deferred(c) ? 0x1FDu : 0;
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
} space;

/* Elements from row to row: never a multiple of a page, which would put a column of rows into the same few cache lines. */
static int64_t apart(int64_t n) { return (n + 31) / 32 * 32 + 32; }

static size_t lay_out(const gr_op_call *c, bool gradient, char *base, space *s) {
    const gr_cross_entropy_params *p = c->params;
    gr_dtype dt = c->in[0].dtype, wide = gr_param_dtype(dt);
    int64_t chunk = chunk_of(c), vocab = gr_matrix_out(p->head);
    bool narrow = gradient && dt != wide;
    char *at = base;
    *s = (space){.chunk = chunk, .slab = GR_MIN(vocab, (int64_t)SLAB), .ld = apart(vocab)};
    s->slab_ld = narrow ? apart(s->slab) : s->ld;
    s->logits = gr_op_cut(&at, gr_op_bytes(wide, chunk * s->ld));
    if (narrow) s->dlogits = gr_op_cut(&at, gr_op_bytes(dt, chunk * s->slab_ld));
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
    return (size_t)(at - base);
}

static size_t scratch(const gr_op_call *c, bool backward) {
    space s;
    if (backward && !deferred(c)) return 0;
    return lay_out(c, backward || (c->wants & 1), GR_OP_NO_BASE, &s);
}

static void convert_updates(const gr_op_call *c, const space *s) {
    gr_dtype dt = c->in[0].dtype;
    for (int i = 0; i < PAIRS; i++) {
        if (!has_pair(c, i)) continue;
        const gr_array *b = &c->in[3 + 2 * i];
        c->dev->k->convert(c->dev, b->dtype, b->data, dt, s->b[i], gr_rows(b) * gr_cols(b));
    }
}

/* Logits of rows [begin, begin + n) and their losses. */
static graft_status run_chunk(const gr_op_call *c, const space *s, int64_t begin, int64_t n, graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    const gr_array *x = &c->in[0];
    gr_dtype dt = x->dtype, wide = gr_param_dtype(dt);
    int64_t cols = gr_cols(x), vocab = gr_matrix_out(p->head);
    GR_TRY(gr_matrix_forward(p->head, n, gr_op_at(x->data, dt, begin * cols), cols, wide, s->logits, s->ld, false, err));
    for (int i = 0; i < PAIRS; i++) {
        if (!has_pair(c, i)) continue;
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
    void *dx, *dw, *bias, *du[PAIRS], *db[PAIRS];
    bool add_dx, add_du[PAIRS];
} target;

/* What the dlogits of one slab, columns [v, v + width) of n rows, give. */
static graft_status slab_gradients(const gr_op_call *c, const space *s, const target *to, int64_t begin, int64_t n,
                                   int64_t v, int64_t width, graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    gr_dtype dt = c->in[0].dtype, wide = gr_param_dtype(dt);
    int64_t cols = gr_cols(&c->in[0]), ld = s->slab_ld;
    void *logits = gr_op_at(s->logits, wide, v), *dlogits = s->dlogits ? s->dlogits : logits;
    c->dev->k->cross_entropy_backward(c->dev, n, v, width, wide, logits, s->ld, p->labels + begin, s->weight, s->lse, dt,
                                      dlogits, ld);
    if (to->dx)
        GR_TRY(gr_matrix_backward_slab(p->head, v, width, n, dlogits, ld, wide, s->dx ? s->dx : to->dx, cols,
                                       v > 0 || (!s->dx && to->add_dx), err));
    if (to->dw)
        GR_TRY(gr_gemm(c->dev, true, false, width, cols, n, 1, dt, dlogits, ld, gr_op_at(c->in[0].data, dt, begin * cols),
                       cols, 1, wide, gr_op_at(to->dw, wide, v * cols), cols, err));
    if (to->bias) c->dev->k->column_sum(c->dev, dt, n, width, dlogits, ld, gr_op_at(to->bias, wide, v));
    for (int i = 0; i < PAIRS; i++) {
        if (!has_pair(c, i)) continue;
        int64_t rank = gr_cols(&c->in[3 + 2 * i]);
        bool add = v > 0 || (!s->du[i] && to->add_du[i]);
        if (to->du[i])
            GR_TRY(gr_gemm(c->dev, false, false, n, rank, width, 1, dt, dlogits, ld, gr_op_at(s->b[i], dt, v * rank), rank,
                           add ? 1 : 0, wide, s->du[i] ? s->du[i] : to->du[i], rank, err));
        if (to->db[i])
            GR_TRY(gr_gemm(c->dev, true, false, width, rank, n, 1, dt, dlogits, ld,
                           gr_op_at(c->in[2 + 2 * i].data, dt, begin * rank), rank, 1, wide,
                           gr_op_at(to->db[i], wide, v * rank), rank, err));
    }
    return GRAFT_OK;
}

/* Rounds sums over slabs into the result. The sums' memory takes the rounded values first where they are to be added. */
static void narrow(const gr_op_call *c, int64_t n, void *sums, void *to, bool add) {
    gr_dtype dt = c->in[0].dtype;
    if (!sums || !to) return;
    c->dev->k->convert(c->dev, gr_param_dtype(dt), sums, dt, add ? sums : to, n);
    if (add) c->dev->k->add(c->dev, dt, n, to, sums, to);
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
                                        .save_in = 0x1FDu,
                                        .save_out = 2,
                                        .saves = saves,
                                        .parameters = 0x1AAu,
                                        .adds = 0x55u};
