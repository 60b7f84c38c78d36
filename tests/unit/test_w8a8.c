/* Models in compressed-tensors' 8 bits (tools/golden/make_w8a8.py): read, calibrated, made while loading, written,
 * trained over. Files and configurations that lie: test_w8a8_files.c. */
#include <math.h>

#include "adapter/calibration.h"
#include "graft/calibrate.h"
#include "graft/convert.h"
#include "model/quantize.h"
#include "quant/scaled.h"
#include "support/model_support.h"
#include "support/sft_run.h"

static const char *const kinds[] = {"w8a8_static", "w8a8_dynamic", "t5_static", "t5_dynamic"};
enum { STATIC, DYNAMIC, T5_STATIC, T5_DYNAMIC };

static const char *const left_out[] = {"lm_head", "re:.*layers\\.0.*k_proj$"}; /* of the static golden */

static const char *folder(size_t kind) {
    char name[40];
    snprintf(name, sizeof name, "quant/%s", kinds[kind]);
    return test_golden(name);
}

static void check_logits(graft_model *m, size_t kind, double tolerance) {
    gr_safetensors *golden, *ours;
    char name[64];
    snprintf(name, sizeof name, "quant/%s.golden.safetensors", kinds[kind]);
    assert_ok(gr_safetensors_open(NULL, test_golden(name), &golden, &err));
    const char *out = test_path("%s/%s.logits.safetensors", test_temp_dir(), kinds[kind]);
    const graft_forward_options o = {.input = test_write_inputs(gr_safetensors_tensors(golden)), .output = out};
    assert_ok(graft_forward(m, &o, &err));
    assert_ok(gr_safetensors_open(NULL, out, &ours, &err));
    const double worst = test_worst_error(&gr_tensor_list_find(gr_safetensors_tensors(golden), "logits")->view,
                                          &gr_tensor_list_find(gr_safetensors_tensors(ours), "logits")->view, 1);
    if (!(worst < tolerance)) fail_msg("%s: logits differ by %g", kinds[kind], worst);
    gr_safetensors_close(golden);
    gr_safetensors_close(ours);
}

/* Codes are the reference's to the last one, sums are exact: what differs is the rounding of the result. */
static void a_layer_is_the_reference(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    gr_safetensors *f;
    gr_device *d;
    assert_ok(gr_device_get(ctx, &d, &err));
    assert_ok(gr_safetensors_open(NULL, test_golden("quant/w8a8_linear.safetensors"), &f, &err));
    const gr_tensor_list *list = gr_safetensors_tensors(f);
    const gr_tensor_view *q = &gr_tensor_list_find(list, "q")->view, *x = &gr_tensor_list_find(list, "x")->view;
    const int64_t rows = x->shape.d[0], in = x->shape.d[1], out = q->shape.d[0];
    float *from = gr_alloc(NULL, x->bytes), *y = gr_alloc(NULL, sizeof(float) * (size_t)(rows * out));
    assert_true(from && y);
    memcpy(from, x->data, x->bytes);
    for (int kind = 0; kind < 2; kind++) {
        const float input = gr_scaled_float(gr_tensor_list_find(list, "input_scale")->view.data, 0);
        const gr_scales scales = {.block = in,
                                  .absmax = gr_tensor_list_find(list, "scale")->view.data,
                                  .input = kind == STATIC ? input : 0};
        const gr_matrix_spec spec = {.name = "w",
                                     .n_parts = 1,
                                     .dt = GR_F32,
                                     .integer = true,
                                     .part = {{.view = {GR_CHANNEL8, q->shape, q->data, q->bytes, &scales}}}};
        const gr_tensor_view *want = &gr_tensor_list_find(list, kind == STATIC ? "y.static" : "y.dynamic")->view;
        gr_matrix *w;
        assert_ok(gr_matrix_new(d, &spec, &w, &err));
        assert_ok(gr_matrix_forward(w, rows, from, in, GR_F32, y, out, false, &err));
        gr_matrix_free(w);
        double most = 0; /* of a row: the reference rounds each of what it sums */
        for (int64_t i = 0; i < rows * out; i++) {
            for (int64_t j = 0; i % out == 0 && j < out; j++)
                most = fmax(j ? most : 0, fabs((double)gr_scaled_float(want->data, i + j)));
            const double expected = (double)gr_scaled_float(want->data, i);
            if (!(fabs((double)y[i] - expected) <= 1e-6 * most))
                fail_msg("%s, row %d, output %d: expected %.9g, found %.9g", kinds[kind], (int)(i / out),
                         (int)(i % out), expected, (double)y[i]);
        }
    }
    gr_free(NULL, from);
    gr_free(NULL, y);
    gr_safetensors_close(f);
    graft_context_free(ctx);
}

