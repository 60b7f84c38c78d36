#include "support/op_case.h"

static graft_status apply(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return op_apply(b, t, &gr_op_low_rank, in, 3, NULL, out, err);
}

const op_case op_cases_low_rank[] = {
    {.name = "low_rank", .op = &gr_op_low_rank, .in = {{OP_ROWS, 0, 9, 0}, {OP_ROWS, 0, 3, 0}, {OP_PARAM, 9, 3, 0}}, .apply = apply},
    {.name = "low_rank, frozen",
     .op = &gr_op_low_rank,
     .in = {{OP_ROWS, 0, 9, 0}, {OP_ROWS, 0, 3, 0}, {OP_FROZEN, 9, 3, 0}},
     .apply = apply},
    {0},
};
