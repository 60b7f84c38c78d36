/* Packing of sequences into rows. */
#ifndef GR_DATA_PACK_H
#define GR_DATA_PACK_H

#include "data/data.h"

/* Puts sequences 0..n-1 with lengths[i] in 1..capacity into bins of at most `capacity` tokens: longest first, each into
 * the bin with the least room that still holds it (of those the one that got that room first), else into a new one.
 * order[n] gets the sequences bin after bin, starts[k] .. starts[k+1]-1 are those of bin k; starts holds n + 1. */
graft_status gr_pack_bins(const graft_allocator *a, const uint32_t *lengths, size_t n, uint32_t capacity,
                          uint32_t *order, uint32_t *starts, size_t *n_bins, graft_error *err);

#endif
