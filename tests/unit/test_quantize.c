/* Room quant, encoders: the bytes of ggml's reference quantisers and of bitsandbytes (tools/golden/make_quant.py). */
#include <math.h>

#include "io/safetensors.h"
#include "quant/scaled.h"
#include "support/support.h"

/* number() of make_quant.py. */
static void numbers(uint64_t series, int64_t n, int kind, float *out) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t at = (uint64_t)(kind == 2 ? i / 16 : i), h = (at + series * 1000003u + 1) * 0x9E3779B97F4A7C15u;
        h ^= h >> 31;
        h *= 0xBF58476D1CE4E5B9u;
        h ^= h >> 29;
        double u = (double)(h >> 32) / 0x1p31 - 1.0, x = u * u * u;
        if (kind == 1) x = fabs(x);
        if (kind == 3 && fabs(u) < 0.9) x = 0;
        if (kind == 4) x = rint(x * 7);
        if (kind == 5) x = x * 1e-20;
        out[i] = (float)x;
    }
}

static gr_safetensors *open_golden(const char *name) {
    gr_safetensors *f;
    assert_ok(gr_safetensors_open(NULL, test_golden(name), &f, &err));
    return f;
}

static const gr_tensor_view *golden(const gr_safetensors *f, const char *format, ...) {
    char name[100];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    const gr_named_tensor *t = gr_tensor_list_find(gr_safetensors_tensors(f), name);
    return t ? &t->view : NULL;
}

static void assert_bytes(const gr_tensor_view *want, const void *found, size_t bytes, const char *what) {
    assert_non_null(want);
    assert_int_equal(want->bytes, bytes);
    for (size_t i = 0; i < bytes; i++)
        if (((const uint8_t *)want->data)[i] != ((const uint8_t *)found)[i])
            fail_msg("%s: byte %zu of %zu: expected %d, found %d", what, i, bytes, ((const uint8_t *)want->data)[i],
                     ((const uint8_t *)found)[i]);
}

static void block_formats_have_the_bytes_of_ggml(void **state) {
    (void)state;
    static const gr_dtype types[] = {GR_Q4_0, GR_Q4_1, GR_Q5_0, GR_Q5_1, GR_Q8_0,
                                     GR_Q2_K, GR_Q3_K, GR_Q4_K, GR_Q5_K, GR_Q6_K};
    enum { N = 2048 };
    gr_safetensors *f = open_golden("quant/ggml.safetensors");
    for (size_t t = 0; t < GR_COUNT(types); t++)
        for (int kind = 0; kind < 6; kind++) {
            float x[N];
            uint8_t bytes[N * 4];
            numbers((uint64_t)kind, N, kind, x);
            assert_ok(gr_quantize_row(types[t], x, N, bytes, &err));
            assert_bytes(golden(f, "%s.%d", gr_dtype_name(types[t]), kind), bytes, gr_dtype_bytes(types[t], N),
                         gr_dtype_name(types[t]));
        }
    gr_safetensors_close(f);
}

/* Formats of one element a block are exact or rounded; every format survives the smallest and the largest numbers. */
static void extremes_are_encoded_or_refused(void **state) {
    (void)state;
    static const gr_dtype types[] = {
#define X(name) GR_##name,
#include "quant/quant.def"
#undef X
    };
    static const float values[] = {0, -0.0f, 1e-45f, -1e-45f, 1e-38f, 1, -1, 65504, 3e38f, -3e38f};
    float x[256], back[256];
    uint8_t bytes[1024];
    for (size_t t = 0; t < GR_COUNT(types); t++) {
        for (size_t a = 0; a < GR_COUNT(values); a++)
            for (size_t b = 0; b < GR_COUNT(values); b++) {
                for (int i = 0; i < 256; i++) x[i] = i % 3 ? values[a] : values[b];
                assert_ok(gr_quantize_row(types[t], x, 256, bytes, &err));
                assert_ok(gr_dequantize_row(types[t], bytes, 256, back, &err));
            }
        for (int bad = 0; bad < 3; bad++) {
            graft_error failure;
            x[77] = bad == 0 ? NAN : bad == 1 ? INFINITY : -INFINITY;
            assert_int_equal(gr_quantize_row(types[t], x, 256, bytes, &failure), GRAFT_ERR_NUMERIC);
            assert_non_null(strstr(failure.text, "77"));
        }
    }
    graft_error failure;
    assert_int_equal(gr_quantize_row(GR_Q4_K, x, 32, bytes, &failure), GRAFT_ERR_ARGUMENT);
    assert_int_equal(gr_quantize_row(GR_I64, x, 32, bytes, &failure), GRAFT_ERR_UNSUPPORTED);
}

