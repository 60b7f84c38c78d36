/* Encoder and decoder of the T5 kind, v1.0 and v1.1 (Flan-T5). Reference: transformers 5.24 models/t5.
 *
 *   encoder  x = x + o(attention(q, k, v of norm(x)))        both ways, with a bias by relative position
 *            x = x + wo(f(wi(norm(x))))                      or wo(f(wi_0(...)) * wi_1(...))
 *   decoder  x = x + o(attention(q, k, v of norm(x)))        causal, with a bias of its own
 *            x = x + o(attention(q of norm(x); k, v of the encoder's output))
 *            x = x + wo(...)
 *
 * Scores are not scaled. The bias is a table in the first layer of each stack that all its layers use. Where the head
 * is not one of v1.1, what enters it is scaled by hidden_size^-1/2. In the last layer everything after the decoder's
 * own attention is computed for the wanted rows only. Dropout stands where the reference has it, but for the one of
 * attention's weights.
 *
 * A classifier reads its text twice: the decoder's inputs are the source moved by one, and out_proj(tanh(dense(x)))
 * takes the x of the source's last end token, before which the decoder has seen all of it. */
#include <math.h>

#include "model/family.h"

enum { QKV, O, ENCODER_IN, ENCODER_OUT, ENCODER_LINEARS };
enum { CROSS_Q = O + 1, CROSS_KV, CROSS_O, DECODER_IN, DECODER_OUT, DECODER_LINEARS };
enum { NORM_SELF, ENCODER_NORM_FF, ENCODER_NORMS };
enum { NORM_CROSS = NORM_SELF + 1, DECODER_NORM_FF, DECODER_NORMS };
enum { BIAS_ENCODER, BIAS_DECODER };
enum { DROP_SELF, DROP_CROSS, DROP_INNER, DROP_FEED_FORWARD, DROPS };
enum { DROP_ENTER_SOURCE, DROP_ENTER, DROP_FINISH_SOURCE, DROP_FINISH }; /* outside the layers */
enum { DROP_POOLED, DROP_HEAD }; /* beside those of the first layer that is none */

static bool handles(gr_model_type type) { return type == GR_MODEL_T5; }

/* --- Building ---------------------------------------------------------------------------------------------------------------- */

static graft_status build_self_attention(gr_model *m, const gr_model_config *c, int l, bool first, graft_error *err) {
    int64_t d = c->hidden_size, inner = (int64_t)c->n_heads * c->head_dim;
    const gr_part qkv[3] = {{.role = GR_ROLE_Q, .name = "layer.0.SelfAttention.q", .out = inner},
                            {.role = GR_ROLE_K, .name = "layer.0.SelfAttention.k", .out = inner},
                            {.role = GR_ROLE_V, .name = "layer.0.SelfAttention.v", .out = inner}};
    const gr_part o = {.role = GR_ROLE_O, .name = "layer.0.SelfAttention.o", .out = d};
    GR_TRY(gr_build_linear(m, l, d, qkv, 3, err));
    GR_TRY(gr_build_linear(m, l, inner, &o, 1, err));
    if (first)
        GR_TRY(gr_build_position_bias(m, l, "layer.0.SelfAttention.relative_attention_bias", c->relative_buckets,
                                      c->n_heads, err));
    return gr_build_norm(m, l, "layer.0.layer_norm", d, err);
}

static void mark_cross(gr_model *m, size_t begin) {
    for (size_t i = begin; i < m->n_sites; i++) m->sites[i]->cross = true;
}

static graft_status build_cross_attention(gr_model *m, const gr_model_config *c, int l, graft_error *err) {
    int64_t d = c->hidden_size, inner = (int64_t)c->n_heads * c->head_dim;
    const gr_part q = {.role = GR_ROLE_Q, .name = "layer.1.EncDecAttention.q", .out = inner};
    const gr_part kv[2] = {{.role = GR_ROLE_K, .name = "layer.1.EncDecAttention.k", .out = inner},
                           {.role = GR_ROLE_V, .name = "layer.1.EncDecAttention.v", .out = inner}};
    const gr_part o = {.role = GR_ROLE_O, .name = "layer.1.EncDecAttention.o", .out = d};
    size_t begin = m->n_sites;
    GR_TRY(gr_build_linear(m, l, d, &q, 1, err));
    GR_TRY(gr_build_linear(m, l, d, kv, 2, err));
    GR_TRY(gr_build_linear(m, l, inner, &o, 1, err));
    mark_cross(m, begin);
    return gr_build_norm(m, l, "layer.1.layer_norm", d, err);
}

