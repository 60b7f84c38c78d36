#include "support/op_case.h"

enum { VOCAB = 13, COLS = 6 };

static const int32_t *ids_of(const op_batch *b) {
    static int32_t ids[64];
    for (int64_t r = 0; r < b->rows; r++) ids[r] = (int32_t)op_draw(20, (uint64_t)(b->row0 + r), VOCAB);
    return ids;
}

static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, double scale, gr_var **out, graft_error *err) {
    gr_embedding_params p = {.n = b->rows, .ids = ids_of(b), .scale = scale};
    GR_TRY(op_matrix(b, op_cases_embedding, 0, 1, NULL, &p.table, err));
    return op_apply(b, t, &gr_op_embedding, in, 1, &p, out, err);
}

static graft_status plain(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 0, out, err);
}

static graft_status scaled(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, 2.5, out, err);
}

const op_case op_cases_embedding[] = {
    {.name = "embedding", .op = &gr_op_embedding, .in = {{OP_PARAM, VOCAB, COLS, 0}}, .apply = plain},
    {.name = "embedding, scaled", .op = &gr_op_embedding, .in = {{OP_PARAM, VOCAB, COLS, 0}}, .apply = scaled},
    {0},
};
