/* Weights that compressed-tensors 0.20 keeps in 8 bits (formats int-quantized and naive-quantized): beside
 * NAME.weight (I8) stand NAME.weight_scale, one a row or one for all (F32, BF16, F16), and, where activations have a
 * scale that is known beforehand, NAME.input_scale. Zero points may be there as long as they are zero. */
#include <float.h>
#include <math.h>
#include <stdio.h>

#include "io/weights_parts.h"

static float element(const gr_tensor_view *v, int64_t i) {
    uint16_t half;
    float x;
    if (v->dtype == GR_F32) {
        memcpy(&x, (const char *)v->data + 4 * i, 4);
        return x;
    }
    memcpy(&half, (const char *)v->data + 2 * i, 2);
    return v->dtype == GR_BF16 ? gr_bf16_to_f32(half) : gr_f16_to_f32(half);
}

/* n scales, or one that stands for them. */
static graft_status read_scales(const gr_weight *w, int64_t n, float *out, graft_error *err) {
    const gr_tensor_view *v = &w->view;
    char shape[GR_SHAPE_TEXT];
    int64_t found;
    const bool is_float = v->dtype == GR_F32 || v->dtype == GR_BF16 || v->dtype == GR_F16;
    const bool column = v->shape.n < 2 || (v->shape.n == 2 && v->shape.d[1] == 1);
    if (!is_float || !column || !gr_shape_elements(&v->shape, &found) || (found != n && found != 1))
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "%s: tensor %s: expected %lld scale%s in F32, BF16 or F16, found %s of shape %s", w->file,
                       w->name, (long long)n, n == 1 ? "" : "s, or one,", gr_dtype_name(v->dtype),
                       gr_shape_format(&v->shape, shape, sizeof shape));
    for (int64_t i = 0; i < n; i++) {
        const float x = element(v, found == 1 ? 0 : i);
        /* Its inverse has to be a number too. */
        if (!isfinite(x) || !(x >= FLT_MIN))
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensor %s: scale %lld: expected a positive number, found %g",
                           w->file, w->name, (long long)(found == 1 ? 0 : i), (double)x);
        out[i] = x;
    }
    return GRAFT_OK;
}

/* MODULE + TAIL, which is then no weight of its own. */
static gr_weight *take(gr_joiner *j, const char *module, const char *tail) {
    char name[600];
    snprintf(name, sizeof name, "%s%s", module, tail);
    gr_weight *w = gr_joiner_find(j, name);
    if (w) j->taken[w - j->items] = true;
    return w;
}

static graft_status want_zero(const gr_weight *w, graft_error *err) {
    const unsigned char *bytes = w ? w->view.data : NULL;
    for (size_t i = 0; w && i < w->view.bytes; i++)
        if (bytes[i])
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor %s: expected zeros, found another zero point",
                           w->file, w->name);
    return GRAFT_OK;
}

graft_status gr_weights_join_channel8(gr_joiner *j, size_t at, const char *module, graft_error *err) {
    static const char *const others[] = {".weight_packed", ".weight_g_idx", ".weight_shape", ".weight_global_scale",
                                         ".output_scale"};
    const gr_weight *scale = &j->items[at];
    char name[600];
    for (size_t i = 0; i < GR_COUNT(others); i++) {
        snprintf(name, sizeof name, "%s%s", module, others[i]);
        if (gr_joiner_find(j, name))
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                           "%s: tensor %s: weights of compressed-tensors are read in 8 bits with a scale a row only",
                           scale->file, name);
    }
    snprintf(name, sizeof name, "%s.weight", module);
    gr_weight *w = gr_joiner_find(j, name);
    if (!w) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: tensor %s is missing", scale->file, name);
    if (w->view.dtype != GR_I8 || w->view.shape.n != 2 || w->view.shape.d[0] < 1 || w->view.shape.d[1] < 1)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: tensor %s: expected a matrix of I8 beside %s, found %s", w->file,
                       name, scale->name, gr_dtype_name(w->view.dtype));
    const int64_t rows = w->view.shape.d[0];
    gr_scales *s = gr_arena_alloc(j->arena, sizeof *s);
    float *values = gr_arena_alloc(j->arena, sizeof *values * (size_t)rows);
    if (!s || !values) return gr_fail_memory(err);
    *s = (gr_scales){.block = w->view.shape.d[1], .absmax = values};
    GR_TRY(read_scales(scale, rows, values, err));
    const gr_weight *input = take(j, module, ".input_scale");
    if (input) GR_TRY(read_scales(input, 1, &s->input, err));
    GR_TRY(want_zero(take(j, module, ".weight_zero_point"), err));
    GR_TRY(want_zero(take(j, module, ".input_zero_point"), err));
    j->taken[at] = true;
    w->view.dtype = GR_CHANNEL8;
    w->view.scales = s;
    return GRAFT_OK;
}
