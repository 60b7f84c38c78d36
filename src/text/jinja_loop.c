/* for loops and the loop variable. */
#include "text/jinja_run.h"

/* The generator behind `for x in y if test`: it hands on what the target unpacked, tuples as tuples. */
typedef struct filtered {
    const gr_jnode *node;
    gr_jframe *frame;
} filtered;

static graft_status rebuild(gr_jrun *run, gr_jframe *frame, const gr_jnode *target, gr_jv *out) {
    if (target->kind == GR_JN_NAME) {
        *out = frame->slots[target->ref.slot];
        return GRAFT_OK;
    }
    gr_jv tuple;
    GR_TRY(gr_j_seq(run, GR_JTUPLE, target->n, &tuple));
    for (const gr_jnode *t = target->list; t; t = t->next)
        GR_TRY(rebuild(run, frame, t, &tuple.seq->items[tuple.seq->n++]));
    *out = tuple;
    return GRAFT_OK;
}

static graft_status next_filtered(gr_jrun *run, gr_jiter *it, gr_jv *out, bool *more) {
    const filtered *f = it->data;
    for (;;) {
        gr_jv item, test;
        bool truth;
        GR_TRY(gr_j_next(run, &it->source, &item, more));
        if (!*more) return GRAFT_OK;
        GR_TRY(gr_j_assign(run, f->frame, f->node->a, item));
        GR_TRY(gr_j_eval(run, f->frame, f->node->c, &test));
        GR_TRY(gr_j_truth(run, test, &truth));
        if (truth) return rebuild(run, f->frame, f->node->a, out);
    }
}

static graft_status filter_items(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv *items) {
    filtered *f = gr_j_new(run, sizeof *f);
    gr_jcursor source;
    if (!f) return gr_j_no_memory(run);
    GR_TRY(gr_j_cursor(run, *items, &source));
    GR_TRY(gr_j_frame(run, frame, n->loop->test_scope, &f->frame));
    GR_TRY(gr_j_enter_frame(run, f->frame));
    f->node = n;
    GR_TRY(gr_j_iter(run, next_filtered, "generator", items));
    items->iter->source = source;
    items->iter->data = f;
    return GRAFT_OK;
}

static graft_status peek(gr_jrun *run, gr_jloop *loop) {
    bool more;
    gr_jv item;
    if (!gr_j_is_missing(loop->after)) return GRAFT_OK;
    GR_TRY(gr_j_next(run, &loop->cursor, &item, &more));
    if (more) loop->after = item;
    return GRAFT_OK;
}

graft_status gr_j_loop_advance(gr_jrun *run, gr_jloop *loop, bool *more) {
    gr_jv item = loop->after;
    *more = true;
    if (gr_j_is_missing(item))
        GR_TRY(gr_j_next(run, &loop->cursor, &item, more));
    else
        loop->after = (gr_jv){.kind = GR_JMISSING};
    if (!*more) return GRAFT_OK;
    loop->index0++;
    loop->before = loop->current;
    loop->current = item;
    return GRAFT_OK;
}

/* A generator is read to its end for this, as in the reference. */
graft_status gr_j_loop_length(gr_jrun *run, gr_jloop *loop, int64_t *out) {
    if (loop->length < 0) {
        size_t n;
        if (gr_j_has_len(loop->cursor.over)) {
            GR_TRY(gr_j_len(run, loop->cursor.over, &n));
        } else {
            gr_jv rest;
            GR_TRY(gr_j_to_list(run, loop->cursor.over, &rest));
            n = rest.seq->n + (size_t)(loop->index0 + 1) + !gr_j_is_missing(loop->after);
            loop->cursor = (gr_jcursor){.over = rest};
        }
        loop->length = (int64_t)n;
    }
    *out = loop->length;
    return GRAFT_OK;
}

static graft_status neighbour(gr_jrun *run, gr_jloop *loop, bool next, gr_jv *out) {
    if (next) GR_TRY(peek(run, loop));
    bool there = next ? !gr_j_is_missing(loop->after) : loop->index0 != 0;
    *out = next ? loop->after : loop->before;
    return there ? GRAFT_OK
                 : gr_j_undefined(run, next ? "there is no next item" : "there is no previous item", out);
}

static bool is(const gr_jstr *name, const char *text) {
    return name->len == strlen(text) && !memcmp(name->p, text, name->len);
}

