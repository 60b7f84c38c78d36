/* Post-processors. For one sequence each of them comes down to ids in front and ids behind; a chain of them nests. */
#include "text/postproc.h"
#include "text/json_field.h"

enum { MAX_DEPTH = 16, MAX_ADDED = 4096 };

static graft_status too_many(graft_error *err) {
    return gr_fail(err, GRAFT_ERR_LIMIT, "post_processor: more than %d tokens on one side", MAX_ADDED);
}

graft_status gr_postproc_add_front(gr_postproc *p, int32_t id, graft_error *err) {
    if (p->n_front == MAX_ADDED) return too_many(err);
    GR_TRY(gr_grow(p->a, (void **)&p->front, &p->front_cap, p->n_front + 1, sizeof *p->front, err));
    memmove(p->front + 1, p->front, p->n_front * sizeof *p->front);
    p->front[0] = id;
    p->n_front++;
    return GRAFT_OK;
}

graft_status gr_postproc_add_back(gr_postproc *p, int32_t id, graft_error *err) {
    if (p->n_back == MAX_ADDED) return too_many(err);
    GR_TRY(gr_grow(p->a, (void **)&p->back, &p->back_cap, p->n_back + 1, sizeof *p->back, err));
    p->back[p->n_back++] = id;
    return GRAFT_OK;
}

static graft_status read_id(const gr_json_value *v, int32_t *id, graft_error *err) {
    int64_t n;
    if (!gr_json_integer(v, &n) || n < 0 || n > INT32_MAX)
        return gr_fail(err, GRAFT_ERR_FORMAT, "post_processor: an id is not a token id");
    *id = (int32_t)n;
    return GRAFT_OK;
}

static graft_status add_pair(gr_postproc *p, int sequence, int32_t id, int32_t type, graft_error *err) {
    if (p->n_pair == MAX_ADDED) return too_many(err);
    GR_TRY(gr_grow(p->a, (void **)&p->pair, &p->pair_cap, p->n_pair + 1, sizeof *p->pair, err));
    p->pair[p->n_pair++] = (gr_pair_piece){sequence, id, type};
    return GRAFT_OK;
}

static graft_status build(gr_postproc *p, const gr_json_value *json, int depth, graft_error *err);

/* `type`: of what belongs to the second sequence; `again`: a separator stands in front of it too. */
static graft_status build_cls_sep(gr_postproc *p, const gr_json_value *json, int32_t type, bool again, graft_error *err) {
    int32_t cls, sep;
    GR_TRY(read_id(gr_json_at(gr_json_get(json, "cls"), 1), &cls, err));
    GR_TRY(read_id(gr_json_at(gr_json_get(json, "sep"), 1), &sep, err));
    GR_TRY(gr_postproc_add_front(p, cls, err));
    p->n_pair = 0;
    GR_TRY(add_pair(p, -1, cls, 0, err));
    GR_TRY(add_pair(p, 0, 0, 0, err));
    GR_TRY(add_pair(p, -1, sep, 0, err));
    if (again) GR_TRY(add_pair(p, -1, sep, type, err));
    GR_TRY(add_pair(p, 1, 0, type, err));
    GR_TRY(add_pair(p, -1, sep, type, err));
    return gr_postproc_add_back(p, sep, err);
}

static graft_status build_bert(gr_postproc *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    return build_cls_sep(p, json, 1, false, err);
}

static graft_status build_byte_level(gr_postproc *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth, (void)err;
    if (gr_json_flag(json, "trim_offsets", true)) {
        p->trim = true;
        p->trim_prefix_space = gr_json_flag(json, "add_prefix_space", true);
    }
    return GRAFT_OK;
}

static graft_status build_roberta(gr_postproc *p, const gr_json_value *json, int depth, graft_error *err) {
    GR_TRY(build_byte_level(p, json, depth, err));
    return build_cls_sep(p, json, 0, true, err);
}

static graft_status build_sequence(gr_postproc *p, const gr_json_value *json, int depth, graft_error *err) {
    const gr_json_value *list = gr_json_get(json, "processors"), *item;
    if (!list || list->kind != GR_JSON_ARRAY)
        return gr_fail(err, GRAFT_ERR_FORMAT, "post_processor Sequence: 'processors' is not a list");
    for (item = list->child; item; item = item->next) GR_TRY(build(p, item, depth + 1, err));
    return GRAFT_OK;
}

typedef struct id_list {
    int32_t *ids;
    size_t n, cap;
} id_list;

/* Appends the ids of one special token of a template. */
static graft_status add_special(const gr_postproc *p, const gr_json_value *json, const gr_json_value *piece,
                                id_list *list, graft_error *err) {
    const char *name = gr_json_string(gr_json_get(gr_json_get(piece, "SpecialToken"), "id"), NULL);
    const gr_json_value *ids = NULL;
    if (name) ids = gr_json_get(gr_json_get(gr_json_get(json, "special_tokens"), name), "ids");
    if (!ids || ids->kind != GR_JSON_ARRAY)
        return gr_fail(err, GRAFT_ERR_FORMAT, "post_processor TemplateProcessing: special token '%.60s' has no ids",
                       name ? name : "");
    for (const gr_json_value *v = ids->child; v; v = v->next) {
        if (list->n == MAX_ADDED) return too_many(err);
        GR_TRY(gr_grow(p->a, (void **)&list->ids, &list->cap, list->n + 1, sizeof *list->ids, err));
        GR_TRY(read_id(v, &list->ids[list->n], err));
        list->n++;
    }
    return GRAFT_OK;
}

