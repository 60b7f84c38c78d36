/* The device table of the CPU: cuts each call into items of about GRAIN elements and runs the level's row kernels on
 * them. Items never depend on the number of threads and share no sums. */
#include <math.h>

#include "kernel/cpu/cpu.h"

enum { GRAIN = 16384, COLUMN_GRAIN = 256 };

static size_t rows_per_item(int64_t cols) { return cols >= GRAIN ? 1 : (size_t)(GRAIN / GR_MAX(cols, 1)); }

static const gr_row_kernels *rows_of(const gr_device *d, gr_dtype dt) { return gr_cpu(d)->rows[gr_type_index(dt)]; }

/* Arguments of the table's entries, as far as an item needs them. */
typedef struct call {
    const gr_cpu_kernels *cpu;
    const gr_row_kernels *k;
    gr_dtype dt, dt2;
    gr_activation f;
    int64_t rows, cols, ld1, ld2, ld3;
    int groups;
    const void *a, *b, *c, *d;
    void *o1, *o2, *o3;
    double v1, v2;
    bool flag;
    uint64_t seed, stream;
    const gr_adamw_coef *coef;
} call;

static void run(gr_device *d, size_t n, size_t grain, gr_parallel_fn fn, call *c) {
    c->cpu = gr_cpu(d);
    gr_parallel_for(d->team, n, grain, fn, c);
}

static void convert_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    int64_t i = (int64_t)begin;
    c->cpu->convert(c->dt, gr_at_const(c->a, c->dt, i), c->dt2, gr_at(c->o1, c->dt2, i), (int64_t)(end - begin));
}

static void convert(gr_device *d, gr_dtype from_dt, const void *from, gr_dtype to_dt, void *to, int64_t n) {
    run(d, (size_t)n, GRAIN, convert_item, &(call){.dt = from_dt, .dt2 = to_dt, .a = from, .o1 = to});
}

static void add_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    int64_t i = (int64_t)begin;
    c->k->add((int64_t)(end - begin), gr_at_const(c->a, c->dt, i), gr_at_const(c->b, c->dt, i), gr_at(c->o1, c->dt, i));
}

static void add(gr_device *d, gr_dtype dt, int64_t n, const void *a, const void *b, void *out) {
    run(d, (size_t)n, GRAIN, add_item, &(call){.k = rows_of(d, dt), .dt = dt, .a = a, .b = b, .o1 = out});
}

static void scale_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    int64_t i = (int64_t)begin;
    c->k->scale((int64_t)(end - begin), c->v1, gr_at_const(c->a, c->dt, i), gr_at(c->o1, c->dt, i), c->flag);
}

static void scale(gr_device *d, gr_dtype dt, int64_t n, double alpha, const void *x, void *y, bool add_y) {
    run(d, (size_t)n, GRAIN, scale_item,
        &(call){.k = rows_of(d, dt), .dt = dt, .v1 = alpha, .a = x, .o1 = y, .flag = add_y});
}

static void bias_add_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    for (size_t r = begin; r < end; r++) c->k->bias_add(c->cols, gr_at(c->o1, c->dt, (int64_t)r * c->ld1), c->a);
}

static void bias_add(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, void *x, int64_t ld, const void *bias) {
    run(d, (size_t)rows, rows_per_item(cols), bias_add_item,
        &(call){.k = rows_of(d, dt), .dt = dt, .cols = cols, .o1 = x, .ld1 = ld, .a = bias});
}

static void column_sum_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    int64_t i = (int64_t)begin;
    c->k->column_sum(c->rows, (int64_t)(end - begin), gr_at_const(c->a, c->dt, i), c->ld1,
                     gr_at(c->o1, gr_param_type(c->dt), i));
}

static void column_sum(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *x, int64_t ld, void *sum) {
    run(d, (size_t)cols, COLUMN_GRAIN, column_sum_item,
        &(call){.k = rows_of(d, dt), .dt = dt, .rows = rows, .a = x, .ld1 = ld, .o1 = sum});
}

