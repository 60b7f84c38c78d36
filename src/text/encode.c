/* Text to ids: added tokens, normaliser, pre-tokeniser, model, post-processor. */
#include "base/ctx.h"
#include "text/bytelevel.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

typedef struct encoder {
    const graft_tokenizer *tok;
    const graft_allocator *a;
    const char *text; /* the caller's */
    size_t len;
    bool spans, track, no_special;
    int32_t *ids;
    size_t n, cap;
    graft_token_span *span;
    size_t span_cap;
    gr_nstr valid; /* the text with its ill-formed bytes replaced, where it has any */
    gr_normalizer_state norm;
    gr_pretok_state pretok;
    gr_token_scratch scratch;
    const gr_piece *piece; /* what the model is at */
} encoder;

/* --- what comes out --- */

static bool is_trimmed(int32_t cp) { return cp == 0x120 || gr_cp_is_space(cp); }

static size_t next_char(const encoder *e, size_t at) {
    int32_t cp;
    return at < e->len ? at + gr_utf8_decode(e->text + at, e->len - at, &cp) : at;
}

static size_t previous_char(const encoder *e, size_t at) {
    if (at > 0) at--;
    while (at > 0 && ((unsigned char)e->text[at] & 0xC0) == 0x80) at--;
    return at;
}

/* trim_offsets of the ByteLevel post-processor: spaces at the ends of a token are no part of its span. */
static void trim(const encoder *e, const char *token, size_t n, graft_token_span *span) {
    size_t leading = 0, trailing = 0;
    int32_t cp;
    for (size_t i = 0; i < n; leading++) {
        i += gr_utf8_decode(token + i, n - i, &cp);
        if (!is_trimmed(cp)) break;
    }
    for (size_t i = n; i > 0; trailing++) {
        size_t at = i - 1;
        while (at > 0 && ((unsigned char)token[at] & 0xC0) == 0x80) at--;
        gr_utf8_decode(token + at, i - at, &cp);
        if (!is_trimmed(cp)) break;
        i = at;
    }
    /* A single space in front of the first token is the one that add_prefix_space put there. */
    const bool first = e->n == 0 || span->start == 0;
    if (first && e->tok->postproc.trim_prefix_space && leading == 1) leading = 0;
    for (; leading > 0 && span->start < span->end; leading--) span->start = next_char(e, span->start);
    if (span->start > span->end) span->start = span->end;
    for (; trailing > 0 && span->end > span->start; trailing--) span->end = previous_char(e, span->end);
    if (span->end < span->start) span->end = span->start;
}

static graft_status emit(encoder *e, int32_t id, const graft_token_span *span, graft_error *err) {
    GR_TRY(gr_grow(e->a, (void **)&e->ids, &e->cap, e->n + 1, sizeof *e->ids, err));
    if (e->spans) {
        GR_TRY(gr_grow(e->a, (void **)&e->span, &e->span_cap, e->n + 1, sizeof *e->span, err));
        e->span[e->n] = *span;
    }
    e->ids[e->n++] = id;
    return GRAFT_OK;
}

static graft_status emit_added(encoder *e, const gr_piece *p, int32_t id, size_t start, size_t end, graft_error *err) {
    graft_token_span span = {0};
    if (e->spans) {
        gr_piece_span(p, start, end, &span.start, &span.end);
        if (e->tok->postproc.trim) trim(e, p->text + start, end - start, &span);
    }
    return emit(e, id, &span, err);
}

static graft_status take_token(void *user, int32_t id, size_t start, size_t end, graft_error *err) {
    encoder *e = user;
    graft_token_span span = {0};
    if (e->spans) {
        gr_piece_span(e->piece, start, end, &span.start, &span.end);
        if (e->tok->postproc.trim) {
            size_t n;
            const char *token = gr_vocab_text(&e->tok->vocab, id, &n);
            if (token) trim(e, token, n, &span);
        }
    }
    return emit(e, id, &span, err);
}

/* --- the way there --- */

static graft_status take_piece(void *user, const gr_piece *piece, graft_error *err) {
    encoder *e = user;
    e->piece = piece;
    return e->tok->type->encode(e->tok->model, &e->scratch, piece->text, piece->len, take_token, e, err);
}

static graft_status encode_between(encoder *e, const gr_piece *text, graft_error *err) {
    const graft_tokenizer *tok = e->tok;
    gr_piece p;
    GR_TRY(gr_normalize(tok->normalizer, &e->norm, text, e->track, &p, err));
    gr_matcher_iter it = {.m = tok->normalized, .text = p.text, .len = p.len, .no_special = e->no_special};
    int32_t id;
    size_t start, end;
    while (gr_matcher_next(&it, &id, &start, &end)) {
        if (id >= 0) {
            GR_TRY(emit_added(e, &p, id, start, end, err));
        } else {
            const gr_piece part = gr_piece_slice(&p, start, end);
            GR_TRY(gr_pretok_run(tok->pretok, &e->pretok, &part, err));
        }
    }
    return GRAFT_OK;
}

