/* Case mappings and character-class questions of str. */
#include "text/jinja_run.h"
#include "text/jinja_str.h"
#include "text/jinja_unicode.h"

static void add_chars(gr_buf *to, const int32_t *cps, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char utf8[4];
        gr_buf_add(to, utf8, gr_utf8_encode((uint32_t)cps[i], utf8));
    }
}

static bool is_cased(int32_t cp) { return gr_u_is_lower(cp) || gr_u_is_upper(cp) || gr_u_is_title(cp); }

/* A capital sigma at `at` ends a word: a cased letter before it and none after it, ignorable characters aside. */
static bool is_final_sigma(const gr_jstr *s, size_t at, size_t k) {
    int32_t cp = -1;
    size_t i = at;
    bool before = false;
    while (i > 0) {
        do i--;
        while (i > 0 && ((unsigned char)s->p[i] & 0xC0) == 0x80);
        gr_utf8_decode(s->p + i, s->len - i, &cp);
        if (gr_u_is_case_ignorable(cp)) continue;
        before = is_cased(cp);
        break;
    }
    if (!before) return false;
    for (i = at + k; i < s->len;) {
        i += gr_utf8_decode(s->p + i, s->len - i, &cp);
        if (!gr_u_is_case_ignorable(cp)) return !is_cased(cp);
    }
    return true;
}

static size_t lower_at(const gr_jstr *s, size_t at, size_t k, int32_t cp, int32_t out[3]) {
    if (cp != 0x3A3) return gr_u_to_lower(cp, out);
    out[0] = is_final_sigma(s, at, k) ? 0x3C2 : 0x3C3;
    return 1;
}

static void add_cased(gr_buf *to, const gr_jstr *s, gr_jcase how) {
    bool first = true, after_cased = false;
    for (size_t i = 0; i < s->len;) {
        int32_t cp, out[3];
        size_t k = gr_utf8_decode(s->p + i, s->len - i, &cp), n;
        if (how == GR_JUPPER || (how == GR_JSWAP && gr_u_is_lower(cp)))
            n = gr_u_to_upper(cp, out);
        else if (how == GR_JSWAP && !gr_u_is_upper(cp))
            n = 1, out[0] = cp;
        else if (how == GR_JFOLD)
            n = gr_u_to_folded(cp, out);
        else if ((how == GR_JCAPITALIZE && first) || (how == GR_JTITLE && !after_cased))
            n = gr_u_to_title(cp, out);
        else
            n = lower_at(s, i, k, cp, out);
        add_chars(to, out, n);
        first = false;
        after_cased = is_cased(cp);
        i += k;
    }
}

static void add_ascii_cased(gr_buf *to, const gr_jstr *s, bool upper) {
    char *out = gr_buf_reserve(to, s->len);
    if (!out) return;
    for (size_t i = 0; i < s->len; i++) {
        char c = s->p[i];
        out[i] = upper ? (c >= 'a' && c <= 'z' ? (char)(c - 32) : c) : (c >= 'A' && c <= 'Z' ? (char)(c + 32) : c);
    }
    to->len += s->len;
    to->data[to->len] = '\0';
}

graft_status gr_j_case(gr_jrun *run, gr_jstr *s, gr_jcase how, gr_jv *out) {
    size_t mark = gr_j_mark(run);
    bool ascii = gr_j_chars(s) == s->len;
    GR_TRY(ascii ? gr_j_work(run, s->len) : gr_j_char_work(run, s->len));
    if ((how == GR_JUPPER || how == GR_JLOWER) && ascii)
        add_ascii_cased(&run->scratch, s, how == GR_JUPPER);
    else
        add_cased(&run->scratch, s, how);
    bool safe = s->safe;
    GR_TRY(gr_j_take(run, mark, out));
    out->str->safe = safe;
    return GRAFT_OK;
}

/* islower, isupper, istitle: there is a cased character and all of them are as asked. */
bool gr_j_is_cased_as(const gr_jstr *s, gr_jcase how) {
    bool any = false, after_cased = false;
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        i += gr_utf8_decode(s->p + i, s->len - i, &cp);
        bool lower = gr_u_is_lower(cp), upper = gr_u_is_upper(cp), title = gr_u_is_title(cp);
        if (how == GR_JLOWER && (upper || title)) return false;
        if (how == GR_JUPPER && (lower || title)) return false;
        if (how == GR_JTITLE && (upper || title) && after_cased) return false;
        if (how == GR_JTITLE && lower && !after_cased) return false;
        after_cased = lower || upper || title;
        any |= how == GR_JLOWER ? lower : how == GR_JUPPER ? upper : after_cased;
    }
    return any;
}

bool gr_j_is_all(const gr_jstr *s, bool (*property)(int32_t cp), bool when_empty) {
    if (!s->len) return when_empty;
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        i += gr_utf8_decode(s->p + i, s->len - i, &cp);
        if (!property(cp)) return false;
    }
    return true;
}

bool gr_j_is_identifier(const gr_jstr *s) {
    int32_t cp = -1;
    if (s->len) gr_utf8_decode(s->p, s->len, &cp);
    return gr_u_is_name_start(cp) && gr_j_is_all(s, gr_u_is_word, false);
}
