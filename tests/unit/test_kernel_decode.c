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
    static const gr_dtype types[] = {GR_NF4, GR_FP4, GR_INT8, GR_CHANNEL8};
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
            const gr_dtype type = types[k % GR_COUNT(types)];
            const float scale = scales[k / GR_COUNT(types) % GR_COUNT(scales)];
            const size_t n = k / GR_COUNT(types) / GR_COUNT(scales);
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

/* Sixteen rows by tiles, a block after the other, and row by row. */
static void tiles_decode_the_same_bits(void **state) {
    (void)state;
    enum { ROWS = 16, STEP = 32, BLOCKS = 3, N = BLOCKS * 256, ROW = 4 * N };
    static uint8_t bytes[ROWS * ROW + 1];
    static uint16_t expected[ROWS * N], found[ROWS * N], tile[2 * ROWS * STEP];
    graft_context *ctx;
    gr_device *d;
    assert_ok(graft_context_new(&(graft_context_options){.cpu = "amx"}, &ctx, &err));
    assert_ok(gr_device_get(ctx, &d, &err));
    for (int round = 0; round < 4 * GR_DTYPE_COUNT; round++) {
        const gr_dtype type = (gr_dtype)(round / 4);
        const gr_tile_ops ops = gr_cpu(d)->tile[type];
        const bool two = round / 2 % 2;
        if (!ops.decode || !gr_quant_get(type)->to_bf16 || (two && !ops.two)) continue;
        const int block = GR_MAX(gr_dtype_get(type)->block_elements, (int)STEP), n = BLOCKS * block;
        const int64_t block_bytes = (int64_t)gr_dtype_bytes(type, (size_t)block), row = BLOCKS * block_bytes + round % 2;
        for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)gr_rng_u64(9, 3 + (uint64_t)round % 2, i);
        if (type == GR_F32) memset(bytes, 0, 64); /* among subnormals */
        bytes[7] = 1;
        float space[BLOCKS * GR_TILE_SCALES], whole[N];
        if (ops.scales) ops.scales(bytes, row, BLOCKS, space);
        for (int b = 0; b < BLOCKS; b++)
            for (int step = 0; step < block / STEP; step++) {
                const uint16_t *at = two && step % 2 ? tile + ROWS * STEP : tile;
                if (at == tile)
                    (two ? ops.two : ops.decode)(bytes + b * block_bytes, row, step, space + b * ops.floats, tile);
                for (int r = 0; r < ROWS; r++) memcpy(found + r * n + b * block + step * STEP, at + r * STEP, 2 * STEP);
            }
        for (int r = 0; r < ROWS; r++) {
            gr_quant_get(type)->to_bf16(bytes + r * row, (size_t)n, expected + r * n);
            gr_quant_get(type)->to_f32(bytes + r * row, (size_t)n, whole);
            for (int i = 0; i < n; i++)
                if (whole[i] == whole[i] && expected[r * n + i] != found[r * n + i])
                    fail_msg("%s, row %d, element %d: expected %#x, found %#x", gr_dtype_name(type), r, i, expected[r * n + i], found[r * n + i]);
        }
    }
    graft_context_free(ctx);
}

/* The same of formats whose scales stand apart, plain and nested, in blocks of every size. */
static void tiles_decode_scaled_formats_to_the_same_bits(void **state) {
    (void)state;
    enum { ROWS = 16, STEP = 32, N = 4096, CODES = 2 * ROWS * N / 32 };
    static const gr_dtype types[] = {GR_NF4, GR_FP4, GR_INT8, GR_CHANNEL8};
    static uint8_t bytes[2 * ROWS * N], codes[CODES];
    static uint16_t expected[N], tile[2 * ROWS * STEP];
    static float absmax[CODES], nested[CODES / 16 + 1], scales[N / 32 * ROWS];
    graft_context *ctx;
    gr_device *d;
    assert_ok(graft_context_new(&(graft_context_options){.cpu = "amx"}, &ctx, &err));
    assert_ok(gr_device_get(ctx, &d, &err));
    const gr_cpu_kernels *k = gr_cpu(d);
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)gr_rng_u64(9, 5, i);
    for (int i = 0; i < CODES; i++) {
        codes[i] = (uint8_t)gr_rng_u64(9, 6, (uint64_t)i);
        absmax[i] = i % 19 == 3 ? 0 : (float)fabs(gr_rng_normal(9, 7, (uint64_t)i));
    }
    for (size_t i = 0; i < GR_COUNT(nested); i++) nested[i] = (float)fabs(gr_rng_normal(9, 8, i));
    for (int round = 0; k->tile_scales && round < 4 * 2 * 2 * 8 * 2; round++) {
        const gr_dtype type = types[round % 4];
        const int64_t block = 32 << round / 16 % 8, n = GR_MIN(N, block * 21), every = 1 + round / 4 % 2, blocks = n / block;
        gr_scales s = {.block = block, .absmax = absmax};
        if (round / 8 % 2) s = (gr_scales){.block = block, .codes = codes, .map = gr_dynamic_map, .nested = nested, .nested_block = 16 << round % 5, .offset = 0.3f};
        const int64_t row_bytes = (int64_t)gr_dtype_bytes(type, (size_t)n) * every, first = 5;
        const bool two = round / 128;
        if (two && (block == STEP || !k->tile[type].two)) continue;
        assert_true(k->tile_scales(&s, first, blocks * every, blocks, scales));
        for (int64_t at = 0; at < n; at += STEP) {
            const int64_t b = at / block;
            const int step = (int)(at % block / STEP);
            const uint16_t *own = two && step % 2 ? tile + ROWS * STEP : tile;
            if (own == tile)
                (two ? k->tile[type].two : k->tile[type].decode)(bytes + gr_dtype_bytes(type, (size_t)(b * block)), row_bytes, step, scales + b * ROWS, tile);
            for (int64_t r = 0; r < ROWS; r++) {
                const float scale = gr_scale_at(&s, first + r * blocks * every + b);
                gr_scaled_get(type)->to_bf16(bytes + r * row_bytes + gr_dtype_bytes(type, (size_t)at), STEP, scale, expected);
                assert_memory_equal(expected, own + r * STEP, 2 * STEP);
            }
        }
    }
    absmax[40] = 1e-40f;
    if (k->tile_scales) assert_false(k->tile_scales(&(gr_scales){.block = 64, .absmax = absmax}, 0, 9, 9, scales));
    graft_context_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(levels_decode_the_same_bits),
                                       cmocka_unit_test(levels_decode_scaled_formats_to_the_same_bits),
                                       cmocka_unit_test(tiles_decode_the_same_bits),
                                       cmocka_unit_test(tiles_decode_scaled_formats_to_the_same_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
