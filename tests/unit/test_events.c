/* TensorBoard event files: the bytes that tensorboard writes, reading them back, damage. */
#include "support/support.h"

#include "train/events.h"

typedef struct seen {
    char text[2048];
} seen;

static graft_status see_scalar(void *user, int64_t step, const char *tag, size_t len, double value, graft_error *err) {
    (void)err;
    seen *s = user;
    size_t n = strlen(s->text);
    snprintf(s->text + n, sizeof s->text - n, "%.*s@%lld=%.6g ", (int)GR_MIN(len, (size_t)20), tag, (long long)step, value);
    return GRAFT_OK;
}

static graft_status see_restart(void *user, int64_t step, graft_error *err) {
    (void)err;
    seen *s = user;
    size_t n = strlen(s->text);
    snprintf(s->text + n, sizeof s->text - n, "start@%lld ", (long long)step);
    return GRAFT_OK;
}

static graft_status read_into(seen *s, const void *data, size_t n, graft_error *err) {
    *s = (seen){0};
    const gr_events_visitor v = {.user = s, .scalar = see_scalar, .restart = see_restart};
    return gr_events_read("events", data, n, &v, err);
}

static void crc_known_answers(void **state) {
    (void)state;
    /* RFC 3720, B.4. */
    unsigned char bytes[32];
    memset(bytes, 0, 32);
    assert_int_equal(gr_crc32c(bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, 32);
    assert_int_equal(gr_crc32c(bytes, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++) bytes[i] = (unsigned char)i;
    assert_int_equal(gr_crc32c(bytes, 32), 0x46dd794e);
}

static void add_reference_records(gr_buf *b) {
    char tag[151];
    memset(tag, 't', 150);
    tag[150] = '\0';
    gr_event_add_version(b, 1700000000.25);
    gr_event_add_scalar(b, 1700000001.5, 0, &(gr_scalar){"train/loss", 3.25});
    gr_event_add_scalar(b, 1700000002.5, 1, &(gr_scalar){"train/loss", 0});
    gr_event_add_scalar(b, 1700000003.5, 300, &(gr_scalar){"train/learning_rate", 2e-5});
    gr_event_add_scalar(b, 1700000004.5, 70000, &(gr_scalar){"eval/loss", 1e10});
    gr_event_add_restart(b, 1700000005.5, 301);
    gr_event_add_scalar(b, 1700000006.5, 301, &(gr_scalar){tag, -1.5});
}

static void bytes_equal_the_reference(void **state) {
    (void)state;
    gr_mapping m;
    assert_ok(gr_map_file(test_golden("train/events.bin"), &m, &err));
    gr_buf b;
    gr_buf_init(&b, NULL);
    add_reference_records(&b);
    assert_int_equal(b.len, m.size);
    assert_memory_equal(b.data, m.data, m.size);
    seen s;
    assert_ok(read_into(&s, m.data, m.size, &err));
    assert_string_equal(s.text, "train/loss@0=3.25 train/loss@1=0 train/learning_rate@300=2e-05 eval/loss@70000=1e+10 "
                                "start@301 tttttttttttttttttttt@301=-1.5 ");
    gr_buf_free(&b);
    gr_unmap_file(&m);
}

static void damage_is_found(void **state) {
    (void)state;
    gr_buf b;
    gr_buf_init(&b, NULL);
    add_reference_records(&b);
    for (size_t n = 0; n < b.len; n++) {
        seen s;
        assert_ok(read_into(&s, b.data, n, &err));
    }
    for (size_t i = 0; i < b.len; i++)
        for (int bit = 0; bit < 8; bit += 3) {
            seen s;
            graft_error err;
            b.data[i] ^= (char)(1 << bit);
            assert_int_equal(read_into(&s, b.data, b.len, &err), GRAFT_ERR_FORMAT);
            b.data[i] ^= (char)(1 << bit);
        }
    gr_buf_free(&b);
}

static void writer_makes_files_that_read_back(void **state) {
    (void)state;
    char dir[1024];
    snprintf(dir, sizeof dir, "%s/runs/a", test_temp_dir());
    gr_events *w;
    assert_ok(gr_events_open(NULL, dir, -1, &w, &err));
    assert_ok(gr_events_write(w, 5, (gr_scalar[]){{"train/loss", 2}, {"train/epoch", 0.5}}, 2, &err));
    assert_ok(gr_events_write(w, 6, (gr_scalar[]){{"train/loss", 1}}, 1, &err));
    gr_events_close(w);
    assert_ok(gr_events_open(NULL, dir, 6, &w, &err));
    gr_events_close(w);
    char **names;
    size_t n;
    assert_ok(gr_list_dir(NULL, dir, &names, &n, &err));
    assert_int_equal(n, 2);
    for (size_t i = 0; i < 2; i++) {
        char *path = gr_path_join(NULL, dir, names[i]);
        gr_mapping m;
        seen s;
        assert_ok(gr_map_file(path, &m, &err));
        assert_ok(read_into(&s, m.data, m.size, &err));
        assert_string_equal(s.text, i ? "start@6 " : "train/loss@5=2 train/epoch@5=0.5 train/loss@6=1 ");
        gr_unmap_file(&m);
        gr_free(NULL, path);
    }
    gr_free_names(NULL, names, n);
}

static graft_status open_and_write(const graft_allocator *a, void *arg) {
    gr_events *w;
    GR_TRY(gr_events_open(a, arg, 3, &w, NULL));
    graft_status st = gr_events_write(w, 5, (gr_scalar[]){{"train/loss", 2}}, 1, NULL);
    gr_events_close(w);
    return st;
}

static void writer_survives_failing_allocations(void **state) {
    (void)state;
    char dir[1024];
    snprintf(dir, sizeof dir, "%s/sweep", test_temp_dir());
    test_allocation_sweep(open_and_write, dir, 0, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc_known_answers),
        cmocka_unit_test(bytes_equal_the_reference),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(writer_makes_files_that_read_back),
        cmocka_unit_test(writer_survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
