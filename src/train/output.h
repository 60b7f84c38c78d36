/* The folder of a run: which checkpoints it holds, how one appears and how old ones go. */
#ifndef GR_TRAIN_OUTPUT_H
#define GR_TRAIN_OUTPUT_H

#include "base/base.h"

/* Steps of the complete checkpoints in `dir`, ascending (freed with gr_free; NULL when there is none). */
graft_status gr_list_checkpoints(const graft_allocator *a, const char *dir, int64_t **steps, size_t *n, graft_error *err);
/* Renames `temp` to `path`; a directory that stands there is exchanged in one step where the system can, and removed. */
graft_status gr_publish_dir(const graft_allocator *a, const char *temp, const char *path, graft_error *err);
/* Removes the oldest until `limit` are left, but never `newest` and `best` (steps). */
graft_status gr_rotate_checkpoints(const graft_allocator *a, const char *dir, size_t limit, int64_t newest, int64_t best,
                                   graft_error *err);
/* Removes what an interrupted run has left: unfinished checkpoints and files. */
graft_status gr_clean_output(const graft_allocator *a, const char *dir, graft_error *err);

#endif
