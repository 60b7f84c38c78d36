/* The option tables of training: trl's and peft's names, straight into the library's structs. */
#include <stdlib.h>

#include "base/json.h"
#include "cli/train_args.h"

#define O(field) offsetof(cli_train_args, o.field)
#define L(field) offsetof(cli_train_args, o.lora.field)
#define M(field) offsetof(cli_train_args, o.methods.field)
#define A(field) offsetof(cli_train_args, field)
#define TEXTS(place, field) .kind = CLI_LIST, .offset = place(field.items), .offset_n = place(field.n), .comma = true

static const cli_option model_options[] = {
    {.name = "model", .aliases = "model-name-or-path hf-repo hf", .letter = 'm', .kind = CLI_TEXT, .offset = O(model), .metavar = "M",
     .help = "model: a Hugging Face directory, a .gguf file, or ORG/NAME"},
    {.name = "method", .kind = CLI_TEXT, .offset = O(method), .metavar = "METHOD", .choices = "lora adalora full ia3 prompt-tuning prefix-tuning p-tuning llama-adapter ln-tuning bitfit vera loha lokr oft multitask-prompt-tuning", .help = "what is trained"},
    {.name = "use-peft", .kind = CLI_TRI, .offset = A(use_peft), .metavar = "", .help = "an adapter (as without it); --no-use-peft as --method full"},
    {.name = "adapter", .kind = CLI_LIST, .offset = A(adapters), .offset_n = A(n_adapters), .metavar = "DIR",
     .help = "start from this adapter's weights, with its settings alone"},
    {.name = "task-type", .kind = CLI_TEXT, .offset = O(task_type), .metavar = "T", .choices = "CAUSAL_LM SEQ_CLS MASKED_LM",
     .help = "what stands on top; unset: what config.json names"},
    {.name = "dtype", .aliases = "torch-dtype", .kind = CLI_TEXT, .offset = O(dtype), .metavar = "T", .choices = "auto f32 bf16 float32 bfloat16",
     .help = "compute type; auto: bf16 where the CPU has it, else f32"},
    {.name = "bf16", .kind = CLI_TRI, .offset = A(bf16), .metavar = "", .help = "as --dtype bf16, --no-bf16 as --dtype f32"},
    {.name = "load-in-4bit", .kind = CLI_FLAG, .offset = O(load_in_4bit), .metavar = "", .help = "hold the weights of the products in 4 bits, as bitsandbytes does"},
    {.name = "load-in-8bit", .kind = CLI_FLAG, .offset = O(load_in_8bit), .metavar = "", .help = "the same in 8 bits"},
    {.name = "bnb-4bit-quant-type", .kind = CLI_TEXT, .offset = O(bnb_4bit_quant_type), .metavar = "T", .choices = "nf4 fp4", .help = "what 4 bits stand for; nf4 unless given"},
    {.name = "bnb-4bit-use-double-quant", .aliases = "use-bnb-nested-quant", .kind = CLI_FLAG, .offset = O(bnb_4bit_use_double_quant), .metavar = "",
     .help = "quantise the scales of the 4 bits too"},
    {.name = "output-dir", .letter = 'o', .kind = CLI_TEXT, .offset = O(output_dir), .metavar = "DIR", .help = "where the result and the checkpoints go"},
    {.name = "memory", .kind = CLI_SIZE, .offset = O(memory), .metavar = "SIZE", .help = "bytes the process may use; fewer records at a time, recomputation, weights in fewer bits to fit"},
    {.name = "quantize-to-fit", .kind = CLI_TRI, .offset = O(quantize_to_fit), .metavar = "", .help = "whether --memory may hold weights in 8 or 4 bits [yes]"},
    {.name = "seed", .kind = CLI_INT64, .offset = O(seed), .metavar = "N", .help = "decides order, initial values and dropout"},
};
const cli_group cli_train_model_group = {"Model", model_options, GR_COUNT(model_options)};

