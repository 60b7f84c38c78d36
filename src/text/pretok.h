/* Pre-tokenisers: cutting a text into the pieces that the model sees one by one. One file pretok.def lists those of
 * tokenizer.json; each becomes stages of a flat chain, through which a piece runs before the next is cut. */
#ifndef GR_TEXT_PRETOK_H
#define GR_TEXT_PRETOK_H

#include "text/nstr.h"
#include "text/regex.h"

enum { GR_PRETOK_MAX_STAGES = 64 };

typedef struct gr_pretok gr_pretok; /* constant after building */

/* `json` NULL or null: *out is NULL, a text is one piece. */
graft_status gr_pretok_new(const graft_allocator *a, const gr_json_value *json, gr_pretok **out, graft_error *err);
void gr_pretok_free(gr_pretok *p);

/* True when the last stage maps bytes to the byte-level alphabet and nothing after it would look at them: the stage is
 * then left out and the pieces come out as bytes (gr_pretok_take_bytes asks for that). */
bool gr_pretok_ends_in_bytes(const gr_pretok *p);
void gr_pretok_take_bytes(gr_pretok *p);
/* True when a stage asks where in the original a piece begins (Metaspace, "first"). */
bool gr_pretok_needs_origin(const gr_pretok *p);

/* Called for each piece, in order; never an empty one. */
typedef graft_status (*gr_pretok_sink)(void *user, const gr_piece *piece, graft_error *err);

/* What one thread needs: a regular-expression state, and a text for each stage that rewrites. */
typedef struct gr_pretok_state {
    const graft_allocator *a;
    gr_regex_state regex;
    gr_nstr *texts; /* GR_PRETOK_MAX_STAGES, on first use */
    bool track;
    gr_pretok_sink sink;
    void *user;
} gr_pretok_state;
void gr_pretok_state_init(gr_pretok_state *s, const graft_allocator *a);
void gr_pretok_state_free(gr_pretok_state *s);

graft_status gr_pretok_run(const gr_pretok *p, gr_pretok_state *s, const gr_piece *in, graft_error *err);

#endif
