/* Room kernel: gr_gemm and gr_matrix_* on every CPU level against plain loops in double; the same bits on 1 to 3 threads
 * and for a row alone, in a few, or among a thousand. */
#include <math.h>
#include <sys/mman.h>

#include "kernel/cpu/product.h"
#include "support/kernel_cases.h"

/* --- gr_gemm ------------------------------------------------------------------------------------------------------ */

static void gemm_reference(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const double *a, int64_t lda,
                           const double *b, int64_t ldb, double beta, double *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t s = 0; s < k; s++) sum += (ta ? a[s * lda + i] : a[i * lda + s]) * (tb ? b[j * ldb + s] : b[s * ldb + j]);
            c[i * ldc + j] = alpha * sum + (beta == 0 ? 0 : beta * c[i * ldc + j]);
        }
}

/* What rounding errors of a sum of k products of spread `spread` are measured by. */
static double sum_scale(double spread, int64_t k) { return spread * (1 + 2 * sqrt((double)k) + (double)k / 16); }

static void gemm_case(kcase *t) {
    static const int64_t sizes[] = {1, 2, 3, 5, 7, 8, 12, 16, 17, 24, 31, 48, 63, 64, 65, 80, 97, 128, 130, 200, 257};
    int64_t m = sizes[kcase_draw(t, GR_COUNT(sizes))], n = sizes[kcase_draw(t, GR_COUNT(sizes))];
    int64_t k = sizes[kcase_draw(t, GR_COUNT(sizes))];
    if (t->seed % 8 == 1) m = 3, n = 9, k = 2 * GR_DOT_BLOCK + 37; /* several blocks of the dot form */
    if (t->seed % 8 == 2) k = 700;                                 /* several panels of the outer form */
    if (t->seed == 7) k = 0;
    const bool thin = t->seed % 8 == 3, crowded = t->seed % 8 == 4;
    if (thin) m = 257, n = 8, k = 200;     /* few columns of a product with A transposed */
    if (crowded) m = 70, n = 200, k = 1400; /* rows of A that share few sets of a cache */
    bool ta = kcase_draw(t, 2), tb = kcase_draw(t, 2), wide = kcase_draw(t, 2);
    if (thin) ta = true, tb = false;
    if (crowded) ta = false;
    double alpha = kcase_draw(t, 2) ? 1 : 0.375, beta = (double)kcase_draw(t, 2);
    int64_t lda = (ta ? m : k) + (int64_t)kcase_draw(t, 4), ldb = (tb ? k : n) + (int64_t)kcase_draw(t, 4);
    if (crowded) lda = 2048;
    int64_t ldc = n + (int64_t)kcase_draw(t, 4);
    gr_dtype c_dt = wide ? GR_F32 : GR_BF16;
    t->rows = m, t->cols = n;
    kpair a = kcase_random(t, t->dt, (ta ? k : m) * lda, 1), b = kcase_random(t, t->dt, (tb ? n : k) * ldb, 1);
    kpair c = kcase_random(t, c_dt, m * ldc, 1);
    const float nan = NAN;
    for (int64_t i = 0; beta == 0 && i < m; i++) /* must not be read */
        for (int64_t j = 0; j < n; j++) t->ref->k->convert(t->ref, GR_F32, &nan, c_dt, kelement(c_dt, c.x, i * ldc + j), 1);
    KCASE_ROWS(t, m, r, rows)
    assert_ok(gr_gemm(t->dev, ta, tb, rows, n, k, alpha, t->dt, kelement(t->dt, a.x, ta ? r : r * lda), lda, b.x, ldb, beta,
                      c_dt, kelement(c_dt, c.x, r * ldc), ldc, &err));
    gemm_reference(ta, tb, m, n, k, alpha, a.ref, lda, b.ref, ldb, beta, c.ref, ldc);
    kcase_check(t, ta ? (tb ? "gemm TT" : "gemm TN") : (tb ? "gemm NT" : "gemm NN"), c, 1e-6, sum_scale(1, k));
}

static void gemm_agrees(void **state) {
    (void)state;
    kcase_run("gemm", gemm_case, 48);
}

