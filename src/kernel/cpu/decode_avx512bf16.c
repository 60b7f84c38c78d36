/* Decoders of block formats to BF16 with AVX-512 and its BF16 conversion: the bits of room quant's.
 *
 * Quants of 4 and 5 bits have few values a block, so these are computed and rounded once, as a table in one register, and
 * the quants look their values up 32 at a time. The hardware's conversion takes subnormal floats for zero; none occurs:
 * every value is a multiple of 2^-24, the smallest half-precision number, or it is not finite. */
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
static inline __m256i sixteen_values(float scale, float first, float min) { return v_to_bf16(sixteen_floats(scale, first, min)); }
static inline __m512i pair_of(__m256i low, __m256i high) { return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); }
/* The values of 4 bits, twice, so that bit 4 of an index does not matter. */
static inline __m512i table4(float scale, float first, float min) {
    __m256i t = sixteen_values(scale, first, min);
    return pair_of(t, t);
}
static inline __m512i table5(float scale, float first, float min) {
    return pair_of(sixteen_values(scale, first, min), sixteen_values(scale, first + 16, min));
}
/* Low nibbles of 16 bytes, then their high nibbles, bits above a quant's four in the first half only. */
static inline __m512i nibbles(const uint8_t *p) {
    __m256i b = _mm256_cvtepu8_epi16(load16(p));
    return pair_of(b, _mm256_srli_epi16(b, 4));
}
static inline void look_up(__m512i table, __m512i index, uint16_t *out) {
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(index, table));
}
/* Bit i of `bits` as bit 4 of index i. */
static inline __m512i with_fifth(__m512i index, uint32_t bits) {
    const __m512i four = _mm512_and_si512(index, _mm512_set1_epi16(15));
    return _mm512_or_si512(four, _mm512_maskz_set1_epi16((__mmask32)bits, 16));
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
typedef struct scales {
    float d[16], m[16];
} scales;
static inline void read_scales_apart(const uint8_t *b, int64_t bytes, size_t n, bool minima, scales *s) {
    const __m512i ramp = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i at = _mm512_mullo_epi32(ramp, _mm512_set1_epi32((int)bytes));
    const __mmask16 mask = n >= 16 ? (__mmask16)~0 : v_mask((int64_t)n);
    const __m512i both = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask, at, b, 1);
    v_store(s->d, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both)));
    if (minima) v_store(s->m, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16))));
}
static inline void read_scales(const uint8_t *b, int bytes, size_t n, bool minima, scales *s) {
    gr_fetch_ahead(b, 16 * bytes);
    read_scales_apart(b, bytes, n, minima, s);
}

static inline __m512i table_of_two(vf first, vf second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }

static void Q4_0(const void *blocks, size_t n, uint16_t *out) {
    const uint8_t *b = blocks;
    scales s;
    for (size_t left = n / 32; left; left -= GR_MIN(left, (size_t)16)) {
        const size_t now = GR_MIN(left, (size_t)16);
        read_scales(b, 18, now, false, &s);
        for (size_t i = 0; i + 1 < now; i += 2, b += 36, out += 64)
            two_blocks(table_of_two(sixteen_floats(s.d[i], -8, -0.0f), sixteen_floats(s.d[i + 1], -8, -0.0f)), b + 2, b + 20, out);
        if (now % 2) look_up(table4(s.d[now - 1], -8, -0.0f), nibbles(b + 2), out);
    }
}

static void Q4_1(const void *blocks, size_t n, uint16_t *out) {
    const uint8_t *b = blocks;
    scales s;
    for (size_t left = n / 32; left; left -= GR_MIN(left, (size_t)16)) {
        const size_t now = GR_MIN(left, (size_t)16);
        read_scales(b, 20, now, true, &s);
        for (size_t i = 0; i + 1 < now; i += 2, b += 40, out += 64)
            two_blocks(table_of_two(sixteen_floats(s.d[i], 0, s.m[i]), sixteen_floats(s.d[i + 1], 0, s.m[i + 1])), b + 4, b + 24, out);
        if (now % 2) look_up(table4(s.d[now - 1], 0, s.m[now - 1]), nibbles(b + 4), out);
    }
}

