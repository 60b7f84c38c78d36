/* A team waits in two ways: a thread looks for work for some microseconds, which the gaps between the loops of a pass are
 * shorter than, and then sleeps. Spinning longer, as OpenMP's pools do, starves whatever else the machine runs.
 *
 * The caller never waits for a thread that has not begun: a loop is a word (its number, whether it is open, how many of
 * the team are in it); a thread enters by adding itself to an open loop, and the caller, when no chunk is left, closes
 * it and waits for those inside only. On a busy machine a sleeping thread so costs nothing but its share of the work. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/base.h"

enum { SPINS = 3000 }; /* looks before sleeping, about 40 microseconds */

typedef struct loop {
    gr_parallel_fn fn;
    void *arg;
    size_t n, grain;
    atomic_size_t next;
} loop;

typedef struct worker {
    gr_team *team;
    pthread_t id;
    int number;
} worker;

struct gr_team {
    const graft_allocator *a;
    int n_threads, n_started; /* n_started: without the caller; -1: none could be */
    pthread_mutex_t running;  /* held while a loop runs */
    loop work;
    atomic_uint_fast64_t state; /* number of the loop << 32 | OPEN | threads inside */
    atomic_bool leave;
    pthread_mutex_t lock; /* sleeping and waking */
    pthread_cond_t begun, done;
    atomic_int sleepers;
    atomic_bool caller_sleeps;
    worker workers[];
};

#define OPEN ((uint_fast64_t)1 << 31)
#define INSIDE (OPEN - 1)

static inline void look_again(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void run_chunks(loop *l, int thread) {
    for (;;) {
        size_t begin = atomic_fetch_add_explicit(&l->next, l->grain, memory_order_relaxed);
        if (begin >= l->n) return;
        l->fn(l->arg, begin, l->n - begin < l->grain ? l->n : begin + l->grain, thread);
    }
}

/* --- A thread of the team --------------------------------------------------------------------------------------------- */

/* Waits for a loop with another number than `seen`. */
static uint_fast64_t wait_for_work(gr_team *t, uint_fast64_t seen) {
    uint_fast64_t now;
    for (int i = 0; i < SPINS; i++, look_again())
        if ((now = atomic_load(&t->state)) >> 32 != seen || atomic_load(&t->leave)) return now;
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add(&t->sleepers, 1);
    while ((now = atomic_load(&t->state)) >> 32 == seen && !atomic_load(&t->leave)) pthread_cond_wait(&t->begun, &t->lock);
    atomic_fetch_sub(&t->sleepers, 1);
    pthread_mutex_unlock(&t->lock);
    return now;
}

static void leave_loop(gr_team *t) {
    uint_fast64_t before = atomic_fetch_sub(&t->state, 1);
    if ((before & INSIDE) != 1 || !atomic_load(&t->caller_sleeps)) return;
    pthread_mutex_lock(&t->lock);
    pthread_cond_signal(&t->done);
    pthread_mutex_unlock(&t->lock);
}

static void *work(void *arg) {
    worker *w = arg;
    gr_team *t = w->team;
    uint_fast64_t seen = 0;
    while (!atomic_load(&t->leave)) {
        uint_fast64_t now = wait_for_work(t, seen);
        seen = now >> 32;
        while ((now & OPEN) && now >> 32 == seen)
            if (atomic_compare_exchange_weak(&t->state, &now, now + 1)) {
                run_chunks(&t->work, w->number);
                leave_loop(t);
                break;
            }
    }
    return NULL;
}

/* --- The caller ------------------------------------------------------------------------------------------------------------ */

/* Signals stay with the threads of the program. */
static void start(gr_team *t) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 0; i < t->n_threads - 1; i++) {
        worker *w = &t->workers[i];
        *w = (worker){.team = t, .number = i + 1};
        if (pthread_create(&w->id, NULL, work, w) != 0) break;
        t->n_started = i + 1;
    }
    if (!t->n_started) t->n_started = -1;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void wait_for_others(gr_team *t) {
    for (int i = 0; i < SPINS; i++, look_again())
        if (!(atomic_load(&t->state) & INSIDE)) return;
    pthread_mutex_lock(&t->lock);
    atomic_store(&t->caller_sleeps, true);
    while (atomic_load(&t->state) & INSIDE) pthread_cond_wait(&t->done, &t->lock);
    atomic_store(&t->caller_sleeps, false);
    pthread_mutex_unlock(&t->lock);
}

static void run_alone(size_t n, size_t grain, gr_parallel_fn fn, void *arg) {
    for (size_t begin = 0; begin < n; begin += GR_MIN(grain, n - begin)) fn(arg, begin, begin + GR_MIN(grain, n - begin), 0);
}

void gr_parallel_for(gr_team *t, size_t n, size_t grain, gr_parallel_fn fn, void *arg) {
    if (n == 0) return;
    if (grain == 0) grain = 1;
    if (!t || t->n_threads <= 1 || n <= grain || pthread_mutex_trylock(&t->running) != 0) {
        run_alone(n, grain, fn, arg);
        return;
    }
    if (!t->n_started) start(t);
    if (t->n_started < 0) {
        pthread_mutex_unlock(&t->running);
        run_alone(n, grain, fn, arg);
        return;
    }
    t->work.fn = fn;
    t->work.arg = arg;
    t->work.n = n;
    t->work.grain = grain;
    atomic_store_explicit(&t->work.next, 0, memory_order_relaxed);
    uint_fast64_t number = (atomic_load(&t->state) >> 32) + 1;
    atomic_store(&t->state, (number & UINT32_MAX) << 32 | OPEN);
    if (atomic_load(&t->sleepers)) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->begun);
        pthread_mutex_unlock(&t->lock);
    }
    run_chunks(&t->work, 0);
    atomic_fetch_and(&t->state, ~OPEN);
    wait_for_others(t);
    pthread_mutex_unlock(&t->running);
}

graft_status gr_team_new(const graft_allocator *a, int n_threads, gr_team **out, graft_error *err) {
    int others = GR_MAX(n_threads, 1) - 1;
    gr_team *t = gr_calloc(a, 1, sizeof *t + (size_t)others * sizeof *t->workers);
    if (!t) return gr_fail_memory(err);
    t->a = a;
    t->n_threads = others + 1;
    pthread_mutex_init(&t->running, NULL);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->begun, NULL);
    pthread_cond_init(&t->done, NULL);
    *out = t;
    return GRAFT_OK;
}

void gr_team_free(gr_team *t) {
    if (!t) return;
    pthread_mutex_lock(&t->lock);
    atomic_store(&t->leave, true);
    pthread_cond_broadcast(&t->begun);
    pthread_mutex_unlock(&t->lock);
    for (int i = 0; i < t->n_started; i++) pthread_join(t->workers[i].id, NULL);
    pthread_cond_destroy(&t->done);
    pthread_cond_destroy(&t->begun);
    pthread_mutex_destroy(&t->lock);
    pthread_mutex_destroy(&t->running);
    gr_free(t->a, t);
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
