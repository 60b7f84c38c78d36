/* graft chat: a conversation in the terminal, or over a pipe a turn a line. */
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>

#include <histedit.h>

#include "base/json.h"
#include "cli/models.h"
#include "graft/template.h"

typedef struct chat_args {
    const char *system, *template_file, *prompt;
} chat_args;

#define AT(field) offsetof(chat_args, field)
static const cli_option chat_options[] = {
    {.name = "system",
     .aliases = "system-prompt sys",
     .kind = CLI_TEXT,
     .offset = AT(system),
     .metavar = "TEXT",
     .help = "system message"},
    {.name = "prompt",
     .letter = 'p',
     .kind = CLI_TEXT,
     .offset = AT(prompt),
     .metavar = "TEXT",
     .help = "say this, print the answer, and end"},
    {.name = "chat-template-file",
     .aliases = "chat-template-path",
     .kind = CLI_TEXT,
     .offset = AT(template_file),
     .metavar = "F",
     .help = "a Jinja file instead of the model's chat template"},
};
#undef AT
static const cli_group chat_group = {"Conversation", chat_options, GR_COUNT(chat_options)};

static graft_status defaults(cli_args *args, graft_error *err) {
    cli_sampling_args *s = gr_arena_alloc(&args->arena, sizeof *s);
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    args->base[1] = gr_arena_alloc(&args->arena, sizeof(cli_model_args));
    args->base[2] = gr_arena_alloc(&args->arena, sizeof(chat_args));
    if (!s || !args->base[0] || !args->base[1] || !args->base[2]) return gr_fail_memory(err);
    cli_sampling_defaults(s);
    s->n = 1024;
    args->base[3] = s;
    return GRAFT_OK;
}

typedef struct chat {
    cli_models m;
    graft_session *session;
    graft_template *tmpl;
    graft_generate_options o;
    gr_buf messages; /* JSON objects, separated by commas */
    size_t system;   /* bytes of the system's message, which /clear keeps */
    bool verbose, terminal, json;
} chat;

static void add_message(chat *c, const char *role, const char *text, size_t len) {
    gr_buf_add_format(&c->messages, "%s{\"role\": \"%s\", \"content\": ", c->messages.len ? ", " : "", role);
    gr_json_add_text(&c->messages, text, len);
    gr_buf_add_char(&c->messages, '}');
}

static graft_status load_template(chat *c, const cli_model_args *m, const chat_args *a, graft_context *ctx,
                                  graft_error *err) {
    if (a->template_file) {
        char *text;
        size_t len;
        GR_TRY(gr_read_file(NULL, a->template_file, (size_t)1 << 20, &text, &len, err));
        graft_status st = graft_template_parse(ctx, text, len, a->template_file, &c->tmpl, err);
        gr_free(NULL, text);
        return st;
    }
    size_t len;
    const char *text = graft_tokenizer_chat_template(c->m.tok, NULL, &len);
    if (!text)
        return gr_fail(err, GRAFT_ERR_NOT_FOUND,
                       "%s: expected a chat template, found none; give one with --chat-template-file or use "
                       "graft generate",
                       m->model);
    return graft_template_parse(ctx, text, len, "chat_template", &c->tmpl, err);
}

static void add_special(gr_buf *b, const graft_tokenizer *tok, const char *name, graft_special_token which) {
    int32_t id = graft_tokenizer_special_id(tok, which);
    size_t len = 0;
    const char *text = id < 0 ? NULL : graft_tokenizer_token_text(tok, id, &len);
    gr_buf_add_format(b, ", \"%s\": ", name);
    gr_json_add_text(b, text ? text : "", len);
}

