/* Attributes, items and slices. obj.name prefers what Python's object has as attribute and falls back to obj["name"];
 * obj["name"] prefers the item. What the sandbox hides (names with an underscore that exist, methods that would
 * change the object) is undefined, so that it prints as nothing and fails when it is used. */
#include "text/jinja_run.h"

/* Attributes with underscores that every Python object or one of the types here has. */
static bool is_python_internal(const gr_jstr *name) {
    static const char *const names[] = {
        "__class__",      "__class_getitem__", "__contains__",     "__delattr__",  "__delitem__",   "__dict__",
        "__dir__",        "__doc__",           "__eq__",           "__format__",   "__ge__",        "__getattribute__",
        "__getitem__",    "__getstate__",      "__gt__",           "__hash__",     "__init__",      "__init_subclass__",
        "__ior__",        "__iter__",          "__le__",           "__len__",      "__lt__",        "__module__",
        "__ne__",         "__new__",           "__or__",           "__reduce__",   "__reduce_ex__", "__repr__",
        "__reversed__",   "__ror__",           "__setattr__",      "__setitem__",  "__sizeof__",    "__str__",
        "__subclasshook__"};
    for (size_t i = 0; i < GR_COUNT(names); i++)
        if (name->len == strlen(names[i]) && !memcmp(name->p, names[i], name->len)) return true;
    return false;
}

static bool is(const gr_jstr *name, const char *text) {
    return name->len == strlen(text) && !memcmp(name->p, text, name->len);
}

static graft_status number_attr(gr_jv v, const gr_jstr *name, gr_jv *out, bool *found) {
    int64_t i;
    bool whole = gr_j_as_int(v, &i);
    *found = true;
    if (is(name, "real") || (whole && is(name, "numerator")))
        *out = whole ? gr_j_int(i) : v;
    else if (is(name, "imag"))
        *out = whole ? gr_j_int(0) : gr_j_float(0);
    else if (whole && is(name, "denominator"))
        *out = gr_j_int(1);
    else
        *found = false;
    return GRAFT_OK;
}

static graft_status macro_attr(gr_jrun *run, const gr_jmacro *m, const gr_jstr *name, gr_jv *out, bool *found) {
    const gr_jmacro_code *code = m->code;
    *found = true;
    if (is(name, "name")) {
        *out = gr_j_none();
        return code->name ? gr_j_str_view(run, code->name->str.p, code->name->str.len, out) : GRAFT_OK;
    }
    if (is(name, "arguments")) {
        gr_jv arg;
        GR_TRY(gr_j_seq(run, GR_JTUPLE, code->n_params, out));
        for (const gr_jnode *p = code->params; p; p = p->next) {
            GR_TRY(gr_j_str_view(run, p->name->str.p, p->name->str.len, &arg));
            GR_TRY(gr_j_push(run, out->seq, arg));
        }
        return GRAFT_OK;
    }
    if (is(name, "catch_kwargs"))
        *out = gr_j_bool(code->takes_kwargs);
    else if (is(name, "catch_varargs"))
        *out = gr_j_bool(code->takes_varargs);
    else if (is(name, "caller"))
        *out = gr_j_bool(code->takes_caller);
    else if (is(name, "explicit_caller"))
        *out = gr_j_bool(code->explicit_caller);
    else
        *found = false;
    return GRAFT_OK;
}

