/* Head and loss in one: logits = x W^T + sum_i u_i B_i^T, loss = sum_r weight_r (log sum_v exp logit_rv - logit_r,label(r)).
 * dlogits = weight (softmax - onehot); dx = dlogits W; dW = dlogits^T x; du_i = dlogits B_i; dB_i = dlogits^T u_i.
 *
 * Logits of all rows would be the largest thing in memory (rows x vocabulary), so rows go through in chunks, and since
 * the gradient of the loss needs nothing that comes later but one factor, dx is made in the same go, while the logits are
 * there (as in Liger Kernel, Hsu et al. 2024, arXiv 2410.10989). A trained head, or one with low-rank updates, differs: its gradient has to be added to
 * the parameter group by group, with the factor known, so that the bits do not depend on how a batch is split; then both
 * gradients are made in the backward from logits computed a second time. */
#include "op/common.h"

enum { LOGIT_BYTES = 48 << 20, MIN_CHUNK = 64, MAX_CHUNK = 256, PAIRS = 3 };

static bool has_pair(const gr_op_call *c, int i) { return 3 + 2 * i < c->n_in && c->in[3 + 2 * i].shape.n == 2; }

/* Whether the gradients are left to the backward. */
static bool deferred(const gr_op_call *c) {
    bool updates = false;
    for (int i = 0; i < PAIRS; i++) updates |= has_pair(c, i);
    return (c->wants & 2) != 0 || (updates && c->wants != 0);
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
    c->out[0] = (gr_array){GR_F64, gr_shape1(1), NULL};
    c->out[1] = (gr_array){dt, gr_shape2(deferred(c) ? 0 : gr_rows(&c->in[0]), cols), NULL}; /* dx with factor 1 */
    return GRAFT_OK;
}

static void saves(const gr_op_call *c, uint32_t *in, uint32_t *out) {
    *in = deferred(c) ? 0xFDu : 0;
    *out = deferred(c) ? 0 : 2;
}

/* Scratch of one chunk. */
typedef struct space {
    int64_t chunk;
    void *logits, *dlogits; /* dlogits NULL: not wanted */
    double *loss;
    int32_t *hit;
    float *weight;
    void *b[PAIRS]; /* B_i in the activations' type */
} space;

static size_t lay_out(const gr_op_call *c, bool gradient, char *base, space *s) {
    const gr_cross_entropy_params *p = c->params;
    gr_dtype dt = c->in[0].dtype, wide = gr_param_dtype(dt);
    int64_t chunk = chunk_of(c), vocab = gr_matrix_out(p->head);
    char *at = base;
    *s = (space){.chunk = chunk};
    s->logits = gr_op_cut(&at, gr_op_bytes(wide, chunk * vocab));
    if (gradient) s->dlogits = dt == wide ? s->logits : gr_op_cut(&at, gr_op_bytes(dt, chunk * vocab));
    s->loss = gr_op_cut(&at, (size_t)chunk * sizeof(double));
    s->hit = gr_op_cut(&at, (size_t)chunk * sizeof(int32_t));
    s->weight = gr_op_cut(&at, (size_t)chunk * sizeof(float));
    for (int i = 0; i < PAIRS; i++)
        if (has_pair(c, i)) s->b[i] = gr_op_cut(&at, gr_op_bytes(dt, vocab * gr_cols(&c->in[3 + 2 * i])));
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

/* Logits of rows [begin, begin + n), their losses and, with the weights times `factor`, dlogits. */
static graft_status run_chunk(const gr_op_call *c, const space *s, int64_t begin, int64_t n, double factor,
                              graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    const gr_array *x = &c->in[0];
    gr_dtype dt = x->dtype, wide = gr_param_dtype(dt);
    int64_t cols = gr_cols(x), vocab = gr_matrix_out(p->head);
    for (int64_t r = 0; r < n; r++) s->weight[r] = (float)((p->weight ? p->weight[begin + r] : 1) * factor);
    GR_TRY(gr_matrix_forward(p->head, n, gr_op_at(x->data, dt, begin * cols), cols, wide, s->logits, vocab, false, err));
    for (int i = 0; i < PAIRS; i++) {
        if (!has_pair(c, i)) continue;
        int64_t rank = gr_cols(&c->in[3 + 2 * i]);
        GR_TRY(gr_gemm(c->dev, false, true, n, vocab, rank, 1, dt, gr_op_at(c->in[2 + 2 * i].data, dt, begin * rank), rank,
                       s->b[i], rank, 1, wide, s->logits, vocab, err));
    }
    c->dev->k->cross_entropy(c->dev, n, vocab, wide, s->logits, vocab, p->labels + begin, s->weight, s->loss, s->hit, dt,
                             s->dlogits, vocab);
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
        GR_TRY(run_chunk(c, &s, begin, n, 1, err));
        for (int64_t r = 0; r < n; r++) sum += (p->weight ? (double)p->weight[begin + r] : 1) * s.loss[r];
        if (p->losses) memcpy(p->losses + begin, s.loss, (size_t)n * sizeof *s.loss);
        if (p->hits) memcpy(p->hits + begin, s.hit, (size_t)n * sizeof *s.hit);
        if (gradient)
            GR_TRY(gr_matrix_backward(p->head, n, s.dlogits, vocab, gr_op_at(dx->data, dx->dtype, begin * cols), cols,
                                      false, err));
    }
    *(double *)c->out[0].data = sum;
    return GRAFT_OK;
}

