/* Integer products with AVX2. VPMADDUBSW adds neighbouring products in 16 bits: of codes up to 15, 31 and 63
 * eight, four and two of its sums fit there together; codes of 8 bits go as |w| times a with w's sign, since
 * 255 * 127 * 2 would not fit. */
#include "kernel/cpu/cpu.h"
#include "kernel/cpu/simd_avx2.h"

static inline vi vi_and(vi a, vi b) {
    return _mm256_and_si256(a, b);
}
static inline vi vi_or(vi a, vi b) {
    return _mm256_or_si256(a, b);
}
static inline vi vi_srl(vi a, int n) {
    return _mm256_srli_epi32(a, n);
}
static inline vi vi_sra(vi a, int n) {
    return _mm256_srai_epi32(a, n);
}
static inline vi vi_sll(vi a, int n) {
    return _mm256_slli_epi32(a, n);
}
static inline vi vi_mul(vi a, vi b) {
    return _mm256_mullo_epi32(a, b);
}
static inline vf vi_float(vi a) {
    return _mm256_cvtepi32_ps(a);
}
static inline vf vi_half(vi a) {
    a = _mm256_and_si256(a, _mm256_set1_epi32(0xFFFF));
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
}
static inline void vi_store(uint8_t *p, vi a) {
    _mm256_storeu_si256((__m256i *)(void *)p, a);
}
static inline __m128i sixteen(const uint8_t *p) {
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

static inline __attribute__((always_inline)) vi two_rows(const uint8_t *const *r, int64_t at) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(sixteen(r[0] + at)), sixteen(r[4] + at), 1);
}

static inline __attribute__((always_inline)) void vi_turn(const uint8_t *const *r, int64_t at, vi t[4]) {
    const vi x0 = two_rows(r, at), x1 = two_rows(r + 1, at), x2 = two_rows(r + 2, at),
             x3 = two_rows(r + 3, at);
    const vi a = _mm256_unpacklo_epi32(x0, x1), b = _mm256_unpacklo_epi32(x2, x3);
    const vi c = _mm256_unpackhi_epi32(x0, x1), d = _mm256_unpackhi_epi32(x2, x3);
    t[0] = _mm256_unpacklo_epi64(a, b);
    t[1] = _mm256_unpackhi_epi64(a, b);
    t[2] = _mm256_unpacklo_epi64(c, d);
    t[3] = _mm256_unpackhi_epi64(c, d);
}

static inline int word(const uint8_t *p) {
    int v;
    memcpy(&v, p, 4);
    return v;
}

static inline __attribute__((always_inline)) vi vi_first(const uint8_t *const *r, int64_t at) {
    return _mm256_setr_epi32(word(r[0] + at), word(r[1] + at), word(r[2] + at), word(r[3] + at),
                             word(r[4] + at), word(r[5] + at), word(r[6] + at), word(r[7] + at));
}

#include "kernel/cpu/simd_integer.h"

/* --- Activations -------------------------------------------------------------------------------------------------- */

/* 32 codes in order. */
static inline vi to_bytes(const vi x[4]) {
    vi packed = _mm256_packs_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3]));
    return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static inline int32_t sum_half(__m128i x) {
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xB1)));
}

/* Compared as integers, magnitudes keep their order and everything that is not finite is larger than all that
 * is. */
static inline uint32_t largest_lane(vi top) {
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xB1)));
}

static inline __attribute__((always_inline)) vi magnitude(vf x) {
    return vi_and(_mm256_castps_si256(x), _mm256_set1_epi32(INT32_MAX));
}

static inline uint32_t largest_bits(const vf x[4]) {
    vi top = magnitude(x[0]);
    UNROLL for (int i = 1; i < 4; i++) top = _mm256_max_epi32(top, magnitude(x[i]));
    return largest_lane(top);
}

static uint32_t largest(int64_t n, const float *x) {
    vi top = _mm256_setzero_si256();
    for (int64_t e = 0; e < n; e += VW) top = _mm256_max_epi32(top, magnitude(v_load(x + e)));
    return largest_lane(top);
}

