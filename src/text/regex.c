/* Searching with PCRE2: see regex.h. */
#define _GNU_SOURCE /* memmem */
#include "text/regex.h"
#include "text/json_field.h"

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

enum {
    MAX_PATTERN = 1 << 16,
    STEPS = 20 * 1000 * 1000,       /* of one match, plus STEPS_PER_BYTE for each byte of the text */
    STEPS_PER_BYTE = 64,
    HEAP_KIB = 256 * 1024,          /* of one match where the JIT is not available */
    JIT_STACK_MIN = 64 * 1024,
    JIT_STACK_MAX = 256 * 1024 * 1024 /* address space; committed as it is used */
};

struct gr_regex {
    const graft_allocator *a;
    pcre2_code *code; /* NULL: literal */
    char *literal;
    size_t literal_len;
    char *pattern; /* as given, for messages */
};

static void *pcre_alloc(size_t n, void *user) { return gr_alloc(user, n); }
static void pcre_free(void *p, void *user) { gr_free(user, p); }

static graft_status compile(gr_regex *re, const char *pattern, size_t len, graft_error *err) {
    pcre2_general_context *general = pcre2_general_context_create(pcre_alloc, pcre_free, (void *)re->a);
    pcre2_compile_context *context = general ? pcre2_compile_context_create(general) : NULL;
    graft_status st = GRAFT_OK;
    if (!context) {
        st = gr_fail_memory(err);
        goto done;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_bsr(context, PCRE2_BSR_UNICODE);
    int code;
    PCRE2_SIZE where;
    re->code = pcre2_compile((PCRE2_SPTR)pattern, len,
                             PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C |
                                 PCRE2_DUPNAMES,
                             &code, &where, context);
    if (!re->code) {
        if (code == PCRE2_ERROR_HEAP_FAILED || code == PCRE2_ERROR_NOMEMORY) {
            st = gr_fail_memory(err);
        } else {
            PCRE2_UCHAR message[256];
            pcre2_get_error_message(code, message, sizeof message);
            st = gr_fail(err, GRAFT_ERR_UNSUPPORTED, "regular expression '%.200s': %s", re->pattern, (char *)message);
        }
        goto done;
    }
    /* Without the JIT (no executable memory) the interpreter serves, slower. */
    pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE);
done:
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    return st;
}

graft_status gr_regex_new(const graft_allocator *a, const char *pattern, size_t len, gr_regex_syntax syntax,
                          gr_regex **out, graft_error *err) {
    if (len > MAX_PATTERN)
        return gr_fail(err, GRAFT_ERR_LIMIT, "regular expression of %zu bytes is longer than %d", len, MAX_PATTERN);
    if (!gr_utf8_valid(pattern, len)) return gr_fail(err, GRAFT_ERR_FORMAT, "regular expression is not valid UTF-8");
    gr_regex *re = gr_calloc(a, 1, sizeof *re);
    if (!re) return gr_fail_memory(err);
    re->a = a;
    re->pattern = gr_strndup(a, pattern, len);
    gr_buf pcre;
    gr_buf_init(&pcre, a);
    graft_status st = GRAFT_OK;
    if (!re->pattern) {
        st = gr_fail_memory(err);
    } else if (syntax == GR_REGEX_LITERAL) {
        re->literal_len = len;
        re->literal = gr_strndup(a, pattern, len);
        if (!re->literal) st = gr_fail_memory(err);
    } else if (syntax == GR_REGEX_ONIGURUMA) {
        st = gr_regex_translate(pattern, len, &pcre, err);
        if (st == GRAFT_OK) st = compile(re, gr_buf_text(&pcre), pcre.len, err);
    } else {
        st = compile(re, pattern, len, err);
    }
    gr_buf_free(&pcre);
    if (st != GRAFT_OK) {
        gr_regex_free(re);
        return st;
    }
    *out = re;
    return GRAFT_OK;
}

graft_status gr_regex_from_json(const graft_allocator *a, const gr_json_value *json, gr_regex **out, graft_error *err) {
    const gr_json_value *text = gr_json_get(json, "String"), *pattern = gr_json_get(json, "Regex");
    size_t len = 0;
    const char *given = gr_json_string(text ? text : pattern, &len);
    if (!given)
        return gr_fail(err, GRAFT_ERR_FORMAT, "'pattern' is neither {\"String\": text} nor {\"Regex\": pattern}");
    return gr_regex_new(a, given, len, text ? GR_REGEX_LITERAL : GR_REGEX_ONIGURUMA, out, err);
}

