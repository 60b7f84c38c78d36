/* Pseudo-tokens among fixed anchors on encoders and encoder-decoders: positions, logits and gradients against transformers
 * (tools/golden/make_anchors.py), what templates make of records, words for labels, and the laws of training. */
#include "support/adapter_golden.h"
#include "support/sft_run.h"

#include <math.h>
#include <stdlib.h>

#include "data/dataset.h"
#include "graft/encode.h"
#include "graft/eval.h"
#include "graft/generate.h"

static void logits_and_gradients_are_those_of_transformers(void **state) {
    (void)state;
    char name[64], base[64], *text, *rest = NULL;
    size_t len, n = 0;
    graft_context *ctx = test_context(NULL, 1, NULL);
    assert_ok(gr_read_file(NULL, test_golden("anchors/cases.txt"), 1 << 20, &text, &len, &err));
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest), n++) {
        gr_safetensors *golden;
        assert_int_equal(sscanf(line, "%63s %63s", name, base), 2);
        const char *dir = test_path("%s", test_golden(test_path("anchors/%s", name)));
        graft_model *m = test_load(ctx, test_golden(base), GRAFT_DTYPE_F32);
        assert_ok(graft_adapter_load_trainable(m, "a", dir, &err));
        assert_ok(gr_safetensors_open(NULL, test_path("%s/golden.safetensors", dir), &golden, &err));
        test_compare(name, m, gr_safetensors_tensors(golden), 5, "logits", true);
        gr_safetensors_close(golden);
        graft_model_free(m);
    }
    gr_free(NULL, text);
    graft_context_free(ctx);
    assert_true(n >= 11);
}

/* --- Records ------------------------------------------------------------------------------------------------------------------ */

static const char *write_file(const char *name, const char *text) {
    const char *path = test_path("%s/%s", test_temp_dir(), name);
    assert_ok(gr_write_file(NULL, path, text, strlen(text), &err));
    return path;
}

/* A tiny model with a tokenizer of its vocabulary beside it. */
static const char *model_dir(const char *family) {
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"};
    if (!strcmp(family, "t5")) return test_path("%s", test_golden("seq2seq/model"));
    const char *dir = test_path("%s/%s", test_temp_dir(), family);
    assert_ok(gr_make_dirs(dir, &err));
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        size_t len;
        const char *from = i < 2 ? test_path("families/%s", family) : "classify/bert";
        char *text = sft_read(test_golden(test_path("%s/%s", from, names[i])), &len);
        assert_ok(gr_write_file(NULL, test_path("%s/%s", dir, names[i]), text, len, &err));
        gr_free(NULL, text);
    }
    return dir;
}

typedef struct expected {
    const char *ids; /* words of the tokenizer; "#k" pseudo-token k */
    const char *label; /* where the mask stands */
} expected;

static void check_ids(const graft_tokenizer *tok, const graft_example *x, const int32_t *labels, const expected *want) {
    char copy[200], *rest = NULL;
    size_t n = 0;
    snprintf(copy, sizeof copy, "%s", want->ids);
    for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest), n++) {
        int32_t id = word[0] == '#' ? -1 - atoi(word + 1) : graft_tokenizer_token_id(tok, word, strlen(word));
        assert_true(n < x->n);
        if (x->ids[n] != id) fail_msg("token %zu of '%s': %d, expected %d", n, want->ids, x->ids[n], id);
        bool mask = want->label && !strcmp(word, "[MASK]");
        int32_t label = mask ? graft_tokenizer_token_id(tok, want->label, strlen(want->label)) : GRAFT_IGNORE_LABEL;
        assert_int_equal(labels[n], label);
    }
    assert_int_equal(n, x->n);
}

