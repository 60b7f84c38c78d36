/* What VeRA, LoHa and LoKr share: their deltas are low-rank products whose factors follow from the trained parameters, so that
 * passes, merging and mixed batches are LoRA's own. */
#include <math.h>

#include "adapter/lora.h"
#include "kernel/mapped.h"

graft_status gr_kin_read(gr_adapter *a, const gr_json_value *json, bool fresh, int64_t r, const char *const *known, bool *init,
                         graft_error *err) {
    gr_lora *s = a->state;
    s->config = (gr_lora_config){.r = r, .alpha = 8};
    if (init) *init = true;
    if (fresh) GR_TRY(gr_config_known(a, json, known, err));
    GR_TRY(gr_config_int(a, json, "r", 1, GR_LORA_MAX_RANK, &s->config.r, err));
    GR_TRY(gr_config_number(a, json, "alpha", -1e9, 1e9, &s->config.alpha, err));
    if (init) GR_TRY(gr_config_bool(a, json, "init_weights", init, err));
    if (!fresh) GR_TRY(gr_config_bool(a, json, "fan_in_fan_out", &s->config.fan_in_fan_out, err));
    return gr_lora_read_chosen(a, json, &s->config, err);
}

graft_status gr_lora_make_matrix(gr_adapter *a, const gr_site *site, gr_matrix **out, graft_error *err) {
    const gr_weight *w;
    gr_matrix_spec spec = {.name = site->name, .n_parts = 1, .dt = gr_model_dtype(a->model)};
    GR_TRY(gr_model_get_weight(a->model, site->weight_tensor, &w, err));
    spec.part[0] = (gr_matrix_part){.view = w->view, .permuted_heads = w->permuted_heads,
                                    .transposed = site->transposed && !w->turned};
    GR_TRY(gr_matrix_new(gr_model_device(a->model), &spec, out, err));
    const gr_linear *l = gr_model_linear(a->model, site);
    if (l) gr_matrix_follow(*out, l->matrix);
    return GRAFT_OK;
}

graft_status gr_kin_refuse_dropouts(gr_adapter *a, const gr_json_value *json, graft_error *err) {
    static const char *const dropouts[] = {"rank_dropout", "module_dropout"};
    for (size_t i = 0; i < GR_COUNT(dropouts); i++) {
        double p = 0;
        GR_TRY(gr_config_number(a, json, dropouts[i], 0, 1, &p, err));
        if (p > 0 && a->trainable)
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: '%s' is not supported in training", a->where, dropouts[i]);
    }
    return GRAFT_OK;
}

void gr_kin_write_begin(gr_buf *b, const gr_lora_config *c) {
    gr_buf_add_text(b, "{\n  \"alpha\": ");
    gr_lora_write_number(b, c->alpha);
    gr_buf_add_text(b, ",\n");
    gr_lora_write_patterns(b, "alpha_pattern", &c->alpha_of, 1);
    gr_config_add_auto_mapping(b, &c->common);
    gr_config_add_text(b, "base_model_name_or_path", c->common.base_model);
}

void gr_kin_write_end(gr_buf *b, const gr_lora_config *c, bool conv) {
    gr_lora_write_patterns(b, "rank_pattern", &c->rank, 1);
    gr_config_add_text(b, "revision", c->common.revision);
    gr_config_add_targets(b, "target_modules", &c->targets);
    gr_config_add_text(b, "task_type", c->common.task_type);
    gr_config_add_bool(b, "use_effective_conv2d", conv);
    gr_config_close(b);
}

static graft_status add_site(gr_adapter *a, const gr_site *site, bool fresh, uint64_t seed, gr_kin_add add, graft_error *err) {
    gr_lora *s = a->state;
    gr_lora_pair *p = &s->pairs[s->n_pairs];
    double r, alpha;
    if (site->role == GR_ROLE_EMBED)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: target module '%s' is the embedding, which %s cannot adapt", a->where, site->name,
                       a->method->peft_type);
    GR_TRY(gr_lora_pattern_value(&s->config.rank, site->name, (double)s->config.r, &r, err));
    GR_TRY(gr_lora_pattern_value(&s->config.alpha_of, site->name, s->config.alpha, &alpha, err));
    *p = (gr_lora_pair){.site = site, .r = (int64_t)r, .unit = alpha / r};
    p->scale = p->unit * a->scale;
    p->stream = gr_rng_stream(GR_RNG_DROPOUT, gr_hash_bytes(site->name, strlen(site->name), 0));
    s->pair_of_site[site->index] = (int)s->n_pairs;
    if (fresh) s->config.fan_in_fan_out |= site->transposed; /* follows from the model, whatever the file says */
    return add(a, s->n_pairs++, site, fresh, seed, err);
}

graft_status gr_kin_create(gr_adapter *a, const gr_site *const *sites, size_t n, bool fresh, uint64_t seed, gr_kin_add add,
                           graft_error *err) {
    gr_lora *s = a->state;
    const char **tensors, **stored;
    size_t n_extra;
    GR_TRY(gr_lora_alloc(a, n, err));
    for (size_t i = 0; i < n; i++) GR_TRY(add_site(a, sites[i], fresh, seed, add, err));
    GR_TRY(gr_lora_find_extra(a, &s->config, sites, n, &tensors, &stored, &n_extra, err));
    return n_extra ? gr_adapter_add_variant(a, tensors, stored, n_extra, true, err) : GRAFT_OK;
}

graft_status gr_kin_param(gr_adapter *a, const gr_site *site, const char *name, gr_shape shape, double bound, bool fresh,
                          uint64_t seed, gr_param **out, graft_error *err) {
    const char *full = gr_adapter_text(a, err, "base_model.model.%s.%s", site->name, name);
    if (!full) return GRAFT_ERR_MEMORY;
    GR_TRY(gr_adapter_new_param(a, full, &shape, true, out, err));
    if (fresh && bound > 0) gr_adapter_fill(*out, seed, false, bound);
    return gr_adapter_add(a, full, *out, gr_adapter_depth(a->model, site), err);
}

/* Their size follows from tensors that the directory has by now, so that the limit on what a configuration may ask for is met. */
graft_status gr_kin_factors(gr_adapter *a, gr_lora_pair *p, int64_t r, bool training, graft_error *err) {
    gr_shape shape_a = gr_shape2(r, p->site->in), shape_b = gr_shape2(p->site->out, r);
    if (!p->b) {
        size_t most = a->most_bytes;
        gr_param *first;
        a->most_bytes = 0;
        p->r = r;
        graft_status st = gr_adapter_new_param(a, p->site->name, &shape_a, true, &first, err);
        if (st == GRAFT_OK) st = gr_adapter_new_param(a, p->site->name, &shape_b, true, &p->b, err);
        if (st == GRAFT_OK) p->a = first;
        a->most_bytes = most;
        GR_TRY(st);
        if (p->site->role == GR_ROLE_HEAD) GR_TRY(gr_lora_make_identity(a, p, err));
    }
    if (!training) return GRAFT_OK;
    memset(p->a->grad, 0, gr_dtype_bytes(p->a->dtype, (size_t)p->a->n));
    memset(p->b->grad, 0, gr_dtype_bytes(p->b->dtype, (size_t)p->b->n));
    return GRAFT_OK;
}

void gr_kin_facts(const gr_adapter *a, gr_buf *b) {
    const gr_lora *s = a->state;
    gr_buf_add_format(b, "\"r\": %lld, \"modules\": %zu, ", (long long)s->config.r, s->n_pairs);
}
