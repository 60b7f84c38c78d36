/* What prompt tuning, prefix tuning and P-tuning share: the configuration's common part, rows that are trained themselves or
 * made by an encoder, their file. */
#ifndef GR_ADAPTER_PROMPT_H
#define GR_ADAPTER_PROMPT_H

#include "adapter/method.h"

/* Makes the n_rows rows (n, width) from the encoder's parameters on a tape, in the parameters' type; key of dropout, 0:
 * none. */
typedef graft_status (*gr_prompt_encoder)(gr_adapter *a, gr_tape *t, uint64_t key, gr_var **out, graft_error *err);

/* The first member of the method's state. */
typedef struct gr_prompt {
    gr_common_config common;
    gr_targets modules_to_save;
    int64_t n_tokens, token_dim, n_heads, n_layers, n_submodules;
    int64_t n_rows;            /* n_tokens, or of an encoder-decoder twice that, of which the decoder's are not used */
    gr_param *rows;            /* (n_rows, width), stored as prompt_embeddings */
    gr_prompt_encoder encoder; /* NULL: the rows are trained themselves */
    int32_t *places;           /* 0 .. n_rows-1 */
    gr_pool *pool;
    gr_tape *tape;             /* from a refresh for training to its collection */
    gr_var *out;
} gr_prompt;

/* Reads the keys that all have; `known`: all of the method's. `heads`, `dim`: what the model has. */
/* With "prompt_template" (of a new adapter; a saved one has it in a file of its own) the rows stand where that says, and their
 * number follows from it. */
graft_status gr_prompt_place(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err);
graft_status gr_prompt_read(gr_adapter *a, const gr_json_value *json, bool fresh, const char *const *known, int64_t heads,
                            int64_t dim, graft_error *err);
/* The modules that modules_to_save names, as a variant: a classifier is trained beside the prompt. Before the rows. */
graft_status gr_prompt_modules(gr_adapter *a, graft_error *err);
/* Makes prompt_embeddings (n_rows, width), a parameter where `encoder` is NULL; `layer`: where it is used. With an encoder
 * its parameters must be there. */
graft_status gr_prompt_rows(gr_adapter *a, int64_t width, gr_prompt_encoder encoder, int layer, graft_error *err);
/* A parameter of the encoder, with torch's initial values of its kind. */
typedef enum gr_encoder_init { GR_INIT_NORMAL, GR_INIT_UNIFORM, GR_INIT_ZERO } gr_encoder_init;
graft_status gr_prompt_encoder_param(gr_adapter *a, const char *name, gr_shape shape, gr_encoder_init init, double bound,
                                     int layer, uint64_t seed, gr_param **out, graft_error *err);

/* prompt_text.c: the tokens of a text, at least one (graft_free); `tokenizer`: where its tokenizer lies. */
graft_status gr_prompt_text_ids(gr_adapter *a, const char *text, const char *tokenizer, int32_t **out, size_t *n_out,
                                graft_error *err);
/* The embeddings of these ids, over and over, as rows of p. */
graft_status gr_prompt_copy_embeddings(gr_adapter *a, gr_param *p, const int32_t *ids, size_t n, graft_error *err);
/* The n_tokens rows of a prefix become the keys and values that the bare model has for these tokens, repeated or cut to fit. */
graft_status gr_prompt_text_rows(gr_adapter *a, const int32_t *ids, size_t n_ids, graft_error *err);

void gr_prompt_free(gr_adapter *a);
graft_status gr_prompt_refresh(gr_adapter *a, uint64_t key, bool training, graft_error *err);
graft_status gr_prompt_collect(gr_adapter *a, graft_error *err);
/* The rows in place of virtual tokens. */
graft_status gr_prompt_embedding(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_embedding *e, gr_var **y,
                                 graft_error *err);
/* encoder.c: layers, *x in and out. */
graft_status gr_encoder_embedding(gr_adapter *a, gr_tape *t, const gr_param *table, gr_var **x, graft_error *err);
graft_status gr_encoder_affine(gr_tape *t, const gr_param *w, const gr_param *b, gr_var **x, graft_error *err);
graft_status gr_encoder_activation(gr_tape *t, gr_activation f, gr_var **x, graft_error *err);

void gr_prompt_facts(const gr_adapter *a, gr_buf *b);

#endif
