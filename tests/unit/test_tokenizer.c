/* Tokenizers: small vocabularies written here; agreement with the reference libraries is in test_tokenizer_golden.c. */
#include "support/support.h"

#include "graft/tokenizer.h"
#include "io/gguf_pre.h"
#include "text/regex.h"

static graft_context *ctx;

static int setup(void **state) {
    (void)state;
    return graft_context_new(NULL, &ctx, NULL) == GRAFT_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    graft_context_free(ctx);
    return 0;
}

/* Writes tokenizer.json into a fresh folder and gives its path. */
static const char *write_json(const char *json) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/tokenizer.json", test_temp_dir());
    assert_ok(gr_write_file(NULL, path, json, strlen(json), &err));
    return path;
}

#define MODEL                                                                                                          \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"abc\":4,\"\\u0120\":5,\"<s>\":6},"          \
    "\"merges\":[\"a b\",\"ab c\"]}"
#define BYTES                                                                                                          \
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},"                        \
    "\"decoder\":{\"type\":\"ByteLevel\"},"

static const char small[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":6,\"content\":\"<s>\",\"special\":true,\"normalized\":false}]," BYTES MODEL "}";

static void check_ids(const graft_tokenizer *tok, const char *text, unsigned flags, const int32_t *want, size_t n_want) {
    int32_t *ids;
    size_t n;
    assert_ok(graft_tokenizer_encode(tok, text, strlen(text), flags, &ids, &n, &err));
    assert_int_equal(n, n_want);
    for (size_t i = 0; i < n; i++) assert_int_equal(ids[i], want[i]);
    graft_free(ctx, ids);
}

static void encodes_and_decodes(void **state) {
    (void)state;
    graft_tokenizer *tok;
    assert_ok(graft_tokenizer_load(ctx, write_json(small), &tok, &err));
    assert_int_equal(graft_tokenizer_vocab_size(tok), 7);
    check_ids(tok, "abc ab<s>a", 0, (int32_t[]){4, 5, 3, 6, 0}, 5);
    check_ids(tok, "", GRAFT_TOK_ADD_SPECIAL, NULL, 0);
    const int32_t ids[] = {4, 5, 6, 0};
    char *text;
    size_t len;
    assert_ok(graft_tokenizer_decode(tok, ids, 4, 0, &text, &len, &err));
    assert_string_equal(text, "abc <s>a");
    graft_free(ctx, text);
    assert_ok(graft_tokenizer_decode(tok, ids, 4, GRAFT_TOK_SKIP_SPECIAL, &text, &len, &err));
    assert_string_equal(text, "abc a");
    graft_free(ctx, text);
    graft_error err;
    const int32_t bad[] = {7};
    assert_int_equal(graft_tokenizer_decode(tok, bad, 1, 0, &text, &len, &err), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "7"));
    graft_tokenizer_free(tok);
}

/* --- WordPiece and Unigram --- */

#define WORDS "\"vocab\":{\"[UNK]\":0,\"a\":1,\"##a\":2,\"##b\":3,\"ab\":4,\"##\":5,\"##aaaa\":6}"
#define WORDPIECE(fields) "{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\"," fields WORDS "}}"
#define UNIGRAM(fields, pieces) "{\"model\":{\"type\":\"Unigram\"," fields "\"vocab\":[" pieces "]}}"

static graft_tokenizer *load(const char *json) {
    graft_tokenizer *tok;
    assert_ok(graft_tokenizer_load(ctx, write_json(json), &tok, &err));
    return tok;
}

static void wordpiece_takes_the_longest(void **state) {
    (void)state;
    graft_tokenizer *tok = load(WORDPIECE("\"max_input_chars_per_word\":8,"));
    check_ids(tok, "abab", 0, (int32_t[]){4, 2, 3}, 3);
    check_ids(tok, "aaaaaa", 0, (int32_t[]){1, 6, 2}, 3);
    check_ids(tok, "abc", 0, (int32_t[]){0}, 1);
    check_ids(tok, "ab##", 0, (int32_t[]){0}, 1);
    check_ids(tok, "aaaaaaaa", 0, (int32_t[]){1, 6, 2, 2, 2}, 5);
    check_ids(tok, "aaaaaaaaa", 0, (int32_t[]){0}, 1);
    graft_tokenizer_free(tok);
}

