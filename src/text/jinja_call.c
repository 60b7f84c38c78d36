/* Calls: evaluating arguments, binding them to parameters, macros. */
#include "text/jinja_run.h"

bool gr_j_name_is(const gr_jname *name, const char *text) {
    return name->str.len == strlen(text) && !memcmp(name->str.p, text, name->str.len);
}

static bool same_name(const gr_jname *a, const gr_jname *b) {
    return a == b || (a->str.len == b->str.len && !memcmp(a->str.p, b->str.p, a->str.len));
}

/* Parameter i of a spec: its name, and whether it is optional. */
typedef struct param {
    const char *name;
    size_t len;
    bool optional;
} param;

static size_t read_spec(const char *spec, param *params, size_t *n_positional) {
    size_t n = 0;
    *n_positional = 0;
    while (*spec) {
        size_t len = strcspn(spec, " ");
        if (*spec == '/')
            *n_positional = n;
        else
            params[n++] = (param){.name = spec, .len = len - (spec[len - 1] == '?'), .optional = spec[len - 1] == '?'};
        spec += len;
        while (*spec == ' ') spec++;
    }
    return n;
}

graft_status gr_j_bind(gr_jrun *run, const char *what, const char *spec, const gr_jargs *args,
                       gr_jv out[GR_JMAX_PARAMS]) {
    param params[GR_JMAX_PARAMS];
    size_t n_positional, n = read_spec(spec, params, &n_positional);
    for (size_t i = 0; i < GR_JMAX_PARAMS; i++) out[i] = (gr_jv){.kind = GR_JMISSING};
    if (args->n_pos > n) return gr_j_raise(run, "%s takes at most %zu arguments, %zu given", what, n, args->n_pos);
    for (size_t i = 0; i < args->n_pos; i++) out[i] = args->pos[i];
    for (size_t k = 0; k < args->n_kw; k++) {
        const gr_jstr *name = &args->kw_names[k]->str;
        size_t i = n_positional;
        while (i < n && (params[i].len != name->len || memcmp(params[i].name, name->p, name->len))) i++;
        if (i == n)
            return gr_j_raise(run, "%s has no keyword argument '%.*s'", what, (int)GR_MIN(name->len, 100), name->p);
        if (!gr_j_is_missing(out[i]))
            return gr_j_raise(run, "%s got multiple values for argument '%.*s'", what, (int)name->len, name->p);
        out[i] = args->kw_values[k];
    }
    for (size_t i = 0; i < n; i++)
        if (!params[i].optional && gr_j_is_missing(out[i]))
            return gr_j_raise(run, "%s misses the argument '%.*s'", what, (int)params[i].len, params[i].name);
    return GRAFT_OK;
}

graft_status gr_j_arg_int(gr_jrun *run, const char *what, gr_jv arg, int64_t *out) {
    if (gr_j_is_missing(arg)) return GRAFT_OK;
    if (arg.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, arg);
    if (!gr_j_as_int(arg, out)) return gr_j_raise(run, "%s needs an integer, not %s", what, gr_j_type(arg));
    return GRAFT_OK;
}

graft_status gr_j_arg_truth(gr_jrun *run, gr_jv arg, bool *out) {
    return gr_j_is_missing(arg) ? GRAFT_OK : gr_j_truth(run, arg, out);
}

graft_status gr_j_arg_str(gr_jrun *run, const char *what, gr_jv arg, gr_jstr **out) {
    if (gr_j_is_missing(arg)) return GRAFT_OK;
    if (arg.kind != GR_JSTR) return gr_j_raise(run, "%s needs a string, not %s", what, gr_j_type(arg));
    *out = arg.str;
    return GRAFT_OK;
}

typedef struct arg_list {
    gr_jargs *args;
    size_t cap_pos, cap_kw;
} arg_list;

static graft_status add_pos(gr_jrun *run, arg_list *l, gr_jv value) {
    gr_jargs *a = l->args;
    if (a->n_pos == l->cap_pos) {
        size_t cap = l->cap_pos ? l->cap_pos * 2 : 4;
        gr_jv *pos = gr_j_new(run, cap * sizeof *pos);
        if (!pos) return gr_j_no_memory(run);
        if (a->n_pos) memcpy(pos, a->pos, a->n_pos * sizeof *pos);
        a->pos = pos;
        l->cap_pos = cap;
    }
    a->pos[a->n_pos++] = value;
    return GRAFT_OK;
}

