/* Runs with 8-bit and paged optimiser state: the same bits as in memory, over interruptions, and what happens without room. */
#include "support/sft_run.h"

#include <math.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/base.h"

static void init(sft_case *c, const char *name, const char *optim) {
    sft_case_init(c, "pairs.jsonl", name);
    c->o.method = "full"; /* one of its tensors is large enough for 8 bits */
    c->o.optim = optim;
    c->o.learning_rate = 1e-3;
    c->o.max_steps = 6;
    c->o.save_strategy = GRAFT_STRATEGY_STEPS;
    c->o.save_steps = 3;
}

static void paged_runs_have_the_same_bits(void **state) {
    (void)state;
    static const char *const optims[][2] = {{"adamw_torch", "paged_adamw_32bit"}, {"adamw_8bit", "paged_adamw_8bit"}};
    for (size_t k = 0; k < GR_COUNT(optims); k++) {
        sft_case plain, paged;
        graft_train_result r;
        char **names;
        size_t n;
        init(&plain, test_path("plain%zu", k), optims[k][0]);
        init(&paged, test_path("paged%zu", k), optims[k][1]);
        assert_ok(sft_run(&plain, 1, &r, &err));
        assert_ok(sft_run(&paged, 2, &r, &err));
        sft_assert_same(plain.output, paged.output);
        /* From the middle, with the other way of keeping state. */
        assert_ok(gr_remove_tree(test_path("%s/checkpoint-6", plain.output), &err));
        plain.o.optim = optims[k][1];
        plain.o.paged_dir = test_temp_dir();
        plain.o.resume_from_checkpoint = "latest";
        assert_ok(sft_run(&plain, 1, &r, &err));
        sft_assert_same(plain.output, paged.output);
        assert_ok(gr_list_dir(NULL, paged.output, &names, &n, &err));
        for (size_t i = 0; i < n; i++) assert_null(strstr(names[i], "scratch"));
        gr_free_names(NULL, names, n);
    }
}

static void eight_bits_train_as_well(void **state) {
    (void)state;
    double loss[2];
    for (int k = 0; k < 2; k++) {
        sft_case c;
        graft_train_result r;
        init(&c, test_path("bits%d", k), k ? "adamw_bnb_8bit" : "adamw_torch");
        c.o.max_steps = 30;
        c.o.save_strategy = GRAFT_STRATEGY_NO;
        assert_ok(sft_run(&c, 1, &r, &err));
        loss[k] = r.train_loss;
    }
    assert_true(loss[0] != loss[1]);
    if (fabs(loss[1] / loss[0] - 1) > 0.02) fail_msg("expected a loss of about %.5f, got %.5f", loss[0], loss[1]);
}

static void without_room_the_checkpoints_stay(void **state) {
    (void)state;
    sft_case whole, c;
    graft_error wrong;
    init(&whole, "whole", "paged_adamw_32bit");
    init(&c, "small", "paged_adamw_32bit");
    assert_ok(sft_run(&whole, 1, NULL, &err));
    assert_ok(sft_run(&c, 1, NULL, &err));
    assert_ok(gr_remove_tree(test_path("%s/checkpoint-6", c.output), &err));
    c.o.resume_from_checkpoint = "latest";
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = (struct rlimit){.rlim_cur = 50000, .rlim_max = before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    assert_int_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_ERR_IO);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_non_null(strstr(wrong.text, "paged optimiser state: "));
    assert_non_null(strstr(wrong.text, c.output));
    assert_non_null(strstr(wrong.text, "File too large"));
    assert_ok(sft_run(&c, 1, NULL, &err));
    sft_assert_same(whole.output, c.output);
}

static void directories_are_checked(void **state) {
    (void)state;
    sft_case c;
    graft_error wrong;
    init(&c, "dirs", "paged_adamw_8bit");
    c.o.paged_dir = "/no/such/folder";
    assert_int_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_ERR_NOT_FOUND);
    assert_non_null(strstr(wrong.text, "/no/such/folder"));
    c.o.optim = "adamw_8bit";
    assert_int_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(wrong.text, "paged_dir: expected a paged optimiser, found adamw_8bit"));
}

static graft_status one_step(const graft_allocator *a, void *arg) {
    graft_context_options co = {.allocator = *a, .n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    sft_case c = *(sft_case *)arg;
    c.o.data = (graft_texts){((sft_case *)arg)->data, 1};
    c.o.output_dir = ((sft_case *)arg)->output;
    graft_context *ctx;
    GR_TRY(graft_context_new(&co, &ctx, NULL));
    graft_status st = graft_sft(ctx, &c.o, NULL, NULL, NULL);
    graft_context_free(ctx);
    return st;
}

static void failing_allocations_leak_nothing(void **state) {
    (void)state;
    sft_case c;
    init(&c, "sweep", "paged_adamw_8bit");
    c.o.max_steps = 1;
    c.o.save_steps = 1;
    c.o.per_device_train_batch_size = 1;
    c.o.overwrite_output_dir = 1;
    test_allocation_sweep(one_step, &c, 0, 31);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paged_runs_have_the_same_bits),
        cmocka_unit_test(eight_bits_train_as_well),
        cmocka_unit_test(without_room_the_checkpoints_stay),
        cmocka_unit_test(directories_are_checked),
        cmocka_unit_test(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
