#include "support/op_case.h"

enum { N = 14, K = 9 };

static const uint64_t *keys_of(const op_batch *b) {
    static uint64_t key[64];
    for (int64_t r = 0; r < b->rows; r++) key[r] = (uint64_t)(b->row0 + r) * 7;
    return key;
}

static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, double dropout, bool ranges, gr_var **out,
                        graft_error *err) {
    gr_lora_params p = {.column = {0, 5, 9}, .scale = {2, 0.5, 1}, .dropout = dropout, .seed = 4, .stream = {50, 51, 52},
                        .key = keys_of(b)};
    /* An adapter for groups 1, 2 and 5 of the whole only. */
    static gr_row_range covered[OP_GROUPS];
    for (int g = 0; ranges && g < b->n_groups; g++) {
        int group = b->first_group + g;
        if (group == 1 || group == 2 || group == 5) covered[p.n_ranges++] = (gr_row_range){b->bounds[g], b->bounds[g + 1]};
    }
    if (ranges && !p.n_ranges) covered[p.n_ranges++] = (gr_row_range){0, 0};
    p.ranges = covered;
    return op_apply(b, t, &gr_op_lora, in, 8, &p, out, err);
}

static graft_status plain(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 0, false, out, err);
}
static graft_status dropped(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 0.25, false, out, err);
}
static graft_status some_rows(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 0, true, out, err);
}
static graft_status some_rows_dropped(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 0.25, true, out, err);
}

#define PAIR(kind, rank, n) {kind, rank, K, 0}, {kind, n, rank, 0}

const op_case op_cases_lora[] = {
    {.name = "lora",
     .op = &gr_op_lora,
     .in = {{OP_ROWS, 0, N, 0}, {OP_ROWS, 0, K, 0}, PAIR(OP_PARAM, 2, 5), PAIR(OP_PARAM, 3, 4), PAIR(OP_PARAM, 1, 5)},
     .apply = plain},
    {.name = "lora, two of three",
     .op = &gr_op_lora,
     .in = {{OP_ROWS, 0, N, 0}, {OP_ROWS, 0, K, 0}, PAIR(OP_PARAM, 2, 5), {0}, {0}, PAIR(OP_PARAM, 4, 5)},
     .apply = plain},
    {.name = "lora, dropout",
     .op = &gr_op_lora,
     .in = {{OP_ROWS, 0, N, 0}, {OP_ROWS, 0, K, 0}, PAIR(OP_PARAM, 2, 5), PAIR(OP_PARAM, 3, 4), PAIR(OP_PARAM, 1, 5)},
     .apply = dropped},
    {.name = "lora, some rows",
     .op = &gr_op_lora,
     .in = {{OP_ROWS, 0, N, 0}, {OP_ROWS, 0, K, 0}, PAIR(OP_PARAM, 2, 5), PAIR(OP_FROZEN, 3, 4)},
     .apply = some_rows},
    {.name = "lora, some rows, dropout",
     .op = &gr_op_lora,
     .in = {{OP_ROWS, 0, N, 0}, {OP_ROWS, 0, K, 0}, PAIR(OP_PARAM, 2, 5), PAIR(OP_PARAM, 3, 4)},
     .apply = some_rows_dropped},
    {.name = "lora, frozen",
     .op = &gr_op_lora,
     .in = {{OP_ROWS, 0, N, 0}, {OP_ROWS, 0, K, 0}, PAIR(OP_FROZEN, 2, 5), PAIR(OP_FROZEN, 3, 4)},
     .apply = plain},
    {0},
};
