/* The loop: batch, gradient, clipping, optimiser; then logging, evaluation and checkpoints, in that order, as
 * transformers' Trainer does (DefaultFlowCallback, EarlyStoppingCallback). */
#include <math.h>

#include "data/dataset.h"
#include "train/checkpoint.h"

enum { DO_LOG = 1, DO_EVAL = 2, DO_SAVE = 4 };

void gr_trainer_progress(const gr_trainer *t, graft_train_phase phase, int64_t done, int64_t total) {
    if (!t->call.progress) return;
    const gr_train_state *s = &t->state;
    int64_t steps = s->global_step - t->first_step;
    double seconds = steps > 0 ? gr_now_seconds() - t->start : 0;
    double left = (double)(s->max_steps - s->global_step);
    const graft_train_progress p = {
        .phase = phase,
        .done = done,
        .total = total,
        .step = s->global_step,
        .total_steps = s->max_steps,
        .epoch = s->epoch,
        .loss = t->last_loss,
        .grad_norm = t->last_grad_norm,
        .learning_rate = t->last_lr,
        .eval_loss = s->last_eval_loss,
        .tokens_per_second = t->step_seconds > 0 ? (double)(s->num_tokens - t->start_tokens) / t->step_seconds : 0,
        .eta_seconds = steps > 0 ? seconds / (double)steps * left : NAN,
        .num_tokens = s->num_tokens,
        .memory = gr_peak_rss_bytes()};
    t->call.progress(t->call.user, &p);
}

/* --- One step --- */

/* Which of the step's records it was cannot be told from a sum. */
static graft_status bad_gradient(const gr_trainer *t, const gr_data_batch *b, double norm, graft_error *err) {
    gr_buf list;
    gr_buf_init(&list, t->a);
    for (size_t i = 0; i < b->n_seqs && i < 8; i++) {
        graft_example x;
        graft_dataset_get(t->data, b->examples[i], &x);
        gr_buf_add_format(&list, "%s%s:%zu", i ? ", " : "", x.path, x.line);
    }
    graft_status st = gr_fail(err, GRAFT_ERR_NUMERIC, "step %lld: the gradient is %g, of the records %s%s",
                              (long long)t->state.global_step + 1, norm, gr_buf_text(&list),
                              b->n_seqs > 8 ? " and others" : "");
    gr_buf_free(&list);
    return st;
}

/* Says which checkpoint is still good. */
static graft_status after_numeric(const gr_trainer *t, graft_error *err) {
    char kept[64];
    if (t->last_checkpoint)
        snprintf(kept, sizeof kept, "checkpoint-%lld", (long long)t->last_checkpoint);
    if (err) {
        size_t n = strlen(err->text);
        snprintf(err->text + n, sizeof err->text - n, "; %s%s", t->last_checkpoint ? "the last good checkpoint is " : "",
                 t->last_checkpoint ? kept : "no checkpoint was saved before");
    }
    return GRAFT_ERR_NUMERIC;
}

static double epoch_after(const gr_trainer *t, const gr_data_cursor *before) {
    uint64_t batch = (uint64_t)t->o->per_device_train_batch_size, rows = gr_loader_rows(t->loader);
    uint64_t micro_total = (rows + batch - 1) / batch;
    uint64_t step_rows = batch * (uint64_t)t->o->gradient_accumulation_steps;
    uint64_t micro = (GR_MIN(before->row + step_rows, rows) + batch - 1) / batch;
    return (double)before->epoch + (double)micro / (double)micro_total;
}

graft_status gr_trainer_bad_loss(gr_trainer *t, uint32_t example, graft_error *err) {
    graft_example x;
    graft_dataset_get(t->data, example, &x);
    gr_error_prefix(err, GRAFT_ERR_NUMERIC, "step %lld: %s:%zu", (long long)t->state.global_step + 1, x.path, x.line);
    return after_numeric(t, err);
}

graft_status gr_trainer_fetch(gr_trainer *t, graft_error *err) {
    t->step_start = gr_now_seconds();
    t->next = t->state.cursor;
    GR_TRY(gr_loader_next(t->loader, &t->next, &t->batch, err));
    gr_optimizer_zero_grad(t->optimizer);
    return GRAFT_OK;
}

