#include <math.h>
#include <stdlib.h>

#include "cli/models.h"

/* "NAME=DIR:SCALE": what stands in front of = is a name unless it holds a slash; what follows the last colon is a scale
 * when it is a number. */
static graft_status split_adapter(cli_args *args, const char *text, size_t number, const char **name, const char **dir, double *scale,
                                  graft_error *err) {
    const char *equals = strchr(text, '='), *slash = strchr(text, '/');
    bool named = equals && equals != text && (!slash || equals < slash);
    const char *path = named ? equals + 1 : text, *colon = strrchr(path, ':');
    size_t len = strlen(path);
    *scale = 1;
    if (colon && colon[1]) {
        char *end;
        double v = strtod(colon + 1, &end);
        if (!*end && isfinite(v)) {
            *scale = v;
            len = (size_t)(colon - path);
        }
    }
    char generated[32];
    snprintf(generated, sizeof generated, "adapter%zu", number);
    *dir = gr_arena_strndup(&args->arena, path, len);
    *name = named ? gr_arena_strndup(&args->arena, text, (size_t)(equals - text))
                  : gr_arena_strndup(&args->arena, number ? generated : "default", strlen(number ? generated : "default"));
    return *dir && *name ? GRAFT_OK : gr_fail_memory(err);
}

graft_status cli_models_open(graft_context *ctx, cli_args *args, const cli_model_args *a, bool tokenizer, cli_adapters weigh, cli_models *out, graft_error *err) {
    *out = (cli_models){.ctx = ctx};
    char *path;
    if (a->n_adapters > 1 && weigh == CLI_ONE_ADAPTER)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--adapter: expected at most one, found %zu: this command uses one at a time", a->n_adapters);
    GR_TRY(cli_model_path(ctx, args, a->model, &path, err));
    const char *dtype = cli_dtype_name(a->dtype);
    graft_model_options o = {.dtype = !dtype ? GRAFT_DTYPE_AUTO : dtype[0] == 'b' ? GRAFT_DTYPE_BF16 : GRAFT_DTYPE_F32,
                             .load_in_4bit = a->load_in_4bit,
                             .load_in_8bit = a->load_in_8bit,
                             .bnb_4bit_quant_type = a->bnb_4bit_quant_type,
                             .bnb_4bit_use_double_quant = a->bnb_4bit_use_double_quant,
                             .activations = a->activations,
                             .llm_int8_threshold = a->llm_int8_threshold};
    if (cli_given(args, "llm-int8-threshold")) {
        if (!(a->llm_int8_threshold >= 0))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "--llm-int8-threshold: expected 0 or more, found %g", a->llm_int8_threshold);
        if (a->llm_int8_threshold == 0) o.llm_int8_threshold = -1;
    }
    const char *first;
    double factor;
    if (a->n_adapters) GR_TRY(split_adapter(args, a->adapters[0], 0, &first, &o.adapter_dir, &factor, err));
    o.task_type = a->task_type;
    GR_TRY(graft_model_load(ctx, path, &o, &out->model, err));
    out->names = gr_arena_alloc(&args->arena, (a->n_adapters + 1) * sizeof *out->names);
    out->scales = gr_arena_alloc(&args->arena, (a->n_adapters + 1) * sizeof *out->scales);
    if (!out->names || !out->scales) return gr_fail_memory(err);
    for (size_t i = 0; i < a->n_adapters; i++) {
        const char *name, *dir;
        double scale;
        GR_TRY(split_adapter(args, a->adapters[i], i, &name, &dir, &scale, err));
        out->names[i] = name;
        out->scales[i] = scale;
        if (weigh == CLI_WEIGHED_ADAPTERS) scale = 1;
        if (a->trainable && scale == 1)
            GR_TRY(graft_adapter_load_trainable(out->model, name, dir, err));
        else
            GR_TRY(graft_adapter_load(out->model, name, dir, scale, err));
        if (i == 0) out->adapter = name;
        out->n_adapters++;
    }
    return tokenizer ? graft_tokenizer_load(ctx, path, &out->tok, err) : GRAFT_OK;
}

