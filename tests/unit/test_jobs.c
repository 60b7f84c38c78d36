/* Several jobs over one model: each gets the very bits that it would get alone, whatever befalls the others. */
#include "support/sft_run.h"

#include <unistd.h>

enum { JOBS = 8 };

typedef struct crew {
    sft_case c[JOBS];
    graft_sft_job jobs[JOBS];
} crew;

static const char *const methods[JOBS] = {"lora", "ia3",  "prompt-tuning", "prefix-tuning", "p-tuning", "llama-adapter", "ln-tuning", "full"};
static const char *const names[JOBS] = {"a", "b", "c", "d", "e", "f", "g", "h"};

/* Jobs of every method that differ in data, seed, rate, length, order and batch. */
static void make(crew *k, const char *folder) {
    for (int i = 0; i < JOBS; i++) {
        sft_case *c = &k->c[i];
        sft_case_init(c, i % 3 == 0 ? "pairs.jsonl" : i % 3 == 1 ? "texts.jsonl" : "chats.jsonl", test_path("%s%d", folder, i));
        c->o.method = methods[i];
        if (i == 0) c->o.lora.lora_dropout = 0.2;
        c->o.seed = (uint64_t)(40 + i / 2);
        c->o.no_shuffle = i % 2;
        c->o.learning_rate = 1e-3 * (i + 1);
        c->o.max_steps = 4 + i;
        c->o.per_device_train_batch_size = 2 + i % 3;
        c->o.packing = i == 1;
        if (i == 0 || i == 3 || i == 7) {
            c->o.eval_strategy = GRAFT_STRATEGY_STEPS;
            c->o.eval_steps = 2;
        }
        if (i < 2) {
            c->o.save_strategy = GRAFT_STRATEGY_STEPS;
            c->o.save_steps = 3;
        }
    }
}

static graft_status run_jobs(crew *k, int n, int threads, const graft_train_callbacks *call, graft_context **ctx_out, graft_error *e) {
    graft_context_options co = {.n_threads = threads, .cpu = getenv("GRAFT_CPU")};
    graft_context *ctx;
    GR_TRY(graft_context_new(&co, &ctx, e));
    if (ctx_out) *ctx_out = ctx;
    for (int i = 0; i < n; i++) {
        k->jobs[i] = (graft_sft_job){.name = names[i], .options = k->c[i].o};
        graft_sft_options *o = &k->jobs[i].options;
        o->data = (graft_texts){k->c[i].data, 1};
        if (o->eval_strategy != GRAFT_STRATEGY_NO) o->eval_data = (graft_texts){k->c[i].eval, 1};
        o->output_dir = k->c[i].output;
        if (call) k->jobs[i].callbacks = *call;
    }
    graft_status st = graft_sft_jobs(ctx, k->jobs, (size_t)n, e);
    graft_context_free(ctx);
    return st;
}

static void jobs_are_as_alone(void **state) {
    (void)state;
    static crew alone, one, two;
    make(&alone, "alone");
    make(&one, "one");
    make(&two, "two");
    assert_ok(run_jobs(&one, JOBS, 1, NULL, NULL, &err));
    assert_ok(run_jobs(&two, JOBS, 2, NULL, NULL, &err));
    for (int i = 0; i < JOBS; i++) {
        graft_train_result r;
        assert_ok(sft_run(&alone.c[i], 1, &r, &err));
        sft_assert_same(alone.c[i].output, one.c[i].output);
        sft_assert_same(alone.c[i].output, two.c[i].output);
        assert_int_equal(one.jobs[i].status, GRAFT_OK);
        assert_int_equal(one.jobs[i].result.num_tokens, r.num_tokens);
        assert_true(one.jobs[i].result.train_loss == r.train_loss);
        assert_int_equal(one.jobs[i].result.n_records, r.n_records);
    }
}

/* A job that cannot be opened, one whose gradient is not finite, one whose folder is taken: the others do not notice. */
static void a_failure_leaves_the_others(void **state) {
    (void)state;
    static crew alone, k;
    make(&alone, "well");
    make(&k, "ill");
    k.c[1].o.method = "lora";
    k.c[1].o.learning_rate = 1e6;
    k.c[1].o.max_grad_norm = 0;
    k.c[1].o.optim = "sgd";
    k.c[1].o.weight_decay = 1; /* the matrices grow by a million a step, whatever rounding does */
    k.c[1].o.max_steps = 40;
    snprintf(k.c[2].path, sizeof k.c[2].path, "%s/nothing.jsonl", test_temp_dir());
    snprintf(k.c[4].output, sizeof k.c[4].output, "%s", k.c[3].output);
    graft_error first;
    graft_status st = run_jobs(&k, JOBS, 1, NULL, NULL, &first);
    assert_int_equal(st, GRAFT_ERR_NUMERIC);
    assert_non_null(strstr(first.text, "job b: step "));
    assert_non_null(strstr(first.text, "texts.jsonl:"));
    assert_int_equal(k.jobs[1].status, GRAFT_ERR_NUMERIC);
    assert_non_null(strstr(k.jobs[2].error.text, "job c: "));
    assert_non_null(strstr(k.jobs[2].error.text, "nothing.jsonl"));
    assert_int_not_equal(k.jobs[2].status, GRAFT_OK);
    assert_non_null(strstr(k.jobs[4].error.text, k.c[3].output));
    assert_int_not_equal(k.jobs[4].status, GRAFT_OK);
    for (int i = 0; i < JOBS; i++) {
        if (i == 1 || i == 2 || i == 4) continue;
        assert_int_equal(k.jobs[i].status, GRAFT_OK);
        assert_ok(sft_run(&alone.c[i], 1, NULL, &err));
        sft_assert_same(alone.c[i].output, k.c[i].output);
    }
}

