/* What the tests share: failing allocations, temporary folders, golden files. */
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"

/* Whether AddressSanitizer looks on: it takes memory of its own and several times the time. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_SANITIZED true
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define TEST_SANITIZED true
#endif
#ifndef TEST_SANITIZED
#define TEST_SANITIZED false
#endif

/* An allocator that counts live blocks and can fail. Allocation number `fail_at` (1-based) and all after it fail
 * while fail_at is not 0. */
typedef struct test_allocator {
    graft_allocator allocator; /* pass &t.allocator */
    long calls, live, fail_at;
} test_allocator;
void test_allocator_init(test_allocator *t);

/* Runs `body` with allocation 1, 2, 3, ... failing until it succeeds; after every failing run nothing may be leaked
 * and the status must be GRAFT_ERR_MEMORY. `body` gets the allocator and must clean up after itself.
 * At most `max` rounds (0: no bound); with `step` > 1 only every step-th allocation is tried,
 * unless GRAFT_SWEEP is "all". */
typedef graft_status (*test_body)(const graft_allocator *a, void *arg);
void test_allocation_sweep(test_body body, void *arg, long max, long step);

/* A fresh folder under the build tree, removed when the test process exits normally. */
const char *test_temp_dir(void);
/* TEST_SOURCE_DIR/golden/NAME (static buffer, a few calls deep). */
const char *test_golden(const char *name);
/* Folder with the downloaded model and data (GRAFT_TEST_CACHE, else the default cache of tools/fetch.py), or NULL. */
const char *test_cache(void);

#define assert_ok(expr)                                                                                                \
    do {                                                                                                               \
        graft_error err = {0};                                                                                         \
        graft_status st_ = (expr);                                                                                     \
        if (st_ != GRAFT_OK) fail_msg("%s: %s: %s", #expr, graft_status_text(st_), err.text);                          \
    } while (0)

#endif