/* Rounded to the type of the weights where that can hold them: half precision ends at 65504. */
static void scales_fit_their_type(void **state) {
    (void)state;
    static const gr_dtype types[] = {GR_F32, GR_BF16, GR_F16};
    static const float most[] = {0, 1e-45f, 1e-6f, 1, 3.7f, 4e4f, 8e6f, 1e7f, 3e38f};
    for (size_t i = 0; i < GR_COUNT(types) * GR_COUNT(most); i++) {
        const gr_dtype type = types[i % GR_COUNT(types)];
        const float top = most[i / GR_COUNT(types)], scale = gr_channel8_scale(top, type), exact = top / 127.5f;
        const double step = type == GR_F32 ? 0x1p-24 : type == GR_BF16 ? 0x1p-8 : 0x1p-11;
        assert_true(scale > 0 && isfinite(scale) && isfinite(1 / scale));
        if (exact > 1e-4f && fabs((double)scale - (double)exact) > step * (double)exact)
            fail_msg("%s: the scale of %g is %g", gr_dtype_name(type), (double)top, (double)scale);
    }
    assert_int_equal(gr_channel8_scale_type(GR_BF16), GR_BF16);
    assert_int_equal(gr_channel8_scale_type(GR_F16), GR_F16);
    assert_int_equal(gr_channel8_scale_type(GR_Q4_1), GR_F32);
}

/* The same row on any number of threads. */
static void weights_that_are_not_finite_are_named(void **state) {
    (void)state;
    enum { ROWS = 200, COLUMNS = 4096, AT_ONCE = 16 }; /* rows that are encoded together */
    static float x[ROWS * COLUMNS];
    const gr_weight w = {.stored_name = "w", .file = "f", .view = {GR_F32, gr_shape2(ROWS, COLUMNS), x, sizeof x, NULL}};
    const gr_quantize_spec spec = {.dtype = GR_CHANNEL8, .scale = GR_F32};
    x[37 * COLUMNS] = NAN;
    x[41 * COLUMNS + 7] = INFINITY;
    for (int row = 60; row < ROWS; row++) x[row * COLUMNS + row] = NAN;
    for (int round = 0; round < 40; round++) {
        graft_context *ctx = test_context(NULL, 1 + round % 4, NULL);
        graft_error failure = {0};
        gr_tensor_view view;
        gr_device *d;
        void *memory;
        size_t bytes;
        assert_ok(gr_device_get(ctx, &d, &err));
        assert_int_equal(gr_quantize_weight(d, &w, false, &spec, &view, &memory, &bytes, &failure), GRAFT_ERR_NUMERIC);
        char text[40];
        snprintf(text, sizeof text, "f: tensor w: row %d or", 37 / AT_ONCE * AT_ONCE);
        if (!strstr(failure.text, text)) fail_msg("%s", failure.text);
        graft_context_free(ctx);
    }
}

/* How far logits may be from the reference's. Where an activation is computed differently in its last bit, a code may
 * become its neighbour: with one scale a row this happens to the largest magnitude of rows where that is negative,
 * whose quotient is the middle of two codes. */
static const double tolerance[] = {2e-6, 3e-2, 2e-6, 3e-2};