typedef struct stopper {
    graft_context *ctx;
    graft_train_phase phase;
    int64_t at;
} stopper;

static void stop_there(void *user, const graft_train_progress *p) {
    stopper *s = user;
    if (p->phase == s->phase && p->step >= s->at) graft_context_cancel(s->ctx);
}

static void cancelled_jobs_go_on(void **state) {
    (void)state;
    static crew whole, cut;
    static const stopper stops[] = {{NULL, GRAFT_TRAIN_STEPPING, 2}, {NULL, GRAFT_TRAIN_EVALUATING, 4}, {NULL, GRAFT_TRAIN_STEPPING, 6}};
    make(&whole, "whole");
    make(&cut, "cut");
    assert_ok(run_jobs(&whole, JOBS, 1, NULL, NULL, &err));
    for (size_t s = 0; s < GR_COUNT(stops); s++) {
        stopper stop = stops[s];
        const graft_train_callbacks call = {.user = &stop, .progress = stop_there};
        graft_error first;
        graft_status st = run_jobs(&cut, JOBS, 1, &call, &stop.ctx, &first);
        assert_int_equal(st, GRAFT_ERR_CANCELLED);
        assert_non_null(strstr(first.text, "--resume-from-checkpoint latest goes on"));
        for (int i = 0; i < JOBS; i++) cut.c[i].o.resume_from_checkpoint = "auto";
    }
    assert_ok(run_jobs(&cut, JOBS, 1, NULL, NULL, &err));
    for (int i = 0; i < JOBS; i++) sft_assert_same(whole.c[i].output, cut.c[i].output);
}

static void expect(crew *k, int n, graft_status st, const char *text) {
    graft_error found;
    assert_int_equal(run_jobs(k, n, 1, NULL, NULL, &found), st);
    if (!strstr(found.text, text)) fail_msg("expected \"%s\" in \"%s\"", text, found.text);
}

static void what_jobs_must_share(void **state) {
    (void)state;
    static crew k;
    make(&k, "share");
    expect(&k, 0, GRAFT_ERR_ARGUMENT, "jobs: expected at least one");
    k.c[1].o.model = "elsewhere";
    expect(&k, 2, GRAFT_ERR_ARGUMENT, "job b: model: expected ");
    make(&k, "share");
    k.c[1].o.dtype = "bf16";
    expect(&k, 2, GRAFT_ERR_ARGUMENT, "job b: dtype: expected f32 as in job a, found bf16");
    make(&k, "share");
    k.c[0].o.memory = k.c[1].o.memory = 4 << 20;
    expect(&k, 2, GRAFT_ERR_LIMIT, "memory: expected at most 4.0 MiB");
}

static graft_status two_jobs(const graft_allocator *a, void *arg) {
    crew *k = arg;
    graft_context_options co = {.allocator = *a, .n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    graft_context *ctx;
    GR_TRY(graft_context_new(&co, &ctx, NULL));
    for (int i = 0; i < 2; i++) {
        k->jobs[i] = (graft_sft_job){.name = names[i], .options = k->c[i].o};
        k->jobs[i].options.data = (graft_texts){k->c[i].data, 1};
        k->jobs[i].options.output_dir = k->c[i].output;
    }
    graft_status st = graft_sft_jobs(ctx, k->jobs, 2, NULL);
    graft_context_free(ctx);
    return st;
}

static void failing_allocations_leak_nothing(void **state) {
    (void)state;
    static crew k;
    make(&k, "sweep");
    for (int i = 0; i < 2; i++) {
        k.c[i].o.max_steps = 1;
        k.c[i].o.eval_strategy = GRAFT_STRATEGY_NO;
        k.c[i].o.save_strategy = GRAFT_STRATEGY_NO;
    }
    k.c[1].o.method = "ln-tuning";
    test_allocation_sweep(two_jobs, &k, 0, 37);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_are_as_alone),
        cmocka_unit_test(a_failure_leaves_the_others),
        cmocka_unit_test(cancelled_jobs_go_on),
        cmocka_unit_test(what_jobs_must_share),
        cmocka_unit_test(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
