/* Prefix tuning (Li & Liang 2021): key and value rows in front of every sequence in each layer are trained; positions count
 * from behind them. With prefix_projection they are made by a small network from an embedding a virtual token. Reference: peft
 * 0.21 tuners/prefix_tuning; it stores them flattened, (tokens, layers * 2 * kv width): of each layer keys, then values. */
#include <math.h>

#include "adapter/prompt.h"

struct prefix_tuning {
    gr_prompt p;
    int layer; /* the lowest that has rows */
    int64_t hidden; /* encoder_hidden_size */
    bool projection;
    const char *init;
    const char *text, *tokenizer; /* of a new adapter that begins as a text */
    gr_param *embedding, *w1, *b1, *w2, *b2;
    void *ready; /* (2 * layers, tokens, width) in the compute type, of rows that are not trained; NULL: none */
};

static const char *const known[] = {"auto_mapping", "base_model_name_or_path", "encoder_hidden_size", "inference_mode",
                                    "init_weights", "modules_to_save", "num_attention_heads", "num_layers",
                                    "num_transformer_submodules", "num_virtual_tokens", "peft_type", "peft_version",
                                    "prefix_projection", "prompt_tuning_init", "prompt_tuning_init_text", "revision", "task_type",
                                    "token_dim", "tokenizer_name_or_path", NULL};

/* What a new adapter begins as stands in no file: peft has no such keys. */
static graft_status read_start(gr_adapter *a, const gr_json_value *json, graft_error *err) {
    struct prefix_tuning *s = a->state;
    const char *start = "RANDOM";
    GR_TRY(gr_config_text(a, json, "prompt_tuning_init", &start, err));
    GR_TRY(gr_config_text(a, json, "prompt_tuning_init_text", &s->text, err));
    GR_TRY(gr_config_text(a, json, "tokenizer_name_or_path", &s->tokenizer, err));
    if (strcmp(start, "TEXT") != 0 && strcmp(start, "RANDOM") != 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: prompt_tuning_init '%s', expected RANDOM or TEXT for a prefix", a->where, start);
    if (strcmp(start, "RANDOM") == 0) {
        s->text = NULL;
        return GRAFT_OK;
    }
    if (!s->text)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: prompt_tuning_init TEXT needs 'prompt_tuning_init_text'", a->where);
    if (s->projection || s->init)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: prompt_tuning_init TEXT gives the rows themselves, which %s would make", a->where,
                       s->projection ? "prefix_projection" : "init_weights");
    if (!s->tokenizer) s->tokenizer = gr_model_path(a->model);
    return gr_model_want_causal(a->model, "prompt_tuning_init TEXT of a prefix", err);
}

static graft_status read_config(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err) {
    struct prefix_tuning *s = a->state;
    GR_TRY(gr_prompt_read(a, json, fresh, known, gr_model_get_config(a->model)->n_kv_heads, gr_model_kv_width(a->model), err));
    GR_TRY(gr_config_bool(a, json, "prefix_projection", &s->projection, err));
    GR_TRY(gr_config_int(a, json, "encoder_hidden_size", 1, 1 << 24, &s->hidden, err));
    GR_TRY(gr_config_text(a, json, "init_weights", &s->init, err));
    if (s->init && strcmp(s->init, "zero") != 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: init_weights '%s', expected zero or null", a->where, s->init);
    const gr_model_config *c = gr_model_get_config(a->model);
    s->layer = c->n_encoder_layers;
    if (c->n_layers - c->n_encoder_layers != s->p.n_layers)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: prefixes are shaped for %lld layers, but the decoder has %d",
                       a->where, (long long)s->p.n_layers, c->n_layers - c->n_encoder_layers);
    if (s->projection && !s->hidden)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: prefix_projection needs 'encoder_hidden_size'", a->where);
    return fresh ? read_start(a, json, err) : GRAFT_OK;
}

