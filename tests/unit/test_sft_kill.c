/* A trainer that is killed at any moment: the folder always loads, and the resumed run ends with the same bits. */
#define _GNU_SOURCE
#include "support/sft_run.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "adapter/adapter.h"
#include "train/output.h"

enum { KILLS = 50 };

static void kill_case(sft_case *c, const char *output) {
    sft_case_init(c, "pairs.jsonl", "unused");
    snprintf(c->output, sizeof c->output, "%s", output);
    c->o.no_shuffle = 0;
    c->o.lora.lora_dropout = 0.1;
    c->o.lora.r = 4;
    c->o.learning_rate = 1e-2;
    c->o.max_steps = 10;
    c->o.per_device_train_batch_size = 4;
    c->o.logging_steps = 3;
    c->o.eval_strategy = c->o.save_strategy = GRAFT_STRATEGY_STEPS;
    c->o.eval_steps = 2;
    c->o.save_steps = 1;
    c->o.save_total_limit = 2;
    c->o.load_best_model_at_end = 1;
    c->o.report_to = "tensorboard";
    c->o.resume_from_checkpoint = "auto";
}

/* Started anew rather than forked: thread pools do not survive a fork. */
static pid_t start_child(const char *output) {
    pid_t pid = fork();
    if (pid < 0) fail_msg("cannot fork");
    if (pid == 0) {
        execl("/proc/self/exe", "test_sft_kill", "child", output, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static int child(const char *output) {
    sft_case c;
    graft_error err;
    kill_case(&c, output);
    if (sft_run(&c, 1, NULL, &err) == GRAFT_OK) return 0;
    fprintf(stderr, "%s\n", err.text);
    return 1;
}

/* Every complete checkpoint, and the adapter in the folder itself when it is there, loads. */
static void check_folder(graft_context *ctx, const char *model, const char *output) {
    int64_t *steps = NULL;
    size_t n = 0;
    if (!gr_is_dir(output)) return;
    assert_ok(gr_list_checkpoints(NULL, output, &steps, &n, &err));
    for (size_t i = 0; i <= n; i++) {
        const char *dir = i < n ? test_path("%s/checkpoint-%lld", output, (long long)steps[i]) : output;
        if (i == n && !gr_path_exists(test_path("%s/adapter_model.safetensors", output))) continue;
        gr_model *m;
        gr_adapter_set *set;
        int index;
        assert_ok(gr_model_open(ctx, model, NULL, &m, &err));
        assert_ok(gr_adapter_set_new(m, &set, &err));
        assert_ok(gr_adapter_set_load(set, "a", dir, 1, false, &index, &err));
        gr_adapter_set_free(set);
        gr_model_close(m);
    }
    gr_free(NULL, steps);
}

static void wait_milliseconds(double ms) {
    struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)((ms - 1000 * (double)(long)(ms / 1000)) * 1e6)};
    nanosleep(&t, NULL);
}

/* Starts and kills children on one folder until one ends by itself. Returns how many were killed. */
static int run_with_kills(graft_context *ctx, const char *model, const char *output, double longest, uint64_t round) {
    for (int kills = 0;; kills++) {
        pid_t pid = start_child(output);
        wait_milliseconds(longest * gr_rng_uniform(round, gr_rng_stream(GR_RNG_TEST, 1), (uint64_t)kills));
        kill(pid, SIGKILL);
        int status;
        if (waitpid(pid, &status, 0) != pid) fail_msg("cannot wait");
        check_folder(ctx, model, output);
        if (WIFSIGNALED(status)) continue;
        if (WEXITSTATUS(status) != 0) fail_msg("the run in %s failed", output);
        return kills;
    }
}

static void killed_runs_end_with_the_same_bits(void **state) {
    (void)state;
    char whole[600], output[600];
    sft_case c;
    graft_context *ctx;
    int kills = 0, status;
    snprintf(whole, sizeof whole, "%s/whole", test_temp_dir());
    kill_case(&c, whole);
    double start = gr_now_seconds();
    if (waitpid(start_child(whole), &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status)) fail_msg("the undisturbed run failed");
    double longest = 1000 * (gr_now_seconds() - start);
    const graft_context_options co = {.n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    assert_ok(graft_context_new(&co, &ctx, &err));
    for (uint64_t round = 1; kills < KILLS; round++) {
        snprintf(output, sizeof output, "%s/round%d", test_temp_dir(), (int)round);
        /* Some rounds die young, some late. */
        kills += run_with_kills(ctx, c.o.model, output, longest * (round % 2 ? 0.6 : 1.2), round);
        sft_assert_same(whole, output);
    }
    graft_context_free(ctx);
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "child")) return child(argv[2]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(killed_runs_end_with_the_same_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
