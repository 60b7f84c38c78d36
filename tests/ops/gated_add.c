#include "support/op_case.h"

/* `part`: groups 1, 2 and 5 of the whole are covered, the others are not. */
static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, bool part, gr_var **out, graft_error *err) {
    static gr_row_range ranges[OP_GROUPS];
    gr_gated_add_params p = {.factor = 0.5, .ranges = ranges};
    for (int g = 0; part && g < b->n_groups; g++) {
        int whole = b->first_group + g;
        if (whole == 1 || whole == 2 || whole == 5) ranges[p.n_ranges++] = (gr_row_range){b->bounds[g], b->bounds[g + 1]};
    }
    if (part && !p.n_ranges) ranges[p.n_ranges++] = (gr_row_range){0, 0};
    return op_apply(b, t, &gr_op_gated_add, in, 3, &p, out, err);
}

static graft_status all(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, false, out, err);
}
static graft_status some(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, true, out, err);
}

const op_case op_cases_gated_add[] = {
    {.name = "gated_add", .op = &gr_op_gated_add, .in = {{OP_ROWS, 0, 7, 0}, {OP_ROWS, 0, 7, 0}, {OP_PARAM, 1, 0, 0}},
     .apply = all},
    {.name = "gated_add, ranges", .op = &gr_op_gated_add, .in = {{OP_ROWS, 0, 7, 0}, {OP_ROWS, 0, 7, 0}, {OP_PARAM, 1, 0, 0}},
     .apply = some},
    {.name = "gated_add, frozen", .op = &gr_op_gated_add, .in = {{OP_ROWS, 0, 7, 0}, {OP_ROWS, 0, 7, 0}, {OP_FROZEN, 1, 0,
                                                                                                          0}}, .apply = some},
    {0},
};
