/* Rows of prompts: common configuration, encoder runs, virtual tokens. Reference: peft 0.21 peft_model.get_prompt,
 * utils/other._prepare_prompt_learning_config.
 *
 * What an encoder makes is the same for every sequence of a step: it runs once in front of the passes, and its backward once
 * behind them, from the gradient that all of them summed row by row. So no cut of the batch changes a bit of it. */
#include "adapter/lora.h"
#include "adapter/prompt.h"
#include "text/slots.h"

graft_status gr_prompt_place(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err) {
    gr_prompt *p = a->state;
    gr_slots slots, *kept;
    if (fresh) GR_TRY(gr_config_text(a, json, "prompt_template", &a->prompt_template, err));
    if (a->prompt_template) {
        const gr_task task = gr_model_get_config(a->model)->task;
        GR_TRY(gr_slots_parse(&a->arena, a->where, a->prompt_template, &slots, err));
        GR_TRY(gr_slots_check_answer(&slots, a->where, task != GR_TASK_SEQ_CLS && task != GR_TASK_FEATURES, err));
        if (!(kept = gr_arena_alloc(&a->arena, sizeof *kept))) return gr_fail_memory(err);
        *kept = slots;
        a->slots = kept;
        if (!p->n_tokens) p->n_tokens = slots.n_virtual;
        if (p->n_tokens != slots.n_virtual)
            return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: prompt_template has %d pseudo-tokens, num_virtual_tokens is %lld", a->where,
                           slots.n_virtual, (long long)p->n_tokens);
    }
    return GRAFT_OK;
}

graft_status gr_prompt_read(gr_adapter *a, const gr_json_value *json, bool fresh, const char *const *known, int64_t heads,
                            int64_t dim, graft_error *err) {
    gr_prompt *p = a->state;
    const gr_model_config *c = gr_model_get_config(a->model);
    /* The reference counts the layers of the encoder, and makes rows for both parts unless it is told otherwise. */
    const int layers = c->n_encoder_layers ? c->n_encoder_layers : c->n_layers, parts = c->n_encoder_layers ? 2 : 1;
    *p = (gr_prompt){.token_dim = dim, .n_heads = heads, .n_layers = layers, .n_submodules = parts};
    if (c->task == GR_TASK_SEQ_CLS && c->n_encoder_layers)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "%s: a T5 classifier takes tokens alone, in peft too: %s has nowhere to put its rows", a->where,
                       a->method->name);
    if (fresh) GR_TRY(gr_config_known(a, json, known, err));
    GR_TRY(gr_config_targets(a, json, "modules_to_save", false, &p->modules_to_save, err));
    if (a->scale != 1)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: prompts have no delta that could be scaled by %g", a->where, a->scale);
    GR_TRY(gr_config_common(a, json, &p->common, err));
    GR_TRY(gr_config_int(a, json, "num_virtual_tokens", 1, 1 << 20, &p->n_tokens, err));
    GR_TRY(gr_config_int(a, json, "token_dim", 1, INT32_MAX, &p->token_dim, err));
    GR_TRY(gr_config_int(a, json, "num_attention_heads", 1, INT32_MAX, &p->n_heads, err));
    GR_TRY(gr_config_int(a, json, "num_layers", 1, INT32_MAX, &p->n_layers, err));
    GR_TRY(gr_config_int(a, json, "num_transformer_submodules", 1, INT32_MAX, &p->n_submodules, err));
    GR_TRY(gr_prompt_place(a, json, fresh, err));
    if (!p->n_tokens) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected 'num_virtual_tokens'", a->where);
    if (p->n_submodules > parts)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: num_transformer_submodules is %lld, this model has %d", a->where,
                       (long long)p->n_submodules, parts);
    p->n_rows = p->n_tokens;
    if (p->token_dim != dim || p->n_layers != layers)
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "%s: not made for this base model: %lld layers of token_dim %lld, expected %d of %lld", a->where,
                       (long long)p->n_layers, (long long)p->token_dim, layers, (long long)dim);
    return GRAFT_OK;
}

/* peft stores them without the "model." that it puts in front of other methods' names. */
graft_status gr_prompt_modules(gr_adapter *a, graft_error *err) {
    static const char usual[] = "base_model.model.";
    const gr_prompt *p = a->state;
    const gr_lora_config c = {.modules_to_save = p->modules_to_save};
    const char **tensors, **stored;
    size_t n;
    if (!c.modules_to_save.n) return GRAFT_OK;
    GR_TRY(gr_lora_find_extra(a, &c, NULL, 0, &tensors, &stored, &n, err));
    for (size_t i = 0; i < n; i++)
        if (!(stored[i] = gr_adapter_text(a, err, "base_model.%s", stored[i] + strlen(usual)))) return GRAFT_ERR_MEMORY;
    return n ? gr_adapter_add_variant(a, tensors, stored, n, true, err) : GRAFT_OK;
}

