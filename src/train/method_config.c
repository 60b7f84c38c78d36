/* The options of a method as the adapter_config.json that peft would write for them. An option that the method does not
 * have is refused, not ignored. */
#include "train/trainer.h"

static void add_key(gr_buf *b, const char *key) { gr_buf_add_format(b, ", \"%s\": ", key); }

static void add_text(gr_buf *b, const char *key, const char *text) {
    add_key(b, key);
    gr_json_add_text(b, text, strlen(text));
}

static void add_list(gr_buf *b, const char *key, graft_texts list) {
    add_key(b, key);
    for (size_t i = 0; i < list.n; i++) {
        gr_buf_add_text(b, i ? ", " : "[");
        gr_json_add_text(b, list.items[i], strlen(list.items[i]));
    }
    gr_buf_add_char(b, ']');
}

/* A single text that is no plain module name is "all-linear" or a regular expression. */
static void add_modules(gr_buf *b, const char *key, graft_texts list) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    if (list.n == 0) return;
    if (list.n == 1 && list.items[0][strspn(list.items[0], plain)])
        add_text(b, key, list.items[0]);
    else
        add_list(b, key, list);
}

static void add_patterns(gr_buf *b, const char *key, const graft_lora_pattern *items, size_t n) {
    if (n == 0) return;
    add_key(b, key);
    for (size_t i = 0; i < n; i++) {
        gr_buf_add_text(b, i ? ", " : "{");
        gr_json_add_text(b, items[i].key, strlen(items[i].key));
        gr_buf_add_text(b, ": ");
        if (items[i].value == (double)(int64_t)items[i].value)
            gr_buf_add_format(b, "%lld", (long long)items[i].value);
        else
            gr_json_add_double(b, items[i].value);
    }
    gr_buf_add_char(b, '}');
}

/* What LoRA and its kin share. */
static void add_chosen(gr_buf *b, const graft_lora_options *l) {
    add_modules(b, "target_modules", l->target_modules);
    add_modules(b, "exclude_modules", l->exclude_modules);
    if (l->layers_to_transform) {
        add_key(b, "layers_to_transform");
        for (size_t i = 0; i < l->n_layers_to_transform; i++)
            gr_buf_add_format(b, "%s%d", i ? ", " : "[", l->layers_to_transform[i]);
        gr_buf_add_text(b, l->n_layers_to_transform ? "]" : "[]");
    }
    add_patterns(b, "rank_pattern", l->rank_pattern, l->n_rank_pattern);
    add_patterns(b, "alpha_pattern", l->alpha_pattern, l->n_alpha_pattern);
    if (l->modules_to_save.n) add_list(b, "modules_to_save", l->modules_to_save);
}

static void add_number(gr_buf *b, const char *key, double value) {
    add_key(b, key);
    if (value == (double)(int64_t)value)
        gr_buf_add_format(b, "%lld", (long long)value);
    else
        gr_json_add_double(b, value);
}

/* What AdaLoRA has too. */
static void add_lora_common(gr_buf *b, const graft_lora_options *l) {
    const char *init = l->init_lora_weights;
    add_number(b, "lora_alpha", l->lora_alpha);
    add_key(b, "lora_dropout");
    gr_json_add_double(b, l->lora_dropout);
    if (l->bias) add_text(b, "bias", l->bias);
    add_chosen(b, l);
    if (init && (!strcmp(init, "true") || !strcmp(init, "false")))
        gr_buf_add_format(b, ", \"init_lora_weights\": %s", init);
    else if (init)
        add_text(b, "init_lora_weights", init);
}

static void add_lora(gr_buf *b, const graft_lora_options *l) {
    gr_buf_add_format(b, "{\"peft_type\": \"LORA\", \"r\": %d", l->r);
    if (l->use_rslora) gr_buf_add_text(b, ", \"use_rslora\": true");
    if (l->use_dora) gr_buf_add_text(b, ", \"use_dora\": true");
    add_lora_common(b, l);
    gr_buf_add_char(b, '}');
}

/* "none" alone is the empty list. */
static void add_modules_or_none(gr_buf *b, const char *key, graft_texts list) {
    if (list.n == 1 && !strcmp(list.items[0], "none")) {
        add_key(b, key);
        gr_buf_add_text(b, "[]");
    } else
        add_modules(b, key, list);
}

