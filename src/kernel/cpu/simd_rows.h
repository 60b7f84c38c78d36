/* Row kernels on vectors of floats. Included by rows_*.c once per activation type with
 *   NAME(x)      the function's name
 *   T            float or uint16_t (BF16)
 *   LD(p, w), ST(p, x, w)   the first w elements (w > VW counts as VW)
 * after simd_avx2.h or simd_avx512.h, simd_plain.h and simd_activation.h. What is summed over a row is summed in VW lanes, which are then added in the fixed
 * tree of v_sum; nothing depends on where a row lies. */

#define FOR_VECTORS(c, w, n) for (int64_t c = 0, w = (n); c < (n); c += VW, w -= VW)

static void NAME(add)(int64_t n, const void *a_, const void *b_, void *out_) {
    const T *a = a_, *b = b_;
    T *out = out_;
    FOR_VECTORS(c, w, n) ST(out + c, v_add(LD(a + c, w), LD(b + c, w)), w);
}

static void NAME(scale)(int64_t n, double alpha, const void *x_, void *y_, bool add) {
    const T *x = x_;
    T *y = y_;
    const vf s = v_set1((float)alpha);
    FOR_VECTORS(c, w, n) {
        vf v = v_mul(s, LD(x + c, w));
        ST(y + c, add ? v_add(LD(y + c, w), v) : v, w);
    }
}

static void NAME(bias_add)(int64_t n, void *x_, const void *bias_) {
    const float *bias = bias_;
    T *x = x_;
    FOR_VECTORS(c, w, n) ST(x + c, v_add(LD(x + c, w), ld_f32(bias + c, w)), w);
}

/* A product is rounded before the shift is added, on every level. */
static void NAME(mul)(int64_t n, const void *x_, const void *w_, const void *shift_, void *y_) {
    const T *x = x_;
    const float *factor = w_, *shift = shift_;
    T *y = y_;
    if (shift)
        FOR_VECTORS(c, w, n) ST(y + c, v_add(v_mul(LD(x + c, w), ld_f32(factor + c, w)), ld_f32(shift + c, w)), w);
    else
        FOR_VECTORS(c, w, n) ST(y + c, v_mul(LD(x + c, w), ld_f32(factor + c, w)), w);
}

static void NAME(accumulate)(int64_t n, const void *x_, void *sum_) {
    const T *x = x_;
    float *sum = sum_;
    FOR_VECTORS(c, w, n) st_f32(sum + c, v_add(ld_f32(sum + c, w), LD(x + c, w)), w);
}

static void NAME(column_sum)(int64_t rows, int64_t cols, const void *x_, int64_t ld, void *sum) {
    const T *x = x_;
    for (int64_t r = 0; r < rows; r++) NAME(accumulate)(cols, x + r * ld, sum);
}

static double NAME(rmsnorm)(int64_t n, const void *x_, const void *w_, double eps, void *y_) {
    const T *x = x_;
    const float *weight = w_;
    T *y = y_;
    vf sum = v_zero();
    FOR_VECTORS(c, w, n) {
        vf v = LD(x + c, w);
        sum = v_fma(v, v, sum);
    }
    const float rstd = 1.0f / sqrtf(v_sum(sum) / (float)n + (float)eps);
    const vf r = v_set1(rstd);
    FOR_VECTORS(c, w, n) ST(y + c, v_mul(v_mul(LD(x + c, w), r), ld_f32(weight + c, w)), w);
    return (double)rstd;
}

static void NAME(rmsnorm_backward)(int64_t n, const void *x_, const void *w_, double rstd_, const void *dy_, void *dx_,
                                   bool add) {
    const T *x = x_, *dy = dy_;
    const float *weight = w_, rstd = (float)rstd_;
    T *dx = dx_;
    vf dot = v_zero();
    FOR_VECTORS(c, w, n) dot = v_fma(LD(x + c, w), v_mul(LD(dy + c, w), ld_f32(weight + c, w)), dot);
    const vf r = v_set1(rstd), k = v_set1(v_sum(dot) / (float)n * rstd * rstd);
    FOR_VECTORS(c, w, n) {
        vf g = v_mul(r, v_fnma(LD(x + c, w), k, v_mul(LD(dy + c, w), ld_f32(weight + c, w))));
        ST(dx + c, add ? v_add(LD(dx + c, w), g) : g, w);
    }
}

static void NAME(rmsnorm_dw)(int64_t n, const void *x_, double rstd, const void *dy_, void *dw_) {
    const T *x = x_, *dy = dy_;
    float *dw = dw_;
    const vf r = v_set1((float)rstd);
    FOR_VECTORS(c, w, n)
    st_f32(dw + c, v_fma(LD(dy + c, w), v_mul(LD(x + c, w), r), ld_f32(dw + c, w)), w);
}

