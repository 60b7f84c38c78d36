/* GGUF metadata to gr_model_config. Keys stand under the architecture's name ("llama.block_count"). What the metadata
 * does not say (biases, q/k norms, tied heads) follows from which tensors are there.
 *
 * llama.cpp's converter stores llama3 scaling not as parameters but as rope_freqs.weight, the divisors of the inverse
 * frequencies. They are turned back into parameters where they are those of Llama 3.1 and its kin (low 1, high 4, 8,192
 * positions, any factor), so that the rest of graft, and a config.json written from the file, need not know. */
#include <math.h>
#include <stdio.h>

#include "io/config_parts.h"
#include "io/hf_config.h"

typedef struct source {
    const gr_gguf *g;
    char arch[32];
    char key[128];
    graft_error *err;
    graft_status st; /* sticky */
} source;

static const char *arch_key(source *s, const char *name) {
    snprintf(s->key, sizeof s->key, "%s.%s", s->arch, name);
    return s->key;
}

static bool has(source *s, const char *name) { return gr_gguf_find(s->g, arch_key(s, name)) != NULL; }

static int64_t required_int(source *s, const char *name, int64_t max) {
    int64_t v = 1;
    if (s->st == GRAFT_OK) s->st = gr_gguf_get_int(s->g, arch_key(s, name), 1, max, &v, s->err);
    return v;
}

static int64_t optional_int(source *s, const char *name, int64_t absent, int64_t max) {
    int64_t v = absent;
    if (s->st == GRAFT_OK && has(s, name)) s->st = gr_gguf_get_int(s->g, s->key, 0, max, &v, s->err);
    return v;
}

static double optional_float(source *s, const char *name, double absent, double min, double max) {
    double v = absent;
    if (s->st != GRAFT_OK || !has(s, name)) return absent;
    s->st = gr_gguf_get_float(s->g, s->key, &v, s->err);
    if (s->st == GRAFT_OK && !(v >= min && v <= max))
        s->st = gr_fail(s->err, GRAFT_ERR_FORMAT, "%s: key %s: expected %g to %g, found %g", gr_gguf_path(s->g), s->key,
                        min, max, v);
    return v;
}

/* A float in a GGUF file was rounded to single precision; config.json had the decimal: 1e-05 stands for 1e-05f. */
static double shortest(double v) {
    char text[40];
    double back;
    for (int digits = 1; digits < 10; digits++) {
        int n = snprintf(text, sizeof text, "%.*e", digits - 1, v);
        if (gr_parse_double(text, (size_t)n, &back) && (float)back == (float)v) return back;
    }
    return v;
}

static bool has_tensor(const source *s, const char *name) {
    return gr_tensor_list_find(gr_gguf_tensors(s->g), name) != NULL;
}

static graft_status read_type(source *s, gr_model_type *out) {
    static const struct {
        const char *arch;
        gr_model_type type;
    } known[] = {
        {"llama", GR_MODEL_LLAMA}, {"qwen2", GR_MODEL_QWEN2}, {"qwen3", GR_MODEL_QWEN3}, {"smollm3", GR_MODEL_SMOLLM3},
        {"gpt2", GR_MODEL_GPT2}};
    gr_text arch;
    GR_TRY(gr_gguf_get_text(s->g, "general.architecture", &arch, s->err));
    for (size_t i = 0; i < GR_COUNT(known); i++)
        if (arch.len == strlen(known[i].arch) && memcmp(arch.text, known[i].arch, arch.len) == 0) {
            snprintf(s->arch, sizeof s->arch, "%s", known[i].arch);
            *out = known[i].type;
            return GRAFT_OK;
        }
    return gr_fail(s->err, GRAFT_ERR_UNSUPPORTED,
                   "%s: general.architecture \"%.*s\" is not supported (known: llama, qwen2, qwen3, smollm3, gpt2)",
                   gr_gguf_path(s->g), (int)GR_MIN(arch.len, (size_t)60), arch.text);
}

