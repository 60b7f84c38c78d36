/* Statements, and the frames that hold variables. */
#include "text/jinja_run.h"

graft_status gr_j_frame(gr_jrun *run, gr_jframe *up, const gr_jscope *scope, gr_jframe **out) {
    gr_jframe *f = gr_j_new(run, sizeof *f + scope->n * sizeof f->slots[0]); /* zero is GR_JMISSING */
    if (!f) return gr_j_no_memory(run);
    f->up = up;
    f->scope = scope;
    *out = f;
    return GRAFT_OK;
}

graft_status gr_j_lookup(gr_jrun *run, const gr_jname *name, gr_jv *out) {
    const gr_jstr *s = &name->str;
    *out = (gr_jv){.kind = GR_JMISSING};
    if (gr_j_name_is(name, "self")) {
        *out = (gr_jv){.kind = GR_JSELF};
        return GRAFT_OK;
    }
    if (run->exported && gr_j_dict_get_text(run->exported, s->p, s->len, out)) return GRAFT_OK;
    if (gr_j_dict_get_text(run->vars, s->p, s->len, out)) return GRAFT_OK;
    const gr_jglobal *g = gr_j_find_global(s->p, s->len);
    if (g) *out = (gr_jv){.kind = GR_JGLOBAL, .global = g};
    return GRAFT_OK;
}

graft_status gr_j_enter_frame(gr_jrun *run, gr_jframe *frame) {
    const gr_jscope *s = frame->scope;
    for (size_t i = 0; i < s->n; i++) {
        const gr_jslot *slot = &s->slots[i];
        if (slot->load == GR_JLOAD_RESOLVE) {
            GR_TRY(gr_j_lookup(run, slot->name, &frame->slots[i]));
        } else if (slot->load == GR_JLOAD_ALIAS) {
            gr_jframe *f = frame;
            for (uint32_t up = slot->outer.up; up; up--) f = f->up;
            frame->slots[i] = f->slots[slot->outer.slot];
        } else if (slot->load == GR_JLOAD_UNDEFINED) {
            frame->slots[i] = (gr_jv){.kind = GR_JMISSING};
        }
    }
    return gr_j_work(run, s->n * 16);
}

void gr_j_leave_frame(gr_jframe *frame) {
    for (size_t i = 0; i < frame->scope->n; i++) frame->slots[i] = (gr_jv){.kind = GR_JMISSING};
}

static graft_status export(gr_jrun *run, gr_jframe *frame, const gr_jname *name, gr_jv value) {
    if (!run->exported || frame->scope != run->t->scope) return GRAFT_OK;
    gr_jv key;
    GR_TRY(gr_j_str_view(run, name->str.p, name->str.len, &key));
    return gr_j_dict_set(run, run->exported, key, value);
}

static gr_jv *slot_of(gr_jframe *frame, gr_jref ref) {
    for (uint32_t up = ref.up; up; up--) frame = frame->up;
    return &frame->slots[ref.slot];
}

static graft_status assign_attr(gr_jrun *run, gr_jframe *frame, const gr_jnode *target, gr_jv value) {
    gr_jv ns = *slot_of(frame, target->ref), key;
    if (ns.kind != GR_JNAMESPACE) return gr_j_raise(run, "cannot assign attribute on non-namespace object");
    if (target->attr->str.len && target->attr->str.p[0] == '_')
        return gr_j_raise(run, "chat templates cannot store underscore-prefixed attributes on a namespace");
    GR_TRY(gr_j_str_view(run, target->attr->str.p, target->attr->str.len, &key));
    return gr_j_dict_set(run, ns.dict, key, value);
}

graft_status gr_j_assign(gr_jrun *run, gr_jframe *frame, const gr_jnode *target, gr_jv value) {
    if (target->kind == GR_JN_NAME) {
        *slot_of(frame, target->ref) = value;
        return export(run, frame, target->name, value);
    }
    if (target->kind == GR_JN_NSREF) return assign_attr(run, frame, target, value);
    gr_jv items = value;
    if (value.kind != GR_JLIST && value.kind != GR_JTUPLE) GR_TRY(gr_j_to_list(run, value, &items));
    if (items.seq->n != target->n)
        return gr_j_raise(run, "cannot unpack %zu values into %u variables", items.seq->n, (unsigned)target->n);
    size_t i = 0;
    for (const gr_jnode *t = target->list; t; t = t->next) GR_TRY(gr_j_assign(run, frame, t, items.seq->items[i++]));
    return GRAFT_OK;
}

/* Where output went before a capture, and where the captured text begins. */
typedef struct capture {
    gr_buf *to;
    size_t mark;
} capture;

static capture begin_capture(gr_jrun *run) {
    capture c = {.to = run->to, .mark = gr_j_mark(run)};
    run->to = &run->scratch;
    return c;
}

static graft_status end_capture(gr_jrun *run, capture c, gr_jv *out) {
    run->to = c.to;
    return gr_j_take(run, c.mark, out);
}

