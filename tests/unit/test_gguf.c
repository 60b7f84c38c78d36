/* Room io: GGUF. Goldens by gguf-py (tools/golden/make_formats.py). */
#include "io/gguf.h"
#include "support/corrupt.h"

static void metadata_of_every_type_is_read(void **state) {
    (void)state;
    gr_gguf *g;
    int64_t i;
    double d;
    bool b;
    gr_text t;
    gr_gguf_array array;
    assert_ok(gr_gguf_open(NULL, test_golden("formats/kinds.gguf"), &g, &err));
    static const struct {
        const char *key;
        int64_t value;
    } ints[] = {{"a.u8", 200},         {"a.i8", -100},         {"a.u16", 60000},     {"a.i16", -30000},
                {"a.u32", 4000000000}, {"a.i32", -2000000000}, {"a.u64", INT64_MAX}, {"a.i64", -((int64_t)1 << 62)}};
    for (size_t k = 0; k < GR_COUNT(ints); k++) {
        assert_ok(gr_gguf_get_int(g, ints[k].key, INT64_MIN, INT64_MAX, &i, &err));
        assert_true(i == ints[k].value);
    }
    assert_ok(gr_gguf_get_float(g, "a.f32", &d, &err));
    assert_true(d == (double)0.1f);
    assert_ok(gr_gguf_get_float(g, "a.f64", &d, &err));
    assert_true(d == 0.1);
    assert_ok(gr_gguf_get_bool(g, "a.bool", &b, &err));
    assert_true(b);
    assert_ok(gr_gguf_get_text(g, "a.string", &t, &err));
    assert_int_equal(t.len, 12);
    assert_memory_equal(t.text,
                        "gr\xC3\xBC\xC3\x9F"
                        "e \xF0\x9F\x98\x80",
                        12);
    assert_ok(gr_gguf_get_array(g, "a.ints", GR_GGUF_I32, &array, &err));
    assert_int_equal(array.n, 3);
    assert_true(gr_gguf_array_int(&array, 1) == -2);
    assert_ok(gr_gguf_get_array(g, "a.floats", GR_GGUF_TYPE_COUNT, &array, &err));
    assert_true(gr_gguf_array_float(&array, 1) == -1.5);
    assert_ok(gr_gguf_get_array(g, "a.bools", GR_GGUF_BOOL, &array, &err));
    assert_true(gr_gguf_array_int(&array, 0) == 1 && gr_gguf_array_int(&array, 1) == 0);
    assert_ok(gr_gguf_get_array(g, "a.strings", GR_GGUF_STRING, &array, &err));
    size_t at = 0;
    assert_int_equal(gr_gguf_next_string(&array, &at).len, 0);
    t = gr_gguf_next_string(&array, &at);
    assert_memory_equal(t.text, "one", 3);
    t = gr_gguf_next_string(&array, &at);
    assert_int_equal(t.len, 7);
    gr_gguf_close(g);
}

static void wrong_requests_are_named(void **state) {
    (void)state;
    gr_gguf *g;
    graft_error failure;
    int64_t i = 5;
    double d;
    bool b;
    gr_text t;
    gr_gguf_array array;
    assert_ok(gr_gguf_open(NULL, test_golden("formats/kinds.gguf"), &g, &err));
    assert_int_equal(gr_gguf_get_int(g, "none", 0, 1, &i, &failure), GRAFT_ERR_NOT_FOUND);
    assert_non_null(strstr(failure.text, "kinds.gguf: key none is missing"));
    assert_int_equal(gr_gguf_get_int(g, "a.string", 0, 1, &i, &failure), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(failure.text, "key a.string: expected an integer, found string"));
    assert_int_equal(gr_gguf_get_int(g, "a.u8", 0, 100, &i, &failure), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(failure.text, "expected 0 to 100, found 200"));
    assert_int_equal(i, 5);
    assert_int_equal(gr_gguf_get_float(g, "a.u8", &d, &failure), GRAFT_ERR_FORMAT);
    assert_int_equal(gr_gguf_get_bool(g, "a.u8", &b, &failure), GRAFT_ERR_FORMAT);
    assert_int_equal(gr_gguf_get_text(g, "a.u8", &t, &failure), GRAFT_ERR_FORMAT);
    assert_int_equal(gr_gguf_get_array(g, "a.u8", GR_GGUF_I32, &array, &failure), GRAFT_ERR_FORMAT);
    assert_int_equal(gr_gguf_get_array(g, "a.ints", GR_GGUF_F32, &array, &failure), GRAFT_ERR_FORMAT);
    assert_non_null(strstr(failure.text, "expected an array of f32, found an array of i32"));
    assert_int_equal(gr_gguf_get_int(g, "a.ints", 0, 1, &i, &failure), GRAFT_ERR_FORMAT);
    gr_gguf_close(g);
}

