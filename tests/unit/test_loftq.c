/* LoRA that starts from what quantisation lost: against peft's loftq_init (tools/golden/make_starts.py), for any scale, saved as an
 * ordinary adapter. */
#include "support/adapter_golden.h"
#include "support/sft_run.h"

#include <math.h>
#include <stdlib.h>

static const struct {
    const char *name, *base;
    int bits, r;
    const char *targets;
} cases[] = {
    {"nf4", "llama", 4, 6, "[\"q_proj\", \"v_proj\", \"down_proj\"]"},
    {"int8", "llama_bias", 8, 4, "[\"q_proj\", \"v_proj\", \"up_proj\"]"},
};

static graft_model *load(graft_context *ctx, const char *path, int bits) {
    graft_model *m;
    const graft_model_options o = {.dtype = GRAFT_DTYPE_F32, .load_in_4bit = bits == 4, .load_in_8bit = bits == 8};
    assert_ok(graft_model_load(ctx, path, &o, &m, &err));
    return m;
}

static const char *config_of(size_t i, int alpha) {
    return test_path("{\"peft_type\": \"LORA\", \"r\": %d, \"lora_alpha\": %d, \"target_modules\": %s, \"init_lora_weights\": \"loftq\", "
                     "\"loftq_config\": {\"loftq_bits\": %d, \"loftq_iter\": 1}}", cases[i].r, alpha, cases[i].targets, cases[i].bits);
}

static void starts_agree_with_peft(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 2, NULL);
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        gr_safetensors *golden;
        assert_ok(gr_safetensors_open(NULL, test_golden(test_path("loftq/%s.safetensors", cases[i].name)), &golden, &err));
        for (int times = 1; times <= 5; times += 4) { /* another scale gives the same start */
            graft_model *m = load(ctx, test_model_path(cases[i].base), cases[i].bits);
            assert_ok(graft_adapter_new(m, "a", config_of(i, times * cases[i].r), 1, &err));
            test_compare(cases[i].name, m, gr_safetensors_tensors(golden), 5, "logits", false);
            graft_model_free(m);
        }
        gr_safetensors_close(golden);
    }
    graft_context_free(ctx);
}

static double distance(const float *x, const float *y, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (x[i] - y[i]) * (double)(x[i] - y[i]);
    return sqrt(sum);
}

/* Nearer to the model as it was than the quantised one; saved, it is a LoRA as any other. */
static void what_was_lost_comes_back(void **state) {
    (void)state;
    test_batch b;
    const int lengths[] = {9, 14}, seeds[] = {1, 2};
    graft_context *ctx = test_context(NULL, 2, NULL);
    graft_model *plain = load(ctx, test_model_path("llama"), 0), *m = load(ctx, test_model_path("llama"), 4);
    const size_t n = 23 * (size_t)graft_model_vocab_size(m);
    test_fill_batch(&b, graft_model_vocab_size(m), 2, lengths, seeds);
    b.batch.adapter = NULL;
    b.batch.one_adapter = -1;
    float *want = test_logits(plain->model, plain->hooks, &b.batch), *lost = test_logits(m->model, m->hooks, &b.batch);
    assert_ok(graft_adapter_new(m, "a", "{\"peft_type\": \"LORA\", \"r\": 16, \"target_modules\": \"all-linear\", \"init_lora_weights\": \"loftq\"}",
                                1, &err));
    b.batch.one_adapter = 0;
    float *found = test_logits(m->model, m->hooks, &b.batch);
    if (!(distance(want, found, n) < 0.6 * distance(want, lost, n)))
        fail_msg("distance %g with LoftQ, %g without", distance(want, found, n), distance(want, lost, n));
    const char *dir = test_path("%s/loftq", test_temp_dir());
    assert_ok(graft_adapter_save(m, "a", dir, &err));
    size_t len;
    char *text = sft_read(test_path("%s/adapter_config.json", dir), &len);
    assert_non_null(strstr(text, "\"init_lora_weights\": true"));
    assert_non_null(strstr(text, "\"loftq_config\": {}"));
    gr_free(NULL, text);
    assert_ok(graft_adapter_remove(m, "a", &err));
    assert_ok(graft_adapter_load(m, "b", dir, 1, &err));
    float *again = test_logits(m->model, m->hooks, &b.batch);
    assert_memory_equal(found, again, n * sizeof *found);
    free(want);
    free(lost);
    free(found);
    free(again);
    graft_model_free(plain);
    graft_model_free(m);
    graft_context_free(ctx);
}

static void wrong_starts_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *base;
        int bits;
        const char *more, *says;
    } wrong[] = {
        {"train/model", 0, "", "load_in_4bit or load_in_8bit"},
        {"quant/nf4", 0, "", "the loss is not known"},
        {"train/model", 4, ", \"loftq_config\": {\"loftq_bits\": 8}", "loftq_bits is 8"},
        {"train/model", 4, ", \"loftq_config\": {\"loftq_iter\": 2}", "loftq_iter 2"},
        {"train/model", 4, ", \"loftq_config\": {\"loftq_iter\": 0}", "loftq_iter"},
        {"train/model", 4, ", \"loftq_config\": 4", "an object"},
        {"train/model", 4, ", \"r\": 60000", "no rank of 60000"},
        {"train/model", 4, ", \"lora_alpha\": 0", "scale of 0"},
    };
    graft_context *ctx = test_context(NULL, 1, NULL);
    for (size_t i = 0; i < GR_COUNT(wrong); i++) {
        graft_error why = {0};
        graft_model *m = load(ctx, test_golden(wrong[i].base), wrong[i].bits);
        const char *config = test_path("{\"peft_type\": \"LORA\", \"init_lora_weights\": \"loftq\"%s}", wrong[i].more);
        if (graft_adapter_new(m, "a", config, 1, &why) == GRAFT_OK || !strstr(why.text, wrong[i].says))
            fail_msg("%s: '%s'", config, why.text);
        graft_model_free(m);
    }
    graft_context_free(ctx);
}

/* Runs are the same bits however often they are cut, and end in what loads over the plain base. */
static void runs_go_on_from_it(void **state) {
    (void)state;
    sft_case whole, resumed;
    graft_train_result r;
    for (int k = 0; k < 2; k++) {
        sft_case *c = k ? &resumed : &whole;
        sft_case_init(c, "pairs.jsonl", k ? "resumed" : "whole");
        c->o.load_in_4bit = 1;
        c->o.lora.init_lora_weights = "loftq";
        c->o.max_steps = 5;
        c->o.save_strategy = k ? GRAFT_STRATEGY_STEPS : GRAFT_STRATEGY_NO;
        c->o.save_steps = k ? 3 : 0;
        assert_ok(sft_run(c, 1 + k, &r, &err));
    }
    resumed.o.resume_from_checkpoint = test_path("%s/checkpoint-3", resumed.output);
    assert_ok(sft_run(&resumed, 1, &r, &err));
    sft_assert_same(whole.output, resumed.output);
}

static void failed_allocations_leak_nothing(void **state) {
    test_fresh_adapter f = {.model = "train/model", .options = {.load_in_4bit = 1},
                            .config = "{\"peft_type\": \"LORA\", \"init_lora_weights\": \"loftq\", \"target_modules\": [\"q_proj\"]}"};
    (void)state;
    test_allocation_sweep(test_open_fresh_adapter, &f, 0, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_agree_with_peft), cmocka_unit_test(what_was_lost_comes_back), cmocka_unit_test(wrong_starts_are_refused),
        cmocka_unit_test(runs_go_on_from_it),     cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
