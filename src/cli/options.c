/* Parsing by table: command line and YAML end in cli_set, so both know the same names and the same checks. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "cli/cli.h"

typedef struct found {
    const cli_option *option;
    size_t group, index;
    bool negated; /* written --no-NAME */
} found;

/* Equal but for dashes and underscores. */
static bool same_name(const char *a, size_t n, const char *b) {
    for (size_t i = 0; i < n; i++) {
        char x = a[i] == '_' ? '-' : a[i], y = b[i] == '_' ? '-' : b[i];
        if (x != y || !y) return false;
    }
    return b[n] == '\0';
}

static bool has_name(const cli_option *o, const char *name, size_t n) {
    if (same_name(name, n, o->name)) return true;
    for (const char *p = o->aliases; p && *p;) {
        size_t len = strcspn(p, " ");
        char alias[64];
        if (len < sizeof alias) {
            memcpy(alias, p, len);
            alias[len] = '\0';
            if (same_name(name, n, alias)) return true;
        }
        p += len;
        p += strspn(p, " ");
    }
    return false;
}

static bool find_name(const cli_args *args, const char *name, size_t n, found *out) {
    bool no = n > 3 && !strncmp(name, "no", 2) && (name[2] == '-' || name[2] == '_');
    for (int pass = 0; pass < (no ? 2 : 1); pass++)
        for (size_t g = 0; g < args->command->n_groups; g++)
            for (size_t i = 0; i < args->command->groups[g]->n; i++) {
                const cli_option *o = &args->command->groups[g]->options[i];
                if (pass == 1 && o->kind != CLI_FLAG && o->kind != CLI_TRI) continue;
                if (has_name(o, pass ? name + 3 : name, pass ? n - 3 : n)) {
                    *out = (found){.option = o, .group = g, .index = i, .negated = pass == 1};
                    return true;
                }
            }
    return false;
}

static bool find_letter(const cli_args *args, char letter, found *out) {
    for (size_t g = 0; g < args->command->n_groups; g++)
        for (size_t i = 0; i < args->command->groups[g]->n; i++)
            if (args->command->groups[g]->options[i].letter == letter) {
                *out = (found){.option = &args->command->groups[g]->options[i], .group = g, .index = i};
                return true;
            }
    return false;
}

const cli_option *cli_find_option(const cli_args *args, const char *name) {
    found f;
    return find_name(args, name, strlen(name), &f) ? f.option : NULL;
}

bool cli_given(const cli_args *args, const char *name) {
    found f;
    return find_name(args, name, strlen(name), &f) && args->given[f.group][f.index];
}

/* --- Nearest name ------------------------------------------------------------------------------------------------- */

/* Levenshtein distance, capped by the short names that options have. */
static size_t distance(const char *a, const char *b) {
    size_t row[65], n = strlen(b);
    if (n > 64 || strlen(a) > 64) return SIZE_MAX;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            char x = a[i] == '_' ? '-' : a[i];
            size_t change = diagonal + (x != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = GR_MIN(change, GR_MIN(row[j], row[j + 1]) + 1);
        }
    }
    return row[n];
}

const char *cli_nearest(const cli_args *args, const char *name) {
    const char *best = NULL;
    size_t best_distance = GR_MAX(strlen(name) / 2, (size_t)2) + 1;
    for (size_t g = 0; g < args->command->n_groups; g++)
        for (size_t i = 0; i < args->command->groups[g]->n; i++) {
            const char *candidate = args->command->groups[g]->options[i].name;
            size_t d = distance(name, candidate);
            if (d < best_distance) {
                best_distance = d;
                best = candidate;
            }
        }
    return best;
}

static graft_status unknown(const cli_args *args, const char *where, const char *name, graft_error *err) {
    const char *near = cli_nearest(args, name);
    if (near) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: unknown option %s; the nearest is --%s", where, name, near);
    return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: unknown option %s; see graft %s --help", where, name, args->command->name);
}

