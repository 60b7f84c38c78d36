/* Integer products (kernel/cpu/integer.h): every level, number of threads and of rows gives the bits of the
 * portable kernels on one thread, and those are what the definition says, computed here in double from
 * decoded weights. */
#include <math.h>

#include "kernel/cpu/cpu.h"
#include "quant/scaled.h"
#include "support/kernel_cases.h"

static const gr_dtype formats[] = {GR_Q4_0, GR_Q4_1, GR_Q5_0, GR_Q5_1, GR_Q8_0, GR_Q2_K,
                                   GR_Q3_K, GR_Q4_K, GR_Q5_K, GR_Q6_K, GR_INT8, GR_CHANNEL8};

enum { MAX_OUT = 3 * 70, MAX_ROWS = 300 };

typedef struct icase {
    uint64_t seed, draws;
    gr_matrix_spec spec;
    int64_t in, out, rows;
    float *w; /* (out, in), decoded */
    void *x;
    void *owned[20];
    int n_owned;
} icase;

static uint64_t draw(icase *c, uint64_t below) {
    return gr_rng_below(c->seed, gr_rng_stream(GR_RNG_TEST, 1), c->draws++, below);
}

static void *own(icase *c, size_t bytes) {
    void *p = gr_alloc_aligned(NULL, bytes);
    assert_non_null(p);
    memset(p, 0, bytes);
    assert_true(c->n_owned < (int)GR_COUNT(c->owned));
    return c->owned[c->n_owned++] = p;
}

static float normal(icase *c, uint64_t i) {
    return (float)gr_rng_normal(c->seed, gr_rng_stream(GR_RNG_TEST, 2 + c->draws), i);
}

/* One part: encoded numbers, or (of the block formats) sometimes any bytes at all. */
static void make_part(icase *c, int i, gr_dtype stored, int64_t rows) {
    const size_t n = (size_t)(rows * c->in), bytes = gr_dtype_bytes(stored, n);
    float *f = own(c, sizeof(float) * n);
    uint8_t *data = (uint8_t *)own(c, bytes + 1) + draw(c, 2);
    c->draws++;
    for (size_t e = 0; e < n; e++) f[e] = normal(c, e) * (1 + (float)(e / 64 % 5));
    gr_tensor_view v = {stored, gr_shape2(rows, c->in), data, bytes, NULL};
    if (stored == GR_INT8) {
        float *absmax = own(c, sizeof(float) * (size_t)rows);
        for (int64_t r = 0; r < rows; r++)
            absmax[r] = gr_quantize_int8_row(f + r * c->in, c->in, (int8_t *)data + r * c->in);
        gr_scales *scales = own(c, sizeof *scales); /* cases are copied */
        *scales = (gr_scales){.block = c->in, .absmax = absmax};
        v.scales = scales;
    } else if (stored == GR_CHANNEL8) { /* all codes, -128 too; a scale of x that many rows go beyond, or none */
        float *scale = own(c, sizeof(float) * (size_t)rows);
        for (int64_t r = 0; r < rows; r++) {
            scale[r] = gr_quantize_channel8_row(f + r * c->in, c->in, GR_F32, (int8_t *)data + r * c->in);
            if (draw(c, 3) == 0) memset(data + r * c->in, 0x80, (size_t)c->in);
        }
        gr_scales *scales = own(c, sizeof *scales);
        *scales = (gr_scales){.block = c->in, .absmax = scale, .input = draw(c, 2) ? 0.01f : 0};
        v.scales = scales;
    } else if (stored == GR_BF16) {
        for (size_t e = 0; e < n; e++) {
            const uint16_t half = gr_f32_to_bf16(f[e]);
            memcpy(data + 2 * e, &half, 2);
        }
    } else if (draw(c, 4)) {
        gr_quant_get(stored)->from_f32(f, n, data);
    } else {
        for (size_t b = 0; b < bytes; b++) data[b] = (uint8_t)draw(c, 256);
    }
    const int heads = rows % 4 == 0 && draw(c, 2) ? 2 : 0;
    c->spec.part[i] = (gr_matrix_part){.view = v, .permuted_heads = heads, .integer = stored == GR_CHANNEL8};
    assert_ok(gr_view_decode(&v, 0, (int64_t)n, f, &err));
    for (int64_t r = 0; r < rows; r++) {
        const int64_t dim = heads ? rows / heads : 2, in = r % dim;
        const int64_t from = heads ? r - in + (in < dim / 2 ? 2 * in : 2 * (in - dim / 2) + 1) : r;
        memcpy(c->w + (c->out + r) * c->in, f + from * c->in, sizeof(float) * (size_t)c->in);
    }
    c->out += rows;
}

