/* Fine-tuning of encoder-decoders: records become the tokens that transformers' examples make of them, runs are those
 * of its Seq2SeqTrainer (goldens by tools/golden/make_seq2seq.py), and no cut of a run changes a bit. */
#include "support/sft_run.h"

#include <math.h>

#include "data/dataset.h"
#include "data/loader.h"
#include "graft/eval.h"
#include "support/model_support.h"

enum { SOURCE = 14, TARGET = 9 };

static graft_dataset *load(graft_context *ctx, const char *path, bool tokens, graft_error *wrong) {
    graft_tokenizer *tok;
    graft_dataset *ds = NULL;
    const graft_data_options o = {.paths = &path, .n_paths = 1, .seq2seq = 1, .max_length = tokens ? -1 : SOURCE,
                                  .max_target_length = tokens ? -1 : TARGET};
    assert_ok(graft_tokenizer_load(ctx, test_golden("seq2seq/model"), &tok, &err));
    graft_status st = graft_dataset_load(ctx, tok, &o, &ds, wrong);
    if (st != GRAFT_OK) ds = NULL;
    graft_tokenizer_free(tok);
    return ds;
}

static void same_ids(const gr_json_value *want, const int32_t *ids, size_t n, const char *what, size_t record) {
    size_t i = 0;
    for (const gr_json_value *v = want->child; v; v = v->next, i++)
        if (i >= n || ids[i] != v->number.i) fail_msg("record %zu: %s: token %zu differs", record, what, i);
    assert_int_equal(i, n);
}

static void check_encoded(graft_dataset *ds, const gr_json_value *root) {
    size_t i = 0;
    for (const gr_json_value *row = root->child; row; row = row->next, i++) {
        graft_example x;
        int32_t labels[SOURCE + TARGET];
        graft_dataset_get(ds, i, &x);
        assert_true(x.n <= GR_COUNT(labels));
        graft_dataset_get_labels(ds, i, labels);
        same_ids(gr_json_get(row, "input_ids"), x.ids, x.n_source, "input_ids", i);
        same_ids(gr_json_get(row, "labels"), x.ids + x.n_source, x.n - x.n_source, "target", i);
        same_ids(gr_json_get(row, "labels"), labels + x.n_source, x.n - x.n_source, "labels", i);
        for (size_t k = 0; k < x.n_source; k++) assert_int_equal(labels[k], GRAFT_IGNORE_LABEL);
    }
    assert_int_equal(i, graft_dataset_count(ds));
}

static void records_become_source_and_target(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    gr_arena arena;
    const gr_json_value *root;
    size_t len;
    char *text = sft_read(test_golden("seq2seq/encoded.json"), &len), tokens[1024];
    gr_arena_init(&arena, NULL, 0);
    assert_ok(gr_json_parse(&arena, "encoded.json", text, len, &root, &err));
    graft_error wrong;
    graft_dataset *ds = load(ctx, test_golden("seq2seq/pairs.jsonl"), false, &wrong);
    assert_non_null(ds);
    check_encoded(ds, root);
    graft_data_stats stats;
    graft_dataset_get_stats(ds, &stats);
    assert_true(stats.truncated > 0 && stats.truncated < stats.examples);
    graft_dataset_free(ds);
    /* The same rows given as tokens, which is what encoded.json is. */
    snprintf(tokens, sizeof tokens, "%s", test_golden("seq2seq/encoded.json"));
    ds = load(ctx, tokens, true, &wrong);
    assert_non_null(ds);
    check_encoded(ds, root);
    graft_dataset_free(ds);
    gr_arena_free(&arena);
    gr_free(NULL, text);
    graft_context_free(ctx);
}