/* --- Values --------------------------------------------------------------------------------------------------------- */

static bool parse_bool(const char *text, bool *out) {
    static const char *const yes[] = {"true", "1", "yes", "on"}, *const no[] = {"false", "0", "no", "off"};
    for (size_t i = 0; i < GR_COUNT(yes); i++) {
        if (!strcasecmp(text, yes[i])) return *out = true, true;
        if (!strcasecmp(text, no[i])) return *out = false, true;
    }
    return false;
}

static bool parse_size(const char *text, uint64_t *out) {
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (end == text || errno || !(v >= 0)) return false;
    static const char letters[] = "KMGT";
    if (*end && strchr(letters, toupper((unsigned char)*end))) {
        for (const char *p = letters;; p++) {
            v *= 1024;
            if (*p == toupper((unsigned char)*end)) break;
        }
        end++;
        if (*end == 'i') end++;
    }
    if (*end == 'B' || *end == 'b') end++;
    if (*end || v > 9e18) return false;
    *out = (uint64_t)v;
    return true;
}

static bool parse_int(const char *text, long long low, long long high, long long *out) {
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    /* 1e3 and 2.0 are what YAML and JSON writers may produce for whole numbers. */
    if (*end == '.' || *end == 'e' || *end == 'E') {
        double d = strtod(text, &end);
        if (d != floor(d) || fabs(d) > 9e15) return false;
        v = (long long)d;
    }
    if (end == text || *end || errno || v < low || v > high) return false;
    *out = v;
    return true;
}

static bool is_choice(const char *choices, const char *value) {
    for (const char *p = choices; *p;) {
        size_t len = strcspn(p, " ");
        if (strlen(value) == len && !strncmp(p, value, len)) return true;
        p += len;
        p += strspn(p, " ");
    }
    return false;
}

static graft_status push_item(cli_args *args, const cli_option *o, void *base, const char *text, size_t len, graft_error *err) {
    const char *const **list = (const char *const **)(void *)((char *)base + o->offset);
    size_t *n = (size_t *)(void *)((char *)base + o->offset_n);
    const char **grown = gr_arena_alloc(&args->arena, (*n + 1) * sizeof *grown);
    char *copy = gr_arena_strndup(&args->arena, text, len);
    if (!grown || !copy) return gr_fail_memory(err);
    if (*n) memcpy(grown, *list, *n * sizeof *grown);
    grown[*n] = copy;
    *list = grown;
    (*n)++;
    return GRAFT_OK;
}

static graft_status add_list(cli_args *args, const cli_option *o, void *base, bool fresh, const char *value, graft_error *err) {
    if (fresh) {
        *(const char *const **)(void *)((char *)base + o->offset) = NULL;
        *(size_t *)(void *)((char *)base + o->offset_n) = 0;
    }
    if (!o->comma) return push_item(args, o, base, value, strlen(value), err);
    for (const char *p = value;;) {
        size_t len = strcspn(p, ",");
        if (len) GR_TRY(push_item(args, o, base, p, len, err));
        if (!p[len]) return GRAFT_OK;
        p += len + 1;
    }
}

static graft_status bad_value(const cli_option *o, const char *where, const char *expected, const char *value, graft_error *err) {
    return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: --%s: expected %s, found \"%s\"", where, o->name, expected, value);
}

