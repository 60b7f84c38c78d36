/* Optimisers and clipping against torch.optim and clip_grad_norm_. */
#include "support/support.h"

#include <math.h>

#include "io/safetensors.h"
#include "train/optimizer.h"

enum { N = 131, STEPS = 8 };

static const float *tensor(const gr_safetensors *f, const char *name, int i) {
    char full[64];
    snprintf(full, sizeof full, i < 0 ? "%s" : "%s.%d", name, i);
    const gr_named_tensor *t = gr_tensor_list_find(gr_safetensors_tensors(f), full);
    if (!t) fail_msg("no tensor %s", full);
    return t->view.data;
}

typedef struct rule_case {
    const char *name, *optim, *args;
    double lr, beta1, beta2, eps, decay, max_norm;
} rule_case;

static void check_case(gr_device *d, const gr_safetensors *f, const rule_case *c) {
    float value[2][N], grad[2][N];
    gr_param params[2];
    gr_param *list[2];
    for (int i = 0; i < 2; i++) {
        memcpy(value[i], tensor(f, "start", i), sizeof value[i]);
        params[i] = (gr_param){.name = i ? "norm.weight" : "proj.weight",
                               .shape = gr_shape1(N),
                               .dtype = GR_F32,
                               .n = N,
                               .value = value[i],
                               .grad = grad[i],
                               .decay = i == 0};
        list[i] = &params[i];
    }
    gr_optimizer_options o = {.beta1 = c->beta1, .beta2 = c->beta2, .epsilon = c->eps, .weight_decay = c->decay};
    const gr_optimizer_rule *rule;
    gr_optimizer *opt;
    char norms[64];
    snprintf(norms, sizeof norms, "%s.norms", c->name);
    assert_ok(gr_optimizer_find(c->optim, c->args, &o, &rule, &err));
    assert_ok(gr_optimizer_new(d, rule, &o, list, 2, &opt, &err));
    for (int s = 0; s < STEPS; s++) {
        for (int i = 0; i < 2; i++) memcpy(grad[i], tensor(f, "grads", i) + s * N, sizeof grad[i]);
        double norm = gr_optimizer_grad_norm(opt);
        if (fabs(norm - (double)tensor(f, norms, -1)[s]) > 1e-6 * norm) fail_msg("%s: norm of step %d", c->name, s);
        gr_optimizer_step(opt, c->lr * (1 - s / 10.0), gr_clip_factor(norm, c->max_norm));
        for (int i = 0; i < 2; i++) {
            const float *want = tensor(f, c->name, i) + s * N;
            for (int k = 0; k < N; k++)
                if (fabs((double)value[i][k] - (double)want[k]) > 2e-6 * GR_MAX(fabs((double)want[k]), 0.05))
                    fail_msg("%s: step %d, parameter %d[%d]: expected %.9g, got %.9g", c->name, s, i, k, (double)want[k],
                             (double)value[i][k]);
        }
    }
    assert_int_equal(gr_optimizer_steps(opt), STEPS);
    gr_optimizer_free(opt);
}

static void steps_equal_torch(void **state) {
    (void)state;
    const rule_case cases[] = {
        {"adamw", "adamw_torch", NULL, 1e-2, 0.9, 0.999, 1e-8, 0.1, 1},
        {"adamw_beta", "adamw", NULL, 3e-3, 0.8, 0.95, 1e-6, 0, 0},
        {"sgd", "sgd", NULL, 5e-2, 0, 0, 0, 0.01, 2},
        {"sgd_momentum", "sgd", "momentum=0.9", 5e-2, 0, 0, 0, 0.01, 2},
        {"sgd_nesterov", "sgd", "momentum=0.9, nesterov=true", 5e-2, 0, 0, 0, 0, 0},
    };
    graft_context *ctx;
    gr_device *d;
    gr_safetensors *f;
    assert_ok(graft_context_new(NULL, &ctx, &err));
    assert_ok(gr_device_get(ctx, &d, &err));
    assert_ok(gr_safetensors_open(NULL, test_golden("train/optimizers.safetensors"), &f, &err));
    for (size_t i = 0; i < GR_COUNT(cases); i++) check_case(d, f, &cases[i]);
    gr_safetensors_close(f);
    graft_context_free(ctx);
}

static void wrong_settings_are_named(void **state) {
    (void)state;
    const struct {
        const char *optim, *args, *expected;
    } cases[] = {{"adam", NULL, "found adam"},
                 {NULL, NULL, "found nothing"},
                 {"sgd", "momentum=1.5", "found 1.5"},
                 {"sgd", "momentum", "momentum"},
                 {"sgd", "dampening=1", "no setting dampening"},
                 {"sgd", "momentum=0.9, nesterov=yes", "found yes"},
                 {"sgd", "nesterov=true", "momentum above 0"},
                 {"adamw", "momentum=0.5", "no setting momentum"}};
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        gr_optimizer_options o = {0};
        const gr_optimizer_rule *rule;
        graft_error err;
        assert_int_equal(gr_optimizer_find(cases[i].optim, cases[i].args, &o, &rule, &err), GRAFT_ERR_ARGUMENT);
        if (!strstr(err.text, cases[i].expected)) fail_msg("expected \"%s\" in: %s", cases[i].expected, err.text);
    }
}

static void gradients_that_are_not_finite_show_in_the_norm(void **state) {
    (void)state;
    graft_context *ctx;
    gr_device *d;
    float value[N] = {0}, grad[N] = {0};
    gr_param p = {.name = "p", .shape = gr_shape1(N), .dtype = GR_F32, .n = N, .value = value, .grad = grad};
    gr_param *list[] = {&p};
    gr_optimizer *opt;
    const gr_optimizer_options o = {0};
    assert_ok(graft_context_new(NULL, &ctx, &err));
    assert_ok(gr_device_get(ctx, &d, &err));
    assert_ok(gr_optimizer_new(d, &gr_optimizer_adamw, &o, list, 1, &opt, &err));
    grad[100] = NAN;
    assert_false(isfinite(gr_optimizer_grad_norm(opt)));
    grad[100] = -INFINITY;
    assert_false(isfinite(gr_optimizer_grad_norm(opt)));
    gr_optimizer_zero_grad(opt);
    assert_true(gr_optimizer_grad_norm(opt) == 0);
    gr_optimizer_free(opt);
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_equal_torch),
        cmocka_unit_test(wrong_settings_are_named),
        cmocka_unit_test(gradients_that_are_not_finite_show_in_the_norm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
