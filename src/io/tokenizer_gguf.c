/* Tokenizers in GGUF metadata (tokenizer.ggml.*), read as llama.cpp reads them (llama-vocab.cpp), with these choices:
 * special tokens inside a text are found leftmost, then longest, as the tokenizers library finds them; expressions that
 * llama.cpp had to adapt are the models' own (gguf_pre.c), and so are BERT's normaliser and the sums of T5's scores. */
#include "io/gguf.h"
#include "io/gguf_pre.h"
#include "io/tokenizer_files.h"

/* tokenizer.ggml.model: "llama" (SentencePiece's BPE), "gpt2" and "gemma4", "bert" (WordPiece), "t5" (Unigram). */
typedef enum kind { PIECES, MERGES, WORDS, UNIGRAM } kind;

typedef struct reader {
    gr_tokenizer_spec *spec;
    const gr_gguf *g;
    kind kind;
    const gr_gguf_pre *pre; /* MERGES */
    gr_gguf_array tokens;
    gr_buf valid, json;
} reader;

static bool text_is(gr_text t, const char *with) { return t.len == strlen(with) && !memcmp(t.text, with, t.len); }

/* The text itself, or a copy with U+FFFD for each ill-formed sequence. */
static graft_status valid_text(reader *r, gr_text *t, graft_error *err) {
    if (gr_utf8_valid(t->text, t->len)) return GRAFT_OK;
    gr_buf_clear(&r->valid);
    for (size_t i = 0; i < t->len;) {
        int32_t cp;
        const size_t n = gr_utf8_decode(t->text + i, t->len - i, &cp);
        if (cp < 0) gr_buf_add_text(&r->valid, "\xEF\xBF\xBD");
        else gr_buf_add(&r->valid, t->text + i, n);
        i += n;
    }
    GR_TRY(gr_buf_status(&r->valid, err));
    t->text = gr_buf_text(&r->valid);
    t->len = r->valid.len;
    return GRAFT_OK;
}

/* An absent key leaves *out alone. */
static graft_status optional_bool(const gr_gguf *g, const char *key, bool *out, graft_error *err) {
    return gr_gguf_find(g, key) ? gr_gguf_get_bool(g, key, out, err) : GRAFT_OK;
}

/* An id beyond the vocabulary is passed over, as llama.cpp does. */
static graft_status optional_id(const reader *r, const char *key, int32_t *out, graft_error *err) {
    int64_t id;
    if (!gr_gguf_find(r->g, key)) return GRAFT_OK;
    GR_TRY(gr_gguf_get_int(r->g, key, INT64_MIN, INT64_MAX, &id, err));
    if (id >= 0 && (uint64_t)id < r->tokens.n) *out = (int32_t)id;
    return GRAFT_OK;
}

#define SPACE "\xE2\x96\x81"

/* The converter writes a BERT word with U+2581 in front and a continuation without its ##; what stands in brackets is a
 * special token and stays. U+2581 alone is a continuation, for there is no empty word. */
static graft_status undo_phantom(reader *r, gr_text *t, graft_error *err) {
    const size_t n = sizeof SPACE - 1;
    if (t->len > n && !memcmp(t->text, SPACE, n)) {
        *t = (gr_text){t->text + n, t->len - n};
    } else if (!(t->len >= 2 && t->text[0] == '[' && t->text[t->len - 1] == ']')) {
        gr_buf_clear(&r->json);
        gr_buf_add_text(&r->json, "##");
        gr_buf_add(&r->json, t->text, t->len);
        GR_TRY(gr_buf_status(&r->json, err));
        *t = (gr_text){gr_buf_text(&r->json), r->json.len};
    }
    return GRAFT_OK;
}

