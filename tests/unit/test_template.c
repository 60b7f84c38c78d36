/* Chat templates: every golden of the reference, errors, bounds, generation spans, allocation failures, threads. */
#include <jansson.h>

#include "graft/template.h"
#include "support/support.h"
#include "text/template.h"

static const struct tm clock_of_goldens = {
    .tm_year = 125, .tm_mon = 6, .tm_mday = 24, .tm_hour = 13, .tm_min = 5, .tm_sec = 9, .tm_wday = 4, .tm_yday = 204};

typedef struct result {
    char *text;
    size_t len;
    graft_spans spans;
    graft_status status;
    graft_error err;
} result;

static graft_context *new_context(const graft_allocator *a) {
    graft_context_options o = {.n_threads = 1};
    if (a) o.allocator = *a;
    graft_context *ctx = NULL;
    graft_context_new(&o, &ctx, NULL);
    return ctx;
}

static result render(graft_context *ctx, const char *text, const json_t *vars, const graft_template_options *given) {
    result r = {0};
    graft_template *t;
    graft_template_options o = {.now = &clock_of_goldens};
    r.status = graft_template_parse(ctx, text, strlen(text), "t", &t, &r.err);
    if (r.status != GRAFT_OK) return r;
    r.status = gr_template_render(t, vars, given ? given : &o, &r.text, &r.len, &r.spans, &r.err);
    graft_template_free(t);
    return r;
}

static void free_result(graft_context *ctx, result *r) {
    graft_free(ctx, r->text);
    graft_free(ctx, r->spans.items);
}

static bool spans_equal(const graft_spans *got, const json_t *want) {
    if (got->n != json_array_size(want)) return false;
    for (size_t i = 0; i < got->n; i++) {
        const json_t *pair = json_array_get(want, i);
        if (got->items[i].start != (size_t)json_integer_value(json_array_get(pair, 0)) ||
            got->items[i].end != (size_t)json_integer_value(json_array_get(pair, 1)))
            return false;
    }
    return true;
}

/* Whether the rendering is what the reference gave: [text, spans], or null where it raised. */
static bool agrees(graft_context *ctx, const char *name, const char *text, const json_t *vars, const json_t *want) {
    result r = render(ctx, text, vars, NULL);
    const json_t *expected = json_array_get(want, 0);
    bool raised = r.status != GRAFT_OK, ok;
    if (json_is_null(want) || raised)
        ok = json_is_null(want) && raised && strstr(r.err.text, "t:") == r.err.text;
    else
        ok = r.len == json_string_length(expected) && !memcmp(r.text, json_string_value(expected), r.len) &&
             spans_equal(&r.spans, json_array_get(want, 1));
    if (!ok)
        print_message("%s\n  expected %s\n  got      %s\n", name, json_is_null(want) ? "an error" : json_string_value(expected),
                      raised ? r.err.text : r.text);
    free_result(ctx, &r);
    return ok;
}

static json_t *load(const char *name) {
    json_error_t err;
    json_t *all = json_load_file(test_golden(name), JSON_ALLOW_NUL, &err);
    if (!all) fail_msg("%s:%d: %s", name, err.line, err.text);
    return all;
}

static void constructs_render_as_the_reference(void **state) {
    (void)state;
    graft_context *ctx = new_context(NULL);
    json_t *all = load("templates/constructs.json"), *cases = json_object_get(all, "cases"), *c;
    size_t i, wrong = 0;
    json_array_foreach(cases, i, c) {
        const char *text = json_string_value(json_array_get(c, 0));
        wrong += !agrees(ctx, text, text, json_object_get(all, "variables"), json_array_get(c, 1));
    }
    assert_true(json_array_size(cases) >= 400);
    assert_int_equal(wrong, 0);
    json_decref(all);
    graft_context_free(ctx);
}

