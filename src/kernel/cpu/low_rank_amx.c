/* Low-rank updates on tile registers (contract: low_rank.h), with the sums of products_amx.c to the bit. Tiles are as
 * narrow as the factors: what is read of memory is the values and nothing else, down to one row of x and rank 1.
 *
 * A: blocks of at most 16 columns, all of the same width, each [K / 32][16 pairs][width]. B: tiles of 16 outputs, each
 * [rank / 32][pairs][16], of a rank up to 32 no more pairs than there are. */
#include "kernel/cpu/low_rank.h"
#include "kernel/cpu/simd_amx.h"
#include "kernel/cpu/simd_avx512.h"
#include "kernel/cpu/unroll.h"

enum { SIDE = 16, STEP = GR_LOW_RANK_STEP, PAIR = 4, GROUP = 3, GROUP_WIDTH = GROUP * SIDE, MOST_ROW_RANK = 1024 };

/* Registers 0 to 2: sums of u; 3: x; 4: A; 5: u; 6: B; 7 and 3: sums of y. */

/* --- Layout ------------------------------------------------------------------------------------------------------- */

static int64_t n_blocks(const gr_low_rank *f) { return (f->rank + SIDE - 1) / SIDE; }
static int64_t width_of(const gr_low_rank *f) { return (f->rank + n_blocks(f) - 1) / n_blocks(f); }
static int64_t block_bytes(const gr_low_rank *f) { return gr_round_up(f->in, STEP) / 2 * width_of(f) * PAIR; }
static int64_t pairs_of(int64_t rank) { return rank < STEP ? (rank + 1) / 2 : SIDE; }
static int64_t tile_bytes(int64_t rank) { return gr_round_up(rank, STEP) / STEP * pairs_of(rank) * SIDE * PAIR; }

static size_t a_bytes(const gr_low_rank *f) { return (size_t)gr_round_up(n_blocks(f) * block_bytes(f), 64); }
static size_t b_bytes(const gr_low_rank *f, int64_t rank, int64_t out) {
    (void)f;
    return (size_t)((out + SIDE - 1) / SIDE * tile_bytes(rank));
}

/* Columns j .. j+width-1 of a factor whose n rows run along k as [steps][pairs][width], zeros where there is nothing.
 */
static void pack_block(const uint16_t *rows, int64_t n, int64_t k, int64_t j, int64_t width, int64_t pairs,
                       uint16_t *to) {
    for (int64_t s = 0; s < k; s += STEP)
        for (int64_t p = s; p < s + 2 * pairs; p += 2)
            for (int64_t c = j; c < j + width; c++) {
                *to++ = c < n && p < k ? rows[c * k + p] : 0;
                *to++ = c < n && p + 1 < k ? rows[c * k + p + 1] : 0;
            }
}

static void pack_a(const gr_low_rank *f, const void *a) {
    for (int64_t b = 0; b < n_blocks(f); b++)
        pack_block(a, f->rank, f->in, b * width_of(f), width_of(f), SIDE,
                   (uint16_t *)(void *)(f->data + b * block_bytes(f)));
}

static void pack_b(const gr_low_rank *f, int part, const void *b) {
    const gr_low_rank_part *p = &f->part[part];
    char *to = f->data + p->b_bytes;
    for (int64_t j = 0; j < p->out; j += SIDE, to += tile_bytes(p->rank))
        pack_block(b, p->out, p->rank, j, SIDE, pairs_of(p->rank), (uint16_t *)(void *)to);
}

/* --- Products ----------------------------------------------------------------------------------------------------- */

static void begin(void *space) { memset(space, 0, sizeof(gr_tile_configuration)); }
static void end(void) { _tile_release(); }

/* What the registers are is kept at the head of `space`: changing it costs more than a tile. */
static void configure(void *space, const gr_tile_configuration *c) {
    GR_TILES_SHARE_MEMORY();
    if (memcmp(space, c, sizeof *c) == 0) return;
    memcpy(space, c, sizeof *c);
    GR_TILES_SHARE_MEMORY();
    _tile_loadconfig(space);
}

/* m rows, blocks of `width` columns, `pairs` of a step of u. */
static void shape_tiles(void *space, int64_t m, int64_t width, int64_t pairs) {
    const uint8_t rows = (uint8_t)m;
    const uint16_t narrow = (uint16_t)(PAIR * width), pair_bytes = (uint16_t)(PAIR * pairs);
    const gr_tile_configuration c = {.palette = 1,
                                     .row_bytes = {narrow, narrow, narrow, 64, narrow, pair_bytes, 64, 64},
                                     .rows = {rows, rows, rows, rows, SIDE, rows, (uint8_t)pairs, rows}};
    configure(space, &c);
}

