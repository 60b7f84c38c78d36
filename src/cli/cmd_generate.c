/* graft generate: continues a text. */
#include <math.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/models.h"
#include "graft/data.h"
#include "graft/encode.h"

typedef struct generate_args {
    const char *const *prompts;
    size_t n_prompts;
    const char *file, *const *data;
    size_t n_data;
    int64_t n_return, task_id;
    int echo;
} generate_args;

#define AT(field) offsetof(generate_args, field)
static const cli_option generate_options[] = {
    {.name = "prompt",
     .letter = 'p',
     .kind = CLI_LIST,
     .offset = AT(prompts),
     .offset_n = AT(n_prompts),
     .metavar = "TEXT",
     .help = "text to continue, or the fields of the adapter's template as a JSON object; repeatable"},
    {.name = "file",
     .letter = 'f',
     .kind = CLI_TEXT,
     .offset = AT(file),
     .metavar = "F",
     .help = "take the prompt from a file, without a last newline; - is standard input"},
    {.name = "data",
     .letter = 'd',
     .kind = CLI_LIST,
     .offset = AT(data),
     .offset_n = AT(n_data),
     .comma = true,
     .metavar = "F",
     .help = "JSON Lines files: each record's prompt (of classifiers and masked language models its text), "
             "with the adapter that its \"adapter\" names"},
    {.name = "num-return-sequences",
     .kind = CLI_INT64,
     .offset = AT(n_return),
     .metavar = "N",
     .help = "continuations a prompt"},
    {.name = "task-id",
     .kind = CLI_INT64,
     .offset = AT(task_id),
     .metavar = "N",
     .help = "the task of the prompts, where the adapter has several; records say it in \"task_ids\""},
    {.name = "echo", .kind = CLI_FLAG, .offset = AT(echo), .metavar = "", .help = "print the prompt too"},
};
#undef AT
static const cli_group generate_group = {"Prompt", generate_options, GR_COUNT(generate_options)};

static graft_status defaults(cli_args *args, graft_error *err) {
    generate_args *g = gr_arena_alloc(&args->arena, sizeof *g);
    cli_sampling_args *s = gr_arena_alloc(&args->arena, sizeof *s);
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    args->base[1] = gr_arena_alloc(&args->arena, sizeof(cli_model_args));
    if (!g || !s || !args->base[0] || !args->base[1]) return gr_fail_memory(err);
    g->n_return = 1;
    g->task_id = -1;
    cli_sampling_defaults(s);
    args->base[2] = g;
    args->base[3] = s;
    return GRAFT_OK;
}

static int print_piece(void *user, size_t sequence, const char *piece, size_t len) {
    (void)sequence;
    if (*(const bool *)user) cli_print_text(stdout, piece, len);
    else fwrite(piece, 1, len, stdout);
    return fflush(stdout) != 0;
}

static graft_status print_json(const graft_generation *g, size_t n, size_t n_return,
                               const graft_generate_stats *s, graft_error *err) {
    static const char *const finishes[] = {"stop", "length", "cancelled"};
    gr_buf b;
    gr_buf_init(&b, NULL);
    gr_buf_add_text(&b, "{\"choices\": [");
    for (size_t i = 0; i < n; i++) {
        gr_buf_add_format(&b, "%s{\"index\": %zu, \"prompt\": %zu, \"text\": ", i ? ", " : "", i, i / n_return);
        gr_json_add_text(&b, g[i].text, g[i].len);
        gr_buf_add_format(&b, ", \"finish_reason\": \"%s\", \"completion_tokens\": %zu",
                          finishes[g[i].finish], g[i].n_ids);
        if (g[i].score < 0) gr_buf_add_format(&b, ", \"score\": %.9g", g[i].score);
        gr_buf_add_char(&b, '}');
    }
    double decode = s->new_seconds > 0 ? (double)s->new_tokens / s->new_seconds : 0,
           prefill = s->prompt_seconds > 0 ? (double)s->prompt_tokens / s->prompt_seconds : 0;
    gr_buf_add_format(
        &b,
        "], \"prompt_tokens\": %zu, \"completion_tokens\": %zu, \"prompt_per_second\": %.1f, "
        "\"predicted_per_second\": %.1f, "
        "\"first_token_seconds\": %.4f, \"draft_n\": %zu, \"draft_n_accepted\": %zu, \"kv_bytes\": %zu}\n",
        s->prompt_tokens, s->new_tokens, prefill, decode, s->first_token_seconds, s->proposed_tokens,
        s->accepted_tokens, s->kv_bytes);
    graft_status st = gr_buf_status(&b, err);
    if (st == GRAFT_OK) st = cli_write_stdout(b.data, b.len, err);
    gr_buf_free(&b);
    return st;
}

