/* Generation with the packaged SmolLM2: the tokens of transformers' greedy search, and the laws of the loop: alone or among
 * others, in a batch of copies, after a shared beginning, the tokens are the same. Skipped where the model is absent. */
#include "graft/generate.h"
#include "support/support.h"

enum { MAX_IDS = 128, MAX_CASES = 8, NEW = TEST_SANITIZED ? 7 : 14 };

typedef struct one_case {
    int32_t prompt[MAX_IDS], expected[MAX_IDS];
    size_t n_prompt, n_expected;
} one_case;

static graft_context *ctx;
static graft_model *model;
static graft_tokenizer *tok;
static one_case cases[MAX_CASES];
static size_t n_cases;

static size_t read_ids(const char *line, int32_t *out) {
    size_t n = 0;
    for (char *end; n < MAX_IDS; line = end) {
        long v = strtol(line, &end, 10);
        if (end == line) break;
        out[n++] = (int32_t)v;
    }
    return n;
}

static int setup(void **state) {
    (void)state;
    const char *cache = test_cache();
    char path[1200], line[4096];
    snprintf(path, sizeof path, "%s/models/SmolLM2-135M-Instruct.Q4_1.gguf", cache ? cache : "");
    if (!cache || !gr_path_exists(path)) return 0;
    FILE *f = fopen(test_golden("generate/smollm2.txt"), "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        one_case *c = &cases[n_cases++];
        c->n_prompt = read_ids(line, c->prompt);
        assert_non_null(fgets(line, sizeof line, f));
        c->n_expected = GR_MIN(read_ids(line, c->expected), (size_t)NEW);
    }
    fclose(f);
    graft_model_options o = {.dtype = GRAFT_DTYPE_F32};
    graft_context_options co = {.cpu = getenv("GRAFT_CPU")};
    assert_ok(graft_context_new(&co, &ctx, &err));
    assert_ok(graft_model_load(ctx, path, &o, &model, &err));
    assert_ok(graft_tokenizer_load(ctx, path, &tok, &err));
    return 0;
}

static int teardown(void **state) {
    (void)state;
    graft_tokenizer_free(tok);
    graft_model_free(model);
    graft_context_free(ctx);
    return 0;
}

static graft_generate_options greedy(void) {
    graft_generate_options o = graft_generate_options_default();
    o.max_new_tokens = NEW;
    return o;
}

static void check_ids(const graft_generation *g, const one_case *c) {
    assert_int_equal(g->n_ids, c->n_expected);
    assert_memory_equal(g->ids, c->expected, c->n_expected * sizeof *c->expected);
}

static graft_input_ids prompt_of(const one_case *c) { return (graft_input_ids){.ids = c->prompt, .n = c->n_prompt}; }

static void greedy_equals_transformers_alone_and_together(void **state) {
    (void)state;
    if (!model) skip();
    graft_session *s;
    assert_ok(graft_session_new(model, tok, &s, &err));
    graft_generate_options o = greedy();
    graft_input_ids all[MAX_CASES];
    graft_generation g[MAX_CASES];
    for (size_t i = 0; i + 1 < n_cases; i++) {
        all[i] = prompt_of(&cases[i]);
        assert_ok(graft_generate(s, &all[i], 1, 1, &o, NULL, NULL, g, &err));
        check_ids(g, &cases[i]);
        graft_generation_free(ctx, g);
    }
    o.max_batch = 3; /* fewer than there are prompts: the last ones wait for a place */
    assert_ok(graft_generate(s, all, n_cases - 1, 1, &o, NULL, NULL, g, &err));
    for (size_t i = 0; i + 1 < n_cases; i++) {
        check_ids(&g[i], &cases[i]);
        graft_generation_free(ctx, &g[i]);
    }
    o.sampling.repeat_penalty = 1.3;
    all[0] = prompt_of(&cases[n_cases - 1]);
    assert_ok(graft_generate(s, all, 1, 1, &o, NULL, NULL, g, &err));
    check_ids(g, &cases[n_cases - 1]);
    graft_generation_free(ctx, g);
    graft_session_free(s);
}

static void copies_share_the_prompt_and_draw_for_themselves(void **state) {
    (void)state;
    if (!model) skip();
    graft_session *s;
    assert_ok(graft_session_new(model, tok, &s, &err));
    graft_generate_options o = greedy();
    graft_input_ids p[2] = {prompt_of(&cases[2]), prompt_of(&cases[0])};
    graft_generation g[6], again[6];
    assert_ok(graft_generate(s, p, 1, 3, &o, NULL, NULL, g, &err));
    for (int i = 0; i < 3; i++) check_ids(&g[i], &cases[2]);
    for (int i = 0; i < 3; i++) graft_generation_free(ctx, &g[i]);
    o.max_new_tokens = 6;
    o.sampling = (graft_sampling){.temperature = 1.5, .top_p = 1, .repeat_penalty = 1, .seed = 3};
    assert_ok(graft_generate(s, p, 2, 3, &o, NULL, NULL, g, &err));
    o.max_batch = 3; /* another grouping, the same draws */
    assert_ok(graft_generate(s, p, 2, 3, &o, NULL, NULL, again, &err));
    for (int i = 0; i < 6; i++) {
        assert_int_equal(g[i].n_ids, again[i].n_ids);
        assert_memory_equal(g[i].ids, again[i].ids, g[i].n_ids * sizeof *g[i].ids);
    }
    assert_true(g[0].n_ids != g[1].n_ids || memcmp(g[0].ids, g[1].ids, g[0].n_ids * sizeof *g[0].ids) != 0);
    for (int i = 0; i < 6; i++) {
        graft_generation_free(ctx, &g[i]);
        graft_generation_free(ctx, &again[i]);
    }
    graft_session_free(s);
}