static void gemm_f64_is_exact(void **state) {
    (void)state;
    gr_device *d = kcase_device(GR_CPU_GENERIC, 2);
    double a[6 * 70], b[5 * 70], c[30], want[30] = {0};
    for (int i = 0; i < 420; i++) a[i] = gr_rng_normal(1, 2, (uint64_t)i);
    for (int i = 0; i < 350; i++) b[i] = gr_rng_normal(1, 3, (uint64_t)i);
    assert_ok(gr_gemm(d, false, true, 6, 5, 70, 1, GR_F64, a, 70, b, 70, 0, GR_F64, c, 5, &err));
    gemm_reference(false, true, 6, 5, 70, 1, a, 70, b, 70, 0, want, 5);
    for (int i = 0; i < 30; i++) assert_true(fabs(c[i] - want[i]) < 1e-13);
    graft_error err;
    assert_int_equal(gr_gemm(d, false, true, 6, 5, 70, 1, GR_I32, a, 70, b, 70, 0, GR_F64, c, 5, &err), GRAFT_ERR_UNSUPPORTED);
}

/* --- gr_matrix ---------------------------------------------------------------------------------------------------- */

/* Random bytes of a stored format whose scales are small finite halves. */
static void *stored_bytes(kcase *t, gr_dtype dt, int64_t n, size_t *bytes) {
    *bytes = gr_dtype_bytes(dt, (size_t)n);
    unsigned char *p = kcase_alloc(t, *bytes);
    const gr_dtype_info *info = gr_dtype_get(dt);
    if (info->block_elements == 1 && !gr_scaled_get(dt)) {
        for (int64_t i = 0; i < n; i++) {
            double v = gr_rng_normal(t->seed, 99, (uint64_t)i) * 0.1;
            float f = (float)v;
            uint16_t h = dt == GR_F16 ? gr_f32_to_f16(f) : gr_f32_to_bf16(f);
            memcpy(p + (size_t)i * (size_t)info->block_bytes, info->block_bytes == 8 ? (void *)&v : info->block_bytes == 4 ? (void *)&f : (void *)&h,
                   (size_t)info->block_bytes);
        }
        return p;
    }
    for (size_t i = 0; i < *bytes; i++) p[i] = (unsigned char)gr_rng_below(t->seed, 98, i, 256);
    if (gr_scaled_get(dt)) return p;
    /* Any two bytes may be a scale: keep every half small by keeping every byte pair's exponent bits low at the known
     * places: first 4 bytes, or last 4, of each block. */
    for (size_t at = 0; at + (size_t)info->block_bytes <= *bytes; at += (size_t)info->block_bytes)
        for (int place = 0; place < 2; place++) {
            unsigned char *s = place ? p + at + info->block_bytes - 4 : p + at;
            bool scales_last = dt == GR_Q2_K || dt == GR_Q3_K || dt == GR_Q6_K;
            if ((place == 1) != scales_last) continue;
            s[1] = (unsigned char)(0x20 | (s[1] & 0x83));
            s[3] = (unsigned char)(0x20 | (s[3] & 0x83));
        }
    return p;
}

typedef struct matrix_case {
    gr_matrix *w;
    double *ref; /* (out, in) as the compute type holds it */
    int64_t out, in;
} matrix_case;

static const gr_dtype stored_types[] = {GR_F32, GR_F16, GR_BF16, GR_F64, GR_NF4, GR_FP4, GR_INT8, GR_CHANNEL8,
#define X(name) GR_##name,
#include "quant/quant.def"
#undef X
};

/* Scales of a matrix of a format that has them apart, plain or nested; NULL for others. */
static const gr_scales *make_scales(kcase *t, gr_dtype dt, int64_t rows, int64_t in) {
    if (!gr_scaled_get(dt)) return NULL;
    gr_scales *s = kcase_alloc(t, sizeof *s);
    const bool by_rows = dt == GR_INT8 || dt == GR_CHANNEL8;
    *s = (gr_scales){.block = by_rows ? in : (int64_t)32 << kcase_draw(t, 3)};
    int64_t n = (rows * in + s->block - 1) / s->block;
    float *absmax = kcase_alloc(t, sizeof(float) * (size_t)n), *nested = kcase_alloc(t, sizeof(float) * (size_t)n);
    for (int64_t i = 0; i < n; i++) absmax[i] = (float)fabs(gr_rng_normal(t->seed, 97, (uint64_t)i));
    s->absmax = absmax;
    if (by_rows || kcase_draw(t, 2)) return s;
    uint8_t *codes = kcase_alloc(t, (size_t)n);
    gr_quantize_absmax(absmax, n, codes, nested, &s->offset);
    s->absmax = NULL;
    s->codes = codes;
    s->map = gr_dynamic_map;
    s->nested = nested;
    s->nested_block = GR_NESTED_BLOCK;
    return s;
}

