/* Portable integer products: the reference that every level equals to the bit. */
#include <math.h>

#include "kernel/cpu/cpu.h"
#include "quant/blocks.h"

static const gr_int_format formats[GR_DTYPE_COUNT] = {
    [GR_Q4_0] = {32, 8, 15, false},  [GR_Q4_1] = {32, 0, 15, true},     [GR_Q5_0] = {32, 16, 31, false},
    [GR_Q5_1] = {32, 0, 31, true},   [GR_Q8_0] = {32, 128, 255, false}, [GR_Q2_K] = {16, 0, 3, true},
    [GR_Q3_K] = {16, 4, 7, false},   [GR_Q4_K] = {32, 0, 15, true},     [GR_Q5_K] = {32, 0, 31, true},
    [GR_Q6_K] = {16, 32, 63, false}, [GR_INT8] = {32, 128, 255, false},
    [GR_CHANNEL8] = {32, 128, 255, false},
};

const gr_int_format *gr_int_format_get(gr_dtype dtype) {
    return &formats[dtype];
}

/* --- Unpacking: one stored block of one row into codes, scales and minima ----------------------------------------- */

static void nibbles(const uint8_t qs[16], uint8_t *q) {
    for (int i = 0; i < 16; i++) {
        q[i] = qs[i] & 15;
        q[i + 16] = qs[i] >> 4;
    }
}

static void fifth_bits(const uint8_t qh[4], uint8_t *q) {
    for (int i = 0; i < 32; i++) q[i] = (uint8_t)(q[i] | (qh[i / 8] >> i % 8 & 1) << 4);
}

static void block_Q4_0(const void *block, uint8_t *q, float *d, float *m) {
    (void)m;
    const block_q4_0 *b = block;
    nibbles(b->qs, q);
    d[0] = gr_half_at(b->d);
}

static void block_Q4_1(const void *block, uint8_t *q, float *d, float *m) {
    const block_q4_1 *b = block;
    nibbles(b->qs, q);
    d[0] = gr_half_at(b->d);
    m[0] = gr_half_at(b->m);
}

static void block_Q5_0(const void *block, uint8_t *q, float *d, float *m) {
    (void)m;
    const block_q5_0 *b = block;
    nibbles(b->qs, q);
    fifth_bits(b->qh, q);
    d[0] = gr_half_at(b->d);
}

static void block_Q5_1(const void *block, uint8_t *q, float *d, float *m) {
    const block_q5_1 *b = block;
    nibbles(b->qs, q);
    fifth_bits(b->qh, q);
    d[0] = gr_half_at(b->d);
    m[0] = gr_half_at(b->m);
}

static void block_Q8_0(const void *block, uint8_t *q, float *d, float *m) {
    (void)m;
    const block_q8_0 *b = block;
    for (int i = 0; i < 32; i++) q[i] = (uint8_t)(b->qs[i] + 128);
    d[0] = gr_half_at(b->d);
}

static void block_Q2_K(const void *block, uint8_t *q, float *d, float *m) {
    const block_q2_k *b = block;
    const float all = gr_half_at(b->d), min = gr_half_at(b->dmin);
    for (int sub = 0; sub < 16; sub++) {
        d[sub] = all * (float)(b->scales[sub] & 15);
        m[sub] = -(min * (float)(b->scales[sub] >> 4));
        const uint8_t *qs = b->qs + 32 * (sub / 8) + 16 * (sub % 2);
        for (int i = 0; i < 16; i++) q[16 * sub + i] = qs[i] >> 2 * (sub / 2 % 4) & 3;
    }
}

static void block_Q3_K(const void *block, uint8_t *q, float *d, float *m) {
    (void)m;
    const block_q3_k *b = block;
    const float all = gr_half_at(b->d);
    for (int sub = 0; sub < 16; sub++) {
        d[sub] = all * (float)gr_q3_scale(b->scales, sub);
        const uint8_t *qs = b->qs + 32 * (sub / 8) + 16 * (sub % 2), *high = b->hmask + 16 * (sub % 2);
        for (int i = 0; i < 16; i++)
            q[16 * sub + i] = (uint8_t)((qs[i] >> 2 * (sub / 2 % 4) & 3) | (high[i] >> sub / 2 & 1) << 2);
    }
}

