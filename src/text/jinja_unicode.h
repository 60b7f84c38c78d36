/* Character properties and case mappings as Python's str methods use them, which are Unicode's, over utf8proc. */
#ifndef GR_TEXT_JINJA_UNICODE_H
#define GR_TEXT_JINJA_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All take a code point; -1 (an ill-formed byte) has no property. */
bool gr_u_is_space(int32_t cp);      /* str.isspace, and what strip() and \s mean */
bool gr_u_is_line_break(int32_t cp); /* where splitlines() cuts */
bool gr_u_is_alpha(int32_t cp);
bool gr_u_is_decimal(int32_t cp);
bool gr_u_is_digit(int32_t cp);
bool gr_u_is_numeric(int32_t cp);
bool gr_u_is_alnum(int32_t cp);
bool gr_u_is_lower(int32_t cp);
bool gr_u_is_upper(int32_t cp);
bool gr_u_is_title(int32_t cp);
bool gr_u_is_case_ignorable(int32_t cp);
bool gr_u_is_printable(int32_t cp);
bool gr_u_is_word(int32_t cp); /* may stand in an identifier */
bool gr_u_is_name_start(int32_t cp);
int gr_u_decimal_value(int32_t cp); /* of a decimal digit of any script, -1 for others */

/* Full case mappings of one character: write 1 to 3 code points, return how many. */
size_t gr_u_to_upper(int32_t cp, int32_t out[3]);
size_t gr_u_to_lower(int32_t cp, int32_t out[3]); /* without the final-sigma rule */
size_t gr_u_to_title(int32_t cp, int32_t out[3]);
size_t gr_u_to_folded(int32_t cp, int32_t out[3]);

#endif