/* --- Rows ---------------------------------------------------------------------------------------------------------------- */

/* What the encoder's tape takes at most. */
static graft_status plan(gr_adapter *a, size_t *bytes, graft_error *err) {
    const gr_prompt *p = a->state;
    gr_tape_options options = {.record = true, .dry = true};
    gr_pool *pool;
    gr_tape *tape = NULL;
    gr_var *out;
    GR_TRY(gr_pool_new(a->a, 0, true, &pool, err));
    graft_status st = gr_tape_new(gr_model_device(a->model), pool, &options, &tape, err);
    if (st == GRAFT_OK) st = p->encoder(a, tape, 1, &out, err);
    if (st == GRAFT_OK) st = gr_tape_backward(tape, out, NULL, err);
    *bytes = gr_pool_peak(pool);
    gr_tape_free(tape);
    gr_pool_free(pool);
    return st;
}

graft_status gr_prompt_rows(gr_adapter *a, int64_t width, gr_prompt_encoder encoder, int layer, graft_error *err) {
    gr_prompt *p = a->state;
    gr_shape shape = gr_shape2(p->n_rows, width);
    GR_TRY(gr_adapter_new_param(a, "prompt_embeddings", &shape, true, &p->rows, err));
    if (!encoder) return gr_adapter_add(a, "prompt_embeddings", p->rows, layer, err);
    size_t bytes;
    p->encoder = encoder;
    if (!(p->places = gr_arena_alloc(&a->arena, (size_t)p->n_rows * sizeof *p->places))) return gr_fail_memory(err);
    for (int32_t i = 0; i < p->n_rows; i++) p->places[i] = i;
    GR_TRY(plan(a, &bytes, err));
    GR_TRY(gr_pool_new(a->a, bytes, false, &p->pool, err));
    a->bytes += bytes;
    return gr_adapter_store(a, "prompt_embeddings", p->rows, GR_FILE_DERIVED, err);
}

graft_status gr_prompt_encoder_param(gr_adapter *a, const char *name, gr_shape shape, gr_encoder_init init, double bound,
                                     int layer, uint64_t seed, gr_param **out, graft_error *err) {
    const char *full = gr_adapter_text(a, err, "prompt_encoder.%s", name);
    if (!full) return GRAFT_ERR_MEMORY;
    GR_TRY(gr_adapter_new_param(a, full, &shape, shape.n > 1, out, err));
    if (init != GR_INIT_ZERO) gr_adapter_fill(*out, seed, init == GR_INIT_NORMAL, bound);
    return gr_adapter_add_encoder(a, full, *out, layer, err);
}

static void end_run(gr_prompt *p) {
    gr_tape_free(p->tape);
    p->tape = NULL;
    p->out = NULL;
}

void gr_prompt_free(gr_adapter *a) {
    gr_prompt *p = a->state;
    end_run(p);
    gr_pool_free(p->pool);
}

graft_status gr_prompt_refresh(gr_adapter *a, uint64_t key, bool training, graft_error *err) {
    gr_prompt *p = a->state;
    if (!p->encoder) return GRAFT_OK;
    size_t bytes = gr_dtype_bytes(p->rows->dtype, (size_t)p->rows->n);
    gr_tape_options options = {.record = training};
    end_run(p);
    GR_TRY(gr_tape_new(gr_model_device(a->model), p->pool, &options, &p->tape, err));
    GR_TRY(p->encoder(a, p->tape, key, &p->out, err));
    memcpy(p->rows->value, gr_var_array(p->out)->data, bytes);
    if (training)
        memset(p->rows->grad, 0, bytes);
    else
        end_run(p);
    return GRAFT_OK;
}

graft_status gr_prompt_collect(gr_adapter *a, graft_error *err) {
    gr_prompt *p = a->state;
    if (!p->tape) return GRAFT_OK;
    gr_array seed = {p->rows->dtype, p->rows->shape, p->rows->grad};
    graft_status st = gr_tape_backward(p->tape, p->out, &seed, err);
    end_run(p);
    return st;
}

/* --- Hooks --------------------------------------------------------------------------------------------------------------- */

graft_status gr_prompt_embedding(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_embedding *e, gr_var **y,
                                 graft_error *err) {
    const gr_prompt *p = a->state;
    gr_var *in[2] = {*y, NULL};
    gr_put_rows_params params = {.n = rows->input.n, .at = rows->input.at, .id = rows->input.id, .stride = 1};
    (void)e;
    if (!rows->input.n) return GRAFT_OK;
    GR_TRY(gr_nn_leaf(run->tape, p->rows, &in[1], err));
    GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_put_rows, in, 2, &params, y, err));
    gr_var_drop(in[1]);
    return GRAFT_OK;
}

void gr_prompt_facts(const gr_adapter *a, gr_buf *b) {
    const gr_prompt *p = a->state;
    gr_buf_add_format(b, "\"num_virtual_tokens\": %lld, ", (long long)p->n_tokens);
}
