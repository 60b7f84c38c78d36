/* Filters that give text. Those that Jinja writes with soft_str take any value and keep Markup as it is. */
#include "text/jinja_filter.h"
#include "text/jinja_unicode.h"

#define UNUSED (void)run, (void)args, (void)raw

static graft_status cased(gr_jrun *run, gr_jv v, gr_jcase how, gr_jv *out) {
    GR_TRY(gr_j_soft_str(run, v, &v));
    return gr_j_case(run, v.str, how, out);
}
GR_JFILTER(gr_j_filter_upper) { UNUSED; return cased(run, args[0], GR_JUPPER, out); }
GR_JFILTER(gr_j_filter_lower) { UNUSED; return cased(run, args[0], GR_JLOWER, out); }
GR_JFILTER(gr_j_filter_capitalize) { UNUSED; return cased(run, args[0], GR_JCAPITALIZE, out); }

graft_status gr_j_ignore_case(gr_jrun *run, gr_jv v, gr_jv *out) {
    if (v.kind == GR_JSTR) return gr_j_case(run, v.str, GR_JLOWER, out);
    *out = v;
    return GRAFT_OK;
}

static bool separates_words(int32_t cp) {
    return gr_u_is_space(cp) || cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<';
}

static graft_status add_word(gr_jrun *run, const gr_jstr *s, size_t from, size_t to) {
    if (from == to) return GRAFT_OK;
    size_t k = 1;
    while (from + k < to && ((unsigned char)s->p[from + k] & 0xC0) == 0x80) k++;
    gr_jstr first = {.p = s->p + from, .len = k, .chars = 1};
    gr_jstr rest = {.p = s->p + from + k, .len = to - from - k, .chars = SIZE_MAX};
    gr_jv a, b;
    GR_TRY(gr_j_case(run, &first, GR_JUPPER, &a));
    GR_TRY(gr_j_case(run, &rest, GR_JLOWER, &b));
    gr_buf_add(&run->scratch, a.str->p, a.str->len);
    gr_buf_add(&run->scratch, b.str->p, b.str->len);
    return GRAFT_OK;
}

/* Words begin after whitespace and - ( { [ <, unlike in str.title. */
GR_JFILTER(gr_j_filter_title) {
    UNUSED;
    gr_jv v;
    GR_TRY(gr_j_soft_str(run, args[0], &v));
    const gr_jstr *s = v.str;
    size_t mark = gr_j_mark(run), from = 0, at = 0;
    GR_TRY(gr_j_char_work(run, s->len));
    while (at < s->len) {
        int32_t cp;
        size_t k = gr_utf8_decode(s->p + at, s->len - at, &cp);
        if (separates_words(cp)) {
            GR_TRY(add_word(run, s, from, at));
            gr_buf_add(&run->scratch, s->p + at, k);
            from = at + k;
        }
        at += k;
    }
    GR_TRY(add_word(run, s, from, at));
    return gr_j_take(run, mark, out); /* joined by a plain "", so never Markup */
}

GR_JFILTER(gr_j_filter_center) {
    UNUSED;
    int64_t width = 80;
    gr_jv v;
    GR_TRY(gr_j_arg_int(run, "center", args[1], &width));
    GR_TRY(gr_j_soft_str(run, args[0], &v));
    return gr_j_pad(run, v.str, width, NULL, 'c', out);
}

GR_JFILTER(gr_j_filter_trim) {
    UNUSED;
    gr_jstr *chars = NULL;
    gr_jv v;
    GR_TRY(gr_j_soft_str(run, args[0], &v));
    if (args[1].kind != GR_JNONE) GR_TRY(gr_j_arg_str(run, "trim", args[1], &chars));
    return gr_j_strip(run, v.str, chars, 3, out);
}

GR_JFILTER(gr_j_filter_string) { UNUSED; return gr_j_soft_str(run, args[0], out); }

GR_JFILTER(gr_j_filter_safe) {
    UNUSED;
    gr_jv v;
    GR_TRY(gr_j_soft_str(run, args[0], &v));
    GR_TRY(gr_j_str_sub(run, v.str, v.str->p, v.str->len, out));
    out->str->safe = true;
    return GRAFT_OK;
}

