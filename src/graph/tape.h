/* Inside of the tape, for the files of this room.
 *
 * Three kinds of objects, all in the tape's arena, which is rewound at a reset. A buffer is a block of the pool (or
 * borrowed memory) with a count of those who need it: a variable with handles, a node that saved it, a gradient. A
 * variable is dtype, shape, buffer and gradient; as an object it lives until the reset, its buffer only as long as the
 * caller keeps a handle. A node is one op applied, or one checkpoint. */
#ifndef GR_GRAPH_TAPE_H
#define GR_GRAPH_TAPE_H

#include "graph/graph.h"

typedef struct gr_buffer {
    int refs;
    void *data;  /* NULL in a dry tape */
    void *block; /* of the pool; NULL: borrowed memory */
    struct gr_buffer *next, **link; /* list of all live ones; next also chains the free ones */
} gr_buffer;

typedef struct gr_node gr_node;

struct gr_var {
    gr_tape *tape;
    int handles;
    bool needs_grad;
    gr_array array;      /* data NULL once no handle is left, and in a dry tape */
    gr_buffer *buffer;   /* NULL once no handle is left */
    bool has_accumulator;
    void *accumulator;   /* parameters: the caller's gradient */
    gr_buffer *grad;
    gr_array grad_array; /* what gr_tape_grad gives */
    gr_node *producer;   /* while it is recorded */
    gr_buffer *again;    /* output of a cheap op that was computed again; kept until its node's backward is done */
};

struct gr_node {
    gr_node *below; /* recorded before */
    const gr_op *op; /* NULL: a checkpoint */
    const void *params;
    gr_tape_body body;
    void *arg;
    int n_in, n_out; /* n_out with the auxiliary outputs */
    uint32_t wants;
    uint32_t again; /* bits of inputs that are not saved but computed again by their producer */
    int n_groups;
    const int32_t *group;
    gr_var *in[GR_OP_MAX_IN], *out[GR_OP_MAX_OUT];
    gr_array out_array[GR_OP_MAX_OUT]; /* dtype and shape */
    gr_buffer *saved_in[GR_OP_MAX_IN], *saved_out[GR_OP_MAX_OUT];
};

struct gr_tape {
    gr_device *dev;
    gr_pool *pool;
    gr_tape_options options;
    gr_arena arena;
    gr_buffer *live, *free;
    gr_node *last;
    int paused; /* inside the forward of a checkpoint: gradients are followed, nothing is recorded */
    int n_groups;
    const int32_t *group;
};

/* Present but untouchable, for the calls of a dry tape. */
#define GR_DRY_MARK ((void *)(uintptr_t)64)

graft_status gr_buffer_new(gr_tape *t, gr_dtype dt, const gr_shape *shape, gr_buffer **out, graft_error *err);
static inline gr_buffer *gr_buffer_keep(gr_buffer *b) {
    b->refs++;
    return b;
}
void gr_buffer_drop(gr_tape *t, gr_buffer *b); /* NULL allowed */
/* What an op gets for this buffer. */
static inline void *gr_buffer_data(const gr_tape *t, const gr_buffer *b) {
    return !b ? NULL : t->options.dry ? GR_DRY_MARK : b->data;
}

graft_status gr_var_new(gr_tape *t, gr_dtype dt, const gr_shape *shape, gr_buffer *buffer, gr_var **out, graft_error *err);

/* Forward of a call whose arrays are set: scratch and, unless dry, the op itself. */
graft_status gr_tape_run(gr_tape *t, const gr_op *op, gr_op_call *c, bool backward, graft_error *err);

#endif
