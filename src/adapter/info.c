/* Facts about a model and an adapter, as JSON. */
#include "adapter/method.h"
#include "tensor/scales.h"
#include "model/public.h"

static void add_member(gr_buf *b, const char *key, const char *text) {
    gr_buf_add_format(b, ", \"%s\": ", key);
    gr_json_add_text(b, text, strlen(text));
}

static void add_int(gr_buf *b, const char *key, int64_t value) {
    gr_buf_add_format(b, ", \"%s\": %lld", key, (long long)value);
}

static void add_number(gr_buf *b, const char *key, double value) {
    gr_buf_add_format(b, ", \"%s\": ", key);
    gr_json_add_double(b, value);
}

static void add_rope(gr_buf *b, const gr_model_config *c) {
    const gr_rope_config *r = &c->rope;
    gr_buf_add_text(b, ", \"rope\": {\"type\": ");
    gr_json_add_text(b, gr_rope_type_name(r->type), strlen(gr_rope_type_name(r->type)));
    add_number(b, "theta", r->theta);
    if (r->type != GR_ROPE_DEFAULT) add_number(b, "factor", r->factor);
    if (r->original_max_position_embeddings > 0)
        add_int(b, "original_max_position_embeddings", r->original_max_position_embeddings);
    gr_buf_add_text(b, "}");
}

/* Tensors, elements and bytes of every format in the files. */
static void add_formats(gr_buf *b, const gr_weights *w) {
    bool any = false;
    gr_buf_add_text(b, ", \"formats\": {");
    for (int d = 0; d < GR_DTYPE_COUNT; d++) {
        int64_t tensors = 0, elements = 0, n;
        uint64_t bytes = 0;
        for (size_t i = 0; i < gr_weights_count(w); i++) {
            const gr_tensor_view *v = &gr_weights_at(w, i)->view;
            if (v->dtype != (gr_dtype)d || !gr_shape_elements(&v->shape, &n)) continue;
            tensors++;
            elements += n;
            bytes += v->bytes;
        }
        if (!tensors) continue;
        gr_buf_add_format(b, "%s\"%s\": {\"tensors\": %lld, \"elements\": %lld, \"bytes\": %llu}", any ? ", " : "",
                          gr_dtype_name((gr_dtype)d), (long long)tensors, (long long)elements, (unsigned long long)bytes);
        any = true;
    }
    gr_buf_add_text(b, "}");
}

static void add_model(gr_buf *b, const gr_model *m) {
    const gr_model_config *c = gr_model_get_config(m);
    const gr_weights *w = gr_model_weights(m);
    const char *type = gr_model_type_name(c->type), *path = gr_model_path(m);
    uint64_t bytes = 0;
    for (size_t i = 0; i < gr_weights_count(w); i++) bytes += gr_view_all_bytes(&gr_weights_at(w, i)->view);
    gr_buf_add_text(b, "{\"type\": ");
    gr_json_add_text(b, type, strlen(type));
    add_member(b, "task", gr_task_name(c->task));
    if (c->task == GR_TASK_SEQ_CLS) add_int(b, "labels", c->n_labels);
    add_member(b, "path", path);
    add_member(b, "file_format", gr_weights_gguf(w) ? "gguf" : "safetensors");
    add_int(b, "parameters", gr_model_n_params(m));
    add_int(b, "weight_bytes", (int64_t)bytes);
    add_int(b, "vocab_size", c->vocab_size);
    add_int(b, "hidden_size", c->hidden_size);
    add_int(b, "intermediate_size", c->intermediate_size);
    add_int(b, "layers", c->n_layers);
    if (c->n_encoder_layers) add_int(b, "encoder_layers", c->n_encoder_layers);
    add_int(b, "heads", c->n_heads);
    add_int(b, "kv_heads", c->n_kv_heads);
    add_int(b, "head_dim", c->head_dim);
    if (c->max_position_embeddings < 1 << 30) /* T5 has no limit */
        add_int(b, "max_position_embeddings", c->max_position_embeddings);
    add_int(b, "sliding_window", c->sliding_window);
    gr_buf_add_format(b, ", \"tied_head\": %s", gr_model_head_is_tied(m) ? "true" : "false");
    if (c->rope.type != GR_ROPE_NONE) add_rope(b, c);
    add_int(b, "kv_bytes_per_token",
            2 * gr_model_kv_layers(m) * gr_model_kv_width(m) * (int64_t)gr_dtype_bytes(gr_model_dtype(m), 1));
    add_member(b, "compute_dtype", gr_dtype_name(gr_model_dtype(m)));
    add_formats(b, w);
}

static void add_adapter(gr_buf *b, const gr_adapter *a, int64_t n) {
    gr_buf_add_text(b, ", \"adapter\": {\"method\": ");
    gr_json_add_text(b, a->method->name, strlen(a->method->name));
    add_int(b, "parameters", n);
    add_int(b, "tensors", (int64_t)a->n_stored);
    gr_buf_add_text(b, ", ");
    if (a->method->facts) a->method->facts(a, b);
    gr_buf_add_text(b, "\"config\": ");
    gr_buf_add_text(b, a->config);
    gr_buf_add_text(b, "}");
}

graft_status graft_model_info(graft_context *ctx, const char *path, const char *adapter_dir, char **json,
                              graft_error *err) {
    graft_model *m;
    int index = -1;
    GR_TRY(graft_model_load(ctx, path, NULL, &m, err));
    gr_buf b;
    gr_buf_init(&b, gr_allocator(ctx));
    graft_status st = GRAFT_OK;
    if (adapter_dir) st = gr_adapter_set_load(m->adapters, "adapter", adapter_dir, 1, false, &index, err);
    if (st == GRAFT_OK) {
        add_model(&b, m->model);
        if (index >= 0) add_adapter(&b, gr_adapter_at(m->adapters, index), gr_adapter_n_trainable(m->adapters, index));
        gr_buf_add_text(&b, "}");
        st = gr_buf_take(&b, json, NULL, err);
    }
    gr_buf_free(&b);
    graft_model_free(m);
    return st;
}
