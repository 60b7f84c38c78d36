/* graft plot: a chart of one or more runs. */
#include "cli/cli.h"
#include "graft/train.h"

typedef struct plot_args {
    const char *output;
} plot_args;

static const cli_option plot_options[] = {
    {.name = "output",
     .letter = 'o',
     .kind = CLI_TEXT,
     .offset = offsetof(plot_args, output),
     .metavar = "F",
     .help = "the SVG file to write; default: loss.svg in the first DIR"},
};
static const cli_group plot_group = {"Chart", plot_options, GR_COUNT(plot_options)};

static graft_status defaults(cli_args *args, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    args->base[1] = gr_arena_alloc(&args->arena, sizeof(plot_args));
    return args->base[0] && args->base[1] ? GRAFT_OK : gr_fail_memory(err);
}

static graft_status run(graft_context *ctx, cli_args *args, graft_error *err) {
    const plot_args *a = args->base[1];
    char path[4096];
    snprintf(path, sizeof path, "%s%s", a->output ? a->output : args->words[0], a->output ? "" : "/loss.svg");
    graft_texts dirs = {.items = args->words, .n = args->n_words};
    GR_TRY(graft_plot_svg(ctx, dirs, path, err));
    if (!((const cli_common *)args->base[0])->quiet) fprintf(stderr, "wrote %s\n", path);
    return GRAFT_OK;
}

const cli_command cli_command_plot = {
    .name = "plot",
    .summary = "draw the loss of runs as a chart",
    .synopsis = "DIR... [-o F]",
    .about = "Draws loss, evaluation loss and learning rate of one or more runs over their steps into an SVG "
             "file. DIR is an output "
             "directory of a training command, a trainer_log.jsonl, or TensorBoard event files.",
    .groups = {&cli_common_group, &plot_group},
    .n_groups = 2,
    .defaults = defaults,
    .run = run,
    .min_words = 1,
    .max_words = 32,
};
