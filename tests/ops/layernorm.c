#include "support/op_case.h"

static graft_status with_bias(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    gr_layernorm_params p = {.eps = 1e-2};
    return op_apply(b, t, &gr_op_layernorm, in, 3, &p, out, err);
}

static graft_status without_bias(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    gr_layernorm_params p = {.eps = 1e-2};
    return op_apply(b, t, &gr_op_layernorm, in, 2, &p, out, err);
}

const op_case op_cases_layernorm[] = {
    {.name = "layernorm",
     .op = &gr_op_layernorm,
     .in = {{OP_ROWS, 0, 11, 3}, {OP_PARAM, 11, 0, 1}, {OP_PARAM, 11, 0, 0}},
     .apply = with_bias},
    {.name = "layernorm, frozen",
     .op = &gr_op_layernorm,
     .in = {{OP_ROWS, 0, 40, 0}, {OP_FROZEN, 40, 0, 1}, {OP_FROZEN, 40, 0, 0}},
     .apply = with_bias},
    {.name = "layernorm, bias alone trained",
     .op = &gr_op_layernorm,
     .in = {{OP_ROWS, 0, 9, 0}, {OP_FROZEN, 9, 0, 1}, {OP_PARAM, 9, 0, 0}},
     .apply = with_bias},
    {.name = "layernorm, no bias", .op = &gr_op_layernorm, .in = {{OP_ROWS, 0, 11, 0}, {OP_PARAM, 11, 0, 1}}, .apply = without_bias},
    {0},
};
