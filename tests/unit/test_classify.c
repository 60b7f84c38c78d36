/* Classification and masked language models: pairs of texts and metrics against their references (goldens by
 * tools/golden/make_classify.py), labels of records, masks, and the laws of training. */
#include "support/sft_run.h"

#include <math.h>

#include "base/json.h"
#include "data/dataset.h"
#include "data/labels.h"
#include "data/loader.h"
#include "graft/adapter.h"
#include "graft/tokenizer.h"
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

static const char *write_records(const char *name, const char *text) {
    const char *path = test_path("%s/%s", test_temp_dir(), name);
    assert_ok(gr_write_file(NULL, path, text, strlen(text), &err));
    return path;
}

static graft_status collect(const char *text, graft_problem problem, graft_label_set *out, graft_error *e) {
    graft_context *ctx = test_context(NULL, 1, NULL);
    const char *path = write_records("labels.jsonl", text);
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

/* --- Training --------------------------------------------------------------------------------------------------------------------------- */

/* A tiny encoder with a tokenizer beside it. */
static const char *model_dir(const char *family) {
    const char *dir = test_path("%s/%s", test_temp_dir(), family), *const names[] = {"config.json",
                                                                                     "model.safetensors"};
    size_t len;
    assert_ok(gr_make_dirs(dir, &err));
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        char *text = sft_read(test_golden(test_path("families/%s/%s", family, names[i])), &len);
        assert_ok(gr_write_file(NULL, test_path("%s/%s", dir, names[i]), text, len, &err));
        gr_free(NULL, text);
    }
    const char *const tokenizer[] = {"tokenizer.json", "tokenizer_config.json"};
    for (size_t i = 0; i < GR_COUNT(tokenizer); i++) {
        char *text = sft_read(test_golden(test_path("classify/bert/%s", tokenizer[i])), &len);
        assert_ok(gr_write_file(NULL, test_path("%s/%s", dir, tokenizer[i]), text, len, &err));
        gr_free(NULL, text);
    }
    return dir;
}

/* Whether "good" or "great" stands in it decides the label; n records, of `kind` 's' (names), 'n' (classes), 'm' (lists), 'r' (numbers), 't'
 * (no label). */
static const char *make_records(const char *name, int n, char kind) {
    static const char *const words[] = {"good", "bad", "film", "actor", "plot", "very", "slow", "great", "dull", "the"};
    gr_buf b;
    gr_buf_init(&b, NULL);
    for (int i = 0; i < n; i++) {
        bool good = false, film = false;
        gr_buf_add_text(&b, "{\"text\": \"");
        int length = 3 + (int)gr_rng_below(1, 2, (uint64_t)i, 7);
        for (int k = 0; k < length; k++) {
            size_t w = (size_t)gr_rng_below(3, (uint64_t)i, (uint64_t)k, GR_COUNT(words));
            good |= w == 0 || w == 7;
            film |= w == 2;
            gr_buf_add_format(&b, "%s%s", k ? " " : "", words[w]);
        }
        gr_buf_add_text(&b, i % 3 == 2 && kind != 't' ? "\", \"text_pair\": \"not very dull" : "");
        if (kind == 's') gr_buf_add_format(&b, "\", \"label\": \"%s\"}\n", good ? "positive" : "negative");
        if (kind == 'n') gr_buf_add_format(&b, "\", \"label\": %d}\n", good + film);
        if (kind == 'm')
            gr_buf_add_format(&b, "\", \"label\": [%s%s%s]}\n", good ? "\"good\"" : "", good && film ? ", " : "",
                              film ? "\"film\"" : "");
        if (kind == 'r') gr_buf_add_format(&b, "\", \"label\": %g}\n", good - 0.25 * film);
        if (kind == 't') gr_buf_add_text(&b, "\"}\n");
    }
    const char *path = write_records(name, gr_buf_text(&b));
    gr_buf_free(&b);
    return path;
}

typedef struct setting {
    const char *family, *method, *task;
    char kind;
} setting;

