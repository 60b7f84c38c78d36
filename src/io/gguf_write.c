/* Writing GGUF version 3, little endian. The head is kept in memory (a vocabulary is a few megabytes), the data is
 * streamed. */
#include "io/gguf.h"

enum { ALIGNMENT = 32 };

typedef struct tensor {
    uint64_t offset;
    size_t bytes;
} tensor;

struct gr_gguf_writer {
    const graft_allocator *a;
    gr_atomic_file *file;
    gr_buf pairs, infos;
    uint64_t n_pairs;
    gr_map keys, names;
    tensor *tensors;
    size_t n, cap;
    uint64_t end; /* offset after the last tensor */
    bool begun;
    size_t at, written; /* tensor being written, bytes of it so far */
};

static void writer_free(gr_gguf_writer *w) {
    gr_atomic_abort(w->file);
    gr_buf_free(&w->pairs);
    gr_buf_free(&w->infos);
    gr_map_free(&w->keys);
    gr_map_free(&w->names);
    gr_free(w->a, w->tensors);
    gr_free(w->a, w);
}

graft_status gr_gguf_writer_new(const graft_allocator *a, const char *path, gr_gguf_writer **out, graft_error *err) {
    gr_gguf_writer *w = gr_calloc(a, 1, sizeof *w);
    if (!w) return gr_fail_memory(err);
    w->a = a;
    gr_buf_init(&w->pairs, a);
    gr_buf_init(&w->infos, a);
    gr_map_init(&w->keys, a);
    gr_map_init(&w->names, a);
    graft_status st = gr_atomic_begin(a, path, &w->file, err);
    if (st != GRAFT_OK) {
        writer_free(w);
        return st;
    }
    *out = w;
    return GRAFT_OK;
}

static void add_le(gr_buf *b, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) gr_buf_add_char(b, (char)(value >> 8 * i));
}

static void add_string(gr_buf *b, const char *text, size_t len) {
    add_le(b, len, 8);
    gr_buf_add(b, text, len);
}

/* Starts a pair: key and type. The caller appends the value and checks the buffer. */
static graft_status add_key(gr_gguf_writer *w, const char *key, gr_gguf_type type, graft_error *err) {
    if (w->begun || gr_map_get_text(&w->keys, key, NULL))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "GGUF key %s: %s", key,
                       w->begun ? "added after writing began" : "added twice");
    GR_TRY(gr_map_set(&w->keys, key, strlen(key), 0, err));
    add_string(&w->pairs, key, strlen(key));
    add_le(&w->pairs, type, 4);
    w->n_pairs++;
    return GRAFT_OK;
}

static graft_status add_scalar(gr_gguf_writer *w, const char *key, gr_gguf_type type, uint64_t bits, int bytes,
                               graft_error *err) {
    GR_TRY(add_key(w, key, type, err));
    add_le(&w->pairs, bits, bytes);
    return gr_buf_status(&w->pairs, err);
}

graft_status gr_gguf_add_u32(gr_gguf_writer *w, const char *key, uint32_t value, graft_error *err) {
    return add_scalar(w, key, GR_GGUF_U32, value, 4, err);
}

graft_status gr_gguf_add_u64(gr_gguf_writer *w, const char *key, uint64_t value, graft_error *err) {
    return add_scalar(w, key, GR_GGUF_U64, value, 8, err);
}

graft_status gr_gguf_add_i32(gr_gguf_writer *w, const char *key, int32_t value, graft_error *err) {
    return add_scalar(w, key, GR_GGUF_I32, (uint32_t)value, 4, err);
}

graft_status gr_gguf_add_f32(gr_gguf_writer *w, const char *key, float value, graft_error *err) {
    return add_scalar(w, key, GR_GGUF_F32, gr_float_bits(value), 4, err);
}

graft_status gr_gguf_add_bool(gr_gguf_writer *w, const char *key, bool value, graft_error *err) {
    return add_scalar(w, key, GR_GGUF_BOOL, value, 1, err);
}

graft_status gr_gguf_add_text(gr_gguf_writer *w, const char *key, const char *text, size_t len, graft_error *err) {
    GR_TRY(add_key(w, key, GR_GGUF_STRING, err));
    add_string(&w->pairs, text, len);
    return gr_buf_status(&w->pairs, err);
}

static int type_size(gr_gguf_type type) {
    static const int sizes[GR_GGUF_TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return sizes[type];
}

graft_status gr_gguf_add_array(gr_gguf_writer *w, const char *key, gr_gguf_type type, const void *values, uint64_t n,
                               graft_error *err) {
    size_t bytes;
    if (type_size(type) == 0 || __builtin_mul_overflow((size_t)n, (size_t)type_size(type), &bytes))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "GGUF key %s: expected an array of fixed-size elements", key);
    GR_TRY(add_key(w, key, GR_GGUF_ARRAY, err));
    add_le(&w->pairs, type, 4);
    add_le(&w->pairs, n, 8);
    gr_buf_add(&w->pairs, values, bytes);
    return gr_buf_status(&w->pairs, err);
}

graft_status gr_gguf_add_texts(gr_gguf_writer *w, const char *key, const gr_text *texts, uint64_t n, graft_error *err) {
    GR_TRY(add_key(w, key, GR_GGUF_ARRAY, err));
    add_le(&w->pairs, GR_GGUF_STRING, 4);
    add_le(&w->pairs, n, 8);
    for (uint64_t i = 0; i < n; i++) add_string(&w->pairs, texts[i].text, texts[i].len);
    return gr_buf_status(&w->pairs, err);
}

