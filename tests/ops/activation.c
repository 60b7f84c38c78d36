#include "support/op_case.h"

#define FUNCTION(F)                                                                                                    \
    static graft_status apply_##F(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {        \
        gr_activation_params p = {GR_ACTIVATION_##F};                                                                  \
        return op_apply(b, t, &gr_op_activation, in, 1, &p, out, err);                                                 \
    }
GR_ACTIVATIONS(FUNCTION)

#define CASE(F) {.name = "activation, " #F, .op = &gr_op_activation, .in = {{OP_ROWS, 0, 19, 0}}, .apply = apply_##F},

const op_case op_cases_activation[] = {GR_ACTIVATIONS(CASE){0}};
