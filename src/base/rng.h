/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 * A draw is a pure function of (seed, stream, index), so that any thread count, batch split or resume point sees the
 * same numbers. Streams keep uses apart; compose one from a purpose and an identity with gr_rng_stream. */
#ifndef GR_BASE_RNG_H
#define GR_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

typedef enum gr_rng_purpose {
    GR_RNG_INIT = 1, /* initial values of a tensor: identity is the hash of its name */
    GR_RNG_SHUFFLE,  /* record order: identity is the epoch */
    GR_RNG_DROPOUT,  /* identity is the op's name hash; index counts from (step, record, position) */
    GR_RNG_SAMPLE,   /* token sampling: identity is the request */
    GR_RNG_TEST,
    GR_RNG_MASK,     /* tokens that are hidden: identity is the epoch; index counts from (example, place) */
    GR_RNG_ATTENTION /* dropout of attention weights: identity is the attention's place; index as of DROPOUT */
} gr_rng_purpose;

uint64_t gr_rng_stream(gr_rng_purpose purpose, uint64_t identity);
void gr_rng_draw4(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);
uint64_t gr_rng_u64(uint64_t seed, uint64_t stream, uint64_t index);
double gr_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index); /* [0, 1), 53 bits */
double gr_rng_normal(uint64_t seed, uint64_t stream, uint64_t index);  /* Box-Muller */
/* Uniform in [0, n), n > 0, without modulo bias beyond 2^-64. */
uint64_t gr_rng_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n);
/* Fisher-Yates permutation of 0..n-1. */
void gr_rng_permutation(uint64_t seed, uint64_t stream, uint32_t *out, size_t n);

#endif
