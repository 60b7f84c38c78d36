/* graft eval: a model, with or without an adapter, on records. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/models.h"
#include "graft/eval.h"

typedef struct eval_args {
    const char *const *data, *const *metrics;
    size_t n_data, n_metrics;
    const char *template_path;
    int64_t max_length, max_target_length, batch_size, limit, show;
    int ignore_case, ignore_punctuation, stem, skip_bad, samples;
    int completion_only_loss, assistant_only_loss;
} eval_args;

#define AT(field) offsetof(eval_args, field)
static const cli_option eval_options[] = {
    {.name = "data",
     .letter = 'd',
     .kind = CLI_LIST,
     .offset = AT(data),
     .offset_n = AT(n_data),
     .comma = true,
     .metavar = "F",
     .help = "JSON Lines files; - is standard input"},
    {.name = "metric",
     .aliases = "metrics",
     .kind = CLI_LIST,
     .offset = AT(metrics),
     .offset_n = AT(n_metrics),
     .comma = true,
     .metavar = "NAMES",
     .help = "perplexity (with loss and token accuracy), exact_match, rouge (also rougeL), bleu, f1; "
             "classification: accuracy, f1; default: all that the records allow"},
    {.name = "max-length",
     .aliases = "max-seq-length max-source-length",
     .kind = CLI_INT64,
     .offset = AT(max_length),
     .metavar = "N",
     .help = "tokens of a record (of an encoder-decoder: of its prompt) for the loss; 0: no limit"},
    {.name = "max-target-length",
     .kind = CLI_INT64,
     .offset = AT(max_target_length),
     .metavar = "N",
     .help = "encoder-decoders: tokens of an answer for the loss; -1: 128, 0: no limit"},
    {.name = "batch-size",
     .aliases = "per-device-eval-batch-size",
     .letter = 'b',
     .kind = CLI_INT64,
     .offset = AT(batch_size),
     .metavar = "N",
     .help = "records at a time"},
    {.name = "limit",
     .kind = CLI_INT64,
     .offset = AT(limit),
     .metavar = "N",
     .help = "the first N records only; 0: all"},
    {.name = "show",
     .kind = CLI_INT64,
     .offset = AT(show),
     .metavar = "N",
     .help = "print the first N prompts with reference and answer"},
    {.name = "log-samples",
     .kind = CLI_FLAG,
     .offset = AT(samples),
     .metavar = "",
     .help = "with --json: one line for each answered record first"},
    {.name = "completion-only-loss",
     .kind = CLI_TRI,
     .offset = AT(completion_only_loss),
     .metavar = "",
     .help = "loss on completions only; unset: when there are prompts"},
    {.name = "assistant-only-loss",
     .kind = CLI_FLAG,
     .offset = AT(assistant_only_loss),
     .metavar = "",
     .help = "loss on the assistant's words only"},
    {.name = "chat-template-path",
     .aliases = "chat-template-file",
     .kind = CLI_TEXT,
     .offset = AT(template_path),
     .metavar = "F",
     .help = "a Jinja file instead of the model's chat template"},
    {.name = "ignore-case",
     .kind = CLI_FLAG,
     .offset = AT(ignore_case),
     .metavar = "",
     .help = "exact match in any case"},
    {.name = "ignore-punctuation",
     .kind = CLI_FLAG,
     .offset = AT(ignore_punctuation),
     .metavar = "",
     .help = "exact match without punctuation"},
    {.name = "use-stemmer",
     .kind = CLI_FLAG,
     .offset = AT(stem),
     .metavar = "",
     .help = "ROUGE on word stems"},
    {.name = "skip-bad-records",
     .kind = CLI_FLAG,
     .offset = AT(skip_bad),
     .metavar = "",
     .help = "count bad records and go on"},
};
#undef AT
static const cli_group eval_group = {"Evaluation", eval_options, GR_COUNT(eval_options)};

static graft_status defaults(cli_args *args, graft_error *err) {
    eval_args *e = gr_arena_alloc(&args->arena, sizeof *e);
    cli_sampling_args *s = gr_arena_alloc(&args->arena, sizeof *s);
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    args->base[1] = gr_arena_alloc(&args->arena, sizeof(cli_model_args));
    if (!e || !s || !args->base[0] || !args->base[1]) return gr_fail_memory(err);
    *e = (eval_args){.max_length = 1024, .max_target_length = -1, .batch_size = 8};
    cli_sampling_defaults(s);
    s->n = 128;
    s->greedy = 1;
    args->base[2] = e;
    args->base[3] = s;
    return GRAFT_OK;
}

typedef struct view {
    bool terminal, json, json_samples;
    unsigned what;
    size_t show;
    const graft_model *model;
    const char *adapter;
    gr_buf confusion; /* as it is printed */
} view;

