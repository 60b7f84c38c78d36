/* Decoders of block formats to BF16 with AVX-512 and its BF16 conversion: the bits of room quant's.
 *
 * Quants of 4 and 5 bits have few values a block, so these are computed and rounded once, as a table in one register, and
 * the quants look their values up 32 at a time. The hardware's conversion takes subnormal floats for zero; none occurs:
 * every value is a multiple of 2^-24, the smallest half-precision number, or it is not finite. */
#include "kernel/cpu/simd_tables.h"
#include "quant/blocks.h"

static void Q4_0(const void *blocks, size_t n, uint16_t *out) {
    const uint8_t *b = blocks;
    block_heads s;
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
    block_heads s;
    for (size_t left = n / 32; left; left -= GR_MIN(left, (size_t)16)) {
        const size_t now = GR_MIN(left, (size_t)16);
        read_scales(b, 20, now, true, &s);
        for (size_t i = 0; i + 1 < now; i += 2, b += 40, out += 64)
            two_blocks(table_of_two(sixteen_exact(s.d[i], 0, s.m[i]), sixteen_exact(s.d[i + 1], 0, s.m[i + 1])), b + 4, b + 24, out);
        if (now % 2) look_up(table4(s.d[now - 1], 0, s.m[now - 1]), nibbles(b + 4), out);
    }
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

static void Q8_0(const void *blocks, size_t n, uint16_t *out) {
    const uint8_t *b = blocks;
    block_heads s;
    for (size_t left = n / 32; left; left -= GR_MIN(left, (size_t)16)) {
        const size_t now = GR_MIN(left, (size_t)16);
        read_scales(b, 34, now, false, &s);
        for (size_t i = 0; i < now; i++, b += 34, out += 32) bytes_under(s.d[i], b + 2, out);
    }
}

static void Q2_K(const void *blocks, size_t n, uint16_t *out) {
    const block_q2_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        gr_fetch_ahead(b, sizeof *b);
        const float d = half_at(b->d), dmin = half_at(b->dmin);
        float scale[16], min[16];
        for (int sub = 0; sub < 16; sub++) {
            scale[sub] = d * (float)(b->scales[sub] & 15);
            min[sub] = dmin * (float)(b->scales[sub] >> 4);
        }
        for (int step = 0; step < 8; step++, out += 32)
            q2_step((const uint8_t *)b, step, scale[2 * step], scale[2 * step + 1], min[2 * step], min[2 * step + 1], out);
    }
}

static void Q3_K(const void *blocks, size_t n, uint16_t *out) {
    const block_q3_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        gr_fetch_ahead(b, sizeof *b);
        const float d = half_at(b->d);
        for (int step = 0; step < 8; step++, out += 32)
            q3_step((const uint8_t *)b, step, d * (float)gr_q3_scale(b->scales, 2 * step),
                    d * (float)gr_q3_scale(b->scales, 2 * step + 1), out);
    }
}

static void Q4_K(const void *blocks, size_t n, uint16_t *out) {
    const block_q4_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        gr_fetch_ahead(b, sizeof *b);
        const float d = half_at(b->d), dmin = half_at(b->dmin);
        for (int step = 0; step < 8; step++, out += 32) {
            int scale, min;
            gr_q4_scale_min(b->scales, step, &scale, &min);
            q4_step((const uint8_t *)b, step, d * (float)scale, dmin * (float)min, out);
        }
    }
}

static void Q5_K(const void *blocks, size_t n, uint16_t *out) {
    const block_q5_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        gr_fetch_ahead(b, sizeof *b);
        const float d = half_at(b->d), dmin = half_at(b->dmin);
        for (int step = 0; step < 8; step++, out += 32) {
            int scale, min;
            gr_q4_scale_min(b->scales, step, &scale, &min);
            q5_step((const uint8_t *)b, step, d * (float)scale, dmin * (float)min, out);
        }
    }
}

static void Q6_K(const void *blocks, size_t n, uint16_t *out) {
    const block_q6_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        gr_fetch_ahead(b, sizeof *b);
        const float d = half_at(b->d);
        for (int step = 0; step < 8; step++, out += 32)
            q6_step((const uint8_t *)b, step, d * (float)b->scales[2 * step], d * (float)b->scales[2 * step + 1], out);
    }
}

static void F32(const void *floats, size_t n, uint16_t *out) {
    const float *x = floats;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        gr_fetch_ahead(x + i, 128);
        thirty_two_floats(v_load(x + i), v_load(x + i + 16), out + i);
    }
    for (; i < n; i += 16) {
        const int64_t left = n - i < 16 ? (int64_t)(n - i) : 16;
        v_store_bf16_exact_n(out + i, v_load_n(x + i, left), left);
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
    const vf t = v_mul(v_load(gr_scaled_values(dtype)), v_set1(scale));
    const __m512i table = table_of_two(t, t);
    size_t i = 0;
    for (; i + 32 <= n && is_tame(scale); i += 32) look_up(table, nibble_pairs(codes + i / 2), out + i);
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

static void CHANNEL8(const void *codes, size_t n, float scale, uint16_t *out) {
    const uint8_t *q = codes;
    const vf s = v_set1(scale);
    size_t i = 0;
    for (; i + 16 <= n && is_tame(scale); i += 16)
        v_store_bf16(out + i, v_mul(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(q + i))), s));
    if (i < n) gr_scaled_get(GR_CHANNEL8)->to_bf16(q + i, n - i, scale, out + i);
}

void gr_cpu_fill_avx512bf16_decode(gr_cpu_kernels *k) {
    k->to_bf16[GR_F32] = F32;
    k->to_bf16[GR_F16] = F16;
    k->to_bf16[GR_Q4_0] = Q4_0;
    k->to_bf16[GR_Q4_1] = Q4_1;
    k->to_bf16[GR_Q5_0] = Q5_0;
    k->to_bf16[GR_Q5_1] = Q5_1;
    k->to_bf16[GR_Q8_0] = Q8_0;
    k->to_bf16[GR_Q2_K] = Q2_K;
    k->to_bf16[GR_Q3_K] = Q3_K;
    k->to_bf16[GR_Q4_K] = Q4_K;
    k->to_bf16[GR_Q5_K] = Q5_K;
    k->to_bf16[GR_Q6_K] = Q6_K;
    k->scaled[GR_NF4].to_bf16 = NF4;
    k->scaled[GR_FP4].to_bf16 = FP4;
    k->scaled[GR_INT8].to_bf16 = INT8;
    k->scaled[GR_CHANNEL8].to_bf16 = CHANNEL8;
}
