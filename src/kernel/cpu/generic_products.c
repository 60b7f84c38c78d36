/* Portable block products for F32, BF16 and F64. */
#include "kernel/cpu/product.h"

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)

#define NAME(x) PASTE(x, f32)
#define T float
#define S float
#define LOAD(t) (t)
#include "kernel/cpu/generic_products.h"
#undef NAME
#undef T
#undef LOAD

#define NAME(x) PASTE(x, bf16)
#define T uint16_t
#define LOAD(t) gr_bf16_to_f32(t)
#include "kernel/cpu/generic_products.h"
#undef NAME
#undef T
#undef S
#undef LOAD

#define NAME(x) PASTE(x, f64)
#define T double
#define S double
#define LOAD(t) (t)
#include "kernel/cpu/generic_products.h"

void gr_cpu_fill_generic_products(gr_cpu_kernels *k) {
    k->products[GR_TYPE_F32] = &products_f32;
    k->products[GR_TYPE_BF16] = &products_bf16;
    k->products[GR_TYPE_F64] = &products_f64;
}
