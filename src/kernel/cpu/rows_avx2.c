#include "kernel/cpu/cpu.h"
void gr_cpu_fill_avx2(gr_cpu_kernels *k) { gr_cpu_fill_avx2_products(k); }
