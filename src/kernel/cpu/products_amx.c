/* Block products of BF16 pairs on the tile registers of AMX (TDPBF16PS), sums in float.
 *
 * An element's sum takes K in steps of 32, zeros after its end. A step adds the products of the even elements one after
 * the other from zero, likewise those of the odd ones, adds the two sums and then that to the element: each addition is
 * fused with its product and rounded to nearest, subnormals count as zero (tests/unit/test_kernel_tiles.c does the same with
 * scalars). The order depends neither on the shape of the tiles nor on which operand stands in which register, so a few
 * rows may be multiplied the other way round.
 *
 * Operands in memory: A as rows along K; B as a panel of `width` columns, [K / 32][width / 16] tiles of 16 pairs x 16
 * columns. Both are zero after the end of K, up to the next multiple of 32. */
#include "kernel/cpu/product.h"
#include "kernel/cpu/simd_amx.h"
#include "kernel/cpu/simd_avx512.h"
#include "kernel/cpu/unroll.h"

#include "kernel/cpu/simd_finish.h"

enum { SIDE = 16, STEP = 32, TILE_BYTES = 1024 };

/* Registers 0 to 3: sums; 4, 5: A; 6, 7: B. All of 16 rows of 64 bytes. */
static const _Alignas(64) gr_tile_configuration all_full = {.palette = 1,
                                                            .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                                                            .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

static void begin(void) { _tile_loadconfig(&all_full); }
static void end(void) { _tile_release(); }

/* --- Products ------------------------------------------------------------------------------------------------------- */

/* The tile of sums at c, of which m x n elements exist. */
#define LOAD_SUMS(tile, c, m, n)                                                                                       \
    do {                                                                                                               \
        if ((m) >= SIDE && (n) >= SIDE) {                                                                              \
            _tile_loadd(tile, c, ldc * 4);                                                                             \
        } else {                                                                                                       \
            for (int64_t r = 0; r < SIDE; r++)                                                                         \
                v_store(edge + r * SIDE, r < (m) ? v_load_n((c) + r * ldc, GR_MIN((int64_t)SIDE, n)) : v_zero());      \
            GR_TILES_SHARE_MEMORY();                                                                                   \
            _tile_loadd(tile, edge, 64);                                                                               \
        }                                                                                                              \
    } while (0)
#define STORE_SUMS(tile, c, m, n)                                                                                      \
    do {                                                                                                               \
        if ((m) >= SIDE && (n) >= SIDE) {                                                                              \
            _tile_stored(tile, c, ldc * 4);                                                                            \
        } else {                                                                                                       \
            _tile_stored(tile, edge, 64);                                                                              \
            for (int64_t r = 0; r < SIDE && r < (m); r++)                                                              \
                v_store_n((c) + r * ldc, v_load(edge + r * SIDE), GR_MIN((int64_t)SIDE, n));                           \
        }                                                                                                              \
    } while (0)

/* A tile of B: `passes` where it is not needed again soon. */
#define LOAD_B(tile, b)                                                                                                \
    do {                                                                                                               \
        if (passes)                                                                                                    \
            _tile_stream_loadd(tile, b, 64);                                                                           \
        else                                                                                                           \
            _tile_loadd(tile, b, 64);                                                                                  \
    } while (0)

/* Up to 2 x 2 tiles. m, n: elements that exist, more than SIDE where mt, nt are 2. */
static inline __attribute__((always_inline)) void square(const int mt, const int nt, const bool passes, int64_t m,
                                                         int64_t n, int64_t steps, const char *a, int64_t a_row,
                                                         const char *b, int64_t b_step, float *c, int64_t ldc, bool add,
                                                         const gr_tile_rows *fetch) {
    _Alignas(64) float edge[SIDE * SIDE];
    float *low = c + SIDE * ldc;
    const char *ahead = fetch->at;
    if (add) {
        LOAD_SUMS(0, c, m, n);
        if (nt > 1) LOAD_SUMS(1, c + SIDE, m, n - SIDE);
        if (mt > 1) LOAD_SUMS(2, low, m - SIDE, n);
        if (mt > 1 && nt > 1) LOAD_SUMS(3, low + SIDE, m - SIDE, n - SIDE);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (; steps > 0; steps--, a += 2 * STEP, b += b_step) {
        LOAD_B(6, b);
        _tile_loadd(4, a, a_row);
        _tile_dpbf16ps(0, 4, 6);
        if (nt > 1) {
            LOAD_B(7, b + TILE_BYTES);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (mt > 1) {
            _tile_loadd(5, a + SIDE * a_row, a_row);
            _tile_dpbf16ps(2, 5, 6);
            if (nt > 1) _tile_dpbf16ps(3, 5, 7);
        }
        for (int64_t r = 0; r < fetch->n; r++) _mm_prefetch(ahead + r * fetch->row_bytes, _MM_HINT_T1);
        ahead += 2 * STEP;
    }
    STORE_SUMS(0, c, m, n);
    if (nt > 1) STORE_SUMS(1, c + SIDE, m, n - SIDE);
    if (mt > 1) STORE_SUMS(2, low, m - SIDE, n);
    if (mt > 1 && nt > 1) STORE_SUMS(3, low + SIDE, m - SIDE, n - SIDE);
}

enum { SOON = 64 }; /* columns of a panel that stays in the first-level cache beside A */

static void multiply_ahead(int64_t m, int64_t n, int64_t k, const void *a_, int64_t a_row, const void *panel,
                           int64_t width, void *c_, int64_t ldc, bool add, const gr_tile_rows *ahead) {
    const int64_t steps = (k + STEP - 1) / STEP, b_step = width / SIDE * TILE_BYTES;
    const gr_tile_rows none = {.at = a_}, *fetch = ahead ? ahead : &none;
    const char *b = panel, *a = a_;
    float *c = c_;
    for (int64_t i = 0; i < m; i += 2 * SIDE)
        for (int64_t j = 0; j < n; j += 2 * SIDE) {
            const char *ai = a + i * a_row, *bj = b + j / SIDE * TILE_BYTES;
            float *at = c + i * ldc + j;
            if (m - i > SIDE && n - j > SIDE && width > SOON)
                square(2, 2, true, m - i, n - j, steps, ai, a_row, bj, b_step, at, ldc, add, fetch);
            else if (m - i > SIDE && n - j > SIDE)
                square(2, 2, false, m - i, n - j, steps, ai, a_row, bj, b_step, at, ldc, add, fetch);
            else if (m - i > SIDE)
                square(2, 1, false, m - i, n - j, steps, ai, a_row, bj, b_step, at, ldc, add, fetch);
            else if (n - j > SIDE)
                square(1, 2, false, m - i, n - j, steps, ai, a_row, bj, b_step, at, ldc, add, fetch);
            else
                square(1, 1, false, m - i, n - j, steps, ai, a_row, bj, b_step, at, ldc, add, fetch);
        }
}

static void multiply(int64_t m, int64_t n, int64_t k, const void *a, int64_t a_row, const void *panel, int64_t width,
                     void *c, int64_t ldc, bool add) {
    multiply_ahead(m, n, k, a, a_row, panel, width, c, ldc, add, NULL);
}

/* Decodes the next step of sixteen rows to where a tile is loaded from, and fetches what the sixteen rows after them need. */
typedef struct stream {
    const gr_tile_source *from;
    const uint8_t *at;
    uintptr_t ahead;
    int step, step_bytes;
    bool pairs; /* two steps of a block are decoded at once */
    int ready, at_once; /* blocks whose scales are there, and are read at once */
    int64_t left;       /* blocks whose scales are not there */
    const float *scales;
    _Alignas(64) float own[GR_TILE_SCALES];
} stream;

static inline void start_stream(stream *t, const gr_tile_source *from, int64_t steps) {
    t->from = from;
    t->at = from->blocks;
    t->ahead = (uintptr_t)from->blocks + SIDE * (uintptr_t)from->row_bytes;
    t->step = t->ready = 0;
    t->step_bytes = SIDE * from->block_bytes / from->steps;
    t->pairs = from->ops->two && from->steps % 2 == 0;
    t->at_once = from->ops->scales ? GR_TILE_SCALES / from->ops->floats : 0;
    t->left = steps / from->steps;
    t->scales = from->scales ? from->scales : t->own; /* a format without scales steps over none */
}

static inline void read_scales(stream *t) {
    if (t->ready == 0) {
        t->ready = (int)GR_MIN(t->left, (int64_t)t->at_once);
        t->left -= t->ready;
        t->from->ops->scales(t->at, t->from->row_bytes, t->ready, t->own);
        t->scales = t->own;
    }
    t->ready--;
}

/* One step, or two where `pairs`. */
static inline void next_step(stream *t, uint16_t *to) {
    const gr_tile_source *from = t->from;
    const int n = t->pairs ? 2 : 1, bytes = n * t->step_bytes;
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch((const void *)(t->ahead + (uintptr_t)i));
    t->ahead += (uintptr_t)bytes;
    if (t->at_once && t->step == 0) read_scales(t);
    (t->pairs ? from->ops->two : from->ops->decode)(t->at, from->row_bytes, t->step, t->scales, to);
    t->step += n;
    if (t->step < from->steps) return;
    t->step = 0;
    t->at += from->block_bytes;
    t->scales += from->ops->floats;
}

/* The sums of multiply for 16 rows that are decoded on the way. Two steps lie between the stores of a tile and its load, so
 * that the sum's chain of products runs beside decoding and nothing waits for it. */
static inline __attribute__((always_inline)) void strip(const int nt, int64_t steps, const gr_tile_source *from, const char *b,
                                                        int64_t b_step, float *c, int64_t ldc) {
    enum { LAG = 2, RING = 4 };
    _Alignas(64) uint16_t a[RING][SIDE * STEP];
    stream t;
    start_stream(&t, from, steps);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t s = 0; s < steps + LAG; s++) {
        if (s < steps && (!t.pairs || s % 2 == 0)) next_step(&t, a[s % RING]);
        if (s < LAG) continue;
        GR_TILES_SHARE_MEMORY();
        _tile_loadd(4, a[(s - LAG) % RING], 64);
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (nt > 1) {
            _tile_loadd(7, b + TILE_BYTES, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (nt > 2) {
            _tile_loadd(6, b + 2 * TILE_BYTES, 64);
            _tile_dpbf16ps(2, 4, 6);
        }
        if (nt > 3) {
            _tile_loadd(7, b + 3 * TILE_BYTES, 64);
            _tile_dpbf16ps(3, 4, 7);
        }
        b += b_step;
    }
    _tile_stored(0, c, ldc * 4);
    if (nt > 1) _tile_stored(1, c + SIDE, ldc * 4);
    if (nt > 2) _tile_stored(2, c + 2 * SIDE, ldc * 4);
    if (nt > 3) _tile_stored(3, c + 3 * SIDE, ldc * 4);
}

static void multiply_stored(int64_t n, int64_t steps, const gr_tile_source *from, const void *panel, void *c, int64_t ldc) {
    const int64_t b_step = n / SIDE * TILE_BYTES;
    switch (n / SIDE) {
        case 1: strip(1, steps, from, panel, b_step, c, ldc); break;
        case 2: strip(2, steps, from, panel, b_step, c, ldc); break;
        case 3: strip(3, steps, from, panel, b_step, c, ldc); break;
        default: strip(4, steps, from, panel, b_step, c, ldc); break;
    }
}

static void outer(int64_t m, int64_t n, int64_t k, const void *a, int64_t a_row, int64_t a_step, const void *panel, void *c,
                  int64_t ldc, bool add) {
    (void)a_step;
    multiply(m, n, k, a, a_row, panel, GR_PANEL, c, ldc, add);
}

/* The sum of one row with one other, for what is no matrix; lanes in the tree of v_sum. */
static void dot(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, const void *const *b, void *c, int64_t ldc, bool add) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            const uint16_t *x = (const uint16_t *)a + i * lda, *y = b[j];
            float *to = (float *)c + i * ldc + j;
            vf sum = v_zero();
            for (int64_t s = 0; s < k; s += STEP) {
                const __mmask32 mask = k - s < STEP ? (__mmask32)((1ull << (k - s)) - 1) : (__mmask32)~0u;
                sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_maskz_loadu_epi16(mask, x + s),
                                       (__m512bh)_mm512_maskz_loadu_epi16(mask, y + s));
            }
            *to = add ? *to + v_sum(sum) : v_sum(sum);
        }
}

/* --- Packing -------------------------------------------------------------------------------------------------------- */

static inline __mmask32 first32(int64_t n) { return n >= 32 ? (__mmask32)~0u : n <= 0 ? 0 : (__mmask32)((1u << n) - 1); }

/* Sixteen columns that run along K, n of them there, into tiles `step` bytes apart: pairs are dwords as they stand. */
static void pack_tiles(int64_t k, int64_t n, const uint16_t *const *rows, char *to, int64_t step) {
    for (int64_t s = 0; s < k; s += STEP, to += step) {
        const __mmask32 mask = first32(k - s);
        vf x[SIDE];
        UNROLL for (int c = 0; c < SIDE; c++)
            x[c] = c < n ? _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, rows[c] + s)) : v_zero();
        v_transpose(x);
        UNROLL for (int p = 0; p < SIDE; p++) _mm512_store_ps(to + 64 * p, x[p]);
    }
}

