/* Opening a model: configuration and weights, then the family builds the module tables. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>

#include "io/paths.h"
#include "model/family.h"
#include "model/shape.h"

static const gr_family *const families[] = {
#define X(name) &gr_family_##name,
#include "model/model.def"
#undef X
};

void gr_model_close(gr_model *m) {
    if (!m) return;
    for (size_t i = 0; i < m->n_matrices; i++) gr_matrix_free(m->matrices[i]);
    for (size_t i = 0; i < m->n_vectors; i++) gr_free_aligned(m->a, m->vectors[i]);
    gr_free(m->a, m->matrices);
    gr_free(m->a, m->vectors);
    gr_free(m->a, m->modules.linears);
    gr_free(m->a, m->modules.norms);
    gr_free(m->a, m->modules.tables);
    gr_free(m->a, m->sites);
    gr_free(m->a, m->tensors);
    gr_free(m->a, m->freq_factors);
    for (size_t i = 0; i < m->n_fresh && !m->is_shape; i++)
        gr_free_aligned(m->a, (void *)(uintptr_t)m->fresh[i].view.data);
    gr_shape_free(m);
    gr_free(m->a, m->fresh);
    gr_map_free(&m->site_of_name);
    gr_map_free(&m->site_of_tensor);
    gr_arena_free(&m->names);
    gr_weights_close(m->weights);
    gr_free(m->a, m);
}

static graft_status choose_dtype(gr_model *m, const gr_model_options *o, graft_error *err) {
    m->dtype = o && o->has_dtype ? o->dtype : m->dev->fast_bf16 ? GR_BF16 : GR_F32;
    if (m->dtype != GR_F32 && m->dtype != GR_BF16 && m->dtype != GR_F64)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "compute type %s, expected F32 or BF16", gr_dtype_name(m->dtype));
    m->param_dtype = gr_param_dtype(m->dtype);
    return GRAFT_OK;
}

static graft_status find_family(gr_model *m, graft_error *err) {
    for (size_t i = 0; i < GR_COUNT(families) && !m->family; i++)
        if (families[i]->handles(m->config.type)) m->family = families[i];
    if (!m->family)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: model type '%s' has no implementation", gr_weights_path(m->weights),
                       gr_model_type_name(m->config.type));
    return GRAFT_OK;
}

static graft_status read_freq_factors(gr_model *m, graft_error *err) {
    int64_t n = m->config.head_dim / 2;
    gr_shape shape = gr_shape1(n);
    const gr_weight *w;
    if (!m->config.rope.freq_factors) return GRAFT_OK;
    GR_TRY(gr_weights_get(m->weights, "rope_freqs.weight", &shape, &w, err));
    if (!(m->freq_factors = gr_alloc(m->a, (size_t)n * sizeof(float)))) return gr_fail_memory(err);
    GR_TRY(gr_weight_decode(w, 0, n, m->freq_factors, err));
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(m->freq_factors[i]) || m->freq_factors[i] <= 0)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: rope_freqs.weight: element %lld is %g, expected a positive number",
                           w->file, (long long)i, m->freq_factors[i]);
    return GRAFT_OK;
}

/* Whether the family knows a tensor as a constant, or as one of its modules without the family's prefix. */
static bool is_expected(const gr_model *m, const char *name) {
    const char *prefix = m->family->prefix, *const *ignored = m->family->ignored;
    size_t n_prefix = prefix ? strlen(prefix) : 0;
    char full[512];
    if (gr_map_get_text(&m->site_of_tensor, name, NULL)) return true;
    if (n_prefix && strncmp(name, prefix, n_prefix) == 0 && gr_map_get_text(&m->site_of_tensor, name + n_prefix, NULL)) return true;
    for (; ignored && *ignored; ignored++) {
        size_t n = strlen(*ignored);
        if ((*ignored)[n - 1] == '*' ? strncmp(name, *ignored, n - 1) == 0 : gr_ends_with(name, *ignored)) return true;
    }
    int n = prefix ? snprintf(full, sizeof full, "%s%s", prefix, name) : -1;
    return n >= 0 && (size_t)n < sizeof full && gr_map_get_text(&m->site_of_tensor, full, NULL);
}