static graft_status read_tokens(reader *r, graft_error *err) {
    GR_TRY(gr_gguf_get_array(r->g, "tokenizer.ggml.tokens", GR_GGUF_STRING, &r->tokens, err));
    if (r->tokens.n >= INT32_MAX)
        return gr_fail(err, GRAFT_ERR_LIMIT, "%s: %llu tokens", gr_gguf_path(r->g), (unsigned long long)r->tokens.n);
    GR_TRY(gr_vocab_reserve(&r->spec->vocab, r->tokens.n, r->tokens.n * 8, err));
    size_t offset = 0;
    for (uint64_t i = 0; i < r->tokens.n; i++) {
        gr_text t = gr_gguf_next_string(&r->tokens, &offset);
        char empty[32];
        if (t.len == 0) t = (gr_text){empty, (size_t)snprintf(empty, sizeof empty, "[EMPTY_%llu]", (unsigned long long)i)};
        GR_TRY(valid_text(r, &t, err));
        if (r->kind == WORDS) GR_TRY(undo_phantom(r, &t, err));
        GR_TRY(gr_vocab_add(&r->spec->vocab, (int64_t)i, t.text, t.len, err));
    }
    gr_buf_clear(&r->json);
    return GRAFT_OK;
}

static graft_status check_length(const reader *r, const gr_gguf_array *array, const char *key, graft_error *err) {
    if (array->n >= r->tokens.n) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: %s has %llu elements for %llu tokens", gr_gguf_path(r->g), key,
                   (unsigned long long)array->n, (unsigned long long)r->tokens.n);
}

static graft_status read_types(reader *r, graft_error *err) {
    static const char key[] = "tokenizer.ggml.token_type";
    gr_gguf_array types;
    const size_t n = (size_t)r->tokens.n;
    r->spec->types = gr_alloc(r->spec->a, n + 1);
    if (!r->spec->types) return gr_fail_memory(err);
    memset(r->spec->types, GR_TOKEN_NORMAL, n);
    if (!gr_gguf_find(r->g, key)) return GRAFT_OK;
    GR_TRY(gr_gguf_get_array(r->g, key, GR_GGUF_TYPE_COUNT, &types, err));
    if (types.type == GR_GGUF_STRING) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: %s holds strings", gr_gguf_path(r->g), key);
    GR_TRY(check_length(r, &types, key, err));
    for (size_t i = 0; i < n; i++) {
        const int64_t t = gr_gguf_array_int(&types, i);
        r->spec->types[i] = t > 0 && t <= GR_TOKEN_BYTE ? (uint8_t)t : GR_TOKEN_UNDEFINED;
    }
    return GRAFT_OK;
}

static graft_status read_scores(reader *r, graft_error *err) {
    static const char key[] = "tokenizer.ggml.scores";
    gr_gguf_array scores;
    if (!gr_gguf_find(r->g, key)) return GRAFT_OK;
    GR_TRY(gr_gguf_get_array(r->g, key, GR_GGUF_TYPE_COUNT, &scores, err));
    if (scores.type == GR_GGUF_STRING)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: %s holds strings", gr_gguf_path(r->g), key);
    GR_TRY(check_length(r, &scores, key, err));
    r->spec->scores = gr_alloc(r->spec->a, (size_t)(r->tokens.n + 1) * sizeof *r->spec->scores);
    if (!r->spec->scores) return gr_fail_memory(err);
    for (size_t i = 0; i < r->tokens.n; i++) {
        const double s = gr_gguf_array_float(&scores, i);
        r->spec->scores[i] = s == s || r->kind == UNIGRAM ? s : 0; /* a NaN would have no place in the order */
    }
    return GRAFT_OK;
}

/* "left right", cut at the first space behind the first byte; other forms are passed over. */
static graft_status read_merges(reader *r, graft_error *err) {
    gr_gguf_array merges;
    if (!gr_gguf_find(r->g, "tokenizer.ggml.merges")) return GRAFT_OK;
    GR_TRY(gr_gguf_get_array(r->g, "tokenizer.ggml.merges", GR_GGUF_STRING, &merges, err));
    size_t offset = 0;
    for (uint64_t i = 0; i < merges.n; i++) {
        gr_text t = gr_gguf_next_string(&merges, &offset);
        GR_TRY(valid_text(r, &t, err));
        const char *space = t.len > 1 ? memchr(t.text + 1, ' ', t.len - 1) : NULL;
        const size_t left = space ? (size_t)(space - t.text) : 0;
        if (space && left + 1 < t.len)
            GR_TRY(gr_spec_add_merge(r->spec, t.text, left, space + 1, t.len - left - 1, err));
    }
    return GRAFT_OK;
}

