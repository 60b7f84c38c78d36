/* Weights in the formats of bitsandbytes and compressed-tensors, made from whatever a weight is stored in. */
#ifndef GR_MODEL_QUANTIZE_H
#define GR_MODEL_QUANTIZE_H

#include "io/weights.h"
#include "kernel/kernel.h"

/* Which modules become CHANNEL8 as a model is opened. */
typedef struct gr_channel8_plan {
    const void *self;
    /* Whether this one does, and, where `is_static`, the largest magnitude of its input that the scale is to hold. */
    graft_status (*choose)(const void *self, const char *module, int64_t in, bool *takes, float *most,
                           graft_error *err);
    bool is_static; /* inputs have scales that are known beforehand; else each row has its own */
} gr_channel8_plan;

typedef struct gr_quantize_spec {
    gr_dtype dtype; /* NF4, FP4, INT8 or CHANNEL8; F32: as stored */
    int64_t block;  /* of NF4 and FP4, 0: 64 */
    bool nested;    /* their absmax quantised to 8 bits */
    gr_dtype scale; /* of CHANNEL8: what scales are rounded to */
    float input;    /* CHANNEL8, of one weight: gr_scales.input, rounded likewise */
    const gr_channel8_plan
        *channel8; /* for gr_model_open only, which keeps no pointer; NULL: all modules but the head */
} gr_quantize_spec;

/* What the activations of products are computed in. */
typedef struct gr_activation_spec {
    bool integer; /* 8 bits, where a product's weights allow (gr_can_multiply_integers) */
    bool decoded; /* the compute type, whatever the model says; neither: as compressed-tensors says of it, else the
                     compute type */
    double threshold; /* LLM.int8()'s, of weights in INT8: 0: as the model's quantization_config says; negative: none */
} gr_activation_spec;

/* `activations`: "float", "int8" or NULL. GRAFT_ERR_ARGUMENT: others, and a threshold that is not finite or not asked for. */
graft_status gr_activation_options(const char *activations, double threshold, gr_activation_spec *out, graft_error *err);

/* What the options of transformers' BitsAndBytesConfig ask for. Options that contradict each other, or that would do
 * nothing, are GRAFT_ERR_ARGUMENT. */
graft_status gr_quantize_options(int load_in_4bit, int load_in_8bit, const char *quant_type, int double_quant,
                                 int block, gr_quantize_spec *out, graft_error *err);

/* Encodes a matrix, row by row along its output: in Hugging Face's order, or where that is (in, out) (`transposed`) its transpose,
 * as transformers does it before it hands GPT-2's matrices to bitsandbytes; `view` is (out, in). `memory` (gr_alloc_aligned, *bytes long) holds the codes and
 * the scales that `view` points to. An element that is not finite, or a row of odd length in 4 bits, is an error that
 * names file and tensor. */
graft_status gr_quantize_weight(gr_device *d, const gr_weight *w, bool transposed, const gr_quantize_spec *spec,
                                gr_tensor_view *view, void **memory, size_t *bytes, graft_error *err);

/* Matrices that bitsandbytes would take: every product but the head. */
typedef struct gr_products {
    size_t stored, in_int8, in_nf4; /* bytes, and what they would be; NF4 with double quantisation */
    bool others, odd;               /* some are no floats; some have an odd number of inputs, as 4 bits cannot hold them */
} gr_products;

/* Counts one matrix that is stored in `bytes`. */
void gr_count_product(gr_products *p, gr_dtype stored, size_t bytes, int64_t rows, int64_t columns);
/* Bytes that INT8, or NF4 with double quantisation, would save; 0: nothing, or they cannot be held so. */
size_t gr_products_saved_by(const gr_products *p, gr_dtype format);

/* Bytes of that memory for a matrix. */
size_t gr_quantized_bytes(const gr_quantize_spec *spec, int64_t rows, int64_t columns);

#endif