static const cli_option data_options[] = {
    {.name = "data", .aliases = "dataset-name train-data", .letter = 'd', TEXTS(O, data), .metavar = "F", .help = "JSON Lines files; - is standard input"},
    {.name = "eval-data", TEXTS(O, eval_data), .metavar = "F", .help = "records for evaluation"},
    {.name = "chat-template-path", .aliases = "chat-template-file", .kind = CLI_TEXT, .offset = O(chat_template_path), .metavar = "F",
     .help = "a Jinja file instead of the model's chat template"},
    {.name = "max-length", .aliases = "max-seq-length max-source-length", .kind = CLI_INT64, .offset = O(max_length),
     .metavar = "N",
     .help = "tokens of a record (of an encoder-decoder: of its prompt); 0: no limit"},
    {.name = "max-target-length", .kind = CLI_INT64, .offset = O(max_target_length), .metavar = "N",
     .help = "encoder-decoders: tokens of an answer; -1: 128, 0: no limit"},
    {.name = "completion-only-loss", .kind = CLI_TRI, .offset = O(completion_only_loss), .metavar = "",
     .help = "loss on completions only; unset: when records have a prompt and a completion"},
    {.name = "assistant-only-loss", .kind = CLI_FLAG, .offset = O(assistant_only_loss), .metavar = "", .help = "loss on the assistant's words only"},
    {.name = "packing", .kind = CLI_FLAG, .offset = O(packing), .metavar = "", .help = "records share sequences of max-length tokens, without attention across records"},
    {.name = "shuffle", .kind = CLI_FLAG, .offset = A(o.no_shuffle), .metavar = "", .help = "--no-shuffle keeps the records' order"},
    {.name = "labels", .aliases = "label-names", TEXTS(O, labels), .metavar = "NAMES", .help = "classification: names of the labels, in order; unset: config.json's, or the records'"},
    {.name = "problem-type", .kind = CLI_TEXT, .offset = O(problem_type), .metavar = "S", .choices = "single_label_classification multi_label_classification regression",
     .help = "what kind of labels; unset: by the labels"},
    {.name = "mlm-probability", .kind = CLI_REAL, .offset = O(mlm_probability), .metavar = "X", .help = "masked language model: share of tokens that is hidden; 0: 0.15"},
    {.name = "skip-bad-records", .kind = CLI_FLAG, .offset = O(skip_bad_records), .metavar = "", .help = "count bad records and go on"},
};
const cli_group cli_train_data_group = {"Data", data_options, GR_COUNT(data_options)};

