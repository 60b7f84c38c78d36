#include "kernel/cpu/cpu.h"
void gr_cpu_fill_avx512bf16(gr_cpu_kernels *k) { gr_cpu_fill_avx512bf16_products(k); }
