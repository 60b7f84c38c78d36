/* Encoders of the BERT kind: bert, roberta. References: transformers 5.23 models/bert, models/roberta.
 *
 *   x = LN(word[id] + type[token type] + position[place])
 *   x = LN(x + dense(attention(q, k, v(x)))),  x = LN(x + dense(act(dense(x))))
 *
 * Every token sees its whole sequence. Heads: masked language model LN(act(dense(x))) on the table of words with a bias;
 * classification of the first token's x, through tanh(dense(x)). In the last layer everything after the attention is computed
 * for the wanted rows only. */
#include <math.h>

#include "model/family.h"

enum { QKV, O, UP, DOWN, LINEARS };
enum { LN_ATTENTION, LN_OUTPUT, NORMS }; /* behind the embeddings' own */
enum { POSITIONS, TYPES };
enum { DROP_EMBEDDING, DROP_ATTENTION, DROP_FEED_FORWARD, DROP_POOLED, DROP_HEAD, DROPS };

static bool handles_bert(gr_model_type type) { return type == GR_MODEL_BERT; }
static bool handles_roberta(gr_model_type type) { return type == GR_MODEL_ROBERTA; }
static bool is_roberta(const gr_model *m) { return m->config.type == GR_MODEL_ROBERTA; }

static graft_status build_layer(gr_model *m, const gr_model_config *c, int l, graft_error *err) {
    int64_t d = c->hidden_size, f = c->intermediate_size;
    const gr_part qkv[] = {{GR_ROLE_Q, "attention.self.query", d, true, false},
                           {GR_ROLE_K, "attention.self.key", d, true, false},
                           {GR_ROLE_V, "attention.self.value", d, true, false}};
    const gr_part o = {GR_ROLE_O, "attention.output.dense", d, true, false};
    const gr_part up = {GR_ROLE_UP, "intermediate.dense", f, true, false};
    const gr_part down = {GR_ROLE_DOWN, "output.dense", d, true, false};
    GR_TRY(gr_build_linear(m, l, d, qkv, 3, err));
    GR_TRY(gr_build_linear(m, l, d, &o, 1, err));
    GR_TRY(gr_build_layernorm(m, l, "attention.output.LayerNorm", d, err));
    GR_TRY(gr_build_linear(m, l, d, &up, 1, err));
    GR_TRY(gr_build_linear(m, l, f, &down, 1, err));
    return gr_build_layernorm(m, l, "output.LayerNorm", d, err);
}

/* The one product between the layers and the head, of which the files may know nothing. */
static graft_status build_dense(gr_model *m, const gr_model_config *c, const char *name, graft_error *err) {
    const gr_part dense = {GR_ROLE_DENSE, name, c->hidden_size, true, false};
    m->may_make = m->make_head;
    graft_status st = gr_build_linear(m, -1, c->hidden_size, &dense, 1, err);
    m->may_make = false;
    return st;
}

static graft_status build_masked_lm(gr_model *m, const gr_model_config *c, graft_error *err) {
    bool roberta = is_roberta(m);
    GR_TRY(build_dense(m, c, roberta ? "lm_head.dense" : "cls.predictions.transform.dense", err));
    m->may_make = m->make_head;
    graft_status st = gr_build_layernorm(m, -1, roberta ? "lm_head.layer_norm" : "cls.predictions.transform.LayerNorm",
                                         c->hidden_size, err);
    if (st == GRAFT_OK)
        st = gr_build_head(m, roberta ? "lm_head.decoder" : "cls.predictions.decoder", c->hidden_size, c->vocab_size,
                           c->tie_word_embeddings, err);
    if (st == GRAFT_OK)
        st = gr_build_head_bias(m, roberta ? "lm_head.bias" : "cls.predictions.bias",
                                roberta ? "lm_head.decoder.bias" : "cls.predictions.decoder.bias", err);
    m->may_make = false;
    return st;
}

static graft_status build_head(gr_model *m, const gr_model_config *c, graft_error *err) {
    bool roberta = is_roberta(m);
    switch (c->task) {
    case GR_TASK_MASKED_LM: return build_masked_lm(m, c, err);
    case GR_TASK_SEQ_CLS:
        GR_TRY(build_dense(m, c, roberta ? "classifier.dense" : "bert.pooler.dense", err));
        return gr_build_classifier(m, roberta ? "classifier.out_proj" : "classifier", c->hidden_size, true, err);
    default: /* a bare RoBERTa's pooler is left out where the files have none, as it is never trained */
        if (roberta && !gr_model_has_weight(m, "pooler.dense.weight")) return GRAFT_OK;
        return build_dense(m, c, "pooler.dense", err);
    }
}

