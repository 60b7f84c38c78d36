/* wordwrap: Python's textwrap for each line. Text is cut into chunks (words, pieces of hyphenated words, runs of
 * whitespace), and a line takes chunks while they fit. */
#include "text/jinja_filter.h"
#include "text/jinja_unicode.h"

typedef struct chunk {
    size_t from, to; /* characters */
} chunk;

typedef struct wrapper {
    gr_jrun *run;
    int32_t *cps;
    size_t n;
    int64_t width;
    bool break_long_words, break_on_hyphens;
    chunk *chunks;
    size_t n_chunks;
    size_t n_lines;
    const gr_jstr *separator;
} wrapper;

static bool is_ws(int32_t cp) { return cp == ' ' || (cp >= 9 && cp <= 13); }
static bool is_word(int32_t cp) { return cp == '_' || gr_u_is_alnum(cp); }
static bool is_letter(int32_t cp) { return is_word(cp) && !gr_u_is_decimal(cp); }
static bool is_word_punct(int32_t cp) {
    return is_word(cp) || cp == '!' || cp == '"' || cp == '\'' || cp == '&' || cp == '.' || cp == ',' || cp == '?';
}

static int32_t at(const wrapper *w, size_t i) { return i < w->n ? w->cps[i] : -1; }

/* End of a run of two or more hyphens at i with a word after and word punctuation before it, or i. */
static size_t em_dash(const wrapper *w, size_t i) {
    if (i == 0 || !is_word_punct(w->cps[i - 1])) return i;
    size_t end = i;
    while (at(w, end) == '-') end++;
    return end - i >= 2 && is_word(at(w, end)) ? end : i;
}

/* A word may be cut after the hyphen at i: letters (or letter, hyphen, word) before it, letters after it. */
static bool cuts_at_hyphen(const wrapper *w, size_t i) {
    bool two = i >= 2 && is_letter(w->cps[i - 1]) && is_letter(w->cps[i - 2]);
    bool linked = i >= 3 && is_word_punct(w->cps[i - 1]) && w->cps[i - 2] == '-' && is_letter(w->cps[i - 3]);
    if (!two && !linked) return false;
    if (!is_letter(at(w, i + 1))) return false;
    return is_letter(at(w, i + 2)) || (at(w, i + 2) == '-' && is_letter(at(w, i + 3)));
}

static size_t chunk_end(const wrapper *w, size_t i) {
    size_t end = i + 1;
    if (is_ws(w->cps[i])) {
        while (end < w->n && is_ws(w->cps[end])) end++;
        return end;
    }
    if (!w->break_on_hyphens) {
        while (end < w->n && !is_ws(w->cps[end])) end++;
        return end;
    }
    if (em_dash(w, i) > i) return em_dash(w, i);
    for (;; end++) {
        if (end >= w->n || is_ws(w->cps[end])) return end;
        if (w->cps[end] == '-' && cuts_at_hyphen(w, end)) return end + 1;
        if (em_dash(w, end) > end) return end;
    }
}

static graft_status split(wrapper *w) {
    w->chunks = gr_j_new(w->run, w->n * sizeof *w->chunks);
    if (!w->chunks) return gr_j_no_memory(w->run);
    w->n_chunks = 0;
    for (size_t i = 0; i < w->n;) {
        size_t end = chunk_end(w, i);
        w->chunks[w->n_chunks++] = (chunk){i, end};
        i = end;
    }
    return gr_j_char_work(w->run, w->n);
}

static bool is_blank(const wrapper *w, chunk c) {
    for (size_t i = c.from; i < c.to; i++)
        if (!gr_u_is_space(w->cps[i])) return false;
    return true;
}

/* How much of an over-long chunk goes on a line with `room` left. */
static size_t cut_of(const wrapper *w, chunk c, size_t room) {
    size_t n = c.to - c.from;
    if (n <= room || !w->break_on_hyphens) return GR_MIN(n, room);
    size_t hyphen = room;
    while (hyphen > 0 && w->cps[c.from + hyphen - 1] != '-') hyphen--;
    bool letters = false;
    for (size_t i = 0; i + 1 < hyphen; i++) letters |= w->cps[c.from + i] != '-';
    return hyphen > 1 && letters ? hyphen : room;
}