/* Of a masked language model the labels are those of its adapter's words. */
static const char *label_name(const view *v, size_t i) {
    const char *name = graft_model_label(v->model, i);
    return name ? name : graft_adapter_word_label(v->model, v->adapter, i);
}

/* A line a label: how often each was said in its place; of several labels what was right and wrong of each. */
static void show_confusion(void *user, graft_problem problem, size_t n, const int64_t *counts) {
    view *v = user;
    gr_buf *b = &v->confusion;
    const bool single = problem == GRAFT_PROBLEM_SINGLE;
    const size_t columns = single ? n : 4;
    if (!v->json && single && n > 12) return;
    gr_buf_add_text(b, v->json  ? "\"labels\": ["
                       : single ? "                as"
                                : "                true -  false +  false -   true +\n");
    for (size_t i = 0; (v->json || single) && i < n; i++) {
        const char *name = label_name(v, i);
        if (v->json && i) gr_buf_add_text(b, ", ");
        if (v->json) gr_json_add_text(b, name, strlen(name));
        else gr_buf_add_format(b, " %8.8s", name);
    }
    gr_buf_add_text(b, v->json ? "], \"confusion\": [" : single ? "\n" : "");
    for (size_t i = 0; i < n; i++) {
        if (v->json) gr_buf_add_text(b, i ? ", [" : "[");
        else gr_buf_add_format(b, "  %-14.14s  ", label_name(v, i));
        for (size_t k = 0; k < columns; k++)
            gr_buf_add_format(b, v->json ? "%s%lld" : "%s%8lld", k ? (v->json ? ", " : " ") : "",
                              (long long)counts[i * columns + k]);
        gr_buf_add_text(b, v->json ? "]" : "\n");
    }
    if (v->json) gr_buf_add_char(b, ']');
}

static void clear_line(const view *v) {
    if (v->terminal) fputs("\r\033[K", stderr);
}

static void show_progress(void *user, size_t done, size_t total) {
    const view *v = user;
    if (!v->terminal) return;
    fprintf(stderr, "\r%zu/%zu records\033[K", done, total);
    fflush(stderr);
}

static void sample_json(const graft_eval_sample *s, unsigned what) {
    gr_buf b;
    gr_buf_init(&b, NULL);
    gr_buf_add_format(&b, "{\"index\": %zu, \"line\": %zu, \"prompt\": ", s->index, s->line);
    gr_json_add_text(&b, s->prompt, s->prompt_len);
    gr_buf_add_text(&b, ", \"reference\": ");
    gr_json_add_text(&b, s->reference, s->reference_len);
    gr_buf_add_text(&b, ", \"output\": ");
    gr_json_add_text(&b, s->output, s->output_len);
    if (what & GRAFT_EVAL_EXACT) gr_buf_add_format(&b, ", \"exact_match\": %d", s->exact);
    if (what & GRAFT_EVAL_ROUGE) gr_buf_add_format(&b, ", \"rougeL\": %.6f", s->rouge.rougeL.fmeasure);
    if (what & GRAFT_EVAL_TOKEN_F1) gr_buf_add_format(&b, ", \"f1\": %.6f", s->token_f1.fmeasure);
    gr_buf_add_text(&b, "}\n");
    if (!b.failed) fputs(gr_buf_text(&b), stdout);
    gr_buf_free(&b);
}

static void show_sample(void *user, const graft_eval_sample *s) {
    const view *v = user;
    if (v->json_samples) sample_json(s, v->what);
    if (s->index >= v->show) return;
    clear_line(v);
    FILE *to = v->json ? stderr : stdout; /* standard output is JSON then, whole */
    fprintf(to, "--- %s:%zu\n", s->path, s->line);
    cli_print_text(to, s->prompt, s->prompt_len);
    fputs("\n  expected: ", to);
    cli_print_text(to, s->reference, s->reference_len);
    fputs("\n  answer:   ", to);
    cli_print_text(to, s->output, s->output_len);
    fputc('\n', to);
}

