/* Vectors of 8 floats. Included by *_avx2.c only; the names and promises are those of simd_avx512.h. */
#ifndef GR_KERNEL_CPU_SIMD_H
#define GR_KERNEL_CPU_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

enum { VW = 8 };
typedef __m256 vf;
typedef __m256i vi;
typedef __m256d vd; /* half as many doubles */

static inline __m256i v_mask(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vf v_zero(void) { return _mm256_setzero_ps(); }
static inline vf v_set1(float x) { return _mm256_set1_ps(x); }
static inline vf v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline vf v_load_n(const float *p, int64_t n) { return _mm256_maskload_ps(p, v_mask(n)); }
static inline void v_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
static inline void v_store_n(float *p, vf x, int64_t n) { _mm256_maskstore_ps(p, v_mask(n), x); }
static inline vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf v_sqrt(vf a) { return _mm256_sqrt_ps(a); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf v_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
static inline uint32_t v_bits(vf mask) { return (uint32_t)_mm256_movemask_ps(mask); } /* of elements that are all ones */
static inline vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf v_neg(vf a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
static inline vf v_select_less(vf a, vf limit, vf b, vf otherwise) {
    return _mm256_blendv_ps(otherwise, b, _mm256_cmp_ps(a, limit, _CMP_LT_OQ));
}
static inline vf v_first(vf a, vf b, int64_t n) { return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(v_mask(n))); }

static inline vf v_from_bf16(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
static inline __m128i v_load_half_n(const uint16_t *p, int64_t n) {
    uint16_t lane[8] = {0};
    memcpy(lane, p, (size_t)n * 2);
    return _mm_loadu_si128((const __m128i *)(const void *)lane);
}
static inline void v_store_half_n(uint16_t *p, __m128i x, int64_t n) {
    uint16_t lane[8];
    _mm_storeu_si128((__m128i *)(void *)lane, x);
    memcpy(p, lane, (size_t)n * 2);
}
static inline vf v_load_bf16(const uint16_t *p) { return v_from_bf16(_mm_loadu_si128((const __m128i *)(const void *)p)); }
static inline vf v_load_bf16_n(const uint16_t *p, int64_t n) { return v_from_bf16(v_load_half_n(p, n)); }

static inline __m128i v_to_bf16_exact(vf x) {
    __m256i u = _mm256_castps_si256(x), high = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd), 16);
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    rounded = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}
static inline __m128i v_to_bf16(vf x) { return v_to_bf16_exact(x); }
static inline void v_store_bf16(uint16_t *p, vf x) { _mm_storeu_si128((__m128i *)(void *)p, v_to_bf16(x)); }
static inline void v_store_bf16_n(uint16_t *p, vf x, int64_t n) { v_store_half_n(p, v_to_bf16(x), n); }

static inline void v_store_bf16_exact_n(uint16_t *p, vf x, int64_t n) { v_store_half_n(p, v_to_bf16_exact(x), n); }

static inline vf v_load_f16_n(const uint16_t *p, int64_t n) { return _mm256_cvtph_ps(v_load_half_n(p, n)); }
static inline void v_store_f16_n(uint16_t *p, vf x, int64_t n) {
    v_store_half_n(p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), n);
}

static inline vi vi_set1(uint32_t x) { return _mm256_set1_epi32((int)x); }
static inline vi vi_load(const uint32_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
static inline vi vi_xor(vi a, vi b) { return _mm256_xor_si256(a, b); }
static inline vi vi_mul_wide(vi a, uint32_t k, vi *low) {
    vi f = vi_set1(k), even = _mm256_mul_epu32(a, f), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), f);
    *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
}
static inline void vi_interleave4(vi r[4]) {
    vi a = _mm256_unpacklo_epi32(r[0], r[1]), b = _mm256_unpackhi_epi32(r[0], r[1]);
    vi c = _mm256_unpacklo_epi32(r[2], r[3]), d = _mm256_unpackhi_epi32(r[2], r[3]);
    vi q0 = _mm256_unpacklo_epi64(a, c), q1 = _mm256_unpackhi_epi64(a, c); /* blocks 0 4; 1 5 */
    vi q2 = _mm256_unpacklo_epi64(b, d), q3 = _mm256_unpackhi_epi64(b, d);
    r[0] = _mm256_permute2x128_si256(q0, q1, 0x20);
    r[1] = _mm256_permute2x128_si256(q2, q3, 0x20);
    r[2] = _mm256_permute2x128_si256(q0, q1, 0x31);
    r[3] = _mm256_permute2x128_si256(q2, q3, 0x31);
}
static inline vf vi_not_below(vi a, uint32_t limit) {
    const vi sign = _mm256_set1_epi32(INT32_MIN);
    vi below = _mm256_cmpgt_epi32(vi_xor(vi_set1(limit), sign), vi_xor(a, sign));
    return _mm256_castsi256_ps(vi_xor(below, _mm256_set1_epi32(-1)));
}
static inline vf v_and(vf a, vf b) { return _mm256_and_ps(a, b); }

static inline vd v_low_double(vf x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
static inline vd v_high_double(vf x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }
static inline vd vd_zero(void) { return _mm256_setzero_pd(); }
static inline vd vd_add(vd a, vd b) { return _mm256_add_pd(a, b); }
static inline vd vd_fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
static inline double vd_sum(vd x) {
    double lane[4];
    _mm256_storeu_pd(lane, x);
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

/* Neighbours at distance 2, then 1, inside a half; then the halves. */
static inline __m128 v_sum4(vf a, vf b, vf c, vf d) {
    vf ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    vf cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    vf s = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}
static inline float v_sum(vf a) { return _mm_cvtss_f32(v_sum4(a, v_zero(), v_zero(), v_zero())); }
static inline vf v_where(uint64_t bits, vf a, vf b) {
    const __m256i place = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)(bits & 255)), place), place);
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(set));
}
static inline float v_first_lane(vf a) { return _mm256_cvtss_f32(a); }
static inline float v_max_lane(vf a) {
    float lane[8], max;
    _mm256_storeu_ps(lane, a);
    max = lane[0];
    for (int i = 1; i < 8; i++) max = lane[i] > max ? lane[i] : max;
    return max;
}

/* As simd_avx512.h; 2^n in two factors, so that n down to -150 gives subnormals and zero. */
static inline vf v_exp(vf x) {
    x = v_max(v_set1(-104.0f), v_min(v_set1(89.0f), x));
    vf n = _mm256_round_ps(_mm256_mul_ps(x, v_set1(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vf r = v_fnma(n, v_set1(0.693359375f), x);
    r = v_fnma(n, v_set1(-2.12194440e-4f), r);
    vf p = v_set1(1.9875691500e-4f);
    p = v_fma(p, r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_fma(_mm256_mul_ps(p, r), r, v_add(r, v_set1(1.0f)));
    __m256i k = _mm256_cvtps_epi32(n), k1 = _mm256_srai_epi32(k, 1), k2 = _mm256_sub_epi32(k, k1);
    const __m256i bias = _mm256_set1_epi32(127);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(k1, bias), 23)));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(k2, bias), 23)));
}

/* Transposes 8 vectors in place. */
static inline void v_transpose(vf x[8]) {
    vf t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        x[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        x[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
        x[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        x[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x31);
    }
    memcpy(x, t, sizeof t);
}

#endif
