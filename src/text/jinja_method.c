/* Methods of dict, list, tuple, range, numbers, loops and cyclers. A method that would change its object has no
 * function: the sandbox makes it undefined. */
#include <math.h>

#include "text/jinja_run.h"

#define METHOD(name)                                                                                                   \
    static graft_status name(gr_jrun *run, gr_jv self, gr_jv *args, const gr_jargs *raw, gr_jv *out)
#define UNUSED (void)run, (void)self, (void)args, (void)raw

static graft_status view(gr_jrun *run, gr_jv self, char which, gr_jv *out) {
    struct gr_jview *v = gr_j_new(run, sizeof *v);
    if (!v) return gr_j_no_memory(run);
    *v = (struct gr_jview){.dict = self.dict, .which = which};
    *out = (gr_jv){.kind = GR_JVIEW, .view = v};
    return GRAFT_OK;
}
METHOD(dict_keys) { UNUSED; return view(run, self, 'k', out); }
METHOD(dict_values) { UNUSED; return view(run, self, 'v', out); }
METHOD(dict_items) { UNUSED; return view(run, self, 'i', out); }

METHOD(dict_get) {
    UNUSED;
    bool found;
    GR_TRY(gr_j_dict_get(run, self.dict, args[0], out, &found));
    if (!found) *out = gr_j_is_missing(args[1]) ? gr_j_none() : args[1];
    return GRAFT_OK;
}

METHOD(dict_copy) {
    UNUSED;
    gr_jv copy;
    GR_TRY(gr_j_dict(run, &copy));
    GR_TRY(gr_j_dict_merge(run, copy.dict, self));
    *out = copy;
    return GRAFT_OK;
}

METHOD(dict_fromkeys) {
    UNUSED;
    gr_jcursor c;
    gr_jv d, key, value = gr_j_is_missing(args[1]) ? gr_j_none() : args[1];
    bool more;
    GR_TRY(gr_j_dict(run, &d));
    GR_TRY(gr_j_cursor(run, args[0], &c));
    for (;;) {
        GR_TRY(gr_j_next(run, &c, &key, &more));
        if (!more) break;
        GR_TRY(gr_j_dict_set(run, d.dict, key, value));
    }
    *out = d;
    return GRAFT_OK;
}

METHOD(seq_count) {
    UNUSED;
    gr_jcursor c;
    gr_jv item;
    bool more, same;
    int64_t n = 0;
    GR_TRY(gr_j_cursor(run, self, &c));
    for (;;) {
        GR_TRY(gr_j_next(run, &c, &item, &more));
        if (!more) break;
        GR_TRY(gr_j_equal(run, item, args[0], &same));
        n += same;
    }
    *out = gr_j_int(n);
    return GRAFT_OK;
}

METHOD(seq_index) {
    UNUSED;
    size_t n;
    int64_t start = 0, stop = INT64_MAX;
    GR_TRY(gr_j_len(run, self, &n));
    GR_TRY(gr_j_arg_int(run, "index", args[1], &start));
    GR_TRY(gr_j_arg_int(run, "index", args[2], &stop));
    if (start < 0) start = GR_MAX(start + (int64_t)n, 0);
    if (stop < 0) stop += (int64_t)n;
    gr_jcursor c;
    gr_jv item;
    bool more, same;
    GR_TRY(gr_j_cursor(run, self, &c));
    for (int64_t i = 0;; i++) {
        GR_TRY(gr_j_next(run, &c, &item, &more));
        if (!more || i >= stop) return gr_j_raise(run, "the value is not in the %s", gr_j_type(self));
        if (i < start) continue;
        GR_TRY(gr_j_equal(run, item, args[0], &same));
        if (!same) continue;
        *out = gr_j_int(i);
        return GRAFT_OK;
    }
}

METHOD(list_copy) { UNUSED; return gr_j_to_list(run, self, out); }

METHOD(int_bit_length) {
    UNUSED;
    int64_t i = 0;
    gr_j_as_int(self, &i);
    uint64_t m = i < 0 ? -(uint64_t)i : (uint64_t)i;
    *out = gr_j_int(m ? 64 - __builtin_clzll(m) : 0);
    return GRAFT_OK;
}

METHOD(int_bit_count) {
    UNUSED;
    int64_t i = 0;
    gr_j_as_int(self, &i);
    *out = gr_j_int(__builtin_popcountll(i < 0 ? -(uint64_t)i : (uint64_t)i));
    return GRAFT_OK;
}

METHOD(number_conjugate) { UNUSED; return gr_j_plus(run, self, out); }

METHOD(float_is_integer) {
    UNUSED;
    *out = gr_j_bool(isfinite(self.f) && self.f == floor(self.f));
    return GRAFT_OK;
}

METHOD(int_as_integer_ratio) {
    UNUSED;
    gr_jv whole;
    GR_TRY(gr_j_plus(run, self, &whole));
    return gr_j_pair(run, whole, gr_j_int(1), out);
}

METHOD(cycler_next) {
    UNUSED;
    struct gr_jcycler *c = self.cycler;
    *out = c->items[c->pos];
    c->pos = (c->pos + 1) % c->n;
    return GRAFT_OK;
}

