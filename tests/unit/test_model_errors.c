/* Models and adapters that are wrong are refused with a sentence that names what is; memory may run out anywhere. */
#include "support/model_support.h"

#include <math.h>

static char *read_text(const char *path) {
    char *text;
    size_t n;
    assert_ok(gr_read_file(NULL, path, 1 << 20, &text, &n, &err));
    return text;
}

static void write_text(const char *path, const char *text) {
    assert_ok(gr_write_file(NULL, path, text, strlen(text), &err));
}

/* First place of `from` in a file replaced. */
static void edit(const char *from_path, const char *to_path, const char *from, const char *to) {
    char *text = read_text(from_path), *at = strstr(text, from);
    gr_buf b;
    if (!at) fail_msg("%s: no %s", from_path, from);
    gr_buf_init(&b, NULL);
    gr_buf_add(&b, text, (size_t)(at - text));
    gr_buf_add_text(&b, to);
    gr_buf_add_text(&b, at + strlen(from));
    write_text(to_path, gr_buf_text(&b));
    gr_buf_free(&b);
    gr_free(NULL, text);
}

/* The tiny Llama with one tensor left out, renamed, or of another shape or type. */
typedef enum damage { LEAVE_OUT, TURN, INTEGERS, ZEROS } damage;

static const char *damaged(const char *tensor, damage how) {
    static char dir[1024];
    static const int64_t zeros[8192];
    char path[1100], config[1100];
    gr_safetensors *f;
    snprintf(dir, sizeof dir, "%s/damaged", test_temp_dir());
    assert_ok(gr_remove_tree(dir, &err));
    assert_ok(gr_make_dirs(dir, &err));
    snprintf(path, sizeof path, "%s/config.json", test_model_path("llama"));
    snprintf(config, sizeof config, "%s/config.json", dir);
    edit(path, config, "{", "{");
    assert_ok(gr_safetensors_open(NULL, test_model_path("llama"), &f, &err));
    const gr_tensor_list *list = gr_safetensors_tensors(f);
    gr_named_tensor *t = calloc(list->n, sizeof *t);
    size_t n = 0;
    for (size_t i = 0; i < list->n; i++) {
        t[n] = list->items[i];
        if (strcmp(t[n].name, tensor) == 0) {
            gr_tensor_view *v = &t[n].view;
            if (how == LEAVE_OUT) continue;
            if (how == TURN) v->shape = gr_shape2(v->shape.d[1], v->shape.d[0]);
            if (how == INTEGERS || how == ZEROS) {
                int64_t elements;
                gr_shape_elements(&v->shape, &elements);
                v->dtype = how == ZEROS ? GR_F32 : GR_I64;
                v->data = zeros;
                v->bytes = (size_t)elements * (how == ZEROS ? 4 : 8);
                assert_true(v->bytes <= sizeof zeros);
            }
        }
        n++;
    }
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_ok(gr_safetensors_save(NULL, path, t, n, NULL, &err));
    gr_safetensors_close(f);
    free(t);
    return dir;
}

static void refuse_model(const char *path, graft_status expected, const char *word1, const char *word2) {
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = NULL;
    graft_error err = {0};
    graft_status st = graft_model_load(ctx, path, NULL, &m, &err);
    if (st != expected || !strstr(err.text, word1) || !strstr(err.text, word2))
        fail_msg("%s: expected '%s' with '%s' and '%s', got '%s': %s", path, graft_status_text(expected), word1, word2,
                 graft_status_text(st), err.text);
    assert_null(m);
    graft_context_free(ctx);
}

