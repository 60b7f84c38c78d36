/* Which head a model has, and what its classes are called: architectures, problem_type, id2label. */
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "io/config_parts.h"
#include "io/paths.h"

static const struct {
    const char *tail;
    gr_task task;
} tails[] = {{"ForCausalLM", GR_TASK_CAUSAL_LM},
             {"LMHeadModel", GR_TASK_CAUSAL_LM},
             {"ForMaskedLM", GR_TASK_MASKED_LM},
             {"ForPreTraining", GR_TASK_MASKED_LM},
             {"ForConditionalGeneration", GR_TASK_SEQ_2_SEQ_LM},
             {"ForSequenceClassification", GR_TASK_SEQ_CLS}};

static const char *const problems[] = {[GR_PROBLEM_AUTO] = NULL,
                                       [GR_PROBLEM_SINGLE] = "single_label_classification",
                                       [GR_PROBLEM_MULTI] = "multi_label_classification",
                                       [GR_PROBLEM_REGRESSION] = "regression"};

const char *gr_problem_name(gr_problem problem) { return problems[problem]; }

gr_problem gr_problem_of(const gr_model_config *c, bool numbers) {
    if (c->problem != GR_PROBLEM_AUTO) return c->problem;
    return c->n_labels == 1 ? GR_PROBLEM_REGRESSION : numbers ? GR_PROBLEM_MULTI : GR_PROBLEM_SINGLE;
}

const char *gr_task_name(gr_task task) {
    static const char *const names[] = {"CAUSAL_LM", "SEQ_2_SEQ_LM",       "MASKED_LM",
                                        "SEQ_CLS",   "FEATURE_EXTRACTION", "unknown"};
    return names[task];
}

/* Old names of models with an encoder end as those of decoders do. */
static gr_task of_two_parts(const gr_model_config *c, gr_task task) {
    return c->n_encoder_layers && task == GR_TASK_CAUSAL_LM ? GR_TASK_SEQ_2_SEQ_LM : task;
}

graft_status gr_task_find(const char *name, gr_task *out, graft_error *err) {
    for (int i = 0; i < GR_TASK_UNKNOWN; i++)
        if (strcasecmp(name, gr_task_name((gr_task)i)) == 0) {
            *out = (gr_task)i;
            return GRAFT_OK;
        }
    return gr_fail(err, GRAFT_ERR_ARGUMENT,
                   "task_type: expected CAUSAL_LM, SEQ_CLS, MASKED_LM or FEATURE_EXTRACTION, found \"%.60s\"", name);
}

static gr_task task_of(const gr_fields *f, const gr_model_config *c) {
    const gr_json_value *list = gr_field(f, "architectures");
    const gr_json_value *first = list && list->kind == GR_JSON_ARRAY ? list->child : NULL;
    const char *name = first && first->kind == GR_JSON_STRING ? first->text : NULL;
    for (size_t i = 0; name && i < GR_COUNT(tails); i++)
        if (gr_ends_with(name, tails[i].tail)) return of_two_parts(c, tails[i].task);
    if (!c->bidirectional) return name && strstr(name, "For") ? GR_TASK_UNKNOWN : of_two_parts(c, GR_TASK_CAUSAL_LM);
    return !name ? GR_TASK_MASKED_LM : gr_ends_with(name, "Model") ? GR_TASK_FEATURES : GR_TASK_UNKNOWN;
}

void gr_config_read_task(gr_fields *f, gr_model_config *c) {
    const gr_json_value *labels = gr_field(f, "id2label");
    const char *problem = gr_field_text(f, "problem_type");
    c->task = task_of(f, c);
    c->n_labels = (int)gr_field_int(f, "num_labels", 2, 1, GR_MAX_LABELS);
    if (labels && (labels->kind != GR_JSON_OBJECT || labels->len < 1 || labels->len > GR_MAX_LABELS))
        gr_field_fail(f, GRAFT_ERR_FORMAT, "id2label", "expected an object of 1 to %d members", GR_MAX_LABELS);
    else if (labels)
        c->n_labels = (int)labels->len;
    for (int i = GR_PROBLEM_SINGLE; problem && i <= GR_PROBLEM_REGRESSION; i++)
        if (strcmp(problem, problems[i]) == 0) c->problem = (gr_problem)i;
    if (problem && c->problem == GR_PROBLEM_AUTO)
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "problem_type",
                      "expected single_label_classification, multi_label_classification or regression, found \"%.60s\"",
                      problem);
}

static graft_status default_names(gr_arena *arena, int n, gr_labels *out, graft_error *err) {
    char name[32];
    *out = (gr_labels){n, gr_arena_alloc(arena, (size_t)n * sizeof *out->names)};
    if (!out->names) return gr_fail_memory(err);
    for (int i = 0; i < n; i++) {
        int len = snprintf(name, sizeof name, "LABEL_%d", i);
        if (!(out->names[i] = gr_arena_strndup(arena, name, (size_t)len))) return gr_fail_memory(err);
    }
    return GRAFT_OK;
}

graft_status gr_labels_from_json(gr_arena *arena, const char *name, const char *text, size_t len, int n_labels,
                                 gr_labels *out, graft_error *err) {
    const gr_json_value *root;
    gr_labels labels;
    GR_TRY(gr_json_parse(arena, name, text, len, &root, err));
    GR_TRY(default_names(arena, n_labels, &labels, err));
    const gr_json_value *map = gr_json_get(root, "id2label");
    for (const gr_json_value *v = map && map->kind == GR_JSON_OBJECT ? map->child : NULL; v; v = v->next) {
        char plain[32];
        long id = strtol(v->key, NULL, 10);
        snprintf(plain, sizeof plain, "%ld", id); /* "00" would be another name of class 0 */
        if (strcmp(plain, v->key) != 0 || id < 0 || id >= n_labels || v->kind != GR_JSON_STRING || strlen(v->text) != v->len)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: id2label: expected names of the classes 0 to %d, found '%.60s'",
                           name, n_labels - 1, v->key);
        labels.names[id] = v->text;
    }
    *out = labels;
    return GRAFT_OK;
}

graft_status gr_labels_load(const graft_allocator *a, gr_arena *arena, const gr_weights *w, const gr_model_config *c,
                            gr_labels *out, graft_error *err) {
    enum { MAX_CONFIG = 16 << 20 };
    const char *path = gr_weights_path(w);
    if (gr_weights_gguf(w)) return default_names(arena, c->n_labels, out, err);
    char *dir = gr_is_dir(path) ? gr_strdup(a, path) : gr_path_dir(a, path), *text = NULL;
    char *file = dir ? gr_path_join(a, dir, "config.json") : NULL;
    size_t len;
    graft_status st = file ? gr_read_file(a, file, MAX_CONFIG, &text, &len, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_labels_from_json(arena, file, text, len, c->n_labels, out, err);
    gr_free(a, text);
    gr_free(a, file);
    gr_free(a, dir);
    return st;
}