static void scales_and_minima(float all, float min, const uint8_t scales[12], float *d, float *m) {
    for (int sub = 0; sub < 8; sub++) {
        int s, l;
        gr_q4_scale_min(scales, sub, &s, &l);
        d[sub] = all * (float)s;
        m[sub] = -(min * (float)l);
    }
}

static void block_Q4_K(const void *block, uint8_t *q, float *d, float *m) {
    const block_q4_k *b = block;
    scales_and_minima(gr_half_at(b->d), gr_half_at(b->dmin), b->scales, d, m);
    for (int i = 0; i < 256; i++) q[i] = b->qs[i / 64 * 32 + i % 32] >> 4 * (i / 32 % 2) & 15;
}

static void block_Q5_K(const void *block, uint8_t *q, float *d, float *m) {
    const block_q5_k *b = block;
    scales_and_minima(gr_half_at(b->d), gr_half_at(b->dmin), b->scales, d, m);
    for (int i = 0; i < 256; i++)
        q[i] = (uint8_t)((b->qs[i / 64 * 32 + i % 32] >> 4 * (i / 32 % 2) & 15) |
                         (b->qh[i % 32] >> i / 32 & 1) << 4);
}

static void block_Q6_K(const void *block, uint8_t *q, float *d, float *m) {
    (void)m;
    const block_q6_k *b = block;
    const float all = gr_half_at(b->d);
    for (int sub = 0; sub < 16; sub++) d[sub] = all * (float)b->scales[sub];
    for (int i = 0; i < 256; i++) {
        const int quarter = i / 32 % 4;
        const uint8_t low = b->ql[i / 128 * 64 + quarter % 2 * 32 + i % 32],
                      high = b->qh[i / 128 * 32 + i % 32];
        q[i] = (uint8_t)((low >> 4 * (quarter / 2) & 15) | (high >> 2 * quarter & 3) << 4);
    }
}

typedef void (*block_fn)(const void *block, uint8_t *q, float *d, float *m);

static inline void unpack(block_fn fn, gr_dtype dtype, const uint8_t *const *rows, int64_t k, int64_t n,
                          const gr_int_panel *to) {
    const gr_dtype_info *info = gr_dtype_get(dtype);
    const int length = info->block_elements, elements = formats[dtype].elements, subs = length / elements;
    for (int64_t s = 0; s < n; s += length)
        for (int lane = 0; lane < GR_INT_LANES; lane++) {
            uint8_t q[256];
            float d[16], m[16] = {0};
            fn(rows[lane] + (k + s) / length * info->block_bytes, q, d, m);
            for (int e = 0; e < length; e++) to->q[gr_int_place(s + e, lane)] = q[e];
            for (int sub = 0; sub < subs; sub++) {
                to->d[(s / elements + sub) * GR_INT_LANES + lane] = d[sub];
                to->m[(s / elements + sub) * GR_INT_LANES + lane] = m[sub];
            }
        }
}

#define X(name)                                                                                              \
    static void unpack_##name(const uint8_t *const *rows, int64_t k, int64_t n, const gr_int_panel *to) {    \
        unpack(block_##name, GR_##name, rows, k, n, to);                                                     \
    }
#define BLOCK_FORMATS X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K)
BLOCK_FORMATS
#undef X

static void unpack_INT8(const uint8_t *const *rows, int64_t k, int64_t n, const gr_int_panel *to) {
    const int64_t whole = (n + GR_INT_BLOCK - 1) / GR_INT_BLOCK * GR_INT_BLOCK;
    for (int lane = 0; lane < GR_INT_LANES; lane++)
        for (int64_t e = 0; e < whole; e++)
            to->q[gr_int_place(e, lane)] = e < n ? rows[lane][k + e] ^ 128 : 128;
}

/* --- Activations -------------------------------------------------------------------------------------------------- */

static int8_t code_of(float x, float by) {
    return (int8_t)lrintf(x * by);
}

