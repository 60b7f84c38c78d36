/* Runs of fine-tuning: the same bits however they are cut, interrupted or threaded. */
#include "support/sft_run.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "train/output.h"
#include "train/plot.h"
#include "train/trainer.h"

/* Everything random and everything periodic at once. */
static void rich_case(sft_case *c, const char *output) {
    sft_case_init(c, "pairs.jsonl", output);
    c->o.no_shuffle = 0;
    c->o.lora.lora_dropout = 0.2;
    c->o.learning_rate = 5e-3;
    c->o.max_steps = 12;
    c->o.per_device_train_batch_size = 8;
    c->o.logging_steps = 2;
    c->o.eval_strategy = GRAFT_STRATEGY_STEPS;
    c->o.eval_steps = 3;
}

static void threads_change_no_bit(void **state) {
    (void)state;
    sft_case a, b;
    rich_case(&a, "threads1");
    rich_case(&b, "threads2");
    a.o.max_steps = b.o.max_steps = 4;
    assert_ok(sft_run(&a, 1, NULL, &err));
    assert_ok(sft_run(&b, 2, NULL, &err));
    sft_assert_same(a.output, b.output);
}

static const char *const methods[] = {"lora", "full", "ia3", "prompt-tuning", "prefix-tuning", "p-tuning", "llama-adapter", "ln-tuning",
                                      "adalora", "oft", "multitask-prompt-tuning"};

static void set_method(sft_case *c, const char *method) {
    c->o.method = method;
    if (strcmp(method, "lora") != 0) c->o.lora = graft_lora_options_default();
    if (strcmp(method, "adalora") != 0) return;
    c->o.methods.init_r = 4;
    c->o.methods.target_r = 2;
    c->o.methods.tinit = 1;
    c->o.methods.tfinal = 4;
}

static void micro_batches_change_no_bit(void **state) {
    (void)state;
    for (int m = 0; m < (int)GR_COUNT(methods); m++) {
        sft_case whole, cut, again;
        rich_case(&whole, test_path("whole%d", m));
        rich_case(&cut, test_path("cut%d", m));
        rich_case(&again, test_path("again%d", m));
        /* 12 divides the 36 records, so that the logged epochs agree too. */
        whole.o.per_device_train_batch_size = 12;
        cut.o.per_device_train_batch_size = 4;
        cut.o.gradient_accumulation_steps = 3;
        again.o.per_device_train_batch_size = 12;
        whole.o.gradient_checkpointing = GRAFT_NO;
        again.o.gradient_checkpointing = GRAFT_YES;
        set_method(&whole, methods[m]);
        set_method(&cut, methods[m]);
        set_method(&again, methods[m]);
        assert_ok(sft_run(&whole, 1, NULL, &err));
        assert_ok(sft_run(&cut, 1, NULL, &err));
        assert_ok(sft_run(&again, 1, NULL, &err));
        sft_assert_same(whole.output, cut.output);
        sft_assert_same(whole.output, again.output);
    }
}

/* Records of one sequence row never see each other: a packed batch of all records is the unpacked one. */
static void packing_keeps_records_apart(void **state) {
    (void)state;
    sft_case a, b;
    sft_case_init(&a, "texts.jsonl", "plain");
    sft_case_init(&b, "texts.jsonl", "packed");
    a.o.max_steps = b.o.max_steps = 3;
    a.o.per_device_train_batch_size = 30;
    b.o.per_device_train_batch_size = 30;
    b.o.packing = 1;
    graft_train_result ra, rb;
    assert_ok(sft_run(&a, 1, &ra, &err));
    assert_ok(sft_run(&b, 1, &rb, &err));
    assert_true(fabs(ra.train_loss - rb.train_loss) < 1e-6);
    assert_int_equal(ra.num_tokens, rb.num_tokens);
}

/* --- Interruption --- */

typedef struct stopper {
    graft_context *ctx;
    int64_t at;
    graft_train_phase phase;
} stopper;

static void stop_there(void *user, const graft_train_progress *p) {
    stopper *s = user;
    if (p->phase == s->phase && p->step >= s->at) graft_context_cancel(s->ctx);
}

