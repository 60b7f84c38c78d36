#include "support/kernel_cases.h"

#include <math.h>

static struct {
    graft_context *ctx;
    gr_device *dev;
    bool tried;
} devices[GR_CPU_LEVEL_COUNT][4];

gr_device *kcase_device(gr_cpu_level level, int n_threads) {
    if (!devices[level][n_threads].tried) {
        devices[level][n_threads].tried = true;
        graft_context_options o = {.n_threads = n_threads, .cpu = gr_cpu_level_name(level)};
        assert_int_equal(graft_context_new(&o, &devices[level][n_threads].ctx, NULL), GRAFT_OK);
        gr_device *d;
        assert_int_equal(gr_device_get(devices[level][n_threads].ctx, &d, NULL), GRAFT_OK);
        if (d->level == level) devices[level][n_threads].dev = d;
    }
    return devices[level][n_threads].dev;
}

void kcase_close(void) {
    for (int l = 0; l < GR_CPU_LEVEL_COUNT; l++)
        for (int n = 0; n < 4; n++) {
            graft_context_free(devices[l][n].ctx);
            devices[l][n].ctx = NULL;
            devices[l][n].dev = NULL;
            devices[l][n].tried = false;
        }
}

void *kcase_alloc(kcase *t, size_t bytes) {
    assert_true(t->n_owned < (int)GR_COUNT(t->owned));
    void *p = gr_alloc_aligned(NULL, bytes);
    assert_non_null(p);
    memset(p, 0, bytes);
    return t->owned[t->n_owned++] = p;
}

uint64_t kcase_draw(kcase *t, uint64_t below) {
    return gr_rng_below(t->seed, gr_rng_stream(GR_RNG_TEST, 1), t->n_draws++, below);
}

double kvalue(gr_dtype dt, const void *x, int64_t i) {
    switch (dt) {
    case GR_F32: return ((const float *)x)[i];
    case GR_F64: return ((const double *)x)[i];
    case GR_F16: return gr_f16_to_f32(((const uint16_t *)x)[i]);
    default: return gr_bf16_to_f32(((const uint16_t *)x)[i]);
    }
}

static void set_value(gr_dtype dt, void *x, int64_t i, double v) {
    switch (dt) {
    case GR_F32: ((float *)x)[i] = (float)v; break;
    case GR_F64: ((double *)x)[i] = v; break;
    case GR_F16: ((uint16_t *)x)[i] = gr_f32_to_f16((float)v); break;
    default: ((uint16_t *)x)[i] = gr_f32_to_bf16((float)v); break;
    }
}

static size_t element_size(gr_dtype dt) { return gr_dtype_bytes(dt, 1); }

void *kelement(gr_dtype dt, void *x, int64_t i) { return (char *)x + i * (int64_t)element_size(dt); }

kpair kcase_zeros(kcase *t, gr_dtype dt, int64_t n) {
    kpair p = {.dt = dt, .n = n};
    p.x = kcase_alloc(t, (size_t)n * element_size(dt));
    p.ref = kcase_alloc(t, (size_t)n * sizeof(double));
    return p;
}

kpair kcase_random(kcase *t, gr_dtype dt, int64_t n, double scale) {
    kpair p = kcase_zeros(t, dt, n);
    uint64_t stream = gr_rng_stream(GR_RNG_TEST, 2 + t->n_draws++);
    for (int64_t i = 0; i < n; i++) set_value(dt, p.x, i, scale * gr_rng_normal(t->seed, stream, (uint64_t)i));
    if (t->poison && n > 2) {
        set_value(dt, p.x, (int64_t)kcase_draw(t, (uint64_t)n), NAN);
        set_value(dt, p.x, (int64_t)kcase_draw(t, (uint64_t)n), INFINITY);
        t->poison = false; /* the first input only: else nothing stays finite */
    }
    for (int64_t i = 0; i < n; i++) p.ref[i] = kvalue(dt, p.x, i);
    return p;
}

void kcase_digest(kcase *t, const void *bytes, size_t n) { t->digest = gr_hash_bytes(bytes, n, t->digest + n); }

void kcase_check(kcase *t, const char *what, kpair p, double tol, double scale) {
    double rounding = p.dt == GR_BF16 ? 0x1.01p-8 : p.dt == GR_F32 ? 0x1p-22 : 0x1p-50;
    for (int64_t i = 0; i < p.n; i++) {
        double got = kvalue(p.dt, p.x, i), want = p.ref[i];
        if (!isfinite(want) || fabs(want) > 1e37) {
            if (isnan(want) ? !isnan(got) : isfinite(got) && fabs(got) < 1e37)
                fail_msg("%s (%s, %s, %lld x %lld): element %lld: expected %g, got %g", what, gr_cpu_level_name(t->dev->level),
                         gr_dtype_name(t->dt), (long long)t->rows, (long long)t->cols, (long long)i, want, got);
            continue;
        }
        double allowed = tol * fmax(scale, fabs(want)) + rounding * fabs(want);
        if (!(fabs(got - want) <= allowed))
            fail_msg("%s (%s, %s, %lld x %lld): element %lld: expected %.9g, got %.9g, error %.3g, allowed %.3g", what,
                     gr_cpu_level_name(t->dev->level), gr_dtype_name(t->dt), (long long)t->rows, (long long)t->cols,
                     (long long)i, want, got, fabs(got - want), allowed);
    }
    /* NaN payloads may differ with the order of operands. */
    char *bytes = p.x;
    for (int64_t i = 0; i < p.n; i++)
        if (isnan(kvalue(p.dt, p.x, i)))
            kcase_digest(t, "nan", 3);
        else
            kcase_digest(t, bytes + i * (int64_t)element_size(p.dt), element_size(p.dt));
}

static void run_once(kcase *t, kcase_fn fn) {
    static const int64_t cols[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 48, 64, 65, 100, 129, 255, 576, 577, 1030};
    t->cols = cols[kcase_draw(t, GR_COUNT(cols))];
    t->rows = 1 + (int64_t)kcase_draw(t, 40);
    fn(t);
    for (int i = 0; i < t->n_owned; i++) gr_free_aligned(NULL, t->owned[i]);
}

void kcase_run(const char *name, kcase_fn fn, int n_seeds) {
    static const gr_dtype types[] = {GR_F32, GR_BF16};
    for (int level = 0; level < GR_CPU_LEVEL_COUNT; level++)
        for (size_t type = 0; type < GR_COUNT(types); type++)
            for (uint64_t seed = 1; seed <= (uint64_t)n_seeds; seed++) {
                uint64_t digest[4] = {0};
                if (!kcase_device((gr_cpu_level)level, 1)) continue;
                for (int run = 0; run < 4; run++) {
                    kcase t = {.dev = kcase_device((gr_cpu_level)level, run < 3 ? run + 1 : 1),
                               .ref = kcase_device(GR_CPU_GENERIC, 1),
                               .dt = types[type],
                               .split = run == 3,
                               .poison = seed % 6 == 0,
                               .seed = seed};
                    run_once(&t, fn);
                    digest[run] = t.digest;
                }
                for (int run = 1; run < 4; run++)
                    if (digest[run] != digest[0])
                        fail_msg("%s (%s, %s, seed %d): other bits %s", name, gr_cpu_level_name((gr_cpu_level)level),
                                 gr_dtype_name(types[type]), (int)seed, run < 3 ? "on more threads" : "row by row");
            }
}
