/* Regular expressions of tokenizer files on PCRE2, JIT compiled.
 *
 * Tokenizer files are written for Oniguruma (Ruby syntax, what the `tokenizers` library runs); gr_regex_translate
 * rewrites that syntax and its Unicode classes into PCRE2's. A pattern is untrusted: its length, nesting and the steps
 * of one match are bounded, and running out of them is GRAFT_ERR_LIMIT. */
#ifndef GR_TEXT_REGEX_H
#define GR_TEXT_REGEX_H

#include "base/base.h"
#include "base/json.h"

typedef enum gr_regex_syntax {
    GR_REGEX_ONIGURUMA,
    GR_REGEX_PCRE,   /* as PCRE2 reads it */
    GR_REGEX_LITERAL /* the bytes themselves */
} gr_regex_syntax;

typedef struct gr_regex gr_regex; /* constant after gr_regex_new: any number of threads may search with it */

graft_status gr_regex_new(const graft_allocator *a, const char *pattern, size_t len, gr_regex_syntax syntax,
                          gr_regex **out, graft_error *err);
/* {"String": text} or {"Regex": pattern}, as tokenizer.json writes them. */
graft_status gr_regex_from_json(const graft_allocator *a, const gr_json_value *json, gr_regex **out, graft_error *err);
void gr_regex_free(gr_regex *re);
/* Appends the PCRE2 form of an Oniguruma pattern to `out`. */
graft_status gr_regex_translate(const char *pattern, size_t len, gr_buf *out, graft_error *err);

/* What one thread needs to search; zero is ready, memory comes on first use. */
typedef struct gr_regex_state {
    const graft_allocator *a;
    void *general, *match_data, *match_context, *stack;
} gr_regex_state;
void gr_regex_state_free(gr_regex_state *s);

/* All matches in text[0..len), which must be valid UTF-8, one after the other: an empty match is passed over where it
 * touches the match before it. */
typedef struct gr_regex_iter {
    const gr_regex *re;
    gr_regex_state *state;
    const char *text;
    size_t len, from, last_end;
    bool any;
} gr_regex_iter;
gr_regex_iter gr_regex_matches(const gr_regex *re, gr_regex_state *state, const char *text, size_t len);
graft_status gr_regex_next(gr_regex_iter *it, bool *found, size_t *start, size_t *end, graft_error *err);

#endif
