/* Merged directories: what the base carries beside its weights comes along to the letter; a full disk, an unwritable place and
 * failing allocations are told. Logits: test_adapter.c, and tools/golden/check_merge.py with the packaged model. */
#include "support/sft_run.h"

#include <signal.h>
#include <sys/resource.h>

#include "adapter/merged.h"
#include "adapter/method.h"
#include "graft/adapter.h"
#include "graft/convert.h"
#include "io/hf_config.h"
#include "quant/scaled.h"
#include "support/corrupt.h"
#include "support/model_support.h"

static const char lora[] = "{\"peft_type\": \"LORA\", \"r\": 2, \"target_modules\": \"all-linear\", \"init_lora_weights\": false}";

static void put(const char *path, const char *text) { assert_ok(gr_write_file(NULL, path, text, strlen(text), &err)); }

/* A copy of the small model with more beside it. */
static const char *rich_model(void) {
    static const char *const names[] = {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
                                        "chat_template.jinja", "model.safetensors"};
    const char *to = test_path("%s/rich", test_temp_dir());
    assert_ok(gr_make_dirs(test_path("%s/additional_chat_templates", to), &err));
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        size_t n;
        char *bytes = sft_read(test_path("%s/%s", test_golden("train/model"), names[i]), &n);
        assert_ok(gr_write_file(NULL, test_path("%s/%s", to, names[i]), bytes, n, &err));
        gr_free(NULL, bytes);
    }
    put(test_path("%s/special_tokens_map.json", to), "{\"additional\":   []}");
    put(test_path("%s/additional_chat_templates/short.jinja", to), "{{ messages[0].content }}");
    return to;
}

static void assert_same_bytes(const char *a, const char *b, const char *name) {
    size_t na, nb;
    char *x = sft_read(test_path("%s/%s", a, name), &na), *y = sft_read(test_path("%s/%s", b, name), &nb);
    if (na != nb || memcmp(x, y, na)) fail_msg("%s differs:\n%s\n%s", name, x, y);
    gr_free(NULL, x);
    gr_free(NULL, y);
}

static void what_lies_beside_comes_along(void **state) {
    (void)state;
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja",
                                        "special_tokens_map.json", "additional_chat_templates/short.jinja"};
    char from[1024], to[1024];
    snprintf(from, sizeof from, "%s", rich_model());
    snprintf(to, sizeof to, "%s/merged", test_temp_dir());
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, from, GRAFT_DTYPE_F32);
    assert_ok(graft_adapter_new(m, "a", lora, 1, &err));
    assert_ok(graft_model_merge(m, "a", to, GRAFT_DTYPE_F32, &err));
    for (size_t i = 0; i < GR_COUNT(names); i++) assert_same_bytes(from, to, names[i]);
    graft_model_free(m);
    /* Without an adapter and in the base's own format a merge is a copy. */
    m = test_load(ctx, from, GRAFT_DTYPE_F32);
    assert_ok(gr_remove_tree(to, &err));
    assert_ok(graft_model_merge(m, NULL, to, GRAFT_DTYPE_AUTO, &err));
    assert_same_bytes(from, to, "config.json");
    graft_model *copy = test_load(ctx, to, GRAFT_DTYPE_F32);
    const gr_weights *a = gr_model_weights(m->model), *b = gr_model_weights(copy->model);
    assert_int_equal(gr_weights_count(a), gr_weights_count(b));
    for (size_t i = 0; i < gr_weights_count(a); i++) {
        const gr_weight *x = gr_weights_at(a, i), *y = gr_weights_find(b, x->name);
        assert_non_null(y);
        assert_memory_equal(x->view.data, y->view.data, x->view.bytes);
    }
    graft_model_free(copy);
    graft_model_free(m);
    graft_context_free(ctx);
}

