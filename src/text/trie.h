/* A byte trie over the pieces of a vocabulary: all pieces that begin at a place of a text are found by walking down while
 * there is a way. The walk ends after the longest piece at the latest, so that a text costs its length times that bound. */
#ifndef GR_TEXT_TRIE_H
#define GR_TEXT_TRIE_H

#include "base/base.h"

enum { GR_TRIE_ROOT = 0, GR_TRIE_MAX_PIECE = 1024 };

typedef struct gr_trie_edge {
    uint64_t key; /* (node << 8 | byte) + 1; 0: empty slot */
    uint32_t child;
    int32_t value; /* of the piece that ends at the child, -1: none */
} gr_trie_edge;

typedef struct gr_trie {
    const graft_allocator *a;
    gr_trie_edge *slots;
    size_t n_slots; /* a power of two, 0 before the first piece */
    int shift;
    uint32_t n_nodes; /* without the root */
} gr_trie;

void gr_trie_init(gr_trie *t, const graft_allocator *a);
void gr_trie_free(gr_trie *t);
/* `value` is not negative. Of equal pieces the first keeps its value. A piece of more than GR_TRIE_MAX_PIECE bytes is
 * GRAFT_ERR_LIMIT. */
graft_status gr_trie_add(gr_trie *t, const char *text, size_t len, int32_t value, graft_error *err);

/* The way from `node` along `byte`; NULL: none. */
static inline const gr_trie_edge *gr_trie_step(const gr_trie *t, uint32_t node, unsigned char byte) {
    if (!t->n_slots) return NULL;
    const uint64_t key = ((uint64_t)node << 8 | byte) + 1;
    for (size_t i = (size_t)(key * 0x9E3779B97F4A7C15u >> t->shift);; i = (i + 1) & (t->n_slots - 1)) {
        if (t->slots[i].key == key) return &t->slots[i];
        if (!t->slots[i].key) return NULL;
    }
}

#endif