static void quantize(const gr_int_format *f, gr_dtype dt, int64_t n, const void *x, const gr_int_rows *to,
                     int64_t row) {
    const int parts = GR_INT_BLOCK / f->elements;
    int8_t *q = to->q + row * to->ld;
    for (int64_t b = 0; b * GR_INT_BLOCK < n; b++, q += GR_INT_BLOCK) {
        float v[GR_INT_BLOCK] = {0}, most = 0;
        bool finite = true;
        for (int64_t i = 0; i < GR_INT_BLOCK && b * GR_INT_BLOCK + i < n; i++) {
            const int64_t at = b * GR_INT_BLOCK + i;
            v[i] = dt == GR_F32 ? ((const float *)x)[at] : gr_bf16_to_f32(((const uint16_t *)x)[at]);
            finite = finite && isfinite(v[i]);
            most = fmaxf(most, fabsf(v[i]));
        }
        const bool zero = !finite || most < GR_INT_ZERO;
        const float d = !finite ? NAN : zero ? 0 : most / 127, by = zero ? 0 : 127 / most;
        for (int p = 0; p < parts; p++) {
            int32_t sum = 0;
            for (int i = p * f->elements; i < (p + 1) * f->elements; i++)
                sum += q[i] = zero ? 0 : code_of(v[i], by);
            const int64_t at = (b * parts + p) * to->step + row;
            to->d[at] = d;
            to->ds[at] = d * (float)sum;
            to->start[at] = -f->offset * sum;
        }
    }
}

static void round_row(int64_t n, const float *x, float by, int8_t *q) {
    for (int64_t i = 0; i < n; i++) q[i] = code_of(x[i], by);
}

static void divide_row(int64_t n, const float *x, float scale, int8_t *q) {
    for (int64_t i = 0; i < n; i++) q[i] = (int8_t)lrintf(fminf(fmaxf(x[i] / scale, -128), 127));
}

static uint32_t largest(int64_t n, const float *x) {
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) most = GR_MAX(most, gr_float_bits(x[i]) & 0x7FFFFFFFu);
    return most;
}

/* --- Products ----------------------------------------------------------------------------------------------------- */

static int32_t sum_of(int64_t n, const int8_t *a, const uint8_t *q, int lane, int32_t sum) {
    for (int64_t e = 0; e < n; e++) sum += a[e] * q[gr_int_place(e, lane)];
    return sum;
}

static void multiply(const gr_int_format *f, int64_t m, int64_t block, int64_t blocks, const gr_int_rows *a,
                     const gr_int_panel *p, float *c, bool add) {
    for (int64_t i = 0; i < m; i++)
        for (int lane = 0; lane < GR_INT_LANES; lane++) {
            float y = add ? c[i * GR_INT_LANES + lane] : 0;
            for (int64_t b = 0; b < blocks; b++) {
                const int64_t at = (block + b) * a->step + i, w = b * GR_INT_LANES + lane;
                const int32_t sum = sum_of(f->elements, a->q + i * a->ld + (block + b) * f->elements,
                                           p->q + b * f->elements * GR_INT_LANES, lane, a->start[at]);
                y = fmaf(p->d[w] * a->d[at], (float)sum, y);
                if (f->mins) y = fmaf(p->m[w], a->ds[at], y);
            }
            c[i * GR_INT_LANES + lane] = y;
        }
}

static void accumulate(int64_t m, int64_t n, const int8_t *q, int64_t ld, const gr_int_panel *p, int32_t *c,
                       bool add) {
    for (int64_t i = 0; i < m; i++)
        for (int lane = 0; lane < GR_INT_LANES; lane++) {
            int32_t sum = add ? c[i * GR_INT_LANES + lane] : 0;
            for (int64_t e = 0; e < n; e++) sum += q[i * ld + e] * (p->q[gr_int_place(e, lane)] - 128);
            c[i * GR_INT_LANES + lane] = sum;
        }
}

void gr_cpu_fill_generic_integer(gr_cpu_kernels *k) {
    gr_int_kernels *to = &k->integer;
#define X(name) to->unpack[GR_##name] = unpack_##name;
    BLOCK_FORMATS
    X(INT8)
#undef X
    to->unpack[GR_CHANNEL8] = unpack_INT8;
    to->quantize = quantize;
    to->round_row = round_row;
    to->divide_row = divide_row;
    to->largest = largest;
    to->multiply = multiply;
    to->accumulate = accumulate;
}