/* Python's errors="replace": each maximal subpart of an ill-formed sequence becomes one U+FFFD. */
static graft_status replace_ill_formed(encoder *e, gr_piece *p, graft_error *err) {
    static const char replacement[] = "\xEF\xBF\xBD";
    gr_edit edit;
    gr_edit_begin(&edit, p, &e->valid, true);
    while (edit.offset < p->len) {
        size_t good = edit.offset, n = 0;
        while (good < p->len) {
            int32_t cp;
            n = gr_utf8_decode(p->text + good, p->len - good, &cp);
            if (cp < 0) break;
            good += n;
        }
        gr_edit_copy(&edit, good - edit.offset);
        if (good == p->len) break;
        gr_edit_put(&edit, replacement, 3, (gr_align){(uint32_t)good, (uint32_t)(good + n)});
        edit.offset = good + n;
    }
    GR_TRY(gr_edit_end(&edit, err));
    *p = gr_nstr_piece(&e->valid);
    return GRAFT_OK;
}

static graft_status encode_text(encoder *e, graft_error *err) {
    gr_piece p = {.text = e->text, .len = e->len};
    if (!gr_utf8_valid(e->text, e->len)) {
        e->track = true;
        GR_TRY(replace_ill_formed(e, &p, err));
    }
    gr_matcher_iter it = {.m = e->tok->raw, .text = p.text, .len = p.len, .no_special = e->no_special};
    int32_t id;
    size_t start, end;
    while (gr_matcher_next(&it, &id, &start, &end)) {
        if (id >= 0) {
            GR_TRY(emit_added(e, &p, id, start, end, err));
        } else {
            const gr_piece part = gr_piece_slice(&p, start, end);
            GR_TRY(encode_between(e, &part, err));
        }
    }
    return GRAFT_OK;
}

static graft_status add_specials(encoder *e, const int32_t *ids, size_t n, graft_error *err) {
    const graft_token_span none = {0};
    for (size_t i = 0; i < n; i++) GR_TRY(emit(e, ids[i], &none, err));
    return GRAFT_OK;
}

static graft_status encode(encoder *e, unsigned flags, graft_error *err) {
    const gr_postproc *post = &e->tok->postproc;
    /* Never NULL; about four bytes make a token. */
    GR_TRY(gr_grow(e->a, (void **)&e->ids, &e->cap, e->len / 4 + post->n_front + post->n_back + 4, sizeof *e->ids, err));
    if (e->spans) GR_TRY(gr_grow(e->a, (void **)&e->span, &e->span_cap, e->cap, sizeof *e->span, err));
    if (flags & GRAFT_TOK_ADD_SPECIAL) GR_TRY(add_specials(e, post->front, post->n_front, err));
    GR_TRY(encode_text(e, err));
    return flags & GRAFT_TOK_ADD_SPECIAL ? add_specials(e, post->back, post->n_back, err) : GRAFT_OK;
}

static graft_status run(const graft_tokenizer *tok, const char *text, size_t len, unsigned flags, int32_t **ids,
                        graft_token_span **spans, size_t *n, graft_error *err) {
    if (!tok || (!text && len) || !ids || !n) return gr_fail(err, GRAFT_ERR_ARGUMENT, "encode: an argument is NULL");
    if (len >= UINT32_MAX)
        return gr_fail(err, GRAFT_ERR_LIMIT, "text of %zu bytes is too long for one call (at most 4 GiB)", len);
    encoder e = {.tok = tok, .a = tok->a, .text = text ? text : "", .len = len, .spans = spans != NULL};
    e.track = e.spans || (tok->needs_origin && tok->normalizer);
    e.no_special = (flags & GRAFT_TOK_NO_PARSE_SPECIAL) != 0;
    e.scratch.a = tok->a;
    gr_nstr_init(&e.valid, tok->a);
    gr_normalizer_state_init(&e.norm, tok->a);
    gr_pretok_state_init(&e.pretok, tok->a);
    e.pretok.track = e.track;
    e.pretok.sink = take_piece;
    e.pretok.user = &e;
    graft_status st = encode(&e, flags, err);
    gr_nstr_free(&e.valid);
    gr_normalizer_state_free(&e.norm);
    gr_pretok_state_free(&e.pretok);
    gr_token_scratch_free(&e.scratch);
    if (st != GRAFT_OK) {
        gr_free(tok->a, e.ids);
        gr_free(tok->a, e.span);
        return st;
    }
    *ids = e.ids;
    *n = e.n;
    if (spans) *spans = e.span;
    return GRAFT_OK;
}

graft_status graft_tokenizer_encode(const graft_tokenizer *tok, const char *text, size_t len, unsigned flags,
                                    int32_t **ids, size_t *n, graft_error *err) {
    return run(tok, text, len, flags, ids, NULL, n, err);
}

graft_status graft_tokenizer_encode_spans(const graft_tokenizer *tok, const char *text, size_t len, unsigned flags,
                                          int32_t **ids, graft_token_span **spans, size_t *n, graft_error *err) {
    if (!spans) return gr_fail(err, GRAFT_ERR_ARGUMENT, "encode: an argument is NULL");
    return run(tok, text, len, flags, ids, spans, n, err);
}
