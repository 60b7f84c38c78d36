/* Room adapter against peft: adapters that it wrote give its logits, losses, gradients and training steps, and what we
 * write is what it would have written (goldens by tools/golden/make_adapters.py, and make_methods.py for methods besides LoRA). */
#include "support/adapter_golden.h"

#include <math.h>

#include "base/json.h"

static void adapter_path(char *out, size_t size, const char *folder, const char *name) {
    char rest[200];
    snprintf(rest, sizeof rest, "%s/%s", folder, name);
    snprintf(out, size, "%s", test_golden(rest));
}

/* The base that adapter_config.json names, which is a path from the project's root. */
static void base_path(char *out, size_t size, const char *dir) {
    gr_arena arena;
    const gr_json_value *json;
    char path[1200], *text;
    size_t len;
    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    assert_ok(gr_read_file(NULL, path, 1 << 20, &text, &len, &err));
    gr_arena_init(&arena, NULL, 0);
    assert_ok(gr_json_parse(&arena, path, text, len, &json, &err));
    const char *base = gr_json_get(json, "base_model_name_or_path")->text;
    snprintf(out, size, "%s", test_model_path(strrchr(base, '/') + 1));
    gr_arena_free(&arena);
    gr_free(NULL, text);
}

static void agree(const char *folder, size_t least) {
    char **names;
    size_t n;
    graft_context *ctx = test_context(NULL, 1, NULL);
    assert_ok(gr_list_dir(NULL, test_golden(folder), &names, &n, &err));
    assert_true(n >= least);
    for (size_t i = 0; i < n; i++) {
        char dir[1024], base[1024];
        adapter_path(dir, sizeof dir, folder, names[i]);
        base_path(base, sizeof base, dir);
        test_adapter_agrees(ctx, names[i], base, dir, strcmp(folder, "adapters") == 0);
    }
    gr_free_names(NULL, names, n);
    graft_context_free(ctx);
}

static void every_lora_agrees_with_peft(void **state) {
    (void)state;
    agree("adapters", 21);
}

static void every_other_method_agrees_with_peft(void **state) {
    (void)state;
    agree("methods", 20);
}

/* The frozen halves' products of two converted files, pair by pair: factors have signs of their own. */
static void compare_starts(const char *name, const char *ours_dir, const char *theirs_dir) {
    char path[2][1400];
    gr_safetensors *files[2];
    const gr_tensor_list *lists[2];
    snprintf(path[0], sizeof path[0], "%s/adapter_model.safetensors", ours_dir);
    snprintf(path[1], sizeof path[1], "%s/adapter_model.safetensors", theirs_dir);
    for (int f = 0; f < 2; f++) {
        assert_ok(gr_safetensors_open(NULL, path[f], &files[f], &err));
        lists[f] = gr_safetensors_tensors(files[f]);
    }
    assert_int_equal(lists[0]->n, lists[1]->n);
    for (size_t i = 0; i + 1 < lists[1]->n; i += 2) {
        double worst = 0, most = 0;
        const gr_tensor_view *a[2], *b[2];
        for (int f = 0; f < 2; f++) {
            assert_string_equal(lists[0]->items[i].name, lists[f]->items[i].name);
            a[f] = &lists[f]->items[i].view;
            b[f] = &lists[f]->items[i + 1].view;
        }
        int64_t r = a[1]->shape.d[0], in = a[1]->shape.d[1], out = b[1]->shape.d[0];
        assert_true(gr_shape_equal(&a[0]->shape, &a[1]->shape) && gr_shape_equal(&b[0]->shape, &b[1]->shape));
        for (int64_t o = 0; o < out; o++)
            for (int64_t c = 0; c < in; c++) {
                double x[2] = {0, 0};
                for (int f = 0; f < 2; f++)
                    for (int64_t k = r / 2; k < r; k++)
                        x[f] += (double)((const float *)b[f]->data)[o * r + k] * (double)((const float *)a[f]->data)[k * in + c];
                worst = fmax(worst, fabs(x[0] - x[1]));
                most = fmax(most, fabs(x[1]));
            }
        if (!(worst < 2e-5 * most)) fail_msg("%s: %s starts from what is off by %g of %g", name, lists[1]->items[i].name, worst, most);
    }
    for (int f = 0; f < 2; f++) gr_safetensors_close(files[f]);
}

