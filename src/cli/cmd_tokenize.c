/* graft tokenize, graft detokenize: text to ids and back, without weights. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/cli.h"
#include "graft/tokenizer.h"

typedef struct tokenize_args {
    const char *model;
    int jsonl, add_special, no_parse_special, skip_special;
} tokenize_args;

#define AT(field) offsetof(tokenize_args, field)
/* Options of both commands. */
#define SHARED_OPTIONS                                                                                                 \
    {.name = "model",                                                                                                  \
     .aliases = "model-name-or-path tokenizer",                                                                        \
     .letter = 'm',                                                                                                    \
     .kind = CLI_TEXT,                                                                                                 \
     .offset = AT(model),                                                                                              \
     .metavar = "M",                                                                                                   \
     .help = "Hugging Face directory, tokenizer.json or GGUF file; no weights are needed"},                            \
    {.name = "jsonl",                                                                                                  \
     .kind = CLI_FLAG,                                                                                                 \
     .offset = AT(jsonl),                                                                                              \
     .metavar = "",                                                                                                    \
     .help = "each line in and out is JSON"}

static const cli_option tokenize_options[] = {
    SHARED_OPTIONS,
    {.name = "add-special",
     .kind = CLI_FLAG,
     .offset = AT(add_special),
     .metavar = "",
     .help = "add BOS and EOS as the model's configuration does"},
    {.name = "no-parse-special",
     .kind = CLI_FLAG,
     .offset = AT(no_parse_special),
     .metavar = "",
     .help = "text of special tokens is ordinary text"},
};
static const cli_option detokenize_options[] = {
    SHARED_OPTIONS,
    {.name = "skip-special",
     .aliases = "skip-special-tokens",
     .kind = CLI_FLAG,
     .offset = AT(skip_special),
     .metavar = "",
     .help = "leave special tokens out"},
};
#undef SHARED_OPTIONS
#undef AT
static const cli_group tokenize_group = {"Tokens", tokenize_options, GR_COUNT(tokenize_options)};
static const cli_group detokenize_group = {"Tokens", detokenize_options, GR_COUNT(detokenize_options)};

static graft_status defaults(cli_args *args, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    args->base[1] = gr_arena_alloc(&args->arena, sizeof(tokenize_args));
    return args->base[0] && args->base[1] ? GRAFT_OK : gr_fail_memory(err);
}

/* Calls `line_fn` for each line of stdin (without its newline), or once for the whole of it. */
typedef graft_status (*line_fn)(const graft_tokenizer *tok, const tokenize_args *a, const char *line,
                                size_t len, gr_buf *out, graft_error *err);

static graft_status each_line(const graft_tokenizer *tok, const tokenize_args *a, line_fn fn, graft_error *err) {
    char *line = NULL;
    size_t cap = 0;
    long number = 0;
    const bool waits = lseek(STDIN_FILENO, 0, SEEK_CUR) < 0;
    graft_status st = GRAFT_OK;
    gr_buf out;
    gr_buf_init(&out, NULL);
    while (st == GRAFT_OK) {
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0) break;
        number++;
        if (n && line[n - 1] == '\n') n--;
        if (n && line[n - 1] == '\r') n--;
        gr_buf_clear(&out);
        st = fn(tok, a, line, (size_t)n, &out, err);
        if (st != GRAFT_OK) gr_error_prefix(err, st, "standard input:%ld", number);
        if (st == GRAFT_OK) gr_buf_add_char(&out, '\n');
        if (st == GRAFT_OK) st = gr_buf_status(&out, err);
        /* Who writes a line and waits for its answer gets it; a file is read in one go. */
        if (st == GRAFT_OK && (fwrite(out.data, 1, out.len, stdout) != out.len || (waits && fflush(stdout) != 0)))
            st = gr_fail_errno(err, GRAFT_ERR_IO, errno, "standard output: cannot write");
    }
    if (st == GRAFT_OK && ferror(stdin)) st = gr_fail_errno(err, GRAFT_ERR_IO, errno, "standard input: cannot read");
    if (st == GRAFT_OK) st = cli_write_stdout("", 0, err);
    free(line);
    gr_buf_free(&out);
    return st;
}

static graft_status encode_text(const graft_tokenizer *tok, const tokenize_args *a, const char *text,
                                size_t len, gr_buf *out, graft_error *err) {
    int32_t *ids;
    size_t n;
    unsigned flags =
        (a->add_special ? GRAFT_TOK_ADD_SPECIAL : 0) | (a->no_parse_special ? GRAFT_TOK_NO_PARSE_SPECIAL : 0);
    GR_TRY(graft_tokenizer_encode(tok, text, len, flags, &ids, &n, err));
    gr_buf_add_char(out, '[');
    for (size_t i = 0; i < n; i++) gr_buf_add_format(out, i ? ", %d" : "%d", ids[i]);
    gr_buf_add_char(out, ']');
    gr_free(NULL, ids);
    return GRAFT_OK;
}