static matrix_case make_matrix(kcase *t, gr_dtype stored, bool transposed, bool misaligned) {
    int64_t block = gr_dtype_get(stored)->block_elements;
    const bool apart = gr_scaled_get(stored) != NULL;
    matrix_case m = {.in = apart ? kcase_draw(t, 2) ? 128 * (1 + (int64_t)kcase_draw(t, 3)) : 2 * (1 + (int64_t)kcase_draw(t, 100)) : block > 1 ? block * (1 + (int64_t)kcase_draw(t, 3)) : 5 + (int64_t)kcase_draw(t, 200)};
    gr_matrix_spec spec = {.name = "w", .n_parts = 1 + (int)kcase_draw(t, GR_MATRIX_PARTS), .dt = t->dt};
    m.ref = kcase_alloc(t, sizeof(double) * (size_t)(GR_MATRIX_PARTS * 160 * m.in));
    for (int p = 0; p < spec.n_parts; p++) {
        int heads = !transposed && kcase_draw(t, 2) ? 1 + (int)kcase_draw(t, 3) : 0;
        int64_t rows = heads ? heads * 2 * (1 + (int64_t)kcase_draw(t, 16)) : 1 + (int64_t)kcase_draw(t, 150);
        size_t bytes;
        char *data = stored_bytes(t, stored, rows * m.in, &bytes);
        if (misaligned) {
            char *moved = kcase_alloc(t, bytes + 1);
            data = memcpy(moved + 1, data, bytes);
        }
        gr_shape shape = transposed ? gr_shape2(m.in, rows) : gr_shape2(rows, m.in);
        spec.part[p] = (gr_matrix_part){.view = {stored, shape, data, bytes, make_scales(t, stored, rows, m.in)}, .permuted_heads = heads, .transposed = transposed};
        double *all = kcase_alloc(t, sizeof(double) * (size_t)(rows * m.in));
        if (stored == GR_F64) {
            for (int64_t i = 0; i < rows * m.in; i++) {
                memcpy(&all[i], data + 8 * i, 8);
                all[i] = t->dt == GR_BF16 ? gr_bf16_to_f32(gr_f32_to_bf16((float)all[i])) : (double)(float)all[i];
            }
        } else {
            float *f = kcase_alloc(t, sizeof(float) * (size_t)(rows * m.in));
            assert_ok(gr_view_decode(&spec.part[p].view, 0, rows * m.in, f, &err));
            for (int64_t i = 0; i < rows * m.in; i++) all[i] = t->dt == GR_BF16 ? gr_bf16_to_f32(gr_f32_to_bf16(f[i])) : f[i];
        }
        for (int64_t r = 0; r < rows; r++) {
            int64_t dim = heads ? rows / heads : 2, in = r % dim, from = r;
            if (heads) from = r - in + (in < dim / 2 ? 2 * in : 2 * (in - dim / 2) + 1);
            for (int64_t c = 0; c < m.in; c++) m.ref[(m.out + r) * m.in + c] = transposed ? all[c * rows + r] : all[from * m.in + c];
        }
        m.out += rows;
    }
    assert_ok(gr_matrix_new(t->dev, &spec, &m.w, &err));
    assert_int_equal(gr_matrix_out(m.w), m.out);
    assert_int_equal(gr_matrix_in(m.w), m.in);
    return m;
}

