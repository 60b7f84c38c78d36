/* graft merge: a base with an adapter in its weights, or several adapters as one. */
#include <math.h>

#include "base/json.h"
#include "cli/models.h"
#include "cli/report.h"
#include "graft/convert.h"

typedef struct merge_args {
    const char *output, *type, *combination, *sign;
    int64_t svd_rank, seed;
    double density;
    int as_adapter;
    cli_report_args cost;
} merge_args;

#define AT(field) offsetof(merge_args, field)
static const cli_option merge_options[] = {
    {.name = "output",
     .aliases = "output-dir outfile",
     .letter = 'o',
     .kind = CLI_TEXT,
     .offset = AT(output),
     .metavar = "OUT",
     .help = "directory or .gguf file to write"},
    {.name = "outtype",
     .kind = CLI_TEXT,
     .offset = AT(type),
     .metavar = "T",
     .help = "format of the written weights: auto, as the base has them (of GGUF's block formats a directory "
             "gets f16); f32, bf16, "
             "f16; in a .gguf file also Q4_0 .. Q6_K"},
    {.name = "combination-type",
     .kind = CLI_TEXT,
     .offset = AT(combination),
     .metavar = "T",
     .choices = "cat svd linear ties dare_linear dare_ties magnitude_prune",
     .help = "how several LoRA adapters become one, each with its SCALE as weight; cat is exact"},
    {.name = "svd-rank",
     .kind = CLI_INT64,
     .offset = AT(svd_rank),
     .metavar = "N",
     .help = "svd: rank of the result; 0: the largest of the adapters'"},
    {.name = "density",
     .kind = CLI_REAL,
     .offset = AT(density),
     .metavar = "X",
     .help = "ties, dare_*, magnitude_prune: share of the values that are kept"},
    {.name = "majority-sign-method",
     .kind = CLI_TEXT,
     .offset = AT(sign),
     .metavar = "S",
     .choices = "total frequency",
     .help = "ties, dare_ties: how signs are voted on"},
    {.name = "seed",
     .kind = CLI_INT64,
     .offset = AT(seed),
     .metavar = "N",
     .help = "dare_*: decides which values are kept"},
    {.name = "as-adapter",
     .kind = CLI_FLAG,
     .offset = AT(as_adapter),
     .metavar = "",
     .help = "write the combined adapter, not a model"},
};
#undef AT
static const cli_group merge_group = {"Merge", merge_options, GR_COUNT(merge_options)};

static graft_status merge_defaults(cli_args *args, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    args->base[1] = gr_arena_alloc(&args->arena, sizeof(cli_model_args));
    merge_args *a = gr_arena_alloc(&args->arena, sizeof *a);
    if (!args->base[0] || !args->base[1] || !a) return gr_fail_memory(err);
    args->base[2] = a;
    args->base[3] = &a->cost;
    return GRAFT_OK;
}