/* Tensors that no module asked for may mean that the model is not what its configuration says. */
static void warn_unused(const gr_model *m) {
    size_t unused = 0;
    const char *first = NULL;
    for (size_t i = 0; i < gr_weights_count(m->weights); i++) {
        const char *name = gr_weights_at(m->weights, i)->name;
        const char *tail = strrchr(name, '.');
        if (is_expected(m, name) || strcmp(name, "rope_freqs.weight") == 0 ||
            (tail && strcmp(tail, ".inv_freq") == 0) || strcmp(name, "lm_head.weight") == 0)
            continue;
        if (!first) first = name;
        unused++;
    }
    if (unused)
        gr_log(m->ctx, GRAFT_LOG_WARNING, "%s: %zu tensors are not part of a %s model and were left out, the first is '%s'",
               gr_weights_path(m->weights), unused, gr_model_type_name(m->config.type), first);
}

/* People give an adapter where its base is meant. */
static graft_status refuse_adapter(const graft_allocator *a, const char *path, graft_error *err) {
    char *adapter = gr_path_join(a, path, "adapter_config.json"), *model = gr_path_join(a, path, "config.json");
    graft_status st = adapter && model ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK && gr_path_exists(adapter) && !gr_path_exists(model))
        st = gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected a model, found an adapter: its base is the model, the adapter goes with --adapter",
                     path);
    gr_free(a, adapter);
    gr_free(a, model);
    return st;
}

/* The head: the one that the configuration names, or the one that is asked for, whose weights may be missing then. */
static graft_status choose_task(gr_model *m, const gr_model_options *o, graft_error *err) {
    gr_model_config *c = &m->config;
    if (o && o->has_task) {
        m->make_head = true;
        m->seed = o->seed;
        if (c->task != o->task) c->problem = GR_PROBLEM_AUTO;
        c->task = o->task;
        if (o->n_labels > GR_MAX_LABELS)
            return gr_fail(err, GRAFT_ERR_LIMIT, "%d labels, expected at most %d", o->n_labels, GR_MAX_LABELS);
        if (o->n_labels) c->n_labels = o->n_labels;
        if (o->n_labels && o->problem) c->problem = o->problem;
    }
    if (!(m->family->tasks >> c->task & 1))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: a %s model has no head for the task %s: task_type can name another",
                       gr_weights_path(m->weights), gr_model_type_name(c->type), gr_task_name(c->task));
    if (c->task != GR_TASK_SEQ_CLS) return GRAFT_OK;
    if (o && o->n_labels && o->labels) {
        m->labels = (gr_labels){o->n_labels, gr_arena_alloc(&m->names, (size_t)o->n_labels * sizeof *m->labels.names)};
        if (!m->labels.names) return gr_fail_memory(err);
        for (int i = 0; i < o->n_labels; i++)
            if (!(m->labels.names[i] = gr_arena_strndup(&m->names, o->labels[i], strlen(o->labels[i])))) return gr_fail_memory(err);
        return GRAFT_OK;
    }
    return gr_labels_load(m->a, &m->names, m->weights, c, &m->labels, err);
}

static bool is_brought(const gr_model_options *o, const char *tensor) {
    for (size_t i = 0; o && i < o->n_brought; i++)
        if (strcmp(o->brought[i], tensor) == 0) return true;
    return false;
}

static void warn_fresh(const gr_model *m, const gr_model_options *o) {
    if (m->is_shape)
        gr_log(m->ctx, GRAFT_LOG_INFO, "%s: no weights are there, their sizes are those of its config.json in %s",
               gr_weights_path(m->weights), gr_dtype_name(m->config.dtype));
    for (size_t i = 0; i < m->n_fresh && !m->is_shape; i++) {
        if (is_brought(o, m->fresh[i].name)) continue;
        gr_log(m->ctx, GRAFT_LOG_INFO, "%s: tensor '%s' is missing and begins with initial values", gr_weights_path(m->weights),
               m->fresh[i].name);
    }
}