static void matrix_case_run(kcase *t) {
    gr_dtype stored = stored_types[kcase_draw(t, GR_COUNT(stored_types))];
    bool blocks = gr_dtype_get(stored)->block_elements > 1 || gr_scaled_get(stored);
    matrix_case m = make_matrix(t, stored, !blocks && kcase_draw(t, 3) == 0, kcase_draw(t, 2));
    const int64_t n = t->rows;
    bool add = kcase_draw(t, 2), wide = kcase_draw(t, 2);
    gr_dtype y_dt = wide ? GR_F32 : t->dt;
    kpair x = kcase_random(t, t->dt, n * (m.in + 3), 1), y = kcase_random(t, y_dt, n * (m.out + 1), 1);
    KCASE_ROWS(t, n, r, rows)
    assert_ok(gr_matrix_forward(m.w, rows, kelement(t->dt, x.x, r * (m.in + 3)), m.in + 3, y_dt,
                                kelement(y_dt, y.x, r * (m.out + 1)), m.out + 1, add, &err));
    gemm_reference(false, true, n, m.out, m.in, 1, x.ref, m.in + 3, m.ref, m.in, add, y.ref, m.out + 1);
    double spread = 0;
    for (int64_t i = 0; i < m.out * m.in; i++) spread += m.ref[i] * m.ref[i] / (double)(m.out * m.in);
    spread = sqrt(spread) + 1;
    kcase_check(t, gr_dtype_name(stored), y, 1e-6, sum_scale(spread, m.in));

    kpair dy = kcase_random(t, t->dt, n * m.out, 1), dx = kcase_random(t, t->dt, n * m.in, 1);
    KCASE_ROWS(t, n, r, rows)
    assert_ok(gr_matrix_backward(m.w, rows, kelement(t->dt, dy.x, r * m.out), m.out, kelement(t->dt, dx.x, r * m.in), m.in,
                                 add, &err));
    gemm_reference(false, false, n, m.in, m.out, 1, dy.ref, m.out, m.ref, m.in, add, dx.ref, m.in);
    kcase_check(t, gr_dtype_name(stored), dx, 1e-6, sum_scale(spread, m.out));

    int32_t ids[20];
    for (int i = 0; i < 20; i++) ids[i] = (int32_t)kcase_draw(t, (uint64_t)m.out);
    kpair rows = kcase_zeros(t, t->dt, 20 * m.in);
    assert_ok(gr_matrix_gather(m.w, 20, ids, t->dt, rows.x, m.in, &err));
    for (int i = 0; i < 20; i++) memcpy(rows.ref + i * m.in, m.ref + ids[i] * m.in, sizeof(double) * (size_t)m.in);
    kcase_check(t, "gather", rows, 0, 0);
    gr_matrix_free(m.w);
}

static void matrix_agrees(void **state) {
    (void)state;
    kcase_run("matrix", matrix_case_run, 48);
}

/* --- Workspace ---------------------------------------------------------------------------------------------------- */

/* The products that are planned, made on a device that had none before, need what was planned, to the byte. */
static void check_workspace(gr_cpu_level level, int threads, gr_dtype stored, gr_dtype dt) {
    enum { OUT = 180, IN = 256, ROWS = 180 };
    static float memory[OUT * IN], scales[OUT * IN / 64], x[ROWS * IN], y[ROWS * OUT];
    const bool by_rows = stored == GR_INT8 || stored == GR_CHANNEL8;
    const gr_scales apart = {.block = by_rows ? IN : 64, .absmax = scales};
    const gr_tensor_view view = {stored, gr_shape2(OUT, IN), memory, gr_dtype_bytes(stored, OUT * IN),
                                 gr_scaled_get(stored) ? &apart : NULL};
    const gr_matrix_spec spec = {.name = "w", .n_parts = 1, .dt = dt, .integer = by_rows, .part = {{.view = view}}};
    gr_matrix *w;
    size_t planned;
    gr_device *d = kcase_device(level, threads);
    if (!d) return;
    assert_ok(gr_matrix_new(d, &spec, &w, &err));
    assert_ok(gr_matrix_planned_workspace(d, w, ROWS, &planned, &err));
    assert_int_equal(gr_device_workspace_bytes(d), 0);
    for (int64_t rows = ROWS; rows > 0; rows /= 2) {
        assert_ok(gr_matrix_forward(w, rows, x, IN, dt, y, OUT, false, &err));
        assert_ok(gr_matrix_backward(w, rows, y, OUT, x, IN, false, &err));
        assert_ok(gr_gemm(d, false, true, rows, OUT, IN, 1, dt, x, IN, memory, IN, 0, dt, y, OUT, &err));
        assert_ok(gr_gemm(d, false, false, rows, IN, OUT, 1, dt, y, OUT, memory, IN, 0, dt, x, IN, &err));
        assert_ok(gr_gemm(d, true, false, OUT, IN, rows, 1, dt, y, OUT, x, IN, 1, GR_F32, memory, IN, &err));
    }
    assert_int_equal(gr_device_workspace_bytes(d), planned);
    gr_matrix_free(w);
}

