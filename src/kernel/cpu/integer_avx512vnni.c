/* Integer products with AVX-512 and VPDPBUSD, which adds four products of bytes to each lane. */
#include "kernel/cpu/cpu.h"
#include "kernel/cpu/simd_avx512.h"

static inline vi vi_and(vi a, vi b) {
    return _mm512_and_si512(a, b);
}
static inline vi vi_or(vi a, vi b) {
    return _mm512_or_si512(a, b);
}
static inline vi vi_srl(vi a, int n) {
    return _mm512_srli_epi32(a, (unsigned)n);
}
static inline vi vi_sra(vi a, int n) {
    return _mm512_srai_epi32(a, (unsigned)n);
}
static inline vi vi_sll(vi a, int n) {
    return _mm512_slli_epi32(a, (unsigned)n);
}
static inline vi vi_mul(vi a, vi b) {
    return _mm512_mullo_epi32(a, b);
}
static inline vf vi_float(vi a) {
    return _mm512_cvtepi32_ps(a);
}
static inline vf vi_half(vi a) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
}
static inline void vi_store(uint8_t *p, vi a) {
    _mm512_storeu_si512(p, a);
}
static inline __m128i sixteen(const uint8_t *p) {
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

/* Rows g, g + 4, g + 8, g + 12 side by side. */
static inline __attribute__((always_inline)) vi four_rows(const uint8_t *const *r, int64_t at) {
    __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(sixteen(r[0] + at)), sixteen(r[4] + at), 1);
    __m256i high =
        _mm256_inserti128_si256(_mm256_castsi128_si256(sixteen(r[8] + at)), sixteen(r[12] + at), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

static inline __attribute__((always_inline)) void vi_turn(const uint8_t *const *r, int64_t at, vi t[4]) {
    const vi x0 = four_rows(r, at), x1 = four_rows(r + 1, at), x2 = four_rows(r + 2, at),
             x3 = four_rows(r + 3, at);
    const vi a = _mm512_unpacklo_epi32(x0, x1), b = _mm512_unpacklo_epi32(x2, x3);
    const vi c = _mm512_unpackhi_epi32(x0, x1), d = _mm512_unpackhi_epi32(x2, x3);
    t[0] = _mm512_unpacklo_epi64(a, b);
    t[1] = _mm512_unpackhi_epi64(a, b);
    t[2] = _mm512_unpacklo_epi64(c, d);
    t[3] = _mm512_unpackhi_epi64(c, d);
}

static inline int word(const uint8_t *p) {
    int v;
    __builtin_memcpy(&v, p, 4);
    return v;
}

static inline __m128i four_words(const uint8_t *const *r, int64_t at) {
    return _mm_setr_epi32(word(r[0] + at), word(r[1] + at), word(r[2] + at), word(r[3] + at));
}

static inline __attribute__((always_inline)) vi vi_first(const uint8_t *const *r, int64_t at) {
    __m256i low =
        _mm256_inserti128_si256(_mm256_castsi128_si256(four_words(r, at)), four_words(r + 4, at), 1);
    __m256i high =
        _mm256_inserti128_si256(_mm256_castsi128_si256(four_words(r + 8, at)), four_words(r + 12, at), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

#include "kernel/cpu/simd_integer.h"

/* m <= 4 rows; blocks of 4 * quads codes. */
static inline __attribute__((always_inline)) void rows_times(const int m, const int quads, const bool mins,
                                                             int64_t block, int64_t blocks,
                                                             const gr_int_rows *a, int64_t row,
                                                             const gr_int_panel *p, float *c, bool add) {
    const int8_t *q[4];
    vf y[4];
    UNROLL for (int i = 0; i < m; i++) {
        q[i] = a->q + (row + i) * a->ld + block * quads * 4;
        y[i] = add ? v_load(c + i * LANES) : v_zero();
    }
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t at = (block + b) * a->step + row;
        const uint8_t *w = p->q + b * quads * 4 * LANES;
        vi sum[4];
        UNROLL for (int i = 0; i < m; i++) sum[i] = _mm512_set1_epi32(a->start[at + i]);
        UNROLL for (int t = 0; t < quads; t++) {
            const vi codes = _mm512_loadu_si512(w + t * 4 * LANES);
            UNROLL for (int i = 0; i < m; i++) sum[i] = _mm512_dpbusd_epi32(
                sum[i], codes, _mm512_set1_epi32(word((const uint8_t *)q[i] + (b * quads + t) * 4)));
        }
        const vf d = v_load(p->d + b * LANES);
        UNROLL for (int i = 0; i < m; i++) {
            y[i] = v_fma(v_mul(d, v_set1(a->d[at + i])), vi_float(sum[i]), y[i]);
            if (mins) y[i] = v_fma(v_load(p->m + b * LANES), v_set1(a->ds[at + i]), y[i]);
        }
    }
    UNROLL for (int i = 0; i < m; i++) v_store(c + i * LANES, y[i]);
}

#define ROWS_CASE(quads, mins)                                                                               \
    for (; i + 4 <= m; i += 4) rows_times(4, quads, mins, block, blocks, a, i, p, c + i * LANES, add);       \
    for (; i < m; i++) rows_times(1, quads, mins, block, blocks, a, i, p, c + i * LANES, add)

void gr_int_multiply_avx512vnni(const gr_int_format *f, int64_t m, int64_t block, int64_t blocks,
                                const gr_int_rows *a, const gr_int_panel *p, float *c, bool add) {
    int64_t i = 0;
    if (f->elements == 32 && f->mins) {
        ROWS_CASE(8, true);
    } else if (f->elements == 32) {
        ROWS_CASE(8, false);
    } else if (f->mins) {
        ROWS_CASE(4, true);
    } else {
        ROWS_CASE(4, false);
    }
}

static inline __attribute__((always_inline)) void
rows_sum(const int m, int64_t n, const int8_t *q, int64_t ld, const uint8_t *w, int32_t *c, bool add) {
    /* codes + 128 of the weights: 128 times the sum of the row's codes is taken off by adding -128 times
     * them. */
    vi sum[4], off[4];
    const vi ones = _mm512_set1_epi8(1);
    UNROLL for (int i = 0; i < m; i++) {
        sum[i] = add ? _mm512_loadu_si512(c + i * LANES) : _mm512_setzero_si512();
        off[i] = _mm512_setzero_si512();
    }
    for (int64_t t = 0; t < n / 4; t++) {
        const vi codes = _mm512_loadu_si512(w + t * 4 * LANES);
        UNROLL for (int i = 0; i < m; i++) sum[i] =
            _mm512_dpbusd_epi32(sum[i], codes, _mm512_set1_epi32(word((const uint8_t *)q + i * ld + 4 * t)));
    }
    UNROLL for (int i = 0; i < m; i++) {
        for (int64_t e = 0; e < n; e += 32) /* two halves of the vector are alike and count twice */
            off[i] = _mm512_dpbusd_epi32(
                off[i], ones,
                _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)(q + i * ld + e))));
        const int total = _mm512_reduce_add_epi32(off[i]) * 64;
        _mm512_storeu_si512(c + i * LANES, _mm512_sub_epi32(sum[i], _mm512_set1_epi32(total)));
    }
}

void gr_int_accumulate_avx512vnni(int64_t m, int64_t n, const int8_t *q, int64_t ld, const gr_int_panel *p,
                                  int32_t *c, bool add) {
    int64_t i = 0;
    for (; i + 4 <= m; i += 4) rows_sum(4, n, q + i * ld, ld, p->q, c + i * LANES, add);
    for (; i < m; i++) rows_sum(1, n, q + i * ld, ld, p->q, c + i * LANES, add);
}

void gr_cpu_fill_avx512vnni_integer(gr_cpu_kernels *k) {
    fill_unpack(&k->integer);
    k->integer.multiply = gr_int_multiply_avx512vnni;
    k->integer.accumulate = gr_int_accumulate_avx512vnni;
}
