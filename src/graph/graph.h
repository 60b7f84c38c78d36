/* Room 5, graph: the tape. Ops applied to variables are run at once and recorded; gr_tape_backward walks the record.
 * Memory of a step comes from a gr_pool that is rewound each step; a dry tape runs shapes and allocation only, so that
 * the peak of a step is known, exactly, before it is run. */
#ifndef GR_GRAPH_H
#define GR_GRAPH_H

#include "op/op.h"
#include "op/params.h"

/* --- Pool: the step arena ----------------------------------------------------------------------------------------- */

/* Blocks with 64-byte alignment out of one region, best fit, neighbours merged. The sequence of calls decides the
 * offsets, nothing else (not the region's size), so a dry pool (no memory behind it) sees exactly the peak of the real
 * one, and a region of that many bytes is enough. A pool that was made too small takes further regions from the
 * allocator, and one region as large as all of them once it is empty again. */
typedef struct gr_pool gr_pool;
graft_status gr_pool_new(const graft_allocator *a, size_t bytes, bool dry, gr_pool **out, graft_error *err);
void gr_pool_free(gr_pool *p);
/* A dry pool gives addresses that must not be touched. */
graft_status gr_pool_take(gr_pool *p, size_t bytes, void **out, graft_error *err);
void gr_pool_give(gr_pool *p, void *block); /* NULL allowed */
size_t gr_pool_peak(const gr_pool *p);      /* bytes, since the last gr_pool_reset_peak */
void gr_pool_reset_peak(gr_pool *p);
size_t gr_pool_used(const gr_pool *p);      /* bytes of the blocks that are out now */
size_t gr_pool_bytes(const gr_pool *p);     /* taken from the allocator now; 0 when dry */

/* --- Variables ------------------------------------------------------------------------------------------------------ */

/* A value on the tape. Reference-counted: gr_tape_apply gives the caller one reference to each output; gr_var_drop
 * gives it back. The tape keeps for the backward what the ops name in save_in and save_out, nothing else. */
typedef struct gr_var gr_var;
const gr_array *gr_var_array(const gr_var *v); /* in a dry tape data is NULL */
bool gr_var_needs_grad(const gr_var *v);
gr_var *gr_var_keep(gr_var *v);
void gr_var_drop(gr_var *v); /* NULL allowed */

/* --- Tape ----------------------------------------------------------------------------------------------------------- */

typedef struct gr_tape gr_tape;
typedef struct gr_tape_options {
    bool record; /* false: no backward will follow (inference, evaluation) */
    bool dry;    /* shapes and memory only; no data is touched. The pool must be dry too */
    bool recompute_cheap; /* outputs of cheap ops (norms, activations) are not kept for the backward but made again */
} gr_tape_options;
graft_status gr_tape_new(gr_device *d, gr_pool *pool, const gr_tape_options *o, gr_tape **out, graft_error *err);
void gr_tape_free(gr_tape *t);  /* drops all variables of the tape */
void gr_tape_reset(gr_tape *t); /* the same, ready for the next step */
gr_device *gr_tape_device(const gr_tape *t);
bool gr_tape_is_dry(const gr_tape *t);
bool gr_tape_records(const gr_tape *t);

/* Row groups given to every op that follows (gr_op_call.group); n + 1 bounds, borrowed until the backward is done;
 * n 0: all rows are one group. They must cover the rows of every op that sums gradients of parameters over rows. */
void gr_tape_set_groups(gr_tape *t, int n, const int32_t *bounds);

/* A variable over memory of the caller (borrowed): constants, parameters. grad: F32 (F64) accumulator that outlives the
 * tape, NULL when no gradient is wanted. In a dry tape a->data may be NULL and grad any address, untouched. */
graft_status gr_tape_leaf(gr_tape *t, const gr_array *a, void *grad, gr_var **out, graft_error *err);
/* A variable with pool memory that the caller fills (in a dry tape data is NULL). needs_grad: its gradient can be read
 * with gr_tape_grad after the backward (tests, virtual rows). */
graft_status gr_tape_input(gr_tape *t, gr_dtype dt, const gr_shape *shape, bool needs_grad, gr_var **out, graft_error *err);

/* Runs `op` (in[i] NULL: absent optional input), records it when needed; op->n_out outputs go to out[]. `params`
 * (params_size bytes) is copied. References to in[] stay with the caller: drop them when done. An in-place op takes over
 * in[0]'s buffer when the caller has marked it with gr_tape_apply_consume, which also drops the caller's reference to
 * in[0] (on success only), and when nobody else needs what stands there; else it writes a new one. After a failure in
 * the middle of an in-place op the content of in[0] is lost. */
graft_status gr_tape_apply(gr_tape *t, const gr_op *op, gr_var *const *in, int n_in, const void *params, gr_var **out,
                           graft_error *err);
graft_status gr_tape_apply_consume(gr_tape *t, const gr_op *op, gr_var **in, int n_in, const void *params, gr_var **out,
                                   graft_error *err);

/* Recomputation (Chen et al. 2016): runs `body` without recording and keeps only in[]; the backward runs it again with
 * recording. The body must be a pure function of in[] and arg, and arg must live until the backward is done. It makes its
 * leaves itself (parameters too) and gives one output with one reference; references to in[] are not its own to drop. */
typedef graft_status (*gr_tape_body)(gr_tape *t, void *arg, gr_var *const *in, int n_in, gr_var **out, graft_error *err);
graft_status gr_tape_checkpoint(gr_tape *t, gr_tape_body body, void *arg, gr_var *const *in, int n_in, gr_var **out,
                                graft_error *err);

/* Backward from `root` with gradient `seed` (same dtype and shape; NULL: ones). Parameters' gradients are added to their
 * accumulators. Nodes below which nothing needs a gradient are never visited. The record is consumed. */
graft_status gr_tape_backward(gr_tape *t, gr_var *root, const gr_array *seed, graft_error *err);
/* Gradient of a gr_tape_input variable after the backward; NULL when none arrived. Lives until the tape is reset. */
const gr_array *gr_tape_grad(const gr_tape *t, const gr_var *v);

/* --- Gradient check ------------------------------------------------------------------------------------------------- */

/* Compares the backward of `body` with central differences of sum(out * w), w fixed pseudo-random, in double. in[]: F64
 * arrays. Returns the largest error relative to max(1, |gradient|) in *worst. Used by tests for every op. */
graft_status gr_grad_check(gr_device *d, gr_tape_body body, void *arg, gr_array *in, int n_in, double step,
                           double *worst, graft_error *err);

#endif
