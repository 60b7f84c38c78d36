/* What files on tile registers share. */
#ifndef GR_KERNEL_CPU_SIMD_AMX_H
#define GR_KERNEL_CPU_SIMD_AMX_H

#include <stdint.h>

/* As LDTILECFG reads it. */
typedef struct gr_tile_configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} gr_tile_configuration;
_Static_assert(sizeof(gr_tile_configuration) == 64, "layout of LDTILECFG");

/* GCC's tile loads do not tell the compiler that they read memory, nor its stores that they write it: stands between what was
 * written and tiles that read it, and the other way round. */
#define GR_TILES_SHARE_MEMORY() __asm__ volatile("" ::: "memory")

#endif