static void add_line(wrapper *w, size_t from, size_t to) {
    gr_buf *b = &w->run->scratch;
    if (w->n_lines++) gr_buf_add(b, w->separator->p, w->separator->len);
    for (size_t i = from; i < to; i++) {
        char utf8[4];
        gr_buf_add(b, utf8, gr_utf8_encode((uint32_t)w->cps[i], utf8));
    }
}

static graft_status wrap(wrapper *w) {
    size_t at_chunk = 0, width = (size_t)w->width, lines = 0;
    while (at_chunk < w->n_chunks) {
        GR_TRY(gr_j_work(w->run, 0));
        if (lines && is_blank(w, w->chunks[at_chunk])) at_chunk++;
        if (at_chunk >= w->n_chunks) break;
        /* The chunks of a line lie side by side, so that the line is a range of characters. */
        size_t from = w->chunks[at_chunk].from, to = from;
        chunk last = {from, from};
        while (at_chunk < w->n_chunks && w->chunks[at_chunk].to - from <= width) {
            last = w->chunks[at_chunk++];
            to = last.to;
        }
        if (at_chunk < w->n_chunks) {
            chunk *next = &w->chunks[at_chunk];
            if (next->to - next->from > width) {
                if (w->break_long_words) {
                    size_t cut = cut_of(w, *next, width - (to - from));
                    last = (chunk){next->from, next->from + cut};
                    to = next->from += cut;
                } else if (to == from) {
                    last = *next;
                    to = next->to;
                    at_chunk++;
                }
            }
        }
        if (to == from) continue;
        if (is_blank(w, last)) to = last.from;
        if (to == from) continue;
        add_line(w, from, to);
        lines++;
    }
    return GRAFT_OK;
}

static graft_status wrap_line(wrapper *w, const gr_jstr *line) {
    size_t before = w->n_lines;
    w->cps = gr_j_new(w->run, line->len * sizeof *w->cps);
    if (!w->cps) return gr_j_no_memory(w->run);
    w->n = 0;
    for (size_t i = 0; i < line->len;) i += gr_utf8_decode(line->p + i, line->len - i, &w->cps[w->n++]);
    GR_TRY(split(w));
    GR_TRY(wrap(w));
    if (w->n_lines == before) add_line(w, 0, 0); /* an empty paragraph is an empty line */
    return GRAFT_OK;
}

GR_JFILTER(gr_j_filter_wordwrap) {
    (void)raw;
    wrapper w = {.run = run, .width = 79, .break_long_words = true};
    gr_jv separator = args[3], lines;
    if (args[0].kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, args[0]);
    if (args[0].kind != GR_JSTR) return gr_j_raise(run, "wordwrap needs a string, not %s", gr_j_type(args[0]));
    GR_TRY(gr_j_arg_truth(run, args[2], &w.break_long_words));
    w.break_on_hyphens = gr_j_is_missing(args[4]) || (args[4].kind == GR_JBOOL && args[4].b);
    if (separator.kind == GR_JNONE || gr_j_is_missing(separator)) GR_TRY(gr_j_str_text(run, "\n", &separator));
    if (separator.kind != GR_JSTR) return gr_j_raise(run, "wordwrap needs a string, not %s", gr_j_type(separator));
    w.separator = separator.str;
    GR_TRY(gr_j_splitlines(run, args[0].str, false, &lines));
    if (lines.seq->n) GR_TRY(gr_j_arg_int(run, "wordwrap", args[1], &w.width));
    if (w.width <= 0 && lines.seq->n) return gr_j_raise(run, "invalid width %lld (must be > 0)", (long long)w.width);
    size_t mark = gr_j_mark(run);
    for (size_t i = 0; i < lines.seq->n; i++) GR_TRY(wrap_line(&w, lines.seq->items[i].str));
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = separator.str->safe;
    return GRAFT_OK;
}
