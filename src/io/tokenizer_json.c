/* tokenizer.json of the `tokenizers` library (format "1.0"). The vocabulary and the merges, nearly all of the file, are
 * pulled straight into the description; only the small components are kept as text. */
#include <math.h>

#include "base/json.h"
#include "io/tokenizer_files.h"

/* Bytes [start, end) of the value that comes next, which is passed over. */
static graft_status take_value(gr_json_reader *r, size_t *start, size_t *end, graft_error *err) {
    gr_json_peek(r);
    *start = r->at;
    GR_TRY(gr_json_skip(r, err));
    *end = r->at;
    return GRAFT_OK;
}

static graft_status take_component(gr_tokenizer_spec *spec, gr_json_reader *r, const char **out, graft_error *err) {
    size_t start, end;
    GR_TRY(take_value(r, &start, &end, err));
    return gr_spec_text(spec, r->text + start, end - start, out, err);
}

/* A string with its escapes resolved, in `buf` or where it stands. */
static graft_status meaning(const gr_json_text *t, gr_buf *buf, const char **text, size_t *len, graft_error *err) {
    *text = t->raw;
    *len = t->len;
    if (!t->escaped) return GRAFT_OK;
    gr_buf_clear(buf);
    char *to = gr_buf_reserve(buf, t->len);
    if (!to) return gr_buf_status(buf, err);
    *len = gr_json_unescape(t, to);
    *text = to;
    return GRAFT_OK;
}

/* NULL for null. */
static graft_status read_text(gr_tokenizer_spec *spec, gr_json_reader *r, const char **out, size_t *out_len,
                              graft_error *err) {
    if (gr_json_peek(r) == GR_JSON_NULL) {
        *out = NULL;
        return gr_json_skip(r, err);
    }
    gr_json_text t;
    gr_buf buf;
    const char *text;
    size_t len;
    GR_TRY(gr_json_read_text(r, &t, err));
    gr_buf_init(&buf, spec->a);
    graft_status st = meaning(&t, &buf, &text, &len, err);
    if (st == GRAFT_OK) st = gr_spec_text(spec, text, len, out, err);
    if (st == GRAFT_OK) *out_len = len;
    gr_buf_free(&buf);
    return st;
}

static graft_status read_text_or_null(gr_tokenizer_spec *spec, gr_json_reader *r, const char **out, graft_error *err) {
    size_t len;
    return read_text(spec, r, out, &len, err);
}

static graft_status read_flag(gr_json_reader *r, bool *out, graft_error *err) {
    if (gr_json_peek(r) == GR_JSON_NULL) {
        *out = false;
        return gr_json_skip(r, err);
    }
    return gr_json_read_bool(r, out, err);
}

/* {"token": id, ...} */
static graft_status read_vocab_object(gr_tokenizer_spec *spec, gr_json_reader *r, gr_buf *buf, graft_error *err) {
    if (spec->vocab.n) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: a second 'vocab'", r->name, r->at);
    GR_TRY(gr_json_open(r, GR_JSON_OBJECT, err));
    for (bool more;;) {
        GR_TRY(gr_json_next(r, &more, err));
        if (!more) return GRAFT_OK;
        gr_json_text key;
        gr_json_number id;
        const char *text;
        size_t len;
        GR_TRY(gr_json_read_key(r, &key, err));
        GR_TRY(meaning(&key, buf, &text, &len, err));
        const size_t at = r->at;
        GR_TRY(gr_json_read_number(r, &id, err));
        if (!id.is_int)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: the id of '%.*s' is not an integer", r->name, at,
                           (int)GR_MIN(len, 60), text);
        graft_status st = gr_vocab_add(&spec->vocab, id.i, text, len, err);
        if (st != GRAFT_OK) return gr_error_prefix(err, st, "%s: byte %zu", r->name, at);
    }
}

/* A number as the library reads it: the digits as an integer of 64 bits, rounded, then scaled by a power of ten, rounded
 * again (serde_json without float_roundtrip). One score in twenty differs from the nearest double, and of two ways to cut
 * a text whose sums agree but for the rounding another one would win. */
