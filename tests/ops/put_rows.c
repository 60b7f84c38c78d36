#include "support/op_case.h"

enum { TABLE = 10, STRIDE = 3, OFFSET = 1 };

/* Every row whose place in the whole draws below 2 of 3. */
static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {
    static int32_t at[64], id[64];
    gr_put_rows_params p = {.dt = b->dt, .rows = b->rows, .at = at, .id = id, .stride = STRIDE, .offset = OFFSET};
    for (int64_t r = 0; r < b->rows; r++) {
        if (op_draw(31, (uint64_t)(b->row0 + r), 3) == 2) continue;
        at[p.n] = (int32_t)r;
        id[p.n++] = (int32_t)op_draw(32, (uint64_t)(b->row0 + r), TABLE / STRIDE);
    }
    return op_apply(b, t, &gr_op_put_rows, in, 2, &p, out, err);
}

const op_case op_cases_put_rows[] = {
    {.name = "put_rows", .op = &gr_op_put_rows, .in = {{OP_ROWS, 0, 7, 0}, {OP_PARAM, TABLE, 7, 0}}, .apply = run},
    {.name = "put_rows, frozen", .op = &gr_op_put_rows, .in = {{OP_ROWS, 0, 7, 0}, {OP_FROZEN, TABLE, 7, 0}}, .apply = run},
    {.name = "put_rows, nothing below", .op = &gr_op_put_rows, .in = {{OP_NONE, 0, 0, 0}, {OP_PARAM, TABLE, 7, 0}},
     .apply = run},
    {0},
};
