/* (IA)^3 (Liu et al. 2022): a vector l for each chosen module, y = l * (x W^T + b), or y = (l * x) W^T + b where the module
 * is one of feedforward_modules. Reference: peft 0.21 tuners/ia3.
 *
 * l begins as ones: a fresh adapter changes nothing. Scaled by s, an adapter has 1 + s (l - 1). */
#include "adapter/lora.h"

typedef struct ia3_vector {
    const gr_site *site;
    bool input;
    gr_param *l;
    void *scaled; /* 1 + s (l - 1); NULL where s is 1 */
} ia3_vector;

struct ia3 {
    gr_common_config common;
    gr_lora_config chosen; /* targets, exclude, modules_to_save */
    gr_targets feedforward;
    bool init, fan_in_fan_out;
    ia3_vector *vectors;
    size_t n_vectors;
    int *vector_of_site; /* -1: none */
};

/* --- Configuration ------------------------------------------------------------------------------------------------------ */

static const char *const known[] = {"auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out",
                                    "feedforward_modules", "inference_mode", "init_ia3_weights", "modules_to_save",
                                    "peft_type", "peft_version", "revision", "target_modules", "task_type", NULL};

static graft_status default_targets(gr_adapter *a, bool feedforward, gr_targets *out, graft_error *err) {
    const gr_method_defaults *d = gr_method_defaults_of(a->model);
    if (out->given) return GRAFT_OK;
    if (!d || !d->ia3)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: %s has no default for this kind of model: name the modules", a->where,
                       feedforward ? "feedforward_modules" : "target_modules");
    return gr_default_targets(a, feedforward ? d->ia3_feedforward : d->ia3, out, err);
}

/* Both lists: feedforward_modules must be among target_modules. */
static graft_status check_subset(const gr_adapter *a, const struct ia3 *s, graft_error *err) {
    const gr_targets *t = &s->chosen.targets, *f = &s->feedforward;
    if (t->regex || f->regex) return GRAFT_OK;
    for (size_t i = 0; i < f->n; i++) {
        bool found = false;
        for (size_t k = 0; k < t->n && !found; k++) found = strcmp(t->names[k], f->names[i]) == 0;
        if (!found)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: feedforward_modules: '%s' is not among target_modules", a->where,
                           f->names[i]);
    }
    return GRAFT_OK;
}

static graft_status read_config(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err) {
    struct ia3 *s = a->state;
    if (fresh) GR_TRY(gr_config_known(a, json, known, err));
    s->init = true;
    GR_TRY(gr_config_common(a, json, &s->common, err));
    GR_TRY(gr_config_bool(a, json, "init_ia3_weights", &s->init, err));
    GR_TRY(gr_config_bool(a, json, "fan_in_fan_out", &s->fan_in_fan_out, err));
    GR_TRY(gr_config_targets(a, json, "target_modules", true, &s->chosen.targets, err));
    GR_TRY(gr_config_targets(a, json, "exclude_modules", true, &s->chosen.exclude, err));
    GR_TRY(gr_config_targets(a, json, "feedforward_modules", true, &s->feedforward, err));
    GR_TRY(gr_config_targets(a, json, "modules_to_save", false, &s->chosen.modules_to_save, err));
    if (s->chosen.targets.given && s->feedforward.given) GR_TRY(check_subset(a, s, err));
    GR_TRY(default_targets(a, false, &s->chosen.targets, err));
    return default_targets(a, true, &s->feedforward, err);
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const struct ia3 *s = a->state;
    gr_config_add_auto_mapping(b, &s->common);
    gr_config_add_text(b, "base_model_name_or_path", s->common.base_model);
    gr_config_add_targets(b, "exclude_modules", &s->chosen.exclude);
    gr_config_add_bool(b, "fan_in_fan_out", s->fan_in_fan_out);
    gr_config_add_targets(b, "feedforward_modules", &s->feedforward);
    gr_config_add_bool(b, "inference_mode", true);
    gr_config_add_bool(b, "init_ia3_weights", s->init);
    gr_config_add_targets(b, "modules_to_save", &s->chosen.modules_to_save);
    gr_config_add_text(b, "peft_type", "IA3");
    gr_config_add_text(b, "peft_version", GR_PEFT_VERSION);
    gr_config_add_text(b, "revision", s->common.revision);
    gr_config_add_targets(b, "target_modules", &s->chosen.targets);
    gr_config_add_text(b, "task_type", s->common.task_type);
    gr_config_close(b);
}

