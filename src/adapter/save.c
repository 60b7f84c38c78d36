/* Writing an adapter directory as peft writes it: adapter_config.json, adapter_model.safetensors, README.md. */
#include "adapter/method.h"

static graft_status write_file(const graft_allocator *a, const char *dir, const char *name, gr_buf *b, graft_error *err) {
    char *path = gr_path_join(a, dir, name);
    graft_status st = path ? gr_buf_status(b, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_write_file(a, path, b->data, b->len, err);
    gr_free(a, path);
    return st;
}

/* What peft has no place for: it puts all rows in front. */
static graft_status write_template(const gr_adapter *a, const char *dir, graft_error *err) {
    gr_buf b;
    gr_buf_init(&b, a->a);
    gr_buf_add_text(&b, "{\n  \"prompt_template\": ");
    gr_json_add_text(&b, a->prompt_template, strlen(a->prompt_template));
    gr_buf_add_text(&b, "\n}\n");
    graft_status st = write_file(a->a, dir, GR_TEMPLATE_FILE, &b, err);
    gr_buf_free(&b);
    return st;
}

/* A model card whose head is what the Hub reads. */
static void model_card(const gr_adapter *a, gr_buf *b) {
    const char *base = gr_model_path(a->model);
    gr_buf_add_text(b, "---\nbase_model: ");
    gr_json_add_text(b, base, strlen(base));
    gr_buf_add_format(b, "\n%spipeline_tag: %s\ntags:\n- %s\n- graft\n---\n\n",
                      a->method->ours ? "" : "library_name: peft\n", gr_model_pipeline(a->model), a->method->name);
    gr_buf_add_format(b, "# %s adapter\n\nAn adapter for `%s`, made with graft %s.\n\n", a->method->peft_type, base,
                      graft_version());
    gr_buf_add_format(b, "| | |\n|---|---|\n| method | %s |\n", a->method->name);
    int64_t n = 0;
    for (size_t i = 0; i < a->n_params; i++) n += a->params[i]->n;
    gr_buf_add_format(b, "| trained parameters | %lld of %lld |\n| tensors | %zu |\n\n", (long long)n,
                      (long long)gr_model_n_params(a->model), a->n_stored);
    gr_buf_add_text(b, "## Use\n\n```\ngraft generate -m BASE --adapter THIS_DIRECTORY -p \"...\"\n```\n\n");
    if (!a->method->ours && !a->prompt_template)
        gr_buf_add_text(b, "```python\nfrom peft import PeftModel\nmodel = PeftModel.from_pretrained(base_model, \"THIS_DIRECTORY\")\n"
                           "```\n\n");
    gr_buf_add_text(b, "## Settings\n\n```json\n");
    gr_buf_add_text(b, a->config);
    gr_buf_add_text(b, "\n```\n");
}

static graft_status write_tensors(const gr_adapter *a, const char *dir, gr_stored_file file, graft_error *err) {
    const char *name = file == GR_FILE_ENCODER ? GR_ENCODER_FILE : file == GR_FILE_STATE ? GR_STATE_FILE : "adapter_model.safetensors";
    char *path = gr_path_join(a->a, dir, name);
    size_t n = 0;
    gr_arena views;
    gr_arena_init(&views, a->a, 0);
    gr_named_tensor *t = gr_calloc(a->a, a->n_stored + 1, sizeof *t);
    graft_status st = path && t ? GRAFT_OK : gr_fail_memory(err);
    for (size_t i = 0; i < a->n_stored && st == GRAFT_OK; i++) {
        const gr_stored *s = &a->stored[i];
        const gr_param *p = s->param;
        if (s->file != file && !(s->file == GR_FILE_DERIVED && file == GR_FILE_ADAPTER)) continue;
        t[n] = (gr_named_tensor){.name = s->name,
                                 .view = {p->dtype, p->shape, p->value, gr_dtype_bytes(p->dtype, (size_t)p->n), NULL}};
        if (a->method->stored_view && file == GR_FILE_ADAPTER) st = a->method->stored_view(a, s, &views, &t[n].view, err);
        n++;
    }
    if (st == GRAFT_OK) st = gr_safetensors_save(a->a, path, t, n, NULL, err);
    gr_arena_free(&views);
    gr_free(a->a, t);
    gr_free(a->a, path);
    return st;
}

graft_status gr_adapter_save(const gr_adapter_set *s, int index, const char *dir, gr_dtype dtype, graft_error *err) {
    const gr_adapter *a = gr_adapter_at(s, index);
    if (!a) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "there is no adapter %d", index);
    if (a->method == &gr_adapter_full) return gr_write_model(a->model, a, dir, dtype, err);
    if (a->method->refresh) GR_TRY(a->method->refresh(gr_adapter_at(s, index), 0, false, err));
    GR_TRY(gr_adapter_rewrite_config(gr_adapter_at(s, index), err));
    gr_buf card, config;
    gr_buf_init(&card, a->a);
    gr_buf_init(&config, a->a);
    gr_buf_add_text(&config, a->config);
    model_card(a, &card);
    graft_status st;
    GR_GO(done, gr_make_dirs(dir, err));
    GR_GO(done, write_file(a->a, dir, "adapter_config.json", &config, err));
    GR_GO(done, write_tensors(a, dir, GR_FILE_ADAPTER, err));
    if (gr_adapter_has(a, GR_FILE_ENCODER)) GR_GO(done, write_tensors(a, dir, GR_FILE_ENCODER, err));
    GR_GO(done, gr_adapter_write_classes(a->model, dir, err));
    if (a->prompt_template) GR_GO(done, write_template(a, dir, err));
    GR_GO(done, write_file(a->a, dir, "README.md", &card, err));
done:
    gr_buf_free(&card);
    gr_buf_free(&config);
    return st;
}

graft_status gr_adapter_save_state(const gr_adapter_set *s, int index, const char *dir, graft_error *err) {
    const gr_adapter *a = gr_adapter_at(s, index);
    return a && gr_adapter_has(a, GR_FILE_STATE) ? write_tensors(a, dir, GR_FILE_STATE, err) : GRAFT_OK;
}
