/* Room base: the JSON reader, tree and writer. */
#include <locale.h>
#include <math.h>

#include "support/corrupt.h"

static graft_status parse(const char *text, size_t n, graft_error *err) {
    gr_arena arena;
    const gr_json_value *v;
    gr_arena_init(&arena, NULL, (size_t)1 << 20);
    graft_status st = gr_json_parse(&arena, "x.json", text, n, &v, err);
    gr_arena_free(&arena);
    return st;
}

static void well_formed_texts_parse(void **state) {
    (void)state;
    static const char *const good[] = {"{}",
                                       "[]",
                                       " 1 ",
                                       "-0",
                                       "0.5e+10",
                                       "null",
                                       "true",
                                       "\"\"",
                                       "[1,2,[3,{}]]",
                                       "{\"a\":{\"b\":[null]}}",
                                       "\"\\ud83d\\ude00\\n\"",
                                       "[NaN,Infinity,-Infinity]",
                                       "{\"a\":1,\"a\":2}",
                                       "1e999",
                                       "123456789012345678901234567890"};
    for (size_t i = 0; i < GR_COUNT(good); i++) assert_ok(parse(good[i], strlen(good[i]), &err));
}

static void ill_formed_texts_are_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"",
                                      " ",
                                      "{",
                                      "}",
                                      "[1,]",
                                      "[,1]",
                                      "{\"a\"}",
                                      "{\"a\":}",
                                      "{a:1}",
                                      "{\"a\":1,}",
                                      "[1 2]",
                                      "01",
                                      "1.",
                                      ".5",
                                      "+1",
                                      "1e",
                                      "1e+",
                                      "-",
                                      "- 1",
                                      "tru",
                                      "nul",
                                      "\"",
                                      "\"\\x\"",
                                      "\"\\u12\"",
                                      "\"\\ud800\"",
                                      "\"\\ud800\\u0041\"",
                                      "\"\\udc00\"",
                                      "\"\x01\"",
                                      "\"\xff\"",
                                      "\"\xc0\xaf\"",
                                      "[1]]",
                                      "{} {}",
                                      "nan",
                                      "-Inf",
                                      "[\"a\",",
                                      "{\"a\":1",
                                      "'a'",
                                      "\xEF\xBB\xBF{}",
                                      "\"a\nb\""};
    for (size_t i = 0; i < GR_COUNT(bad); i++) {
        graft_error failure = {0};
        if (parse(bad[i], strlen(bad[i]), &failure) != GRAFT_ERR_FORMAT) fail_msg("%s: was not refused", bad[i]);
        assert_non_null(strstr(failure.text, "x.json: JSON at byte "));
    }
}

static void depth_and_memory_are_bounded(void **state) {
    (void)state;
    char text[100000];
    graft_error failure;
    memset(text, '[', sizeof text);
    assert_int_equal(parse(text, sizeof text, &failure), GRAFT_ERR_LIMIT);
    memset(text + GR_JSON_DEPTH, ']', GR_JSON_DEPTH);
    assert_ok(parse(text, 2 * GR_JSON_DEPTH, &err));
    text[0] = '[';
    for (size_t i = 1; i + 2 < sizeof text; i += 2) memcpy(text + i, "0,", 2); /* 50,000 values do not fit 1 MiB */
    assert_int_equal(parse(text, sizeof text, &failure), GRAFT_ERR_MEMORY);
    gr_json_reader r;
    memset(text, '7', sizeof text);
    gr_json_number number;
    gr_json_init(&r, "x.json", text, sizeof text);
    assert_int_equal(gr_json_read_number(&r, &number, &failure), GRAFT_ERR_FORMAT);
}

