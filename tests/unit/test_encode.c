/* What encoders and classifiers say of texts, against transformers (goldens by tools/golden/make_classify.py); the packaged
 * BERT's embeddings, where it is in the cache. */
#include "support/sft_run.h"

#include <math.h>

#include "base/json.h"
#include "graft/encode.h"
#include "support/model_support.h"

static graft_text text_of(const gr_json_value *line) {
    const gr_json_value *text = gr_json_get(line, "text"), *pair = gr_json_get(line, "pair");
    bool two = pair && pair->kind == GR_JSON_STRING;
    return (graft_text){.text = text->text, .len = text->len, .pair = two ? pair->text : NULL, .pair_len = two ? pair->len : 0};
}

static void compare(const char *what, const gr_json_value *want, const float *got, size_t n, double bound) {
    size_t i = 0;
    for (const gr_json_value *v = want->child; v; v = v->next, i++) {
        if (i >= n || !(fabs(got[i] - v->number.d) < bound))
            fail_msg("%s: number %zu is %g, expected %g", what, i, got[i], v->number.d);
    }
    assert_int_equal(i, n);
}

/* Each line alone. */
static void one_line(graft_context *ctx, const graft_tokenizer *tok, const gr_json_value *line) {
    const char *name = gr_json_get(line, "model")->text;
    const graft_text text = text_of(line);
    graft_model *m = test_load(ctx, test_golden(test_path("families/%s", name)), GRAFT_DTYPE_F32);
    const gr_json_value *scores = gr_json_get(line, "scores"), *fill = gr_json_get(line, "fill"),
                        *embedding = gr_json_get(line, "embedding");
    float out[64];
    if (scores) {
        assert_ok(graft_classify(m, tok, &text, 1, NULL, out, &err));
        compare(name, scores, out, graft_model_n_labels(m), 1e-5);
    }
    if (embedding) {
        assert_int_equal(graft_model_embedding_size(m), 32);
        assert_ok(graft_embed(m, tok, &text, 1, NULL, out, &err));
        compare(name, embedding, out, 32, 1e-5);
    }
    if (fill) {
        graft_fill *words;
        size_t n, i = 0;
        assert_ok(graft_fill_mask(m, tok, &text, 5, NULL, &words, &n, &err));
        const gr_json_value *ids = gr_json_get(fill, "ids")->child, *p = gr_json_get(fill, "scores")->child;
        for (; ids; ids = ids->next, p = p->next, i++) {
            float row[5];
            size_t k = 0;
            for (const gr_json_value *id = ids->child; id; id = id->next, k++) {
                assert_int_equal(words[5 * i + k].id, id->number.i);
                row[k] = words[5 * i + k].score;
            }
            compare(name, p, row, 5, 1e-5);
        }
        assert_int_equal(i, n);
        graft_free(ctx, words);
    }
    graft_model_free(m);
}

static void texts_give_what_transformers_gives(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_tokenizer *tok, *t5;
    size_t len, lines = 0;
    char *text = sft_read(test_golden("classify/encode.jsonl"), &len), *rest, *line;
    assert_ok(graft_tokenizer_load(ctx, test_golden("classify/bert"), &tok, &err));
    assert_ok(graft_tokenizer_load(ctx, test_golden("seq2seq/model"), &t5, &err));
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest), lines++) {
        gr_arena arena;
        const gr_json_value *v;
        gr_arena_init(&arena, NULL, 0);
        assert_ok(gr_json_parse(&arena, "encode.jsonl", line, strlen(line), &v, &err));
        one_line(ctx, strncmp(gr_json_get(v, "model")->text, "t5", 2) == 0 ? t5 : tok, v);
        gr_arena_free(&arena);
    }
    assert_int_equal(lines, 30);
    gr_free(NULL, text);
    graft_tokenizer_free(tok);
    graft_tokenizer_free(t5);
    graft_context_free(ctx);
}

