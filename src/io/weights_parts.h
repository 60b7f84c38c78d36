/* Parts of gr_weights in files of their own. Inside room io only. */
#ifndef GR_IO_WEIGHTS_PARTS_H
#define GR_IO_WEIGHTS_PARTS_H

#include "io/weights.h"

/* Joins what bitsandbytes keeps beside a weight to that weight's view (weights_bnb.c): *n items, by name, become fewer.
 * Scales lie in the arena. */
graft_status gr_weights_join_scales(const graft_allocator *a, gr_arena *arena, gr_weight *items, size_t *n, graft_error *err);

#endif
