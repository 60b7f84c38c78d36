/* What a family of models implements, and what it builds on. Inside room model only. */
#ifndef GR_MODEL_FAMILY_H
#define GR_MODEL_FAMILY_H

#include "model/model.h"

/* --- Building: a family declares its modules, the model finds their tensors ------------------------------------------ */

typedef struct gr_part {
    gr_role role;
    const char *name; /* within the layer, or in full outside layers */
    int64_t out;
    bool bias; /* required when set; without it a bias in the file is an error */
    bool transposed; /* Hugging Face's weight is (in, out) */
} gr_part;

/* Adds a product of 1 to 4 parts over `in` inputs, the next of gr_modules.linears. layer -1: outside the layers. */
graft_status gr_build_linear(gr_model *m, int layer, int64_t in, const gr_part *parts, int n_parts, graft_error *err);
graft_status gr_build_norm(gr_model *m, int layer, const char *name, int64_t size, graft_error *err);
/* The same with a bias beside the weight: LayerNorm. */
graft_status gr_build_layernorm(gr_model *m, int layer, const char *name, int64_t size, graft_error *err);
graft_status gr_build_embedding(gr_model *m, const char *name, int64_t vocab, int64_t size, graft_error *err);
/* The next of gr_modules.tables: rows that are looked up by position, or by something else that is no token. */
graft_status gr_build_table(gr_model *m, const char *name, int64_t rows, int64_t size, graft_error *err);
/* The encoder's or the decoder's of gr_modules.position_bias, by the layer. */
graft_status gr_build_position_bias(gr_model *m, int layer, const char *name, int64_t buckets, int64_t heads,
                                    graft_error *err);
/* n parameters of one value, which no file holds. */
graft_status gr_build_constants(gr_model *m, int64_t n, double value, void **out, graft_error *err);
/* `tied`: the head has the embedding's matrix, unless the file holds a head of other values. */
graft_status gr_build_head(gr_model *m, const char *name, int64_t in, int64_t vocab, bool tied, graft_error *err);
/* A bias of the head, by the name of its tensor; `other` (NULL: none): what files may call it. */
graft_status gr_build_head_bias(gr_model *m, const char *tensor, const char *other, graft_error *err);
/* A head over the labels of a classification. */
graft_status gr_build_classifier(gr_model *m, const char *name, int64_t in, bool bias, graft_error *err);
/* What a decoder has on top: the language model's head by this name, or "score" over the labels. */
graft_status gr_build_top(gr_model *m, const char *name, graft_error *err);
/* fresh.c: a tensor that the files lack. */
graft_status gr_model_make_weight(gr_model *m, const char *name, const gr_shape *shape, graft_error *err);

/* --- Running ------------------------------------------------------------------------------------------------------------ */

typedef struct gr_family {
    const char *name;
    const char *layers; /* names of modules within layer l begin with LAYERS.l. */
    /* The same in an encoder, whose layers are the first; those of `layers` count from 0 again. */
    const char *encoder_layers;
    /* What files of the bare base model leave out in front of names ("transformer."); NULL: nothing. */
    const char *prefix;
    /* Last parts of names of tensors that are not read (constants, other heads), first parts with a * behind them; ended by
     * NULL; NULL: none. */
    const char *const *ignored;
    bool padding_idx; /* the pad that config.json names trains nothing in the table of tokens */
    uint32_t tasks;   /* bit GR_TASK_...: the heads that it has */
    bool (*handles)(gr_model_type type);
    /* Layer l's modules are to follow those of layer l-1. */
    graft_status (*build)(gr_model *m, const gr_model_config *c, graft_error *err);
    /* What enters the first layer. NULL: the rows of the token embedding. */
    graft_status (*enter)(gr_pass *p, gr_var **out, graft_error *err);
    /* One layer: all rows in, all or only the wanted rows out (see gr_pass_run). x stays the caller's. */
    graft_status (*layer)(gr_pass *p, int layer, gr_var *x, gr_var **out, graft_error *err);
    /* What stands between the last layer and the head. x stays the caller's. */
    graft_status (*finish)(gr_pass *p, gr_var *x, gr_var **out, graft_error *err);
    /* Of an encoder: what enters its first layer, and what stands between its last one and the decoder. */
    graft_status (*enter_source)(gr_pass *p, gr_var **out, graft_error *err);
    graft_status (*finish_source)(gr_pass *p, gr_var *x, gr_var **out, graft_error *err);
} gr_family;

#define X(name) extern const gr_family gr_family_##name;
#include "model/model.def"
#undef X

/* Maps of growing size; the last one counts, what was taken of the others stays valid. */
typedef struct gr_region {
    void *data[48];
    size_t size[48];
    int n;
} gr_region;

/* shape.c */
graft_status gr_shape_weight(gr_model *m, const char *name, const gr_shape *shape, graft_error *err);
graft_status gr_shape_quantize(gr_model *m, const gr_weight *w, bool transposed, graft_error *err);
void gr_shape_free(gr_model *m);

