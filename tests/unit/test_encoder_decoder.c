/* Laws of encoder-decoders: a pair of source and target gives the same bits alone and beside others, with a source of
 * its own and with one that it shares, at once and token by token over kept keys and values; threads, cuts of a batch
 * and recomputation change no bit of a gradient. */
#include "support/model_support.h"

#include <math.h>

#include "infer/infer.h"

enum { PAIRS = 4 };

static const char *const models[] = {"families/t5", "families/t5_gated"};
static const int source_lengths[PAIRS] = {9, 4, 17, 1}, target_lengths[PAIRS] = {6, 12, 1, 8};
static const int source_seeds[PAIRS] = {101, 102, 103, 104}, target_seeds[PAIRS] = {1, 2, 3, 4};

typedef struct pairs {
    test_batch source, target;
} pairs;

/* Pairs first .. first+n-1; `virtual`: that many virtual tokens in front of each source. */
static void fill(pairs *p, graft_model *m, int first, int n, int virtual, int32_t adapter) {
    int lengths[PAIRS];
    int64_t vocab = graft_model_vocab_size(m);
    for (int i = 0; i < n; i++) lengths[i] = source_lengths[first + i] + virtual;
    test_fill_batch(&p->source, vocab, n, lengths, source_seeds + first);
    for (int s = 0; s < n; s++)
        for (int v = 0; v < virtual; v++) p->source.ids[p->source.bounds[s] + v] = -1 - v;
    test_fill_batch(&p->target, vocab, n, target_lengths + first, target_seeds + first);
    p->source.batch.one_adapter = p->target.batch.one_adapter = adapter;
    p->target.batch.source = &p->source.batch;
}

