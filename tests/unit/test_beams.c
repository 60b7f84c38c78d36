/* Generation against transformers' generate, of decoders and of encoder-decoders: greedy with its options, and beam
 * search (goldens by tools/golden/make_families.py). Laws: prompts do not depend on each other, beams give the keys and
 * values that a run without sharing gives, failing allocations leak nothing. */
#include "support/model_support.h"

#include <math.h>

#include "graft/generate.h"
#include "infer/infer.h"

enum { VOCAB = 96, MOST = 16 };

/* A tokenizer of 96 pieces whose end of text is token `eos`. */
static graft_tokenizer *tokenizer_with_end(graft_context *ctx, int eos) {
    char dir[1100], path[1200];
    graft_tokenizer *tok;
    gr_buf b;
    snprintf(dir, sizeof dir, "%s/tokenizer%d", test_temp_dir(), eos);
    assert_ok(gr_make_dirs(dir, &err));
    gr_buf_init(&b, NULL);
    gr_buf_add_text(
        &b,
        "{\"version\": \"1.0\", \"added_tokens\": [], \"model\": {\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [");
    for (int i = 0; i < VOCAB; i++) gr_buf_add_format(&b, "%s[\"t%d\", -1.0]", i ? ", " : "", i);
    gr_buf_add_text(&b, "]}}");
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    assert_ok(gr_write_file(NULL, path, b.data, b.len, &err));
    gr_buf_clear(&b);
    gr_buf_add_format(&b, "{\"eos_token\": \"t%d\"}", eos);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    assert_ok(gr_write_file(NULL, path, b.data, b.len, &err));
    gr_buf_free(&b);
    assert_ok(graft_tokenizer_load(ctx, dir, &tok, &err));
    return tok;
}

static double number(const gr_json_value *v, const char *key, double otherwise) {
    const gr_json_value *x = gr_json_get(v, key);
    return x && x->kind == GR_JSON_NUMBER ? x->number.d : otherwise;
}

static graft_generate_options options_of(const gr_json_value *o) {
    graft_generate_options g = graft_generate_options_default();
    const gr_json_value *early = gr_json_get(o, "early_stopping");
    g.max_new_tokens = (int64_t)number(o, "max_new_tokens", 0);
    g.min_new_tokens = (int64_t)number(o, "min_new_tokens", 0);
    g.no_repeat_ngram_size = (int64_t)number(o, "no_repeat_ngram_size", 0);
    g.sampling.repeat_penalty = number(o, "repetition_penalty", 1);
    g.num_beams = (size_t)number(o, "num_beams", 1);
    g.length_penalty = number(o, "length_penalty", 1);
    if (early && early->kind == GR_JSON_TRUE) g.early_stopping = GRAFT_EARLY_STOPPING_YES;
    if (early && early->kind == GR_JSON_STRING) g.early_stopping = GRAFT_EARLY_STOPPING_NEVER;
    return g;
}

static size_t ids_of(const gr_json_value *list, int32_t *out, size_t most) {
    size_t n = 0;
    for (const gr_json_value *v = list->child; v; v = v->next) {
        assert_true(n < most);
        out[n++] = (int32_t)v->number.i;
    }
    return n;
}

typedef struct golden_case {
    const gr_json_value *line;
    size_t number, n_return;
    int32_t prompt[64];
    graft_input_ids in;
    graft_generate_options o;
} golden_case;

static void compare(const golden_case *c, const graft_generation *g) {
    const gr_json_value *want = gr_json_get(c->line, "sequences")->child, *scores = gr_json_get(c->line, "scores");
    const gr_json_value *score = scores && scores->kind == GR_JSON_ARRAY ? scores->child : NULL;
    for (size_t k = 0; k < c->n_return; k++, want = want->next) {
        int32_t ids[64];
        assert_non_null(want);
        size_t n = ids_of(want, ids, GR_COUNT(ids));
        if (g[k].n_ids != n || memcmp(g[k].ids, ids, n * sizeof *ids) != 0)
            fail_msg("line %zu, sequence %zu: other tokens (%zu of %zu; the first is %d, expected %d)", c->number, k,
                     g[k].n_ids, n, g[k].n_ids ? g[k].ids[0] : -1, ids[0]);
        if (!score) continue;
        if (!(fabs(g[k].score - score->number.d) < 2e-5 * (1 + fabs(score->number.d))))
            fail_msg("line %zu, sequence %zu: score %g, expected %g", c->number, k, g[k].score, score->number.d);
        score = score->next;
    }
}

static void run_case(golden_case *c) {
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden(gr_json_get(c->line, "model")->text), GRAFT_DTYPE_F32);
    graft_tokenizer *tok = tokenizer_with_end(ctx, (int)number(gr_json_get(c->line, "options"), "eos_token_id", 2));
    graft_session *s;
    graft_generation g[MOST];
    assert_ok(graft_session_new(m, tok, &s, &err));
    assert_ok(graft_generate(s, &c->in, 1, c->n_return, &c->o, NULL, NULL, g, &err));
    compare(c, g);
    for (size_t k = 0; k < c->n_return; k++) graft_generation_free(ctx, &g[k]);
    graft_session_free(s);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
}

