/* Decoders of tiles: one step of 32 elements of sixteen rows, to where a tile register is loaded from. */
#include "kernel/cpu/simd_tables.h"
#include "kernel/cpu/unroll.h"
#include "quant/blocks.h"

enum { ROWS = 16, STEP = 32 };
_Static_assert(GR_TILE_SCALES >= 2 * 16 * ROWS, "scales and minima of 16 parts of a block");

#define FOR_ROWS for (int r = 0; r < ROWS; r++, b += row, out += STEP)

/* --- Blocks of 32 ---------------------------------------------------------------------------------------------------- */

static void scales_of(const uint8_t *b, int64_t row, int blocks, int block_bytes, bool minima, float *to) {
    for (int i = 0; i < blocks; i++, b += block_bytes, to += minima ? 2 * ROWS : ROWS)
        read_scales_apart(b, row, ROWS, minima, to, to + ROWS);
}
#define SCALES(type, minima)                                                                                           \
    static void type##_scales(const uint8_t *b, int64_t row, int blocks, float *to) {                                 \
        scales_of(b, row, blocks, (int)sizeof(block_##type), minima, to);                                              \
    }
SCALES(q4_0, false)
SCALES(q4_1, true)
SCALES(q5_0, false)
SCALES(q5_1, true)
SCALES(q8_0, false)

static void Q4_0(const uint8_t *b, int64_t row, int step, const float *d, uint16_t *out) {
    (void)step;
    for (int r = 0; r < ROWS; r += 2, b += 2 * row, out += 2 * STEP)
        two_blocks(table_of_two(sixteen_floats(d[r], -8, -0.0f), sixteen_floats(d[r + 1], -8, -0.0f)), b + 2, b + row + 2, out);
}

static void Q4_1(const uint8_t *b, int64_t row, int step, const float *d, uint16_t *out) {
    (void)step;
    const float *m = d + ROWS;
    for (int r = 0; r < ROWS; r += 2, b += 2 * row, out += 2 * STEP)
        two_blocks(table_of_two(sixteen_exact(d[r], 0, m[r]), sixteen_exact(d[r + 1], 0, m[r + 1])), b + 4, b + row + 4, out);
}

static void Q5_0(const uint8_t *b, int64_t row, int step, const float *d, uint16_t *out) {
    (void)step;
    FOR_ROWS look_up(table5(d[r], -16, -0.0f), with_fifth(nibbles(b + 6), word_at(b + 2)), out);
}

static void Q5_1(const uint8_t *b, int64_t row, int step, const float *d, uint16_t *out) {
    (void)step;
    const float *m = d + ROWS;
    FOR_ROWS {
        const __m512i table = table_of_two(sixteen_exact(d[r], 0, m[r]), sixteen_exact(d[r], 16, m[r]));
        look_up(table, with_fifth(nibbles(b + 8), word_at(b + 4)), out);
    }
}

static void Q8_0(const uint8_t *b, int64_t row, int step, const float *d, uint16_t *out) {
    (void)step;
    FOR_ROWS bytes_under(d[r], b + 2, out);
}

/* --- Blocks of 256: the scales of each part, then the minima ------------------------------------------------------------ */

static inline __m512i words_of_rows(const uint8_t *b, int64_t row) {
    const __m512i ramp = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_i32gather_epi32(_mm512_mullo_epi32(ramp, _mm512_set1_epi32((int)row)), b, 1);
}
static inline vf half_of(__m512i words) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)); }
static inline vf field(__m512i words, int shift, int mask) {
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(words, (unsigned)shift), _mm512_set1_epi32(mask)));
}

static inline void q2_scales(const uint8_t *b, int64_t row, float *d) {
    float *m = d + 16 * ROWS;
    const __m512i factors = words_of_rows(b + 80, row);
    const vf all = half_of(factors), min = half_of(_mm512_srli_epi32(factors, 16));
    for (int word = 0; word < 4; word++) {
        const __m512i s = words_of_rows(b + 4 * word, row);
        UNROLL for (int i = 0; i < 4; i++) {
            v_store(d + (4 * word + i) * ROWS, v_mul(all, field(s, 8 * i, 15)));
            v_store(m + (4 * word + i) * ROWS, v_mul(min, field(s, 8 * i + 4, 15)));
        }
    }
}