static void NAME(layernorm)(int64_t n, const void *x_, const void *w_, const void *b_, double eps, void *y_, void *stats_) {
    const T *x = x_;
    const float *weight = w_, *bias = b_;
    T *y = y_;
    float *stats = stats_;
    vf sum = v_zero(), squares = v_zero();
    FOR_VECTORS(c, w, n) sum = v_add(sum, LD(x + c, w));
    const float mean = v_sum(sum) / (float)n;
    const vf m = v_set1(mean);
    FOR_VECTORS(c, w, n) {
        vf v = v_sub(LD(x + c, w), m);
        if (w < VW) v = v_first(v, v_zero(), w);
        squares = v_fma(v, v, squares);
    }
    const float rstd = 1.0f / sqrtf(v_sum(squares) / (float)n + (float)eps);
    const vf r = v_set1(rstd);
    FOR_VECTORS(c, w, n) {
        vf v = v_mul(v_mul(v_sub(LD(x + c, w), m), r), ld_f32(weight + c, w));
        ST(y + c, bias ? v_add(v, ld_f32(bias + c, w)) : v, w);
    }
    stats[0] = mean;
    stats[1] = rstd;
}

static void NAME(layernorm_backward)(int64_t n, const void *x_, const void *w_, const void *stats, const void *dy_,
                                     void *dx_, bool add) {
    const T *x = x_, *dy = dy_;
    const float *weight = w_, rstd = ((const float *)stats)[1];
    T *dx = dx_;
    const vf m = v_set1(((const float *)stats)[0]);
    vf sum = v_zero(), dot = v_zero();
    FOR_VECTORS(c, w, n) { /* beyond the end of the row g is 0 */
        vf g = v_mul(LD(dy + c, w), ld_f32(weight + c, w));
        sum = v_add(sum, g);
        dot = v_fma(v_sub(LD(x + c, w), m), g, dot);
    }
    const vf r = v_set1(rstd), shift = v_set1(v_sum(sum) / (float)n), k = v_set1(v_sum(dot) / (float)n * rstd * rstd);
    FOR_VECTORS(c, w, n) {
        vf g = v_sub(v_mul(LD(dy + c, w), ld_f32(weight + c, w)), shift);
        g = v_mul(r, v_fnma(v_sub(LD(x + c, w), m), k, g));
        ST(dx + c, add ? v_add(LD(dx + c, w), g) : g, w);
    }
}

static void NAME(layernorm_dw)(int64_t n, const void *x_, const void *stats, const void *dy_, void *dw_) {
    const T *x = x_, *dy = dy_;
    float *dw = dw_;
    const vf m = v_set1(((const float *)stats)[0]), r = v_set1(((const float *)stats)[1]);
    FOR_VECTORS(c, w, n)
    st_f32(dw + c, v_fma(LD(dy + c, w), v_mul(v_sub(LD(x + c, w), m), r), ld_f32(dw + c, w)), w);
}

static void NAME(rope)(int half, void *x_, const void *cos_, const void *sin_, bool inverse) {
    const float *cos = cos_, *sin = sin_;
    T *x1 = x_, *x2 = x1 + half;
    const vf sign = v_set1(inverse ? -1.0f : 1.0f);
    FOR_VECTORS(c, w, half) {
        vf a = LD(x1 + c, w), b = LD(x2 + c, w), cs = ld_f32(cos + c, w), sn = v_mul(sign, ld_f32(sin + c, w));
        ST(x1 + c, v_fnma(b, sn, v_mul(a, cs)), w);
        ST(x2 + c, v_fma(a, sn, v_mul(b, cs)), w);
    }
}

