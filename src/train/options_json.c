/* All options of a run under their names, for people who look into a checkpoint. */
#include "train/checkpoint.h"

static void add_key(gr_buf *b, const char *key) { gr_buf_add_format(b, "%s  \"%s\": ", b->len > 2 ? ",\n" : "", key); }

static void add_text(gr_buf *b, const char *key, const char *text) {
    add_key(b, key);
    if (text)
        gr_json_add_text(b, text, strlen(text));
    else
        gr_buf_add_text(b, "null");
}

static void add_texts(gr_buf *b, const char *key, graft_texts list) {
    add_key(b, key);
    gr_buf_add_char(b, '[');
    for (size_t i = 0; i < list.n; i++) {
        if (i) gr_buf_add_text(b, ", ");
        gr_json_add_text(b, list.items[i], strlen(list.items[i]));
    }
    gr_buf_add_char(b, ']');
}

static void add_int(gr_buf *b, const char *key, int64_t value) {
    add_key(b, key);
    gr_buf_add_format(b, "%lld", (long long)value);
}

static void add_bool(gr_buf *b, const char *key, int value) {
    add_key(b, key);
    gr_buf_add_text(b, value ? "true" : "false");
}

static void add_double(gr_buf *b, const char *key, double value) {
    add_key(b, key);
    gr_json_add_double(b, value);
}

static void add_choice(gr_buf *b, const char *key, graft_choice value) {
    add_key(b, key);
    gr_buf_add_text(b, value == GRAFT_AUTO ? "null" : value == GRAFT_YES ? "true" : "false");
}

static void add_strategy(gr_buf *b, const char *key, graft_strategy value) {
    static const char *const names[] = {"no", "steps", "epoch", "best"};
    add_text(b, key, names[value]);
}

static void add_data(gr_buf *b, const graft_sft_options *o) {
    add_text(b, "model_name_or_path", o->model);
    add_text(b, "method", o->method);
    add_text(b, "adapter", o->adapter);
    add_text(b, "dtype", o->dtype);
    add_bool(b, "load_in_4bit", o->load_in_4bit);
    add_bool(b, "load_in_8bit", o->load_in_8bit);
    add_text(b, "bnb_4bit_quant_type", o->bnb_4bit_quant_type);
    add_bool(b, "bnb_4bit_use_double_quant", o->bnb_4bit_use_double_quant);
    add_texts(b, "data", o->data);
    add_texts(b, "eval_data", o->eval_data);
    add_text(b, "chat_template_path", o->chat_template_path);
    add_int(b, "max_length", o->max_length);
    add_int(b, "max_target_length", o->max_target_length);
    add_choice(b, "completion_only_loss", o->completion_only_loss);
    add_bool(b, "assistant_only_loss", o->assistant_only_loss);
    add_bool(b, "packing", o->packing);
    add_bool(b, "no_shuffle", o->no_shuffle);
    add_bool(b, "skip_bad_records", o->skip_bad_records);
    add_text(b, "task_type", o->task_type);
    add_text(b, "problem_type", o->problem_type);
    add_double(b, "mlm_probability", o->mlm_probability);
}

static void add_steps(gr_buf *b, const graft_sft_options *o) {
    add_text(b, "output_dir", o->output_dir);
    add_double(b, "num_train_epochs", o->num_train_epochs);
    add_int(b, "max_steps", o->max_steps);
    add_int(b, "per_device_train_batch_size", o->per_device_train_batch_size);
    add_int(b, "per_device_eval_batch_size", o->per_device_eval_batch_size);
    add_int(b, "gradient_accumulation_steps", o->gradient_accumulation_steps);
    add_choice(b, "gradient_checkpointing", o->gradient_checkpointing);
    add_int(b, "memory", (int64_t)o->memory);
    add_choice(b, "quantize_to_fit", o->quantize_to_fit);
    add_int(b, "cache_trunk", (int64_t)o->cache_trunk);
    add_text(b, "cache_trunk_dir", o->cache_trunk_dir);
    add_text(b, "optim", o->optim);
    add_text(b, "optim_args", o->optim_args);
    add_text(b, "paged_dir", o->paged_dir);
    add_double(b, "learning_rate", o->learning_rate);
    add_double(b, "weight_decay", o->weight_decay);
    add_double(b, "adam_beta1", o->adam_beta1);
    add_double(b, "adam_beta2", o->adam_beta2);
    add_double(b, "adam_epsilon", o->adam_epsilon);
    add_double(b, "max_grad_norm", o->max_grad_norm);
    add_text(b, "lr_scheduler_type", o->lr_scheduler_type);
    add_text(b, "lr_scheduler_kwargs", o->lr_scheduler_kwargs);
    add_double(b, "warmup_ratio", o->warmup_ratio);
    add_double(b, "warmup_steps", o->warmup_steps);
}

static void add_watch(gr_buf *b, const graft_sft_options *o) {
    add_strategy(b, "logging_strategy", o->logging_strategy);
    add_double(b, "logging_steps", o->logging_steps);
    add_bool(b, "logging_first_step", o->logging_first_step);
    add_text(b, "report_to", o->report_to);
    add_text(b, "run_name", o->run_name);
    add_strategy(b, "eval_strategy", o->eval_strategy);
    add_double(b, "eval_steps", o->eval_steps);
    add_bool(b, "eval_on_start", o->eval_on_start);
    add_strategy(b, "save_strategy", o->save_strategy);
    add_double(b, "save_steps", o->save_steps);
    add_int(b, "save_total_limit", o->save_total_limit);
    add_bool(b, "load_best_model_at_end", o->load_best_model_at_end);
    add_text(b, "metric_for_best_model", o->metric_for_best_model);
    add_choice(b, "greater_is_better", o->greater_is_better);
    add_int(b, "early_stopping_patience", o->early_stopping_patience);
    add_double(b, "early_stopping_threshold", o->early_stopping_threshold);
    add_int(b, "seed", (int64_t)o->seed);
}

void gr_options_json(const graft_sft_options *o, gr_buf *out) {
    gr_buf_add_text(out, "{\n");
    add_data(out, o);
    add_steps(out, o);
    add_watch(out, o);
    gr_buf_add_text(out, "\n}\n");
}
