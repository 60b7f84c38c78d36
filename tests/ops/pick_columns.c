#include "support/op_case.h"

enum { VOCAB = 13, RANK = 3 };

/* `part`: groups 1, 2 and 5 of the whole are covered, the others are not. */
static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, bool part, bool pad, gr_var **out, graft_error *err) {
    static int32_t ids[64];
    static gr_row_range ranges[OP_GROUPS];
    gr_pick_columns_params p = {.dt = b->dt, .scale = 1.5, .n = b->rows, .ids = ids, .has_pad = pad, .pad_id = 4};
    for (int64_t r = 0; r < b->rows; r++) {
        ids[r] = (int32_t)op_draw(21, (uint64_t)(b->row0 + r), VOCAB);
        if (pad && ids[r] == 4) ids[r] = 5; /* the pad's missing gradient is no derivative */
    }
    for (int g = 0; part && g < b->n_groups; g++) {
        int whole = b->first_group + g;
        if (whole == 1 || whole == 2 || whole == 5) ranges[p.n_ranges++] = (gr_row_range){b->bounds[g], b->bounds[g + 1]};
    }
    if (part && !p.n_ranges) ranges[p.n_ranges++] = (gr_row_range){0, 0};
    p.ranges = ranges;
    return op_apply(b, t, &gr_op_pick_columns, in, 1, &p, out, err);
}

static graft_status all(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, false, true, out, err);
}
static graft_status some(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, true, false, out, err);
}

const op_case op_cases_pick_columns[] = {
    {.name = "pick_columns", .op = &gr_op_pick_columns, .in = {{OP_PARAM, RANK, VOCAB, 0}}, .apply = all},
    {.name = "pick_columns, ranges", .op = &gr_op_pick_columns, .in = {{OP_PARAM, RANK, VOCAB, 0}}, .apply = some},
    {0},
};
