#include <math.h>

#include "support/op_case.h"

enum { HEADS = 3, DIM = 6, COLUMN = 2, MAX_ROWS = 64 };

/* Angles by row within the whole, so that a row turns alike in every batch. */
static graft_status apply(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    static float narrow[MAX_ROWS * DIM];
    static double wide[MAX_ROWS * DIM];
    for (int64_t r = 0; r < b->rows; r++)
        for (int i = 0; i < DIM / 2; i++) {
            double angle = (double)(b->row0 + r) / pow(10, i);
            wide[r * DIM + i] = cos(angle);
            wide[r * DIM + DIM / 2 + i] = sin(angle);
        }
    for (int64_t i = 0; i < b->rows * DIM; i++) narrow[i] = (float)wide[i];
    gr_rope_params p = {.column = COLUMN, .n_heads = HEADS, .head_dim = DIM,
                        .cos_sin = b->dt == GR_F64 ? (void *)wide : narrow};
    return op_apply(b, t, &gr_op_rope, in, 1, &p, out, err);
}

const op_case op_cases_rope[] = {
    {.name = "rope", .op = &gr_op_rope, .in = {{OP_ROWS, 0, COLUMN + HEADS * DIM + 5, 0}}, .apply = apply},
    {0},
};
