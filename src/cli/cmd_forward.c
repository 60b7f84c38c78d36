/* graft forward, graft merge, graft info: one pass on given tensors, a merged model, facts. */
#include "cli/models.h"

/* --- forward -------------------------------------------------------------------------------------------------------- */

typedef struct forward_args {
    const char *input, *output;
    int backward;
} forward_args;

#define AT(field) offsetof(forward_args, field)
static const cli_option forward_options[] = {
    {.name = "input", .letter = 'i', .kind = CLI_TEXT, .offset = AT(input), .metavar = "I", .help = "safetensors with input_ids and, maybe, attention_mask, labels, position_ids"},
    {.name = "output", .letter = 'o', .kind = CLI_TEXT, .offset = AT(output), .metavar = "O", .help = "safetensors that gets logits, loss and gradients"},
    {.name = "backward", .kind = CLI_FLAG, .offset = AT(backward), .metavar = "", .help = "gradients too"},
};
#undef AT
static const cli_group forward_group = {"Pass", forward_options, GR_COUNT(forward_options)};

static graft_status base_structs(cli_args *args, size_t size, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    args->base[1] = gr_arena_alloc(&args->arena, sizeof(cli_model_args));
    args->base[2] = gr_arena_alloc(&args->arena, size);
    return args->base[0] && args->base[1] && args->base[2] ? GRAFT_OK : gr_fail_memory(err);
}

static graft_status forward_defaults(cli_args *args, graft_error *err) { return base_structs(args, sizeof(forward_args), err); }

static graft_status run_forward(graft_context *ctx, cli_args *args, graft_error *err) {
    const forward_args *a = args->base[2];
    if (!a->input || !a->output) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --input I and --output O");
    cli_models m;
    ((cli_model_args *)args->base[1])->trainable = a->backward != 0;
    graft_status st = cli_models_open(ctx, args, args->base[1], false, CLI_ONE_ADAPTER, &m, err);
    graft_forward_options o = {.input = a->input, .output = a->output, .adapter = m.adapter, .backward = a->backward};
    if (st == GRAFT_OK) st = graft_forward(m.model, &o, err);
    cli_models_close(&m);
    return st;
}

const cli_command cli_command_forward = {
    .name = "forward",
    .summary = "one pass on given tensors, to check against a reference",
    .synopsis = "-m M [--adapter D] --input I --output O [--backward]",
    .about = "Reads input_ids (B,T) and optional attention_mask, labels and position_ids from a safetensors file and writes logits, the loss "
             "where there are labels, and with --backward the gradient of each trainable tensor as grad.NAME, all in float32.",
    .groups = {&cli_common_group, &cli_model_group, &forward_group},
    .n_groups = 3,
    .defaults = forward_defaults,
    .run = run_forward,
};

/* --- merge ------------------------------------------------------------------------------------------------------------ */

typedef struct merge_args {
    const char *output, *type, *combination, *sign;
    int64_t svd_rank, seed;
    double density;
    int as_adapter;
} merge_args;

#define AT(field) offsetof(merge_args, field)
static const cli_option merge_options[] = {
    {.name = "output", .aliases = "output-dir", .letter = 'o', .kind = CLI_TEXT, .offset = AT(output), .metavar = "DIR", .help = "directory to write"},
    {.name = "outtype", .kind = CLI_TEXT, .offset = AT(type), .metavar = "T", .choices = "auto f32 bf16 f16", .help = "format of the written weights; auto: as the base has them"},
    {.name = "combination-type", .kind = CLI_TEXT, .offset = AT(combination), .metavar = "T",
     .choices = "cat svd linear ties dare_linear dare_ties magnitude_prune", .help = "how several LoRA adapters become one, each with its SCALE as weight; cat is exact"},
    {.name = "svd-rank", .kind = CLI_INT64, .offset = AT(svd_rank), .metavar = "N", .help = "svd: rank of the result; 0: the largest of the adapters'"},
    {.name = "density", .kind = CLI_REAL, .offset = AT(density), .metavar = "X", .help = "ties, dare_*, magnitude_prune: share of the values that are kept"},
    {.name = "majority-sign-method", .kind = CLI_TEXT, .offset = AT(sign), .metavar = "S", .choices = "total frequency", .help = "ties, dare_ties: how signs are voted on"},
    {.name = "seed", .kind = CLI_INT64, .offset = AT(seed), .metavar = "N", .help = "dare_*: decides which values are kept"},
    {.name = "as-adapter", .kind = CLI_FLAG, .offset = AT(as_adapter), .metavar = "", .help = "write the combined adapter, not a model"},
};
#undef AT
static const cli_group merge_group = {"Merge", merge_options, GR_COUNT(merge_options)};