static graft_status output(gr_jrun *run, gr_jv v) {
    if (run->autoescape && !(v.kind == GR_JSTR && v.str->safe)) GR_TRY(gr_j_escape(run, v, &v));
    GR_TRY(gr_j_add_str(run, run->to, v));
    if (run->to->failed == GRAFT_ERR_LIMIT)
        return gr_j_fail(run, GRAFT_ERR_LIMIT, "output takes more than the limit of %zu bytes", run->to->limit);
    return gr_buf_status(run->to, run->err);
}

static graft_status exec_output(gr_jrun *run, gr_jframe *frame, const gr_jnode *n) {
    for (const gr_jnode *item = n->list; item; item = item->next) {
        gr_jv v;
        GR_TRY(gr_j_eval(run, frame, item, &v));
        GR_TRY(output(run, v));
    }
    return GRAFT_OK;
}

static graft_status truth_of(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, bool *out) {
    gr_jv v;
    GR_TRY(gr_j_eval(run, frame, n, &v));
    return gr_j_truth(run, v, out);
}

static graft_status exec_if(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, int *flow) {
    bool truth;
    GR_TRY(truth_of(run, frame, n->a, &truth));
    if (truth) return gr_j_exec(run, frame, n->body, flow);
    for (const gr_jnode *elif = n->list; elif; elif = elif->next) {
        GR_TRY(truth_of(run, frame, elif->a, &truth));
        if (truth) return gr_j_exec(run, frame, elif->body, flow);
    }
    return gr_j_exec(run, frame, n->other, flow);
}

static graft_status new_macro(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    gr_jmacro *m = gr_j_new(run, sizeof *m);
    if (!m) return gr_j_no_memory(run);
    *m = (gr_jmacro){.code = n->macro, .frame = frame};
    *out = (gr_jv){.kind = GR_JMACRO, .macro = m};
    return GRAFT_OK;
}

static graft_status exec_macro(gr_jrun *run, gr_jframe *frame, const gr_jnode *n) {
    gr_jv macro;
    GR_TRY(new_macro(run, frame, n, &macro));
    *slot_of(frame, n->ref) = macro;
    return export(run, frame, n->name, macro);
}

static graft_status exec_call_block(gr_jrun *run, gr_jframe *frame, const gr_jnode *n) {
    gr_jv block, callee, text;
    gr_jargs args;
    GR_TRY(new_macro(run, frame, n, &block));
    GR_TRY(gr_j_eval(run, frame, n->a->a, &callee));
    GR_TRY(gr_j_eval_args(run, frame, n->a->args, &block, &args));
    run->line = n->line;
    GR_TRY(gr_j_call(run, callee, &args, &text));
    if (text.kind != GR_JSTR) return gr_j_raise(run, "a call block needs a str instance, %s found", gr_j_type(text));
    text.str->safe |= run->autoescape; /* the reference writes it as it is */
    return output(run, text);
}

/* Positions are those of the reference: where the output stood when the statement began, even inside a macro whose
 * text comes out later. */
static graft_status exec_generation(gr_jrun *run, gr_jframe *frame, const gr_jnode *n) {
    gr_jv text;
    static const gr_jargs none = {0};
    gr_jmacro m = {.code = n->macro, .frame = frame};
    size_t start = run->out.len;
    GR_TRY(gr_j_call_macro(run, &m, &none, &text));
    if (run->track) {
        GR_TRY(gr_grow(run->arena.a, (void **)&run->spans, &run->cap_spans, run->n_spans + 1, sizeof *run->spans,
                       run->err));
        run->spans[run->n_spans++] = (gr_jspan){.start = start, .chars = gr_j_chars(text.str)};
    }
    return output(run, text);
}

static graft_status inner_frame(gr_jrun *run, gr_jframe *up, const gr_jscope *scope, gr_jframe **out) {
    GR_TRY(gr_j_frame(run, up, scope, out));
    return gr_j_enter_frame(run, *out);
}

static graft_status exec_filter_block(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, int *flow) {
    gr_jframe *inner;
    gr_jv text;
    GR_TRY(inner_frame(run, frame, n->scope, &inner));
    capture c = begin_capture(run);
    GR_TRY(gr_j_exec(run, inner, n->body, flow));
    GR_TRY(end_capture(run, c, &text));
    if (*flow != GR_JFLOW_ON) return GRAFT_OK;
    text.str->safe = run->autoescape;
    run->block_text = text;
    GR_TRY(gr_j_eval(run, inner, n->a, &text));
    if (text.kind != GR_JSTR) return gr_j_raise(run, "a filter block needs a str instance, %s found", gr_j_type(text));
    GR_TRY(gr_j_add_str(run, run->to, text));
    gr_j_leave_frame(inner);
    return gr_buf_status(run->to, run->err);
}

