/* The chain of decoders.
 *
 * The reference maps lists of tokens to lists of tokens and joins the last. Here a stage receives its tokens in parts
 * (`put`, with a mark on the last part of a token) and passes on the tokens that it makes the same way; what depends on
 * later tokens it holds until they come. Only ByteLevel and Fuse make one token of many: they pass on parts. */
#define _GNU_SOURCE /* memmem */
#include "text/decoder.h"
#include "text/json_field.h"
#include "text/bytelevel.h"

enum { MAX_STAGES = 32, MAX_DEPTH = 16 };

typedef enum kind { BPE_SUFFIX, BYTE_FALLBACK, BYTE_LEVEL, CTC, FUSE, METASPACE, REPLACE, STRIP, WORDPIECE, JOIN } kind;

typedef struct stage {
    kind kind;
    gr_regex *regex;     /* REPLACE */
    char *text, *text2;  /* REPLACE: content; BPE_SUFFIX, WORDPIECE: affix; CTC: pad token, word delimiter */
    size_t n_text;
    int32_t cp;          /* STRIP, METASPACE */
    size_t start, stop;  /* STRIP */
    bool flag;           /* METASPACE: drops spaces of the first token; CTC, WORDPIECE: cleans up */
} stage;

struct gr_decoder {
    const graft_allocator *a;
    stage stages[MAX_STAGES];
    size_t n;
};

typedef struct stage_state {
    gr_buf part;   /* the parts of the token that is coming in */
    gr_buf held;   /* see each stage */
    gr_buf made;   /* the token that is going out */
    size_t count;  /* tokens seen */
    size_t bytes;  /* BYTE_FALLBACK: bytes in held */
    bool waiting;  /* a whole token is in held */
} stage_state;

struct gr_decoding {
    const graft_allocator *a;
    const gr_decoder *d;
    gr_regex_state regex;
    gr_buf scratch; /* of clean_up */
    gr_buf *out;
    stage_state states[MAX_STAGES];
};

static const char replacement[] = "\xEF\xBF\xBD";

static graft_status put(gr_decoding *g, size_t k, const char *text, size_t n, bool last, graft_error *err);

static graft_status pass_buf(gr_decoding *g, size_t k, const gr_buf *b, graft_error *err) {
    GR_TRY(gr_buf_status(b, err));
    return put(g, k + 1, gr_buf_text(b), b->len, true, err);
}

/* --- helpers on text --- */

/* Every occurrence of `what` in text, replaced. */
static void add_replaced(gr_buf *out, const char *text, size_t n, const char *what, const char *with) {
    const size_t n_what = strlen(what);
    size_t at = 0;
    while (n_what > 0 && at < n) {
        const char *hit = memmem(text + at, n - at, what, n_what);
        if (!hit) break;
        gr_buf_add(out, text + at, (size_t)(hit - text) - at);
        gr_buf_add_text(out, with);
        at = (size_t)(hit - text) + n_what;
    }
    gr_buf_add(out, text + at, n - at);
}

static void swap_bufs(gr_buf *a, gr_buf *b) {
    const gr_buf swap = *a;
    *a = *b;
    *b = swap;
}

