/* Unpacking of stored blocks for integer products (integer.h), included by integer_*.c. A vector's lanes are
 * VW of the sixteen rows; the includer has vi_turn(rows, at, t): t[i], the i-th 4 bytes of the 16 bytes that
 * begin at byte `at` of each row vi_first(rows, at):   the 4 bytes there vi_half(x):           the low halves
 * of the lanes as half precision, in float vi_and, vi_or, vi_srl, vi_sll, vi_mul, vi_float, vi_store. */
#include "kernel/cpu/unroll.h"
#include "quant/blocks.h"

enum { LANES = GR_INT_LANES };

static inline vi low_nibbles(vi x) {
    return vi_and(x, vi_set1(0x0F0F0F0Fu));
}
static inline vi high_nibbles(vi x) {
    return vi_and(vi_srl(x, 4), vi_set1(0x0F0F0F0Fu));
}
/* Bits 0 to 3 of the lanes as bit 4 of bytes 0 to 3. */
static inline vi spread_bits(vi x) {
    return vi_sll(vi_and(vi_mul(vi_and(x, vi_set1(15)), vi_set1(0x00204081u)), vi_set1(0x01010101u)), 4);
}

/* Sixteen bytes of nibbles: elements 0 to 15 low, the others high, of a block whose codes stand at q. */
static inline __attribute__((always_inline)) void put_nibbles(uint8_t *q, const vi t[4], const vi *low_bits,
                                                              const vi *high_bits) {
    UNROLL for (int i = 0; i < 4; i++) {
        vi low = low_nibbles(t[i]), high = high_nibbles(t[i]);
        vi_store(q + i * 4 * LANES, low_bits ? vi_or(low, low_bits[i]) : low);
        vi_store(q + (i + 4) * 4 * LANES, high_bits ? vi_or(high, high_bits[i]) : high);
    }
}

#define FOR_HALVES for (int h = 0; h < LANES; h += VW)
#define Q_AT(e)    (to->q + ((e) / 4 * LANES + h) * 4)

static void unpack_Q4_0(const uint8_t *const *rows, int64_t k, int64_t n, const gr_int_panel *to) {
    FOR_HALVES
    for (int64_t e = 0, at = k / 32 * 18; e < n; e += 32, at += 18) {
        vi t[4];
        vi_turn(rows + h, at + 2, t);
        put_nibbles(Q_AT(e), t, NULL, NULL);
        v_store(to->d + e / 32 * LANES + h, vi_half(vi_first(rows + h, at)));
    }
}

static void unpack_Q4_1(const uint8_t *const *rows, int64_t k, int64_t n, const gr_int_panel *to) {
    FOR_HALVES
    for (int64_t e = 0, at = k / 32 * 20; e < n; e += 32, at += 20) {
        vi t[4], head = vi_first(rows + h, at);
        vi_turn(rows + h, at + 4, t);
        put_nibbles(Q_AT(e), t, NULL, NULL);
        v_store(to->d + e / 32 * LANES + h, vi_half(head));
        v_store(to->m + e / 32 * LANES + h, vi_half(vi_srl(head, 16)));
    }
}

static inline __attribute__((always_inline)) void five_bits(uint8_t *q, const vi t[4], vi bits) {
    vi low[4], high[4];
    UNROLL for (int i = 0; i < 4; i++) {
        low[i] = spread_bits(vi_srl(bits, 4 * i));
        high[i] = spread_bits(vi_srl(bits, 4 * i + 16));
    }
    put_nibbles(q, t, low, high);
}

static void unpack_Q5_0(const uint8_t *const *rows, int64_t k, int64_t n, const gr_int_panel *to) {
    FOR_HALVES
    for (int64_t e = 0, at = k / 32 * 22; e < n; e += 32, at += 22) {
        vi t[4];
        vi_turn(rows + h, at + 6, t);
        five_bits(Q_AT(e), t, vi_first(rows + h, at + 2));
        v_store(to->d + e / 32 * LANES + h, vi_half(vi_first(rows + h, at)));
    }
}

