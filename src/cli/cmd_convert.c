/* graft quantize, graft convert: models in other formats. */
#include <math.h>

#include "base/json.h"
#include "cli/models.h"
#include "cli/report.h"
#include "graft/convert.h"

static bool is_gguf(const char *path) {
    size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".gguf") == 0;
}

/* The model alone: it is written as it is. */
static graft_status load(graft_context *ctx, cli_args *args, const char *model, const graft_model_options *o,
                         graft_model **out, char **path, graft_error *err) {
    GR_TRY(cli_model_path(ctx, args, model, path, err));
    return graft_model_load(ctx, *path, o, out, err);
}

/* --- quantize ------------------------------------------------------------------------------------------------------- */

typedef struct quantize_args {
    const char *model, *type, *output;
    int double_quant, blocksize, report;
    const char *const *data;
    size_t n_data;
} quantize_args;

#define AT(field) offsetof(quantize_args, field)
static const cli_option quantize_options[] = {
    {.name = "model",
     .aliases = "model-name-or-path hf-repo",
     .letter = 'm',
     .kind = CLI_TEXT,
     .offset = AT(model),
     .metavar = "M",
     .help = "model: a Hugging Face directory, a .gguf file, or ORG/NAME"},
    {.name = "type",
     .aliases = "outtype",
     .kind = CLI_TEXT,
     .offset = AT(type),
     .metavar = "T",
     .help = "nf4, fp4, int8 (a directory), or Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K F16 BF16 F32 (a .gguf "
             "file)"},
    {.name = "double-quant",
     .aliases = "bnb-4bit-use-double-quant",
     .kind = CLI_FLAG,
     .offset = AT(double_quant),
     .metavar = "",
     .help = "nf4, fp4: quantise the scales too"},
    {.name = "blocksize",
     .kind = CLI_INT,
     .offset = AT(blocksize),
     .metavar = "N",
     .help = "nf4, fp4: elements that share a scale; 0: 64"},
    {.name = "output",
     .aliases = "output-dir outfile",
     .letter = 'o',
     .kind = CLI_TEXT,
     .offset = AT(output),
     .metavar = "OUT",
     .help = "directory or .gguf file to write"},
    {.name = "report", .kind = CLI_FLAG, .offset = AT(report), .metavar = "", .help = "print the error of each tensor"},
    {.name = "data",
     .letter = 'd',
     .kind = CLI_LIST,
     .offset = AT(data),
     .offset_n = AT(n_data),
     .metavar = "F",
     .help = "with --report: records for the perplexity before and after"},
};
#undef AT
static const cli_group quantize_group = {"Quantise", quantize_options, GR_COUNT(quantize_options)};

static graft_status quantize_defaults(cli_args *args, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    args->base[1] = gr_arena_alloc(&args->arena, sizeof(quantize_args));
    return args->base[0] && args->base[1] ? GRAFT_OK : gr_fail_memory(err);
}

/* Writes the quantised model and, for the perplexity, reads it again. */
static graft_status write_quantized(graft_context *ctx, cli_args *args, const quantize_args *a, bool bnb, double *after,
                                    graft_error *err) {
    const bool eight = !strcmp(a->type, "int8");
    graft_model_options o = {.load_in_4bit = bnb && !eight,
                             .load_in_8bit = bnb && eight,
                             .bnb_4bit_quant_type = bnb && !eight ? a->type : NULL,
                             .bnb_4bit_use_double_quant = bnb && a->double_quant,
                             .bnb_4bit_blocksize = bnb ? a->blocksize : 0};
    graft_model *m = NULL;
    char *path;
    graft_status st = load(ctx, args, a->model, &o, &m, &path, err);
    if (st == GRAFT_OK)
        st = bnb ? graft_model_save(m, a->output, err) : graft_model_save_gguf(m, a->output, a->type, err);
    graft_model_free(m);
    if (st != GRAFT_OK || !a->n_data) return st;
    m = NULL;
    st = graft_model_load(ctx, a->output, NULL, &m, err);
    if (st == GRAFT_OK) st = cli_perplexity(ctx, m, NULL, a->output, a->data, a->n_data, after, err);
    graft_model_free(m);
    return st;
}

static graft_status check(const quantize_args *a, bool bnb, graft_error *err) {
    if (!a->type) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --type T");
    if (!a->output) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --output OUT");
    if (!bnb && !is_gguf(a->output))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--output: expected a name that ends in .gguf for type %s, found %s",
                       a->type, a->output);
    if (bnb && is_gguf(a->output))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "--output: expected a directory for type %s, which GGUF files cannot hold, found %s", a->type,
                       a->output);
    bool four = bnb && strcmp(a->type, "int8") != 0;
    if (!four && (a->double_quant || a->blocksize))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--%s: expected type nf4 or fp4, found %s",
                       a->double_quant ? "double-quant" : "blocksize", a->type);
    if (a->n_data && !a->report)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--data: expected --report too, found it without");
    return GRAFT_OK;
}