/* Ids of the conversation so far, ready for the assistant's turn. */
static graft_status render(chat *c, int32_t **ids, size_t *n, graft_error *err) {
    gr_buf json;
    gr_buf_init(&json, NULL);
    gr_buf_add_text(&json, "{\"messages\": [");
    gr_buf_add(&json, gr_buf_text(&c->messages), c->messages.len);
    /* Templates ask whether these are none, as transformers gives them; undefined is not none. */
    gr_buf_add_text(&json, "], \"tools\": null, \"documents\": null, \"add_generation_prompt\": true");
    add_special(&json, c->m.tok, "bos_token", GRAFT_TOKEN_BOS);
    add_special(&json, c->m.tok, "eos_token", GRAFT_TOKEN_EOS);
    gr_buf_add_char(&json, '}');
    char *text = NULL;
    size_t len;
    graft_status st = gr_buf_status(&json, err);
    if (st == GRAFT_OK) st = graft_template_render(c->tmpl, json.data, json.len, NULL, &text, &len, NULL, err);
    gr_buf_free(&json);
    if (st == GRAFT_OK) st = graft_tokenizer_encode(c->m.tok, text, len, 0, ids, n, err);
    graft_free(c->m.ctx, text);
    return st;
}

static int print_piece(void *user, size_t sequence, const char *piece, size_t len) {
    (void)sequence;
    chat *c = user;
    if (c->terminal) cli_print_text(stdout, piece, len);
    else fwrite(piece, 1, len, stdout);
    return fflush(stdout) != 0;
}

static void print_json(const graft_generation *g, const graft_generate_stats *s) {
    static const char *const finishes[] = {"stop", "length", "cancelled"};
    gr_buf b;
    gr_buf_init(&b, NULL);
    gr_buf_add_text(&b, "{\"role\": \"assistant\", \"content\": ");
    gr_json_add_text(&b, g->text, g->len);
    gr_buf_add_format(&b,
                      ", \"finish_reason\": \"%s\", \"prompt_tokens\": %zu, \"reused_tokens\": %zu, "
                      "\"completion_tokens\": %zu",
                      finishes[g->finish], s->prompt_tokens, s->reused_tokens, s->new_tokens);
    if (s->proposed_tokens)
        gr_buf_add_format(&b, ", \"draft_n\": %zu, \"draft_n_accepted\": %zu", s->proposed_tokens, s->accepted_tokens);
    gr_buf_add_char(&b, '}');
    fwrite(b.data, 1, b.len, stdout);
    gr_buf_free(&b);
}

static graft_status answer(chat *c, const char *text, size_t len, graft_error *err) {
    size_t before = c->messages.len;
    add_message(c, "user", text, len);
    int32_t *ids = NULL;
    size_t n;
    graft_generation g = {0};
    graft_status st = gr_buf_status(&c->messages, err);
    if (st == GRAFT_OK) st = render(c, &ids, &n, err);
    graft_input_ids p = {.ids = ids, .n = st == GRAFT_OK ? n : 0};
    if (st == GRAFT_OK) st = graft_generate(c->session, &p, 1, 1, &c->o, c->json ? NULL : print_piece, c, &g, err);
    gr_free(NULL, ids);
    if (st != GRAFT_OK) {
        c->messages.len = before;
        return st;
    }
    graft_generate_stats s = graft_session_stats(c->session);
    if (c->json) print_json(&g, &s);
    fputc('\n', stdout);
    add_message(c, "assistant", g.text, g.len);
    graft_generation_free(c->m.ctx, &g);
    if (c->verbose)
        fprintf(stderr, "%zu prompt tokens (%zu reused) in %.3f s, %zu new in %.3f s\n", s.prompt_tokens,
                s.reused_tokens, s.prompt_seconds, s.new_tokens, s.new_seconds);
    return cli_write_stdout("", 0, err);
}

static const char *prompt_text(EditLine *e) {
    (void)e;
    return "> ";
}

/* Ctrl-C during an answer ends the answer, not the conversation; so does a turn for which the model has no
 * positions left. */
static graft_status answer_or_stop(chat *c, const char *text, size_t len, graft_error *err) {
    graft_status st = answer(c, text, len, err);
    if (st == GRAFT_ERR_LIMIT) {
        fputs("graft chat: ", stderr);
        cli_print_text(stderr, err->text, strlen(err->text));
        fputs("; /clear forgets the conversation\n", stderr);
        return GRAFT_OK;
    }
    if (st != GRAFT_ERR_CANCELLED) return st;
    graft_context_reset_cancel(c->m.ctx);
    cli_forget_interrupt();
    fputs("\n(stopped; Ctrl-D ends)\n", stdout);
    return GRAFT_OK;
}

static bool is_word(const char *line, int n, const char *word) {
    return (size_t)n == strlen(word) && !strncmp(line, word, (size_t)n);
}