GR_JFILTER(gr_j_filter_escape) { UNUSED; return gr_j_escape(run, args[0], out); }

GR_JFILTER(gr_j_filter_forceescape) {
    UNUSED;
    gr_jv v;
    GR_TRY(gr_j_to_str(run, args[0], &v));
    return gr_j_escape(run, v, out);
}

GR_JFILTER(gr_j_filter_replace) {
    UNUSED;
    gr_jv s, old, new;
    int64_t count = -1;
    bool safe = run->autoescape;
    if (args[3].kind != GR_JNONE) GR_TRY(gr_j_arg_int(run, "replace", args[3], &count));
    GR_TRY(safe ? gr_j_soft_str(run, args[0], &s) : gr_j_to_str(run, args[0], &s));
    GR_TRY(safe ? gr_j_soft_str(run, args[1], &old) : gr_j_to_str(run, args[1], &old));
    GR_TRY(safe ? gr_j_soft_str(run, args[2], &new) : gr_j_to_str(run, args[2], &new));
    if (safe && (old.str->safe || (new.str->safe && !s.str->safe))) GR_TRY(gr_j_escape(run, s, &s));
    if (s.str->safe) GR_TRY(gr_j_escape(run, new, &new));
    return gr_j_replace(run, s.str, old.str, new.str, count, out);
}

GR_JFILTER(gr_j_filter_format) {
    gr_jv format, values;
    if (raw->n_pos && raw->n_kw)
        return gr_j_raise(run, "can't handle positional and keyword arguments at the same time");
    GR_TRY(gr_j_soft_str(run, args[0], &format));
    if (raw->n_kw) {
        GR_TRY(gr_j_dict(run, &values));
        for (size_t i = 0; i < raw->n_kw; i++) {
            gr_jv key;
            GR_TRY(gr_j_str_view(run, raw->kw_names[i]->str.p, raw->kw_names[i]->str.len, &key));
            GR_TRY(gr_j_dict_set(run, values.dict, key, raw->kw_values[i]));
        }
    } else {
        GR_TRY(gr_j_seq(run, GR_JTUPLE, raw->n_pos, &values));
        for (size_t i = 0; i < raw->n_pos; i++) GR_TRY(gr_j_push(run, values.seq, raw->pos[i]));
    }
    return gr_j_percent(run, format, values, out);
}

/* With autoescape off everything becomes a plain string; with it on, one Markup among the parts makes all Markup. */
GR_JFILTER(gr_j_filter_join) {
    UNUSED;
    gr_jv items, sep;
    bool safe = false;
    GR_TRY(gr_j_to_list(run, args[0], &items));
    bool by_attribute = !gr_j_is_missing(args[2]) && args[2].kind != GR_JNONE;
    GR_TRY(gr_j_is_missing(args[1]) ? gr_j_str_text(run, "", &sep) : gr_j_soft_str(run, args[1], &sep));
    for (size_t i = 0; i < items.seq->n; i++) {
        gr_jv *item = &items.seq->items[i];
        if (by_attribute) GR_TRY(gr_j_path(run, *item, args[2], gr_j_none(), item));
        safe |= run->autoescape && item->kind == GR_JSTR && item->str->safe;
    }
    safe |= run->autoescape && sep.str->safe;
    if (safe) GR_TRY(gr_j_escape(run, sep, &sep));
    size_t mark = gr_j_mark(run);
    for (size_t i = 0; i < items.seq->n; i++) {
        gr_jv item = items.seq->items[i];
        if (safe) GR_TRY(gr_j_escape(run, item, &item));
        if (i) gr_buf_add(&run->scratch, sep.str->p, sep.str->len);
        GR_TRY(gr_j_work(run, sep.str->len));
        GR_TRY(gr_j_add_str(run, &run->scratch, item));
        if (run->scratch.failed) break;
    }
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = safe;
    return GRAFT_OK;
}

