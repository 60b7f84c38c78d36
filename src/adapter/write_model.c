/* Writing a whole model as a Hugging Face directory: the base's weights with an adapter merged in, W + s B A summed in
 * float, row block by row block, so that memory stays small whatever the model's size is. Files appear when complete;
 * configuration first, weights last, so that a directory with an index is a whole one. */
#include <stdio.h>

#include "adapter/merged.h"
#include "adapter/method.h"
#include "adapter/outputs.h"
#include "graft/tokenizer.h"
#include "quant/scaled.h"

enum { BLOCK_BYTES = 8 << 20 };
static const uint64_t shard_bytes = 5000000000u;

/* What a model directory carries along unchanged. */
static const char *const beside[] = {"tokenizer.json",      "tokenizer_config.json", "special_tokens_map.json",
                                     "added_tokens.json",   "vocab.json",            "merges.txt",
                                     "vocab.txt",           "tokenizer.model",       "spiece.model",
                                     "chat_template.jinja", "chat_template.json",
                                     "generation_config.json"};
enum { FILE_LIMIT = 512 << 20 };

static graft_status copy_file(const graft_allocator *a, const char *from_dir, const char *to_dir, const char *name,
                              graft_error *err) {
    char *from = gr_path_join(a, from_dir, name), *to = gr_path_join(a, to_dir, name), *text = NULL;
    size_t len;
    graft_status st = from && to ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK && gr_path_exists(from)) {
        st = gr_read_file(a, from, FILE_LIMIT, &text, &len, err);
        if (st == GRAFT_OK) st = gr_write_file(a, to, text, len, err);
    }
    gr_free(a, text);
    gr_free(a, from);
    gr_free(a, to);
    return st;
}

/* additional_chat_templates/NAME.jinja: templates beside the default one. */
static graft_status copy_templates(const graft_allocator *a, const char *from_dir, const char *to_dir, graft_error *err) {
    static const char folder[] = "additional_chat_templates";
    char *from = gr_path_join(a, from_dir, folder), *to = gr_path_join(a, to_dir, folder), **names = NULL;
    size_t n = 0;
    graft_status st = from && to ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK && gr_is_dir(from)) {
        st = gr_list_dir(a, from, &names, &n, err);
        if (st == GRAFT_OK) st = gr_make_dirs(to, err);
        for (size_t i = 0; i < n && st == GRAFT_OK; i++) st = copy_file(a, from, to, names[i], err);
        gr_free_names(a, names, n);
    }
    gr_free(a, from);
    gr_free(a, to);
    return st;
}

static graft_status write_text(const graft_allocator *a, const char *dir, const char *name, const char *text,
                               graft_error *err) {
    char *path = gr_path_join(a, dir, name);
    if (!path) return gr_fail_memory(err);
    graft_status st = gr_write_file(a, path, text, strlen(text), err);
    gr_free(a, path);
    return st;
}

static graft_status write_config(gr_model *m, const char *dir, gr_dtype dtype, bool tied, const char *quantization,
                                 graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(m));
    gr_model_config *c = gr_alloc(a, sizeof *c); /* large: one entry a layer */
    char *text = NULL, *edited = NULL;
    if (!c) return gr_fail_memory(err);
    *c = *gr_model_get_config(m);
    c->tie_word_embeddings = tied;
    graft_status st = gr_model_config_to_json(a, c, dtype, &text, err);
    if (st == GRAFT_OK)
        st = gr_model_config_edit(a, "config.json", text, strlen(text), dtype, tied, quantization, &edited, err);
    if (st == GRAFT_OK) st = write_text(a, dir, "config.json", edited, err);
    gr_free(a, edited);
    gr_free(a, text);
    gr_free(a, c);
    return st;
}

static graft_status write_from_gguf(gr_model *m, const char *dir, graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(m));
    gr_generation_config g;
    char *text = NULL;
    graft_status st = gr_generation_config_load(a, dir, gr_model_get_config(m), &g, err);
    if (st == GRAFT_OK) st = gr_generation_config_to_json(a, &g, &text, err);
    if (st == GRAFT_OK) st = write_text(a, dir, "generation_config.json", text, err);
    gr_free(a, text);
    if (st != GRAFT_OK || !gr_gguf_find(gr_weights_gguf(gr_model_weights(m)), "tokenizer.ggml.tokens")) return st;
    graft_tokenizer *tok = NULL;
    st = graft_tokenizer_load(gr_model_context(m), gr_model_path(m), &tok, err);
    if (st == GRAFT_OK) st = graft_tokenizer_save(tok, dir, err);
    graft_tokenizer_free(tok);
    return st;
}