static void records_fill_templates_of_encoders(void **state) {
    (void)state;
    static const struct {
        const char *template, *record;
        graft_learn learn;
        int64_t max;
        expected want;
    } cases[] = {
        {"[CLS] [P0..P1] a [P2] \"is\" [MASK] \".\" [SEP]", "{\"a\": \"the film\", \"completion\": \"good\"}", GRAFT_LEARN_MASKED, -1,
         {"[CLS] #0 #1 the film #2 is [MASK] . [SEP]", "good"}},
        {"[MASK:say] [P0] a", "{\"a\": \"the very slow film\", \"say\": \"bad\"}", GRAFT_LEARN_MASKED, 3, {"[MASK] #0 the very", "bad"}},
        {"a [P0] [MASK:say 1=\"good\" \"0\"=\"bad\"] [SEP]", "{\"a\": \"the very slow film\", \"say\": 0}", GRAFT_LEARN_MASKED, 4,
         {"the very #0 [MASK] [SEP]", "bad"}},
        {"[CLS] a [P1] b [P0] [SEP]", "{\"a\": \"film\", \"b\": \"the dull plot\", \"label\": 1}", GRAFT_LEARN_CLASSES, 5,
         {"[CLS] film #1 the dull #0 [SEP]", NULL}},
    };
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_tokenizer *tok;
    assert_ok(graft_tokenizer_load(ctx, test_golden("classify/bert"), &tok, &err));
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_dataset *ds;
        graft_example x;
        int32_t labels[64];
        const char *path = write_file("fill.jsonl", cases[i].record);
        graft_data_options o = {.paths = &path, .n_paths = 1, .max_length = cases[i].max, .prompt_template = cases[i].template,
                                .learn = cases[i].learn, .n_labels = cases[i].learn == GRAFT_LEARN_CLASSES ? 2 : 0};
        assert_ok(graft_dataset_load(ctx, tok, &o, &ds, &err));
        graft_dataset_get(ds, 0, &x);
        graft_dataset_get_labels(ds, 0, labels);
        check_ids(tok, &x, labels, &cases[i].want);
        graft_dataset_free(ds);
    }
    graft_tokenizer_free(tok);
    graft_context_free(ctx);
}

static void wrong_records_of_encoders_are_named(void **state) {
    (void)state;
    static const struct {
        const char *template, *record, *word;
        graft_learn learn;
    } cases[] = {
        {"[P0] a [MASK]", "{\"a\": \"film\", \"completion\": \"very good\"}", "is 2 tokens", GRAFT_LEARN_MASKED},
        {"[P0] a [MASK]", "{\"a\": \"film [MASK]\", \"completion\": \"good\"}", "that of [MASK] alone", GRAFT_LEARN_MASKED},
        {"[P0] a", "{\"a\": \"film\", \"completion\": \"good\"}", "found it 0 times", GRAFT_LEARN_MASKED},
        {"[P0] a [MASK] [BOS]", "{\"a\": \"film\", \"completion\": \"good\"}", "[BOS]", GRAFT_LEARN_MASKED},
        {"[P0] a [MASK]", "{\"a\": \"film\", \"label\": 1}", "no [MASK]", GRAFT_LEARN_CLASSES},
        {"[P0] a", "{\"a\": \"film\"}", "\"label\"", GRAFT_LEARN_CLASSES},
        {"[P0] a [MASK:l yes=\"good\" no=\"bad\"]", "{\"a\": \"film\", \"l\": \"so\"}", "one of the 2 labels", GRAFT_LEARN_MASKED},
    };
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_tokenizer *tok;
    graft_dataset *ds;
    assert_ok(graft_tokenizer_load(ctx, test_golden("classify/bert"), &tok, &err));
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_error why = {0};
        const char *path = write_file("wrong.jsonl", cases[i].record);
        graft_data_options o = {.paths = &path, .n_paths = 1, .max_length = -1, .prompt_template = cases[i].template,
                                .learn = cases[i].learn, .n_labels = cases[i].learn == GRAFT_LEARN_CLASSES ? 2 : 0};
        if (graft_dataset_load(ctx, tok, &o, &ds, &why) == GRAFT_OK || !strstr(why.text, cases[i].word) || !strstr(why.text, "wrong.jsonl:1"))
            fail_msg("%s: %s: %s", cases[i].template, cases[i].record, why.text);
    }
    graft_tokenizer_free(tok);
    graft_context_free(ctx);
}

