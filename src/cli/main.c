/* The program's front: finds the command, parses its options, runs it, turns its status into an exit status. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/cli.h"

const cli_command *const cli_commands[] = {
#define X(name) &cli_command_##name,
#include "cli/command.def"
#undef X
};
const size_t cli_n_commands = GR_COUNT(cli_commands);

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

/* Read by the signal handler; the program has one context. */
static graft_context *volatile interrupted_context;
static volatile sig_atomic_t interrupts;

/* The first Ctrl-C asks the running call to stop at a safe point, a second one ends the program at once. */
static void on_interrupt(int signal_number) {
    (void)signal_number;
    if (++interrupts > 1 || !interrupted_context) _exit(EXIT_INTERRUPTED);
    graft_context_cancel(interrupted_context);
}

void cli_forget_interrupt(void) { interrupts = 0; }

static void complain(const char *command, const char *text) {
    fprintf(stderr, "graft%s%s: ", command ? " " : "", command ? command : "");
    cli_print_text(stderr, text, strlen(text));
    fputc('\n', stderr);
}

/* A standard stream that the caller closed would be the next file that is opened, and facts or errors would be written
 * into a model or a checkpoint. Opened for the other direction, it fails as a closed one does. */
static bool hold_standard_streams(void) {
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd ? O_RDONLY : O_WRONLY) != fd) return false;
    return true;
}

/* The status of a command that only prints. */
static int printed(void) {
    graft_error err;
    if (cli_write_stdout("", 0, &err) == GRAFT_OK && !ferror(stdout)) return EXIT_DONE;
    complain(NULL, "standard output: cannot write");
    return EXIT_FAILED;
}

static void log_line(void *user, graft_log_level level, const char *line) {
    const cli_common *common = user;
    if (common->quiet && level < GRAFT_LOG_WARNING) return;
    if (level == GRAFT_LOG_DEBUG && !common->verbose) return;
    if (level == GRAFT_LOG_WARNING) fputs("warning: ", stderr);
    cli_print_text(stderr, line, strlen(line));
    fputc('\n', stderr);
}

static const cli_command *find_command(const char *name) {
    for (size_t i = 0; i < cli_n_commands; i++)
        if (!strcmp(cli_commands[i]->name, name)) return cli_commands[i];
    return NULL;
}

static int unknown_command(const char *name) {
    const char *near = NULL;
    for (size_t i = 0; i < cli_n_commands && !near; i++)
        if (!strncmp(cli_commands[i]->name, name, 2)) near = cli_commands[i]->name;
    fprintf(stderr, "graft: unknown command %s%s%s\n", name, near ? "; the nearest is " : "; see graft --help", near ? near : "");
    return EXIT_USAGE;
}

static int make_context(const cli_common *common, graft_context **ctx) {
    graft_error err;
    const char *cpu = common->cpu ? common->cpu : getenv("GRAFT_CPU");
    graft_context_options o = {.n_threads = common->threads, .cpu = cpu && *cpu ? cpu : NULL, .log = log_line,
                               .log_user = (void *)(uintptr_t)common};
    if (graft_context_new(&o, ctx, &err) == GRAFT_OK) return EXIT_DONE;
    complain(NULL, err.text);
    return EXIT_USAGE;
}

static int run_command(const cli_command *command, int argc, char **argv) {
    cli_args args = {.command = command};
    gr_arena_init(&args.arena, NULL, 0);
    graft_error err = {0};
    int code = EXIT_DONE;
    if (cli_parse(&args, argc, argv, &err) != GRAFT_OK) {
        complain(command->name, err.text);
        cli_args_free(&args);
        return EXIT_USAGE;
    }
    if (args.help) {
        cli_print_help(command, stdout);
        cli_args_free(&args);
        return printed();
    }
    graft_context *ctx = NULL;
    code = make_context(args.base[0], &ctx);
    if (code == EXIT_DONE) {
        interrupted_context = ctx;
        struct sigaction action = {.sa_handler = on_interrupt};
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        graft_status st = command->run(ctx, &args, &err);
        if (st != GRAFT_OK) {
            complain(command->name, err.text);
            code = interrupts ? EXIT_INTERRUPTED : st == GRAFT_ERR_ARGUMENT ? EXIT_USAGE : EXIT_FAILED;
        }
        interrupted_context = NULL;
    }
    graft_context_free(ctx);
    cli_args_free(&args);
    return code;
}

static int print_for_tools(int argc, char **argv) {
    if (argc >= 3 && !strcmp(argv[1], "--man")) {
        const cli_command *command = strcmp(argv[2], "graft") ? find_command(argv[2]) : NULL;
        if (!command && strcmp(argv[2], "graft")) return unknown_command(argv[2]);
        cli_print_man(command, stdout);
        return printed();
    }
    if (!strcmp(argv[1], "--completion") && (argc < 3 || !cli_print_completion(argv[2], stdout))) {
        complain(NULL, "--completion: expected bash, zsh or fish");
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--man")) {
        complain(NULL, "--man: expected graft or a command");
        return EXIT_USAGE;
    }
    for (size_t i = 0; i < cli_n_commands && !strcmp(argv[1], "--commands"); i++) printf("%s\n", cli_commands[i]->name);
    return printed();
}

int main(int argc, char **argv) {
    if (!hold_standard_streams()) return EXIT_FAILED;
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        cli_print_usage(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || (!strcmp(argv[1], "help") && argc < 3)) {
        cli_print_usage(stdout);
        return printed();
    }
    if (!strcmp(argv[1], "--version")) {
        printf("graft %s\n", graft_version());
        return printed();
    }
    if (!strcmp(argv[1], "--man") || !strcmp(argv[1], "--completion") || !strcmp(argv[1], "--commands")) return print_for_tools(argc, argv);
    bool help = !strcmp(argv[1], "help");
    const cli_command *command = find_command(argv[help ? 2 : 1]);
    if (!command) return unknown_command(argv[help ? 2 : 1]);
    if (help) {
        cli_print_help(command, stdout);
        return printed();
    }
    return run_command(command, argc - 2, argv + 2);
}
