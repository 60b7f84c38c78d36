/* Decoders of stored formats with AVX2. */
#include "kernel/cpu/cpu.h"
#include "kernel/cpu/simd_avx2.h"
#include "quant/blocks.h"

static inline float half_at(const uint8_t *p) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(p[0] | p[1] << 8))); }
static inline uint32_t word_at(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}
static inline vi bytes_at(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)); }
static inline vf v_float(vi x) { return _mm256_cvtepi32_ps(x); }
static inline vf signed_at(const uint8_t *p) {
    return v_float(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline vi field(vi q, int shift, int mask) { return _mm256_and_si256(_mm256_srli_epi32(q, shift), _mm256_set1_epi32(mask)); }
static inline vi joined(vi low, vi high, int by) { return _mm256_or_si256(low, _mm256_slli_epi32(high, by)); }
static inline vi with_bit(vi q, uint32_t word, int bit) {
    const vi lane = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
    const vi set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)word), lane), lane);
    return _mm256_or_si256(q, _mm256_and_si256(set, _mm256_set1_epi32(bit)));
}

typedef struct sixteen {
    vf low, high;
} sixteen;
static inline sixteen scaled_table(const float *values, float scale) {
    return (sixteen){v_mul(v_load(values), v_set1(scale)), v_mul(v_load(values + 8), v_set1(scale))};
}
/* Bits above an index's four mean nothing. */
static inline vf look_up(sixteen table, vi index) {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, index), _mm256_permutevar8x32_ps(table.high, index),
                            _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
/* The nibbles of 4 bytes, high before low. */
static inline vi nibble_pairs(const uint8_t *p) {
    return _mm256_srlv_epi32(_mm256_set1_epi32((int)word_at(p)), _mm256_set_epi32(24, 28, 16, 20, 8, 12, 0, 4));
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

void gr_cpu_fill_avx2_decode(gr_cpu_kernels *k) {
    fill_f32(k);
    fill_bf16(k);
}
