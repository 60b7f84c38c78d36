/* Writing safetensors: one file, or shards with an index.
 *
 * Tensors are put into shards greedily in the order of their declaration, as huggingface_hub's
 * split_state_dict_into_shards does; within a file they stand in the library's order. */
#define _GNU_SOURCE
#include "io/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct tensor {
    char *name;
    gr_dtype dtype;
    gr_shape shape;
    size_t bytes, index; /* index in order of declaration */
    int shard, rank;
} tensor;

struct gr_safetensors_writer {
    const graft_allocator *a;
    char *dir, *stem;
    char **metadata; /* key, value, ...; n_metadata texts */
    size_t n_metadata;
    uint64_t max_shard;
    bool exact;
    tensor *tensors; /* after begin: in writing order */
    size_t n, cap;
    size_t *order;
    gr_map names;
    int n_shards;
    bool begun;
    gr_atomic_file *file;
    size_t at, written; /* tensor being written, bytes of it so far */
    uint64_t total;
};

/* The library's order of dtypes; tensors stand in descending order of it. */
static int dtype_rank(gr_dtype dtype) {
    static const gr_dtype order[] = {GR_BOOL, GR_U8,  GR_I8,  GR_I16, GR_U16, GR_F16, GR_BF16,
                                     GR_I32,  GR_U32, GR_F32, GR_F64, GR_I64, GR_U64};
    for (size_t i = 0; i < GR_COUNT(order); i++)
        if (order[i] == dtype) return (int)i;
    return -1;
}

static void writer_free(gr_safetensors_writer *w) {
    gr_atomic_abort(w->file);
    for (size_t i = 0; i < w->n; i++) gr_free(w->a, w->tensors[i].name);
    for (size_t i = 0; i < w->n_metadata; i++) gr_free(w->a, w->metadata[i]);
    gr_free(w->a, w->metadata);
    gr_free(w->a, w->tensors);
    gr_free(w->a, w->order);
    gr_free(w->a, w->dir);
    gr_free(w->a, w->stem);
    gr_map_free(&w->names);
    gr_free(w->a, w);
}

static graft_status copy_metadata(gr_safetensors_writer *w, const char *const *pairs, graft_error *err) {
    static const char *const standard[] = {"format", "pt", NULL};
    if (!pairs) pairs = standard;
    size_t n = 0;
    while (pairs[n]) n++;
    if (n % 2) return gr_fail(err, GRAFT_ERR_ARGUMENT, "safetensors metadata: expected pairs of key and value");
    if (!(w->metadata = gr_calloc(w->a, n + 1, sizeof *w->metadata))) return gr_fail_memory(err);
    for (; w->n_metadata < n; w->n_metadata++)
        if (!(w->metadata[w->n_metadata] = gr_strdup(w->a, pairs[w->n_metadata]))) return gr_fail_memory(err);
    return GRAFT_OK;
}

graft_status gr_safetensors_writer_new(const graft_allocator *a, const char *dir, const gr_safetensors_options *options,
                                       gr_safetensors_writer **out, graft_error *err) {
    gr_safetensors_options given = options ? *options : (gr_safetensors_options){0};
    gr_safetensors_writer *w = gr_calloc(a, 1, sizeof *w);
    if (!w) return gr_fail_memory(err);
    w->a = a;
    w->max_shard = given.exact ? 0 : given.max_shard_bytes;
    w->exact = given.exact;
    gr_map_init(&w->names, a);
    w->dir = gr_strdup(a, dir);
    w->stem = gr_strdup(a, given.stem ? given.stem : "model");
    graft_status st = w->dir && w->stem ? copy_metadata(w, given.metadata, err) : gr_fail_memory(err);
    if (st != GRAFT_OK) {
        writer_free(w);
        return st;
    }
    *out = w;
    return GRAFT_OK;
}

graft_status gr_safetensors_declare(gr_safetensors_writer *w, const char *name, gr_dtype dtype, const gr_shape *shape,
                                    graft_error *err) {
    tensor t = {.dtype = dtype, .shape = *shape, .index = w->n, .rank = dtype_rank(dtype)};
    if (w->begun)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: tensor %s is declared after writing began", w->dir, name);
    if (t.rank < 0)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor %s: safetensors cannot hold %s", w->dir, name,
                       gr_dtype_name(dtype));
    if (gr_map_get_text(&w->names, name, NULL) || strcmp(name, "__metadata__") == 0 ||
        !gr_utf8_valid(name, strlen(name)))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: tensor %s: expected a new name in UTF-8", w->dir, name);
    graft_status st = gr_tensor_bytes(dtype, shape, &t.bytes, err);
    if (st != GRAFT_OK) return gr_error_prefix(err, st, "%s: tensor %s", w->dir, name);
    GR_TRY(gr_grow(w->a, (void **)&w->tensors, &w->cap, w->n + 1, sizeof t, err));
    if (!(t.name = gr_strdup(w->a, name))) return gr_fail_memory(err);
    if ((st = gr_map_set(&w->names, name, strlen(name), (int64_t)w->n, err)) != GRAFT_OK) {
        gr_free(w->a, t.name);
        return st;
    }
    w->tensors[w->n++] = t;
    return GRAFT_OK;
}

