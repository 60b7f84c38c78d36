/* Reading safetensors. The header is walked with the pull reader, never held as a tree: a hostile header of 100 MB
 * then costs no more memory than its tensors. */
#include "io/safetensors.h"

#include <stdlib.h>

#include "io/paths.h"

enum { MAX_HEADER = 100000000, MAX_INDEX = 256 << 20 };

typedef struct shard {
    char *path;
    gr_mapping map;
} shard;

struct gr_safetensors {
    const graft_allocator *a;
    gr_arena arena; /* names, paths, metadata */
    shard *shards;
    size_t n_shards, cap_shards;
    gr_named_tensor *items;
    size_t cap_items;
    gr_tensor_list list;
    const char **metadata; /* key, value, ... of the first file */
    size_t n_metadata, cap_metadata;
};

/* One header entry before its offsets are checked against the others. */
typedef struct range {
    uint64_t begin, end;
    size_t item;
} range;

typedef struct parse {
    gr_safetensors *f;
    const char *path;
    gr_json_reader r;
    const unsigned char *data; /* after the header */
    uint64_t data_size;
    range *ranges;
    size_t n, cap;
    bool first_file;
} parse;

static graft_status take_text(gr_safetensors *f, const char *path, const gr_json_text *text, const char **out,
                              graft_error *err) {
    char *copy = gr_arena_alloc(&f->arena, text->len + 1);
    if (!copy) return gr_fail_memory(err);
    size_t n = gr_json_unescape(text, copy);
    if (memchr(copy, '\0', n)) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: a name or value holds a NUL character", path);
    *out = copy;
    return GRAFT_OK;
}

static graft_status read_metadata(parse *p, graft_error *err) {
    gr_safetensors *f = p->f;
    GR_TRY(gr_json_open(&p->r, GR_JSON_OBJECT, err));
    for (bool more;;) {
        gr_json_text key, value;
        GR_TRY(gr_json_next(&p->r, &more, err));
        if (!more) return GRAFT_OK;
        GR_TRY(gr_json_read_key(&p->r, &key, err));
        GR_TRY(gr_json_read_text(&p->r, &value, err));
        if (!p->first_file) continue;
        GR_TRY(gr_grow(f->a, (void **)&f->metadata, &f->cap_metadata, f->n_metadata + 2, sizeof *f->metadata, err));
        GR_TRY(take_text(f, p->path, &key, &f->metadata[f->n_metadata], err));
        GR_TRY(take_text(f, p->path, &value, &f->metadata[f->n_metadata + 1], err));
        f->n_metadata += 2;
    }
}

/* A non-negative integer array of at most `max` entries. */
static graft_status read_sizes(parse *p, const char *name, const char *key, int max, int64_t *out, int *n,
                               graft_error *err) {
    int count = 0;
    GR_TRY(gr_json_open(&p->r, GR_JSON_ARRAY, err));
    for (bool more;;) {
        gr_json_number number;
        GR_TRY(gr_json_next(&p->r, &more, err));
        if (!more) break;
        GR_TRY(gr_json_read_number(&p->r, &number, err));
        if (count == max)
            return gr_fail(err, GRAFT_ERR_LIMIT, "%s: tensor %s: %s: expected at most %d numbers", p->path, name, key,
                           max);
        if (!number.is_int || number.i < 0)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensor %s: %s: expected non-negative integers, found %g",
                           p->path, name, key, number.d);
        out[count++] = number.i;
    }
    *n = count;
    return GRAFT_OK;
}

static graft_status read_dtype(parse *p, const char *name, gr_dtype *out, graft_error *err) {
    gr_json_text text;
    GR_TRY(gr_json_read_text(&p->r, &text, err));
    if (gr_dtype_by_safetensors(text.raw, text.len, out)) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor %s: dtype %.*s is not supported", p->path, name,
                   (int)GR_MIN(text.len, (size_t)40), text.raw);
}