static graft_status update(gr_trainer *t, const gr_tally *tally, graft_error *err) {
    gr_train_state *s = &t->state;
    double norm = gr_optimizer_grad_norm(t->optimizer);
    if (!isfinite(norm)) {
        bad_gradient(t, &t->batch, norm, err);
        return after_numeric(t, err);
    }
    t->last_lr = t->o->learning_rate * gr_schedule_factor(&t->schedule, s->global_step);
    double clip = gr_clip_factor(norm, t->o->max_grad_norm);
    t->last_loss = tally->loss / (double)tally->n_labels + gr_adapter_penalty(t->set, t->adapter);
    gr_optimizer_step(t->optimizer, t->last_lr, clip);
    GR_TRY(gr_adapter_stepped(t->set, t->adapter, s->global_step, clip, err));
    t->last_grad_norm = norm;
    s->epoch = epoch_after(t, &s->cursor);
    s->cursor = t->next;
    s->global_step++;
    s->num_tokens += tally->n_tokens;
    t->n_seqs += tally->n_seqs;
    s->window_loss += t->last_loss;
    s->total_loss += t->last_loss;
    s->window_steps++;
    s->window_labels += tally->n_labels;
    s->window_correct += tally->n_correct;
    s->pending = true;
    t->step_seconds += gr_now_seconds() - t->step_start;
    return GRAFT_OK;
}

/* --- What follows a step --- */

static bool classifies(const gr_trainer *t) { return gr_model_get_config(t->model)->task == GR_TASK_SEQ_CLS; }

static graft_status log_step(gr_trainer *t, graft_error *err) {
    gr_train_state *s = &t->state;
    if (s->window_steps == 0) return GRAFT_OK;
    double accuracy = (double)s->window_correct / (double)GR_MAX(s->window_labels, 1);
    bool regression = gr_dataset_problem(t->data) == GRAFT_PROBLEM_REGRESSION; /* where no label is right or wrong */
    gr_scalar values[8] = {
        {"loss", s->window_loss / (double)s->window_steps},
        {"grad_norm", t->last_grad_norm},
        {"learning_rate", t->last_lr},
        {"num_tokens", (double)s->num_tokens}};
    size_t n = 4;
    if (!regression) values[n++] = (gr_scalar){classifies(t) ? "accuracy" : "mean_token_accuracy", accuracy};
    values[n++] = (gr_scalar){"epoch", s->epoch};
    values[n++] = (gr_scalar){"step", (double)s->global_step};
    s->window_loss = 0;
    s->window_steps = s->window_labels = s->window_correct = 0;
    return gr_run_log_add(t, values, n, err);
}

static graft_status run_eval(gr_trainer *t, gr_tally *tally, graft_error *err) {
    gr_data_cursor cursor = {0};
    size_t batches = gr_loader_batches(t->eval_loader);
    for (size_t i = 0; i < batches; i++) {
        gr_data_batch b;
        GR_TRY(gr_loader_next(t->eval_loader, &cursor, &b, err));
        graft_status st = gr_engine_eval(t->engine, &b, tally, err);
        if (st == GRAFT_ERR_NUMERIC) {
            graft_example x;
            graft_dataset_get(t->eval_data, gr_engine_bad_example(t->engine), &x);
            gr_error_prefix(err, st, "evaluation at step %lld: %s:%zu", (long long)t->state.global_step, x.path, x.line);
            return after_numeric(t, err);
        }
        GR_TRY(st);
        gr_trainer_progress(t, GRAFT_TRAIN_EVALUATING, tally->n_seqs, (int64_t)t->eval_stats.examples);
    }
    return GRAFT_OK;
}

/* Whether the evaluation is the best so far, and how long none was. */
static bool judge(gr_trainer *t) {
    gr_train_state *s = &t->state;
    double value = !strcmp(t->metric, "eval_loss") ? s->last_eval_loss
                   : !strcmp(t->metric, "eval_f1") ? t->last_eval_f1
                                                   : s->last_eval_accuracy;
    bool first = isnan(s->best_metric);
    bool better = first || (t->greater ? value > s->best_metric : value < s->best_metric);
    bool enough = first || (better && fabs(value - s->best_metric) > t->o->early_stopping_threshold);
    s->patience = enough ? 0 : s->patience + 1;
    if (t->o->early_stopping_patience > 0 && s->patience >= t->o->early_stopping_patience) s->stopped = true;
    if (better) {
        s->best_metric = value;
        s->best_step = s->global_step;
    }
    return better;
}

