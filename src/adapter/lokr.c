/* LoKr (Yeh et al. 2024, LyCORIS): the delta of a weight is the Kronecker product s w1 x w2, s = alpha / r; w1 and w2 are whole
 * matrices or products of two of rank r, where that is smaller. Reference: peft 0.21 tuners/lokr.
 *
 * With w1 (l,m), w2 (k,n) = Q P of rank j the delta is (w1 x Q) (I x P): a LoRA of rank m j, whose A has P m times along its
 * diagonal. A whole w2 is taken as Q, with the identity for P. */
#include <math.h>

#include "adapter/lora.h"

typedef struct factors {
    int64_t l, m, k, n, rank; /* rank: of w2 */
    gr_param *w1, *w1_a, *w1_b; /* lokr_w1 (l,m), or lokr_w1_a (l,r) lokr_w1_b (r,m) */
    gr_param *w2, *w2_a, *w2_b; /* the same of w2 (k,n) */
} factors;

struct lokr {
    gr_lora lora;
    bool init, lycoris, conv, both, scale_dropout;
    int64_t factor;
    factors *of;
};

static const char *const known[] = {"alpha", "alpha_pattern", "auto_mapping", "base_model_name_or_path", "decompose_both",
                                    "decompose_factor", "exclude_modules", "inference_mode", "init_weights", "layers_pattern",
                                    "layers_to_transform", "module_dropout", "modules_to_save", "peft_type", "peft_version", "r",
                                    "rank_dropout", "rank_dropout_scale", "rank_pattern", "revision", "target_modules", "task_type",
                                    "use_effective_conv2d", NULL};

/* init_weights is a truth value or "lycoris". */
static graft_status read_config(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err) {
    struct lokr *s = a->state;
    const gr_json_value *init = gr_json_get(json, "init_weights");
    bool named = init && init->kind == GR_JSON_STRING;
    s->lycoris = named && strcmp(init->text, "lycoris") == 0;
    if (named && !s->lycoris)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: init_weights '%s', expected true, false or lycoris", a->where, init->text);
    GR_TRY(gr_kin_read(a, json, fresh, 8, known, named ? NULL : &s->init, err));
    s->init |= named;
    s->factor = -1;
    GR_TRY(gr_config_bool(a, json, "use_effective_conv2d", &s->conv, err));
    GR_TRY(gr_config_bool(a, json, "decompose_both", &s->both, err));
    GR_TRY(gr_config_bool(a, json, "rank_dropout_scale", &s->scale_dropout, err));
    GR_TRY(gr_config_int(a, json, "decompose_factor", -1, INT32_MAX, &s->factor, err));
    if (s->factor == 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: decompose_factor is 0, expected -1 or a number above 0", a->where);
    return gr_kin_refuse_dropouts(a, json, err);
}

/* Two factors of a size, the first at most the second: `wanted` where that divides it, else the pair of the smallest sum whose first
 * is at most `wanted` (-1: any). */
static void factorise(int64_t size, int64_t wanted, int64_t *first, int64_t *second) {
    int64_t best = 1;
    if (wanted > 0 && size % wanted == 0)
        best = wanted;
    else
        for (int64_t f = 2; f * f <= size && (wanted < 0 || f <= wanted); f++)
            if (size % f == 0) best = f;
    *first = best;
    *second = size / best;
}

static graft_status add(gr_adapter *a, size_t i, const gr_site *site, bool fresh, uint64_t seed, graft_error *err) {
    struct lokr *s = a->state;
    factors *f = &s->of[i];
    int64_t r = s->lora.pairs[i].r;
    factorise(site->out, s->factor, &f->l, &f->k);
    factorise(site->in, s->factor, &f->m, &f->n);
    bool whole1 = !(s->both && 2 * r < GR_MAX(f->l, f->m)), whole2 = !(2 * r < GR_MAX(f->k, f->n));
    bool zero1 = s->init && !s->lycoris, zero2 = s->init && s->lycoris;
    f->rank = whole2 ? f->n : r;
    double by_r = 1 / sqrt((double)r), by_m = 1 / sqrt((double)f->m), by_n = 1 / sqrt((double)f->n);
    if (whole1)
        GR_TRY(gr_kin_param(a, site, "lokr_w1", gr_shape2(f->l, f->m), zero1 ? 0 : by_m, fresh, seed, &f->w1, err));
    else {
        GR_TRY(gr_kin_param(a, site, "lokr_w1_a", gr_shape2(f->l, r), zero1 ? 0 : by_r, fresh, seed, &f->w1_a, err));
        GR_TRY(gr_kin_param(a, site, "lokr_w1_b", gr_shape2(r, f->m), by_m, fresh, seed, &f->w1_b, err));
    }
    if (whole2) return gr_kin_param(a, site, "lokr_w2", gr_shape2(f->k, f->n), zero2 ? 0 : by_n, fresh, seed, &f->w2, err);
    GR_TRY(gr_kin_param(a, site, "lokr_w2_a", gr_shape2(f->k, r), by_r, fresh, seed, &f->w2_a, err));
    return gr_kin_param(a, site, "lokr_w2_b", gr_shape2(r, f->n), zero2 ? 0 : by_n, fresh, seed, &f->w2_b, err);
}

static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    struct lokr *s = a->state;
    const gr_site **sites;
    size_t n;
    GR_TRY(read_config(a, config, fresh, err));
    GR_TRY(gr_lora_find_targets(a, &s->lora.config, fresh, &sites, &n, err));
    if (!(s->of = gr_arena_alloc(&a->arena, n * sizeof *s->of))) return gr_fail_memory(err);
    return gr_kin_create(a, sites, n, fresh, seed, add, err);
}

