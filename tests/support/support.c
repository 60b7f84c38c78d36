#define _GNU_SOURCE
#include "support/support.h"

#include <unistd.h>

static void *counting_resize(void *user, void *ptr, size_t size) {
    test_allocator *t = user;
    if (size == 0) {
        if (ptr) __atomic_sub_fetch(&t->live, 1, __ATOMIC_RELAXED);
        free(ptr);
        return NULL;
    }
    long call = __atomic_add_fetch(&t->calls, 1, __ATOMIC_RELAXED);
    if (t->fail_at && call >= t->fail_at) return NULL;
    void *p = realloc(ptr, size);
    if (p && !ptr) __atomic_add_fetch(&t->live, 1, __ATOMIC_RELAXED);
    return p;
}

void test_allocator_init(test_allocator *t) {
    *t = (test_allocator){.allocator = {.resize = counting_resize}};
    t->allocator.user = t;
}

void test_allocation_sweep(test_body body, void *arg, long max, long step) {
    const char *all = getenv("GRAFT_SWEEP");
    if (step < 1 || (all && !strcmp(all, "all"))) step = 1;
    for (long k = 1; max == 0 || k <= max; k += step) {
        test_allocator t;
        test_allocator_init(&t);
        t.allocator.user = &t;
        t.fail_at = k;
        graft_status st = body(&t.allocator, arg);
        if (t.live != 0) fail_msg("allocation %ld failed: %ld blocks leaked", k, t.live);
        if (st == GRAFT_OK && t.calls < k) return;
        if (st != GRAFT_ERR_MEMORY) fail_msg("allocation %ld failed: expected out of memory, got %s", k, graft_status_text(st));
    }
}

static char temp_dir[512];

static void remove_temp(void) { gr_remove_tree(temp_dir, NULL); }

const char *test_temp_dir(void) {
    if (!temp_dir[0]) {
        snprintf(temp_dir, sizeof temp_dir, "%s/tmp-XXXXXX", TEST_BINARY_DIR);
        if (!mkdtemp(temp_dir)) abort();
        atexit(remove_temp);
    }
    return temp_dir;
}

const char *test_golden(const char *name) {
    static char paths[8][1024];
    static int next;
    char *p = paths[next++ & 7];
    snprintf(p, sizeof paths[0], "%s/golden/%s", TEST_SOURCE_DIR, name);
    return p;
}

const char *test_cache(void) {
    static char path[1024];
    const char *given = getenv("GRAFT_TEST_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (given)
        snprintf(path, sizeof path, "%s", given);
    else if (xdg && *xdg)
        snprintf(path, sizeof path, "%s/graft", xdg);
    else
        snprintf(path, sizeof path, "%s/.cache/graft", home ? home : "");
    return gr_is_dir(path) ? path : NULL;
}
