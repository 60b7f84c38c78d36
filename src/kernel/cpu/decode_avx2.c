/* Decoders of stored formats with AVX2. */
#include "kernel/cpu/cpu.h"
#include "kernel/cpu/simd_avx2.h"

static inline float half_at(const uint8_t *p) { return gr_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }
static inline vi bytes_at(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)); }
static inline vf signed_at(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline vf low_nibble(vi q) { return _mm256_cvtepi32_ps(_mm256_and_si256(q, _mm256_set1_epi32(15))); }
static inline vf high_nibble(vi q) { return _mm256_cvtepi32_ps(_mm256_srli_epi32(q, 4)); }

typedef struct sixteen {
    vf low, high;
} sixteen;
static inline sixteen scaled_table(const float *values, float scale) {
    return (sixteen){v_mul(v_load(values), v_set1(scale)), v_mul(v_load(values + 8), v_set1(scale))};
}
static inline vf look_up(sixteen table, vi index) {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, index), _mm256_permutevar8x32_ps(table.high, index),
                            _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
/* The nibbles of 4 bytes, high before low. */
static inline vi nibble_pairs(const uint8_t *p) {
    int word;
    memcpy(&word, p, 4);
    vi q = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(word));
    return _mm256_or_si256(_mm256_srli_epi64(q, 4), _mm256_slli_epi64(_mm256_and_si256(q, _mm256_set1_epi64x(15)), 32));
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
    k->to_f32[GR_Q4_0] = Q4_0_f32;
    k->to_f32[GR_Q4_1] = Q4_1_f32;
    k->to_f32[GR_Q8_0] = Q8_0_f32;
    k->to_bf16[GR_Q4_0] = Q4_0_bf16;
    k->to_bf16[GR_Q4_1] = Q4_1_bf16;
    k->to_bf16[GR_Q8_0] = Q8_0_bf16;
    k->scaled[GR_NF4] = (gr_scaled_ops){NF4_f32, NF4_bf16};
    k->scaled[GR_FP4] = (gr_scaled_ops){FP4_f32, FP4_bf16};
    k->scaled[GR_INT8] = (gr_scaled_ops){INT8_f32, INT8_bf16};
}
