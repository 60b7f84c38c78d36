/* What the loader sees of a data set. */
#ifndef GR_DATA_DATASET_H
#define GR_DATA_DATASET_H

#include "data/data.h"

/* Token ids of example i (borrowed), *n of them. */
const int32_t *gr_dataset_ids(const graft_dataset *ds, size_t i, size_t *n);
/* What is learnt, and, of classes, what their labels are (else zeros). */
graft_learn gr_dataset_learn(const graft_dataset *ds);
graft_problem gr_dataset_problem(const graft_dataset *ds);
size_t gr_dataset_n_labels(const graft_dataset *ds);
/* Of a classification: the class of example i (SINGLE), its values (n_labels), and writes its token types. */
int32_t gr_dataset_class(const graft_dataset *ds, size_t i);
const float *gr_dataset_values(const graft_dataset *ds, size_t i);
void gr_dataset_types(const graft_dataset *ds, size_t i, int32_t *out);
/* Of masked tokens: the tokens that may be hidden as labels, or, where *given is set, the record's own labels. Returns how
 * many there are. */
size_t gr_dataset_masked_labels(const graft_dataset *ds, size_t i, int32_t *out, bool *given);
/* The adapter that its record named, where the options have a model; -1: none. */
int32_t gr_dataset_adapter(const graft_dataset *ds, size_t i);
int32_t gr_dataset_task(const graft_dataset *ds, size_t i); /* 0 where there are none */
/* The labels shifted for the engine: out[t] is what follows token t, GRAFT_IGNORE_LABEL at the last. Returns how many
 * count. */
size_t gr_dataset_shifted_labels(const graft_dataset *ds, size_t i, int32_t *out);
/* The label of the first token itself, which follows virtual tokens. */
int32_t gr_dataset_first_label(const graft_dataset *ds, size_t i);
/* How many of an example's tokens are its source's (graft_example.n_source), and the labels of the others, not shifted;
 * returns how many count. */
size_t gr_dataset_n_source(const graft_dataset *ds, size_t i);
size_t gr_dataset_target_labels(const graft_dataset *ds, size_t i, int32_t *out);
/* A data set of given examples (tests, and callers that tokenise themselves): n examples, example i is tokens
 * bounds[i] .. bounds[i+1]-1; labels are those of the tokens themselves. */
graft_status gr_dataset_from_tokens(graft_context *ctx, const int32_t *ids, const int32_t *labels, const size_t *bounds,
                                    size_t n, graft_dataset **out, graft_error *err);

#endif
