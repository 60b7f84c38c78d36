/* Reading GGUF. Everything that a later access relies on (lengths, counts, types, ranges) is checked here once. */
#include "io/gguf.h"

#include <stdio.h>
#include <stdlib.h>

#include "io/paths.h"

typedef struct part {
    char *path;
    gr_mapping map;
} part;

/* The pairs of one file. */
typedef struct pair_table {
    gr_gguf_pair *items;
    size_t n, cap;
    gr_map keys; /* key -> index */
} pair_table;

struct gr_gguf {
    const graft_allocator *a;
    gr_arena arena; /* paths, keys, names */
    part *parts;
    size_t n_parts, cap_parts;
    const char *path;
    pair_table pairs; /* of the first part */
    gr_named_tensor *items;
    size_t cap_items;
    gr_tensor_list list;
};

typedef struct cursor {
    gr_gguf *g;
    const char *path;
    const unsigned char *data;
    size_t size, at;
} cursor;

static const struct {
    const char *name;
    int size;
} types[GR_GGUF_TYPE_COUNT] = {
    {"u8", 1},   {"i8", 1},     {"u16", 2},   {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
    {"bool", 1}, {"string", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8},
};

const char *gr_gguf_type_name(uint32_t type) { return type < GR_GGUF_TYPE_COUNT ? types[type].name : "?"; }

static uint64_t load(const unsigned char *p, int bytes) {
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

static graft_status cut(const cursor *c, const char *what, graft_error *err) {
    return gr_fail(err, GRAFT_ERR_FORMAT, "%s: the file ends at byte %zu inside %s", c->path, c->size, what);
}

static graft_status take(cursor *c, int bytes, const char *what, uint64_t *out, graft_error *err) {
    if (c->size - c->at < (size_t)bytes) return cut(c, what, err);
    *out = load(c->data + c->at, bytes);
    c->at += (size_t)bytes;
    return GRAFT_OK;
}

/* A string as bytes in the file. */
static graft_status take_text(cursor *c, const char *what, gr_text *out, graft_error *err) {
    uint64_t n;
    GR_TRY(take(c, 8, what, &n, err));
    if (n > c->size - c->at)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: %s at byte %zu: expected a string of at most %zu bytes, found %llu",
                       c->path, what, c->at, c->size - c->at, (unsigned long long)n);
    *out = (gr_text){(const char *)c->data + c->at, (size_t)n};
    c->at += (size_t)n;
    return GRAFT_OK;
}

/* A string as a NUL-terminated copy: keys and tensor names. */
static graft_status take_name(cursor *c, const char *what, const char **out, graft_error *err) {
    gr_text text;
    GR_TRY(take_text(c, what, &text, err));
    if (text.len == 0 || text.len > 65535 || memchr(text.text, '\0', text.len) || !gr_utf8_valid(text.text, text.len))
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: %s before byte %zu: expected 1 to 65535 bytes of UTF-8 without NUL",
                       c->path, what, c->at);
    char *copy = gr_arena_strndup(&c->g->arena, text.text, text.len);
    if (!copy) return gr_fail_memory(err);
    *out = copy;
    return GRAFT_OK;
}

static graft_status read_array(cursor *c, const char *key, gr_gguf_array *out, graft_error *err) {
    uint64_t type, n;
    GR_TRY(take(c, 4, key, &type, err));
    GR_TRY(take(c, 8, key, &n, err));
    if (type >= GR_GGUF_TYPE_COUNT || type == GR_GGUF_ARRAY)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: key %s: arrays of type %llu (%s) are not supported", c->path,
                       key, (unsigned long long)type, gr_gguf_type_name((uint32_t)type));
    gr_gguf_array array = {(gr_gguf_type)type, n, c->data + c->at};
    size_t left = c->size - c->at, each = type == GR_GGUF_STRING ? 8 : (size_t)types[type].size;
    if (n > left / each)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: key %s: array of %llu x %s does not fit the %zu bytes left", c->path,
                       key, (unsigned long long)n, types[type].name, left);
    if (type == GR_GGUF_STRING) {
        gr_text text;
        for (uint64_t i = 0; i < n; i++) GR_TRY(take_text(c, key, &text, err));
    } else {
        c->at += (size_t)n * each;
    }
    *out = array;
    return GRAFT_OK;
}

