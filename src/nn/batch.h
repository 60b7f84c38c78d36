/* The ragged batch: the one form in which tokens reach a model, in training, evaluation and serving.
 *
 * Tokens of all sequences lie in one row without padding; sequence s is tokens bounds[s] .. bounds[s+1]-1. A batch is a
 * plain struct over memory of the caller, which must live until the backward of the pass is done. */
#ifndef GR_NN_BATCH_H
#define GR_NN_BATCH_H

#include "io/hf_config.h"
#include "kernel/kernel.h"

/* Where keys and values of new tokens go: n rows at k and v, lds as of gr_kv_segment. */
typedef struct gr_kv_target {
    void *k, *v;
    int64_t k_ld, v_ld, n;
    gr_kv_format format;
    int64_t head;
} gr_kv_target;

/* One sequence in one layer: its history in order of position, and the targets into which the rows of the batch's
 * tokens are copied, filled one after the other (they must hold the sequence's tokens, or there are none). The
 * segments' dk and dv are NULL: no gradient flows into a history. */
typedef struct gr_kv_layer {
    int n_segments, n_targets;
    const gr_kv_segment *segments;
    const gr_kv_target *targets;
} gr_kv_layer;

/* History of one sequence, n_layers entries. A shared prefix is a segment that several sequences name. Where rows are kept with
 * less than the compute type has, the segments are `whole`: they hold the rows of the batch's tokens too, which attention then
 * reads as they are kept. So it makes no difference in how many passes a sequence comes. */
typedef struct gr_kv {
    int n_layers;
    const gr_kv_layer *layers;
    bool whole; /* of a sequence without parent that no other one continues and that is not blind */
} gr_kv;

/* What a classification head is to say of sequences. */
typedef struct gr_class_targets {
    int64_t n;
    const int32_t *rows;    /* n tokens of the batch, ascending: whose hidden states the head takes */
    gr_problem problem;     /* SINGLE, MULTI or REGRESSION */
    const int32_t *classes; /* n, of SINGLE; < 0: none */
    const float *values;    /* (n, labels), of the others: 0 and 1, or numbers */
    const float *weight;    /* n: factor of each one's loss; NULL: 1 */
} gr_class_targets;

typedef struct gr_batch gr_batch;
struct gr_batch {
    int64_t n_tokens;
    int n_seqs;
    const int32_t *bounds;     /* n_seqs + 1, ascending, bounds[0] = 0 */
    const int32_t *ids;        /* n_tokens, 0 <= id < vocab; -1 - i: row i of the adapter's virtual input rows (see n_virtual in
                                  gr_hooks) */
    const int32_t *positions;  /* n_tokens, for position embedding; NULL: counted from seq_start of each sequence */
    const int32_t *token_types; /* n_tokens, of models that have token types; NULL: all 0 */
    const int32_t *seq_start;  /* n_seqs: place of the first token within its sequence, for masks and windows; NULL:
                                  0, or where the history ends */
    const int32_t *parent;     /* n_seqs: an earlier sequence of the batch that this one continues (it sees all of the
                                  parent's tokens and what the parent sees), -1 none; NULL: none at all */
    const int32_t *rope_length; /* n_seqs: length for which dynamic NTK scaling is computed; NULL: the sequence's largest
                                  position + 1 */
    const bool *blind;         /* n_seqs: nobody sees the sequence's own tokens, not even they themselves (masked
                                  positions whose logits are wanted); NULL: none */
    const int32_t *adapter;    /* n_seqs: index in the adapter set, -1 the bare model; NULL: `one_adapter` for all */
    int32_t one_adapter;       /* where adapter is NULL: the index for every sequence, -1 the bare model */
    const gr_kv *const *kv;    /* n_seqs: history, NULL entries: none; NULL: none at all */

    /* Models with an encoder: the sequences above are targets, and each reads one source, with the adapter that it has
     * itself. A source may be several sequences that continue each other in order (its parts, where something is left
     * out); they see each other both ways. The targets of its kv get the keys and values that cross-attention makes of
     * it. */
    const gr_batch *source;    /* NULL: every target has a source_kv */
    const int32_t *reads; /* n_seqs: the first sequence in `source` of what each target reads; NULL: its own number */
    const gr_kv *const *source_kv; /* n_seqs: keys and values kept from a pass before, in place of `reads`; NULL
                                      entries: none; NULL: none at all */

    /* Losses. */
    const int32_t *labels;     /* n_tokens, the id that is to follow each token (shifted already), < 0: none */
    const gr_class_targets *targets; /* of a model that classifies, in place of labels; NULL: none */
    const float *weight;       /* n_tokens: factor of each token's loss; NULL: 1 */

    /* Dropout: active where `training`. */
    bool training;
    uint64_t seed;
    const uint64_t *dropout_key; /* n_tokens: identity of each token (step, record, position); NULL: its row number */
};

/* Checks everything above but the source against the model's sizes (vocab -1: ids are not looked at; n_layers: those
 * with a history). Errors name the sequence or token. */
graft_status gr_batch_check(const gr_batch *b, int64_t vocab, int n_layers, int n_adapters, graft_error *err);

/* Adapter of sequence s. */
static inline int32_t gr_batch_adapter(const gr_batch *b, int s) { return b->adapter ? b->adapter[s] : b->one_adapter; }

#endif
