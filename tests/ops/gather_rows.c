#include "support/op_case.h"

enum { FIXED = 6 };

/* The first and the last row of each group; the row before, twice, where a group is empty. */
static graft_status ends(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    static int32_t rows[2 * OP_GROUPS];
    for (int g = 0; g < b->n_groups; g++) {
        rows[2 * g + 1] = b->bounds[g + 1] - 1;
        rows[2 * g] = GR_MIN(b->bounds[g], rows[2 * g + 1]);
    }
    gr_gather_rows_params p = {.n = 2 * b->n_groups, .rows = rows};
    return op_apply(b, t, &gr_op_gather_rows, in, 1, &p, out, err);
}

/* Every other row: ascending, so that nothing is added. */
static graft_status ascending(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    static int32_t rows[2] = {1, 4};
    gr_gather_rows_params p = {.n = 2, .rows = rows};
    (void)b;
    return op_apply(b, t, &gr_op_gather_rows, in, 1, &p, out, err);
}

static graft_status repeated(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    static int32_t rows[64];
    for (int64_t r = 0; r < b->rows; r++) rows[r] = (int32_t)op_draw(30, (uint64_t)(b->row0 + r), FIXED);
    gr_gather_rows_params p = {.n = b->rows, .rows = rows};
    return op_apply(b, t, &gr_op_gather_rows, in, 1, &p, out, err);
}

const op_case op_cases_gather_rows[] = {
    {.name = "gather_rows", .op = &gr_op_gather_rows, .in = {{OP_ROWS, 0, 5, 0}}, .apply = ends, .picks = 2, .step = 4},
    {.name = "gather_rows, ascending", .op = &gr_op_gather_rows, .in = {{OP_FIXED, FIXED, 5, 0}}, .apply = ascending, .scalar = true},
    {.name = "gather_rows, repeated", .op = &gr_op_gather_rows, .in = {{OP_FIXED, FIXED, 5, 0}}, .apply = repeated},
    {0},
};
