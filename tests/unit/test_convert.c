/* Models in other formats and back (graft/convert.h): bytes of transformers' own files, values that stay, errors that
 * are told. */
#include <math.h>

#include "graft/convert.h"
#include "graft/tokenizer.h"
#include "io/gguf.h"
#include "quant/scaled.h"
#include "support/model_support.h"
#include "support/sft_run.h"

static const char *out_path(const char *name) { return test_path("%s/%s", test_temp_dir(), name); }

static void assert_same_file(const char *a, const char *b) {
    size_t n, k;
    char *x = sft_read(a, &n), *y = sft_read(b, &k);
    if (n != k || memcmp(x, y, n)) fail_msg("%s and %s differ", a, b);
    gr_free(NULL, x);
    gr_free(NULL, y);
}

/* Quantised while loading, saved: the files of transformers and bitsandbytes, byte by byte. */
static void saved_files_are_those_of_bitsandbytes(void **state) {
    (void)state;
    static const struct {
        const char *name;
        graft_model_options o;
    } cases[] = {
        {"nf4", {.load_in_4bit = 1}},
        {"fp4", {.load_in_4bit = 1, .bnb_4bit_quant_type = "fp4"}},
        {"nf4_double", {.load_in_4bit = 1, .bnb_4bit_use_double_quant = 1}},
        {"int8", {.load_in_8bit = 1}},
    };
    graft_context *ctx = test_context(NULL, 2, NULL);
    for (size_t i = 0; i < 2 * GR_COUNT(cases); i++) {
        const char *name = cases[i / 2].name, *dir = out_path(name), *saved = test_golden(test_path("quant/%s", name));
        graft_model *m;
        assert_ok(graft_model_load(ctx, i % 2 ? saved : test_golden("train/model"), i % 2 ? NULL : &cases[i / 2].o, &m,
                                   &err));
        assert_ok(graft_model_save(m, dir, &err));
        assert_same_file(test_path("%s/model.safetensors", dir), test_path("%s/model.safetensors", saved));
        graft_model_free(m);
        m = test_load(ctx, dir, GRAFT_DTYPE_F32);
        graft_model_free(m);
    }
    graft_context_free(ctx);
}

static double logits_off(graft_context *ctx, const char *a, const char *b) {
    graft_model *x = test_load(ctx, a, GRAFT_DTYPE_F32), *y = test_load(ctx, b, GRAFT_DTYPE_F32);
    test_batch batch;
    const int64_t vocab = graft_model_vocab_size(x);
    test_fill_batch(&batch, vocab, 2, (int[]){7, 12}, (int[]){1, 2});
    float *p = test_logits(x->model, NULL, &batch.batch), *q = test_logits(y->model, NULL, &batch.batch);
    double worst = 0;
    for (int64_t i = 0; i < 19 * vocab; i++) worst = GR_MAX(worst, (double)(p[i] > q[i] ? p[i] - q[i] : q[i] - p[i]));
    free(p);
    free(q);
    graft_model_free(x);
    graft_model_free(y);
    return worst;
}