static int64_t unit(const gr_low_rank *f) { return width_of(f); }

/* Up to GROUP blocks of A, `bytes` apart. */
static inline __attribute__((always_inline)) void chain(const int n, int64_t steps, const char *x, int64_t x_row,
                                                        const char *a, int64_t bytes, int64_t a_row, float *sums) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    for (int64_t s = 0; s < steps; s++, x += 2 * STEP, a += SIDE * a_row) {
        UNROLL for (int b = 0; b < n; b++) gr_fetch_ahead(a + b * bytes, (int)(SIDE * a_row));
        _tile_loadd(3, x, x_row);
        _tile_loadd(4, a, a_row);
        _tile_dpbf16ps(0, 3, 4);
        if (n > 1) {
            _tile_loadd(4, a + bytes, a_row);
            _tile_dpbf16ps(1, 3, 4);
        }
        if (n > 2) {
            _tile_loadd(4, a + 2 * bytes, a_row);
            _tile_dpbf16ps(2, 3, 4);
        }
    }
    const int64_t width = a_row / PAIR;
    _tile_stored(0, sums, GROUP_WIDTH * 4);
    if (n > 1) _tile_stored(1, sums + width, GROUP_WIDTH * 4);
    if (n > 2) _tile_stored(2, sums + 2 * width, GROUP_WIDTH * 4);
}

static void down(const gr_low_rank *f, int64_t m, const void *x, int64_t x_ld, int64_t first, int64_t last, void *u,
                 void *space) {
    const int64_t width = width_of(f), steps = gr_round_up(f->in, STEP) / STEP, bytes = block_bytes(f);
    float *sums = (float *)(void *)((char *)space + 64);
    if (f->in % STEP) { /* whole steps */
        uint16_t *padded = (uint16_t *)(void *)((char *)space + GR_LOW_RANK_SUMS);
        gr_cpu(f->d)->products[GR_TYPE_BF16]->pack_a[0](m, f->in, x, x_ld, padded);
        x = padded;
        x_ld = steps * STEP;
    }
    GR_TILES_SHARE_MEMORY();
    for (int64_t i = 0; i < m; i += SIDE) {
        const int64_t rows = GR_MIN(m - i, (int64_t)SIDE);
        const char *at = gr_at_const(x, GR_BF16, i * x_ld);
        shape_tiles(space, rows, width, pairs_of(f->part[0].rank));
        for (int64_t j = first; j < last; j += GROUP * width) {
            const char *a = f->data + j / width * bytes;
            switch (GR_MIN((last - j + width - 1) / width, (int64_t)GROUP)) {
                case 1: chain(1, steps, at, 2 * x_ld, a, bytes, PAIR * width, sums); break;
                case 2: chain(2, steps, at, 2 * x_ld, a, bytes, PAIR * width, sums); break;
                default: chain(3, steps, at, 2 * x_ld, a, bytes, PAIR * width, sums); break;
            }
            gr_low_rank_put(f, rows, j, GR_MIN(last - j, GROUP * width), sums, GROUP_WIDTH,
                            gr_at(u, GR_BF16, i * f->u_width));
        }
    }
}

/* Two tiles of 16 outputs; u of a rank of one step stands in its register. */
static inline void two_tiles(int64_t steps, const uint16_t *u, int64_t u_row, const char *b, int64_t bytes,
                             int64_t pairs, float *sums) {
    const char *next = b + bytes;
    gr_fetch_ahead(b, (int)(2 * bytes));
    _tile_zero(3);
    _tile_zero(7);
    for (int64_t s = 0; s < steps; s++, b += pairs * 64, next += pairs * 64) {
        if (steps > 1) _tile_loadd(5, u + s * STEP, u_row);
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(3, 5, 6);
        _tile_loadd(6, next, 64);
        _tile_dpbf16ps(7, 5, 6);
    }
    _tile_stored(3, sums, GR_LOW_RANK_COLUMNS * 4);
    _tile_stored(7, sums + SIDE, GR_LOW_RANK_COLUMNS * 4);
}

/* One row each of up to GR_LOW_RANK_GROUP adapters, whose chains run beside each other: one alone would wait for its
 * sums. Registers 0 to 3: sums; 4: x; 5: A. */
