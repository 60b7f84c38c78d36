/* Full fine-tuning as a pseudo method: every tensor of the model (or those of the modules that target_modules names) is a
 * trainable copy of its own. What is saved is a whole model. */
#include "adapter/method.h"

struct full {
    gr_targets targets;
};

static graft_status choose(gr_adapter *a, const struct full *f, const char **names, size_t *n, graft_error *err) {
    for (size_t i = 0; i < gr_model_n_tensors(a->model); i++) {
        const char *tensor = gr_model_tensor_name(a->model, i), *dot = strrchr(tensor, '.');
        bool wanted = !f->targets.given;
        if (f->targets.given) {
            const char *module = gr_adapter_text(a, err, "%.*s", (int)(dot ? dot - tensor : 0), tensor);
            if (!module) return GRAFT_ERR_MEMORY;
            GR_TRY(gr_targets_match(a, &f->targets, module, &wanted, err));
        }
        if (wanted) names[(*n)++] = tensor;
    }
    if (!*n) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: target_modules names no module of the model", a->where);
    return GRAFT_OK;
}

static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    static const char *const known[] = {"peft_type", "target_modules", NULL};
    struct full *f = a->state;
    size_t n = 0;
    (void)seed;
    if (!fresh)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: a fully trained model is loaded as a model, not as an adapter", a->where);
    GR_TRY(gr_config_known(a, config, known, err));
    GR_TRY(gr_config_targets(a, config, "target_modules", true, &f->targets, err));
    const char **names = gr_arena_alloc(&a->arena, gr_model_n_tensors(a->model) * sizeof *names);
    if (!names) return gr_fail_memory(err);
    GR_TRY(choose(a, f, names, &n, err));
    return gr_adapter_add_variant(a, names, names, n, false, err);
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const struct full *f = a->state;
    gr_buf_add_text(b, "{\n  \"peft_type\": \"FULL\",\n  \"target_modules\": ");
    gr_config_write_targets(b, &f->targets);
    gr_buf_add_text(b, "\n}");
}

const gr_adapter_method gr_adapter_full = {
    .name = "full", .peft_type = "FULL", .state_size = sizeof(struct full), .create = create, .write_config = write_config};