static void read_sizes(source *s, gr_model_config *c) {
    c->hidden_size = required_int(s, "embedding_length", 1 << 20);
    c->intermediate_size = required_int(s, "feed_forward_length", 1 << 24);
    c->n_layers = (int)required_int(s, "block_count", GR_MAX_LAYERS);
    c->n_heads = (int)required_int(s, "attention.head_count", 65536);
    c->n_kv_heads =
        has(s, "attention.head_count_kv") ? (int)required_int(s, "attention.head_count_kv", 65536) : c->n_heads;
    c->max_position_embeddings = required_int(s, "context_length", INT32_MAX);
    bool gpt2 = c->type == GR_MODEL_GPT2;
    c->rms_norm_eps = shortest(gpt2 ? optional_float(s, "attention.layer_norm_epsilon", 1e-5, 0, 1)
                                    : optional_float(s, "attention.layer_norm_rms_epsilon", 1e-6, 0, 1));
    c->initializer_range = 0.02;
    int64_t rotated = optional_int(s, "rope.dimension_count", 0, GR_MAX_HEAD_DIM);
    if (s->st == GRAFT_OK && !has(s, "attention.key_length") && !rotated && c->hidden_size % c->n_heads)
        s->st = gr_fail(s->err, GRAFT_ERR_FORMAT,
                        "%s: key %s.embedding_length: expected a multiple of %d heads, found %lld", gr_gguf_path(s->g),
                        s->arch, c->n_heads, (long long)c->hidden_size);
    int64_t derived = rotated ? rotated : c->hidden_size / c->n_heads;
    c->head_dim =
        has(s, "attention.key_length") ? (int)required_int(s, "attention.key_length", GR_MAX_HEAD_DIM) : (int)derived;
    int64_t value_dim = optional_int(s, "attention.value_length", c->head_dim, 65536);
    if (s->st == GRAFT_OK && (value_dim != c->head_dim || (rotated && rotated != c->head_dim)))
        s->st =
            gr_fail(s->err, GRAFT_ERR_UNSUPPORTED,
                    "%s: keys %s.attention.value_length, %s.rope.dimension_count: expected %d as the key length, found "
                    "%lld, %lld",
                    gr_gguf_path(s->g), s->arch, s->arch, c->head_dim, (long long)value_dim, (long long)rotated);
    if (s->st == GRAFT_OK && optional_int(s, "expert_count", 0, INT32_MAX) > 0)
        s->st = gr_fail(s->err, GRAFT_ERR_UNSUPPORTED, "%s: key %s.expert_count: mixtures of experts are not supported",
                        gr_gguf_path(s->g), s->arch);
}

/* The embedding's rows; without it (a vocabulary only) the stated or counted number of tokens. */
static void read_vocab(source *s, gr_model_config *c) {
    const gr_named_tensor *embedding = gr_tensor_list_find(gr_gguf_tensors(s->g), "token_embd.weight");
    gr_gguf_array tokens;
    if (s->st != GRAFT_OK) return;
    if (embedding && embedding->view.shape.n == 2 && embedding->view.shape.d[0] > 0 &&
        embedding->view.shape.d[0] <= INT32_MAX) {
        c->vocab_size = embedding->view.shape.d[0];
    } else if (has(s, "vocab_size")) {
        c->vocab_size = required_int(s, "vocab_size", INT32_MAX);
    } else {
        s->st = gr_gguf_get_array(s->g, "tokenizer.ggml.tokens", GR_GGUF_STRING, &tokens, s->err);
        if (s->st != GRAFT_OK) return;
        c->vocab_size = tokens.n > 0 && tokens.n <= INT32_MAX ? (int64_t)tokens.n : 1;
    }
}

static int64_t token(source *s, const char *key) {
    int64_t v = -1;
    if (s->st == GRAFT_OK && gr_gguf_find(s->g, key)) s->st = gr_gguf_get_int(s->g, key, -1, UINT32_MAX, &v, s->err);
    return v > INT32_MAX ? -1 : v; /* 4294967295 is an old spelling of "none" */
}

static void read_yarn(source *s, gr_rope_config *rope) {
    rope->beta_fast = shortest(optional_float(s, "rope.scaling.yarn_beta_fast", 32, 1e-6, 1e6));
    rope->beta_slow = shortest(optional_float(s, "rope.scaling.yarn_beta_slow", 1, 1e-6, 1e6));
    rope->truncate = true;
    double ext = optional_float(s, "rope.scaling.yarn_ext_factor", 1, -1e6, 1e6);
    if (s->st == GRAFT_OK && ext != 1 && ext != -1)
        s->st = gr_fail(s->err, GRAFT_ERR_UNSUPPORTED, "%s: key %s.rope.scaling.yarn_ext_factor: expected 1, found %g",
                        gr_gguf_path(s->g), s->arch, ext);
    const char *key =
        has(s, "rope.scaling.yarn_attn_factor") ? "rope.scaling.yarn_attn_factor" : "rope.scaling.attn_factor";
    double attention = shortest(optional_float(s, key, 1, 1e-6, 1e6));
    /* llama.cpp multiplies the paper's factor; transformers replaces it. */
    if (attention != 1) rope->attention_factor = attention * (0.1 * log(rope->factor) + 1);
}

static void read_rope(source *s, gr_model_config *c) {
    gr_rope_config *rope = &c->rope;
    gr_text type = {"none", 4};
    rope->theta = shortest(optional_float(s, "rope.freq_base", 10000, 1e-3, 1e15));
    if (s->st == GRAFT_OK && has(s, "rope.scaling.type")) s->st = gr_gguf_get_text(s->g, s->key, &type, s->err);
    double linear = optional_float(s, "rope.scale_linear", 1, 1, 1e9);
    double factor = shortest(optional_float(s, "rope.scaling.factor", linear, 0, 1e9));
    if (s->st != GRAFT_OK || (type.len == 4 && memcmp(type.text, "none", 4) == 0 && linear == 1)) return;
    bool yarn = type.len == 4 && memcmp(type.text, "yarn", 4) == 0;
    if (!yarn && !(type.len == 6 && memcmp(type.text, "linear", 6) == 0) && linear == 1) {
        s->st = gr_fail(s->err, GRAFT_ERR_UNSUPPORTED,
                        "%s: key %s.rope.scaling.type: expected none, linear or yarn, found %.*s", gr_gguf_path(s->g),
                        s->arch, (int)GR_MIN(type.len, (size_t)60), type.text);
        return;
    }
    if (factor <= 1 && !yarn) return; /* 0 and 1 mean no scaling */
    rope->type = yarn ? GR_ROPE_YARN : GR_ROPE_LINEAR;
    rope->factor = factor < 1 ? 1 : factor;
    rope->original_max_position_embeddings =
        optional_int(s, "rope.scaling.original_context_length", c->max_position_embeddings, INT32_MAX);
    if (rope->original_max_position_embeddings == 0)
        rope->original_max_position_embeddings = c->max_position_embeddings;
    if (yarn) read_yarn(s, rope);
}

