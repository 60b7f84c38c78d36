/* Post-processors: the special tokens around a sequence, and the trimming of spaces from spans. */
#ifndef GR_TEXT_POSTPROC_H
#define GR_TEXT_POSTPROC_H

#include "base/base.h"
#include "base/json.h"

/* Of a pair: its first or second sequence, or a token. */
typedef struct gr_pair_piece {
    int sequence; /* 0, 1; -1: a token */
    int32_t id, type;
} gr_pair_piece;

typedef struct gr_postproc {
    const graft_allocator *a;
    int32_t *front, *back; /* ids around a sequence */
    size_t n_front, front_cap, n_back, back_cap;
    gr_pair_piece *pair; /* NULL: two sequences one after the other */
    size_t n_pair, pair_cap;
    bool trim, trim_prefix_space; /* ByteLevel's trim_offsets, add_prefix_space */
} gr_postproc;

/* `json` NULL or null: nothing is added. */
graft_status gr_postproc_init(gr_postproc *p, const graft_allocator *a, const gr_json_value *json, graft_error *err);
void gr_postproc_free(gr_postproc *p);
graft_status gr_postproc_add_front(gr_postproc *p, int32_t id, graft_error *err); /* outermost */
graft_status gr_postproc_add_back(gr_postproc *p, int32_t id, graft_error *err);

#endif
