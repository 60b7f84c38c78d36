/* Prompt tuning (Lester et al. 2021): the embeddings of a few virtual tokens in front of every sequence are trained.
 * Reference: peft 0.21 tuners/prompt_tuning. They begin as normal numbers, as the embeddings of a text's tokens (repeated or
 * cut to fit) or of tokens drawn from the vocabulary. */
#include "adapter/lora.h"
#include "adapter/prompt.h"

struct prompt_tuning {
    gr_prompt p;
    const char *init, *text, *tokenizer;
};

static const char *const known[] = {"auto_mapping", "base_model_name_or_path", "inference_mode", "modules_to_save",
                                    "num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens",
                                    "peft_type", "peft_version", "prompt_template", "prompt_tuning_init", "prompt_tuning_init_text",
                                    "revision",
                                    "task_type", "token_dim", "tokenizer_kwargs", "tokenizer_name_or_path", NULL};

static graft_status read_config(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err) {
    struct prompt_tuning *s = a->state;
    const gr_model_config *c = gr_model_get_config(a->model);
    GR_TRY(gr_prompt_read(a, json, fresh, known, c->n_heads, c->hidden_size, err));
    s->p.n_rows = s->p.n_tokens * s->p.n_submodules;
    s->init = "RANDOM";
    GR_TRY(gr_config_text(a, json, "prompt_tuning_init", &s->init, err));
    GR_TRY(gr_config_text(a, json, "prompt_tuning_init_text", &s->text, err));
    GR_TRY(gr_config_text(a, json, "tokenizer_name_or_path", &s->tokenizer, err));
    bool text = strcmp(s->init, "TEXT") == 0;
    if (!text && strcmp(s->init, "RANDOM") != 0 && strcmp(s->init, "SAMPLE_VOCAB") != 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: prompt_tuning_init '%s', expected RANDOM, TEXT or SAMPLE_VOCAB", a->where,
                       s->init);
    if (!fresh) return GRAFT_OK;
    if (gr_config_says(json, "tokenizer_kwargs"))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: 'tokenizer_kwargs' is not supported", a->where);
    if (text && !s->text)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: prompt_tuning_init TEXT needs 'prompt_tuning_init_text'", a->where);
    if (text && !s->tokenizer) s->tokenizer = gr_model_path(a->model);
    return GRAFT_OK;
}

static const char *embedding_name(gr_adapter *a, graft_error *err) {
    for (size_t i = 0; i < gr_model_n_sites(a->model); i++)
        if (gr_model_site(a->model, i)->role == GR_ROLE_EMBED)
            return gr_adapter_text(a, err, "%s.weight", gr_model_site(a->model, i)->name);
    gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: the model has no table of embeddings", a->where);
    return NULL;
}

graft_status gr_prompt_copy_embeddings(gr_adapter *a, gr_param *p, const int32_t *ids, size_t n, graft_error *err) {
    int64_t width = p->shape.d[1];
    const char *table = embedding_name(a, err);
    if (!table) return GRAFT_ERR_UNSUPPORTED;
    float *row = gr_alloc(a->a, (size_t)width * sizeof *row);
    graft_status st = row ? GRAFT_OK : gr_fail_memory(err);
    for (int64_t i = 0; st == GRAFT_OK && i < p->shape.d[0]; i++) {
        st = gr_model_read_tensor(a->model, table, ids[(size_t)i % n], 1, row, err);
        for (int64_t k = 0; st == GRAFT_OK && k < width; k++) gr_param_put(p, i * width + k, row[k]);
    }
    gr_free(a->a, row);
    return st;
}

static graft_status from_text(gr_adapter *a, graft_error *err) {
    const struct prompt_tuning *s = a->state;
    int32_t *ids = NULL;
    size_t n = 0;
    GR_TRY(gr_prompt_text_ids(a, s->text, s->tokenizer, &ids, &n, err));
    graft_status st = gr_prompt_copy_embeddings(a, s->p.rows, ids, n, err);
    graft_free(gr_model_context(a->model), ids);
    return st;
}

static graft_status from_vocabulary(gr_adapter *a, uint64_t seed, graft_error *err) {
    const gr_prompt *p = a->state;
    uint64_t stream = gr_rng_stream(GR_RNG_INIT, gr_hash_bytes("vocabulary", 10, 0));
    int32_t *ids = gr_alloc(a->a, (size_t)p->n_rows * sizeof *ids);
    if (!ids) return gr_fail_memory(err);
    for (int64_t i = 0; i < p->n_rows; i++)
        ids[i] = (int32_t)gr_rng_below(seed, stream, (uint64_t)i, (uint64_t)gr_model_get_config(a->model)->vocab_size);
    graft_status st = gr_prompt_copy_embeddings(a, p->rows, ids, (size_t)p->n_rows, err);
    gr_free(a->a, ids);
    return st;
}

static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    struct prompt_tuning *s = a->state;
    GR_TRY(read_config(a, config, fresh, err));
    GR_TRY(gr_prompt_modules(a, err));
    GR_TRY(gr_prompt_rows(a, s->p.token_dim, NULL, -1, err));
    a->n_rows = (int)s->p.n_tokens;
    a->n_virtual = a->prompt_template ? 0 : a->n_rows;
    if (!fresh) return GRAFT_OK;
    if (strcmp(s->init, "TEXT") == 0) return from_text(a, err);
    if (strcmp(s->init, "SAMPLE_VOCAB") == 0) return from_vocabulary(a, seed, err);
    gr_adapter_fill(s->p.rows, seed, true, 1);
    return GRAFT_OK;
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const struct prompt_tuning *s = a->state;
    gr_config_add_auto_mapping(b, &s->p.common);
    gr_config_add_text(b, "base_model_name_or_path", s->p.common.base_model);
    gr_config_add_bool(b, "inference_mode", true);
    gr_config_add_targets(b, "modules_to_save", &s->p.modules_to_save);
    gr_config_add_int(b, "num_attention_heads", s->p.n_heads);
    gr_config_add_int(b, "num_layers", s->p.n_layers);
    gr_config_add_int(b, "num_transformer_submodules", s->p.n_submodules);
    gr_config_add_int(b, "num_virtual_tokens", s->p.n_tokens);
    gr_config_add_text(b, "peft_type", "PROMPT_TUNING");
    gr_config_add_text(b, "peft_version", GR_PEFT_VERSION);
    gr_config_add_text(b, "prompt_tuning_init", s->init);
    gr_config_add_text(b, "prompt_tuning_init_text", s->text);
    gr_config_add_text(b, "revision", s->p.common.revision);
    gr_config_add_text(b, "task_type", s->p.common.task_type);
    gr_config_add_int(b, "token_dim", s->p.token_dim);
    gr_config_add_text(b, "tokenizer_kwargs", NULL);
    gr_config_add_text(b, "tokenizer_name_or_path", s->tokenizer);
    gr_config_close(b);
}

const gr_adapter_method gr_adapter_prompt_tuning = {.name = "prompt-tuning", .peft_type = "PROMPT_TUNING",
                                                    .state_size = sizeof(struct prompt_tuning), .create = create,
                                                    .free = gr_prompt_free, .write_config = write_config,
                                                    .facts = gr_prompt_facts, .embedding = gr_prompt_embedding};
