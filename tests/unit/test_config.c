/* Room io: model configurations against transformers' (tools/golden/make_formats.py), from GGUF, and back. */
#include <math.h>

#include "io/config_parts.h"
#include "io/hf_config.h"
#include "support/corrupt.h"

static const gr_json_value *member(const gr_json_value *v, const char *key) {
    const gr_json_value *m = gr_json_get(v, key);
    if (!m) fail_msg("the golden has no %s", key);
    return m;
}

static int64_t whole(const gr_json_value *v, const char *key) {
    const gr_json_value *m = member(v, key);
    return m->kind == GR_JSON_NUMBER ? m->number.i : m->kind == GR_JSON_TRUE;
}

static double number(const gr_json_value *rope, const char *key) {
    const gr_json_value *m = gr_json_get(rope, key);
    return m && m->kind == GR_JSON_NUMBER ? m->number.d : 0;
}

static void check_rope(const gr_rope_config *r, const gr_json_value *want) {
    assert_string_equal(gr_rope_type_name(r->type), member(want, "rope_type")->text);
    assert_true(r->theta == number(want, "rope_theta"));
    assert_true(r->factor == number(want, "factor"));
    assert_true(r->low_freq_factor == number(want, "low_freq_factor"));
    assert_true(r->high_freq_factor == number(want, "high_freq_factor"));
    assert_true(r->attention_factor == number(want, "attention_factor"));
    assert_true(r->mscale == number(want, "mscale"));
    assert_true(r->mscale_all_dim == number(want, "mscale_all_dim"));
    if (r->type == GR_ROPE_LLAMA3 || r->type == GR_ROPE_YARN)
        assert_true((double)r->original_max_position_embeddings == number(want, "original_max_position_embeddings"));
    if (r->type == GR_ROPE_YARN) {
        const gr_json_value *truncate = gr_json_get(want, "truncate");
        assert_true(r->beta_fast == (number(want, "beta_fast") > 0 ? number(want, "beta_fast") : 32));
        assert_true(r->beta_slow == (number(want, "beta_slow") > 0 ? number(want, "beta_slow") : 1));
        assert_int_equal(r->truncate, !(truncate && truncate->kind == GR_JSON_FALSE));
    }
}

static void check_id(int64_t id, const gr_json_value *list) {
    assert_int_equal(id, list->len ? list->child->number.i : -1);
}

static void check_config(const gr_model_config *c, const gr_json_value *want) {
    assert_int_equal(c->vocab_size, whole(want, "vocab_size"));
    assert_int_equal(c->hidden_size, whole(want, "hidden_size"));
    assert_int_equal(c->intermediate_size, whole(want, "intermediate_size"));
    assert_int_equal(c->n_layers, whole(want, "n_layers"));
    assert_int_equal(c->n_heads, whole(want, "n_heads"));
    assert_int_equal(c->n_kv_heads, whole(want, "n_kv_heads"));
    assert_int_equal(c->head_dim, whole(want, "head_dim"));
    assert_int_equal(c->max_position_embeddings, whole(want, "max_position_embeddings"));
    assert_int_equal(c->sliding_window, whole(want, "sliding_window"));
    assert_int_equal(c->qkv_bias, whole(want, "qkv_bias"));
    assert_int_equal(c->o_bias, whole(want, "o_bias"));
    assert_int_equal(c->mlp_bias, whole(want, "mlp_bias"));
    assert_int_equal(c->tie_word_embeddings, whole(want, "tied"));
    assert_true(c->rms_norm_eps == member(want, "rms_norm_eps")->number.d);
    check_rope(&c->rope, member(want, "rope"));
    check_id(c->bos_token_id, member(want, "bos"));
    check_id(c->pad_token_id, member(want, "pad"));
    const gr_json_value *v = member(want, "eos")->child;
    assert_int_equal(c->n_eos, member(want, "eos")->len);
    for (int i = 0; i < c->n_eos; i++, v = v->next) assert_int_equal(c->eos_token_ids[i], v->number.i);
    int i = 0;
    for (v = member(want, "layer_sliding")->child; v; v = v->next)
        assert_int_equal(c->layer_sliding[i++], v->kind == GR_JSON_TRUE);
    assert_int_equal(i, c->n_layers);
    i = 0;
    for (v = member(want, "layer_rope")->child; v; v = v->next)
        assert_int_equal(c->layer_rope[i++], v->kind == GR_JSON_TRUE);
    const char *dtype = member(want, "dtype")->text;
    assert_int_equal(c->dtype, !strcmp(dtype, "bfloat16") ? GR_BF16 : !strcmp(dtype, "float16") ? GR_F16 : GR_F32);
}

