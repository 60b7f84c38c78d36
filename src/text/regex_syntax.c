/* From Oniguruma's Ruby syntax to PCRE2's.
 *
 * What differs and matters in tokenizer files: \h is a hexadecimal digit; \s, \w, \b and the POSIX classes are
 * Unicode's; classes nest and intersect ([a-z&&[^aeiou]]); {n,m}+ repeats and is not possessive, {n}? is optional,
 * {,m} counts from 0; (?m) is what PCRE2 calls s; an option in the middle of a group holds to the group's end;
 * script names mean the script, not its extensions. A class that PCRE2 cannot write becomes an alternative or a
 * look-ahead in front of one character, with the same meaning. */
#include <ctype.h>

#include "text/regex.h"
#include "text/unicode.h"

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#define SPACE_ITEMS "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define WORD_ITEMS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

enum { MAX_NESTING = 100 };

typedef struct group {
    size_t start;     /* where its translation begins in the output */
    unsigned closers; /* extra parentheses that end with it */
} group;

typedef struct translator {
    const char *p, *end;
    gr_buf *out;
    group groups[MAX_NESTING];
    size_t depth;
    size_t atom; /* where the last atom begins in the output; SIZE_MAX: none */
    graft_error *err;
} translator;

static const struct { const char *name, *items; } properties[] = {
    {"alnum", "\\p{Alphabetic}\\p{Nd}"}, {"alpha", "\\p{Alphabetic}"}, {"ascii", "\\x00-\\x7f"},
    {"blank", "\\t\\p{Zs}"}, {"cntrl", "\\p{Cc}"}, {"digit", "\\p{Nd}"}, {"lower", "\\p{Lowercase}"},
    {"print", "\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}\\p{Zs}\\p{Cf}"}, {"graph", "\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}\\p{Cf}"},
    {"punct", "\\p{P}\\p{S}"}, {"space", SPACE_ITEMS}, {"upper", "\\p{Uppercase}"}, {"xdigit", "0-9A-Fa-f"},
    {"word", WORD_ITEMS}, {"any", "\\x00-\\x{10ffff}"}, {"letter", "\\p{L}"}, {"mark", "\\p{M}"},
    {"number", "\\p{N}"}, {"punctuation", "\\p{P}"}, {"symbol", "\\p{S}"}, {"separator", "\\p{Z}"},
    {"other", "\\p{C}"}, {"lc", "\\p{L&}"}, {"casedletter", "\\p{L&}"}, {"uppercaseletter", "\\p{Lu}"},
    {"lowercaseletter", "\\p{Ll}"}, {"titlecaseletter", "\\p{Lt}"}, {"modifierletter", "\\p{Lm}"},
    {"otherletter", "\\p{Lo}"}, {"decimalnumber", "\\p{Nd}"}, {"nonspacingmark", "\\p{Mn}"},
    {"spacingmark", "\\p{Mc}"}, {"spaceseparator", "\\p{Zs}"}, {"assigned", "\\P{Cn}"}, {"l", "\\p{L}"},
    {"m", "\\p{M}"}, {"n", "\\p{N}"}, {"p", "\\p{P}"}, {"s", "\\p{S}"}, {"z", "\\p{Z}"}, {"c", "\\p{C}"},
};

static graft_status fail(translator *t, const char *what) {
    return gr_fail(t->err, GRAFT_ERR_UNSUPPORTED, "regular expression: %s is not supported", what);
}

static bool more(const translator *t, const char *text) {
    size_t n = strlen(text);
    return (size_t)(t->end - t->p) >= n && !memcmp(t->p, text, n);
}

static bool pcre_knows(const char *pattern) {
    int code;
    PCRE2_SIZE where;
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &where, NULL);
    pcre2_code_free(c);
    return c != NULL;
}


