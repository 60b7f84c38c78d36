/* Room kernel: every entry of the device table, on every CPU level of this machine, in F32 and BF16, against the portable
 * kernel in double; the same bits on 1, 2 and 3 threads and with the rows in one call or one by one. */
#include <math.h>

#include "support/kernel_cases.h"

#define X(name) static void case_##name(kcase *t);
#include "kernel/kernel.def"
#undef X

/* Not named in kernel.def: would make this size wrong. */
enum {
#define X(name) COUNT_##name,
#include "kernel/kernel.def"
#undef X
    N_ENTRIES
};
_Static_assert(sizeof(gr_kernels) == N_ENTRIES * sizeof(void (*)(void)), "kernel.def does not list every entry");

static gr_dtype param_type(const kcase *t) { (void)t; return GR_F32; }

/* A matrix of rows x cols inside wider rows. */
static int64_t some_ld(kcase *t, int64_t cols) { return cols + (int64_t)kcase_draw(t, 3) * 5; }

/* --- convert ------------------------------------------------------------------------------------------------------ */

static void case_convert(kcase *t) {
    static const gr_dtype types[] = {GR_F32, GR_F64, GR_F16, GR_BF16};
    gr_dtype from = types[kcase_draw(t, 4)], to = types[kcase_draw(t, 4)];
    int64_t n = t->rows * t->cols;
    kpair x = kcase_random(t, from, n, 100), y = kcase_zeros(t, to, n);
    /* Every corner of the conversions: subnormals, ties, overflow, infinities, NaN. */
    static const float corners[] = {0.0f, -0.0f, 0x1p-149f, -0x1p-133f, 0x1.01p-126f, 0x1.01p0f, 0x1.03p0f, 65504.0f,
                                    65520.0f, 0x1.fffffep127f, INFINITY, -INFINITY, NAN, 0x1p-24f, 0x1.8p-25f, 0x1p-25f};
    for (int64_t i = 0; i < n && i < (int64_t)GR_COUNT(corners); i++) {
        t->ref->k->convert(t->ref, GR_F32, &corners[i], from, kelement(from, x.x, i), 1);
        x.ref[i] = kvalue(from, x.x, i);
    }
    t->dev->k->convert(t->dev, from, x.x, to, y.x, n);
    for (int64_t i = 0; i < n; i++) {
        char want[8] = {0};
        t->ref->k->convert(t->ref, from, kelement(from, x.x, i), to, want, 1);
        if (isnan(kvalue(to, want, 0)) && isnan(kvalue(to, y.x, i))) continue;
        if (memcmp(want, kelement(to, y.x, i), gr_dtype_bytes(to, 1)) != 0)
            fail_msg("convert %s to %s on %s: %a gives %a, expected %a", gr_dtype_name(from), gr_dtype_name(to),
                     gr_cpu_level_name(t->dev->level), x.ref[i], kvalue(to, y.x, i), kvalue(to, want, 0));
    }
}

/* --- Element-wise ------------------------------------------------------------------------------------------------- */

static void case_add(kcase *t) {
    int64_t n = t->rows * t->cols;
    kpair a = kcase_random(t, t->dt, n, 2), b = kcase_random(t, t->dt, n, 1), y = kcase_zeros(t, t->dt, n);
    bool in_place = kcase_draw(t, 2);
    if (in_place) y.x = a.x;
    t->dev->k->add(t->dev, t->dt, n, a.x, b.x, y.x);
    t->ref->k->add(t->ref, GR_F64, n, a.ref, b.ref, y.ref);
    kcase_check(t, "add", y, 0, 0);
}

static void case_scale(kcase *t) {
    int64_t n = t->rows * t->cols;
    bool add = kcase_draw(t, 2);
    kpair x = kcase_random(t, t->dt, n, 2), y = kcase_random(t, t->dt, n, 1);
    t->dev->k->scale(t->dev, t->dt, n, 0.7, x.x, y.x, add);
    t->ref->k->scale(t->ref, GR_F64, n, 0.7, x.ref, y.ref, add);
    kcase_check(t, "scale", y, 1e-6, 1);
}

static void case_bias_add(kcase *t) {
    int64_t ld = some_ld(t, t->cols);
    kpair x = kcase_random(t, t->dt, t->rows * ld, 2), b = kcase_random(t, param_type(t), t->cols, 1);
    KCASE_ROWS(t, t->rows, r, m)
    t->dev->k->bias_add(t->dev, t->dt, m, t->cols, kelement(t->dt, x.x, r * ld), ld, b.x);
    t->ref->k->bias_add(t->ref, GR_F64, t->rows, t->cols, x.ref, ld, b.ref);
    kcase_check(t, "bias_add", x, 1e-7, 1);
}