static void fill(sft_case *c, const setting *s, const char *output) {
    sft_case_init(c, "texts.jsonl", output);
    snprintf(c->path, sizeof c->path, "%s", make_records(test_path("%c.jsonl", s->kind), 24, s->kind));
    static char model[1024];
    snprintf(model, sizeof model, "%s", model_dir(s->family));
    c->o.model = model;
    c->o.task_type = s->task;
    c->o.method = s->method;
    c->o.max_length = 24;
    c->o.no_shuffle = 0;
    c->o.learning_rate = 5e-3;
    c->o.max_steps = 7;
    c->o.per_device_train_batch_size = 8;
    c->o.eval_strategy = GRAFT_STRATEGY_STEPS;
    c->o.eval_steps = 3;
    c->o.methods.num_virtual_tokens = !strcmp(s->method, "prompt-tuning") ? 3 : 0;
}

static const setting settings[] = {
    {"bert_cls", "lora", NULL, 'n'},           {"bert", "lora", "SEQ_CLS", 's'},
    {"bert", "prompt-tuning", "SEQ_CLS", 's'}, {"bert_embed", "ia3", "SEQ_CLS", 'm'},
    {"roberta", "full", "SEQ_CLS", 'r'},       {"llama_cls", "prefix-tuning", NULL, 'n'},
    {"gpt2", "lora", "SEQ_CLS", 'm'},          {"bert", "lora", NULL, 't'},
    {"roberta", "prompt-tuning", NULL, 't'},   {"bert", "full", NULL, 't'},
};

/* However a batch is cut, on however many threads, cut short and gone on with. */
static void runs_give_the_same_bits(void **state) {
    (void)state;
    for (size_t i = 0; i < GR_COUNT(settings); i++) {
        setting s = settings[i];
        sft_case whole, cut, resumed;
        graft_train_result r;
        fill(&whole, &s, test_path("whole%zu", i));
        assert_ok(sft_run(&whole, 1, &r, &err));
        assert_true(isfinite(r.eval_loss));
        fill(&cut, &s, test_path("cut%zu", i));
        cut.o.per_device_train_batch_size = 2;
        cut.o.gradient_accumulation_steps = 4;
        assert_ok(sft_run(&cut, 2, &r, &err));
        sft_assert_same(whole.output, cut.output);
        fill(&resumed, &s, test_path("resumed%zu", i));
        resumed.o.save_strategy = GRAFT_STRATEGY_STEPS;
        resumed.o.save_steps = 4;
        assert_ok(sft_run(&resumed, 1, &r, &err));
        resumed.o.resume_from_checkpoint = test_path("%s/checkpoint-4", resumed.output);
        assert_ok(sft_run(&resumed, 1, &r, &err));
        sft_assert_same(whole.output, resumed.output);
    }
}

/* Without dropout: that of the lower layers would make them another function in each step. */
static const char *calm_model(const char *family) {
    const char *dir = model_dir(family), *path = test_path("%s/config.json", dir);
    static const char *const keys[] = {"hidden_dropout_prob", "attention_probs_dropout_prob", "attn_pdrop", "embd_pdrop", "resid_pdrop"};
    size_t len;
    char *text = sft_read(path, &len);
    for (size_t i = 0; i < GR_COUNT(keys); i++) {
        char *at = strstr(text, test_path("\"%s\": 0.1", keys[i]));
        if (at) memcpy(at + strlen(keys[i]) + 4, "0.0", 3);
    }
    assert_ok(gr_write_file(NULL, path, text, len, &err));
    gr_free(NULL, text);
    return dir;
}

