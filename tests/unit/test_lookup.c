/* Prompt lookup changes no output: every model, adapter and option gives the sequences that come one token at a time, in one batch
 * of several prompts and copies; what is proposed is counted; the session keeps the rows of what was accepted and nothing else. */
#include "support/model_support.h"
#include "support/sft_run.h"

#include "graft/generate.h"

enum { VOCAB = 96, PROMPTS = 4, COPIES = 2, OUT = PROMPTS * COPIES };

/* A tokenizer of 96 pieces whose end of text is token 2. */
static graft_tokenizer *small_tokenizer(graft_context *ctx) {
    static const char name[] = "{\"eos_token\": \"t2\"}";
    const char *dir = test_path("%s/tokenizer", test_temp_dir());
    graft_tokenizer *tok;
    gr_buf b;
    assert_ok(gr_make_dirs(dir, &err));
    gr_buf_init(&b, NULL);
    gr_buf_add_text(&b, "{\"version\": \"1.0\", \"added_tokens\": [], \"model\": {\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [");
    for (int i = 0; i < VOCAB; i++) gr_buf_add_format(&b, "%s[\"t%d\", -1.0]", i ? ", " : "", i);
    gr_buf_add_text(&b, "]}}");
    assert_ok(gr_write_file(NULL, test_path("%s/tokenizer/tokenizer.json", test_temp_dir()), b.data, b.len, &err));
    assert_ok(gr_write_file(NULL, test_path("%s/tokenizer/tokenizer_config.json", test_temp_dir()), name, sizeof name - 1, &err));
    gr_buf_free(&b);
    assert_ok(graft_tokenizer_load(ctx, dir, &tok, &err));
    return tok;
}

static const int32_t first[] = {5, 9, 11, 12, 40, 6, 7, 5, 9, 11, 12, 40, 6, 7, 5, 9}, second[] = {7, 5}, third[] = {90, 12, 31, 4, 90},
                     fourth[] = {6, 6, 6, 6};
static const graft_input_ids in[PROMPTS] = {{first, 16}, {second, 2}, {third, 5}, {fourth, 4}};

static void same_generation(const graft_generation *a, const graft_generation *b, const char *what, int number) {
    if (a->n_ids != b->n_ids || memcmp(a->ids, b->ids, a->n_ids * sizeof *a->ids) != 0 || a->finish != b->finish ||
        strcmp(a->text, b->text) != 0)
        fail_msg("%s: sequence %d: '%s' became '%s'", what, number, a->text, b->text);
}

/* Option set k, as it comes without lookup. */
static graft_generate_options setting(int k, const char *adapter) {
    static const char *const stop[] = {"t7t", "40"};
    graft_generate_options o = graft_generate_options_default();
    o.max_new_tokens = 18;
    o.adapter = adapter;
    if (k % 3 == 1) o.sampling = (graft_sampling){.temperature = 0.4, .top_p = 1, .repeat_penalty = 1, .seed = (uint64_t)k};
    if (k % 3 == 2) o.sampling = (graft_sampling){.temperature = 1.1, .top_k = 40, .top_p = 0.95, .repeat_penalty = 1, .seed = (uint64_t)k};
    if (k % 4 == 1) o.sampling.repeat_penalty = 1.2;
    if (k % 5 == 1) o.no_repeat_ngram_size = 3;
    if (k % 5 == 2) o.min_new_tokens = 7;
    if (k % 5 == 3) o.ignore_eos = 1;
    if (k % 7 == 3) o.stop = stop, o.n_stop = 2;
    if (k % 7 == 5) o.max_new_tokens = 1;
    if (k % 2) o.max_batch = 3;
    if (k % 3 == 0) o.kv_cache_dtype = GRAFT_KV_INT8;
    if (k % 6 == 1) o.kv_cache_dtype = GRAFT_KV_BF16;
    return o;
}

typedef struct counts {
    size_t proposed, accepted;
} counts;

static void compare(graft_context *ctx, graft_model *m, const graft_tokenizer *tok, int k, const char *adapter, const char *what, counts *c) {
    static const int64_t sizes[] = {3, 10, 1, 256, 6}, ngrams[] = {0, 1, 3, 64};
    graft_generate_options o = setting(k, adapter);
    graft_session *s;
    graft_generation plain[OUT], fast[OUT];
    assert_ok(graft_session_new(m, tok, &s, &err));
    assert_ok(graft_generate(s, in, PROMPTS, COPIES, &o, NULL, NULL, plain, &err));
    assert_int_equal(graft_session_stats(s).proposed_tokens, 0);
    o.prompt_lookup_num_tokens = sizes[k % 5];
    o.max_matching_ngram_size = ngrams[k % 4];
    assert_ok(graft_generate(s, in, PROMPTS, COPIES, &o, NULL, NULL, fast, &err));
    const graft_generate_stats stats = graft_session_stats(s);
    size_t made = 0;
    for (int i = 0; i < OUT; i++) {
        made += plain[i].n_ids;
        same_generation(&plain[i], &fast[i], what, i);
        graft_generation_free(ctx, &plain[i]);
        graft_generation_free(ctx, &fast[i]);
    }
    assert_int_equal(stats.new_tokens, made);
    assert_true(stats.accepted_tokens <= stats.proposed_tokens && stats.accepted_tokens < made);
    c->proposed += stats.proposed_tokens;
    c->accepted += stats.accepted_tokens;
    graft_session_free(s);
}

