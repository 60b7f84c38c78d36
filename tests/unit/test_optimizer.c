/* Optimisers and clipping against torch.optim, clip_grad_norm_ and bitsandbytes; paged state. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/scratch.h"
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

/* make_train.py's gradient(). */
static void fill_gradient(float *g, int64_t n, int64_t step) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t h = (uint32_t)(i * 2654435761 + step * 2246822519);
        h = (h ^ (h >> 15)) * 2146121005u;
        g[i] = (float)ldexp((double)(h & 0xffff) - 32768, -(16 + (int)(h >> 28)));
        if (i >= 256 && i < 512) g[i] = 0;
        if (i >= 513 && i < 768) g[i] = ldexpf(g[i], -16);
    }
}

enum { BIG = 5120, EIGHT_PARAMS = 3 };

typedef struct eight {
    float value[EIGHT_PARAMS][BIG], grad[EIGHT_PARAMS][BIG];
    gr_param params[EIGHT_PARAMS], *list[EIGHT_PARAMS];
} eight;

static void make_eight(eight *e) {
    static const char *const names[] = {"proj.weight", "bias", "short.bias"};
    static const int64_t sizes[] = {BIG, 4097, 131};
    for (int i = 0; i < EIGHT_PARAMS; i++) {
        fill_gradient(e->value[i], sizes[i], 100 + i);
        e->params[i] = (gr_param){.name = names[i], .shape = i ? gr_shape1(sizes[i]) : gr_shape2(5, 1024), .dtype = GR_F32,
                                  .n = sizes[i], .value = e->value[i], .grad = e->grad[i], .decay = i == 0};
        e->list[i] = &e->params[i];
    }
}

static void step_eight(gr_optimizer *o, eight *e, int step) {
    for (int i = 0; i < EIGHT_PARAMS; i++) fill_gradient(e->grad[i], e->params[i].n, 3 * step + i);
    gr_optimizer_step(o, 1e-2 * (1 - step / 40.0), 1);
}

static const void *golden(const gr_safetensors *f, const char *kind, int i, int step, size_t bytes) {
    char name[64];
    snprintf(name, sizeof name, "%s.%d.%d", kind, i, step);
    const gr_named_tensor *t = gr_tensor_list_find(gr_safetensors_tensors(f), name);
    if (!t || t->view.bytes != bytes) fail_msg("no tensor %s of %zu bytes", name, bytes);
    return t->view.data;
}

/* torch's square root is wrong in the last bit now and then, so values agree to rounding; codes and absmax to the bit. */
static void check_eight(const gr_safetensors *f, const gr_optimizer *o, const eight *e, int step) {
    static const char *const kinds[] = {"state1", "state2"}, *const scales[] = {"absmax1", "absmax2"};
    for (int i = 0; i < EIGHT_PARAMS; i++) {
        const size_t n = (size_t)e->params[i].n;
        const float *want = golden(f, "value", i, step, n * sizeof(float));
        for (size_t k = 0; k < n; k++)
            if (fabs((double)e->value[i][k] - (double)want[k]) > 2e-6 * GR_MAX(fabs((double)want[k]), 0.05))
                fail_msg("step %d, parameter %d[%zu]: expected %.9g, got %.9g", step, i, k, (double)want[k], (double)e->value[i][k]);
        for (int s = 0; s < 2; s++) {
            const gr_optimizer_state state = gr_optimizer_get_state(o, (size_t)i, s);
            assert_int_equal(state.absmax != NULL, n >= GR_LEAST_8BIT);
            const void *data = golden(f, kinds[s], i, step, state.bytes);
            if (state.absmax) {
                assert_memory_equal(state.data, data, state.bytes);
                assert_memory_equal(state.absmax, golden(f, scales[s], i, step, state.n_absmax * sizeof(float)),
                                    state.n_absmax * sizeof(float));
                continue;
            }
            const float *got = state.data, *all = data;
            for (size_t k = 0; k < n; k++) assert_true(fabsf(got[k] - all[k]) <= 1e-6f * GR_MAX(fabsf(all[k]), 0.1f));
        }
    }
}

static void eight_bit_states_equal_bitsandbytes(void **state) {
    (void)state;
    static const char *const levels[] = {NULL, "generic", "avx2"};
    gr_safetensors *f;
    eight *e = malloc(sizeof *e);
    assert_ok(gr_safetensors_open(NULL, test_golden("train/optimizers_8bit.safetensors"), &f, &err));
    for (size_t level = 0; level < GR_COUNT(levels); level++) {
        graft_context *ctx;
        gr_device *d;
        gr_optimizer *opt;
        gr_optimizer_options o = {.beta1 = 0.9, .beta2 = 0.995, .epsilon = 1e-8, .weight_decay = 0.1};
        const gr_optimizer_rule *rule;
        graft_context_options co = {.cpu = levels[level], .n_threads = level ? 1 : 2};
        assert_ok(graft_context_new(&co, &ctx, &err));
        assert_ok(gr_device_get(ctx, &d, &err));
        make_eight(e);
        assert_ok(gr_optimizer_find("adamw_bnb_8bit", NULL, &o, &rule, &err));
        assert_ok(gr_optimizer_new(d, rule, &o, e->list, EIGHT_PARAMS, &opt, &err));
        for (int step = 1; step <= 20; step++) {
            step_eight(opt, e, step);
            if (step <= 2 || step == 20) check_eight(f, opt, e, step);
        }
        gr_optimizer_free(opt);
        graft_context_free(ctx);
    }
    gr_safetensors_close(f);
    free(e);
}

