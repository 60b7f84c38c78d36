/* The JSON tree, and writing. The tree is built without recursion: `open` is the container being filled, and each
 * container remembers the one around it in a stack of GR_JSON_DEPTH entries. */
#include <math.h>
#include <stdio.h>

#include "base/base.h"
#include "base/json.h"

static graft_status copy_text(gr_arena *arena, const gr_json_text *text, const char **out, size_t *out_len,
                              graft_error *err) {
    char *copy = gr_arena_alloc(arena, text->len + 1);
    if (!copy) return gr_fail_memory(err);
    *out_len = gr_json_unescape(text, copy);
    *out = copy;
    return GRAFT_OK;
}

/* Reads one value; a container is only opened. */
static graft_status read_value(gr_json_reader *r, gr_arena *arena, gr_json_value *v, graft_error *err) {
    gr_json_text text;
    bool flag;
    v->kind = gr_json_peek(r);
    switch (v->kind) {
    case GR_JSON_OBJECT:
    case GR_JSON_ARRAY: return gr_json_open(r, v->kind, err);
    case GR_JSON_STRING:
        GR_TRY(gr_json_read_text(r, &text, err));
        return copy_text(arena, &text, &v->text, &v->len, err);
    case GR_JSON_NUMBER: return gr_json_read_number(r, &v->number, err);
    case GR_JSON_TRUE:
    case GR_JSON_FALSE: return gr_json_read_bool(r, &flag, err);
    default: return gr_json_skip(r, err);
    }
}

graft_status gr_json_parse(gr_arena *arena, const char *name, const char *text, size_t len, const gr_json_value **out,
                           graft_error *err) {
    gr_json_reader r;
    gr_json_value *open[GR_JSON_DEPTH], root = {0};
    const gr_json_value **tail[GR_JSON_DEPTH];
    gr_json_init(&r, name, text, len);
    GR_TRY(read_value(&r, arena, &root, err));
    gr_json_value *top = gr_arena_alloc(arena, sizeof *top);
    if (!top) return gr_fail_memory(err);
    *top = root;
    if (r.depth) {
        open[0] = top;
        tail[0] = &top->child;
    }
    while (r.depth) {
        int level = r.depth - 1;
        bool more;
        GR_TRY(gr_json_next(&r, &more, err));
        if (!more) continue;
        gr_json_value *v = gr_arena_alloc(arena, sizeof *v);
        if (!v) return gr_fail_memory(err);
        if (open[level]->kind == GR_JSON_OBJECT) {
            gr_json_text key;
            GR_TRY(gr_json_read_key(&r, &key, err));
            GR_TRY(copy_text(arena, &key, &v->key, &v->key_len, err));
        }
        GR_TRY(read_value(&r, arena, v, err));
        open[level]->len++;
        *tail[level] = v;
        tail[level] = &v->next;
        if (r.depth > level + 1) {
            open[level + 1] = v;
            tail[level + 1] = &v->child;
        }
    }
    GR_TRY(gr_json_end(&r, err));
    *out = top;
    return GRAFT_OK;
}

const char *gr_json_no_integer(const gr_json_value *v) {
    if (v->kind != GR_JSON_NUMBER) return gr_json_kind_name(v->kind);
    if (!isfinite(v->number.d)) return "a number that is not finite";
    return v->number.d != floor(v->number.d) || fabs(v->number.d) < 0x1p63 ? "a fraction" : "an integer of more than 64 bits";
}

const gr_json_value *gr_json_get(const gr_json_value *v, const char *key) {
    const gr_json_value *found = NULL;
    if (!v || v->kind != GR_JSON_OBJECT) return NULL;
    size_t n = strlen(key);
    for (const gr_json_value *c = v->child; c; c = c->next)
        if (c->key_len == n && memcmp(c->key, key, n) == 0) found = c;
    return found;
}

void gr_json_add_text(gr_buf *b, const char *text, size_t len) {
    gr_buf_add_char(b, '"');
    for (size_t i = 0, used; i < len; i += used) {
        int32_t cp;
        used = gr_utf8_decode(text + i, len - i, &cp);
        switch (cp) {
        case -1: gr_buf_add_text(b, "\xEF\xBF\xBD"); break;
        case '"': gr_buf_add_text(b, "\\\""); break;
        case '\\': gr_buf_add_text(b, "\\\\"); break;
        case '\n': gr_buf_add_text(b, "\\n"); break;
        case '\r': gr_buf_add_text(b, "\\r"); break;
        case '\t': gr_buf_add_text(b, "\\t"); break;
        case '\b': gr_buf_add_text(b, "\\b"); break;
        case '\f': gr_buf_add_text(b, "\\f"); break;
        default:
            if (cp < 0x20)
                gr_buf_add_format(b, "\\u%04x", (unsigned)cp);
            else
                gr_buf_add(b, text + i, used);
        }
    }
    gr_buf_add_char(b, '"');
}

/* The digits of `value` with the point wherever the locale put it turned into '.'. */
static size_t format_digits(double value, int precision, char *out, size_t size) {
    char text[64];
    snprintf(text, sizeof text, "%.*e", precision, value);
    size_t n = 0;
    bool point = false;
    for (const char *p = text; *p && n + 1 < size; p++) {
        bool plain = (*p >= '0' && *p <= '9') || *p == '-' || *p == '+' || *p == 'e';
        if (!plain && point) continue;
        point = point || !plain;
        out[n++] = plain ? *p : '.';
    }
    out[n] = '\0';
    return n;
}

void gr_json_add_double(gr_buf *b, double value) {
    if (isnan(value) || isinf(value)) {
        gr_buf_add_text(b, isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
        return;
    }
    char text[64], digit[32];
    int n_digits = 0, exponent = 0;
    double back;
    for (int precision = 0; precision <= 17; precision++) {
        size_t n = format_digits(value, precision, text, sizeof text);
        if (gr_parse_double(text, n, &back) && back == value) break;
    }
    const char *p = text;
    if (*p == '-') gr_buf_add_char(b, *p++);
    for (; *p && *p != 'e'; p++)
        if (*p != '.' && n_digits < 31) digit[n_digits++] = *p;
    if (*p == 'e') {
        bool negative = p[1] == '-';
        for (p += 2; *p; p++) exponent = exponent * 10 + (*p - '0');
        if (negative) exponent = -exponent;
    }
    if (exponent < -4 || exponent >= 16) { /* as Python's repr chooses */
        gr_buf_add_char(b, digit[0]);
        if (n_digits > 1) gr_buf_add_char(b, '.');
        gr_buf_add(b, digit + 1, (size_t)n_digits - 1);
        gr_buf_add_format(b, "e%c%02d", exponent < 0 ? '-' : '+', exponent < 0 ? -exponent : exponent);
        return;
    }
    if (exponent < 0) {
        gr_buf_add_text(b, "0.");
        for (int i = -1; i > exponent; i--) gr_buf_add_char(b, '0');
        gr_buf_add(b, digit, (size_t)n_digits);
        return;
    }
    for (int i = 0; i < n_digits || i <= exponent + 1; i++) {
        if (i == exponent + 1) gr_buf_add_char(b, '.');
        gr_buf_add_char(b, i < n_digits ? digit[i] : '0');
    }
}
