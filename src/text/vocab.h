/* The vocabulary: token texts by id, ids by token text. Texts lie in one block. */
#ifndef GR_TEXT_VOCAB_H
#define GR_TEXT_VOCAB_H

#include "base/base.h"

typedef struct gr_vocab_entry {
    uint32_t offset, len; /* len UINT32_MAX: no token has this id */
} gr_vocab_entry;

typedef struct gr_vocab {
    const graft_allocator *a;
    gr_buf texts; /* each followed by a NUL */
    gr_vocab_entry *entries;
    size_t n, cap; /* ids 0 .. n-1 */
    size_t n_tokens; /* without holes */
    size_t expected; /* raises what ids are in proportion (set by those who know better) */
    size_t max_len;  /* of a token, in bytes */
    bool last;       /* of equal texts the highest id is found, not the lowest */
    uint32_t *slots; /* id + 1, 0 empty */
    size_t n_slots;  /* a power of two, 0 before gr_vocab_index */
} gr_vocab;

void gr_vocab_init(gr_vocab *v, const graft_allocator *a);
void gr_vocab_free(gr_vocab *v);
/* Makes room: a hint, and what keeps loading linear. */
graft_status gr_vocab_reserve(gr_vocab *v, size_t n_tokens, size_t n_bytes, graft_error *err);
/* Gives `id` its text. An id twice is GRAFT_ERR_FORMAT. Ids may come in any order, but one far beyond the number of
 * tokens so far (a hostile file) is GRAFT_ERR_LIMIT. */
graft_status gr_vocab_add(gr_vocab *v, int64_t id, const char *text, size_t len, graft_error *err);
/* After the last gr_vocab_add, before the first gr_vocab_find. */
graft_status gr_vocab_index(gr_vocab *v, graft_error *err);
int32_t gr_vocab_find(const gr_vocab *v, const char *text, size_t len); /* -1: none */
const char *gr_vocab_text(const gr_vocab *v, int64_t id, size_t *len);  /* NULL: none; `len` may be NULL */

#endif
