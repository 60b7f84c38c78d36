#include "support/op_case.h"

/* `part`: groups 1, 2 and 5 of the whole are covered, the others are not. */
static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, int n_in, bool part, gr_var **out, graft_error *err) {
    static gr_row_range ranges[OP_GROUPS];
    gr_scale_columns_params p = {.column = 2, .ranges = ranges};
    for (int g = 0; part && g < b->n_groups; g++) {
        int whole = b->first_group + g;
        if (whole == 1 || whole == 2 || whole == 5) ranges[p.n_ranges++] = (gr_row_range){b->bounds[g], b->bounds[g + 1]};
    }
    if (part && !p.n_ranges) ranges[p.n_ranges++] = (gr_row_range){0, 0};
    return op_apply(b, t, &gr_op_scale_columns, in, n_in, &p, out, err);
}

static graft_status all(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 2, false, out, err);
}
static graft_status some(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 2, true, out, err);
}

static graft_status shifted(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 3, true, out, err);
}

const op_case op_cases_scale_columns[] = {
    {.name = "scale_columns", .op = &gr_op_scale_columns, .in = {{OP_ROWS, 0, 7, 0}, {OP_PARAM, 4, 0, 1}}, .apply = all},
    {.name = "scale_columns, ranges", .op = &gr_op_scale_columns, .in = {{OP_ROWS, 0, 7, 0}, {OP_PARAM, 5, 0, 1}},
     .apply = some},
    {.name = "scale_columns, frozen", .op = &gr_op_scale_columns, .in = {{OP_ROWS, 0, 7, 0}, {OP_FROZEN, 4, 0, 1}},
     .apply = some},
    {.name = "scale_columns, shift",
     .op = &gr_op_scale_columns,
     .in = {{OP_ROWS, 0, 7, 0}, {OP_PARAM, 4, 0, 1}, {OP_PARAM, 4, 0, 0}},
     .apply = shifted},
    {0},
};
