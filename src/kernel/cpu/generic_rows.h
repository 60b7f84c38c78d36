/* Portable row kernels, included by generic.c once for each compute type with
 *   NAME(x)  the function's name for this type
 *   T        type of activations in memory, LOAD(t) to S, STORE(s) to T
 *   S        type of sums and parameters
 *   EXP(s), SQRT(s), TANH(s), ERFC(s) of S.
 * Deliberately plain: the vector levels are tested against these. */

static void NAME(add)(int64_t n, const void *a_, const void *b_, void *out_) {
    const T *a = a_, *b = b_;
    T *out = out_;
    for (int64_t i = 0; i < n; i++) out[i] = STORE(LOAD(a[i]) + LOAD(b[i]));
}

static void NAME(scale)(int64_t n, double alpha, const void *x_, void *y_, bool add) {
    const T *x = x_;
    T *y = y_;
    S s = (S)alpha;
    for (int64_t i = 0; i < n; i++) y[i] = STORE(add ? LOAD(y[i]) + s * LOAD(x[i]) : s * LOAD(x[i]));
}

static void NAME(bias_add)(int64_t n, void *x_, const void *bias_) {
    const S *bias = bias_;
    T *x = x_;
    for (int64_t i = 0; i < n; i++) x[i] = STORE(LOAD(x[i]) + bias[i]);
}

static void NAME(mul)(int64_t n, const void *x_, const void *w_, const void *shift_, void *y_) {
    const T *x = x_;
    const S *w = w_, *shift = shift_;
    T *y = y_;
    for (int64_t i = 0; i < n; i++) y[i] = STORE(shift ? LOAD(x[i]) * w[i] + shift[i] : LOAD(x[i]) * w[i]);
}

static void NAME(accumulate)(int64_t n, const void *x_, void *sum_) {
    const T *x = x_;
    S *sum = sum_;
    for (int64_t i = 0; i < n; i++) sum[i] += LOAD(x[i]);
}

static void NAME(column_sum)(int64_t rows, int64_t cols, const void *x_, int64_t ld, void *sum) {
    const T *x = x_;
    for (int64_t r = 0; r < rows; r++) NAME(accumulate)(cols, x + r * ld, sum);
}

static double NAME(rmsnorm)(int64_t n, const void *x_, const void *w_, double eps, void *y_) {
    const T *x = x_;
    const S *w = w_;
    T *y = y_;
    S sum = 0;
    for (int64_t i = 0; i < n; i++) sum += LOAD(x[i]) * LOAD(x[i]);
    S rstd = 1 / SQRT(sum / (S)n + (S)eps);
    for (int64_t i = 0; i < n; i++) y[i] = STORE(LOAD(x[i]) * rstd * w[i]);
    return rstd;
}

/* With h = x * rstd: dx = rstd * (w dy - h * mean(h * w dy)). */
static void NAME(rmsnorm_backward)(int64_t n, const void *x_, const void *w_, double rstd_, const void *dy_, void *dx_,
                                   bool add) {
    const T *x = x_, *dy = dy_;
    const S *w = w_;
    T *dx = dx_;
    S rstd = (S)rstd_, dot = 0;
    for (int64_t i = 0; i < n; i++) dot += LOAD(x[i]) * (LOAD(dy[i]) * w[i]);
    S c = dot / (S)n * rstd * rstd;
    for (int64_t i = 0; i < n; i++) {
        S g = rstd * (LOAD(dy[i]) * w[i] - LOAD(x[i]) * c);
        dx[i] = STORE(add ? LOAD(dx[i]) + g : g);
    }
}

static void NAME(rmsnorm_dw)(int64_t n, const void *x_, double rstd, const void *dy_, void *dw_) {
    const T *x = x_, *dy = dy_;
    S *dw = dw_;
    for (int64_t i = 0; i < n; i++) dw[i] += LOAD(dy[i]) * (LOAD(x[i]) * (S)rstd);
}

