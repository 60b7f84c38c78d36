/* graft quantize: a model in fewer bits. */
#include <math.h>

#include "cli/models.h"
#include "cli/report.h"
#include "graft/calibrate.h"
#include "graft/convert.h"

typedef struct quantize_args {
    cli_conversion io; /* first: its group's options begin here too */
    const char *type;
    int double_quant, blocksize;
    cli_report_args cost;
    const char *const *calibration_data, *const *ignore;
    size_t n_calibration_data, n_ignore;
    int64_t num_calibration_samples, max_seq_length;
} quantize_args;

/* Where the files of a type go, and who reads them. */
typedef enum target { TO_GGUF, TO_BITSANDBYTES, TO_COMPRESSED_TENSORS } target;

#define AT(field) offsetof(quantize_args, field)
static const cli_option quantize_options[] = {
    {.name = "type",
     .aliases = "outtype",
     .kind = CLI_TEXT,
     .offset = AT(type),
     .metavar = "T",
     .help = "nf4, fp4, int8, w8a8 (a directory), or Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K F16 BF16 F32 "
             "(a .gguf "
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
    {.name = "calibration-data",
     .aliases = "calibration-dataset",
     .kind = CLI_LIST,
     .offset = AT(calibration_data),
     .offset_n = AT(n_calibration_data),
     .metavar = "F",
     .help = "int8, w8a8: records that the model is run over, to find a scale for the activations of each module"},
    {.name = "num-calibration-samples",
     .kind = CLI_INT64,
     .offset = AT(num_calibration_samples),
     .metavar = "N",
     .help = "of these records the first N at most; 0: 512"},
    {.name = "max-seq-length",
     .kind = CLI_INT64,
     .offset = AT(max_seq_length),
     .metavar = "N",
     .help = "tokens of each at most; 0: 2048"},
    {.name = "ignore",
     .aliases = "modules-to-not-convert",
     .kind = CLI_LIST,
     .offset = AT(ignore),
     .offset_n = AT(n_ignore),
     .metavar = "MODULE",
     .help = "w8a8: leave a module as it is: its name, the end of it, or re:EXPRESSION; repeatable"},
};
#undef AT
static const cli_group quantize_group = {"Quantise", quantize_options, GR_COUNT(quantize_options)};

static graft_status defaults(cli_args *args, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    quantize_args *a = gr_arena_alloc(&args->arena, sizeof *a);
    if (!args->base[0] || !a) return gr_fail_memory(err);
    args->base[1] = args->base[2] = a;
    args->base[3] = &a->cost;
    return GRAFT_OK;
}

static target target_of(const quantize_args *a) {
    const bool eight = !strcmp(a->type, "int8");
    if (!strcmp(a->type, "w8a8") || (eight && a->n_calibration_data)) return TO_COMPRESSED_TENSORS;
    return eight || !strcmp(a->type, "nf4") || !strcmp(a->type, "fp4") ? TO_BITSANDBYTES : TO_GGUF;
}

/* Writes the quantised model and, for the perplexity, reads it again. */
static graft_status write_quantized(graft_context *ctx, cli_args *args, const quantize_args *a, const graft_w8a8 *how,
                                    double *after, graft_error *err) {
    const target to = target_of(a);
    const bool eight = !strcmp(a->type, "int8"), bnb = to == TO_BITSANDBYTES;
    graft_model_options o = {.load_in_4bit = bnb && !eight,
                             .load_in_8bit = bnb && eight,
                             .bnb_4bit_quant_type = bnb && !eight ? a->type : NULL,
                             .bnb_4bit_use_double_quant = bnb && a->double_quant,
                             .bnb_4bit_blocksize = bnb ? a->blocksize : 0,
                             .w8a8 = to == TO_COMPRESSED_TENSORS ? how : NULL};
    graft_model *m = NULL;
    char *path;
    graft_status st = cli_load_model(ctx, args, a->io.model, &o, &m, &path, err);
    if (st == GRAFT_OK)
        st = to == TO_GGUF ? graft_model_save_gguf(m, a->io.output, a->type, err)
                           : graft_model_save(m, a->io.output, err);
    graft_model_free(m);
    if (st != GRAFT_OK || !a->cost.n_data) return st;
    m = NULL;
    st = graft_model_load(ctx, a->io.output, NULL, &m, err);
    if (st == GRAFT_OK) st = cli_perplexity(ctx, m, NULL, a->io.output, a->cost.data, a->cost.n_data, after, err);
    graft_model_free(m);
    return st;
}

static graft_status check_calibration(const cli_args *args, const quantize_args *a, target to, graft_error *err) {
    static const char *const only[] = {"num-calibration-samples", "max-seq-length"};
    if (a->n_calibration_data && to != TO_COMPRESSED_TENSORS)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--calibration-data: expected type int8 or w8a8, found %s", a->type);
    for (size_t i = 0; i < GR_COUNT(only) && !a->n_calibration_data; i++)
        if (cli_given(args, only[i]))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "--%s: expected --calibration-data too, found it without",
                           only[i]);
    if (a->num_calibration_samples < 0 || a->max_seq_length < 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--%s: expected 0 or more, found %lld",
                       only[a->num_calibration_samples >= 0],
                       (long long)(a->num_calibration_samples < 0 ? a->num_calibration_samples : a->max_seq_length));
    if (a->n_ignore && to != TO_COMPRESSED_TENSORS)
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "--ignore: expected type w8a8, or int8 with --calibration-data, found %s", a->type);
    return GRAFT_OK;
}

