/* LoRA and DoRA in training with dropout against peft with the same masks (tools/golden/make_dropout.py): loss, gradients, and the
 * losses of ten steps. */
#include "support/adapter_golden.h"
#include "support/sft_run.h"

#include <math.h>

enum { SEED = 20261126, STRIDE = 7 };

static graft_model *load(graft_context *ctx, const char *path, const char *format) {
    graft_model *m;
    const graft_model_options o = {.dtype = GRAFT_DTYPE_F32, .load_in_4bit = !strcmp(format, "nf4")};
    if (strstr(path, "gpt2")) { /* whose configuration has dropout of its own */
        static const char *const files[] = {"config.json", "model.safetensors"};
        const char *dir = test_path("%s/gpt2", test_temp_dir());
        assert_ok(gr_make_dirs(dir, &err));
        for (size_t i = 0; i < GR_COUNT(files); i++) {
            size_t len;
            char *bytes = sft_read(test_path("%s/%s", path, files[i]), &len), *at = bytes;
            while (i == 0 && (at = strstr(at, "pdrop\": 0.1"))) memcpy(at, "pdrop\": 0.0", 11);
            assert_ok(gr_write_file(NULL, test_path("%s/%s", dir, files[i]), bytes, len, &err));
            gr_free(NULL, bytes);
        }
        path = dir;
    }
    assert_ok(graft_model_load(ctx, path, &o, &m, &err));
    return m;
}

/* Rows as the script has them: the key of row t of sequence s is 1000 s + t. Returns the number of labels. */
static int64_t fill(test_batch *b, const gr_tensor_list *golden) {
    const gr_tensor_view *ids = &gr_tensor_list_find(golden, "input_ids")->view, *labels = &gr_tensor_list_find(golden, "labels")->view;
    const int64_t n = ids->shape.d[0], t = ids->shape.d[1];
    int64_t count = 0;
    memset(b, 0, sizeof *b);
    for (int64_t i = 0; i < n * t; i++) {
        int64_t id, label = -100;
        memcpy(&id, (const int64_t *)ids->data + i, sizeof id);
        if (i % t + 1 < t) memcpy(&label, (const int64_t *)labels->data + i + 1, sizeof label);
        b->ids[i] = (int32_t)id;
        b->labels[i] = (int32_t)label;
        b->key[i] = (uint64_t)(1000 * (i / t) + i % t);
        count += label >= 0;
    }
    for (int64_t s = 0; s <= n; s++) b->bounds[s] = (int32_t)(s * t);
    for (int64_t i = 0; i < n * t; i++) b->weight[i] = (float)(1.0 / (double)count);
    b->batch = (gr_batch){.n_tokens = n * t, .n_seqs = (int)n, .bounds = b->bounds, .ids = b->ids, .labels = b->labels, .weight = b->weight,
                          .dropout_key = b->key, .training = true};
    return count;
}

/* Gradients into the parameters; the sum of losses. */
static double pass(graft_model *m, test_batch *b, int step) {
    gr_adapter_set *set = m->adapters;
    for (size_t i = 0; i < gr_adapter_n_params(set, 0); i++) {
        gr_param *p = gr_adapter_param(set, 0, i);
        memset(p->grad, 0, (size_t)p->n * sizeof(float));
    }
    assert_ok(gr_adapter_refresh(set, 0, 0, true, &err));
    b->batch.seed = (uint64_t)(SEED + step);
    double sum = test_loss(m->model, m->hooks, &b->batch, true, step % 2);
    assert_ok(gr_adapter_collect(set, 0, &err));
    return sum;
}

static void compare_gradients(const char *name, graft_model *m, const gr_tensor_list *golden) {
    const double largest = test_largest_gradient(golden);
    size_t n = 0;
    for (size_t i = 0; i < golden->n; i++) n += strncmp(golden->items[i].name, "grad.", 5) == 0;
    assert_int_equal(n, gr_adapter_n_params(m->adapters, 0));
    for (size_t i = 0; i < n; i++) {
        gr_param *p = gr_adapter_param(m->adapters, 0, i);
        const gr_named_tensor *want = gr_tensor_list_find(golden, test_path("grad.%s", p->name));
        if (!want) fail_msg("%s: no gradient of %s", name, p->name);
        const gr_tensor_view ours = {.dtype = GR_F32, .shape = p->shape, .data = p->grad, .bytes = (size_t)p->n * sizeof(float)};
        double e = test_gradient_error(&want->view, &ours, want->view.bytes == ours.bytes ? 1 : STRIDE, largest);
        if (!(e < 1e-4)) fail_msg("%s: gradient of %s is off by %g", name, p->name, e);
    }
}

static void compare(const char *name, graft_model *m, const gr_tensor_list *golden) {
    float **moments = test_new_moments(m);
    test_batch b;
    const double n_labels = (double)fill(&b, golden);
    for (int step = 0; step < 10; step++) {
        float expected;
        double loss = pass(m, &b, step) / n_labels;
        memcpy(&expected, (const float *)gr_tensor_list_find(golden, "steps")->view.data + step, sizeof expected);
        if (!(fabs(loss - (double)expected) < (step ? 2e-4 : 2e-6) * (double)expected))
            fail_msg("%s: step %d: loss %.8g, expected %.8g", name, step, loss, (double)expected);
        if (step == 0) compare_gradients(name, m, golden);
        test_update(m, moments, step + 1);
    }
    test_free_moments(m, moments);
}

static void training_agrees_with_peft(void **state) {
    (void)state;
    assert_true(test_each_case("dropout", load, compare) >= 6);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(training_agrees_with_peft)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
