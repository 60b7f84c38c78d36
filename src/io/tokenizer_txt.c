/* vocab.txt, the older form of BERT's tokenizers: a token a line, its number the line's. The chain follows from
 * tokenizer_config.json, with the defaults of transformers 5.23 (BertTokenizer). */
#include "base/json.h"
#include "io/tokenizer_files.h"

enum { MAX_CONFIG = 64 << 20 };

typedef struct shape {
    bool lower, chinese;
    const char *strip_accents; /* JSON */
    const char *cls, *sep, *unk, *pad, *mask;
} shape;

/* --- the vocabulary --- */

/* Lines end as in Python's text mode: \n, \r\n or \r. */
static graft_status read_lines(gr_tokenizer_spec *spec, const char *path, const char *text, size_t len,
                               graft_error *err) {
    if (!gr_utf8_valid(text, len)) return gr_fail(err, GRAFT_ERR_FORMAT, "%s is not valid UTF-8", path);
    GR_TRY(gr_vocab_reserve(&spec->vocab, len / 8 + 16, len, err));
    int64_t line = 0;
    for (size_t i = 0; i < len; line++) {
        size_t end = i;
        while (end < len && text[end] != '\n' && text[end] != '\r') end++;
        GR_TRY(gr_vocab_add(&spec->vocab, line, text + i, end - i, err));
        i = end + 1 + (end + 1 < len && text[end] == '\r' && text[end + 1] == '\n');
    }
    if (spec->vocab.n == 0) return gr_fail(err, GRAFT_ERR_FORMAT, "%s is empty; expected a token a line", path);
    GR_TRY(gr_vocab_index(&spec->vocab, err));
    for (size_t id = 0; id < spec->vocab.n; id++) {
        size_t n;
        const char *token = gr_vocab_text(&spec->vocab, (int64_t)id, &n);
        const int32_t first = gr_vocab_find(&spec->vocab, token, n);
        if (first != (int32_t)id)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: lines %d and %zu are both '%.80s'; expected each token once", path,
                           first + 1, id + 1, token);
    }
    return GRAFT_OK;
}

static graft_status read_vocab(gr_tokenizer_spec *spec, const char *path, graft_error *err) {
    gr_mapping m;
    GR_TRY(gr_map_file(path, &m, err));
    graft_status st = read_lines(spec, path, (const char *)m.data, m.size, err);
    gr_unmap_file(&m);
    return st;
}

/* --- the configuration --- */

static graft_status read_flag(const gr_json_value *config, const char *path, const char *key, bool *out, graft_error *err) {
    const gr_json_value *v = gr_json_get(config, key);
    if (!v) return GRAFT_OK;
    if (v->kind != GR_JSON_TRUE && v->kind != GR_JSON_FALSE)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: '%s' is neither true nor false", path, key);
    *out = v->kind == GR_JSON_TRUE;
    return GRAFT_OK;
}

/* A token is its text, or an object with "content"; null is none. */
static graft_status read_token(gr_tokenizer_spec *spec, const gr_json_value *config, const char *key, const char **out,
                               graft_error *err) {
    const gr_json_value *v = gr_json_get(config, key);
    if (v && v->kind == GR_JSON_OBJECT) v = gr_json_get(v, "content");
    return v && v->kind == GR_JSON_STRING ? gr_spec_text(spec, v->text, v->len, out, err) : GRAFT_OK;
}

/* Other classes than BERT's use vocab.txt in other ways. */
static graft_status check_class(const gr_json_value *config, const char *path, graft_error *err) {
    static const char *const known[] = {"BertTokenizer",    "DistilBertTokenizer",  "ElectraTokenizer",
                                        "MobileBertTokenizer", "RetriBertTokenizer", "LayoutLMTokenizer"};
    const gr_json_value *v = gr_json_get(config, "tokenizer_class");
    if (!v || v->kind != GR_JSON_STRING) return GRAFT_OK;
    for (size_t i = 0; i < GR_COUNT(known); i++) {
        const size_t n = strlen(known[i]);
        if (!strncmp(v->text, known[i], n) && (!v->text[n] || !strcmp(v->text + n, "Fast"))) return GRAFT_OK;
    }
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                   "%s: tokenizer_class '%.60s' with a vocab.txt is not known; expected BertTokenizer", path, v->text);
}

static graft_status take_config(gr_tokenizer_spec *spec, const gr_json_value *config, const char *path, shape *s,
                                graft_error *err) {
    GR_TRY(check_class(config, path, err));
    GR_TRY(read_flag(config, path, "do_lower_case", &s->lower, err));
    GR_TRY(read_flag(config, path, "tokenize_chinese_chars", &s->chinese, err));
    const gr_json_value *strip = gr_json_get(config, "strip_accents");
    if (strip && strip->kind != GR_JSON_NULL) {
        bool on = false;
        GR_TRY(read_flag(config, path, "strip_accents", &on, err));
        s->strip_accents = on ? "true" : "false";
    }
    GR_TRY(read_token(spec, config, "cls_token", &s->cls, err));
    GR_TRY(read_token(spec, config, "sep_token", &s->sep, err));
    GR_TRY(read_token(spec, config, "unk_token", &s->unk, err));
    GR_TRY(read_token(spec, config, "pad_token", &s->pad, err));
    return read_token(spec, config, "mask_token", &s->mask, err);
}