static graft_status store(cli_args *args, const found *f, const char *value, const char *where, bool fresh, graft_error *err) {
    const cli_option *o = f->option;
    void *base = args->base[f->group], *to = (char *)base + o->offset;
    long long whole;
    bool yes;
    switch (o->kind) {
    case CLI_FLAG:
    case CLI_TRI:
        if (!parse_bool(value, &yes)) return bad_value(o, where, "true or false", value, err);
        if (f->negated) yes = !yes;
        *(int *)to = yes ? 1 : o->kind == CLI_TRI ? 2 : 0;
        return GRAFT_OK;
    case CLI_INT:
        if (!parse_int(value, INT32_MIN, INT32_MAX, &whole)) return bad_value(o, where, "a whole number", value, err);
        *(int *)to = (int)whole;
        return GRAFT_OK;
    case CLI_INT64:
        if (!parse_int(value, INT64_MIN, INT64_MAX, &whole)) return bad_value(o, where, "a whole number", value, err);
        *(int64_t *)to = whole;
        return GRAFT_OK;
    case CLI_REAL: {
        char *end;
        double v = strtod(value, &end);
        if (end == value || *end || !isfinite(v)) return bad_value(o, where, "a number", value, err);
        *(double *)to = v;
        return GRAFT_OK;
    }
    case CLI_SIZE:
        if (!parse_size(value, (uint64_t *)to)) return bad_value(o, where, "a size such as 512M or 2G", value, err);
        return GRAFT_OK;
    case CLI_TEXT:
        if (o->choices && !is_choice(o->choices, value)) {
            char expected[256];
            snprintf(expected, sizeof expected, "one of %s", o->choices);
            return bad_value(o, where, expected, value, err);
        }
        if (!(*(const char **)to = gr_arena_strndup(&args->arena, value, strlen(value)))) return gr_fail_memory(err);
        return GRAFT_OK;
    case CLI_LIST:
        return add_list(args, o, base, fresh, value, err);
    }
    return gr_fail(err, GRAFT_ERR_INTERNAL, "option kind %d", (int)o->kind);
}

graft_status cli_set(cli_args *args, const char *name, const char *value, bool fresh, const char *where, graft_error *err) {
    found f;
    if (!find_name(args, name, strlen(name), &f)) return unknown(args, where, name, err);
    return store(args, &f, value, where, fresh, err);
}

/* --- Command line ----------------------------------------------------------------------------------------------------- */

static bool looks_like_option(const char *word) {
    if (word[0] != '-' || !word[1]) return false;
    if (isdigit((unsigned char)word[1]) || word[1] == '.') return false; /* -0.5 is a value */
    return !word[strcspn(word, " \n\t")]; /* and so is what argparse takes for one: text with a space in it */
}

typedef struct cursor {
    int argc, i;
    char **argv;
} cursor;

/* Handles one option whose value may stand in `inline_value` or in the following words. */
static graft_status take_option(cli_args *args, cursor *c, const found *f, const char *inline_value, graft_error *err) {
    const cli_option *o = f->option;
    bool fresh = !args->given[f->group][f->index];
    args->given[f->group][f->index] = true;
    if (inline_value) return store(args, f, inline_value, "command line", fresh, err);
    if (o->kind == CLI_FLAG || o->kind == CLI_TRI) {
        bool ignored;
        bool next = c->i < c->argc && strlen(c->argv[c->i]) > 1 && parse_bool(c->argv[c->i], &ignored);
        return store(args, f, next ? c->argv[c->i++] : "true", "command line", fresh, err);
    }
    if (c->i >= c->argc) return gr_fail(err, GRAFT_ERR_ARGUMENT, "command line: --%s: expected a value (%s), found nothing", o->name, o->metavar);
    if (looks_like_option(c->argv[c->i]))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "command line: --%s: expected a value (%s), found %.60s; a value that begins with - is written --%s=VALUE",
                       o->name, o->metavar, c->argv[c->i], o->name);
    GR_TRY(store(args, f, c->argv[c->i++], "command line", fresh, err));
    /* argparse's nargs="+": --target-modules q_proj v_proj */
    while (o->kind == CLI_LIST && o->comma && c->i < c->argc && !looks_like_option(c->argv[c->i]))
        GR_TRY(store(args, f, c->argv[c->i++], "command line", false, err));
    return GRAFT_OK;
}