static void pack_rows(int64_t k, int64_t n, const void *const *rows, int64_t width, void *panel) {
    for (int64_t j = 0; j < n; j += SIDE)
        pack_tiles(k, n - j, (const uint16_t *const *)(const void *)(rows + j), (char *)panel + j / SIDE * TILE_BYTES,
                   width / SIDE * TILE_BYTES);
}

/* Pairs of rows 2 p, 2 p + 1, column by column. */
static void pack_pairs(int64_t k, int64_t n, const uint16_t *b, int64_t ld, int64_t width, char *panel) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5,
                                         36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t s = 0; s < (k + STEP - 1) / STEP * STEP; s += 2) {
        char *to = panel + s / STEP * (width / SIDE * TILE_BYTES) + s % STEP / 2 * 64;
        for (int64_t j = 0; j < n; j += 2 * SIDE, to += 2 * TILE_BYTES) {
            const __mmask32 mask = first32(n - j);
            __m512i a = _mm512_maskz_loadu_epi16(s < k ? mask : 0, b + s * ld + j);
            __m512i c = _mm512_maskz_loadu_epi16(s + 1 < k ? mask : 0, b + (s + 1) * ld + j);
            _mm512_store_si512(to, _mm512_permutex2var_epi16(a, low, c));
            if (n - j > SIDE) _mm512_store_si512(to + TILE_BYTES, _mm512_permutex2var_epi16(a, high, c));
        }
    }
}

