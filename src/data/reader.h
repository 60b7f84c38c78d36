/* Cuts a stream into the texts of its records: one a line (JSON Lines), or the elements of one JSON array when the
 * first character is '['. What stands inside a record is not looked at here. */
#ifndef GR_DATA_READER_H
#define GR_DATA_READER_H

#include "data/data.h"

typedef struct gr_piece {
    gr_slice text; /* NUL-terminated; borrowed until the next call */
    size_t line;   /* 1-based, of its first character */
} gr_piece;

typedef struct gr_reader gr_reader;

/* `max_bytes`: a longer record is an error, and no more memory than about twice that is used. */
graft_status gr_reader_open(const graft_allocator *a, const char *path, size_t max_bytes, gr_reader **out,
                            graft_error *err);
/* *more is false at the end. After GRAFT_ERR_LIMIT (a record that is too long; *line names it) the next call goes on
 * behind it; after any other failure the stream cannot be read on. */
graft_status gr_reader_next(gr_reader *r, gr_piece *out, bool *more, size_t *line, graft_error *err);
void gr_reader_close(gr_reader *r);
const char *gr_reader_name(const gr_reader *r);

#endif