static void quantize(const gr_int_format *f, gr_dtype dt, int64_t n, const void *x, const gr_int_rows *to,
                     int64_t row) {
    int8_t *q = to->q + row * to->ld;
    int64_t at = row;
    for (int64_t e = 0; e < n; e += GR_INT_BLOCK, q += GR_INT_BLOCK) {
        vf v[4];
        vi code[4];
        UNROLL for (int i = 0; i < 4; i++) v[i] = dt == GR_F32
                                                      ? v_load((const float *)x + e + i * VW)
                                                      : v_load_bf16((const uint16_t *)x + e + i * VW);
        const uint32_t bits = largest_bits(v);
        float most;
        memcpy(&most, &bits, 4);
        const bool finite = bits < 0x7F800000u, zero = !finite || most < GR_INT_ZERO;
        const float d = !finite ? __builtin_nanf("") : zero ? 0 : most / 127;
        const vf by = v_set1(zero ? 0 : 127 / most);
        UNROLL for (int i = 0; i < 4; i++) code[i] = _mm256_cvtps_epi32(v_mul(v[i], by));
        const vi bytes = zero ? _mm256_setzero_si256() : to_bytes(code);
        _mm256_storeu_si256((__m256i *)(void *)q, bytes);
        const vi quads =
            _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
        int32_t sum[2] = {sum_half(_mm256_castsi256_si128(quads)),
                          sum_half(_mm256_extracti128_si256(quads, 1))};
        if (f->elements == GR_INT_BLOCK) sum[0] += sum[1];
        for (int p = 0; p < GR_INT_BLOCK / f->elements; p++, at += to->step) {
            to->d[at] = d;
            to->ds[at] = d * (float)sum[p];
            to->start[at] = -f->offset * sum[p];
        }
    }
}

static void round_row(int64_t n, const float *x, float by, int8_t *q) {
    for (int64_t e = 0; e < n; e += 32) {
        vi code[4];
        UNROLL for (int i = 0; i < 4; i++) code[i] =
            _mm256_cvtps_epi32(v_mul(v_load(x + e + i * VW), v_set1(by)));
        _mm256_storeu_si256((__m256i *)(void *)(q + e), to_bytes(code));
    }
}

/* Multiplied by the inverse, which is off by less than 2^-14 where it matters; a quotient that may lie on the other side of the
 * middle between two codes is divided. */
static void divide_row(int64_t n, const float *x, float scale, int8_t *q) {
    const vf by = v_set1(1 / scale), near = v_set1(0.5f - 0x1p-14f), most = v_set1(127);
    for (int64_t e = 0; e < n; e += 32) {
        vi code[4];
        vf doubt = _mm256_setzero_ps();
        UNROLL for (int i = 0; i < 4; i++) {
            const vf y = v_mul(v_load(x + e + i * VW), by);
            const vf off = v_sub(y, _mm256_round_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
            doubt = _mm256_or_ps(doubt, _mm256_cmp_ps(_mm256_castsi256_ps(magnitude(off)), near, _CMP_GE_OQ));
            /* What is too small for int32 becomes its smallest number, and is packed to -128. */
            code[i] = _mm256_cvtps_epi32(v_min(y, most));
        }
        if (_mm256_movemask_ps(doubt))
            UNROLL for (int i = 0; i < 4; i++)
                code[i] = _mm256_cvtps_epi32(v_min(_mm256_div_ps(v_load(x + e + i * VW), v_set1(scale)), most));
        _mm256_storeu_si256((__m256i *)(void *)(q + e), to_bytes(code));
    }
}

/* --- Products ----------------------------------------------------------------------------------------------------- */

/* Sums of eight outputs over 4 * quads codes; `chain` sums fit 16 bits, 0: codes of 8 bits, less 128. */
static inline __attribute__((always_inline)) vi block_sum(const int quads, const int chain, vi sum,
                                                          const uint8_t *w, const int8_t *a) {
    const vi ones = _mm256_set1_epi16(1), middle = _mm256_set1_epi8(-128);
    vi wide = _mm256_setzero_si256();
    UNROLL for (int t = 0; t < quads; t++) {
        const vi codes = _mm256_loadu_si256((const __m256i *)(const void *)(w + t * 4 * LANES));
        const vi x = _mm256_set1_epi32(word((const uint8_t *)a + 4 * t));
        if (chain == 0) {
            const vi less = vi_xor(codes, middle);
            vi pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(less), _mm256_sign_epi8(x, less));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
            continue;
        }
        const vi pairs = _mm256_maddubs_epi16(codes, x);
        wide = t % chain == 0 ? pairs : _mm256_add_epi16(wide, pairs);
        if (t % chain == chain - 1) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(wide, ones));
    }
    return sum;
}