/* The same block of sixteen rows, two at a time. */
static void Q4_0_tile(const uint8_t *b, int64_t row, int step, uint16_t *out) {
    (void)step;
    scales s;
    read_scales_apart(b, row, 16, false, &s);
    for (size_t i = 0; i < 16; i += 2, b += 2 * row, out += 64)
        two_blocks(table_of_two(sixteen_floats(s.d[i], -8, -0.0f), sixteen_floats(s.d[i + 1], -8, -0.0f)), b + 2,
                   b + row + 2, out);
}

static void Q4_1_tile(const uint8_t *b, int64_t row, int step, uint16_t *out) {
    (void)step;
    scales s;
    read_scales_apart(b, row, 16, true, &s);
    for (size_t i = 0; i < 16; i += 2, b += 2 * row, out += 64)
        two_blocks(table_of_two(sixteen_floats(s.d[i], 0, s.m[i]), sixteen_floats(s.d[i + 1], 0, s.m[i + 1])), b + 4,
                   b + row + 4, out);
}

static void Q5_0(const void *blocks, size_t n, uint16_t *out) {
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += 32, b += 22, out += 32) {
        gr_fetch_ahead(b, 22);
        look_up(table5(half_at(b), -16, -0.0f), with_fifth(nibbles(b + 6), word_at(b + 2)), out);
    }
}

static void Q5_1(const void *blocks, size_t n, uint16_t *out) {
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += 32, b += 24, out += 32) {
        gr_fetch_ahead(b, 24);
        look_up(table5(half_at(b), 0, half_at(b + 2)), with_fifth(nibbles(b + 8), word_at(b + 4)), out);
    }
}

static inline void bytes_under(float scale, const uint8_t *q, uint16_t *out) {
    const vf d = v_set1(scale);
    vf low = v_mul(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(q))));
    vf high = v_mul(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(q + 16))));
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

static void Q8_0(const void *blocks, size_t n, uint16_t *out) {
    const uint8_t *b = blocks;
    scales s;
    for (size_t left = n / 32; left; left -= GR_MIN(left, (size_t)16)) {
        const size_t now = GR_MIN(left, (size_t)16);
        read_scales(b, 34, now, false, &s);
        for (size_t i = 0; i < now; i++, b += 34, out += 32) bytes_under(s.d[i], b + 2, out);
    }
}

static void Q8_0_tile(const uint8_t *b, int64_t row, int step, uint16_t *out) {
    (void)step;
    scales s;
    read_scales_apart(b, row, 16, false, &s);
    for (size_t i = 0; i < 16; i++, b += row, out += 32) bytes_under(s.d[i], b + 2, out);
}

/* Scale and minimum `sub` of 8 (block256.c). */
static inline void scale_min(const uint8_t s[12], int sub, float *scale, float *min) {
    if (sub < 4) {
        *scale = (float)(s[sub] & 63);
        *min = (float)(s[sub + 4] & 63);
    } else {
        *scale = (float)((s[sub + 4] & 15) | (s[sub - 4] >> 6) << 4);
        *min = (float)(s[sub + 4] >> 4 | (s[sub] >> 6) << 4);
    }
}

static void Q4_K(const void *blocks, size_t n, uint16_t *out) {
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += 256, b += 144) {
        gr_fetch_ahead(b, 144);
        const float d = half_at(b), dmin = half_at(b + 2);
        for (int sub = 0; sub < 8; sub++, out += 32) {
            float scale, min;
            scale_min(b + 4, sub, &scale, &min);
            __m512i q = _mm512_cvtepu8_epi16(load32(b + 16 + 32 * (sub / 2)));
            look_up(table4(d * scale, 0, -(dmin * min)), sub % 2 ? _mm512_srli_epi16(q, 4) : q, out);
        }
    }
}

static void Q5_K(const void *blocks, size_t n, uint16_t *out) {
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += 256, b += 176) {
        gr_fetch_ahead(b, 176);
        const float d = half_at(b), dmin = half_at(b + 2);
        const __m256i high = load32(b + 16);
        for (int sub = 0; sub < 8; sub++, out += 32) {
            float scale, min;
            scale_min(b + 4, sub, &scale, &min);
            __m512i q = _mm512_cvtepu8_epi16(load32(b + 48 + 32 * (sub / 2)));
            uint32_t fifth = _mm256_test_epi8_mask(high, _mm256_set1_epi8((char)(1 << sub)));
            look_up(table5(d * scale, 0, -(dmin * min)), with_fifth(sub % 2 ? _mm512_srli_epi16(q, 4) : q, fifth), out);
        }
    }
}