static double read_score(const char *text, const char *end) {
    const char *p = text + (*text == '-');
    uint64_t digits = 0;
    long exponent = 0;
    bool point = false, full = false;
    for (; p < end && ((*p >= '0' && *p <= '9') || *p == '.'); p++) {
        if (*p == '.') {
            point = true;
            continue;
        }
        const uint64_t digit = (uint64_t)(*p - '0');
        full |= digits > (UINT64_MAX - digit) / 10;
        if (!full) digits = digits * 10 + digit;
        exponent += !full && point ? -1 : full && !point ? 1 : 0;
    }
    if (p < end && (*p | 32) == 'e') {
        const bool negative = *++p == '-';
        long written = 0;
        for (p += *p == '-' || *p == '+'; p < end && written < 9999; p++) written = written * 10 + (*p - '0');
        exponent += negative ? -written : written;
    }
    double v = (double)digits;
    for (; exponent < -308 && v != 0; exponent += 308) v /= 1e308;
    char name[32];
    double power = 1;
    const int n = snprintf(name, sizeof name, "1e%ld", exponent < 0 ? -exponent : exponent);
    gr_parse_double(name, (size_t)n, &power);
    v = exponent < 0 ? v / power : v * power;
    return *text == '-' ? -v : v;
}

/* [["piece", score], ...], as Unigram writes it. */
static graft_status read_vocab_list(gr_tokenizer_spec *spec, gr_json_reader *r, gr_buf *buf, graft_error *err) {
    if (spec->vocab.n) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: a second 'vocab'", r->name, r->at);
    GR_TRY(gr_json_open(r, GR_JSON_ARRAY, err));
    spec->vocab.last = true; /* as the library's map has it; its trainer may write a special token twice */
    size_t cap = 0;
    for (bool more;;) {
        GR_TRY(gr_json_next(r, &more, err));
        if (!more) return GRAFT_OK;
        gr_json_text piece;
        gr_json_number score;
        const char *text;
        size_t len;
        bool end;
        GR_TRY(gr_json_open(r, GR_JSON_ARRAY, err));
        GR_TRY(gr_json_next(r, &end, err));
        GR_TRY(gr_json_read_text(r, &piece, err));
        GR_TRY(gr_json_next(r, &end, err));
        gr_json_peek(r);
        const size_t at = r->at;
        GR_TRY(gr_json_read_number(r, &score, err));
        if (isfinite(score.d)) score.d = read_score(r->text + at, r->text + r->at);
        GR_TRY(gr_json_next(r, &end, err));
        if (end) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: a piece is not [text, score]", r->name, r->at);
        GR_TRY(meaning(&piece, buf, &text, &len, err));
        const size_t id = spec->vocab.n;
        GR_TRY(gr_vocab_add(&spec->vocab, (int64_t)id, text, len, err));
        GR_TRY(gr_grow(spec->a, (void **)&spec->scores, &cap, id + 1, sizeof *spec->scores, err));
        spec->scores[id] = score.d;
    }
}

/* "left right": exactly one space. */
static graft_status add_written_merge(gr_tokenizer_spec *spec, const gr_json_reader *r, const char *text, size_t len,
                                      graft_error *err) {
    if (len >= 8 && !memcmp(text, "#version", 8)) return GRAFT_OK;
    const char *space = memchr(text, ' ', len);
    if (!space || memchr(space + 1, ' ', len - (size_t)(space + 1 - text)))
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: merge '%.*s' is not two tokens", r->name, r->at,
                       (int)GR_MIN(len, 80), text);
    return gr_spec_add_merge(spec, text, (size_t)(space - text), space + 1, len - (size_t)(space + 1 - text), err);
}

static graft_status read_merge(gr_tokenizer_spec *spec, gr_json_reader *r, gr_buf buf[2], graft_error *err) {
    gr_json_text t[2];
    const char *text[2];
    size_t len[2];
    if (gr_json_peek(r) == GR_JSON_STRING) {
        GR_TRY(gr_json_read_text(r, &t[0], err));
        GR_TRY(meaning(&t[0], &buf[0], &text[0], &len[0], err));
        return add_written_merge(spec, r, text[0], len[0], err);
    }
    bool more;
    GR_TRY(gr_json_open(r, GR_JSON_ARRAY, err));
    for (int i = 0; i < 2; i++) {
        GR_TRY(gr_json_next(r, &more, err));
        if (!more) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: a merge of %d tokens", r->name, r->at, i);
        GR_TRY(gr_json_read_text(r, &t[i], err));
        GR_TRY(meaning(&t[i], &buf[i], &text[i], &len[i], err));
    }
    GR_TRY(gr_json_next(r, &more, err));
    if (more) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: a merge of more than two tokens", r->name, r->at);
    return gr_spec_add_merge(spec, text[0], len[0], text[1], len[1], err);
}