static graft_status talk_terminal(chat *c, graft_error *err) {
    /* Else libedit drops what is not ASCII. Numbers are not touched. */
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8") != 0) setlocale(LC_CTYPE, "C.UTF-8");
    EditLine *e = el_init("graft", stdin, stdout, stderr);
    History *h = history_init();
    if (!e || !h) return gr_fail_memory(err);
    HistEvent event;
    history(h, &event, H_SETSIZE, 1000);
    el_set(e, EL_PROMPT, prompt_text);
    el_set(e, EL_EDITOR, "emacs");
    el_set(e, EL_HIST, history, h);
    el_source(e, NULL);
    graft_status st = GRAFT_OK;
    int n;
    const char *line;
    while (st == GRAFT_OK && (line = el_gets(e, &n)) && n > 0) {
        if (n > 0 && line[n - 1] == '\n') n--;
        if (n == 0) continue;
        history(h, &event, H_ENTER, line);
        if (is_word(line, n, "/quit") || is_word(line, n, "/exit")) break;
        if (is_word(line, n, "/clear")) {
            c->messages.len = c->system;
            continue;
        }
        if (is_word(line, n, "/help")) {
            fprintf(stderr, "/clear forgets the conversation, /quit (or Ctrl-D) ends it, Ctrl-C stops an answer\n");
            continue;
        }
        st = answer_or_stop(c, line, (size_t)n, err);
    }
    history_end(h);
    el_end(e);
    return st;
}

static graft_status talk_pipe(chat *c, graft_error *err) {
    char *line = NULL;
    size_t cap = 0;
    graft_status st = GRAFT_OK;
    for (ssize_t n; st == GRAFT_OK && (n = getline(&line, &cap, stdin)) >= 0;) {
        if (n > 0 && line[n - 1] == '\n') n--;
        if (n > 0) st = answer(c, line, (size_t)n, err);
    }
    free(line);
    return st;
}

static graft_status converse(chat *c, graft_context *ctx, cli_args *args, graft_error *err) {
    const cli_model_args *m = args->base[1];
    const chat_args *a = args->base[2];
    GR_TRY(cli_models_open(ctx, args, m, true, CLI_ONE_ADAPTER, &c->m, err));
    GR_TRY(load_template(c, m, a, ctx, err));
    GR_TRY(cli_sampling_finish(&c->m, args->base[3], &c->o, err));
    GR_TRY(graft_session_new(c->m.model, c->m.tok, &c->session, err));
    c->verbose = ((const cli_common *)args->base[0])->verbose != 0;
    c->json = ((const cli_common *)args->base[0])->json != 0;
    c->terminal = cli_is_terminal(stdout);
    if (a->system) add_message(c, "system", a->system, strlen(a->system));
    c->system = c->messages.len;
    if (a->prompt) return answer(c, a->prompt, strlen(a->prompt), err);
    if (!cli_is_terminal(stdin)) return talk_pipe(c, err);
    fputs("Ctrl-D or /quit ends, /clear forgets the conversation, Ctrl-C stops an answer.\n", stderr);
    return talk_terminal(c, err);
}

static graft_status run(graft_context *ctx, cli_args *args, graft_error *err) {
    chat c = {0};
    gr_buf_init(&c.messages, NULL);
    graft_status st = converse(&c, ctx, args, err);
    gr_buf_free(&c.messages);
    graft_session_free(c.session);
    graft_template_free(c.tmpl);
    cli_models_close(&c.m);
    return st;
}

const cli_command cli_command_chat = {
    .name = "chat",
    .summary = "talk with a model",
    .synopsis = "-m M [--adapter DIR] [options]",
    .about = "A conversation in the terminal, with the model's own chat template. In the terminal /clear "
             "forgets it, /help "
             "names what there is and /quit ends. Over a pipe each line of standard input is a turn. "
             "With --json an answer is a JSON object on a line.",
    .groups = {&cli_common_group, &cli_model_group, &chat_group, &cli_sampling_group},
    .n_groups = 4,
    .defaults = defaults,
    .run = run,
    .examples = "  graft chat -m model.gguf\n  graft chat -m model.gguf --adapter out -p 'What is a fern?'\n",
};
