/* config.json of the Llama kind: llama, mistral, qwen2, qwen3, smollm3. */
#include "io/config_parts.h"

/* What transformers 5.23 takes for absent keys (kv_heads 0: as heads; head_dim 0: hidden / heads; window 0: none; ids -1:
 * none). */
static const struct defaults {
    int vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, positions, window;
    double theta;
    int bos, eos, pad;
    bool tied;
} defaults[] = {
    [GR_MODEL_LLAMA] = {32000, 4096, 11008, 32, 32, 0, 0, 2048, 0, 10000, 1, 2, -1, false},
    [GR_MODEL_MISTRAL] = {32000, 4096, 14336, 32, 32, 8, 0, 131072, 4096, 10000, 1, 2, -1, false},
    [GR_MODEL_QWEN2] = {151936, 4096, 22016, 32, 32, 32, 0, 32768, 4096, 10000, -1, -1, -1, false},
    [GR_MODEL_QWEN3] = {151936, 4096, 22016, 32, 32, 32, 128, 32768, 4096, 10000, -1, -1, -1, false},
    [GR_MODEL_SMOLLM3] = {128256, 2048, 11008, 36, 16, 4, 0, 32768, 0, 2000000, 128000, 128001, 128004, true},
};

static void read_sizes(gr_fields *f, const struct defaults *d, gr_model_config *c) {
    c->vocab_size = gr_field_int(f, "vocab_size", d->vocab, 1, INT32_MAX);
    c->hidden_size = gr_field_int(f, "hidden_size", d->hidden, 1, 1 << 20);
    c->intermediate_size = gr_field_int(f, "intermediate_size", d->intermediate, 1, 1 << 24);
    c->n_layers = (int)gr_field_int(f, "num_hidden_layers", d->layers, 1, GR_MAX_LAYERS);
    c->n_heads = (int)gr_field_int(f, "num_attention_heads", d->heads, 1, 65536);
    bool kv_as_heads = d->kv_heads == 0 || gr_field_is_null(f, "num_key_value_heads");
    c->n_kv_heads = (int)gr_field_int(f, "num_key_value_heads", kv_as_heads ? c->n_heads : d->kv_heads, 1, 65536);
    c->head_dim = (int)gr_field_int(f, "head_dim", d->head_dim && !gr_field_is_null(f, "head_dim") ? d->head_dim : 0, 1,
                                    GR_MAX_HEAD_DIM);
    if (c->head_dim == 0) {
        if (f->st == GRAFT_OK && c->hidden_size % c->n_heads)
            gr_field_fail(f, GRAFT_ERR_FORMAT, "hidden_size",
                          "expected a multiple of num_attention_heads (%d), found %lld", c->n_heads,
                          (long long)c->hidden_size);
        c->head_dim = (int)(c->hidden_size / c->n_heads);
    }
    c->max_position_embeddings = gr_field_int(f, "max_position_embeddings", d->positions, 1, INT32_MAX);
    c->rms_norm_eps = gr_field_double(f, "rms_norm_eps", 1e-6, 0, 1);
    c->initializer_range = gr_field_double(f, "initializer_range", 0.02, 0, 1);
    c->attention_dropout = gr_field_double(f, "attention_dropout", 0, 0, 1);
}

static void read_biases(gr_fields *f, gr_model_config *c) {
    bool attention = gr_field_bool(f, "attention_bias", false);
    switch (c->type) {
    case GR_MODEL_MISTRAL: break;
    case GR_MODEL_QWEN2: c->qkv_bias = true; break;
    default: c->qkv_bias = c->o_bias = attention;
    }
    if (c->type == GR_MODEL_LLAMA || c->type == GR_MODEL_SMOLLM3) c->mlp_bias = gr_field_bool(f, "mlp_bias", false);
    c->qk_norm = c->type == GR_MODEL_QWEN3;
}

