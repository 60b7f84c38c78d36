/* Room 4, op: differentiable operations. One file an op: equation, shapes, forward, backward; one line in op.def. An op
 * is pure: arrays in, arrays out, through the device table; it knows nothing of the tape that calls it.
 * docs/adding-an-op.md shows how to add one. */
#ifndef GR_OP_H
#define GR_OP_H

#include "kernel/kernel.h"

/* Contiguous row-major array. data NULL in gradients: absent (see below). */
typedef struct gr_array {
    gr_dtype dtype;
    gr_shape shape;
    void *data;
} gr_array;

enum { GR_OP_MAX_IN = 12, GR_OP_MAX_OUT = 3 };

/* Where only memory is planned (a dry tape) shape, saves and scratch are called as always, but every data pointer is a
 * mere mark: NULL absent, anything else present and not to be touched. The arrays of params may be NULL then. */
typedef struct gr_op_call {
    gr_device *dev;
    int n_in, n_out;             /* n_out counts the auxiliary outputs too */
    gr_array in[GR_OP_MAX_IN];   /* an optional input that is absent has data NULL and shape.n 0. In the backward: dtype
                                    and shape always, data where saved */
    gr_array out[GR_OP_MAX_OUT]; /* dtype and shape filled by op->shape, data by the caller. Auxiliary outputs have data
                                    NULL where no backward will follow */
    const void *params;          /* the op's own struct (op/params.h), NULL where it may be left out; arrays it points to live
                                    until the backward is done */
    void *scratch;               /* op->scratch bytes, 64-byte aligned */
    /* Row groups (sequences) of the batch: group i is rows group[i] .. group[i+1]-1. What is summed over rows into a
     * parameter is summed group by group in order, so that splitting a batch between groups gives the same bits.
     * n_groups 0: all rows are one group. */
    int n_groups;
    const int32_t *group;
    uint32_t wants; /* bit i: the gradient of in[i] is wanted; 0 in a forward that no backward will follow */
    /* backward only */
    gr_array dout[GR_OP_MAX_OUT]; /* data NULL: that output's gradient is zero */
    gr_array din[GR_OP_MAX_IN];   /* data NULL: not wanted. Where one variable stands at several inputs (only for an op
                                     with `joint`) they share one din and the op covers it whole between them. */
    bool add[GR_OP_MAX_IN];       /* add to din instead of writing it: always for op->parameters, never for inputs that
                                     are not in op->adds */
} gr_op_call;

typedef struct gr_op {
    const char *name;
    size_t params_size;
    int n_out; /* outputs that the caller of the op gets; 0 means 1 */
    int n_aux; /* outputs behind them that only the backward reads */
    /* Checks the inputs and fills n_out and out[] dtype and shape. */
    graft_status (*shape)(gr_op_call *c, graft_error *err);
    graft_status (*forward)(gr_op_call *c, graft_error *err);
    /* Never called with all of din absent. */
    graft_status (*backward)(gr_op_call *c, graft_error *err);
    size_t (*scratch)(const gr_op_call *c, bool backward); /* NULL: none. din marks what is wanted in the backward */

    /* Bits of inputs and outputs whose data the backward reads. `saves` (NULL: always these) may take bits away by what
     * c->wants asks for. Auxiliary outputs are named in save_out too. */
    uint32_t save_in, save_out;
    void (*saves)(const gr_op_call *c, uint32_t *in, uint32_t *out);

    uint32_t parameters; /* inputs that hold parameters, F32 (F64 where activations are F64): their gradient has that
                            type, is zeroed before the first use and always added to */
    uint32_t adds;       /* other inputs whose gradient the op can add to what stands there; for those that are not named
                            the caller adds */
    uint32_t passes;     /* inputs whose gradient IS dout[0]: it is shared, their din is always absent */
    bool in_place;       /* out[0] may be the buffer of in[0]. Where it is not, forward copies what it does not write */
    bool grad_in_place;  /* din[0] may be the buffer of dout[0] */
    bool grad_over_in;   /* din[0] may be the buffer of in[0]'s saved data */
    bool joint;          /* one variable may stand at several inputs that get gradients */
    bool cheap;          /* forward is quick and reads only what is saved anyway where in[0] is: its output need not be kept
                            for others, it can be computed again (gr_tape_options.recompute_cheap) */
} gr_op;

#define X(name) extern const gr_op gr_op_##name;
#include "op/op.def"
#undef X

/* Type of parameters, their gradients and row statistics beside activations of type dt. */
static inline gr_dtype gr_param_dtype(gr_dtype dt) { return dt == GR_F64 ? GR_F64 : GR_F32; }

#endif
