/* Small questions about paths. */
#ifndef GR_IO_PATHS_H
#define GR_IO_PATHS_H

#include "base/base.h"

bool gr_ends_with(const char *text, const char *tail);
/* A name that cannot leave its directory: not empty, ".", "..", and without '/'. */
bool gr_plain_file_name(const char *name);
/* "a/b" of "a/b/c", "." of "c"; NULL when out of memory; freed with gr_free. */
char *gr_path_dir(const graft_allocator *a, const char *path);
/* The part after the last '/'. */
const char *gr_path_base(const char *path);

#endif
