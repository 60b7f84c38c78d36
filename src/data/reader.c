#include "data/reader.h"
#include "data/source.h"

enum { CHUNK = 1 << 16 };

struct gr_reader {
    const graft_allocator *a;
    gr_source *source;
    size_t max_bytes, line; /* line: of chunk[at] */
    bool array, first, done;
    gr_buf text;
    size_t at, len;
    unsigned char chunk[CHUNK];
};

static graft_status refill(gr_reader *r, graft_error *err) {
    if (r->at < r->len) return GRAFT_OK;
    r->at = r->len = 0;
    return gr_source_read(r->source, r->chunk, sizeof r->chunk, &r->len, err);
}

/* The next byte, not consumed; -1 at the end. */
static graft_status peek(gr_reader *r, int *c, graft_error *err) {
    GR_TRY(refill(r, err));
    *c = r->len ? r->chunk[r->at] : -1;
    return GRAFT_OK;
}

static void take(gr_reader *r) {
    if (r->chunk[r->at++] == '\n') r->line++;
}

static graft_status skip_space(gr_reader *r, int *c, graft_error *err) {
    for (;;) {
        GR_TRY(peek(r, c, err));
        if (*c != ' ' && *c != '\t' && *c != '\n' && *c != '\r') return GRAFT_OK;
        take(r);
    }
}

/* Byte order mark, then the kind of file. */
static graft_status start(gr_reader *r, graft_error *err) {
    unsigned char mark[3];
    size_t n = 0;
    int c;
    for (; n < 3; n++) {
        GR_TRY(peek(r, &c, err));
        if (c < 0 || (n == 0 && c != 0xEF && c < 0xFE)) break;
        mark[n] = (unsigned char)c;
        take(r);
        if (n == 1 && ((mark[0] == 0xFF && mark[1] == 0xFE) || (mark[0] == 0xFE && mark[1] == 0xFF)))
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected UTF-8, found a byte order mark of UTF-16 or UTF-32",
                           gr_reader_name(r));
    }
    if (n && (n < 3 || memcmp(mark, "\xEF\xBB\xBF", 3) != 0))
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s:1: expected an object, found byte 0x%02X",
                       gr_reader_name(r), mark[0]);
    GR_TRY(skip_space(r, &c, err));
    if (c == '[') {
        take(r);
        r->array = true;
    }
    return GRAFT_OK;
}

graft_status gr_reader_open(const graft_allocator *a, const char *path, size_t max_bytes, gr_reader **out,
                            graft_error *err) {
    gr_reader *r = gr_alloc(a, sizeof *r);
    if (!r) return gr_fail_memory(err);
    memset(r, 0, offsetof(gr_reader, chunk));
    r->a = a;
    r->max_bytes = max_bytes;
    r->line = 1;
    r->first = true;
    gr_buf_init(&r->text, a);
    graft_status st = gr_source_open(a, path, &r->source, err);
    if (st == GRAFT_OK) st = start(r, err);
    if (st != GRAFT_OK) {
        gr_reader_close(r);
        return st;
    }
    *out = r;
    return GRAFT_OK;
}

/* Appends while the record is not too long; what is beyond is dropped but still counted. */
static void keep(gr_reader *r, const unsigned char *bytes, size_t n, size_t *total) {
    *total += n;
    if (*total <= r->max_bytes) gr_buf_add(&r->text, bytes, n);
}

static graft_status finish(gr_reader *r, size_t total, size_t line, gr_piece *out, graft_error *err) {
    if (total > r->max_bytes)
        return gr_fail(err, GRAFT_ERR_LIMIT, "%s:%zu: the record has %zu bytes, expected at most %zu",
                       gr_reader_name(r), line, total, r->max_bytes);
    GR_TRY(gr_buf_status(&r->text, err));
    *out = (gr_piece){{gr_buf_text(&r->text), r->text.len}, line};
    return GRAFT_OK;
}

static graft_status next_line(gr_reader *r, gr_piece *out, bool *more, size_t *line, graft_error *err) {
    int c;
    GR_TRY(skip_space(r, &c, err));
    *line = r->line;
    if (c < 0) {
        *more = false;
        return GRAFT_OK;
    }
    size_t total = 0;
    for (;;) {
        GR_TRY(refill(r, err));
        if (r->len == 0) break;
        const unsigned char *from = r->chunk + r->at, *end = memchr(from, '\n', r->len - r->at);
        size_t n = end ? (size_t)(end - from) : r->len - r->at;
        keep(r, from, n, &total);
        r->at += n + (end != NULL);
        if (end) {
            r->line++;
            break;
        }
    }
    *more = true;
    return finish(r, total, *line, out, err);
}

/* A value ends where its brackets close; strings may hold brackets. A value that opens none ends at ',' or ']'. */
static graft_status next_element(gr_reader *r, gr_piece *out, bool *more, size_t *line, graft_error *err) {
    int c;
    GR_TRY(skip_space(r, &c, err));
    *line = r->line;
    if (!r->first && c == ',') {
        take(r);
        GR_TRY(skip_space(r, &c, err));
        *line = r->line;
    } else if (c == ']') {
        take(r);
        GR_TRY(skip_space(r, &c, err));
        if (c >= 0)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s:%zu: expected the end of the file after the array",
                           gr_reader_name(r), r->line);
        r->done = true;
        *more = false;
        return GRAFT_OK;
    } else if (!r->first && c >= 0) {
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s:%zu: expected ',' or ']' between the records of an array",
                       gr_reader_name(r), r->line);
    }
    size_t total = 0, depth = 0;
    bool text = false, escape = false, ended = false;
    while (!ended) {
        GR_TRY(refill(r, err));
        if (r->len == 0)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s:%zu: the array of records does not end: expected ']'",
                           gr_reader_name(r), *line);
        size_t from = r->at;
        while (r->at < r->len && !ended) {
            c = r->chunk[r->at];
            if (!text && depth == 0 && (c == ',' || c == ']')) break;
            take(r);
            if (escape) escape = false;
            else if (text && c == '\\') escape = true;
            else if (c == '"') text = !text;
            else if (!text && (c == '{' || c == '[')) depth++;
            else if (!text && (c == '}' || c == ']') && depth > 0) ended = --depth == 0;
        }
        keep(r, r->chunk + from, r->at - from, &total);
        if (r->at < r->len) break;
    }
    r->first = false;
    *more = true;
    return finish(r, total, *line, out, err);
}

graft_status gr_reader_next(gr_reader *r, gr_piece *out, bool *more, size_t *line, graft_error *err) {
    gr_buf_clear(&r->text);
    if (r->done) {
        *more = false;
        return GRAFT_OK;
    }
    return r->array ? next_element(r, out, more, line, err) : next_line(r, out, more, line, err);
}

const char *gr_reader_name(const gr_reader *r) { return gr_source_name(r->source); }

void gr_reader_close(gr_reader *r) {
    if (!r) return;
    gr_source_close(r->source);
    gr_buf_free(&r->text);
    gr_free(r->a, r);
}
