/* graft sft: supervised and instruction fine-tuning. */
#include <math.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/train_args.h"

typedef struct view {
    bool terminal, quiet, drawn;
    double shown; /* time of the last drawing */
} view;

/* What the callbacks of one of several jobs get. */
typedef struct job_view {
    view *view;
    const char *name;
} job_view;

static const cli_option jobs_options[] = {
    {.name = "jobs", .kind = CLI_TEXT, .offset = offsetof(cli_train_args, jobs), .metavar = "FILE",
     .help = "YAML: options of all jobs, and under \"jobs\" a list with the name and the options of each"},
};
static const cli_group jobs_group = {"Several jobs over one model", jobs_options, GR_COUNT(jobs_options)};

static graft_status defaults(cli_args *args, graft_error *err) {
    args->base[0] = gr_arena_alloc(&args->arena, sizeof(cli_common));
    cli_train_args *a = gr_arena_alloc(&args->arena, sizeof *a);
    if (!args->base[0] || !a) return gr_fail_memory(err);
    for (size_t i = 1; i < args->command->n_groups; i++) args->base[i] = a;
    return cli_train_defaults(a);
}

static void duration_text(double seconds, char *buf, size_t size) {
    if (!(seconds >= 0)) snprintf(buf, size, "--:--");
    else if (seconds < 3600) snprintf(buf, size, "%d:%02d", (int)seconds / 60, (int)seconds % 60);
    else
        snprintf(buf, size, "%d:%02d:%02d", (int)(seconds / 3600), (int)fmod(seconds / 60, 60),
                 (int)fmod(seconds, 60));
}

static void clear_line(view *v) {
    if (v->drawn) fputs("\r\033[K", stderr);
    v->drawn = false;
}

static void draw_line(view *v, const char *name, const graft_train_progress *p) {
    double now = gr_now_seconds();
    if (!v->terminal || v->quiet || (now - v->shown < 0.1 && p->step < p->total_steps)) return;
    v->shown = now;
    char eta[32], memory[32], line[256];
    duration_text(p->eta_seconds, eta, sizeof eta);
    cli_bytes_text((double)p->memory, memory, sizeof memory);
    static const char *const phases[] = {"loading the model", "reading records", "", "evaluating", "saving"};
    if (p->phase == GRAFT_TRAIN_STEPPING)
        snprintf(line, sizeof line, "step %lld/%lld  epoch %.2f  loss %.4f  %.0f tok/s  ETA %s  %s", (long long)p->step,
                 (long long)p->total_steps, p->epoch, p->loss, p->tokens_per_second, eta, memory);
    else if (p->total)
        snprintf(line, sizeof line, "step %lld/%lld  %s %lld/%lld  %s", (long long)p->step,
                 (long long)p->total_steps, phases[p->phase], (long long)p->done, (long long)p->total,
                 memory);
    else
        snprintf(line, sizeof line, "%s  %s", phases[p->phase], memory);
    if (name) {
        char named[sizeof line];
        snprintf(named, sizeof named, "%.80s  %.170s", name, line);
        memcpy(line, named, sizeof line);
    }
    struct winsize w;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 1 && strlen(line) >= w.ws_col)
        line[w.ws_col - 1] = '\0';
    fprintf(stderr, "\r%s\033[K", line);
    fflush(stderr);
    v->drawn = true;
}

static void draw(void *user, const graft_train_progress *p) { draw_line(user, NULL, p); }
static void draw_job(void *user, const graft_train_progress *p) {
    draw_line(((job_view *)user)->view, ((job_view *)user)->name, p);
}

/* A line of the log for people; machines read trainer_log.jsonl. */
static void show_log(void *user, const char *json) {
    view *v = user;
    if (v->quiet) return;
    clear_line(v);
    fprintf(stderr, "%s\n", json);
}

/* JSON has no NaN and no infinity. */
static void add_real(gr_buf *b, const char *key, int digits, double value) {
    if (isfinite(value)) gr_buf_add_format(b, "\"%s\": %.*g, ", key, digits, value);
    else gr_buf_add_format(b, "\"%s\": null, ", key);
}

static void show_job_log(void *user, const char *json) {
    job_view *j = user;
    if (j->view->quiet) return;
    clear_line(j->view);
    fprintf(stderr, "%s: %s\n", j->name, json);
}

