/* Configurations as GGUF metadata; config_gguf.c reads them. */
#include <stdio.h>

#include "io/gguf_export.h"

const char *gr_gguf_arch(const gr_model_config *c) {
    switch (c->type) {
    case GR_MODEL_LLAMA:
    case GR_MODEL_MISTRAL: return "llama";
    case GR_MODEL_QWEN2: return "qwen2";
    case GR_MODEL_QWEN3: return "qwen3";
    case GR_MODEL_SMOLLM3: return "smollm3";
    case GR_MODEL_GPT2: return "gpt2";
    default: return NULL;
    }
}

typedef struct target {
    gr_gguf_writer *w;
    const char *arch;
    char key[128];
    graft_error *err;
    graft_status st; /* sticky */
} target;

static const char *key_of(target *t, const char *name) {
    snprintf(t->key, sizeof t->key, "%s.%s", t->arch, name);
    return t->key;
}

static void add_int(target *t, const char *name, int64_t value) {
    if (t->st == GRAFT_OK) t->st = gr_gguf_add_u32(t->w, key_of(t, name), (uint32_t)value, t->err);
}

static void add_float(target *t, const char *name, double value) {
    if (t->st == GRAFT_OK) t->st = gr_gguf_add_f32(t->w, key_of(t, name), (float)value, t->err);
}

static void add_text(target *t, const char *key, const char *value) {
    if (t->st == GRAFT_OK) t->st = gr_gguf_add_text(t->w, key, value, strlen(value), t->err);
}

static void add_rope(target *t, const gr_rope_config *r) {
    add_float(t, "rope.freq_base", r->theta);
    switch (r->type) {
    case GR_ROPE_DEFAULT:
    case GR_ROPE_LLAMA3: return; /* llama3: the tensor rope_freqs.weight */
    case GR_ROPE_LINEAR:
        add_text(t, key_of(t, "rope.scaling.type"), "linear");
        add_float(t, "rope.scaling.factor", r->factor);
        return;
    case GR_ROPE_YARN:
        if (r->attention_factor > 0 || r->mscale > 0 || r->mscale_all_dim > 0 || !r->truncate) break;
        add_text(t, key_of(t, "rope.scaling.type"), "yarn");
        add_float(t, "rope.scaling.factor", r->factor);
        add_int(t, "rope.scaling.original_context_length", r->original_max_position_embeddings);
        add_float(t, "rope.scaling.yarn_beta_fast", r->beta_fast);
        add_float(t, "rope.scaling.yarn_beta_slow", r->beta_slow);
        return;
    default: break;
    }
    if (t->st == GRAFT_OK)
        t->st = gr_fail(t->err, GRAFT_ERR_UNSUPPORTED,
                        "rope scaling of type %s with these settings has no place in a GGUF file",
                        gr_rope_type_name(r->type));
}

/* What such files have no word for. */
static graft_status check_layers(const gr_model_config *c, const char *arch, graft_error *err) {
    for (int i = 0; i < c->n_layers; i++) {
        if (c->layer_sliding[i] && c->sliding_window < c->max_position_embeddings)
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                           "sliding_window: GGUF files of architecture %s have no window of attention, found one of "
                           "%lld positions",
                           arch, (long long)c->sliding_window);
        if (c->layer_rope[i] != (c->type != GR_MODEL_GPT2 && (c->type != GR_MODEL_SMOLLM3 || (i + 1) % 4 != 0)))
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                           "no_rope_layers: GGUF files of architecture %s have a fixed choice of them, which layer %d "
                           "does not follow",
                           arch, i);
    }
    if (c->type != GR_MODEL_GPT2) return GRAFT_OK;
    if (c->hidden_act != GR_ACT_GELU_TANH)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "activation_function: GGUF files of architecture gpt2 mean gelu_new, found %s",
                       gr_hidden_act_name(c->hidden_act));
    if (!c->scale_attention || c->scale_attention_by_layer)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: GGUF files of architecture gpt2 have no place for %s",
                       c->scale_attention ? "scale_attn_by_inverse_layer_idx" : "scale_attn_weights",
                       c->scale_attention ? "true" : "false");
    return GRAFT_OK;
}

static void add_llama(target *t, const gr_model_config *c) {
    add_int(t, "attention.head_count_kv", c->n_kv_heads);
    add_int(t, "attention.key_length", c->head_dim);
    add_int(t, "attention.value_length", c->head_dim);
    add_float(t, "attention.layer_norm_rms_epsilon", c->rms_norm_eps);
    add_int(t, "rope.dimension_count", c->head_dim);
    add_rope(t, &c->rope);
}

graft_status gr_gguf_add_config(gr_gguf_writer *w, const gr_model_config *c, const char *name, graft_error *err) {
    target t = {.w = w, .arch = gr_gguf_arch(c), .err = err};
    if (!t.arch)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "a %s model is not written as GGUF (known: llama, mistral, qwen2, qwen3, smollm3, gpt2)",
                       gr_model_type_name(c->type));
    GR_TRY(check_layers(c, t.arch, err));
    add_text(&t, "general.architecture", t.arch);
    add_text(&t, "general.type", "model");
    add_text(&t, "general.name", name);
    add_int(&t, "block_count", c->n_layers);
    add_int(&t, "context_length", c->max_position_embeddings);
    add_int(&t, "embedding_length", c->hidden_size);
    add_int(&t, "feed_forward_length", c->intermediate_size);
    add_int(&t, "attention.head_count", c->n_heads);
    if (c->type == GR_MODEL_GPT2)
        add_float(&t, "attention.layer_norm_epsilon", c->rms_norm_eps);
    else
        add_llama(&t, c);
    add_int(&t, "vocab_size", c->vocab_size);
    return t.st;
}
