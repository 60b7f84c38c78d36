/* zlib's inflate on our own allocator, not its gz* files, which allocate behind our back, read damaged files as plain
 * text and take the end of a cut file for the end of the data. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include "data/source.h"

enum { CHUNK = 1 << 16 };

struct gr_source {
    const graft_allocator *a;
    char *name;
    int fd;
    bool owned, end, gzip, inside; /* end: of the file; inside: of a gzip member */
    z_stream z;
    size_t at, len; /* what of `raw` was not handed on yet */
    unsigned char raw[CHUNK];
};

static void *z_alloc(void *user, unsigned count, unsigned size) { return gr_calloc(user, count, size); }
static void z_free(void *user, void *ptr) { gr_free(user, ptr); }

static graft_status fill(gr_source *s, graft_error *err) {
    ssize_t n;
    do n = read(s->fd, s->raw + s->len, sizeof s->raw - s->len);
    while (n < 0 && errno == EINTR);
    if (n < 0) return gr_fail_errno(err, GRAFT_ERR_IO, errno, "%s: cannot be read", s->name);
    if (n == 0) s->end = true;
    s->len += (size_t)n;
    return GRAFT_OK;
}

/* Looks at the first two bytes, which a pipe may give one by one. */
static graft_status detect(gr_source *s, graft_error *err) {
    while (s->len < 2 && !s->end) GR_TRY(fill(s, err));
    if (s->len < 2 || s->raw[0] != 0x1F || s->raw[1] != 0x8B) return GRAFT_OK;
    s->z = (z_stream){.zalloc = z_alloc, .zfree = z_free, .opaque = (void *)s->a};
    int code = inflateInit2(&s->z, 15 + 16);
    if (code == Z_MEM_ERROR) return gr_fail_memory(err);
    if (code != Z_OK) return gr_fail(err, GRAFT_ERR_INTERNAL, "%s: zlib %s cannot inflate", s->name, zlibVersion());
    s->gzip = s->inside = true;
    return GRAFT_OK;
}

graft_status gr_source_open(const graft_allocator *a, const char *path, gr_source **out, graft_error *err) {
    bool standard = strcmp(path, "-") == 0;
    gr_source *s = gr_calloc(a, 1, sizeof *s);
    if (!s) return gr_fail_memory(err);
    s->a = a;
    s->fd = -1;
    graft_status st = GRAFT_OK;
    if (!(s->name = gr_strdup(a, standard ? "standard input" : path))) {
        st = gr_fail_memory(err);
    } else {
        s->owned = !standard;
        s->fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
        if (s->fd < 0)
            st = gr_fail_errno(err, errno == ENOENT || errno == ENOTDIR ? GRAFT_ERR_NOT_FOUND : GRAFT_ERR_IO, errno,
                               "%s: cannot be opened", path);
        else
            st = detect(s, err);
    }
    if (st != GRAFT_OK) {
        gr_source_close(s);
        return st;
    }
    *out = s;
    return GRAFT_OK;
}

static graft_status read_plain(gr_source *s, void *buf, size_t n, size_t *got, graft_error *err) {
    if (s->at == s->len && !s->end) {
        s->at = s->len = 0;
        GR_TRY(fill(s, err));
    }
    size_t part = GR_MIN(n, s->len - s->at);
    memcpy(buf, s->raw + s->at, part);
    s->at += part;
    *got = part;
    return GRAFT_OK;
}

/* After a member: another one, or the end; zeros are padding. */
static graft_status next_member(gr_source *s, bool *more, graft_error *err) {
    *more = false;
    for (;;) {
        while (s->at < s->len && s->raw[s->at] == 0) s->at++;
        if (s->at < s->len) break;
        if (s->end) return GRAFT_OK;
        s->at = s->len = 0;
        GR_TRY(fill(s, err));
    }
    if (s->raw[s->at] != 0x1F)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected the end or another gzip member, found byte 0x%02X", s->name,
                       s->raw[s->at]);
    if (inflateReset(&s->z) != Z_OK) return gr_fail(err, GRAFT_ERR_INTERNAL, "%s: zlib cannot be reset", s->name);
    s->inside = *more = true;
    return GRAFT_OK;
}

static graft_status read_gzip(gr_source *s, void *buf, size_t n, size_t *got, graft_error *err) {
    unsigned want = (unsigned)GR_MIN(n, (size_t)1 << 30);
    s->z.next_out = buf;
    s->z.avail_out = want;
    while (s->z.avail_out == want) {
        if (!s->inside) {
            bool more;
            GR_TRY(next_member(s, &more, err));
            if (!more) break;
        }
        if (s->at == s->len && !s->end) {
            s->at = s->len = 0;
            GR_TRY(fill(s, err));
        }
        s->z.next_in = s->raw + s->at;
        s->z.avail_in = (unsigned)(s->len - s->at);
        int code = inflate(&s->z, Z_NO_FLUSH);
        s->at = s->len - s->z.avail_in;
        if (code == Z_STREAM_END) s->inside = false;
        else if (code == Z_MEM_ERROR) return gr_fail_memory(err);
        else if (code == Z_BUF_ERROR && s->end && s->at == s->len)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: the compressed data end in the middle", s->name);
        else if (code != Z_OK && code != Z_BUF_ERROR)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: damaged gzip data: %s", s->name, s->z.msg ? s->z.msg : "error");
    }
    *got = want - s->z.avail_out;
    return GRAFT_OK;
}

graft_status gr_source_read(gr_source *s, void *buf, size_t n, size_t *got, graft_error *err) {
    return s->gzip ? read_gzip(s, buf, n, got, err) : read_plain(s, buf, n, got, err);
}

const char *gr_source_name(const gr_source *s) { return s->name; }

void gr_source_close(gr_source *s) {
    if (!s) return;
    const graft_allocator *a = s->a;
    if (s->gzip) inflateEnd(&s->z);
    if (s->owned && s->fd >= 0) close(s->fd);
    gr_free(a, s->name);
    gr_free(a, s);
}
