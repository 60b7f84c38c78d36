/* Files: mapped reading, whole reading, atomic writing, directories. Errors name the path. */
#ifndef GR_BASE_FILE_H
#define GR_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "graft/context.h"

/* A read-only mapping of a whole regular file. size 0 is allowed (data is then a valid empty pointer). */
typedef struct gr_mapping {
    const unsigned char *data;
    size_t size;
} gr_mapping;

graft_status gr_map_file(const char *path, gr_mapping *out, graft_error *err);
void gr_unmap_file(gr_mapping *m);
/* Tells the system that a part of a mapping will hardly be read again, so that its pages need not stay in memory. */
void gr_release_mapped(const void *data, size_t bytes);

/* Reads at most `limit` bytes (a larger file is an error); NUL-terminated; freed with gr_free. */
graft_status gr_read_file(const graft_allocator *a, const char *path, size_t limit, char **out, size_t *out_len,
                          graft_error *err);

/* A file that appears under its name only when complete: written beside (".NAME.tmp-PID"), flushed to disk, renamed.
 * Begin, write any number of times, then commit or abort (abort after a failed write; both free the state). */
typedef struct gr_atomic_file gr_atomic_file;
graft_status gr_atomic_begin(const graft_allocator *a, const char *path, gr_atomic_file **out, graft_error *err);
graft_status gr_atomic_write(gr_atomic_file *f, const void *bytes, size_t n, graft_error *err);
graft_status gr_atomic_commit(gr_atomic_file *f, graft_error *err);
void gr_atomic_abort(gr_atomic_file *f);
/* All of the above in one. */
graft_status gr_write_file(const graft_allocator *a, const char *path, const void *bytes, size_t n, graft_error *err);

graft_status gr_make_dirs(const char *path, graft_error *err); /* mkdir -p */
bool gr_path_exists(const char *path);
bool gr_is_dir(const char *path);
bool gr_is_same_file(const char *a, const char *b); /* both are there, and one file or directory */
graft_status gr_sync_dir(const char *path, graft_error *err);    /* makes renames inside it durable */
graft_status gr_remove_tree(const char *path, graft_error *err); /* rm -r; does not follow links; absent is fine */
/* Names in a directory, sorted bytewise, without "." and "..". Freed with gr_free_names. */
graft_status gr_list_dir(const graft_allocator *a, const char *path, char ***names, size_t *n, graft_error *err);
void gr_free_names(const graft_allocator *a, char **names, size_t n);

/* "dir/name" ; NULL when out of memory; freed with gr_free. */
char *gr_path_join(const graft_allocator *a, const char *dir, const char *name);

double gr_now_seconds(void);      /* monotonic */
size_t gr_peak_rss_bytes(void);   /* VmHWM of this process, 0 where unknown */

#endif
