/* Every adaptation method on T5 against peft: goldens by tools/golden/make_family_methods.py. */
#include "support/adapter_golden.h"

static void every_method_agrees_with_peft(void **state) {
    (void)state;
    static const struct {
        const char *name, *base;
    } cases[] = {{"t5_lora", "t5"}, {"t5_lora_decoder", "t5"}, {"t5_lora_cross", "t5"}, {"t5_lora_all", "t5_gated"},
                 {"t5_lora_head", "t5_gated"}, {"t5_rslora", "t5_gated"}, {"t5_dora", "t5"}, {"t5_ia3", "t5"},
                 {"t5_gated_ia3", "t5_gated"}, {"t5_ia3_cross", "t5"}, {"t5_prompt", "t5"}, {"t5_prompt_one", "t5_gated"},
                 {"t5_prefix", "t5_even"}, {"t5_prefix_projection", "t5_even"}, {"t5_prefix_decoder", "t5_even"},
                 {"t5_p_mlp", "t5"}, {"t5_p_lstm", "t5"}, {"t5_norms", "t5"}};
    graft_context *ctx = test_context(NULL, 1, NULL);
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        char dir[1100], base[1100];
        snprintf(dir, sizeof dir, "%s/%s", test_golden("family_methods"), cases[i].name);
        snprintf(base, sizeof base, "%s/%s", test_golden("families"), cases[i].base);
        test_adapter_agrees(ctx, cases[i].name, base, dir, false);
    }
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_method_agrees_with_peft)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