static void unigram_takes_the_best_sum(void **state) {
    (void)state;
    graft_tokenizer *tok = load(UNIGRAM("\"unk_id\":0,", "[\"?\",0],[\"a\",-1],[\"aa\",-2],[\"ab\",-1.5],[\"cd\",-99],[\"b\",-3]"));
    check_ids(tok, "aaa", 0, (int32_t[]){1, 2}, 2); /* of equal sums the one with the longer last token */
    check_ids(tok, "aab", 0, (int32_t[]){1, 3}, 2);
    check_ids(tok, "axyb", 0, (int32_t[]){1, 0, 5}, 3); /* unknowns fuse */
    graft_tokenizer_free(tok);
    tok = load(UNIGRAM("", "[\"a\",-1]"));
    int32_t *ids;
    size_t n;
    graft_error wrong;
    assert_int_equal(graft_tokenizer_encode(tok, "ab", 2, 0, &ids, &n, &wrong), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(wrong.text, "U+0062"));
    graft_tokenizer_free(tok);
}

/* Ids of tokenizers 0.23.3. Its scores are a last place off where the digits take more than 53 bits, which decides between
 * sums that are equal otherwise; its trainer may give a text of the corpus that spells a special token a second piece. */
static void unigram_reads_as_the_library(void **state) {
    (void)state;
    graft_tokenizer *tok = load(UNIGRAM("\"unk_id\":0,", "[\"?\",0],[\"s\",-2.620298440205083],[\"P\",-8.173635102806227],[\"x\",-7.5859148248825115],"
                                        "[\"y\",-5.476468207265077],[\"xyx\",-8.17363953188488],[\"z\",-4.576733341074431]"));
    check_ids(tok, "sPxyxyxz", 0, (int32_t[]){1, 2, 3, 4, 5, 6}, 6);
    graft_tokenizer_free(tok);
    tok = load("{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true}],"
               "\"model\":{\"type\":\"Unigram\",\"unk_id\":1,\"vocab\":[[\"<s>\",0],[\"?\",0],[\"a\",-1],[\"<s>\",-3],[\"a\",-2],[\"aa\",-3.5]]}}");
    check_ids(tok, "a", 0, (int32_t[]){4}, 1);
    check_ids(tok, "aa", 0, (int32_t[]){5}, 1);
    check_ids(tok, "<s>a", 0, (int32_t[]){3, 4}, 2);
    char *text;
    size_t len;
    assert_ok(graft_tokenizer_decode(tok, (int32_t[]){0, 2, 3, 4}, 4, GRAFT_TOK_SKIP_SPECIAL, &text, &len, &err));
    assert_string_equal(text, "a a");
    graft_free(ctx, text);
    graft_tokenizer_free(tok);
}

/* What one added token strips is nothing that the next could be; letters of Unicode 16 are letters. Ids of tokenizers 0.23.3. */
static void added_tokens_and_their_neighbours(void **state) {
    (void)state;
    graft_tokenizer *tok = load("{\"added_tokens\":[{\"id\":6,\"content\":\"  \",\"lstrip\":true,\"rstrip\":true},"
                                "{\"id\":7,\"content\":\"b\",\"single_word\":true}],\"pre_tokenizer\":{\"type\":\"Whitespace\"},"
                                "\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"?\":0,\"a\":1,\"\U000135b6\":2,\" \":3,\"aa\":4,"
                                "\"a\U000135b6\":5},\"merges\":[[\"a\",\"a\"],[\"a\",\"\U000135b6\"]]}}");
    check_ids(tok, "a    a", 0, (int32_t[]){1, 6, 1}, 3);
    check_ids(tok, "a     a a", 0, (int32_t[]){1, 6, 1, 1}, 4);
    check_ids(tok, "\U000135b6b b", 0, (int32_t[]){2, 0, 7}, 3);
    check_ids(tok, "a\U000135b6", 0, (int32_t[]){5}, 1);
    check_ids(tok, "\U000135b6b\U000135b6", 0, (int32_t[]){2, 0, 2}, 3);
    graft_tokenizer_free(tok);
}