static void add_ia3(gr_buf *b, const graft_sft_options *o, int n_layers) {
    (void)n_layers;
    gr_buf_add_text(b, "{\"peft_type\": \"IA3\"");
    add_modules(b, "target_modules", o->lora.target_modules);
    add_modules(b, "exclude_modules", o->lora.exclude_modules);
    add_modules_or_none(b, "feedforward_modules", o->methods.feedforward_modules);
    if (o->lora.modules_to_save.n) add_list(b, "modules_to_save", o->lora.modules_to_save);
    gr_buf_add_char(b, '}');
}

static void add_int(gr_buf *b, const char *key, int64_t value) {
    add_key(b, key);
    gr_buf_add_format(b, "%lld", (long long)value);
}

/* Where peft wants a number and has no default; of LLaMA-Adapter the paper's. */
enum { VIRTUAL_TOKENS = 20, ENCODER_HIDDEN = 128, ADAPTER_LEN = 10, ADAPTER_LAYERS = 30 };

static void add_prompt(gr_buf *b, const char *type, const graft_method_options *m) {
    gr_buf_add_format(b, "{\"peft_type\": \"%s\"", type);
    if (m->prompt_template) add_text(b, "prompt_template", m->prompt_template);
    if (m->num_virtual_tokens || !m->prompt_template)
        add_int(b, "num_virtual_tokens", m->num_virtual_tokens ? m->num_virtual_tokens : VIRTUAL_TOKENS);
}

static void add_prompt_start(gr_buf *b, const graft_method_options *m) {
    if (m->prompt_tuning_init) add_text(b, "prompt_tuning_init", m->prompt_tuning_init);
    if (m->prompt_tuning_init_text) add_text(b, "prompt_tuning_init_text", m->prompt_tuning_init_text);
    if (m->tokenizer_name_or_path) add_text(b, "tokenizer_name_or_path", m->tokenizer_name_or_path);
}

static void add_prompt_tuning(gr_buf *b, const graft_sft_options *o, int n_layers) {
    (void)n_layers;
    add_prompt(b, "PROMPT_TUNING", &o->methods);
    add_prompt_start(b, &o->methods);
    gr_buf_add_char(b, '}');
}

static void add_multitask(gr_buf *b, const graft_sft_options *o, int n_layers) {
    const graft_method_options *m = &o->methods;
    (void)n_layers;
    add_prompt(b, "MULTITASK_PROMPT_TUNING", m);
    if (m->num_tasks) add_int(b, "num_tasks", m->num_tasks);
    if (m->num_ranks) add_int(b, "num_ranks", m->num_ranks);
    if (m->prompt_tuning_init) add_text(b, "prompt_tuning_init", m->prompt_tuning_init);
    if (m->prompt_tuning_init_text) add_text(b, "prompt_tuning_init_text", m->prompt_tuning_init_text);
    if (m->tokenizer_name_or_path) add_text(b, "tokenizer_name_or_path", m->tokenizer_name_or_path);
    if (m->prompt_tuning_init_state_dict_path) add_text(b, "prompt_tuning_init_state_dict_path", m->prompt_tuning_init_state_dict_path);
    if (m->prompt_tuning_init_task) add_int(b, "prompt_tuning_init_task", m->prompt_tuning_init_task);
    gr_buf_add_char(b, '}');
}

static void add_prefix_tuning(gr_buf *b, const graft_sft_options *o, int n_layers) {
    (void)n_layers;
    const graft_method_options *m = &o->methods;
    add_prompt(b, "PREFIX_TUNING", m);
    if (m->prefix_projection) {
        gr_buf_add_text(b, ", \"prefix_projection\": true");
        add_int(b, "encoder_hidden_size", m->encoder_hidden_size ? m->encoder_hidden_size : ENCODER_HIDDEN);
    }
    if (m->init_weights) add_text(b, "init_weights", m->init_weights);
    add_prompt_start(b, m);
    gr_buf_add_char(b, '}');
}

