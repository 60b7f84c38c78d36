#include "support/op_case.h"

static graft_status apply(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return op_apply(b, t, &gr_op_swiglu, in, 1, NULL, out, err);
}

#define FUNCTION(F)                                                                                                    \
    static graft_status gated_##F(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {        \
        gr_swiglu_params p = {GR_ACTIVATION_##F};                                                                      \
        return op_apply(b, t, &gr_op_swiglu, in, 1, &p, out, err);                                                     \
    }
GR_ACTIVATIONS(FUNCTION)

#define CASE(F) {.name = "swiglu, " #F, .op = &gr_op_swiglu, .in = {{OP_ROWS, 0, 38, 0}}, .apply = gated_##F},

const op_case op_cases_swiglu[] = {
    {.name = "swiglu", .op = &gr_op_swiglu, .in = {{OP_ROWS, 0, 14, 0}}, .apply = apply},
    GR_ACTIVATIONS(CASE)
    {0},
};