/* `task` NULL: not known yet. */
static graft_status choose_metrics(const eval_args *a, const char *task, unsigned *what, graft_error *err) {
    const bool classes = task && !strcmp(task, "SEQ_CLS"),
               answers = !classes && (!task || strcmp(task, "MASKED_LM") != 0);
    *what = a->n_metrics ? 0 : !answers ? GRAFT_EVAL_LOSS : GRAFT_EVAL_LOSS | GRAFT_EVAL_EXACT | GRAFT_EVAL_ROUGE;
    for (size_t i = 0; i < a->n_metrics; i++) {
        const char *m = a->metrics[i];
        const bool loss = !strcmp(m, "loss") || !strcmp(m, "accuracy"),
                   words = !strcmp(m, "perplexity") || !strcmp(m, "token_accuracy");
        if (loss || (words && !classes)) *what |= GRAFT_EVAL_LOSS;
        else if (!strcmp(m, "f1")) *what |= answers ? GRAFT_EVAL_TOKEN_F1 : GRAFT_EVAL_LOSS;
        else if (!answers)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "--metric: expected %s for a model of the task %s, found \"%s\"",
                           classes ? "accuracy, f1 or loss" : "perplexity, accuracy or f1", task, m);
        else if (!strcmp(m, "exact_match")) *what |= GRAFT_EVAL_EXACT;
        else if (!strncmp(m, "rouge", 5)) *what |= GRAFT_EVAL_ROUGE;
        else if (!strcmp(m, "bleu") || !strcmp(m, "sacrebleu")) *what |= GRAFT_EVAL_BLEU;
        else
            return gr_fail(err, GRAFT_ERR_ARGUMENT,
                           "--metric: expected perplexity, exact_match, rouge, bleu or f1, found \"%s\"", m);
    }
    return GRAFT_OK;
}

/* What only models that answer in words have a use for. */
static graft_status refuse_words(const cli_args *args, const char *task, graft_error *err) {
    static const char *const names[] = {"completion-only-loss", "assistant-only-loss", "ignore-case",
                                        "ignore-punctuation",   "use-stemmer",         "show",
                                        "log-samples"};
    for (size_t i = 0; i < GR_COUNT(names); i++)
        if (cli_given(args, names[i]))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "--%s: a model of the task %s answers in no words", names[i], task);
    return cli_refuse_given(args, 3, NULL, task, err);
}

/* What only answers are made with and compared by, where no metric needs them. */
static graft_status refuse_answers(const cli_args *args, graft_error *err) {
    static const char *const names[] = {"ignore-case", "ignore-punctuation", "use-stemmer", "show", "log-samples"};
    const cli_group *sampling = args->command->groups[3];
    const char *given = NULL;
    for (size_t i = 0; i < GR_COUNT(names); i++)
        if (cli_given(args, names[i])) given = names[i];
    for (size_t i = 0; i < sampling->n; i++)
        if (args->given[3][i]) given = sampling->options[i].name;
    return given
               ? gr_fail(err, GRAFT_ERR_ARGUMENT, "--%s: expected a metric of answers too, found none", given)
               : GRAFT_OK;
}

static void add_number(gr_buf *b, const char *key, double value) {
    if (isfinite(value)) gr_buf_add_format(b, "\"%s\": %.8g, ", key, value);
}