static void saved_models_are_read(void **state) {
    (void)state;
    for (size_t k = STATIC; k <= T5_DYNAMIC; k++) {
        graft_context *ctx = test_context(NULL, 2, NULL);
        graft_model *m = test_load(ctx, folder(k), GRAFT_DTYPE_F32);
        assert_true(gr_model_is_integer(m->model));
        check_logits(m, k, tolerance[k]);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

static void activations_can_be_floats(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    const graft_model_options o = {.dtype = GRAFT_DTYPE_F32, .activations = "float"};
    graft_model *m;
    assert_ok(graft_model_load(ctx, folder(STATIC), &o, &m, &err));
    assert_false(gr_model_is_integer(m->model));
    check_logits(m, STATIC, 0.2);
    graft_model_free(m);
    graft_context_free(ctx);
}

/* --- Made --------------------------------------------------------------------------------------------------------- */

static graft_status calibrate(graft_context *ctx, const char *model, const char *data, size_t samples, int measure,
                              graft_calibration **out, graft_error *err) {
    const graft_model_options plain = {.dtype = GRAFT_DTYPE_F32, .activations = "float"};
    const graft_calibration_options o = {
        .data = {.paths = &data, .n_paths = 1}, .num_calibration_samples = samples, .measure = measure};
    graft_model *m = NULL;
    graft_tokenizer *tok = NULL;
    graft_status st = graft_model_load(ctx, model, &plain, &m, err);
    if (st == GRAFT_OK) st = graft_tokenizer_load(ctx, model, &tok, err);
    if (st == GRAFT_OK) st = graft_calibrate(m, tok, &o, out, err);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    return st;
}

/* The model made while loading, as the golden of that kind. */
static graft_model *made(graft_context *ctx, size_t kind, const graft_calibration *c) {
    const graft_w8a8 how = {
        .calibration = kind == STATIC ? c : NULL, .ignore = left_out, .n_ignore = kind == STATIC ? 2 : 1};
    const graft_model_options o = {.dtype = GRAFT_DTYPE_F32, .w8a8 = &how};
    graft_model *m;
    assert_ok(graft_model_load(ctx, test_golden("train/model"), &o, &m, &err));
    return m;
}

static void same_weights(const graft_model *a, const graft_model *b, double scales) {
    const gr_weights *x = gr_model_weights(a->model), *y = gr_model_weights(b->model);
    assert_int_equal(gr_weights_count(x), gr_weights_count(y));
    for (size_t i = 0; i < gr_weights_count(x); i++) {
        const gr_tensor_view *v = &gr_weights_at(x, i)->view, *w = &gr_weights_at(y, i)->view;
        assert_string_equal(gr_weights_at(x, i)->name, gr_weights_at(y, i)->name);
        assert_int_equal(v->dtype, w->dtype);
        assert_memory_equal(v->data, w->data, w->bytes);
        if (v->dtype != GR_CHANNEL8) continue;
        for (int64_t r = 0; r < v->shape.d[0]; r++)
            assert_true(gr_scale_at(v->scales, r) == gr_scale_at(w->scales, r));
        if (!(fabs((double)v->scales->input - (double)w->scales->input) <= scales * (double)w->scales->input))
            fail_msg("%s: input scale: expected %.9g, found %.9g", gr_weights_at(x, i)->name,
                     (double)w->scales->input, (double)v->scales->input);
    }
}

/* Codes and weights' scales to the bit; activations are computed in another order of sums. */
static void loading_makes_what_the_reference_made(void **state) {
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        graft_context *ctx = test_context(NULL, 1 + (int)k, NULL);
        graft_calibration *c;
        assert_ok(calibrate(ctx, test_golden("train/model"), test_golden("quant/w8a8.jsonl"), 0, 0, &c, &err));
        assert_int_equal(graft_calibration_n_examples(c),
                         7); /* one of the records is a token alone: nothing to learn */
        graft_model *m = made(ctx, k, c), *saved = test_load(ctx, folder(k), GRAFT_DTYPE_F32), *again;
        same_weights(m, saved, 1e-5);
        check_logits(m, k, 3e-2); /* an input scale may differ by a bit too */
        const char *dir = test_path("%s/made_%s", test_temp_dir(), kinds[k]);
        assert_ok(graft_model_save(m, dir, &err));
        again = test_load(ctx, dir, GRAFT_DTYPE_F32);
        same_weights(again, m, 0);
        graft_model_free(again);
        assert_ok(graft_model_save(saved, dir, &err)); /* over it: what was read is written as it was */
        again = test_load(ctx, dir, GRAFT_DTYPE_F32);
        same_weights(again, saved, 0);
        check_logits(again, k, tolerance[k]);
        graft_model_free(again);
        graft_model_free(saved);
        graft_model_free(m);
        graft_calibration_free(c);
        graft_context_free(ctx);
    }
}

/* Any number of threads, whatever the records' batches are. */
static void calibration_does_not_depend_on_threads(void **state) {
    (void)state;
    graft_calibration *c[2];
    graft_context *ctx[2];
    for (int i = 0; i < 2; i++) {
        ctx[i] = test_context(NULL, 1 + 2 * i, NULL);
        assert_ok(calibrate(ctx[i], test_golden("train/model"), test_golden("train/texts.jsonl"), 5, 1, &c[i], &err));
        assert_int_equal(graft_calibration_n_examples(c[i]), 5);
    }
    assert_int_equal(c[0]->n_ranges, c[1]->n_ranges);
    assert_memory_equal(c[0]->ranges, c[1]->ranges, c[0]->n_ranges * sizeof *c[0]->ranges);
    for (size_t i = 0; i < c[0]->n_ranges; i++) {
        const gr_input_range *r = &c[0]->ranges[i];
        assert_true(r->measured && r->most > 0 && r->squares > 0 && r->clipped == 0);
        assert_true(r->error_dynamic < r->error && r->error < 0.01 * r->squares);
    }
    for (int i = 0; i < 2; i++) {
        graft_calibration_free(c[i]);
        graft_context_free(ctx[i]);
    }
}

static void the_report_names_every_module(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_calibration *c;
    graft_model *m = test_load(ctx, test_golden("train/model"), GRAFT_DTYPE_F32);
    char *json;
    assert_ok(calibrate(ctx, test_golden("train/model"), test_golden("quant/w8a8.jsonl"), 0, 1, &c, &err));
    const graft_w8a8 how = {.calibration = c, .ignore = left_out, .n_ignore = 2};
    assert_ok(graft_w8a8_report(m, &how, &json, &err));
    gr_arena arena;
    const gr_json_value *root;
    gr_arena_init(&arena, NULL, 0);
    assert_ok(gr_json_parse(&arena, "report", json, strlen(json), &root, &err));
    const gr_json_value *list = gr_json_get(root, "tensors");
    assert_int_equal(list->len, 13);
    for (const gr_json_value *t = list->child; t; t = t->next) {
        static const char *const keys[] = {"rmse", "input_max", "input_outlier_ratio", "input_error",
                                           "input_error_dynamic"};
        for (size_t i = 0; i < GR_COUNT(keys); i++) assert_true(gr_json_get(t, keys[i])->number.d > 0);
        assert_true(gr_json_get(t, "input_clipped")->number.d == 0);
    }
    gr_arena_free(&arena);
    graft_free(ctx, json);
    graft_model_free(m);
    graft_calibration_free(c);
    graft_context_free(ctx);
}

static void wrong_wishes_are_refused(void **state) {
    (void)state;
    static const char *const unknown[] = {"gate_prog"}, *const bad[] = {"re:("}, *const all[] = {"re:model"};
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_calibration *c, *none = NULL;
    assert_ok(calibrate(ctx, test_golden("train/model"), test_golden("quant/w8a8.jsonl"), 0, 0, &c, &err));
    const graft_w8a8 plain = {0}, of_unknown = {.ignore = unknown, .n_ignore = 1},
                     of_bad = {.ignore = bad, .n_ignore = 1}, of_all = {.ignore = all, .n_ignore = 1},
                     with = {.calibration = c};
    const struct {
        const char *model;
        graft_model_options o;
        const char *text;
    } cases[] = {
        {"train/model", {.w8a8 = &plain, .load_in_8bit = 1}, "neither load_in_4bit"},
        {"train/model", {.w8a8 = &of_unknown}, "found gate_prog"},
        {"train/model", {.w8a8 = &of_bad}, "pattern '('"},
        {"train/model", {.w8a8 = &of_all}, "found all left out"},
        {"quant/w8a8_static", {.w8a8 = &plain}, "in 8 bits already"},
        {"quant/int8", {.w8a8 = &plain}, "INT8 already"},
        {"quant/w8a8_static", {.load_in_8bit = 1}, "CHANNEL8 already"},
        {"families/gpt2", {.w8a8 = &plain}, "Conv1D"},
        {"models/llama", {.w8a8 = &with}, "expected one of this model"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_error failure = {0};
        graft_model *m;
        if (graft_model_load(ctx, test_golden(cases[i].model), &cases[i].o, &m, &failure) == GRAFT_OK ||
            !strstr(failure.text, cases[i].text))
            fail_msg("case %zu: \"%s\", expected it to hold \"%s\"", i, failure.text, cases[i].text);
    }
    graft_calibration_free(c);
    const char *const data[] = {test_golden("quant/none.jsonl"), test_path("%s/empty.jsonl", test_temp_dir())};
    assert_ok(gr_write_file(NULL, data[1], "\n", 1, &err));
    for (size_t i = 0; i < GR_COUNT(data); i++) {
        graft_error failure = {0};
        if (calibrate(ctx, test_golden("train/model"), data[i], 0, 0, &none, &failure) == GRAFT_OK ||
            !strstr(failure.text, data[i]))
            fail_msg("calibration on %s: \"%s\"", data[i], failure.text);
    }
    graft_tokenizer *tok;
    assert_ok(graft_tokenizer_load(ctx, test_golden("train/model"), &tok, &err));
    static const char *const models[][2] = {{"families/bert", "expected a decoder"},
                                            {"quant/w8a8_static", "activations in floats"}};
    for (size_t i = 0; i < GR_COUNT(models); i++) {
        const graft_calibration_options o = {.data = {.paths = data, .n_paths = 1}};
        graft_error failure = {0};
        graft_model *m = test_load(ctx, test_golden(models[i][0]), GRAFT_DTYPE_F32);
        if (graft_calibrate(m, tok, &o, &none, &failure) == GRAFT_OK || !strstr(failure.text, models[i][1]))
            fail_msg("%s: \"%s\"", models[i][0], failure.text);
        graft_model_free(m);
    }
    assert_null(none);
    graft_tokenizer_free(tok);
    graft_context_free(ctx);
}

/* --- Trained over ------------------------------------------------------------------------------------------------- */

/* Activations as the model has them, gradients through decoded weights; the same bits on any number of threads. */
static void adapters_are_trained_over_it(void **state) {
    (void)state;
    double first = 0;
    for (int run = 0; run < 2; run++) {
        sft_case c;
        graft_train_result r;
        sft_case_init(&c, "pairs.jsonl", run ? "w8a8_b" : "w8a8_a");
        c.o.model = folder(STATIC);
        c.o.max_steps = 6;
        c.o.learning_rate = 1e-2;
        assert_ok(sft_run(&c, 1 + 2 * run, &r, &err));
        assert_true(isfinite(r.train_loss));
        if (run) assert_true(first == r.train_loss);
        first = r.train_loss;
    }
    sft_assert_same(test_path("%s/w8a8_a", test_temp_dir()), test_path("%s/w8a8_b", test_temp_dir()));
}

/* Of what the weights decode to, which is written as any other model is. */
static void all_weights_are_trained_in_floats(void **state) {
    (void)state;
    sft_case c;
    sft_case_init(&c, "pairs.jsonl", "w8a8_full");
    c.o.model = folder(STATIC);
    c.o.method = "full";
    c.o.max_steps = 1;
    assert_ok(sft_run(&c, 1, NULL, &err));
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_path("%s/w8a8_full", test_temp_dir()), GRAFT_DTYPE_F32);
    assert_false(gr_model_is_integer(m->model));
    for (size_t i = 0; i < gr_weights_count(gr_model_weights(m->model)); i++)
        assert_int_equal(gr_weights_at(gr_model_weights(m->model), i)->view.dtype, GR_F32);
    graft_model_free(m);
    graft_context_free(ctx);
}

/* What an adapter changes is encoded again under the scales of activations that are there. */
static void adapters_are_merged_into_it(void **state) {
    (void)state;
    sft_case c;
    sft_case_init(&c, "pairs.jsonl", "w8a8_merge");
    c.o.model = folder(STATIC);
    c.o.max_steps = 6;
    c.o.learning_rate = 1e-2;
    assert_ok(sft_run(&c, 2, NULL, &err));
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, folder(STATIC), GRAFT_DTYPE_F32), *merged;
    const char *dir = test_path("%s/merged", test_temp_dir());
    char *report;
    assert_ok(graft_adapter_load(m, "a", test_path("%s/w8a8_merge", test_temp_dir()), 1, &err));
    assert_ok(graft_model_merge_stored(m, "a", dir, NULL, &report, &err));
    assert_non_null(strstr(report, "\"formats\": [\"CHANNEL8\"]"));
    graft_free(ctx, report);
    merged = test_load(ctx, dir, GRAFT_DTYPE_F32);
    assert_true(gr_model_is_integer(merged->model));
    const gr_weights *a = gr_model_weights(m->model), *b = gr_model_weights(merged->model);
    size_t changed = 0;
    for (size_t i = 0; i < gr_weights_count(a); i++) {
        const gr_tensor_view *v = &gr_weights_at(a, i)->view, *w = &gr_weights_at(b, i)->view;
        assert_int_equal(v->dtype, w->dtype);
        if (v->dtype != GR_CHANNEL8) continue;
        assert_true(v->scales->input == w->scales->input);
        changed += memcmp(v->data, w->data, v->bytes) != 0;
    }
    assert_true(changed);
    graft_model_free(merged);
    graft_model_free(m);
    graft_context_free(ctx);
}

