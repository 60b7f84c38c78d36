/* Sets of adapters over one model: making, loading and removing them, and their parameters. */
#include <limits.h>
#include <stdio.h>

#include "adapter/method.h"
#include "model/shape.h"

static const gr_adapter_method *const methods[] = {
#define X(name) &gr_adapter_##name,
#include "adapter/adapter.def"
#undef X
};

gr_adapter *gr_adapter_at(const gr_adapter_set *s, int index) {
    return index >= 0 && (size_t)index < s->n_slots ? s->slots[index] : NULL;
}

/* --- The set ----------------------------------------------------------------------------------------------------------------- */

graft_status gr_adapter_set_new(gr_model *m, gr_adapter_set **out, graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(m));
    gr_adapter_set *s = gr_calloc(a, 1, sizeof *s);
    if (!s) return gr_fail_memory(err);
    s->model = m;
    s->a = a;
    gr_adapter_fill_hooks(s);
    *out = s;
    return GRAFT_OK;
}

void gr_adapter_free(gr_adapter *a) {
    if (!a) return;
    gr_adapter_free_gradients(a);
    if (a->state && a->method->free) a->method->free(a);
    for (size_t i = 0; i < a->n_owned; i++) {
        if (!a->shared && !a->owned[i]->mapped) gr_free_aligned(a->a, a->owned[i]->value);
        if (!a->shared) gr_free_aligned(a->a, a->owned[i]->grad);
        gr_free(a->a, a->owned[i]);
    }
    gr_safetensors_close(a->file);
    gr_variant_free(a->variant);
    gr_free(a->a, a->owned);
    gr_free(a->a, a->params);
    gr_free(a->a, a->stored);
    gr_free(a->a, a->config);
    gr_free(a->a, a->state);
    gr_free(a->a, a->name);
    gr_arena_free(&a->arena);
    gr_free(a->a, a);
}

void gr_adapter_set_free(gr_adapter_set *s) {
    if (!s) return;
    for (size_t i = 0; i < s->n_slots; i++) gr_adapter_free(s->slots[i]);
    gr_free(s->a, s->slots);
    gr_free(s->a, s);
}

gr_model *gr_adapter_set_model(const gr_adapter_set *s) { return s->model; }
const gr_hooks *gr_adapter_set_hooks(gr_adapter_set *s) { return &s->hooks; }
int gr_adapter_set_count(const gr_adapter_set *s) { return (int)s->n_slots; }

int gr_adapter_set_find(const gr_adapter_set *s, const char *name) {
    for (size_t i = 0; i < s->n_slots; i++)
        if (s->slots[i] && strcmp(s->slots[i]->name, name) == 0) return (int)i;
    return -1;
}

const char *gr_adapter_set_name(const gr_adapter_set *s, int index) {
    const gr_adapter *a = gr_adapter_at(s, index);
    return a ? a->name : NULL;
}

void gr_adapter_set_remove(gr_adapter_set *s, int index) {
    if (!gr_adapter_at(s, index)) return;
    gr_adapter_free(s->slots[index]);
    s->slots[index] = NULL;
}

/* --- Parameters ---------------------------------------------------------------------------------------------------------------- */

const char *gr_adapter_text(gr_adapter *a, graft_error *err, const char *format, ...) {
    char text[GR_ADAPTER_TEXT];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    char *copy = n >= 0 && (size_t)n < sizeof text ? gr_arena_strndup(&a->arena, text, (size_t)n) : NULL;
    if (!copy) gr_fail_memory(err);
    return copy;
}

graft_status gr_adapter_new_param(gr_adapter *a, const char *name, const gr_shape *shape, bool decay, gr_param **out,
                                  graft_error *err) {
    gr_dtype dt = gr_model_param_dtype(a->model);
    size_t bytes;
    GR_TRY(gr_tensor_bytes(dt, shape, &bytes, err));
    if (a->most_bytes && (a->bytes > a->most_bytes || bytes > a->most_bytes - a->bytes))
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: tensor '%s' of %zu bytes: the configuration describes far more than the "
                       "directory's files hold", a->where, name, bytes);
    GR_TRY(gr_grow(a->a, (void **)&a->owned, &a->cap_owned, a->n_owned + 1, sizeof *a->owned, err));
    gr_param *p = gr_calloc(a->a, 1, sizeof *p);
    if (!p) return gr_fail_memory(err);
    a->owned[a->n_owned++] = p;
    *p = (gr_param){.name = name, .shape = *shape, .dtype = dt, .decay = decay};
    gr_shape_elements(shape, &p->n);
    if (gr_model_is_shape(a->model)) {
        GR_TRY(gr_model_shape_scratch(a->model, bytes, &p->value, err));
        p->grad = a->trainable ? p->value : NULL;
        a->shared = true;
        a->bytes += bytes * (a->trainable ? 2 : 1);
        *out = p;
        return GRAFT_OK;
    }
    p->value = gr_alloc_aligned(a->a, bytes);
    if (a->trainable) p->grad = gr_alloc_aligned(a->a, bytes);
    if (!p->value || (a->trainable && !p->grad)) return gr_fail_memory(err);
    memset(p->value, 0, bytes);
    if (p->grad) memset(p->grad, 0, bytes);
    a->bytes += bytes * (a->trainable ? 2 : 1);
    *out = p;
    return GRAFT_OK;
}