static void rmsnorm_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++)
        for (int g = 0; g < c->groups; g++) {
            double rstd = c->k->rmsnorm(c->cols, gr_at_const(c->a, c->dt, r * c->ld1 + g * c->cols), c->b, c->v1,
                                        gr_at(c->o1, c->dt, r * c->ld2 + g * c->cols));
            if (!c->o2) continue;
            if (c->dt == GR_F64)
                ((double *)c->o2)[r * c->groups + g] = rstd;
            else
                ((float *)c->o2)[r * c->groups + g] = (float)rstd;
        }
}

static void rmsnorm(gr_device *d, gr_dtype dt, int64_t rows, int groups, int64_t cols, const void *x, int64_t x_ld,
                    const void *w, double eps, void *y, int64_t y_ld, void *rstd) {
    run(d, (size_t)rows, rows_per_item(cols * groups), rmsnorm_item,
        &(call){.k = rows_of(d, dt), .dt = dt, .groups = groups, .cols = cols, .a = x, .ld1 = x_ld, .b = w, .v1 = eps,
                .o1 = y, .ld2 = y_ld, .o2 = rstd});
}

static double rstd_at(const call *c, int64_t i) {
    return c->dt == GR_F64 ? ((const double *)c->c)[i] : (double)((const float *)c->c)[i];
}

static void rmsnorm_backward_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++)
        for (int g = 0; g < c->groups; g++)
            c->k->rmsnorm_backward(c->cols, gr_at_const(c->a, c->dt, r * c->ld1 + g * c->cols), c->b,
                                   rstd_at(c, r * c->groups + g), gr_at_const(c->d, c->dt, r * c->ld2 + g * c->cols),
                                   gr_at(c->o1, c->dt, r * c->ld3 + g * c->cols), c->flag);
}

static void rmsnorm_dw_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    int64_t i = (int64_t)begin, n = (int64_t)(end - begin);
    for (int64_t r = 0; r < c->rows; r++)
        for (int g = 0; g < c->groups; g++)
            c->k->rmsnorm_dw(n, gr_at_const(c->a, c->dt, r * c->ld1 + g * c->cols + i), rstd_at(c, r * c->groups + g),
                             gr_at_const(c->d, c->dt, r * c->ld2 + g * c->cols + i),
                             gr_at(c->o2, gr_param_type(c->dt), i));
}

static void rmsnorm_backward(gr_device *d, gr_dtype dt, int64_t rows, int groups, int64_t cols, const void *x,
                             int64_t x_ld, const void *w, const void *rstd, const void *dy, int64_t dy_ld, void *dx,
                             int64_t dx_ld, bool add_dx, void *dw) {
    call c = {.k = rows_of(d, dt), .dt = dt, .rows = rows, .groups = groups, .cols = cols, .a = x, .ld1 = x_ld, .b = w,
              .c = rstd, .d = dy, .ld2 = dy_ld, .o1 = dx, .ld3 = dx_ld, .flag = add_dx, .o2 = dw};
    if (dw) run(d, (size_t)cols, COLUMN_GRAIN, rmsnorm_dw_item, &c); /* first: dx may be dy */
    if (dx) run(d, (size_t)rows, rows_per_item(cols * groups), rmsnorm_backward_item, &c);
}

/* a, x; b, w; c, stats; d, b or dy; o2, stats or dw. */
static void layernorm_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    double none[2];
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++)
        c->k->layernorm(c->cols, gr_at_const(c->a, c->dt, r * c->ld1), c->b, c->d, c->v1, gr_at(c->o1, c->dt, r * c->ld2),
                        c->o2 ? gr_at(c->o2, gr_param_type(c->dt), 2 * r) : none);
}

static void layernorm(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *x, int64_t x_ld, const void *w,
                      const void *b, double eps, void *y, int64_t y_ld, void *stats) {
    run(d, (size_t)rows, rows_per_item(cols), layernorm_item,
        &(call){.k = rows_of(d, dt), .dt = dt, .cols = cols, .a = x, .ld1 = x_ld, .b = w, .d = b, .v1 = eps, .o1 = y,
                .ld2 = y_ld, .o2 = stats});
}

