#include "support/op_case.h"

/* 3 q heads and 1 k head of 4, then 4 columns of v. */
static graft_status apply(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    gr_qkv_norm_params p = {.n_heads = 3, .n_kv_heads = 1, .head_dim = 4, .eps = 1e-2};
    return op_apply(b, t, &gr_op_qkv_norm, in, 3, &p, out, err);
}

const op_case op_cases_qkv_norm[] = {
    {.name = "qkv_norm",
     .op = &gr_op_qkv_norm,
     .in = {{OP_ROWS, 0, 20, 0}, {OP_PARAM, 4, 0, 1}, {OP_PARAM, 4, 0, 1}},
     .apply = apply},
    {.name = "qkv_norm without v",
     .op = &gr_op_qkv_norm,
     .in = {{OP_ROWS, 0, 16, 0}, {OP_FROZEN, 4, 0, 1}, {OP_PARAM, 4, 0, 1}},
     .apply = apply},
    {0},
};