static void models_render_as_the_reference(void **state) {
    (void)state;
    graft_context *ctx = new_context(NULL);
    json_t *all = load("templates/models.json"), *cases = json_object_get(all, "cases"), *c;
    size_t i, wrong = 0;
    json_array_foreach(cases, i, c) {
        const char *model = json_string_value(json_array_get(c, 0)), *talk = json_string_value(json_array_get(c, 1));
        const char *text = json_string_value(json_object_get(json_object_get(all, "templates"), model));
        char name[128];
        snprintf(name, sizeof name, "%s over %s", model, talk);
        wrong += !agrees(ctx, name, text, json_object_get(json_object_get(all, "conversations"), talk), json_array_get(c, 2));
    }
    assert_true(json_array_size(cases) >= 600);
    assert_int_equal(wrong, 0);
    json_decref(all);
    graft_context_free(ctx);
}

/* Renders over {} through the public function and expects the status and a part of the sentence. */
static void expect(const char *text, const graft_template_options *o, graft_status status, const char *part) {
    graft_context *ctx = new_context(NULL);
    graft_template *t;
    graft_error err = {0};
    char *out = NULL;
    graft_status st = graft_template_parse(ctx, text, strlen(text), "chat.jinja", &t, &err);
    if (st == GRAFT_OK) {
        st = graft_template_render(t, "{}", 2, o, &out, NULL, NULL, &err);
        graft_template_free(t);
    }
    if (st != status || (part && st != GRAFT_OK && !strstr(err.text, part)))
        fail_msg("%.200s: expected %s '%s', got %s '%s'", text, graft_status_text(status), part ? part : "",
                 graft_status_text(st), err.text);
    graft_free(ctx, out);
    graft_context_free(ctx);
}

static void errors_name_template_and_line(void **state) {
    (void)state;
    expect("a\n{{ x|nope }}", NULL, GRAFT_ERR_FORMAT, "chat.jinja:2: no filter named 'nope'");
    expect("a\n\n{{ nope() }}", NULL, GRAFT_ERR_MISMATCH, "chat.jinja:3: 'nope' is undefined");
    expect("{% if x is nope %}{% endif %}", NULL, GRAFT_ERR_MISMATCH, "chat.jinja:1: no test named 'nope'");
    expect("{% for x in [1] %}\n{{ raise_exception('bad role') }}{% endfor %}", NULL, GRAFT_ERR_MISMATCH,
           "chat.jinja:2: the template raised: bad role");
    expect("x\n{% frobnicate %}", NULL, GRAFT_ERR_FORMAT, "chat.jinja:2: unknown tag 'frobnicate'");
    expect("{% if true %}\n\n", NULL, GRAFT_ERR_FORMAT, "unexpected end of template, expected 'endif'");
    expect("{{ {}.a.b }}", NULL, GRAFT_ERR_MISMATCH, "'dict' has no attribute 'a'");
    expect("{{ [].append(1) }}", NULL, GRAFT_ERR_MISMATCH, "access to attribute 'append' of 'list' object is unsafe");
    expect("{{ lipsum() }}", NULL, GRAFT_ERR_UNSUPPORTED, "lipsum");
    expect("{{ [1, 2]|random }}", NULL, GRAFT_ERR_UNSUPPORTED, "random");
    expect("{{ '\\ud800' }}", NULL, GRAFT_ERR_UNSUPPORTED, "surrogate");
    expect("\xff", NULL, GRAFT_ERR_FORMAT, "not valid UTF-8");
}

static void integers_have_64_bits(void **state) {
    (void)state;
    expect("{{ 9223372036854775807 }}", NULL, GRAFT_OK, NULL);
    expect("{{ 9223372036854775808 }}", NULL, GRAFT_ERR_LIMIT, "64 bits");
    expect("{{ 9223372036854775807 + 1 }}", NULL, GRAFT_ERR_LIMIT, "64 bits");
    expect("{{ 2 ** 64 }}", NULL, GRAFT_ERR_LIMIT, "64 bits");
    expect("{{ (-9223372036854775807 - 1) // -1 }}", NULL, GRAFT_ERR_LIMIT, "64 bits");
    expect("{{ (-9223372036854775807 - 1) % -1 }}", NULL, GRAFT_OK, NULL);
    expect("{{ -(-9223372036854775807 - 1) }}", NULL, GRAFT_ERR_LIMIT, "64 bits");
    expect("{{ 1e300|int }}", NULL, GRAFT_ERR_LIMIT, "64 bits");
    expect("{{ range(9223372036854775800, 9223372036854775807, 3)|list }}", NULL, GRAFT_OK, NULL);
    expect("{{ range(-9223372036854775807, 9223372036854775807, 6148914691236517205)|list }}", NULL, GRAFT_OK, NULL);
    expect("{{ [1, 2, 3][::9223372036854775807] }}{{ [1, 2, 3][::-9223372036854775807] }}", NULL, GRAFT_OK, NULL);
}

