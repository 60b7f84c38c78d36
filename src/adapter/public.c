/* The public functions on models and their adapters (graft/model.h, graft/adapter.h). */
#include "graft/adapter.h"

#include "adapter/calibration.h"
#include "adapter/method.h"
#include "model/public.h"
#include "text/slots.h"

graft_status gr_model_choose_adapter(const graft_model *m, const char *name, int *index, graft_error *err) {
    const gr_adapter_set *set = m->adapters;
    int only = -1, n = 0;
    for (int i = 0; i < gr_adapter_set_count(set); i++) {
        if (!gr_adapter_set_name(set, i)) continue;
        only = i;
        n++;
    }
    if (name) {
        only = gr_adapter_set_find(set, name);
        if (only < 0) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "there is no adapter named '%s'", name);
    } else if (n > 1)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "the model has %d adapters: one of them must be named", n);
    *index = only;
    return GRAFT_OK;
}

void graft_model_free(graft_model *m) {
    if (!m) return;
    gr_adapter_set_free(m->adapters);
    gr_model_close(m->model);
    gr_free(gr_allocator(m->ctx), m);
}

static graft_status choose_head(graft_model *m, const graft_model_options *options, gr_arena *arena, gr_model_options *o,
                                graft_error *err) {
    gr_adapter_head head = {0};
    if (!options) return GRAFT_OK;
    if (options->task_type) GR_TRY(gr_task_find(options->task_type, &o->task, err));
    o->has_task = options->task_type != NULL;
    o->seed = options->seed;
    o->n_labels = (int)GR_MIN(options->n_labels, (size_t)GR_MAX_LABELS + 1);
    o->labels = options->labels;
    if (options->adapter_dir) GR_TRY(gr_adapter_find_head(gr_allocator(m->ctx), options->adapter_dir, arena, &head, err));
    o->brought = head.tensors;
    o->n_brought = head.n_tensors;
    if (head.fills && !o->has_task) {
        o->has_task = true;
        o->task = GR_TASK_MASKED_LM;
    }
    if (!head.classifies || o->n_labels) return GRAFT_OK;
    o->has_task = true;
    o->task = GR_TASK_SEQ_CLS;
    o->n_labels = head.n_labels;
    o->labels = head.labels.n ? head.labels.names : NULL;
    o->problem = head.problem;
    return GRAFT_OK;
}

static graft_status load(graft_model *m, const char *path, const graft_model_options *options, graft_error *err) {
    gr_model_options o = {.has_dtype = options && options->dtype != GRAFT_DTYPE_AUTO};
    gr_adapter_set *set;
    gr_arena arena;
    gr_channel8_plan plan;
    if (options)
        GR_TRY(gr_quantize_options(options->load_in_4bit, options->load_in_8bit, options->bnb_4bit_quant_type,
                                   options->bnb_4bit_use_double_quant, options->bnb_4bit_blocksize, &o.quantize, err));
    if (options && options->w8a8) {
        if (o.quantize.dtype != GR_F32)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "w8a8: expected neither load_in_4bit nor load_in_8bit beside it");
        plan = gr_w8a8_plan(options->w8a8);
        o.quantize = (gr_quantize_spec){.dtype = GR_CHANNEL8, .channel8 = &plan};
    }
    if (options) GR_TRY(gr_activation_options(options->activations, options->llm_int8_threshold, &o.activations, err));
    if (o.has_dtype) o.dtype = options->dtype == GRAFT_DTYPE_BF16 ? GR_BF16 : options->dtype == GRAFT_DTYPE_F32 ? GR_F32 : GR_F16;
    gr_arena_init(&arena, gr_allocator(m->ctx), 0);
    graft_status st = choose_head(m, options, &arena, &o, err);
    if (st == GRAFT_OK) st = gr_model_open(m->ctx, path, &o, &m->model, err);
    gr_arena_free(&arena);
    GR_TRY(st);
    if (options && options->w8a8) GR_TRY(gr_w8a8_check(m->model, options->w8a8, err));
    GR_TRY(gr_adapter_set_new(m->model, &set, err));
    m->adapters = set;
    m->hooks = gr_adapter_set_hooks(set);
    return GRAFT_OK;
}

graft_status graft_model_load(graft_context *ctx, const char *path, const graft_model_options *options,
                              graft_model **out, graft_error *err) {
    graft_model *m = gr_calloc(gr_allocator(ctx), 1, sizeof *m);
    if (!m) return gr_fail_memory(err);
    m->ctx = ctx;
    graft_status st = load(m, path, options, err);
    if (st != GRAFT_OK) {
        graft_model_free(m);
        return st;
    }
    *out = m;
    return GRAFT_OK;
}

const char *graft_model_task_type(const graft_model *m) { return gr_task_name(gr_model_get_config(m->model)->task); }
static const gr_slots *slots_of(const graft_model *m, const char *name) {
    int at = name ? gr_adapter_set_find(m->adapters, name) : -1;
    return at < 0 ? NULL : gr_adapter_slots(m->adapters, at);
}

const char *graft_adapter_prompt_template(const graft_model *m, const char *name) {
    int at = name ? gr_adapter_set_find(m->adapters, name) : -1;
    return at < 0 ? NULL : gr_adapter_prompt_template(m->adapters, at);
}

size_t graft_adapter_n_words(const graft_model *m, const char *name) {
    const gr_slots *s = slots_of(m, name);
    return s ? s->n_words : 0;
}

