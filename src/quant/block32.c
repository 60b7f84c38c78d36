/* Formats of 32 elements a block with one half-precision scale d (and minimum m): x = d * q or x = d * q + m.
 *
 * 4- and 5-bit quants hold elements 0..15 in the low and 16..31 in the high nibbles of 16 bytes; the fifth bits stand
 * in one 32-bit word, element i at bit i. */
#include "quant/blocks.h"

static inline uint32_t word_at(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void gr_dequantize_Q4_0(const void *blocks, size_t n, float *out) {
    const block_q4_0 *b = blocks;
    for (size_t i = 0; i < n; i += 32, b++, out += 32) {
        float d = gr_half_at(b->d);
        for (int k = 0; k < 16; k++) {
            out[k] = d * (float)((b->qs[k] & 15) - 8);
            out[k + 16] = d * (float)((b->qs[k] >> 4) - 8);
        }
    }
}

void gr_dequantize_Q4_1(const void *blocks, size_t n, float *out) {
    const block_q4_1 *b = blocks;
    for (size_t i = 0; i < n; i += 32, b++, out += 32) {
        float d = gr_half_at(b->d), m = gr_half_at(b->m);
        for (int k = 0; k < 16; k++) {
            out[k] = d * (float)(b->qs[k] & 15) + m;
            out[k + 16] = d * (float)(b->qs[k] >> 4) + m;
        }
    }
}

void gr_dequantize_Q5_0(const void *blocks, size_t n, float *out) {
    const block_q5_0 *b = blocks;
    for (size_t i = 0; i < n; i += 32, b++, out += 32) {
        float d = gr_half_at(b->d);
        uint32_t high = word_at(b->qh);
        for (int k = 0; k < 16; k++) {
            int low_fifth = (int)(high >> k & 1) << 4, high_fifth = (int)(high >> (k + 16) & 1) << 4;
            out[k] = d * (float)(((b->qs[k] & 15) | low_fifth) - 16);
            out[k + 16] = d * (float)(((b->qs[k] >> 4) | high_fifth) - 16);
        }
    }
}

void gr_dequantize_Q5_1(const void *blocks, size_t n, float *out) {
    const block_q5_1 *b = blocks;
    for (size_t i = 0; i < n; i += 32, b++, out += 32) {
        float d = gr_half_at(b->d), m = gr_half_at(b->m);
        uint32_t high = word_at(b->qh);
        for (int k = 0; k < 16; k++) {
            int low_fifth = (int)(high >> k & 1) << 4, high_fifth = (int)(high >> (k + 16) & 1) << 4;
            out[k] = d * (float)((b->qs[k] & 15) | low_fifth) + m;
            out[k + 16] = d * (float)((b->qs[k] >> 4) | high_fifth) + m;
        }
    }
}

void gr_dequantize_Q8_0(const void *blocks, size_t n, float *out) {
    const block_q8_0 *b = blocks;
    for (size_t i = 0; i < n; i += 32, b++, out += 32) {
        float d = gr_half_at(b->d);
        for (int k = 0; k < 32; k++) out[k] = d * (float)b->qs[k];
    }
}
