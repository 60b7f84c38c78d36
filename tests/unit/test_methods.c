/* Laws of adaptation methods, one line of the table a case: a fresh adapter changes nothing where the method promises so;
 * saved and loaded it gives the same bits; a sequence gives the same bits alone and in a batch of other adapters of other
 * methods; threads, micro-batches and recomputation change no bit of a gradient; a failed allocation leaks nothing. */
#include "support/model_support.h"

#include <math.h>

#include "graft/generate.h"

typedef struct method_case {
    const char *model, *config;
    bool neutral; /* fresh, it changes nothing */
    bool alone;   /* brings whole modules: it shares no batch with other adapters */
} method_case;

static const method_case cases[] = {
    {"llama", "{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\", \"lora_dropout\": 0.25}", true, false},
    {"llama", "{\"peft_type\": \"IA3\"}", true, false},
    {"llama_bias", "{\"peft_type\": \"IA3\", \"target_modules\": \"all-linear\", \"feedforward_modules\": [\"o_proj\", "
                   "\"down_proj\"], \"modules_to_save\": [\"norm\"]}", true, true},
    {"llama", "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 3}", false, false},
    {"llama", "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 2, \"prompt_tuning_init\": \"SAMPLE_VOCAB\"}", false,
     false},
    {"llama", "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 4}", false, false},
    {"llama", "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 3, \"prefix_projection\": true, "
              "\"encoder_hidden_size\": 6}", false, false},
    {"llama", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": \"all-linear\"}", false, false},
    {"llama_bias", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": \"all-linear\"}", false, true},
    {"llama", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"lora_dropout\": 0.25, \"target_modules\": [\"embed_tokens\", \"q_proj\", "
              "\"v_proj\", \"o_proj\", \"gate_proj\", \"down_proj\"]}", false, false},
    {"llama_bias", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"lora_dropout\": 0.25, \"bias\": \"all\"}", false, true},
    {"llama", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": [\"lm_head\", \"k_proj\"]}", false, false},
    {"llama", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"lora_dropout\": 0.25, \"target_modules\": [\"lm_head\", \"q_proj\"]}", false, false},
    {"llama", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"lora_dropout\": 0.4, \"r\": 3, \"target_modules\": [\"lm_head\", \"embed_tokens\", "
              "\"q_proj\"]}", false, false},
    {"llama", "{\"peft_type\": \"LORA\", \"r\": 3, \"init_lora_weights\": \"pissa\", \"use_dora\": true, \"lora_dropout\": 0.25}", false, false},
    {"llama", "{\"peft_type\": \"LORA\", \"r\": 3, \"init_lora_weights\": \"pissa\", \"target_modules\": \"all-linear\"}", false, false},
    {"llama", "{\"peft_type\": \"LORA\", \"init_lora_weights\": \"pissa_niter_2\", \"lora_dropout\": 0.25, \"target_modules\": "
              "[\"q_proj\", \"v_proj\", \"down_proj\"], \"rank_pattern\": {\"q_proj\": 5}}", false, false},
    {"llama_bias", "{\"peft_type\": \"LORA\", \"r\": 4, \"init_lora_weights\": \"olora\", \"use_rslora\": true, \"use_dora\": true}", false,
     true},
    {"llama", "{\"peft_type\": \"VERA\", \"r\": 5, \"vera_dropout\": 0.25, \"target_modules\": \"all-linear\"}", true, false},
    {"llama", "{\"peft_type\": \"VERA\", \"r\": 4, \"save_projection\": false, \"init_weights\": false}", false, false},
    {"llama", "{\"peft_type\": \"LOHA\", \"r\": 2, \"target_modules\": \"all-linear\"}", true, false},
    {"llama", "{\"peft_type\": \"LOHA\", \"r\": 3, \"target_modules\": [\"q_proj\", \"lm_head\"]}", true, false},
    {"llama", "{\"peft_type\": \"LOKR\", \"r\": 1, \"decompose_both\": true, \"target_modules\": \"all-linear\"}", true, false},
    {"llama", "{\"peft_type\": \"LOKR\", \"r\": 9, \"decompose_factor\": 4, \"init_weights\": \"lycoris\"}", true, false},
    {"llama", "{\"peft_type\": \"ADALORA\", \"init_r\": 4, \"target_r\": 2, \"lora_dropout\": 0.25, \"total_step\": 9, \"target_modules\": "
              "\"all-linear\"}", true, false},
    {"llama", "{\"peft_type\": \"ADALORA\", \"init_r\": 3, \"target_r\": 1, \"orth_reg_weight\": 0, \"total_step\": 9, \"target_modules\": "
              "[\"v_proj\", \"lm_head\"]}", true, false},
    {"llama", "{\"peft_type\": \"OFT\", \"oft_block_size\": 8, \"target_modules\": \"all-linear\"}", true, false},
    {"llama", "{\"peft_type\": \"OFT\", \"r\": 2, \"oft_block_size\": 0, \"use_cayley_neumann\": false, \"block_share\": true, "
              "\"coft\": true, \"eps\": 0.2}", true, false},
    {"llama", "{\"peft_type\": \"OFT\", \"oft_block_size\": 7, \"num_cayley_neumann_terms\": 2, \"init_weights\": false}", false, false},
    {"llama", "{\"peft_type\": \"MULTITASK_PROMPT_TUNING\", \"num_virtual_tokens\": 3, \"num_ranks\": 2}", false, false},
    {"llama", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": [\"embed_tokens\", \"up_proj\"]}", false, false},
    {"llama", "{\"peft_type\": \"LN_TUNING\"}", true, true},
    {"llama_bias", "{\"peft_type\": \"BITFIT\"}", true, true},
    {"llama_bias", "{\"peft_type\": \"BITFIT\", \"target_modules\": [\"q_proj\", \"up_proj\"]}", true, true},
    {"llama", "{\"peft_type\": \"ADAPTION_PROMPT\", \"adapter_len\": 3, \"adapter_layers\": 1}", true, false},
    {"llama", "{\"peft_type\": \"ADAPTION_PROMPT\", \"adapter_len\": 4, \"adapter_layers\": 2}", true, false},
    {"llama_bias", "{\"peft_type\": \"ADAPTION_PROMPT\", \"adapter_len\": 3, \"adapter_layers\": 1}", false, true},
    {"llama_bias", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"bias\": \"all\"}", false, true},
    {"mistral", "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 3}", false, true},
    {"llama", "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 3, \"encoder_hidden_size\": 6}", false, false},
    {"llama", "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 4, \"encoder_hidden_size\": 5, \"encoder_dropout\": 0.3, "
              "\"encoder_reparameterization_type\": \"LSTM\"}", false, false},
};

