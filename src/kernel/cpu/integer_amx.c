/* Integer products of many rows on tile registers (AMX, TDPBSUD): a block of the panel is a tile as it
 * stands, sixteen rows of activations are another. Sums leave the tiles after each block, to be scaled as on
 * every level; rows that fill no tile go through VPDPBUSD. */
#include "kernel/cpu/cpu.h"
#include "kernel/cpu/simd_amx.h"
#include "kernel/cpu/simd_avx512.h"
#include "kernel/cpu/unroll.h"

enum { SIDE = 16, LANES = GR_INT_LANES };

/* 0, 1: sums; 2, 3: rows of 32 (16) codes and the panel's 8 (4) groups of four; 4, 5: of 64 codes, 16 groups.
 */
static const _Alignas(64) gr_tile_configuration blocks_of_32 = {
    .palette = 1, .row_bytes = {64, 64, 32, 64, 32, 64, 64, 64}, .rows = {16, 16, 16, 8, 16, 8, 16, 16}};
static const _Alignas(64) gr_tile_configuration blocks_of_16 = {
    .palette = 1, .row_bytes = {64, 64, 16, 64, 16, 64, 64, 64}, .rows = {16, 16, 16, 4, 16, 4, 16, 16}};

static inline __attribute__((always_inline)) void scale(const bool mins, int64_t row, int64_t block,
                                                        const gr_int_rows *a, const int32_t *sums, vf d, vf m,
                                                        vf y[SIDE]) {
    UNROLL for (int r = 0; r < SIDE; r++) {
        const int64_t at = block * a->step + row + r;
        vi sum = _mm512_load_si512(sums + r * LANES);
        /* With minima codes have no offset. */
        if (!mins) sum = _mm512_add_epi32(sum, _mm512_set1_epi32(a->start[at]));
        y[r] = v_fma(v_mul(d, v_set1(a->d[at])), _mm512_cvtepi32_ps(sum), y[r]);
        if (mins) y[r] = v_fma(m, v_set1(a->ds[at]), y[r]);
    }
}

/* Sums of blocks b and b + 1 (where it exists) of sixteen rows at q. */
static inline __attribute__((always_inline)) void sum_blocks(const int elements, int64_t b, int64_t blocks,
                                                             const int8_t *q, int64_t ld, const uint8_t *w,
                                                             int32_t sums[2][SIDE * LANES]) {
    if (b >= blocks) return;
    GR_TILES_SHARE_MEMORY();
    _tile_zero(0);
    _tile_loadd(2, q + b * elements, ld);
    _tile_loadd(3, w + b * elements * LANES, 64);
    _tile_dpbsud(0, 2, 3);
    _tile_stored(0, sums[0], 64);
    if (b + 1 < blocks) {
        _tile_zero(1);
        _tile_loadd(4, q + (b + 1) * elements, ld);
        _tile_loadd(5, w + (b + 1) * elements * LANES, 64);
        _tile_dpbsud(1, 4, 5);
        _tile_stored(1, sums[1], 64);
    }
    GR_TILES_SHARE_MEMORY();
}

/* Sixteen rows. The next two blocks are multiplied before two are scaled, for stored tiles cannot be read at
 * once. */
static inline __attribute__((always_inline)) void rows_times(const int elements, const bool mins, int64_t row,
                                                             int64_t block, int64_t blocks,
                                                             const gr_int_rows *a, const gr_int_panel *p,
                                                             float *c, bool add) {
    _Alignas(64) int32_t sums[2][2][SIDE * LANES];
    vf y[SIDE];
    UNROLL for (int r = 0; r < SIDE; r++) y[r] = add ? v_load(c + r * LANES) : v_zero();
    const int8_t *q = a->q + row * a->ld + block * elements;
    sum_blocks(elements, 0, blocks, q, a->ld, p->q, sums[0]);
    for (int64_t b = 0; b < blocks; b += 2) {
        sum_blocks(elements, b + 2, blocks, q, a->ld, p->q, sums[b / 2 % 2 ^ 1]);
        for (int64_t i = b; i < b + 2 && i < blocks; i++)
            scale(mins, row, block + i, a, sums[b / 2 % 2][i - b], v_load(p->d + i * LANES),
                  v_load(p->m + i * LANES), y);
    }
    UNROLL for (int r = 0; r < SIDE; r++) v_store(c + r * LANES, y[r]);
}

#define CASE(elements, mins)                                                                                 \
    for (; i + SIDE <= m; i += SIDE) rows_times(elements, mins, i, block, blocks, a, p, c + i * LANES, add)

static void multiply(const gr_int_format *f, int64_t m, int64_t block, int64_t blocks, const gr_int_rows *a,
                     const gr_int_panel *p, float *c, bool add) {
    int64_t i = 0;
    if (m >= SIDE) {
        _tile_loadconfig(f->elements == 32 ? &blocks_of_32 : &blocks_of_16);
        if (f->elements == 32 && f->mins)
            CASE(32, true);
        else if (f->elements == 32)
            CASE(32, false);
        else if (f->mins)
            CASE(16, true);
        else
            CASE(16, false);
        _tile_release();
    }
    if (i == m) return;
    gr_int_rows rest = *a;
    rest.q += i * a->ld;
    rest.d += i;
    rest.ds += i;
    rest.start += i;
    gr_int_multiply_avx512vnni(f, m - i, block, blocks, &rest, p, c + i * LANES, add);
}

/* The panel's codes are 128 more than the weights': -128 times the rows' codes is added, by tiles of that. */
static void accumulate(int64_t m, int64_t n, const int8_t *q, int64_t ld, const gr_int_panel *p, int32_t *c,
                       bool add) {
    static const _Alignas(64) uint8_t less[64] = {
        128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128,
        128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128,
        128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128};
    int64_t i = 0;
    if (m >= SIDE) {
        _tile_loadconfig(&blocks_of_32);
        _tile_loadd(1, less, 0);
        _tile_loadd(5, less, 0);
    }
    for (; i + SIDE <= m; i += SIDE) {
        int64_t e = 0;
        GR_TILES_SHARE_MEMORY();
        if (add)
            _tile_loadd(0, c + i * LANES, 64);
        else
            _tile_zero(0);
        for (; e + 64 <= n; e += 64) {
            _tile_loadd(6, q + i * ld + e, ld);
            _tile_loadd(7, p->q + e * LANES, 64);
            _tile_dpbsud(0, 6, 7);
            _tile_dpbssd(0, 6, 1);
        }
        if (e < n) {
            _tile_loadd(2, q + i * ld + e, ld);
            _tile_loadd(3, p->q + e * LANES, 64);
            _tile_dpbsud(0, 2, 3);
            _tile_dpbssd(0, 2, 5);
        }
        _tile_stored(0, c + i * LANES, 64);
        GR_TILES_SHARE_MEMORY();
    }
    if (m >= SIDE) _tile_release();
    if (i < m) gr_int_accumulate_avx512vnni(m - i, n, q + i * ld, ld, p, c + i * LANES, add);
}

void gr_cpu_fill_amx_integer(gr_cpu_kernels *k) {
    k->integer.multiply = multiply;
    k->integer.accumulate = accumulate;
}
