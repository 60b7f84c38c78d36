/* Tokens of a template. The rules are those of Jinja's lexer with trim_blocks and lstrip_blocks: whitespace before a
 * statement or comment that stands alone on its line and the newline after it belong to the tag, "-" eats all
 * whitespace on its side, "+" keeps it. */
#include "text/jinja_ast.h"
#include "text/jinja_unicode.h"

typedef struct lexer {
    gr_jparse *p;
    const char *s;
    size_t n, pos;
    uint32_t line;
    bool line_starting; /* the last thing read ended a line (or nothing was read) */
    char brackets[GR_JMAX_NESTING]; /* closing characters that are still expected */
    size_t depth;
} lexer;

static graft_status push(lexer *l, gr_jtok type, gr_jv value) {
    gr_jparse *p = l->p;
    const graft_allocator *a = p->t->arena.a;
    GR_TRY(gr_grow(a, (void **)&p->tokens, &p->cap_tokens, p->n_tokens + 1, sizeof *p->tokens, p->err));
    p->tokens[p->n_tokens++] = (gr_jtoken){.type = type, .line = l->line, .value = value};
    return GRAFT_OK;
}

/* Moves to `to`, counting lines. */
static void advance(lexer *l, size_t to) {
    for (size_t i = l->pos; i < to; i++) l->line += l->s[i] == '\n';
    l->line_starting = to > l->pos ? l->s[to - 1] == '\n' : false;
    l->pos = to;
}

static size_t skip_space(const lexer *l, size_t at) {
    while (at < l->n) {
        int32_t cp;
        size_t k = gr_utf8_decode(l->s + at, l->n - at, &cp);
        if (!gr_u_is_space(cp)) break;
        at += k;
    }
    return at;
}

/* End of s[from..to) without trailing whitespace. */
static size_t rstrip(const lexer *l, size_t from, size_t to) {
    while (to > from) {
        size_t k = to - 1;
        while (k > from && ((unsigned char)l->s[k] & 0xC0) == 0x80) k--;
        int32_t cp;
        gr_utf8_decode(l->s + k, to - k, &cp);
        if (!gr_u_is_space(cp)) break;
        to = k;
    }
    return to;
}

static bool at_text(const lexer *l, size_t at, const char *text) {
    size_t k = strlen(text);
    return l->n - at >= k && !memcmp(l->s + at, text, k);
}

/* Where the data before a tag at `tag` ends; `sign` is the tag's own '-', '+' or 0. */
static size_t data_end(const lexer *l, size_t tag, char sign, bool is_variable) {
    if (sign == '-') return rstrip(l, l->pos, tag);
    if (sign == '+' || is_variable) return tag;
    size_t line = tag;
    while (line > l->pos && l->s[line - 1] != '\n') line--;
    if (line == l->pos && !l->line_starting) return tag;
    return skip_space(l, line) >= tag ? line : tag;
}

static graft_status push_data(lexer *l, size_t end) {
    if (end <= l->pos) return GRAFT_OK;
    gr_jv v;
    GR_TRY(gr_jp_str(l->p, l->s + l->pos, end - l->pos, false, &v));
    return push(l, GR_JT_DATA, v);
}

/* Matches "{%", sign, `word`, then "-%}" with the whitespace after it, "%}" or (`plus`) "+%}"; `trim` lets "%}" take
 * one newline. Returns the end of the match or 0. */
static size_t match_raw_tag(const lexer *l, size_t at, const char *word, bool ending, char *sign) {
    if (!at_text(l, at, "{%")) return 0;
    at += 2;
    *sign = 0;
    if (at < l->n && (l->s[at] == '-' || l->s[at] == '+')) *sign = l->s[at++];
    at = skip_space(l, at);
    if (!at_text(l, at, word)) return 0;
    at = skip_space(l, at + strlen(word));
    if (at_text(l, at, "-%}")) return skip_space(l, at + 3);
    if (ending && at_text(l, at, "+%}")) return at + 3;
    if (!at_text(l, at, "%}")) return 0;
    at += 2;
    return ending && at < l->n && l->s[at] == '\n' ? at + 1 : at;
}

