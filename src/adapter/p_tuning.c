/* P-tuning (Liu et al. 2021): the embeddings of virtual tokens in front of every sequence are made by a network, an MLP of
 * three layers or a bidirectional LSTM with two layers behind it, from a trained embedding of each. Reference: peft 0.21
 * tuners/p_tuning, whose file holds what the network made; the network's own state stands beside it under torch's names. */
#include <math.h>
#include <stdio.h>

#include "adapter/prompt.h"

enum { MLP_LAYERS = 3, LSTM_HEAD = 2, MAX_LAYERS = 64 };

typedef struct direction {
    gr_param *w_ih, *w_hh, *b_ih, *b_hh;
} direction;

struct p_tuning {
    gr_prompt p;
    int64_t hidden, n_layers; /* encoder_hidden_size, encoder_num_layers (of the LSTM) */
    double dropout;           /* between layers of the LSTM */
    bool lstm;
    gr_param *embedding, *w[MLP_LAYERS], *b[MLP_LAYERS]; /* mlp_head */
    direction (*layers)[2];   /* lstm_head: forward and reverse */
};

static const char *const known[] = {"auto_mapping", "base_model_name_or_path", "encoder_dropout", "encoder_hidden_size",
                                    "encoder_num_layers", "encoder_reparameterization_type", "inference_mode",
                                    "modules_to_save", "num_attention_heads", "num_layers", "num_transformer_submodules",
                                    "num_virtual_tokens", "peft_type", "peft_version", "prompt_template", "revision",
                                    "task_type", "token_dim", NULL};

static graft_status read_config(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err) {
    struct p_tuning *s = a->state;
    const gr_model_config *c = gr_model_get_config(a->model);
    const char *type = "MLP";
    GR_TRY(gr_prompt_read(a, json, fresh, known, c->n_heads, c->hidden_size, err));
    s->p.n_rows = s->p.n_tokens * s->p.n_submodules;
    s->n_layers = 2;
    GR_TRY(gr_config_text(a, json, "encoder_reparameterization_type", &type, err));
    GR_TRY(gr_config_int(a, json, "encoder_hidden_size", 1, 1 << 24, &s->hidden, err));
    GR_TRY(gr_config_int(a, json, "encoder_num_layers", 1, MAX_LAYERS, &s->n_layers, err));
    GR_TRY(gr_config_number(a, json, "encoder_dropout", 0, 1, &s->dropout, err));
    s->lstm = strcmp(type, "LSTM") == 0;
    if (!s->lstm && strcmp(type, "MLP") != 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: encoder_reparameterization_type '%s', expected MLP or LSTM", a->where,
                       type);
    if (!s->hidden) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected 'encoder_hidden_size'", a->where);
    if (s->dropout >= 1) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: encoder_dropout must be below 1", a->where);
    if (fresh && !s->lstm && (s->n_layers != 2 || s->dropout > 0))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: an encoder of type MLP has no encoder_num_layers and no encoder_dropout",
                       a->where);
    return GRAFT_OK;
}

/* --- The encoder --------------------------------------------------------------------------------------------------------- */

static graft_status add_mlp(gr_adapter *a, const int64_t *sizes, int n, uint64_t seed, graft_error *err) {
    struct p_tuning *s = a->state;
    char name[64];
    for (int i = 0; i < n; i++) {
        double bound = 1 / sqrt((double)sizes[i]);
        snprintf(name, sizeof name, "mlp_head.%d.weight", 2 * i);
        GR_TRY(gr_prompt_encoder_param(a, name, gr_shape2(sizes[i + 1], sizes[i]), GR_INIT_UNIFORM, bound, -1, seed, &s->w[i],
                                       err));
        snprintf(name, sizeof name, "mlp_head.%d.bias", 2 * i);
        GR_TRY(gr_prompt_encoder_param(a, name, gr_shape1(sizes[i + 1]), GR_INIT_UNIFORM, bound, -1, seed, &s->b[i], err));
    }
    return GRAFT_OK;
}

static graft_status add_direction(gr_adapter *a, int64_t layer, int reverse, uint64_t seed, graft_error *err) {
    struct p_tuning *s = a->state;
    direction *d = &s->layers[layer][reverse];
    int64_t in = layer ? 2 * s->hidden : s->p.token_dim, wide = 4 * s->hidden;
    const struct {
        const char *name;
        gr_shape shape;
        gr_param **param;
    } parts[] = {{"weight_ih", gr_shape2(wide, in), &d->w_ih}, {"weight_hh", gr_shape2(wide, s->hidden), &d->w_hh},
                 {"bias_ih", gr_shape1(wide), &d->b_ih}, {"bias_hh", gr_shape1(wide), &d->b_hh}};
    double bound = 1 / sqrt((double)s->hidden);
    char name[64];
    for (size_t i = 0; i < GR_COUNT(parts); i++) {
        snprintf(name, sizeof name, "lstm_head.%s_l%lld%s", parts[i].name, (long long)layer, reverse ? "_reverse" : "");
        GR_TRY(gr_prompt_encoder_param(a, name, parts[i].shape, GR_INIT_UNIFORM, bound, -1, seed, parts[i].param, err));
    }
    return GRAFT_OK;
}

