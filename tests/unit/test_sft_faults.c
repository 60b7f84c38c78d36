/* Runs of fine-tuning whose options, records, weights or tokenizer are not as they should be. */
#include "support/sft_run.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "train/output.h"

static void expect_failure(sft_case *c, graft_status st, const char *expected) {
    graft_error wrong = {0};
    graft_status got = sft_run(c, 1, NULL, &wrong);
    if (got != st || !strstr(wrong.text, expected))
        fail_msg("expected %s with \"%s\", got %s: %s", graft_status_text(st), expected, graft_status_text(got), wrong.text);
}

static void wrong_options_are_named(void **state) {
    (void)state;
    sft_case c;
#define WRONG(change, expected)                                                                                        \
    sft_case_init(&c, "pairs.jsonl", "wrong");                                                                         \
    change;                                                                                                            \
    expect_failure(&c, GRAFT_ERR_ARGUMENT, expected)
    WRONG(c.o.model = NULL, "model: expected");
    WRONG(c.o.method = "lora2", "found lora2");
    WRONG(c.o.dtype = "f64", "found f64");
    WRONG(c.o.learning_rate = -1, "learning_rate: expected");
    WRONG(c.o.learning_rate = NAN, "learning_rate: expected");
    WRONG(c.o.per_device_train_batch_size = 0, "per_device_train_batch_size");
    WRONG(c.o.num_train_epochs = 0, "num_train_epochs");
    WRONG(c.o.lora.r = 0, "lora_r");
    WRONG(c.o.optim = "lion", "found lion");
    WRONG(c.o.lr_scheduler_type = "stairs", "found stairs");
    WRONG(c.o.report_to = "wandb", "found wandb");
    WRONG(c.o.load_best_model_at_end = 1, "load_best_model_at_end: expected eval_strategy");
    WRONG(c.o.metric_for_best_model = "bleu", "found bleu");
    WRONG(c.o.save_strategy = GRAFT_STRATEGY_BEST, "save_strategy best");
    WRONG(c.output[0] = '\0', "output_dir");
    WRONG((c.o.adapter = test_golden("train/adapter"), c.o.lora = graft_lora_options_default(), c.o.lora.use_dora = 1),
          "use_dora: with adapter");
    WRONG((c.o.adapter = test_golden("train/adapter"), c.o.lora = graft_lora_options_default(), c.o.lora.r = 32),
          "lora_r: with adapter");
    WRONG((c.o.method = "prompt-tuning", c.o.lora = graft_lora_options_default(), c.o.methods.prompt_tuning_init_text = "red"),
          "expected prompt_tuning_init TEXT");
#undef WRONG
}

static void write_data(sft_case *c, const char *name, const char *text) {
    c->data[0] = test_path("%s/%s", test_temp_dir(), name);
    assert_ok(gr_write_file(NULL, c->data[0], text, strlen(text), &err));
}

static void bad_data_and_folders_are_named(void **state) {
    (void)state;
    sft_case c;
    sft_case_init(&c, "pairs.jsonl", "bad");
    write_data(&c, "empty.jsonl", "");
    expect_failure(&c, GRAFT_ERR_FORMAT, "empty.jsonl");
    write_data(&c, "broken.jsonl", "{\"text\": \"one\"}\n{\"text\": \n");
    expect_failure(&c, GRAFT_ERR_FORMAT, "broken.jsonl:2");
    c.data[0] = "/nonexistent/data.jsonl";
    expect_failure(&c, GRAFT_ERR_NOT_FOUND, "/nonexistent/data.jsonl");
    sft_case_init(&c, "pairs.jsonl", "x");
    snprintf(c.output, sizeof c.output, "/dev/null/out");
    expect_failure(&c, GRAFT_ERR_IO, "/dev/null");
    sft_case_init(&c, "pairs.jsonl", "readonly");
    assert_int_equal(mkdir(c.output, 0555), 0);
    if (geteuid() != 0) expect_failure(&c, GRAFT_ERR_IO, "readonly");
    sft_case_init(&c, "pairs.jsonl", "nomodel");
    c.o.model = "/nonexistent/model";
    expect_failure(&c, GRAFT_ERR_NOT_FOUND, "/nonexistent/model");
}

static void long_records_are_cut(void **state) {
    (void)state;
    sft_case c;
    graft_train_result r;
    sft_case_init(&c, "pairs.jsonl", "long");
    write_data(&c, "long.jsonl",
               "{\"prompt\": \"red\", \"completion\": \" green blue small large round quick slow old new stone river\"}\n"
               "{\"prompt\": \"red green blue small large round quick slow old new stone river\", \"completion\": \" red\"}\n"
               "{\"prompt\": \"red\", \"completion\": \" green\"}\n");
    c.o.max_length = 6;
    c.o.max_steps = 1;
    assert_ok(sft_run(&c, 1, &r, &err));
    assert_int_equal(r.n_records, 2);
    assert_int_equal(r.n_dropped_records, 1);
    assert_int_equal(r.n_truncated_records, 2);
}

