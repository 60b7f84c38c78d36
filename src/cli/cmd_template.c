/* graft template: renders a chat template with the variables of one JSON object. */
#include "base/json.h"
#include "cli/cli.h"
#include "graft/template.h"
#include "graft/tokenizer.h"

typedef struct template_args {
    const char *model, *file, *name;
} template_args;

#define AT(field) offsetof(template_args, field)
static const cli_option template_options[] = {
    {.name = "model",
     .aliases = "model-name-or-path",
     .letter = 'm',
     .kind = CLI_TEXT,
     .offset = AT(model),
     .metavar = "M",
     .help = "take the chat template (and BOS and EOS, unless given) of this model"},
    {.name = "chat-template-file",
     .aliases = "chat-template-path",
     .kind = CLI_TEXT,
     .offset = AT(file),
     .metavar = "F",
     .help = "take the template from this file"},
    {.name = "template-name",
     .kind = CLI_TEXT,
     .offset = AT(name),
     .metavar = "NAME",
     .help = "which of the model's named templates"},
};
#undef AT
static const cli_group template_group = {"Template", template_options, GR_COUNT(template_options)};

static graft_status defaults(cli_args *args, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    args->base[1] = gr_arena_alloc(&args->arena, sizeof(template_args));
    return args->base[0] && args->base[1] ? GRAFT_OK : gr_fail_memory(err);
}

/* "NAME": "text of the special token". */
static void add_token(gr_buf *b, const graft_tokenizer *tok, const char *name, graft_special_token which) {
    int32_t id = graft_tokenizer_special_id(tok, which);
    size_t len;
    const char *text = id < 0 ? NULL : graft_tokenizer_token_text(tok, id, &len);
    if (!text) return;
    gr_buf_add_format(b, "\"%s\": ", name);
    gr_json_add_text(b, text, len);
    gr_buf_add_char(b, ',');
}

/* What transformers always gives a template, and the model's special tokens, stand in front of the object's
 * own members, which win because they come later. (A template that asks whether tools are none must not find
 * them undefined.) */
static graft_status with_defaults(const graft_tokenizer *tok, const char *json, size_t len, gr_buf *b,
                                  graft_error *err) {
    gr_json_reader r;
    gr_json_init(&r, "standard input", json, len);
    if (gr_json_peek(&r) == GR_JSON_OBJECT) {
        GR_TRY(gr_json_skip(&r, err));
        GR_TRY(gr_json_end(&r, err));
    }
    size_t i = 0;
    while (i < len && (json[i] == ' ' || json[i] == '\n' || json[i] == '\t' || json[i] == '\r')) i++;
    if (i >= len || json[i] != '{') return gr_fail(err, GRAFT_ERR_FORMAT, "standard input: expected a JSON object");
    gr_buf_add_text(b, "{\"tools\": null,\"documents\": null,\"add_generation_prompt\": false,");
    if (tok) {
        add_token(b, tok, "bos_token", GRAFT_TOKEN_BOS);
        add_token(b, tok, "eos_token", GRAFT_TOKEN_EOS);
        add_token(b, tok, "pad_token", GRAFT_TOKEN_PAD);
        add_token(b, tok, "unk_token", GRAFT_TOKEN_UNK);
    }
    size_t k = i + 1;
    while (k < len && (json[k] == ' ' || json[k] == '\n' || json[k] == '\t' || json[k] == '\r')) k++;
    if (k < len && json[k] == '}') b->len--; /* an empty object: no comma before its end */
    gr_buf_add(b, json + i + 1, len - i - 1);
    return gr_buf_status(b, err);
}

static graft_status render(graft_context *ctx, const char *text, size_t text_len, const char *name,
                           const char *json, size_t len, graft_error *err) {
    graft_template *t;
    char *out;
    size_t out_len;
    GR_TRY(graft_template_parse(ctx, text, text_len, name, &t, err));
    graft_status st = graft_template_render(t, json, len, NULL, &out, &out_len, NULL, err);
    graft_template_free(t);
    if (st != GRAFT_OK) return st;
    st = cli_write_stdout(out, out_len, err);
    graft_free(ctx, out);
    return st;
}

static graft_status run(graft_context *ctx, cli_args *args, graft_error *err) {
    const template_args *a = args->base[1];
    if (!a->model && !a->file) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --model or --chat-template-file");
    graft_tokenizer *tok = NULL;
    char *json = NULL, *file = NULL, *path;
    size_t len = 0, file_len = 0;
    gr_buf b;
    gr_buf_init(&b, NULL);
    graft_status st;
    GR_GO(done, cli_read_stdin(&json, &len, err));
    if (a->model) {
        GR_GO(done, cli_model_path(ctx, args, a->model, &path, err));
        GR_GO(done, graft_tokenizer_load(ctx, path, &tok, err));
    }
    GR_GO(done, with_defaults(tok, json, len, &b, err));
    if (a->file) {
        GR_GO(done, gr_read_file(NULL, a->file, (size_t)1 << 20, &file, &file_len, err));
        GR_GO(done, render(ctx, file, file_len, a->file, b.data, b.len, err));
    } else {
        size_t text_len;
        const char *text = graft_tokenizer_chat_template(tok, a->name, &text_len);
        if (!text) {
            st = gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: expected a chat template%s%s, found none", a->model,
                         a->name ? " named " : "", a->name ? a->name : "");
            goto done;
        }
        GR_GO(done, render(ctx, text, text_len, "chat_template", b.data, b.len, err));
    }
done:
    gr_buf_free(&b);
    gr_free(NULL, json);
    gr_free(NULL, file);
    graft_tokenizer_free(tok);
    return st;
}

const cli_command cli_command_template = {
    .name = "template",
    .summary = "render a chat template",
    .synopsis = "[-m M | --chat-template-file F] <object.json",
    .about = "Reads one JSON object (messages, tools, add_generation_prompt, bos_token, eos_token and any "
             "further variables) from standard "
             "input and prints exactly the text that the model's chat template makes of it.",
    .groups = {&cli_common_group, &template_group},
    .n_groups = 2,
    .defaults = defaults,
    .run = run,
    .examples = "  echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], "
                "\"add_generation_prompt\": true}' | graft template -m model.gguf\n",
};
