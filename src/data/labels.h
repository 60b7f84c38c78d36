/* Labels of classification records: their names, what a record's label says, and how well predictions agree. */
#ifndef GR_DATA_LABELS_H
#define GR_DATA_LABELS_H

#include "data/record.h"

/* What labels may be. `problem` is not AUTO. */
typedef struct gr_label_rule {
    graft_problem problem;
    size_t n;
    const char *const *names;
    gr_map index; /* of the names */
} gr_label_rule;

/* Names are borrowed. */
graft_status gr_label_rule_init(gr_label_rule *r, const graft_allocator *a, graft_problem problem,
                                const char *const *names, size_t n, graft_error *err);
void gr_label_rule_free(gr_label_rule *r);
/* The problem that a label is of where nothing else says so: of several labels where it is a list. */
graft_problem gr_label_problem(const gr_record *record, size_t n_labels);
/* A record's label as a class (SINGLE), or as n values. Errors name no place. */
graft_status gr_label_read(const gr_label_rule *r, const gr_record *record, int32_t *class, float *values,
                           graft_error *err);

/* --- Agreement -------------------------------------------------------------------------------------------------------------------- */

/* Sums over predictions; zero-initialise with n and problem. */
typedef struct gr_class_tally {
    const graft_allocator *a;
    graft_problem problem;
    size_t n;              /* labels */
    int64_t *counts; /* SINGLE: (n, n), true class by predicted; MULTI: (n, 4): true negatives, false positives, false
                              negatives, true positives of each label */
    int64_t n_rows, n_right; /* MULTI: where all labels are right */
    double sum[5], squares;  /* REGRESSION: of x, y, xx, yy, xy over all numbers; of squared differences */
    int64_t n_numbers;
} gr_class_tally;

graft_status gr_class_tally_init(gr_class_tally *t, const graft_allocator *a, graft_problem problem, size_t n,
                                 graft_error *err);
void gr_class_tally_free(gr_class_tally *t);
/* One row: n logits, its class (negative: none) or its n values. */
void gr_class_tally_add(gr_class_tally *t, const float *logits, int32_t class, const float *values);
/* As scikit-learn's accuracy_score, f1_score(average="macro", zero_division=0), mean_squared_error, and scipy's pearsonr. NaN
 * where there is nothing to say. */
double gr_class_accuracy(const gr_class_tally *t);
double gr_class_f1(const gr_class_tally *t);
double gr_class_mse(const gr_class_tally *t);
double gr_class_pearson(const gr_class_tally *t);

#endif
