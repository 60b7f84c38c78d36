/* Encoders of the k-quants (block256.c): the bytes of ggml's reference quantisers (quantize_row_*_K_ref, without
 * importance matrix).
 *
 * * Each sub-block is fitted for itself: among some scales near the one that the range of its elements suggests, each
 * refined by weighted least squares, the one with the smallest weighted error is kept. The sub-blocks' scales (and
 * minima) are then quantised under the super-block's half, and the elements again under what is left of them. The
 * order of the float operations is the reference's, since the choice among nearly equal fits depends on it. */
#include <math.h>

#include "quant/blocks.h"

/* Below this a sub-block is taken for zeros. */
static const float tiny = 1e-15f;

/* v to the nearest whole number, ties to even, by the addition that leaves it in the low bits; |v| < 2^22. Larger
 * ones give some number, as the reference's. */
static inline int nearest(float v) { return (int)(gr_float_bits(v + 12582912.0f) & 0x007FFFFF) - 0x00400000; }

static inline int clip(int v, int low, int high) { return v < low ? low : v > high ? high : v; }

/* --- x = scale * q, q symmetric: Q6_K, Q3_K ----------------------------------------------------------------------- */

static float extreme(const float *x, int n) {
    float most = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    return most;
}

/* Sums of w x l and w l^2 with w = x^2, l the quants under `inverse`. */
static void moments(const float *x, int n, int half, float inverse, float *xl, float *l2) {
    *xl = *l2 = 0;
    for (int i = 0; i < n; i++) {
        const int l = clip(nearest(inverse * x[i]), -half, half - 1);
        const float w = x[i] * x[i];
        *xl += w * x[i] * (float)l;
        *l2 += w * (float)l * (float)l;
    }
}

static void quantize_signed(const float *x, int n, int half, float inverse, uint8_t *q) {
    for (int i = 0; i < n; i++) q[i] = (uint8_t)(half + clip(nearest(inverse * x[i]), -half, half - 1));
}

/* Quants -half .. half - 1, stored with half added; returns the scale. */
static float fit_signed(const float *x, int n, int half, uint8_t *q) {
    const float most = extreme(x, n);
    float xl, l2;
    if (fabsf(most) < tiny) {
        memset(q, 0, (size_t)n);
        return 0;
    }
    float inverse = (float)-half / most;
    moments(x, n, half, inverse, &xl, &l2);
    quantize_signed(x, n, half, inverse, q);
    float scale = l2 != 0 ? xl / l2 : 0.0f, best = scale * xl;
    for (int step = -9; step <= 9; step++) {
        if (step == 0) continue;
        inverse = -((float)half + 0.1f * (float)step) / most;
        moments(x, n, half, inverse, &xl, &l2);
        if (!(l2 > 0 && xl * xl > best * l2)) continue;
        quantize_signed(x, n, half, inverse, q);
        scale = xl / l2;
        best = scale * xl;
    }
    return scale;
}

/* The same by coordinate descent: each quant in turn takes the best value for the others, up to five rounds. */
static float fit_descent(const float *x, int n, int half, uint8_t *q) {
    const float most = extreme(x, n);
    int l[16];
    if (fabsf(most) < tiny) {
        memset(q, 0, (size_t)n);
        return 0;
    }
    float xl, l2;
    const float inverse = (float)-half / most;
    moments(x, n, half, inverse, &xl, &l2);
    for (int i = 0; i < n; i++) l[i] = clip(nearest(inverse * x[i]), -half, half - 1);
    bool changed = true;
    for (int round = 0; round < 5 && changed; round++) {
        changed = false;
        for (int i = 0; i < n; i++) {
            const float w = x[i] * x[i];
            float other_xl = xl - w * x[i] * (float)l[i];
            if (!(other_xl > 0)) continue;
            float other_l2 = l2 - w * (float)l[i] * (float)l[i];
            const int next = clip(nearest(x[i] * other_l2 / other_xl), -half, half - 1);
            if (next == l[i]) continue;
            other_xl += w * x[i] * (float)next;
            other_l2 += w * (float)next * (float)next;
            if (!(other_l2 > 0 && other_xl * other_xl * l2 > xl * xl * other_l2)) continue;
            l[i] = next;
            xl = other_xl;
            l2 = other_l2;
            changed = true;
        }
    }
    for (int i = 0; i < n; i++) q[i] = (uint8_t)(l[i] + half);
    return l2 > 0 ? xl / l2 : 0.0f;
}