/* LoRA from factors of the weight: peft's own file and the converted one give its logits, training goes on as peft's, what we
 * save is the converted form, and a new one starts from the same factors. */
static void starts_from_the_weight_agree_with_peft(void **state) {
    (void)state;
    char **names;
    size_t n, len;
    graft_context *ctx = test_context(NULL, 1, NULL);
    assert_ok(gr_list_dir(NULL, test_golden("starts"), &names, &n, &err));
    assert_true(n >= 4);
    test_logits_within = 2e-5; /* differences of large products */
    for (size_t i = 0; i < n; i++) {
        char dir[1024], own[1100], lora[1100], path[1200], base[1024], saved[1100], *text;
        gr_safetensors *golden;
        adapter_path(dir, sizeof dir, "starts", names[i]);
        snprintf(own, sizeof own, "%s/adapter", dir);
        snprintf(lora, sizeof lora, "%s/lora", dir);
        snprintf(saved, sizeof saved, "%s/saved", test_temp_dir());
        snprintf(path, sizeof path, "%s/golden.safetensors", dir);
        base_path(base, sizeof base, own);
        assert_ok(gr_safetensors_open(NULL, path, &golden, &err));
        const gr_tensor_list *want = gr_safetensors_tensors(golden);
        int stride = atoi(gr_safetensors_metadata(golden, "stride"));
        graft_model *m = test_load(ctx, base, GRAFT_DTYPE_F32);
        assert_ok(graft_adapter_load(m, "a", lora, 1, &err));
        test_compare(names[i], m, want, stride, "logits", false);
        assert_ok(graft_adapter_remove(m, "a", &err));
        assert_ok(graft_adapter_load_trainable(m, "a", own, &err));
        test_compare(names[i], m, want, stride, "logits", true);
        assert_ok(gr_remove_tree(saved, &err));
        assert_ok(graft_adapter_save(m, "a", saved, &err));
        compare_starts(names[i], saved, lora);
        test_compare_merged(names[i], ctx, m, want, stride);
        test_compare_steps(names[i], m, want);
        assert_ok(graft_adapter_remove(m, "a", &err));
        snprintf(path, sizeof path, "%s/adapter_config.json", own);
        assert_ok(gr_read_file(NULL, path, 1 << 20, &text, &len, &err));
        assert_ok(graft_adapter_new(m, "a", text, 3, &err));
        gr_free(NULL, text);
        assert_ok(gr_remove_tree(saved, &err));
        assert_ok(graft_adapter_save(m, "a", saved, &err));
        compare_starts(names[i], saved, lora);
        char *ours, *theirs;
        snprintf(path, sizeof path, "%s/adapter_config.json", saved);
        assert_ok(gr_read_file(NULL, path, 1 << 20, &ours, &len, &err));
        snprintf(path, sizeof path, "%s/adapter_config.json", lora);
        assert_ok(gr_read_file(NULL, path, 1 << 20, &theirs, &len, &err));
        if (strcmp(ours, theirs) != 0) fail_msg("%s: adapter_config.json differs:\n%s\n%s", names[i], ours, theirs);
        gr_free(NULL, ours);
        gr_free(NULL, theirs);
        graft_model_free(m);
        gr_safetensors_close(golden);
    }
    gr_free_names(NULL, names, n);
    graft_context_free(ctx);
}

/* Logits of adapter `name` on the golden's input, in test_temp_dir()/out.safetensors. */
static gr_safetensors *logits_of(graft_model *m, const char *name, const gr_tensor_list *input) {
    char out[1200];
    gr_safetensors *f;
    snprintf(out, sizeof out, "%s/out.safetensors", test_temp_dir());
    graft_forward_options o = {.input = test_write_inputs(input), .output = out, .adapter = name};
    assert_ok(graft_forward(m, &o, &err));
    assert_ok(gr_safetensors_open(NULL, out, &f, &err));
    return f;
}