static inline __attribute__((always_inline)) void row_chains(const int n, int64_t steps, const char *const *x,
                                                             const char *const *a, int64_t a_row, float *sums) {
    const char *at[GR_LOW_RANK_GROUP];
    UNROLL for (int i = 0; i < n; i++) at[i] = a[i];
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t s = 0; s < steps; s++) {
        UNROLL for (int i = 0; i < n; i++) gr_fetch_ahead(at[i], (int)(SIDE * a_row));
        _tile_loadd(4, x[0] + 2 * STEP * s, 64);
        _tile_loadd(5, at[0], a_row);
        _tile_dpbf16ps(0, 4, 5);
        if (n > 1) {
            _tile_loadd(4, x[1] + 2 * STEP * s, 64);
            _tile_loadd(5, at[1], a_row);
            _tile_dpbf16ps(1, 4, 5);
        }
        if (n > 2) {
            _tile_loadd(4, x[2] + 2 * STEP * s, 64);
            _tile_loadd(5, at[2], a_row);
            _tile_dpbf16ps(2, 4, 5);
        }
        if (n > 3) {
            _tile_loadd(4, x[3] + 2 * STEP * s, 64);
            _tile_loadd(5, at[3], a_row);
            _tile_dpbf16ps(3, 4, 5);
        }
        UNROLL for (int i = 0; i < n; i++) at[i] += SIDE * a_row;
    }
    _tile_stored(0, sums, 64);
    if (n > 1) _tile_stored(1, sums + SIDE, 64);
    if (n > 2) _tile_stored(2, sums + 2 * SIDE, 64);
    if (n > 3) _tile_stored(3, sums + 3 * SIDE, 64);
}

static void down_rows(int n, const gr_low_rank *const *f, const void *const *x, void *const *u, void *space) {
    const int64_t width = width_of(f[0]), steps = gr_round_up(f[0]->in, STEP) / STEP, bytes = block_bytes(f[0]);
    const uint16_t narrow = (uint16_t)(PAIR * width);
    const gr_tile_configuration c = {.palette = 1,
                                     .row_bytes = {narrow, narrow, narrow, narrow, 64, narrow},
                                     .rows = {1, 1, 1, 1, 1, SIDE}};
    float *sums = (float *)(void *)((char *)space + 64);
    if (f[0]->in % STEP) {
        for (int i = 0; i < n; i++) down(f[i], 1, x[i], 0, 0, f[i]->rank, u[i], space);
        return;
    }
    configure(space, &c);
    for (int64_t j = 0; j < f[0]->rank; j += width) {
        const char *a[GR_LOW_RANK_GROUP];
        for (int i = 0; i < n; i++) a[i] = f[i]->data + j / width * bytes;
        switch (n) {
            case 1: row_chains(1, steps, (const char *const *)x, a, PAIR * width, sums); break;
            case 2: row_chains(2, steps, (const char *const *)x, a, PAIR * width, sums); break;
            case 3: row_chains(3, steps, (const char *const *)x, a, PAIR * width, sums); break;
            default: row_chains(4, steps, (const char *const *)x, a, PAIR * width, sums); break;
        }
        for (int i = 0; i < n; i++)
            gr_low_rank_put(f[i], 1, j, GR_MIN(f[i]->rank - j, width), sums + i * SIDE, SIDE, u[i]);
    }
}

/* One row with up to 4 tiles of 16 outputs on vectors, which take less time than tile registers of one row: the sum as
 * products_amx.c tells it. Subnormals count as zero: the caller has set that. */
static inline __attribute__((always_inline)) void row_tiles(const int n, int64_t steps, const float *u, const char *b,
                                                            int64_t bytes, int64_t pairs, float *sums) {
    const vi high = _mm512_set1_epi32((int)0xFFFF0000);
    vf sum[4];
    UNROLL for (int t = 0; t < n; t++) sum[t] = v_zero();
    for (int64_t s = 0; s < steps; s++, u += STEP) {
        vf even[4], odd[4];
        UNROLL for (int t = 0; t < n; t++) even[t] = odd[t] = v_zero();
        for (int64_t p = 0; p < pairs; p++, b += SIDE * PAIR) {
            const vf x = v_set1(u[2 * p]), y = v_set1(u[2 * p + 1]);
            UNROLL for (int t = 0; t < n; t++) {
                const vi both = _mm512_load_si512(b + t * bytes);
                even[t] = v_fma(x, _mm512_castsi512_ps(_mm512_slli_epi32(both, 16)), even[t]);
                odd[t] = v_fma(y, _mm512_castsi512_ps(_mm512_and_si512(both, high)), odd[t]);
            }
        }
        UNROLL for (int t = 0; t < n; t++) sum[t] = v_add(sum[t], v_add(even[t], odd[t]));
    }
    UNROLL for (int t = 0; t < n; t++) v_store(sums + t * SIDE, sum[t]);
}

