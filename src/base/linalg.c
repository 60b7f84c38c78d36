/* Blocks of vectors are stored one vector a row, so that every inner loop runs along memory. */
#include <float.h>
#include <math.h>

#include "base/base.h"
#include "base/linalg.h"

enum { LANES = 8, CHUNK = 64, MAX_STEPS = 100 };

static double dot(const double *x, const double *y, int64_t n) {
    double acc[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) acc[l] += x[i + l] * y[i + l];
    for (int l = 0; l < LANES; l++) sum += acc[l];
    for (; i < n; i++) sum += x[i] * y[i];
    return sum;
}

static double dot_mixed(const double *x, const float *y, int64_t n) {
    double acc[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) acc[l] += x[i + l] * (double)y[i + l];
    for (int l = 0; l < LANES; l++) sum += acc[l];
    for (; i < n; i++) sum += x[i] * (double)y[i];
    return sum;
}

static void add_scaled(double *y, double f, const double *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += f * x[i];
}

/* --- Products with w ------------------------------------------------------------------------------------------------------ */

typedef struct product {
    const float *w;
    int64_t m, n, k;
    const double *x;
    double *y;
} product;

static void times_columns(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    const product *p = arg;
    for (size_t c = begin; c < end; c++) {
        int64_t from = (int64_t)c * CHUNK, width = GR_MIN((int64_t)CHUNK, p->n - from);
        for (int64_t j = 0; j < p->k; j++) memset(p->y + j * p->n + from, 0, (size_t)width * sizeof(double));
        for (int64_t i = 0; i < p->m; i++)
            for (int64_t j = 0; j < p->k; j++) {
                double f = p->x[j * p->m + i], *y = p->y + j * p->n + from;
                const float *w = p->w + i * p->n + from;
                for (int64_t q = 0; q < width; q++) y[q] += f * (double)w[q];
            }
    }
}

/* y (k,n) = x (k,m) w */
static void times_w(gr_team *team, const float *w, int64_t m, int64_t n, int64_t k, const double *x, double *y) {
    product p = {w, m, n, k, x, y};
    gr_parallel_for(team, (size_t)((n + CHUNK - 1) / CHUNK), 1, times_columns, &p);
}

static void times_rows(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    const product *p = arg;
    for (size_t i = begin; i < end; i++)
        for (int64_t j = 0; j < p->k; j++)
            p->y[j * p->m + (int64_t)i] = dot_mixed(p->x + j * p->n, p->w + (int64_t)i * p->n, p->n);
}

/* y (k,m) = x (k,n) w^T */
static void times_wt(gr_team *team, const float *w, int64_t m, int64_t n, int64_t k, const double *x, double *y) {
    product p = {w, m, n, k, x, y};
    gr_parallel_for(team, (size_t)m, 16, times_rows, &p);
}

/* --- Symmetric eigenvalues ------------------------------------------------------------------------------------------------- */

/* x becomes tridiagonal: d its diagonal, e what stands beside it; reflector j, of length 1, in row j of h from j + 1 on. */
static void tridiagonal(double *x, int64_t n, double *d, double *e, double *h, double *p) {
    memset(h, 0, (size_t)(n * n) * sizeof *h);
    for (int64_t j = 0; j + 1 < n; j++) {
        double *v = h + j * n, norm;
        for (int64_t i = j + 1; i < n; i++) v[i] = x[i * n + j];
        norm = sqrt(dot(v + j + 1, v + j + 1, n - j - 1));
        double alpha = v[j + 1] > 0 ? -norm : norm;
        d[j] = x[j * n + j];
        e[j] = alpha;
        v[j + 1] -= alpha;
        double length = sqrt(dot(v + j + 1, v + j + 1, n - j - 1));
        if (length == 0) continue; /* nothing to reflect */
        for (int64_t i = j + 1; i < n; i++) v[i] /= length;
        for (int64_t i = j + 1; i < n; i++) p[i] = 2 * dot(x + i * n + j + 1, v + j + 1, n - j - 1);
        double half = dot(p + j + 1, v + j + 1, n - j - 1);
        add_scaled(p + j + 1, -half, v + j + 1, n - j - 1);
        for (int64_t i = j + 1; i < n; i++) {
            add_scaled(x + i * n + j + 1, -v[i], p + j + 1, n - j - 1);
            add_scaled(x + i * n + j + 1, -p[i], v + j + 1, n - j - 1);
        }
    }
    d[n - 1] = x[n * n - 1];
}