/* Recognises the divisors of llama3 scaling. */
static void read_freqs(source *s, gr_model_config *c) {
    const gr_named_tensor *t = gr_tensor_list_find(gr_gguf_tensors(s->g), "rope_freqs.weight");
    if (!t || s->st != GRAFT_OK) return;
    int half = c->head_dim / 2;
    gr_shape expected = gr_shape1(half);
    if (t->view.dtype != GR_F32 || !gr_shape_equal(&t->view.shape, &expected)) {
        s->st = gr_fail(s->err, GRAFT_ERR_MISMATCH, "%s: tensor rope_freqs.weight: expected F32 of %d elements",
                        t->file, half);
        return;
    }
    float last = 1, f;
    double divisors[GR_MAX_HEAD_DIM / 2];
    bool ones = true, standard = true;
    for (int i = 0; i < half; i++) {
        memcpy(&f, (const char *)t->view.data + 4 * i, 4);
        if (!(f >= 1e-6f && f <= 1e6f)) {
            s->st = gr_fail(s->err, GRAFT_ERR_NUMERIC,
                            "%s: tensor rope_freqs.weight: element %d: expected 1e-6 to 1e6, found %g", t->file, i,
                            (double)f);
            return;
        }
        ones = ones && f == 1;
        last = f;
    }
    if (ones) return;
    gr_rope_config try = {.type = GR_ROPE_LLAMA3,
                          .theta = c->rope.theta,
                          .factor = shortest((double)last),
                          .low_freq_factor = 1,
                          .high_freq_factor = 4,
                          .original_max_position_embeddings = 8192};
    gr_llama3_divisors(&try, c->head_dim, divisors);
    for (int i = 0; i < half; i++) {
        memcpy(&f, (const char *)t->view.data + 4 * i, 4);
        standard = standard && fabs((double)f - divisors[i]) <= 1e-5 * divisors[i];
    }
    if (standard && c->rope.type == GR_ROPE_DEFAULT && try.factor >= 1)
        c->rope = try;
    else
        c->rope.freq_factors = true;
}

static void read_gpt2(gr_model_config *c) {
    c->qkv_bias = c->o_bias = c->mlp_bias = c->scale_attention = true;
    c->hidden_act = GR_ACT_GELU_TANH;
    c->tie_word_embeddings = true; /* some converters write the table twice; a head of other values is found when it is read */
    c->rope = (gr_rope_config){.type = GR_ROPE_NONE};
    c->embedding_dropout = c->hidden_dropout = c->attention_dropout = 0.1; /* config.json's defaults; GGUF has no word for them */
    memset(c->layer_rope, 0, sizeof c->layer_rope);
}

static void read_features(source *s, gr_model_config *c) {
    c->qkv_bias = c->type == GR_MODEL_QWEN2 || has_tensor(s, "blk.0.attn_q.bias");
    c->o_bias = has_tensor(s, "blk.0.attn_output.bias");
    c->mlp_bias = has_tensor(s, "blk.0.ffn_gate.bias");
    c->qk_norm = c->type == GR_MODEL_QWEN3;
    c->tie_word_embeddings = !has_tensor(s, "output.weight");
    c->dtype = GR_F16;
    for (int i = 0; i < c->n_layers; i++) c->layer_rope[i] = c->type != GR_MODEL_SMOLLM3 || (i + 1) % 4 != 0;
    c->bos_token_id = token(s, "tokenizer.ggml.bos_token_id");
    c->pad_token_id = token(s, "tokenizer.ggml.padding_token_id");
    int64_t eos = token(s, "tokenizer.ggml.eos_token_id");
    if (eos >= 0) c->eos_token_ids[c->n_eos++] = eos;
    if (c->type == GR_MODEL_GPT2) read_gpt2(c);
}

graft_status gr_model_config_from_gguf(const gr_gguf *g, gr_model_config *out, graft_error *err) {
    source s = {.g = g, .err = err};
    gr_model_config c = {.int8_threshold = GR_INT8_THRESHOLD};
    GR_TRY(read_type(&s, &c.type));
    read_sizes(&s, &c);
    GR_TRY(s.st);
    GR_TRY(gr_model_config_check(gr_gguf_path(g), &c, err));
    read_vocab(&s, &c);
    read_rope(&s, &c);
    read_freqs(&s, &c);
    read_features(&s, &c);
    GR_TRY(s.st);
    *out = c;
    return GRAFT_OK;
}
