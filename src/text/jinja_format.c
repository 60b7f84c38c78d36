/* "text" % values: Python's printf-like formatting. %[(key)][flags][width][.precision][length]type */
#include "text/jinja_format.h"

#include <math.h>

typedef struct percent {
    gr_jrun *run;
    gr_jv value;   /* the right operand */
    size_t next;   /* of a tuple's items; 1 when a single value was used */
    bool used_map; /* a %(key) took it as mapping */
    bool safe;
} percent;

typedef struct directive {
    bool left, plus, space, alternate, zero;
    int64_t width, precision; /* precision -1: not given */
    char type;
} directive;

static graft_status next_value(percent *p, gr_jv *out) {
    bool tuple = p->value.kind == GR_JTUPLE;
    size_t n = tuple ? p->value.seq->n : 1;
    if (p->next >= n) return gr_j_raise(p->run, "not enough arguments for format string");
    *out = tuple ? p->value.seq->items[p->next] : p->value;
    p->next++;
    return GRAFT_OK;
}

static graft_status read_star_or_number(percent *p, const char **at, const char *end, int64_t *out) {
    gr_jv v;
    *out = 0;
    if (*at < end && **at == '*') {
        (*at)++;
        GR_TRY(next_value(p, &v));
        if (!gr_j_as_int(v, out)) return gr_j_raise(p->run, "* wants int");
        return GRAFT_OK;
    }
    for (; *at < end && **at >= '0' && **at <= '9'; (*at)++) {
        *out = *out * 10 + (**at - '0');
        if (*out > 1 << 30) return gr_j_raise(p->run, "width too big");
    }
    return GRAFT_OK;
}

/* (key): the value stays in *found. */
static graft_status read_key(percent *p, const char **at, const char *end, gr_jv *found, bool *has_key) {
    *has_key = *at < end && **at == '(';
    if (!*has_key) return GRAFT_OK;
    const char *from = ++*at;
    int open = 1;
    while (*at < end && open) {
        open += (**at == '(') - (**at == ')');
        (*at)++;
    }
    if (open) return gr_j_raise(p->run, "incomplete format key");
    if (p->value.kind != GR_JDICT) return gr_j_raise(p->run, "format requires a mapping");
    size_t n = (size_t)(*at - 1 - from);
    if (!gr_j_dict_get_text(p->value.dict, from, n, found))
        return gr_j_raise(p->run, "format has no value for '%.*s'", (int)GR_MIN(n, 100), from);
    p->used_map = true;
    return GRAFT_OK;
}

static graft_status read_directive(percent *p, const char **at, const char *end, directive *d) {
    *d = (directive){.precision = -1};
    for (; *at < end; (*at)++) {
        if (**at == '-')
            d->left = true;
        else if (**at == '+')
            d->plus = true;
        else if (**at == ' ')
            d->space = true;
        else if (**at == '#')
            d->alternate = true;
        else if (**at == '0')
            d->zero = true;
        else
            break;
    }
    GR_TRY(read_star_or_number(p, at, end, &d->width));
    if (d->width < 0) {
        d->left = true;
        d->width = -d->width;
    }
    if (*at < end && **at == '.') {
        (*at)++;
        GR_TRY(read_star_or_number(p, at, end, &d->precision));
        if (d->precision < 0) d->precision = 0;
    }
    if (*at < end && strchr("hlL", **at) && **at) (*at)++;
    if (*at >= end) return gr_j_raise(p->run, "incomplete format");
    d->type = *(*at)++;
    return GRAFT_OK;
}

/* text with its sign and prefix of `head` bytes, padded to the width. */
static graft_status add_padded(percent *p, const directive *d, const gr_jstr *text, size_t head, bool zero_fill) {
    gr_jrun *run = p->run;
    gr_jstr copy = *text;
    int64_t pad = d->width - (int64_t)gr_j_chars(&copy);
    if (!zero_fill) head = 0;
    gr_buf_add(&run->scratch, text->p, head);
    if (!d->left) GR_TRY(gr_j_add_fill(run, zero_fill ? "0" : " ", 1, pad));
    gr_buf_add(&run->scratch, text->p + head, text->len - head);
    return d->left ? gr_j_add_fill(run, " ", 1, pad) : GRAFT_OK;
}

graft_status gr_j_add_ascii(gr_jrun *run, gr_jv v) {
    gr_jv text;
    GR_TRY(gr_j_to_repr(run, v, &text));
    for (size_t i = 0; i < text.str->len;) {
        int32_t cp;
        size_t k = gr_utf8_decode(text.str->p + i, text.str->len - i, &cp);
        if (cp < 0x80)
            gr_buf_add(&run->scratch, text.str->p + i, k);
        else
            gr_buf_add_format(&run->scratch, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x",
                              (unsigned)cp);
        i += k;
    }
    return GRAFT_OK;
}

static graft_status add_text(percent *p, const directive *d, gr_jv v) {
    gr_jrun *run = p->run;
    size_t mark = gr_j_mark(run);
    bool safe = v.kind == GR_JSTR && v.str->safe && d->type == 's';
    if (d->type == 's')
        GR_TRY(gr_j_add_str(run, &run->scratch, v));
    else if (d->type == 'r')
        GR_TRY(gr_j_add_repr(run, &run->scratch, v));
    else
        GR_TRY(gr_j_add_ascii(run, v));
    GR_TRY(gr_j_take(run, mark, &v));
    if (p->safe && !safe) GR_TRY(gr_j_escape(run, v, &v));
    if (d->precision >= 0 && (size_t)d->precision < gr_j_chars(v.str))
        GR_TRY(gr_j_str_view(run, v.str->p, gr_j_offset(v.str, (size_t)d->precision), &v));
    return add_padded(p, d, v.str, 0, false);
}