/* --- x = scale * q - min: Q2_K, Q4_K, Q5_K ------------------------------------------------------------------------ */

/* Which scales are tried: (top + first + i * step) / range for i = 0 .. count; how errors count. */
typedef struct search {
    int n, top;
    float first, step;
    int count;
    bool absolute;
} search;

static float error_of(const search *s, const float *x, const float *w, const uint8_t *q, float scale, float min) {
    float sum = 0;
    for (int i = 0; i < s->n; i++) {
        const float off = scale * (float)q[i] + min - x[i];
        sum += w[i] * (s->absolute ? fabsf(off) : off * off);
    }
    return sum;
}

/* Quants 0 .. top; returns the scale, *low the negated minimum (>= 0). */
static float fit_above(const search *s, const float *x, const float *w, uint8_t *q, float *low) {
    float min = x[0], max = x[0], sum_w = w[0], sum_x = w[0] * x[0];
    for (int i = 1; i < s->n; i++) {
        if (x[i] < min) min = x[i];
        if (x[i] > max) max = x[i];
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    if (min > 0) min = 0;
    if (max == min) {
        memset(q, 0, (size_t)s->n);
        *low = -min;
        return 0;
    }
    const float origin = min, range = max - min;
    float inverse = (float)s->top / range, scale = 1 / inverse;
    for (int i = 0; i < s->n; i++) q[i] = (uint8_t)clip(nearest(inverse * (x[i] - origin)), 0, s->top);
    float best = error_of(s, x, w, q, scale, min);
    for (int t = 0; t <= s->count; t++) {
        uint8_t other[32];
        float l = 0, l2 = 0, xl = 0;
        /* The range is taken from what the last improvement left as minimum. */
        inverse = (s->first + s->step * (float)t + (float)s->top) / (max - min);
        for (int i = 0; i < s->n; i++) {
            other[i] = (uint8_t)clip(nearest(inverse * (x[i] - min)), 0, s->top);
            l += w[i] * (float)other[i];
            l2 += w[i] * (float)other[i] * (float)other[i];
            xl += w[i] * (float)other[i] * x[i];
        }
        const float determinant = sum_w * l2 - l * l;
        if (!(determinant > 0)) continue;
        float try_scale = (sum_w * xl - sum_x * l) / determinant, try_min = (l2 * sum_x - l * xl) / determinant;
        if (try_min > 0) {
            try_min = 0;
            try_scale = xl / l2;
        }
        const float error = error_of(s, x, w, other, try_scale, try_min);
        if (!(error < best)) continue;
        memcpy(q, other, (size_t)s->n);
        best = error;
        scale = try_scale;
        min = try_min;
    }
    *low = -min;
    return scale;
}

/* Quants under the scales that are stored; where a scale came out as zero those of the fit stay. */
static void requantize(const float *x, int n, float scale, float min, int low, int high, int bias, uint8_t *q) {
    if (scale == 0) return;
    for (int i = 0; i < n; i++) q[i] = (uint8_t)(bias + clip(nearest((x[i] + min) / scale), low, high));
}

/* Runs of 32 bytes, each with four runs of 32 quants of 2 bits. */
static void put_pairs(const uint8_t *q, uint8_t *qs) {
    for (int half = 0; half < 2; half++, q += 128, qs += 32)
        for (int i = 0; i < 32; i++)
            qs[i] = (uint8_t)((q[i] & 3) | (q[i + 32] & 3) << 2 | (q[i + 64] & 3) << 4 | (q[i + 96] & 3) << 6);
}

void gr_quantize_Q2_K(const float *x, size_t n, void *blocks) {
    static const search s = {16, 3, -0.5f, 0.1f, 15, true};
    block_q2_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++, x += 256) {
        uint8_t q[256];
        float scale[16], low[16], w[16], max_scale = 0, max_low = 0;
        for (int sub = 0; sub < 16; sub++) {
            for (int k = 0; k < 16; k++) w[k] = fabsf(x[16 * sub + k]);
            scale[sub] = fit_above(&s, x + 16 * sub, w, q + 16 * sub, &low[sub]);
            if (scale[sub] > max_scale) max_scale = scale[sub];
            if (low[sub] > max_low) max_low = low[sub];
        }
        const float to_scale = max_scale > 0 ? 15.0f / max_scale : 0, to_low = max_low > 0 ? 15.0f / max_low : 0;
        gr_put_half(b->d, max_scale > 0 ? max_scale / 15.0f : 0);
        gr_put_half(b->dmin, max_low > 0 ? max_low / 15.0f : 0);
        for (int sub = 0; sub < 16; sub++) {
            b->scales[sub] = (uint8_t)(nearest(to_scale * scale[sub]) | (unsigned)nearest(to_low * low[sub]) << 4);
            requantize(x + 16 * sub, 16, gr_half_at(b->d) * (float)(b->scales[sub] & 15),
                       gr_half_at(b->dmin) * (float)(b->scales[sub] >> 4), 0, 3, 0, q + 16 * sub);
        }
        put_pairs(q, b->qs);
    }
}

