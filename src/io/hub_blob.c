/* One file: ask what it is (HEAD), load it under a lock into blobs/ETAG.incomplete, check it, give it its name, link
 * it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "io/hub_blob.h"
#include "io/paths.h"

typedef struct transfer {
    gr_hub_session *s;
    const char *file, *path; /* name in the model; the incomplete file */
    int fd;
    int64_t have, size; /* bytes in the file; bytes expected, -1: not known */
    int64_t from;       /* where the running request was asked to start */
    bool started;       /* the first bytes of the running request came */
    double last_report;
} transfer;

static graft_status io_fail(graft_error *err, int code, const char *path, const char *what) {
    return gr_fail_errno(err, GRAFT_ERR_IO, code, "%s: %s", path, what);
}

static void report(transfer *t, bool last) {
    const graft_hub_options *o = t->s->options;
    double now = gr_now_seconds();
    if (!o->progress || (!last && now - t->last_report < 0.1)) return;
    t->last_report = now;
    o->progress(o->progress_user, t->file, (uint64_t)t->have, t->size > 0 ? (uint64_t)t->size : 0);
}

static graft_status start_over(transfer *t, graft_error *err) {
    if (ftruncate(t->fd, 0) != 0 || lseek(t->fd, 0, SEEK_SET) < 0) return io_fail(err, errno, t->path, "cannot empty");
    t->have = 0;
    return GRAFT_OK;
}

/* The server may answer a range with the whole file, or with another range. */
static graft_status check_start(transfer *t, const gr_http_reply *reply, graft_error *err) {
    t->started = true;
    if (t->from == 0) return GRAFT_OK;
    if (reply->status == 200) return start_over(t, err);
    if (reply->range_start == t->from) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_FORMAT, "%s of %s: expected bytes from %lld on, the server sent them from %lld",
                   t->file, t->s->name, (long long)t->from, (long long)reply->range_start);
}

static graft_status on_bytes(void *user, const gr_http_reply *reply, const void *bytes, size_t n, graft_error *err) {
    transfer *t = user;
    const char *p = bytes;
    if (!t->started) GR_TRY(check_start(t, reply, err));
    if (t->size >= 0 && (int64_t)n > t->size - t->have)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s of %s: expected %lld bytes, the server sends more", t->file,
                       t->s->name, (long long)t->size);
    while (n) {
        ssize_t w = write(t->fd, p, n);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return io_fail(err, errno, t->path, "cannot write");
        p += w;
        n -= (size_t)w;
        t->have += w;
    }
    report(t, false);
    return GRAFT_OK;
}

static graft_status check_space(const transfer *t, graft_error *err) {
    struct statvfs info;
    if (t->size < 0 || fstatvfs(t->fd, &info) != 0) return GRAFT_OK;
    unsigned long long free_bytes = (unsigned long long)info.f_bavail * info.f_frsize;
    unsigned long long need = (unsigned long long)(t->size - t->have);
    if (need <= free_bytes) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_IO, "%s: the disk is too full: %llu MiB are needed, %llu MiB are free", t->path,
                   (need >> 20) + 1, free_bytes >> 20);
}

static graft_status one_request(transfer *t, const char *what, const char *url, bool *done, gr_http_reply *reply,
                                graft_error *err) {
    t->from = t->have;
    t->started = false;
    GR_TRY(gr_http_request(t->s->http, what, url, t->from, on_bytes, t, reply, err));
    if (reply->status == 416 && t->from > 0) return start_over(t, err); /* what is there is not what the server has */
    if (reply->status != 200 && reply->status != 206) return gr_hub_fail(t->s, t->file, reply, err);
    if (t->size >= 0 && t->have < t->size)
        return gr_fail(err, GRAFT_ERR_NETWORK, "%s: the connection ended after %lld of %lld bytes", what,
                       (long long)t->have, (long long)t->size);
    *done = true;
    return GRAFT_OK;
}

