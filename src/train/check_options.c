/* Options that make no sense are refused before anything is loaded. */
#include <math.h>

#include "model/shape.h"
#include "train/trainer.h"

typedef struct range {
    const char *name;
    double value, low, high;
} range;

static graft_status check_ranges(const graft_sft_options *o, graft_error *err) {
    const double big = 1e15;
    const range ranges[] = {
        {"max_length", (double)o->max_length, 0, big},
        {"max_target_length", (double)o->max_target_length, -1, big},
        {"per_device_train_batch_size", (double)o->per_device_train_batch_size, 1, 1e6},
        {"per_device_eval_batch_size", (double)o->per_device_eval_batch_size, 1, 1e6},
        {"gradient_accumulation_steps", (double)o->gradient_accumulation_steps, 1, 1e6},
        {"num_train_epochs", o->num_train_epochs, o->max_steps > 0 ? -big : 0, 1e6},
        {"learning_rate", o->learning_rate, 0, 1e6},
        {"weight_decay", o->weight_decay, 0, 1e6},
        {"adam_beta1", o->adam_beta1, 0, nextafter(1, 0)},
        {"adam_beta2", o->adam_beta2, 0, nextafter(1, 0)},
        {"adam_epsilon", o->adam_epsilon, 0, 1},
        {"max_grad_norm", o->max_grad_norm, 0, big},
        {"warmup_ratio", o->warmup_ratio, 0, 1},
        {"warmup_steps", o->warmup_steps, 0, big},
        {"logging_steps", o->logging_steps, 0, big},
        {"eval_steps", o->eval_steps, 0, big},
        {"save_steps", o->save_steps, 0, big},
        {"save_total_limit", (double)o->save_total_limit, 0, big},
        {"early_stopping_patience", (double)o->early_stopping_patience, 0, big},
        {"early_stopping_threshold", o->early_stopping_threshold, 0, big},
        {"lora_r", (double)o->lora.r, 1, 65536},
        {"lora_dropout", o->lora.lora_dropout, 0, nextafter(1, 0)},
        {"loraplus_lr_ratio", o->lora.loraplus_lr_ratio, 0, 1e6},
        {"loraplus_lr_embedding", o->lora.loraplus_lr_embedding, 0, 1e6},
    };
    for (size_t i = 0; i < GR_COUNT(ranges); i++)
        if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected a number from %.6g to %.6g, found %g", ranges[i].name,
                           ranges[i].low, ranges[i].high, ranges[i].value);
    return GRAFT_OK;
}

static bool among(const char *value, const char *const *allowed) {
    for (; *allowed; allowed++)
        if (!strcmp(value, *allowed)) return true;
    return false;
}

static graft_status check_names(const graft_sft_options *o, graft_error *err) {
    const struct {
        const char *name, *value, *expected;
        const char *const allowed[4];
    } names[] = {
        {"dtype", o->dtype ? o->dtype : "f32", "f32 or bf16", {"f32", "bf16", NULL}},
        {"report_to", o->report_to ? o->report_to : "none", "none or tensorboard", {"none", "tensorboard", NULL}},
    };
    for (size_t i = 0; i < GR_COUNT(names); i++)
        if (!among(names[i].value, names[i].allowed))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected %s, found %s", names[i].name, names[i].expected,
                           names[i].value);
    if (o->run_name && (strlen(o->run_name) >= 100 || strchr(o->run_name, '/')))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "run_name: expected at most 99 bytes without a slash, found %s", o->run_name);
    return GRAFT_OK;
}

