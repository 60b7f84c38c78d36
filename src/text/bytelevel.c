/* The byte-level alphabet: see bytelevel.h. */
#include "text/bytelevel.h"

bool gr_bytelevel_decode(const char *text, size_t n, gr_buf *out) {
    char *to = gr_buf_reserve(out, n);
    if (!to) return true; /* the buffer remembers the failure */
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        int32_t cp;
        i += gr_utf8_decode(text + i, n - i, &cp);
        int b = gr_char_to_byte(cp);
        if (b < 0) return false;
        to[used++] = (char)b;
    }
    to[used] = '\0';
    out->len += used;
    return true;
}