static void case_column_sum(kcase *t) {
    int64_t ld = some_ld(t, t->cols);
    kpair x = kcase_random(t, t->dt, t->rows * ld, 2), sum = kcase_random(t, param_type(t), t->cols, 1);
    KCASE_ROWS(t, t->rows, r, m)
    t->dev->k->column_sum(t->dev, t->dt, m, t->cols, kelement(t->dt, x.x, r * ld), ld, sum.x);
    t->ref->k->column_sum(t->ref, GR_F64, t->rows, t->cols, x.ref, ld, sum.ref);
    kcase_check(t, "column_sum", sum, 1e-5, 1);
}

static void case_rmsnorm(kcase *t) {
    int groups = 1 + (int)kcase_draw(t, 3);
    int64_t ld = some_ld(t, t->cols * groups), n = t->rows;
    kpair x = kcase_random(t, t->dt, n * ld, 2), w = kcase_random(t, param_type(t), t->cols, 1);
    kpair y = kcase_zeros(t, t->dt, n * ld), rstd = kcase_zeros(t, param_type(t), n * groups);
    if (kcase_draw(t, 2)) y.x = x.x;
    KCASE_ROWS(t, n, r, m)
    t->dev->k->rmsnorm(t->dev, t->dt, m, groups, t->cols, kelement(t->dt, x.x, r * ld), ld, w.x, 1e-5,
                       kelement(t->dt, y.x, r * ld), ld, kelement(GR_F32, rstd.x, r * groups));
    if (y.x == x.x) memcpy(y.ref, x.ref, (size_t)(n * ld) * sizeof(double));
    t->ref->k->rmsnorm(t->ref, GR_F64, n, groups, t->cols, x.ref, ld, w.ref, 1e-5, y.ref, ld, rstd.ref);
    kcase_check(t, "rmsnorm", y, 2e-6, 1);
    kcase_check(t, "rmsnorm rstd", rstd, 2e-6, 0);
}

static void case_rmsnorm_backward(kcase *t) {
    int groups = 1 + (int)kcase_draw(t, 3);
    int64_t ld = some_ld(t, t->cols * groups), n = t->rows;
    bool add = kcase_draw(t, 2), in_place = !add && kcase_draw(t, 2), wants_dw = kcase_draw(t, 3);
    kpair x = kcase_random(t, t->dt, n * ld, 1), w = kcase_random(t, param_type(t), t->cols, 1);
    kpair dy = kcase_random(t, t->dt, n * ld, 1), dx = kcase_random(t, t->dt, n * ld, 1);
    kpair dw = kcase_random(t, param_type(t), t->cols, 1), rstd = kcase_zeros(t, param_type(t), n * groups);
    double *y = kcase_alloc(t, (size_t)(n * ld) * sizeof(double));
    t->ref->k->rmsnorm(t->ref, GR_F64, n, groups, t->cols, x.ref, ld, w.ref, 1e-5, y, ld, rstd.ref);
    t->ref->k->convert(t->ref, GR_F64, rstd.ref, GR_F32, rstd.x, rstd.n);
    t->ref->k->convert(t->ref, GR_F32, rstd.x, GR_F64, rstd.ref, rstd.n);
    if (in_place) {
        dx.x = dy.x;
        memcpy(dx.ref, dy.ref, (size_t)dx.n * sizeof(double));
    }
    KCASE_ROWS(t, n, r, m)
    t->dev->k->rmsnorm_backward(t->dev, t->dt, m, groups, t->cols, kelement(t->dt, x.x, r * ld), ld, w.x,
                                kelement(GR_F32, rstd.x, r * groups), kelement(t->dt, dy.x, r * ld), ld,
                                kelement(t->dt, dx.x, r * ld), ld, add, wants_dw ? dw.x : NULL);
    t->ref->k->rmsnorm_backward(t->ref, GR_F64, n, groups, t->cols, x.ref, ld, w.ref, rstd.ref, dy.ref, ld, dx.ref, ld,
                                add, wants_dw ? dw.ref : NULL);
    kcase_check(t, "rmsnorm_backward dx", dx, 1e-5, 2);
    kcase_check(t, "rmsnorm_backward dw", dw, 1e-5, 5);
}