static graft_status check_evaluation(const graft_sft_options *o, graft_error *err) {
    bool evaluates = o->eval_strategy == GRAFT_STRATEGY_STEPS || o->eval_strategy == GRAFT_STRATEGY_EPOCH;
    const char *needs = o->load_best_model_at_end                      ? "load_best_model_at_end"
                        : o->early_stopping_patience > 0               ? "early_stopping_patience"
                        : o->save_strategy == GRAFT_STRATEGY_BEST      ? "save_strategy best"
                        : o->eval_strategy != GRAFT_STRATEGY_NO        ? "eval_strategy"
                                                                       : NULL;
    if (o->logging_strategy == GRAFT_STRATEGY_BEST || o->eval_strategy == GRAFT_STRATEGY_BEST)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected no, steps or epoch, found best",
                       o->logging_strategy == GRAFT_STRATEGY_BEST ? "logging_strategy" : "eval_strategy");
    if (needs && !evaluates)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected eval_strategy steps or epoch, found no", needs);
    if (o->eval_data.n && !evaluates && !o->eval_on_start)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "eval_data: expected eval_strategy steps or epoch, found no: nothing would be evaluated");
    if ((needs || o->eval_on_start) && o->eval_data.n == 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected eval_data, found none", needs ? needs : "eval_on_start");
    return GRAFT_OK;
}

static graft_status check_metric(gr_trainer *t, graft_error *err) {
    static const char *const known[] = {"eval_loss", "eval_mean_token_accuracy", "eval_accuracy", "eval_f1"};
    const char *name = t->o->metric_for_best_model ? t->o->metric_for_best_model : "loss";
    if (!strncmp(name, "eval_", 5)) name += 5;
    for (size_t i = 0; i < GR_COUNT(known); i++)
        if (!strcmp(known[i] + 5, name)) {
            t->metric = known[i];
            t->greater = t->o->greater_is_better == GRAFT_AUTO ? i > 0 : t->o->greater_is_better == GRAFT_YES;
            return GRAFT_OK;
        }
    return gr_fail(err, GRAFT_ERR_ARGUMENT,
                   "metric_for_best_model: expected eval_loss, eval_mean_token_accuracy, or of a classification "
                   "eval_accuracy or eval_f1, found %s",
                   t->o->metric_for_best_model);
}

graft_status gr_trainer_open(gr_trainer *t, graft_context *ctx, const graft_sft_options *o,
                             const graft_train_callbacks *callbacks, graft_error *err) {
    *t = (gr_trainer){.ctx = ctx, .a = gr_allocator(ctx), .o = o, .lock = -1, .adapter = -1, .name = "default"};
    if (callbacks) t->call = *callbacks;
    gr_state_init(&t->state, t->a);
    t->start = gr_now_seconds();
    t->resident_start = gr_resident_bytes();
    if (!o->model) return gr_fail(err, GRAFT_ERR_ARGUMENT, "model: expected a directory or a .gguf file, found none");
    if (o->data.n == 0 && !gr_path_is_shape(t->a, o->model))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "data: expected at least one file, found none");
    GR_TRY(check_ranges(o, err));
    GR_TRY(check_names(o, err));
    GR_TRY(gr_method_check_options(o, err));
    gr_quantize_spec quantize;
    GR_TRY(gr_quantize_options(o->load_in_4bit, o->load_in_8bit, o->bnb_4bit_quant_type, o->bnb_4bit_use_double_quant, 0, &quantize, err));
    if (quantize.dtype != GR_F32 && o->method && !strcmp(o->method, "full"))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "load_in_4bit and load_in_8bit: expected a method that leaves the weights as they are, found full");
    GR_TRY(check_evaluation(o, err));
    GR_TRY(check_metric(t, err));
    t->optimizer_options = (gr_optimizer_options){.beta1 = o->adam_beta1,
                                                  .beta2 = o->adam_beta2,
                                                  .epsilon = o->adam_epsilon,
                                                  .weight_decay = o->weight_decay};
    GR_TRY(gr_optimizer_find(o->optim ? o->optim : "adamw_torch", o->optim_args, &t->optimizer_options, &t->rule, err));
    if (o->paged_dir && !t->optimizer_options.paged)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "paged_dir: expected a paged optimiser, found %s", t->rule->names[0]);
    /* The settings of the schedule, before the number of steps is known. */
    gr_schedule probe;
    return gr_schedule_init(o->lr_scheduler_type, o->lr_scheduler_kwargs, o->learning_rate, 0, 1, &probe, err);
}