void gr_quantize_Q3_K(const float *x, size_t n, void *blocks) {
    block_q3_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++, x += 256) {
        uint8_t q[256];
        float scale[16], most;
        for (int sub = 0; sub < 16; sub++) scale[sub] = fit_descent(x + 16 * sub, 16, 4, q + 16 * sub);
        most = extreme(scale, 16);
        const float inverse = most != 0 ? -32.0f / most : 0;
        memset(b->scales, 0, sizeof b->scales);
        gr_put_half(b->d, most != 0 ? 1 / inverse : 0);
        for (int sub = 0; sub < 16 && most != 0; sub++) {
            const int l = clip((int8_t)nearest(inverse * scale[sub]), -32, 31) + 32;
            b->scales[sub % 8] |= (uint8_t)((l & 15) << (sub < 8 ? 0 : 4));
            b->scales[8 + sub % 4] |= (uint8_t)((l >> 4) << 2 * (sub / 4));
        }
        memset(b->hmask, 0, sizeof b->hmask);
        for (int sub = 0; sub < 16; sub++)
            requantize(x + 16 * sub, 16, gr_half_at(b->d) * (float)gr_q3_scale(b->scales, sub), 0, -4, 3, 4,
                       q + 16 * sub);
        for (int k = 0; k < 256; k++) b->hmask[k % 32] |= (uint8_t)((q[k] >> 2) << k / 32);
        put_pairs(q, b->qs);
    }
}

/* Scales and minima of 6 bits, packed as gr_q4_scale_min reads them. */
static void put_scales(const float *scale, const float *low, uint8_t *d, uint8_t *dmin, uint8_t *packed) {
    float max_scale = 0, max_low = 0;
    for (int sub = 0; sub < 8; sub++) {
        if (scale[sub] > max_scale) max_scale = scale[sub];
        if (low[sub] > max_low) max_low = low[sub];
    }
    const float to_scale = max_scale > 0 ? 63.0f / max_scale : 0, to_low = max_low > 0 ? 63.0f / max_low : 0;
    for (int sub = 0; sub < 8; sub++) {
        uint8_t s = (uint8_t)nearest(to_scale * scale[sub]), m = (uint8_t)nearest(to_low * low[sub]);
        s = GR_MIN(s, (uint8_t)63);
        m = GR_MIN(m, (uint8_t)63);
        if (sub < 4) {
            packed[sub] = s;
            packed[sub + 4] = m;
        } else {
            packed[sub + 4] = (uint8_t)((s & 15) | (m & 15) << 4);
            packed[sub - 4] |= (uint8_t)(s >> 4 << 6);
            packed[sub] |= (uint8_t)(m >> 4 << 6);
        }
    }
    gr_put_half(d, max_scale / 63.0f);
    gr_put_half(dmin, max_low / 63.0f);
}

