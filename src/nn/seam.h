/* Seams: the places of a model that adaptation methods may change, named by role, and the hooks through which they do.
 * Model code calls hooks at its seams and never names a method; a method implements some hooks and never names a model
 * family. So every method works on every family that has the role. */
#ifndef GR_NN_SEAM_H
#define GR_NN_SEAM_H

#include "graph/graph.h"
#include "nn/batch.h"

typedef enum gr_role {
    GR_ROLE_EMBED,
    GR_ROLE_Q,
    GR_ROLE_K,
    GR_ROLE_V,
    GR_ROLE_O,
    GR_ROLE_GATE,
    GR_ROLE_UP,
    GR_ROLE_DOWN,
    GR_ROLE_NORM,
    GR_ROLE_HEAD,
    GR_ROLE_QKV,   /* q, k and v in one module, in this order along the output */
    GR_ROLE_TABLE, /* rows looked up by something else than tokens: positions */
    GR_ROLE_DENSE, /* a product between the layers and the head */
    GR_ROLE_POSITION_BIAS, /* (buckets, heads), added to scores by relative position */
    GR_ROLE_COUNT
} gr_role;
/* "q", "gate", "embed", ... */
const char *gr_role_name(gr_role role);

/* A module of the model under its Hugging Face name. */
typedef struct gr_site {
    int index; /* in the model's list of sites */
    gr_role role;
    int layer;        /* -1 outside the layers */
    const char *name; /* "model.layers.0.self_attn.q_proj"; its tensors are NAME.weight and, maybe, NAME.bias */
    int64_t in, out;  /* weight is (out, in); (rows, size) for the embedding and tables; norms: in = out = size, weight (out) */
    bool bias;
    bool transposed;  /* the weight is (in, out), as gpt2 has it */
    bool below;       /* outside the layers, in front of them */
    bool encoder;     /* works on rows of the source */
    bool cross;       /* of an attention over the source: q and o work on rows of the target, k and v on the source's */
    const char *weight_tensor, *bias_tensor; /* names, whether there is one or not */
    int module, part; /* gr_modules: linears[module] (its part `part`), norms[module], tables[module],
                         position_bias[module]; -1: the embedding or the head */
} gr_site;

/* Whether the weight is rows that are looked up, (in, out). */
static inline bool gr_site_is_table(const gr_site *s) {
    return s->role == GR_ROLE_EMBED || s->role == GR_ROLE_TABLE || s->role == GR_ROLE_POSITION_BIAS;
}

/* A tensor that is trained: an F32 master copy (F64 where the model computes in F64) and its gradient, both of the same
 * shape, in memory that `owner` owns. */
typedef struct gr_param {
    const char *name; /* as it is saved */
    gr_shape shape;
    gr_dtype dtype;
    int64_t n;
    void *value, *grad; /* grad NULL: not trained */
    /* A tensor that several places of a pass use (embedding and head, a bias of all layers): the gradients of uses 1 to
     * n_uses - 1, n values each, are summed apart from use 0's, so that the order of additions does not depend on how a
     * batch is cut. NULL: all go into grad. */
    void *more_grads;
    int n_uses; /* 0 means 1 */
    gr_matrix *matrix;  /* told by gr_param_changed; NULL: none */
    bool mapped;        /* the value lies in a mapped file: it is only read */
    bool decay;         /* weight decay applies (matrices; not norms and biases) */
    double lr_factor;   /* on the learning rate; 0 means 1 */
} gr_param;
static inline int gr_param_uses(const gr_param *p) { return p->n_uses > 1 ? p->n_uses : 1; }
static inline void *gr_param_grad(const gr_param *p, int use) {
    if (!p->grad || !p->more_grads || use < 1) return p->grad;
    return (char *)p->more_grads + gr_dtype_bytes(p->dtype, (size_t)p->n) * (size_t)(use - 1);
}
static inline void gr_param_changed(const gr_param *p) {
    if (p->matrix) gr_matrix_changed(p->matrix);
}

/* Values from a stored tensor of the same shape, in any format that room quant decodes. */
graft_status gr_param_read(gr_param *p, const gr_tensor_view *v, graft_error *err);

/* One product y = x W^T + bias with up to four sites stacked along the output (q, k, v; gate, up). */
typedef struct gr_linear {
    int n_parts;
    const gr_site *site[GR_MATRIX_PARTS];
    int64_t offset[GR_MATRIX_PARTS + 1]; /* output columns of part i: offset[i] .. offset[i+1]-1 */
    int64_t in, out;
    gr_matrix *matrix;
    void *bias;                          /* out values, zeros for parts without; NULL: none */
    gr_param *weight[GR_MATRIX_PARTS];   /* NULL: frozen */
    gr_param *bias_param[GR_MATRIX_PARTS];
} gr_linear;

/* RMS norm, or LayerNorm where there is a bias. */
typedef struct gr_norm {
    const gr_site *site;
    int64_t size;
    void *weight, *bias;
    gr_param *param, *bias_param; /* NULL: frozen */
} gr_norm;

typedef struct gr_embedding {
    const gr_site *site;
    int64_t vocab, size;
    gr_matrix *matrix;
    gr_param *param; /* NULL: frozen */
    int32_t pad_id;  /* its look-ups train nothing; -1: none */
    int use;         /* of param's gradients, that of its look-ups; of rows of a source the next one */
} gr_embedding;

