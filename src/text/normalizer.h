/* Normalisers: what happens to a text before it is cut into pieces. One file normalizer.def lists those of
 * tokenizer.json; each becomes steps of a flat chain. */
#ifndef GR_TEXT_NORMALIZER_H
#define GR_TEXT_NORMALIZER_H

#include "text/nstr.h"
#include "text/regex.h"

typedef struct gr_normalizer gr_normalizer; /* constant after building */

/* `json` NULL or null: *out is NULL, no normalisation. */
graft_status gr_normalizer_new(const graft_allocator *a, const gr_json_value *json, gr_normalizer **out, graft_error *err);
void gr_normalizer_free(gr_normalizer *n);

/* What one thread needs: two texts to go back and forth between. */
typedef struct gr_normalizer_state {
    gr_nstr text[2];
    gr_regex_state regex;
} gr_normalizer_state;
void gr_normalizer_state_init(gr_normalizer_state *s, const graft_allocator *a);
void gr_normalizer_state_free(gr_normalizer_state *s);

/* *out points into `s` (or is *in, when nothing had to be done) until the next call. `track` keeps the alignment. */
graft_status gr_normalize(const gr_normalizer *n, gr_normalizer_state *s, const gr_piece *in, bool track,
                          gr_piece *out, graft_error *err);

/* Unicode normalisation forms (UAX 15) as steps: normalize_unicode.c. */
graft_status gr_normalize_form(const graft_allocator *a, gr_edit *e, bool compose, bool compat, graft_error *err);
/* True when the form leaves the text as it is, told by a quick look (false may mean "perhaps not"). */
bool gr_normalize_form_is_identity(const char *text, size_t len, bool compose, bool compat);

/* SentencePiece's precompiled character map: normalize_charsmap.c. */
typedef struct gr_charsmap gr_charsmap;
/* `longest`: the longest entry at every place, as SentencePiece itself applies the map; else as the tokenizers library. */
graft_status gr_charsmap_new(const graft_allocator *a, const char *base64, size_t len, bool longest, gr_charsmap **out,
                             graft_error *err);
/* With `longest`: a text that stays as it is wherever it stands, the longest of several. */
graft_status gr_charsmap_keep(gr_charsmap *m, const char *text, size_t len, graft_error *err);
void gr_charsmap_free(gr_charsmap *m);
graft_status gr_charsmap_apply(const gr_charsmap *m, gr_edit *e, graft_error *err);

#endif
