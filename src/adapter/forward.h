/* What graft_forward reads: padded tensors, and the ragged batch that they become. Inside room adapter only. */
#ifndef GR_ADAPTER_FORWARD_H
#define GR_ADAPTER_FORWARD_H

#include "adapter/method.h"

/* The decoder's side of an encoder-decoder is padded input too: without ids these are its labels, or a
 * classifier's source, moved by one. */
typedef struct gr_padded {
    int64_t rows, columns; /* columns with the virtual ones */
    int64_t ahead;         /* virtual columns */
    int64_t placed;        /* pseudo-tokens that input_ids may hold, as -1, -2, ...: of an adapter with a template */
    int64_t n_tasks;       /* of the adapter; 0: none */
    const gr_named_tensor *tasks; /* which one each row has */
    const gr_named_tensor *ids, *mask, *labels, *positions, *types;
    bool shifted;    /* a label is what follows a token */
    bool per_row;    /* labels are of rows: classes or numbers */
    bool encodes;    /* tokens see all of their row */
    int32_t first_id, pad_id; /* where ids is NULL */
    const gr_named_tensor *moved; /* what stands there then, one place on: labels, or of a classifier its source */
} gr_padded;

typedef struct gr_ragged {
    gr_batch batch;
    gr_class_targets targets; /* a row each; its rows are those of the pooler too */
    int32_t *ids, *positions, *types, *labels;
    int32_t *token; /* of each cell (row * columns + column), -1: none */
    int32_t *bounds, *start, *parent, *rope_length;
    int32_t *pooled, *classes;
    int32_t *first, *reads; /* the first sequence of each row; of a target, that of its source's row */
    float *weight, *values;
    bool *blind;
    int64_t n_labels; /* tokens, or rows, with a label */
} gr_ragged;

/* Finds and checks the inputs; `ahead`: virtual columns in front of each row, of one of
 * n_tasks tasks. `path` stands in errors. Of an
 * encoder-decoder `source` has what the encoder reads and `in` the decoder's side; else `source` is left empty. */
graft_status gr_padded_read(const gr_tensor_list *list, const char *path, const gr_model *m, int64_t ahead, int64_t n_tasks, gr_padded *in,
                            gr_padded *source, graft_error *err);
/* Whether cell (row, c) takes part. */
bool gr_padded_visible(const gr_padded *in, int64_t row, int64_t c);

/* Free it whatever is returned. */
graft_status gr_ragged_fill(const graft_allocator *a, gr_ragged *r, const gr_model *m, const gr_padded *in, int32_t adapter,
                            graft_error *err);
/* Makes `targets` read the rows of `source`. */
graft_status gr_ragged_read(gr_ragged *targets, const gr_padded *in, const gr_ragged *source, graft_error *err);
void gr_ragged_free(const graft_allocator *a, gr_ragged *r);

#endif
