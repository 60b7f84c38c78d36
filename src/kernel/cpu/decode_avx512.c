/* Decoders of stored formats with AVX-512. */
#include "kernel/cpu/cpu.h"
#include "kernel/cpu/simd_avx512.h"
#include "quant/blocks.h"

static inline float half_at(const uint8_t *p) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(p[0] | p[1] << 8))); }
static inline uint32_t word_at(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}
static inline vi bytes_at(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)); }
static inline vf v_float(vi x) { return _mm512_cvtepi32_ps(x); }
static inline vf signed_at(const uint8_t *p) {
    return v_float(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
static inline vi field(vi q, int shift, int mask) {
    return _mm512_and_si512(_mm512_srli_epi32(q, (unsigned)shift), _mm512_set1_epi32(mask));
}
static inline vi joined(vi low, vi high, int by) { return _mm512_or_si512(low, _mm512_slli_epi32(high, (unsigned)by)); }
static inline vi with_bit(vi q, uint32_t word, int bit) {
    return _mm512_mask_or_epi32(q, (__mmask16)word, q, _mm512_set1_epi32(bit));
}

typedef vf sixteen;
static inline sixteen scaled_table(const float *values, float scale) { return v_mul(v_load(values), v_set1(scale)); }
/* Bits above an index's four mean nothing. */
static inline vf look_up(sixteen table, vi index) { return _mm512_permutexvar_ps(index, table); }
/* The nibbles of 8 bytes, high before low. */
static inline vi nibble_pairs(const uint8_t *p) {
    const vi by = _mm512_set_epi32(24, 28, 16, 20, 8, 12, 0, 4, 24, 28, 16, 20, 8, 12, 0, 4);
    return _mm512_srlv_epi32(_mm512_mask_set1_epi32(_mm512_set1_epi32((int)word_at(p)), 0xFF00, (int)word_at(p + 4)), by);
}

#define NAME(x) x##_f32
#define T float
#define PUT(p, x) v_store(p, x)
#include "kernel/cpu/simd_decode.h"
#undef NAME
#undef T
#undef PUT

#define NAME(x) x##_bf16
#define T uint16_t
#define PUT(p, x) v_store_bf16_exact_n(p, x, VW)
#include "kernel/cpu/simd_decode.h"

void gr_cpu_fill_avx512_decode(gr_cpu_kernels *k) {
    fill_f32(k);
    fill_bf16(k);
}