graft_status gr_gguf_add_pair(gr_gguf_writer *w, const gr_gguf_pair *pair, graft_error *err) {
    if (pair->type == GR_GGUF_ARRAY && pair->array.type != GR_GGUF_STRING)
        return gr_gguf_add_array(w, pair->key, pair->array.type, pair->array.data, pair->array.n, err);
    GR_TRY(add_key(w, pair->key, pair->type, err));
    if (pair->type == GR_GGUF_ARRAY) {
        size_t bytes = 0;
        for (uint64_t i = 0; i < pair->array.n; i++) gr_gguf_next_string(&pair->array, &bytes);
        add_le(&w->pairs, GR_GGUF_STRING, 4);
        add_le(&w->pairs, pair->array.n, 8);
        gr_buf_add(&w->pairs, pair->array.data, bytes);
    } else if (pair->type == GR_GGUF_STRING) {
        size_t bytes = 0;
        gr_gguf_array one = {GR_GGUF_STRING, 1, pair->data};
        gr_gguf_next_string(&one, &bytes);
        gr_buf_add(&w->pairs, pair->data, bytes);
    } else {
        gr_buf_add(&w->pairs, pair->data, (size_t)type_size(pair->type));
    }
    return gr_buf_status(&w->pairs, err);
}

graft_status gr_gguf_declare(gr_gguf_writer *w, const char *name, gr_dtype dtype, const gr_shape *shape,
                             graft_error *err) {
    const gr_dtype_info *d = gr_dtype_get(dtype);
    tensor t = {.offset = (w->end + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT};
    if (d->gguf < 0) return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "GGUF tensor %s: cannot hold %s", name, d->name);
    if (w->begun || gr_map_get_text(&w->names, name, NULL))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "GGUF tensor %s: declared %s", name,
                       w->begun ? "after writing began" : "twice");
    graft_status st = gr_tensor_bytes(dtype, shape, &t.bytes, err);
    if (st != GRAFT_OK) return gr_error_prefix(err, st, "GGUF tensor %s", name);
    GR_TRY(gr_grow(w->a, (void **)&w->tensors, &w->cap, w->n + 1, sizeof t, err));
    GR_TRY(gr_map_set(&w->names, name, strlen(name), 0, err));
    add_string(&w->infos, name, strlen(name));
    add_le(&w->infos, (uint64_t)shape->n, 4);
    for (int i = shape->n - 1; i >= 0; i--) add_le(&w->infos, (uint64_t)shape->d[i], 8);
    add_le(&w->infos, (uint64_t)d->gguf, 4);
    add_le(&w->infos, t.offset, 8);
    GR_TRY(gr_buf_status(&w->infos, err));
    w->tensors[w->n++] = t;
    w->end = t.offset + t.bytes;
    return GRAFT_OK;
}

static graft_status pad(gr_gguf_writer *w, uint64_t at, graft_error *err) {
    static const char zeros[ALIGNMENT];
    return gr_atomic_write(w->file, zeros, (size_t)((ALIGNMENT - at % ALIGNMENT) % ALIGNMENT), err);
}

/* Steps over complete tensors, padding each to the alignment (the last one too, as gguf-py does). */
static graft_status advance(gr_gguf_writer *w, graft_error *err) {
    while (w->at < w->n && w->written == w->tensors[w->at].bytes) {
        GR_TRY(pad(w, w->written, err));
        w->written = 0;
        w->at++;
    }
    return GRAFT_OK;
}

graft_status gr_gguf_writer_begin(gr_gguf_writer *w, graft_error *err) {
    gr_buf head;
    gr_buf_init(&head, w->a);
    gr_buf_add_text(&head, "GGUF");
    add_le(&head, 3, 4);
    add_le(&head, w->n, 8);
    add_le(&head, w->n_pairs, 8);
    gr_buf_add(&head, w->pairs.data, w->pairs.len);
    gr_buf_add(&head, w->infos.data, w->infos.len);
    graft_status st = gr_buf_status(&head, err);
    if (st == GRAFT_OK) st = gr_atomic_write(w->file, head.data, head.len, err);
    if (st == GRAFT_OK) st = pad(w, head.len, err);
    gr_buf_free(&head);
    if (st != GRAFT_OK) return st;
    w->begun = true;
    return advance(w, err);
}

graft_status gr_gguf_write(gr_gguf_writer *w, const void *bytes, size_t n, graft_error *err) {
    if (n == 0) return GRAFT_OK;
    if (!w->begun || w->at == w->n || n > w->tensors[w->at].bytes - w->written)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "GGUF tensor %s: %zu bytes cross its end",
                       w->at < w->n ? w->names.entries[w->at].key : "(none left)", n);
    GR_TRY(gr_atomic_write(w->file, bytes, n, err));
    w->written += n;
    return advance(w, err);
}

graft_status gr_gguf_writer_commit(gr_gguf_writer *w, graft_error *err) {
    graft_status st = GRAFT_OK;
    if (!w->begun || w->at != w->n) {
        st = gr_fail(err, GRAFT_ERR_ARGUMENT, "GGUF tensor %s was not written to its end",
                     w->begun ? w->names.entries[w->at].key : "(any)");
    } else {
        gr_atomic_file *done = w->file;
        w->file = NULL;
        st = gr_atomic_commit(done, err);
    }
    writer_free(w);
    return st;
}

void gr_gguf_writer_abort(gr_gguf_writer *w) {
    if (w) writer_free(w);
}