static void add_p_tuning(gr_buf *b, const graft_sft_options *o, int n_layers) {
    (void)n_layers;
    const graft_method_options *m = &o->methods;
    add_prompt(b, "P_TUNING", m);
    add_int(b, "encoder_hidden_size", m->encoder_hidden_size ? m->encoder_hidden_size : ENCODER_HIDDEN);
    if (m->encoder_reparameterization_type) add_text(b, "encoder_reparameterization_type", m->encoder_reparameterization_type);
    if (m->encoder_num_layers) add_int(b, "encoder_num_layers", m->encoder_num_layers);
    if (m->encoder_dropout != 0) {
        add_key(b, "encoder_dropout");
        gr_json_add_double(b, m->encoder_dropout);
    }
    gr_buf_add_char(b, '}');
}

static void add_llama_adapter(gr_buf *b, const graft_sft_options *o, int n_layers) {
    const graft_method_options *m = &o->methods;
    gr_buf_add_text(b, "{\"peft_type\": \"ADAPTION_PROMPT\"");
    add_int(b, "adapter_len", m->adapter_len ? m->adapter_len : ADAPTER_LEN);
    add_int(b, "adapter_layers", m->adapter_layers ? m->adapter_layers : GR_MIN(ADAPTER_LAYERS, n_layers));
    gr_buf_add_char(b, '}');
}

static void add_ln_tuning(gr_buf *b, const graft_sft_options *o, int n_layers) {
    (void)n_layers;
    gr_buf_add_text(b, "{\"peft_type\": \"LN_TUNING\"");
    add_modules(b, "target_modules", o->lora.target_modules);
    add_modules(b, "exclude_modules", o->lora.exclude_modules);
    if (o->lora.modules_to_save.n) add_list(b, "modules_to_save", o->lora.modules_to_save);
    gr_buf_add_char(b, '}');
}

static void add_kin(gr_buf *b, const char *type, const graft_sft_options *o) {
    const graft_method_options *m = &o->methods;
    const char *init = m->init_weights;
    gr_buf_add_format(b, "{\"peft_type\": \"%s\"", type);
    if (m->r) add_int(b, "r", m->r);
    if (m->alpha != 0) add_number(b, "alpha", m->alpha);
    if (init && (!strcmp(init, "true") || !strcmp(init, "false")))
        gr_buf_add_format(b, ", \"init_weights\": %s", init);
    else if (init)
        add_text(b, "init_weights", init);
    add_chosen(b, &o->lora);
}

static void add_vera(gr_buf *b, const graft_sft_options *o, int n_layers) {
    const graft_method_options *m = &o->methods;
    (void)n_layers;
    add_kin(b, "VERA", o);
    if (m->vera_dropout != 0) add_number(b, "vera_dropout", m->vera_dropout);
    if (m->d_initial != 0) add_number(b, "d_initial", m->d_initial);
    if (m->projection_prng_key) add_int(b, "projection_prng_key", m->projection_prng_key);
    if (m->no_save_projection) gr_buf_add_text(b, ", \"save_projection\": false");
    gr_buf_add_char(b, '}');
}

static void add_loha(gr_buf *b, const graft_sft_options *o, int n_layers) {
    (void)n_layers;
    add_kin(b, "LOHA", o);
    gr_buf_add_char(b, '}');
}

static void add_lokr(gr_buf *b, const graft_sft_options *o, int n_layers) {
    (void)n_layers;
    add_kin(b, "LOKR", o);
    if (o->methods.decompose_both) gr_buf_add_text(b, ", \"decompose_both\": true");
    if (o->methods.decompose_factor) add_int(b, "decompose_factor", o->methods.decompose_factor);
    gr_buf_add_char(b, '}');
}

static void add_oft(gr_buf *b, const graft_sft_options *o, int n_layers) {
    const graft_method_options *m = &o->methods;
    (void)n_layers;
    add_kin(b, "OFT", o);
    if (m->oft_block_size || m->r) add_int(b, "oft_block_size", m->oft_block_size);
    if (m->coft) gr_buf_add_text(b, ", \"coft\": true");
    if (m->eps != 0) add_number(b, "eps", m->eps);
    if (m->block_share) gr_buf_add_text(b, ", \"block_share\": true");
    if (m->no_use_cayley_neumann) gr_buf_add_text(b, ", \"use_cayley_neumann\": false");
    if (m->num_cayley_neumann_terms) add_int(b, "num_cayley_neumann_terms", m->num_cayley_neumann_terms);
    gr_buf_add_char(b, '}');
}