static void workspace_is_planned(void **state) {
    (void)state;
    static const gr_dtype stored[] = {GR_F32, GR_BF16, GR_Q4_1, GR_Q6_K, GR_NF4, GR_INT8, GR_CHANNEL8};
    for (int level = 0; level < GR_CPU_LEVEL_COUNT; level++)
        for (size_t i = 0; i < 4 * GR_COUNT(stored); i++) {
            kcase_close();
            check_workspace((gr_cpu_level)level, i & 1 ? 3 : 1, stored[i / 4], i & 2 ? GR_BF16 : GR_F32);
        }
}

/* An allocator whose pieces end, to 16 bytes, where a page begins that nobody may touch. Nothing is given back. */
static void *fenced(void *user, void *ptr, size_t size) {
    enum { PAGE = 4096 };
    (void)user;
    if (size == 0) return NULL;
    const size_t whole = (size + 15) / 16 * 16, pages = (whole + 16 + PAGE - 1) / PAGE * PAGE;
    char *at = mmap(NULL, pages + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED && mprotect(at + pages, PAGE, PROT_NONE) == 0);
    char *p = at + pages - whole;
    memcpy(p - sizeof size, &size, sizeof size);
    if (ptr) {
        size_t before;
        memcpy(&before, (char *)ptr - sizeof before, sizeof before);
        memcpy(p, ptr, GR_MIN(before, size));
    }
    return p;
}

/* Six threads make a product on tiles take 96 columns at once, which may lie in two blocks of 256. */
static void panels_hold_whole_blocks(void **state) {
    enum { SIDE = 512, ROWS = 64, BLOCKS = SIDE * SIDE / 256 };
    static uint8_t blocks[BLOCKS * 144];
    static uint16_t dy[ROWS * SIDE], dx[2][ROWS * SIDE];
    (void)state;
    for (int i = 0; i < ROWS * SIDE; i++) dy[i] = gr_f32_to_bf16((float)gr_rng_normal(1, 5, (uint64_t)i));
    for (size_t i = 0; i < sizeof blocks; i++) /* small scales */
        blocks[i] = i % 144 < 4 ? (i % 2 ? 0x20 : 0x31) : (uint8_t)gr_rng_below(1, 6, i, 256);
    const gr_tensor_view view = {GR_Q4_K, gr_shape2(SIDE, SIDE), blocks, sizeof blocks, NULL};
    const gr_matrix_spec spec = {.name = "w", .n_parts = 1, .dt = GR_BF16, .part = {{.view = view}}};
    for (int run = 0; run < 2; run++) {
        const graft_context_options o = {.n_threads = run ? 6 : 1, .allocator = {.resize = run ? fenced : NULL}};
        graft_context *ctx;
        gr_device *d;
        gr_matrix *w;
        assert_ok(graft_context_new(&o, &ctx, &err));
        assert_ok(gr_device_get(ctx, &d, &err));
        assert_ok(gr_matrix_new(d, &spec, &w, &err));
        for (int again = 0; again < (run ? 300 : 1); again++) { /* until the last thread has had such a block */
            assert_ok(gr_matrix_backward(w, ROWS, dy, SIDE, dx[run], SIDE, false, &err));
            assert_memory_equal(dx[run], dx[0], sizeof dx[0]);
        }
        gr_matrix_free(w);
        graft_context_free(ctx);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(panels_hold_whole_blocks),
        cmocka_unit_test(workspace_is_planned),
        cmocka_unit_test(gemm_agrees),
        cmocka_unit_test(gemm_f64_is_exact),
        cmocka_unit_test(matrix_agrees),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    kcase_close();
    return failed;
}
