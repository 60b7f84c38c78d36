/* Loading what a run works on: tokenizer, records, model, adapter; and what follows from them. */
#include <math.h>
#include <unistd.h>

#include "data/dataset.h"
#include "data/encode.h"
#include "data/targets.h"
#include "model/shape.h"
#include "train/trainer.h"

static bool is_seq2seq(const gr_trainer *t) { return gr_model_get_config(t->model)->task == GR_TASK_SEQ_2_SEQ_LM; }

static graft_status load_records(gr_trainer *t, graft_texts paths, const char *template, graft_dataset **out,
                                 graft_error *err) {
    const graft_sft_options *o = t->o;
    graft_data_options d = {.paths = paths.items,
                            .n_paths = paths.n,
                            .chat_template = template,
                            .prompt_template = gr_adapter_prompt_template(t->set, t->adapter),
                            .n_tasks = gr_adapter_n_tasks(t->set, t->adapter),
                            .max_length = o->max_length > 0 ? o->max_length : -1,
                            .seq2seq = is_seq2seq(t),
                            .max_target_length = o->max_target_length < 0 ? 0
                                                 : o->max_target_length   ? o->max_target_length
                                                                          : -1,
                            .completion_only_loss = o->completion_only_loss,
                            .assistant_only_loss = o->assistant_only_loss,
                            .skip_bad_records = o->skip_bad_records,
                            .now = t->state.data_now,
                            .vocab_size = gr_model_get_config(t->model)->vocab_size};
    gr_trainer_set_learning(t, &d);
    if (d.prompt_template && d.learn == GRAFT_LEARN_MASKED && o->mlm_probability != 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "mlm_probability: with a prompt_template [MASK] alone is hidden");
    GR_TRY(gr_data_fit(t->model, gr_adapter_set_hooks(t->set), t->adapter, &d, err));
    GR_TRY(graft_dataset_load(t->ctx, t->tok, &d, out, err));
    return gr_targets_check(t->model, *out, err);
}

enum { MADE_TOKENS = 1 << 26 };

/* Of a shape without records: one step of records that are as long as may be, all of them labels. */
static graft_status make_records(gr_trainer *t, graft_error *err) {
    const graft_sft_options *o = t->o;
    const gr_model_config *c = gr_model_get_config(t->model);
    if (c->task != GR_TASK_CAUSAL_LM || o->eval_strategy != GRAFT_STRATEGY_NO || o->eval_on_start || o->max_length <= 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "data: expected at least one file, found none: without it %s",
                       c->task != GR_TASK_CAUSAL_LM ? "only causal language models are planned"
                       : o->max_length <= 0         ? "max_length is needed"
                                                    : "nothing is evaluated");
    const size_t rows = (size_t)(o->per_device_train_batch_size * o->gradient_accumulation_steps);
    const size_t tokens = (size_t)(c->max_position_embeddings > 0 ? GR_MIN(o->max_length, c->max_position_embeddings)
                                                                  : o->max_length);
    if (tokens > MADE_TOKENS / rows)
        return gr_fail(err, GRAFT_ERR_LIMIT, "data: without it a step of at most %d tokens is planned, found %zu records of %zu",
                       MADE_TOKENS, rows, tokens);
    int32_t *ids = gr_calloc(t->a, rows * tokens, sizeof *ids);
    size_t *bounds = gr_calloc(t->a, rows + 1, sizeof *bounds);
    graft_status st = ids && bounds ? GRAFT_OK : gr_fail_memory(err);
    for (size_t i = 0; i < rows && bounds; i++) bounds[i + 1] = bounds[i] + tokens;
    if (st == GRAFT_OK) st = gr_dataset_from_tokens(t->ctx, ids, ids, bounds, rows, &t->data, err);
    if (st == GRAFT_OK) graft_dataset_get_stats(t->data, &t->stats);
    gr_free(t->a, ids);
    gr_free(t->a, bounds);
    return st;
}

static graft_status load_data(gr_trainer *t, graft_error *err) {
    const graft_sft_options *o = t->o;
    if (o->data.n == 0) return make_records(t, err);
    if (o->max_target_length >= 0 && !is_seq2seq(t))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "max_target_length: records of %s are not split into a source and a target",
                       o->model);
    char *template = NULL;
    graft_status st = GRAFT_OK;
    gr_trainer_progress(t, GRAFT_TRAIN_READING, 0, 0);
    if (o->chat_template_path)
        GR_TRY(gr_read_file(t->a, o->chat_template_path, 1 << 20, &template, NULL, err));
    GR_GO(done, load_records(t, o->data, template, &t->data, err));
    graft_dataset_get_stats(t->data, &t->stats);
    t->state.data_now = t->stats.now;
    if (o->eval_strategy != GRAFT_STRATEGY_NO || o->eval_on_start) {
        GR_GO(done, load_records(t, o->eval_data, template, &t->eval_data, err));
        graft_dataset_get_stats(t->eval_data, &t->eval_stats);
    }
