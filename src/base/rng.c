#include <math.h>

#include "base/base.h"

uint64_t gr_rng_stream(gr_rng_purpose purpose, uint64_t identity) {
    uint64_t pair[2] = {(uint64_t)purpose, identity};
    return gr_hash_bytes(pair, sizeof pair, 0x67726674u);
}

/* Philox4x32 with 10 rounds; the key is the seed, the counter is (index, stream). */
void gr_rng_draw4(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint64_t gr_rng_u64(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t r[4];
    gr_rng_draw4(seed, stream, index, r);
    return (uint64_t)r[1] << 32 | r[0];
}

double gr_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    return (double)(gr_rng_u64(seed, stream, index) >> 11) * 0x1p-53;
}

double gr_rng_normal(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t r[4];
    gr_rng_draw4(seed, stream, index, r);
    /* (0, 1]: the logarithm needs a value above zero. */
    double u = ((double)(((uint64_t)r[1] << 32 | r[0]) >> 11) + 1.0) * 0x1p-53;
    double v = (double)(((uint64_t)r[3] << 32 | r[2]) >> 11) * 0x1p-53;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

uint64_t gr_rng_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n) {
    return (uint64_t)((unsigned __int128)gr_rng_u64(seed, stream, index) * n >> 64);
}

void gr_rng_permutation(uint64_t seed, uint64_t stream, uint32_t *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = (uint32_t)i;
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)gr_rng_below(seed, stream, i, i);
        uint32_t held = out[i - 1];
        out[i - 1] = out[j];
        out[j] = held;
    }
}