static graft_status add_kw(gr_jrun *run, arg_list *l, const gr_jname *name, gr_jv value) {
    gr_jargs *a = l->args;
    for (size_t i = 0; i < a->n_kw; i++)
        if (same_name(a->kw_names[i], name))
            return gr_j_raise(run, "multiple values for keyword argument '%.*s'", (int)GR_MIN(name->str.len, 100),
                              name->str.p);
    if (a->n_kw == l->cap_kw) {
        size_t cap = l->cap_kw ? l->cap_kw * 2 : 4;
        const gr_jname **names = gr_j_new(run, cap * sizeof(gr_jname *));
        gr_jv *values = gr_j_new(run, cap * sizeof *values);
        if (!names || !values) return gr_j_no_memory(run);
        if (a->n_kw) {
            memcpy(names, a->kw_names, a->n_kw * sizeof(gr_jname *));
            memcpy(values, a->kw_values, a->n_kw * sizeof *values);
        }
        a->kw_names = names;
        a->kw_values = values;
        l->cap_kw = cap;
    }
    a->kw_names[a->n_kw] = name;
    a->kw_values[a->n_kw++] = value;
    return gr_j_work(run, a->n_kw);
}

static graft_status name_from(gr_jrun *run, gr_jv text, const gr_jname **out) {
    gr_jname *name = gr_j_new(run, sizeof *name);
    if (!name) return gr_j_no_memory(run);
    name->str = *text.str;
    *out = name;
    return GRAFT_OK;
}

static graft_status eval_star(gr_jrun *run, gr_jframe *frame, const gr_jnode *star, arg_list *l) {
    gr_jv v, item;
    gr_jcursor c;
    bool more;
    GR_TRY(gr_j_eval(run, frame, star, &v));
    GR_TRY(gr_j_cursor(run, v, &c));
    for (;;) {
        GR_TRY(gr_j_next(run, &c, &item, &more));
        if (!more) return GRAFT_OK;
        GR_TRY(add_pos(run, l, item));
    }
}

static graft_status eval_star_star(gr_jrun *run, gr_jframe *frame, const gr_jnode *star, arg_list *l) {
    gr_jv v;
    GR_TRY(gr_j_eval(run, frame, star, &v));
    if (v.kind != GR_JDICT) return gr_j_raise(run, "argument after ** must be a mapping, not %s", gr_j_type(v));
    for (size_t i = 0; i < v.dict->n; i++) {
        const gr_jname *name = NULL;
        if (v.dict->entries[i].key.kind != GR_JSTR) return gr_j_raise(run, "keywords must be strings");
        GR_TRY(name_from(run, v.dict->entries[i].key, &name));
        GR_TRY(add_kw(run, l, name, v.dict->entries[i].value));
    }
    return GRAFT_OK;
}

graft_status gr_j_eval_args(gr_jrun *run, gr_jframe *frame, const gr_jcall_args *code, const gr_jv *caller,
                            gr_jargs *out) {
    static const gr_jname caller_name = {.str = {.p = "caller", .len = 6, .chars = 6}};
    arg_list l = {.args = out};
    gr_jv v;
    *out = (gr_jargs){0};
    for (const gr_jnode *n = code ? code->pos : NULL; n; n = n->next) {
        GR_TRY(gr_j_eval(run, frame, n, &v));
        GR_TRY(add_pos(run, &l, v));
    }
    if (code && code->star) GR_TRY(eval_star(run, frame, code->star, &l));
    size_t k = 0;
    for (const gr_jnode *n = code ? code->kw_values : NULL; n; n = n->next) {
        GR_TRY(gr_j_eval(run, frame, n, &v));
        GR_TRY(add_kw(run, &l, code->kw_names[k++], v));
    }
    if (caller) GR_TRY(add_kw(run, &l, &caller_name, *caller));
    return code && code->star_star ? eval_star_star(run, frame, code->star_star, &l) : GRAFT_OK;
}

/* Takes the keyword argument `name` out of args. */
static bool pop_kw(gr_jargs *args, const gr_jname *name, const char *text, gr_jv *out) {
    for (size_t i = 0; i < args->n_kw; i++) {
        if (name ? !same_name(args->kw_names[i], name) : !gr_j_name_is(args->kw_names[i], text)) continue;
        *out = args->kw_values[i];
        args->n_kw--;
        for (size_t k = i; k < args->n_kw; k++) {
            args->kw_names[k] = args->kw_names[k + 1];
            args->kw_values[k] = args->kw_values[k + 1];
        }
        return true;
    }
    return false;
}