static graft_status lex_raw(lexer *l, size_t begin) {
    uint32_t line = l->line;
    advance(l, begin);
    for (size_t at = l->pos; at < l->n; at++) {
        char sign;
        size_t end = match_raw_tag(l, at, "endraw", true, &sign);
        if (!end) continue;
        GR_TRY(push_data(l, data_end(l, at, sign, false)));
        advance(l, end);
        return GRAFT_OK;
    }
    return gr_jp_fail(l->p, GRAFT_ERR_FORMAT, line, "missing end of raw directive");
}

static graft_status lex_comment(lexer *l) {
    for (size_t at = l->pos; at + 1 < l->n; at++) {
        if (!at_text(l, at, "#}")) continue;
        char before = at > l->pos ? l->s[at - 1] : 0;
        size_t end = at + 2;
        if (before == '-')
            end = skip_space(l, end);
        else if (before != '+' && end < l->n && l->s[end] == '\n')
            end++;
        advance(l, end);
        return GRAFT_OK;
    }
    return gr_jp_fail(l->p, GRAFT_ERR_FORMAT, l->line, "missing end of comment tag");
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool digit_of(char c, char prefix) {
    if (prefix == 'b') return c == '0' || c == '1';
    if (prefix == 'o') return c >= '0' && c <= '7';
    if (prefix == 'x') return is_digit(c) || ((c | 32) >= 'a' && (c | 32) <= 'f');
    return is_digit(c);
}

/* digits with single underscores between them; returns the end, `at` when there is none. */
static size_t scan_digits(const lexer *l, size_t at, char prefix) {
    size_t end = at;
    while (end < l->n) {
        if (digit_of(l->s[end], prefix))
            end++;
        else if (l->s[end] == '_' && end > at && end + 1 < l->n && digit_of(l->s[end + 1], prefix))
            end += 2;
        else
            break;
    }
    return end;
}

/* The end of a float literal at pos, or pos. */
static size_t scan_float(const lexer *l) {
    size_t at = l->pos;
    if (at > 0 && l->s[at - 1] == '.') return at;
    size_t end = scan_digits(l, at, 0);
    if (end == at) return at;
    bool is_float = false;
    if (end + 1 < l->n && l->s[end] == '.' && is_digit(l->s[end + 1])) {
        end = scan_digits(l, end + 1, 0);
        is_float = true;
    }
    if (end < l->n && (l->s[end] | 32) == 'e') {
        size_t e = end + 1;
        if (e < l->n && (l->s[e] == '+' || l->s[e] == '-')) e++;
        if (scan_digits(l, e, 0) > e) return scan_digits(l, e, 0);
    }
    return is_float ? end : at;
}

static graft_status push_float(lexer *l, size_t end) {
    double f;
    if (!gr_j_parse_float(l->s + l->pos, end - l->pos, &f))
        return gr_jp_fail(l->p, GRAFT_ERR_LIMIT, l->line, "a number of too many digits");
    return push(l, GR_JT_FLOAT, gr_j_float(f));
}

static graft_status lex_integer(lexer *l) {
    size_t at = l->pos, end;
    int base = 10;
    char prefix = l->s[at] == '0' && at + 1 < l->n ? (char)(l->s[at + 1] | 32) : 0;
    if (prefix == 'b' || prefix == 'o' || prefix == 'x') {
        size_t from = at + 2;
        if (from < l->n && l->s[from] == '_') from++;
        end = scan_digits(l, from, prefix);
        if (end > from) base = prefix == 'b' ? 2 : prefix == 'o' ? 8 : 16;
    }
    if (base == 10) {
        end = scan_digits(l, at, 0);
        if (l->s[at] == '0') { /* only zeros: 0, 00, 0_0 */
            end = at;
            while (end < l->n && (l->s[end] == '0' || (l->s[end] == '_' && end + 1 < l->n && l->s[end + 1] == '0')))
                end++;
        }
    }
    int64_t value;
    if (gr_j_parse_int(l->s + at, end - at, base, &value) != 1)
        return gr_jp_fail(l->p, GRAFT_ERR_LIMIT, l->line, "integer literal outside 64 bits");
    GR_TRY(push(l, GR_JT_INT, gr_j_int(value)));
    l->pos = end;
    return GRAFT_OK;
}

static size_t scan_name(const lexer *l) {
    size_t at = l->pos;
    while (at < l->n) {
        int32_t cp;
        size_t k = gr_utf8_decode(l->s + at, l->n - at, &cp);
        if (!gr_u_is_word(cp)) break;
        at += k;
    }
    return at;
}

/* \xhh, \uhhhh, \Uhhhhhhhh: reads `digits` hexadecimal digits at `at`. */
static graft_status read_hex(lexer *l, size_t at, size_t end, int digits, uint32_t *cp) {
    uint32_t v = 0;
    for (int i = 0; i < digits; i++) {
        char c = at + (size_t)i < end ? l->s[at + (size_t)i] : 0;
        if (!digit_of(c, 'x')) return gr_jp_fail(l->p, GRAFT_ERR_FORMAT, l->line, "truncated \\x, \\u or \\U escape");
        v = v * 16 + (uint32_t)(is_digit(c) ? c - '0' : (c | 32) - 'a' + 10);
    }
    if (v > 0x10FFFF) return gr_jp_fail(l->p, GRAFT_ERR_FORMAT, l->line, "illegal Unicode character in an escape");
    if (v >= 0xD800 && v < 0xE000)
        return gr_jp_fail(l->p, GRAFT_ERR_UNSUPPORTED, l->line, "a surrogate escape cannot be written as UTF-8");
    *cp = v;
    return GRAFT_OK;
}

/* One escape at `at` (after the backslash), appended to b; returns its end through *at. */
static graft_status unescape(lexer *l, size_t *at, size_t end, gr_buf *b) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = l->s[*at], utf8[4];
    const char *known = c ? strchr(from, c) : NULL;
    uint32_t cp = 0;
    size_t i = *at + 1;
    if (known) {
        gr_buf_add_char(b, to[known - from]);
    } else if (c == '\n') {
        /* a continued line */
    } else if (c >= '0' && c <= '7') {
        cp = (uint32_t)(c - '0');
        for (int k = 0; k < 2 && i < end && digit_of(l->s[i], 'o'); k++) cp = cp * 8 + (uint32_t)(l->s[i++] - '0');
        gr_buf_add(b, utf8, gr_utf8_encode(cp, utf8));
    } else if (c == 'x' || c == 'u' || c == 'U') {
        int digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        GR_TRY(read_hex(l, i, end, digits, &cp));
        gr_buf_add(b, utf8, gr_utf8_encode(cp, utf8));
        i += (size_t)digits;
    } else if (c == 'N') {
        return gr_jp_fail(l->p, GRAFT_ERR_UNSUPPORTED, l->line, "\\N{...} escapes are not supported");
    } else if ((unsigned char)c >= 0x80) {
        /* The reference writes the character as an escape first, so that the backslash ends up before that. */
        int32_t wide;
        i = *at + gr_utf8_decode(l->s + *at, end - *at, &wide);
        gr_buf_add_format(b, wide < 0x100 ? "\\x%02x" : wide < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)wide);
    } else {
        gr_buf_add_char(b, '\\');
        gr_buf_add_char(b, c);
    }
    *at = i;
    return GRAFT_OK;
}