/* The value {"dtype", "shape", "data_offsets"} of one tensor. */
static graft_status read_tensor(parse *p, gr_named_tensor *t, range *where, graft_error *err) {
    bool has_dtype = false, has_shape = false, has_offsets = false;
    int64_t offsets[2];
    GR_TRY(gr_json_open(&p->r, GR_JSON_OBJECT, err));
    for (bool more;;) {
        gr_json_text key;
        int n;
        GR_TRY(gr_json_next(&p->r, &more, err));
        if (!more) break;
        GR_TRY(gr_json_read_key(&p->r, &key, err));
        bool *seen = gr_json_text_is(&key, "dtype")          ? &has_dtype
                     : gr_json_text_is(&key, "shape")        ? &has_shape
                     : gr_json_text_is(&key, "data_offsets") ? &has_offsets
                                                             : NULL;
        if (!seen || *seen)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensor %s: %s key %.*s", p->path, t->name,
                           seen ? "duplicate" : "unknown", (int)GR_MIN(key.len, (size_t)40), key.raw);
        *seen = true;
        if (seen == &has_dtype) {
            GR_TRY(read_dtype(p, t->name, &t->view.dtype, err));
        } else if (seen == &has_shape) {
            GR_TRY(read_sizes(p, t->name, "shape", GR_MAX_DIMS, t->view.shape.d, &t->view.shape.n, err));
        } else {
            GR_TRY(read_sizes(p, t->name, "data_offsets", 2, offsets, &n, err));
            if (n != 2)
                return gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensor %s: data_offsets: expected 2 numbers, found %d",
                               p->path, t->name, n);
        }
    }
    if (!has_dtype || !has_shape || !has_offsets)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensor %s: %s is missing", p->path, t->name,
                       !has_dtype   ? "dtype"
                       : !has_shape ? "shape"
                                    : "data_offsets");
    where->begin = (uint64_t)offsets[0];
    where->end = (uint64_t)offsets[1];
    return GRAFT_OK;
}

static graft_status check_tensor(parse *p, gr_named_tensor *t, const range *where, graft_error *err) {
    size_t bytes;
    graft_status st = gr_tensor_bytes(t->view.dtype, &t->view.shape, &bytes, err);
    if (st != GRAFT_OK) return gr_error_prefix(err, st, "%s: tensor %s", p->path, t->name);
    if (where->begin > where->end || where->end > p->data_size)
        return gr_fail(err, GRAFT_ERR_FORMAT,
                       "%s: tensor %s: data_offsets [%llu, %llu]: expected a range within %llu bytes of data", p->path,
                       t->name, (unsigned long long)where->begin, (unsigned long long)where->end,
                       (unsigned long long)p->data_size);
    if (where->end - where->begin != bytes) {
        char text[GR_SHAPE_TEXT];
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensor %s: expected %zu bytes for %s %s, found %llu", p->path,
                       t->name, bytes, gr_dtype_name(t->view.dtype), gr_shape_format(&t->view.shape, text, sizeof text),
                       (unsigned long long)(where->end - where->begin));
    }
    t->view.data = p->data + where->begin;
    t->view.bytes = bytes;
    return GRAFT_OK;
}

static graft_status read_header(parse *p, graft_error *err) {
    gr_safetensors *f = p->f;
    GR_TRY(gr_json_open(&p->r, GR_JSON_OBJECT, err));
    bool has_metadata = false;
    for (bool more;;) {
        gr_json_text key;
        GR_TRY(gr_json_next(&p->r, &more, err));
        if (!more) break;
        GR_TRY(gr_json_read_key(&p->r, &key, err));
        if (gr_json_text_is(&key, "__metadata__")) {
            if (has_metadata) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: duplicate key __metadata__", p->path);
            has_metadata = true;
            GR_TRY(read_metadata(p, err));
            continue;
        }
        GR_TRY(gr_grow(f->a, (void **)&f->items, &f->cap_items, f->list.n + 1, sizeof *f->items, err));
        GR_TRY(gr_grow(f->a, (void **)&p->ranges, &p->cap, p->n + 1, sizeof *p->ranges, err));
        gr_named_tensor t = {.file = p->path};
        range where = {.item = f->list.n};
        GR_TRY(take_text(f, p->path, &key, &t.name, err));
        GR_TRY(read_tensor(p, &t, &where, err));
        GR_TRY(check_tensor(p, &t, &where, err));
        f->items[f->list.n++] = t;
        p->ranges[p->n++] = where;
    }
    return gr_json_end(&p->r, err);
}

static int by_offset(const void *a, const void *b) {
    const range *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* Tensors must tile the data: each begins where the one before ended, and the last ends with the file. */
static graft_status check_tiling(parse *p, graft_error *err) {
    uint64_t at = 0;
    if (p->n) qsort(p->ranges, p->n, sizeof *p->ranges, by_offset);
    for (size_t i = 0; i < p->n; at = p->ranges[i++].end)
        if (p->ranges[i].begin != at)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensor %s: expected its data at offset %llu, found %llu (%s)",
                           p->path, p->f->items[p->ranges[i].item].name, (unsigned long long)at,
                           (unsigned long long)p->ranges[i].begin, p->ranges[i].begin < at ? "overlap" : "hole");
    if (at != p->data_size)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected %llu bytes of data, found %llu", p->path,
                       (unsigned long long)at, (unsigned long long)p->data_size);
    return GRAFT_OK;
}

