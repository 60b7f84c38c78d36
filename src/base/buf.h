/* Growable byte buffer, always NUL-terminated once something was written. A failed allocation is remembered: callers
 * may append many pieces and check once with gr_buf_status. */
#ifndef GR_BASE_BUF_H
#define GR_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include "graft/context.h"

typedef struct gr_buf {
    const graft_allocator *a;
    char *data; /* NULL while empty */
    size_t len, cap;
    size_t limit; /* 0: none; appending beyond it fails with GRAFT_ERR_LIMIT */
    graft_status failed;
} gr_buf;

void gr_buf_init(gr_buf *b, const graft_allocator *a);
void gr_buf_free(gr_buf *b);
void gr_buf_clear(gr_buf *b); /* keeps the memory, forgets a failure */
void gr_buf_add(gr_buf *b, const void *bytes, size_t n);
void gr_buf_add_char(gr_buf *b, char c);
void gr_buf_add_text(gr_buf *b, const char *text);
void gr_buf_add_format(gr_buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Makes room for n more bytes, returns where they go (NULL on failure); the caller writes and then adds to len. */
char *gr_buf_reserve(gr_buf *b, size_t n);
graft_status gr_buf_status(const gr_buf *b, graft_error *err);
const char *gr_buf_text(const gr_buf *b); /* "" while empty */
/* Hands the bytes over (freed with gr_free of the same allocator; NUL-terminated, never NULL on GRAFT_OK). */
graft_status gr_buf_take(gr_buf *b, char **out, size_t *out_len, graft_error *err);

#endif
