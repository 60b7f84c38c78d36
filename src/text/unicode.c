/* Character classes: see unicode.h. The reference libraries carry Unicode tables of different years; what they see stands in
 * unicode_tables.c. Only ordinary lower case comes from utf8proc. */
#include <string.h>
#include <utf8proc.h>

#include "text/unicode.h"
#include "text/unicode_tables.h"

static bool is_in(const gr_range *ranges, size_t n, int32_t cp) {
    const uint32_t c = (uint32_t)cp;
    size_t low = 0, high = n;
    while (low < high) {
        const size_t mid = (low + high) / 2;
        if (c > ranges[mid].last) low = mid + 1;
        else high = mid;
    }
    return low < n && c >= ranges[low].first;
}

static bool is_letter(int32_t cp) { return (cp | 32) >= 'a' && (cp | 32) <= 'z'; }

bool gr_cp_is_space(int32_t cp) {
    return (cp >= 9 && cp <= 13) || cp == ' ' || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F ||
           cp == 0x3000;
}

bool gr_cp_is_numeric(int32_t cp) {
    return cp < 128 ? cp >= '0' && cp <= '9' : is_in(gr_numeric, gr_n_numeric, cp);
}

bool gr_cp_is_punctuation(int32_t cp) {
    if (cp < 128) return cp > 32 && cp < 127 && !(cp >= '0' && cp <= '9') && !is_letter(cp);
    return is_in(gr_punctuation, gr_n_punctuation, cp);
}

bool gr_cp_is_mark(int32_t cp) { return cp >= 0x300 && is_in(gr_mark, gr_n_mark, cp); }
bool gr_cp_is_nonspacing(int32_t cp) { return cp >= 0x300 && is_in(gr_nonspacing, gr_n_nonspacing, cp); }
bool gr_cp_is_other(int32_t cp) { return is_in(gr_other, gr_n_other, cp); }
bool gr_cp_not_normalized(int32_t cp) { return cp >= 0x300 && is_in(gr_not_normalized, gr_n_not_normalized, cp); }

bool gr_cp_is_word(int32_t cp) {
    if (cp < 128) return (cp >= '0' && cp <= '9') || is_letter(cp) || cp == '_';
    return is_in(gr_word, gr_n_word, cp);
}

bool gr_cp_is_cjk(int32_t cp) {
    return (cp >= 0x4E00 && cp <= 0x9FFF) || (cp >= 0x3400 && cp <= 0x4DBF) || (cp >= 0x20000 && cp <= 0x2A6DF) ||
           (cp >= 0x2A700 && cp <= 0x2B73F) || (cp >= 0x2B740 && cp <= 0x2B81F) || (cp >= 0x2B920 && cp <= 0x2CEAF) ||
           (cp >= 0xF900 && cp <= 0xFAFF) || (cp >= 0x2F800 && cp <= 0x2FA1F);
}

size_t gr_cp_lower(int32_t cp, int32_t out[2]) {
    if (cp == 0x130) { /* the only character whose lower case is two */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = cp < 128 ? (cp >= 'A' && cp <= 'Z' ? cp + 32 : cp) : utf8proc_tolower(cp);
    for (size_t i = 0; cp >= 0x1C80 && out[0] == cp && i < gr_n_lower; i++)
        if (gr_lower[i].first == (uint32_t)cp) out[0] = (int32_t)gr_lower[i].last;
    return 1;
}

int gr_cp_script(int32_t cp) {
    const uint32_t c = (uint32_t)cp;
    size_t low = 0, high = gr_n_scripts;
    while (low < high) {
        const size_t mid = (low + high) / 2;
        if (c > gr_scripts[mid].last) low = mid + 1;
        else high = mid;
    }
    return low < gr_n_scripts && c >= gr_scripts[low].first ? (int)gr_scripts[low].script : 0;
}

const char *gr_category_extra(const char *category, size_t n) {
    for (size_t i = 0; i < gr_n_categories; i++)
        if (strlen(gr_categories[i].name) == n && !memcmp(gr_categories[i].name, category, n)) return gr_categories[i].items;
    return "";
}