/* Prints a tree as JSON again: the golden holds each config.json as an object. */
static void print(gr_buf *b, const gr_json_value *v) {
    switch (v->kind) {
    case GR_JSON_NULL: gr_buf_add_text(b, "null"); break;
    case GR_JSON_TRUE: gr_buf_add_text(b, "true"); break;
    case GR_JSON_FALSE: gr_buf_add_text(b, "false"); break;
    case GR_JSON_STRING: gr_json_add_text(b, v->text, v->len); break;
    case GR_JSON_NUMBER:
        if (v->number.is_int)
            gr_buf_add_format(b, "%lld", (long long)v->number.i);
        else
            gr_json_add_double(b, v->number.d);
        break;
    default:
        gr_buf_add_char(b, v->kind == GR_JSON_ARRAY ? '[' : '{');
        for (const gr_json_value *c = v->child; c; c = c->next) {
            if (c != v->child) gr_buf_add_char(b, ',');
            if (c->key) gr_json_add_text(b, c->key, c->key_len);
            if (c->key) gr_buf_add_char(b, ':');
            print(b, c);
        }
        gr_buf_add_char(b, v->kind == GR_JSON_ARRAY ? ']' : '}');
    }
}

static void configs_mean_what_transformers_takes_them_for(void **state) {
    (void)state;
    gr_arena arena;
    const gr_json_value *root;
    size_t n, cases = 0;
    gr_arena_init(&arena, NULL, 0);
    unsigned char *text = test_read_file(test_golden("formats/configs.json"), &n);
    assert_ok(gr_json_parse(&arena, "configs.json", (const char *)text, n, &root, &err));
    for (const gr_json_value *row = root->child; row; row = row->next, cases++) {
        gr_buf b;
        gr_model_config c, again;
        char *written;
        gr_buf_init(&b, NULL);
        print(&b, member(row, "config"));
        assert_ok(gr_model_config_from_json(NULL, "config.json", b.data, b.len, &c, &err));
        check_config(&c, member(row, "expect"));
        /* What graft writes means the same. */
        assert_ok(gr_model_config_to_json(NULL, &c, c.dtype, &written, &err));
        assert_ok(gr_model_config_from_json(NULL, "written", written, strlen(written), &again, &err));
        check_config(&again, member(row, "expect"));
        gr_free(NULL, written);
        gr_buf_free(&b);
    }
    assert_true(cases > 25);
    gr_arena_free(&arena);
    gr_free(NULL, text);
}

/* transformers 5.24's T5Config: what v1.0 and v1.1 write, and what it writes itself for both. */
static void t5_says_whether_it_scales_in_two_ways(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool tied, scaled, gated;
    } cases[] = {
        {"{\"model_type\":\"t5\"}", true, true, false},
        {"{\"model_type\":\"t5\",\"tie_word_embeddings\":false,\"feed_forward_proj\":\"gated-gelu\"}", false, false,
         true},
        {"{\"model_type\":\"t5\",\"tie_word_embeddings\":true,\"scale_decoder_outputs\":false}", true, false, false},
        {"{\"model_type\":\"t5\",\"tie_word_embeddings\":false,\"scale_decoder_outputs\":true}", false, true, false}};
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        gr_model_config c;
        assert_ok(gr_model_config_from_json(NULL, "c.json", cases[i].text, strlen(cases[i].text), &c, &err));
        assert_int_equal(c.tie_word_embeddings, cases[i].tied);
        assert_int_equal(c.scale_decoder_outputs, cases[i].scaled);
        assert_int_equal(c.gated_act, cases[i].gated);
        assert_int_equal(c.hidden_act, cases[i].gated ? GR_ACT_GELU_TANH : GR_ACT_RELU);
        assert_int_equal(c.n_encoder_layers, 6);
        assert_int_equal(c.n_layers, 12);
        assert_int_equal(c.decoder_start_token_id, 0);
        assert_int_equal(c.eos_token_ids[0], 1);
    }
}

