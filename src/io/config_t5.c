/* config.json of t5. tie_word_embeddings false means v1.1 (Flan-T5 too): a head of its own and no scale in front of it.
 * transformers 5 writes true for every model and says the rest in scale_decoder_outputs. */
#include "io/config_parts.h"

enum { LONGEST = 1 << 30 }; /* relative positions have no end */

static void read_feed_forward(gr_fields *f, gr_model_config *c) {
    const char *text = gr_field_text(f, "feed_forward_proj");
    c->gated_act = text && strncmp(text, "gated-", 6) == 0;
    if (text && strcmp(text, "gated-gelu") == 0)
        c->hidden_act = GR_ACT_GELU_TANH;
    else if (c->gated_act)
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "feed_forward_proj",
                      "expected relu, gated-gelu, gelu, gelu_new, silu or tanh, found \"%.60s\"", text);
    else
        c->hidden_act =
            gr_config_read_act(f, "feed_forward_proj", GR_ACT_RELU, "relu, gated-gelu, gelu, gelu_new, silu or tanh");
}

static void read_positions(gr_fields *f, gr_model_config *c) {
    c->relative_buckets = (int)gr_field_int(f, "relative_attention_num_buckets", 32, 4, 4096);
    c->relative_max_distance = (int)gr_field_int(f, "relative_attention_max_distance", 128, 1, 65536);
    /* Both directions share the encoder's buckets, and half of a direction's are single distances. */
    if (f->st == GRAFT_OK && (c->relative_buckets % 2 || c->relative_max_distance <= c->relative_buckets / 2))
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "relative_attention_num_buckets",
                      "expected an even number whose half is below relative_attention_max_distance (%d), found %d",
                      c->relative_max_distance, c->relative_buckets);
}

void gr_config_read_t5(gr_fields *f, gr_model_config *c) {
    c->vocab_size = gr_field_int(f, "vocab_size", 32128, 1, INT32_MAX);
    c->hidden_size = gr_field_int(f, "d_model", 512, 1, 1 << 20);
    c->head_dim = (int)gr_field_int(f, "d_kv", 64, 1, GR_MAX_HEAD_DIM);
    c->intermediate_size = gr_field_int(f, "d_ff", 2048, 1, 1 << 24);
    c->n_encoder_layers = (int)gr_field_int(f, "num_layers", 6, 1, GR_MAX_LAYERS / 2);
    c->n_layers =
        c->n_encoder_layers + (int)gr_field_int(f, "num_decoder_layers", c->n_encoder_layers, 1, GR_MAX_LAYERS / 2);
    c->n_heads = c->n_kv_heads = (int)gr_field_int(f, "num_heads", 8, 1, 65536);
    c->max_position_embeddings = LONGEST;
    read_positions(f, c);
    read_feed_forward(f, c);
    c->rms_norm_eps = gr_field_double(f, "layer_norm_epsilon", 1e-6, 0, 1);
    c->initializer_range = gr_field_double(f, "initializer_factor", 1, 0, 1e6);
    c->embedding_dropout = c->hidden_dropout = c->attention_dropout = gr_field_double(f, "dropout_rate", 0.1, 0, 1);
    c->classifier_dropout = gr_field_double(f, "classifier_dropout", 0, 0, 1);
    c->tie_word_embeddings = gr_field_bool(f, "tie_word_embeddings", true);
    c->scale_decoder_outputs = gr_field_bool(f, "scale_decoder_outputs", c->tie_word_embeddings);
    gr_config_read_tokens(f, c, -1, 1, 0);
    c->decoder_start_token_id = gr_field_int(f, "decoder_start_token_id", c->pad_token_id, 0, INT32_MAX);
    if (f->st == GRAFT_OK && (c->decoder_start_token_id < 0 || c->decoder_start_token_id >= c->vocab_size))
        gr_field_fail(f, GRAFT_ERR_FORMAT, "decoder_start_token_id", "expected an id below %lld, found %lld",
                      (long long)c->vocab_size, (long long)c->decoder_start_token_id);
    c->rope.type = GR_ROPE_NONE;
}