/* `name`: of the job, NULL where there is only one. */
static graft_status print_result(const graft_train_result *r, const cli_train_args *a, const char *name, bool json,
                                 graft_error *err) {
    char memory[32], time[32];
    if (json) {
        gr_buf b;
        gr_buf_init(&b, NULL);
        gr_buf_add_char(&b, '{');
        if (name) {
            gr_buf_add_text(&b, "\"name\": ");
            gr_json_add_text(&b, name, strlen(name));
            gr_buf_add_text(&b, ", ");
        }
        gr_buf_add_text(&b, "\"output_dir\": ");
        gr_json_add_text(&b, a->o.output_dir, strlen(a->o.output_dir));
        gr_buf_add_format(&b, ", \"global_step\": %lld, \"num_tokens\": %lld, ", (long long)r->global_step,
                          (long long)r->num_tokens);
        add_real(&b, "epoch", 6, r->epoch);
        add_real(&b, "train_loss", 9, r->train_loss);
        add_real(&b, "train_runtime", 6, r->train_runtime);
        add_real(&b, "train_samples_per_second", 6, r->train_samples_per_second);
        add_real(&b, "train_tokens_per_second", 6, r->train_tokens_per_second);
        if (isfinite(r->eval_loss))
            gr_buf_add_format(&b, "\"eval_loss\": %.9g, \"eval_mean_token_accuracy\": %.9g, ", r->eval_loss,
                              r->eval_mean_token_accuracy);
        gr_buf_add_format(
            &b,
            "\"n_parameters\": %lld, \"n_trainable\": %lld, \"n_records\": %lld, \"n_bad_records\": %lld, "
            "\"n_dropped_records\": %lld, \"n_truncated_records\": %lld, \"early_stopped\": %s, "
            "\"peak_memory\": %zu}\n",
            (long long)r->n_parameters, (long long)r->n_trainable, (long long)r->n_records,
            (long long)r->n_bad_records, (long long)r->n_dropped_records, (long long)r->n_truncated_records,
            r->early_stopped ? "true" : "false", r->peak_memory);
        graft_status st = gr_buf_status(&b, err);
        if (st == GRAFT_OK) st = cli_write_stdout(b.data, b.len, err);
        gr_buf_free(&b);
        return st;
    }
    duration_text(r->train_runtime, time, sizeof time);
    cli_bytes_text((double)r->peak_memory, memory, sizeof memory);
    fprintf(stderr, "%s%s%lld steps in %s, mean loss %.4f, %.0f tok/s, peak memory %s; saved in %s\n",
            name ? name : "", name ? ": " : "", (long long)r->global_step, time, r->train_loss,
            r->train_tokens_per_second, memory, a->o.output_dir);
    if (r->n_truncated_records || r->n_dropped_records || r->n_bad_records)
        fprintf(stderr, "%lld records cut at --max-length, %lld without a label left, %lld bad\n",
                (long long)r->n_truncated_records, (long long)r->n_dropped_records,
                (long long)r->n_bad_records);
    return GRAFT_OK;
}

/* --- Several jobs ------------------------------------------------------------------------------------------------- */

static graft_status parse_jobs(graft_context *ctx, const cli_args *args, cli_args *list, graft_sft_job *jobs,
                               size_t n, graft_error *err) {
    const char *file = ((cli_train_args *)args->base[1])->jobs;
    for (size_t i = 0; i < n; i++) {
        cli_args *job = &list[i];
        gr_arena_init(&job->arena, NULL, 0);
        job->command = args->command;
        job->job_file = file;
        job->job = i;
        GR_TRY(cli_parse(job, args->argc, args->argv, err));
        if (!job->job_name) {
            char name[32];
            snprintf(name, sizeof name, "job%zu", i + 1);
            if (!(job->job_name = gr_arena_strndup(&job->arena, name, strlen(name)))) return gr_fail_memory(err);
        }
        cli_train_args *a = job->base[1];
        graft_status st = cli_train_finish(ctx, job, a, err);
        if (st == GRAFT_OK && !a->o.output_dir) st = gr_fail(err, GRAFT_ERR_ARGUMENT, "expected output_dir");
        if (st != GRAFT_OK) return gr_error_prefix(err, st, "%s: job %s", file, job->job_name);
        jobs[i] = (graft_sft_job){.name = job->job_name, .options = a->o};
    }
    return GRAFT_OK;
}

static graft_status print_failure(const graft_sft_job *j, bool json, graft_error *err) {
    if (!json) {
        fprintf(stderr, "%s\n", j->error.text);
        return GRAFT_OK;
    }
    gr_buf b;
    gr_buf_init(&b, NULL);
    gr_buf_add_text(&b, "{\"name\": ");
    gr_json_add_text(&b, j->name, strlen(j->name));
    gr_buf_add_text(&b, ", \"error\": ");
    gr_json_add_text(&b, j->error.text, strlen(j->error.text));
    gr_buf_add_text(&b, "}\n");
    graft_status st = gr_buf_status(&b, err);
    if (st == GRAFT_OK) st = cli_write_stdout(b.data, b.len, err);
    gr_buf_free(&b);
    return st;
}