/* What a classification adds to the line of an evaluation; returns how many. */
static size_t class_scalars(gr_trainer *t, const gr_class_tally *c, gr_scalar *out) {
    size_t n = 0;
    if (c->problem == GRAFT_PROBLEM_REGRESSION) {
        double pearson = gr_class_pearson(c);
        out[n++] = (gr_scalar){"eval_mse", gr_class_mse(c)};
        if (!isnan(pearson)) out[n++] = (gr_scalar){"eval_pearson", pearson};
        return n;
    }
    t->last_eval_f1 = gr_class_f1(c);
    out[n++] = (gr_scalar){"eval_accuracy", gr_class_accuracy(c)};
    out[n++] = (gr_scalar){"eval_f1", t->last_eval_f1};
    return n;
}

static graft_status evaluate(gr_trainer *t, bool *best, graft_error *err) {
    gr_train_state *s = &t->state;
    gr_class_tally classes = {0};
    gr_tally tally = {.classes = &classes};
    double start = gr_now_seconds();
    if (classifies(t))
        GR_TRY(gr_class_tally_init(&classes, t->a, gr_dataset_problem(t->eval_data), gr_dataset_n_labels(t->eval_data), err));
    else
        tally.classes = NULL;
    graft_status st = run_eval(t, &tally, err);
    gr_scalar own[4];
    size_t n_own = st == GRAFT_OK && classifies(t) ? class_scalars(t, &classes, own) : 0;
    gr_class_tally_free(&classes);
    GR_TRY(st);
    double seconds = GR_MAX(gr_now_seconds() - start, 1e-9);
    s->last_eval_loss = tally.loss / (double)tally.n_labels;
    s->last_eval_accuracy = (double)tally.n_correct / (double)tally.n_labels;
    const gr_scalar others[] = {{"eval_loss", s->last_eval_loss},
                                {"eval_runtime", seconds},
                                {"eval_samples_per_second", (double)tally.n_seqs / seconds},
                                {"eval_steps_per_second", (double)gr_loader_batches(t->eval_loader) / seconds},
                                {"eval_num_tokens", (double)s->num_tokens},
                                {"eval_mean_token_accuracy", s->last_eval_accuracy},
                                {"epoch", s->epoch},
                                {"step", (double)s->global_step}};
    gr_scalar values[GR_COUNT(others) + GR_COUNT(own)];
    size_t n = 0;
    for (size_t k = 0; k < GR_COUNT(others); k++) {
        if (!classifies(t) || strcmp(others[k].tag, "eval_mean_token_accuracy") != 0) values[n++] = others[k];
        for (size_t i = 0; k == 0 && i < n_own; i++) values[n++] = own[i];
    }
    GR_TRY(gr_run_log_add(t, values, n, err));
    *best = judge(t);
    return GRAFT_OK;
}

static bool due(graft_strategy strategy, int64_t every, int64_t step, bool end_of_epoch) {
    if (strategy == GRAFT_STRATEGY_STEPS) return every > 0 && step % every == 0;
    return strategy == GRAFT_STRATEGY_EPOCH && end_of_epoch;
}

static unsigned what_is_due(const gr_trainer *t) {
    const graft_sft_options *o = t->o;
    int64_t n = t->state.global_step;
    bool last = n >= t->state.max_steps, epoch = t->state.cursor.row == 0 || last;
    unsigned what = 0;
    if (due(o->logging_strategy, t->logging_steps, n, epoch) || (n == 1 && o->logging_first_step)) what |= DO_LOG;
    if (due(o->eval_strategy, t->eval_steps, n, epoch) || (last && o->eval_strategy == GRAFT_STRATEGY_STEPS))
        what |= DO_EVAL;
    if (due(o->save_strategy, t->save_steps, n, epoch) || (last && o->save_strategy == GRAFT_STRATEGY_STEPS))
        what |= DO_SAVE;
    return what;
}

static graft_status after_step(gr_trainer *t, graft_error *err) {
    unsigned what = what_is_due(t);
    bool best = false;
    if (what & DO_LOG) GR_TRY(log_step(t, err));
    if (what & DO_EVAL) GR_TRY(evaluate(t, &best, err));
    if (best && (t->o->save_strategy == GRAFT_STRATEGY_BEST || t->o->load_best_model_at_end)) what |= DO_SAVE;
    t->state.pending = false;
    return what & DO_SAVE ? gr_checkpoint_save(t, err) : GRAFT_OK;
}

