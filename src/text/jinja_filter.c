/* The table of filters, and those of numbers and single values. */
#include "text/jinja_filter.h"

#include <math.h>

#define FILTER(name) static GR_JFILTER(name)
#define UNUSED (void)run, (void)args, (void)raw

FILTER(filter_abs) {
    UNUSED;
    int64_t i;
    if (args[0].kind == GR_JFLOAT) {
        *out = gr_j_float(fabs(args[0].f));
        return GRAFT_OK;
    }
    if (!gr_j_as_int(args[0], &i)) return gr_j_raise(run, "bad operand type for abs(): '%s'", gr_j_type(args[0]));
    return i < 0 ? gr_j_negate(run, args[0], out) : gr_j_plus(run, args[0], out);
}

FILTER(filter_attr) {
    UNUSED;
    gr_jstr *name;
    bool found;
    GR_TRY(gr_j_arg_str(run, "attr", args[1], &name));
    GR_TRY(gr_j_attribute(run, args[0], name, out, &found));
    return found ? GRAFT_OK : gr_j_undefined_name(run, gr_j_type(args[0]), args[1], out);
}

FILTER(filter_default) {
    UNUSED;
    bool also_false = false, truth = true;
    GR_TRY(gr_j_arg_truth(run, args[2], &also_false));
    if (also_false) GR_TRY(gr_j_truth(run, args[0], &truth));
    if (args[0].kind != GR_JUNDEFINED && truth) {
        *out = args[0];
        return GRAFT_OK;
    }
    *out = args[1];
    return gr_j_is_missing(args[1]) ? gr_j_str_text(run, "", out) : GRAFT_OK;
}

static graft_status number_of(gr_jv v, double *out, bool *ok) {
    int64_t i;
    *ok = true;
    if (gr_j_as_int(v, &i))
        *out = (double)i;
    else if (v.kind == GR_JFLOAT)
        *out = v.f;
    else
        *ok = v.kind == GR_JSTR && gr_j_parse_float(v.str->p, v.str->len, out);
    return GRAFT_OK;
}

FILTER(filter_float) {
    UNUSED;
    double f;
    bool ok;
    if (args[0].kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, args[0]);
    GR_TRY(number_of(args[0], &f, &ok));
    *out = ok ? gr_j_float(f) : gr_j_is_missing(args[1]) ? gr_j_float(0) : args[1];
    return GRAFT_OK;
}

FILTER(filter_int) {
    UNUSED;
    int64_t base = 10, i;
    double f;
    bool ok;
    gr_jv v = args[0];
    if (v.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, v);
    if (v.kind == GR_JSTR) {
        bool has_base = gr_j_is_missing(args[2]) || gr_j_as_int(args[2], &base);
        int read = has_base && base >= 0 && base <= 36 ? gr_j_parse_int(v.str->p, v.str->len, (int)base, &i) : 0;
        if (read < 0) return gr_j_fail(run, GRAFT_ERR_LIMIT, "an integer leaves the 64 bits it can have");
        *out = gr_j_int(i);
        if (read) return GRAFT_OK;
    }
    if (gr_j_as_int(v, &i)) {
        *out = gr_j_int(i);
        return GRAFT_OK;
    }
    GR_TRY(number_of(v, &f, &ok));
    if (ok && isinf(f) && v.kind == GR_JFLOAT) return gr_j_float_to_int(run, f, out);
    if (ok && isfinite(f)) return gr_j_float_to_int(run, f, out);
    *out = gr_j_is_missing(args[1]) ? gr_j_int(0) : args[1];
    return GRAFT_OK;
}

