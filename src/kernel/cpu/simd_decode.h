/* Decoders of the most used block formats, on vectors: the bits of room quant's (block32.c), product then sum, each rounded.
 * Included by decode_*.c once per type of the result with
 *   NAME(x)     the function's name
 *   T           float or uint16_t (BF16)
 *   PUT(p, x)   stores VW floats as T
 * and with bytes_at, signed_at (VW bytes as integers, as floats), half_at, field (bits of each), joined (bits above others), with_bit
 * (`bit` where a bit of a word is set), v_float, scaled_table, look_up, nibble_pairs. */

static void NAME(Q4_0)(const void *blocks, size_t n, T *out) {
    const uint8_t *b = blocks;
    const vf eight = v_set1(8.0f);
    for (size_t i = 0; i < n; i += 32, b += 18, out += 32) {
        gr_fetch_ahead(b, 18);
        const vf d = v_set1(half_at(b));
        for (int k = 0; k < 16; k += VW) {
            vi q = bytes_at(b + 2 + k);
            PUT(out + k, v_mul(d, v_sub(v_float(field(q, 0, 15)), eight)));
            PUT(out + k + 16, v_mul(d, v_sub(v_float(field(q, 4, 15)), eight)));
        }
    }
}

static void NAME(Q4_1)(const void *blocks, size_t n, T *out) {
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += 32, b += 20, out += 32) {
        gr_fetch_ahead(b, 20);
        const vf d = v_set1(half_at(b)), m = v_set1(half_at(b + 2));
        for (int k = 0; k < 16; k += VW) {
            vi q = bytes_at(b + 4 + k);
            PUT(out + k, v_add(v_mul(d, v_float(field(q, 0, 15))), m));
            PUT(out + k + 16, v_add(v_mul(d, v_float(field(q, 4, 15))), m));
        }
    }
}

static void NAME(Q8_0)(const void *blocks, size_t n, T *out) {
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += 32, b += 34, out += 32) {
        gr_fetch_ahead(b, 34);
        const vf d = v_set1(half_at(b));
        for (int k = 0; k < 32; k += VW) PUT(out + k, v_mul(d, signed_at(b + 2 + k)));
    }
}

/* Five bits: the fifth of elements k, k + 1, ... of a block are bits k, k + 1, ... of `fifth`. */
static void NAME(Q5_0)(const void *blocks, size_t n, T *out) {
    const uint8_t *b = blocks;
    const vf half = v_set1(16.0f);
    for (size_t i = 0; i < n; i += 32, b += 22, out += 32) {
        gr_fetch_ahead(b, 22);
        const vf d = v_set1(half_at(b));
        const uint32_t fifth = word_at(b + 2);
        for (int k = 0; k < 16; k += VW) {
            vi q = bytes_at(b + 6 + k);
            PUT(out + k, v_mul(d, v_sub(v_float(with_bit(field(q, 0, 15), fifth >> k, 16)), half)));
            PUT(out + k + 16, v_mul(d, v_sub(v_float(with_bit(field(q, 4, 15), fifth >> (k + 16), 16)), half)));
        }
    }
}

static void NAME(Q5_1)(const void *blocks, size_t n, T *out) {
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += 32, b += 24, out += 32) {
        gr_fetch_ahead(b, 24);
        const vf d = v_set1(half_at(b)), m = v_set1(half_at(b + 2));
        const uint32_t fifth = word_at(b + 4);
        for (int k = 0; k < 16; k += VW) {
            vi q = bytes_at(b + 8 + k);
            PUT(out + k, v_add(v_mul(d, v_float(with_bit(field(q, 0, 15), fifth >> k, 16))), m));
            PUT(out + k + 16, v_add(v_mul(d, v_float(with_bit(field(q, 4, 15), fifth >> (k + 16), 16))), m));
        }
    }
}

