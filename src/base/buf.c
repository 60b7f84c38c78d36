#include <stdio.h>

#include "base/base.h"

void gr_buf_init(gr_buf *b, const graft_allocator *a) { *b = (gr_buf){.a = a}; }

void gr_buf_free(gr_buf *b) {
    gr_free(b->a, b->data);
    gr_buf_init(b, b->a);
}

void gr_buf_clear(gr_buf *b) {
    b->len = 0;
    b->failed = GRAFT_OK;
    if (b->data) b->data[0] = '\0';
}

char *gr_buf_reserve(gr_buf *b, size_t n) {
    if (b->failed) return NULL;
    size_t need;
    if (__builtin_add_overflow(b->len, n, &need) || need == SIZE_MAX) {
        b->failed = GRAFT_ERR_MEMORY;
        return NULL;
    }
    if (b->limit && need > b->limit) {
        b->failed = GRAFT_ERR_LIMIT;
        return NULL;
    }
    b->failed = gr_grow(b->a, (void **)&b->data, &b->cap, need + 1, 1, NULL);
    return b->failed ? NULL : b->data + b->len;
}

void gr_buf_add(gr_buf *b, const void *bytes, size_t n) {
    char *to = gr_buf_reserve(b, n);
    if (!to) return;
    if (n) memcpy(to, bytes, n);
    b->len += n;
    b->data[b->len] = '\0';
}

void gr_buf_add_char(gr_buf *b, char c) { gr_buf_add(b, &c, 1); }

void gr_buf_add_text(gr_buf *b, const char *text) { gr_buf_add(b, text, strlen(text)); }

void gr_buf_add_format(gr_buf *b, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *to = n < 0 ? NULL : gr_buf_reserve(b, (size_t)n);
    if (to) {
        vsnprintf(to, (size_t)n + 1, format, again);
        b->len += (size_t)n;
    } else if (n < 0) {
        b->failed = GRAFT_ERR_INTERNAL;
    }
    va_end(again);
}

graft_status gr_buf_status(const gr_buf *b, graft_error *err) {
    if (b->failed == GRAFT_ERR_MEMORY) return gr_fail_memory(err);
    if (b->failed == GRAFT_ERR_LIMIT)
        return gr_fail(err, GRAFT_ERR_LIMIT, "text grew over its limit of %zu bytes", b->limit);
    if (b->failed) return gr_fail(err, b->failed, "text could not be formatted");
    return GRAFT_OK;
}

const char *gr_buf_text(const gr_buf *b) { return b->data ? b->data : ""; }

graft_status gr_buf_take(gr_buf *b, char **out, size_t *out_len, graft_error *err) {
    gr_buf_add(b, "", 0);
    GR_TRY(gr_buf_status(b, err));
    *out = b->data;
    if (out_len) *out_len = b->len;
    gr_buf_init(b, b->a);
    return GRAFT_OK;
}