static void add_adalora(gr_buf *b, const graft_sft_options *o, int n_layers) {
    const graft_method_options *m = &o->methods;
    (void)n_layers;
    gr_buf_add_text(b, "{\"peft_type\": \"ADALORA\"");
    if (m->init_r) add_int(b, "init_r", m->init_r);
    if (m->target_r) add_int(b, "target_r", m->target_r);
    if (m->tinit) add_int(b, "tinit", m->tinit);
    if (m->tfinal) add_int(b, "tfinal", m->tfinal);
    if (m->delta_t) add_int(b, "deltaT", m->delta_t);
    if (m->total_step) add_int(b, "total_step", m->total_step);
    if (m->beta1 != 0) add_number(b, "beta1", m->beta1);
    if (m->beta2 != 0) add_number(b, "beta2", m->beta2);
    add_number(b, "orth_reg_weight", m->orth_reg_weight);
    add_lora_common(b, &o->lora);
    gr_buf_add_char(b, '}');
}

static void add_bitfit(gr_buf *b, const graft_sft_options *o, int n_layers) {
    (void)n_layers;
    gr_buf_add_text(b, "{\"peft_type\": \"BITFIT\"");
    add_modules(b, "target_modules", o->lora.target_modules);
    add_modules(b, "exclude_modules", o->lora.exclude_modules);
    if (o->lora.modules_to_save.n) add_list(b, "modules_to_save", o->lora.modules_to_save);
    gr_buf_add_char(b, '}');
}

static void add_full(gr_buf *b, const graft_sft_options *o, int n_layers) {
    (void)n_layers;
    gr_buf_add_text(b, "{\"peft_type\": \"FULL\"");
    add_modules(b, "target_modules", o->lora.target_modules);
    gr_buf_add_char(b, '}');
}

static void add_lora_of(gr_buf *b, const graft_sft_options *o, int n_layers) {
    (void)n_layers;
    add_lora(b, &o->lora);
}

static const struct {
    const char *name;
    void (*add)(gr_buf *b, const graft_sft_options *o, int n_layers);
} methods[] = {{"lora", add_lora_of}, {"adalora", add_adalora}, {"full", add_full}, {"ia3", add_ia3}, {"prompt-tuning", add_prompt_tuning},
               {"prefix-tuning", add_prefix_tuning}, {"p-tuning", add_p_tuning}, {"llama-adapter", add_llama_adapter},
               {"ln-tuning", add_ln_tuning}, {"bitfit", add_bitfit},
               {"vera", add_vera}, {"loha", add_loha}, {"lokr", add_lokr}, {"oft", add_oft}, {"multitask-prompt-tuning", add_multitask}};

/* --- Options of other methods -------------------------------------------------------------------------------------------- */

typedef struct use {
    const char *option;
    bool given;
    const char *methods; /* that have it, each between blanks */
} use;

/* Given options that the method has not, or that come with its adapter. */
static graft_status check_given(const use *uses, size_t n, const char *adapter, const char *method, graft_error *err) {
    char name[64];
    snprintf(name, sizeof name, " %s ", method);
    for (size_t i = 0; i < n; i++) {
        if (!uses[i].given) continue;
        if (!strstr(uses[i].methods, name))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: method %s has no such option", uses[i].option, method);
        if (adapter && strncmp(uses[i].option, "loraplus_", 9) != 0) /* which is the optimiser's */
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: with adapter the settings are those of %s", uses[i].option,
                           adapter);
    }
    return GRAFT_OK;
}