static void a_loss_that_is_not_finite_stops_the_run(void **state) {
    (void)state;
    sft_case c;
    sft_case_init(&c, "pairs.jsonl", "nan");
    c.o.learning_rate = 1e6; /* step 2 overflows */
    c.o.max_grad_norm = 0;
    c.o.optim = "sgd";
    c.o.optim_args = "momentum=0.9";
    c.o.method = "full";
    c.o.per_device_train_batch_size = 1;
    c.o.save_strategy = GRAFT_STRATEGY_STEPS;
    c.o.save_steps = 1;
    expect_failure(&c, GRAFT_ERR_NUMERIC, "pairs.jsonl:");
    int64_t *steps;
    size_t n;
    graft_error wrong;
    assert_ok(gr_list_checkpoints(NULL, c.output, &steps, &n, &err));
    assert_true(n > 0);
    c.o.resume_from_checkpoint = "latest";
    assert_int_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_ERR_NUMERIC);
    assert_non_null(strstr(wrong.text, test_path("the last good checkpoint is checkpoint-%lld", (long long)steps[n - 1])));
    assert_non_null(strstr(wrong.text, test_path("step %lld", (long long)steps[n - 1] + 1)));
    gr_free(NULL, steps);
}

static void copy_file(const char *from, const char *to, const char *name, bool plant) {
    size_t len;
    char *bytes = sft_read(test_path("%s/%s", from, name), &len);
    const float infinite = INFINITY;
    /* The last tensor of the file is the final norm's weight. */
    if (plant) memcpy(bytes + len - sizeof infinite, &infinite, sizeof infinite);
    assert_ok(gr_write_file(NULL, test_path("%s/%s", to, name), bytes, len, &err));
    gr_free(NULL, bytes);
}

static void a_weight_that_is_not_finite_names_the_record(void **state) {
    (void)state;
    sft_case c;
    sft_case_init(&c, "pairs.jsonl", "inf");
    const char *to = test_path("%s/inf_model", test_temp_dir());
    assert_ok(gr_make_dirs(to, &err));
    static const char *const names[] = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"};
    for (size_t i = 0; i < GR_COUNT(names); i++) copy_file(c.o.model, to, names[i], i == 3);
    c.o.model = to;
    expect_failure(&c, GRAFT_ERR_NUMERIC, "pairs.jsonl:1: the loss is");
    expect_failure(&c, GRAFT_ERR_NUMERIC, "no checkpoint was saved before");
}

/* Records of tokens give the same bits where there is no tokenizer; others are refused. */
static void tokens_need_no_tokenizer(void **state) {
    (void)state;
    static const struct {
        const char *model, *tokens, *text;
    } cases[] = {
        {"train/model", "{\"input_ids\": [5, 6, 7, 8], \"labels\": [-100, 6, 7, 8]}\n{\"input_ids\": [9, 4]}\n",
         "{\"text\": \"red\"}"},
        {"seq2seq/model",
         "{\"input_ids\": [5, 6, 7, 1], \"labels\": [8, -100, 9, 1]}\n{\"input_ids\": [9], \"labels\": [4, 5, 6, 7, 8, 1]}\n",
         "{\"prompt\": \"red\", \"completion\": \"blue\"}"},
    };
    static const char *const names[] = {"config.json", "model.safetensors"};
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        sft_case with, without;
        char from[1024], to[1024];
        snprintf(from, sizeof from, "%s", test_golden(cases[i].model));
        snprintf(to, sizeof to, "%s/bare%zu", test_temp_dir(), i);
        assert_ok(gr_make_dirs(to, &err));
        for (size_t k = 0; k < GR_COUNT(names); k++) copy_file(from, to, names[k], false);
        sft_case_init(&with, "pairs.jsonl", test_path("with%zu", i));
        sft_case_init(&without, "pairs.jsonl", test_path("without%zu", i));
        write_data(&with, "tokens.jsonl", cases[i].tokens);
        without.data[0] = with.data[0];
        with.o.model = from;
        without.o.model = to;
        with.o.max_steps = without.o.max_steps = 2;
        with.o.max_target_length = without.o.max_target_length = i ? 4 : -1;
        assert_ok(sft_run(&with, 1, NULL, &err));
        assert_ok(sft_run(&without, 1, NULL, &err));
        sft_assert_same(with.output, without.output);
        write_data(&without, "text.jsonl", cases[i].text);
        expect_failure(&without, GRAFT_ERR_MISMATCH, "text.jsonl:1: expected \"input_ids\"");
        write_data(&without, "large.jsonl", "{\"input_ids\": [5, 400], \"labels\": [5, 6]}");
        expect_failure(&without, GRAFT_ERR_FORMAT, "large.jsonl:1: expected integers of 0 to");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(bad_data_and_folders_are_named),
        cmocka_unit_test(long_records_are_cut),
        cmocka_unit_test(a_loss_that_is_not_finite_stops_the_run),
        cmocka_unit_test(a_weight_that_is_not_finite_names_the_record),
        cmocka_unit_test(tokens_need_no_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
