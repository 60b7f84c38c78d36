/* Room 7, model: families of models over one interface. One family a file, one line in model.def.
 *
 * A model is its configuration, its weights (mapped, packed by the kernel room when first needed, never copied) and a
 * table of sites. It is constant once open: any number of passes, adapters and threads share it. Everything that
 * belongs to one forward and backward is a gr_pass. Tensors that are trained, or that an adapter brings along in place
 * of the model's, are a gr_variant beside the model. */
#ifndef GR_MODEL_H
#define GR_MODEL_H

#include "io/io.h"
#include "model/quantize.h"
#include "nn/nn.h"

typedef struct gr_model gr_model;

typedef struct gr_model_options {
    bool has_dtype; /* false: BF16 where the CPU multiplies it in hardware, else F32 */
    gr_dtype dtype; /* compute type: F32, BF16; F64 in tests of the portable kernels */
    /* false: the task that config.json names. Where a task is asked for, parts of its head that the files lack get initial
     * values from `seed`. */
    bool has_task;
    gr_task task;
    uint64_t seed;
    /* Of GR_TASK_SEQ_CLS; 0: as config.json says. `labels`: n_labels names, NULL: config.json's. */
    int n_labels;
    const char *const *labels;
    gr_problem problem;
    /* Tensors that an adapter brings along: where the files lack them, nothing is said of initial values. */
    const char *const *brought;
    size_t n_brought;
    gr_quantize_spec quantize; /* what the products' weights are turned into; embeddings, norms and head stay as they are */
    gr_activation_spec activations;
} gr_model_options;

/* `path`: a Hugging Face directory or a .gguf file. `options` may be NULL. Errors: an unknown family, a missing tensor
 * or one whose shape disagrees with the configuration (GRAFT_ERR_MISMATCH, naming file, tensor, expected, found). */
graft_status gr_model_open(graft_context *ctx, const char *path, const gr_model_options *options, gr_model **out,
                           graft_error *err);
void gr_model_close(gr_model *m);

graft_context *gr_model_context(const gr_model *m);
gr_device *gr_model_device(const gr_model *m);
const gr_model_config *gr_model_get_config(const gr_model *m);
const gr_weights *gr_model_weights(const gr_model *m);
const char *gr_model_path(const gr_model *m);
bool gr_model_is_integer(const gr_model *m);      /* any product is one of activations in 8 bits */
gr_dtype gr_model_dtype(const gr_model *m);       /* compute type, of activations and of KV rows */
gr_dtype gr_model_param_dtype(const gr_model *m); /* of parameters and gradients: F32, or F64 where dtype is F64 */
int64_t gr_model_kv_width(const gr_model *m);     /* elements of one K (or V) row of one layer */
int gr_model_kv_layers(const gr_model *m);        /* those with a history: all but an encoder's */

size_t gr_model_n_sites(const gr_model *m);
const gr_site *gr_model_site(const gr_model *m, size_t i);             /* in the order of the reference's modules */
const gr_site *gr_model_find_site(const gr_model *m, const char *name); /* NULL when absent */
/* The site of a tensor name, and whether it is its bias. NULL when absent. */
const gr_site *gr_model_site_of_tensor(const gr_model *m, const char *name, bool *bias);
const gr_site *gr_model_embedding_site(const gr_model *m);             /* of tokens */
const gr_site *gr_model_head_site(const gr_model *m);                  /* NULL: there is no head */
/* The product that a site is a part of; NULL: none (an embedding, a norm). */
const gr_linear *gr_model_linear(const gr_model *m, const gr_site *s);
bool gr_model_head_is_tied(const gr_model *m);
const gr_labels *gr_model_labels(const gr_model *m); /* of a classification; else n is 0 */
/* GRAFT_ERR_UNSUPPORTED unless the model continues texts; `what` needs that. */
graft_status gr_model_want_causal(const gr_model *m, const char *what, graft_error *err);
/* The Hub's name for what it does: "text-generation", "fill-mask", "text-classification", "feature-extraction". */
const char *gr_model_pipeline(const gr_model *m);
/* Whether the head was asked for instead of the one that config.json names. */
bool gr_model_has_asked_head(const gr_model *m);
/* Whether the files lack a tensor, so that it has initial values. */
bool gr_model_is_fresh(const gr_model *m, const char *tensor);
int64_t gr_model_n_params(const gr_model *m); /* elements of all tensors, tied ones once */

