/* Format specifications ("{:>8.2f}") and str.format.
 * spec: [[fill]align][sign][z][#][0][width][, or _][.precision][type], as in Python's format(). */
#include <math.h>

#include "text/jinja_format.h"
#include "text/jinja_run.h"

static graft_status read_number(gr_jrun *run, const char **p, const char *end, int64_t *out) {
    int64_t v = 0;
    for (; *p < end && **p >= '0' && **p <= '9'; (*p)++) {
        v = v * 10 + (**p - '0');
        if (v > 1 << 30) return gr_j_raise(run, "too many decimal digits in format string");
    }
    *out = v;
    return GRAFT_OK;
}

static bool is_align(char c) { return c == '<' || c == '>' || c == '=' || c == '^'; }

graft_status gr_j_parse_spec(gr_jrun *run, const char *spec, size_t n, gr_jspec *s) {
    const char *p = spec, *end = spec + n;
    int32_t cp = 0;
    *s = (gr_jspec){.fill = ' ', .precision = -1};
    size_t k = n ? gr_utf8_decode(p, n, &cp) : 0;
    if (k && k < n && is_align(p[k])) {
        s->fill = cp;
        s->align = p[k];
        p += k + 1;
    } else if (n && is_align(*p)) {
        s->align = *p++;
    }
    if (p < end && (*p == '+' || *p == '-' || *p == ' ')) s->sign = *p++;
    if (p < end && *p == 'z') {
        s->no_negative_zero = true;
        p++;
    }
    if (p < end && *p == '#') {
        s->alternate = true;
        p++;
    }
    if (p < end && *p == '0') {
        if (!s->align && s->fill == ' ') {
            s->fill = '0';
            s->zero = true;
        }
        p++;
    }
    GR_TRY(read_number(run, &p, end, &s->width));
    if (p < end && (*p == ',' || *p == '_')) s->grouping = *p++;
    if (p < end && (*p == ',' || *p == '_')) return gr_j_raise(run, "cannot specify both ',' and '_' in a format");
    if (p < end && *p == '.') {
        const char *digits = ++p;
        GR_TRY(read_number(run, &p, end, &s->precision));
        if (p == digits) return gr_j_raise(run, "format specifier missing precision");
    }
    if (end - p > 1) return gr_j_raise(run, "invalid format specifier '%.*s'", (int)GR_MIN(n, 100), spec);
    if (p < end) s->type = *p;
    return GRAFT_OK;
}

static graft_status add_fill(gr_jrun *run, const gr_jspec *s, int64_t n) {
    char utf8[4];
    size_t k = gr_utf8_encode((uint32_t)s->fill, utf8);
    return gr_j_add_fill(run, utf8, k, n);
}

/* text, of `chars` characters, its first `prefix` bytes (sign, 0x) before a fill of '=' alignment. */
static graft_status add_aligned(gr_jrun *run, const gr_jspec *s, const char *text, size_t n, size_t chars,
                                size_t prefix, char align) {
    int64_t pad = s->width - (int64_t)chars, left = 0;
    if (pad < 0) pad = 0;
    if (align == '>') left = pad;
    if (align == '^') left = pad / 2;
    if (align == '=') {
        gr_buf_add(&run->scratch, text, prefix);
        GR_TRY(add_fill(run, s, pad));
        gr_buf_add(&run->scratch, text + prefix, n - prefix);
        return GRAFT_OK;
    }
    GR_TRY(add_fill(run, s, left));
    gr_buf_add(&run->scratch, text, n);
    return add_fill(run, s, pad - left);
}

static graft_status format_str(gr_jrun *run, gr_jstr *str, const gr_jspec *s) {
    if (s->type && s->type != 's') return gr_j_raise(run, "unknown format code '%c' for object of type 'str'", s->type);
    if (s->sign || s->alternate || s->grouping || s->align == '=' || s->no_negative_zero)
        return gr_j_raise(run, "this format specifier is not allowed for a string");
    size_t chars = gr_j_chars(str), n = str->len;
    if (s->precision >= 0 && (size_t)s->precision < chars) {
        chars = (size_t)s->precision;
        n = gr_j_offset(str, chars);
    }
    return add_aligned(run, s, str->p, n, chars, 0, s->align ? s->align : '<');
}