static void NAME(layernorm)(int64_t n, const void *x_, const void *w_, const void *b_, double eps, void *y_, void *stats_) {
    const T *x = x_;
    const S *w = w_, *b = b_;
    T *y = y_;
    S *stats = stats_, sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += LOAD(x[i]);
    const S mean = sum / (S)n;
    for (int64_t i = 0; i < n; i++) squares += (LOAD(x[i]) - mean) * (LOAD(x[i]) - mean);
    const S rstd = 1 / SQRT(squares / (S)n + (S)eps);
    for (int64_t i = 0; i < n; i++) {
        S v = (LOAD(x[i]) - mean) * rstd * w[i];
        y[i] = STORE(b ? v + b[i] : v);
    }
    stats[0] = mean;
    stats[1] = rstd;
}

/* With h = (x - mean) rstd and g = w dy: dx = rstd (g - mean(g) - h mean(h g)). */
static void NAME(layernorm_backward)(int64_t n, const void *x_, const void *w_, const void *stats, const void *dy_,
                                     void *dx_, bool add) {
    const T *x = x_, *dy = dy_;
    const S *w = w_, mean = ((const S *)stats)[0], rstd = ((const S *)stats)[1];
    T *dx = dx_;
    S sum = 0, dot = 0;
    for (int64_t i = 0; i < n; i++) {
        S g = LOAD(dy[i]) * w[i];
        sum += g;
        dot += (LOAD(x[i]) - mean) * g;
    }
    const S shift = sum / (S)n, c = dot / (S)n * rstd * rstd;
    for (int64_t i = 0; i < n; i++) {
        S g = rstd * (LOAD(dy[i]) * w[i] - shift - (LOAD(x[i]) - mean) * c);
        dx[i] = STORE(add ? LOAD(dx[i]) + g : g);
    }
}

static void NAME(layernorm_dw)(int64_t n, const void *x_, const void *stats, const void *dy_, void *dw_) {
    const T *x = x_, *dy = dy_;
    const S mean = ((const S *)stats)[0], rstd = ((const S *)stats)[1];
    S *dw = dw_;
    for (int64_t i = 0; i < n; i++) dw[i] += LOAD(dy[i]) * ((LOAD(x[i]) - mean) * rstd);
}

static void NAME(rope)(int half, void *x_, const void *cos_, const void *sin_, bool inverse) {
    const S *cos = cos_, *sin = sin_;
    T *x1 = x_, *x2 = x1 + half;
    for (int i = 0; i < half; i++) {
        S a = LOAD(x1[i]), b = LOAD(x2[i]), s = inverse ? -sin[i] : sin[i];
        x1[i] = STORE(a * cos[i] - b * s);
        x2[i] = STORE(b * cos[i] + a * s);
    }
}

/* x s(u), s the sigmoid and u = 2 sqrt(2/pi) (x + 0.044715 x^3). Beyond +-30 s is 0 or 1 in every type: there the cube must
 * not overflow. s (1 - s) = e / (1 + e)^2 with e = exp(-|u|), which cancels nothing. */
static S NAME(gelu_tanh_slope)(S x, S *y) {
    const S k = (S)1.5957691216057308, k3 = (S)0.07135481627260025;
    S c = x < -30 ? -30 : x > 30 ? 30 : x, u = c * (k + k3 * c * c), e = EXP(u < 0 ? u : -u), r = 1 / (1 + e);
    S s = u < 0 ? e * r : r;
    *y = x * s;
    return s + c * (e * r * r) * (k + 3 * k3 * c * c);
}

/* f'(x), and f(x) in *y. */
static S NAME(slope)(gr_activation f, S x, S *y) {
    S s;
    switch (f) {
    case GR_ACTIVATION_TANH: *y = TANH(x); return 1 - *y * *y;
    case GR_ACTIVATION_RELU: *y = x < 0 ? 0 : x; return x > 0;
    case GR_ACTIVATION_GELU: /* by erfc, which keeps its digits for large negative x */
        s = ERFC(x * (S)-0.70710678118654752) / 2;
        *y = x * s;
        return s + x * EXP(x * x / -2) * (S)0.39894228040143268;
    case GR_ACTIVATION_GELU_TANH: return NAME(gelu_tanh_slope)(x, y);
    case GR_ACTIVATION_QUICK_GELU:
        s = 1 / (1 + EXP(x * (S)-1.702));
        *y = x * s;
        return s + (S)1.702 * *y * (1 - s);
    default: /* SILU */
        s = 1 / (1 + EXP(-x));
        *y = x * s;
        return s + *y * (1 - s);
    }
}

