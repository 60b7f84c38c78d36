/* Sampling against transformers' logits processors (tools/golden/make_sampling.py): the kept tokens are exactly those that
 * the reference keeps, and draws follow its probabilities. */
#include <math.h>

#include "infer/infer.h"
#include "support/support.h"

enum { VOCAB = 40, SEEN = 7, DRAWS = 4000 };

static void read_numbers(FILE *f, double *out, int n) {
    for (int i = 0; i < n; i++) assert_int_equal(fscanf(f, "%lf", &out[i]), 1);
}

static void draws_follow_the_reference(void **state) {
    (void)state;
    FILE *f = fopen(test_golden("sampling/cases.txt"), "r");
    assert_non_null(f);
    gr_sampler s;
    assert_ok(gr_sampler_init(&s, NULL, VOCAB, &err));
    int cases = 0;
    double p[5];
    while (fscanf(f, "%lf", &p[0]) == 1) {
        double logits_d[VOCAB], seen_d[SEEN], probs[VOCAB];
        read_numbers(f, p + 1, 4);
        read_numbers(f, logits_d, VOCAB);
        read_numbers(f, seen_d, SEEN);
        read_numbers(f, probs, VOCAB);
        float logits[VOCAB];
        int32_t seen[SEEN];
        for (int i = 0; i < VOCAB; i++) logits[i] = (float)logits_d[i];
        for (int i = 0; i < SEEN; i++) seen[i] = (int32_t)seen_d[i];
        graft_sampling how = {.temperature = p[0], .top_k = (int64_t)p[1], .top_p = p[2], .min_p = p[3], .repeat_penalty = p[4], .seed = 5};
        int counts[VOCAB] = {0};
        for (int i = 0; i < DRAWS; i++) {
            int32_t id;
            assert_ok(gr_sampler_choose(&s, &how, logits, seen, SEEN, NULL, 0, 77, (uint64_t)i, &id, &err));
            counts[id]++;
        }
        for (int i = 0; i < VOCAB; i++) {
            double expected = probs[i] * DRAWS;
            if (probs[i] == 0) assert_int_equal(counts[i], 0);
            /* Six standard deviations of the binomial count. */
            else if (fabs(counts[i] - expected) > 6 * sqrt(expected * (1 - probs[i])) + 1)
                fail_msg("case %d, token %d: expected about %.1f draws, found %d", cases, i, expected, counts[i]);
        }
        cases++;
    }
    fclose(f);
    gr_sampler_free(&s);
    assert_int_equal(cases, 144);
}

static void greedy_takes_the_lowest_of_equals(void **state) {
    (void)state;
    gr_sampler s;
    assert_ok(gr_sampler_init(&s, NULL, 4, &err));
    float logits[4] = {1, 3, 3, 2};
    graft_sampling how = {.greedy = 1, .temperature = 1, .top_p = 1, .repeat_penalty = 1};
    int32_t id, banned = 1;
    assert_ok(gr_sampler_choose(&s, &how, logits, NULL, 0, NULL, 0, 0, 0, &id, &err));
    assert_int_equal(id, 1);
    assert_ok(gr_sampler_choose(&s, &how, logits, NULL, 0, &banned, 1, 0, 0, &id, &err));
    assert_int_equal(id, 2);
    logits[0] = NAN;
    assert_ok(gr_sampler_choose(&s, &how, logits, NULL, 0, NULL, 0, 0, 0, &id, &err));
    assert_int_equal(id, 1);
    for (int i = 0; i < 4; i++) logits[i] = NAN;
    graft_error err;
    assert_int_equal(gr_sampler_choose(&s, &how, logits, NULL, 0, NULL, 0, 0, 0, &id, &err), GRAFT_ERR_NUMERIC);
    gr_sampler_free(&s);
}

static void no_logit_and_no_temperature_leads_outside_the_vocabulary(void **state) {
    (void)state;
    gr_sampler s;
    assert_ok(gr_sampler_init(&s, NULL, 4, &err));
    float logits[4] = {9, NAN, 12, 7};
    int32_t id;
    for (int i = 0; i < 64; i++) {
        graft_sampling how = {.temperature = 1, .top_p = i & 1 ? 0.9 : 1, .min_p = i & 2 ? 0.1 : 0, .repeat_penalty = 1, .top_k = i & 4 ? 2 : 0};
        assert_ok(gr_sampler_choose(&s, &how, logits, NULL, 0, NULL, 0, 1, (uint64_t)i, &id, &err));
        assert_true(id == 0 || id == 2 || id == 3);
    }
    const double low[] = {1e-30, 1e-38, 1e-45, 1e-300};
    for (int i = 0; i < 8; i++) {
        graft_sampling how = {.temperature = low[i / 2], .top_p = i & 1 ? 0.9 : 1, .repeat_penalty = 1};
        assert_ok(gr_sampler_choose(&s, &how, logits, NULL, 0, NULL, 0, 1, 0, &id, &err));
        assert_int_equal(id, 2);
    }
    for (int i = 0; i < 4; i++) logits[i] = -5 - (float)i;
    graft_sampling how = {.temperature = 1e-45, .top_p = 0.9, .repeat_penalty = 1};
    assert_ok(gr_sampler_choose(&s, &how, logits, NULL, 0, NULL, 0, 1, 0, &id, &err));
    assert_int_equal(id, 0);
    gr_sampler_free(&s);
}

static void bad_settings_are_refused(void **state) {
    (void)state;
    const graft_sampling good = {.temperature = 1, .top_p = 1, .repeat_penalty = 1};
    assert_ok(gr_sampling_check(&good, &err));
    graft_sampling bad[6] = {good, good, good, good, good, good};
    bad[0].temperature = 0;
    bad[1].top_k = -1;
    bad[2].top_p = 0;
    bad[3].min_p = 1.5;
    bad[4].repeat_penalty = 0;
    bad[5].temperature = NAN;
    for (int i = 0; i < 6; i++) assert_int_equal(gr_sampling_check(&bad[i], NULL), GRAFT_ERR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_reference),
        cmocka_unit_test(greedy_takes_the_lowest_of_equals),
        cmocka_unit_test(no_logit_and_no_temperature_leads_outside_the_vocabulary),
        cmocka_unit_test(bad_settings_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
