/* graft download: a model from the Hugging Face Hub into the cache that transformers shares. */
#include "base/json.h"
#include "cli/cli.h"
#include "graft/hub.h"

typedef struct download_args {
    const char *revision, *cache_dir;
    const char *const *include;
    size_t n_include;
    int offline;
} download_args;

#define AT(field) offsetof(download_args, field)
static const cli_option download_options[] = {
    {.name = "revision",
     .kind = CLI_TEXT,
     .offset = AT(revision),
     .metavar = "REV",
     .help = "branch, tag or commit; default: main"},
    {.name = "include",
     .kind = CLI_LIST,
     .offset = AT(include),
     .offset_n = AT(n_include),
     .comma = true,
     .metavar = "PATTERNS",
     .help = "only files that match (* and ?); default: what graft reads of a model"},
    {.name = "cache-dir",
     .kind = CLI_TEXT,
     .offset = AT(cache_dir),
     .metavar = "DIR",
     .help = "another cache than HF_HOME says"},
    {.name = "offline",
     .kind = CLI_FLAG,
     .offset = AT(offline),
     .metavar = "",
     .help = "only look into the cache"},
};
#undef AT
static const cli_group download_group = {"Download", download_options, GR_COUNT(download_options)};

static graft_status defaults(cli_args *args, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    args->base[1] = gr_arena_alloc(&args->arena, sizeof(download_args));
    return args->base[0] && args->base[1] ? GRAFT_OK : gr_fail_memory(err);
}

static graft_status run(graft_context *ctx, cli_args *args, graft_error *err) {
    const download_args *a = args->base[1];
    const char **patterns = NULL;
    if (a->n_include) {
        patterns = gr_arena_alloc(&args->arena, (a->n_include + 1) * sizeof *patterns);
        if (!patterns) return gr_fail_memory(err);
        memcpy(patterns, a->include, a->n_include * sizeof *patterns);
    }
    bool quiet = ((const cli_common *)args->base[0])->quiet != 0;
    graft_hub_options o = {.revision = a->revision,
                           .cache_dir = a->cache_dir,
                           .patterns = patterns,
                           .offline = a->offline,
                           .progress = quiet ? NULL : cli_show_download};
    char *path;
    graft_status st = graft_hub_download(ctx, args->words[0], &o, &path, err);
    cli_clear_line();
    if (st != GRAFT_OK) return st;
    if (((const cli_common *)args->base[0])->json) {
        gr_buf b;
        gr_buf_init(&b, NULL);
        gr_buf_add_text(&b, "{\"path\": ");
        gr_json_add_text(&b, path, strlen(path));
        gr_buf_add_char(&b, '}');
        st = gr_buf_status(&b, err);
        if (st == GRAFT_OK) st = cli_print_facts(b.data, true, err);
        gr_buf_free(&b);
    } else {
        printf("%s\n", path);
        st = cli_write_stdout("", 0, err);
    }
    graft_free(ctx, path);
    return st;
}

const cli_command cli_command_download = {
    .name = "download",
    .summary = "get a model from the Hugging Face Hub",
    .synopsis = "ORG/NAME [--revision REV]",
    .about =
        "Downloads what is missing into the cache that transformers shares (HF_HOME), going on where an "
        "earlier call was interrupted and "
        "checking SHA-256, and prints the directory. HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honoured.",
    .groups = {&cli_common_group, &download_group},
    .n_groups = 2,
    .defaults = defaults,
    .run = run,
    .min_words = 1,
    .max_words = 1,
};