static void combined_adapters_agree_with_peft(void **state) {
    (void)state;
    static const struct {
        const char *name, *with;
        double weights[2];
        graft_combine_options o;
    } cases[] = {
        {"linear", "regex", {0.7, 0.4}, {.type = "linear"}},
        {"negative", "regex", {1.2, -0.5}, {.type = "linear"}},
        {"cat", "rslora", {0.5, 0.9}, {0}},
        {"svd", "rslora", {0.5, 0.9}, {.type = "svd", .svd_rank = 3}},
        {"ties", "regex", {0.7, 0.4}, {.type = "ties", .density = 0.6}},
        {"ties_frequency", "regex", {0.7, 0.4}, {.type = "ties", .density = 0.8, .majority_sign_method = "frequency"}},
        {"magnitude_prune", "regex", {0.7, 0.4}, {.type = "magnitude_prune", .density = 0.5}},
        {"linear", "regex", {0.7, 0.4}, {.type = "dare_linear", .density = 1}},
    };
    graft_context *ctx = test_context(NULL, 1, NULL);
    gr_safetensors *golden;
    assert_ok(gr_safetensors_open(NULL, test_golden("combined.safetensors"), &golden, &err));
    const gr_tensor_list *want = gr_safetensors_tensors(golden);
    int stride = atoi(gr_safetensors_metadata(golden, "stride"));
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_model *m = test_load(ctx, test_model_path("llama"), GRAFT_DTYPE_F32);
        char dir[1024], loss[40];
        const char *const names[] = {"a", "b"};
        adapter_path(dir, sizeof dir, "adapters", "plain");
        assert_ok(graft_adapter_load(m, "a", dir, 1, &err));
        adapter_path(dir, sizeof dir, "adapters", cases[i].with);
        assert_ok(graft_adapter_load(m, "b", dir, 1, &err));
        assert_ok(graft_adapter_combine(m, "both", names, cases[i].weights, 2, &cases[i].o, &err));
        gr_safetensors *f = logits_of(m, "both", want);
        const gr_tensor_list *got = gr_safetensors_tensors(f);
        double e = test_worst_error(&gr_tensor_list_find(want, cases[i].name)->view, &gr_tensor_list_find(got, "logits")->view,
                                    (size_t)stride);
        if (!(e < 2e-5)) fail_msg("%s: logits are off by %g", cases[i].name, e);
        snprintf(loss, sizeof loss, "%s.loss", cases[i].name);
        assert_true(fabs(test_scalar(got, "loss") - test_scalar(want, loss)) < 1e-5 * test_scalar(want, loss));
        gr_safetensors_close(f);
        assert_int_equal(graft_adapter_count(m), 3);
        snprintf(dir, sizeof dir, "%s/both", test_temp_dir()); /* what was combined is an adapter as any other */
        assert_ok(graft_adapter_save(m, "both", dir, &err));
        assert_ok(graft_adapter_load(m, "again", dir, 1, &err));
        graft_model_free(m);
    }
    gr_safetensors_close(golden);
    graft_context_free(ctx);
}

static void wrong_combinations_are_named(void **state) {
    (void)state;
    static const struct {
        const char *first, *second;
        double weight;
        graft_combine_options o;
        const char *word;
    } cases[] = {
        {"a", "c", 1, {.type = "linear"}, "one rank: 'a' has 8, 'c' 4"},
        {"a", "i", 1, {0}, "'i' (ia3)"},
        {"a", "d", 1, {0}, "DoRA"},
        {"a", "s", 1, {0}, "modules_to_save"},
        {"a", "nobody", 1, {0}, "nobody"},
        {"a", "c", 1, {.type = "mean"}, "found 'mean'"},
        {"a", "b", 1, {.type = "ties"}, "density"},
        {"a", "b", 1, {.type = "ties", .density = 0.5, .majority_sign_method = "loud"}, "found 'loud'"},
        {"a", "b", NAN, {0}, "weight"},
        {"a", "b", 1, {.type = "svd", .svd_rank = -1}, "svd_rank"},
    };
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_model_path("llama"), GRAFT_DTYPE_F32);
    assert_ok(graft_adapter_new(m, "a", "{\"peft_type\": \"LORA\"}", 1, &err));
    assert_ok(graft_adapter_new(m, "b", "{\"peft_type\": \"LORA\"}", 2, &err));
    assert_ok(graft_adapter_new(m, "c", "{\"peft_type\": \"LORA\", \"r\": 4}", 3, &err));
    assert_ok(graft_adapter_new(m, "d", "{\"peft_type\": \"LORA\", \"use_dora\": true}", 4, &err));
    assert_ok(graft_adapter_new(m, "i", "{\"peft_type\": \"IA3\"}", 5, &err));
    assert_ok(graft_adapter_new(m, "s", "{\"peft_type\": \"LORA\", \"modules_to_save\": [\"norm\"]}", 6, &err));
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_error why = {0};
        const char *const names[] = {cases[i].first, cases[i].second};
        const double weights[] = {1, cases[i].weight};
        if (graft_adapter_combine(m, "x", names, weights, 2, &cases[i].o, &why) == GRAFT_OK || !strstr(why.text, cases[i].word))
            fail_msg("%s and %s: expected '%s', got: %s", names[0], names[1], cases[i].word, why.text);
        assert_int_equal(graft_adapter_count(m), 6);
    }
    graft_model_free(m);
    graft_context_free(ctx);
}

