/* Where a run's numbers go: trainer_log.jsonl, the caller, TensorBoard. Each line of the log is one write, so that a
 * killed run leaves whole lines (but maybe the last); a resumed run begins with the lines that its checkpoint knows. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "train/trainer.h"

/* "runs/Nov23_09-24-11_host", as transformers names it, kept by resumed runs. */
static void name_run(gr_trainer *t) {
    char host[65] = "", when[32] = "run";
    if (t->state.run_name[0]) return;
    if (t->o->run_name && *t->o->run_name) {
        snprintf(t->state.run_name, sizeof t->state.run_name, "%s", t->o->run_name);
        return;
    }
    time_t now = time(NULL);
    struct tm local;
    gethostname(host, sizeof host - 1);
    for (char *p = host; *p; p++)
        if ((unsigned char)*p < 0x21 || (unsigned char)*p > 0x7e || *p == '/') *p = '-';
    if (localtime_r(&now, &local)) strftime(when, sizeof when, "%b%d_%H-%M-%S", &local);
    snprintf(t->state.run_name, sizeof t->state.run_name, "%s_%s", when, host);
}

static graft_status open_events(gr_trainer *t, graft_error *err) {
    char *runs = gr_path_join(t->a, t->o->output_dir, "runs");
    char *dir = runs ? gr_path_join(t->a, runs, t->state.run_name) : NULL;
    graft_status st = dir ? GRAFT_OK : gr_fail_memory(err);
    int64_t restart = t->resumed_from ? t->state.global_step + 1 : -1;
    if (st == GRAFT_OK) st = gr_events_open(t->a, dir, restart, &t->events, err);
    gr_free(t->a, dir);
    gr_free(t->a, runs);
    return st;
}

graft_status gr_run_log_start(gr_trainer *t, graft_error *err) {
    t->log_path = gr_path_join(t->a, t->o->output_dir, "trainer_log.jsonl");
    if (!t->log_path) return gr_fail_memory(err);
    GR_TRY(gr_write_file(t->a, t->log_path, gr_buf_text(&t->state.history), t->state.history.len, err));
    if (!t->o->report_to || strcmp(t->o->report_to, "tensorboard") != 0) return GRAFT_OK;
    name_run(t);
    return open_events(t, err);
}

static graft_status append(const gr_trainer *t, const char *line, size_t n, graft_error *err) {
    int fd = open(t->log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return gr_fail_errno(err, GRAFT_ERR_IO, errno, "%s: cannot open", t->log_path);
    graft_status st = GRAFT_OK;
    ssize_t done;
    do done = write(fd, line, n);
    while (done < 0 && errno == EINTR);
    if (done < 0)
        st = gr_fail_errno(err, GRAFT_ERR_IO, errno, "%s: cannot write", t->log_path);
    else if ((size_t)done < n)
        st = gr_fail(err, GRAFT_ERR_IO, "%s: cannot write: expected %zu bytes, wrote %zd", t->log_path, n, done);
    close(fd);
    return st;
}

/* Whole numbers as such. */
static void add_value(gr_buf *b, const gr_scalar *v) {
    gr_json_add_text(b, v->tag, strlen(v->tag));
    gr_buf_add_text(b, ": ");
    bool whole = !strcmp(v->tag, "step") || strstr(v->tag, "num_tokens");
    if (whole)
        gr_buf_add_format(b, "%lld", (long long)v->value);
    else
        gr_json_add_double(b, v->value);
}

/* "loss" is "train/loss" and "eval_loss" is "eval/loss" in TensorBoard, as transformers has it. */
static graft_status add_events(gr_trainer *t, const gr_scalar *values, size_t n, graft_error *err) {
    enum { MOST = 16, TAG = 64 };
    char tags[MOST][TAG];
    gr_scalar scalars[MOST];
    size_t count = 0;
    for (size_t i = 0; i < n && count < MOST; i++) {
        const char *tag = values[i].tag;
        if (!strcmp(tag, "step")) continue;
        bool eval = !strncmp(tag, "eval_", 5);
        snprintf(tags[count], TAG, "%s/%s", eval ? "eval" : "train", eval ? tag + 5 : tag);
        scalars[count] = (gr_scalar){tags[count], values[i].value};
        count++;
    }
    return gr_events_write(t->events, t->state.global_step, scalars, count, err);
}

graft_status gr_run_log_add(gr_trainer *t, const gr_scalar *values, size_t n, graft_error *err) {
    gr_buf line;
    gr_buf_init(&line, t->a);
    for (size_t i = 0; i < n; i++) {
        gr_buf_add_text(&line, i ? ", " : "{");
        add_value(&line, &values[i]);
    }
    gr_buf_add_char(&line, '}');
    graft_status st = gr_buf_status(&line, err);
    if (st == GRAFT_OK && t->call.log) t->call.log(t->call.user, line.data);
    gr_buf_add_char(&line, '\n');
    gr_buf_add(&t->state.history, gr_buf_text(&line), line.len);
    if (st == GRAFT_OK) st = gr_buf_status(&t->state.history, err);
    if (st == GRAFT_OK) st = append(t, gr_buf_text(&line), line.len, err);
    if (st == GRAFT_OK && t->events) st = add_events(t, values, n, err);
    gr_buf_free(&line);
    return st;
}
