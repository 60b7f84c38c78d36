/* The largest singular triplets and the QR factors of a matrix, in double: what factors of weights are made of. Elements are
 * sums in one order, whatever the number of threads. */
#ifndef GR_BASE_LINALG_H
#define GR_BASE_LINALG_H

#include "base/threads.h"

/* w (m,n) ~ sum over i < r of s[i] u_i v_i^T with s falling: row i of u (r,m) and of v (r,n) is a vector of length 1. Where w
 * has a smaller rank the rest is zeros. r is at most min(m, n). rounds < 0: the singular triplets, found in a block Krylov
 * space (Musco & Musco 2015) that grows until they stand still; else the subspace iteration of Halko et al. 2011, algorithm
 * 4.4, with r columns and this many rounds. `seed` chooses the first vectors. GRAFT_ERR_NUMERIC: w is not finite. */
graft_status gr_svd_largest(const graft_allocator *a, gr_team *team, const float *w, int64_t m, int64_t n, int64_t r, int rounds,
                            uint64_t seed, double *u, double *s, double *v, graft_error *err);

/* The first r columns of Q, as rows of q (r,m), and the first r rows of R (r,n) of w (m,n) = Q R by reflections, the diagonal's
 * signs as LAPACK has them. r is at most min(m, n). */
graft_status gr_qr_leading(const graft_allocator *a, gr_team *team, const float *w, int64_t m, int64_t n, int64_t r, double *q,
                           double *rr, graft_error *err);

/* Eigenvalues of the symmetric x (n,n), falling, and row i of vectors (n,n) of length 1 for each; x is destroyed. */
graft_status gr_eigen_symmetric(const graft_allocator *a, double *x, int64_t n, double *values, double *vectors, graft_error *err);

#endif
