/* LoRA's adapter_config.json, read and written as peft 0.21 has it (LoraConfig and its checks). */
#include <math.h>
#include <stdlib.h>

#include "adapter/lora.h"

enum { MAX_ROUNDS = 1000 };

/* Every key that peft 0.21 writes. */
static const char *const known[] = {
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias",
    "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "kasa_config", "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "modules_to_save",
    "monteclora_config", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
    "target_modules", "target_parameters", "task_type", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora",
    "use_rslora", "velora_config", NULL};

/* AdaLoRA's beside them. */
static const char *const known_of_ranks[] = {"beta1", "beta2", "deltaT", "init_r", "orth_reg_weight", "target_r", "tfinal", "tinit",
                                             "total_step", NULL};

/* Variants that change what is computed and that are not implemented: refused rather than ignored. */
static const char *const refused[] = {"alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication",
                                      "lora_bias", "monteclora_config", "target_parameters", "trainable_token_indices",
                                      "use_bdlora", "use_qalora", "velora_config", NULL};

static graft_status read_loftq(gr_adapter *a, const gr_json_value *json, gr_lora_config *c, graft_error *err) {
    const gr_json_value *v = gr_json_get(json, "loftq_config");
    if (!v || v->kind == GR_JSON_NULL) return GRAFT_OK;
    if (v->kind != GR_JSON_OBJECT) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: expected 'loftq_config' to be an object", a->where);
    GR_TRY(gr_config_int(a, v, "loftq_bits", 4, 8, &c->loftq_bits, err));
    GR_TRY(gr_config_int(a, v, "loftq_iter", 1, 1 << 20, &c->loftq_iter, err));
    if (c->loftq_iter > 1)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: loftq_iter %lld: only 1 is supported; more change the base too, so that the adapter "
                       "would fit no file", a->where, (long long)c->loftq_iter);
    return GRAFT_OK;
}

static graft_status read_init(gr_adapter *a, const gr_json_value *json, bool fresh, gr_lora_config *c, graft_error *err) {
    const gr_json_value *v = gr_json_get(json, "init_lora_weights");
    if (!v || v->kind == GR_JSON_NULL || v->kind == GR_JSON_TRUE) return GRAFT_OK;
    if (v->kind == GR_JSON_FALSE) {
        c->init = GR_LORA_RANDOM;
        return GRAFT_OK;
    }
    GR_TRY(gr_config_text(a, json, "init_lora_weights", &c->init_text, err));
    if (strcmp(c->init_text, "gaussian") == 0) {
        c->init = GR_LORA_GAUSSIAN;
        return GRAFT_OK;
    }
    static const char pissa[] = "pissa", rounds[] = "pissa_niter_";
    char *end = NULL;
    c->pissa_rounds = -1;
    if (strncmp(c->init_text, rounds, strlen(rounds)) == 0) {
        long n = strtol(c->init_text + strlen(rounds), &end, 10);
        if (end == c->init_text + strlen(rounds) || *end || n < 0 || n > MAX_ROUNDS)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: init_lora_weights '%s', expected pissa_niter_N with N from 0 to %d", a->where,
                           c->init_text, MAX_ROUNDS);
        c->pissa_rounds = n;
    }
    if (end || strcmp(c->init_text, pissa) == 0 || strcmp(c->init_text, "olora") == 0) {
        c->init = *c->init_text == 'o' ? GR_LORA_OLORA : GR_LORA_PISSA;
        return GRAFT_OK;
    }
    if (fresh && strcmp(c->init_text, "loftq") == 0) {
        c->init = GR_LORA_LOFTQ;
        return read_loftq(a, json, c, err);
    }
    /* These only choose where training begins; corda, lora_ga and loftq change the base weights too. */
    bool harmless = strcmp(c->init_text, "eva") == 0 || strcmp(c->init_text, "orthogonal") == 0;
    if (!fresh && harmless) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: init_lora_weights '%s' is not supported, expected true, false, gaussian, pissa, "
                   "pissa_niter_N, olora or (for a new adapter) loftq", a->where, c->init_text);
}