static const cli_option train_options[] = {
    {.name = "num-train-epochs", .aliases = "epochs", .kind = CLI_REAL, .offset = O(num_train_epochs), .metavar = "X", .help = "passes over the data"},
    {.name = "max-steps", .kind = CLI_INT64, .offset = O(max_steps), .metavar = "N", .help = "steps; overrides epochs when above 0"},
    {.name = "per-device-train-batch-size", .aliases = "batch-size", .letter = 'b', .kind = CLI_INT64, .offset = O(per_device_train_batch_size),
     .metavar = "N", .help = "records a micro-batch"},
    {.name = "per-device-eval-batch-size", .kind = CLI_INT64, .offset = O(per_device_eval_batch_size), .metavar = "N", .help = "records at a time in evaluation"},
    {.name = "gradient-accumulation-steps", .kind = CLI_INT64, .offset = O(gradient_accumulation_steps), .metavar = "N", .help = "micro-batches a step"},
    {.name = "gradient-checkpointing", .kind = CLI_TRI, .offset = O(gradient_checkpointing), .metavar = "",
     .help = "recompute activations in the backward; unset: only to stay within memory"},
    {.name = "cache-trunk", .kind = CLI_SIZE, .offset = O(cache_trunk), .metavar = "SIZE",
     .help = "keep what the untouched lower layers give for each record, within SIZE"},
    {.name = "cache-trunk-dir", .kind = CLI_TEXT, .offset = O(cache_trunk_dir), .metavar = "DIR", .help = "keep it in a file in DIR instead of memory"},
    {.name = "learning-rate", .aliases = "lr", .kind = CLI_REAL, .offset = O(learning_rate), .metavar = "X", .help = "highest learning rate"},
    {.name = "lr-scheduler-type", .kind = CLI_TEXT, .offset = O(lr_scheduler_type), .metavar = "S", .help = "schedule of the learning rate",
     .choices = "linear cosine cosine_with_restarts polynomial constant constant_with_warmup inverse_sqrt cosine_with_min_lr warmup_stable_decay"},
    {.name = "lr-scheduler-kwargs", .kind = CLI_TEXT, .offset = O(lr_scheduler_kwargs), .metavar = "JSON", .help = "the schedule's own settings"},
    {.name = "warmup-ratio", .kind = CLI_REAL, .offset = O(warmup_ratio), .metavar = "X", .help = "share of the steps that warm up"},
    {.name = "warmup-steps", .kind = CLI_REAL, .offset = O(warmup_steps), .metavar = "N", .help = "steps that warm up; overrides the ratio"},
    {.name = "weight-decay", .kind = CLI_REAL, .offset = O(weight_decay), .metavar = "X", .help = "decoupled weight decay of matrices"},
    {.name = "max-grad-norm", .kind = CLI_REAL, .offset = O(max_grad_norm), .metavar = "X", .help = "clip the gradient's norm; 0: never"},
    {.name = "optim", .kind = CLI_TEXT, .offset = O(optim), .metavar = "S",
     .help = "optimiser: adamw_torch, adamw_8bit, paged_adamw_32bit, paged_adamw_8bit, sgd"},
    {.name = "paged-dir", .kind = CLI_TEXT, .offset = O(paged_dir), .metavar = "DIR",
     .help = "paged moments lie in a file in DIR instead of output_dir"},
    {.name = "optim-args", .kind = CLI_TEXT, .offset = O(optim_args), .metavar = "S", .help = "the optimiser's own settings"},
    {.name = "adam-beta1", .kind = CLI_REAL, .offset = O(adam_beta1), .metavar = "X", .help = "decay of the first moment"},
    {.name = "adam-beta2", .kind = CLI_REAL, .offset = O(adam_beta2), .metavar = "X", .help = "decay of the second moment"},
    {.name = "adam-epsilon", .kind = CLI_REAL, .offset = O(adam_epsilon), .metavar = "X", .help = "added to the denominator"},
    {.name = "logging-strategy", .kind = CLI_TEXT, .offset = A(logging_strategy), .metavar = "S", .choices = "no steps epoch", .help = "when a line is logged"},
    {.name = "logging-steps", .kind = CLI_REAL, .offset = O(logging_steps), .metavar = "N", .help = "steps between lines; below 1 a share of all"},
    {.name = "logging-first-step", .kind = CLI_FLAG, .offset = O(logging_first_step), .metavar = "", .help = "log the first step too"},
    {.name = "report-to", TEXTS(A, report_to), .metavar = "S", .help = "tensorboard: event files under runs/"},
    {.name = "run-name", .kind = CLI_TEXT, .offset = O(run_name), .metavar = "S", .help = "folder of the event file"},
    {.name = "eval-strategy", .kind = CLI_TEXT, .offset = A(eval_strategy), .metavar = "S", .choices = "no steps epoch", .help = "when eval-data is evaluated"},
    {.name = "eval-steps", .kind = CLI_REAL, .offset = O(eval_steps), .metavar = "N", .help = "steps between evaluations; 0: as logging-steps"},
    {.name = "eval-on-start", .kind = CLI_FLAG, .offset = O(eval_on_start), .metavar = "", .help = "evaluate before the first step"},
    {.name = "save-strategy", .kind = CLI_TEXT, .offset = A(save_strategy), .metavar = "S", .choices = "no steps epoch best", .help = "when a checkpoint is written"},
    {.name = "save-steps", .kind = CLI_REAL, .offset = O(save_steps), .metavar = "N", .help = "steps between checkpoints"},
    {.name = "save-total-limit", .kind = CLI_INT64, .offset = O(save_total_limit), .metavar = "N", .help = "checkpoints to keep; 0: all"},
    {.name = "load-best-model-at-end", .kind = CLI_FLAG, .offset = O(load_best_model_at_end), .metavar = "", .help = "end with the best checkpoint"},
    {.name = "metric-for-best-model", .kind = CLI_TEXT, .offset = O(metric_for_best_model), .metavar = "S", .help = "eval_loss, eval_mean_token_accuracy; classification: eval_accuracy, eval_f1"},
    {.name = "greater-is-better", .kind = CLI_TRI, .offset = O(greater_is_better), .metavar = "", .help = "direction of that metric"},
    {.name = "early-stopping-patience", .kind = CLI_INT64, .offset = O(early_stopping_patience), .metavar = "N", .help = "evaluations without improvement that end the run"},
    {.name = "early-stopping-threshold", .kind = CLI_REAL, .offset = O(early_stopping_threshold), .metavar = "X", .help = "what counts as improvement"},
    {.name = "resume-from-checkpoint", .aliases = "resume", .kind = CLI_TEXT, .offset = O(resume_from_checkpoint), .metavar = "DIR",
     .help = "go on from a checkpoint; latest: the newest in output-dir"},
    {.name = "overwrite-output-dir", .kind = CLI_FLAG, .offset = O(overwrite_output_dir), .metavar = "", .help = "a new run may replace an older one's checkpoints"},
};
const cli_group cli_train_group = {"Training", train_options, GR_COUNT(train_options)};

