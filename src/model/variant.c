/* Variants: some of a model's tensors in float masters of their own, with matrices over them, beside the untouched model.
 * Full fine-tuning is a variant of everything, modules_to_save one of a few modules. */
#include <stdio.h>

#include "model/family.h"
#include "model/shape.h"

struct gr_variant {
    gr_model *model;
    const graft_allocator *a;
    gr_modules modules;
    gr_param *params;
    const char *const *names; /* of the tensors; a parameter may be renamed */
    size_t n_params, bytes;
    bool shared; /* values and gradients are the shape's scratch memory */
    gr_matrix **matrices;
    size_t n_matrices, cap_matrices;
    bool untied;
};

void gr_variant_free(gr_variant *v) {
    if (!v) return;
    for (size_t i = 0; i < v->n_matrices; i++) gr_matrix_free(v->matrices[i]);
    for (size_t i = 0; v->params && i < v->n_params && !v->shared; i++) {
        gr_free_aligned(v->a, v->params[i].value);
        gr_free_aligned(v->a, v->params[i].grad);
    }
    gr_free(v->a, v->matrices);
    gr_free(v->a, v->params);
    gr_free(v->a, v->modules.linears);
    gr_free(v->a, v->modules.norms);
    gr_free(v->a, v->modules.tables);
    gr_free(v->a, v);
}

size_t gr_variant_n_params(const gr_variant *v) { return v->n_params; }
gr_param *gr_variant_param(const gr_variant *v, size_t i) { return i < v->n_params ? &v->params[i] : NULL; }

const gr_param *gr_variant_find(const gr_variant *v, const char *tensor) {
    for (size_t i = 0; i < v->n_params; i++)
        if (strcmp(v->names[i], tensor) == 0) return &v->params[i];
    return NULL;
}

bool gr_variant_unties(const gr_variant *v) {
    return v->model->head_tied && v->modules.head.matrix != v->modules.embedding.matrix;
}

size_t gr_variant_bytes(const gr_variant *v) { return v->bytes; }
const gr_modules *gr_variant_modules(const gr_variant *v) { return &v->modules; }

static graft_status copy_list(const gr_variant *v, const void *from, int n, size_t size, void **out, graft_error *err) {
    *out = gr_calloc(v->a, (size_t)n + 1, size);
    if (!*out) return gr_fail_memory(err);
    if (n) memcpy(*out, from, (size_t)n * size);
    return GRAFT_OK;
}

static graft_status copy_modules(gr_variant *v, graft_error *err) {
    const gr_modules *from = &v->model->modules;
    gr_modules *to = &v->modules;
    *to = *from;
    to->linears = NULL;
    to->norms = NULL;
    to->tables = NULL;
    GR_TRY(copy_list(v, from->linears, from->n_linears, sizeof *from->linears, (void **)&to->linears, err));
    GR_TRY(copy_list(v, from->norms, from->n_norms, sizeof *from->norms, (void **)&to->norms, err));
    return copy_list(v, from->tables, from->n_tables, sizeof *from->tables, (void **)&to->tables, err);
}

/* Enters parameter p into the modules. */
static graft_status place(gr_variant *v, gr_param *p, const gr_site *s, bool bias, graft_error *err) {
    gr_modules *mods = &v->modules;
    bool head = s->role == GR_ROLE_HEAD;
    if (head && !bias && v->model->head_tied && !v->untied)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "tensor '%s' is tied to the embedding: name that instead", p->name);
    gr_param **slot;
    if (s->role == GR_ROLE_EMBED)
        slot = &mods->embedding.param;
    else if (s->role == GR_ROLE_NORM)
        slot = bias ? &mods->norms[s->module].bias_param : &mods->norms[s->module].param;
    else if (s->role == GR_ROLE_TABLE)
        slot = &mods->tables[s->module].param;
    else if (s->role == GR_ROLE_POSITION_BIAS)
        slot = &mods->position_bias[s->module].param;
    else {
        gr_linear *l = head ? &mods->head : &mods->linears[s->module];
        slot = bias ? &l->bias_param[s->part] : &l->weight[s->part];
    }
    if (*slot) return gr_fail(err, GRAFT_ERR_ARGUMENT, "tensor '%s' is named twice", p->name);
    *slot = p;
    return GRAFT_OK;
}