/* What the dlogits of rows [begin, begin + n) give to parameters and inputs. */
static graft_status chunk_gradients(const gr_op_call *c, const space *s, int64_t begin, int64_t n, graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    gr_dtype dt = c->in[0].dtype, param = gr_param_dtype(dt);
    int64_t cols = gr_cols(&c->in[0]), vocab = gr_matrix_out(p->head);
    const void *x = gr_op_at(c->in[0].data, dt, begin * cols);
    if (c->din[0].data)
        GR_TRY(gr_matrix_backward(p->head, n, s->dlogits, vocab, gr_op_at(c->din[0].data, dt, begin * cols), cols,
                                  c->add[0], err));
    if (c->din[1].data)
        GR_TRY(gr_gemm(c->dev, true, false, vocab, cols, n, 1, dt, s->dlogits, vocab, x, cols, 1, param, c->din[1].data,
                       cols, err));
    for (int i = 0; i < PAIRS; i++) {
        if (!has_pair(c, i)) continue;
        int u = 2 + 2 * i, b = 3 + 2 * i;
        int64_t rank = gr_cols(&c->in[b]);
        if (c->din[u].data)
            GR_TRY(gr_gemm(c->dev, false, false, n, rank, vocab, 1, dt, s->dlogits, vocab, s->b[i], rank, c->add[u] ? 1 : 0,
                           dt, gr_op_at(c->din[u].data, dt, begin * rank), rank, err));
        if (c->din[b].data)
            GR_TRY(gr_gemm(c->dev, true, false, vocab, rank, n, 1, dt, s->dlogits, vocab,
                           gr_op_at(c->in[u].data, dt, begin * rank), rank, 1, param, c->din[b].data, rank, err));
    }
    return GRAFT_OK;
}

static graft_status backward_deferred(gr_op_call *c, double factor, graft_error *err) {
    gr_op_groups groups;
    space s;
    GR_TRY(gr_op_get_groups(c, gr_rows(&c->in[0]), &groups, err));
    lay_out(c, true, c->scratch, &s);
    convert_updates(c, &s);
    for (int g = 0; g < groups.n; g++) {
        gr_row_range range = gr_op_group(&groups, g);
        for (int64_t begin = range.begin; begin < range.end; begin += s.chunk) {
            int64_t n = GR_MIN(s.chunk, range.end - begin);
            GR_TRY(run_chunk(c, &s, begin, n, factor, err));
            GR_TRY(chunk_gradients(c, &s, begin, n, err));
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
                                        .save_in = 0xFDu,
                                        .save_out = 2,
                                        .saves = saves,
                                        .parameters = 0xAAu,
                                        .adds = 0x55u};
