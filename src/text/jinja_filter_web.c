/* Filters for HTML and URLs. */
#include "text/jinja_filter.h"
#include "text/jinja_unicode.h"

#define UNUSED (void)run, (void)args, (void)raw

static graft_status add_quoted(gr_jrun *run, gr_jv v, bool query) {
    static const char hex[] = "0123456789ABCDEF";
    gr_jv text;
    GR_TRY(gr_j_to_str(run, v, &text));
    GR_TRY(gr_j_char_work(run, text.str->len));
    for (size_t i = 0; i < text.str->len; i++) {
        unsigned char c = (unsigned char)text.str->p[i];
        bool plain = (c < 0x80 && gr_u_is_alnum(c)) || (c && strchr("_.-~", c)) || (c == '/' && !query);
        if (plain) {
            gr_buf_add_char(&run->scratch, (char)c);
        } else if (c == ' ' && query) {
            gr_buf_add_char(&run->scratch, '+');
        } else {
            char escaped[3] = {'%', hex[c >> 4], hex[c & 15]};
            gr_buf_add(&run->scratch, escaped, 3);
        }
    }
    return GRAFT_OK;
}

static graft_status add_query(gr_jrun *run, gr_jv items) {
    gr_jcursor c;
    gr_jv item, pair;
    bool more;
    GR_TRY(gr_j_cursor(run, items, &c));
    for (bool first = true;; first = false) {
        GR_TRY(gr_j_next(run, &c, &item, &more));
        if (!more) return GRAFT_OK;
        GR_TRY(gr_j_to_list(run, item, &pair));
        if (pair.seq->n != 2) return gr_j_raise(run, "urlencode needs pairs, not %zu values", pair.seq->n);
        if (!first) gr_buf_add_char(&run->scratch, '&');
        GR_TRY(add_quoted(run, pair.seq->items[0], true));
        gr_buf_add_char(&run->scratch, '=');
        GR_TRY(add_quoted(run, pair.seq->items[1], true));
    }
}

GR_JFILTER(gr_j_filter_urlencode) {
    UNUSED;
    gr_jv v = args[0];
    struct gr_jview items = {.dict = v.dict, .which = 'i'};
    size_t mark = gr_j_mark(run);
    if (v.kind == GR_JDICT) v = (gr_jv){.kind = GR_JVIEW, .view = &items};
    bool iterable = v.kind == GR_JVIEW || v.kind == GR_JLIST || v.kind == GR_JTUPLE || v.kind == GR_JITER ||
                    v.kind == GR_JRANGE || v.kind == GR_JUNDEFINED;
    GR_TRY(iterable ? add_query(run, v) : add_quoted(run, v, false));
    return gr_j_take(run, mark, out);
}

GR_JFILTER(gr_j_filter_xmlattr) {
    UNUSED;
    bool autospace = true, any = false;
    GR_TRY(gr_j_arg_truth(run, args[1], &autospace));
    if (args[0].kind != GR_JDICT) return gr_j_raise(run, "xmlattr needs a dict, not %s", gr_j_type(args[0]));
    const gr_jdict *d = args[0].dict;
    size_t mark = gr_j_mark(run);
    for (size_t i = 0; i < d->n; i++) {
        gr_jv key = d->entries[i].key, value = d->entries[i].value;
        if (value.kind == GR_JNONE || value.kind == GR_JUNDEFINED) continue;
        if (key.kind != GR_JSTR) return gr_j_raise(run, "xmlattr needs string keys, not %s", gr_j_type(key));
        for (size_t k = 0; k < key.str->len; k++)
            if (key.str->p[k] && strchr(" \t\n\r\f\v/>=", key.str->p[k]))
                return gr_j_raise(run, "invalid character in attribute name '%.*s'", (int)GR_MIN(key.str->len, 100),
                                  key.str->p);
        GR_TRY(gr_j_escape(run, key, &key));
        GR_TRY(gr_j_escape(run, value, &value));
        if (any || autospace) gr_buf_add_char(&run->scratch, ' ');
        gr_buf_add(&run->scratch, key.str->p, key.str->len);
        gr_buf_add_text(&run->scratch, "=\"");
        gr_buf_add(&run->scratch, value.str->p, value.str->len);
        gr_buf_add_char(&run->scratch, '"');
        any = true;
    }
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = run->autoescape;
    return GRAFT_OK;
}

