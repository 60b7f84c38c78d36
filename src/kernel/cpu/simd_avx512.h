/* Vectors of 16 floats. Included by *_avx512.c and *_avx512bf16.c only; simd_avx2.h has the same names.
 *
 * v_..._n take the first n lanes, 0 <= n <= VW; lanes beyond are zero when loaded and untouched in memory. Every function
 * treats its lanes alike, so that a value's bits do not depend on where it stands. */
#ifndef GR_KERNEL_CPU_SIMD_H
#define GR_KERNEL_CPU_SIMD_H

#include <immintrin.h>
#include <stdint.h>

enum { VW = 16 };
typedef __m512 vf;
typedef __m512i vi;
typedef __m512d vd; /* half as many doubles */

static inline __mmask16 v_mask(int64_t n) { return (__mmask16)((1u << n) - 1u); }

static inline vf v_zero(void) { return _mm512_setzero_ps(); }
static inline vf v_set1(float x) { return _mm512_set1_ps(x); }
static inline vf v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline vf v_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(v_mask(n), p); }
static inline void v_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
static inline void v_store_n(float *p, vf x, int64_t n) { _mm512_mask_storeu_ps(p, v_mask(n), x); }
static inline vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a b + c */
static inline vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
static inline uint32_t v_bits(vf mask) { return _mm512_movepi32_mask(_mm512_castps_si512(mask)); } /* of elements that are all ones */
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); } /* b when either is NaN */
static inline vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf v_neg(vf a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
/* Lanes of b where a < limit (a NaN: not). */
static inline vf v_select_less(vf a, vf limit, vf b, vf otherwise) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, limit, _CMP_LT_OQ), otherwise, b);
}
/* The first n lanes of a, the others of b. */
static inline vf v_first(vf a, vf b, int64_t n) { return _mm512_mask_blend_ps(v_mask(n), b, a); }

static inline vf v_from_bf16(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
static inline vf v_load_bf16(const uint16_t *p) { return v_from_bf16(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
static inline vf v_load_bf16_n(const uint16_t *p, int64_t n) { return v_from_bf16(_mm256_maskz_loadu_epi16(v_mask(n), p)); }

/* Nearest even as gr_f32_to_bf16, to the bit. */
static inline __m256i v_to_bf16_exact(vf x) {
    __m512i u = _mm512_castps_si512(x), high = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd), 16);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(rounded);
}
/* Nearest even; the hardware's conversion takes subnormals for zero. */
static inline __m256i v_to_bf16(vf x) {
#ifdef __AVX512BF16__
    return (__m256i)_mm512_cvtneps_pbh(x);
#else
    return v_to_bf16_exact(x);
#endif
}
static inline void v_store_bf16(uint16_t *p, vf x) { _mm256_storeu_si256((__m256i *)(void *)p, v_to_bf16(x)); }
static inline void v_store_bf16_n(uint16_t *p, vf x, int64_t n) { _mm256_mask_storeu_epi16(p, v_mask(n), v_to_bf16(x)); }

static inline void v_store_bf16_exact_n(uint16_t *p, vf x, int64_t n) {
    _mm256_mask_storeu_epi16(p, v_mask(n), v_to_bf16_exact(x));
}

static inline vf v_load_f16_n(const uint16_t *p, int64_t n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v_mask(n), p)); }
static inline void v_store_f16_n(uint16_t *p, vf x, int64_t n) {
    _mm256_mask_storeu_epi16(p, v_mask(n), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* Unsigned 32-bit integers, for random numbers. */
static inline vi vi_set1(uint32_t x) { return _mm512_set1_epi32((int)x); }
static inline vi vi_load(const uint32_t *p) { return _mm512_loadu_si512(p); }
static inline vi vi_xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
/* High halves of the products a * k; the low halves in *low. */
static inline vi vi_mul_wide(vi a, uint32_t k, vi *low) {
    vi f = vi_set1(k), even = _mm512_mul_epu32(a, f), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), f);
    *low = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
    return _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
}
/* r[k] lane b becomes element 4 b + k of the four vectors one after the other. */
static inline void vi_interleave4(vi r[4]) {
    vi a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpackhi_epi32(r[0], r[1]);
    vi c = _mm512_unpacklo_epi32(r[2], r[3]), d = _mm512_unpackhi_epi32(r[2], r[3]);
    vi q0 = _mm512_unpacklo_epi64(a, c), q1 = _mm512_unpackhi_epi64(a, c); /* blocks 0 4 8 12; 1 5 9 13 */
    vi q2 = _mm512_unpacklo_epi64(b, d), q3 = _mm512_unpackhi_epi64(b, d);
    vi lo01 = _mm512_shuffle_i32x4(q0, q1, 0x44), lo23 = _mm512_shuffle_i32x4(q2, q3, 0x44);
    vi hi01 = _mm512_shuffle_i32x4(q0, q1, 0xEE), hi23 = _mm512_shuffle_i32x4(q2, q3, 0xEE);
    r[0] = _mm512_shuffle_i32x4(lo01, lo23, 0x88);
    r[1] = _mm512_shuffle_i32x4(lo01, lo23, 0xDD);
    r[2] = _mm512_shuffle_i32x4(hi01, hi23, 0x88);
    r[3] = _mm512_shuffle_i32x4(hi01, hi23, 0xDD);
}
/* All bits where a >= limit (unsigned), else none. */
static inline vf vi_not_below(vi a, uint32_t limit) {
    return _mm512_castsi512_ps(_mm512_movm_epi32(_mm512_cmpge_epu32_mask(a, vi_set1(limit))));
}
static inline vf v_and(vf a, vf b) { return _mm512_and_ps(a, b); }

