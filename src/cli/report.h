/* What writing a model in fewer bits costs, for people and as JSON. */
#ifndef GR_CLI_REPORT_H
#define GR_CLI_REPORT_H

#include "cli/cli.h"
#include "graft/model.h"

/* Whether the cost is reported, and on which records its perplexity is measured. */
typedef struct cli_report_args {
    int report;
    const char *const *data;
    size_t n_data;
} cli_report_args;
extern const cli_group cli_report_group;
graft_status cli_check_report(const cli_report_args *a, graft_error *err);

/* Perplexity on records; `path`: the model's, for its tokenizer; `adapter` NULL: the bare model. */
graft_status cli_perplexity(graft_context *ctx, graft_model *m, const char *adapter, const char *path,
                            const char *const *data, size_t n_data, double *out, graft_error *err);
/* The JSON object of graft_quantize_report or graft_model_merge_stored; perplexities that are NaN are left out. */
graft_status cli_print_report(const char *json, double before, double after, bool as_json, graft_error *err);

#endif