/* Loads what is missing; a try that brought something forward resets the count of tries. */
static graft_status load(transfer *t, const char *url, graft_error *err) {
    char what[1400];
    snprintf(what, sizeof what, "%s of %s", t->file, t->s->name);
    bool done = t->size >= 0 && t->have == t->size;
    for (int attempt = 0; !done;) {
        gr_http_reply reply = {0};
        GR_TRY(check_space(t, err));
        int64_t before = t->have;
        graft_status st = one_request(t, what, url, &done, &reply, err);
        if (done) break;
        if (t->have > before) attempt = 0;
        if (st != GRAFT_OK && !gr_hub_passing(st, &reply)) return st;
        if (attempt >= gr_hub_max_retries(t->s))
            return st != GRAFT_OK ? st
                                  : gr_fail(err, GRAFT_ERR_NETWORK, "%s: the server refuses to send the rest", what);
        GR_TRY(gr_hub_wait(t->s, attempt++, err));
    }
    report(t, true);
    return GRAFT_OK;
}

/* Compares the whole file with its SHA-256. */
static graft_status check_hash(transfer *t, const char *expected, graft_error *err) {
    gr_mapping map;
    char hex[65];
    gr_sha256 hash;
    GR_TRY(gr_map_file(t->path, &map, err));
    gr_sha256_init(&hash);
    gr_sha256_add(&hash, map.data, map.size);
    gr_sha256_end_hex(&hash, hex);
    gr_unmap_file(&map);
    if (strcmp(hex, expected) == 0) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_FORMAT, "%s of %s: expected SHA-256 %s, found %s", t->file, t->s->name, expected,
                   hex);
}

/* Loads and checks; a file that an earlier call began and that is wrong in the end is loaded once more from the start.
 */
static graft_status load_checked(transfer *t, const char *url, const char *etag, graft_error *err) {
    bool hashed = gr_hub_is_hex(etag, 64);
    for (int round = 0;; round++) {
        bool resumed = t->have > 0;
        GR_TRY(load(t, url, err));
        graft_status st = hashed ? check_hash(t, etag, err) : GRAFT_OK;
        if (st == GRAFT_OK) return GRAFT_OK;
        GR_TRY(start_over(t, err));
        if (round == 1 || !resumed) {
            unlink(t->path);
            return st;
        }
    }
}

static graft_status load_blob(gr_hub_session *s, const char *file, const char *url, const char *blob, const char *etag,
                              int64_t size, graft_error *err) {
    char *path = gr_format_path(s->a, "%s.incomplete", blob);
    if (!path) return gr_fail_memory(err);
    transfer t = {
        .s = s, .file = file, .path = path, .size = size, .fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666)};
    graft_status st = t.fd < 0 ? io_fail(err, errno, path, "cannot create") : GRAFT_OK;
    if (st == GRAFT_OK) {
        t.have = lseek(t.fd, 0, SEEK_END);
        if (t.have < 0 || (size >= 0 && t.have > size)) st = start_over(&t, err);
    }
    if (st == GRAFT_OK) st = load_checked(&t, url, etag, err);
    if (st == GRAFT_OK && fsync(t.fd) != 0) st = io_fail(err, errno, path, "cannot flush");
    if (t.fd >= 0) close(t.fd);
    if (st == GRAFT_OK && rename(path, blob) != 0) st = io_fail(err, errno, blob, "cannot rename into place");
    gr_free(s->a, path);
    return st;
}

/* The lock that huggingface_hub takes too. */
static graft_status lock_blob(const gr_hub_session *s, const char *etag, int *out, graft_error *err) {
    char *dir = gr_format_path(s->a, "%s/.locks/%s", s->cache, gr_path_base(s->model));
    char *path = dir ? gr_format_path(s->a, "%s/%s.lock", dir, etag) : NULL;
    graft_status st = path ? gr_make_dirs(dir, err) : gr_fail_memory(err);
    int fd = -1;
    if (st == GRAFT_OK && (fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644)) < 0)
        st = io_fail(err, errno, path, "cannot create");
    while (st == GRAFT_OK && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            st = io_fail(err, errno, path, "cannot lock");
            break;
        }
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        st = gr_check_cancel(s->ctx, err);
    }
    if (st != GRAFT_OK && fd >= 0) close(fd);
    gr_free(s->a, dir);
    gr_free(s->a, path);
    if (st == GRAFT_OK) *out = fd;
    return st;
}