/* --- The run --- */

graft_status gr_trainer_cancelled(gr_trainer *t, graft_error *err) {
    long long n = t->state.global_step;
    if (n == 0) return gr_fail(err, GRAFT_ERR_CANCELLED, "cancelled before the end of the first step: nothing to save");
    /* Writing a model looks for cancellation too: a second one stops the saving. */
    graft_context_reset_cancel(t->ctx);
    graft_status st = t->last_checkpoint != n ? gr_checkpoint_save(t, err) : GRAFT_OK;
    graft_context_cancel(t->ctx);
    GR_TRY(st);
    return gr_fail(err, GRAFT_ERR_CANCELLED,
                   "cancelled at step %lld of %lld: saved %s/checkpoint-%lld; the same command with "
                   "--resume-from-checkpoint latest goes on",
                   n, (long long)t->state.max_steps, t->o->output_dir, n);
}

graft_status gr_trainer_begin(gr_trainer *t, graft_error *err) {
    bool best;
    t->first_step = t->state.global_step;
    t->start_tokens = t->state.num_tokens;
    t->start = gr_now_seconds();
    if (t->o->eval_on_start && !t->resumed_from) GR_TRY(evaluate(t, &best, err));
    return t->state.pending ? after_step(t, err) : GRAFT_OK;
}

bool gr_trainer_has_steps(const gr_trainer *t) { return t->state.global_step < t->state.max_steps && !t->state.stopped; }

graft_status gr_trainer_take(gr_trainer *t, const gr_tally *tally, graft_error *err) {
    GR_TRY(update(t, tally, err));
    gr_trainer_progress(t, GRAFT_TRAIN_STEPPING, t->state.global_step, t->state.max_steps);
    return after_step(t, err);
}

static graft_status run_steps(gr_trainer *t, graft_error *err) {
    GR_TRY(gr_trainer_begin(t, err));
    while (gr_trainer_has_steps(t)) {
        gr_tally tally = {0};
        GR_TRY(gr_check_cancel(t->ctx, err));
        GR_TRY(gr_trainer_fetch(t, err));
        graft_status st = gr_engine_train(t->engine, &t->batch, t->state.global_step, &tally, err);
        if (st == GRAFT_ERR_NUMERIC) return gr_trainer_bad_loss(t, gr_engine_bad_example(t->engine), err);
        GR_TRY(st);
        GR_TRY(gr_trainer_take(t, &tally, err));
    }
    return GRAFT_OK;
}

static graft_status log_summary(gr_trainer *t, graft_error *err) {
    const gr_train_state *s = &t->state;
    double seconds = GR_MAX(gr_now_seconds() - t->start, 1e-9), steps = (double)(s->global_step - t->first_step);
    const gr_scalar values[] = {{"train_runtime", seconds},
                                {"train_samples_per_second", (double)t->n_seqs / seconds},
                                {"train_steps_per_second", steps / seconds},
                                {"train_tokens_per_second", (double)(s->num_tokens - t->start_tokens) / seconds},
                                {"train_loss", s->total_loss / (double)GR_MAX(s->global_step, 1)},
                                {"num_tokens", (double)s->num_tokens},
                                {"epoch", s->epoch},
                                {"step", (double)s->global_step}};
    return gr_run_log_add(t, values, GR_COUNT(values), err);
}

graft_status gr_trainer_end(gr_trainer *t, graft_error *err) {
    if (t->o->load_best_model_at_end && t->state.best_step && t->state.best_step != t->state.global_step) {
        if (gr_checkpoint_exists(t, t->state.best_step))
            GR_TRY(gr_checkpoint_load_step(t, t->state.best_step, err));
        else
            gr_log(t->ctx, GRAFT_LOG_WARNING, "the best checkpoint-%lld is not in %s any more: keeping the last weights",
                   (long long)t->state.best_step, t->o->output_dir);
    }
    return log_summary(t, err);
}

graft_status gr_trainer_run(gr_trainer *t, graft_error *err) {
    graft_status st = run_steps(t, err);
    if (st == GRAFT_ERR_CANCELLED) return gr_trainer_cancelled(t, err);
    GR_TRY(st);
    return gr_trainer_end(t, err);
}
