/* Values of parameters from stored tensors. */
#include "nn/seam.h"
#include "quant/quant.h"

graft_status gr_param_read(gr_param *p, const gr_tensor_view *v, graft_error *err) {
    if (!gr_shape_equal(&v->shape, &p->shape)) {
        char expected[GR_SHAPE_TEXT], found[GR_SHAPE_TEXT];
        return gr_fail(err, GRAFT_ERR_MISMATCH, "tensor '%s': expected shape %s, found %s", p->name,
                       gr_shape_format(&p->shape, expected, sizeof expected),
                       gr_shape_format(&v->shape, found, sizeof found));
    }
    if (!gr_can_dequantize(v->dtype))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "tensor '%s': type %s holds no weights", p->name,
                       gr_dtype_name(v->dtype));
    if (p->dtype == GR_F32) return gr_dequantize_row(v->dtype, v->data, (size_t)p->n, p->value, err);
    /* Doubles are for tests: a small window is enough. */
    float window[256];
    size_t block = (size_t)gr_dtype_get(v->dtype)->block_elements, step = GR_COUNT(window) / block * block;
    for (size_t i = 0; i < (size_t)p->n; i += step) {
        size_t n = GR_MIN(step, (size_t)p->n - i);
        GR_TRY(gr_dequantize_row(v->dtype, (const char *)v->data + gr_dtype_bytes(v->dtype, i), n, window, err));
        for (size_t k = 0; k < n; k++) ((double *)p->value)[i + k] = window[k];
    }
    return GRAFT_OK;
}