static graft_status run_until(const sft_case *c, graft_train_phase phase, int64_t at, graft_error *err) {
    graft_context_options co = {.n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    graft_sft_options o = c->o;
    stopper s = {.at = at, .phase = phase};
    o.data = (graft_texts){c->data, 1};
    o.eval_data = (graft_texts){c->eval, 1};
    o.output_dir = c->output;
    GR_TRY(graft_context_new(&co, &s.ctx, err));
    const graft_train_callbacks call = {.user = &s, .progress = stop_there};
    graft_status st = graft_sft(s.ctx, &o, &call, NULL, err);
    graft_context_free(s.ctx);
    return st;
}

static void cancelled_runs_go_on_with_the_same_bits(void **state) {
    (void)state;
    for (int m = 0; m < (int)GR_COUNT(methods); m++) {
        sft_case whole, cut;
        graft_error wrong;
        char name[32];
        snprintf(name, sizeof name, "undisturbed%d", m);
        rich_case(&whole, name);
        snprintf(name, sizeof name, "disturbed%d", m);
        rich_case(&cut, name);
        set_method(&whole, methods[m]);
        set_method(&cut, methods[m]);
        cut.o.resume_from_checkpoint = "auto";
        assert_ok(sft_run(&whole, 1, NULL, &err));
        assert_int_equal(run_until(&cut, GRAFT_TRAIN_STEPPING, 5, &wrong), GRAFT_ERR_CANCELLED);
        if (!strstr(wrong.text, "checkpoint-5")) fail_msg("%s", wrong.text);
        assert_int_equal(run_until(&cut, GRAFT_TRAIN_EVALUATING, 6, &wrong), GRAFT_ERR_CANCELLED);
        assert_non_null(strstr(wrong.text, "checkpoint-6"));
        assert_int_equal(run_until(&cut, GRAFT_TRAIN_STEPPING, 11, &wrong), GRAFT_ERR_CANCELLED);
        cut.o.resume_from_checkpoint = "latest";
        assert_ok(sft_run(&cut, 1, NULL, &err));
        sft_assert_same(whole.output, cut.output);
        if (strcmp(methods[m], "adalora") == 0) { /* which left ranks out at steps of both runs */
            size_t n;
            char *x = sft_read(test_path("%s/adapter_config.json", whole.output), &n), *y = sft_read(test_path("%s/adapter_config.json", cut.output), &n);
            assert_string_equal(x, y);
            assert_non_null(strstr(x, "      false"));
            gr_free(NULL, x);
            gr_free(NULL, y);
        }
    }
}

/* Records of task 1 train nothing of task 0; each says its task, or is named. */
static void records_name_their_tasks(void **state) {
    (void)state;
    static const char *const ways[] = {"", ", \"task_ids\": 1", ", \"task_ids\": 2", ", \"task_ids\": \"one\""};
    sft_case c;
    for (size_t w = 0; w < GR_COUNT(ways); w++) {
        char records[1024];
        graft_error wrong = {0};
        sft_case_init(&c, "pairs.jsonl", test_path("tasks%zu", w));
        snprintf(c.path, sizeof c.path, "%s/tasks.jsonl", test_temp_dir());
        int n = snprintf(records, sizeof records, "{\"prompt\": \"one \", \"completion\": \"two\"%s}\n{\"prompt\": \"a \", \"completion\": \"b\"%s}\n",
                         ways[1], ways[w]);
        assert_ok(gr_write_file(NULL, c.path, records, (size_t)n, &err));
        c.o.method = "multitask-prompt-tuning";
        c.o.methods.num_tasks = 2;
        c.o.methods.num_virtual_tokens = 3;
        c.o.learning_rate = 0.1;
        c.o.max_steps = 3;
        graft_status st = sft_run(&c, 1, NULL, &wrong);
        if (w == 1) {
            gr_safetensors *f;
            assert_ok(st);
            assert_ok(gr_safetensors_open(NULL, test_path("%s/adapter_model.safetensors", c.output), &f, &err));
            const gr_named_tensor *t = gr_tensor_list_find(gr_safetensors_tensors(f), "prefix_task_cols");
            double most[2] = {0, 0}; /* they begin within 0.02 or so */
            for (size_t i = 0; i < 6; i++) {
                float x;
                memcpy(&x, (const char *)t->view.data + 4 * i, 4);
                most[i / 3] = fmax(most[i / 3], fabs((double)x));
            }
            assert_true(most[0] < 0.08 && most[1] > 0.12);
            gr_safetensors_close(f);
        } else if (st == GRAFT_OK || !strstr(wrong.text, "tasks.jsonl:2") || !strstr(wrong.text, "tasks 0 to 1"))
            fail_msg("way %zu: %s: %s", w, graft_status_text(st), wrong.text);
    }
}

static void resuming_needs_the_same_options(void **state) {
    (void)state;
    sft_case c;
    graft_error wrong;
    rich_case(&c, "options");
    assert_int_equal(run_until(&c, GRAFT_TRAIN_STEPPING, 2, &wrong), GRAFT_ERR_CANCELLED);
    assert_int_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(wrong.text, "--resume-from-checkpoint latest"));
    c.o.resume_from_checkpoint = "latest";
    c.o.learning_rate = 1e-3;
    assert_int_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_ERR_MISMATCH);
    assert_non_null(strstr(wrong.text, "learning_rate: the run was started with 0.005, found 0.001"));
    c.o.learning_rate = 5e-3;
    c.data[0] = test_golden("train/texts.jsonl");
    assert_int_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_ERR_MISMATCH);
    c.data[0] = c.eval[0];
    c.o.max_steps = 13;
    assert_int_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_ERR_MISMATCH);
    c.o.resume_from_checkpoint = test_path("%s/none", c.output);
    assert_int_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_ERR_NOT_FOUND);
    c.o.resume_from_checkpoint = NULL;
    c.o.overwrite_output_dir = 1;
    assert_ok(sft_run(&c, 1, NULL, &err));
    assert_false(gr_path_exists(test_path("%s/checkpoint-2", c.output)));
    sft_case_init(&c, "pairs.jsonl", "fresh");
    c.o.resume_from_checkpoint = "latest";
    assert_int_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_ERR_NOT_FOUND);
}

