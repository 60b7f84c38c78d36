/* Generation: sampling from a model, one prompt or many at once, in a session that keeps what was computed. */
#ifndef GRAFT_GENERATE_H
#define GRAFT_GENERATE_H

#include "graft/model.h"
#include "graft/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How the next token is chosen. The logits are changed in the order that transformers 5 uses: repetition penalty,
 * temperature, top-k, top-p, min-p; then one token is drawn, or with `greedy` the most likely one is taken (the lowest
 * id on a tie; the penalty still applies). The draw depends on seed, the number of the sequence in the call and the
 * position, not on other sequences or threads. */
typedef struct graft_sampling {
    int greedy;
    double temperature;    /* > 0 */
    int64_t top_k;         /* the k most likely tokens; 0: all */
    double top_p;          /* the fewest tokens whose probabilities sum to at least this (Holtzman et al. 2020); 1: all */
    double min_p;          /* tokens at least this share of the most likely one's probability (Nguyen et al. 2024); 0: all */
    double repeat_penalty; /* logits of tokens seen in prompt and output are divided by it, or multiplied where negative
                              (Keskar et al. 2019); 1: none */
    uint64_t seed;
} graft_sampling;

/* What the model's generation_config.json suggests; greedy where it does not ask for sampling. */
graft_status graft_sampling_default(const graft_model *m, graft_sampling *out, graft_error *err);

/* When a beam search ends that has as many finished sequences as beams: as soon as it has them (YES), once no running
 * beam scores more than the worst of them (NO, transformers' False), or once none could whatever its length (NEVER). */
typedef enum graft_early_stopping {
    GRAFT_EARLY_STOPPING_NO,
    GRAFT_EARLY_STOPPING_YES,
    GRAFT_EARLY_STOPPING_NEVER
} graft_early_stopping;

/* How a session keeps keys and values. AUTO: in the type of the computation. BF16: of a model that computes in f32, rounded.
 * INT8: blocks of 32 with a scale each (ggml's Q8_0), 8.5 bits an element. What was computed of a token is read as it was kept
 * from the first use on, so that no output depends on the batch, on prompt lookup or on how a prompt was cut. */
typedef enum graft_kv_dtype { GRAFT_KV_AUTO, GRAFT_KV_F32, GRAFT_KV_BF16, GRAFT_KV_INT8 } graft_kv_dtype;

typedef struct graft_generate_options {
    graft_sampling sampling;
    int64_t max_new_tokens;   /* -1: until the model's max_position_embeddings */
    int64_t min_new_tokens;   /* ends of text are not chosen before */
    const char *const *stop;  /* texts that end a sequence and are not part of it */
    size_t n_stop;
    int ignore_eos;           /* go on after an end of text */
    int keep_special;         /* special tokens stay in the text */
    const char *adapter;      /* name of an adapter of the model; NULL: the bare model */
    const char *const *adapters; /* one for each prompt, entries NULL: `adapter`; NULL: all `adapter` */
    const int32_t *task_ids;  /* one for each prompt, of an adapter that has tasks; entries -1, or NULL: none */
    size_t max_batch;         /* sequences computed together; 0: 32 */
    int64_t no_repeat_ngram_size; /* no n tokens in a row come twice (prompt included, of decoders); 0: they may */
    /* Beam search instead of sampling where there are more than 1: the sequences that are returned are the best of so
     * many, by the sum of their log probabilities over length^length_penalty. They end at an end of text or by length;
     * no stop texts. */
    size_t num_beams;
    double length_penalty;    /* 1 */
    graft_early_stopping early_stopping;
    /* Prompt lookup (Saxena 2023): where the last tokens came before in prompt or output, up to
     * prompt_lookup_num_tokens tokens that followed there are computed along, and kept as far as they are what is
     * chosen anyway. Changes no output. Of the places that agree with the last tokens the latest of those with the
     * most in common is taken; max_matching_ngram_size tokens count. */
    int64_t prompt_lookup_num_tokens; /* 0: none; at most 256 */
    int64_t max_matching_ngram_size;  /* 0: 2 */
    graft_kv_dtype kv_cache_dtype;    /* another one than in the session's last call: nothing of that call is reused */
} graft_generate_options;
graft_generate_options graft_generate_options_default(void); /* greedy, 256 new tokens */

typedef enum graft_finish { GRAFT_FINISH_STOP, GRAFT_FINISH_LENGTH, GRAFT_FINISH_CANCELLED } graft_finish;

typedef struct graft_generation {
    char *text; /* what was generated, NUL-terminated UTF-8 */
    size_t len;
    int32_t *ids; /* what was generated, the end-of-text token included when there was one */
    size_t n_ids;
    graft_finish finish;
    double score; /* of beam search: log probability over length^length_penalty; else 0 */
} graft_generation;

typedef struct graft_input_ids {
    const int32_t *ids;
    size_t n;
} graft_input_ids;

/* Called as text becomes certain; `sequence` is the number of the prompt (times n_return plus the copy). A result other
 * than 0 ends that sequence. */
typedef int (*graft_piece_fn)(void *user, size_t sequence, const char *piece, size_t len);

typedef struct graft_session graft_session;

/* A session keeps the keys and values of the last prompt and its first continuation, so that a prompt that begins alike
 * (the next turn of a conversation) is not computed again. Model and tokenizer must outlive it. */
graft_status graft_session_new(graft_model *m, const graft_tokenizer *tok, graft_session **out, graft_error *err);
void graft_session_free(graft_session *s);

/* A model with an encoder answers a prompt, which is its source, instead of continuing it. Ids of a prompt that names pseudo-tokens of
 * its adapter are -1, -2, ... (graft_prompts_load and graft_prompt_fill make them).
 * Continues each of n prompts n_return times; out has room for n * n_return generations, each freed with
 * graft_generation_free. Prompts are computed together, their copies share the prompt's keys and values. An empty prompt
 * is an error. GRAFT_ERR_LIMIT: the prompt alone fills the model's positions; max_new_tokens is cut to what is left of
 * them. */
graft_status graft_generate(graft_session *s, const graft_input_ids *prompts, size_t n, size_t n_return,
                            const graft_generate_options *options, graft_piece_fn piece, void *user,
                            graft_generation *out, graft_error *err);
void graft_generation_free(graft_context *ctx, graft_generation *g);

/* Of the last call. */
typedef struct graft_generate_stats {
    size_t prompt_tokens, reused_tokens, new_tokens;
    size_t proposed_tokens, accepted_tokens; /* of prompt lookup */
    double prompt_seconds, new_seconds;
    double first_token_seconds; /* from the call to the first token */
    size_t kv_bytes;            /* what the session holds for keys and values after the call, free blocks included */
} graft_generate_stats;
graft_generate_stats graft_session_stats(const graft_session *s);

#ifdef __cplusplus
}
#endif
#endif
