/* str() and repr() of values. */
#include "text/jinja_run.h"
#include "text/jinja_unicode.h"

void gr_j_add_quoted(gr_buf *to, const char *p, size_t n, bool ascii) {
    bool single = memchr(p, '\'', n) != NULL, twice = memchr(p, '"', n) != NULL;
    char quote = single && !twice ? '"' : '\'';
    gr_buf_add_char(to, quote);
    for (size_t i = 0; i < n;) {
        int32_t cp;
        size_t k = gr_utf8_decode(p + i, n - i, &cp);
        if (cp == quote || cp == '\\') {
            gr_buf_add_char(to, '\\');
            gr_buf_add_char(to, (char)cp);
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            gr_buf_add_text(to, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
        } else if (ascii ? cp >= ' ' && cp < 0x7F : gr_u_is_printable(cp)) {
            gr_buf_add(to, p + i, k);
        } else {
            gr_buf_add_format(to, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)cp);
        }
        i += k;
    }
    gr_buf_add_char(to, quote);
}

void gr_j_add_escaped(gr_buf *to, const char *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        switch (p[i]) {
        case '&': gr_buf_add_text(to, "&amp;"); break;
        case '<': gr_buf_add_text(to, "&lt;"); break;
        case '>': gr_buf_add_text(to, "&gt;"); break;
        case '\'': gr_buf_add_text(to, "&#39;"); break;
        case '"': gr_buf_add_text(to, "&#34;"); break;
        default: gr_buf_add_char(to, p[i]);
        }
    }
}

static graft_status add_items(gr_jrun *run, gr_buf *to, const gr_jv *items, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (i) gr_buf_add_text(to, ", ");
        GR_TRY(gr_j_add_repr(run, to, items[i]));
    }
    return GRAFT_OK;
}

static graft_status add_dict(gr_jrun *run, gr_buf *to, const gr_jdict *d) {
    gr_buf_add_char(to, '{');
    for (size_t i = 0; i < d->n; i++) {
        if (i) gr_buf_add_text(to, ", ");
        GR_TRY(gr_j_add_repr(run, to, d->entries[i].key));
        gr_buf_add_text(to, ": ");
        GR_TRY(gr_j_add_repr(run, to, d->entries[i].value));
    }
    gr_buf_add_char(to, '}');
    return GRAFT_OK;
}

static graft_status add_view(gr_jrun *run, gr_buf *to, gr_jv v) {
    gr_jv list;
    GR_TRY(gr_j_to_list(run, v, &list));
    gr_buf_add_text(to, gr_j_type(v));
    gr_buf_add_text(to, "([");
    GR_TRY(add_items(run, to, list.seq->items, list.seq->n));
    gr_buf_add_text(to, "])");
    return GRAFT_OK;
}

static graft_status add_scalar_repr(gr_jrun *run, gr_buf *to, gr_jv v) {
    switch (v.kind) {
    case GR_JUNDEFINED: gr_buf_add_text(to, "Undefined"); break;
    case GR_JNONE: gr_buf_add_text(to, "None"); break;
    case GR_JBOOL: gr_buf_add_text(to, v.b ? "True" : "False"); break;
    case GR_JINT: gr_buf_add_format(to, "%lld", (long long)v.i); break;
    case GR_JFLOAT: gr_j_add_float(to, v.f); break;
    case GR_JSTR:
        if (v.str->safe) gr_buf_add_text(to, "Markup(");
        gr_j_add_quoted(to, v.str->p, v.str->len, false);
        if (v.str->safe) gr_buf_add_char(to, ')');
        return gr_j_char_work(run, v.str->len);
    case GR_JRANGE:
        gr_buf_add_format(to, "range(%lld, %lld", (long long)v.range->start, (long long)v.range->stop);
        if (v.range->step != 1) gr_buf_add_format(to, ", %lld", (long long)v.range->step);
        gr_buf_add_char(to, ')');
        break;
    case GR_JMACRO:
        gr_buf_add_text(to, "<Macro ");
        if (v.macro->code->name)
            gr_j_add_quoted(to, v.macro->code->name->str.p, v.macro->code->name->str.len, false);
        else
            gr_buf_add_text(to, "None");
        gr_buf_add_char(to, '>');
        break;
    case GR_JLOOP: {
        int64_t n;
        GR_TRY(gr_j_loop_length(run, v.loop, &n));
        gr_buf_add_format(to, "<LoopContext %lld/%lld>", (long long)v.loop->index0 + 1, (long long)n);
        break;
    }
    case GR_JSELF: gr_buf_add_text(to, "<TemplateReference None>"); break;
    default: gr_buf_add_format(to, "<%s object>", gr_j_type(v)); /* Python shows an address here */
    }
    return GRAFT_OK;
}

