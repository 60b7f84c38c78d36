/* The pull reader: a recursive grammar walked with an explicit stack of one bit a level, so that depth costs no C
 * stack and nothing is allocated. */
#define _GNU_SOURCE
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "base/json.h"

enum { MAX_NUMBER = 400 };

const char *gr_json_kind_name(gr_json_kind kind) {
    static const char *const names[] = {"nothing",  "null",     "false",    "true",
                                        "a number", "a string", "an array", "an object"};
    return names[kind];
}

void gr_json_init(gr_json_reader *r, const char *name, const char *text, size_t len) {
    *r = (gr_json_reader){.name = name, .text = text, .len = len};
}

static graft_status fail_at(gr_json_reader *r, graft_error *err, const char *expected) {
    if (r->at >= r->len)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: JSON at byte %zu: expected %s, found the end", r->name, r->at,
                       expected);
    unsigned char c = (unsigned char)r->text[r->at];
    if (c < 0x20 || c > 0x7E)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: JSON at byte %zu: expected %s, found byte 0x%02X", r->name, r->at,
                       expected, c);
    return gr_fail(err, GRAFT_ERR_FORMAT, "%s: JSON at byte %zu: expected %s, found '%c'", r->name, r->at, expected, c);
}

static void skip_space(gr_json_reader *r) {
    while (r->at < r->len) {
        char c = r->text[r->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
        r->at++;
    }
}

gr_json_kind gr_json_peek(gr_json_reader *r) {
    skip_space(r);
    if (r->at >= r->len) return GR_JSON_NONE;
    switch (r->text[r->at]) {
    case '{': return GR_JSON_OBJECT;
    case '[': return GR_JSON_ARRAY;
    case '"': return GR_JSON_STRING;
    case 't': return GR_JSON_TRUE;
    case 'f': return GR_JSON_FALSE;
    case 'n': return GR_JSON_NULL;
    case '-':
    case 'N': /* NaN */
    case 'I': return GR_JSON_NUMBER; /* Infinity */
    default: return r->text[r->at] >= '0' && r->text[r->at] <= '9' ? GR_JSON_NUMBER : GR_JSON_NONE;
    }
}

static graft_status expect_kind(gr_json_reader *r, gr_json_kind kind, graft_error *err) {
    gr_json_kind found = gr_json_peek(r);
    if (found == kind) return GRAFT_OK;
    if (found == GR_JSON_NONE) return fail_at(r, err, gr_json_kind_name(kind));
    return gr_fail(err, GRAFT_ERR_FORMAT, "%s: JSON at byte %zu: expected %s, found %s", r->name, r->at,
                   gr_json_kind_name(kind), gr_json_kind_name(found));
}

/* Four hexadecimal digits at `at`, or -1. */
static int32_t hex4(const char *text, size_t len, size_t at) {
    if (len < 4 || at > len - 4) return -1;
    int32_t v = 0;
    for (size_t i = at; i < at + 4; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        v = v * 16 + digit;
    }
    return v;
}

/* The character that the escape at text[at] == '\\' means and its length in bytes; -1 for a wrong one. */
static int32_t read_escape(const char *text, size_t len, size_t at, size_t *used) {
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    if (at + 1 >= len) return -1;
    char c = text[at + 1];
    *used = 2;
    if (c != 'u') {
        const char *p = c ? strchr(letters, c) : NULL;
        return p ? meant[p - letters] : -1;
    }
    int32_t v = hex4(text, len, at + 2);
    *used = 6;
    if (v < 0xD800 || v > 0xDFFF) return v;
    if (v > 0xDBFF || at + 7 >= len || text[at + 6] != '\\' || text[at + 7] != 'u') return -1;
    int32_t low = hex4(text, len, at + 8);
    *used = 12;
    return low < 0xDC00 || low > 0xDFFF ? -1 : 0x10000 + ((v - 0xD800) << 10) + (low - 0xDC00);
}

graft_status gr_json_read_text(gr_json_reader *r, gr_json_text *out, graft_error *err) {
    GR_TRY(expect_kind(r, GR_JSON_STRING, err));
    size_t start = ++r->at;
    bool escaped = false;
    while (r->at < r->len) {
        unsigned char c = (unsigned char)r->text[r->at];
        size_t used = 1;
        int32_t cp;
        if (c == '"') {
            *out = (gr_json_text){r->text + start, r->at++ - start, escaped};
            r->first = false;
            return GRAFT_OK;
        }
        if (c == '\\') {
            escaped = true;
            if (read_escape(r->text, r->len, r->at, &used) < 0) return fail_at(r, err, "a valid escape");
        } else if (c < 0x20) {
            return fail_at(r, err, "no control character in a string");
        } else if (c >= 0x80) {
            used = gr_utf8_decode(r->text + r->at, r->len - r->at, &cp);
            if (cp < 0) return fail_at(r, err, "valid UTF-8");
        }
        r->at += used;
    }
    return fail_at(r, err, "the end of a string");
}

size_t gr_json_unescape(const gr_json_text *text, char *out) {
    size_t n = 0, used;
    for (size_t i = 0; i < text->len; i += used) {
        used = 1;
        if (text->raw[i] == '\\')
            n += gr_utf8_encode((uint32_t)read_escape(text->raw, text->len, i, &used), out + n);
        else
            out[n++] = text->raw[i];
    }
    return n;
}

bool gr_json_text_is(const gr_json_text *text, const char *with) {
    size_t n = 0, used, len = strlen(with);
    if (!text->escaped) return len == text->len && memcmp(with, text->raw, len) == 0;
    for (size_t i = 0; i < text->len; i += used) {
        char c[4] = {text->raw[i]};
        size_t k = 1;
        used = 1;
        if (c[0] == '\\') k = gr_utf8_encode((uint32_t)read_escape(text->raw, text->len, i, &used), c);
        if (len - n < k || memcmp(with + n, c, k) != 0) return false;
        n += k;
    }
    return n == len;
}

bool gr_parse_double(const char *text, size_t len, double *out) {
    char copy[MAX_NUMBER + 1], *end;
    if (len == 0 || len > MAX_NUMBER || memchr(text, '\0', len)) return false;
    memcpy(copy, text, len);
    copy[len] = '\0';
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c) return false;
    double d = strtod_l(copy, &end, c);
    freelocale(c);
    if (end != copy + len) return false;
    *out = d;
    return true;
}

