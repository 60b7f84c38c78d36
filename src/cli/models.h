/* Loading what --model and --adapter name. */
#ifndef GR_CLI_MODELS_H
#define GR_CLI_MODELS_H

#include "cli/cli.h"
#include "graft/adapter.h"
#include "graft/generate.h"

typedef struct cli_models {
    graft_context *ctx;
    graft_model *model;
    graft_tokenizer *tok;  /* NULL unless asked for */
    const char *adapter;   /* name of the first adapter, NULL: none */
    size_t n_adapters;
    const char **names;    /* of all of them, and the scales that they were named with */
    double *scales;
} cli_models;

/* Several: more than one adapter may be named; weighed: and their scales are left to the caller. */
typedef enum cli_adapters { CLI_ONE_ADAPTER, CLI_SEVERAL_ADAPTERS, CLI_WEIGHED_ADAPTERS } cli_adapters;
/* Everything is freed by cli_models_close, also after a failure. */
graft_status cli_models_open(graft_context *ctx, cli_args *args, const cli_model_args *a, bool tokenizer, cli_adapters weigh, cli_models *out, graft_error *err);
void cli_models_close(cli_models *m);

/* A model alone, as cli_model_path finds it. */
graft_status cli_load_model(graft_context *ctx, cli_args *args, const char *model, const graft_model_options *o,
                            graft_model **out, char **path, graft_error *err);

/* Sampling options and their translation. */
typedef struct cli_sampling_args {
    int greedy, do_sample;
    double temperature, top_p, min_p, repeat_penalty; /* NaN (top_k: INT64_MIN): not given */
    int64_t top_k, n, seed, num_beams, no_repeat_ngram_size, lookup_tokens, lookup_ngram;
    double length_penalty;
    const char *early_stopping, *kv_cache_dtype;
    const char *const *stop;
    size_t n_stop;
    int ignore_eos, special;
} cli_sampling_args;
extern const cli_group cli_sampling_group;
void cli_sampling_defaults(cli_sampling_args *a);
/* An error for the first option that was given of group `g`, but for `but` (NULL: none): a model of that task has no use for it. */
graft_status cli_refuse_given(const cli_args *args, size_t g, const char *but, const char *task, graft_error *err);
graft_status cli_sampling_finish(const cli_models *m, const cli_sampling_args *a, graft_generate_options *out, graft_error *err);

#endif