static graft_status read_merges(gr_tokenizer_spec *spec, gr_json_reader *r, gr_buf buf[2], graft_error *err) {
    GR_TRY(gr_json_open(r, GR_JSON_ARRAY, err));
    for (bool more;;) {
        GR_TRY(gr_json_next(r, &more, err));
        if (!more) return GRAFT_OK;
        GR_TRY(read_merge(spec, r, buf, err));
    }
}

static graft_status read_count(gr_json_reader *r, const char *key, int64_t *out, graft_error *err) {
    gr_json_number n;
    if (gr_json_peek(r) == GR_JSON_NULL) return gr_json_skip(r, err);
    const size_t at = r->at;
    GR_TRY(gr_json_read_number(r, &n, err));
    if (!n.is_int || n.i < 0)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: '%s' is %g; expected a whole number", r->name, at, key, n.d);
    *out = n.i;
    return GRAFT_OK;
}

static graft_status read_model_field(gr_tokenizer_spec *spec, gr_json_reader *r, const gr_json_text *key,
                                     gr_buf buf[2], graft_error *err) {
    if (gr_json_text_is(key, "vocab"))
        return gr_json_peek(r) == GR_JSON_ARRAY ? read_vocab_list(spec, r, &buf[0], err)
                                                : read_vocab_object(spec, r, &buf[0], err);
    if (gr_json_text_is(key, "merges")) return read_merges(spec, r, buf, err);
    if (gr_json_text_is(key, "type")) return read_text_or_null(spec, r, &spec->model, err);
    if (gr_json_text_is(key, "unk_token")) return read_text_or_null(spec, r, &spec->unk_token, err);
    if (gr_json_text_is(key, "unk_id")) return read_count(r, "unk_id", &spec->unk_id, err);
    if (gr_json_text_is(key, "max_input_chars_per_word"))
        return read_count(r, "max_input_chars_per_word", &spec->max_input_chars, err);
    if (gr_json_text_is(key, "continuing_subword_prefix")) return read_text_or_null(spec, r, &spec->prefix, err);
    if (gr_json_text_is(key, "end_of_word_suffix")) return read_text_or_null(spec, r, &spec->suffix, err);
    if (gr_json_text_is(key, "fuse_unk")) return read_flag(r, &spec->fuse_unk, err);
    if (gr_json_text_is(key, "byte_fallback")) return read_flag(r, &spec->byte_fallback, err);
    if (gr_json_text_is(key, "ignore_merges")) return read_flag(r, &spec->ignore_merges, err);
    return gr_json_skip(r, err);
}

static graft_status read_model(gr_tokenizer_spec *spec, gr_json_reader *r, graft_error *err) {
    gr_buf buf[2];
    gr_buf_init(&buf[0], spec->a);
    gr_buf_init(&buf[1], spec->a);
    graft_status st = gr_json_open(r, GR_JSON_OBJECT, err);
    for (bool more = true; st == GRAFT_OK;) {
        gr_json_text key;
        if ((st = gr_json_next(r, &more, err)) != GRAFT_OK || !more) break;
        if ((st = gr_json_read_key(r, &key, err)) == GRAFT_OK) st = read_model_field(spec, r, &key, buf, err);
    }
    gr_buf_free(&buf[0]);
    gr_buf_free(&buf[1]);
    /* Files from before 2021 do not name the model. */
    if (st == GRAFT_OK && !spec->model) spec->model = spec->scores ? "Unigram" : spec->n_merges ? "BPE" : "WordPiece";
    return st;
}

