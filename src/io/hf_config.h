/* Configuration of a model, from config.json or from GGUF metadata, in one neutral struct.
 *
 * Every value is checked (range, divisibility, agreement) and an error names the file, the key, what was expected and
 * what was found. Defaults of absent keys are those of transformers 5.23. Model types that graft does not know are
 * refused by name. */
#ifndef GR_IO_HF_CONFIG_H
#define GR_IO_HF_CONFIG_H

#include "io/weights.h"

/* The model types (config.json's model_type) that are understood; the value of gr_model_config.type. */
typedef enum gr_model_type {
#define X(name, ...) GR_MODEL_##name,
#include "io/model_type.def"
#undef X
    GR_MODEL_TYPE_COUNT
} gr_model_type;
const char *gr_model_type_name(gr_model_type type);

typedef enum gr_rope_type {
    GR_ROPE_DEFAULT,
    GR_ROPE_LINEAR,
    GR_ROPE_DYNAMIC,
    GR_ROPE_LLAMA3,
    GR_ROPE_YARN,
    GR_ROPE_NONE /* positions enter the model in another way */
} gr_rope_type;
const char *gr_rope_type_name(gr_rope_type type);

/* Parameters of rotary position embedding, named as transformers names them (modeling_rope_utils). Fields that a type
 * does not use are 0. */
typedef struct gr_rope_config {
    gr_rope_type type;
    double theta;
    double factor;                            /* all but default; >= 1 */
    double low_freq_factor, high_freq_factor; /* llama3 */
    int64_t original_max_position_embeddings; /* llama3, yarn, dynamic */
    double attention_factor;                  /* yarn; 0: derived from factor and mscale* */
    double beta_fast, beta_slow;              /* yarn */
    double mscale, mscale_all_dim;            /* yarn; 0: absent */
    bool truncate;                            /* yarn: correction range rounded to whole dimensions */
    /* GGUF only, and only where the file's rope_freqs.weight is not what llama3 scaling gives (that is turned into type
     * LLAMA3): inverse frequency i, scaled as `type` says, is divided by element i of that tensor (head_dim/2 floats).
     */
    bool freq_factors;
} gr_rope_config;

/* GELU_TANH: transformers' gelu_new, gelu_fast and gelu_pytorch_tanh, which are one function. */
typedef enum gr_hidden_act { GR_ACT_SILU, GR_ACT_GELU, GR_ACT_GELU_TANH, GR_ACT_RELU, GR_ACT_TANH } gr_hidden_act;
const char *gr_hidden_act_name(gr_hidden_act act);

/* What stands on top of the layers, by the class in `architectures` or as it is asked for. */
typedef enum gr_task {
    GR_TASK_CAUSAL_LM,
    GR_TASK_SEQ_2_SEQ_LM,
    GR_TASK_MASKED_LM,
    GR_TASK_SEQ_CLS, /* classes or numbers of a whole sequence */
    GR_TASK_FEATURES, /* hidden states */
    GR_TASK_UNKNOWN   /* architectures names a head that is none of these */
} gr_task;
graft_status gr_task_find(const char *name, gr_task *out, graft_error *err); /* in any case of letters */
const char *gr_task_name(gr_task task); /* peft's: "CAUSAL_LM", ...; "MASKED_LM", which peft has no name for */

/* Of GR_TASK_SEQ_CLS; AUTO: regression with one label, else by the records. */
struct gr_model_config;
typedef enum gr_problem { GR_PROBLEM_AUTO, GR_PROBLEM_SINGLE, GR_PROBLEM_MULTI, GR_PROBLEM_REGRESSION } gr_problem;
/* As a classification's labels say where its configuration says nothing: numbers, or a class. */
gr_problem gr_problem_of(const struct gr_model_config *config, bool numbers);
const char *gr_problem_name(gr_problem problem); /* "single_label_classification", ...; AUTO: NULL */

enum { GR_MAX_LABELS = 65536 };
enum { GR_MAX_EOS = 16, GR_MAX_LAYERS = 1024, GR_MAX_HEAD_DIM = 4096 };

#define GR_INT8_THRESHOLD 6.0 /* transformers' */

/* What compressed-tensors says of a model: nothing; weights in CHANNEL8 and activations as they are computed; these
 * in 8 bits too, with a scale that each module brings along, or with one a row. */
typedef enum gr_compressed {
    GR_COMPRESSED_NONE,
    GR_COMPRESSED_FLOAT,
    GR_COMPRESSED_STATIC,
    GR_COMPRESSED_DYNAMIC
} gr_compressed;

