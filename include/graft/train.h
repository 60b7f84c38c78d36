/* Training: supervised fine-tuning (`graft sft`), what it will need (`graft plan`), and charts of runs (`graft plot`).
 *
 * Options carry the names of trl 1.16's SFTConfig (on transformers 5.23) and of peft 0.21's configurations, and their
 * defaults where they have one. Structs are filled by graft_*_default() first; texts and lists are borrowed for the call.
 *
 * The bits of a run are decided by data, model and options, not by the number of threads, by how a batch is cut into
 * micro-batches, by recomputation, or by where the run was interrupted and resumed. */
#ifndef GRAFT_TRAIN_H
#define GRAFT_TRAIN_H

#include <stddef.h>
#include <stdint.h>
#include "graft/context.h"
#include "graft/data.h"
#include "graft/lora.h"
#include "graft/methods.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum graft_strategy {
    GRAFT_STRATEGY_NO,
    GRAFT_STRATEGY_STEPS,
    GRAFT_STRATEGY_EPOCH,
    GRAFT_STRATEGY_BEST /* save_strategy only: whenever an evaluation is the best so far */
} graft_strategy;

typedef struct graft_sft_options {
    /* --- Model --- */
    const char *model;   /* a Hugging Face directory or a .gguf file. Required */
    const char *method;  /* "lora" (default), "adalora", "full", "ia3", "prompt-tuning", "prefix-tuning", "p-tuning",
                        * "llama-adapter", "ln-tuning", "bitfit", "vera", "loha", "lokr" */
    graft_lora_options lora;
    graft_method_options methods; /* an option that the method does not have is an error */
    const char *adapter; /* start from the weights and settings of this adapter directory; NULL: a new one */
    /* What stands on top, by peft's names, and "MASKED_LM"; NULL: what config.json names. A head that the model's files lack
     * begins with initial values and is trained whole. */
    const char *task_type;
    const char *dtype;   /* compute type "f32" or "bf16"; NULL: bf16 where the CPU has it in hardware, else f32 */
    /* As in graft_model_options: the frozen weights are held in 4 or 8 bits (QLoRA). */
    int load_in_4bit, load_in_8bit;
    const char *bnb_4bit_quant_type;
    int bnb_4bit_use_double_quant;

    /* --- Data --- */
    graft_texts data;      /* JSON Lines files ("-": stdin, ".gz" too). Required */
    graft_texts eval_data; /* the same, for evaluation */
    const char *chat_template_path; /* a Jinja file instead of the model's own chat template */
    int64_t max_length;             /* tokens of a record (a source), 1024; the rest is cut off. 0: no limit */
    int64_t max_target_length;      /* models with an encoder: the same of a target. -1: 128 */
    graft_choice completion_only_loss; /* GRAFT_AUTO: where records have a prompt and a completion */
    int assistant_only_loss;        /* 0 */
    /* 0; 1: records share sequences of up to max_length tokens (best fit, as trl's "bfd"), without attention across
     * records; a batch then counts sequences. */
    int packing;
    int no_shuffle;                 /* 0; 1 keeps the records' order */
    int skip_bad_records;           /* 0: the first bad record is an error */
    /* Of a classification: the names of the labels in order, none: config.json's, or those that the records have, sorted;
     * transformers' problem_type, NULL: by the labels. */
    graft_texts labels;
    const char *problem_type;
    double mlm_probability; /* 0: 0.15; of a masked language model the share of tokens that is hidden */

    /* --- Steps --- */
    const char *output_dir; /* required */
    double num_train_epochs;             /* 3 */
    int64_t max_steps;                   /* -1; > 0 overrides num_train_epochs */
    int64_t per_device_train_batch_size; /* 8 records (sequences when packing) a micro-batch */
    int64_t per_device_eval_batch_size;  /* 8 */
    /* 1; a step sees train batch size times this many records, its loss is the mean over all their label tokens */
    int64_t gradient_accumulation_steps;
    /* Recompute layers in the backward instead of keeping their activations. GRAFT_AUTO: norms and activation functions
     * always, whole layers only to stay within memory. GRAFT_NO: nothing. The results are the same bits. */
    graft_choice gradient_checkpointing;
    /* Bytes that the process may use, 0: what the machine has. To fit, graft computes fewer records at a time and
     * recomputes: the results stay the same. Where that is not enough it holds frozen weights that are floats in fewer bits, as
     * load_in_8bit or load_in_4bit with double quantisation would, and says so: see quantize_to_fit. Weights that still find no
     * room are read from the files for each product. When nothing fits, the error says what would. */
    uint64_t memory;
    /* Whether `memory` may choose the weights' format. GRAFT_AUTO: yes, unless load_in_4bit or load_in_8bit says it, the method
     * is full, or the run has jobs beside it. A resumed run keeps the format that it began with. */
    graft_choice quantize_to_fit;
    /* Bytes for what the layers below the lowest trained one give for each record, kept from epoch to epoch: these layers
     * are then run once a record. 0: none. An error where nothing lies below (layer 0 or the embedding is trained). The
     * results are the same bits. */
    uint64_t cache_trunk;
    const char *cache_trunk_dir; /* keep it in an unnamed file in this directory instead of memory; NULL */

    /* --- Optimiser --- */
    /* "adamw_torch" (also "adamw", "adamw_torch_fused"), "adamw_8bit" ("adamw_bnb_8bit"), "sgd"; "paged_adamw_32bit" and
     * "paged_adamw_8bit" keep the moments in an unnamed file, which the system can write out. The same bits as without. */
    const char *optim;
    const char *paged_dir;  /* directory of that file; NULL: output_dir */
    const char *optim_args; /* "momentum=0.9,nesterov=true" for sgd; NULL */
    double learning_rate;   /* 2e-5 */
    double weight_decay;    /* 0; on matrices, not on biases and norm weights */
    double adam_beta1, adam_beta2, adam_epsilon; /* 0.9, 0.999, 1e-8 */
    double max_grad_norm;                        /* 1; 0: no clipping */
    /* "linear" "cosine" "cosine_with_restarts" "polynomial" "constant" "constant_with_warmup" "inverse_sqrt"
     * "cosine_with_min_lr" "warmup_stable_decay" */
    const char *lr_scheduler_type;
    const char *lr_scheduler_kwargs; /* a JSON object with the schedule's own settings, as transformers takes it; NULL */
    double warmup_ratio;             /* 0; of the total steps, rounded up */
    double warmup_steps;             /* 0; > 0 overrides warmup_ratio; below 1 it is a ratio itself */

    /* --- Logging, evaluation, checkpoints --- */
    graft_strategy logging_strategy; /* GRAFT_STRATEGY_STEPS */
    double logging_steps;            /* 10; this and the two below: below 1 a share of the total steps */
    int logging_first_step;          /* 0 */
    const char *report_to;           /* "none" (NULL) or "tensorboard" */
    const char *run_name;            /* folder of the event file under output_dir/runs; NULL: made from the start time */
    graft_strategy eval_strategy;    /* GRAFT_STRATEGY_NO */
    double eval_steps;               /* 0: as logging_steps */
    int eval_on_start;               /* 0 */
    graft_strategy save_strategy;    /* GRAFT_STRATEGY_STEPS */
    double save_steps;               /* 500 */
    int64_t save_total_limit;        /* 0: keep all; the best and the newest are never removed */
    int load_best_model_at_end;      /* 0 */
    const char *metric_for_best_model; /* "eval_loss" (NULL) or "eval_mean_token_accuracy"; of a classification
                                          * "eval_accuracy", "eval_f1"; "eval_" may be left out */
    graft_choice greater_is_better;    /* GRAFT_AUTO: unless the metric is a loss */
    int64_t early_stopping_patience;   /* 0: never; evaluations without improvement after which the run ends */
    double early_stopping_threshold;   /* 0 */
    /* A checkpoint directory; "latest" (also "true"): the newest in output_dir; "auto": the same, or a new start where
     * there is none. NULL: start anew. */
    const char *resume_from_checkpoint;
    int overwrite_output_dir; /* 0: a run that starts anew refuses an output_dir that holds checkpoints; 1 removes them */
    uint64_t seed;            /* 42 */
} graft_sft_options;

