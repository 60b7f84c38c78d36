/* Decoders: from tokens back to text. One file decoder.def lists those of tokenizer.json; each becomes a stage of a flat
 * chain through which tokens are pushed one by one. Decoding a list and decoding a stream are the same code, so that
 * the pieces of a stream always add up to the text of the list. */
#ifndef GR_TEXT_DECODER_H
#define GR_TEXT_DECODER_H

#include "text/regex.h"

typedef struct gr_decoder gr_decoder; /* constant after building */

/* `json` NULL or null: tokens are joined with spaces, as the reference does. */
graft_status gr_decoder_new(const graft_allocator *a, const gr_json_value *json, gr_decoder **out, graft_error *err);
void gr_decoder_free(gr_decoder *d);

/* One decoding. `out` collects what is certain; it is always whole UTF-8. */
typedef struct gr_decoding gr_decoding;
graft_status gr_decoding_new(const graft_allocator *a, const gr_decoder *d, gr_decoding **out, graft_error *err);
void gr_decoding_free(gr_decoding *g);
graft_status gr_decoding_push(gr_decoding *g, const char *token, size_t len, gr_buf *out, graft_error *err);
/* Writes what was held back and makes `g` as new. */
graft_status gr_decoding_finish(gr_decoding *g, gr_buf *out, graft_error *err);

#endif
