/* Truth, equality, order and membership, as Python defines them between its types. */
#define _GNU_SOURCE /* memmem */
#include "text/jinja_run.h"

graft_status gr_j_truth(gr_jrun *run, gr_jv v, bool *out) {
    switch (v.kind) {
    case GR_JMISSING:
    case GR_JUNDEFINED:
    case GR_JNONE: *out = false; return GRAFT_OK;
    case GR_JBOOL: *out = v.b; return GRAFT_OK;
    case GR_JINT: *out = v.i != 0; return GRAFT_OK;
    case GR_JFLOAT: *out = v.f != 0; return GRAFT_OK;
    case GR_JLOOP: {
        int64_t n;
        GR_TRY(gr_j_loop_length(run, v.loop, &n));
        *out = n != 0;
        return GRAFT_OK;
    }
    default: break;
    }
    size_t n = 1;
    if (gr_j_has_len(v)) GR_TRY(gr_j_len(run, v, &n));
    *out = n != 0;
    return GRAFT_OK;
}

/* Sign of i - f; f is not a NaN. A double holds only 53 of the 64 bits, so that comparing as doubles would lie. */
static int compare_int_float(int64_t i, double f) {
    if (f >= 0x1p63) return -1;
    if (f < -0x1p63) return 1;
    int64_t whole = (int64_t)f;
    if (i != whole) return i < whole ? -1 : 1;
    double rest = f - (double)whole;
    return rest > 0 ? -1 : rest < 0;
}

/* Sign of a - b for numbers; *ordered false when one is a NaN. */
static int compare_numbers(gr_jv a, gr_jv b, bool *ordered) {
    int64_t i, k;
    bool a_int = gr_j_as_int(a, &i), b_int = gr_j_as_int(b, &k);
    *ordered = (a_int || a.f == a.f) && (b_int || b.f == b.f);
    if (!*ordered) return 0;
    if (a_int && b_int) return (i > k) - (i < k);
    if (a_int) return compare_int_float(i, b.f);
    if (b_int) return -compare_int_float(k, a.f);
    return (a.f > b.f) - (a.f < b.f);
}

static int compare_text(const gr_jstr *a, const gr_jstr *b) {
    size_t n = GR_MIN(a->len, b->len);
    int c = n ? memcmp(a->p, b->p, n) : 0; /* UTF-8 sorts as its code points do */
    return c ? c : (a->len > b->len) - (a->len < b->len);
}

bool gr_j_same(gr_jv a, gr_jv b) {
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case GR_JNONE: return true;
    case GR_JBOOL: return a.b == b.b;
    case GR_JINT: return a.i == b.i;
    case GR_JFLOAT: return !memcmp(&a.f, &b.f, sizeof a.f);
    case GR_JSTR: /* Python keeps one object for each character below 256 */
        if (a.str->len != b.str->len || a.str->safe != b.str->safe) return false;
        if (!a.str->len || a.str->p == b.str->p) return true;
        return a.str->len <= 2 && (unsigned char)a.str->p[0] < 0xC4 && gr_j_chars(a.str) == 1 &&
               !memcmp(a.str->p, b.str->p, a.str->len);
    default: return a.p == b.p;
    }
}

static graft_status equal_items(gr_jrun *run, const gr_jseq *a, const gr_jseq *b, bool *out) {
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) GR_TRY(gr_j_equal(run, a->items[i], b->items[i], out));
    return GRAFT_OK;
}

static graft_status equal_dicts(gr_jrun *run, const gr_jdict *a, const gr_jdict *b, bool keys_only, bool *out) {
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        gr_jv other;
        GR_TRY(gr_j_dict_get(run, b, a->entries[i].key, &other, out));
        if (*out && !keys_only) GR_TRY(gr_j_equal(run, a->entries[i].value, other, out));
    }
    return GRAFT_OK;
}