/* Kept outputs of lower layers of encoders and classifiers change no bit; token types are part of what is kept. */
static void kept_lower_layers_change_no_bit(void **state) {
    (void)state;
    static const setting kept[] = {{"bert", "lora", "SEQ_CLS", 's'}, {"roberta", "lora", "SEQ_CLS", 'm'}, {"gpt2", "lora", "SEQ_CLS", 's'}};
    static const int top[] = {1};
    for (size_t i = 0; i < GR_COUNT(kept); i++) {
        static char first[1024];
        for (int k = 0; k < 3; k++) {
            sft_case c;
            graft_train_result r;
            fill(&c, &kept[i], test_path("kept%zu_%d", i, k));
            c.o.model = calm_model(kept[i].family);
            c.o.lora.layers_to_transform = top;
            c.o.lora.n_layers_to_transform = 1;
            c.o.cache_trunk = k == 0 ? 0 : k == 1 ? 1 << 20 : 3000;
            assert_ok(sft_run(&c, 1 + k % 2, &r, &err));
            if (k)
                sft_assert_same(first, c.output);
            else
                snprintf(first, sizeof first, "%s", c.output);
        }
    }
}

static double logged(const char *output, const char *key, bool last) {
    size_t len;
    char *text = sft_read(test_path("%s/trainer_log.jsonl", output), &len), *at = text, *found = NULL;
    const char *name = test_path("\"%s\": ", key);
    while ((at = strstr(at, name))) {
        found = at;
        at++;
        if (!last) break;
    }
    double x = found ? atof(found + strlen(name)) : NAN;
    gr_free(NULL, text);
    return x;
}

static void training_learns(void **state) {
    (void)state;
    const setting s = {"bert", "full", "SEQ_CLS", 's'}, regression = {"roberta", "full", "SEQ_CLS", 'r'};
    sft_case c;
    graft_train_result r;
    fill(&c, &s, "learns");
    c.o.max_steps = 40;
    c.o.eval_steps = 40;
    assert_ok(sft_run(&c, 2, &r, &err));
    assert_true(logged(c.output, "eval_accuracy", true) > 0.95);
    assert_true(logged(c.output, "eval_f1", true) > 0.95);
    fill(&c, &regression, "learns_numbers");
    c.o.max_steps = 60;
    c.o.eval_steps = 60;
    assert_ok(sft_run(&c, 2, &r, &err));
    assert_true(logged(c.output, "eval_pearson", true) > 0.9);
    assert_true(isnan(logged(c.output, "accuracy", true)));
}

/* A new head is kept: by the adapter with its pooler, or as a model that names its labels. */
static void results_hold_the_head(void **state) {
    (void)state;
    const setting s = {"bert", "lora", "SEQ_CLS", 's'}, full = {"bert", "full", "SEQ_CLS", 's'};
    sft_case c;
    graft_train_result r;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m;
    fill(&c, &s, "head");
    assert_ok(sft_run(&c, 1, &r, &err));
    graft_model_options o = {.dtype = GRAFT_DTYPE_F32, .adapter_dir = c.output};
    assert_ok(graft_model_load(ctx, c.o.model, &o, &m, &err));
    assert_ok(graft_adapter_load(m, "a", c.output, 1, &err));
    assert_string_equal(graft_model_task_type(m), "SEQ_CLS");
    assert_int_equal(graft_model_n_labels(m), 2);
    assert_string_equal(graft_model_label(m, 1), "positive");
    assert_true(gr_path_exists(test_path("%s/classes.json", c.output)));
    assert_ok(graft_model_merge(m, "a", test_path("%s/merged", test_temp_dir()), GRAFT_DTYPE_F32, &err));
    graft_model_free(m);
    gr_safetensors *f;
    assert_ok(gr_safetensors_open(NULL, test_path("%s/adapter_model.safetensors", c.output), &f, &err));
    static const char *const kept[] = {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight",
                                       "bert.pooler.dense.bias"};
    for (size_t i = 0; i < GR_COUNT(kept); i++)
        assert_non_null(gr_tensor_list_find(gr_safetensors_tensors(f), test_path("base_model.model.%s", kept[i])));
    gr_safetensors_close(f);
    fill(&c, &full, "head_full");
    assert_ok(sft_run(&c, 1, &r, &err));
    const char *const dirs[] = {c.output, test_path("%s/merged", test_temp_dir())};
    for (size_t i = 0; i < 2; i++) {
        assert_ok(graft_model_load(ctx, dirs[i], NULL, &m, &err));
        assert_string_equal(graft_model_task_type(m), "SEQ_CLS");
        assert_string_equal(graft_model_label(m, 0), "negative");
        graft_model_free(m);
    }
    const setting masked = {"bert_embed", "lora", "MASKED_LM", 't'}; /* has no head, and no task_type that could be stored */
    fill(&c, &masked, "head_masked");
    assert_ok(sft_run(&c, 1, &r, &err));
    o.adapter_dir = c.output;
    assert_ok(graft_model_load(ctx, c.o.model, &o, &m, &err));
    assert_string_equal(graft_model_task_type(m), "MASKED_LM");
    graft_model_free(m);
    graft_context_free(ctx);
}

