/* Pieces of gr_model_config's reading and writing that the files of this room share. */
#ifndef GR_IO_CONFIG_PARTS_H
#define GR_IO_CONFIG_PARTS_H

#include "io/config_fields.h"
#include "io/hf_config.h"

/* One a reader of model_type.def: reads all but the type and the format of the weights. */
void gr_config_read_llama(gr_fields *f, gr_model_config *config);
void gr_config_read_gpt2(gr_fields *f, gr_model_config *config);
void gr_config_read_bert(gr_fields *f, gr_model_config *config);
/* architectures, problem_type and the number of labels; after the reader. */
void gr_config_read_task(gr_fields *f, gr_model_config *config);
void gr_config_read_t5(gr_fields *f, gr_model_config *config);
/* bos, eos and pad, with what is taken where a key is absent (-1: none). */
void gr_config_read_tokens(gr_fields *f, gr_model_config *config, int bos, int eos, int pad);
/* quantization_config. */
void gr_config_read_quantization(gr_fields *f, gr_model_config *config);
/* An activation function by the name that transformers has for it; `expected` names those that the family has. */
gr_hidden_act gr_config_read_act(gr_fields *f, const char *key, gr_hidden_act absent, const char *expected);
/* Reads rope_parameters, rope_scaling, rope_theta; needs the config's sizes. Failures go into f. */
void gr_rope_from_json(gr_fields *f, double default_theta, gr_model_config *config);
/* Checks that hold for every source: head counts divide, head_dim is even. */
graft_status gr_model_config_check(const char *file, const gr_model_config *config, graft_error *err);

#endif
