/* What Unicode 16 has and PCRE2's tables (14.0 in PCRE2 10.42) have not. */
#ifndef GR_TEXT_UNICODE_DELTA_H
#define GR_TEXT_UNICODE_DELTA_H

#include <stddef.h>

/* Class items to add to \p{CATEGORY}; "" where there are none. */
const char *gr_unicode_delta(const char *category, size_t n);

#endif