/* Data attributes; methods are looked up by the caller. */
static graft_status data_attr(gr_jrun *run, gr_jv obj, const gr_jstr *name, gr_jv *out, bool *found) {
    *found = false;
    switch (obj.kind) {
    case GR_JBOOL:
    case GR_JINT:
    case GR_JFLOAT: return number_attr(obj, name, out, found);
    case GR_JNAMESPACE: *found = gr_j_dict_get_text(obj.dict, name->p, name->len, out); return GRAFT_OK;
    case GR_JLOOP: return gr_j_loop_attr(run, obj.loop, name, out, found);
    case GR_JMACRO: return macro_attr(run, obj.macro, name, out, found);
    case GR_JTUPLE:
        *found = obj.seq->group && (is(name, "grouper") || is(name, "list"));
        if (*found) *out = obj.seq->items[is(name, "list")];
        return GRAFT_OK;
    case GR_JRANGE:
        *found = is(name, "start") || is(name, "stop") || is(name, "step");
        if (*found)
            *out = gr_j_int(is(name, "start")  ? obj.range->start
                            : is(name, "stop") ? obj.range->stop
                                               : obj.range->step);
        return GRAFT_OK;
    case GR_JCYCLER:
        *found = is(name, "current") || is(name, "pos");
        if (*found) *out = is(name, "pos") ? gr_j_int((int64_t)obj.cycler->pos) : obj.cycler->items[obj.cycler->pos];
        return GRAFT_OK;
    case GR_JJOINER:
        *found = is(name, "sep") || is(name, "used");
        if (*found) *out = is(name, "sep") ? obj.joiner->sep : gr_j_bool(obj.joiner->used);
        return GRAFT_OK;
    default: return GRAFT_OK;
    }
}

static graft_status hidden(gr_jrun *run, gr_jv obj, const gr_jstr *name, gr_jv *out) {
    size_t mark = gr_j_mark(run);
    gr_buf_add_format(&run->scratch, "access to attribute '%.*s' of '%s' object is unsafe.", (int)GR_MIN(name->len, 100),
                      name->p, gr_j_type(obj));
    gr_buf_add_char(&run->scratch, '\0');
    gr_jv hint;
    GR_TRY(gr_j_take(run, mark, &hint));
    return gr_j_undefined(run, hint.str->p, out);
}

graft_status gr_j_attribute(gr_jrun *run, gr_jv obj, const gr_jstr *name, gr_jv *out, bool *found) {
    *found = false;
    if (name->len && name->p[0] == '_' && obj.kind != GR_JNAMESPACE) {
        *found = is_python_internal(name);
        if (*found) return hidden(run, obj, name, out);
    }
    if (obj.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, obj);
    if (obj.kind == GR_JSELF) return GRAFT_OK;
    GR_TRY(data_attr(run, obj, name, out, found));
    if (*found) return GRAFT_OK;
    const gr_jmethod_def *def = gr_j_find_method(obj, name->p, name->len);
    if (!def) return GRAFT_OK;
    *found = true;
    if (!def->fn) return hidden(run, obj, name, out);
    gr_jmethod *m = gr_j_new(run, sizeof *m);
    if (!m) return gr_j_no_memory(run);
    *m = (gr_jmethod){.self = obj, .def = def};
    *out = (gr_jv){.kind = GR_JMETHOD, .method = m};
    return GRAFT_OK;
}

static graft_status undefined_of(gr_jrun *run, gr_jv obj, gr_jv key, gr_jv *out) {
    return gr_j_undefined_name(run, gr_j_type(obj), key, out);
}

/* obj[key] without attributes. */
static graft_status item_of(gr_jrun *run, gr_jv obj, gr_jv key, gr_jv *out, bool *found) {
    int64_t i;
    *found = false;
    if (obj.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, obj);
    if (obj.kind == GR_JDICT) {
        if (key.kind == GR_JLIST || key.kind == GR_JDICT) return GRAFT_OK; /* unhashable: no such item */
        return gr_j_dict_get(run, obj.dict, key, out, found);
    }
    if (obj.kind == GR_JSELF && key.kind == GR_JSTR) {
        const graft_template *t = run->t;
        for (size_t k = 0; k < t->n_blocks && !*found; k++) {
            const gr_jstr *name = &t->blocks[k]->name->str;
            *found = name->len == key.str->len && !memcmp(name->p, key.str->p, name->len);
            if (*found) *out = (gr_jv){.kind = GR_JBLOCK, .block = t->blocks[k]};
        }
        return GRAFT_OK;
    }
    bool indexed = obj.kind == GR_JLIST || obj.kind == GR_JTUPLE || obj.kind == GR_JSTR || obj.kind == GR_JRANGE;
    if (!indexed || !gr_j_as_int(key, &i)) return GRAFT_OK;
    size_t n;
    GR_TRY(gr_j_len(run, obj, &n));
    if (i < 0) i += (int64_t)n;
    if (i < 0 || (uint64_t)i >= n) return GRAFT_OK;
    *found = true;
    if (obj.kind == GR_JRANGE) {
        *out = gr_j_int(gr_j_range_at(obj.range, (uint64_t)i));
    } else if (obj.kind == GR_JSTR) {
        size_t from = gr_j_offset(obj.str, (size_t)i), to = from + 1;
        while (to < obj.str->len && ((unsigned char)obj.str->p[to] & 0xC0) == 0x80) to++;
        if (gr_j_chars(obj.str) != obj.str->len) GR_TRY(gr_j_work(run, from));
        return gr_j_str_sub(run, obj.str, obj.str->p + from, to - from, out);
    } else {
        *out = obj.seq->items[i];
    }
    return GRAFT_OK;
}