/* Digits with separators every `step`, filled with zeros to `width` (separators counted) when it is over 0. */
static graft_status group_digits(gr_jrun *run, gr_buf *to, const char *digits, size_t n, char separator, size_t step,
                                 int64_t width) {
    if (width > 0 && (uint64_t)width > run->scratch.limit)
        return gr_j_fail(run, GRAFT_ERR_LIMIT, "text takes more than the limit of %zu bytes", run->scratch.limit);
    size_t total = n;
    while (separator && width > 0 && (int64_t)(total + (total - 1) / step) < width) total++;
    while (!separator && (int64_t)total < width) total++;
    for (size_t i = 0; i < total; i++) {
        if (separator && i && (total - i) % step == 0) gr_buf_add_char(to, separator);
        gr_buf_add_char(to, i < total - n ? '0' : digits[i - (total - n)]);
    }
    return GRAFT_OK;
}

/* sign, prefix, grouped digits, rest: put together and aligned. */
static graft_status add_number(gr_jrun *run, const gr_jspec *s, bool negative, const char *prefix, const char *digits,
                               size_t n_digits, const char *rest, size_t n_rest) {
    gr_buf b;
    gr_buf_init(&b, run->scratch.a);
    b.limit = run->scratch.limit;
    if (negative)
        gr_buf_add_char(&b, '-');
    else if (s->sign == '+' || s->sign == ' ')
        gr_buf_add_char(&b, s->sign);
    gr_buf_add_text(&b, prefix);
    size_t head = b.len;
    bool decimal = !strchr("boxX", s->type) || !s->type;
    char align = s->align ? s->align : s->zero ? '=' : '>';
    int64_t width = s->zero || (s->align == '=' && s->fill == '0') ? s->width - (int64_t)(head + n_rest) : 0;
    graft_status st = group_digits(run, &b, digits, n_digits, s->grouping, decimal ? 3 : 4, s->grouping ? width : 0);
    gr_buf_add(&b, rest, n_rest);
    if (st == GRAFT_OK) st = gr_buf_status(&b, run->err);
    if (st == GRAFT_OK) st = add_aligned(run, s, gr_buf_text(&b), b.len, b.len, head, align);
    gr_buf_free(&b);
    return st;
}

static size_t write_digits(uint64_t v, unsigned base, bool upper, char out[64]) {
    char text[64];
    size_t n = 0;
    do text[n++] = (upper ? "0123456789ABCDEF" : "0123456789abcdef")[v % base];
    while (v /= base);
    for (size_t i = 0; i < n; i++) out[i] = text[n - 1 - i];
    return n;
}

size_t gr_j_digits(int64_t v, unsigned base, bool upper, char out[64]) {
    return write_digits(v < 0 ? -(uint64_t)v : (uint64_t)v, base, upper, out);
}

static graft_status format_int(gr_jrun *run, int64_t v, const gr_jspec *s) {
    char digits[64], type = s->type ? s->type : 'd';
    unsigned base = type == 'b' ? 2 : type == 'o' ? 8 : type == 'x' || type == 'X' ? 16 : 10;
    if (s->no_negative_zero) return gr_j_raise(run, "negative zero coercion (z) not allowed in a format for integers");
    if (s->precision >= 0) return gr_j_raise(run, "precision not allowed in integer format specifier");
    if (s->grouping == ',' && base != 10) return gr_j_raise(run, "cannot specify ',' with '%c'", type);
    if (type == 'c') {
        char utf8[4];
        if (s->sign || s->alternate || s->grouping) return gr_j_raise(run, "this format is not allowed with 'c'");
        if (v < 0 || v > 0x10FFFF || (v >= 0xD800 && v < 0xE000)) return gr_j_raise(run, "%%c arg not in range");
        size_t n = gr_utf8_encode((uint32_t)v, utf8);
        return add_aligned(run, s, utf8, n, 1, 0, s->align ? s->align : s->zero ? '=' : '<');
    }
    size_t n = gr_j_digits(v, base, type == 'X', digits);
    const char *prefix = !s->alternate || base == 10 ? "" : base == 2 ? "0b" : base == 8 ? "0o" : type == 'X' ? "0X" : "0x";
    return add_number(run, s, v < 0, prefix, digits, n, "", 0);
}