static void wrong_models_are_named(void **state) {
    (void)state;
    refuse_model(damaged("model.norm.weight", LEAVE_OUT), GRAFT_ERR_NOT_FOUND, "model.norm.weight", "damaged");
    refuse_model(damaged("lm_head.weight", LEAVE_OUT), GRAFT_ERR_NOT_FOUND, "lm_head.weight", "damaged");
    refuse_model(damaged("model.layers.1.mlp.up_proj.weight", TURN), GRAFT_ERR_MISMATCH,
                 "model.layers.1.mlp.up_proj.weight", "[48, 32]");
    refuse_model(damaged("model.embed_tokens.weight", TURN), GRAFT_ERR_MISMATCH, "model.embed_tokens.weight", "[96, 32]");
    refuse_model(damaged("model.layers.0.self_attn.q_proj.weight", INTEGERS), GRAFT_ERR_UNSUPPORTED,
                 "model.layers.0.self_attn.q_proj.weight", "I64");
    refuse_model("/nonexistent/model", GRAFT_ERR_NOT_FOUND, "/nonexistent/model", "");
    const struct {
        const char *from, *to;
        graft_status status;
        const char *word1, *word2;
    } cases[] = {
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", GRAFT_ERR_NOT_FOUND, "model.layers.2.", "damaged"},
        {"\"intermediate_size\": 48", "\"intermediate_size\": 64", GRAFT_ERR_MISMATCH, "gate_proj.weight", "[64, 32]"},
        {"\"vocab_size\": 96", "\"vocab_size\": 95", GRAFT_ERR_MISMATCH, "embed_tokens", "[95, 32]"},
        {"\"model_type\": \"llama\"", "\"model_type\": \"bloom\"", GRAFT_ERR_UNSUPPORTED, "bloom", "config.json"},
        {"\"attention_bias\": false", "\"attention_bias\": true", GRAFT_ERR_NOT_FOUND, "q_proj.bias", "damaged"},
    };
    char from[1100], to[1100];
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        const char *dir = damaged("", LEAVE_OUT);
        snprintf(from, sizeof from, "%s/config.json", test_model_path("llama"));
        snprintf(to, sizeof to, "%s/config.json", dir);
        edit(from, to, cases[i].from, cases[i].to);
        refuse_model(dir, cases[i].status, cases[i].word1, cases[i].word2);
    }
}