graft_sft_options graft_sft_options_default(void);

/* --- While it runs --- */

typedef enum graft_train_phase {
    GRAFT_TRAIN_LOADING,    /* model and tokenizer */
    GRAFT_TRAIN_READING,    /* records */
    GRAFT_TRAIN_STEPPING,
    GRAFT_TRAIN_EVALUATING, /* done and total count records */
    GRAFT_TRAIN_SAVING
} graft_train_phase;

typedef struct graft_train_progress {
    graft_train_phase phase;
    int64_t done, total; /* of the phase, 0 where unknown */
    int64_t step, total_steps;
    double epoch;
    double loss, grad_norm, learning_rate; /* of the last step */
    double eval_loss;                      /* of the last evaluation, NaN before */
    double tokens_per_second;              /* all input tokens, over the last steps */
    double eta_seconds;                    /* to the end of training, NaN while unknown */
    int64_t num_tokens;                    /* input tokens seen */
    size_t memory;                         /* largest resident memory of the process so far, bytes */
} graft_train_progress;

/* Called from the thread that called graft_sft. Any of them may be NULL. */
typedef struct graft_train_callbacks {
    void *user;
    void (*progress)(void *user, const graft_train_progress *p); /* at least once a step */
    void (*log)(void *user, const char *json); /* every line of trainer_log.jsonl, without newline */
} graft_train_callbacks;

