/* The step arena: blocks never overlap, a dry pool has the real one's peak, a pool of that size never grows. */
#include "graph/graph.h"
#include "support/support.h"

enum { BLOCKS = 200, STEPS = 4000 };

typedef struct trial {
    void *at[BLOCKS];
    size_t bytes[BLOCKS];
} trial;

static uint64_t draw(uint64_t seed, uint64_t i, uint64_t below) {
    return gr_rng_below(seed, gr_rng_stream(GR_RNG_TEST, 1), i, below);
}

/* Takes and gives at random; with memory behind it, every block is filled and found unchanged. */
static graft_status play(gr_pool *p, uint64_t seed, bool fill) {
    static trial t;
    memset(&t, 0, sizeof t);
    graft_status st = GRAFT_OK;
    for (uint64_t i = 0; i < STEPS && st == GRAFT_OK; i++) {
        size_t k = draw(seed, 3 * i, BLOCKS);
        if (!t.at[k]) {
            size_t bytes = draw(seed, 3 * i + 1, draw(seed, 3 * i + 2, 10) ? 300 : 20000);
            st = gr_pool_take(p, bytes, &t.at[k], NULL);
            if (st != GRAFT_OK) break;
            assert_int_equal((uintptr_t)t.at[k] % 64, 0);
            t.bytes[k] = bytes;
            if (fill) memset(t.at[k], (int)k, bytes);
        } else {
            for (size_t b = 0; fill && b < t.bytes[k]; b++) assert_int_equal(((unsigned char *)t.at[k])[b], k);
            gr_pool_give(p, t.at[k]);
            t.at[k] = NULL;
        }
    }
    for (size_t k = 0; k < BLOCKS; k++) gr_pool_give(p, t.at[k]);
    return st;
}

static void dry_and_real_peaks_are_equal(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        gr_pool *dry, *real, *grown;
        assert_ok(gr_pool_new(NULL, 0, true, &dry, &err));
        assert_ok(play(dry, seed, false));
        size_t peak = gr_pool_peak(dry);
        assert_true(peak > 10000);
        assert_int_equal(gr_pool_bytes(dry), 0);

        assert_ok(gr_pool_new(NULL, peak, false, &real, &err));
        assert_ok(play(real, seed, true));
        assert_int_equal(gr_pool_peak(real), peak);
        assert_int_equal(gr_pool_bytes(real), peak); /* it never grew */
        gr_pool_reset_peak(real);
        assert_int_equal(gr_pool_peak(real), 0);

        /* Made without knowing the size: one region from the second step on, and then the same peak. */
        assert_ok(gr_pool_new(NULL, 0, false, &grown, &err));
        assert_ok(play(grown, seed, true));
        gr_pool_reset_peak(grown);
        assert_ok(play(grown, seed, true));
        assert_int_equal(gr_pool_peak(grown), peak);
        gr_pool_free(dry);
        gr_pool_free(real);
        gr_pool_free(grown);
    }
}

static void best_hole_is_taken(void **state) {
    (void)state;
    gr_pool *p;
    void *a, *b, *c, *d, *e, *f;
    assert_ok(gr_pool_new(NULL, 1 << 20, false, &p, &err));
    assert_ok(gr_pool_take(p, 1000, &a, &err));
    assert_ok(gr_pool_take(p, 64, &b, &err));
    assert_ok(gr_pool_take(p, 200, &c, &err));
    assert_ok(gr_pool_take(p, 64, &d, &err));
    gr_pool_give(p, a);
    gr_pool_give(p, c);
    assert_ok(gr_pool_take(p, 130, &e, &err));
    assert_ptr_equal(e, c);
    gr_pool_give(p, b); /* joins the first hole */
    assert_ok(gr_pool_take(p, 1024 + 64, &f, &err));
    assert_ptr_equal(f, a);
    gr_pool_give(p, NULL);
    gr_pool_free(p);
}

static void impossible_sizes_are_refused(void **state) {
    (void)state;
    gr_pool *p;
    void *a = NULL;
    graft_error found;
    assert_ok(gr_pool_new(NULL, 0, true, &p, &err));
    assert_int_equal(gr_pool_take(p, SIZE_MAX, &a, &found), GRAFT_ERR_LIMIT);
    assert_int_equal(gr_pool_take(p, SIZE_MAX - 100, &a, &found), GRAFT_ERR_LIMIT);
    assert_null(a);
    gr_pool_free(p);
}

static graft_status sweep(const graft_allocator *a, void *arg) {
    (void)arg;
    gr_pool *p;
    graft_status st = gr_pool_new(a, 0, false, &p, NULL);
    if (st != GRAFT_OK) return st;
    st = play(p, 3, true);
    if (st == GRAFT_OK) st = play(p, 4, true);
    gr_pool_free(p);
    return st;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    test_allocation_sweep(sweep, NULL, 0, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dry_and_real_peaks_are_equal),
        cmocka_unit_test(best_hole_is_taken),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