static void wrong_adapter_settings_are_named(void **state) {
    (void)state;
    const struct {
        const char *config;
        graft_status status;
        const char *word;
    } cases[] = {
        {"{\"peft_type\": \"LORA\", \"r\": 0}", GRAFT_ERR_ARGUMENT, "'r' is 0"},
        {"{\"peft_type\": \"LORA\", \"r\": 1.5}", GRAFT_ERR_FORMAT, "'r'"},
        {"{\"peft_type\": \"LORA\", \"r\": \"8\"}", GRAFT_ERR_FORMAT, "a string"},
        {"{\"peft_type\": \"LORA\", \"lora_dropout\": 1}", GRAFT_ERR_ARGUMENT, "lora_dropout"},
        {"{\"peft_type\": \"LORA\", \"bias\": \"some\"}", GRAFT_ERR_ARGUMENT, "some"},
        {"{\"peft_type\": \"LORA\", \"rank\": 8}", GRAFT_ERR_ARGUMENT, "'rank'"},
        {"{\"peft_type\": \"LORA\", \"init_lora_weights\": \"corda\"}", GRAFT_ERR_UNSUPPORTED, "corda"},
        {"{\"peft_type\": \"LORA\", \"init_lora_weights\": \"pissa_niter_x\"}", GRAFT_ERR_ARGUMENT, "pissa_niter_x"},
        {"{\"peft_type\": \"LORA\", \"init_lora_weights\": \"pissa\", \"r\": 17}", GRAFT_ERR_ARGUMENT, "no rank of 17"},
        {"{\"peft_type\": \"LORA\", \"init_lora_weights\": \"olora\", \"target_modules\": [\"embed_tokens\"]}",
         GRAFT_ERR_UNSUPPORTED, "embed_tokens"},
        {"{\"peft_type\": \"LORA\", \"init_lora_weights\": \"pissa\", \"lora_alpha\": 0}", GRAFT_ERR_ARGUMENT, "scale of 0"},
        {"{\"peft_type\": \"VERA\", \"bias\": \"all\"}", GRAFT_ERR_UNSUPPORTED, "'all'"},
        {"{\"peft_type\": \"VERA\", \"vera_dropout\": 1}", GRAFT_ERR_ARGUMENT, "vera_dropout"},
        {"{\"peft_type\": \"VERA\", \"projection_prng_key\": -1}", GRAFT_ERR_ARGUMENT, "projection_prng_key"},
        {"{\"peft_type\": \"LOHA\", \"target_modules\": [\"embed_tokens\"]}", GRAFT_ERR_UNSUPPORTED, "embed_tokens"},
        {"{\"peft_type\": \"LOHA\", \"r\": 300}", GRAFT_ERR_LIMIT, "300"},
        {"{\"peft_type\": \"LOHA\", \"rank_dropout\": 0.1}", GRAFT_ERR_UNSUPPORTED, "rank_dropout"},
        {"{\"peft_type\": \"LOKR\", \"decompose_factor\": 0}", GRAFT_ERR_ARGUMENT, "decompose_factor"},
        {"{\"peft_type\": \"LOKR\", \"init_weights\": \"some\"}", GRAFT_ERR_ARGUMENT, "'some'"},
        {"{\"peft_type\": \"LOKR\", \"module_dropout\": 0.5}", GRAFT_ERR_UNSUPPORTED, "module_dropout"},
        {"{\"peft_type\": \"BITFIT\"}", GRAFT_ERR_ARGUMENT, "no biases"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"nix\"]}", GRAFT_ERR_ARGUMENT, "nix: not found"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": \"q_proj\"}", GRAFT_ERR_ARGUMENT, "not found"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": \"(q_proj\"}", GRAFT_ERR_FORMAT, "(q_proj"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": \"(a*)*(a*)*(.*)*b\"}", GRAFT_ERR_LIMIT, "too long"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"mlp\"]}", GRAFT_ERR_UNSUPPORTED, "model.layers.0.mlp"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"norm\"]}", GRAFT_ERR_UNSUPPORTED, "model.norm"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": [7]}", GRAFT_ERR_FORMAT, "a list of names"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"layers_to_transform\": [7]}", GRAFT_ERR_ARGUMENT,
         "layers_to_transform"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": \".*q_proj\", \"layers_to_transform\": [0]}", GRAFT_ERR_ARGUMENT,
         "layers_to_transform"},
        {"{\"peft_type\": \"LORA\", \"layers_pattern\": \"layers\"}", GRAFT_ERR_ARGUMENT, "layers_pattern"},
        {"{\"peft_type\": \"LORA\", \"rank_pattern\": {\"q_proj\": 0}}", GRAFT_ERR_ARGUMENT, "rank"},
        {"{\"peft_type\": \"LORA\", \"rank_pattern\": {\"(\": 2}}", GRAFT_ERR_FORMAT, "rank_pattern"},
        {"{\"peft_type\": \"LORA\", \"exclude_modules\": \".*\"}", GRAFT_ERR_ARGUMENT, "excluded"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"modules_to_save\": [\"q_proj\"]}",
         GRAFT_ERR_ARGUMENT, "no module is left"},
        {"{\"peft_type\": \"OFT\", \"r\": 4}", GRAFT_ERR_ARGUMENT, "one of r and oft_block_size"},
        {"{\"peft_type\": \"OFT\", \"bias\": \"oft_only\"}", GRAFT_ERR_UNSUPPORTED, "'oft_only'"},
        {"{\"peft_type\": \"OFT\", \"module_dropout\": 0.1}", GRAFT_ERR_ARGUMENT, "module_dropout"},
        {"{\"peft_type\": \"OFT\", \"num_cayley_neumann_terms\": 1}", GRAFT_ERR_ARGUMENT, "num_cayley_neumann_terms is 1"},
        {"{\"peft_type\": \"OFT\", \"oft_block_size\": 1}", GRAFT_ERR_ARGUMENT, "turn nothing"},
        {"{\"peft_type\": \"OFT\", \"target_modules\": [\"lm_head\"]}", GRAFT_ERR_UNSUPPORTED, "is the head"},
        {"{\"peft_type\": \"MULTITASK_PROMPT_TUNING\", \"num_virtual_tokens\": 2, \"num_tasks\": 0}", GRAFT_ERR_ARGUMENT, "num_tasks"},
        {"{\"peft_type\": \"MULTITASK_PROMPT_TUNING\", \"num_virtual_tokens\": 2, \"prompt_tuning_init\": \"SAMPLE_VOCAB\"}", GRAFT_ERR_ARGUMENT,
         "'SAMPLE_VOCAB'"},
        {"{\"peft_type\": \"MULTITASK_PROMPT_TUNING\", \"num_virtual_tokens\": 2, \"prompt_tuning_init\": \"EXACT_SOURCE_TASK\"}", GRAFT_ERR_ARGUMENT,
         "needs 'prompt_tuning_init_state_dict_path'"},
        {"{\"peft_type\": \"MULTITASK_PROMPT_TUNING\", \"num_virtual_tokens\": 2, \"prompt_template\": \"[P0] x [MASK]\"}", GRAFT_ERR_ARGUMENT,
         "prompt_template"},
        {"{\"peft_type\": \"BOFT\"}", GRAFT_ERR_UNSUPPORTED, "BOFT"},
        {"{\"peft_type\": \"ADALORA\", \"tinit\": 5, \"tfinal\": 5, \"total_step\": 10}", GRAFT_ERR_ARGUMENT, "tinit 5 and tfinal 5"},
        {"{\"peft_type\": \"ADALORA\", \"init_r\": 4}", GRAFT_ERR_ARGUMENT, "target_r 8 above init_r 4"},
        {"{\"peft_type\": \"ADALORA\", \"deltaT\": 0}", GRAFT_ERR_ARGUMENT, "'deltaT' is 0"},
        {"{\"peft_type\": \"ADALORA\", \"beta2\": 1}", GRAFT_ERR_ARGUMENT, "beta2"},
        {"{\"peft_type\": \"ADALORA\", \"orth_reg_weight\": -1}", GRAFT_ERR_ARGUMENT, "orth_reg_weight"},
        {"{\"peft_type\": \"ADALORA\", \"use_dora\": true}", GRAFT_ERR_UNSUPPORTED, "use_dora"},
        {"{\"peft_type\": \"ADALORA\", \"use_rslora\": true}", GRAFT_ERR_ARGUMENT, "'use_rslora' has no effect"},
        {"{\"peft_type\": \"ADALORA\", \"r\": 4}", GRAFT_ERR_ARGUMENT, "init_r"},
        {"{\"peft_type\": \"ADALORA\", \"init_lora_weights\": \"pissa\"}", GRAFT_ERR_UNSUPPORTED, "'pissa'"},
        {"{\"peft_type\": \"ADALORA\", \"target_modules\": [\"embed_tokens\"]}", GRAFT_ERR_UNSUPPORTED, "embed_tokens"},
        {"{\"r\": 8}", GRAFT_ERR_FORMAT, "peft_type"},
        {"[]", GRAFT_ERR_FORMAT, "an array"},
        {"{\"peft_type\": \"LORA\"", GRAFT_ERR_FORMAT, "name"},
        {"{\"peft_type\": \"FULL\", \"target_modules\": [\"nix\"]}", GRAFT_ERR_ARGUMENT, "no module"},
        {"{\"peft_type\": \"FULL\", \"r\": 8}", GRAFT_ERR_ARGUMENT, "'r'"},
    };
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_model_path("llama"), GRAFT_DTYPE_F32);
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_error err = {0};
        graft_status st = graft_adapter_new(m, "name", cases[i].config, 0, &err);
        if (st != cases[i].status || !strstr(err.text, cases[i].word) || !strstr(err.text, "name"))
            fail_msg("%s: expected '%s' with '%s', got '%s': %s", cases[i].config, graft_status_text(cases[i].status),
                     cases[i].word, graft_status_text(st), err.text);
        assert_int_equal(graft_adapter_count(m), 0);
    }
    graft_error why;
    assert_ok(graft_adapter_new(m, "a", "{\"peft_type\": \"LORA\"}", 0, &err));
    assert_int_equal(graft_adapter_new(m, "a", "{\"peft_type\": \"LORA\"}", 0, &why), GRAFT_ERR_ARGUMENT);
    assert_int_equal(graft_adapter_remove(m, "b", &why), GRAFT_ERR_NOT_FOUND);
    assert_int_equal(graft_adapter_count(m), 1);
    assert_string_equal(graft_adapter_name(m, 0), "a");
    assert_null(graft_adapter_name(m, 1));
    assert_int_equal(graft_adapter_n_params(m, "a"), 2 * 8 * (32 + 32 + 32 + 16));
    graft_model_free(m);
    graft_context_free(ctx);
}

