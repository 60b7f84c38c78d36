/* What an adaptation method implements. Inside room adapter only. */
#ifndef GR_ADAPTER_METHOD_H
#define GR_ADAPTER_METHOD_H

#include "adapter/adapter.h"
#include "base/json.h"
#include "graft/model.h"
#include "io/safetensors.h"

typedef struct gr_adapter gr_adapter;

/* Where a tensor is stored: in peft's file; there too, but it follows from the encoder's parameters and is not read where
 * these are; in the encoder's own file, which is read and written where the adapter is trained; in a checkpoint's file of what
 * training goes on with beside the parameters. A parameter that stands in the latter too is taken from there. */
typedef enum gr_stored_file { GR_FILE_ADAPTER, GR_FILE_DERIVED, GR_FILE_ENCODER, GR_FILE_STATE } gr_stored_file;
#define GR_ENCODER_FILE "prompt_encoder.safetensors"
#define GR_STATE_FILE "adapter_state.safetensors"
#define GR_TEMPLATE_FILE "prompt_template.json"
#define GR_ENCODER_PREFIX "prompt_encoder." /* of parameters, before the name that the file has */

/* A tensor of the adapter's file and where its values live. Two names may share one parameter (tied copies). */
typedef struct gr_stored {
    const char *name;
    gr_param *param;
    gr_stored_file file;
} gr_stored;

typedef struct gr_adapter_method {
    const char *name;      /* as the command line has it */
    const char *peft_type; /* as adapter_config.json has it */
    bool ours; /* peft has no such method */
    size_t state_size;
    /* Reads the configuration, finds its modules, makes and initialises the parameters (gr_adapter_add). `fresh`: a new
     * adapter, unknown keys are errors; else one that is being loaded. */
    graft_status (*create)(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err);
    void (*free)(gr_adapter *a);
    /* The configuration as peft writes it. */
    void (*write_config)(const gr_adapter *a, gr_buf *b);
    /* Adds the delta of rows [row, row + n) of the site's weight to w (n rows, F32, HF layout). NULL: there is none. */
    graft_status (*merge)(const gr_adapter *a, const gr_site *site, int64_t row, int64_t n, float *w, graft_error *err);
    /* The same for elements [row, row + n) of the site's bias. NULL: there is none. */
    graft_status (*merge_bias)(const gr_adapter *a, const gr_site *site, int64_t row, int64_t n, float *b, graft_error *err);
    /* Whether a tied head is no longer the embedding once the delta is merged. NULL: no. */
    bool (*unties)(const gr_adapter *a);
    /* Facts for gr_adapter_info: members of a JSON object, each ended by a comma. */
    void (*facts)(const gr_adapter *a, gr_buf *b);

    /* Hooks for the rows of this adapter; see gr_hooks. NULL: not used. */
    graft_status (*linear)(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_linear *l, gr_var *x,
                           gr_var **y, graft_error *err);
    /* What is not trained: made ready for `update` once its values are there. update: scales and factors (NULL: none
     * here) of a product, in place of `linear` in passes without a backward; false: `linear` does it. Both NULL: never. */
    graft_status (*freeze)(gr_adapter *a, graft_error *err);
    bool (*update)(const gr_adapter *a, const gr_linear *l, gr_low_rank_use *use);
    graft_status (*embedding)(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_embedding *e, gr_var **y,
                              graft_error *err);
    graft_status (*head)(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_linear *head, gr_var *x,
                         gr_head_update *out, int *n, graft_error *err);
    graft_status (*scale)(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_linear *l, bool input, gr_var **y,
                          graft_error *err);

    graft_status (*kv_rows)(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, int layer, gr_var **k, gr_var **v,
                            graft_error *err);

    /* Rows that the gated attention of a layer sees (*k and *v may hold others' already), and *y += gate * u on the adapter's
     * rows; both do nothing in a layer that the adapter leaves alone. */
    graft_status (*gated_rows)(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, int layer, gr_var **k, gr_var **v,
                               graft_error *err);
    graft_status (*gate)(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, int layer, gr_var *u, gr_var **y,
                         graft_error *err);

    /* See gr_adapter_refresh and gr_adapter_collect. NULL: nothing follows from the parameters. */
    graft_status (*refresh)(gr_adapter *a, uint64_t key, bool training, graft_error *err);
    graft_status (*collect)(gr_adapter *a, graft_error *err);
    /* a->scale has changed. NULL: it cannot. */
    graft_status (*rescale)(gr_adapter *a, graft_error *err);
    /* A tensor of peft's file where it is not the parameter as it stands; memory from `arena`. NULL: they all are. */
    graft_status (*stored_view)(const gr_adapter *a, const gr_stored *s, gr_arena *arena, gr_tensor_view *out, graft_error *err);
    /* See gr_adapter_begin_run, gr_adapter_penalty and gr_adapter_stepped. NULL: there is nothing to do, no penalty. */
    graft_status (*begin_run)(gr_adapter *a, int64_t n_steps, graft_error *err);
    double (*penalty)(gr_adapter *a);
    graft_status (*stepped)(gr_adapter *a, int64_t step, double clip, graft_error *err);
    /* After stored values were read: brings them to parameters that are not stored themselves. NULL: there are none. */
    void (*loaded)(gr_adapter *a);
} gr_adapter_method;

