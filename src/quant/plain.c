/* Formats without blocks: float, half and bfloat16 rows. */
#include "quant/blocks.h"

void gr_dequantize_F32(const void *blocks, size_t n, float *out) { memcpy(out, blocks, n * 4); }

void gr_dequantize_F16(const void *blocks, size_t n, float *out) {
    const unsigned char *at = blocks;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, at + 2 * i, 2);
        out[i] = gr_f16_to_f32(h);
    }
}

void gr_dequantize_BF16(const void *blocks, size_t n, float *out) {
    const unsigned char *at = blocks;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, at + 2 * i, 2);
        out[i] = gr_bf16_to_f32(h);
    }
}

void gr_quantize_F32(const float *x, size_t n, void *out) { memcpy(out, x, n * 4); }

void gr_quantize_F16(const float *x, size_t n, void *out) {
    for (size_t i = 0; i < n; i++) {
        uint16_t h = gr_f32_to_f16(x[i]);
        memcpy((unsigned char *)out + 2 * i, &h, 2);
    }
}

void gr_quantize_BF16(const float *x, size_t n, void *out) {
    for (size_t i = 0; i < n; i++) {
        uint16_t h = gr_f32_to_bf16(x[i]);
        memcpy((unsigned char *)out + 2 * i, &h, 2);
    }
}
