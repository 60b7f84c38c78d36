/* Room tensor: formats, shapes, half precision. */
#include <math.h>

#include "support/support.h"
#include "tensor/tensor.h"

static void formats_are_found_by_every_name(void **state) {
    (void)state;
    for (int i = 0; i < GR_DTYPE_COUNT; i++) {
        const gr_dtype_info *d = gr_dtype_get((gr_dtype)i);
        gr_dtype found;
        assert_true(gr_dtype_by_name(d->name, &found));
        assert_int_equal(found, i);
        if (d->safetensors) {
            assert_true(gr_dtype_by_safetensors(d->safetensors, strlen(d->safetensors), &found));
            assert_int_equal(found, i);
        }
        if (d->gguf >= 0) {
            assert_true(gr_dtype_by_gguf((uint32_t)d->gguf, &found));
            assert_int_equal(found, i);
        }
    }
    gr_dtype none = GR_F32;
    assert_true(gr_dtype_by_name("q4_k", &none));
    assert_int_equal(none, GR_Q4_K);
    assert_false(gr_dtype_by_name("Q9", &none));
    assert_false(gr_dtype_by_safetensors("f32", 3, &none));
    assert_false(gr_dtype_by_safetensors("F32", 2, &none));
    assert_false(gr_dtype_by_gguf(4, &none));
    assert_false(gr_dtype_by_gguf(UINT32_MAX, &none));
}

static void sizes_are_checked(void **state) {
    (void)state;
    size_t bytes = 7;
    graft_error failure;
    gr_shape s = gr_shape2(3, 64);
    assert_ok(gr_tensor_bytes(GR_F32, &s, &bytes, &err));
    assert_int_equal(bytes, 768);
    assert_ok(gr_tensor_bytes(GR_Q4_0, &s, &bytes, &err));
    assert_int_equal(bytes, 3 * 2 * 18);
    s = gr_shape2(32, 31);
    assert_int_equal(gr_tensor_bytes(GR_Q4_0, &s, &bytes, &failure), GRAFT_ERR_MISMATCH);
    assert_non_null(strstr(failure.text, "[32, 31]"));
    s = gr_shape3(INT64_MAX / 2, 2, 2);
    assert_int_equal(gr_tensor_bytes(GR_F32, &s, &bytes, &failure), GRAFT_ERR_LIMIT);
    s = gr_shape2(INT64_MAX / 4, 1);
    assert_int_equal(gr_tensor_bytes(GR_F64, &s, &bytes, &failure), GRAFT_ERR_LIMIT);
    s = gr_shape1(-1);
    assert_int_equal(gr_tensor_bytes(GR_F32, &s, &bytes, &failure), GRAFT_ERR_LIMIT);
    assert_int_equal(bytes, 108);
    s = gr_shape3(7, 0, 5);
    assert_ok(gr_tensor_bytes(GR_F32, &s, &bytes, &err));
    assert_int_equal(bytes, 0);
    s = gr_shape3(INT64_MAX, 0, INT64_MAX); /* empty, but its rows could not be counted */
    assert_int_equal(gr_tensor_bytes(GR_F32, &s, &bytes, &failure), GRAFT_ERR_LIMIT);
    s = (gr_shape){0};
    assert_ok(gr_tensor_bytes(GR_F32, &s, &bytes, &err));
    assert_int_equal(bytes, 4);
}

static void shapes_print_and_never_overrun(void **state) {
    (void)state;
    char text[GR_SHAPE_TEXT];
    gr_shape s = {6, {INT64_MIN, INT64_MIN, INT64_MIN, INT64_MIN, INT64_MIN, INT64_MIN}};
    gr_shape_format(&s, text, sizeof text);
    assert_int_equal(text[strlen(text) - 1], ']');
    for (size_t n = 1; n < sizeof text; n++) {
        memset(text, 1, sizeof text);
        gr_shape_format(&s, text, n);
        assert_true(strlen(text) < n);
        for (size_t i = n; i < sizeof text; i++) assert_int_equal(text[i], 1);
    }
    s = (gr_shape){0};
    assert_string_equal(gr_shape_format(&s, text, sizeof text), "[]");
}