/* Directory, GGUF file, directory: the first and the last weights are the same bytes, and so are logits. */
static void directories_come_back_from_gguf(void **state) {
    (void)state;
    static const char *const names[] = {"train/model",         "models/llama",          "models/llama_tied",
                                        "models/llama_one_kv", "models/llama_head_dim", "models/llama_f16",
                                        "models/llama_theta",  "models/llama_linear",   "models/llama_bias",
                                        "models/mistral_full", "models/qwen2",          "models/qwen3",
                                        "families/gpt2"};
    graft_context *ctx = test_context(NULL, 2, NULL);
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        const char *from = test_golden(names[i]), *gguf = out_path("model.gguf"), *back = out_path("back");
        graft_model *m = test_load(ctx, from, GRAFT_DTYPE_F32);
        assert_ok(graft_model_save_gguf(m, gguf, NULL, &err));
        graft_model_free(m);
        m = test_load(ctx, gguf, GRAFT_DTYPE_F32);
        assert_ok(graft_model_save(m, back, &err));
        graft_model_free(m);
        /* GPT-2's matrices stand turned in the file, where sums have another order. */
        const double most = strstr(names[i], "gpt2") ? 1e-5 : 0;
        if (logits_off(ctx, from, gguf) > most || logits_off(ctx, from, back) != 0)
            fail_msg("%s: logits changed", names[i]);
        gr_safetensors *x, *y;
        assert_ok(gr_safetensors_open(NULL, from, &x, &err));
        assert_ok(gr_safetensors_open(NULL, back, &y, &err));
        const gr_tensor_list *a = gr_safetensors_tensors(x), *b = gr_safetensors_tensors(y);
        for (size_t k = 0; k < b->n; k++) {
            const gr_named_tensor *t = gr_tensor_list_find(a, b->items[k].name);
            if (!t || t->view.dtype != b->items[k].view.dtype || t->view.bytes != b->items[k].view.bytes ||
                memcmp(t->view.data, b->items[k].view.data, t->view.bytes))
                fail_msg("%s: tensor %s changed", names[i], b->items[k].name);
        }
        gr_safetensors_close(x);
        gr_safetensors_close(y);
    }
    graft_context_free(ctx);
}

static void tokenizers_go_along(void **state) {
    (void)state;
    static const char text[] = "the red GREEN house's 12 birds\n\n  run, <|im_start|>x";
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("train/model"), GRAFT_DTYPE_F32);
    const char *path = out_path("tokens.gguf");
    graft_tokenizer *a, *b;
    int32_t *x, *y;
    size_t n, k;
    assert_ok(graft_model_save_gguf(m, path, NULL, &err));
    assert_ok(graft_tokenizer_load(ctx, test_golden("train/model"), &a, &err));
    assert_ok(graft_tokenizer_load(ctx, path, &b, &err));
    assert_ok(graft_tokenizer_encode(a, text, sizeof text - 1, GRAFT_TOK_ADD_SPECIAL, &x, &n, &err));
    assert_ok(graft_tokenizer_encode(b, text, sizeof text - 1, GRAFT_TOK_ADD_SPECIAL, &y, &k, &err));
    assert_int_equal(n, k);
    assert_memory_equal(x, y, n * sizeof *x);
    assert_string_equal(graft_tokenizer_chat_template(a, NULL, NULL), graft_tokenizer_chat_template(b, NULL, NULL));
    for (int s = GRAFT_TOKEN_BOS; s <= GRAFT_TOKEN_PAD; s++)
        assert_int_equal(graft_tokenizer_special_id(a, (graft_special_token)s),
                         graft_tokenizer_special_id(b, (graft_special_token)s));
    graft_free(ctx, x);
    graft_free(ctx, y);
    graft_tokenizer_free(a);
    graft_tokenizer_free(b);
    graft_model_free(m);
    graft_context_free(ctx);
}

