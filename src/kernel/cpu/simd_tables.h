/* Tables of values and their look-up with AVX-512: what decode_avx512bf16.c (rows) and decode_tiles.c share. */
#ifndef GR_KERNEL_CPU_SIMD_TABLES_H
#define GR_KERNEL_CPU_SIMD_TABLES_H

#include "kernel/cpu/cpu.h"
#include "kernel/cpu/simd_avx512.h"

static inline float half_at(const uint8_t *p) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(p[0] | p[1] << 8)));
}
static inline __m128i load16(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
static inline __m256i load32(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }

/* scale * (first + i) + min for i = 0..15, product and sum each rounded. */
static inline vf sixteen_floats(float scale, float first, float min) {
    const vf ramp = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return v_add(v_mul(v_set1(scale), v_add(ramp, v_set1(first))), v_set1(min));
}
/* The same for a half-precision scale and integers of up to 13 bits, whose product is exact. */
static inline vf sixteen_exact(float scale, float first, float min) {
    const vf ramp = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return v_fma(v_set1(scale), v_add(ramp, v_set1(first)), v_set1(min));
}
static inline __m512i table_of_two(vf first, vf second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }
/* The values of 4 bits, twice, so that bit 4 of an index does not matter. */
static inline __m512i table4(float scale, float first, float min) {
    const vf t = sixteen_floats(scale, first, min);
    return table_of_two(t, t);
}
static inline __m512i table5(float scale, float first, float min) {
    return table_of_two(sixteen_floats(scale, first, min), sixteen_floats(scale, first + 16, min));
}
/* Words of bytes: `place` says which byte of the sixteen at p goes where, `by` how far it is shifted then. */
typedef struct spread {
    _Alignas(64) uint16_t place[32], by[32];
} spread;
static inline __m512i spread_bytes(const uint8_t *p, const spread *s) {
    const __m512i bytes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(load16(p)), _mm512_load_si512(s->place));
    return _mm512_srlv_epi16(bytes, _mm512_load_si512(s->by));
}
#define FROM(i) 0x8000 | (i)
#define EIGHT(i) FROM(i), FROM(i + 1), FROM(i + 2), FROM(i + 3), FROM(i + 4), FROM(i + 5), FROM(i + 6), FROM(i + 7)
#define TWICE(i) FROM(i), FROM(i), FROM(i + 1), FROM(i + 1), FROM(i + 2), FROM(i + 2), FROM(i + 3), FROM(i + 3)
static const spread low_then_high = {{EIGHT(0), EIGHT(8), EIGHT(0), EIGHT(8)}, {[16] = 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4}};
static const spread high_low = {{TWICE(0), TWICE(4), TWICE(8), TWICE(12)},
                                {4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0}};
/* Low nibbles of 16 bytes, then their high nibbles; bits above a quant's four in the first half only. */
static inline __m512i nibbles(const uint8_t *p) { return spread_bytes(p, &low_then_high); }
/* The high nibble of each byte before its low one, bits above four in the latter only. */
static inline __m512i nibble_pairs(const uint8_t *p) { return spread_bytes(p, &high_low); }

static inline void look_up(__m512i table, __m512i index, uint16_t *out) {
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(index, table));
}
/* Bit i of `bits` as bit 4 of index i. */
static inline __m512i with_fifth(__m512i index, uint32_t bits) {
    /* (index and 15) or bit */
    return _mm512_ternarylogic_epi64(index, _mm512_set1_epi16(15), _mm512_maskz_set1_epi16((__mmask32)bits, 16), 0xEA);
}
static inline uint32_t word_at(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

/* Two blocks of 16 bytes of nibbles: a table holds the values of both, the second's from 16 on. */
static inline void two_blocks(__m512i table, const uint8_t *q0, const uint8_t *q1, uint16_t *out) {
    const __m512i second = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
    __m512i b = _mm512_cvtepu8_epi16(_mm256_inserti128_si256(_mm256_castsi128_si256(load16(q0)), load16(q1), 1));
    /* (b and 15) or second */
    __m512i low = _mm512_permutexvar_epi16(_mm512_ternarylogic_epi64(b, _mm512_set1_epi16(15), second, 0xEA), table);
    __m512i high = _mm512_permutexvar_epi16(_mm512_or_si512(_mm512_srli_epi16(b, 4), second), table);
    _mm256_storeu_si256((__m256i *)(void *)out, _mm512_castsi512_si256(low));
    _mm256_storeu_si256((__m256i *)(void *)(out + 16), _mm512_castsi512_si256(high));
    _mm256_storeu_si256((__m256i *)(void *)(out + 32), _mm512_extracti64x4_epi64(low, 1));
    _mm256_storeu_si256((__m256i *)(void *)(out + 48), _mm512_extracti64x4_epi64(high, 1));
}

/* Scales d, and minima m where wanted, of up to 16 blocks `bytes` long that begin with them. Converted together and read back
 * one by one: conversion and broadcast would otherwise take the port that look-ups need. */
typedef struct block_heads {
    float d[16], m[16];
} block_heads;
static inline void read_scales_apart(const uint8_t *b, int64_t bytes, size_t n, bool minima, float *d, float *m) {
    const __m512i ramp = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i at = _mm512_mullo_epi32(ramp, _mm512_set1_epi32((int)bytes));
    const __mmask16 mask = n >= 16 ? (__mmask16)~0 : v_mask((int64_t)n);
    const __m512i both = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask, at, b, 1);
    v_store(d, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both)));
    if (minima) v_store(m, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16))));
}
static inline void read_scales(const uint8_t *b, int bytes, size_t n, bool minima, block_heads *s) {
    gr_fetch_ahead(b, 16 * bytes);
    read_scales_apart(b, bytes, n, minima, s->d, s->m);
}