/* Families besides Llama's; modules are those that peft takes where none are named. */
static const method_case others[] = {
    {"../families/gpt2", "{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\", \"lora_dropout\": 0.25}", true, false},
    {"../families/gpt2", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": \"all-linear\"}", false, false},
    {"../families/gpt2", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": \"all-linear\", \"lora_dropout\": 0.25}", false, false},
    {"../families/gpt2", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": [\"wte\", \"lm_head\"], \"lora_dropout\": 0.25}", false, false},
    {"../families/gpt2", "{\"peft_type\": \"LORA\", \"target_modules\": [\"wte\", \"lm_head\"]}", true, false},
    {"../families/gpt2", "{\"peft_type\": \"ADALORA\", \"init_r\": 4, \"target_r\": 2, \"total_step\": 9}", true, false},
    {"../families/gpt2", "{\"peft_type\": \"OFT\", \"oft_block_size\": 4, \"target_modules\": \"all-linear\"}", true, false},
    {"../families/gpt2", "{\"peft_type\": \"IA3\"}", true, false},
    {"../families/gpt2", "{\"peft_type\": \"LN_TUNING\"}", true, true},
    {"../families/gpt2", "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 3}", false, false},
    {"../families/gpt2", "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 4}", false, false},
    {"../families/gpt2", "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 3, \"prefix_projection\": true, "
                         "\"encoder_hidden_size\": 6}", false, false},
    {"../families/gpt2", "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 4, \"encoder_hidden_size\": 5, "
                         "\"encoder_reparameterization_type\": \"LSTM\"}", false, false},
    {"../families/gpt2", "{\"peft_type\": \"ADAPTION_PROMPT\", \"adapter_len\": 3, \"adapter_layers\": 1}", true, false},
};
enum { ALL_CASES = GR_COUNT(cases) + GR_COUNT(others) };
static const method_case *case_at(size_t i) { return i < GR_COUNT(cases) ? &cases[i] : &others[i - GR_COUNT(cases)]; }

