/* graft quantize: a model in fewer bits. */
#include <math.h>

#include "cli/models.h"
#include "cli/report.h"
#include "graft/convert.h"

typedef struct quantize_args {
    cli_conversion io; /* first: its group's options begin here too */
    const char *type;
    int double_quant, blocksize, report;
    const char *const *data;
    size_t n_data;
} quantize_args;

#define AT(field) offsetof(quantize_args, field)
static const cli_option quantize_options[] = {
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

static graft_status defaults(cli_args *args, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    args->base[1] = args->base[2] = gr_arena_alloc(&args->arena, sizeof(quantize_args));
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
    graft_status st = cli_load_model(ctx, args, a->io.model, &o, &m, &path, err);
    if (st == GRAFT_OK)
        st = bnb ? graft_model_save(m, a->io.output, err) : graft_model_save_gguf(m, a->io.output, a->type, err);
    graft_model_free(m);
    if (st != GRAFT_OK || !a->n_data) return st;
    m = NULL;
    st = graft_model_load(ctx, a->io.output, NULL, &m, err);
    if (st == GRAFT_OK) st = cli_perplexity(ctx, m, NULL, a->io.output, a->data, a->n_data, after, err);
    graft_model_free(m);
    return st;
}

static graft_status check(const quantize_args *a, bool bnb, graft_error *err) {
    if (!a->type) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --type T");
    if (!a->io.output) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --output OUT");
    if (!bnb && !cli_is_gguf(a->io.output))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--output: expected a name that ends in .gguf for type %s, found %s",
                       a->type, a->io.output);
    if (bnb && cli_is_gguf(a->io.output))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "--output: expected a directory for type %s, which GGUF files cannot hold, found %s", a->type,
                       a->io.output);
    bool four = bnb && strcmp(a->type, "int8") != 0;
    if (!four && (a->double_quant || a->blocksize))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--%s: expected type nf4 or fp4, found %s",
                       a->double_quant ? "double-quant" : "blocksize", a->type);
    if (a->n_data && !a->report)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--data: expected --report too, found it without");
    return GRAFT_OK;
}

static graft_status run(graft_context *ctx, cli_args *args, graft_error *err) {
    const quantize_args *a = args->base[1];
    const cli_common *common = args->base[0];
    bool bnb = a->type && (!strcmp(a->type, "nf4") || !strcmp(a->type, "fp4") || !strcmp(a->type, "int8"));
    double before = NAN, after = NAN;
    char *json = NULL, *path;
    graft_status st = GRAFT_OK;
    GR_TRY(check(a, bnb, err));
    if (a->report) {
        graft_model *m = NULL;
        st = cli_load_model(ctx, args, a->io.model, NULL, &m, &path, err);
        if (st == GRAFT_OK) st = graft_quantize_report(m, a->type, a->double_quant, a->blocksize, &json, err);
        if (st == GRAFT_OK && a->n_data) st = cli_perplexity(ctx, m, NULL, path, a->data, a->n_data, &before, err);
        graft_model_free(m);
    }
    if (st == GRAFT_OK) st = write_quantized(ctx, args, a, bnb, &after, err);
    if (st == GRAFT_OK && json) st = cli_print_report(json, before, after, common->json != 0, err);
    graft_free(ctx, json);
    if (st == GRAFT_OK && !common->quiet) fprintf(stderr, "wrote %s\n", a->io.output);
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
    .groups = {&cli_common_group, &cli_conversion_group, &quantize_group},
    .n_groups = 3,
    .defaults = defaults,
    .run = run,
    .examples = "  graft quantize -m model --type nf4 --double-quant -o model-nf4\n"
                "  graft quantize -m model --type Q4_K -o model.gguf --report --data heldout.jsonl\n",
};
