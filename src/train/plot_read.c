/* Where curves come from: trainer_log.jsonl, or TensorBoard event files. */
#include <math.h>
#include <stdlib.h>

#include "train/events.h"
#include "train/plot.h"

void gr_curves_init(gr_curves *c, const graft_allocator *a) { *c = (gr_curves){.a = a}; }

void gr_curves_free(gr_curves *c) {
    for (int k = 0; k < GR_CURVE_COUNT; k++) gr_free(c->a, c->curve[k].points);
    gr_free(c->a, c->name);
    *c = (gr_curves){.a = c->a};
}

graft_status gr_curves_add(gr_curves *c, gr_curve_kind kind, double step, double value, graft_error *err) {
    gr_curve *k = &c->curve[kind];
    /* Beyond these no chart can show differences (doubles have 15 digits). */
    if (!(fabs(step) < 1e15) || !(fabs(value) < 1e30)) return GRAFT_OK;
    if (fabs(value) < 1e-30) value = 0;
    /* A run that went on from an earlier step writes later steps again. */
    while (k->n && k->points[k->n - 1].step >= step) k->n--;
    GR_TRY(gr_grow(c->a, (void **)&k->points, &k->cap, k->n + 1, sizeof *k->points, err));
    k->points[k->n++] = (gr_point){step, value};
    return GRAFT_OK;
}

/* --- trainer_log.jsonl --- */

static graft_status read_line(gr_curves *c, const char *name, const char *line, size_t len, graft_error *err) {
    static const char *const keys[GR_CURVE_COUNT] = {"loss", "eval_loss", "learning_rate"};
    double values[GR_CURVE_COUNT], step = NAN;
    for (int k = 0; k < GR_CURVE_COUNT; k++) values[k] = NAN;
    gr_json_reader r;
    gr_json_init(&r, name, line, len);
    GR_TRY(gr_json_open(&r, GR_JSON_OBJECT, err));
    for (bool more;;) {
        GR_TRY(gr_json_next(&r, &more, err));
        if (!more) break;
        gr_json_text key;
        GR_TRY(gr_json_read_key(&r, &key, err));
        double *to = gr_json_text_is(&key, "step") ? &step : NULL;
        for (int k = 0; k < GR_CURVE_COUNT; k++)
            if (gr_json_text_is(&key, keys[k])) to = &values[k];
        if (!to || gr_json_peek(&r) != GR_JSON_NUMBER) {
            GR_TRY(gr_json_skip(&r, err));
            continue;
        }
        gr_json_number n;
        GR_TRY(gr_json_read_number(&r, &n, err));
        *to = n.d;
    }
    GR_TRY(gr_json_end(&r, err));
    for (int k = 0; k < GR_CURVE_COUNT; k++) GR_TRY(gr_curves_add(c, (gr_curve_kind)k, step, values[k], err));
    return GRAFT_OK;
}

static bool is_blank(const char *line, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r", line[i]) || !line[i]) return false;
    return true;
}

graft_status gr_curves_read_log(gr_curves *c, const char *name, const char *text, size_t len, graft_error *err) {
    size_t number = 0;
    for (size_t at = 0; at < len;) {
        const char *line = text + at, *end = memchr(line, '\n', len - at);
        size_t n = end ? (size_t)(end - line) : len - at;
        at += n + 1;
        number++;
        if (is_blank(line, n)) continue;
        graft_status st = read_line(c, name, line, n, err);
        if (st == GRAFT_ERR_FORMAT && !end) return GRAFT_OK;
        if (st != GRAFT_OK) return gr_error_prefix(err, st, "line %zu", number);
    }
    return GRAFT_OK;
}

/* --- Event files --- */