graft_status gr_adapter_new_state(gr_adapter *a, const char *name, const gr_shape *shape, gr_param **out, graft_error *err) {
    bool trainable = a->trainable;
    a->trainable = false;
    graft_status st = gr_adapter_new_param(a, name, shape, false, out, err);
    a->trainable = trainable;
    return st == GRAFT_OK ? gr_adapter_store(a, name, *out, GR_FILE_STATE, err) : st;
}

graft_status gr_adapter_store(gr_adapter *a, const char *name, gr_param *p, gr_stored_file file, graft_error *err) {
    GR_TRY(gr_grow(a->a, (void **)&a->stored, &a->cap_stored, a->n_stored + 1, sizeof *a->stored, err));
    a->stored[a->n_stored++] = (gr_stored){name, p, file};
    return GRAFT_OK;
}

graft_status gr_adapter_enter(gr_adapter *a, const char *name, gr_param *p, int layer, graft_error *err) {
    bool known = false;
    for (size_t i = a->n_params; i > 0 && !known; i--) known = a->params[i - 1] == p;
    if (!known) {
        GR_TRY(gr_grow(a->a, (void **)&a->params, &a->cap_params, a->n_params + 1, sizeof *a->params, err));
        a->params[a->n_params++] = p;
        p->name = name;
        if (a->trainable) a->lowest_layer = GR_MIN(a->lowest_layer, layer);
    }
    return GRAFT_OK;
}

graft_status gr_adapter_add(gr_adapter *a, const char *stored_name, gr_param *p, int layer, graft_error *err) {
    GR_TRY(gr_adapter_enter(a, stored_name, p, layer, err));
    return gr_adapter_store(a, stored_name, p, GR_FILE_ADAPTER, err);
}

graft_status gr_adapter_add_encoder(gr_adapter *a, const char *name, gr_param *p, int layer, graft_error *err) {
    GR_TRY(gr_adapter_enter(a, name, p, layer, err));
    return gr_adapter_store(a, name + strlen(GR_ENCODER_PREFIX), p, GR_FILE_ENCODER, err);
}

int gr_adapter_depth(const gr_model *m, const gr_site *s) {
    const gr_model_config *c = gr_model_get_config(m);
    if (s->below) return -1;
    return s->layer >= 0 ? s->layer : s->encoder ? c->n_encoder_layers : c->n_layers;
}

static int depth_of_tensor(const gr_model *m, const char *tensor) {
    bool bias;
    const gr_site *s = gr_model_site_of_tensor(m, tensor, &bias);
    return s ? gr_adapter_depth(m, s) : -1;
}

graft_status gr_adapter_add_variant(gr_adapter *a, const char *const *tensors, const char *const *stored, size_t n,
                                    bool untie, graft_error *err) {
    GR_TRY(gr_variant_new(a->model, tensors, n, untie, a->trainable, &a->variant, err));
    a->bytes += gr_variant_bytes(a->variant);
    for (size_t i = 0; i < n; i++)
        GR_TRY(gr_adapter_add(a, stored[i], gr_variant_param(a->variant, i), depth_of_tensor(a->model, tensors[i]), err));
    return GRAFT_OK;
}

void gr_adapter_fill(gr_param *p, uint64_t seed, bool normal, double bound) {
    uint64_t stream = gr_rng_stream(GR_RNG_INIT, gr_hash_bytes(p->name, strlen(p->name), 0));
    for (int64_t i = 0; i < p->n; i++) {
        double x = normal ? bound * gr_rng_normal(seed, stream, (uint64_t)i)
                          : bound * (2 * gr_rng_uniform(seed, stream, (uint64_t)i) - 1);
        if (p->dtype == GR_F64)
            ((double *)p->value)[i] = (float)x;
        else
            ((float *)p->value)[i] = (float)x;
    }
}

void gr_adapter_set_all(gr_param *p, double value) {
    for (int64_t i = 0; i < p->n; i++)
        if (p->dtype == GR_F64)
            ((double *)p->value)[i] = value;
        else
            ((float *)p->value)[i] = (float)value;
}

size_t gr_adapter_n_params(const gr_adapter_set *s, int index) {
    const gr_adapter *a = gr_adapter_at(s, index);
    return a ? a->n_params : 0;
}

