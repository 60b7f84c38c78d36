/* LLaMA-Adapter (Zhang et al. 2023): in the top layers every token also attends to a few trained prompts, through the layer's
 * own key and value products, and what it finds there is added times a gate that begins at zero: a fresh adapter changes
 * nothing (but see keep_bias). Reference: peft 0.21 tuners/adaption_prompt.
 *
 * Keys and values of the prompts are the same for every sequence of a step: they are made once in front of the passes, and the
 * gradient that all sequences summed goes back to the prompts once behind them. */
#include "adapter/method.h"

/* Keys, or values: (len, kv width) in the parameters' type. */
typedef struct projection {
    const gr_linear *linear;
    int64_t column; /* of the product's output, from where on rows are this projection's */
    gr_param *rows;
} projection;

typedef struct adapted_layer {
    gr_param *prompt, *gate;
    projection k, v;
    void *ones, *bias; /* out each: the output product's bias, added once more; NULL: it has none */
    int64_t out;
} adapted_layer;

struct llama_adapter {
    gr_common_config common;
    const char *target; /* the attention module's name */
    int64_t len, n_layers, hidden;
    adapted_layer *layers; /* of the whole model; prompt NULL: not adapted */
    char *x, *y;           /* one layer's prompts and products, in the widest type */
};

static const char *const known[] = {"adapter_layers", "adapter_len", "auto_mapping", "base_model_name_or_path",
                                    "inference_mode", "peft_type", "peft_version", "revision", "target_modules", "task_type", NULL};

static graft_status read_config(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err) {
    struct llama_adapter *s = a->state;
    int n = gr_model_get_config(a->model)->n_layers;
    if (gr_model_get_config(a->model)->n_encoder_layers)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: ADAPTION_PROMPT is for decoders without an encoder", a->where);
    if (fresh) GR_TRY(gr_config_known(a, json, known, err));
    GR_TRY(gr_config_common(a, json, &s->common, err));
    GR_TRY(gr_config_text(a, json, "target_modules", &s->target, err));
    GR_TRY(gr_config_int(a, json, "adapter_len", 1, 1 << 20, &s->len, err));
    GR_TRY(gr_config_int(a, json, "adapter_layers", 1, INT32_MAX, &s->n_layers, err));
    if (!s->len || !s->n_layers)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected 'adapter_len' and 'adapter_layers'", a->where);
    if (s->n_layers > n)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: adapter_layers is %lld, the model has %d layers", a->where,
                       (long long)s->n_layers, n);
    return GRAFT_OK;
}

/* --- Layers -------------------------------------------------------------------------------------------------------------- */

/* `which`: 1 the keys, 2 the values of a module that makes both. */
static graft_status new_rows(gr_adapter *a, const gr_site *site, int which, projection *p, graft_error *err) {
    const struct llama_adapter *s = a->state;
    int64_t width = gr_model_kv_width(a->model);
    gr_shape shape = gr_shape2(s->len, width);
    p->linear = gr_model_linear(a->model, site);
    p->column = p->linear->offset[site->part] + (site->role == GR_ROLE_QKV ? site->out - (3 - which) * width : 0);
    return gr_adapter_new_param(a, site->name, &shape, false, &p->rows, err);
}

/* The attention module's name: that of its key product up to the last dot. */
static const char *module_of(gr_adapter *a, const gr_site *k, graft_error *err) {
    const char *dot = strrchr(k->name, '.');
    return gr_adapter_text(a, err, "%.*s", (int)(dot ? dot - k->name : 0), k->name);
}

static void put(const gr_adapter *a, void *x, int64_t i, double v) {
    if (gr_model_param_dtype(a->model) == GR_F64)
        ((double *)x)[i] = v;
    else
        ((float *)x)[i] = (float)v;
}