static graft_status build_feed_forward(gr_model *m, const gr_model_config *c, int l, bool decoder, graft_error *err) {
    int64_t d = c->hidden_size, f = c->intermediate_size;
    const gr_part in[2] = {{.role = c->gated_act ? GR_ROLE_GATE : GR_ROLE_UP,
                            .name = c->gated_act
                                        ? decoder ? "layer.2.DenseReluDense.wi_0" : "layer.1.DenseReluDense.wi_0"
                                    : decoder ? "layer.2.DenseReluDense.wi"
                                              : "layer.1.DenseReluDense.wi",
                            .out = f},
                           {.role = GR_ROLE_UP,
                            .name = decoder ? "layer.2.DenseReluDense.wi_1" : "layer.1.DenseReluDense.wi_1",
                            .out = f}};
    const gr_part out = {
        .role = GR_ROLE_DOWN, .name = decoder ? "layer.2.DenseReluDense.wo" : "layer.1.DenseReluDense.wo", .out = d};
    GR_TRY(gr_build_linear(m, l, d, in, c->gated_act ? 2 : 1, err));
    GR_TRY(gr_build_linear(m, l, f, &out, 1, err));
    return gr_build_norm(m, l, decoder ? "layer.2.layer_norm" : "layer.1.layer_norm", d, err);
}

static graft_status build_classifier(gr_model *m, const gr_model_config *c, graft_error *err) {
    const gr_part dense = {
        .role = GR_ROLE_DENSE, .name = "classification_head.dense", .out = c->hidden_size, .bias = true};
    if (c->n_eos != 1)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "%s: eos_token_id: expected one token, at whose last place a T5 classifier looks, found %d",
                       gr_weights_path(m->weights), c->n_eos);
    m->may_make = m->make_head;
    graft_status st = gr_build_linear(m, -1, c->hidden_size, &dense, 1, err);
    m->may_make = false;
    return st == GRAFT_OK ? gr_build_classifier(m, "classification_head.out_proj", c->hidden_size, true, err) : st;
}

/* Only around a classifier the base model has a name. */
static graft_status build(gr_model *m, const gr_model_config *c, graft_error *err) {
    static const char *const names[] = {"transformer.shared", "transformer.encoder.final_layer_norm",
                                        "transformer.decoder.final_layer_norm"};
    const bool classifies = c->task == GR_TASK_SEQ_CLS;
    const size_t skip = classifies ? 0 : strlen(m->family->prefix);
    int encoder = c->n_encoder_layers;
    m->layers += skip;
    m->encoder_layers += skip;
    GR_TRY(gr_build_embedding(m, names[0] + skip, c->vocab_size, c->hidden_size, err));
    for (int l = 0; l < encoder; l++) {
        GR_TRY(build_self_attention(m, c, l, l == 0, err));
        GR_TRY(build_feed_forward(m, c, l, false, err));
    }
    GR_TRY(gr_build_norm(m, -1, names[1] + skip, c->hidden_size, err));
    for (int l = encoder; l < c->n_layers; l++) {
        GR_TRY(build_self_attention(m, c, l, l == encoder, err));
        GR_TRY(build_cross_attention(m, c, l, err));
        GR_TRY(build_feed_forward(m, c, l, true, err));
    }
    GR_TRY(gr_build_norm(m, -1, names[2] + skip, c->hidden_size, err));
    if (classifies) return build_classifier(m, c, err);
    if (c->scale_decoder_outputs)
        GR_TRY(gr_build_constants(m, c->hidden_size, 1 / sqrt((double)c->hidden_size), &m->modules.head_scale, err));
    /* A file without a head has the table's, whatever the configuration says. */
    bool tied = c->tie_word_embeddings || !gr_weights_find(m->weights, "lm_head.weight");
    return gr_build_head(m, "lm_head", c->hidden_size, c->vocab_size, tied, err);
}

/* --- Running ------------------------------------------------------------------------------------------------------------------ */

static uint64_t stream(int layer, int which) {
    return gr_rng_stream(GR_RNG_DROPOUT, (uint64_t)(layer + 1) * DROPS + (uint64_t)which);
}

typedef struct layer_modules {
    const gr_linear *linears;
    const gr_norm *norms;
    bool decoder;
} layer_modules;

static layer_modules modules_of(gr_pass *p, int l) {
    const gr_modules *mods = gr_pass_modules(p);
    int encoder = gr_pass_model(p)->config.n_encoder_layers, d = l - encoder;
    if (d < 0) return (layer_modules){mods->linears + l * ENCODER_LINEARS, mods->norms + l * ENCODER_NORMS, false};
    return (layer_modules){mods->linears + encoder * ENCODER_LINEARS + d * DECODER_LINEARS,
                           mods->norms + encoder * ENCODER_NORMS + 1 + d * DECODER_NORMS, true};
}