static graft_status int_of(percent *p, const directive *d, gr_jv v, int64_t *out) {
    if (gr_j_as_int(v, out)) return GRAFT_OK;
    if (v.kind == GR_JUNDEFINED) return gr_j_raise_undefined(p->run, v);
    if (v.kind != GR_JFLOAT || strchr("xXoc", d->type))
        return gr_j_raise(p->run, "%%%c format: a number is required, not %s", d->type, gr_j_type(v));
    GR_TRY(gr_j_float_to_int(p->run, v.f, &v));
    *out = v.i;
    return GRAFT_OK;
}

static size_t add_sign(gr_buf *b, const directive *d, bool negative) {
    if (!negative && !d->plus && !d->space) return 0;
    gr_buf_add_char(b, negative ? '-' : d->plus ? '+' : ' ');
    return 1;
}

static graft_status add_int(percent *p, const directive *d, gr_jv v) {
    gr_jrun *run = p->run;
    int64_t i;
    char digits[64];
    GR_TRY(int_of(p, d, v, &i));
    unsigned base = d->type == 'o' ? 8 : d->type == 'x' || d->type == 'X' ? 16 : 10;
    size_t n = gr_j_digits(i, base, d->type == 'X', digits), mark = gr_j_mark(run);
    size_t head = add_sign(&run->scratch, d, i < 0);
    if (d->alternate && base != 10) {
        gr_buf_add_text(&run->scratch, base == 8 ? "0o" : d->type == 'X' ? "0X" : "0x");
        head += 2;
    }
    GR_TRY(gr_j_add_fill(run, "0", 1, d->precision - (int64_t)n));
    gr_buf_add(&run->scratch, digits, n);
    GR_TRY(gr_j_take(run, mark, &v));
    return add_padded(p, d, v.str, head, d->zero && !d->left);
}

static graft_status add_float(percent *p, const directive *d, gr_jv v) {
    gr_jrun *run = p->run;
    int64_t i;
    if (v.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, v);
    if (!gr_j_is_number(v)) return gr_j_raise(run, "must be real number, not %s", gr_j_type(v));
    if (d->precision > 10000) return gr_j_raise(run, "precision too big");
    double f = gr_j_as_int(v, &i) ? (double)i : v.f;
    size_t mark = gr_j_mark(run), head = add_sign(&run->scratch, d, signbit(f) && !isnan(f));
    bool finite = isfinite(f), upper = strchr("EFG", d->type) != NULL;
    if (!finite)
        gr_buf_add_text(&run->scratch, isnan(f) ? (upper ? "NAN" : "nan") : upper ? "INF" : "inf");
    else
        gr_j_add_decimal(&run->scratch, d->type, d->precision < 0 ? 6 : (int)d->precision, d->alternate, fabs(f));
    GR_TRY(gr_j_take(run, mark, &v));
    return add_padded(p, d, v.str, head, d->zero && !d->left);
}

static graft_status add_char(percent *p, const directive *d, gr_jv v) {
    gr_jrun *run = p->run;
    int64_t i;
    if (v.kind == GR_JSTR) {
        if (gr_j_chars(v.str) != 1) return gr_j_raise(run, "%%c requires int or char");
        return add_padded(p, d, v.str, 0, false);
    }
    GR_TRY(int_of(p, d, v, &i));
    if (i < 0 || i > 0x10FFFF || (i >= 0xD800 && i < 0xE000)) return gr_j_raise(run, "%%c arg not in range");
    char utf8[4];
    gr_jstr text = {.p = utf8, .len = gr_utf8_encode((uint32_t)i, utf8), .chars = 1};
    return add_padded(p, d, &text, 0, false);
}

static graft_status add_value(percent *p, const directive *d, gr_jv v) {
    switch (d->type) {
    case 's':
    case 'r':
    case 'a': return add_text(p, d, v);
    case 'd':
    case 'i':
    case 'u':
    case 'o':
    case 'x':
    case 'X': return add_int(p, d, v);
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G': return add_float(p, d, v);
    case 'c': return add_char(p, d, v);
    default: return gr_j_raise(p->run, "unsupported format character '%c'", d->type);
    }
}

graft_status gr_j_percent(gr_jrun *run, gr_jv format, gr_jv value, gr_jv *out) {
    percent p = {.run = run, .value = value, .safe = format.str->safe};
    const char *at = format.str->p, *end = at + format.str->len;
    size_t mark = gr_j_mark(run);
    GR_TRY(gr_j_work(run, format.str->len));
    while (at < end) {
        const char *sign = memchr(at, '%', (size_t)(end - at));
        gr_buf_add(&run->scratch, at, (size_t)((sign ? sign : end) - at));
        if (!sign) break;
        at = sign + 1;
        gr_jv v;
        bool has_key;
        directive d;
        GR_TRY(read_key(&p, &at, end, &v, &has_key));
        GR_TRY(read_directive(&p, &at, end, &d));
        if (d.type == '%') {
            gr_buf_add_char(&run->scratch, '%');
            continue;
        }
        if (!has_key) GR_TRY(next_value(&p, &v));
        GR_TRY(add_value(&p, &d, v));
    }
    /* Only a tuple or a value that cannot be indexed by name must be used up. */
    bool tuple = value.kind == GR_JTUPLE;
    bool mapping = value.kind == GR_JDICT || value.kind == GR_JLIST || value.kind == GR_JRANGE ||
                   value.kind == GR_JUNDEFINED;
    if (tuple ? p.next < value.seq->n : !mapping && !p.next)
        return gr_j_raise(run, "not all arguments converted during string formatting");
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = format.str->safe;
    return GRAFT_OK;
}
