/* Products on tile registers: the sum of an element is the one that products_amx.c tells, done here with scalars, whatever
 * the shape of the call; and a machine that keeps the registers back is served without them. */
#include <math.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/kernel_cases.h"

#if defined(__x86_64__)
#include <xmmintrin.h>

/* --- The system refuses ---------------------------------------------------------------------------------------------------- */

/* Linux grants no registers that would not fit a signal stack which stands already. Runs before anything has asked. */
static void refused_registers_are_not_used(void **state) {
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        static char small[2048];
        stack_t stack = {.ss_sp = small, .ss_size = sizeof small};
        if (sigaltstack(&stack, NULL) != 0) _exit(2);
        graft_context *ctx;
        gr_device *d;
        graft_context_options o = {.cpu = "amx"};
        if (graft_context_new(&o, &ctx, NULL) != GRAFT_OK || gr_device_get(ctx, &d, NULL) != GRAFT_OK) _exit(3);
        if (d->level >= GR_CPU_AMX) _exit(4);
        _exit(strcmp(gr_cpu_level_name(d->level), "amx") == 0 ? 5 : 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* --- The sum --------------------------------------------------------------------------------------------------------------- */

enum { MOST = 64000 }; /* elements of an array */

/* Steps of 32: even and odd products apart, each fused with its addition, then both sums together, then to the element. */
static float element(const uint16_t *a, const uint16_t *b, int64_t b_k, int64_t k) {
    volatile float sum = 0;
    for (int64_t s = 0; s < k; s += 32) {
        volatile float half[2] = {0, 0};
        for (int64_t i = s; i < s + 32 && i < k; i++)
            half[i % 2] = fmaf(gr_bf16_to_f32(a[i]), gr_bf16_to_f32(b[i * b_k]), half[i % 2]);
        volatile float both = half[0] + half[1];
        sum = sum + both;
    }
    return sum;
}

/* Ordinary numbers, such that products leave the range of normal ones, or any bits at all. */
static uint16_t draw(int kind, uint64_t seed, uint64_t i) {
    const uint64_t r = gr_rng_u64(seed, gr_rng_stream(GR_RNG_TEST, 7), i);
    if (kind == 2) return (uint16_t)r;
    const uint64_t exponent = kind == 0 ? 120 + r / 65536 % 10 : r / 65536 % 130;
    return (uint16_t)((r & 0x8000) | exponent << 7 | (r & 127));
}

static void same(float want, float got, const char *what, int64_t m, int64_t k, int kind) {
    if (isnan(want) ? isnan(got) : memcmp(&want, &got, 4) == 0) return;
    fail_msg("%s, %d rows, k %d, numbers of kind %d: expected %a, found %a", what, (int)m, (int)k, kind, want, got);
}

static void one_shape(gr_device *d, int64_t m, int64_t n, int64_t k, int kind, uint64_t seed) {
    static uint16_t a[MOST], b[MOST], at[MOST];
    static float c[MOST];
    for (int64_t i = 0; i < m * k; i++) a[i] = draw(kind, seed, (uint64_t)i);
    for (int64_t i = 0; i < n * k; i++) b[i] = draw(kind, seed + 1, (uint64_t)i);
    for (int form = 0; form < 3; form++) { /* x W^T, dy W, dy^T x */
        const bool ta = form == 2, tb = form == 0;
        for (int64_t i = 0; ta && i < m * k; i++) at[i % k * m + i / k] = a[i];
        assert_ok(gr_gemm(d, ta, tb, m, n, k, 1, GR_BF16, ta ? at : a, ta ? m : k, b, tb ? k : n, 0, GR_F32, c, n, &err));
        const unsigned kept = _mm_getcsr();
        _mm_setcsr(kept | 0x8040); /* subnormal operands and results are zero */
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) {
                volatile float want = element(a + i * k, tb ? b + j * k : b + j, tb ? 1 : n, k);
                _mm_setcsr(kept);
                same(want, c[i * n + j], form == 0 ? "x W^T" : form == 1 ? "dy W" : "dy^T x", m, k, kind);
                _mm_setcsr(kept | 0x8040);
            }
        _mm_setcsr(kept);
    }
}

static void sums_are_in_the_order_told(void **state) {
    (void)state;
    static const int64_t rows[] = {1, 3, 16, 33, 64, 65, 100}, columns[] = {1, 16, 40, 70}, ks[] = {64, 65, 96, 127, 200};
    gr_device *d = kcase_device(GR_CPU_AMX, 2);
    if (!d) skip();
    for (int kind = 0; kind < 3; kind++)
        for (size_t r = 0; r < GR_COUNT(rows); r++)
            for (size_t s = 0; s < GR_COUNT(ks); s++)
                one_shape(d, rows[r], columns[(r + s) % GR_COUNT(columns)], ks[s], kind, 10 * r + s);
    one_shape(d, 3, 5, 12400, 0, 1); /* more than one panel */
}

/* --- A row alone and among many ------------------------------------------------------------------------------------------- */

/* A matrix of two parts, the first in heads of 64 rows, which are stored in another order. */
enum { OUT = 128 + 75, IN = 288, ROWS = 130 };

static gr_matrix *stored_matrix(kcase *t, gr_dtype stored, bool permuted) {
    gr_matrix_spec spec = {.name = "w", .n_parts = 2, .dt = GR_BF16};
    for (int p = 0; p < 2; p++) {
        const int64_t out = p ? OUT - 128 : 128, in = gr_dtype_get(stored)->block_elements > 32 ? 256 : IN;
        const size_t bytes = gr_dtype_bytes(stored, (size_t)(out * in));
        unsigned char *data = kcase_alloc(t, bytes);
        /* small, whatever is a scale */
        for (size_t i = 0; i < bytes; i++) data[i] = (unsigned char)gr_rng_below(t->seed, (uint64_t)(5 + p), i, 48);
        spec.part[p] = (gr_matrix_part){.view = {stored, gr_shape2(out, in), data, bytes, NULL},
                                        .permuted_heads = permuted && !p ? 2 : 0};
    }
    gr_matrix *w;
    assert_ok(gr_matrix_new(t->dev, &spec, &w, &err));
    return w;
}

static void rows_do_not_see_each_other(void **state) {
    (void)state;
    static const gr_dtype types[] = {GR_Q4_0, GR_Q4_1, GR_Q5_0, GR_Q5_1, GR_Q8_0,
                                     GR_Q4_K, GR_Q5_K, GR_Q6_K, GR_BF16, GR_F32};
    gr_device *d = kcase_device(GR_CPU_AMX, 2);
    if (!d) skip();
    for (size_t type = 0; type < 2 * GR_COUNT(types); type++) {
        kcase t = {.dev = d, .dt = GR_BF16, .seed = 3 + type};
        gr_matrix *w = stored_matrix(&t, types[type / 2], type % 2);
        const int64_t in_ld = gr_matrix_in(w);
        kpair x = kcase_random(&t, GR_BF16, ROWS * in_ld, 1), dx = kcase_zeros(&t, GR_BF16, ROWS * in_ld);
        kpair many = kcase_zeros(&t, GR_BF16, ROWS * OUT), few = kcase_zeros(&t, GR_BF16, ROWS * OUT);
        kpair dx_few = kcase_zeros(&t, GR_BF16, ROWS * in_ld);
        assert_ok(gr_matrix_forward(w, ROWS, x.x, in_ld, GR_BF16, many.x, OUT, false, &err));
        assert_ok(gr_matrix_backward(w, ROWS, many.x, OUT, dx.x, in_ld, false, &err));
        for (int64_t r = 0, n = 1; r < ROWS; r += n, n = n * 2 + 1) {
            n = GR_MIN(n, ROWS - r);
            const void *in = kelement(GR_BF16, x.x, r * in_ld), *back = kelement(GR_BF16, many.x, r * OUT);
            assert_ok(gr_matrix_forward(w, n, in, in_ld, GR_BF16, kelement(GR_BF16, few.x, r * OUT), OUT, false, &err));
            assert_ok(gr_matrix_backward(w, n, back, OUT, kelement(GR_BF16, dx_few.x, r * in_ld), in_ld, false, &err));
        }
        assert_memory_equal(many.x, few.x, 2 * ROWS * OUT);
        assert_memory_equal(dx.x, dx_few.x, (size_t)(2 * ROWS * in_ld));
        gr_matrix_free(w);
        for (int i = 0; i < t.n_owned; i++) gr_free_aligned(NULL, t.owned[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused_registers_are_not_used),
        cmocka_unit_test(sums_are_in_the_order_told),
        cmocka_unit_test(rows_do_not_see_each_other),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    kcase_close();
    return failed;
}
#else
int main(void) { return 77; }
#endif