graft_status gr_j_getattr(gr_jrun *run, gr_jv obj, const gr_jstr *name, gr_jv *out) {
    bool found;
    if (obj.kind == GR_JDICT) {
        /* The most frequent case: a key that is no name of an attribute. */
        bool method = (name->len && name->p[0] == '_') || gr_j_find_method(obj, name->p, name->len);
        if (!method && gr_j_dict_get_text(obj.dict, name->p, name->len, out)) return GRAFT_OK;
    }
    GR_TRY(gr_j_attribute(run, obj, name, out, &found));
    if (found) return GRAFT_OK;
    gr_jv key;
    GR_TRY(gr_j_str_view(run, name->p, name->len, &key));
    GR_TRY(item_of(run, obj, key, out, &found));
    return found ? GRAFT_OK : undefined_of(run, obj, key, out);
}

graft_status gr_j_getitem(gr_jrun *run, gr_jv obj, gr_jv key, gr_jv *out) {
    bool found;
    GR_TRY(item_of(run, obj, key, out, &found));
    if (!found && key.kind == GR_JSTR) GR_TRY(gr_j_attribute(run, obj, key.str, out, &found));
    return found ? GRAFT_OK : undefined_of(run, obj, key, out);
}

static graft_status slice_index(gr_jrun *run, gr_jv v, bool *given, int64_t *out) {
    *given = v.kind != GR_JNONE && v.kind != GR_JMISSING;
    if (*given && !gr_j_as_int(v, out)) return gr_j_raise(run, "slice indices must be integers or None");
    return GRAFT_OK;
}

static int64_t clamp(int64_t i, int64_t n, int64_t lo, int64_t hi) {
    if (i < 0) i += n;
    return i < lo ? lo : i > hi ? hi : i;
}

typedef struct bounds {
    int64_t start, stop, step, count;
} bounds;

static graft_status slice_bounds(gr_jrun *run, const struct gr_jslice *s, int64_t n, bounds *out) {
    bool has_start, has_stop, has_step;
    int64_t start = 0, stop = 0, step = 1;
    GR_TRY(slice_index(run, s->start, &has_start, &start));
    GR_TRY(slice_index(run, s->stop, &has_stop, &stop));
    GR_TRY(slice_index(run, s->step, &has_step, &step));
    if (!step) return gr_j_raise(run, "slice step cannot be zero");
    if (step < -INT64_MAX) step = -INT64_MAX;
    int64_t lo = step > 0 ? 0 : -1, hi = step > 0 ? n : n - 1;
    start = has_start ? clamp(start, n, lo, hi) : step > 0 ? lo : hi;
    stop = has_stop ? clamp(stop, n, lo, hi) : step > 0 ? hi : lo;
    int64_t count = 0;
    if (step > 0 && stop > start) count = (stop - start - 1) / step + 1;
    if (step < 0 && stop < start) count = (start - stop - 1) / -step + 1;
    *out = (bounds){.start = start, .stop = stop, .step = step, .count = count};
    return GRAFT_OK;
}

