/* Activations in 8 bits: bitsandbytes' Linear8bitLt (tools/golden/make_int8.py), and how a model is asked for
 * them. */
#include <math.h>

#include "graft/graft.h"
#include "io/hf_config.h"
#include "io/safetensors.h"
#include "kernel/kernel.h"
#include "support/support.h"

static const gr_tensor_view *find(const gr_safetensors *f, const char *name) {
    const gr_named_tensor *t = gr_tensor_list_find(gr_safetensors_tensors(f), name);
    assert_non_null(t);
    return &t->view;
}

static float at(const gr_tensor_view *v, int64_t i) {
    float x;
    memcpy(&x, (const char *)v->data + 4 * i, 4);
    return x;
}

/* Integers and scales are computed in bitsandbytes' order, so that rows without outliers agree to the bit. */
static void linear_is_bitsandbytes(void **state) {
    (void)state;
    static const struct {
        float threshold;
        const char *name;
    } cases[] = {{0, "y.0"}, {6, "y.6"}, {2.5f, "y.2.5"}};
    gr_safetensors *f;
    gr_device *d;
    graft_context *ctx;
    assert_ok(gr_safetensors_open(NULL, test_golden("quant/linear8bit.safetensors"), &f, &err));
    assert_ok(graft_context_new(NULL, &ctx, &err));
    assert_ok(gr_device_get(ctx, &d, &err));
    const gr_tensor_view *codes = find(f, "CB"), *x = find(f, "x"), *batch = find(f, "batch.6");
    const int64_t rows = x->shape.d[0], in = x->shape.d[1], out = codes->shape.d[0];
    const gr_scales scales = {.block = in, .absmax = find(f, "SCB")->data};
    float *in_memory = malloc(x->bytes), *y = malloc(sizeof(float) * (size_t)(rows * out));
    assert_true(in_memory && y);
    memcpy(in_memory, x->data, x->bytes);
    for (size_t c = 0; c < GR_COUNT(cases); c++) {
        gr_matrix *w;
        gr_matrix_spec spec = {
            .name = "w",
            .n_parts = 1,
            .dt = GR_F32,
            .integer = true,
            .outliers = cases[c].threshold,
            .part = {{.view = {GR_INT8, codes->shape, codes->data, codes->bytes, &scales}}}};
        assert_ok(gr_matrix_new(d, &spec, &w, &err));
        assert_ok(gr_matrix_forward(w, rows, in_memory, in, GR_F32, y, out, false, &err));
        gr_matrix_free(w);
        const gr_tensor_view *want = find(f, cases[c].name);
        for (int64_t i = 0; i < rows * out; i++) {
            bool outliers = false;
            for (int64_t k = 0; k < in; k++)
                outliers |=
                    cases[c].threshold > 0 && fabsf(at(x, i / out * in + k)) > cases[c].threshold - 0.01f;
            const double expected = at(want, i), most = outliers ? 4e-6 * (1 + fabs(expected)) : 0;
            if (!(fabs(y[i] - expected) <= most))
                fail_msg("threshold %g, row %d, output %d: expected %.9g, found %.9g",
                         (double)cases[c].threshold, (int)(i / out), (int)(i % out), expected, (double)y[i]);
            /* All rows in one call share their outlier columns there, here they do not: another rounding of
             * some elements. */
            if (cases[c].threshold == 6 &&
                !(fabs(y[i] - (double)at(batch, i)) <= 0.06 * (1 + fabs(expected))))
                fail_msg("row %d, output %d: %.9g is far from the batch's %.9g", (int)(i / out),
                         (int)(i % out), (double)y[i], (double)at(batch, i));
        }
    }
    free(in_memory);
    free(y);
    graft_context_free(ctx);
    gr_safetensors_close(f);
}

static graft_status load(graft_context *ctx, const char *golden, graft_model_options o, graft_error *err) {
    graft_model *m = NULL;
    graft_status st = graft_model_load(ctx, test_golden(golden), &o, &m, err);
    graft_model_free(m);
    return st;
}

static void models_are_asked(void **state) {
    (void)state;
    static const struct {
        const char *model;
        graft_model_options o;
        graft_status st;
        const char *text;
    } cases[] = {
        {"quant/int8", {.activations = "int8"}, GRAFT_OK, NULL},
        {"quant/int8", {.activations = "int8", .llm_int8_threshold = -1}, GRAFT_OK, NULL},
        {"quant/int8", {.activations = "int8", .llm_int8_threshold = 2.5}, GRAFT_OK, NULL},
        {"quant/int8", {.activations = "float"}, GRAFT_OK, NULL},
        {"quant/nf4",
         {.activations = "int8"},
         GRAFT_ERR_ARGUMENT,
         "expected weights in int8 or in a block format of GGUF, found none"},
        {"quant/int8", {.activations = "int4"}, GRAFT_ERR_ARGUMENT, "expected float or int8, found int4"},
        {"quant/int8", {.llm_int8_threshold = 6}, GRAFT_ERR_ARGUMENT, "expected activations int8 too"},
        {"quant/int8",
         {.activations = "int8", .llm_int8_threshold = NAN},
         GRAFT_ERR_ARGUMENT,
         "expected a number"},
    };
    graft_context *ctx;
    assert_ok(graft_context_new(NULL, &ctx, &err));
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_error err = {0};
        graft_status st = load(ctx, cases[i].model, cases[i].o, &err);
        if (st != cases[i].st || (st != GRAFT_OK && !strstr(err.text, cases[i].text)))
            fail_msg("case %zu: status %d, %s", i, (int)st, err.text);
    }
    graft_context_free(ctx);
}

static void threshold_of_the_configuration(void **state) {
    (void)state;
    gr_model_config gguf;
    assert_ok(gr_model_config_load(NULL, test_golden("formats/tiny/tiny.gguf"), &gguf, &err));
    assert_true(gguf.int8_threshold == 6);
    static const struct {
        const char *value;
        double expected; /* negative: refused */
    } cases[] = {{"6.0", 6}, {"0.0", 0}, {"4", 4}, {"null", 6}, {"-1.0", -1}, {"\"six\"", -1}, {"1e999", -1}};
    char *text, changed[8192];
    size_t len;
    char path[600];
    snprintf(path, sizeof path, "%s/config.json", test_golden("quant/int8"));
    assert_ok(gr_read_file(NULL, path, 1 << 20, &text, &len, &err));
    char *key = strstr(text, "\"llm_int8_threshold\": "), *value = key + strlen("\"llm_int8_threshold\": "),
         *end = strchr(value, ',');
    assert_non_null(key);
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_error err = {0};
        gr_model_config c;
        const int n = snprintf(changed, sizeof changed, "%.*s%s%.*s", (int)(value - text), text,
                               cases[i].value, (int)(text + len - end), end);
        graft_status st = gr_model_config_from_json(NULL, "config.json", changed, (size_t)n, &c, &err);
        if (cases[i].expected < 0 ? st == GRAFT_OK : st != GRAFT_OK || c.int8_threshold != cases[i].expected)
            fail_msg("%s: status %d, %s", cases[i].value, (int)st, err.text);
    }
    gr_free(NULL, text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(linear_is_bitsandbytes),
                                       cmocka_unit_test(models_are_asked),
                                       cmocka_unit_test(threshold_of_the_configuration)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
