/* graft plan: what a training run will need, before it runs. */
#include <math.h>

#include "base/json.h"
#include "cli/train_args.h"

static graft_status defaults(cli_args *args, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    cli_train_args *a = gr_arena_alloc(&args->arena, sizeof *a);
    if (!args->base[0] || !a) return gr_fail_memory(err);
    for (size_t i = 1; i < args->command->n_groups; i++) args->base[i] = a;
    return cli_train_defaults(a);
}

typedef struct row {
    const char *name, *key;
    size_t bytes;
} row;

/* What was not measured is null. */
static const char *number(double value, char *out, size_t size) {
    snprintf(out, size, isfinite(value) ? "%.1f" : "null", value);
    return out;
}

static void print_json(const graft_train_plan *p, const row *rows, size_t n) {
    char rate[32], seconds[32];
    printf("{\"peak\": %zu", p->peak);
    for (size_t i = 0; i < n; i++) printf(", \"%s\": %zu", rows[i].key, rows[i].bytes);
    printf(", \"micro_tokens\": %lld, \"gradient_checkpointing\": %s, \"dtype\": \"%s\", \"quantization\": "
           "%s%s%s, \"n_parameters\": %lld, \"n_trainable\": %lld, "
           "\"n_records\": %lld, \"n_tokens\": %lld, \"n_label_tokens\": %lld, \"longest_record\": %lld, "
           "\"steps_per_epoch\": %lld, "
           "\"total_steps\": %lld, \"tokens_per_second\": %s, \"seconds\": %s}\n",
           (long long)p->micro_tokens, p->gradient_checkpointing ? "true" : "false", p->dtype,
           *p->quantization ? "\"" : "", *p->quantization ? p->quantization : "null",
           *p->quantization ? "\"" : "", (long long)p->n_parameters, (long long)p->n_trainable,
           (long long)p->n_records, (long long)p->n_tokens, (long long)p->n_label_tokens,
           (long long)p->longest_record, (long long)p->steps_per_epoch, (long long)p->total_steps,
           number(p->tokens_per_second, rate, sizeof rate), number(p->seconds, seconds, sizeof seconds));
}

static void print_text(const graft_train_plan *p, const row *rows, size_t n) {
    char text[32];
    printf("%-28s %12s\n", "peak memory", cli_bytes_text((double)p->peak, text, sizeof text));
    for (size_t i = 0; i < n; i++)
        if (rows[i].bytes)
            printf("  %-26s %12s\n", rows[i].name, cli_bytes_text((double)rows[i].bytes, text, sizeof text));
    printf("%-28s %12lld of %lld (%.3f %%)\n", "trainable parameters", (long long)p->n_trainable,
           (long long)p->n_parameters,
           p->n_parameters ? 100.0 * (double)p->n_trainable / (double)p->n_parameters : 0.0);
    printf("%-28s %12lld, %lld tokens, %lld with a label, longest %lld\n", "records", (long long)p->n_records,
           (long long)p->n_tokens, (long long)p->n_label_tokens, (long long)p->longest_record);
    printf("%-28s %12lld (%lld an epoch), at most %lld tokens at a time%s, %s%s%s\n", "steps",
           (long long)p->total_steps, (long long)p->steps_per_epoch, (long long)p->micro_tokens,
           p->gradient_checkpointing ? ", recomputing" : "", p->dtype,
           *p->quantization ? ", weights in " : "", p->quantization);
    if (isfinite(p->seconds))
        printf("%-28s %12.0f s at %.0f tokens/s\n", "estimated time", p->seconds, p->tokens_per_second);
}

static graft_status run(graft_context *ctx, cli_args *args, graft_error *err) {
    cli_train_args *a = args->base[1];
    if (args->n_words && strcmp(args->words[0], "sft") != 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected sft, the command to plan, found \"%s\"", args->words[0]);
    GR_TRY(cli_train_finish(ctx, args, a, err));
    graft_train_plan p;
    GR_TRY(graft_sft_plan(ctx, &a->o, &p, err));
    const row rows[] = {
        {"program", "program", p.program},          {"model, mapped", "model_mapped", p.model_mapped},
        {"model, packed", "model_packed", p.model_packed}, {"trainable values", "parameters", p.parameters},
        {"gradients", "gradients", p.gradients},    {"optimiser", "optimizer", p.optimizer},
        {"activations of a step", "step", p.step},
        {"records", "data", p.data},                {"tokenizer", "tokenizer", p.tokenizer},
        {"outputs of lower layers", "trunk", p.trunk},
        {"in files: weights", "model_streamed", p.model_streamed},
        {"in a file: optimiser", "optimizer_paged", p.optimizer_paged},
    };
    if (((const cli_common *)args->base[0])->json) print_json(&p, rows, GR_COUNT(rows));
    else print_text(&p, rows, GR_COUNT(rows));
    return cli_write_stdout("", 0, err);
}

const cli_command cli_command_plan = {
    .name = "plan",
    .summary = "tell the memory and time of a training run before it runs",
    .synopsis = "[sft] (options as for graft sft)",
    .about = "Takes the options of graft sft and prints the peak memory of that run, part by part, its "
             "trainable parameters, its steps and its "
             "estimated time. Nothing is written and no step is run.",
    .groups = {&cli_common_group, &cli_train_model_group, &cli_train_data_group, &cli_train_group,
               &cli_train_lora_group, &cli_train_method_group},
    .n_groups = 6,
    .defaults = defaults,
    .run = run,
    .max_words = 1,
};