/* A head that config.json did not name has to be named there. */
static graft_status name_head(const gr_model *m, char **text, graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(m));
    const gr_model_config *c = gr_model_get_config(m);
    const char *problem = gr_problem_name(c->problem);
    char class[100], classes[110], kind[64], *edited;
    gr_buf names, ids;
    if (!gr_model_has_asked_head(m)) return GRAFT_OK;
    gr_buf_init(&names, a);
    gr_buf_init(&ids, a);
    if (c->task == GR_TASK_SEQ_CLS) gr_labels_write(gr_model_labels(m), false, &names);
    if (c->task == GR_TASK_SEQ_CLS) gr_labels_write(gr_model_labels(m), true, &ids);
    snprintf(classes, sizeof classes, "[\n    \"%s\"\n  ]", gr_model_architecture(c, class, sizeof class));
    snprintf(kind, sizeof kind, "%s%s%s", problem ? "\"" : "", problem ? problem : "null", problem ? "\"" : "");
    graft_status st = gr_buf_status(&names, err);
    if (st == GRAFT_OK) st = gr_buf_status(&ids, err);
    const gr_config_edit edits[] = {{"architectures", classes}, {"id2label", gr_buf_text(&names)}, {"label2id", gr_buf_text(&ids)},
                                    {"problem_type", kind}};
    if (st == GRAFT_OK)
        st = gr_model_config_edit_keys(a, "config.json", *text, strlen(*text), edits, c->task == GR_TASK_SEQ_CLS ? 4 : 1, &edited,
                                       err);
    if (st == GRAFT_OK) {
        gr_free(a, *text);
        *text = edited;
    }
    gr_buf_free(&names);
    gr_buf_free(&ids);
    return st;
}

static graft_status carry_config(const gr_model *m, const char *from_dir, const char *dir, gr_dtype dtype, bool tied,
                                 const char *quantization, graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(m));
    const gr_model_config *c = gr_model_get_config(m);
    if (c->task == GR_TASK_SEQ_CLS || c->task == GR_TASK_FEATURES) tied = c->tie_word_embeddings; /* of a head that is not there */
    char *from = gr_path_join(a, from_dir, "config.json"), *text = NULL, *edited = NULL;
    size_t len;
    graft_status st = from ? gr_read_file(a, from, FILE_LIMIT, &text, &len, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_model_config_edit(a, from, text, len, dtype, tied, quantization, &edited, err);
    if (st == GRAFT_OK) st = name_head(m, &edited, err);
    if (st == GRAFT_OK) st = write_text(a, dir, "config.json", edited, err);
    gr_free(a, edited);
    gr_free(a, text);
    gr_free(a, from);
    return st;
}

/* Everything but the weights. */
static graft_status write_beside(gr_model *m, const char *dir, gr_dtype dtype, bool tied, const char *quantization,
                                 graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(m));
    const char *path = gr_model_path(m), *slash = strrchr(path, '/');
    if (gr_weights_gguf(gr_model_weights(m))) {
        if (gr_model_has_asked_head(m))
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: a head that a GGUF file lacks is kept in an adapter, not written as a model",
                           path);
        GR_TRY(write_config(m, dir, dtype, tied, quantization, err));
        return write_from_gguf(m, dir, err);
    }
    char *from = gr_is_dir(path) ? gr_strdup(a, path) : slash ? gr_strndup(a, path, (size_t)(slash - path) + 1) : gr_strdup(a, ".");
    if (!from) return gr_fail_memory(err);
    graft_status st = carry_config(m, from, dir, dtype, tied, quantization, err);
    for (size_t i = 0; i < GR_COUNT(beside) && st == GRAFT_OK; i++) st = copy_file(a, from, dir, beside[i], err);
    if (st == GRAFT_OK) st = copy_templates(a, from, dir, err);
    gr_free(a, from);
    return st;
}

