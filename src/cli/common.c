/* Options and small services that commands share. */
#include <errno.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/cli.h"
#include "graft/hub.h"

#define AT(field) offsetof(cli_common, field)
static const cli_option common_options[] = {
    {.name = "threads", .letter = 't', .kind = CLI_INT, .offset = AT(threads), .metavar = "N", .help = "CPU threads; 0: one per available CPU"},
    {.name = "cpu", .kind = CLI_TEXT, .offset = AT(cpu), .metavar = "LEVEL", .choices = "generic avx2 avx512 avx512bf16 amx",
     .help = "highest instruction set to use (also GRAFT_CPU)"},
    {.name = "device", .kind = CLI_TEXT, .offset = AT(device), .metavar = "D", .choices = "cpu", .help = "where to compute"},
    {.name = "json", .kind = CLI_FLAG, .offset = AT(json), .metavar = "", .help = "print facts as JSON"},
    {.name = "quiet", .letter = 'q', .kind = CLI_FLAG, .offset = AT(quiet), .metavar = "", .help = "no progress and no notes on standard error"},
    {.name = "verbose", .letter = 'v', .kind = CLI_FLAG, .offset = AT(verbose), .metavar = "", .help = "more notes on standard error"},
};
#undef AT
const cli_group cli_common_group = {"General", common_options, GR_COUNT(common_options)};

#define AT(field) offsetof(cli_model_args, field)
static const cli_option model_options[] = {
    {.name = "model", .aliases = "model-name-or-path hf-repo hf", .letter = 'm', .kind = CLI_TEXT, .offset = AT(model), .metavar = "M",
     .help = "model: a Hugging Face directory, a .gguf file, or ORG/NAME"},
    {.name = "adapter", .aliases = "lora peft", .kind = CLI_LIST, .offset = AT(adapters), .offset_n = offsetof(cli_model_args, n_adapters),
     .metavar = "DIR", .help = "adapter directory; DIR, NAME=DIR or NAME=DIR:SCALE"},
    {.name = "dtype", .aliases = "torch-dtype", .kind = CLI_TEXT, .offset = AT(dtype), .metavar = "T", .choices = "auto f32 bf16 float32 bfloat16",
     .help = "compute type; auto: bf16 where the CPU has it, else f32"},
    {.name = "task-type", .kind = CLI_TEXT, .offset = AT(task_type), .metavar = "T", .choices = "CAUSAL_LM SEQ_CLS MASKED_LM FEATURE_EXTRACTION",
     .help = "what stands on top; unset: what config.json, or the adapter, names"},
    {.name = "load-in-4bit", .kind = CLI_FLAG, .offset = AT(load_in_4bit), .metavar = "", .help = "hold the weights of the products in 4 bits, as bitsandbytes does"},
    {.name = "load-in-8bit", .kind = CLI_FLAG, .offset = AT(load_in_8bit), .metavar = "", .help = "the same in 8 bits"},
    {.name = "bnb-4bit-quant-type", .kind = CLI_TEXT, .offset = AT(bnb_4bit_quant_type), .metavar = "T", .choices = "nf4 fp4", .help = "what 4 bits stand for; nf4 unless given"},
    {.name = "bnb-4bit-use-double-quant", .aliases = "use-bnb-nested-quant", .kind = CLI_FLAG, .offset = AT(bnb_4bit_use_double_quant), .metavar = "",
     .help = "quantise the scales of the 4 bits too"},
    {.name = "activations", .kind = CLI_TEXT, .offset = AT(activations), .metavar = "T", .choices = "float int8",
     .help = "what products compute activations in: the compute type (float), or 8 bits over weights in int8 or a GGUF block format; unset: "
             "as a model of compressed-tensors says, else float"},
    {.name = "llm-int8-threshold", .kind = CLI_REAL, .offset = AT(llm_int8_threshold), .metavar = "X",
     .help = "with --activations int8 over weights in int8: elements of at least X are left out of the 8 bits; 0: none; unset: the model's, or 6"},
};
#undef AT
const cli_group cli_model_group = {"Model", model_options, GR_COUNT(model_options)};

#define AT(field) offsetof(cli_conversion, field)
static const cli_option conversion_options[] = {
    {.name = "model", .aliases = "model-name-or-path hf-repo", .letter = 'm', .kind = CLI_TEXT, .offset = AT(model), .metavar = "M",
     .help = "model: a Hugging Face directory, a .gguf file, or ORG/NAME"},
    {.name = "output", .aliases = "output-dir outfile", .letter = 'o', .kind = CLI_TEXT, .offset = AT(output), .metavar = "OUT",
     .help = "directory or .gguf file to write"},
};
#undef AT
const cli_group cli_conversion_group = {"Files", conversion_options, GR_COUNT(conversion_options)};

bool cli_is_gguf(const char *path) {
    size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".gguf") == 0;
}

bool cli_is_terminal(FILE *stream) { return isatty(fileno(stream)) == 1; }

void cli_print_text(FILE *to, const char *text, size_t len) {
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        /* U+0080 to U+009F, which some terminals take for the controls of 8 bits, are 0xC2 and this byte. */
        bool wide = c >= 0x80 && c < 0xA0 && i > 0 && (unsigned char)text[i - 1] == 0xC2;
        fputc((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F ? '?' : wide ? 0xBF : c, to);
    }
}