static graft_status check(const cli_args *args, const quantize_args *a, graft_error *err) {
    if (!a->type) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --type T");
    if (!a->io.output) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --output OUT");
    const target to = target_of(a);
    if (to == TO_GGUF && !cli_is_gguf(a->io.output))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--output: expected a name that ends in .gguf for type %s, found %s",
                       a->type, a->io.output);
    if (to != TO_GGUF && cli_is_gguf(a->io.output))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "--output: expected a directory for type %s, which GGUF files cannot hold, found %s", a->type,
                       a->io.output);
    const bool four = to == TO_BITSANDBYTES && strcmp(a->type, "int8") != 0;
    if (!four && (a->double_quant || a->blocksize))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--%s: expected type nf4 or fp4, found %s",
                       a->double_quant ? "double-quant" : "blocksize", a->type);
    GR_TRY(cli_check_report(&a->cost, err));
    return check_calibration(args, a, to, err);
}

static void show_progress(void *user, size_t done, size_t total) {
    (void)user;
    fprintf(stderr, "\rcalibrating: %zu of %zu\033[K", done, total);
    fflush(stderr);
}

/* The scales of activations, with what they cost where a report is wanted. */
static graft_status calibrate(graft_context *ctx, const cli_common *common, const quantize_args *a, graft_model *m,
                              const char *path, graft_calibration **out, graft_error *err) {
    const bool shows = cli_is_terminal(stderr) && !common->quiet;
    const graft_calibration_options o = {.data = {.paths = a->calibration_data, .n_paths = a->n_calibration_data},
                                         .num_calibration_samples = (size_t)a->num_calibration_samples,
                                         .max_seq_length = a->max_seq_length,
                                         .measure = a->cost.report,
                                         .progress = shows ? show_progress : NULL};
    graft_tokenizer *tok;
    GR_TRY(graft_tokenizer_load(ctx, path, &tok, err));
    graft_status st = graft_calibrate(m, tok, &o, out, err);
    if (shows) cli_clear_line();
    graft_tokenizer_free(tok);
    if (st == GRAFT_OK && !common->quiet)
        fprintf(stderr, "calibrated on %zu records, %llu tokens\n", graft_calibration_n_examples(*out),
                (unsigned long long)graft_calibration_n_tokens(*out));
    return st;
}

/* What has to be known of the model as it is. */
static graft_status look_at_model(graft_context *ctx, cli_args *args, const quantize_args *a, graft_w8a8 *how,
                                  graft_calibration **found, char **json, double *before, graft_error *err) {
    const graft_model_options floats = {.activations = "float"};
    const bool eight = target_of(a) == TO_COMPRESSED_TENSORS;
    graft_model *m = NULL;
    char *path;
    if (!a->cost.report && !a->n_calibration_data) return GRAFT_OK;
    graft_status st = cli_load_model(ctx, args, a->io.model, a->n_calibration_data ? &floats : NULL, &m, &path, err);
    if (st == GRAFT_OK && a->n_calibration_data) {
        st = calibrate(ctx, args->base[0], a, m, path, found, err);
        how->calibration = *found;
    }
    if (st == GRAFT_OK && a->cost.report)
        st = eight ? graft_w8a8_report(m, how, json, err)
                   : graft_quantize_report(m, a->type, a->double_quant, a->blocksize, json, err);
    if (st == GRAFT_OK && a->cost.n_data)
        st = cli_perplexity(ctx, m, NULL, path, a->cost.data, a->cost.n_data, before, err);
    graft_model_free(m);
    return st;
}

static graft_status run(graft_context *ctx, cli_args *args, graft_error *err) {
    const quantize_args *a = args->base[1];
    const cli_common *common = args->base[0];
    graft_w8a8 how = {.ignore = a->ignore, .n_ignore = a->n_ignore};
    graft_calibration *found = NULL;
    double before = NAN, after = NAN;
    char *json = NULL;
    GR_TRY(check(args, a, err));
    graft_status st = look_at_model(ctx, args, a, &how, &found, &json, &before, err);
    if (st == GRAFT_OK) st = write_quantized(ctx, args, a, &how, &after, err);
    if (st == GRAFT_OK && json) st = cli_print_report(json, before, after, common->json != 0, err);
    graft_calibration_free(found);
    graft_free(ctx, json);
    if (st == GRAFT_OK && !common->quiet) fprintf(stderr, "wrote %s\n", a->io.output);
    return st;
}

const cli_command cli_command_quantize = {
    .name = "quantize",
    .summary = "write a model in fewer bits",
    .synopsis = "-m M --type T -o OUT [--double-quant] [--blocksize N] [--calibration-data F] [--report [--data F]]",
    .about =
        "nf4, fp4 and int8 write a Hugging Face directory as bitsandbytes serialises it, w8a8 one as "
        "compressed-tensors does: "
        "weights in int8 with a scale an output, activations in int8 too, with one scale a row that is found as they "
        "are computed, or, "
        "with --calibration-data (then int8 means the same), one a module that is known beforehand. GGUF types write "
        "a .gguf file "
        "with the bytes of llama.cpp's "
        "own quantisers (no importance matrix).\n\nOf GGUF files, the matrix that makes the logits gets at least "
        "Q6_K, and matrices whose rows "
        "are not whole blocks of 256 the next better format of 32 (F16 where they are not that either).",
    .groups = {&cli_common_group, &cli_conversion_group, &quantize_group, &cli_report_group},
    .n_groups = 4,
    .defaults = defaults,
    .run = run,
    .examples = "  graft quantize -m model --type nf4 --double-quant -o model-nf4\n"
                "  graft quantize -m model --type int8 --calibration-data train.jsonl -o model-w8a8 --report\n"
                "  graft quantize -m model --type Q4_K -o model.gguf --report --data heldout.jsonl\n",
};
