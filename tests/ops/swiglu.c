#include "support/op_case.h"

static graft_status apply(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return op_apply(b, t, &gr_op_swiglu, in, 1, NULL, out, err);
}

const op_case op_cases_swiglu[] = {
    {.name = "swiglu", .op = &gr_op_swiglu, .in = {{OP_ROWS, 0, 14, 0}}, .apply = apply},
    {0},
};
