/* Element formats and shapes. */
#include "tensor/tensor.h"

#include <stdio.h>
#include <strings.h>

static const gr_dtype_info infos[] = {
#define X(name, safetensors, gguf, elements, bytes) {#name, safetensors, gguf, elements, bytes},
#include "tensor/dtype.def"
#undef X
};

const gr_dtype_info *gr_dtype_get(gr_dtype dtype) { return &infos[dtype]; }

bool gr_dtype_by_name(const char *name, gr_dtype *out) {
    for (int i = 0; i < GR_DTYPE_COUNT; i++)
        if (strcasecmp(infos[i].name, name) == 0) {
            *out = (gr_dtype)i;
            return true;
        }
    return false;
}

bool gr_dtype_by_safetensors(const char *name, size_t len, gr_dtype *out) {
    for (int i = 0; i < GR_DTYPE_COUNT; i++) {
        const char *s = infos[i].safetensors;
        if (s && strlen(s) == len && memcmp(s, name, len) == 0) {
            *out = (gr_dtype)i;
            return true;
        }
    }
    return false;
}

bool gr_dtype_by_gguf(uint32_t number, gr_dtype *out) {
    for (int i = 0; i < GR_DTYPE_COUNT; i++)
        if (infos[i].gguf >= 0 && (uint32_t)infos[i].gguf == number) {
            *out = (gr_dtype)i;
            return true;
        }
    return false;
}

bool gr_shape_equal(const gr_shape *a, const gr_shape *b) {
    if (a->n != b->n) return false;
    for (int i = 0; i < a->n; i++)
        if (a->d[i] != b->d[i]) return false;
    return true;
}

bool gr_shape_elements(const gr_shape *shape, int64_t *out) {
    int64_t n = 1;
    bool empty = false;
    for (int i = 0; i < shape->n; i++) {
        if (shape->d[i] < 0) return false;
        if (shape->d[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(n, shape->d[i], &n))
            return false;
    }
    *out = empty ? 0 : n;
    return true;
}

const char *gr_shape_format(const gr_shape *shape, char *buf, size_t size) {
    size_t n = 0;
    for (int i = 0; i < shape->n && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, "%s%lld", i ? ", " : "[", (long long)shape->d[i]);
    if (n < size) snprintf(buf + n, size - n, shape->n ? "]" : "[]");
    return buf;
}

graft_status gr_tensor_bytes(gr_dtype dtype, const gr_shape *shape, size_t *out, graft_error *err) {
    const gr_dtype_info *d = gr_dtype_get(dtype);
    char text[GR_SHAPE_TEXT];
    int64_t n, row = shape->n ? shape->d[shape->n - 1] : 1, bytes;
    if (!gr_shape_elements(shape, &n) ||
        __builtin_mul_overflow(n / d->block_elements, (int64_t)d->block_bytes, &bytes) || bytes > PTRDIFF_MAX)
        return gr_fail(err, GRAFT_ERR_LIMIT, "shape %s of %s is too large for this machine",
                       gr_shape_format(shape, text, sizeof text), d->name);
    if (row % d->block_elements)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "shape %s: expected rows of a multiple of %d elements for %s",
                       gr_shape_format(shape, text, sizeof text), d->block_elements, d->name);
    *out = (size_t)bytes;
    return GRAFT_OK;
}

int64_t gr_tensor_rows(const gr_tensor_view *v) {
    int64_t rows = 1;
    for (int i = 0; i + 1 < v->shape.n; i++) rows *= v->shape.d[i];
    return rows;
}
