/* The methods of str, as templates call them. */
#include "text/jinja_str.h"
#include "text/jinja_unicode.h"

#define METHOD(name)                                                                                                   \
    static graft_status name(gr_jrun *run, gr_jv self, gr_jv *args, const gr_jargs *raw, gr_jv *out)
#define UNUSED (void)run, (void)self, (void)args, (void)raw

METHOD(str_upper) { UNUSED; return gr_j_case(run, self.str, GR_JUPPER, out); }
METHOD(str_lower) { UNUSED; return gr_j_case(run, self.str, GR_JLOWER, out); }
METHOD(str_title) { UNUSED; return gr_j_case(run, self.str, GR_JTITLE, out); }
METHOD(str_capitalize) { UNUSED; return gr_j_case(run, self.str, GR_JCAPITALIZE, out); }
METHOD(str_swapcase) { UNUSED; return gr_j_case(run, self.str, GR_JSWAP, out); }
METHOD(str_casefold) { UNUSED; return gr_j_case(run, self.str, GR_JFOLD, out); }

static graft_status is(bool value, gr_jv *out) {
    *out = gr_j_bool(value);
    return GRAFT_OK;
}

static graft_status all(gr_jrun *run, gr_jv self, bool (*property)(int32_t cp), bool when_empty, gr_jv *out) {
    GR_TRY(gr_j_char_work(run, self.str->len));
    return is(gr_j_is_all(self.str, property, when_empty), out);
}

static graft_status cased(gr_jrun *run, gr_jv self, gr_jcase how, gr_jv *out) {
    GR_TRY(gr_j_char_work(run, self.str->len));
    return is(gr_j_is_cased_as(self.str, how), out);
}

static bool is_ascii(int32_t cp) { return cp >= 0 && cp < 0x80; }

METHOD(str_isalpha) { UNUSED; return all(run, self, gr_u_is_alpha, false, out); }
METHOD(str_isalnum) { UNUSED; return all(run, self, gr_u_is_alnum, false, out); }
METHOD(str_isdigit) { UNUSED; return all(run, self, gr_u_is_digit, false, out); }
METHOD(str_isdecimal) { UNUSED; return all(run, self, gr_u_is_decimal, false, out); }
METHOD(str_isnumeric) { UNUSED; return all(run, self, gr_u_is_numeric, false, out); }
METHOD(str_isspace) { UNUSED; return all(run, self, gr_u_is_space, false, out); }
METHOD(str_isascii) { UNUSED; return all(run, self, is_ascii, true, out); }
METHOD(str_isprintable) { UNUSED; return all(run, self, gr_u_is_printable, true, out); }
METHOD(str_isidentifier) {
    UNUSED;
    GR_TRY(gr_j_char_work(run, self.str->len));
    return is(gr_j_is_identifier(self.str), out);
}
METHOD(str_islower) { UNUSED; return cased(run, self, GR_JLOWER, out); }
METHOD(str_isupper) { UNUSED; return cased(run, self, GR_JUPPER, out); }
METHOD(str_istitle) { UNUSED; return cased(run, self, GR_JTITLE, out); }

static graft_status strip(gr_jrun *run, gr_jv self, gr_jv *args, int sides, gr_jv *out) {
    gr_jstr *chars = NULL;
    if (args[0].kind != GR_JNONE) GR_TRY(gr_j_arg_str(run, "strip", args[0], &chars));
    return gr_j_strip(run, self.str, chars, sides, out);
}
METHOD(str_strip) { UNUSED; return strip(run, self, args, 3, out); }
METHOD(str_lstrip) { UNUSED; return strip(run, self, args, 1, out); }
METHOD(str_rstrip) { UNUSED; return strip(run, self, args, 2, out); }

static graft_status split(gr_jrun *run, gr_jv self, gr_jv *args, bool from_right, gr_jv *out) {
    gr_jstr *sep = NULL;
    int64_t max = -1;
    if (args[0].kind != GR_JNONE) GR_TRY(gr_j_arg_str(run, "split", args[0], &sep));
    GR_TRY(gr_j_arg_int(run, "split", args[1], &max));
    return gr_j_split(run, self.str, sep, max, from_right, out);
}
METHOD(str_split) { UNUSED; return split(run, self, args, false, out); }
METHOD(str_rsplit) { UNUSED; return split(run, self, args, true, out); }