/* --- Checkpoints, best, early stop, event files --- */

static void expect_checkpoints(const char *dir, const char *expected) {
    int64_t *steps;
    size_t n;
    char got[128] = "";
    assert_ok(gr_list_checkpoints(NULL, dir, &steps, &n, &err));
    for (size_t i = 0; i < n; i++) snprintf(got + strlen(got), sizeof got - strlen(got), "%lld ", (long long)steps[i]);
    gr_free(NULL, steps);
    assert_string_equal(got, expected);
}

static void best_checkpoint_is_kept_and_loaded(void **state) {
    (void)state;
    sft_case c;
    graft_train_result r;
    rich_case(&c, "best");
    c.o.learning_rate = 0.5; /* grows worse soon */
    c.o.lr_scheduler_type = "constant";
    c.o.max_steps = 40;
    c.o.eval_steps = 1;
    c.o.save_strategy = GRAFT_STRATEGY_STEPS;
    c.o.save_steps = 1;
    c.o.save_total_limit = 1;
    c.o.load_best_model_at_end = 1;
    c.o.early_stopping_patience = 3;
    c.o.report_to = "tensorboard";
    assert_ok(sft_run(&c, 1, &r, &err));
    assert_true(r.early_stopped && r.global_step < 40 && r.best_step == r.global_step - 3);
    expect_checkpoints(c.output, test_path("%lld %lld ", (long long)r.best_step, (long long)r.global_step));
    size_t na, nb;
    char *a = sft_read(test_path("%s/adapter_model.safetensors", c.output), &na);
    char *b = sft_read(test_path("%s/checkpoint-%lld/adapter_model.safetensors", c.output, (long long)r.best_step), &nb);
    assert_int_equal(na, nb);
    assert_memory_equal(a, b, na);
    gr_free(NULL, a);
    gr_free(NULL, b);
    gr_curves curves;
    gr_curves_init(&curves, NULL);
    assert_ok(gr_curves_read(&curves, test_path("%s/runs", c.output), &err));
    assert_int_equal(curves.curve[GR_CURVE_EVAL_LOSS].n, r.global_step);
    gr_curves_free(&curves);
    char *card = sft_read(test_path("%s/README.md", c.output), NULL);
    assert_non_null(strstr(card, "library_name: peft"));
    assert_non_null(strstr(card, "(these weights)"));
    gr_free(NULL, card);
}