/* Scaled later it is what it is when loaded with that scale. */
static void adapters_are_scaled(void **state) {
    (void)state;
    static const char *const dirs[] = {"adapters/rslora", "methods/ia3"};
    gr_safetensors *golden;
    char path[1024];
    graft_context *ctx = test_context(NULL, 1, NULL);
    assert_ok(gr_safetensors_open(NULL, test_golden("combined.safetensors"), &golden, &err));
    for (size_t i = 0; i < GR_COUNT(dirs); i++) {
        graft_model *m = test_load(ctx, test_model_path("llama"), GRAFT_DTYPE_F32);
        float *kept[3];
        size_t n = 0;
        snprintf(path, sizeof path, "%s", test_golden(dirs[i]));
        assert_ok(graft_adapter_load(m, "half", path, 0.5, &err));
        assert_ok(graft_adapter_load(m, "whole", path, 1, &err));
        for (int k = 0; k < 3; k++) {
            if (k == 1) assert_ok(graft_adapter_set_scale(m, "whole", 0.5, &err));
            gr_safetensors *f = logits_of(m, k == 2 ? "half" : "whole", gr_safetensors_tensors(golden));
            const gr_tensor_view *v = &gr_tensor_list_find(gr_safetensors_tensors(f), "logits")->view;
            n = v->bytes;
            kept[k] = malloc(n);
            memcpy(kept[k], v->data, n);
            gr_safetensors_close(f);
        }
        assert_memory_equal(kept[1], kept[2], n);
        assert_true(memcmp(kept[0], kept[1], n) != 0);
        for (int k = 0; k < 3; k++) free(kept[k]);
        graft_error why = {0};
        assert_ok(graft_adapter_new(m, "prompt", "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 2}", 1, &err));
        assert_int_equal(graft_adapter_set_scale(m, "prompt", 2, &why), GRAFT_ERR_UNSUPPORTED);
        assert_non_null(strstr(why.text, "prompt"));
        graft_model_free(m);
    }
    gr_safetensors_close(golden);
    graft_context_free(ctx);
}

/* Factors that are made ready anew are all there, or none: otherwise some products would go without their update. */
static void a_failed_refresh_loses_no_update(void **state) {
    (void)state;
    static const int length = 9, seed = 1;
    test_allocator t;
    test_batch b;
    test_allocator_init(&t);
    graft_context *ctx = test_context(&t.allocator, 1, NULL);
    graft_model *m = test_load(ctx, test_model_path("llama"), GRAFT_DTYPE_F32);
    assert_ok(graft_adapter_load(m, "a", test_golden("adapters/rslora"), 1, &err));
    const size_t n = (size_t)(length * graft_model_vocab_size(m));
    test_fill_batch(&b, graft_model_vocab_size(m), 1, &length, &seed);
    float *plain = test_logits(m->model, m->hooks, &b.batch), *before;
    b.batch.one_adapter = 0;
    before = test_logits(m->model, m->hooks, &b.batch);
    assert_true(memcmp(plain, before, n * sizeof *plain) != 0);
    bool whole = false;
    for (long k = 1; !whole; k++) {
        t.calls = 0;
        t.fail_at = k;
        whole = gr_adapter_refresh(m->adapters, 0, 0, false, NULL) == GRAFT_OK;
        t.fail_at = 0;
        float *after = test_logits(m->model, m->hooks, &b.batch);
        test_assert_same_floats(before, after, n, "after a failed refresh");
        free(after);
        assert_true(!whole || k > 2);
    }
    free(plain);
    free(before);
    graft_model_free(m);
    graft_context_free(ctx);
    assert_int_equal(t.live, 0);
}

