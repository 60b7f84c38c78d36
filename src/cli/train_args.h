/* Options of training commands, shared by the command and by `graft plan`. */
#ifndef GR_CLI_TRAIN_ARGS_H
#define GR_CLI_TRAIN_ARGS_H

#include "cli/cli.h"
#include "graft/train.h"

/* The library's options, and those that need translation from text. */
typedef struct cli_train_args {
    graft_sft_options o;
    const char *const *adapters;
    size_t n_adapters;
    const char *logging_strategy, *eval_strategy, *save_strategy;
    const char *rank_pattern, *alpha_pattern; /* JSON objects */
    graft_texts layers, report_to;
    const char *jobs; /* a file */
    int bf16, use_peft; /* 1 yes, 2 no, 0 not given */
} cli_train_args;

extern const cli_group cli_train_model_group, cli_train_data_group, cli_train_group, cli_train_lora_group, cli_train_method_group;

graft_status cli_train_defaults(cli_train_args *a);
/* Fills a->o from the texts; resolves the model. Memory from args->arena. */
graft_status cli_train_finish(graft_context *ctx, cli_args *args, cli_train_args *a, graft_error *err);

#endif
