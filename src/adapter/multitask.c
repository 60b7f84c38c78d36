/* Multitask prompt tuning (Wang et al. 2023, MPT): tasks share the embeddings P of virtual tokens, and each task has a low-rank
 * factor of its own: its prompt is P * (C_t R_t), element by element. Reference: peft 0.21 tuners/multitask_prompt_tuning.
 *
 * The prompts of all tasks are one table, made once a step; the rows of task t follow those of task t - 1, and a sequence
 * names its task by the ids of its virtual tokens. */
#include "adapter/lora.h"
#include "adapter/prompt.h"
#include "quant/quant.h"

enum { MOST = 1 << 16 };
typedef enum start { RANDOM, TEXT, AVERAGE, EXACT, SHARED, STARTS } start;
static const char *const starts[STARTS] = {"RANDOM", "TEXT", "AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK", "ONLY_SOURCE_SHARED"};

struct multitask {
    gr_prompt p; /* rows: the table (n_tasks n_tokens, width), which is not stored */
    int64_t n_tasks, n_ranks, source_task;
    start init;
    const char *text, *tokenizer, *source;
    gr_param *shared, *cols, *rows; /* (n_rows, width), (n_tasks, n_rows, n_ranks), (n_tasks, n_ranks, width) */
};

static const char *const known[] = {"auto_mapping", "base_model_name_or_path", "inference_mode", "modules_to_save", "num_attention_heads",
                                    "num_layers", "num_ranks", "num_tasks", "num_transformer_submodules", "num_virtual_tokens", "peft_type",
                                    "peft_version", "prompt_tuning_init", "prompt_tuning_init_state_dict_path", "prompt_tuning_init_task",
                                    "prompt_tuning_init_text", "revision", "task_type", "token_dim", "tokenizer_kwargs",
                                    "tokenizer_name_or_path", NULL};

static graft_status check_start(gr_adapter *a, const gr_json_value *json, graft_error *err) {
    struct multitask *s = a->state;
    const bool from_file = s->init == AVERAGE || s->init == EXACT || s->init == SHARED;
    if (gr_config_says(json, "tokenizer_kwargs"))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: 'tokenizer_kwargs' is not supported", a->where);
    if (s->init == TEXT && !s->text)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: prompt_tuning_init TEXT needs 'prompt_tuning_init_text'", a->where);
    if (s->init == TEXT && !s->tokenizer) s->tokenizer = gr_model_path(a->model);
    if (from_file != (s->source != NULL))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: prompt_tuning_init %s %s 'prompt_tuning_init_state_dict_path'", a->where, starts[s->init],
                       from_file ? "needs" : "does not use");
    if ((s->init == AVERAGE || s->init == EXACT) && s->n_tasks != 1) /* the reference's shapes fit one alone */
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: prompt_tuning_init %s makes the factors of one task, num_tasks is %lld", a->where,
                       starts[s->init], (long long)s->n_tasks);
    return GRAFT_OK;
}