static graft_status new_param(gr_variant *v, gr_param *p, const char *name, bool trainable, graft_error *err) {
    const gr_model *m = v->model;
    bool bias = false;
    const gr_weight *w;
    const gr_site *s = gr_model_site_of_tensor(m, name, &bias);
    p->name = name;
    GR_TRY(gr_model_tensor_shape(m, name, &p->shape, err));
    GR_TRY(gr_model_get_weight(m, name, &w, err));
    p->dtype = m->param_dtype;
    p->n = p->shape.d[0] * (p->shape.n > 1 ? p->shape.d[1] : 1);
    p->decay = !bias && s->role != GR_ROLE_NORM && s->role != GR_ROLE_POSITION_BIAS;
    size_t bytes = gr_dtype_bytes(p->dtype, (size_t)p->n);
    if (m->is_shape) {
        GR_TRY(gr_model_shape_scratch(v->model, bytes, &p->value, err));
        p->grad = trainable ? p->value : NULL;
        v->shared = true;
        v->bytes += trainable ? 2 * bytes : bytes;
        return place(v, p, s, bias, err);
    }
    if (!(p->value = gr_alloc_aligned(v->a, bytes))) return gr_fail_memory(err);
    v->bytes += bytes;
    if (trainable) {
        if (!(p->grad = gr_alloc_aligned(v->a, bytes))) return gr_fail_memory(err);
        memset(p->grad, 0, bytes);
        v->bytes += bytes;
    }
    const gr_weight in_file = gr_weight_in_file(w);
    GR_TRY(gr_weight_decode_all(v->a, &in_file, p->dtype, p->value, err));
    /* Nobody reads the original again. What was made while loading lies in memory that cannot be read again. */
    if (w->file_view.data || (m->quantize.dtype == GR_F32 && !m->n_fresh))
        gr_release_mapped(in_file.view.data, in_file.view.bytes);
    return place(v, p, s, bias, err);
}

static gr_tensor_view param_view(const gr_param *p) {
    return (gr_tensor_view){p->dtype, p->shape, p->value, gr_dtype_bytes(p->dtype, (size_t)p->n), NULL};
}

static graft_status new_matrix(gr_variant *v, const gr_matrix_spec *spec, gr_matrix **out, graft_error *err) {
    GR_TRY(gr_grow(v->a, (void **)&v->matrices, &v->cap_matrices, v->n_matrices + 1, sizeof *v->matrices, err));
    GR_TRY(gr_matrix_new(v->model->dev, spec, &v->matrices[v->n_matrices], err));
    *out = v->matrices[v->n_matrices++];
    return GRAFT_OK;
}

/* A matrix over the masters of the replaced parts and the model's own weights of the others. */
static graft_status replace_linear(gr_variant *v, gr_linear *l, bool trainable, graft_error *err) {
    gr_matrix_spec spec = {.name = l->site[0]->name, .n_parts = l->n_parts, .dt = v->model->dtype};
    bool replaced = false;
    for (int i = 0; i < l->n_parts; i++) {
        replaced |= l->weight[i] != NULL;
        char name[300];
        const gr_weight *w;
        snprintf(name, sizeof name, "%s.weight", l->site[i]->name);
        GR_TRY(gr_model_get_weight(v->model, name, &w, err));
        const bool transposed = l->site[i]->transposed;
        spec.part[i] = (gr_matrix_part){.view = w->view, .permuted_heads = w->permuted_heads,
                                        .transposed = transposed && !w->turned};
        if (l->weight[i]) spec.part[i] = (gr_matrix_part){.view = param_view(l->weight[i]), .transposed = transposed};
    }
    if (!replaced) return GRAFT_OK;
    GR_TRY(new_matrix(v, &spec, &l->matrix, err));
    for (int i = 0; i < l->n_parts; i++) {
        if (!l->weight[i]) continue;
        l->weight[i]->matrix = l->matrix;
        if (!trainable) l->weight[i] = NULL; /* the matrix holds it; only gradients need the parameter */
    }
    return GRAFT_OK;
}

static graft_status replace_embedding(gr_variant *v, bool trainable, graft_error *err) {
    gr_embedding *e = &v->modules.embedding;
    gr_linear *head = &v->modules.head;
    if (!e->param) return GRAFT_OK;
    gr_matrix_spec spec = {.name = e->site->name, .n_parts = 1, .dt = v->model->dtype,
                           .part = {{.view = param_view(e->param)}}};
    GR_TRY(new_matrix(v, &spec, &e->matrix, err));
    e->param->matrix = e->matrix;
    bool tied = v->model->head_tied && !v->untied;
    if (tied) {
        head->matrix = e->matrix;
        head->weight[0] = trainable ? e->param : NULL;
    }
    e->use = tied;
    e->param->n_uses = 1 + tied + (v->model->config.n_encoder_layers > 0);
    if (!trainable) e->param = NULL;
    return GRAFT_OK;
}

static graft_status replace_table(gr_variant *v, gr_embedding *e, bool trainable, graft_error *err) {
    if (!e->param) return GRAFT_OK;
    gr_matrix_spec spec = {.name = e->site->name, .n_parts = 1, .dt = v->model->dtype,
                           .part = {{.view = param_view(e->param)}}};
    GR_TRY(new_matrix(v, &spec, &e->matrix, err));
    e->param->matrix = e->matrix;
    if (!trainable) e->param = NULL;
    return GRAFT_OK;
}