static void Q6_K(const void *blocks, size_t n, uint16_t *out) {
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += 256, b += 210) {
        gr_fetch_ahead(b, 210);
        const float d = half_at(b + 208);
        for (int sub = 0; sub < 16; sub++, out += 16) {
            const int run = sub / 2, quarter = run % 4, start = 16 * (sub % 2);
            const vf scale = v_set1(d * (float)(int8_t)b[192 + sub]);
            __m512i low = _mm512_cvtepu8_epi32(load16(b + 64 * (run / 4) + 32 * (quarter % 2) + start));
            __m512i high = _mm512_cvtepu8_epi32(load16(b + 128 + 32 * (run / 4) + start));
            low = _mm512_and_si512(_mm512_srli_epi32(low, (unsigned)(4 * (quarter / 2))), _mm512_set1_epi32(15));
            high = _mm512_and_si512(_mm512_srli_epi32(high, (unsigned)(2 * quarter)), _mm512_set1_epi32(3));
            __m512i q = _mm512_sub_epi32(_mm512_or_si512(low, _mm512_slli_epi32(high, 4)), _mm512_set1_epi32(32));
            v_store_bf16(out, v_mul(scale, _mm512_cvtepi32_ps(q)));
        }
    }
}

static void F16(const void *halves, size_t n, uint16_t *out) {
    const uint16_t *h = halves;
    for (size_t i = 0; i < n; i += 16) {
        int64_t left = n - i < 16 ? (int64_t)(n - i) : 16;
        v_store_bf16_n(out + i, v_load_f16_n(h + i, left), left);
    }
}

/* The hardware's conversion takes subnormals for zero. A scale that may give one goes the exact way. */
static inline bool is_tame(float scale) { return !(gr_float_from_bits(gr_float_bits(scale) & 0x7FFFFFFF) < 0x1p-110f); }

static void nibbles_of(gr_dtype dtype, const uint8_t *codes, size_t n, float scale, uint16_t *out) {
    const __m256i t = v_to_bf16(v_mul(v_load(gr_scaled_values(dtype)), v_set1(scale)));
    const __m512i table = pair_of(t, t);
    size_t i = 0;
    for (; i + 32 <= n && is_tame(scale); i += 32) {
        __m512i q = _mm512_cvtepu8_epi32(load16(codes + i / 2)); /* in each word: the high nibble below the low one */
        look_up(table, _mm512_or_si512(_mm512_srli_epi32(q, 4), _mm512_slli_epi32(q, 16)), out + i);
    }
    if (i < n) gr_scaled_get(dtype)->to_bf16(codes + i / 2, n - i, scale, out + i);
}

static void NF4(const void *codes, size_t n, float scale, uint16_t *out) { nibbles_of(GR_NF4, codes, n, scale, out); }
static void FP4(const void *codes, size_t n, float scale, uint16_t *out) { nibbles_of(GR_FP4, codes, n, scale, out); }

static void INT8(const void *codes, size_t n, float scale, uint16_t *out) {
    const uint8_t *q = codes;
    const vf s = v_set1(scale), step = v_set1(GR_INT8_STEP);
    size_t i = 0;
    for (; i + 16 <= n && is_tame(scale); i += 16)
        v_store_bf16(out + i, v_mul(v_mul(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(q + i))), s), step));
    if (i < n) gr_scaled_get(GR_INT8)->to_bf16(q + i, n - i, scale, out + i);
}

void gr_cpu_fill_avx512bf16_decode(gr_cpu_kernels *k) {
    k->to_bf16[GR_F16] = F16;
    k->to_bf16[GR_Q4_0] = Q4_0;
    k->to_bf16[GR_Q4_1] = Q4_1;
    k->tile[GR_Q4_0] = Q4_0_tile;
    k->tile[GR_Q4_1] = Q4_1_tile;
    k->tile[GR_Q8_0] = Q8_0_tile;
    k->to_bf16[GR_Q5_0] = Q5_0;
    k->to_bf16[GR_Q5_1] = Q5_1;
    k->to_bf16[GR_Q8_0] = Q8_0;
    k->to_bf16[GR_Q4_K] = Q4_K;
    k->to_bf16[GR_Q5_K] = Q5_K;
    k->to_bf16[GR_Q6_K] = Q6_K;
    k->scaled[GR_NF4].to_bf16 = NF4;
    k->scaled[GR_FP4].to_bf16 = FP4;
    k->scaled[GR_INT8].to_bf16 = INT8;
}