static void layernorm_backward_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++)
        c->k->layernorm_backward(c->cols, gr_at_const(c->a, c->dt, r * c->ld1), c->b,
                                 gr_at_const(c->c, gr_param_type(c->dt), 2 * r), gr_at_const(c->d, c->dt, r * c->ld2),
                                 gr_at(c->o1, c->dt, r * c->ld3), c->flag);
}

static void layernorm_dw_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    int64_t i = (int64_t)begin, n = (int64_t)(end - begin);
    for (int64_t r = 0; r < c->rows; r++)
        c->k->layernorm_dw(n, gr_at_const(c->a, c->dt, r * c->ld1 + i), gr_at_const(c->c, gr_param_type(c->dt), 2 * r),
                           gr_at_const(c->d, c->dt, r * c->ld2 + i), gr_at(c->o2, gr_param_type(c->dt), i));
}

static void layernorm_backward(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *x, int64_t x_ld,
                               const void *w, const void *stats, const void *dy, int64_t dy_ld, void *dx, int64_t dx_ld,
                               bool add_dx, void *dw) {
    call c = {.k = rows_of(d, dt), .dt = dt, .rows = rows, .cols = cols, .a = x, .ld1 = x_ld, .b = w, .c = stats, .d = dy,
              .ld2 = dy_ld, .o1 = dx, .ld3 = dx_ld, .flag = add_dx, .o2 = dw};
    if (dw) run(d, (size_t)cols, COLUMN_GRAIN, layernorm_dw_item, &c); /* first: dx may be dy */
    if (dx) run(d, (size_t)rows, rows_per_item(cols), layernorm_backward_item, &c);
}

static void rope_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    int64_t dim = c->cols, half = dim / 2;
    gr_dtype param = gr_param_type(c->dt);
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        const void *cos = gr_at_const(c->a, param, r * dim), *sin = gr_at_const(cos, param, half);
        for (int h = 0; h < c->groups; h++)
            c->k->rope((int)half, gr_at(c->o1, c->dt, r * c->ld1 + h * dim), cos, sin, c->flag);
    }
}

static void rope(gr_device *d, gr_dtype dt, int64_t rows, int n_heads, int head_dim, void *x, int64_t ld,
                 const void *cos_sin, bool inverse) {
    run(d, (size_t)rows, rows_per_item((int64_t)n_heads * head_dim), rope_item,
        &(call){.k = rows_of(d, dt), .dt = dt, .groups = n_heads, .cols = head_dim, .o1 = x, .ld1 = ld, .a = cos_sin,
                .flag = inverse});
}

static void activation_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    int64_t i = (int64_t)begin;
    c->k->activation(c->f, (int64_t)(end - begin), gr_at_const(c->a, c->dt, i), gr_at(c->o1, c->dt, i));
}

static void activation(gr_device *d, gr_dtype dt, gr_activation f, int64_t n, const void *x, void *y) {
    run(d, (size_t)n, GRAIN, activation_item, &(call){.k = rows_of(d, dt), .dt = dt, .f = f, .a = x, .o1 = y});
}

static void activation_backward_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    int64_t i = (int64_t)begin;
    c->k->activation_backward(c->f, (int64_t)(end - begin), gr_at_const(c->a, c->dt, i), gr_at_const(c->b, c->dt, i),
                              gr_at(c->o1, c->dt, i));
}

static void activation_backward(gr_device *d, gr_dtype dt, gr_activation f, int64_t n, const void *kept, const void *dy,
                                void *dx) {
    run(d, (size_t)n, GRAIN, activation_backward_item,
        &(call){.k = rows_of(d, dt), .dt = dt, .f = f, .a = kept, .b = dy, .o1 = dx});
}

