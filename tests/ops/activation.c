#include "support/op_case.h"

static graft_status tanh_of(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    gr_activation_params p = {GR_ACTIVATION_TANH};
    return op_apply(b, t, &gr_op_activation, in, 1, &p, out, err);
}
static graft_status relu_of(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    gr_activation_params p = {GR_ACTIVATION_RELU};
    return op_apply(b, t, &gr_op_activation, in, 1, &p, out, err);
}

const op_case op_cases_activation[] = {
    {.name = "activation, tanh", .op = &gr_op_activation, .in = {{OP_ROWS, 0, 9, 0}}, .apply = tanh_of},
    {.name = "activation, relu", .op = &gr_op_activation, .in = {{OP_ROWS, 0, 9, 0}}, .apply = relu_of},
    {0},
};