/* A template is untrusted: every way to spend time or memory ends in an error soon. */
static void hostile_templates_are_stopped(void **state) {
    (void)state;
    graft_template_options small = {.max_memory = 1 << 20, .max_output = 1 << 16, .max_steps = 200000};
    expect("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", &small, GRAFT_ERR_LIMIT, "steps");
    expect("{% for a in range(99999) %}0123456789{% endfor %}", &small, GRAFT_ERR_LIMIT, "output");
    expect("{{ 'a' * 100000000 }}", &small, GRAFT_ERR_LIMIT, "bytes");
    expect("{{ [1] * 100000000 }}", &small, GRAFT_ERR_LIMIT, "bytes");
    expect("{{ 'a' * 9223372036854775807 }}", NULL, GRAFT_ERR_LIMIT, "bytes");
    expect("{{ 'a'.center(9223372036854775807) }}", NULL, GRAFT_ERR_LIMIT, "bytes");
    expect("{{ '%1000000000d' % 1 }}", NULL, GRAFT_ERR_LIMIT, "bytes");
    expect("{{ '{:1000000000}'.format(1) }}", NULL, GRAFT_ERR_LIMIT, "bytes");
    expect("{{ 'a'|indent(1000000000, true) }}", NULL, GRAFT_ERR_LIMIT, "bytes");
    expect("{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", &small,
           GRAFT_ERR_LIMIT, "bytes");
    expect("{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s|replace('', ns.s) %}{% endfor %}", &small,
           GRAFT_ERR_LIMIT, NULL);
    expect("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", NULL, GRAFT_ERR_LIMIT, "nested");
    expect("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", NULL, GRAFT_ERR_LIMIT, "nested");
    expect("{% block a %}{{ self.a() }}{% endblock %}", NULL, GRAFT_ERR_LIMIT, "nested");
    expect("{% set ns = namespace(v=[]) %}{% for i in range(9999) %}{% set ns.v = [ns.v] %}{% endfor %}{{ ns.v }}", NULL,
           GRAFT_ERR_LIMIT, "nested");
    expect("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", NULL, GRAFT_ERR_LIMIT, "nested");
    expect("{% set ns = namespace(v=[1], w=[1]) %}{% for i in range(9999) %}{% set ns.v = [ns.v] %}{% set ns.w = [ns.w, 1] %}"
           "{% endfor %}{{ ns.v < ns.w }}", NULL, GRAFT_ERR_LIMIT, "nested");
    expect("{% set ns = namespace(g=[1]) %}{% for i in range(9999) %}{% set ns.g = ns.g|map('abs') %}{% endfor %}{{ ns.g|list }}",
           NULL, GRAFT_ERR_LIMIT, "nested");
}

/* `unit` repeated `n` times between `before` and `after`. */
static char *repeated(const char *before, const char *unit, size_t n, const char *after) {
    gr_buf b;
    gr_buf_init(&b, NULL);
    gr_buf_add_text(&b, before);
    for (size_t i = 0; i < n; i++) gr_buf_add_text(&b, unit);
    gr_buf_add_text(&b, after);
    char *text;
    assert_ok(gr_buf_take(&b, &text, NULL, &err));
    return text;
}

