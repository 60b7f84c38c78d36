/* Making values, and the state that every part of a rendering reports to. */
#include "text/jinja_value.h"
#include "text/jinja_run.h"

enum { WORK_UNIT = 64 }; /* bytes of text that count as one step */

void *gr_j_new(gr_jrun *run, size_t n) {
    void *p = gr_arena_alloc(&run->arena, n);
    if (!p) run->asked = n;
    return p;
}

graft_status gr_j_no_memory(gr_jrun *run) {
    const gr_arena *a = &run->arena;
    if (run->asked > a->limit || a->used > a->limit - run->asked - GR_MIN(a->limit - run->asked, 16))
        return gr_j_fail(run, GRAFT_ERR_LIMIT, "the values take more than the limit of %zu bytes", a->limit);
    return gr_fail_memory(run->err);
}

void gr_j_repair(char *text) {
    for (size_t i = 0, n = strlen(text); i < n;) {
        int32_t cp;
        size_t k = gr_utf8_decode(text + i, n - i, &cp);
        if (cp < 0) memset(text + i, '?', k);
        i += k;
    }
}

graft_status gr_j_fail(gr_jrun *run, graft_status status, const char *format, ...) {
    char text[768];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    gr_j_repair(text);
    return gr_fail(run->err, status, "%s:%u: %s", run->t->name, (unsigned)run->line, text);
}

graft_status gr_j_raise_undefined(gr_jrun *run, gr_jv v) {
    const struct gr_jundef *u = v.undef;
    if (!u) return gr_j_raise(run, "a value is undefined");
    if (u->hint) return gr_j_raise(run, "%s", u->hint);
    gr_jv name;
    GR_TRY(gr_j_to_repr(run, u->name, &name));
    int n = (int)GR_MIN(name.str->len, 200);
    if (!u->owner) return gr_j_raise(run, "%.*s is undefined", n, name.str->p);
    return gr_j_raise(run, "'%s' has no %s %.*s", u->owner, u->name.kind == GR_JSTR ? "attribute" : "element", n,
                      name.str->p);
}

graft_status gr_j_work(gr_jrun *run, size_t n) {
    uint64_t before = run->steps;
    run->steps += 1 + n / WORK_UNIT;
    if (run->steps > run->max_steps)
        return gr_j_fail(run, GRAFT_ERR_LIMIT, "rendering takes more than the limit of %llu steps",
                         (unsigned long long)run->max_steps);
    if (before >> 12 != run->steps >> 12) return gr_check_cancel(run->t->ctx, run->err);
    return GRAFT_OK;
}

graft_status gr_j_enter_value(gr_jrun *run) {
    if (run->value_depth >= GR_JMAX_VALUE_NESTING)
        return gr_j_fail(run, GRAFT_ERR_LIMIT, "values nested over %d deep", GR_JMAX_VALUE_NESTING);
    run->value_depth++;
    return gr_j_work(run, 0);
}

graft_status gr_j_take(gr_jrun *run, size_t mark, gr_jv *out) {
    gr_buf *b = &run->scratch;
    if (b->failed == GRAFT_ERR_LIMIT)
        return gr_j_fail(run, GRAFT_ERR_LIMIT, "text takes more than the limit of %zu bytes", b->limit);
    GR_TRY(gr_buf_status(b, run->err));
    GR_TRY(gr_j_work(run, b->len - mark));
    GR_TRY(gr_j_str_copy(run, gr_buf_text(b) + mark, b->len - mark, out));
    b->len = mark;
    return GRAFT_OK;
}

graft_status gr_j_str_view(gr_jrun *run, const char *p, size_t n, gr_jv *out) {
    gr_jstr *s = gr_j_new(run, sizeof *s);
    if (!s) return gr_j_no_memory(run);
    *s = (gr_jstr){.p = p, .len = n, .chars = SIZE_MAX};
    *out = gr_j_of_str(s);
    return GRAFT_OK;
}

graft_status gr_j_str_copy(gr_jrun *run, const char *p, size_t n, gr_jv *out) {
    gr_jstr *s = gr_j_new(run, sizeof *s + n);
    if (!s) return gr_j_no_memory(run);
    char *bytes = (char *)(s + 1);
    if (n) memcpy(bytes, p, n);
    *s = (gr_jstr){.p = bytes, .len = n, .chars = SIZE_MAX};
    *out = gr_j_of_str(s);
    return GRAFT_OK;
}

graft_status gr_j_str_text(gr_jrun *run, const char *literal, gr_jv *out) {
    return gr_j_str_view(run, literal, strlen(literal), out);
}

graft_status gr_j_str_sub(gr_jrun *run, const gr_jstr *of, const char *p, size_t n, gr_jv *out) {
    GR_TRY(gr_j_str_view(run, p, n, out));
    out->str->safe = of->safe;
    if (of->chars == of->len) out->str->chars = n;
    return GRAFT_OK;
}