done:
    gr_free(t->a, template);
    return st;
}

static size_t pack_length(const gr_trainer *t, const graft_data_stats *s) {
    return t->o->max_length > 0 ? (size_t)t->o->max_length : s->longest;
}

static graft_status make_loaders(gr_trainer *t, graft_error *err) {
    const graft_sft_options *o = t->o;
    const gr_model_config *c = gr_model_get_config(t->model);
    const gr_task task = c->task;
    const bool masks = task == GR_TASK_MASKED_LM, hides = masks && t->tok; /* without one all labels are given */
    if (o->packing && (masks || task == GR_TASK_SEQ_CLS))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "packing: records of the task %s are not packed (there is no padding without it either)",
                       masks ? "MASKED_LM" : gr_task_name(task));
    if (hides && graft_tokenizer_special_id(t->tok, GRAFT_TOKEN_MASK) < 0)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: expected a tokenizer with a mask token, to hide tokens with, found none", o->model);
    const gr_loader_options train = {
        .batch_size = (size_t)(o->per_device_train_batch_size * o->gradient_accumulation_steps),
        .packing = o->packing,
        .max_length = pack_length(t, &t->stats),
        .shuffle = !o->no_shuffle,
        .seed = o->seed,
        .mask_id = hides ? graft_tokenizer_special_id(t->tok, GRAFT_TOKEN_MASK) : 0,
        .vocab_size = hides ? GR_MIN((int64_t)graft_tokenizer_vocab_size(t->tok), c->vocab_size) : 0,
        .mlm_probability = o->mlm_probability > 0 ? o->mlm_probability : 0.15,
        .n_virtual = gr_adapter_n_virtual(t->set, t->adapter),
        .seq2seq = is_seq2seq(t),
        .start_id = (int32_t)c->decoder_start_token_id,
        .pad_id = (int32_t)GR_MAX(c->pad_token_id, 0)};
    GR_TRY(gr_loader_new(t->ctx, t->data, &train, &t->loader, err));
    gr_loader_options eval = train;
    eval.batch_size = (size_t)o->per_device_eval_batch_size;
    eval.packing = eval.shuffle = false;
    return t->eval_data ? gr_loader_new(t->ctx, t->eval_data, &eval, &t->eval_loader, err) : GRAFT_OK;
}

static graft_status load_model(gr_trainer *t, graft_error *err) {
    const graft_sft_options *o = t->o;
    gr_model_options mo = {0};
    if (o->dtype) mo = (gr_model_options){.has_dtype = true, .dtype = !strcmp(o->dtype, "bf16") ? GR_BF16 : GR_F32};
    GR_TRY(gr_quantize_options(o->load_in_4bit, o->load_in_8bit, o->bnb_4bit_quant_type, o->bnb_4bit_use_double_quant, 0, &mo.quantize, err));
    gr_trainer_progress(t, GRAFT_TRAIN_LOADING, 0, 0);
    GR_TRY(gr_trainer_choose_task(t, &mo, err));
    if (t->plans && gr_path_is_shape(t->a, o->model))
        GR_TRY(gr_model_open_shape(t->ctx, o->model, &mo, &t->model, err));
    else if (!t->base || !t->base->model)
        GR_TRY(gr_model_open(t->ctx, o->model, &mo, t->base ? &t->base->model : &t->model, err));
    if (t->base) t->model = t->base->model;
    gr_model_release(t->model);
    GR_TRY(gr_trainer_check_base(t, &mo, err));
    if (!t->base || !t->base->set) GR_TRY(gr_adapter_set_new(t->model, t->base ? &t->base->set : &t->set, err));
    if (t->base) t->set = t->base->set;
    return GRAFT_OK;
}

