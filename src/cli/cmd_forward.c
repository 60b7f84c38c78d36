/* graft forward, graft info: one pass on given tensors, facts. */
#include "cli/models.h"

/* --- forward ------------------------------------------------------------------------------------------------------ */

typedef struct forward_args {
    const char *input, *output;
    int backward;
} forward_args;

#define AT(field) offsetof(forward_args, field)
static const cli_option forward_options[] = {
    {.name = "input",
     .letter = 'i',
     .kind = CLI_TEXT,
     .offset = AT(input),
     .metavar = "I",
     .help = "safetensors with input_ids and, maybe, attention_mask, labels, position_ids"},
    {.name = "output",
     .letter = 'o',
     .kind = CLI_TEXT,
     .offset = AT(output),
     .metavar = "O",
     .help = "safetensors that gets logits, loss and gradients"},
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

static graft_status forward_defaults(cli_args *args, graft_error *err) {
    return base_structs(args, sizeof(forward_args), err);
}

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
    .about = "Reads input_ids (B,T) and optional attention_mask, labels and position_ids from a safetensors "
             "file and writes logits, the loss "
             "where there are labels, and with --backward the gradient of each trainable tensor as "
             "grad.NAME, all in float32.",
    .groups = {&cli_common_group, &cli_model_group, &forward_group},
    .n_groups = 3,
    .defaults = forward_defaults,
    .run = run_forward,
};

/* --- info --------------------------------------------------------------------------------------------------------- */

static graft_status info_defaults(cli_args *args, graft_error *err) { return base_structs(args, 1, err); }

static graft_status run_info(graft_context *ctx, cli_args *args, graft_error *err) {
    const cli_model_args *a = args->base[1];
    char *path, *json;
    GR_TRY(cli_model_path(ctx, args, a->model ? a->model : args->n_words ? args->words[0] : NULL, &path, err));
    if (a->n_adapters > 1)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--adapter: expected at most one, found %zu", a->n_adapters);
    if (a->model && args->n_words)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected one model, found %s and %s", a->model,
                       args->words[0]);
    GR_TRY(graft_model_info(ctx, path, a->n_adapters ? a->adapters[0] : NULL, &json, err));
    graft_status st = cli_print_facts(json, ((const cli_common *)args->base[0])->json != 0, err);
    graft_free(ctx, json);
    return st;
}

const cli_command cli_command_info = {
    .name = "info",
    .summary = "tell what a model file or an adapter is",
    .synopsis = "[-m] M [--adapter DIR] [--json]",
    .about = "Type, sizes, parameters, formats of the weights and position embedding of a model; method, "
             "rank and targets of an adapter. "
             "No weights are read.",
    .groups = {&cli_common_group, &cli_model_group},
    .n_groups = 2,
    .defaults = info_defaults,
    .run = run_info,
    .max_words = 1,
};