graft_status cli_load_model(graft_context *ctx, cli_args *args, const char *model, const graft_model_options *o,
                            graft_model **out, char **path, graft_error *err) {
    GR_TRY(cli_model_path(ctx, args, model, path, err));
    return graft_model_load(ctx, *path, o, out, err);
}

void cli_models_close(cli_models *m) {
    graft_tokenizer_free(m->tok);
    graft_model_free(m->model);
    m->tok = NULL;
    m->model = NULL;
}

#define AT(field) offsetof(cli_sampling_args, field)
static const cli_option sampling_options[] = {
    {.name = "n-predict", .aliases = "max-new-tokens max-tokens predict", .letter = 'n', .kind = CLI_INT64, .offset = AT(n), .metavar = "N",
     .help = "new tokens at most; -1: as many as the model has positions"},
    {.name = "greedy", .kind = CLI_FLAG, .offset = AT(greedy), .metavar = "", .help = "always the most likely token"},
    {.name = "do-sample", .kind = CLI_FLAG, .offset = AT(do_sample), .metavar = "", .help = "draw tokens even where the model's configuration does not ask for it"},
    {.name = "temperature", .aliases = "temp", .kind = CLI_REAL, .offset = AT(temperature), .metavar = "X", .help = "divides the logits; 0: greedy"},
    {.name = "top-k", .kind = CLI_INT64, .offset = AT(top_k), .metavar = "N", .help = "draw among the N most likely tokens; 0: all"},
    {.name = "top-p", .kind = CLI_REAL, .offset = AT(top_p), .metavar = "X", .help = "draw among the fewest tokens that sum to this probability"},
    {.name = "min-p", .kind = CLI_REAL, .offset = AT(min_p), .metavar = "X", .help = "draw among tokens with this share of the largest probability"},
    {.name = "repeat-penalty", .aliases = "repetition-penalty", .kind = CLI_REAL, .offset = AT(repeat_penalty), .metavar = "X", .help = "penalty of tokens seen before; 1: none"},
    {.name = "no-repeat-ngram-size", .kind = CLI_INT64, .offset = AT(no_repeat_ngram_size), .metavar = "N",
     .help = "no N tokens in a row come twice; 0: they may"},
    {.name = "num-beams", .kind = CLI_INT64, .offset = AT(num_beams), .metavar = "N",
     .help = "beam search: the likeliest of N continuations at a time, without drawing"},
    {.name = "length-penalty", .kind = CLI_REAL, .offset = AT(length_penalty), .metavar = "X",
     .help = "beam search: scores are divided by length to this power"},
    {.name = "early-stopping", .kind = CLI_TEXT, .offset = AT(early_stopping), .metavar = "WHEN",
     .help = "beam search ends with as many finished texts as beams: true: at once; false: when no better one is in "
             "sight; never: when none is possible"},
    {.name = "prompt-lookup-num-tokens", .kind = CLI_INT64, .offset = AT(lookup_tokens), .metavar = "N",
     .help = "compute up to N tokens at once that followed the last ones before; the output stays the same; "
             "0: one at a time"},
    {.name = "max-matching-ngram-size", .kind = CLI_INT64, .offset = AT(lookup_ngram), .metavar = "N",
     .help = "of those last tokens, how many are compared; 0: 2"},
    {.name = "kv-cache-dtype", .kind = CLI_TEXT, .offset = AT(kv_cache_dtype), .metavar = "TYPE",
     .help = "keys and values are kept in f32, bf16 or int8 (blocks of 32 with a scale); auto: in the type of the computation"},
    {.name = "seed", .letter = 's', .kind = CLI_INT64, .offset = AT(seed), .metavar = "N", .help = "decides the draws"},
    {.name = "stop", .kind = CLI_LIST, .offset = AT(stop), .offset_n = AT(n_stop), .metavar = "TEXT", .help = "text that ends the output; repeatable"},
    {.name = "ignore-eos", .kind = CLI_FLAG, .offset = AT(ignore_eos), .metavar = "", .help = "go on after an end of text"},
    {.name = "special", .kind = CLI_FLAG, .offset = AT(special), .metavar = "", .help = "print special tokens"},
};
#undef AT
const cli_group cli_sampling_group = {"Sampling", sampling_options, GR_COUNT(sampling_options)};

