/* Help, man pages and shell completions, all from the option tables. */
#include <math.h>

#include "cli/cli.h"

static bool same(const char *a, const char *b) { return strcmp(a, b) == 0; }

/* The default of an option as text, "" when it has none worth showing, as where NaN or INT64_MIN leave it to the model. */
static const char *default_text(const cli_option *o, const void *base, char *buf, size_t size) {
    const void *at = (const char *)base + o->offset;
    buf[0] = '\0';
    switch (o->kind) {
    case CLI_FLAG:
        if (*(const int *)at) snprintf(buf, size, "true");
        break;
    case CLI_TRI:
        break;
    case CLI_INT:
        snprintf(buf, size, "%d", *(const int *)at);
        break;
    case CLI_INT64:
        if (*(const int64_t *)at != INT64_MIN) snprintf(buf, size, "%lld", (long long)*(const int64_t *)at);
        break;
    case CLI_REAL:
        if (!isnan(*(const double *)at)) snprintf(buf, size, "%g", *(const double *)at);
        break;
    case CLI_SIZE:
        if (*(const uint64_t *)at) cli_bytes_text((double)*(const uint64_t *)at, buf, size);
        break;
    case CLI_TEXT:
        if (*(const char *const *)at) snprintf(buf, size, "%s", *(const char *const *)at);
        break;
    case CLI_LIST: {
        size_t n = *(const size_t *)(const void *)((const char *)base + o->offset_n), used = 0;
        const char *const *list = *(const char *const *const *)at;
        for (size_t i = 0; i < n && used < size; i++)
            used += (size_t)snprintf(buf + used, size - used, "%s%s", i ? "," : "", list[i]);
        break;
    }
    }
    return buf;
}

/* The structs with their defaults, so that help shows what a run would use. */
static bool with_defaults(const cli_command *command, cli_args *args) {
    *args = (cli_args){.command = command};
    gr_arena_init(&args->arena, NULL, 0);
    return command->defaults(args, NULL) == GRAFT_OK;
}

static void option_head(const cli_option *o, char *buf, size_t size) {
    int n = snprintf(buf, size, "%s%c%s--%s", o->letter ? "-" : " ", o->letter ? o->letter : ' ', o->letter ? ", " : "  ", o->name);
    bool flag = o->kind == CLI_FLAG || o->kind == CLI_TRI;
    if (!flag && n > 0 && (size_t)n < size) snprintf(buf + n, size - (size_t)n, " %s", o->metavar);
}