static void gated_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++)
        c->k->gated(c->f, c->cols, gr_at_const(c->a, c->dt, r * c->ld1), gr_at_const(c->b, c->dt, r * c->ld1),
                    gr_at(c->o1, c->dt, r * c->ld2));
}

static void gated(gr_device *d, gr_dtype dt, gr_activation f, int64_t rows, int64_t cols, const void *gate, const void *up,
                  int64_t ld, void *out, int64_t out_ld) {
    run(d, (size_t)rows, rows_per_item(cols), gated_item,
        &(call){.k = rows_of(d, dt), .dt = dt, .f = f, .cols = cols, .a = gate, .b = up, .ld1 = ld, .o1 = out,
                .ld2 = out_ld});
}

static void gated_backward_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++)
        c->k->gated_backward(c->f, c->cols, gr_at_const(c->a, c->dt, r * c->ld1), gr_at_const(c->b, c->dt, r * c->ld1),
                             gr_at_const(c->d, c->dt, r * c->ld2), gr_at(c->o1, c->dt, r * c->ld3),
                             gr_at(c->o2, c->dt, r * c->ld3));
}

static void gated_backward(gr_device *d, gr_dtype dt, gr_activation f, int64_t rows, int64_t cols, const void *gate,
                           const void *up, int64_t ld, const void *dout, int64_t dout_ld, void *dgate, void *dup,
                           int64_t d_ld) {
    run(d, (size_t)rows, rows_per_item(cols), gated_backward_item,
        &(call){.k = rows_of(d, dt), .dt = dt, .f = f, .cols = cols, .a = gate, .b = up, .ld1 = ld, .d = dout,
                .ld2 = dout_ld, .o1 = dgate, .o2 = dup, .ld3 = d_ld});
}

static void attention(gr_device *d, const gr_attention *a) { gr_cpu(d)->attention(d, a); }
static void attention_backward(gr_device *d, const gr_attention *a) { gr_cpu(d)->attention_backward(d, a); }

static void embedding_backward_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    const int32_t *ids = c->b;
    for (int64_t r = 0; r < c->rows; r++)
        c->k->accumulate((int64_t)(end - begin), gr_at_const(c->a, c->dt, r * c->ld1 + (int64_t)begin),
                         gr_at(c->o1, gr_param_type(c->dt), ids[r] * c->cols + (int64_t)begin));
}

static void embedding_backward(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const int32_t *ids, const void *dy,
                               int64_t ld, void *dtable) {
    run(d, (size_t)cols, COLUMN_GRAIN, embedding_backward_item,
        &(call){.k = rows_of(d, dt), .dt = dt, .rows = rows, .cols = cols, .b = ids, .a = dy, .ld1 = ld, .o1 = dtable});
}

/* Cross-entropy: a, logits; b, labels; o1, loss; o2, hit; o3, lse. */
static void cross_entropy_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    const gr_row_kernels *logits_k = c->cpu->rows[gr_type_index(c->dt2)];
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        const void *x = gr_at_const(c->a, c->dt2, r * c->ld1);
        int32_t label = ((const int32_t *)c->b)[r];
        double *loss = (double *)c->o1 + r, *lse = (double *)c->o3 + r;
        int32_t *hit = (int32_t *)c->o2 + r;
        *loss = *lse = 0;
        *hit = 0;
        if (label < 0) continue;
        int64_t at;
        *lse = logits_k->log_sum_exp(c->cols, x, &at);
        *loss = *lse - (c->dt2 == GR_F64 ? ((const double *)x)[label] : (double)((const float *)x)[label]);
        *hit = at == label;
    }
}

static void cross_entropy(gr_device *d, int64_t rows, int64_t vocab, gr_dtype logits_dt, const void *logits, int64_t ld,
                          const int32_t *labels, double *loss, int32_t *hit, double *lse) {
    run(d, (size_t)rows, rows_per_item(vocab), cross_entropy_item,
        &(call){.dt2 = logits_dt, .cols = vocab, .a = logits, .ld1 = ld, .b = labels, .o1 = loss, .o2 = hit, .o3 = lse});
}

