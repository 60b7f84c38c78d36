/* Half (IEEE 754 binary16) and bfloat16 to and from float, one value at a time. Narrowing rounds to nearest, ties to
 * even; overflow gives infinity; NaN stays NaN (quiet, its upper payload bits kept); subnormals are exact. */
#ifndef GR_TENSOR_FLOAT16_H
#define GR_TENSOR_FLOAT16_H

#include <stdint.h>
#include <string.h>

static inline uint32_t gr_float_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline float gr_float_from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline float gr_bf16_to_f32(uint16_t h) { return gr_float_from_bits((uint32_t)h << 16); }

static inline uint16_t gr_f32_to_bf16(float f) {
    uint32_t u = gr_float_bits(f);
    uint32_t nan = (u >> 16) | 0x40u;
    uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
    return (uint16_t)((u & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded);
}

static inline float gr_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7FFFu;
    /* Normal numbers: exponent moved from bias 15 to 127. Infinity and NaN: moved once more to the top. */
    uint32_t u = (rest << 13) + (112u << 23);
    if (rest >= 0x7C00u) u += 112u << 23;
    /* Signalling NaN becomes quiet, as the hardware's conversion does. */
    if (rest > 0x7C00u) u |= 0x00400000u;
    /* Subnormal: the fraction times 2^-24; exact in float. */
    if (rest < 0x0400u) u = gr_float_bits((float)rest * 0x1p-24f);
    return gr_float_from_bits(sign | u);
}

static inline uint16_t gr_f32_to_f16(float f) {
    uint32_t u = gr_float_bits(f), sign = (u >> 16) & 0x8000u, rest = u & 0x7FFFFFFFu, h;
    if (rest > 0x7F800000u)
        h = 0x7E00u | ((rest >> 13) & 0x03FFu);
    else if (rest >= 0x477FF000u) /* 65520, half-way above the largest half: rounds to infinity */
        h = 0x7C00u;
    else if (rest >= 0x38800000u) /* normal half */
        h = (rest - (112u << 23) + 0x0FFFu + ((rest >> 13) & 1u)) >> 13;
    else /* subnormal half: adding 0.5 leaves units of 2^-24 in the low bits, rounded by the addition itself */
        h = gr_float_bits(gr_float_from_bits(rest) + 0.5f) - gr_float_bits(0.5f);
    return (uint16_t)(sign | h);
}

#endif
