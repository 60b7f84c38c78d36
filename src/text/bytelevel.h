/* GPT-2's reversible map from bytes to printable characters (Radford et al. 2019, encoder.py): bytes that print stand
 * for themselves, the 68 others for U+0100 onwards. */
#ifndef GR_TEXT_BYTELEVEL_H
#define GR_TEXT_BYTELEVEL_H

#include "base/base.h"

static inline int32_t gr_byte_to_char(unsigned char b) {
    if (b <= 32) return 256 + b;
    if (b >= 127 && b <= 160) return 256 + 33 + (b - 127);
    return b == 173 ? 256 + 67 : b;
}

/* -1 for a character outside the alphabet. */
static inline int gr_char_to_byte(int32_t cp) {
    if (cp < 33 || cp > 323) return -1;
    if (cp < 256) return (cp >= 127 && cp <= 160) || cp == 173 ? -1 : cp;
    cp -= 256;
    return cp <= 32 ? cp : cp <= 66 ? cp - 33 + 127 : 173;
}

/* Appends the bytes that a text of the alphabet stands for; false (and nothing appended) when a character of it is
 * none of the alphabet. */
bool gr_bytelevel_decode(const char *text, size_t n, gr_buf *out);

#endif
