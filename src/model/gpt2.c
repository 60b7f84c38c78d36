/* Decoder of the GPT-2 kind. Reference: transformers 5.23 models/gpt2.
 *
 *   x = wte[id] + wpe[position]
 *   x = x + c_proj(attention(c_attn(ln_1(x))))
 *   x = x + c_proj(act(c_fc(ln_2(x))))
 *
 * q, k and v are one module, and weights are stored as (in, out). In the last layer everything after the attention is
 * computed for the wanted rows only. */
#include <math.h>

#include "model/family.h"

enum { QKV, O, UP, DOWN, LINEARS };
enum { LN_1, LN_2, NORMS };
enum { DROP_EMBEDDING, DROP_ATTENTION, DROP_FEED_FORWARD, DROPS };

static bool handles(gr_model_type type) { return type == GR_MODEL_GPT2; }

static graft_status build_layer(gr_model *m, const gr_model_config *c, int l, graft_error *err) {
    int64_t d = c->hidden_size, f = c->intermediate_size;
    const gr_part qkv = {GR_ROLE_QKV, "attn.c_attn", 3 * d, true, true}, o = {GR_ROLE_O, "attn.c_proj", d, true, true};
    const gr_part up = {GR_ROLE_UP, "mlp.c_fc", f, true, true}, down = {GR_ROLE_DOWN, "mlp.c_proj", d, true, true};
    GR_TRY(gr_build_layernorm(m, l, "ln_1", d, err));
    GR_TRY(gr_build_linear(m, l, d, &qkv, 1, err));
    GR_TRY(gr_build_linear(m, l, d, &o, 1, err));
    GR_TRY(gr_build_layernorm(m, l, "ln_2", d, err));
    GR_TRY(gr_build_linear(m, l, d, &up, 1, err));
    return gr_build_linear(m, l, f, &down, 1, err);
}

static graft_status build(gr_model *m, const gr_model_config *c, graft_error *err) {
    GR_TRY(gr_build_embedding(m, "transformer.wte", c->vocab_size, c->hidden_size, err));
    GR_TRY(gr_build_table(m, "transformer.wpe", c->max_position_embeddings, c->hidden_size, err));
    for (int l = 0; l < c->n_layers; l++) GR_TRY(build_layer(m, c, l, err));
    GR_TRY(gr_build_layernorm(m, -1, "transformer.ln_f", c->hidden_size, err));
    return gr_build_top(m, "lm_head", err);
}

static uint64_t stream(int layer, int which) {
    return gr_rng_stream(GR_RNG_DROPOUT, (uint64_t)(layer + 1) * DROPS + (uint64_t)which);
}

static graft_status enter(gr_pass *p, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    const gr_modules *mods = gr_pass_modules(p);
    gr_run *all = gr_pass_run_all(p);
    GR_TRY(gr_pass_check_positions(p, c->max_position_embeddings, err));
    GR_TRY(gr_nn_embedding(all, &mods->embedding, out, err));
    GR_TRY(gr_nn_add_table(all, &mods->tables[0], gr_pass_positions(p), out, err));
    return gr_nn_dropout(all, c->embedding_dropout, stream(-1, DROP_EMBEDDING), out, err);
}

static graft_status attend(gr_pass *p, int l, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    const gr_modules *mods = gr_pass_modules(p);
    const gr_linear *linears = &mods->linears[l * LINEARS];
    gr_run *run = gr_pass_run_all(p);
    gr_var *h, *qkv, *y, *gated;
    GR_TRY(gr_nn_norm(run, &mods->norms[l * NORMS + LN_1], c->rms_norm_eps, x, &h, err));
    GR_TRY(gr_nn_linear(run, &linears[QKV], h, &qkv, err));
    gr_var_drop(h);
    gr_nn_attention a = {.layer = l, .n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim,
                         .scale = c->scale_attention ? 1 / sqrt(c->head_dim) : 1, .causal = true, .gated = &gated,
                         .dropout = c->attention_dropout};
    if (c->scale_attention_by_layer) a.scale /= l + 1;
    gr_pass_attention(p, l, &a);
    GR_TRY(gr_nn_attend(run, &a, &qkv, &y, err));
    if (l == c->n_layers - 1) {
        GR_TRY(gr_pass_gather(p, &y, err));
        if (gated) GR_TRY(gr_pass_gather(p, &gated, err));
        run = gr_pass_run_wanted(p);
        gr_pass_use(p, run);
    }
    GR_TRY(gr_nn_linear(run, &linears[O], y, out, err));
    gr_var_drop(y);
    GR_TRY(gr_nn_dropout(run, c->hidden_dropout, stream(l, DROP_ATTENTION), out, err));
    if (!gated) return GRAFT_OK;
    GR_TRY(gr_nn_add(run, out, gated, err));
    gr_var_drop(gated);
    return GRAFT_OK;
}

static graft_status feed_forward(gr_pass *p, gr_run *run, int l, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    const gr_modules *mods = gr_pass_modules(p);
    const gr_linear *linears = &mods->linears[l * LINEARS];
    gr_var *h, *up;
    GR_TRY(gr_nn_norm(run, &mods->norms[l * NORMS + LN_2], c->rms_norm_eps, x, &h, err));
    GR_TRY(gr_nn_linear(run, &linears[UP], h, &up, err));
    gr_var_drop(h);
    GR_TRY(gr_nn_activate(run, gr_act_of(c->hidden_act), &up, &linears[DOWN], err));
    GR_TRY(gr_nn_linear(run, &linears[DOWN], up, out, err));
    gr_var_drop(up);
    return gr_nn_dropout(run, c->hidden_dropout, stream(l, DROP_FEED_FORWARD), out, err);
}

static graft_status layer(gr_pass *p, int l, gr_var *x, gr_var **out, graft_error *err) {
    return gr_pass_residual_layer(p, l, x, attend, feed_forward, out, err);
}

static graft_status finish(gr_pass *p, gr_var *x, gr_var **out, graft_error *err) {
    const gr_modules *mods = gr_pass_modules(p);
    return gr_nn_norm(gr_pass_run_wanted(p), &mods->norms[mods->n_norms - 1], gr_pass_model(p)->config.rms_norm_eps, x, out,
                      err);
}

static const char *const ignored[] = {".attn.bias", ".attn.masked_bias", NULL}; /* causal masks */

const gr_family gr_family_gpt2 = {.name = "gpt2",
                                  .layers = "transformer.h",
                                  .prefix = "transformer.",
                                  .ignored = ignored,
                                  .tasks = 1u << GR_TASK_CAUSAL_LM | 1u << GR_TASK_SEQ_CLS,
                                  .handles = handles,
                                  .build = build,
                                  .enter = enter,
                                  .layer = layer,
                                  .finish = finish};