static void pack(int64_t k, int64_t n, const void *b_, int64_t b_k, int64_t b_j, int64_t width, void *panel) {
    const uint16_t *b = b_;
    if (b_j == 1) {
        pack_pairs(k, n, b, b_k, width, panel);
        return;
    }
    for (int64_t j = 0; j < n; j += SIDE) {
        const uint16_t *rows[SIDE];
        for (int64_t c = 0; c < SIDE; c++) rows[c] = b + GR_MIN(j + c, n - 1) * b_j;
        pack_tiles(k, n - j, rows, (char *)panel + j / SIDE * TILE_BYTES, width / SIDE * TILE_BYTES);
    }
}

static void pack_panel(int64_t k, int64_t n, const void *b, int64_t b_k, int64_t b_j, void *panel) {
    pack(k, n, b, b_k, b_j, GR_PANEL, panel);
    for (int64_t s = 0; s < k; s += STEP)
        for (int64_t j = (n + SIDE - 1) / SIDE; j < GR_PANEL / SIDE; j++)
            memset((char *)panel + (s / STEP * (GR_PANEL / SIDE) + j) * TILE_BYTES, 0, TILE_BYTES);
}

/* Rows beyond m up to a whole tile are zero too. */
static void pack_a(int64_t m, int64_t k, const void *a_, int64_t lda, void *packed_) {
    const uint16_t *a = a_;
    uint16_t *to = packed_;
    for (int64_t i = 0; i < (m + SIDE - 1) / SIDE * SIDE; i++, a += lda)
        for (int64_t s = 0; s < k; s += STEP, to += STEP)
            _mm512_storeu_si512(to, i < m ? _mm512_maskz_loadu_epi16(first32(k - s), a + s) : _mm512_setzero_si512());
}