#define X(name) extern const gr_adapter_method gr_adapter_##name;
#include "adapter/adapter.def"
#undef X

struct gr_adapter {
    gr_adapter_set *set;
    gr_model *model;
    bool shared; /* values and gradients are the scratch memory of a shape */
    const graft_allocator *a;
    const gr_adapter_method *method;
    char *name;
    const char *where; /* for errors: the configuration's file, or the adapter's name */
    bool trainable;
    double scale;
    gr_arena arena; /* names, configuration */
    gr_variant *variant;
    gr_param **params; /* trainable or not, each once */
    size_t n_params, cap_params;
    gr_stored *stored;
    size_t n_stored, cap_stored;
    gr_safetensors *file; /* that values came from, while it may be asked for them again; NULL: none */
    gr_param **owned; /* those made by gr_adapter_new_param */
    size_t n_owned, cap_owned;
    size_t bytes;
    size_t most_bytes; /* that its own parameters may take; 0: any number */
    int n_virtual, n_prefix; /* rows in front of each of its sequences: input rows, key/value rows */
    int n_tasks;             /* of which a sequence has one, and its own rows; 0: there are none */
    int n_rows;              /* input rows that it has, in front or where its template puts them */
    const char *prompt_template; /* NULL: none */
    const struct gr_slots *slots; /* the same, parsed */
    int n_gated;             /* key/value rows that each of its sequences sees through a gate */
    int lowest_layer; /* of anything trained; INT_MAX: nothing */
    int64_t identity; /* gr_hooks.identity */
    char *config;     /* as it is saved */
    void *state;
};

struct gr_adapter_set {
    gr_model *model;
    const graft_allocator *a;
    gr_adapter **slots;
    size_t n_slots, cap_slots;
    int64_t last_identity; /* given to an adapter */
    gr_hooks hooks;
};

/* set.c: the method and its parameters, from the text of adapter_config.json. load.c: that, and values, from a directory. */
graft_status gr_adapter_build(gr_adapter *a, const char *config, size_t len, bool fresh, uint64_t seed, graft_error *err);
graft_status gr_adapter_read(gr_adapter *a, const char *dir, graft_error *err);
/* set.c: an adapter that is not yet in the set, and its entry there. */
graft_status gr_adapter_begin(gr_adapter_set *s, const char *name, const char *where, bool trainable, double scale, gr_adapter **out,
                              graft_error *err);
graft_status gr_adapter_finish(gr_adapter_set *s, gr_adapter *a, int *index, graft_error *err);
void gr_adapter_free(gr_adapter *a);
graft_status gr_adapter_rewrite_config(gr_adapter *a, graft_error *err); /* set.c: a->config anew */
bool gr_adapter_has(const gr_adapter *a, gr_stored_file file);
/* The values of a parameter that passes have in another form leave memory: from now on they are the file's, where they stand there
 * as they are. The pages of all that did so leave with gr_adapter_leave_file, and come back where somebody reads them. */
