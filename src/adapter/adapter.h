/* Room 8, adapter: adaptation methods, one a file, one line in adapter.def; files as peft 0.21 writes and reads them.
 *
 * A gr_adapter_set holds any number of adapters of any methods over one model and gives the hooks through which passes
 * apply them; a batch says for each sequence which adapter it wants. An adapter's configuration is the text of its
 * adapter_config.json: absent keys have peft's defaults, unknown ones are refused when an adapter is made new. */
#ifndef GR_ADAPTER_H
#define GR_ADAPTER_H

#include "model/model.h"

typedef struct gr_adapter_set gr_adapter_set;

graft_status gr_adapter_set_new(gr_model *m, gr_adapter_set **out, graft_error *err);
void gr_adapter_set_free(gr_adapter_set *s);
gr_model *gr_adapter_set_model(const gr_adapter_set *s);
/* For gr_pass_options. Lives as long as the set. */
const gr_hooks *gr_adapter_set_hooks(gr_adapter_set *s);
int gr_adapter_set_count(const gr_adapter_set *s);                  /* slots, removed ones included */
int gr_adapter_set_find(const gr_adapter_set *s, const char *name); /* -1 when absent */
const char *gr_adapter_set_name(const gr_adapter_set *s, int index); /* NULL for a removed slot */

/* A fresh trainable adapter. `config`: JSON object as in adapter_config.json ({"peft_type": "LORA", "r": 8, ...}); the
 * pseudo method {"peft_type": "FULL", "target_modules": null | [...] | "regex"} trains the model's own tensors (all, or
 * those whose module names match). Initial values depend on seed and tensor names only. */
graft_status gr_adapter_set_create(gr_adapter_set *s, const char *name, const char *config, size_t config_len,
                                   uint64_t seed, int *index, graft_error *err);
/* Reads an adapter directory. `scale` multiplies its delta (1: as trained). `trainable`: gradients are allocated. */
graft_status gr_adapter_set_load(gr_adapter_set *s, const char *name, const char *dir, double scale, bool trainable,
                                 int *index, graft_error *err);
/* Values from a directory that this very adapter was saved in, with its state, exactly (no FULL). */
graft_status gr_adapter_reload(gr_adapter_set *s, int index, const char *dir, graft_error *err);
/* Frees the adapter; its index may be given to the next one. No pass may be using it. */
void gr_adapter_set_remove(gr_adapter_set *s, int index);

/* Multiplies the delta by another number from now on. GRAFT_ERR_UNSUPPORTED where the method has none, or where it is being
 * trained. */
graft_status gr_adapter_set_scale(gr_adapter_set *s, int index, double scale, graft_error *err);

/* combine.c: a new LoRA from several, as peft's add_weighted_adapter. `type`: NULL for "cat". */
typedef struct gr_combination {
    const char *type;  /* linear cat svd ties dare_linear dare_ties magnitude_prune */
    int64_t svd_rank;  /* 0: the largest of the adapters' */
    double density;    /* share of the values that ties, dare_* and magnitude_prune keep */
    bool frequency;    /* ties, dare_ties: the sign of the majority counts heads, not sums */
    uint64_t seed;     /* dare_*: which values are kept */
} gr_combination;
graft_status gr_adapter_combine(gr_adapter_set *s, const char *name, const int *indices, const double *weights, size_t n,
                                const gr_combination *how, int *index, graft_error *err);

/* The head that an adapter was trained below, before the model is open. */
typedef struct gr_adapter_head {
    bool classifies, fills; /* fills: a masked language model */
    int n_labels;     /* 0: the adapter has no classifier of its own */
    gr_labels labels; /* in the arena; n 0: unknown */
    gr_problem problem;
    const char **tensors; /* names in the model of what its files hold whole, among others; in the arena */
    size_t n_tensors;
} gr_adapter_head;
graft_status gr_adapter_find_head(const graft_allocator *a, const char *dir, gr_arena *arena, gr_adapter_head *out,
                                  graft_error *err);