static graft_status check(const merge_args *a, const cli_model_args *model, bool combine, graft_error *err) {
    if (!a->output) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --output OUT");
    if (model->n_adapters == 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--adapter: expected an adapter to merge, found none");
    if (!combine && (a->svd_rank || a->density != 0 || a->sign || a->seed))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --combination-type beside its settings, found none");
    if (model->activations) return gr_fail(err, GRAFT_ERR_ARGUMENT, "--activations: merging computes no activations");
    if (a->as_adapter && a->type)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--outtype: an adapter is written in float32");
    if (a->as_adapter && a->cost.report)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--report: expected a model to be written");
    GR_TRY(cli_check_report(&a->cost, err));
    return GRAFT_OK;
}

/* What encoding the changed tensors again has cost. */
static void tell_cost(const gr_json_value *root) {
    enum { KEPT = 90 };
    const gr_json_value *total = gr_json_get(root, "total"), *kept = gr_json_get(total, "change_kept");
    const int64_t encoded = (int64_t)gr_json_get(root, "encoded")->number.d;
    if (!encoded) {
        fprintf(stderr, ", in floats\n");
        return;
    }
    fprintf(stderr, "; %lld tensors encoded again, error %.3g%% of their values", (long long)encoded,
            100 * gr_json_get(total, "relative")->number.d);
    if (kept) fprintf(stderr, ", %.3g%% of what the adapter adds is kept", 100 * kept->number.d);
    fprintf(stderr, "\n");
    if (kept && 100 * kept->number.d < KEPT)
        fprintf(stderr, "warning: steps of this format are large beside what the adapter adds, and rounding "
                        "takes it back: "
                        "expected another --outtype, or the adapter kept apart\n");
}

/* Which base was written. */
static graft_status tell(const char *report, const char *output, graft_error *err) {
    gr_arena arena;
    const gr_json_value *root;
    gr_arena_init(&arena, NULL, 0);
    graft_status st = gr_json_parse(&arena, "report", report, strlen(report), &root, err);
    if (st == GRAFT_OK) {
        const gr_json_value *base = gr_json_get(root, "base");
        char names[200] = "";
        size_t n = 0;
        for (const gr_json_value *f = gr_json_get(root, "formats")->child; f && n < sizeof names; f = f->next)
            n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", f->text);
        fprintf(stderr, "wrote %s: the adapter on ", output);
        cli_print_text(stderr, base->text, base->len);
        if (gr_json_get(root, "quantized_while_loading")->kind == GR_JSON_TRUE)
            fprintf(stderr, " as quantised while loading (%s), not as its file has it", names);
        else if (names[0])
            fprintf(stderr, " (%s)", names);
        tell_cost(root);
    }
    gr_arena_free(&arena);
    return st;
}

static graft_status write_model(const cli_models *m, const char *name, const merge_args *a, const cli_model_args *model,
                                const cli_common *common, graft_error *err) {
    const char *type = a->type && strcmp(a->type, "auto") ? a->type : NULL;
    double apart = NAN, merged = NAN;
    char *json = NULL;
    graft_status st = GRAFT_OK;
    if (a->cost.n_data)
        st = cli_perplexity(m->ctx, m->model, name, graft_model_path(m->model), a->cost.data, a->cost.n_data,
                            &apart, err);
    if (st == GRAFT_OK) st = graft_model_merge_stored(m->model, name, a->output, type, &json, err);
    if (st == GRAFT_OK && a->cost.n_data) {
        const char *dtype = cli_dtype_name(model->dtype);
        const graft_model_options o = {.dtype = !dtype            ? GRAFT_DTYPE_AUTO
                                                : dtype[0] == 'b' ? GRAFT_DTYPE_BF16
                                                                  : GRAFT_DTYPE_F32};
        graft_model *written = NULL;
        st = graft_model_load(m->ctx, a->output, &o, &written, err);
        if (st == GRAFT_OK)
            st = cli_perplexity(m->ctx, written, NULL, a->output, a->cost.data, a->cost.n_data, &merged, err);
        graft_model_free(written);
    }
    if (st == GRAFT_OK && a->cost.report) st = cli_print_report(json, apart, merged, common->json != 0, err);
    if (st == GRAFT_OK && !common->quiet) st = tell(json, a->output, err);
    graft_free(m->ctx, json);
    return st;
}

static graft_status run_merge(graft_context *ctx, cli_args *args, graft_error *err) {
    const merge_args *a = args->base[2];
    const cli_model_args *model = args->base[1];
    const cli_common *common = args->base[0];
    bool combine = model->n_adapters > 1 || a->combination || a->as_adapter;
    GR_TRY(check(a, model, combine, err));
    cli_models m = {0};
    graft_status st =
        cli_models_open(ctx, args, model, false, combine ? CLI_WEIGHED_ADAPTERS : CLI_ONE_ADAPTER, &m, err);
    const char *name = m.adapter;
    if (st == GRAFT_OK && combine) {
        const graft_combine_options o = {.type = a->combination,
                                         .svd_rank = (int)a->svd_rank,
                                         .density = a->density,
                                         .majority_sign_method = a->sign,
                                         .seed = (uint64_t)a->seed};
        name = "combined adapters";
        st = graft_adapter_combine(m.model, name, m.names, m.scales, m.n_adapters, &o, err);
    }
    if (st == GRAFT_OK && !a->as_adapter) st = write_model(&m, name, a, model, common, err);
    if (st == GRAFT_OK && a->as_adapter) st = graft_adapter_save(m.model, name, a->output, err);
    cli_models_close(&m);
    if (st == GRAFT_OK && a->as_adapter && !common->quiet) fprintf(stderr, "wrote %s\n", a->output);
    return st;
}

const cli_command cli_command_merge = {
    .name = "merge",
    .summary = "write a model with an adapter merged into its weights",
    .synopsis = "-m M --adapter DIR -o OUT [--outtype T] [--report [--data F]]",
    .about = "Writes a Hugging Face directory or a GGUF file whose logits are those of the base with the "
             "adapter. A base in few bits "
             "is decoded, added to and encoded again in its own format, and what that costs is told; "
             "--outtype f16 keeps it in "
             "floats. With --load-in-4bit or --load-in-8bit the base is what these make of it.\n\nSeveral "
             "LoRA adapters, each as "
             "NAME=DIR:WEIGHT, are combined first, as peft's add_weighted_adapter does.",
    .groups = {&cli_common_group, &cli_model_group, &merge_group, &cli_report_group},
    .n_groups = 4,
    .defaults = merge_defaults,
    .run = run_merge,
    .examples = "  graft merge -m model.gguf --adapter out -o merged.gguf --report\n"
                "  graft merge -m model.gguf --adapter out -o merged --outtype bf16\n"
                "  graft merge -m model.gguf --adapter a=A:0.7 --adapter b=B:0.3 --combination-type svd "
                "--as-adapter -o both\n",
};
