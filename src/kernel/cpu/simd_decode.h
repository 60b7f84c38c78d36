/* Decoders of the most used block formats, on vectors: the bits of room quant's (block32.c), product then sum, each rounded.
 * Included by decode_*.c once per type of the result with
 *   NAME(x)     the function's name
 *   T           float or uint16_t (BF16)
 *   PUT(p, x)   stores VW floats as T */

static void NAME(Q4_0)(const void *blocks, size_t n, T *out) {
    const uint8_t *b = blocks;
    const vf eight = v_set1(8.0f);
    for (size_t i = 0; i < n; i += 32, b += 18, out += 32) {
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
        const vf d = v_set1(half_at(b));
        for (int k = 0; k < 32; k += VW) PUT(out + k, v_mul(d, signed_at(b + 2 + k)));
    }
}