static graft_status print_result(const graft_eval_result *r, const view *v, graft_error *err) {
    if (v->json) {
        gr_buf b;
        gr_buf_init(&b, NULL);
        gr_buf_add_char(&b, '{');
        add_number(&b, "loss", r->loss);
        add_number(&b, "perplexity", r->perplexity);
        add_number(&b, "mean_token_accuracy", r->token_accuracy);
        add_number(&b, "accuracy", r->accuracy);
        add_number(&b, "macro_f1", r->macro_f1);
        add_number(&b, "mse", r->mse);
        add_number(&b, "pearson", r->pearson);
        if (v->confusion.len) {
            gr_buf_add(&b, v->confusion.data, v->confusion.len);
            gr_buf_add_text(&b, ", ");
        }
        add_number(&b, "exact_match", r->exact_match);
        add_number(&b, "rouge1", r->rouge1);
        add_number(&b, "rouge2", r->rouge2);
        add_number(&b, "rougeL", r->rougeL);
        add_number(&b, "rougeLsum", r->rougeLsum);
        add_number(&b, "bleu", r->bleu);
        add_number(&b, "f1", r->token_f1);
        gr_buf_add_format(&b,
                          "\"n_records\": %zu, \"n_answers\": %zu, \"n_tokens\": %llu, \"n_labels\": %llu, "
                          "\"seconds\": %.3f}\n",
                          r->n_records, r->n_answers, (unsigned long long)r->n_tokens,
                          (unsigned long long)r->n_labels, r->seconds);
        graft_status st = gr_buf_status(&b, err);
        if (st == GRAFT_OK) st = cli_write_stdout(b.data, b.len, err);
        gr_buf_free(&b);
        return st;
    }
    if (isfinite(r->loss) && !isfinite(r->perplexity))
        printf("loss            %.4f over %zu records\n", r->loss, r->n_records);
    if (isfinite(r->accuracy))
        printf("accuracy        %.2f %%\nmacro F1        %.2f %%\n", 100 * r->accuracy, 100 * r->macro_f1);
    if (v->confusion.len) fputs(gr_buf_text(&v->confusion), stdout);
    if (isfinite(r->mse)) printf("mean square     %.6g\n", r->mse);
    if (isfinite(r->pearson)) printf("Pearson's r     %.4f\n", r->pearson);
    if (isfinite(r->perplexity))
        printf("loss            %.4f\nperplexity      %.4f\ntoken accuracy  %.2f %% of %llu tokens in %zu "
               "records\n",
               r->loss, r->perplexity, 100 * r->token_accuracy, (unsigned long long)r->n_labels,
               r->n_records);
    if (r->n_answers) printf("answers         %zu\n", r->n_answers);
    if (isfinite(r->exact_match)) printf("exact match     %.2f %%\n", 100 * r->exact_match);
    if (isfinite(r->rougeL))
        printf("ROUGE-1         %.2f\nROUGE-2         %.2f\nROUGE-L         %.2f\n", 100 * r->rouge1,
               100 * r->rouge2, 100 * r->rougeL);
    if (isfinite(r->bleu)) printf("BLEU            %.2f\n", r->bleu);
    if (isfinite(r->token_f1)) printf("F1              %.2f\n", 100 * r->token_f1);
    printf("time            %.1f s\n", r->seconds);
    return cli_write_stdout("", 0, err);
}

/* A pipe as standard input can be read once only, and the records are read for the loss and for the answers: what it
 * gives goes into a file without a name that takes its place. */
static graft_status keep_stdin(const eval_args *a, graft_error *err) {
    bool used = false;
    for (size_t i = 0; i < a->n_data; i++) used = used || !strcmp(a->data[i], "-");
    if (!used || lseek(STDIN_FILENO, 0, SEEK_CUR) >= 0) return GRAFT_OK;
    FILE *f = tmpfile();
    if (!f) return gr_fail_errno(err, GRAFT_ERR_IO, errno, "standard input: cannot be kept in a temporary file");
    char block[1 << 16];
    size_t n;
    bool good = true;
    while (good && (n = fread(block, 1, sizeof block, stdin)) > 0) good = fwrite(block, 1, n, f) == n;
    good = good && !ferror(stdin) && fflush(f) == 0 && fseek(f, 0, SEEK_SET) == 0 &&
           dup2(fileno(f), STDIN_FILENO) == STDIN_FILENO;
    graft_status st =
        good ? GRAFT_OK
             : gr_fail_errno(err, GRAFT_ERR_IO, errno, "standard input: cannot be kept in a temporary file");
    fclose(f);
    return st;
}