/* Python's round(int, negative): half to even. */
static graft_status round_int(gr_jrun *run, int64_t v, int64_t ndigits, gr_jv *out) {
    if (ndigits >= 0) {
        *out = gr_j_int(v);
        return GRAFT_OK;
    }
    int64_t unit = 1;
    for (int64_t i = ndigits; i < 0; i++) {
        if (__builtin_mul_overflow(unit, 10, &unit)) {
            *out = gr_j_int(0);
            return GRAFT_OK;
        }
    }
    int64_t rest = v % unit, down = v - rest, twice_over;
    if (rest < 0) {
        rest += unit;
        if (__builtin_sub_overflow(down, unit, &down)) return gr_j_fail(run, GRAFT_ERR_LIMIT, "integer outside 64 bits");
    }
    bool up = rest > unit - rest || (rest == unit - rest && (down / unit) % 2 != 0);
    if (up && __builtin_add_overflow(down, unit, &twice_over))
        return gr_j_fail(run, GRAFT_ERR_LIMIT, "an integer leaves the 64 bits it can have");
    *out = gr_j_int(up ? twice_over : down);
    return GRAFT_OK;
}

static graft_status round_to_side(gr_jrun *run, double v, int64_t precision, bool up, gr_jv *out) {
    if (precision > 308) return gr_j_raise(run, "round: the precision is too large");
    double scale = precision < 0 ? pow(10.0, (double)precision) : pow(10.0, (double)precision), scaled = v * scale;
    if (!isfinite(scaled)) return gr_j_raise(run, "cannot convert float infinity or NaN to integer");
    *out = gr_j_float((up ? ceil(scaled) : floor(scaled)) / scale);
    return GRAFT_OK;
}

FILTER(filter_round) {
    UNUSED;
    int64_t precision = 0, i;
    bool common = gr_j_is_missing(args[2]) || gr_j_str_is(args[2], "common"), up = gr_j_str_is(args[2], "ceil");
    if (!common && !up && !gr_j_str_is(args[2], "floor")) return gr_j_raise(run, "method must be common, ceil or floor");
    bool whole = common && args[1].kind == GR_JNONE;
    if (!whole) GR_TRY(gr_j_arg_int(run, "round", args[1], &precision));
    if (!gr_j_is_number(args[0])) return gr_j_raise(run, "type %s cannot be rounded", gr_j_type(args[0]));
    if (!common) {
        double f = gr_j_as_int(args[0], &i) ? (double)i : args[0].f;
        return round_to_side(run, f, precision, up, out);
    }
    if (gr_j_as_int(args[0], &i)) return round_int(run, i, precision, out);
    double f = gr_j_round(args[0].f, precision);
    if (whole) return gr_j_float_to_int(run, f, out);
    if (isinf(f) && isfinite(args[0].f)) return gr_j_raise(run, "rounded value too large to represent");
    *out = gr_j_float(f);
    return GRAFT_OK;
}

FILTER(filter_filesizeformat) {
    UNUSED;
    static const char *const prefixes[] = {"k", "M", "G", "T", "P", "E", "Z", "Y"};
    bool binary = false, ok;
    double bytes;
    GR_TRY(gr_j_arg_truth(run, args[1], &binary));
    GR_TRY(number_of(args[0], &bytes, &ok));
    if (!ok) return gr_j_raise(run, "filesizeformat needs a number, not %s", gr_j_type(args[0]));
    double base = binary ? 1024 : 1000, unit = base;
    if (bytes == 1) return gr_j_str_text(run, "1 Byte", out);
    size_t mark = gr_j_mark(run);
    if (bytes < base) {
        gr_jv whole;
        GR_TRY(gr_j_float_to_int(run, bytes, &whole));
        gr_buf_add_format(&run->scratch, "%lld Bytes", (long long)whole.i);
        return gr_j_take(run, mark, out);
    }
    size_t i = 0;
    for (unit *= base; i + 1 < GR_COUNT(prefixes) && bytes >= unit; i++) unit *= base;
    gr_j_add_decimal(&run->scratch, 'f', 1, false, base * bytes / unit);
    gr_buf_add_format(&run->scratch, " %s%sB", !binary ? prefixes[i] : i ? prefixes[i] : "K", binary ? "i" : "");
    return gr_j_take(run, mark, out);
}

FILTER(filter_unsupported) {
    UNUSED;
    (void)out;
    return gr_j_fail(run, GRAFT_ERR_UNSUPPORTED, "the filters random and urlize are not supported");
}