/* Every matrix is what its rows become in that format; metadata of a GGUF file stays. */
static void gguf_files_are_quantised(void **state) {
    (void)state;
    static const struct {
        const char *type;
        gr_dtype matrix, output; /* rows of 32 and 64: k-quants give way */
    } cases[] = {{"q4_0", GR_Q4_0, GR_Q8_0}, {"Q4_K", GR_Q5_0, GR_Q8_0}, {"Q5_K", GR_Q5_1, GR_Q8_0},
                 {"Q6_K", GR_Q8_0, GR_Q8_0}, {"Q8_0", GR_Q8_0, GR_Q8_0}, {"F16", GR_F16, GR_F16},
                 {"BF16", GR_BF16, GR_BF16}};
    graft_context *ctx = test_context(NULL, 2, NULL);
    for (size_t i = 0; i < 2 * GR_COUNT(cases); i++) {
        const char *plain = out_path("plain.gguf"), *path = out_path("small.gguf");
        graft_model *m = test_load(ctx, test_golden("train/model"), GRAFT_DTYPE_F32);
        gr_gguf *x, *y;
        assert_ok(graft_model_save_gguf(m, plain, NULL, &err));
        if (i % 2) { /* from a GGUF file */
            graft_model_free(m);
            m = test_load(ctx, plain, GRAFT_DTYPE_F32);
        }
        assert_ok(graft_model_save_gguf(m, path, cases[i / 2].type, &err));
        graft_model_free(m);
        assert_ok(gr_gguf_open(NULL, plain, &x, &err));
        assert_ok(gr_gguf_open(NULL, path, &y, &err));
        for (size_t k = 0; k < gr_gguf_n_pairs(x); k++) assert_non_null(gr_gguf_find(y, gr_gguf_pair_at(x, k)->key));
        for (size_t k = 0; k < gr_gguf_tensors(x)->n; k++) {
            const gr_named_tensor *a = &gr_gguf_tensors(x)->items[k],
                                  *b = gr_tensor_list_find(gr_gguf_tensors(y), a->name);
            gr_dtype want = a->view.shape.n < 2                   ? GR_F32
                          : !strcmp(a->name, "token_embd.weight") ? cases[i / 2].output
                                                                  : cases[i / 2].matrix;
            assert_non_null(b);
            assert_int_equal(b->view.dtype, want);
            size_t n = a->view.bytes / 4;
            char *bytes = gr_alloc(NULL, gr_dtype_bytes(want, n));
            assert_ok(gr_quantize_row(want, a->view.data, n, bytes, &err));
            assert_memory_equal(bytes, b->view.data, b->view.bytes);
            gr_free(NULL, bytes);
        }
        gr_gguf_close(x);
        gr_gguf_close(y);
    }
    graft_context_free(ctx);
}

/* The report's numbers are those of the files. */
static void reports_tell_the_error(void **state) {
    (void)state;
    static const char *const types[] = {"nf4", "fp4", "int8", "Q8_0", "Q4_K"};
    graft_context *ctx = test_context(NULL, 2, NULL);
    graft_model *m = test_load(ctx, test_golden("train/model"), GRAFT_DTYPE_F32);
    for (size_t i = 0; i < GR_COUNT(types); i++) {
        char *json;
        gr_arena arena;
        const gr_json_value *root;
        assert_ok(graft_quantize_report(m, types[i], 0, 0, &json, &err));
        gr_arena_init(&arena, NULL, 0);
        assert_ok(gr_json_parse(&arena, "report", json, strlen(json), &root, &err));
        const gr_json_value *list = gr_json_get(root, "tensors");
        assert_int_equal(list->len, i < 3 ? 14 : 15);
        for (const gr_json_value *t = list->child; t; t = t->next) {
            double relative = gr_json_get(t, "relative")->number.d;
            if (!(relative > 1e-4 && relative < 0.2))
                fail_msg("%s: %s: %g", types[i], gr_json_get(t, "name")->text, relative);
            assert_true(gr_json_get(t, "max")->number.d >= gr_json_get(t, "rmse")->number.d);
        }
        gr_arena_free(&arena);
        graft_free(ctx, json);
    }
    graft_model_free(m);
    graft_context_free(ctx);
}

