/* Generation, evaluation and tokenizers when memory ends: every allocation fails in turn, the call says so, nothing leaks.
 * Broken tokenizer files are refused or read, never fatal. */
#include "support/sft_run.h"

#include "graft/eval.h"
#include "support/corrupt.h"
#include "support/model_support.h"

typedef struct loaded {
    graft_context *ctx;
    graft_model *m;
    graft_tokenizer *tok;
} loaded;

static void unload(loaded *l) {
    graft_tokenizer_free(l->tok);
    graft_model_free(l->m);
    graft_context_free(l->ctx);
}

static graft_status load_small(const graft_allocator *a, loaded *l) {
    graft_context_options co = {.allocator = *a, .n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    graft_model_options mo = {.dtype = GRAFT_DTYPE_F32};
    const char *path = test_golden("train/model");
    *l = (loaded){0};
    GR_TRY(graft_context_new(&co, &l->ctx, NULL));
    GR_TRY(graft_model_load(l->ctx, path, &mo, &l->m, NULL));
    GR_TRY(graft_adapter_new(l->m, "a", "{\"peft_type\": \"LORA\", \"r\": 2, \"init_lora_weights\": false}", 1, NULL));
    return graft_tokenizer_load(l->ctx, path, &l->tok, NULL);
}

/* Two prompts, two copies of each, drawn, then a turn that goes on with the first and looks tokens up. */
static graft_status generate_with(const loaded *l) {
    static const int32_t a[] = {5, 9, 11, 12}, b[] = {7, 5}, c[] = {5, 9, 11, 12, 5, 9};
    const graft_input_ids prompts[] = {{a, 4}, {b, 2}}, longer[] = {{c, 6}};
    static const char *const stop[] = {"zebra", "xx"};
    graft_generate_options o = graft_generate_options_default();
    graft_session *s = NULL;
    graft_generation g[4];
    o.max_new_tokens = 5;
    o.stop = stop;
    o.n_stop = 2;
    o.adapter = "a";
    o.max_batch = 3;
    o.kv_cache_dtype = GRAFT_KV_INT8;
    o.sampling = (graft_sampling){.temperature = 1.2, .top_k = 20, .top_p = 0.9, .min_p = 0.01, .repeat_penalty = 1.1, .seed = 4};
    graft_status st = graft_session_new(l->m, l->tok, &s, NULL);
    if (st == GRAFT_OK) {
        st = graft_generate(s, prompts, 2, 2, &o, NULL, NULL, g, NULL);
        for (int i = 0; i < 4 && st == GRAFT_OK; i++) graft_generation_free(l->ctx, &g[i]);
    }
    o.prompt_lookup_num_tokens = 3;
    if (st == GRAFT_OK) {
        st = graft_generate(s, longer, 1, 1, &o, NULL, NULL, g, NULL);
        if (st == GRAFT_OK) graft_generation_free(l->ctx, &g[0]);
    }
    graft_session_free(s);
    return st;
}

static graft_status generate_once(const graft_allocator *a, void *arg) {
    (void)arg;
    loaded l;
    graft_status st = load_small(a, &l);
    if (st == GRAFT_OK) st = generate_with(&l);
    unload(&l);
    return st;
}

static graft_status evaluate_once(const graft_allocator *a, void *arg) {
    const char *const paths[] = {arg};
    loaded l;
    graft_eval_options o = graft_eval_options_default();
    graft_eval_result r;
    o.what |= GRAFT_EVAL_TOKEN_F1;
    o.data.paths = paths;
    o.data.n_paths = 1;
    o.data.max_records = 3;
    o.batch_size = 2;
    o.generate.max_new_tokens = 4;
    o.generate.adapter = "a";
    graft_status st = load_small(a, &l);
    if (st == GRAFT_OK) st = graft_eval(l.m, l.tok, &o, &r, NULL);
    unload(&l);
    return st;
}

static graft_status tokenize_once(const graft_allocator *a, void *arg) {
    static const char text[] = "two river\n caf\xc3\xa9 \xff 12";
    graft_context_options co = {.allocator = *a, .n_threads = 1};
    graft_context *ctx;
    graft_tokenizer *tok = NULL;
    graft_token_span *spans = NULL;
    int32_t *ids = NULL;
    char *back = NULL;
    size_t n, len;
    GR_TRY(graft_context_new(&co, &ctx, NULL));
    graft_status st = graft_tokenizer_load(ctx, arg, &tok, NULL);
    if (st == GRAFT_OK) st = graft_tokenizer_encode_spans(tok, text, sizeof text - 1, 0, &ids, &spans, &n, NULL);
    if (st == GRAFT_OK) st = graft_tokenizer_decode(tok, ids, n, 0, &back, &len, NULL);
    graft_free(ctx, back);
    graft_free(ctx, spans);
    graft_free(ctx, ids);
    graft_tokenizer_free(tok);
    graft_context_free(ctx);
    return st;
}

/* What loading takes is swept with a wide step (its own tests go through each), what follows with a narrow one. */
static void sweep_after_loading(test_body body, void *arg, long step) {
    test_allocator t;
    loaded l;
    test_allocator_init(&t);
    t.allocator.user = &t;
    assert_int_equal(load_small(&t.allocator, &l), GRAFT_OK);
    long loading = t.calls;
    unload(&l);
    for (long k = loading - 20;; k += step) {
        test_allocator_init(&t);
        t.allocator.user = &t;
        t.fail_at = k;
        graft_status st = body(&t.allocator, arg);
        if (t.live != 0) fail_msg("allocation %ld failed: %ld blocks leaked", k, t.live);
        if (st == GRAFT_OK && t.calls < k) return;
        if (st != GRAFT_ERR_MEMORY) fail_msg("allocation %ld failed: expected out of memory, got %s", k, graft_status_text(st));
    }
}

static void generation_survives(void **state) {
    (void)state;
    sweep_after_loading(generate_once, NULL, 1);
}

static void evaluation_survives(void **state) {
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s", test_golden("train/pairs.jsonl"));
    sweep_after_loading(evaluate_once, path, 1);
}

static void tokenizers_survive(void **state) {
    (void)state;
    static const char *const names[] = {"train/model", "data/tok-sp", "formats/tiny/tiny.gguf"};
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s", test_golden(names[i]));
        test_allocation_sweep(tokenize_once, path, 0, 7);
    }
}

