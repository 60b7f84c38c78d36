/* The model of a tokenizer: from one piece of text to token ids. */
#ifndef GR_TEXT_TOKEN_MODEL_H
#define GR_TEXT_TOKEN_MODEL_H

#include "text/spec.h"

typedef struct gr_token_model gr_token_model; /* constant after building (but for memos that change no result) */

/* What one thread needs; each model uses it as it likes. */
typedef struct gr_token_scratch {
    const graft_allocator *a;
    void *memory[2];
    size_t cap[2];
} gr_token_scratch;
void gr_token_scratch_free(gr_token_scratch *s);

/* Called for each token in order; it covers bytes [start, end) of the piece. */
typedef graft_status (*gr_token_sink)(void *user, int32_t id, size_t start, size_t end, graft_error *err);

typedef struct gr_token_model_type {
    const char *name;
    /* May take what it wants out of `spec`. `bytes`: pieces come as bytes that stand for the byte-level alphabet. The
     * vocabulary is indexed and outlives the model. */
    graft_status (*build)(const graft_allocator *a, gr_tokenizer_spec *spec, const gr_vocab *vocab, bool bytes,
                          gr_token_model **out, graft_error *err);
    graft_status (*encode)(const gr_token_model *m, gr_token_scratch *scratch, const char *text, size_t len,
                           gr_token_sink sink, void *user, graft_error *err);
    /* Writes the model as the value of "model" in a tokenizer.json. */
    graft_status (*save)(const gr_token_model *m, const gr_vocab *vocab, gr_buf *out, graft_error *err);
    /* Whether build accepts `bytes` for this description. */
    bool (*takes_bytes)(const gr_tokenizer_spec *spec);
    void (*free)(gr_token_model *m);
} gr_token_model_type;

/* GRAFT_ERR_UNSUPPORTED naming the model when there is none of that name. */
graft_status gr_token_model_find(const char *name, const gr_token_model_type **out, graft_error *err);

#endif