static const cli_option lora_options[] = {
    {.name = "lora-r", .aliases = "lora-rank", .letter = 'r', .kind = CLI_INT, .offset = L(r), .metavar = "N", .help = "rank"},
    {.name = "lora-alpha", .kind = CLI_REAL, .offset = L(lora_alpha), .metavar = "X", .help = "the delta is scaled by alpha / r"},
    {.name = "lora-dropout", .kind = CLI_REAL, .offset = L(lora_dropout), .metavar = "X", .help = "dropout in front of the first factor"},
    {.name = "target-modules", .aliases = "lora-target-modules", TEXTS(L, target_modules), .metavar = "NAMES",
     .help = "modules that get a delta: names, a regular expression, or all-linear"},
    {.name = "exclude-modules", .aliases = "lora-exclude-modules", TEXTS(L, exclude_modules), .metavar = "NAMES", .help = "modules that do not"},
    {.name = "layers-to-transform", TEXTS(A, layers), .metavar = "NUMBERS", .help = "layers that get deltas; all by default"},
    {.name = "rank-pattern", .kind = CLI_TEXT, .offset = A(rank_pattern), .metavar = "JSON", .help = "ranks of single modules: {\"q_proj\": 16}"},
    {.name = "alpha-pattern", .kind = CLI_TEXT, .offset = A(alpha_pattern), .metavar = "JSON", .help = "alphas of single modules"},
    {.name = "modules-to-save", .aliases = "lora-modules-to-save", TEXTS(L, modules_to_save), .metavar = "NAMES", .help = "modules that are trained and saved whole"},
    {.name = "use-rslora", .kind = CLI_FLAG, .offset = L(use_rslora), .metavar = "", .help = "scale by alpha / sqrt(r)"},
    {.name = "use-dora", .kind = CLI_FLAG, .offset = L(use_dora), .metavar = "", .help = "weight-decomposed LoRA"},
    {.name = "loraplus-lr-ratio", .kind = CLI_REAL, .offset = L(loraplus_lr_ratio), .metavar = "X", .help = "LoRA+: B learns at X times the learning rate"},
    {.name = "loraplus-lr-embedding", .kind = CLI_REAL, .offset = L(loraplus_lr_embedding), .metavar = "X",
     .help = "LoRA+: learning rate of factors of an embedding; 0: 1e-6"},
    {.name = "lora-bias", .kind = CLI_TEXT, .offset = L(bias), .metavar = "S", .choices = "none all lora_only", .help = "which biases are trained"},
    {.name = "init-lora-weights", .kind = CLI_TEXT, .offset = L(init_lora_weights), .metavar = "S", .help = "true, gaussian, false, or from the weight itself: pissa, pissa_niter_N, olora; from what --load-in-4bit or --load-in-8bit loses: loftq"},
};
const cli_group cli_train_lora_group = {"LoRA, and modules of other methods", lora_options, GR_COUNT(lora_options)};

