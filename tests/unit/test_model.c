/* Room model against transformers: logits, loss and every gradient of tiny models of each variant (goldens by
 * tools/golden/make_models.py), through graft_forward. */
#include "support/model_support.h"

#include <math.h>

/* Runs the golden's input through the model and compares all that the golden holds. */
static void compare(const char *name, const char *model_path, const char *golden_path) {
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, model_path, GRAFT_DTYPE_F32);
    gr_safetensors *golden, *ours;
    char out[1200];
    assert_ok(gr_safetensors_open(NULL, golden_path, &golden, &err));
    const gr_tensor_list *want = gr_safetensors_tensors(golden);
    snprintf(out, sizeof out, "%s/out.safetensors", test_temp_dir());
    graft_forward_options o = {.input = test_write_inputs(want), .output = out, .backward = 1};
    assert_ok(graft_forward(m, &o, &err));
    assert_ok(gr_safetensors_open(NULL, out, &ours, &err));
    const gr_tensor_list *got = gr_safetensors_tensors(ours);
    size_t stride = (size_t)atoi(gr_safetensors_metadata(golden, "stride")), grads = 0;
    double e = test_worst_error(&gr_tensor_list_find(want, "logits")->view, &gr_tensor_list_find(got, "logits")->view, 1);
    if (!(e < 1e-5)) fail_msg("%s: logits are off by %g", name, e);
    if (!(fabs(test_scalar(want, "loss") - test_scalar(got, "loss")) < 2e-6 * test_scalar(want, "loss")))
        fail_msg("%s: loss %.8g, expected %.8g", name, test_scalar(got, "loss"), test_scalar(want, "loss"));
    for (size_t i = 0; i < want->n; i++) {
        if (strncmp(want->items[i].name, "grad.", 5) != 0) continue;
        const gr_named_tensor *g = gr_tensor_list_find(got, want->items[i].name);
        if (!g) fail_msg("%s: no %s", name, want->items[i].name);
        e = test_worst_error(&want->items[i].view, &g->view, stride);
        if (!(e < 1e-4)) fail_msg("%s: %s is off by %g", name, want->items[i].name, e);
        grads++;
    }
    for (size_t i = 0; i < got->n; i++) grads -= strncmp(got->items[i].name, "grad.", 5) == 0;
    assert_int_equal(grads, 0);
    gr_safetensors_close(ours);
    gr_safetensors_close(golden);
    graft_model_free(m);
    graft_context_free(ctx);
}

static void every_variant_agrees_with_transformers(void **state) {
    (void)state;
    char **names;
    size_t n, models = 0;
    assert_ok(gr_list_dir(NULL, test_golden("models"), &names, &n, &err));
    for (size_t i = 0; i < n; i++) {
        char path[1100], golden[1200];
        size_t len = strlen(names[i]);
        snprintf(path, sizeof path, "%s/%s", test_golden("models"), names[i]);
        if (gr_is_dir(path))
            snprintf(golden, sizeof golden, "%s/golden.safetensors", path);
        else if (len > 5 && strcmp(names[i] + len - 5, ".gguf") == 0)
            snprintf(golden, sizeof golden, "%.*s.golden.safetensors", (int)(strlen(path) - 5), path);
        else
            continue;
        compare(names[i], path, golden);
        models++;
    }
    gr_free_names(NULL, names, n);
    assert_true(models >= 34);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_variant_agrees_with_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