/* Directory, GGUF file, directory: the same factors; logits with the adapter stay. */
static void adapters_come_back_from_gguf(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("train/model"), GRAFT_DTYPE_F32);
    const char *first = out_path("first"), *gguf = out_path("lora.gguf"), *back = out_path("lora_back");
    assert_ok(
        graft_adapter_new(m, "a",
                          "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 6, \"target_modules\": \"all-linear\", "
                          "\"rank_pattern\": {\"down_proj\": 2}, \"init_lora_weights\": false}",
                          3, &err));
    assert_ok(graft_adapter_save(m, "a", first, &err));
    assert_ok(graft_adapter_to_gguf(m, first, gguf, &err));
    assert_ok(graft_adapter_from_gguf(m, gguf, back, &err));
    gr_safetensors *x, *y;
    gr_gguf *g;
    assert_ok(gr_safetensors_open(NULL, first, &x, &err));
    assert_ok(gr_safetensors_open(NULL, back, &y, &err));
    const gr_tensor_list *a = gr_safetensors_tensors(x), *b = gr_safetensors_tensors(y);
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        assert_string_equal(a->items[i].name, b->items[i].name);
        assert_int_equal(a->items[i].view.bytes, b->items[i].view.bytes);
        assert_memory_equal(a->items[i].view.data, b->items[i].view.data, a->items[i].view.bytes);
    }
    assert_ok(graft_adapter_load(m, "b", back, 1, &err));
    test_batch batch;
    test_fill_batch(&batch, graft_model_vocab_size(m), 1, (int[]){9}, (int[]){5});
    float *with[2];
    for (int i = 0; i < 2; i++) {
        batch.adapter[0] = i;
        batch.batch.adapter = batch.adapter;
        with[i] = test_logits(m->model, m->hooks, &batch.batch);
    }
    assert_memory_equal(with[0], with[1], 9 * (size_t)graft_model_vocab_size(m) * sizeof(float));
    free(with[0]);
    free(with[1]);
    /* The head of q that llama.cpp rotates pair by pair. */
    assert_ok(gr_gguf_open(NULL, gguf, &g, &err));
    const gr_tensor_view *q = &gr_tensor_list_find(gr_gguf_tensors(g), "blk.0.attn_q.weight.lora_b")->view;
    const gr_tensor_view *hf =
        &gr_tensor_list_find(a, "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight")->view;
    assert_memory_equal((const char *)q->data + 4 * 4, (const char *)hf->data + 4 * 4 * 4,
                        4 * 4); /* row 1 is row 4 of 8 */
    gr_gguf_close(g);
    gr_safetensors_close(x);
    gr_safetensors_close(y);
    graft_error failure;
    assert_int_equal(graft_adapter_to_gguf(m, test_golden("train/model"), gguf, &failure), GRAFT_ERR_NOT_FOUND);
    assert_int_equal(graft_adapter_from_gguf(m, test_golden("models/g_f32.gguf"), back, &failure), GRAFT_ERR_NOT_FOUND);
    graft_model_free(m);
    graft_context_free(ctx);
}

/* Python's JSON and GGUF both write what is no scale; a file may hold no factor at all. */
static void adapters_without_a_scale_or_factors_are_refused(void **state) {
    (void)state;
    static const char *const configs[] = {
        "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": NaN}",
        "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 1e300}",
        "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 0}",
        "{\"peft_type\": \"LORA\", \"r\": -4, \"lora_alpha\": 4, \"use_rslora\": true}"};
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("train/model"), GRAFT_DTYPE_F32);
    const char *dir = out_path("unscaled"), *gguf = out_path("unscaled.gguf");
    graft_error failure;
    assert_ok(gr_make_dirs(dir, &err));
    for (size_t i = 0; i < GR_COUNT(configs); i++) {
        assert_ok(gr_write_file(NULL, test_path("%s/adapter_config.json", dir), configs[i], strlen(configs[i]), &err));
        assert_int_equal(graft_adapter_to_gguf(m, dir, gguf, &failure), GRAFT_ERR_FORMAT);
        assert_non_null(strstr(failure.text, "lora_alpha"));
    }
    for (int i = 0; i < 2; i++) {
        gr_gguf_writer *w;
        assert_ok(gr_gguf_writer_new(NULL, gguf, &w, &err));
        assert_ok(gr_gguf_add_text(w, "general.type", "adapter", 7, &err));
        assert_ok(gr_gguf_add_text(w, "adapter.type", "lora", 4, &err));
        assert_ok(gr_gguf_add_f32(w, "adapter.lora.alpha", i ? 8 : NAN, &err));
        assert_ok(gr_gguf_writer_begin(w, &err));
        assert_ok(gr_gguf_writer_commit(w, &err));
        assert_int_equal(graft_adapter_from_gguf(m, gguf, out_path("none"), &failure), GRAFT_ERR_FORMAT);
        assert_non_null(strstr(failure.text, i ? "no tensor" : "lora_alpha"));
        assert_false(gr_path_exists(out_path("none")));
    }
    graft_model_free(m);
    graft_context_free(ctx);
}

