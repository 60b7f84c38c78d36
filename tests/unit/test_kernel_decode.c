/* Decoders of every CPU level against room quant's: the same bits, for any bytes. */
#include <math.h>

#include "kernel/cpu/cpu.h"
#include "support/support.h"

static void levels_decode_the_same_bits(void **state) {
    (void)state;
    enum { N = 4 * 256 };
    static const char *const levels[] = {"generic", "avx2", "avx512", "avx512bf16", "amx"};
    uint8_t bytes[8 * N];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)gr_rng_u64(9, 1, i);
    for (size_t l = 0; l < GR_COUNT(levels); l++) {
        graft_context_options o = {.cpu = levels[l]};
        graft_context *ctx;
        gr_device *d;
        assert_ok(graft_context_new(&o, &ctx, &err));
        assert_ok(gr_device_get(ctx, &d, &err));
        for (int type = 0; type < GR_DTYPE_COUNT; type++) {
            const gr_quant_ops *quant = gr_quant_get((gr_dtype)type);
            if (!quant->to_f32 || !gr_cpu(d)->to_f32[type]) continue;
            float expected[N], found[N];
            uint16_t expected_half[N], found_half[N];
            quant->to_f32(bytes, N, expected);
            gr_cpu(d)->to_f32[type](bytes, N, found);
            quant->to_bf16(bytes, N, expected_half);
            gr_cpu(d)->to_bf16[type](bytes, N, found_half);
            for (int i = 0; i < N; i++) {
                /* Which NaN comes of two is not said by IEEE 754. */
                if (expected[i] != expected[i]) continue;
                if (memcmp(&expected[i], &found[i], 4) || expected_half[i] != found_half[i])
                    fail_msg("%s, %s, element %d: expected %a, found %a", levels[l], gr_dtype_name((gr_dtype)type), i, expected[i], found[i]);
            }
        }
        graft_context_free(ctx);
    }
}

/* Scales from subnormal to infinite, lengths that leave a part of a vector. */
static void levels_decode_scaled_formats_to_the_same_bits(void **state) {
    (void)state;
    static const char *const levels[] = {"generic", "avx2", "avx512", "avx512bf16"};
    static const gr_dtype types[] = {GR_NF4, GR_FP4, GR_INT8};
    static const float scales[] = {1, 0.0371f, -2.5f, 1e-37f, 3e-39f, 1e-45f, 0, 3e38f, INFINITY};
    enum { N = 200 };
    uint8_t bytes[N];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)gr_rng_u64(9, 2, i);
    for (size_t l = 0; l < GR_COUNT(levels); l++) {
        graft_context_options o = {.cpu = levels[l]};
        graft_context *ctx;
        gr_device *d;
        assert_ok(graft_context_new(&o, &ctx, &err));
        assert_ok(gr_device_get(ctx, &d, &err));
        for (size_t k = 0; k < GR_COUNT(types) * GR_COUNT(scales) * N; k++) {
            const gr_dtype type = types[k % 3];
            const float scale = scales[k / 3 % GR_COUNT(scales)];
            const size_t n = k / 3 / GR_COUNT(scales);
            float expected[N + 1] = {0}, found[N + 1] = {0};
            uint16_t expected_half[N + 1] = {0}, found_half[N + 1] = {0};
            gr_scaled_get(type)->to_f32(bytes, n, scale, expected);
            gr_cpu(d)->scaled[type].to_f32(bytes, n, scale, found);
            gr_scaled_get(type)->to_bf16(bytes, n, scale, expected_half);
            gr_cpu(d)->scaled[type].to_bf16(bytes, n, scale, found_half);
            for (size_t i = 0; i <= N; i++) {
                if (expected[i] != expected[i]) continue;
                if (memcmp(&expected[i], &found[i], 4) || expected_half[i] != found_half[i])
                    fail_msg("%s, %s, scale %g, element %zu of %zu: expected %a, found %a", levels[l], gr_dtype_name(type), (double)scale, i, n,
                             (double)expected[i], (double)found[i]);
            }
        }
        graft_context_free(ctx);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(levels_decode_the_same_bits),
                                       cmocka_unit_test(levels_decode_scaled_formats_to_the_same_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
