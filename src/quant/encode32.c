/* Encoders of the formats of block32.c: the bytes of ggml's reference quantisers (quantize_row_*_ref, without
 * importance matrix). The scale that divides is the float; the one that is stored is its half. */
#include <math.h>

#include "quant/blocks.h"

/* v cut to whole numbers 0 .. top. Elements that tiny blocks blow up to infinities or NaN end inside, too. */
static inline uint8_t cut(float v, int top) { return (uint8_t)(v >= (float)top ? top : v > 0 ? (int)v : 0); }

static inline float inverse(float d) { return d != 0 ? 1.0f / d : 0.0f; }

/* The element of the largest magnitude, the first of equals. */
static float extreme(const float *x) {
    float most = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    return most;
}

static void range(const float *x, float *low, float *high) {
    *low = *high = x[0];
    for (int i = 1; i < 32; i++) {
        if (x[i] < *low) *low = x[i];
        if (x[i] > *high) *high = x[i];
    }
}

static void put_nibbles(const uint8_t *q, uint8_t *qs) {
    for (int k = 0; k < 16; k++) qs[k] = (uint8_t)((q[k] & 15) | (q[k + 16] & 15) << 4);
}

static void put_fifths(const uint8_t *q, uint8_t *qh) {
    memset(qh, 0, 4);
    for (int k = 0; k < 32; k++) qh[k / 8] |= (uint8_t)((q[k] >> 4) << k % 8);
}

/* Quants 0 .. 2 middle - 1 of x / d + middle, where the extreme element gets 0. Returns d. */
static float quantize_around(const float *x, int middle, uint8_t *q) {
    const float d = extreme(x) / (float)-middle, id = inverse(d);
    for (int k = 0; k < 32; k++) q[k] = cut(x[k] * id + ((float)middle + 0.5f), 2 * middle - 1);
    return d;
}

/* Quants 0 .. top of (x - min) / d. Returns d. */
static float quantize_above(const float *x, int top, uint8_t *q, float *min) {
    float max;
    range(x, min, &max);
    const float d = (max - *min) / (float)top, id = inverse(d);
    for (int k = 0; k < 32; k++) q[k] = cut((x[k] - *min) * id + 0.5f, top);
    return d;
}

void gr_quantize_Q4_0(const float *x, size_t n, void *blocks) {
    block_q4_0 *b = blocks;
    uint8_t q[32];
    for (size_t i = 0; i < n; i += 32, b++, x += 32) {
        gr_put_half(b->d, quantize_around(x, 8, q));
        put_nibbles(q, b->qs);
    }
}

void gr_quantize_Q4_1(const float *x, size_t n, void *blocks) {
    block_q4_1 *b = blocks;
    uint8_t q[32];
    float min;
    for (size_t i = 0; i < n; i += 32, b++, x += 32) {
        gr_put_half(b->d, quantize_above(x, 15, q, &min));
        gr_put_half(b->m, min);
        put_nibbles(q, b->qs);
    }
}

void gr_quantize_Q5_0(const float *x, size_t n, void *blocks) {
    block_q5_0 *b = blocks;
    uint8_t q[32];
    for (size_t i = 0; i < n; i += 32, b++, x += 32) {
        gr_put_half(b->d, quantize_around(x, 16, q));
        put_nibbles(q, b->qs);
        put_fifths(q, b->qh);
    }
}

void gr_quantize_Q5_1(const float *x, size_t n, void *blocks) {
    block_q5_1 *b = blocks;
    uint8_t q[32];
    float min;
    for (size_t i = 0; i < n; i += 32, b++, x += 32) {
        gr_put_half(b->d, quantize_above(x, 31, q, &min));
        gr_put_half(b->m, min);
        put_nibbles(q, b->qs);
        put_fifths(q, b->qh);
    }
}

void gr_quantize_Q8_0(const float *x, size_t n, void *blocks) {
    block_q8_0 *b = blocks;
    for (size_t i = 0; i < n; i += 32, b++, x += 32) {
        const float d = fabsf(extreme(x)) / 127.0f, id = inverse(d);
        gr_put_half(b->d, d);
        for (int k = 0; k < 32; k++) {
            const float q = roundf(x[k] * id);
            b->qs[k] = (int8_t)(q >= 127 ? 127 : q > -127 ? (int)q : -127);
        }
    }
}
