/* The k-quants: super-blocks of 256 elements whose sub-blocks of 16 or 32 have small integer scales (and minima)
 * under one or two half-precision factors: x = (d * scale) * q - (dmin * min) * 1.
 *
 * The products d * scale and dmin * min are rounded to float first, as the reference does. */
#include "quant/blocks.h"

typedef struct block_q2_k {
    uint8_t scales[16]; /* low nibble scale, high nibble minimum, of 16 elements each */
    uint8_t qs[64];
    uint8_t d[2], dmin[2];
} block_q2_k;

typedef struct block_q3_k {
    uint8_t hmask[32]; /* the third bit, inverted: 0 means subtract 4 */
    uint8_t qs[64];
    uint8_t scales[12]; /* 16 scales of 6 bits, biased by 32 */
    uint8_t d[2];
} block_q3_k;

typedef struct block_q4_k {
    uint8_t d[2], dmin[2];
    uint8_t scales[12]; /* 8 scales and 8 minima of 6 bits */
    uint8_t qs[128];
} block_q4_k;

typedef struct block_q5_k {
    uint8_t d[2], dmin[2];
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
} block_q5_k;

typedef struct block_q6_k {
    uint8_t ql[128], qh[64];
    int8_t scales[16]; /* of 16 elements each */
    uint8_t d[2];
} block_q6_k;

static inline float half_at(const uint8_t *p) { return gr_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }

/* Quants of 2 bits: each run of 32 bytes holds four runs of 32 elements, run j in bits 2j and 2j+1. */
void gr_dequantize_Q2_K(const void *blocks, size_t n, float *out) {
    const block_q2_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        float d = half_at(b->d), dmin = half_at(b->dmin);
        for (int sub = 0; sub < 16; sub++, out += 16) {
            float scale = d * (float)(b->scales[sub] & 15), min = dmin * (float)(b->scales[sub] >> 4);
            const uint8_t *qs = b->qs + 32 * (sub / 8) + 16 * (sub % 2);
            int shift = 2 * (sub / 2 % 4);
            for (int k = 0; k < 16; k++) out[k] = scale * (float)(qs[k] >> shift & 3) - min;
        }
    }
}

/* Scale s of 16: its low 4 bits in byte s % 8 (low nibble for s < 8, else high), its high 2 bits in byte 8 + s % 4 at
 * bit 2 * (s / 4). */
static inline int q3_scale(const uint8_t scales[12], int s) {
    int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4;
    return (low | (scales[8 + s % 4] >> 2 * (s / 4) & 3) << 4) - 32;
}

void gr_dequantize_Q3_K(const void *blocks, size_t n, float *out) {
    const block_q3_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        float d = half_at(b->d);
        for (int sub = 0; sub < 16; sub++, out += 16) {
            float scale = d * (float)q3_scale(b->scales, sub);
            const uint8_t *qs = b->qs + 32 * (sub / 8) + 16 * (sub % 2), *high = b->hmask + 16 * (sub % 2);
            int shift = 2 * (sub / 2 % 4), bit = sub / 2;
            for (int k = 0; k < 16; k++)
                out[k] = scale * (float)((qs[k] >> shift & 3) - ((high[k] >> bit & 1) ? 0 : 4));
        }
    }
}

/* Scale and minimum j of 8: j < 4 whole in bytes j and 4 + j; j >= 4 split between the nibbles of byte 4 + j and the
 * top bits of bytes j - 4 and j. */
static inline void q4_scale_min(const uint8_t s[12], int j, int *scale, int *min) {
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}

void gr_dequantize_Q4_K(const void *blocks, size_t n, float *out) {
    const block_q4_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        float d = half_at(b->d), dmin = half_at(b->dmin);
        for (int sub = 0; sub < 8; sub++, out += 32) {
            int scale, min, shift = 4 * (sub % 2);
            q4_scale_min(b->scales, sub, &scale, &min);
            float ds = d * (float)scale, dm = dmin * (float)min;
            const uint8_t *qs = b->qs + 32 * (sub / 2);
            for (int k = 0; k < 32; k++) out[k] = ds * (float)(qs[k] >> shift & 15) - dm;
        }
    }
}

void gr_dequantize_Q5_K(const void *blocks, size_t n, float *out) {
    const block_q5_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        float d = half_at(b->d), dmin = half_at(b->dmin);
        for (int sub = 0; sub < 8; sub++, out += 32) {
            int scale, min, shift = 4 * (sub % 2);
            q4_scale_min(b->scales, sub, &scale, &min);
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
        float d = half_at(b->d);
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
