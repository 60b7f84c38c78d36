/* pprint: Python's pformat with its defaults (80 columns, dictionaries sorted by key). A value that fits is written
 * as repr does; one that does not is broken after each item, long strings between words. */
#include "text/jinja_filter.h"
#include "text/jinja_unicode.h"

enum { WIDTH = 80 };

static graft_status pretty(gr_jrun *run, gr_jv v, size_t indent, size_t allowance, int level);

/* Sorted by key where the keys can be compared; else in the order they have. */
static graft_status sorted_items(gr_jrun *run, const gr_jdict *d, gr_jv *keys, gr_jv *values) {
    bool text = true, number = true;
    GR_TRY(gr_j_seq(run, GR_JLIST, d->n, keys));
    GR_TRY(gr_j_seq(run, GR_JLIST, d->n, values));
    for (size_t i = 0; i < d->n; i++) {
        keys->seq->items[i] = d->entries[i].key;
        values->seq->items[i] = d->entries[i].value;
        text &= d->entries[i].key.kind == GR_JSTR;
        number &= gr_j_is_number(d->entries[i].key);
    }
    keys->seq->n = values->seq->n = d->n;
    return text || number ? gr_j_sort(run, values->seq->items, keys->seq->items, d->n, false) : GRAFT_OK;
}

/* repr with sorted dictionaries. */
static graft_status add_flat(gr_jrun *run, gr_jv v) {
    gr_buf *b = &run->scratch;
    GR_TRY(gr_j_enter_value(run));
    if (v.kind == GR_JDICT) {
        gr_jv keys, values;
        GR_TRY(sorted_items(run, v.dict, &keys, &values));
        gr_buf_add_char(b, '{');
        for (size_t i = 0; i < keys.seq->n; i++) {
            if (i) gr_buf_add_text(b, ", ");
            GR_TRY(add_flat(run, keys.seq->items[i]));
            gr_buf_add_text(b, ": ");
            GR_TRY(add_flat(run, values.seq->items[i]));
        }
        gr_buf_add_char(b, '}');
    } else if (v.kind == GR_JLIST || v.kind == GR_JTUPLE) {
        bool tuple = v.kind == GR_JTUPLE;
        gr_buf_add_char(b, tuple ? '(' : '[');
        for (size_t i = 0; i < v.seq->n; i++) {
            if (i) gr_buf_add_text(b, ", ");
            GR_TRY(add_flat(run, v.seq->items[i]));
        }
        if (tuple && v.seq->n == 1) gr_buf_add_char(b, ',');
        gr_buf_add_char(b, tuple ? ')' : ']');
    } else {
        GR_TRY(gr_j_add_repr(run, b, v));
    }
    run->value_depth--;
    return GRAFT_OK;
}

static graft_status flat(gr_jrun *run, gr_jv v, gr_jv *out) {
    size_t mark = gr_j_mark(run);
    GR_TRY(add_flat(run, v));
    return gr_j_take(run, mark, out);
}

static void new_line(gr_jrun *run, size_t indent) {
    gr_buf_add_char(&run->scratch, '\n');
    for (size_t i = 0; i < indent; i++) gr_buf_add_char(&run->scratch, ' ');
}

static graft_status pretty_items(gr_jrun *run, gr_jv v, size_t indent, size_t allowance, int level) {
    bool tuple = v.kind == GR_JTUPLE;
    const char *closing = tuple ? (v.seq->n == 1 ? ",)" : ")") : "]";
    gr_buf_add_char(&run->scratch, tuple ? '(' : '[');
    for (size_t i = 0; i < v.seq->n; i++) {
        if (i) {
            gr_buf_add_char(&run->scratch, ',');
            new_line(run, indent + 1);
        }
        bool last = i + 1 == v.seq->n;
        GR_TRY(pretty(run, v.seq->items[i], indent + 1, last ? allowance + strlen(closing) : 1, level));
    }
    gr_buf_add_text(&run->scratch, closing);
    return GRAFT_OK;
}

static graft_status pretty_dict(gr_jrun *run, const gr_jdict *d, size_t indent, size_t allowance, int level) {
    gr_jv keys, values, key;
    GR_TRY(sorted_items(run, d, &keys, &values));
    gr_buf_add_char(&run->scratch, '{');
    for (size_t i = 0; i < d->n; i++) {
        if (i) {
            gr_buf_add_char(&run->scratch, ',');
            new_line(run, indent + 1);
        }
        GR_TRY(flat(run, keys.seq->items[i], &key));
        gr_buf_add(&run->scratch, key.str->p, key.str->len);
        gr_buf_add_text(&run->scratch, ": ");
        bool last = i + 1 == d->n;
        GR_TRY(pretty(run, values.seq->items[i], indent + 1 + gr_j_chars(key.str) + 2, last ? allowance + 1 : 1, level));
    }
    gr_buf_add_char(&run->scratch, '}');
    return GRAFT_OK;
}