static void configs_keep_what_graft_does_not_know(void **state) {
    (void)state;
    static const struct {
        const char *text, *edited; /* NULL: refused */
        const char *quant;
    } cases[] = {
        {"{\"a\":1, \"torch_dtype\" : \"float32\",\"x\":{\"dtype\":2}}",
         "{\"a\":1, \"torch_dtype\" : \"bfloat16\",\"x\":{\"dtype\":2},\n  \"tie_word_embeddings\": true}", NULL},
        {"{\n  \"tie_word_embeddings\": false,\n  \"dtype\": null\n}\n", "{\n  \"tie_word_embeddings\": true,\n  \"dtype\": \"bfloat16\"\n}\n", NULL},
        {"{}", "{\n  \"dtype\": \"bfloat16\",\n  \"tie_word_embeddings\": true}", NULL},
        {"{\"tie_word_embeddings\":1}", "{\"tie_word_embeddings\":true,\n  \"dtype\": \"bfloat16\"}", NULL},
        {"{\"quantization_config\": {\"x\": [1]}, \"a\": 1}", "{ \"a\": 1,\n  \"dtype\": \"bfloat16\",\n  \"tie_word_embeddings\": true}", NULL},
        {"{\"a\": 1,\n \"quantization_config\": {}\n}", "{\"a\": 1,\n  \"dtype\": \"bfloat16\",\n  \"tie_word_embeddings\": true\n}", NULL},
        {"{\"a\": 1, \"quantization_config\": {} , \"dtype\": 0}", "{\"a\": 1 , \"dtype\": \"bfloat16\",\n  \"tie_word_embeddings\": true}", NULL},
        {"{\"quantization_config\": 2}", "{\n  \"dtype\": \"bfloat16\",\n  \"tie_word_embeddings\": true}", NULL},
        {"{\"quantization_config\": 2}", "{\"quantization_config\": {},\n  \"dtype\": \"bfloat16\",\n  \"tie_word_embeddings\": true}", "{}"},
        {"{\"model_type\": \"t5\", \"tie_word_embeddings\": false}",
         "{\"model_type\": \"t5\", \"tie_word_embeddings\": true,\n  \"dtype\": \"bfloat16\",\n  \"scale_decoder_outputs\": false}", NULL},
        {"{\"dtype\":0,\"model_type\":\"t5\"}",
         "{\"dtype\":\"bfloat16\",\"model_type\":\"t5\",\n  \"tie_word_embeddings\": true,\n  \"scale_decoder_outputs\": true}", NULL},
        {"{\"a\":1", NULL, NULL},
        {"[]", NULL, NULL},
        {"{} {}", NULL, NULL},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        char *out;
        graft_error wrong;
        graft_status st = gr_model_config_edit(NULL, "c", cases[i].text, strlen(cases[i].text), GR_BF16, true, cases[i].quant, &out, &wrong);
        if (!cases[i].edited) {
            assert_int_equal(st, GRAFT_ERR_FORMAT);
            continue;
        }
        assert_int_equal(st, GRAFT_OK);
        assert_string_equal(out, cases[i].edited);
        gr_free(NULL, out);
    }
}

static void full_disks_and_wrong_places_are_told(void **state) {
    (void)state;
    struct rlimit before, small;
    char to[1024], from[1024];
    graft_error wrong;
    snprintf(from, sizeof from, "%s", rich_model());
    snprintf(to, sizeof to, "%s/small_disk", test_temp_dir());
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, from, GRAFT_DTYPE_F32);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 50000; /* room for all but the weights */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    graft_status st = graft_model_merge(m, NULL, to, GRAFT_DTYPE_F32, &wrong);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(st, GRAFT_ERR_IO);
    assert_non_null(strstr(wrong.text, "model.safetensors"));
    assert_false(gr_path_exists(test_path("%s/model.safetensors", to)));
    assert_int_equal(graft_model_merge(m, NULL, "/dev/null/merged", GRAFT_DTYPE_F32, &wrong), GRAFT_ERR_IO);
    assert_non_null(strstr(wrong.text, "/dev/null"));
    assert_ok(graft_model_merge(m, NULL, to, GRAFT_DTYPE_F32, &err));
    graft_model_free(m);
    graft_context_free(ctx);
}

