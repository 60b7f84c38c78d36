/* The public entries: graft_sft and graft_sft_plan. */
#include <math.h>

#include "model/shape.h"
#include "train/checkpoint.h"

/* What a new run takes as its options, or, resumed, what must be the same. */
static graft_status settle_options(gr_trainer *t, graft_error *err) {
    gr_buf now;
    gr_buf_init(&now, t->a);
    graft_status st = gr_trainer_options_text(t, &now, err);
    if (st == GRAFT_OK && t->resumed_from) st = gr_state_check_options(&t->state, &now, t->resumed_from, err);
    if (st == GRAFT_OK && !t->resumed_from) {
        gr_buf_clear(&t->state.options);
        gr_buf_add(&t->state.options, now.data, now.len);
        st = gr_buf_status(&t->state.options, err);
    }
    gr_buf_free(&now);
    return st;
}

/* Memory that the whole run keeps. */
graft_status gr_trainer_allocate(gr_trainer *t, graft_error *err) {
    GR_TRY(gr_model_prepare(t->model, gr_adapter_variant(t->set, t->adapter), gr_lowest_layer(t), err));
    GR_TRY(gr_optimizer_new(gr_model_device(t->model), t->rule, &t->optimizer_options, t->params, t->n_params,
                            &t->optimizer, err));
    if (t->mapped_budget) GR_TRY(gr_model_stream(t->model, t->mapped_budget, true, NULL, NULL, err));
    return gr_engine_reserve(t->engine, t->pool_bytes, err);
}

graft_status gr_trainer_finish(gr_trainer *t, graft_error *err) {
    gr_trainer_progress(t, GRAFT_TRAIN_SAVING, 0, 0);
    GR_TRY(gr_adapter_save(t->set, t->adapter, t->o->output_dir, GR_F32, err));
    GR_TRY(gr_write_card(t, err));
    return gr_sync_dir(t->o->output_dir, err);
}

void gr_trainer_result(const gr_trainer *t, graft_train_result *r) {
    const gr_train_state *s = &t->state;
    double seconds = GR_MAX(gr_now_seconds() - t->start, 1e-9);
    *r = (graft_train_result){.global_step = s->global_step,
                              .total_steps = s->max_steps,
                              .epoch = s->epoch,
                              .train_loss = s->total_loss / (double)GR_MAX(s->global_step, 1),
                              .train_runtime = seconds,
                              .train_samples_per_second = (double)t->n_seqs / seconds,
                              .train_tokens_per_second = (double)(s->num_tokens - t->start_tokens) / seconds,
                              .num_tokens = s->num_tokens,
                              .eval_loss = s->last_eval_loss,
                              .eval_mean_token_accuracy = s->last_eval_accuracy,
                              .best_metric = s->best_metric,
                              .best_step = s->best_step,
                              .last_checkpoint_step = t->last_checkpoint,
                              .early_stopped = s->stopped,
                              .n_parameters = gr_model_n_params(t->model),
                              .n_trainable = t->n_trainable,
                              .n_records = (int64_t)t->stats.examples,
                              .n_bad_records = (int64_t)t->stats.bad,
                              .n_dropped_records = (int64_t)t->stats.empty,
                              .n_truncated_records = (int64_t)t->stats.truncated,
                              .peak_memory = gr_peak_rss_bytes()};
}

graft_status gr_trainer_start(gr_trainer *t, graft_train_plan *plan, graft_error *err) {
    GR_TRY(gr_output_open(t, err));
    gr_optimizer_options *oo = &t->optimizer_options;
    if (oo->paged) oo->paged_dir = t->o->paged_dir ? t->o->paged_dir : t->o->output_dir;
    GR_TRY(gr_trainer_load_to_fit(t, plan, err));
    return settle_options(t, err);
}

static graft_status sft(gr_trainer *t, graft_error *err) {
    graft_train_plan plan;
    GR_TRY(gr_trainer_start(t, &plan, err));
    GR_TRY(gr_trainer_allocate(t, err));
    if (t->resumed_from) GR_TRY(gr_checkpoint_restore(t, err));
    GR_TRY(gr_run_log_start(t, err));
    GR_TRY(gr_trainer_run(t, err));
    return gr_trainer_finish(t, err);
}

graft_status graft_sft(graft_context *ctx, const graft_sft_options *options, const graft_train_callbacks *callbacks,
                       graft_train_result *result, graft_error *err) {
    gr_trainer t;
    graft_status st = gr_trainer_open(&t, ctx, options, callbacks, err);
    if (st == GRAFT_OK) st = sft(&t, err);
    if (st == GRAFT_OK && result) gr_trainer_result(&t, result);
    gr_trainer_close(&t);
    return st;
}

/* --- Plan --- */

/* Seconds of the whole run from a step on some records of the data, run twice: the first packs weights. */
static graft_status measure(gr_trainer *t, graft_train_plan *p, graft_error *err) {
    enum { PROBE_TOKENS = 1024 };
    gr_data_cursor cursor = {0};
    gr_data_batch b;
    double seconds = 0;
    GR_TRY(gr_trainer_allocate(t, err));
    GR_TRY(gr_loader_next(t->loader, &cursor, &b, err));
    while (b.n_seqs > 1 && b.bounds[b.n_seqs] > PROBE_TOKENS) b.n_seqs--;
    b.n_tokens = (size_t)b.bounds[b.n_seqs];
    for (int i = 0; i < 2; i++) {
        gr_tally tally = {0};
        double start = gr_now_seconds();
        GR_TRY(gr_engine_train(t->engine, &b, 0, &tally, err));
        seconds = gr_now_seconds() - start;
    }
    double start = gr_now_seconds();
    gr_optimizer_step(t->optimizer, 0, 0);
    double update = gr_now_seconds() - start;
    double epochs = (double)p->total_steps / (double)p->steps_per_epoch;
    double per_token = seconds / (double)b.n_tokens, steps = (double)p->total_steps;
    double evals = !t->eval_loader                                    ? 0
                   : t->o->eval_strategy == GRAFT_STRATEGY_EPOCH ? ceil(epochs)
                                                                      : ceil(steps / (double)t->eval_steps);
    double train_tokens = epochs * (double)p->n_tokens, eval_tokens = evals * (double)t->eval_stats.tokens;
    /* A forward pass is about a third of forward and backward. */
    p->seconds = per_token * (train_tokens + eval_tokens / 3) + update * steps;
    p->tokens_per_second = train_tokens / (per_token * train_tokens + update * steps);
    return GRAFT_OK;
}

static graft_status plan_run(gr_trainer *t, graft_train_plan *p, graft_error *err) {
    t->plans = true;
    GR_TRY(gr_trainer_load_to_fit(t, p, err));
    size_t available = gr_available_bytes();
    bool fits = available == 0 || p->peak + p->optimizer_paged < available + gr_resident_bytes();
    if (gr_model_is_shape(t->model)) fits = false; /* there is nothing to run */
    return fits ? measure(t, p, err) : GRAFT_OK;
}

graft_status graft_sft_plan(graft_context *ctx, const graft_sft_options *options, graft_train_plan *out,
                            graft_error *err) {
    gr_trainer t;
    graft_train_plan plan;
    graft_status st = gr_trainer_open(&t, ctx, options, NULL, err);
    if (st == GRAFT_OK) st = plan_run(&t, &plan, err);
    if (st == GRAFT_OK) *out = plan;
    gr_trainer_close(&t);
    return st;
}
