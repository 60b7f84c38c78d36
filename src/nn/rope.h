/* Rotary position embedding (Su et al. 2021): the angles of every row, in the variants of transformers 5.23's
 * modeling_rope_utils (default, linear, dynamic NTK, llama3, yarn), computed in float as it does. */
#ifndef GR_NN_ROPE_H
#define GR_NN_ROPE_H

#include "io/hf_config.h"
#include "kernel/kernel.h"

/* Inverse frequencies head_dim/2 of them, and the factor on cosines and sines. `length`: sequence length for dynamic
 * scaling (other types ignore it). `freq_factors`: head_dim/2 divisors, NULL: none. */
void gr_rope_frequencies(const gr_model_config *c, int64_t length, const float *freq_factors, float *inv_freq,
                         double *attention_factor);

/* Rows begin .. end-1 of the table for the op: cos_sin (rows, head_dim) of type dt (F32 or F64), head_dim/2 cosines then
 * head_dim/2 sines of position[r]. */
void gr_rope_fill(int head_dim, const float *inv_freq, double attention_factor, const int32_t *position, int64_t begin,
                  int64_t end, gr_dtype dt, void *cos_sin);

#endif
