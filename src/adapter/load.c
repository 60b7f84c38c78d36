/* Reading an adapter directory: configuration, then the tensors that it describes, no more and no less. */
#include "adapter/method.h"
#include "quant/quant.h"

/* Of an adapted embedding or head peft stores the base's weight too. The base's own is used; if they differ, say so. */
static graft_status is_base_copy(gr_adapter *a, const gr_named_tensor *t, bool *known, graft_error *err) {
    static const char before[] = "base_model.model.", after[] = ".base_layer.weight";
    size_t n = strlen(t->name), m = strlen(before) + strlen(after);
    gr_shape shape;
    *known = false;
    if (n <= m || n >= GR_ADAPTER_TEXT || strncmp(t->name, before, strlen(before)) != 0 ||
        strcmp(t->name + n - strlen(after), after) != 0)
        return GRAFT_OK;
    const char *tensor = gr_adapter_text(a, err, "%.*s.weight", (int)(n - m), t->name + strlen(before));
    if (!tensor) return GRAFT_ERR_MEMORY;
    if (gr_model_tensor_shape(a->model, tensor, &shape, NULL) != GRAFT_OK) return GRAFT_OK;
    if (!gr_shape_equal(&shape, &t->view.shape) || !gr_can_dequantize(t->view.dtype)) {
        char expected[GR_SHAPE_TEXT], found[GR_SHAPE_TEXT];
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: not made for this base model: tensor '%s' has shape %s, expected %s",
                       t->file, t->name, gr_shape_format(&t->view.shape, found, sizeof found),
                       gr_shape_format(&shape, expected, sizeof expected));
    }
    int64_t columns = shape.d[1];
    float *rows = gr_alloc(a->a, 2 * (size_t)columns * sizeof *rows);
    bool same = true;
    graft_status st = rows ? GRAFT_OK : gr_fail_memory(err);
    for (int64_t r = 0; r < shape.d[0] && same && st == GRAFT_OK; r++) {
        st = gr_model_read_tensor(a->model, tensor, r, 1, rows, err);
        if (st == GRAFT_OK)
            st = gr_dequantize_row(t->view.dtype, gr_tensor_row(&t->view, r), (size_t)columns, rows + columns, err);
        same = st == GRAFT_OK && memcmp(rows, rows + columns, (size_t)columns * sizeof *rows) == 0;
    }
    gr_free(a->a, rows);
    if (st != GRAFT_OK) return st;
    if (!same)
        gr_log(gr_model_context(a->model), GRAFT_LOG_WARNING, "%s: '%s' differs from the base model's, which is used", t->file,
               t->name);
    *known = true;
    return GRAFT_OK;
}

static bool stands_in(const gr_stored *s, gr_stored_file file) {
    return s->file == file || (s->file == GR_FILE_DERIVED && file == GR_FILE_ADAPTER);
}

bool gr_adapter_has(const gr_adapter *a, gr_stored_file file) {
    for (size_t i = 0; i < a->n_stored; i++)
        if (a->stored[i].file == file) return true;
    return false;
}

static bool is_in_state(const gr_adapter *a, const gr_param *p) {
    for (size_t i = 0; i < a->n_stored; i++)
        if (a->stored[i].file == GR_FILE_STATE && a->stored[i].param == p) return true;
    return false;
}

/* --- Values that stay in the file --------------------------------------------------------------------------------------------- */

void gr_adapter_leave_values(gr_adapter *a, gr_param *p) {
    const gr_named_tensor *t = a->file && !p->mapped ? gr_tensor_list_find(gr_safetensors_tensors(a->file), p->name) : NULL;
    if (!t || t->view.dtype != p->dtype || !gr_shape_equal(&t->view.shape, &p->shape) || !gr_tensor_aligned(&t->view, sizeof(float)))
        return;
    gr_free_aligned(a->a, p->value);
    p->value = (void *)(uintptr_t)t->view.data;
    p->mapped = true;
    a->bytes -= t->view.bytes;
}