static void what_no_weight_can_hold_is_refused(void **state) {
    (void)state;
    static const char *const cases[] = {"{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 2}",
                                        "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 2, \"encoder_hidden_size\": 4}",
                                        "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 2}",
                                        "{\"peft_type\": \"ADAPTION_PROMPT\", \"adapter_len\": 2, \"adapter_layers\": 1}"};
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("train/model"), GRAFT_DTYPE_F32);
    const char *to = test_path("%s/refused", test_temp_dir());
    graft_error wrong;
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        assert_ok(graft_adapter_new(m, "a", cases[i], 1, &err));
        assert_int_equal(graft_model_merge(m, "a", to, GRAFT_DTYPE_F32, &wrong), GRAFT_ERR_UNSUPPORTED);
        assert_non_null(strstr(wrong.text, "which no weight can hold"));
        assert_false(gr_path_exists(to));
        assert_ok(graft_adapter_remove(m, "a", &err));
    }
    graft_model_free(m);
    graft_context_free(ctx);
}

/* The bias of a masked head has another name than the module's. */
static void biases_of_masked_heads_are_trained(void **state) {
    (void)state;
    static const char *const models[][2] = {{"families/bert", "base_model.model.cls.predictions.bias"},
                                            {"families/roberta", "base_model.model.lm_head.bias"}};
    graft_context *ctx = test_context(NULL, 1, NULL);
    for (size_t i = 0; i < GR_COUNT(models); i++) {
        graft_model *m = test_load(ctx, test_golden(models[i][0]), GRAFT_DTYPE_F32);
        const char *dir = test_path("%s/bitfit%zu", test_temp_dir(), i);
        gr_safetensors *f;
        assert_ok(graft_adapter_new(m, "a", "{\"peft_type\": \"BITFIT\"}", 1, &err));
        assert_ok(graft_adapter_save(m, "a", dir, &err));
        assert_ok(graft_adapter_load(m, "b", dir, 1, &err));
        graft_model_free(m);
        assert_ok(gr_safetensors_open(NULL, test_path("%s/adapter_model.safetensors", dir), &f, &err));
        assert_non_null(gr_tensor_list_find(gr_safetensors_tensors(f), models[i][1]));
        gr_safetensors_close(f);
    }
    graft_context_free(ctx);
}

/* q of layer 0 gets a delta, everything else is left alone. */
static const char one[] = "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 32, \"target_modules\": \".*layers.0.self_attn.q_proj\", "
                          "\"init_lora_weights\": false}";
static const char changed[] = "model.layers.0.self_attn.q_proj.weight";

/* What a changed weight must have become: the base's values and the delta, in the base's format again. */
static void assert_encoded_again(const graft_model *from, const graft_model *to) {
    gr_shape shape;
    const gr_weight *w, *x;
    const gr_adapter *a = gr_adapter_at(from->adapters, gr_adapter_set_find(from->adapters, "a"));
    assert_ok(gr_model_tensor_shape(from->model, changed, &shape, &err));
    const int64_t n = shape.d[0] * shape.d[1], columns = shape.d[1];
    float *sum = gr_alloc(NULL, (size_t)n * sizeof *sum), *got = gr_alloc(NULL, (size_t)n * sizeof *got);
    assert_ok(gr_merged_rows(from->model, a, changed, 0, shape.d[0], sum, &err));
    assert_ok(gr_model_read_tensor(to->model, changed, 0, shape.d[0], got, &err));
    assert_ok(gr_model_get_weight(from->model, changed, &w, &err));
    assert_ok(gr_model_get_weight(to->model, changed, &x, &err));
    assert_int_equal(w->view.dtype, x->view.dtype);
    if (w->view.scales) {
        const gr_quantize_spec spec = {.dtype = w->view.dtype, .block = w->view.dtype == GR_INT8 ? 0 : w->view.scales->block,
                                       .nested = w->view.dtype != GR_INT8 && !w->view.scales->absmax};
        const gr_weight plain = {.name = changed, .stored_name = changed, .file = "", .view = {GR_F32, shape, sum, (size_t)n * 4, NULL}};
        gr_tensor_view view;
        void *memory;
        size_t bytes;
        assert_ok(gr_quantize_weight(gr_model_device(from->model), &plain, false, &spec, &view, &memory, &bytes, &err));
        assert_memory_equal(view.data, x->view.data, view.bytes);
        assert_ok(gr_view_decode(&view, 0, n, sum, &err));
        gr_free_aligned(gr_allocator(gr_model_context(from->model)), memory);
    } else {
        char *bytes = gr_alloc(NULL, (size_t)n * 4);
        for (int64_t r = 0; r < shape.d[0]; r++) {
            assert_ok(gr_quantize_row(w->view.dtype, sum + r * columns, (size_t)columns, bytes, &err));
            assert_ok(gr_dequantize_row(w->view.dtype, bytes, (size_t)columns, sum + r * columns, &err));
        }
        gr_free(NULL, bytes);
    }
    assert_memory_equal(sum, got, (size_t)n * sizeof *sum);
    gr_free(NULL, sum);
    gr_free(NULL, got);
}

