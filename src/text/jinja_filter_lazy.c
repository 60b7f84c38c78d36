/* Filters that give generators. They do their work, and raise, only while they are iterated over, and only once: a
 * second loop over the same generator finds nothing. */
#include "text/jinja_filter.h"

#define UNUSED (void)run, (void)args, (void)raw

/* The arguments of a lazy filter, kept until they are needed. */
typedef struct lazy {
    gr_jv value, a, b;
    gr_jargs raw;
    bool started, negate, by_attribute, flag;
    const gr_jfilter *filter;
    const gr_jtest *test;
    gr_jargs rest;
    gr_jv path, fallback;
    gr_jdict *seen;
    size_t at, n;
} lazy;

static graft_status generator(gr_jrun *run, gr_jnext next, gr_jv value, const gr_jargs *raw, lazy **state, gr_jv *out) {
    lazy *l = gr_j_new(run, sizeof *l);
    if (!l) return gr_j_no_memory(run);
    l->value = value;
    if (raw) l->raw = *raw;
    GR_TRY(gr_j_iter(run, next, "generator", out));
    out->iter->data = l;
    *state = l;
    return GRAFT_OK;
}

/* True when iteration begins now. */
static bool starts(lazy *l) {
    bool first = !l->started;
    l->started = true;
    return first;
}

static graft_status next_item(gr_jrun *run, gr_jiter *it, gr_jv *out, bool *more) {
    lazy *l = it->data;
    if (starts(l)) {
        if (l->value.kind != GR_JUNDEFINED && l->value.kind != GR_JDICT)
            return gr_j_raise(run, "can only get item pairs from a mapping");
        l->n = l->value.kind == GR_JDICT ? l->value.dict->n : 0;
    }
    *more = l->at < l->n;
    if (!*more) return GRAFT_OK;
    const gr_jentry *e = &l->value.dict->entries[l->at++];
    return gr_j_pair(run, e->key, e->value, out);
}

GR_JFILTER(gr_j_filter_items) {
    UNUSED;
    lazy *l = NULL;
    return generator(run, next_item, args[0], NULL, &l, out);
}

static graft_status next_batch(gr_jrun *run, gr_jiter *it, gr_jv *out, bool *more) {
    lazy *l = it->data;
    gr_jv batch, item;
    if (starts(l)) GR_TRY(gr_j_cursor(run, l->value, &it->source));
    GR_TRY(gr_j_seq(run, GR_JLIST, 0, &batch));
    if (l->flag) { /* one item was read ahead */
        GR_TRY(gr_j_push(run, batch.seq, l->path));
        l->flag = false;
    }
    for (;;) {
        GR_TRY(gr_j_next(run, &it->source, &item, more));
        if (!*more) break;
        bool full;
        GR_TRY(gr_j_equal(run, gr_j_int((int64_t)batch.seq->n), l->a, &full));
        if (full) {
            l->path = item;
            l->flag = true;
            *out = batch;
            return GRAFT_OK;
        }
        GR_TRY(gr_j_push(run, batch.seq, item));
    }
    *more = batch.seq->n > 0;
    int64_t want;
    if (*more && l->b.kind != GR_JNONE && !gr_j_is_missing(l->b)) {
        GR_TRY(gr_j_arg_int(run, "batch", l->a, &want));
        while ((int64_t)batch.seq->n < want) {
            GR_TRY(gr_j_work(run, 0));
            GR_TRY(gr_j_push(run, batch.seq, l->b));
        }
    }
    *out = batch;
    return GRAFT_OK;
}

GR_JFILTER(gr_j_filter_batch) {
    UNUSED;
    lazy *l = NULL;
    GR_TRY(generator(run, next_batch, args[0], NULL, &l, out));
    l->a = args[1];
    l->b = args[2];
    return GRAFT_OK;
}

static graft_status next_slice(gr_jrun *run, gr_jiter *it, gr_jv *out, bool *more) {
    lazy *l = it->data;
    int64_t slices;
    GR_TRY(gr_j_arg_int(run, "slice", l->a, &slices));
    if (starts(l)) {
        GR_TRY(gr_j_to_list(run, l->value, &l->value));
        if (!slices) return gr_j_raise(run, "integer division or modulo by zero");
    }
    *more = (int64_t)l->at < slices;
    if (!*more) return GRAFT_OK;
    size_t each = l->value.seq->n / (size_t)slices, extra = l->value.seq->n % (size_t)slices;
    size_t from = l->at * each + GR_MIN(l->at, extra), n = each + (l->at < extra);
    gr_jv part;
    GR_TRY(gr_j_seq(run, GR_JLIST, n + 1, &part));
    for (size_t i = 0; i < n; i++) GR_TRY(gr_j_push(run, part.seq, l->value.seq->items[from + i]));
    if (l->at >= extra && l->b.kind != GR_JNONE && !gr_j_is_missing(l->b)) GR_TRY(gr_j_push(run, part.seq, l->b));
    l->at++;
    *out = part;
    return GRAFT_OK;
}

GR_JFILTER(gr_j_filter_slice) {
    UNUSED;
    lazy *l = NULL;
    GR_TRY(generator(run, next_slice, args[0], NULL, &l, out));
    l->a = args[1];
    l->b = args[2];
    return GRAFT_OK;
}

