/* Decoders of every CPU level against room quant's: the same bits, for any bytes. */
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(levels_decode_the_same_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