static gr_nn_attention attention_of(gr_pass *p, int layer) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    return (gr_nn_attention){
        .layer = layer, .n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim, .scale = 1,
        .dropout = c->attention_dropout};
}

static graft_status embed(gr_pass *p, gr_run *run, int drop, gr_var **out, graft_error *err) {
    GR_TRY(gr_nn_embedding(run, &gr_pass_modules(p)->embedding, out, err));
    return gr_nn_dropout(run, gr_pass_model(p)->config.embedding_dropout, stream(-1, drop), out, err);
}

static graft_status enter_source(gr_pass *p, gr_var **out, graft_error *err) {
    return embed(p, gr_pass_run_source(p), DROP_ENTER_SOURCE, out, err);
}

static graft_status enter(gr_pass *p, gr_var **out, graft_error *err) {
    return embed(p, gr_pass_run_all(p), DROP_ENTER, out, err);
}

/* What the layer's own attention adds; of the decoder's last layer for wanted rows. */
static graft_status attend(gr_pass *p, int l, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    layer_modules m = modules_of(p, l);
    gr_run *run = m.decoder ? gr_pass_run_all(p) : gr_pass_run_source(p);
    gr_var *h, *qkv, *y;
    GR_TRY(gr_nn_norm(run, &m.norms[NORM_SELF], c->rms_norm_eps, x, &h, err));
    GR_TRY(gr_nn_linear(run, &m.linears[QKV], h, &qkv, err));
    gr_var_drop(h);
    int in_stack = m.decoder ? l - c->n_encoder_layers : l;
    gr_nn_attention a = attention_of(p, in_stack);
    a.causal = m.decoder;
    a.bias = &gr_pass_modules(p)->position_bias[m.decoder ? BIAS_DECODER : BIAS_ENCODER];
    a.bias_bidirectional = !m.decoder;
    a.bias_max_distance = c->relative_max_distance;
    if (m.decoder)
        gr_pass_attention(p, in_stack, &a);
    else
        gr_pass_source_attention(p, &a);
    GR_TRY(gr_nn_attend(run, &a, &qkv, &y, err));
    if (l == c->n_layers - 1) {
        GR_TRY(gr_pass_gather(p, &y, err));
        run = gr_pass_run_wanted(p);
        gr_pass_use(p, run);
    }
    GR_TRY(gr_nn_linear(run, &m.linears[O], y, out, err));
    gr_var_drop(y);
    return gr_nn_dropout(run, c->hidden_dropout, stream(l, DROP_SELF), out, err);
}

/* What the rows in `run` take from the source: keys and values are products of the encoder's output, one row a source
 * token, or were kept from a pass before. */
static graft_status attend_across(gr_pass *p, gr_run *run, int l, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    layer_modules m = modules_of(p, l);
    gr_var *encoded = gr_pass_encoded(p), *h, *q, *kv = NULL, *y;
    gr_nn_attention a = attention_of(p, l - c->n_encoder_layers);
    if (encoded) {
        gr_run *source = gr_pass_run_source(p);
        gr_pass_use(p, source);
        GR_TRY(gr_nn_linear(source, &m.linears[CROSS_KV], encoded, &kv, err));
        gr_nn_keep_rows(source, &a, kv, 0);
        gr_pass_use(p, run);
    }
    GR_TRY(gr_nn_norm(run, &m.norms[NORM_CROSS], c->rms_norm_eps, x, &h, err));
    GR_TRY(gr_nn_linear(run, &m.linears[CROSS_Q], h, &q, err));
    gr_var_drop(h);
    gr_pass_cross_attention(p, run, l - c->n_encoder_layers, &a);
    GR_TRY(gr_nn_attend_across(run, &a, &q, kv, &y, err));
    gr_var_drop(kv);
    GR_TRY(gr_nn_linear(run, &m.linears[CROSS_O], y, out, err));
    gr_var_drop(y);
    return gr_nn_dropout(run, c->hidden_dropout, stream(l, DROP_CROSS), out, err);
}

