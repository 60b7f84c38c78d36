/* Room 2, quant: block formats of weights, decoded to float and bfloat16, and encoded.
 *
 * The decoded floats are those of gguf-py 0.19 (gguf.quants.dequantize) to the bit: the same products and sums in the
 * same order, no fused multiply-add. To bfloat16: that float rounded to nearest even. The encoded bytes are those of
 * ggml's reference quantisers without importance matrix. NF4, FP4 and INT8, whose scales stand apart from their
 * elements, are those of bitsandbytes 0.50 to the bit (scaled.h). */
#ifndef GR_QUANT_H
#define GR_QUANT_H

#include "tensor/tensor.h"

/* Decodes n elements, a multiple of the format's block, from `blocks` (any alignment) into out[n]. */
typedef void (*gr_dequantize_fn)(const void *blocks, size_t n, float *out);
typedef void (*gr_dequantize_bf16_fn)(const void *blocks, size_t n, uint16_t *out);
/* Encodes n finite elements, a multiple of the format's block. */
typedef void (*gr_quantize_fn)(const float *x, size_t n, void *blocks);

typedef struct gr_quant_ops {
    gr_dequantize_fn to_f32; /* NULL: the format cannot be decoded by itself (integers; NF4, FP4, INT8) */
    gr_dequantize_bf16_fn to_bf16;
    gr_quantize_fn from_f32;
} gr_quant_ops;

/* The functions for one format; hot loops fetch them once. Never NULL for a valid dtype. */
const gr_quant_ops *gr_quant_get(gr_dtype dtype);
static inline bool gr_can_dequantize(gr_dtype dtype) { return gr_quant_get(dtype)->to_f32 != NULL; }

/* GRAFT_ERR_UNSUPPORTED: dtype cannot be decoded; GRAFT_ERR_ARGUMENT: n is not whole blocks. */
graft_status gr_dequantize_row(gr_dtype dtype, const void *blocks, size_t n, float *out, graft_error *err);
graft_status gr_dequantize_row_bf16(gr_dtype dtype, const void *blocks, size_t n, uint16_t *out, graft_error *err);
/* Errors as above; GRAFT_ERR_NUMERIC: an element is not finite. */
graft_status gr_quantize_row(gr_dtype dtype, const float *x, size_t n, void *blocks, graft_error *err);

#endif