static void wrong_runs_are_refused(void **state) {
    (void)state;
    static const struct {
        setting s;
        const char *says;
    } cases[] = {
        {{"bert_embed", "lora", NULL, 's'}, "a model without a head cannot be fine-tuned"},
        {{"bert", "lora", "CAUSAL_LM", 't'}, "has no head for the task CAUSAL_LM"},
        {{"bert", "lora", "TOKEN_CLS", 't'}, "task_type: expected"},
        {{"gpt2", "llama-adapter", "SEQ_CLS", 's'}, "trains no module whole"},
        {{"bert_cls", "lora", NULL, 's'}, "none of the 3 labels"},
        {{"bert", "lora", "SEQ_CLS", 't'}, "expected the field \"label\""},
        {{"bert", "lora", NULL, 't'}, "packing"}, /* these two ask for it */
        {{"bert_cls", "lora", NULL, 'n'}, "packing"},
        {{"bert", "lora", NULL, 't'}, "hidden anew in each epoch"}, /* and these for kept layers */
        {{"bert_cls", "lora", NULL, 'n'}, "has dropout"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        sft_case c;
        graft_train_result r;
        graft_error wrong = {0};
        fill(&c, &cases[i].s, test_path("wrong%zu", i));
        c.o.packing = strcmp(cases[i].says, "packing") == 0;
        c.o.cache_trunk = i + 2 >= GR_COUNT(cases) ? 1 << 20 : 0;
        if (i + 2 == GR_COUNT(cases)) c.o.model = calm_model("bert");
        assert_int_not_equal(sft_run(&c, 1, &r, &wrong), GRAFT_OK);
        if (!strstr(wrong.text, cases[i].says)) fail_msg("expected \"%s\", found \"%s\"", cases[i].says, wrong.text);
    }
}

/* An encoder's records are cut to what it has positions for, beside the adapter's own rows. */
static void long_records_are_cut_to_the_positions(void **state) {
    (void)state;
    static const setting cases[] = {{"bert_cls", "lora", NULL, 'n'},         {"bert_cls", "prompt-tuning", NULL, 'n'},
                                    {"bert_cls", "prefix-tuning", NULL, 'n'}, {"roberta", "lora", NULL, 't'},
                                    {"bert", "p-tuning", "SEQ_CLS", 'n'},    {"bert_cls", "prompt-tuning", NULL, 'n'}};
    gr_buf b;
    gr_buf_init(&b, NULL);
    for (int i = 0; i < 4; i++) {
        gr_buf_add_text(&b, "{\"text\": \"");
        for (int k = 0; k < 90; k++) gr_buf_add_text(&b, k % 3 ? "good " : "film ");
        gr_buf_add_format(&b, "\", \"label\": %d}\n", i % 3);
    }
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        sft_case c;
        graft_train_result r;
        graft_error wrong = {0};
        const bool placed = strcmp(cases[i].method, "p-tuning") == 0, last = i + 1 == GR_COUNT(cases);
        fill(&c, &cases[i], test_path("long%zu", i));
        snprintf(c.path, sizeof c.path, "%s", write_records(test_path("long%zu.jsonl", i), gr_buf_text(&b)));
        c.o.max_length = graft_sft_options_default().max_length;
        c.o.max_steps = 1;
        if (last) c.o.methods.num_virtual_tokens = 40;
        if (strcmp(cases[i].method, "prefix-tuning") == 0) c.o.methods.num_virtual_tokens = 5;
        if (placed) c.o.methods.prompt_template = "[CLS] [P0..P3] text [SEP]";
        if (placed) c.o.methods.num_virtual_tokens = 0;
        graft_status st = sft_run(&c, 1, &r, &wrong);
        if (last ? st != GRAFT_ERR_LIMIT || !strstr(wrong.text, "40 virtual tokens") : st != GRAFT_OK)
            fail_msg("%s %s: %s: %s", cases[i].family, cases[i].method, graft_status_text(st), wrong.text);
    }
    gr_buf_free(&b);
}

