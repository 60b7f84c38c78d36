/* Room 1, tensor: element formats, shapes, and views of memory that somebody else owns.
 *
 * Shapes are row-major with the outermost dimension first everywhere in graft; GGUF's reversed order is turned when a
 * file is read or written. A row is the innermost dimension; block formats cut each row into whole blocks. */
#ifndef GR_TENSOR_H
#define GR_TENSOR_H

#include "base/base.h"
#include "tensor/float16.h"

typedef enum gr_dtype {
#define X(name, safetensors, gguf, elements, bytes) GR_##name,
#include "tensor/dtype.def"
#undef X
    GR_DTYPE_COUNT
} gr_dtype;

typedef struct gr_dtype_info {
    const char *name;        /* "F32", "Q4_K" */
    const char *safetensors; /* its name in safetensors files, NULL: cannot stand there */
    int gguf;                /* its type number in GGUF files, -1: cannot stand there */
    int block_elements, block_bytes;
} gr_dtype_info;

/* Never NULL for a valid dtype. */
const gr_dtype_info *gr_dtype_get(gr_dtype dtype);
static inline const char *gr_dtype_name(gr_dtype dtype) { return gr_dtype_get(dtype)->name; }
/* False where no format has that name (exact case for safetensors, any case for gr_dtype_by_name) or number. */
bool gr_dtype_by_name(const char *name, gr_dtype *out);
bool gr_dtype_by_safetensors(const char *name, size_t len, gr_dtype *out);
bool gr_dtype_by_gguf(uint32_t number, gr_dtype *out);
/* Bytes of n consecutive elements, n a multiple of the block; for sizes that are known to fit. */
static inline size_t gr_dtype_bytes(gr_dtype dtype, size_t n) {
    const gr_dtype_info *d = gr_dtype_get(dtype);
    return n / (size_t)d->block_elements * (size_t)d->block_bytes;
}

enum { GR_MAX_DIMS = 6 };

/* n == 0 is a scalar (one element). Dimensions are >= 0. */
typedef struct gr_shape {
    int n;
    int64_t d[GR_MAX_DIMS];
} gr_shape;

static inline gr_shape gr_shape1(int64_t a) { return (gr_shape){1, {a}}; }
static inline gr_shape gr_shape2(int64_t a, int64_t b) { return (gr_shape){2, {a, b}}; }
static inline gr_shape gr_shape3(int64_t a, int64_t b, int64_t c) { return (gr_shape){3, {a, b, c}}; }
static inline gr_shape gr_shape4(int64_t a, int64_t b, int64_t c, int64_t d) { return (gr_shape){4, {a, b, c, d}}; }

bool gr_shape_equal(const gr_shape *a, const gr_shape *b);
/* Product of the dimensions. False when a dimension is negative or the product of those that are not 0 does not fit
 * int64 (so that rows and strides of an empty tensor fit too). */
bool gr_shape_elements(const gr_shape *shape, int64_t *out);
/* "[2, 576]", cut at the buffer's end; returns buf. 160 bytes hold every shape. */
enum { GR_SHAPE_TEXT = 160 };
const char *gr_shape_format(const gr_shape *shape, char *buf, size_t size);

/* Bytes of a dense tensor, checked: GRAFT_ERR_LIMIT when the size does not fit, GRAFT_ERR_MISMATCH when a row is not a
 * whole number of blocks. */
graft_status gr_tensor_bytes(gr_dtype dtype, const gr_shape *shape, size_t *out, graft_error *err);

/* The scales of NF4, FP4, INT8 and CHANNEL8 (scales.h), which stand apart from their elements: element i, counted
 * through the whole tensor, has scale i / block. Arrays may have any alignment. */
typedef struct gr_scales {
    int64_t block;
    const void *absmax; /* F32, a scale each; NULL: nested */
    /* Nested: scale i is map[codes[i]] * nested[i / nested_block] + offset. */
    const uint8_t *codes;
    const void *map, *nested; /* F32: 256; one for every nested_block scales */
    int64_t nested_block;
    float offset;
    float input; /* CHANNEL8: the scale of what the matrix is multiplied with, known beforehand; 0: each row of that
                    has its own */
} gr_scales;

/* A dense tensor in memory that somebody else owns (most often a mapped file). `data` may have any alignment: files
 * do not promise one; gr_tensor_aligned tells. */
typedef struct gr_tensor_view {
    gr_dtype dtype;
    gr_shape shape;
    const void *data;
    size_t bytes; /* equal to gr_tensor_bytes(dtype, shape) */
    const gr_scales *scales; /* of NF4, FP4, INT8 and CHANNEL8, NULL otherwise */
} gr_tensor_view;

static inline bool gr_tensor_aligned(const gr_tensor_view *v, size_t to) { return (uintptr_t)v->data % to == 0; }
/* Elements of one row (the innermost dimension; 1 for a scalar) and the number of rows. */
static inline int64_t gr_tensor_row_size(const gr_tensor_view *v) {
    return v->shape.n ? v->shape.d[v->shape.n - 1] : 1;
}
int64_t gr_tensor_rows(const gr_tensor_view *v);
/* Start of row i, 0 <= i < rows. */
static inline const void *gr_tensor_row(const gr_tensor_view *v, int64_t i) {
    return (const unsigned char *)v->data + (size_t)i * gr_dtype_bytes(v->dtype, (size_t)gr_tensor_row_size(v));
}

#endif
