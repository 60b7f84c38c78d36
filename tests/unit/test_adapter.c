/* Room adapter against peft: adapters that it wrote give its logits, losses, gradients and training steps, and what we
 * write is what it would have written (goldens by tools/golden/make_adapters.py, and make_methods.py for methods besides LoRA). */
#include "support/adapter_golden.h"

#include "base/json.h"

static void adapter_path(char *out, size_t size, const char *folder, const char *name) {
    char rest[200];
    snprintf(rest, sizeof rest, "%s/%s", folder, name);
    snprintf(out, size, "%s", test_golden(rest));
}

/* The base that adapter_config.json names, which is a path from the project's root. */
static void base_path(char *out, size_t size, const char *dir) {
    gr_arena arena;
    const gr_json_value *json;
    char path[1200], *text;
    size_t len;
    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    assert_ok(gr_read_file(NULL, path, 1 << 20, &text, &len, &err));
    gr_arena_init(&arena, NULL, 0);
    assert_ok(gr_json_parse(&arena, path, text, len, &json, &err));
    const char *base = gr_json_get(json, "base_model_name_or_path")->text;
    snprintf(out, size, "%s", test_model_path(strrchr(base, '/') + 1));
    gr_arena_free(&arena);
    gr_free(NULL, text);
}

static void agree(const char *folder, size_t least) {
    char **names;
    size_t n;
    graft_context *ctx = test_context(NULL, 1, NULL);
    assert_ok(gr_list_dir(NULL, test_golden(folder), &names, &n, &err));
    assert_true(n >= least);
    for (size_t i = 0; i < n; i++) {
        char dir[1024], base[1024];
        adapter_path(dir, sizeof dir, folder, names[i]);
        base_path(base, sizeof base, dir);
        test_adapter_agrees(ctx, names[i], base, dir, strcmp(folder, "adapters") == 0);
    }
    gr_free_names(NULL, names, n);
    graft_context_free(ctx);
}

static void every_lora_agrees_with_peft(void **state) {
    (void)state;
    agree("adapters", 21);
}

static void every_other_method_agrees_with_peft(void **state) {
    (void)state;
    agree("methods", 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_lora_agrees_with_peft),
        cmocka_unit_test(every_other_method_agrees_with_peft),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
