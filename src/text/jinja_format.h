/* What the two ways of formatting share. */
#ifndef GR_TEXT_JINJA_FORMAT_H
#define GR_TEXT_JINJA_FORMAT_H

#include <stdlib.h>

#include "text/jinja_run.h"

typedef struct gr_jspec {
    int32_t fill;
    char align, sign, grouping, type; /* 0: not given */
    bool zero, alternate, no_negative_zero;
    int64_t width, precision; /* precision -1: not given */
} gr_jspec;

graft_status gr_j_parse_spec(gr_jrun *run, const char *spec, size_t n, gr_jspec *s);
size_t gr_j_digits(int64_t v, unsigned base, bool upper, char out[64]); /* of |v| */
graft_status gr_j_add_ascii(gr_jrun *run, gr_jv v); /* Python's ascii(), to run->scratch */

#endif