/* Text wrapped at 100 columns behind `indent` blanks; the cursor stands at column `at`. */
static void wrap(FILE *to, const char *text, int indent, int at) {
    while (*text) {
        int len = (int)strcspn(text, " \n");
        if (at > indent && at + 1 + len > 100) {
            fprintf(to, "\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            fputc(' ', to);
            at++;
        }
        fwrite(text, 1, (size_t)len, to);
        at += len;
        text += len;
        if (*text == '\n') {
            fprintf(to, "\n%*s", indent, "");
            at = indent;
        }
        if (*text) text++;
    }
    fputc('\n', to);
}

void cli_print_usage(FILE *to) {
    fprintf(to, "graft %s: adapts language models: fine-tune, measure, merge, generate\n\nusage: graft COMMAND [options]\n\n", graft_version());
    for (size_t i = 0; i < cli_n_commands; i++) fprintf(to, "  %-11s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
    fprintf(to, "\ngraft COMMAND --help tells a command's options. Every option may be written with dashes or underscores\n"
                "and may stand in a YAML file (--config FILE); flags win.\n");
}

void cli_print_help(const cli_command *command, FILE *to) {
    cli_args args;
    bool defaults = with_defaults(command, &args);
    fprintf(to, "usage: graft %s %s\n\n", command->name, command->synopsis);
    wrap(to, command->about ? command->about : command->summary, 0, 0);
    for (size_t g = 0; g < command->n_groups; g++) {
        fprintf(to, "\n%s:\n", command->groups[g]->title);
        for (size_t i = 0; i < command->groups[g]->n; i++) {
            const cli_option *o = &command->groups[g]->options[i];
            char head[128], value[128], text[1024];
            option_head(o, head, sizeof head);
            if (defaults) default_text(o, args.base[g], value, sizeof value);
            else value[0] = '\0';
            snprintf(text, sizeof text, "%s%s%s%s%s%s%s", o->help, o->choices ? " (" : "", o->choices ? o->choices : "",
                     o->choices ? ")" : "", value[0] ? " [" : "", value, value[0] ? "]" : "");
            fprintf(to, "  %-34s", head);
            if (strlen(head) >= 34) fprintf(to, "\n%36s", "");
            wrap(to, text, 36, 36);
        }
    }
    if (command->examples) fprintf(to, "\nexamples:\n%s", command->examples);
    cli_args_free(&args);
}

/* --- Man pages ---------------------------------------------------------------------------------------------------- */

static void roff(FILE *to, const char *text) {
    for (bool start = true; *text; start = *text == '\n', text++) {
        if (start && (*text == '.' || *text == '\'')) fputs("\\&", to);
        if (*text == '\\') fputs("\\e", to);
        else if (*text == '-') fputs("\\-", to);
        else fputc(*text, to);
    }
}

static void man_options(const cli_command *command, FILE *to) {
    cli_args args;
    bool defaults = with_defaults(command, &args);
    for (size_t g = 0; g < command->n_groups; g++) {
        fputs(".SS ", to);
        roff(to, command->groups[g]->title);
        fputc('\n', to);
        for (size_t i = 0; i < command->groups[g]->n; i++) {
            const cli_option *o = &command->groups[g]->options[i];
            char value[128] = "";
            fputs(".TP\n.B ", to);
            if (o->letter) fprintf(to, "\\-%c, ", o->letter);
            fputs("\\-\\-", to);
            roff(to, o->name);
            if (o->kind != CLI_FLAG && o->kind != CLI_TRI) fprintf(to, " \\fI%s\\fR", o->metavar);
            fputc('\n', to);
            roff(to, o->help);
            if (o->choices) {
                fputs("\nOne of: ", to);
                roff(to, o->choices);
                fputc('.', to);
            }
            if (defaults && *default_text(o, args.base[g], value, sizeof value)) {
                fputs("\nDefault: ", to);
                roff(to, value);
                fputc('.', to);
            }
            if (o->aliases) {
                fputs("\nAlso: ", to);
                roff(to, o->aliases);
                fputc('.', to);
            }
            fputc('\n', to);
        }
    }
    cli_args_free(&args);
}

static void man_head(FILE *to, const char *name, const char *summary) {
    fprintf(to, ".TH \"%s\" 1 \"\" \"graft %s\" \"User Commands\"\n.SH NAME\n%s \\- ", name, graft_version(), name);
    roff(to, summary);
    fputs("\n.SH SYNOPSIS\n", to);
}

static const char exit_text[] = ".SH EXIT STATUS\n0: done. 1: failed, with one sentence on standard error. 2: wrong usage.\n"
                                ".SH ENVIRONMENT\nHF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE: as huggingface_hub uses them. "
                                "NO_COLOR: no colours. GRAFT_CPU: caps the kernels (generic, avx2, avx512, avx512bf16, amx).\n";

void cli_print_man(const cli_command *command, FILE *to) {
    if (!command) {
        man_head(to, "graft", "adapts language models");
        fputs(".B graft\n.I COMMAND\n[options]\n.SH COMMANDS\n", to);
        for (size_t i = 0; i < cli_n_commands; i++) {
            fprintf(to, ".TP\n.B %s\n", cli_commands[i]->name);
            roff(to, cli_commands[i]->summary);
            fprintf(to, ". See\n.BR graft\\-%s (1).\n", cli_commands[i]->name);
        }
        fputs(exit_text, to);
        return;
    }
    char name[64];
    snprintf(name, sizeof name, "graft-%s", command->name);
    man_head(to, name, command->summary);
    fprintf(to, ".B graft %s\n", command->name);
    roff(to, command->synopsis);
    fputs("\n.SH DESCRIPTION\n", to);
    roff(to, command->about ? command->about : command->summary);
    fputs("\n.SH OPTIONS\n", to);
    man_options(command, to);
    fputs(exit_text, to);
    if (command->examples) {
        fputs(".SH EXAMPLES\n.nf\n", to);
        roff(to, command->examples);
        fputs(".fi\n", to);
    }
}

/* --- Completions ---------------------------------------------------------------------------------------------------- */

static void each_option(const cli_command *c, FILE *to, const char *before, const char *after) {
    for (size_t g = 0; g < c->n_groups; g++)
        for (size_t i = 0; i < c->groups[g]->n; i++) fprintf(to, "%s--%s%s", before, c->groups[g]->options[i].name, after);
}

static void complete_bash(FILE *to) {
    fputs("_graft() {\n  local cur=${COMP_WORDS[COMP_CWORD]} words\n  if [ \"$COMP_CWORD\" -eq 1 ]; then words='", to);
    for (size_t i = 0; i < cli_n_commands; i++) fprintf(to, "%s ", cli_commands[i]->name);
    fputs("help'\n  else case ${COMP_WORDS[1]} in\n", to);
    for (size_t i = 0; i < cli_n_commands; i++) {
        fprintf(to, "    %s) words='", cli_commands[i]->name);
        each_option(cli_commands[i], to, "", " ");
        fputs("--config --help' ;;\n", to);
    }
    fputs("  esac; fi\n  case $cur in -*|'') COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")) ;;\n"
          "  *) if [ \"$COMP_CWORD\" -eq 1 ]; then COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")); else COMPREPLY=($(compgen -f -- \"$cur\")); fi ;; esac\n"
          "}\ncomplete -o filenames -F _graft graft\n", to);
}

