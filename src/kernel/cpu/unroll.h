/* UNROLL before a loop with a small constant trip count whose arrays must stand in registers. */
#ifndef GR_KERNEL_CPU_UNROLL_H
#define GR_KERNEL_CPU_UNROLL_H

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#endif
