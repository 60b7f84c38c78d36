/* Room eval: metrics equal to rouge-score, nltk, sacrebleu, lm-eval's exact match and SQuAD's F1 (tools/golden/make_metrics.py). */
#include <math.h>

#include "base/json.h"
#include "eval/metrics.h"
#include "support/support.h"

typedef void (*line_fn)(graft_context *ctx, const gr_json_value *v);

static void each_line(const char *name, line_fn fn) {
    char *text;
    graft_context *ctx;
    assert_ok(graft_context_new(NULL, &ctx, &err));
    assert_ok(gr_read_file(NULL, test_golden(name), 1 << 24, &text, NULL, &err));
    size_t n = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1, n++) {
        gr_arena arena;
        const gr_json_value *v;
        gr_arena_init(&arena, NULL, 0);
        assert_ok(gr_json_parse(&arena, name, line, (size_t)(end - line), &v, &err));
        fn(ctx, v);
        gr_arena_free(&arena);
    }
    assert_true(n > 200);
    gr_free(NULL, text);
    graft_context_free(ctx);
}

static void expect_score(const gr_json_value **v, graft_score s, const char *target) {
    const double found[3] = {s.precision, s.recall, s.fmeasure};
    for (int i = 0; i < 3; i++, *v = (*v)->next)
        if (found[i] != (*v)->number.d) fail_msg("\"%s\": expected %.17g, found %.17g", target, (*v)->number.d, found[i]);
}

static void check_rouge(graft_context *ctx, const gr_json_value *v) {
    const gr_json_value *t = gr_json_get(v, "target"), *p = gr_json_get(v, "prediction");
    for (int stem = 0; stem < 2; stem++) {
        graft_rouge r;
        assert_ok(graft_rouge_score(ctx, t->text, t->len, p->text, p->len, stem, &r, &err));
        const gr_json_value *number = gr_json_get(v, stem ? "stem" : "plain")->child;
        expect_score(&number, r.rouge1, t->text);
        expect_score(&number, r.rouge2, t->text);
        expect_score(&number, r.rougeL, t->text);
        expect_score(&number, r.rougeLsum, t->text);
    }
}

static void rouge_equals_rouge_score(void **state) {
    (void)state;
    each_line("metrics/rouge.jsonl", check_rouge);
}

/* Counts and score of a corpus. */
static void check_bleu(graft_context *ctx, const gr_json_value *v) {
    graft_bleu b = {{0}, {0}, 0, 0};
    const gr_json_value *stats = gr_json_get(v, "stats")->child, *score = gr_json_get(v, "score");
    for (const gr_json_value *pair = gr_json_get(v, "pairs")->child; pair; pair = pair->next) {
        const gr_json_value *t = pair->child, *p = t->next;
        assert_ok(graft_bleu_add(ctx, t->text, t->len, p->text, p->len, &b, &err));
    }
    const uint64_t found[] = {b.prediction_length, b.target_length, b.correct[0], b.correct[1], b.correct[2], b.correct[3],
                              b.total[0], b.total[1], b.total[2], b.total[3]};
    for (size_t i = 0; i < GR_COUNT(found); i++, stats = stats->next)
        if (found[i] != (uint64_t)stats->number.i)
            fail_msg("\"%s\": number %zu is %llu, expected %lld", gr_json_get(v, "pairs")->child->child->text, i,
                     (unsigned long long)found[i], (long long)stats->number.i);
    if (!(fabs(graft_bleu_score(&b) - score->number.d) <= 1e-12 * (1 + score->number.d)))
        fail_msg("score %.17g, expected %.17g", graft_bleu_score(&b), score->number.d);
}

static void bleu_equals_sacrebleu(void **state) {
    (void)state;
    each_line("metrics/bleu.jsonl", check_bleu);
}

static void check_match(graft_context *ctx, const gr_json_value *v) {
    const gr_json_value *t = gr_json_get(v, "target"), *p = gr_json_get(v, "prediction"), *lower = gr_json_get(v, "lower");
    gr_buf b;
    gr_buf_init(&b, NULL);
    gr_text_lower(&b, t->text, t->len);
    assert_string_equal(gr_buf_text(&b), lower->text);
    gr_buf_free(&b);
    const gr_json_value *m = gr_json_get(v, "match")->child;
    for (unsigned flags = 0; flags < 16; flags++, m = m->next) {
        int equal;
        assert_ok(graft_exact_match(ctx, t->text, t->len, p->text, p->len, flags, &equal, &err));
        if (equal != m->number.i) fail_msg("\"%s\" and \"%s\", flags %u: expected %d, found %d", t->text, p->text, flags, (int)m->number.i, equal);
    }
    graft_score s;
    assert_ok(graft_token_f1(ctx, t->text, t->len, p->text, p->len, &s, &err));
    const gr_json_value *number = gr_json_get(v, "f1")->child;
    expect_score(&number, s, t->text);
}

static void match_equals_reference(void **state) {
    (void)state;
    each_line("metrics/match.jsonl", check_match);
}

static void stems_equal_nltk(void **state) {
    (void)state;
    char *text, word[256], stem[256];
    assert_ok(gr_read_file(NULL, test_golden("metrics/stems.txt"), 1 << 24, &text, NULL, &err));
    int n = 0, used;
    for (char *p = text; sscanf(p, "%255s %255s%n", word, stem, &used) == 2; p += used, n++) {
        char copy[256];
        strcpy(copy, word);
        copy[gr_porter_stem(copy, strlen(word))] = '\0';
        if (strcmp(copy, stem) != 0) fail_msg("%s: expected %s, found %s", word, stem, copy);
        if (p[used] == '\0') break;
    }
    assert_true(n > 2000);
    gr_free(NULL, text);
}

static graft_status score_once(const graft_allocator *a, void *arg) {
    (void)arg;
    static const char target[] = "The quick foxes\nran over it", prediction[] = "a quick fox runs\nover over it \xCE\xA3 \xFF";
    graft_context *ctx;
    graft_rouge r;
    graft_score s;
    int equal;
    GR_TRY(graft_context_new(&(graft_context_options){.allocator = *a, .n_threads = 1}, &ctx, NULL));
    graft_status st = graft_rouge_score(ctx, target, sizeof target - 1, prediction, sizeof prediction - 1, 1, &r, NULL);
    if (st == GRAFT_OK) st = graft_exact_match(ctx, target, sizeof target - 1, prediction, sizeof prediction - 1, 15, &equal, NULL);
    if (st == GRAFT_OK) st = graft_token_f1(ctx, target, sizeof target - 1, prediction, sizeof prediction - 1, &s, NULL);
    graft_bleu b = {{0}, {0}, 0, 0};
    if (st == GRAFT_OK) st = graft_bleu_add(ctx, target, sizeof target - 1, prediction, sizeof prediction - 1, &b, NULL);
    graft_context_free(ctx);
    return st;
}

static void metrics_survive_failing_allocations(void **state) {
    (void)state;
    test_allocation_sweep(score_once, NULL, 0, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rouge_equals_rouge_score),
        cmocka_unit_test(bleu_equals_sacrebleu),
        cmocka_unit_test(match_equals_reference),
        cmocka_unit_test(stems_equal_nltk),
        cmocka_unit_test(metrics_survive_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