/* A model that says that its weights are compressed must have some that are. */
static graft_status check_compressed(const gr_model *m, graft_error *err) {
    bool any = m->modules.head.matrix && gr_matrix_stored(m->modules.head.matrix) == GR_CHANNEL8;
    for (size_t i = 0; i < gr_weights_count(m->weights) && !any; i++)
        any = gr_weights_at(m->weights, i)->view.dtype == GR_CHANNEL8;
    if (m->is_shape && m->config.compressed && m->quantize.dtype == GR_F32)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "%s: which weights compressed-tensors has in 8 bits is in their files: expected these, found "
                       "config.json alone",
                       gr_model_path(m));
    if (any || !m->config.compressed || m->is_shape) return GRAFT_OK;
    if (m->quantize.dtype == GR_CHANNEL8)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected a module that is quantised, found all left out",
                       gr_model_path(m));
    return gr_fail(
        err, GRAFT_ERR_MISMATCH,
        "%s: quantization_config says compressed-tensors: expected weights in I8 with their weight_scale, found none",
        gr_model_path(m));
}

/* What was asked for must change something. */
static graft_status check_integers(const gr_model *m, const gr_model_options *o, graft_error *err) {
    bool any = m->modules.head.matrix && gr_matrix_is_integer(m->modules.head.matrix), whole = false;
    for (int i = 0; i < m->modules.n_linears; i++) {
        const gr_linear *l = &m->modules.linears[i];
        if (!gr_matrix_is_integer(l->matrix)) continue;
        any = true;
        whole |= gr_matrix_stored(l->matrix) == GR_INT8;
    }
    if (!any)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: activations int8: expected weights in int8 or in a block format of GGUF, found none",
                       gr_model_path(m));
    if (o->activations.threshold != 0 && !whole)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: llm_int8_threshold: expected weights in int8, found none", gr_model_path(m));
    return GRAFT_OK;
}

static graft_status open_model(gr_model *m, const char *path, const gr_model_options *o, graft_error *err) {
    GR_TRY(gr_device_get(m->ctx, &m->dev, err));
    GR_TRY(choose_dtype(m, o, err));
    if (o) m->quantize = o->quantize;
    if (o) m->activations = o->activations;
    GR_TRY(refuse_adapter(m->a, path, err));
    GR_TRY((m->is_shape ? gr_weights_open_none : gr_weights_open)(m->a, path, &m->weights, err));
    GR_TRY(gr_model_config_of(m->a, m->weights, &m->config, err));
    GR_TRY(find_family(m, err));
    GR_TRY(choose_task(m, o, err));
    if (m->quantize.dtype == GR_CHANNEL8) {
        if (m->config.compressed)
            return gr_fail(err, GRAFT_ERR_ARGUMENT,
                           "%s: its weights are in 8 bits already, as quantization_config says", path);
        const bool is_static = m->quantize.channel8 && m->quantize.channel8->is_static;
        m->config.compressed = is_static ? GR_COMPRESSED_STATIC : GR_COMPRESSED_DYNAMIC;
    }
    if (!m->activations.threshold) m->activations.threshold = m->config.int8_threshold;
    m->layers = m->family->layers;
    m->encoder_layers = m->family->encoder_layers;
    GR_TRY(m->family->build(m, &m->config, err));
    GR_TRY(read_freq_factors(m, err));
    GR_TRY(check_compressed(m, err));
    if (m->activations.integer) GR_TRY(check_integers(m, o, err));
    m->quantize.channel8 = NULL; /* the caller's */
    warn_fresh(m, o);
    warn_unused(m);
    return GRAFT_OK;
}

static graft_status open_any(graft_context *ctx, const char *path, const gr_model_options *options, bool is_shape,
                             gr_model **out, graft_error *err) {
    const graft_allocator *a = gr_allocator(ctx);
    gr_model *m = gr_calloc(a, 1, sizeof *m);
    if (!m) return gr_fail_memory(err);
    m->ctx = ctx;
    m->a = a;
    m->is_shape = is_shape;
    gr_map_init(&m->site_of_name, a);
    gr_map_init(&m->site_of_tensor, a);
    gr_arena_init(&m->names, a, 0);
    graft_status st = open_model(m, path, options, err);
    if (st != GRAFT_OK) {
        gr_model_close(m);
        return st;
    }
    *out = m;
    return GRAFT_OK;
}