/* Tensors of the adapter, in the order of the model's modules; name as in adapter_model.safetensors (FULL: the
 * model's tensor names). */
size_t gr_adapter_n_params(const gr_adapter_set *s, int index);
gr_param *gr_adapter_param(const gr_adapter_set *s, int index, size_t i);
int64_t gr_adapter_n_trainable(const gr_adapter_set *s, int index); /* elements of all of them */
/* The model's tensors that the adapter replaces (modules_to_save, FULL); NULL: none. For gr_model_prepare. */
const gr_variant *gr_adapter_variant(const gr_adapter_set *s, int index);
/* For gr_model_prepare: the lowest layer of which something is trained; GR_NO_BACKWARD when nothing is. */
int gr_adapter_lowest_layer(const gr_adapter_set *s, int index);
const char *gr_adapter_method_name(const gr_adapter_set *s, int index); /* "lora", "full" */
/* The configuration with every default filled in, as it is saved. Borrowed. */
const char *gr_adapter_config(const gr_adapter_set *s, int index);
size_t gr_adapter_bytes(const gr_adapter_set *s, int index); /* values and gradients */

/* Beside them, while it trains: see gr_param.more_grads. */
size_t gr_adapter_shared_bytes(const gr_adapter_set *s, int index);

/* What follows from the parameters (outputs of prompt encoders, for one) is made again from them: to be called after
 * they have changed and before the next pass. `training`: a backward follows; gr_adapter_collect, after the backward of
 * all passes of the step, adds to the parameters' gradients what came to it and to their further uses. `key` is that of
 * dropout within, 0: none. Making, loading and saving an adapter refresh it without training. */
graft_status gr_adapter_refresh(gr_adapter_set *s, int index, uint64_t key, bool training, graft_error *err);
graft_status gr_adapter_collect(gr_adapter_set *s, int index, graft_error *err);
/* Around the steps of a run of n_steps, for methods that change with them: in front of the first one; and behind the optimiser's
 * step number `step`, from 0 on, with the gradients still there, which it took times `clip`. */
graft_status gr_adapter_begin_run(gr_adapter_set *s, int index, int64_t n_steps, graft_error *err);
graft_status gr_adapter_stepped(gr_adapter_set *s, int index, int64_t step, double clip, graft_error *err);
/* What the method adds to the mean loss of a step; its gradient is collected with the others. */
double gr_adapter_penalty(const gr_adapter_set *s, int index);
/* Virtual input rows that each of its sequences begins with (ids -1, -2, ...). */
int gr_adapter_n_virtual(const gr_adapter_set *s, int index);
int gr_adapter_n_tasks(const gr_adapter_set *s, int index); /* see gr_hooks.n_tasks */
/* Where in a record its pseudo-tokens stand (text/slots.h); NULL: in front. Borrowed. */
const char *gr_adapter_prompt_template(const gr_adapter_set *s, int index);
struct gr_slots;
const struct gr_slots *gr_adapter_slots(const gr_adapter_set *s, int index); /* the same, parsed */

/* Writes the directory: adapter_config.json, adapter_model.safetensors, README.md; for FULL a Hugging Face model
 * directory with all tensors in `dtype`. Files appear one by one, each whole. */
graft_status gr_adapter_save(const gr_adapter_set *s, int index, const char *dir, gr_dtype dtype, graft_error *err);

/* What a trained adapter needs beside that, to go on in gr_adapter_reload as if it had not stopped; most need nothing. */
graft_status gr_adapter_save_state(const gr_adapter_set *s, int index, const char *dir, graft_error *err);

/* Writes a Hugging Face directory whose weights are the base's with the adapter merged in (W + scale B A, summed in
 * float), stored in `dtype`, in shards of 5 GB, with configuration and tokenizer files beside. index -1: the bare base
 * (conversion). */
graft_status gr_adapter_merge(const gr_adapter_set *s, int index, const char *dir, gr_dtype dtype, graft_error *err);

#endif
