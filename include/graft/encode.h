/* What encoders and classifiers say of texts: scores of labels, likely words in the place of masks, embeddings. */
#ifndef GRAFT_ENCODE_H
#define GRAFT_ENCODE_H

#include "graft/model.h"
#include "graft/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct graft_text {
    const char *text;
    size_t len;
    const char *pair; /* a second text; NULL: none */
    size_t pair_len;
    /* Tokens in place of both, as graft_prompts_load and graft_prompt_fill make them of an adapter's template; NULL: none. Without
     * them a text is put into the template as by graft_prompt_fill. */
    const int32_t *ids;
    size_t n_ids;
} graft_text;

/* Zero-initialise for the defaults. */
typedef struct graft_encode_options {
    const char *adapter;  /* name of an adapter of the model, NULL: none */
    int64_t max_length;   /* tokens of a text; 0: what the model (for embeddings sentence_bert_config.json) allows */
    int raw;              /* classification: logits instead of scores */
    const int32_t *task_ids; /* one for each text, of an adapter that has tasks; entries -1, or NULL: none */
} graft_encode_options;

/* Scores of every label for n texts, (n, graft_model_n_labels), as transformers' text-classification pipeline gives them:
 * softmax where one class holds, sigmoid where several may (and of a single label), the numbers themselves of a regression. A masked
 * language model with an adapter whose template has words for labels scores these, (n, graft_adapter_n_words): softmax over the
 * logits of the words at [MASK]. */
graft_status graft_classify(graft_model *m, const graft_tokenizer *tok, const graft_text *texts, size_t n,
                            const graft_encode_options *options, float *out, graft_error *err);

typedef struct graft_fill {
    int32_t id;
    float score; /* probability */
} graft_fill;

/* The k likeliest tokens at every mask token of a text, (*n_masks, k) ordered, as transformers' fill-mask pipeline. *out is
 * freed with graft_free. No mask at all is GRAFT_ERR_ARGUMENT. */
graft_status graft_fill_mask(graft_model *m, const graft_tokenizer *tok, const graft_text *text, size_t k,
                             const graft_encode_options *options, graft_fill **out, size_t *n_masks, graft_error *err);

/* Embeddings of n texts, (n, graft_model_embedding_size), as sentence-transformers makes them: the pooling that
 * 1_Pooling/config.json names (without it the mean over the tokens), of Euclidean length 1 where modules.json normalises. For
 * bare encoders (task_type FEATURE_EXTRACTION) and decoders. */
graft_status graft_embed(graft_model *m, const graft_tokenizer *tok, const graft_text *texts, size_t n,
                         const graft_encode_options *options, float *out, graft_error *err);
size_t graft_model_embedding_size(const graft_model *m);

#ifdef __cplusplus
}
#endif
#endif