/* --- Weights ------------------------------------------------------------------------------------------------------------------------ */

typedef struct merge_job {
    gr_model *m;
    const gr_adapter *a; /* NULL: none */
    gr_dtype dtype;
    float *rows;         /* one block */
    void *out;
    size_t block;        /* floats of a block */
    bool keep;           /* tensors in bitsandbytes' formats stay in them */
    gr_merge_report *report; /* NULL: nobody asks */
    gr_outputs outputs;
    void **encoded; /* what `outputs` holds of changed tensors, aligned */
    size_t n_encoded, cap_encoded;
} merge_job;

static void turn(const float *from, int64_t rows, int64_t columns, float *to) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) to[c * rows + r] = from[r * columns + c];
}

/* A weight that is stored as (in, out) while deltas have a row an output: turned as a whole. */
static graft_status write_turned(const merge_job *j, gr_safetensors_writer *w, const gr_site *s, const char *tensor,
                                 graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(j->m));
    gr_device *dev = gr_model_device(j->m);
    int64_t n = s->in * s->out;
    float *rows = gr_alloc_aligned(a, (size_t)n * sizeof *rows), *turned = gr_alloc_aligned(a, (size_t)n * sizeof *rows);
    graft_status st = rows && turned ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_merged_outputs(j->m, j->a, tensor, 0, s->out, rows, err);
    if (st == GRAFT_OK) {
        turn(rows, s->out, s->in, turned);
        dev->k->convert(dev, GR_F32, turned, j->dtype, rows, n);
        st = gr_safetensors_write(w, rows, gr_dtype_bytes(j->dtype, (size_t)n), err);
    }
    gr_free_aligned(a, rows);
    gr_free_aligned(a, turned);
    return st;
}

static graft_status write_tensor(const merge_job *j, gr_safetensors_writer *w, const char *tensor, graft_error *err) {
    gr_shape shape;
    gr_device *dev = gr_model_device(j->m);
    GR_TRY(gr_model_tensor_shape(j->m, tensor, &shape, err));
    const gr_site *site = gr_turned_site(j->m, tensor);
    if (site && j->a && j->a->method->merge) return write_turned(j, w, site, tensor, err);
    int64_t rows = shape.d[0], columns = shape.n > 1 ? shape.d[1] : 1;
    int64_t step = GR_MAX((int64_t)j->block / columns, 1);
    if (shape.n == 1) step = rows;
    for (int64_t r = 0; r < rows; r += step) {
        int64_t n = GR_MIN(step, rows - r);
        GR_TRY(gr_check_cancel(gr_model_context(j->m), err));
        GR_TRY(gr_merged_rows(j->m, j->a, tensor, r, n, j->rows, err));
        dev->k->convert(dev, GR_F32, j->rows, j->dtype, j->out, n * columns);
        GR_TRY(gr_safetensors_write(w, j->out, gr_dtype_bytes(j->dtype, (size_t)(n * columns)), err));
    }
    return GRAFT_OK;
}

/* The longest row decides where it is longer than a block. */
static graft_status block_size(const gr_model *m, size_t *out, graft_error *err) {
    int64_t longest = BLOCK_BYTES / sizeof(float);
    for (size_t i = 0; i < gr_model_n_tensors(m); i++) {
        gr_shape s;
        GR_TRY(gr_model_tensor_shape(m, gr_model_tensor_name(m, i), &s, err));
        longest = GR_MAX(longest, s.n > 1 ? s.d[1] : s.d[0]);
    }
    *out = (size_t)longest;
    return GRAFT_OK;
}

static graft_status weigh(const merge_job *j, const char *name, const float *wanted, const gr_tensor_view *v,
                          graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(j->m));
    const int64_t columns = v->shape.d[1];
    gr_cost cost = {0};
    float *base = gr_alloc(a, 2 * (size_t)columns * sizeof *base);
    graft_status st = base ? GRAFT_OK : gr_fail_memory(err);
    for (int64_t r = 0; r < v->shape.d[0] && st == GRAFT_OK; r++) {
        st = gr_merged_outputs(j->m, NULL, name, r, 1, base, err);
        if (st == GRAFT_OK) st = gr_view_decode(v, r * columns, columns, base + columns, err);
        if (st == GRAFT_OK) gr_cost_add(&cost, wanted + r * columns, base + columns, base, columns);
    }
    gr_free(a, base);
    if (st == GRAFT_OK) gr_merge_note(j->report, name, v->dtype, &cost);
    return st;
}

