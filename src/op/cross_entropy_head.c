/* Head and loss in one: logits = x W^T, loss = sum_r weight_r (log sum_v exp logit_rv - logit_r,label(r)).
 * dlogits = weight (softmax - onehot); dx = dlogits W; dW = dlogits^T x.
 *
 * Logits of all rows would be the largest thing in memory (rows x vocabulary), so rows go through in chunks, and since
 * the gradient of the loss needs nothing that comes later but one factor, dx is made in the same go, while the logits are
 * there (as in Liger Kernel, Hsu et al. 2024, arXiv 2410.10989). A trained head differs: its gradient has to be added to
 * the parameter group by group, with the factor known, so that the bits do not depend on how a batch is split; then both
 * gradients are made in the backward from logits computed a second time. */
#include "op/common.h"

enum { LOGIT_BYTES = 48 << 20, MIN_CHUNK = 64, MAX_CHUNK = 256 };

static bool head_wanted(const gr_op_call *c) { return (c->wants & 2) != 0; }

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
    c->out[0] = (gr_array){GR_F64, gr_shape1(1), NULL};
    c->out[1] = (gr_array){dt, gr_shape2(head_wanted(c) ? 0 : gr_rows(&c->in[0]), cols), NULL}; /* dx with factor 1 */
    return GRAFT_OK;
}

static void saves(const gr_op_call *c, uint32_t *in, uint32_t *out) {
    *in = head_wanted(c) ? 1 : 0;
    *out = head_wanted(c) ? 0 : 2;
}

/* Scratch of one chunk. */
typedef struct space {
    int64_t chunk;
    void *logits, *dlogits; /* dlogits NULL: not wanted */
    double *loss;
    int32_t *hit;
    float *weight;
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
    return (size_t)(at - base);
}

static size_t scratch(const gr_op_call *c, bool backward) {
    space s;
    if (backward && !head_wanted(c)) return 0;
    return lay_out(c, backward || (c->wants & 1), GR_OP_NO_BASE, &s);
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
    c->dev->k->cross_entropy(c->dev, n, vocab, wide, s->logits, vocab, p->labels + begin, s->weight, s->loss, s->hit, dt,
                             s->dlogits, vocab);
    return GRAFT_OK;
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    const gr_array *dx = &c->out[1];
    int64_t rows = gr_rows(&c->in[0]), cols = gr_cols(&c->in[0]), vocab = gr_matrix_out(p->head);
    bool gradient = (c->wants & 1) && !head_wanted(c);
    double sum = 0;
    space s;
    for (int64_t r = 0; r < rows; r++)
        if (p->labels[r] >= vocab)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "label %d at row %lld is outside a vocabulary of %lld", p->labels[r],
                           (long long)r, (long long)vocab);
    lay_out(c, gradient, c->scratch, &s);
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

static graft_status backward_with_head(gr_op_call *c, double factor, graft_error *err) {
    const gr_cross_entropy_params *p = c->params;
    const gr_array *x = &c->in[0];
    gr_dtype dt = x->dtype;
    int64_t cols = gr_cols(x), vocab = gr_matrix_out(p->head);
    gr_op_groups groups;
    space s;
    GR_TRY(gr_op_get_groups(c, gr_rows(x), &groups, err));
    lay_out(c, true, c->scratch, &s);
    for (int g = 0; g < groups.n; g++) {
        gr_row_range range = gr_op_group(&groups, g);
        for (int64_t begin = range.begin; begin < range.end; begin += s.chunk) {
            int64_t n = GR_MIN(s.chunk, range.end - begin);
            GR_TRY(run_chunk(c, &s, begin, n, factor, err));
            if (c->din[0].data)
                GR_TRY(gr_matrix_backward(p->head, n, s.dlogits, vocab, gr_op_at(c->din[0].data, dt, begin * cols), cols,
                                          c->add[0], err));
            GR_TRY(gr_gemm(c->dev, true, false, vocab, cols, n, 1, dt, s.dlogits, vocab,
                           gr_op_at(x->data, dt, begin * cols), cols, 1, gr_param_dtype(dt), c->din[1].data, cols, err));
        }
    }
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    double factor = *(const double *)c->dout[0].data;
    if (head_wanted(c)) return backward_with_head(c, factor, err);
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
                                        .save_in = 1,
                                        .save_out = 2,
                                        .saves = saves,
                                        .parameters = 2,
                                        .adds = 1};