static void batched_equals_alone(void **state) {
    (void)state;
    const graft_dtype types[] = {GRAFT_DTYPE_F32, GRAFT_DTYPE_BF16};
    for (size_t k = 0; k < GR_COUNT(models) * 2; k++) {
        graft_context *ctx = test_context(NULL, 2, NULL);
        graft_model *m = test_load(ctx, test_golden(models[k / 2]), types[k % 2]);
        int64_t vocab = graft_model_vocab_size(m);
        pairs all, one;
        fill(&all, m, 0, PAIRS, 0, -1);
        float *x = test_logits(m->model, NULL, &all.target.batch);
        for (int s = 0; s < PAIRS; s++) {
            fill(&one, m, s, 1, 0, -1);
            float *y = test_logits(m->model, NULL, &one.target.batch);
            test_assert_same_floats(x + all.target.bounds[s] * vocab, y, (size_t)(target_lengths[s] * vocab), models[k / 2]);
            free(y);
        }
        free(x);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

/* Gradients of adapter 0, one after the other, after a pass for each of `n` batches. */
static float *gradients(graft_model *m, pairs *const *batches, int n, bool recompute, size_t *count) {
    gr_adapter_set *set = m->adapters;
    size_t total = (size_t)gr_adapter_n_trainable(set, 0), at = 0;
    float *out = malloc(total * sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < gr_adapter_n_params(set, 0); i++) {
        gr_param *p = gr_adapter_param(set, 0, i);
        memset(p->grad, 0, (size_t)p->n * sizeof(float));
    }
    assert_ok(gr_adapter_refresh(set, 0, 0, true, &err));
    for (int i = 0; i < n; i++) {
        batches[i]->target.batch.training = batches[i]->source.batch.training = true;
        test_loss(m->model, m->hooks, &batches[i]->target.batch, true, recompute);
    }
    assert_ok(gr_adapter_collect(set, 0, &err));
    for (size_t i = 0; i < gr_adapter_n_params(set, 0); i++) {
        gr_param *p = gr_adapter_param(set, 0, i);
        memcpy(out + at, p->grad, (size_t)p->n * sizeof(float));
        at += (size_t)p->n;
    }
    *count = total;
    return out;
}

/* Two targets on one source: as many rows of the source fewer, the same logits, and the same gradients but for
 * rounding. */
static void a_shared_source_equals_separate_ones(void **state) {
    (void)state;
    static const int32_t reads[] = {0, 1, 1, 0};
    for (size_t k = 0; k < GR_COUNT(models); k++) {
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = test_load(ctx, test_golden(models[k]), GRAFT_DTYPE_F32);
        int64_t vocab = graft_model_vocab_size(m);
        const int lengths[] = {9, 4, 4, 9}, seeds[] = {101, 102, 102, 101};
        pairs apart, shared, *const batches[] = {&apart, &shared};
        size_t n;
        assert_ok(graft_adapter_new(m, "a", "{\"peft_type\": \"FULL\"}", 0, &err));
        fill(&apart, m, 0, PAIRS, 0, 0);
        test_fill_batch(&apart.source, vocab, PAIRS, lengths, seeds);
        fill(&shared, m, 0, PAIRS, 0, 0);
        test_fill_batch(&shared.source, vocab, 2, lengths, seeds);
        apart.source.batch.one_adapter = shared.source.batch.one_adapter = 0;
        shared.target.batch.reads = reads;
        float *x = test_logits(m->model, m->hooks, &apart.target.batch),
              *y = test_logits(m->model, m->hooks, &shared.target.batch);
        test_assert_same_floats(x, y, (size_t)(apart.target.batch.n_tokens * vocab), models[k]);
        free(x);
        free(y);
        x = gradients(m, &batches[0], 1, false, &n);
        y = gradients(m, &batches[1], 1, false, &n);
        double worst = 0, scale = 0;
        for (size_t i = 0; i < n; i++) {
            worst = fmax(worst, fabs((double)x[i] - y[i]));
            scale = fmax(scale, fabs(x[i]));
        }
        if (!(worst < 1e-5 * scale)) fail_msg("%s: gradients differ by %g of %g", models[k], worst, scale);
        free(x);
        free(y);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

typedef struct method {
    const char *config;
    int virtual;
} method;

static const method methods[] = {
    {"{\"peft_type\": \"FULL\"}", 0},
    {"{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\", \"lora_dropout\": 0.25, \"init_lora_weights\": "
     "false}",
     0},
    {"{\"peft_type\": \"LORA\", \"target_modules\": [\"EncDecAttention.k\", \"EncDecAttention.v\"], "
     "\"init_lora_weights\": false}",
     0},
    {"{\"peft_type\": \"IA3\", \"init_ia3_weights\": false}", 0},
    {"{\"peft_type\": \"LN_TUNING\"}", 0},
    {"{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 3}", 3},
    {"{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 2, \"encoder_hidden_size\": 6}", 2},
    {"{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 3}", 0},
};

static void no_cut_changes_a_gradient(void **state) {
    (void)state;
    for (size_t k = 0; k < GR_COUNT(methods); k++) {
        float *first = NULL;
        for (int way = 0; way < 4; way++) { /* one batch; two threads; halves; layers run twice */
            graft_context *ctx = test_context(NULL, way == 1 ? 2 : 1, NULL);
            graft_model *m = test_load(ctx, test_golden("families/t5"), GRAFT_DTYPE_F32);
            pairs all, low, high, *const whole[] = {&all}, *const halves[] = {&low, &high};
            size_t n;
            assert_ok(graft_adapter_new(m, "a", methods[k].config, 7, &err));
            fill(&all, m, 0, PAIRS, methods[k].virtual, 0);
            fill(&low, m, 0, PAIRS / 2, methods[k].virtual, 0);
            fill(&high, m, PAIRS / 2, PAIRS / 2, methods[k].virtual, 0);
            float *g = gradients(m, way == 2 ? halves : whole, way == 2 ? 2 : 1, way == 3, &n);
            if (first) test_assert_same_floats(first, g, n, methods[k].config);
            double sum = 0;
            for (size_t i = 0; i < n; i++) sum += fabs(g[i]);
            assert_true(sum > 0 && isfinite(sum));
            if (first)
                free(g);
            else
                first = g;
            graft_model_free(m);
            graft_context_free(ctx);
        }
        free(first);
    }
}

/* Every method's adapter on a pair of its own, and the bare model on the last one, in one batch. */
static void a_batch_mixes_methods(void **state) {
    (void)state;
    static const int mixed[] = {1, 3, 5, 7};
    graft_context *ctx = test_context(NULL, 2, NULL);
    graft_model *m = test_load(ctx, test_golden("families/t5"), GRAFT_DTYPE_F32);
    int64_t vocab = graft_model_vocab_size(m);
    for (int i = 0; i < PAIRS; i++) {
        char name[8];
        snprintf(name, sizeof name, "%d", i);
        assert_ok(graft_adapter_new(m, name, methods[mixed[i]].config, 7, &err));
    }
    pairs all;
    int lengths[PAIRS];
    int32_t adapters[PAIRS];
    for (int bare = 0; bare < 2; bare++) {
        for (int s = 0; s < PAIRS; s++) {
            adapters[s] = bare && s == PAIRS - 1 ? -1 : s;
            lengths[s] = source_lengths[s] + methods[mixed[s]].virtual;
        }
        fill(&all, m, 0, PAIRS, 0, 0);
        test_fill_batch(&all.source, vocab, PAIRS, lengths, source_seeds);
        for (int s = 0; s < PAIRS; s++)
            for (int v = 0; v < methods[mixed[s]].virtual; v++) all.source.ids[all.source.bounds[s] + v] = -1 - v;
        all.source.batch.adapter = all.target.batch.adapter = adapters;
        float *x = test_logits(m->model, m->hooks, &all.target.batch);
        for (int s = 0; s < PAIRS; s++) {
            pairs one;
            fill(&one, m, s, 1, methods[mixed[s]].virtual, adapters[s]);
            float *y = test_logits(m->model, m->hooks, &one.target.batch);
            test_assert_same_floats(x + all.target.bounds[s] * vocab, y, (size_t)(target_lengths[s] * vocab),
                        methods[mixed[s]].config);
            free(y);
        }
        free(x);
    }
    graft_model_free(m);
    graft_context_free(ctx);
}

/* A dry pass has exactly the peak of the real one. */
static void a_plan_is_exact(void **state) {
    (void)state;
    for (int recompute = 0; recompute < 2; recompute++) {
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = test_load(ctx, test_golden("families/t5_gated"), GRAFT_DTYPE_F32);
        pairs p;
        assert_ok(graft_adapter_new(m, "a", methods[1].config, 7, &err));
        fill(&p, m, 0, PAIRS, 0, 0);
        p.target.batch.training = p.source.batch.training = true;
        test_plan_is_exact(m->model, &(gr_pass_options){.hooks = m->hooks, .recompute = recompute}, &p.target.batch, &p.source.batch);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

/* Logits of all targets in one pass in which sources and targets are kept. */
static float *kept_at_once(graft_model *m, pairs *all, gr_kv_store *store) {
    gr_kv_seq seqs[2][PAIRS];
    const gr_kv *kv[2][PAIRS];
    for (int s = 0; s < 2 * PAIRS; s++) {
        gr_kv_seq *q = &seqs[s / PAIRS][s % PAIRS];
        gr_kv_seq_init(q, store);
        assert_ok(gr_kv_seq_extend(q, s < PAIRS ? source_lengths[s] : target_lengths[s % PAIRS], &err));
        kv[s / PAIRS][s % PAIRS] = &q->kv;
    }
    all->source.batch.kv = kv[0];
    all->target.batch.kv = kv[1];
    float *x = test_logits(m->model, NULL, &all->target.batch);
    all->source.batch.kv = all->target.batch.kv = NULL;
    for (int s = 0; s < 2 * PAIRS; s++) gr_kv_seq_free(&seqs[s / PAIRS][s % PAIRS]);
    return x;
}

/* Targets token by token, in every format: the first pass encodes and keeps, the others read what was kept. */
static void kept_sources_give_the_same_bits(void **state) {
    (void)state;
    for (size_t k = 0; k < 3 * GR_COUNT(models); k++) {
        const gr_kv_format format = (gr_kv_format)(k / GR_COUNT(models));
        const char *const name = models[k % GR_COUNT(models)];
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = test_load(ctx, test_golden(name), GRAFT_DTYPE_F32);
        int64_t vocab = graft_model_vocab_size(m);
        gr_kv_store *store;
        gr_kv_seq sources[PAIRS], targets[PAIRS];
        const gr_kv *source_kv[PAIRS], *target_kv[PAIRS];
        pairs all;
        fill(&all, m, 0, PAIRS, 0, -1);
        assert_ok(gr_kv_store_new(m->model, format, &store, &err));
        float *x = kept_at_once(m, &all, store), *plain = test_logits(m->model, NULL, &all.target.batch);
        if (format == GR_KV_COMPUTED)
            test_assert_same_floats(plain, x, (size_t)(all.target.bounds[PAIRS] * vocab), name);
        else
            assert_true(memcmp(plain, x, (size_t)(all.target.bounds[PAIRS] * vocab) * sizeof *x) != 0);
        free(plain);
        for (int s = 0; s < PAIRS; s++) {
            gr_kv_seq_init(&sources[s], store);
            gr_kv_seq_init(&targets[s], store);
            assert_ok(gr_kv_seq_extend(&sources[s], source_lengths[s], &err));
            source_kv[s] = &sources[s].kv;
        }
        for (int step = 0; step < 12; step++) {
            test_batch now = {0};
            int32_t reads[PAIRS];
            const gr_kv *memory[PAIRS];
            int n = 0, of[PAIRS];
            for (int s = 0; s < PAIRS; s++) {
                if (step >= target_lengths[s]) continue;
                assert_ok(gr_kv_seq_extend(&targets[s], 1, &err));
                target_kv[n] = &targets[s].kv;
                memory[n] = &sources[s].kv;
                reads[n] = s;
                now.bounds[n] = n;
                now.ids[n] = all.target.ids[all.target.bounds[s] + step];
                of[n++] = s;
            }
            now.bounds[n] = n;
            now.batch = (gr_batch){
                .n_tokens = n, .n_seqs = n, .bounds = now.bounds, .ids = now.ids, .kv = target_kv, .one_adapter = -1};
            if (step == 0) {
                now.batch.source = &all.source.batch;
                now.batch.reads = reads;
                all.source.batch.kv = source_kv;
            } else
                now.batch.source_kv = memory;
            float *y = test_logits(m->model, NULL, &now.batch);
            for (int i = 0; i < n; i++) {
                test_assert_same_floats(x + (all.target.bounds[of[i]] + step) * vocab, y + i * vocab, (size_t)vocab, name);
                targets[of[i]].length++;
            }
            for (int s = 0; step == 0 && s < PAIRS; s++) {
                sources[s].length = source_lengths[s];
                assert_ok(gr_kv_seq_extend(&sources[s], 0, &err));
            }
            free(y);
        }
        for (int s = 0; s < PAIRS; s++) {
            gr_kv_seq_free(&sources[s]);
            gr_kv_seq_free(&targets[s]);
        }
        gr_kv_store_free(store);
        free(x);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

static void refuse(graft_model *m, const gr_batch *b, const char *word) {
    gr_pool *pool;
    gr_tape *t;
    gr_pass *p;
    gr_var *x;
    graft_error wrong;
    gr_pass_options o = {.hooks = m->hooks};
    assert_ok(gr_pool_new(NULL, 0, false, &pool, &err));
    assert_ok(gr_tape_new(gr_model_device(m->model), pool, &(gr_tape_options){0}, &t, &err));
    assert_ok(gr_pass_new(m->model, &p, &err));
    graft_status st = gr_pass_logits(p, t, b, &o, NULL, 0, &x, &wrong);
    if (st == GRAFT_OK || !strstr(wrong.text, word))
        fail_msg("expected '%s', found '%s'", word, st ? wrong.text : "no error");
    gr_tape_free(t);
    gr_pass_free(p);
    gr_pool_free(pool);
}

static void wrong_batches_are_refused(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("families/t5"), GRAFT_DTYPE_F32);
    graft_model *decoder = test_load(ctx, test_model_path("llama"), GRAFT_DTYPE_F32);
    int32_t reads[PAIRS] = {0, 1, 4, 3}, parent[PAIRS] = {-1, -1, 0, -1};
    pairs p;
    assert_ok(graft_adapter_new(m, "a", methods[1].config, 0, &err));
    fill(&p, decoder, 0, PAIRS, 0, -1);
    refuse(decoder, &p.target.batch, "no encoder");
    fill(&p, m, 0, PAIRS, 0, -1);
    p.target.batch.reads = reads;
    refuse(m, &p.target.batch, "sequence 2 reads no source");
    p.target.batch.reads = NULL;
    p.source.batch.one_adapter = 0;
    refuse(m, &p.target.batch, "its source 0");
    p.source.batch.one_adapter = -1;
    p.source.batch.parent = parent;
    refuse(m, &p.target.batch, "expected the one before it");
    p.source.batch.parent = NULL;
    p.source.ids[2] = 96;
    refuse(m, &p.target.batch, "outside the vocabulary");
    p.source.ids[2] = -1;
    refuse(m, &p.target.batch, "virtual rows");
    p.target.batch.source = NULL;
    refuse(m, &p.target.batch, "sequence 0 reads no source");
    graft_model_free(m);
    graft_model_free(decoder);
    graft_context_free(ctx);
}

/* --- graft_forward ------------------------------------------------------------------------------------------------------- */

typedef struct forward_input {
    const char *name;
    int64_t rows, columns;
    int64_t values[8];
} forward_input;

static void refuse_input(graft_model *m, const forward_input *in, size_t n, const char *says) {
    gr_named_tensor t[4];
    char path[1100], out[1100];
    graft_error wrong;
    for (size_t i = 0; i < n; i++)
        t[i] = (gr_named_tensor){.name = in[i].name,
                                 .view = {GR_I64, gr_shape2(in[i].rows, in[i].columns), in[i].values,
                                          (size_t)(in[i].rows * in[i].columns) * 8, NULL}};
    snprintf(path, sizeof path, "%s/in.safetensors", test_temp_dir());
    snprintf(out, sizeof out, "%s/out.safetensors", test_temp_dir());
    assert_ok(gr_safetensors_save(NULL, path, t, n, NULL, &err));
    const graft_forward_options o = {.input = path, .output = out};
    graft_status st = graft_forward(m, &o, &wrong);
    if (!says && st != GRAFT_OK) fail_msg("%s", wrong.text);
    if (says && (st == GRAFT_OK || !strstr(wrong.text, says)))
        fail_msg("expected '%s', found '%s'", says, st ? wrong.text : "no error");
}

static void wrong_inputs_of_forward_are_named(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("families/t5"), GRAFT_DTYPE_F32);
    const forward_input ids = {"input_ids", 2, 3, {5, 6, 1, 7, 8, 1}}, labels = {"labels", 2, 2, {4, 1, 9, -100}};
    const struct {
        forward_input third;
        const char *says;
    } cases[] = {{{"attention_mask", 2, 3, {1, 1, 0, 1, 0, 1}}, NULL},
                 {{"attention_mask", 2, 3, {1, 1, 1, 0, 0, 0}}, "attention_mask hides every token of row 1"},
                 {{"decoder_attention_mask", 2, 2, {1, 0, 1, 1}}, NULL},
                 {{"decoder_attention_mask", 2, 3, {1, 1, 1, 1, 1, 1}},
                  "'decoder_attention_mask' has shape [2, 3], expected [2, 2]"},
                 {{"decoder_input_ids", 2, 3, {0, 4, 5, 0, 9, 9}}, "'labels' has shape [2, 2], expected [2, 3]"},
                 {{"decoder_input_ids", 2, 2, {0, 4, 0, 96}}, "outside the vocabulary"},
                 {{"position_ids", 2, 3, {0, 1, 2, 0, 1, 2}}, "takes no 'position_ids'"},
                 {{"token_type_ids", 2, 3, {0}}, "takes no 'token_type_ids'"}};
    for (size_t i = 0; i < GR_COUNT(cases); i++)
        refuse_input(m, (const forward_input[]){ids, labels, cases[i].third}, 3, cases[i].says);
    refuse_input(m, &ids, 1, "expected 'labels' or 'decoder_input_ids'");
    refuse_input(m, &labels, 1, "no 'input_ids'");
    refuse_input(m, (const forward_input[]){ids, {"labels", 3, 1, {1, 1, 1}}}, 2,
                 "'labels' of 3 x 1 beside 'input_ids' of 2 rows");
    refuse_input(m, (const forward_input[]){ids, {"labels", 2, 2, {4, -5, 9, 1}}}, 2, "labels[0][1] is -5");
    graft_model_free(m);
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batched_equals_alone),
        cmocka_unit_test(a_shared_source_equals_separate_ones),
        cmocka_unit_test(no_cut_changes_a_gradient),
        cmocka_unit_test(a_batch_mixes_methods),
        cmocka_unit_test(a_plan_is_exact),
        cmocka_unit_test(kept_sources_give_the_same_bits),
        cmocka_unit_test(wrong_batches_are_refused),
        cmocka_unit_test(wrong_inputs_of_forward_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