static void count_bias_uses(gr_variant *v) {
    int encoder = v->model->config.n_encoder_layers, decoder = v->model->config.n_layers - encoder;
    for (int i = 0; i < 2; i++) {
        gr_param *p = v->modules.position_bias[i].param;
        if (p) p->n_uses = i ? decoder : encoder;
    }
}

static graft_status fill(gr_variant *v, const char *const *names, size_t n, bool trainable, graft_error *err) {
    GR_TRY(copy_modules(v, err));
    if (n && !(v->params = gr_calloc(v->a, n, sizeof *v->params))) return gr_fail_memory(err);
    v->n_params = n;
    v->names = names;
    for (size_t i = 0; i < n; i++) GR_TRY(new_param(v, &v->params[i], names[i], trainable, err));
    for (int i = 0; i < v->modules.n_linears; i++) GR_TRY(replace_linear(v, &v->modules.linears[i], trainable, err));
    GR_TRY(replace_linear(v, &v->modules.head, trainable, err));
    for (int i = 0; i < v->modules.n_tables; i++) GR_TRY(replace_table(v, &v->modules.tables[i], trainable, err));
    count_bias_uses(v);
    return replace_embedding(v, trainable, err);
}

graft_status gr_variant_new(gr_model *m, const char *const *names, size_t n, bool untie, bool trainable, gr_variant **out,
                            graft_error *err) {
    gr_variant *v = gr_calloc(m->a, 1, sizeof *v);
    if (!v) return gr_fail_memory(err);
    v->model = m;
    v->a = m->a;
    v->untied = untie;
    graft_status st = fill(v, names, n, trainable, err);
    if (st != GRAFT_OK) {
        gr_variant_free(v);
        return st;
    }
    *out = v;
    return GRAFT_OK;
}

/* --- Packing ahead of time --------------------------------------------------------------------------------------------- */

/* Calls `each` for every matrix that passes over these modules multiply with: in both directions from layer `from` on,
 * forward only below. The embedding alone is only looked up. */
typedef graft_status (*matrix_fn)(void *arg, gr_matrix *w, bool backward, graft_error *err);

static graft_status each_matrix(const gr_modules *mods, int from, matrix_fn each, void *arg, graft_error *err) {
    for (int i = 0; i < mods->n_linears; i++) {
        const gr_linear *l = &mods->linears[i];
        int layer = l->site[0]->layer;
        GR_TRY(each(arg, l->matrix, layer < 0 ? from < GR_NO_BACKWARD : layer >= from, err));
    }
    return each(arg, mods->head.matrix, from < GR_NO_BACKWARD, err);
}

static graft_status prepare_one(void *arg, gr_matrix *w, bool backward, graft_error *err) {
    (void)arg;
    return gr_matrix_prepare(w, true, backward, err);
}

static graft_status plan_one(void *arg, gr_matrix *w, bool backward, graft_error *err) {
    (void)err;
    *(size_t *)arg += gr_matrix_planned_bytes(w, true, backward);
    return GRAFT_OK;
}

graft_status gr_model_prepare(gr_model *m, const gr_variant *v, int from, graft_error *err) {
    return each_matrix(v ? &v->modules : &m->modules, from, prepare_one, NULL, err);
}

size_t gr_model_planned_bytes(const gr_model *m, const gr_variant *v, int from) {
    size_t bytes = m->vector_bytes;
    each_matrix(v ? &v->modules : &m->modules, from, plan_one, &bytes, NULL);
    return bytes;
}

typedef struct workspace {
    gr_device *d;
    int64_t rows;
    size_t bytes;
} workspace;

static graft_status plan_workspace_of_one(void *arg, gr_matrix *w, bool backward, graft_error *err) {
    workspace *s = arg;
    size_t bytes;
    (void)backward;
    GR_TRY(gr_matrix_planned_workspace(s->d, w, s->rows, &bytes, err));
    s->bytes = GR_MAX(s->bytes, bytes);
    return GRAFT_OK;
}

graft_status gr_model_planned_workspace(const gr_model *m, const gr_variant *v, int64_t rows, size_t *bytes,
                                        graft_error *err) {
    workspace s = {.d = m->dev, .rows = rows};
    GR_TRY(each_matrix(v ? &v->modules : &m->modules, 0, plan_workspace_of_one, &s, err));
    *bytes = s.bytes;
    return GRAFT_OK;
}

size_t gr_model_owned_bytes(const gr_model *m) {
    size_t bytes = m->vector_bytes;
    for (size_t i = 0; i < m->n_matrices; i++) bytes += gr_matrix_bytes(m->matrices[i]);
    return bytes;
}
