#include "adapter/outputs.h"

#include <stdio.h>

void gr_outputs_init(gr_outputs *o, const graft_allocator *a) {
    *o = (gr_outputs){.a = a};
    gr_arena_init(&o->arena, a, 0);
}

void gr_outputs_free(gr_outputs *o) {
    gr_free(o->a, o->items);
    gr_arena_free(&o->arena);
}

graft_status gr_outputs_add(gr_outputs *o, const gr_output *x, graft_error *err) {
    GR_TRY(gr_grow(o->a, (void **)&o->items, &o->cap, o->n + 1, sizeof *x, err));
    o->items[o->n++] = *x;
    return GRAFT_OK;
}

/* Bytes under the first `stem` characters of NAME and TAIL. */
static graft_status add_part(gr_outputs *o, const char *name, size_t stem, const char *tail, gr_dtype dtype,
                             gr_shape shape, const void *bytes, graft_error *err) {
    size_t k = strlen(tail);
    char *full = gr_arena_alloc(&o->arena, stem + k + 1);
    if (!full) return gr_fail_memory(err);
    memcpy(full, name, stem);
    memcpy(full + stem, tail, k + 1);
    gr_output x = {.name = full, .dtype = dtype, .shape = shape, .bytes = bytes};
    GR_TRY(gr_tensor_bytes(dtype, &shape, &x.n_bytes, err));
    return gr_outputs_add(o, &x, err);
}

static const char *torch_name(gr_dtype dtype) {
    return dtype == GR_BF16 ? "bfloat16" : dtype == GR_F16 ? "float16" : "float32";
}

/* quant_state as JSON, in the order in which bitsandbytes writes it. */
static graft_status add_state(gr_outputs *o, const char *name, const gr_tensor_view *v, gr_dtype dtype,
                              graft_error *err) {
    const gr_scales *s = v->scales;
    const bool nf4 = v->dtype == GR_NF4;
    gr_buf b;
    gr_buf_init(&b, o->a);
    gr_buf_add_format(&b, "{\"quant_type\": \"%s\", \"blocksize\": %lld, \"dtype\": \"%s\", \"shape\": [%lld, %lld]",
                      nf4 ? "nf4" : "fp4", (long long)s->block, torch_name(dtype), (long long)v->shape.d[0],
                      (long long)v->shape.d[1]);
    if (!s->absmax) {
        gr_buf_add_format(&b, ", \"nested_blocksize\": %lld, \"nested_dtype\": \"float32\", \"nested_offset\": ",
                          (long long)s->nested_block);
        gr_json_add_double(&b, (double)s->offset);
    }
    gr_buf_add_char(&b, '}');
    char *text = b.data ? gr_arena_strndup(&o->arena, b.data, b.len) : NULL;
    graft_status st = gr_buf_status(&b, err);
    if (st == GRAFT_OK && !text) st = gr_fail_memory(err);
    if (st == GRAFT_OK)
        st = add_part(o, name, strlen(name), nf4 ? ".quant_state.bitsandbytes__nf4" : ".quant_state.bitsandbytes__fp4",
                      GR_U8, gr_shape1((int64_t)b.len), text, err);
    gr_buf_free(&b);
    return st;
}

static graft_status add_4bit(gr_outputs *o, const char *name, const gr_tensor_view *v, gr_dtype dtype,
                             graft_error *err) {
    const gr_scales *s = v->scales;
    const size_t stem = strlen(name);
    const int64_t n = (v->shape.d[0] * v->shape.d[1] + s->block - 1) / s->block;
    GR_TRY(add_part(o, name, stem, "", GR_U8, gr_shape2((int64_t)v->bytes, 1), v->data, err));
    GR_TRY(add_part(o, name, stem, ".quant_map", GR_F32, gr_shape1(16), gr_scaled_values(v->dtype), err));
    if (s->absmax) {
        GR_TRY(add_part(o, name, stem, ".absmax", GR_F32, gr_shape1(n), s->absmax, err));
    } else {
        const int64_t nested = (n + s->nested_block - 1) / s->nested_block;
        GR_TRY(add_part(o, name, stem, ".absmax", GR_U8, gr_shape1(n), s->codes, err));
        GR_TRY(add_part(o, name, stem, ".nested_absmax", GR_F32, gr_shape1(nested), s->nested, err));
        GR_TRY(add_part(o, name, stem, ".nested_quant_map", GR_F32, gr_shape1(256), s->map, err));
    }
    return add_state(o, name, v, dtype, err);
}

/* Floats in `dtype` where that holds them all, else as they are. */
static graft_status add_floats(gr_outputs *o, const char *name, size_t stem, const char *tail, gr_dtype dtype,
                               gr_shape shape, const float *x, int64_t n, graft_error *err) {
    uint16_t *half = dtype == GR_F32 ? NULL : gr_arena_alloc(&o->arena, sizeof *half * (size_t)n);
    bool same = dtype != GR_F32;
    if (dtype != GR_F32 && !half) return gr_fail_memory(err);
    for (int64_t i = 0; i < n && same; i++) {
        half[i] = dtype == GR_BF16 ? gr_f32_to_bf16(x[i]) : gr_f32_to_f16(x[i]);
        same = (dtype == GR_BF16 ? gr_bf16_to_f32(half[i]) : gr_f16_to_f32(half[i])) == x[i];
    }
    return add_part(o, name, stem, tail, same ? dtype : GR_F32, shape, same ? (const void *)half : x, err);
}

static graft_status add_channel8(gr_outputs *o, const char *name, const gr_tensor_view *v, gr_dtype dtype,
                                 graft_error *err) {
    const size_t module = strlen(name) - strlen("weight");
    const int64_t rows = v->shape.d[0];
    GR_TRY(add_part(o, name, module, "weight", GR_I8, v->shape, v->data, err));
    GR_TRY(add_floats(o, name, module, "weight_scale", dtype, gr_shape2(rows, 1), v->scales->absmax, rows, err));
    if (!(v->scales->input > 0)) return GRAFT_OK;
    return add_floats(o, name, module, "input_scale", dtype, gr_shape1(1), &v->scales->input, 1, err);
}

graft_status gr_outputs_add_scaled(gr_outputs *o, const char *name, const gr_tensor_view *v, gr_dtype dtype,
                                   graft_error *err) {
    static const uint8_t rows_in_order;
    const size_t module = strlen(name) - strlen("weight");
    if (gr_is_4bit(v->dtype)) return add_4bit(o, name, v, dtype, err);
    if (v->dtype == GR_CHANNEL8) return add_channel8(o, name, v, dtype, err);
    GR_TRY(add_part(o, name, module, "weight", GR_I8, v->shape, v->data, err));
    GR_TRY(add_part(o, name, module, "SCB", GR_F32, gr_shape1(v->shape.d[0]), v->scales->absmax, err));
    return add_part(o, name, module, "weight_format", GR_U8, (gr_shape){0}, &rows_in_order, err);
}
