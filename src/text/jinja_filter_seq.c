/* Filters over sequences that give a value or a list. */
#include "text/jinja_filter.h"

#define UNUSED (void)run, (void)args, (void)raw

GR_JFILTER(gr_j_filter_length) {
    UNUSED;
    size_t n;
    GR_TRY(gr_j_len(run, args[0], &n));
    *out = gr_j_int((int64_t)n);
    return GRAFT_OK;
}

GR_JFILTER(gr_j_filter_list) { UNUSED; return gr_j_to_list(run, args[0], out); }

GR_JFILTER(gr_j_filter_first) {
    UNUSED;
    gr_jcursor c;
    bool more;
    GR_TRY(gr_j_cursor(run, args[0], &c));
    GR_TRY(gr_j_next(run, &c, out, &more));
    return more ? GRAFT_OK : gr_j_undefined(run, "no first item, sequence was empty", out);
}

GR_JFILTER(gr_j_filter_last) {
    UNUSED;
    gr_jv reversed;
    gr_jcursor c;
    bool more, ok;
    GR_TRY(gr_j_reversed(run, args[0], &reversed, &ok));
    if (!ok) return gr_j_raise(run, "'%s' object is not reversible", gr_j_type(args[0]));
    GR_TRY(gr_j_cursor(run, reversed, &c));
    GR_TRY(gr_j_next(run, &c, out, &more));
    return more ? GRAFT_OK : gr_j_undefined(run, "no last item, sequence was empty", out);
}

GR_JFILTER(gr_j_filter_reverse) {
    UNUSED;
    bool ok;
    if (args[0].kind == GR_JSTR) {
        struct gr_jslice backwards = {.step = gr_j_int(-1)};
        return gr_j_slice(run, args[0], &backwards, out);
    }
    GR_TRY(gr_j_reversed(run, args[0], out, &ok));
    if (ok) return GRAFT_OK;
    gr_jv list;
    GR_TRY(gr_j_to_list(run, args[0], &list));
    for (size_t i = 0, k = list.seq->n; i + 1 < k; i++) {
        gr_jv swap = list.seq->items[i];
        list.seq->items[i] = list.seq->items[--k];
        list.seq->items[k] = swap;
    }
    *out = list;
    return GRAFT_OK;
}

/* What an item is compared by: the value at `path`, text without case unless asked for. */
static graft_status key_of(gr_jrun *run, gr_jv item, gr_jv path, gr_jv fallback, bool case_sensitive, gr_jv *out) {
    GR_TRY(gr_j_path(run, item, path, fallback, out));
    return case_sensitive ? GRAFT_OK : gr_j_ignore_case(run, *out, out);
}

/* The keys of sort: one for each comma-separated path. */
static graft_status multi_key(gr_jrun *run, gr_jv item, gr_jv path, bool case_sensitive, gr_jv *out) {
    if (path.kind != GR_JSTR || !memchr(path.str->p, ',', path.str->len))
        return key_of(run, item, path, gr_j_none(), case_sensitive, out);
    gr_jv list, key, part;
    GR_TRY(gr_j_seq(run, GR_JLIST, 0, &list));
    const char *p = path.str->p, *end = p + path.str->len;
    for (;;) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        GR_TRY(gr_j_str_view(run, p, (size_t)((comma ? comma : end) - p), &part));
        GR_TRY(key_of(run, item, part, gr_j_none(), case_sensitive, &key));
        GR_TRY(gr_j_push(run, list.seq, key));
        if (!comma) break;
        p = comma + 1;
    }
    *out = list;
    return GRAFT_OK;
}

GR_JFILTER(gr_j_filter_sort) {
    UNUSED;
    bool case_sensitive = false;
    int64_t reverse = 0;
    gr_jv list, keys;
    GR_TRY(gr_j_arg_int(run, "sort", args[1], &reverse));
    GR_TRY(gr_j_arg_truth(run, args[2], &case_sensitive));
    GR_TRY(gr_j_to_list(run, args[0], &list));
    GR_TRY(gr_j_seq(run, GR_JLIST, list.seq->n, &keys));
    for (size_t i = 0; i < list.seq->n; i++)
        GR_TRY(multi_key(run, list.seq->items[i], args[3], case_sensitive, &keys.seq->items[i]));
    /* The reference compares lists of keys: equal items first, so that None and None do not raise. */
    for (size_t i = 0; i < list.seq->n; i++) {
        gr_jv boxed;
        GR_TRY(gr_j_seq(run, GR_JLIST, 1, &boxed));
        GR_TRY(gr_j_push(run, boxed.seq, keys.seq->items[i]));
        keys.seq->items[i] = boxed;
    }
    GR_TRY(gr_j_sort(run, list.seq->items, keys.seq->items, list.seq->n, reverse != 0));
    *out = list;
    return GRAFT_OK;
}