static void epochs_log_evaluate_and_save(void **state) {
    (void)state;
    sft_case c;
    graft_train_result r;
    rich_case(&c, "epochs");
    c.o.max_steps = -1;
    c.o.num_train_epochs = 2.5;
    c.o.logging_strategy = c.o.eval_strategy = c.o.save_strategy = GRAFT_STRATEGY_EPOCH;
    assert_ok(sft_run(&c, 1, &r, &err));
    assert_int_equal(r.total_steps, 13); /* 36 records in 5 steps an epoch */
    expect_checkpoints(c.output, "5 10 13 ");
    gr_curves curves;
    gr_curves_init(&curves, NULL);
    assert_ok(gr_curves_read(&curves, c.output, &err));
    assert_int_equal(curves.curve[GR_CURVE_LOSS].n, 3);
    assert_int_equal(curves.curve[GR_CURVE_EVAL_LOSS].n, 3);
    gr_curves_free(&curves);
}

/* --- What goes wrong --- */

static void a_full_disk_keeps_the_last_checkpoint(void **state) {
    (void)state;
    sft_case c;
    graft_error wrong;
    struct rlimit before, small;
    rich_case(&c, "full_disk");
    assert_int_equal(run_until(&c, GRAFT_TRAIN_STEPPING, 2, &wrong), GRAFT_ERR_CANCELLED);
    c.o.resume_from_checkpoint = "latest";
    c.o.save_strategy = GRAFT_STRATEGY_STEPS;
    c.o.save_steps = 1;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    for (small.rlim_cur = 2500; small.rlim_cur < 30000; small.rlim_cur += 5000) {
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        graft_status st = sft_run(&c, 1, NULL, &wrong);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        if (st == GRAFT_OK) break;
        assert_int_equal(st, GRAFT_ERR_IO);
        assert_non_null(strstr(wrong.text, c.output));
        assert_false(gr_path_exists(test_path("%s/checkpoint-3.tmp", c.output)));
        expect_checkpoints(c.output, "2 ");
    }
    assert_ok(sft_run(&c, 1, NULL, &err));
}

static graft_status one_step(const graft_allocator *a, void *arg) {
    graft_context_options co = {.allocator = *a, .n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    sft_case c = *(sft_case *)arg;
    c.o.data = (graft_texts){((sft_case *)arg)->data, 1};
    if (c.o.eval_strategy != GRAFT_STRATEGY_NO) c.o.eval_data = (graft_texts){((sft_case *)arg)->eval, 1};
    c.o.output_dir = ((sft_case *)arg)->output;
    graft_context *ctx;
    GR_TRY(graft_context_new(&co, &ctx, NULL));
    graft_status st = graft_sft(ctx, &c.o, NULL, NULL, NULL);
    graft_context_free(ctx);
    return st;
}

static void failing_allocations_leak_nothing(void **state) {
    (void)state;
    sft_case c;
    sft_case_init(&c, "texts.jsonl", "sweep");
    c.o.max_steps = 1;
    c.o.per_device_train_batch_size = 2;
    c.o.save_strategy = GRAFT_STRATEGY_STEPS;
    c.o.eval_strategy = GRAFT_STRATEGY_STEPS;
    c.o.report_to = "tensorboard";
    c.o.overwrite_output_dir = 1;
    c.o.packing = 1;
    test_allocation_sweep(one_step, &c, 0, 53);
}

/* What the lower layers give is kept whole, in part, or in a file: no bit tells. */
static void kept_lower_layers_change_no_bit(void **state) {
    (void)state;
    static const struct { uint64_t bytes; bool file, cut; } how[] = {
        {0, false, false}, {1 << 20, false, false}, {9000, false, false}, {1 << 20, true, false}, {9000, false, true}};
    static const int top[] = {1};
    char dir[1024], first[1024];
    snprintf(dir, sizeof dir, "%s", test_temp_dir());
    for (size_t i = 0; i < GR_COUNT(how); i++) {
        sft_case c;
        graft_train_result r;
        char name[32];
        snprintf(name, sizeof name, "trunk%zu", i);
        rich_case(&c, name);
        c.o.lora.layers_to_transform = top;
        c.o.lora.n_layers_to_transform = 1;
        c.o.per_device_train_batch_size = how[i].cut ? 4 : 12;
        c.o.gradient_accumulation_steps = how[i].cut ? 3 : 1;
        c.o.cache_trunk = how[i].bytes;
        c.o.cache_trunk_dir = how[i].file ? dir : NULL;
        assert_ok(sft_run(&c, 1 + (int)i % 2, &r, &err));
        if (i)
            sft_assert_same(first, c.output);
        else
            snprintf(first, sizeof first, "%s", c.output);
    }
    sft_case c;
    graft_error wrong;
    rich_case(&c, "trunk_none");
    c.o.cache_trunk = 1 << 20;
    assert_int_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(wrong.text, "cache_trunk: expected layers below the lowest trained one"));
    c.o.lora.layers_to_transform = top;
    c.o.lora.n_layers_to_transform = 1;
    c.o.cache_trunk_dir = "/no/such/folder";
    assert_int_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_ERR_IO);
    c.o.cache_trunk = 0;
    assert_int_equal(sft_run(&c, 1, NULL, &wrong), GRAFT_ERR_ARGUMENT);
}

