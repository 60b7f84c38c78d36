/* Block products with AVX-512: F32, and BF16 widened to float (this level has no products of BF16). */
#include "kernel/cpu/product.h"
#include "kernel/cpu/simd_avx512.h"
#include "kernel/cpu/unroll.h"

#include "kernel/cpu/simd_finish.h"

#define OP vf
#define STEP 1
#define PACKED float
#define OP_BROADCAST(p) v_set1(*(const float *)(const void *)(p))
#define OP_BROADCAST_1 OP_BROADCAST
#define OP_PANEL v_load
#define MAC(acc, a, b) v_fma(a, b, acc)

#define NAME(x) x##_f32
#define T float
#define OP_LOAD v_load
#define OP_LOAD_N v_load_n
#define FLOATS_N v_load_n
#include "kernel/cpu/simd_products.h"
#include "kernel/cpu/simd_pack.h"
#undef NAME
#undef T
#undef OP_LOAD
#undef OP_LOAD_N
#undef FLOATS_N

#define NAME(x) x##_bf16
#define T uint16_t
#define OP_LOAD v_load_bf16
#define OP_LOAD_N v_load_bf16_n
#define FLOATS_N v_load_bf16_n
#include "kernel/cpu/simd_products.h"
#include "kernel/cpu/simd_pack.h"

static void pack_a_bf16(int64_t m, int64_t k, const void *a, int64_t lda, void *packed) {
    pack_rows_bf16(m, k, a, lda, packed, k);
}

static void pack_a_transposed_bf16(int64_t m, int64_t k, const void *a, int64_t lda, void *packed) {
    pack_rows_bf16(k, m, a, lda, packed, m);
}

static const gr_product_kernels products_f32 = {
    .dot = dot_f32, .outer = outer_f32, .step = 1, .packed_size = 4, .pack_panel = pack_panel_f32, .finish = finish};

static const gr_product_kernels products_bf16 = {.dot = dot_bf16,
                                                 .outer = outer_bf16,
                                                 .step = 1,
                                                 .packed_size = 4,
                                                 .pack_panel = pack_panel_bf16,
                                                 .pack_a = {pack_a_bf16, pack_a_transposed_bf16},
                                                 .finish = finish};

void gr_cpu_fill_avx512_products(gr_cpu_kernels *k) {
    k->products[GR_TYPE_F32] = &products_f32;
    k->products[GR_TYPE_BF16] = &products_bf16;
}
