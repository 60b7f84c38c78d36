/* Models: loading, facts, one forward pass on given tensors, merging. */
#ifndef GRAFT_MODEL_H
#define GRAFT_MODEL_H

#include <stddef.h>
#include <stdint.h>
#include "graft/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct graft_model graft_model;

typedef enum graft_dtype {
    GRAFT_DTYPE_AUTO, /* bf16 where the CPU multiplies it in hardware, else f32 */
    GRAFT_DTYPE_F32,
    GRAFT_DTYPE_BF16,
    GRAFT_DTYPE_F16 /* for files only */
} graft_dtype;

typedef struct graft_calibration graft_calibration; /* graft/calibrate.h */

/* Weights of products in int8 with one scale an output, activations in int8 too, as compressed-tensors keeps them
 * (docs/quantisation.md). */
typedef struct graft_w8a8 {
    const graft_calibration
        *calibration; /* scales of activations; NULL: each row of them has its own, made on the fly */
    /* Modules that stay as they are, named in full, by the last parts of their names, or by "re:EXPRESSION", which a
     * name begins with. The head always does. */
    const char *const *ignore;
    size_t n_ignore;
} graft_w8a8;

/* Zero-initialise for the defaults. */
typedef struct graft_model_options {
    graft_dtype dtype; /* of the computation */
    /* Quantise the weights of all products but the head while loading, to bitsandbytes' formats. At most one of the two. */
    int load_in_4bit, load_in_8bit;
    const char *bnb_4bit_quant_type; /* "nf4" (NULL) or "fp4" */
    int bnb_4bit_use_double_quant;
    int bnb_4bit_blocksize; /* elements that share a scale: 32, 64 (0), 128 .. 4096 */
    const graft_w8a8
        *w8a8; /* in place of these: the same in int8, for weights that are in floats or block formats; NULL: no */
    /* What activations of products are computed in: "float", the compute type, or "int8": made on the fly where the
     * weights are in int8 or in a block format of GGUF, with sums of integers (docs/quantisation.md). NULL: int8
     * where the model is one of compressed-tensors that says so, else float. Of weights in bitsandbytes' int8
     * elements of at least llm_int8_threshold are left out: 0: as quantization_config says, 6 where it says nothing;
     * negative: none. */
    const char *activations;
    double llm_int8_threshold;
    /* What stands on top, by peft's names: "CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION", and "MASKED_LM". NULL: what config.json's
     * architectures name, or what the adapter needs. Parts of a head that the files lack begin with initial values. */
    const char *task_type;
    const char *adapter_dir; /* an adapter that is about to be loaded: whether it classifies, and by which labels; NULL: none */
    /* Of SEQ_CLS: the labels; 0 and NULL: those of config.json, or of the adapter. */
    size_t n_labels;
    const char *const *labels;
    uint64_t seed; /* of initial values */
} graft_model_options;

/* `path`: a Hugging Face directory (config.json, *.safetensors) or a .gguf file. Weights are mapped, not read. `options`
 * may be NULL. The context must outlive the model. A model keeps adapters (graft/adapter.h); calls on one model must
 * not overlap unless a function says that they may. */
graft_status graft_model_load(graft_context *ctx, const char *path, const graft_model_options *options,
                              graft_model **out, graft_error *err);
void graft_model_free(graft_model *m);

const char *graft_model_task_type(const graft_model *m); /* as above */
size_t graft_model_n_labels(const graft_model *m);       /* 0: no classification */
const char *graft_model_label(const graft_model *m, size_t i); /* NULL when i is too large */
int64_t graft_model_vocab_size(const graft_model *m);
int64_t graft_model_n_params(const graft_model *m);
int64_t graft_model_max_length(const graft_model *m); /* max_position_embeddings */
const char *graft_model_path(const graft_model *m);   /* borrowed */

/* Facts about a model and, where adapter_dir is not NULL, an adapter, as a JSON object (freed with graft_free): type,
 * sizes, parameters, formats of the tensors, position embedding; the adapter's method, rank and targets. Reads no weights. */
graft_status graft_model_info(graft_context *ctx, const char *path, const char *adapter_dir, char **json,
                              graft_error *err);

typedef struct graft_forward_options {
    const char *input, *output; /* safetensors files, see below */
    const char *adapter;        /* name of an adapter of the model, NULL: none, or the only one */
    int backward;               /* gradients of the adapter's tensors; without an adapter: of all the model's tensors */
} graft_forward_options;

/* One pass on given tensors, to check a port against its reference. Input: input_ids (B,T) int64; optional
 * attention_mask (B,T), labels (B,T, -100 where ignored), position_ids (B,T). Output in float32: logits (B,T,V), loss
 * (1) where there are labels (mean over the labels, shifted by one, as transformers has it), grad.NAME for each
 * trainable tensor, NAME as it is stored (of a prompt encoder: prompt_encoder.NAME). An adapter's virtual tokens stand in front
 * of T in the logits. Logits at masked tokens are zero. */
graft_status graft_forward(graft_model *m, const graft_forward_options *options, graft_error *err);

/* Writes a Hugging Face directory with the adapter (NULL: none, or the only one) merged into the base's weights, stored
 * as `dtype` (AUTO: as the base has them; GGUF block formats become f16). */
graft_status graft_model_merge(graft_model *m, const char *adapter, const char *dir, graft_dtype dtype, graft_error *err);

#ifdef __cplusplus
}
#endif
#endif