static graft_status push_string(lexer *l, size_t from, size_t end) {
    gr_jv v;
    if (!memchr(l->s + from, '\\', end - from)) {
        GR_TRY(gr_jp_str(l->p, l->s + from, end - from, false, &v));
        return push(l, GR_JT_STRING, v);
    }
    gr_buf b;
    gr_buf_init(&b, l->p->t->arena.a);
    graft_status st = GRAFT_OK;
    for (size_t at = from; at < end && st == GRAFT_OK;) {
        if (l->s[at] != '\\') {
            gr_buf_add_char(&b, l->s[at++]);
            continue;
        }
        at++;
        st = unescape(l, &at, end, &b);
    }
    if (st == GRAFT_OK) st = gr_buf_status(&b, l->p->err);
    if (st == GRAFT_OK) st = gr_jp_str(l->p, gr_buf_text(&b), b.len, true, &v);
    gr_buf_free(&b);
    return st == GRAFT_OK ? push(l, GR_JT_STRING, v) : st;
}

/* The end of the string literal at pos (after the closing quote), or 0. */
static size_t scan_string(const lexer *l) {
    char quote = l->s[l->pos];
    for (size_t at = l->pos + 1; at < l->n; at++) {
        if (l->s[at] == '\\')
            at++;
        else if (l->s[at] == quote)
            return at + 1;
    }
    return 0;
}