/* --- Vectors -------------------------------------------------------------------------------------------------------------- */

/* The reference compares ends without regard to dots here. */
static graft_status is_feedforward(gr_adapter *a, const gr_targets *t, const char *module, bool *out, graft_error *err) {
    if (t->regex) return gr_targets_match(a, t, module, out, err);
    size_t n = strlen(module);
    *out = false;
    for (size_t i = 0; i < t->n && !*out; i++) {
        size_t m = strlen(t->names[i]);
        *out = m <= n && memcmp(module + n - m, t->names[i], m) == 0;
    }
    return GRAFT_OK;
}

static graft_status add_vector(gr_adapter *a, const gr_site *site, bool fresh, uint64_t seed, graft_error *err) {
    struct ia3 *s = a->state;
    ia3_vector *v = &s->vectors[s->n_vectors];
    if (site->role == GR_ROLE_EMBED || site->role == GR_ROLE_HEAD)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: target module '%s' is the %s, which IA3 cannot scale", a->where,
                       site->name, site->role == GR_ROLE_HEAD ? "head" : "embedding");
    v->site = site;
    GR_TRY(is_feedforward(a, &s->feedforward, site->name, &v->input, err));
    if (v->input && site->role != GR_ROLE_DOWN && site->role != GR_ROLE_O)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "%s: feedforward_modules: '%s' shares its input with other modules, so that it cannot be scaled alone",
                       a->where, site->name);
    const char *name = gr_adapter_text(a, err, "base_model.model.%s.ia3_l", site->name);
    if (!name) return GRAFT_ERR_MEMORY;
    gr_shape shape = v->input ? gr_shape2(1, site->in) : gr_shape2(site->out, 1);
    GR_TRY(gr_adapter_new_param(a, name, &shape, true, &v->l, err));
    if (fresh && s->init) gr_adapter_set_all(v->l, 1);
    if (fresh && !s->init) gr_adapter_fill(v->l, seed, true, 1);
    if (a->scale != 1 && !(v->scaled = gr_arena_alloc(&a->arena, gr_dtype_bytes(v->l->dtype, (size_t)v->l->n))))
        return gr_fail_memory(err);
    s->vector_of_site[site->index] = (int)s->n_vectors++;
    return gr_adapter_add(a, name, v->l, gr_adapter_depth(a->model, site), err);
}

static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    struct ia3 *s = a->state;
    const gr_site **sites;
    const char **tensors, **stored;
    size_t n, n_extra;
    GR_TRY(read_config(a, config, fresh, err));
    GR_TRY(gr_lora_find_targets(a, &s->chosen, fresh, &sites, &n, err));
    s->vectors = gr_arena_alloc(&a->arena, n * sizeof *s->vectors);
    s->vector_of_site = gr_arena_alloc(&a->arena, gr_model_n_sites(a->model) * sizeof *s->vector_of_site);
    if (!s->vectors || !s->vector_of_site) return gr_fail_memory(err);
    for (size_t i = 0; i < gr_model_n_sites(a->model); i++) s->vector_of_site[i] = -1;
    for (size_t i = 0; i < n; i++) {
        GR_TRY(add_vector(a, sites[i], fresh, seed, err));
        if (fresh) s->fan_in_fan_out |= sites[i]->transposed;
    }
    GR_TRY(gr_lora_find_extra(a, &s->chosen, sites, n, &tensors, &stored, &n_extra, err));
    return n_extra ? gr_adapter_add_variant(a, tensors, stored, n_extra, true, err) : GRAFT_OK;
}