static void faults_are_named(void **state) {
    (void)state;
#define HEAD "{\"model_type\":\"llama\",\"hidden_size\":64,\"num_attention_heads\":4,\"num_hidden_layers\":2,"
    static const struct {
        const char *text;
        graft_status st;
        const char *says;
    } cases[] = {
        {"{}", GRAFT_ERR_FORMAT, "model_type is missing (known: llama, mistral, qwen2, qwen3, smollm3, gpt2"},
        {"[]", GRAFT_ERR_FORMAT, "model_type is missing"},
        {"{\"model_type\":\"gpt_neox\"}", GRAFT_ERR_UNSUPPORTED, "\"gpt_neox\" is not supported (known: llama"},
        {"{\"model_type\":7}", GRAFT_ERR_FORMAT, "model_type: expected a string"},
        {HEAD "\"vocab_size\":0}", GRAFT_ERR_FORMAT, "c.json: vocab_size: expected 1 to 2147483647, found 0"},
        {HEAD "\"vocab_size\":\"many\"}", GRAFT_ERR_FORMAT, "vocab_size: expected an integer, found a string"},
        {HEAD "\"vocab_size\":6.5}", GRAFT_ERR_FORMAT, "vocab_size: expected an integer, found a fraction"},
        {HEAD "\"vocab_size\":9223372036854775808}", GRAFT_ERR_FORMAT,
         "vocab_size: expected an integer, found an integer of more than 64 bits"},
        {HEAD "\"vocab_size\":-1e400}", GRAFT_ERR_FORMAT, "found a number that is not finite"},
        {HEAD "\"vocab_size\":1.5}", GRAFT_ERR_FORMAT, "vocab_size"},
        {HEAD "\"vocab_size\":8.0}", GRAFT_OK, NULL},
        {HEAD "\"num_key_value_heads\":3}", GRAFT_ERR_FORMAT,
         "num_key_value_heads: expected a divisor of num_attention_heads (4), found 3"},
        {HEAD "\"num_key_value_heads\":0}", GRAFT_ERR_FORMAT, "num_key_value_heads: expected 1"},
        {"{\"model_type\":\"llama\",\"hidden_size\":65,\"num_attention_heads\":4}", GRAFT_ERR_FORMAT,
         "hidden_size: expected a multiple of num_attention_heads (4), found 65"},
        {HEAD "\"head_dim\":7}", GRAFT_ERR_UNSUPPORTED, "head_dim: expected an even number"},
        {HEAD "\"num_hidden_layers\":1000000}", GRAFT_ERR_FORMAT, "num_hidden_layers"},
        {HEAD "\"rms_norm_eps\":-1}", GRAFT_ERR_FORMAT, "rms_norm_eps"},
        {HEAD "\"rms_norm_eps\":NaN}", GRAFT_ERR_FORMAT, "rms_norm_eps"},
        {HEAD "\"rope_theta\":0}", GRAFT_ERR_FORMAT, "rope_theta"},
        {HEAD "\"hidden_act\":\"gelu\"}", GRAFT_ERR_UNSUPPORTED, "hidden_act: expected silu or swish, found \"gelu\""},
        {HEAD "\"quantization_config\":{\"quant_method\":\"gptq\"}}", GRAFT_ERR_UNSUPPORTED, "gptq"},
        {HEAD "\"rope_scaling\":[1]}", GRAFT_ERR_FORMAT, "rope_scaling: expected an object"},
        {HEAD "\"rope_scaling\":{\"type\":\"longrope\"}}", GRAFT_ERR_UNSUPPORTED,
         "rope_scaling.type: expected default"},
        {HEAD "\"rope_scaling\":{\"type\":\"linear\"}}", GRAFT_ERR_FORMAT, "rope_scaling.factor: is missing"},
        {HEAD "\"rope_scaling\":{\"type\":\"linear\",\"factor\":0.5}}", GRAFT_ERR_FORMAT,
         "rope_scaling.factor: expected 1"},
        {HEAD
         "\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":1}}",
         GRAFT_ERR_FORMAT, "rope_parameters.high_freq_factor: expected more than"},
        {HEAD "\"partial_rotary_factor\":0.5}", GRAFT_ERR_UNSUPPORTED, "partial_rotary_factor"},
        {HEAD "\"rope_parameters\":{\"full_attention\":{}}}", GRAFT_ERR_UNSUPPORTED, "full_attention"},
        {HEAD "\"torch_dtype\":\"int8\"}", GRAFT_ERR_UNSUPPORTED, "torch_dtype"},
        {HEAD "\"torch_dtype\":\"torch.bfloat16\"}", GRAFT_OK, NULL},
        {HEAD "\"eos_token_id\":[1,\"x\"]}", GRAFT_ERR_FORMAT, "eos_token_id: expected token ids"},
        {HEAD "\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", GRAFT_ERR_LIMIT, "at most 16"},
        {HEAD "\"pad_token_id\":-1}", GRAFT_OK, NULL},
        {HEAD "\"tie_word_embeddings\":1}", GRAFT_ERR_FORMAT, "tie_word_embeddings: expected true or false"},
        {"{\"model_type\":\"qwen2\",\"num_hidden_layers\":2,\"layer_types\":[\"full_attention\"]}", GRAFT_ERR_FORMAT,
         "layer_types: expected a list of 2"},
        {"{\"model_type\":\"qwen2\",\"num_hidden_layers\":1,\"layer_types\":[\"mamba\"]}", GRAFT_ERR_UNSUPPORTED,
         "layer 0"},
        {"{\"model_type\":\"qwen2\",\"num_hidden_layers\":1,\"layer_types\":[\"sliding_attention\"]}", GRAFT_ERR_FORMAT,
         "sliding_window: expected a window"},
        {"{\"model_type\":\"smollm3\",\"num_hidden_layers\":2,\"no_rope_layers\":[1]}", GRAFT_ERR_FORMAT,
         "no_rope_layers"},
        {"{\"model_type\":\"t5\",\"feed_forward_proj\":\"gated-relu\"}", GRAFT_ERR_UNSUPPORTED,
         "feed_forward_proj: expected relu"},
        {"{\"model_type\":\"t5\",\"relative_attention_num_buckets\":7}", GRAFT_ERR_UNSUPPORTED,
         "relative_attention_num_buckets: expected an even number"},
        {"{\"model_type\":\"t5\",\"relative_attention_max_distance\":16}", GRAFT_ERR_UNSUPPORTED,
         "below relative_attention_max_distance (16)"},
        {"{\"model_type\":\"t5\",\"decoder_start_token_id\":40000}", GRAFT_ERR_FORMAT,
         "decoder_start_token_id: expected an id below 32128"},
        {"{\"model_type\":\"t5\",\"num_decoder_layers\":513}", GRAFT_ERR_FORMAT, "num_decoder_layers"},
        {"{\"model_type\":\"llama\"", GRAFT_ERR_FORMAT, "c.json: JSON at byte 21"},
        {"", GRAFT_ERR_FORMAT, "c.json"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_error failure = {0};
        gr_model_config c;
        graft_status st = gr_model_config_from_json(NULL, "c.json", cases[i].text, strlen(cases[i].text), &c, &failure);
        if (st != cases[i].st || (cases[i].says && !strstr(failure.text, cases[i].says)))
            fail_msg("%s: got %s: %s", cases[i].text, graft_status_text(st), failure.text);
        if (st != GRAFT_OK) assert_int_equal(failure.status, st);
    }
}