/* Rows of zeros, of one spike, of numbers near the ends of float's range, and of what is not finite. */
static void make_rows(icase *c, gr_dtype dt) {
    float *x = own(c, sizeof(float) * (size_t)(c->rows * c->in));
    uint16_t *half = own(c, sizeof(uint16_t) * (size_t)(c->rows * c->in));
    for (int64_t r = 0; r < c->rows; r++) {
        const uint64_t kind = draw(c, 24);
        const float scale = kind == 0 ? 0 : kind == 1 ? 1e-33f : kind == 2 ? 1e-20f : kind == 3 ? 1e4f : 1;
        for (int64_t k = 0; k < c->in; k++) x[r * c->in + k] = scale * normal(c, (uint64_t)(r * c->in + k));
        const int64_t at = r * c->in + (int64_t)draw(c, (uint64_t)c->in);
        if (kind == 4) x[at] = INFINITY;
        if (kind == 5) x[at] = NAN;
        if (kind == 6) x[at] = -1e30f;
        if (kind == 7 || kind == 8) x[at] = 7.5f;
        if (kind == 10) /* the middles between codes under 0.01, and the numbers next to them */
            for (int64_t k = 0; k < c->in; k++) {
                const float middle = 0.01f * ((float)(int)draw(c, 300) - 150 + 0.5f);
                x[r * c->in + k] = draw(c, 3) ? nextafterf(middle, draw(c, 2) ? 2 : -2) : middle;
            }
        if (kind == 9)
            for (int64_t k = 0; k < c->in; k++) x[r * c->in + k] = -2; /* every code the least one */
    }
    for (int64_t i = 0; i < c->rows * c->in; i++) {
        half[i] = gr_f32_to_bf16(x[i]);
        if (dt == GR_BF16) x[i] = gr_bf16_to_f32(half[i]);
    }
    c->x = dt == GR_BF16 ? (void *)half : (void *)x;
}

static icase make_case(gr_dtype stored, uint64_t seed, gr_dtype dt) {
    icase c = {.seed = seed};
    const int64_t block = gr_dtype_get(stored)->block_elements;
    c.in = stored == GR_INT8 || stored == GR_CHANNEL8
               ? 1 + (int64_t)draw(&c, 300) + (seed % 3 == 0 ? 1100 : 0)
               : block * (1 + (int64_t)draw(&c, (uint64_t)(seed % 3 == 0 ? 1600 : 600) / (uint64_t)block));
    c.rows = seed % 5 == 0 ? MAX_ROWS : 1 + (int64_t)draw(&c, 20);
    c.spec = (gr_matrix_spec){.name = "w",
                              .n_parts = 1 + (int)draw(&c, 3),
                              .dt = dt,
                              .integer = stored != GR_CHANNEL8,
                              .outliers = seed % 2 ? 0 : 2.5f};
    c.w = own(&c, sizeof(float) * (size_t)(MAX_OUT * c.in));
    for (int i = 0; i < c.spec.n_parts; i++) {
        gr_dtype part = block == 256 && i == 2 ? GR_Q6_K : stored;
        if (stored == GR_CHANNEL8 && i == (int)(seed % 3) && c.spec.n_parts > 1) part = GR_BF16; /* one that is not in integers */
        make_part(&c, i, part, 1 + (int64_t)draw(&c, 64));
    }
    make_rows(&c, dt);
    return c;
}

/* y (rows, out) on one device, whole or row by row. */
static void product(const icase *c, gr_device *d, int64_t at_once, float *y) {
    gr_matrix *w;
    assert_ok(gr_matrix_new(d, &c->spec, &w, &err));
    const size_t size = c->spec.dt == GR_BF16 ? 2 : 4;
    for (int64_t r = 0; r < c->rows; r += at_once)
        assert_ok(gr_matrix_forward(w, GR_MIN(at_once, c->rows - r),
                                    (const char *)c->x + (size_t)(r * c->in) * size, c->in, GR_F32,
                                    y + r * c->out, c->out, false, &err));
    gr_matrix_free(w);
}

static float x_at(const icase *c, int64_t i) {
    return c->spec.dt == GR_BF16 ? gr_bf16_to_f32(((const uint16_t *)c->x)[i]) : ((const float *)c->x)[i];
}

static bool is_outlier(const icase *c, float x) {
    return c->spec.outliers > 0 && fabsf(gr_f16_to_f32(gr_f32_to_f16(x))) >= c->spec.outliers;
}

