#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <time.h>
#include <unistd.h>

#include "train/events.h"

/* Four bits at a time: event files are small. */
uint32_t gr_crc32c(const void *bytes, size_t n) {
    static const uint32_t table[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
                                       0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
                                       0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    uint32_t crc = ~0u;
    for (const unsigned char *p = bytes; n--; p++) {
        crc ^= *p;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static uint32_t masked_crc(const void *bytes, size_t n) {
    uint32_t crc = gr_crc32c(bytes, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* --- Writing --- */

static void put_le(unsigned char *to, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(value >> (8 * i));
}

static uint64_t get_le(const unsigned char *from, int bytes) {
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++) v |= (uint64_t)from[i] << (8 * i);
    return v;
}

static size_t put_varint(unsigned char *to, uint64_t value) {
    size_t n = 0;
    for (; value >= 0x80; value >>= 7) to[n++] = (unsigned char)(value | 0x80);
    to[n++] = (unsigned char)value;
    return n;
}

/* Wall time and step: fields that protobuf leaves out where they are zero. */
static size_t put_event_head(unsigned char *to, double wall_time, int64_t step) {
    uint64_t bits;
    memcpy(&bits, &wall_time, sizeof bits);
    size_t n = 0;
    if (bits) {
        to[n++] = 1 << 3 | 1;
        put_le(to + n, bits, 8);
        n += 8;
    }
    if (step) {
        to[n++] = 2 << 3 | 0;
        n += put_varint(to + n, (uint64_t)step);
    }
    return n;
}

static void add_record(gr_buf *b, const void *payload, size_t n) {
    unsigned char head[12], foot[4];
    put_le(head, n, 8);
    put_le(head + 8, masked_crc(head, 8), 4);
    put_le(foot, masked_crc(payload, n), 4);
    gr_buf_add(b, head, sizeof head);
    gr_buf_add(b, payload, n);
    gr_buf_add(b, foot, sizeof foot);
}

void gr_event_add_version(gr_buf *b, double wall_time) {
    unsigned char event[64];
    static const char version[] = "brain.Event:2";
    size_t n = put_event_head(event, wall_time, 0);
    event[n++] = 3 << 3 | 2;
    event[n++] = sizeof version - 1;
    memcpy(event + n, version, sizeof version - 1);
    add_record(b, event, n + sizeof version - 1);
}

void gr_event_add_restart(gr_buf *b, double wall_time, int64_t step) {
    unsigned char event[64];
    size_t n = put_event_head(event, wall_time, step);
    const unsigned char log[] = {7 << 3 | 2, 2, 1 << 3 | 0, 1};
    memcpy(event + n, log, sizeof log);
    add_record(b, event, n + sizeof log);
}

enum { MAX_TAG = 200 };

void gr_event_add_scalar(gr_buf *b, double wall_time, int64_t step, const gr_scalar *s) {
    unsigned char event[MAX_TAG + 64];
    size_t tag = GR_MIN(strlen(s->tag), (size_t)MAX_TAG);
    unsigned char size[4];
    size_t value_len = 1 + put_varint(size, tag) + tag + 5;
    size_t summary_len = 1 + put_varint(size, value_len) + value_len;
    float value = (float)s->value;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    size_t n = put_event_head(event, wall_time, step);
    event[n++] = 5 << 3 | 2;
    n += put_varint(event + n, summary_len);
    event[n++] = 1 << 3 | 2;
    n += put_varint(event + n, value_len);
    event[n++] = 1 << 3 | 2;
    n += put_varint(event + n, tag);
    memcpy(event + n, s->tag, tag);
    n += tag;
    event[n++] = 2 << 3 | 5;
    put_le(event + n, bits, 4);
    add_record(b, event, n + 4);
}

struct gr_events {
    const graft_allocator *a;
    char *path;
    int fd;
};

static double wall_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static graft_status write_all(gr_events *w, const gr_buf *b, graft_error *err) {
    GR_TRY(gr_buf_status(b, err));
    for (size_t done = 0; done < b->len;) {
        ssize_t n = write(w->fd, b->data + done, b->len - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return gr_fail_errno(err, GRAFT_ERR_IO, errno, "%s: cannot write", w->path);
        done += (size_t)n;
    }
    return GRAFT_OK;
}

static graft_status make_file(gr_events *w, const char *dir, double now, graft_error *err) {
    char host[65] = "", name[160];
    gethostname(host, sizeof host - 1);
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "events.out.tfevents.%lld.%s.%ld.%d", (long long)now, host, (long)getpid(), i);
        gr_free(w->a, w->path);
        if (!(w->path = gr_path_join(w->a, dir, name))) return gr_fail_memory(err);
        w->fd = open(w->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (w->fd >= 0) return GRAFT_OK;
        if (errno != EEXIST) break;
    }
    return gr_fail_errno(err, GRAFT_ERR_IO, errno, "%s: cannot create", w->path);
}

graft_status gr_events_open(const graft_allocator *a, const char *dir, int64_t restart, gr_events **out,
                            graft_error *err) {
    GR_TRY(gr_make_dirs(dir, err));
    gr_events *w = gr_calloc(a, 1, sizeof *w);
    if (!w) return gr_fail_memory(err);
    *w = (gr_events){.a = a, .fd = -1};
    double now = wall_seconds();
    gr_buf b;
    gr_buf_init(&b, a);
    graft_status st = make_file(w, dir, now, err);
    if (st == GRAFT_OK) {
        gr_event_add_version(&b, now);
        if (restart >= 0) gr_event_add_restart(&b, now, restart);
        st = write_all(w, &b, err);
    }
    gr_buf_free(&b);
    if (st != GRAFT_OK) {
        gr_events_close(w);
        return st;
    }
    *out = w;
    return GRAFT_OK;
}

graft_status gr_events_write(gr_events *w, int64_t step, const gr_scalar *scalars, size_t n, graft_error *err) {
    gr_buf b;
    gr_buf_init(&b, w->a);
    double now = wall_seconds();
    for (size_t i = 0; i < n; i++) gr_event_add_scalar(&b, now, step, &scalars[i]);
    graft_status st = write_all(w, &b, err);
    gr_buf_free(&b);
    return st;
}

void gr_events_close(gr_events *w) {
    if (!w) return;
    if (w->fd >= 0) close(w->fd);
    gr_free(w->a, w->path);
    gr_free(w->a, w);
}

/* --- Reading --- */

typedef struct message {
    const unsigned char *p, *end;
} message;

typedef struct field {
    uint32_t number, wire;
    uint64_t value;  /* of varint, fixed32, fixed64 */
    message content; /* of length-delimited */
} field;

static bool read_varint(message *m, uint64_t *out) {
    uint64_t v = 0;
    for (int shift = 0; shift < 64 && m->p < m->end; shift += 7) {
        unsigned char c = *m->p++;
        v |= (uint64_t)(c & 0x7f) << shift;
        if (!(c & 0x80)) {
            *out = v;
            return true;
        }
    }
    return false;
}

static bool read_field(message *m, field *out) {
    uint64_t key, len;
    if (!read_varint(m, &key)) return false;
    *out = (field){.number = (uint32_t)(key >> 3), .wire = (uint32_t)(key & 7)};
    size_t left = (size_t)(m->end - m->p);
    switch (out->wire) {
    case 0:
        return read_varint(m, &out->value);
    case 1:
    case 5:
        len = out->wire == 1 ? 8 : 4;
        if (left < len) return false;
        out->value = get_le(m->p, (int)len);
        m->p += len;
        return true;
    case 2:
        if (!read_varint(m, &len) || len > (size_t)(m->end - m->p)) return false;
        out->content = (message){m->p, m->p + len};
        m->p += len;
        return true;
    default:
        return false;
    }
}

/* Gives the first scalar of a Summary.Value; messages of other kinds (text, images) are passed over. */
static bool read_value(message m, field *tag, bool *has_value, float *value) {
    field f;
    *tag = (field){0};
    *has_value = false;
    while (m.p < m.end) {
        if (!read_field(&m, &f)) return false;
        if (f.number == 1 && f.wire == 2) *tag = f;
        if (f.number == 2 && f.wire == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(value, &bits, sizeof bits);
            *has_value = true;
        }
    }
    return true;
}

/* *ok false: the message is malformed. */
static graft_status visit_event(message event, const gr_events_visitor *v, bool *ok, graft_error *err) {
    field f, tag;
    message summary = {0}, session = {0};
    int64_t step = 0;
    *ok = false;
    while (event.p < event.end) {
        if (!read_field(&event, &f)) return GRAFT_OK;
        if (f.number == 2 && f.wire == 0) step = (int64_t)f.value;
        if (f.number == 5 && f.wire == 2) summary = f.content;
        if (f.number == 7 && f.wire == 2) session = f.content;
    }
    while (session.p < session.end) {
        if (!read_field(&session, &f)) return GRAFT_OK;
        if (f.number == 1 && f.wire == 0 && f.value == 1 && v->restart) GR_TRY(v->restart(v->user, step, err));
    }
    while (summary.p < summary.end) {
        bool has_value;
        float value = 0;
        if (!read_field(&summary, &f)) return GRAFT_OK;
        if (f.number != 1 || f.wire != 2) continue;
        if (!read_value(f.content, &tag, &has_value, &value)) return GRAFT_OK;
        if (has_value && tag.content.p && v->scalar)
            GR_TRY(v->scalar(v->user, step, (const char *)tag.content.p, (size_t)(tag.content.end - tag.content.p),
                             (double)value, err));
    }
    *ok = true;
    return GRAFT_OK;
}

graft_status gr_events_read(const char *name, const void *data, size_t size, const gr_events_visitor *v,
                            graft_error *err) {
    const unsigned char *p = data;
    for (size_t at = 0; size - at >= 16;) {
        uint64_t len = get_le(p + at, 8);
        if ((uint32_t)get_le(p + at + 8, 4) != masked_crc(p + at, 8))
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: wrong checksum of a record's length: no event file, or damaged",
                           name, at);
        if (len > size - at - 16) return GRAFT_OK;
        const unsigned char *payload = p + at + 12;
        if ((uint32_t)get_le(payload + len, 4) != masked_crc(payload, (size_t)len))
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: wrong checksum of a record", name, at);
        bool ok;
        GR_TRY(visit_event((message){payload, payload + len}, v, &ok, err));
        if (!ok) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: byte %zu: malformed event", name, at);
        at += 16 + (size_t)len;
    }
    return GRAFT_OK;
}
