#define _GNU_SOURCE
#include <stdio.h>

#include "base/base.h"

const char *graft_status_text(graft_status status) {
    switch (status) {
#define X(name, value, text)                                                                                           \
    case GRAFT_##name:                                                                                                 \
        return text;
#include "graft/status.def"
#undef X
    }
    return "unknown status";
}

/* A cut in the middle of a multi-byte character would make the text invalid UTF-8. */
static void cut_at_character(char *text, size_t size) {
    size_t n = strlen(text);
    if (n + 1 < size) return;
    size_t start = n;
    while (start > 0 && ((unsigned char)text[start - 1] & 0xC0) == 0x80) start--;
    if (start == 0) return;
    unsigned char lead = (unsigned char)text[start - 1];
    size_t need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (n - (start - 1) < need) text[start - 1] = '\0';
}

/* Files and paths are quoted as they are, and a precision cuts them anywhere: what is no UTF-8 becomes '?'. */
static void make_utf8(char *text, size_t size) {
    cut_at_character(text, size);
    for (size_t n = strlen(text), at = 0; at < n;) {
        int32_t cp;
        const size_t used = gr_utf8_decode(text + at, n - at, &cp);
        if (cp < 0) memset(text + at, '?', used);
        at += used;
    }
}

graft_status (gr_fail)(graft_error *err, graft_status status, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        make_utf8(err->text, sizeof err->text);
        err->status = status;
    }
    return status;
}

graft_status (gr_fail_errno)(graft_error *err, graft_status status, int code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        size_t used = strlen(err->text);
        char reason[128];
        /* glibc's GNU strerror_r may return a constant string instead of filling the buffer. */
        const char *text = strerror_r(code, reason, sizeof reason);
        snprintf(err->text + used, sizeof err->text - used, ": %s", text);
        make_utf8(err->text, sizeof err->text);
        err->status = status;
    }
    return status;
}

graft_status gr_error_prefix(graft_error *err, graft_status status, const char *format, ...) {
    if (!err) return status;
    char inner[sizeof err->text];
    memcpy(inner, err->text, sizeof inner);
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    size_t used = strlen(err->text);
    snprintf(err->text + used, sizeof err->text - used, ": %s", inner);
    make_utf8(err->text, sizeof err->text);
    return err->status;
}

graft_status (gr_fail_memory)(graft_error *err) { return gr_fail(err, GRAFT_ERR_MEMORY, "out of memory"); }