/* The source is what the template says, and nothing stands in it at [MASK]. */
static void records_fill_sources(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_tokenizer *tok;
    graft_dataset *ds;
    graft_example x;
    const char *path = write_file("source.jsonl", "{\"a\": \"the round\", \"to\": \"red\"}");
    graft_data_options o = {.paths = &path, .n_paths = 1, .max_length = -1, .max_target_length = -1, .seq2seq = 1,
                            .prompt_template = "[P0] a [MASK:to] [P1] [EOS]"};
    assert_ok(graft_tokenizer_load(ctx, test_golden("seq2seq/model"), &tok, &err));
    assert_ok(graft_dataset_load(ctx, tok, &o, &ds, &err));
    graft_dataset_get(ds, 0, &x);
    int32_t *source, *target;
    size_t n, m;
    assert_ok(graft_tokenizer_encode(tok, "the round", 9, 0, &source, &n, &err));
    assert_ok(graft_tokenizer_encode(tok, "red", 3, GRAFT_TOK_ADD_SPECIAL, &target, &m, &err));
    assert_int_equal(x.n_source, n + 3);
    assert_int_equal(x.n, n + 3 + m);
    assert_int_equal(x.ids[0], -1);
    assert_memory_equal(x.ids + 1, source, n * sizeof *source);
    assert_int_equal(x.ids[n + 1], -2);
    assert_int_equal(x.ids[n + 2], graft_tokenizer_special_id(tok, GRAFT_TOKEN_EOS));
    assert_memory_equal(x.ids + n + 3, target, m * sizeof *target);
    graft_dataset_free(ds);
    graft_free(ctx, source);
    graft_free(ctx, target);
    graft_tokenizer_free(tok);
    graft_context_free(ctx);
}

/* --- Runs --------------------------------------------------------------------------------------------------------------------- */

#define WORDS "[CLS] [P0..P1] a [P2] \"is\" [MASK:label yes=\"good\" no=\"bad\"] [SEP]"

typedef struct setting {
    const char *family, *method, *task, *template;
} setting;

static const char *make_records(bool answers) {
    static const char *const texts[] = {"the film was very bad", "the film was very good", "the plot poor", "the plot great"};
    gr_buf b;
    gr_buf_init(&b, NULL);
    for (int i = 0; i < 24; i++) {
        gr_buf_add_format(&b, "{\"a\": \"%s\", \"label\": \"%s\"", texts[i % 4], i % 2 ? "yes" : "no");
        if (answers) gr_buf_add_format(&b, ", \"completion\": \"%s\"", i % 2 ? "the red" : "round");
        gr_buf_add_text(&b, "}\n");
    }
    const char *path = write_file(answers ? "answers.jsonl" : "words.jsonl", gr_buf_text(&b));
    gr_buf_free(&b);
    return path;
}

static void fill(sft_case *c, const setting *s, const char *output) {
    static char model[1024];
    sft_case_init(c, "texts.jsonl", output);
    snprintf(c->path, sizeof c->path, "%s", make_records(!strcmp(s->family, "t5")));
    snprintf(model, sizeof model, "%s", model_dir(s->family));
    c->o.model = model;
    c->o.task_type = s->task;
    c->o.method = s->method;
    c->o.methods.prompt_template = s->template;
    c->o.methods.encoder_hidden_size = !strcmp(s->method, "p-tuning") ? 12 : 0;
    c->o.max_length = 24;
    c->o.no_shuffle = 0;
    c->o.learning_rate = 2e-2;
    c->o.max_steps = 7;
    c->o.per_device_train_batch_size = 8;
}

/* However a batch is cut, on however many threads, cut short and gone on with. */
static void runs_give_the_same_bits(void **state) {
    (void)state;
    static const setting settings[] = {
        {"bert", "p-tuning", NULL, WORDS},
        {"roberta", "prompt-tuning", NULL, "[P0] a [P1] [MASK:label yes=\"good\" no=\"bad\"]"},
        {"bert", "p-tuning", "SEQ_CLS", "[CLS] [P0..P1] a [P2] [SEP]"},
        {"t5", "p-tuning", NULL, "[P0] a [P1..P2] [MASK] [EOS]"},
    };
    for (size_t i = 0; i < GR_COUNT(settings); i++) {
        const setting *s = &settings[i];
        sft_case whole, cut, resumed;
        graft_train_result r;
        fill(&whole, s, test_path("whole%zu", i));
        assert_ok(sft_run(&whole, 1, &r, &err));
        fill(&cut, s, test_path("cut%zu", i));
        cut.o.per_device_train_batch_size = 2;
        cut.o.gradient_accumulation_steps = 4;
        assert_ok(sft_run(&cut, 2, &r, &err));
        sft_assert_same(whole.output, cut.output);
        fill(&resumed, s, test_path("resumed%zu", i));
        resumed.o.save_strategy = GRAFT_STRATEGY_STEPS;
        resumed.o.save_steps = 4;
        assert_ok(sft_run(&resumed, 1, &r, &err));
        resumed.o.resume_from_checkpoint = test_path("%s/checkpoint-4", resumed.output);
        assert_ok(sft_run(&resumed, 1, &r, &err));
        sft_assert_same(whole.output, resumed.output);
        assert_true(gr_path_exists(test_path("%s/prompt_template.json", whole.output)));
    }
}