graft_status gr_j_equal(gr_jrun *run, gr_jv a, gr_jv b, bool *out) {
    *out = false;
    if (gr_j_is_number(a) && gr_j_is_number(b)) {
        bool ordered;
        int c = compare_numbers(a, b, &ordered);
        *out = ordered && c == 0;
        return GRAFT_OK;
    }
    if (a.kind != b.kind) return GRAFT_OK;
    if (a.kind == GR_JSTR) {
        *out = a.str->len == b.str->len && (a.str->p == b.str->p || !memcmp(a.str->p, b.str->p, a.str->len));
        return gr_j_work(run, *out ? a.str->len : 0);
    }
    GR_TRY(gr_j_enter_value(run));
    switch (a.kind) {
    case GR_JUNDEFINED:
    case GR_JNONE: *out = true; break;
    case GR_JLIST:
    case GR_JTUPLE: GR_TRY(equal_items(run, a.seq, b.seq, out)); break;
    case GR_JDICT: GR_TRY(equal_dicts(run, a.dict, b.dict, false, out)); break;
    case GR_JRANGE:
        *out = a.range->n == b.range->n && (!a.range->n || (a.range->start == b.range->start &&
                                                            (a.range->n == 1 || a.range->step == b.range->step)));
        break;
    case GR_JVIEW:
        if (a.view->which != b.view->which || a.view->which == 'v')
            *out = a.view == b.view;
        else
            GR_TRY(equal_dicts(run, a.view->dict, b.view->dict, a.view->which == 'k', out));
        break;
    default: *out = gr_j_same(a, b);
    }
    run->value_depth--;
    return GRAFT_OK;
}

static bool holds(char op, int c) {
    switch (op) {
    case '<': return c < 0;
    case 'l': return c <= 0;
    case '>': return c > 0;
    default: return c >= 0;
    }
}

static graft_status not_ordered(gr_jrun *run, char op, gr_jv a, gr_jv b) {
    return gr_j_raise(run, "'%s' not supported between instances of '%s' and '%s'",
                      op == '<' ? "<" : op == 'l' ? "<=" : op == '>' ? ">" : ">=", gr_j_type(a), gr_j_type(b));
}

graft_status gr_j_ordered(gr_jrun *run, char op, gr_jv a, gr_jv b, bool *out) {
    if (a.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, a);
    if (b.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, b);
    if (gr_j_is_number(a) && gr_j_is_number(b)) {
        bool ordered;
        int c = compare_numbers(a, b, &ordered);
        *out = ordered && holds(op, c);
        return GRAFT_OK;
    }
    if (a.kind != b.kind) return not_ordered(run, op, a, b);
    if (a.kind == GR_JSTR) {
        *out = holds(op, compare_text(a.str, b.str));
        return gr_j_work(run, GR_MIN(a.str->len, b.str->len));
    }
    if (a.kind != GR_JLIST && a.kind != GR_JTUPLE) return not_ordered(run, op, a, b);
    GR_TRY(gr_j_enter_value(run));
    for (size_t i = 0; i < a.seq->n && i < b.seq->n; i++) {
        bool same;
        GR_TRY(gr_j_equal(run, a.seq->items[i], b.seq->items[i], &same));
        if (same) continue;
        GR_TRY(gr_j_ordered(run, op, a.seq->items[i], b.seq->items[i], out));
        run->value_depth--;
        return GRAFT_OK;
    }
    run->value_depth--;
    *out = holds(op, (a.seq->n > b.seq->n) - (a.seq->n < b.seq->n));
    return GRAFT_OK;
}

const char *gr_j_find(const char *p, size_t n, const char *what, size_t k) {
    if (!k) return p;
    return n >= k ? memmem(p, n, what, k) : NULL;
}

/* Rabin and Karp from the right: linear also for texts made to be slow, which comparing at every place is not. */
const char *gr_j_rfind(const char *p, size_t n, const char *what, size_t k) {
    if (n < k) return NULL;
    if (!k) return p + n;
    const uint64_t base = 0x9E3779B97F4A7C15u;
    uint64_t want = 0, have = 0, top = 1;
    for (size_t i = 0; i < k; i++) {
        want = want * base + (unsigned char)what[k - 1 - i];
        have = have * base + (unsigned char)p[n - 1 - i];
        if (i) top *= base;
    }
    for (size_t at = n - k;; at--) {
        if (want == have && !memcmp(p + at, what, k)) return p + at;
        if (!at) return NULL;
        have = (have - top * (unsigned char)p[at + k - 1]) * base + (unsigned char)p[at - 1];
    }
}