/* Packs now what passes will need (memory is then known and no step pays), and what that takes. `from`: the lowest
 * layer in or below which something is trained, 0 .. n_layers (the head only), GR_NO_BACKWARD for inference. Matrices that
 * variant `v` (NULL: none) replaces are left out of the model's and taken from it. */
enum { GR_NO_BACKWARD = 1 << 20 };
graft_status gr_model_prepare(gr_model *m, const gr_variant *v, int from, graft_error *err);
size_t gr_model_planned_bytes(const gr_model *m, const gr_variant *v, int from);
/* Of the device's workspace, for products of up to `rows` rows (gr_matrix_planned_workspace). */
graft_status gr_model_planned_workspace(const gr_model *m, const gr_variant *v, int64_t rows, size_t *bytes,
                                        graft_error *err);
size_t gr_model_owned_bytes(const gr_model *m); /* allocated now: packed matrices, norms */

/* --- Variants: tensors in place of the model's ---------------------------------------------------------------------- */

/* Copies the named tensors ("model.norm.weight"; in any order, no name twice; names borrowed) into F32 (F64) masters. A tied head
 * follows the embedding's copy, unless `untie`: then it stays on the model's own table and may be named itself.
 * `trainable`: with gradients. */
graft_status gr_variant_new(gr_model *m, const char *const *names, size_t n, bool untie, bool trainable, gr_variant **out,
                            graft_error *err);
void gr_variant_free(gr_variant *v);
size_t gr_variant_n_params(const gr_variant *v);
gr_param *gr_variant_param(const gr_variant *v, size_t i); /* in the order of `names` */
/* The copy of a tensor of the model, NULL: not replaced. Whether a head that is tied in the model is not in the variant. */
const gr_param *gr_variant_find(const gr_variant *v, const char *tensor);
bool gr_variant_unties(const gr_variant *v);
/* Bytes of masters and gradients. */
size_t gr_variant_bytes(const gr_variant *v);
/* All tensor names of the model, in the order of the sites, tied ones once. Borrowed from the model. */
size_t gr_model_n_tensors(const gr_model *m);
const char *gr_model_tensor_name(const gr_model *m, size_t i);
/* Decodes a tensor of the model into F32 in Hugging Face's layout: rows [row, row + n) of the first dimension. */
graft_status gr_model_read_tensor(const gr_model *m, const char *name, int64_t row, int64_t n, float *out,
                                  graft_error *err);
/* What the products' weights were turned into as the model was opened, whether this module's was, and what its file holds, as by
 * gr_model_read_outputs: (out, in). */
gr_quantize_spec gr_model_quantized(const gr_model *m);
bool gr_model_was_quantized(const gr_model *m, const gr_site *s);
graft_status gr_model_read_file_outputs(const gr_model *m, const gr_site *s, float *out, graft_error *err);
/* The same of a module's weight, rows along its output whichever way it is stored: (n, in). */
graft_status gr_model_read_outputs(const gr_model *m, const gr_site *s, int64_t row, int64_t n, float *out,
                                   graft_error *err);
/* Decodes rows [row, row + n) of a weight (the elements, where it has one dimension) into F32 in Hugging Face's order. */
graft_status gr_weight_decode(const gr_weight *w, int64_t row, int64_t n, float *out, graft_error *err);
/* How a tensor of the model is stored; of a tied head, the embedding. */
graft_status gr_model_get_weight(const gr_model *m, const char *name, const gr_weight **out, graft_error *err);
graft_status gr_model_tensor_shape(const gr_model *m, const char *name, gr_shape *out, graft_error *err);

/* --- Passes ----------------------------------------------------------------------------------------------------------- */

/* One forward, and maybe backward, over a batch. Keeps its memory for the next batch; belongs to one tape at a time. */
typedef struct gr_pass gr_pass;

typedef struct gr_pass_options {
    const gr_hooks *hooks; /* NULL: the bare model */
    bool recompute;        /* layers keep only their inputs and run again in the backward */
    bool recompute_cheap;  /* gr_pass_plan only: as in gr_tape_options */
    int first_layer;       /* > 0: layers below it are not run; `hidden` enters it instead */
    const void *hidden;    /* (n_tokens, hidden size) in the compute type, as gr_pass_trunk gave them */
} gr_pass_options;

