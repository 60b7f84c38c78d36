/* Learning-rate schedules against transformers' get_scheduler. */
#include "support/support.h"

#include <math.h>

#include "graft/train.h"
#include "train/schedule.h"

static double number(const gr_json_value *v, const char *key) {
    const gr_json_value *x = gr_json_get(v, key);
    assert_non_null(x);
    return x->number.d;
}

static void factors_equal_the_reference(void **state) {
    (void)state;
    char *text;
    size_t len, cases = 0;
    assert_ok(gr_read_file(NULL, test_golden("train/schedules.json"), 1 << 20, &text, &len, &err));
    gr_arena arena;
    gr_arena_init(&arena, NULL, 0);
    const gr_json_value *root;
    assert_ok(gr_json_parse(&arena, "schedules.json", text, len, &root, &err));
    for (const gr_json_value *c = root->child; c; c = c->next, cases++) {
        const gr_json_value *kwargs = gr_json_get(c, "kwargs"), *type = gr_json_get(c, "type");
        gr_schedule s;
        assert_ok(gr_schedule_init(type->text, kwargs->kind == GR_JSON_STRING ? kwargs->text : NULL,
                                   number(c, "learning_rate"), (int64_t)number(c, "warmup"), (int64_t)number(c, "total"),
                                   &s, &err));
        int64_t step = 0;
        for (const gr_json_value *f = gr_json_get(c, "factors")->child; f; f = f->next, step++) {
            double got = gr_schedule_factor(&s, step);
            if (fabs(got - f->number.d) > 1e-15)
                fail_msg("%s: step %lld: expected %.17g, got %.17g", type->text, (long long)step, f->number.d, got);
        }
        assert_true(step > 3);
    }
    assert_true(cases > 30);
    gr_arena_free(&arena);
    gr_free(NULL, text);
}

static void wrong_settings_are_named(void **state) {
    (void)state;
    const struct {
        const char *type, *kwargs, *expected;
    } cases[] = {
        {"lineer", NULL, "found lineer"},
        {"linear", "{\"power\": 2}", "no setting power"},
        {"cosine", "{\"num_cycles\": \"x\"}", "string"},
        {"cosine", "{\"num_cycles\": -1}", "found -1"},
        {"cosine", "[1]", "lr_scheduler_kwargs"},
        {"cosine", "{", "lr_scheduler_kwargs"},
        {"cosine_with_min_lr", NULL, "found none"},
        {"cosine_with_min_lr", "{\"min_lr\": 0, \"min_lr_rate\": 0}", "found both"},
        {"polynomial", "{\"lr_end\": 1}", "lr_end"},
        {"warmup_stable_decay", NULL, "num_decay_steps"},
        {"warmup_stable_decay", "{\"num_decay_steps\": 3, \"decay_type\": \"sqrt\"}", "found sqrt"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        gr_schedule s;
        graft_error err;
        assert_int_not_equal(gr_schedule_init(cases[i].type, cases[i].kwargs, 1e-3, 1, 10, &s, &err), GRAFT_OK);
        if (!strstr(err.text, cases[i].expected)) fail_msg("expected \"%s\" in: %s", cases[i].expected, err.text);
    }
}

static void public_entry_agrees(void **state) {
    (void)state;
    double factor;
    assert_ok(graft_lr_schedule(NULL, "linear", NULL, 1e-3, 2, 10, 6, &factor, &err));
    assert_true(factor == 0.5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(factors_equal_the_reference),
        cmocka_unit_test(wrong_settings_are_named),
        cmocka_unit_test(public_entry_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
