/* Aligned text: see nstr.h. */
#include "text/nstr.h"

void gr_nstr_init(gr_nstr *s, const graft_allocator *a) {
    *s = (gr_nstr){0};
    gr_buf_init(&s->text, a);
}

void gr_nstr_free(gr_nstr *s) {
    gr_free(s->text.a, s->align);
    gr_buf_free(&s->text);
    s->align = NULL;
    s->align_cap = 0;
}

gr_piece gr_nstr_piece(const gr_nstr *s) {
    return (gr_piece){.text = gr_buf_text(&s->text), .len = s->text.len, .align = s->aligned ? s->align : NULL,
                      .base = s->base};
}

static bool is_continuation(char c) { return ((unsigned char)c & 0xC0) == 0x80; }

void gr_piece_span(const gr_piece *p, size_t a, size_t b, size_t *start, size_t *end) {
    if (b > p->len) b = p->len;
    if (a >= b) {
        *start = *end = p->base + GR_MIN(a, p->len);
        return;
    }
    if (p->align) {
        *start = p->align[a].start;
        *end = p->align[b - 1].end;
        return;
    }
    while (a > 0 && is_continuation(p->text[a])) a--;
    while (b < p->len && is_continuation(p->text[b])) b++;
    *start = p->base + a;
    *end = p->base + b;
}

gr_piece gr_piece_slice(const gr_piece *p, size_t a, size_t b) {
    gr_piece s = {.text = p->text + a, .len = b - a, .align = p->align ? p->align + a : NULL, .base = p->base + a};
    if (p->align && b > a) s.base = p->align[a].start;
    return s;
}

/* Range of one byte of the input, where the input has no alignment of its own. */
static gr_align byte_align(const gr_piece *p, size_t i) {
    if (p->len == 0) return (gr_align){(uint32_t)p->base, (uint32_t)p->base};
    if (i >= p->len) i = p->len - 1;
    if (p->align) return p->align[i];
    size_t a, b;
    gr_piece_span(p, i, i + 1, &a, &b);
    return (gr_align){(uint32_t)a, (uint32_t)b};
}

void gr_edit_begin(gr_edit *e, const gr_piece *in, gr_nstr *out, bool track) {
    *e = (gr_edit){.in = *in, .out = out};
    gr_buf_clear(&out->text);
    out->aligned = track;
    out->base = in->base;
}

/* Makes room for the alignment of n more bytes; NULL when nothing is to be aligned or on failure. */
static gr_align *more_align(gr_edit *e, size_t n) {
    gr_nstr *out = e->out;
    if (!out->aligned || n == 0 || e->st != GRAFT_OK) return NULL;
    size_t need = out->text.len + n;
    if (need > out->align_cap) {
        e->st = gr_grow(out->text.a, (void **)&out->align, &out->align_cap, need, sizeof *out->align, NULL);
        if (e->st != GRAFT_OK) return NULL;
    }
    return out->align + out->text.len;
}

void gr_edit_put(gr_edit *e, const char *bytes, size_t n, gr_align at) {
    gr_align *to = more_align(e, n);
    if (to)
        for (size_t i = 0; i < n; i++) to[i] = at;
    gr_buf_add(&e->out->text, bytes, n);
}

static size_t char_len(const gr_piece *p, size_t at) {
    if (at >= p->len) return 0;
    int32_t cp;
    return gr_utf8_decode(p->text + at, p->len - at, &cp);
}

void gr_edit_skip(gr_edit *e, size_t n_chars) {
    while (n_chars-- > 0 && e->offset < e->in.len) e->offset += char_len(&e->in, e->offset);
}

void gr_edit_push(gr_edit *e, int32_t cp, long change) {
    char bytes[4];
    size_t n = gr_utf8_encode((uint32_t)cp, bytes);
    gr_align at = {(uint32_t)e->in.base, (uint32_t)e->in.base};
    if (e->out->aligned) {
        if (change <= 0) at = byte_align(&e->in, e->offset);
        else if (e->offset > 0) at = byte_align(&e->in, e->offset - 1);
    }
    gr_edit_put(e, bytes, n, at);
    if (change <= 0) gr_edit_skip(e, 1 + (size_t)-change);
}

void gr_edit_copy(gr_edit *e, size_t n_bytes) {
    n_bytes = GR_MIN(n_bytes, e->in.len - e->offset);
    gr_align *to = more_align(e, n_bytes);
    if (to) {
        if (e->in.align) {
            memcpy(to, e->in.align + e->offset, n_bytes * sizeof *to);
        } else {
            for (size_t i = 0; i < n_bytes;) {
                size_t n = GR_MIN(char_len(&e->in, e->offset + i), n_bytes - i);
                uint32_t start = (uint32_t)(e->in.base + e->offset + i);
                for (size_t k = 0; k < n; k++) to[i + k] = (gr_align){start, start + (uint32_t)n};
                i += n;
            }
        }
    }
    gr_buf_add(&e->out->text, e->in.text + e->offset, n_bytes);
    e->offset += n_bytes;
}

void gr_edit_insert(gr_edit *e, const char *text, size_t n) {
    gr_align at = {(uint32_t)e->in.base, (uint32_t)e->in.base};
    if (e->out->aligned && e->offset > 0) at = byte_align(&e->in, e->offset - 1);
    gr_edit_put(e, text, n, at);
}

graft_status gr_edit_end(gr_edit *e, graft_error *err) {
    if (e->st != GRAFT_OK) return gr_fail_memory(err);
    return gr_buf_status(&e->out->text, err);
}

graft_status gr_nstr_prepend(gr_nstr *out, const gr_piece *in, const char *text, size_t n, bool track,
                             graft_error *err) {
    gr_edit e;
    gr_edit_begin(&e, in, out, track);
    if (in->len > 0) gr_edit_put(&e, text, n, track ? byte_align(in, 0) : (gr_align){0});
    gr_edit_copy(&e, in->len);
    return gr_edit_end(&e, err);
}