static const struct {
    char text[3];
    gr_jtok type;
} operators[] = {
    {"//", GR_JT_FLOORDIV}, {"**", GR_JT_POW},      {"==", GR_JT_EQ},       {"!=", GR_JT_NE},
    {">=", GR_JT_GE},       {"<=", GR_JT_LE},       {"+", GR_JT_ADD},       {"-", GR_JT_SUB},
    {"/", GR_JT_DIV},       {"*", GR_JT_MUL},       {"%", GR_JT_MOD},       {"~", GR_JT_TILDE},
    {"[", GR_JT_LBRACKET},  {"]", GR_JT_RBRACKET},  {"(", GR_JT_LPAREN},    {")", GR_JT_RPAREN},
    {"{", GR_JT_LBRACE},    {"}", GR_JT_RBRACE},    {">", GR_JT_GT},        {"<", GR_JT_LT},
    {"=", GR_JT_ASSIGN},    {".", GR_JT_DOT},       {":", GR_JT_COLON},     {"|", GR_JT_PIPE},
    {",", GR_JT_COMMA},     {";", GR_JT_SEMICOLON},
};

const char *gr_jp_token_text(gr_jtok type) {
    for (size_t i = 0; i < GR_COUNT(operators); i++)
        if (operators[i].type == type) return operators[i].text;
    static const char *const others[] = {"end of template", "text", "{%", "%}", "{{", "}}",
                                         "name",            "string", "integer", "float"};
    return others[type];
}

