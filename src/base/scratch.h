/* Scratch files: memory that the system may write out and take back. The file has no name and is gone with the process,
 * however it ends. Its blocks are taken when it is made, so that a full disk is an error then and never a signal. */
#ifndef GR_BASE_SCRATCH_H
#define GR_BASE_SCRATCH_H

#include <stddef.h>
#include "graft/context.h"

typedef struct gr_scratch {
    void *data; /* zeros at first */
    size_t size;
} gr_scratch;

/* At least one byte, in a file in the directory `dir`. */
graft_status gr_scratch_map(const char *dir, size_t bytes, gr_scratch *out, graft_error *err);
void gr_scratch_unmap(gr_scratch *s); /* zeros are fine */
/* A part that is not needed soon leaves the process's memory, one that is needed next is read ahead. Contents stay. */
void gr_scratch_release(const void *data, size_t bytes);
void gr_scratch_fetch(const void *data, size_t bytes);

#endif
