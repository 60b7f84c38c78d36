/* Templates with pseudo-tokens: their syntax, what they make of records, that rows stand where they say, and evaluation and
 * generation with adapters that records choose. */
#include "support/model_support.h"

#include <math.h>

#include "data/dataset.h"
#include "graft/eval.h"
#include "text/slots.h"

static void templates_are_parsed(void **state) {
    (void)state;
    gr_arena arena;
    gr_slots s;
    gr_arena_init(&arena, NULL, 0);
    assert_ok(gr_slots_parse(&arena, "t", "[P0..P4] premise [P5] \"?\\n\" [P6][BOS][MASK:label]", &s, &err));
    assert_int_equal(s.n, 7);
    assert_int_equal(s.n_virtual, 7);
    assert_true(s.items[0].kind == GR_SLOT_VIRTUAL && s.items[0].first == 0 && s.items[0].last == 4);
    assert_true(s.items[1].kind == GR_SLOT_FIELD && !strcmp(s.items[1].text, "premise"));
    assert_true(s.items[3].kind == GR_SLOT_TEXT && !strcmp(s.items[3].text, "?\n"));
    assert_true(s.items[5].kind == GR_SLOT_SPECIAL && s.items[5].special == GRAFT_TOKEN_BOS);
    assert_true(s.items[6].kind == GR_SLOT_ANSWER && !strcmp(s.items[6].text, "label"));
    assert_true(s.has_answer && !s.n_words);
    assert_ok(gr_slots_parse(&arena, "t", "[P0] [MASK:label yes=\"Yes\" \"not at all\"=\" no\\u0021\" ]", &s, &err));
    assert_int_equal(s.n_words, 2);
    assert_string_equal(s.words[1].label, "not at all");
    assert_string_equal(s.words[1].word, " no!");
    assert_string_equal(s.items[1].text, "label");
    assert_ok(gr_slots_parse(&arena, "t", "[CLS] a [P0]", &s, &err)); /* of a classification */
    assert_true(!s.has_answer);
    gr_arena_free(&arena);
}

static void wrong_templates_are_named(void **state) {
    (void)state;
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"", "pseudo-tokens"},
        {"[P0] [MASK] [MASK]", "once"},
        {"[P0] [MASK yes=\"Yes\"]", "two or more words"},
        {"[P0] [MASK:l yes=\"Yes\" no=\"Yes\"]", "each word of [MASK] once"},
        {"[P0] [MASK:l yes=\"Yes\" yes=\"No\"]", "each label"},
        {"[P0] [MASK:l yes=Yes no=\"No\"]", "double quotes"},
        {"[P0] [MASK:l yes \"Yes\"]", "'=' behind a label"},
        {"[P0] [MASK:l yes=\"\" no=\"No\"]", "not empty"},
        {"[P0] [MASK:l yes=\"Yes\" no=\"No\"", "']'"},
        {"a [MASK]", "pseudo-tokens"},
        {"[P0] [P2] [MASK]", "no [P1]"},
        {"[P1..P0] [MASK]", "byte 7"},
        {"[P0..] [MASK]", "the last of the pseudo-tokens"},
        {"[P99999999] [MASK]", "[P0]"},
        {"[Q0] [MASK]", "[P0]"},
        {"[P0 [MASK]", "']'"},
        {"[P0] \"a [MASK]", "double quotes"},
        {"[P0] ? [MASK]", "the name of a field, found '? [MASK]'"},
        {"[P0] [MASK:]", "the name of a field"},
    };
    gr_arena arena;
    gr_arena_init(&arena, NULL, 0);
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        gr_slots s = {.n_virtual = 77};
        graft_error why = {0};
        if (gr_slots_parse(&arena, "place", cases[i].text, &s, &why) != GRAFT_ERR_FORMAT || !strstr(why.text, cases[i].word) ||
            strncmp(why.text, "place: prompt_template", 22) != 0 || s.n_virtual != 77)
            fail_msg("'%s': %s", cases[i].text, why.text);
    }
    gr_arena_free(&arena);
}

static const char *records_file(const char *text) {
    static char path[1100];
    snprintf(path, sizeof path, "%s/records.jsonl", test_temp_dir());
    assert_ok(gr_write_file(NULL, path, text, strlen(text), &err));
    return path;
}