static graft_status read_config(gr_tokenizer_spec *spec, const char *path, shape *s, graft_error *err) {
    char *text = NULL;
    size_t len;
    const gr_json_value *config;
    gr_arena arena;
    if (!gr_path_exists(path)) return GRAFT_OK;
    GR_TRY(gr_read_file(spec->a, path, MAX_CONFIG, &text, &len, err));
    gr_arena_init(&arena, spec->a, (size_t)1 << 30);
    graft_status st = gr_json_parse(&arena, path, text, len, &config, err);
    if (st == GRAFT_OK) st = take_config(spec, config, path, s, err);
    gr_arena_free(&arena);
    gr_free(spec->a, text);
    return st;
}

/* --- the description --- */

graft_status gr_tokenizer_bert_describe(gr_tokenizer_spec *spec, bool lower, const char *strip_accents, bool chinese,
                                        graft_error *err) {
    gr_buf json;
    gr_buf_init(&json, spec->a);
    gr_buf_add_format(&json,
                      "{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":%s,\"strip_accents\":%s,"
                      "\"lowercase\":%s}",
                      chinese ? "true" : "false", strip_accents, lower ? "true" : "false");
    graft_status st = gr_buf_status(&json, err);
    if (st == GRAFT_OK) st = gr_spec_text(spec, gr_buf_text(&json), json.len, &spec->normalizer, err);
    gr_buf_free(&json);
    spec->model = "WordPiece";
    spec->prefix = "##";
    spec->pre_tokenizer = "{\"type\":\"BertPreTokenizer\"}";
    spec->decoder = "{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}";
    return st;
}

graft_status gr_tokenizer_bert_template(gr_tokenizer_spec *spec, int32_t cls, int32_t sep, graft_error *err) {
    gr_buf json;
    const int32_t ids[2] = {cls, sep};
    size_t len;
    gr_buf_init(&json, spec->a);
    gr_buf_add_text(&json, "{\"type\":\"BertProcessing\"");
    for (int i = 0; i < 2; i++) {
        const char *text = gr_vocab_text(&spec->vocab, ids[i], &len);
        gr_buf_add_text(&json, i ? ",\"sep\":[" : ",\"cls\":[");
        gr_json_add_text(&json, text, len);
        gr_buf_add_format(&json, ",%d]", ids[i]);
    }
    gr_buf_add_char(&json, '}');
    graft_status st = gr_buf_status(&json, err);
    if (st == GRAFT_OK) st = gr_spec_text(spec, gr_buf_text(&json), json.len, &spec->post_processor, err);
    gr_buf_free(&json);
    return st;
}

static graft_status describe(gr_tokenizer_spec *spec, const char *path, const shape *s, graft_error *err) {
    static const char *const keys[] = {"unk_token", "cls_token", "sep_token", "pad_token", "mask_token"};
    const char *const texts[] = {s->unk, s->cls, s->sep, s->pad, s->mask};
    int32_t ids[GR_COUNT(texts)];
    for (size_t i = 0; i < GR_COUNT(texts); i++) {
        gr_added_spec t = {.text = (char *)texts[i], .len = strlen(texts[i]), .special = true};
        ids[i] = gr_vocab_find(&spec->vocab, t.text, t.len);
        if (i < 3 && ids[i] < 0)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: none of the %zu lines is '%.80s'; expected the %s", path,
                           spec->vocab.n, texts[i], keys[i]);
        if (ids[i] >= 0) GR_TRY(gr_spec_add_added(spec, &t, err));
    }
    spec->unk_token = spec->special[GRAFT_TOKEN_UNK] = s->unk;
    spec->special[GRAFT_TOKEN_CLS] = s->cls;
    spec->special[GRAFT_TOKEN_SEP] = s->sep;
    if (ids[3] >= 0) spec->special[GRAFT_TOKEN_PAD] = s->pad;
    if (ids[4] >= 0) spec->special[GRAFT_TOKEN_MASK] = s->mask;
    GR_TRY(gr_tokenizer_bert_describe(spec, s->lower, s->strip_accents, s->chinese, err));
    return gr_tokenizer_bert_template(spec, ids[1], ids[2], err);
}

graft_status gr_tokenizer_txt_read(gr_tokenizer_spec *spec, const char *path, graft_error *err) {
    shape s = {.lower = true, .chinese = true, .strip_accents = "null", .cls = "[CLS]", .sep = "[SEP]", .unk = "[UNK]",
               .pad = "[PAD]", .mask = "[MASK]"};
    const char *slash = strrchr(path, '/');
    char *dir = slash ? gr_strndup(spec->a, path, (size_t)(slash - path) + 1) : gr_strdup(spec->a, ".");
    char *config = dir ? gr_path_join(spec->a, dir, "tokenizer_config.json") : NULL;
    graft_status st = config ? read_vocab(spec, path, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) st = read_config(spec, config, &s, err);
    if (st == GRAFT_OK) st = describe(spec, path, &s, err);
    gr_free(spec->a, dir);
    gr_free(spec->a, config);
    return st;
}