/* rows = tanh(E W1^T + b1) W2^T + b2. */
static graft_status encode(gr_adapter *a, gr_tape *t, uint64_t key, gr_var **out, graft_error *err) {
    struct prefix_tuning *s = a->state;
    gr_var *x;
    (void)key;
    GR_TRY(gr_encoder_embedding(a, t, s->embedding, &x, err));
    GR_TRY(gr_encoder_affine(t, s->w1, s->b1, &x, err));
    GR_TRY(gr_encoder_activation(t, GR_ACTIVATION_TANH, &x, err));
    GR_TRY(gr_encoder_affine(t, s->w2, s->b2, &x, err));
    *out = x;
    return GRAFT_OK;
}

static graft_status make_encoder(gr_adapter *a, uint64_t seed, graft_error *err) {
    struct prefix_tuning *s = a->state;
    int64_t dim = s->p.token_dim, width = dim * 2 * s->p.n_layers, n = s->p.n_tokens, h = s->hidden;
    bool zero = s->init != NULL;
    gr_encoder_init last = zero ? GR_INIT_ZERO : GR_INIT_UNIFORM;
    double in1 = 1 / sqrt((double)dim), in2 = 1 / sqrt((double)h);
    GR_TRY(gr_prompt_encoder_param(a, "embedding.weight", gr_shape2(n, dim), GR_INIT_NORMAL, 1, s->layer, seed,
                                   &s->embedding, err));
    GR_TRY(gr_prompt_encoder_param(a, "transform.0.weight", gr_shape2(h, dim), GR_INIT_UNIFORM, in1, s->layer, seed,
                                   &s->w1, err));
    GR_TRY(gr_prompt_encoder_param(a, "transform.0.bias", gr_shape1(h), GR_INIT_UNIFORM, in1, s->layer, seed, &s->b1,
                                   err));
    GR_TRY(
        gr_prompt_encoder_param(a, "transform.2.weight", gr_shape2(width, h), last, in2, s->layer, seed, &s->w2, err));
    return gr_prompt_encoder_param(a, "transform.2.bias", gr_shape1(width), last, in2, s->layer, seed, &s->b2, err);
}

static graft_status from_text(gr_adapter *a, graft_error *err) {
    const struct prefix_tuning *s = a->state;
    int32_t *ids = NULL;
    size_t n = 0;
    GR_TRY(gr_prompt_text_ids(a, s->text, s->tokenizer, &ids, &n, err));
    graft_status st = gr_prompt_text_rows(a, ids, n, err);
    graft_free(gr_model_context(a->model), ids);
    return st;
}

/* An adapter that is only used needs no encoder: its file has the rows. */
static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    struct prefix_tuning *s = a->state;
    GR_TRY(read_config(a, config, fresh, err));
    GR_TRY(gr_prompt_modules(a, err));
    bool encoder = s->projection && a->trainable;
    if (encoder) GR_TRY(make_encoder(a, seed, err));
    GR_TRY(gr_prompt_rows(a, s->p.token_dim * 2 * s->p.n_layers, encoder ? encode : NULL, s->layer, err));
    /* See block_of. */
    if (s->p.n_submodules == 2 && s->p.n_layers % 2 == 0) s->p.rows->n_uses = 2;
    a->n_prefix = (int)s->p.n_tokens;
    if (fresh && s->text) return from_text(a, err);
    if (fresh && !encoder && !s->init) gr_adapter_fill(s->p.rows, seed, true, 1);
    return GRAFT_OK;
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const struct prefix_tuning *s = a->state;
    gr_config_add_auto_mapping(b, &s->p.common);
    gr_config_add_text(b, "base_model_name_or_path", s->p.common.base_model);
    if (s->hidden)
        gr_config_add_int(b, "encoder_hidden_size", s->hidden);
    else
        gr_config_add_text(b, "encoder_hidden_size", NULL);
    gr_config_add_bool(b, "inference_mode", true);
    gr_config_add_text(b, "init_weights", s->init);
    gr_config_add_targets(b, "modules_to_save", &s->p.modules_to_save);
    gr_config_add_int(b, "num_attention_heads", s->p.n_heads);
    gr_config_add_int(b, "num_layers", s->p.n_layers);
    gr_config_add_int(b, "num_transformer_submodules", s->p.n_submodules);
    gr_config_add_int(b, "num_virtual_tokens", s->p.n_tokens);
    gr_config_add_text(b, "peft_type", "PREFIX_TUNING");
    gr_config_add_text(b, "peft_version", GR_PEFT_VERSION);
    gr_config_add_bool(b, "prefix_projection", s->projection);
    gr_config_add_text(b, "revision", s->p.common.revision);
    gr_config_add_text(b, "task_type", s->p.common.task_type);
    gr_config_add_int(b, "token_dim", s->p.token_dim);
    gr_config_close(b);
}