static void case_layernorm(kcase *t) {
    int64_t ld = some_ld(t, t->cols), n = t->rows;
    kpair x = kcase_random(t, t->dt, n * ld, 2), w = kcase_random(t, param_type(t), t->cols, 1);
    kpair b = kcase_random(t, param_type(t), t->cols, 1), y = kcase_zeros(t, t->dt, n * ld);
    kpair stats = kcase_zeros(t, param_type(t), n * 2);
    const bool bias = kcase_draw(t, 3), keep = kcase_draw(t, 3);
    if (kcase_draw(t, 2)) y = x;
    KCASE_ROWS(t, n, r, m)
    t->dev->k->layernorm(t->dev, t->dt, m, t->cols, kelement(t->dt, x.x, r * ld), ld, w.x, bias ? b.x : NULL, 1e-2,
                         kelement(t->dt, y.x, r * ld), ld, keep ? kelement(GR_F32, stats.x, r * 2) : NULL);
    t->ref->k->layernorm(t->ref, GR_F64, n, t->cols, x.ref, ld, w.ref, bias ? b.ref : NULL, 1e-2, y.ref, ld,
                         keep ? stats.ref : NULL);
    kcase_check(t, "layernorm", y, 1e-5, 1);
    kcase_check(t, "layernorm stats", stats, 1e-5, 1);
}

static void case_layernorm_backward(kcase *t) {
    int64_t ld = some_ld(t, t->cols), n = t->rows;
    bool add = kcase_draw(t, 2), in_place = !add && kcase_draw(t, 2), wants_dw = kcase_draw(t, 3);
    kpair x = kcase_random(t, t->dt, n * ld, 1), w = kcase_random(t, param_type(t), t->cols, 1);
    kpair dy = kcase_random(t, t->dt, n * ld, 1), dx = in_place ? dy : kcase_random(t, t->dt, n * ld, 1);
    kpair dw = kcase_random(t, param_type(t), t->cols, 1), stats = kcase_zeros(t, param_type(t), n * 2);
    double *y = kcase_alloc(t, (size_t)(n * ld) * sizeof(double));
    t->ref->k->layernorm(t->ref, GR_F64, n, t->cols, x.ref, ld, w.ref, NULL, 1e-2, y, ld, stats.ref);
    t->ref->k->convert(t->ref, GR_F64, stats.ref, GR_F32, stats.x, stats.n);
    t->ref->k->convert(t->ref, GR_F32, stats.x, GR_F64, stats.ref, stats.n);
    KCASE_ROWS(t, n, r, m)
    t->dev->k->layernorm_backward(t->dev, t->dt, m, t->cols, kelement(t->dt, x.x, r * ld), ld, w.x,
                                  kelement(GR_F32, stats.x, r * 2), kelement(t->dt, dy.x, r * ld), ld,
                                  kelement(t->dt, dx.x, r * ld), ld, add, wants_dw ? dw.x : NULL);
    t->ref->k->layernorm_backward(t->ref, GR_F64, n, t->cols, x.ref, ld, w.ref, stats.ref, dy.ref, ld, dx.ref, ld, add,
                                  wants_dw ? dw.ref : NULL);
    kcase_check(t, "layernorm_backward dx", dx, 1e-5, 4);
    kcase_check(t, "layernorm_backward dw", dw, 1e-5, 5);
}

static void case_rope(kcase *t) {
    static const int dims[] = {2, 6, 16, 32, 34, 64, 128};
    int dim = dims[kcase_draw(t, GR_COUNT(dims))], heads = 1 + (int)kcase_draw(t, 4);
    bool inverse = kcase_draw(t, 2);
    int64_t ld = some_ld(t, (int64_t)heads * dim);
    kpair x = kcase_random(t, t->dt, t->rows * ld, 2), cs = kcase_random(t, param_type(t), t->rows * dim, 0.7);
    KCASE_ROWS(t, t->rows, r, m)
    t->dev->k->rope(t->dev, t->dt, m, heads, dim, kelement(t->dt, x.x, r * ld), ld, kelement(GR_F32, cs.x, r * dim),
                    inverse);
    t->ref->k->rope(t->ref, GR_F64, t->rows, heads, dim, x.ref, ld, cs.ref, inverse);
    kcase_check(t, "rope", x, 1e-6, 2);
}

static gr_activation some_activation(kcase *t) { return (gr_activation)kcase_draw(t, GR_ACTIVATION_COUNT); }

static void case_gated(kcase *t) {
    int64_t ld = some_ld(t, 2 * t->cols), out_ld = some_ld(t, t->cols);
    const gr_activation f = some_activation(t);
    kpair x = kcase_random(t, t->dt, t->rows * ld, 8), y = kcase_zeros(t, t->dt, t->rows * out_ld);
    KCASE_ROWS(t, t->rows, r, m)
    t->dev->k->gated(t->dev, t->dt, f, m, t->cols, kelement(t->dt, x.x, r * ld), kelement(t->dt, x.x, r * ld + t->cols), ld,
                     kelement(t->dt, y.x, r * out_ld), out_ld);
    t->ref->k->gated(t->ref, GR_F64, f, t->rows, t->cols, x.ref, x.ref + t->cols, ld, y.ref, out_ld);
    kcase_check(t, "gated", y, 1e-6, 1e-3);
}

