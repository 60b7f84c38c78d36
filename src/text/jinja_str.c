/* Cutting, padding, joining and replacing text. Positions that templates see count code points; the work is done on
 * bytes, and pieces of a string share its bytes. */
#include "text/jinja_str.h"
#include "text/jinja_unicode.h"

/* Length of the character that ends at `end`, and the character. */
static size_t char_before(const char *p, size_t end, int32_t *cp) {
    size_t k = 1;
    while (k < end && ((unsigned char)p[end - k] & 0xC0) == 0x80) k++;
    gr_utf8_decode(p + end - k, k, cp);
    return k;
}

static bool strips(const gr_jstr *chars, const char *p, size_t k, int32_t cp) {
    if (!chars) return gr_u_is_space(cp);
    for (size_t i = 0; i < chars->len;) {
        int32_t other;
        size_t n = gr_utf8_decode(chars->p + i, chars->len - i, &other);
        if (n == k && !memcmp(chars->p + i, p, k)) return true;
        i += n;
    }
    return false;
}

graft_status gr_j_strip(gr_jrun *run, gr_jstr *s, const gr_jstr *chars, int sides, gr_jv *out) {
    size_t from = 0, to = s->len;
    int32_t cp;
    size_t cost = chars ? chars->len : 0;
    while ((sides & 1) && from < to) {
        GR_TRY(gr_j_work(run, cost));
        size_t k = gr_utf8_decode(s->p + from, to - from, &cp);
        if (!strips(chars, s->p + from, k, cp)) break;
        from += k;
    }
    while ((sides & 2) && to > from) {
        GR_TRY(gr_j_work(run, cost));
        size_t k = char_before(s->p, to, &cp);
        if (!strips(chars, s->p + to - k, k, cp)) break;
        to -= k;
    }
    return gr_j_str_sub(run, s, s->p + from, to - from, out);
}

static graft_status piece(gr_jrun *run, const gr_jstr *s, size_t from, size_t to, gr_jv list) {
    gr_jv part;
    GR_TRY(gr_j_work(run, to - from));
    GR_TRY(gr_j_str_sub(run, s, s->p + from, to - from, &part));
    return gr_j_push(run, list.seq, part);
}

static void reverse(gr_jseq *seq) {
    for (size_t i = 0, k = seq->n; i + 1 < k; i++) {
        gr_jv swap = seq->items[i];
        seq->items[i] = seq->items[--k];
        seq->items[k] = swap;
    }
}

static graft_status split_space(gr_jrun *run, gr_jstr *s, int64_t max, gr_jv list) {
    size_t at = 0;
    int32_t cp;
    for (;;) {
        while (at < s->len) {
            size_t k = gr_utf8_decode(s->p + at, s->len - at, &cp);
            if (!gr_u_is_space(cp)) break;
            at += k;
        }
        if (at >= s->len) return GRAFT_OK;
        if (max >= 0 && max-- == 0) return piece(run, s, at, s->len, list);
        size_t from = at;
        while (at < s->len) {
            size_t k = gr_utf8_decode(s->p + at, s->len - at, &cp);
            if (gr_u_is_space(cp)) break;
            at += k;
        }
        GR_TRY(piece(run, s, from, at, list));
    }
}

static graft_status rsplit_space(gr_jrun *run, gr_jstr *s, int64_t max, gr_jv list) {
    size_t at = s->len;
    int32_t cp;
    for (;;) {
        while (at > 0) {
            size_t k = char_before(s->p, at, &cp);
            if (!gr_u_is_space(cp)) break;
            at -= k;
        }
        if (!at) return GRAFT_OK;
        if (max >= 0 && max-- == 0) return piece(run, s, 0, at, list);
        size_t to = at;
        while (at > 0) {
            size_t k = char_before(s->p, at, &cp);
            if (gr_u_is_space(cp)) break;
            at -= k;
        }
        GR_TRY(piece(run, s, at, to, list));
    }
}

static graft_status split_at(gr_jrun *run, gr_jstr *s, const gr_jstr *sep, int64_t max, bool from_right, gr_jv list) {
    size_t from = 0, to = s->len;
    for (; max != 0; max--) {
        const char *hit = from_right ? gr_j_rfind(s->p, to, sep->p, sep->len)
                                     : gr_j_find(s->p + from, to - from, sep->p, sep->len);
        if (!hit) break;
        size_t at = (size_t)(hit - s->p);
        GR_TRY(from_right ? piece(run, s, at + sep->len, to, list) : piece(run, s, from, at, list));
        if (from_right)
            to = at;
        else
            from = at + sep->len;
    }
    return piece(run, s, from, to, list);
}

