/* Merging into the formats that a base has (graft/convert.h). */
#include "adapter/merged.h"
#include "adapter/method.h"
#include "graft/convert.h"
#include "io/paths.h"
#include "model/public.h"

static bool is_float(gr_dtype d) { return d == GR_F32 || d == GR_F16 || d == GR_BF16; }

/* Formats of few bits in the base, each once. */
static graft_status add_formats(const gr_model *m, gr_buf *b, graft_error *err) {
    bool seen[GR_DTYPE_COUNT] = {false}, any = false;
    for (size_t i = 0; i < gr_model_n_tensors(m); i++) {
        const gr_weight *w;
        GR_TRY(gr_model_get_weight(m, gr_model_tensor_name(m, i), &w, err));
        if (is_float(w->view.dtype) || seen[w->view.dtype]) continue;
        seen[w->view.dtype] = true;
        gr_buf_add_format(b, "%s\"%s\"", any ? ", " : "", gr_dtype_name(w->view.dtype));
        any = true;
    }
    return GRAFT_OK;
}

static graft_status describe(const gr_model *m, const gr_merge_report *r, gr_buf *b, graft_error *err) {
    gr_buf_add_text(b, "{\"base\": ");
    gr_json_add_text(b, gr_model_path(m), strlen(gr_model_path(m)));
    gr_buf_add_format(b, ", \"quantized_while_loading\": %s, \"formats\": [",
                      gr_weights_owned_bytes(gr_model_weights(m)) ? "true" : "false");
    GR_TRY(add_formats(m, b, err));
    gr_buf_add_format(b, "], \"encoded\": %lld, \"changed\": %lld, \"kept\": %lld, \"tensors\": [",
                      (long long)r->encoded, (long long)(r->encoded + r->plain), (long long)r->kept);
    if (r->list->len) gr_buf_add(b, r->list->data, r->list->len);
    gr_buf_add_text(b, "], \"total\": {");
    gr_cost_write(b, &r->all);
    gr_buf_add_text(b, "}}");
    return gr_buf_status(b, err);
}

static graft_status is_scaled(const gr_model *m, bool *out, graft_error *err) {
    *out = false;
    for (size_t i = 0; i < gr_model_n_tensors(m) && !*out; i++) {
        const gr_weight *w;
        GR_TRY(gr_model_get_weight(m, gr_model_tensor_name(m, i), &w, err));
        *out = w->view.scales != NULL;
    }
    return GRAFT_OK;
}

static graft_status merge(gr_model *m, const gr_adapter *a, const char *path, const char *type, gr_merge_report *r,
                          graft_error *err) {
    gr_dtype dtype;
    bool scaled;
    if (gr_ends_with(path, ".gguf")) {
        GR_TRY(gr_gguf_type_of(type, &dtype, err));
        return gr_write_gguf(m, a, path, dtype, r, err);
    }
    if (!type) {
        GR_TRY(is_scaled(m, &scaled, err));
        return scaled ? gr_write_as_stored(m, a, path, r, err) : gr_write_model(m, a, path, gr_stored_dtype(m), err);
    }
    if (!gr_dtype_by_name(type, &dtype) || !is_float(dtype))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "type: expected f32, bf16 or f16 for a directory, found %s (a name that ends in .gguf takes GGUF types)",
                       type);
    return gr_write_model(m, a, path, dtype, err);
}

graft_status graft_model_merge_stored(graft_model *m, const char *adapter, const char *path, const char *type,
                                      char **report, graft_error *err) {
    const graft_allocator *alloc = gr_allocator(m->ctx);
    const gr_adapter *a;
    int index;
    gr_buf list, json;
    GR_TRY(gr_model_choose_adapter(m, adapter, &index, err));
    GR_TRY(gr_adapter_to_merge(m->adapters, index, &a, err));
    gr_buf_init(&list, alloc);
    gr_buf_init(&json, alloc);
    gr_merge_report r = {.list = &list};
    graft_status st = merge(m->model, a, path, type, report ? &r : NULL, err);
    if (st == GRAFT_OK && report) st = gr_buf_status(&list, err);
    if (st == GRAFT_OK && report) st = describe(m->model, &r, &json, err);
    if (st == GRAFT_OK && report) st = gr_buf_take(&json, report, NULL, err);
    gr_buf_free(&list);
    gr_buf_free(&json);
    return st;
}