static void unpack_Q5_1(const uint8_t *const *rows, int64_t k, int64_t n, const gr_int_panel *to) {
    FOR_HALVES
    for (int64_t e = 0, at = k / 32 * 24; e < n; e += 32, at += 24) {
        vi t[4], head = vi_first(rows + h, at);
        vi_turn(rows + h, at + 8, t);
        five_bits(Q_AT(e), t, vi_first(rows + h, at + 4));
        v_store(to->d + e / 32 * LANES + h, vi_half(head));
        v_store(to->m + e / 32 * LANES + h, vi_half(vi_srl(head, 16)));
    }
}

static void unpack_Q8_0(const uint8_t *const *rows, int64_t k, int64_t n, const gr_int_panel *to) {
    FOR_HALVES
    for (int64_t e = 0, at = k / 32 * 34; e < n; e += 32, at += 34) {
        for (int part = 0; part < 2; part++) {
            vi t[4];
            vi_turn(rows + h, at + 2 + 16 * part, t);
            UNROLL for (int i = 0; i < 4; i++)
                vi_store(Q_AT(e + 16 * part + 4 * i), vi_xor(t[i], vi_set1(0x80808080u)));
        }
        v_store(to->d + e / 32 * LANES + h, vi_half(vi_first(rows + h, at)));
    }
}

static void unpack_INT8(const uint8_t *const *rows, int64_t k, int64_t n, const gr_int_panel *to) {
    const int64_t quads = n / 16 * 16, whole = (n + GR_INT_BLOCK - 1) / GR_INT_BLOCK * GR_INT_BLOCK;
    FOR_HALVES
    for (int64_t e = 0; e < quads; e += 16) {
        vi t[4];
        vi_turn(rows + h, k + e, t);
        UNROLL for (int i = 0; i < 4; i++) vi_store(Q_AT(e + 4 * i), vi_xor(t[i], vi_set1(0x80808080u)));
    }
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t e = quads; e < whole; e++)
            to->q[gr_int_place(e, lane)] = e < n ? rows[lane][k + e] ^ 128 : 128;
}

/* The head of a Q4_K or Q5_K block at t: factors, and 8 scales and minima of 6 bits (quant/blocks.h). */
static inline __attribute__((always_inline)) void put_scales(const vi t[4], float *d, float *m) {
    const vf all = vi_half(t[0]), min = vi_half(vi_srl(t[0], 16));
    const vi low = vi_set1(0x0F0F0F0Fu), six = vi_set1(0x3F3F3F3Fu), top = vi_set1(0x30303030u);
    const vi scales[2] = {vi_and(t[1], six), vi_or(vi_and(t[3], low), vi_and(vi_srl(t[1], 2), top))};
    const vi minima[2] = {vi_and(t[2], six),
                          vi_or(vi_and(vi_srl(t[3], 4), low), vi_and(vi_srl(t[2], 2), top))};
    UNROLL for (int sub = 0; sub < 8; sub++) {
        const vi byte = vi_set1(255);
        v_store(d + sub * LANES, v_mul(all, vi_float(vi_and(vi_srl(scales[sub / 4], 8 * (sub % 4)), byte))));
        v_store(m + sub * LANES,
                v_neg(v_mul(min, vi_float(vi_and(vi_srl(minima[sub / 4], 8 * (sub % 4)), byte)))));
    }
}

static void unpack_Q4_K(const uint8_t *const *rows, int64_t k, int64_t n, const gr_int_panel *to) {
    FOR_HALVES
    for (int64_t e = 0, at = k / 256 * 144; e < n; e += 256, at += 144) {
        vi t[4];
        vi_turn(rows + h, at, t);
        put_scales(t, to->d + e / 32 * LANES + h, to->m + e / 32 * LANES + h);
        for (int part = 0; part < 8; part++) {
            vi_turn(rows + h, at + 16 + 16 * part, t);
            UNROLL for (int i = 0; i < 4; i++) {
                const int64_t place = e + part / 2 * 64 + part % 2 * 16 + 4 * i;
                vi_store(Q_AT(place), low_nibbles(t[i]));
                vi_store(Q_AT(place + 32), high_nibbles(t[i]));
            }
        }
    }
}