/* One implicit QR step with Wilkinson's shift on rows lo .. hi (Golub & Van Loan, algorithm 8.3.2). */
static void qr_step(double *d, double *e, double *z, int64_t n, int64_t lo, int64_t hi) {
    double half = (d[hi - 1] - d[hi]) / 2, e2 = e[hi - 1] * e[hi - 1];
    double far = half + copysign(hypot(half, e[hi - 1]), half);
    double x = d[lo] - (d[hi] - (far != 0 ? e2 / far : 0)), bulge = e[lo];
    for (int64_t k = lo; k < hi; k++) {
        double r = hypot(x, bulge), c = r > 0 ? x / r : 1, s = r > 0 ? bulge / r : 0;
        if (k > lo) e[k - 1] = r;
        double d0 = d[k], d1 = d[k + 1], f = e[k];
        d[k] = c * c * d0 + 2 * c * s * f + s * s * d1;
        d[k + 1] = s * s * d0 - 2 * c * s * f + c * c * d1;
        e[k] = c * s * (d1 - d0) + (c * c - s * s) * f;
        if (k + 1 < hi) {
            x = e[k];
            bulge = s * e[k + 1];
            e[k + 1] *= c;
        }
        double *a = z + k * n, *b = a + n;
        for (int64_t i = 0; i < n; i++) {
            double t = c * a[i] + s * b[i];
            b[i] = c * b[i] - s * a[i];
            a[i] = t;
        }
    }
}

static graft_status diagonal(double *d, double *e, double *z, int64_t n, graft_error *err) {
    int steps = 0;
    for (int64_t hi = n - 1; hi > 0;) {
        int64_t lo = hi;
        while (lo > 0 && fabs(e[lo - 1]) > DBL_EPSILON * (fabs(d[lo - 1]) + fabs(d[lo]))) lo--;
        if (lo == hi) {
            hi--;
            steps = 0;
            continue;
        }
        if (++steps > MAX_STEPS) return gr_fail(err, GRAFT_ERR_NUMERIC, "the eigenvalues of a matrix were not found");
        qr_step(d, e, z, n, lo, hi);
    }
    return GRAFT_OK;
}

static void sort_falling(double *d, double *z, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        int64_t most = i;
        for (int64_t k = i + 1; k < n; k++)
            if (d[k] > d[most]) most = k;
        if (most == i) continue;
        double t = d[i];
        d[i] = d[most];
        d[most] = t;
        for (int64_t c = 0; c < n; c++) {
            t = z[i * n + c];
            z[i * n + c] = z[most * n + c];
            z[most * n + c] = t;
        }
    }
}

graft_status gr_eigen_symmetric(const graft_allocator *a, double *x, int64_t n, double *values, double *vectors,
                                graft_error *err) {
    double *h = gr_alloc(a, (size_t)(n * n + 2 * n) * sizeof *h), *e = h ? h + n * n : NULL;
    if (!h) return gr_fail_memory(err);
    tridiagonal(x, n, values, e, h, e + n);
    for (int64_t i = 0; i < n; i++) { /* row i: column i of the product of the reflections */
        double *z = vectors + i * n;
        memset(z, 0, (size_t)n * sizeof *z);
        z[i] = 1;
        for (int64_t j = i - 1; j >= 0; j--)
            add_scaled(z + j + 1, -2 * dot(h + j * n + j + 1, z + j + 1, n - j - 1), h + j * n + j + 1, n - j - 1);
    }
    graft_status st = diagonal(values, e, vectors, n, err);
    if (st == GRAFT_OK) sort_falling(values, vectors, n);
    gr_free(a, h);
    return st;
}

/* --- Singular triplets ------------------------------------------------------------------------------------------------------ */

typedef struct space {
    const graft_allocator *a;
    gr_team *team;
    const float *w;
    int64_t m, n, r, block, most; /* vectors of a block, of the basis */
    double *basis, *image;        /* (k,m), (k,n) = basis w */
    int64_t k;
    double *next;                 /* (block,m) */
    double *gram, *values, *vectors; /* of image image^T */
} space;

static void free_space(space *s) {
    double *const all[] = {s->basis, s->image, s->next, s->gram, s->values, s->vectors};
    for (size_t i = 0; i < GR_COUNT(all); i++) gr_free(s->a, all[i]);
}

static graft_status grow(space *s, int64_t rows, graft_error *err) {
    struct {
        double **to;
        int64_t width;
    } parts[] = {{&s->basis, s->m}, {&s->image, s->n}, {&s->gram, rows}, {&s->vectors, rows}, {&s->values, 1}};
    if (rows <= s->most) return GRAFT_OK;
    for (size_t i = 0; i < GR_COUNT(parts); i++) {
        double *more = gr_calloc(s->a, (size_t)rows, (size_t)parts[i].width * sizeof *more);
        if (!more) return gr_fail_memory(err);
        if (i < 2 && s->k) memcpy(more, *parts[i].to, (size_t)(s->k * parts[i].width) * sizeof *more);
        gr_free(s->a, *parts[i].to);
        *parts[i].to = more;
    }
    s->most = rows;
    return GRAFT_OK;
}