static graft_status read_bias(gr_adapter *a, const gr_json_value *json, gr_lora_config *c, graft_error *err) {
    const char *bias = "none";
    GR_TRY(gr_config_text(a, json, "bias", &bias, err));
    if (strcmp(bias, "all") == 0)
        c->bias = GR_LORA_BIAS_ALL;
    else if (strcmp(bias, "lora_only") == 0)
        c->bias = GR_LORA_BIAS_OWN;
    else if (strcmp(bias, "none") != 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: bias '%s', expected none, all or lora_only", a->where, bias);
    return GRAFT_OK;
}

static graft_status read_patterns(gr_adapter *a, const gr_json_value *json, const char *key, bool rank,
                                  gr_lora_patterns *out, graft_error *err) {
    const gr_json_value *v = gr_json_get(json, key);
    if (!v || v->kind == GR_JSON_NULL) return GRAFT_OK;
    if (v->kind != GR_JSON_OBJECT)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: '%s': expected an object, found %s", a->where, key,
                       gr_json_kind_name(v->kind));
    if (!(out->items = gr_arena_alloc(&a->arena, (v->len + 1) * sizeof *out->items))) return gr_fail_memory(err);
    for (const gr_json_value *i = v->child; i; i = i->next) {
        gr_lora_pattern *p = &out->items[out->n];
        p->key = i->key;
        if (i->kind != GR_JSON_NUMBER || (rank && !i->number.is_int) || !isfinite(i->number.d))
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: '%s': '%s' has %s, expected a number", a->where, key, i->key,
                           gr_json_kind_name(i->kind));
        p->value = i->number.d;
        if (rank && (p->value < 1 || p->value > GR_LORA_MAX_RANK))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: '%s': '%s' is %g, a rank is 1 to %d", a->where, key, i->key,
                           p->value, GR_LORA_MAX_RANK);
        graft_status st = gr_pattern_new(a->a, a->where, "\\A(?:.*\\.)?(?:", i->key, ")\\z", &p->pattern, err);
        if (st != GRAFT_OK) return gr_error_prefix(err, st, "'%s'", key);
        out->n++;
    }
    return GRAFT_OK;
}

static graft_status read_layers(gr_adapter *a, const gr_json_value *json, gr_lora_config *c, graft_error *err) {
    const gr_json_value *v = gr_json_get(json, "layers_to_transform");
    if (!v || v->kind == GR_JSON_NULL) return GRAFT_OK;
    c->layers_single = v->kind == GR_JSON_NUMBER;
    if (!c->layers_single && v->kind != GR_JSON_ARRAY)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: 'layers_to_transform': expected a list of integers, found %s", a->where,
                       gr_json_kind_name(v->kind));
    size_t n = c->layers_single ? 1 : v->len;
    if (!(c->layers = gr_arena_alloc(&a->arena, (n + 1) * sizeof *c->layers))) return gr_fail_memory(err);
    for (const gr_json_value *i = c->layers_single ? v : v->child; i && c->n_layers < n; i = i->next) {
        if (i->kind != GR_JSON_NUMBER || !i->number.is_int)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: 'layers_to_transform': expected integers, found %s", a->where,
                           gr_json_kind_name(i->kind));
        c->layers[c->n_layers++] = i->number.i;
    }
    c->layers_given = true;
    return GRAFT_OK;
}

static graft_status read_layers_pattern(gr_adapter *a, const gr_json_value *json, gr_lora_config *c, graft_error *err) {
    const gr_json_value *v = gr_json_get(json, "layers_pattern");
    if (!v || v->kind != GR_JSON_STRING) return gr_config_targets(a, json, "layers_pattern", false, &c->layers_pattern, err);
    const char *text = NULL;
    GR_TRY(gr_config_text(a, json, "layers_pattern", &text, err));
    if (!(c->layers_pattern.names = gr_arena_alloc(&a->arena, sizeof text))) return gr_fail_memory(err);
    c->layers_pattern.given = c->layers_pattern_text = true;
    if (*text) c->layers_pattern.names[c->layers_pattern.n++] = text;
    return GRAFT_OK;
}

static graft_status check(const gr_adapter *a, const gr_lora_config *c, graft_error *err) {
    if (c->targets.regex && c->layers_given)
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "%s: layers_to_transform cannot be used where target_modules is a regular expression", a->where);
    if (c->targets.regex && c->layers_pattern.given)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: layers_pattern cannot be used where target_modules is a regular expression",
                       a->where);
    if (c->layers_pattern.n && !c->layers_given)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: layers_pattern needs layers_to_transform", a->where);
    return GRAFT_OK;
}

graft_status gr_lora_read_chosen(gr_adapter *a, const gr_json_value *json, gr_lora_config *c, graft_error *err) {
    GR_TRY(gr_config_targets(a, json, "target_modules", true, &c->targets, err));
    GR_TRY(gr_config_targets(a, json, "exclude_modules", true, &c->exclude, err));
    GR_TRY(gr_config_targets(a, json, "modules_to_save", false, &c->modules_to_save, err));
    GR_TRY(read_layers(a, json, c, err));
    GR_TRY(read_layers_pattern(a, json, c, err));
    if (!c->plan) GR_TRY(read_patterns(a, json, "rank_pattern", true, &c->rank, err));
    GR_TRY(read_patterns(a, json, "alpha_pattern", false, &c->alpha_of, err));
    GR_TRY(gr_config_common(a, json, &c->common, err));
    return check(a, c, err);
}