typedef struct graft_train_result {
    int64_t global_step, total_steps;
    double epoch;
    double train_loss;                                /* mean over all steps of the run, resumed ones too */
    double train_runtime;                             /* seconds, this call */
    double train_samples_per_second, train_tokens_per_second;
    int64_t num_tokens;                               /* input tokens, the run from its beginning */
    double eval_loss, eval_mean_token_accuracy;       /* of the last evaluation, NaN without one */
    double best_metric;                               /* NaN without one */
    int64_t best_step, last_checkpoint_step;          /* 0: none */
    int early_stopped;
    int64_t n_parameters, n_trainable;
    int64_t n_records, n_bad_records;   /* used for training; left out because bad (skip_bad_records) */
    int64_t n_dropped_records;          /* left out because max_length cut away every label */
    int64_t n_truncated_records;        /* cut at max_length */
    size_t peak_memory;                 /* bytes */
} graft_train_result;

/* Fine-tunes. Writes into output_dir: the final adapter (as peft writes it) or the whole model (method "full", a
 * Hugging Face directory), README.md, trainer_log.jsonl, checkpoint-N/, runs/ with event files.
 * `callbacks` and `result` may be NULL.
 * GRAFT_ERR_CANCELLED (graft_context_cancel): a checkpoint was saved, err says how to go on. GRAFT_ERR_NUMERIC: loss or
 * gradient is not finite; err names step and records, earlier checkpoints stay. GRAFT_ERR_LIMIT: does not fit `memory`. */
graft_status graft_sft(graft_context *ctx, const graft_sft_options *options, const graft_train_callbacks *callbacks,
                       graft_train_result *result, graft_error *err);

/* --- Several jobs over one model --- */

/* Each job has its own data, method, rate, optimiser state, checkpoints and output_dir, and gets the very bits that
 * graft_sft would give it; the sequences of all of them run side by side, so that the model is held, decoded and packed once. */
typedef struct graft_sft_job {
    const char *name; /* unique; for errors */
    graft_sft_options options;
    graft_train_callbacks callbacks;
    graft_train_result result; /* filled where status is GRAFT_OK */
    graft_status status;
    graft_error error;
} graft_sft_job;

/* All jobs must name the same model and dtype. Where `memory` is set, the smallest one holds for all together. A job that fails
 * leaves the others running; what is returned is the first failure in the order of the jobs, its error with the job's name, or
 * GRAFT_OK. GRAFT_ERR_CANCELLED: every job that had begun saved a checkpoint. */
graft_status graft_sft_jobs(graft_context *ctx, graft_sft_job *jobs, size_t n, graft_error *err);

/* --- Before it runs --- */

/* All sizes in bytes. `peak` predicts the resident memory's high-water mark of a process that does nothing but this. */
typedef struct graft_train_plan {
    size_t peak;
    size_t program;       /* the process before it starts: code, libraries */
    size_t model_mapped;  /* weights read from the mapped files */
    size_t model_streamed; /* weights that find no room: read from the files for each product, no memory */
    size_t model_packed;  /* copies of weights, packed for products */
    size_t parameters;    /* trainable values */
    size_t gradients;
    size_t optimizer;       /* moments; of paged ones what is in memory at a time */
    size_t optimizer_paged; /* file of paged moments, no memory */
    size_t step;          /* activations and their gradients, peak of the largest micro-batch of the run, loss included */
    size_t data;          /* records */
    size_t trunk;         /* cache_trunk, as far as the records fill it */
    size_t tokenizer;
    int64_t micro_tokens; /* most tokens that are computed at a time */
    int gradient_checkpointing;
    int64_t n_parameters, n_trainable;
    int64_t n_records, n_tokens, n_label_tokens; /* one epoch */
    int64_t longest_record;                      /* tokens */
    int64_t steps_per_epoch, total_steps;
    double tokens_per_second, seconds; /* estimated; seconds for the whole run with its evaluations */
    char dtype[8];
    char quantization[16]; /* that the products' weights are held in: "int8", "nf4", "fp4"; "": as stored */
} graft_train_plan;

/* The same options as graft_sft; output_dir is not needed and nothing is written. */
graft_status graft_sft_plan(graft_context *ctx, const graft_sft_options *options, graft_train_plan *out, graft_error *err);

/* --- Afterwards --- */

/* Draws loss, eval_loss and learning_rate of one or more runs over their steps into a self-contained SVG file. Each of
 * `dirs` is an output_dir, a trainer_log.jsonl, an event file, or a folder of event files. */
graft_status graft_plot_svg(graft_context *ctx, graft_texts dirs, const char *out_path, graft_error *err);

/* --- Parts of it --- */

/* Factor on the learning rate before step `step` (0-based) as transformers' get_scheduler gives it. `kwargs` as
 * lr_scheduler_kwargs; `learning_rate` is used by schedules with an absolute end value. */
graft_status graft_lr_schedule(graft_context *ctx, const char *type, const char *kwargs, double learning_rate,
                               int64_t warmup_steps, int64_t total_steps, int64_t step, double *factor, graft_error *err);

#ifdef __cplusplus
}
#endif
#endif