/* NULL where the model has none. */
static graft_status load_tokenizer(gr_trainer *t, graft_error *err) {
    graft_tokenizer **tok = t->base ? &t->base->tok : &t->tok;
    graft_error none;
    graft_status st = *tok ? GRAFT_OK : graft_tokenizer_load(t->ctx, t->o->model, tok, &none);
    if (st == GRAFT_ERR_NOT_FOUND) {
        if (!gr_model_is_shape(t->model)) gr_log(t->ctx, GRAFT_LOG_INFO, "%s: records must be tokens", none.text);
        return GRAFT_OK;
    }
    if (st != GRAFT_OK && err) *err = none;
    t->tok = *tok;
    return st;
}

/* LoRA+, as peft 0.21's optimizers/loraplus.py sets its groups. */
static void set_loraplus(gr_trainer *t) {
    const graft_lora_options *l = &t->o->lora;
    double lr = t->o->learning_rate, embedding = l->loraplus_lr_embedding > 0 ? l->loraplus_lr_embedding : 1e-6;
    if (!(l->loraplus_lr_ratio > 0)) return;
    for (size_t i = 0; i < t->n_params; i++) {
        gr_param *p = t->params[i];
        if (strstr(p->name, ".lora_embedding_"))
            p->lr_factor = lr > 0 ? embedding / lr : 1;
        else if (strstr(p->name, "lora_B") || p->shape.n == 1)
            p->lr_factor = l->loraplus_lr_ratio;
    }
}

static graft_status make_adapter(gr_trainer *t, graft_error *err) {
    const graft_sft_options *o = t->o;
    if (o->adapter) {
        GR_TRY(gr_adapter_set_load(t->set, t->name, o->adapter, 1, true, &t->adapter, err));
        const char *method = gr_adapter_method_name(t->set, t->adapter);
        if (o->method && strcmp(o->method, "lora") != 0 && strcmp(o->method, method) != 0)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "adapter: expected one of method %s, found %s in %s", o->method, method,
                           o->adapter);
    } else {
        gr_buf config;
        gr_buf_init(&config, t->a);
        graft_status st = gr_method_config(t, &config, err);
        if (st == GRAFT_OK)
            st = gr_adapter_set_create(t->set, t->name, config.data, config.len, o->seed, &t->adapter, err);
        gr_buf_free(&config);
        GR_TRY(st);
    }
    t->n_params = gr_adapter_n_params(t->set, t->adapter);
    t->n_trainable = gr_adapter_n_trainable(t->set, t->adapter);
    t->params = gr_calloc(t->a, t->n_params + 1, sizeof *t->params);
    if (!t->params) return gr_fail_memory(err);
    for (size_t i = 0; i < t->n_params; i++) t->params[i] = gr_adapter_param(t->set, t->adapter, i);
    set_loraplus(t);
    return GRAFT_OK;
}

/* Below 1 a share of all steps, rounded up. */
static int64_t steps_of(double value, int64_t total) {
    return (int64_t)(value < 1 ? ceil(value * (double)total) : value);
}

static graft_status count_steps(gr_trainer *t, graft_error *err) {
    const graft_sft_options *o = t->o;
    t->steps_per_epoch = (int64_t)GR_MAX(gr_loader_batches(t->loader), (size_t)1);
    double total = o->max_steps > 0 ? (double)o->max_steps : ceil(o->num_train_epochs * (double)t->steps_per_epoch);
    if (!(total >= 1) || total > 1e12)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "num_train_epochs: expected at least one step, found %g epochs of %lld steps",
                       o->num_train_epochs, (long long)t->steps_per_epoch);
    int64_t steps = (int64_t)total;
    t->warmup = o->warmup_steps > 0 ? steps_of(o->warmup_steps, steps) : (int64_t)ceil(o->warmup_ratio * total);
    t->logging_steps = GR_MAX(steps_of(o->logging_steps, steps), 1);
    t->eval_steps = o->eval_steps > 0 ? steps_of(o->eval_steps, steps) : t->logging_steps;
    t->save_steps = steps_of(o->save_steps, steps);
    if (!t->resumed_from) t->state.max_steps = steps;
    else if (t->state.max_steps != steps)
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "%s: max_steps: the run was started with %lld, found %lld: a resumed run keeps its options; to go "
                       "on with others start a new run from this checkpoint's weights",
                       t->resumed_from, (long long)t->state.max_steps, (long long)steps);
    return gr_schedule_init(o->lr_scheduler_type, o->lr_scheduler_kwargs, o->learning_rate, t->warmup, steps, &t->schedule,
                            err);
}

