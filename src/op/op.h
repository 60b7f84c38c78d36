/* Room 4, op: differentiable operations. One file an op: equation, shapes, forward, backward; one line in op.def. An op
 * is pure: arrays in, arrays out, through the device table; it knows nothing of the tape that calls it. */
#ifndef GR_OP_H
#define GR_OP_H

#include "kernel/kernel.h"

/* Contiguous row-major array. data NULL in gradients: absent (see below). */
typedef struct gr_array {
    gr_dtype dtype;
    gr_shape shape;
    void *data;
} gr_array;

enum { GR_OP_MAX_IN = 8, GR_OP_MAX_OUT = 3 };

typedef struct gr_op_call {
    gr_device *dev;
    int n_in, n_out;
    gr_array in[GR_OP_MAX_IN];   /* an optional input that is absent has data NULL and dtype of the activations */
    gr_array out[GR_OP_MAX_OUT]; /* dtype and shape filled by op->shape, data by the caller */
    const void *params;          /* the op's own struct; arrays it points to live until the backward is done */
    void *scratch;               /* op->scratch bytes, 64-byte aligned */
    /* Row groups (sequences) of the batch: group i is rows group[i] .. group[i+1]-1. What is summed over rows into a
     * parameter is summed group by group in order, so that splitting a batch between groups gives the same bits. */
    int n_groups;
    const int32_t *group;
    /* backward only */
    gr_array dout[GR_OP_MAX_OUT]; /* data NULL: that output's gradient is zero */
    gr_array din[GR_OP_MAX_IN];   /* data NULL: not wanted. Where one variable stands at several inputs they share one
                                     din buffer and the op must cover it whole between them. */
    bool add[GR_OP_MAX_IN];       /* add to din instead of writing it; always set for parameters (F32 gradients) */
} gr_op_call;

typedef struct gr_op {
    const char *name;
    size_t params_size;
    /* Checks the inputs and fills out[] dtype and shape. Called also when only memory is planned: data may be NULL. */
    graft_status (*shape)(gr_op_call *c, graft_error *err);
    graft_status (*forward)(gr_op_call *c, graft_error *err);
    graft_status (*backward)(gr_op_call *c, graft_error *err);
    size_t (*scratch)(const gr_op_call *c, bool backward); /* NULL: none */
    uint32_t save_in, save_out;                            /* bits: whose data the backward reads */
    /* in_place: out[0] may be the buffer of in[0] (the tape copies first when somebody still needs in[0]).
     * grad_in_place: din[0] may be the buffer of dout[0], likewise.
     * grad_pass: the gradient of in[0] and in[1] IS dout[0]: the tape shares it and backward is not called for them. */
    bool in_place, grad_in_place, grad_pass;
} gr_op;

#define X(name) extern const gr_op gr_op_##name;
#include "op/op.def"
#undef X

#endif
