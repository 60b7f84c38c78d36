/* The table of decoders and encoders. Rows decode in pieces of 256 elements through float where the target is
 * bfloat16: the rounding is then the same for every format. */
#include "quant/quant.h"

#include <math.h>

#include "quant/blocks.h"

enum { PIECE = 256 }; /* a multiple of every block length */

static void round_to_bf16(const float *from, size_t n, uint16_t *to) {
    for (size_t i = 0; i < n; i++) to[i] = gr_f32_to_bf16(from[i]);
}

#define X(name)                                                                                                        \
    static void to_bf16_##name(const void *blocks, size_t n, uint16_t *out) {                                          \
        const size_t step = gr_dtype_bytes(GR_##name, PIECE);                                                          \
        const unsigned char *at = blocks;                                                                              \
        float piece[PIECE];                                                                                            \
        for (size_t i = 0; i < n; i += PIECE, at += step) {                                                            \
            size_t k = GR_MIN(n - i, (size_t)PIECE);                                                                   \
            gr_dequantize_##name(at, k, piece);                                                                        \
            round_to_bf16(piece, k, out + i);                                                                          \
        }                                                                                                              \
    }
#include "quant/quant.def"
#undef X

static const gr_quant_ops table[GR_DTYPE_COUNT] = {
#define X(name) [GR_##name] = {gr_dequantize_##name, to_bf16_##name, gr_quantize_##name},
#include "quant/quant.def"
#undef X
};

const gr_quant_ops *gr_quant_get(gr_dtype dtype) { return &table[dtype]; }

static graft_status check_row(gr_dtype dtype, size_t n, graft_error *err) {
    const gr_dtype_info *d = gr_dtype_get(dtype);
    if (!gr_can_dequantize(dtype)) return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s cannot be decoded to float", d->name);
    if (n % (size_t)d->block_elements)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected a multiple of %d elements for %s, found %zu",
                       d->block_elements, d->name, n);
    return GRAFT_OK;
}

graft_status gr_dequantize_row(gr_dtype dtype, const void *blocks, size_t n, float *out, graft_error *err) {
    GR_TRY(check_row(dtype, n, err));
    table[dtype].to_f32(blocks, n, out);
    return GRAFT_OK;
}

graft_status gr_dequantize_row_bf16(gr_dtype dtype, const void *blocks, size_t n, uint16_t *out, graft_error *err) {
    GR_TRY(check_row(dtype, n, err));
    table[dtype].to_bf16(blocks, n, out);
    return GRAFT_OK;
}

graft_status gr_quantize_row(gr_dtype dtype, const float *x, size_t n, void *blocks, graft_error *err) {
    GR_TRY(check_row(dtype, n, err));
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return gr_fail(err, GRAFT_ERR_NUMERIC, "element %zu is %g, which %s cannot hold", i, (double)x[i],
                           gr_dtype_name(dtype));
    table[dtype].from_f32(x, n, blocks);
    return GRAFT_OK;
}
