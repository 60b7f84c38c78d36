/* graft convert: a model or a LoRA adapter as GGUF, or a GGUF file as a directory. */
#include "base/json.h"
#include "cli/models.h"
#include "graft/convert.h"

typedef struct convert_args {
    cli_conversion io; /* first: its group's options begin here too */
    const char *adapter;
} convert_args;

#define AT(field) offsetof(convert_args, field)
static const cli_option convert_options[] = {
    {.name = "adapter",
     .aliases = "lora",
     .kind = CLI_TEXT,
     .offset = AT(adapter),
     .metavar = "A",
     .help = "convert this LoRA adapter of the model instead: a directory, or a .gguf file"},
};
#undef AT
static const cli_group convert_group = {"Convert", convert_options, GR_COUNT(convert_options)};

static graft_status defaults(cli_args *args, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    args->base[1] = args->base[2] = gr_arena_alloc(&args->arena, sizeof(convert_args));
    return args->base[0] && args->base[1] ? GRAFT_OK : gr_fail_memory(err);
}

/* The base that peft noted in an adapter's configuration. */
static graft_status find_base(cli_args *args, const char *dir, const char **model, graft_error *err) {
    char *path = gr_path_join(NULL, dir, "adapter_config.json"), *text = NULL;
    size_t len;
    const gr_json_value *root;
    graft_status st = path ? gr_read_file(NULL, path, 1 << 20, &text, &len, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_json_parse(&args->arena, path, text, len, &root, err);
    if (st == GRAFT_OK) {
        const gr_json_value *base = gr_json_get(root, "base_model_name_or_path");
        if (base && base->kind == GR_JSON_STRING)
            *model = base->text;
        else
            st = gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --model M, the base of the adapter, which %s does not name",
                         path);
    }
    gr_free(NULL, text);
    gr_free(NULL, path);
    return st;
}

static graft_status convert(graft_model *m, const convert_args *a, graft_error *err) {
    const bool to_gguf = cli_is_gguf(a->io.output);
    if (!a->adapter && to_gguf) return graft_model_save_gguf(m, a->io.output, NULL, err);
    if (!a->adapter) return graft_model_save(m, a->io.output, err);
    if (cli_is_gguf(a->adapter) == to_gguf)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--output: expected %s for the adapter %s, found %s",
                       to_gguf ? "a directory" : "a name that ends in .gguf", a->adapter, a->io.output);
    return to_gguf ? graft_adapter_to_gguf(m, a->adapter, a->io.output, err)
                   : graft_adapter_from_gguf(m, a->adapter, a->io.output, err);
}

static graft_status run(graft_context *ctx, cli_args *args, graft_error *err) {
    const convert_args *a = args->base[1];
    const char *model = a->io.model;
    graft_model *m = NULL;
    char *path;
    if (!a->io.output) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --output OUT");
    if (!model && a->adapter && !cli_is_gguf(a->adapter)) GR_TRY(find_base(args, a->adapter, &model, err));
    graft_status st = cli_load_model(ctx, args, model, NULL, &m, &path, err);
    if (st == GRAFT_OK) st = convert(m, a, err);
    graft_model_free(m);
    if (st == GRAFT_OK && !((const cli_common *)args->base[0])->quiet) fprintf(stderr, "wrote %s\n", a->io.output);
    return st;
}

const cli_command cli_command_convert = {
    .name = "convert",
    .summary = "write a model or a LoRA adapter as GGUF, or a GGUF file as a directory",
    .synopsis = "-m M [--adapter A] -o OUT[.gguf]",
    .about = "Changes no value. Block formats of a GGUF file become float32 in a directory, bitsandbytes' formats "
             "become F32 in a GGUF file.",
    .groups = {&cli_common_group, &cli_conversion_group, &convert_group},
    .n_groups = 3,
    .defaults = defaults,
    .run = run,
    .examples = "  graft convert -m model -o model.gguf\n"
                "  graft convert -m model.gguf -o model\n"
                "  graft convert --adapter out -o out.gguf\n",
};