static void gguf_metadata_gives_the_same_model(void **state) {
    (void)state;
    gr_model_config c;
    assert_ok(gr_model_config_load(NULL, test_golden("formats/tiny/tiny.gguf"), &c, &err));
    assert_int_equal(c.type, GR_MODEL_LLAMA);
    assert_int_equal(c.vocab_size, 40);
    assert_int_equal(c.hidden_size, 32);
    assert_int_equal(c.intermediate_size, 48);
    assert_int_equal(c.n_layers, 1);
    assert_int_equal(c.n_heads, 4);
    assert_int_equal(c.n_kv_heads, 2);
    assert_int_equal(c.head_dim, 8);
    assert_true(c.rope.theta == 100000);
    assert_true(c.rms_norm_eps == 1e-5);
    assert_true(c.tie_word_embeddings);
    assert_int_equal(c.bos_token_id, 1);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_token_ids[0], 2);
    assert_int_equal(c.pad_token_id, -1);
}

/* A GGUF head of arch `arch` with standard sizes; `more` adds to it. */
typedef graft_status (*adder)(gr_gguf_writer *w, const char *arch, graft_error *err);

static graft_status write_head(const char *path, const char *arch, adder more, const float *freqs, graft_error *err) {
    static const struct {
        const char *key;
        uint32_t value;
    } keys[] = {{"embedding_length", 64},    {"feed_forward_length", 96}, {"block_count", 4},
                {"attention.head_count", 4}, {"context_length", 8192},    {"vocab_size", 100}};
    gr_gguf_writer *w;
    char key[96];
    gr_shape half = gr_shape1(8);
    GR_TRY(gr_gguf_writer_new(NULL, path, &w, err));
    graft_status st = gr_gguf_add_text(w, "general.architecture", arch, strlen(arch), err);
    for (size_t i = 0; i < GR_COUNT(keys) && st == GRAFT_OK; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, keys[i].key);
        st = gr_gguf_add_u32(w, key, keys[i].value, err);
    }
    if (st == GRAFT_OK && more) st = more(w, arch, err);
    if (st == GRAFT_OK && freqs) st = gr_gguf_declare(w, "rope_freqs.weight", GR_F32, &half, err);
    if (st == GRAFT_OK) st = gr_gguf_writer_begin(w, err);
    if (st == GRAFT_OK && freqs) st = gr_gguf_write(w, freqs, 32, err);
    if (st == GRAFT_OK) return gr_gguf_writer_commit(w, err);
    gr_gguf_writer_abort(w);
    return st;
}