graft_status gr_model_open(graft_context *ctx, const char *path, const gr_model_options *options, gr_model **out,
                           graft_error *err) {
    return open_any(ctx, path, options, false, out, err);
}

graft_status gr_model_open_shape(graft_context *ctx, const char *path, const gr_model_options *options, gr_model **out,
                                 graft_error *err) {
    return open_any(ctx, path, options, true, out, err);
}

graft_context *gr_model_context(const gr_model *m) { return m->ctx; }
gr_device *gr_model_device(const gr_model *m) { return m->dev; }
const gr_model_config *gr_model_get_config(const gr_model *m) { return &m->config; }
const gr_weights *gr_model_weights(const gr_model *m) { return m->weights; }
const char *gr_model_path(const gr_model *m) { return gr_weights_path(m->weights); }
bool gr_model_is_integer(const gr_model *m) {
    bool any = false;
    for (size_t i = 0; i < m->n_matrices && !any; i++) any = gr_matrix_is_integer(m->matrices[i]);
    return any;
}
gr_dtype gr_model_dtype(const gr_model *m) { return m->dtype; }
gr_dtype gr_model_param_dtype(const gr_model *m) { return m->param_dtype; }
int64_t gr_model_kv_width(const gr_model *m) { return (int64_t)m->config.n_kv_heads * m->config.head_dim; }
int gr_model_kv_layers(const gr_model *m) { return m->config.n_layers - m->config.n_encoder_layers; }
size_t gr_model_n_sites(const gr_model *m) { return m->n_sites; }
const gr_site *gr_model_site(const gr_model *m, size_t i) { return i < m->n_sites ? m->sites[i] : NULL; }
const gr_site *gr_model_embedding_site(const gr_model *m) { return m->modules.embedding.site; }

const gr_linear *gr_model_linear(const gr_model *m, const gr_site *s) {
    if (s->role == GR_ROLE_HEAD) return &m->modules.head;
    bool other = s->role == GR_ROLE_NORM || gr_site_is_table(s) || s->module < 0;
    return other ? NULL : &m->modules.linears[s->module];
}

graft_status gr_model_want_causal(const gr_model *m, const char *what, graft_error *err) {
    if (m->config.task == GR_TASK_CAUSAL_LM || m->config.task == GR_TASK_SEQ_2_SEQ_LM) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                   "%s: %s needs a model that writes texts, found the task %s of a %s model", gr_model_path(m), what,
                   gr_task_name(m->config.task), gr_model_type_name(m->config.type));
}

const char *gr_model_pipeline(const gr_model *m) {
    static const char *const names[] = {[GR_TASK_CAUSAL_LM] = "text-generation", [GR_TASK_SEQ_2_SEQ_LM] = "text2text-generation",
                                        [GR_TASK_MASKED_LM] = "fill-mask", [GR_TASK_SEQ_CLS] = "text-classification",
                                        [GR_TASK_FEATURES] = "feature-extraction", [GR_TASK_UNKNOWN] = "other"};
    return names[m->config.task];
}

bool gr_model_has_asked_head(const gr_model *m) { return m->make_head; }

const gr_labels *gr_model_labels(const gr_model *m) { return &m->labels; }
const gr_site *gr_model_head_site(const gr_model *m) { return m->modules.head.site[0]; }
bool gr_model_head_is_tied(const gr_model *m) { return m->head_tied; }
int64_t gr_model_n_params(const gr_model *m) { return m->n_params; }
size_t gr_model_n_tensors(const gr_model *m) { return m->n_tensors; }
const char *gr_model_tensor_name(const gr_model *m, size_t i) { return i < m->n_tensors ? m->tensors[i] : NULL; }

gr_activation gr_act_of(gr_hidden_act act) {
    static const gr_activation of[] = {[GR_ACT_SILU] = GR_ACTIVATION_SILU, [GR_ACT_GELU] = GR_ACTIVATION_GELU,
                                       [GR_ACT_GELU_TANH] = GR_ACTIVATION_GELU_TANH, [GR_ACT_RELU] = GR_ACTIVATION_RELU,
                                       [GR_ACT_TANH] = GR_ACTIVATION_TANH};
    return of[act];
}