static const int lengths[] = {7, 12, 3, 9}, seeds[] = {1, 2, 3, 4};

/* Moves every parameter away from its initial value. */
static void disturb(graft_model *m, int index) {
    for (size_t i = 0; i < gr_adapter_n_params(m->adapters, index); i++) {
        gr_param *p = gr_adapter_param(m->adapters, index, i);
        uint64_t stream = gr_rng_stream(GR_RNG_TEST, i);
        for (int64_t k = 0; k < p->n; k++) ((float *)p->value)[k] += (float)(0.1 * gr_rng_normal(31, stream, (uint64_t)k));
        gr_param_changed(p);
    }
    assert_ok(gr_adapter_refresh(m->adapters, index, 0, false, &err));
}

static void assert_same(const float *a, const float *b, size_t n, const char *what, const char *which) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("%s: %s: element %zu of %zu is %.9g and %.9g", which, what, i, n, a[i], b[i]);
}

/* n sequences (lengths and seeds from `first` on), each with the adapter of its place in `adapters` and its virtual tokens. */
static void fill(test_batch *b, graft_model *m, int first, int n, const int32_t *adapters) {
    test_batch own;
    int32_t at = 0;
    test_fill_batch(&own, graft_model_vocab_size(m), n, lengths + first, seeds + first);
    memset(b, 0, sizeof *b);
    for (int s = 0; s < n; s++) {
        int ahead = gr_adapter_n_virtual(m->adapters, adapters[s]);
        b->bounds[s] = at;
        b->adapter[s] = adapters[s];
        for (int i = 0; i < ahead + lengths[first + s]; i++, at++) {
            int32_t from = own.bounds[s] + i - ahead;
            b->ids[at] = i < ahead ? -1 - i : own.ids[from];
            b->labels[at] = i < ahead - 1 ? -100 : i == ahead - 1 ? own.ids[own.bounds[s]] : own.labels[from];
            b->weight[at] = 0.125f;
            b->key[at] = (uint64_t)seeds[first + s] * 10000 + (uint64_t)i;
        }
    }
    b->bounds[n] = at;
    b->batch = (gr_batch){.n_tokens = at, .n_seqs = n, .bounds = b->bounds, .ids = b->ids, .labels = b->labels, .weight = b->weight,
                          .dropout_key = b->key, .adapter = b->adapter};
}

