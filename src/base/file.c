#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

static graft_status io_fail(graft_error *err, int code, const char *path, const char *what) {
    graft_status st = code == ENOENT ? GRAFT_ERR_NOT_FOUND : GRAFT_ERR_IO;
    return gr_fail_errno(err, st, code, "%s: %s", path, what);
}

/* Opens a regular file for reading and gives its size. */
static graft_status open_regular(const char *path, int *out_fd, size_t *out_size, graft_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return io_fail(err, errno, path, "cannot open");
    struct stat info;
    if (fstat(fd, &info) != 0) {
        int code = errno;
        close(fd);
        return io_fail(err, code, path, "cannot stat");
    }
    if (!S_ISREG(info.st_mode)) {
        close(fd);
        return gr_fail(err, GRAFT_ERR_IO, "%s: expected a regular file, found %s", path,
                       S_ISDIR(info.st_mode) ? "a directory" : "something else");
    }
    *out_fd = fd;
    *out_size = (size_t)info.st_size;
    return GRAFT_OK;
}

graft_status gr_map_file(const char *path, gr_mapping *out, graft_error *err) {
    static const unsigned char empty[1];
    int fd;
    size_t size;
    GR_TRY(open_regular(path, &fd, &size, err));
    if (size == 0) {
        close(fd);
        *out = (gr_mapping){.data = empty};
        return GRAFT_OK;
    }
    void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    int code = errno;
    close(fd);
    if (p == MAP_FAILED) return io_fail(err, code, path, "cannot map");
    *out = (gr_mapping){.data = p, .size = size};
    return GRAFT_OK;
}

void gr_unmap_file(gr_mapping *m) {
    if (m->size) munmap((void *)(uintptr_t)m->data, m->size);
    *m = (gr_mapping){0};
}

void gr_release_mapped(const void *data, size_t bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)data + page - 1) / page * page;
    uintptr_t to = ((uintptr_t)data + bytes) / page * page;
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}

/* Reads until `size` bytes or the end of the file. */
static graft_status read_fully(int fd, const char *path, char *to, size_t size, size_t *got, graft_error *err) {
    size_t n = 0;
    while (n < size) {
        ssize_t r = read(fd, to + n, size - n);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return io_fail(err, errno, path, "cannot read");
        if (r == 0) break;
        n += (size_t)r;
    }
    *got = n;
    return GRAFT_OK;
}

graft_status gr_read_file(const graft_allocator *a, const char *path, size_t limit, char **out, size_t *out_len,
                          graft_error *err) {
    int fd;
    size_t size, got = 0;
    GR_TRY(open_regular(path, &fd, &size, err));
    char *text = NULL;
    graft_status st = GRAFT_OK;
    if (size > limit)
        st = gr_fail(err, GRAFT_ERR_LIMIT, "%s: expected at most %zu bytes, found %zu", path, limit, size);
    else if (!(text = gr_alloc(a, size + 1)))
        st = gr_fail_memory(err);
    else
        st = read_fully(fd, path, text, size, &got, err);
    close(fd);
    if (st != GRAFT_OK) {
        gr_free(a, text);
        return st;
    }
    text[got] = '\0';
    *out = text;
    if (out_len) *out_len = got;
    return GRAFT_OK;
}

struct gr_atomic_file {
    const graft_allocator *a;
    char *path, *temp;
    int fd;
};

static void atomic_free(gr_atomic_file *f) {
    if (f->fd >= 0) close(f->fd);
    gr_free(f->a, f->path);
    gr_free(f->a, f->temp);
    gr_free(f->a, f);
}

graft_status gr_atomic_begin(const graft_allocator *a, const char *path, gr_atomic_file **out, graft_error *err) {
    gr_atomic_file *f = gr_calloc(a, 1, sizeof *f);
    if (!f) return gr_fail_memory(err);
    f->a = a;
    f->fd = -1;
    f->path = gr_strdup(a, path);
    const char *slash = strrchr(path, '/');
    size_t dir = slash ? (size_t)(slash - path) + 1 : 0;
    size_t room = strlen(path) + 40;
    f->temp = gr_alloc(a, room);
    if (!f->path || !f->temp) {
        atomic_free(f);
        return gr_fail_memory(err);
    }
    snprintf(f->temp, room, "%.*s.%s.tmp-%ld", (int)dir, path, path + dir, (long)getpid());
    f->fd = open(f->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f->fd < 0) {
        graft_status st = io_fail(err, errno, path, "cannot create");
        atomic_free(f);
        return st;
    }
    *out = f;
    return GRAFT_OK;
}

graft_status gr_atomic_write(gr_atomic_file *f, const void *bytes, size_t n, graft_error *err) {
    const char *p = bytes;
    while (n) {
        ssize_t w = write(f->fd, p, GR_MIN(n, (size_t)1 << 30));
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return io_fail(err, errno, f->path, "cannot write");
        p += w;
        n -= (size_t)w;
    }
    return GRAFT_OK;
}

