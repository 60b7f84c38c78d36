/* Room model against transformers: logits, loss and every gradient of tiny models of each variant (goldens by
 * tools/golden/make_models.py), through graft_forward. */
#include "support/model_support.h"

#include <math.h>

/* Small tensors are whole. */
static double error_of(const gr_tensor_view *golden, const gr_tensor_view *ours, size_t stride) {
    return test_worst_error(golden, ours, golden->bytes == ours->bytes ? 1 : stride);
}

/* Runs the golden's input through the model and compares all that the golden holds. */
static void compare(const char *name, const char *model_path, const char *golden_path) {
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, model_path, GRAFT_DTYPE_F32);
    gr_safetensors *golden, *ours;
    char out[1200];
    assert_ok(gr_safetensors_open(NULL, golden_path, &golden, &err));
    const gr_tensor_list *want = gr_safetensors_tensors(golden);
    snprintf(out, sizeof out, "%s/out.safetensors", test_temp_dir());
    bool labels = gr_tensor_list_find(want, "labels") != NULL;
    graft_forward_options o = {.input = test_write_inputs(want), .output = out, .backward = labels};
    assert_ok(graft_forward(m, &o, &err));
    assert_ok(gr_safetensors_open(NULL, out, &ours, &err));
    const gr_tensor_list *got = gr_safetensors_tensors(ours);
    size_t stride = (size_t)atoi(gr_safetensors_metadata(golden, "stride")), grads = 0;
    static const char *const outputs[] = {"logits", "last_hidden_state", "pooler_output"};
    double e = 0;
    for (size_t i = 0; i < GR_COUNT(outputs); i++) {
        const gr_named_tensor *w = gr_tensor_list_find(want, outputs[i]), *g = gr_tensor_list_find(got, outputs[i]);
        if (!w != !g) fail_msg("%s: %s", name, outputs[i]);
        if (w) e = error_of(&w->view, &g->view, stride);
        if (!(e < 1e-5)) fail_msg("%s: %s is off by %g", name, outputs[i], e);
    }
    if (labels && !(fabs(test_scalar(want, "loss") - test_scalar(got, "loss")) < 2e-6 * test_scalar(want, "loss")))
        fail_msg("%s: loss %.8g, expected %.8g", name, test_scalar(got, "loss"), test_scalar(want, "loss"));
    for (size_t i = 0; i < want->n; i++) {
        if (strncmp(want->items[i].name, "grad.", 5) != 0) continue;
        const gr_named_tensor *g = gr_tensor_list_find(got, want->items[i].name);
        if (!g) fail_msg("%s: no %s", name, want->items[i].name);
        bool whole = want->items[i].view.bytes == g->view.bytes;
        e = test_gradient_error(&want->items[i].view, &g->view, whole ? 1 : stride, test_largest_gradient(want));
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
    assert_true(models >= 36);
}

/* Goldens by tools/golden/make_families.py. */
static void every_family_agrees_with_transformers(void **state) {
    (void)state;
    static const struct {
        const char *model, *golden;
    } cases[] = {{"gpt2", "gpt2/golden"},
                 {"gpt2_inner", "gpt2_inner/golden"},
                 {"gpt2_hub", "gpt2_hub/golden"},
                 {"g_gpt2_f16.gguf", "g_gpt2_f16.golden"},
                 {"g_gpt2_q8_0.gguf", "g_gpt2_q8_0.golden"},
                 {"gpt2_cls", "gpt2_cls/golden"},
                 {"llama_cls", "llama_cls/golden"},
                 {"bert", "bert/golden"},
                 {"bert", "bert/golden.plain"},
                 {"bert_hub", "bert_hub/golden"},
                 {"bert_cls", "bert_cls/golden"},
                 {"bert_multi", "bert_multi/golden"},
                 {"bert_regression", "bert_regression/golden"},
                 {"bert_embed", "bert_embed/golden"},
                 {"roberta", "roberta/golden"},
                 {"roberta_cls", "roberta_cls/golden"},
                 {"t5", "t5/golden"},
                 {"t5", "t5/golden.decoder"},
                 {"t5_even", "t5_even/golden"},
                 {"t5_gated", "t5_gated/golden"},
                 {"t5_gated", "t5_gated/golden.decoder"},
                 {"t5_cls", "t5_cls/golden"},
                 {"t5_cls", "t5_cls/golden.ends_decoder"},
                 {"t5_multi", "t5_multi/golden"},
                 {"t5_regression", "t5_regression/golden"}};
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        char path[1100], golden[1200];
        snprintf(path, sizeof path, "%s/%s", test_golden("families"), cases[i].model);
        snprintf(golden, sizeof golden, "%s/%s.safetensors", test_golden("families"), cases[i].golden);
        compare(cases[i].golden, path, golden);
    }
}

/* --- The packaged model ------------------------------------------------------------------------------------------------------------- */

static const gr_named_tensor *part(const gr_tensor_list *list, const char *what, int i) {
    char name[64];
    snprintf(name, sizeof name, "%s.%d", what, i);
    const gr_named_tensor *t = gr_tensor_list_find(list, name);
    assert_non_null(t);
    return t;
}

static int64_t int_at(const gr_tensor_view *v, int64_t i) {
    int64_t x;
    memcpy(&x, (const char *)v->data + 8 * i, 8);
    return x;
}

static float float_at(const gr_tensor_view *v, int64_t i) {
    float x;
    memcpy(&x, (const char *)v->data + 4 * i, 4);
    return x;
}