/* A text gives the same bits alone and among others, on any number of threads. */
static void batches_change_no_bit(void **state) {
    (void)state;
    enum { N = 400, L = 32 };
    static graft_text texts[N];
    static char words[N][64];
    static float together[N * L], alone[L];
    for (int i = 0; i < N; i++) {
        snprintf(words[i], sizeof words[i], "the film %s%s was slow %d", i % 3 ? "good " : "",
                 i % 2 ? "and the plot" : "", i);
        texts[i] = (graft_text){.text = words[i], .len = strlen(words[i])};
    }
    for (int threads = 1; threads <= 2; threads++) {
        graft_context *ctx = test_context(NULL, threads, NULL);
        graft_tokenizer *tok;
        graft_model *m = test_load(ctx, test_golden("families/bert_embed"), GRAFT_DTYPE_F32);
        assert_ok(graft_tokenizer_load(ctx, test_golden("classify/bert"), &tok, &err));
        if (threads == 1) assert_ok(graft_embed(m, tok, texts, N, NULL, together, &err));
        for (int i = 0; i < N; i += 37) {
            assert_ok(graft_embed(m, tok, &texts[i], 1, NULL, alone, &err));
            assert_memory_equal(alone, together + i * L, sizeof alone);
        }
        graft_tokenizer_free(tok);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

static void wrong_uses_are_named(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_tokenizer *tok;
    graft_error wrong = {0};
    float out[64];
    graft_fill *fill;
    size_t n;
    const graft_text text = {.text = "the film", .len = 8};
    const graft_encode_options absent = {.adapter = "x"}, tight = {.max_length = 1};
    assert_ok(graft_tokenizer_load(ctx, test_golden("classify/bert"), &tok, &err));
    graft_model *m = test_load(ctx, test_golden("families/bert"), GRAFT_DTYPE_F32);
    assert_int_equal(graft_classify(m, tok, &text, 1, NULL, out, &wrong), GRAFT_ERR_UNSUPPORTED);
    assert_non_null(strstr(wrong.text, "needs a model of the task SEQ_CLS, found MASKED_LM"));
    assert_int_equal(graft_embed(m, tok, &text, 1, NULL, out, &wrong), GRAFT_ERR_UNSUPPORTED);
    assert_int_equal(graft_fill_mask(m, tok, &text, 5, NULL, &fill, &n, &wrong), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(wrong.text, "no mask token"));
    assert_int_equal(graft_fill_mask(m, tok, &text, 0, NULL, &fill, &n, &wrong), GRAFT_ERR_ARGUMENT);
    graft_model_free(m);
    m = test_load(ctx, test_golden("families/bert_embed"), GRAFT_DTYPE_F32);
    assert_int_equal(graft_embed(m, tok, &text, 1, &absent, out, &wrong), GRAFT_ERR_NOT_FOUND);
    assert_int_equal(graft_embed(m, tok, &text, 1, &tight, out, &wrong), GRAFT_ERR_LIMIT);
    assert_non_null(strstr(wrong.text, "text 0: at most 1 tokens"));
    graft_model_free(m);
    m = test_load(ctx, test_golden("families/t5_cls"), GRAFT_DTYPE_F32); /* this tokenizer adds no end of text */
    assert_int_equal(graft_classify(m, tok, &text, 1, NULL, out, &wrong), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(wrong.text, "text 0: expected an end of text"));
    graft_model_free(m);
    graft_tokenizer_free(tok);
    graft_context_free(ctx);
}

static graft_status embed_with(const graft_allocator *a, void *arg) {
    const graft_context_options co = {.allocator = *a, .n_threads = 1};
    const graft_text text = {.text = "the film was good", .len = 17};
    graft_context *ctx = NULL;
    graft_model *m = NULL;
    graft_tokenizer *tok = NULL;
    float out[32];
    graft_status st = graft_context_new(&co, &ctx, NULL);
    if (st == GRAFT_OK) st = graft_model_load(ctx, arg, NULL, &m, NULL);
    if (st == GRAFT_OK) st = graft_tokenizer_load(ctx, test_golden("classify/bert"), &tok, NULL);
    if (st == GRAFT_OK) st = graft_embed(m, tok, &text, 1, NULL, out, NULL);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static graft_status classify_with(const graft_allocator *a, void *arg) {
    const graft_context_options co = {.allocator = *a, .n_threads = 1};
    const graft_text texts[2] = {{.text = "the red house", .len = 13},
                                 {.text = "a road", .len = 6, .pair = "no", .pair_len = 2}};
    graft_context *ctx = NULL;
    graft_model *m = NULL;
    graft_tokenizer *tok = NULL;
    float out[6];
    graft_status st = graft_context_new(&co, &ctx, NULL);
    if (st == GRAFT_OK) st = graft_model_load(ctx, arg, NULL, &m, NULL);
    if (st == GRAFT_OK) st = graft_tokenizer_load(ctx, test_golden("seq2seq/model"), &tok, NULL);
    if (st == GRAFT_OK) st = graft_classify(m, tok, texts, 2, NULL, out, NULL);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s", test_golden("families/t5_cls"));
    test_allocation_sweep(classify_with, path, 0, 3);
    snprintf(path, sizeof path, "%s", test_golden("families/bert_embed"));
    test_allocation_sweep(embed_with, path, 0, 3);
}

static void packaged_encoder_embeds_as_the_reference(void **state) {
    (void)state;
    const char *dir = test_path("%s/models/all-MiniLM-L6-v2", test_cache() ? test_cache() : "");
    if (!gr_path_exists(test_path("%s/model.safetensors", dir))) skip();
    graft_context *ctx = test_context(NULL, 2, NULL);
    graft_tokenizer *tok;
    graft_model *m = test_load(ctx, dir, GRAFT_DTYPE_F32);
    size_t len, lines = 0;
    char *text = sft_read(test_golden("classify/minilm.jsonl"), &len), *rest, *line;
    float out[384], some[48];
    assert_int_equal(graft_model_embedding_size(m), 384);
    assert_ok(graft_tokenizer_load(ctx, dir, &tok, &err));
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest), lines++) {
        gr_arena arena;
        const gr_json_value *v;
        gr_arena_init(&arena, NULL, 0);
        assert_ok(gr_json_parse(&arena, "minilm.jsonl", line, strlen(line), &v, &err));
        const graft_text t = text_of(v);
        assert_ok(graft_embed(m, tok, &t, 1, NULL, out, &err));
        for (int i = 0; i < 48; i++) some[i] = out[8 * i];
        compare(t.text, gr_json_get(v, "embedding"), some, 48, 2e-6);
        gr_arena_free(&arena);
    }
    assert_int_equal(lines, 6);
    gr_free(NULL, text);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_give_what_transformers_gives),
        cmocka_unit_test(batches_change_no_bit),
        cmocka_unit_test(wrong_uses_are_named),
        cmocka_unit_test(failed_allocations_leak_nothing),
        cmocka_unit_test(packaged_encoder_embeds_as_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
