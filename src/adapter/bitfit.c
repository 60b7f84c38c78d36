/* BitFit (Ben Zaken et al. 2022): the model's biases are trained, all or those of some modules, as copies beside the model. The
 * reference library has no such method: the files have its form and a peft_type of their own. */
#include "adapter/lora.h"

struct bitfit {
    gr_common_config common;
    gr_targets targets, exclude, modules_to_save;
    size_t n_biases;
};

static const char *const known[] = {"base_model_name_or_path", "exclude_modules", "inference_mode", "modules_to_save", "peft_type",
                                    "revision", "target_modules", "task_type", NULL};

static graft_status read_config(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err) {
    struct bitfit *s = a->state;
    if (fresh) GR_TRY(gr_config_known(a, json, known, err));
    if (a->scale != 1)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: biases have no delta that could be scaled by %g", a->where, a->scale);
    GR_TRY(gr_config_common(a, json, &s->common, err));
    GR_TRY(gr_config_targets(a, json, "target_modules", true, &s->targets, err));
    GR_TRY(gr_config_targets(a, json, "modules_to_save", false, &s->modules_to_save, err));
    return gr_config_targets(a, json, "exclude_modules", true, &s->exclude, err);
}

static graft_status is_chosen(gr_adapter *a, const gr_site *site, bool *out, graft_error *err) {
    const struct bitfit *s = a->state;
    bool excluded = false, chosen = !s->targets.given;
    if (s->exclude.given) GR_TRY(gr_targets_match(a, &s->exclude, site->name, &excluded, err));
    if (!excluded && s->targets.given) GR_TRY(gr_targets_match(a, &s->targets, site->name, &chosen, err));
    *out = chosen && !excluded;
    return GRAFT_OK;
}

/* Behind the biases the tensors of the modules that are trained whole (a classifier), as far as they are not among them. */
static graft_status add_whole(gr_adapter *a, const char **tensors, const char **stored, size_t *n, graft_error *err) {
    const struct bitfit *s = a->state;
    const gr_lora_config c = {.modules_to_save = s->modules_to_save};
    const char **whole, **whole_stored;
    size_t n_whole;
    if (!c.modules_to_save.n) return GRAFT_OK;
    GR_TRY(gr_lora_find_extra(a, &c, NULL, 0, &whole, &whole_stored, &n_whole, err));
    for (size_t i = 0; i < n_whole; i++) {
        bool found = false;
        for (size_t k = 0; k < s->n_biases && !found; k++) found = strcmp(tensors[k], whole[i]) == 0;
        if (found) continue;
        tensors[*n] = whole[i];
        stored[(*n)++] = whole_stored[i];
    }
    return GRAFT_OK;
}

static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    struct bitfit *s = a->state;
    size_t total = gr_model_n_sites(a->model), any = 0;
    (void)seed;
    GR_TRY(read_config(a, config, fresh, err));
    const char **tensors = gr_arena_alloc(&a->arena, (3 * total + 1) * sizeof *tensors);
    const char **stored = gr_arena_alloc(&a->arena, (3 * total + 1) * sizeof *stored);
    if (!tensors || !stored) return gr_fail_memory(err);
    for (size_t i = 0; i < total; i++) {
        const gr_site *site = gr_model_site(a->model, i);
        bool chosen = false;
        any += site->bias && site->layer >= 0; /* a classifier's own are no reason */
        if (site->bias) GR_TRY(is_chosen(a, site, &chosen, err));
        if (!chosen) continue;
        tensors[s->n_biases] = site->bias_tensor; /* of a masked head not the module's name and .bias */
        stored[s->n_biases] = gr_adapter_text(a, err, "base_model.model.%s", site->bias_tensor);
        if (!stored[s->n_biases]) return GRAFT_ERR_MEMORY;
        s->n_biases++;
    }
    if (!any)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: the model has no biases in its layers, which are what BitFit trains",
                       a->where);
    if (!s->n_biases)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: target_modules and exclude_modules leave no module with a bias", a->where);
    size_t n = s->n_biases;
    GR_TRY(add_whole(a, tensors, stored, &n, err));
    return gr_adapter_add_variant(a, tensors, stored, n, n > s->n_biases, err);
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const struct bitfit *s = a->state;
    gr_config_add_text(b, "base_model_name_or_path", s->common.base_model);
    gr_config_add_targets(b, "exclude_modules", &s->exclude);
    gr_config_add_bool(b, "inference_mode", true);
    gr_config_add_targets(b, "modules_to_save", &s->modules_to_save);
    gr_config_add_text(b, "peft_type", "BITFIT");
    gr_config_add_text(b, "revision", s->common.revision);
    gr_config_add_targets(b, "target_modules", &s->targets);
    gr_config_add_text(b, "task_type", s->common.task_type);
    gr_config_close(b);
}

static void facts(const gr_adapter *a, gr_buf *b) {
    const struct bitfit *s = a->state;
    gr_buf_add_format(b, "\"biases\": %zu, ", s->n_biases);
}

const gr_adapter_method gr_adapter_bitfit = {.name = "bitfit", .peft_type = "BITFIT", .ours = true,
                                             .state_size = sizeof(struct bitfit), .create = create,
                                             .write_config = write_config, .facts = facts};