/* A changed weight in the format that the base has it in. The parts of its new form have sizes that follow from its values, and
 * are declared before anything is written: they are kept until then. */
static graft_status encode_again(merge_job *j, const char *name, const gr_weight *w, gr_tensor_view *view,
                                 graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(j->m));
    const gr_shape *shape = &w->view.shape;
    const gr_scales *s = w->view.scales;
    const bool four = gr_is_4bit(w->view.dtype);
    const gr_quantize_spec spec = {.dtype = w->view.dtype, .block = four ? s->block : 0, .nested = four && !s->absmax,
                                   .scale = j->dtype, .input = s->input};
    const size_t n = (size_t)(shape->d[0] * shape->d[1]);
    size_t bytes;
    void *memory = NULL;
    float *wanted = gr_alloc_aligned(a, n * sizeof *wanted);
    gr_weight sum = {.name = name, .stored_name = name, .file = w->file, .view = {GR_F32, *shape, wanted, n * sizeof *wanted, NULL}};
    graft_status st = wanted ? gr_merged_outputs(j->m, j->a, name, 0, shape->d[0], wanted, err) : gr_fail_memory(err);
    if (st == GRAFT_OK)
        st = gr_grow(a, (void **)&j->encoded, &j->cap_encoded, j->n_encoded + 1, sizeof *j->encoded, err);
    if (st == GRAFT_OK) st = gr_quantize_weight(gr_model_device(j->m), &sum, false, &spec, view, &memory, &bytes, err);
    if (st == GRAFT_OK) j->encoded[j->n_encoded++] = memory;
    if (st == GRAFT_OK && j->report) st = weigh(j, name, wanted, view, err);
    gr_free_aligned(a, wanted);
    return st;
}

static graft_status list_scaled(merge_job *j, const char *name, const gr_weight *w, graft_error *err) {
    gr_tensor_view view = w->view;
    bool changes;
    GR_TRY(gr_merge_changes(j->m, j->a, name, &changes, err));
    if (changes) GR_TRY(encode_again(j, name, w, &view, err));
    if (!changes && j->report) j->report->kept++;
    return gr_outputs_add_scaled(&j->outputs, name, &view, j->dtype, err);
}

/* What the files are to hold. */
static graft_status list_outputs(merge_job *j, bool own_head, graft_error *err) {
    size_t n = gr_model_n_tensors(j->m);
    for (size_t i = 0; i < n + own_head; i++) {
        const char *name = i < n ? gr_model_tensor_name(j->m, i) : gr_model_head_site(j->m)->weight_tensor;
        gr_output o = {.name = name, .dtype = j->dtype};
        const gr_weight *w;
        bool changes;
        GR_TRY(gr_model_get_weight(j->m, name, &w, err));
        if (j->keep && w->view.scales) {
            GR_TRY(list_scaled(j, name, w, err));
            continue;
        }
        if (j->report) {
            GR_TRY(gr_merge_changes(j->m, j->a, name, &changes, err));
            j->report->plain += changes;
            j->report->kept += !changes;
        }
        GR_TRY(gr_model_tensor_shape(j->m, name, &o.shape, err));
        GR_TRY(gr_outputs_add(&j->outputs, &o, err));
    }
    return GRAFT_OK;
}

/* All but the last step, after which the files have their names. */
static graft_status write_weights(merge_job *j, const char *dir, gr_safetensors_writer **out, graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(j->m));
    gr_safetensors_options options = {.stem = "model", .max_shard_bytes = shard_bytes};
    gr_safetensors_writer *w = NULL;
    const size_t *order;
    const gr_output *o = j->outputs.items;
    size_t n = j->outputs.n;
    graft_status st;
    GR_TRY(gr_safetensors_writer_new(a, dir, &options, &w, err));
    for (size_t i = 0; i < n; i++) GR_GO(fail, gr_safetensors_declare(w, o[i].name, o[i].dtype, &o[i].shape, err));
    GR_GO(fail, gr_safetensors_writer_begin(w, &order, err));
    for (size_t i = 0; i < n; i++) {
        const gr_output *x = &o[order[i]];
        if (x->bytes)
            GR_GO(fail, gr_safetensors_write(w, x->bytes, x->n_bytes, err));
        else
            GR_GO(fail, write_tensor(j, w, x->name, err));
    }
    *out = w;
    return GRAFT_OK;
