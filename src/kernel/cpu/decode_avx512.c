/* Decoders of stored formats with AVX-512. */
#include "kernel/cpu/cpu.h"
#include "kernel/cpu/simd_avx512.h"

static inline float half_at(const uint8_t *p) { return gr_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }
static inline vi bytes_at(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)); }
static inline vf signed_at(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
static inline vf low_nibble(vi q) { return _mm512_cvtepi32_ps(_mm512_and_si512(q, _mm512_set1_epi32(15))); }
static inline vf high_nibble(vi q) { return _mm512_cvtepi32_ps(_mm512_srli_epi32(q, 4)); }

typedef vf sixteen;
static inline sixteen scaled_table(const float *values, float scale) { return v_mul(v_load(values), v_set1(scale)); }
static inline vf look_up(sixteen table, vi index) { return _mm512_permutexvar_ps(index, table); }
/* The nibbles of 8 bytes, high before low. */
static inline vi nibble_pairs(const uint8_t *p) {
    vi q = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(const void *)p));
    return _mm512_or_si512(_mm512_srli_epi64(q, 4), _mm512_slli_epi64(_mm512_and_si512(q, _mm512_set1_epi64(15)), 32));
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
