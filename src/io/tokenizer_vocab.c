/* vocab.json and merges.txt, the older form of byte-level BPE tokenizers. What tokenizer.json would say about the chain
 * follows from the tokenizer's class (transformers 5.23: GPT2Tokenizer, RobertaTokenizer, Qwen2Tokenizer). */
#include "base/json.h"
#include "io/gguf_pre.h"
#include "io/tokenizer_files.h"

enum { MAX_CONFIG = 64 << 20 };

static graft_status read_vocab(gr_tokenizer_spec *spec, const char *path, graft_error *err) {
    gr_mapping m;
    GR_TRY(gr_map_file(path, &m, err));
    graft_status st = gr_tokenizer_vocab_json_read(spec, path, (const char *)m.data, m.size, err);
    gr_unmap_file(&m);
    return st;
}

static graft_status read_lines(gr_tokenizer_spec *spec, const char *path, const char *text, size_t len,
                               graft_error *err) {
    size_t line = 1;
    if (!gr_utf8_valid(text, len)) return gr_fail(err, GRAFT_ERR_FORMAT, "%s is not valid UTF-8", path);
    for (size_t i = 0; i < len; line++) {
        const char *end = memchr(text + i, '\n', len - i);
        size_t stop = end ? (size_t)(end - text) : len, next = stop + 1;
        if (stop > i && text[stop - 1] == '\r') stop--;
        const char *space = memchr(text + i, ' ', stop - i);
        const bool comment = stop - i >= 8 && !memcmp(text + i, "#version", 8);
        if (stop > i && !comment) {
            const size_t left = space ? (size_t)(space - text) : stop;
            if (!space || memchr(space + 1, ' ', stop - left - 1))
                return gr_fail(err, GRAFT_ERR_FORMAT, "%s: line %zu is not two tokens", path, line);
            GR_TRY(gr_spec_add_merge(spec, text + i, left - i, space + 1, stop - left - 1, err));
        }
        i = next;
    }
    return GRAFT_OK;
}

static graft_status read_merges(gr_tokenizer_spec *spec, const char *path, graft_error *err) {
    gr_mapping m;
    GR_TRY(gr_map_file(path, &m, err));
    graft_status st = read_lines(spec, path, (const char *)m.data, m.size, err);
    gr_unmap_file(&m);
    return st;
}

typedef struct shape {
    bool qwen2, roberta, prefix_space;
    int32_t sep, cls;
} shape;

static bool is_class(const gr_json_value *config, const char *name) {
    const gr_json_value *v = gr_json_get(config, "tokenizer_class");
    return v && v->kind == GR_JSON_STRING && !strncmp(v->text, name, strlen(name));
}

static graft_status read_shape(gr_tokenizer_spec *spec, const char *path, shape *out, graft_error *err) {
    char *text = NULL;
    size_t len;
    const gr_json_value *config;
    gr_arena arena;
    if (!gr_path_exists(path)) return GRAFT_OK;
    GR_TRY(gr_read_file(spec->a, path, MAX_CONFIG, &text, &len, err));
    gr_arena_init(&arena, spec->a, (size_t)1 << 30);
    graft_status st = gr_json_parse(&arena, path, text, len, &config, err);
    if (st == GRAFT_OK) {
        const gr_json_value *prefix = gr_json_get(config, "add_prefix_space");
        out->qwen2 = is_class(config, "Qwen2Tokenizer");
        out->roberta = is_class(config, "RobertaTokenizer") || is_class(config, "BartTokenizer") ||
                       is_class(config, "LongformerTokenizer");
        out->prefix_space = prefix && prefix->kind == GR_JSON_TRUE;
    }
    gr_arena_free(&arena);
    gr_free(spec->a, text);
    return st;
}