static void shapes_are_turned(void **state) {
    (void)state;
    gr_gguf *g;
    assert_ok(gr_gguf_open(NULL, test_golden("formats/kinds.gguf"), &g, &err));
    assert_int_equal(gr_gguf_tensors(g)->n, 6);
    const gr_named_tensor *t = gr_tensor_list_find(gr_gguf_tensors(g), "t3");
    gr_shape expected = gr_shape2(4, 3);
    assert_true(gr_shape_equal(&t->view.shape, &expected));
    t = gr_tensor_list_find(gr_gguf_tensors(g), "half");
    assert_int_equal(t->view.dtype, GR_F16);
    assert_int_equal(t->view.shape.n, 3);
    gr_gguf_close(g);
}

static void parts_are_joined(void **state) {
    (void)state;
    graft_error failure;
    gr_gguf *g, *whole;
    gr_text t;
    assert_ok(gr_gguf_open(NULL, test_golden("formats/kinds.gguf"), &whole, &err));
    for (int part = 1; part <= 3; part++) {
        char name[64];
        snprintf(name, sizeof name, "formats/split-%05d-of-00003.gguf", part);
        assert_ok(gr_gguf_open(NULL, test_golden(name), &g, &err));
        assert_int_equal(gr_gguf_tensors(g)->n, gr_gguf_tensors(whole)->n);
        assert_ok(gr_gguf_get_text(g, "a.string", &t, &err));
        gr_gguf_close(g);
    }
    gr_gguf_close(whole);
    char path[1100];
    size_t n;
    unsigned char *bytes = test_read_file(test_golden("formats/split-00002-of-00003.gguf"), &n);
    snprintf(path, sizeof path, "%s/alone.gguf", test_temp_dir());
    assert_ok(gr_write_file(NULL, path, bytes, n, &err));
    assert_int_equal(gr_gguf_open(NULL, path, &g, &failure), GRAFT_ERR_MISMATCH);
    assert_non_null(strstr(failure.text, "found part 2 of 3"));
    snprintf(path, sizeof path, "%s/x-00001-of-00002.gguf", test_temp_dir());
    assert_ok(gr_write_file(NULL, path, bytes, n, &err));
    assert_int_equal(gr_gguf_open(NULL, path, &g, &failure), GRAFT_ERR_MISMATCH);
    snprintf(path, sizeof path, "%s/y-00002-of-00003.gguf", test_temp_dir());
    assert_ok(gr_write_file(NULL, path, bytes, n, &err));
    assert_int_equal(gr_gguf_open(NULL, path, &g, &failure), GRAFT_ERR_NOT_FOUND);
    assert_non_null(strstr(failure.text, "y-00001-of-00003.gguf"));
    gr_free(NULL, bytes);
}

/* Writes what a file holds again: pairs in order, tensors in the order of their data. */
static graft_status copy_file(const graft_allocator *a, const char *from, const char *to, graft_error *err) {
    gr_gguf *g;
    gr_gguf_writer *w = NULL;
    GR_TRY(gr_gguf_open(a, from, &g, err));
    const gr_tensor_list *list = gr_gguf_tensors(g);
    const gr_named_tensor *in_order[64];
    size_t n = 0;
    for (size_t i = 0; i < list->n; i++) {
        size_t k = n++;
        for (; k > 0 && (uintptr_t)in_order[k - 1]->view.data > (uintptr_t)list->items[i].view.data; k--)
            in_order[k] = in_order[k - 1];
        in_order[k] = &list->items[i];
    }
    graft_status st = gr_gguf_writer_new(a, to, &w, err);
    for (size_t i = 0; st == GRAFT_OK && i < gr_gguf_n_pairs(g); i++)
        st = gr_gguf_add_pair(w, gr_gguf_pair_at(g, i), err);
    for (size_t i = 0; st == GRAFT_OK && i < n; i++)
        st = gr_gguf_declare(w, in_order[i]->name, in_order[i]->view.dtype, &in_order[i]->view.shape, err);
    if (st == GRAFT_OK) st = gr_gguf_writer_begin(w, err);
    for (size_t i = 0; st == GRAFT_OK && i < n; i++) {
        st = gr_gguf_write(w, in_order[i]->view.data, in_order[i]->view.bytes / 2, err);
        size_t half = in_order[i]->view.bytes / 2;
        if (st == GRAFT_OK)
            st = gr_gguf_write(w, (const char *)in_order[i]->view.data + half, in_order[i]->view.bytes - half, err);
    }
    if (st == GRAFT_OK)
        st = gr_gguf_writer_commit(w, err);
    else
        gr_gguf_writer_abort(w);
    gr_gguf_close(g);
    return st;
}