static void values_have_their_meaning(void **state) {
    (void)state;
    static const char text[] =
        "{\"i\": -9223372036854775808, \"big\": 9223372036854775808, \"d\": 1e-05, \"s\": \"\\u0041\\u00e4\\ud83d\\ude00\\/\","
        "\"t\": true, \"n\": null, \"list\": [1, 2], \"\\u006bey\": 3, \"i\": 5}";
    gr_arena arena;
    const gr_json_value *root;
    gr_arena_init(&arena, NULL, 0);
    assert_ok(gr_json_parse(&arena, "x", text, sizeof text - 1, &root, &err));
    assert_int_equal(gr_json_get(root, "i")->number.i, 5); /* the last one counts */
    assert_int_equal(root->child->number.i, INT64_MIN);
    assert_false(gr_json_get(root, "big")->number.is_int);
    assert_true(gr_json_get(root, "big")->number.d == 0x1p63);
    assert_true(gr_json_get(root, "d")->number.d == 1e-05);
    assert_string_equal(gr_json_get(root, "s")->text, "A\xC3\xA4\xF0\x9F\x98\x80/");
    assert_int_equal(gr_json_get(root, "n")->kind, GR_JSON_NULL);
    assert_int_equal(gr_json_get(root, "list")->len, 2);
    assert_int_equal(gr_json_get(root, "list")->child->next->number.i, 2);
    assert_int_equal(gr_json_get(root, "key")->number.i, 3);
    assert_null(gr_json_get(root, "none"));
    assert_null(gr_json_get(NULL, "none"));
    assert_int_equal(root->len, 9);
    gr_arena_free(&arena);
}

static void skipping_equals_parsing(void **state) {
    (void)state;
    static const char text[] = "[{\"a\":[1,{\"b\":\"]\"}],\"c\":null}, \"after\"]";
    gr_json_reader r;
    gr_json_text key;
    bool more;
    gr_json_init(&r, "x", text, sizeof text - 1);
    assert_ok(gr_json_open(&r, GR_JSON_ARRAY, &err));
    assert_ok(gr_json_next(&r, &more, &err));
    assert_ok(gr_json_skip(&r, &err));
    assert_ok(gr_json_next(&r, &more, &err));
    assert_true(more);
    assert_ok(gr_json_read_text(&r, &key, &err));
    assert_true(gr_json_text_is(&key, "after"));
    assert_false(gr_json_text_is(&key, "afte"));
    assert_ok(gr_json_next(&r, &more, &err));
    assert_false(more);
    assert_ok(gr_json_end(&r, &err));
}

static void doubles_print_as_python_does(void **state) {
    (void)state;
    static const struct {
        double value;
        const char *text;
    } cases[] = {{1e-05, "1e-05"},
                 {0.0001, "0.0001"},
                 {10000, "10000.0"},
                 {500000, "500000.0"},
                 {1e16, "1e+16"},
                 {0.1, "0.1"},
                 {1.0 / 3, "0.3333333333333333"},
                 {-2.5, "-2.5"},
                 {0, "0.0"},
                 {-0.0, "-0.0"},
                 {1e22, "1e+22"},
                 {123456789012345680.0, "1.2345678901234568e+17"},
                 {5e-324, "5e-324"},
                 {1.7976931348623157e308, "1.7976931348623157e+308"},
                 {1e15, "1000000000000000.0"},
                 {INFINITY, "Infinity"},
                 {NAN, "NaN"},
                 {12345.5, "12345.5"}};
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        gr_buf b;
        gr_buf_init(&b, NULL);
        gr_json_add_double(&b, cases[i].value);
        assert_string_equal(gr_buf_text(&b), cases[i].text);
        gr_buf_free(&b);
    }
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t bits = gr_rng_u64(1, 2, i);
        double value, back;
        memcpy(&value, &bits, 8);
        if (!isfinite(value)) continue;
        gr_buf b;
        gr_buf_init(&b, NULL);
        gr_json_add_double(&b, value);
        assert_true(gr_parse_double(b.data, b.len, &back));
        assert_true(back == value);
        gr_buf_free(&b);
    }
}