/* --- special tokens --- */

/* Ends of generation that files forget to name. */
static const char *const end_texts[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
    "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
};
/* Parts of OpenAI's harmony format, which every reader of a text wants to see. */
static const char *const shown_texts[] = {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"};

static int32_t find(const reader *r, const char *text) { return gr_vocab_find(&r->spec->vocab, text, strlen(text)); }

static graft_status mark_ends(reader *r, graft_error *err) {
    gr_tokenizer_spec *s = r->spec;
    const bool harmony = (find(r, "<|call|>") >= 0 && find(r, "<|return|>") >= 0) ||
                         ((find(r, "<|call|>") >= 0 || find(r, "<|calls|>") >= 0) && find(r, "<|flush|>") >= 0);
    const bool gemma4 = find(r, "<|tool_response>") >= 0;
    for (size_t i = 0; i < GR_COUNT(end_texts); i++) {
        const int32_t id = find(r, end_texts[i]);
        if (id < 0) continue;
        if (harmony && !strcmp(end_texts[i], "<|end|>")) {
            s->types[id] = GR_TOKEN_USER_DEFINED;
        } else if (gemma4 && !strcmp(end_texts[i], "</s>")) {
            s->types[id] = GR_TOKEN_NORMAL;
        } else {
            s->types[id] = GR_TOKEN_CONTROL;
            GR_TRY(gr_spec_add_eos(s, id, err));
        }
    }
    for (size_t i = 0; i < GR_COUNT(shown_texts); i++) {
        const int32_t id = find(r, shown_texts[i]);
        if (id >= 0) s->types[id] = GR_TOKEN_USER_DEFINED;
    }
    static const char *const keys[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < GR_COUNT(keys); i++) {
        int32_t id = -1;
        GR_TRY(optional_id(r, keys[i], &id, err));
        if (id >= 0) GR_TRY(gr_spec_add_eos(s, id, err));
    }
    return GRAFT_OK;
}

static graft_status read_special_ids(reader *r, graft_error *err) {
    static const char *const keys[GR_N_SPECIAL] = {
        [GRAFT_TOKEN_BOS] = "tokenizer.ggml.bos_token_id",      [GRAFT_TOKEN_EOS] = "tokenizer.ggml.eos_token_id",
        [GRAFT_TOKEN_PAD] = "tokenizer.ggml.padding_token_id",  [GRAFT_TOKEN_UNK] = "tokenizer.ggml.unknown_token_id",
        [GRAFT_TOKEN_SEP] = "tokenizer.ggml.seperator_token_id", [GRAFT_TOKEN_CLS] = "tokenizer.ggml.cls_token_id",
        [GRAFT_TOKEN_MASK] = "tokenizer.ggml.mask_token_id",
    };
    /* BOS, EOS, PAD, UNK, SEP, CLS, MASK of files that do not say. */
    static const int32_t standard[][GR_N_SPECIAL] = {
        [PIECES] = {1, 2, -1, 0, -1, -1, -1},
        [MERGES] = {-1, -1, -1, -1, -1, -1, -1},
        [WORDS] = {-1, -1, 0, 100, 102, -1, 103},
        [UNIGRAM] = {-1, 1, 0, 2, -1, -1, -1},
    };
    gr_tokenizer_spec *s = r->spec;
    for (size_t i = 0; i < GR_N_SPECIAL; i++)
        if (standard[r->kind][i] < (int64_t)r->tokens.n) s->special_id[i] = standard[r->kind][i];
    for (size_t i = 0; i < GR_N_SPECIAL; i++) GR_TRY(optional_id(r, keys[i], &s->special_id[i], err));
    if (r->pre && (r->pre->flags & GR_PRE_NO_BOS) && !gr_gguf_find(r->g, keys[GRAFT_TOKEN_BOS]))
        s->special_id[GRAFT_TOKEN_BOS] = -1;
    if (r->kind == WORDS) return GRAFT_OK; /* [CLS] and [SEP] whatever the file says */
    bool bos = r->kind == PIECES || (r->pre && (r->pre->flags & GR_PRE_ADD_BOS)), eos = r->kind == UNIGRAM;
    GR_TRY(optional_bool(r->g, "tokenizer.ggml.add_bos_token", &bos, err));
    GR_TRY(optional_bool(r->g, "tokenizer.ggml.add_eos_token", &eos, err));
    if (r->pre && (r->pre->flags & GR_PRE_NEWLINE_TOKENS)) bos = true; /* Gemma 4 files say no and mean yes */
    s->add_bos = bos;
    s->add_eos = eos;
    return GRAFT_OK;
}

static bool name_holds(const reader *r, const char *what) {
    gr_text name;
    char lower[256];
    if (!gr_gguf_find(r->g, "general.name") || gr_gguf_get_text(r->g, "general.name", &name, NULL) != GRAFT_OK) return false;
    size_t n = GR_MIN(name.len, sizeof lower - 1);
    for (size_t i = 0; i < n; i++) {
        const char c = name.text[i];
        lower[i] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    }
    lower[n] = '\0';
    return strstr(lower, what) != NULL;
}

static bool only_newlines(const char *text, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (text[i] != '\n') return false;
    return len > 0;
}

/* Control and unknown tokens are special; user-defined ones are found in a text, too. */
static graft_status add_found_tokens(reader *r, graft_error *err) {
    gr_tokenizer_spec *s = r->spec;
    const bool phi3 = name_holds(r, "phi-3") || name_holds(r, "phi3");
    const bool newlines = r->pre && (r->pre->flags & GR_PRE_NEWLINE_TOKENS);
    for (size_t id = 0; id < s->vocab.n; id++) {
        const int type = s->types[id];
        gr_added_spec t = {.special = type == GR_TOKEN_CONTROL || type == GR_TOKEN_UNKNOWN};
        t.text = (char *)gr_vocab_text(&s->vocab, (int64_t)id, &t.len);
        const bool found = t.special || type == GR_TOKEN_USER_DEFINED || (newlines && only_newlines(t.text, t.len));
        if (!found || gr_vocab_find(&s->vocab, t.text, t.len) != (int32_t)id) continue;
        t.rstrip = phi3 && strcmp(t.text, "<unk>") && strcmp(t.text, "<s>") && strcmp(t.text, "<|endoftext|>");
        GR_TRY(gr_spec_add_added(s, &t, err));
    }
    return GRAFT_OK;
}

/* --- the chain --- */

static graft_status component(reader *r, const char **out, graft_error *err) {
    GR_TRY(gr_buf_status(&r->json, err));
    GR_TRY(gr_spec_text(r->spec, gr_buf_text(&r->json), r->json.len, out, err));
    gr_buf_clear(&r->json);
    return GRAFT_OK;
}

#define REPLACE_SPACE "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xE2\x96\x81\"}"
#define DECODE_PIECES                                                                                                  \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xE2\x96\x81\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"         \
    "{\"type\":\"Fuse\"}"

/* llama.cpp's "SPM": a space in front of each stretch of text, spaces as U+2581, merging by score. */
static graft_status describe_pieces(reader *r, graft_error *err) {
    gr_tokenizer_spec *s = r->spec;
    bool prefix = true;
    GR_TRY(optional_bool(r->g, "tokenizer.ggml.add_space_prefix", &prefix, err));
    gr_buf_add_format(&r->json, "{\"type\":\"Sequence\",\"normalizers\":[%s" REPLACE_SPACE "]}",
                      prefix ? "{\"type\":\"Prepend\",\"prepend\":\"\xE2\x96\x81\"}," : "");
    GR_TRY(component(r, &s->normalizer, err));
    gr_buf_add_format(&r->json, "{\"type\":\"Sequence\",\"decoders\":[" DECODE_PIECES "%s]}",
                      prefix ? ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}" : "");
    GR_TRY(component(r, &s->decoder, err));
    s->by_scores = s->byte_fallback = s->fuse_unk = true;
    const char *unk = gr_vocab_text(&s->vocab, s->special_id[GRAFT_TOKEN_UNK], NULL);
    return unk ? gr_spec_text(s, unk, strlen(unk), &s->unk_token, err) : GRAFT_OK;
}

static graft_status describe_words(reader *r, graft_error *err) {
    gr_tokenizer_spec *s = r->spec;
    bool lower = true, strip;
    GR_TRY(optional_bool(r->g, "tokenizer.ggml.normalizer.lowercase", &lower, err));
    strip = lower;
    GR_TRY(optional_bool(r->g, "tokenizer.ggml.normalizer.strip_accents", &strip, err));
    GR_TRY(gr_tokenizer_bert_describe(s, lower, strip ? "true" : "false", true, err));
    int32_t *id = s->special_id;
    if (id[GRAFT_TOKEN_CLS] < 0) id[GRAFT_TOKEN_CLS] = id[GRAFT_TOKEN_BOS] >= 0 ? id[GRAFT_TOKEN_BOS] : 101;
    static const struct {
        graft_special_token which;
        const char *name;
    } needed[] = {{GRAFT_TOKEN_CLS, "cls"}, {GRAFT_TOKEN_SEP, "seperator"}, {GRAFT_TOKEN_UNK, "unknown"}};
    for (size_t i = 0; i < GR_COUNT(needed); i++) {
        const int32_t at = id[needed[i].which];
        if (at < 0 || (uint64_t)at >= r->tokens.n)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: no tokenizer.ggml.%s_token_id; expected one below %llu",
                           gr_gguf_path(r->g), needed[i].name, (unsigned long long)r->tokens.n);
    }
    GR_TRY(gr_tokenizer_bert_template(s, id[GRAFT_TOKEN_CLS], id[GRAFT_TOKEN_SEP], err));
    const char *unk = gr_vocab_text(&s->vocab, id[GRAFT_TOKEN_UNK], NULL);
    return gr_spec_text(s, unk, strlen(unk), &s->unk_token, err);
}

