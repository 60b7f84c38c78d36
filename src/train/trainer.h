/* A run of supervised fine-tuning, from options to the last file. */
#ifndef GR_TRAIN_TRAINER_H
#define GR_TRAIN_TRAINER_H

#include "adapter/adapter.h"
#include "graft/train.h"
#include "train/engine.h"
#include "train/events.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/state.h"

/* What the jobs of one call share; made by the first that loads. */
typedef struct gr_trainer_base {
    gr_model *model;
    graft_tokenizer *tok;
    gr_adapter_set *set;
} gr_trainer_base;

typedef struct gr_trainer {
    graft_context *ctx;
    const graft_allocator *a;
    const graft_sft_options *o;
    graft_train_callbacks call;
    gr_trainer_base *base; /* NULL: model, tokenizer and set are the run's own */
    const char *name;      /* of its adapter in the set */

    graft_problem asked_problem;
    graft_label_set labels; /* that the model was opened with; none: its own */
    gr_arena head_arena;    /* of the head of the adapter that the run goes on with */
    graft_tokenizer *tok;
    graft_dataset *data, *eval_data; /* eval_data NULL: none */
    graft_data_stats stats, eval_stats;
    gr_loader *loader, *eval_loader;
    gr_model *model;
    bool plans; /* nothing is run: a model without weights will do */
    bool keeps_weights; /* in memory, all of them: none are read from the files for each product */
    graft_sft_options chosen; /* *o, where a format was chosen */
    gr_adapter_set *set;
    int adapter; /* index in the set */
    gr_param **params;
    size_t n_params;
    int64_t n_trainable;
    gr_engine *engine;
    gr_trunk *trunk; /* NULL: none */
    gr_optimizer *optimizer;

    /* Resolved from the options. */
    const gr_optimizer_rule *rule;
    gr_optimizer_options optimizer_options;
    gr_schedule schedule;
    int64_t steps_per_epoch, warmup, logging_steps, eval_steps, save_steps;
    const char *metric; /* with "eval_" in front */
    bool greater;
    size_t micro_tokens, pool_bytes, workspace_bytes;
    size_t unread_bytes;  /* rows of the table of tokens that no record has */
    size_t mapped_budget; /* bytes of mapped weights that stay in memory; 0: all */
    gr_recompute recompute;

    /* The run. */
    gr_train_state state;
    gr_data_batch batch; /* of the step in flight */
    gr_data_cursor next; /* behind it */
    double step_start;
    char *resumed_from; /* directory of the checkpoint, NULL: a run from its beginning */
    char *log_path;
    int lock;           /* descriptor of output_dir, locked; -1 */
    gr_events *events;
    int64_t first_step; /* where this call began */
    size_t resident_start, resident_tokenizer, resident_data; /* bytes: at the start, and what loading took */
    double last_eval_f1;
    double start, step_seconds, last_grad_norm, last_loss, last_lr;
    int64_t start_tokens, last_checkpoint;
    int64_t n_seqs; /* records trained on in this call */
} gr_trainer;

/* For gr_model_prepare: products of the layers below need no backward. */
static inline int gr_lowest_layer(const gr_trainer *t) {
    return GR_MAX(gr_adapter_lowest_layer(t->set, t->adapter), 0);
}

/* setup.c: checks the options, loads everything but the checkpoint's tensors, allocates nothing that training alone
 * needs. `t` must be zero; free it with gr_trainer_close in any case. state.data_now decides dates in templates. */
graft_status gr_trainer_open(gr_trainer *t, graft_context *ctx, const graft_sft_options *o,
                             const graft_train_callbacks *callbacks, graft_error *err);
graft_status gr_trainer_load(gr_trainer *t, graft_error *err);
/* Model and adapter once more, as the options now say; records and labels stay. */
graft_status gr_trainer_reload(gr_trainer *t, graft_error *err);
void gr_trainer_close(gr_trainer *t);
/* task.c: what the model is opened with; whether a model that another job opened is that; what is learnt of records; and the
 * modules that are trained whole, into names[cap]. */
