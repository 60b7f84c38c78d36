/* Which modules LoRA adapts and which tensors come along whole. Reference: peft 0.21 tuners_utils
 * (check_target_module_exists, _maybe_include_all_linear_layers), utils/other (get_pattern_key, _set_trainable). */
#include <strings.h>

#include "adapter/lora.h"

static bool ends_with(const char *text, const char *tail) {
    size_t n = strlen(text), m = strlen(tail);
    return n >= m && memcmp(text + n - m, tail, m) == 0;
}

static bool is_linear(const gr_site *s) {
    return s->role != GR_ROLE_NORM && !gr_site_is_table(s);
}

/* "all-linear" becomes the last names of all products but the head, sorted, which mean the same modules. Without
 * target_modules peft's choice for the kind of model. */
static graft_status expand(gr_adapter *a, gr_lora_config *c, graft_error *err) {
    const gr_method_defaults *d = gr_method_defaults_of(a->model);
    size_t n_sites = gr_model_n_sites(a->model);
    bool all = c->targets.regex && strcasecmp(c->targets.regex, "all-linear") == 0;
    if (c->targets.given && !all) return GRAFT_OK;
    const char *usual = !d ? NULL : a->method == &gr_adapter_adalora ? d->adalora : d->lora;
    if (!all && !usual)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: target_modules has no default for this kind of model: name the modules",
                       a->where);
    if (!all) return gr_default_targets(a, usual, &c->targets, err);
    gr_targets t = {.given = true, .names = gr_arena_alloc(&a->arena, (n_sites + 2) * sizeof *t.names)};
    if (!t.names) return gr_fail_memory(err);
    for (size_t i = 0; i < n_sites; i++) {
        const gr_site *s = gr_model_site(a->model, i);
        const char *dot = strrchr(s->name, '.'), *name = dot ? dot + 1 : s->name;
        if (!is_linear(s) || s->role == GR_ROLE_HEAD) continue;
        size_t at = 0;
        while (at < t.n && strcmp(t.names[at], name) < 0) at++;
        if (at < t.n && strcmp(t.names[at], name) == 0) continue;
        memmove(&t.names[at + 1], &t.names[at], (t.n - at) * sizeof *t.names);
        t.names[at] = name;
        t.n++;
    }
    c->targets = t;
    return GRAFT_OK;
}

/* Layer filter: the number after the first container, or after one that layers_pattern names. */
static graft_status in_layers(gr_adapter *a, const gr_lora_config *c, const char *module, bool *in, graft_error *err) {
    int64_t layer = -1;
    bool found = false;
    size_t n = c->layers_pattern.n ? c->layers_pattern.n : 1;
    for (size_t i = 0; i < n && !found; i++) {
        gr_pattern *p;
        if (c->layers_pattern.n)
            GR_TRY(gr_pattern_new(a->a, a->where, "\\A(?:|.*?\\.)(?:", c->layers_pattern.names[i], ")\\.(?<idx>\\d+)\\.", &p,
                                  err));
        else
            GR_TRY(gr_pattern_new(a->a, a->where, "\\A.*?\\.", "[^.]*", "\\.(?<idx>\\d+)\\.", &p, err));
        graft_status st = gr_pattern_match(p, module, &found, &layer, err);
        gr_pattern_free(p);
        if (st != GRAFT_OK) return st;
    }
    *in = false;
    for (size_t i = 0; found && i < c->n_layers; i++) *in |= c->layers[i] == layer;
    return GRAFT_OK;
}

/* modules_to_save go before LoRA: re.match of "(^|.*\.)NAME($|\..*)". */
static graft_status is_saved_whole(gr_adapter *a, const gr_lora_config *c, const char *module, bool *out, graft_error *err) {
    bool found = false;
    for (size_t i = 0; i < c->modules_to_save.n && !found; i++) {
        gr_pattern *p;
        GR_TRY(gr_pattern_new(a->a, a->where, "\\A(?:|.*\\.)(?:", c->modules_to_save.names[i], ")(?:\\z|\\..*)", &p,
                              err));
        graft_status st = gr_pattern_match(p, module, &found, NULL, err);
        gr_pattern_free(p);
        if (st != GRAFT_OK) return st;
    }
    *out = found;
    return GRAFT_OK;
}

typedef struct selection {
    size_t excluded, other;
} selection;

static graft_status is_target(gr_adapter *a, const gr_lora_config *c, const char *module, selection *sel, bool *out,
                              graft_error *err) {
    bool excluded = false, found = false;
    if (c->exclude.given) GR_TRY(gr_targets_match(a, &c->exclude, module, &excluded, err));
    if (!excluded) GR_TRY(is_saved_whole(a, c, module, &excluded, err));
    if (!excluded) GR_TRY(gr_targets_match(a, &c->targets, module, &found, err));
    bool listed = false; /* a module named in full is taken whatever its layer is */
    for (size_t i = 0; i < c->targets.n && !listed; i++) listed = strcmp(c->targets.names[i], module) == 0;
    if (found && !listed && c->n_layers) GR_TRY(in_layers(a, c, module, &found, err));
    sel->excluded += excluded;
    sel->other += !excluded && !found;
    *out = found;
    return GRAFT_OK;
}

