/* SentencePiece models (tokenizer.model): a protobuf message ModelProto (sentencepiece_model.proto) with the pieces (1),
 * the trainer's settings (2) and the normaliser's (3). Read with a few lines of wire-format reader instead of a
 * protobuf library. */
#include "base/json.h"
#include "io/tokenizer_files.h"

typedef struct wire {
    const char *path;
    const unsigned char *p, *end, *start;
    graft_error *err;
} wire;

typedef struct field {
    uint32_t number, type; /* type: 0 varint, 1 64 bits, 2 bytes, 5 32 bits */
    uint64_t value;
    const unsigned char *data;
    size_t len;
} field;

static graft_status broken(const wire *w, const char *what) {
    return gr_fail(w->err, GRAFT_ERR_FORMAT, "%s: byte %zu: %s", w->path, (size_t)(w->p - w->start), what);
}

static graft_status read_varint(wire *w, uint64_t *out) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (w->p == w->end) return broken(w, "the file ends inside a number");
        const unsigned char b = *w->p++;
        value |= (uint64_t)(b & 0x7F) << shift;
        if (!(b & 0x80)) {
            *out = value;
            return GRAFT_OK;
        }
    }
    return broken(w, "a number of more than 10 bytes");
}

static graft_status read_field(wire *w, field *f) {
    uint64_t tag;
    GR_TRY(read_varint(w, &tag));
    *f = (field){.number = (uint32_t)(tag >> 3), .type = (uint32_t)(tag & 7)};
    size_t len = f->type == 1 ? 8 : f->type == 5 ? 4 : 0;
    if (f->type == 0) return read_varint(w, &f->value);
    if (f->type == 2) {
        uint64_t n;
        GR_TRY(read_varint(w, &n));
        if (n > (uint64_t)(w->end - w->p)) return broken(w, "a field reaches beyond the end");
        len = (size_t)n;
    } else if (len == 0) {
        return broken(w, "a field of unknown type");
    }
    if (len > (size_t)(w->end - w->p)) return broken(w, "a field reaches beyond the end");
    f->data = w->p;
    f->len = len;
    w->p += len;
    return GRAFT_OK;
}

static wire inside(const wire *w, const field *f) {
    wire in = *w;
    in.p = f->data;
    in.end = f->data + f->len;
    return in;
}

static float as_float(const field *f) {
    float v;
    uint32_t bits = (uint32_t)f->data[0] | (uint32_t)f->data[1] << 8 | (uint32_t)f->data[2] << 16 | (uint32_t)f->data[3] << 24;
    memcpy(&v, &bits, sizeof v);
    return v;
}

enum { UNIGRAM = 1, BPE = 2 };

typedef struct settings {
    int64_t model_type; /* UNIGRAM, BPE, 3 word, 4 char */
    bool byte_fallback, whitespace_suffix;
    int64_t bos, eos, unk, pad;
    gr_piece_rules rules;
    size_t scores_cap, types_cap;
} settings;

static graft_status read_piece(gr_tokenizer_spec *spec, settings *s, wire w, graft_error *err) {
    const char *text = "";
    size_t len = 0;
    float score = 0;
    uint64_t type = GR_TOKEN_NORMAL;
    while (w.p < w.end) {
        field f;
        GR_TRY(read_field(&w, &f));
        if (f.number == 1 && f.type == 2) {
            text = (const char *)f.data;
            len = f.len;
        } else if (f.number == 2 && f.type == 5) {
            score = as_float(&f);
        } else if (f.number == 3 && f.type == 0) {
            type = f.value;
        }
    }
    if (!gr_utf8_valid(text, len)) return broken(&w, "a piece is not valid UTF-8");
    const size_t id = spec->vocab.n;
    GR_TRY(gr_vocab_add(&spec->vocab, (int64_t)id, text, len, err));
    GR_TRY(gr_grow(spec->a, (void **)&spec->scores, &s->scores_cap, id + 1, sizeof *spec->scores, err));
    GR_TRY(gr_grow(spec->a, (void **)&spec->types, &s->types_cap, id + 1, 1, err));
    spec->scores[id] = score;
    spec->types[id] = type >= 1 && type <= GR_TOKEN_BYTE ? (uint8_t)type : GR_TOKEN_UNDEFINED;
    return GRAFT_OK;
}