static inline __attribute__((always_inline)) void row_times(const int quads, const int chain, const bool mins,
                                                            int64_t block, int64_t blocks,
                                                            const gr_int_rows *a, int64_t row,
                                                            const gr_int_panel *p, float *c, bool add) {
    const int8_t *q = a->q + row * a->ld + block * quads * 4;
    const int64_t at = block * a->step + row;
    for (int h = 0; h < LANES; h += VW) {
        vf y = add ? v_load(c + h) : v_zero();
        for (int64_t b = 0; b < blocks; b++) {
            const vi start = chain == 0 ? _mm256_setzero_si256() : _mm256_set1_epi32(a->start[at + b * a->step]);
            const vi sum =
                block_sum(quads, chain, start, p->q + (b * quads * LANES + h) * 4, q + b * quads * 4);
            y = v_fma(v_mul(v_load(p->d + b * LANES + h), v_set1(a->d[at + b * a->step])), vi_float(sum), y);
            if (mins) y = v_fma(v_load(p->m + b * LANES + h), v_set1(a->ds[at + b * a->step]), y);
        }
        v_store(c + h, y);
    }
}

#define CASE(quads, chain, mins)                                                                             \
    for (int64_t i = 0; i < m; i++) row_times(quads, chain, mins, block, blocks, a, i, p, c + i * LANES, add)

static void multiply(const gr_int_format *f, int64_t m, int64_t block, int64_t blocks, const gr_int_rows *a,
                     const gr_int_panel *p, float *c, bool add) {
    if (f->elements == 16) {
        if (f->mins)
            CASE(4, 4, true);
        else if (f->largest > 31)
            CASE(4, 2, false);
        else
            CASE(4, 4, false);
    } else if (f->largest > 31) {
        CASE(8, 0, false);
    } else if (f->largest > 15) {
        if (f->mins)
            CASE(8, 4, true);
        else
            CASE(8, 4, false);
    } else {
        if (f->mins)
            CASE(8, 8, true);
        else
            CASE(8, 8, false);
    }
}

static int32_t sum_of(int64_t n, const int8_t *q) {
    const vi ones = _mm256_set1_epi8(1);
    vi sum = _mm256_setzero_si256();
    for (int64_t e = 0; e < n; e += 32) {
        const vi codes = _mm256_loadu_si256((const __m256i *)(const void *)(q + e));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(ones, codes), _mm256_set1_epi16(1)));
    }
    return sum_half(_mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1)));
}

/* In 16 bits: both sides may be -128, whose product VPSIGNB and VPMADDUBSW have no place for. */
static void accumulate(int64_t m, int64_t n, const int8_t *q, int64_t ld, const gr_int_panel *p, int32_t *c,
                       bool add) {
    for (int64_t i = 0; i < m; i++, q += ld, c += LANES) {
        vi sum[4];
        UNROLL for (int g = 0; g < 4; g++) sum[g] = _mm256_setzero_si256();
        const uint8_t *w = p->q;
        for (int64_t e = 0; e < n; e += 4, w += 4 * LANES) {
            const vi x = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(word((const uint8_t *)q + e))));
            UNROLL for (int g = 0; g < 4; g++) sum[g] =
                _mm256_add_epi32(sum[g], _mm256_madd_epi16(_mm256_cvtepu8_epi16(sixteen(w + 16 * g)), x));
        }
        const vi off = _mm256_set1_epi32(sum_of(n, q) * 128); /* the panel's codes are 128 more than the weights' */
        UNROLL for (int h = 0; h < 2; h++) {
            __m256i *to = (__m256i *)(void *)(c + h * VW);
            vi y = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sum[2 * h], sum[2 * h + 1]), 0xD8);
            y = _mm256_sub_epi32(y, off);
            _mm256_storeu_si256(to, add ? _mm256_add_epi32(y, _mm256_loadu_si256(to)) : y);
        }
    }
}

void gr_cpu_fill_avx2_integer(gr_cpu_kernels *k) {
    fill_unpack(&k->integer);
    k->integer.quantize = quantize;
    k->integer.round_row = round_row;
    k->integer.divide_row = divide_row;
    k->integer.largest = largest;
    k->integer.multiply = multiply;
    k->integer.accumulate = accumulate;
}
