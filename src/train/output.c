#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "train/checkpoint.h"
#include "train/output.h"

static const char prefix[] = "checkpoint-";

/* The N of "checkpoint-N", -1 for another name. */
static int64_t step_of(const char *name) {
    int64_t step = 0;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return -1;
    const char *p = name + sizeof prefix - 1;
    if (!*p || strlen(p) > 15) return -1;
    for (; *p; p++) {
        if (*p < '0' || *p > '9') return -1;
        step = step * 10 + (*p - '0');
    }
    return step;
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

static char *join3(const graft_allocator *a, const char *dir, int64_t step, const char *end) {
    char name[96];
    snprintf(name, sizeof name, "%s%lld%s", prefix, (long long)step, end);
    return gr_path_join(a, dir, name);
}

static int by_step(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

graft_status gr_list_checkpoints(const graft_allocator *a, const char *dir, int64_t **steps, size_t *n,
                                 graft_error *err) {
    char **names;
    size_t n_names, count = 0;
    GR_TRY(gr_list_dir(a, dir, &names, &n_names, err));
    int64_t *list = n_names ? gr_calloc(a, n_names, sizeof *list) : NULL;
    graft_status st = n_names && !list ? gr_fail_memory(err) : GRAFT_OK;
    for (size_t i = 0; i < n_names && st == GRAFT_OK; i++) {
        int64_t step = step_of(names[i]);
        if (step < 0) continue;
        char *path = join3(a, dir, step, "/trainer_state.json");
        if (!path)
            st = gr_fail_memory(err);
        else if (gr_path_exists(path))
            list[count++] = step;
        gr_free(a, path);
    }
    gr_free_names(a, names, n_names);
    if (st != GRAFT_OK || count == 0) {
        gr_free(a, list);
        list = NULL;
    }
    if (st != GRAFT_OK) return st;
    if (count) qsort(list, count, sizeof *list, by_step);
    *steps = list;
    *n = count;
    return GRAFT_OK;
}

graft_status gr_publish_dir(const graft_allocator *a, const char *temp, const char *path, graft_error *err) {
    if (rename(temp, path) == 0) return GRAFT_OK;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return gr_fail_errno(err, GRAFT_ERR_IO, errno, "%s: cannot rename into place", path);
    if (renameat2(AT_FDCWD, temp, AT_FDCWD, path, RENAME_EXCHANGE) == 0) return gr_remove_tree(temp, err);
    /* No exchange on this file system. A kill between the two renames leaves NAME.old, which gr_clean_output puts back. */
    size_t size = strlen(path) + 5;
    char *old = gr_alloc(a, size);
    if (!old) return gr_fail_memory(err);
    snprintf(old, size, "%s.old", path);
    graft_status st = gr_remove_tree(old, err);
    if (st == GRAFT_OK && (rename(path, old) != 0 || rename(temp, path) != 0))
        st = gr_fail_errno(err, GRAFT_ERR_IO, errno, "%s: cannot rename into place", path);
    if (st == GRAFT_OK) st = gr_remove_tree(old, err);
    gr_free(a, old);
    return st;
}

/* Renamed first, so that a half removed checkpoint is never taken for one. */
static graft_status remove_checkpoint(const graft_allocator *a, const char *dir, int64_t step, graft_error *err) {
    char *path = join3(a, dir, step, ""), *temp = join3(a, dir, step, ".tmp");
    graft_status st = path && temp ? gr_remove_tree(temp, err) : gr_fail_memory(err);
    if (st == GRAFT_OK && rename(path, temp) != 0)
        st = gr_fail_errno(err, GRAFT_ERR_IO, errno, "%s: cannot rename", path);
    if (st == GRAFT_OK) st = gr_remove_tree(temp, err);
    gr_free(a, path);
    gr_free(a, temp);
    return st;
}

graft_status gr_rotate_checkpoints(const graft_allocator *a, const char *dir, size_t limit, int64_t newest, int64_t best,
                                   graft_error *err) {
    int64_t *steps;
    size_t n, left;
    GR_TRY(gr_list_checkpoints(a, dir, &steps, &n, err));
    graft_status st = GRAFT_OK;
    left = n;
    for (size_t i = 0; i < n && left > limit && st == GRAFT_OK; i++) {
        if (steps[i] == newest || steps[i] == best) continue;
        st = remove_checkpoint(a, dir, steps[i], err);
        left--;
    }
    gr_free(a, steps);
    return st;
}

/* "checkpoint-N.old" of an interrupted exchange: the old one goes back unless the new one has arrived. */
static graft_status clean_old(const graft_allocator *a, const char *dir, const char *name, const char *path,
                              graft_error *err) {
    char *kept = gr_strndup(a, name, strlen(name) - 4);
    char *target = kept ? gr_path_join(a, dir, kept) : NULL;
    graft_status st = target ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK && gr_path_exists(target))
        st = gr_remove_tree(path, err);
    else if (st == GRAFT_OK && rename(path, target) != 0)
        st = gr_fail_errno(err, GRAFT_ERR_IO, errno, "%s: cannot rename", path);
    gr_free(a, target);
    gr_free(a, kept);
    return st;
}

graft_status gr_clean_output(const graft_allocator *a, const char *dir, graft_error *err) {
    char **names;
    size_t n;
    GR_TRY(gr_list_dir(a, dir, &names, &n, err));
    graft_status st = GRAFT_OK;
    for (size_t i = 0; i < n && st == GRAFT_OK; i++) {
        bool checkpoint = !strncmp(names[i], prefix, sizeof prefix - 1);
        bool unfinished = checkpoint && ends_with(names[i], ".tmp"), old = checkpoint && ends_with(names[i], ".old");
        /* Of gr_atomic_begin: ".NAME.tmp-PID". */
        const char *mark = names[i][0] == '.' ? strstr(names[i], ".tmp-") : NULL;
        bool file = mark && mark[5] && mark[5 + strspn(mark + 5, "0123456789")] == '\0';
        if (!unfinished && !old && !file) continue;
        char *path = gr_path_join(a, dir, names[i]);
        if (!path)
            st = gr_fail_memory(err);
        else
            st = old ? clean_old(a, dir, names[i], path, err) : gr_remove_tree(path, err);
        gr_free(a, path);
    }
    gr_free_names(a, names, n);
    return st;
}

/* --- Opening --- */

static graft_status lock_output(gr_trainer *t, graft_error *err) {
    t->lock = open(t->o->output_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->lock < 0)
        return gr_fail_errno(err, GRAFT_ERR_IO, errno, "%s: cannot open directory", t->o->output_dir);
    /* A file system without locks is used without. */
    if (flock(t->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return gr_fail(err, GRAFT_ERR_IO, "%s: another run is writing to this output_dir", t->o->output_dir);
    return GRAFT_OK;
}

static graft_status read_state(gr_trainer *t, graft_error *err) {
    char *path = gr_path_join(t->a, t->resumed_from, "trainer_state.json"), *text = NULL;
    size_t len;
    graft_status st = path ? gr_read_file(t->a, path, (size_t)1 << 30, &text, &len, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_state_read(&t->state, path, text, len, err);
    gr_free(t->a, text);
    gr_free(t->a, path);
    return st;
}

static graft_status start_anew(gr_trainer *t, const int64_t *steps, size_t n, graft_error *err) {
    const char *dir = t->o->output_dir;
    if (n && !t->o->overwrite_output_dir)
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "%s: holds checkpoint-%lld of an earlier run: go on from it with --resume-from-checkpoint latest, "
                       "or start anew with --overwrite-output-dir",
                       dir, (long long)steps[n - 1]);
    for (size_t i = 0; i < n; i++) GR_TRY(remove_checkpoint(t->a, dir, steps[i], err));
    return GRAFT_OK;
}

graft_status gr_output_open(gr_trainer *t, graft_error *err) {
    const char *dir = t->o->output_dir, *resume = t->o->resume_from_checkpoint;
    int64_t *steps;
    size_t n;
    if (!dir || !*dir) return gr_fail(err, GRAFT_ERR_ARGUMENT, "output_dir: expected a directory, found none");
    if (t->o->model && gr_is_same_file(dir, t->o->model))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "output_dir: expected another directory than the model's, found %s", dir);
    GR_TRY(gr_make_dirs(dir, err));
    GR_TRY(lock_output(t, err));
    GR_TRY(gr_clean_output(t->a, dir, err));
    GR_TRY(gr_list_checkpoints(t->a, dir, &steps, &n, err));
    bool newest = resume && (!strcmp(resume, "latest") || !strcmp(resume, "true") || !strcmp(resume, "auto"));
    graft_status st = GRAFT_OK;
    if (!resume || !*resume)
        st = start_anew(t, steps, n, err);
    else if (newest && n == 0 && strcmp(resume, "auto") != 0)
        st = gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: expected a checkpoint-N to resume from, found none", dir);
    else if (!newest || n > 0) {
        t->resumed_from = newest ? join3(t->a, dir, steps[n - 1], "") : gr_strdup(t->a, resume);
        st = t->resumed_from ? read_state(t, err) : gr_fail_memory(err);
    }
    gr_free(t->a, steps);
    return st;
}