static void case_gated_backward(kcase *t) {
    int64_t ld = some_ld(t, 2 * t->cols), out_ld = some_ld(t, t->cols);
    bool in_place = kcase_draw(t, 2);
    const gr_activation f = some_activation(t);
    kpair x = kcase_random(t, t->dt, t->rows * ld, 6), dy = kcase_random(t, t->dt, t->rows * out_ld, 1);
    kpair dx = in_place ? x : kcase_zeros(t, t->dt, t->rows * ld);
    KCASE_ROWS(t, t->rows, r, m)
    t->dev->k->gated_backward(t->dev, t->dt, f, m, t->cols, kelement(t->dt, x.x, r * ld),
                              kelement(t->dt, x.x, r * ld + t->cols), ld, kelement(t->dt, dy.x, r * out_ld), out_ld,
                              kelement(t->dt, dx.x, r * ld), kelement(t->dt, dx.x, r * ld + t->cols), ld);
    t->ref->k->gated_backward(t->ref, GR_F64, f, t->rows, t->cols, x.ref, x.ref + t->cols, ld, dy.ref, out_ld, dx.ref,
                              dx.ref + t->cols, ld);
    kcase_check(t, "gated_backward", dx, 2e-6, 4);
}

static void case_embedding_backward(kcase *t) {
    enum { VOCAB = 11 };
    int64_t ld = some_ld(t, t->cols);
    kpair dy = kcase_random(t, t->dt, t->rows * ld, 1), table = kcase_random(t, param_type(t), VOCAB * t->cols, 1);
    int32_t *ids = kcase_alloc(t, (size_t)t->rows * sizeof *ids);
    for (int64_t r = 0; r < t->rows; r++) ids[r] = (int32_t)kcase_draw(t, VOCAB);
    KCASE_ROWS(t, t->rows, r, m)
    t->dev->k->embedding_backward(t->dev, t->dt, m, t->cols, ids + r, kelement(t->dt, dy.x, r * ld), ld, table.x);
    t->ref->k->embedding_backward(t->ref, GR_F64, t->rows, t->cols, ids, dy.ref, ld, table.ref);
    kcase_check(t, "embedding_backward", table, 1e-6, 4);
}

/* Logits, labels (some ignored), weights, and what the forward makes of them. */
typedef struct cross_case {
    int64_t ld;
    kpair x, loss, lse;
    int32_t *labels, *hit, *want;
    float *weight;
} cross_case;

static cross_case cross_entropy_forward(kcase *t) {
    int64_t n = t->rows;
    cross_case k = {.ld = some_ld(t, t->cols), .loss = kcase_zeros(t, GR_F64, n), .lse = kcase_zeros(t, GR_F64, n)};
    k.x = kcase_random(t, GR_F32, n * k.ld, 4);
    k.labels = kcase_alloc(t, (size_t)n * 4);
    k.hit = kcase_alloc(t, (size_t)n * 4);
    k.want = kcase_alloc(t, (size_t)n * 4);
    k.weight = kcase_alloc(t, (size_t)n * 4);
    for (int64_t r = 0; r < n; r++) {
        float *row = (float *)k.x.x + r * k.ld;
        k.labels[r] = kcase_draw(t, 5) == 0 ? -100 : (int32_t)kcase_draw(t, (uint64_t)t->cols);
        k.weight[r] = (float)(1 + kcase_draw(t, 8)) / 8;
        if (t->cols > 3 && r % 7 == 3) row[1] = row[t->cols - 1] = 50; /* a tie: the lowest index is the answer */
        for (int64_t c = 0; c < k.ld; c++) k.x.ref[r * k.ld + c] = row[c];
    }
    KCASE_ROWS(t, n, r, m)
    t->dev->k->cross_entropy(t->dev, m, t->cols, GR_F32, kelement(GR_F32, k.x.x, r * k.ld), k.ld, k.labels + r,
                             (double *)k.loss.x + r, k.hit + r, (double *)k.lse.x + r);
    t->ref->k->cross_entropy(t->ref, n, t->cols, GR_F64, k.x.ref, k.ld, k.labels, k.loss.ref, k.want, k.lse.ref);
    return k;
}