graft_status cli_read_stdin(char **out, size_t *len, graft_error *err) {
    gr_buf b;
    gr_buf_init(&b, NULL);
    for (;;) {
        char *to = gr_buf_reserve(&b, 1 << 16);
        if (!to) break;
        size_t n = fread(to, 1, 1 << 16, stdin);
        b.len += n;
        if (n == 0) break;
    }
    graft_status st = gr_buf_status(&b, err);
    if (st == GRAFT_OK && ferror(stdin)) st = gr_fail_errno(err, GRAFT_ERR_IO, errno, "standard input: cannot read");
    if (st == GRAFT_OK) st = gr_buf_take(&b, out, len, err);
    gr_buf_free(&b);
    return st;
}

graft_status cli_write_stdout(const char *text, size_t len, graft_error *err) {
    if (fwrite(text, 1, len, stdout) == len && fflush(stdout) == 0) return GRAFT_OK;
    return gr_fail_errno(err, GRAFT_ERR_IO, errno, "standard output: cannot write");
}

const char *cli_bytes_text(double bytes, char *buf, size_t size) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t u = 0;
    while (bytes >= 1024 && u + 1 < GR_COUNT(units)) {
        bytes /= 1024;
        u++;
    }
    snprintf(buf, size, u && bytes < 100 ? "%.1f %s" : "%.0f %s", bytes, units[u]);
    return buf;
}

const char *cli_dtype_name(const char *text) {
    if (!text || !strcmp(text, "auto")) return NULL;
    return text[0] == 'b' ? "bf16" : "f32";
}

void cli_show_download(void *user, const char *file, uint64_t done, uint64_t total) {
    (void)user;
    if (!cli_is_terminal(stderr)) return;
    char a[32], b[32];
    cli_bytes_text((double)done, a, sizeof a);
    cli_bytes_text((double)total, b, sizeof b);
    fprintf(stderr, total ? "\r%s  %s of %s\033[K" : "\r%s  %s\033[K", file, a, b);
    fflush(stderr);
}

void cli_clear_line(void) {
    if (cli_is_terminal(stderr)) fputs("\r\033[K", stderr);
}

/* ORG/NAME: one slash, no other path syntax. */
static bool is_hub_name(const char *text) {
    const char *slash = strchr(text, '/');
    if (!slash || slash == text || !slash[1] || strchr(slash + 1, '/') || text[0] == '.' || text[0] == '~') return false;
    return !cli_is_gguf(text);
}

graft_status cli_model_path(graft_context *ctx, cli_args *args, const char *model, char **path, graft_error *err) {
    if (!model || !*model) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --model M");
    char *copy;
    if (gr_path_exists(model)) {
        copy = gr_arena_strndup(&args->arena, model, strlen(model));
    } else if (is_hub_name(model)) {
        char *found;
        graft_hub_options o = {.progress = cli_show_download};
        graft_status st = graft_hub_find(ctx, model, &o, &found, NULL);
        if (st != GRAFT_OK) {
            st = graft_hub_download(ctx, model, &o, &found, err);
            cli_clear_line();
        }
        if (st != GRAFT_OK) return gr_error_prefix(err, st, "no file or directory %s, and from the Hub", model);
        copy = gr_arena_strndup(&args->arena, found, strlen(found));
        graft_free(ctx, found);
    } else {
        return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: no such file or directory", model);
    }
    if (!copy) return gr_fail_memory(err);
    *path = copy;
    return GRAFT_OK;
}

static void print_value(const gr_json_value *v, int indent) {
    for (const gr_json_value *c = v->child; c; c = c->next) {
        printf("%*s", indent, "");
        if (c->key) printf("%-*s ", 28 - indent, c->key);
        switch (c->kind) {
        case GR_JSON_OBJECT:
        case GR_JSON_ARRAY:
            if (c->child && !c->child->child && c->kind == GR_JSON_ARRAY && c->child->kind == GR_JSON_STRING) {
                for (const gr_json_value *i = c->child; i; i = i->next) {
                    if (i != c->child) fputs(", ", stdout);
                    cli_print_text(stdout, i->text, i->len);
                }
                putchar('\n');
                break;
            }
            putchar('\n');
            print_value(c, indent + 2);
            break;
        case GR_JSON_STRING:
            cli_print_text(stdout, c->text, c->len);
            putchar('\n');
            break;
        case GR_JSON_NUMBER:
            if (c->number.is_int) printf("%lld\n", (long long)c->number.i);
            else printf("%g\n", c->number.d);
            break;
        default: printf("%s\n", c->kind == GR_JSON_TRUE ? "yes" : c->kind == GR_JSON_FALSE ? "no" : "none"); break;
        }
    }
}

graft_status cli_print_facts(const char *json, bool as_json, graft_error *err) {
    if (as_json) {
        GR_TRY(cli_write_stdout(json, strlen(json), err));
        return cli_write_stdout("\n", 1, err);
    }
    gr_arena arena;
    gr_arena_init(&arena, NULL, 0);
    const gr_json_value *root;
    graft_status st = gr_json_parse(&arena, "facts", json, strlen(json), &root, err);
    if (st == GRAFT_OK) print_value(root, 0);
    gr_arena_free(&arena);
    return st == GRAFT_OK ? cli_write_stdout("", 0, err) : st;
}
