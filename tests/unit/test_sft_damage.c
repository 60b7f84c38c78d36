/* Runs on damaged ground: files of a checkpoint cut short or flipped, outputs that cannot be written, records without a token to
 * learn; and the cut that the project promises, 8 records at once or 2 x 4. */
#include "support/sft_run.h"

#include <sys/stat.h>

#include "train/output.h"

static void write_bytes(const char *path, const char *bytes, size_t n) { assert_ok(gr_write_file(NULL, path, bytes, n, &err)); }

static void checkpoint_case(sft_case *c, const char *output) {
    sft_case_init(c, "pairs.jsonl", output);
    c->o.max_steps = 3;
    c->o.save_strategy = GRAFT_STRATEGY_STEPS;
    c->o.save_steps = 2;
    c->o.per_device_train_batch_size = 4;
}

/* Cut anywhere, a file is missed and named. (adapter_config.json is for others: a resumed run has its options.) */
static void cut_checkpoints_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {"adapter_model.safetensors", "optimizer.safetensors", "trainer_state.json"};
    sft_case c;
    graft_error wrong;
    checkpoint_case(&c, "cut");
    assert_ok(sft_run(&c, 1, NULL, &err));
    const char *dir = strdup(test_path("%s/checkpoint-2", c.output));
    c.o.resume_from_checkpoint = dir;
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        char path[1200];
        size_t n;
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        char *bytes = sft_read(path, &n);
        const size_t keep[] = {0, 1, 7, n / 3, n / 2, n - 2};
        for (size_t k = 0; k < GR_COUNT(keep); k++) {
            write_bytes(path, bytes, keep[k]);
            graft_status st = sft_run(&c, 1, NULL, &wrong);
            if (st == GRAFT_OK || !strstr(wrong.text, names[i])) fail_msg("%s cut to %zu bytes: %s", names[i], keep[k], wrong.text);
        }
        assert_int_equal(remove(path), 0);
        assert_int_not_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_OK);
        write_bytes(path, bytes, n);
        gr_free(NULL, bytes);
    }
    assert_ok(sft_run(&c, 1, NULL, &err));
    free((char *)(uintptr_t)dir);
}

/* Flipped bits are refused or, where they are values, taken for what they are: never a crash, and an error is one sentence. */
static void flipped_checkpoints_never_crash(void **state) {
    (void)state;
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors", "trainer_state.json"};
    sft_case c;
    checkpoint_case(&c, "flipped");
    assert_ok(sft_run(&c, 1, NULL, &err));
    const char *dir = strdup(test_path("%s/checkpoint-2", c.output));
    c.o.resume_from_checkpoint = dir;
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        char path[1200];
        size_t n;
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        char *bytes = sft_read(path, &n);
        for (uint64_t round = 0; round < 40; round++) {
            graft_error wrong = {0};
            /* Heads matter more than values. */
            size_t at = (size_t)(gr_rng_uniform(round, gr_rng_stream(GR_RNG_TEST, 7), i) * (double)(round % 2 ? GR_MIN(n, (size_t)400) : n));
            bytes[at] ^= (char)(1 << round % 8);
            write_bytes(path, bytes, n);
            graft_status st = sft_run(&c, 1, NULL, &wrong);
            if (st != GRAFT_OK && (!wrong.text[0] || !gr_utf8_valid(wrong.text, strlen(wrong.text)))) fail_msg("%s: no sentence", names[i]);
            bytes[at] ^= (char)(1 << round % 8);
        }
        write_bytes(path, bytes, n);
        gr_free(NULL, bytes);
    }
    free((char *)(uintptr_t)dir);
}

static void eight_at_once_are_two_times_four(void **state) {
    (void)state;
    sft_case whole, cut, single;
    char *text = sft_read(test_golden("train/pairs.jsonl"), NULL), *end = text;
    for (int i = 0; i < 32; i++) end = strchr(end, '\n') + 1; /* so that the epochs in the log agree too */
    char path[1024];
    snprintf(path, sizeof path, "%s/pairs32.jsonl", test_temp_dir());
    write_bytes(path, text, (size_t)(end - text));
    gr_free(NULL, text);
    static const int rows[] = {8, 2, 1}, times[] = {1, 4, 8};
    sft_case *const cases[] = {&whole, &cut, &single};
    for (int i = 0; i < 3; i++) {
        sft_case_init(cases[i], "pairs.jsonl", test_path("rows%d", rows[i]));
        cases[i]->data[0] = path;
        cases[i]->o.lora.lora_dropout = 0.1;
        cases[i]->o.no_shuffle = 0;
        cases[i]->o.learning_rate = 5e-3;
        cases[i]->o.max_steps = 10;
        cases[i]->o.per_device_train_batch_size = rows[i];
        cases[i]->o.gradient_accumulation_steps = times[i];
        assert_ok(sft_run(cases[i], 1 + i % 2, NULL, &err));
    }
    sft_assert_same(whole.output, cut.output);
    sft_assert_same(whole.output, single.output);
}

static void expect(sft_case *c, graft_status st, const char *word) {
    graft_error wrong = {0};
    graft_status got = sft_run(c, 1, NULL, &wrong);
    if (got != st || !strstr(wrong.text, word)) fail_msg("expected \"%s\", found %s: %s", word, graft_status_text(got), wrong.text);
}

static void nothing_to_learn_is_told(void **state) {
    (void)state;
    static const char *const texts[] = {"", "\n \n\n", "[]",
                                        "{\"prompt\": \"red green blue small large round quick slow\", \"completion\": \" old\"}\n"};
    sft_case c;
    sft_case_init(&c, "pairs.jsonl", "nothing");
    c.o.max_length = 4;
    c.data[0] = c.path;
    snprintf(c.path, sizeof c.path, "%s/nothing.jsonl", test_temp_dir());
    for (size_t i = 0; i < GR_COUNT(texts); i++) {
        write_bytes(c.path, texts[i], strlen(texts[i]));
        graft_error wrong = {0};
        graft_status st = sft_run(&c, 1, NULL, &wrong);
        if (st != GRAFT_ERR_FORMAT && st != GRAFT_ERR_ARGUMENT) fail_msg("case %zu: %s: %s", i, graft_status_text(st), wrong.text);
        if (!strstr(wrong.text, "nothing.jsonl")) fail_msg("case %zu: %s", i, wrong.text);
    }
}

static void places_that_cannot_be_written_are_named(void **state) {
    (void)state;
    sft_case c;
    sft_case_init(&c, "pairs.jsonl", "places");
    c.o.max_steps = 1;
    snprintf(c.output, sizeof c.output, "/proc/graft-test");
    expect(&c, GRAFT_ERR_NOT_FOUND, "/proc/graft-test"); /* as the kernel puts it */
    snprintf(c.output, sizeof c.output, "%s/a_file", test_temp_dir());
    write_bytes(c.output, "x", 1);
    expect(&c, GRAFT_ERR_IO, "a_file");
    /* The place turns unwritable while the run goes on: what is in the way is named. */
    sft_case_init(&c, "pairs.jsonl", "blocked");
    c.o.max_steps = 1;
    assert_ok(gr_make_dirs(test_path("%s/adapter_model.safetensors/x", c.output), &err));
    expect(&c, GRAFT_ERR_IO, "adapter_model.safetensors");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_checkpoints_are_refused),
        cmocka_unit_test(flipped_checkpoints_never_crash),
        cmocka_unit_test(eight_at_once_are_two_times_four),
        cmocka_unit_test(nothing_to_learn_is_told),
        cmocka_unit_test(places_that_cannot_be_written_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
