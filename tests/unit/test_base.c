/* Room base: containers, UTF-8, random numbers, threads, atomic files. */
#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "support/support.h"

static void status_has_text(void **state) {
    (void)state;
    assert_string_equal(graft_status_text(GRAFT_OK), "ok");
    assert_string_equal(graft_status_text((graft_status)999), "unknown status");
}

static void error_text_is_cut_at_a_character(void **state) {
    (void)state;
    char text[2048];
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'a', shift);
        size_t n = shift;
        while (n + 4 < sizeof text) n += gr_utf8_encode(0x20AC, text + n);
        text[n] = '\0';
        graft_error err;
        gr_fail(&err, GRAFT_ERR_IO, "%s", text);
        assert_true(gr_utf8_valid(err.text, strlen(err.text)));
    }
}

static void error_text_is_utf8_whatever_it_quotes(void **state) {
    (void)state;
    graft_error err;
    gr_fail(&err, GRAFT_ERR_FORMAT, "key '\xA2\x8F' of %.2s", "\xE2\x82\xAC");
    assert_string_equal(err.text, "key '\?\?' of \?\?");
    gr_error_prefix(&err, GRAFT_ERR_FORMAT, "file \xFF");
    assert_string_equal(err.text, "file \?: key '\?\?' of \?\?");
    gr_fail_errno(&err, GRAFT_ERR_IO, ENOENT, "\xC3\xA9\xC3/a");
    assert_int_equal(strncmp(err.text, "\xC3\xA9?/a: ", 7), 0);
}

static graft_status fill_map(const graft_allocator *a, void *arg) {
    (void)arg;
    gr_map m;
    gr_map_init(&m, a);
    graft_status st = GRAFT_OK;
    for (int i = 0; i < 300 && st == GRAFT_OK; i++) {
        char key[16];
        int n = snprintf(key, sizeof key, "key%d", i);
        st = gr_map_set(&m, key, (size_t)n, i, NULL);
    }
    for (size_t i = 0; i < m.n; i++) {
        int64_t v = -1;
        assert_true(gr_map_get_text(&m, m.entries[i].key, &v));
        assert_int_equal(v, (int64_t)i);
    }
    gr_map_free(&m);
    return st;
}

static void map_keeps_order_and_survives_failures(void **state) {
    (void)state;
    test_allocation_sweep(fill_map, NULL, 0, 1);
}

static void utf8_round_trip_and_bad_bytes(void **state) {
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        if (cp >= 0xD800 && cp <= 0xDFFF) continue;
        char bytes[4];
        size_t n = gr_utf8_encode(cp, bytes);
        int32_t back;
        assert_int_equal(gr_utf8_decode(bytes, n, &back), n);
        assert_int_equal(back, cp);
    }
    const struct { const char *text; size_t n, bad; } cases[] = {
        {"\xC0\x80", 2, 1}, {"\xE0\x80\x80", 3, 1}, {"\xED\xA0\x80", 3, 1}, {"\xF0\x9F\x98", 3, 3},
        {"\xF5\x80\x80\x80", 4, 1}, {"\xE2\x82", 2, 2}, {"\xE2\x28\xA1", 3, 1}, {"\x80", 1, 1},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        int32_t cp;
        assert_int_equal(gr_utf8_decode(cases[i].text, cases[i].n, &cp), cases[i].bad);
        assert_int_equal(cp, -1);
    }
}

