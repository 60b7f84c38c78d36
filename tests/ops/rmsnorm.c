#include "support/op_case.h"

static graft_status apply(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    gr_rmsnorm_params p = {.eps = 1e-2};
    return op_apply(b, t, &gr_op_rmsnorm, in, 2, &p, out, err);
}

const op_case op_cases_rmsnorm[] = {
    {.name = "rmsnorm", .op = &gr_op_rmsnorm, .in = {{OP_ROWS, 0, 11, 0}, {OP_PARAM, 11, 0, 1}}, .apply = apply},
    {.name = "rmsnorm, frozen", .op = &gr_op_rmsnorm, .in = {{OP_ROWS, 0, 40, 0}, {OP_FROZEN, 40, 0, 1}}, .apply = apply},
    {0},
};