/* Every option: whether it is given, and the methods that have it. First those that stand among LoRA's. */
static graft_status check_lora_uses(const graft_sft_options *o, const char *method, graft_error *err) {
    const graft_lora_options *l = &o->lora, d = graft_lora_options_default();
    const use uses[] = {
        {"lora_r", l->r != d.r, " lora "},
        {"lora_alpha", l->lora_alpha != d.lora_alpha, " lora adalora "},
        {"lora_dropout", l->lora_dropout != 0, " lora adalora "},
        {"use_rslora", l->use_rslora != 0, " lora "},
        {"use_dora", l->use_dora != 0, " lora "},
        {"lora_bias", l->bias != NULL, " lora adalora "},
        {"target_modules", l->target_modules.n > 0, " lora adalora ia3 ln-tuning bitfit full vera loha lokr oft "},
        {"exclude_modules", l->exclude_modules.n > 0, " lora adalora ia3 ln-tuning bitfit loha lokr oft "},
        {"layers_to_transform", l->n_layers_to_transform > 0, " lora adalora vera loha lokr oft "},
        {"rank_pattern", l->n_rank_pattern > 0, " lora loha lokr "},
        {"alpha_pattern", l->n_alpha_pattern > 0, " lora loha lokr "},
        {"modules_to_save", l->modules_to_save.n > 0, " lora adalora ia3 ln-tuning bitfit vera loha lokr oft "},
        {"loraplus_lr_ratio", l->loraplus_lr_ratio != 0, " lora "},
        {"loraplus_lr_embedding", l->loraplus_lr_embedding != 0, " lora "},
        {"init_lora_weights", l->init_lora_weights != NULL, " lora adalora "},
    };
    return check_given(uses, GR_COUNT(uses), o->adapter, method, err);
}

static graft_status check_uses(const graft_sft_options *o, const char *method, graft_error *err) {
    const graft_method_options *m = &o->methods;
    const use uses[] = {
        {"feedforward_modules", m->feedforward_modules.n > 0, " ia3 "},
        {"num_virtual_tokens", m->num_virtual_tokens != 0,
         " prompt-tuning prefix-tuning p-tuning multitask-prompt-tuning "},
        {"prompt_template", m->prompt_template != NULL, " prompt-tuning p-tuning "},
        {"prompt_tuning_init", m->prompt_tuning_init != NULL, " prompt-tuning prefix-tuning multitask-prompt-tuning "},
        {"prompt_tuning_init_text", m->prompt_tuning_init_text != NULL,
         " prompt-tuning prefix-tuning multitask-prompt-tuning "},
        {"tokenizer_name_or_path", m->tokenizer_name_or_path != NULL,
         " prompt-tuning prefix-tuning multitask-prompt-tuning "},
        {"prefix_projection", m->prefix_projection != 0, " prefix-tuning "},
        {"init_weights", m->init_weights != NULL, " prefix-tuning vera loha lokr oft "},
        {"encoder_reparameterization_type", m->encoder_reparameterization_type != NULL, " p-tuning "},
        {"encoder_hidden_size", m->encoder_hidden_size != 0, " p-tuning prefix-tuning "},
        {"encoder_num_layers", m->encoder_num_layers != 0, " p-tuning "},
        {"encoder_dropout", m->encoder_dropout != 0, " p-tuning "},
        {"r", m->r != 0, " vera loha lokr oft "},
        {"alpha", m->alpha != 0, " loha lokr "},
        {"vera_dropout", m->vera_dropout != 0, " vera "},
        {"d_initial", m->d_initial != 0, " vera "},
        {"projection_prng_key", m->projection_prng_key != 0, " vera "},
        {"no_save_projection", m->no_save_projection != 0, " vera "},
        {"init_r", m->init_r != 0, " adalora "},
        {"target_r", m->target_r != 0, " adalora "},
        {"tinit", m->tinit != 0, " adalora "},
        {"tfinal", m->tfinal != 0, " adalora "},
        {"deltaT", m->delta_t != 0, " adalora "},
        {"beta1", m->beta1 != 0, " adalora "},
        {"beta2", m->beta2 != 0, " adalora "},
        {"orth_reg_weight", m->orth_reg_weight != graft_sft_options_default().methods.orth_reg_weight, " adalora "},
        {"total_step", m->total_step != 0, " adalora "},
        {"oft_block_size", m->oft_block_size != 0, " oft "},
        {"coft", m->coft != 0, " oft "},
        {"eps", m->eps != 0, " oft "},
        {"block_share", m->block_share != 0, " oft "},
        {"no_use_cayley_neumann", m->no_use_cayley_neumann != 0, " oft "},
        {"num_cayley_neumann_terms", m->num_cayley_neumann_terms != 0, " oft "},
        {"num_tasks", m->num_tasks != 0, " multitask-prompt-tuning "},
        {"num_ranks", m->num_ranks != 0, " multitask-prompt-tuning "},
        {"prompt_tuning_init_state_dict_path", m->prompt_tuning_init_state_dict_path != NULL,
         " multitask-prompt-tuning "},
        {"prompt_tuning_init_task", m->prompt_tuning_init_task != 0, " multitask-prompt-tuning "},
        {"decompose_both", m->decompose_both != 0, " lokr "},
        {"decompose_factor", m->decompose_factor != 0, " lokr "},
        {"adapter_len", m->adapter_len != 0, " llama-adapter "},
        {"adapter_layers", m->adapter_layers != 0, " llama-adapter "},
    };
    GR_TRY(check_lora_uses(o, method, err));
    return check_given(uses, GR_COUNT(uses), o->adapter, method, err);
}