static size_t encode(const graft_tokenizer *tok, const char *text, int32_t *out) {
    int32_t *ids;
    size_t n;
    assert_ok(graft_tokenizer_encode(tok, text, strlen(text), 0, &ids, &n, &err));
    memcpy(out, ids, n * sizeof *ids);
    gr_free(NULL, ids);
    return n;
}

static void records_fill_templates(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_tokenizer *tok;
    graft_dataset *ds;
    int32_t want[200], labels[200];
    assert_ok(graft_tokenizer_load(ctx, test_golden("train/model"), &tok, &err));
    const char *path = records_file("{\"premise\": \"It is\", \"n\": 12, \"label\": \" yes\", \"completion\": \"no\"}\n");
    graft_data_options o = {.paths = &path, .n_paths = 1, .max_length = -1,
                            .prompt_template = "[P1] premise \" so\" [P0] n \"?\" [P2] [MASK:label]"};
    assert_ok(graft_dataset_load(ctx, tok, &o, &ds, &err));
    graft_example x;
    graft_dataset_get(ds, 0, &x);
    graft_dataset_get_labels(ds, 0, labels);
    size_t n = 0, answer, eos_len;
    const char *eos = graft_tokenizer_token_text(tok, graft_tokenizer_special_id(tok, GRAFT_TOKEN_EOS), &eos_len);
    char text[100];
    want[n++] = -2;
    n += encode(tok, "It is so", want + n);
    want[n++] = -1;
    n += encode(tok, "12?", want + n);
    want[n++] = -3;
    answer = n;
    snprintf(text, sizeof text, " yes%s", eos);
    n += encode(tok, text, want + n);
    assert_int_equal(x.n, n);
    assert_memory_equal(x.ids, want, n * sizeof *want);
    for (size_t i = 0; i < n; i++) assert_int_equal(labels[i], i < answer ? GRAFT_IGNORE_LABEL : want[i]);
    graft_dataset_free(ds);
    o.max_length = (int64_t)n - 3 - 2; /* two less than there are: the longest text loses its end */
    assert_ok(graft_dataset_load(ctx, tok, &o, &ds, &err));
    graft_dataset_get(ds, 0, &x);
    assert_int_equal(x.n, n - 2);
    assert_int_equal(x.ids[0], -2);
    assert_int_equal(x.ids[answer - 1 - 2], -3);
    graft_dataset_free(ds);
    static const struct {
        const char *template, *record, *word;
    } bad[] = {{"[P0] premise [MASK]", "{\"text\": \"a\"}", "\"premise\""},
               {"[P0] text [MASK]", "{\"text\": \"a\"}", "\"completion\""},
               {"[P0] text [MASK]", "{\"text\": [1], \"completion\": \"b\"}", "a string or a number"},
               {"[P0] [MASK] text", "{\"text\": \"a\", \"completion\": \"b\"}", "behind [MASK]"},
               {"[P0] text", "{\"text\": \"a\", \"completion\": \"b\"}", "found it 0 times"},
               {"[P0] text [MASK yes=\"a\" no=\"b\"]", "{\"text\": \"a\", \"completion\": \"b\"}", "one of the 2 labels"},
               {"[P0] [CLS] text [MASK]", "{\"text\": \"a\", \"completion\": \"b\"}", "[CLS]"},
               {"[P0] text [MASK]", "{\"text\": \"a\", ", "records.jsonl:1"}};
    for (size_t i = 0; i < GR_COUNT(bad); i++) {
        graft_error why = {0};
        path = records_file(bad[i].record);
        o.prompt_template = bad[i].template;
        o.max_length = -1;
        if (graft_dataset_load(ctx, tok, &o, &ds, &why) == GRAFT_OK || !strstr(why.text, bad[i].word) || !strstr(why.text, "records.jsonl:1"))
            fail_msg("%s: %s: %s", bad[i].template, bad[i].record, why.text);
    }
    graft_tokenizer_free(tok);
    graft_context_free(ctx);
}

