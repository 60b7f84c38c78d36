/* Saving models as they are (graft/convert.h). */
#include "graft/convert.h"

#include <stdio.h>

#include "adapter/merged.h"
#include "adapter/method.h"
#include "model/public.h"
#include "quant/scaled.h"

/* Whether every value of a tensor is the same in `dtype`. */
static graft_status fits(const gr_model *m, const char *name, gr_dtype dtype, bool *out, graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(m));
    gr_shape shape;
    GR_TRY(gr_model_tensor_shape(m, name, &shape, err));
    const int64_t columns = shape.n > 1 ? shape.d[1] : shape.d[0], rows = shape.n > 1 ? shape.d[0] : 1;
    float *x = gr_alloc(a, (size_t)columns * sizeof *x);
    if (!x) return gr_fail_memory(err);
    graft_status st = GRAFT_OK;
    bool same = true;
    for (int64_t r = 0; r < rows && same && st == GRAFT_OK; r++) {
        st = gr_model_read_tensor(m, name, shape.n > 1 ? r : 0, shape.n > 1 ? 1 : columns, x, err);
        for (int64_t c = 0; c < columns && st == GRAFT_OK; c++)
            same = same && (dtype == GR_BF16 ? gr_bf16_to_f32(gr_f32_to_bf16(x[c]))
                                             : gr_f16_to_f32(gr_f32_to_f16(x[c]))) == x[c];
    }
    gr_free(a, x);
    if (st == GRAFT_OK) *out = same;
    return st;
}

/* The type that holds every dense value; whether anything is in bitsandbytes' formats, and in which. */
static graft_status choose(const gr_model *m, gr_dtype *dense, const gr_tensor_view **scaled, graft_error *err) {
    const gr_weight *w;
    GR_TRY(gr_model_get_weight(m, gr_model_tensor_name(m, 0), &w, err));
    gr_dtype dtype = w->view.dtype == GR_BF16 || w->view.dtype == GR_F16 ? w->view.dtype : GR_F32;
    *scaled = NULL;
    for (size_t i = 0; i < gr_model_n_tensors(m); i++) {
        const char *name = gr_model_tensor_name(m, i);
        bool same = true;
        GR_TRY(gr_model_get_weight(m, name, &w, err));
        if (w->view.scales) {
            *scaled = &w->view;
            continue;
        }
        if (dtype != GR_F32 && w->view.dtype != dtype) GR_TRY(fits(m, name, dtype, &same, err));
        if (!same) dtype = GR_F32;
    }
    *dense = dtype;
    return GRAFT_OK;
}

/* quantization_config as transformers writes it. */
static void describe(const gr_tensor_view *v, gr_dtype dense, char *out, size_t size) {
    const bool four = v->dtype != GR_INT8;
    snprintf(out, size,
             "{\n    \"_load_in_4bit\": %s,\n    \"_load_in_8bit\": %s,\n    \"bnb_4bit_compute_dtype\": \"%s\",\n"
             "    \"bnb_4bit_quant_storage\": \"uint8\",\n    \"bnb_4bit_quant_type\": \"%s\",\n    "
             "\"bnb_4bit_use_double_quant\": %s,\n"
             "    \"llm_int8_enable_fp32_cpu_offload\": false,\n    \"llm_int8_has_fp16_weight\": false,\n"
             "    \"llm_int8_skip_modules\": null,\n    \"llm_int8_threshold\": 6.0,\n    \"load_in_4bit\": %s,\n"
             "    \"load_in_8bit\": %s,\n    \"quant_method\": \"bitsandbytes\"\n  }",
             four ? "true" : "false", four ? "false" : "true",
             dense == GR_BF16  ? "bfloat16"
             : dense == GR_F16 ? "float16"
                               : "float32",
             v->dtype == GR_NF4 ? "nf4" : "fp4", four && !v->scales->absmax ? "true" : "false", four ? "true" : "false",
             four ? "false" : "true");
}

graft_status gr_write_as_stored(gr_model *m, const gr_adapter *a, const char *dir, gr_merge_report *report,
                                graft_error *err) {
    const gr_tensor_view *scaled;
    gr_dtype dense;
    char config[1024];
    GR_TRY(choose(m, &dense, &scaled, err));
    if (!scaled) return gr_write_model(m, a, dir, dense, err);
    describe(scaled, dense, config, sizeof config);
    return gr_write_quantized(m, a, dir, dense, config, report, err);
}

graft_status graft_model_save(graft_model *m, const char *dir, graft_error *err) {
    return gr_write_as_stored(m->model, NULL, dir, NULL, err);
}