/* The last layer always runs: it leaves rows out that have no label. */
static graft_status make_trunk(gr_trainer *t, int *layer, graft_error *err) {
    const graft_sft_options *o = t->o;
    const gr_model_config *c = gr_model_get_config(t->model);
    *layer = GR_MIN(gr_lowest_layer(t), c->n_layers - 1);
    if (!o->cache_trunk) {
        if (!o->cache_trunk_dir) return GRAFT_OK;
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "cache_trunk_dir: expected cache_trunk with a size too, found none");
    }
    if (c->n_encoder_layers)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "cache_trunk: %s is an encoder-decoder, of which no layer's output is kept", o->model);
    const double dropout = GR_MAX(GR_MAX(c->embedding_dropout, c->hidden_dropout), c->attention_dropout);
    if (dropout > 0)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "cache_trunk: %s has dropout (%g), so that no layer gives the same twice", o->model, dropout);
    if (c->task == GR_TASK_MASKED_LM && !gr_adapter_prompt_template(t->set, t->adapter))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "cache_trunk: tokens are hidden anew in each epoch, so that no sequence comes twice (with a prompt_template it does)");
    if (*layer == 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "cache_trunk: expected layers below the lowest trained one, found that layer 0 or "
                       "the embedding is trained (layers_to_transform chooses the upper layers)");
    return gr_trunk_new(t->a, gr_dtype_bytes(gr_model_dtype(t->model), (size_t)c->hidden_size), (size_t)o->cache_trunk,
                        o->cache_trunk_dir, &t->trunk, err);
}

static graft_status make_engine(gr_trainer *t, graft_error *err) {
    GR_TRY(count_steps(t, err));
    GR_TRY(gr_adapter_begin_run(t->set, t->adapter, t->state.max_steps, err));
    int trunk_layer;
    GR_TRY(make_trunk(t, &trunk_layer, err));
    const gr_engine_options eo = {.trunk = t->trunk,
                                  .trunk_layer = trunk_layer,
                                  .hooks = gr_adapter_set_hooks(t->set),
                                  .set = t->set,
                                  .adapter = t->adapter,
                                  .seed = t->o->seed,
                                  .max_seqs = (size_t)t->o->per_device_train_batch_size};
    return gr_engine_new(t->model, &eo, &t->engine, err);
}

graft_status gr_trainer_load(gr_trainer *t, graft_error *err) {
    GR_TRY(load_model(t, err));
    size_t before = gr_resident_bytes();
    GR_TRY(load_tokenizer(t, err));
    size_t between = gr_resident_bytes();
    GR_TRY(make_adapter(t, err)); /* its template says how records are read */
    size_t adapted = gr_resident_bytes();
    GR_TRY(load_data(t, err));
    GR_TRY(make_loaders(t, err));
    size_t loaded = gr_resident_bytes();
    t->resident_tokenizer = between > before ? between - before : 0;
    t->resident_data = loaded > adapted ? loaded - adapted : 0;
    return make_engine(t, err);
}

static void free_engine(gr_trainer *t) {
    gr_engine_free(t->engine);
    gr_trunk_free(t->trunk);
    gr_free(t->a, t->params);
    t->engine = NULL;
    t->trunk = NULL;
    t->params = NULL;
}

graft_status gr_trainer_reload(gr_trainer *t, graft_error *err) {
    free_engine(t);
    gr_adapter_set_free(t->set);
    t->set = NULL;
    t->adapter = -1;
    gr_model_close(t->model);
    t->model = NULL;
    gr_arena_free(&t->head_arena);
    GR_TRY(load_model(t, err));
    GR_TRY(make_adapter(t, err));
    return make_engine(t, err);
}

void gr_trainer_close(gr_trainer *t) {
    gr_optimizer_free(t->optimizer);
    free_engine(t);
    if (!t->base) {
        gr_adapter_set_free(t->set);
        gr_model_close(t->model);
        graft_tokenizer_free(t->tok);
    } else if (t->set && t->adapter >= 0) {
        gr_adapter_set_remove(t->set, t->adapter);
    }
    gr_loader_free(t->loader);
    gr_loader_free(t->eval_loader);
    graft_dataset_free(t->data);
    graft_dataset_free(t->eval_data);
    graft_label_set_free(t->ctx, &t->labels);
    gr_arena_free(&t->head_arena);
    gr_events_close(t->events);
    gr_state_free(&t->state);
    gr_free(t->a, t->resumed_from);
    gr_free(t->a, t->log_path);
    if (t->lock >= 0) close(t->lock);
}