static void batches_begin_targets_anew(void **state) {
    (void)state;
    static const char rows[] =
        "{\"input_ids\": [5, 6, 1], \"labels\": [7, -100, 8, 1]}\n{\"input_ids\": [9], \"labels\": [1]}\n";
    char path[1100];
    snprintf(path, sizeof path, "%s/rows.jsonl", test_temp_dir());
    assert_ok(gr_write_file(NULL, path, rows, sizeof rows - 1, &err));
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_error wrong;
    graft_dataset *ds = load(ctx, path, true, &wrong);
    gr_loader *loader;
    gr_data_cursor cursor = {0};
    gr_data_batch b;
    const gr_loader_options o = {.batch_size = 2, .n_virtual = 2, .seq2seq = true, .start_id = 3};
    assert_non_null(ds);
    assert_ok(gr_loader_new(ctx, ds, &o, &loader, &err));
    assert_ok(gr_loader_next(loader, &cursor, &b, &err));
    static const int32_t sources[] = {-1, -2, 5, 6, 1, -1, -2, 9}, targets[] = {3, 7, 0, 8, 3},
                         labels[] = {7, -100, 8, 1, 1};
    assert_int_equal(b.n_seqs, 2);
    assert_int_equal(b.n_labels, 4);
    assert_int_equal(b.bounds[1], 4);
    assert_int_equal(b.source_bounds[1], 5);
    assert_int_equal(gr_data_batch_tokens(&b, 0, 2), 13);
    assert_memory_equal(b.source_ids, sources, sizeof sources);
    assert_memory_equal(b.ids, targets, sizeof targets);
    assert_memory_equal(b.labels, labels, sizeof labels);
    gr_loader_free(loader);
    const gr_loader_options packed = {.batch_size = 2, .packing = true, .max_length = 64, .seq2seq = true};
    assert_int_equal(gr_loader_new(ctx, ds, &packed, &loader, &wrong), GRAFT_ERR_UNSUPPORTED);
    graft_dataset_free(ds);
    graft_context_free(ctx);
}

static void faults_of_records_are_named(void **state) {
    (void)state;
    static const struct {
        const char *row, *says;
    } cases[] = {{"{\"text\": \"red\"}", "expected a prompt"},
                 {"{\"prompt\": \"red\"}", "expected an answer to learn"},
                 {"{\"input_ids\": [5]}", "\"labels\" beside \"input_ids\""},
                 {"{\"input_ids\": [], \"labels\": [1]}", "at least one token"},
                 {"{\"input_ids\": [5], \"labels\": [1], \"completion_mask\": [1]}", "mean nothing"},
                 {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "no chat template"}};
    graft_context *ctx = test_context(NULL, 1, NULL);
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        char path[1100];
        graft_error wrong = {0};
        snprintf(path, sizeof path, "%s/bad.jsonl", test_temp_dir());
        assert_ok(gr_write_file(NULL, path, cases[i].row, strlen(cases[i].row), &err));
        graft_dataset *ds = load(ctx, path, false, &wrong);
        if (ds || !strstr(wrong.text, cases[i].says) || !strstr(wrong.text, "bad.jsonl:1"))
            fail_msg("%s: expected '%s', found '%s'", cases[i].row, cases[i].says, wrong.text);
    }
    graft_context_free(ctx);
}

/* --- Runs ---------------------------------------------------------------------------------------------------------------- */

static void init(sft_case *c, const char *output) {
    static char model[1024];
    sft_case_init(c, "pairs.jsonl", output);
    snprintf(c->path, sizeof c->path, "%s", test_golden("seq2seq/pairs.jsonl"));
    snprintf(model, sizeof model, "%s", test_golden("seq2seq/model"));
    c->o.model = model;
    c->o.max_length = SOURCE;
    c->o.max_target_length = TARGET;
    c->o.max_steps = 20;
}

static double number(const gr_json_value *v, const char *key, double otherwise) {
    const gr_json_value *x = gr_json_get(v, key);
    return x && x->kind == GR_JSON_NUMBER ? x->number.d : otherwise;
}

