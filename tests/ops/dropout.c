#include "support/op_case.h"

static graft_status apply(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    static uint64_t key[64];
    for (int64_t r = 0; r < b->rows; r++) key[r] = (uint64_t)(b->row0 + r) * 1000;
    gr_dropout_params p = {.p = 0.3, .seed = 3, .stream = 8, .key = key};
    return op_apply(b, t, &gr_op_dropout, in, 1, &p, out, err);
}

const op_case op_cases_dropout[] = {
    {.name = "dropout", .op = &gr_op_dropout, .in = {{OP_ROWS, 0, 9, 0}}, .apply = apply},
    {0},
};
