/* Added tokens: texts that are found before anything else is done, and stand for one id (tokenizers, AddedVocabulary). */
#ifndef GR_TEXT_ADDED_H
#define GR_TEXT_ADDED_H

#include "base/base.h"

typedef struct gr_added_token {
    int32_t id;
    bool special, lstrip, rstrip, single_word;
} gr_added_token;

/* A set of patterns, searched for leftmost, then longest. Constant after the last gr_matcher_add. */
typedef struct gr_matcher gr_matcher;
graft_status gr_matcher_new(const graft_allocator *a, gr_matcher **out, graft_error *err);
void gr_matcher_free(gr_matcher *m);
/* `pattern` must not be empty. The same pattern again replaces what it stood for. */
graft_status gr_matcher_add(gr_matcher *m, const char *pattern, size_t len, const gr_added_token *token,
                            graft_error *err);

/* Cuts text[0..len) into added tokens and what lies between. Zero-initialise `at` and `from`. */
typedef struct gr_matcher_iter {
    const gr_matcher *m;
    const char *text;
    size_t len;
    bool no_special; /* special tokens are found and passed over: their text stays text */
    size_t from, done;
    bool pending; /* a token waits behind the text that was handed out before it */
    int32_t id;
    size_t start, end;
} gr_matcher_iter;
/* *id is the token, -1 for text between; false at the end. A token's range holds the spaces that it strips. */
bool gr_matcher_next(gr_matcher_iter *it, int32_t *id, size_t *start, size_t *end);

#endif
