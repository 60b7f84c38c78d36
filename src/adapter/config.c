/* Typed reading of adapter configurations. Null stands for the default, as Python's None does. */
#include <math.h>

#include "adapter/method.h"

static const gr_json_value *member(const gr_json_value *c, const char *key) {
    const gr_json_value *v = gr_json_get(c, key);
    return v && v->kind != GR_JSON_NULL ? v : NULL;
}

graft_status gr_config_int(gr_adapter *a, const gr_json_value *c, const char *key, int64_t min, int64_t max, int64_t *out,
                           graft_error *err) {
    const gr_json_value *v = member(c, key);
    if (!v) return GRAFT_OK;
    if (v->kind != GR_JSON_NUMBER || !v->number.is_int)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: '%s': expected an integer, found %s", a->where, key,
                       gr_json_no_integer(v));
    if (v->number.i < min || v->number.i > max)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: '%s' is %lld, expected %lld to %lld", a->where, key,
                       (long long)v->number.i, (long long)min, (long long)max);
    *out = v->number.i;
    return GRAFT_OK;
}

graft_status gr_config_number(gr_adapter *a, const gr_json_value *c, const char *key, double min, double max, double *out,
                              graft_error *err) {
    const gr_json_value *v = member(c, key);
    if (!v) return GRAFT_OK;
    if (v->kind != GR_JSON_NUMBER)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: '%s': expected a number, found %s", a->where, key,
                       gr_json_kind_name(v->kind));
    if (!(v->number.d >= min && v->number.d <= max))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: '%s' is %g, expected %g to %g", a->where, key, v->number.d, min, max);
    *out = v->number.d;
    return GRAFT_OK;
}

graft_status gr_config_bool(gr_adapter *a, const gr_json_value *c, const char *key, bool *out, graft_error *err) {
    const gr_json_value *v = member(c, key);
    if (!v) return GRAFT_OK;
    if (v->kind != GR_JSON_TRUE && v->kind != GR_JSON_FALSE)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: '%s': expected true or false, found %s", a->where, key,
                       gr_json_kind_name(v->kind));
    *out = v->kind == GR_JSON_TRUE;
    return GRAFT_OK;
}

graft_status gr_config_text(gr_adapter *a, const gr_json_value *c, const char *key, const char **out, graft_error *err) {
    const gr_json_value *v = member(c, key);
    if (!v) return GRAFT_OK;
    if (v->kind != GR_JSON_STRING)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: '%s': expected a string, found %s", a->where, key,
                       gr_json_kind_name(v->kind));
    if (strlen(v->text) != v->len)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: '%s' holds a NUL character", a->where, key);
    *out = v->text;
    return GRAFT_OK;
}

graft_status gr_config_targets(gr_adapter *a, const gr_json_value *c, const char *key, bool regex, gr_targets *out,
                               graft_error *err) {
    const gr_json_value *v = member(c, key);
    gr_targets t = {.given = true};
    if (!v) return GRAFT_OK;
    if (v->kind == GR_JSON_STRING && regex) {
        GR_TRY(gr_config_text(a, c, key, &t.regex, err));
        *out = t;
        return GRAFT_OK;
    }
    if (v->kind != GR_JSON_ARRAY)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: '%s': expected %sa list of names, found %s", a->where, key,
                       regex ? "a regular expression or " : "", gr_json_kind_name(v->kind));
    if (!(t.names = gr_arena_alloc(&a->arena, (v->len + 1) * sizeof *t.names))) return gr_fail_memory(err);
    for (const gr_json_value *i = v->child; i; i = i->next) {
        if (i->kind != GR_JSON_STRING || !i->len || strlen(i->text) != i->len)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: '%s': expected a list of names, found %s in it", a->where, key,
                           gr_json_kind_name(i->kind));
        t.names[t.n++] = i->text;
    }
    *out = t;
    return GRAFT_OK;
}

bool gr_config_says(const gr_json_value *c, const char *key) {
    const gr_json_value *v = member(c, key);
    if (!v || v->kind == GR_JSON_FALSE) return false;
    return (v->kind != GR_JSON_OBJECT && v->kind != GR_JSON_ARRAY) || v->len > 0;
}

graft_status gr_config_known(gr_adapter *a, const gr_json_value *c, const char *const *known, graft_error *err) {
    for (const gr_json_value *v = c->child; v; v = v->next) {
        bool found = false;
        for (size_t i = 0; known[i] && !found; i++) found = strcmp(known[i], v->key) == 0;
        if (!found) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: unknown setting '%s'", a->where, v->key);
    }
    return GRAFT_OK;
}

/* What peft writes for the model's task; for masked words it has no task type and names the class instead. */
static void set_task(const gr_adapter *a, gr_common_config *out) {
    const gr_model_config *c = gr_model_get_config(a->model);
    bool roberta = c->type == GR_MODEL_ROBERTA;
    switch (c->task) {
    case GR_TASK_SEQ_CLS:
    case GR_TASK_SEQ_2_SEQ_LM: out->task_type = gr_task_name(c->task); break;
    case GR_TASK_FEATURES: out->task_type = "FEATURE_EXTRACTION"; break;
    case GR_TASK_MASKED_LM:
        out->base_class = roberta ? "RobertaForMaskedLM" : "BertForMaskedLM";
        out->library = roberta ? "transformers.models.roberta.modeling_roberta" : "transformers.models.bert.modeling_bert";
        break;
    default: out->task_type = "CAUSAL_LM";
    }
}

graft_status gr_config_common(gr_adapter *a, const gr_json_value *c, gr_common_config *out, graft_error *err) {
    *out = (gr_common_config){.base_model = gr_model_path(a->model)};
    set_task(a, out);
    GR_TRY(gr_config_text(a, c, "base_model_name_or_path", &out->base_model, err));
    GR_TRY(gr_config_text(a, c, "revision", &out->revision, err));
    const gr_json_value *task = gr_json_get(c, "task_type"), *mapping = member(c, "auto_mapping");
    if (task && task->kind == GR_JSON_NULL) out->task_type = NULL;
    if (mapping && mapping->kind != GR_JSON_OBJECT)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: 'auto_mapping': expected an object, found %s", a->where,
                       gr_json_kind_name(mapping->kind));
    if (mapping) GR_TRY(gr_config_text(a, mapping, "base_model_class", &out->base_class, err));
    if (mapping) GR_TRY(gr_config_text(a, mapping, "parent_library", &out->library, err));
    return gr_config_text(a, c, "task_type", &out->task_type, err);
}

void gr_config_add_auto_mapping(gr_buf *b, const gr_common_config *c) {
    if (!c->base_class || !c->library) {
        gr_config_add_text(b, "auto_mapping", NULL);
        return;
    }
    gr_buf_add_text(b, b->len ? "" : "{\n");
    gr_buf_add_text(b, "  \"auto_mapping\": {\n    \"base_model_class\": ");
    gr_json_add_text(b, c->base_class, strlen(c->base_class));
    gr_buf_add_text(b, ",\n    \"parent_library\": ");
    gr_json_add_text(b, c->library, strlen(c->library));
    gr_buf_add_text(b, "\n  },\n");
}
