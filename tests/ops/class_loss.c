#include "support/op_case.h"

enum { CLASSES = 5, ROWS = 64 };

static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, gr_class_loss kind, bool weighted, gr_var **out,
                        graft_error *err) {
    static int32_t labels[ROWS];
    static float targets[ROWS * CLASSES], weight[ROWS];
    for (int64_t r = 0; r < b->rows; r++) {
        uint64_t row = (uint64_t)(b->row0 + r);
        labels[r] = op_draw(70, row, 4) == 0 ? -100 : (int32_t)op_draw(71, row, CLASSES);
        weight[r] = (float)(1 + op_draw(72, row, 8)) / 8;
        for (uint64_t k = 0; k < CLASSES; k++) targets[r * CLASSES + (int64_t)k] = (float)op_draw(73, row * CLASSES + k, 5) / 4;
    }
    gr_class_loss_params p = {.kind = kind, .labels = labels, .targets = targets, .weight = weighted ? weight : NULL};
    return op_apply(b, t, &gr_op_class_loss, in, 1, &p, out, err);
}

#define KIND(name, kind, weighted)                                                                                     \
    static graft_status name(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {             \
        return run(b, t, in, GR_CLASS_LOSS_##kind, weighted, out, err);                                                \
    }
KIND(cross_entropy, CROSS_ENTROPY, true)
KIND(cross_entropy_plain, CROSS_ENTROPY, false)
KIND(bce, BCE, true)
KIND(mse, MSE, true)

#define CASE(label, function)                                                                                          \
    {.name = "class_loss, " label,                                                                                     \
     .op = &gr_op_class_loss,                                                                                          \
     .in = {{OP_ROWS, 0, CLASSES, 0}},                                                                                 \
     .apply = function,                                                                                                \
     .scalar = true}

const op_case op_cases_class_loss[] = {
    CASE("cross-entropy", cross_entropy),
    CASE("cross-entropy without weights", cross_entropy_plain),
    CASE("binary cross-entropy", bce),
    CASE("squares", mse),
    {0},
};
