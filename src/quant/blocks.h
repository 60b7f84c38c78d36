/* The decoders by format name, for the table in quant.c. Contract: gr_dequantize_fn. */
#ifndef GR_QUANT_BLOCKS_H
#define GR_QUANT_BLOCKS_H

#include "quant/quant.h"

#define X(name) void gr_dequantize_##name(const void *blocks, size_t n, float *out);
#include "quant/quant.def"
#undef X

#endif