/* Positions of the tokens of one sequence, or of a padded row, as the reference counts them; `first`: of the first token,
 * where pads do not count (roberta) of the first that is none. `has_virtual`: it begins with virtual tokens, and then pads
 * count too. */
void gr_model_fill_positions(const gr_model *m, const int32_t *ids, int64_t n, bool has_virtual, int32_t first, int32_t *out);
/* The token of a sequence (of a padded row) whose hidden state a classification head takes: the first one of an encoder, of a
 * decoder the last that is no pad, of an encoder-decoder the last end of text; -1: it has none. */
int64_t gr_model_pooled_token(const gr_model *m, const int32_t *ids, int64_t n, bool has_virtual);

graft_status gr_pass_new(gr_model *m, gr_pass **out, graft_error *err);
void gr_pass_free(gr_pass *p);

/* Hidden states after the final norm, (n_rows, hidden) in the compute type. `rows`: the tokens that are wanted,
 * ascending; NULL: all. Nothing is computed above the last layer's attention for others. The batch, hooks and rows must
 * live until the backward is done. */
graft_status gr_pass_hidden(gr_pass *p, gr_tape *t, const gr_batch *b, const gr_pass_options *o, const int32_t *rows,
                            int64_t n_rows, gr_var **out, graft_error *err);
/* What enters layer `layer`, (n_tokens, hidden size), to be given to passes over the same sequences as `hidden`. For layers
 * that train nothing and see no dropout below. */
graft_status gr_pass_trunk(gr_pass *p, gr_tape *t, const gr_batch *b, const gr_pass_options *o, int layer, gr_var **out,
                           graft_error *err);
/* Logits of the wanted tokens, (n_rows, vocab) F32 (F64). */
graft_status gr_pass_logits(gr_pass *p, gr_tape *t, const gr_batch *b, const gr_pass_options *o, const int32_t *rows,
                            int64_t n_rows, gr_var **out, graft_error *err);

/* Logits of rows begin .. begin+n-1 of hidden states that gr_pass_hidden of this pass gave last. */
graft_status gr_pass_head(gr_pass *p, gr_var *hidden, int64_t begin, int64_t n, gr_var **out, graft_error *err);

/* What the pooler of a bare encoder makes of these rows, (n_rows, hidden). */
graft_status gr_pass_pooled(gr_pass *p, gr_tape *t, const gr_batch *b, const gr_pass_options *o, const int32_t *rows,
                            int64_t n_rows, gr_var **out, graft_error *err);
bool gr_model_has_pooler(const gr_model *m);

typedef struct gr_loss {
    gr_var *var;           /* shape (1): sum of weight * loss over the labels, the root for gr_tape_backward */
    gr_var *logits;        /* of a classification, (n_rows, labels) F32 (F64); else NULL */
    double sum;            /* sum of the losses without weights, in row order */
    int64_t n_labels, n_correct; /* tokens (sequences) with a label, and those whose label has the largest logit; of several
                                    labels: where all are right */
    int64_t n_rows;        /* n_labels; of a classification all sequences; what follows is borrowed until the next use of the pass */
    const int32_t *rows;   /* the tokens with a label */
    const double *losses;  /* of each */
    const int32_t *correct;
} gr_loss;

/* Drops the two variables. */
void gr_loss_drop(gr_loss *l);

/* Cross-entropy of batch->labels through the fused head: no (tokens, vocab) matrix is held; or the loss of batch->targets. In
 * a dry tape the numbers are zero. No label at all is GRAFT_ERR_ARGUMENT. */
graft_status gr_pass_loss(gr_pass *p, gr_tape *t, const gr_batch *b, const gr_pass_options *o, gr_loss *out,
                          graft_error *err);
/* Bytes that the pass holds itself (position tables, row lists). */
size_t gr_pass_bytes(const gr_pass *p);

/* The same for gr_pass_trunk. */
graft_status gr_pass_plan_trunk(gr_pass *p, const gr_batch *b, const gr_pass_options *o, int layer, size_t *pool_bytes,
                                graft_error *err);
/* Exact peak of the step pool for a loss and its backward over this batch (ids are not looked at), from a dry run. */
graft_status gr_pass_plan(gr_pass *p, const gr_batch *b, const gr_pass_options *o, bool backward, size_t *pool_bytes,
                          graft_error *err);

#endif