static graft_status read_config(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err) {
    struct multitask *s = a->state;
    const gr_model_config *c = gr_model_get_config(a->model);
    const char *init = starts[RANDOM];
    GR_TRY(gr_prompt_read(a, json, fresh, known, c->n_heads, c->hidden_size, err));
    if (a->prompt_template)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: prompt_template is not supported with MULTITASK_PROMPT_TUNING", a->where);
    /* With two parts the reference puts the second's rows in front of the decoder when it trains, and nowhere when it generates. */
    if (fresh && !gr_config_says(json, "num_transformer_submodules")) s->p.n_submodules = 1;
    if (s->p.n_submodules != 1)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: num_transformer_submodules %lld is not supported with MULTITASK_PROMPT_TUNING, expected "
                       "1: tokens in front of the source", a->where, (long long)s->p.n_submodules);
    s->p.n_rows = s->p.n_tokens;
    s->n_tasks = s->n_ranks = 1;
    GR_TRY(gr_config_int(a, json, "num_tasks", 1, MOST, &s->n_tasks, err));
    GR_TRY(gr_config_int(a, json, "num_ranks", 1, MOST, &s->n_ranks, err));
    GR_TRY(gr_config_int(a, json, "prompt_tuning_init_task", 0, MOST, &s->source_task, err));
    GR_TRY(gr_config_text(a, json, "prompt_tuning_init", &init, err));
    GR_TRY(gr_config_text(a, json, "prompt_tuning_init_text", &s->text, err));
    GR_TRY(gr_config_text(a, json, "prompt_tuning_init_state_dict_path", &s->source, err));
    GR_TRY(gr_config_text(a, json, "tokenizer_name_or_path", &s->tokenizer, err));
    while (s->init < STARTS && strcmp(init, starts[s->init]) != 0) s->init++;
    if (s->init == STARTS)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: prompt_tuning_init '%s', expected RANDOM, TEXT, AVERAGE_SOURCE_TASKS, EXACT_SOURCE_TASK "
                       "or ONLY_SOURCE_SHARED", a->where, init);
    if (s->n_tasks > INT32_MAX / s->p.n_tokens)
        return gr_fail(err, GRAFT_ERR_LIMIT, "%s: %lld tasks of %lld virtual tokens, expected at most %d tokens together", a->where,
                       (long long)s->n_tasks, (long long)s->p.n_tokens, INT32_MAX);
    return fresh ? check_start(a, json, err) : GRAFT_OK;
}

/* --- Initial values ----------------------------------------------------------------------------------------------------- */

/* Part `part` of `parts` of a tensor of the source, or, with -1, their mean, as the parameter's values. */
static graft_status take(gr_adapter *a, const gr_tensor_list *list, const char *name, int64_t part, gr_param *p, graft_error *err) {
    const struct multitask *s = a->state;
    const gr_named_tensor *t = gr_tensor_list_find(list, name);
    if (!t) return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: tensor '%s' is missing", s->source, name);
    const gr_shape *shape = &t->view.shape;
    const bool tasks = p->shape.n == 3;
    int64_t parts = tasks && shape->n == 3 ? shape->d[0] : 1, n;
    gr_shape one = *shape;
    if (tasks && one.n == 3) one.d[0] = 1;
    if (!gr_shape_equal(&one, &p->shape) || !gr_shape_elements(&one, &n) || parts < 1) {
        char found[GR_SHAPE_TEXT], expected[GR_SHAPE_TEXT];
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: tensor '%s' has shape %s, expected %s%s", s->source, name,
                       gr_shape_format(shape, found, sizeof found), gr_shape_format(&p->shape, expected, sizeof expected),
                       tasks ? " for each task" : "");
    }
    if (part >= parts)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: prompt_tuning_init_task %lld, %s has %lld tasks", a->where, (long long)part, s->source,
                       (long long)parts);
    if (!gr_can_dequantize(t->view.dtype))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor '%s': type %s holds no weights", s->source, name, gr_dtype_name(t->view.dtype));
    float *x = gr_alloc(a->a, (size_t)n * sizeof *x);
    graft_status st = x ? GRAFT_OK : gr_fail_memory(err);
    double *sum = gr_calloc(a->a, (size_t)n, sizeof *sum);
    if (!sum) st = gr_fail_memory(err);
    for (int64_t k = part < 0 ? 0 : part; st == GRAFT_OK && k < (part < 0 ? parts : part + 1); k++) {
        const char *from = (const char *)t->view.data + gr_dtype_bytes(t->view.dtype, (size_t)(k * n));
        st = gr_dequantize_row(t->view.dtype, from, (size_t)n, x, err);
        for (int64_t i = 0; st == GRAFT_OK && i < n; i++) sum[i] += (double)x[i];
    }
    for (int64_t i = 0; st == GRAFT_OK && i < n; i++) gr_param_put(p, i, sum[i] / (double)(part < 0 ? parts : 1));
    gr_free(a->a, x);
    gr_free(a->a, sum);
    return st;
}