void gr_adapter_leave_values(gr_adapter *a, gr_param *p);
void gr_adapter_leave_file(const gr_adapter *a);
void gr_adapter_fill_hooks(gr_adapter_set *s); /* hooks.c */
/* uses.c: in front of a step's passes, behind them, and in the end. */
graft_status gr_adapter_part_gradients(gr_adapter *a, graft_error *err);
void gr_adapter_join_gradients(gr_adapter *a);
void gr_adapter_free_gradients(gr_adapter *a);

gr_adapter *gr_adapter_at(const gr_adapter_set *s, int index); /* NULL when there is none */

/* A parameter of this shape with zero values, owned by the adapter, with a gradient when the adapter is trainable. */
graft_status gr_adapter_new_param(gr_adapter *a, const char *name, const gr_shape *shape, bool decay, gr_param **out,
                                  graft_error *err);
/* The same without a gradient, stored as what training goes on with. */
graft_status gr_adapter_new_state(gr_adapter *a, const char *name, const gr_shape *shape, gr_param **out, graft_error *err);
/* Enters a parameter under the name that it is stored with. `layer`: where it stands. */
int gr_adapter_depth(const gr_model *m, const gr_site *s); /* its layer; -1 the embedding, n_layers head and final norm */
graft_status gr_adapter_add(gr_adapter *a, const char *stored_name, gr_param *p, int layer, graft_error *err);
/* The same for a parameter of an encoder, name with GR_ENCODER_PREFIX. */
graft_status gr_adapter_add_encoder(gr_adapter *a, const char *name, gr_param *p, int layer, graft_error *err);
/* Enters a parameter that is not stored itself. */
graft_status gr_adapter_enter(gr_adapter *a, const char *name, gr_param *p, int layer, graft_error *err);
/* Enters what is stored but no parameter. */
graft_status gr_adapter_store(gr_adapter *a, const char *name, gr_param *p, gr_stored_file file, graft_error *err);
/* Tensors of the model (names in `tensors`) as a variant; parameter i is stored as `stored[i]`. */
graft_status gr_adapter_add_variant(gr_adapter *a, const char *const *tensors, const char *const *stored, size_t n,
                                    bool untie, graft_error *err);
enum { GR_ADAPTER_TEXT = 512 };
const char *gr_adapter_text(gr_adapter *a, graft_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4))); /* of fewer bytes, in the arena; NULL when out of memory (err is set) */

/* Values filled from the counter generator: uniform in [-bound, bound), or normal with deviation `bound`. */
void gr_adapter_fill(gr_param *p, uint64_t seed, bool normal, double bound);
void gr_adapter_set_all(gr_param *p, double value);

/* Writes a merged model, see gr_adapter_merge. `a` NULL: the bare base. */
/* Index of a named adapter of a public model; name NULL: the only one, or -1 when there is none. */
graft_status gr_model_choose_adapter(const graft_model *m, const char *name, int *index, graft_error *err);

/* What a directory gets where nobody says: the format of the base's embeddings, F16 for block formats. */
gr_dtype gr_stored_dtype(const gr_model *m);

/* head.c: classes.json beside an adapter; id2label, or with `map` label2id, as a JSON object. */
graft_status gr_adapter_write_classes(const gr_model *m, const char *dir, graft_error *err);
void gr_labels_write(const gr_labels *labels, bool map, gr_buf *b);

graft_status gr_write_model(gr_model *m, const gr_adapter *a, const char *dir, gr_dtype dtype, graft_error *err);
/* The same with what is NF4, FP4 or INT8 in the base as bitsandbytes serialises that, the rest as `dtype`. `quantization`:
 * config.json's quantization_config. `report`: see merged.h; NULL: none. */
struct gr_merge_report;
graft_status gr_write_quantized(gr_model *m, const gr_adapter *a, const char *dir, gr_dtype dtype, const char *quantization,
                                struct gr_merge_report *report, graft_error *err);