static void compare(const char *run, const gr_json_value *want, const gr_json_value *got) {
    static const char *const keys[] = {"loss", "grad_norm", "learning_rate", "eval_loss", "train_loss"};
    for (size_t i = 0; i < GR_COUNT(keys); i++) {
        double w = number(want, keys[i], NAN), g = number(got, keys[i], NAN);
        if (!isnan(w) && !(fabs(w - g) <= 1e-4 * fabs(w)))
            fail_msg("%s: step %g: %s: expected %.9g, got %.9g", run, number(want, "step", -1), keys[i], w, g);
    }
}

static void runs_equal_the_reference(void **state) {
    (void)state;
    gr_arena arena;
    const gr_json_value *root;
    size_t len;
    char *text = sft_read(test_golden("seq2seq/runs.json"), &len);
    gr_arena_init(&arena, NULL, 0);
    assert_ok(gr_json_parse(&arena, "runs.json", text, len, &root, &err));
    for (const gr_json_value *run = root->child; run; run = run->next) {
        const gr_json_value *o = gr_json_get(run, "options");
        sft_case c;
        graft_train_result result;
        init(&c, run->key);
        c.o.method = gr_json_get(run, "method")->text;
        if (!strcmp(c.o.method, "lora")) c.o.adapter = test_golden("seq2seq/adapter");
        c.o.per_device_train_batch_size = (int64_t)number(o, "per_device_train_batch_size", 8);
        c.o.per_device_eval_batch_size = 64;
        c.o.learning_rate = number(o, "learning_rate", 0);
        c.o.warmup_steps = number(o, "warmup_steps", 0);
        c.o.weight_decay = number(o, "weight_decay", 0);
        c.o.max_grad_norm = number(o, "max_grad_norm", 1);
        c.o.lr_scheduler_type = gr_json_get(o, "lr_scheduler_type")->text;
        c.o.eval_steps = number(o, "eval_steps", 0);
        if (c.o.eval_steps > 0) c.o.eval_strategy = GRAFT_STRATEGY_STEPS;
        assert_ok(sft_run(&c, 1, &result, &err));
        assert_int_equal(result.global_step, 20);
        char *log = sft_read(test_path("%s/trainer_log.jsonl", c.output), &len), *line = log;
        for (const gr_json_value *want = gr_json_get(run, "log")->child; want; want = want->next) {
            const gr_json_value *got;
            size_t n = strcspn(line, "\n");
            assert_ok(gr_json_parse(&arena, "log", line, n, &got, &err));
            compare(run->key, want, got);
            line += n + (line[n] == '\n');
        }
        gr_free(NULL, log);
    }
    gr_arena_free(&arena);
    gr_free(NULL, text);
}

/* Micro-batches of 8 records, of 2 with two threads, of single records and layers that run twice; with dropout in LoRA.
 */
static void no_cut_of_a_run_changes_a_bit(void **state) {
    (void)state;
    static const char *const methods[] = {"lora", "full", "prompt-tuning", "prefix-tuning"};
    for (size_t k = 0; k < GR_COUNT(methods); k++) {
        char first[1024] = "";
        for (int way = 0; way < 3; way++) {
            sft_case c;
            graft_train_result result;
            char name[64];
            snprintf(name, sizeof name, "%s_%d", methods[k], way);
            init(&c, name);
            c.o.method = methods[k];
            c.o.max_steps = 4;
            c.o.learning_rate = 1e-2;
            if (k == 0) c.o.lora.lora_dropout = 0.25;
            if (k > 1) c.o.methods.num_virtual_tokens = 3;
            c.o.per_device_train_batch_size = way == 0 ? 8 : way == 1 ? 2 : 1;
            c.o.gradient_accumulation_steps = way == 0 ? 1 : way == 1 ? 4 : 8;
            if (way == 2) c.o.gradient_checkpointing = GRAFT_YES;
            assert_ok(sft_run(&c, way == 1 ? 2 : 1, &result, &err));
            if (way)
                sft_assert_same(first, c.output);
            else
                snprintf(first, sizeof first, "%s", c.output);
        }
    }
}

