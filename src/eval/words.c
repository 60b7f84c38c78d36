#include <utf8proc.h>

#include "eval/metrics.h"

bool gr_is_white(int32_t cp) {
    return (cp >= 0x09 && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x20) || cp == 0x85 || cp == 0xA0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F ||
           cp == 0x205F || cp == 0x3000;
}

bool gr_is_alphanumeric(int32_t cp) {
    switch (utf8proc_category(cp)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_NO:
        return true;
    default: return false;
    }
}

bool gr_is_punctuation(int32_t cp) { return cp > 0x20 && cp < 0x7F && !gr_is_alphanumeric(cp); }

static bool is_cased(int32_t cp) {
    utf8proc_category_t c = utf8proc_category(cp);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT;
}

/* Characters that do not separate letters of a word (Unicode's Case_Ignorable). */
static bool is_ignorable(int32_t cp) {
    static const int32_t marks[] = {'\'', '.', ':', 0xB7, 0x387, 0x55F, 0x5F4, 0x2018, 0x2019, 0x2024, 0x2027,
                                    0xFE13, 0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A};
    for (size_t i = 0; i < GR_COUNT(marks); i++)
        if (cp == marks[i]) return true;
    switch (utf8proc_category(cp)) {
    case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_ME: case UTF8PROC_CATEGORY_CF: case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK: return true;
    default: return false;
    }
}

/* A capital sigma ends a word when a cased letter stands before it and none behind (Unicode's Final_Sigma). */
static bool is_final_sigma(const char *text, size_t len, size_t at, bool cased_before) {
    for (size_t i = at + 2; cased_before && i < len;) {
        int32_t cp;
        i += gr_utf8_decode(text + i, len - i, &cp);
        if (cp >= 0 && is_ignorable(cp)) continue;
        return cp < 0 || !is_cased(cp);
    }
    return cased_before;
}

void gr_text_lower(gr_buf *out, const char *text, size_t len) {
    bool cased = false; /* the last character that is not ignorable is a cased letter */
    for (size_t i = 0, used; i < len; i += used) {
        int32_t cp;
        char bytes[4];
        used = gr_utf8_decode(text + i, len - i, &cp);
        uint32_t low = cp < 0      ? GR_UTF8_REPLACEMENT
                       : cp < 0x80 ? (uint32_t)(cp >= 'A' && cp <= 'Z' ? cp + 32 : cp)
                                   : (uint32_t)utf8proc_tolower(cp);
        if (cp == 0x3A3) low = is_final_sigma(text, len, i, cased) ? 0x3C2 : 0x3C3;
        if (cp == 0x130) low = 'i';
        gr_buf_add(out, bytes, gr_utf8_encode(low, bytes));
        if (cp == 0x130) gr_buf_add(out, "\xCC\x87", 2); /* the dot above stays */
        if (cp < 0 || !is_ignorable(cp)) cased = cp >= 0 && is_cased(cp);
    }
}