static graft_status sync_parent(const char *path, graft_error *err) {
    char dir[4096];
    const char *slash = strrchr(path, '/');
    if (!slash) return gr_sync_dir(".", err);
    if (slash == path) return gr_sync_dir("/", err);
    snprintf(dir, sizeof dir, "%.*s", (int)(slash - path), path);
    return gr_sync_dir(dir, err);
}

graft_status gr_atomic_commit(gr_atomic_file *f, graft_error *err) {
    graft_status st = GRAFT_OK;
    if (fsync(f->fd) != 0) st = io_fail(err, errno, f->path, "cannot flush");
    if (close(f->fd) != 0 && st == GRAFT_OK) st = io_fail(err, errno, f->path, "cannot close");
    f->fd = -1;
    if (st == GRAFT_OK && rename(f->temp, f->path) != 0) st = io_fail(err, errno, f->path, "cannot rename into place");
    if (st != GRAFT_OK)
        unlink(f->temp);
    else
        st = sync_parent(f->path, err);
    atomic_free(f);
    return st;
}

void gr_atomic_abort(gr_atomic_file *f) {
    if (!f) return;
    unlink(f->temp);
    atomic_free(f);
}

graft_status gr_write_file(const graft_allocator *a, const char *path, const void *bytes, size_t n, graft_error *err) {
    gr_atomic_file *f;
    GR_TRY(gr_atomic_begin(a, path, &f, err));
    graft_status st = gr_atomic_write(f, bytes, n, err);
    if (st != GRAFT_OK) {
        gr_atomic_abort(f);
        return st;
    }
    return gr_atomic_commit(f, err);
}

graft_status gr_make_dirs(const char *path, graft_error *err) {
    char part[4096];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof part) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: path is empty or too long", path);
    for (size_t i = 1; i <= n; i++) {
        if (i < n && path[i] != '/') continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST) return io_fail(err, errno, part, "cannot create directory");
    }
    if (!gr_is_dir(path)) return gr_fail(err, GRAFT_ERR_IO, "%s: expected a directory, found a file", path);
    return GRAFT_OK;
}

bool gr_path_exists(const char *path) { return access(path, F_OK) == 0; }

bool gr_is_dir(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool gr_is_same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

graft_status gr_sync_dir(const char *path, graft_error *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return io_fail(err, errno, path, "cannot open directory");
    /* EINVAL: a file system that cannot flush directories; its renames are as durable as it makes them. */
    int code = fsync(fd) == 0 || errno == EINVAL ? 0 : errno;
    close(fd);
    return code ? io_fail(err, code, path, "cannot flush directory") : GRAFT_OK;
}

static int remove_at(int parent, const char *name) {
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) return 0;
    if (errno != EISDIR && errno != EPERM) return errno;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return errno;
    DIR *d = fdopendir(fd);
    if (!d) {
        int code = errno;
        close(fd);
        return code;
    }
    int code = 0;
    for (struct dirent *e; code == 0 && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) code = remove_at(fd, e->d_name);
    closedir(d);
    if (code == 0 && unlinkat(parent, name, AT_REMOVEDIR) != 0 && errno != ENOENT) code = errno;
    return code;
}

graft_status gr_remove_tree(const char *path, graft_error *err) {
    int code = remove_at(AT_FDCWD, path);
    return code ? io_fail(err, code, path, "cannot remove") : GRAFT_OK;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

graft_status gr_list_dir(const graft_allocator *a, const char *path, char ***names, size_t *n, graft_error *err) {
    DIR *d = opendir(path);
    if (!d) return io_fail(err, errno, path, "cannot open directory");
    char **list = NULL;
    size_t count = 0, cap = 0;
    graft_status st = GRAFT_OK;
    for (struct dirent *e; st == GRAFT_OK && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        st = gr_grow(a, (void **)&list, &cap, count + 1, sizeof *list, err);
        if (st != GRAFT_OK) break;
        if (!(list[count] = gr_strdup(a, e->d_name)))
            st = gr_fail_memory(err);
        else
            count++;
    }
    closedir(d);
    if (st != GRAFT_OK) {
        gr_free_names(a, list, count);
        return st;
    }
    if (count) qsort(list, count, sizeof *list, by_name);
    *names = list;
    *n = count;
    return GRAFT_OK;
}

void gr_free_names(const graft_allocator *a, char **names, size_t n) {
    for (size_t i = 0; i < n; i++) gr_free(a, names[i]);
    gr_free(a, names);
}

char *gr_path_join(const graft_allocator *a, const char *dir, const char *name) {
    size_t nd = strlen(dir), nn = strlen(name);
    bool slash = nd > 0 && dir[nd - 1] != '/';
    char *p = gr_alloc(a, nd + nn + 2);
    if (!p) return NULL;
    memcpy(p, dir, nd);
    if (slash) p[nd++] = '/';
    memcpy(p + nd, name, nn + 1);
    return p;
}

double gr_now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

size_t gr_peak_rss_bytes(void) {
    FILE *f = fopen("/proc/self/status", "r");
    if (!f) return 0;
    char line[256];
    size_t kib = 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %zu", &kib) == 1) break;
    fclose(f);
    return kib * 1024;
}