static void what_cannot_be_written_is_told(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_error failure;
    graft_model *m = test_load(ctx, test_golden("train/model"), GRAFT_DTYPE_F32);
    char *json;
    assert_int_equal(graft_model_save_gguf(m, out_path("x.gguf"), "Q9_9", &failure), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(failure.text, "Q9_9"));
    assert_int_equal(graft_model_save_gguf(m, "/dev/null/x.gguf", NULL, &failure), GRAFT_ERR_IO);
    assert_int_equal(graft_model_save(m, test_golden("train/model"), &failure), GRAFT_ERR_ARGUMENT);
    assert_int_equal(graft_quantize_report(m, "nf4", 0, 48, &json, &failure), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(failure.text, "48"));
    assert_int_equal(graft_quantize_report(m, "int8", 1, 0, &json, &failure), GRAFT_ERR_ARGUMENT);
    graft_model_free(m);
    m = test_load(ctx, test_golden("models/llama_dynamic"), GRAFT_DTYPE_F32);
    assert_int_equal(graft_model_save_gguf(m, out_path("x.gguf"), NULL, &failure), GRAFT_ERR_UNSUPPORTED);
    assert_non_null(strstr(failure.text, "dynamic"));
    graft_model_free(m);
    m = test_load(ctx, test_golden("families/gpt2_inner"), GRAFT_DTYPE_F32);
    assert_int_equal(graft_model_save_gguf(m, out_path("x.gguf"), NULL, &failure), GRAFT_ERR_UNSUPPORTED);
    assert_non_null(strstr(failure.text, "relu"));
    assert_false(gr_path_exists(out_path("x.gguf")));
    graft_model_free(m);
    graft_context_free(ctx);
}

static graft_status convert_once(const graft_allocator *a, void *arg) {
    graft_context_options co = {.allocator = *a, .n_threads = 1};
    graft_context *ctx;
    graft_model *m = NULL;
    char *json = NULL;
    GR_TRY(graft_context_new(&co, &ctx, NULL));
    graft_status st = graft_model_load(ctx, arg, NULL, &m, NULL);
    if (st == GRAFT_OK) st = graft_model_save_gguf(m, out_path("a.gguf"), "Q5_0", NULL);
    if (st == GRAFT_OK) st = graft_model_save(m, out_path("a"), NULL);
    if (st == GRAFT_OK) st = graft_quantize_report(m, "fp4", 1, 128, &json, NULL);
    graft_free(ctx, json);
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static void failing_allocations_leak_nothing(void **state) {
    (void)state;
    char plain[1024], quantised[1024];
    snprintf(plain, sizeof plain, "%s", test_golden("models/llama_tied"));
    snprintf(quantised, sizeof quantised, "%s", test_golden("quant/nf4_double"));
    test_allocation_sweep(convert_once, plain, 0, 1);
    test_allocation_sweep(convert_once, quantised, 400, 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saved_files_are_those_of_bitsandbytes),
        cmocka_unit_test(directories_come_back_from_gguf),
        cmocka_unit_test(tokenizers_go_along),
        cmocka_unit_test(gguf_files_are_quantised),
        cmocka_unit_test(reports_tell_the_error),
        cmocka_unit_test(what_cannot_be_written_is_told),
        cmocka_unit_test(adapters_come_back_from_gguf),
        cmocka_unit_test(adapters_without_a_scale_or_factors_are_refused),
        cmocka_unit_test(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
