/* Room 2, quant: block formats of weights, decoded to float and bfloat16.
 *
 * The decoded floats are those of gguf-py 0.19 (gguf.quants.dequantize) to the bit: the same products and sums in the
 * same order, no fused multiply-add. To bfloat16: that float rounded to nearest even. */
#ifndef GR_QUANT_H
#define GR_QUANT_H

#include "tensor/tensor.h"

/* Decodes n elements, a multiple of the format's block, from `blocks` (any alignment) into out[n]. */
typedef void (*gr_dequantize_fn)(const void *blocks, size_t n, float *out);
typedef void (*gr_dequantize_bf16_fn)(const void *blocks, size_t n, uint16_t *out);

typedef struct gr_quant_ops {
    gr_dequantize_fn to_f32; /* NULL: the format cannot be decoded (integers) */
    gr_dequantize_bf16_fn to_bf16;
} gr_quant_ops;

/* The functions for one format; hot loops fetch them once. Never NULL for a valid dtype. */
const gr_quant_ops *gr_quant_get(gr_dtype dtype);
static inline bool gr_can_dequantize(gr_dtype dtype) { return gr_quant_get(dtype)->to_f32 != NULL; }

/* GRAFT_ERR_UNSUPPORTED: dtype cannot be decoded; GRAFT_ERR_ARGUMENT: n is not whole blocks. */
graft_status gr_dequantize_row(gr_dtype dtype, const void *blocks, size_t n, float *out, graft_error *err);
graft_status gr_dequantize_row_bf16(gr_dtype dtype, const void *blocks, size_t n, uint16_t *out, graft_error *err);

#endif