static void small_models_survive(void **state) {
    (void)state;
    static const char *const models[] = {
        "{\"normalizer\":{\"type\":\"BertNormalizer\"},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"decoder\":{\"type\":\"WordPiece\"},"
        "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"?\",\"vocab\":{\"?\":0,\"two\":1,\"ri\":2,\"##ver\":3,\"cafe\":4,\"1\":5,\"##2\":6}}}",
        "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"BAAAAAAEAAAA\",\"longest_match\":true,\"keep\":[\"v\",\"wo\"]},"
        "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"},\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":true,"
        "\"vocab\":[[\"?\",0],[\"_two\",-1],[\"iv\",-2],[\"er\",-3.5],[\"_\",-3],[\"<0xC3>\",0],[\"<0xA9>\",0]]}}",
    };
    for (size_t i = 0; i < GR_COUNT(models); i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/small.json", test_temp_dir());
        assert_ok(gr_write_file(NULL, path, models[i], strlen(models[i]), &err));
        test_allocation_sweep(tokenize_once, path, 0, 1);
    }
}

/* Pieces "?" (unknown), "</s>" (control), "_two" (with U+2581), "ri" (user-defined); type unigram; an empty character map. */
static const char unigram_model[] = "\x0a\x05\x0a\x01?\x18\x02\x0a\x08\x0a\x04</s>\x18\x03"
                                    "\x0a\x0d\x0a\x06\xe2\x96\x81two\x15\0\0\x80\xbf\x0a\x06\x0a\x02ri\x18\x04"
                                    "\x12\x02\x18\x01\x1a\x0b\x12\x09\x04\0\0\0\0\4\0\0\0";

static const struct {
    const char *name, *config, *bytes;
    size_t n;
} older_forms[] = {
    {"vocab.txt", "{\"do_lower_case\": true, \"strip_accents\": false, \"cls_token\": \"c\"}", "[UNK]\nc\n[SEP]\ntwo\nriv\n##er\n", 27},
    {"spiece.model", "{\"tokenizer_class\": \"T5Tokenizer\", \"extra_ids\": 2}", unigram_model, sizeof unigram_model - 1},
};