static const cli_option method_options[] = {
    {.name = "feedforward-modules", TEXTS(M, feedforward_modules), .metavar = "NAMES",
     .help = "ia3: modules whose input is scaled instead of their output; none: no module"},
    {.name = "num-virtual-tokens", .kind = CLI_INT, .offset = M(num_virtual_tokens), .metavar = "N",
     .help = "prompts, prefixes, p-tuning: virtual tokens; 0: 20"},
    {.name = "prompt-tuning-init", .kind = CLI_TEXT, .offset = M(prompt_tuning_init), .metavar = "S", .choices = "RANDOM TEXT SAMPLE_VOCAB ONLY_SOURCE_SHARED AVERAGE_SOURCE_TASKS EXACT_SOURCE_TASK",
     .help = "where prompt-tuning begins, and multitask-prompt-tuning (prefix-tuning: RANDOM or TEXT)"},
    {.name = "prompt-tuning-init-text", .kind = CLI_TEXT, .offset = M(prompt_tuning_init_text), .metavar = "TEXT", .help = "the text of TEXT"},
    {.name = "tokenizer-name-or-path", .kind = CLI_TEXT, .offset = M(tokenizer_name_or_path), .metavar = "M", .help = "its tokenizer; the model's by default"},
    {.name = "num-tasks", .kind = CLI_INT, .offset = M(num_tasks), .metavar = "N", .help = "multitask-prompt-tuning: tasks, which records name in \"task_ids\"; 0: 1"},
    {.name = "num-ranks", .kind = CLI_INT, .offset = M(num_ranks), .metavar = "N", .help = "multitask-prompt-tuning: rank of a task's factor; 0: 1"},
    {.name = "prompt-tuning-init-state-dict-path", .kind = CLI_TEXT, .offset = M(prompt_tuning_init_state_dict_path), .metavar = "F",
     .help = "multitask-prompt-tuning: the safetensors file of the adapter that it begins from"},
    {.name = "prompt-tuning-init-task", .kind = CLI_INT, .offset = M(prompt_tuning_init_task), .metavar = "N", .help = "multitask-prompt-tuning: that one of its tasks"},
    {.name = "prefix-projection", .kind = CLI_FLAG, .offset = M(prefix_projection), .metavar = "", .help = "prefix-tuning: rows made by a network"},
    {.name = "init-weights", .kind = CLI_TEXT, .offset = M(init_weights), .metavar = "S", .choices = "zero true false lycoris",
     .help = "prefix-tuning: zero, rows of zeros at first; vera, loha, lokr: false, a fresh adapter changes the model; lokr: lycoris"},
    {.name = "encoder-reparameterization-type", .kind = CLI_TEXT, .offset = M(encoder_reparameterization_type), .metavar = "S", .choices = "MLP LSTM",
     .help = "p-tuning: the network that makes the virtual tokens"},
    {.name = "encoder-hidden-size", .kind = CLI_INT, .offset = M(encoder_hidden_size), .metavar = "N", .help = "size of the network inside; 0: 128"},
    {.name = "encoder-num-layers", .kind = CLI_INT, .offset = M(encoder_num_layers), .metavar = "N", .help = "layers of the LSTM; 0: 2"},
    {.name = "encoder-dropout", .kind = CLI_REAL, .offset = M(encoder_dropout), .metavar = "X", .help = "dropout between them"},
    {.name = "r", .kind = CLI_INT, .offset = M(r), .metavar = "N", .help = "vera, loha, lokr: rank; 0: 256, 8, 8; oft: blocks of a module"},
    {.name = "alpha", .kind = CLI_REAL, .offset = M(alpha), .metavar = "X", .help = "loha, lokr: the delta is scaled by alpha / r; 0: 8"},
    {.name = "vera-dropout", .kind = CLI_REAL, .offset = M(vera_dropout), .metavar = "P", .help = "vera: dropout of its input"},
    {.name = "d-initial", .kind = CLI_REAL, .offset = M(d_initial), .metavar = "X", .help = "vera: first value of the inner vector; 0: 0.1"},
    {.name = "projection-prng-key", .kind = CLI_INT64, .offset = M(projection_prng_key), .metavar = "N", .help = "vera: seed of the shared matrices"},
    {.name = "no-save-projection", .kind = CLI_FLAG, .offset = M(no_save_projection), .metavar = "", .help = "vera: leave the shared matrices out of the file"},
    {.name = "init-r", .kind = CLI_INT, .offset = M(init_r), .metavar = "N", .help = "adalora: rank of every module at first; 0: 12"},
    {.name = "target-r", .kind = CLI_INT, .offset = M(target_r), .metavar = "N", .help = "adalora: and on average in the end; 0: 8"},
    {.name = "tinit", .kind = CLI_INT64, .offset = M(tinit), .metavar = "N", .help = "adalora: steps before ranks are allocated"},
    {.name = "tfinal", .kind = CLI_INT64, .offset = M(tfinal), .metavar = "N", .help = "adalora: steps after the last allocation"},
    {.name = "deltaT", .kind = CLI_INT64, .offset = M(delta_t), .metavar = "N", .help = "adalora: steps between two allocations; 0: 1"},
    {.name = "beta1", .kind = CLI_REAL, .offset = M(beta1), .metavar = "X", .help = "adalora: factor of the averages of sensitivity; 0: 0.85"},
    {.name = "beta2", .kind = CLI_REAL, .offset = M(beta2), .metavar = "X", .help = "adalora: and of uncertainty; 0: 0.85"},
    {.name = "orth-reg-weight", .kind = CLI_REAL, .offset = M(orth_reg_weight), .metavar = "X",
     .help = "adalora: weight of the penalty for factors that are not orthogonal"},
    {.name = "total-step", .kind = CLI_INT64, .offset = M(total_step), .metavar = "N", .help = "adalora: steps of the schedule; 0: those of the run"},
    {.name = "oft-block-size", .kind = CLI_INT, .offset = M(oft_block_size), .metavar = "N", .help = "oft: inputs that are turned together; 0: 32"},
    {.name = "coft", .kind = CLI_FLAG, .offset = M(coft), .metavar = "", .help = "oft: rotations stay small"},
    {.name = "eps", .kind = CLI_REAL, .offset = M(eps), .metavar = "X", .help = "oft: how small; 0: 6e-5"},
    {.name = "block-share", .kind = CLI_FLAG, .offset = M(block_share), .metavar = "", .help = "oft: one rotation for all blocks of a module"},
    {.name = "no-use-cayley-neumann", .kind = CLI_FLAG, .offset = M(no_use_cayley_neumann), .metavar = "", .help = "oft: exact rotations"},
    {.name = "num-cayley-neumann-terms", .kind = CLI_INT, .offset = M(num_cayley_neumann_terms), .metavar = "N",
     .help = "oft: terms of the series for rotations; 0: 5"},
    {.name = "decompose-both", .kind = CLI_FLAG, .offset = M(decompose_both), .metavar = "", .help = "lokr: the first factor as a product of rank r too"},
    {.name = "decompose-factor", .kind = CLI_INT, .offset = M(decompose_factor), .metavar = "N", .help = "lokr: size of the first factor; 0: near the root"},
    {.name = "prompt-template", .kind = CLI_TEXT, .offset = M(prompt_template), .metavar = "TEXT",
     .help = "p-tuning, prompt-tuning: where the virtual tokens stand: [P0..P4] premise [P5] \"?\" [P6] [MASK]"},
    {.name = "adapter-len", .kind = CLI_INT, .offset = M(adapter_len), .metavar = "N", .help = "llama-adapter: prompts in a layer; 0: 10"},
    {.name = "adapter-layers", .kind = CLI_INT, .offset = M(adapter_layers), .metavar = "N", .help = "llama-adapter: layers, from the top; 0: 30 at most"},
};
const cli_group cli_train_method_group = {"Other methods", method_options, GR_COUNT(method_options)};