static graft_status build(gr_model *m, const gr_model_config *c, graft_error *err) {
    bool bare = c->task == GR_TASK_FEATURES;
    size_t skip = bare ? strlen(m->family->prefix) : 0;
    const char *const names[] = {
        is_roberta(m) ? "roberta.embeddings.word_embeddings" : "bert.embeddings.word_embeddings",
        is_roberta(m) ? "roberta.embeddings.position_embeddings" : "bert.embeddings.position_embeddings",
        is_roberta(m) ? "roberta.embeddings.token_type_embeddings" : "bert.embeddings.token_type_embeddings",
        is_roberta(m) ? "roberta.embeddings.LayerNorm" : "bert.embeddings.LayerNorm"};
    m->layers += skip;
    GR_TRY(gr_build_embedding(m, names[0] + skip, c->vocab_size, c->hidden_size, err));
    GR_TRY(gr_build_table(m, names[1] + skip, c->max_position_embeddings, c->hidden_size, err));
    if (c->positions_after_pad) m->modules.tables[POSITIONS].pad_id = (int32_t)c->pad_token_id;
    GR_TRY(gr_build_table(m, names[2] + skip, c->type_vocab_size, c->hidden_size, err));
    GR_TRY(gr_build_layernorm(m, -1, names[3] + skip, c->hidden_size, err));
    for (int l = 0; l < c->n_layers; l++) GR_TRY(build_layer(m, c, l, err));
    return build_head(m, c, err);
}

static uint64_t stream(int layer, int which) {
    return gr_rng_stream(GR_RNG_DROPOUT, (uint64_t)(layer + 1) * DROPS + (uint64_t)which);
}

static graft_status enter(gr_pass *p, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    const gr_modules *mods = gr_pass_modules(p);
    gr_run *all = gr_pass_run_all(p);
    const int32_t *types;
    gr_var *x;
    GR_TRY(gr_pass_check_positions(p, c->max_position_embeddings, err));
    GR_TRY(gr_pass_token_types(p, &types, err));
    GR_TRY(gr_nn_embedding(all, &mods->embedding, &x, err));
    GR_TRY(gr_nn_add_table(all, &mods->tables[TYPES], types, &x, err));
    GR_TRY(gr_nn_add_table(all, &mods->tables[POSITIONS], gr_pass_positions(p), &x, err));
    GR_TRY(gr_nn_norm(all, &mods->norms[0], c->rms_norm_eps, x, out, err));
    gr_var_drop(x);
    return gr_nn_dropout(all, c->embedding_dropout, stream(-1, DROP_EMBEDDING), out, err);
}

/* The attention with its output product; from there on wanted rows only in the last layer. */
static graft_status attend(gr_pass *p, int l, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    const gr_modules *mods = gr_pass_modules(p);
    const gr_linear *linears = &mods->linears[l * LINEARS];
    gr_run *run = gr_pass_run_all(p);
    gr_var *qkv, *y;
    GR_TRY(gr_nn_linear(run, &linears[QKV], x, &qkv, err));
    gr_nn_attention a = {.layer = l, .n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim,
                         .scale = 1 / sqrt(c->head_dim), .dropout = c->attention_dropout};
    gr_pass_attention(p, l, &a);
    GR_TRY(gr_nn_attend(run, &a, &qkv, &y, err));
    if (l == c->n_layers - 1) {
        GR_TRY(gr_pass_gather(p, &y, err));
        run = gr_pass_run_wanted(p);
        gr_pass_use(p, run);
    }
    GR_TRY(gr_nn_linear(run, &linears[O], y, out, err));
    gr_var_drop(y);
    return gr_nn_dropout(run, c->hidden_dropout, stream(l, DROP_ATTENTION), out, err);
}

static graft_status feed_forward(gr_pass *p, gr_run *run, int l, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model_config *c = &gr_pass_model(p)->config;
    const gr_linear *linears = &gr_pass_modules(p)->linears[l * LINEARS];
    gr_var *up;
    GR_TRY(gr_nn_linear(run, &linears[UP], x, &up, err));
    GR_TRY(gr_nn_activate(run, gr_act_of(c->hidden_act), &up, &linears[DOWN], err));
    GR_TRY(gr_nn_linear(run, &linears[DOWN], up, out, err));
    gr_var_drop(up);
    return gr_nn_dropout(run, c->hidden_dropout, stream(l, DROP_FEED_FORWARD), out, err);
}

