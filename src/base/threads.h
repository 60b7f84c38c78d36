/* Parallel loops on a team of threads.
 *
 * Determinism: the work is cut into items that do not depend on the number of threads, an item writes only what is its
 * own, and nothing is reduced across items in an order that threads decide. */
#ifndef GR_BASE_THREADS_H
#define GR_BASE_THREADS_H

#include <stddef.h>
#include "graft/context.h"

/* The calling thread and n_threads - 1 others, which are started at the first loop that needs them. */
typedef struct gr_team gr_team;
graft_status gr_team_new(const graft_allocator *a, int n_threads, gr_team **out, graft_error *err);
/* No loop may be running. NULL does nothing. */
void gr_team_free(gr_team *t);

/* Runs items [begin, end) on thread number `thread` (0 .. n_threads-1: index of per-thread scratch). */
typedef void (*gr_parallel_fn)(void *arg, size_t begin, size_t end, int thread);

/* Splits items 0..n-1 into chunks of `grain` items (the last may be shorter) and runs them on the team, dynamically. From
 * inside an item, while another thread runs a loop on the same team, where no thread can be started, and on a team of NULL
 * it runs on the calling thread alone, as thread 0. */
void gr_parallel_for(gr_team *team, size_t n, size_t grain, gr_parallel_fn fn, void *arg);

int gr_cpu_count(void); /* CPUs that this process may use (affinity and cgroup quota), at least 1 */

#endif