static void four_bits_are_those_of_bitsandbytes(void **state) {
    (void)state;
    static const struct {
        int64_t block, n;
        int kind;
    } cases[] = {{64, 4096, 0}, {64, 4096, 3}, {32, 999, 0}, {128, 1000, 0}, {4096, 9000, 5}, {64, 64 * 300, 1}};
    enum { N = 64 * 300 };
    gr_safetensors *f = open_golden("quant/bitsandbytes.safetensors");
    float *x = gr_alloc(NULL, N * sizeof *x), *values = gr_alloc(NULL, N * sizeof *values);
    for (size_t c = 0; c < 2 * GR_COUNT(cases); c++) {
        const int64_t block = cases[c / 2].block, n = cases[c / 2].n;
        const gr_dtype dt = c % 2 ? GR_FP4 : GR_NF4;
        uint8_t codes[N / 2];
        float absmax[300];
        char key[64];
        numbers(7, n, cases[c / 2].kind, x);
        gr_quantize_4bit(dt, x, n, block, codes, absmax);
        snprintf(key, sizeof key, "%s.%d.%d.%d", c % 2 ? "fp4" : "nf4", (int)block, (int)n, cases[c / 2].kind);
        assert_bytes(golden(f, "%s", key), codes, (size_t)(n + 1) / 2, key);
        assert_bytes(golden(f, "%s.absmax", key), absmax, (size_t)((n + block - 1) / block) * 4, key);
        const gr_tensor_view *want = golden(f, "%s.values", key);
        if (!want) continue;
        gr_scales s = {.block = block, .absmax = absmax};
        gr_tensor_view v = {dt, gr_shape1(n), codes, (size_t)(n + 1) / 2, &s};
        assert_ok(gr_view_decode(&v, 0, n, values, &err));
        assert_int_equal(want->bytes, n * 4);
        for (int64_t i = 0; i < n; i++) { /* FP4 has two zeros; bitsandbytes gives one of them a sign, by its kernel */
            if (gr_scaled_float(want->data, i) != values[i])
                fail_msg("%s: element %d: expected %a, found %a", key, (int)i, (double)gr_scaled_float(want->data, i),
                         (double)values[i]);
        }
    }
    gr_free(NULL, x);
    gr_free(NULL, values);
    gr_safetensors_close(f);
}

static void double_quantisation_is_that_of_bitsandbytes(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 7, 31, 300, 1000, 5000, 33333};
    enum { N = 33333 };
    gr_safetensors *f = open_golden("quant/bitsandbytes.safetensors");
    float *x = gr_alloc(NULL, N * sizeof *x);
    uint8_t *codes = gr_alloc(NULL, N);
    assert_bytes(golden(f, "dynamic_map"), gr_dynamic_map, sizeof gr_dynamic_map, "dynamic_map");
    for (size_t c = 0; c < GR_COUNT(sizes); c++) {
        const int64_t n = sizes[c];
        float nested[(N + 255) / 256], offset;
        numbers(9, n, 1, x);
        gr_quantize_absmax(x, n, codes, nested, &offset);
        assert_bytes(golden(f, "nested.%d.offset", (int)n), &offset, 4, "offset");
        assert_bytes(golden(f, "nested.%d.absmax", (int)n), nested, (size_t)((n + 255) / 256) * 4, "absmax");
        if (n > 5000) continue;
        assert_bytes(golden(f, "nested.%d", (int)n), codes, (size_t)n, "codes");
        gr_scales s = {.block = 64,
                       .codes = codes,
                       .map = gr_dynamic_map,
                       .nested = nested,
                       .nested_block = GR_NESTED_BLOCK,
                       .offset = offset};
        for (int64_t i = 0; i < n; i++) x[i] = gr_scale_at(&s, i);
        assert_bytes(golden(f, "nested.%d.values", (int)n), x, (size_t)n * 4, "values");
    }
    gr_free(NULL, x);
    gr_free(NULL, codes);
    gr_safetensors_close(f);
}

static void rows_of_8_bits_are_those_of_bitsandbytes(void **state) {
    (void)state;
    gr_safetensors *f = open_golden("quant/bitsandbytes.safetensors");
    static const int kinds[] = {0, 3, 4};
    enum { ROWS = 12, N = 100 };
    for (size_t c = 0; c < GR_COUNT(kinds); c++) {
        float x[ROWS * N], scale[ROWS], values[ROWS * N];
        int8_t codes[ROWS * N];
        numbers(11, ROWS * N, kinds[c], x);
        memset(x + 5 * N, 0, N * sizeof *x);
        for (int r = 0; r < ROWS; r++) scale[r] = gr_quantize_int8_row(x + r * N, N, codes + r * N);
        assert_bytes(golden(f, "int8.%d", kinds[c]), codes, sizeof codes, "int8");
        assert_bytes(golden(f, "int8.%d.SCB", kinds[c]), scale, sizeof scale, "SCB");
        gr_scales s = {.block = N, .absmax = scale};
        gr_tensor_view v = {GR_INT8, gr_shape2(ROWS, N), codes, sizeof codes, &s};
        assert_ok(gr_view_decode(&v, 0, ROWS * N, values, &err));
        assert_bytes(golden(f, "int8.%d.values", kinds[c]), values, sizeof values, "values");
    }
    gr_safetensors_close(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(block_formats_have_the_bytes_of_ggml),
        cmocka_unit_test(extremes_are_encoded_or_refused),
        cmocka_unit_test(four_bits_are_those_of_bitsandbytes),
        cmocka_unit_test(double_quantisation_is_that_of_bitsandbytes),
        cmocka_unit_test(rows_of_8_bits_are_those_of_bitsandbytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