/* Adds the tensors of one file image. */
static graft_status add_image(gr_safetensors *f, const char *path, const unsigned char *data, size_t size,
                              graft_error *err) {
    if (size < 8)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected a safetensors header of 8 bytes, found %zu", path, size);
    uint64_t header = 0;
    for (int i = 7; i >= 0; i--) header = header << 8 | data[i];
    if (header > MAX_HEADER || header > size - 8)
        return gr_fail(err, GRAFT_ERR_FORMAT,
                       "%s: header size %llu: expected at most %d and at most the %zu bytes that follow", path,
                       (unsigned long long)header, MAX_HEADER, size - 8);
    if (header == 0 || data[8] != '{') return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected '{' at byte 8", path);
    parse p = {.f = f,
               .path = path,
               .data = data + 8 + header,
               .data_size = size - 8 - header,
               .first_file = f->list.n == 0 && f->n_metadata == 0};
    gr_json_init(&p.r, path, (const char *)data + 8, header);
    graft_status st = read_header(&p, err);
    if (st == GRAFT_OK) st = check_tiling(&p, err);
    gr_free(f->a, p.ranges);
    return st;
}

static graft_status add_file(gr_safetensors *f, const char *path, graft_error *err) {
    GR_TRY(gr_grow(f->a, (void **)&f->shards, &f->cap_shards, f->n_shards + 1, sizeof *f->shards, err));
    char *copy = gr_arena_strndup(&f->arena, path, strlen(path));
    if (!copy) return gr_fail_memory(err);
    shard s = {.path = copy};
    GR_TRY(gr_map_file(path, &s.map, err));
    f->shards[f->n_shards++] = s;
    return add_image(f, copy, s.map.data, s.map.size, err);
}

static graft_status finish(gr_safetensors *f, graft_error *err) {
    int64_t twice = gr_tensor_list_sort(f->items, f->list.n);
    f->list.items = f->items;
    if (twice < 0) return GRAFT_OK;
    const gr_named_tensor *t = &f->items[twice];
    return gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensor %s: the name stands twice (also in %s)", t->file, t->name,
                   f->items[twice - 1].file);
}

static graft_status new_file(const graft_allocator *a, gr_safetensors **out, graft_error *err) {
    gr_safetensors *f = gr_calloc(a, 1, sizeof *f);
    if (!f) return gr_fail_memory(err);
    f->a = a;
    gr_arena_init(&f->arena, a, 0);
    *out = f;
    return GRAFT_OK;
}

/* Opens the shards that an index names, then checks that each tensor is where the index says. */
typedef struct index_walk {
    gr_safetensors *f;
    const char *path, *dir;
    gr_map files; /* shard file name -> index in f->shards */
    bool check;
} index_walk;

static graft_status index_entry(index_walk *w, gr_json_reader *r, graft_error *err) {
    gr_json_text key, value;
    GR_TRY(gr_json_read_key(r, &key, err));
    GR_TRY(gr_json_read_text(r, &value, err));
    const char *name, *file;
    int64_t shard_index;
    GR_TRY(take_text(w->f, w->path, &value, &file, err));
    if (w->check) {
        GR_TRY(take_text(w->f, w->path, &key, &name, err));
        const gr_named_tensor *t = gr_tensor_list_find(&w->f->list, name);
        bool known = gr_map_get_text(&w->files, file, &shard_index);
        if (known && t && strcmp(t->file, w->f->shards[shard_index].path) == 0) return GRAFT_OK;
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: tensor %s: expected in %s, found %s", w->path, name, file,
                       t ? t->file : "nowhere");
    }
    if (gr_map_get_text(&w->files, file, &shard_index)) return GRAFT_OK;
    if (!gr_plain_file_name(file))
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: weight_map: expected a file name without directories, found %s",
                       w->path, file);
    char *path = gr_path_join(w->f->a, w->dir, file);
    if (!path) return gr_fail_memory(err);
    graft_status st = gr_map_set(&w->files, file, strlen(file), (int64_t)w->f->n_shards, err);
    if (st == GRAFT_OK) st = add_file(w->f, path, err);
    gr_free(w->f->a, path);
    return st == GRAFT_ERR_NOT_FOUND ? gr_error_prefix(err, st, "%s: weight_map", w->path) : st;
}