/* Rows that are embeddings of real tokens give what these tokens give, wherever they stand. */
static void rows_stand_where_the_template_says(void **state) {
    (void)state;
    static const char config[] = "{\"peft_type\": \"PROMPT_TUNING\", \"prompt_template\": \"a [P1] b [P0] [MASK]\"}";
    const int32_t real[] = {5, 9, 41, 17, 23, 8}, at[] = {2, 4}, row[] = {1, 0};
    int32_t ids[6], bounds[] = {0, 6};
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_model_path("llama"), GRAFT_DTYPE_F32);
    char dir[1100], file[1200];
    assert_ok(graft_adapter_new(m, "a", config, 3, &err));
    gr_param *p = gr_adapter_param(m->adapters, 0, 0);
    assert_int_equal(p->shape.d[0], 2);
    memcpy(ids, real, sizeof ids);
    for (int i = 0; i < 2; i++) {
        assert_ok(gr_model_read_tensor(m->model, "model.embed_tokens.weight", real[at[i]], 1,
                                       (float *)p->value + row[i] * p->shape.d[1], &err));
        ids[at[i]] = -1 - row[i];
    }
    gr_batch bare = {.n_tokens = 6, .n_seqs = 1, .bounds = bounds, .ids = real, .one_adapter = -1}, adapted = bare;
    adapted.ids = ids;
    adapted.one_adapter = 0;
    float *x = test_logits(m->model, m->hooks, &bare), *y = test_logits(m->model, m->hooks, &adapted);
    assert_memory_equal(x, y, (size_t)(6 * graft_model_vocab_size(m)) * sizeof *x);
    free(y);
    assert_int_equal(m->hooks->n_virtual(m->hooks->self, 0), 0);
    snprintf(dir, sizeof dir, "%s/adapter", test_temp_dir());
    snprintf(file, sizeof file, "%s/prompt_template.json", dir);
    assert_ok(graft_adapter_save(m, "a", dir, &err));
    assert_true(gr_path_exists(file));
    assert_ok(graft_adapter_remove(m, "a", &err));
    assert_ok(graft_adapter_load(m, "a", dir, 1, &err));
    assert_string_equal(gr_adapter_prompt_template(m->adapters, 0), "a [P1] b [P0] [MASK]");
    y = test_logits(m->model, m->hooks, &adapted);
    assert_memory_equal(x, y, (size_t)(6 * graft_model_vocab_size(m)) * sizeof *x);
    free(x);
    free(y);
    static const struct {
        const char *text, *word;
    } lies[] = {{"{\"prompt_template\": \"[P0..P4] [MASK]\"}", "num_virtual_tokens is 2"},
                {"{\"prompt_template\": 7}", "a string"},
                {"{\"prompt_template\": \"[P0]\"}", "[MASK]"}};
    for (size_t i = 0; i < GR_COUNT(lies); i++) {
        graft_error why = {0};
        assert_ok(gr_write_file(NULL, file, lies[i].text, strlen(lies[i].text), &err));
        if (graft_adapter_load(m, "b", dir, 1, &why) == GRAFT_OK || !strstr(why.text, lies[i].word)) fail_msg("%s: %s", lies[i].text, why.text);
    }
    graft_model_free(m);
    graft_context_free(ctx);
}

typedef struct answers {
    char text[4][200];
    size_t n;
} answers;

static void take_answer(void *user, const graft_eval_sample *s) {
    answers *a = user;
    snprintf(a->text[a->n++ % 4], sizeof a->text[0], "%s", s->output);
}