/* An adapter that weights can hold; index -1: NULL. */
graft_status gr_adapter_to_merge(const gr_adapter_set *s, int index, const gr_adapter **out, graft_error *err);

/* --- Configurations ---------------------------------------------------------------------------------------------------------- */

/* Names or a pattern, as target_modules has them. */
typedef struct gr_targets {
    bool given;
    const char *regex; /* NULL: a list */
    const char **names;
    size_t n;
} gr_targets;

/* Each reads member `key`; absent or null leaves *out as it is. Errors name a->where, the key, expected and found. */
graft_status gr_config_int(gr_adapter *a, const gr_json_value *c, const char *key, int64_t min, int64_t max, int64_t *out,
                           graft_error *err);
graft_status gr_config_number(gr_adapter *a, const gr_json_value *c, const char *key, double min, double max, double *out,
                              graft_error *err);
graft_status gr_config_bool(gr_adapter *a, const gr_json_value *c, const char *key, bool *out, graft_error *err);
graft_status gr_config_text(gr_adapter *a, const gr_json_value *c, const char *key, const char **out, graft_error *err);
graft_status gr_config_targets(gr_adapter *a, const gr_json_value *c, const char *key, bool regex, gr_targets *out,
                               graft_error *err);
/* Whether the key says something: not absent, null, false, {}, []. */
bool gr_config_says(const gr_json_value *c, const char *key);
/* Members must be among `known` (NULL-terminated). */
graft_status gr_config_known(gr_adapter *a, const gr_json_value *c, const char *const *known, graft_error *err);
void gr_config_write_targets(gr_buf *b, const gr_targets *t);
/* Each adds a member and a comma, the first one the opening brace too; text NULL is null. close ends the object. */
void gr_config_add_text(gr_buf *b, const char *key, const char *text);
void gr_config_add_bool(gr_buf *b, const char *key, bool value);
void gr_config_add_int(gr_buf *b, const char *key, int64_t value);
void gr_config_add_float(gr_buf *b, const char *key, double value);
void gr_config_add_targets(gr_buf *b, const char *key, const gr_targets *t);
void gr_config_close(gr_buf *b);

/* defaults.c: names of modules, separated by blanks; NULL: none known for this kind of model. */
typedef struct gr_method_defaults {
    const char *lora, *adalora, *ia3, *ia3_feedforward, *norms;
} gr_method_defaults;
const gr_method_defaults *gr_method_defaults_of(const gr_model *m);
graft_status gr_default_targets(gr_adapter *a, const char *names, gr_targets *out, graft_error *err);

#define GR_PEFT_VERSION "0.21.2" /* whose files these are */

/* What every adapter_config.json has. */
typedef struct gr_common_config {
    const char *base_model, *revision, *task_type;    /* task_type NULL: none */
    const char *base_class, *library; /* of auto_mapping, which stands where there is no task type; NULL: none */
} gr_common_config;
void gr_config_add_auto_mapping(gr_buf *b, const gr_common_config *c);
graft_status gr_config_common(gr_adapter *a, const gr_json_value *c, gr_common_config *out, graft_error *err);

/* --- Matching ------------------------------------------------------------------------------------------------------------------ */

/* A regular expression around `middle` in the manner of Python's re, bounded in time. `where` stands in errors and
 * outlives the pattern. */
typedef struct gr_pattern gr_pattern;
graft_status gr_pattern_new(const graft_allocator *a, const char *where, const char *before, const char *middle,
                            const char *after, gr_pattern **out, graft_error *err);
void gr_pattern_free(gr_pattern *p);
/* `group` (may be NULL) gets the integer in group 1 (named or not), -1 without one. */
graft_status gr_pattern_match(const gr_pattern *p, const char *text, bool *matches, int64_t *group, graft_error *err);

/* Whether a module is named: in the list as it stands or as the end after a dot, or by the whole pattern. */
graft_status gr_targets_match(gr_adapter *a, const gr_targets *t, const char *module, bool *matches, graft_error *err);

/* All module names of the model, containers too, in the arena, in the order of the sites. */
graft_status gr_module_names(gr_adapter *a, const char ***out, size_t *n, graft_error *err);

#endif
