#include "support/op_case.h"

enum { VOCAB = 19, K = 8 };

static double losses[64];
static int32_t hits[64];

/* Chunks of 4 rows, so that groups and batches end in the middle of one. Every fifth row has no label. */
static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, int i, gr_var **out, graft_error *err) {
    static int32_t labels[64];
    static float weight[64];
    for (int64_t r = 0; r < b->rows; r++) {
        uint64_t row = (uint64_t)(b->row0 + r);
        labels[r] = row % 5 == 4 ? -100 : (int32_t)op_draw(40, row, VOCAB);
        weight[r] = 0.25f * (float)(1 + op_draw(41, row, 4));
    }
    gr_cross_entropy_params p = {.labels = labels, .weight = weight, .chunk = 4, .losses = losses, .hits = hits};
    GR_TRY(op_matrix(b, &op_cases_cross_entropy_head[i], 1, 1, NULL, &p.head, err));
    static const int n_in[] = {1, 2, 4, 6, 9, 9};
    gr_var *to[9] = {in[0], i == 1 || i == 5 ? in[1] : NULL, in[2], in[3], in[4], in[5], NULL, NULL, in[8]};
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
    {0},
};
