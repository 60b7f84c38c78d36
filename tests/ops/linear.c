#include "support/op_case.h"

enum { K = 12, N0 = 5, N1 = 7 };

static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, int i, bool wide, gr_var **out, graft_error *err) {
    const op_case *k = &op_cases_linear[i];
    gr_linear_params p = {.column = {0, N0}, .wide = wide, .transposed = {k->in[2].rows == K, k->in[2].rows == K}};
    GR_TRY(op_matrix(b, k, 1, k->in[2].kind == OP_NONE ? 1 : 2, p.transposed, &p.w, err));
    gr_var *vars[3] = {in[0], in[1], in[2]};
    for (int j = 1; j < 3; j++)
        if (k->in[j].kind == OP_FROZEN) vars[j] = NULL;
    return op_apply(b, t, &gr_op_linear, vars, 3, &p, out, err);
}

static graft_status trained(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 0, false, out, err);
}
static graft_status frozen(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 1, false, out, err);
}
static graft_status mixed(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 2, false, out, err);
}
static graft_status logits(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 3, true, out, err);
}

const op_case op_cases_linear[] = {
    {.name = "linear", .op = &gr_op_linear, .in = {{OP_ROWS, 0, K, 0}, {OP_PARAM, N0, K, 0}, {OP_PARAM, N1, K, 0}}, .apply = trained},
    {.name = "linear, frozen", .op = &gr_op_linear, .in = {{OP_ROWS, 0, K, 0}, {OP_FROZEN, N0, K, 0}}, .apply = frozen},
    {.name = "linear, second part trained and transposed",
     .op = &gr_op_linear,
     .in = {{OP_ROWS, 0, K, 0}, {OP_FROZEN, K, N0, 0}, {OP_PARAM, K, N1, 0}},
     .apply = mixed},
    {.name = "linear, wide", .op = &gr_op_linear, .in = {{OP_ROWS, 0, K, 0}, {OP_PARAM, N0, K, 0}}, .apply = logits},
    {0},
};