static int by_file_order(const void *a, const void *b) {
    const tensor *x = a, *y = b;
    if (x->shard != y->shard) return x->shard - y->shard;
    return x->rank != y->rank ? y->rank - x->rank : strcmp(x->name, y->name);
}

static void assign_shards(gr_safetensors_writer *w) {
    uint64_t in_shard = 0;
    w->n_shards = 1;
    for (size_t i = 0; i < w->n; i++) {
        tensor *t = &w->tensors[i];
        w->total += t->bytes;
        if (w->max_shard && in_shard && (in_shard > w->max_shard || t->bytes > w->max_shard - in_shard)) {
            w->n_shards++;
            in_shard = 0;
        }
        in_shard += t->bytes;
        t->shard = w->n_shards - 1;
    }
}

/* File name of a shard, "STEM.safetensors" when there is one only. */
static void shard_name(const gr_safetensors_writer *w, int shard, char *out, size_t size) {
    if (w->n_shards == 1)
        snprintf(out, size, w->exact ? "%s" : "%s.safetensors", w->stem);
    else
        snprintf(out, size, "%s-%05d-of-%05d.safetensors", w->stem, shard + 1, w->n_shards);
}

static void add_tensor(gr_buf *b, const tensor *t, uint64_t offset) {
    gr_json_add_text(b, t->name, strlen(t->name));
    gr_buf_add_format(b, ":{\"dtype\":\"%s\",\"shape\":[", gr_dtype_get(t->dtype)->safetensors);
    for (int i = 0; i < t->shape.n; i++) gr_buf_add_format(b, "%s%lld", i ? "," : "", (long long)t->shape.d[i]);
    gr_buf_add_format(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)offset,
                      (unsigned long long)(offset + t->bytes));
}

static graft_status write_header(gr_safetensors_writer *w, int shard, graft_error *err) {
    gr_buf b;
    gr_buf_init(&b, w->a);
    const char *comma = "";
    gr_buf_add(&b, "\0\0\0\0\0\0\0\0{", 9);
    if (w->n_metadata) {
        gr_buf_add_text(&b, "\"__metadata__\":{");
        for (size_t i = 0; i < w->n_metadata; i += 2) {
            if (i) gr_buf_add_char(&b, ',');
            gr_json_add_text(&b, w->metadata[i], strlen(w->metadata[i]));
            gr_buf_add_char(&b, ':');
            gr_json_add_text(&b, w->metadata[i + 1], strlen(w->metadata[i + 1]));
        }
        gr_buf_add_char(&b, '}');
        comma = ",";
    }
    uint64_t offset = 0;
    for (size_t i = 0; i < w->n; i++) {
        if (w->tensors[i].shard != shard) continue;
        gr_buf_add_text(&b, comma);
        add_tensor(&b, &w->tensors[i], offset);
        offset += w->tensors[i].bytes;
        comma = ",";
    }
    gr_buf_add_char(&b, '}');
    while (b.len % 8 && gr_buf_status(&b, NULL) == GRAFT_OK) gr_buf_add_char(&b, ' ');
    graft_status st = gr_buf_status(&b, err);
    if (st == GRAFT_OK) {
        uint64_t n = b.len - 8;
        for (int i = 0; i < 8; i++) b.data[i] = (char)(n >> 8 * i);
        st = gr_atomic_write(w->file, b.data, b.len, err);
    }
    gr_buf_free(&b);
    return st;
}

static graft_status open_shard(gr_safetensors_writer *w, int shard, graft_error *err) {
    char name[512];
    shard_name(w, shard, name, sizeof name);
    char *path = gr_path_join(w->a, w->dir, name);
    if (!path) return gr_fail_memory(err);
    graft_status st = gr_atomic_begin(w->a, path, &w->file, err);
    gr_free(w->a, path);
    return st == GRAFT_OK ? write_header(w, shard, err) : st;
}

