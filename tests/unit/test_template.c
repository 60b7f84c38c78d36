/* Chat templates: every golden of the reference, errors, bounds, generation spans, allocation failures, threads. */
#include "base/json.h"
#include "graft/template.h"
#include "support/support.h"

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

static result render(graft_context *ctx, const char *text, const char *vars) {
    result r = {0};
    graft_template *t;
    graft_template_options o = {.now = &clock_of_goldens};
    r.status = graft_template_parse(ctx, text, strlen(text), "t", &t, &r.err);
    if (r.status != GRAFT_OK) return r;
    r.status = graft_template_render(t, vars, strlen(vars), &o, &r.text, &r.len, &r.spans, &r.err);
    graft_template_free(t);
    return r;
}

static void free_result(graft_context *ctx, result *r) {
    graft_free(ctx, r->text);
    graft_free(ctx, r->spans.items);
}

static bool spans_equal(const graft_spans *got, const gr_json_value *want) {
    if (got->n != want->len) return false;
    const gr_json_value *pair = want->child;
    for (size_t i = 0; i < got->n; i++, pair = pair->next)
        if (got->items[i].start != (size_t)pair->child->number.i || got->items[i].end != (size_t)pair->child->next->number.i)
            return false;
    return true;
}

/* Whether the rendering is what the reference gave: [text, spans], or null where it raised. */
static bool agrees(graft_context *ctx, const char *name, const char *text, const char *vars, const gr_json_value *want) {
    result r = render(ctx, text, vars);
    bool raises = want->kind == GR_JSON_NULL, raised = r.status != GRAFT_OK, ok;
    if (raises || raised)
        ok = raises && raised && strstr(r.err.text, "t:") == r.err.text;
    else
        ok = r.len == want->child->len && !memcmp(r.text, want->child->text, r.len) &&
             spans_equal(&r.spans, want->child->next);
    if (!ok)
        print_message("%s\n  expected %s\n  got      %s\n", name, raises ? "an error" : want->child->text,
                      raised ? r.err.text : r.text);
    free_result(ctx, &r);
    return ok;
}

typedef struct golden {
    gr_arena arena;
    const gr_json_value *root;
} golden;

static golden load(const char *name) {
    golden g;
    char *text;
    size_t n;
    gr_arena_init(&g.arena, NULL, 0);
    assert_ok(gr_read_file(NULL, test_golden(name), (size_t)16 << 20, &text, &n, &err));
    assert_ok(gr_json_parse(&g.arena, name, text, n, &g.root, &err));
    gr_free(NULL, text);
    return g;
}

static const char *member_text(const golden *g, const char *object, const char *key) {
    const gr_json_value *v = gr_json_get(gr_json_get(g->root, object), key);
    return v ? v->text : "";
}

static void constructs_render_as_the_reference(void **state) {
    (void)state;
    graft_context *ctx = new_context(NULL);
    golden g = load("templates/constructs.json");
    const gr_json_value *cases = gr_json_get(g.root, "cases");
    size_t wrong = 0;
    for (const gr_json_value *c = cases->child; c; c = c->next)
        wrong += !agrees(ctx, c->child->text, c->child->text, gr_json_get(g.root, "variables")->text, c->child->next);
    assert_true(cases->len >= 400);
    assert_int_equal(wrong, 0);
    gr_arena_free(&g.arena);
    graft_context_free(ctx);
}

static void models_render_as_the_reference(void **state) {
    (void)state;
    graft_context *ctx = new_context(NULL);
    golden g = load("templates/models.json");
    const gr_json_value *cases = gr_json_get(g.root, "cases");
    size_t wrong = 0;
    for (const gr_json_value *c = cases->child; c; c = c->next) {
        const char *model = c->child->text, *talk = c->child->next->text;
        char name[128];
        snprintf(name, sizeof name, "%s over %s", model, talk);
        wrong += !agrees(ctx, name, member_text(&g, "templates", model), member_text(&g, "conversations", talk),
                         c->child->next->next);
    }
    assert_true(cases->len >= 600);
    assert_int_equal(wrong, 0);
    gr_arena_free(&g.arena);
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
    char *deep = repeated("{\"x\":", "[", 600, "");
    assert_ok(graft_template_parse(ctx, "{{ x|tojson }}", 14, NULL, &t, &err));
    const struct {
        const char *json;
        graft_status status;
        const char *text; /* the rendering, or a part of the error */
    } cases[] = {
        {"", GRAFT_ERR_FORMAT, "template: variables"},
        {"[]", GRAFT_ERR_FORMAT, "object"},
        {"{} x", GRAFT_ERR_FORMAT, ""},
        {"{\"x\":", GRAFT_ERR_FORMAT, ""},
        {deep, GRAFT_ERR_LIMIT, "levels"},
        {"{\"x\": 92233720368547758070}", GRAFT_ERR_LIMIT, "92233720368547758070"},
        {" {\"x\": [9223372036854775807, -1.5e300, NaN, -Infinity, 0.1]} ", GRAFT_OK,
         "[9223372036854775807, -1.5e+300, NaN, -Infinity, 0.1]"},
        {"{\"x\": \"a\\u0000\\ud83d\\ude00\\n\", \"y\": {}, \"x\": {\"a\": 1, \"b\": [], \"a\": null}}", GRAFT_OK,
         "{\"a\": null, \"b\": []}"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        char *out = NULL;
        graft_error why = {0};
        graft_status st = graft_template_render(t, cases[i].json, strlen(cases[i].json), NULL, &out, NULL, NULL, &why);
        if (st != cases[i].status || !strstr(st == GRAFT_OK ? out : why.text, cases[i].text))
            fail_msg("%.60s: %s %s %s", cases[i].json, graft_status_text(st), why.text, out ? out : "");
        graft_free(ctx, out);
    }
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
    graft_context *ctx = new_context(a);
    if (!ctx) return GRAFT_ERR_MEMORY;
    result r = render(ctx, everything, arg);
    free_result(ctx, &r);
    graft_context_free(ctx);
    return r.status;
}

static void allocation_failures_leave_nothing(void **state) {
    (void)state;
    char vars[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\\n\", \"thinking\": \"x\"}]}";
    test_allocation_sweep(parse_and_render, vars, 0, 1);
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
    gr_team *team;
    assert_ok(gr_team_new(NULL, 4, &team, &err));
    gr_parallel_for(team, 64, 1, render_item, &s);
    gr_team_free(team);
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
    golden g = load("templates/models.json");
    char *vars = repeated("{\"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"messages\": [",
                          "{\"role\": \"user\", \"content\": \"A sentence of some length, which says not very much.\\nAnother.\"}, "
                          "{\"role\": \"assistant\", \"content\": \"An answer that is not much longer than the question was.\"}, ",
                          10, "{\"role\": \"user\", \"content\": \"\"}]}");
    const char *names[] = {"chatml", "llama31_tools", "qwen3_thinking", "harmony"};
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        const char *text = member_text(&g, "templates", names[i]);
        graft_template *t;
        double best = 1;
        assert_ok(graft_template_parse(ctx, text, strlen(text), names[i], &t, &err));
        for (int k = 0; k < 50; k++) {
            char *out;
            double start = gr_now_seconds();
            assert_ok(graft_template_render(t, vars, strlen(vars), NULL, &out, NULL, NULL, &err));
            best = GR_MIN(best, gr_now_seconds() - start);
            graft_free(ctx, out);
        }
        print_message("%s: 21 turns in %.0f us\n", names[i], best * 1e6);
        assert_true(best < 1e-3);
        graft_template_free(t);
    }
    gr_free(NULL, vars);
    gr_arena_free(&g.arena);
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