/* A GPT-2, whose configuration has dropout, with a tokenizer. */
static const char *model_with_dropout(void) {
    static const char *const files[][2] = {{"families/gpt2", "config.json"},
                                           {"families/gpt2", "model.safetensors"},
                                           {"seq2seq/model", "tokenizer.json"},
                                           {"seq2seq/model", "tokenizer_config.json"}};
    static char dir[1024];
    snprintf(dir, sizeof dir, "%s/gpt2", test_temp_dir());
    assert_ok(gr_make_dirs(dir, &err));
    for (size_t i = 0; i < GR_COUNT(files); i++) {
        size_t len;
        char *bytes = sft_read(test_golden(test_path("%s/%s", files[i][0], files[i][1])), &len);
        assert_ok(gr_write_file(NULL, test_path("%s/%s", dir, files[i][1]), bytes, len, &err));
        gr_free(NULL, bytes);
    }
    return dir;
}

static void options_that_mean_nothing_are_refused(void **state) {
    (void)state;
    graft_train_result result;
    graft_error wrong;
    static const int top[] = {1};
    for (int i = 0; i < 6; i++) {
        static const char *const says[] = {
            "packing", "cache_trunk", "completion_only_loss", "assistant_only_loss", "are not split", "has dropout"};
        sft_case c;
        init(&c, "refused");
        if (i == 0) c.o.packing = 1;
        if (i == 1) c.o.cache_trunk = 1 << 20;
        if (i == 2) c.o.completion_only_loss = GRAFT_NO;
        if (i == 3) c.o.assistant_only_loss = 1;
        if (i == 4) {
            sft_case_init(&c, "pairs.jsonl", "refused");
            c.o.max_target_length = 4;
        }
        if (i == 5) {
            c.o.model = model_with_dropout();
            c.o.max_target_length = -1;
            c.o.cache_trunk = 1 << 20;
            c.o.lora.layers_to_transform = top;
            c.o.lora.n_layers_to_transform = 1;
        }
        graft_status st = sft_run(&c, 1, &result, &wrong);
        if (st == GRAFT_OK || !strstr(wrong.text, says[i]))
            fail_msg("expected '%s', found '%s'", says[i], st ? wrong.text : "no error");
    }
}

/* The loss of graft_eval is that of the trainer's evaluation. */
static void evaluation_gives_the_trainers_loss(void **state) {
    (void)state;
    gr_arena arena;
    const gr_json_value *root;
    size_t len;
    char *text = sft_read(test_golden("seq2seq/runs.json"), &len);
    gr_arena_init(&arena, NULL, 0);
    assert_ok(gr_json_parse(&arena, "runs.json", text, len, &root, &err));
    const gr_json_value *last = NULL;
    for (const gr_json_value *v = gr_json_get(gr_json_get(root, "full"), "log")->child; v; v = v->next)
        if (gr_json_get(v, "eval_loss")) last = v;
    assert_non_null(last);
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_path("%s/full", test_temp_dir()), GRAFT_DTYPE_F32);
    graft_tokenizer *tok;
    graft_eval_result r;
    const char *path = test_golden("seq2seq/pairs.jsonl");
    graft_eval_options o = graft_eval_options_default();
    assert_ok(graft_tokenizer_load(ctx, test_golden("seq2seq/model"), &tok, &err));
    o.what = GRAFT_EVAL_LOSS;
    o.data = (graft_data_options){.paths = &path, .n_paths = 1, .max_length = SOURCE, .max_target_length = TARGET};
    assert_ok(graft_eval(m, tok, &o, &r, &err));
    assert_true(fabs(r.loss - number(last, "eval_loss", 0)) < 2e-4 * r.loss);
    assert_int_equal(r.n_records, 32);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
    gr_arena_free(&arena);
    gr_free(NULL, text);
}