static void case_cross_entropy(kcase *t) {
    cross_case k = cross_entropy_forward(t);
    kcase_check(t, "cross_entropy loss", k.loss, 2e-6, 1);
    kcase_check(t, "cross_entropy lse", k.lse, 2e-6, 1);
    for (int64_t r = 0; r < t->rows; r++)
        if (isfinite(k.loss.ref[r])) assert_int_equal(k.hit[r], k.want[r]);
}

static void case_cross_entropy_backward(kcase *t) {
    cross_case k = cross_entropy_forward(t);
    int64_t n = t->rows, ld = k.ld, cut = (int64_t)kcase_draw(t, (uint64_t)t->cols + 1);
    kpair dx = kcase_zeros(t, t->dt, n * ld);
    if (t->dt == GR_F32 && kcase_draw(t, 2)) dx.x = k.x.x, memcpy(dx.ref, k.x.ref, (size_t)dx.n * sizeof(double));
    /* Two slabs of columns, against all at once. */
    for (int half = 0; half < 2; half++) {
        int64_t first = half ? cut : 0, width = half ? t->cols - cut : cut;
        KCASE_ROWS(t, n, r, m)
        t->dev->k->cross_entropy_backward(t->dev, m, first, width, GR_F32, kelement(GR_F32, k.x.x, r * ld + first), ld,
                                          k.labels + r, k.weight + r, (double *)k.lse.x + r, t->dt,
                                          kelement(t->dt, dx.x, r * ld + first), ld);
    }
    t->ref->k->cross_entropy_backward(t->ref, n, 0, t->cols, GR_F64, k.x.ref, ld, k.labels, k.weight, k.lse.ref, GR_F64,
                                      dx.ref, ld);
    kcase_check(t, "cross_entropy_backward", dx, 3e-6, 0.01);
}

static void case_dropout(kcase *t) {
    int64_t ld = some_ld(t, t->cols);
    kpair x = kcase_random(t, t->dt, t->rows * ld, 1), y = kcase_zeros(t, t->dt, t->rows * ld);
    uint64_t *key = kcase_alloc(t, (size_t)t->rows * sizeof *key);
    for (int64_t r = 0; r < t->rows; r++) key[r] = kcase_draw(t, UINT64_MAX);
    KCASE_ROWS(t, t->rows, r, m)
    t->dev->k->dropout(t->dev, t->dt, m, t->cols, kelement(t->dt, x.x, r * ld), ld, kelement(t->dt, y.x, r * ld), ld, 0.3,
                       77, 1234567, key + r);
    t->ref->k->dropout(t->ref, GR_F64, t->rows, t->cols, x.ref, ld, y.ref, ld, 0.3, 77, 1234567, key);
    kcase_check(t, "dropout", y, 1e-6, 0);
}

static void case_sum_squares(kcase *t) {
    int64_t n = t->rows * t->cols * (kcase_draw(t, 4) ? 1 : 50);
    kpair x = kcase_random(t, GR_F32, n, 3), y = kcase_zeros(t, GR_F64, 1);
    *(double *)y.x = t->dev->k->sum_squares(t->dev, n, x.x);
    for (int64_t i = 0; i < n; i++) y.ref[0] += x.ref[i] * x.ref[i];
    kcase_check(t, "sum_squares", y, 1e-12, 0);
}

static void case_adamw(kcase *t) {
    int64_t n = t->rows * t->cols;
    kpair p = kcase_random(t, GR_F32, n, 1), g = kcase_random(t, GR_F32, n, 1), m = kcase_zeros(t, GR_F32, n),
          v = kcase_zeros(t, GR_F32, n);
    const double lr = 1e-2, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, decay = 0.1, scale = 0.5;
    for (int step = 1; step <= 3; step++) {
        double bias1 = 1 - pow(beta1, step), bias2 = 1 - pow(beta2, step);
        t->dev->k->adamw(t->dev, n, p.x, g.x, m.x, v.x, scale, lr, beta1, beta2, eps, decay, bias1, bias2);
        for (int64_t i = 0; i < n; i++) {
            double grad = g.ref[i] * scale;
            p.ref[i] *= 1 - lr * decay;
            m.ref[i] = beta1 * m.ref[i] + (1 - beta1) * grad;
            v.ref[i] = beta2 * v.ref[i] + (1 - beta2) * grad * grad;
            p.ref[i] -= lr / bias1 * m.ref[i] / (sqrt(v.ref[i]) / sqrt(bias2) + eps);
        }
    }
    kcase_check(t, "adamw", p, 2e-6, 1e-2);
}

/* The nearest of a map's values, the lower one of two that are as near: how many middles are below. */
static uint8_t nearest_code(const float *map, float x) {
    int code = 0;
    while (code < 255 && (map[code] + map[code + 1]) / 2 < x) code++;
    return (uint8_t)code;
}