/* One loop an activation function, so that its constants stay in registers. */
static void NAME(activation)(gr_activation f, int64_t n, const void *x_, void *y_) {
    const T *x = x_;
    T *y = y_;
    switch (f) {
#define LOOP(F)                                                                                                        \
    case GR_ACTIVATION_##F:                                                                                            \
        FOR_VECTORS(c, w, n) ST(y + c, v_##F(LD(x + c, w)), w);                                                        \
        break;
        GR_ACTIVATIONS(LOOP)
#undef LOOP
    default: break;
    }
}

static void NAME(tanh_backward)(int64_t n, const T *y, const T *dy, T *dx) {
    const vf one = v_set1(1.0f);
    FOR_VECTORS(c, w, n) {
        vf v = LD(y + c, w);
        ST(dx + c, v_mul(LD(dy + c, w), v_fnma(v, v, one)), w);
    }
}

static void NAME(activation_backward)(gr_activation f, int64_t n, const void *kept_, const void *dy_, void *dx_) {
    const T *kept = kept_, *dy = dy_;
    T *dx = dx_;
    vf y;
    if (f == GR_ACTIVATION_TANH) {
        NAME(tanh_backward)(n, kept, dy, dx);
        return;
    }
    switch (f) {
#define LOOP(F)                                                                                                        \
    case GR_ACTIVATION_##F:                                                                                            \
        FOR_VECTORS(c, w, n) ST(dx + c, v_mul(LD(dy + c, w), v_##F##_slope(LD(kept + c, w), &y)), w);                  \
        break;
        GR_ACTIVATIONS(LOOP)
#undef LOOP
    default: break;
    }
}

static void NAME(gated)(gr_activation f, int64_t n, const void *gate_, const void *up_, void *out_) {
    const T *gate = gate_, *up = up_;
    T *out = out_;
    switch (f) {
#define LOOP(F)                                                                                                        \
    case GR_ACTIVATION_##F:                                                                                            \
        FOR_VECTORS(c, w, n) ST(out + c, v_mul(v_##F(LD(gate + c, w)), LD(up + c, w)), w);                             \
        break;
        GR_ACTIVATIONS(LOOP)
#undef LOOP
    default: break;
    }
}

static void NAME(gated_backward)(gr_activation f, int64_t n, const void *gate_, const void *up_, const void *dout_,
                                 void *dgate_, void *dup_) {
    const T *gate = gate_, *up = up_, *dout = dout_;
    T *dgate = dgate_, *dup = dup_;
    switch (f) {
#define LOOP(F)                                                                                                        \
    case GR_ACTIVATION_##F:                                                                                            \
        FOR_VECTORS(c, w, n) {                                                                                         \
            vf y, slope = v_##F##_slope(LD(gate + c, w), &y), u = LD(up + c, w), d = LD(dout + c, w);                  \
            ST(dgate + c, v_mul(v_mul(d, u), slope), w);                                                               \
            ST(dup + c, v_mul(d, y), w);                                                                               \
        }                                                                                                              \
        break;
        GR_ACTIVATIONS(LOOP)
#undef LOOP
    default: break;
    }
}

static void NAME(dropout)(int64_t n, const void *x_, void *y_, double p, uint64_t seed, uint64_t stream, uint64_t key) {
    const T *x = x_;
    T *y = y_;
    const uint32_t threshold = gr_dropout_threshold(p);
    const vf factor = v_set1((float)(1.0 / (1.0 - p)));
    for (int64_t i = 0; i < n; i += 4 * VW) {
        vf keep[4];
        philox_keep(seed, stream, key, (uint64_t)i / 4, threshold, keep);
        for (int k = 0; k < 4; k++) {
            int64_t c = i + k * VW, w = n - c;
            if (w > 0) ST(y + c, v_and(keep[k], v_mul(LD(x + c, w), factor)), w);
        }
    }
}

static uint64_t NAME(dropout_bits)(double p, uint64_t seed, uint64_t stream, uint64_t key) {
    const uint32_t threshold = gr_dropout_threshold(p);
    uint64_t bits = 0;
    for (int i = 0; i < 64; i += 4 * VW) {
        vf keep[4];
        philox_keep(seed, stream, key, (uint64_t)i / 4, threshold, keep);
        for (int k = 0; k < 4; k++) bits |= (uint64_t)v_bits(keep[k]) << (i + k * VW);
    }
    return bits;
}

static void NAME(softmax_grad)(int64_t n, const void *x_, double lse, double weight, void *out_) {
    const float *x = x_;
    T *out = out_;
    const vf l = v_set1((float)lse), k = v_set1((float)weight);
    FOR_VECTORS(c, w, n) ST(out + c, v_mul(v_exp(v_sub(ld_f32(x + c, w), l)), k), w);
}

static const gr_row_kernels NAME(rows) = {
    .add = NAME(add),
    .scale = NAME(scale),
    .bias_add = NAME(bias_add),
    .mul = NAME(mul),
    .column_sum = NAME(column_sum),
    .rmsnorm = NAME(rmsnorm),
    .rmsnorm_backward = NAME(rmsnorm_backward),
    .rmsnorm_dw = NAME(rmsnorm_dw),
    .layernorm = NAME(layernorm),
    .layernorm_backward = NAME(layernorm_backward),
    .layernorm_dw = NAME(layernorm_dw),
    .rope = NAME(rope),
    .activation = NAME(activation),
    .activation_backward = NAME(activation_backward),
    .gated = NAME(gated),
    .gated_backward = NAME(gated_backward),
    .accumulate = NAME(accumulate),
    .dropout = NAME(dropout),
    .dropout_bits = NAME(dropout_bits),
    .softmax_grad = NAME(softmax_grad),
    .log_sum_exp = log_sum_exp,
};

#undef FOR_VECTORS