/* What a row's block of n elements from k on means to the product, in double. Not finite: NaN. INT8: outliers
 * apart. */
static void block_values(const icase *c, int64_t r, int64_t k, int64_t n, bool whole, double *v) {
    double most = 0;
    float in[2048];
    for (int64_t e = 0; e < n; e++) {
        in[e] = x_at(c, r * c->in + k + e);
        if (whole) in[e] = gr_f16_to_f32(gr_f32_to_f16(in[e]));
        v[e] = 0;
        if (whole && is_outlier(c, x_at(c, r * c->in + k + e))) {
            v[e] = x_at(c, r * c->in + k + e);
            in[e] = 0;
        }
        most = isfinite(in[e]) ? fmax(most, fabs((double)in[e])) : NAN;
        if (isnan(most)) break;
    }
    for (int64_t e = 0; e < n; e++) {
        const float by = 127 / (float)most;
        if (isnan(most))
            v[e] = NAN;
        else if (v[e] == 0 && most >= (whole ? 1e-30 : 0x1p-100))
            v[e] = nearbyint((double)(in[e] * by)) * most / 127;
    }
}

static void check_definition(const icase *c, bool whole, const float *y) {
    double *v = malloc(sizeof(double) * (size_t)c->in);
    assert_non_null(v);
    for (int64_t r = 0; r<c->rows; r += c->rows> 20 ? 37 : 1) {
        for (int64_t k = 0, n; k < c->in; k += n) {
            n = whole ? c->in : 32;
            block_values(c, r, k, n, whole, v + k);
        }
        for (int64_t j = 0; j < c->out; j++) {
            double sum = 0, size = 0,
                   largest = 0; /* a small weight may be the difference of a large one and a minimum */
            for (int64_t k = 0; k < c->in; k++) largest = fmax(largest, fabs((double)c->w[j * c->in + k]));
            for (int64_t k = 0; k < c->in; k++) {
                double w = c->w[j * c->in + k];
                if (whole && c->spec.dt == GR_BF16 && is_outlier(c, x_at(c, r * c->in + k)))
                    w = gr_bf16_to_f32(gr_f32_to_bf16((float)w));
                sum += v[k] * w;
                size += fabs(v[k]) * largest;
            }
            const double got = y[r * c->out + j];
            if (isfinite(sum) && size < 1e37 ? !(fabs(got - sum) <= 1e-5 * size + 1e-30)
                                             : isnan(sum) && isfinite(got))
                fail_msg("%s, %s, seed %d, row %d, output %d: expected %.9g, found %.9g",
                         gr_dtype_name(c->spec.part[0].view.dtype), gr_dtype_name(c->spec.dt), (int)c->seed,
                         (int)r, (int)j, sum, got);
        }
    }
    free(v);
}

/* What the activations of a row are to a part of CHANNEL8 matrices, in double. Not finite: NaN. */
static void channel_values(const icase *c, int64_t r, const gr_matrix_part *p, double *v) {
    float most = 0;
    bool finite = true;
    for (int64_t k = 0; k < c->in; k++) {
        const float x = x_at(c, r * c->in + k);
        finite = finite && isfinite(x);
        most = fmaxf(most, fabsf(x));
    }
    const float input = p->integer ? p->view.scales->input : 0, scale = input > 0 ? input : most / 127.5f;
    for (int64_t k = 0; k < c->in; k++) {
        const float x = x_at(c, r * c->in + k);
        if (!p->integer)
            v[k] = x;
        else if (!finite)
            v[k] = NAN;
        else
            v[k] = most < 0x1p-100f ? 0 : fmin(fmax(nearbyint((double)(x / scale)), -128), 127) * (double)scale;
    }
}

static void check_channels(const icase *c, const float *y) {
    double *v = malloc(sizeof(double) * (size_t)c->in);
    assert_non_null(v);
    for (int64_t r = 0; r < c->rows; r += c->rows > 20 ? 37 : 1) {
        int64_t j = 0;
        for (int i = 0; i < c->spec.n_parts; i++) {
            const gr_matrix_part *p = &c->spec.part[i];
            channel_values(c, r, p, v);
            for (int64_t end = j + p->view.shape.d[0]; j < end; j++) {
                double sum = 0, size = 0;
                for (int64_t k = 0; k < c->in; k++) sum += v[k] * (double)c->w[j * c->in + k];
                for (int64_t k = 0; k < c->in; k++) size += fabs(v[k] * (double)c->w[j * c->in + k]);
                const double got = y[r * c->out + j];
                const double most = p->integer ? 1e-6 : 1e-5; /* sums of integers are exact */
                if (isfinite(sum) && size < 1e37 ? !(fabs(got - sum) <= most * size + 1e-30) : isnan(sum) && isfinite(got))
                    fail_msg("CHANNEL8, part %d (%s, input %g), seed %d, row %d, output %d: expected %.9g, found %.9g", i,
                             gr_dtype_name(p->view.dtype), (double)(p->integer ? p->view.scales->input : -1), (int)c->seed,
                             (int)r, (int)j, sum, got);
            }
        }
    }
    free(v);
}

