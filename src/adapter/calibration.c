#include "adapter/calibration.h"

#include "adapter/method.h"

void graft_calibration_free(graft_calibration *c) {
    if (!c) return;
    gr_arena_free(&c->arena);
    gr_free(c->a, c->modules);
    gr_free(c->a, c->ranges);
    gr_free(c->a, c);
}

size_t graft_calibration_n_examples(const graft_calibration *c) {
    return c->n_examples;
}
uint64_t graft_calibration_n_tokens(const graft_calibration *c) {
    return c->n_tokens;
}

const gr_input_range *gr_calibration_find(const graft_calibration *c, const char *module) {
    for (size_t i = 0; i < c->n_modules; i++)
        if (strcmp(c->modules[i].module, module) == 0) return &c->ranges[c->modules[i].range];
    return NULL;
}

/* compressed-tensors' rules (match_name): a module's name, or behind "re:" an expression that its name begins with;
 * besides, the last parts of a name. */
static graft_status is_named(const char *entry, const char *module, bool *out, graft_error *err) {
    const size_t n = strlen(module), k = strlen(entry);
    *out = n >= k && strcmp(module + n - k, entry) == 0 && (n == k || module[n - k - 1] == '.');
    if (strncmp(entry, "re:", 3) != 0) return GRAFT_OK;
    gr_pattern *p;
    GR_TRY(gr_pattern_new(NULL, "ignore", "\\A(?:", entry + 3, ")", &p, err));
    graft_status st = gr_pattern_match(p, module, out, NULL, err);
    gr_pattern_free(p);
    return st;
}

static graft_status choose(const void *self, const char *module, int64_t in, bool *takes, float *most,
                           graft_error *err) {
    const graft_w8a8 *how = self;
    bool ignored = false;
    for (size_t i = 0; i < how->n_ignore && !ignored; i++) GR_TRY(is_named(how->ignore[i], module, &ignored, err));
    *takes = !ignored;
    if (ignored || !how->calibration) return GRAFT_OK;
    const gr_input_range *r = gr_calibration_find(how->calibration, module);
    if (!r || !r->rows || r->columns != in)
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "calibration: expected one of this model, found none of its module %s with %lld inputs",
                       module, (long long)in);
    *most = r->most;
    return GRAFT_OK;
}

gr_channel8_plan gr_w8a8_plan(const graft_w8a8 *how) {
    return (gr_channel8_plan){.self = how, .choose = choose, .is_static = how->calibration != NULL};
}

graft_status gr_w8a8_check(const gr_model *m, const graft_w8a8 *how, graft_error *err) {
    for (size_t i = 0; i < how->n_ignore; i++) {
        bool any = false;
        for (size_t s = 0; s < gr_model_n_sites(m) && !any; s++) {
            const gr_site *site = gr_model_site(m, s);
            if (gr_model_linear(m, site)) GR_TRY(is_named(how->ignore[i], site->name, &any, err));
        }
        if (!any)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "ignore: expected the name of a module with weights, found %s",
                           how->ignore[i]);
    }
    return GRAFT_OK;
}