static graft_status walk_index(index_walk *w, const char *text, size_t len, graft_error *err) {
    gr_json_reader r;
    bool more, found = false;
    gr_json_init(&r, w->path, text, len);
    GR_TRY(gr_json_open(&r, GR_JSON_OBJECT, err));
    for (;;) {
        gr_json_text key;
        GR_TRY(gr_json_next(&r, &more, err));
        if (!more) break;
        GR_TRY(gr_json_read_key(&r, &key, err));
        if (!gr_json_text_is(&key, "weight_map")) {
            GR_TRY(gr_json_skip(&r, err));
            continue;
        }
        found = true;
        GR_TRY(gr_json_open(&r, GR_JSON_OBJECT, err));
        for (;;) {
            GR_TRY(gr_json_next(&r, &more, err));
            if (!more) break;
            GR_TRY(index_entry(w, &r, err));
        }
    }
    GR_TRY(gr_json_end(&r, err));
    return found ? GRAFT_OK : gr_fail(err, GRAFT_ERR_FORMAT, "%s: weight_map is missing", w->path);
}

static graft_status open_index(gr_safetensors *f, const char *path, graft_error *err) {
    char *text = NULL, *dir = NULL;
    size_t len;
    GR_TRY(gr_read_file(f->a, path, MAX_INDEX, &text, &len, err));
    index_walk w = {.f = f, .path = path};
    gr_map_init(&w.files, f->a);
    graft_status st;
    if (!(dir = gr_path_dir(f->a, path))) {
        st = gr_fail_memory(err);
        goto done;
    }
    w.dir = dir;
    GR_GO(done, walk_index(&w, text, len, err));
    GR_GO(done, finish(f, err));
    w.check = true;
    GR_GO(done, walk_index(&w, text, len, err));
done:
    gr_map_free(&w.files);
    gr_free(f->a, dir);
    gr_free(f->a, text);
    return st;
}

static graft_status open_dir(gr_safetensors *f, const char *dir, graft_error *err) {
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json",
                                        "adapter_model.safetensors"};
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        char *path = gr_path_join(f->a, dir, names[i]);
        if (!path) return gr_fail_memory(err);
        bool there = gr_path_exists(path);
        graft_status st = !there ? GRAFT_OK : i == 1 ? open_index(f, path, err) : add_file(f, path, err);
        gr_free(f->a, path);
        if (there && st == GRAFT_OK && i != 1) st = finish(f, err);
        if (there) return st;
    }
    return gr_fail(
        err, GRAFT_ERR_NOT_FOUND,
        "%s: expected model.safetensors, model.safetensors.index.json or adapter_model.safetensors, found none", dir);
}

graft_status gr_safetensors_open(const graft_allocator *a, const char *path, gr_safetensors **out, graft_error *err) {
    gr_safetensors *f = NULL;
    graft_status st;
    GR_TRY(new_file(a, &f, err));
    if (gr_is_dir(path)) {
        st = open_dir(f, path, err);
    } else if (gr_ends_with(path, ".index.json")) {
        st = open_index(f, path, err);
    } else {
        st = add_file(f, path, err);
        if (st == GRAFT_OK) st = finish(f, err);
    }
    if (st != GRAFT_OK) {
        gr_safetensors_close(f);
        return st;
    }
    *out = f;
    return GRAFT_OK;
}

graft_status gr_safetensors_parse(const graft_allocator *a, const char *name, const void *data, size_t size,
                                  gr_safetensors **out, graft_error *err) {
    gr_safetensors *f = NULL;
    GR_TRY(new_file(a, &f, err));
    char *copy = gr_arena_strndup(&f->arena, name, strlen(name));
    graft_status st = copy ? add_image(f, copy, data, size, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) st = finish(f, err);
    if (st != GRAFT_OK) {
        gr_safetensors_close(f);
        return st;
    }
    *out = f;
    return GRAFT_OK;
}

void gr_safetensors_close(gr_safetensors *f) {
    if (!f) return;
    for (size_t i = 0; i < f->n_shards; i++) gr_unmap_file(&f->shards[i].map);
    gr_free(f->a, f->shards);
    gr_free(f->a, f->items);
    gr_free(f->a, f->metadata);
    gr_arena_free(&f->arena);
    gr_free(f->a, f);
}

const gr_tensor_list *gr_safetensors_tensors(const gr_safetensors *f) { return &f->list; }

const char *gr_safetensors_metadata(const gr_safetensors *f, const char *key) {
    for (size_t i = 0; i < f->n_metadata; i += 2)
        if (strcmp(f->metadata[i], key) == 0) return f->metadata[i + 1];
    return NULL;
}

size_t gr_safetensors_n_metadata(const gr_safetensors *f) { return f->n_metadata / 2; }

void gr_safetensors_metadata_at(const gr_safetensors *f, size_t i, const char **key, const char **value) {
    *key = f->metadata[2 * i];
    *value = f->metadata[2 * i + 1];
}