void gr_adapter_leave_file(const gr_adapter *a) {
    const gr_tensor_list *list = a->file ? gr_safetensors_tensors(a->file) : NULL;
    for (size_t i = 0; list && i < list->n; i++) gr_release_mapped(list->items[i].view.data, list->items[i].view.bytes);
}

/* Values in memory of their own again, to be written. */
static graft_status own_values(gr_adapter *a, graft_error *err) {
    for (size_t i = 0; i < a->n_owned; i++) {
        gr_param *p = a->owned[i];
        if (!p->mapped) continue;
        const size_t bytes = gr_dtype_bytes(p->dtype, (size_t)p->n);
        void *value = gr_alloc_aligned(a->a, bytes);
        if (!value) return gr_fail_memory(err);
        memcpy(value, p->value, bytes);
        p->value = value;
        p->mapped = false;
        a->bytes += bytes;
    }
    gr_safetensors_close(a->file);
    a->file = NULL;
    return GRAFT_OK;
}

/* --- Reading ------------------------------------------------------------------------------------------------------------------ */

/* `state`: what stands there too is left out. */
static graft_status read_tensors(gr_adapter *a, const gr_tensor_list *list, gr_stored_file file, bool state, graft_error *err) {
    size_t used = 0;
    for (size_t i = 0; i < a->n_stored; i++) {
        if (!stands_in(&a->stored[i], file)) continue;
        if (state && file == GR_FILE_ADAPTER && is_in_state(a, a->stored[i].param)) continue;
        const gr_named_tensor *t = gr_tensor_list_find(list, a->stored[i].name);
        if (!t) return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: tensor '%s' is missing", list->n ? list->items[0].file : a->where, a->stored[i].name);
        graft_status st = gr_param_read(a->stored[i].param, &t->view, err);
        if (st != GRAFT_OK) return gr_error_prefix(err, st, "%s: not made for this base model", t->file);
        used++;
    }
    if (used == list->n) return GRAFT_OK;
    for (size_t i = 0; i < list->n; i++) {
        bool known = false;
        for (size_t j = 0; j < a->n_stored && !known; j++)
            known = stands_in(&a->stored[j], file) && strcmp(a->stored[j].name, list->items[i].name) == 0;
        /* With all biases trained peft stores those of modules_to_save under these names too. */
        if (strstr(list->items[i].name, ".modules_to_save.") || strstr(list->items[i].name, ".original_module.")) known = true;
        if (!known) GR_TRY(is_base_copy(a, &list->items[i], &known, err));
        if (!known)
            return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: tensor '%s' does not belong to what adapter_config.json describes",
                           list->items[i].file, list->items[i].name);
    }
    return GRAFT_OK;
}

/* Values from one of the directory's files. */
static graft_status read_file(gr_adapter *a, const char *dir, gr_stored_file file, bool state, graft_error *err) {
    const char *name = file == GR_FILE_ENCODER ? GR_ENCODER_FILE : file == GR_FILE_STATE ? GR_STATE_FILE : "adapter_model.safetensors";
    gr_safetensors *f = NULL;
    char *path = gr_path_join(a->a, dir, name);
    graft_status st = path ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK && file == GR_FILE_ENCODER && !gr_path_exists(path))
        st = gr_fail(err, GRAFT_ERR_NOT_FOUND,
                     "%s: expected this file, to train the prompt encoder further: adapter_model.safetensors holds only what "
                     "it made",
                     path);
    if (st == GRAFT_OK) st = gr_safetensors_open(a->a, path, &f, err);
    if (st == GRAFT_OK) st = read_tensors(a, gr_safetensors_tensors(f), file, state, err);
    if (st == GRAFT_OK && file == GR_FILE_ADAPTER && !a->trainable && a->method->freeze) {
        a->file = f;
        f = NULL;
    }
    gr_safetensors_close(f);
    gr_free(a->a, path);
    return st;
}