static graft_status check_known(gr_adapter *a, const gr_json_value *json, bool ranks, graft_error *err) {
    enum { MOST = 64 };
    const char *all[MOST];
    size_t n = 0;
    for (size_t i = 0; known[i]; i++) all[n++] = known[i];
    for (size_t i = 0; ranks && known_of_ranks[i]; i++) all[n++] = known_of_ranks[i];
    all[n] = NULL;
    return gr_config_known(a, json, all, err);
}

graft_status gr_lora_read_config(gr_adapter *a, const gr_json_value *json, bool fresh, const gr_rank_plan *plan, gr_lora_config *c,
                                 graft_error *err) {
    _Static_assert(GR_COUNT(known) + GR_COUNT(known_of_ranks) <= 64, "room for all keys");
    *c = (gr_lora_config){.r = 8, .alpha = 8, .plan = plan};
    if (fresh) GR_TRY(check_known(a, json, plan != NULL, err));
    for (size_t i = 0; refused[i]; i++)
        if (gr_config_says(json, refused[i]))
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: '%s' is not supported", a->where, refused[i]);
    GR_TRY(gr_config_int(a, json, "r", 1, GR_LORA_MAX_RANK, &c->r, err));
    GR_TRY(gr_config_number(a, json, "lora_alpha", -1e9, 1e9, &c->alpha, err));
    GR_TRY(gr_config_number(a, json, "lora_dropout", 0, 1, &c->dropout, err));
    if (c->dropout >= 1) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: lora_dropout must be below 1", a->where);
    GR_TRY(gr_config_bool(a, json, "fan_in_fan_out", &c->fan_in_fan_out, err));
    GR_TRY(gr_config_bool(a, json, "use_rslora", &c->rslora, err));
    GR_TRY(gr_config_bool(a, json, "use_dora", &c->dora, err));
    GR_TRY(gr_config_bool(a, json, "ensure_weight_tying", &c->ensure_weight_tying, err));
    GR_TRY(read_bias(a, json, c, err));
    GR_TRY(read_init(a, json, fresh, c, err));
    return gr_lora_read_chosen(a, json, c, err);
}

static void free_patterns(gr_lora_patterns *p) {
    for (size_t i = 0; i < p->n; i++) gr_pattern_free(p->items[i].pattern);
}

void gr_lora_free_config(gr_lora_config *c) {
    free_patterns(&c->rank);
    free_patterns(&c->alpha_of);
}

/* --- Writing ------------------------------------------------------------------------------------------------------------------------ */

void gr_lora_write_number(gr_buf *b, double v) {
    if (v == floor(v) && fabs(v) < 1e15)
        gr_buf_add_format(b, "%lld", (long long)v);
    else
        gr_json_add_double(b, v);
}

void gr_lora_write_patterns(gr_buf *b, const char *key, const gr_lora_patterns *p, double times) {
    gr_buf_add_format(b, "  \"%s\": {", key);
    for (size_t i = 0; i < p->n; i++) {
        gr_buf_add_text(b, i ? ",\n    " : "\n    ");
        gr_json_add_text(b, p->items[i].key, strlen(p->items[i].key));
        gr_buf_add_text(b, ": ");
        gr_lora_write_number(b, times * p->items[i].value);
    }
    gr_buf_add_text(b, p->n ? "\n  },\n" : "},\n");
}

void gr_lora_write_layers(gr_buf *b, const gr_lora_config *c) {
    if (c->layers_pattern_text && c->layers_pattern.n)
        gr_config_add_text(b, "layers_pattern", c->layers_pattern.names[0]);
    else
        gr_config_add_targets(b, "layers_pattern", &c->layers_pattern);
    gr_buf_add_text(b, "  \"layers_to_transform\": ");
    if (!c->layers_given)
        gr_buf_add_text(b, "null");
    else if (c->layers_single)
        gr_buf_add_format(b, "%lld", (long long)c->layers[0]);
    else {
        gr_buf_add_text(b, c->n_layers ? "[" : "[]");
        for (size_t i = 0; i < c->n_layers; i++)
            gr_buf_add_format(b, "%s\n    %lld", i ? "," : "", (long long)c->layers[i]);
        if (c->n_layers) gr_buf_add_text(b, "\n  ]");
    }
    gr_buf_add_text(b, ",\n");
}

