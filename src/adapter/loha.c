/* LoHa (Hyeon-Woo et al. 2022, FedPara): the delta of a weight is s (w1_a w1_b) * (w2_a w2_b), element by element, s = alpha / r.
 * Reference: peft 0.21 tuners/loha.
 *
 * The product of two matrices of rank r, element by element, has rank r^2: with a row (p, q) w1_b[p] * w2_b[q] of A and a column
 * (p, q) w1_a[:, p] * w2_a[:, q] of B it is B A, a LoRA of that rank; no weight is ever made whole. */
#include <math.h>
#include <stdio.h>

#include "adapter/lora.h"

enum { MAX_RANK = 256 };

typedef struct factors {
    gr_param *a[2], *b[2]; /* hada_w1_a (out,r), hada_w1_b (r,in); the same of w2 */
} factors;

struct loha {
    gr_lora lora;
    bool init, conv;
    factors *of;
};

static const char *const known[] = {"alpha", "alpha_pattern", "auto_mapping", "base_model_name_or_path", "exclude_modules",
                                    "inference_mode", "init_weights", "layers_pattern", "layers_to_transform", "module_dropout",
                                    "modules_to_save", "peft_type", "peft_version", "r", "rank_dropout", "rank_pattern", "revision",
                                    "target_modules", "task_type", "use_effective_conv2d", NULL};

static graft_status add(gr_adapter *a, size_t i, const gr_site *site, bool fresh, uint64_t seed, graft_error *err) {
    struct loha *s = a->state;
    int64_t r = s->lora.pairs[i].r;
    char name[16];
    if (r > MAX_RANK)
        return gr_fail(err, GRAFT_ERR_LIMIT, "%s: a rank of %lld for '%s', LoHa takes %d at most: its delta has the square of it", a->where,
                       (long long)r, site->name, MAX_RANK);
    for (int w = 0; w < 2; w++) {
        snprintf(name, sizeof name, "hada_w%d_a", w + 1);
        GR_TRY(gr_kin_param(a, site, name, gr_shape2(site->out, r), 1 / sqrt((double)r), fresh, seed, &s->of[i].a[w], err));
        snprintf(name, sizeof name, "hada_w%d_b", w + 1);
        bool zero = w == 1 && s->init;
        GR_TRY(gr_kin_param(a, site, name, gr_shape2(r, site->in), zero ? 0 : 1 / sqrt((double)site->in), fresh, seed, &s->of[i].b[w],
                            err));
    }
    return GRAFT_OK;
}

static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    struct loha *s = a->state;
    const gr_site **sites;
    size_t n;
    GR_TRY(gr_kin_read(a, config, fresh, 8, known, &s->init, err));
    GR_TRY(gr_config_bool(a, config, "use_effective_conv2d", &s->conv, err));
    GR_TRY(gr_kin_refuse_dropouts(a, config, err));
    GR_TRY(gr_lora_find_targets(a, &s->lora.config, fresh, &sites, &n, err));
    if (!(s->of = gr_arena_alloc(&a->arena, n * sizeof *s->of))) return gr_fail_memory(err);
    return gr_kin_create(a, sites, n, fresh, seed, add, err);
}

static graft_status refresh(gr_adapter *a, uint64_t key, bool training, graft_error *err) {
    struct loha *s = a->state;
    (void)key;
    for (size_t i = 0; i < s->lora.n_pairs; i++) {
        gr_lora_pair *p = &s->lora.pairs[i];
        const factors *f = &s->of[i];
        int64_t r = f->b[0]->shape.d[0], in = p->site->in, out = p->site->out;
        GR_TRY(gr_kin_factors(a, p, r * r, training, err));
        for (int64_t k = 0; k < r * r; k++)
            for (int64_t c = 0; c < in; c++)
                gr_param_put(p->a, k * in + c, gr_param_at(f->b[0], k / r * in + c) * gr_param_at(f->b[1], k % r * in + c));
        for (int64_t o = 0; o < out; o++)
            for (int64_t k = 0; k < r * r; k++)
                gr_param_put(p->b, o * r * r + k, gr_param_at(f->a[0], o * r + k / r) * gr_param_at(f->a[1], o * r + k % r));
    }
    return GRAFT_OK;
}

static graft_status collect(gr_adapter *a, graft_error *err) {
    struct loha *s = a->state;
    (void)err;
    for (size_t i = 0; i < s->lora.n_pairs; i++) {
        const gr_lora_pair *p = &s->lora.pairs[i];
        const factors *f = &s->of[i];
        int64_t r = f->b[0]->shape.d[0], in = p->site->in, out = p->site->out;
        for (int64_t k = 0; k < r * r; k++)
            for (int64_t c = 0; c < in; c++) {
                double d = gr_param_grad_at(p->a, k * in + c);
                gr_param_add_grad(f->b[0], k / r * in + c, d * gr_param_at(f->b[1], k % r * in + c));
                gr_param_add_grad(f->b[1], k % r * in + c, d * gr_param_at(f->b[0], k / r * in + c));
            }
        for (int64_t o = 0; o < out; o++)
            for (int64_t k = 0; k < r * r; k++) {
                double d = gr_param_grad_at(p->b, o * r * r + k);
                gr_param_add_grad(f->a[0], o * r + k / r, d * gr_param_at(f->a[1], o * r + k % r));
                gr_param_add_grad(f->a[1], o * r + k % r, d * gr_param_at(f->a[0], o * r + k / r));
            }
    }
    return GRAFT_OK;
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const struct loha *s = a->state;
    const gr_lora_config *c = &s->lora.config;
    gr_kin_write_begin(b, c);
    gr_config_add_targets(b, "exclude_modules", &c->exclude);
    gr_config_add_bool(b, "inference_mode", true);
    gr_config_add_bool(b, "init_weights", s->init);
    gr_lora_write_layers(b, c);
    gr_config_add_float(b, "module_dropout", 0);
    gr_config_add_targets(b, "modules_to_save", &c->modules_to_save);
    gr_config_add_text(b, "peft_type", "LOHA");
    gr_config_add_text(b, "peft_version", GR_PEFT_VERSION);
    gr_config_add_int(b, "r", c->r);
    gr_config_add_float(b, "rank_dropout", 0);
    gr_kin_write_end(b, c, s->conv);
}

const gr_adapter_method gr_adapter_loha = {.name = "loha", .peft_type = "LOHA", .state_size = sizeof(struct loha), .create = create,
                                           .free = gr_lora_free, .write_config = write_config, .merge = gr_lora_merge,
                                           .unties = gr_lora_unties, .facts = gr_kin_facts, .linear = gr_lora_linear,
                                           .freeze = gr_lora_freeze, .update = gr_lora_update,
                                           .head = gr_lora_head, .refresh = refresh, .collect = collect, .rescale = gr_lora_rescale};
