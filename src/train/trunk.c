/* Rows lie one after the other in segments of some MiB, so that the budget is taken as it is filled. A sequence that would
 * leave much of a segment empty behind it has one of its own. */
#include "train/trunk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/map.h"

enum { SEGMENT = 16 << 20, ALONE = SEGMENT / 16, ENTRY_BYTES = 64 /* of the index: an entry of the map and its slots */ };

typedef struct segment {
    char *data;
    size_t size, used;
} segment;

struct gr_trunk {
    const graft_allocator *a;
    size_t row_bytes, budget, used;
    bool full;
    int file; /* -1: segments are memory */
    size_t file_size;
    segment *segments;
    size_t n_segments, cap_segments;
    size_t filling; /* number of the segment that short sequences go to, counted from 1; 0: none yet */
    const char **places; /* of each entry */
    size_t n_places, cap_places;
    gr_map index; /* key -> entry */
    int64_t found, missed;
};

static graft_status open_file(gr_trunk *t, const char *dir, graft_error *err) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s/graft-trunk-XXXXXX", dir) >= (int)sizeof path)
        return gr_fail(err, GRAFT_ERR_LIMIT, "cache_trunk_dir: a path of %zu bytes", strlen(dir));
    t->file = mkstemp(path);
    if (t->file < 0) return gr_fail_errno(err, GRAFT_ERR_IO, errno, "%s: no file can be made there", dir);
    unlink(path);
    return GRAFT_OK;
}

graft_status gr_trunk_new(const graft_allocator *a, size_t row_bytes, size_t budget, const char *dir, gr_trunk **out,
                          graft_error *err) {
    gr_trunk *t = gr_calloc(a, 1, sizeof *t);
    if (!t) return gr_fail_memory(err);
    *t = (gr_trunk){.a = a, .row_bytes = row_bytes, .budget = budget, .file = -1};
    gr_map_init(&t->index, a);
    graft_status st = dir ? open_file(t, dir, err) : GRAFT_OK;
    if (st != GRAFT_OK) {
        gr_trunk_free(t);
        return st;
    }
    *out = t;
    return GRAFT_OK;
}

void gr_trunk_free(gr_trunk *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n_segments; i++)
        if (t->file >= 0)
            munmap(t->segments[i].data, t->segments[i].size);
        else
            gr_free(t->a, t->segments[i].data);
    if (t->file >= 0) close(t->file);
    gr_free(t->a, t->segments);
    gr_free(t->a, t->places);
    gr_map_free(&t->index);
    gr_free(t->a, t);
}

size_t gr_trunk_cost(size_t row_bytes, size_t n_rows, size_t n_key) {
    return n_rows * row_bytes + n_key * sizeof(int32_t) + ENTRY_BYTES;
}

gr_trunk_stats gr_trunk_get_stats(const gr_trunk *t) {
    return (gr_trunk_stats){.used = t->used, .kept = (int64_t)t->n_places, .found = t->found, .missed = t->missed};
}

static const char *text_of(const int32_t *key) { return (const char *)key; }

const void *gr_trunk_find(gr_trunk *t, const int32_t *key, size_t n) {
    int64_t entry;
    bool there = gr_map_get(&t->index, text_of(key), n * sizeof *key, &entry);
    if (there)
        t->found++;
    else
        t->missed++;
    return there ? t->places[entry] : NULL;
}

/* A segment of at least n bytes behind the others; *out NULL where the disk has no room. */
static graft_status add_segment(gr_trunk *t, size_t n, segment **out, graft_error *err) {
    segment s = {.size = (n + 4095) / 4096 * 4096}; /* whole pages: a map begins at one */
    if (n < ALONE) s.size = GR_MAX(s.size, GR_MIN((size_t)SEGMENT, t->budget - t->used) / 4096 * 4096);
    *out = NULL;
    GR_TRY(gr_grow(t->a, (void **)&t->segments, &t->cap_segments, t->n_segments + 1, sizeof *t->segments, err));
    if (t->file >= 0) {
        /* Written through a map a full disk would be a signal, so the blocks are taken before. */
        if (posix_fallocate(t->file, (off_t)t->file_size, (off_t)s.size) != 0) return GRAFT_OK;
        s.data = mmap(NULL, s.size, PROT_READ | PROT_WRITE, MAP_SHARED, t->file, (off_t)t->file_size);
        if (s.data == MAP_FAILED) return gr_fail_memory(err);
        t->file_size += s.size;
    } else if (!(s.data = gr_alloc(t->a, s.size)))
        return gr_fail_memory(err);
    t->segments[t->n_segments] = s;
    *out = &t->segments[t->n_segments++];
    return GRAFT_OK;
}

graft_status gr_trunk_add(gr_trunk *t, const int32_t *key, size_t n, const void *rows, size_t n_rows, graft_error *err) {
    size_t bytes = n_rows * t->row_bytes, cost = gr_trunk_cost(t->row_bytes, n_rows, n);
    segment *s = bytes < ALONE && t->filling ? &t->segments[t->filling - 1] : NULL;
    int64_t there;
    if (t->full || cost > t->budget - t->used || gr_map_get(&t->index, text_of(key), n * sizeof *key, &there)) return GRAFT_OK;
    if (!s || s->size - s->used < bytes) {
        GR_TRY(add_segment(t, bytes, &s, err));
        t->full = !s;
        if (!s) return GRAFT_OK;
        if (bytes < ALONE) t->filling = t->n_segments;
    }
    GR_TRY(gr_grow(t->a, (void **)&t->places, &t->cap_places, t->n_places + 1, sizeof *t->places, err));
    GR_TRY(gr_map_set(&t->index, text_of(key), n * sizeof *key, (int64_t)t->n_places, err));
    char *to = s->data + s->used;
    memcpy(to, rows, bytes);
    t->places[t->n_places++] = to;
    s->used += bytes;
    t->used += cost;
    return GRAFT_OK;
}
