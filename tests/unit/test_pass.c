/* Laws of passes: what a sequence gives does not depend on its batch-mates, on threads, on recomputation, on how its
 * history is cut, or on which rows are wanted. */
#include "support/model_support.h"

#include <math.h>

static const char adapter_config[] = "{\"peft_type\": \"LORA\", \"r\": 4, \"target_modules\": \"all-linear\", "
                                     "\"lora_dropout\": 0.25, \"init_lora_weights\": false}";

static const char ends_config[] = "{\"peft_type\": \"LORA\", \"r\": 3, \"target_modules\": [\"o_proj\", \"lm_head\", "
                                  "\"embed_tokens\"], \"lora_dropout\": 0.25, \"init_lora_weights\": false}";

static gr_model *model_of(graft_model *m) { return m->model; }

static const char *const variants[] = {"llama", "llama_dynamic", "mistral", "qwen3", "smollm3_sliding"};
static const int lengths[] = {7, 19, 1, 12}, seeds[] = {1, 2, 3, 4};

static void batched_equals_alone(void **state) {
    (void)state;
    const graft_dtype types[] = {GRAFT_DTYPE_F32, GRAFT_DTYPE_BF16};
    for (size_t v = 0; v < GR_COUNT(variants) * 2; v++) {
        graft_context *ctx = test_context(NULL, 2, NULL);
        graft_model *m = test_load(ctx, test_model_path(variants[v / 2]), types[v % 2]);
        test_batch all, one;
        int64_t vocab = graft_model_vocab_size(m);
        test_fill_batch(&all, vocab, 4, lengths, seeds);
        float *x = test_logits(model_of(m), NULL, &all.batch);
        for (int s = 0; s < 4; s++) {
            test_fill_batch(&one, vocab, 1, &lengths[s], &seeds[s]);
            float *y = test_logits(model_of(m), NULL, &one.batch);
            test_assert_same_floats(x + all.bounds[s] * vocab, y, (size_t)(lengths[s] * vocab), variants[v / 2]);
            free(y);
        }
        free(x);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

/* Gradients of the adapter's parameters, one after the other, after the passes of `n` batches. */
static float *gradients(graft_model *m, const gr_batch *const *batches, int n, bool recompute, size_t *count) {
    gr_adapter_set *set = m->adapters;
    size_t total = (size_t)gr_adapter_n_trainable(set, 0), at = 0;
    float *out = malloc(total * sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < gr_adapter_n_params(set, 0); i++) {
        gr_param *p = gr_adapter_param(set, 0, i);
        memset(p->grad, 0, (size_t)p->n * sizeof(float));
    }
    assert_ok(gr_adapter_refresh(set, 0, 0, true, &err));
    for (int i = 0; i < n; i++) test_loss(m->model, m->hooks, batches[i], true, recompute);
    assert_ok(gr_adapter_collect(set, 0, &err));
    for (size_t i = 0; i < gr_adapter_n_params(set, 0); i++) {
        gr_param *p = gr_adapter_param(set, 0, i);
        memcpy(out + at, p->grad, (size_t)p->n * sizeof(float));
        at += (size_t)p->n;
    }
    *count = total;
    return out;
}

static graft_model *adapted(graft_context *ctx, const char *name, graft_dtype dtype, const char *config) {
    graft_model *m = test_load(ctx, test_model_path(name), dtype);
    assert_ok(graft_adapter_new(m, "a", config, 7, &err));
    return m;
}

static void splitting_and_recomputing_keep_the_gradients_bits(void **state) {
    (void)state;
    const char *const configs[] = {adapter_config, "{\"peft_type\": \"FULL\"}", ends_config};
    const char *const models[] = {"qwen3", "llama_tied", "llama_bias"};
    for (int c = 0; c < 18; c++) {
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = adapted(ctx, models[c % 3], c / 9 ? GRAFT_DTYPE_BF16 : GRAFT_DTYPE_F32, configs[c / 3 % 3]);
        test_batch all, first, second;
        int64_t vocab = graft_model_vocab_size(m);
        size_t n;
        test_fill_batch(&all, vocab, 4, lengths, seeds);
        test_fill_batch(&first, vocab, 2, lengths, seeds);
        test_fill_batch(&second, vocab, 2, lengths + 2, seeds + 2);
        gr_batch *const every[] = {&all.batch, &first.batch, &second.batch};
        for (int i = 0; i < 3; i++) {
            every[i]->one_adapter = 0;
            every[i]->training = true;
            every[i]->seed = 99;
        }
        const gr_batch *const whole[] = {&all.batch}, *const parts[] = {&first.batch, &second.batch};
        float *x = gradients(m, whole, 1, false, &n), *y = gradients(m, whole, 1, true, &n);
        test_assert_same_floats(x, y, n, "recomputation");
        free(y);
        y = gradients(m, parts, 2, false, &n);
        test_assert_same_floats(x, y, n, "micro-batches");
        free(y);
        graft_context *other = test_context(NULL, 2, NULL);
        graft_model *m2 = adapted(other, models[c % 3], c / 9 ? GRAFT_DTYPE_BF16 : GRAFT_DTYPE_F32, configs[c / 3 % 3]);
        y = gradients(m2, whole, 1, false, &n);
        test_assert_same_floats(x, y, n, "threads");
        free(x);
        free(y);
        graft_model_free(m2);
        graft_context_free(other);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

static void wanted_rows_equal_all_rows(void **state) {
    (void)state;
    for (size_t v = 0; v < GR_COUNT(variants); v++) {
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = test_load(ctx, test_model_path(variants[v]), GRAFT_DTYPE_F32);
        test_batch b;
        gr_pool *pool;
        gr_tape *t;
        gr_pass *p;
        gr_var *some;
        int64_t vocab = graft_model_vocab_size(m);
        const int32_t rows[] = {0, 5, 6, 20, 26, 38};
        test_fill_batch(&b, vocab, 4, lengths, seeds);
        float *x = test_logits(m->model, NULL, &b.batch);
        assert_ok(gr_pool_new(NULL, 0, false, &pool, &err));
        assert_ok(gr_tape_new(gr_model_device(m->model), pool, &(gr_tape_options){0}, &t, &err));
        assert_ok(gr_pass_new(m->model, &p, &err));
        assert_ok(gr_pass_logits(p, t, &b.batch, NULL, rows, GR_COUNT(rows), &some, &err));
        for (size_t i = 0; i < GR_COUNT(rows); i++)
            test_assert_same_floats(x + rows[i] * vocab, (const float *)gr_var_array(some)->data + (int64_t)i * vocab, (size_t)vocab,
                        variants[v]);
        gr_tape_free(t);
        gr_pass_free(p);
        gr_pool_free(pool);
        free(x);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

/* A prompt and two continuations as one batch that shares the prompt's rows, against whole sequences. */
static void shared_prefix_equals_whole_sequences(void **state) {
    (void)state;
    for (size_t v = 0; v < GR_COUNT(variants); v++) {
        if (strcmp(variants[v], "llama_dynamic") == 0) continue; /* its angles depend on each sequence's own length */
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = test_load(ctx, test_model_path(variants[v]), GRAFT_DTYPE_F32);
        test_batch shared, whole;
        int64_t vocab = graft_model_vocab_size(m);
        const int tree[] = {9, 4, 6}, seq = 13;
        const int32_t parent[] = {-1, 0, 0};
        test_fill_batch(&shared, vocab, 3, tree, seeds);
        shared.batch.parent = parent;
        float *x = test_logits(m->model, NULL, &shared.batch);
        test_fill_batch(&whole, vocab, 1, &seq, seeds);
        memcpy(whole.ids, shared.ids, 13 * sizeof *whole.ids);
        float *y = test_logits(m->model, NULL, &whole.batch);
        test_assert_same_floats(x, y, (size_t)(13 * vocab), variants[v]);
        memcpy(whole.ids + 9, shared.ids + 13, 4 * sizeof *whole.ids);
        float *z = test_logits(m->model, NULL, &whole.batch);
        test_assert_same_floats(x + 13 * vocab, z + 9 * vocab, (size_t)(4 * vocab), variants[v]);
        free(x);
        free(y);
        free(z);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

/* The first tokens fill a history, the others read it: the same as all at once. */
static void history_equals_whole_sequence(void **state) {
    (void)state;
    for (size_t v = 0; v < GR_COUNT(variants); v++) {
        if (strcmp(variants[v], "llama_dynamic") == 0) continue;
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = test_load(ctx, test_model_path(variants[v]), GRAFT_DTYPE_F32);
        enum { N = 15, CUT = 9, LAYERS = 4 };
        int n = N, cut = CUT, layers = gr_model_get_config(m->model)->n_layers;
        int64_t vocab = graft_model_vocab_size(m), width = gr_model_kv_width(m->model);
        float *k = calloc((size_t)(LAYERS * N * width), sizeof *k), *w = calloc((size_t)(LAYERS * N * width), sizeof *w);
        test_batch b;
        gr_kv_target targets[LAYERS][2];
        gr_kv_segment segments[LAYERS][2];
        gr_kv_layer kv_layers[LAYERS];
        memset(segments, 0, sizeof segments);
        test_fill_batch(&b, vocab, 1, &n, seeds);
        float *x = test_logits(m->model, NULL, &b.batch);
        for (int l = 0; l < layers; l++) { /* two targets and two segments: pages of a cache */
            float *kl = k + l * N * width, *vl = w + l * N * width;
            targets[l][0] = (gr_kv_target){kl, vl, width, width, 4, GR_KV_COMPUTED, 0};
            targets[l][1] = (gr_kv_target){kl + 4 * width, vl + 4 * width, width, width, 5, GR_KV_COMPUTED, 0};
            segments[l][0] = (gr_kv_segment){.k = kl, .v = vl, .k_ld = width, .v_ld = width, .n = 4};
            segments[l][1] = (gr_kv_segment){.k = kl + 4 * width, .v = vl + 4 * width, .k_ld = width, .v_ld = width, .n = 5,
                                             .pos = 4};
            kv_layers[l] = (gr_kv_layer){.n_targets = 2, .targets = targets[l]};
        }
        gr_kv kv = {.n_layers = layers, .layers = kv_layers};
        const gr_kv *const list[] = {&kv};
        test_fill_batch(&b, vocab, 1, &cut, seeds);
        b.batch.kv = list;
        float *y = test_logits(m->model, NULL, &b.batch);
        test_assert_same_floats(x, y, (size_t)(CUT * vocab), variants[v]);
        free(y);
        for (int l = 0; l < layers; l++) kv_layers[l] = (gr_kv_layer){.n_segments = 2, .segments = segments[l]};
        test_fill_batch(&b, vocab, 1, &n, seeds);
        memmove(b.ids, b.ids + CUT, (N - CUT) * sizeof *b.ids);
        b.bounds[1] = N - CUT;
        b.batch.n_tokens = N - CUT;
        b.batch.kv = list;
        y = test_logits(m->model, NULL, &b.batch);
        test_assert_same_floats(x + CUT * vocab, y, (size_t)((N - CUT) * vocab), variants[v]);
        free(x);
        free(y);
        free(k);
        free(w);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

static void mixed_adapters_equal_each_alone(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = adapted(ctx, "llama", GRAFT_DTYPE_F32, adapter_config);
    assert_ok(graft_adapter_new(m, "b", ends_config, 8, &err));
    test_batch b;
    int64_t vocab = graft_model_vocab_size(m);
    const int32_t mixed[] = {1, -1, 0, 1};
    float *alone[3];
    test_fill_batch(&b, vocab, 4, lengths, seeds);
    for (int a = -1; a < 2; a++) {
        b.batch.one_adapter = a;
        alone[a + 1] = test_logits(m->model, m->hooks, &b.batch);
    }
    b.batch.adapter = mixed;
    float *x = test_logits(m->model, m->hooks, &b.batch);
    for (int s = 0; s < 4; s++)
        test_assert_same_floats(x + b.bounds[s] * vocab, alone[mixed[s] + 1] + b.bounds[s] * vocab, (size_t)(lengths[s] * vocab), "mixed");
    assert_int_not_equal(memcmp(alone[0], alone[1], 64), 0);
    assert_int_not_equal(memcmp(alone[1], alone[2], 64), 0);
    free(x);
    for (int a = 0; a < 3; a++) free(alone[a]);
    graft_model_free(m);
    graft_context_free(ctx);
}

static void fresh_adapter_changes_nothing(void **state) {
    (void)state;
    const graft_dtype types[] = {GRAFT_DTYPE_F32, GRAFT_DTYPE_BF16};
    static const char own_modules[] = "{\"peft_type\": \"LORA\", \"init_lora_weights\": \"gaussian\", \"use_rslora\": true, "
                                      "\"modules_to_save\": [\"lm_head\", \"norm\"]}";
    const char *const configs[] = {"{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\", \"lora_dropout\": 0.5}",
                                   own_modules, "{\"peft_type\": \"FULL\"}"};
    for (size_t c = 0; c < 6; c++) {
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = adapted(ctx, "qwen2_sliding", types[c % 2], configs[c / 2]);
        test_batch b;
        test_fill_batch(&b, graft_model_vocab_size(m), 4, lengths, seeds);
        float *x = test_logits(m->model, NULL, &b.batch);
        b.batch.one_adapter = 0;
        b.batch.training = true;
        float *y = test_logits(m->model, m->hooks, &b.batch);
        test_assert_same_floats(x, y, (size_t)(b.batch.n_tokens * graft_model_vocab_size(m)), configs[c / 2]);
        free(x);
        free(y);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

static void bf16_stays_near_f32(void **state) {
    (void)state;
    for (size_t v = 0; v < GR_COUNT(variants); v++) {
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = test_load(ctx, test_model_path(variants[v]), GRAFT_DTYPE_F32);
        graft_model *h = test_load(ctx, test_model_path(variants[v]), GRAFT_DTYPE_BF16);
        test_batch b;
        test_fill_batch(&b, graft_model_vocab_size(m), 4, lengths, seeds);
        float *x = test_logits(m->model, NULL, &b.batch), *y = test_logits(h->model, NULL, &b.batch);
        double error = 0, size = 0;
        for (int64_t i = 0; i < b.batch.n_tokens * graft_model_vocab_size(m); i++) {
            error += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
            size += (double)x[i] * x[i];
        }
        if (!(sqrt(error / size) < 0.03)) fail_msg("%s: bf16 logits are off by %g", variants[v], sqrt(error / size));
        free(x);
        free(y);
        graft_model_free(m);
        graft_model_free(h);
        graft_context_free(ctx);
    }
}

/* Directional derivative of the loss in double against a central difference, through the whole model. */
static void gradients_are_derivatives(void **state) {
    (void)state;
    for (size_t v = 0; v < GR_COUNT(variants); v++) {
        graft_context *ctx = test_context(NULL, 1, "generic");
        gr_model *m;
        gr_adapter_set *set;
        int index;
        test_batch b;
        double slope = 0, difference = 0;
        const char *config = v == 2 ? ends_config : v % 2 ? adapter_config : "{\"peft_type\": \"FULL\"}";
        assert_ok(gr_model_open(ctx, test_model_path(variants[v]), &(gr_model_options){.has_dtype = true, .dtype = GR_F64}, &m, &err));
        assert_ok(gr_adapter_set_new(m, &set, &err));
        assert_ok(gr_adapter_set_create(set, "a", config, strlen(config), 3, &index, &err));
        test_fill_batch(&b, gr_model_get_config(m)->vocab_size, 4, lengths, seeds);
        b.batch.weight = NULL;
        b.batch.one_adapter = 0;
        b.batch.training = true;
        test_loss(m, gr_adapter_set_hooks(set), &b.batch, true, false);
        const double step = 1e-6;
        for (int sign = 1; sign >= -1; sign -= 2) {
            for (size_t i = 0; i < gr_adapter_n_params(set, index); i++) {
                gr_param *p = gr_adapter_param(set, index, i);
                for (int64_t k = 0; k < p->n; k++) {
                    double along = gr_rng_normal(5, i, (uint64_t)k);
                    if (sign > 0) slope += along * ((double *)p->grad)[k];
                    ((double *)p->value)[k] += (sign > 0 ? 1 : -2) * step * along;
                }
                gr_param_changed(p);
            }
            difference += sign * test_loss(m, gr_adapter_set_hooks(set), &b.batch, false, false) / (2 * step);
        }
        if (!(fabs(slope - difference) < 1e-5 * fabs(slope)))
            fail_msg("%s: slope %.10g, difference %.10g", variants[v], slope, difference);
        gr_adapter_set_free(set);
        gr_model_close(m);
        graft_context_free(ctx);
    }
}

static void plan_is_exact(void **state) {
    (void)state;
    const char *const configs[] = {adapter_config, "{\"peft_type\": \"FULL\"}", ends_config};
    for (int c = 0; c < 24; c++) {
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = adapted(ctx, variants[c % 4 + 1], c & 4 ? GRAFT_DTYPE_BF16 : GRAFT_DTYPE_F32, configs[c / 8]);
        test_batch b;
        gr_pass_options o = {.hooks = m->hooks, .recompute = c & 1, .recompute_cheap = (c & 2) != 0};
        test_fill_batch(&b, graft_model_vocab_size(m), 4, lengths, seeds);
        b.batch.one_adapter = 0;
        b.batch.training = true;
        test_plan_is_exact(m->model, &o, &b.batch, NULL);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

static void bad_batches_are_refused(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_model_path("llama"), GRAFT_DTYPE_F32);
    gr_pass *p;
    gr_pool *pool;
    gr_tape *t;
    gr_loss loss;
    assert_ok(gr_pass_new(m->model, &p, &err));
    assert_ok(gr_pool_new(NULL, 0, false, &pool, &err));
    assert_ok(gr_tape_new(gr_model_device(m->model), pool, &(gr_tape_options){0}, &t, &err));
    for (int c = 0; c < 10; c++) {
        test_batch b;
        graft_error err;
        int32_t parent[] = {-1, 2, -1, -1};
        test_fill_batch(&b, graft_model_vocab_size(m), 4, lengths, seeds);
        switch (c) {
        case 0: b.ids[3] = 96; break;
        case 1: b.ids[3] = -1; break;
        case 2: b.labels[3] = 96; break;
        case 3: b.bounds[1] = 30; break;
        case 4: b.bounds[4] = 12; break;
        case 5: b.batch.one_adapter = 0; break;
        case 6: b.batch.parent = parent; break;
        case 7: b.batch.n_tokens = 0; break;
        case 8: memset(b.labels, 0xff, sizeof b.labels); break;
        default: b.batch.one_adapter = -2; break;
        }
        assert_int_equal(gr_pass_loss(p, t, &b.batch, NULL, &loss, &err), GRAFT_ERR_ARGUMENT);
        assert_true(err.text[0] != '\0');
        gr_tape_reset(t);
    }
    gr_tape_free(t);
    gr_pass_free(p);
    gr_pool_free(pool);
    graft_model_free(m);
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batched_equals_alone),
        cmocka_unit_test(splitting_and_recomputing_keep_the_gradients_bits),
        cmocka_unit_test(wanted_rows_equal_all_rows),
        cmocka_unit_test(shared_prefix_equals_whole_sequences),
        cmocka_unit_test(history_equals_whole_sequence),
        cmocka_unit_test(mixed_adapters_equal_each_alone),
        cmocka_unit_test(fresh_adapter_changes_nothing),
        cmocka_unit_test(bf16_stays_near_f32),
        cmocka_unit_test(gradients_are_derivatives),
        cmocka_unit_test(plan_is_exact),
        cmocka_unit_test(bad_batches_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