void gr_regex_free(gr_regex *re) {
    if (!re) return;
    pcre2_code_free(re->code);
    gr_free(re->a, re->literal);
    gr_free(re->a, re->pattern);
    gr_free(re->a, re);
}

void gr_regex_state_free(gr_regex_state *s) {
    if (s->stack) pcre2_jit_stack_free(s->stack);
    if (s->match_context) pcre2_match_context_free(s->match_context);
    if (s->match_data) pcre2_match_data_free(s->match_data);
    if (s->general) pcre2_general_context_free(s->general);
    *s = (gr_regex_state){.a = s->a};
}

static graft_status prepare(gr_regex_state *s, graft_error *err) {
    if (s->match_context) return GRAFT_OK;
    if (!s->general) s->general = pcre2_general_context_create(pcre_alloc, pcre_free, (void *)s->a);
    if (s->general && !s->match_data) s->match_data = pcre2_match_data_create(1, s->general);
    if (s->match_data) s->match_context = pcre2_match_context_create(s->general);
    if (!s->match_context) return gr_fail_memory(err);
    pcre2_set_heap_limit(s->match_context, HEAP_KIB);
    return GRAFT_OK;
}

static graft_status search_code(const gr_regex_iter *it, bool *found, size_t *start, size_t *end, graft_error *err) {
    gr_regex_state *s = it->state;
    GR_TRY(prepare(s, err));
    const size_t steps = STEPS + GR_MIN(it->len, (size_t)1 << 24) * STEPS_PER_BYTE;
    pcre2_set_match_limit(s->match_context, (uint32_t)steps);
    for (;;) {
        int n = pcre2_match(it->re->code, (PCRE2_SPTR)it->text, it->len, it->from, PCRE2_NO_UTF_CHECK, s->match_data,
                            s->match_context);
        if (n == PCRE2_ERROR_NOMATCH) {
            *found = false;
            return GRAFT_OK;
        }
        if (n >= 0) {
            const PCRE2_SIZE *at = pcre2_get_ovector_pointer(s->match_data);
            *found = true;
            *start = GR_MIN(at[0], at[1]); /* \K in a look-behind can turn them round */
            *end = at[1];
            return GRAFT_OK;
        }
        /* The first try runs on the 32 KiB that the JIT takes from the machine stack. */
        if (n == PCRE2_ERROR_JIT_STACKLIMIT && !s->stack) {
            s->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, s->general);
            if (!s->stack) return gr_fail_memory(err);
            pcre2_jit_stack_assign(s->match_context, NULL, s->stack);
            continue;
        }
        if (n == PCRE2_ERROR_NOMEMORY) return gr_fail_memory(err);
        PCRE2_UCHAR message[256];
        pcre2_get_error_message(n, message, sizeof message);
        return gr_fail(err, GRAFT_ERR_LIMIT, "regular expression '%.200s' gave up at byte %zu of a text of %zu: %s",
                       it->re->pattern, it->from, it->len, (char *)message);
    }
}

static void search_literal(const gr_regex_iter *it, bool *found, size_t *start, size_t *end) {
    const char *at = it->re->literal_len > it->len - it->from || it->re->literal_len == 0
                         ? NULL
                         : memmem(it->text + it->from, it->len - it->from, it->re->literal, it->re->literal_len);
    *found = at != NULL;
    if (at) {
        *start = (size_t)(at - it->text);
        *end = *start + it->re->literal_len;
    }
}

gr_regex_iter gr_regex_matches(const gr_regex *re, gr_regex_state *state, const char *text, size_t len) {
    return (gr_regex_iter){.re = re, .state = state, .text = text, .len = len};
}

graft_status gr_regex_next(gr_regex_iter *it, bool *found, size_t *start, size_t *end, graft_error *err) {
    for (;;) {
        if (it->from > it->len) {
            *found = false;
            return GRAFT_OK;
        }
        bool hit = false;
        size_t a = 0, b = 0;
        if (it->re->code) GR_TRY(search_code(it, &hit, &a, &b, err));
        else search_literal(it, &hit, &a, &b);
        if (!hit) {
            it->from = it->len + 1;
            *found = false;
            return GRAFT_OK;
        }
        const bool touching = it->any && b == it->last_end;
        it->any = true;
        it->last_end = b;
        it->from = b;
        if (a == b) {
            /* Look for the next match one character further on. */
            int32_t cp;
            it->from += b < it->len ? gr_utf8_decode(it->text + b, it->len - b, &cp) : 1;
            if (touching) continue;
        }
        *found = true;
        *start = a;
        *end = b;
        return GRAFT_OK;
    }
}