/* Makes rows of x (count, width) orthonormal, to the k rows of `to` as well; drops those of which at most `least` is left. What
 * stays is counted; *left gets the largest part of a row that the rows of `to` did not explain. */
static int64_t orthonormal(double *x, int64_t count, int64_t width, const double *to, int64_t k, double least, double *left) {
    int64_t kept = 0;
    *left = 0;
    for (int64_t i = 0; i < count; i++) {
        double *row = x + kept * width, length = 0;
        if (kept != i) memcpy(row, x + i * width, (size_t)width * sizeof *row);
        for (int turn = 0; turn < 3; turn++) { /* the second repairs what rounding left, the third what the second did */
            for (int64_t j = 0; j < k; j++) add_scaled(row, -dot(row, to + j * width, width), to + j * width, width);
            if (turn == 0) *left = GR_MAX(*left, sqrt(dot(row, row, width)));
            for (int64_t j = 0; j < kept; j++) add_scaled(row, -dot(row, x + j * width, width), x + j * width, width);
            length = sqrt(dot(row, row, width));
            if (!(length > (turn == 0 ? least : 0))) break;
            for (int64_t c = 0; c < width; c++) row[c] /= length;
            if (turn == 1 && length > 0.5) break;
        }
        if (length > 0.5 || (length > 0 && length > least)) kept++;
    }
    return kept;
}

static void gram_rows(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    const space *s = arg;
    for (int64_t i = (int64_t)begin; i < (int64_t)end; i++)
        for (int64_t j = 0; j <= i; j++)
            s->gram[i * s->k + j] = s->gram[j * s->k + i] = dot(s->image + i * s->n, s->image + j * s->n, s->n);
}

/* The best triplets within the basis. */
static graft_status ritz(space *s, graft_error *err) {
    gr_parallel_for(s->team, (size_t)s->k, 4, gram_rows, s);
    return gr_eigen_symmetric(s->a, s->gram, s->k, s->values, s->vectors, err);
}

static void take(const space *s, double *u, double *sv, double *v) {
    for (int64_t i = 0; i < s->r; i++) {
        memset(u + i * s->m, 0, (size_t)s->m * sizeof *u);
        memset(v + i * s->n, 0, (size_t)s->n * sizeof *v);
        sv[i] = 0;
        if (i >= s->k || !(s->values[i] > 0)) continue;
        for (int64_t j = 0; j < s->k; j++) {
            add_scaled(u + i * s->m, s->vectors[i * s->k + j], s->basis + j * s->m, s->m);
            add_scaled(v + i * s->n, s->vectors[i * s->k + j], s->image + j * s->n, s->n);
        }
        sv[i] = sqrt(dot(v + i * s->n, v + i * s->n, s->n));
        for (int64_t c = 0; sv[i] > 0 && c < s->n; c++) v[i * s->n + c] /= sv[i];
    }
}

static void draw(double *x, int64_t n, uint64_t seed) {
    uint64_t stream = gr_rng_stream(GR_RNG_INIT, gr_hash_bytes("singular", 8, 0));
    for (int64_t i = 0; i < n; i++) x[i] = gr_rng_normal(seed, stream, (uint64_t)i);
}

/* The space of w w^T from random vectors on. The triplets stand still when what the next block adds to them is nothing. */
static graft_status krylov(space *s, uint64_t seed, graft_error *err) {
    const double still = 1e-9; /* of the largest, squared: with factors in single precision less shows nowhere */
    double left, coupling = 0;
    int64_t count = s->block, check = 3 * s->block;
    draw(s->next, count * s->m, seed);
    count = orthonormal(s->next, count, s->m, NULL, 0, 0, &left);
    for (;;) {
        GR_TRY(grow(s, GR_MIN(s->m, s->k + count <= s->most ? s->most : 2 * (s->k + count)), err));
        count = GR_MIN(count, s->most - s->k);
        int64_t last = s->k;
        memcpy(s->basis + s->k * s->m, s->next, (size_t)(count * s->m) * sizeof(double));
        times_w(s->team, s->w, s->m, s->n, count, s->next, s->image + s->k * s->n);
        s->k += count;
        times_wt(s->team, s->w, s->m, s->n, count, s->image + last * s->n, s->next);
        double scale = 0;
        for (int64_t i = 0; i < count; i++) scale = GR_MAX(scale, sqrt(dot(s->next + i * s->m, s->next + i * s->m, s->m)));
        int64_t more = s->k < s->m ? orthonormal(s->next, count, s->m, s->basis, s->k, 1e-13 * scale, &coupling) : 0;
        bool ends = more == 0;
        if (ends || s->k >= check) {
            GR_TRY(ritz(s, err));
            double worst = 0;
            for (int64_t i = 0; i < GR_MIN(s->r, s->k); i++) {
                const double *z = s->vectors + i * s->k + last;
                worst = GR_MAX(worst, sqrt(dot(z, z, s->k - last)) * coupling * sqrt((double)count));
            }
            if (ends || worst <= still * s->values[0]) return GRAFT_OK;
            check = s->k + GR_MAX(s->k / 3, s->block);
        }
        count = more;
    }
}

