/* What the layers below the lowest trained one give, kept from epoch to epoch: these layers are frozen and see no dropout,
 * so a sequence of tokens always leaves them as the same rows, whatever its batch. Rows are found by the sequence's tokens (and their
 * types, behind them in the key); when the budget is used up, further sequences are computed each time. */
#ifndef GR_TRAIN_TRUNK_H
#define GR_TRAIN_TRUNK_H

#include "base/base.h"

typedef struct gr_trunk gr_trunk;

/* row_bytes: of one token's row. dir: rows lie in an unnamed file there, which the system writes out as it needs memory;
 * NULL: in memory. */
graft_status gr_trunk_new(const graft_allocator *a, size_t row_bytes, size_t budget, const char *dir, gr_trunk **out,
                          graft_error *err);
void gr_trunk_free(gr_trunk *t);
/* The rows of the sequence with a key of n numbers, NULL where it is not kept. */
const void *gr_trunk_find(gr_trunk *t, const int32_t *key, size_t n);
/* Keeps the rows of a sequence, where the budget (and the disk) still has room. */
graft_status gr_trunk_add(gr_trunk *t, const int32_t *key, size_t n, const void *rows, size_t n_rows, graft_error *err);

typedef struct gr_trunk_stats {
    size_t used;         /* bytes of the budget */
    int64_t kept, found; /* sequences */
    int64_t missed;      /* lookups of sequences that are not kept */
} gr_trunk_stats;
gr_trunk_stats gr_trunk_get_stats(const gr_trunk *t);
/* Bytes of the budget that a sequence takes. */
size_t gr_trunk_cost(size_t row_bytes, size_t n_rows, size_t n_key);

#endif