/* The K-quants as block256.c has them. */
static void NAME(Q2_K)(const void *blocks, size_t n, T *out) {
    const block_q2_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        gr_fetch_ahead(b, sizeof *b);
        const float all = half_at(b->d), least = half_at(b->dmin);
        for (int sub = 0; sub < 16; sub++, out += 16) {
            const vf d = v_set1(all * (float)(b->scales[sub] & 15)), m = v_set1(least * (float)(b->scales[sub] >> 4));
            const uint8_t *q = b->qs + 32 * (sub / 8) + 16 * (sub % 2);
            for (int k = 0; k < 16; k += VW) PUT(out + k, v_sub(v_mul(d, v_float(field(bytes_at(q + k), 2 * (sub / 2 % 4), 3))), m));
        }
    }
}

static void NAME(Q3_K)(const void *blocks, size_t n, T *out) {
    const block_q3_k *b = blocks;
    const vf four = v_set1(4.0f);
    for (size_t i = 0; i < n; i += 256, b++) {
        gr_fetch_ahead(b, sizeof *b);
        const float all = half_at(b->d);
        for (int sub = 0; sub < 16; sub++, out += 16) {
            const vf d = v_set1(all * (float)gr_q3_scale(b->scales, sub));
            const uint8_t *q = b->qs + 32 * (sub / 8) + 16 * (sub % 2), *high = b->hmask + 16 * (sub % 2);
            for (int k = 0; k < 16; k += VW) {
                vi third = field(bytes_at(high + k), sub / 2, 1);
                PUT(out + k, v_mul(d, v_sub(v_float(joined(field(bytes_at(q + k), 2 * (sub / 2 % 4), 3), third, 2)), four)));
            }
        }
    }
}

static void NAME(Q4_K)(const void *blocks, size_t n, T *out) {
    const block_q4_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        gr_fetch_ahead(b, sizeof *b);
        const float all = half_at(b->d), least = half_at(b->dmin);
        for (int sub = 0; sub < 8; sub++, out += 32) {
            int scale, min;
            gr_q4_scale_min(b->scales, sub, &scale, &min);
            const vf d = v_set1(all * (float)scale), m = v_set1(least * (float)min);
            const uint8_t *q = b->qs + 32 * (sub / 2);
            for (int k = 0; k < 32; k += VW) PUT(out + k, v_sub(v_mul(d, v_float(field(bytes_at(q + k), 4 * (sub % 2), 15))), m));
        }
    }
}

static void NAME(Q5_K)(const void *blocks, size_t n, T *out) {
    const block_q5_k *b = blocks;
    for (size_t i = 0; i < n; i += 256, b++) {
        gr_fetch_ahead(b, sizeof *b);
        const float all = half_at(b->d), least = half_at(b->dmin);
        for (int sub = 0; sub < 8; sub++, out += 32) {
            int scale, min;
            gr_q4_scale_min(b->scales, sub, &scale, &min);
            const vf d = v_set1(all * (float)scale), m = v_set1(least * (float)min);
            const uint8_t *q = b->qs + 32 * (sub / 2);
            for (int k = 0; k < 32; k += VW) {
                vi fifth = field(bytes_at(b->qh + k), sub, 1);
                PUT(out + k, v_sub(v_mul(d, v_float(joined(field(bytes_at(q + k), 4 * (sub % 2), 15), fifth, 4))), m));
            }
        }
    }
}

static void NAME(Q6_K)(const void *blocks, size_t n, T *out) {
    const block_q6_k *b = blocks;
    const vf half = v_set1(32.0f);
    for (size_t i = 0; i < n; i += 256, b++) {
        gr_fetch_ahead(b, sizeof *b);
        const float all = half_at(b->d);
        for (int sub = 0; sub < 16; sub++, out += 16) {
            const int run = sub / 2, quarter = run % 4, start = 16 * (sub % 2);
            const vf d = v_set1(all * (float)b->scales[sub]);
            const uint8_t *low = b->ql + 64 * (run / 4) + 32 * (quarter % 2) + start, *high = b->qh + 32 * (run / 4) + start;
            for (int k = 0; k < 16; k += VW) {
                vi q = joined(field(bytes_at(low + k), 4 * (quarter / 2), 15), field(bytes_at(high + k), 2 * quarter, 3), 4);
                PUT(out + k, v_mul(d, v_sub(v_float(q), half)));
            }
        }
    }
}