/* Values that no one can give stand for "as the model's generation_config.json says". */
void cli_sampling_defaults(cli_sampling_args *a) {
    *a = (cli_sampling_args){.temperature = NAN, .top_p = NAN, .min_p = NAN, .repeat_penalty = NAN, .top_k = INT64_MIN, .n = 256, .num_beams = 1, .length_penalty = NAN};
}

graft_status cli_refuse_given(const cli_args *args, size_t g, const char *but, const char *task, graft_error *err) {
    const cli_group *group = args->command->groups[g];
    for (size_t i = 0; i < group->n; i++)
        if (args->given[g][i] && (!but || strcmp(group->options[i].name, but) != 0))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "--%s: a model of the task %s draws no tokens", group->options[i].name, task);
    return GRAFT_OK;
}

static graft_status finish_beams(const cli_sampling_args *a, graft_generate_options *o, graft_error *err) {
    static const char *const names[] = {"false", "true", "never"};
    size_t when = 0;
    while (a->early_stopping && when < GR_COUNT(names) && strcmp(a->early_stopping, names[when]) != 0) when++;
    if (when == GR_COUNT(names))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--early-stopping: expected true, false or never, found %s",
                       a->early_stopping);
    if (a->num_beams < 1)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--num-beams: expected 1 or more, found %lld", (long long)a->num_beams);
    if (a->num_beams == 1 && (a->early_stopping || !isnan(a->length_penalty)))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s is for beam search: expected --num-beams with 2 or more",
                       a->early_stopping ? "--early-stopping" : "--length-penalty");
    o->num_beams = (size_t)a->num_beams;
    if (!isnan(a->length_penalty)) o->length_penalty = a->length_penalty;
    o->early_stopping = (graft_early_stopping)when;
    o->no_repeat_ngram_size = a->no_repeat_ngram_size;
    return GRAFT_OK;
}

static graft_status finish_cache(const cli_sampling_args *a, graft_generate_options *o, graft_error *err) {
    static const char *const names[] = {"auto", "f32", "bf16", "int8"};
    size_t kept = 0;
    while (a->kv_cache_dtype && kept < GR_COUNT(names) && strcmp(a->kv_cache_dtype, names[kept]) != 0) kept++;
    if (kept == GR_COUNT(names))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--kv-cache-dtype: expected auto, f32, bf16 or int8, found %s", a->kv_cache_dtype);
    o->kv_cache_dtype = (graft_kv_dtype)kept;
    return GRAFT_OK;
}

graft_status cli_sampling_finish(const cli_models *m, const cli_sampling_args *a, graft_generate_options *out, graft_error *err) {
    graft_generate_options o = graft_generate_options_default();
    GR_TRY(graft_sampling_default(m->model, &o.sampling, err));
    bool given = !isnan(a->temperature) || !isnan(a->top_p) || !isnan(a->min_p) || a->top_k != INT64_MIN;
    if (given || a->do_sample) o.sampling.greedy = 0;
    if (a->greedy || a->temperature == 0 || (a->num_beams > 1 && !given && !a->do_sample)) o.sampling.greedy = 1;
    if (!isnan(a->temperature) && a->temperature != 0) o.sampling.temperature = a->temperature;
    if (!isnan(a->top_p)) o.sampling.top_p = a->top_p;
    if (!isnan(a->min_p)) o.sampling.min_p = a->min_p;
    if (a->top_k != INT64_MIN) o.sampling.top_k = a->top_k;
    if (!isnan(a->repeat_penalty)) o.sampling.repeat_penalty = a->repeat_penalty;
    o.sampling.seed = (uint64_t)a->seed;
    o.max_new_tokens = a->n;
    o.stop = a->stop;
    o.n_stop = a->n_stop;
    o.ignore_eos = a->ignore_eos;
    o.keep_special = a->special;
    o.adapter = m->adapter;
    o.prompt_lookup_num_tokens = a->lookup_tokens;
    o.max_matching_ngram_size = a->lookup_ngram;
    GR_TRY(finish_beams(a, &o, err));
    GR_TRY(finish_cache(a, &o, err));
    *out = o;
    return GRAFT_OK;
}