static void check_codes(kcase *t, const float *map, const float *want, int64_t n, const uint8_t *codes, const float *absmax) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t block = i / GR_DYNAMIC_BLOCK, first = block * GR_DYNAMIC_BLOCK;
        const bool whole = first + GR_DYNAMIC_BLOCK <= n;
        float most = whole ? 0 : 1e-38f;
        for (int64_t k = first; k < GR_MIN(n, first + GR_DYNAMIC_BLOCK); k++) most = fmaxf(most, fabsf(want[k]));
        const float safe = fmaxf(most, 1e-38f), x = whole ? want[i] * (1.0f / safe) : want[i] / safe;
        const uint8_t code = nearest_code(map, fminf(fmaxf(x, -1.0f), 1.0f));
        if (absmax[block] != most || codes[i] != code)
            fail_msg("%s: adamw_8bit: element %lld of %lld: expected code %d of %.9g, got %d of %.9g",
                     gr_cpu_level_name(t->dev->level), (long long)i, (long long)n, code, (double)most, codes[i], (double)absmax[block]);
    }
}

/* Values within rounding; codes exactly, of moments that are computed operation by operation. */
static void case_adamw_8bit(kcase *t) {
    const int64_t n = t->rows * t->cols, blocks = (n + GR_DYNAMIC_BLOCK - 1) / GR_DYNAMIC_BLOCK;
    kpair p = kcase_random(t, GR_F32, n, 1), g = kcase_random(t, GR_F32, n, 1);
    const float beta[] = {0.9f, 0.999f}, rest[] = {(float)(1 - 0.9), (float)(1 - 0.999)}, scale = 0.5f;
    const float *const maps[] = {gr_dynamic_map, gr_dynamic_map_unsigned};
    const double lr = 1e-2, eps = 1e-8, decay = 0.1;
    gr_moment_8bit moments[2];
    float *want[2];
    for (int s = 0; s < 2; s++) {
        gr_dynamic_code *code = kcase_alloc(t, sizeof *code);
        gr_dynamic_code_init(code, maps[s]);
        moments[s] = (gr_moment_8bit){code, kcase_alloc(t, (size_t)n), kcase_alloc(t, (size_t)blocks * sizeof(float))};
        memset(moments[s].codes, 0, (size_t)n);
        memset(moments[s].absmax, 0, (size_t)blocks * sizeof(float));
        want[s] = kcase_alloc(t, (size_t)n * sizeof(float));
    }
    for (int step = 1; step <= 3; step++) {
        const double bias1 = 1 - pow(0.9, step), bias2 = 1 - pow(0.999, step);
        for (int64_t i = 0; i < n; i++) {
            const float grad = ((const float *)g.x)[i] * scale;
            for (int s = 0; s < 2; s++) {
                const float last = maps[s][moments[s].codes[i]] * moments[s].absmax[i / GR_DYNAMIC_BLOCK];
                want[s][i] = fmaf(s ? rest[1] * grad : grad, s ? grad : rest[0], last * beta[s]);
            }
            p.ref[i] = p.ref[i] * (1 - lr * decay) - lr / bias1 * want[0][i] / (sqrt((double)want[1][i]) / sqrt(bias2) + eps);
        }
        t->dev->k->adamw_8bit(t->dev, n, p.x, g.x, &moments[0], &moments[1], 0.5, lr, 0.9, 0.999, eps, decay, bias1, bias2);
        for (int s = 0; s < 2; s++) check_codes(t, maps[s], want[s], n, moments[s].codes, moments[s].absmax);
    }
    kcase_check(t, "adamw_8bit", p, 2e-6, 1e-2);
}

static void case_mul_columns(kcase *t) {
    int64_t x_ld = some_ld(t, t->cols), y_ld = some_ld(t, t->cols);
    kpair x = kcase_random(t, t->dt, t->rows * x_ld, 1), w = kcase_random(t, param_type(t), t->cols, 1);
    kpair y = kcase_random(t, t->dt, t->rows * y_ld, 1), shift = kcase_random(t, param_type(t), t->cols, 1);
    bool with = kcase_draw(t, 2);
    if (kcase_draw(t, 2)) y = x, y_ld = x_ld;
    t->dev->k->mul_columns(t->dev, t->dt, t->rows, t->cols, x.x, x_ld, w.x, with ? shift.x : NULL, y.x, y_ld);
    t->ref->k->mul_columns(t->ref, GR_F64, t->rows, t->cols, x.ref, x_ld, w.ref, with ? shift.ref : NULL, y.ref, y_ld);
    kcase_check(t, "mul_columns", y, 1e-6, 1);
}