static void fresh_adapters_change_nothing(void **state) {
    (void)state;
    for (size_t c = 0; c < ALL_CASES; c++) {
        const method_case *k = case_at(c);
        if (!k->neutral) continue;
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = test_load(ctx, test_model_path(k->model), GRAFT_DTYPE_F32);
        test_batch bare, adapted;
        assert_ok(graft_adapter_new(m, "a", k->config, 7, &err));
        fill(&bare, m, 0, 4, (const int32_t[]){-1, -1, -1, -1});
        fill(&adapted, m, 0, 4, (const int32_t[]){0, 0, 0, 0});
        float *x = test_logits(m->model, m->hooks, &bare.batch), *y = test_logits(m->model, m->hooks, &adapted.batch);
        assert_same(x, y, (size_t)(bare.batch.n_tokens * graft_model_vocab_size(m)), "fresh", k->config);
        free(x);
        free(y);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

static void saved_and_loaded_they_are_the_same(void **state) {
    (void)state;
    for (size_t c = 0; c < ALL_CASES * 2; c++) {
        const method_case *k = case_at(c / 2);
        char dir[1100];
        snprintf(dir, sizeof dir, "%s/saved", test_temp_dir());
        graft_context *ctx = test_context(NULL, 1, NULL);
        graft_model *m = test_load(ctx, test_model_path(k->model), GRAFT_DTYPE_F32);
        test_batch b;
        assert_ok(graft_adapter_new(m, "a", k->config, 7, &err));
        disturb(m, 0);
        fill(&b, m, 0, 4, (const int32_t[]){0, 0, 0, 0});
        float *x = test_logits(m->model, m->hooks, &b.batch);
        assert_ok(gr_remove_tree(dir, &err));
        assert_ok(graft_adapter_save(m, "a", dir, &err));
        assert_ok(graft_adapter_remove(m, "a", &err));
        if (c % 2)
            assert_ok(graft_adapter_load(m, "a", dir, 1, &err));
        else
            assert_ok(graft_adapter_load_trainable(m, "a", dir, &err));
        float *y = test_logits(m->model, m->hooks, &b.batch);
        assert_same(x, y, (size_t)(b.batch.n_tokens * graft_model_vocab_size(m)), "loaded", k->config);
        free(x);
        free(y);
        graft_model_free(m);
        graft_context_free(ctx);
    }
}

/* Every case's adapter that can, each sequence another one, one of them bare. */
static void mix_methods(const char *model) {
    graft_context *ctx = test_context(NULL, 2, NULL);
    graft_model *m = test_load(ctx, test_model_path(model), GRAFT_DTYPE_F32);
    int n = 0;
    for (size_t c = 0; c < ALL_CASES; c++) {
        char name[16];
        if (case_at(c)->alone || strcmp(case_at(c)->model, model) != 0) continue;
        snprintf(name, sizeof name, "%d", n);
        assert_ok(graft_adapter_new(m, name, case_at(c)->config, 7, &err));
        disturb(m, n++);
    }
    for (int turn = 0; turn < n; turn++) {
        test_batch all, one;
        int32_t adapters[4];
        for (int s = 0; s < 4; s++) adapters[s] = s == 2 ? -1 : (turn + s) % n;
        fill(&all, m, 0, 4, adapters);
        int64_t vocab = graft_model_vocab_size(m);
        float *x = test_logits(m->model, m->hooks, &all.batch);
        for (int s = 0; s < 4; s++) {
            fill(&one, m, s, 1, &adapters[s]);
            float *y = test_logits(m->model, m->hooks, &one.batch);
            assert_same(x + all.bounds[s] * vocab, y, (size_t)(one.batch.n_tokens * vocab), "mixed",
                        adapters[s] < 0 ? "bare" : gr_adapter_method_name(m->adapters, adapters[s]));
            free(y);
        }
        free(x);
    }
    graft_model_free(m);
    graft_context_free(ctx);
}

static void a_batch_mixes_methods(void **state) {
    (void)state;
    mix_methods("llama");
    mix_methods("../families/gpt2");
}

/* Gradients of all parameters after the passes of some batches. */
static float *gradients(const method_case *k, int threads, int parts, bool recompute, graft_dtype dtype, size_t *n) {
    graft_context *ctx = test_context(NULL, threads, NULL);
    graft_model *m = test_load(ctx, test_model_path(k->model), dtype);
    gr_adapter_set *set = m->adapters;
    assert_ok(graft_adapter_new(m, "a", k->config, 7, &err));
    disturb(m, 0);
    assert_ok(gr_adapter_refresh(set, 0, 5, true, &err));
    for (int i = 0; i < parts; i++) {
        test_batch b;
        fill(&b, m, i * 4 / parts, 4 / parts, (const int32_t[]){0, 0, 0, 0});
        b.batch.training = true;
        b.batch.seed = 99;
        test_loss(m->model, m->hooks, &b.batch, true, recompute);
    }
    assert_ok(gr_adapter_collect(set, 0, &err));
    size_t total = (size_t)gr_adapter_n_trainable(set, 0), at = 0;
    float *out = malloc(total * sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < gr_adapter_n_params(set, 0); i++) {
        gr_param *p = gr_adapter_param(set, 0, i);
        memcpy(out + at, p->grad, (size_t)p->n * sizeof(float));
        at += (size_t)p->n;
    }
    *n = total;
    graft_model_free(m);
    graft_context_free(ctx);
    return out;
}

static void the_cut_changes_no_bit_of_a_gradient(void **state) {
    (void)state;
    for (size_t c = 0; c < ALL_CASES * 2; c++) {
        const method_case *k = case_at(c / 2);
        graft_dtype dtype = c % 2 ? GRAFT_DTYPE_BF16 : GRAFT_DTYPE_F32;
        size_t n;
        float *x = gradients(k, 1, 1, false, dtype, &n);
        const struct {
            const char *what;
            int threads, parts;
            bool recompute;
        } ways[] = {{"threads", 2, 1, false}, {"2 x 2", 1, 2, false}, {"4 x 1", 1, 4, false}, {"recomputed", 1, 1, true}};
        for (size_t w = 0; w < GR_COUNT(ways); w++) {
            float *y = gradients(k, ways[w].threads, ways[w].parts, ways[w].recompute, dtype, &n);
            assert_same(x, y, n, ways[w].what, k->config);
            free(y);
        }
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += fabs((double)x[i]);
        assert_true(isfinite(sum) && sum > 0);
        free(x);
    }
}

/* Greedy continuation through a session's history is what whole passes give, whatever adapter of the same name and prompt
 * the session saw before. */
static void generation_sees_what_a_pass_sees(void **state) {
    (void)state;
    enum { PROMPT = 5, NEW = 6 };
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_golden("train/model"), GRAFT_DTYPE_F32);
    graft_tokenizer *tok;
    graft_session *session;
    int64_t vocab = graft_model_vocab_size(m);
    assert_ok(graft_tokenizer_load(ctx, test_golden("train/model"), &tok, &err));
    assert_ok(graft_session_new(m, tok, &session, &err));
    for (size_t c = 0; c < GR_COUNT(cases); c++) {
        graft_generation g;
        test_batch b;
        int length = PROMPT, seed = 3, ahead;
        if (strstr(cases[c].config, "BITFIT")) continue; /* this model has no biases */
        assert_ok(graft_adapter_new(m, "a", cases[c].config, 7, &err));
        disturb(m, 0);
        ahead = gr_adapter_n_virtual(m->adapters, 0);
        test_fill_batch(&b, vocab, 1, &length, &seed);
        memmove(b.ids + ahead, b.ids, PROMPT * sizeof *b.ids);
        for (int i = 0; i < ahead; i++) b.ids[i] = -1 - i;
        graft_generate_options o = graft_generate_options_default();
        graft_input_ids prompt = {b.ids + ahead, PROMPT};
        o.adapter = "a";
        o.max_new_tokens = NEW;
        o.ignore_eos = 1;
        assert_ok(graft_generate(session, &prompt, 1, 1, &o, NULL, NULL, &g, &err));
        assert_int_equal(g.n_ids, NEW);
        b.batch.one_adapter = 0;
        b.batch.labels = NULL;
        for (int i = 0; i < NEW; i++) {
            int64_t n = ahead + PROMPT + i, best = 0;
            b.bounds[1] = (int32_t)n;
            b.batch.n_tokens = n;
            float *logits = test_logits(m->model, m->hooks, &b.batch), *last = logits + (n - 1) * vocab;
            for (int64_t k = 1; k < vocab; k++)
                if (last[k] > last[best]) best = k;
            free(logits);
            if (g.ids[i] != best) fail_msg("%s: token %d is %d, a whole pass gives %d", cases[c].config, i, g.ids[i], (int)best);
            b.ids[n] = (int32_t)best;
        }
        graft_generation_free(ctx, &g);
        assert_ok(graft_adapter_remove(m, "a", &err));
    }
    graft_session_free(session);
    graft_tokenizer_free(tok);
    graft_model_free(m);
    graft_context_free(ctx);
}

/* The saved adapter with its file of tensors changed by `how`, and with another peft_type. */
enum { MISSING, SHORT, SURPLUS, UNKNOWN, N_LIES };

static void tell_a_lie(const char *saved, const char *dir, int how, char *tensor, size_t size) {
    char from[1200], to[1200], *text;
    size_t len;
    gr_safetensors *f;
    assert_ok(gr_make_dirs(dir, &err));
    snprintf(from, sizeof from, "%s/adapter_config.json", saved);
    snprintf(to, sizeof to, "%s/adapter_config.json", dir);
    assert_ok(gr_read_file(NULL, from, 1 << 20, &text, &len, &err));
    char *type = strstr(text, "\"peft_type\": \"");
    assert_non_null(type);
    if (how == UNKNOWN) type[strlen("\"peft_type\": \"")] = 'Z';
    assert_ok(gr_write_file(NULL, to, text, len, &err));
    gr_free(NULL, text);
    snprintf(from, sizeof from, "%s/adapter_model.safetensors", saved);
    snprintf(to, sizeof to, "%s/adapter_model.safetensors", dir);
    assert_ok(gr_safetensors_open(NULL, from, &f, &err));
    const gr_tensor_list *list = gr_safetensors_tensors(f);
    gr_named_tensor t[200];
    size_t n = list->n, last = n - 1;
    assert_true(n < GR_COUNT(t));
    memcpy(t, list->items, n * sizeof *t);
    snprintf(tensor, size, "%s", how == SURPLUS ? "zzz.surplus" : how == UNKNOWN ? "'Z" : t[last].name);
    if (how == MISSING) n--;
    if (how == SURPLUS) {
        t[n] = t[last];
        t[n++].name = "zzz.surplus";
    }
    if (how == SHORT) {
        int64_t *d = &t[last].view.shape.d[t[last].view.shape.d[0] > 1 ? 0 : t[last].view.shape.n - 1];
        t[last].view.bytes = t[last].view.bytes / (size_t)*d * (size_t)(*d + 1);
        static const char zeros[1 << 16];
        assert_true(t[last].view.bytes <= sizeof zeros);
        t[last].view.data = zeros;
        ++*d;
    }
    assert_ok(gr_safetensors_save(NULL, to, t, n, NULL, &err));
    gr_safetensors_close(f);
}

static void files_that_lie_are_refused_by_name(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *other = test_load(ctx, test_model_path("llama_head_dim"), GRAFT_DTYPE_F32);
    for (size_t c = 0; c < GR_COUNT(cases); c++) {
        char saved[1100], dir[1100], tensor[400];
        snprintf(saved, sizeof saved, "%s/true", test_temp_dir());
        snprintf(dir, sizeof dir, "%s/lie", test_temp_dir());
        assert_ok(gr_remove_tree(saved, &err));
        graft_model *m = test_load(ctx, test_model_path(cases[c].model), GRAFT_DTYPE_F32);
        assert_ok(graft_adapter_new(m, "a", cases[c].config, 7, &err));
        assert_ok(graft_adapter_save(m, "a", saved, &err));
        for (int how = 0; how < N_LIES; how++) {
            graft_error why = {0};
            tell_a_lie(saved, dir, how, tensor, sizeof tensor);
            graft_status st = graft_adapter_load(m, "b", dir, 1, &why);
            graft_status expected = how == UNKNOWN ? GRAFT_ERR_UNSUPPORTED : GRAFT_ERR_MISMATCH;
            bool told = strstr(why.text, tensor) && strstr(why.text, "lie") && (how != SHORT || strstr(why.text, "expected"));
            if (st != expected || !told)
                fail_msg("%s: lie %d: expected '%s' with '%s', got '%s': %s", cases[c].config, how, graft_status_text(expected), tensor,
                         graft_status_text(st), why.text);
            assert_int_equal(graft_adapter_count(m), 1);
        }
        graft_error why = {0};
        if (graft_adapter_load(other, "b", saved, 1, &why) == GRAFT_OK || !strstr(why.text, "true"))
            fail_msg("%s: on another base: %s", cases[c].config, why.text);
        graft_model_free(m);
    }
    graft_model_free(other);
    graft_context_free(ctx);
}

/* AdaLoRA's adapter_config.json with one word of its rank_pattern changed. */
static void ranks_that_lie_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *word;
        graft_status status;
    } lies[] = {{"layers.0.self_attn.q_proj.lora_E", "layers.7.self_attn.q_proj.lora_E", "layers.7", GRAFT_ERR_MISMATCH},
                {"      false,\n", "", "expected a list of 4", GRAFT_ERR_FORMAT},
                {"      false,\n", "      0,\n", "expected true or false", GRAFT_ERR_FORMAT},
                {"      false,\n", "      true,\n", "lora_A", GRAFT_ERR_MISMATCH}};
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_model_path("llama"), GRAFT_DTYPE_F32);
    for (size_t i = 0; i < GR_COUNT(lies); i++) {
        char from[1200], to[1200], *text, changed[8192];
        size_t len;
        graft_error why = {0};
        snprintf(from, sizeof from, "%s/adapter_config.json", test_golden("family_methods/llama_adalora_trained"));
        assert_ok(gr_read_file(NULL, from, 1 << 20, &text, &len, &err));
        char *at = strstr(text, lies[i].from);
        assert_true(at && len < sizeof changed - 100);
        snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, lies[i].to, at + strlen(lies[i].from));
        gr_free(NULL, text);
        snprintf(to, sizeof to, "%s/ranks", test_temp_dir());
        assert_ok(gr_make_dirs(to, &err));
        snprintf(to, sizeof to, "%s/ranks/adapter_config.json", test_temp_dir());
        assert_ok(gr_write_file(NULL, to, changed, strlen(changed), &err));
        snprintf(from, sizeof from, "%s/adapter_model.safetensors", test_golden("family_methods/llama_adalora_trained"));
        snprintf(to, sizeof to, "%s/ranks/adapter_model.safetensors", test_temp_dir());
        assert_ok(gr_read_file(NULL, from, 1 << 20, &text, &len, &err));
        assert_ok(gr_write_file(NULL, to, text, len, &err));
        gr_free(NULL, text);
        snprintf(to, sizeof to, "%s/ranks", test_temp_dir());
        graft_status st = graft_adapter_load(m, "a", to, 1, &why);
        if (st != lies[i].status || !strstr(why.text, lies[i].word)) fail_msg("lie %zu: %s: %s", i, graft_status_text(st), why.text);
    }
    graft_model_free(m);
    graft_context_free(ctx);
}