static void place_older_form(size_t i, char *dir, size_t n) {
    snprintf(dir, n, "%s/older%zu", test_temp_dir(), i);
    assert_ok(gr_make_dirs(dir, &err));
    assert_ok(gr_write_file(NULL, test_path("%s/%s", dir, older_forms[i].name), older_forms[i].bytes, older_forms[i].n, &err));
    assert_ok(gr_write_file(NULL, test_path("%s/tokenizer_config.json", dir), older_forms[i].config, strlen(older_forms[i].config), &err));
}

static void older_forms_survive(void **state) {
    (void)state;
    char dir[1024];
    for (size_t i = 0; i < GR_COUNT(older_forms); i++) {
        place_older_form(i, dir, sizeof dir);
        test_allocation_sweep(tokenize_once, dir, 0, 1);
    }
}

/* --- Broken files --- */

static void read_tokenizer(const unsigned char *bytes, size_t n, void *arg) {
    const char *path = test_path("%s/broken/%s", test_temp_dir(), (const char *)arg);
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_tokenizer *tok = NULL;
    graft_error wrong = {0};
    int32_t *ids = NULL;
    size_t count;
    assert_ok(gr_write_file(NULL, path, bytes, n, &err));
    graft_status st = graft_tokenizer_load(ctx, test_path("%s/broken", test_temp_dir()), &tok, &wrong);
    if (st == GRAFT_OK) {
        st = graft_tokenizer_encode(tok, "two river 12\n", 13, 0, &ids, &count, &wrong);
        graft_free(ctx, ids);
    }
    if (st != GRAFT_OK && !gr_utf8_valid(wrong.text, strlen(wrong.text))) fail_msg("the error is not UTF-8");
    graft_tokenizer_free(tok);
    graft_context_free(ctx);
}

static void broken_tokenizers_never_crash(void **state) {
    (void)state;
    static const char *const names[] = {"tokenizer_config.json", "tokenizer.json"};
    size_t n[2];
    unsigned char *bytes[2];
    assert_ok(gr_make_dirs(test_path("%s/broken", test_temp_dir()), &err));
    for (int i = 0; i < 2; i++) {
        bytes[i] = test_read_file(test_golden(test_path("data/tok-both/%s", names[i])), &n[i]);
        assert_ok(gr_write_file(NULL, test_path("%s/broken/%s", test_temp_dir(), names[i]), bytes[i], n[i], &err));
    }
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s", names[i]);
        for (size_t cut = 0; cut < n[i]; cut += i ? 97 : 1) read_tokenizer(bytes[i], cut, name);
        test_flips(bytes[i], n[i], 0, 300, read_tokenizer, name);
        read_tokenizer(bytes[i], n[i], name);
        gr_free(NULL, bytes[i]);
    }
}

static void read_older_form(const unsigned char *bytes, size_t n, void *arg) {
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_tokenizer *tok = NULL;
    graft_error wrong = {0};
    assert_ok(gr_write_file(NULL, arg, bytes, n, &err));
    if (graft_tokenizer_load(ctx, arg, &tok, &wrong) != GRAFT_OK && !strstr(wrong.text, arg) && !strstr(wrong.text, "memory"))
        fail_msg("'%s' names no file", wrong.text);
    graft_tokenizer_free(tok);
    graft_context_free(ctx);
}

static void broken_older_forms_are_refused_by_name(void **state) {
    (void)state;
    char dir[1024], path[1100];
    for (size_t i = 0; i < GR_COUNT(older_forms); i++) {
        place_older_form(i, dir, sizeof dir);
        snprintf(path, sizeof path, "%s/%s", dir, older_forms[i].name);
        const unsigned char *bytes = (const unsigned char *)older_forms[i].bytes;
        for (size_t cut = 0; cut < older_forms[i].n; cut++) read_older_form(bytes, cut, path);
        test_flips(bytes, older_forms[i].n, 0, 1000, read_older_form, path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generation_survives),
        cmocka_unit_test(evaluation_survives),
        cmocka_unit_test(tokenizers_survive),
        cmocka_unit_test(small_models_survive),
        cmocka_unit_test(older_forms_survive),
        cmocka_unit_test(broken_older_forms_are_refused_by_name),
        cmocka_unit_test(broken_tokenizers_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
