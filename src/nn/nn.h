/* Room 6, nn: what model families are built of. Linear products, norms, embeddings and attention at seams, over a
 * ragged batch. */
#ifndef GR_NN_H
#define GR_NN_H

#include "nn/batch.h"
#include "nn/seam.h"

/* A running pass. Hooks read it. */
struct gr_run {
    gr_tape *tape;
    const gr_batch *batch;
    const gr_hooks *hooks; /* NULL: the bare model */
    /* Rows in flight: n_rows rows, sequence s of the batch is bounds[s] .. bounds[s+1]-1, row r is token `token[r]` of
     * the batch (NULL: row r is token r). */
    int64_t n_rows;
    const int32_t *bounds;
    const int32_t *token;
    const uint64_t *dropout_key; /* of each row in flight; NULL: the row number */
};

#endif