static bool in_range(const struct gr_jrange *r, int64_t i) {
    if (!r->n) return false;
    int64_t first = r->start, last = gr_j_range_at(r, r->n - 1);
    if (i < GR_MIN(first, last) || i > GR_MAX(first, last)) return false;
    uint64_t step = r->step > 0 ? (uint64_t)r->step : -(uint64_t)r->step;
    return (r->step > 0 ? (uint64_t)i - (uint64_t)first : (uint64_t)first - (uint64_t)i) % step == 0;
}

static graft_status dict_view_contains(gr_jrun *run, const struct gr_jview *view, gr_jv item, bool *out) {
    *out = false;
    if (view->which == 'k') return gr_j_dict_get(run, view->dict, item, NULL, out);
    for (size_t i = 0; !*out && i < view->dict->n; i++) {
        const gr_jentry *e = &view->dict->entries[i];
        if (view->which == 'v') {
            GR_TRY(gr_j_equal(run, e->value, item, out));
        } else if (item.kind == GR_JTUPLE && item.seq->n == 2) {
            GR_TRY(gr_j_equal(run, e->key, item.seq->items[0], out));
            if (*out) GR_TRY(gr_j_equal(run, e->value, item.seq->items[1], out));
        }
    }
    return GRAFT_OK;
}

graft_status gr_j_contains(gr_jrun *run, gr_jv container, gr_jv item, bool *out) {
    int64_t i;
    switch (container.kind) {
    case GR_JSTR:
        if (item.kind != GR_JSTR)
            return gr_j_raise(run, "'in <string>' requires string as left operand, not %s", gr_j_type(item));
        *out = gr_j_find(container.str->p, container.str->len, item.str->p, item.str->len) != NULL;
        return gr_j_work(run, container.str->len);
    case GR_JDICT: return gr_j_dict_get(run, container.dict, item, NULL, out);
    case GR_JVIEW: return dict_view_contains(run, container.view, item, out);
    case GR_JRANGE:
        if (gr_j_as_int(item, &i)) {
            *out = in_range(container.range, i);
            return GRAFT_OK;
        }
        break;
    default: break;
    }
    gr_jcursor c;
    gr_jv other;
    bool more;
    GR_TRY(gr_j_cursor(run, container, &c));
    for (;;) {
        GR_TRY(gr_j_next(run, &c, &other, &more));
        *out = false;
        if (!more) return GRAFT_OK;
        *out = gr_j_same(other, item);
        if (!*out) GR_TRY(gr_j_equal(run, other, item, out));
        if (*out) return GRAFT_OK;
    }
}

/* Bottom-up merge sort of an index array: stable, and a failing comparison leaves nothing half done. */
graft_status gr_j_sort(gr_jrun *run, gr_jv *items, gr_jv *keys, size_t n, bool reverse) {
    if (n < 2) return GRAFT_OK;
    size_t *order = gr_j_new(run, n * sizeof *order), *other = gr_j_new(run, n * sizeof *other);
    gr_jv *sorted = gr_j_new(run, 2 * n * sizeof *sorted);
    if (!order || !other || !sorted) return gr_j_no_memory(run);
    for (size_t i = 0; i < n; i++) order[i] = i;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = GR_MIN(lo + width, n), hi = GR_MIN(lo + 2 * width, n), a = lo, b = mid;
            for (size_t k = lo; k < hi; k++) {
                bool take_b = a == mid;
                if (!take_b && b < hi) /* equal keys keep their order, also when reversed */
                    GR_TRY(reverse ? gr_j_ordered(run, '<', keys[order[a]], keys[order[b]], &take_b)
                                   : gr_j_ordered(run, '<', keys[order[b]], keys[order[a]], &take_b));
                other[k] = take_b ? order[b++] : order[a++];
            }
            GR_TRY(gr_j_work(run, hi - lo));
        }
        size_t *swap = order;
        order = other;
        other = swap;
    }
    for (size_t i = 0; i < n; i++) {
        sorted[i] = items[order[i]];
        sorted[n + i] = keys[order[i]];
    }
    memcpy(items, sorted, n * sizeof *items);
    memcpy(keys, sorted + n, n * sizeof *keys);
    return GRAFT_OK;
}