static graft_status read_pair(cursor *c, pair_table *pairs, graft_error *err) {
    gr_gguf_pair pair = {0};
    uint64_t type;
    gr_text text;
    GR_TRY(take_name(c, "a key", &pair.key, err));
    GR_TRY(take(c, 4, pair.key, &type, err));
    if (type >= GR_GGUF_TYPE_COUNT)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: key %s: unknown value type %llu", c->path, pair.key,
                       (unsigned long long)type);
    pair.type = (gr_gguf_type)type;
    pair.data = c->data + c->at;
    if (type == GR_GGUF_ARRAY) {
        GR_TRY(read_array(c, pair.key, &pair.array, err));
    } else if (type == GR_GGUF_STRING) {
        GR_TRY(take_text(c, pair.key, &text, err));
    } else {
        if (c->size - c->at < (size_t)types[type].size) return cut(c, pair.key, err);
        c->at += (size_t)types[type].size;
    }
    if (gr_map_get_text(&pairs->keys, pair.key, NULL))
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: key %s stands twice", c->path, pair.key);
    GR_TRY(gr_grow(c->g->a, (void **)&pairs->items, &pairs->cap, pairs->n + 1, sizeof pair, err));
    GR_TRY(gr_map_set(&pairs->keys, pair.key, strlen(pair.key), (int64_t)pairs->n, err));
    pairs->items[pairs->n++] = pair;
    return GRAFT_OK;
}

/* Reads one tensor info; its data pointer holds the offset until the data's start is known. */
static graft_status read_info(cursor *c, gr_named_tensor *t, uint64_t *offset, graft_error *err) {
    uint64_t n, type, dim;
    GR_TRY(take_name(c, "a tensor name", &t->name, err));
    GR_TRY(take(c, 4, t->name, &n, err));
    if (n > GR_MAX_DIMS)
        return gr_fail(err, GRAFT_ERR_LIMIT, "%s: tensor %s: expected at most %d dimensions, found %llu", c->path,
                       t->name, GR_MAX_DIMS, (unsigned long long)n);
    t->view.shape.n = (int)n;
    for (int i = (int)n - 1; i >= 0; i--) { /* the file has the innermost first */
        GR_TRY(take(c, 8, t->name, &dim, err));
        if (dim > INT64_MAX)
            return gr_fail(err, GRAFT_ERR_LIMIT, "%s: tensor %s: dimension %llu is too large", c->path, t->name,
                           (unsigned long long)dim);
        t->view.shape.d[i] = (int64_t)dim;
    }
    GR_TRY(take(c, 4, t->name, &type, err));
    GR_TRY(take(c, 8, t->name, offset, err));
    if (!gr_dtype_by_gguf((uint32_t)type, &t->view.dtype))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor %s: GGUF tensor type %llu is not supported", c->path,
                       t->name, (unsigned long long)type);
    graft_status st = gr_tensor_bytes(t->view.dtype, &t->view.shape, &t->view.bytes, err);
    return st == GRAFT_OK ? st : gr_error_prefix(err, st, "%s: tensor %s", c->path, t->name);
}

static int by_data(const void *a, const void *b) {
    const gr_named_tensor *x = a, *y = b;
    if (x->view.data != y->view.data) return (uintptr_t)x->view.data < (uintptr_t)y->view.data ? -1 : 1;
    return x->view.bytes < y->view.bytes ? -1 : x->view.bytes > y->view.bytes;
}

static graft_status place_tensors(cursor *c, const uint64_t *offsets, gr_named_tensor *items, size_t n,
                                  uint64_t alignment, graft_error *err) {
    size_t start = c->at, padding = (size_t)((alignment - start % alignment) % alignment);
    size_t room = c->size - start > padding ? c->size - start - padding : 0;
    for (size_t i = 0; i < n; i++) {
        gr_named_tensor *t = &items[i];
        if (offsets[i] % alignment)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensor %s: expected an offset aligned to %llu, found %llu",
                           c->path, t->name, (unsigned long long)alignment, (unsigned long long)offsets[i]);
        if (offsets[i] > room || t->view.bytes > room - offsets[i])
            return gr_fail(
                err, GRAFT_ERR_FORMAT,
                "%s: tensor %s: expected its %zu bytes at offset %llu within %zu bytes of data (is the file cut?)",
                c->path, t->name, t->view.bytes, (unsigned long long)offsets[i], room);
        /* An empty tensor after the last byte of a file without padding has no address. */
        t->view.data = t->view.bytes ? c->data + start + padding + offsets[i] : c->data;
    }
    qsort(items, n, sizeof *items, by_data);
    for (size_t i = 1; i < n; i++) {
        const gr_tensor_view *before = &items[i - 1].view, *v = &items[i].view;
        if (before->bytes && v->bytes && (uintptr_t)before->data + before->bytes > (uintptr_t)v->data)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensors %s and %s overlap", c->path, items[i - 1].name,
                           items[i].name);
    }
    return GRAFT_OK;
}

