/* Plans of models of which only config.json is there, and of weights that find no room. */
#include "support/sft_run.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "kernel/mapped.h"
#include "model/shape.h"

/* Sanitizers take memory of their own, beside which a tiny model's bits are lost: what memory chooses is not tested with them. */
static void needs_exact_memory(void) {
    if (TEST_SANITIZED) skip();
}

static void copy(const char *from, const char *to, const char *name) {
    size_t n;
    char *bytes = sft_read(test_path("%s/%s", from, name), &n);
    assert_ok(gr_write_file(NULL, test_path("%s/%s", to, name), bytes, n, &err));
    gr_free(NULL, bytes);
}

/* A folder with the tiny model's configuration alone, or with its tokenizer too. */
static const char *make_shape(const char *name, bool tokenizer) {
    char *dir = strdup(test_path("%s/%s", test_temp_dir(), name)), *model = strdup(test_golden("train/model"));
    assert_ok(gr_make_dirs(dir, &err));
    copy(model, dir, "config.json");
    if (tokenizer) copy(model, dir, "tokenizer.json");
    if (tokenizer) copy(model, dir, "tokenizer_config.json");
    free(model);
    return dir;
}

static graft_status plan_in(const graft_allocator *a, const graft_sft_options *o, graft_train_plan *out, graft_error *why) {
    graft_context_options co = {.n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    if (a) co.allocator = *a;
    graft_context *ctx;
    GR_TRY(graft_context_new(&co, &ctx, NULL));
    graft_status st = graft_sft_plan(ctx, o, out, why);
    graft_context_free(ctx);
    return st;
}

static graft_status plan(const graft_sft_options *o, graft_train_plan *out, graft_error *why) { return plan_in(NULL, o, out, why); }

static void a_shape_is_planned_as_the_model(void **state) {
    (void)state;
    static const char *const optims[] = {"adamw_torch", "adamw_8bit", "paged_adamw_8bit"};
    const char *dir = make_shape("shape", true);
    for (int i = 0; i < 12; i++) {
        sft_case c;
        graft_train_plan real, shape;
        sft_case_init(&c, "pairs.jsonl", "unused");
        c.o.data = (graft_texts){c.data, 1};
        c.o.output_dir = NULL;
        c.o.method = i % 4 == 3 ? "full" : "lora";
        c.o.load_in_4bit = i % 4 == 1;
        c.o.bnb_4bit_use_double_quant = i % 4 == 1 && i > 4;
        c.o.load_in_8bit = i % 4 == 2;
        c.o.optim = optims[i / 4];
        c.o.gradient_checkpointing = i % 2 ? GRAFT_YES : GRAFT_AUTO;
        assert_ok(plan(&c.o, &real, &err));
        c.o.model = dir;
        assert_ok(plan(&c.o, &shape, &err));
        assert_int_equal(shape.model_mapped, real.model_mapped);
        assert_int_equal(shape.model_packed, real.model_packed);
        assert_int_equal(shape.parameters, real.parameters);
        assert_int_equal(shape.gradients, real.gradients);
        assert_int_equal(shape.optimizer, real.optimizer);
        assert_int_equal(shape.optimizer_paged, real.optimizer_paged);
        assert_int_equal(shape.step, real.step);
        assert_int_equal(shape.n_parameters, real.n_parameters);
        assert_int_equal(shape.n_trainable, real.n_trainable);
        assert_int_equal(shape.total_steps, real.total_steps);
    }
    free((char *)(uintptr_t)dir);
}

static void without_records_they_are_as_long_as_may_be(void **state) {
    (void)state;
    sft_case c;
    graft_train_plan p;
    graft_error why;
    const char *dir = make_shape("bare", false);
    sft_case_init(&c, "pairs.jsonl", "unused");
    c.o.model = dir;
    c.o.data = (graft_texts){0};
    c.o.max_length = 100;
    c.o.per_device_train_batch_size = 3;
    c.o.gradient_accumulation_steps = 2;
    assert_ok(plan(&c.o, &p, &err));
    assert_int_equal(p.n_records, 6);
    assert_int_equal(p.n_tokens, 600);
    c.o.max_length = 10000;
    assert_ok(plan(&c.o, &p, &err));
    assert_int_equal(p.longest_record, 256); /* the model's positions */
    c.o.memory = 1000;
    assert_int_equal(plan(&c.o, &p, &why), GRAFT_ERR_LIMIT);
    c.o.memory = 0;
    c.o.per_device_train_batch_size = c.o.gradient_accumulation_steps = 1000000;
    assert_int_equal(plan(&c.o, &p, &why), GRAFT_ERR_LIMIT);
    c.o.data = (graft_texts){c.data, 1};
    assert_int_equal(plan(&c.o, &p, &why), GRAFT_ERR_MISMATCH);
    assert_non_null(strstr(why.text, "no tokenizer to read it with"));
    assert_int_equal(sft_run(&c, 1, NULL, &why), GRAFT_ERR_NOT_FOUND); /* only plans do without weights */
    free((char *)(uintptr_t)dir);
}

/* A second product of a weight, as DoRA with dropout and OFT have it, leaves memory with the model's own. */
static void matrices_of_adapters_follow(gr_model *m, size_t least) {
    const gr_linear *l = NULL;
    const gr_weight *weight;
    gr_matrix *w;
    for (size_t i = 0; !l; i++) l = gr_model_site(m, i)->role == GR_ROLE_DOWN ? gr_model_linear(m, gr_model_site(m, i)) : NULL;
    assert_ok(gr_model_get_weight(m, l->site[0]->weight_tensor, &weight, &err));
    const gr_matrix_spec spec = {.name = "w", .n_parts = 1, .dt = gr_model_dtype(m), .part = {{.view = weight->view}}};
    assert_ok(gr_matrix_new(gr_model_device(m), &spec, &w, &err));
    gr_matrix_follow(w, l->matrix);
    gr_matrix_stream(l->matrix, false);
    assert_false(gr_matrix_streams(w));
    assert_ok(gr_model_stream(m, least, true, NULL, NULL, &err));
    assert_true(gr_matrix_streams(w));
    gr_matrix_free(w);
}

static void weights_stay_as_far_as_there_is_room(void **state) {
    (void)state;
    graft_context *ctx;
    gr_model *m;
    graft_error why;
    size_t kept, streamed;
    assert_ok(graft_context_new(NULL, &ctx, &err));
    assert_ok(gr_model_open(ctx, test_golden("train/model"), NULL, &m, &err));
    const size_t all = gr_model_mapped_bytes(m), least = gr_model_least_mapped(m);
    assert_true(least < all);
    assert_ok(gr_model_stream(m, all, false, &kept, &streamed, &err));
    assert_int_equal(kept, all);
    assert_int_equal(streamed, 0);
    size_t before = 0;
    for (size_t budget = least; budget < all; budget += (all - least) / 7) {
        assert_ok(gr_model_stream(m, budget, true, &kept, &streamed, &err));
        assert_true(kept <= budget && kept >= least && kept >= before && streamed > 0);
        before = kept;
    }
    assert_int_equal(gr_model_stream(m, least - 1, true, NULL, NULL, &why), GRAFT_ERR_LIMIT);
    matrices_of_adapters_follow(m, least);
    gr_model_close(m);
    gr_quantize_spec four = {.dtype = GR_NF4};
    assert_ok(gr_model_open(ctx, test_golden("train/model"), &(gr_model_options){.quantize = four}, &m, &err));
    assert_int_equal(gr_model_least_mapped(m), gr_model_mapped_bytes(m)); /* what was made cannot be read again */
    gr_model_close(m);
    graft_context_free(ctx);
}

/* From floats to 8 to 4 bits as memory shrinks, and never back. */
static void memory_chooses_the_format(void **state) {
    (void)state;
    needs_exact_memory();
    sft_case c;
    graft_train_plan whole, p;
    graft_error why;
    int seen[3] = {0}, level = 0;
    sft_case_init(&c, "pairs.jsonl", "format");
    c.o.data = (graft_texts){c.data, 1};
    c.o.gradient_checkpointing = GRAFT_YES;
    c.o.per_device_train_batch_size = 1;
    assert_ok(plan(&c.o, &whole, &err));
    assert_string_equal(whole.quantization, "");
    uint64_t eight = 0;
    for (size_t down = 0; down < whole.model_mapped; down += 4096) {
        c.o.memory = whole.peak - down;
        if (plan(&c.o, &p, &why) != GRAFT_OK) break;
        const int now = !strcmp(p.quantization, "int8") ? 1 : !strcmp(p.quantization, "nf4") ? 2 : 0;
        if (p.model_streamed) break;
        assert_true(now >= level);
        level = now;
        seen[now]++;
        if (now == 1) eight = c.o.memory;
        assert_true(p.peak <= c.o.memory);
    }
    assert_true(seen[1] > 0 && seen[2] > 0);
    c.o.memory = eight;
    c.o.method = "full";
    if (plan(&c.o, &p, &why) == GRAFT_OK) assert_string_equal(p.quantization, "");
    c.o.method = "lora";
    c.o.quantize_to_fit = GRAFT_NO;
    if (plan(&c.o, &p, &why) == GRAFT_OK) assert_string_equal(p.quantization, "");
    c.o.memory = 0;
    assert_int_equal(plan(&c.o, &p, &why), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(why.text, "quantize_to_fit: expected memory too"));
    c.o.quantize_to_fit = GRAFT_YES;
    c.o.memory = eight;
    c.o.load_in_4bit = 1;
    assert_int_equal(plan(&c.o, &p, &why), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(why.text, "found load_in_4bit"));
}

/* What was loaded in floats is gone once the weights are held in fewer bits, the adapter that a run goes on with too. */
static void a_choice_leaves_nothing_behind(void **state) {
    (void)state;
    needs_exact_memory();
    sft_case made, c;
    graft_train_plan whole, p;
    graft_train_result r;
    bool chose = false;
    sft_case_init(&made, "pairs.jsonl", "made");
    made.o.max_steps = 1;
    assert_ok(sft_run(&made, 1, &r, &err));
    sft_case_init(&c, "pairs.jsonl", "unused");
    c.o.data = (graft_texts){c.data, 1};
    c.o.adapter = made.output;
    c.o.gradient_checkpointing = GRAFT_YES;
    c.o.per_device_train_batch_size = 1;
    assert_ok(plan(&c.o, &whole, &err));
    for (size_t down = 0; down < whole.model_mapped && !chose; down += 4096) {
        test_allocator t;
        test_allocator_init(&t);
        c.o.memory = whole.peak - down;
        graft_status st = plan_in(&t.allocator, &c.o, &p, NULL);
        assert_int_equal(t.live, 0);
        chose = st == GRAFT_OK && *p.quantization;
    }
    assert_true(chose);
}

/* With every allocation failing in turn, and nobody who wants to know why. */
static graft_status plan_to_choose(const graft_allocator *a, void *options) {
    graft_train_plan p;
    return plan_in(a, options, &p, NULL);
}

static void a_choice_survives_failing_allocations(void **state) {
    (void)state;
    needs_exact_memory();
    sft_case c;
    graft_train_plan whole, p;
    sft_case_init(&c, "pairs.jsonl", "unused");
    c.o.data = (graft_texts){c.data, 1};
    c.o.gradient_checkpointing = GRAFT_YES;
    c.o.per_device_train_batch_size = 1;
    assert_ok(plan(&c.o, &whole, &err));
    for (size_t down = 0; down < whole.model_mapped; down += 4096) {
        c.o.memory = whole.peak - down;
        if (plan(&c.o, &p, NULL) == GRAFT_OK && *p.quantization) break;
    }
    assert_true(*p.quantization);
    test_allocation_sweep(plan_to_choose, &c.o, 0, 61);
}

/* What a format would save is counted to the byte; a head that is made stays as it is. */
static void what_a_format_saves_is_known(void **state) {
    (void)state;
    static const gr_quantize_spec formats[] = {{.dtype = GR_INT8}, {.dtype = GR_NF4, .nested = true}};
    static const struct {
        const char *path;
        bool classifies;
    } models[] = {{"train/model", false}, {"families/bert", true}, {"families/t5", true}, {"families/gpt2", false}};
    graft_context *ctx;
    assert_ok(graft_context_new(NULL, &ctx, &err));
    for (size_t i = 0; i < GR_COUNT(models) * GR_COUNT(formats); i++) {
        const char *path = test_golden(models[i / 2].path);
        gr_model_options o = {.has_task = models[i / 2].classifies, .task = GR_TASK_SEQ_CLS, .n_labels = models[i / 2].classifies ? 2 : 0};
        gr_model *floats, *few;
        assert_ok(gr_model_open(ctx, path, &o, &floats, &err));
        o.quantize = formats[i % 2];
        assert_ok(gr_model_open(ctx, path, &o, &few, &err));
        const size_t before = gr_model_mapped_bytes(floats), behind = gr_model_mapped_bytes(few) + gr_model_made_bytes(few);
        assert_true(behind < before);
        assert_int_equal(gr_model_saved_by(floats, &formats[i % 2]), before - behind);
        gr_model_close(floats);
        gr_model_close(few);
    }
    graft_context_free(ctx);
}

/* An odd number of inputs is no obstacle to 8 bits. */
static void odd_matrices_go_into_8_bits(void **state) {
    (void)state;
    gr_products p = {0};
    gr_count_product(&p, GR_BF16, 2 * 4096 * 512, 4096, 512);
    const size_t even = gr_products_saved_by(&p, GR_NF4);
    assert_true(even > gr_products_saved_by(&p, GR_INT8));
    gr_count_product(&p, GR_BF16, 2 * 4096 * 511, 4096, 511);
    assert_int_equal(gr_products_saved_by(&p, GR_NF4), 0);
    assert_true(gr_products_saved_by(&p, GR_INT8) > even);
    gr_count_product(&p, GR_Q4_K, 4096 * 144, 4096, 256);
    assert_int_equal(gr_products_saved_by(&p, GR_INT8), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shape_is_planned_as_the_model),
        cmocka_unit_test(without_records_they_are_as_long_as_may_be),
        cmocka_unit_test(weights_stay_as_far_as_there_is_room),
        cmocka_unit_test(memory_chooses_the_format),
        cmocka_unit_test(a_choice_leaves_nothing_behind),
        cmocka_unit_test(a_choice_survives_failing_allocations),
        cmocka_unit_test(what_a_format_saves_is_known),
        cmocka_unit_test(odd_matrices_go_into_8_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