#define PLAIN(type, element, load)                                                                                     \
    static void NAME(type)(const void *numbers, size_t n, T *out) {                                                    \
        const element *x = numbers;                                                                                    \
        size_t i = 0;                                                                                                  \
        for (; i + VW <= n; i += VW) {                                                                                 \
            gr_fetch_ahead(x + i, VW * (int)sizeof *x);                                                                \
            PUT(out + i, load);                                                                                        \
        }                                                                                                              \
        if (i < n) gr_quant_get(GR_##type)->NAME(to)(x + i, n - i, out + i);                                           \
    }
PLAIN(F32, float, v_load(x + i))
PLAIN(F16, uint16_t, v_load_f16_n(x + i, VW))
PLAIN(BF16, uint16_t, v_load_bf16(x + i))
#undef PLAIN

/* Sixteen values under a scale, looked up; what is left of a vector goes the plain way. */
static inline void NAME(nibbles)(gr_dtype dtype, const uint8_t *codes, size_t n, float scale, T *out) {
    const sixteen table = scaled_table(gr_scaled_values(dtype), scale);
    size_t i = 0;
    for (; i + VW <= n; i += VW) PUT(out + i, look_up(table, nibble_pairs(codes + i / 2)));
    if (i < n) gr_scaled_get(dtype)->NAME(to)(codes + i / 2, n - i, scale, out + i);
}

static void NAME(NF4)(const void *codes, size_t n, float scale, T *out) { NAME(nibbles)(GR_NF4, codes, n, scale, out); }
static void NAME(FP4)(const void *codes, size_t n, float scale, T *out) { NAME(nibbles)(GR_FP4, codes, n, scale, out); }

static void NAME(INT8)(const void *codes, size_t n, float scale, T *out) {
    const uint8_t *q = codes;
    const vf s = v_set1(scale), step = v_set1(GR_INT8_STEP);
    size_t i = 0;
    for (; i + VW <= n; i += VW) PUT(out + i, v_mul(v_mul(signed_at(q + i), s), step));
    if (i < n) gr_scaled_get(GR_INT8)->NAME(to)(q + i, n - i, scale, out + i);
}

static void NAME(CHANNEL8)(const void *codes, size_t n, float scale, T *out) {
    const uint8_t *q = codes;
    const vf s = v_set1(scale);
    size_t i = 0;
    for (; i + VW <= n; i += VW) PUT(out + i, v_mul(signed_at(q + i), s));
    if (i < n) gr_scaled_get(GR_CHANNEL8)->NAME(to)(q + i, n - i, scale, out + i);
}

static void NAME(fill)(gr_cpu_kernels *k) {
#define FILL(type) k->NAME(to)[GR_##type] = NAME(type)
    FILL(F32);
    FILL(F16);
    FILL(BF16);
    FILL(Q4_0);
    FILL(Q4_1);
    FILL(Q5_0);
    FILL(Q5_1);
    FILL(Q8_0);
    FILL(Q2_K);
    FILL(Q3_K);
    FILL(Q4_K);
    FILL(Q5_K);
    FILL(Q6_K);
#undef FILL
    k->scaled[GR_NF4].NAME(to) = NAME(NF4);
    k->scaled[GR_FP4].NAME(to) = NAME(FP4);
    k->scaled[GR_INT8].NAME(to) = NAME(INT8);
    k->scaled[GR_CHANNEL8].NAME(to) = NAME(CHANNEL8);
}
