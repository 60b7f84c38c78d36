/* config.json of bert and roberta. */
#include "io/config_parts.h"

static void refuse(gr_fields *f, const char *key) {
    if (gr_field_bool(f, key, false)) gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, key, "expected false, found true");
}

void gr_config_read_bert(gr_fields *f, gr_model_config *c) {
    bool roberta = c->type == GR_MODEL_ROBERTA;
    c->vocab_size = gr_field_int(f, "vocab_size", roberta ? 50265 : 30522, 1, INT32_MAX);
    c->hidden_size = gr_field_int(f, "hidden_size", 768, 1, 1 << 20);
    c->intermediate_size = gr_field_int(f, "intermediate_size", 3072, 1, 1 << 24);
    c->n_layers = (int)gr_field_int(f, "num_hidden_layers", 12, 1, GR_MAX_LAYERS);
    c->n_heads = c->n_kv_heads = (int)gr_field_int(f, "num_attention_heads", 12, 1, 65536);
    if (f->st == GRAFT_OK && c->hidden_size % c->n_heads)
        gr_field_fail(f, GRAFT_ERR_FORMAT, "hidden_size", "expected a multiple of num_attention_heads (%d), found %lld",
                      c->n_heads, (long long)c->hidden_size);
    c->head_dim = (int)(c->hidden_size / c->n_heads);
    c->hidden_act = gr_config_read_act(f, "hidden_act", GR_ACT_GELU,
                                       "gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, silu, swish or tanh");
    c->max_position_embeddings = gr_field_int(f, "max_position_embeddings", 512, 1, INT32_MAX);
    c->type_vocab_size = gr_field_int(f, "type_vocab_size", 2, 1, INT32_MAX);
    c->rms_norm_eps = gr_field_double(f, "layer_norm_eps", 1e-12, 0, 1);
    c->initializer_range = gr_field_double(f, "initializer_range", 0.02, 0, 1);
    c->embedding_dropout = c->hidden_dropout = gr_field_double(f, "hidden_dropout_prob", 0.1, 0, 1);
    c->attention_dropout = gr_field_double(f, "attention_probs_dropout_prob", 0.1, 0, 1);
    c->classifier_dropout = gr_field_double(f, "classifier_dropout", c->hidden_dropout, 0, 1);
    refuse(f, "is_decoder");
    refuse(f, "add_cross_attention");
    const char *positions = gr_field_text(f, "position_embedding_type");
    if (positions && strcmp(positions, "absolute") != 0)
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "position_embedding_type", "expected absolute, found \"%.60s\"",
                      positions);
    gr_config_read_tokens(f, c, roberta ? 0 : -1, roberta ? 2 : -1, roberta);
    c->positions_after_pad = roberta;
    if (roberta && f->st == GRAFT_OK && (c->pad_token_id < 0 || c->pad_token_id + 1 >= c->max_position_embeddings))
        gr_field_fail(f, GRAFT_ERR_FORMAT, "pad_token_id",
                      "expected a token below max_position_embeddings - 1, found %lld", (long long)c->pad_token_id);
    c->bidirectional = true;
    c->qkv_bias = c->o_bias = c->mlp_bias = true;
    c->tie_word_embeddings = gr_field_bool(f, "tie_word_embeddings", true);
    c->rope.type = GR_ROPE_NONE;
}