/* Element of w1, and of Q and P. */
static double w1_at(const factors *f, int64_t x, int64_t y) {
    double sum = 0;
    if (f->w1) return gr_param_at(f->w1, x * f->m + y);
    for (int64_t k = 0, r = f->w1_b->shape.d[0]; k < r; k++) sum += gr_param_at(f->w1_a, x * r + k) * gr_param_at(f->w1_b, k * f->m + y);
    return sum;
}

static double q_at(const factors *f, int64_t x, int64_t j) { return gr_param_at(f->w2 ? f->w2 : f->w2_a, x * f->rank + j); }

static graft_status refresh(gr_adapter *a, uint64_t key, bool training, graft_error *err) {
    struct lokr *s = a->state;
    (void)key;
    for (size_t i = 0; i < s->lora.n_pairs; i++) {
        gr_lora_pair *p = &s->lora.pairs[i];
        const factors *f = &s->of[i];
        int64_t rank = f->m * f->rank;
        GR_TRY(gr_kin_factors(a, p, rank, training, err)); /* zero at first, and so outside the diagonal */
        for (int64_t c = 0; c < f->m; c++)
            for (int64_t j = 0; j < f->rank; j++)
                for (int64_t d = 0; d < f->n; d++) {
                    double x = f->w2 ? (double)(j == d) : gr_param_at(f->w2_b, j * f->n + d);
                    gr_param_put(p->a, (c * f->rank + j) * p->site->in + c * f->n + d, x);
                }
        for (int64_t x = 0; x < f->l; x++)
            for (int64_t c = 0; c < f->m; c++) {
                double w = w1_at(f, x, c);
                for (int64_t y = 0; y < f->k; y++)
                    for (int64_t j = 0; j < f->rank; j++) gr_param_put(p->b, (x * f->k + y) * rank + c * f->rank + j, w * q_at(f, y, j));
            }
    }
    return GRAFT_OK;
}

/* What comes to element (x, c) of w1. */
static void add_w1(const factors *f, int64_t x, int64_t c, double d) {
    if (f->w1) {
        gr_param_add_grad(f->w1, x * f->m + c, d);
        return;
    }
    for (int64_t k = 0, r = f->w1_b->shape.d[0]; k < r; k++) {
        gr_param_add_grad(f->w1_a, x * r + k, d * gr_param_at(f->w1_b, k * f->m + c));
        gr_param_add_grad(f->w1_b, k * f->m + c, d * gr_param_at(f->w1_a, x * r + k));
    }
}

static graft_status collect(gr_adapter *a, graft_error *err) {
    struct lokr *s = a->state;
    (void)err;
    for (size_t i = 0; i < s->lora.n_pairs; i++) {
        const gr_lora_pair *p = &s->lora.pairs[i];
        const factors *f = &s->of[i];
        int64_t rank = f->m * f->rank;
        const gr_param *q = f->w2 ? f->w2 : f->w2_a;
        for (int64_t x = 0; x < f->l; x++)
            for (int64_t c = 0; c < f->m; c++) {
                double w = w1_at(f, x, c), sum = 0;
                for (int64_t y = 0; y < f->k; y++)
                    for (int64_t j = 0; j < f->rank; j++) {
                        double d = gr_param_grad_at(p->b, (x * f->k + y) * rank + c * f->rank + j);
                        sum += d * q_at(f, y, j);
                        gr_param_add_grad(q, y * f->rank + j, d * w);
                    }
                add_w1(f, x, c, sum);
            }
        for (int64_t c = 0; !f->w2 && c < f->m; c++)
            for (int64_t j = 0; j < f->rank; j++)
                for (int64_t d = 0; d < f->n; d++)
                    gr_param_add_grad(f->w2_b, j * f->n + d, gr_param_grad_at(p->a, (c * f->rank + j) * p->site->in + c * f->n + d));
    }
    return GRAFT_OK;
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const struct lokr *s = a->state;
    const gr_lora_config *c = &s->lora.config;
    gr_kin_write_begin(b, c);
    gr_config_add_bool(b, "decompose_both", s->both);
    gr_config_add_int(b, "decompose_factor", s->factor);
    gr_config_add_targets(b, "exclude_modules", &c->exclude);
    gr_config_add_bool(b, "inference_mode", true);
    if (s->lycoris)
        gr_config_add_text(b, "init_weights", "lycoris");
    else
        gr_config_add_bool(b, "init_weights", s->init);
    gr_lora_write_layers(b, c);
    gr_config_add_float(b, "module_dropout", 0);
    gr_config_add_targets(b, "modules_to_save", &c->modules_to_save);
    gr_config_add_text(b, "peft_type", "LOKR");
    gr_config_add_text(b, "peft_version", GR_PEFT_VERSION);
    gr_config_add_int(b, "r", c->r);
    gr_config_add_float(b, "rank_dropout", 0);
    gr_config_add_bool(b, "rank_dropout_scale", s->scale_dropout);
    gr_kin_write_end(b, c, s->conv);
}

const gr_adapter_method gr_adapter_lokr = {.name = "lokr", .peft_type = "LOKR", .state_size = sizeof(struct lokr), .create = create,
                                           .free = gr_lora_free, .write_config = write_config, .merge = gr_lora_merge,
                                           .unties = gr_lora_unties, .facts = gr_kin_facts, .linear = gr_lora_linear,
                                           .freeze = gr_lora_freeze, .update = gr_lora_update,
                                           .head = gr_lora_head, .refresh = refresh, .collect = collect, .rescale = gr_lora_rescale};