static void rows_of_views(void **state) {
    (void)state;
    float data[2 * 3 * 4];
    gr_tensor_view v = {GR_F32, gr_shape3(2, 3, 4), data, sizeof data, NULL};
    assert_int_equal(gr_tensor_rows(&v), 6);
    assert_int_equal(gr_tensor_row_size(&v), 4);
    assert_ptr_equal(gr_tensor_row(&v, 5), data + 20);
}

/* The value by the definition: (-1)^s 2^(e-15) (1 + f/1024), 2^-24 f for subnormals. */
static double half_value(uint16_t h) {
    int e = h >> 10 & 31, f = h & 1023;
    double v = e == 0 ? ldexp(f, -24) : e == 31 ? (f ? NAN : INFINITY) : ldexp(1024 + f, e - 25);
    return h & 0x8000 ? -v : v;
}

static void halves_widen_by_definition(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        double expected = half_value((uint16_t)h);
        float got = gr_f16_to_f32((uint16_t)h);
        if (isnan(expected)) {
            assert_true(isnan(got));
            assert_true(gr_float_bits(got) & 0x00400000u);
            continue;
        }
        assert_true((double)got == expected);
        assert_int_equal(signbit(got) != 0, h >> 15);
    }
}

/* Each half's neighbourhood: the value, both midpoints and their float neighbours round to the even of the nearest two.
 */
static void halves_round_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7C00; h++) {
        double v = half_value((uint16_t)h), next = h == 0x7BFF ? 65536.0 : half_value((uint16_t)(h + 1));
        float middle = (float)((v + next) / 2);
        assert_int_equal(gr_f32_to_f16((float)v), h);
        assert_int_equal(gr_f32_to_f16(nextafterf(middle, -INFINITY)), h);
        assert_int_equal(gr_f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(gr_f32_to_f16(middle), h & 1 ? h + 1 : h);
        assert_int_equal(gr_f32_to_f16(-middle), 0x8000u | (h & 1 ? h + 1 : h));
    }
    assert_int_equal(gr_f32_to_f16(INFINITY), 0x7C00);
    assert_int_equal(gr_f32_to_f16(-3e38f), 0xFC00);
    assert_int_equal(gr_f32_to_f16(0x1p-149f), 0);
    assert_int_equal(gr_f32_to_f16(gr_float_from_bits(0x7F800001u)) & 0x7E00, 0x7E00);
    assert_int_equal(gr_f32_to_f16(gr_float_from_bits(0xFFFFFFFFu)), 0xFFFF);
}

static void bfloat16_rounds_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t b = 0; b < 0x7F80; b++) {
        uint32_t bits = b << 16;
        assert_int_equal(gr_f32_to_bf16(gr_float_from_bits(bits)), b);
        assert_int_equal(gr_f32_to_bf16(gr_float_from_bits(bits + 0x7FFF)), b);
        assert_int_equal(gr_f32_to_bf16(gr_float_from_bits(bits + 0x8000)), b + (b & 1));
        assert_int_equal(gr_f32_to_bf16(gr_float_from_bits(bits + 0x8001)), b + 1);
        assert_true(gr_bf16_to_f32((uint16_t)b) == gr_float_from_bits(bits));
    }
    assert_int_equal(gr_f32_to_bf16(-INFINITY), 0xFF80);
    assert_int_equal(gr_f32_to_bf16(gr_float_from_bits(0x7F800001u)), 0x7FC0);
    assert_int_equal(gr_f32_to_bf16(gr_float_from_bits(0xFFFFFFFFu)), 0xFFFF);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats_are_found_by_every_name), cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(shapes_print_and_never_overrun),  cmocka_unit_test(rows_of_views),
        cmocka_unit_test(halves_widen_by_definition),      cmocka_unit_test(halves_round_to_nearest_even),
        cmocka_unit_test(bfloat16_rounds_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
