/* What the row kernels of both activation types share, on vectors of floats: loads and stores that stop at the end of a
 * row, dropout's random numbers, and the kernels that have one type only. Included once per level, after simd_avx2.h or
 * simd_avx512.h. */
#include <math.h>

static inline vf ld_f32(const float *p, int64_t w) { return w >= VW ? v_load(p) : v_load_n(p, w); }
static inline void st_f32(float *p, vf x, int64_t w) {
    if (w >= VW)
        v_store(p, x);
    else
        v_store_n(p, x, w);
}
static inline vf ld_bf16(const uint16_t *p, int64_t w) { return w >= VW ? v_load_bf16(p) : v_load_bf16_n(p, w); }
static inline void st_bf16(uint16_t *p, vf x, int64_t w) {
    if (w >= VW)
        v_store_bf16(p, x);
    else
        v_store_bf16_n(p, x, w);
}

/* Philox4x32-10 of VW consecutive column blocks at once (base/rng.h; counter: gr_dropout_stream), as masks of all bits for
 * the 4 * VW elements that are kept, in their order. */
static inline void philox_keep(uint64_t seed, uint64_t stream, uint64_t key, uint64_t block, uint32_t threshold, vf keep[4]) {
    uint32_t low[VW], high[VW];
    for (int i = 0; i < VW; i++) {
        uint64_t s = gr_dropout_stream(stream, block + (uint64_t)i);
        low[i] = (uint32_t)s;
        high[i] = (uint32_t)(s >> 32);
    }
    vi c0 = vi_set1((uint32_t)key), c1 = vi_set1((uint32_t)(key >> 32)), c2 = vi_load(low), c3 = vi_load(high);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        vi low0, low2, high0 = vi_mul_wide(c0, 0xD2511F53u, &low0), high2 = vi_mul_wide(c2, 0xCD9E8D57u, &low2);
        c0 = vi_xor(vi_xor(high2, c1), vi_set1(k0));
        c2 = vi_xor(vi_xor(high0, c3), vi_set1(k1));
        c1 = low2;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    vi r[4] = {c0, c1, c2, c3};
    vi_interleave4(r);
    for (int i = 0; i < 4; i++) keep[i] = vi_not_below(r[i], threshold);
}

static double log_sum_exp(int64_t n, const void *x_, int64_t *at) {
    const float *x = x_;
    const float lowest = -INFINITY;
    vf top = v_set1(lowest);
    for (int64_t c = 0, w = n; c < n; c += VW, w -= VW)
        top = v_max(w >= VW ? v_load(x + c) : v_first(v_load_n(x + c, w), v_set1(lowest), w), top);
    const float max = v_max_lane(top);
    int64_t best = 0;
    while (best + 1 < n && !(x[best] == max)) best++;
    /* Float lanes over a stretch, doubles over the stretches. */
    enum { STRETCH = 32 * VW };
    vd low = vd_zero(), high = vd_zero();
    for (int64_t c = 0; c < n; c += STRETCH) {
        vf sum = v_zero();
        for (int64_t i = c; i < n && i < c + STRETCH; i += VW) {
            int64_t w = n - i;
            vf e = v_exp(v_sub(ld_f32(x + i, w), v_set1(max)));
            sum = v_add(sum, w >= VW ? e : v_first(e, v_zero(), w));
        }
        low = vd_add(low, v_low_double(sum));
        high = vd_add(high, v_high_double(sum));
    }
    *at = best;
    return (double)max + log(vd_sum(vd_add(low, high)));
}

static inline double sum_squares(int64_t n, const float *x) {
    vd low = vd_zero(), high = vd_zero();
    for (int64_t c = 0, w = n; c < n; c += VW, w -= VW) {
        vf v = ld_f32(x + c, w);
        low = vd_fma(v_low_double(v), v_low_double(v), low);
        high = vd_fma(v_high_double(v), v_high_double(v), high);
    }
    return vd_sum(vd_add(low, high));
}

/* Operation by operation as the portable one (generic.c), so the same bits. */
static inline void adamw(int64_t n, float *p, const float *g, float *m, float *v, const gr_adamw_coef *k) {
    const vf g_scale = v_set1(k->g_scale), decay = v_set1(k->decay), w1 = v_set1(k->beta1_weight);
    const vf rest1 = v_set1(1.0f - k->beta1_weight), beta2 = v_set1(k->beta2), w2 = v_set1(k->beta2_weight);
    const vf step = v_set1(k->step), root = v_set1(k->bias2_root), eps = v_set1(k->eps);
    const bool near_m = k->beta1_weight < 0.5f;
    for (int64_t c = 0, w = n; c < n; c += VW, w -= VW) {
        vf grad = v_mul(ld_f32(g + c, w), g_scale), mean = ld_f32(m + c, w), diff = v_sub(grad, mean);
        mean = near_m ? v_add(mean, v_mul(w1, diff)) : v_sub(grad, v_mul(diff, rest1));
        vf square = v_add(v_mul(ld_f32(v + c, w), beta2), v_mul(v_mul(w2, grad), grad));
        vf denom = v_add(v_div(v_sqrt(square), root), eps);
        st_f32(m + c, mean, w);
        st_f32(v + c, square, w);
        st_f32(p + c, v_add(v_mul(ld_f32(p + c, w), decay), v_div(v_mul(step, mean), denom)), w);
    }
}

static inline void adamw_fused(int64_t n, float *p, const float *g, float *m, float *v, const gr_adamw_coef *k) {
    const vf g_scale = v_set1(k->g_scale), decay = v_set1(k->decay), beta1 = v_set1(k->beta1), w1 = v_set1(k->beta1_weight);
    const vf beta2 = v_set1(k->beta2), w2 = v_set1(k->beta2_weight);
    const vf step = v_set1(k->step), root = v_set1(k->bias2_root), eps = v_set1(k->eps);
    for (int64_t c = 0, w = n; c < n; c += VW, w -= VW) {
        vf grad = v_mul(ld_f32(g + c, w), g_scale);
        vf mean = v_fma(grad, w1, v_mul(ld_f32(m + c, w), beta1));
        vf square = v_fma(v_mul(w2, grad), grad, v_mul(ld_f32(v + c, w), beta2));
        vf denom = v_add(v_div(v_sqrt(square), root), eps);
        st_f32(m + c, mean, w);
        st_f32(v + c, square, w);
        st_f32(p + c, v_add(v_mul(ld_f32(p + c, w), decay), v_div(v_mul(step, mean), denom)), w);
    }
}

static inline vf ld_any(gr_dtype dt, const void *p, int64_t c, int64_t w) {
    if (dt == GR_F32) return ld_f32((const float *)p + c, w);
    if (dt == GR_BF16) return ld_bf16((const uint16_t *)p + c, w);
    return v_load_f16_n((const uint16_t *)p + c, w >= VW ? VW : w);
}

static inline void convert(gr_dtype from_dt, const void *from, gr_dtype to_dt, void *to, int64_t n) {
    if (from_dt == to_dt || from_dt == GR_F64 || to_dt == GR_F64) {
        gr_generic_convert(from_dt, from, to_dt, to, n);
        return;
    }
    for (int64_t c = 0, w = n; c < n; c += VW, w -= VW) {
        vf x = ld_any(from_dt, from, c, w);
        if (to_dt == GR_F32)
            st_f32((float *)to + c, x, w);
        else if (to_dt == GR_BF16)
            v_store_bf16_exact_n((uint16_t *)to + c, x, w >= VW ? VW : w);
        else
            v_store_f16_n((uint16_t *)to + c, x, w >= VW ? VW : w);
    }
}
