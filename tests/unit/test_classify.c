/* Classification and masked language models: pairs of texts and metrics against their references (goldens by
 * tools/golden/make_classify.py), labels of records, masks. */
#include "support/sft_run.h"

#include <math.h>

#include "base/json.h"
#include "data/dataset.h"
#include "data/labels.h"
#include "data/loader.h"
#include "graft/tokenizer.h"
#include "support/class_records.h"
#include "support/model_support.h"

typedef void (*line_fn)(const gr_json_value *line);

static void each_line(const char *name, line_fn fn, size_t least) {
    size_t len, lines = 0;
    char *text = sft_read(test_golden(name), &len), *rest, *line;
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest), lines++) {
        gr_arena arena;
        const gr_json_value *v;
        gr_arena_init(&arena, NULL, 0);
        assert_ok(gr_json_parse(&arena, name, line, strlen(line), &v, &err));
        fn(v);
        gr_arena_free(&arena);
    }
    gr_free(NULL, text);
    assert_true(lines >= least);
}

/* --- Pairs ------------------------------------------------------------------------------------------------------------------------------ */

static void one_pair(const gr_json_value *line) {
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_tokenizer *tok;
    const gr_json_value *text = gr_json_get(line, "text"), *pair = gr_json_get(line, "pair");
    const char *name = gr_json_get(line, "tokenizer")->text;
    int64_t max = gr_json_get(line, "max_length")->number.i;
    bool two = pair->kind == GR_JSON_STRING;
    int32_t *ids, *types;
    size_t n, i = 0;
    assert_ok(graft_tokenizer_load(ctx, test_golden(test_path("classify/%s", name)), &tok, &err));
    assert_ok(graft_tokenizer_encode_pair(tok, text->text, text->len, two ? pair->text : NULL, two ? pair->len : 0,
                                          (size_t)max, &ids, &types, &n, &err));
    const gr_json_value *want = gr_json_get(line, "input_ids"), *type = gr_json_get(line, "token_type_ids")->child;
    if (want->len != n) fail_msg("%s, %s: %zu tokens, expected %zu", name, text->text, n, want->len);
    for (const gr_json_value *v = want->child; v; v = v->next, type = type->next, i++) {
        assert_int_equal(ids[i], v->number.i);
        assert_int_equal(types[i], type->number.i);
    }
    graft_free(ctx, ids);
    graft_free(ctx, types);
    graft_tokenizer_free(tok);
    graft_context_free(ctx);
}

static void pairs_are_those_of_transformers(void **state) {
    (void)state;
    each_line("classify/pairs.jsonl", one_pair, 90);
}

/* --- Metrics ---------------------------------------------------------------------------------------------------------------------------- */

static void expect(const gr_json_value *line, const char *key, double found) {
    const gr_json_value *v = gr_json_get(line, key);
    if (v->kind == GR_JSON_NULL)
        assert_true(isnan(found));
    else if (!(fabs(found - v->number.d) < 1e-9 * fmax(1, fabs(v->number.d)))) /* logits are floats */
        assert_true(fabs(found - v->number.d) < 1e-6);
}

static void one_metric(const gr_json_value *line) {
    const char *problem = gr_json_get(line, "problem")->text;
    const gr_json_value *rows = gr_json_get(line, "logits"), *values = gr_json_get(line, "values"), *row;
    const gr_json_value *class = gr_json_get(line, "classes") ? gr_json_get(line, "classes")->child : NULL;
    const gr_json_value *value = values ? values->child : NULL;
    gr_class_tally t;
    size_t n = rows->child->len;
    graft_problem p = !strcmp(problem, "regression") ? GRAFT_PROBLEM_REGRESSION
                      : class                        ? GRAFT_PROBLEM_SINGLE
                                                     : GRAFT_PROBLEM_MULTI;
    assert_ok(gr_class_tally_init(&t, NULL, p, n, &err));
    for (row = rows->child; row; row = row->next) {
        float x[8], y[8] = {0};
        size_t i = 0;
        for (const gr_json_value *v = row->child; v; v = v->next) x[i++] = (float)v->number.d;
        i = 0;
        for (const gr_json_value *v = value ? value->child : NULL; v; v = v->next) y[i++] = (float)v->number.d;
        gr_class_tally_add(&t, x, class ? (int32_t)class->number.i : 0, y);
        if (class) class = class->next;
        if (value) value = value->next;
    }
    expect(line, "accuracy", gr_class_accuracy(&t));
    expect(line, "f1", gr_class_f1(&t));
    expect(line, "mse", gr_class_mse(&t));
    expect(line, "pearson", gr_class_pearson(&t));
    gr_class_tally_free(&t);
}