static graft_status read_trainer(settings *s, wire w) {
    while (w.p < w.end) {
        field f;
        GR_TRY(read_field(&w, &f));
        if (f.type != 0) continue;
        const int64_t v = (int64_t)(int32_t)f.value;
        switch (f.number) {
        case 3: s->model_type = v; break;
        case 24: s->whitespace_suffix = v; break;
        case 35: s->byte_fallback = v; break;
        case 40: s->unk = v; break;
        case 41: s->bos = v; break;
        case 42: s->eos = v; break;
        case 43: s->pad = v; break;
        default: break;
        }
    }
    return GRAFT_OK;
}

static graft_status read_normalizer(settings *s, wire w) {
    while (w.p < w.end) {
        field f;
        GR_TRY(read_field(&w, &f));
        if (f.number == 2 && f.type == 2) {
            s->rules.charsmap = f.data;
            s->rules.n_charsmap = f.len;
        } else if (f.type == 0 && f.number == 3) {
            s->rules.dummy_prefix = f.value != 0;
        } else if (f.type == 0 && f.number == 4) {
            s->rules.remove_extra = f.value != 0;
        } else if (f.type == 0 && f.number == 5) {
            s->rules.escape = f.value != 0;
        }
    }
    return GRAFT_OK;
}

static void add_base64(gr_buf *out, const unsigned char *p, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        const size_t left = n - i;
        const uint32_t v = (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);
        const char four[4] = {digits[v >> 18], digits[v >> 12 & 63], left > 1 ? digits[v >> 6 & 63] : '=',
                              left > 2 ? digits[v & 63] : '='};
        gr_buf_add(out, four, 4);
    }
}

/* User-defined pieces pass the character map unchanged. */
static void add_kept(const gr_tokenizer_spec *spec, gr_buf *out) {
    bool first = true;
    for (size_t id = 0; id < spec->vocab.n; id++) {
        size_t len;
        const char *text = gr_vocab_text(&spec->vocab, (int64_t)id, &len);
        if (spec->types[id] != GR_TOKEN_USER_DEFINED || len == 0) continue;
        gr_buf_add_text(out, first ? ",\"keep\":[" : ",");
        gr_json_add_text(out, text, len);
        first = false;
    }
    if (!first) gr_buf_add_char(out, ']');
}

/* sentencepiece/src/normalizer.cc: character map, superfluous spaces, dummy prefix, U+2581 for spaces. */
static void add_normalizer(const gr_tokenizer_spec *spec, const gr_piece_rules *s, gr_buf *out) {
    gr_buf_add_text(out, "{\"type\":\"Sequence\",\"normalizers\":[");
    if (s->n_charsmap) {
        gr_buf_add_text(out, "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"");
        add_base64(out, s->charsmap, s->n_charsmap);
        gr_buf_add_text(out, "\",\"longest_match\":true");
        if (s->keep) add_kept(spec, out);
        gr_buf_add_text(out, "},");
    }
    if (s->remove_extra)
        gr_buf_add_text(out, "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\A +|(?<= ) +\"},\"content\":\"\"},");
    if (s->dummy_prefix) gr_buf_add_text(out, "{\"type\":\"Prepend\",\"prepend\":\" \"},");
    const char *space = s->escape ? "\xE2\x96\x81" : " ";
    gr_buf_add_format(out, "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"%s\"}", space);
    /* SentencePiece takes U+2581 of the text itself for a space at the end, too. */
    if (s->remove_extra)
        gr_buf_add_format(out, ",{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"%s+\\\\z\"},\"content\":\"\"}", space);
    gr_buf_add_text(out, "]}");
}

static graft_status component(gr_tokenizer_spec *spec, gr_buf *json, const char **out, graft_error *err) {
    GR_TRY(gr_buf_status(json, err));
    GR_TRY(gr_spec_text(spec, gr_buf_text(json), json->len, out, err));
    gr_buf_clear(json);
    return GRAFT_OK;
}

graft_status gr_tokenizer_pieces_describe(gr_tokenizer_spec *spec, const gr_piece_rules *s, graft_error *err) {
    gr_buf json;
    gr_buf_init(&json, spec->a);
    add_normalizer(spec, s, &json);
    graft_status st = component(spec, &json, &spec->normalizer, err);
    gr_buf_add_format(&json,
                      "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xE2\x96\x81\"},"
                      "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}%s]}",
                      s->remove_extra   ? ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1000000,\"stop\":0}"
                      : s->dummy_prefix ? ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"
                                        : "");
    if (st == GRAFT_OK) st = component(spec, &json, &spec->decoder, err);
    gr_buf_free(&json);
    return st;
}

static void take_id(gr_tokenizer_spec *spec, graft_special_token which, int64_t id) {
    if (id >= 0 && (uint64_t)id < spec->vocab.n) spec->special_id[which] = (int32_t)id;
}

/* The unknown piece is the one of that kind, whatever the trainer's settings say. */
static graft_status choose_model(gr_tokenizer_spec *spec, const settings *s, const char *path, graft_error *err) {
    static const char *const kinds[] = {"", "unigram", "BPE", "word", "char"};
    if (s->model_type != UNIGRAM && s->model_type != BPE)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: SentencePiece model of type %s; expected unigram or BPE", path,
                       s->model_type >= 1 && s->model_type <= 4 ? kinds[s->model_type] : "?");
    if (s->whitespace_suffix)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: treat_whitespace_as_suffix is not known", path);
    spec->byte_fallback = s->byte_fallback;
    if (s->model_type == BPE) {
        spec->model = "BPE";
        spec->by_scores = spec->fuse_unk = true;
        for (size_t id = 0; id < spec->vocab.n; id++)
            if (spec->scores[id] != spec->scores[id]) spec->scores[id] = 0; /* a NaN would have no place in the order */
        return GRAFT_OK;
    }
    spec->model = "Unigram";
    for (size_t id = 0; id < spec->vocab.n && spec->unk_id < 0; id++)
        if (spec->types[id] == GR_TOKEN_UNKNOWN) spec->unk_id = (int64_t)id;
    if (spec->unk_id < 0)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: none of the %zu pieces is of the kind UNKNOWN; expected one", path,
                       spec->vocab.n);
    return GRAFT_OK;
}