static graft_status print_all(const generate_args *a, const graft_text *texts, const graft_generation *g,
                              size_t n, graft_error *err) {
    const bool terminal = cli_is_terminal(stdout);
    for (size_t i = 0; i < n; i++) {
        if (n > 1) printf("%s--- %zu\n", i ? "\n" : "", i + 1);
        if (a->echo) fputs(texts[i / (size_t)a->n_return].text, stdout);
        if (terminal) cli_print_text(stdout, g[i].text, g[i].len);
        else fwrite(g[i].text, 1, g[i].len, stdout);
        fputc('\n', stdout);
    }
    return cli_write_stdout("", 0, err);
}

typedef struct work {
    cli_models m;
    graft_session *session;
    graft_input_ids *prompts;
    graft_generation *out;
    graft_text *texts;
    const char **adapters;
    int32_t *tasks;
    graft_prompts *records;
    char *file;
    size_t n, n_texts, n_out; /* n_texts: whose ids are ours */
} work;

static graft_status read_prompts(work *w, const generate_args *a, graft_error *err) {
    size_t file_len = 0;
    if (a->file && !strcmp(a->file, "-")) GR_TRY(cli_read_stdin(&w->file, &file_len, err));
    else if (a->file) GR_TRY(gr_read_file(NULL, a->file, (size_t)64 << 20, &w->file, &file_len, err));
    if (file_len && w->file[file_len - 1] == '\n')
        w->file[--file_len] = '\0'; /* the end of a line of text, not a part of the prompt */
    size_t n_texts = a->n_prompts + (a->file != NULL);
    if (a->n_data) {
        graft_data_options data = {
            .paths = a->data, .n_paths = a->n_data, .model = w->m.model, .adapter = w->m.adapter};
        GR_TRY(graft_prompts_load(w->m.ctx, w->m.tok, &data, &w->records, err));
    }
    w->n = n_texts + (w->records ? graft_prompts_count(w->records) : 0);
    if (!w->n) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --prompt TEXT, --file F or --data F");
    if (a->n_return < 1 || a->n_return > 4096)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--num-return-sequences: expected 1 to 4096, found %lld",
                       (long long)a->n_return);
    w->n_out = w->n * (size_t)a->n_return;
    w->texts = gr_calloc(NULL, w->n, sizeof *w->texts);
    w->adapters = gr_calloc(NULL, w->n, sizeof *w->adapters);
    w->tasks = gr_calloc(NULL, w->n, sizeof *w->tasks);
    w->prompts = gr_calloc(NULL, w->n, sizeof *w->prompts);
    w->out = gr_calloc(NULL, w->n_out, sizeof *w->out);
    if (a->task_id < -1 || a->task_id > INT32_MAX)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--task-id: expected a task from 0 on, found %lld",
                       (long long)a->task_id);
    if (!w->texts || !w->adapters || !w->tasks || !w->prompts || !w->out) return gr_fail_memory(err);
    for (size_t i = n_texts; i < w->n; i++) {
        graft_prompt p;
        graft_prompts_get(w->records, i - n_texts, &p);
        w->prompts[i] = (graft_input_ids){p.ids, p.n};
        w->texts[i] = (graft_text){.text = p.text, .len = p.text_len, .pair = p.pair, .pair_len = p.pair_len};
        w->adapters[i] = p.adapter;
        w->tasks[i] = p.task_id;
    }
    for (size_t i = 0; i < n_texts; i++) {
        const char *text = i < a->n_prompts ? a->prompts[i] : w->file;
        size_t len = i < a->n_prompts ? strlen(text) : file_len;
        int32_t *ids;
        w->texts[i] = (graft_text){.text = text, .len = len};
        w->tasks[i] = (int32_t)a->task_id;
        GR_TRY(graft_prompt_fill(w->m.model, w->m.tok, w->m.adapter, text, len, &ids, &w->prompts[i].n, err));
        w->prompts[i].ids = ids;
        w->n_texts = i + 1;
    }
    return GRAFT_OK;
}

/* --- Classifiers and masked language models ----------------------------------------------------------------------- */

static void add_label(gr_buf *b, bool json, bool first, const char *name, double score) {
    if (!json) {
        gr_buf_add_format(b, "%8.6f  %s\n", score, name);
        return;
    }
    gr_buf_add_text(b, first ? "{\"label\": " : ", {\"label\": ");
    gr_json_add_text(b, name, strlen(name));
    gr_buf_add_format(b, ", \"score\": %.8g}", score);
}

static const char *adapter_of(const work *w, size_t i) { return w->adapters[i] ? w->adapters[i] : w->m.adapter; }

static bool fills_masks(const work *w, size_t i) {
    return strcmp(graft_model_task_type(w->m.model), "MASKED_LM") == 0 &&
           !graft_adapter_n_words(w->m.model, adapter_of(w, i));
}

/* All labels of texts [from, end), which have one adapter, the likeliest first, as transformers' pipeline
 * with top_k=None. */