static graft_status read_charsmap(reader *r, unsigned char **out, size_t *n, graft_error *err) {
    static const char key[] = "tokenizer.ggml.precompiled_charsmap";
    gr_gguf_array map;
    if (!gr_gguf_find(r->g, key)) return GRAFT_OK;
    GR_TRY(gr_gguf_get_array(r->g, key, GR_GGUF_TYPE_COUNT, &map, err));
    if (map.type != GR_GGUF_U8 && map.type != GR_GGUF_I8)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: %s does not hold bytes", gr_gguf_path(r->g), key);
    *out = gr_alloc(r->spec->a, (size_t)map.n + 1);
    if (!*out) return gr_fail_memory(err);
    memcpy(*out, map.data, (size_t)map.n);
    *n = (size_t)map.n;
    return GRAFT_OK;
}

/* llama.cpp's "UGM": a SentencePiece model of type unigram. */
static graft_status describe_unigram(reader *r, graft_error *err) {
    gr_tokenizer_spec *s = r->spec;
    gr_piece_rules rules = {.escape = true, .keep = true};
    unsigned char *map = NULL;
    GR_TRY(optional_bool(r->g, "tokenizer.ggml.add_space_prefix", &rules.dummy_prefix, err));
    GR_TRY(optional_bool(r->g, "tokenizer.ggml.remove_extra_whitespaces", &rules.remove_extra, err));
    s->model = "Unigram";
    s->unk_id = s->special_id[GRAFT_TOKEN_UNK];
    graft_status st = read_charsmap(r, &map, &rules.n_charsmap, err);
    rules.charsmap = map;
    if (st == GRAFT_OK) st = gr_tokenizer_pieces_describe(s, &rules, err);
    gr_free(s->a, map);
    return st;
}