static void metrics_are_those_of_scikit_learn(void **state) {
    (void)state;
    each_line("classify/metrics.jsonl", one_metric, 13);
}

/* --- Labels ----------------------------------------------------------------------------------------------------------------------------- */

static graft_status collect(const char *text, graft_problem problem, graft_label_set *out, graft_error *e) {
    graft_context *ctx = test_context(NULL, 1, NULL);
    const char *path = test_write_records("labels.jsonl", text);
    graft_data_options o = {.paths = &path, .n_paths = 1, .problem = problem};
    graft_status st = graft_labels_collect(ctx, &o, out, e);
    graft_context_free(ctx);
    return st;
}

static void labels_are_found_in_records(void **state) {
    (void)state;
    static const struct {
        const char *records;
        graft_problem asked, found;
        size_t n;
        const char *first, *last;
    } cases[] = {
        {"{\"text\":\"a\",\"label\":\"pos\"}\n{\"text\":\"b\",\"label\":\"neg\"}\n{\"text\":\"c\",\"label\":\"pos\"}\n",
         0, GRAFT_PROBLEM_SINGLE, 2, "neg", "pos"},
        {"{\"text\":\"a\",\"label\":0}\n{\"text\":\"b\",\"label\":3}\n", 0, GRAFT_PROBLEM_SINGLE, 4, "LABEL_0",
         "LABEL_3"},
        {"{\"text\":\"a\",\"label\":true}\n{\"text\":\"b\",\"label\":false}\n", 0, GRAFT_PROBLEM_SINGLE, 2, "LABEL_0",
         "LABEL_1"},
        {"{\"text\":\"a\",\"label\":0.5}\n{\"text\":\"b\",\"label\":3}\n", 0, GRAFT_PROBLEM_REGRESSION, 1, "LABEL_0",
         "LABEL_0"},
        {"{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\",\"label\":3}\n", GRAFT_PROBLEM_REGRESSION,
         GRAFT_PROBLEM_REGRESSION, 1, "LABEL_0", "LABEL_0"},
        {"{\"text\":\"a\",\"label\":[\"x\",\"b\"]}\n{\"text\":\"b\",\"label\":[]}\n{\"text\":\"b\",\"label\":[\"m\"]}"
         "\n",
         0, GRAFT_PROBLEM_MULTI, 3, "b", "x"},
        {"{\"text\":\"a\",\"label\":[1,0,0.5]}\n", 0, GRAFT_PROBLEM_MULTI, 3, "LABEL_0", "LABEL_2"},
    };
    graft_context *ctx = test_context(NULL, 1, NULL);
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_label_set s;
        assert_ok(collect(cases[i].records, cases[i].asked, &s, &err));
        assert_int_equal(s.problem, cases[i].found);
        assert_int_equal(s.n, cases[i].n);
        assert_string_equal(s.names[0], cases[i].first);
        assert_string_equal(s.names[s.n - 1], cases[i].last);
        graft_label_set_free(ctx, &s);
    }
    graft_context_free(ctx);
}

