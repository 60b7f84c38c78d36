/* Numbers to text and back as Python does it, whatever the host's locale: digits come from printf, and the decimal
 * point, which a locale may change, is never looked at. */
#include <ctype.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "base/json.h"
#include "text/jinja_run.h"
#include "text/jinja_unicode.h"

enum { MAX_PRECISION = 400 }; /* digits after the point that are worth asking printf for: a double has 1,074 at most */

/* The digits of printf's %e and the exponent of the first. */
static int split_e(double f, int precision, char *digits, int *exponent) {
    char text[MAX_PRECISION + 32];
    snprintf(text, sizeof text, "%.*e", precision, f);
    int n = 0;
    const char *at = text;
    for (; *at && *at != 'e'; at++)
        if (*at >= '0' && *at <= '9') digits[n++] = *at;
    *exponent = *at ? (int)strtol(at + 1, NULL, 10) : 0;
    return n;
}

static bool reads_back(const char *digits, int n, int exponent, double f) {
    char text[40];
    snprintf(text, sizeof text, "%.*se%d", n, digits, exponent - (n - 1));
    return strtod(text, NULL) == f;
}

/* Adds one to the last of n decimal digits; true when it became a one more digit (all nines). */
static bool increment(char *digits, int n) {
    for (int i = n; i-- > 0;) {
        if (digits[i] != '9') {
            digits[i]++;
            return false;
        }
        digits[i] = '0';
    }
    digits[0] = '1';
    return true;
}

int gr_j_float_digits(double f, char digits[20], int *point) {
    int exponent = 0, n = 0;
    f = fabs(f);
    /* 15 digits survive in every normal number, so that a shorter form is the 15 without their trailing zeros. */
    for (int precision = f < DBL_MIN ? 0 : 14; precision <= 16; precision++) {
        n = split_e(f, precision, digits, &exponent);
        if (precision == 16 || reads_back(digits, n, exponent, f)) break;
        if (precision < 15) continue;
        /* Above a power of two the neighbours are twice as far as below it: there the next 16 digits may read back
         * where the nearest do not. */
        exponent += increment(digits, n);
        if (reads_back(digits, n, exponent, f)) break;
    }
    while (n > 1 && digits[n - 1] == '0') n--;
    *point = exponent + 1;
    return n;
}

void gr_j_add_float(gr_buf *to, double f) {
    if (isnan(f)) {
        gr_buf_add_text(to, "nan");
        return;
    }
    if (signbit(f)) gr_buf_add_char(to, '-');
    if (isinf(f)) {
        gr_buf_add_text(to, "inf");
        return;
    }
    char digits[20];
    int point, n = gr_j_float_digits(f, digits, &point);
    if (point > 16 || point < -3) {
        gr_buf_add_char(to, digits[0]);
        if (n > 1) gr_buf_add_char(to, '.');
        gr_buf_add(to, digits + 1, (size_t)n - 1);
        gr_buf_add_format(to, "e%c%02d", point - 1 < 0 ? '-' : '+', abs(point - 1));
        return;
    }
    if (point <= 0) gr_buf_add_text(to, "0.");
    for (int i = point; i < 0; i++) gr_buf_add_char(to, '0');
    for (int i = 0; i < n || i < point; i++) {
        if (i == point && i > 0) gr_buf_add_char(to, '.');
        gr_buf_add_char(to, i < n ? digits[i] : '0');
    }
    if (point >= n) gr_buf_add_text(to, ".0");
}

/* %e, %f or %g without the locale: the one byte sequence that is neither digit, sign nor 'e' is the point. */
void gr_j_add_decimal(gr_buf *to, char type, int precision, bool alt, double f) {
    char format[8], small[512];
    snprintf(format, sizeof format, "%%%s.*%c", alt ? "#" : "", type);
    int n = snprintf(small, sizeof small, format, precision, f);
    char *text = small;
    if (n >= (int)sizeof small) {
        text = gr_alloc(to->a, (size_t)n + 1);
        if (!text) {
            to->failed = GRAFT_ERR_MEMORY;
            return;
        }
        snprintf(text, (size_t)n + 1, format, precision, f);
    }
    bool in_point = false;
    for (int i = 0; i < n; i++) {
        bool plain = isalnum((unsigned char)text[i]) || text[i] == '+' || text[i] == '-';
        if (plain)
            gr_buf_add_char(to, text[i]);
        else if (!in_point)
            gr_buf_add_char(to, '.');
        in_point = !plain;
    }
    if (text != small) gr_free(to->a, text);
}

/* Copies p without surrounding whitespace into `out` with digits of all scripts as ASCII and without the underscores
 * that Python allows between digits. Returns the length, or -1 when it is malformed or too long. */