/* A relative link from the snapshot to the blob; where links are not possible the blob itself moves there. */
static graft_status link_blob(const gr_hub_session *s, const char *file, const char *pointer, const char *blob,
                              const char *etag, graft_error *err) {
    gr_buf target;
    gr_buf_init(&target, s->a);
    gr_buf_add_text(&target, "../../");
    for (const char *p = file; *p; p++)
        if (*p == '/') gr_buf_add_text(&target, "../");
    gr_buf_add_format(&target, "blobs/%s", etag);
    char *temp = gr_format_path(s->a, "%s.tmp-%ld", pointer, (long)getpid());
    graft_status st = temp ? gr_buf_status(&target, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) {
        unlink(temp);
        if (symlink(target.data, temp) == 0) {
            if (rename(temp, pointer) != 0) st = io_fail(err, errno, pointer, "cannot create link");
        } else if (rename(blob, pointer) != 0) {
            st = io_fail(err, errno, pointer, "cannot create");
        }
    }
    gr_free(s->a, temp);
    gr_buf_free(&target);
    return st;
}

/* W/"x" and "x" become x, which must be usable as a file name. */
static graft_status clean_etag(const gr_hub_session *s, const char *file, const gr_http_reply *reply, char out[256],
                               graft_error *err) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const char *from = reply->linked_etag[0] ? reply->linked_etag : reply->etag;
    if (strncmp(from, "W/", 2) == 0) from += 2;
    if (*from == '"') from++;
    size_t n = strspn(from, allowed);
    if (n == 0 || n > 128 || (from[n] && strcmp(from + n, "\"") != 0))
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s of %s: expected a plain ETag in the Hub's answer, found \"%.100s\"",
                       file, s->name, from);
    memcpy(out, from, n);
    out[n] = '\0';
    return GRAFT_OK;
}

/* Asks for the file's ETag and size. */
static graft_status describe(gr_hub_session *s, const char *file, const char *url, char etag[256], int64_t *size,
                             graft_error *err) {
    gr_http_reply reply;
    GR_TRY(gr_hub_get(s, file, url, NULL, &reply, err));
    if (reply.commit[0] && strcmp(reply.commit, s->commit) != 0)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s of %s: expected commit %s, the Hub answered for %s", file, s->name,
                       s->commit, reply.commit);
    GR_TRY(clean_etag(s, file, &reply, etag, err));
    *size = reply.linked_size >= 0 ? reply.linked_size : reply.status == 200 ? reply.length : -1;
    return GRAFT_OK;
}

static graft_status fetch_to(gr_hub_session *s, const char *file, const char *url, const char *pointer,
                             graft_error *err) {
    char etag[256];
    int64_t size;
    int lock = -1;
    GR_TRY(describe(s, file, url, etag, &size, err));
    char *blob = gr_format_path(s->a, "%s/blobs/%s", s->model, etag),
         *blobs = gr_format_path(s->a, "%s/blobs", s->model);
    char *dir = gr_path_dir(s->a, pointer);
    graft_status st = blob && blobs && dir ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_make_dirs(blobs, err);
    if (st == GRAFT_OK) st = gr_make_dirs(dir, err);
    if (st == GRAFT_OK) st = lock_blob(s, etag, &lock, err);
    if (st == GRAFT_OK && !gr_path_exists(blob)) st = load_blob(s, file, url, blob, etag, size, err);
    if (st == GRAFT_OK) st = link_blob(s, file, pointer, blob, etag, err);
    if (lock >= 0) close(lock);
    gr_free(s->a, blob);
    gr_free(s->a, blobs);
    gr_free(s->a, dir);
    return st;
}

graft_status gr_hub_fetch(gr_hub_session *s, const char *file, graft_error *err) {
    char *pointer = gr_format_path(s->a, "%s/snapshots/%s/%s", s->model, s->commit, file);
    char *encoded = gr_hub_encode(s->a, file, true);
    char *url = encoded ? gr_format_path(s->a, "%s/%s/resolve/%s/%s", s->endpoint, s->name, s->commit, encoded) : NULL;
    graft_status st = GRAFT_OK;
    if (!pointer || !url)
        st = gr_fail_memory(err);
    else if (!gr_path_exists(pointer))
        st = fetch_to(s, file, url, pointer, err);
    gr_free(s->a, pointer);
    gr_free(s->a, encoded);
    gr_free(s->a, url);
    return st;
}
