/* The edges of all nodes in one table with open addressing, half full at most: a step is one look-up, however many
 * children a node has (a vocabulary's root has thousands behind the lead bytes of UTF-8). */
#include "text/trie.h"

void gr_trie_init(gr_trie *t, const graft_allocator *a) { *t = (gr_trie){.a = a}; }

void gr_trie_free(gr_trie *t) {
    gr_free(t->a, t->slots);
    gr_trie_init(t, t->a);
}

static gr_trie_edge *slot_of(const gr_trie *t, uint64_t key) {
    size_t i = (size_t)(key * 0x9E3779B97F4A7C15u >> t->shift);
    while (t->slots[i].key && t->slots[i].key != key) i = (i + 1) & (t->n_slots - 1);
    return &t->slots[i];
}

static graft_status make_room(gr_trie *t, graft_error *err) {
    if (((size_t)t->n_nodes + 1) * 2 <= t->n_slots) return GRAFT_OK;
    if (t->n_nodes >= UINT32_MAX / 4) return gr_fail(err, GRAFT_ERR_LIMIT, "the pieces of the vocabulary are too many");
    gr_trie larger = {.a = t->a, .n_nodes = t->n_nodes, .n_slots = t->n_slots ? t->n_slots * 2 : 1024};
    larger.shift = t->n_slots ? t->shift - 1 : 64 - 10;
    larger.slots = gr_calloc(t->a, larger.n_slots, sizeof *larger.slots);
    if (!larger.slots) return gr_fail_memory(err);
    for (size_t i = 0; i < t->n_slots; i++)
        if (t->slots[i].key) *slot_of(&larger, t->slots[i].key) = t->slots[i];
    gr_free(t->a, t->slots);
    *t = larger;
    return GRAFT_OK;
}

graft_status gr_trie_add(gr_trie *t, const char *text, size_t len, int32_t value, graft_error *err) {
    if (len > GR_TRIE_MAX_PIECE)
        return gr_fail(err, GRAFT_ERR_LIMIT, "token %d '%.40s...' is %zu bytes long (at most %d)", value, text, len,
                       GR_TRIE_MAX_PIECE);
    uint32_t node = GR_TRIE_ROOT;
    for (size_t i = 0; i < len; i++) {
        GR_TRY(make_room(t, err));
        const uint64_t key = ((uint64_t)node << 8 | (unsigned char)text[i]) + 1;
        gr_trie_edge *edge = slot_of(t, key);
        if (!edge->key) *edge = (gr_trie_edge){.key = key, .child = ++t->n_nodes, .value = -1};
        if (i + 1 == len && edge->value < 0) edge->value = value;
        node = edge->child;
    }
    return GRAFT_OK;
}
