/* UTF-8 decoding and encoding (Unicode 15, table 3-7: no surrogates, no overlong forms). */
#ifndef GR_BASE_UTF8_H
#define GR_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GR_UTF8_REPLACEMENT 0xFFFDu

/* Decodes one character of text[0..n), n > 0. Returns its length in bytes. For an ill-formed sequence returns the
 * length of the maximal subpart (1 to 3, as Unicode and Python's "replace" advise) and *cp = -1. */
size_t gr_utf8_decode(const char *text, size_t n, int32_t *cp);
/* Writes 1 to 4 bytes, returns how many. A surrogate or a value over 0x10FFFF is written as U+FFFD. */
size_t gr_utf8_encode(uint32_t cp, char out[4]);
bool gr_utf8_valid(const char *text, size_t n);

#endif