/* All other tensors: the base's very bytes. */
static void assert_others_kept(const graft_model *from, const graft_model *to) {
    for (size_t i = 0; i < gr_model_n_tensors(from->model); i++) {
        const char *name = gr_model_tensor_name(from->model, i);
        const gr_weight *w, *x;
        if (!strcmp(name, changed)) continue;
        assert_ok(gr_model_get_weight(from->model, name, &w, &err));
        assert_ok(gr_model_get_weight(to->model, name, &x, &err));
        if (w->view.dtype != x->view.dtype || w->view.bytes != x->view.bytes || memcmp(w->view.data, x->view.data, w->view.bytes))
            fail_msg("%s changed", name);
    }
}

static void merging_keeps_the_format_of_the_base(void **state) {
    (void)state;
    static const struct {
        const char *base, *to;
        graft_model_options o;
        const char *says;
    } cases[] = {
        {"quant/nf4", "m", {0}, "\"formats\": [\"NF4\"]"},
        {"quant/fp4", "m", {0}, "\"formats\": [\"FP4\"]"},
        {"quant/nf4_double", "m", {0}, "\"quantized_while_loading\": false"},
        {"quant/int8", "m", {0}, "\"formats\": [\"INT8\"]"},
        {"train/model", "m", {.load_in_4bit = 1, .bnb_4bit_use_double_quant = 1}, "\"quantized_while_loading\": true"},
        {"models/g_q4_0.gguf", "m.gguf", {0}, "\"Q4_0\""},
        {"models/g_q8_0.gguf", "m.gguf", {0}, "\"Q8_0\""},
        {"models/g_f32.gguf", "m.gguf", {0}, "\"formats\": []"},
    };
    graft_context *ctx = test_context(NULL, 2, NULL);
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        const char *to = test_path("%s/stored%zu/%s", test_temp_dir(), i, cases[i].to);
        graft_model_options o = cases[i].o;
        graft_model *m, *written;
        char *report;
        o.dtype = GRAFT_DTYPE_F32;
        assert_ok(gr_make_dirs(test_path("%s/stored%zu", test_temp_dir(), i), &err));
        assert_ok(graft_model_load(ctx, test_golden(cases[i].base), &o, &m, &err));
        assert_ok(graft_adapter_new(m, "a", one, 1, &err));
        assert_ok(graft_model_merge_stored(m, "a", to, NULL, &report, &err));
        written = test_load(ctx, to, GRAFT_DTYPE_F32);
        assert_encoded_again(m, written);
        assert_others_kept(m, written);
        if (!strstr(report, cases[i].says) || !strstr(report, "\"changed\": 1,")) fail_msg("%s: %s", cases[i].base, report);
        assert_non_null(strstr(report, changed));
        graft_free(ctx, report);
        graft_model_free(written);
        graft_model_free(m);
    }
    graft_context_free(ctx);
}