static void text_round_trips(void **state) {
    (void)state;
    gr_buf b;
    gr_buf_init(&b, NULL);
    char all[300];
    size_t n = 0;
    for (int i = 1; i < 128; i++) all[n++] = (char)i;
    n += (size_t)snprintf(all + n, sizeof all - n, "\xC3\xA4\xE2\x82\xAC");
    gr_json_add_text(&b, all, n);
    gr_json_reader r;
    gr_json_text text;
    char back[600];
    gr_json_init(&r, "x", b.data, b.len);
    assert_ok(gr_json_read_text(&r, &text, &err));
    assert_int_equal(gr_json_unescape(&text, back), n);
    assert_memory_equal(back, all, n);
    gr_buf_clear(&b);
    gr_json_add_text(&b, "a\xFF", 2);
    assert_string_equal(gr_buf_text(&b), "\"a\xEF\xBF\xBD\"");
    gr_buf_free(&b);
}

static void numbers_do_not_depend_on_the_locale(void **state) {
    (void)state;
    double d;
    const char *old = setlocale(LC_ALL, NULL);
    setlocale(LC_ALL, "de_DE.UTF-8"); /* where it is not installed this checks nothing more */
    assert_true(gr_parse_double("1.5", 3, &d));
    assert_true(d == 1.5);
    assert_false(gr_parse_double("1,5", 3, &d));
    gr_buf b;
    gr_buf_init(&b, NULL);
    gr_json_add_double(&b, 0.25);
    assert_string_equal(gr_buf_text(&b), "0.25");
    gr_buf_free(&b);
    setlocale(LC_ALL, old ? old : "C");
}

static graft_status parse_sweep(const graft_allocator *a, void *arg) {
    (void)arg;
    static const char text[] = "{\"a\": [1, \"two\", {\"three\": null}], \"b\": true}";
    gr_arena arena;
    const gr_json_value *v;
    gr_arena_init(&arena, a, 0);
    graft_status st = gr_json_parse(&arena, "x", text, sizeof text - 1, &v, NULL);
    gr_arena_free(&arena);
    return st;
}

static void failed_allocations_leak_nothing(void **state) {
    (void)state;
    test_allocation_sweep(parse_sweep, NULL, 0, 1);
}

static void read_broken(const unsigned char *bytes, size_t n, void *arg) {
    (void)arg;
    parse((const char *)bytes, n, NULL);
}

static void broken_texts_never_crash(void **state) {
    (void)state;
    static const char text[] =
        "{\"a\": [1.5e3, -2, \"\\u0041\\ud83d\\ude00\xC3\xA4\"], \"b\": {\"c\": [true, false, null, NaN]}}";
    test_truncations((const unsigned char *)text, sizeof text - 1, read_broken, NULL);
    test_flips((const unsigned char *)text, sizeof text - 1, 0, 20000, read_broken, NULL);
}

static void sha256_known_answers(void **state) {
    (void)state;
    /* FIPS 180-4 examples and the NIST example of a million letters. */
    static const struct {
        const char *text, *hash;
    } cases[] = {{"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
                 {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
                 {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"}};
    char hex[65], block[1000];
    gr_sha256 s;
    for (size_t i = 0; i < GR_COUNT(cases); i++) {
        gr_sha256_init(&s);
        gr_sha256_add(&s, cases[i].text, strlen(cases[i].text));
        gr_sha256_end_hex(&s, hex);
        assert_string_equal(hex, cases[i].hash);
    }
    memset(block, 'a', sizeof block);
    for (size_t step = 1; step <= 1000; step += 333) { /* any cut gives the same */
        gr_sha256_init(&s);
        for (size_t left = 1000000; left;) {
            size_t n = GR_MIN(step, left);
            gr_sha256_add(&s, block, n);
            left -= n;
        }
        gr_sha256_end_hex(&s, hex);
        assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(well_formed_texts_parse),
        cmocka_unit_test(ill_formed_texts_are_refused),
        cmocka_unit_test(depth_and_memory_are_bounded),
        cmocka_unit_test(values_have_their_meaning),
        cmocka_unit_test(skipping_equals_parsing),
        cmocka_unit_test(doubles_print_as_python_does),
        cmocka_unit_test(text_round_trips),
        cmocka_unit_test(numbers_do_not_depend_on_the_locale),
        cmocka_unit_test(failed_allocations_leak_nothing),
        cmocka_unit_test(broken_texts_never_crash),
        cmocka_unit_test(sha256_known_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