static void deep_and_large_templates_are_refused(void **state) {
    (void)state;
    const struct {
        const char *before, *unit;
        size_t n;
        const char *after;
        graft_status status;
    } cases[] = {
        {"{{ ", "(", 100000, "", GRAFT_ERR_LIMIT},
        {"{{ ", "[", 100000, "", GRAFT_ERR_LIMIT},
        {"{{ ", "not ", 100000, "1 }}", GRAFT_ERR_LIMIT},
        {"{{ ", "-", 100000, "1 }}", GRAFT_ERR_LIMIT},
        {"{{ 1", " + 1", 100000, " }}", GRAFT_ERR_LIMIT},
        {"{{ 1", " + 1", 100, " }}", GRAFT_OK},
        {"{{ a", ".a", 100000, " }}", GRAFT_ERR_LIMIT},
        {"{{ 1", "|abs", 100000, " }}", GRAFT_ERR_LIMIT},
        {"{{ 1", " if 1 else 1", 100000, " }}", GRAFT_ERR_LIMIT},
        {"{{ 1", " ~ 1", 100000, " }}", GRAFT_OK},
        {"{{ 1", " < 2", 100000, " }}", GRAFT_OK},
        {"", "{% if 1 %}", 100000, "", GRAFT_ERR_LIMIT},
        {"", "{% for a in b %}", 50000, "", GRAFT_ERR_LIMIT},
        {"{% if 1 %}", "{% elif 1 %}", 50000, "{% endif %}", GRAFT_OK},
        {"", "{% set a = 1 %}", 50000, "", GRAFT_OK},
        {"", "0123456789abcdef", 70000, "", GRAFT_ERR_LIMIT},
        {"", "{{", 100000, "", GRAFT_ERR_LIMIT},
        {"", "{% raw %}", 100000, "", GRAFT_ERR_FORMAT},
        {"", "{#", 100000, "", GRAFT_ERR_FORMAT},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        char *text = repeated(cases[i].before, cases[i].unit, cases[i].n, cases[i].after);
        expect(text, NULL, cases[i].status, NULL);
        gr_free(NULL, text);
    }
}

static void json_variables_are_checked(void **state) {
    (void)state;
    graft_context *ctx = new_context(NULL);
    graft_template *t;
    char *out, *deep = repeated("{\"x\":", "[", 600, "");
    assert_ok(graft_template_parse(ctx, "{{ x }}", 7, NULL, &t, &err));
    const struct {
        const char *json;
        graft_status status;
    } cases[] = {{"", GRAFT_ERR_FORMAT}, {"[]", GRAFT_ERR_MISMATCH}, {"{\"x\":", GRAFT_ERR_FORMAT}, {deep, GRAFT_ERR_FORMAT}};
    for (size_t i = 0; i < GR_COUNT(cases); i++)
        assert_int_equal(graft_template_render(t, cases[i].json, strlen(cases[i].json), NULL, &out, NULL, NULL, NULL),
                         cases[i].status);
    json_t *nest = json_integer(1);
    for (int i = 0; i < 600; i++) {
        json_t *outer = json_array();
        json_array_append_new(outer, nest);
        nest = outer;
    }
    json_t *vars = json_pack("{s:o}", "x", nest);
    assert_int_equal(gr_template_render(t, vars, NULL, &out, NULL, NULL, NULL), GRAFT_ERR_LIMIT);
    json_decref(vars);
    gr_free(NULL, deep);
    graft_template_free(t);
    graft_context_free(ctx);
}

static void a_cancelled_context_stops(void **state) {
    (void)state;
    graft_context *ctx = new_context(NULL);
    graft_template *t;
    char *out;
    assert_ok(graft_template_parse(ctx, "x", 1, NULL, &t, &err));
    graft_context_cancel(ctx);
    assert_int_equal(graft_template_render(t, "{}", 2, NULL, &out, NULL, NULL, NULL), GRAFT_ERR_CANCELLED);
    graft_template_free(t);
    graft_context_free(ctx);
}

static const char everything[] =
    "{% macro m(a, b=2) %}[{{ a }}{{ b }}{{ kwargs }}{{ caller() if caller }}]{% endmacro %}{% set ns = namespace(n=0) %}\n"
    "{% for x in [3, 1, 2] if x > 1 %}{{ loop.index }}{% set ns.n = ns.n + x %}{{ m(x, q=1) }}{% else %}none{% endfor %}\n"
    "{% call m('é') %}{% filter upper %}in{% endfilter %}{% endcall %}{% generation %}g{% endgeneration %}\n"
    "{{ {'a': [1, 2.5, none], 'b': 'x' * 20}|tojson(indent=2) }}{{ '%s-%05d' % ('a', 7) }}{{ '{:>6}|{!r}'.format('a', 'b') }}\n"
    "{{ [{'k': 'b'}, {'k': 'a'}]|sort(attribute='k')|map(attribute='k')|join(',') }}{{ 'a b c'.split()[::-1] }}{{ ns }}\n"
    "{% set t | trim %} x {% endset %}{% with y = t %}{{ y|title }}{% endwith %}{{ strftime_now('%Y') }}{{ 'x'|pprint }}\n";