/* Part s of 16: low bits in byte s % 8, the low nibble for s < 8; bits 4 and 5 in byte 8 + s % 4 (gr_q3_scale). */
static inline void q3_scales(const uint8_t *b, int64_t row, float *d) {
    const vf all = half_of(_mm512_srli_epi32(words_of_rows(b + 106, row), 16));
    const __m512i low[2] = {words_of_rows(b + 96, row), words_of_rows(b + 100, row)}, high = words_of_rows(b + 104, row);
    UNROLL for (int s = 0; s < 16; s++) {
        const __m512i four = _mm512_and_si512(_mm512_srli_epi32(low[s / 4 % 2], 8 * (s % 4) + 4 * (s / 8)), _mm512_set1_epi32(15));
        const __m512i two = _mm512_and_si512(_mm512_srli_epi32(high, 8 * (s % 4) + 2 * (s / 4)), _mm512_set1_epi32(3));
        const __m512i code = _mm512_sub_epi32(_mm512_or_si512(four, _mm512_slli_epi32(two, 4)), _mm512_set1_epi32(32));
        v_store(d + s * ROWS, v_mul(all, _mm512_cvtepi32_ps(code)));
    }
}

/* Of Q4_K and Q5_K (gr_q4_scale_min). */
static inline void q4_scales(const uint8_t *b, int64_t row, float *d) {
    float *m = d + 8 * ROWS;
    const __m512i factors = words_of_rows(b, row), low = words_of_rows(b + 4, row), mid = words_of_rows(b + 8, row);
    const __m512i high = words_of_rows(b + 12, row), top = _mm512_set1_epi32(0x30303030), four = _mm512_set1_epi32(0x0F0F0F0F);
    const vf all = half_of(factors), min = half_of(_mm512_srli_epi32(factors, 16));
    /* (a and four) or ((b >> 2) and top) */
    const __m512i d1 = _mm512_or_si512(_mm512_and_si512(high, four), _mm512_and_si512(_mm512_srli_epi32(low, 2), top));
    const __m512i m1 = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32(high, 4), four), _mm512_and_si512(_mm512_srli_epi32(mid, 2), top));
    UNROLL for (int i = 0; i < 4; i++) {
        v_store(d + i * ROWS, v_mul(all, field(low, 8 * i, 63)));
        v_store(m + i * ROWS, v_mul(min, field(mid, 8 * i, 63)));
        v_store(d + (i + 4) * ROWS, v_mul(all, field(d1, 8 * i, 63)));
        v_store(m + (i + 4) * ROWS, v_mul(min, field(m1, 8 * i, 63)));
    }
}

static inline void q6_scales(const uint8_t *b, int64_t row, float *d) {
    const vf all = half_of(_mm512_srli_epi32(words_of_rows(b + 206, row), 16));
    for (int word = 0; word < 4; word++) {
        const __m512i s = words_of_rows(b + 192 + 4 * word, row);
        UNROLL for (int i = 0; i < 4; i++)
            v_store(d + (4 * word + i) * ROWS, v_mul(all, _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(s, 24 - 8 * i), 24))));
    }
}

