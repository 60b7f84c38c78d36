/* Every method over bases of few bits, GPT-2's transposed matrices among them, against peft over bitsandbytes' layers
 * (tools/golden/make_qlora.py), and GPT-2 in bitsandbytes' formats as transformers saves it. */
#include "support/adapter_golden.h"
#include "support/sft_run.h"

#include <math.h>
#include <stdlib.h>

#include "graft/convert.h"
#include "graft/generate.h"

static graft_model *load(graft_context *ctx, const char *path, const char *format) {
    graft_model *m;
    const graft_model_options o = {.dtype = GRAFT_DTYPE_F32, .load_in_4bit = !strncmp(format, "nf4", 3), .load_in_8bit = !strcmp(format, "int8"),
                                   .bnb_4bit_use_double_quant = !strcmp(format, "nf4_double")};
    assert_ok(graft_model_load(ctx, path, &o, &m, &err));
    return m;
}

static void compare(const char *name, graft_model *m, const gr_tensor_list *golden) {
    test_compare(name, m, golden, 5, "logits", true);
    test_compare_steps(name, m, golden);
}

static void methods_agree_with_peft(void **state) {
    (void)state;
    assert_true(test_each_case("qlora", load, compare) >= 22);
}

static void assert_same_file(const char *a, const char *b) {
    size_t n, m;
    char *x = sft_read(a, &n), *y = sft_read(b, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    gr_free(NULL, x);
    gr_free(NULL, y);
}

/* Read as saved or made while loading, the codes are the same, and what is written are the bytes of transformers. */
static void gpt2_goes_both_ways(void **state) {
    (void)state;
    static const struct {
        const char *saved, *format;
    } cases[] = {{"gpt2_nf4", "nf4_double"}, {"gpt2_int8", "int8"}};
    test_batch b;
    graft_context *ctx = test_context(NULL, 2, NULL);
    test_fill_batch(&b, 96, 2, (int[]){7, 12}, (int[]){1, 2});
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        const char *saved = test_path("%s", test_golden(test_path("qlora/bases/%s", cases[i].saved)));
        graft_model *x = load(ctx, saved, "as it is"), *y = load(ctx, test_golden("families/gpt2"), cases[i].format);
        float *p = test_logits(x->model, NULL, &b.batch), *q = test_logits(y->model, NULL, &b.batch);
        assert_memory_equal(p, q, 19 * 96 * sizeof *p);
        const char *dir = test_path("%s/gpt2_%zu", test_temp_dir(), i);
        assert_ok(graft_model_save(x, dir, &err));
        assert_same_file(test_path("%s/model.safetensors", dir), test_path("%s/model.safetensors", saved));
        const char *plain = test_path("%s/gpt2_plain_%zu", test_temp_dir(), i), *gguf = test_path("%s/gpt2_%zu.gguf", test_temp_dir(), i);
        assert_ok(graft_model_merge_stored(x, NULL, plain, "f32", NULL, &err)); /* decoded, in Hugging Face's order */
        assert_ok(graft_model_save_gguf(x, gguf, NULL, &err));
        const char *const others[] = {plain, gguf};
        for (int k = 0; k < 2; k++) {
            graft_model *z = test_load(ctx, others[k], GRAFT_DTYPE_F32);
            float *r = test_logits(z->model, NULL, &b.batch);
            for (int e = 0; e < 19 * 96; e++)
                if (!(fabsf(r[e] - p[e]) < 1e-4f)) fail_msg("%s: logit %d is %g, expected %g", others[k], e, (double)r[e], (double)p[e]);
            free(r);
            graft_model_free(z);
        }
        free(p);
        free(q);
        graft_model_free(x);
        graft_model_free(y);
    }
    graft_context_free(ctx);
}

/* A base that bitsandbytes saved takes deltas in its own format, and reports tell the rounding of what stands transposed. */
static void gpt2_is_merged_and_reported(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = load(ctx, test_golden("families/gpt2"), "nf4");
    char *report;
    assert_ok(graft_adapter_load(m, "a", test_golden("qlora/gpt2_lora_nf4"), 1, &err));
    assert_ok(graft_model_merge_stored(m, "a", test_path("%s/merged", test_temp_dir()), NULL, &report, &err));
    const char *changed = strstr(report, "\"encoded\": ");
    assert_true(changed && atoi(changed + 11) == 8); /* four in each of two layers */
    graft_free(ctx, report);
    graft_model_free(m);
    m = load(ctx, test_path("%s/merged", test_temp_dir()), "as it is");
    graft_model_free(m);
    m = load(ctx, test_golden("families/gpt2"), "as it is");
    static const struct {
        const char *type;
        double most;
    } types[] = {{"nf4", 0.25}, {"int8", 0.02}, {"Q8_0", 0.02}};
    for (size_t i = 0; i < GR_COUNT(types); i++) {
        assert_ok(graft_quantize_report(m, types[i].type, 0, 0, &report, &err));
        const char *at = strstr(report, "h.0.attn.c_attn.weight"), *relative = at ? strstr(at, "\"relative\": ") : NULL;
        if (!relative || !(atof(relative + 12) > 0 && atof(relative + 12) < types[i].most)) fail_msg("%s: %.300s", types[i].type, at ? at : report);
        graft_free(ctx, report);
    }
    graft_model_free(m);
    graft_context_free(ctx);
}

static void failed_allocations_leak_nothing(void **state) {
    test_fresh_adapter f = {.model = "families/gpt2", .options = {.load_in_4bit = 1}, .config = "{\"peft_type\": \"LORA\"}"};
    (void)state;
    test_allocation_sweep(test_open_fresh_adapter, &f, 0, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(methods_agree_with_peft),
        cmocka_unit_test(gpt2_goes_both_ways),
        cmocka_unit_test(gpt2_is_merged_and_reported),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
