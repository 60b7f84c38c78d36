/* Generation and evaluation when memory runs out: whatever allocation fails, nothing is leaked and that is what they say. */
#include "graft/adapter.h"
#include "graft/eval.h"
#include "support/support.h"

typedef struct answering {
    graft_context *ctx;
    graft_model *model;
    graft_tokenizer *tok;
} answering;

static void close_all(answering *w) {
    graft_tokenizer_free(w->tok);
    graft_model_free(w->model);
    graft_context_free(w->ctx);
}

static graft_status open_all(const graft_allocator *a, answering *w) {
    graft_context_options co = {.allocator = *a, .n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    graft_model_options mo = {.dtype = GRAFT_DTYPE_F32};
    const char *path = test_golden("train/model");
    GR_TRY(graft_context_new(&co, &w->ctx, NULL));
    GR_TRY(graft_model_load(w->ctx, path, &mo, &w->model, NULL));
    GR_TRY(graft_adapter_load(w->model, "a", test_golden("train/adapter"), 1, NULL));
    return graft_tokenizer_load(w->ctx, path, &w->tok, NULL);
}

static graft_generate_options settings(void) {
    static const char *const stop[] = {"zzz", "q"};
    graft_generate_options o = graft_generate_options_default();
    o.max_new_tokens = 5;
    o.adapter = "a";
    o.stop = stop;
    o.n_stop = GR_COUNT(stop);
    o.sampling = (graft_sampling){.temperature = 0.9, .top_k = 40, .top_p = 0.95, .min_p = 0.01, .repeat_penalty = 1.1, .seed = 3};
    return o;
}

static int take_piece(void *user, size_t sequence, const char *piece, size_t len) {
    (void)user, (void)sequence, (void)piece, (void)len;
    return 0;
}

/* Two prompts with a common beginning, two continuations each; then one that goes on from what the session holds. */
static graft_status generate_twice(answering *w) {
    static const int32_t ids[] = {85, 299, 31, 86, 85, 299, 90};
    const graft_input_ids prompts[] = {{.ids = ids, .n = 4}, {.ids = ids, .n = 3}}, longer = {.ids = ids, .n = 7};
    graft_generate_options o = settings();
    graft_session *s;
    graft_generation out[4] = {{0}};
    GR_TRY(graft_session_new(w->model, w->tok, &s, NULL));
    graft_status st = graft_generate(s, prompts, 2, 2, &o, take_piece, NULL, out, NULL);
    for (size_t i = 0; i < 4 && st == GRAFT_OK; i++) graft_generation_free(w->ctx, &out[i]);
    if (st == GRAFT_OK) st = graft_generate(s, &longer, 1, 1, &o, NULL, NULL, out, NULL);
    if (st == GRAFT_OK) graft_generation_free(w->ctx, &out[0]);
    graft_session_free(s);
    return st;
}

static graft_status evaluate(answering *w) {
    const char *path = test_golden("train/pairs.jsonl");
    graft_eval_options o = graft_eval_options_default();
    graft_eval_result r;
    o.what = GRAFT_EVAL_LOSS | GRAFT_EVAL_GENERATES;
    o.data.paths = &path;
    o.data.n_paths = 1;
    o.data.max_records = 3;
    o.batch_size = 2;
    o.generate = settings();
    return graft_eval(w->model, w->tok, &o, &r, NULL);
}

typedef graft_status (*answer_fn)(answering *w);

static graft_status sweep_body(const graft_allocator *a, void *arg) {
    answering w = {0};
    graft_status st = open_all(a, &w);
    if (st == GRAFT_OK) st = (*(answer_fn *)arg)(&w);
    close_all(&w);
    return st;
}

static void generation_without_memory(void **state) {
    (void)state;
    answer_fn f = generate_twice;
    test_allocation_sweep(sweep_body, &f, 0, 1);
}

static void evaluation_without_memory(void **state) {
    (void)state;
    answer_fn f = evaluate;
    test_allocation_sweep(sweep_body, &f, 0, 1);
}

/* What only answers are made with is refused where no metric has them; adapter and seed are the loss's too. */
static void what_no_answer_uses_is_refused(void **state) {
    (void)state;
    const char *path = test_golden("train/pairs.jsonl");
    answering w = {0};
    assert_ok(open_all(&(graft_allocator){0}, &w));
    for (int i = 0; i < 6; i++) {
        static const char *const names[] = {"greedy", "max_new_tokens", "num_beams", "match_flags", "rouge_stem"};
        graft_eval_options o = graft_eval_options_default();
        graft_eval_result r;
        graft_error why = {0};
        o.what = GRAFT_EVAL_LOSS;
        o.data.paths = &path;
        o.data.n_paths = 1;
        o.data.max_records = 1;
        o.generate.sampling.seed = 7;
        if (i == 0) o.generate.sampling.greedy = 0;
        if (i == 1) o.generate.max_new_tokens = 5;
        if (i == 2) o.generate.num_beams = 4;
        if (i == 3) o.match_flags = GRAFT_MATCH_IGNORE_CASE;
        if (i == 4) o.rouge_stem = 1;
        if (i == 5) {
            assert_ok(graft_eval(w.model, w.tok, &o, &r, &why));
            continue;
        }
        assert_int_equal(graft_eval(w.model, w.tok, &o, &r, &why), GRAFT_ERR_ARGUMENT);
        if (strncmp(why.text, names[i], strlen(names[i])) != 0) fail_msg("%s: \"%s\"", names[i], why.text);
    }
    close_all(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generation_without_memory),
        cmocka_unit_test(evaluation_without_memory),
        cmocka_unit_test(what_no_answer_uses_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
