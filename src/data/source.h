/* A stream of bytes from a file or standard input, inflated where it is gzip (RFC 1952, any number of members). */
#ifndef GR_DATA_SOURCE_H
#define GR_DATA_SOURCE_H

#include "data/data.h"

typedef struct gr_source gr_source;

/* "-" is standard input, which is not closed. A folder is GRAFT_ERR_IO. */
graft_status gr_source_open(const graft_allocator *a, const char *path, gr_source **out, graft_error *err);
/* At most n > 0 bytes into buf; *got is 0 only at the end. Compressed data that end early or are damaged give
 * GRAFT_ERR_FORMAT. */
graft_status gr_source_read(gr_source *s, void *buf, size_t n, size_t *got, graft_error *err);
void gr_source_close(gr_source *s);
const char *gr_source_name(const gr_source *s); /* the path, or "standard input" */

#endif