gr_param *gr_adapter_param(const gr_adapter_set *s, int index, size_t i) {
    const gr_adapter *a = gr_adapter_at(s, index);
    return a && i < a->n_params ? a->params[i] : NULL;
}

int64_t gr_adapter_n_trainable(const gr_adapter_set *s, int index) {
    int64_t n = 0;
    for (size_t i = 0; i < gr_adapter_n_params(s, index); i++) n += gr_adapter_param(s, index, i)->n;
    return n;
}

const gr_variant *gr_adapter_variant(const gr_adapter_set *s, int index) {
    const gr_adapter *a = gr_adapter_at(s, index);
    return a ? a->variant : NULL;
}

const char *gr_adapter_method_name(const gr_adapter_set *s, int index) {
    const gr_adapter *a = gr_adapter_at(s, index);
    return a ? a->method->name : NULL;
}

const char *gr_adapter_config(const gr_adapter_set *s, int index) {
    const gr_adapter *a = gr_adapter_at(s, index);
    return a ? a->config : NULL;
}

size_t gr_adapter_bytes(const gr_adapter_set *s, int index) {
    const gr_adapter *a = gr_adapter_at(s, index);
    return a ? a->bytes : 0;
}

int gr_adapter_lowest_layer(const gr_adapter_set *s, int index) {
    const gr_adapter *a = gr_adapter_at(s, index);
    return a && a->lowest_layer < GR_NO_BACKWARD ? a->lowest_layer : GR_NO_BACKWARD;
}

/* --- Making and loading ---------------------------------------------------------------------------------------------------------- */

static graft_status fail_unknown(const gr_adapter *a, const char *type, graft_error *err) {
    char known[512] = "";
    for (size_t i = 0, at = 0; i < GR_COUNT(methods); i++)
        at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", methods[i]->peft_type);
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: peft_type '%s' is not known, expected one of %s", a->where, type, known);
}

static graft_status find_method(gr_adapter *a, const gr_json_value *config, graft_error *err) {
    const char *type = NULL;
    GR_TRY(gr_config_text(a, config, "peft_type", &type, err));
    if (!type) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: no 'peft_type'", a->where);
    for (size_t i = 0; i < GR_COUNT(methods); i++)
        if (strcmp(methods[i]->peft_type, type) == 0) a->method = methods[i];
    if (!a->method)
        return fail_unknown(a, type, err);
    if (!(a->state = gr_calloc(a->a, 1, a->method->state_size))) return gr_fail_memory(err);
    return GRAFT_OK;
}

graft_status gr_adapter_build(gr_adapter *a, const char *config, size_t len, bool fresh, uint64_t seed, graft_error *err) {
    const gr_json_value *json;
    GR_TRY(gr_json_parse(&a->arena, a->where, config, len, &json, err));
    if (json->kind != GR_JSON_OBJECT)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected an object, found %s", a->where, gr_json_kind_name(json->kind));
    GR_TRY(find_method(a, json, err));
    GR_TRY(a->method->create(a, json, fresh, seed, err));
    return gr_adapter_rewrite_config(a, err);
}

graft_status gr_adapter_rewrite_config(gr_adapter *a, graft_error *err) {
    char *text;
    gr_buf b;
    gr_buf_init(&b, a->a);
    a->method->write_config(a, &b);
    graft_status st = gr_buf_take(&b, &text, NULL, err);
    gr_buf_free(&b);
    if (st != GRAFT_OK) return st;
    gr_free(a->a, a->config);
    a->config = text;
    return GRAFT_OK;
}

graft_status gr_adapter_begin(gr_adapter_set *s, const char *name, const char *where, bool trainable, double scale,
                                gr_adapter **out, graft_error *err) {
    if (!*name) return gr_fail(err, GRAFT_ERR_ARGUMENT, "an adapter needs a name");
    if (gr_adapter_set_find(s, name) >= 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "there is an adapter named '%s' already", name);
    gr_adapter *a = gr_calloc(s->a, 1, sizeof *a);
    if (!a) return gr_fail_memory(err);
    *a = (gr_adapter){.set = s, .model = s->model, .a = s->a, .trainable = trainable, .scale = scale,
                      .lowest_layer = INT_MAX};
    gr_arena_init(&a->arena, s->a, (size_t)256 << 20);
    a->name = gr_strdup(s->a, name);
    a->where = gr_arena_strndup(&a->arena, where, strlen(where));
    if (!a->name || !a->where) {
        gr_adapter_free(a);
        return gr_fail_memory(err);
    }
    *out = a;
    return GRAFT_OK;
}

static graft_status make_ready(gr_adapter *a, graft_error *err) {
    if (a->trainable || !a->method->freeze) return GRAFT_OK;
    const graft_status st = a->method->freeze(a, err);
    gr_adapter_leave_file(a);
    return st;
}

