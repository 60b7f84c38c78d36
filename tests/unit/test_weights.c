/* Room io: the weights view, on tiny files and (where it is in the cache) on the packaged model. */
#include "io/weights.h"
#include "quant/quant.h"
#include "support/corrupt.h"

/* Row `row` of a weight in Hugging Face's order, decoded. */
static void read_row(const gr_weight *w, int64_t row, float *out) {
    int64_t n = gr_tensor_row_size(&w->view), at = w->view.shape.n > 1 ? gr_weight_row(w, row) : 0;
    assert_ok(gr_dequantize_row(w->view.dtype, gr_tensor_row(&w->view, at), (size_t)n, out, &err));
}

static void gguf_weights_equal_the_reference_model_s(void **state) {
    (void)state;
    gr_weights *g, *f;
    assert_ok(gr_weights_open(NULL, test_golden("formats/tiny/tiny.gguf"), &g, &err));
    assert_ok(gr_weights_open(NULL, test_golden("formats/tiny/expected.safetensors"), &f, &err));
    assert_non_null(gr_weights_gguf(g));
    assert_null(gr_weights_gguf(f));
    assert_int_equal(gr_weights_count(g), gr_weights_count(f));
    for (size_t i = 0; i < gr_weights_count(f); i++) {
        const gr_weight *want = gr_weights_at(f, i), *got;
        assert_string_equal(gr_weights_at(g, i)->name, want->name);
        assert_ok(gr_weights_get(g, want->name, &want->view.shape, &got, &err));
        for (int64_t r = 0; r < gr_tensor_rows(&want->view); r++) {
            float a[64], b[64];
            read_row(want, r, a);
            read_row(got, r, b);
            assert_memory_equal(a, b, (size_t)gr_tensor_row_size(&want->view) * 4);
        }
    }
    assert_int_equal(gr_weights_find(g, "model.layers.0.self_attn.q_proj.weight")->permuted_heads, 4);
    assert_int_equal(gr_weights_find(g, "model.layers.0.self_attn.k_proj.weight")->permuted_heads, 2);
    assert_int_equal(gr_weights_find(g, "model.layers.0.self_attn.v_proj.weight")->permuted_heads, 0);
    gr_weights_close(g);
    gr_weights_close(f);
}

static void missing_and_misshapen_tensors_are_named(void **state) {
    (void)state;
    gr_weights *w;
    const gr_weight *t;
    graft_error failure;
    gr_shape wrong = gr_shape2(1, 2);
    assert_ok(gr_weights_open(NULL, test_golden("formats/tiny/tiny.gguf"), &w, &err));
    assert_int_equal(gr_weights_get(w, "model.none", NULL, &t, &failure), GRAFT_ERR_NOT_FOUND);
    assert_non_null(strstr(failure.text, "tiny.gguf: tensor model.none is missing"));
    assert_int_equal(gr_weights_get(w, "model.norm.weight", &wrong, &t, &failure), GRAFT_ERR_MISMATCH);
    assert_non_null(strstr(failure.text, "tensor output_norm.weight: expected shape [1, 2], found [32]"));
    gr_weights_close(w);
}

static void names_translate_both_ways(void **state) {
    (void)state;
    static const char *const pairs[][2] = {{"token_embd.weight", "model.embed_tokens.weight"},
                                           {"output.weight", "lm_head.weight"},
                                           {"output_norm.weight", "model.norm.weight"},
                                           {"blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"},
                                           {"blk.17.attn_k.bias", "model.layers.17.self_attn.k_proj.bias"},
                                           {"blk.3.attn_q_norm.weight", "model.layers.3.self_attn.q_norm.weight"},
                                           {"blk.123.ffn_down.weight", "model.layers.123.mlp.down_proj.weight"},
                                           {"blk.3.ffn_norm.weight", "model.layers.3.post_attention_layernorm.weight"},
                                           {"blk.3.attn_norm.weight", "model.layers.3.input_layernorm.weight"}};
    static const char *const none[] = {"",
                                       "blk",
                                       "blk.",
                                       "blk..attn_q.weight",
                                       "blk.x.attn_q.weight",
                                       "blk.1.attn_q",
                                       "blk.1.other.weight",
                                       "rope_freqs.weight",
                                       "blk.99999999999.attn_q.weight",
                                       "blk.-1.attn_q.weight",
                                       "model.layers.1.",
                                       "model.norm"};
    char out[128], small[4];
    for (size_t i = 0; i < GR_COUNT(pairs); i++) {
        assert_true(gr_name_from_gguf("llama", pairs[i][0], out, sizeof out));
        assert_string_equal(out, pairs[i][1]);
        assert_true(gr_name_to_gguf(pairs[i][1], out, sizeof out));
        assert_string_equal(out, pairs[i][0]);
        assert_false(gr_name_from_gguf("llama", pairs[i][0], small, sizeof small));
    }
    for (size_t i = 0; i < GR_COUNT(none); i++) {
        assert_false(gr_name_from_gguf("llama", none[i], out, sizeof out));
        assert_false(gr_name_to_gguf(none[i], out, sizeof out));
    }
}