static graft_status encode_line(const graft_tokenizer *tok, const tokenize_args *a, const char *line,
                                size_t len, gr_buf *out, graft_error *err) {
    if (!a->jsonl) return encode_text(tok, a, line, len, out, err);
    gr_json_reader r;
    gr_json_text raw;
    gr_json_init(&r, "line", line, len);
    GR_TRY(gr_json_read_text(&r, &raw, err));
    GR_TRY(gr_json_end(&r, err));
    char *text = gr_alloc(NULL, raw.len);
    if (!text) return gr_fail_memory(err);
    graft_status st = encode_text(tok, a, text, gr_json_unescape(&raw, text), out, err);
    gr_free(NULL, text);
    return st;
}

static graft_status read_ids(const char *line, size_t len, int32_t **ids, size_t *n, graft_error *err) {
    gr_json_reader r;
    gr_json_number number;
    bool more;
    int32_t *list = NULL;
    size_t count = 0, cap = 0;
    graft_status st;
    gr_json_init(&r, "line", line, len);
    GR_GO(done, gr_json_open(&r, GR_JSON_ARRAY, err));
    for (;;) {
        GR_GO(done, gr_json_next(&r, &more, err));
        if (!more) break;
        GR_GO(done, gr_json_read_number(&r, &number, err));
        if (!number.is_int || number.i < 0 || number.i > INT32_MAX) {
            st = gr_fail(err, GRAFT_ERR_FORMAT, "expected a token id, found %g", number.d);
            goto done;
        }
        GR_GO(done, gr_grow(NULL, (void **)&list, &cap, count + 1, sizeof *list, err));
        list[count++] = (int32_t)number.i;
    }
    st = gr_json_end(&r, err);
done:
    if (st != GRAFT_OK) {
        gr_free(NULL, list);
        return st;
    }
    *ids = list;
    *n = count;
    return GRAFT_OK;
}

static graft_status decode_line(const graft_tokenizer *tok, const tokenize_args *a, const char *line,
                                size_t len, gr_buf *out, graft_error *err) {
    int32_t *ids;
    size_t n, text_len;
    char *text;
    GR_TRY(read_ids(line, len, &ids, &n, err));
    graft_status st = graft_tokenizer_decode(tok, ids, n, a->skip_special ? GRAFT_TOK_SKIP_SPECIAL : 0, &text,
                                             &text_len, err);
    gr_free(NULL, ids);
    if (st != GRAFT_OK) return st;
    if (a->jsonl) gr_json_add_text(out, text, text_len);
    else gr_buf_add(out, text, text_len);
    gr_free(NULL, text);
    return GRAFT_OK;
}

static graft_status run_lines(graft_context *ctx, cli_args *args, line_fn fn, graft_error *err) {
    const tokenize_args *a = args->base[1];
    char *path;
    GR_TRY(cli_model_path(ctx, args, a->model, &path, err));
    graft_tokenizer *tok;
    GR_TRY(graft_tokenizer_load(ctx, path, &tok, err));
    graft_status st = each_line(tok, a, fn, err);
    graft_tokenizer_free(tok);
    return st;
}

static graft_status run_tokenize(graft_context *ctx, cli_args *args, graft_error *err) {
    return run_lines(ctx, args, encode_line, err);
}
static graft_status run_detokenize(graft_context *ctx, cli_args *args, graft_error *err) {
    return run_lines(ctx, args, decode_line, err);
}

const cli_command cli_command_tokenize = {
    .name = "tokenize",
    .summary = "turn text into token ids",
    .synopsis = "-m M [--jsonl] <text",
    .about = "Reads lines from standard input and writes the array of token ids of each. With --jsonl a line "
             "of input is a "
             "JSON string, so that it may hold newlines and any Unicode.",
    .groups = {&cli_common_group, &tokenize_group},
    .n_groups = 2,
    .defaults = defaults,
    .run = run_tokenize,
    .examples = "  printf '\"Hello\"\\n' | graft tokenize -m model.gguf --jsonl\n",
};

const cli_command cli_command_detokenize = {
    .name = "detokenize",
    .summary = "turn token ids into text",
    .synopsis = "-m M [--jsonl] <ids",
    .about = "Reads a JSON array of token ids a line from standard input and writes the text of each, with "
             "--jsonl as a JSON string.",
    .groups = {&cli_common_group, &detokenize_group},
    .n_groups = 2,
    .defaults = defaults,
    .run = run_detokenize,
    .examples = "  echo '[9906, 1917]' | graft detokenize -m model.gguf\n",
};