static graft_status subspace(space *s, int rounds, uint64_t seed, graft_error *err) {
    double left;
    GR_TRY(grow(s, s->r, err));
    draw(s->image, s->r * s->n, seed);
    times_wt(s->team, s->w, s->m, s->n, s->r, s->image, s->basis);
    s->k = orthonormal(s->basis, s->r, s->m, NULL, 0, 0, &left);
    for (int i = 0; i < rounds && s->k; i++) {
        times_w(s->team, s->w, s->m, s->n, s->k, s->basis, s->image);
        s->k = orthonormal(s->image, s->k, s->n, NULL, 0, 0, &left);
        times_wt(s->team, s->w, s->m, s->n, s->k, s->image, s->basis);
        s->k = orthonormal(s->basis, s->k, s->m, NULL, 0, 0, &left);
    }
    times_w(s->team, s->w, s->m, s->n, s->k, s->basis, s->image);
    return s->k ? ritz(s, err) : GRAFT_OK;
}

static graft_status check_finite(const float *w, int64_t n, graft_error *err) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(w[i])) return gr_fail(err, GRAFT_ERR_NUMERIC, "element %lld of the weight is %g", (long long)i, (double)w[i]);
    return GRAFT_OK;
}

graft_status gr_svd_largest(const graft_allocator *a, gr_team *team, const float *w, int64_t m, int64_t n, int64_t r, int rounds,
                            uint64_t seed, double *u, double *s, double *v, graft_error *err) {
    space sp = {.a = a, .team = team, .w = w, .m = m, .n = n, .r = r, .block = GR_MIN(r + 8, GR_MIN(m, n))};
    GR_TRY(check_finite(w, m * n, err));
    sp.next = gr_alloc(a, (size_t)(sp.block * m) * sizeof *sp.next);
    graft_status st = sp.next ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK) st = rounds < 0 ? krylov(&sp, seed, err) : subspace(&sp, rounds, seed, err);
    if (st == GRAFT_OK) take(&sp, u, s, v);
    free_space(&sp);
    return st;
}

/* --- QR --------------------------------------------------------------------------------------------------------------------- */

/* Reflector j of the column x[j ..] in row j of h, of length 1; zero where there is nothing to reflect. */
static void reflector(const double *x, int64_t m, int64_t j, double *h) {
    memset(h, 0, (size_t)m * sizeof *h);
    memcpy(h + j, x + j, (size_t)(m - j) * sizeof *h);
    double below = sqrt(dot(h + j + 1, h + j + 1, m - j - 1));
    if (below == 0) {
        memset(h, 0, (size_t)m * sizeof *h);
        return;
    }
    h[j] += copysign(hypot(h[j], below), h[j]);
    double length = sqrt(dot(h + j, h + j, m - j));
    for (int64_t i = j; i < m; i++) h[i] /= length;
}

graft_status gr_qr_leading(const graft_allocator *a, gr_team *team, const float *w, int64_t m, int64_t n, int64_t r, double *q,
                           double *rr, graft_error *err) {
    GR_TRY(check_finite(w, m * n, err));
    double *h = gr_alloc(a, (size_t)(2 * r * m) * sizeof *h), *x = h ? h + r * m : NULL;
    if (!h) return gr_fail_memory(err);
    for (int64_t j = 0; j < r; j++)
        for (int64_t i = 0; i < m; i++) x[j * m + i] = (double)w[i * n + j];
    for (int64_t j = 0; j < r; j++) {
        reflector(x + j * m, m, j, h + j * m);
        for (int64_t c = j; c < r; c++) add_scaled(x + c * m, -2 * dot(h + j * m, x + c * m, m), h + j * m, m);
    }
    for (int64_t i = 0; i < r; i++) {
        memset(q + i * m, 0, (size_t)m * sizeof *q);
        q[i * m + i] = 1;
        for (int64_t j = i; j >= 0; j--) add_scaled(q + i * m, -2 * dot(h + j * m, q + i * m, m), h + j * m, m);
    }
    times_w(team, w, m, n, r, q, rr);
    for (int64_t i = 0; i < r; i++) memset(rr + i * n, 0, (size_t)i * sizeof *rr);
    gr_free(a, h);
    return GRAFT_OK;
}
