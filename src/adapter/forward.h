/* What graft_forward reads: padded tensors, and the ragged batch that they become. Inside room adapter only. */
#ifndef GR_ADAPTER_FORWARD_H
#define GR_ADAPTER_FORWARD_H

#include "adapter/method.h"

typedef struct gr_padded {
    int64_t rows, columns; /* columns with the virtual ones */
    int64_t ahead;         /* virtual columns */
    const gr_named_tensor *ids, *mask, *labels, *positions;
} gr_padded;

typedef struct gr_ragged {
    gr_batch batch;
    int32_t *ids, *positions, *labels, *cell; /* cell: row * columns + column of each token */
    int32_t *bounds, *start, *parent, *rope_length;
    float *weight;
    bool *blind;
    int64_t n_labels;
} gr_ragged;

/* Finds and checks the inputs; `ahead`: virtual columns in front of each row. `path` stands in errors. */
graft_status gr_padded_read(const gr_tensor_list *list, const char *path, int64_t ahead, gr_padded *in, graft_error *err);
/* Whether cell (row, c) takes part. */
bool gr_padded_visible(const gr_padded *in, int64_t row, int64_t c);

/* Free it whatever is returned. */
graft_status gr_ragged_fill(const graft_allocator *a, gr_ragged *r, const gr_padded *in, int32_t adapter, graft_error *err);
void gr_ragged_free(const graft_allocator *a, gr_ragged *r);

#endif
