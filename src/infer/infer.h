/* Room 8, infer: running a model to get tokens out of it. Keys and values in blocks that sequences share, the choice of
 * the next token, and the loop that computes many sequences in one ragged batch. */
#ifndef GR_INFER_H
#define GR_INFER_H

#include "graft/generate.h"
#include "model/public.h"

/* --- Keys and values ------------------------------------------------------------------------------------------------ */

/* Rows of a block, for every layer. Whole blocks are shared between sequences with a common beginning. */
enum { GR_KV_ROWS = 64 };

typedef struct gr_kv_store gr_kv_store; /* blocks of one model; unused ones are kept for the next sequence */
typedef struct gr_kv_block gr_kv_block;

typedef struct gr_kv_seq {
    gr_kv_store *store;
    gr_kv_block **blocks;
    size_t n_blocks, cap_blocks;
    int64_t length; /* rows that hold keys and values */
    /* The view handed to the model, rebuilt by gr_kv_seq_extend. */
    gr_kv kv;
    gr_kv_layer *layers;
    gr_kv_segment *segments;
    gr_kv_target *targets;
    size_t cap_segments, cap_targets;
} gr_kv_seq;

graft_status gr_kv_store_new(const gr_model *m, gr_kv_format format, gr_kv_store **out, graft_error *err);
void gr_kv_store_free(gr_kv_store *s); /* all sequences must be freed before */
gr_kv_format gr_kv_store_format(const gr_kv_store *s);
size_t gr_kv_store_bytes(const gr_kv_store *s);

void gr_kv_seq_init(gr_kv_seq *q, gr_kv_store *s);
void gr_kv_seq_free(gr_kv_seq *q);
/* Forgets rows from `length` on. */
void gr_kv_seq_truncate(gr_kv_seq *q, int64_t length);
/* Makes `to` (initialised, empty) begin like `from`. Blocks are shared until one of both writes into the last one. */
graft_status gr_kv_seq_fork(gr_kv_seq *to, const gr_kv_seq *from, int64_t length, graft_error *err);
/* Makes room for n more rows and builds the view q->kv of the history so far, with the new rows where it is `whole`, and where
 * these go. After the pass
 * has run, the caller adds n to q->length. */
graft_status gr_kv_seq_extend(gr_kv_seq *q, int64_t n, graft_error *err);

/* --- Sampling ------------------------------------------------------------------------------------------------------- */

/* Scratch for one vocabulary, kept between tokens. */
typedef struct gr_sampler {
    const graft_allocator *a;
    int64_t vocab;
    float *values;
    int32_t *order;
} gr_sampler;

graft_status gr_sampler_init(gr_sampler *s, const graft_allocator *a, int64_t vocab, graft_error *err);
void gr_sampler_free(gr_sampler *s);
graft_status gr_sampling_check(const graft_sampling *p, graft_error *err);
/* Chooses from logits[vocab], left unchanged. `seen`: tokens for the repetition penalty. `banned`: ids that may not be
 * chosen. Draw number `index` of stream `stream`. GRAFT_ERR_NUMERIC when no logit is finite. */
graft_status gr_sampler_choose(gr_sampler *s, const graft_sampling *p, const float *logits, const int32_t *seen, size_t n_seen,
                               const int32_t *banned, size_t n_banned, uint64_t stream, uint64_t index, int32_t *out,
                               graft_error *err);

/* Log probabilities with penalty and bans, for beam search; borrowed until the next use. */
graft_status gr_sampler_log_probs(gr_sampler *s, const graft_sampling *p, const float *logits, const int32_t *seen,
                                  size_t n_seen, const int32_t *banned, size_t n_banned, const float **out,
                                  graft_error *err);

#endif