const gr_site *gr_model_find_site(const gr_model *m, const char *name) {
    int64_t i;
    return gr_map_get_text(&m->site_of_name, name, &i) ? m->sites[i] : NULL;
}

const gr_site *gr_model_site_of_tensor(const gr_model *m, const char *name, bool *bias) {
    int64_t i;
    if (!gr_map_get_text(&m->site_of_tensor, name, &i)) {
        /* A tied head has no tensor of its own, but may be given one. */
        const gr_site *head = m->modules.head.site[0];
        size_t n = head ? strlen(head->name) : 0;
        if (!head || strncmp(name, head->name, n) != 0 || strcmp(name + n, ".weight") != 0) return NULL;
        i = head->index;
    }
    size_t n = strlen(name);
    *bias = n > 5 && strcmp(name + n - 5, ".bias") == 0;
    return m->sites[i];
}

graft_status gr_model_tensor_shape(const gr_model *m, const char *name, gr_shape *out, graft_error *err) {
    bool bias;
    const gr_site *s = gr_model_site_of_tensor(m, name, &bias);
    if (!s)
        return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: the model has no tensor '%s'", gr_model_path(m), name);
    if (bias || s->role == GR_ROLE_NORM)
        *out = gr_shape1(s->out);
    else
        *out = gr_site_is_table(s) || s->transposed ? gr_shape2(s->in, s->out) : gr_shape2(s->out, s->in);
    return GRAFT_OK;
}

graft_status gr_model_get_weight(const gr_model *m, const char *name, const gr_weight **out, graft_error *err) {
    bool bias;
    const gr_site *s = gr_model_site_of_tensor(m, name, &bias);
    if (s && !bias && (s->role == GR_ROLE_EMBED || (s->role == GR_ROLE_HEAD && m->head_tied))) {
        *out = m->embedding_weight;
        return GRAFT_OK;
    }
    return gr_model_file_weight(m, name, NULL, out, err);
}

graft_status gr_model_read_tensor(const gr_model *m, const char *name, int64_t row, int64_t n, float *out,
                                  graft_error *err) {
    const gr_weight *w;
    GR_TRY(gr_model_get_weight(m, name, &w, err));
    gr_shape shape = gr_weight_shape(w);
    int64_t rows = shape.n ? shape.d[0] : 0;
    if (row < 0 || n < 0 || row > rows - n)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "tensor '%s': rows %lld .. %lld of %lld", name, (long long)row,
                       (long long)(row + n), (long long)rows);
    return gr_weight_decode(w, row, n, out, err);
}

gr_quantize_spec gr_model_quantized(const gr_model *m) { return m->quantize; }

bool gr_model_was_quantized(const gr_model *m, const gr_site *s) {
    const gr_weight *w;
    return gr_model_get_weight(m, s->weight_tensor, &w, NULL) == GRAFT_OK && w->file_view.data;
}

graft_status gr_model_read_file_outputs(const gr_model *m, const gr_site *s, float *out, graft_error *err) {
    const gr_weight *w;
    GR_TRY(gr_model_get_weight(m, s->weight_tensor, &w, err));
    const gr_weight in_file = gr_weight_in_file(w);
    graft_status st = gr_weight_decode_outputs(&in_file, s->transposed, 0, s->out, out, err);
    if (w->file_view.data) gr_release_mapped(in_file.view.data, in_file.view.bytes); /* what is used is in memory of its own */
    return st;
}

graft_status gr_model_read_outputs(const gr_model *m, const gr_site *s, int64_t row, int64_t n, float *out,
                                   graft_error *err) {
    char name[300];
    const gr_weight *w;
    snprintf(name, sizeof name, "%s.weight", s->name);
    GR_TRY(gr_model_get_weight(m, name, &w, err));
    if (row < 0 || n < 0 || row > s->out - n)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "module '%s': rows %lld .. %lld of %lld", s->name, (long long)row,
                       (long long)(row + n), (long long)s->out);
    return gr_weight_decode_outputs(w, s->transposed, row, n, out, err);
}
