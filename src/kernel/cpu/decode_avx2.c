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
}