/* An adapter directory with an edited configuration, or with a base that it was not made for. */
static void refuse_adapter(graft_model *m, const char *name, const char *from, const char *to, graft_status expected,
                           const char *word) {
    char dir[1024], source[1100], target[1100], rest[100];
    graft_error why = {0};
    gr_safetensors *f;
    snprintf(rest, sizeof rest, "adapters/%s", name);
    snprintf(dir, sizeof dir, "%s/adapter", test_temp_dir());
    assert_ok(gr_make_dirs(dir, &err));
    snprintf(source, sizeof source, "%s/adapter_config.json", test_golden(rest));
    snprintf(target, sizeof target, "%s/adapter_config.json", dir);
    edit(source, target, from, to);
    snprintf(source, sizeof source, "%s/adapter_model.safetensors", test_golden(rest));
    snprintf(target, sizeof target, "%s/adapter_model.safetensors", dir);
    assert_ok(gr_safetensors_open(NULL, source, &f, &err));
    const gr_tensor_list *list = gr_safetensors_tensors(f);
    assert_ok(gr_safetensors_save(NULL, target, list->items, list->n, NULL, &err));
    gr_safetensors_close(f);
    graft_status st = graft_adapter_load(m, "a", dir, 1, &why);
    if (st != expected || !strstr(why.text, word))
        fail_msg("%s: expected '%s' with '%s', got '%s': %s", to, graft_status_text(expected), word, graft_status_text(st),
                 why.text);
    assert_int_equal(graft_adapter_count(m), 0);
}

