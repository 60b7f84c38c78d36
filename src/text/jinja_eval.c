/* Expressions. */
#include "text/jinja_run.h"

/* Keeps the handlers' locals out of gr_j_eval's own stack frame, which nested expressions multiply. */
#define APART __attribute__((noinline)) static graft_status

APART eval_name(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    for (uint32_t up = n->ref.up; up; up--) frame = frame->up;
    *out = frame->slots[n->ref.slot];
    if (!gr_j_is_missing(*out)) return GRAFT_OK;
    gr_jv name;
    GR_TRY(gr_j_str_view(run, n->name->str.p, n->name->str.len, &name));
    return gr_j_undefined_name(run, NULL, name, out);
}

APART eval_items(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    gr_jv seq;
    GR_TRY(gr_j_seq(run, n->kind == GR_JN_LIST ? GR_JLIST : GR_JTUPLE, n->n, &seq));
    for (const gr_jnode *item = n->list; item; item = item->next)
        GR_TRY(gr_j_eval(run, frame, item, &seq.seq->items[seq.seq->n++]));
    *out = seq;
    return GRAFT_OK;
}

APART eval_dict(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    gr_jv d, key, value;
    GR_TRY(gr_j_dict(run, &d));
    for (const gr_jnode *item = n->list; item; item = item->next->next) {
        GR_TRY(gr_j_eval(run, frame, item, &key));
        GR_TRY(gr_j_eval(run, frame, item->next, &value));
        GR_TRY(gr_j_dict_set(run, d.dict, key, value));
    }
    *out = d;
    return GRAFT_OK;
}

APART eval_cond(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    bool truth;
    gr_jv test;
    GR_TRY(gr_j_eval(run, frame, n->a, &test));
    GR_TRY(gr_j_truth(run, test, &truth));
    if (truth) return gr_j_eval(run, frame, n->b, out);
    if (n->c) return gr_j_eval(run, frame, n->c, out);
    return gr_j_undefined(run, "the inline if-expression was false and has no else", out);
}

APART eval_logic(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    bool truth;
    gr_jv v;
    GR_TRY(gr_j_eval(run, frame, n->a, &v));
    GR_TRY(gr_j_truth(run, v, &truth));
    if (n->kind == GR_JN_NOT) {
        *out = gr_j_bool(!truth);
        return GRAFT_OK;
    }
    if (truth == (n->kind == GR_JN_AND)) return gr_j_eval(run, frame, n->b, out);
    *out = v;
    return GRAFT_OK;
}

APART eval_binary(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    gr_jv a, b;
    GR_TRY(gr_j_eval(run, frame, n->a, &a));
    GR_TRY(gr_j_eval(run, frame, n->b, &b));
    return gr_j_binary(run, (gr_jtok)n->op, a, b, out);
}

APART eval_unary(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    gr_jv v;
    GR_TRY(gr_j_eval(run, frame, n->a, &v));
    return n->kind == GR_JN_NEG ? gr_j_negate(run, v, out) : gr_j_plus(run, v, out);
}

APART eval_concat(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    gr_jv parts;
    bool safe = false;
    GR_TRY(gr_j_seq(run, GR_JLIST, n->n, &parts));
    for (const gr_jnode *item = n->list; item; item = item->next) {
        gr_jv *part = &parts.seq->items[parts.seq->n++];
        GR_TRY(gr_j_eval(run, frame, item, part));
        safe |= run->autoescape && part->kind == GR_JSTR && part->str->safe;
    }
    size_t mark = gr_j_mark(run);
    for (size_t i = 0; i < parts.seq->n; i++) {
        gr_jv part = parts.seq->items[i];
        if (safe) GR_TRY(gr_j_escape(run, part, &part));
        GR_TRY(gr_j_add_str(run, &run->scratch, part));
    }
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = safe;
    return GRAFT_OK;
}

static graft_status compare(gr_jrun *run, uint8_t op, gr_jv a, gr_jv b, bool *out) {
    switch (op) {
    case GR_JT_EQ: return gr_j_equal(run, a, b, out);
    case GR_JT_NE:
    case GR_JT_STRING:
        GR_TRY(op == GR_JT_NE ? gr_j_equal(run, a, b, out) : gr_j_contains(run, b, a, out));
        *out = !*out;
        return GRAFT_OK;
    case GR_JT_NAME: return gr_j_contains(run, b, a, out);
    case GR_JT_LT: return gr_j_ordered(run, '<', a, b, out);
    case GR_JT_LE: return gr_j_ordered(run, 'l', a, b, out);
    case GR_JT_GT: return gr_j_ordered(run, '>', a, b, out);
    default: return gr_j_ordered(run, 'g', a, b, out);
    }
}