static void case_mul_column_sum(kcase *t) {
    int64_t a_ld = some_ld(t, t->cols), b_ld = some_ld(t, t->cols);
    kpair a = kcase_random(t, t->dt, t->rows * a_ld, 1), b = kcase_random(t, t->dt, t->rows * b_ld, 1);
    kpair sum = kcase_random(t, param_type(t), t->cols, 1);
    KCASE_ROWS(t, t->rows, r, m)
    t->dev->k->mul_column_sum(t->dev, t->dt, m, t->cols, kelement(t->dt, a.x, r * a_ld), a_ld, kelement(t->dt, b.x, r * b_ld),
                              b_ld, sum.x);
    t->ref->k->mul_column_sum(t->ref, GR_F64, t->rows, t->cols, a.ref, a_ld, b.ref, b_ld, sum.ref);
    kcase_check(t, "mul_column_sum", sum, 1e-5, 1);
}

static void case_activation(kcase *t) {
    const gr_activation f = some_activation(t);
    int64_t n = t->rows * t->cols;
    kpair x = kcase_random(t, t->dt, n, 4), y = kcase_zeros(t, t->dt, n);
    if (kcase_draw(t, 2)) y = x;
    KCASE_ROWS(t, t->rows, r, m)
    t->dev->k->activation(t->dev, t->dt, f, m * t->cols, kelement(t->dt, x.x, r * t->cols), kelement(t->dt, y.x, r * t->cols));
    t->ref->k->activation(t->ref, GR_F64, f, n, x.ref, y.ref);
    kcase_check(t, "activation", y, 1e-6, 1e-3);
}

static void case_activation_backward(kcase *t) {
    const gr_activation f = some_activation(t);
    int64_t n = t->rows * t->cols;
    const double scale = f == GR_ACTIVATION_TANH ? 0.5 : 4;
    kpair kept = kcase_random(t, t->dt, n, scale), dy = kcase_random(t, t->dt, n, 1), dx = kcase_zeros(t, t->dt, n);
    const int over = (int)kcase_draw(t, 3);
    if (over) dx = over == 1 ? dy : kept;
    KCASE_ROWS(t, t->rows, r, m) {
        int64_t at = r * t->cols;
        t->dev->k->activation_backward(t->dev, t->dt, f, m * t->cols, kelement(t->dt, kept.x, at), kelement(t->dt, dy.x, at),
                                       kelement(t->dt, dx.x, at));
    }
    t->ref->k->activation_backward(t->ref, GR_F64, f, n, kept.ref, dy.ref, dx.ref);
    kcase_check(t, "activation_backward", dx, 1e-6, 1);
}

/* Floats over [-14, 14] and some beyond. Units of 2^-24 of the value; an exponential of size u costs u units more, and u
 * grows with the square of x in the tails of the GELUs. The slope passes through 0: its error is measured against 1. */
static void activations_are_accurate(void **state) {
    (void)state;
    enum { N = 40000 };
    static const double units[GR_ACTIVATION_COUNT] = {[GR_ACTIVATION_TANH] = 4, [GR_ACTIVATION_GELU] = 14,
                                                      [GR_ACTIVATION_GELU_TANH] = 14, [GR_ACTIVATION_SILU] = 4,
                                                      [GR_ACTIVATION_QUICK_GELU] = 30};
    static const double growth[GR_ACTIVATION_COUNT] = {[GR_ACTIVATION_GELU] = 2.5, [GR_ACTIVATION_GELU_TANH] = 2.5};
    float *x = malloc(4 * N), *y = malloc(4 * N), *one = malloc(4 * N), *slope = malloc(4 * N);
    double *wide = malloc(8 * N), *want = malloc(8 * N), *ones = malloc(8 * N), *slopes = malloc(8 * N);
    gr_device *ref = kcase_device(GR_CPU_GENERIC, 1);
    for (int i = 0; i < N; i++) {
        x[i] = i < 20 ? (i % 2 ? -1.0f : 1.0f) * powf(10, (float)(i - 10)) : -14.0f + 28.0f * (float)i / N;
        wide[i] = x[i];
        one[i] = 1;
        ones[i] = 1;
    }
    for (int level = 0; level < GR_CPU_LEVEL_COUNT; level++)
        for (int f = 0; f < GR_ACTIVATION_COUNT; f++) {
            gr_device *d = kcase_device((gr_cpu_level)level, 1);
            if (!d) continue;
            const bool by_output = gr_activation_keeps_output((gr_activation)f);
            d->k->activation(d, GR_F32, (gr_activation)f, N, x, y);
            ref->k->activation(ref, GR_F64, (gr_activation)f, N, wide, want);
            d->k->activation_backward(d, GR_F32, (gr_activation)f, N, by_output ? y : x, one, slope);
            ref->k->activation_backward(ref, GR_F64, (gr_activation)f, N, by_output ? want : wide, ones, slopes);
            for (int i = 0; i < N; i++) {
                const double allowed = units[f] + growth[f] * x[i] * x[i];
                if (!(fabs(y[i] - want[i]) <= allowed * 0x1p-24 * fabs(want[i]) + 1e-37))
                    fail_msg("activation %d on %s: f(%.9g) = %.9g, expected %.9g (%.3g units)", f,
                             gr_cpu_level_name((gr_cpu_level)level), x[i], y[i], want[i],
                             fabs(y[i] - want[i]) / fabs(want[i]) / 0x1p-24);
                if (!(fabs(slope[i] - slopes[i]) <= 1.2e-6))
                    fail_msg("activation %d on %s: slope at %.9g = %.9g, expected %.9g", f,
                             gr_cpu_level_name((gr_cpu_level)level), x[i], slope[i], slopes[i]);
            }
        }
    free(x), free(y), free(one), free(slope), free(wide), free(want), free(ones), free(slopes);
}