static graft_status sweep_body(const graft_allocator *a, void *arg) {
    const method_case *k = arg;
    graft_context_options o = {.n_threads = 1, .cpu = getenv("GRAFT_CPU"), .allocator = *a};
    graft_context *ctx = NULL;
    graft_model *m = NULL;
    char dir[1100];
    snprintf(dir, sizeof dir, "%s/sweep", test_temp_dir());
    graft_status st = graft_context_new(&o, &ctx, NULL);
    if (st == GRAFT_OK) st = graft_model_load(ctx, test_model_path(k->model), NULL, &m, NULL);
    if (st == GRAFT_OK) st = graft_adapter_new(m, "a", k->config, 7, NULL);
    if (st == GRAFT_OK) st = graft_adapter_save(m, "a", dir, NULL);
    if (st == GRAFT_OK) st = graft_adapter_load_trainable(m, "b", dir, NULL);
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    for (size_t c = 0; c < ALL_CASES; c++) test_allocation_sweep(sweep_body, (void *)(uintptr_t)case_at(c), 0, 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fresh_adapters_change_nothing),
        cmocka_unit_test(saved_and_loaded_they_are_the_same),
        cmocka_unit_test(a_batch_mixes_methods),
        cmocka_unit_test(the_cut_changes_no_bit_of_a_gradient),
        cmocka_unit_test(generation_sees_what_a_pass_sees),
        cmocka_unit_test(files_that_lie_are_refused_by_name),
        cmocka_unit_test(ranks_that_lie_are_refused),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
