/* VeRA (Kopiczko et al. 2024): y += b * (B (d * (A drop(x)))) with vectors b and d of each module, and matrices A (r, in) and
 * B (out, r) that all modules share and that stay random: their leading columns and rows, as many as the module has. Reference:
 * peft 0.21 tuners/vera. So it is LoRA with the factors d A and b B.
 *
 * A and B are drawn as the reference draws them, with torch's CPU generator, the Mersenne Twister (Matsumoto & Nishimura 1998),
 * seeded with projection_prng_key; a file made without save_projection holds nothing else of them. */
#include <math.h>

#include "adapter/lora.h"

typedef struct vectors {
    gr_param *b, *d; /* vera_lambda_b (out), vera_lambda_d (r) */
} vectors;

struct vera {
    gr_lora lora;
    bool init, save_projection;
    double d_initial;
    int64_t key;
    int64_t in, out; /* of the shared matrices */
    gr_param *shared_a, *shared_b;
    vectors *of;     /* of each pair */
};

static const char *const known[] = {"auto_mapping", "base_model_name_or_path", "bias", "d_initial", "fan_in_fan_out", "inference_mode",
                                    "init_weights", "layers_pattern", "layers_to_transform", "modules_to_save", "peft_type",
                                    "peft_version", "projection_prng_key", "r", "revision", "save_projection", "target_modules",
                                    "task_type", "vera_dropout", NULL};

static graft_status read_config(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err) {
    struct vera *s = a->state;
    const char *bias = "none";
    s->save_projection = true;
    s->d_initial = 0.1;
    GR_TRY(gr_kin_read(a, json, fresh, 256, known, &s->init, err));
    GR_TRY(gr_config_text(a, json, "bias", &bias, err));
    if (strcmp(bias, "none") != 0)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: bias '%s' is not supported with VeRA, expected none", a->where, bias);
    GR_TRY(gr_config_number(a, json, "d_initial", -1e9, 1e9, &s->d_initial, err));
    GR_TRY(gr_config_number(a, json, "vera_dropout", 0, 1, &s->lora.config.dropout, err));
    if (s->lora.config.dropout >= 1) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: vera_dropout must be below 1", a->where);
    GR_TRY(gr_config_int(a, json, "projection_prng_key", 0, UINT32_MAX, &s->key, err));
    return gr_config_bool(a, json, "save_projection", &s->save_projection, err);
}

/* --- The shared matrices -------------------------------------------------------------------------------------------------- */

enum { TWISTER = 624, SHIFT = 397 };

typedef struct twister {
    uint32_t x[TWISTER];
    int at;
} twister;

static void twister_seed(twister *t, uint32_t seed) {
    t->x[0] = seed;
    for (int i = 1; i < TWISTER; i++) t->x[i] = 1812433253u * (t->x[i - 1] ^ t->x[i - 1] >> 30) + (uint32_t)i;
    t->at = TWISTER;
}

