/* All schedules share the warm-up: step / warmup while step < warmup. After it, with
 * p = (step - warmup) / max(1, total - warmup):
 *   linear                     1 - p
 *   cosine                     (1 + cos(2 pi cycles p)) / 2, half a cycle by default
 *   cosine_with_restarts       (1 + cos(pi (cycles p mod 1))) / 2
 *   polynomial                 ((lr - lr_end) (1 - p)^power + lr_end) / lr
 *   inverse_sqrt               1 / sqrt((step + timescale - warmup) / timescale)
 *   cosine_with_min_lr         cosine squeezed into [min_lr / lr, 1]
 *   warmup_stable_decay        1 for num_stable_steps, then down to min_lr_ratio in num_decay_steps
 * Everything is computed in the order in which the reference computes it, so that the doubles are the same. */
#include <math.h>

#include "graft/train.h"
#include "train/schedule.h"

static const char *const type_names[] = {
#define X(name) #name,
#include "train/schedule.def"
#undef X
};

static bool warming(const gr_schedule *s, double step, double *factor) {
    if (step >= s->warmup) return false;
    *factor = step / GR_MAX(1.0, s->warmup);
    return true;
}

static double progress(const gr_schedule *s, double step) {
    return (step - s->warmup) / GR_MAX(1.0, s->total - s->warmup);
}

static double factor_constant(const gr_schedule *s, double step) {
    (void)s, (void)step;
    return 1;
}

static double factor_constant_with_warmup(const gr_schedule *s, double step) {
    double f;
    return warming(s, step, &f) ? f : 1;
}

static double factor_linear(const gr_schedule *s, double step) {
    double f;
    if (warming(s, step, &f)) return f;
    return GR_MAX(0.0, (s->total - step) / GR_MAX(1.0, s->total - s->warmup));
}

static double squeezed_cosine(const gr_schedule *s, double p, double floor) {
    double f = 0.5 * (1.0 + cos(M_PI * s->num_cycles * 2.0 * p));
    return GR_MAX(0.0, f * (1 - floor) + floor);
}

static double factor_cosine(const gr_schedule *s, double step) {
    double f;
    return warming(s, step, &f) ? f : squeezed_cosine(s, progress(s, step), 0);
}

static double factor_cosine_with_restarts(const gr_schedule *s, double step) {
    double f;
    if (warming(s, step, &f)) return f;
    double p = progress(s, step);
    return p >= 1 ? 0 : GR_MAX(0.0, 0.5 * (1.0 + cos(M_PI * fmod(s->num_cycles * p, 1.0))));
}

static double factor_polynomial(const gr_schedule *s, double step) {
    double f;
    if (warming(s, step, &f)) return f;
    double decay_steps = s->total - s->warmup;
    if (step > s->total || decay_steps <= 0) return s->lr_end / s->learning_rate;
    double remaining = 1 - (step - s->warmup) / decay_steps;
    return ((s->learning_rate - s->lr_end) * pow(remaining, s->power) + s->lr_end) / s->learning_rate;
}

static double factor_inverse_sqrt(const gr_schedule *s, double step) {
    double f;
    if (warming(s, step, &f)) return f;
    return 1.0 / sqrt((step + (s->timescale - s->warmup)) / s->timescale);
}

static double factor_cosine_with_min_lr(const gr_schedule *s, double step) {
    double f;
    return warming(s, step, &f) ? f : squeezed_cosine(s, progress(s, step), s->min_lr_rate);
}

static double factor_cosine_warmup_with_min_lr(const gr_schedule *s, double step) {
    if (step < s->warmup) {
        if (isnan(s->warmup_lr_rate)) return (step + 1.0) / GR_MAX(1.0, s->warmup);
        return s->warmup_lr_rate + (1.0 - s->warmup_lr_rate) * step / GR_MAX(1.0, s->warmup - 1);
    }
    double p = (step - s->warmup + 1.0) / GR_MAX(1.0, s->total - s->warmup);
    return squeezed_cosine(s, p, s->min_lr_rate);
}

static double rise(gr_schedule_shape shape, double p) {
    if (shape == GR_SHAPE_COSINE) return 0.5 * (1.0 - cos(M_PI * p));
    return shape == GR_SHAPE_LINEAR ? p : 1.0 - sqrt(1.0 - p);
}