METHOD(str_splitlines) {
    UNUSED;
    int64_t keep = 0;
    GR_TRY(gr_j_arg_int(run, "splitlines", args[0], &keep));
    return gr_j_splitlines(run, self.str, keep != 0, out);
}

static graft_status partition(gr_jrun *run, gr_jv self, gr_jv *args, bool from_right, gr_jv *out) {
    gr_jstr *sep;
    GR_TRY(gr_j_arg_str(run, "partition", args[0], &sep));
    return gr_j_partition(run, self.str, sep, from_right, out);
}
METHOD(str_partition) { UNUSED; return partition(run, self, args, false, out); }
METHOD(str_rpartition) { UNUSED; return partition(run, self, args, true, out); }

METHOD(str_replace) {
    UNUSED;
    gr_jstr *from, *to;
    int64_t count = -1;
    GR_TRY(gr_j_arg_str(run, "replace", args[0], &from));
    if (self.str->safe) GR_TRY(gr_j_escape(run, args[1], &args[1]));
    GR_TRY(gr_j_arg_str(run, "replace", args[1], &to));
    GR_TRY(gr_j_arg_int(run, "replace", args[2], &count));
    return gr_j_replace(run, self.str, from, to, count, out);
}

METHOD(str_join) { UNUSED; return gr_j_join(run, self, args[0], out); }

static graft_status pad(gr_jrun *run, gr_jv self, gr_jv *args, char side, gr_jv *out) {
    int64_t width;
    gr_jstr *fill = NULL;
    GR_TRY(gr_j_arg_int(run, "center", args[0], &width));
    if (self.str->safe && !gr_j_is_missing(args[1])) GR_TRY(gr_j_escape(run, args[1], &args[1]));
    GR_TRY(gr_j_arg_str(run, "center", args[1], &fill));
    if (fill && gr_j_chars(fill) != 1) return gr_j_raise(run, "the fill character must be exactly one character long");
    return gr_j_pad(run, self.str, width, fill, side, out);
}
METHOD(str_center) { UNUSED; return pad(run, self, args, 'c', out); }
METHOD(str_ljust) { UNUSED; return pad(run, self, args, 'l', out); }
METHOD(str_rjust) { UNUSED; return pad(run, self, args, 'r', out); }

METHOD(str_zfill) {
    UNUSED;
    int64_t width;
    gr_jstr *s = self.str;
    GR_TRY(gr_j_arg_int(run, "zfill", args[0], &width));
    static const gr_jstr zero = {.p = "0", .len = 1, .chars = 1};
    bool sign = s->len && (s->p[0] == '+' || s->p[0] == '-');
    gr_jv rest, filled;
    GR_TRY(gr_j_str_sub(run, s, s->p + sign, s->len - sign, &rest));
    if (width < (int64_t)sign) width = sign;
    GR_TRY(gr_j_pad(run, rest.str, width - sign, &zero, 'r', &filled));
    if (!sign) {
        *out = filled;
        return GRAFT_OK;
    }
    size_t mark = gr_j_mark(run);
    gr_buf_add_char(&run->scratch, s->p[0]);
    gr_buf_add(&run->scratch, filled.str->p, filled.str->len);
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = s->safe;
    return GRAFT_OK;
}

METHOD(str_expandtabs) {
    UNUSED;
    int64_t size = 8;
    GR_TRY(gr_j_arg_int(run, "expandtabs", args[0], &size));
    return gr_j_expandtabs(run, self.str, size, out);
}

static bool at_start(const gr_jstr *s, const gr_jstr *t) { return s->len >= t->len && !memcmp(s->p, t->p, t->len); }

static bool at_end(const gr_jstr *s, const gr_jstr *t) {
    return s->len >= t->len && !memcmp(s->p + s->len - t->len, t->p, t->len);
}

METHOD(str_removeprefix) {
    UNUSED;
    gr_jstr *s = self.str, *t;
    GR_TRY(gr_j_arg_str(run, "removeprefix", args[0], &t));
    size_t k = at_start(s, t) ? t->len : 0;
    return gr_j_str_sub(run, s, s->p + k, s->len - k, out);
}