static graft_status read_added(gr_tokenizer_spec *spec, gr_json_reader *r, graft_error *err) {
    bool more;
    const char *content = NULL;
    gr_added_spec token = {.normalized = true};
    GR_TRY(gr_json_open(r, GR_JSON_OBJECT, err));
    for (;;) {
        gr_json_text key;
        GR_TRY(gr_json_next(r, &more, err));
        if (!more) break;
        GR_TRY(gr_json_read_key(r, &key, err));
        if (gr_json_text_is(&key, "content")) GR_TRY(read_text(spec, r, &content, &token.len, err));
        else if (gr_json_text_is(&key, "special")) GR_TRY(read_flag(r, &token.special, err));
        else if (gr_json_text_is(&key, "normalized")) GR_TRY(read_flag(r, &token.normalized, err));
        else if (gr_json_text_is(&key, "lstrip")) GR_TRY(read_flag(r, &token.lstrip, err));
        else if (gr_json_text_is(&key, "rstrip")) GR_TRY(read_flag(r, &token.rstrip, err));
        else if (gr_json_text_is(&key, "single_word")) GR_TRY(read_flag(r, &token.single_word, err));
        else GR_TRY(gr_json_skip(r, err));
    }
    if (!content) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: an added token without content", r->name, r->at);
    token.text = (char *)content;
    return gr_spec_add_added(spec, &token, err);
}

static graft_status read_added_list(gr_tokenizer_spec *spec, gr_json_reader *r, graft_error *err) {
    if (gr_json_peek(r) == GR_JSON_NULL) return gr_json_skip(r, err);
    GR_TRY(gr_json_open(r, GR_JSON_ARRAY, err));
    for (bool more;;) {
        GR_TRY(gr_json_next(r, &more, err));
        if (!more) return GRAFT_OK;
        GR_TRY(read_added(spec, r, err));
    }
}

static graft_status read_file(gr_tokenizer_spec *spec, gr_json_reader *r, graft_error *err) {
    GR_TRY(gr_json_open(r, GR_JSON_OBJECT, err));
    bool has_model = false;
    for (bool more;;) {
        gr_json_text key;
        GR_TRY(gr_json_next(r, &more, err));
        if (!more) break;
        GR_TRY(gr_json_read_key(r, &key, err));
        if (gr_json_text_is(&key, "model")) {
            if (has_model) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: a second 'model'", r->name, r->at);
            has_model = true;
            GR_TRY(read_model(spec, r, err));
        } else if (gr_json_text_is(&key, "added_tokens")) {
            GR_TRY(read_added_list(spec, r, err));
        } else if (gr_json_text_is(&key, "normalizer")) {
            GR_TRY(take_component(spec, r, &spec->normalizer, err));
        } else if (gr_json_text_is(&key, "pre_tokenizer")) {
            GR_TRY(take_component(spec, r, &spec->pre_tokenizer, err));
        } else if (gr_json_text_is(&key, "post_processor")) {
            GR_TRY(take_component(spec, r, &spec->post_processor, err));
        } else if (gr_json_text_is(&key, "decoder")) {
            GR_TRY(take_component(spec, r, &spec->decoder, err));
        } else {
            GR_TRY(gr_json_skip(r, err));
        }
    }
    GR_TRY(gr_json_end(r, err));
    return has_model ? GRAFT_OK : gr_fail(err, GRAFT_ERR_FORMAT, "%s: no 'model'", r->name);
}

graft_status gr_tokenizer_json_read(gr_tokenizer_spec *spec, const char *path, const char *text, size_t len,
                                    graft_error *err) {
    gr_json_reader r;
    gr_json_init(&r, path, text, len);
    /* A token with its id and its merge take about 40 bytes. */
    GR_TRY(gr_vocab_reserve(&spec->vocab, len / 64 + 16, len / 8 + 16, err));
    return read_file(spec, &r, err);
}

graft_status gr_tokenizer_vocab_json_read(gr_tokenizer_spec *spec, const char *path, const char *text, size_t len,
                                          graft_error *err) {
    gr_json_reader r;
    gr_buf buf;
    gr_buf_init(&buf, spec->a);
    gr_json_init(&r, path, text, len);
    graft_status st = read_vocab_object(spec, &r, &buf, err);
    if (st == GRAFT_OK) st = gr_json_end(&r, err);
    gr_buf_free(&buf);
    return st;
}