static graft_status take_scalar(void *user, int64_t step, const char *tag, size_t len, double value, graft_error *err) {
    static const char *const tags[][GR_CURVE_COUNT] = {
        {"train/loss", "eval/loss", "train/learning_rate"},
        {"loss", "eval_loss", "learning_rate"},
    };
    for (size_t i = 0; i < GR_COUNT(tags); i++)
        for (int k = 0; k < GR_CURVE_COUNT; k++)
            if (strlen(tags[i][k]) == len && !memcmp(tags[i][k], tag, len))
                return gr_curves_add(user, (gr_curve_kind)k, (double)step, value, err);
    return GRAFT_OK;
}

static graft_status take_restart(void *user, int64_t step, graft_error *err) {
    (void)err;
    gr_curves *c = user;
    for (int k = 0; k < GR_CURVE_COUNT; k++)
        while (c->curve[k].n && c->curve[k].points[c->curve[k].n - 1].step >= (double)step) c->curve[k].n--;
    return GRAFT_OK;
}

graft_status gr_curves_read_events(gr_curves *c, const char *name, const void *data, size_t size, graft_error *err) {
    const gr_events_visitor v = {.user = c, .scalar = take_scalar, .restart = take_restart};
    return gr_events_read(name, data, size, &v, err);
}

/* --- Files and folders --- */

static graft_status read_file(gr_curves *c, const char *path, bool events, graft_error *err) {
    gr_mapping m;
    GR_TRY(gr_map_file(path, &m, err));
    graft_status st = events ? gr_curves_read_events(c, path, m.data, m.size, err)
                             : gr_curves_read_log(c, path, (const char *)m.data, m.size, err);
    gr_unmap_file(&m);
    return st;
}

enum { MAX_FOLDERS = 4 };

/* Event files under `dir`, in the order of their names: their numbers are times. */
static graft_status read_folder(gr_curves *c, const char *dir, int depth, graft_error *err) {
    char **names;
    size_t n;
    GR_TRY(gr_list_dir(c->a, dir, &names, &n, err));
    graft_status st = GRAFT_OK;
    for (size_t i = 0; i < n && st == GRAFT_OK; i++) {
        char *path = gr_path_join(c->a, dir, names[i]);
        if (!path)
            st = gr_fail_memory(err);
        else if (gr_is_dir(path))
            st = depth < MAX_FOLDERS && strncmp(names[i], "checkpoint-", 11) ? read_folder(c, path, depth + 1, err)
                                                                             : GRAFT_OK;
        else if (strstr(names[i], "tfevents"))
            st = read_file(c, path, true, err);
        gr_free(c->a, path);
    }
    gr_free_names(c->a, names, n);
    return st;
}

static graft_status read_dir(gr_curves *c, const char *dir, graft_error *err) {
    char *log = gr_path_join(c->a, dir, "trainer_log.jsonl");
    if (!log) return gr_fail_memory(err);
    graft_status st = gr_path_exists(log) ? read_file(c, log, false, err) : read_folder(c, dir, 0, err);
    gr_free(c->a, log);
    return st;
}

/* The last part of the path; of a file, its folder's. */
static graft_status set_name(gr_curves *c, const char *path, bool is_dir, graft_error *err) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') start--;
    if (!is_dir && start > 1) {
        end = start - 1;
        for (start = end; start > 0 && path[start - 1] != '/';) start--;
    }
    c->name = gr_strndup(c->a, path + start, end - start);
    return c->name ? GRAFT_OK : gr_fail_memory(err);
}

graft_status gr_curves_read(gr_curves *c, const char *path, graft_error *err) {
    bool is_dir = gr_is_dir(path);
    size_t n = strlen(path);
    GR_TRY(set_name(c, path, is_dir, err));
    if (is_dir)
        GR_TRY(read_dir(c, path, err));
    else
        GR_TRY(read_file(c, path, n < 6 || strcmp(path + n - 6, ".jsonl") != 0, err));
    for (int k = 0; k < GR_CURVE_COUNT; k++)
        if (c->curve[k].n) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_NOT_FOUND,
                   "%s: expected loss, eval_loss or learning_rate in a trainer_log.jsonl or event files, found none", path);
}