/* Sequences of any length: what is found is what was kept, and memory stays near the budget. */
static void kept_rows_take_the_budget_and_little_more(void **state) {
    (void)state;
    enum { ROW = 4096, BUDGET = 100 << 20 };
    static const size_t tokens[] = {2200, 1, 300, 255, 256, 257, 2100};
    for (int file = 0; file < 2; file++) {
        gr_trunk *t;
        size_t resident = gr_resident_bytes();
        assert_ok(gr_trunk_new(NULL, ROW, BUDGET, file ? test_temp_dir() : NULL, &t, &err));
        char *rows = malloc(2200 * ROW);
        int32_t ids[2200];
        for (int i = 0; i < 60; i++) {
            size_t n = i < 40 ? tokens[0] : tokens[i % 7];
            memset(rows, i + 1, n * ROW);
            for (size_t k = 0; k < n; k++) ids[k] = i;
            assert_ok(gr_trunk_add(t, ids, n, rows, n, &err));
        }
        int kept = 0;
        for (int i = 0; i < 60; i++) {
            size_t n = i < 40 ? tokens[0] : tokens[i % 7];
            for (size_t k = 0; k < n; k++) ids[k] = i;
            const char *found = gr_trunk_find(t, ids, n);
            if (!found) continue;
            kept++;
            for (size_t k = 0; k < n * ROW; k += 97) assert_int_equal(found[k], i + 1);
        }
        assert_true(kept >= 12);
        assert_true(gr_trunk_get_stats(t).used <= BUDGET);
        if (!file) assert_true(gr_resident_bytes() < resident + BUDGET + (32 << 20));
        gr_trunk_free(t);
        free(rows);
    }
}

static void failing_allocations_with_kept_layers_leak_nothing(void **state) {
    (void)state;
    static const int top[] = {1};
    sft_case c;
    sft_case_init(&c, "texts.jsonl", "sweep_trunk");
    c.o.max_steps = 1;
    c.o.per_device_train_batch_size = 2;
    c.o.overwrite_output_dir = 1;
    c.o.lora.layers_to_transform = top;
    c.o.lora.n_layers_to_transform = 1;
    c.o.cache_trunk = 1 << 20;
    test_allocation_sweep(one_step, &c, 0, 97);
}

static void plan_counts_what_a_run_sees(void **state) {
    (void)state;
    sft_case c;
    graft_context *ctx;
    graft_train_plan p;
    graft_train_result r;
    rich_case(&c, "plan");
    assert_ok(sft_run(&c, 1, &r, &err));
    assert_ok(graft_context_new(NULL, &ctx, &err));
    c.o.data = (graft_texts){c.data, 1};
    c.o.eval_data = (graft_texts){c.eval, 1};
    assert_ok(graft_sft_plan(ctx, &c.o, &p, &err));
    assert_int_equal(p.n_trainable, r.n_trainable);
    assert_int_equal(p.n_parameters, r.n_parameters);
    assert_int_equal(p.n_records, r.n_records);
    assert_int_equal(p.total_steps, 12);
    assert_int_equal(p.steps_per_epoch, 5);
    assert_true(p.seconds > 0 && p.tokens_per_second > 0 && p.peak > p.step);
    graft_error wrong;
    c.o.memory = 1 << 20;
    assert_int_equal(graft_sft_plan(ctx, &c.o, &p, &wrong), GRAFT_ERR_LIMIT);
    assert_non_null(strstr(wrong.text, "memory: expected at most 1.0 MiB"));
    graft_context_free(ctx);
}