/* a, logits; b, labels; c, weight; d, lse; o1, dlogits; rows: the first column. */
static void cross_entropy_backward_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        const void *x = gr_at_const(c->a, c->dt2, r * c->ld1);
        void *dx = gr_at(c->o1, c->dt, r * c->ld2);
        int64_t label = ((const int32_t *)c->b)[r], at = label - c->rows;
        if (label < 0) {
            memset(dx, 0, (size_t)c->cols * gr_type_size(c->dt));
            continue;
        }
        bool here = at >= 0 && at < c->cols;
        double lse = ((const double *)c->d)[r], weight = ((const float *)c->c)[r], own = 0;
        if (here) own = c->dt2 == GR_F64 ? ((const double *)x)[at] : (double)((const float *)x)[at];
        c->k->softmax_grad(c->cols, x, lse, weight, dx);
        if (!here) continue;
        double grad = (exp(own - lse) - 1.0) * weight;
        c->cpu->convert(GR_F64, &grad, c->dt, gr_at(dx, c->dt, at), 1);
    }
}

static void cross_entropy_backward(gr_device *d, int64_t rows, int64_t first, int64_t n, gr_dtype logits_dt,
                                   const void *logits, int64_t ld, const int32_t *labels, const float *weight,
                                   const double *lse, gr_dtype dt, void *dlogits, int64_t d_ld) {
    run(d, (size_t)rows, rows_per_item(n), cross_entropy_backward_item,
        &(call){.k = rows_of(d, dt), .dt = dt, .dt2 = logits_dt, .rows = first, .cols = n, .a = logits, .ld1 = ld,
                .b = labels, .c = weight, .d = lse, .o1 = dlogits, .ld2 = d_ld});
}

static void dropout_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++)
        c->k->dropout(c->cols, gr_at_const(c->a, c->dt, r * c->ld1), gr_at(c->o1, c->dt, r * c->ld2), c->v1, c->seed,
                      c->stream, ((const uint64_t *)c->b)[r]);
}

static void dropout(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *x, int64_t x_ld, void *y,
                    int64_t y_ld, double p, uint64_t seed, uint64_t stream, const uint64_t *key) {
    run(d, (size_t)rows, rows_per_item(cols * 4), dropout_item,
        &(call){.k = rows_of(d, dt), .dt = dt, .cols = cols, .a = x, .ld1 = x_ld, .o1 = y, .ld2 = y_ld, .v1 = p,
                .seed = seed, .stream = stream, .b = key});
}

enum { SQUARES_PART = 16384, SQUARES_PARTS = 256 };

static void sum_squares_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    for (size_t i = begin; i < end; i++) {
        int64_t at = (int64_t)i * SQUARES_PART;
        ((double *)c->o1)[i] = c->cpu->sum_squares(GR_MIN(c->cols - at, (int64_t)SQUARES_PART), (const float *)c->a + at);
    }
}

static double sum_squares(gr_device *d, int64_t n, const float *x) {
    double part[SQUARES_PARTS], sum = 0;
    for (int64_t at = 0; at < n; at += (int64_t)SQUARES_PART * SQUARES_PARTS) {
        int64_t left = GR_MIN(n - at, (int64_t)SQUARES_PART * SQUARES_PARTS);
        size_t parts = (size_t)((left + SQUARES_PART - 1) / SQUARES_PART);
        run(d, parts, 1, sum_squares_item, &(call){.a = x + at, .cols = left, .o1 = part});
        for (size_t i = 0; i < parts; i++) sum += part[i];
    }
    return sum;
}

static void adamw_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    c->cpu->adamw((int64_t)(end - begin), (float *)c->o1 + begin, (const float *)c->a + begin, (float *)c->o2 + begin,
                  (float *)c->o3 + begin, c->coef);
}