typedef struct gr_model_config {
    gr_model_type type;
    int64_t vocab_size, hidden_size, intermediate_size;
    int n_layers, n_heads, n_kv_heads, head_dim;
    int n_encoder_layers; /* of n_layers, those of an encoder whose output the others read; 0: the model is not of two
                             parts */
    double rms_norm_eps; /* epsilon of the norms, whichever kind they are */
    gr_hidden_act hidden_act;
    gr_rope_config rope;
    int64_t max_position_embeddings;
    /* Attention sees the last `sliding_window` positions (itself included) in layers where layer_sliding is set; 0:
     * none. */
    int64_t sliding_window;
    bool layer_sliding[GR_MAX_LAYERS];
    bool qkv_bias, o_bias, mlp_bias; /* biases of q/k/v, of o, of gate/up/down */
    bool qk_norm;                    /* RMS norm of each q and k head before RoPE (qwen3) */
    bool tie_word_embeddings;
    double attention_dropout, initializer_range;
    double embedding_dropout, hidden_dropout; /* of what enters the layers; of what each part of a layer adds */
    bool gated_act;                           /* t5: f(gate) * up */
    bool scale_decoder_outputs;               /* t5: by 1 / sqrt(hidden_size) in front of the head */
    int relative_buckets, relative_max_distance; /* t5: the bias by relative position */
    int64_t decoder_start_token_id;           /* models with an encoder: what every target begins with */
    bool scale_attention, scale_attention_by_layer; /* gpt2: by 1 / sqrt(head_dim); also by 1 / (layer + 1) */
    gr_task task;
    int n_labels; /* of GR_TASK_SEQ_CLS */
    gr_problem problem;
    double classifier_dropout;
    int64_t type_vocab_size;  /* bert, roberta: token types; else 0 */
    bool positions_after_pad; /* roberta: tokens that are no pads count from pad_token_id + 1, pads have its position */
    bool bidirectional;       /* a token sees all of its sequence */
    int64_t bos_token_id, pad_token_id; /* -1: none */
    int n_eos;
    int64_t eos_token_ids[GR_MAX_EOS];
    double int8_threshold; /* quantization_config's llm_int8_threshold; GR_INT8_THRESHOLD where it says nothing */
    gr_compressed compressed;
    gr_dtype dtype; /* of the stored weights as config.json says; F32 when it says nothing, F16 for GGUF */
    bool layer_rope[GR_MAX_LAYERS]; /* false: the layer has no position embedding (smollm3) */
} gr_model_config;

/* Tokens that a sequence of an encoder may have, for which a table says where they stand; 0: any number. */
static inline int64_t gr_config_places(const gr_model_config *c) {
    int64_t n = c->max_position_embeddings - (c->positions_after_pad ? c->pad_token_id + 1 : 0);
    return c->bidirectional && n > 0 ? n : 0;
}


/* `dir`/config.json, or a .gguf path's metadata, or the config.json beside a safetensors file. */
graft_status gr_model_config_load(const graft_allocator *a, const char *path, gr_model_config *out, graft_error *err);
/* The configuration that belongs to opened weights: the GGUF file's metadata, or config.json beside the safetensors. */
graft_status gr_model_config_of(const graft_allocator *a, const gr_weights *w, gr_model_config *out, graft_error *err);
/* Parts of the above. `name` stands in errors. */
graft_status gr_model_config_from_json(const graft_allocator *a, const char *name, const char *text, size_t len,
                                       gr_model_config *out, graft_error *err);
graft_status gr_model_config_from_gguf(const gr_gguf *g, gr_model_config *out, graft_error *err);

/* Names of the classes, as id2label has them; LABEL_i where it names none. */
typedef struct gr_labels {
    int n;
    const char **names;
} gr_labels;
/* Of a classifier's config.json; GGUF metadata names none. Everything lies in the arena. */
graft_status gr_labels_load(const graft_allocator *a, gr_arena *arena, const gr_weights *w, const gr_model_config *config,
                            gr_labels *out, graft_error *err);
graft_status gr_labels_from_json(gr_arena *arena, const char *name, const char *text, size_t len, int n_labels,
                                 gr_labels *out, graft_error *err);

/* transformers' class: "BertForMaskedLM". Returns out. */
const char *gr_model_architecture(const gr_model_config *config, char *out, size_t size);

/* config.json text that transformers loads as the same model (freed with gr_free). Weights are named `dtype`. */
graft_status gr_model_config_to_json(const graft_allocator *a, const gr_model_config *config, gr_dtype dtype,
                                     char **out, graft_error *err);
/* Values of top-level keys, as JSON: at most 8. */
typedef struct gr_config_edit {
    const char *key, *json;
} gr_config_edit;
/* The text with these values in place, or added behind; all else to the letter. */
graft_status gr_model_config_edit_keys(const graft_allocator *a, const char *name, const char *text, size_t len,
                                       const gr_config_edit *edits, size_t n, char **out, graft_error *err);
/* A model's own config.json, to the letter but for the type of the weights, whether the head is tied, and
 * quantization_config: the given JSON text, NULL: none. */
graft_status gr_model_config_edit(const graft_allocator *a, const char *name, const char *text, size_t len, gr_dtype dtype,
                                  bool tied, const char *quantization, char **out, graft_error *err);

/* Divisors of the inverse frequencies that llama3 scaling amounts to (what GGUF converters store as rope_freqs.weight):
 * out[head_dim / 2]. */
void gr_llama3_divisors(const gr_rope_config *rope, int head_dim, double *out);

/* What generation_config.json (or GGUF metadata) suggests for sampling. */
typedef struct gr_generation_config {
    bool do_sample;
    double temperature, top_p, min_p, repetition_penalty; /* 1, 1, 0, 1 where absent */
    int64_t top_k;                                        /* 50 where absent */
    int64_t bos_token_id, pad_token_id;                   /* -1: none */
    int n_eos;
    int64_t eos_token_ids[GR_MAX_EOS];
} gr_generation_config;

/* `dir`/generation_config.json; absent: defaults with the ids of `config`. */
graft_status gr_generation_config_load(const graft_allocator *a, const char *dir, const gr_model_config *config,
                                       gr_generation_config *out, graft_error *err);
graft_status gr_generation_config_to_json(const graft_allocator *a, const gr_generation_config *config, char **out,
                                          graft_error *err);

#endif