static graft_status finish(gr_tokenizer_spec *spec, settings *s, const char *path, graft_error *err) {
    GR_TRY(choose_model(spec, s, path, err));
    s->rules.keep = s->model_type == UNIGRAM;
    take_id(spec, GRAFT_TOKEN_BOS, s->bos);
    take_id(spec, GRAFT_TOKEN_EOS, s->eos);
    take_id(spec, GRAFT_TOKEN_UNK, s->unk);
    take_id(spec, GRAFT_TOKEN_PAD, s->pad);
    spec->add_bos = spec->special_id[GRAFT_TOKEN_BOS] >= 0;
    spec->add_eos = 0;
    const char *unk = gr_vocab_text(&spec->vocab, s->unk, NULL);
    if (unk) GR_TRY(gr_spec_text(spec, unk, strlen(unk), &spec->unk_token, err));
    for (size_t id = 0; id < spec->vocab.n; id++) {
        const int type = spec->types[id];
        gr_added_spec t = {.special = type == GR_TOKEN_CONTROL || type == GR_TOKEN_UNKNOWN};
        t.text = (char *)gr_vocab_text(&spec->vocab, (int64_t)id, &t.len);
        /* Unigram finds user-defined pieces itself. */
        if (t.len && (t.special || (type == GR_TOKEN_USER_DEFINED && s->model_type == BPE)))
            GR_TRY(gr_spec_add_added(spec, &t, err));
    }
    return gr_tokenizer_pieces_describe(spec, &s->rules, err);
}

graft_status gr_tokenizer_model_read(gr_tokenizer_spec *spec, const char *path, const void *data, size_t size,
                                     graft_error *err) {
    wire w = {.path = path, .p = data, .start = data, .end = (const unsigned char *)data + size, .err = err};
    settings s = {.model_type = UNIGRAM, .bos = 1, .eos = 2, .pad = -1};
    s.rules = (gr_piece_rules){.dummy_prefix = true, .remove_extra = true, .escape = true};
    while (w.p < w.end) {
        field f;
        GR_TRY(read_field(&w, &f));
        if (f.type != 2) continue;
        if (f.number == 1) GR_TRY(read_piece(spec, &s, inside(&w, &f), err));
        else if (f.number == 2) GR_TRY(read_trainer(&s, inside(&w, &f)));
        else if (f.number == 3) GR_TRY(read_normalizer(&s, inside(&w, &f)));
    }
    if (spec->vocab.n == 0) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: no pieces: not a SentencePiece model", path);
    return finish(spec, &s, path, err);
}
