/* Models in bitsandbytes' formats: read from what transformers saved, made while loading, trained over (QLoRA); files
 * that lie about sizes (tools/golden/make_quant.py). */
#include <math.h>

#include "graft/train.h"
#include "quant/scaled.h"
#include "support/model_support.h"
#include "support/sft_run.h"

static const struct {
    const char *name;
    graft_model_options options; /* that make the same from the plain model */
} formats[] = {
    {"nf4", {.dtype = GRAFT_DTYPE_F32, .load_in_4bit = 1}},
    {"fp4", {.dtype = GRAFT_DTYPE_F32, .load_in_4bit = 1, .bnb_4bit_quant_type = "fp4"}},
    {"nf4_double",
     {.dtype = GRAFT_DTYPE_F32, .load_in_4bit = 1, .bnb_4bit_quant_type = "nf4", .bnb_4bit_use_double_quant = 1}},
    {"int8", {.dtype = GRAFT_DTYPE_F32, .load_in_8bit = 1}},
};

static const char *folder(size_t i) {
    char name[40];
    snprintf(name, sizeof name, "quant/%s", formats[i].name);
    return test_golden(name);
}

static void check_logits(graft_model *m, size_t i, double tolerance) {
    gr_safetensors *golden, *ours;
    char path[64];
    snprintf(path, sizeof path, "quant/%s.golden.safetensors", formats[i].name);
    assert_ok(gr_safetensors_open(NULL, test_golden(path), &golden, &err));
    const char *out = test_path("%s/%s.logits.safetensors", test_temp_dir(), formats[i].name);
    graft_forward_options o = {.input = test_write_inputs(gr_safetensors_tensors(golden)), .output = out};
    assert_ok(graft_forward(m, &o, &err));
    assert_ok(gr_safetensors_open(NULL, out, &ours, &err));
    double worst = test_worst_error(&gr_tensor_list_find(gr_safetensors_tensors(golden), "logits")->view,
                                    &gr_tensor_list_find(gr_safetensors_tensors(ours), "logits")->view, 1);
    if (!(worst < tolerance)) fail_msg("%s: logits differ by %g", formats[i].name, worst);
    gr_safetensors_close(golden);
    gr_safetensors_close(ours);
}

static void saved_models_are_read(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 2, NULL);
    for (size_t i = 0; i < GR_COUNT(formats); i++) {
        graft_model *m = test_load(ctx, folder(i), GRAFT_DTYPE_F32);
        check_logits(m, i, 2e-6);
        graft_model_free(m);
    }
    graft_context_free(ctx);
}

/* The same codes and scales as the saved model has. */
static void loading_quantises_to_the_same_bits(void **state) {
    (void)state;
    for (size_t i = 0; i < GR_COUNT(formats); i++) {
        graft_context *ctx = test_context(NULL, 1 + (int)i % 3, NULL);
        graft_model *m, *saved = test_load(ctx, folder(i), GRAFT_DTYPE_F32);
        assert_ok(graft_model_load(ctx, test_golden("train/model"), &formats[i].options, &m, &err));
        const gr_weights *a = gr_model_weights(m->model), *b = gr_model_weights(saved->model);
        assert_int_equal(gr_weights_count(a), gr_weights_count(b));
        for (size_t k = 0; k < gr_weights_count(a); k++) {
            const gr_tensor_view *x = &gr_weights_at(a, k)->view, *y = &gr_weights_at(b, k)->view;
            assert_string_equal(gr_weights_at(a, k)->name, gr_weights_at(b, k)->name);
            assert_int_equal(x->dtype, y->dtype);
            assert_memory_equal(x->data, y->data, y->bytes);
            assert_int_equal(gr_view_all_bytes(x), gr_view_all_bytes(y));
            for (int64_t s = 0,
                         n = x->scales ? (x->shape.d[0] * x->shape.d[1] + x->scales->block - 1) / x->scales->block : 0;
                 s < n; s++)
                assert_true(gr_scale_at(x->scales, s) == gr_scale_at(y->scales, s));
        }
        check_logits(m, i, 2e-6);
        graft_model_free(m);
        graft_model_free(saved);
        graft_context_free(ctx);
    }
}