graft_status gr_j_split(gr_jrun *run, gr_jstr *s, const gr_jstr *sep, int64_t max, bool from_right, gr_jv *out) {
    if (sep && !sep->len) return gr_j_raise(run, "empty separator");
    gr_jv list;
    GR_TRY(sep ? gr_j_work(run, s->len) : gr_j_char_work(run, s->len));
    GR_TRY(gr_j_seq(run, GR_JLIST, 0, &list));
    if (sep)
        GR_TRY(split_at(run, s, sep, max, from_right, list));
    else
        GR_TRY(from_right ? rsplit_space(run, s, max, list) : split_space(run, s, max, list));
    if (from_right) reverse(list.seq);
    *out = list;
    return GRAFT_OK;
}

graft_status gr_j_partition(gr_jrun *run, gr_jstr *s, const gr_jstr *sep, bool from_right, gr_jv *out) {
    if (!sep->len) return gr_j_raise(run, "empty separator");
    GR_TRY(gr_j_work(run, s->len));
    const char *hit = from_right ? gr_j_rfind(s->p, s->len, sep->p, sep->len)
                                 : gr_j_find(s->p, s->len, sep->p, sep->len);
    size_t at = hit ? (size_t)(hit - s->p) : from_right ? 0 : s->len, k = hit ? sep->len : 0;
    gr_jv tuple, a, b, c;
    GR_TRY(gr_j_str_sub(run, s, s->p, at, &a));
    GR_TRY(gr_j_str_sub(run, s, s->p + at, k, &b));
    GR_TRY(gr_j_str_sub(run, s, s->p + at + k, s->len - at - k, &c));
    GR_TRY(gr_j_seq(run, GR_JTUPLE, 3, &tuple));
    GR_TRY(gr_j_push(run, tuple.seq, a));
    GR_TRY(gr_j_push(run, tuple.seq, b));
    GR_TRY(gr_j_push(run, tuple.seq, c));
    *out = tuple;
    return GRAFT_OK;
}

graft_status gr_j_splitlines(gr_jrun *run, gr_jstr *s, bool keep, gr_jv *out) {
    gr_jv list;
    GR_TRY(gr_j_char_work(run, s->len));
    GR_TRY(gr_j_seq(run, GR_JLIST, 0, &list));
    for (size_t from = 0, at = 0; at < s->len;) {
        int32_t cp;
        size_t k = gr_utf8_decode(s->p + at, s->len - at, &cp);
        if (!gr_u_is_line_break(cp)) {
            at += k;
            if (at >= s->len) GR_TRY(piece(run, s, from, s->len, list));
            continue;
        }
        if (cp == '\r' && at + 1 < s->len && s->p[at + 1] == '\n') k = 2;
        GR_TRY(piece(run, s, from, keep ? at + k : at, list));
        from = at += k;
    }
    *out = list;
    return GRAFT_OK;
}

graft_status gr_j_replace(gr_jrun *run, gr_jstr *s, const gr_jstr *from, const gr_jstr *to, int64_t count, gr_jv *out) {
    GR_TRY(gr_j_work(run, s->len));
    if (count == 0 || !gr_j_find(s->p, s->len, from->p, from->len)) return gr_j_str_sub(run, s, s->p, s->len, out);
    size_t mark = gr_j_mark(run), at = 0;
    bool safe = s->safe;
    for (; count != 0 && !run->scratch.failed; count--) {
        const char *hit = gr_j_find(s->p + at, s->len - at, from->p, from->len);
        if (!hit) break;
        gr_buf_add(&run->scratch, s->p + at, (size_t)(hit - s->p) - at);
        gr_buf_add(&run->scratch, to->p, to->len);
        GR_TRY(gr_j_work(run, to->len));
        at = (size_t)(hit - s->p) + from->len;
        if (from->len) continue;
        if (at >= s->len) break; /* an empty text is found before every character and at the end */
        int32_t cp;
        size_t k = gr_utf8_decode(s->p + at, s->len - at, &cp);
        gr_buf_add(&run->scratch, s->p + at, k);
        at += k;
    }
    gr_buf_add(&run->scratch, s->p + at, s->len - at);
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = safe;
    return GRAFT_OK;
}

