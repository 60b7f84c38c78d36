/* A text that remembers where it came from: for each byte the range of bytes of the original text behind it.
 *
 * Changes are made by writing a new text from an old one with a gr_edit, which moves the alignment along by the rules
 * of the reference library (tokenizers, NormalizedString::transform): a character that replaces another takes its
 * range, a character that is inserted shares the range of the character before it. */
#ifndef GR_TEXT_NSTR_H
#define GR_TEXT_NSTR_H

#include "base/base.h"

typedef struct gr_align {
    uint32_t start, end; /* in the text that the caller gave */
} gr_align;

/* A borrowed stretch of text on its way through the chain. */
typedef struct gr_piece {
    const char *text;
    size_t len;
    const gr_align *align; /* one a byte; NULL: byte i lies at base + i of the original */
    size_t base;           /* where the piece begins in the original */
} gr_piece;

typedef struct gr_nstr {
    gr_buf text;
    gr_align *align; /* as long as text where `aligned` */
    size_t align_cap;
    size_t base;
    bool aligned;
} gr_nstr;

void gr_nstr_init(gr_nstr *s, const graft_allocator *a);
void gr_nstr_free(gr_nstr *s);
gr_piece gr_nstr_piece(const gr_nstr *s);
/* Original bytes behind bytes [a, b) of the piece, widened to whole characters. */
void gr_piece_span(const gr_piece *p, size_t a, size_t b, size_t *start, size_t *end);
/* The part [a, b) of a piece. */
gr_piece gr_piece_slice(const gr_piece *p, size_t a, size_t b);

typedef struct gr_edit {
    gr_piece in;
    gr_nstr *out;
    size_t offset; /* how far `in` is used up */
    graft_status st;
} gr_edit;

/* Clears `out`, which must not be what `in` points into. With `track` false no alignment is kept. */
void gr_edit_begin(gr_edit *e, const gr_piece *in, gr_nstr *out, bool track);
/* The rules of transform: change 0 replaces the next character of `in`, -n replaces it and drops n more, 1 inserts. */
void gr_edit_push(gr_edit *e, int32_t cp, long change);
void gr_edit_skip(gr_edit *e, size_t n_chars);            /* drops characters */
void gr_edit_copy(gr_edit *e, size_t n_bytes);            /* keeps n_bytes as they are */
void gr_edit_insert(gr_edit *e, const char *text, size_t n); /* aligned to the byte before the offset */
void gr_edit_put(gr_edit *e, const char *text, size_t n, gr_align at);   /* aligned as told; moves no offset */
graft_status gr_edit_end(gr_edit *e, graft_error *err);

/* `text` before the piece, aligned to its first character (NormalizedString::prepend); an empty piece stays empty. */
graft_status gr_nstr_prepend(gr_nstr *out, const gr_piece *in, const char *text, size_t n, bool track,
                             graft_error *err);

#endif