#define SCALES_OF_256(type, parts, of_one)                                                                             \
    static void type##_scales(const uint8_t *b, int64_t row, int blocks, float *to) {                                 \
        for (int i = 0; i < blocks; i++) of_one(b + i * (int)sizeof(block_##type), row, to + i * (parts)*ROWS);       \
    }
SCALES_OF_256(q2_k, 32, q2_scales)
SCALES_OF_256(q3_k, 16, q3_scales)
SCALES_OF_256(q4_k, 16, q4_scales)
SCALES_OF_256(q5_k, 16, q4_scales)
SCALES_OF_256(q6_k, 16, q6_scales)

static void Q2_K(const uint8_t *b, int64_t row, int step, const float *d, uint16_t *out) {
    d += 2 * step * ROWS;
    const float *m = d + 16 * ROWS;
    FOR_ROWS q2_step(b, step, d[r], d[r + ROWS], m[r], m[r + ROWS], out);
}

static void Q3_K(const uint8_t *b, int64_t row, int step, const float *d, uint16_t *out) {
    d += 2 * step * ROWS;
    FOR_ROWS q3_step(b, step, d[r], d[r + ROWS], out);
}

static void Q4_K(const uint8_t *b, int64_t row, int step, const float *d, uint16_t *out) {
    d += step * ROWS;
    const float *m = d + 8 * ROWS;
    FOR_ROWS q4_step(b, step, d[r], m[r], out);
}

static void Q5_K(const uint8_t *b, int64_t row, int step, const float *d, uint16_t *out) {
    d += step * ROWS;
    const float *m = d + 8 * ROWS;
    FOR_ROWS q5_step(b, step, d[r], m[r], out);
}

static void Q6_K(const uint8_t *b, int64_t row, int step, const float *d, uint16_t *out) {
    d += 2 * step * ROWS;
    FOR_ROWS q6_step(b, step, d[r], d[r + ROWS], out);
}

enum { CHOOSE = 0xCA }; /* bits of the second operand where the first has ones, else of the third */

/* --- Two steps of a block of 256 at once ---------------------------------------------------------------------------- */

/* Nibbles of the same 32 bytes belong to both steps, so that their tables share a register. Products of a scale (of 17
 * bits) and a code are exact, and one rounding does for product and difference. */
static inline vf codes_from(int first) {
    const __m512i ramp = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_cvtepi32_ps(_mm512_add_epi32(ramp, _mm512_set1_epi32(first)));
}
static inline vf values_of(vf codes, float d, float m) { return _mm512_fmsub_ps(codes, v_set1(d), v_set1(m)); }

static void Q4_K_two(const uint8_t *b, int64_t row, int step, const float *d, uint16_t *out) {
    const vf codes = codes_from(0);
    const __m512i four = _mm512_set1_epi16(15), second = _mm512_set1_epi16(16);
    b += 16 + 32 * (step / 2);
    d += step * ROWS;
    const float *m = d + 8 * ROWS;
    FOR_ROWS {
        const __m512i table = table_of_two(values_of(codes, d[r], m[r]), values_of(codes, d[r + ROWS], m[r + ROWS]));
        const __m512i both = _mm512_cvtepu8_epi16(load32(b));
        look_up(table, _mm512_and_si512(both, four), out);
        look_up(table, _mm512_or_si512(_mm512_srli_epi16(both, 4), second), out + ROWS * STEP);
    }
}

/* step is constant: bit `step` of a byte becomes bit 4. */
static inline __attribute__((always_inline)) __m512i fifth_bit(__m512i bytes, const int step) {
    return step < 4 ? _mm512_slli_epi16(bytes, 4 - step) : _mm512_srli_epi16(bytes, step - 4);
}
static inline __attribute__((always_inline)) void five_bits(const uint8_t *b, int64_t row, const int step, const float *d,
                                                            uint16_t *out) {
    const vf low = codes_from(0), high = codes_from(16);
    const __m512i four = _mm512_set1_epi16(15);
    d += step * ROWS;
    const float *m = d + 8 * ROWS;
    FOR_ROWS {
        const __m512i both = _mm512_cvtepu8_epi16(load32(b + 48 + 32 * (step / 2)));
        const __m512i fifth = _mm512_cvtepu8_epi16(load32(b + 16)), upper = _mm512_srli_epi16(both, 4);
        const float d1 = d[r + ROWS], m1 = m[r + ROWS];
        const __m512i table0 = table_of_two(values_of(low, d[r], m[r]), values_of(high, d[r], m[r]));
        const __m512i table1 = table_of_two(values_of(low, d1, m1), values_of(high, d1, m1));
        look_up(table0, _mm512_ternarylogic_epi64(four, both, fifth_bit(fifth, step), CHOOSE), out);
        look_up(table1, _mm512_ternarylogic_epi64(four, upper, fifth_bit(fifth, step + 1), CHOOSE), out + ROWS * STEP);
    }
}

static void Q5_K_two(const uint8_t *b, int64_t row, int step, const float *d, uint16_t *out) {
    switch (step) {
        case 0: five_bits(b, row, 0, d, out); break;
        case 2: five_bits(b, row, 2, d, out); break;
        case 4: five_bits(b, row, 4, d, out); break;
        default: five_bits(b, row, 6, d, out); break;
    }
}

/* 64 codes less 32: the low nibbles of 64 bytes, or the high ones, with two bits of each of 32 bytes for the first half
 * and the next two for the second: from bit 0 on, or from bit 4. */
static inline __attribute__((always_inline)) __m512i six_bits(__m512i low, __m512i high, const bool later) {
    const __m512i first = _mm512_set1_epi16(later ? 0 : 4), by = _mm512_inserti64x4(first, _mm256_set1_epi16(2), 1);
    low = later ? _mm512_srli_epi16(low, 4) : low;
    high = later ? _mm512_srlv_epi16(high, by) : _mm512_sllv_epi16(high, by);
    const __m512i code = _mm512_ternarylogic_epi64(_mm512_set1_epi8(15), low, high, CHOOSE);
    return _mm512_sub_epi8(_mm512_and_si512(code, _mm512_set1_epi8(63)), _mm512_set1_epi8(32));
}

static inline void sixteens_under(const int8_t *codes, float d0, float d1, uint16_t *out) {
    const vf low = v_mul(v_set1(d0), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16((const uint8_t *)codes))));
    const vf high = v_mul(v_set1(d1), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16((const uint8_t *)codes + 16))));
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/* Codes go through memory, which widens them on the way back without the port of shuffles. */
static void Q6_K_two(const uint8_t *b, int64_t row, int step, const float *d, uint16_t *out) {
    _Alignas(64) int8_t codes[ROWS][2 * STEP];
    const uint8_t *low = b + 64 * (step / 4), *high = b + 128 + 32 * (step / 4);
    if (step % 4 == 0)
        for (int r = 0; r < ROWS; r++, low += row, high += row)
            _mm512_store_si512(codes[r], six_bits(_mm512_loadu_si512(low), _mm512_broadcast_i64x4(load32(high)), false));
    else
        for (int r = 0; r < ROWS; r++, low += row, high += row)
            _mm512_store_si512(codes[r], six_bits(_mm512_loadu_si512(low), _mm512_broadcast_i64x4(load32(high)), true));
    d += 2 * step * ROWS;
    for (int r = 0; r < ROWS; r++, out += STEP) {
        sixteens_under(codes[r], d[r], d[r + ROWS], out);
        sixteens_under(codes[r] + STEP, d[r + 2 * ROWS], d[r + 3 * ROWS], out + ROWS * STEP);
    }
}