/* Writes class items; behind each general category stand the characters that Unicode got after PCRE2's tables. */
static void add_items(gr_buf *out, const char *items) {
    while (*items) {
        const char *close = !strncmp(items, "\\p{", 3) ? strchr(items, '}') : NULL;
        if (!close) {
            gr_buf_add_char(out, *items++);
            continue;
        }
        gr_buf_add(out, items, (size_t)(close + 1 - items));
        gr_buf_add_text(out, gr_category_extra(items + 3, (size_t)(close - items - 3)));
        items = close + 1;
    }
}

static void add_class(gr_buf *out, const char *items, bool negated) {
    gr_buf_add_text(out, negated ? "[^" : "[");
    add_items(out, items);
    gr_buf_add_char(out, ']');
}

/* Letters and digits stand for themselves, everything else is written by number. */
static void add_char(gr_buf *out, int32_t cp) {
    if (cp < 128 && isalnum(cp)) gr_buf_add_char(out, (char)cp);
    else gr_buf_add_format(out, "\\x{%x}", (unsigned)cp);
}

/* Class items for a property name; `buf` holds what is not in the table. */
static graft_status property_items(translator *t, const char *name, size_t n, char buf[96], const char **items) {
    char key[64];
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (name[i] == ' ' || name[i] == '_' || name[i] == '-') continue;
        if (k + 1 >= sizeof key || !isalnum((unsigned char)name[i])) return fail(t, "this property name");
        key[k++] = (char)tolower((unsigned char)name[i]);
    }
    key[k] = '\0';
    for (size_t i = 0; i < GR_COUNT(properties); i++)
        if (!strcmp(key, properties[i].name)) {
            *items = properties[i].items;
            return GRAFT_OK;
        }
    if (k == 2) {
        snprintf(buf, 96, "\\p{%c%c}", toupper((unsigned char)key[0]), key[1]);
    } else {
        snprintf(buf, 96, "\\p{sc:%s}", key);
        if (!pcre_knows(buf)) snprintf(buf, 96, "\\p{%s}", key);
    }
    if (!pcre_knows(buf)) return fail(t, "this property name");
    *items = buf;
    return GRAFT_OK;
}

typedef struct escape {
    enum { ESC_CHAR, ESC_CLASS, ESC_OTHER } kind;
    int32_t cp;        /* ESC_CHAR */
    const char *items; /* ESC_CLASS */
    bool negated;
    char buf[96];
} escape;