static void wrong_options_are_refused(void **state) {
    (void)state;
    static const struct {
        graft_model_options o;
        const char *text;
    } cases[] = {
        {{.load_in_4bit = 1, .load_in_8bit = 1}, "at most one"},
        {{.bnb_4bit_use_double_quant = 1}, "expected load_in_4bit"},
        {{.load_in_8bit = 1, .bnb_4bit_quant_type = "nf4"}, "expected load_in_4bit"},
        {{.load_in_4bit = 1, .bnb_4bit_quant_type = "nf5"}, "nf5"},
    };
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_error failure;
    graft_model *m;
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        assert_int_equal(graft_model_load(ctx, test_golden("train/model"), &cases[i].o, &m, &failure),
                         GRAFT_ERR_ARGUMENT);
        if (!strstr(failure.text, cases[i].text)) fail_msg("%s", failure.text);
    }
    assert_int_equal(graft_model_load(ctx, folder(0), &formats[3].options, &m, &failure), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(failure.text, "NF4 already"));
    graft_context_free(ctx);
}

static graft_status load_once(const graft_allocator *a, void *arg) {
    graft_context_options co = {.allocator = *a, .n_threads = 1};
    graft_context *ctx;
    graft_model *m = NULL;
    GR_TRY(graft_context_new(&co, &ctx, NULL));
    const size_t i = *(const size_t *)arg;
    graft_status st = i < GR_COUNT(formats)
                        ? graft_model_load(ctx, test_golden("train/model"), &formats[i].options, &m, NULL)
                        : graft_model_load(ctx, folder(i - GR_COUNT(formats)), NULL, &m, NULL);
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static void failing_allocations_leak_nothing(void **state) {
    (void)state;
    for (size_t i = 0; i < 2 * GR_COUNT(formats); i++) test_allocation_sweep(load_once, &i, 0, 1);
}

/* --- Files that lie ----------------------------------------------------------------------------------------------- */

typedef struct lie {
    const char *format, *tensor; /* of layer 0's q_proj */
    gr_dtype dtype;              /* GR_DTYPE_COUNT: the tensor is left out */
    int64_t n;                   /* elements; -1: as it is */
    const char *text;            /* for a quant_state */
    const char *error;
} lie;

#define STATE "weight.quant_state.bitsandbytes__nf4"
static const lie lies[] = {
    {"nf4", "weight", GR_U8, 511, NULL, "expected 512 bytes"},
    {"nf4", "weight", GR_U8, 513, NULL, "expected 512 bytes"},
    {"nf4", "weight", GR_DTYPE_COUNT, 0, NULL, "is missing"},
    {"nf4", "weight.absmax", GR_F32, 15, NULL, "expected 16 elements of F32"},
    {"nf4", "weight.absmax", GR_F32, 17, NULL, "expected 16 elements of F32"},
    {"nf4", "weight.absmax", GR_F16, 16, NULL, "expected 16 elements of F32"},
    {"nf4", "weight.absmax", GR_U8, 16, NULL, "nested_blocksize"},
    {"nf4", "weight.absmax", GR_DTYPE_COUNT, 0, NULL, "is missing"},
    {"nf4", "weight.quant_map", GR_F32, 15, NULL, "expected 16 elements"},
    {"nf4", "weight.quant_map", GR_F32, 16, NULL, "element 0: expected -1"},
    {"nf4", STATE, GR_U8, -1, "[]", "expected a JSON object"},
    {"nf4", STATE, GR_U8, -1, "{", "byte"},
    {"nf4", STATE, GR_U8, -1, "{\"quant_type\": \"fp4\", \"blocksize\": 64, \"shape\": [32, 32]}", "quant_type"},
    {"nf4", STATE, GR_U8, -1, "{\"quant_type\": \"nf4\", \"blocksize\": 63, \"shape\": [32, 32]}", "blocksize"},
    {"nf4", STATE, GR_U8, -1, "{\"quant_type\": \"nf4\", \"blocksize\": 128, \"shape\": [32, 32]}",
     "expected 8 elements"},
    {"nf4", STATE, GR_U8, -1, "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"shape\": [32]}", "shape"},
    {"nf4", STATE, GR_U8, -1, "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"shape\": [32, -32]}", "shape"},
    {"nf4", STATE, GR_U8, -1, "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"shape\": [2147483647, 2147483646]}",
     "expected 2305843005992468481 bytes"},
    {"nf4", STATE, GR_U8, -1, "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"shape\": [1024, 1]}", "even number"},
    {"nf4", STATE, GR_U8, -1, "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"shape\": [16, 64]}",
     "expected shape [32, 32]"},
    {"nf4_double", "weight.absmax", GR_U8, 15, NULL, "expected 16 elements of U8"},
    {"nf4_double", "weight.nested_absmax", GR_F32, 2, NULL, "expected 1 elements of F32"},
    {"nf4_double", "weight.nested_absmax", GR_DTYPE_COUNT, 0, NULL, "is missing"},
    {"nf4_double", "weight.nested_quant_map", GR_F32, 255, NULL, "expected 256 elements"},
    {"int8", "SCB", GR_F32, 31, NULL, "expected 32 elements of F32"},
    {"int8", "SCB", GR_F16, 32, NULL, "expected 32 elements of F32"},
    {"int8", "weight", GR_U8, 1024, NULL, "expected a matrix of I8"},
    {"int8", "weight_format", GR_U8, 2, NULL, "expected 1 elements"},
    {"int8", "weight_format", GR_U8, -1, "\1", "expected 0 (rows), found 1"},
};

/* The saved model with one tensor changed, in a folder of its own. */
static const char *write_lie(const lie *l) {
    static const char module[] = "model.layers.0.self_attn.q_proj.";
    gr_safetensors *f;
    gr_named_tensor items[256];
    static uint8_t filler[8192];
    char name[40];
    size_t n = 0;
    snprintf(name, sizeof name, "quant/%s", l->format);
    const char *dir = test_path("%s/lie", test_temp_dir());
    assert_ok(gr_safetensors_open(NULL, test_golden(name), &f, &err));
    const gr_tensor_list *list = gr_safetensors_tensors(f);
    for (size_t i = 0; i < list->n; i++) {
        items[n] = list->items[i];
        gr_tensor_view *v = &items[n].view;
        bool found = strncmp(items[n].name, module, strlen(module)) == 0 &&
                     strcmp(items[n].name + strlen(module), l->tensor) == 0;
        if (found && l->dtype == GR_DTYPE_COUNT) continue;
        if (found && l->text)
            *v = (gr_tensor_view){GR_U8, gr_shape1((int64_t)strlen(l->text)), l->text, strlen(l->text), NULL};
        else if (found)
            *v = (gr_tensor_view){l->dtype, gr_shape1(l->n), filler, gr_dtype_bytes(l->dtype, (size_t)l->n), NULL};
        n++;
    }
    test_copy_config(test_golden(name), dir);
    char *weights = gr_path_join(NULL, dir, "model.safetensors");
    assert_ok(gr_safetensors_save(NULL, weights, items, n, NULL, &err));
    gr_free(NULL, weights);
    gr_safetensors_close(f);
    return dir;
}

static void lies_are_refused_by_name(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    for (size_t i = 0; i < GR_COUNT(lies); i++)
        test_lie_is_refused(ctx, write_lie(&lies[i]), i, lies[i].tensor, lies[i].error);
    graft_context_free(ctx);
}

/* The plain model with one number of a projection changed. */
static const char *write_number(float x) {
    gr_safetensors *f;
    gr_named_tensor items[256];
    const char *dir = test_path("%s/number", test_temp_dir());
    char *text;
    size_t len, n = 0;
    assert_ok(gr_safetensors_open(NULL, test_golden("train/model"), &f, &err));
    const gr_tensor_list *list = gr_safetensors_tensors(f);
    float *changed = NULL;
    for (; n < list->n; n++) {
        items[n] = list->items[n];
        if (strcmp(items[n].name, "model.layers.0.self_attn.q_proj.weight")) continue;
        assert_int_equal(items[n].view.dtype, GR_F32);
        changed = gr_alloc(NULL, items[n].view.bytes);
        memcpy(changed, items[n].view.data, items[n].view.bytes);
        changed[40] = x;
        items[n].view.data = changed;
    }
    assert_non_null(changed);
    assert_ok(gr_make_dirs(dir, &err));
    assert_ok(gr_read_file(NULL, test_golden("train/model/config.json"), 1 << 20, &text, &len, &err));
    assert_ok(gr_write_file(NULL, test_path("%s/config.json", dir), text, len, &err));
    assert_ok(gr_safetensors_save(NULL, test_path("%s/model.safetensors", dir), items, n, NULL, &err));
    gr_free(NULL, text);
    gr_free(NULL, changed);
    gr_safetensors_close(f);
    return dir;
}

/* INT8 rounds rows to half precision, which ends at 65,504. */
static void numbers_that_a_format_cannot_hold_are_refused(void **state) {
    (void)state;
    static const float numbers[] = {65504, 1e5f, -1e38f, NAN, INFINITY};
    graft_context *ctx = test_context(NULL, 1, NULL);
    for (size_t i = 0; i < 2 * GR_COUNT(numbers); i++) {
        const graft_model_options o = {.load_in_4bit = i % 2 == 0, .load_in_8bit = i % 2 == 1};
        const float x = numbers[i / 2];
        const bool fits = isfinite(x) && (i % 2 == 0 || fabsf(x) <= 65504);
        graft_error failure = {0};
        graft_model *m = NULL;
        assert_int_equal(graft_model_load(ctx, write_number(x), &o, &m, &failure), fits ? GRAFT_OK : GRAFT_ERR_NUMERIC);
        if (!fits && !strstr(failure.text, "layers.0.self_attn.q_proj")) fail_msg("%s", failure.text);
        graft_model_free(m);
    }
    graft_context_free(ctx);
}

/* --- QLoRA -------------------------------------------------------------------------------------------------------- */

static void read_losses(const char *path, const char *key, double *out, size_t n) {
    gr_arena arena;
    const gr_json_value *root;
    size_t len;
    char *text = sft_read(path, &len);
    gr_arena_init(&arena, NULL, 0);
    assert_ok(gr_json_parse(&arena, path, text, len, &root, &err));
    const gr_json_value *list = gr_json_get(root, key), *v = list->child;
    assert_int_equal(list->len, n);
    for (size_t i = 0; i < n; i++, v = v->next) out[i] = v->number.d;
    gr_arena_free(&arena);
    gr_free(NULL, text);
}

static void keep_loss(void *user, const char *json) {
    double **at = user;
    const char *loss = strstr(json, "\"loss\": ");
    if (loss) *(*at)++ = strtod(loss + 8, NULL);
}

/* Twenty steps over a saved model, and over the plain one quantised while loading. */
static void losses_of_qlora_equal_the_reference(void **state) {
    (void)state;
    for (int run = 0; run < 6; run++) {
        const size_t i = (size_t)run / 2;
        double want[20], got[24], *at = got;
        graft_context *ctx = test_context(NULL, 2, NULL);
        graft_sft_options o = graft_sft_options_default();
        const char *data[] = {test_golden("quant/qlora.jsonl")};
        graft_train_callbacks call = {.user = &at, .log = keep_loss};
        read_losses(test_golden("quant/qlora.json"), formats[i].name, want, 20);
        o.model = run % 2 ? test_golden("train/model") : folder(i);
        if (run % 2) {
            o.load_in_4bit = 1;
            o.bnb_4bit_quant_type = formats[i].options.bnb_4bit_quant_type;
            o.bnb_4bit_use_double_quant = formats[i].options.bnb_4bit_use_double_quant;
        }
        o.dtype = "f32";
        o.adapter = test_golden("train/adapter");
        o.data = (graft_texts){data, 1};
        o.output_dir = test_path("%s/qlora", test_temp_dir());
        o.overwrite_output_dir = 1;
        o.no_shuffle = 1;
        o.per_device_train_batch_size = 2;
        o.max_steps = 20;
        o.logging_steps = 1;
        o.learning_rate = 1e-2;
        o.lr_scheduler_type = "constant";
        o.save_strategy = GRAFT_STRATEGY_NO;
        assert_ok(graft_sft(ctx, &o, &call, NULL, &err));
        assert_int_equal(at - got, 20);
        for (int s = 0; s < 20; s++)
            if (!(fabs(got[s] - want[s]) < 2e-5 * want[s]))
                fail_msg("%s: step %d: expected %.8g, found %.8g", formats[i].name, s + 1, want[s], got[s]);
        graft_context_free(ctx);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saved_models_are_read),     cmocka_unit_test(loading_quantises_to_the_same_bits),
        cmocka_unit_test(wrong_options_are_refused), cmocka_unit_test(failing_allocations_leak_nothing),
        cmocka_unit_test(lies_are_refused_by_name),  cmocka_unit_test(numbers_that_a_format_cannot_hold_are_refused),
        cmocka_unit_test(losses_of_qlora_equal_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
