#include "support/op_case.h"

enum { N = 11, K = 12, OUT = 5 };

/* `part`: groups 1, 2 and 5 of the whole are covered, the others are not. */
static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, int i, bool transposed, bool part, gr_var **out, graft_error *err) {
    static gr_row_range ranges[OP_GROUPS];
    gr_rotate_params p = {.column = 4, .ranges = ranges};
    for (int g = 0; part && g < b->n_groups; g++) {
        int whole = b->first_group + g;
        if (whole == 1 || whole == 2 || whole == 5) ranges[p.n_ranges++] = (gr_row_range){b->bounds[g], b->bounds[g + 1]};
    }
    if (part && !p.n_ranges) ranges[p.n_ranges++] = (gr_row_range){0, 0};
    GR_TRY(op_matrix(b, &op_cases_rotate[i], 3, 1, &transposed, &p.w, err));
    return op_apply(b, t, &gr_op_rotate, in, 3, &p, out, err);
}

static graft_status blocks(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 0, false, false, out, err);
}
static graft_status shared(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 1, false, true, out, err);
}
static graft_status whole(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 2, true, true, out, err);
}
static graft_status frozen(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 3, false, true, out, err);
}

#define ROWS {OP_ROWS, 0, N, 0}, {OP_ROWS, 0, K, 0}

const op_case op_cases_rotate[] = {
    {.name = "rotate", .op = &gr_op_rotate, .in = {ROWS, {OP_PARAM, K, 3, 0}, {OP_FROZEN, OUT, K, 0}}, .apply = blocks},
    {.name = "rotate, shared", .op = &gr_op_rotate, .in = {ROWS, {OP_PARAM, 4, 4, 0}, {OP_FROZEN, OUT, K, 0}}, .apply = shared},
    {.name = "rotate, one block", .op = &gr_op_rotate, .in = {ROWS, {OP_PARAM, K, K, 0}, {OP_FROZEN, K, OUT, 0}}, .apply = whole},
    {.name = "rotate, frozen", .op = &gr_op_rotate, .in = {ROWS, {OP_FROZEN, K, 6, 0}, {OP_FROZEN, OUT, K, 0}}, .apply = frozen},
    {0},
};