static graft_status check_name(const char *method, graft_error *err) {
    for (size_t i = 0; i < GR_COUNT(methods); i++)
        if (!strcmp(methods[i].name, method)) return GRAFT_OK;
    char list[512] = "";
    for (size_t i = 0, at = 0; i < GR_COUNT(methods); i++)
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", methods[i].name);
    return gr_fail(err, GRAFT_ERR_ARGUMENT, "method: expected one of %s, found %s", list, method);
}

graft_status gr_method_check_options(const graft_sft_options *o, graft_error *err) {
    const graft_lora_options *l = &o->lora;
    const graft_method_options *m = &o->methods;
    const char *method = o->method ? o->method : "lora";
    GR_TRY(check_name(method, err));
    GR_TRY(check_uses(o, method, err));
    bool text = m->prompt_tuning_init && !strcmp(m->prompt_tuning_init, "TEXT");
    if ((m->prompt_tuning_init_text || m->tokenizer_name_or_path) && !text)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected prompt_tuning_init TEXT too",
                       m->prompt_tuning_init_text ? "prompt_tuning_init_text" : "tokenizer_name_or_path");
    if (l->loraplus_lr_embedding != 0 && l->loraplus_lr_ratio == 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "loraplus_lr_embedding: expected loraplus_lr_ratio too");
    if (m->eps != 0 && !m->coft) return gr_fail(err, GRAFT_ERR_ARGUMENT, "eps: expected coft too");
    if (m->num_cayley_neumann_terms && m->no_use_cayley_neumann)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "num_cayley_neumann_terms: has no meaning with no_use_cayley_neumann");
    if (m->encoder_hidden_size && !strcmp(method, "prefix-tuning") && !m->prefix_projection)
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "encoder_hidden_size: prefix-tuning has an encoder with prefix_projection only");
    return GRAFT_OK;
}

graft_status gr_method_config(const gr_trainer *t, gr_buf *out, graft_error *err) {
    enum { MOST = 64 };
    const gr_model_config *c = gr_model_get_config(t->model);
    const char *method = t->o->method ? t->o->method : "lora", *names[MOST];
    const bool prompt = strstr(" prompt-tuning prefix-tuning p-tuning multitask-prompt-tuning ", method) != NULL;
    graft_sft_options o = *t->o;
    graft_texts whole;
    GR_TRY(gr_trainer_whole_modules(t, names, MOST, &whole, err));
    if (whole.n && !strcmp(method, "llama-adapter") && gr_model_has_asked_head(t->model))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "method llama-adapter trains no module whole, as '%s' would have to be", whole.items[0]);
    if (!prompt) o.lora.modules_to_save = whole;
    for (size_t i = 0; i < GR_COUNT(methods); i++)
        if (!strcmp(methods[i].name, method)) methods[i].add(out, &o, c->n_layers);
    if (prompt && whole.n && out->len) {
        out->len--; /* the closing brace */
        add_list(out, "modules_to_save", whole);
        gr_buf_add_char(out, '}');
    }
    return gr_buf_status(out, err);
}