static graft_status next_unique(gr_jrun *run, gr_jiter *it, gr_jv *out, bool *more) {
    lazy *l = it->data;
    bool seen = true;
    if (starts(l)) {
        gr_jv d;
        GR_TRY(gr_j_dict(run, &d));
        l->seen = d.dict;
        GR_TRY(gr_j_arg_truth(run, l->a, &l->flag));
        GR_TRY(gr_j_cursor(run, l->value, &it->source));
    }
    for (;;) {
        gr_jv key;
        GR_TRY(gr_j_next(run, &it->source, out, more));
        if (!*more) return GRAFT_OK;
        GR_TRY(gr_j_path(run, *out, l->b, gr_j_none(), &key));
        if (!l->flag) GR_TRY(gr_j_ignore_case(run, key, &key));
        GR_TRY(gr_j_dict_get(run, l->seen, key, NULL, &seen));
        if (seen) continue;
        return gr_j_dict_set(run, l->seen, key, gr_j_none());
    }
}

GR_JFILTER(gr_j_filter_unique) {
    UNUSED;
    lazy *l = NULL;
    GR_TRY(generator(run, next_unique, args[0], NULL, &l, out));
    l->a = args[1];
    l->b = args[2];
    return GRAFT_OK;
}

/* Nothing is looked at, not even the arguments, when the value is empty. */
static graft_status begin(gr_jrun *run, lazy *l, gr_jiter *it, bool *empty) {
    bool truth;
    GR_TRY(gr_j_truth(run, l->value, &truth));
    *empty = !truth;
    if (*empty) {
        it->source = (gr_jcursor){.over = {.kind = GR_JUNDEFINED}};
        return GRAFT_OK;
    }
    return gr_j_cursor(run, l->value, &it->source);
}

static graft_status prepare_map(gr_jrun *run, lazy *l) {
    gr_jargs *a = &l->raw;
    l->by_attribute = false;
    for (size_t i = 0; i < a->n_kw; i++) l->by_attribute |= !a->n_pos && gr_j_name_is(a->kw_names[i], "attribute");
    if (l->by_attribute) {
        gr_jv v[GR_JMAX_PARAMS];
        GR_TRY(gr_j_bind(run, "map", "attribute default?", a, v));
        l->path = v[0];
        l->fallback = gr_j_is_missing(v[1]) ? gr_j_none() : v[1];
        return GRAFT_OK;
    }
    if (!a->n_pos) return gr_j_raise(run, "map requires a filter argument");
    gr_jv name = a->pos[0];
    if (name.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, name);
    if (name.kind == GR_JSTR) l->filter = gr_j_find_filter(name.str->p, name.str->len);
    if (!l->filter) return gr_j_raise(run, "map: no such filter");
    l->rest = *a;
    l->rest.pos++;
    l->rest.n_pos--;
    return GRAFT_OK;
}

static graft_status next_mapped(gr_jrun *run, gr_jiter *it, gr_jv *out, bool *more) {
    lazy *l = it->data;
    gr_jv item;
    if (starts(l)) {
        bool empty;
        GR_TRY(begin(run, l, it, &empty));
    }
    GR_TRY(gr_j_next(run, &it->source, &item, more));
    if (!*more) return GRAFT_OK;
    if (!l->filter && !l->by_attribute) GR_TRY(prepare_map(run, l));
    if (l->by_attribute) return gr_j_path(run, item, l->path, l->fallback, out);
    return gr_j_call_filter(run, l->filter, item, &l->rest, out);
}

GR_JFILTER(gr_j_filter_map) {
    lazy *l = NULL;
    return generator(run, next_mapped, args[0], raw, &l, out);
}

static graft_status prepare_select(gr_jrun *run, lazy *l) {
    gr_jargs *a = &l->raw;
    size_t off = l->by_attribute;
    if (l->by_attribute) {
        if (!a->n_pos) return gr_j_raise(run, "missing parameter for attribute name");
        l->path = a->pos[0];
    }
    l->flag = a->n_pos <= off; /* no test: the value's own truth */
    if (l->flag) return GRAFT_OK;
    gr_jv name = a->pos[off];
    if (name.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, name);
    if (name.kind == GR_JSTR) l->test = gr_j_find_test(name.str->p, name.str->len);
    l->rest = *a;
    l->rest.pos += off + 1;
    l->rest.n_pos -= off + 1;
    return GRAFT_OK;
}

static graft_status next_selected(gr_jrun *run, gr_jiter *it, gr_jv *out, bool *more) {
    lazy *l = it->data;
    if (starts(l)) {
        bool empty;
        GR_TRY(begin(run, l, it, &empty));
        if (!empty) GR_TRY(prepare_select(run, l));
    }
    for (;;) {
        gr_jv v;
        bool holds;
        GR_TRY(gr_j_next(run, &it->source, out, more));
        if (!*more) return GRAFT_OK;
        v = *out;
        if (l->by_attribute) GR_TRY(gr_j_path(run, v, l->path, gr_j_none(), &v));
        if (l->flag) {
            GR_TRY(gr_j_truth(run, v, &holds));
        } else {
            if (!l->test) return gr_j_raise(run, "select: no such test");
            GR_TRY(gr_j_call_test(run, l->test, v, &l->rest, &holds));
        }
        if (holds != l->negate) return GRAFT_OK;
    }
}

static graft_status selection(gr_jrun *run, gr_jv *args, const gr_jargs *raw, bool negate, bool attr, gr_jv *out) {
    lazy *l = NULL;
    GR_TRY(generator(run, next_selected, args[0], raw, &l, out));
    l->negate = negate;
    l->by_attribute = attr;
    return GRAFT_OK;
}
GR_JFILTER(gr_j_filter_select) { return selection(run, args, raw, false, false, out); }
GR_JFILTER(gr_j_filter_reject) { return selection(run, args, raw, true, false, out); }
GR_JFILTER(gr_j_filter_selectattr) { return selection(run, args, raw, false, true, out); }
GR_JFILTER(gr_j_filter_rejectattr) { return selection(run, args, raw, true, true, out); }