/* layer_types as written: true where sliding. Returns false when the key is absent. */
static bool read_layer_types(gr_fields *f, gr_model_config *c) {
    const gr_json_value *list = gr_field(f, "layer_types");
    if (!list) return false;
    if (list->kind != GR_JSON_ARRAY || list->len != (size_t)c->n_layers) {
        gr_field_fail(f, GRAFT_ERR_FORMAT, "layer_types", "expected a list of %d entries, one a layer", c->n_layers);
        return true;
    }
    int i = 0;
    for (const gr_json_value *v = list->child; v; v = v->next, i++) {
        bool text = v->kind == GR_JSON_STRING;
        c->layer_sliding[i] = text && strcmp(v->text, "sliding_attention") == 0;
        if (!c->layer_sliding[i] && !(text && strcmp(v->text, "full_attention") == 0)) {
            gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "layer_types",
                          "layer %d: expected full_attention or sliding_attention, found %.60s", i,
                          text ? v->text : gr_json_kind_name(v->kind));
            return true;
        }
    }
    return true;
}

/* Which layers see a window only. mistral: all. qwen2 and qwen3: those from max_window_layers on, if
 * use_sliding_window. smollm3: those without rotary embedding. layer_types overrides the latter three. */
static void read_windows(gr_fields *f, const struct defaults *d, gr_model_config *c) {
    if (c->type == GR_MODEL_LLAMA) return;
    bool is_null = gr_field_is_null(f, "sliding_window");
    int64_t window = gr_field_int(f, "sliding_window", is_null ? 0 : d->window, 0, INT32_MAX);
    if (c->type == GR_MODEL_MISTRAL) {
        c->sliding_window = window;
        for (int i = 0; i < c->n_layers; i++) c->layer_sliding[i] = window > 0;
        return;
    }
    bool use = gr_field_bool(f, "use_sliding_window", false), smollm = c->type == GR_MODEL_SMOLLM3, any = false;
    int64_t first = gr_field_int(f, "max_window_layers", 28, 0, INT32_MAX);
    if (!use && !smollm) window = 0;
    if (!read_layer_types(f, c))
        for (int i = 0; i < c->n_layers; i++)
            c->layer_sliding[i] = use && window > 0 && (smollm ? !c->layer_rope[i] : i >= first);
    for (int i = 0; i < c->n_layers; i++) any = any || c->layer_sliding[i];
    if (any && window == 0)
        gr_field_fail(f, GRAFT_ERR_FORMAT, "sliding_window",
                      "expected a window, because layer_types names sliding_attention");
    c->sliding_window = any ? window : 0;
}

static void read_rope_layers(gr_fields *f, gr_model_config *c) {
    for (int i = 0; i < c->n_layers; i++) c->layer_rope[i] = true;
    if (c->type != GR_MODEL_SMOLLM3) return;
    const gr_json_value *list = gr_field(f, "no_rope_layers");
    int64_t interval = gr_field_int(f, "no_rope_layer_interval", 4, 1, INT32_MAX);
    if (!list) {
        for (int i = 0; i < c->n_layers; i++) c->layer_rope[i] = (i + 1) % interval != 0;
        return;
    }
    const gr_json_value *v = list->kind == GR_JSON_ARRAY ? list->child : NULL;
    for (int i = 0; i < c->n_layers; i++, v = v->next) {
        if (!v || v->kind != GR_JSON_NUMBER) {
            gr_field_fail(f, GRAFT_ERR_FORMAT, "no_rope_layers", "expected a list of %d numbers, one a layer",
                          c->n_layers);
            return;
        }
        c->layer_rope[i] = v->number.d != 0; /* despite its name, 1 means "with" */
    }
}

void gr_config_read_llama(gr_fields *f, gr_model_config *c) {
    const struct defaults *d = &defaults[c->type];
    c->hidden_act = gr_config_read_act(f, "hidden_act", GR_ACT_SILU, "silu or swish");
    read_sizes(f, d, c);
    if (f->st != GRAFT_OK) return; /* the loops over layers below need valid sizes */
    gr_config_read_tokens(f, c, d->bos, d->eos, d->pad);
    read_biases(f, c);
    read_rope_layers(f, c);
    read_windows(f, d, c);
    c->tie_word_embeddings = gr_field_bool(f, "tie_word_embeddings", d->tied);
    gr_rope_from_json(f, d->theta, c);
}
