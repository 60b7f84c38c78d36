/* The model card: README.md with the front matter that the Hub reads, as peft writes it for adapters, then what was
 * done, on what, with what result. */
#include <math.h>
#include <stdio.h>

#include "data/dataset.h"
#include "train/trainer.h"

static const char *last_part(const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') start--;
    return path + start;
}

static void add_front_matter(gr_buf *b, const gr_trainer *t, bool full) {
    gr_buf_add_text(b, "---\nbase_model: ");
    gr_json_add_text(b, t->o->model, strlen(t->o->model));
    gr_buf_add_format(b, "\nlibrary_name: %s\npipeline_tag: %s\ntags:\n", full ? "transformers" : "peft",
                      gr_model_pipeline(t->model));
    if (!full) {
        gr_buf_add_text(b, "- ");
        gr_buf t2;
        gr_buf_init(&t2, t->a);
        gr_buf_add_format(&t2, "base_model:adapter:%s", t->o->model);
        gr_json_add_text(b, gr_buf_text(&t2), t2.len);
        if (t2.failed != GRAFT_OK) b->failed = t2.failed;
        gr_buf_free(&t2);
        gr_buf_add_format(b, "\n- %s\n", gr_adapter_method_name(t->set, t->adapter));
    }
    gr_buf_add_text(b, "- sft\n- graft\n---\n\n");
}

static void add_row(gr_buf *b, const char *name, double value) { gr_buf_add_format(b, "| %s | %.6g |\n", name, value); }

static void add_text_row(gr_buf *b, const char *name, const char *text) {
    gr_buf_add_format(b, "| %s | %s |\n", name, text);
}

static void add_settings(gr_buf *b, const gr_trainer *t) {
    const graft_sft_options *o = t->o;
    gr_buf_add_text(b, "## Training\n\n| setting | value |\n|---|---|\n");
    add_text_row(b, "method", gr_adapter_method_name(t->set, t->adapter));
    gr_buf_add_format(b, "| trainable parameters | %lld of %lld (%.3g %%) |\n", (long long)t->n_trainable,
                      (long long)gr_model_n_params(t->model),
                      100.0 * (double)t->n_trainable / (double)GR_MAX(gr_model_n_params(t->model), 1));
    add_text_row(b, "compute type", gr_model_dtype(t->model) == GR_BF16 ? "bf16" : "f32");
    if (o->load_in_8bit || o->load_in_4bit)
        gr_buf_add_format(b, "| weights of products | %s%s |\n", gr_dtype_name(gr_model_quantized(t->model).dtype),
                          o->bnb_4bit_use_double_quant ? " with double quantisation" : "");
    add_text_row(b, "optimiser", t->rule->names[0]);
    add_row(b, "learning_rate", o->learning_rate);
    add_text_row(b, "lr_scheduler_type", o->lr_scheduler_type ? o->lr_scheduler_type : "linear");
    add_row(b, "warm-up steps", (double)t->warmup);
    add_row(b, "weight_decay", o->weight_decay);
    add_row(b, "max_grad_norm", o->max_grad_norm);
    add_row(b, "records a step", (double)(o->per_device_train_batch_size * o->gradient_accumulation_steps));
    gr_buf_add_format(b, "| steps | %lld |\n", (long long)t->state.global_step);
    gr_buf_add_format(b, "| epochs | %.4g |\n", t->state.epoch);
    gr_buf_add_format(b, "| max_length | %lld |\n", (long long)o->max_length);
    add_text_row(b, "packing", o->packing ? "yes" : "no");
    gr_buf_add_format(b, "| seed | %llu |\n\n", (unsigned long long)o->seed);
}

static void add_files(gr_buf *b, graft_texts files, const graft_data_stats *s, const char *use) {
    gr_buf_add_format(b, "- %s: %zu records, %llu tokens, %llu of them with a loss (", use, s->examples,
                      (unsigned long long)s->tokens, (unsigned long long)s->labels);
    for (size_t i = 0; i < files.n && i < 10; i++) gr_buf_add_format(b, "%s`%s`", i ? ", " : "", last_part(files.items[i]));
    gr_buf_add_text(b, files.n > 10 ? ", ...)\n" : ")\n");
}