static graft_status bind_special(gr_jrun *run, const gr_jmacro_code *code, gr_jargs *args, gr_jframe *frame) {
    const char *name = code->name ? code->name->str.p : "None";
    gr_jv v;
    if (code->takes_caller) {
        if (!pop_kw(args, NULL, "caller", &v) || v.kind == GR_JNONE)
            GR_TRY(gr_j_undefined(run, "No caller defined", &v));
        frame->slots[code->caller_slot] = v;
    }
    if (code->takes_kwargs) {
        GR_TRY(gr_j_dict(run, &v));
        for (size_t i = 0; i < args->n_kw; i++) {
            gr_jv key;
            GR_TRY(gr_j_str_view(run, args->kw_names[i]->str.p, args->kw_names[i]->str.len, &key));
            GR_TRY(gr_j_dict_set(run, v.dict, key, args->kw_values[i]));
        }
        frame->slots[code->kwargs_slot] = v;
    } else if (args->n_kw) {
        return gr_j_raise(run, "macro '%s' takes no keyword argument '%.*s'", name,
                          (int)GR_MIN(args->kw_names[0]->str.len, 100), args->kw_names[0]->str.p);
    }
    size_t extra = args->n_pos > code->n_params ? args->n_pos - code->n_params : 0;
    if (code->takes_varargs) {
        GR_TRY(gr_j_seq(run, GR_JTUPLE, extra, &v));
        for (size_t i = 0; i < extra; i++) v.seq->items[i] = args->pos[code->n_params + i];
        v.seq->n = extra;
        frame->slots[code->varargs_slot] = v;
    } else if (extra) {
        return gr_j_raise(run, "macro '%s' takes not more than %zu argument(s)", name, code->n_params);
    }
    return GRAFT_OK;
}

static graft_status fill_defaults(gr_jrun *run, const gr_jmacro_code *code, gr_jframe *frame) {
    const gr_jnode *value = code->defaults;
    size_t i = 0;
    for (const gr_jnode *p = code->params; p; p = p->next, i++) {
        bool has_default = i >= code->n_params - code->n_defaults;
        gr_jv *slot = &frame->slots[p->ref.slot];
        if (gr_j_is_missing(*slot)) {
            gr_jv v;
            if (has_default) {
                GR_TRY(gr_j_eval(run, frame, value, &v));
            } else {
                size_t mark = gr_j_mark(run);
                gr_buf_add_format(&run->scratch, "parameter '%s' was not provided", p->name->str.p);
                gr_buf_add_char(&run->scratch, '\0');
                GR_TRY(gr_j_take(run, mark, &v));
                GR_TRY(gr_j_undefined(run, v.str->p, &v));
            }
            *slot = v;
        }
        if (has_default) value = value->next;
    }
    return GRAFT_OK;
}

graft_status gr_j_call_macro(gr_jrun *run, const gr_jmacro *m, const gr_jargs *given, gr_jv *out) {
    const gr_jmacro_code *code = m->code;
    gr_jargs args = *given;
    gr_jframe *frame;
    GR_TRY(gr_j_enter(run));
    GR_TRY(gr_j_frame(run, m->frame, code->scope, &frame));
    size_t i = 0;
    for (const gr_jnode *p = code->params; p; p = p->next, i++) {
        gr_jv *slot = &frame->slots[p->ref.slot];
        if (i < args.n_pos)
            *slot = args.pos[i];
        else
            pop_kw(&args, p->name, NULL, slot);
    }
    GR_TRY(bind_special(run, code, &args, frame));
    GR_TRY(gr_j_enter_frame(run, frame));
    GR_TRY(fill_defaults(run, code, frame));
    gr_buf *to = run->to;
    size_t mark = gr_j_mark(run);
    int flow;
    run->to = &run->scratch;
    GR_TRY(gr_j_exec(run, frame, code->body, &flow));
    run->to = to;
    run->depth--;
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = run->autoescape;
    return GRAFT_OK;
}

graft_status gr_j_call(gr_jrun *run, gr_jv callee, const gr_jargs *args, gr_jv *out) {
    gr_jv bound[GR_JMAX_PARAMS];
    switch (callee.kind) {
    case GR_JMETHOD: {
        const gr_jmethod_def *def = callee.method->def;
        if (def->spec) GR_TRY(gr_j_bind(run, def->name, def->spec, args, bound));
        bool safe = callee.method->self.kind == GR_JSTR && callee.method->self.str->safe;
        GR_TRY(def->fn(run, callee.method->self, bound, args, out));
        /* What a Markup returns is Markup. */
        if (safe && out->kind == GR_JSTR) out->str->safe = true;
        return GRAFT_OK;
    }
    case GR_JMACRO: return gr_j_call_macro(run, callee.macro, args, out);
    case GR_JGLOBAL: return callee.global->fn(run, args, out);
    case GR_JLOOP: return gr_j_call_loop(run, callee.loop, args, out);
    case GR_JJOINER:
        GR_TRY(gr_j_bind(run, "joiner", "", args, bound));
        if (callee.joiner->used) {
            *out = callee.joiner->sep;
            return GRAFT_OK;
        }
        callee.joiner->used = true;
        return gr_j_str_text(run, "", out);
    case GR_JBLOCK:
        GR_TRY(gr_j_bind(run, "block", "", args, bound));
        return gr_j_call_block(run, callee.block, out);
    case GR_JUNDEFINED: return gr_j_raise_undefined(run, callee);
    default: return gr_j_raise(run, "'%s' object is not callable", gr_j_type(callee));
    }
}
