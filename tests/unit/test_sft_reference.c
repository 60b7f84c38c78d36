/* Whole runs against trl's SFTTrainer in float32: loss, gradient norm, learning rate of each of 20 steps. */
#include "support/sft_run.h"

#include <math.h>

static const gr_json_value *member(const gr_json_value *v, const char *key) {
    const gr_json_value *x = gr_json_get(v, key);
    return x && x->kind != GR_JSON_NULL ? x : NULL;
}

static double number(const gr_json_value *v, const char *key, double otherwise) {
    const gr_json_value *x = member(v, key);
    return x ? x->number.d : otherwise;
}

static const char *text_of(const gr_json_value *v, const char *key, const char *otherwise) {
    const gr_json_value *x = member(v, key);
    return x ? x->text : otherwise;
}

static void set_options(sft_case *c, const gr_json_value *run) {
    const gr_json_value *o = gr_json_get(run, "options");
    graft_sft_options *s = &c->o;
    s->max_steps = 20;
    s->method = text_of(run, "method", "");
    if (!strcmp(s->method, "lora")) s->adapter = test_golden("train/adapter");
    s->max_length = (int64_t)number(run, "max_length", 0);
    s->per_device_train_batch_size = (int64_t)number(o, "per_device_train_batch_size", 8);
    s->per_device_eval_batch_size = (int64_t)number(o, "per_device_eval_batch_size", 8);
    s->gradient_accumulation_steps = (int64_t)number(o, "gradient_accumulation_steps", 1);
    s->learning_rate = number(o, "learning_rate", 2e-5);
    s->warmup_steps = number(o, "warmup_steps", 0);
    s->lr_scheduler_type = text_of(o, "lr_scheduler_type", "linear");
    s->lora.loraplus_lr_ratio = number(o, "loraplus_lr_ratio", 0);
    s->weight_decay = number(o, "weight_decay", 0);
    s->max_grad_norm = number(o, "max_grad_norm", 1);
    s->adam_beta1 = number(o, "adam_beta1", 0.9);
    s->adam_beta2 = number(o, "adam_beta2", 0.999);
    s->adam_epsilon = number(o, "adam_epsilon", 1e-8);
    s->optim = text_of(o, "optim", "adamw_torch");
    s->eval_steps = number(o, "eval_steps", 0);
    if (s->eval_steps > 0) s->eval_strategy = GRAFT_STRATEGY_STEPS;
    const gr_json_value *completion = member(o, "completion_only_loss");
    if (completion) s->completion_only_loss = completion->kind == GR_JSON_TRUE ? GRAFT_YES : GRAFT_NO;
}

static void compare(const char *run, const gr_json_value *want, const gr_json_value *got, double step) {
    static const struct {
        const char *key;
        double relative, absolute;
    } keys[] = {{"loss", 1e-4, 0},          {"grad_norm", 1e-4, 0},     {"learning_rate", 1e-12, 1e-18},
                {"num_tokens", 0, 0},       {"epoch", 1e-12, 0},        {"step", 0, 0},
                {"eval_loss", 1e-4, 0},     {"train_loss", 1e-4, 0}};
    for (size_t i = 0; i < GR_COUNT(keys); i++) {
        const gr_json_value *w = gr_json_get(want, keys[i].key), *g = gr_json_get(got, keys[i].key);
        if (!w) continue;
        if (!g) fail_msg("%s: step %g: no %s", run, step, keys[i].key);
        double off = fabs(w->number.d - g->number.d);
        if (off > keys[i].relative * fabs(w->number.d) + keys[i].absolute)
            fail_msg("%s: step %g: %s: expected %.9g, got %.9g", run, step, keys[i].key, w->number.d, g->number.d);
    }
}

static void check_log(const char *run, const gr_json_value *log, const char *path) {
    size_t len;
    char *text = sft_read(path, &len), *line = text;
    for (const gr_json_value *want = log->child; want; want = want->next) {
        gr_arena arena;
        const gr_json_value *got;
        size_t n = strcspn(line, "\n");
        gr_arena_init(&arena, NULL, 0);
        assert_ok(gr_json_parse(&arena, path, line, n, &got, &err));
        compare(run, want, got, number(want, "step", -1));
        gr_arena_free(&arena);
        line += n + (line[n] == '\n');
    }
    assert_int_equal(*line, '\0');
    gr_free(NULL, text);
}

static void runs_equal_the_reference(void **state) {
    (void)state;
    gr_arena arena;
    const gr_json_value *root;
    size_t len;
    char *text = sft_read(test_golden("train/runs.json"), &len);
    gr_arena_init(&arena, NULL, 0);
    assert_ok(gr_json_parse(&arena, "runs.json", text, len, &root, &err));
    for (const gr_json_value *run = root->child; run; run = run->next) {
        sft_case c;
        graft_train_result result;
        sft_case_init(&c, text_of(run, "data", ""), run->key);
        set_options(&c, run);
        assert_ok(sft_run(&c, 1, &result, &err));
        assert_int_equal(result.global_step, 20);
        check_log(run->key, gr_json_get(run, "log"), test_path("%s/trainer_log.jsonl", c.output));
    }
    gr_arena_free(&arena);
    gr_free(NULL, text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(runs_equal_the_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