static int64_t confused[4];
static void take_counts(void *user, graft_problem problem, size_t n, const int64_t *counts) {
    (void)user;
    assert_true(problem == GRAFT_PROBLEM_SINGLE && n == 2);
    memcpy(confused, counts, sizeof confused);
}

/* A masked language model learns to say the words; evaluation and scores agree, and a text alone is as among others. */
static void words_stand_for_labels(void **state) {
    (void)state;
    const setting s = {"bert", "prompt-tuning", NULL, "[P0..P7] [MASK:label yes=\"good\" no=\"bad\"] a"};
    sft_case c;
    graft_train_result r;
    graft_context *ctx = test_context(NULL, 2, NULL);
    graft_tokenizer *tok;
    fill(&c, &s, "words");
    c.o.max_steps = 200;
    c.o.learning_rate = 0.3;
    assert_ok(sft_run(&c, 2, &r, &err));
    graft_model *m = test_load(ctx, c.o.model, GRAFT_DTYPE_F32);
    assert_ok(graft_tokenizer_load(ctx, c.o.model, &tok, &err));
    assert_ok(graft_adapter_load(m, "a", c.output, 1, &err));
    assert_int_equal(graft_adapter_n_words(m, "a"), 2);
    assert_string_equal(graft_adapter_word_label(m, "a", 1), "no");
    graft_eval_options o = graft_eval_options_default();
    graft_eval_result x, y;
    const char *path = make_records(false);
    o.what = GRAFT_EVAL_LOSS;
    o.data.paths = &path;
    o.data.n_paths = 1;
    o.generate.adapter = "a";
    o.confusion = take_counts;
    assert_ok(graft_eval(m, tok, &o, &x, &err));
    o.batch_size = 5;
    assert_ok(graft_eval(m, tok, &o, &y, &err));
    assert_memory_equal(&x.loss, &y.loss, sizeof x.loss);
    if (!(x.accuracy > 0.7 && x.accuracy == y.accuracy && x.n_labels == 24)) fail_msg("accuracy %g and %g", x.accuracy, y.accuracy);
    assert_true(x.accuracy == (double)(confused[0] + confused[3]) / 24);
    graft_prompts *ps;
    graft_text texts[24] = {{0}};
    float scores[48], alone[2];
    size_t right = 0;
    graft_data_options d = {.paths = &path, .n_paths = 1, .model = m, .adapter = "a"};
    assert_ok(graft_prompts_load(ctx, tok, &d, &ps, &err));
    assert_int_equal(graft_prompts_count(ps), 24);
    for (size_t i = 0; i < 24; i++) {
        graft_prompt p;
        graft_prompts_get(ps, i, &p);
        texts[i] = (graft_text){.ids = p.ids, .n_ids = p.n};
    }
    const graft_encode_options e = {.adapter = "a"};
    assert_ok(graft_classify(m, tok, texts, 24, &e, scores, &err));
    for (size_t i = 0; i < 24; i++) right += (scores[2 * i] > scores[2 * i + 1]) == (i % 2 == 1);
    assert_true(fabs((double)right / 24 - x.accuracy) < 1e-12);
    const graft_text text = {.text = "the film was very good", .len = 22}; /* the template's only field; record 1 */
    assert_ok(graft_classify(m, tok, &text, 1, &e, alone, &err));
    assert_memory_equal(alone, scores + 2, sizeof alone);
    graft_prompts_free(ps);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
}

