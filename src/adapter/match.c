/* Which modules a configuration means. The rules are peft 0.21's (tuners_utils.check_target_module_exists, utils/other):
 * patterns are Python regular expressions, which PCRE2 reads alike for everything that such patterns use. A pattern comes
 * from a file that may be hostile: the work of one match is bounded. */
#include <pcre2.h>
#include <stdlib.h>

#include "adapter/method.h"

enum { MATCH_LIMIT = 200000, HEAP_LIMIT_KIB = 4096, MAX_PATTERN = 65536 };

struct gr_pattern {
    const graft_allocator *a;
    pcre2_general_context *general;
    pcre2_match_context *limits;
    pcre2_code *code;
    const char *where; /* for errors, borrowed */
    char *text;
};

static void *allocate(size_t n, void *user) { return gr_alloc(user, n); }
static void release(void *p, void *user) { gr_free(user, p); }

void gr_pattern_free(gr_pattern *p) {
    if (!p) return;
    pcre2_code_free(p->code);
    pcre2_match_context_free(p->limits);
    pcre2_general_context_free(p->general);
    gr_free(p->a, p->text);
    gr_free(p->a, p);
}

static graft_status compile(gr_pattern *p, const char *whole, size_t len, graft_error *err) {
    int code;
    size_t at;
    p->general = pcre2_general_context_create(allocate, release, (void *)(uintptr_t)p->a);
    p->limits = p->general ? pcre2_match_context_create(p->general) : NULL;
    pcre2_compile_context *how = p->general ? pcre2_compile_context_create(p->general) : NULL;
    if (!p->limits || !how) {
        pcre2_compile_context_free(how);
        return gr_fail_memory(err);
    }
    pcre2_set_match_limit(p->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(p->limits, HEAP_LIMIT_KIB);
    p->code = pcre2_compile((PCRE2_SPTR)whole, len, PCRE2_UTF | PCRE2_DOTALL | PCRE2_NEVER_BACKSLASH_C, &code, &at, how);
    pcre2_compile_context_free(how);
    if (p->code) return GRAFT_OK;
    if (code == PCRE2_ERROR_NOMEMORY || code == 121 /* ERR21: failed to allocate heap memory */) return gr_fail_memory(err);
    unsigned char message[160] = "";
    pcre2_get_error_message(code, message, sizeof message);
    return gr_fail(err, GRAFT_ERR_FORMAT, "%s: pattern '%s': %s", p->where, p->text, (const char *)message);
}

graft_status gr_pattern_new(const graft_allocator *a, const char *where, const char *before, const char *middle,
                            const char *after, gr_pattern **out, graft_error *err) {
    if (strlen(middle) > MAX_PATTERN)
        return gr_fail(err, GRAFT_ERR_LIMIT, "%s: a pattern of %zu characters, expected at most %d", where, strlen(middle), MAX_PATTERN);
    gr_pattern *p = gr_calloc(a, 1, sizeof *p);
    if (!p) return gr_fail_memory(err);
    p->a = a;
    p->where = where;
    gr_buf b;
    gr_buf_init(&b, a);
    gr_buf_add_text(&b, before);
    gr_buf_add_text(&b, middle);
    gr_buf_add_text(&b, after);
    graft_status st = gr_buf_status(&b, err);
    if (st == GRAFT_OK && !(p->text = gr_strdup(a, middle))) st = gr_fail_memory(err);
    if (st == GRAFT_OK) st = compile(p, b.data, b.len, err);
    gr_buf_free(&b);
    if (st != GRAFT_OK) {
        gr_pattern_free(p);
        return st;
    }
    *out = p;
    return GRAFT_OK;
}

graft_status gr_pattern_match(const gr_pattern *p, const char *text, bool *matches, int64_t *group, graft_error *err) {
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(p->code, p->general);
    if (!data) return gr_fail_memory(err);
    int n = pcre2_match(p->code, (PCRE2_SPTR)text, strlen(text), 0, 0, data, p->limits);
    graft_status st = GRAFT_OK;
    if (n == PCRE2_ERROR_NOMEMORY)
        st = gr_fail_memory(err);
    else if (n < 0 && n != PCRE2_ERROR_NOMATCH)
        st = gr_fail(err, GRAFT_ERR_LIMIT, "%s: pattern '%s' takes too long on '%s'", p->where, p->text, text);
    else {
        *matches = n > 0;
        const size_t *at = pcre2_get_ovector_pointer(data);
        if (group) *group = n > 1 && at[2] != PCRE2_UNSET ? strtoll(text + at[2], NULL, 10) : -1;
    }
    pcre2_match_data_free(data);
    return st;
}

static bool ends_with(const char *text, const char *tail) {
    size_t n = strlen(text), m = strlen(tail);
    return n >= m && memcmp(text + n - m, tail, m) == 0;
}

graft_status gr_targets_match(gr_adapter *a, const gr_targets *t, const char *module, bool *matches, graft_error *err) {
    bool found = false;
    if (t->regex) {
        gr_pattern *p;
        GR_TRY(gr_pattern_new(a->a, a->where, "\\A(?:", t->regex, ")\\z", &p, err));
        graft_status st = gr_pattern_match(p, module, &found, NULL, err);
        gr_pattern_free(p);
        if (st != GRAFT_OK) return st;
    }
    for (size_t i = 0; i < t->n && !found; i++) {
        size_t n = strlen(module), m = strlen(t->names[i]);
        found = ends_with(module, t->names[i]) && (n == m || module[n - m - 1] == '.');
    }
    *matches = found;
    return GRAFT_OK;
}

/* Every prefix up to a dot of every module name is a container. */
graft_status gr_module_names(gr_adapter *a, const char ***out, size_t *n, graft_error *err) {
    gr_map seen;
    gr_map_init(&seen, a->a);
    graft_status st = GRAFT_OK;
    for (size_t i = 0; i < gr_model_n_sites(a->model); i++) {
        const char *name = gr_model_site(a->model, i)->name;
        size_t len = strlen(name);
        for (size_t k = 1; k <= len; k++)
            if ((k == len || name[k] == '.') && !gr_map_get(&seen, name, k, NULL)) GR_GO(done, gr_map_set(&seen, name, k, 0, err));
    }
    const char **names = gr_arena_alloc(&a->arena, (seen.n + 1) * sizeof *names);
    if (!names) GR_GO(done, gr_fail_memory(err));
    for (size_t i = 0; i < seen.n; i++)
        if (!(names[i] = gr_arena_strndup(&a->arena, seen.entries[i].key, seen.entries[i].key_len)))
            GR_GO(done, gr_fail_memory(err));
    *out = names;
    *n = seen.n;
done:
    gr_map_free(&seen);
    return st;
}