/* Removes the zeros at the end of the mantissa that was written from `from` on, and a point that nothing follows. */
static void strip_zeros(gr_buf *b, size_t from) {
    if (b->failed) return;
    const char *e = memchr(b->data + from, 'e', b->len - from);
    size_t end = e ? (size_t)(e - b->data) : b->len, keep = end;
    if (!memchr(b->data + from, '.', end - from)) return;
    while (b->data[keep - 1] == '0') keep--;
    if (b->data[keep - 1] == '.') keep--;
    memmove(b->data + keep, b->data + end, b->len - end);
    b->len -= end - keep;
}

/* No type: as repr does or, with a precision, like g, but with a digit after the point and the exponent one power of
 * ten earlier. */
static void write_plain_float(gr_buf *b, double f, const gr_jspec *s) {
    if (s->precision < 0) {
        gr_j_add_float(b, f);
        return;
    }
    int precision = s->precision ? (int)s->precision : 1, exponent = 0;
    size_t from = b->len;
    gr_j_add_decimal(b, 'e', precision - 1, s->alternate, f);
    const char *e = b->failed ? NULL : memchr(b->data + from, 'e', b->len - from);
    if (e) exponent = atoi(e + 1);
    if (exponent < -4 || exponent >= precision - 1) {
        if (!s->alternate) strip_zeros(b, from);
        return;
    }
    b->len = from;
    gr_j_add_decimal(b, 'g', precision, s->alternate, f);
    if (!b->failed && !memchr(b->data + from, '.', b->len - from)) gr_buf_add_text(b, ".0");
}

/* The digits of a float for a format type, without sign. */
static void write_float(gr_buf *b, double f, const gr_jspec *s) {
    char type = s->type;
    int precision = s->precision < 0 ? 6 : (int)s->precision;
    if (!type) {
        write_plain_float(b, f, s);
        return;
    }
    if (type == '%') f *= 100;
    char c = type == '%' ? 'f' : type == 'n' ? 'g' : type;
    gr_j_add_decimal(b, c, c == 'g' || c == 'G' ? GR_MAX(precision, 1) : precision, s->alternate, f);
    if (type == '%') gr_buf_add_char(b, '%');
}

static graft_status format_float(gr_jrun *run, double f, const gr_jspec *s) {
    if (s->type && !strchr("eEfFgGn%", s->type))
        return gr_j_raise(run, "unknown format code '%c' for object of type 'float'", s->type);
    if (s->precision > 10000) return gr_j_raise(run, "precision too big");
    bool negative = signbit(f) && !isnan(f), upper = s->type && strchr("EFG", s->type);
    gr_buf b;
    gr_buf_init(&b, run->scratch.a);
    if (isnan(f) || isinf(f)) {
        gr_buf_add_text(&b, isnan(f) ? (upper ? "NAN" : "nan") : upper ? "INF" : "inf");
        if (s->type == '%') gr_buf_add_char(&b, '%');
    } else {
        write_float(&b, fabs(f), s);
    }
    graft_status st = gr_buf_status(&b, run->err);
    size_t digits = 0;
    bool zero = true;
    while (digits < b.len && b.data[digits] >= '0' && b.data[digits] <= '9') digits++;
    for (size_t i = 0; i < b.len && b.data[i] != 'e' && b.data[i] != 'E'; i++)
        zero &= b.data[i] == '0' || b.data[i] == '.' || b.data[i] == '%';
    if (s->no_negative_zero && zero) negative = false;
    if (st == GRAFT_OK)
        st = add_number(run, s, negative, "", gr_buf_text(&b), digits, gr_buf_text(&b) + digits, b.len - digits);
    gr_buf_free(&b);
    return st;
}

