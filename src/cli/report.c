#include "cli/report.h"

#include <math.h>

#include "base/json.h"
#include "graft/eval.h"

#define AT(field) offsetof(cli_report_args, field)
static const cli_option report_options[] = {
    {.name = "report",
     .kind = CLI_FLAG,
     .offset = AT(report),
     .metavar = "",
     .help = "print the error of each tensor that is encoded"},
    {.name = "data",
     .letter = 'd',
     .kind = CLI_LIST,
     .offset = AT(data),
     .offset_n = AT(n_data),
     .metavar = "F",
     .help = "with --report: records for the perplexity before and after"},
};
#undef AT
const cli_group cli_report_group = {"Report", report_options, GR_COUNT(report_options)};

graft_status cli_check_report(const cli_report_args *a, graft_error *err) {
    if (a->n_data && !a->report)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--data: expected --report too, found it without");
    return GRAFT_OK;
}

graft_status cli_perplexity(graft_context *ctx, graft_model *m, const char *adapter, const char *path,
                            const char *const *data, size_t n_data, double *out, graft_error *err) {
    graft_eval_options o = graft_eval_options_default();
    graft_eval_result r;
    graft_tokenizer *tok;
    o.what = GRAFT_EVAL_LOSS;
    o.data.paths = data;
    o.data.n_paths = n_data;
    o.generate.adapter = adapter;
    GR_TRY(graft_tokenizer_load(ctx, path, &tok, err));
    graft_status st = graft_eval(m, tok, &o, &r, err);
    graft_tokenizer_free(tok);
    if (st == GRAFT_OK) *out = r.perplexity;
    return st;
}

static double number(const gr_json_value *v, const char *key) {
    const gr_json_value *n = gr_json_get(v, key);
    return n ? n->number.d : NAN;
}

/* Of the activations that a matrix is multiplied with. */
static void print_input(const gr_json_value *t) {
    if (!gr_json_get(t, "input_max")) return;
    printf(" %10.4g %8.1f", number(t, "input_max"), number(t, "input_outlier_ratio"));
    if (gr_json_get(t, "input_error"))
        printf(" %8.2f%% %8.2f%%", 100 * number(t, "input_error"), 100 * number(t, "input_error_dynamic"));
}

static void print_tensors(const gr_json_value *root) {
    const gr_json_value *list = gr_json_get(root, "tensors");
    const bool changes = list->child && gr_json_get(list->child, "of_change");
    printf("%-48s %-8s %12s %12s %9s%s", "tensor", "type", "rmse", "max", "relative",
           changes ? " of change   kept" : "");
    if (list->child && gr_json_get(list->child, "input_max"))
        printf(" %10s %8s %9s %9s", "input max", "max/rms", "static", "dynamic");
    printf("\n");
    for (const gr_json_value *t = list->child; t; t = t->next) {
        const gr_json_value *name = gr_json_get(t, "name");
        cli_print_text(stdout, name->text, name->len);
        printf("%*s %-8s %12.4g %12.4g %8.3f%%", name->len < 48 ? 48 - (int)name->len : 0, "",
               gr_json_get(t, "type")->text, number(t, "rmse"), number(t, "max"), 100 * number(t, "relative"));
        if (changes) printf(" %8.1f%% %5.1f%%", 100 * number(t, "of_change"), 100 * number(t, "change_kept"));
        print_input(t);
        printf("\n");
    }
}

graft_status cli_print_report(const char *json, double before, double after, bool as_json, graft_error *err) {
    gr_buf b;
    gr_buf_init(&b, NULL);
    gr_buf_add(&b, json, strlen(json) - 1);
    if (!isnan(before)) {
        gr_buf_add_text(&b, ", \"perplexity_before\": ");
        gr_json_add_double(&b, before);
        gr_buf_add_text(&b, ", \"perplexity_after\": ");
        gr_json_add_double(&b, after);
    }
    gr_buf_add_char(&b, '}');
    graft_status st = gr_buf_status(&b, err);
    if (st == GRAFT_OK && as_json) st = cli_print_facts(b.data, true, err);
    gr_arena arena;
    gr_arena_init(&arena, NULL, 0);
    const gr_json_value *root;
    if (st == GRAFT_OK && !as_json && (st = gr_json_parse(&arena, "report", b.data, b.len, &root, err)) == GRAFT_OK) {
        print_tensors(root);
        if (!isnan(before))
            printf("perplexity %.4f, after %.4f (%+.2f%%)\n", before, after, 100 * (after / before - 1));
        st = cli_write_stdout("", 0, err);
    }
    gr_arena_free(&arena);
    gr_buf_free(&b);
    return st;
}
