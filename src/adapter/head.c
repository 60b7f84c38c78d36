/* Heads that come with an adapter: peft says in adapter_config.json that a model classifies, the classifier's shape how many
 * labels there are. Their names, for which peft has no place, stand in classes.json beside it. */
#include <stdio.h>

#include "adapter/method.h"
#include "io/paths.h"

#define CLASSES_FILE "classes.json"
enum { MAX_TEXT = 64 << 20 };

static graft_status read_beside(const graft_allocator *a, const char *dir, const char *name, char **path, char **text,
                                size_t *len, graft_error *err) {
    *text = NULL;
    if (!(*path = gr_path_join(a, dir, name))) return gr_fail_memory(err);
    return gr_path_exists(*path) ? gr_read_file(a, *path, MAX_TEXT, text, len, err) : GRAFT_OK;
}

/* "base_model.model.classifier.weight", of prompts "base_model.classifier.weight". */
static const char *name_in_model(const char *name) {
    static const char *const heads[] = {"base_model.model.", "base_model."};
    for (size_t i = 0; i < GR_COUNT(heads); i++)
        if (strncmp(name, heads[i], strlen(heads[i])) == 0) return name + strlen(heads[i]);
    return name;
}

/* The adapter's tensors, and among them the rows of the classifier, 0: there is none. */
static graft_status list_tensors(const graft_allocator *a, const char *dir, gr_arena *arena, gr_adapter_head *h,
                                 graft_error *err) {
    static const char *const tails[] = {".score.weight", ".classifier.weight", ".classifier.out_proj.weight",
                                        ".classification_head.out_proj.weight"};
    char *path = gr_path_join(a, dir, "adapter_model.safetensors");
    gr_safetensors *f = NULL;
    graft_status st = path ? gr_safetensors_open(a, path, &f, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) {
        h->tensors = gr_arena_alloc(arena, (gr_safetensors_tensors(f)->n + 1) * sizeof *h->tensors);
        if (!h->tensors) st = gr_fail_memory(err);
    }
    for (size_t i = 0; st == GRAFT_OK && i < gr_safetensors_tensors(f)->n; i++) {
        const gr_named_tensor *t = &gr_safetensors_tensors(f)->items[i];
        const char *name = name_in_model(t->name);
        if (!(h->tensors[h->n_tensors++] = gr_arena_strndup(arena, name, strlen(name)))) st = gr_fail_memory(err);
        for (size_t k = 0; k < GR_COUNT(tails); k++)
            if (gr_ends_with(t->name, tails[k]) && t->view.shape.n == 2 && t->view.shape.d[0] <= GR_MAX_LABELS)
                h->n_labels = (int)t->view.shape.d[0];
    }
    gr_safetensors_close(f);
    gr_free(a, path);
    return st;
}

static graft_status read_classes(const graft_allocator *a, const char *dir, gr_arena *arena, gr_adapter_head *h,
                                 graft_error *err) {
    char *path, *text;
    size_t len;
    const gr_json_value *root;
    graft_status st = read_beside(a, dir, CLASSES_FILE, &path, &text, &len, err);
    if (st == GRAFT_OK && text) st = gr_labels_from_json(arena, path, text, len, h->n_labels, &h->labels, err);
    if (st == GRAFT_OK && text) st = gr_json_parse(arena, path, text, len, &root, err);
    if (st == GRAFT_OK && text) {
        const gr_json_value *v = gr_json_get(root, "problem_type");
        for (int i = GR_PROBLEM_SINGLE; v && v->kind == GR_JSON_STRING && i <= GR_PROBLEM_REGRESSION; i++)
            if (strcmp(v->text, gr_problem_name((gr_problem)i)) == 0) h->problem = (gr_problem)i;
    }
    gr_free(a, text);
    gr_free(a, path);
    return st;
}

/* Whether transformers' class, which stands there where a task_type does not, ends so. */
static bool trained_as(const gr_json_value *root, const char *end) {
    const gr_json_value *v = root->kind == GR_JSON_OBJECT ? gr_json_get(root, "auto_mapping") : NULL;
    v = v && v->kind == GR_JSON_OBJECT ? gr_json_get(v, "base_model_class") : NULL;
    return v && v->kind == GR_JSON_STRING && gr_ends_with(v->text, end);
}

graft_status gr_adapter_find_head(const graft_allocator *a, const char *dir, gr_arena *arena, gr_adapter_head *out,
                                  graft_error *err) {
    gr_adapter_head h = {0};
    char *path, *text;
    size_t len;
    const gr_json_value *root;
    graft_status st = read_beside(a, dir, "adapter_config.json", &path, &text, &len, err);
    if (st == GRAFT_OK && text && (st = gr_json_parse(arena, path, text, len, &root, err)) == GRAFT_OK) {
        const gr_json_value *v = gr_json_get(root, "task_type");
        h.classifies = v && v->kind == GR_JSON_STRING && strcmp(v->text, "SEQ_CLS") == 0;
        h.fills = trained_as(root, "ForMaskedLM"); /* for which there is no task_type */
    }
    gr_free(a, text);
    gr_free(a, path);
    GR_TRY(st);
    if (h.classifies || h.fills) GR_TRY(list_tensors(a, dir, arena, &h, err));
    if (!h.classifies) h.n_labels = 0;
    if (h.n_labels) GR_TRY(read_classes(a, dir, arena, &h, err));
    *out = h;
    return GRAFT_OK;
}

void gr_labels_write(const gr_labels *labels, bool map, gr_buf *b) {
    for (int i = 0; i < labels->n; i++) {
        char number[16];
        int n = snprintf(number, sizeof number, "%d", i);
        gr_buf_add_text(b, i ? ",\n    " : "{\n    ");
        gr_json_add_text(b, map ? labels->names[i] : number, map ? strlen(labels->names[i]) : (size_t)n);
        gr_buf_add_text(b, ": ");
        if (map)
            gr_buf_add_text(b, number);
        else
            gr_json_add_text(b, labels->names[i], strlen(labels->names[i]));
    }
    gr_buf_add_text(b, "\n  }");
}

graft_status gr_adapter_write_classes(const gr_model *m, const char *dir, graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(m));
    const gr_labels *labels = gr_model_labels(m);
    const char *problem = gr_problem_name(gr_model_get_config(m)->problem);
    if (!labels->n) return GRAFT_OK;
    char *path = gr_path_join(a, dir, CLASSES_FILE);
    gr_buf b;
    gr_buf_init(&b, a);
    gr_buf_add_text(&b, "{\n  \"id2label\": ");
    gr_labels_write(labels, false, &b);
    gr_buf_add_format(&b, ",\n  \"problem_type\": %s%s%s\n}\n", problem ? "\"" : "", problem ? problem : "null",
                      problem ? "\"" : "");
    graft_status st = path ? gr_buf_status(&b, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_write_file(a, path, b.data, b.len, err);
    gr_buf_free(&b);
    gr_free(a, path);
    return st;
}