static graft_status feed_forward(gr_pass *p, gr_run *run, int l, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    layer_modules m = modules_of(p, l);
    const gr_linear *in = &m.linears[m.decoder ? DECODER_IN : ENCODER_IN],
                    *down = &m.linears[m.decoder ? DECODER_OUT : ENCODER_OUT];
    gr_var *h, *up, *y;
    GR_TRY(gr_nn_norm(run, &m.norms[m.decoder ? DECODER_NORM_FF : ENCODER_NORM_FF], c->rms_norm_eps, x, &h, err));
    GR_TRY(gr_nn_linear(run, in, h, &up, err));
    gr_var_drop(h);
    if (c->gated_act) {
        GR_TRY(gr_nn_gated(run, gr_act_of(c->hidden_act), up, down, &y, err));
        gr_var_drop(up);
    } else {
        GR_TRY(gr_nn_activate(run, gr_act_of(c->hidden_act), &up, down, err));
        y = up;
    }
    GR_TRY(gr_nn_dropout(run, c->hidden_dropout, stream(l, DROP_INNER), &y, err));
    GR_TRY(gr_nn_linear(run, down, y, out, err));
    gr_var_drop(y);
    return gr_nn_dropout(run, c->hidden_dropout, stream(l, DROP_FEED_FORWARD), out, err);
}

static graft_status layer(gr_pass *p, int l, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    bool decoder = l >= c->n_encoder_layers, last = l == c->n_layers - 1;
    gr_run *run = !decoder ? gr_pass_run_source(p) : last ? gr_pass_run_wanted(p) : gr_pass_run_all(p);
    gr_var *y, *z, *rest = gr_var_keep(x);
    gr_pass_use(p, decoder ? gr_pass_run_all(p) : run);
    GR_TRY(attend(p, l, x, &y, err));
    if (last) GR_TRY(gr_pass_gather(p, &rest, err));
    GR_TRY(gr_nn_add(run, &y, rest, err));
    gr_var_drop(rest);
    if (decoder) {
        GR_TRY(attend_across(p, run, l, y, &z, err));
        GR_TRY(gr_nn_add(run, &z, y, err));
        gr_var_drop(y);
        y = z;
    }
    GR_TRY(feed_forward(p, run, l, y, &z, err));
    GR_TRY(gr_nn_add(run, &z, y, err));
    gr_var_drop(y);
    *out = z;
    return GRAFT_OK;
}

static graft_status finish_source(gr_pass *p, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    gr_run *run = gr_pass_run_source(p);
    GR_TRY(
        gr_nn_norm(run, &gr_pass_modules(p)->norms[c->n_encoder_layers * ENCODER_NORMS], c->rms_norm_eps, x, out, err));
    return gr_nn_dropout(run, c->hidden_dropout, stream(-1, DROP_FINISH_SOURCE), out, err);
}

static graft_status finish_classifier(gr_pass *p, gr_run *run, gr_var **x, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    const gr_modules *mods = gr_pass_modules(p);
    gr_var *y;
    GR_TRY(gr_nn_dropout(run, c->classifier_dropout, stream(c->n_layers, DROP_POOLED), x, err));
    GR_TRY(gr_nn_linear(run, &mods->linears[mods->n_linears - 1], *x, &y, err));
    gr_var_drop(*x);
    *x = y;
    GR_TRY(gr_nn_activate(run, GR_ACTIVATION_TANH, x, NULL, err));
    return gr_nn_dropout(run, c->classifier_dropout, stream(c->n_layers, DROP_HEAD), x, err);
}

static graft_status finish(gr_pass *p, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    const gr_modules *mods = gr_pass_modules(p);
    gr_run *run = gr_pass_run_wanted(p);
    GR_TRY(gr_nn_norm(run, &mods->norms[mods->n_norms - 1], c->rms_norm_eps, x, out, err));
    GR_TRY(gr_nn_dropout(run, c->hidden_dropout, stream(-1, DROP_FINISH), out, err));
    if (c->task == GR_TASK_SEQ_CLS) return finish_classifier(p, run, out, err);
    return mods->head_scale ? gr_nn_scale(run, c->hidden_size, mods->head_scale, out, err) : GRAFT_OK;
}

/* The table of tokens stands in files up to three times; old files have a bias in front of the cross-attention that is
 * not used. */
static const char *const ignored[] = {"coder.embed_tokens.weight", "EncDecAttention.relative_attention_bias.weight",
                                      "classification_head.*", NULL};

const gr_family gr_family_t5 = {.name = "t5",
                                .layers = "transformer.decoder.block",
                                .encoder_layers = "transformer.encoder.block",
                                .prefix = "transformer.",
                                .ignored = ignored,
                                .tasks = 1u << GR_TASK_SEQ_2_SEQ_LM | 1u << GR_TASK_SEQ_CLS,
                                .handles = handles,
                                .build = build,
                                .enter = enter,
                                .layer = layer,
                                .finish = finish,
                                .enter_source = enter_source,
                                .finish_source = finish_source};