static graft_status read_tensors(cursor *c, uint64_t n, uint64_t alignment, graft_error *err) {
    gr_gguf *g = c->g;
    uint64_t *offsets = NULL;
    size_t cap = 0, before = g->list.n;
    graft_status st = GRAFT_OK;
    for (uint64_t i = 0; i < n && st == GRAFT_OK; i++) {
        gr_named_tensor t = {.file = c->path};
        GR_GO(done, gr_grow(g->a, (void **)&offsets, &cap, (size_t)i + 1, sizeof *offsets, err));
        GR_GO(done, gr_grow(g->a, (void **)&g->items, &g->cap_items, g->list.n + 1, sizeof t, err));
        GR_GO(done, read_info(c, &t, &offsets[i], err));
        g->items[g->list.n++] = t;
    }
    if (n) st = place_tensors(c, offsets, g->items + before, g->list.n - before, alignment, err);
done:
    gr_free(g->a, offsets);
    return st;
}

static graft_status read_start(cursor *c, uint64_t *n_tensors, uint64_t *n_pairs, graft_error *err) {
    uint64_t magic, version;
    GR_TRY(take(c, 4, "the magic number", &magic, err));
    if (memcmp(c->data, "GGUF", 4) != 0)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected a file that starts with \"GGUF\"", c->path);
    GR_TRY(take(c, 4, "the version", &version, err));
    if ((version & 0xFFFF) == 0 && version)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: expected little-endian GGUF, found big-endian", c->path);
    if (version != 2 && version != 3)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: expected GGUF version 2 or 3, found %llu", c->path,
                       (unsigned long long)version);
    GR_TRY(take(c, 8, "the tensor count", n_tensors, err));
    GR_TRY(take(c, 8, "the key count", n_pairs, err));
    /* The smallest pair takes 14 bytes and the smallest tensor info 25: larger counts cannot be true. */
    if (*n_pairs > c->size / 14 || *n_tensors > c->size / 25)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: %llu keys and %llu tensors cannot fit a file of %zu bytes", c->path,
                       (unsigned long long)*n_pairs, (unsigned long long)*n_tensors, c->size);
    return GRAFT_OK;
}

static void pair_table_free(pair_table *pairs, const graft_allocator *a) {
    gr_free(a, pairs->items);
    gr_map_free(&pairs->keys);
}

static const gr_gguf_pair *find_pair(const pair_table *pairs, const char *key) {
    int64_t i;
    return gr_map_get_text(&pairs->keys, key, &i) ? &pairs->items[i] : NULL;
}

/* Adds the tensors of one file image and reads its pairs into `pairs`, which the caller frees also on failure. */
static graft_status add_image(gr_gguf *g, const char *path, const unsigned char *data, size_t size, pair_table *pairs,
                              graft_error *err) {
    cursor c = {.g = g, .path = path, .data = data, .size = size};
    uint64_t n_tensors, n_pairs, alignment = 32;
    GR_TRY(read_start(&c, &n_tensors, &n_pairs, err));
    for (uint64_t i = 0; i < n_pairs; i++) GR_TRY(read_pair(&c, pairs, err));
    const gr_gguf_pair *p = find_pair(pairs, "general.alignment");
    if (p) {
        alignment = p->type == GR_GGUF_U32 ? load(p->data, 4) : 0;
        if (alignment == 0 || (alignment & (alignment - 1)))
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: key general.alignment: expected a u32 power of two", path);
    }
    return read_tensors(&c, n_tensors, alignment, err);
}

static graft_status new_gguf(const graft_allocator *a, const char *path, gr_gguf **out, graft_error *err) {
    gr_gguf *g = gr_calloc(a, 1, sizeof *g);
    if (!g) return gr_fail_memory(err);
    g->a = a;
    gr_arena_init(&g->arena, a, 0);
    gr_map_init(&g->pairs.keys, a);
    g->path = gr_arena_strndup(&g->arena, path, strlen(path));
    if (!g->path) {
        gr_gguf_close(g);
        return gr_fail_memory(err);
    }
    *out = g;
    return GRAFT_OK;
}

static graft_status finish(gr_gguf *g, graft_error *err) {
    int64_t twice = gr_tensor_list_sort(g->items, g->list.n);
    g->list.items = g->items;
    if (twice < 0) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensor %s stands twice", g->items[twice].file, g->items[twice].name);
}

/* Whether a table says that it is part `no` of `count`. */
static graft_status check_split(const char *path, const pair_table *pairs, int no, int count, graft_error *err) {
    const gr_gguf_pair *n = find_pair(pairs, "split.no"), *c = find_pair(pairs, "split.count");
    uint64_t found_no = n && n->type == GR_GGUF_U16 ? load(n->data, 2) : 0;
    uint64_t found_count = c && c->type == GR_GGUF_U16 ? load(c->data, 2) : 1;
    if (found_count == 0) found_count = 1;
    if (found_no == (uint64_t)no && found_count == (uint64_t)count) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_MISMATCH,
                   "%s: expected part %d of %d as its name says (NAME-00001-of-00003.gguf), found part %llu of %llu",
                   path, no + 1, count, (unsigned long long)found_no + 1, (unsigned long long)found_count);
}

