/* Decoders of the most used block formats, on vectors: the bits of room quant's (block32.c), product then sum, each rounded.
 * Included by decode_*.c once per type of the result with
 *   NAME(x)     the function's name
 *   T           float or uint16_t (BF16)
 *   PUT(p, x)   stores VW floats as T */

static void NAME(Q4_0)(const void *blocks, size_t n, T *out) {
    const uint8_t *b = blocks;
    const vf eight = v_set1(8.0f);
    for (size_t i = 0; i < n; i += 32, b += 18, out += 32) {
        gr_fetch_ahead(b, 18);
        const vf d = v_set1(half_at(b));
        for (int k = 0; k < 16; k += VW) {
            vi q = bytes_at(b + 2 + k);
            PUT(out + k, v_mul(d, v_sub(low_nibble(q), eight)));
            PUT(out + k + 16, v_mul(d, v_sub(high_nibble(q), eight)));
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
            PUT(out + k, v_add(v_mul(d, low_nibble(q)), m));
            PUT(out + k + 16, v_add(v_mul(d, high_nibble(q)), m));
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
