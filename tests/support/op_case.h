/* Cases of ops: tests/ops/NAME.c describes for each op of op.def how it is called; tests/unit/test_ops.c checks on every
 * case the gradient in double, F32 and BF16 against double, and the laws that every op keeps. */
#ifndef TEST_OP_CASE_H
#define TEST_OP_CASE_H

#include "graph/graph.h"
#include "support/support.h"

enum { OP_GROUPS = 8, OP_MAX_MATRICES = 8 };

typedef enum op_input_kind {
    OP_NONE,   /* absent */
    OP_ROWS,   /* rows of activations: as many as the batch has */
    OP_PICKS,  /* the same, as many as groups * picks */
    OP_FIXED,  /* (rows, cols) of activations, the same for every batch; gradients of cut batches are not compared */
    OP_PARAM,  /* parameter (rows, cols), or (rows) where cols is 0 */
    OP_FROZEN, /* the same without a gradient */
    OP_SAME    /* the variable of input 0 */
} op_input_kind;

typedef struct op_input {
    op_input_kind kind;
    int64_t rows, cols;
    double shift; /* added to the random values */
} op_input;

/* A run of neighbouring groups of the whole: what the case is called with. */
typedef struct op_batch {
    gr_device *dev;
    gr_dtype dt;
    int first_group, n_groups;
    int64_t row0, rows;          /* rows of these groups within the whole */
    const int32_t *bounds;       /* n_groups + 1, from 0 */
    void *value[GR_OP_MAX_IN];   /* of every input, in the tape or not (weights for gr_matrix) */
    bool consume;                /* input 0 is handed over */
    int n_matrices;
    gr_matrix *matrix[OP_MAX_MATRICES]; /* freed after the backward */
} op_batch;

typedef struct op_case {
    const char *name; /* NULL ends the list */
    const gr_op *op;
    op_input in[GR_OP_MAX_IN];
    /* Applies the op. in[i] belongs to input i (NULL: OP_NONE). */
    graft_status (*apply)(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err);
    int64_t picks;  /* output rows (and OP_PICKS rows) are groups * picks; 0: as many as the batch has */
    int step;       /* a batch may be cut after every step-th group; 0: after each */
    bool scalar;    /* the output is one sum over all rows */
} op_case;

#define X(name) extern const op_case op_cases_##name[];
#include "op/op.def"
#undef X

/* The whole: OP_GROUPS groups of different lengths, one of them empty. */
extern const int32_t op_bounds[OP_GROUPS + 1];

/* in[] as it goes to the op: gr_tape_apply, or gr_tape_apply_consume where the batch says so. */
graft_status op_apply(op_batch *b, gr_tape *t, const gr_op *op, gr_var *const *in, int n_in, const void *params,
                      gr_var **out, graft_error *err);
/* A matrix whose parts are the values of inputs first .. first + n - 1 of the case. */
graft_status op_matrix(op_batch *b, const op_case *k, int first, int n, const bool *transposed, gr_matrix **out,
                       graft_error *err);
/* Pseudo-random numbers by place. */
double op_normal(uint64_t stream, uint64_t index);
uint64_t op_draw(uint64_t stream, uint64_t index, uint64_t below);

#endif