static graft_status from_source(gr_adapter *a, graft_error *err) {
    struct multitask *s = a->state;
    gr_safetensors *f;
    int64_t part = s->init == AVERAGE ? -1 : s->source_task;
    GR_TRY(gr_safetensors_open(a->a, s->source, &f, err));
    const gr_tensor_list *list = gr_safetensors_tensors(f);
    graft_status st = take(a, list, "prompt_embeddings", 0, s->shared, err);
    if (st == GRAFT_OK && s->init != SHARED) st = take(a, list, "prefix_task_cols", part, s->cols, err);
    if (st == GRAFT_OK && s->init != SHARED) st = take(a, list, "prefix_task_rows", part, s->rows, err);
    gr_safetensors_close(f);
    return st;
}

static graft_status initialise(gr_adapter *a, uint64_t seed, graft_error *err) {
    struct multitask *s = a->state;
    int32_t *ids;
    size_t n;
    gr_adapter_fill(s->shared, seed, true, 1);
    gr_adapter_fill(s->cols, seed, true, 0.02);
    gr_adapter_fill(s->rows, seed, true, 0.02);
    if (s->source) return from_source(a, err);
    if (s->init != TEXT) return GRAFT_OK;
    GR_TRY(gr_prompt_text_ids(a, s->text, s->tokenizer, &ids, &n, err));
    graft_status st = gr_prompt_copy_embeddings(a, s->shared, ids, n, err);
    graft_free(gr_model_context(a->model), ids);
    return st;
}

/* --- Parameters --------------------------------------------------------------------------------------------------------- */

static graft_status add(gr_adapter *a, const char *name, gr_shape shape, gr_param **out, graft_error *err) {
    GR_TRY(gr_adapter_new_param(a, name, &shape, true, out, err));
    return gr_adapter_add(a, name, *out, -1, err);
}

static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    struct multitask *s = a->state;
    GR_TRY(read_config(a, config, fresh, err));
    GR_TRY(gr_prompt_modules(a, err));
    const int64_t width = s->p.token_dim;
    GR_TRY(add(a, "prompt_embeddings", gr_shape2(s->p.n_rows, width), &s->shared, err));
    GR_TRY(add(a, "prefix_task_cols", gr_shape3(s->n_tasks, s->p.n_rows, s->n_ranks), &s->cols, err));
    GR_TRY(add(a, "prefix_task_rows", gr_shape3(s->n_tasks, s->n_ranks, width), &s->rows, err));
    a->n_virtual = (int)s->p.n_tokens;
    a->n_tasks = (int)s->n_tasks;
    a->n_rows = (int)(s->n_tasks * s->p.n_tokens);
    return fresh ? initialise(a, seed, err) : GRAFT_OK;
}

/* --- Around the passes of a step ------------------------------------------------------------------------------------------ */

/* Element (i, c) of C_t R_t. */
static double factor_at(const struct multitask *s, int64_t t, int64_t i, int64_t c) {
    double sum = 0;
    for (int64_t k = 0; k < s->n_ranks; k++)
        sum += gr_param_at(s->cols, (t * s->p.n_rows + i) * s->n_ranks + k) * gr_param_at(s->rows, (t * s->n_ranks + k) * s->p.token_dim + c);
    return sum;
}

/* Its size follows from tensors that the directory has by now, so that the limit on what a configuration may ask for is met. */
static graft_status make_table(gr_adapter *a, graft_error *err) {
    struct multitask *s = a->state;
    const gr_shape shape = gr_shape2(s->n_tasks * s->p.n_tokens, s->p.token_dim);
    a->most_bytes = 0;
    return gr_adapter_new_param(a, "prompts", &shape, true, &s->p.rows, err);
}