fail:
    gr_safetensors_writer_abort(w);
    return st;
}

bool gr_adapter_unties(const gr_model *m, const gr_adapter *a) {
    return gr_model_head_is_tied(m) && a &&
           ((a->variant && gr_variant_unties(a->variant)) || (a->method->unties && a->method->unties(a)));
}

static graft_status write_model(gr_model *m, const gr_adapter *a, const char *dir, gr_dtype dtype, const char *quantization,
                                gr_merge_report *report, graft_error *err) {
    const graft_allocator *alloc = gr_allocator(gr_model_context(m));
    if (dtype != GR_F32 && dtype != GR_BF16 && dtype != GR_F16)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "a model is written in F32, BF16 or F16, not in %s", gr_dtype_name(dtype));
    if (gr_is_same_file(dir, gr_model_path(m)))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected another directory than that of the base model", dir);
    /* An adapter with a head of its own unties what was tied. */
    bool own_head = gr_adapter_unties(m, a);
    merge_job j = {.m = m, .a = a, .dtype = dtype, .keep = quantization != NULL, .report = report};
    GR_TRY(block_size(m, &j.block, err));
    GR_TRY(gr_make_dirs(dir, err));
    j.rows = gr_alloc_aligned(alloc, j.block * sizeof *j.rows);
    j.out = gr_alloc_aligned(alloc, j.block * sizeof *j.rows);
    gr_outputs_init(&j.outputs, alloc);
    graft_status st = j.rows && j.out ? list_outputs(&j, own_head, err) : gr_fail_memory(err);
    gr_safetensors_writer *weights = NULL;
    if (st == GRAFT_OK) st = write_weights(&j, dir, &weights, err);
    /* Not before: a disk that fills would leave another model's configuration beside the weights that were there. */
    if (st == GRAFT_OK) st = write_beside(m, dir, dtype, gr_model_head_is_tied(m) && !own_head, quantization, err);
    if (st == GRAFT_OK)
        st = gr_safetensors_writer_commit(weights, err);
    else
        gr_safetensors_writer_abort(weights);
    gr_outputs_free(&j.outputs);
    for (size_t i = 0; i < j.n_encoded; i++) gr_free_aligned(alloc, j.encoded[i]);
    gr_free(alloc, j.encoded);
    gr_free_aligned(alloc, j.rows);
    gr_free_aligned(alloc, j.out);
    return st;
}

graft_status gr_write_model(gr_model *m, const gr_adapter *a, const char *dir, gr_dtype dtype, graft_error *err) {
    return write_model(m, a, dir, dtype, NULL, NULL, err);
}

graft_status gr_write_quantized(gr_model *m, const gr_adapter *a, const char *dir, gr_dtype dtype, const char *quantization,
                                gr_merge_report *report, graft_error *err) {
    return write_model(m, a, dir, dtype, quantization, report, err);
}

graft_status gr_adapter_to_merge(const gr_adapter_set *s, int index, const gr_adapter **out, graft_error *err) {
    const gr_adapter *a = gr_adapter_at(s, index);
    if (index >= 0 && !a) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "there is no adapter %d", index);
    if (a && (a->n_rows || a->n_prefix || a->n_gated))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "adapter '%s': %s adds rows to what the layers see, which no weight can hold: it is not merged", a->name,
                       a->method->peft_type);
    *out = a;
    return GRAFT_OK;
}

graft_status gr_adapter_merge(const gr_adapter_set *s, int index, const char *dir, gr_dtype dtype, graft_error *err) {
    const gr_adapter *a;
    GR_TRY(gr_adapter_to_merge(s, index, &a, err));
    return gr_write_model(s->model, a, dir, dtype, err);
}