/* What Q4_K and Q5_K share: everything but the layout of the quants. */
static void encode_above(const search *s, const float *x, uint8_t *d, uint8_t *dmin, uint8_t *packed, uint8_t *q) {
    float scale[8], low[8], w[32];
    for (int sub = 0; sub < 8; sub++) {
        const float *part = x + 32 * sub;
        float squares = 0;
        for (int k = 0; k < 32; k++) squares += part[k] * part[k];
        const float spread = sqrtf(squares / 32);
        for (int k = 0; k < 32; k++) w[k] = spread + fabsf(part[k]);
        scale[sub] = fit_above(s, part, w, q + 32 * sub, &low[sub]);
    }
    put_scales(scale, low, d, dmin, packed);
    for (int sub = 0; sub < 8; sub++) {
        int ls, lm;
        gr_q4_scale_min(packed, sub, &ls, &lm);
        requantize(x + 32 * sub, 32, gr_half_at(d) * (float)ls, gr_half_at(dmin) * (float)lm, 0, s->top, 0,
                   q + 32 * sub);
    }
}

static void put_nibbles(const uint8_t *q, uint8_t *qs) {
    for (int run = 0; run < 4; run++, q += 64, qs += 32)
        for (int k = 0; k < 32; k++) qs[k] = (uint8_t)((q[k] & 15) | (q[k + 32] & 15) << 4);
}

void gr_quantize_Q4_K(const float *x, size_t n, void *blocks) {
    static const search s = {32, 15, -1.0f, 0.1f, 20, false};
    block_q4_k *b = blocks;
    uint8_t q[256];
    for (size_t i = 0; i < n; i += 256, b++, x += 256) {
        encode_above(&s, x, b->d, b->dmin, b->scales, q);
        put_nibbles(q, b->qs);
    }
}

void gr_quantize_Q5_K(const float *x, size_t n, void *blocks) {
    static const search s = {32, 31, -0.5f, 0.1f, 15, false};
    block_q5_k *b = blocks;
    uint8_t q[256];
    for (size_t i = 0; i < n; i += 256, b++, x += 256) {
        encode_above(&s, x, b->d, b->dmin, b->scales, q);
        put_nibbles(q, b->qs);
        memset(b->qh, 0, sizeof b->qh);
        for (int k = 0; k < 256; k++) b->qh[k % 32] |= (uint8_t)((q[k] >> 4) << k / 32);
    }
}

void gr_quantize_Q6_K(const float *x, size_t n, void *blocks) {
    block_q6_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++, x += 256) {
        uint8_t q[256];
        float scale[16];
        for (int sub = 0; sub < 16; sub++) scale[sub] = fit_signed(x + 16 * sub, 16, 32, q + 16 * sub);
        const float most = extreme(scale, 16);
        memset(b, 0, sizeof *b);
        if (fabsf(most) < tiny) continue;
        const float inverse = -128.0f / most;
        gr_put_half(b->d, 1 / inverse);
        for (int sub = 0; sub < 16; sub++) {
            b->scales[sub] = (int8_t)GR_MIN(nearest(inverse * scale[sub]), 127);
            requantize(x + 16 * sub, 16, gr_half_at(b->d) * (float)b->scales[sub], 0, -32, 31, 32, q + 16 * sub);
        }
        for (int half = 0; half < 2; half++)
            for (int k = 0; k < 32; k++) {
                const uint8_t *at = q + 128 * half + k;
                b->ql[64 * half + k] = (uint8_t)((at[0] & 15) | (at[64] & 15) << 4);
                b->ql[64 * half + 32 + k] = (uint8_t)((at[32] & 15) | (at[96] & 15) << 4);
                b->qh[32 * half + k] = (uint8_t)(at[0] >> 4 | at[32] >> 4 << 2 | at[64] >> 4 << 4 | at[96] >> 4 << 6);
            }
    }
}