static bool is_float_output(const icase *c, int64_t j) {
    int i = 0;
    for (; j >= c->spec.part[i].view.shape.d[0]; i++) j -= c->spec.part[i].view.shape.d[0];
    return c->spec.part[i].view.dtype == GR_BF16;
}

static void check_bits(const icase *c, const char *level, int threads, const float *expected,
                       const float *found) {
    for (int64_t i = 0; i < c->rows * c->out; i++) {
        if (isnan(expected[i]) && isnan(found[i])) continue;
        if (is_float_output(c, i % c->out)) continue; /* whose sums have an order of their own on each level */
        if (memcmp(&expected[i], &found[i], 4))
            fail_msg("%s, %s, level %s, %d threads, seed %d, row %d, output %d: expected %a, found %a",
                     gr_dtype_name(c->spec.part[0].view.dtype), gr_dtype_name(c->spec.dt), level, threads,
                     (int)c->seed, (int)(i / c->out), (int)(i % c->out), (double)expected[i],
                     (double)found[i]);
    }
}

static void levels_give_the_same_bits(void **state) {
    (void)state;
    static const gr_dtype types[] = {GR_F32, GR_BF16};
    float *expected = malloc(sizeof(float) * MAX_ROWS * MAX_OUT),
          *found = malloc(sizeof(float) * MAX_ROWS * MAX_OUT);
    assert_true(expected && found);
    for (size_t f = 0; f < GR_COUNT(formats) * 2; f++)
        for (uint64_t seed = 1; seed <= 10; seed++) {
            icase c = make_case(formats[f / 2], seed, types[f % 2]);
            product(&c, kcase_device(GR_CPU_GENERIC, 1), c.rows, expected);
            if (formats[f / 2] == GR_CHANNEL8)
                check_channels(&c, expected);
            else
                check_definition(&c, formats[f / 2] == GR_INT8, expected);
            for (int level = 0; level < GR_CPU_LEVEL_COUNT; level++)
                for (int run = 0; run < 3; run++) {
                    const int threads = run == 1 ? 3 : 1;
                    gr_device *d = kcase_device((gr_cpu_level)level, threads);
                    if (!d) continue;
                    product(&c, d, run == 2 ? 1 + (int64_t)(seed % 3) : c.rows, found);
                    check_bits(&c, gr_cpu_level_name((gr_cpu_level)level), threads, expected, found);
                    if (formats[f / 2] == GR_CHANNEL8 && c.spec.dt == GR_F32) check_channels(&c, found);
                }
            for (int i = 0; i < c.n_owned; i++) gr_free_aligned(NULL, c.owned[i]);
        }
    free(expected);
    free(found);
}

static void what_has_no_integers_is_refused(void **state) {
    (void)state;
    static float data[64 * 64];
    gr_matrix *w;
    graft_error err = {0};
    gr_matrix_spec spec = {.name = "w",
                           .n_parts = 1,
                           .dt = GR_F32,
                           .integer = true,
                           .part = {{.view = {GR_F32, gr_shape2(64, 64), data, sizeof data, NULL}}}};
    assert_int_equal(gr_matrix_new(kcase_device(GR_CPU_GENERIC, 1), &spec, &w, &err), GRAFT_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "F32"));
    spec.part[0].view = (gr_tensor_view){GR_Q8_0, gr_shape2(64, 64), data, 64 * 68, NULL};
    spec.dt = GR_F64;
    assert_int_equal(gr_matrix_new(kcase_device(GR_CPU_GENERIC, 1), &spec, &w, &err), GRAFT_ERR_UNSUPPORTED);
}

static int close_devices(void **state) {
    (void)state;
    kcase_close();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(levels_give_the_same_bits),
                                       cmocka_unit_test(what_has_no_integers_is_refused)};
    return cmocka_run_group_tests(tests, NULL, close_devices);
}