/* Nearest even; the hardware's conversion takes subnormals for zero. */
static inline void thirty_two_floats(vf low, vf high, uint16_t *out) {
    enum { SUBNORMAL = 0x20 };
    if (_mm512_fpclass_ps_mask(low, SUBNORMAL) | _mm512_fpclass_ps_mask(high, SUBNORMAL)) {
        v_store_bf16_exact_n(out, low, VW);
        v_store_bf16_exact_n(out + VW, high, VW);
    } else {
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

static inline void bytes_under(float scale, const uint8_t *q, uint16_t *out) {
    const vf d = v_set1(scale);
    vf low = v_mul(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(q))));
    vf high = v_mul(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(q + 16))));
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/* --- Steps of 32 elements of the K-quants' blocks of 256, whose scales are known ------------------------------------- */

/* scale * code - min for 32 codes, scale and minimum of sixteen each. */
static inline void codes_under(__m256i codes, float scale0, float scale1, float min0, float min1, uint16_t *out) {
    vf low = v_mul(v_set1(scale0), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(codes))));
    vf high = v_mul(v_set1(scale1), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(codes, 1))));
    low = v_sub(low, v_set1(min0));
    high = v_sub(high, v_set1(min1));
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}
static inline __m256i bits_of(__m256i bytes, int shift, int mask) {
    return _mm256_and_si256(_mm256_srl_epi16(bytes, _mm_cvtsi32_si128(shift)), _mm256_set1_epi8((char)mask));
}

static inline void q2_step(const uint8_t *b, int step, float d0, float d1, float m0, float m1, uint16_t *out) {
    codes_under(bits_of(load32(b + 16 + 32 * (step / 4)), 2 * (step % 4), 3), d0, d1, m0, m1, out);
}

static inline void q3_step(const uint8_t *b, int step, float d0, float d1, uint16_t *out) {
    const __mmask32 third = _mm256_test_epi8_mask(load32(b), _mm256_set1_epi8((char)(1 << step)));
    const __m256i low = bits_of(load32(b + 32 + 32 * (step / 4)), 2 * (step % 4), 3);
    codes_under(_mm256_or_si256(low, _mm256_maskz_set1_epi8(~third, -4)), d0, d1, 0, 0, out);
}

static inline __m512i q4_index(const uint8_t *b, int step) {
    return _mm512_srl_epi16(_mm512_cvtepu8_epi16(load32(b + 32 * (step / 2))), _mm_cvtsi32_si128(4 * (step % 2)));
}

static inline void q4_step(const uint8_t *b, int step, float d, float m, uint16_t *out) {
    look_up(table4(d, 0, -m), q4_index(b + 16, step), out);
}

static inline void q5_step(const uint8_t *b, int step, float d, float m, uint16_t *out) {
    const uint32_t fifth = _mm256_test_epi8_mask(load32(b + 16), _mm256_set1_epi8((char)(1 << step)));
    look_up(table5(d, 0, -m), with_fifth(q4_index(b + 48, step), fifth), out);
}

static inline void q6_step(const uint8_t *b, int step, float d0, float d1, uint16_t *out) {
    const int quarter = step % 4;
    const __m256i low = bits_of(load32(b + 64 * (step / 4) + 32 * (quarter % 2)), 4 * (quarter / 2), 15);
    const __m256i high = bits_of(load32(b + 128 + 32 * (step / 4)), 2 * quarter, 3);
    codes_under(_mm256_sub_epi8(_mm256_or_si256(low, _mm256_slli_epi16(high, 4)), _mm256_set1_epi8(32)), d0, d1, 0, 0, out);
}

#endif
