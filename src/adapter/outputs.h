/* The tensors of a file that is to be written. Inside room adapter only. */
#ifndef GR_ADAPTER_OUTPUTS_H
#define GR_ADAPTER_OUTPUTS_H

#include "tensor/scales.h"

typedef struct gr_output {
    const char *name;
    gr_dtype dtype;
    gr_shape shape;
    const void *bytes; /* NULL: the model's tensor of this name, decoded */
    size_t n_bytes;
} gr_output;

typedef struct gr_outputs {
    const graft_allocator *a;
    gr_arena arena;
    gr_output *items;
    size_t n, cap;
} gr_outputs;

void gr_outputs_init(gr_outputs *o, const graft_allocator *a);
void gr_outputs_free(gr_outputs *o);
graft_status gr_outputs_add(gr_outputs *o, const gr_output *x, graft_error *err);
/* The tensors that bitsandbytes 0.50 keeps of a weight in NF4, FP4 or INT8 (io/weights_bnb.c reads them), or
 * compressed-tensors 0.20 of one in CHANNEL8 (io/weights_compressed.c). `dtype`: what the weight is decoded to. The
 * view must outlive them. */
graft_status gr_outputs_add_scaled(gr_outputs *o, const char *name, const gr_tensor_view *v, gr_dtype dtype,
                                   graft_error *err);

#endif
