/* All records of all files, with what is wrong with some of them: the loop that every kind of data set stands on. */
#ifndef GR_DATA_SCAN_H
#define GR_DATA_SCAN_H

#include "data/record.h"

typedef struct gr_scan_place {
    const char *text; /* "file:line" */
    size_t file;      /* index in options->paths */
    size_t line;
} gr_scan_place;

/* Called for each good record. The record dies with the arena after the call. An error names no place. */
typedef graft_status (*gr_scan_fn)(void *user, gr_arena *arena, const gr_scan_place *place, const gr_record *record,
                                   graft_error *err);

enum { GR_SCAN_REASONS = 8 };

typedef struct gr_scan {
    const graft_allocator *a;
    size_t records, bad;
    char *reason[GR_SCAN_REASONS]; /* of the first bad ones; freed by gr_scan_free */
} gr_scan;

/* The first bad record is the error, unless options->skip_bad_records. Out of memory, a file that cannot be read and
 * cancellation are never skipped. `scan` is filled as far as it went, also on failure. */
graft_status gr_scan_records(graft_context *ctx, const graft_data_options *options, size_t vocab, gr_scan_fn fn,
                             void *user, gr_scan *scan, graft_error *err);
void gr_scan_free(gr_scan *scan);
/* GRAFT_ERR_FORMAT: nothing usable was found; says how many records there were and what was wrong with the first. */
graft_status gr_scan_fail_empty(const gr_scan *scan, const graft_data_options *options, const char *why,
                                graft_error *err);

#endif
