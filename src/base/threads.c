/* GOMP_parallel is libgomp's stable entry point for `#pragma omp parallel`. Calling it by name gives GCC and clang builds
 * the same pool; clang's own pragma would bring libomp and, in a program that uses GCC's OpenMP, a second pool. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/base.h"

extern void GOMP_parallel(void (*fn)(void *), void *data, unsigned n_threads, unsigned flags);
extern int omp_get_thread_num(void);
extern int omp_in_parallel(void);

typedef struct loop {
    gr_parallel_fn fn;
    void *arg;
    size_t n, grain;
    atomic_size_t next;
} loop;

static void run_chunks(void *data) {
    loop *l = data;
    int thread = omp_get_thread_num();
    for (;;) {
        size_t begin = atomic_fetch_add_explicit(&l->next, l->grain, memory_order_relaxed);
        if (begin >= l->n) return;
        size_t end = l->n - begin < l->grain ? l->n : begin + l->grain;
        l->fn(l->arg, begin, end, thread);
    }
}

void gr_parallel_for(int n_threads, size_t n, size_t grain, gr_parallel_fn fn, void *arg) {
    if (n == 0) return;
    if (grain == 0) grain = 1;
    size_t chunks = (n - 1) / grain + 1;
    bool nested = omp_in_parallel() != 0;
    if (n_threads <= 1 || chunks == 1 || nested) {
        int thread = nested ? omp_get_thread_num() : 0;
        for (size_t begin = 0; begin < n; begin += grain) fn(arg, begin, GR_MIN(n, begin + grain), thread);
        return;
    }
    loop l = {.fn = fn, .arg = arg, .n = n, .grain = grain};
    atomic_init(&l.next, 0);
    GOMP_parallel(run_chunks, &l, (unsigned)GR_MIN((size_t)n_threads, chunks), 0);
}

/* cgroup v2 "max 100000" or "200000 100000": the quota in CPUs, 0 where there is none. */
static int cgroup_cpus(void) {
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (!f) return 0;
    long quota = 0, period = 0;
    int got = fscanf(f, "%ld %ld", &quota, &period);
    fclose(f);
    if (got != 2 || quota <= 0 || period <= 0) return 0;
    return (int)((quota + period - 1) / period);
}

int gr_cpu_count(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    int quota = cgroup_cpus();
    if (quota && quota < n) n = quota;
    return n < 1 ? 1 : n;
}
