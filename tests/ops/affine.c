#include "support/op_case.h"

static graft_status apply(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return op_apply(b, t, &gr_op_affine, in, 3, NULL, out, err);
}

const op_case op_cases_affine[] = {
    {.name = "affine", .op = &gr_op_affine, .in = {{OP_ROWS, 0, 9, 0}, {OP_PARAM, 5, 9, 0}, {OP_PARAM, 5, 0, 0}},
     .apply = apply},
    {.name = "affine, no bias", .op = &gr_op_affine, .in = {{OP_ROWS, 0, 9, 0}, {OP_PARAM, 5, 9, 0}}, .apply = apply},
    {.name = "affine, frozen", .op = &gr_op_affine, .in = {{OP_ROWS, 0, 9, 0}, {OP_FROZEN, 5, 9, 0}, {OP_FROZEN, 5, 0, 0}},
     .apply = apply},
    {0},
};