/* A job's failure is told where it stands in the list; the first one is the command's. */
static graft_status print_jobs(const graft_sft_job *jobs, const cli_args *list, size_t n,
                               const cli_common *common, graft_error *err) {
    bool first = true, json = common->json != 0;
    for (size_t i = 0; i < n; i++) {
        const graft_sft_job *j = &jobs[i];
        if (j->status == GRAFT_OK) {
            if (json || !common->quiet) GR_TRY(print_result(&j->result, list[i].base[1], j->name, json, err));
            continue;
        }
        if (json || !first) GR_TRY(print_failure(j, json, err));
        first = false;
    }
    return GRAFT_OK;
}

static graft_status run_jobs(graft_context *ctx, cli_args *args, const char *file, graft_error *err) {
    const cli_common *common = args->base[0];
    view v = {.terminal = cli_is_terminal(stderr), .quiet = common->quiet != 0};
    size_t n;
    GR_TRY(cli_count_jobs(file, &n, err));
    cli_args *list = gr_arena_alloc(&args->arena, n * sizeof *list);
    graft_sft_job *jobs = gr_arena_alloc(&args->arena, n * sizeof *jobs);
    job_view *views = gr_arena_alloc(&args->arena, n * sizeof *views);
    if (!list || !jobs || !views) return gr_fail_memory(err);
    graft_status st = parse_jobs(ctx, args, list, jobs, n, err);
    for (size_t i = 0; i < n && st == GRAFT_OK; i++) {
        views[i] = (job_view){&v, jobs[i].name};
        jobs[i].callbacks = (graft_train_callbacks){.user = &views[i], .progress = draw_job, .log = show_job_log};
    }
    if (st == GRAFT_OK) {
        st = graft_sft_jobs(ctx, jobs, n, err);
        clear_line(&v);
        bool ran = st == GRAFT_OK;
        for (size_t i = 0; i < n; i++)
            ran = ran || jobs[i].status != GRAFT_OK; /* else nothing had begun, and err says why */
        graft_error printed;
        graft_status told = ran ? print_jobs(jobs, list, n, common, &printed) : GRAFT_OK;
        if (st == GRAFT_OK && told != GRAFT_OK) {
            st = told;
            *err = printed;
        }
    }
    for (size_t i = 0; i < n; i++) cli_args_free(&list[i]);
    return st;
}

static graft_status run(graft_context *ctx, cli_args *args, graft_error *err) {
    const cli_common *common = args->base[0];
    cli_train_args *a = args->base[1];
    if (a->jobs) return run_jobs(ctx, args, a->jobs, err);
    GR_TRY(cli_train_finish(ctx, args, a, err));
    if (!a->o.output_dir) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected --output-dir DIR");
    view v = {.terminal = cli_is_terminal(stderr), .quiet = common->quiet != 0};
    graft_train_callbacks callbacks = {.user = &v, .progress = draw, .log = show_log};
    graft_train_result result;
    graft_status st = graft_sft(ctx, &a->o, &callbacks, &result, err);
    clear_line(&v);
    if (st == GRAFT_OK && (common->json || !common->quiet)) st = print_result(&result, a, NULL, common->json != 0, err);
    return st;
}

const cli_command cli_command_sft = {
    .name = "sft",
    .summary = "fine-tune a model on records",
    .synopsis = "-m M --data F --output-dir DIR [options]",
    .about = "Supervised and instruction fine-tuning. Records are JSON Lines of any of the forms {\"text\"}, "
             "{\"prompt\", \"completion\"}, "
             "{\"messages\"}, {\"instruction\", \"input\", \"output\"}, {\"conversations\"} and "
             "{\"input_ids\", \"labels\"}. Writes an adapter "
             "directory as peft does (or with --method full a model directory), checkpoints, "
             "trainer_log.jsonl and a model card. "
             "Ctrl-C saves a checkpoint; --resume-from-checkpoint latest goes on with the very bits of an "
             "undisturbed run.",
    .groups = {&cli_common_group, &cli_train_model_group, &cli_train_data_group, &cli_train_group,
               &cli_train_lora_group, &cli_train_method_group, &jobs_group},
    .n_groups = 7,
    .defaults = defaults,
    .run = run,
    .examples = "  graft sft -m model.gguf --data train.jsonl --output-dir out --learning-rate 2e-4\n"
                "  graft sft --config train.yaml --max-steps 100\n"
                "  graft sft --jobs jobs.yaml\n",
};