/* `wide`: room for u as floats. */
static void up_row(const gr_low_rank *f, const gr_low_rank_part *p, const uint16_t *u, double scale, int64_t first,
                   int64_t last, void *y, float *sums, float *wide) {
    enum { FLUSH = 0x8040 }; /* subnormal operands and results are zero */
    const int64_t pairs = pairs_of(p->rank), steps = gr_round_up(p->rank, STEP) / STEP, bytes = tile_bytes(p->rank);
    const unsigned kept = _mm_getcsr();
    for (int64_t i = 0; i < steps * STEP; i += VW) v_store(wide + i, v_load_bf16(u + i));
    for (int64_t j = first; j < last; j += GR_LOW_RANK_COLUMNS) {
        const int64_t n = GR_MIN(last - j, (int64_t)GR_LOW_RANK_COLUMNS), tiles = (n + SIDE - 1) / SIDE;
        const char *b = f->data + p->b_bytes + j / SIDE * bytes;
        int64_t t = 0;
        _mm_setcsr(kept | FLUSH);
        for (; t + 4 <= tiles; t += 4) {
            gr_fetch_ahead(b + t * bytes, (int)(4 * bytes));
            row_tiles(4, steps, wide, b + t * bytes, bytes, pairs, sums + t * SIDE);
        }
        for (; t < tiles; t++) row_tiles(1, steps, wide, b + t * bytes, bytes, pairs, sums + t * SIDE);
        _mm_setcsr(kept);
        gr_cpu(f->d)->products[GR_TYPE_BF16]->finish(1, n, scale, sums, GR_LOW_RANK_COLUMNS, 1, GR_BF16,
                                                    gr_at(y, GR_BF16, p->column + j), 0);
    }
}

static void up(const gr_low_rank *f, int part, int64_t m, const void *u, double scale, int64_t first, int64_t last,
               void *y, int64_t y_ld, void *space) {
    const gr_low_rank_part *p = &f->part[part];
    const int64_t pairs = pairs_of(p->rank), steps = gr_round_up(p->rank, STEP) / STEP, bytes = tile_bytes(p->rank);
    const int64_t end_tile = (p->out + SIDE - 1) / SIDE;
    float *sums = (float *)(void *)((char *)space + 64);
    GR_TILES_SHARE_MEMORY();
    for (int64_t i = 0; i < m; i += SIDE) {
        const int64_t rows = GR_MIN(m - i, (int64_t)SIDE);
        const uint16_t *from = (const uint16_t *)u + i * f->u_width + p->u_at;
        if (rows == 1 && p->rank <= MOST_ROW_RANK) {
            float *wide = sums + GR_LOW_RANK_COLUMNS;
            up_row(f, p, from, scale, first, last, gr_at(y, GR_BF16, i * y_ld), sums, wide);
            continue;
        }
        shape_tiles(space, rows, width_of(f), pairs);
        if (steps == 1) _tile_loadd(5, from, 2 * f->u_width);
        for (int64_t j = first; j < last; j += GR_LOW_RANK_COLUMNS) {
            const int64_t n = GR_MIN(last - j, (int64_t)GR_LOW_RANK_COLUMNS);
            for (int64_t c = 0; c < n; c += 2 * SIDE) {
                const int64_t tile = (j + c) / SIDE;
                const bool last_one = tile + 1 == end_tile; /* of an odd number: once more in place of the next */
                two_tiles(steps, from, 2 * f->u_width, f->data + p->b_bytes + tile * bytes, last_one ? 0 : bytes, pairs,
                          sums + c);
            }
            gr_cpu(f->d)->products[GR_TYPE_BF16]->finish(rows, n, scale, sums, GR_LOW_RANK_COLUMNS, 1, GR_BF16,
                                                         gr_at(y, GR_BF16, i * y_ld + p->column + j), y_ld);
        }
    }
}

static const gr_low_rank_kernels on_tiles = {.a_bytes = a_bytes,
                                             .b_bytes = b_bytes,
                                             .pack_a = pack_a,
                                             .pack_b = pack_b,
                                             .begin = begin,
                                             .end = end,
                                             .unit = unit,
                                             .down = down,
                                             .down_rows = down_rows,
                                             .up = up};

void gr_cpu_fill_amx_low_rank(gr_cpu_kernels *k) { k->low_rank = &on_tiles; }
