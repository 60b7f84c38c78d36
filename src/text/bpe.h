/* What the building and the running half of the BPE model share. */
#ifndef GR_TEXT_BPE_H
#define GR_TEXT_BPE_H

#include <stdatomic.h>

#include "text/token_model.h"

enum { GR_BPE_NONE = -1 };

typedef struct gr_bpe_pair {
    uint32_t left, right, rank;
    int32_t result; /* GR_BPE_NONE: empty slot */
} gr_bpe_pair;

struct gr_token_model {
    const graft_allocator *a;
    const gr_vocab *vocab;
    bool bytes;
    gr_vocab raw; /* with `bytes`: the vocabulary by the bytes that its tokens stand for */
    gr_bpe_pair *pairs;
    size_t n_slots; /* a power of two */
    int shift;
    size_t n_pairs;
    int32_t char_id[256];     /* symbol of a byte (`bytes`) or of an ASCII character */
    int32_t fallback_id[256]; /* <0x00> ... <0xFF>, GR_BPE_NONE where missing */
    gr_map pseudo;            /* pieces that merges pass through and that are no tokens: numbers from vocab->n on */
    char *unk_token, *prefix, *suffix;
    int32_t unk_id;
    bool fuse_unk, byte_fallback, ignore_merges;
    bool keep_unknown; /* a character that is no symbol keeps its place between the others while they merge */
    _Atomic(unsigned char) *memo; /* a token: 0 not known, 1 comes out of merging its own text, 2 does not */
};

static inline size_t gr_bpe_pair_slot(const gr_token_model *m, uint32_t left, uint32_t right) {
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    h = (h ^ (h >> 32)) * 0xD6E8FEB86659FD93u;
    return (size_t)(h >> m->shift);
}

static inline const gr_bpe_pair *gr_bpe_find_pair(const gr_token_model *m, uint32_t left, uint32_t right) {
    for (size_t i = gr_bpe_pair_slot(m, left, right);; i = (i + 1) & (m->n_slots - 1)) {
        const gr_bpe_pair *p = &m->pairs[i];
        if (p->result == GR_BPE_NONE) return NULL;
        if (p->left == left && p->right == right) return p;
    }
}

static inline size_t gr_bpe_char_len(const char *text, size_t len) {
    int32_t cp;
    return gr_utf8_decode(text, len, &cp);
}

/* The number of a text as a symbol: its id, or a pseudo id; GR_BPE_NONE. */
static inline int32_t gr_bpe_symbol(const gr_token_model *m, const char *text, size_t len) {
    int32_t id = gr_vocab_find(m->vocab, text, len);
    int64_t pseudo;
    if (id < 0 && m->pseudo.n && gr_map_get(&m->pseudo, text, len, &pseudo)) id = (int32_t)pseudo;
    return id;
}

graft_status gr_bpe_build(const graft_allocator *a, gr_tokenizer_spec *spec, const gr_vocab *vocab, bool bytes,
                          gr_token_model **out, graft_error *err);
bool gr_bpe_takes_bytes(const gr_tokenizer_spec *spec);
graft_status gr_bpe_save(const gr_token_model *m, const gr_vocab *vocab, gr_buf *out, graft_error *err);
void gr_bpe_free(gr_token_model *m);

#endif
