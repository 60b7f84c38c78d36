#include "kernel/cpu/cpu.h"
void gr_cpu_fill_avx512(gr_cpu_kernels *k) { gr_cpu_fill_avx512_products(k); }