/* The reference takes what the prompts give through the output product of its own, and so adds the bias once more. */
static graft_status keep_bias(gr_adapter *a, const gr_site *o, adapted_layer *l, graft_error *err) {
    size_t bytes = gr_dtype_bytes(gr_model_param_dtype(a->model), (size_t)o->out);
    const char *tensor = gr_adapter_text(a, err, "%s.bias", o->name);
    if (!tensor) return GRAFT_ERR_MEMORY;
    l->out = o->out;
    l->ones = gr_arena_alloc(&a->arena, bytes);
    l->bias = gr_arena_alloc(&a->arena, bytes);
    float *values = gr_alloc(a->a, (size_t)o->out * sizeof *values);
    graft_status st = l->ones && l->bias && values ? gr_model_read_tensor(a->model, tensor, 0, o->out, values, err) : gr_fail_memory(err);
    for (int64_t i = 0; st == GRAFT_OK && i < o->out; i++) {
        put(a, l->ones, i, 1);
        put(a, l->bias, i, a->scale * values[i]);
    }
    gr_free(a->a, values);
    return st;
}

static graft_status add_layer(gr_adapter *a, const gr_site *const roles[GR_ROLE_COUNT], bool fresh, uint64_t seed,
                              graft_error *err) {
    struct llama_adapter *s = a->state;
    const gr_site *fused = roles[GR_ROLE_QKV], *o = roles[GR_ROLE_O];
    const gr_site *k = fused ? fused : roles[GR_ROLE_K], *v = fused ? fused : roles[GR_ROLE_V];
    if (!k || !v || !o)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: the model's attention has no key, value and output products",
                       a->where);
    const char *module = module_of(a, k, err);
    const char *prompt = module ? gr_adapter_text(a, err, "base_model.model.%s.adaption_prompt", module) : NULL;
    const char *gate = prompt ? gr_adapter_text(a, err, "base_model.model.%s.adaption_gate", module) : NULL;
    if (!gate) return GRAFT_ERR_MEMORY;
    const char *dot = strrchr(module, '.');
    if (!s->target) s->target = dot ? dot + 1 : module;
    if (strcmp(dot ? dot + 1 : module, s->target) != 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: target_modules is '%s', the model's attention is '%s'", a->where,
                       s->target, dot ? dot + 1 : module);
    adapted_layer *l = &s->layers[k->layer];
    gr_shape shape = gr_shape3(1, s->len, s->hidden), one = gr_shape1(1);
    GR_TRY(gr_adapter_new_param(a, gate, &one, true, &l->gate, err));
    GR_TRY(gr_adapter_new_param(a, prompt, &shape, true, &l->prompt, err));
    if (fresh) gr_adapter_fill(l->prompt, seed, true, 1);
    if (o->bias && !fused) GR_TRY(keep_bias(a, o, l, err)); /* behind a fused module's output product the bias has been added already */
    GR_TRY(gr_adapter_add(a, gate, l->gate, k->layer, err));
    GR_TRY(gr_adapter_add(a, prompt, l->prompt, k->layer, err));
    GR_TRY(new_rows(a, k, 1, &l->k, err));
    return new_rows(a, v, 2, &l->v, err);
}