static graft_status parse_and_render(const graft_allocator *a, void *arg) {
    const json_t *vars = arg;
    graft_context *ctx = new_context(a);
    if (!ctx) return GRAFT_ERR_MEMORY;
    result r = render(ctx, everything, vars, NULL);
    free_result(ctx, &r);
    graft_context_free(ctx);
    return r.status;
}

static void allocation_failures_leave_nothing(void **state) {
    (void)state;
    json_t *vars = json_pack("{s:[{s:s,s:s}]}", "messages", "role", "user", "content", "hi");
    test_allocation_sweep(parse_and_render, vars, 0, 1);
    json_decref(vars);
}

typedef struct shared {
    const graft_template *t;
    char *texts[64];
} shared;

static void render_item(void *arg, size_t begin, size_t end, int thread) {
    shared *s = arg;
    (void)thread;
    graft_template_options o = {.now = &clock_of_goldens};
    for (size_t i = begin; i < end; i++)
        if (graft_template_render(s->t, "{}", 2, &o, &s->texts[i], NULL, NULL, NULL) != GRAFT_OK) s->texts[i] = NULL;
}

static void threads_share_a_template(void **state) {
    (void)state;
    graft_context *ctx = new_context(NULL);
    graft_template *t;
    assert_ok(graft_template_parse(ctx, everything, strlen(everything), NULL, &t, &err));
    shared s = {.t = t};
    gr_parallel_for(4, 64, 1, render_item, &s);
    for (size_t i = 0; i < 64; i++) {
        assert_non_null(s.texts[i]);
        assert_string_equal(s.texts[i], s.texts[0]);
    }
    for (size_t i = 0; i < 64; i++) graft_free(ctx, s.texts[i]);
    graft_template_free(t);
    graft_context_free(ctx);
}

static void a_conversation_renders_within_a_millisecond(void **state) {
    (void)state;
    graft_context *ctx = new_context(NULL);
    json_t *all = load("templates/models.json"), *messages = json_array(), *vars;
    for (int i = 0; i < 20; i++)
        json_array_append_new(messages, json_pack("{s:s,s:s}", "role", i % 2 ? "assistant" : "user", "content",
                                                  "A sentence of some length, which says not very much.\nAnd another."));
    vars = json_pack("{s:o,s:b,s:s,s:s}", "messages", messages, "add_generation_prompt", 1, "bos_token", "<s>", "eos_token", "</s>");
    const char *names[] = {"chatml", "llama31_tools", "qwen3_thinking", "harmony"};
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        const char *text = json_string_value(json_object_get(json_object_get(all, "templates"), names[i]));
        graft_template *t;
        double best = 1;
        assert_ok(graft_template_parse(ctx, text, strlen(text), names[i], &t, &err));
        for (int k = 0; k < 50; k++) {
            char *out;
            double start = gr_now_seconds();
            assert_ok(gr_template_render(t, vars, NULL, &out, NULL, NULL, &err));
            best = GR_MIN(best, gr_now_seconds() - start);
            graft_free(ctx, out);
        }
        print_message("%s: 20 turns in %.0f us\n", names[i], best * 1e6);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__clang__)
        assert_true(best < 1e-3);
#endif
        graft_template_free(t);
    }
    json_decref(vars);
    json_decref(all);
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(constructs_render_as_the_reference),
        cmocka_unit_test(models_render_as_the_reference),
        cmocka_unit_test(errors_name_template_and_line),
        cmocka_unit_test(integers_have_64_bits),
        cmocka_unit_test(hostile_templates_are_stopped),
        cmocka_unit_test(deep_and_large_templates_are_refused),
        cmocka_unit_test(json_variables_are_checked),
        cmocka_unit_test(a_cancelled_context_stops),
        cmocka_unit_test(allocation_failures_leave_nothing),
        cmocka_unit_test(threads_share_a_template),
        cmocka_unit_test(a_conversation_renders_within_a_millisecond),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