static void no_model_gives_anything_else(void **state) {
    (void)state;
    static const char *const names[] = {"families/gpt2",  "families/t5",          "families/t5_gated", "models/llama",
                                        "models/mistral", "models/qwen2_sliding", "models/smollm3_sliding"};
    for (size_t i = 0; i < GR_COUNT(names); i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            graft_context *ctx = test_context(NULL, 1 + bf16, NULL);
            graft_model *m = test_load(ctx, test_golden(names[i]), bf16 ? GRAFT_DTYPE_BF16 : GRAFT_DTYPE_F32);
            graft_tokenizer *tok = small_tokenizer(ctx);
            counts c = {0};
            for (int k = 0; k < 20; k++) compare(ctx, m, tok, k + 20 * bf16, NULL, names[i], &c);
            /* Both ways through the loop were taken. */
            if (!c.accepted || c.accepted == c.proposed) fail_msg("%s: %zu of %zu accepted", names[i], c.accepted, c.proposed);
            graft_tokenizer_free(tok);
            graft_model_free(m);
            graft_context_free(ctx);
        }
}

static void no_adapter_gives_anything_else(void **state) {
    (void)state;
    static const char *const names[] = {"models/llama", "families/t5"};
    static const char *const configs[] = {"{\"peft_type\": \"LORA\", \"r\": 4, \"init_lora_weights\": false}",
                                          "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 3}",
                                          "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 3}"};
    for (size_t i = 0; i < GR_COUNT(names) * GR_COUNT(configs); i++) {
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = test_load(ctx, test_golden(names[i / GR_COUNT(configs)]), GRAFT_DTYPE_F32);
        graft_tokenizer *tok = small_tokenizer(ctx);
        counts c = {0};
        assert_ok(graft_adapter_new(m, "a", configs[i % GR_COUNT(configs)], 1, &err));
        for (int k = 0; k < 20; k++) compare(ctx, m, tok, k, "a", configs[i % GR_COUNT(configs)], &c);
        assert_true(c.accepted > 0 && c.accepted < c.proposed);
        graft_tokenizer_free(tok);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

/* A turn that goes on with the last one takes over its keys and values and gives what a fresh session gives. */
static void a_session_keeps_what_was_accepted(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("models/llama"), GRAFT_DTYPE_F32);
    graft_tokenizer *tok = small_tokenizer(ctx);
    for (int k = 0; k < 6; k++) {
        graft_generate_options o = setting(3 * k, NULL), plain = o;
        graft_session *s, *fresh;
        graft_generation turn, next, expected;
        int32_t ids[64];
        o.prompt_lookup_num_tokens = 5;
        assert_ok(graft_session_new(m, tok, &s, &err));
        assert_ok(graft_session_new(m, tok, &fresh, &err));
        assert_ok(graft_generate(s, &in[0], 1, 1, &o, NULL, NULL, &turn, &err));
        size_t n = in[0].n;
        memcpy(ids, in[0].ids, n * sizeof *ids);
        memcpy(ids + n, turn.ids, turn.n_ids * sizeof *ids);
        n += turn.n_ids;
        ids[n++] = 33;
        const graft_input_ids longer = {ids, n};
        assert_ok(graft_generate(s, &longer, 1, 1, &o, NULL, NULL, &next, &err));
        assert_int_equal(graft_session_stats(s).reused_tokens, n - 2);
        assert_ok(graft_generate(fresh, &longer, 1, 1, &plain, NULL, NULL, &expected, &err));
        same_generation(&expected, &next, "the next turn", k);
        graft_generation_free(ctx, &turn);
        graft_generation_free(ctx, &next);
        graft_generation_free(ctx, &expected);
        graft_session_free(fresh);
        graft_session_free(s);
    }
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
}

static int cancel_after(void *user, size_t sequence, const char *piece, size_t len) {
    (void)sequence, (void)piece, (void)len;
    return --*(int *)user == 0;
}

static void a_caller_may_end_it_anywhere(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("models/llama"), GRAFT_DTYPE_F32);
    graft_tokenizer *tok = small_tokenizer(ctx);
    graft_session *s;
    assert_ok(graft_session_new(m, tok, &s, &err));
    for (int after = 1; after < 12; after++) {
        graft_generate_options o = setting(0, NULL);
        graft_generation plain, fast;
        int left = after;
        assert_ok(graft_generate(s, &in[0], 1, 1, &o, cancel_after, &left, &plain, &err));
        o.prompt_lookup_num_tokens = 10;
        left = after;
        assert_ok(graft_generate(s, &in[0], 1, 1, &o, cancel_after, &left, &fast, &err));
        same_generation(&plain, &fast, "ended after pieces", after);
        graft_generation_free(ctx, &plain);
        graft_generation_free(ctx, &fast);
    }
    graft_session_free(s);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
}

