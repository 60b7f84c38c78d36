/* Row kernels with AVX-512 for BF16 activations, rounded by the hardware's own conversion. */
#include "kernel/cpu/cpu.h"
#include "kernel/cpu/simd_avx512.h"

#include "kernel/cpu/simd_activation.h"
#include "kernel/cpu/simd_plain.h"

#define NAME(x) x##_bf16
#define T uint16_t
#define LD ld_bf16
#define ST st_bf16
#include "kernel/cpu/simd_rows.h"

void gr_cpu_fill_avx512bf16(gr_cpu_kernels *k) {
    k->rows[GR_TYPE_BF16] = &rows_bf16;
    gr_cpu_fill_avx512bf16_products(k);
    gr_cpu_fill_avx512bf16_attention(k);
    gr_cpu_fill_avx512bf16_decode(k);
    gr_cpu_fill_avx512bf16_tiles(k);
}