static void compare_sequence(graft_model *m, const gr_tensor_list *golden, int i) {
    const gr_tensor_view *ids = &part(golden, "ids", i)->view, *rows = &part(golden, "rows", i)->view;
    const gr_tensor_view *top = &part(golden, "top", i)->view, *top_ids = &part(golden, "top_ids", i)->view;
    const gr_tensor_view *sample = &part(golden, "sample", i)->view, *argmax = &part(golden, "argmax", i)->view;
    int n = (int)ids->shape.d[0], seed = 1;
    int64_t vocab = graft_model_vocab_size(m), columns = sample->shape.d[1];
    test_batch *b = malloc(sizeof *b);
    assert_non_null(b);
    test_fill_batch(b, vocab, 1, &n, &seed);
    for (int k = 0; k < n; k++) {
        b->ids[k] = (int32_t)int_at(ids, k);
        b->labels[k] = k + 1 < n ? (int32_t)int_at(ids, k + 1) : -100;
    }
    float *x = test_logits(m->model, NULL, &b->batch);
    double scale = 0, worst = 0;
    for (int64_t r = 0; r < rows->shape.d[0]; r++) {
        const float *row = x + int_at(rows, r) * vocab;
        for (int64_t k = 0; k < 16; k++) {
            float want = float_at(top, r * 16 + k);
            scale = fmax(scale, fabs(want));
            worst = fmax(worst, fabs((double)want - row[int_at(top_ids, r * 16 + k)]));
        }
        for (int64_t k = 0; k < columns; k++)
            worst = fmax(worst, fabs((double)float_at(sample, r * columns + k) - row[k * 211]));
    }
    if (!(worst < 1e-5 * scale)) fail_msg("sequence %d: logits are off by %g of %g", i, worst, scale);
    int64_t same = 0;
    for (int k = 0; k < n; k++) {
        int64_t best = 0;
        for (int64_t v = 1; v < vocab; v++)
            if (x[k * vocab + v] > x[k * vocab + best]) best = v;
        same += best == int_at(argmax, k);
    }
    assert_int_equal(same, n);
    double loss = test_loss(m->model, NULL, &b->batch, false, false) / (n - 1), want = float_at(&part(golden, "loss", i)->view, 0);
    if (!(fabs(loss - want) < 1e-5 * (1 + want))) fail_msg("sequence %d: loss %.8g, expected %.8g", i, loss, want);
    free(x);
    free(b);
}

static void compare_real_gradients(graft_model *m, const gr_tensor_list *golden) {
    const gr_tensor_view *ids = &part(golden, "ids", 1)->view;
    gr_adapter_set *set = m->adapters;
    int n = (int)ids->shape.d[0], seed = 1;
    test_batch *b = malloc(sizeof *b);
    assert_non_null(b);
    assert_ok(graft_adapter_new(m, "a", "{\"peft_type\": \"LORA\", \"r\": 4, \"layers_to_transform\": [3, 29]}", 0, &err));
    for (size_t i = 0; i < gr_adapter_n_params(set, 0); i++) {
        gr_param *p = gr_adapter_param(set, 0, i);
        for (int64_t k = 0; k < p->n; k++) ((float *)p->value)[k] = (float)(0.02 * sin(0.37 * (double)k));
    }
    test_fill_batch(b, graft_model_vocab_size(m), 1, &n, &seed);
    b->batch.one_adapter = 0;
    for (int k = 0; k < n; k++) {
        b->ids[k] = (int32_t)int_at(ids, k);
        b->labels[k] = k + 1 < n ? (int32_t)int_at(ids, k + 1) : -100;
        b->weight[k] = 1.0f / (float)(n - 1);
    }
    test_loss(m->model, m->hooks, &b->batch, true, true);
    for (size_t i = 0; i < gr_adapter_n_params(set, 0); i++) {
        gr_param *p = gr_adapter_param(set, 0, i);
        char name[300];
        snprintf(name, sizeof name, "grad.%s", p->name);
        const gr_named_tensor *t = gr_tensor_list_find(golden, name);
        if (!t) fail_msg("no %s", name);
        gr_tensor_view ours = {GR_F32, p->shape, p->grad, (size_t)p->n * sizeof(float), NULL};
        double e = test_worst_error(&t->view, &ours, 7);
        /* Sums over 49,152 logits in single precision: the reference itself is off by 1.3e-4 of the gradient in double. */
        if (!(e < 1e-3)) fail_msg("%s is off by %g", name, e);
    }
    free(b);
}

static void packaged_model_agrees_with_transformers(void **state) {
    (void)state;
    char path[1200];
    gr_safetensors *golden;
    snprintf(path, sizeof path, "%s/models/SmolLM2-135M-Instruct.Q4_1.gguf", test_cache() ? test_cache() : "");
    if (!gr_path_exists(path)) skip();
    graft_context *ctx = test_context(NULL, 2, NULL);
    graft_model *m = test_load(ctx, path, GRAFT_DTYPE_F32);
    assert_int_equal(graft_model_n_params(m), 134515008);
    assert_ok(gr_safetensors_open(NULL, test_golden("smollm2.safetensors"), &golden, &err));
    for (int i = 0; i < (TEST_SANITIZED ? 1 : 3); i++) compare_sequence(m, gr_safetensors_tensors(golden), i);
    compare_real_gradients(m, gr_safetensors_tensors(golden));
    gr_safetensors_close(golden);
    graft_model_free(m);
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_variant_agrees_with_transformers),
        cmocka_unit_test(every_family_agrees_with_transformers),
        cmocka_unit_test(packaged_model_agrees_with_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