static graft_status lex_operator(lexer *l) {
    for (size_t i = 0; i < GR_COUNT(operators); i++) {
        if (!at_text(l, l->pos, operators[i].text)) continue;
        char c = operators[i].text[0];
        if (c == '(' || c == '[' || c == '{') {
            if (l->depth == sizeof l->brackets)
                return gr_jp_fail(l->p, GRAFT_ERR_LIMIT, l->line, "brackets nested over %d deep", GR_JMAX_NESTING);
            l->brackets[l->depth++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (c == ')' || c == ']' || c == '}') {
            if (!l->depth) return gr_jp_fail(l->p, GRAFT_ERR_FORMAT, l->line, "unexpected '%c'", c);
            if (l->brackets[--l->depth] != c)
                return gr_jp_fail(l->p, GRAFT_ERR_FORMAT, l->line, "unexpected '%c', expected '%c'", c,
                                  l->brackets[l->depth]);
        }
        GR_TRY(push(l, operators[i].type, gr_j_none()));
        l->pos += strlen(operators[i].text);
        return GRAFT_OK;
    }
    return gr_jp_fail(l->p, GRAFT_ERR_FORMAT, l->line, "unexpected character '%.*s'",
                      (int)gr_utf8_decode(l->s + l->pos, l->n - l->pos, &(int32_t){0}), l->s + l->pos);
}

static graft_status lex_name_or_string(lexer *l, bool *done) {
    *done = true;
    size_t end = scan_name(l);
    if (end > l->pos) {
        gr_jv v;
        int32_t cp;
        gr_utf8_decode(l->s + l->pos, l->n - l->pos, &cp);
        if (!gr_u_is_name_start(cp))
            return gr_jp_fail(l->p, GRAFT_ERR_FORMAT, l->line, "invalid character in identifier");
        GR_TRY(gr_jp_str(l->p, l->s + l->pos, end - l->pos, false, &v));
        GR_TRY(push(l, GR_JT_NAME, v));
        l->pos = end;
        return GRAFT_OK;
    }
    if (l->s[l->pos] == '\'' || l->s[l->pos] == '"') {
        end = scan_string(l);
        if (end) {
            GR_TRY(push_string(l, l->pos + 1, end - 1));
            advance(l, end);
            return GRAFT_OK;
        }
    }
    *done = false;
    return GRAFT_OK;
}

/* Between "{%" or "{{" and its end. */
static graft_status lex_code(lexer *l, bool is_variable) {
    l->depth = 0;
    const char *closing = is_variable ? "}}" : "%}";
    gr_jtok end_type = is_variable ? GR_JT_VAR_END : GR_JT_BLOCK_END;
    while (l->pos < l->n) {
        size_t at = l->pos;
        char c = l->s[at];
        if (!l->depth) {
            bool minus = c == '-', plus = c == '+' && !is_variable;
            if (at_text(l, at + (minus || plus), closing)) {
                size_t end = at + (minus || plus) + 2;
                if (minus)
                    end = skip_space(l, end);
                else if (!is_variable && !plus && end < l->n && l->s[end] == '\n')
                    end++;
                GR_TRY(push(l, end_type, gr_j_none()));
                advance(l, end);
                return GRAFT_OK;
            }
        }
        size_t end = skip_space(l, at);
        if (end > at) {
            advance(l, end);
            continue;
        }
        if ((end = scan_float(l)) > at) {
            GR_TRY(push_float(l, end));
            l->pos = end;
            continue;
        }
        if (is_digit(c)) {
            GR_TRY(lex_integer(l));
            continue;
        }
        bool done;
        GR_TRY(lex_name_or_string(l, &done));
        if (!done) GR_TRY(lex_operator(l));
    }
    return GRAFT_OK; /* the parser meets the end of the template where it expects more */
}

graft_status gr_j_lex(gr_jparse *p) {
    lexer l = {.p = p, .s = p->source, .n = p->len, .line = 1, .line_starting = true};
    while (l.pos < l.n) {
        size_t tag = l.pos;
        while (tag < l.n && !(l.s[tag] == '{' && tag + 1 < l.n && strchr("{%#", l.s[tag + 1]) && l.s[tag + 1])) tag++;
        if (tag >= l.n) {
            GR_TRY(push_data(&l, l.n));
            advance(&l, l.n);
            break;
        }
        char sign = 0, kind = l.s[tag + 1];
        size_t raw = kind == '%' ? match_raw_tag(&l, tag, "raw", false, &sign) : 0;
        if (!raw) {
            sign = tag + 2 < l.n ? l.s[tag + 2] : 0;
            if (sign != '-' && sign != '+') sign = 0;
        }
        GR_TRY(push_data(&l, data_end(&l, tag, sign, kind == '{')));
        advance(&l, tag);
        if (raw) {
            GR_TRY(lex_raw(&l, raw));
            continue;
        }
        if (kind != '#') GR_TRY(push(&l, kind == '{' ? GR_JT_VAR_BEGIN : GR_JT_BLOCK_BEGIN, gr_j_none()));
        advance(&l, tag + 2 + (sign != 0));
        GR_TRY(kind == '#' ? lex_comment(&l) : lex_code(&l, kind == '{'));
    }
    return push(&l, GR_JT_EOF, gr_j_none());
}