static graft_status classify(work *w, size_t from, size_t end, bool json, gr_buf *b, graft_error *err) {
    const char *adapter = adapter_of(w, from);
    size_t n_words = graft_adapter_n_words(w->m.model, adapter),
           n = n_words ? n_words : graft_model_n_labels(w->m.model);
    const graft_encode_options o = {.adapter = adapter, .task_ids = w->tasks + from};
    float *scores = gr_calloc(NULL, (end - from) * n, sizeof *scores);
    graft_status st = scores
                          ? graft_classify(w->m.model, w->m.tok, w->texts + from, end - from, &o, scores, err)
                          : gr_fail_memory(err);
    for (size_t i = from; st == GRAFT_OK && i < end; i++) {
        float *row = scores + (i - from) * n;
        if (json) gr_buf_add_text(b, i ? ", [" : "[");
        else if (w->n > 1) gr_buf_add_format(b, "%s--- %zu\n", i ? "\n" : "", i + 1);
        for (size_t k = 0; k < n; k++) {
            size_t best = 0;
            for (size_t l = 1; l < n; l++)
                if (isnan(row[best]) || row[l] > row[best]) best = l;
            const char *name = n_words ? graft_adapter_word_label(w->m.model, adapter, best)
                                       : graft_model_label(w->m.model, best);
            add_label(b, json, k == 0, name, row[best]);
            row[best] = NAN;
        }
        if (json) gr_buf_add_char(b, ']');
    }
    gr_free(NULL, scores);
    return st;
}

static graft_status add_word(work *w, const graft_fill *f, bool json, bool first, gr_buf *b, graft_error *err) {
    char *word;
    size_t len;
    GR_TRY(graft_tokenizer_decode(w->m.tok, &f->id, 1, 0, &word, &len, err));
    if (json) {
        gr_buf_add_format(b, "%s{\"score\": %.8g, \"token\": %d, \"token_str\": ", first ? "" : ", ",
                          (double)f->score, f->id);
        gr_json_add_text(b, word, len);
        gr_buf_add_char(b, '}');
    } else
        gr_buf_add_format(b, "%8.6f  %s\n", (double)f->score, word);
    graft_free(w->m.ctx, word);
    return GRAFT_OK;
}

static graft_status fill_masks(work *w, size_t from, size_t end, size_t k, bool json, gr_buf *b, graft_error *err) {
    for (size_t i = from; i < end; i++) {
        const graft_encode_options o = {.adapter = adapter_of(w, i), .task_ids = &w->tasks[i]};
        graft_fill *list;
        size_t n_masks;
        GR_TRY(graft_fill_mask(w->m.model, w->m.tok, &w->texts[i], k, &o, &list, &n_masks, err));
        graft_status st = GRAFT_OK;
        if (json) gr_buf_add_text(b, i ? ", [" : "[");
        for (size_t m = 0; m < n_masks && st == GRAFT_OK; m++) {
            if (json) gr_buf_add_text(b, m ? ", [" : "[");
            else if (w->n > 1 || n_masks > 1)
                gr_buf_add_format(b, "%s--- %zu, mask %zu\n", i + m ? "\n" : "", i + 1, m + 1);
            for (size_t x = 0; x < k && st == GRAFT_OK; x++) st = add_word(w, &list[m * k + x], json, x == 0, b, err);
            if (json) gr_buf_add_char(b, ']');
        }
        if (json) gr_buf_add_char(b, ']');
        graft_free(w->m.ctx, list);
        GR_TRY(st);
    }
    return GRAFT_OK;
}

/* Runs of texts that have one adapter. */
static graft_status encode_all(work *w, size_t k, bool json, gr_buf *b, graft_error *err) {
    for (size_t from = 0, end; from < w->n; from = end) {
        const char *adapter = adapter_of(w, from);
        for (end = from + 1; end < w->n; end++) {
            const char *other = adapter_of(w, end);
            if (other != adapter && (!other || !adapter || strcmp(other, adapter) != 0)) break;
        }
        GR_TRY(fills_masks(w, from) ? fill_masks(w, from, end, k, json, b, err) : classify(w, from, end, json, b, err));
    }
    return GRAFT_OK;
}

