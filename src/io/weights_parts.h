/* Parts of gr_weights in files of their own. Inside room io only. */
#ifndef GR_IO_WEIGHTS_PARTS_H
#define GR_IO_WEIGHTS_PARTS_H

#include "io/weights.h"

/* Joins what bitsandbytes and compressed-tensors keep beside a weight to that weight's view (weights_bnb.c,
 * weights_compressed.c): *n items, by name, become fewer. Scales lie in the arena. */
typedef struct gr_joiner {
    gr_arena *arena;
    gr_weight *items; /* by name */
    bool *taken;      /* items that belong to another one */
    size_t n;
} gr_joiner;
/* By name; NULL: there is none. */
gr_weight *gr_joiner_find(const gr_joiner *j, const char *name);
/* The weight of a module in CHANNEL8; item `at` is its weight_scale. */
graft_status gr_weights_join_channel8(gr_joiner *j, size_t at, const char *module, graft_error *err);

graft_status gr_weights_join_scales(const graft_allocator *a, gr_arena *arena, gr_weight *items, size_t *n, graft_error *err);

#endif