static void case_lstm_cell(kcase *t) {
    int64_t n = t->cols;
    bool first = kcase_draw(t, 2);
    kpair g = kcase_random(t, t->dt, 4 * n, 1), before = kcase_random(t, t->dt, n, 1);
    kpair c = kcase_zeros(t, t->dt, n), h = kcase_zeros(t, t->dt, n);
    t->dev->k->lstm_cell(t->dev, t->dt, n, g.x, first ? NULL : before.x, c.x, h.x);
    t->ref->k->lstm_cell(t->ref, GR_F64, n, g.ref, first ? NULL : before.ref, c.ref, h.ref);
    double tol = t->dt == GR_BF16 ? 2e-2 : 1e-5;
    kcase_check(t, "lstm_cell", g, tol, 1);
    kcase_check(t, "lstm_cell", c, tol, 1);
    kcase_check(t, "lstm_cell", h, tol, 1);
}

static void case_lstm_cell_backward(kcase *t) {
    int64_t n = t->cols;
    bool first = kcase_draw(t, 2);
    kpair g = kcase_random(t, t->dt, 4 * n, 0.5), before = kcase_random(t, t->dt, n, 1), c = kcase_random(t, t->dt, n, 1);
    kpair dh = kcase_random(t, t->dt, n, 1), dc = kcase_random(t, t->dt, n, 1), dg = kcase_zeros(t, t->dt, 4 * n);
    t->dev->k->lstm_cell_backward(t->dev, t->dt, n, g.x, first ? NULL : before.x, c.x, dh.x, dc.x, dg.x);
    t->ref->k->lstm_cell_backward(t->ref, GR_F64, n, g.ref, first ? NULL : before.ref, c.ref, dh.ref, dc.ref, dg.ref);
    kcase_check(t, "lstm_cell_backward", dc, 1e-5, 1);
    kcase_check(t, "lstm_cell_backward", dg, 1e-5, 1);
}

/* Whole tests in test_kv_formats.c and test_kernel_attention.c. */
static void case_keep_kv(kcase *t) { (void)t; }
static void case_attention(kcase *t) { (void)t; }
static void case_attention_backward(kcase *t) { (void)t; }

#define X(name)                                                                                                        \
    static void name##_agrees(void **state) {                                                                          \
        (void)state;                                                                                                   \
        kcase_run(#name, case_##name, 24);                                                                                 \
    }
#include "kernel/kernel.def"
#undef X

static void cpu_levels_are_named(void **state) {
    (void)state;
    graft_context *ctx;
    graft_error err;
    graft_context_options o = {.cpu = "avx1024"};
    assert_int_equal(graft_context_new(&o, &ctx, &err), GRAFT_OK);
    gr_device *d;
    assert_int_equal(gr_device_get(ctx, &d, &err), GRAFT_ERR_ARGUMENT);
    for (int i = 0; i < GR_CPU_LEVEL_COUNT; i++) assert_non_null(strstr(err.text, gr_cpu_level_name((gr_cpu_level)i)));
    assert_non_null(strstr(err.text, "avx1024"));
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_levels_are_named),
        cmocka_unit_test(activations_are_accurate),
#define X(name) cmocka_unit_test(name##_agrees),
#include "kernel/kernel.def"
#undef X
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    kcase_close();
    return failed;
}