static graft_status encode(work *w, const cli_args *args, graft_error *err) {
    const generate_args *a = args->base[2];
    const cli_sampling_args *sampling = args->base[3];
    const bool json = ((const cli_common *)args->base[0])->json != 0;
    const int64_t k = sampling->top_k == INT64_MIN ? 5 : sampling->top_k;
    bool masks = false;
    if (a->n_return != 1 || a->echo)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: a model of the task %s continues no text",
                       a->echo ? "--echo" : "--num-return-sequences", graft_model_task_type(w->m.model));
    for (size_t i = 0; i < w->n; i++) {
        masks |= fills_masks(w, i);
        if (!graft_adapter_prompt_template(w->m.model, adapter_of(w, i))) continue;
        w->texts[i].ids = w->prompts[i].ids;
        w->texts[i].n_ids = w->prompts[i].n;
    }
    GR_TRY(cli_refuse_given(args, 3, masks ? "top-k" : NULL, graft_model_task_type(w->m.model), err));
    if (masks && k < 1)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "--top-k: expected at least 1, found %lld", (long long)k);
    gr_buf b;
    gr_buf_init(&b, NULL);
    if (json) gr_buf_add_char(&b, '[');
    graft_status st = encode_all(w, (size_t)k, json, &b, err);
    if (json) gr_buf_add_text(&b, "]\n");
    if (st == GRAFT_OK) st = gr_buf_status(&b, err);
    if (st == GRAFT_OK) st = cli_write_stdout(b.data, b.len, err);
    gr_buf_free(&b);
    return st;
}

static graft_status generate(work *w, graft_context *ctx, cli_args *args, graft_error *err) {
    const cli_common *common = args->base[0];
    const generate_args *a = args->base[2];
    GR_TRY(cli_models_open(ctx, args, args->base[1], true, a->n_data ? CLI_SEVERAL_ADAPTERS : CLI_ONE_ADAPTER,
                           &w->m, err));
    GR_TRY(read_prompts(w, a, err));
    const char *task = graft_model_task_type(w->m.model);
    if (!strcmp(task, "SEQ_CLS") || !strcmp(task, "MASKED_LM")) return encode(w, args, err);
    graft_generate_options o;
    GR_TRY(cli_sampling_finish(&w->m, args->base[3], &o, err));
    GR_TRY(graft_session_new(w->m.model, w->m.tok, &w->session, err));
    o.adapters = w->adapters;
    o.task_ids = w->tasks;
    bool stream = w->n_out == 1 && !common->json, terminal = cli_is_terminal(stdout);
    if (stream && a->echo) fputs(w->texts[0].text, stdout);
    GR_TRY(graft_generate(w->session, w->prompts, w->n, (size_t)a->n_return, &o, stream ? print_piece : NULL,
                          &terminal, w->out, err));
    graft_generate_stats s = graft_session_stats(w->session);
    if (common->json) return print_json(w->out, w->n_out, (size_t)a->n_return, &s, err);
    if (stream) GR_TRY(cli_write_stdout("\n", 1, err));
    else GR_TRY(print_all(a, w->texts, w->out, w->n_out, err));
    if (common->verbose)
        fprintf(
            stderr,
            "%zu prompt tokens in %.3f s, %zu new tokens in %.3f s (%.1f tok/s), first token after %.3f s\n",
            s.prompt_tokens, s.prompt_seconds, s.new_tokens, s.new_seconds,
            s.new_seconds > 0 ? (double)s.new_tokens / s.new_seconds : 0, s.first_token_seconds);
    return GRAFT_OK;
}

static graft_status run(graft_context *ctx, cli_args *args, graft_error *err) {
    work w = {0};
    graft_status st = generate(&w, ctx, args, err);
    for (size_t i = 0; w.out && i < w.n_out; i++) graft_generation_free(ctx, &w.out[i]);
    for (size_t i = 0; w.prompts && i < w.n_texts; i++) gr_free(NULL, (void *)(uintptr_t)w.prompts[i].ids);
    gr_free(NULL, w.prompts);
    gr_free(NULL, w.out);
    gr_free(NULL, w.texts);
    gr_free(NULL, w.adapters);
    gr_free(NULL, w.tasks);
    graft_prompts_free(w.records);
    gr_free(NULL, w.file);
    graft_session_free(w.session);
    cli_models_close(&w.m);
    return st;
}

const cli_command cli_command_generate = {
    .name = "generate",
    .summary = "continue a text",
    .synopsis = "-m M -p TEXT [-n N] [options]",
    .about = "Continues one or more prompts, as they are (no chat template); an encoder-decoder answers "
             "them. Prints what was generated as it comes. Without sampling "
             "options the model's generation_config.json decides; where that does not ask for sampling the "
             "most likely token is taken. A "
             "classifier prints its labels with their scores, a masked language model the likeliest words "
             "(--top-k, 5) for every mask token.",
    .groups = {&cli_common_group, &cli_model_group, &generate_group, &cli_sampling_group},
    .n_groups = 4,
    .defaults = defaults,
    .run = run,
    .examples =
        "  graft generate -m model.gguf -p 'The capital of France is' -n 20 --greedy\n"
        "  graft generate -m model.gguf --adapter out -p 'Once' --temperature 0.8 --num-return-sequences 4\n"
        "  graft generate -m model.gguf --adapter titles=out/titles --adapter tone=out/tone --data "
        "prompts.jsonl\n",
};
