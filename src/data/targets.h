/* From a batch of classified records to what a model's head is to say of each sequence. */
#ifndef GR_DATA_TARGETS_H
#define GR_DATA_TARGETS_H

#include "data/labels.h"
#include "data/loader.h"
#include "model/model.h"

typedef struct gr_target_rows {
    gr_class_targets targets;
    int32_t *pooled;
    float *weight, *row; /* row: logits of one sequence */
    size_t pooled_cap, weight_cap, row_cap;
} gr_target_rows;
void gr_target_rows_free(gr_target_rows *r, const graft_allocator *a);
/* Every record of a classification must have the token that the model's head looks at; an error names the first one
 * that lacks it. */
graft_status gr_targets_check(const gr_model *m, const graft_dataset *ds, graft_error *err);
/* Targets and token types of sequences from, from + 1, ... of `b`, which stand in `out`; nothing for other records. Borrowed
 * from both. */
graft_status gr_target_rows_fill(gr_target_rows *r, const graft_allocator *a, const gr_model *m, const gr_data_batch *b,
                                 size_t from, gr_batch *out, graft_error *err);
/* Enters what was predicted. */
void gr_target_rows_count(const gr_target_rows *r, const gr_loss *loss, gr_class_tally *t);

#endif