/* Records that name their adapters are evaluated and answered as with that adapter alone. */
static void records_choose_adapters(void **state) {
    (void)state;
    static const char *const configs[] = {"{\"peft_type\": \"LORA\", \"init_lora_weights\": false}",
                                          "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 3}",
                                          "{\"peft_type\": \"P_TUNING\", \"encoder_hidden_size\": 8, \"prompt_template\": \"[P0] prompt [P1] [MASK]\"}"};
    static const char *const names[] = {"one", "two", "three", NULL};
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("train/model"), GRAFT_DTYPE_F32);
    graft_tokenizer *tok;
    assert_ok(graft_tokenizer_load(ctx, test_golden("train/model"), &tok, &err));
    for (size_t i = 0; i < GR_COUNT(configs); i++) assert_ok(graft_adapter_new(m, names[i], configs[i], 5 + i, &err));
    char all[1000] = "", line[200];
    double sum = 0;
    uint64_t labels = 0, tokens = 0;
    answers alone = {0}, mixed = {0};
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        graft_eval_options o = graft_eval_options_default();
        graft_eval_result r;
        snprintf(line, sizeof line, "{\"prompt\": \"The sky %zu\", \"completion\": \" is blue.\"}\n", i);
        const char *path = records_file(line);
        o.data.paths = &path;
        o.data.n_paths = 1;
        o.generate.adapter = names[i];
        o.generate.max_new_tokens = 8;
        o.user = &alone;
        o.sample = take_answer;
        assert_ok(graft_eval(m, tok, &o, &r, &err));
        sum += r.loss * (double)r.n_labels;
        labels += r.n_labels;
        tokens += r.n_tokens;
        snprintf(line, sizeof line, "{\"adapter\": %s%s%s, \"prompt\": \"The sky %zu\", \"completion\": \" is blue.\"}\n", names[i] ? "\"" : "",
                 names[i] ? names[i] : "null", names[i] ? "\"" : "", i);
        strcat(all, line);
    }
    graft_eval_options o = graft_eval_options_default();
    graft_eval_result r;
    const char *path = records_file(all);
    o.data.paths = &path;
    o.data.n_paths = 1;
    o.generate.max_new_tokens = 8;
    o.user = &mixed;
    o.sample = take_answer;
    assert_ok(graft_eval(m, tok, &o, &r, &err));
    assert_int_equal(r.n_labels, labels);
    assert_int_equal(r.n_tokens, tokens);
    assert_true(fabs(r.loss * (double)r.n_labels - sum) < 1e-9 * sum);
    for (size_t i = 0; i < 4; i++) assert_string_equal(mixed.text[i], alone.text[i]);
    path = records_file("{\"adapter\": \"nobody\", \"prompt\": \"a\", \"completion\": \"b\"}");
    graft_error why = {0};
    assert_int_equal(graft_eval(m, tok, &o, &r, &why), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(why.text, "nobody"));
    assert_non_null(strstr(why.text, "records.jsonl:1"));
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
}

static graft_status read_all(const graft_allocator *a, void *arg) {
    graft_context_options o = {.n_threads = 1, .cpu = getenv("GRAFT_CPU"), .allocator = *a};
    graft_context *ctx = NULL;
    graft_model *m = NULL;
    graft_tokenizer *tok = NULL;
    graft_dataset *ds = NULL;
    graft_prompts *ps = NULL;
    int32_t *ids = NULL;
    size_t n;
    const char *path = arg;
    graft_status st = graft_context_new(&o, &ctx, NULL);
    if (st == GRAFT_OK) st = graft_model_load(ctx, test_golden("train/model"), NULL, &m, NULL);
    if (st == GRAFT_OK) st = graft_tokenizer_load(ctx, test_golden("train/model"), &tok, NULL);
    if (st == GRAFT_OK)
        st = graft_adapter_new(m, "a", "{\"peft_type\": \"PROMPT_TUNING\", \"prompt_template\": \"[P0] word [P1] [MASK]\"}", 1, NULL);
    graft_data_options data = {.paths = &path, .n_paths = 1, .max_length = 6, .model = m};
    if (st == GRAFT_OK) st = graft_dataset_load(ctx, tok, &data, &ds, NULL);
    if (st == GRAFT_OK) st = graft_prompts_load(ctx, tok, &data, &ps, NULL);
    if (st == GRAFT_OK) st = graft_prompt_fill(m, tok, "a", "red", 3, &ids, &n, NULL);
    if (ids) graft_free(ctx, ids);
    graft_prompts_free(ps);
    graft_dataset_free(ds);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    const char *path = records_file("{\"adapter\": \"a\", \"word\": \"red and green and blue\", \"completion\": \"x\"}\n"
                                    "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
    test_allocation_sweep(read_all, (void *)(uintptr_t)path, 0, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(templates_are_parsed),
        cmocka_unit_test(wrong_templates_are_named),
        cmocka_unit_test(records_fill_templates),
        cmocka_unit_test(rows_stand_where_the_template_says),
        cmocka_unit_test(records_choose_adapters),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
