#include "tensor/scales.h"

/* Quantiles of the normal distribution, and a float of 2 exponent bits and 1 mantissa bit over 12. */
static const float nf4[16] = {-1.0f,
                              -0.6961928009986877f,
                              -0.5250730514526367f,
                              -0.39491748809814453f,
                              -0.28444138169288635f,
                              -0.18477343022823334f,
                              -0.09105003625154495f,
                              0.0f,
                              0.07958029955625534f,
                              0.16093020141124725f,
                              0.24611230194568634f,
                              0.33791524171829224f,
                              0.44070982933044434f,
                              0.5626170039176941f,
                              0.7229568362236023f,
                              1.0f};
static const float fp4[16] = {0,  0.0625f / 12,  8.0f / 12,  1,  4.0f / 12,  6.0f / 12,  2.0f / 12,  3.0f / 12,
                              0, -0.0625f / 12, -8.0f / 12, -1, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12};

const float *gr_scaled_values(gr_dtype dtype) { return dtype == GR_NF4 ? nf4 : fp4; }

bool gr_is_4bit_block(int64_t block) { return block >= 32 && block <= 4096 && (block & (block - 1)) == 0; }

size_t gr_view_all_bytes(const gr_tensor_view *v) {
    const gr_scales *s = v->scales;
    int64_t n = 0;
    if (!s || !gr_shape_elements(&v->shape, &n)) return v->bytes;
    n = (n + s->block - 1) / s->block;
    if (s->absmax) return v->bytes + (size_t)n * sizeof(float);
    return v->bytes + (size_t)n + (size_t)((n + s->nested_block - 1) / s->nested_block) * sizeof(float);
}