/* --- Plain numbers -------------------------------------------------------------------------------------------------------- */

static void F32(const uint8_t *b, int64_t row, int step, const float *none, uint16_t *out) {
    (void)step;
    (void)none;
    FOR_ROWS thirty_two_floats(_mm512_loadu_ps(b), _mm512_loadu_ps(b + 64), out);
}

static void F16(const uint8_t *b, int64_t row, int step, const float *none, uint16_t *out) {
    (void)step;
    (void)none;
    FOR_ROWS {
        const vf low = _mm512_cvtph_ps(load32(b)), high = _mm512_cvtph_ps(load32(b + 32));
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

/* --- Scales that stand apart ------------------------------------------------------------------------------------------- */

/* One step, or two under one scale. */
static inline __attribute__((always_inline)) void nibbles_of(const int steps, gr_dtype dtype, const uint8_t *b, int64_t row,
                                                             int step, const float *scale, uint16_t *out) {
    const vf values = v_load(gr_scaled_values(dtype));
    b += step * STEP / 2;
    FOR_ROWS {
        const vf t = v_mul(values, v_set1(scale[r]));
        const __m512i table = table_of_two(t, t);
        look_up(table, nibble_pairs(b), out);
        if (steps > 1) look_up(table, nibble_pairs(b + STEP / 2), out + ROWS * STEP);
    }
}

static void NF4(const uint8_t *b, int64_t row, int step, const float *scale, uint16_t *out) {
    nibbles_of(1, GR_NF4, b, row, step, scale, out);
}
static void FP4(const uint8_t *b, int64_t row, int step, const float *scale, uint16_t *out) {
    nibbles_of(1, GR_FP4, b, row, step, scale, out);
}
static void NF4_two(const uint8_t *b, int64_t row, int step, const float *scale, uint16_t *out) {
    nibbles_of(2, GR_NF4, b, row, step, scale, out);
}
static void FP4_two(const uint8_t *b, int64_t row, int step, const float *scale, uint16_t *out) {
    nibbles_of(2, GR_FP4, b, row, step, scale, out);
}

static void INT8(const uint8_t *b, int64_t row, int step, const float *scale, uint16_t *out) {
    const vf by = v_set1(GR_INT8_STEP);
    b += step * STEP;
    FOR_ROWS {
        const vf s = v_set1(scale[r]);
        vf low = v_mul(v_mul(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(b))), s), by);
        vf high = v_mul(v_mul(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(b + 16))), s), by);
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

static void CHANNEL8(const uint8_t *b, int64_t row, int step, const float *scale, uint16_t *out) {
    b += step * STEP;
    FOR_ROWS {
        const vf s = v_set1(scale[r]);
        vf low = v_mul(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(b))), s);
        vf high = v_mul(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(b + 16))), s);
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