static graft_status sweep(const graft_allocator *a, void *arg) {
    const graft_context_options co = {.allocator = *a, .n_threads = 1};
    const char *dir = test_path("%s/sweep", test_temp_dir());
    graft_context *ctx;
    graft_model *m = NULL;
    graft_calibration *c = NULL;
    char *json = NULL;
    (void)arg;
    GR_TRY(graft_context_new(&co, &ctx, NULL));
    graft_status st = calibrate(ctx, test_golden("train/model"), test_golden("quant/w8a8.jsonl"), 0, 1, &c, NULL);
    const graft_w8a8 how = {.calibration = c, .ignore = left_out, .n_ignore = 2};
    const graft_model_options o = {.w8a8 = &how};
    if (st == GRAFT_OK) st = graft_model_load(ctx, test_golden("train/model"), &o, &m, NULL);
    if (st == GRAFT_OK) st = graft_model_save(m, dir, NULL);
    graft_model_free(m);
    m = NULL;
    if (st == GRAFT_OK) st = graft_model_load(ctx, dir, NULL, &m, NULL);
    graft_model_free(m);
    m = NULL;
    if (st == GRAFT_OK) st = graft_model_load(ctx, test_golden("train/model"), NULL, &m, NULL);
    if (st == GRAFT_OK) st = graft_w8a8_report(m, &how, &json, NULL);
    graft_free(ctx, json);
    graft_model_free(m);
    graft_calibration_free(c);
    graft_context_free(ctx);
    return st;
}

static void failing_allocations_leak_nothing(void **state) {
    (void)state;
    test_allocation_sweep(sweep, NULL, 0, 23);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_layer_is_the_reference),
        cmocka_unit_test(scales_fit_their_type),
        cmocka_unit_test(weights_that_are_not_finite_are_named),
        cmocka_unit_test(saved_models_are_read),
        cmocka_unit_test(activations_can_be_floats),
        cmocka_unit_test(loading_makes_what_the_reference_made),
        cmocka_unit_test(calibration_does_not_depend_on_threads),
        cmocka_unit_test(the_report_names_every_module),
        cmocka_unit_test(wrong_wishes_are_refused),
        cmocka_unit_test(adapters_are_trained_over_it),
        cmocka_unit_test(all_weights_are_trained_in_floats),
        cmocka_unit_test(adapters_are_merged_into_it),
        cmocka_unit_test(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