static void generations_equal_transformers(void **state) {
    (void)state;
    char *text;
    size_t len, number_of_line = 0, beams = 0;
    assert_ok(gr_read_file(NULL, test_golden("families/generate.jsonl"), 1 << 20, &text, &len, &err));
    for (char *line = text; *line; number_of_line++) {
        gr_arena arena;
        golden_case c = {.number = number_of_line + 1};
        size_t n = strcspn(line, "\n");
        gr_arena_init(&arena, NULL, 0);
        assert_ok(gr_json_parse(&arena, "generate.jsonl", line, n, &c.line, &err));
        const gr_json_value *o = gr_json_get(c.line, "options");
        c.o = options_of(o);
        c.n_return = (size_t)number(o, "num_return_sequences", 1);
        c.in = (graft_input_ids){c.prompt, ids_of(gr_json_get(c.line, "input_ids"), c.prompt, GR_COUNT(c.prompt))};
        run_case(&c);
        beams += c.o.num_beams > 1;
        gr_arena_free(&arena);
        line += n + (line[n] == '\n');
    }
    assert_true(number_of_line >= 60 && beams >= 36);
    gr_free(NULL, text);
}

static const char *const models[] = {"families/gpt2", "families/t5", "families/t5_gated"};
static const int32_t prompts[4][7] = {
    {5, 9, 11, 12, 40, 6, 7}, {7, 5, 61, 9, 8, 8, 3}, {90, 12, 31, 4, 77, 50, 21}, {6, 6, 6, 13, 14, 15, 16}};
static const size_t prompt_lengths[4] = {7, 2, 5, 1};

static void same_generation(const graft_generation *a, const graft_generation *b) {
    assert_int_equal(a->n_ids, b->n_ids);
    assert_memory_equal(a->ids, b->ids, a->n_ids * sizeof *a->ids);
    assert_memory_equal(&a->score, &b->score, sizeof a->score);
    assert_string_equal(a->text, b->text);
    assert_int_equal(a->finish, b->finish);
}

/* Beams, samples and greedy texts of four prompts together and of each alone; so few rows at a time that prompts wait.
 */
