/* Room model against transformers: logits, loss and every gradient of tiny models of each variant (goldens by
 * tools/golden/make_models.py), through graft_forward. */
#include "support/support.h"

#include <math.h>

#include "graft/adapter.h"
#include "io/io.h"

static graft_context *new_context(const graft_allocator *a, int threads) {
    graft_context_options o = {.n_threads = threads};
    graft_context *ctx = NULL;
    if (a) o.allocator = *a;
    assert_ok(graft_context_new(&o, &ctx, &err));
    return ctx;
}

static graft_model *load(graft_context *ctx, const char *path, graft_dtype dtype) {
    graft_model *m = NULL;
    assert_ok(graft_model_load(ctx, path, &(graft_model_options){.dtype = dtype}, &m, &err));
    return m;
}

/* Largest error relative to the golden tensor's largest magnitude. `stride`: the golden holds every stride-th element. */
static double worst_error(const gr_tensor_view *golden, const gr_tensor_view *ours, size_t stride) {
    const float *g = golden->data, *o = ours->data;
    size_t n = golden->bytes / sizeof *g, m = ours->bytes / sizeof *o;
    double scale = 0, worst = 0;
    assert_int_equal((m + stride - 1) / stride, n);
    for (size_t i = 0; i < n; i++) {
        float x, y;
        memcpy(&x, g + i, 4);
        memcpy(&y, o + i * stride, 4);
        if (!isfinite(y)) return INFINITY;
        scale = fmax(scale, fabs(x));
        worst = fmax(worst, fabs((double)x - y));
    }
    return worst / fmax(scale, 1e-30);
}

static double scalar(const gr_tensor_list *list, const char *name) {
    const gr_named_tensor *t = gr_tensor_list_find(list, name);
    float x;
    assert_non_null(t);
    memcpy(&x, t->view.data, 4);
    return x;
}

/* Runs the golden's input through the model and compares all that the golden holds. */
static void compare(const char *name, const char *model_path, const char *golden_path) {
    graft_context *ctx = new_context(NULL, 2);
    graft_model *m = load(ctx, model_path, GRAFT_DTYPE_F32);
    gr_safetensors *golden, *ours;
    char in[1200], out[1200];
    assert_ok(gr_safetensors_open(NULL, golden_path, &golden, &err));
    const gr_tensor_list *want = gr_safetensors_tensors(golden);
    const char *const inputs[] = {"input_ids", "attention_mask", "labels"};
    gr_named_tensor t[3];
    for (int i = 0; i < 3; i++) t[i] = *gr_tensor_list_find(want, inputs[i]);
    snprintf(in, sizeof in, "%s/in.safetensors", test_temp_dir());
    snprintf(out, sizeof out, "%s/out.safetensors", test_temp_dir());
    assert_ok(gr_safetensors_save(NULL, in, t, 3, NULL, &err));
    graft_forward_options o = {.input = in, .output = out, .backward = 1};
    assert_ok(graft_forward(m, &o, &err));
    assert_ok(gr_safetensors_open(NULL, out, &ours, &err));
    const gr_tensor_list *got = gr_safetensors_tensors(ours);
    size_t stride = (size_t)atoi(gr_safetensors_metadata(golden, "stride")), grads = 0;
    double e = worst_error(&gr_tensor_list_find(want, "logits")->view, &gr_tensor_list_find(got, "logits")->view, 1);
    if (!(e < 1e-5)) fail_msg("%s: logits are off by %g", name, e);
    if (!(fabs(scalar(want, "loss") - scalar(got, "loss")) < 2e-6 * scalar(want, "loss")))
        fail_msg("%s: loss %.8g, expected %.8g", name, scalar(got, "loss"), scalar(want, "loss"));
    for (size_t i = 0; i < want->n; i++) {
        if (strncmp(want->items[i].name, "grad.", 5) != 0) continue;
        const gr_named_tensor *g = gr_tensor_list_find(got, want->items[i].name);
        if (!g) fail_msg("%s: no %s", name, want->items[i].name);
        e = worst_error(&want->items[i].view, &g->view, stride);
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