static void quoted(FILE *to, const char *text) {
    for (; *text; text++) {
        if (strchr("'[]:\\", *text)) fputc(*text == '\'' ? ' ' : '\\', to);
        if (*text != '\'') fputc(*text, to);
    }
}

static void complete_zsh(FILE *to) {
    fputs("#compdef graft\n_graft() {\n  if (( CURRENT == 2 )); then\n    local -a commands=(\n", to);
    for (size_t i = 0; i < cli_n_commands; i++) {
        fprintf(to, "      '%s:", cli_commands[i]->name);
        quoted(to, cli_commands[i]->summary);
        fputs("'\n", to);
    }
    fputs("    )\n    _describe command commands\n    return\n  fi\n  case $words[2] in\n", to);
    for (size_t i = 0; i < cli_n_commands; i++) {
        fprintf(to, "    %s) _arguments '*:file:_files'", cli_commands[i]->name);
        for (size_t g = 0; g < cli_commands[i]->n_groups; g++)
            for (size_t k = 0; k < cli_commands[i]->groups[g]->n; k++) {
                const cli_option *o = &cli_commands[i]->groups[g]->options[k];
                fprintf(to, " '--%s[", o->name);
                quoted(to, o->help);
                fputs(o->kind == CLI_FLAG || o->kind == CLI_TRI ? "]'" : "]:value:_files'", to);
            }
        fputs(" ;;\n", to);
    }
    fputs("  esac\n}\n_graft \"$@\"\n", to);
}

static void complete_fish(FILE *to) {
    for (size_t i = 0; i < cli_n_commands; i++) {
        fprintf(to, "complete -c graft -n __fish_use_subcommand -f -a %s -d '", cli_commands[i]->name);
        quoted(to, cli_commands[i]->summary);
        fputs("'\n", to);
        for (size_t g = 0; g < cli_commands[i]->n_groups; g++)
            for (size_t k = 0; k < cli_commands[i]->groups[g]->n; k++)
                fprintf(to, "complete -c graft -n '__fish_seen_subcommand_from %s' -l %s\n", cli_commands[i]->name,
                        cli_commands[i]->groups[g]->options[k].name);
    }
}

bool cli_print_completion(const char *shell, FILE *to) {
    if (same(shell, "bash")) complete_bash(to);
    else if (same(shell, "zsh")) complete_zsh(to);
    else if (same(shell, "fish")) complete_fish(to);
    else return false;
    return true;
}