static void wrong_adapters_are_named(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_model_path("llama"), GRAFT_DTYPE_F32);
    graft_model *other = test_load(ctx, test_model_path("llama_head_dim"), GRAFT_DTYPE_F32);
    graft_error why = {0};
    refuse_adapter(m, "plain", "\"r\": 4", "\"r\": 5", GRAFT_ERR_MISMATCH, "[4, 32]");
    refuse_adapter(m, "plain", "\"r\": 4", "\"r\": 65536", GRAFT_ERR_MISMATCH, "describes far more");
    refuse_adapter(m, "plain", "\"v_proj\"", "\"k_proj\"", GRAFT_ERR_MISMATCH, "k_proj.lora_A.weight");
    refuse_adapter(m, "plain", "\"v_proj\"", "\"q_proj\"", GRAFT_ERR_MISMATCH, "v_proj.lora_A.weight");
    refuse_adapter(m, "plain", "\"LORA\"", "\"BOFT\"", GRAFT_ERR_UNSUPPORTED, "BOFT");
    refuse_adapter(m, "plain", "\"use_dora\": false", "\"use_dora\": true", GRAFT_ERR_MISMATCH, "lora_magnitude_vector");
    refuse_adapter(m, "plain", "\"lora_bias\": false", "\"lora_bias\": true", GRAFT_ERR_UNSUPPORTED, "lora_bias");
    refuse_adapter(m, "plain", "\"peft_type\"", "\"peft\"", GRAFT_ERR_FORMAT, "peft_type");
    refuse_adapter(other, "plain", "\"r\": 4", "\"r\": 4", GRAFT_ERR_MISMATCH, "base model");
    assert_int_equal(graft_adapter_load(m, "a", "/nonexistent", 1, &why), GRAFT_ERR_NOT_FOUND);
    assert_non_null(strstr(why.text, "adapter_config.json"));
    graft_model_free(other);
    graft_model_free(m);
    graft_context_free(ctx);
}