static void all_are_mapped(const graft_model *m, bool expected) {
    assert_true(gr_adapter_n_params(m->adapters, 0) > 0);
    for (size_t i = 0; i < gr_adapter_n_params(m->adapters, 0); i++)
        assert_int_equal(gr_adapter_param(m->adapters, 0, i)->mapped, expected);
}

/* What is not trained is held once: as passes have it. The values themselves are read from the file where they are wanted. */
static void values_of_frozen_factors_stay_in_the_file(void **state) {
    (void)state;
    static const int length = 9, seed = 1;
    test_allocator t;
    test_batch b;
    test_allocator_init(&t);
    graft_context *ctx = test_context(&t.allocator, 1, NULL);
    const char *base = test_model_path("llama");
    graft_model *m = test_load(ctx, base, GRAFT_DTYPE_F32), *trained = test_load(ctx, base, GRAFT_DTYPE_F32);
    char dir[1024], out[1024];
    snprintf(dir, sizeof dir, "%s", test_golden("adapters/rslora"));
    snprintf(out, sizeof out, "%s/stays", test_temp_dir());
    assert_ok(graft_adapter_load(m, "a", dir, 1, &err));
    assert_ok(gr_adapter_set_load(trained->adapters, "a", dir, 1, true, &(int){0}, &err));
    all_are_mapped(m, true);
    all_are_mapped(trained, false);
    for (size_t i = 0; i < gr_adapter_n_params(m->adapters, 0); i++) {
        const gr_param *p = gr_adapter_param(m->adapters, 0, i), *q = gr_adapter_param(trained->adapters, 0, i);
        assert_memory_equal(p->value, q->value, (size_t)p->n * sizeof(float));
    }
    test_fill_batch(&b, graft_model_vocab_size(m), 1, &length, &seed);
    b.batch.one_adapter = 0;
    const size_t n = (size_t)(length * graft_model_vocab_size(m));
    float *before = test_logits(m->model, m->hooks, &b.batch);
    assert_ok(gr_adapter_save(m->adapters, 0, out, GR_F32, &err));
    bool whole = false;
    for (long k = 1; !whole; k++) {
        t.calls = 0;
        t.fail_at = k;
        whole = gr_adapter_reload(m->adapters, 0, out, NULL) == GRAFT_OK;
        t.fail_at = 0;
        float *after = test_logits(m->model, m->hooks, &b.batch);
        test_assert_same_floats(before, after, n, "after values were read again");
        free(after);
    }
    all_are_mapped(m, true);
    free(before);
    graft_model_free(trained);
    graft_model_free(m);
    graft_context_free(ctx);
    assert_int_equal(t.live, 0);
}

static graft_status combine_all(const graft_allocator *a, void *arg) {
    static const char *const types[] = {"cat", "svd", "ties", "dare_ties"};
    const char *const names[] = {"a", "b"};
    const double weights[] = {0.5, -1};
    graft_context_options o = {.n_threads = 1, .cpu = getenv("GRAFT_CPU"), .allocator = *a};
    graft_context *ctx = NULL;
    graft_model *m = NULL;
    (void)arg;
    graft_status st = graft_context_new(&o, &ctx, NULL);
    if (st == GRAFT_OK) st = graft_model_load(ctx, test_model_path("llama"), NULL, &m, NULL);
    for (int i = 0; i < 2 && st == GRAFT_OK; i++)
        st = graft_adapter_new(m, names[i], "{\"peft_type\": \"LORA\", \"r\": 2, \"init_lora_weights\": false}", 1, NULL);
    for (size_t i = 0; i < GR_COUNT(types) && st == GRAFT_OK; i++) {
        const graft_combine_options how = {.type = types[i], .density = 0.5};
        st = graft_adapter_combine(m, types[i], names, weights, 2, &how, NULL);
    }
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static void combining_survives_any_failed_allocation(void **state) {
    (void)state;
    test_allocation_sweep(combine_all, NULL, 0, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_lora_agrees_with_peft),
        cmocka_unit_test(every_other_method_agrees_with_peft),
        cmocka_unit_test(starts_from_the_weight_agree_with_peft),
        cmocka_unit_test(combined_adapters_agree_with_peft),
        cmocka_unit_test(wrong_combinations_are_named),
        cmocka_unit_test(adapters_are_scaled),
        cmocka_unit_test(a_failed_refresh_loses_no_update),
        cmocka_unit_test(values_of_frozen_factors_stay_in_the_file),
        cmocka_unit_test(combining_survives_any_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