static long normalise(const char *p, size_t n, char *out, size_t cap) {
    size_t k = 0, end = n;
    bool after_digit = false, underscore = false, gap = false;
    for (size_t i = 0; i < end;) {
        int32_t cp;
        i += gr_utf8_decode(p + i, end - i, &cp);
        if (gr_u_is_space(cp)) {
            gap = k > 0;
            if (underscore) return -1;
            continue;
        }
        if (gap || cp < 0) return -1;
        int digit = gr_u_decimal_value(cp);
        bool is_alnum = digit >= 0 || (cp < 0x80 && isalnum((unsigned char)cp));
        if (cp == '_') {
            if (!after_digit || underscore) return -1;
            underscore = true;
            continue;
        }
        if (underscore && !is_alnum) return -1;
        if (cp >= 0x80 && digit < 0) return -1;
        underscore = false;
        after_digit = is_alnum;
        if (k + 1 >= cap) return -1;
        out[k++] = digit >= 0 ? (char)('0' + digit) : (char)cp;
    }
    if (underscore) return -1;
    out[k] = '\0';
    return (long)k;
}

static bool is_special(const char *text, double *out) {
    double sign = *text == '-' ? -1 : 1;
    if (*text == '-' || *text == '+') text++;
    char lower[12];
    size_t k = 0;
    for (; text[k] && k + 1 < sizeof lower; k++) lower[k] = (char)tolower((unsigned char)text[k]);
    lower[k] = '\0';
    if (!strcmp(lower, "inf") || !strcmp(lower, "infinity")) {
        *out = sign * (double)INFINITY;
        return true;
    }
    if (!strcmp(lower, "nan")) {
        *out = (double)NAN;
        return true;
    }
    return false;
}

static size_t scan_digits(const char *p) { return strspn(p, "0123456789"); }

bool gr_j_parse_float(const char *p, size_t n, double *out) {
    char text[400]; /* what gr_parse_double reads at most */
    long k = normalise(p, n, text, sizeof text);
    if (k <= 0) return false;
    if (is_special(text, out)) return true;
    const char *at = text + (*text == '-' || *text == '+');
    size_t whole = scan_digits(at), part = 0;
    at += whole;
    if (*at == '.') {
        part = scan_digits(at + 1);
        at += 1 + part;
    }
    if (!whole && !part) return false;
    if ((*at | 32) == 'e') {
        at++;
        if (*at == '-' || *at == '+') at++;
        size_t e = scan_digits(at);
        if (!e) return false;
        at += e;
    }
    return !*at && gr_parse_double(text, (size_t)k, out);
}

static int digit_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
}

int gr_j_parse_int(const char *p, size_t n, int base, int64_t *out) {
    /* "0x" may be followed by an underscore, which the rule of `normalise` (after a digit) covers. */
    char text[512];
    if (base != 0 && (base < 2 || base > 36)) return 0;
    if (normalise(p, n, text, sizeof text) <= 0) return 0;
    const char *at = text;
    bool negative = *at == '-';
    if (*at == '-' || *at == '+') at++;
    char prefix = *at == '0' ? (char)(at[1] | 32) : 0;
    int prefix_base = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 0;
    if (prefix_base && (base == prefix_base || base == 0)) {
        base = prefix_base;
        at += 2;
    } else if (base == 0) {
        if (*at == '0' && at[strspn(at, "0")]) return 0;
        base = 10;
    }
    if (!*at) return 0;
    int64_t value = 0;
    bool overflow = false;
    for (; *at; at++) {
        int digit = digit_value(*at);
        if (digit >= base) return 0;
        overflow |= __builtin_mul_overflow(value, base, &value);
        overflow |= __builtin_add_overflow(value, negative ? -digit : digit, &value);
    }
    if (overflow) return -1;
    *out = value;
    return 1;
}

graft_status gr_j_float_to_int(gr_jrun *run, double f, gr_jv *out) {
    if (isnan(f)) return gr_j_raise(run, "cannot convert float NaN to integer");
    if (isinf(f)) return gr_j_raise(run, "cannot convert float infinity to integer");
    if (f >= 0x1p63 || f < -0x1p63) return gr_j_fail(run, GRAFT_ERR_LIMIT, "an integer leaves the 64 bits it can have");
    *out = gr_j_int((int64_t)f);
    return GRAFT_OK;
}

/* Digits of the integer part, rounded to `drop` zeros at its end: half to even, where a fraction counts as more. */
static double round_left(double f, int64_t drop) {
    char text[402] = "0", *digits = text + 1; /* room for a carry */
    int n = snprintf(digits, sizeof text - 1, "%.0f", trunc(fabs(f)));
    if (drop > n) return copysign(0.0, f);
    int keep = n - (int)drop;
    bool more = fabs(f) != trunc(fabs(f));
    char first = digits[keep];
    for (int i = keep + 1; i < n; i++) more |= digits[i] != '0';
    bool odd = keep > 0 && (digits[keep - 1] - '0') % 2;
    memset(digits + keep, '0', (size_t)drop);
    if (first > '5' || (first == '5' && (more || odd))) increment(text, keep + 1);
    return copysign(strtod(text, NULL), f);
}

double gr_j_round(double f, int64_t ndigits) {
    if (!isfinite(f) || ndigits > 350) return f;
    if (ndigits < 0) return ndigits < -350 ? copysign(0.0, f) : round_left(f, -ndigits);
    char text[MAX_PRECISION + 330];
    snprintf(text, sizeof text, "%.*f", (int)ndigits, f);
    return strtod(text, NULL); /* both in the same locale */
}
