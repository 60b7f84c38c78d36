/* Open addressing over ids; see vocab.h. */
#include "text/vocab.h"

enum { MAX_GAP = 1 << 20 };

void gr_vocab_init(gr_vocab *v, const graft_allocator *a) {
    *v = (gr_vocab){.a = a};
    gr_buf_init(&v->texts, a);
}

void gr_vocab_free(gr_vocab *v) {
    gr_buf_free(&v->texts);
    gr_free(v->a, v->entries);
    gr_free(v->a, v->slots);
    gr_vocab_init(v, v->a);
}

graft_status gr_vocab_reserve(gr_vocab *v, size_t n_tokens, size_t n_bytes, graft_error *err) {
    gr_buf_reserve(&v->texts, n_bytes);
    GR_TRY(gr_buf_status(&v->texts, err));
    return gr_grow(v->a, (void **)&v->entries, &v->cap, v->n + n_tokens, sizeof *v->entries, err);
}

graft_status gr_vocab_add(gr_vocab *v, int64_t id, const char *text, size_t len, graft_error *err) {
    if (id < 0) return gr_fail(err, GRAFT_ERR_FORMAT, "token id %lld is negative", (long long)id);
    if ((uint64_t)id > GR_MAX(v->n_tokens, v->expected) * 8 + MAX_GAP)
        return gr_fail(err, GRAFT_ERR_LIMIT, "token id %lld is out of proportion to a vocabulary of %zu tokens",
                       (long long)id, v->n_tokens);
    if (len >= UINT32_MAX || v->texts.len + len >= UINT32_MAX)
        return gr_fail(err, GRAFT_ERR_LIMIT, "vocabulary texts take more than 4 GiB");
    const size_t at = (size_t)id;
    if (at >= v->n) {
        GR_TRY(gr_grow(v->a, (void **)&v->entries, &v->cap, at + 1, sizeof *v->entries, err));
        for (size_t i = v->n; i <= at; i++) v->entries[i] = (gr_vocab_entry){0, UINT32_MAX};
        v->n = at + 1;
    }
    if (v->entries[at].len != UINT32_MAX)
        return gr_fail(err, GRAFT_ERR_FORMAT, "token id %lld is given to '%.60s' and to '%.*s'", (long long)id,
                       v->texts.data + v->entries[at].offset, (int)GR_MIN(len, 60), text);
    const size_t offset = v->texts.len;
    gr_buf_add(&v->texts, text, len);
    gr_buf_add_char(&v->texts, '\0');
    GR_TRY(gr_buf_status(&v->texts, err));
    v->entries[at] = (gr_vocab_entry){(uint32_t)offset, (uint32_t)len};
    v->n_tokens++;
    if (len > v->max_len) v->max_len = len;
    return GRAFT_OK;
}

/* Texts are a few bytes long: two overlapping words cover up to 16. */
static inline uint64_t hash_text(const char *text, size_t len) {
    const uint64_t k = 0x9E3779B97F4A7C15u;
    uint64_t h;
    if (len > 16) return gr_hash_bytes(text, len, 0);
    if (len >= 8) {
        uint64_t a, b;
        memcpy(&a, text, 8);
        memcpy(&b, text + len - 8, 8);
        h = (a * k) ^ (b + (b << 29));
    } else if (len >= 4) {
        uint32_t a, b;
        memcpy(&a, text, 4);
        memcpy(&b, text + len - 4, 4);
        h = ((uint64_t)a << 32) | b;
    } else {
        h = len ? (uint64_t)(unsigned char)text[0] << 16 | (uint64_t)(unsigned char)text[len / 2] << 8 |
                      (unsigned char)text[len - 1]
                : 0;
    }
    h = (h ^ len) * k;
    h ^= h >> 29;
    h *= k;
    return h ^ (h >> 32);
}

static size_t slot_of(const gr_vocab *v, const char *text, size_t len) {
    const size_t mask = v->n_slots - 1;
    for (size_t i = hash_text(text, len) & mask;; i = (i + 1) & mask) {
        if (!v->slots[i]) return i;
        const gr_vocab_entry *e = &v->entries[v->slots[i] - 1];
        if (e->len == len && !memcmp(v->texts.data + e->offset, text, len)) return i;
    }
}

graft_status gr_vocab_index(gr_vocab *v, graft_error *err) {
    size_t n_slots = 16;
    while (n_slots < v->n_tokens * 2) n_slots *= 2;
    uint32_t *slots = gr_calloc(v->a, n_slots, sizeof *slots);
    if (!slots) return gr_fail_memory(err);
    gr_free(v->a, v->slots);
    v->slots = slots;
    v->n_slots = n_slots;
    for (size_t id = 0; id < v->n; id++) {
        const gr_vocab_entry *e = &v->entries[id];
        if (e->len == UINT32_MAX) continue;
        size_t i = slot_of(v, v->texts.data + e->offset, e->len);
        if (!slots[i] || v->last) slots[i] = (uint32_t)id + 1;
    }
    return GRAFT_OK;
}

int32_t gr_vocab_find(const gr_vocab *v, const char *text, size_t len) {
    if (!v->n_slots || len > v->max_len) return -1;
    return (int32_t)v->slots[slot_of(v, text, len)] - 1;
}

const char *gr_vocab_text(const gr_vocab *v, int64_t id, size_t *len) {
    if (id < 0 || (uint64_t)id >= v->n || v->entries[id].len == UINT32_MAX) return NULL;
    if (len) *len = v->entries[id].len;
    return v->texts.data + v->entries[id].offset;
}