/* The English clean-up of WordPiece and CTC; in place, by way of `scratch`. */
static graft_status clean_up(gr_buf *b, gr_buf *scratch, graft_error *err) {
    static const char *const rules[][2] = {
        {" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"},
        {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
    };
    for (size_t i = 0; i < GR_COUNT(rules); i++) {
        if (!memmem(gr_buf_text(b), b->len, rules[i][0], strlen(rules[i][0]))) continue;
        gr_buf_clear(scratch);
        add_replaced(scratch, gr_buf_text(b), b->len, rules[i][0], rules[i][1]);
        swap_bufs(b, scratch);
    }
    return gr_buf_status(b, err);
}

/* --- what a stage does with one whole token --- */

static graft_status token_wordpiece(gr_decoding *g, size_t k, const char *text, size_t n, graft_error *err) {
    const stage *s = &g->d->stages[k];
    gr_buf *b = &g->states[k].made;
    gr_buf_clear(b);
    if (g->states[k].count > 0) {
        if (n >= s->n_text && !memcmp(text, s->text, s->n_text)) {
            text += s->n_text;
            n -= s->n_text;
        } else {
            gr_buf_add_char(b, ' ');
        }
    }
    gr_buf_add(b, text, n);
    if (s->flag) GR_TRY(clean_up(b, &g->scratch, err));
    return pass_buf(g, k, b, err);
}

static graft_status token_ctc(gr_decoding *g, size_t k, const char *text, size_t n, graft_error *err) {
    const stage *s = &g->d->stages[k];
    stage_state *state = &g->states[k];
    if (state->count > 0 && state->held.len == n && !memcmp(gr_buf_text(&state->held), text, n)) return GRAFT_OK;
    gr_buf_clear(&state->held);
    gr_buf_add(&state->held, text, n);
    GR_TRY(gr_buf_status(&state->held, err));
    gr_buf *b = &g->states[k].made;
    gr_buf_clear(b);
    add_replaced(b, text, n, s->text, "");
    if (s->flag) {
        GR_TRY(clean_up(b, &g->scratch, err));
        gr_buf_clear(&g->scratch);
        add_replaced(&g->scratch, gr_buf_text(b), b->len, s->text2, " ");
        swap_bufs(b, &g->scratch);
    }
    return b->len || b->failed ? pass_buf(g, k, b, err) : GRAFT_OK;
}

static graft_status token_replace(gr_decoding *g, size_t k, const char *text, size_t n, graft_error *err) {
    const stage *s = &g->d->stages[k];
    gr_regex_iter it = gr_regex_matches(s->regex, &g->regex, text, n);
    gr_buf *b = &g->states[k].made;
    size_t at = 0;
    gr_buf_clear(b);
    for (;;) {
        bool found;
        size_t start, end;
        GR_TRY(gr_regex_next(&it, &found, &start, &end, err));
        if (!found) break;
        if (start > at) gr_buf_add(b, text + at, start - at);
        gr_buf_add(b, s->text, s->n_text);
        at = GR_MAX(at, end);
    }
    gr_buf_add(b, text + at, n - at);
    return pass_buf(g, k, b, err);
}

static graft_status token_metaspace(gr_decoding *g, size_t k, const char *text, size_t n, graft_error *err) {
    const stage *s = &g->d->stages[k];
    gr_buf *b = &g->states[k].made;
    gr_buf_clear(b);
    for (size_t i = 0; i < n;) {
        int32_t cp;
        const size_t len = gr_utf8_decode(text + i, n - i, &cp);
        if (cp != s->cp) gr_buf_add(b, text + i, len);
        else if (g->states[k].count > 0 || !s->flag) gr_buf_add_char(b, ' ');
        i += len;
    }
    return pass_buf(g, k, b, err);
}

static graft_status token_strip(gr_decoding *g, size_t k, const char *text, size_t n, graft_error *err) {
    const stage *s = &g->d->stages[k];
    char c[4];
    const size_t n_c = gr_utf8_encode((uint32_t)s->cp, c);
    for (size_t i = 0; i < s->start && n >= n_c && !memcmp(text, c, n_c); i++) {
        text += n_c;
        n -= n_c;
    }
    for (size_t i = 0; i < s->stop && n >= n_c && !memcmp(text + n - n_c, c, n_c); i++) n -= n_c;
    return put(g, k + 1, text, n, true, err);
}

/* Held: the token before, which is not the last one now. */
static graft_status token_bpe(gr_decoding *g, size_t k, const char *text, size_t n, graft_error *err) {
    stage_state *state = &g->states[k];
    if (state->waiting) {
        gr_buf *b = &g->states[k].made;
        gr_buf_clear(b);
        add_replaced(b, gr_buf_text(&state->held), state->held.len, g->d->stages[k].text, " ");
        GR_TRY(pass_buf(g, k, b, err));
    }
    state->waiting = true;
    gr_buf_clear(&state->held);
    gr_buf_add(&state->held, text, n);
    return gr_buf_status(&state->held, err);
}

static int hex(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Held: the bytes of a run of byte tokens. The run is text when it is valid as a whole, else one U+FFFD a byte. */
static graft_status flush_bytes(gr_decoding *g, size_t k, graft_error *err) {
    stage_state *state = &g->states[k];
    const size_t n = state->held.len;
    if (n == 0) return GRAFT_OK;
    if (gr_utf8_valid(state->held.data, n)) GR_TRY(put(g, k + 1, state->held.data, n, true, err));
    else for (size_t i = 0; i < n; i++) GR_TRY(put(g, k + 1, replacement, 3, true, err));
    gr_buf_clear(&state->held);
    return GRAFT_OK;
}

static graft_status token_byte_fallback(gr_decoding *g, size_t k, const char *text, size_t n, graft_error *err) {
    if (n == 6 && !memcmp(text, "<0x", 3) && text[5] == '>' && hex(text[3]) >= 0 && hex(text[4]) >= 0) {
        gr_buf_add_char(&g->states[k].held, (char)(hex(text[3]) * 16 + hex(text[4])));
        return gr_buf_status(&g->states[k].held, err);
    }
    GR_TRY(flush_bytes(g, k, err));
    return put(g, k + 1, text, n, true, err);
}

/* Held: bytes that may still become a character. */
static graft_status pass_characters(gr_decoding *g, size_t k, bool last, graft_error *err) {
    gr_buf *held = &g->states[k].held;
    GR_TRY(gr_buf_status(held, err));
    size_t i = 0, plain = 0;
    while (i < held->len) {
        int32_t cp;
        const size_t n = gr_utf8_decode(held->data + i, held->len - i, &cp);
        if (cp >= 0) {
            i += n;
            continue;
        }
        /* Cut off by the end, and a good beginning so far? Then more bytes decide. */
        const unsigned char lead = (unsigned char)held->data[i];
        const size_t want = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 1;
        if (!last && i + n == held->len && n < want && lead >= 0xC2 && lead <= 0xF4) break;
        if (i > plain) GR_TRY(put(g, k + 1, held->data + plain, i - plain, false, err));
        GR_TRY(put(g, k + 1, replacement, 3, false, err));
        i += n;
        plain = i;
    }
    if (i > plain) GR_TRY(put(g, k + 1, held->data + plain, i - plain, false, err));
    memmove(held->data, held->data + i, held->len - i);
    held->len -= i;
    return GRAFT_OK;
}

static graft_status token_byte_level(gr_decoding *g, size_t k, const char *text, size_t n, graft_error *err) {
    gr_buf *held = &g->states[k].held;
    if (!gr_bytelevel_decode(text, n, held)) gr_buf_add(held, text, n);
    return held->len || held->failed ? pass_characters(g, k, false, err) : GRAFT_OK;
}

static graft_status whole_token(gr_decoding *g, size_t k, const char *text, size_t n, graft_error *err) {
    switch (g->d->stages[k].kind) {
    case BPE_SUFFIX: return token_bpe(g, k, text, n, err);
    case BYTE_FALLBACK: return token_byte_fallback(g, k, text, n, err);
    case BYTE_LEVEL: return token_byte_level(g, k, text, n, err);
    case CTC: return token_ctc(g, k, text, n, err);
    case METASPACE: return token_metaspace(g, k, text, n, err);
    case REPLACE: return token_replace(g, k, text, n, err);
    case STRIP: return token_strip(g, k, text, n, err);
    case WORDPIECE: return token_wordpiece(g, k, text, n, err);
    case JOIN:
        if (g->states[k].count > 0) gr_buf_add_char(g->out, ' ');
        gr_buf_add(g->out, text, n);
        return GRAFT_OK;
    case FUSE: break;
    }
    return GRAFT_OK;
}

/* Strip, when it looks at the beginning only, can let a token through in parts: `bytes` counts what it took off. */
static graft_status part_strip(gr_decoding *g, size_t k, const char *text, size_t n, bool last, graft_error *err) {
    const stage *s = &g->d->stages[k];
    stage_state *state = &g->states[k];
    char c[4];
    const size_t n_c = gr_utf8_encode((uint32_t)s->cp, c);
    while (!state->waiting && n > 0) {
        if (state->bytes < s->start && n >= n_c && !memcmp(text, c, n_c)) {
            state->bytes++;
            text += n_c;
            n -= n_c;
        } else {
            state->waiting = true; /* the beginning is over */
        }
    }
    if (last) {
        state->bytes = 0;
        state->waiting = false;
        state->count++;
    }
    return n > 0 || last ? put(g, k + 1, text, n, last, err) : GRAFT_OK;
}

static graft_status put(gr_decoding *g, size_t k, const char *text, size_t n, bool last, graft_error *err) {
    if (k == g->d->n) {
        gr_buf_add(g->out, text, n);
        return GRAFT_OK;
    }
    const stage *s = &g->d->stages[k];
    stage_state *state = &g->states[k];
    if (s->kind == FUSE) return n ? put(g, k + 1, text, n, false, err) : GRAFT_OK;
    if (s->kind == STRIP && s->stop == 0) return part_strip(g, k, text, n, last, err);
    if (last && state->part.len == 0) {
        GR_TRY(whole_token(g, k, text, n, err));
        state->count++;
        return GRAFT_OK;
    }
    gr_buf_add(&state->part, text, n);
    GR_TRY(gr_buf_status(&state->part, err));
    if (!last) return GRAFT_OK;
    graft_status st = whole_token(g, k, state->part.data, state->part.len, err);
    gr_buf_clear(&state->part);
    state->count++;
    return st;
}

/* No more tokens come to stage k. */
static graft_status end_stage(gr_decoding *g, size_t k, graft_error *err) {
    stage_state *state = &g->states[k];
    gr_buf *b = &g->states[k].made;
    switch (g->d->stages[k].kind) {
    case BPE_SUFFIX:
        if (!state->waiting) return GRAFT_OK;
        gr_buf_clear(b);
        add_replaced(b, gr_buf_text(&state->held), state->held.len, g->d->stages[k].text, "");
        return pass_buf(g, k, b, err);
    case BYTE_FALLBACK: return flush_bytes(g, k, err);
    case BYTE_LEVEL:
        if (state->held.len) GR_TRY(pass_characters(g, k, true, err));
        return put(g, k + 1, "", 0, true, err);
    case FUSE: return put(g, k + 1, "", 0, true, err);
    default: return GRAFT_OK;
    }
}

graft_status gr_decoding_push(gr_decoding *g, const char *token, size_t len, gr_buf *out, graft_error *err) {
    g->out = out;
    GR_TRY(put(g, 0, token, len, true, err));
    return gr_buf_status(out, err);
}

static void reset(gr_decoding *g) {
    for (size_t i = 0; i < MAX_STAGES; i++) {
        stage_state *s = &g->states[i];
        gr_buf_clear(&s->part);
        gr_buf_clear(&s->held);
        s->count = s->bytes = 0;
        s->waiting = false;
    }
}

graft_status gr_decoding_finish(gr_decoding *g, gr_buf *out, graft_error *err) {
    g->out = out;
    graft_status st = GRAFT_OK;
    for (size_t k = 0; k < g->d->n && st == GRAFT_OK; k++) st = end_stage(g, k, err);
    reset(g);
    return st == GRAFT_OK ? gr_buf_status(out, err) : st;
}

graft_status gr_decoding_new(const graft_allocator *a, const gr_decoder *d, gr_decoding **out, graft_error *err) {
    gr_decoding *g = gr_calloc(a, 1, sizeof *g);
    if (!g) return gr_fail_memory(err);
    g->a = a;
    g->d = d;
    g->regex.a = a;
    gr_buf_init(&g->scratch, a);
    for (size_t i = 0; i < MAX_STAGES; i++) {
        gr_buf_init(&g->states[i].part, a);
        gr_buf_init(&g->states[i].held, a);
        gr_buf_init(&g->states[i].made, a);
    }
    *out = g;
    return GRAFT_OK;
}

void gr_decoding_free(gr_decoding *g) {
    if (!g) return;
    gr_buf_free(&g->scratch);
    for (size_t i = 0; i < MAX_STAGES; i++) {
        gr_buf_free(&g->states[i].part);
        gr_buf_free(&g->states[i].held);
        gr_buf_free(&g->states[i].made);
    }
    gr_regex_state_free(&g->regex);
    gr_free(g->a, g);
}

/* --- building --- */

static graft_status add(gr_decoder *d, stage s, graft_error *err) {
    if (d->n == MAX_STAGES) return gr_fail(err, GRAFT_ERR_LIMIT, "decoder: more than %d stages", MAX_STAGES);
    d->stages[d->n++] = s;
    return GRAFT_OK;
}

static graft_status set_text(gr_decoder *d, const gr_json_value *json, const char *key, const char *otherwise, char **out,
                             graft_error *err) {
    const gr_json_value *v = gr_json_get(json, key);
    size_t n = otherwise ? strlen(otherwise) : 0;
    const char *text = v ? gr_json_string(v, &n) : otherwise;
    if (!text) return gr_fail(err, GRAFT_ERR_FORMAT, "decoder: '%s' is not a string", key);
    *out = gr_strndup(d->a, text, n);
    if (!*out) return gr_fail_memory(err);
    d->stages[d->n - 1].n_text = out == &d->stages[d->n - 1].text ? n : d->stages[d->n - 1].n_text;
    return GRAFT_OK;
}

static graft_status read_char(const gr_json_value *json, const char *key, int32_t *out, graft_error *err) {
    if (!gr_json_char(gr_json_get(json, key), out))
        return gr_fail(err, GRAFT_ERR_FORMAT, "decoder: '%s' is not one character", key);
    return GRAFT_OK;
}

static graft_status build(gr_decoder *d, const gr_json_value *json, int depth, graft_error *err);

static graft_status build_bpe(gr_decoder *d, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    GR_TRY(add(d, (stage){.kind = BPE_SUFFIX}, err));
    return set_text(d, json, "suffix", "</w>", &d->stages[d->n - 1].text, err);
}

static graft_status build_byte_fallback(gr_decoder *d, const gr_json_value *json, int depth, graft_error *err) {
    (void)json, (void)depth;
    return add(d, (stage){.kind = BYTE_FALLBACK}, err);
}

static graft_status build_byte_level(gr_decoder *d, const gr_json_value *json, int depth, graft_error *err) {
    (void)json, (void)depth;
    return add(d, (stage){.kind = BYTE_LEVEL}, err);
}

static graft_status build_ctc(gr_decoder *d, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    GR_TRY(add(d, (stage){.kind = CTC, .flag = gr_json_flag(json, "cleanup", true)}, err));
    GR_TRY(set_text(d, json, "pad_token", "<pad>", &d->stages[d->n - 1].text, err));
    return set_text(d, json, "word_delimiter_token", "|", &d->stages[d->n - 1].text2, err);
}

static graft_status build_fuse(gr_decoder *d, const gr_json_value *json, int depth, graft_error *err) {
    (void)json, (void)depth;
    return add(d, (stage){.kind = FUSE}, err);
}

static graft_status build_metaspace(gr_decoder *d, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    const char *scheme = gr_json_string(gr_json_get(json, "prepend_scheme"), NULL);
    stage s = {.kind = METASPACE};
    s.flag = !(scheme && !strcmp(scheme, "never")) && gr_json_flag(json, "add_prefix_space", true);
    GR_TRY(read_char(json, "replacement", &s.cp, err));
    return add(d, s, err);
}

static graft_status build_replace(gr_decoder *d, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    GR_TRY(add(d, (stage){.kind = REPLACE}, err));
    GR_TRY(set_text(d, json, "content", NULL, &d->stages[d->n - 1].text, err));
    return gr_regex_from_json(d->a, gr_json_get(json, "pattern"), &d->stages[d->n - 1].regex, err);
}

static graft_status build_strip(gr_decoder *d, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    stage s = {.kind = STRIP};
    int64_t start = 0, stop = 0;
    if (!gr_json_integer(gr_json_get(json, "start"), &start) || !gr_json_integer(gr_json_get(json, "stop"), &stop) ||
        start < 0 || stop < 0)
        return gr_fail(err, GRAFT_ERR_FORMAT, "decoder Strip: 'start' or 'stop' is not a count");
    s.start = (size_t)start;
    s.stop = (size_t)stop;
    GR_TRY(read_char(json, "content", &s.cp, err));
    return add(d, s, err);
}

static graft_status build_wordpiece(gr_decoder *d, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    GR_TRY(add(d, (stage){.kind = WORDPIECE, .flag = gr_json_flag(json, "cleanup", true)}, err));
    return set_text(d, json, "prefix", "##", &d->stages[d->n - 1].text, err);
}

static graft_status build_sequence(gr_decoder *d, const gr_json_value *json, int depth, graft_error *err) {
    const gr_json_value *list = gr_json_get(json, "decoders"), *item;
    if (!list || list->kind != GR_JSON_ARRAY) return gr_fail(err, GRAFT_ERR_FORMAT, "decoder Sequence: 'decoders' is not a list");
    for (item = list->child; item; item = item->next) GR_TRY(build(d, item, depth + 1, err));
    return GRAFT_OK;
}

static graft_status build(gr_decoder *d, const gr_json_value *json, int depth, graft_error *err) {
    static const struct {
        const char *name;
        graft_status (*build)(gr_decoder *d, const gr_json_value *json, int depth, graft_error *err);
    } known[] = {
#define X(name, fn) {name, build_##fn},
#include "text/decoder.def"
#undef X
    };
    const char *type = gr_json_string(gr_json_get(json, "type"), NULL);
    if (!type) return gr_fail(err, GRAFT_ERR_FORMAT, "decoder: 'type' is missing");
    if (depth > MAX_DEPTH) return gr_fail(err, GRAFT_ERR_LIMIT, "decoder: nested more than %d deep", MAX_DEPTH);
    for (size_t i = 0; i < GR_COUNT(known); i++)
        if (!strcmp(type, known[i].name)) return known[i].build(d, json, depth, err);
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "decoder '%.60s' is not known", type);
}

graft_status gr_decoder_new(const graft_allocator *a, const gr_json_value *json, gr_decoder **out, graft_error *err) {
    gr_decoder *d = gr_calloc(a, 1, sizeof *d);
    if (!d) return gr_fail_memory(err);
    d->a = a;
    graft_status st = !json || json->kind == GR_JSON_NULL ? add(d, (stage){.kind = JOIN}, err) : build(d, json, 0, err);
    if (st != GRAFT_OK) {
        gr_decoder_free(d);
        return st;
    }
    *out = d;
    return GRAFT_OK;
}

void gr_decoder_free(gr_decoder *d) {
    if (!d) return;
    for (size_t i = 0; i < d->n; i++) {
        gr_regex_free(d->stages[i].regex);
        gr_free(d->a, d->stages[i].text);
        gr_free(d->a, d->stages[i].text2);
    }
    gr_free(d->a, d);
}
