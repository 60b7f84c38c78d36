/* The state of a pass. Inside room model only. */
#ifndef GR_MODEL_PASS_H
#define GR_MODEL_PASS_H

#include "model/family.h"

/* Arrays that a pass keeps from batch to batch. */
typedef enum gr_pass_array {
    GR_PASS_IDS,
    GR_PASS_POSITIONS,
    GR_PASS_STARTS,
    GR_PASS_COS_SIN,
    GR_PASS_SEQS,
    GR_PASS_OWN_ROWS,
    GR_PASS_PREFIX,
    GR_PASS_GATED,
    GR_PASS_GATED_SEQS,
    GR_PASS_KV_ROWS,
    GR_PASS_WANTED_BOUNDS,
    GR_PASS_WANTED_KEYS,
    GR_PASS_RANGES,
    GR_PASS_WANTED_RANGES,
    GR_PASS_ADAPTERS,
    GR_PASS_WANTED_ADAPTERS,
    GR_PASS_LABEL_ROWS,
    GR_PASS_LABELS,
    GR_PASS_WEIGHTS,
    GR_PASS_LOSSES,
    GR_PASS_HITS,
    GR_PASS_HEAD_ROWS,
    GR_PASS_TOKEN_TYPES,
    GR_PASS_SOURCE_IDS,
    GR_PASS_SOURCE_ROWS,
    GR_PASS_SOURCE_SEQS,
    GR_PASS_SOURCE_OWN_ROWS,
    GR_PASS_SOURCE_RANGES,
    GR_PASS_SOURCE_ADAPTERS,
    GR_PASS_CROSS_SEQS,
    GR_PASS_MOVED_IDS,
    GR_PASS_ARRAYS
} gr_pass_array;

typedef struct gr_layer_call {
    gr_pass *pass;
    int layer;
} gr_layer_call;

struct gr_pass {
    gr_model *model;
    struct {
        void *data;
        size_t bytes;
    } arrays[GR_PASS_ARRAYS];
    gr_layer_call *calls; /* n_layers */
    float *inv_freq;      /* head_dim / 2 */
    double rope_factor;

    gr_tape *tape;
    const gr_batch *batch;
    gr_pass_options options;
    const gr_modules *modules;
    gr_run all, wanted;
    gr_run_adapter *adapters; /* all.adapters */
    bool all_wanted;
    const int32_t *positions, *starts;
    void *cos_sin;
    gr_attention_rows *seqs; /* n_seqs, or n_layers times that where layers differ */
    bool per_layer;
    /* Models with an encoder. twice: of a classifier that reads its text twice, the decoder's batch and its source. */
    gr_batch twice[2];
    gr_run source;
    gr_run_adapter *source_adapters;
    gr_kv_rows *source_rows;                               /* of each of its sequences */
    gr_attention_rows *source_seqs, *cross_seqs, *cross_wanted; /* cross_seqs: n_seqs, or kv layers times that */
    gr_var *encoded;
    int32_t *labels, *hits;
    float *weights;
    double *losses;
};

/* Makes an array at least `bytes` long; what it held is lost when it grows. */
graft_status gr_pass_reserve(gr_pass *p, gr_pass_array which, size_t bytes, void **out, graft_error *err);
/* For every adapter with rows in `run` the ranges of its rows, then its virtual rows among them, then the ids with
 * something in place of negative ones, which only rows with `virtual` may have. */
graft_status gr_pass_fill_adapters(gr_pass *p, gr_run *run, gr_pass_array list_at, gr_pass_array ranges_at,
                                   gr_run_adapter **out, graft_error *err);
graft_status gr_pass_fill_virtual(gr_pass *p, const gr_run *run, gr_run_adapter *adapters, gr_pass_array where,
                                  graft_error *err);
graft_status gr_pass_fill_ids(gr_pass *p, gr_run *run, gr_pass_array where, bool virtual, graft_error *err);
/* pass_source.c: the batch of a classifier as its decoder and its encoder read it; others are left as they are. */
graft_status gr_pass_read_twice(gr_pass *p, const gr_batch **b, graft_error *err);
/* The source side of the batch, and what its targets see. */
graft_status gr_pass_begin_source(gr_pass *p, int n_adapters, graft_error *err);
/* Checks the batch and fills everything that does not depend on activations. */
graft_status gr_pass_begin(gr_pass *p, gr_tape *t, const gr_batch *b, const gr_pass_options *o, const int32_t *rows,
                           int64_t n_rows, graft_error *err);

#endif