/* Which layer's keys and values in the file stand in front of `layer`. Of an encoder-decoder the reference splits them
 * as if the cross-attention had rows of its own, and each layer takes every second layer's, again from the first on. */
static int64_t block_of(const gr_prompt *p, int layer) { return p->n_submodules * layer % p->n_layers; }

static void release(gr_adapter *a) {
    struct prefix_tuning *s = a->state;
    gr_free_aligned(a->a, s->ready);
    gr_prompt_free(a);
}

/* A layer's rows lie far apart in the file, a page of memory each; of what is not trained passes read them as they use them. */
static graft_status freeze(gr_adapter *a, graft_error *err) {
    struct prefix_tuning *s = a->state;
    gr_device *d = gr_model_device(a->model);
    const gr_param *rows = s->p.rows;
    const gr_dtype dt = gr_model_dtype(a->model);
    const int64_t blocks = 2 * s->p.n_layers, n = s->p.n_tokens, width = s->p.token_dim;
    const size_t bytes = gr_dtype_bytes(dt, (size_t)(blocks * n * width));
    if (a->shared) return GRAFT_OK;
    if (!s->ready) {
        if (!(s->ready = gr_alloc_aligned(a->a, bytes))) return gr_fail_memory(err);
        a->bytes += bytes;
    }
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t t = 0; t < n; t++)
            d->k->convert(d, rows->dtype, (const char *)rows->value + gr_dtype_bytes(rows->dtype, (size_t)((t * blocks + b) * width)), dt,
                          (char *)s->ready + gr_dtype_bytes(dt, (size_t)((b * n + t) * width)), width);
    return GRAFT_OK;
}

/* Every sequence has a copy of the rows, so that their gradients are summed sequence after sequence. */
static graft_status kv_rows(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, int layer, gr_var **k, gr_var **v,
                            graft_error *err) {
    const struct prefix_tuning *s = a->state;
    const gr_prompt *p = &s->p;
    const bool ready = s->ready && !gr_tape_records(run->tape);
    int64_t blocks = 2 * p->n_layers;
    gr_array table = {p->rows->dtype, gr_shape2(p->n_tokens * blocks, p->token_dim), p->rows->value};
    gr_put_rows_params params = {.dt = gr_model_dtype(a->model), .rows = run->prefix_bounds[run->batch->n_seqs],
                                 .n = rows->prefix.n, .at = rows->prefix.at, .id = rows->prefix.id, .stride = blocks};
    if (ready) {
        table = (gr_array){gr_model_dtype(a->model), gr_shape2(p->n_tokens * blocks, p->token_dim), s->ready};
        params.stride = 1;
    }
    gr_var **to[2] = {k, v};
    for (int i = 0; i < 2; i++) {
        gr_var *in[2] = {*to[i], NULL};
        params.offset = (2 * block_of(p, layer) + i) * (ready ? p->n_tokens : 1);
        void *grad = gr_param_grad(p->rows, p->n_submodules * layer >= p->n_layers);
        GR_TRY(gr_tape_leaf(run->tape, &table, ready ? NULL : grad, &in[1], err));
        GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_put_rows, in, 2, &params, to[i], err));
        gr_var_drop(in[1]);
    }
    return GRAFT_OK;
}

const gr_adapter_method gr_adapter_prefix_tuning = {.name = "prefix-tuning", .peft_type = "PREFIX_TUNING",
                                                    .state_size = sizeof(struct prefix_tuning), .create = create,
                                                    .free = release, .freeze = freeze, .write_config = write_config,
                                                    .facts = gr_prompt_facts, .kv_rows = kv_rows,
                                                    .refresh = gr_prompt_refresh, .collect = gr_prompt_collect};