METHOD(str_removesuffix) {
    UNUSED;
    gr_jstr *s = self.str, *t;
    GR_TRY(gr_j_arg_str(run, "removesuffix", args[0], &t));
    size_t k = at_end(s, t) ? t->len : 0;
    return gr_j_str_sub(run, s, s->p, s->len - k, out);
}

/* The piece s[start:end] that find, count, startswith ... look at, as bytes; *valid false: start is past the end. */
static graft_status range_of(gr_jrun *run, gr_jstr *s, gr_jv start, gr_jv end, gr_jstr *piece, int64_t *first,
                             bool *valid) {
    int64_t n = (int64_t)gr_j_chars(s), lo = 0, hi = n;
    if (start.kind != GR_JNONE) GR_TRY(gr_j_arg_int(run, "start", start, &lo));
    if (end.kind != GR_JNONE) GR_TRY(gr_j_arg_int(run, "end", end, &hi));
    if (hi > n) hi = n;
    if (hi < 0) hi = GR_MAX(hi + n, 0);
    if (lo < 0) lo = GR_MAX(lo + n, 0);
    *valid = lo <= n && lo <= hi;
    *first = lo;
    if (!*valid) return GRAFT_OK;
    GR_TRY(gr_j_work(run, s->len));
    size_t a = gr_j_offset(s, (size_t)lo), b = gr_j_offset(s, (size_t)hi);
    *piece = (gr_jstr){.p = s->p + a, .len = b - a, .chars = SIZE_MAX};
    return GRAFT_OK;
}

/* Index of the first (last) occurrence, -1 when there is none. */
static graft_status find(gr_jrun *run, gr_jv self, gr_jv *args, bool from_right, int64_t *out) {
    gr_jstr *what, piece;
    bool valid;
    int64_t first;
    GR_TRY(gr_j_arg_str(run, "find", args[0], &what));
    GR_TRY(range_of(run, self.str, args[1], args[2], &piece, &first, &valid));
    *out = -1;
    if (!valid) return GRAFT_OK;
    if (from_right) GR_TRY(gr_j_char_work(run, piece.len));
    const char *hit = from_right ? gr_j_rfind(piece.p, piece.len, what->p, what->len)
                                 : gr_j_find(piece.p, piece.len, what->p, what->len);
    if (!hit) return GRAFT_OK;
    gr_jstr before = {.p = piece.p, .len = (size_t)(hit - piece.p), .chars = SIZE_MAX};
    *out = first + (int64_t)gr_j_chars(&before);
    return GRAFT_OK;
}

static graft_status find_or_raise(gr_jrun *run, gr_jv self, gr_jv *args, bool from_right, bool raise, gr_jv *out) {
    int64_t at;
    GR_TRY(find(run, self, args, from_right, &at));
    if (raise && at < 0) return gr_j_raise(run, "substring not found");
    *out = gr_j_int(at);
    return GRAFT_OK;
}
METHOD(str_find) { UNUSED; return find_or_raise(run, self, args, false, false, out); }
METHOD(str_rfind) { UNUSED; return find_or_raise(run, self, args, true, false, out); }
METHOD(str_index) { UNUSED; return find_or_raise(run, self, args, false, true, out); }
METHOD(str_rindex) { UNUSED; return find_or_raise(run, self, args, true, true, out); }

METHOD(str_count) {
    UNUSED;
    gr_jstr *what, piece;
    bool valid;
    int64_t first, n = 0;
    GR_TRY(gr_j_arg_str(run, "count", args[0], &what));
    GR_TRY(range_of(run, self.str, args[1], args[2], &piece, &first, &valid));
    if (valid && !what->len) n = (int64_t)gr_j_chars(&piece) + 1;
    for (size_t at = 0; valid && what->len;) {
        const char *hit = gr_j_find(piece.p + at, piece.len - at, what->p, what->len);
        if (!hit) break;
        n++;
        at = (size_t)(hit - piece.p) + what->len;
        GR_TRY(gr_j_work(run, what->len));
    }
    *out = gr_j_int(n);
    return GRAFT_OK;
}

