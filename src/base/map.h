/* Hash map from byte strings to int64 (an index, an id, or a pointer cast through intptr_t). Open addressing; keys are
 * copied. Iteration goes in insertion order, so that nothing depends on hash values. Hashing is seeded per map from
 * the keys' own bytes only: results never depend on it. */
#ifndef GR_BASE_MAP_H
#define GR_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "graft/context.h"

typedef struct gr_map_entry {
    const char *key; /* NUL-terminated copy */
    size_t key_len;
    int64_t value;
} gr_map_entry;

typedef struct gr_map {
    const graft_allocator *a;
    gr_map_entry *entries; /* in insertion order */
    size_t n, cap;
    uint32_t *slots; /* entry index + 1, 0 empty */
    size_t n_slots;
    struct gr_map_keys *keys;
} gr_map;

void gr_map_init(gr_map *m, const graft_allocator *a);
void gr_map_free(gr_map *m);
/* Inserts or overwrites. */
graft_status gr_map_set(gr_map *m, const char *key, size_t key_len, int64_t value, graft_error *err);
bool gr_map_get(const gr_map *m, const char *key, size_t key_len, int64_t *value);
bool gr_map_get_text(const gr_map *m, const char *key, int64_t *value);
uint64_t gr_hash_bytes(const void *bytes, size_t n, uint64_t seed);

#endif