static graft_status describe(gr_tokenizer_spec *spec, const shape *s, graft_error *err) {
    gr_buf json;
    const gr_gguf_pre *pre;
    GR_TRY(gr_gguf_pre_find("qwen2", 5, &pre, err));
    gr_buf_init(&json, spec->a);
    spec->model = "BPE";
    spec->decoder = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}";
    if (s->qwen2) {
        spec->normalizer = "{\"type\":\"NFC\"}";
        gr_gguf_pre_json(pre, &json);
    } else {
        gr_buf_add_format(&json, "{\"type\":\"ByteLevel\",\"add_prefix_space\":%s,\"trim_offsets\":true,\"use_regex\":true}",
                          s->prefix_space ? "true" : "false");
    }
    graft_status st = gr_buf_status(&json, err);
    if (st == GRAFT_OK) st = gr_spec_text(spec, gr_buf_text(&json), json.len, &spec->pre_tokenizer, err);
    gr_buf_clear(&json);
    if (st == GRAFT_OK && s->roberta) {
        const int32_t cls = gr_vocab_find(&spec->vocab, "<s>", 3), sep = gr_vocab_find(&spec->vocab, "</s>", 4);
        gr_buf_add_format(&json,
                          "{\"type\":\"RobertaProcessing\",\"sep\":[\"</s>\",%d],\"cls\":[\"<s>\",%d],"
                          "\"trim_offsets\":true,\"add_prefix_space\":%s}",
                          sep, cls, s->prefix_space ? "true" : "false");
        st = gr_buf_status(&json, err);
        if (st == GRAFT_OK) st = gr_spec_text(spec, gr_buf_text(&json), json.len, &spec->post_processor, err);
    }
    gr_buf_free(&json);
    return st;
}

/* The transformers classes' own default tokens, for directories whose configuration names none. */
static graft_status add_default_tokens(gr_tokenizer_spec *spec, const shape *s, graft_error *err) {
    static const char *const gpt2[] = {"<|endoftext|>"};
    static const char *const roberta[] = {"<s>", "<pad>", "</s>", "<unk>", "<mask>"};
    const char *const *list = s->roberta ? roberta : gpt2;
    const size_t n = s->roberta ? GR_COUNT(roberta) : GR_COUNT(gpt2);
    for (size_t i = 0; i < n; i++) {
        gr_added_spec t = {.text = (char *)list[i], .len = strlen(list[i]), .special = true};
        t.lstrip = s->roberta && i == 4;
        if (gr_vocab_find(&spec->vocab, t.text, t.len) >= 0) GR_TRY(gr_spec_add_added(spec, &t, err));
    }
    spec->special[GRAFT_TOKEN_BOS] = s->roberta ? "<s>" : s->qwen2 ? NULL : "<|endoftext|>";
    spec->special[GRAFT_TOKEN_EOS] = s->roberta ? "</s>" : "<|endoftext|>";
    spec->special[GRAFT_TOKEN_UNK] = s->roberta ? "<unk>" : "<|endoftext|>";
    if (s->roberta || s->qwen2) spec->special[GRAFT_TOKEN_PAD] = s->roberta ? "<pad>" : "<|endoftext|>";
    return GRAFT_OK;
}

static graft_status read_all(gr_tokenizer_spec *spec, const char *vocab, const char *merges, const char *config,
                             graft_error *err) {
    shape s = {0};
    if (!gr_path_exists(merges)) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s lies beside no merges.txt", vocab);
    GR_TRY(read_vocab(spec, vocab, err));
    GR_TRY(read_merges(spec, merges, err));
    GR_TRY(read_shape(spec, config, &s, err));
    GR_TRY(gr_vocab_index(&spec->vocab, err));
    GR_TRY(describe(spec, &s, err));
    return add_default_tokens(spec, &s, err);
}

graft_status gr_tokenizer_vocab_read(gr_tokenizer_spec *spec, const char *path, graft_error *err) {
    const char *slash = strrchr(path, '/');
    char *dir = slash ? gr_strndup(spec->a, path, (size_t)(slash - path) + 1) : gr_strdup(spec->a, ".");
    char *merges = dir ? gr_path_join(spec->a, dir, "merges.txt") : NULL;
    char *config = dir ? gr_path_join(spec->a, dir, "tokenizer_config.json") : NULL;
    graft_status st = merges && config ? read_all(spec, path, merges, config, err) : gr_fail_memory(err);
    gr_free(spec->a, dir);
    gr_free(spec->a, merges);
    gr_free(spec->a, config);
    return st;
}