static graft_status add_theta(gr_gguf_writer *w, const char *arch, graft_error *err) {
    (void)arch;
    return gr_gguf_add_f32(w, "llama.rope.freq_base", 500000, err);
}

static graft_status add_yarn(gr_gguf_writer *w, const char *arch, graft_error *err) {
    (void)arch;
    GR_TRY(gr_gguf_add_text(w, "qwen2.rope.scaling.type", "yarn", 4, err));
    GR_TRY(gr_gguf_add_f32(w, "qwen2.rope.scaling.factor", 4, err));
    return gr_gguf_add_u32(w, "qwen2.rope.scaling.original_context_length", 2048, err);
}

static graft_status add_linear(gr_gguf_writer *w, const char *arch, graft_error *err) {
    (void)arch;
    GR_TRY(gr_gguf_add_text(w, "llama.rope.scaling.type", "linear", 6, err));
    return gr_gguf_add_f32(w, "llama.rope.scaling.factor", 2.5f, err);
}

static graft_status add_longrope(gr_gguf_writer *w, const char *arch, graft_error *err) {
    (void)arch;
    return gr_gguf_add_text(w, "llama.rope.scaling.type", "longrope", 8, err);
}

static graft_status add_experts(gr_gguf_writer *w, const char *arch, graft_error *err) {
    (void)arch;
    return gr_gguf_add_u32(w, "llama.expert_count", 8, err);
}