/* What is saved answers as what was trained, through records and through text. */
static void encoder_decoders_answer(void **state) {
    (void)state;
    const setting s = {"t5", "prompt-tuning", NULL, "[P0..P1] a [P2] [MASK] [EOS]"};
    sft_case c;
    graft_train_result r;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_tokenizer *tok;
    fill(&c, &s, "answers");
    assert_ok(sft_run(&c, 1, &r, &err));
    graft_model *m = test_load(ctx, c.o.model, GRAFT_DTYPE_F32);
    assert_ok(graft_tokenizer_load(ctx, c.o.model, &tok, &err));
    assert_ok(graft_adapter_load(m, "a", c.output, 1, &err));
    graft_eval_options o = graft_eval_options_default();
    graft_eval_result x;
    const char *path = make_records(true);
    o.data.paths = &path;
    o.data.n_paths = 1;
    o.generate.adapter = "a";
    o.generate.max_new_tokens = 6;
    assert_ok(graft_eval(m, tok, &o, &x, &err));
    assert_true(isfinite(x.loss) && x.n_answers == 24);
    int32_t *ids;
    size_t n;
    graft_session *session;
    graft_generation g[2];
    graft_prompts *ps;
    graft_prompt p;
    graft_data_options d = {.paths = &path, .n_paths = 1, .model = m, .adapter = "a"};
    assert_ok(graft_prompt_fill(m, tok, "a", "{\"a\": \"the film was very bad\"}", 30, &ids, &n, &err));
    assert_ok(graft_prompts_load(ctx, tok, &d, &ps, &err));
    graft_prompts_get(ps, 0, &p);
    assert_int_equal(p.n, n);
    assert_memory_equal(p.ids, ids, n * sizeof *ids);
    assert_int_equal(ids[n - 1], graft_tokenizer_special_id(tok, GRAFT_TOKEN_EOS));
    assert_ok(graft_session_new(m, tok, &session, &err));
    const graft_input_ids in[2] = {{ids, n}, {p.ids, p.n}};
    assert_ok(graft_generate(session, in, 2, 1, &o.generate, NULL, NULL, g, &err));
    assert_int_equal(g[0].n_ids, g[1].n_ids);
    assert_memory_equal(g[0].ids, g[1].ids, g[0].n_ids * sizeof *g[0].ids);
    for (int i = 0; i < 2; i++) graft_generation_free(ctx, &g[i]);
    graft_session_free(session);
    graft_prompts_free(ps);
    graft_free(ctx, ids);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
}

static void wrong_runs_are_refused(void **state) {
    (void)state;
    static const struct {
        setting s;
        double mlm;
        const char *says;
    } cases[] = {
        {{"bert", "p-tuning", NULL, "[P0] a"}, 0, "found it 0 times"},
        {{"bert", "p-tuning", "SEQ_CLS", WORDS}, 0, "no [MASK]"},
        {{"bert", "p-tuning", NULL, WORDS}, 0.2, "mlm_probability"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        sft_case c;
        graft_train_result r;
        graft_error wrong = {0};
        fill(&c, &cases[i].s, test_path("wrong%zu", i));
        c.o.mlm_probability = cases[i].mlm;
        assert_int_not_equal(sft_run(&c, 1, &r, &wrong), GRAFT_OK);
        if (!strstr(wrong.text, cases[i].says)) fail_msg("expected \"%s\", found \"%s\"", cases[i].says, wrong.text);
    }
}

static graft_status measure(const graft_allocator *a, void *arg) {
    graft_context_options o = {.n_threads = 1, .cpu = getenv("GRAFT_CPU"), .allocator = *a};
    graft_context *ctx = NULL;
    graft_model *m = NULL;
    graft_tokenizer *tok = NULL;
    graft_eval_options e = graft_eval_options_default();
    graft_eval_result r;
    float scores[2];
    const char *const *names = arg;
    const graft_encode_options encode = {.adapter = "a"};
    const graft_text text = {.text = "the film", .len = 8};
    e.what = GRAFT_EVAL_LOSS;
    e.data.paths = &names[1];
    e.data.n_paths = 1;
    e.data.max_records = 2;
    e.generate.adapter = "a";
    graft_status st = graft_context_new(&o, &ctx, NULL);
    if (st == GRAFT_OK) st = graft_model_load(ctx, names[0], NULL, &m, NULL);
    if (st == GRAFT_OK) st = graft_tokenizer_load(ctx, names[0], &tok, NULL);
    if (st == GRAFT_OK)
        st = graft_adapter_new(m, "a", "{\"peft_type\": \"PROMPT_TUNING\", \"prompt_template\": \"[P0] a [MASK:label yes=\\\"good\\\" no=\\\"bad\\\"]\"}", 1, NULL);
    if (st == GRAFT_OK) st = graft_eval(m, tok, &e, &r, NULL);
    if (st == GRAFT_OK) st = graft_classify(m, tok, &text, 1, &encode, scores, NULL);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    const char *names[] = {model_dir("bert"), make_records(false)};
    test_allocation_sweep(measure, names, 0, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_and_gradients_are_those_of_transformers),
        cmocka_unit_test(records_fill_templates_of_encoders),
        cmocka_unit_test(wrong_records_of_encoders_are_named),
        cmocka_unit_test(records_fill_sources),
        cmocka_unit_test(runs_give_the_same_bits),
        cmocka_unit_test(words_stand_for_labels),
        cmocka_unit_test(encoder_decoders_answer),
        cmocka_unit_test(wrong_runs_are_refused),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