static graft_status read_values(gr_adapter *a, const char *dir, bool state, graft_error *err) {
    GR_TRY(own_values(a, err));
    GR_TRY(read_file(a, dir, GR_FILE_ADAPTER, state, err));
    if (gr_adapter_has(a, GR_FILE_ENCODER)) GR_TRY(read_file(a, dir, GR_FILE_ENCODER, false, err));
    if (state) GR_TRY(read_file(a, dir, GR_FILE_STATE, false, err));
    if (a->method->loaded) a->method->loaded(a);
    return GRAFT_OK;
}

/* A configuration is a few bytes that can ask for any memory, before any tensor shows that it is wrong. What a sound one
 * asks for is a small multiple of the files: wider numbers, gradients, what is derived. */
static graft_status limit_memory(gr_adapter *a, const char *dir, graft_error *err) {
    static const char *const names[] = {"adapter_model.safetensors", GR_ENCODER_FILE};
    enum { LEAST = 16 << 20, TIMES = 16 };
    a->most_bytes = LEAST;
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        gr_mapping map;
        char *path = gr_path_join(a->a, dir, names[i]);
        if (!path) return gr_fail_memory(err);
        if (gr_path_exists(path) && gr_map_file(path, &map, NULL) == GRAFT_OK) {
            a->most_bytes += GR_MIN(map.size, SIZE_MAX / 4 / TIMES) * TIMES;
            gr_unmap_file(&map);
        }
        gr_free(a->a, path);
    }
    return GRAFT_OK;
}

/* The template of pseudo-tokens, where there is one. Prefix tuning has no tokens that could be placed. */
static graft_status read_template(gr_adapter *a, const char *dir, graft_error *err) {
    char *path = gr_path_join(a->a, dir, GR_TEMPLATE_FILE), *text = NULL;
    const gr_json_value *json, *value = NULL;
    size_t len;
    graft_status st = path ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK && gr_path_exists(path)) {
        st = gr_read_file(a->a, path, (size_t)1 << 20, &text, &len, err);
        if (st == GRAFT_OK) st = gr_json_parse(&a->arena, path, text, len, &json, err);
        if (st == GRAFT_OK && json->kind == GR_JSON_OBJECT) value = gr_json_get(json, "prompt_template");
        bool good = value && value->kind == GR_JSON_STRING && strlen(value->text) == value->len;
        if (st == GRAFT_OK && !good) st = gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected a string \"prompt_template\"", path);
        if (st == GRAFT_OK) a->prompt_template = value->text;
    }
    gr_free(a->a, text);
    gr_free(a->a, path);
    return st;
}

graft_status gr_adapter_read(gr_adapter *a, const char *dir, graft_error *err) {
    char *text = NULL, *path = gr_path_join(a->a, dir, "adapter_config.json");
    size_t len;
    graft_status st = path ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK && !(a->where = gr_arena_strndup(&a->arena, path, strlen(path)))) st = gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_read_file(a->a, path, (size_t)16 << 20, &text, &len, err);
    if (st == GRAFT_OK) st = limit_memory(a, dir, err);
    if (st == GRAFT_OK) st = read_template(a, dir, err);
    if (st == GRAFT_OK) st = gr_adapter_build(a, text, len, false, 0, err);
    if (st == GRAFT_OK && a->prompt_template && !a->n_rows)
        st = gr_fail(err, GRAFT_ERR_MISMATCH, "%s: a method with pseudo-tokens is expected beside " GR_TEMPLATE_FILE ", found %s", a->where,
                     a->method->peft_type);
    if (st == GRAFT_OK) st = read_values(a, dir, false, err);
    gr_free(a->a, text);
    gr_free(a->a, path);
    return st;
}

graft_status gr_adapter_reload(gr_adapter_set *s, int index, const char *dir, graft_error *err) {
    gr_adapter *a = gr_adapter_at(s, index);
    if (!a) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "there is no adapter %d", index);
    a->identity = ++s->last_identity;
    GR_TRY(read_values(a, dir, gr_adapter_has(a, GR_FILE_STATE), err));
    for (size_t i = 0; i < a->n_params; i++) gr_param_changed(a->params[i]);
    return gr_adapter_refresh(s, index, 0, false, err);
}
