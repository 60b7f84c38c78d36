/* The neutral description of a tokenizer: what the readers of tokenizer.json, vocab.json + merges.txt,
 * tokenizer.model and GGUF fill in, and gr_tokenizer_new builds from. Components are JSON texts in the language of
 * tokenizer.json (NULL or "null": none). */
#ifndef GR_TEXT_SPEC_H
#define GR_TEXT_SPEC_H

#include "base/base.h"
#include "graft/tokenizer.h"
#include "text/vocab.h"

/* A pair of tokens that become one: its two texts lie behind each other in merge_texts. */
typedef struct gr_merge {
    uint32_t offset, left_len, right_len;
} gr_merge;

/* SentencePiece's and GGUF's kinds of token, with their numbers. */
typedef enum gr_token_type {
    GR_TOKEN_UNDEFINED = 0,
    GR_TOKEN_NORMAL = 1,
    GR_TOKEN_UNKNOWN = 2,
    GR_TOKEN_CONTROL = 3,
    GR_TOKEN_USER_DEFINED = 4,
    GR_TOKEN_UNUSED = 5,
    GR_TOKEN_BYTE = 6
} gr_token_type;

typedef struct gr_added_spec {
    char *text; /* in the spec's arena */
    size_t len;
    bool special, normalized, lstrip, rstrip, single_word;
} gr_added_spec;

typedef struct gr_template_spec {
    char *name, *text; /* in the spec's arena */
    size_t len;
} gr_template_spec;

#define GR_N_SPECIAL (GRAFT_TOKEN_MASK + 1)

typedef struct gr_tokenizer_spec {
    const graft_allocator *a;
    gr_arena arena; /* small texts */

    const char *model; /* "BPE", ... : a name of token_model.def */
    gr_vocab vocab;
    gr_buf merge_texts;
    gr_merge *merges;
    size_t n_merges, merges_cap;
    double *scores; /* one a token, or NULL: Unigram, and BPE by_scores */
    uint8_t *types; /* gr_token_type, one a token, or NULL */
    bool by_scores; /* BPE that merges what scores best (SentencePiece) instead of following `merges` */
    bool lenient;   /* merges may name pieces that are no tokens (llama.cpp goes by their texts) */
    const char *unk_token, *prefix, *suffix; /* continuing_subword_prefix, end_of_word_suffix; NULL: none */
    bool fuse_unk, byte_fallback, ignore_merges;
    int64_t unk_id;          /* Unigram; -1: none */
    int64_t max_input_chars; /* WordPiece, for which unk_token NULL is "[UNK]", prefix NULL "##" */

    const char *normalizer, *pre_tokenizer, *post_processor, *decoder; /* JSON text */
    gr_added_spec *added;
    size_t n_added, added_cap;
    gr_map added_index; /* text to place in `added` */

    const char *special[GR_N_SPECIAL]; /* token texts, NULL: none */
    int32_t special_id[GR_N_SPECIAL];  /* used where the text is NULL; -1: none */
    int32_t *eos;                      /* further ids that end a generation */
    size_t n_eos, eos_cap;
    int add_bos, add_eos; /* 1, 0: override what the post-processor does; -1: leave it */

    gr_template_spec *templates;
    size_t n_templates, templates_cap;
} gr_tokenizer_spec;

void gr_spec_init(gr_tokenizer_spec *s, const graft_allocator *a);
void gr_spec_free(gr_tokenizer_spec *s);
/* Each copies its text. */
graft_status gr_spec_add_merge(gr_tokenizer_spec *s, const char *left, size_t n_left, const char *right,
                               size_t n_right, graft_error *err);
/* A later token of the same text replaces the earlier one. */
graft_status gr_spec_add_added(gr_tokenizer_spec *s, const gr_added_spec *token, graft_error *err);
graft_status gr_spec_add_eos(gr_tokenizer_spec *s, int32_t id, graft_error *err);
graft_status gr_spec_add_template(gr_tokenizer_spec *s, const char *name, const char *text, size_t len,
                                  graft_error *err);
graft_status gr_spec_text(gr_tokenizer_spec *s, const char *text, size_t len, const char **out, graft_error *err);

#endif