APART eval_compare(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    gr_jv left, right;
    bool holds = true;
    GR_TRY(gr_j_eval(run, frame, n->a, &left));
    for (const gr_jnode *operand = n->list; operand && holds; operand = operand->next) {
        GR_TRY(gr_j_eval(run, frame, operand->a, &right));
        GR_TRY(compare(run, operand->op, left, right, &holds));
        left = right;
    }
    *out = gr_j_bool(holds);
    return GRAFT_OK;
}

APART eval_getattr(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    gr_jv obj;
    GR_TRY(gr_j_eval(run, frame, n->a, &obj));
    run->line = n->line;
    return gr_j_getattr(run, obj, &n->name->str, out);
}

static graft_status eval_optional(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    *out = gr_j_none();
    return n ? gr_j_eval(run, frame, n, out) : GRAFT_OK;
}

APART eval_getitem(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    gr_jv obj, key;
    GR_TRY(gr_j_eval(run, frame, n->a, &obj));
    if (n->b->kind == GR_JN_SLICE) {
        struct gr_jslice s;
        GR_TRY(eval_optional(run, frame, n->b->a, &s.start));
        GR_TRY(eval_optional(run, frame, n->b->b, &s.stop));
        GR_TRY(eval_optional(run, frame, n->b->c, &s.step));
        run->line = n->line;
        return gr_j_slice(run, obj, &s, out);
    }
    GR_TRY(gr_j_eval(run, frame, n->b, &key));
    run->line = n->line;
    return gr_j_getitem(run, obj, key, out);
}

APART eval_call(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    gr_jv callee;
    gr_jargs args;
    GR_TRY(gr_j_eval(run, frame, n->a, &callee));
    GR_TRY(gr_j_eval_args(run, frame, n->args, NULL, &args));
    run->line = n->line;
    return gr_j_call(run, callee, &args, out);
}

APART eval_filter(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    gr_jv v = run->block_text;
    gr_jargs args;
    if (n->a) GR_TRY(gr_j_eval(run, frame, n->a, &v));
    GR_TRY(gr_j_eval_args(run, frame, n->args, NULL, &args));
    run->line = n->line;
    if (!n->def) return gr_j_raise(run, "no filter named '%s'", n->name->str.p);
    return gr_j_call_filter(run, n->def, v, &args, out);
}

APART eval_test(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    gr_jv v;
    gr_jargs args;
    bool holds;
    GR_TRY(gr_j_eval(run, frame, n->a, &v));
    GR_TRY(gr_j_eval_args(run, frame, n->args, NULL, &args));
    run->line = n->line;
    if (!n->def) return gr_j_raise(run, "no test named '%s'", n->name->str.p);
    GR_TRY(gr_j_call_test(run, n->def, v, &args, &holds));
    *out = gr_j_bool(holds);
    return GRAFT_OK;
}

static graft_status eval_kind(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    switch (n->kind) {
    case GR_JN_CONST: *out = n->value; return GRAFT_OK;
    case GR_JN_NAME: return eval_name(run, frame, n, out);
    case GR_JN_TUPLE:
    case GR_JN_LIST: return eval_items(run, frame, n, out);
    case GR_JN_DICT: return eval_dict(run, frame, n, out);
    case GR_JN_COND: return eval_cond(run, frame, n, out);
    case GR_JN_AND:
    case GR_JN_OR:
    case GR_JN_NOT: return eval_logic(run, frame, n, out);
    case GR_JN_NEG:
    case GR_JN_POS: return eval_unary(run, frame, n, out);
    case GR_JN_BINARY: return eval_binary(run, frame, n, out);
    case GR_JN_CONCAT: return eval_concat(run, frame, n, out);
    case GR_JN_COMPARE: return eval_compare(run, frame, n, out);
    case GR_JN_GETATTR: return eval_getattr(run, frame, n, out);
    case GR_JN_GETITEM: return eval_getitem(run, frame, n, out);
    case GR_JN_CALL: return eval_call(run, frame, n, out);
    case GR_JN_FILTER: return eval_filter(run, frame, n, out);
    case GR_JN_TEST: return eval_test(run, frame, n, out);
    default: return gr_j_raise(run, "a slice may only stand alone between brackets");
    }
}

graft_status gr_j_enter(gr_jrun *run) {
    if (run->depth >= run->max_depth)
        return gr_j_fail(run, GRAFT_ERR_LIMIT, "evaluation nested over the limit of %u", run->max_depth);
    run->depth++;
    return gr_j_work(run, 0);
}

graft_status gr_j_eval(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *out) {
    gr_jv v;
    run->line = n->line;
    GR_TRY(gr_j_enter(run));
    GR_TRY(eval_kind(run, frame, n, &v));
    run->depth--;
    *out = v;
    return GRAFT_OK;
}