static void written_bytes_equal_the_library_s(void **state) {
    (void)state;
    static const char *const names[] = {"formats/kinds.gguf", "formats/quants.gguf", "formats/tiny/tiny.gguf"};
    for (size_t i = 0; i < GR_COUNT(names); i++) {
        char to[1100];
        size_t n, m;
        snprintf(to, sizeof to, "%s/copy.gguf", test_temp_dir());
        assert_ok(copy_file(NULL, test_golden(names[i]), to, &err));
        unsigned char *expected = test_read_file(test_golden(names[i]), &n), *got = test_read_file(to, &m);
        assert_int_equal(n, m);
        assert_memory_equal(expected, got, n);
        gr_free(NULL, expected);
        gr_free(NULL, got);
    }
}

static void typed_values_round_trip(void **state) {
    (void)state;
    char path[1100];
    gr_gguf_writer *w;
    gr_gguf *g;
    graft_error failure;
    snprintf(path, sizeof path, "%s/typed.gguf", test_temp_dir());
    assert_ok(gr_gguf_writer_new(NULL, path, &w, &err));
    gr_text texts[2] = {{"a", 1}, {"", 0}};
    float floats[2] = {1, 2};
    assert_ok(gr_gguf_add_u32(w, "u", 7, &err));
    assert_ok(gr_gguf_add_u64(w, "U", 8, &err));
    assert_ok(gr_gguf_add_i32(w, "i", -7, &err));
    assert_ok(gr_gguf_add_f32(w, "f", 0.5f, &err));
    assert_ok(gr_gguf_add_bool(w, "b", true, &err));
    assert_ok(gr_gguf_add_text(w, "s", "text", 4, &err));
    assert_ok(gr_gguf_add_texts(w, "ss", texts, 2, &err));
    assert_ok(gr_gguf_add_array(w, "fs", GR_GGUF_F32, floats, 2, &err));
    assert_int_equal(gr_gguf_add_u32(w, "u", 7, &failure), GRAFT_ERR_ARGUMENT);
    assert_int_equal(gr_gguf_add_array(w, "as", GR_GGUF_STRING, floats, 2, &failure), GRAFT_ERR_ARGUMENT);
    gr_shape shape = gr_shape2(2, 32), odd = gr_shape1(31), empty = gr_shape1(0);
    assert_ok(gr_gguf_declare(w, "q", GR_Q8_0, &shape, &err));
    assert_ok(gr_gguf_declare(w, "none", GR_F32, &empty, &err));
    assert_int_equal(gr_gguf_declare(w, "q", GR_Q8_0, &shape, &failure), GRAFT_ERR_ARGUMENT);
    assert_int_equal(gr_gguf_declare(w, "o", GR_Q8_0, &odd, &failure), GRAFT_ERR_MISMATCH);
    assert_int_equal(gr_gguf_declare(w, "bool", GR_BOOL, &odd, &failure), GRAFT_ERR_UNSUPPORTED);
    assert_ok(gr_gguf_writer_begin(w, &err));
    char data[68] = {0};
    assert_int_equal(gr_gguf_write(w, data, 69, &failure), GRAFT_ERR_ARGUMENT);
    assert_ok(gr_gguf_write(w, data, 68, &err));
    assert_int_equal(gr_gguf_write(w, data, 1, &failure), GRAFT_ERR_ARGUMENT);
    assert_ok(gr_gguf_writer_commit(w, &err));
    int64_t i;
    gr_gguf_array array;
    assert_ok(gr_gguf_open(NULL, path, &g, &err));
    assert_ok(gr_gguf_get_int(g, "i", -10, 10, &i, &err));
    assert_int_equal(i, -7);
    assert_ok(gr_gguf_get_array(g, "ss", GR_GGUF_STRING, &array, &err));
    assert_int_equal(array.n, 2);
    assert_int_equal(gr_gguf_tensors(g)->n, 2);
    gr_gguf_close(g);
}

