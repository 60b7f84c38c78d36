/* Modules that a method takes where the configuration names none: by model type, as the reference's tables have them. */
#include "adapter/method.h"

const gr_method_defaults *gr_method_defaults_of(const gr_model *m) {
    static const struct {
        gr_model_type type;
        gr_method_defaults d;
    } table[] = {
#define X(type, lora, adalora, ia3, feedforward, norms) {type, {lora, adalora, ia3, feedforward, norms}},
#include "adapter/defaults.def"
#undef X
    };
    for (size_t i = 0; i < GR_COUNT(table); i++)
        if (table[i].type == gr_model_get_config(m)->type) return &table[i].d;
    return NULL;
}

graft_status gr_default_targets(gr_adapter *a, const char *names, gr_targets *out, graft_error *err) {
    gr_targets t = {.given = true, .names = gr_arena_alloc(&a->arena, (strlen(names) / 2 + 1) * sizeof *t.names)};
    if (!t.names) return gr_fail_memory(err);
    for (size_t len; *names; names += len + (names[len] == ' ')) {
        len = strcspn(names, " ");
        if (!(t.names[t.n++] = gr_arena_strndup(&a->arena, names, len))) return gr_fail_memory(err);
    }
    *out = t;
    return GRAFT_OK;
}