static graft_status evaluate(cli_models *m, graft_context *ctx, cli_args *args, char **template_text,
                             graft_error *err) {
    const cli_common *common = args->base[0];
    const eval_args *a = args->base[2];
    graft_eval_options o = graft_eval_options_default();
    if (!a->n_data) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --data FILE");
    if (a->batch_size < 1 || a->limit < 0 || a->max_length < 0 || a->max_target_length < -1 || a->show < 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "--batch-size must be above 0; --limit, --max-length, --max-target-length (but for "
                       "-1) and --show must not be negative");
    unsigned asked;
    GR_TRY(choose_metrics(a, NULL, &asked, err));
    if (a->template_path) GR_TRY(gr_read_file(NULL, a->template_path, (size_t)1 << 20, template_text, NULL, err));
    GR_TRY(cli_models_open(ctx, args, args->base[1], true, CLI_SEVERAL_ADAPTERS, m, err));
    const char *task = graft_model_task_type(m->model);
    GR_TRY(choose_metrics(a, task, &o.what, err));
    if (!strcmp(task, "SEQ_CLS") || !strcmp(task, "MASKED_LM")) GR_TRY(refuse_words(args, task, err));
    else if (!(o.what & GRAFT_EVAL_GENERATES)) GR_TRY(refuse_answers(args, err));
    if (o.what & GRAFT_EVAL_LOSS && o.what & GRAFT_EVAL_GENERATES) GR_TRY(keep_stdin(a, err));
    if (o.what & GRAFT_EVAL_GENERATES) GR_TRY(cli_sampling_finish(m, args->base[3], &o.generate, err));
    o.generate.adapter = m->adapter;
    o.data = (graft_data_options){.paths = a->data,
                                  .n_paths = a->n_data,
                                  .chat_template = *template_text,
                                  .max_length = a->max_length ? a->max_length : -1,
                                  .max_target_length = a->max_target_length < 0 ? 0
                                                       : a->max_target_length   ? a->max_target_length
                                                                                : -1,
                                  .skip_bad_records = a->skip_bad,
                                  .skip_unanswerable = a->n_metrics == 0,
                                  .max_records = (size_t)a->limit,
                                  .assistant_only_loss = a->assistant_only_loss,
                                  .completion_only_loss = (graft_choice)a->completion_only_loss};
    o.batch_size = (size_t)a->batch_size;
    o.generate.max_batch = GR_MAX(o.batch_size, (size_t)8);
    o.match_flags = (a->ignore_case ? GRAFT_MATCH_IGNORE_CASE : 0) |
                    (a->ignore_punctuation ? GRAFT_MATCH_IGNORE_PUNCTUATION : 0);
    o.rouge_stem = a->stem;
    view v = {.terminal = cli_is_terminal(stderr) && !common->quiet,
              .show = (size_t)a->show,
              .what = o.what,
              .json = common->json != 0,
              .json_samples = common->json && a->samples};
    o.user = &v;
    o.progress = show_progress;
    o.sample = show_sample;
    o.confusion = show_confusion;
    v.model = m->model;
    v.adapter = m->adapter;
    gr_buf_init(&v.confusion, NULL);
    graft_eval_result r;
    graft_status st = graft_eval(m->model, m->tok, &o, &r, err);
    clear_line(&v);
    if (st == GRAFT_OK) st = gr_buf_status(&v.confusion, err);
    if (st == GRAFT_OK) st = print_result(&r, &v, err);
    gr_buf_free(&v.confusion);
    return st;
}

static graft_status run(graft_context *ctx, cli_args *args, graft_error *err) {
    cli_models m = {0};
    char *template_text = NULL;
    graft_status st = evaluate(&m, ctx, args, &template_text, err);
    cli_models_close(&m);
    gr_free(NULL, template_text);
    return st;
}

const cli_command cli_command_eval = {
    .name = "eval",
    .summary = "measure a model on records",
    .synopsis = "-m M [--adapter DIR] --data F [--metric NAMES]",
    .about = "Perplexity and token accuracy of the expected answers, and exact match, ROUGE (equal to "
             "rouge-score's), BLEU (equal to "
             "sacrebleu's) and F1 of the answers "
             "that the model generates, greedily unless sampling options are given. Of a classifier "
             "accuracy, macro F1 and which labels were "
             "taken for which, of a regression mean square and Pearson's r; of a masked language model the "
             "same as of others on tokens that "
             "are hidden. Records are those of graft sft.",
    .groups = {&cli_common_group, &cli_model_group, &eval_group, &cli_sampling_group},
    .n_groups = 4,
    .defaults = defaults,
    .run = run,
    .examples = "  graft eval -m model.gguf --data heldout.jsonl --show 3\n  graft eval -m model.gguf "
                "--adapter out --data heldout.jsonl --json\n",
};
