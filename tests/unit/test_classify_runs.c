/* Training of classifiers and masked language models: however it is cut, and what its results hold. */
#include "support/sft_run.h"

#include <math.h>

#include "graft/adapter.h"
#include "support/class_records.h"
#include "support/model_support.h"

static void copy_tokenizer(const char *from, const char *dir) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json"};
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        size_t len;
        char *text = sft_read(test_golden(test_path("%s/%s", from, names[i])), &len);
        assert_ok(gr_write_file(NULL, test_path("%s/%s", dir, names[i]), text, len, &err));
        gr_free(NULL, text);
    }
}

/* A tiny model with a tokenizer beside it. */
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
    copy_tokenizer(strncmp(family, "t5", 2) == 0 ? "seq2seq/model" : "classify/bert", dir);
    return dir;
}

typedef struct setting {
    const char *family, *method, *task;
    char kind;
} setting;

static void fill(sft_case *c, const setting *s, const char *output) {
    sft_case_init(c, "texts.jsonl", output);
    snprintf(c->path, sizeof c->path, "%s", test_class_records(test_path("%c.jsonl", s->kind), 24, s->kind));
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
    {"t5_cls", "lora", NULL, 'n'},             {"t5", "full", "SEQ_CLS", 's'},
    {"t5_gated", "ia3", "SEQ_CLS", 'r'},       {"t5", "oft", "SEQ_CLS", 'm'},
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

/* A head that was made stays in floats, and its memory is its own, where the base is turned into few bits. */
static void new_heads_stand_on_few_bits(void **state) {
    (void)state;
    static const setting s[] = {{"bert", "lora", "SEQ_CLS", 's'}, {"t5", "lora", "SEQ_CLS", 's'}};
    for (size_t i = 0; i < 2 * GR_COUNT(s); i++) {
        sft_case c;
        graft_train_result r;
        fill(&c, &s[i / 2], test_path("few_bits%zu", i));
        c.o.load_in_4bit = i % 2 == 0;
        c.o.load_in_8bit = i % 2 == 1;
        assert_ok(sft_run(&c, 1, &r, &err));
        assert_true(isfinite(r.eval_loss));
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
    const setting twice = {"t5", "lora", "SEQ_CLS", 's'};
    fill(&c, &twice, "learns_reading_twice");
    c.o.max_steps = 60;
    c.o.eval_steps = 60;
    c.o.max_length = 64;
    c.o.learning_rate = 1e-2;
    assert_ok(sft_run(&c, 2, &r, &err));
    assert_true(logged(c.output, "eval_accuracy", true) > 0.95);
}

/* The head of a T5, around which the base has another name. */
static void two_parts_keep_their_head(graft_context *ctx) {
    static const setting s[] = {{"t5_gated", "lora", "SEQ_CLS", 's'}, {"t5_gated", "full", "SEQ_CLS", 's'}};
    static const char *const kept[] = {"dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"};
    for (size_t i = 0; i < GR_COUNT(s); i++) {
        sft_case c;
        graft_train_result r;
        graft_model *m;
        gr_safetensors *f;
        fill(&c, &s[i], test_path("two_parts%zu", i));
        assert_ok(sft_run(&c, 1, &r, &err));
        const char *dir = c.output, *prefix = i ? "" : "base_model.model.";
        const char *file = i ? "model" : "adapter_model";
        assert_ok(gr_safetensors_open(NULL, test_path("%s/%s.safetensors", dir, file), &f, &err));
        for (size_t k = 0; k < GR_COUNT(kept); k++)
            assert_non_null(gr_tensor_list_find(gr_safetensors_tensors(f),
                                                test_path("%sclassification_head.%s", prefix, kept[k])));
        gr_safetensors_close(f);
        if (i == 0) {
            graft_model_options o = {.dtype = GRAFT_DTYPE_F32, .adapter_dir = dir};
            dir = test_path("%s/two_parts_merged", test_temp_dir());
            assert_ok(graft_model_load(ctx, c.o.model, &o, &m, &err));
            assert_string_equal(graft_model_label(m, 1), "positive");
            assert_ok(graft_adapter_load(m, "a", c.output, 1, &err));
            assert_ok(graft_model_merge(m, "a", dir, GRAFT_DTYPE_F32, &err));
            graft_model_free(m);
        }
        assert_ok(graft_model_load(ctx, dir, NULL, &m, &err));
        assert_string_equal(graft_model_task_type(m), "SEQ_CLS");
        assert_string_equal(graft_model_label(m, 0), "negative");
        graft_model_free(m);
    }
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
    two_parts_keep_their_head(ctx);
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
        {{"t5", "prompt-tuning", "SEQ_CLS", 's'}, "takes tokens alone"},
        {{"t5_even", "prefix-tuning", "SEQ_CLS", 's'}, "takes tokens alone"},
        {{"t5", "bitfit", "SEQ_CLS", 's'}, "no biases in its layers"},
        {{"t5", "lora", "MASKED_LM", 't'}, "has no head for the task MASKED_LM"},
        {{"t5_cls", "lora", NULL, 'e'}, "expected an end of text (token 1)"}, /* of a tokenizer that adds none */
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
        setting s = cases[i].s;
        const bool endless = s.kind == 'e';
        if (endless) s.kind = 'n';
        fill(&c, &s, test_path("wrong%zu", i));
        if (endless) copy_tokenizer("classify/bert", c.o.model);
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
        snprintf(c.path, sizeof c.path, "%s", test_write_records(test_path("long%zu.jsonl", i), gr_buf_text(&b)));
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_runs_are_refused),
        cmocka_unit_test(long_records_are_cut_to_the_positions),
        cmocka_unit_test(runs_give_the_same_bits),
        cmocka_unit_test(new_heads_stand_on_few_bits),
        cmocka_unit_test(kept_lower_layers_change_no_bit),
        cmocka_unit_test(training_learns),
        cmocka_unit_test(results_hold_the_head),
        cmocka_unit_test(jobs_are_as_alone),
        cmocka_unit_test(a_plan_is_made_without_running),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
