/* A crew: the steps of several jobs over one model, their sequences side by side in the micro-batches, so that weights are
 * decoded once for all of them and small jobs fill the products. Each job gets the very bits that gr_engine_train would
 * give it: losses are added label by label in the order of its batch, gradients sequence by sequence, and no row of a
 * pass depends on its neighbours. */
#ifndef GR_TRAIN_CREW_H
#define GR_TRAIN_CREW_H

#include "train/engine.h"

typedef struct gr_crew_item {
    const gr_data_batch *batch;
    int32_t adapter; /* no two items have the same; without a variant, dropout by `seed` */
    uint64_t seed;
    int64_t step;
    gr_tally *tally;
    /* Filled: GRAFT_ERR_NUMERIC where a loss of this job is not finite, and whose; the others' results stand. */
    graft_status status;
    uint32_t bad_example;
    double bad_loss;
} gr_crew_item;

typedef struct gr_crew gr_crew;
/* `pool`: the step arena, borrowed. */
graft_status gr_crew_new(gr_adapter_set *set, gr_pool *pool, size_t max_tokens, gr_recompute recompute, gr_crew **out,
                         graft_error *err);
void gr_crew_free(gr_crew *c);
/* Adds each item's gradients to its adapter's. A failure that is returned is one of all items. */
graft_status gr_crew_train(gr_crew *c, gr_crew_item *items, size_t n, graft_error *err);
/* Peak of the step arena for these items, from dry runs of the larger micro-batches. */
graft_status gr_crew_plan(gr_crew *c, const gr_crew_item *items, size_t n, size_t *pool_bytes, graft_error *err);

#endif