static const char *const strategies[] = {"no", "steps", "epoch", "best"};

graft_status cli_train_defaults(cli_train_args *a) {
    *a = (cli_train_args){.o = graft_sft_options_default()};
    a->o.lora = graft_lora_options_default();
    a->o.no_shuffle = !a->o.no_shuffle; /* the option is --shuffle; turned back in cli_train_finish */
    a->logging_strategy = strategies[a->o.logging_strategy];
    a->eval_strategy = strategies[a->o.eval_strategy];
    a->save_strategy = strategies[a->o.save_strategy];
    return GRAFT_OK;
}

static graft_strategy strategy_of(const char *text) {
    for (size_t i = 0; i < GR_COUNT(strategies); i++)
        if (!strcmp(text, strategies[i])) return (graft_strategy)i;
    return GRAFT_STRATEGY_NO;
}

static graft_status read_pattern(cli_args *args, const char *option, const char *text, const graft_lora_pattern **out, size_t *n,
                                 graft_error *err) {
    if (!text) return GRAFT_OK;
    const gr_json_value *root;
    GR_TRY(gr_json_parse(&args->arena, option, text, strlen(text), &root, err));
    if (root->kind != GR_JSON_OBJECT)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--%s: expected an object such as {\"q_proj\": 16}, found %s", option, gr_json_kind_name(root->kind));
    graft_lora_pattern *list = gr_arena_alloc(&args->arena, root->len * sizeof *list);
    if (!list) return gr_fail_memory(err);
    size_t i = 0;
    for (const gr_json_value *v = root->child; v; v = v->next) {
        if (v->kind != GR_JSON_NUMBER)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "--%s: %s: expected a number, found %s", option, v->key, gr_json_kind_name(v->kind));
        list[i++] = (graft_lora_pattern){v->key, v->number.d};
    }
    *out = list;
    *n = i;
    return GRAFT_OK;
}