/* Jobs side by side over one model get the bits that they would get alone. */
static void jobs_are_as_alone(void **state) {
    (void)state;
    enum { JOBS = 3 };
    static const setting s[2][JOBS] = {
        {{"bert", "lora", NULL, 't'}, {"bert", "ia3", NULL, 't'}, {"bert", "full", NULL, 't'}},
        {{"bert_cls", "lora", NULL, 'n'}, {"bert_cls", "prompt-tuning", NULL, 'n'}, {"bert_cls", "full", NULL, 'n'}}};
    for (int k = 0; k < 2; k++) {
        static sft_case alone[JOBS], together[JOBS];
        graft_sft_job jobs[JOBS] = {{0}};
        graft_context *ctx = test_context(NULL, 2, NULL);
        graft_train_result r;
        for (int i = 0; i < JOBS; i++) {
            fill(&alone[i], &s[k][i], test_path("alone%d%d", k, i));
            assert_ok(sft_run(&alone[i], 1, &r, &err));
            fill(&together[i], &s[k][i], test_path("together%d%d", k, i));
            jobs[i] = (graft_sft_job){.name = s[k][i].method, .options = together[i].o};
            jobs[i].options.data = (graft_texts){together[i].data, 1};
            jobs[i].options.eval_data = (graft_texts){together[i].eval, 1};
            jobs[i].options.output_dir = together[i].output;
        }
        assert_ok(graft_sft_jobs(ctx, jobs, JOBS, &err));
        for (int i = 0; i < JOBS; i++) {
            assert_ok(jobs[i].status);
            sft_assert_same(alone[i].output, together[i].output);
        }
        graft_context_free(ctx);
    }
}

static void a_plan_is_made_without_running(void **state) {
    (void)state;
    const setting s = {"bert", "lora", "SEQ_CLS", 's'};
    sft_case c;
    graft_train_plan p;
    graft_context *ctx = test_context(NULL, 1, NULL);
    fill(&c, &s, "plan");
    c.o.data = (graft_texts){c.data, 1};
    c.o.eval_strategy = GRAFT_STRATEGY_NO;
    c.o.output_dir = c.output;
    assert_ok(graft_sft_plan(ctx, &c.o, &p, &err));
    assert_int_equal(p.n_records, 24);
    assert_int_equal(p.n_label_tokens, 24);
    assert_true(p.step > 0);
    graft_context_free(ctx);
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
    snprintf(path, sizeof path, "%s", make_records("memory.jsonl", 6, 'm'));
    test_allocation_sweep(load_all, path, 0, 2);
}

/* --- Masks ------------------------------------------------------------------------------------------------------------------------------ */

static void masks_follow_the_reference_s_rule(void **state) {
    (void)state;
    enum { TEXTS = 400 };
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_tokenizer *tok;
    graft_dataset *ds;
    gr_loader *l;
    const char *path = make_records("masks.jsonl", TEXTS, 't');
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
        cmocka_unit_test(masks_follow_the_reference_s_rule),
        cmocka_unit_test(wrong_runs_are_refused),
        cmocka_unit_test(long_records_are_cut_to_the_positions),
        cmocka_unit_test(runs_give_the_same_bits),
        cmocka_unit_test(kept_lower_layers_change_no_bit),
        cmocka_unit_test(training_learns),
        cmocka_unit_test(results_hold_the_head),
        cmocka_unit_test(jobs_are_as_alone),
        cmocka_unit_test(a_plan_is_made_without_running),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