/* A megabyte of one letter in one piece, which is quadratic for who looks for the longest token from the end. */
static void long_words_cost_their_length(void **state) {
    (void)state;
    static const char *const models[] = {WORDPIECE("\"max_input_chars_per_word\":100000000,"),
                                         UNIGRAM("\"unk_id\":0,", "[\"?\",0],[\"a\",-9],[\"aaaa\",-2]")};
    const size_t len = 1 << 20;
    char *text = malloc(len);
    memset(text, 'a', len);
    for (size_t i = 0; i < GR_COUNT(models); i++) {
        graft_tokenizer *tok = load(models[i]);
        int32_t *ids;
        size_t n;
        assert_ok(graft_tokenizer_encode(tok, text, len, 0, &ids, &n, &err));
        assert_int_equal(n, i ? len / 4 : 1 + (len - 1) / 4 + (len - 1) % 4);
        graft_free(ctx, ids);
        graft_tokenizer_free(tok);
    }
    free(text);
}

static void broken_models_are_refused_by_name(void **state) {
    (void)state;
    char long_piece[2048] = "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"";
    memset(long_piece + strlen(long_piece), 'a', 1100);
    strcat(long_piece, "\",-1]]}}");
    const struct {
        const char *json, *says[3];
    } cases[] = {
        {"{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"<u>\",\"vocab\":{\"a\":0}}}", {"WordPiece", "<u>", "1 tokens"}},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"[UNK]\":0,\"b\":0}}}", {"byte", "[UNK]", "'b'"}},
        {WORDPIECE("\"max_input_chars_per_word\":-3,"), {"max_input_chars_per_word", "-3", "whole number"}},
        {UNIGRAM("\"unk_id\":2,", "[\"a\",-1],[\"b\",-1]"), {"unk_id is 2", "2 pieces"}},
        {UNIGRAM("\"unk_id\":1.5,", "[\"a\",-1]"), {"byte", "unk_id", "1.5"}},
        {UNIGRAM("", "[\"a\",-1],[\"b\",1e999]"), {"piece 1 'b'", "inf", "finite"}},
        {UNIGRAM("", "[\"a\"]"), {"byte"}},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":{\"a\":0}}}", {"[piece, score]"}},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]],\"vocab\":[[\"b\",0]]}}", {"byte", "second 'vocab'"}},
        {long_piece, {"1100 bytes", "1024"}},
        {"{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AQ==\"},\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]}}",
         {"precompiled_charsmap", "byte 0", "expected"}},
        {"{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"BAAAAAAEAABh\"},\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]}}",
         {"precompiled_charsmap", "byte 9", "NUL"}},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_tokenizer *tok;
        graft_error wrong = {0};
        const char *path = write_json(cases[i].json);
        const graft_status st = graft_tokenizer_load(ctx, path, &tok, &wrong);
        if (st == GRAFT_OK) fail_msg("case %zu was read", i);
        if (!strstr(wrong.text, path)) fail_msg("case %zu: '%s' names no file", i, wrong.text);
        for (size_t k = 0; k < 3 && cases[i].says[k]; k++)
            if (!strstr(wrong.text, cases[i].says[k])) fail_msg("case %zu: '%s' does not say '%s'", i, wrong.text, cases[i].says[k]);
    }
}

/* Every pattern of every pre-tokeniser that GGUF names can be read. */
static void named_pre_tokenisers_compile(void **state) {
    (void)state;
    const gr_gguf_pre *pre;
    size_t n = 0;
    for (; (pre = gr_gguf_pre_at(n)) != NULL; n++)
        for (size_t i = 0; pre->patterns[i]; i++) {
            gr_regex *re = NULL;
            graft_error failure = {0};
            if (gr_regex_new(NULL, pre->patterns[i], strlen(pre->patterns[i]), GR_REGEX_ONIGURUMA, &re, &failure) != GRAFT_OK)
                fail_msg("%s: pattern %zu: %s", pre->name, i, failure.text);
            gr_regex_free(re);
        }
    assert_true(n > 40);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encodes_and_decodes),
        cmocka_unit_test(named_pre_tokenisers_compile),
        cmocka_unit_test(wordpiece_takes_the_longest),
        cmocka_unit_test(unigram_takes_the_best_sum),
        cmocka_unit_test(unigram_reads_as_the_library),
        cmocka_unit_test(added_tokens_and_their_neighbours),
        cmocka_unit_test(long_words_cost_their_length),
        cmocka_unit_test(broken_models_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