static graft_status read_layers(cli_args *args, cli_train_args *a, graft_error *err) {
    if (!a->layers.n) return GRAFT_OK;
    int *list = gr_arena_alloc(&args->arena, a->layers.n * sizeof *list);
    if (!list) return gr_fail_memory(err);
    for (size_t i = 0; i < a->layers.n; i++) {
        char *end;
        long v = strtol(a->layers.items[i], &end, 10);
        if (end == a->layers.items[i] || *end || v < 0 || v > 100000)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "--layers-to-transform: expected a layer's number, found \"%s\"", a->layers.items[i]);
        list[i] = (int)v;
    }
    a->o.lora.layers_to_transform = list;
    a->o.lora.n_layers_to_transform = a->layers.n;
    return GRAFT_OK;
}

static graft_status read_report(cli_train_args *a, graft_error *err) {
    for (size_t i = 0; i < a->report_to.n; i++) {
        const char *to = a->report_to.items[i];
        if (!strcmp(to, "tensorboard") || !strcmp(to, "all")) a->o.report_to = "tensorboard";
        else if (strcmp(to, "none") != 0)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "--report-to: expected tensorboard or none, found \"%s\"", to);
    }
    return GRAFT_OK;
}

/* trl's own spellings of the compute type and of the method. */
static graft_status read_spellings(cli_train_args *a, graft_error *err) {
    a->o.dtype = cli_dtype_name(a->o.dtype);
    const char *dtype = a->bf16 == 1 ? "bf16" : a->bf16 ? "f32" : a->o.dtype;
    if (a->o.dtype && strcmp(dtype, a->o.dtype) != 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--bf16 %s: expected the same of --dtype, found %s", a->bf16 == 1 ? "true" : "false", a->o.dtype);
    a->o.dtype = dtype;
    const bool given = a->o.method != graft_sft_options_default().method, full = !strcmp(a->o.method, "full");
    if (a->use_peft && given && full == (a->use_peft == 1))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--use-peft %s: expected the same of --method, found %s", a->use_peft == 1 ? "true" : "false", a->o.method);
    if (a->use_peft == 2) a->o.method = "full";
    return GRAFT_OK;
}

graft_status cli_train_finish(graft_context *ctx, cli_args *args, cli_train_args *a, graft_error *err) {
    a->o.no_shuffle = !a->o.no_shuffle;
    a->o.logging_strategy = strategy_of(a->logging_strategy);
    a->o.eval_strategy = strategy_of(a->eval_strategy);
    a->o.save_strategy = strategy_of(a->save_strategy);
    GR_TRY(read_spellings(a, err));
    if (a->n_adapters > 1) return gr_fail(err, GRAFT_ERR_ARGUMENT, "--adapter: expected one adapter to start from, found %zu", a->n_adapters);
    if (a->n_adapters) a->o.adapter = a->adapters[0];
    GR_TRY(read_pattern(args, "rank-pattern", a->rank_pattern, &a->o.lora.rank_pattern, &a->o.lora.n_rank_pattern, err));
    GR_TRY(read_pattern(args, "alpha-pattern", a->alpha_pattern, &a->o.lora.alpha_pattern, &a->o.lora.n_alpha_pattern, err));
    GR_TRY(read_layers(args, a, err));
    GR_TRY(read_report(a, err));
    /* Of a model without weights a plan needs no records. */
    if (!a->o.data.n && strcmp(args->command->name, "plan") != 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --data FILE");
    char *path;
    GR_TRY(cli_model_path(ctx, args, a->o.model, &path, err));
    a->o.model = path;
    return GRAFT_OK;
}