graft_status gr_j_add_repr(gr_jrun *run, gr_buf *to, gr_jv v) {
    GR_TRY(gr_j_enter_value(run));
    bool tuple = v.kind == GR_JTUPLE;
    switch (v.kind) {
    case GR_JLIST:
    case GR_JTUPLE:
        gr_buf_add_char(to, tuple ? '(' : '[');
        GR_TRY(add_items(run, to, v.seq->items, v.seq->n));
        if (tuple && v.seq->n == 1) gr_buf_add_char(to, ',');
        gr_buf_add_char(to, tuple ? ')' : ']');
        break;
    case GR_JDICT: GR_TRY(add_dict(run, to, v.dict)); break;
    case GR_JNAMESPACE:
        gr_buf_add_text(to, "<Namespace ");
        GR_TRY(add_dict(run, to, v.dict));
        gr_buf_add_char(to, '>');
        break;
    case GR_JVIEW: GR_TRY(add_view(run, to, v)); break;
    default: GR_TRY(add_scalar_repr(run, to, v));
    }
    run->value_depth--;
    /* A text over its limit stops here instead of after the whole of a large value. */
    return to->failed ? gr_buf_status(to, run->err) : GRAFT_OK;
}

graft_status gr_j_add_str(gr_jrun *run, gr_buf *to, gr_jv v) {
    if (v.kind == GR_JSTR) {
        gr_buf_add(to, v.str->p, v.str->len);
        return gr_j_work(run, v.str->len);
    }
    return v.kind == GR_JUNDEFINED ? GRAFT_OK : gr_j_add_repr(run, to, v);
}

graft_status gr_j_soft_str(gr_jrun *run, gr_jv v, gr_jv *out) {
    if (v.kind == GR_JSTR) {
        *out = v;
        return GRAFT_OK;
    }
    size_t mark = gr_j_mark(run);
    GR_TRY(gr_j_add_str(run, &run->scratch, v));
    return gr_j_take(run, mark, out);
}

graft_status gr_j_to_str(gr_jrun *run, gr_jv v, gr_jv *out) {
    GR_TRY(gr_j_soft_str(run, v, out));
    if (!out->str->safe) return GRAFT_OK;
    GR_TRY(gr_j_str_sub(run, out->str, out->str->p, out->str->len, out));
    out->str->safe = false;
    return GRAFT_OK;
}

graft_status gr_j_to_repr(gr_jrun *run, gr_jv v, gr_jv *out) {
    size_t mark = gr_j_mark(run);
    GR_TRY(gr_j_add_repr(run, &run->scratch, v));
    return gr_j_take(run, mark, out);
}

graft_status gr_j_escape(gr_jrun *run, gr_jv v, gr_jv *out) {
    if (v.kind == GR_JSTR && v.str->safe) {
        *out = v;
        return GRAFT_OK;
    }
    gr_jv text;
    GR_TRY(gr_j_to_str(run, v, &text));
    size_t mark = gr_j_mark(run);
    GR_TRY(gr_j_char_work(run, text.str->len));
    gr_j_add_escaped(&run->scratch, text.str->p, text.str->len);
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = true;
    return GRAFT_OK;
}
