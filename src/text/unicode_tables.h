/* Tables of unicode_tables.c, which tools/make_unicode_tables.py writes. */
#ifndef GR_TEXT_UNICODE_TABLES_H
#define GR_TEXT_UNICODE_TABLES_H

#include <stddef.h>
#include <stdint.h>

typedef struct gr_range {
    uint32_t first, last;
} gr_range;

typedef struct gr_script_range {
    uint32_t first, last, script;
} gr_script_range;

/* Class items of a category or script ("sc:han") that PCRE2's tables lack. */
typedef struct gr_category_items {
    const char *name, *items;
} gr_category_items;

/* Ascending, not touching. */
extern const gr_range gr_punctuation[], gr_word[], gr_numeric[], gr_mark[], gr_nonspacing[], gr_other[];
extern const size_t gr_n_punctuation, gr_n_word, gr_n_numeric, gr_n_mark, gr_n_nonspacing, gr_n_other;
/* Characters that came after the reference's normalisation tables: no decomposition, no combining class. */
extern const gr_range gr_not_normalized[];
extern const size_t gr_n_not_normalized;
extern const gr_range gr_lower[]; /* pairs of a character and its lower case that utf8proc does not know */
extern const size_t gr_n_lower;
extern const gr_script_range gr_scripts[];
extern const size_t gr_n_scripts;
extern const gr_category_items gr_categories[];
extern const size_t gr_n_categories;

#endif
