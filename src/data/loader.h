/* Batches in a fixed order: what a trainer reads. The order of an epoch is a pure function of (seed, epoch), the state
 * between two batches is one integer cursor, so that a run goes on exactly where it was cut.
 *
 * The engine is ragged: a batch is a list of sequences without padding, which never attend to each other and each start
 * at position 0. Packing therefore only decides which sequences share a batch: a row is a bin of sequences with at most
 * max_length tokens together, filled as trl's "bfd" strategy does (best fit decreasing over runs of 1000 examples,
 * Ding et al. 2024, "Fewer truncations improve language modeling"), and a batch is batch_size rows. Without packing a
 * row is one sequence. */
#ifndef GR_DATA_LOADER_H
#define GR_DATA_LOADER_H

#include "data/data.h"

typedef struct gr_loader_options {
    size_t batch_size; /* rows a batch; > 0 */
    bool packing;
    size_t max_length; /* tokens a row with packing; no example may be longer */
    bool shuffle;      /* else the order of the files */
    uint64_t seed;
    int n_virtual; /* virtual tokens (ids -1, -2, ...) in front of every sequence (source), not counted in max_length */
    bool seq2seq;  /* source and target apart; a target begins with start_id and has its own tokens as labels */
    int32_t start_id;
    int32_t pad_id; /* what stands among the decoder's inputs for an ignored label, as the reference moves labels */
    /* Of masked tokens: the id that hides one, random ids are below vocab_size, and the share that is hidden. */
    int32_t mask_id;
    int64_t vocab_size;
    double mlm_probability;
} gr_loader_options;

/* Where the next batch starts. Zero at the beginning of a run. */
typedef struct gr_data_cursor {
    uint64_t epoch;
    uint64_t row; /* rows already given in this epoch, less than the rows of an epoch */
} gr_data_cursor;

/* Borrowed from the loader until the next call. Sequence s is tokens bounds[s] .. bounds[s+1]-1; labels[t] is the id to
 * be predicted after token t, GRAFT_IGNORE_LABEL where none is (always at the last token of a sequence). Of masked tokens it is
 * the id that token t has to be: mlm_probability of them in each epoch anew, at least one of a sequence, 80 % of which become
 * mask_id, 10 % a random id, as transformers' DataCollatorForLanguageModeling does it. Of a classification the labels are
 * those of sequences. */
typedef struct gr_data_batch {
    size_t n_seqs, n_tokens, n_labels; /* n_labels: labels that are not ignored */
    const int32_t *bounds;             /* n_seqs + 1 */
    const int32_t *ids, *labels;       /* n_tokens each */
    const int32_t *adapters;           /* n_seqs: those that the records named, see gr_dataset_adapter */
    const uint32_t *examples;          /* n_seqs: index in the data set, an identity that no batching changes */
    /* With seq2seq: sequence s is a target, and source_bounds[s] .. source_bounds[s+1]-1 of source_ids its source. */
    const int32_t *source_bounds, *source_ids; /* NULL: none */
    const int32_t *types;              /* n_tokens: token types; NULL: all 0 */
    graft_problem problem;             /* of a classification; else AUTO */
    size_t n_values;                   /* labels of the classification */
    const int32_t *classes;            /* n_seqs, of SINGLE */
    const float *values;               /* (n_seqs, n_values), of MULTI and REGRESSION */
} gr_data_batch;

/* Tokens of sequences [from, end), sources included. */
static inline size_t gr_data_batch_tokens(const gr_data_batch *b, size_t from, size_t end) {
    size_t n = (size_t)(b->bounds[end] - b->bounds[from]);
    return b->source_bounds ? n + (size_t)(b->source_bounds[end] - b->source_bounds[from]) : n;
}

typedef struct gr_loader gr_loader;

/* The data set must outlive the loader. GRAFT_ERR_MISMATCH when packing and an example is longer than max_length. */
graft_status gr_loader_new(graft_context *ctx, const graft_dataset *ds, const gr_loader_options *o, gr_loader **out,
                           graft_error *err);
void gr_loader_free(gr_loader *l);
size_t gr_loader_rows(const gr_loader *l);    /* of an epoch */
size_t gr_loader_batches(const gr_loader *l); /* of an epoch: the last one may be smaller */
size_t gr_loader_max_tokens(const gr_loader *l); /* no batch of any epoch has more tokens than this bound */
/* The batch at *cursor, which moves on (at the end of an epoch to the next one's start). A cursor beyond the epoch's
 * rows is GRAFT_ERR_MISMATCH: it belongs to other data. */
graft_status gr_loader_next(gr_loader *l, gr_data_cursor *cursor, gr_data_batch *out, graft_error *err);

#endif
