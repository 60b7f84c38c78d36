/* Block products of BF16 pairs with sums in float (AVX512_BF16's VDPBF16PS: subnormals count as zero). */
#include "kernel/cpu/product.h"
#include "kernel/cpu/simd_avx512.h"
#include "kernel/cpu/unroll.h"

#include "kernel/cpu/simd_finish.h"

#define NAME(x) x##_bf16
#define T uint16_t
#define OP __m512i
#define STEP 2
#define PACKED uint16_t
#define MAC(acc, a, b) _mm512_dpbf16_ps(acc, (__m512bh)(a), (__m512bh)(b))
#define OP_LOAD(p) _mm512_loadu_si512(p)
#define OP_LOAD_N(p, n) _mm512_maskz_loadu_epi16((__mmask32)((1ull << (n)) - 1), p)
#define OP_PANEL(p) _mm512_loadu_si512(p)
#define OP_BROADCAST(p) _mm512_set1_epi32(*(const pair *)(const void *)(p))
#define OP_BROADCAST_1(p) _mm512_set1_epi32(*(const uint16_t *)(const void *)(p))

/* Two BF16 at any even address, of whatever type they were stored as. */
typedef int32_t __attribute__((may_alias, aligned(2))) pair;

#include "kernel/cpu/simd_products.h"

/* Element 2 i + h of the result: row h's element i. */
static inline void interleave(const uint16_t *row0, const uint16_t *row1, int64_t n, uint16_t *to, int64_t n_to) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5,
                                         36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t j = 0; j < n_to; j += 32) {
        int64_t left = n - j < 0 ? 0 : n - j < 32 ? n - j : 32, left_to = n_to - j < 32 ? n_to - j : 32;
        __mmask32 mask = (__mmask32)((1ull << left) - 1);
        __m512i a = _mm512_maskz_loadu_epi16(mask, row0 + j);
        __m512i b = row1 ? _mm512_maskz_loadu_epi16(mask, row1 + j) : _mm512_setzero_si512();
        __m512i x = _mm512_permutex2var_epi16(a, low, b), y = _mm512_permutex2var_epi16(a, high, b);
        if (left_to == 32) {
            _mm512_storeu_si512(to + 2 * j, x);
            _mm512_storeu_si512(to + 2 * j + 32, y);
        } else {
            _mm512_mask_storeu_epi32(to + 2 * j, (__mmask16)((1u << GR_MIN(left_to, (int64_t)16)) - 1), x);
            _mm512_mask_storeu_epi32(to + 2 * j + 32, (__mmask16)((1u << GR_MAX(left_to - 16, (int64_t)0)) - 1), y);
        }
    }
}

/* Panel of a B whose rows run along K: its pairs are dwords as they stand; blocks of 16 x 16 dwords, transposed. */
static void pack_transposed(int64_t k, int64_t n, const uint16_t *b, int64_t ld, uint16_t *panel) {
    for (int64_t j = 0; j < GR_PANEL; j += 16)
        for (int64_t s = 0; s < k; s += 32) {
            int64_t left = k - s < 32 ? k - s : 32;
            vf x[16];
            for (int64_t c = 0; c < 16; c++)
                x[c] = j + c < n ? _mm512_castsi512_ps(OP_LOAD_N(b + (j + c) * ld + s, left)) : v_zero();
            v_transpose(x);
            for (int64_t c = 0; c < (left + 1) / 2; c++)
                _mm512_storeu_ps(panel + (s + 2 * c) * GR_PANEL + 2 * j, x[c]);
        }
}

static void pack_panel(int64_t k, int64_t n, const void *b_, int64_t b_k, int64_t b_j, void *panel_) {
    const uint16_t *b = b_;
    uint16_t *panel = panel_;
    if (b_j != 1)
        pack_transposed(k, n, b, b_j, panel);
    else
        for (int64_t s = 0; s < k; s += 2)
            interleave(b + s * b_k, s + 1 < k ? b + (s + 1) * b_k : NULL, n, panel + s * GR_PANEL, GR_PANEL);
}

static void pack_a_transposed(int64_t m, int64_t k, const void *a_, int64_t lda, void *packed_) {
    const uint16_t *a = a_;
    uint16_t *packed = packed_;
    for (int64_t s = 0; s < k; s += 2)
        interleave(a + s * lda, s + 1 < k ? a + (s + 1) * lda : NULL, m, packed + s * m, m);
}

static const gr_product_kernels products_bf16 = {.dot = dot_bf16,
                                                 .outer = outer_bf16,
                                                 .step = 2,
                                                 .packed_size = 2,
                                                 .pack_panel = pack_panel,
                                                 .pack_a = {NULL, pack_a_transposed},
                                                 .finish = finish};

void gr_cpu_fill_avx512bf16_products(gr_cpu_kernels *k) { k->products[GR_TYPE_BF16] = &products_bf16; }