graft_status gr_trainer_choose_task(gr_trainer *t, gr_model_options *mo, graft_error *err);
graft_status gr_trainer_check_base(const gr_trainer *t, const gr_model_options *mo, graft_error *err);
void gr_trainer_set_learning(const gr_trainer *t, graft_data_options *d);
graft_status gr_trainer_whole_modules(const gr_trainer *t, const char **names, size_t cap, graft_texts *out, graft_error *err);
/* method_config.c: the adapter_config.json that the options mean; whether the method has all options that are given. */
graft_status gr_method_config(const gr_trainer *t, gr_buf *out, graft_error *err);
graft_status gr_method_check_options(const graft_sft_options *o, graft_error *err);
/* options_text.c: what the options hold the products' weights in: "int8", "nf4", "fp4"; NULL: as the files have them. */
const char *gr_trainer_quantization(const graft_sft_options *o);
/* A JSON object of everything that decides the bits of the run. */
graft_status gr_trainer_options_text(const gr_trainer *t, gr_buf *out, graft_error *err);
/* fit.c: decides micro-batches and recomputation so that the run stays within memory, and predicts what it takes.
 * Fills micro_*, recompute and pool_bytes, and all of *plan but the times. */
graft_status gr_trainer_fit(gr_trainer *t, graft_train_plan *plan, graft_error *err);
/* Whether it would, if weights took so much less memory. */
graft_status gr_trainer_would_fit(gr_trainer *t, size_t saved, bool *fits, graft_error *err);
/* format.c: loads, in the format that `memory` asks for, and fits. */
graft_status gr_trainer_load_to_fit(gr_trainer *t, graft_train_plan *plan, graft_error *err);
/* memory.c: resident memory of this process now, and what it could still get from the machine or its control group;
 * 0 where unknown. */
size_t gr_resident_bytes(void);
size_t gr_available_bytes(void);

/* card.c: README.md of output_dir. */
graft_status gr_write_card(const gr_trainer *t, graft_error *err);
/* sft.c: everything before the first step but the memory that training takes, that memory, and the final files. */
graft_status gr_trainer_start(gr_trainer *t, graft_train_plan *plan, graft_error *err);
graft_status gr_trainer_allocate(gr_trainer *t, graft_error *err);
graft_status gr_trainer_finish(gr_trainer *t, graft_error *err);
void gr_trainer_result(const gr_trainer *t, graft_train_result *r);
/* loop.c: the whole run; or its parts, between which gradients are made by others: begin, then while steps are left a
 * batch (t->batch), its gradients, and `take`; then end. gr_trainer_cancelled instead, where the run is cut short. */
graft_status gr_trainer_run(gr_trainer *t, graft_error *err);
graft_status gr_trainer_begin(gr_trainer *t, graft_error *err);
bool gr_trainer_has_steps(const gr_trainer *t);
graft_status gr_trainer_fetch(gr_trainer *t, graft_error *err);
graft_status gr_trainer_take(gr_trainer *t, const gr_tally *tally, graft_error *err);
graft_status gr_trainer_end(gr_trainer *t, graft_error *err);
graft_status gr_trainer_cancelled(gr_trainer *t, graft_error *err);
/* Completes the error of a step whose gradient could not be made: names the record `example`, and what is kept. */
graft_status gr_trainer_bad_loss(gr_trainer *t, uint32_t example, graft_error *err);
void gr_trainer_progress(const gr_trainer *t, graft_train_phase phase, int64_t done, int64_t total);
/* run_log.c: trainer_log.jsonl, the callback and TensorBoard. `line` is a JSON object without newline. */
graft_status gr_run_log_start(gr_trainer *t, graft_error *err);
graft_status gr_run_log_add(gr_trainer *t, const gr_scalar *values, size_t n, graft_error *err);

#endif