static graft_status add_heads(gr_gguf_writer *w, const char *arch, graft_error *err) {
    (void)arch;
    return gr_gguf_add_u32(w, "llama.attention.head_count_kv", 3, err);
}

static graft_status add_partial(gr_gguf_writer *w, const char *arch, graft_error *err) {
    (void)arch;
    GR_TRY(gr_gguf_add_u32(w, "llama.attention.key_length", 16, err));
    return gr_gguf_add_u32(w, "llama.rope.dimension_count", 8, err);
}

static void gguf_rope_scaling_is_honoured(void **state) {
    (void)state;
    char path[1100];
    gr_model_config c;
    graft_error failure;
    snprintf(path, sizeof path, "%s/head.gguf", test_temp_dir());
    assert_ok(write_head(path, "qwen2", add_yarn, NULL, &err));
    assert_ok(gr_model_config_load(NULL, path, &c, &err));
    assert_int_equal(c.rope.type, GR_ROPE_YARN);
    assert_true(c.rope.factor == 4 && c.rope.original_max_position_embeddings == 2048 && c.rope.beta_fast == 32 &&
                c.rope.truncate);
    assert_true(c.qkv_bias && !c.o_bias && c.rope.attention_factor == 0);
    assert_ok(write_head(path, "llama", add_linear, NULL, &err));
    assert_ok(gr_model_config_load(NULL, path, &c, &err));
    assert_true(c.rope.type == GR_ROPE_LINEAR && c.rope.factor == 2.5);
    static const struct {
        adder add;
        const char *arch;
        graft_status st;
        const char *says;
    } cases[] = {{add_longrope, "llama", GRAFT_ERR_UNSUPPORTED,
                  "llama.rope.scaling.type: expected none, linear or yarn, found longrope"},
                 {add_experts, "llama", GRAFT_ERR_UNSUPPORTED, "experts"},
                 {add_heads, "llama", GRAFT_ERR_FORMAT, "num_key_value_heads"},
                 {add_partial, "llama", GRAFT_ERR_UNSUPPORTED, "rope.dimension_count"},
                 {NULL, "mamba", GRAFT_ERR_UNSUPPORTED, "\"mamba\" is not supported"}};
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        assert_ok(write_head(path, cases[i].arch, cases[i].add, NULL, &err));
        graft_status st = gr_model_config_load(NULL, path, &c, &failure);
        if (st != cases[i].st || !strstr(failure.text, cases[i].says)) fail_msg("case %zu: %s", i, failure.text);
    }
}

static void stored_frequency_factors_become_llama3(void **state) {
    (void)state;
    char path[1100], *text;
    gr_model_config c;
    graft_error failure;
    double divisors[8];
    float freqs[8];
    snprintf(path, sizeof path, "%s/freqs.gguf", test_temp_dir());
    gr_rope_config rope = {.theta = 500000,
                           .factor = 32,
                           .low_freq_factor = 1,
                           .high_freq_factor = 4,
                           .original_max_position_embeddings = 8192};
    gr_llama3_divisors(&rope, 16, divisors);
    for (int i = 0; i < 8; i++) freqs[i] = (float)divisors[i];
    assert_true(freqs[0] == 1 && freqs[7] == 32 && freqs[4] != 1 && freqs[4] != 32);
    assert_ok(write_head(path, "llama", add_theta, freqs, &err));
    assert_ok(gr_model_config_load(NULL, path, &c, &err));
    assert_int_equal(c.rope.type, GR_ROPE_LLAMA3);
    assert_true(c.rope.factor == 32 && !c.rope.freq_factors);
    freqs[3] = 1.5f; /* no longer the formula's: kept as stored, and config.json cannot say it */
    assert_ok(write_head(path, "llama", add_theta, freqs, &err));
    assert_ok(gr_model_config_load(NULL, path, &c, &err));
    assert_true(c.rope.type == GR_ROPE_DEFAULT && c.rope.freq_factors);
    assert_int_equal(gr_model_config_to_json(NULL, &c, GR_F32, &text, &failure), GRAFT_ERR_UNSUPPORTED);
    for (int i = 0; i < 8; i++) freqs[i] = 1;
    assert_ok(write_head(path, "llama", add_theta, freqs, &err));
    assert_ok(gr_model_config_load(NULL, path, &c, &err));
    assert_true(c.rope.type == GR_ROPE_DEFAULT && !c.rope.freq_factors);
    freqs[2] = NAN;
    assert_ok(write_head(path, "llama", add_theta, freqs, &err));
    assert_int_equal(gr_model_config_load(NULL, path, &c, &failure), GRAFT_ERR_NUMERIC);
}