/* Steps over complete tensors; opens the next file where the last one of a file is complete. */
static graft_status advance(gr_safetensors_writer *w, graft_error *err) {
    while (w->at < w->n && w->written == w->tensors[w->at].bytes) {
        int shard = w->tensors[w->at].shard;
        w->written = 0;
        w->at++;
        if (w->at == w->n || w->tensors[w->at].shard == shard) continue;
        gr_atomic_file *done = w->file;
        w->file = NULL;
        GR_TRY(gr_atomic_commit(done, err));
        GR_TRY(open_shard(w, shard + 1, err));
    }
    return GRAFT_OK;
}

graft_status gr_safetensors_writer_begin(gr_safetensors_writer *w, const size_t **order, graft_error *err) {
    if (w->begun) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: writing has begun already", w->dir);
    if (strlen(w->stem) > 400 || strchr(w->stem, '/'))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected a plain file name, found %.100s", w->dir, w->stem);
    if (!(w->order = gr_calloc(w->a, w->n, sizeof *w->order))) return gr_fail_memory(err);
    assign_shards(w);
    if (w->n) qsort(w->tensors, w->n, sizeof *w->tensors, by_file_order);
    for (size_t i = 0; i < w->n; i++) w->order[i] = w->tensors[i].index;
    w->begun = true;
    GR_TRY(open_shard(w, 0, err));
    GR_TRY(advance(w, err));
    if (order) *order = w->order;
    return GRAFT_OK;
}

graft_status gr_safetensors_write(gr_safetensors_writer *w, const void *bytes, size_t n, graft_error *err) {
    if (n == 0) return GRAFT_OK;
    if (!w->file || w->at == w->n || n > w->tensors[w->at].bytes - w->written)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: %zu bytes cross the end of tensor %s", w->dir, n,
                       w->at < w->n ? w->tensors[w->at].name : "(none left)");
    GR_TRY(gr_atomic_write(w->file, bytes, n, err));
    w->written += n;
    return advance(w, err);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const tensor *)a)->name, ((const tensor *)b)->name);
}

static graft_status write_index(gr_safetensors_writer *w, const char *path, graft_error *err) {
    gr_buf b;
    gr_buf_init(&b, w->a);
    qsort(w->tensors, w->n, sizeof *w->tensors, by_name);
    gr_buf_add_format(&b, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {",
                      (unsigned long long)w->total);
    for (size_t i = 0; i < w->n; i++) {
        char name[512];
        shard_name(w, w->tensors[i].shard, name, sizeof name);
        gr_buf_add_text(&b, i ? ",\n    " : "\n    ");
        gr_json_add_text(&b, w->tensors[i].name, strlen(w->tensors[i].name));
        gr_buf_add_text(&b, ": ");
        gr_json_add_text(&b, name, strlen(name));
    }
    gr_buf_add_text(&b, "\n  }\n}\n");
    graft_status st = gr_buf_status(&b, err);
    if (st == GRAFT_OK) st = gr_write_file(w->a, path, b.data, b.len, err);
    gr_buf_free(&b);
    return st;
}

static graft_status finish(gr_safetensors_writer *w, graft_error *err) {
    if (!w->begun || w->at != w->n)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: tensor %s was not written to its end", w->dir,
                       w->begun ? w->tensors[w->at].name : "(any)");
    if (w->exact) {
        gr_atomic_file *file = w->file;
        w->file = NULL;
        return gr_atomic_commit(file, err);
    }
    char name[512], index[512];
    snprintf(name, sizeof name, "%s.safetensors", w->stem);
    snprintf(index, sizeof index, "%s.safetensors.index.json", w->stem);
    char *single_path = gr_path_join(w->a, w->dir, name), *index_path = gr_path_join(w->a, w->dir, index);
    graft_status st = single_path && index_path ? GRAFT_OK : gr_fail_memory(err);
    gr_atomic_file *done = w->file;
    if (st == GRAFT_OK) {
        w->file = NULL;
        st = gr_atomic_commit(done, err);
    }
    if (st == GRAFT_OK && w->n_shards > 1) st = write_index(w, index_path, err);
    if (st == GRAFT_OK) unlink(w->n_shards > 1 ? single_path : index_path);
    gr_free(w->a, single_path);
    gr_free(w->a, index_path);
    return st;
}

graft_status gr_safetensors_writer_commit(gr_safetensors_writer *w, graft_error *err) {
    graft_status st = finish(w, err);
    writer_free(w);
    return st;
}

void gr_safetensors_writer_abort(gr_safetensors_writer *w) {
    if (w) writer_free(w);
}