static void wrong_labels_are_named(void **state) {
    (void)state;
    static const struct {
        const char *records, *says;
    } cases[] = {
        {"{\"text\":\"a\"}\n", "labels.jsonl:1: expected the field \"label\""},
        {"{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"a\",\"label\":2}\n", "names only or numbers only"},
        {"{\"text\":\"a\",\"label\":[\"x\"]}\n{\"text\":\"a\",\"label\":\"x\"}\n", "a list in every record or in none"},
        {"{\"text\":\"a\",\"label\":70000}\n", "label 70000"},
        {"{\"text\":\"a\",\"label\":{}}\n", "labels.jsonl:1"},
        {"{\"text\":\"a\",\"label\":[[1]]}\n", "names or numbers, found an array"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_label_set s;
        graft_error wrong = {0};
        assert_int_not_equal(collect(cases[i].records, 0, &s, &wrong), GRAFT_OK);
        if (!strstr(wrong.text, cases[i].says)) fail_msg("expected \"%s\", found \"%s\"", cases[i].says, wrong.text);
    }
}

static graft_status load_all(const graft_allocator *a, void *arg) {
    const graft_context_options co = {.allocator = *a, .n_threads = 1};
    const char *path = arg;
    graft_context *ctx = NULL;
    graft_tokenizer *tok = NULL;
    graft_dataset *ds = NULL;
    gr_loader *l = NULL;
    graft_label_set labels = {0};
    gr_data_cursor cursor = {0};
    gr_data_batch b;
    graft_status st = graft_context_new(&co, &ctx, NULL);
    graft_data_options o = {.paths = &path, .n_paths = 1, .learn = GRAFT_LEARN_CLASSES};
    if (st == GRAFT_OK) st = graft_tokenizer_load(ctx, test_golden("classify/bert"), &tok, NULL);
    if (st == GRAFT_OK) st = graft_labels_collect(ctx, &o, &labels, NULL);
    o.labels = (const char *const *)labels.names;
    o.n_labels = labels.n;
    if (st == GRAFT_OK) st = graft_dataset_load(ctx, tok, &o, &ds, NULL);
    const gr_loader_options lo = {.batch_size = 4, .seed = 1, .shuffle = true, .n_virtual = 2};
    if (st == GRAFT_OK) st = gr_loader_new(ctx, ds, &lo, &l, NULL);
    if (st == GRAFT_OK) st = gr_loader_next(l, &cursor, &b, NULL);
    gr_loader_free(l);
    graft_dataset_free(ds);
    graft_tokenizer_free(tok);
    if (ctx) graft_label_set_free(ctx, &labels);
    graft_context_free(ctx);
    return st;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s", test_class_records("memory.jsonl", 6, 'm'));
    test_allocation_sweep(load_all, path, 0, 2);
}

static void labelled_texts_are_questions(void **state) {
    (void)state;
    static const char *const texts[] = {"the film", "good", "bad"}, *const pairs[] = {NULL, "a plot", NULL};
    static const char *const answers[] = {"1", "a", NULL};
    const char *path = test_write_records("questions.jsonl", "{\"text\": \"the film\", \"label\": 1}\n{\"text\": \"good\", "
                                          "\"text_pair\": \"a plot\", \"label\": \"a\"}\n{\"text\": \"bad\"}\n");
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("families/bert_cls"), GRAFT_DTYPE_F32);
    graft_tokenizer *tok;
    graft_prompts *ps;
    graft_error wrong = {0};
    graft_data_options o = {.paths = &path, .n_paths = 1, .model = m};
    assert_ok(graft_tokenizer_load(ctx, test_golden("classify/bert"), &tok, &err));
    assert_ok(graft_prompts_load(ctx, tok, &o, &ps, &err));
    assert_int_equal(graft_prompts_count(ps), 3);
    for (size_t i = 0; i < 3; i++) {
        graft_prompt p;
        int32_t *ids, *types;
        size_t n;
        graft_prompts_get(ps, i, &p);
        assert_string_equal(p.text, texts[i]);
        assert_int_equal(p.pair != NULL, pairs[i] != NULL);
        if (pairs[i]) assert_string_equal(p.pair, pairs[i]);
        assert_int_equal(p.reference != NULL, answers[i] != NULL);
        if (answers[i]) assert_string_equal(p.reference, answers[i]);
        assert_ok(graft_tokenizer_encode_pair(tok, p.text, p.text_len, p.pair, p.pair_len, 0, &ids, &types, &n, &err));
        assert_int_equal(p.n, n);
        assert_memory_equal(p.ids, ids, n * sizeof *ids);
        graft_free(ctx, ids);
        graft_free(ctx, types);
    }
    graft_prompts_free(ps);
    o.model = NULL;
    assert_int_not_equal(graft_prompts_load(ctx, tok, &o, &ps, &wrong), GRAFT_OK);
    assert_non_null(strstr(wrong.text, "questions.jsonl:1: expected a prompt or a conversation"));
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
}

