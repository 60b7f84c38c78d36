/* Layouts of blocks, and decoders and encoders by format name for the table in quant.c. Contracts: gr_dequantize_fn,
 * gr_quantize_fn. Members are bytes so that a block may lie anywhere. */
#ifndef GR_QUANT_BLOCKS_H
#define GR_QUANT_BLOCKS_H

#include "quant/quant.h"

#define X(name)                                                                                                        \
    void gr_dequantize_##name(const void *blocks, size_t n, float *out);                                               \
    void gr_quantize_##name(const float *x, size_t n, void *blocks);
#include "quant/quant.def"
#undef X

/* --- Blocks of 32 elements: block32.c ---------------------------------------------------------------------------- */

typedef struct block_q4_0 {
    uint8_t d[2], qs[16];
} block_q4_0;

typedef struct block_q4_1 {
    uint8_t d[2], m[2], qs[16];
} block_q4_1;

typedef struct block_q5_0 {
    uint8_t d[2], qh[4], qs[16];
} block_q5_0;

typedef struct block_q5_1 {
    uint8_t d[2], m[2], qh[4], qs[16];
} block_q5_1;

typedef struct block_q8_0 {
    uint8_t d[2];
    int8_t qs[32];
} block_q8_0;

/* --- Blocks of 256 elements: block256.c -------------------------------------------------------------------------- */

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

static inline float gr_half_at(const uint8_t *p) { return gr_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }

static inline void gr_put_half(uint8_t *p, float v) {
    uint16_t h = gr_f32_to_f16(v);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

/* Scale s of 16: its low 4 bits in byte s % 8 (low nibble for s < 8, else high), its high 2 bits in byte 8 + s % 4 at
 * bit 2 * (s / 4). */
static inline int gr_q3_scale(const uint8_t scales[12], int s) {
    int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4;
    return (low | (scales[8 + s % 4] >> 2 * (s / 4) & 3) << 4) - 32;
}

/* Scale and minimum j of 8: j < 4 whole in bytes j and 4 + j; j >= 4 split between the nibbles of byte 4 + j and the
 * top bits of bytes j - 4 and j. */
static inline void gr_q4_scale_min(const uint8_t s[12], int j, int *scale, int *min) {
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}

#endif
