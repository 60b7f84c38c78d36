/* What a run knows besides its tensors: where it is, what it has logged, what it has counted since it last logged. It
 * lies in a checkpoint's trainer_state.json, which has transformers' TrainerState as its form; graft's own part stands
 * in it under "stateful_callbacks", where transformers passes over what it does not know. */
#ifndef GR_TRAIN_STATE_H
#define GR_TRAIN_STATE_H

#include "data/loader.h"

typedef struct gr_train_state {
    int64_t global_step, max_steps;
    gr_data_cursor cursor;
    double epoch;
    int64_t num_tokens;
    /* Since the last logged step. */
    double window_loss; /* sum of the steps' losses */
    int64_t window_steps, window_labels, window_correct;
    double total_loss; /* sum of the losses of all steps */
    double best_metric; /* NaN: none */
    int64_t best_step;  /* 0: none */
    int64_t patience;   /* evaluations since the last improvement */
    bool pending;       /* the step is done, but not what follows it (evaluation, regular checkpoint) */
    bool stopped;       /* early */
    int64_t data_now;   /* what templates take for the current time */
    double last_eval_loss, last_eval_accuracy; /* NaN: none */
    gr_buf history;     /* the lines of trainer_log.jsonl */
    gr_buf options;     /* JSON object of everything that decides the bits of the run */
    char run_name[128]; /* folder of the event files, "" none */
} gr_train_state;

/* Facts that transformers keeps in its state and graft only writes. */
typedef struct gr_state_facts {
    double logging_steps, eval_steps, save_steps, num_train_epochs;
    int64_t train_batch_size;
    int64_t early_stopping_patience;
    double early_stopping_threshold;
    const char *best_checkpoint; /* NULL: none */
} gr_state_facts;

void gr_state_init(gr_train_state *s, const graft_allocator *a);
void gr_state_free(gr_train_state *s);
graft_status gr_state_write(const gr_train_state *s, const gr_state_facts *f, gr_buf *out, graft_error *err);
/* `s` must be initialised. Errors name `name` (the file) and the place. */
graft_status gr_state_read(gr_train_state *s, const char *name, const char *text, size_t len, graft_error *err);
/* GRAFT_ERR_MISMATCH naming the first option that differs, with both values. */
graft_status gr_state_check_options(const gr_train_state *saved, const gr_buf *now, const char *checkpoint,
                                    graft_error *err);

#endif
