#include "support/op_case.h"

enum { VOCAB = 19, K = 8 };

static double losses[64];
static int32_t hits[64];

/* Groups 1, 2 and 5 of the whole are the first update's, 3 the second's, 6 and 7 the third's. */
static void share_rows(const op_batch *b, gr_cross_entropy_params *p) {
    static const int owner[OP_GROUPS] = {-1, 0, 0, 1, -1, 0, 2, 2};
    static gr_row_range ranges[GR_HEAD_UPDATES][OP_GROUPS];
    for (int k = 0; k < GR_HEAD_UPDATES; k++) {
        gr_head_rows *u = &p->update[k];
        u->ranges = ranges[k];
        for (int g = 0; g < b->n_groups; g++)
            if (owner[b->first_group + g] == k) ranges[k][u->n_ranges++] = (gr_row_range){b->bounds[g], b->bounds[g + 1]};
        if (!u->n_ranges) ranges[k][u->n_ranges++] = (gr_row_range){0, 0};
    }
}

/* Chunks of 4 rows, so that groups and batches end in the middle of one. Every fifth row has no label. */
static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, int i, gr_var **out, graft_error *err) {
    static int32_t labels[64];
    static float weight[64];
    for (int64_t r = 0; r < b->rows; r++) {
        uint64_t row = (uint64_t)(b->row0 + r);
        labels[r] = row % 5 == 4 ? -100 : (int32_t)op_draw(40, row, VOCAB);
        weight[r] = 0.25f * (float)(1 + op_draw(41, row, 4));
    }
    static uint64_t key[64];
    for (int64_t r = 0; r < b->rows; r++) key[r] = (uint64_t)(b->row0 + r) * 5 + 2;
    gr_cross_entropy_params p = {.labels = labels, .weight = weight, .chunk = 4, .losses = losses, .hits = hits, .seed = 3, .key = key};
    GR_TRY(op_matrix(b, &op_cases_cross_entropy_head[i], 1, 1, NULL, &p.head, err));
    static const int n_in[] = {1, 2, 4, 6, 9, 9, 10, 12, 12};
    gr_var *to[12] = {in[0], i == 1 || i == 5 ? in[1] : NULL, in[2], in[3], in[4], in[5], in[6], in[7], in[8], in[9], in[10], in[11]};
    if (i >= 7) share_rows(b, &p);
    for (int k = 0; i == 8 && k < GR_HEAD_UPDATES; k++) p.update[k].dropout = k == 1 ? 0 : 0.25 + 0.1 * k;
    for (int k = 0; k < GR_HEAD_UPDATES; k++) p.update[k].stream = (uint64_t)(8 + k);
    return op_apply(b, t, &gr_op_cross_entropy_head, to, n_in[i], &p, out, err);
}

static graft_status frozen(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 0, out, err);
}
static graft_status trained(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 1, out, err);
}

static graft_status updated(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 2, out, err);
}
static graft_status updated_twice(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 3, out, err);
}

static graft_status biased(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 4, out, err);
}
static graft_status biased_trained(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 5, out, err);
}

static graft_status scaled(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 6, out, err);
}
static graft_status scaled_apart(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 7, out, err);
}
static graft_status scaled_dropped(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 8, out, err);
}

const op_case op_cases_cross_entropy_head[] = {
    {.name = "cross_entropy_head, frozen",
     .op = &gr_op_cross_entropy_head,
     .in = {{OP_ROWS, 0, K, 0}, {OP_FROZEN, VOCAB, K, 0}},
     .apply = frozen,
     .scalar = true},
    {.name = "cross_entropy_head, trained",
     .op = &gr_op_cross_entropy_head,
     .in = {{OP_ROWS, 0, K, 0}, {OP_PARAM, VOCAB, K, 0}},
     .apply = trained,
     .scalar = true},
    {.name = "cross_entropy_head, updated",
     .op = &gr_op_cross_entropy_head,
     .in = {{OP_ROWS, 0, K, 0}, {OP_FROZEN, VOCAB, K, 0}, {OP_ROWS, 0, 3, 0}, {OP_PARAM, VOCAB, 3, 0}},
     .apply = updated,
     .scalar = true},
    {.name = "cross_entropy_head, updated twice",
     .op = &gr_op_cross_entropy_head,
     .in = {{OP_ROWS, 0, K, 0}, {OP_FROZEN, VOCAB, K, 0}, {OP_ROWS, 0, 3, 0}, {OP_FROZEN, VOCAB, 3, 0}, {OP_ROWS, 0, 2, 0},
            {OP_PARAM, VOCAB, 2, 0}},
     .apply = updated_twice,
     .scalar = true},
    {.name = "cross_entropy_head, frozen, with a bias",
     .op = &gr_op_cross_entropy_head,
     .in = {[0] = {OP_ROWS, 0, K, 0}, [1] = {OP_FROZEN, VOCAB, K, 0}, [8] = {OP_FROZEN, VOCAB, 0, 0}},
     .apply = biased,
     .scalar = true},
    {.name = "cross_entropy_head, trained with its bias, updated",
     .op = &gr_op_cross_entropy_head,
     .in = {[0] = {OP_ROWS, 0, K, 0}, [1] = {OP_PARAM, VOCAB, K, 0}, [2] = {OP_ROWS, 0, 3, 0}, [3] = {OP_PARAM, VOCAB, 3, 0},
            [8] = {OP_PARAM, VOCAB, 0, 0}},
     .apply = biased_trained,
     .scalar = true},
    {.name = "cross_entropy_head, scaled",
     .op = &gr_op_cross_entropy_head,
     .in = {[0] = {OP_ROWS, 0, K, 0}, [1] = {OP_FROZEN, VOCAB, K, 0}, [2] = {OP_ROWS, 0, 3, 0}, [3] = {OP_PARAM, VOCAB, 3, 0},
            [9] = {OP_PARAM, VOCAB, 0, 1}},
     .apply = scaled,
     .scalar = true},
    {.name = "cross_entropy_head, scaled on rows of three updates, with a bias",
     .op = &gr_op_cross_entropy_head,
     .in = {{OP_ROWS, 0, K, 0}, {OP_FROZEN, VOCAB, K, 0}, {OP_ROWS, 0, 3, 0}, {OP_PARAM, VOCAB, 3, 0}, {OP_ROWS, 0, 2, 0},
            {OP_PARAM, VOCAB, 2, 0}, {OP_ROWS, 0, 1, 0}, {OP_PARAM, VOCAB, 1, 0}, {OP_PARAM, VOCAB, 0, 0}, {OP_PARAM, VOCAB, 0, 1},
            {OP_FROZEN, VOCAB, 0, 1}, {OP_PARAM, VOCAB, 0, 1}},
     .apply = scaled_apart,
     .scalar = true},
    {.name = "cross_entropy_head, scaled with dropout",
     .op = &gr_op_cross_entropy_head,
     .in = {{OP_ROWS, 0, K, 0}, {OP_FROZEN, VOCAB, K, 0}, {OP_ROWS, 0, 3, 0}, {OP_PARAM, VOCAB, 3, 0}, {OP_ROWS, 0, 2, 0},
            {OP_PARAM, VOCAB, 2, 0}, {OP_ROWS, 0, 1, 0}, {OP_FROZEN, VOCAB, 1, 0}, {OP_FROZEN, VOCAB, 0, 0}, {OP_PARAM, VOCAB, 0, 1},
            {OP_PARAM, VOCAB, 0, 1}, {OP_PARAM, VOCAB, 0, 1}},
     .apply = scaled_dropped,
     .scalar = true},
    {0},
};