static void write_phases(const gr_rank_plan *plan, gr_buf *b) {
    gr_config_add_int(b, "tfinal", plan->tfinal);
    gr_config_add_int(b, "tinit", plan->tinit);
    if (plan->total_step)
        gr_config_add_int(b, "total_step", plan->total_step);
    else
        gr_config_add_text(b, "total_step", NULL);
}

/* Sorted keys, two spaces, as json.dumps(indent=2, sort_keys=True). What starts from the weight's own factors is stored as a
 * LoRA of twice the rank over the weight as it was, and of the same scale: any program loads it. */
void gr_lora_write_config(const gr_lora_config *c, gr_buf *b) {
    static const char *const bias[] = {"none", "all", "lora_only"};
    const gr_rank_plan *plan = c->plan;
    bool twice = gr_lora_starts_from_weight(c);
    double more_alpha = !twice ? 1 : gr_lora_start_alpha(c);
    gr_buf_add_text(b, "{\n  \"alora_invocation_tokens\": null,\n");
    gr_lora_write_patterns(b, "alpha_pattern", &c->alpha_of, more_alpha);
    gr_buf_add_text(b, "  \"arrow_config\": null,\n");
    gr_config_add_auto_mapping(b, &c->common);
    gr_config_add_text(b, "base_model_name_or_path", c->common.base_model);
    if (plan) gr_config_add_float(b, "beta1", plan->beta1);
    if (plan) gr_config_add_float(b, "beta2", plan->beta2);
    gr_config_add_text(b, "bias", bias[c->bias]);
    gr_buf_add_text(b, "  \"corda_config\": null,\n");
    if (plan) gr_config_add_int(b, "deltaT", plan->delta_t);
    gr_config_add_bool(b, "ensure_weight_tying", c->ensure_weight_tying);
    gr_buf_add_text(b, "  \"eva_config\": null,\n");
    gr_config_add_targets(b, "exclude_modules", &c->exclude);
    gr_config_add_bool(b, "fan_in_fan_out", c->fan_in_fan_out);
    gr_buf_add_text(b, "  \"inference_mode\": true,\n");
    if (c->init_text && !twice && c->init != GR_LORA_LOFTQ) /* which tells peft to change the base */
        gr_config_add_text(b, "init_lora_weights", c->init_text);
    else
        gr_config_add_bool(b, "init_lora_weights", c->init != GR_LORA_RANDOM);
    if (plan) gr_config_add_int(b, "init_r", plan->init_r);
    gr_buf_add_text(b, "  \"kasa_config\": null,\n  \"layer_replication\": null,\n");
    gr_lora_write_layers(b, c);
    gr_buf_add_text(b, "  \"loftq_config\": {},\n  \"lora_alpha\": ");
    gr_lora_write_number(b, more_alpha * c->alpha);
    gr_buf_add_text(b, ",\n  \"lora_bias\": false,\n  \"lora_dropout\": ");
    gr_json_add_double(b, c->dropout);
    gr_buf_add_text(b, ",\n  \"lora_ga_config\": null,\n  \"megatron_config\": null,\n"
                       "  \"megatron_core\": \"megatron.core\",\n");
    gr_config_add_targets(b, "modules_to_save", &c->modules_to_save);
    gr_buf_add_text(b, "  \"monteclora_config\": null,\n");
    if (plan) gr_config_add_float(b, "orth_reg_weight", plan->orth_reg_weight);
    gr_config_add_text(b, "peft_type", plan ? "ADALORA" : "LORA");
    gr_config_add_text(b, "peft_version", GR_PEFT_VERSION);
    gr_config_add_int(b, "qalora_group_size", 16);
    gr_config_add_int(b, "r", twice ? 2 * c->r : c->r);
    if (plan)
        gr_adalora_write_pattern(plan->adapter, b);
    else
        gr_lora_write_patterns(b, "rank_pattern", &c->rank, twice ? 2 : 1);
    gr_config_add_text(b, "revision", c->common.revision);
    gr_config_add_targets(b, "target_modules", &c->targets);
    gr_buf_add_text(b, "  \"target_parameters\": null,\n");
    if (plan) gr_config_add_int(b, "target_r", plan->target_r);
    gr_config_add_text(b, "task_type", c->common.task_type);
    if (plan) write_phases(plan, b);
    gr_buf_add_text(b, "  \"trainable_token_indices\": null,\n  \"use_bdlora\": null,\n");
    gr_config_add_bool(b, "use_dora", c->dora);
    gr_buf_add_text(b, "  \"use_qalora\": false,\n");
    gr_config_add_bool(b, "use_rslora", c->rslora);
    gr_buf_add_text(b, "  \"velora_config\": null\n}");
}