/* Patches of the golden file and the sentence that each must give. */
static void faults_are_named(void **state) {
    (void)state;
    size_t n;
    unsigned char *good = test_read_file(test_golden("formats/kinds.gguf"), &n);
    static const struct {
        size_t at;
        const char *bytes;
        size_t len;
        graft_status st;
        const char *text;
    } cases[] = {
        {0, "GGML", 4, GRAFT_ERR_FORMAT, "starts with \"GGUF\""},
        {4, "\1\0\0\0", 4, GRAFT_ERR_UNSUPPORTED, "version 2 or 3, found 1"},
        {4, "\4\0\0\0", 4, GRAFT_ERR_UNSUPPORTED, "found 4"},
        {4, "\0\0\0\3", 4, GRAFT_ERR_UNSUPPORTED, "big-endian"},
        {8, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 8, GRAFT_ERR_FORMAT, "cannot fit"},
        {16, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 8, GRAFT_ERR_FORMAT, "cannot fit"},
        {24, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 8, GRAFT_ERR_FORMAT, "a key at byte 32"},
        {52, "\x0D\0\0\0", 4, GRAFT_ERR_FORMAT, "key general.architecture: unknown value type 13"},
        {32, "\xFF", 1, GRAFT_ERR_FORMAT, "UTF-8"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_error failure = {0};
        gr_gguf *g;
        unsigned char *copy = gr_alloc(NULL, n);
        memcpy(copy, good, n);
        memcpy(copy + cases[i].at, cases[i].bytes, cases[i].len);
        graft_status st = gr_gguf_parse(NULL, "f.gguf", copy, n, &g, &failure);
        if (st != cases[i].st || !strstr(failure.text, cases[i].text) || !strstr(failure.text, "f.gguf"))
            fail_msg("case %zu: got %s: %s", i, graft_status_text(st), failure.text);
        gr_free(NULL, copy);
    }
    gr_free(NULL, good);
}

/* Files made by hand: one tensor info more or less wrong. */
typedef struct hand {
    gr_buf b;
} hand;

static void put(hand *h, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) gr_buf_add_char(&h->b, (char)(v >> 8 * i));
}

static void put_text(hand *h, const char *text) {
    put(h, strlen(text), 8);
    gr_buf_add_text(&h->b, text);
}

static void put_info(hand *h, const char *name, uint64_t dims, uint64_t d, uint64_t type, uint64_t offset) {
    put_text(h, name);
    put(h, dims, 4);
    for (uint64_t i = 0; i < dims; i++) put(h, d, 8);
    put(h, type, 4);
    put(h, offset, 8);
}

static void tensor_faults_are_named(void **state) {
    (void)state;
    static const struct {
        uint64_t dims, d, type, offset, offset2;
        uint64_t alignment;
        graft_status st;
        const char *text;
    } cases[] = {
        {1, 8, 0, 0, 32, 32, GRAFT_OK, NULL},
        {1, 8, 0, 32, 0, 32, GRAFT_OK, NULL},
        {0, 0, 0, 0, 32, 32, GRAFT_OK, NULL},
        {1, 8, 0, 0, 0, 32, GRAFT_ERR_FORMAT, "overlap"},
        {1, 8, 0, 16, 64, 32, GRAFT_ERR_FORMAT, "aligned to 32, found 16"},
        {1, 8, 0, 16, 64, 16, GRAFT_OK, NULL},
        {1, 8, 0, 0, 32, 0, GRAFT_ERR_FORMAT, "power of two"},
        {1, 8, 0, 0, 32, 48, GRAFT_ERR_FORMAT, "power of two"},
        {1, 8, 0, 0, 1 << 20, 32, GRAFT_ERR_FORMAT, "is the file cut?"},
        {1, 8, 0, UINT64_MAX - 31, 32, 32, GRAFT_ERR_FORMAT, "is the file cut?"},
        {1, 8, 36, 0, 32, 32, GRAFT_ERR_UNSUPPORTED, "tensor a: GGUF tensor type 36"},
        {1, 8, 2, 0, 32, 32, GRAFT_ERR_MISMATCH, "tensor a: shape [8]: expected rows of a multiple of 32"},
        {7, 1, 0, 0, 32, 32, GRAFT_ERR_LIMIT, "at most 6 dimensions, found 7"},
        {2, UINT64_MAX, 0, 0, 32, 32, GRAFT_ERR_LIMIT, "too large"},
        {2, (uint64_t)1 << 40, 0, 0, 32, 32, GRAFT_ERR_LIMIT, "too large"},
        {1, 0, 0, 0, 0, 32, GRAFT_OK, NULL},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        hand h;
        gr_buf_init(&h.b, NULL);
        gr_buf_add_text(&h.b, "GGUF");
        put(&h, 3, 4);
        put(&h, 2, 8);
        put(&h, 1, 8);
        put_text(&h, "general.alignment");
        put(&h, GR_GGUF_U32, 4);
        put(&h, cases[i].alignment, 4);
        put_info(&h, "a", cases[i].dims, cases[i].d, cases[i].type, cases[i].offset);
        put_info(&h, "b", 1, 8, 0, cases[i].offset2);
        while (h.b.len % 64) put(&h, 0, 1);
        put(&h, 0, 8);
        for (int k = 0; k < 120; k++) put(&h, 0, 1);
        graft_error failure = {0};
        gr_gguf *g;
        unsigned char *exact = gr_alloc(NULL, h.b.len);
        memcpy(exact, h.b.data, h.b.len);
        graft_status st = gr_gguf_parse(NULL, "f.gguf", exact, h.b.len, &g, &failure);
        if (st == GRAFT_OK) gr_gguf_close(g);
        if (st != cases[i].st || (cases[i].text && !strstr(failure.text, cases[i].text)))
            fail_msg("case %zu: got %s: %s", i, graft_status_text(st), failure.text);
        gr_free(NULL, exact);
        gr_buf_free(&h.b);
    }
}

