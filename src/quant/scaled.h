/* Formats whose scales stand apart from their elements, as bitsandbytes 0.50 keeps them: NF4 and FP4 (Dettmers et al.
 * 2023, arXiv 2305.14314), two elements a byte, the first in the high nibble, with one absmax a block of elements,
 * which may itself be quantised to 8 bits ("double quantisation"); INT8 (LLM.int8(), Dettmers et al. 2022, arXiv
 * 2208.07339), one scale a row. CHANNEL8: codes of 8 bits times one scale a row, as compressed-tensors 0.20 has them.
 *
 * * Codes, absmax, nested absmax, offset and decoded values are bitsandbytes' to the bit (CPU, one thread). */
#ifndef GR_QUANT_SCALED_H
#define GR_QUANT_SCALED_H

#include "quant/quant.h"
#include "tensor/scales.h"

/* Decodes n elements under one scale. Of NF4 and FP4, n even or the last element's nibble low. */
typedef void (*gr_descale_fn)(const void *codes, size_t n, float scale, float *out);
typedef void (*gr_descale_bf16_fn)(const void *codes, size_t n, float scale, uint16_t *out);

typedef struct gr_scaled_ops {
    gr_descale_fn to_f32;
    gr_descale_bf16_fn to_bf16;
} gr_scaled_ops;

/* NULL: not one of these formats. */
const gr_scaled_ops *gr_scaled_get(gr_dtype dtype);
/* bitsandbytes' dynamic maps, signed and unsigned, ascending (Dettmers 2016, arXiv 1511.04561). */
extern const float gr_dynamic_map[256], gr_dynamic_map_unsigned[256];
/* 1 / 127 as bitsandbytes multiplies INT8 by: element = (code * scale) * this. */
#define GR_INT8_STEP 7.874015718698502e-3f

/* Whether a tensor of this type can be decoded: those above and all that gr_can_dequantize knows. */
bool gr_can_decode(gr_dtype dtype);
/* Decodes n elements of a view from element `first` on, counted through the tensor; both whole blocks of the format. */
graft_status gr_view_decode(const gr_tensor_view *v, int64_t first, int64_t n, float *out, graft_error *err);

/* --- Encoding ----------------------------------------------------------------------------------------------------- */

/* Encodes n elements as NF4 or FP4: ceil(n / 2) bytes, ceil(n / block) scales. A tensor may be encoded piece by
 * piece, where only the last piece may end inside a block. */
void gr_quantize_4bit(gr_dtype dtype, const float *x, int64_t n, int64_t block, uint8_t *codes, float *absmax);
/* Double quantisation of n scales: n codes, ceil(n / 256) floats and one offset. */
enum { GR_NESTED_BLOCK = 256 };
void gr_quantize_absmax(const float *absmax, int64_t n, uint8_t *codes, float *nested, float *offset);
/* Blocks of floats, each as codes of a dynamic map under its absmax, as 8-bit optimisers keep their state (Dettmers et
 * al. 2022, arXiv 2110.02861). Nearest codes, as bitsandbytes' CUDA and plain PyTorch kernels find them; its CPU kernel
 * looks them up in 65,536 equal cells of [-1, 1] instead, which knows nothing below 1.5e-5. */
enum { GR_DYNAMIC_BLOCK = 256, GR_DYNAMIC_CELLS = 24 * 128 + 1 };
typedef struct gr_dynamic_code {
    const float *map;
    float bounds[256]; /* between neighbours */
    uint8_t below[2][GR_DYNAMIC_CELLS];
} gr_dynamic_code;
void gr_dynamic_code_init(gr_dynamic_code *c, const float map[256]);
/* One block of n <= GR_DYNAMIC_BLOCK. */
void gr_quantize_dynamic(const gr_dynamic_code *c, const float *x, int64_t n, uint8_t *codes, float *absmax);
void gr_dequantize_dynamic(const gr_dynamic_code *c, const uint8_t *codes, int64_t n, float absmax, float *out);

/* One row as CHANNEL8: scale = max|x| / 127.5, rounded to `dtype` (F32, BF16, F16), codes x / scale to the nearest
 * even from -128 to 127, as compressed-tensors has it in float. Returns the scale, which is never 0: a row of zeros
 * gets the type's epsilon. */
float gr_quantize_channel8_row(const float *x, int64_t n, gr_dtype dtype, int8_t *codes);
/* The scale alone, of numbers up to `most`; one that `dtype` cannot hold stays a float. */
float gr_channel8_scale(float most, gr_dtype dtype);
/* What scales are rounded to beside a weight that is stored so: the weight's type, as calculate_qparams does. */
gr_dtype gr_channel8_scale_type(gr_dtype stored);

/* One row as INT8. The row is rounded to half precision first, as bitsandbytes does. Returns its scale: infinity
 * where half precision cannot hold it, and then the codes are 0. */
float gr_quantize_int8_row(const float *x, int64_t n, int8_t *codes);

#endif