/* Of a head that is trained itself the norms of the base's rows are not what DoRA needs. */
static void dora_wants_a_frozen_head(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, test_model_path("llama_tied"), GRAFT_DTYPE_F32);
    graft_error why = {0};
    assert_int_equal(graft_adapter_new(m, "a", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": [\"lm_head\"], "
                                               "\"modules_to_save\": [\"embed_tokens\"], \"ensure_weight_tying\": true}", 0, &why),
                     GRAFT_ERR_UNSUPPORTED);
    assert_non_null(strstr(why.text, "'lm_head'"));
    graft_model_free(m);
    m = test_load(ctx, test_golden("families/llama_cls"), GRAFT_DTYPE_F32);
    assert_int_equal(graft_adapter_new(m, "a", "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": [\"score\"], "
                                               "\"lora_dropout\": 0.1}", 0, &why), GRAFT_ERR_UNSUPPORTED);
    assert_non_null(strstr(why.text, "'score'"));
    graft_model_free(m);
    graft_context_free(ctx);
}

/* Rows that something has pruned have no direction, which is no reason for DoRA to give anything but zeros there. */
static void dora_takes_rows_of_zeros(void **state) {
    (void)state;
    graft_context *ctx = test_context(NULL, 1, NULL);
    graft_model *m = test_load(ctx, damaged("model.layers.0.self_attn.q_proj.weight", ZEROS), GRAFT_DTYPE_F32);
    test_batch b;
    const int lengths[] = {5, 3}, which[] = {1, 2};
    test_fill_batch(&b, 96, 2, lengths, which);
    b.batch.one_adapter = -1;
    double plain = test_loss(m->model, NULL, &b.batch, false, false);
    assert_ok(graft_adapter_new(m, "a", "{\"peft_type\": \"LORA\", \"use_dora\": true}", 0, &err));
    b.batch.one_adapter = 0;
    assert_ok(gr_adapter_refresh(m->adapters, 0, 0, true, &err));
    double adapted = test_loss(m->model, m->hooks, &b.batch, true, false);
    assert_true(fabs(plain - adapted) < 1e-5);
    assert_ok(gr_adapter_collect(m->adapters, 0, &err));
    for (size_t i = 0; i < gr_adapter_n_params(m->adapters, 0); i++) {
        const gr_param *p = gr_adapter_param(m->adapters, 0, i);
        for (int64_t k = 0; k < p->n; k++) assert_true(isfinite(((const float *)p->grad)[k]));
    }
    graft_model_free(m);
    graft_context_free(ctx);
}

/* --- Memory ------------------------------------------------------------------------------------------------------------------------------ */

static graft_status step(gr_model *m, const gr_hooks *hooks, bool backward) {
    gr_pool *pool = NULL;
    gr_tape *t = NULL;
    gr_pass *p = NULL;
    gr_loss loss;
    test_batch b;
    const int lengths[] = {5, 3}, seeds[] = {1, 2};
    const graft_allocator *a = gr_allocator(gr_model_context(m));
    gr_pass_options o = {.hooks = hooks, .recompute = true};
    graft_status st;
    test_fill_batch(&b, 96, 2, lengths, seeds);
    b.batch.one_adapter = hooks ? 0 : -1;
    GR_GO(done, gr_pool_new(a, 0, false, &pool, NULL));
    GR_GO(done, gr_tape_new(gr_model_device(m), pool, &(gr_tape_options){.record = backward}, &t, NULL));
    GR_GO(done, gr_pass_new(m, &p, NULL));
    GR_GO(done, gr_pass_loss(p, t, &b.batch, &o, &loss, NULL));
    if (backward) GR_GO(done, gr_tape_backward(t, loss.var, NULL, NULL));
done:
    gr_tape_free(t);
    gr_pass_free(p);
    gr_pool_free(pool);
    return st;
}

