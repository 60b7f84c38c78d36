/* Row kernels with AVX2, for F32 and BF16 activations; computed in float. */
#include "kernel/cpu/cpu.h"
#include "kernel/cpu/simd_avx2.h"

#include "kernel/cpu/simd_activation.h"
#include "kernel/cpu/simd_plain.h"

#define NAME(x) x##_f32
#define T float
#define LD ld_f32
#define ST st_f32
#include "kernel/cpu/simd_rows.h"
#undef NAME
#undef T
#undef LD
#undef ST

#define NAME(x) x##_bf16
#define T uint16_t
#define LD ld_bf16
#define ST st_bf16
#include "kernel/cpu/simd_rows.h"

void gr_cpu_fill_avx2(gr_cpu_kernels *k) {
    k->rows[GR_TYPE_F32] = &rows_f32;
    k->rows[GR_TYPE_BF16] = &rows_bf16;
    k->convert = convert;
    k->sum_squares = sum_squares;
    k->adamw = adamw;
    k->adamw_fused = adamw_fused;
    gr_cpu_fill_avx2_products(k);
    gr_cpu_fill_avx2_attention(k);
    gr_cpu_fill_avx2_decode(k);
    gr_cpu_fill_avx2_integer(k);
}
