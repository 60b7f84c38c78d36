/* Rows of attention scores with AVX2; this level multiplies BF16 as floats, so probabilities are floats. */
#include <math.h>

#include "kernel/cpu/attention.h"
#include "kernel/cpu/simd_avx2.h"

#define NAME(x) x##_f32
#define P float
#define ST(p, x, w)                                                                                                    \
    do {                                                                                                               \
        if ((w) >= VW)                                                                                                 \
            v_store(p, x);                                                                                             \
        else                                                                                                           \
            v_store_n(p, x, w);                                                                                        \
    } while (0)
#include "kernel/cpu/simd_attention.h"

void gr_cpu_fill_avx2_attention(gr_cpu_kernels *k) {
    k->attention_rows[GR_TYPE_F32] = &attention_rows_f32;
    k->attention_rows[GR_TYPE_BF16] = &attention_rows_f32;
    k->attention = gr_attention_blocks;
    k->attention_backward = gr_attention_backward_blocks;
}