static graft_status merge_defaults(cli_args *args, graft_error *err) { return base_structs(args, sizeof(merge_args), err); }

static graft_dtype file_dtype(const char *text) {
    if (!text || !strcmp(text, "auto")) return GRAFT_DTYPE_AUTO;
    return text[0] == 'b' ? GRAFT_DTYPE_BF16 : !strcmp(text, "f16") ? GRAFT_DTYPE_F16 : GRAFT_DTYPE_F32;
}

static graft_status run_merge(graft_context *ctx, cli_args *args, graft_error *err) {
    const merge_args *a = args->base[2];
    const cli_model_args *model = args->base[1];
    if (!a->output) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --output DIR");
    if (model->n_adapters == 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "--adapter: expected an adapter to merge, found none");
    bool combine = model->n_adapters > 1 || a->combination || a->as_adapter;
    if (!combine && (a->svd_rank || a->density != 0 || a->sign || a->seed))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --combination-type beside its settings, found none");
    if (a->as_adapter && a->type) return gr_fail(err, GRAFT_ERR_ARGUMENT, "--outtype: an adapter is written in float32");
    cli_models m = {0};
    graft_status st = cli_models_open(ctx, args, model, false, combine ? CLI_WEIGHED_ADAPTERS : CLI_ONE_ADAPTER, &m, err);
    const char *name = m.adapter;
    if (st == GRAFT_OK && combine) {
        const graft_combine_options o = {.type = a->combination, .svd_rank = (int)a->svd_rank, .density = a->density,
                                         .majority_sign_method = a->sign, .seed = (uint64_t)a->seed};
        name = "combined adapters";
        st = graft_adapter_combine(m.model, name, m.names, m.scales, m.n_adapters, &o, err);
    }
    if (st == GRAFT_OK)
        st = a->as_adapter ? graft_adapter_save(m.model, name, a->output, err)
                           : graft_model_merge(m.model, name, a->output, file_dtype(a->type), err);
    cli_models_close(&m);
    if (st == GRAFT_OK && !((const cli_common *)args->base[0])->quiet) fprintf(stderr, "wrote %s\n", a->output);
    return st;
}

const cli_command cli_command_merge = {
    .name = "merge",
    .summary = "write a model with an adapter merged into its weights",
    .synopsis = "-m M --adapter DIR -o DIR [--outtype T]",
    .about = "Writes a Hugging Face directory whose logits are those of the base with the adapter. Several LoRA adapters, each as "
             "NAME=DIR:WEIGHT, are combined first, as peft's add_weighted_adapter does.",
    .groups = {&cli_common_group, &cli_model_group, &merge_group},
    .n_groups = 3,
    .defaults = merge_defaults,
    .run = run_merge,
    .examples = "  graft merge -m model.gguf --adapter out -o merged --outtype bf16\n"
                "  graft merge -m model.gguf --adapter a=A:0.7 --adapter b=B:0.3 --combination-type svd --as-adapter -o both\n",
};

/* --- info ------------------------------------------------------------------------------------------------------------- */

static graft_status info_defaults(cli_args *args, graft_error *err) { return base_structs(args, 1, err); }

static graft_status run_info(graft_context *ctx, cli_args *args, graft_error *err) {
    const cli_model_args *a = args->base[1];
    char *path, *json;
    GR_TRY(cli_model_path(ctx, args, a->model ? a->model : args->n_words ? args->words[0] : NULL, &path, err));
    if (a->n_adapters > 1) return gr_fail(err, GRAFT_ERR_ARGUMENT, "--adapter: expected at most one, found %zu", a->n_adapters);
    if (a->model && args->n_words) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected one model, found %s and %s", a->model, args->words[0]);
    GR_TRY(graft_model_info(ctx, path, a->n_adapters ? a->adapters[0] : NULL, &json, err));
    graft_status st = cli_print_facts(json, ((const cli_common *)args->base[0])->json != 0, err);
    graft_free(ctx, json);
    return st;
}

const cli_command cli_command_info = {
    .name = "info",
    .summary = "tell what a model file or an adapter is",
    .synopsis = "[-m] M [--adapter DIR] [--json]",
    .about = "Type, sizes, parameters, formats of the weights and position embedding of a model; method, rank and targets of an adapter. "
             "No weights are read.",
    .groups = {&cli_common_group, &cli_model_group},
    .n_groups = 2,
    .defaults = info_defaults,
    .run = run_info,
    .max_words = 1,
};
