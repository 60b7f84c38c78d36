/* Singular triplets, eigenvalues and QR factors against what defines them. */
#include "support/support.h"

#include <math.h>

#include "base/linalg.h"

static double at(const double *x, const double *y, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* Singular values falling slowly, as weights have them; the last `null` are zero. */
static float *matrix(int64_t m, int64_t n, int64_t rank, uint64_t seed) {
    float *w = calloc((size_t)(m * n), sizeof *w);
    assert_non_null(w);
    for (int64_t i = 0; i < m; i++)
        for (int64_t c = 0; c < n; c++) {
            double x = 0;
            for (int64_t k = 0; k < rank; k++)
                x += gr_rng_normal(seed, 1, (uint64_t)(i * rank + k)) * gr_rng_normal(seed, 2, (uint64_t)(c * rank + k)) /
                     (double)(3 + k);
            w[i * n + c] = (float)x;
        }
    return w;
}

static void check_triplets(const float *w, int64_t m, int64_t n, int64_t r, const double *u, const double *s, const double *v,
                           double within) {
    for (int64_t i = 0; i < r; i++) {
        if (i) assert_true(s[i] <= s[i - 1] + 1e-7 * s[0]);
        for (int64_t j = 0; j < i; j++) assert_true(fabs(at(u + i * m, u + j * m, m)) < 1e-9);
        for (int64_t c = 0; c < n; c++) { /* w^T u = s v */
            double x = 0;
            for (int64_t k = 0; k < m; k++) x += (double)w[k * n + c] * u[i * m + k];
            assert_true(fabs(x - s[i] * v[i * n + c]) < 1e-9 * (s[0] + 1e-300));
        }
        if (s[i] < 1e-3 * s[0]) continue; /* what rounding w to float added */
        for (int64_t k = 0; k < m; k++) { /* w v = s u */
            double x = 0;
            for (int64_t c = 0; c < n; c++) x += (double)w[k * n + c] * v[i * n + c];
            assert_true(fabs(x - s[i] * u[i * m + k]) < within * (s[0] + 1e-300));
        }
    }
}

static void triplets_are_the_largest(void **state) {
    (void)state;
    static const struct {
        int64_t m, n, rank, r;
    } cases[] = {{1, 1, 1, 1}, {5, 3, 3, 3}, {3, 7, 3, 2}, {40, 60, 40, 8}, {90, 30, 30, 30}, {64, 64, 5, 9}, {20, 30, 0, 4},
                 {200, 150, 150, 12}};
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        int64_t m = cases[i].m, n = cases[i].n, r = cases[i].r, least = GR_MIN(m, n);
        float *w = matrix(m, n, cases[i].rank, 5 + i);
        double *u = calloc((size_t)(r * m), 8), *v = calloc((size_t)(r * n), 8), *s = calloc((size_t)r, 8);
        double *again = calloc((size_t)(r * m), 8), *gram = calloc((size_t)(m * m), 8), *values = calloc((size_t)m, 8),
               *vectors = calloc((size_t)(m * m), 8);
        gr_team *team;
        assert_ok(gr_team_new(NULL, 2, &team, &err));
        assert_ok(gr_svd_largest(NULL, NULL, w, m, n, r, -1, 7, u, s, v, &err));
        check_triplets(w, m, n, r, u, s, v, 1e-7);
        assert_ok(gr_svd_largest(NULL, team, w, m, n, r, -1, 7, again, s, v, &err));
        assert_memory_equal(u, again, (size_t)(r * m) * 8);
        for (int64_t k = 0; k < m; k++)
            for (int64_t q = 0; q < m; q++)
                for (int64_t c = 0; c < n; c++) gram[k * m + q] += (double)w[k * n + c] * (double)w[q * n + c];
        assert_ok(gr_eigen_symmetric(NULL, gram, m, values, vectors, &err));
        for (int64_t k = 0; k < r; k++) assert_true(fabs(values[k] - s[k] * s[k]) < 1e-9 * (values[0] + 1e-300));
        assert_ok(gr_svd_largest(NULL, team, w, m, n, r, 40, 7, u, again, v, &err));
        if (cases[i].rank > 0 && r < least) assert_true(fabs(again[0] - s[0]) < 1e-6 * s[0]);
        gr_team_free(team);
        double *const all[] = {u, v, s, again, gram, values, vectors};
        for (size_t k = 0; k < GR_COUNT(all); k++) free(all[k]);
        free(w);
    }
}

static void qr_gives_the_matrix_back(void **state) {
    (void)state;
    enum { M = 23, N = 17, R = 17 };
    float *w = matrix(M, N, N, 3);
    double q[R * M], rr[R * N];
    assert_ok(gr_qr_leading(NULL, NULL, w, M, N, R, q, rr, &err));
    for (int i = 0; i < R; i++) {
        for (int j = 0; j <= i; j++) assert_true(fabs(at(q + i * M, q + j * M, M) - (i == j)) < 1e-12);
        for (int j = 0; j < i; j++) assert_true(rr[i * N + j] == 0);
    }
    assert_true((w[0] > 0) == (rr[0] < 0)); /* the sign that a reflection gives */
    for (int i = 0; i < M; i++)
        for (int c = 0; c < N; c++) {
            double x = 0;
            for (int k = 0; k < R; k++) x += q[k * M + i] * rr[k * N + c];
            assert_true(fabs(x - (double)w[i * N + c]) < 1e-12);
        }
    free(w);
}

static void what_is_not_finite_is_refused(void **state) {
    (void)state;
    float w[4] = {1, NAN, 0, 2};
    double u[2], s[1], v[2];
    assert_int_equal(gr_svd_largest(NULL, NULL, w, 2, 2, 1, -1, 7, u, s, v, NULL), GRAFT_ERR_NUMERIC);
    assert_int_equal(gr_qr_leading(NULL, NULL, w, 2, 2, 1, u, v, NULL), GRAFT_ERR_NUMERIC);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(triplets_are_the_largest),
        cmocka_unit_test(qr_gives_the_matrix_back),
        cmocka_unit_test(what_is_not_finite_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