static graft_status open_and_step(const graft_allocator *a, void *arg) {
    graft_context *ctx = NULL;
    graft_model *m = NULL;
    graft_status st;
    graft_context_options o = {.allocator = *a, .n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    GR_GO(done, graft_context_new(&o, &ctx, NULL));
    GR_GO(done, graft_model_load(ctx, test_model_path(arg), &(graft_model_options){.dtype = GRAFT_DTYPE_F32}, &m, NULL));
    GR_GO(done, step(m->model, NULL, false));
done:
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static void opening_survives_any_failed_allocation(void **state) {
    (void)state;
    test_allocation_sweep(open_and_step, (void *)(uintptr_t)"llama_bias", 0, 1);
    test_allocation_sweep(open_and_step, (void *)(uintptr_t)"g_q4_0.gguf", 0, 1);
}

static graft_status adapt(const graft_allocator *a, void *arg) {
    graft_context *ctx = NULL;
    graft_model *m = NULL;
    graft_status st;
    char dir[1024];
    graft_context_options o = {.allocator = *a, .n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    snprintf(dir, sizeof dir, "%s/swept", test_temp_dir());
    GR_GO(done, graft_context_new(&o, &ctx, NULL));
    GR_GO(done, graft_model_load(ctx, test_model_path("llama_one_kv"), &(graft_model_options){.dtype = GRAFT_DTYPE_F32}, &m,
                                 NULL));
    GR_GO(done, graft_adapter_new(m, "a", arg, 1, NULL));
    GR_GO(done, step(m->model, m->hooks, true));
    GR_GO(done, graft_adapter_save(m, "a", dir, NULL));
    GR_GO(done, graft_adapter_remove(m, "a", NULL));
    if (strstr(arg, "LORA")) GR_GO(done, graft_adapter_load(m, "b", dir, 1, NULL));
done:
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static void adapting_survives_any_failed_allocation(void **state) {
    (void)state;
    test_allocation_sweep(adapt,
                          (void *)(uintptr_t)"{\"peft_type\": \"LORA\", \"r\": 2, \"target_modules\": [\"q_proj\", \"up_proj\"], "
                          "\"layers_to_transform\": [0], \"rank_pattern\": {\"up_proj\": 3}, \"modules_to_save\": [\"lm_head\"]}",
                          0, 3);
    test_allocation_sweep(adapt, (void *)(uintptr_t)"{\"peft_type\": \"FULL\"}", 0, 5);
}

static graft_status forward(const graft_allocator *a, void *arg) {
    graft_context *ctx = NULL;
    graft_model *m = NULL;
    graft_status st;
    char out[1100], *json = NULL;
    graft_context_options o = {.allocator = *a, .n_threads = 1, .cpu = getenv("GRAFT_CPU")};
    snprintf(out, sizeof out, "%s/out.safetensors", test_temp_dir());
    graft_forward_options f = {.input = arg, .output = out, .backward = 1};
    GR_GO(done, graft_context_new(&o, &ctx, NULL));
    GR_GO(done, graft_model_load(ctx, test_model_path("llama_one_kv"), &(graft_model_options){.dtype = GRAFT_DTYPE_F32}, &m,
                                 NULL));
    GR_GO(done, graft_forward(m, &f, NULL));
    GR_GO(done, graft_model_info(ctx, test_model_path("llama_one_kv"), NULL, &json, NULL));
done:
    if (json) graft_free(ctx, json);
    graft_model_free(m);
    graft_context_free(ctx);
    return st;
}

static void forward_survives_any_failed_allocation(void **state) {
    (void)state;
    gr_safetensors *golden;
    char path[1100];
    snprintf(path, sizeof path, "%s/golden.safetensors", test_model_path("llama"));
    assert_ok(gr_safetensors_open(NULL, path, &golden, &err));
    const char *in = test_write_inputs(gr_safetensors_tensors(golden));
    test_allocation_sweep(forward, (void *)(uintptr_t)in, 0, 7);
    gr_safetensors_close(golden);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_models_are_named),
        cmocka_unit_test(wrong_adapter_settings_are_named),
        cmocka_unit_test(wrong_adapters_are_named),
        cmocka_unit_test(dora_takes_rows_of_zeros), cmocka_unit_test(dora_wants_a_frozen_head),
        cmocka_unit_test(opening_survives_any_failed_allocation),
        cmocka_unit_test(adapting_survives_any_failed_allocation),
        cmocka_unit_test(forward_survives_any_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
