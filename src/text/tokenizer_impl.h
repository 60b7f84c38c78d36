/* What a graft_tokenizer holds; for the files of this room that run or save one. */
#ifndef GR_TEXT_TOKENIZER_IMPL_H
#define GR_TEXT_TOKENIZER_IMPL_H

#include "text/added.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/postproc.h"
#include "text/pretok.h"
#include "text/token_model.h"
#include "text/tokenizer.h"

typedef struct gr_added_entry {
    int32_t id;
    const char *text; /* in the arena */
    size_t len;
    const char *decoded; /* what the decoder gets: the text as the normaliser left it, where that was applied */
    size_t decoded_len;
    bool special, normalized, lstrip, rstrip, single_word;
} gr_added_entry;

enum { GR_ID_TOKEN = 1, GR_ID_ADDED = 2, GR_ID_SPECIAL = 4, GR_ID_SKIPPED = 8 };

struct graft_tokenizer {
    graft_context *ctx;
    const graft_allocator *a;
    gr_arena arena;
    gr_vocab vocab;
    const gr_token_model_type *type;
    gr_token_model *model;
    gr_normalizer *normalizer;
    gr_pretok *pretok;
    gr_postproc postproc;
    gr_decoder *decoder;
    bool bytes;        /* pieces go to the model as bytes */
    bool needs_origin; /* alignment decides about ids, not only about spans */
    gr_added_entry *added; /* by ascending id */
    size_t n_added, added_cap;
    gr_map added_index;            /* text to id */
    gr_matcher *raw, *normalized; /* NULL: no such added tokens */
    size_t n_ids;
    uint8_t *id_flags; /* GR_ID_*, one an id */
    int32_t special_id[GR_N_SPECIAL];
    int32_t *eos;
    size_t n_eos;
    gr_template_spec *templates;
    size_t n_templates;
    const char *normalizer_json, *pretok_json, *decoder_json; /* in the arena, for saving */
    const char *postproc_json; /* NULL: made from `postproc` */
};

const gr_added_entry *gr_tokenizer_added(const graft_tokenizer *tok, int32_t id); /* NULL: not added */

#endif