static double factor_warmup_stable_decay(const gr_schedule *s, double step) {
    double f;
    if (step < s->warmup)
        f = rise(s->warmup_type, step / GR_MAX(1.0, s->warmup));
    else if (step < s->warmup + s->num_stable_steps)
        return 1;
    else if (step < s->warmup + s->num_stable_steps + s->num_decay_steps) {
        double p = (step - s->warmup - s->num_stable_steps) / GR_MAX(1.0, s->num_decay_steps);
        if (s->decay_type == GR_SHAPE_COSINE)
            f = 0.5 * (1.0 + cos(M_PI * s->num_cycles * 2.0 * p));
        else
            f = s->decay_type == GR_SHAPE_LINEAR ? 1.0 - p : 1.0 - sqrt(p);
    } else
        return s->min_lr_ratio;
    return GR_MAX(0.0, f * (1.0 - s->min_lr_ratio) + s->min_lr_ratio);
}

double gr_schedule_factor(const gr_schedule *s, int64_t step) {
    static double (*const functions[])(const gr_schedule *, double) = {
#define X(name) factor_##name,
#include "train/schedule.def"
#undef X
    };
    return functions[s->type](s, (double)step);
}

/* --- Settings --- */

static graft_status read_shape(gr_json_reader *r, gr_schedule_shape *out, graft_error *err) {
    gr_json_text t;
    GR_TRY(gr_json_read_text(r, &t, err));
    if (gr_json_text_is(&t, "linear"))
        *out = GR_SHAPE_LINEAR;
    else if (gr_json_text_is(&t, "cosine"))
        *out = GR_SHAPE_COSINE;
    else if (gr_json_text_is(&t, "1-sqrt"))
        *out = GR_SHAPE_1_SQRT;
    else
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "lr_scheduler_kwargs: expected linear, cosine or 1-sqrt, found %.*s",
                       (int)GR_MIN(t.len, (size_t)40), t.raw);
    return GRAFT_OK;
}

enum { HAS_CYCLES = 1, HAS_POLY = 2, HAS_TIME = 4, HAS_MIN = 8, HAS_WARM_RATE = 16, HAS_WSD = 32 };

static unsigned accepted_keys(gr_schedule_type type) {
    switch (type) {
    case GR_SCHEDULE_cosine:
    case GR_SCHEDULE_cosine_with_restarts:
        return HAS_CYCLES;
    case GR_SCHEDULE_polynomial:
        return HAS_POLY;
    case GR_SCHEDULE_inverse_sqrt:
        return HAS_TIME;
    case GR_SCHEDULE_cosine_with_min_lr:
        return HAS_CYCLES | HAS_MIN;
    case GR_SCHEDULE_cosine_warmup_with_min_lr:
        return HAS_CYCLES | HAS_MIN | HAS_WARM_RATE;
    case GR_SCHEDULE_warmup_stable_decay:
        return HAS_CYCLES | HAS_WSD;
    default:
        return 0;
    }
}

/* One member of kwargs; null means not given. */
static graft_status read_setting(gr_schedule *s, gr_json_reader *r, const gr_json_text *key, graft_error *err) {
    const struct {
        const char *key;
        unsigned when;
        double *to;
    } numbers[] = {
        {"num_cycles", HAS_CYCLES, &s->num_cycles},
        {"power", HAS_POLY, &s->power},
        {"lr_end", HAS_POLY, &s->lr_end},
        {"timescale", HAS_TIME, &s->timescale},
        {"min_lr", HAS_MIN, &s->min_lr},
        {"min_lr_rate", HAS_MIN, &s->min_lr_rate},
        {"warmup_lr_rate", HAS_WARM_RATE, &s->warmup_lr_rate},
        {"num_stable_steps", HAS_WSD, &s->num_stable_steps},
        {"num_decay_steps", HAS_WSD, &s->num_decay_steps},
        {"min_lr_ratio", HAS_WSD, &s->min_lr_ratio},
    };
    unsigned accepted = accepted_keys(s->type);
    if (accepted & HAS_WSD && gr_json_text_is(key, "warmup_type")) return read_shape(r, &s->warmup_type, err);
    if (accepted & HAS_WSD && gr_json_text_is(key, "decay_type")) return read_shape(r, &s->decay_type, err);
    for (size_t i = 0; i < GR_COUNT(numbers); i++) {
        if (!(accepted & numbers[i].when) || !gr_json_text_is(key, numbers[i].key)) continue;
        if (gr_json_peek(r) == GR_JSON_NULL) return gr_json_skip(r, err);
        gr_json_number n;
        GR_TRY(gr_json_read_number(r, &n, err));
        if (!isfinite(n.d) || n.d < 0)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "lr_scheduler_kwargs: %s: expected a number >= 0, found %g",
                           numbers[i].key, n.d);
        *numbers[i].to = n.d;
        return GRAFT_OK;
    }
    return gr_fail(err, GRAFT_ERR_ARGUMENT, "lr_scheduler_kwargs: the schedule %s has no setting %.*s",
                   type_names[s->type], (int)GR_MIN(key->len, (size_t)60), key->raw);
}