METHOD(cycler_reset) {
    UNUSED;
    self.cycler->pos = 0;
    *out = gr_j_none();
    return GRAFT_OK;
}

METHOD(loop_cycle) {
    UNUSED;
    if (raw->n_kw) return gr_j_raise(run, "loop.cycle takes no keyword arguments");
    if (!raw->n_pos) return gr_j_raise(run, "no items for cycling given");
    *out = raw->pos[(size_t)self.loop->index0 % raw->n_pos];
    return GRAFT_OK;
}

METHOD(loop_changed) {
    UNUSED;
    gr_jv values;
    bool same = false;
    if (raw->n_kw) return gr_j_raise(run, "loop.changed takes no keyword arguments");
    GR_TRY(gr_j_seq(run, GR_JTUPLE, raw->n_pos, &values));
    for (size_t i = 0; i < raw->n_pos; i++) values.seq->items[i] = raw->pos[i];
    values.seq->n = raw->n_pos;
    if (!gr_j_is_missing(self.loop->last_changed))
        GR_TRY(gr_j_equal(run, self.loop->last_changed, values, &same));
    if (!same) self.loop->last_changed = values;
    *out = gr_j_bool(!same);
    return GRAFT_OK;
}

METHOD(unsupported) {
    UNUSED;
    (void)out;
    return gr_j_fail(run, GRAFT_ERR_UNSUPPORTED, "this method of %s is not supported", gr_j_type(self));
}

static const gr_jmethod_def dict_methods[] = {
    {"clear", NULL, NULL},
    {"copy", "", dict_copy},
    {"fromkeys", "iterable value? /", dict_fromkeys},
    {"get", "key default? /", dict_get},
    {"items", "", dict_items},
    {"keys", "", dict_keys},
    {"pop", NULL, NULL},
    {"popitem", NULL, NULL},
    {"setdefault", NULL, NULL},
    {"update", NULL, NULL},
    {"values", "", dict_values},
};

static const gr_jmethod_def list_methods[] = {
    {"append", NULL, NULL},
    {"clear", NULL, NULL},
    {"copy", "", list_copy},
    {"count", "value /", seq_count},
    {"extend", NULL, NULL},
    {"index", "value start? stop? /", seq_index},
    {"insert", NULL, NULL},
    {"pop", NULL, NULL},
    {"remove", NULL, NULL},
    {"reverse", NULL, NULL},
    {"sort", NULL, NULL},
};

static const gr_jmethod_def tuple_methods[] = {
    {"count", "value /", seq_count},
    {"index", "value start? stop? /", seq_index},
};

static const gr_jmethod_def int_methods[] = {
    {"as_integer_ratio", "", int_as_integer_ratio},
    {"bit_count", "", int_bit_count},
    {"bit_length", "", int_bit_length},
    {"conjugate", "", number_conjugate},
    {"from_bytes", NULL, unsupported},
    {"to_bytes", NULL, unsupported},
};

static const gr_jmethod_def float_methods[] = {
    {"as_integer_ratio", NULL, unsupported}, {"conjugate", "", number_conjugate}, {"fromhex", NULL, unsupported},
    {"hex", NULL, unsupported},              {"is_integer", "", float_is_integer},
};

static const gr_jmethod_def view_methods[] = {{"isdisjoint", NULL, unsupported}, {"mapping", NULL, unsupported}};

static const gr_jmethod_def iter_methods[] = {
    {"send", NULL, unsupported}, {"throw", NULL, unsupported}, {"close", NULL, unsupported}};

static const gr_jmethod_def cycler_methods[] = {{"next", "", cycler_next}, {"reset", "", cycler_reset}};

static const gr_jmethod_def loop_methods[] = {{"cycle", NULL, loop_cycle}, {"changed", NULL, loop_changed}};

static const gr_jmethod_def dict_type_methods[] = {{"fromkeys", "iterable value? /", dict_fromkeys}};

#define TABLE(t) (*n = GR_COUNT(t), t)

static const gr_jmethod_def *table_of(gr_jv self, size_t *n) {
    switch (self.kind) {
    case GR_JDICT: return TABLE(dict_methods);
    case GR_JLIST: return TABLE(list_methods);
    case GR_JTUPLE:
    case GR_JRANGE: return TABLE(tuple_methods);
    case GR_JBOOL:
    case GR_JINT: return TABLE(int_methods);
    case GR_JFLOAT: return TABLE(float_methods);
    case GR_JVIEW: return TABLE(view_methods);
    case GR_JITER: return TABLE(iter_methods);
    case GR_JCYCLER: return TABLE(cycler_methods);
    case GR_JLOOP: return TABLE(loop_methods);
    case GR_JGLOBAL:
        if (!strcmp(self.global->name, "dict")) return TABLE(dict_type_methods);
        break;
    default: break;
    }
    *n = 0;
    return NULL;
}

const gr_jmethod_def *gr_j_find_method(gr_jv self, const char *name, size_t len) {
    if (self.kind == GR_JSTR) return gr_j_find_str_method(name, len);
    size_t n;
    const gr_jmethod_def *table = table_of(self, &n);
    for (size_t i = 0; i < n; i++)
        if (strlen(table[i].name) == len && !memcmp(table[i].name, name, len)) return &table[i];
    return NULL;
}