static graft_status refresh(gr_adapter *a, uint64_t key, bool training, graft_error *err) {
    const struct multitask *s = a->state;
    const int64_t width = s->p.token_dim;
    (void)key;
    if (!s->p.rows) GR_TRY(make_table(a, err));
    for (int64_t t = 0; t < s->n_tasks; t++)
        for (int64_t i = 0; i < s->p.n_tokens; i++)
            for (int64_t c = 0; c < width; c++)
                gr_param_put(s->p.rows, (t * s->p.n_tokens + i) * width + c, gr_param_at(s->shared, i * width + c) * factor_at(s, t, i, c));
    if (training) memset(s->p.rows->grad, 0, gr_dtype_bytes(s->p.rows->dtype, (size_t)s->p.rows->n));
    return GRAFT_OK;
}

static graft_status collect(gr_adapter *a, graft_error *err) {
    const struct multitask *s = a->state;
    const int64_t width = s->p.token_dim, ranks = s->n_ranks;
    (void)err;
    for (int64_t t = 0; t < s->n_tasks; t++)
        for (int64_t i = 0; i < s->p.n_tokens; i++)
            for (int64_t c = 0; c < width; c++) {
                double d = gr_param_grad_at(s->p.rows, (t * s->p.n_tokens + i) * width + c);
                if (d == 0) continue; /* of a task that the step did not have */
                double by = d * gr_param_at(s->shared, i * width + c);
                gr_param_add_grad(s->shared, i * width + c, d * factor_at(s, t, i, c));
                for (int64_t k = 0; k < ranks; k++) {
                    int64_t col = (t * s->p.n_rows + i) * ranks + k, row = (t * ranks + k) * width + c;
                    gr_param_add_grad(s->cols, col, by * gr_param_at(s->rows, row));
                    gr_param_add_grad(s->rows, row, by * gr_param_at(s->cols, col));
                }
            }
    return GRAFT_OK;
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const struct multitask *s = a->state;
    gr_config_add_auto_mapping(b, &s->p.common);
    gr_config_add_text(b, "base_model_name_or_path", s->p.common.base_model);
    gr_config_add_bool(b, "inference_mode", true);
    gr_config_add_targets(b, "modules_to_save", &s->p.modules_to_save);
    gr_config_add_int(b, "num_attention_heads", s->p.n_heads);
    gr_config_add_int(b, "num_layers", s->p.n_layers);
    gr_config_add_int(b, "num_ranks", s->n_ranks);
    gr_config_add_int(b, "num_tasks", s->n_tasks);
    gr_config_add_int(b, "num_transformer_submodules", s->p.n_submodules);
    gr_config_add_int(b, "num_virtual_tokens", s->p.n_tokens);
    gr_config_add_text(b, "peft_type", "MULTITASK_PROMPT_TUNING");
    gr_config_add_text(b, "peft_version", GR_PEFT_VERSION);
    gr_config_add_text(b, "prompt_tuning_init", starts[s->init]);
    gr_config_add_text(b, "prompt_tuning_init_state_dict_path", s->source);
    gr_config_add_int(b, "prompt_tuning_init_task", s->source_task);
    gr_config_add_text(b, "prompt_tuning_init_text", s->text);
    gr_config_add_text(b, "revision", s->p.common.revision);
    gr_config_add_text(b, "task_type", s->p.common.task_type);
    gr_config_add_int(b, "token_dim", s->p.token_dim);
    gr_config_add_text(b, "tokenizer_kwargs", NULL);
    gr_config_add_text(b, "tokenizer_name_or_path", s->tokenizer);
    gr_config_close(b);
}

static void facts(const gr_adapter *a, gr_buf *b) {
    const struct multitask *s = a->state;
    gr_prompt_facts(a, b);
    gr_buf_add_format(b, "\"num_tasks\": %lld, ", (long long)s->n_tasks);
}

const gr_adapter_method gr_adapter_multitask = {.name = "multitask-prompt-tuning", .peft_type = "MULTITASK_PROMPT_TUNING",
                                                .state_size = sizeof(struct multitask), .create = create, .free = gr_prompt_free,
                                                .write_config = write_config, .facts = facts, .embedding = gr_prompt_embedding,
                                                .refresh = refresh, .collect = collect};
