/* Decoder of the Llama kind: llama, mistral, qwen2, qwen3, smollm3. Reference: transformers 5.23 models/llama and its
 * relatives.
 *
 *   x = x + o(attention(rope(qkv(norm(x)))))
 *   x = x + down(silu(gate(norm(x))) * up(norm(x)))
 *
 * with q, k, v and gate, up each one fused product. What differs between the model types (biases, norms of q and k heads,
 * windows, layers without rotation) stands in the configuration. In the last layer everything after the attention is
 * computed for the wanted rows only. */
#include <math.h>
#include <stdio.h>

#include "model/family.h"

enum { QKV, O, GATE_UP, DOWN, LINEARS };
enum { INPUT_NORM, POST_NORM, Q_NORM, K_NORM };

static bool handles(gr_model_type type) {
    return type == GR_MODEL_LLAMA || type == GR_MODEL_MISTRAL || type == GR_MODEL_QWEN2 || type == GR_MODEL_QWEN3 ||
           type == GR_MODEL_SMOLLM3;
}

static int norms_per_layer(const gr_model_config *c) { return c->qk_norm ? 4 : 2; }

static graft_status build_layer(gr_model *m, const gr_model_config *c, int l, graft_error *err) {
    int64_t d = c->hidden_size, f = c->intermediate_size, head = c->head_dim;
    const gr_part qkv[3] = {{GR_ROLE_Q, "self_attn.q_proj", c->n_heads * head, c->qkv_bias, false},
                            {GR_ROLE_K, "self_attn.k_proj", c->n_kv_heads * head, c->qkv_bias, false},
                            {GR_ROLE_V, "self_attn.v_proj", c->n_kv_heads * head, c->qkv_bias, false}};
    const gr_part o = {GR_ROLE_O, "self_attn.o_proj", d, c->o_bias, false};
    const gr_part gate_up[2] = {{GR_ROLE_GATE, "mlp.gate_proj", f, c->mlp_bias, false}, {GR_ROLE_UP, "mlp.up_proj", f, c->mlp_bias, false}};
    const gr_part down = {GR_ROLE_DOWN, "mlp.down_proj", d, c->mlp_bias, false};
    GR_TRY(gr_build_linear(m, l, d, qkv, 3, err));
    GR_TRY(gr_build_linear(m, l, c->n_heads * head, &o, 1, err));
    GR_TRY(gr_build_linear(m, l, d, gate_up, 2, err));
    GR_TRY(gr_build_linear(m, l, f, &down, 1, err));
    GR_TRY(gr_build_norm(m, l, "input_layernorm", d, err));
    GR_TRY(gr_build_norm(m, l, "post_attention_layernorm", d, err));
    if (c->qk_norm) {
        GR_TRY(gr_build_norm(m, l, "self_attn.q_norm", head, err));
        GR_TRY(gr_build_norm(m, l, "self_attn.k_norm", head, err));
    }
    return GRAFT_OK;
}

static graft_status build(gr_model *m, const gr_model_config *c, graft_error *err) {
    GR_TRY(gr_build_embedding(m, "model.embed_tokens", c->vocab_size, c->hidden_size, err));
    for (int l = 0; l < c->n_layers; l++) GR_TRY(build_layer(m, c, l, err));
    GR_TRY(gr_build_norm(m, -1, "model.norm", c->hidden_size, err));
    return gr_build_top(m, "lm_head", err);
}

static graft_status attend(gr_pass *p, int l, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    const gr_modules *mods = gr_pass_modules(p);
    const gr_norm *norms = &mods->norms[l * norms_per_layer(c)];
    const gr_linear *linears = &mods->linears[l * LINEARS];
    gr_run *all = gr_pass_run_all(p), *wanted = gr_pass_run_wanted(p);
    gr_var *h, *qkv, *y;
    GR_TRY(gr_nn_norm(all, &norms[INPUT_NORM], c->rms_norm_eps, x, &h, err));
    GR_TRY(gr_nn_linear(all, &linears[QKV], h, &qkv, err));
    gr_var_drop(h);
    gr_nn_attention a = {.layer = l, .n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim,
                         .scale = 1 / sqrt(c->head_dim), .causal = true,
                         .window = c->layer_sliding[l] ? c->sliding_window : 0, .eps = c->rms_norm_eps,
                         .dropout = c->attention_dropout};
    if (c->qk_norm) {
        a.q_norm = &norms[Q_NORM];
        a.k_norm = &norms[K_NORM];
    }
    gr_pass_attention(p, l, &a);
    GR_TRY(gr_nn_attend(all, &a, &qkv, &y, err));
    if (l == c->n_layers - 1) {
        GR_TRY(gr_pass_gather(p, &y, err));
        gr_pass_use(p, wanted);
        all = wanted;
    }
    GR_TRY(gr_nn_linear(all, &linears[O], y, out, err));
    gr_var_drop(y);
    return GRAFT_OK;
}

static graft_status feed_forward(gr_pass *p, gr_run *run, int l, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    const gr_modules *mods = gr_pass_modules(p);
    const gr_linear *linears = &mods->linears[l * LINEARS];
    gr_var *h, *gate_up, *y;
    GR_TRY(gr_nn_norm(run, &mods->norms[l * norms_per_layer(c) + POST_NORM], c->rms_norm_eps, x, &h, err));
    GR_TRY(gr_nn_linear(run, &linears[GATE_UP], h, &gate_up, err));
    gr_var_drop(h);
    GR_TRY(gr_nn_swiglu(run, gate_up, &linears[DOWN], &y, err));
    gr_var_drop(gate_up);
    GR_TRY(gr_nn_linear(run, &linears[DOWN], y, out, err));
    gr_var_drop(y);
    return GRAFT_OK;
}

static graft_status layer(gr_pass *p, int l, gr_var *x, gr_var **out, graft_error *err) {
    return gr_pass_residual_layer(p, l, x, attend, feed_forward, out, err);
}

static graft_status finish(gr_pass *p, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    const gr_modules *mods = gr_pass_modules(p);
    return gr_nn_norm(gr_pass_run_wanted(p), &mods->norms[mods->n_norms - 1], c->rms_norm_eps, x, out, err);
}

const gr_family gr_family_llama = {.name = "llama",
                                   .layers = "model.layers",
                                   .prefix = "model.",
                                   .padding_idx = true,
                                   .tasks = 1u << GR_TASK_CAUSAL_LM | 1u << GR_TASK_SEQ_CLS,
                                   .handles = handles,
                                   .build = build,
                                   .layer = layer,
                                   .finish = finish};