static graft_status take_long(cli_args *args, cursor *c, graft_error *err) {
    const char *word = c->argv[c->i++], *name = word + 2;
    size_t n = strcspn(name, "=");
    const char *value = name[n] == '=' ? name + n + 1 : NULL;
    if (n == 4 && !strncmp(name, "help", 4)) return args->help = true, GRAFT_OK;
    if (n == 6 && !strncmp(name, "config", 6)) { /* read in the first pass */
        if (!value) c->i++;
        return GRAFT_OK;
    }
    found f;
    if (!find_name(args, name, n, &f)) {
        char text[128];
        snprintf(text, sizeof text, "%.*s", (int)GR_MIN(n, (size_t)100), name);
        const char *near = cli_nearest(args, text);
        if (near) return gr_fail(err, GRAFT_ERR_ARGUMENT, "unknown option --%s; the nearest is --%s", text, near);
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "unknown option --%s; see graft %s --help", text, args->command->name);
    }
    return take_option(args, c, &f, value, err);
}

static graft_status take_short(cli_args *args, cursor *c, graft_error *err) {
    const char *word = c->argv[c->i++];
    if (word[1] == 'h' && !word[2]) return args->help = true, GRAFT_OK;
    found f;
    const size_t n = strcspn(word + 1, "=");
    if (n > 1 && find_name(args, word + 1, n, &f)) /* llama.cpp's -hf */
        return take_option(args, c, &f, word[n + 1] ? word + n + 2 : NULL, err);
    if (!find_letter(args, word[1], &f))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "unknown option -%c; see graft %s --help", word[1], args->command->name);
    return take_option(args, c, &f, word[2] ? word + 2 + (word[2] == '=') : NULL, err);
}

static graft_status take_word(cli_args *args, const char *word, graft_error *err) {
    if (args->n_words >= args->command->max_words)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "unexpected word \"%s\"; usage: graft %s %s", word, args->command->name,
                       args->command->synopsis);
    const char **grown = gr_arena_alloc(&args->arena, (args->n_words + 1) * sizeof *grown);
    if (!grown) return gr_fail_memory(err);
    if (args->n_words) memcpy(grown, args->words, args->n_words * sizeof *grown);
    grown[args->n_words++] = word;
    args->words = grown;
    return GRAFT_OK;
}

static graft_status load_configs(cli_args *args, int argc, char **argv, graft_error *err) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (!strncmp(argv[i], "--config=", 9)) {
            GR_TRY(cli_load_config(args, argv[i] + 9, err));
        } else if (!strcmp(argv[i], "--config")) {
            if (i + 1 >= argc) return gr_fail(err, GRAFT_ERR_ARGUMENT, "--config: expected a file, found nothing");
            GR_TRY(cli_load_config(args, argv[++i], err));
        }
    }
    return GRAFT_OK;
}

graft_status cli_parse(cli_args *args, int argc, char **argv, graft_error *err) {
    for (size_t g = 0; g < args->command->n_groups; g++)
        if (!(args->given[g] = gr_arena_alloc(&args->arena, args->command->groups[g]->n + 1))) return gr_fail_memory(err);
    GR_TRY(args->command->defaults(args, err));
    for (int i = 0; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return args->help = true, GRAFT_OK;
    args->argc = argc;
    args->argv = argv;
    GR_TRY(load_configs(args, argc, argv, err));
    if (args->job_file) GR_TRY(cli_load_job(args, err));
    cursor c = {.argc = argc, .argv = argv};
    bool words_only = false;
    while (c.i < argc) {
        const char *word = argv[c.i];
        if (!words_only && !strcmp(word, "--")) {
            words_only = true;
            c.i++;
        } else if (!words_only && word[0] == '-' && word[1] == '-') {
            GR_TRY(take_long(args, &c, err));
        } else if (!words_only && looks_like_option(word)) {
            GR_TRY(take_short(args, &c, err));
        } else {
            GR_TRY(take_word(args, word, err));
            c.i++;
        }
    }
    if (args->n_words < args->command->min_words)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "a word is missing; usage: graft %s %s", args->command->name, args->command->synopsis);
    return GRAFT_OK;
}

void cli_args_free(cli_args *args) { gr_arena_free(&args->arena); }
