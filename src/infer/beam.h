/* Beam search over one prompt, as transformers 5.24's _beam_search does it: the candidates are the likeliest
 * continuations of all running beams; those that end are kept with score = log probability / length^length_penalty, the
 * others run on. Knows nothing of models: the caller offers log probabilities and runs what is chosen. */
#ifndef GR_INFER_BEAM_H
#define GR_INFER_BEAM_H

#include "infer/infer.h"

typedef struct gr_beam_options {
    size_t num_beams;
    double length_penalty;
    graft_early_stopping early_stopping;
    int64_t max_new_tokens;
    const int32_t *eos; /* borrowed */
    size_t n_eos;
} gr_beam_options;

/* The next token of a beam: `parent` is the number of the running beam that it continues. */
typedef struct gr_beam_choice {
    size_t parent;
    int32_t id;
    double score; /* sum of log probabilities */
} gr_beam_choice;

/* A sequence that has ended: what the model wrote. */
typedef struct gr_beam_result {
    int32_t *ids;
    size_t n;
    double score; /* with the length penalty */
} gr_beam_result;

typedef struct gr_beams {
    const graft_allocator *a;
    gr_beam_options o;
    size_t n_running, n_made; /* beams, and tokens of each */
    double *scores;           /* of running beams */
    gr_beam_choice *candidates; /* the best of this step, in order */
    size_t n_candidates, max_candidates;
    gr_beam_choice *next; /* what runs on */
    gr_beam_result *results; /* in order of score */
    size_t n_results;
    bool improvable, done;
} gr_beams;

/* One beam runs. Free it whatever is returned. */
graft_status gr_beams_init(gr_beams *b, const graft_allocator *a, const gr_beam_options *o, graft_error *err);
void gr_beams_free(gr_beams *b);
/* Log probabilities of what may follow beam `beam`; each running beam once a step, in order. */
void gr_beams_offer(gr_beams *b, size_t beam, const float *log_probs, int64_t vocab);
/* After all are offered: b->next[0 .. n_running-1] runs on, unless b->done. ids[i]: what beam i has written so far. */
graft_status gr_beams_choose(gr_beams *b, const int32_t *const *ids, graft_error *err);

#endif