GR_JFILTER(gr_j_filter_dictsort) {
    UNUSED;
    bool case_sensitive = false;
    int64_t reverse = 0;
    bool by_value = gr_j_str_is(args[2], "value");
    gr_jv list, keys;
    GR_TRY(gr_j_arg_truth(run, args[1], &case_sensitive));
    GR_TRY(gr_j_arg_int(run, "dictsort", args[3], &reverse));
    if (!by_value && !gr_j_is_missing(args[2]) && !gr_j_str_is(args[2], "key"))
        return gr_j_raise(run, "you can only sort by either \"key\" or \"value\"");
    if (args[0].kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, args[0]);
    if (args[0].kind != GR_JDICT) return gr_j_raise(run, "dictsort needs a dict, not %s", gr_j_type(args[0]));
    const gr_jdict *d = args[0].dict;
    GR_TRY(gr_j_seq(run, GR_JLIST, d->n, &list));
    GR_TRY(gr_j_seq(run, GR_JLIST, d->n, &keys));
    for (size_t i = 0; i < d->n; i++) {
        gr_jv key = by_value ? d->entries[i].value : d->entries[i].key;
        GR_TRY(gr_j_pair(run, d->entries[i].key, d->entries[i].value, &list.seq->items[i]));
        if (!case_sensitive) GR_TRY(gr_j_ignore_case(run, key, &key));
        keys.seq->items[i] = key;
    }
    list.seq->n = d->n;
    GR_TRY(gr_j_sort(run, list.seq->items, keys.seq->items, d->n, reverse != 0));
    *out = list;
    return GRAFT_OK;
}

static graft_status extreme(gr_jrun *run, gr_jv *args, char op, gr_jv *out) {
    bool case_sensitive = false, more, better;
    gr_jcursor c;
    gr_jv item, key, best;
    GR_TRY(gr_j_arg_truth(run, args[1], &case_sensitive));
    GR_TRY(gr_j_cursor(run, args[0], &c));
    GR_TRY(gr_j_next(run, &c, &item, &more));
    if (!more) return gr_j_undefined(run, "no aggregated item, sequence was empty", out);
    *out = item;
    GR_TRY(key_of(run, item, args[2], gr_j_none(), case_sensitive, &best));
    for (;;) {
        GR_TRY(gr_j_next(run, &c, &item, &more));
        if (!more) return GRAFT_OK;
        GR_TRY(key_of(run, item, args[2], gr_j_none(), case_sensitive, &key));
        GR_TRY(gr_j_ordered(run, op, key, best, &better));
        if (!better) continue;
        *out = item;
        best = key;
    }
}
GR_JFILTER(gr_j_filter_min) { UNUSED; return extreme(run, args, '<', out); }
GR_JFILTER(gr_j_filter_max) { UNUSED; return extreme(run, args, '>', out); }

GR_JFILTER(gr_j_filter_sum) {
    UNUSED;
    gr_jcursor c;
    gr_jv item, total = gr_j_is_missing(args[2]) ? gr_j_int(0) : args[2];
    bool more;
    if (total.kind == GR_JSTR) return gr_j_raise(run, "sum() can't sum strings");
    GR_TRY(gr_j_cursor(run, args[0], &c));
    for (;;) {
        GR_TRY(gr_j_next(run, &c, &item, &more));
        if (!more) break;
        GR_TRY(gr_j_path(run, item, args[1], gr_j_none(), &item));
        GR_TRY(gr_j_binary(run, GR_JT_ADD, total, item, &total));
    }
    *out = total;
    return GRAFT_OK;
}

static graft_status new_group(gr_jrun *run, gr_jv grouper, gr_jv *out) {
    gr_jv list;
    GR_TRY(gr_j_seq(run, GR_JLIST, 0, &list));
    GR_TRY(gr_j_pair(run, grouper, list, out));
    out->seq->group = true;
    return GRAFT_OK;
}

GR_JFILTER(gr_j_filter_groupby) {
    UNUSED;
    bool case_sensitive = false;
    gr_jv list, keys, groups, group = {0}, fallback = gr_j_is_missing(args[2]) ? gr_j_none() : args[2];
    GR_TRY(gr_j_arg_truth(run, args[3], &case_sensitive));
    GR_TRY(gr_j_to_list(run, args[0], &list));
    size_t n = list.seq->n;
    GR_TRY(gr_j_seq(run, GR_JLIST, n, &keys));
    for (size_t i = 0; i < n; i++)
        GR_TRY(key_of(run, list.seq->items[i], args[1], fallback, case_sensitive, &keys.seq->items[i]));
    GR_TRY(gr_j_sort(run, list.seq->items, keys.seq->items, n, false));
    GR_TRY(gr_j_seq(run, GR_JLIST, 0, &groups));
    for (size_t i = 0; i < n; i++) {
        bool same = false;
        if (i) GR_TRY(gr_j_equal(run, keys.seq->items[i - 1], keys.seq->items[i], &same));
        if (!same) {
            gr_jv grouper; /* as it stands in the first item, not in lower case */
            GR_TRY(gr_j_path(run, list.seq->items[i], args[1], fallback, &grouper));
            GR_TRY(new_group(run, grouper, &group));
            GR_TRY(gr_j_push(run, groups.seq, group));
        }
        GR_TRY(gr_j_push(run, group.seq->items[1].seq, list.seq->items[i]));
    }
    *out = groups;
    return GRAFT_OK;
}
