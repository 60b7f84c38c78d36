/* Losses of classification and regression heads (params.h has the equations). Logits are rows of a few columns, one row a
 * sequence or a token, so both passes are plain loops in double. Gradients of a row: softmax - onehot; (sigmoid(x) - t) / L;
 * 2 (x - t) / L; each times the row's weight. */
#include <math.h>

#include "op/common.h"

static graft_status shape(gr_op_call *c, graft_error *err) {
    GR_TRY(gr_op_want(c, 0, "logits", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "logits", err));
    if (gr_cols(&c->in[0]) < 1) return gr_fail(err, GRAFT_ERR_MISMATCH, "logits must have a column, found none");
    c->out[0] = (gr_array){GR_F64, gr_shape1(1), NULL};
    return GRAFT_OK;
}

static double get(const gr_array *a, int64_t i) {
    switch (a->dtype) {
    case GR_F64: return ((const double *)a->data)[i];
    case GR_F32: return ((const float *)a->data)[i];
    default: return gr_bf16_to_f32(((const uint16_t *)a->data)[i]);
    }
}

static void put(const gr_array *a, int64_t i, double v, bool add) {
    if (add) v += get(a, i);
    switch (a->dtype) {
    case GR_F64: ((double *)a->data)[i] = v; break;
    case GR_F32: ((float *)a->data)[i] = (float)v; break;
    default: ((uint16_t *)a->data)[i] = gr_f32_to_bf16((float)v); break;
    }
}

static graft_status check(const gr_op_call *c, const gr_class_loss_params *p, graft_error *err) {
    const int64_t rows = gr_rows(&c->in[0]), cols = gr_cols(&c->in[0]);
    if (p->kind != GR_CLASS_LOSS_CROSS_ENTROPY)
        return p->targets || !rows ? GRAFT_OK : gr_fail(err, GRAFT_ERR_ARGUMENT, "the targets are missing");
    if (!p->labels && rows) return gr_fail(err, GRAFT_ERR_ARGUMENT, "the labels are missing");
    for (int64_t r = 0; r < rows; r++)
        if (p->labels[r] >= cols)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "label %d at row %lld is outside %lld classes", p->labels[r], (long long)r,
                           (long long)cols);
    return GRAFT_OK;
}

/* log sum exp of row r, and where its largest value first stands. */
static double log_sum_exp(const gr_array *x, int64_t r, int64_t *at) {
    const int64_t n = gr_cols(x), first = r * n;
    double sum = 0;
    *at = 0;
    for (int64_t i = 1; i < n; i++)
        if (get(x, first + i) > get(x, first + *at)) *at = i;
    const double max = get(x, first + *at);
    for (int64_t i = 0; i < n; i++) sum += exp(get(x, first + i) - max);
    return max + log(sum);
}

static double row_loss(const gr_op_call *c, const gr_class_loss_params *p, int64_t r, int32_t *hit) {
    const gr_array *x = &c->in[0];
    const int64_t n = gr_cols(x), first = r * n;
    double sum = 0;
    *hit = 0;
    if (p->kind == GR_CLASS_LOSS_CROSS_ENTROPY) {
        int64_t at;
        if (p->labels[r] < 0) return 0;
        const double lse = log_sum_exp(x, r, &at);
        *hit = at == p->labels[r];
        return lse - get(x, first + p->labels[r]);
    }
    int64_t agree = 0;
    for (int64_t i = 0; i < n; i++) {
        const double v = get(x, first + i), t = p->targets[first + i];
        if (p->kind == GR_CLASS_LOSS_BCE)
            sum += (v > 0 ? v : 0) - v * t + log1p(exp(-fabs(v)));
        else
            sum += (v - t) * (v - t);
        agree += (v > 0) == (t > 0.5);
    }
    *hit = p->kind == GR_CLASS_LOSS_BCE && agree == n;
    return sum / (double)n;
}

static double weight_of(const gr_class_loss_params *p, int64_t r) { return p->weight ? (double)p->weight[r] : 1; }

static graft_status forward(gr_op_call *c, graft_error *err) {
    const gr_class_loss_params *p = c->params;
    double sum = 0;
    GR_TRY(check(c, p, err));
    for (int64_t r = 0; r < gr_rows(&c->in[0]); r++) {
        int32_t hit;
        const double loss = row_loss(c, p, r, &hit);
        sum += weight_of(p, r) * loss;
        if (p->losses) p->losses[r] = loss;
        if (p->hits) p->hits[r] = hit;
    }
    *(double *)c->out[0].data = sum;
    return GRAFT_OK;
}

static double sigmoid(double v) { return v > 0 ? 1 / (1 + exp(-v)) : exp(v) / (1 + exp(v)); }

static graft_status backward(gr_op_call *c, graft_error *err) {
    (void)err;
    const gr_class_loss_params *p = c->params;
    const gr_array *x = &c->in[0], *dx = &c->din[0];
    const int64_t n = gr_cols(x);
    const double above = *(const double *)c->dout[0].data;
    for (int64_t r = 0; r < gr_rows(x); r++) {
        const bool cross = p->kind == GR_CLASS_LOSS_CROSS_ENTROPY, ignored = cross && p->labels[r] < 0;
        const double factor = above * weight_of(p, r);
        int64_t at;
        const double lse = cross && !ignored ? log_sum_exp(x, r, &at) : 0;
        for (int64_t i = r * n; i < (r + 1) * n; i++) {
            double g;
            if (ignored)
                g = 0;
            else if (cross)
                g = factor * (exp(get(x, i) - lse) - (i - r * n == p->labels[r]));
            else if (p->kind == GR_CLASS_LOSS_BCE)
                g = factor * (sigmoid(get(x, i)) - (double)p->targets[i]) / (double)n;
            else
                g = factor * 2 * (get(x, i) - (double)p->targets[i]) / (double)n;
            put(dx, i, g, c->add[0]);
        }
    }
    return GRAFT_OK;
}

const gr_op gr_op_class_loss = {.name = "class_loss",
                                .params_size = sizeof(gr_class_loss_params),
                                .shape = shape,
                                .forward = forward,
                                .backward = backward,
                                .save_in = 1,
                                .adds = 1,
                                .grad_over_in = true};