/* startswith and endswith take one string or a tuple of them. */
static graft_status affix(gr_jrun *run, gr_jv self, gr_jv *args, bool (*matches)(const gr_jstr *, const gr_jstr *),
                          gr_jv *out) {
    gr_jstr piece, *what;
    bool valid, found = false;
    int64_t first;
    GR_TRY(range_of(run, self.str, args[1], args[2], &piece, &first, &valid));
    bool tuple = args[0].kind == GR_JTUPLE;
    size_t n = tuple ? args[0].seq->n : 1;
    for (size_t i = 0; i < n && !found; i++) {
        gr_jv item = tuple ? args[0].seq->items[i] : args[0];
        if (item.kind != GR_JSTR)
            return gr_j_raise(run, "first argument must be str or a tuple of str, not %s", gr_j_type(item));
        what = item.str;
        found = valid && matches(&piece, what);
        GR_TRY(gr_j_work(run, what->len));
    }
    *out = gr_j_bool(found);
    return GRAFT_OK;
}
METHOD(str_startswith) { UNUSED; return affix(run, self, args, at_start, out); }
METHOD(str_endswith) { UNUSED; return affix(run, self, args, at_end, out); }

METHOD(str_format) { UNUSED; return gr_j_str_format(run, self.str, raw, NULL, out); }

METHOD(str_format_map) {
    UNUSED;
    static const gr_jargs none = {0};
    if (args[0].kind != GR_JDICT) return gr_j_raise(run, "format_map() needs a dict, not %s", gr_j_type(args[0]));
    return gr_j_str_format(run, self.str, &none, args[0].dict, out);
}

METHOD(str_unsupported) {
    UNUSED;
    (void)out;
    return gr_j_fail(run, GRAFT_ERR_UNSUPPORTED, "encode, translate and maketrans are not supported");
}

static const gr_jmethod_def methods[] = {
    {"capitalize", "", str_capitalize},
    {"casefold", "", str_casefold},
    {"center", "width fillchar? /", str_center},
    {"count", "sub start? end? /", str_count},
    {"encode", NULL, str_unsupported},
    {"endswith", "suffix start? end? /", str_endswith},
    {"expandtabs", "tabsize?", str_expandtabs},
    {"find", "sub start? end? /", str_find},
    {"format", NULL, str_format},
    {"format_map", "mapping /", str_format_map},
    {"index", "sub start? end? /", str_index},
    {"isalnum", "", str_isalnum},
    {"isalpha", "", str_isalpha},
    {"isascii", "", str_isascii},
    {"isdecimal", "", str_isdecimal},
    {"isdigit", "", str_isdigit},
    {"isidentifier", "", str_isidentifier},
    {"islower", "", str_islower},
    {"isnumeric", "", str_isnumeric},
    {"isprintable", "", str_isprintable},
    {"isspace", "", str_isspace},
    {"istitle", "", str_istitle},
    {"isupper", "", str_isupper},
    {"join", "iterable /", str_join},
    {"ljust", "width fillchar? /", str_ljust},
    {"lower", "", str_lower},
    {"lstrip", "chars? /", str_lstrip},
    {"maketrans", NULL, str_unsupported},
    {"partition", "sep /", str_partition},
    {"removeprefix", "prefix /", str_removeprefix},
    {"removesuffix", "suffix /", str_removesuffix},
    {"replace", "old new count? /", str_replace},
    {"rfind", "sub start? end? /", str_rfind},
    {"rindex", "sub start? end? /", str_rindex},
    {"rjust", "width fillchar? /", str_rjust},
    {"rpartition", "sep /", str_rpartition},
    {"rsplit", "sep? maxsplit?", str_rsplit},
    {"rstrip", "chars? /", str_rstrip},
    {"split", "sep? maxsplit?", str_split},
    {"splitlines", "keepends?", str_splitlines},
    {"startswith", "prefix start? end? /", str_startswith},
    {"strip", "chars? /", str_strip},
    {"swapcase", "", str_swapcase},
    {"title", "", str_title},
    {"translate", NULL, str_unsupported},
    {"upper", "", str_upper},
    {"zfill", "width /", str_zfill},
};

const gr_jmethod_def *gr_j_find_str_method(const char *name, size_t len) {
    for (size_t i = 0; i < GR_COUNT(methods); i++)
        if (strlen(methods[i].name) == len && !memcmp(methods[i].name, name, len)) return &methods[i];
    return NULL;
}