/* Two jobs side by side get what each gets alone. */
static void jobs_are_as_alone(void **state) {
    (void)state;
    static const char *const methods[] = {"lora", "ia3", "prompt-tuning", "prefix-tuning"}, *const names[] = {"a", "b",
                                                                                                              "c", "d"};
    enum { JOBS = 4 };
    const graft_context_options co = {.n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    sft_case alone[JOBS], together[JOBS];
    graft_sft_job jobs[JOBS];
    graft_context *ctx;
    assert_ok(graft_context_new(&co, &ctx, &err));
    for (int i = 0; i < JOBS; i++) {
        for (int side = 0; side < 2; side++) {
            sft_case *c = side ? &together[i] : &alone[i];
            init(c, test_path("%s_job%d", side ? "together" : "alone", i));
            c->o.method = methods[i];
            c->o.seed = (uint64_t)(3 + i);
            c->o.learning_rate = 1e-2 * (i + 1);
            c->o.max_steps = 3 + i;
            c->o.per_device_train_batch_size = 2 + i;
            if (i == 0) c->o.lora.lora_dropout = 0.2;
            if (i > 1) c->o.methods.num_virtual_tokens = 1 + i;
        }
        jobs[i] = (graft_sft_job){.name = names[i], .options = together[i].o};
        jobs[i].options.data = (graft_texts){together[i].data, 1};
        jobs[i].options.output_dir = together[i].output;
    }
    assert_ok(graft_sft_jobs(ctx, jobs, JOBS, &err));
    graft_context_free(ctx);
    for (int i = 0; i < JOBS; i++) {
        graft_train_result r;
        assert_ok(sft_run(&alone[i], 1, &r, &err));
        sft_assert_same(alone[i].output, together[i].output);
        assert_int_equal(jobs[i].result.num_tokens, r.num_tokens);
    }
}

/* Micro-batches of a plan count sources and targets, and its step arena is that of the largest. */
static void plans_count_both_sides(void **state) {
    (void)state;
    const graft_context_options co = {.n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    graft_train_plan small, large;
    sft_case c;
    graft_context *ctx;
    assert_ok(graft_context_new(&co, &ctx, &err));
    init(&c, "plan");
    c.o.method = "lora";
    c.o.data = (graft_texts){c.data, 1};
    c.o.output_dir = c.output;
    c.o.per_device_train_batch_size = 2;
    assert_ok(graft_sft_plan(ctx, &c.o, &small, &err));
    c.o.per_device_train_batch_size = 8;
    assert_ok(graft_sft_plan(ctx, &c.o, &large, &err));
    assert_int_equal(small.longest_record, SOURCE + TARGET);
    assert_int_equal(small.micro_tokens, 2 * (SOURCE + TARGET));
    assert_int_equal(large.micro_tokens, 8 * (SOURCE + TARGET));
    assert_true(small.step > 0 && large.step > small.step + small.step / 4);
    graft_context_free(ctx);
}

static graft_status train_once(const graft_allocator *a, void *arg) {
    static int run;
    const graft_context_options co = {.allocator = *a, .n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    sft_case c;
    graft_context *ctx = NULL;
    graft_train_result result;
    char name[32];
    snprintf(name, sizeof name, "memory%d", run++);
    init(&c, name);
    c.o.method = arg;
    c.o.max_steps = 1;
    c.o.per_device_train_batch_size = 2;
    c.o.data = (graft_texts){c.data, 1};
    c.o.output_dir = c.output;
    graft_status st = graft_context_new(&co, &ctx, NULL);
    if (st == GRAFT_OK) st = graft_sft(ctx, &c.o, NULL, &result, NULL);
    graft_context_free(ctx);
    return st;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    static char methods[2][16] = {"full", "prefix-tuning"};
    for (int i = 0; i < 2; i++) test_allocation_sweep(train_once, methods[i], 0, 31);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_become_source_and_target),
        cmocka_unit_test(batches_begin_targets_anew),
        cmocka_unit_test(faults_of_records_are_named),
        cmocka_unit_test(runs_equal_the_reference),
        cmocka_unit_test(evaluation_gives_the_trainers_loss),
        cmocka_unit_test(no_cut_of_a_run_changes_a_bit),
        cmocka_unit_test(jobs_are_as_alone),
        cmocka_unit_test(plans_count_both_sides),
        cmocka_unit_test(options_that_mean_nothing_are_refused),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
