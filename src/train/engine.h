/* Room 9, train: fine-tuning. engine.h runs batches through the model, optimizer.h and schedule.h turn gradients into
 * new parameters, checkpoint.h keeps runs safe on disk, trainer.h ties them to the loop, events.h and plot.h show runs.
 *
 * The engine: a batch of any size is cut into micro-batches that fit memory, and what comes out does not depend on the
 * cuts: losses are added one label after the other in the order of the batch, and the tape adds gradients one sequence
 * after the other. */
#ifndef GR_TRAIN_ENGINE_H
#define GR_TRAIN_ENGINE_H

#include "adapter/adapter.h"
#include "data/targets.h"
#include "train/trunk.h"

/* What the backward computes again instead of having it kept. No bit depends on it. */
typedef enum gr_recompute {
    GR_RECOMPUTE_NOTHING,
    GR_RECOMPUTE_CHEAP, /* norms and activations */
    GR_RECOMPUTE_LAYERS /* whole layers */
} gr_recompute;

typedef struct gr_engine_options {
    const gr_hooks *hooks; /* NULL: the bare model */
    int32_t adapter;       /* for every sequence, -1: none */
    uint64_t seed;         /* of dropout */
    size_t max_seqs;       /* of a micro-batch; 0: any number */
    size_t max_tokens;     /* of a micro-batch, where it has more than one sequence; 0: any number */
    gr_recompute recompute;
    gr_adapter_set *set; /* of `adapter`, which is refreshed for each step; NULL: none */
    gr_trunk *trunk;  /* NULL: none; else layers below trunk_layer are run once for each sequence */
    int trunk_layer;
} gr_engine_options;

/* Identity of a token for dropout: (seed, step, example, place in its sequence), which no way of batching changes. */
uint64_t gr_engine_record_key(uint64_t seed, int64_t step, uint32_t example);
uint64_t gr_engine_token_key(uint64_t record_key, int32_t place);
/* Of dropout within an adapter's own networks. */
uint64_t gr_engine_adapter_key(uint64_t seed, int64_t step);

/* Sums over batches; start from zero. */
typedef struct gr_tally {
    double loss; /* of all labels, not weighted */
    int64_t n_labels, n_correct, n_tokens, n_seqs;
    gr_class_tally *classes; /* of a classification: what was predicted is entered; NULL: not wanted */
} gr_tally;

typedef struct gr_engine gr_engine;
graft_status gr_engine_new(gr_model *m, const gr_engine_options *o, gr_engine **out, graft_error *err);
void gr_engine_free(gr_engine *e);
/* Before the first batch. */
void gr_engine_set_limits(gr_engine *e, size_t max_seqs, size_t max_tokens, gr_recompute recompute);

/* Adds the gradient of the mean loss over the batch's labels to the parameters' gradients; one call a step gives the same
 * bits for any cut of its batch. `step` makes dropout differ
 * from step to step. GRAFT_ERR_NUMERIC: a loss is not finite; gr_engine_bad_example tells whose. After any failure the
 * gradients are of no use. */
graft_status gr_engine_train(gr_engine *e, const gr_data_batch *b, int64_t step, gr_tally *tally, graft_error *err);
graft_status gr_engine_eval(gr_engine *e, const gr_data_batch *b, gr_tally *tally, graft_error *err);
uint32_t gr_engine_bad_example(const gr_engine *e);

/* Peak of the step arena over the larger micro-batches of this batch, without running anything; and the most tokens
 * (and sequences) of one. */
graft_status gr_engine_plan(gr_engine *e, const gr_data_batch *b, bool backward, size_t *pool_bytes, graft_error *err);
size_t gr_engine_largest_micro(const gr_engine *e, const gr_data_batch *b, size_t *n_seqs);
/* Takes the step arena's memory now. */
graft_status gr_engine_reserve(gr_engine *e, size_t pool_bytes, graft_error *err);
/* A step arena that engines share, each in its turn, in place of one of its own; before gr_engine_reserve. Borrowed. */
void gr_engine_use_pool(gr_engine *e, gr_pool *pool);

#endif