graft_status gr_j_add_formatted(gr_jrun *run, gr_jv v, const char *spec, size_t n) {
    gr_jspec s;
    int64_t i;
    if (!n) return gr_j_add_str(run, &run->scratch, v);
    if (v.kind != GR_JSTR && !gr_j_is_number(v))
        return gr_j_raise(run, "unsupported format string passed to %s.__format__", gr_j_type(v));
    GR_TRY(gr_j_parse_spec(run, spec, n, &s));
    if (v.kind == GR_JSTR) return format_str(run, v.str, &s);
    if (!gr_j_as_int(v, &i)) return format_float(run, v.f, &s);
    if (s.type && strchr("eEfFgG%", s.type)) return format_float(run, (double)i, &s);
    if (s.type && !strchr("bcdnoxX", s.type))
        return gr_j_raise(run, "unknown format code '%c' for object of type 'int'", s.type);
    if (s.type == 'n') s.type = 'd';
    return format_int(run, i, &s);
}

/* str.format */
typedef struct formatter {
    gr_jrun *run;
    const gr_jargs *args;
    gr_jdict *map; /* format_map */
    bool safe;     /* the format is Markup: what goes in is escaped */
    int64_t next;  /* of automatic numbering, -1 when fields are numbered by hand */
} formatter;

static graft_status expand(formatter *f, const char *p, size_t n, int depth);

/* The value that a field begins with; `whole` when nothing follows its name: only then is it numbered. */
static graft_status first_value(formatter *f, const char *p, size_t n, bool whole, gr_jv *out) {
    gr_jrun *run = f->run;
    int64_t index = 0;
    bool digits = n > 0, found = false, automatic = !n && whole;
    for (size_t i = 0; i < n; i++) digits &= p[i] >= '0' && p[i] <= '9';
    if (automatic || digits) {
        if (whole && (n ? f->next > 0 : f->next < 0))
            return gr_j_raise(run, "cannot mix automatic and manual field numbering");
        if (automatic)
            index = f->next++;
        else if (gr_j_parse_int(p, n, 10, &index) != 1)
            return gr_j_raise(run, "too many decimal digits in format string");
        else if (whole)
            f->next = -1;
        if ((uint64_t)index >= f->args->n_pos)
            return gr_j_raise(run, "replacement index %lld out of range", (long long)index);
        *out = f->args->pos[index];
        return GRAFT_OK;
    }
    for (size_t i = 0; i < f->args->n_kw && !found; i++) {
        const gr_jstr *name = &f->args->kw_names[i]->str;
        found = name->len == n && !memcmp(name->p, p, n);
        if (found) *out = f->args->kw_values[i];
    }
    if (!found && f->map) found = gr_j_dict_get_text(f->map, p, n, out);
    return found ? GRAFT_OK : gr_j_raise(run, "format has no value for '%.*s'", (int)GR_MIN(n, 100), p);
}

/* name.attr[item]... */
static graft_status field_value(formatter *f, const char *p, size_t n, gr_jv *out) {
    gr_jrun *run = f->run;
    size_t i = 0;
    while (i < n && p[i] != '.' && p[i] != '[') i++;
    GR_TRY(first_value(f, p, i, i == n, out));
    while (i < n) {
        bool item = p[i++] == '[';
        size_t from = i;
        while (i < n && (item ? p[i] != ']' : p[i] != '.' && p[i] != '[')) i++;
        if (i == from) return gr_j_raise(run, "empty attribute in format string");
        if (item && i == n) return gr_j_raise(run, "missing ']' in format string");
        gr_jv key;
        GR_TRY(gr_j_str_view(run, p + from, i - from, &key));
        int64_t index;
        bool digits = true;
        for (size_t k = from; k < i; k++) digits &= p[k] >= '0' && p[k] <= '9';
        if (!item) {
            GR_TRY(gr_j_getattr(run, *out, key.str, out));
            continue;
        }
        if (digits && gr_j_parse_int(p + from, i - from, 10, &index) == 1) key = gr_j_int(index);
        GR_TRY(gr_j_getitem(run, *out, key, out));
        if (++i < n && p[i] != '.' && p[i] != '[')
            return gr_j_raise(run, "only '.' or '[' may follow ']' in format field specifier");
    }
    return GRAFT_OK;
}