static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    struct llama_adapter *s = a->state;
    int n = gr_model_get_config(a->model)->n_layers;
    int64_t widest = s->hidden = gr_model_get_config(a->model)->hidden_size;
    GR_TRY(read_config(a, config, fresh, err));
    if (!(s->layers = gr_arena_alloc(&a->arena, (size_t)n * sizeof *s->layers))) return gr_fail_memory(err);
    for (int l = n - (int)s->n_layers; l < n; l++) {
        const gr_site *roles[GR_ROLE_COUNT] = {NULL};
        for (size_t i = 0; i < gr_model_n_sites(a->model); i++)
            if (gr_model_site(a->model, i)->layer == l) roles[gr_model_site(a->model, i)->role] = gr_model_site(a->model, i);
        GR_TRY(add_layer(a, (const gr_site *const *)roles, fresh, seed, err));
        widest = GR_MAX(widest, GR_MAX(s->layers[l].k.linear->out, s->layers[l].v.linear->out));
    }
    size_t element = gr_dtype_bytes(gr_model_param_dtype(a->model), 1);
    s->x = gr_arena_alloc(&a->arena, (size_t)(s->len * s->hidden) * element);
    s->y = gr_arena_alloc(&a->arena, (size_t)(s->len * widest) * element);
    if (!s->x || !s->y) return gr_fail_memory(err);
    a->bytes += (size_t)(s->len * (s->hidden + widest)) * element;
    a->n_gated = (int)s->len;
    return GRAFT_OK;
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const struct llama_adapter *s = a->state;
    gr_config_add_int(b, "adapter_layers", s->n_layers);
    gr_config_add_int(b, "adapter_len", s->len);
    gr_config_add_auto_mapping(b, &s->common);
    gr_config_add_text(b, "base_model_name_or_path", s->common.base_model);
    gr_config_add_bool(b, "inference_mode", true);
    gr_config_add_text(b, "peft_type", "ADAPTION_PROMPT");
    gr_config_add_text(b, "peft_version", GR_PEFT_VERSION);
    gr_config_add_text(b, "revision", s->common.revision);
    gr_config_add_text(b, "target_modules", s->target);
    gr_config_add_text(b, "task_type", s->common.task_type);
    gr_config_close(b);
}

/* --- Keys and values of the prompts -------------------------------------------------------------------------------------- */

static void *at(void *base, gr_dtype dt, int64_t i) { return (char *)base + gr_dtype_bytes(dt, (size_t)i); }

/* rows = prompt W^T + b, this part's columns. */
static graft_status project(const gr_adapter *a, const gr_param *prompt, const projection *p, graft_error *err) {
    const struct llama_adapter *s = a->state;
    gr_device *dev = gr_model_device(a->model);
    gr_dtype dt = gr_model_dtype(a->model), param = prompt->dtype;
    const gr_linear *l = p->linear;
    int64_t width = p->rows->shape.d[1];
    dev->k->convert(dev, param, prompt->value, dt, s->x, prompt->n);
    GR_TRY(gr_matrix_forward(l->matrix, s->len, s->x, s->hidden, param, s->y, l->out, false, err));
    if (l->bias) dev->k->bias_add(dev, param, s->len, l->out, s->y, l->out, l->bias);
    for (int64_t i = 0; i < s->len; i++)
        memcpy(at(p->rows->value, param, i * width), at(s->y, param, i * l->out + p->column),
               gr_dtype_bytes(param, (size_t)width));
    return GRAFT_OK;
}

/* prompt's gradient += that of rows, through W. */
static graft_status project_back(const gr_adapter *a, const gr_param *prompt, const projection *p, graft_error *err) {
    const struct llama_adapter *s = a->state;
    gr_device *dev = gr_model_device(a->model);
    gr_dtype dt = gr_model_dtype(a->model), param = prompt->dtype;
    const gr_linear *l = p->linear;
    int64_t width = p->rows->shape.d[1];
    memset(s->y, 0, gr_dtype_bytes(dt, (size_t)(s->len * l->out)));
    for (int64_t i = 0; i < s->len; i++)
        dev->k->convert(dev, param, at(p->rows->grad, param, i * width), dt, at(s->y, dt, i * l->out + p->column),
                        width);
    GR_TRY(gr_matrix_backward(l->matrix, s->len, s->y, l->out, s->x, s->hidden, false, err));
    dev->k->convert(dev, dt, s->x, param, s->y, prompt->n);
    dev->k->add(dev, param, prompt->n, prompt->grad, s->y, prompt->grad);
    return GRAFT_OK;
}

static graft_status refresh(gr_adapter *a, uint64_t key, bool training, graft_error *err) {
    struct llama_adapter *s = a->state;
    (void)key;
    for (int l = 0; l < gr_model_get_config(a->model)->n_layers; l++) {
        adapted_layer *w = &s->layers[l];
        if (!w->prompt) continue;
        GR_TRY(project(a, w->prompt, &w->k, err));
        GR_TRY(project(a, w->prompt, &w->v, err));
        size_t bytes = gr_dtype_bytes(w->prompt->dtype, (size_t)w->k.rows->n);
        if (training) {
            memset(w->k.rows->grad, 0, bytes);
            memset(w->v.rows->grad, 0, bytes);
        }
    }
    return GRAFT_OK;
}

