/* Room 10, cli: the program. One file a command (cmd_NAME.c) and one line in command.def. Commands include base/ and
 * the public headers only, so that whatever the program does the library can do too. This header: the option tables,
 * from which parsing, YAML configuration, --help, man pages and shell completions are all made. */
#ifndef GR_CLI_H
#define GR_CLI_H

#include "base/base.h"

/* --- Options ---------------------------------------------------------------------------------------------------- */

typedef enum cli_kind {
    CLI_FLAG,  /* int 0 or 1: --x, --no-x, --x=true, --x false */
    CLI_TRI,   /* graft_choice: 0 unset, 1 yes, 2 no; written as CLI_FLAG */
    CLI_INT,   /* int */
    CLI_INT64, /* int64_t */
    CLI_REAL,  /* double */
    CLI_SIZE,  /* uint64_t, bytes: 512M, 2G, 1.5GiB */
    CLI_TEXT,  /* const char * */
    CLI_LIST   /* const char *const * at offset, size_t at offset_n: repeatable, "a,b", or several words */
} cli_kind;

typedef struct cli_option {
    const char *name;    /* with dashes; underscores are accepted as well */
    const char *aliases; /* other names, separated by blanks, or NULL */
    char letter;         /* -m, or 0 */
    cli_kind kind;
    size_t offset;   /* in the group's struct */
    size_t offset_n; /* CLI_LIST */
    const char *metavar, *help;
    const char *choices; /* CLI_TEXT: allowed words separated by blanks, or NULL */
    bool comma;          /* CLI_LIST: a word is cut at commas */
} cli_option;

/* Options that fill one struct. */
typedef struct cli_group {
    const char *title;
    const cli_option *options;
    size_t n;
} cli_group;

enum { CLI_MAX_GROUPS = 8 };

typedef struct cli_command cli_command;

/* What parsing needs beside the table: where each group's struct is, and memory for texts. */
typedef struct cli_args {
    const cli_command *command;
    void *base[CLI_MAX_GROUPS];
    gr_arena arena;                /* owns every text and list */
    const char **words;            /* what is no option */
    size_t n_words, cap_words;
    bool *given[CLI_MAX_GROUPS];   /* which options stood on the command line */
    bool help;
    int argc; /* as cli_parse got them */
    char **argv;
    const char *job_file; /* set before cli_parse: options of job `job` of this file come between --config and flags */
    size_t job;
    const char *job_name; /* filled where the job has one */
} cli_args;

struct cli_command {
    const char *name, *summary;
    const char *synopsis; /* after "graft NAME" */
    const char *about;    /* paragraphs for help and the man page */
    const cli_group *groups[CLI_MAX_GROUPS];
    size_t n_groups;
    /* Makes the structs with their defaults (in args->arena, into args->base[i]). */
    graft_status (*defaults)(cli_args *args, graft_error *err);
    /* Exit status 0 or, with err filled, the failure. */
    graft_status (*run)(graft_context *ctx, cli_args *args, graft_error *err);
    size_t min_words, max_words;
    const char *examples; /* NULL or lines for help and the man page */
};

#define X(name) extern const cli_command cli_command_##name;
#include "cli/command.def"
#undef X

extern const cli_command *const cli_commands[];
extern const size_t cli_n_commands;

/* Parses argv (without program and command names): --config files first, then flags, which win. GRAFT_ERR_ARGUMENT
 * with a sentence that names the nearest option. */
graft_status cli_parse(cli_args *args, int argc, char **argv, graft_error *err);
void cli_args_free(cli_args *args);
bool cli_given(const cli_args *args, const char *name);
/* The option called `name` in any of its spellings, or NULL. */
const cli_option *cli_find_option(const cli_args *args, const char *name);
/* Sets one option from text as if it stood on the command line or in a configuration file (`where` for errors). */
/* `fresh`: what a list held before goes. */
graft_status cli_set(cli_args *args, const char *name, const char *value, bool fresh, const char *where, graft_error *err);
/* Reads a YAML mapping of options. */
graft_status cli_load_config(cli_args *args, const char *path, graft_error *err);
/* A jobs file is such a mapping with a list of mappings under `jobs`, one a job, which stand over it; `name` in them is the
 * job's. How many there are. */
graft_status cli_count_jobs(const char *path, size_t *n, graft_error *err);
graft_status cli_load_job(cli_args *args, graft_error *err);
/* The option nearest to a mistyped name, NULL when none is near. */
const char *cli_nearest(const cli_args *args, const char *name);

/* --- Help ----------------------------------------------------------------------------------------------------------- */

void cli_print_usage(FILE *to);
void cli_print_help(const cli_command *command, FILE *to);
void cli_print_man(const cli_command *command, FILE *to); /* NULL: graft(1) itself */
bool cli_print_completion(const char *shell, FILE *to);   /* bash, zsh, fish; false: another one */

/* --- Shared by commands ------------------------------------------------------------------------------------------- */

/* Options that every command has; base[0] is always this struct and cli_common_group its table. */
typedef struct cli_common {
    int threads;
    const char *cpu, *device;
    int json, quiet, verbose;
} cli_common;
extern const cli_group cli_common_group;

/* Model and adapters. */
typedef struct cli_model_args {
    const char *model;
    const char *const *adapters;
    size_t n_adapters;
    const char *dtype, *task_type;
    int load_in_4bit, load_in_8bit;
    const char *bnb_4bit_quant_type;
    int bnb_4bit_use_double_quant;
    const char *activations;
    double llm_int8_threshold;
    bool trainable; /* no option: adapters are loaded with gradients */
} cli_model_args;
extern const cli_group cli_model_group;

/* What is read and what is written, of commands that change formats. */
typedef struct cli_conversion {
    const char *model, *output;
} cli_conversion;
extern const cli_group cli_conversion_group;
/* Whether a name is that of a GGUF file. */
bool cli_is_gguf(const char *path);

/* Where the model named by the user is: a path as given, or an ORG/NAME found in the cache or downloaded. Memory of the
 * arena. NULL or missing: a usage error. */
graft_status cli_model_path(graft_context *ctx, cli_args *args, const char *model, char **path, graft_error *err);
/* "f32", "bf16", or NULL for auto, from any accepted spelling. */
const char *cli_dtype_name(const char *text);

/* True when `stream` is a terminal and progress may be drawn. */
bool cli_is_terminal(FILE *stream);
/* Draws the progress of a download on a terminal (graft_hub_progress_fn); cli_clear_line takes it away. */
void cli_show_download(void *user, const char *file, uint64_t done, uint64_t total);
void cli_clear_line(void);
/* Writes text that comes from a file, a server or a model for people to read: bytes that would command a terminal
 * (all controls but tab and newline) become '?'. */
void cli_print_text(FILE *to, const char *text, size_t len);
/* Ends an interrupt that was answered: the next Ctrl-C is a first one again. */
void cli_forget_interrupt(void);
/* Reads all of stdin; freed with gr_free(NULL, ...). */
graft_status cli_read_stdin(char **out, size_t *len, graft_error *err);
/* Writes and flushes stdout; an error (full disk, closed pipe) is reported. */
graft_status cli_write_stdout(const char *text, size_t len, graft_error *err);
/* A JSON object printed as it is, or for people: a line a member, nested ones indented. */
graft_status cli_print_facts(const char *json, bool as_json, graft_error *err);
/* "1.2 GiB" */
const char *cli_bytes_text(double bytes, char *buf, size_t size);

#endif