static graft_status quoted(gr_jrun *run, const char *p, size_t n, gr_jv *out) {
    size_t mark = gr_j_mark(run);
    GR_TRY(gr_j_char_work(run, n));
    gr_j_add_quoted(&run->scratch, p, n, false);
    return gr_j_take(run, mark, out);
}

/* The end of a run of non-space followed by a run of space. */
static size_t part_end(const gr_jstr *s, size_t at) {
    bool space = false;
    while (at < s->len) {
        int32_t cp;
        size_t k = gr_utf8_decode(s->p + at, s->len - at, &cp);
        bool is_space = gr_u_is_space(cp);
        if (space && !is_space) break;
        space = is_space;
        at += k;
    }
    return at;
}

/* Appends the quoted pieces of one line that is too long. */
static graft_status break_line(gr_jrun *run, gr_jseq *chunks, const gr_jstr *line, bool last_line, int64_t width,
                               int64_t allowance) {
    size_t from = 0, to = 0;
    gr_jv piece;
    while (to < line->len) {
        size_t end = part_end(line, to);
        if (end >= line->len && last_line) width -= allowance;
        GR_TRY(quoted(run, line->p + from, end - from, &piece));
        if ((int64_t)gr_j_chars(piece.str) > width && to > from) {
            GR_TRY(quoted(run, line->p + from, to - from, &piece));
            GR_TRY(gr_j_push(run, chunks, piece));
            from = to;
        }
        to = end;
    }
    if (to == from) return GRAFT_OK;
    GR_TRY(quoted(run, line->p + from, to - from, &piece));
    return gr_j_push(run, chunks, piece);
}

static graft_status pretty_str(gr_jrun *run, gr_jv v, size_t indent, size_t allowance, int level) {
    gr_jv lines, chunks, line;
    if (level == 1) {
        indent++;
        allowance++;
    }
    int64_t width = WIDTH - (int64_t)indent;
    GR_TRY(gr_j_splitlines(run, v.str, true, &lines));
    GR_TRY(gr_j_seq(run, GR_JLIST, 0, &chunks));
    for (size_t i = 0; i < lines.seq->n; i++) {
        const gr_jstr *text = lines.seq->items[i].str;
        bool last = i + 1 == lines.seq->n;
        GR_TRY(quoted(run, text->p, text->len, &line));
        if ((int64_t)gr_j_chars(line.str) <= width - (last ? (int64_t)allowance : 0))
            GR_TRY(gr_j_push(run, chunks.seq, line));
        else
            GR_TRY(break_line(run, chunks.seq, text, last, width, (int64_t)allowance));
    }
    if (chunks.seq->n == 1) {
        gr_buf_add(&run->scratch, line.str->p, line.str->len);
        return GRAFT_OK;
    }
    if (level == 1) gr_buf_add_char(&run->scratch, '(');
    for (size_t i = 0; i < chunks.seq->n; i++) {
        if (i) new_line(run, indent);
        gr_buf_add(&run->scratch, chunks.seq->items[i].str->p, chunks.seq->items[i].str->len);
    }
    if (level == 1) gr_buf_add_char(&run->scratch, ')');
    return GRAFT_OK;
}

static graft_status pretty(gr_jrun *run, gr_jv v, size_t indent, size_t allowance, int level) {
    gr_jv text;
    GR_TRY(gr_j_enter_value(run));
    GR_TRY(flat(run, v, &text));
    bool fits = (int64_t)gr_j_chars(text.str) <= WIDTH - (int64_t)indent - (int64_t)allowance;
    if (!fits && (v.kind == GR_JLIST || (v.kind == GR_JTUPLE && !v.seq->group)))
        GR_TRY(pretty_items(run, v, indent, allowance, level + 1));
    else if (!fits && v.kind == GR_JDICT)
        GR_TRY(pretty_dict(run, v.dict, indent, allowance, level + 1));
    else if (!fits && v.kind == GR_JSTR && !v.str->safe && v.str->len)
        GR_TRY(pretty_str(run, v, indent, allowance, level + 1));
    else
        gr_buf_add(&run->scratch, text.str->p, text.str->len);
    run->value_depth--;
    return GRAFT_OK;
}

GR_JFILTER(gr_j_filter_pprint) {
    (void)raw;
    size_t mark = gr_j_mark(run);
    GR_TRY(pretty(run, args[0], 0, 0, 0));
    return gr_j_take(run, mark, out);
}
