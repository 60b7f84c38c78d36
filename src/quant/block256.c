/* The k-quants: super-blocks of 256 elements whose sub-blocks of 16 or 32 have small integer scales (and minima)
 * under one or two half-precision factors: x = (d * scale) * q - (dmin * min) * 1.
 *
 * The products d * scale and dmin * min are rounded to float first, as the reference does. */
#include "quant/blocks.h"

/* Quants of 2 bits: each run of 32 bytes holds four runs of 32 elements, run j in bits 2j and 2j+1. */
void gr_dequantize_Q2_K(const void *blocks, size_t n, float *out) {
    const block_q2_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        float d = gr_half_at(b->d), dmin = gr_half_at(b->dmin);
        for (int sub = 0; sub < 16; sub++, out += 16) {
            float scale = d * (float)(b->scales[sub] & 15), min = dmin * (float)(b->scales[sub] >> 4);
            const uint8_t *qs = b->qs + 32 * (sub / 8) + 16 * (sub % 2);
            int shift = 2 * (sub / 2 % 4);
            for (int k = 0; k < 16; k++) out[k] = scale * (float)(qs[k] >> shift & 3) - min;
        }
    }
}

void gr_dequantize_Q3_K(const void *blocks, size_t n, float *out) {
    const block_q3_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        float d = gr_half_at(b->d);
        for (int sub = 0; sub < 16; sub++, out += 16) {
            float scale = d * (float)gr_q3_scale(b->scales, sub);
            const uint8_t *qs = b->qs + 32 * (sub / 8) + 16 * (sub % 2), *high = b->hmask + 16 * (sub % 2);
            int shift = 2 * (sub / 2 % 4), bit = sub / 2;
            for (int k = 0; k < 16; k++)
                out[k] = scale * (float)((qs[k] >> shift & 3) - ((high[k] >> bit & 1) ? 0 : 4));
        }
    }
}

void gr_dequantize_Q4_K(const void *blocks, size_t n, float *out) {
    const block_q4_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        float d = gr_half_at(b->d), dmin = gr_half_at(b->dmin);
        for (int sub = 0; sub < 8; sub++, out += 32) {
            int scale, min, shift = 4 * (sub % 2);
            gr_q4_scale_min(b->scales, sub, &scale, &min);
            float ds = d * (float)scale, dm = dmin * (float)min;
            const uint8_t *qs = b->qs + 32 * (sub / 2);
            for (int k = 0; k < 32; k++) out[k] = ds * (float)(qs[k] >> shift & 15) - dm;
        }
    }
}

void gr_dequantize_Q5_K(const void *blocks, size_t n, float *out) {
    const block_q5_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        float d = gr_half_at(b->d), dmin = gr_half_at(b->dmin);
        for (int sub = 0; sub < 8; sub++, out += 32) {
            int scale, min, shift = 4 * (sub % 2);
            gr_q4_scale_min(b->scales, sub, &scale, &min);
            float ds = d * (float)scale, dm = dmin * (float)min;
            const uint8_t *qs = b->qs + 32 * (sub / 2);
            for (int k = 0; k < 32; k++) out[k] = ds * (float)((qs[k] >> shift & 15) | (b->qh[k] >> sub & 1) << 4) - dm;
        }
    }
}

/* Low nibbles: each run of 64 bytes holds 128 elements, the first 64 low, the next high. High bits: each run of 32
 * bytes holds four runs of 32 elements. */
void gr_dequantize_Q6_K(const void *blocks, size_t n, float *out) {
    const block_q6_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        float d = gr_half_at(b->d);
        for (int sub = 0; sub < 16; sub++, out += 16) {
            int run = sub / 2, quarter = run % 4, start = 16 * (sub % 2);
            float scale = d * (float)b->scales[sub];
            const uint8_t *low = b->ql + 64 * (run / 4) + 32 * (quarter % 2) + start;
            const uint8_t *high = b->qh + 32 * (run / 4) + start;
            int shift = 4 * (quarter / 2);
            for (int k = 0; k < 16; k++)
                out[k] = scale * (float)(((low[k] >> shift & 15) | (high[k] >> 2 * quarter & 3) << 4) - 32);
        }
    }
}