static void configs_are_found_beside_the_weights(void **state) {
    (void)state;
    gr_model_config c;
    gr_weights *w;
    assert_ok(gr_model_config_load(NULL, test_golden("formats/sharded"), &c, &err));
    assert_int_equal(c.n_layers, 2);
    assert_ok(gr_model_config_load(NULL, test_golden("formats/sharded/model-00001-of-00006.safetensors"), &c, &err));
    assert_ok(gr_model_config_load(NULL, test_golden("formats/sharded/config.json"), &c, &err));
    assert_ok(gr_model_config_load(NULL, test_golden("formats/sharded/model.safetensors.index.json"), &c, &err));
    assert_ok(gr_weights_open(NULL, test_golden("formats/sharded"), &w, &err));
    assert_ok(gr_model_config_of(NULL, w, &c, &err));
    gr_weights_close(w);
    assert_ok(gr_weights_open(NULL, test_golden("formats/tiny/tiny.gguf"), &w, &err));
    assert_ok(gr_model_config_of(NULL, w, &c, &err));
    assert_int_equal(c.vocab_size, 40);
    gr_weights_close(w);
}

static void generation_settings_are_read(void **state) {
    (void)state;
    char dir[1000], path[1100], *text;
    gr_model_config c;
    gr_generation_config g, again;
    graft_error failure;
    snprintf(dir, sizeof dir, "%s/generation", test_temp_dir());
    snprintf(path, sizeof path, "%s/generation_config.json", dir);
    assert_ok(gr_make_dirs(dir, &err));
    assert_ok(gr_model_config_load(NULL, test_golden("formats/tiny/tiny.gguf"), &c, &err));
    assert_ok(gr_generation_config_load(NULL, dir, &c, &g, &err));
    assert_true(!g.do_sample && g.temperature == 1 && g.top_p == 1 && g.top_k == 50 && g.n_eos == 1 &&
                g.eos_token_ids[0] == 2);
    static const char given[] =
        "{\"do_sample\":true,\"temperature\":0.6,\"top_p\":0.9,\"top_k\":20,\"eos_token_id\":[2,5],\"pad_token_id\":0}";
    assert_ok(gr_write_file(NULL, path, given, sizeof given - 1, &err));
    assert_ok(gr_generation_config_load(NULL, dir, &c, &g, &err));
    assert_true(g.do_sample && g.temperature == 0.6 && g.top_p == 0.9 && g.top_k == 20 && g.n_eos == 2 &&
                g.pad_token_id == 0);
    assert_ok(gr_generation_config_to_json(NULL, &g, &text, &err));
    assert_ok(gr_write_file(NULL, path, text, strlen(text), &err));
    gr_free(NULL, text);
    assert_ok(gr_generation_config_load(NULL, dir, &c, &again, &err));
    assert_true(again.do_sample && again.temperature == 0.6 && again.top_p == 0.9 && again.top_k == 20 &&
                again.n_eos == 2);
    assert_true(again.eos_token_ids[1] == 5 && again.pad_token_id == 0 && again.min_p == 0 &&
                again.repetition_penalty == 1);
    assert_ok(gr_write_file(NULL, path, "{\"top_p\":2}", 11, &err));
    assert_int_equal(gr_generation_config_load(NULL, dir, &c, &g, &failure), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(failure.text, "top_p: expected 0 to 1, found 2"));
}

