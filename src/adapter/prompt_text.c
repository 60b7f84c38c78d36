/* Prompts that begin as a text: its tokens, and the keys and values that the bare model makes of them. */
#include "adapter/prompt.h"
#include "graft/tokenizer.h"

graft_status gr_prompt_text_ids(gr_adapter *a, const char *text, const char *tokenizer, int32_t **out, size_t *n_out,
                                graft_error *err) {
    graft_context *ctx = gr_model_context(a->model);
    const int64_t vocab = gr_model_get_config(a->model)->vocab_size;
    graft_tokenizer *tok;
    int32_t *ids = NULL;
    size_t n = 0;
    GR_TRY(graft_tokenizer_load(ctx, tokenizer, &tok, err));
    graft_status st = graft_tokenizer_encode(tok, text, strlen(text), GRAFT_TOK_ADD_SPECIAL, &ids, &n, err);
    if (st == GRAFT_OK && n == 0)
        st = gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: prompt_tuning_init_text has no tokens", a->where);
    for (size_t i = 0; st == GRAFT_OK && i < n; i++)
        if (ids[i] >= vocab)
            st = gr_fail(err, GRAFT_ERR_MISMATCH, "%s: prompt_tuning_init_text: id %d is outside the model's vocabulary of %d",
                         a->where, ids[i], (int)vocab);
    graft_tokenizer_free(tok);
    if (st != GRAFT_OK) {
        graft_free(ctx, ids);
        return st;
    }
    *out = ids;
    *n_out = n;
    return GRAFT_OK;
}

/* One pass of the bare model over the tokens, its keys and values into `kv`. */
static graft_status run_tokens(gr_adapter *a, const int32_t *ids, int32_t n, const gr_kv *kv, graft_error *err) {
    const int32_t bounds[2] = {0, n}, last = n - 1;
    const gr_batch batch = {.n_tokens = n, .n_seqs = 1, .bounds = bounds, .ids = ids, .one_adapter = -1, .kv = &kv};
    const gr_pass_options po = {0};
    const gr_tape_options to = {0};
    gr_pool *pool = NULL;
    gr_tape *tape = NULL;
    gr_pass *pass = NULL;
    gr_var *hidden = NULL;
    graft_status st = gr_pool_new(a->a, 0, false, &pool, err);
    if (st == GRAFT_OK) st = gr_tape_new(gr_model_device(a->model), pool, &to, &tape, err);
    if (st == GRAFT_OK) st = gr_pass_new(a->model, &pass, err);
    if (st == GRAFT_OK) st = gr_pass_hidden(pass, tape, &batch, &po, &last, 1, &hidden, err);
    if (st == GRAFT_OK) gr_var_drop(hidden);
    gr_pass_free(pass);
    gr_tape_free(tape);
    gr_pool_free(pool);
    return st;
}

graft_status gr_prompt_text_rows(gr_adapter *a, const int32_t *ids, size_t n_ids, graft_error *err) {
    const gr_prompt *p = a->state;
    const gr_dtype dt = gr_model_dtype(a->model);
    gr_device *dev = gr_model_device(a->model);
    const int64_t n = p->n_tokens, width = p->token_dim, blocks = 2 * p->n_layers;
    const size_t row = gr_dtype_bytes(dt, (size_t)width);
    gr_kv_layer *layers = gr_calloc(a->a, (size_t)p->n_layers, sizeof *layers);
    gr_kv_target *targets = gr_calloc(a->a, (size_t)p->n_layers, sizeof *targets);
    int32_t *repeated = gr_calloc(a->a, (size_t)n, sizeof *repeated);
    char *made = gr_calloc(a->a, (size_t)(n * blocks), row);
    graft_status st = layers && targets && repeated && made ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK) {
        for (int64_t i = 0; i < n; i++) repeated[i] = ids[(size_t)i % n_ids];
        /* The file's rows: of each token layer after layer, keys and then values. */
        for (int64_t i = 0; i < p->n_layers; i++) {
            char *k = made + (size_t)(2 * i) * row;
            targets[i] = (gr_kv_target){.k = k, .v = k + row, .k_ld = blocks * width, .v_ld = blocks * width, .n = n};
            layers[i] = (gr_kv_layer){.n_targets = 1, .targets = &targets[i]};
        }
        const gr_kv kv = {.n_layers = (int)p->n_layers, .layers = layers};
        st = run_tokens(a, repeated, (int32_t)n, &kv, err);
    }
    if (st == GRAFT_OK) dev->k->convert(dev, dt, made, p->rows->dtype, p->rows->value, (size_t)(n * blocks * width));
    gr_free(a->a, made);
    gr_free(a->a, repeated);
    gr_free(a->a, targets);
    gr_free(a->a, layers);
    return st;
}