static graft_status exec_set_block(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, int *flow) {
    gr_jframe *inner;
    gr_jv text;
    GR_TRY(inner_frame(run, frame, n->scope, &inner));
    capture c = begin_capture(run);
    GR_TRY(gr_j_exec(run, inner, n->body, flow));
    GR_TRY(end_capture(run, c, &text));
    if (*flow != GR_JFLOW_ON) return GRAFT_OK;
    if (n->b) {
        text.str->safe = run->autoescape;
        run->block_text = text;
        GR_TRY(gr_j_eval(run, inner, n->b, &text));
    }
    if (run->autoescape) {
        GR_TRY(gr_j_to_str(run, text, &text));
        text.str->safe = true;
    }
    gr_j_leave_frame(inner);
    return gr_j_assign(run, frame, n->a, text);
}

static graft_status exec_with(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, int *flow) {
    gr_jframe *inner;
    GR_TRY(inner_frame(run, frame, n->scope, &inner));
    const gr_jnode *value = n->list2;
    for (const gr_jnode *target = n->list; target; target = target->next, value = value->next) {
        gr_jv v;
        GR_TRY(gr_j_eval(run, frame, value, &v));
        GR_TRY(gr_j_assign(run, inner, target, v));
    }
    GR_TRY(gr_j_exec(run, inner, n->body, flow));
    gr_j_leave_frame(inner);
    return GRAFT_OK;
}

static graft_status exec_autoescape(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, int *flow) {
    gr_jframe *inner;
    bool before = run->autoescape, on;
    GR_TRY(inner_frame(run, frame, n->scope, &inner));
    GR_TRY(truth_of(run, inner, n->a, &on));
    run->autoescape = on;
    GR_TRY(gr_j_exec(run, inner, n->body, flow));
    run->autoescape = before;
    gr_j_leave_frame(inner);
    return GRAFT_OK;
}

static graft_status exec_block(gr_jrun *run, gr_jframe *frame, const gr_jnode *n) {
    gr_jframe *inner;
    int flow;
    if (n->op) return gr_j_raise(run, "required block '%s' not found", n->name->str.p);
    GR_TRY(inner_frame(run, n->flag ? frame : NULL, n->scope, &inner));
    return gr_j_exec(run, inner, n->body, &flow);
}

graft_status gr_j_call_block(gr_jrun *run, const gr_jnode *block, gr_jv *out) {
    if (block->flag) return gr_j_fail(run, GRAFT_ERR_UNSUPPORTED, "calling a scoped block is not supported");
    GR_TRY(gr_j_enter(run));
    capture c = begin_capture(run);
    GR_TRY(exec_block(run, NULL, block));
    GR_TRY(end_capture(run, c, out));
    out->str->safe = run->autoescape;
    run->depth--;
    return GRAFT_OK;
}

static graft_status exec_set(gr_jrun *run, gr_jframe *frame, const gr_jnode *n) {
    gr_jv v;
    GR_TRY(gr_j_eval(run, frame, n->b, &v));
    return gr_j_assign(run, frame, n->a, v);
}

static graft_status exec_one(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, int *flow) {
    switch (n->kind) {
    case GR_JN_DATA: {
        gr_buf_add(run->to, n->value.str->p, n->value.str->len);
        if (run->to->failed == GRAFT_ERR_LIMIT)
            return gr_j_fail(run, GRAFT_ERR_LIMIT, "output takes more than the limit of %zu bytes", run->to->limit);
        return gr_buf_status(run->to, run->err);
    }
    case GR_JN_OUTPUT: return exec_output(run, frame, n);
    case GR_JN_IF: return exec_if(run, frame, n, flow);
    case GR_JN_FOR: return gr_j_exec_for(run, frame, n, flow);
    case GR_JN_MACRO: return exec_macro(run, frame, n);
    case GR_JN_CALLBLOCK: return exec_call_block(run, frame, n);
    case GR_JN_GENERATION: return exec_generation(run, frame, n);
    case GR_JN_FILTERBLOCK: return exec_filter_block(run, frame, n, flow);
    case GR_JN_WITH: return exec_with(run, frame, n, flow);
    case GR_JN_SET: return exec_set(run, frame, n);
    case GR_JN_SETBLOCK: return exec_set_block(run, frame, n, flow);
    case GR_JN_BLOCK: return exec_block(run, frame, n);
    case GR_JN_AUTOESCAPE: return exec_autoescape(run, frame, n, flow);
    case GR_JN_BREAK: *flow = GR_JFLOW_BREAK; return GRAFT_OK;
    case GR_JN_CONTINUE: *flow = GR_JFLOW_CONTINUE; return GRAFT_OK;
    default: return gr_j_raise(run, "%s: there is no loader for other templates", n->name->str.p);
    }
}

graft_status gr_j_exec(gr_jrun *run, gr_jframe *frame, const gr_jnode *list, int *flow) {
    *flow = GR_JFLOW_ON;
    GR_TRY(gr_j_enter(run));
    for (; list && *flow == GR_JFLOW_ON; list = list->next) {
        run->line = list->line;
        GR_TRY(gr_j_work(run, 0));
        GR_TRY(exec_one(run, frame, list, flow));
    }
    run->depth--;
    return GRAFT_OK;
}
