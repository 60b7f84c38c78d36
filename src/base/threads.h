/* Parallel loops on libgomp's pool: a program that uses OpenMP itself (GCC's) shares its threads with the library.
 *
 * Determinism: the work is cut into items that do not depend on the number of threads, an item writes only what is its
 * own, and nothing is reduced across items in an order that threads decide. */
#ifndef GR_BASE_THREADS_H
#define GR_BASE_THREADS_H

#include <stddef.h>
#include "graft/context.h"

/* Runs item [begin, end) on thread number `thread` (0 .. n_threads-1: index of per-thread scratch). */
typedef void (*gr_parallel_fn)(void *arg, size_t begin, size_t end, int thread);

/* Splits items 0..n-1 into chunks of `grain` items (the last may be shorter) and runs them on up to n_threads
 * threads, dynamically. Called from inside a parallel item it runs serially. */
void gr_parallel_for(int n_threads, size_t n, size_t grain, gr_parallel_fn fn, void *arg);

int gr_cpu_count(void); /* CPUs that this process may use (affinity and cgroup quota), at least 1 */

#endif