/* A table (buckets, heads) that attention adds by relative position (gr_position_bias). */
typedef struct gr_bias_table {
    const gr_site *site; /* NULL: none */
    void *weight;
    gr_param *param; /* NULL: frozen; each layer is a use of it */
} gr_bias_table;

/* All modules of a model; the head is a linear of its own, whose matrix is the embedding's where they are tied. */
typedef struct gr_modules {
    int n_linears, n_norms, n_tables;
    gr_linear *linears;
    gr_norm *norms;
    gr_embedding *tables; /* beside the embedding of tokens */
    gr_embedding embedding;
    gr_bias_table position_bias[2]; /* of encoder and decoder */
    gr_linear head;
    void *head_scale; /* constants, one a column of what enters the head; NULL: none */
} gr_modules;

typedef struct gr_variant gr_variant; /* model/model.h */
typedef struct gr_run gr_run;         /* nn/nn.h: the running pass: tape, batch, rows in flight */
typedef struct gr_nn_attention gr_nn_attention;

/* logits += u B^T in front of the bias, then on `rows` times the factor, as gr_op_cross_entropy_head has it; the receiver drops all
 * variables. */
typedef struct gr_head_update {
    gr_var *u, *b;  /* u (rows, r) in the compute type, b (vocab, r) a parameter */
    gr_var *factor; /* (vocab), a parameter; NULL: none */
    gr_head_rows rows;
} gr_head_update;

/* Hooks get `self` first. Where they replace a variable they take over the old reference and give a new one. Any may
 * be NULL. The rows of x and y are run->n_rows rows in run->bounds (not always all tokens of the batch: the last layer
 * is computed for wanted rows only). */
typedef struct gr_hooks {
    void *self;
    /* Index of a name, -1 unknown; number of adapters. */
    int (*find)(void *self, const char *name);
    int (*count)(void *self);
    /* Which adapter stands at an index: a number that no other one and no other values of it ever had; 0: none. What was
     * computed with one number is of no use with another. */
    int64_t (*identity)(void *self, int adapter);

    /* Linear delta (LoRA): *y (rows, linear->out) holds x W^T + bias; make it that plus the delta. */
    graft_status (*linear)(void *self, gr_run *run, const gr_linear *linear, gr_var *x, gr_var **y, graft_error *err);
    /* Rows of the embedding look-up, likewise (LoRA on embeddings, virtual input rows for negative ids). */
    graft_status (*embedding)(void *self, gr_run *run, const gr_embedding *e, gr_var **y, graft_error *err);
    /* Low-rank updates of the head, whose logits are never held whole: appends to out[*n] what x (the rows in flight)
     * needs, at most GR_HEAD_UPDATES in all. */
    graft_status (*head)(void *self, gr_run *run, const gr_linear *head, gr_var *x, gr_head_update *out, int *n,
                         graft_error *err);
    /* Activation scale (IA3): of the output of a product, or with `input` of its input. */
    graft_status (*scale)(void *self, gr_run *run, const gr_linear *linear, bool input, gr_var **y, graft_error *err);
    /* How many virtual input rows a sequence of this adapter begins with (the builders of batches put their ids -1, -2, ...
     * there), and how many key/value rows stand in front of it; its positions count from behind these. */
    int (*n_virtual)(void *self, int adapter);
    int (*n_prefix)(void *self, int adapter);
    /* Tasks that have virtual input rows of their own: those of task t are -1 - t * n_virtual and on. 0: none, all are alike. */
    int (*n_tasks)(void *self, int adapter);
    /* How many rows stand behind negative ids at all, and the template that says where in a record they stand (text/slots.h;
     * NULL: in front, as n_virtual has it). Either hook may be NULL: n_virtual, none. */
    int (*n_rows)(void *self, int adapter);
    const char *(*prompt_template)(void *self, int adapter);
    /* Key/value rows in front of sequences (prefix tuning): *k, *v (run->prefix_bounds[n_seqs], kv width). Called where
     * prefix_bounds is not NULL. */
    graft_status (*kv_rows)(void *self, gr_run *run, int layer, gr_var **k, gr_var **v, graft_error *err);
    /* Gated attention over extra rows (LLaMA-Adapter): how many rows sequences of this adapter see in it; and adds to *y (rows,
     * heads * head_dim) what q (columns from 0 on) attends to there, each adapter's rows times its gate. Called where
     * run->gated_bounds is not NULL. */
    int (*n_gated)(void *self, int adapter);
    graft_status (*gated)(void *self, gr_run *run, const gr_nn_attention *a, gr_var *q, gr_var **y, graft_error *err);
    /* The lowest layer of which something is trained by the batch's adapters: -1 for the embedding, a large number for
     * nothing at all. NULL: 0. */
    int (*lowest_layer)(void *self, const gr_batch *batch);
    /* Called first: the tensors that the batch's adapter brings in place of the model's (modules_to_save, full
     * fine-tuning), NULL for none. One variant serves a whole batch: adapters with and without, or with different ones,
     * in one batch are GRAFT_ERR_UNSUPPORTED. */
    graft_status (*variant)(void *self, const gr_batch *batch, const gr_variant **out, graft_error *err);
} gr_hooks;

/* Positions that an adapter's own rows take of each of its sequences. */
static inline int gr_hooks_ahead(const gr_hooks *h, int adapter) {
    const bool placed = h->prompt_template && h->prompt_template(h->self, adapter);
    return (placed ? h->n_rows : h->n_virtual)(h->self, adapter) + h->n_prefix(h->self, adapter);
}

#endif