static graft_status describe_merges(reader *r, graft_error *err) {
    gr_tokenizer_spec *s = r->spec;
    gr_gguf_pre_json(r->pre, &r->json);
    GR_TRY(component(r, &s->pre_tokenizer, err));
    s->lenient = true;
    s->ignore_merges = r->pre->flags & GR_PRE_IGNORE_MERGES;
    if (r->pre->flags & GR_PRE_SPACES) {
        s->byte_fallback = true;
        gr_buf_add_text(&r->json, REPLACE_SPACE);
        GR_TRY(component(r, &s->normalizer, err));
        gr_buf_add_text(&r->json, "{\"type\":\"Sequence\",\"decoders\":[" DECODE_PIECES "]}");
    } else {
        gr_buf_add_text(&r->json, "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}");
    }
    GR_TRY(component(r, &s->decoder, err));
    return read_merges(r, err);
}

static graft_status read_templates(reader *r, graft_error *err) {
    static const char key[] = "tokenizer.chat_template";
    for (size_t i = 0; i < gr_gguf_n_pairs(r->g); i++) {
        const gr_gguf_pair *p = gr_gguf_pair_at(r->g, i);
        const size_t n = sizeof key - 1;
        if (strncmp(p->key, key, n) || p->type != GR_GGUF_STRING || (p->key[n] && p->key[n] != '.')) continue;
        gr_text t;
        GR_TRY(gr_gguf_get_text(r->g, p->key, &t, err));
        GR_TRY(valid_text(r, &t, err));
        GR_TRY(gr_spec_add_template(r->spec, p->key[n] ? p->key + n + 1 : "default", t.text, t.len, err));
    }
    return GRAFT_OK;
}