/* --- Masks ------------------------------------------------------------------------------------------------------------------------------ */

static void masks_follow_the_reference_s_rule(void **state) {
    (void)state;
    enum { TEXTS = 400 };
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_tokenizer *tok;
    graft_dataset *ds;
    gr_loader *l;
    const char *path = test_class_records("masks.jsonl", TEXTS, 't');
    graft_data_options o = {.paths = &path, .n_paths = 1, .learn = GRAFT_LEARN_MASKED};
    assert_ok(graft_tokenizer_load(ctx, test_golden("classify/bert"), &tok, &err));
    assert_ok(graft_dataset_load(ctx, tok, &o, &ds, &err));
    gr_loader_options lo = {.batch_size = TEXTS, .seed = 5, .mask_id = 95, .vocab_size = 96, .mlm_probability = 0.3};
    assert_ok(gr_loader_new(ctx, ds, &lo, &l, &err));
    size_t hidden = 0, masked = 0, kept = 0, tokens = 0, changed = 0;
    int32_t *first = NULL;
    for (int epoch = 0; epoch < 20; epoch++) {
        gr_data_cursor cursor = {(uint64_t)epoch, 0};
        gr_data_batch b;
        assert_ok(gr_loader_next(l, &cursor, &b, &err));
        size_t labels = 0;
        for (size_t s = 0; s < b.n_seqs; s++) {
            size_t n = 0;
            graft_example x;
            graft_dataset_get(ds, b.examples[s], &x);
            for (int32_t t = b.bounds[s]; t < b.bounds[s + 1]; t++) {
                int32_t own = x.ids[t - b.bounds[s]];
                if (b.labels[t] == GRAFT_IGNORE_LABEL) {
                    assert_int_equal(b.ids[t], own);
                    continue;
                }
                assert_true(own > 3);
                assert_int_equal(b.labels[t], own);
                masked += b.ids[t] == 95;
                kept += b.ids[t] == own;
                n++;
            }
            assert_true(n > 0);
            labels += n;
            tokens += (size_t)(b.bounds[s + 1] - b.bounds[s]) - 2;
        }
        assert_int_equal(labels, b.n_labels);
        hidden += labels;
        if (!first && (first = malloc(b.n_tokens * sizeof *first)))
            memcpy(first, b.labels, b.n_tokens * sizeof *first);
        else
            changed += memcmp(first, b.labels, b.n_tokens * sizeof *first) != 0;
    }
    assert_int_equal(changed, 19);
    double share = (double)hidden / (double)tokens, n = (double)hidden;
    assert_true(share > 0.29 && share < 0.36); /* short texts hide one in any case */
    assert_true(fabs((double)masked / n - 0.8) < 0.02);
    assert_true(fabs((double)kept / n - 0.1) < 0.02); /* and one random token in 96 */
    free(first);
    gr_loader_free(l);
    graft_dataset_free(ds);
    graft_tokenizer_free(tok);
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_are_those_of_transformers),
        cmocka_unit_test(metrics_are_those_of_scikit_learn),
        cmocka_unit_test(labels_are_found_in_records),
        cmocka_unit_test(wrong_labels_are_named),
        cmocka_unit_test(labelled_texts_are_questions),
        cmocka_unit_test(masks_follow_the_reference_s_rule),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