static graft_status run_quantize(graft_context *ctx, cli_args *args, graft_error *err) {
    const quantize_args *a = args->base[1];
    const cli_common *common = args->base[0];
    bool bnb = a->type && (!strcmp(a->type, "nf4") || !strcmp(a->type, "fp4") || !strcmp(a->type, "int8"));
    double before = NAN, after = NAN;
    char *json = NULL, *path;
    graft_status st = GRAFT_OK;
    GR_TRY(check(a, bnb, err));
    if (a->report) {
        graft_model *m = NULL;
        st = load(ctx, args, a->model, NULL, &m, &path, err);
        if (st == GRAFT_OK) st = graft_quantize_report(m, a->type, a->double_quant, a->blocksize, &json, err);
        if (st == GRAFT_OK && a->n_data) st = cli_perplexity(ctx, m, NULL, path, a->data, a->n_data, &before, err);
        graft_model_free(m);
    }
    if (st == GRAFT_OK) st = write_quantized(ctx, args, a, bnb, &after, err);
    if (st == GRAFT_OK && json) st = cli_print_report(json, before, after, common->json != 0, err);
    graft_free(ctx, json);
    if (st == GRAFT_OK && !common->quiet) fprintf(stderr, "wrote %s\n", a->output);
    return st;
}

const cli_command cli_command_quantize = {
    .name = "quantize",
    .summary = "write a model in fewer bits",
    .synopsis = "-m M --type T -o OUT [--double-quant] [--blocksize N] [--report [--data F]]",
    .about = "nf4, fp4 and int8 write a Hugging Face directory as bitsandbytes serialises it, GGUF types a .gguf file "
             "with the bytes of llama.cpp's "
             "own quantisers (no importance matrix).\n\nOf GGUF files, the matrix that makes the logits gets at least "
             "Q6_K, and matrices whose rows "
             "are not whole blocks of 256 the next better format of 32 (F16 where they are not that either).",
    .groups = {&cli_common_group, &quantize_group},
    .n_groups = 2,
    .defaults = quantize_defaults,
    .run = run_quantize,
    .examples = "  graft quantize -m model --type nf4 --double-quant -o model-nf4\n"
                "  graft quantize -m model --type Q4_K -o model.gguf --report --data heldout.jsonl\n",
};

/* --- convert -------------------------------------------------------------------------------------------------------- */

typedef struct convert_args {
    const char *model, *adapter, *output;
} convert_args;

#define AT(field) offsetof(convert_args, field)
static const cli_option convert_options[] = {
    {.name = "model",
     .aliases = "model-name-or-path hf-repo",
     .letter = 'm',
     .kind = CLI_TEXT,
     .offset = AT(model),
     .metavar = "M",
     .help = "model: a Hugging Face directory, a .gguf file, or ORG/NAME"},
    {.name = "adapter",
     .aliases = "lora",
     .kind = CLI_TEXT,
     .offset = AT(adapter),
     .metavar = "A",
     .help = "convert this LoRA adapter of the model instead: a directory, or a .gguf file"},
    {.name = "output",
     .aliases = "output-dir outfile",
     .letter = 'o',
     .kind = CLI_TEXT,
     .offset = AT(output),
     .metavar = "OUT",
     .help = "directory, or a .gguf file, to write"},
};
#undef AT
static const cli_group convert_group = {"Convert", convert_options, GR_COUNT(convert_options)};

static graft_status convert_defaults(cli_args *args, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    args->base[1] = gr_arena_alloc(&args->arena, sizeof(convert_args));
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
            st = gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --model M, the base of the adapter, which %s does not name", path);
    }
    gr_free(NULL, text);
    gr_free(NULL, path);
    return st;
}

static graft_status convert(graft_model *m, const convert_args *a, graft_error *err) {
    const bool to_gguf = is_gguf(a->output);
    if (!a->adapter) return to_gguf ? graft_model_save_gguf(m, a->output, NULL, err) : graft_model_save(m, a->output, err);
    if (is_gguf(a->adapter) == to_gguf)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--output: expected %s for the adapter %s, found %s",
                       to_gguf ? "a directory" : "a name that ends in .gguf", a->adapter, a->output);
    return to_gguf ? graft_adapter_to_gguf(m, a->adapter, a->output, err)
                   : graft_adapter_from_gguf(m, a->adapter, a->output, err);
}

static graft_status run_convert(graft_context *ctx, cli_args *args, graft_error *err) {
    const convert_args *a = args->base[1];
    const char *model = a->model;
    graft_model *m = NULL;
    char *path;
    if (!a->output) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --output OUT");
    if (!model && a->adapter && !is_gguf(a->adapter)) GR_TRY(find_base(args, a->adapter, &model, err));
    graft_status st = load(ctx, args, model, NULL, &m, &path, err);
    if (st == GRAFT_OK) st = convert(m, a, err);
    graft_model_free(m);
    if (st == GRAFT_OK && !((const cli_common *)args->base[0])->quiet) fprintf(stderr, "wrote %s\n", a->output);
    return st;
}

const cli_command cli_command_convert = {
    .name = "convert",
    .summary = "write a model or a LoRA adapter as GGUF, or a GGUF file as a directory",
    .synopsis = "-m M [--adapter A] -o OUT[.gguf]",
    .about = "Changes no value. Block formats of a GGUF file become float32 in a directory, bitsandbytes' formats "
             "become F32 in a GGUF file.",
    .groups = {&cli_common_group, &convert_group},
    .n_groups = 2,
    .defaults = convert_defaults,
    .run = run_convert,
    .examples = "  graft convert -m model -o model.gguf\n"
                "  graft convert -m model.gguf -o model\n"
                "  graft convert --adapter out -o out.gguf\n",
};