static void wrong_calls_are_refused(void **state) {
    (void)state;
    static const char *const says[] = {"expected 0 to 256, found -1", "expected 0 to 256, found 257", "expected 1 or more, with prompt_lookup",
                                       "expected 1 or more, with prompt_lookup", "beam search does not look tokens up"};
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("models/llama"), GRAFT_DTYPE_F32);
    graft_tokenizer *tok = small_tokenizer(ctx);
    graft_session *s;
    assert_ok(graft_session_new(m, tok, &s, &err));
    for (int i = 0; i < 5; i++) {
        graft_generate_options o = graft_generate_options_default();
        graft_generation g;
        graft_error wrong;
        o.prompt_lookup_num_tokens = (int64_t[]){-1, 257, 4, 0, 4}[i];
        o.max_matching_ngram_size = (int64_t[]){0, 0, -1, 2, 0}[i];
        if (i == 4) o.num_beams = 2;
        graft_status st = graft_generate(s, in, 1, 1, &o, NULL, NULL, &g, &wrong);
        if (st != GRAFT_ERR_ARGUMENT || !strstr(wrong.text, says[i])) fail_msg("expected '%s', found '%s'", says[i], st ? wrong.text : "no error");
    }
    graft_session_free(s);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
}

/* The packaged model writes a text again: most of it is proposed and accepted, greedily and drawn. */
static void the_packaged_model_copies_in_strides(void **state) {
    (void)state;
    static const char text[] =
        "<|im_start|>user\nCorrect the spelling of this text. Write the whole text again and change only what is wrong:\n"
        "The package zlib1g holds the compression library that most programs use. It implements the deflate method found in gzip and "
        "PKZIP. The package zlib1g-dev holds its headers and the static library, which are needed to build programs agianst it."
        "<|im_end|>\n<|im_start|>assistant\n";
    const char *cache = test_cache();
    char path[1200];
    snprintf(path, sizeof path, "%s/models/SmolLM2-135M-Instruct.Q4_1.gguf", cache ? cache : "");
    if (!cache || !gr_path_exists(path)) skip();
    graft_context *ctx = test_context(NULL, 2, NULL);
    graft_model *m = test_load(ctx, path, GRAFT_DTYPE_BF16);
    graft_tokenizer *tok;
    graft_session *s;
    int32_t *ids;
    graft_input_ids prompt = {0};
    assert_ok(graft_tokenizer_load(ctx, path, &tok, &err));
    assert_ok(graft_tokenizer_encode(tok, text, sizeof text - 1, 0, &ids, &prompt.n, &err));
    prompt.ids = ids;
    assert_ok(graft_session_new(m, tok, &s, &err));
    for (int k = 0; k < 2; k++) {
        graft_generate_options o = graft_generate_options_default();
        graft_generation plain, fast;
        o.max_new_tokens = TEST_SANITIZED ? 16 : 40;
        if (k) o.sampling = (graft_sampling){.temperature = 0.7, .top_p = 0.9, .repeat_penalty = 1, .seed = 6};
        assert_ok(graft_generate(s, &prompt, 1, 1, &o, NULL, NULL, &plain, &err));
        o.prompt_lookup_num_tokens = 10;
        assert_ok(graft_generate(s, &prompt, 1, 1, &o, NULL, NULL, &fast, &err));
        same_generation(&plain, &fast, "SmolLM2", k);
        const graft_generate_stats stats = graft_session_stats(s);
        if (2 * stats.accepted_tokens < stats.new_tokens) fail_msg("%d: %zu of %zu tokens accepted", k, stats.accepted_tokens, stats.new_tokens);
        graft_generation_free(ctx, &plain);
        graft_generation_free(ctx, &fast);
    }
    graft_session_free(s);
    gr_free(NULL, ids);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_model_gives_anything_else),      cmocka_unit_test(no_adapter_gives_anything_else),
        cmocka_unit_test(a_session_keeps_what_was_accepted), cmocka_unit_test(a_caller_may_end_it_anywhere),
        cmocka_unit_test(wrong_calls_are_refused),           cmocka_unit_test(the_packaged_model_copies_in_strides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