GR_JFILTER(gr_j_filter_indent) {
    UNUSED;
    int64_t width = 4;
    bool first = false, blank = false;
    gr_jv indention, lines;
    if (args[0].kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, args[0]);
    if (args[0].kind != GR_JSTR) return gr_j_raise(run, "indent needs a string, not %s", gr_j_type(args[0]));
    GR_TRY(gr_j_arg_truth(run, args[2], &first));
    GR_TRY(gr_j_arg_truth(run, args[3], &blank));
    if (args[1].kind == GR_JSTR) {
        indention = args[1];
        if (args[0].str->safe) GR_TRY(gr_j_soft_str(run, args[1], &indention));
    } else {
        gr_jstr space = {.p = " ", .len = 1, .chars = 1};
        GR_TRY(gr_j_arg_int(run, "indent", args[1], &width));
        GR_TRY(gr_j_repeat(run, &space, width, &indention));
    }
    /* A newline at the end, as the reference adds, keeps a last empty line. */
    size_t mark = gr_j_mark(run);
    gr_buf_add(&run->scratch, args[0].str->p, args[0].str->len);
    gr_buf_add_char(&run->scratch, '\n');
    gr_jv text;
    GR_TRY(gr_j_take(run, mark, &text));
    GR_TRY(gr_j_splitlines(run, text.str, false, &lines));
    mark = gr_j_mark(run);
    for (size_t i = 0; i < lines.seq->n; i++) {
        const gr_jstr *line = lines.seq->items[i].str;
        if (i) gr_buf_add_char(&run->scratch, '\n');
        if (i ? blank || line->len : first) gr_buf_add(&run->scratch, indention.str->p, indention.str->len);
        GR_TRY(gr_j_work(run, indention.str->len));
        gr_buf_add(&run->scratch, line->p, line->len);
    }
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = args[0].str->safe;
    return GRAFT_OK;
}

static graft_status concat(gr_jrun *run, gr_jv a, gr_jv b, gr_jv *out) {
    return gr_j_binary(run, GR_JT_ADD, a, b, out);
}

GR_JFILTER(gr_j_filter_truncate) {
    UNUSED;
    int64_t length = 255, leeway = 5;
    bool kill_words = false;
    gr_jv end = args[3], cut;
    size_t n;
    GR_TRY(gr_j_arg_int(run, "truncate", args[1], &length));
    GR_TRY(gr_j_arg_truth(run, args[2], &kill_words));
    if (args[4].kind != GR_JNONE) GR_TRY(gr_j_arg_int(run, "truncate", args[4], &leeway));
    if (gr_j_is_missing(end)) GR_TRY(gr_j_str_text(run, "...", &end));
    if (end.kind != GR_JSTR) return gr_j_raise(run, "truncate needs a string, not %s", gr_j_type(end));
    int64_t end_chars = (int64_t)gr_j_chars(end.str);
    if (length < end_chars || leeway < 0) return gr_j_raise(run, "truncate: the length or leeway is too small");
    GR_TRY(gr_j_len(run, args[0], &n));
    if (leeway > INT64_MAX - length || (int64_t)n <= length + leeway) {
        *out = args[0];
        return GRAFT_OK;
    }
    if (args[0].kind != GR_JSTR) return gr_j_raise(run, "truncate needs a string, not %s", gr_j_type(args[0]));
    struct gr_jslice to = {.stop = gr_j_int(length - end_chars)};
    GR_TRY(gr_j_slice(run, args[0], &to, &cut));
    const char *space = kill_words ? NULL : gr_j_rfind(cut.str->p, cut.str->len, " ", 1);
    if (space) GR_TRY(gr_j_str_sub(run, cut.str, cut.str->p, (size_t)(space - cut.str->p), &cut));
    return concat(run, cut, end, out);
}

GR_JFILTER(gr_j_filter_wordcount) {
    UNUSED;
    gr_jv v;
    int64_t n = 0;
    bool inside = false;
    GR_TRY(gr_j_soft_str(run, args[0], &v));
    for (size_t i = 0; i < v.str->len;) {
        int32_t cp;
        i += gr_utf8_decode(v.str->p + i, v.str->len - i, &cp);
        bool word = cp == '_' || gr_u_is_alnum(cp);
        n += word && !inside;
        inside = word;
    }
    *out = gr_j_int(n);
    return gr_j_char_work(run, v.str->len);
}
