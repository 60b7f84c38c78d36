/* What files and decoders both know of formats whose scales stand apart: NF4, FP4, INT8, CHANNEL8. */
#ifndef GR_TENSOR_SCALES_H
#define GR_TENSOR_SCALES_H

#include "tensor/tensor.h"

/* The sixteen values of NF4 or FP4. */
const float *gr_scaled_values(gr_dtype dtype);
/* The block sizes that bitsandbytes takes: 32 .. 4096, powers of two. */
bool gr_is_4bit_block(int64_t block);

static inline float gr_scaled_float(const void *p, int64_t i) {
    float v;
    memcpy(&v, (const unsigned char *)p + 4 * i, 4);
    return v;
}

/* Scale i. */
static inline float gr_scale_at(const gr_scales *s, int64_t i) {
    if (s->absmax) return gr_scaled_float(s->absmax, i);
    float product = gr_scaled_float(s->map, s->codes[i]) * gr_scaled_float(s->nested, i / s->nested_block);
    return product + s->offset;
}

/* Formats of two elements a byte under blocks of their own; the others have a scale a row. */
static inline bool gr_is_4bit(gr_dtype dtype) { return dtype == GR_NF4 || dtype == GR_FP4; }

/* Bytes of a view with its scales. */
size_t gr_view_all_bytes(const gr_tensor_view *v);

#endif
