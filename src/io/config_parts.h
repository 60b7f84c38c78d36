/* Pieces of gr_model_config's reading and writing that the files of this room share. */
#ifndef GR_IO_CONFIG_PARTS_H
#define GR_IO_CONFIG_PARTS_H

#include "io/config_fields.h"
#include "io/hf_config.h"

/* Reads rope_parameters, rope_scaling, rope_theta; needs the config's sizes. Failures go into f. */
void gr_rope_from_json(gr_fields *f, double default_theta, gr_model_config *config);
/* Checks that hold for every source: head counts divide, head_dim is even. */
graft_status gr_model_config_check(const char *file, const gr_model_config *config, graft_error *err);
/* Divisors of the inverse frequencies that llama3 scaling amounts to (what GGUF converters store as rope_freqs.weight):
 * out[head_dim / 2]. */
void gr_llama3_divisors(const gr_rope_config *rope, int head_dim, double *out);

#endif