static graft_status fail_no_target(gr_adapter *a, const gr_lora_config *c, const selection *sel, graft_error *err) {
    gr_buf b;
    gr_buf_init(&b, a->a);
    if (sel->excluded && !sel->other)
        gr_buf_add_text(&b, "all modules were excluded: check target_modules, exclude_modules and modules_to_save");
    else if (!sel->excluded) {
        gr_buf_add_text(&b, "target_modules ");
        for (size_t i = 0; i < c->targets.n; i++) gr_buf_add_format(&b, "%s%s", i ? ", " : "", c->targets.names[i]);
        gr_buf_add_format(&b, "%s: not found in the base model", c->targets.regex ? c->targets.regex : "");
    } else
        gr_buf_add_text(&b, "no module is left to adapt: some did not match target_modules, the others were excluded");
    if (c->layers_given) gr_buf_add_text(&b, " (layers_to_transform was given)");
    if (c->layers_pattern.n) gr_buf_add_text(&b, " (layers_pattern was given)");
    graft_status st = gr_buf_status(&b, err);
    if (st == GRAFT_OK) st = gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: %s", a->where, gr_buf_text(&b));
    gr_buf_free(&b);
    return st;
}

static void warn_unused(const gr_adapter *a, const char *key, const gr_lora_patterns *p) {
    for (size_t i = 0; i < p->n; i++)
        if (!p->items[i].used)
            gr_log(gr_model_context(a->model), GRAFT_LOG_WARNING, "%s: %s: '%s' matches no adapted module and is ignored",
                   a->where, key, p->items[i].key);
}

/* Marks the patterns that match at least one chosen module, whether or not they decide its value. */
static graft_status check_patterns(gr_adapter *a, const char *key, gr_lora_patterns *p, const gr_site *const *sites,
                                   size_t n, graft_error *err) {
    for (size_t i = 0; i < p->n; i++)
        for (size_t k = 0; k < n && !p->items[i].used; k++)
            GR_TRY(gr_pattern_match(p->items[i].pattern, sites[k]->name, &p->items[i].used, NULL, err));
    warn_unused(a, key, p);
    return GRAFT_OK;
}

/* The reference wraps the module of that name; encoder and decoder go on with tables of their own, so that what it
 * trains reaches nothing. */
static graft_status refuse_shared(gr_adapter *a, const gr_site *s, graft_error *err) {
    if (!gr_model_get_config(a->model)->n_encoder_layers) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                   "%s: '%s' is the table that encoder and decoder share: it can be trained with method full only",
                   a->where, s->name);
}

graft_status gr_lora_find_targets(gr_adapter *a, gr_lora_config *c, bool fresh, const gr_site ***out, size_t *n,
                                  graft_error *err) {
    const char **modules;
    size_t n_modules, found = 0;
    selection sel = {0, 0};
    (void)fresh;
    GR_TRY(expand(a, c, err));
    GR_TRY(gr_module_names(a, &modules, &n_modules, err));
    const gr_site **sites = gr_arena_alloc(&a->arena, gr_model_n_sites(a->model) * sizeof *sites);
    if (!sites) return gr_fail_memory(err);
    for (size_t i = 0; i < n_modules; i++) {
        bool target;
        GR_TRY(is_target(a, c, modules[i], &sel, &target, err));
        if (!target) continue;
        const gr_site *s = gr_model_find_site(a->model, modules[i]);
        if (!s || (!is_linear(s) && s->role != GR_ROLE_EMBED))
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                           "%s: target module '%s' is neither a linear layer nor the embedding of tokens, which is what %s can adapt",
                           a->where, modules[i], a->method->peft_type);
        if (s->role == GR_ROLE_EMBED) GR_TRY(refuse_shared(a, s, err));
        if (c->ensure_weight_tying && gr_model_head_is_tied(a->model) && !(is_linear(s) && s->role != GR_ROLE_HEAD))
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: ensure_weight_tying is not supported where LoRA adapts '%s'",
                           a->where, modules[i]);
        sites[found++] = s;
    }
    if (!found) return fail_no_target(a, c, &sel, err);
    if (c->exclude.given && (c->exclude.n || c->exclude.regex) && !sel.excluded)
        gr_log(gr_model_context(a->model), GRAFT_LOG_WARNING, "%s: exclude_modules excludes nothing", a->where);
    GR_TRY(check_patterns(a, "rank_pattern", &c->rank, sites, found, err));
    GR_TRY(check_patterns(a, "alpha_pattern", &c->alpha_of, sites, found, err));
    *out = sites;
    *n = found;
    return GRAFT_OK;
}