static graft_status read_type(const gr_json_value *piece, int32_t *out, graft_error *err) {
    int64_t n = 0;
    const gr_json_value *v = gr_json_get(piece, "type_id");
    if (v && (!gr_json_integer(v, &n) || n < 0 || n > INT32_MAX))
        return gr_fail(err, GRAFT_ERR_FORMAT, "post_processor TemplateProcessing: a type_id is not a number of a type");
    *out = (int32_t)n;
    return GRAFT_OK;
}

/* Without "pair", or where it has not both sequences, a pair is two sequences one after the other. */
static graft_status read_pair(gr_postproc *p, const gr_json_value *json, graft_error *err) {
    const gr_json_value *pair = gr_json_get(json, "pair");
    bool seen[2] = {false, false};
    p->n_pair = 0;
    for (const gr_json_value *v = pair && pair->kind == GR_JSON_ARRAY ? pair->child : NULL; v; v = v->next) {
        const gr_json_value *sequence = gr_json_get(v, "Sequence");
        const char *name = gr_json_string(gr_json_get(sequence, "id"), NULL);
        int32_t type;
        GR_TRY(read_type(sequence ? sequence : gr_json_get(v, "SpecialToken"), &type, err));
        if (name) {
            int which = name[0] == 'B';
            seen[which] = true;
            GR_TRY(add_pair(p, which, 0, type, err));
            continue;
        }
        id_list ids = {0};
        graft_status st = add_special(p, json, v, &ids, err);
        for (size_t i = 0; i < ids.n && st == GRAFT_OK; i++) st = add_pair(p, -1, ids.ids[i], type, err);
        gr_free(p->a, ids.ids);
        if (st != GRAFT_OK) return st;
    }
    if (!seen[0] || !seen[1]) p->n_pair = 0;
    return GRAFT_OK;
}

static graft_status read_template(gr_postproc *p, const gr_json_value *json, id_list *front, graft_error *err) {
    const gr_json_value *single = gr_json_get(json, "single");
    size_t n_sequences = 0;
    for (const gr_json_value *v = single && single->kind == GR_JSON_ARRAY ? single->child : NULL; v; v = v->next) {
        if (gr_json_get(v, "Sequence")) {
            n_sequences++;
        } else if (n_sequences == 0) {
            GR_TRY(add_special(p, json, v, front, err));
        } else {
            id_list back = {0};
            graft_status st = add_special(p, json, v, &back, err);
            for (size_t i = 0; i < back.n && st == GRAFT_OK; i++) st = gr_postproc_add_back(p, back.ids[i], err);
            gr_free(p->a, back.ids);
            if (st != GRAFT_OK) return st;
        }
    }
    if (n_sequences == 1) return read_pair(p, json, err);
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                   "post_processor TemplateProcessing: 'single' holds the sequence %zu times, not once", n_sequences);
}

static graft_status build_template(gr_postproc *p, const gr_json_value *json, int depth, graft_error *err) {
    (void)depth;
    id_list front = {0};
    graft_status st = read_template(p, json, &front, err);
    /* From the sequence outwards. */
    for (size_t i = front.n; i-- > 0 && st == GRAFT_OK;) st = gr_postproc_add_front(p, front.ids[i], err);
    gr_free(p->a, front.ids);
    return st;
}

static graft_status build(gr_postproc *p, const gr_json_value *json, int depth, graft_error *err) {
    static const struct {
        const char *name;
        graft_status (*build)(gr_postproc *p, const gr_json_value *json, int depth, graft_error *err);
    } known[] = {
#define X(name, fn) {name, build_##fn},
#include "text/postproc.def"
#undef X
    };
    const char *type = gr_json_string(gr_json_get(json, "type"), NULL);
    if (!type) return gr_fail(err, GRAFT_ERR_FORMAT, "post_processor: 'type' is missing");
    if (depth > MAX_DEPTH) return gr_fail(err, GRAFT_ERR_LIMIT, "post_processor: nested more than %d deep", MAX_DEPTH);
    for (size_t i = 0; i < GR_COUNT(known); i++)
        if (!strcmp(type, known[i].name)) return known[i].build(p, json, depth, err);
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "post_processor '%.60s' is not known", type);
}

graft_status gr_postproc_init(gr_postproc *p, const graft_allocator *a, const gr_json_value *json, graft_error *err) {
    *p = (gr_postproc){.a = a};
    if (!json || json->kind == GR_JSON_NULL) return GRAFT_OK;
    graft_status st = build(p, json, 0, err);
    if (st != GRAFT_OK) gr_postproc_free(p);
    return st;
}

void gr_postproc_free(gr_postproc *p) {
    gr_free(p->a, p->front);
    gr_free(p->a, p->back);
    gr_free(p->a, p->pair);
    *p = (gr_postproc){.a = p->a};
}