/* Scales i to i + n - 1, n <= 16, of which scale i is under nested scale `nested` with `left` codes from it on (gr_scale_at). */
static inline vf sixteen_scales(const gr_scales *s, int64_t i, int64_t n, int64_t nested, int64_t left) {
    const __mmask16 mask = n >= 16 ? (__mmask16)~0 : v_mask(n);
    if (s->absmax) return _mm512_maskz_loadu_ps(mask, (const uint8_t *)s->absmax + 4 * i);
    const __m512i codes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, s->codes + i));
    const vf v = _mm512_mask_i32gather_ps(v_zero(), mask, codes, s->map, 4);
    vf under = v_set1(gr_scaled_float(s->nested, nested));
    if (left < n) under = v_first(under, v_set1(gr_scaled_float(s->nested, nested + 1)), left);
    return v_add(v_mul(v, under), v_set1(s->offset));
}

/* Lanes with a subnormal or nearly so (decode_avx512bf16.c), not zero. */
static inline __mmask16 not_tame(vf x) {
    const __m512i size = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFFFFFF)), one = _mm512_set1_epi32(1);
    return _mm512_cmplt_epu32_mask(_mm512_sub_epi32(size, one), _mm512_set1_epi32(((127 - 110) << 23) - 1));
}

static bool read_tile_scales(const gr_scales *s, int64_t first, int64_t row, int64_t blocks, float *out) {
    const int64_t nested_block = s->absmax ? INT64_MAX : s->nested_block;
    if (nested_block < ROWS) return false;
    __mmask16 bad = 0;
    for (int64_t at = 0; at < blocks; at += ROWS) {
        const int64_t n = GR_MIN(blocks - at, (int64_t)ROWS);
        int64_t i = first + at, nested = i / nested_block, past = i % nested_block;
        vf x[ROWS];
        for (int r = 0; r < ROWS; r++, i += row) {
            x[r] = sixteen_scales(s, i, n, nested, nested_block - past);
            bad |= not_tame(x[r]);
            for (past += row; past >= nested_block; past -= nested_block) nested++;
        }
        v_transpose(x);
        for (int64_t c = 0; c < n; c++, out += ROWS) v_store(out, x[c]);
    }
    return !bad;
}

void gr_cpu_fill_avx512bf16_tiles(gr_cpu_kernels *k) {
    k->tile[GR_F32] = (gr_tile_ops){.decode = F32};
    k->tile[GR_F16] = (gr_tile_ops){.decode = F16};
    k->tile[GR_Q4_0] = (gr_tile_ops){q4_0_scales, ROWS, Q4_0, NULL};
    k->tile[GR_Q4_1] = (gr_tile_ops){q4_1_scales, 2 * ROWS, Q4_1, NULL};
    k->tile[GR_Q5_0] = (gr_tile_ops){q5_0_scales, ROWS, Q5_0, NULL};
    k->tile[GR_Q5_1] = (gr_tile_ops){q5_1_scales, 2 * ROWS, Q5_1, NULL};
    k->tile[GR_Q8_0] = (gr_tile_ops){q8_0_scales, ROWS, Q8_0, NULL};
    k->tile[GR_Q2_K] = (gr_tile_ops){q2_k_scales, 32 * ROWS, Q2_K, NULL};
    k->tile[GR_Q3_K] = (gr_tile_ops){q3_k_scales, 16 * ROWS, Q3_K, NULL};
    k->tile[GR_Q4_K] = (gr_tile_ops){q4_k_scales, 16 * ROWS, Q4_K, Q4_K_two};
    k->tile[GR_Q5_K] = (gr_tile_ops){q5_k_scales, 16 * ROWS, Q5_K, Q5_K_two};
    k->tile[GR_Q6_K] = (gr_tile_ops){q6_k_scales, 16 * ROWS, Q6_K, Q6_K_two};
    k->tile[GR_NF4] = (gr_tile_ops){NULL, ROWS, NF4, NF4_two};
    k->tile[GR_FP4] = (gr_tile_ops){NULL, ROWS, FP4, FP4_two};
    k->tile[GR_INT8] = (gr_tile_ops){NULL, ROWS, INT8, NULL};
    k->tile[GR_CHANNEL8] = (gr_tile_ops){NULL, ROWS, CHANNEL8, NULL};
    k->tile_scales = read_tile_scales;
}