graft_status gr_j_loop_attr(gr_jrun *run, gr_jloop *loop, const gr_jstr *name, gr_jv *out, bool *found) {
    int64_t length = 0;
    *found = true;
    if (is(name, "length") || is(name, "revindex") || is(name, "revindex0"))
        GR_TRY(gr_j_loop_length(run, loop, &length));
    if (is(name, "index"))
        *out = gr_j_int(loop->index0 + 1);
    else if (is(name, "index0"))
        *out = gr_j_int(loop->index0);
    else if (is(name, "first"))
        *out = gr_j_bool(loop->index0 == 0);
    else if (is(name, "length"))
        *out = gr_j_int(length);
    else if (is(name, "revindex"))
        *out = gr_j_int(length - loop->index0);
    else if (is(name, "revindex0"))
        *out = gr_j_int(length - loop->index0 - 1);
    else if (is(name, "depth"))
        *out = gr_j_int((int64_t)loop->depth0 + 1);
    else if (is(name, "depth0"))
        *out = gr_j_int(loop->depth0);
    else if (is(name, "previtem") || is(name, "nextitem"))
        return neighbour(run, loop, is(name, "nextitem"), out);
    else if (is(name, "last")) {
        GR_TRY(peek(run, loop));
        *out = gr_j_bool(gr_j_is_missing(loop->after));
    } else
        *found = false;
    return GRAFT_OK;
}

typedef struct walk {
    const gr_jnode *node;
    gr_jframe *frame; /* the body's */
    gr_jloop *loop;   /* NULL: the body does not use it */
    gr_jcursor cursor;
} walk;

static graft_status next_item(gr_jrun *run, walk *w, bool *more) {
    gr_jv item;
    if (w->loop) {
        GR_TRY(gr_j_loop_advance(run, w->loop, more));
        item = w->loop->current;
    } else {
        GR_TRY(gr_j_next(run, &w->cursor, &item, more));
    }
    if (!*more) return GRAFT_OK;
    GR_TRY(gr_j_assign(run, w->frame, w->node->a, item));
    return gr_j_enter_frame(run, w->frame);
}

static graft_status begin(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv items, unsigned depth0, walk *w) {
    *w = (walk){.node = n};
    GR_TRY(gr_j_frame(run, frame, n->loop->body_scope, &w->frame));
    GR_TRY(gr_j_cursor(run, items, &w->cursor));
    if (n->c) {
        GR_TRY(filter_items(run, frame, n, &items));
        GR_TRY(gr_j_cursor(run, items, &w->cursor));
    }
    if (!n->loop->uses_loop) return GRAFT_OK;
    w->loop = gr_j_new(run, sizeof *w->loop);
    if (!w->loop) return gr_j_no_memory(run);
    *w->loop = (gr_jloop){.node = n, .frame = frame, .cursor = w->cursor, .index0 = -1, .length = -1, .depth0 = depth0};
    w->frame->slots[n->loop->loop_slot] = (gr_jv){.kind = GR_JLOOP, .loop = w->loop};
    return GRAFT_OK;
}

/* The else part runs when no pass reached the end of the body: continue and break do not count, as in the reference. */
static graft_status run_loop(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv items, unsigned depth0,
                             int *flow) {
    walk w;
    bool more, completed = false;
    *flow = GR_JFLOW_ON;
    GR_TRY(begin(run, frame, n, items, depth0, &w));
    for (;;) {
        int inner;
        GR_TRY(next_item(run, &w, &more));
        if (!more) break;
        GR_TRY(gr_j_exec(run, w.frame, n->body, &inner));
        if (inner == GR_JFLOW_BREAK) break;
        completed |= inner == GR_JFLOW_ON;
    }
    gr_j_leave_frame(w.frame);
    if (!n->flag || completed) return GRAFT_OK;
    gr_jframe *other;
    GR_TRY(gr_j_frame(run, frame, n->loop->else_scope, &other));
    GR_TRY(gr_j_enter_frame(run, other));
    return gr_j_exec(run, other, n->other, flow);
}

static graft_status run_recursive(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, gr_jv items, unsigned depth0,
                                  gr_jv *out) {
    gr_buf *to = run->to;
    size_t mark = gr_j_mark(run);
    int flow;
    GR_TRY(gr_j_enter(run));
    run->to = &run->scratch;
    GR_TRY(run_loop(run, frame, n, items, depth0, &flow));
    run->to = to;
    run->depth--;
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = run->autoescape;
    return GRAFT_OK;
}

graft_status gr_j_exec_for(gr_jrun *run, gr_jframe *frame, const gr_jnode *n, int *flow) {
    gr_jv items, text;
    GR_TRY(gr_j_eval(run, frame, n->b, &items));
    run->line = n->line;
    if (!n->loop->recursive) return run_loop(run, frame, n, items, 0, flow);
    GR_TRY(run_recursive(run, frame, n, items, 0, &text));
    return gr_j_add_str(run, run->to, text);
}

graft_status gr_j_call_loop(gr_jrun *run, gr_jloop *loop, const gr_jargs *args, gr_jv *out) {
    gr_jv v[GR_JMAX_PARAMS];
    GR_TRY(gr_j_bind(run, "loop", "iterable", args, v));
    if (!loop->node->loop->recursive)
        return gr_j_raise(run, "the loop must have the 'recursive' marker to be called recursively");
    return run_recursive(run, loop->frame, loop->node, v[0], loop->depth0 + 1, out);
}
