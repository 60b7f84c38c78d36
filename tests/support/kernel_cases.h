/* Running one kernel case on every CPU level, type and thread count. The reference is the portable kernel in double on
 * the same (already rounded) inputs. */
#ifndef TEST_KERNEL_CASES_H
#define TEST_KERNEL_CASES_H

#include "kernel/kernel.h"
#include "support/support.h"

typedef struct kcase {
    gr_device *dev;     /* under test */
    gr_device *ref;     /* generic, for F64 */
    gr_dtype dt;        /* F32 or BF16 */
    bool split;         /* give the rows one call each: the bits must not change */
    bool poison;        /* one NaN and one infinity among the inputs */
    uint64_t seed, n_draws;
    int64_t rows, cols; /* odd sizes, another pair for each seed */
    uint64_t digest;    /* of all outputs so far */
    void *owned[256];
    int n_owned;
} kcase;

typedef void (*kcase_fn)(kcase *t);

/* Runs fn for every level, type and thread count on n_seeds sizes, whole and split, clean and poisoned; compares digests. */
void kcase_run(const char *name, kcase_fn fn, int n_seeds);
/* One device of a level (threads 1 to 3), or NULL where the machine lacks it. Freed by kcase_close. */
gr_device *kcase_device(gr_cpu_level level, int n_threads);
void kcase_close(void);

/* n values of type dt around 0 with spread `scale`, and the same in double. Memory lives until the case ends. */
typedef struct kpair {
    void *x;
    double *ref;
    gr_dtype dt;
    int64_t n;
} kpair;
kpair kcase_random(kcase *t, gr_dtype dt, int64_t n, double scale);
kpair kcase_zeros(kcase *t, gr_dtype dt, int64_t n);
void *kcase_alloc(kcase *t, size_t bytes);
uint64_t kcase_draw(kcase *t, uint64_t below);
/* Element i as double. */
double kvalue(gr_dtype dt, const void *x, int64_t i);
void *kelement(gr_dtype dt, void *x, int64_t i);

/* Adds p.x to the digest, and asserts |p.x - p.ref| <= tol * max(scale, |p.ref|) with the type's own rounding added.
 * Not finite must meet not finite. */
void kcase_check(kcase *t, const char *what, kpair p, double tol, double scale);
void kcase_digest(kcase *t, const void *bytes, size_t n);

/* Row ranges of a call: all at once, or one after the other when split. */
#define KCASE_ROWS(t, n, r, m)                                                                                         \
    for (int64_t r = 0, m = (t)->split ? GR_MIN((int64_t)1, n) : (n); r < (n); r += m)

#endif
