#include "base/base.h"

/* Keys live in their own arena: one allocation a few kilobytes instead of one a key. */
struct gr_map_keys {
    gr_arena arena;
};

uint64_t gr_hash_bytes(const void *bytes, size_t n, uint64_t seed) {
    const unsigned char *p = bytes;
    uint64_t h = seed ^ (n * 0x9E3779B97F4A7C15u);
    while (n >= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        h = (h ^ w) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
        p += 8;
        n -= 8;
    }
    uint64_t w = 0;
    if (n) memcpy(&w, p, n);
    h = (h ^ w) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    h *= 0xD6E8FEB86659FD93u;
    return h ^ (h >> 32);
}

void gr_map_init(gr_map *m, const graft_allocator *a) { *m = (gr_map){.a = a}; }

void gr_map_free(gr_map *m) {
    if (m->keys) gr_arena_free(&m->keys->arena);
    gr_free(m->a, m->keys);
    gr_free(m->a, m->entries);
    gr_free(m->a, m->slots);
    gr_map_init(m, m->a);
}

/* The slot that holds the key, or the empty slot where it would go. */
static size_t find_slot(const gr_map *m, const char *key, size_t key_len) {
    size_t mask = m->n_slots - 1;
    for (size_t i = gr_hash_bytes(key, key_len, 0) & mask;; i = (i + 1) & mask) {
        if (!m->slots[i]) return i;
        const gr_map_entry *e = &m->entries[m->slots[i] - 1];
        if (e->key_len == key_len && (key_len == 0 || !memcmp(e->key, key, key_len))) return i;
    }
}

static graft_status rehash(gr_map *m, graft_error *err) {
    size_t n_slots = m->n_slots ? m->n_slots * 2 : 16;
    uint32_t *slots = gr_calloc(m->a, n_slots, sizeof *slots);
    if (!slots) return gr_fail_memory(err);
    gr_free(m->a, m->slots);
    m->slots = slots;
    m->n_slots = n_slots;
    for (size_t i = 0; i < m->n; i++)
        m->slots[find_slot(m, m->entries[i].key, m->entries[i].key_len)] = (uint32_t)i + 1;
    return GRAFT_OK;
}

graft_status gr_map_set(gr_map *m, const char *key, size_t key_len, int64_t value, graft_error *err) {
    if ((m->n + 1) * 3 > m->n_slots * 2) GR_TRY(rehash(m, err));
    size_t slot = find_slot(m, key, key_len);
    if (m->slots[slot]) {
        m->entries[m->slots[slot] - 1].value = value;
        return GRAFT_OK;
    }
    if (m->n >= UINT32_MAX - 1) return gr_fail(err, GRAFT_ERR_LIMIT, "more than %u keys", UINT32_MAX - 1);
    if (!m->keys) {
        m->keys = gr_calloc(m->a, 1, sizeof *m->keys);
        if (!m->keys) return gr_fail_memory(err);
        gr_arena_init(&m->keys->arena, m->a, 0);
    }
    GR_TRY(gr_grow(m->a, (void **)&m->entries, &m->cap, m->n + 1, sizeof *m->entries, err));
    char *copy = gr_arena_strndup(&m->keys->arena, key, key_len);
    if (!copy) return gr_fail_memory(err);
    m->entries[m->n] = (gr_map_entry){.key = copy, .key_len = key_len, .value = value};
    m->slots[slot] = (uint32_t)++m->n;
    return GRAFT_OK;
}

bool gr_map_get(const gr_map *m, const char *key, size_t key_len, int64_t *value) {
    if (!m->n) return false;
    size_t slot = find_slot(m, key, key_len);
    if (!m->slots[slot]) return false;
    if (value) *value = m->entries[m->slots[slot] - 1].value;
    return true;
}

bool gr_map_get_text(const gr_map *m, const char *key, int64_t *value) { return gr_map_get(m, key, strlen(key), value); }
