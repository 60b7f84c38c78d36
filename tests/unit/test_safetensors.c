/* Room io: safetensors. Goldens: tools/golden/make_formats.py. */
#include <sys/stat.h>
#include <unistd.h>

#include "io/safetensors.h"
#include "support/corrupt.h"

/* An image with the given header (its size in front) and n bytes of data. */
static unsigned char *image(const char *header, size_t data, size_t *size) {
    size_t h = strlen(header);
    unsigned char *p = gr_alloc(NULL, 8 + h + data);
    for (int i = 0; i < 8; i++) p[i] = (unsigned char)(h >> 8 * i);
    memcpy(p + 8, header, h);
    memset(p + 8 + h, 0x11, data);
    *size = 8 + h + data;
    return p;
}

static graft_status parse(const char *header, size_t data, graft_error *err) {
    size_t size;
    unsigned char *p = image(header, data, &size);
    gr_safetensors *f;
    graft_status st = gr_safetensors_parse(NULL, "f.safetensors", p, size, &f, err);
    if (st == GRAFT_OK) gr_safetensors_close(f);
    gr_free(NULL, p);
    return st;
}

static void every_dtype_is_read(void **state) {
    (void)state;
    static const struct {
        const char *name;
        gr_dtype dtype;
        gr_shape shape;
        const char *bytes;
    } expected[] = {
        {"i64", GR_I64, {1, {2}}, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0\0\1\0\0"},
        {"i32", GR_I32, {2, {2, 1}}, "\7\0\0\0\xF9\xFF\xFF\xFF"},
        {"i16", GR_I16, {1, {1}}, "\x2C\1"},
        {"i8", GR_I8, {1, {2}}, "\x80\x7F"},
        {"u8", GR_U8, {1, {1}}, "\xFF"},
        {"bool", GR_BOOL, {1, {3}}, "\1\0\1"},
        {"scalar", GR_F32, {0, {0}}, "\0\0\x20\x40"},
        {"empty", GR_F32, {2, {0, 4}}, ""},
        {"a\xC3\xA4\"\n", GR_F32, {1, {1}}, "\0\0\x80\x3F"},
        {"u16", GR_U16, {1, {1}}, "\xFF\xFF"},
        {"u32", GR_U32, {1, {1}}, "\0\0\0\x80"},
        {"u64", GR_U64, {1, {1}}, "\5\0\0\0\0\0\0\0"},
    };
    gr_safetensors *f;
    assert_ok(gr_safetensors_open(NULL, test_golden("formats/dtypes.safetensors"), &f, &err));
    const gr_tensor_list *list = gr_safetensors_tensors(f);
    assert_int_equal(list->n, 16);
    for (size_t i = 1; i < list->n; i++) assert_true(strcmp(list->items[i - 1].name, list->items[i].name) < 0);
    for (size_t i = 0; i < GR_COUNT(expected); i++) {
        const gr_named_tensor *t = gr_tensor_list_find(list, expected[i].name);
        if (!t) fail_msg("%s was not found", expected[i].name);
        assert_int_equal(t->view.dtype, expected[i].dtype);
        assert_true(gr_shape_equal(&t->view.shape, &expected[i].shape));
        assert_memory_equal(t->view.data, expected[i].bytes, t->view.bytes);
    }
    assert_null(gr_tensor_list_find(list, "none"));
    assert_string_equal(gr_safetensors_metadata(f, "format"), "pt");
    assert_null(gr_safetensors_metadata(f, "none"));
    gr_safetensors_close(f);
}

static void faults_are_named(void **state) {
    (void)state;
#define T "\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]"
    static const struct {
        const char *header;
        size_t data;
        graft_status st;
        const char *text;
    } cases[] = {
        {"{\"t\":{" T "}}", 8, GRAFT_OK, NULL},
        {"{\"t\":{" T "}}   ", 8, GRAFT_OK, NULL},
        {"{}", 0, GRAFT_OK, NULL},
        {"{\"__metadata__\":{\"a\":\"b\"}}", 0, GRAFT_OK, NULL},
        {"{\"e\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]},\"t\":{" T "}}", 8, GRAFT_OK, NULL},
        {" {}", 0, GRAFT_ERR_FORMAT, "expected '{'"},
        {"", 0, GRAFT_ERR_FORMAT, "expected '{'"},
        {"[]", 0, GRAFT_ERR_FORMAT, "expected '{'"},
        {"{\"t\":{" T "}}", 9, GRAFT_ERR_FORMAT, "expected 8 bytes of data, found 9"},
        {"{\"t\":{" T "}}", 7, GRAFT_ERR_FORMAT, "expected a range within 7 bytes"},
        {"{\"t\":{" T "},\"u\":{" T "}}", 8, GRAFT_ERR_FORMAT, "overlap"},
        {"{\"t\":{" T "},\"u\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[9,10]}}", 10, GRAFT_ERR_FORMAT,
         "hole"},
        {"{\"t\":{" T "},\"t\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[8,9]}}", 9, GRAFT_ERR_FORMAT,
         "stands twice"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, GRAFT_ERR_FORMAT,
         "tensor t: expected 12 bytes for F32 [3], found 8"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, GRAFT_ERR_FORMAT,
         "data_offsets [8, 0]"},
        {"{\"t\":{\"dtype\":\"F8_E4M3\",\"shape\":[8],\"data_offsets\":[0,8]}}", 8, GRAFT_ERR_UNSUPPORTED,
         "dtype F8_E4M3"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, GRAFT_ERR_FORMAT, "non-negative"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, GRAFT_ERR_FORMAT, "non-negative"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0, GRAFT_ERR_LIMIT,
         "tensor t: shape"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8, GRAFT_ERR_LIMIT,
         "at most 6"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,9]}}", 8, GRAFT_ERR_LIMIT, "at most 2"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, GRAFT_ERR_FORMAT, "expected 2 numbers"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, GRAFT_ERR_FORMAT, "data_offsets is missing"},
        {"{\"t\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, GRAFT_ERR_FORMAT, "dtype is missing"},
        {"{\"t\":{" T ",\"x\":1}}", 8, GRAFT_ERR_FORMAT, "unknown key x"},
        {"{\"t\":{" T ",\"shape\":[2]}}", 8, GRAFT_ERR_FORMAT, "duplicate key shape"},
        {"{\"__metadata__\":{\"a\":1}}", 0, GRAFT_ERR_FORMAT, "expected a string"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, GRAFT_ERR_FORMAT, "duplicate key __metadata__"},
        {"{\"t\\u0000\":{" T "}}", 8, GRAFT_ERR_FORMAT, "NUL"},
        {"{\"t\":{" T "}} x", 8, GRAFT_ERR_FORMAT, "expected the end"},
        {"{\"t\":{" T "}", 8, GRAFT_ERR_FORMAT, "',' or '}'"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_error failure = {0};
        graft_status st = parse(cases[i].header, cases[i].data, &failure);
        if (st != cases[i].st || (cases[i].text && !strstr(failure.text, cases[i].text)))
            fail_msg("%s: got %s: %s", cases[i].header, graft_status_text(st), failure.text);
        if (st != GRAFT_OK) assert_non_null(strstr(failure.text, "f.safetensors"));
    }
}

static void header_size_is_checked(void **state) {
    (void)state;
    unsigned char bytes[16] = {3, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    graft_error failure;
    gr_safetensors *f;
    assert_int_equal(gr_safetensors_parse(NULL, "f", bytes, 10, &f, &failure), GRAFT_ERR_FORMAT);
    memset(bytes, 0xFF, 8);
    assert_int_equal(gr_safetensors_parse(NULL, "f", bytes, 16, &f, &failure), GRAFT_ERR_FORMAT);
    assert_int_equal(gr_safetensors_parse(NULL, "f", bytes, 7, &f, &failure), GRAFT_ERR_FORMAT);
    assert_int_equal(gr_safetensors_parse(NULL, "f", bytes, 0, &f, &failure), GRAFT_ERR_FORMAT);
}

static void shards_are_joined(void **state) {
    (void)state;
    gr_safetensors *f, *again;
    assert_ok(gr_safetensors_open(NULL, test_golden("formats/sharded"), &f, &err));
    assert_int_equal(gr_safetensors_tensors(f)->n, 21);
    assert_ok(gr_safetensors_open(NULL, test_golden("formats/sharded/model.safetensors.index.json"), &again, &err));
    assert_int_equal(gr_safetensors_tensors(again)->n, 21);
    const gr_named_tensor *t = gr_tensor_list_find(gr_safetensors_tensors(f), "model.embed_tokens.weight");
    assert_non_null(t);
    assert_int_equal(t->view.shape.d[0], 32);
    assert_non_null(strstr(t->file, "formats/sharded/model-0000"));
    gr_safetensors_close(f);
    gr_safetensors_close(again);
}

static void write_text(const char *dir, const char *name, const char *text) {
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(gr_write_file(NULL, path, text, strlen(text), &err));
}

static void wrong_indexes_are_refused(void **state) {
    (void)state;
    char dir[1024], path[1100];
    snprintf(dir, sizeof dir, "%s/index", test_temp_dir());
    snprintf(path, sizeof path, "%s/a.safetensors", dir);
    assert_ok(gr_make_dirs(dir, &err));
    float one[1] = {1};
    gr_named_tensor t = {.name = "t", .view = {GR_F32, gr_shape1(1), one, 4, NULL}};
    assert_ok(gr_safetensors_save(NULL, path, &t, 1, NULL, &err));
    static const struct {
        const char *index;
        graft_status st;
        const char *text;
    } cases[] = {
        {"{\"metadata\":{\"x\":[1]},\"weight_map\":{\"t\":\"a.safetensors\"}}", GRAFT_OK, NULL},
        {"{\"weight_map\":{\"t\":\"../a.safetensors\"}}", GRAFT_ERR_FORMAT, "without directories"},
        {"{\"weight_map\":{\"t\":\"/etc/passwd\"}}", GRAFT_ERR_FORMAT, "without directories"},
        {"{\"weight_map\":{\"t\":\"..\"}}", GRAFT_ERR_FORMAT, "without directories"},
        {"{\"weight_map\":{\"u\":\"a.safetensors\"}}", GRAFT_ERR_MISMATCH,
         "tensor u: expected in a.safetensors, found nowhere"},
        {"{\"weight_map\":{\"t\":\"b.safetensors\"}}", GRAFT_ERR_NOT_FOUND, "b.safetensors"},
        {"{\"weight_map\":[]}", GRAFT_ERR_FORMAT, "expected an object"},
        {"{}", GRAFT_ERR_FORMAT, "weight_map is missing"},
        {"", GRAFT_ERR_FORMAT, "JSON at byte 0"},
    };
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        graft_error failure = {0};
        gr_safetensors *f;
        write_text(dir, "model.safetensors.index.json", cases[i].index);
        graft_status st = gr_safetensors_open(NULL, dir, &f, &failure);
        if (st == GRAFT_OK) gr_safetensors_close(f);
        if (st != cases[i].st || (cases[i].text && !strstr(failure.text, cases[i].text)))
            fail_msg("%s: got %s: %s", cases[i].index, graft_status_text(st), failure.text);
    }
    gr_safetensors *f;
    graft_error failure;
    snprintf(path, sizeof path, "%s/none", dir);
    assert_int_equal(gr_safetensors_open(NULL, path, &f, &failure), GRAFT_ERR_NOT_FOUND);
    assert_ok(gr_make_dirs(path, &err));
    assert_int_equal(gr_safetensors_open(NULL, path, &f, &failure), GRAFT_ERR_NOT_FOUND);
    assert_non_null(strstr(failure.text, "model.safetensors"));
}

/* Reads a file and writes its tensors again. */
static graft_status copy_file(const graft_allocator *a, const char *from, const char *to, graft_error *err) {
    gr_safetensors *f;
    GR_TRY(gr_safetensors_open(a, from, &f, err));
    const gr_tensor_list *list = gr_safetensors_tensors(f);
    graft_status st = gr_safetensors_save(a, to, list->items, list->n, NULL, err);
    gr_safetensors_close(f);
    return st;
}

static void written_bytes_equal_the_library_s(void **state) {
    (void)state;
    char to[1024];
    size_t n, m;
    snprintf(to, sizeof to, "%s/copy.safetensors", test_temp_dir());
    assert_ok(copy_file(NULL, test_golden("formats/dtypes.safetensors"), to, &err));
    unsigned char *expected = test_read_file(test_golden("formats/dtypes.safetensors"), &n),
                  *got = test_read_file(to, &m);
    assert_int_equal(n, m);
    assert_memory_equal(expected, got, n);
    gr_free(NULL, expected);
    gr_free(NULL, got);
}

static graft_status write_shards(const graft_allocator *a, const char *dir, uint64_t max, graft_error *err) {
    gr_safetensors_writer *w = NULL;
    const size_t *order = NULL;
    static const char *const metadata[] = {"format", "pt", "note", "\"quoted\"", NULL};
    gr_safetensors_options options = {.max_shard_bytes = max, .metadata = metadata};
    graft_status st = gr_safetensors_writer_new(a, dir, &options, &w, err);
    if (st != GRAFT_OK) return st;
    gr_shape shape = gr_shape2(3, 5);
    for (int i = 0; i < 4; i++) {
        char name[8];
        snprintf(name, sizeof name, "t%d", i);
        GR_GO(failed, gr_safetensors_declare(w, name, i % 2 ? GR_F32 : GR_BF16, &shape, err));
    }
    GR_GO(failed, gr_safetensors_writer_begin(w, &order, err));
    for (int i = 0; i < 4; i++) {
        unsigned char bytes[60];
        memset(bytes, (int)order[i] + 1, sizeof bytes);
        size_t total = order[i] % 2 ? 60 : 30;
        for (size_t k = 0; k < total; k += 10) GR_GO(failed, gr_safetensors_write(w, bytes, 10, err));
    }
    return gr_safetensors_writer_commit(w, err);
failed:
    gr_safetensors_writer_abort(w);
    return st;
}

static void check_written(const char *dir, const char *holder_of_t0) {
    gr_safetensors *f;
    assert_ok(gr_safetensors_open(NULL, dir, &f, &err));
    const gr_tensor_list *list = gr_safetensors_tensors(f);
    assert_int_equal(list->n, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(list->items[i].view.bytes, i % 2 ? 60 : 30);
        for (size_t k = 0; k < list->items[i].view.bytes; k++)
            assert_int_equal(((const unsigned char *)list->items[i].view.data)[k], i + 1);
    }
    assert_non_null(strstr(list->items[0].file, holder_of_t0));
    assert_string_equal(gr_safetensors_metadata(f, "note"), "\"quoted\"");
    gr_safetensors_close(f);
}

static void shards_are_written_and_replaced(void **state) {
    (void)state;
    char dir[1024], path[1100];
    snprintf(dir, sizeof dir, "%s/written", test_temp_dir());
    assert_ok(gr_make_dirs(dir, &err));
    assert_ok(write_shards(NULL, dir, 100, &err));
    check_written(dir, "model-00001-of-00002.safetensors");
    assert_ok(write_shards(NULL, dir, 0, &err)); /* a single file takes the index's place ... */
    check_written(dir, "model.safetensors");
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    assert_false(gr_path_exists(path));
    assert_ok(write_shards(NULL, dir, 1, &err)); /* ... and shards that of the single file */
    check_written(dir, "model-00001-of-00004.safetensors");
    assert_true(gr_path_exists(path));
}

static void wrong_use_of_the_writer_is_refused(void **state) {
    (void)state;
    gr_safetensors_writer *w;
    graft_error failure;
    gr_shape one = gr_shape1(1), odd = gr_shape1(32);
    const char *dir = test_temp_dir();
    char path[1100];
    snprintf(path, sizeof path, "%s/wrong.safetensors", dir);
    gr_safetensors_options options = {.stem = "wrong"};
    assert_ok(gr_safetensors_writer_new(NULL, dir, &options, &w, &err));
    assert_ok(gr_safetensors_declare(w, "t", GR_F32, &one, &err));
    assert_int_equal(gr_safetensors_declare(w, "t", GR_F32, &one, &failure), GRAFT_ERR_ARGUMENT);
    assert_int_equal(gr_safetensors_declare(w, "__metadata__", GR_F32, &one, &failure), GRAFT_ERR_ARGUMENT);
    assert_int_equal(gr_safetensors_declare(w, "\xFF", GR_F32, &one, &failure), GRAFT_ERR_ARGUMENT);
    assert_int_equal(gr_safetensors_declare(w, "q", GR_Q4_0, &odd, &failure), GRAFT_ERR_UNSUPPORTED);
    assert_int_equal(gr_safetensors_write(w, "1234", 4, &failure), GRAFT_ERR_ARGUMENT);
    assert_ok(gr_safetensors_writer_begin(w, NULL, &err));
    assert_int_equal(gr_safetensors_declare(w, "u", GR_F32, &one, &failure), GRAFT_ERR_ARGUMENT);
    assert_int_equal(gr_safetensors_write(w, "12345", 5, &failure), GRAFT_ERR_ARGUMENT);
    assert_ok(gr_safetensors_write(w, "12", 2, &err));
    assert_int_equal(gr_safetensors_writer_commit(w, &failure), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(failure.text, "tensor t"));
    assert_false(gr_path_exists(path)); /* nothing half written */
    assert_int_equal(gr_safetensors_save(NULL, "/nonexistent/x.safetensors", NULL, 0, NULL, &failure),
                     GRAFT_ERR_NOT_FOUND);
    assert_int_equal(gr_safetensors_save(NULL, "x.bin", NULL, 0, NULL, &failure), GRAFT_ERR_ARGUMENT);
    if (gr_path_exists("/dev/full")) { /* a full disk: its name stands in the sentence */
        snprintf(path, sizeof path, "%s/.full.safetensors.tmp-%ld", dir, (long)getpid());
        assert_int_equal(symlink("/dev/full", path), 0);
        snprintf(path, sizeof path, "%s/full.safetensors", dir);
        assert_int_equal(gr_safetensors_save(NULL, path, NULL, 0, NULL, &failure), GRAFT_ERR_IO);
        assert_non_null(strstr(failure.text, "No space left"));
        assert_false(gr_path_exists(path));
    }
}

static graft_status sweep(const graft_allocator *a, void *arg) {
    gr_safetensors *f;
    GR_TRY(gr_safetensors_open(a, test_golden("formats/sharded"), &f, NULL));
    gr_safetensors_close(f);
    GR_TRY(copy_file(a, test_golden("formats/dtypes.safetensors"), arg, NULL));
    char dir[1024];
    snprintf(dir, sizeof dir, "%s/sweep", test_temp_dir());
    return write_shards(a, dir, 100, NULL);
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    char to[1024], dir[1024];
    snprintf(to, sizeof to, "%s/swept.safetensors", test_temp_dir());
    snprintf(dir, sizeof dir, "%s/sweep", test_temp_dir());
    assert_ok(gr_make_dirs(dir, &err));
    test_allocation_sweep(sweep, to, 0, 1);
}

static void read_broken(const unsigned char *bytes, size_t n, void *arg) {
    (void)arg;
    gr_safetensors *f;
    graft_error failure;
    if (gr_safetensors_parse(NULL, "f", bytes, n, &f, &failure) != GRAFT_OK) return;
    const gr_tensor_list *list = gr_safetensors_tensors(f);
    unsigned sum = 0;
    for (size_t i = 0; i < list->n; i++)
        for (size_t k = 0; k < list->items[i].view.bytes; k++)
            sum += ((const unsigned char *)list->items[i].view.data)[k];
    gr_safetensors_close(f);
    assert_true(sum != 1u << 31);
}

static void broken_files_never_crash(void **state) {
    (void)state;
    size_t n;
    unsigned char *bytes = test_read_file(test_golden("formats/dtypes.safetensors"), &n);
    test_truncations(bytes, n, read_broken, NULL);
    test_flips(bytes, n, 900, 20000, read_broken, NULL);
    gr_free(NULL, bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dtype_is_read),
        cmocka_unit_test(faults_are_named),
        cmocka_unit_test(header_size_is_checked),
        cmocka_unit_test(shards_are_joined),
        cmocka_unit_test(wrong_indexes_are_refused),
        cmocka_unit_test(written_bytes_equal_the_library_s),
        cmocka_unit_test(shards_are_written_and_replaced),
        cmocka_unit_test(wrong_use_of_the_writer_is_refused),
        cmocka_unit_test(failed_allocations_leak_nothing),
        cmocka_unit_test(broken_files_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
