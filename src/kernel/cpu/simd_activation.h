/* Activation functions on vectors of floats, included once per level after simd_avx2.h or simd_avx512.h. For each name of
 * GR_ACTIVATIONS: v_NAME(x) is f(x); v_NAME_slope(x, &y) is f'(x), with f(x) in y. NaN stays NaN. */

/* 1 / (1 + e^-x) */
static inline vf v_sigmoid(vf x) {
    const vf one = v_set1(1.0f);
    return v_div(one, v_add(one, v_exp(v_neg(x))));
}

static inline vf v_SILU(vf x) { return v_div(x, v_add(v_set1(1.0f), v_exp(v_neg(x)))); }
static inline vf v_SILU_slope(vf x, vf *y) {
    vf s = v_sigmoid(x);
    *y = v_mul(x, s);
    return v_fma(*y, v_sub(v_set1(1.0f), s), s);
}

static inline vf v_QUICK_GELU(vf x) { return v_mul(x, v_sigmoid(v_mul(x, v_set1(1.702f)))); }
static inline vf v_QUICK_GELU_slope(vf x, vf *y) {
    const vf k = v_set1(1.702f);
    vf s = v_sigmoid(v_mul(x, k));
    *y = v_mul(x, s);
    return v_fma(v_mul(k, *y), v_sub(v_set1(1.0f), s), s);
}

static inline vf v_RELU(vf x) { return v_max(v_zero(), x); }
static inline vf v_RELU_slope(vf x, vf *y) {
    *y = v_RELU(x);
    return v_select_less(v_zero(), x, v_set1(1.0f), v_zero());
}

/* Near 0 the polynomial of Cephes' tanhf, else 1 - 2 / (1 + e^2|x|). */
static inline vf v_TANH(vf x) {
    const vf one = v_set1(1.0f), two = v_set1(2.0f);
    vf size = v_max(x, v_neg(x)), z = v_mul(x, x);
    vf p = v_fma(v_set1(-5.70498872745e-3f), z, v_set1(2.06390887954e-2f));
    p = v_fma(p, z, v_set1(-5.37397155531e-2f));
    p = v_fma(p, z, v_set1(1.33314422036e-1f));
    p = v_fma(p, z, v_set1(-3.33332819422e-1f));
    vf small = v_fma(v_mul(p, z), x, x), large = v_sub(one, v_div(two, v_add(one, v_exp(v_mul(two, size)))));
    large = v_select_less(x, v_zero(), v_neg(large), large);
    return v_select_less(size, v_set1(0.625f), small, large);
}
static inline vf v_TANH_slope(vf x, vf *y) {
    *y = v_TANH(x);
    return v_fnma(*y, *y, v_set1(1.0f));
}

/* 2 sqrt(2/pi), and that times 0.044715. Beyond +-30 the sigmoid is 0 or 1: there the cube must not overflow. */
#define GELU_K 1.5957691216057308f
#define GELU_K3 0.07135481627260025f
static inline vf v_gelu_clamp(vf x) { return v_max(v_set1(-30.0f), v_min(v_set1(30.0f), x)); }

static inline vf v_GELU_TANH(vf x) {
    vf c = v_gelu_clamp(x);
    return v_mul(x, v_sigmoid(v_mul(c, v_fma(v_mul(v_set1(GELU_K3), c), c, v_set1(GELU_K)))));
}
static inline vf v_GELU_TANH_slope(vf x, vf *y) {
    vf c = v_gelu_clamp(x), c3 = v_mul(v_mul(v_set1(GELU_K3), c), c);
    vf u = v_mul(c, v_add(c3, v_set1(GELU_K))), e = v_exp(v_min(u, v_neg(u)));
    vf r = v_div(v_set1(1.0f), v_add(v_set1(1.0f), e)), er = v_mul(e, r), s = v_select_less(u, v_zero(), er, r);
    *y = v_mul(x, s);
    return v_fma(v_mul(c, v_mul(er, r)), v_fma(v_set1(3.0f), c3, v_set1(GELU_K)), s); /* s (1 - s) = e r^2 */
}

/* Phi(x), and e^(-x^2/2). The tail Phi(-z) = e^(-z^2/2) R(z), z = |x|, with R(z) = erfcx(z / sqrt 2) / 2 as t times a
 * polynomial of degree 8 in t = 1 / (1 + 0.21 z): least largest relative error over [0, 14.5], 2e-8. The square's rounding
 * error is carried on, so that the tail keeps its digits. */
static inline vf v_normal(vf x, vf *e) {
    const vf one = v_set1(1.0f), half = v_set1(0.5f);
    vf z = v_min(v_set1(20.0f), v_max(x, v_neg(x))), square = v_mul(z, z), rest = v_fma(z, z, v_neg(square));
    vf t = v_div(one, v_fma(v_set1(0.21f), z, one));
    *e = v_exp(v_mul(square, v_set1(-0.5f)));
    *e = v_fnma(v_mul(rest, half), *e, *e);
    vf p = v_set1(-0.0712924168f);
    p = v_fma(p, t, v_set1(0.2817926171f));
    p = v_fma(p, t, v_set1(-0.3264678241f));
    p = v_fma(p, t, v_set1(0.3449566441f));
    p = v_fma(p, t, v_set1(-0.0907511579f));
    p = v_fma(p, t, v_set1(0.1234626252f));
    p = v_fma(p, t, v_set1(0.06957228081f));
    p = v_fma(p, t, v_set1(0.08501206664f));
    p = v_fma(p, t, v_set1(0.08371517434f));
    vf tail = v_mul(v_mul(p, t), *e);
    return v_select_less(x, v_zero(), tail, v_sub(one, tail));
}

static inline vf v_GELU(vf x) {
    vf e;
    return v_mul(x, v_normal(x, &e));
}
static inline vf v_GELU_slope(vf x, vf *y) {
    vf e, phi = v_normal(x, &e);
    *y = v_mul(x, phi);
    return v_fma(v_mul(x, v_set1(0.39894228f)), e, phi); /* e / sqrt(2 pi) is the density */
}