const char *graft_adapter_word_label(const graft_model *m, const char *name, size_t i) {
    const gr_slots *s = slots_of(m, name);
    return s && i < s->n_words ? s->words[i].label : NULL;
}

size_t graft_model_n_labels(const graft_model *m) { return (size_t)gr_model_labels(m->model)->n; }
const char *graft_model_label(const graft_model *m, size_t i) {
    const gr_labels *labels = gr_model_labels(m->model);
    return i < (size_t)labels->n ? labels->names[i] : NULL;
}
int64_t graft_model_vocab_size(const graft_model *m) { return gr_model_get_config(m->model)->vocab_size; }
int64_t graft_model_n_params(const graft_model *m) { return gr_model_n_params(m->model); }
int64_t graft_model_max_length(const graft_model *m) { return gr_model_get_config(m->model)->max_position_embeddings; }
const char *graft_model_path(const graft_model *m) { return gr_model_path(m->model); }

/* --- Adapters ---------------------------------------------------------------------------------------------------------------------- */

graft_status graft_adapter_new(graft_model *m, const char *name, const char *config_json, uint64_t seed,
                               graft_error *err) {
    int index;
    return gr_adapter_set_create(m->adapters, name, config_json, strlen(config_json), seed, &index, err);
}

graft_status graft_adapter_load(graft_model *m, const char *name, const char *dir, double scale, graft_error *err) {
    int index;
    return gr_adapter_set_load(m->adapters, name, dir, scale, false, &index, err);
}

graft_status graft_adapter_load_trainable(graft_model *m, const char *name, const char *dir, graft_error *err) {
    int index;
    return gr_adapter_set_load(m->adapters, name, dir, 1, true, &index, err);
}

graft_status graft_adapter_set_scale(graft_model *m, const char *name, double scale, graft_error *err) {
    int index;
    GR_TRY(gr_model_choose_adapter(m, name, &index, err));
    return gr_adapter_set_scale(m->adapters, index, scale, err);
}

graft_status graft_adapter_combine(graft_model *m, const char *name, const char *const *adapters, const double *weights, size_t n,
                                   const graft_combine_options *options, graft_error *err) {
    gr_combination how = {0};
    int index;
    if (options) {
        const char *sign = options->majority_sign_method ? options->majority_sign_method : "total";
        how = (gr_combination){.type = options->type, .svd_rank = options->svd_rank, .density = options->density,
                               .frequency = strcmp(sign, "frequency") == 0, .seed = options->seed};
        if (!how.frequency && strcmp(sign, "total") != 0)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "majority_sign_method: expected total or frequency, found '%s'", sign);
        if (options->svd_rank < 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "svd_rank: expected 0 or more, found %d", options->svd_rank);
    }
    int *indices = gr_calloc(gr_allocator(m->ctx), n + 1, sizeof *indices);
    graft_status st = indices ? GRAFT_OK : gr_fail_memory(err);
    for (size_t i = 0; i < n && st == GRAFT_OK; i++) st = gr_model_choose_adapter(m, adapters[i], &indices[i], err);
    if (st == GRAFT_OK) st = gr_adapter_combine(m->adapters, name, indices, weights, n, &how, &index, err);
    gr_free(gr_allocator(m->ctx), indices);
    return st;
}

graft_status graft_adapter_remove(graft_model *m, const char *name, graft_error *err) {
    int index;
    GR_TRY(gr_model_choose_adapter(m, name, &index, err));
    gr_adapter_set_remove(m->adapters, index);
    return GRAFT_OK;
}

/* The format in which the base has its weights; block formats cannot be written and become half precision. */
gr_dtype gr_stored_dtype(const gr_model *m) {
    const gr_site *embedding = gr_model_embedding_site(m);
    const gr_weight *w;
    bool found = gr_model_get_weight(m, embedding->weight_tensor, &w, NULL) == GRAFT_OK;
    gr_dtype d = found ? w->view.dtype : GR_F16;
    return d == GR_F32 || d == GR_BF16 ? d : GR_F16;
}

graft_status graft_adapter_save(const graft_model *m, const char *name, const char *dir, graft_error *err) {
    int index;
    GR_TRY(gr_model_choose_adapter(m, name, &index, err));
    return gr_adapter_save(m->adapters, index, dir, gr_stored_dtype(m->model), err);
}

graft_status graft_model_merge(graft_model *m, const char *adapter, const char *dir, graft_dtype dtype, graft_error *err) {
    int index;
    gr_dtype d = dtype == GRAFT_DTYPE_F32    ? GR_F32
                 : dtype == GRAFT_DTYPE_BF16 ? GR_BF16
                 : dtype == GRAFT_DTYPE_F16  ? GR_F16
                                             : gr_stored_dtype(m->model);
    GR_TRY(gr_model_choose_adapter(m, adapter, &index, err));
    return gr_adapter_merge(m->adapters, index, dir, d, err);
}

static int nth(const graft_model *m, size_t i) {
    for (int k = 0; k < gr_adapter_set_count(m->adapters); k++)
        if (gr_adapter_set_name(m->adapters, k) && i-- == 0) return k;
    return -1;
}

size_t graft_adapter_count(const graft_model *m) {
    size_t n = 0;
    while (nth(m, n) >= 0) n++;
    return n;
}

const char *graft_adapter_name(const graft_model *m, size_t i) { return gr_adapter_set_name(m->adapters, nth(m, i)); }

int64_t graft_adapter_n_params(const graft_model *m, const char *name) {
    int index = gr_adapter_set_find(m->adapters, name);
    return index < 0 ? -1 : gr_adapter_n_trainable(m->adapters, index);
}