/* Doubles, for sums of squares and logarithms. */
static inline vd v_low_double(vf x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
static inline vd v_high_double(vf x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }
static inline vd vd_zero(void) { return _mm512_setzero_pd(); }
static inline vd vd_add(vd a, vd b) { return _mm512_add_pd(a, b); }
static inline vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
static inline double vd_sum(vd x) {
    double lane[8];
    _mm512_storeu_pd(lane, x);
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/* Sums of the lanes of four vectors, as one vector of four. The tree is the same for each: neighbours at distance 2, then
 * 1, inside a quarter; then quarters 0 + 2 and 1 + 3; then these. */
static inline __m128 v_sum4(vf a, vf b, vf c, vf d) {
    vf ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    vf cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    vf s = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
static inline float v_sum(vf a) { return _mm_cvtss_f32(v_sum4(a, v_zero(), v_zero(), v_zero())); }
/* Lanes of a where the low bits are set, of b elsewhere. */
static inline vf v_where(uint64_t bits, vf a, vf b) { return _mm512_mask_blend_ps((__mmask16)bits, b, a); }
static inline float v_first_lane(vf a) { return _mm512_cvtss_f32(a); }
static inline float v_max_lane(vf a) { return _mm512_reduce_max_ps(a); }

/* e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln 2 / 2: polynomial of degree 6 (coefficients of Cephes' expf). At most 1.0
 * ulp from the true value over [-87, 88]; 0 and infinity outside the range, NaN stays. */
static inline vf v_exp(vf x) {
    x = v_max(v_set1(-104.0f), v_min(v_set1(89.0f), x));
    vf n = _mm512_roundscale_ps(_mm512_mul_ps(x, v_set1(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vf r = v_fnma(n, v_set1(0.693359375f), x);
    r = v_fnma(n, v_set1(-2.12194440e-4f), r);
    vf p = v_set1(1.9875691500e-4f);
    p = v_fma(p, r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_fma(_mm512_mul_ps(p, r), r, v_add(r, v_set1(1.0f)));
    return _mm512_scalef_ps(p, n);
}

/* Transposes 16 vectors in place (dwords). */
static inline void v_transpose(vf x[16]) {
    vf t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        x[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
        x[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        x[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++)
        for (int h = 0; h < 16; h += 8) {
            t[h + i] = _mm512_shuffle_f32x4(x[h + i], x[h + i + 4], 0x88);
            t[h + i + 4] = _mm512_shuffle_f32x4(x[h + i], x[h + i + 4], 0xDD);
        }
    for (int i = 0; i < 4; i++) {
        x[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        x[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xDD);
        x[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        x[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xDD);
    }
}

#endif