struct gr_model {
    graft_context *ctx;
    gr_device *dev;
    const graft_allocator *a;
    gr_model_config config;
    gr_weights *weights;
    const gr_family *family;
    const char *layers, *encoder_layers; /* the family's, unless its build says otherwise */
    gr_labels labels;   /* of a classification, in `names` */
    gr_weight *fresh;   /* what the files lack; see gr_model_options.task. Of a shape all tensors */
    size_t n_fresh, cap_fresh;
    bool is_shape; /* see shape.h */
    gr_region zeros, scratch;
    size_t shape_mapped, shape_made;
    gr_products products; /* as they came */
    uint64_t seed;
    bool make_head, may_make; /* parts of the head may be made; the part that is being built may */
    bool has_layers;
    gr_dtype dtype, param_dtype;
    gr_quantize_spec quantize;
    gr_activation_spec activations;
    gr_modules modules; /* norms and fused biases are owned, see `vectors` */
    gr_site **sites;    /* in `names` */
    size_t n_sites, cap_sites;
    const char **tensors; /* names, in the sites' order */
    size_t n_tensors, cap_tensors;
    gr_map site_of_name;   /* module name to site index */
    gr_map site_of_tensor; /* tensor name to site index */
    gr_arena names;
    void **vectors; /* norm weights and fused biases, aligned */
    size_t n_vectors, cap_vectors, vector_bytes;
    gr_matrix **matrices; /* all of them */
    size_t n_matrices, cap_matrices, cap_linears, cap_norms, cap_tables;
    const gr_weight *embedding_weight;
    bool head_tied;
    float *freq_factors; /* rope_freqs of a GGUF file, NULL: none */
    int64_t n_params;
};

/* Rows along the output; `transposed`: Hugging Face's matrix is (in, out). */
graft_status gr_weight_decode_outputs(const gr_weight *w, bool transposed, int64_t row, int64_t n, float *out,
                                      graft_error *err);
/* The same of all of it into `dt`, F32 or F64. */
graft_status gr_weight_decode_all(const graft_allocator *a, const gr_weight *w, gr_dtype dt, void *out, graft_error *err);
/* Of Hugging Face's matrix, whichever way it is stored. */
static inline gr_shape gr_weight_shape(const gr_weight *w) {
    gr_shape s = w->view.shape;
    return w->turned && s.n == 2 ? gr_shape2(s.d[1], s.d[0]) : s;
}
/* A weight of the files by the model's name for it; see gr_family.prefix. */
graft_status gr_model_file_weight(const gr_model *m, const char *name, const gr_shape *shape, const gr_weight **out,
                                  graft_error *err);
/* Whether the files have it. */
bool gr_model_has_weight(const gr_model *m, const char *name);

/* The activation function of a configuration. */
gr_activation gr_act_of(gr_hidden_act act);

/* The rows in flight of a pass. */
const gr_model *gr_pass_model(const gr_pass *p);
const gr_modules *gr_pass_modules(const gr_pass *p);
gr_run *gr_pass_run_all(gr_pass *p);    /* every token */
gr_run *gr_pass_run_wanted(gr_pass *p); /* the wanted rows; the same where all are wanted */
const int32_t *gr_pass_positions(const gr_pass *p); /* of every token */
/* A table of positions ends: every token's must be below n. */
graft_status gr_pass_check_positions(const gr_pass *p, int64_t n, graft_error *err);
/* Token type of every token, 0 where the batch says nothing. */
graft_status gr_pass_token_types(gr_pass *p, const int32_t **out, graft_error *err);
/* Switches the tape to the row groups of a run. */
void gr_pass_use(gr_pass *p, gr_run *run);
/* Keeps the wanted rows of *x, whose reference is taken over; a copy of nothing where all are wanted. */
graft_status gr_pass_gather(gr_pass *p, gr_var **x, graft_error *err);
/* Fills what attention needs to know of the batch: seqs, cos_sin (NULL for a layer without). */
void gr_pass_attention(gr_pass *p, int layer, gr_nn_attention *a);
/* The source's side: its rows, the encoder's output (NULL: there are no rows), and the same for attention among them,
 * and of `run`'s rows (all or wanted; wanted in the last layer only) over them; `layer`: of the decoder. */
gr_run *gr_pass_run_source(gr_pass *p);
gr_var *gr_pass_encoded(gr_pass *p);
void gr_pass_source_attention(gr_pass *p, gr_nn_attention *a);
void gr_pass_cross_attention(gr_pass *p, const gr_run *run, int layer, gr_nn_attention *a);

/* A layer of the pre-norm kind: y = x + attend(x), y + feed_forward(y), the last layer's from `attend` on for wanted rows
 * only (attend gathers them itself). For gr_family.layer. */
typedef graft_status (*gr_attend_fn)(gr_pass *p, int layer, gr_var *x, gr_var **out, graft_error *err);
typedef graft_status (*gr_feed_forward_fn)(gr_pass *p, gr_run *run, int layer, gr_var *x, gr_var **out, graft_error *err);
graft_status gr_pass_residual_layer(gr_pass *p, int layer, gr_var *x, gr_attend_fn attend, gr_feed_forward_fn feed_forward,
                                    gr_var **out, graft_error *err);

/* gr_modules with the variant's tensors in place. */
const gr_modules *gr_variant_modules(const gr_variant *v);

#endif