static void add_results(gr_buf *b, const gr_trainer *t) {
    const gr_train_state *s = &t->state;
    const bool classifies = gr_model_get_config(t->model)->task == GR_TASK_SEQ_CLS;
    gr_buf_add_text(b, "## Results\n\n| metric | value |\n|---|---|\n");
    add_row(b, "train_loss (mean of all steps)", s->total_loss / (double)GR_MAX(s->global_step, 1));
    if (isfinite(s->last_eval_loss)) add_row(b, "eval_loss (last)", s->last_eval_loss);
    if (isfinite(s->last_eval_loss) && gr_dataset_problem(t->data) != GRAFT_PROBLEM_REGRESSION)
        add_row(b, classifies ? "eval_accuracy (last)" : "eval_mean_token_accuracy (last)", s->last_eval_accuracy);
    if (s->best_step)
        gr_buf_add_format(b, "| best %s | %.6g at step %lld%s |\n", t->metric, s->best_metric, (long long)s->best_step,
                          t->o->load_best_model_at_end ? " (these weights)" : "");
}

/* The classes that open it, of transformers and of peft, by the task. */
static void add_usage(gr_buf *b, const gr_trainer *t, bool full) {
    static const struct {
        const char *call, *class, *adapter;
    } uses[] = {[GR_TASK_CAUSAL_LM] = {"chat", "AutoModelForCausalLM", "AutoPeftModelForCausalLM"},
                [GR_TASK_SEQ_2_SEQ_LM] = {"generate", "AutoModelForSeq2SeqLM", "AutoPeftModelForSeq2SeqLM"},
                [GR_TASK_MASKED_LM] = {"generate", "AutoModelForMaskedLM", "AutoPeftModel"},
                [GR_TASK_SEQ_CLS] = {"generate", "AutoModelForSequenceClassification",
                                     "AutoPeftModelForSequenceClassification"}};
    const gr_model_config *c = gr_model_get_config(t->model);
    const char *call = uses[c->task].call, *class = uses[c->task].class, *adapter = uses[c->task].adapter;
    const char *text = c->task == GR_TASK_CAUSAL_LM ? "" : " -p TEXT";
    char labels[40] = "";
    if (c->task == GR_TASK_SEQ_CLS) snprintf(labels, sizeof labels, ", num_labels=%d", c->n_labels);
    if (full) {
        gr_buf_add_format(b, "\n## Use\n\n```sh\ngraft %s -m THIS_FOLDER%s\n```\n\n```python\n", call, text);
        gr_buf_add_format(b, "from transformers import %s%s\n", class, t->tok ? ", AutoTokenizer" : "");
        gr_buf_add_format(b, "model = %s.from_pretrained(\"THIS_FOLDER\")\n", class);
        gr_buf_add_text(b, t->tok ? "tokenizer = AutoTokenizer.from_pretrained(\"THIS_FOLDER\")\n```\n" : "```\n");
    } else
        gr_buf_add_format(b, "\n## Use\n\n```sh\ngraft %s -m %s --adapter THIS_FOLDER%s\n```\n\n```python\nfrom peft import %s\n"
                             "model = %s.from_pretrained(\"THIS_FOLDER\"%s)\n```\n",
                          call, t->o->model, text, adapter, adapter, labels);
    gr_buf_add_format(b, "\nMade with graft %s.\n", graft_version());
}

graft_status gr_write_card(const gr_trainer *t, graft_error *err) {
    bool full = t->o->method && !strcmp(t->o->method, "full");
    gr_buf b;
    gr_buf_init(&b, t->a);
    add_front_matter(&b, t, full);
    gr_buf_add_format(&b, "# %s\n\n%s fine-tuned on the data below; base model: `%s`.\n\n", last_part(t->o->output_dir),
                      full ? "A language model" : "An adapter for a language model,", t->o->model);
    add_settings(&b, t);
    gr_buf_add_text(&b, "## Data\n\n");
    add_files(&b, t->o->data, &t->stats, "training");
    if (t->eval_data) add_files(&b, t->o->eval_data, &t->eval_stats, "evaluation");
    gr_buf_add_char(&b, '\n');
    add_results(&b, t);
    add_usage(&b, t, full);
    graft_status st = gr_buf_status(&b, err);
    char *path = gr_path_join(t->a, t->o->output_dir, "README.md");
    if (st == GRAFT_OK && !path) st = gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_write_file(t->a, path, b.data, b.len, err);
    gr_free(t->a, path);
    gr_buf_free(&b);
    return st;
}