static graft_status add_part(gr_gguf *g, const char *path, int no, int count, graft_error *err) {
    GR_TRY(gr_grow(g->a, (void **)&g->parts, &g->cap_parts, g->n_parts + 1, sizeof *g->parts, err));
    part p = {.path = gr_arena_strndup(&g->arena, path, strlen(path))};
    if (!p.path) return gr_fail_memory(err);
    GR_TRY(gr_map_file(path, &p.map, err));
    g->parts[g->n_parts++] = p;
    pair_table own = {0}, *pairs = no == 0 ? &g->pairs : &own;
    gr_map_init(&own.keys, g->a);
    graft_status st = add_image(g, p.path, p.map.data, p.map.size, pairs, err);
    if (st == GRAFT_OK) st = check_split(p.path, pairs, no, count, err);
    pair_table_free(&own, g->a);
    return st;
}

/* Length of NAME in "NAME-00002-of-00003.gguf" with 1 <= 2 <= 3, or -1; *count becomes 3. */
static int64_t split_stem(const char *path, int *count) {
    size_t n = strlen(path);
    int no, of;
    if (n < 20 || sscanf(path + n - 20, "-%5d-of-%5d.gguf", &no, &of) != 2) return -1;
    char again[32];
    snprintf(again, sizeof again, "-%05d-of-%05d.gguf", no, of);
    if (strcmp(again, path + n - 20) != 0 || no < 1 || no > of) return -1;
    *count = of;
    return (int64_t)n - 20;
}

static graft_status open_split(gr_gguf *g, const char *path, size_t stem, int count, graft_error *err) {
    size_t room = stem + 40;
    char *name = gr_alloc(g->a, room);
    if (!name) return gr_fail_memory(err);
    graft_status st = GRAFT_OK;
    for (int i = 0; i < count && st == GRAFT_OK; i++) {
        snprintf(name, room, "%.*s-%05d-of-%05d.gguf", (int)stem, path, i + 1, count);
        st = add_part(g, name, i, count, err);
    }
    gr_free(g->a, name);
    const gr_gguf_pair *total = find_pair(&g->pairs, "split.tensors.count");
    if (st == GRAFT_OK && total && total->type == GR_GGUF_I32 && load(total->data, 4) != g->list.n)
        st = gr_fail(err, GRAFT_ERR_MISMATCH,
                     "%s: key split.tensors.count: expected %llu tensors in %d parts, found %zu", path,
                     (unsigned long long)load(total->data, 4), count, g->list.n);
    return st;
}

graft_status gr_gguf_open(const graft_allocator *a, const char *path, gr_gguf **out, graft_error *err) {
    gr_gguf *g = NULL;
    GR_TRY(new_gguf(a, path, &g, err));
    int count = 1;
    int64_t stem = split_stem(path, &count);
    graft_status st = stem < 0 ? add_part(g, path, 0, 1, err) : open_split(g, path, (size_t)stem, count, err);
    if (st == GRAFT_OK) st = finish(g, err);
    if (st != GRAFT_OK) {
        gr_gguf_close(g);
        return st;
    }
    *out = g;
    return GRAFT_OK;
}

graft_status gr_gguf_parse(const graft_allocator *a, const char *name, const void *data, size_t size, gr_gguf **out,
                           graft_error *err) {
    gr_gguf *g = NULL;
    GR_TRY(new_gguf(a, name, &g, err));
    graft_status st = add_image(g, g->path, data, size, &g->pairs, err);
    if (st == GRAFT_OK) st = finish(g, err);
    if (st != GRAFT_OK) {
        gr_gguf_close(g);
        return st;
    }
    *out = g;
    return GRAFT_OK;
}

void gr_gguf_close(gr_gguf *g) {
    if (!g) return;
    for (size_t i = 0; i < g->n_parts; i++) gr_unmap_file(&g->parts[i].map);
    gr_free(g->a, g->parts);
    gr_free(g->a, g->items);
    pair_table_free(&g->pairs, g->a);
    gr_arena_free(&g->arena);
    gr_free(g->a, g);
}

const char *gr_gguf_path(const gr_gguf *g) { return g->path; }
const gr_tensor_list *gr_gguf_tensors(const gr_gguf *g) { return &g->list; }
size_t gr_gguf_n_pairs(const gr_gguf *g) { return g->pairs.n; }
const gr_gguf_pair *gr_gguf_pair_at(const gr_gguf *g, size_t i) { return &g->pairs.items[i]; }
const gr_gguf_pair *gr_gguf_find(const gr_gguf *g, const char *key) { return find_pair(&g->pairs, key); }