static void a_known_beginning_is_not_computed_again(void **state) {
    (void)state;
    if (!model) skip();
    graft_session *s;
    assert_ok(graft_session_new(model, tok, &s, &err));
    graft_generate_options o = greedy();
    graft_input_ids p = prompt_of(&cases[3]);
    graft_generation g;
    assert_ok(graft_generate(s, &p, 1, 1, &o, NULL, NULL, &g, &err));
    graft_generation_free(ctx, &g);
    /* The prompt with half of its own continuation: the rest must come out. */
    int32_t longer[2 * MAX_IDS];
    size_t half = NEW / 2, n = cases[3].n_prompt + half;
    memcpy(longer, cases[3].prompt, cases[3].n_prompt * sizeof *longer);
    memcpy(longer + cases[3].n_prompt, cases[3].expected, half * sizeof *longer);
    p = (graft_input_ids){.ids = longer, .n = n};
    o.max_new_tokens = (int64_t)(cases[3].n_expected - half);
    assert_ok(graft_generate(s, &p, 1, 1, &o, NULL, NULL, &g, &err));
    assert_memory_equal(g.ids, cases[3].expected + half, g.n_ids * sizeof *g.ids);
    assert_int_equal(graft_session_stats(s).reused_tokens, n - 1);
    graft_generation_free(ctx, &g);
    graft_session_free(s);
}

typedef struct collected {
    char text[1024];
} collected;

static int collect(void *user, size_t sequence, const char *piece, size_t len) {
    (void)sequence;
    strncat(((collected *)user)->text, piece, len);
    return 0;
}

static void stop_texts_cut_and_pieces_add_up(void **state) {
    (void)state;
    if (!model) skip();
    graft_session *s;
    assert_ok(graft_session_new(model, tok, &s, &err));
    graft_generate_options o = greedy();
    graft_input_ids p = prompt_of(&cases[0]);
    graft_generation whole, cut;
    collected c = {{0}};
    assert_ok(graft_generate(s, &p, 1, 1, &o, collect, &c, &whole, &err));
    assert_string_equal(c.text, whole.text);
    assert_true(whole.len > 8);
    char stop_text[4] = {whole.text[5], whole.text[6], whole.text[7], 0};
    const char *stops[] = {"never there", stop_text};
    o.stop = stops;
    o.n_stop = 2;
    c.text[0] = 0;
    assert_ok(graft_generate(s, &p, 1, 1, &o, collect, &c, &cut, &err));
    assert_int_equal(cut.finish, GRAFT_FINISH_STOP);
    assert_string_equal(c.text, cut.text);
    assert_null(strstr(cut.text, stop_text));
    assert_memory_equal(cut.text, whole.text, cut.len);
    graft_generation_free(ctx, &whole);
    graft_generation_free(ctx, &cut);
    graft_session_free(s);
}

static void wrong_calls_are_refused(void **state) {
    (void)state;
    if (!model) skip();
    graft_session *s;
    assert_ok(graft_session_new(model, tok, &s, &err));
    graft_generate_options o = greedy();
    graft_generation g;
    int32_t bad = 1 << 30;
    graft_input_ids p = {.ids = &bad, .n = 1};
    assert_int_equal(graft_generate(s, &p, 1, 1, &o, NULL, NULL, &g, NULL), GRAFT_ERR_ARGUMENT);
    p.n = 0;
    assert_int_equal(graft_generate(s, &p, 1, 1, &o, NULL, NULL, &g, NULL), GRAFT_ERR_ARGUMENT);
    p = prompt_of(&cases[0]);
    o.adapter = "absent";
    assert_int_equal(graft_generate(s, &p, 1, 1, &o, NULL, NULL, &g, NULL), GRAFT_ERR_NOT_FOUND);
    o = greedy();
    o.sampling.greedy = 0;
    o.sampling.temperature = -1;
    assert_int_equal(graft_generate(s, &p, 1, 1, &o, NULL, NULL, &g, NULL), GRAFT_ERR_ARGUMENT);
    graft_context_cancel(ctx);
    o = greedy();
    assert_int_equal(graft_generate(s, &p, 1, 1, &o, NULL, NULL, &g, NULL), GRAFT_ERR_CANCELLED);
    graft_context_reset_cancel(ctx);
    graft_session_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_equals_transformers_alone_and_together),
        cmocka_unit_test(copies_share_the_prompt_and_draw_for_themselves),
        cmocka_unit_test(a_known_beginning_is_not_computed_again),
        cmocka_unit_test(stop_texts_cut_and_pieces_add_up),
        cmocka_unit_test(wrong_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
