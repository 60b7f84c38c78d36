#define _GNU_SOURCE
#include "base/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/base.h"

static graft_status open_unnamed(const char *dir, int *out, graft_error *err) {
    *out = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (*out >= 0) return GRAFT_OK;
    /* Not every file system knows files without a name. */
    char path[4096];
    if (snprintf(path, sizeof path, "%s/.graft-scratch-XXXXXX", dir) >= (int)sizeof path)
        return gr_fail(err, GRAFT_ERR_LIMIT, "a path of %zu bytes", strlen(dir));
    *out = mkostemp(path, O_CLOEXEC);
    if (*out < 0)
        return gr_fail_errno(err, errno == ENOENT ? GRAFT_ERR_NOT_FOUND : GRAFT_ERR_IO, errno,
                             "%s: no file can be made there", dir);
    unlink(path);
    return GRAFT_OK;
}

/* A limit on the size of files would be a signal. */
static int reserve(int file, size_t bytes) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur) return EFBIG;
    int code;
    do code = posix_fallocate(file, 0, (off_t)bytes);
    while (code == EINTR);
    return code;
}

graft_status gr_scratch_map(const char *dir, size_t bytes, gr_scratch *out, graft_error *err) {
    if (bytes > (size_t)INT64_MAX)
        return gr_fail(err, GRAFT_ERR_LIMIT, "%s: expected less than 2^63 bytes, found %zu", dir, bytes);
    int file;
    GR_TRY(open_unnamed(dir, &file, err));
    int code = reserve(file, bytes);
    if (code) {
        close(file);
        return gr_fail_errno(err, GRAFT_ERR_IO, code, "%s: expected room for a file of %.1f MiB", dir,
                             (double)bytes / 1048576);
    }
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    code = errno;
    close(file); /* the map keeps it */
    if (data == MAP_FAILED)
        return gr_fail_errno(err, GRAFT_ERR_MEMORY, code, "%s: a file of %zu bytes cannot be mapped", dir, bytes);
    *out = (gr_scratch){.data = data, .size = bytes};
    return GRAFT_OK;
}

void gr_scratch_unmap(gr_scratch *s) {
    if (s->size) munmap(s->data, s->size);
    *s = (gr_scratch){0};
}

static void advise(const void *data, size_t bytes, int advice) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)data / page * page;
    if (bytes) madvise((void *)from, (uintptr_t)data + bytes - from, advice);
}

/* Of a shared map this only unmaps the pages: what was written stays in the file's cache. */
void gr_scratch_release(const void *data, size_t bytes) { advise(data, bytes, MADV_DONTNEED); }

void gr_scratch_fetch(const void *data, size_t bytes) { advise(data, bytes, MADV_WILLNEED); }
