/* TensorBoard event files: scalars of a run over its steps, written and read.
 *
 * A file is a row of TFRecords: length (8 bytes, little-endian), masked CRC-32C of these 8 bytes (4), payload, masked
 * CRC-32C of the payload (4); the mask is rotate right by 15, plus 0xa282ead8. A payload is the protobuf message Event
 * { 1: double wall_time, 2: int64 step, 3: string file_version, 5: Summary { 1: repeated Value { 1: string tag,
 * 2: float simple_value } }, 7: SessionLog { 1: status } }. The first one says "brain.Event:2"; a run that goes on
 * from a step opens a new file with status START (1) at that step, upon which readers forget what older files have from
 * there on. Equal to what tensorboard 2.21 writes and reads. */
#ifndef GR_TRAIN_EVENTS_H
#define GR_TRAIN_EVENTS_H

#include "base/base.h"

typedef struct gr_scalar {
    const char *tag;
    double value; /* stored as float */
} gr_scalar;

/* The bytes of single records. */
void gr_event_add_version(gr_buf *b, double wall_time);
void gr_event_add_restart(gr_buf *b, double wall_time, int64_t step);
void gr_event_add_scalar(gr_buf *b, double wall_time, int64_t step, const gr_scalar *s);

typedef struct gr_events gr_events;

/* Makes dir/events.out.tfevents.SECONDS.HOST.PID.N, N the first number that is free. restart: the first step that this
 * file will hold, of a run that goes on; -1: a run from its beginning. */
graft_status gr_events_open(const graft_allocator *a, const char *dir, int64_t restart, gr_events **out,
                            graft_error *err);
/* One record for each, all in one write. */
graft_status gr_events_write(gr_events *w, int64_t step, const gr_scalar *scalars, size_t n, graft_error *err);
void gr_events_close(gr_events *w); /* NULL allowed */

/* Calls `scalar` for every scalar and `restart` for every START, in order. A record that is cut at the end of the file
 * (the run is still being written, or was killed) ends it without error; a wrong checksum or a malformed message is
 * GRAFT_ERR_FORMAT naming `name` and the byte. A tag is not NUL-terminated. */
typedef struct gr_events_visitor {
    void *user;
    graft_status (*scalar)(void *user, int64_t step, const char *tag, size_t tag_len, double value, graft_error *err);
    graft_status (*restart)(void *user, int64_t step, graft_error *err);
} gr_events_visitor;
graft_status gr_events_read(const char *name, const void *data, size_t size, const gr_events_visitor *v,
                            graft_error *err);

uint32_t gr_crc32c(const void *bytes, size_t n); /* Castagnoli, reflected polynomial 0x82f63b78 */

#endif
