/* Iteration, length and reversal. */
#include "text/jinja_run.h"

graft_status gr_j_cursor(gr_jrun *run, gr_jv over, gr_jcursor *out) {
    switch (over.kind) {
    case GR_JUNDEFINED:
    case GR_JSTR:
    case GR_JLIST:
    case GR_JTUPLE:
    case GR_JDICT:
    case GR_JRANGE:
    case GR_JVIEW:
    case GR_JITER: *out = (gr_jcursor){.over = over}; return GRAFT_OK;
    default: return gr_j_raise(run, "'%s' object is not iterable", gr_j_type(over));
    }
}

static graft_status next_char(gr_jrun *run, gr_jcursor *c, gr_jv *out) {
    const gr_jstr *s = c->over.str;
    size_t k = 1;
    while (c->pos + k < s->len && ((unsigned char)s->p[c->pos + k] & 0xC0) == 0x80) k++;
    GR_TRY(gr_j_str_sub(run, s, s->p + c->pos, k, out));
    out->str->chars = 1;
    out->str->safe = false; /* iterating over Markup gives plain characters */
    c->pos += k;
    return GRAFT_OK;
}

static graft_status next_of_view(gr_jrun *run, gr_jcursor *c, gr_jv *out) {
    const gr_jentry *e = &c->over.view->dict->entries[c->pos++];
    if (c->over.view->which == 'i') return gr_j_pair(run, e->key, e->value, out);
    *out = c->over.view->which == 'k' ? e->key : e->value;
    return GRAFT_OK;
}

graft_status gr_j_next(gr_jrun *run, gr_jcursor *c, gr_jv *out, bool *more) {
    GR_TRY(gr_j_work(run, 0));
    *more = true;
    switch (c->over.kind) {
    case GR_JSTR:
        if (c->pos < c->over.str->len) return next_char(run, c, out);
        break;
    case GR_JLIST:
    case GR_JTUPLE:
        if (c->pos >= c->over.seq->n) break;
        *out = c->over.seq->items[c->pos++];
        return GRAFT_OK;
    case GR_JDICT:
        if (c->pos >= c->over.dict->n) break;
        *out = c->over.dict->entries[c->pos++].key;
        return GRAFT_OK;
    case GR_JVIEW:
        if (c->pos < c->over.view->dict->n) return next_of_view(run, c, out);
        break;
    case GR_JRANGE:
        if (c->pos >= c->over.range->n) break;
        *out = gr_j_int(gr_j_range_at(c->over.range, c->pos++));
        return GRAFT_OK;
    case GR_JITER: {
        gr_jiter *it = c->over.iter;
        if (it->done) break;
        GR_TRY(gr_j_enter_value(run)); /* generators over generators recurse */
        GR_TRY(it->next(run, it, out, more));
        run->value_depth--;
        it->done = !*more;
        return GRAFT_OK;
    }
    default: break;
    }
    *more = false;
    return GRAFT_OK;
}

graft_status gr_j_to_list(gr_jrun *run, gr_jv over, gr_jv *out) {
    gr_jcursor c;
    gr_jv list, item;
    bool more;
    GR_TRY(gr_j_cursor(run, over, &c));
    GR_TRY(gr_j_seq(run, GR_JLIST, 0, &list));
    for (;;) {
        GR_TRY(gr_j_next(run, &c, &item, &more));
        if (!more) break;
        GR_TRY(gr_j_push(run, list.seq, item));
    }
    *out = list;
    return GRAFT_OK;
}

bool gr_j_has_len(gr_jv v) {
    switch (v.kind) {
    case GR_JUNDEFINED:
    case GR_JSTR:
    case GR_JLIST:
    case GR_JTUPLE:
    case GR_JDICT:
    case GR_JRANGE:
    case GR_JLOOP:
    case GR_JVIEW: return true;
    default: return false;
    }
}

graft_status gr_j_len(gr_jrun *run, gr_jv v, size_t *out) {
    int64_t n;
    switch (v.kind) {
    case GR_JUNDEFINED: *out = 0; return GRAFT_OK;
    case GR_JSTR: *out = gr_j_chars(v.str); return GRAFT_OK;
    case GR_JLIST:
    case GR_JTUPLE: *out = v.seq->n; return GRAFT_OK;
    case GR_JDICT: *out = v.dict->n; return GRAFT_OK;
    case GR_JVIEW: *out = v.view->dict->n; return GRAFT_OK;
    case GR_JRANGE: *out = v.range->n; return GRAFT_OK;
    case GR_JLOOP:
        GR_TRY(gr_j_loop_length(run, v.loop, &n));
        *out = (size_t)n;
        return GRAFT_OK;
    default: return gr_j_raise(run, "object of type '%s' has no len()", gr_j_type(v));
    }
}

static graft_status next_from_source(gr_jrun *run, gr_jiter *it, gr_jv *out, bool *more) {
    return gr_j_next(run, &it->source, out, more);
}

graft_status gr_j_iter_over(gr_jrun *run, gr_jv over, const char *type, gr_jv *out) {
    gr_jcursor c;
    GR_TRY(gr_j_cursor(run, over, &c));
    GR_TRY(gr_j_iter(run, next_from_source, type, out));
    out->iter->source = c;
    return GRAFT_OK;
}

graft_status gr_j_reversed(gr_jrun *run, gr_jv v, gr_jv *out, bool *ok) {
    const char *type;
    *ok = true;
    switch (v.kind) {
    case GR_JUNDEFINED:
    case GR_JSTR:
    case GR_JTUPLE: type = "reversed"; break;
    case GR_JLIST: type = "list_reverseiterator"; break;
    case GR_JRANGE: type = "range_iterator"; break;
    case GR_JDICT: type = "dict_reversekeyiterator"; break;
    case GR_JVIEW:
        type = v.view->which == 'k'   ? "dict_reversekeyiterator"
               : v.view->which == 'v' ? "dict_reversevalueiterator"
                                      : "dict_reverseitemiterator";
        break;
    default: *ok = false; return GRAFT_OK;
    }
    gr_jv list;
    GR_TRY(gr_j_to_list(run, v, &list));
    for (size_t i = 0, k = list.seq->n; i + 1 < k; i++) {
        gr_jv swap = list.seq->items[i];
        list.seq->items[i] = list.seq->items[--k];
        list.seq->items[k] = swap;
    }
    if (v.kind == GR_JSTR && v.str->safe) /* while indexing it, which reversed() does, gives Markup */
        for (size_t i = 0; i < list.seq->n; i++) list.seq->items[i].str->safe = true;
    return gr_j_iter_over(run, list, type, out);
}
