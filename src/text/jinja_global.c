/* Global functions: range, dict, namespace, cycler, joiner, lipsum, raise_exception, strftime_now. */
#include "text/jinja_run.h"

enum { MAX_RANGE = 100000 }; /* the reference's sandbox has the same bound */

#define GLOBAL(name) static graft_status name(gr_jrun *run, const gr_jargs *args, gr_jv *out)

GLOBAL(global_range) {
    gr_jv v[GR_JMAX_PARAMS];
    int64_t start = 0, stop, step = 1;
    GR_TRY(gr_j_bind(run, "range", "start stop? step? /", args, v));
    GR_TRY(gr_j_arg_int(run, "range", v[0], &stop));
    if (!gr_j_is_missing(v[1])) {
        start = stop;
        GR_TRY(gr_j_arg_int(run, "range", v[1], &stop));
        GR_TRY(gr_j_arg_int(run, "range", v[2], &step));
    }
    if (!step) return gr_j_raise(run, "range() arg 3 must not be zero");
    uint64_t span = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop, n = 0;
    uint64_t stride = step > 0 ? (uint64_t)step : -(uint64_t)step;
    if (step > 0 ? stop > start : stop < start) n = (span - 1) / stride + 1;
    if (n > MAX_RANGE) return gr_j_raise(run, "range too big: the sandbox blocks more than %d items", MAX_RANGE);
    struct gr_jrange *r = gr_j_new(run, sizeof *r);
    if (!r) return gr_j_no_memory(run);
    *r = (struct gr_jrange){.start = start, .stop = stop, .step = step, .n = (size_t)n};
    *out = (gr_jv){.kind = GR_JRANGE, .range = r};
    return GRAFT_OK;
}

/* dict(mapping or pairs, key=value ...) */
static graft_status make_dict(gr_jrun *run, const char *what, const gr_jargs *args, gr_jv *out) {
    gr_jv d;
    if (args->n_pos > 1) return gr_j_raise(run, "%s expected at most 1 argument, got %zu", what, args->n_pos);
    GR_TRY(gr_j_dict(run, &d));
    if (args->n_pos && args->pos[0].kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, args->pos[0]);
    if (args->n_pos) GR_TRY(gr_j_dict_merge(run, d.dict, args->pos[0]));
    for (size_t i = 0; i < args->n_kw; i++) {
        gr_jv key;
        GR_TRY(gr_j_str_view(run, args->kw_names[i]->str.p, args->kw_names[i]->str.len, &key));
        GR_TRY(gr_j_dict_set(run, d.dict, key, args->kw_values[i]));
    }
    *out = d;
    return GRAFT_OK;
}

GLOBAL(global_dict) { return make_dict(run, "dict", args, out); }

GLOBAL(global_namespace) {
    gr_jv d;
    GR_TRY(make_dict(run, "namespace", args, &d));
    for (size_t i = 0; i < d.dict->n; i++) {
        gr_jv key = d.dict->entries[i].key;
        if (key.kind == GR_JSTR && key.str->len && key.str->p[0] == '_')
            return gr_j_raise(run, "chat templates cannot store underscore-prefixed attributes on a namespace");
    }
    d.kind = GR_JNAMESPACE;
    *out = d;
    return GRAFT_OK;
}

GLOBAL(global_cycler) {
    if (args->n_kw) return gr_j_raise(run, "cycler takes no keyword arguments");
    if (!args->n_pos) return gr_j_raise(run, "at least one item has to be provided");
    struct gr_jcycler *c = gr_j_new(run, sizeof *c);
    if (!c) return gr_j_no_memory(run);
    *c = (struct gr_jcycler){.items = args->pos, .n = args->n_pos};
    *out = (gr_jv){.kind = GR_JCYCLER, .cycler = c};
    return GRAFT_OK;
}

GLOBAL(global_joiner) {
    gr_jv v[GR_JMAX_PARAMS];
    GR_TRY(gr_j_bind(run, "joiner", "sep?", args, v));
    struct gr_jjoiner *j = gr_j_new(run, sizeof *j);
    if (!j) return gr_j_no_memory(run);
    j->sep = v[0];
    if (gr_j_is_missing(v[0])) GR_TRY(gr_j_str_text(run, ", ", &j->sep));
    *out = (gr_jv){.kind = GR_JJOINER, .joiner = j};
    return GRAFT_OK;
}

GLOBAL(global_lipsum) {
    (void)args;
    (void)out;
    return gr_j_fail(run, GRAFT_ERR_UNSUPPORTED, "lipsum is not supported: its text is random");
}

GLOBAL(global_raise_exception) {
    gr_jv v[GR_JMAX_PARAMS];
    (void)out;
    GR_TRY(gr_j_bind(run, "raise_exception", "message", args, v));
    GR_TRY(gr_j_to_str(run, v[0], &v[0]));
    return gr_j_raise(run, "the template raised: %.*s", (int)GR_MIN(v[0].str->len, 500), v[0].str->p);
}

GLOBAL(global_strftime_now) {
    gr_jv v[GR_JMAX_PARAMS];
    gr_jstr *format;
    GR_TRY(gr_j_bind(run, "strftime_now", "format", args, v));
    GR_TRY(gr_j_arg_str(run, "strftime_now", v[0], &format));
    return gr_j_strftime(run, format, out);
}

static const gr_jglobal globals[] = {
    {"range", global_range},
    {"dict", global_dict},
    {"namespace", global_namespace},
    {"cycler", global_cycler},
    {"joiner", global_joiner},
    {"lipsum", global_lipsum},
    {"raise_exception", global_raise_exception},
    {"strftime_now", global_strftime_now},
};

const gr_jglobal *gr_j_find_global(const char *name, size_t len) {
    for (size_t i = 0; i < GR_COUNT(globals); i++)
        if (strlen(globals[i].name) == len && !memcmp(globals[i].name, name, len)) return &globals[i];
    return NULL;
}