static uint32_t twister_next(twister *t) {
    if (t->at == TWISTER) {
        for (int i = 0; i < TWISTER; i++) {
            uint32_t y = (t->x[i] & 0x80000000u) | (t->x[(i + 1) % TWISTER] & 0x7fffffffu);
            t->x[i] = t->x[(i + SHIFT) % TWISTER] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        t->at = 0;
    }
    uint32_t y = t->x[t->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

/* torch's uniform_ in single precision within +- sqrt(6 / fan_in), which is its Kaiming bound for ReLU. */
static void draw(twister *t, gr_param *p, int64_t fan_in) {
    float bound = (float)(sqrt(3.0) * (sqrt(2.0) / sqrt((double)fan_in)));
    for (int64_t i = 0; i < p->n; i++) {
        float x = (float)(twister_next(t) & 0xffffffu) * (1.0f / 16777216.0f);
        gr_param_put(p, i, (double)(x * (bound - -bound) + -bound));
    }
}

static graft_status add_shared(gr_adapter *a, graft_error *err) {
    struct vera *s = a->state;
    gr_shape shape_a = gr_shape2(s->lora.config.r, s->in), shape_b = gr_shape2(s->out, s->lora.config.r);
    twister t;
    GR_TRY(gr_adapter_new_param(a, "base_model.vera_A", &shape_a, false, &s->shared_a, err));
    GR_TRY(gr_adapter_new_param(a, "base_model.vera_B", &shape_b, false, &s->shared_b, err));
    twister_seed(&t, (uint32_t)s->key);
    draw(&t, s->shared_a, s->in);
    draw(&t, s->shared_b, s->lora.config.r);
    if (!s->save_projection) return GRAFT_OK;
    GR_TRY(gr_adapter_store(a, "base_model.vera_A", s->shared_a, GR_FILE_ADAPTER, err));
    return gr_adapter_store(a, "base_model.vera_B", s->shared_b, GR_FILE_ADAPTER, err);
}

/* --- Modules ------------------------------------------------------------------------------------------------------------------ */

static graft_status add(gr_adapter *a, size_t i, const gr_site *site, bool fresh, uint64_t seed, graft_error *err) {
    struct vera *s = a->state;
    vectors *v = &s->of[i];
    s->lora.pairs[i].unit = 1;
    s->lora.pairs[i].scale = a->scale;
    GR_TRY(gr_kin_param(a, site, "vera_lambda_b", gr_shape1(site->out), 0, fresh, seed, &v->b, err));
    GR_TRY(gr_kin_param(a, site, "vera_lambda_d", gr_shape1(s->lora.config.r), 0, fresh, seed, &v->d, err));
    if (fresh && s->init) gr_adapter_set_all(v->d, s->d_initial);
    if (fresh && !s->init) {
        gr_adapter_set_all(v->b, 1);
        gr_adapter_fill(v->d, seed, true, 1);
    }
    return GRAFT_OK;
}

static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    struct vera *s = a->state;
    const gr_site **sites;
    size_t n;
    GR_TRY(read_config(a, config, fresh, err));
    GR_TRY(gr_lora_find_targets(a, &s->lora.config, fresh, &sites, &n, err));
    for (size_t i = 0; i < n; i++) {
        s->in = GR_MAX(s->in, sites[i]->in);
        s->out = GR_MAX(s->out, sites[i]->out);
    }
    if (!(s->of = gr_arena_alloc(&a->arena, n * sizeof *s->of))) return gr_fail_memory(err);
    GR_TRY(add_shared(a, err));
    return gr_kin_create(a, sites, n, fresh, seed, add, err);
}

static graft_status refresh(gr_adapter *a, uint64_t key, bool training, graft_error *err) {
    struct vera *s = a->state;
    int64_t r = s->lora.config.r;
    (void)key;
    for (size_t i = 0; i < s->lora.n_pairs; i++) {
        gr_lora_pair *p = &s->lora.pairs[i];
        GR_TRY(gr_kin_factors(a, p, r, training, err));
        for (int64_t k = 0; k < r; k++)
            for (int64_t c = 0; c < p->site->in; c++)
                gr_param_put(p->a, k * p->site->in + c, gr_param_at(s->of[i].d, k) * gr_param_at(s->shared_a, k * s->in + c));
        for (int64_t o = 0; o < p->site->out; o++)
            for (int64_t k = 0; k < r; k++)
                gr_param_put(p->b, o * r + k, gr_param_at(s->of[i].b, o) * gr_param_at(s->shared_b, o * r + k));
    }
    return GRAFT_OK;
}

static graft_status collect(gr_adapter *a, graft_error *err) {
    struct vera *s = a->state;
    int64_t r = s->lora.config.r;
    (void)err;
    for (size_t i = 0; i < s->lora.n_pairs; i++) {
        const gr_lora_pair *p = &s->lora.pairs[i];
        for (int64_t k = 0; k < r; k++) {
            double d = 0;
            for (int64_t c = 0; c < p->site->in; c++)
                d += gr_param_grad_at(p->a, k * p->site->in + c) * gr_param_at(s->shared_a, k * s->in + c);
            gr_param_add_grad(s->of[i].d, k, d);
        }
        for (int64_t o = 0; o < p->site->out; o++) {
            double d = 0;
            for (int64_t k = 0; k < r; k++) d += gr_param_grad_at(p->b, o * r + k) * gr_param_at(s->shared_b, o * r + k);
            gr_param_add_grad(s->of[i].b, o, d);
        }
    }
    return GRAFT_OK;
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const struct vera *s = a->state;
    const gr_lora_config *c = &s->lora.config;
    gr_config_add_auto_mapping(b, &c->common);
    gr_config_add_text(b, "base_model_name_or_path", c->common.base_model);
    gr_config_add_text(b, "bias", "none");
    gr_config_add_float(b, "d_initial", s->d_initial);
    gr_config_add_bool(b, "fan_in_fan_out", c->fan_in_fan_out);
    gr_config_add_bool(b, "inference_mode", true);
    gr_config_add_bool(b, "init_weights", s->init);
    gr_lora_write_layers(b, c);
    gr_config_add_targets(b, "modules_to_save", &c->modules_to_save);
    gr_config_add_text(b, "peft_type", "VERA");
    gr_config_add_text(b, "peft_version", GR_PEFT_VERSION);
    gr_config_add_int(b, "projection_prng_key", s->key);
    gr_config_add_int(b, "r", c->r);
    gr_config_add_text(b, "revision", c->common.revision);
    gr_config_add_bool(b, "save_projection", s->save_projection);
    gr_config_add_targets(b, "target_modules", &c->targets);
    gr_config_add_text(b, "task_type", c->common.task_type);
    gr_config_add_float(b, "vera_dropout", c->dropout);
    gr_config_close(b);
}

const gr_adapter_method gr_adapter_vera = {.name = "vera", .peft_type = "VERA", .state_size = sizeof(struct vera), .create = create,
                                           .free = gr_lora_free, .write_config = write_config, .merge = gr_lora_merge,
                                           .unties = gr_lora_unties, .facts = gr_kin_facts, .linear = gr_lora_linear,
                                           .freeze = gr_lora_freeze, .update = gr_lora_update,
                                           .head = gr_lora_head, .refresh = refresh, .collect = collect, .rescale = gr_lora_rescale};