static graft_status convert(gr_jrun *run, char how, gr_jv *v) {
    size_t mark = gr_j_mark(run);
    switch (how) {
    case 0: return GRAFT_OK;
    case 's': return gr_j_to_str(run, *v, v);
    case 'r': return gr_j_to_repr(run, *v, v);
    case 'a':
        GR_TRY(gr_j_add_ascii(run, *v));
        return gr_j_take(run, mark, v);
    default: return gr_j_raise(run, "unknown conversion specifier '%c'", how);
    }
}

/* One {field!conversion:spec}, without the braces. */
static graft_status add_field(formatter *f, const char *p, size_t n, int depth) {
    gr_jrun *run = f->run;
    size_t end = 0;
    for (bool item = false; end < n && (item || (p[end] != '!' && p[end] != ':')); end++) {
        if (p[end] == '[') item = true;
        if (p[end] == ']') item = false;
        if (p[end] == '{') return gr_j_raise(run, "unexpected '{' in field name");
    }
    gr_jv v, spec;
    char how = 0;
    GR_TRY(field_value(f, p, end, &v));
    if (end < n && p[end] == '!') {
        if (end + 1 >= n) return gr_j_raise(run, "unmatched '{' in format spec");
        how = p[end + 1];
        end += 2;
        if (end < n && p[end] != ':') return gr_j_raise(run, "expected ':' after conversion specifier");
    }
    GR_TRY(convert(run, how, &v));
    size_t mark = gr_j_mark(run);
    if (end < n) GR_TRY(expand(f, p + end + 1, n - end - 1, depth - 1));
    GR_TRY(gr_j_take(run, mark, &spec));
    GR_TRY(gr_j_add_formatted(run, v, spec.str->p, spec.str->len));
    if (!f->safe || (v.kind == GR_JSTR && v.str->safe)) return GRAFT_OK;
    GR_TRY(gr_j_take(run, mark, &v));
    gr_j_add_escaped(&run->scratch, v.str->p, v.str->len);
    return GRAFT_OK;
}

static graft_status expand(formatter *f, const char *p, size_t n, int depth) {
    gr_jrun *run = f->run;
    if (depth < 0) return gr_j_raise(run, "max string recursion exceeded");
    GR_TRY(gr_j_work(run, n));
    for (size_t i = 0; i < n;) {
        char c = p[i++];
        if (c != '{' && c != '}') {
            gr_buf_add_char(&run->scratch, c);
            continue;
        }
        if (i < n && p[i] == c) {
            gr_buf_add_char(&run->scratch, c);
            i++;
            continue;
        }
        if (c == '}') return gr_j_raise(run, "single '}' encountered in format string");
        size_t from = i, open = 1;
        for (; i < n && open; i++) open += (p[i] == '{') - (p[i] == '}');
        if (open) return gr_j_raise(run, "expected '}' before end of string");
        GR_TRY(add_field(f, p + from, i - 1 - from, depth));
    }
    return GRAFT_OK;
}

graft_status gr_j_str_format(gr_jrun *run, gr_jstr *format, const gr_jargs *args, gr_jdict *map, gr_jv *out) {
    formatter f = {.run = run, .args = args, .map = map, .safe = format->safe};
    size_t mark = gr_j_mark(run);
    GR_TRY(expand(&f, format->p, format->len, 2));
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = format->safe;
    return GRAFT_OK;
}
