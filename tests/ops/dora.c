#include "support/op_case.h"

enum { N = 11, K = 12, OUT = 5, R = 3 };

/* `part`: groups 1, 2 and 5 of the whole are covered, the others are not. */
static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, int i, bool transposed, bool part, gr_var **out, graft_error *err) {
    static gr_row_range ranges[OP_GROUPS];
    static uint64_t key[64];
    gr_dora_params p = {.column = 4, .scale = 1.5, .ranges = ranges, .dropout = 0.25, .seed = 3, .stream = 8, .key = key};
    for (int64_t r = 0; r < b->rows; r++) key[r] = (uint64_t)(b->row0 + r) * 3 + 1;
    for (int g = 0; part && g < b->n_groups; g++) {
        int whole = b->first_group + g;
        if (whole == 1 || whole == 2 || whole == 5) ranges[p.n_ranges++] = (gr_row_range){b->bounds[g], b->bounds[g + 1]};
    }
    if (part && !p.n_ranges) ranges[p.n_ranges++] = (gr_row_range){0, 0};
    GR_TRY(op_matrix(b, &op_cases_dora[i], 5, 1, &transposed, &p.w, err));
    return op_apply(b, t, &gr_op_dora, in, 5, &p, out, err);
}

static graft_status all(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 0, false, false, out, err);
}
static graft_status some(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 1, true, true, out, err);
}
static graft_status frozen(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 2, false, true, out, err);
}
static graft_status factor(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 3, false, false, out, err);
}

#define ROWS {OP_ROWS, 0, N, 0}, {OP_ROWS, 0, K, 0}

const op_case op_cases_dora[] = {
    {.name = "dora",
     .op = &gr_op_dora,
     .in = {ROWS, {OP_PARAM, R, K, 0}, {OP_PARAM, OUT, R, 0}, {OP_PARAM, OUT, 0, 1}, {OP_FROZEN, OUT, K, 0}},
     .apply = all},
    {.name = "dora, ranges",
     .op = &gr_op_dora,
     .in = {ROWS, {OP_PARAM, R, K, 0}, {OP_PARAM, OUT, R, 0}, {OP_PARAM, OUT, 0, 1}, {OP_FROZEN, K, OUT, 0}},
     .apply = some},
    {.name = "dora, frozen",
     .op = &gr_op_dora,
     .in = {ROWS, {OP_FROZEN, R, K, 0}, {OP_FROZEN, OUT, R, 0}, {OP_FROZEN, OUT, 0, 1}, {OP_FROZEN, OUT, K, 0}},
     .apply = frozen},
    {.name = "dora, magnitudes alone",
     .op = &gr_op_dora,
     .in = {ROWS, {OP_FROZEN, R, K, 0}, {OP_FROZEN, OUT, R, 0}, {OP_PARAM, OUT, 0, 1}, {OP_FROZEN, OUT, K, 0}},
     .apply = factor},
    {0},
};