static gr_adamw_coef adamw_coef(double g_scale, double lr, double beta1, double beta2, double eps, double weight_decay,
                                double bias1, double bias2) {
    return (gr_adamw_coef){.g_scale = (float)g_scale,
                           .decay = (float)(1.0 - lr * weight_decay),
                           .beta1 = (float)beta1,
                           .beta1_weight = (float)(1.0 - beta1),
                           .beta2 = (float)beta2,
                           .beta2_weight = (float)(1.0 - beta2),
                           .step = (float)-(lr / bias1),
                           .bias2_root = (float)sqrt(bias2),
                           .eps = (float)eps};
}

static void adamw(gr_device *d, int64_t n, float *p, const float *g, float *m, float *v, double g_scale, double lr,
                  double beta1, double beta2, double eps, double weight_decay, double bias1, double bias2) {
    const gr_adamw_coef coef = adamw_coef(g_scale, lr, beta1, beta2, eps, weight_decay, bias1, bias2);
    run(d, (size_t)n, GRAIN, adamw_item, &(call){.o1 = p, .a = g, .o2 = m, .o3 = v, .coef = &coef});
}

/* A block is decoded, updated and encoded while it stands in the cache. */
static void adamw_8bit_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    call *c = arg;
    const gr_moment_8bit *m = c->b, *v = c->c;
    for (size_t block = begin; block < end; block++) {
        float mean[GR_DYNAMIC_BLOCK], square[GR_DYNAMIC_BLOCK];
        const int64_t at = (int64_t)block * GR_DYNAMIC_BLOCK, n = GR_MIN(c->cols - at, (int64_t)GR_DYNAMIC_BLOCK);
        gr_dequantize_dynamic(m->code, m->codes + at, n, m->absmax[block], mean);
        gr_dequantize_dynamic(v->code, v->codes + at, n, v->absmax[block], square);
        c->cpu->adamw_fused(n, (float *)c->o1 + at, (const float *)c->a + at, mean, square, c->coef);
        gr_quantize_dynamic(m->code, mean, n, m->codes + at, &m->absmax[block]);
        gr_quantize_dynamic(v->code, square, n, v->codes + at, &v->absmax[block]);
    }
}

static void adamw_8bit(gr_device *d, int64_t n, float *p, const float *g, const gr_moment_8bit *m, const gr_moment_8bit *v,
                       double g_scale, double lr, double beta1, double beta2, double eps, double weight_decay,
                       double bias1, double bias2) {
    const gr_adamw_coef coef = adamw_coef(g_scale, lr, beta1, beta2, eps, weight_decay, bias1, bias2);
    run(d, (size_t)((n + GR_DYNAMIC_BLOCK - 1) / GR_DYNAMIC_BLOCK), GRAIN / GR_DYNAMIC_BLOCK, adamw_8bit_item,
        &(call){.o1 = p, .a = g, .b = m, .c = v, .cols = n, .coef = &coef});
}

const gr_kernels gr_cpu_table = {
    .convert = convert,
    .add = add,
    .scale = scale,
    .bias_add = bias_add,
    .column_sum = column_sum,
    .mul_columns = gr_cpu_mul_columns,
    .mul_column_sum = gr_cpu_mul_column_sum,
    .activation = activation,
    .activation_backward = activation_backward,
    .lstm_cell = gr_cpu_lstm_cell,
    .lstm_cell_backward = gr_cpu_lstm_cell_backward,
    .rmsnorm = rmsnorm,
    .rmsnorm_backward = rmsnorm_backward,
    .layernorm = layernorm,
    .layernorm_backward = layernorm_backward,
    .rope = rope,
    .gated = gated,
    .gated_backward = gated_backward,
    .keep_kv = gr_cpu_keep_kv,
    .attention = attention,
    .attention_backward = attention_backward,
    .embedding_backward = embedding_backward,
    .cross_entropy = cross_entropy,
    .cross_entropy_backward = cross_entropy_backward,
    .dropout = dropout,
    .sum_squares = sum_squares,
    .adamw = adamw,
    .adamw_8bit = adamw_8bit,
};