static void pack_a_transposed(int64_t m, int64_t k, const void *a_, int64_t lda, void *packed) {
    const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const int64_t row = (k + STEP - 1) / STEP * STEP;
    for (int64_t i = 0; i < m; i += SIDE)
        for (int64_t s = 0; s < k; s += STEP) {
            const uint16_t *a = (const uint16_t *)a_ + s * lda + i;
            const __mmask16 mask = m - i < SIDE ? v_mask(m - i) : (__mmask16)~0;
            vf x[SIDE];
            for (int p = 0; p < SIDE; p++) {
                __m256i even = _mm256_maskz_loadu_epi16(s + 2 * p < k ? mask : 0, a + 2 * p * lda);
                __m256i odd = _mm256_maskz_loadu_epi16(s + 2 * p + 1 < k ? mask : 0, a + (2 * p + 1) * lda);
                __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(even), odd, 1);
                x[p] = _mm512_castsi512_ps(_mm512_permutexvar_epi16(pairs, both));
            }
            v_transpose(x);
            for (int r = 0; r < SIDE; r++) _mm512_storeu_ps((uint16_t *)packed + (i + r) * row + s, x[r]);
        }
}

/* to (n, m) = from (m, n)^T, both in whole squares of 16. */
static void turn(int64_t m, int64_t n, const float *from, int64_t ld, float *to, int64_t to_ld) {
    for (int64_t i = 0; i < m; i += SIDE)
        for (int64_t j = 0; j < n; j += SIDE) {
            vf x[SIDE];
            for (int r = 0; r < SIDE; r++) x[r] = v_load(from + (i + r) * ld + j);
            v_transpose(x);
            for (int r = 0; r < SIDE && j + r < n; r++) v_store(to + (j + r) * to_ld + i, x[r]);
        }
}

