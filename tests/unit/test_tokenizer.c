/* Tokenizers: small vocabularies written here; agreement with the reference libraries is in test_tokenizer_golden.c. */
#include "support/support.h"

#include "graft/tokenizer.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encodes_and_decodes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
