/* Tokenizers against the libraries that they come from: ids, spans and decoded text of over 2,000 texts for every
 * configuration in tests/golden/tokenizer (made by tools/golden/make_tokenizers.py, which describes the files). */
#include <zlib.h>

#include "support/support.h"

#include "graft/tokenizer.h"

typedef struct text {
    const char *bytes;
    uint32_t len;
} text;

static graft_context *ctx;
static text *texts;
static uint32_t n_texts;
static char *text_bytes;

enum { IDS = 1, SPANS = 2, SPECIAL = 4, RAW = 8, DECODED = 16 };

/* --- files --- */

static char *unpack(const char *path, size_t *len) {
    gzFile f = gzopen(path, "rb");
    if (!f) fail_msg("%s is missing", path);
    size_t cap = 1 << 20, n = 0;
    char *data = malloc(cap);
    for (int got; (got = gzread(f, data + n, (unsigned)(cap - n))) > 0;) {
        n += (size_t)got;
        if (n == cap) data = realloc(data, cap *= 2);
    }
    gzclose(f);
    *len = n;
    return data;
}

static char *unpack_golden(const char *name, size_t *len) {
    char path[512];
    snprintf(path, sizeof path, "tokenizer/%s", name);
    return unpack(test_golden(path), len);
}

static uint32_t u32(const char *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* A folder of its own for each tokenizer; gives the path to load. */
static const char *place(const char *name, const char *file, const char *data, size_t len) {
    static char path[2048];
    snprintf(path, sizeof path, "%s/%s", test_temp_dir(), name);
    assert_ok(gr_make_dirs(path, &err));
    snprintf(path, sizeof path, "%s/%s/%s", test_temp_dir(), name, file);
    assert_ok(gr_write_file(NULL, path, data, len, &err));
    return path;
}

static int setup(void **state) {
    (void)state;
    if (graft_context_new(NULL, &ctx, NULL) != GRAFT_OK) return -1;
    size_t len;
    text_bytes = unpack_golden("texts.gz", &len);
    n_texts = u32(text_bytes);
    texts = calloc(n_texts, sizeof *texts);
    const char *p = text_bytes + 4;
    for (uint32_t i = 0; i < n_texts; i++) {
        texts[i] = (text){p + 4, u32(p)};
        p += 4 + texts[i].len;
    }
    return p == text_bytes + len && n_texts >= 2000 ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    free(texts);
    free(text_bytes);
    graft_context_free(ctx);
    return 0;
}

/* --- what graft gives --- */

static uint32_t add_ids(uint32_t crc, const graft_tokenizer *tok, const text *t, unsigned flags) {
    int32_t *ids;
    size_t n;
    assert_ok(graft_tokenizer_encode(tok, t->bytes, t->len, flags, &ids, &n, &err));
    crc = (uint32_t)crc32(crc, (const unsigned char *)ids, (unsigned)(n * sizeof *ids));
    graft_free(ctx, ids);
    return crc;
}

static uint32_t add_spans(uint32_t crc, const graft_tokenizer *tok, const text *t, unsigned parts) {
    int32_t *ids;
    graft_token_span *spans;
    size_t n;
    assert_ok(graft_tokenizer_encode_spans(tok, t->bytes, t->len, 0, &ids, &spans, &n, &err));
    if (parts & IDS) crc = (uint32_t)crc32(crc, (const unsigned char *)ids, (unsigned)(n * sizeof *ids));
    for (size_t i = 0; i < n; i++) {
        const bool empty = spans[i].start >= spans[i].end;
        const uint32_t pair[2] = {empty ? 0 : (uint32_t)spans[i].start, empty ? 0 : (uint32_t)spans[i].end};
        assert_true(spans[i].start <= spans[i].end && spans[i].end <= t->len);
        if (parts & SPANS) crc = (uint32_t)crc32(crc, (const unsigned char *)pair, sizeof pair);
    }
    graft_free(ctx, ids);
    graft_free(ctx, spans);
    return crc;
}

/* The stream's pieces are whole UTF-8 and add up to the text. */
static void check_stream(const graft_tokenizer *tok, const int32_t *ids, size_t n, const char *want, size_t n_want) {
    graft_detokenizer *d;
    size_t at = 0;
    assert_ok(graft_detokenizer_new(tok, 0, &d, &err));
    for (size_t i = 0; i <= n; i++) {
        const char *piece;
        size_t len;
        if (i < n) assert_ok(graft_detokenizer_push(d, ids[i], &piece, &len, &err));
        else assert_ok(graft_detokenizer_finish(d, &piece, &len, &err));
        assert_true(gr_utf8_valid(piece, len) && len <= n_want - at);
        assert_memory_equal(piece, want + at, len);
        at += len;
    }
    assert_int_equal(at, n_want);
    graft_detokenizer_free(d);
}

static uint32_t add_decoded(uint32_t crc, const graft_tokenizer *tok, const text *t) {
    int32_t *ids;
    size_t n, len;
    char *out;
    assert_ok(graft_tokenizer_encode(tok, t->bytes, t->len, GRAFT_TOK_ADD_SPECIAL, &ids, &n, &err));
    if (n > 0) {
        assert_ok(graft_tokenizer_decode(tok, ids, n, 0, &out, &len, &err));
        check_stream(tok, ids, n, out, len);
        crc = (uint32_t)crc32(crc, (const unsigned char *)out, (unsigned)len + 1); /* and the NUL */
        graft_free(ctx, out);
        assert_ok(graft_tokenizer_decode(tok, ids, n, GRAFT_TOK_SKIP_SPECIAL, &out, &len, &err));
        crc = (uint32_t)crc32(crc, (const unsigned char *)out, (unsigned)len);
        graft_free(ctx, out);
    } else {
        crc = (uint32_t)crc32(crc, (const unsigned char *)"", 1);
    }
    graft_free(ctx, ids);
    return crc;
}

static uint32_t sum_of(const graft_tokenizer *tok, const text *t, unsigned parts) {
    uint32_t crc = parts & IDS ? add_ids(0, tok, t, 0) : 0;
    const uint32_t again = add_spans(0, tok, t, parts & IDS);
    if (parts & IDS) assert_int_equal(crc, again);
    if (parts & SPANS) crc = add_spans(crc, tok, t, SPANS);
    if (parts & SPECIAL) crc = add_ids(crc, tok, t, GRAFT_TOK_ADD_SPECIAL);
    if (parts & RAW) crc = add_ids(crc, tok, t, GRAFT_TOK_NO_PARSE_SPECIAL);
    if (parts & DECODED) crc = add_decoded(crc, tok, t);
    return crc;
}

static void check_texts(const char *name, const graft_tokenizer *tok) {
    char file[256];
    size_t len;
    snprintf(file, sizeof file, "%s.crc.gz", name);
    char *golden = unpack_golden(file, &len);
    assert_int_equal(len, n_texts * 5);
    unsigned wrong = 0, first = 0;
    for (unsigned i = 0; i < n_texts; i++) {
        const unsigned parts = (unsigned char)golden[i];
        if (sum_of(tok, &texts[i], parts) != u32(golden + n_texts + 4 * i) && wrong++ == 0) first = i;
    }
    free(golden);
    if (wrong) fail_msg("%s: %u texts differ, the first is number %u", name, wrong, first);
}

/* What graft saves loads again as the same tokenizer. */
static void check_saved(const char *name, const graft_tokenizer *tok) {
    char dir[2048];
    graft_tokenizer *again;
    snprintf(dir, sizeof dir, "%s/%s-saved", test_temp_dir(), name);
    assert_ok(gr_make_dirs(dir, &err));
    assert_ok(graft_tokenizer_save(tok, dir, &err));
    assert_ok(graft_tokenizer_load(ctx, dir, &again, &err));
    assert_int_equal(graft_tokenizer_vocab_size(tok), graft_tokenizer_vocab_size(again));
    for (unsigned i = 0; i < n_texts; i += 7) {
        const unsigned parts = IDS | SPANS | SPECIAL | RAW | DECODED;
        if (sum_of(tok, &texts[i], parts) != sum_of(again, &texts[i], parts))
            fail_msg("%s: text %u differs after saving", name, i);
    }
    graft_tokenizer_free(again);
}

/* --- tests --- */

static void check_kind(const char *ending, const char *file) {
    char **names;
    size_t n, done = 0;
    assert_ok(gr_list_dir(NULL, test_golden("tokenizer"), &names, &n, &err));
    for (size_t i = 0; i < n; i++) {
        const size_t len = strlen(names[i]), cut = strlen(ending);
        if (len <= cut || strcmp(names[i] + len - cut, ending)) continue;
        char name[128];
        size_t n_data;
        snprintf(name, sizeof name, "%.*s", (int)(len - cut), names[i]);
        char *data = unpack_golden(names[i], &n_data);
        graft_tokenizer *tok;
        graft_error err;
        if (graft_tokenizer_load(ctx, place(name, file, data, n_data), &tok, &err) != GRAFT_OK)
            fail_msg("%s: %s", name, err.text);
        check_texts(name, tok);
        /* tokenizer.json cannot say all that SentencePiece does. */
        if (strcmp(file, "tokenizer.model") && strcmp(name, "gguf_t5")) check_saved(name, tok);
        graft_tokenizer_free(tok);
        free(data);
        done++;
    }
    gr_free_names(NULL, names, n);
    assert_true(done > 0);
}

static void tokenizer_json_gives_the_ids_of_tokenizers(void **state) {
    (void)state;
    check_kind(".json.gz", "tokenizer.json");
}

static void tokenizer_model_gives_the_ids_of_sentencepiece(void **state) {
    (void)state;
    check_kind(".model.gz", "tokenizer.model");
}

static void gguf_gives_the_ids_of_llama_cpp(void **state) {
    (void)state;
    check_kind(".gguf.gz", "vocabulary.gguf");
}

static graft_tokenizer *load_golden(const char *name, const char *file) {
    size_t n;
    graft_tokenizer *tok;
    char packed[128];
    snprintf(packed, sizeof packed, "%s%s.gz", name, strrchr(file, '.'));
    char *data = unpack_golden(packed, &n);
    assert_ok(graft_tokenizer_load(ctx, place(name, file, data, n), &tok, &err));
    free(data);
    return tok;
}

/* The ids of the golden tokenizer, whatever the texts decode to. */
static void check_same(const graft_tokenizer *tok, const char *name) {
    graft_tokenizer *golden = load_golden(name, "tokenizer.json");
    for (unsigned i = 0; i < n_texts; i++)
        if (sum_of(tok, &texts[i], IDS | SPANS | SPECIAL | RAW) != sum_of(golden, &texts[i], IDS | SPANS | SPECIAL | RAW))
            fail_msg("%s: text %u differs", name, i);
    graft_tokenizer_free(golden);
}

/* A directory with vocab.txt is the tokenizer.json that its configuration describes. */
static void vocab_txt_gives_the_ids_of_tokenizers(void **state) {
    (void)state;
    static const struct {
        const char *name, *config;
    } cases[] = {
        {"wordpiece", NULL},
        {"wordpiece_cased", "{\"tokenizer_class\": \"BertTokenizer\", \"do_lower_case\": false, \"cls_token\": {\"content\": \"[CLS]\"}}"},
        {"wordpiece_accents", "{\"tokenize_chinese_chars\": false, \"strip_accents\": false, \"do_lower_case\": true}"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_tokenizer *tok = load_golden(cases[i].name, "tokenizer.json");
        char name[64], path[1024];
        gr_buf lines;
        gr_buf_init(&lines, NULL);
        for (size_t id = 0; id < graft_tokenizer_vocab_size(tok); id++) {
            gr_buf_add_text(&lines, graft_tokenizer_token_text(tok, (int32_t)id, NULL));
            gr_buf_add_text(&lines, i == 1 ? "\r\n" : "\n");
        }
        graft_tokenizer_free(tok);
        snprintf(name, sizeof name, "%s-txt", cases[i].name);
        if (cases[i].config) place(name, "tokenizer_config.json", cases[i].config, strlen(cases[i].config));
        snprintf(path, sizeof path, "%s", place(name, "vocab.txt", gr_buf_text(&lines), lines.len));
        *strrchr(path, '/') = '\0';
        assert_ok(graft_tokenizer_load(ctx, path, &tok, &err));
        assert_int_equal(graft_tokenizer_special_id(tok, GRAFT_TOKEN_MASK), 4);
        check_saved(name, tok);
        if (i != 1) check_texts(cases[i].name, tok);
        else check_same(tok, cases[i].name); /* whose decoder does not clean up */
        graft_tokenizer_free(tok);
        gr_buf_free(&lines);
    }
}

/* What T5Tokenizer of transformers 5.23 gives for the same model. */
static void spiece_model_gives_the_ids_of_transformers(void **state) {
    (void)state;
    static const char input[] = "All human <extra_id_0> are born  free <extra_id_1>\tand \xef\xac\x82y \xe4\xba\xba\xe4\xba\xba equal.</s> ";
    static const int32_t want[] = {420, 415, 17, 856, 441, 7, 444, 17, 430, 11, 855, 7, 115, 56, 21, 35, 7, 2, 7, 11, 341, 18, 21, 9, 1, 1};
    static const char *const configs[] = {"{\"tokenizer_class\": \"T5Tokenizer\"}", "{\"extra_ids\": 3, \"tokenizer_class\": \"T5TokenizerFast\"}",
                                          "{\"tokenizer_class\": \"AlbertTokenizer\"}"};
    size_t n_data, n;
    char *data = unpack_golden("spm_unigram_t5.model.gz", &n_data);
    for (size_t i = 0; i < GR_COUNT(configs); i++) {
        graft_tokenizer *tok;
        int32_t *ids;
        place("t5", "tokenizer_config.json", configs[i], strlen(configs[i]));
        assert_ok(graft_tokenizer_load(ctx, place("t5", "spiece.model", data, n_data), &tok, &err));
        assert_int_equal(graft_tokenizer_vocab_size(tok), 757 + (i == 0 ? 100 : i == 1 ? 3 : 0));
        assert_int_equal(graft_tokenizer_token_id(tok, "<extra_id_0>", 12), i == 0 ? 856 : i == 1 ? 759 : -1);
        assert_int_equal(graft_tokenizer_adds_eos(tok), i < 2);
        assert_int_equal(graft_tokenizer_special_id(tok, GRAFT_TOKEN_PAD), 0);
        assert_ok(graft_tokenizer_encode(tok, input, sizeof input - 1, GRAFT_TOK_ADD_SPECIAL, &ids, &n, &err));
        if (i == 0) {
            assert_int_equal(n, GR_COUNT(want));
            assert_memory_equal(ids, want, sizeof want);
        }
        graft_free(ctx, ids);
        graft_tokenizer_free(tok);
    }
    free(data);
}

static void packaged_vocabulary_gives_the_ids_of_tokenizers(void **state) {
    (void)state;
    char path[2048];
    const char *cache = test_cache();
    if (!cache) skip();
    snprintf(path, sizeof path, "%s/models/SmolLM2-135M-Instruct.Q4_1.gguf", cache);
    if (!gr_path_exists(path)) skip();
    graft_tokenizer *tok;
    assert_ok(graft_tokenizer_load(ctx, path, &tok, &err));
    size_t len, n;
    char *golden = unpack_golden("smollm2.ids.gz", &len);
    const char *p = golden;
    for (unsigned i = 0; i < n_texts; i++) {
        int32_t *ids;
        graft_token_span *spans;
        assert_ok(graft_tokenizer_encode_spans(tok, texts[i].bytes, texts[i].len, 0, &ids, &spans, &n, &err));
        if (n != u32(p)) fail_msg("text %u: %zu ids, not %u", i, n, u32(p));
        p += 4;
        for (size_t k = 0; k < n; k++, p += 2) {
            uint16_t id;
            memcpy(&id, p, 2);
            if (ids[k] != id) fail_msg("text %u: id %zu is %d, not %u", i, k, ids[k], id);
        }
        for (size_t k = 0; k < n; k++, p += 8) {
            if (u32(p) == UINT32_MAX) continue;
            if (spans[k].start != u32(p) || spans[k].end != u32(p + 4))
                fail_msg("text %u: span %zu is [%zu, %zu), not [%u, %u)", i, k, spans[k].start, spans[k].end, u32(p), u32(p + 4));
        }
        graft_free(ctx, ids);
        graft_free(ctx, spans);
    }
    assert_ptr_equal(p, golden + len);
    free(golden);
    graft_tokenizer_free(tok);
}

/* Every component that graft knows stands in at least one golden tokenizer.json. */
static void every_component_is_tested(void **state) {
    (void)state;
    static const char *const components[] = {
#define X(name, fn) name,
#include "text/normalizer.def"
#include "text/pretok.def"
#include "text/decoder.def"
#include "text/postproc.def"
#include "text/token_model.def"
#undef X
    };
    bool seen[GR_COUNT(components)] = {0};
    char **names;
    size_t n;
    assert_ok(gr_list_dir(NULL, test_golden("tokenizer"), &names, &n, &err));
    for (size_t i = 0; i < n; i++) {
        size_t len;
        if (!strstr(names[i], ".json.gz")) continue;
        char *data = unpack_golden(names[i], &len);
        data = realloc(data, len + 1);
        data[len] = '\0';
        for (size_t k = 0; k < GR_COUNT(components); k++) {
            char quoted[64];
            snprintf(quoted, sizeof quoted, "\"%s\"", components[k]);
            if (strstr(data, quoted)) seen[k] = true;
        }
        free(data);
    }
    gr_free_names(NULL, names, n);
    for (size_t k = 0; k < GR_COUNT(components); k++)
        if (!seen[k] && strcmp(components[k], "Bert")) fail_msg("no golden tokenizer has a %s", components[k]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokenizer_json_gives_the_ids_of_tokenizers),
        cmocka_unit_test(tokenizer_model_gives_the_ids_of_sentencepiece),
        cmocka_unit_test(gguf_gives_the_ids_of_llama_cpp),
        cmocka_unit_test(vocab_txt_gives_the_ids_of_tokenizers),
        cmocka_unit_test(spiece_model_gives_the_ids_of_transformers),
        cmocka_unit_test(packaged_vocabulary_gives_the_ids_of_tokenizers),
        cmocka_unit_test(every_component_is_tested),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