/* The most frequent cases, a whole line of results at once: the bits of finish. */
static void store_lines(int64_t m, int64_t n, const float *acc, int64_t ld, uint16_t *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++, acc += ld, c += ldc)
        for (int64_t j = 0; j < n; j += 2 * VW)
            _mm512_storeu_si512(c + j, (__m512i)_mm512_cvtne2ps_pbh(v_load(acc + j + VW), v_load(acc + j)));
}

static void add_lines(int64_t m, int64_t n, vf alpha, const float *acc, int64_t ld, uint16_t *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++, acc += ld, c += ldc)
        for (int64_t j = 0; j < n; j += 2 * VW) {
            const vf low = v_add(v_mul(alpha, v_load(acc + j)), v_load_bf16(c + j));
            const vf high = v_add(v_mul(alpha, v_load(acc + j + VW)), v_load_bf16(c + j + VW));
            _mm512_storeu_si512(c + j, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
}

static void finish_lines(int64_t m, int64_t n, double alpha, const void *acc, int64_t ld, double beta, gr_dtype c_dt,
                         void *c, int64_t ldc) {
    const bool lines = c_dt == GR_BF16 && n % (2 * VW) == 0;
    if (lines && alpha == 1 && beta == 0)
        store_lines(m, n, acc, ld, c, ldc);
    else if (lines && beta == 1)
        add_lines(m, n, v_set1((float)alpha), acc, ld, c, ldc);
    else
        finish(m, n, alpha, acc, ld, beta, c_dt, c, ldc);
}

static const gr_tile_kernels tiles_bf16 = {.multiply = multiply,
                                           .multiply_ahead = multiply_ahead,
                                           .multiply_stored = multiply_stored,
                                           .pack = pack,
                                           .pack_rows = pack_rows,
                                           .turn = turn};

static const gr_product_kernels products_bf16 = {.dot = dot,
                                                 .outer = outer,
                                                 .step = STEP,
                                                 .packed_size = 2,
                                                 .pack_panel = pack_panel,
                                                 .pack_a = {pack_a, pack_a_transposed},
                                                 .finish = finish_lines,
                                                 .begin = begin,
                                                 .end = end,
                                                 .tiles = &tiles_bf16};

void gr_cpu_fill_amx(gr_cpu_kernels *k) { k->products[GR_TYPE_BF16] = &products_bf16; }