graft_status gr_adapter_finish(gr_adapter_set *s, gr_adapter *a, int *index, graft_error *err) {
    size_t i = 0;
    GR_TRY(make_ready(a, err));
    while (i < s->n_slots && s->slots[i]) i++;
    if (i == s->n_slots) {
        GR_TRY(gr_grow(s->a, (void **)&s->slots, &s->cap_slots, s->n_slots + 1, sizeof *s->slots, err));
        s->n_slots++;
    }
    s->slots[i] = a;
    a->identity = ++s->last_identity;
    *index = (int)i;
    return GRAFT_OK;
}

graft_status gr_adapter_refresh(gr_adapter_set *s, int index, uint64_t key, bool training, graft_error *err) {
    gr_adapter *a = gr_adapter_at(s, index);
    if (!a) return GRAFT_OK;
    if (training) GR_TRY(gr_adapter_part_gradients(a, err));
    if (a->method->refresh) GR_TRY(a->method->refresh(a, key, training, err));
    return make_ready(a, err);
}

graft_status gr_adapter_collect(gr_adapter_set *s, int index, graft_error *err) {
    gr_adapter *a = gr_adapter_at(s, index);
    if (!a) return GRAFT_OK;
    gr_adapter_join_gradients(a);
    return a->method->collect ? a->method->collect(a, err) : GRAFT_OK;
}

graft_status gr_adapter_begin_run(gr_adapter_set *s, int index, int64_t n_steps, graft_error *err) {
    gr_adapter *a = gr_adapter_at(s, index);
    return a && a->method->begin_run ? a->method->begin_run(a, n_steps, err) : GRAFT_OK;
}

graft_status gr_adapter_stepped(gr_adapter_set *s, int index, int64_t step, double clip, graft_error *err) {
    gr_adapter *a = gr_adapter_at(s, index);
    return a && a->method->stepped ? a->method->stepped(a, step, clip, err) : GRAFT_OK;
}

double gr_adapter_penalty(const gr_adapter_set *s, int index) {
    gr_adapter *a = gr_adapter_at(s, index);
    return a && a->method->penalty ? a->method->penalty(a) : 0;
}

int gr_adapter_n_virtual(const gr_adapter_set *s, int index) {
    const gr_adapter *a = gr_adapter_at(s, index);
    return a ? a->n_virtual : 0;
}

int gr_adapter_n_tasks(const gr_adapter_set *s, int index) {
    const gr_adapter *a = gr_adapter_at(s, index);
    return a ? a->n_tasks : 0;
}

graft_status gr_adapter_set_scale(gr_adapter_set *s, int index, double scale, graft_error *err) {
    gr_adapter *a = gr_adapter_at(s, index);
    if (!a) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "there is no adapter %d", index);
    if (!a->method->rescale || a->trainable)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "adapter '%s' (%s%s) cannot be scaled by %g", a->name, a->method->name,
                       a->trainable ? ", being trained" : "", scale);
    double before = a->scale;
    a->scale = scale;
    graft_status st = a->method->rescale(a, err);
    if (st != GRAFT_OK)
        a->scale = before;
    else
        a->identity = ++s->last_identity;
    return st;
}

const char *gr_adapter_prompt_template(const gr_adapter_set *s, int index) {
    const gr_adapter *a = gr_adapter_at(s, index);
    return a ? a->prompt_template : NULL;
}

const struct gr_slots *gr_adapter_slots(const gr_adapter_set *s, int index) {
    const gr_adapter *a = gr_adapter_at(s, index);
    return a ? a->slots : NULL;
}

graft_status gr_adapter_set_create(gr_adapter_set *s, const char *name, const char *config, size_t config_len,
                                   uint64_t seed, int *index, graft_error *err) {
    gr_adapter *a;
    graft_status st;
    GR_TRY(gr_adapter_begin(s, name, name, true, 1, &a, err));
    GR_GO(fail, gr_adapter_build(a, config, config_len, true, seed, err));
    if (a->method->refresh) GR_GO(fail, a->method->refresh(a, 0, false, err));
    GR_GO(fail, gr_adapter_finish(s, a, index, err));
    return GRAFT_OK;
fail:
    gr_adapter_free(a);
    return st;
}

graft_status gr_adapter_set_load(gr_adapter_set *s, const char *name, const char *dir, double scale, bool trainable,
                                 int *index, graft_error *err) {
    gr_adapter *a;
    graft_status st;
    GR_TRY(gr_adapter_begin(s, name, name, trainable, scale, &a, err));
    GR_GO(fail, gr_adapter_read(a, dir, err));
    if (a->method->refresh) GR_GO(fail, a->method->refresh(a, 0, false, err));
    GR_GO(fail, gr_adapter_finish(s, a, index, err));
    return GRAFT_OK;
fail:
    gr_adapter_free(a);
    return st;
}