static const char whole_config[] =
    "{\"model_type\":\"qwen3\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,"
    "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":512},\"eos_token_id\":[1,2],\"torch_dtype\":\"bfloat16\","
    "\"layer_types\":[\"full_attention\",\"sliding_attention\"],\"use_sliding_window\":true,\"sliding_window\":8,\"rms_norm_eps\":1e-6}";

static graft_status sweep(const graft_allocator *a, void *arg) {
    (void)arg;
    gr_model_config c;
    char *text;
    GR_TRY(gr_model_config_from_json(a, "c", whole_config, sizeof whole_config - 1, &c, NULL));
    GR_TRY(gr_model_config_to_json(a, &c, GR_BF16, &text, NULL));
    gr_free(a, text);
    GR_TRY(gr_model_config_load(a, test_golden("formats/tiny/tiny.gguf"), &c, NULL));
    GR_TRY(gr_model_config_load(a, test_golden("formats/sharded"), &c, NULL));
    gr_generation_config g;
    GR_TRY(gr_generation_config_load(a, test_golden("formats/sharded"), &c, &g, NULL));
    GR_TRY(gr_generation_config_to_json(a, &g, &text, NULL));
    gr_free(a, text);
    return GRAFT_OK;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    test_allocation_sweep(sweep, NULL, 0, 1);
}

static void read_broken(const unsigned char *bytes, size_t n, void *arg) {
    (void)arg;
    gr_model_config c;
    char *text;
    graft_error failure;
    if (gr_model_config_from_json(NULL, "c", (const char *)bytes, n, &c, &failure) != GRAFT_OK) return;
    assert_true(c.n_layers > 0 && c.n_heads % c.n_kv_heads == 0);
    if (gr_model_config_to_json(NULL, &c, GR_F32, &text, &failure) == GRAFT_OK) gr_free(NULL, text);
}

static void read_broken_gguf(const unsigned char *bytes, size_t n, void *arg) {
    (void)arg;
    gr_gguf *g;
    gr_model_config c;
    graft_error failure;
    if (gr_gguf_parse(NULL, "f", bytes, n, &g, &failure) != GRAFT_OK) return;
    if (gr_model_config_from_gguf(g, &c, &failure) == GRAFT_OK) assert_true(c.n_layers > 0);
    gr_gguf_close(g);
}

static void broken_configs_never_crash(void **state) {
    (void)state;
    size_t n;
    test_truncations((const unsigned char *)whole_config, sizeof whole_config - 1, read_broken, NULL);
    test_flips((const unsigned char *)whole_config, sizeof whole_config - 1, 0, 20000, read_broken, NULL);
    unsigned char *bytes = test_read_file(test_golden("formats/tiny/tiny.gguf"), &n);
    test_flips(bytes, n, 1200, 3000, read_broken_gguf, NULL);
    gr_free(NULL, bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configs_mean_what_transformers_takes_them_for),
        cmocka_unit_test(t5_says_whether_it_scales_in_two_ways),
        cmocka_unit_test(faults_are_named),
        cmocka_unit_test(gguf_metadata_gives_the_same_model),
        cmocka_unit_test(gguf_rope_scaling_is_honoured),
        cmocka_unit_test(stored_frequency_factors_become_llama3),
        cmocka_unit_test(configs_are_found_beside_the_weights),
        cmocka_unit_test(generation_settings_are_read),
        cmocka_unit_test(failed_allocations_leak_nothing),
        cmocka_unit_test(broken_configs_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