static graft_status slice_str(gr_jrun *run, gr_jstr *s, bounds b, gr_jv *out) {
    if (b.step == 1 || b.count <= 1) {
        size_t from = b.count ? gr_j_offset(s, (size_t)b.start) : 0;
        size_t to = b.count ? gr_j_offset(s, (size_t)(b.start + b.count)) : 0;
        return gr_j_str_sub(run, s, s->p + from, to - from, out);
    }
    /* Offsets of all characters first: finding each one from the start would be quadratic. */
    size_t n = gr_j_chars(s), at = 0, mark = gr_j_mark(run);
    size_t *offsets = gr_j_new(run, (n + 1) * sizeof *offsets);
    if (!offsets) return gr_j_no_memory(run);
    for (size_t i = 0; i < s->len; i++)
        if (((unsigned char)s->p[i] & 0xC0) != 0x80) offsets[at++] = i;
    offsets[n] = s->len;
    bool safe = s->safe;
    for (int64_t i = 0; i < b.count; i++) {
        size_t k = (size_t)(b.start + i * b.step);
        gr_buf_add(&run->scratch, s->p + offsets[k], offsets[k + 1] - offsets[k]);
    }
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = safe;
    return GRAFT_OK;
}

graft_status gr_j_slice(gr_jrun *run, gr_jv obj, const struct gr_jslice *s, gr_jv *out) {
    size_t n;
    bounds b = {0};
    if (obj.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, obj);
    if (obj.kind != GR_JLIST && obj.kind != GR_JTUPLE && obj.kind != GR_JSTR && obj.kind != GR_JRANGE)
        return gr_j_raise(run, "'%s' object cannot be sliced", gr_j_type(obj));
    GR_TRY(gr_j_len(run, obj, &n));
    GR_TRY(slice_bounds(run, s, (int64_t)n, &b));
    if (obj.kind == GR_JSTR) {
        GR_TRY(gr_j_work(run, obj.str->len));
        return slice_str(run, obj.str, b, out);
    }
    if (obj.kind == GR_JRANGE) {
        struct gr_jrange *r = gr_j_new(run, sizeof *r);
        if (!r) return gr_j_no_memory(run);
        /* Unsigned, because a step that is never taken may leave 64 bits. */
        uint64_t step = (uint64_t)obj.range->step * (uint64_t)b.step;
        int64_t start = gr_j_range_at(obj.range, (uint64_t)b.start);
        *r = (struct gr_jrange){.start = start, .step = (int64_t)step, .n = (size_t)b.count};
        r->stop = gr_j_range_at(obj.range, (uint64_t)b.stop);
        *out = (gr_jv){.kind = GR_JRANGE, .range = r};
        return GRAFT_OK;
    }
    GR_TRY(gr_j_work(run, (size_t)b.count * 16));
    GR_TRY(gr_j_seq(run, obj.kind, (size_t)b.count, out));
    for (int64_t i = 0; i < b.count; i++) out->seq->items[i] = obj.seq->items[b.start + i * b.step];
    out->seq->n = (size_t)b.count;
    return GRAFT_OK;
}

static graft_status path_part(gr_jrun *run, const char *p, size_t n, gr_jv *out) {
    bool digits = n > 0;
    for (size_t i = 0; i < n; i++) digits &= p[i] >= '0' && p[i] <= '9';
    int64_t index;
    if (digits && gr_j_parse_int(p, n, 10, &index) == 1) {
        *out = gr_j_int(index);
        return GRAFT_OK;
    }
    return gr_j_str_view(run, p, n, out);
}

graft_status gr_j_path(gr_jrun *run, gr_jv item, gr_jv path, gr_jv fallback, gr_jv *out) {
    bool has_fallback = fallback.kind != GR_JNONE && fallback.kind != GR_JMISSING;
    if (path.kind != GR_JSTR) {
        if (path.kind != GR_JNONE && path.kind != GR_JMISSING) GR_TRY(gr_j_getitem(run, item, path, &item));
        *out = has_fallback && item.kind == GR_JUNDEFINED ? fallback : item;
        return GRAFT_OK;
    }
    const char *p = path.str->p, *end = p + path.str->len;
    for (;;) {
        const char *dot = memchr(p, '.', (size_t)(end - p));
        gr_jv part;
        GR_TRY(path_part(run, p, (size_t)((dot ? dot : end) - p), &part));
        GR_TRY(gr_j_getitem(run, item, part, &item));
        if (has_fallback && item.kind == GR_JUNDEFINED) item = fallback;
        if (!dot) break;
        p = dot + 1;
    }
    *out = item;
    return GRAFT_OK;
}
