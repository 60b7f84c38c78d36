#include "support/op_case.h"

static graft_status apply(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return op_apply(b, t, &gr_op_add, in, 2, NULL, out, err);
}

const op_case op_cases_add[] = {
    {.name = "add", .op = &gr_op_add, .in = {{OP_ROWS, 0, 5, 0}, {OP_ROWS, 0, 5, 0}}, .apply = apply},
    {.name = "add to itself", .op = &gr_op_add, .in = {{OP_ROWS, 0, 5, 0}, {.kind = OP_SAME}}, .apply = apply},
    {0},
};