static void prompts_do_not_depend_on_each_other(void **state) {
    (void)state;
    for (size_t k = 0; k < GR_COUNT(models) * 3; k++) {
        graft_context *ctx = test_context(NULL, 1 + (int)(k % 2), NULL);
        graft_model *m = test_load(ctx, test_golden(models[k / 3]), GRAFT_DTYPE_F32);
        graft_tokenizer *tok = tokenizer_with_end(ctx, 2);
        graft_session *s;
        graft_generate_options o = graft_generate_options_default();
        graft_input_ids in[4];
        graft_generation all[4 * 2], one[2];
        for (int i = 0; i < 4; i++) in[i] = (graft_input_ids){prompts[i], prompt_lengths[i]};
        o.max_new_tokens = 9;
        o.max_batch = 5;
        if (k % 3 == 0) o.num_beams = 3;
        if (k % 3 == 1) o.sampling = (graft_sampling){.temperature = 1.3, .top_p = 1, .repeat_penalty = 1, .seed = 5};
        assert_ok(graft_session_new(m, tok, &s, &err));
        assert_ok(graft_generate(s, in, 4, 2, &o, NULL, NULL, all, &err));
        for (int i = 0; i < 4; i++) {
            if (k % 3 == 1) break; /* draws go by the number of the sequence in the call */
            assert_ok(graft_generate(s, &in[i], 1, 2, &o, NULL, NULL, one, &err));
            for (int c = 0; c < 2; c++) {
                same_generation(&all[2 * i + c], &one[c]);
                graft_generation_free(ctx, &one[c]);
            }
        }
        if (k % 3 == 1) {
            graft_generation again[8];
            o.max_batch = 32;
            assert_ok(graft_generate(s, in, 4, 2, &o, NULL, NULL, again, &err));
            for (int i = 0; i < 8; i++) {
                same_generation(&all[i], &again[i]);
                graft_generation_free(ctx, &again[i]);
            }
        }
        for (int i = 0; i < 8; i++) graft_generation_free(ctx, &all[i]);
        graft_session_free(s);
        graft_tokenizer_free(tok);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

/* The score of a beam is what a pass over the whole sequence gives. */
static void scores_are_those_of_a_whole_pass(void **state) {
    (void)state;
    for (size_t k = 0; k < GR_COUNT(models); k++) {
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = test_load(ctx, test_golden(models[k]), GRAFT_DTYPE_F32);
        graft_tokenizer *tok = tokenizer_with_end(ctx, 2);
        graft_session *s;
        graft_generate_options o = graft_generate_options_default();
        graft_generation g[4];
        const graft_input_ids in = {prompts[0], 7};
        o.max_new_tokens = 12;
        o.num_beams = 4;
        o.length_penalty = 0;
        assert_ok(graft_session_new(m, tok, &s, &err));
        assert_ok(graft_generate(s, &in, 1, 4, &o, NULL, NULL, g, &err));
        for (int i = 0; i < 4; i++) {
            test_batch source = {0}, whole = {0};
            int n = 0, begin = k ? 1 : 7;
            if (k) {
                memcpy(source.ids, in.ids, 7 * sizeof(int32_t));
                source.bounds[1] = 7;
                source.batch = (gr_batch){
                    .n_tokens = 7, .n_seqs = 1, .bounds = source.bounds, .ids = source.ids, .one_adapter = -1};
                whole.ids[n++] = 0;
            } else
                for (; n < 7; n++) whole.ids[n] = in.ids[n];
            for (size_t t = 0; t < g[i].n_ids; t++) whole.ids[n++] = g[i].ids[t];
            whole.bounds[1] = n;
            whole.batch = (gr_batch){.n_tokens = n,
                                     .n_seqs = 1,
                                     .bounds = whole.bounds,
                                     .ids = whole.ids,
                                     .one_adapter = -1,
                                     .source = k ? &source.batch : NULL};
            float *x = test_logits(m->model, NULL, &whole.batch);
            double sum = 0;
            for (int t = begin; t < n; t++) {
                const float *row = x + (t - 1) * VOCAB;
                double z = 0;
                for (int v = 0; v < VOCAB; v++) z += exp((double)row[v] - row[whole.ids[t]]);
                sum -= log(z);
            }
            if (!(fabs(sum - g[i].score) < 1e-4 * (1 + fabs(sum))))
                fail_msg("%s: beam %d: score %g, expected %g", models[k], i, g[i].score, sum);
            free(x);
            graft_generation_free(ctx, &g[i]);
        }
        graft_session_free(s);
        graft_tokenizer_free(tok);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

static void wrong_calls_are_refused(void **state) {
    (void)state;
    static const char *const says[] = {"does not sample", "stop texts",           "num_beams: expected at least the 4",
                                       "length_penalty",  "no_repeat_ngram_size", "have no end"};
    static const char *const stop[] = {"x"};
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("families/t5"), GRAFT_DTYPE_F32);
    graft_tokenizer *tok = tokenizer_with_end(ctx, 2);
    graft_session *s;
    const graft_input_ids in = {prompts[0], 7};
    assert_ok(graft_session_new(m, tok, &s, &err));
    for (int i = 0; i < 6; i++) {
        graft_generate_options o = graft_generate_options_default();
        graft_generation g[4];
        graft_error wrong;
        o.num_beams = 3;
        if (i == 0) o.sampling.greedy = 0;
        if (i == 1) o.stop = stop, o.n_stop = 1;
        if (i == 3) o.length_penalty = NAN;
        if (i == 4) o.no_repeat_ngram_size = -1;
        if (i == 5) o.max_new_tokens = -1;
        graft_status st = graft_generate(s, &in, 1, i == 2 ? 4 : 2, &o, NULL, NULL, g, &wrong);
        if (st == GRAFT_OK || !strstr(wrong.text, says[i]))
            fail_msg("expected '%s', found '%s'", says[i], st ? wrong.text : "no error");
    }
    graft_session_free(s);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
}

static graft_status search_once(const graft_allocator *a, void *arg) {
    const graft_input_ids in[2] = {{prompts[0], 7}, {prompts[1], 2}};
    graft_context_options co = {.allocator = *a, .n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    graft_model_options mo = {.dtype = GRAFT_DTYPE_F32};
    graft_generate_options o = graft_generate_options_default();
    graft_context *ctx = NULL;
    graft_model *m = NULL;
    graft_tokenizer *tok = NULL;
    graft_session *s = NULL;
    graft_generation g[4];
    char dir[1100];
    snprintf(dir, sizeof dir, "%s/tokenizer2", test_temp_dir());
    o.max_new_tokens = 4;
    o.num_beams = 2;
    o.no_repeat_ngram_size = 2;
    graft_status st = graft_context_new(&co, &ctx, NULL);
    if (st == GRAFT_OK) st = graft_model_load(ctx, test_golden(arg), &mo, &m, NULL);
    if (st == GRAFT_OK) st = graft_tokenizer_load(ctx, dir, &tok, NULL);
    if (st == GRAFT_OK) st = graft_session_new(m, tok, &s, NULL);
    if (st == GRAFT_OK) st = graft_generate(s, in, 2, 2, &o, NULL, NULL, g, NULL);
    for (int i = 0; st == GRAFT_OK && i < 4; i++) graft_generation_free(ctx, &g[i]);
    graft_session_free(s);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    static char name[2][32] = {"families/gpt2", "families/t5"};
    for (int i = 0; i < 2; i++) test_allocation_sweep(search_once, name[i], 0, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generations_equal_transformers),
        cmocka_unit_test(prompts_do_not_depend_on_each_other),
        cmocka_unit_test(scores_are_those_of_a_whole_pass),
        cmocka_unit_test(wrong_calls_are_refused),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