/* Removes every open...close from text[0..*n), searching again from the start each time, as the reference does. */
static graft_status cut_all(gr_jrun *run, char *text, size_t *n, const char *open, const char *close) {
    size_t k = strlen(close);
    for (;;) {
        const char *from = gr_j_find(text, *n, open, strlen(open));
        if (!from) return GRAFT_OK;
        const char *to = gr_j_find(from, *n - (size_t)(from - text), close, k);
        if (!to) return GRAFT_OK;
        size_t rest = *n - (size_t)(to + k - text);
        GR_TRY(gr_j_work(run, *n));
        memmove(text + (from - text), to + k, rest);
        *n = (size_t)(from - text) + rest;
    }
}

/* The character that an entity at p (after the '&') means; *used is its length. 0: none. */
static int32_t entity(const char *p, size_t n, size_t *used) {
    static const struct {
        const char *name;
        int32_t cp;
        bool bare; /* also without a semicolon */
    } names[] = {{"amp", '&', true},      {"lt", '<', true},        {"gt", '>', true},        {"quot", '"', true},
                 {"apos", '\'', false},   {"nbsp", 0xA0, true},     {"copy", 0xA9, true},     {"reg", 0xAE, true},
                 {"laquo", 0xAB, true},   {"raquo", 0xBB, true},    {"middot", 0xB7, true},   {"deg", 0xB0, true},
                 {"times", 0xD7, true},   {"euro", 0x20AC, false},  {"hellip", 0x2026, false}, {"ndash", 0x2013, false},
                 {"mdash", 0x2014, false}, {"lsquo", 0x2018, false}, {"rsquo", 0x2019, false}, {"ldquo", 0x201C, false},
                 {"rdquo", 0x201D, false}, {"bull", 0x2022, false},  {"trade", 0x2122, false}};
    if (n && *p == '#') {
        bool hex = n > 1 && (p[1] | 32) == 'x';
        size_t i = hex ? 2 : 1, from = i;
        int64_t cp = 0;
        for (; i < n; i++) {
            char c = (char)(p[i] | 32);
            int digit = p[i] >= '0' && p[i] <= '9' ? p[i] - '0' : hex && c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
            if (digit < 0) break;
            if (cp < 0x110000) cp = cp * (hex ? 16 : 10) + digit;
        }
        if (i == from) return 0;
        *used = i + (i < n && p[i] == ';');
        return cp == 0 || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000) ? 0xFFFD : (int32_t)cp;
    }
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        size_t k = strlen(names[i].name);
        if (n < k || memcmp(p, names[i].name, k)) continue;
        bool semicolon = n > k && p[k] == ';';
        if (!semicolon && !names[i].bare) continue;
        *used = k + semicolon;
        return names[i].cp;
    }
    return 0;
}

/* Without comments and tags, runs of whitespace as one space, entities (numeric ones and the common names) decoded. */
GR_JFILTER(gr_j_filter_striptags) {
    UNUSED;
    gr_jv v, words, space;
    GR_TRY(gr_j_to_str(run, args[0], &v));
    size_t n = v.str->len;
    char *text = gr_j_new(run, n);
    if (!text) return gr_j_no_memory(run);
    if (n) memcpy(text, v.str->p, n);
    GR_TRY(cut_all(run, text, &n, "<!--", "-->"));
    GR_TRY(cut_all(run, text, &n, "<", ">"));
    GR_TRY(gr_j_str_view(run, text, n, &v));
    const gr_jmethod_def *split = gr_j_find_str_method("split", 5);
    gr_jv none[GR_JMAX_PARAMS] = {0};
    GR_TRY(split->fn(run, v, none, raw, &words));
    GR_TRY(gr_j_str_text(run, " ", &space));
    GR_TRY(gr_j_join(run, space, words, &v));
    size_t mark = gr_j_mark(run);
    GR_TRY(gr_j_char_work(run, v.str->len));
    for (size_t i = 0; i < v.str->len;) {
        size_t used;
        int32_t cp = v.str->p[i] == '&' ? entity(v.str->p + i + 1, v.str->len - i - 1, &used) : 0;
        if (!cp) {
            gr_buf_add_char(&run->scratch, v.str->p[i++]);
            continue;
        }
        char utf8[4];
        gr_buf_add(&run->scratch, utf8, gr_utf8_encode((uint32_t)cp, utf8));
        i += 1 + used;
    }
    return gr_j_take(run, mark, out);
}
