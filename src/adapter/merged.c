/* Tensors of a model with an adapter merged in: the adapter's own copy in place of the base's, its delta added in float. */
#include "adapter/method.h"
#include "adapter/merged.h"

const gr_site *gr_turned_site(const gr_model *m, const char *tensor) {
    bool bias;
    const gr_site *s = gr_model_site_of_tensor(m, tensor, &bias);
    return s && !bias && s->transposed ? s : NULL;
}

static graft_status own_copy(const gr_adapter *a, const char *tensor, const gr_param **out, graft_error *err) {
    *out = a && a->variant ? gr_variant_find(a->variant, tensor) : NULL;
    if (*out && (*out)->dtype != GR_F32) return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "models in F64 are not written");
    return GRAFT_OK;
}

graft_status gr_merged_rows(const gr_model *m, const gr_adapter *a, const char *tensor, int64_t row, int64_t n, float *out,
                            graft_error *err) {
    const gr_param *own;
    gr_shape shape;
    GR_TRY(own_copy(a, tensor, &own, err));
    GR_TRY(gr_model_tensor_shape(m, tensor, &shape, err));
    const int64_t columns = shape.n > 1 ? shape.d[1] : 1;
    if (own)
        memcpy(out, (const float *)own->value + row * columns, (size_t)(n * columns) * sizeof *out);
    else
        GR_TRY(gr_model_read_tensor(m, tensor, row, n, out, err));
    const char *dot = strrchr(tensor, '.');
    bool weight = dot && strcmp(dot, ".weight") == 0, bias = dot && strcmp(dot, ".bias") == 0;
    if (!a || !(weight ? a->method->merge : bias ? a->method->merge_bias : NULL)) return GRAFT_OK;
    const gr_site *s = gr_model_site_of_tensor(m, tensor, &bias);
    if (!s || s->role == GR_ROLE_NORM) return GRAFT_OK;
    return (weight ? a->method->merge : a->method->merge_bias)(a, s, row, n, out, err);
}

graft_status gr_merged_outputs(const gr_model *m, const gr_adapter *a, const char *tensor, int64_t row, int64_t n,
                               float *out, graft_error *err) {
    const gr_site *s = gr_turned_site(m, tensor);
    const gr_param *own;
    if (!s) return gr_merged_rows(m, a, tensor, row, n, out, err);
    GR_TRY(own_copy(a, tensor, &own, err));
    const float *value = own ? own->value : NULL;
    for (int64_t i = 0; own && i < n; i++)
        for (int64_t c = 0; c < s->in; c++) out[i * s->in + c] = value[c * s->out + row + i];
    if (!own) GR_TRY(gr_model_read_outputs(m, s, row, n, out, err));
    return a && a->method->merge ? a->method->merge(a, s, row, n, out, err) : GRAFT_OK;
}

/* Rows are compared until one differs: of a tensor that the adapter changes that is most often the first. */
graft_status gr_merge_changes(const gr_model *m, const gr_adapter *a, const char *tensor, bool *out, graft_error *err) {
    enum { ROWS = 64 };
    const graft_allocator *alloc = gr_allocator(gr_model_context(m));
    const gr_site *s = gr_turned_site(m, tensor);
    gr_shape shape;
    bool changes = false;
    graft_status st = GRAFT_OK;
    *out = false;
    if (!a) return GRAFT_OK;
    GR_TRY(gr_model_tensor_shape(m, tensor, &shape, err));
    const int64_t rows = s ? s->out : shape.d[0], columns = s ? s->in : shape.n > 1 ? shape.d[1] : 1;
    const int64_t step = shape.n > 1 ? ROWS : rows;
    float *x = gr_alloc(alloc, 2 * (size_t)(step * columns) * sizeof *x), *y = x ? x + step * columns : NULL;
    if (!x) return gr_fail_memory(err);
    for (int64_t r = 0; r < rows && !changes && st == GRAFT_OK; r += step) {
        const int64_t n = GR_MIN(step, rows - r);
        st = gr_merged_outputs(m, NULL, tensor, r, n, x, err);
        if (st == GRAFT_OK) st = gr_merged_outputs(m, a, tensor, r, n, y, err);
        for (int64_t i = 0; st == GRAFT_OK && i < n * columns; i++) changes = changes || x[i] != y[i];
    }
    gr_free(alloc, x);
    if (st == GRAFT_OK) *out = changes;
    return st;
}