static graft_status make_encoder(gr_adapter *a, uint64_t seed, graft_error *err) {
    struct p_tuning *s = a->state;
    int64_t d = s->p.token_dim, h = s->hidden;
    GR_TRY(gr_prompt_encoder_param(a, "embedding.weight", gr_shape2(s->p.n_rows, d), GR_INIT_NORMAL, 1, -1, seed,
                                   &s->embedding, err));
    if (!s->lstm) return add_mlp(a, (const int64_t[]){d, h, h, d}, MLP_LAYERS, seed, err);
    if (!(s->layers = gr_arena_alloc(&a->arena, (size_t)s->n_layers * sizeof *s->layers))) return gr_fail_memory(err);
    for (int64_t l = 0; l < s->n_layers; l++)
        for (int r = 0; r < 2; r++) GR_TRY(add_direction(a, l, r, seed, err));
    return add_mlp(a, (const int64_t[]){2 * h, 2 * h, d}, LSTM_HEAD, seed, err);
}

static graft_status read_rows(gr_tape *t, const direction *d, bool reverse, gr_var *x, gr_var **out, graft_error *err) {
    const gr_param *const params[] = {d->w_ih, d->w_hh, d->b_ih, d->b_hh};
    gr_lstm_params lstm = {.reverse = reverse};
    gr_var *in[5] = {x};
    for (int i = 0; i < 4; i++) GR_TRY(gr_nn_leaf(t, params[i], &in[1 + i], err));
    GR_TRY(gr_tape_apply(t, &gr_op_lstm, in, 5, &lstm, out, err));
    for (int i = 1; i < 5; i++) gr_var_drop(in[i]);
    return GRAFT_OK;
}

static graft_status lstm(gr_adapter *a, gr_tape *t, uint64_t key, gr_var **x, graft_error *err) {
    const struct p_tuning *s = a->state;
    for (int64_t l = 0; l < s->n_layers; l++) {
        gr_var *ways[2], *joined;
        for (int r = 0; r < 2; r++) GR_TRY(read_rows(t, &s->layers[l][r], r == 1, *x, &ways[r], err));
        GR_TRY(gr_tape_apply(t, &gr_op_join_columns, ways, 2, NULL, &joined, err));
        for (int r = 0; r < 2; r++) gr_var_drop(ways[r]);
        gr_var_drop(*x);
        *x = joined;
        if (key == 0 || s->dropout == 0 || l + 1 == s->n_layers) continue;
        gr_dropout_params drop = {.p = s->dropout, .seed = key, .stream = gr_rng_stream(GR_RNG_DROPOUT, (uint64_t)l)};
        GR_TRY(gr_tape_apply_consume(t, &gr_op_dropout, x, 1, &drop, x, err));
    }
    return GRAFT_OK;
}

static graft_status encode(gr_adapter *a, gr_tape *t, uint64_t key, gr_var **out, graft_error *err) {
    struct p_tuning *s = a->state;
    int layers = s->lstm ? LSTM_HEAD : MLP_LAYERS;
    gr_var *x;
    GR_TRY(gr_encoder_embedding(a, t, s->embedding, &x, err));
    if (s->lstm) GR_TRY(lstm(a, t, key, &x, err));
    for (int i = 0; i < layers; i++) {
        GR_TRY(gr_encoder_affine(t, s->w[i], s->b[i], &x, err));
        if (i + 1 < layers) GR_TRY(gr_encoder_activation(t, GR_ACTIVATION_RELU, &x, err));
    }
    *out = x;
    return GRAFT_OK;
}

/* An adapter that is only used needs no encoder: its file has the rows. */
static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    struct p_tuning *s = a->state;
    GR_TRY(read_config(a, config, fresh, err));
    GR_TRY(gr_prompt_modules(a, err));
    if (a->trainable) {
        GR_TRY(make_encoder(a, seed, err));
        GR_TRY(gr_prompt_rows(a, s->p.token_dim, encode, -1, err));
    } else
        GR_TRY(gr_prompt_rows(a, s->p.token_dim, NULL, -1, err));
    a->n_rows = (int)s->p.n_tokens;
    a->n_virtual = a->prompt_template ? 0 : a->n_rows;
    return GRAFT_OK;
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const struct p_tuning *s = a->state;
    gr_config_add_auto_mapping(b, &s->p.common);
    gr_config_add_text(b, "base_model_name_or_path", s->p.common.base_model);
    gr_config_add_float(b, "encoder_dropout", s->dropout);
    gr_config_add_int(b, "encoder_hidden_size", s->hidden);
    gr_config_add_int(b, "encoder_num_layers", s->n_layers);
    gr_config_add_text(b, "encoder_reparameterization_type", s->lstm ? "LSTM" : "MLP");
    gr_config_add_bool(b, "inference_mode", true);
    gr_config_add_targets(b, "modules_to_save", &s->p.modules_to_save);
    gr_config_add_int(b, "num_attention_heads", s->p.n_heads);
    gr_config_add_int(b, "num_layers", s->p.n_layers);
    gr_config_add_int(b, "num_transformer_submodules", s->p.n_submodules);
    gr_config_add_int(b, "num_virtual_tokens", s->p.n_tokens);
    gr_config_add_text(b, "peft_type", "P_TUNING");
    gr_config_add_text(b, "peft_version", GR_PEFT_VERSION);
    gr_config_add_text(b, "revision", s->p.common.revision);
    gr_config_add_text(b, "task_type", s->p.common.task_type);
    gr_config_add_int(b, "token_dim", s->p.token_dim);
    gr_config_close(b);
}

const gr_adapter_method gr_adapter_p_tuning = {.name = "p-tuning", .peft_type = "P_TUNING",
                                               .state_size = sizeof(struct p_tuning),
                                               .create = create, .free = gr_prompt_free, .write_config = write_config,
                                               .facts = gr_prompt_facts, .embedding = gr_prompt_embedding,
                                               .refresh = gr_prompt_refresh, .collect = gr_prompt_collect};