static graft_status collect(gr_adapter *a, graft_error *err) {
    struct llama_adapter *s = a->state;
    for (int l = 0; l < gr_model_get_config(a->model)->n_layers; l++) {
        const adapted_layer *w = &s->layers[l];
        if (!w->prompt) continue;
        GR_TRY(project_back(a, w->prompt, &w->k, err));
        GR_TRY(project_back(a, w->prompt, &w->v, err));
    }
    return GRAFT_OK;
}

/* --- Hooks --------------------------------------------------------------------------------------------------------------- */

static graft_status gated_rows(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, int layer, gr_var **k, gr_var **v,
                               graft_error *err) {
    const struct llama_adapter *s = a->state;
    const adapted_layer *l = &s->layers[layer];
    gr_put_rows_params params = {.dt = gr_model_dtype(a->model), .rows = run->gated_bounds[run->batch->n_seqs],
                                 .n = rows->gated.n, .at = rows->gated.at, .id = rows->gated.id, .stride = 1};
    const gr_param *const tables[2] = {l->prompt ? l->k.rows : NULL, l->prompt ? l->v.rows : NULL};
    gr_var **to[2] = {k, v};
    for (int i = 0; i < 2 && l->prompt; i++) {
        gr_var *in[2] = {*to[i], NULL};
        GR_TRY(gr_nn_leaf(run->tape, tables[i], &in[1], err));
        GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_put_rows, in, 2, &params, to[i], err));
        gr_var_drop(in[1]);
    }
    return GRAFT_OK;
}

static graft_status gate(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, int layer, gr_var *u, gr_var **y,
                         graft_error *err) {
    const struct llama_adapter *s = a->state;
    const adapted_layer *l = &s->layers[layer];
    gr_gated_add_params params = {.factor = a->scale, .n_ranges = rows->n_ranges, .ranges = rows->ranges};
    gr_var *in[3] = {*y, u, NULL};
    if (!l->prompt) return GRAFT_OK;
    GR_TRY(gr_nn_leaf(run->tape, l->gate, &in[2], err));
    GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_gated_add, in, 3, &params, y, err));
    gr_var_drop(in[2]);
    return GRAFT_OK;
}

static graft_status add_bias(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_linear *l, gr_var *x, gr_var **y,
                             graft_error *err) {
    const struct llama_adapter *s = a->state;
    const gr_site *site = l->site[0];
    (void)x;
    if (site->role != GR_ROLE_O || site->layer < 0 || !s->layers[site->layer].bias) return GRAFT_OK;
    const adapted_layer *at = &s->layers[site->layer];
    gr_scale_columns_params params = {.n_ranges = rows->n_ranges, .ranges = rows->ranges};
    gr_dtype dt = gr_model_param_dtype(a->model);
    gr_var *in[3] = {*y, NULL, NULL};
    GR_TRY(gr_nn_constant(run->tape, dt, at->out, at->ones, &in[1], err));
    GR_TRY(gr_nn_constant(run->tape, dt, at->out, at->bias, &in[2], err));
    GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_scale_columns, in, 3, &params, y, err));
    gr_var_drop(in[1]);
    gr_var_drop(in[2]);
    return GRAFT_OK;
}

static void facts(const gr_adapter *a, gr_buf *b) {
    const struct llama_adapter *s = a->state;
    gr_buf_add_format(b, "\"adapter_len\": %lld, \"adapter_layers\": %lld, ", (long long)s->len, (long long)s->n_layers);
}

const gr_adapter_method gr_adapter_llama_adapter = {.name = "llama-adapter", .peft_type = "ADAPTION_PROMPT",
                                                    .state_size = sizeof(struct llama_adapter), .create = create,
                                                    .write_config = write_config, .facts = facts, .gated_rows = gated_rows,
                                                    .gate = gate, .linear = add_bias, .refresh = refresh,
                                                    .collect = collect};
