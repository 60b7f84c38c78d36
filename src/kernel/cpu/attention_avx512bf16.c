/* Rows of attention scores with AVX-512: probabilities in BF16 for the products of that level. */
#include <math.h>

#include "kernel/cpu/attention.h"
#include "kernel/cpu/simd_avx512.h"

#define NAME(x) x##_bf16
#define P uint16_t
#define ST(p, x, w)                                                                                                    \
    do {                                                                                                               \
        if ((w) >= VW)                                                                                                 \
            v_store_bf16(p, x);                                                                                        \
        else                                                                                                           \
            v_store_bf16_n(p, x, w);                                                                                   \
    } while (0)
#include "kernel/cpu/simd_attention.h"

void gr_cpu_fill_avx512bf16_attention(gr_cpu_kernels *k) { k->attention_rows[GR_TYPE_BF16] = &attention_rows_bf16; }
