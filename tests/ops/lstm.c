#include "support/op_case.h"

static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, bool reverse, gr_var **out, graft_error *err) {
    gr_lstm_params p = {.reverse = reverse};
    return op_apply(b, t, &gr_op_lstm, in, 5, &p, out, err);
}
static graft_status forwards(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, false, out, err);
}
static graft_status backwards(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    return run(b, t, in, true, out, err);
}

/* Rows depend on each other: the batch is never cut. */
#define WEIGHTS(kind) {OP_ROWS, 0, 5, 0}, {kind, 12, 5, 0}, {kind, 12, 3, 0}, {kind, 12, 0, 0}, {kind, 12, 0, 0}
const op_case op_cases_lstm[] = {
    {.name = "lstm", .op = &gr_op_lstm, .in = {WEIGHTS(OP_PARAM)}, .apply = forwards, .step = 8},
    {.name = "lstm, reverse", .op = &gr_op_lstm, .in = {WEIGHTS(OP_PARAM)}, .apply = backwards, .step = 8},
    {.name = "lstm, frozen", .op = &gr_op_lstm, .in = {WEIGHTS(OP_FROZEN)}, .apply = backwards, .step = 8},
    {0},
};
