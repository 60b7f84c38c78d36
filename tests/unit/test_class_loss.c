/* Losses of classification heads against torch 2.13.0 (cross_entropy, binary_cross_entropy_with_logits and mse_loss on the
 * numbers below, in double), and what is refused. */
#include <math.h>

#include "graph/graph.h"
#include "support/support.h"

enum { ROWS = 4, CLASSES = 3 };

static const double logits[] = {1.5, -0.25, 0.75, -2, 3, 3, 0.5, 0.125, -1, 20, -30, 4};
static const int32_t labels[] = {2, 1, -100, 0};
static const float targets[] = {1, 0, 1, 0, 1, 0.25f, 0, 1, 0, 1, 0, 0};

typedef struct expected {
    gr_class_loss kind;
    double count; /* what the mean divides by: labelled rows, or rows */
    double loss, losses[ROWS], gradient[ROWS * CLASSES];
    int32_t hits[ROWS];
} expected;

static const expected cases[] = {
    {GR_CLASS_LOSS_CROSS_ENTROPY, 3, 0.64831468635346567, {1.24843345474315, 0.6965104917820788, 0, 1.1253516840233601e-07},
     {0.20249385402068615, 0.03518815553765341, -0.23768200955833957, 0.0011192205421675378, -0.16722627693775044,
      0.16610705639558287, 0, 0, 0, -3.7511720692625275e-08, 6.429165436372467e-23, 3.751172068503165e-08},
     {0, 1, 0, 1}},
    {GR_CLASS_LOSS_BCE, ROWS, 0.79803450459679226,
     {0.38807456799216533, 0.8247009047301522, 0.6399792356718329, 1.3393833099930186},
     {-0.015202126983863029, 0.03648529159285016, -0.026735108402050584, 0.009933576835176462, -0.003952156098130553,
      0.05854784390186945, 0.05187161093348788, -0.03906588555218698, 0.02241178511416626, -1.717628076806458e-10,
      7.798019140699416e-15, 0.08183448250315904},
     {1, 0, 0, 0}},
    {GR_CLASS_LOSS_MSE, ROWS, 107.91276041666667, {0.125, 5.1875, 0.671875, 425.6666666666667},
     {0.08333333333333333, -0.041666666666666664, -0.041666666666666664, -0.3333333333333333, 0.3333333333333333,
      0.4583333333333333, 0.08333333333333333, -0.14583333333333331, -0.16666666666666666, 3.1666666666666665, -5.0,
      0.6666666666666666},
     {0, 0, 0, 0}},
};

typedef struct stage {
    graft_context *ctx;
    gr_pool *pool;
    gr_tape *tape;
    gr_var *x;
} stage;

static void stage_open(stage *s, gr_dtype dt) {
    gr_device *d;
    const gr_shape shape = gr_shape2(ROWS, CLASSES);
    assert_ok(graft_context_new(NULL, &s->ctx, &err));
    assert_ok(gr_device_get(s->ctx, &d, &err));
    assert_ok(gr_pool_new(NULL, 0, false, &s->pool, &err));
    assert_ok(gr_tape_new(d, s->pool, &(gr_tape_options){.record = true}, &s->tape, &err));
    assert_ok(gr_tape_input(s->tape, dt, &shape, true, &s->x, &err));
    for (int i = 0; i < ROWS * CLASSES; i++) {
        if (dt == GR_F64)
            ((double *)gr_var_array(s->x)->data)[i] = logits[i];
        else
            ((float *)gr_var_array(s->x)->data)[i] = (float)logits[i];
    }
}

static void stage_close(stage *s) {
    gr_tape_free(s->tape);
    gr_pool_free(s->pool);
    graft_context_free(s->ctx);
}

static void near(double got, double want, double scale) {
    if (!(fabs(got - want) <= 1e-7 * fmax(fabs(want), scale))) fail_msg("expected %.17g, got %.17g", want, got);
}

static void losses_are_those_of_torch(void **state) {
    (void)state;
    for (size_t i = 0; i < 2 * GR_COUNT(cases); i++) {
        const expected *e = &cases[i / 2];
        const gr_dtype dt = i % 2 ? GR_F64 : GR_F32;
        stage s;
        gr_var *loss;
        float weight[ROWS];
        double losses[ROWS];
        int32_t hits[ROWS];
        for (int r = 0; r < ROWS; r++) weight[r] = (float)(1 / e->count);
        stage_open(&s, dt);
        gr_class_loss_params p = {.kind = e->kind, .labels = labels, .targets = targets, .weight = weight, .losses = losses,
                                  .hits = hits};
        assert_ok(gr_tape_apply(s.tape, &gr_op_class_loss, &s.x, 1, &p, &loss, &err));
        near(*(double *)gr_var_array(loss)->data, e->loss, 0);
        double one = 1;
        gr_array seed = {GR_F64, gr_shape1(1), &one};
        assert_ok(gr_tape_backward(s.tape, loss, &seed, &err));
        const gr_array *g = gr_tape_grad(s.tape, s.x);
        assert_int_equal(g->dtype, dt);
        for (int k = 0; k < ROWS * CLASSES; k++)
            near(dt == GR_F64 ? ((const double *)g->data)[k] : (double)((const float *)g->data)[k], e->gradient[k], 1e-9);
        for (int r = 0; r < ROWS; r++) {
            near(losses[r], e->losses[r], 1e-9);
            assert_int_equal(hits[r], e->hits[r]);
        }
        stage_close(&s);
    }
}

static void bad_labels_are_refused(void **state) {
    (void)state;
    stage s;
    gr_var *loss;
    graft_error found = {0};
    static const int32_t wrong[] = {0, 2, CLASSES, 1};
    stage_open(&s, GR_F32);
    gr_class_loss_params p = {.kind = GR_CLASS_LOSS_CROSS_ENTROPY, .labels = wrong};
    assert_int_equal(gr_tape_apply(s.tape, &gr_op_class_loss, &s.x, 1, &p, &loss, &found), GRAFT_ERR_ARGUMENT);
    assert_string_equal(found.text, "class_loss: label 3 at row 2 is outside 3 classes");
    p.labels = NULL;
    assert_int_equal(gr_tape_apply(s.tape, &gr_op_class_loss, &s.x, 1, &p, &loss, &found), GRAFT_ERR_ARGUMENT);
    p.kind = GR_CLASS_LOSS_MSE;
    assert_int_equal(gr_tape_apply(s.tape, &gr_op_class_loss, &s.x, 1, &p, &loss, &found), GRAFT_ERR_ARGUMENT);
    assert_string_equal(found.text, "class_loss: the targets are missing");
    stage_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_are_those_of_torch),
        cmocka_unit_test(bad_labels_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
