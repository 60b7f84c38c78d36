/* Character classes as the reference libraries see them (Rust's char methods, the regex crate, unicode_categories). */
#ifndef GR_TEXT_UNICODE_H
#define GR_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool gr_cp_is_space(int32_t cp);       /* White_Space */
bool gr_cp_is_numeric(int32_t cp);     /* general category N */
bool gr_cp_is_punctuation(int32_t cp); /* ASCII punctuation and symbols, general category P */
bool gr_cp_is_word(int32_t cp);        /* \w of UTS 18: Alphabetic, M, Nd, Pc, Join_Control */
bool gr_cp_is_mark(int32_t cp);        /* M */
bool gr_cp_is_nonspacing(int32_t cp);  /* Mn */
bool gr_cp_is_other(int32_t cp);       /* C: control, format, unassigned, private use */
bool gr_cp_is_cjk(int32_t cp);         /* the blocks that BERT surrounds with spaces */
/* Full lower-case mapping without context; writes 1 or 2 characters, returns how many. */
size_t gr_cp_lower(int32_t cp, int32_t out[2]);
/* True for characters that the reference's normalisation tables (Unicode 9) do not have: they stay as they are. */
bool gr_cp_not_normalized(int32_t cp);
/* Class items to add to PCRE2's \p{CATEGORY}, whose Unicode is older than the reference's; "" where there are none. */
const char *gr_category_extra(const char *category, size_t n);
/* Script number (a value of no meaning but equality; 0 is Any), Hiragana and Katakana counted as Han. */
int gr_cp_script(int32_t cp);

#endif