static void copy_to(const char *golden, const char *dir, const char *name) {
    char path[1200];
    size_t n;
    unsigned char *bytes = test_read_file(test_golden(golden), &n);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(gr_write_file(NULL, path, bytes, n, &err));
    gr_free(NULL, bytes);
}

static void directories_are_understood(void **state) {
    (void)state;
    gr_weights *w;
    graft_error failure;
    char dir[1000];
    assert_ok(gr_weights_open(NULL, test_golden("formats/sharded"), &w, &err));
    assert_int_equal(gr_weights_count(w), 21);
    gr_weights_close(w);
    snprintf(dir, sizeof dir, "%s/weights", test_temp_dir());
    assert_ok(gr_make_dirs(dir, &err));
    assert_int_equal(gr_weights_open(NULL, dir, &w, &failure), GRAFT_ERR_NOT_FOUND);
    assert_non_null(strstr(failure.text, "expected a model's weights (model.safetensors"));
    copy_to("formats/kinds.gguf", dir, "pytorch_model.bin");
    assert_int_equal(gr_weights_open(NULL, dir, &w, &failure), GRAFT_ERR_UNSUPPORTED);
    assert_non_null(strstr(failure.text, "safe_serialization=True"));
    for (int i = 1; i <= 3; i++) {
        char from[64], to[64];
        snprintf(from, sizeof from, "formats/split-%05d-of-00003.gguf", i);
        snprintf(to, sizeof to, "split-%05d-of-00003.gguf", i);
        copy_to(from, dir, to);
    }
    assert_ok(gr_weights_open(NULL, dir, &w, &err));
    assert_int_equal(gr_weights_count(w), 6);
    gr_weights_close(w);
    copy_to("formats/kinds.gguf", dir, "other.gguf");
    assert_int_equal(gr_weights_open(NULL, dir, &w, &failure), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(failure.text, "several .gguf files"));
    assert_int_equal(gr_weights_open(NULL, "/nonexistent/model", &w, &failure), GRAFT_ERR_NOT_FOUND);
}

static graft_status sweep(const graft_allocator *a, void *arg) {
    (void)arg;
    gr_weights *w;
    GR_TRY(gr_weights_open(a, test_golden("formats/tiny/tiny.gguf"), &w, NULL));
    gr_weights_close(w);
    GR_TRY(gr_weights_open(a, test_golden("formats/sharded"), &w, NULL));
    gr_weights_close(w);
    return GRAFT_OK;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    test_allocation_sweep(sweep, NULL, 0, 1);
}

static void check_packaged(const gr_weights *w, const char *stored_name, const char *hash) {
    char name[128], hex[65];
    assert_true(gr_name_from_gguf("llama", stored_name, name, sizeof name));
    const gr_weight *t = gr_weights_find(w, name);
    if (!t) fail_msg("%s was not found", name);
    float *row = gr_alloc(NULL, (size_t)gr_tensor_row_size(&t->view) * 4);
    gr_sha256 s;
    gr_sha256_init(&s);
    for (int64_t r = 0; r < gr_tensor_rows(&t->view); r++) {
        read_row(t, r, row);
        gr_sha256_add(&s, row, (size_t)gr_tensor_row_size(&t->view) * 4);
    }
    gr_sha256_end_hex(&s, hex);
    gr_free(NULL, row);
    assert_string_equal(hex, hash);
}

static void packaged_model_decodes_to_the_reference_s_bits(void **state) {
    (void)state;
    const char *cache = test_cache();
    char path[1200];
    snprintf(path, sizeof path, "%s/models/SmolLM2-135M-Instruct.Q4_1.gguf", cache ? cache : "");
    if (!cache || !gr_path_exists(path)) skip();
    gr_weights *w;
    gr_arena arena;
    const gr_json_value *root;
    size_t n;
    gr_arena_init(&arena, NULL, 0);
    unsigned char *text = test_read_file(test_golden("formats/packaged.json"), &n);
    assert_ok(gr_json_parse(&arena, "packaged.json", (const char *)text, n, &root, &err));
    double start = gr_now_seconds();
    assert_ok(gr_weights_open(NULL, path, &w, &err));
    assert_true(gr_now_seconds() - start < 1.0);
    assert_int_equal(root->len, 5);
    for (const gr_json_value *v = root->child; v; v = v->next) check_packaged(w, v->key, v->text);
    gr_weights_close(w);
    gr_arena_free(&arena);
    gr_free(NULL, text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_weights_equal_the_reference_model_s),
        cmocka_unit_test(missing_and_misshapen_tensors_are_named),
        cmocka_unit_test(names_translate_both_ways),
        cmocka_unit_test(directories_are_understood),
        cmocka_unit_test(failed_allocations_leak_nothing),
        cmocka_unit_test(packaged_model_decodes_to_the_reference_s_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
