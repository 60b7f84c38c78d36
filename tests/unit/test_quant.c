/* Room quant: every format's decoded values against gguf-py's (tools/golden/make_formats.py), to the bit. */
#include "io/gguf.h"
#include "io/safetensors.h"
#include "quant/quant.h"
#include "support/support.h"

static const gr_dtype formats[] = {
#define X(name) GR_##name,
#include "quant/quant.def"
#undef X
};

static void decoded_values_equal_the_reference(void **state) {
    (void)state;
    gr_gguf *g;
    gr_safetensors *f;
    assert_ok(gr_gguf_open(NULL, test_golden("formats/quants.gguf"), &g, &err));
    assert_ok(gr_safetensors_open(NULL, test_golden("formats/quants.safetensors"), &f, &err));
    for (size_t i = 0; i < GR_COUNT(formats); i++) {
        const char *name = gr_dtype_name(formats[i]);
        const gr_named_tensor *t = gr_tensor_list_find(gr_gguf_tensors(g), name);
        const gr_named_tensor *want = gr_tensor_list_find(gr_safetensors_tensors(f), name);
        if (!t || !want) fail_msg("%s has no golden values", name);
        assert_int_equal(t->view.dtype, formats[i]);
        assert_true(gr_shape_equal(&t->view.shape, &want->view.shape));
        float out[1024];
        uint16_t narrow[1024];
        assert_ok(gr_dequantize_row(formats[i], t->view.data, 1024, out, &err));
        assert_ok(gr_dequantize_row_bf16(formats[i], t->view.data, 1024, narrow, &err));
        for (int k = 0; k < 1024; k++) {
            float expected;
            memcpy(&expected, (const char *)want->view.data + 4 * k, 4);
            if (gr_float_bits(out[k]) != gr_float_bits(expected))
                fail_msg("%s element %d: expected %.9g, found %.9g", name, k, (double)expected, (double)out[k]);
            assert_int_equal(narrow[k], gr_f32_to_bf16(expected));
        }
    }
    gr_safetensors_close(f);
    gr_gguf_close(g);
}

/* Any alignment, and any cut into whole blocks, gives the same values; nothing beyond n is written. */
static void position_and_length_do_not_matter(void **state) {
    (void)state;
    for (size_t i = 0; i < GR_COUNT(formats); i++) {
        const gr_dtype_info *d = gr_dtype_get(formats[i]);
        size_t block = (size_t)d->block_elements, n = 3 * GR_MAX(block, (size_t)100),
               bytes = gr_dtype_bytes(formats[i], n);
        if (n % block) n -= n % block;
        unsigned char *at = gr_alloc(NULL, bytes + 1), *shifted = gr_alloc(NULL, bytes + 1);
        float *whole = gr_alloc(NULL, (n + 1) * 4), *parts = gr_alloc(NULL, (n + 1) * 4);
        uint16_t *narrow = gr_alloc(NULL, (n + 1) * 2);
        for (size_t k = 0; k < bytes; k++) at[k] = (unsigned char)(gr_rng_u64(3, 5, k) & 0x3B); /* no infinities */
        memcpy(shifted + 1, at, bytes);
        whole[n] = parts[n] = 77;
        narrow[n] = 77;
        assert_ok(gr_dequantize_row(formats[i], at, n, whole, &err));
        for (size_t k = 0; k < n; k += block)
            assert_ok(
                gr_dequantize_row(formats[i], shifted + 1 + gr_dtype_bytes(formats[i], k), block, parts + k, &err));
        assert_memory_equal(whole, parts, (n + 1) * 4);
        assert_ok(gr_dequantize_row_bf16(formats[i], shifted + 1, n, narrow, &err));
        for (size_t k = 0; k < n; k++) assert_int_equal(narrow[k], gr_f32_to_bf16(whole[k]));
        assert_int_equal(narrow[n], 77);
        gr_free(NULL, at);
        gr_free(NULL, shifted);
        gr_free(NULL, whole);
        gr_free(NULL, parts);
        gr_free(NULL, narrow);
    }
}

static void what_cannot_be_decoded_is_refused(void **state) {
    (void)state;
    float out[1];
    graft_error failure;
    assert_int_equal(gr_dequantize_row(GR_I64, "12345678", 1, out, &failure), GRAFT_ERR_UNSUPPORTED);
    assert_non_null(strstr(failure.text, "I64"));
    assert_int_equal(gr_dequantize_row(GR_Q4_K, out, 1, out, &failure), GRAFT_ERR_ARGUMENT);
    assert_non_null(strstr(failure.text, "256"));
    assert_ok(gr_dequantize_row(GR_Q4_K, NULL, 0, out, &err));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoded_values_equal_the_reference),
        cmocka_unit_test(position_and_length_do_not_matter),
        cmocka_unit_test(what_cannot_be_decoded_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