static bool read_word(gr_json_reader *r, const char *word) {
    size_t n = strlen(word);
    if (r->len - r->at < n || memcmp(r->text + r->at, word, n) != 0) return false;
    r->at += n;
    r->first = false;
    return true;
}

static size_t digits(const gr_json_reader *r, size_t at) {
    size_t n = 0;
    while (at + n < r->len && r->text[at + n] >= '0' && r->text[at + n] <= '9') n++;
    return n;
}

graft_status gr_json_read_number(gr_json_reader *r, gr_json_number *out, graft_error *err) {
    GR_TRY(expect_kind(r, GR_JSON_NUMBER, err));
    if (read_word(r, "NaN")) return *out = (gr_json_number){.d = NAN}, GRAFT_OK;
    if (read_word(r, "Infinity")) return *out = (gr_json_number){.d = INFINITY}, GRAFT_OK;
    if (read_word(r, "-Infinity")) return *out = (gr_json_number){.d = -INFINITY}, GRAFT_OK;
    size_t at = r->at, n;
    bool negative = r->text[at] == '-', whole = true;
    if (negative) at++;
    if ((n = digits(r, at)) == 0 || (n > 1 && r->text[at] == '0')) return fail_at(r, err, "a number");
    int64_t value = 0;
    bool fits = true;
    for (size_t i = 0; i < n && fits; i++)
        fits =
            !__builtin_mul_overflow(value, 10, &value) && !__builtin_sub_overflow(value, r->text[at + i] - '0', &value);
    if (fits && !negative) fits = !__builtin_sub_overflow(0, value, &value);
    at += n;
    if (at < r->len && r->text[at] == '.') {
        whole = false;
        if ((n = digits(r, at + 1)) == 0) return fail_at(r, err, "a number");
        at += 1 + n;
    }
    if (at < r->len && (r->text[at] | 32) == 'e') {
        whole = false;
        at++;
        if (at < r->len && (r->text[at] == '+' || r->text[at] == '-')) at++;
        if ((n = digits(r, at)) == 0) return fail_at(r, err, "a number");
        at += n;
    }
    gr_json_number number = {.is_int = whole && fits, .i = whole && fits ? value : 0};
    if (!gr_parse_double(r->text + r->at, at - r->at, &number.d)) return fail_at(r, err, "a shorter number");
    r->at = at;
    r->first = false;
    *out = number;
    return GRAFT_OK;
}

