/* config.json of gpt2. Its older keys (n_embd, n_head, ...) and the common ones (hidden_size, ...) mean the same; the
 * reference reads either. */
#include "io/config_parts.h"

static int64_t either(gr_fields *f, const char *key, const char *common, int64_t absent, int64_t max) {
    return gr_field_int(f, gr_field(f, key) || !gr_field(f, common) ? key : common, absent, 1, max);
}

void gr_config_read_gpt2(gr_fields *f, gr_model_config *c) {
    c->vocab_size = gr_field_int(f, "vocab_size", 50257, 1, INT32_MAX);
    c->max_position_embeddings = either(f, "n_positions", "max_position_embeddings", 1024, INT32_MAX);
    c->hidden_size = either(f, "n_embd", "hidden_size", 768, 1 << 20);
    c->n_layers = (int)either(f, "n_layer", "num_hidden_layers", 12, GR_MAX_LAYERS);
    c->n_heads = c->n_kv_heads = (int)either(f, "n_head", "num_attention_heads", 12, 65536);
    c->intermediate_size = gr_field_int(f, "n_inner", 4 * c->hidden_size, 1, 1 << 24);
    if (f->st == GRAFT_OK && c->hidden_size % c->n_heads)
        gr_field_fail(f, GRAFT_ERR_FORMAT, "n_embd", "expected a multiple of n_head (%d), found %lld", c->n_heads,
                      (long long)c->hidden_size);
    c->head_dim = (int)(c->hidden_size / c->n_heads);
    c->hidden_act = gr_config_read_act(f, "activation_function", GR_ACT_GELU_TANH,
                                       "gelu_new, gelu, gelu_pytorch_tanh, gelu_fast, relu, silu, swish or tanh");
    c->rms_norm_eps = gr_field_double(f, "layer_norm_epsilon", 1e-5, 0, 1);
    c->initializer_range = gr_field_double(f, "initializer_range", 0.02, 0, 1);
    c->embedding_dropout = gr_field_double(f, "embd_pdrop", 0.1, 0, 1);
    c->hidden_dropout = gr_field_double(f, "resid_pdrop", 0.1, 0, 1);
    c->attention_dropout = gr_field_double(f, "attn_pdrop", 0.1, 0, 1);
    c->scale_attention = gr_field_bool(f, "scale_attn_weights", true);
    c->scale_attention_by_layer = gr_field_bool(f, "scale_attn_by_inverse_layer_idx", false);
    if (gr_field_bool(f, "add_cross_attention", false))
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "add_cross_attention", "expected false, found true");
    gr_config_read_tokens(f, c, 50256, 50256, -1);
    c->qkv_bias = c->o_bias = c->mlp_bias = true;
    c->tie_word_embeddings = gr_field_bool(f, "tie_word_embeddings", true);
    c->rope.type = GR_ROPE_NONE;
}