static int hex_value(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int32_t read_number(translator *t, int base, int max_digits) {
    int32_t value = 0;
    for (int i = 0; i < max_digits && t->p < t->end; i++, t->p++) {
        int d = hex_value(*t->p);
        if (d < 0 || d >= base) break;
        value = value * base + d;
        if (value > 0x10FFFF) break;
    }
    return value;
}

static graft_status read_property(translator *t, bool upper, escape *e) {
    const char *name = ++t->p, *close = memchr(name, '}', (size_t)(t->end - name));
    if (!close) return fail(t, "\\p{ without }");
    t->p = close + 1;
    e->kind = ESC_CLASS;
    e->negated = upper;
    if (name < close && *name == '^') {
        e->negated = !e->negated;
        name++;
    }
    return property_items(t, name, (size_t)(close - name), e->buf, &e->items);
}

static graft_status read_hex_braces(translator *t, escape *e) {
    t->p++;
    e->cp = read_number(t, 16, 8);
    if (t->p >= t->end || *t->p != '}' || e->cp > 0x10FFFF) return fail(t, "this \\x{...}");
    t->p++;
    return GRAFT_OK;
}

/* Reads what follows a backslash, as far as it means the same inside and outside a class. */
static graft_status read_escape(translator *t, bool in_class, escape *e) {
    static const struct { char c; const char *items; bool negated; } classes[] = {
        {'s', SPACE_ITEMS, false}, {'S', SPACE_ITEMS, true}, {'d', "\\p{Nd}", false}, {'D', "\\p{Nd}", true},
        {'w', WORD_ITEMS, false},  {'W', WORD_ITEMS, true},  {'h', "0-9A-Fa-f", false}, {'H', "0-9A-Fa-f", true},
    };
    static const char controls[] = "t\tn\nr\rf\fa\ae\x1Bv\v";
    if (t->p >= t->end) return fail(t, "a trailing backslash");
    const char c = *t->p;
    *e = (escape){.kind = ESC_CHAR};
    if ((c == 'p' || c == 'P') && t->end - t->p > 1 && t->p[1] == '{') {
        t->p++;
        return read_property(t, c == 'P', e);
    }
    for (size_t i = 0; i < GR_COUNT(classes); i++)
        if (classes[i].c == c) {
            t->p++;
            e->kind = ESC_CLASS;
            e->items = classes[i].items;
            e->negated = classes[i].negated;
            return GRAFT_OK;
        }
    for (size_t i = 0; i + 1 < sizeof controls; i += 2)
        if (controls[i] == c) {
            t->p++;
            e->cp = controls[i + 1];
            return GRAFT_OK;
        }
    if (c == 'x' || c == 'u') {
        t->p++;
        if (c == 'x' && t->p < t->end && *t->p == '{') return read_hex_braces(t, e);
        e->cp = read_number(t, 16, c == 'x' ? 2 : 4);
        return GRAFT_OK;
    }
    if (c == '0' || (in_class && c >= '1' && c <= '7')) {
        e->cp = read_number(t, 8, 3);
        return GRAFT_OK;
    }
    if (in_class && c == 'b') {
        t->p++;
        e->cp = '\b';
        return GRAFT_OK;
    }
    if (c == 'c' && t->end - t->p > 1) {
        e->cp = t->p[1] & 0x1F;
        t->p += 2;
        return GRAFT_OK;
    }
    if (!in_class && (strchr("bBAzZGRXKkgNOyY", c) || (c >= '1' && c <= '9'))) {
        e->kind = ESC_OTHER;
        return GRAFT_OK;
    }
    t->p += gr_utf8_decode(t->p, (size_t)(t->end - t->p), &e->cp);
    return GRAFT_OK;
}

/* One class, or one side of && in it: items that PCRE2 can hold in brackets, and alternatives beside them. */
typedef struct class_part {
    gr_buf items, others;
} class_part;

static void part_init(class_part *c, const graft_allocator *a) {
    gr_buf_init(&c->items, a);
    gr_buf_init(&c->others, a);
}

static void part_free(class_part *c) {
    gr_buf_free(&c->items);
    gr_buf_free(&c->others);
}

static void part_write(const class_part *c, gr_buf *out) {
    if (!c->others.len && !c->items.len) {
        gr_buf_add_text(out, "(?!)");
    } else if (!c->others.len) {
        gr_buf_add_format(out, "[%s]", gr_buf_text(&c->items));
    } else {
        gr_buf_add_text(out, "(?:");
        if (c->items.len) gr_buf_add_format(out, "[%s]|", gr_buf_text(&c->items));
        gr_buf_add(out, c->others.data, c->others.len - 1); /* without the last bar */
        gr_buf_add_char(out, ')');
    }
}

static void part_add_class(class_part *c, const char *items, bool negated) {
    if (!negated) {
        add_items(&c->items, items);
    } else {
        add_class(&c->others, items, true);
        gr_buf_add_char(&c->others, '|');
    }
}

static graft_status read_class(translator *t, gr_buf *out, size_t depth);

/* [:name:] inside a class; false when there is none here. */
static bool read_posix(translator *t, class_part *c, graft_status *st) {
    if (!more(t, "[:")) return false;
    const char *name = t->p + 2, *stop = t->end - 1;
    const char *close = name;
    while (close < stop && isalpha((unsigned char)*close)) close++;
    bool negated = name < stop && *name == '^';
    if (negated) {
        close = ++name;
        while (close < stop && isalpha((unsigned char)*close)) close++;
    }
    if (close >= stop || close[0] != ':' || close[1] != ']') return false;
    char buf[96];
    const char *items;
    *st = property_items(t, name, (size_t)(close - name), buf, &items);
    if (*st == GRAFT_OK) part_add_class(c, items, negated);
    t->p = close + 2;
    return true;
}

/* One character or escape of a class, with the range that it may begin. */
static graft_status read_class_item(translator *t, class_part *c) {
    escape e = {.kind = ESC_CHAR};
    if (*t->p == '\\') {
        t->p++;
        GR_TRY(read_escape(t, true, &e));
    } else {
        t->p += gr_utf8_decode(t->p, (size_t)(t->end - t->p), &e.cp);
    }
    if (e.kind == ESC_CLASS) {
        part_add_class(c, e.items, e.negated);
        return GRAFT_OK;
    }
    add_char(&c->items, e.cp);
    if (t->end - t->p < 2 || t->p[0] != '-' || t->p[1] == ']' || t->p[1] == '[' || more(t, "-&&")) return GRAFT_OK;
    t->p++;
    escape hi = {.kind = ESC_CHAR};
    if (*t->p == '\\') {
        t->p++;
        GR_TRY(read_escape(t, true, &hi));
    } else {
        t->p += gr_utf8_decode(t->p, (size_t)(t->end - t->p), &hi.cp);
    }
    if (hi.kind == ESC_CLASS) return fail(t, "a class at the end of a range");
    gr_buf_add_char(&c->items, '-');
    add_char(&c->items, hi.cp);
    return GRAFT_OK;
}

/* Reads up to the closing bracket; `ands` collects the sides of && as look-aheads, `last` is the last side. */
static graft_status read_class_body(translator *t, class_part *last, gr_buf *ands, size_t depth) {
    for (bool first = true;; first = false) {
        if (t->p >= t->end) return fail(t, "a class without its closing bracket");
        if (*t->p == ']' && !first) break;
        graft_status st = GRAFT_OK;
        if (more(t, "&&")) {
            t->p += 2;
            gr_buf_add_text(ands, "(?=");
            part_write(last, ands);
            gr_buf_add_char(ands, ')');
            gr_buf_clear(&last->items);
            gr_buf_clear(&last->others);
        } else if (*t->p == '[') {
            if (!read_posix(t, last, &st)) {
                t->p++;
                st = read_class(t, &last->others, depth + 1);
                gr_buf_add_char(&last->others, '|');
            }
        } else {
            st = read_class_item(t, last);
        }
        if (st != GRAFT_OK) return st;
    }
    t->p++;
    return GRAFT_OK;
}

static graft_status read_class(translator *t, gr_buf *out, size_t depth) {
    if (depth > MAX_NESTING) return fail(t, "so deep a nesting of classes");
    const bool negated = t->p < t->end && *t->p == '^';
    if (negated) t->p++;
    class_part part;
    gr_buf ands;
    part_init(&part, t->out->a);
    gr_buf_init(&ands, t->out->a);
    graft_status st = read_class_body(t, &part, &ands, depth);
    if (st == GRAFT_OK) {
        const bool simple = !ands.len && !part.others.len;
        if (simple && negated && part.items.len) {
            gr_buf_add_format(out, "[^%s]", gr_buf_text(&part.items));
        } else {
            gr_buf_add_text(out, negated ? "(?:(?!" : "(?:");
            gr_buf_add(out, gr_buf_text(&ands), ands.len);
            part_write(&part, out);
            gr_buf_add_text(out, negated ? ")[\\x00-\\x{10ffff}])" : ")");
        }
        if ((st = gr_buf_status(&part.items, t->err)) == GRAFT_OK) st = gr_buf_status(&part.others, t->err);
        if (st == GRAFT_OK) st = gr_buf_status(&ands, t->err);
    }
    part_free(&part);
    gr_buf_free(&ands);
    return st;
}

static void insert_at(gr_buf *out, size_t at, const char *text) {
    size_t n = strlen(text), old = out->len;
    gr_buf_add(out, text, n); /* makes room */
    if (out->failed) return;
    memmove(out->data + at + n, out->data + at, old - at);
    memcpy(out->data + at, text, n);
}

/* {n} {n,} {,m} {n,m}; false when the brace is an ordinary character. */
static bool read_interval(translator *t) {
    const char *p = t->p + 1;
    char low[8] = "0", high[8] = "";
    size_t n_low = 0, n_high = 0;
    while (p < t->end && isdigit((unsigned char)*p) && n_low < 6) low[n_low++] = *p++;
    if (n_low) low[n_low] = '\0';
    bool comma = p < t->end && *p == ',';
    if (comma) {
        p++;
        while (p < t->end && isdigit((unsigned char)*p) && n_high < 6) high[n_high++] = *p++;
        high[n_high] = '\0';
    }
    if (p >= t->end || *p != '}' || (!n_low && !n_high) || t->atom == SIZE_MAX) return false;
    p++;
    gr_buf_add_format(t->out, "{%s%s%s}", low, comma ? "," : "", high);
    const bool wrap = p < t->end && (*p == '+' || (*p == '?' && !comma));
    if (wrap) {
        insert_at(t->out, t->atom, "(?:");
        gr_buf_add_char(t->out, ')');
    } else if (p < t->end && *p == '?') {
        gr_buf_add_char(t->out, '?');
        p++;
    }
    t->p = p;
    return true;
}

static graft_status open_group(translator *t, size_t start) {
    if (t->depth + 1 >= MAX_NESTING) return fail(t, "so deep a nesting of groups");
    t->groups[t->depth++] = (group){.start = start};
    t->atom = SIZE_MAX;
    return GRAFT_OK;
}

/* (?imx-imx) and (?imx-imx: ; t->p stands behind the question mark. */
static graft_status read_options(translator *t, size_t start) {
    gr_buf_add_text(t->out, "(?");
    for (; t->p < t->end && *t->p != ':' && *t->p != ')'; t->p++) {
        if (!strchr("imx-", *t->p)) return fail(t, "this group option");
        gr_buf_add_char(t->out, *t->p == 'm' ? 's' : *t->p);
    }
    if (t->p >= t->end) return fail(t, "a group without its end");
    gr_buf_add_char(t->out, ':');
    if (*t->p++ == ':') return open_group(t, start);
    t->groups[t->depth - 1].closers++;
    t->atom = SIZE_MAX;
    return GRAFT_OK;
}

static graft_status read_group(translator *t) {
    static const char *const openings[] = {"?:", "?=", "?!", "?>", "?<=", "?<!"};
    const size_t start = t->out->len;
    t->p++;
    if (more(t, "*")) return fail(t, "(*");
    if (more(t, "?#")) {
        const char *close = memchr(t->p, ')', (size_t)(t->end - t->p));
        if (!close) return fail(t, "a comment without its end");
        t->p = close + 1;
        return GRAFT_OK;
    }
    for (size_t i = 0; i < GR_COUNT(openings); i++)
        if (more(t, openings[i])) {
            t->p += strlen(openings[i]);
            gr_buf_add_format(t->out, "(%s", openings[i]);
            return open_group(t, start);
        }
    if (more(t, "?<")) {
        const char *close = memchr(t->p, '>', (size_t)(t->end - t->p));
        if (!close) return fail(t, "a group name without its end");
        gr_buf_add_char(t->out, '(');
        gr_buf_add(t->out, t->p, (size_t)(close + 1 - t->p));
        t->p = close + 1;
        return open_group(t, start);
    }
    if (more(t, "?")) {
        t->p++;
        return read_options(t, start);
    }
    gr_buf_add_char(t->out, '(');
    return open_group(t, start);
}

/* Escapes that exist outside classes only; t->p stands on the letter. */
static graft_status other_escape(translator *t) {
    static const char word_edge[] = "(?:(?<=%1$s)(?!%1$s)|(?<!%1$s)(?=%1$s))";
    static const char no_word_edge[] = "(?:(?<=%1$s)(?=%1$s)|(?<!%1$s)(?!%1$s))";
    const char c = *t->p;
    if (c == 'b' || c == 'B') {
        gr_buf_add_format(t->out, c == 'b' ? word_edge : no_word_edge, "[" WORD_ITEMS "]");
        t->p++;
    } else if (c == 'N' || c == 'O') {
        gr_buf_add_text(t->out, c == 'N' ? "[^\\n]" : "[\\x00-\\x{10ffff}]");
        t->p++;
    } else if (c == 'y' || c == 'Y') {
        return fail(t, "\\y");
    } else if (c == 'k' || c == 'g') {
        const char *close = memchr(t->p, '>', (size_t)(t->end - t->p));
        if (!close || t->p[1] != '<') return fail(t, "this reference");
        gr_buf_add_char(t->out, '\\');
        gr_buf_add(t->out, t->p, (size_t)(close + 1 - t->p));
        t->p = close + 1;
    } else {
        gr_buf_add_char(t->out, '\\');
        do {
            gr_buf_add_char(t->out, *t->p++);
        } while (isdigit((unsigned char)c) && t->p < t->end && isdigit((unsigned char)*t->p));
    }
    return GRAFT_OK;
}

static graft_status read_atom(translator *t) {
    const size_t start = t->out->len;
    graft_status st = GRAFT_OK;
    if (*t->p == '\\') {
        escape e;
        t->p++;
        GR_TRY(read_escape(t, false, &e));
        if (e.kind == ESC_CHAR) add_char(t->out, e.cp);
        else if (e.kind == ESC_CLASS) add_class(t->out, e.items, e.negated);
        else st = other_escape(t);
    } else if (*t->p == '[') {
        t->p++;
        st = read_class(t, t->out, 0);
    } else {
        int32_t cp;
        size_t n = gr_utf8_decode(t->p, (size_t)(t->end - t->p), &cp);
        if (cp == '{') gr_buf_add_char(t->out, '\\');
        gr_buf_add(t->out, t->p, n);
        t->p += n;
    }
    t->atom = start;
    return st;
}

static graft_status close_group(translator *t) {
    if (t->depth < 2) return fail(t, "an unmatched )");
    const group *g = &t->groups[--t->depth];
    for (unsigned i = 0; i <= g->closers; i++) gr_buf_add_char(t->out, ')');
    t->atom = g->start;
    t->p++;
    return GRAFT_OK;
}

graft_status gr_regex_translate(const char *pattern, size_t len, gr_buf *out, graft_error *err) {
    translator t = {.p = pattern, .end = pattern + len, .out = out, .depth = 1, .atom = SIZE_MAX, .err = err};
    while (t.p < t.end) {
        const char c = *t.p;
        if (c == '(') {
            GR_TRY(read_group(&t));
        } else if (c == ')') {
            GR_TRY(close_group(&t));
        } else if (c == '|') {
            gr_buf_add_char(out, c);
            t.atom = SIZE_MAX;
            t.p++;
        } else if (c == '*' || c == '+' || c == '?') {
            gr_buf_add_char(out, c);
            t.p++;
            if (t.p < t.end && (*t.p == '+' || *t.p == '?')) gr_buf_add_char(out, *t.p++);
        } else if (c != '{' || !read_interval(&t)) {
            GR_TRY(read_atom(&t));
        }
    }
    if (t.depth != 1) return fail(&t, "a group without its end");
    for (unsigned i = 0; i < t.groups[0].closers; i++) gr_buf_add_char(out, ')');
    return gr_buf_status(out, err);
}