static void duplicates_are_refused(void **state) {
    (void)state;
    for (int keys = 0; keys < 2; keys++) {
        hand h;
        gr_buf_init(&h.b, NULL);
        gr_buf_add_text(&h.b, "GGUF");
        put(&h, 3, 4);
        put(&h, keys ? 0 : 2, 8);
        put(&h, keys ? 2 : 0, 8);
        for (int i = 0; i < 2; i++) {
            if (!keys) {
                put_info(&h, "twice", 1, 0, 0, 0);
                continue;
            }
            put_text(&h, "twice");
            put(&h, GR_GGUF_BOOL, 4);
            put(&h, 1, 1);
        }
        graft_error failure;
        gr_gguf *g;
        assert_int_equal(gr_gguf_parse(NULL, "f.gguf", h.b.data, h.b.len, &g, &failure), GRAFT_ERR_FORMAT);
        assert_non_null(strstr(failure.text, "twice stands twice"));
        gr_buf_free(&h.b);
    }
}

static graft_status sweep(const graft_allocator *a, void *arg) {
    gr_gguf *g;
    GR_TRY(copy_file(a, test_golden("formats/kinds.gguf"), arg, NULL));
    GR_TRY(gr_gguf_open(a, test_golden("formats/split-00001-of-00003.gguf"), &g, NULL));
    gr_gguf_close(g);
    return GRAFT_OK;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    char to[1100];
    snprintf(to, sizeof to, "%s/swept.gguf", test_temp_dir());
    test_allocation_sweep(sweep, to, 0, 1);
}

static void read_broken(const unsigned char *bytes, size_t n, void *arg) {
    unsigned *sum = arg;
    gr_gguf *g;
    graft_error failure;
    if (gr_gguf_parse(NULL, "f", bytes, n, &g, &failure) != GRAFT_OK) return;
    const gr_tensor_list *list = gr_gguf_tensors(g);
    for (size_t i = 0; i < list->n; i++)
        for (size_t k = 0; k < list->items[i].view.bytes; k++)
            *sum += ((const unsigned char *)list->items[i].view.data)[k];
    for (size_t i = 0; i < gr_gguf_n_pairs(g); i++) {
        const gr_gguf_pair *p = gr_gguf_pair_at(g, i);
        size_t at = 0;
        if (p->type == GR_GGUF_ARRAY)
            for (uint64_t k = 0; k < p->array.n; k++)
                *sum += p->array.type == GR_GGUF_STRING ? (unsigned)gr_gguf_next_string(&p->array, &at).len
                                                        : (unsigned)gr_gguf_array_int(&p->array, k);
    }
    gr_gguf_close(g);
}

static void broken_files_never_crash(void **state) {
    (void)state;
    size_t n;
    unsigned sum = 0;
    unsigned char *bytes = test_read_file(test_golden("formats/kinds.gguf"), &n);
    test_truncations(bytes, n, read_broken, &sum);
    test_flips(bytes, n, 800, 20000, read_broken, &sum);
    gr_free(NULL, bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metadata_of_every_type_is_read),
        cmocka_unit_test(wrong_requests_are_named),
        cmocka_unit_test(shapes_are_turned),
        cmocka_unit_test(parts_are_joined),
        cmocka_unit_test(written_bytes_equal_the_library_s),
        cmocka_unit_test(typed_values_round_trip),
        cmocka_unit_test(faults_are_named),
        cmocka_unit_test(tensor_faults_are_named),
        cmocka_unit_test(duplicates_are_refused),
        cmocka_unit_test(failed_allocations_leak_nothing),
        cmocka_unit_test(broken_files_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
