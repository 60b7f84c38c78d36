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

/* The type that holds every dense value; whether anything has scales apart, and in which format. */
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

/* quantization_config of compressed-tensors 0.20. What is left out is named module by module. */
static graft_status describe_compressed(const gr_model *m, gr_buf *b, graft_error *err) {
    static const char numbers[] =
        "\"actorder\": null, \"block_structure\": null, \"dynamic\": %s, \"group_size\": null, "
        "\"num_bits\": 8, \"observer\": %s, \"observer_kwargs\": {}, \"strategy\": \"%s\", "
        "\"symmetric\": true, \"type\": \"int\"";
    const gr_compressed kind = gr_model_get_config(m)->compressed;
    const bool dynamic = kind == GR_COMPRESSED_DYNAMIC;
    bool any = false;
    gr_buf_add_text(b, "{\n    \"config_groups\": {\n      \"group_0\": {\n        \"input_activations\": ");
    if (kind == GR_COMPRESSED_FLOAT) {
        gr_buf_add_text(b, "null");
    } else {
        gr_buf_add_text(b, "{");
        gr_buf_add_format(b, numbers, dynamic ? "true" : "false", dynamic ? "null" : "\"minmax\"",
                          dynamic ? "token" : "tensor");
        gr_buf_add_text(b, "}");
    }
    gr_buf_add_text(
        b, ",\n        \"output_activations\": null,\n        \"targets\": [\"Linear\"],\n        \"weights\": {");
    gr_buf_add_format(b, numbers, "false", "\"minmax\"", "channel");
    gr_buf_add_text(b, "}\n      }\n    },\n    \"format\": \"int-quantized\",\n    \"global_compression_ratio\": "
                       "null,\n    \"ignore\": [");
    for (size_t i = 0; i < gr_model_n_sites(m); i++) {
        const gr_site *s = gr_model_site(m, i);
        const gr_weight *w;
        if (gr_site_is_table(s) || !gr_model_linear(m, s)) continue;
        GR_TRY(gr_model_get_weight(m, s->weight_tensor, &w, err));
        if (w->view.dtype == GR_CHANNEL8) continue;
        if (any) gr_buf_add_text(b, ", ");
        gr_json_add_text(b, s->name, strlen(s->name));
        any = true;
    }
    gr_buf_add_text(b, "],\n    \"kv_cache_scheme\": null,\n    \"quant_method\": \"compressed-tensors\",\n    "
                       "\"quantization_status\": \"compressed\"\n  }");
    return gr_buf_status(b, err);
}

/* quantization_config as transformers writes it. */
static graft_status describe(const gr_model *m, const gr_tensor_view *v, gr_dtype dense, gr_buf *b,
                             graft_error *err) {
    const bool four = gr_is_4bit(v->dtype);
    if (v->dtype == GR_CHANNEL8) return describe_compressed(m, b, err);
    gr_buf_add_format(
        b,
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
    return gr_buf_status(b, err);
}

graft_status gr_write_as_stored(gr_model *m, const gr_adapter *a, const char *dir, gr_merge_report *report,
                                graft_error *err) {
    const gr_tensor_view *scaled;
    gr_dtype dense;
    gr_buf config;
    GR_TRY(choose(m, &dense, &scaled, err));
    if (!scaled) return gr_write_model(m, a, dir, dense, err);
    gr_buf_init(&config, gr_allocator(gr_model_context(m)));
    graft_status st = describe(m, scaled, dense, &config, err);
    if (st == GRAFT_OK) st = gr_write_quantized(m, a, dir, dense, gr_buf_text(&config), report, err);
    gr_buf_free(&config);
    return st;
}

graft_status graft_model_save(graft_model *m, const char *dir, graft_error *err) {
    return gr_write_as_stored(m->model, NULL, dir, NULL, err);
}