static void types_of_merged_files_are_checked(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_error wrong;
    graft_model *m = test_load(ctx, test_golden("quant/nf4"), GRAFT_DTYPE_F32), *plain;
    const char *dir = test_path("%s/typed", test_temp_dir()), *file = test_path("%s/typed.gguf", test_temp_dir());
    assert_ok(graft_adapter_new(m, "a", one, 1, &err));
    assert_int_equal(graft_model_merge_stored(m, "a", dir, "Q4_0", NULL, &wrong), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(wrong.text, "Q4_0"));
    assert_int_equal(graft_model_merge_stored(m, "a", file, "nf4", NULL, &wrong), GRAFT_ERR_ARGUMENT);
    assert_int_equal(graft_model_merge_stored(m, "b", dir, NULL, NULL, &wrong), GRAFT_ERR_NOT_FOUND);
    assert_ok(graft_model_merge_stored(m, "a", file, "q8_0", NULL, &err)); /* decoded, added to, in another format */
    assert_ok(graft_model_merge_stored(m, "a", dir, "f32", NULL, &err));
    plain = test_load(ctx, dir, GRAFT_DTYPE_F32);
    const gr_weight *w;
    assert_ok(gr_model_get_weight(plain->model, changed, &w, &err));
    assert_int_equal(w->view.dtype, GR_F32);
    graft_model_free(plain);
    graft_model_free(m);
    graft_context_free(ctx);
}

static graft_status merge_once(const graft_allocator *a, void *arg) {
    graft_context_options co = {.allocator = *a, .n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    graft_model_options mo = {.dtype = GRAFT_DTYPE_F32};
    graft_context *ctx;
    graft_model *m = NULL;
    GR_TRY(graft_context_new(&co, &ctx, NULL));
    graft_status st = graft_model_load(ctx, arg, &mo, &m, NULL);
    if (st == GRAFT_OK) st = graft_adapter_new(m, "a", lora, 1, NULL);
    if (st == GRAFT_OK) st = graft_model_merge(m, "a", test_path("%s/sweep", test_temp_dir()), GRAFT_DTYPE_BF16, NULL);
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static graft_status merge_stored_once(const graft_allocator *a, void *arg) {
    graft_context_options co = {.allocator = *a, .n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    graft_model_options mo = {.dtype = GRAFT_DTYPE_F32};
    const char *from = arg;
    graft_context *ctx;
    graft_model *m = NULL;
    char *report = NULL;
    GR_TRY(graft_context_new(&co, &ctx, NULL));
    graft_status st = graft_model_load(ctx, from, &mo, &m, NULL);
    if (st == GRAFT_OK) st = graft_adapter_new(m, "a", one, 1, NULL);
    if (st == GRAFT_OK)
        st = graft_model_merge_stored(m, "a", test_path(strstr(from, ".gguf") ? "%s/s.gguf" : "%s/s", test_temp_dir()), NULL, &report, NULL);
    graft_free(ctx, report);
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static void failing_allocations_leak_nothing(void **state) {
    (void)state;
    char from[1024], gguf[1024];
    snprintf(from, sizeof from, "%s", rich_model());
    snprintf(gguf, sizeof gguf, "%s", test_golden("models/g_q4_0.gguf"));
    test_allocation_sweep(merge_once, from, 0, 3);
    test_allocation_sweep(merge_once, gguf, 0, 7);
    test_allocation_sweep(merge_stored_once, gguf, 0, 7);
    snprintf(from, sizeof from, "%s", test_golden("quant/nf4_double"));
    test_allocation_sweep(merge_stored_once, from, 0, 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_lies_beside_comes_along),
        cmocka_unit_test(configs_keep_what_graft_does_not_know),
        cmocka_unit_test(full_disks_and_wrong_places_are_told),
        cmocka_unit_test(what_no_weight_can_hold_is_refused),
        cmocka_unit_test(biases_of_masked_heads_are_trained),
        cmocka_unit_test(merging_keeps_the_format_of_the_base),
        cmocka_unit_test(types_of_merged_files_are_checked),
        cmocka_unit_test(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