static const gr_jfilter filters[] = {
    {"abs", "", filter_abs},
    {"attr", "name", filter_attr},
    {"batch", "linecount fill_with?", gr_j_filter_batch},
    {"capitalize", "", gr_j_filter_capitalize},
    {"center", "width?", gr_j_filter_center},
    {"count", "", gr_j_filter_length},
    {"d", "default_value? boolean?", filter_default},
    {"default", "default_value? boolean?", filter_default},
    {"dictsort", "case_sensitive? by? reverse?", gr_j_filter_dictsort},
    {"e", "", gr_j_filter_escape},
    {"escape", "", gr_j_filter_escape},
    {"filesizeformat", "binary?", filter_filesizeformat},
    {"first", "", gr_j_filter_first},
    {"float", "default?", filter_float},
    {"forceescape", "", gr_j_filter_forceescape},
    {"format", NULL, gr_j_filter_format},
    {"groupby", "attribute default? case_sensitive?", gr_j_filter_groupby},
    {"indent", "width? first? blank?", gr_j_filter_indent},
    {"int", "default? base?", filter_int},
    {"items", "", gr_j_filter_items},
    {"join", "d? attribute?", gr_j_filter_join},
    {"last", "", gr_j_filter_last},
    {"length", "", gr_j_filter_length},
    {"list", "", gr_j_filter_list},
    {"lower", "", gr_j_filter_lower},
    {"map", NULL, gr_j_filter_map},
    {"max", "case_sensitive? attribute?", gr_j_filter_max},
    {"min", "case_sensitive? attribute?", gr_j_filter_min},
    {"pprint", "", gr_j_filter_pprint},
    {"random", NULL, filter_unsupported},
    {"reject", NULL, gr_j_filter_reject},
    {"rejectattr", NULL, gr_j_filter_rejectattr},
    {"replace", "old new count?", gr_j_filter_replace},
    {"reverse", "", gr_j_filter_reverse},
    {"round", "precision? method?", filter_round},
    {"safe", "", gr_j_filter_safe},
    {"select", NULL, gr_j_filter_select},
    {"selectattr", NULL, gr_j_filter_selectattr},
    {"slice", "slices fill_with?", gr_j_filter_slice},
    {"sort", "reverse? case_sensitive? attribute?", gr_j_filter_sort},
    {"string", "", gr_j_filter_string},
    {"striptags", "", gr_j_filter_striptags},
    {"sum", "attribute? start?", gr_j_filter_sum},
    {"title", "", gr_j_filter_title},
    {"tojson", "ensure_ascii? indent? separators? sort_keys?", gr_j_filter_tojson},
    {"trim", "chars?", gr_j_filter_trim},
    {"truncate", "length? killwords? end? leeway?", gr_j_filter_truncate},
    {"unique", "case_sensitive? attribute?", gr_j_filter_unique},
    {"upper", "", gr_j_filter_upper},
    {"urlencode", "", gr_j_filter_urlencode},
    {"urlize", NULL, filter_unsupported},
    {"wordcount", "", gr_j_filter_wordcount},
    {"wordwrap", "width? break_long_words? wrapstring? break_on_hyphens?", gr_j_filter_wordwrap},
    {"xmlattr", "autospace?", gr_j_filter_xmlattr},
};

const gr_jfilter *gr_j_find_filter(const char *name, size_t len) {
    for (size_t i = 0; i < GR_COUNT(filters); i++)
        if (strlen(filters[i].name) == len && !memcmp(filters[i].name, name, len)) return &filters[i];
    return NULL;
}

graft_status gr_j_call_filter(gr_jrun *run, const gr_jfilter *f, gr_jv value, const gr_jargs *args, gr_jv *out) {
    gr_jv bound[GR_JMAX_PARAMS + 1];
    bound[0] = value;
    if (f->spec) GR_TRY(gr_j_bind(run, f->name, f->spec, args, bound + 1));
    gr_jv result;
    GR_TRY(f->fn(run, bound, args, &result));
    *out = result;
    return GRAFT_OK;
}