graft_status gr_lora_pattern_value(gr_lora_patterns *p, const char *module, double otherwise, double *out,
                                   graft_error *err) {
    double value = otherwise;
    bool found = false;
    for (size_t i = 0; i < p->n && !found; i++) {
        GR_TRY(gr_pattern_match(p->items[i].pattern, module, &found, NULL, err));
        if (found) value = p->items[i].value;
    }
    *out = value;
    return GRAFT_OK;
}

/* A module or a container of it ends with one of the names (without regard to dots, as the reference has it). */
static bool saved_whole(const gr_targets *t, const char *module, bool *used) {
    char prefix[300];
    for (size_t k = 1; k <= strlen(module) && k < sizeof prefix; k++) {
        if (module[k] && module[k] != '.') continue;
        memcpy(prefix, module, k);
        prefix[k] = '\0';
        for (size_t i = 0; i < t->n; i++)
            if (ends_with(prefix, t->names[i])) return used[i] = true;
    }
    return false;
}

static graft_status stored_name(gr_adapter *a, const gr_lora_config *c, const gr_site *s, const char *tensor, bool bias,
                                bool targeted, bool whole, const char **out, graft_error *err) {
    *out = NULL;
    if (whole) {
        /* A tied head follows the embedding's copy, which is then stored twice. */
        if (s->role == GR_ROLE_HEAD && c->ensure_weight_tying && gr_model_head_is_tied(a->model)) return GRAFT_OK;
        *out = gr_adapter_text(a, err, "base_model.model.%s", tensor);
    } else if (bias && (c->bias == GR_LORA_BIAS_ALL || (c->bias == GR_LORA_BIAS_OWN && targeted)))
        *out = targeted ? gr_adapter_text(a, err, "base_model.model.%s.base_layer.bias", s->name)
                        : gr_adapter_text(a, err, "base_model.model.%s", tensor);
    else
        return GRAFT_OK;
    return *out ? GRAFT_OK : GRAFT_ERR_MEMORY;
}

/* peft names the first two, whichever the model has; the third is t5's, which has to be given to it. */
static bool is_usual_head(const gr_model *m, const char *name) {
    bool usual = strcmp(name, "classifier") == 0 || strcmp(name, "score") == 0 ||
                 strcmp(name, "classification_head") == 0;
    return usual && gr_model_get_config(m)->task == GR_TASK_SEQ_CLS;
}

static bool among(const gr_site *const *sites, size_t n, const gr_site *s) {
    for (size_t i = 0; i < n; i++)
        if (sites[i] == s) return true;
    return false;
}

graft_status gr_lora_find_extra(gr_adapter *a, const gr_lora_config *c, const gr_site *const *sites, size_t n_sites,
                                const char ***tensors, const char ***stored, size_t *n, graft_error *err) {
    size_t total = gr_model_n_sites(a->model), found = 0;
    bool tie = c->ensure_weight_tying && gr_model_head_is_tied(a->model), head_named = false, embedding_named = false;
    bool *used = gr_arena_alloc(&a->arena, (c->modules_to_save.n + 1) * sizeof *used);
    *tensors = gr_arena_alloc(&a->arena, (2 * total + 1) * sizeof **tensors);
    *stored = gr_arena_alloc(&a->arena, (2 * total + 1) * sizeof **stored);
    if (!used || !*tensors || !*stored) return gr_fail_memory(err);
    for (size_t i = 0; i < total; i++) {
        const gr_site *s = gr_model_site(a->model, i);
        bool whole = saved_whole(&c->modules_to_save, s->name, used);
        head_named |= whole && s->role == GR_ROLE_HEAD;
        embedding_named |= whole && s->role == GR_ROLE_EMBED;
        if (whole && s->role == GR_ROLE_EMBED) GR_TRY(refuse_shared(a, s, err));
        for (int bias = 0; bias <= s->bias; bias++) {
            const char *tensor = bias ? s->bias_tensor : s->weight_tensor, *name;
            GR_TRY(stored_name(a, c, s, tensor, bias, among(sites, n_sites, s), whole, &name, err));
            if (!name) continue;
            (*tensors)[found] = tensor;
            (*stored)[found++] = name;
        }
    }
    if (tie && head_named && !embedding_named) { /* naming either of a tied pair means both */
        const gr_site *e = gr_model_embedding_site(a->model);
        (*tensors)[found] = gr_adapter_text(a, err, "%s.weight", e->name);
        (*stored)[found] = gr_adapter_text(a, err, "base_model.model.%s.weight", e->name);
        if (!(*tensors)[found] || !(*stored)[found]) return GRAFT_ERR_MEMORY;
        found++;
    }
    for (size_t i = 0; i < c->modules_to_save.n; i++)
        if (!used[i] && !is_usual_head(a->model, c->modules_to_save.names[i]))
            gr_log(gr_model_context(a->model), GRAFT_LOG_WARNING, "%s: modules_to_save: '%s' matches no module", a->where,
                   c->modules_to_save.names[i]);
    *n = found;
    return GRAFT_OK;
}
