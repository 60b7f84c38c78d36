/* Encoding by a dynamic map. Which code is nearest is looked up by the leading bits of |x| (exponent and seven bits of
 * the mantissa): a cell that narrow holds at most one of the bounds between codes, so that one comparison is left. */
#include "quant/scaled.h"

#include <math.h>

enum { SHIFT = 16, PER_OCTAVE = 128, LEAST_EXPONENT = 127 - 24 }; /* |x| < 2^-24 is below every bound but 0's */

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static int count_below(const float *bounds, float x, bool or_equal) {
    int n = 0;
    while (n < 255 && (bounds[n] < x || (or_equal && bounds[n] == x))) n++;
    return n;
}

void gr_dynamic_code_init(gr_dynamic_code *c, const float map[256]) {
    c->map = map;
    for (int i = 0; i < 255; i++) c->bounds[i] = (map[i] + map[i + 1]) / 2;
    c->bounds[255] = INFINITY;
    for (uint32_t k = 0; k < GR_DYNAMIC_CELLS; k++) {
        const float low = k ? float_of((k + LEAST_EXPONENT * PER_OCTAVE) << SHIFT) : 0;
        const float high = float_of((k + 1 + LEAST_EXPONENT * PER_OCTAVE) << SHIFT);
        c->below[0][k] = (uint8_t)count_below(c->bounds, low, false);
        c->below[1][k] = (uint8_t)count_below(c->bounds, -high, true);
    }
}

/* How many bounds are smaller than x, which is from -1 to 1. */
static inline uint8_t code_of(const gr_dynamic_code *c, float x) {
    const uint32_t u = bits_of(x);
    const int32_t cell = (int32_t)((u & 0x7fffffff) >> SHIFT) - LEAST_EXPONENT * PER_OCTAVE;
    const uint8_t n = c->below[u >> 31][cell > 0 ? cell : 0];
    return (uint8_t)(n + (c->bounds[n] < x));
}

void gr_quantize_dynamic(const gr_dynamic_code *c, const float *x, int64_t n, uint8_t *codes, float *absmax) {
    uint32_t most_bits = 0;
    for (int64_t i = 0; i < n; i++) most_bits = GR_MAX(most_bits, bits_of(x[i]) & 0x7fffffff);
    const float most = float_of(most_bits), safe = most > 1e-38f ? most : 1e-38f, inverse = 1.0f / safe;
    /* Whole blocks are multiplied by the inverse, a last part is divided. */
    const bool whole = n == GR_DYNAMIC_BLOCK;
    *absmax = whole ? most : safe;
    for (int64_t i = 0; i < n; i++) {
        float v = whole ? x[i] * inverse : x[i] / safe;
        v = v > -1.0f ? v : -1.0f; /* of what is no number too */
        codes[i] = code_of(c, v < 1.0f ? v : 1.0f);
    }
}

void gr_dequantize_dynamic(const gr_dynamic_code *c, const uint8_t *codes, int64_t n, float absmax, float *out) {
    for (int64_t i = 0; i < n; i++) out[i] = c->map[codes[i]] * absmax;
}