/* *y = LN(*y + x), over the reference to *y. */
static graft_status add_and_norm(gr_pass *p, gr_run *run, const gr_norm *norm, gr_var *x, gr_var **y,
                                 graft_error *err) {
    gr_var *sum = *y;
    GR_TRY(gr_nn_add(run, &sum, x, err));
    GR_TRY(gr_nn_norm(run, norm, gr_pass_model(p)->config.rms_norm_eps, sum, y, err));
    gr_var_drop(sum);
    return GRAFT_OK;
}

static graft_status layer(gr_pass *p, int l, gr_var *x, gr_var **out, graft_error *err) {
    const gr_norm *norms = &gr_pass_modules(p)->norms[1 + l * NORMS];
    bool last = l == gr_pass_model(p)->config.n_layers - 1;
    gr_run *run = last ? gr_pass_run_wanted(p) : gr_pass_run_all(p);
    gr_var *y, *z;
    gr_pass_use(p, gr_pass_run_all(p));
    GR_TRY(attend(p, l, x, &y, err));
    gr_var *rest = gr_var_keep(x);
    if (last) GR_TRY(gr_pass_gather(p, &rest, err));
    GR_TRY(add_and_norm(p, run, &norms[LN_ATTENTION], rest, &y, err));
    gr_var_drop(rest);
    GR_TRY(feed_forward(p, run, l, y, &z, err));
    GR_TRY(add_and_norm(p, run, &norms[LN_OUTPUT], y, &z, err));
    gr_var_drop(y);
    *out = z;
    return GRAFT_OK;
}

static graft_status finish_masked_lm(gr_pass *p, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model *m = gr_pass_model(p);
    const gr_modules *mods = gr_pass_modules(p);
    gr_run *run = gr_pass_run_wanted(p);
    gr_activation act = is_roberta(m) ? GR_ACTIVATION_GELU : gr_act_of(m->config.hidden_act);
    gr_var *h;
    GR_TRY(gr_nn_linear(run, &mods->linears[mods->n_linears - 1], x, &h, err));
    GR_TRY(gr_nn_activate(run, act, &h, NULL, err));
    GR_TRY(gr_nn_norm(run, &mods->norms[mods->n_norms - 1], m->config.rms_norm_eps, h, out, err));
    gr_var_drop(h);
    return GRAFT_OK;
}

static graft_status finish_classifier(gr_pass *p, gr_var *x, gr_var **out, graft_error *err) {
    const gr_model *m = gr_pass_model(p);
    const gr_modules *mods = gr_pass_modules(p);
    gr_run *run = gr_pass_run_wanted(p);
    gr_var *h = gr_var_keep(x), *y;
    double drop = m->config.classifier_dropout;
    if (is_roberta(m)) GR_TRY(gr_nn_dropout(run, drop, stream(m->config.n_layers, DROP_POOLED), &h, err));
    GR_TRY(gr_nn_linear(run, &mods->linears[mods->n_linears - 1], h, &y, err));
    gr_var_drop(h);
    GR_TRY(gr_nn_activate(run, GR_ACTIVATION_TANH, &y, NULL, err));
    *out = y;
    return gr_nn_dropout(run, drop, stream(m->config.n_layers, DROP_HEAD), out, err);
}

static graft_status finish(gr_pass *p, gr_var *x, gr_var **out, graft_error *err) {
    switch (gr_pass_model(p)->config.task) {
    case GR_TASK_MASKED_LM: return finish_masked_lm(p, x, out, err);
    case GR_TASK_SEQ_CLS: return finish_classifier(p, x, out, err);
    default: *out = gr_var_keep(x); return GRAFT_OK;
    }
}

static const char *const ignored[] = {".position_ids", ".token_type_ids", "pooler.dense.weight", "pooler.dense.bias",
                                      "cls.*",         "lm_head.*",       "classifier.*",        NULL};
enum { TASKS = 1u << GR_TASK_MASKED_LM | 1u << GR_TASK_SEQ_CLS | 1u << GR_TASK_FEATURES };

const gr_family gr_family_bert = {.name = "bert",
                                  .layers = "bert.encoder.layer",
                                  .prefix = "bert.",
                                  .ignored = ignored,
                                  .padding_idx = true,
                                  .tasks = TASKS,
                                  .handles = handles_bert,
                                  .build = build,
                                  .enter = enter,
                                  .layer = layer,
                                  .finish = finish};

const gr_family gr_family_roberta = {.name = "roberta",
                                     .layers = "roberta.encoder.layer",
                                     .prefix = "roberta.",
                                     .ignored = ignored,
                                     .padding_idx = true,
                                     .tasks = TASKS,
                                     .handles = handles_roberta,
                                     .build = build,
                                     .enter = enter,
                                     .layer = layer,
                                     .finish = finish};