graft_status gr_json_read_bool(gr_json_reader *r, bool *out, graft_error *err) {
    gr_json_kind kind = gr_json_peek(r);
    if (kind != GR_JSON_TRUE && kind != GR_JSON_FALSE) return fail_at(r, err, "true or false");
    if (!read_word(r, kind == GR_JSON_TRUE ? "true" : "false")) return fail_at(r, err, "true or false");
    *out = kind == GR_JSON_TRUE;
    return GRAFT_OK;
}

static bool top_is_object(const gr_json_reader *r) {
    int top = r->depth - 1;
    return r->is_object[top / 64] >> (top % 64) & 1;
}

graft_status gr_json_open(gr_json_reader *r, gr_json_kind kind, graft_error *err) {
    GR_TRY(expect_kind(r, kind, err));
    if (r->depth == GR_JSON_DEPTH)
        return gr_fail(err, GRAFT_ERR_LIMIT, "%s: JSON at byte %zu: expected at most %d levels", r->name, r->at,
                       GR_JSON_DEPTH);
    uint64_t bit = (uint64_t)1 << (r->depth % 64), *word = &r->is_object[r->depth / 64];
    *word = kind == GR_JSON_OBJECT ? *word | bit : *word & ~bit;
    r->depth++;
    r->at++;
    r->first = true;
    return GRAFT_OK;
}

graft_status gr_json_next(gr_json_reader *r, bool *more, graft_error *err) {
    bool object = top_is_object(r);
    skip_space(r);
    if (r->at < r->len && r->text[r->at] == (object ? '}' : ']')) {
        r->at++;
        r->depth--;
        r->first = false;
        *more = false;
        return GRAFT_OK;
    }
    if (!r->first) {
        if (r->at >= r->len || r->text[r->at] != ',') return fail_at(r, err, object ? "',' or '}'" : "',' or ']'");
        r->at++;
    }
    r->first = false;
    *more = true;
    return GRAFT_OK;
}

graft_status gr_json_read_key(gr_json_reader *r, gr_json_text *out, graft_error *err) {
    gr_json_text key;
    GR_TRY(gr_json_read_text(r, &key, err));
    skip_space(r);
    if (r->at >= r->len || r->text[r->at] != ':') return fail_at(r, err, "':'");
    r->at++;
    *out = key;
    return GRAFT_OK;
}

/* One value that holds no others. */
static graft_status skip_scalar(gr_json_reader *r, graft_error *err) {
    gr_json_text text;
    gr_json_number number;
    bool flag;
    switch (gr_json_peek(r)) {
    case GR_JSON_STRING: return gr_json_read_text(r, &text, err);
    case GR_JSON_NUMBER: return gr_json_read_number(r, &number, err);
    case GR_JSON_TRUE:
    case GR_JSON_FALSE: return gr_json_read_bool(r, &flag, err);
    case GR_JSON_NULL:
        if (read_word(r, "null")) return GRAFT_OK;
        break;
    default: break;
    }
    return fail_at(r, err, "a value");
}

graft_status gr_json_skip(gr_json_reader *r, graft_error *err) {
    int bottom = r->depth;
    do {
        if (r->depth > bottom) {
            bool more;
            GR_TRY(gr_json_next(r, &more, err));
            if (!more) continue;
            gr_json_text key;
            if (top_is_object(r)) GR_TRY(gr_json_read_key(r, &key, err));
        }
        gr_json_kind kind = gr_json_peek(r);
        if (kind == GR_JSON_OBJECT || kind == GR_JSON_ARRAY)
            GR_TRY(gr_json_open(r, kind, err));
        else
            GR_TRY(skip_scalar(r, err));
    } while (r->depth > bottom);
    return GRAFT_OK;
}

graft_status gr_json_end(gr_json_reader *r, graft_error *err) {
    skip_space(r);
    return r->at == r->len ? GRAFT_OK : fail_at(r, err, "the end");
}
