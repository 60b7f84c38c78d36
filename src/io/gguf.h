/* GGUF versions 2 and 3, little endian: reading (mapped, split files too) and writing.
 *
 * Layout: "GGUF", u32 version, u64 tensors, u64 pairs; the pairs (string key, u32 type, value); the tensor infos
 * (string name, u32 dimensions, u64 each with the innermost first, u32 type, u64 offset); padding to
 * general.alignment (32 unless stated); the data, each tensor at an aligned offset. A string is u64 length and bytes;
 * an array is u32 element type, u64 count and elements. Reference: the format description in ggml's docs/gguf.md and
 * gguf-py 0.19. Refused by name: version 1, big endian, nested arrays, duplicate keys or names, tensor types outside
 * tensor/dtype.def, dimensions over GR_MAX_DIMS, overlapping or cut tensors. */
#ifndef GR_IO_GGUF_H
#define GR_IO_GGUF_H

#include "io/tensor_list.h"

typedef enum gr_gguf_type {
    GR_GGUF_U8,
    GR_GGUF_I8,
    GR_GGUF_U16,
    GR_GGUF_I16,
    GR_GGUF_U32,
    GR_GGUF_I32,
    GR_GGUF_F32,
    GR_GGUF_BOOL,
    GR_GGUF_STRING,
    GR_GGUF_ARRAY,
    GR_GGUF_U64,
    GR_GGUF_I64,
    GR_GGUF_F64,
    GR_GGUF_TYPE_COUNT
} gr_gguf_type;

/* Bytes in the mapped file: not NUL-terminated, not checked to be UTF-8. */
typedef struct gr_text {
    const char *text;
    size_t len;
} gr_text;

/* An array inside the mapping. Strings are read in order with gr_gguf_next_string; others by index. */
typedef struct gr_gguf_array {
    gr_gguf_type type;
    uint64_t n;
    const unsigned char *data; /* any alignment */
} gr_gguf_array;

typedef struct gr_gguf_pair {
    const char *key; /* NUL-terminated */
    gr_gguf_type type;
    const unsigned char *data; /* scalars and strings: where the value lies */
    gr_gguf_array array;       /* type ARRAY only */
} gr_gguf_pair;

typedef struct gr_gguf gr_gguf;

/* `path` of a single file or of any part of a split one (NAME-00001-of-00003.gguf): all parts are opened. */
graft_status gr_gguf_open(const graft_allocator *a, const char *path, gr_gguf **out, graft_error *err);
/* Same for a file image in memory that outlives the result; `name` stands in errors. */
graft_status gr_gguf_parse(const graft_allocator *a, const char *name, const void *data, size_t size, gr_gguf **out,
                           graft_error *err);
void gr_gguf_close(gr_gguf *g);

const char *gr_gguf_path(const gr_gguf *g);
const gr_tensor_list *gr_gguf_tensors(const gr_gguf *g);

size_t gr_gguf_n_pairs(const gr_gguf *g);
const gr_gguf_pair *gr_gguf_pair_at(const gr_gguf *g, size_t i);     /* in the file's order */
const gr_gguf_pair *gr_gguf_find(const gr_gguf *g, const char *key); /* NULL when absent */

/* Typed access. GRAFT_ERR_NOT_FOUND when the key is absent, GRAFT_ERR_FORMAT when its value has another kind or does
 * not fit; out is untouched then. Integers of any width are accepted for int, f32 and f64 for float. */
graft_status gr_gguf_get_int(const gr_gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                             graft_error *err);
graft_status gr_gguf_get_float(const gr_gguf *g, const char *key, double *out, graft_error *err);
graft_status gr_gguf_get_bool(const gr_gguf *g, const char *key, bool *out, graft_error *err);
graft_status gr_gguf_get_text(const gr_gguf *g, const char *key, gr_text *out, graft_error *err);
/* `type` GR_GGUF_TYPE_COUNT accepts any element type. */
graft_status gr_gguf_get_array(const gr_gguf *g, const char *key, gr_gguf_type type, gr_gguf_array *out,
                               graft_error *err);

/* Elements of integer, float and bool arrays, converted; i < n. */
int64_t gr_gguf_array_int(const gr_gguf_array *array, uint64_t i);
double gr_gguf_array_float(const gr_gguf_array *array, uint64_t i);
/* Walks a string array (validated on opening, so it cannot fail): start with offset 0, call n times. */
gr_text gr_gguf_next_string(const gr_gguf_array *array, size_t *offset);

/* Name of a value type ("u32", "array"), "?" for an unknown number. */
const char *gr_gguf_type_name(uint32_t type);

/* Writing version 3. Pairs and tensors are declared in the order in which they are to stand, then begin, then each
 * tensor's bytes in that order. The file appears on commit. */
typedef struct gr_gguf_writer gr_gguf_writer;
graft_status gr_gguf_writer_new(const graft_allocator *a, const char *path, gr_gguf_writer **out, graft_error *err);
graft_status gr_gguf_add_u32(gr_gguf_writer *w, const char *key, uint32_t value, graft_error *err);
graft_status gr_gguf_add_u64(gr_gguf_writer *w, const char *key, uint64_t value, graft_error *err);
graft_status gr_gguf_add_i32(gr_gguf_writer *w, const char *key, int32_t value, graft_error *err);
graft_status gr_gguf_add_f32(gr_gguf_writer *w, const char *key, float value, graft_error *err);
graft_status gr_gguf_add_bool(gr_gguf_writer *w, const char *key, bool value, graft_error *err);
graft_status gr_gguf_add_text(gr_gguf_writer *w, const char *key, const char *text, size_t len, graft_error *err);
/* `type` is a fixed-size element type, `values` n of them in memory order. */
graft_status gr_gguf_add_array(gr_gguf_writer *w, const char *key, gr_gguf_type type, const void *values, uint64_t n,
                               graft_error *err);
graft_status gr_gguf_add_texts(gr_gguf_writer *w, const char *key, const gr_text *texts, uint64_t n, graft_error *err);
/* Copies a pair of another file as it stands. */
graft_status gr_gguf_add_pair(gr_gguf_writer *w, const gr_gguf_pair *pair, graft_error *err);
graft_status gr_gguf_declare(gr_gguf_writer *w, const char *name, gr_dtype dtype, const gr_shape *shape,
                             graft_error *err);
graft_status gr_gguf_writer_begin(gr_gguf_writer *w, graft_error *err);
graft_status gr_gguf_write(gr_gguf_writer *w, const void *bytes, size_t n, graft_error *err);
graft_status gr_gguf_writer_commit(gr_gguf_writer *w, graft_error *err); /* frees w either way */
void gr_gguf_writer_abort(gr_gguf_writer *w);                            /* NULL allowed */

#endif