/* The file is smaller than a window, or several of them: both paths. */
static void paged_steps_have_the_same_bits(void **state) {
    (void)state;
    enum { HUGE_PARAM = 5 << 20 };
    static const char *const optims[][2] = {{"adamw", "paged_adamw_32bit"}, {"adamw_8bit", "paged_adamw_8bit"}};
    graft_context *ctx;
    gr_device *d;
    assert_ok(graft_context_new(NULL, &ctx, &err));
    assert_ok(gr_device_get(ctx, &d, &err));
    float *value[2], *grad = malloc(HUGE_PARAM * sizeof *grad);
    for (size_t k = 0; k < GR_COUNT(optims); k++) {
        gr_optimizer *opt[2];
        gr_param params[2][3], *list[2][3];
        for (int paged = 0; paged < 2; paged++) {
            const gr_optimizer_rule *rule;
            gr_optimizer_options o = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
            assert_ok(gr_optimizer_find(optims[k][paged], NULL, &o, &rule, &err));
            assert_true(o.paged == (paged == 1));
            o.paged_dir = paged ? test_temp_dir() : NULL;
            value[paged] = calloc(HUGE_PARAM, sizeof(float));
            const int64_t cut[] = {0, 300, 5000, HUGE_PARAM};
            for (int i = 0; i < 3; i++) {
                params[paged][i] = (gr_param){.name = "p", .shape = gr_shape1(cut[i + 1] - cut[i]), .dtype = GR_F32,
                                              .n = cut[i + 1] - cut[i], .value = value[paged] + cut[i], .grad = grad + cut[i]};
                list[paged][i] = &params[paged][i];
            }
            assert_ok(gr_optimizer_new(d, rule, &o, list[paged], 3, &opt[paged], &err));
        }
        for (int step = 1; step <= 3; step++)
            for (int paged = 0; paged < 2; paged++) {
                fill_gradient(grad, HUGE_PARAM, step);
                gr_optimizer_step(opt[paged], 1e-2, 1);
            }
        assert_memory_equal(value[0], value[1], HUGE_PARAM * sizeof(float));
        for (size_t i = 0; i < 3; i++)
            for (int s = 0; s < 2; s++) {
                gr_optimizer_state a = gr_optimizer_get_state(opt[0], i, s), b = gr_optimizer_get_state(opt[1], i, s);
                assert_int_equal(a.bytes, b.bytes);
                assert_memory_equal(a.data, b.data, a.bytes);
            }
        for (int paged = 0; paged < 2; paged++) {
            gr_optimizer_free(opt[paged]);
            free(value[paged]);
        }
    }
    free(grad);
    graft_context_free(ctx);
}

static void a_paging_file_without_room_is_an_error(void **state) {
    (void)state;
    gr_scratch s = {0};
    graft_error why;
    assert_int_equal(gr_scratch_map("/no/such/folder", 1, &s, &why), GRAFT_ERR_NOT_FOUND);
    assert_non_null(strstr(why.text, "/no/such/folder"));
    assert_int_equal(gr_scratch_map(test_temp_dir(), (size_t)1 << 60, &s, &why), GRAFT_ERR_IO);
    assert_non_null(strstr(why.text, "expected room for a file of"));
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = (struct rlimit){.rlim_cur = 100000, .rlim_max = before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    assert_int_equal(gr_scratch_map(test_temp_dir(), 100001, &s, &why), GRAFT_ERR_IO);
    assert_non_null(strstr(why.text, "File too large"));
    assert_ok(gr_scratch_map(test_temp_dir(), 100000, &s, &err));
    setrlimit(RLIMIT_FSIZE, &before);
    memset(s.data, 7, s.size);
    gr_scratch_release((char *)s.data + 5000, 50000);
    assert_int_equal(((char *)s.data)[30000], 7);
    gr_scratch_unmap(&s);
    gr_scratch_unmap(&s);
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
        cmocka_unit_test(eight_bit_states_equal_bitsandbytes),
        cmocka_unit_test(paged_steps_have_the_same_bits),
        cmocka_unit_test(a_paging_file_without_room_is_an_error),
        cmocka_unit_test(wrong_settings_are_named),
        cmocka_unit_test(gradients_that_are_not_finite_show_in_the_norm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