/* Beside weights that are held in few bits a module that is trained whole begins as the file has it. */
static void whole_modules_begin_as_in_the_file(void **state) {
    (void)state;
    static const char *const low[] = {"v_proj"}, *const whole[] = {"o_proj"};
    static const char name[] = "model.layers.1.self_attn.o_proj.weight";
    for (int eight = 0; eight < 2; eight++) {
        sft_case c;
        graft_train_result r;
        gr_safetensors *file, *made;
        sft_case_init(&c, "pairs.jsonl", test_path("whole%d", eight));
        c.o.load_in_8bit = eight;
        c.o.load_in_4bit = !eight;
        c.o.lora.target_modules = (graft_texts){low, 1};
        c.o.lora.modules_to_save = (graft_texts){whole, 1};
        c.o.learning_rate = 0;
        c.o.max_steps = 1;
        assert_ok(sft_run(&c, 1, &r, &err));
        assert_ok(gr_safetensors_open(NULL, test_path("%s/model.safetensors", c.o.model), &file, &err));
        assert_ok(gr_safetensors_open(NULL, test_path("%s/adapter_model.safetensors", c.output), &made, &err));
        const gr_named_tensor *from = gr_tensor_list_find(gr_safetensors_tensors(file), name);
        const gr_named_tensor *to = gr_tensor_list_find(gr_safetensors_tensors(made), test_path("base_model.model.%s", name));
        assert_true(from && to && from->view.bytes == to->view.bytes);
        assert_memory_equal(from->view.data, to->view.data, from->view.bytes);
        gr_safetensors_close(file);
        gr_safetensors_close(made);
        size_t len;
        char *card = sft_read(test_path("%s/README.md", c.output), &len);
        assert_non_null(strstr(card, eight ? "| weights of products | INT8 |" : "| weights of products | NF4 |"));
        gr_free(NULL, card);
    }
}

/* With memory, a resumed run holds weights as its checkpoint says, whoever chose it. */
static void a_resumed_run_keeps_the_format(void **state) {
    (void)state;
    sft_case whole, c;
    graft_train_result r;
    graft_error why;
    sft_case_init(&whole, "pairs.jsonl", "format");
    whole.o.load_in_4bit = 1;
    whole.o.max_steps = 4;
    c = whole;
    assert_ok(sft_run(&whole, 1, &r, &err));
    snprintf(c.output, sizeof c.output, "%s", test_path("%s/format_resumed", test_temp_dir()));
    c.data[0] = whole.path;
    c.o.save_strategy = GRAFT_STRATEGY_STEPS;
    c.o.save_steps = 2;
    assert_ok(sft_run(&c, 1, &r, &err));
    c.o.load_in_4bit = 0;
    c.o.resume_from_checkpoint = test_path("%s/checkpoint-2", c.output);
    assert_int_equal(sft_run(&c, 1, &r, &why), GRAFT_ERR_MISMATCH);
    assert_non_null(strstr(why.text, "quantization: the run was started with \"nf4\", found null"));
    c.o.memory = (uint64_t)8 << 30;
    assert_ok(sft_run(&c, 1, &r, &err));
    sft_assert_same(whole.output, c.output);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(micro_batches_change_no_bit),
        cmocka_unit_test(packing_keeps_records_apart),
        cmocka_unit_test(cancelled_runs_go_on_with_the_same_bits),
        cmocka_unit_test(records_name_their_tasks),
        cmocka_unit_test(resuming_needs_the_same_options),
        cmocka_unit_test(best_checkpoint_is_kept_and_loaded),
        cmocka_unit_test(epochs_log_evaluate_and_save),
        cmocka_unit_test(a_full_disk_keeps_the_last_checkpoint),
        cmocka_unit_test(failing_allocations_leak_nothing),
        cmocka_unit_test(kept_lower_layers_change_no_bit),
        cmocka_unit_test(kept_rows_take_the_budget_and_little_more),
        cmocka_unit_test(failing_allocations_with_kept_layers_leak_nothing),
        cmocka_unit_test(plan_counts_what_a_run_sees),
        cmocka_unit_test(whole_modules_begin_as_in_the_file),
        cmocka_unit_test(a_resumed_run_keeps_the_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