static void NAME(activation)(gr_activation f, int64_t n, const void *x_, void *y_) {
    const T *x = x_;
    T *y = y_;
    for (int64_t i = 0; i < n; i++) {
        S v;
        NAME(slope)(f, LOAD(x[i]), &v);
        y[i] = STORE(v);
    }
}

static void NAME(activation_backward)(gr_activation f, int64_t n, const void *kept_, const void *dy_, void *dx_) {
    const T *kept = kept_, *dy = dy_;
    T *dx = dx_;
    for (int64_t i = 0; i < n; i++) {
        S v = LOAD(kept[i]), y;
        dx[i] = STORE(LOAD(dy[i]) * (f == GR_ACTIVATION_TANH ? 1 - v * v : NAME(slope)(f, v, &y)));
    }
}

static void NAME(gated)(gr_activation f, int64_t n, const void *gate_, const void *up_, void *out_) {
    const T *gate = gate_, *up = up_;
    T *out = out_;
    for (int64_t i = 0; i < n; i++) {
        S y;
        NAME(slope)(f, LOAD(gate[i]), &y);
        out[i] = STORE(y * LOAD(up[i]));
    }
}

static void NAME(gated_backward)(gr_activation f, int64_t n, const void *gate_, const void *up_, const void *dout_,
                                 void *dgate_, void *dup_) {
    const T *gate = gate_, *up = up_, *dout = dout_;
    T *dgate = dgate_, *dup = dup_;
    for (int64_t i = 0; i < n; i++) {
        S y, slope = NAME(slope)(f, LOAD(gate[i]), &y), u = LOAD(up[i]), d = LOAD(dout[i]);
        dgate[i] = STORE(d * u * slope);
        dup[i] = STORE(d * y);
    }
}

static void NAME(dropout)(int64_t n, const void *x_, void *y_, double p, uint64_t seed, uint64_t stream, uint64_t key) {
    const T *x = x_;
    T *y = y_;
    const uint32_t threshold = gr_dropout_threshold(p);
    const S factor = (S)(1.0 / (1.0 - p));
    for (int64_t i = 0; i < n; i += 4) {
        uint32_t draw[4];
        gr_rng_draw4(seed, gr_dropout_stream(stream, (uint64_t)i / 4), key, draw);
        for (int k = 0; k < 4 && i + k < n; k++) y[i + k] = draw[k] < threshold ? (T)0 : STORE(LOAD(x[i + k]) * factor);
    }
}

static uint64_t NAME(dropout_bits)(double p, uint64_t seed, uint64_t stream, uint64_t key) {
    const uint32_t threshold = gr_dropout_threshold(p);
    uint64_t bits = 0;
    for (int i = 0; i < 64; i += 4) {
        uint32_t draw[4];
        gr_rng_draw4(seed, gr_dropout_stream(stream, (uint64_t)i / 4), key, draw);
        for (int k = 0; k < 4; k++) bits |= (uint64_t)(draw[k] >= threshold) << (i + k);
    }
    return bits;
}

static void NAME(softmax_grad)(int64_t n, const void *logits_, double lse, double weight, void *dlogits_) {
    const S *logits = logits_;
    T *dlogits = dlogits_;
    S l = (S)lse, w = (S)weight;
    for (int64_t i = 0; i < n; i++) dlogits[i] = STORE(EXP(logits[i] - l) * w);
}

static double NAME(log_sum_exp)(int64_t n, const void *x_, int64_t *at) {
    const S *x = x_;
    S max = x[0];
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > max) {
            max = x[i];
            best = i;
        }
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += EXP(x[i] - max);
    *at = best;
    return (double)max + log(sum);
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
    .log_sum_exp = NAME(log_sum_exp),
};
