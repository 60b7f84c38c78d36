/* LayerNorm tuning (Zhao et al. 2023): the norms' own weights (and biases) are trained, as copies beside the model. Reference:
 * peft 0.21 tuners/ln_tuning. Any module with weights may be named. */
#include "adapter/lora.h"

struct ln_tuning {
    gr_common_config common;
    gr_lora_config chosen; /* targets, exclude, modules_to_save */
    size_t n_modules;
};

static const char *const known[] = {"auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode",
                                    "modules_to_save", "peft_type", "peft_version", "revision", "target_modules", "task_type",
                                    NULL};

static graft_status read_config(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err) {
    struct ln_tuning *s = a->state;
    const gr_method_defaults *d = gr_method_defaults_of(a->model);
    if (fresh) GR_TRY(gr_config_known(a, json, known, err));
    if (a->scale != 1)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: norms have no delta that could be scaled by %g", a->where, a->scale);
    GR_TRY(gr_config_common(a, json, &s->common, err));
    GR_TRY(gr_config_targets(a, json, "target_modules", true, &s->chosen.targets, err));
    GR_TRY(gr_config_targets(a, json, "exclude_modules", true, &s->chosen.exclude, err));
    GR_TRY(gr_config_targets(a, json, "modules_to_save", false, &s->chosen.modules_to_save, err));
    if (s->chosen.targets.given) return GRAFT_OK;
    if (!d || !d->norms)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: target_modules has no default for this kind of model: name the modules",
                       a->where);
    return gr_default_targets(a, d->norms, &s->chosen.targets, err);
}

/* Weight and bias of the chosen modules, behind what is there already. */
static graft_status find_tensors(gr_adapter *a, const char **tensors, const char **stored, size_t *n, graft_error *err) {
    struct ln_tuning *s = a->state;
    const char **modules;
    size_t n_modules;
    GR_TRY(gr_module_names(a, &modules, &n_modules, err));
    for (size_t i = 0; i < n_modules; i++) {
        bool excluded = false, chosen = false;
        if (s->chosen.exclude.given) GR_TRY(gr_targets_match(a, &s->chosen.exclude, modules[i], &excluded, err));
        if (!excluded) GR_TRY(gr_targets_match(a, &s->chosen.targets, modules[i], &chosen, err));
        if (!chosen) continue;
        const gr_site *site = gr_model_find_site(a->model, modules[i]);
        if (!site)
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: target module '%s' has no weight of its own", a->where, modules[i]);
        s->n_modules++;
        for (int bias = 0; bias <= site->bias; bias++) {
            const char *part = bias ? "bias" : "weight";
            if (!(tensors[*n] = gr_adapter_text(a, err, "%s.%s", site->name, part)) ||
                !(stored[*n] = gr_adapter_text(a, err, "base_model.model.%s.ln_tuning_layers.%s", site->name, part)))
                return GRAFT_ERR_MEMORY;
            (*n)++;
        }
    }
    if (!s->n_modules) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: target_modules names no module of the model", a->where);
    return GRAFT_OK;
}

static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    struct ln_tuning *s = a->state;
    const char **extra, **extra_stored;
    size_t n = 0, n_extra, most = 2 * gr_model_n_sites(a->model) + 1;
    (void)seed;
    GR_TRY(read_config(a, config, fresh, err));
    GR_TRY(gr_lora_find_extra(a, &s->chosen, NULL, 0, &extra, &extra_stored, &n_extra, err));
    const char **tensors = gr_arena_alloc(&a->arena, (most + n_extra) * sizeof *tensors);
    const char **stored = gr_arena_alloc(&a->arena, (most + n_extra) * sizeof *stored);
    if (!tensors || !stored) return gr_fail_memory(err);
    GR_TRY(find_tensors(a, tensors, stored, &n, err));
    for (size_t i = 0; i < n_extra; i++, n++) {
        tensors[n] = extra[i];
        stored[n] = extra_stored[i];
    }
    return gr_adapter_add_variant(a, tensors, stored, n, true, err);
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const struct ln_tuning *s = a->state;
    gr_config_add_auto_mapping(b, &s->common);
    gr_config_add_text(b, "base_model_name_or_path", s->common.base_model);
    gr_config_add_targets(b, "exclude_modules", &s->chosen.exclude);
    gr_config_add_bool(b, "inference_mode", true);
    gr_config_add_targets(b, "modules_to_save", &s->chosen.modules_to_save);
    gr_config_add_text(b, "peft_type", "LN_TUNING");
    gr_config_add_text(b, "peft_version", GR_PEFT_VERSION);
    gr_config_add_text(b, "revision", s->common.revision);
    gr_config_add_targets(b, "target_modules", &s->chosen.targets);
    gr_config_add_text(b, "task_type", s->common.task_type);
    gr_config_close(b);
}

static void facts(const gr_adapter *a, gr_buf *b) {
    const struct ln_tuning *s = a->state;
    gr_buf_add_format(b, "\"modules\": %zu, ", s->n_modules);
}

const gr_adapter_method gr_adapter_ln_tuning = {.name = "ln-tuning", .peft_type = "LN_TUNING",
                                                .state_size = sizeof(struct ln_tuning), .create = create,
                                                .write_config = write_config, .facts = facts};