static graft_status read_settings(gr_schedule *s, const char *kwargs, graft_error *err) {
    gr_json_reader r;
    gr_json_init(&r, "lr_scheduler_kwargs", kwargs, strlen(kwargs));
    GR_TRY(gr_json_open(&r, GR_JSON_OBJECT, err));
    bool more;
    for (;;) {
        GR_TRY(gr_json_next(&r, &more, err));
        if (!more) break;
        gr_json_text key;
        GR_TRY(gr_json_read_key(&r, &key, err));
        GR_TRY(read_setting(s, &r, &key, err));
    }
    return gr_json_end(&r, err);
}

static void set_default(double *value, double to) {
    if (isnan(*value)) *value = to;
}

static graft_status finish(gr_schedule *s, graft_error *err) {
    const char *name = type_names[s->type];
    unsigned keys = accepted_keys(s->type);
    set_default(&s->num_cycles, s->type == GR_SCHEDULE_cosine_with_restarts ? 1 : 0.5);
    set_default(&s->power, 1);
    set_default(&s->lr_end, 1e-7);
    set_default(&s->timescale, s->warmup > 0 ? s->warmup : 10000);
    set_default(&s->min_lr_ratio, 0);
    if (keys & HAS_POLY && !(s->learning_rate > s->lr_end))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected lr_end below the learning rate %g, found %g", name,
                       s->learning_rate, s->lr_end);
    if (keys & HAS_TIME && !(s->timescale > 0))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected timescale > 0, found 0", name);
    if (keys & HAS_MIN) {
        if (isnan(s->min_lr) == isnan(s->min_lr_rate))
            return gr_fail(err, GRAFT_ERR_ARGUMENT,
                           "%s: expected one of min_lr and min_lr_rate in lr_scheduler_kwargs, found %s", name,
                           isnan(s->min_lr) ? "none" : "both");
        if (!isnan(s->min_lr)) s->min_lr_rate = s->learning_rate > 0 ? s->min_lr / s->learning_rate : 0;
    }
    if (keys & HAS_WSD) {
        if (isnan(s->num_decay_steps))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected num_decay_steps in lr_scheduler_kwargs, found none", name);
        set_default(&s->num_stable_steps, s->total - s->warmup - s->num_decay_steps);
    }
    return GRAFT_OK;
}

graft_status gr_schedule_init(const char *type, const char *kwargs, double learning_rate, int64_t warmup, int64_t total,
                              gr_schedule *out, graft_error *err) {
    if (!type) type = "linear";
    gr_schedule s = {.type = GR_SCHEDULE_COUNT,
                     .learning_rate = learning_rate,
                     .warmup = (double)warmup,
                     .total = (double)total,
                     .num_cycles = NAN,
                     .power = NAN,
                     .lr_end = NAN,
                     .timescale = NAN,
                     .min_lr = NAN,
                     .min_lr_rate = NAN,
                     .warmup_lr_rate = NAN,
                     .num_stable_steps = NAN,
                     .num_decay_steps = NAN,
                     .min_lr_ratio = NAN,
                     .warmup_type = GR_SHAPE_LINEAR,
                     .decay_type = GR_SHAPE_COSINE};
    for (int i = 0; i < GR_SCHEDULE_COUNT; i++)
        if (!strcmp(type, type_names[i])) s.type = (gr_schedule_type)i;
    if (s.type == GR_SCHEDULE_COUNT)
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "lr_scheduler_type: expected linear, cosine, cosine_with_restarts, polynomial, constant, "
                       "constant_with_warmup, inverse_sqrt, cosine_with_min_lr, cosine_warmup_with_min_lr or "
                       "warmup_stable_decay, found %s",
                       type);
    if (warmup < 0 || total < 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "schedule: expected steps >= 0, found %lld of warm-up in %lld",
                       (long long)warmup, (long long)total);
    if (kwargs && *kwargs) GR_TRY(read_settings(&s, kwargs, err));
    GR_TRY(finish(&s, err));
    *out = s;
    return GRAFT_OK;
}

graft_status graft_lr_schedule(graft_context *ctx, const char *type, const char *kwargs, double learning_rate,
                               int64_t warmup_steps, int64_t total_steps, int64_t step, double *factor,
                               graft_error *err) {
    (void)ctx;
    gr_schedule s;
    GR_TRY(gr_schedule_init(type, kwargs, learning_rate, warmup_steps, total_steps, &s, err));
    *factor = gr_schedule_factor(&s, step);
    return GRAFT_OK;
}