static void philox_known_answer(void **state) {
    (void)state;
    /* Random123's kat_vectors: philox4x32-10, counter and key all zero, then all ones. */
    uint32_t r[4];
    gr_rng_draw4(0, 0, 0, r);
    const uint32_t zero[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    assert_memory_equal(r, zero, sizeof r);
    gr_rng_draw4(UINT64_MAX, UINT64_MAX, UINT64_MAX, r);
    const uint32_t ones[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
    assert_memory_equal(r, ones, sizeof r);
}

static void permutation_is_one(void **state) {
    (void)state;
    uint32_t p[1000], seen[1000] = {0};
    gr_rng_permutation(7, gr_rng_stream(GR_RNG_SHUFFLE, 3), p, 1000);
    for (int i = 0; i < 1000; i++) seen[p[i]]++;
    for (int i = 0; i < 1000; i++) assert_int_equal(seen[i], 1);
}

static void mark(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    for (size_t i = begin; i < end; i++) ((int *)arg)[i]++;
}

static void parallel_for_covers_each_item_once(void **state) {
    (void)state;
    int counts[1001];
    for (int threads = 1; threads <= 4; threads++) {
        gr_team *team;
        assert_ok(gr_team_new(NULL, threads, &team, &err));
        for (size_t grain = 1; grain < 2000; grain += 97) {
            memset(counts, 0, sizeof counts);
            gr_parallel_for(team, 1001, grain, mark, counts);
            for (int i = 0; i < 1001; i++) assert_int_equal(counts[i], 1);
        }
        gr_team_free(team);
    }
    gr_parallel_for(NULL, 1001, 10, mark, counts);
    for (int i = 0; i < 1001; i++) assert_int_equal(counts[i], 2);
}

/* Loops inside items, and from several threads at once, on one team; with pauses, so that threads fall asleep between. */
typedef struct crowd {
    gr_team *team;
    int inner[64];
} crowd;

static void mark_inside(void *arg, size_t begin, size_t end, int thread) {
    crowd *c = arg;
    (void)thread;
    for (size_t i = begin; i < end; i++) gr_parallel_for(c->team, 1, 1, mark, &c->inner[i]);
}

static void *run_loops(void *arg) {
    crowd c = {.team = arg};
    for (int round = 0; round < 300; round++) {
        gr_parallel_for(c.team, 64, 1, mark_inside, &c);
        if (round % 50 == 0) nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    for (int i = 0; i < 64; i++)
        if (c.inner[i] != 300) return arg;
    return NULL;
}

static void threads_share_a_team(void **state) {
    (void)state;
    gr_team *team;
    pthread_t id[3];
    assert_ok(gr_team_new(NULL, 3, &team, &err));
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&id[i], NULL, run_loops, team), 0);
    for (int i = 0; i < 3; i++) {
        void *failed;
        pthread_join(id[i], &failed);
        assert_null(failed);
    }
    gr_team_free(team);
}

static void atomic_file_appears_whole_or_not(void **state) {
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s/file.txt", test_temp_dir());
    assert_ok(gr_write_file(NULL, path, "old", 3, &err));
    gr_atomic_file *f;
    assert_ok(gr_atomic_begin(NULL, path, &f, &err));
    assert_ok(gr_atomic_write(f, "new", 3, &err));
    char *text;
    assert_ok(gr_read_file(NULL, path, 100, &text, NULL, &err));
    assert_string_equal(text, "old");
    gr_free(NULL, text);
    assert_ok(gr_atomic_commit(f, &err));
    assert_ok(gr_read_file(NULL, path, 100, &text, NULL, &err));
    assert_string_equal(text, "new");
    gr_free(NULL, text);
    graft_error err;
    assert_int_equal(gr_read_file(NULL, path, 2, &text, NULL, &err), GRAFT_ERR_LIMIT);
    assert_int_equal(gr_write_file(NULL, "/nonexistent/dir/x", "a", 1, &err), GRAFT_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "/nonexistent/dir/x"));
}

static void arena_honours_limit(void **state) {
    (void)state;
    gr_arena arena;
    gr_arena_init(&arena, NULL, 1000);
    assert_non_null(gr_arena_alloc(&arena, 500));
    assert_null(gr_arena_alloc(&arena, 600));
    assert_non_null(gr_arena_alloc(&arena, 100));
    gr_arena_free(&arena);
    assert_int_equal(arena.used, 0);
}

static void rewound_arena_allocates_nothing(void **state) {
    (void)state;
    test_allocator a;
    test_allocator_init(&a);
    a.allocator.user = &a;
    gr_arena arena;
    gr_arena_init(&arena, &a.allocator, 0);
    gr_arena_rewind(&arena); /* empty */
    long calls = 0;
    for (int round = 0; round < 4; round++) {
        if (round == 2) calls = a.calls;
        for (int i = 0; i < 1000; i++) {
            char *p = gr_arena_alloc(&arena, 100);
            for (int k = 0; k < 100; k++) assert_int_equal(p[k], 0);
            memset(p, 1, 100);
        }
        gr_arena_rewind(&arena);
        assert_int_equal(arena.used, 0);
    }
    assert_int_equal(a.calls, calls);
    gr_arena_free(&arena);
    assert_int_equal(a.live, 0);
}

static void aligned_memory(void **state) {
    (void)state;
    for (size_t n = 0; n < 200; n++) {
        void *p = gr_alloc_aligned(NULL, n);
        assert_int_equal((uintptr_t)p % 64, 0);
        memset(p, 1, n);
        gr_free_aligned(NULL, p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_has_text),
        cmocka_unit_test(error_text_is_cut_at_a_character),
        cmocka_unit_test(error_text_is_utf8_whatever_it_quotes),
        cmocka_unit_test(map_keeps_order_and_survives_failures),
        cmocka_unit_test(utf8_round_trip_and_bad_bytes),
        cmocka_unit_test(philox_known_answer),
        cmocka_unit_test(permutation_is_one),
        cmocka_unit_test(parallel_for_covers_each_item_once),
        cmocka_unit_test(threads_share_a_team),
        cmocka_unit_test(atomic_file_appears_whole_or_not),
        cmocka_unit_test(arena_honours_limit),
        cmocka_unit_test(rewound_arena_allocates_nothing),
        cmocka_unit_test(aligned_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
