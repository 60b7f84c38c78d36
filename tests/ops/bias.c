#include "support/op_case.h"

static graft_status apply(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    gr_bias_params p = {.column = 2};
    return op_apply(b, t, &gr_op_bias, in, 2, &p, out, err);
}

const op_case op_cases_bias[] = {
    {.name = "bias", .op = &gr_op_bias, .in = {{OP_ROWS, 0, 7, 0}, {OP_PARAM, 4, 0, 0}}, .apply = apply},
    {.name = "bias, frozen", .op = &gr_op_bias, .in = {{OP_ROWS, 0, 7, 0}, {OP_FROZEN, 4, 0, 0}}, .apply = apply},
    {0},
};