graft_status gr_j_add_fill(gr_jrun *run, const char *fill, size_t k, int64_t n) {
    size_t total;
    if (n <= 0) return GRAFT_OK;
    if (__builtin_mul_overflow((size_t)n, k, &total) || total > run->scratch.limit)
        return gr_j_fail(run, GRAFT_ERR_LIMIT, "text takes more than the limit of %zu bytes", run->scratch.limit);
    GR_TRY(gr_j_work(run, total));
    char *to = gr_buf_reserve(&run->scratch, total);
    if (!to) return GRAFT_OK; /* told by gr_j_take */
    if (k == 1)
        memset(to, *fill, total);
    else
        for (size_t i = 0; i < total; i += k) memcpy(to + i, fill, k);
    run->scratch.len += total;
    run->scratch.data[run->scratch.len] = '\0';
    return GRAFT_OK;
}

/* side: 'l' text to the left, 'r' to the right, 'c' centred (an odd rest goes left when the width is odd too). */
graft_status gr_j_pad(gr_jrun *run, gr_jstr *s, int64_t width, const gr_jstr *fill, char side, gr_jv *out) {
    static const gr_jstr space = {.p = " ", .len = 1, .chars = 1};
    if (!fill) fill = &space;
    int64_t n = (int64_t)gr_j_chars(s), pad = width - n;
    if (width <= n) return gr_j_str_sub(run, s, s->p, s->len, out);
    int64_t left = side == 'l' ? 0 : side == 'r' ? pad : pad / 2 + (pad & width & 1);
    size_t mark = gr_j_mark(run);
    bool safe = s->safe;
    GR_TRY(gr_j_add_fill(run, fill->p, fill->len, left));
    gr_buf_add(&run->scratch, s->p, s->len);
    GR_TRY(gr_j_add_fill(run, fill->p, fill->len, pad - left));
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = safe;
    return GRAFT_OK;
}

graft_status gr_j_join(gr_jrun *run, gr_jv sep, gr_jv items, gr_jv *out) {
    gr_jcursor c;
    gr_jv item;
    bool more, safe = sep.str->safe;
    GR_TRY(gr_j_cursor(run, items, &c));
    size_t mark = gr_j_mark(run);
    for (size_t i = 0;; i++) {
        GR_TRY(gr_j_next(run, &c, &item, &more));
        if (!more) break;
        if (safe) {
            GR_TRY(gr_j_escape(run, item, &item));
        } else if (item.kind != GR_JSTR) {
            return gr_j_raise(run, "sequence item %zu: expected str instance, %s found", i, gr_j_type(item));
        }
        if (i) gr_buf_add(&run->scratch, sep.str->p, sep.str->len);
        gr_buf_add(&run->scratch, item.str->p, item.str->len);
        GR_TRY(gr_j_work(run, sep.str->len + item.str->len));
    }
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = safe;
    return GRAFT_OK;
}

graft_status gr_j_repeat(gr_jrun *run, gr_jstr *s, int64_t times, gr_jv *out) {
    size_t total;
    if (times < 0 || !s->len) times = 0;
    if (__builtin_mul_overflow((size_t)times, s->len, &total) || total > run->arena.limit)
        return gr_j_fail(run, GRAFT_ERR_LIMIT, "a repeated string takes more than the limit of %zu bytes",
                         run->arena.limit);
    GR_TRY(gr_j_work(run, total));
    char *bytes = gr_j_new(run, total);
    if (!bytes) return gr_j_no_memory(run);
    for (int64_t i = 0; i < times; i++) memcpy(bytes + (size_t)i * s->len, s->p, s->len);
    GR_TRY(gr_j_str_sub(run, s, bytes, total, out));
    return GRAFT_OK;
}

graft_status gr_j_expandtabs(gr_jrun *run, gr_jstr *s, int64_t size, gr_jv *out) {
    size_t mark = gr_j_mark(run);
    bool safe = s->safe;
    GR_TRY(gr_j_char_work(run, s->len));
    int64_t column = 0;
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        size_t k = gr_utf8_decode(s->p + i, s->len - i, &cp);
        if (cp == '\t') {
            int64_t fill = size > 0 ? size - column % size : 0;
            GR_TRY(gr_j_add_fill(run, " ", 1, fill));
            column = size > 0 ? 0 : column;
        } else {
            gr_buf_add(&run->scratch, s->p + i, k);
            column = cp == '\n' || cp == '\r' ? 0 : column + 1;
        }
        i += k;
    }
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = safe;
    return GRAFT_OK;
}