static graft_status find_kind(reader *r, graft_error *err) {
    gr_text model, pre = {"default", 7};
    GR_TRY(gr_gguf_get_text(r->g, "tokenizer.ggml.model", &model, err));
    r->spec->model = "BPE";
    r->kind = text_is(model, "llama") ? PIECES : text_is(model, "bert") ? WORDS : text_is(model, "t5") ? UNIGRAM : MERGES;
    if (r->kind != MERGES) return GRAFT_OK;
    if (text_is(model, "gemma4")) pre = (gr_text){"gemma4", 6};
    else if (!text_is(model, "gpt2"))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tokenizer.ggml.model '%.*s' is not known", gr_gguf_path(r->g),
                       (int)GR_MIN(model.len, 60), model.text);
    else if (gr_gguf_find(r->g, "tokenizer.ggml.pre")) GR_TRY(gr_gguf_get_text(r->g, "tokenizer.ggml.pre", &pre, err));
    graft_status st = gr_gguf_pre_find(pre.text, pre.len, &r->pre, err);
    return st == GRAFT_OK ? st : gr_error_prefix(err, st, "%s", gr_gguf_path(r->g));
}

static graft_status read_all(reader *r, graft_error *err) {
    GR_TRY(find_kind(r, err));
    GR_TRY(read_tokens(r, err));
    GR_TRY(gr_vocab_index(&r->spec->vocab, err));
    GR_TRY(read_types(r, err));
    GR_TRY(read_scores(r, err));
    GR_TRY(read_special_ids(r, err));
    GR_TRY(mark_ends(r, err));
    if (r->kind == WORDS)
        for (size_t i = 0; i < GR_N_SPECIAL; i++)
            if (r->spec->special_id[i] >= 0) r->spec->types[r->spec->special_id[i]] = GR_TOKEN_CONTROL;
    GR_TRY(add_found_tokens(r, err));
    static graft_status (*const describe[])(reader *r, graft_error *err) = {
        [PIECES] = describe_pieces, [MERGES] = describe_merges, [WORDS] = describe_words, [UNIGRAM] = describe_unigram};
    GR_TRY(describe[r->kind](r, err));
    return read_templates(r, err);
}

graft_status gr_tokenizer_gguf_read(gr_tokenizer_spec *spec, const struct gr_gguf *gguf, graft_error *err) {
    reader r = {.spec = spec, .g = gguf};
    gr_buf_init(&r.valid, spec->a);
    gr_buf_init(&r.json, spec->a);
    graft_status st = read_all(&r, err);
    gr_buf_free(&r.valid);
    gr_buf_free(&r.json);
    return st;
}