static graft_status refresh(gr_adapter *a, uint64_t key, bool training, graft_error *err) {
    struct ia3 *s = a->state;
    (void)key, (void)training, (void)err;
    for (size_t i = 0; i < s->n_vectors; i++) {
        ia3_vector *v = &s->vectors[i];
        if (!v->scaled) continue;
        for (int64_t k = 0; k < v->l->n; k++)
            if (v->l->dtype == GR_F64)
                ((double *)v->scaled)[k] = 1 + a->scale * (((const double *)v->l->value)[k] - 1);
            else
                ((float *)v->scaled)[k] = (float)(1 + a->scale * (((const float *)v->l->value)[k] - 1.0));
    }
    return GRAFT_OK;
}

static graft_status rescale(gr_adapter *a, graft_error *err) {
    struct ia3 *s = a->state;
    for (size_t i = 0; i < s->n_vectors; i++) {
        ia3_vector *v = &s->vectors[i];
        if (!v->scaled && !(v->scaled = gr_arena_alloc(&a->arena, gr_dtype_bytes(v->l->dtype, (size_t)v->l->n)))) return gr_fail_memory(err);
    }
    return refresh(a, 0, false, err);
}

static const ia3_vector *vector_of(const gr_adapter *a, const gr_site *site) {
    const struct ia3 *s = a->state;
    int at = s->vector_of_site[site->index];
    return at < 0 ? NULL : &s->vectors[at];
}

static graft_status scale(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_linear *l, bool input, gr_var **y,
                          graft_error *err) {
    for (int i = 0; i < l->n_parts; i++) {
        const ia3_vector *v = vector_of(a, l->site[i]);
        if (!v || v->input != input) continue;
        gr_scale_columns_params params = {.column = input ? 0 : l->offset[i], .n_ranges = rows->n_ranges,
                                          .ranges = rows->ranges};
        gr_array flat = {v->l->dtype, gr_shape1(v->l->n), v->scaled ? v->scaled : v->l->value};
        gr_var *in[2] = {*y, NULL};
        GR_TRY(gr_tape_leaf(run->tape, &flat, v->scaled ? NULL : v->l->grad, &in[1], err));
        GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_scale_columns, in, 2, &params, y, err));
        gr_var_drop(in[1]);
    }
    return GRAFT_OK;
}

/* --- Merging ------------------------------------------------------------------------------------------------------------- */

static graft_status factors(const gr_adapter *a, const gr_site *site, const ia3_vector **v, const float **l, graft_error *err) {
    *v = vector_of(a, site);
    if (*v && (*v)->l->dtype != GR_F32) return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "merging is done in F32 or BF16 models");
    *l = *v ? (*v)->scaled ? (*v)->scaled : (*v)->l->value : NULL;
    return GRAFT_OK;
}

static graft_status merge(const gr_adapter *a, const gr_site *site, int64_t row, int64_t n, float *w, graft_error *err) {
    const ia3_vector *v;
    const float *l;
    GR_TRY(factors(a, site, &v, &l, err));
    for (int64_t r = 0; v && r < n; r++)
        for (int64_t c = 0; c < site->in; c++) w[r * site->in + c] *= l[v->input ? c : row + r];
    return GRAFT_OK;
}

static graft_status merge_bias(const gr_adapter *a, const gr_site *site, int64_t row, int64_t n, float *b, graft_error *err) {
    const ia3_vector *v;
    const float *l;
    GR_TRY(factors(a, site, &v, &l, err));
    for (int64_t i = 0; v && !v->input && i < n; i++) b[i] *= l[row + i];
    return GRAFT_OK;
}

static void facts(const gr_adapter *a, gr_buf *b) {
    const struct ia3 *s = a->state;
    gr_buf_add_format(b, "\"modules\": %zu, ", s->n_vectors);
}

const gr_adapter_method gr_adapter_ia3 = {.name = "ia3", .peft_type = "IA3", .state_size = sizeof(struct ia3),
                                          .create = create, .write_config = write_config, .merge = merge,
                                          .merge_bias = merge_bias, .facts = facts, .scale = scale, .refresh = refresh,
                                          .rescale = rescale};