graft_status gr_j_seq(gr_jrun *run, gr_jkind kind, size_t cap, gr_jv *out) {
    gr_jseq *seq = gr_j_new(run, sizeof *seq);
    if (!seq) return gr_j_no_memory(run);
    size_t bytes;
    if (__builtin_mul_overflow(cap, sizeof *seq->items, &bytes)) bytes = SIZE_MAX;
    if (cap && !(seq->items = gr_j_new(run, bytes))) return gr_j_no_memory(run);
    seq->cap = cap;
    *out = (gr_jv){.kind = kind, .seq = seq};
    return GRAFT_OK;
}

graft_status gr_j_push(gr_jrun *run, gr_jseq *seq, gr_jv item) {
    if (seq->n == seq->cap) {
        size_t cap = seq->cap ? seq->cap * 2 : 4;
        gr_jv *items = gr_j_new(run, cap * sizeof *items);
        if (!items) return gr_j_no_memory(run);
        if (seq->n) memcpy(items, seq->items, seq->n * sizeof *items);
        seq->items = items;
        seq->cap = cap;
    }
    seq->items[seq->n++] = item;
    return GRAFT_OK;
}

graft_status gr_j_pair(gr_jrun *run, gr_jv a, gr_jv b, gr_jv *out) {
    gr_jv pair;
    GR_TRY(gr_j_seq(run, GR_JTUPLE, 2, &pair));
    pair.seq->items[0] = a;
    pair.seq->items[1] = b;
    pair.seq->n = 2;
    *out = pair;
    return GRAFT_OK;
}

graft_status gr_j_undefined(gr_jrun *run, const char *hint, gr_jv *out) {
    struct gr_jundef *u = gr_j_new(run, sizeof *u);
    if (!u) return gr_j_no_memory(run);
    u->hint = hint;
    *out = (gr_jv){.kind = GR_JUNDEFINED, .undef = u};
    return GRAFT_OK;
}

graft_status gr_j_undefined_name(gr_jrun *run, const char *owner, gr_jv name, gr_jv *out) {
    GR_TRY(gr_j_undefined(run, NULL, out));
    out->undef->owner = owner;
    out->undef->name = name;
    return GRAFT_OK;
}

graft_status gr_j_iter(gr_jrun *run, gr_jnext next, const char *type, gr_jv *out) {
    gr_jiter *it = gr_j_new(run, sizeof *it);
    if (!it) return gr_j_no_memory(run);
    it->next = next;
    it->type = type;
    *out = (gr_jv){.kind = GR_JITER, .iter = it};
    return GRAFT_OK;
}

size_t gr_j_chars(gr_jstr *s) {
    if (s->chars == SIZE_MAX) {
        size_t n = 0;
        for (size_t i = 0; i < s->len; i++) n += ((unsigned char)s->p[i] & 0xC0) != 0x80;
        s->chars = n;
    }
    return s->chars;
}

size_t gr_j_offset(gr_jstr *s, size_t index) {
    if (gr_j_chars(s) == s->len) return index;
    size_t i = 0;
    while (index > 0) {
        i++;
        while (i < s->len && ((unsigned char)s->p[i] & 0xC0) == 0x80) i++;
        index--;
    }
    return i;
}

bool gr_j_str_is(gr_jv v, const char *text) {
    return v.kind == GR_JSTR && v.str->len == strlen(text) && !memcmp(v.str->p, text, v.str->len);
}

const char *gr_j_type(gr_jv v) {
    switch (v.kind) {
    case GR_JMISSING:
    case GR_JUNDEFINED: return "Undefined";
    case GR_JNONE: return "NoneType";
    case GR_JBOOL: return "bool";
    case GR_JINT: return "int";
    case GR_JFLOAT: return "float";
    case GR_JSTR: return v.str->safe ? "Markup" : "str";
    case GR_JLIST: return "list";
    case GR_JTUPLE: return "tuple";
    case GR_JDICT: return "dict";
    case GR_JRANGE: return "range";
    case GR_JVIEW: return v.view->which == 'k' ? "dict_keys" : v.view->which == 'v' ? "dict_values" : "dict_items";
    case GR_JITER: return v.iter->type;
    case GR_JNAMESPACE: return "Namespace";
    case GR_JMACRO: return "Macro";
    case GR_JMETHOD: return "builtin_function_or_method";
    case GR_JGLOBAL: return "function";
    case GR_JLOOP: return "LoopContext";
    case GR_JCYCLER: return "Cycler";
    case GR_JJOINER: return "Joiner";
    case GR_JSELF: return "TemplateReference";
    case GR_JBLOCK: return "BlockReference";
    case GR_JSLICE: return "slice";
    }
    return "object";
}

bool gr_j_is_number(gr_jv v) { return v.kind == GR_JBOOL || v.kind == GR_JINT || v.kind == GR_JFLOAT; }

bool gr_j_as_int(gr_jv v, int64_t *out) {
    if (v.kind != GR_JBOOL && v.kind != GR_JINT) return false;
    *out = v.kind == GR_JBOOL ? v.b : v.i;
    return true;
}