static void unpack_Q5_K(const uint8_t *const *rows, int64_t k, int64_t n, const gr_int_panel *to) {
    FOR_HALVES
    for (int64_t e = 0, at = k / 256 * 176; e < n; e += 256, at += 176) {
        vi t[4], high[8];
        vi_turn(rows + h, at, t);
        put_scales(t, to->d + e / 32 * LANES + h, to->m + e / 32 * LANES + h);
        vi_turn(rows + h, at + 16, high);
        vi_turn(rows + h, at + 32, high + 4);
        for (int part = 0; part < 8; part++) {
            vi_turn(rows + h, at + 48 + 16 * part, t);
            UNROLL for (int i = 0; i < 4; i++) {
                const int64_t place = e + part / 2 * 64 + part % 2 * 16 + 4 * i;
                const vi bits = vi_srl(high[part % 2 * 4 + i], part / 2 * 2), one = vi_set1(0x10101010u);
                vi_store(Q_AT(place), vi_or(low_nibbles(t[i]), vi_and(vi_sll(bits, 4), one)));
                vi_store(Q_AT(place + 32), vi_or(high_nibbles(t[i]), vi_and(vi_sll(bits, 3), one)));
            }
        }
    }
}

static void unpack_Q6_K(const uint8_t *const *rows, int64_t k, int64_t n, const gr_int_panel *to) {
    FOR_HALVES
    for (int64_t e = 0, at = k / 256 * 210; e < n; e += 256, at += 210) {
        const vf all = vi_half(vi_srl(vi_first(rows + h, at + 206), 16));
        vi t[4], high[4];
        vi_turn(rows + h, at + 192, t);
        UNROLL for (int sub = 0; sub < 16; sub++) {
            const vi scale = vi_sra(vi_sll(t[sub / 4], 24 - 8 * (sub % 4)), 24);
            v_store(to->d + (e / 16 + sub) * LANES + h, v_mul(all, vi_float(scale)));
        }
        for (int part = 0; part < 4;
             part++) { /* 16 high bytes belong to 16 elements of each quarter of a half */
            const int half = part / 2, start = part % 2 * 16;
            vi low[8];
            vi_turn(rows + h, at + 128 + 16 * part, high);
            vi_turn(rows + h, at + 64 * half + start, low);
            vi_turn(rows + h, at + 64 * half + 32 + start, low + 4);
            UNROLL for (int i = 0; i < 4; i++) {
                const int64_t place = e + 128 * half + start + 4 * i;
                const vi top = vi_set1(0x30303030u);
                vi_store(Q_AT(place), vi_or(low_nibbles(low[i]), vi_and(vi_sll(high[i], 4), top)));
                vi_store(Q_AT(place + 32), vi_or(low_nibbles(low[i + 4]), vi_and(vi_sll(high[i], 2), top)));
                vi_store(Q_AT(place + 64), vi_or(high_nibbles(low[i]), vi_and(high[i], top)));
                vi_store(Q_AT(place + 96), vi_or(high_nibbles(low[i + 4]), vi_and(vi_srl(high[i], 2), top)));
            }
        }
    }
}

static void fill_unpack(gr_int_kernels *k) {
    k->unpack[GR_Q4_0] = unpack_Q4_0;
    k->unpack[GR_Q4_1] = unpack_Q4_1;
    k->unpack[GR_Q5_0] = unpack_Q5_0;
    k->unpack[GR_Q5_1] = unpack_Q5_1;
    k->unpack[GR_Q8_0] = unpack_Q8_0;
    k->unpack[GR_INT8] = unpack_INT8;
    k->unpack[GR_CHANNEL8] = unpack_INT8;
    k->unpack[GR_Q4_K] = unpack_Q4_K;
    k->unpack[GR_Q5_K] = unpack_Q5_K;
    k->unpack[GR_Q6_K] = unpack_Q6_K;
}
