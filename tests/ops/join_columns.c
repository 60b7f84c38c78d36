#include "support/op_case.h"

static graft_status apply(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return op_apply(b, t, &gr_op_join_columns, in, 2, NULL, out, err);
}

const op_case op_cases_join_columns[] = {
    {.name = "join_columns", .op = &gr_op_join_columns, .in = {{OP_ROWS, 0, 3, 0}, {OP_ROWS, 0, 5, 0}}, .apply = apply},
    {0},
};
