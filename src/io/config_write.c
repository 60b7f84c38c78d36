/* gr_model_config to config.json, keys as transformers 5.23 writes them and sorts them; readers before version 5 find
 * rope_theta and rope_scaling, which say the same as rope_parameters. A model that comes with a config.json keeps it: there
 * may stand more in it than graft knows of. */
#include <stdio.h>

#include "io/config_parts.h"
#include "io/hf_config.h"

static void key(gr_buf *b, int indent, const char *name) {
    gr_buf_add_text(b, b->data[b->len - 1] == '{' ? "\n" : ",\n");
    gr_buf_add_format(b, "%*s\"%s\": ", indent, "", name);
}

static void add_int(gr_buf *b, const char *name, int64_t value) {
    key(b, 2, name);
    gr_buf_add_format(b, "%lld", (long long)value);
}

static void add_double(gr_buf *b, int indent, const char *name, double value) {
    key(b, indent, name);
    gr_json_add_double(b, value);
}

static void add_bool(gr_buf *b, const char *name, bool value) {
    key(b, 2, name);
    gr_buf_add_text(b, value ? "true" : "false");
}

static void add_text(gr_buf *b, int indent, const char *name, const char *value) {
    key(b, indent, name);
    gr_json_add_text(b, value, strlen(value));
}

static void add_null(gr_buf *b, const char *name) {
    key(b, 2, name);
    gr_buf_add_text(b, "null");
}

/* null, a number, or a list. */
static void add_ids(gr_buf *b, const char *name, const int64_t *ids, int n) {
    if (n == 0) {
        add_null(b, name);
    } else if (n == 1) {
        add_int(b, name, ids[0]);
    } else {
        key(b, 2, name);
        for (int i = 0; i < n; i++) gr_buf_add_format(b, "%s\n    %lld", i ? "," : "[", (long long)ids[i]);
        gr_buf_add_text(b, "\n  ]");
    }
}

/* `name` is rope_parameters, or rope_scaling for readers before transformers 5. */
static void add_rope(gr_buf *b, const char *name, const gr_rope_config *r) {
    key(b, 2, name);
    gr_buf_add_char(b, '{');
    if (r->type == GR_ROPE_YARN) {
        if (r->attention_factor > 0) add_double(b, 4, "attention_factor", r->attention_factor);
        add_double(b, 4, "beta_fast", r->beta_fast);
        add_double(b, 4, "beta_slow", r->beta_slow);
    }
    if (r->type != GR_ROPE_DEFAULT) add_double(b, 4, "factor", r->factor);
    if (r->type == GR_ROPE_LLAMA3) {
        add_double(b, 4, "high_freq_factor", r->high_freq_factor);
        add_double(b, 4, "low_freq_factor", r->low_freq_factor);
    }
    if (r->type == GR_ROPE_YARN && r->mscale > 0) add_double(b, 4, "mscale", r->mscale);
    if (r->type == GR_ROPE_YARN && r->mscale_all_dim > 0) add_double(b, 4, "mscale_all_dim", r->mscale_all_dim);
    if (r->type == GR_ROPE_LLAMA3 || r->type == GR_ROPE_YARN) {
        key(b, 4, "original_max_position_embeddings");
        gr_buf_add_format(b, "%lld", (long long)r->original_max_position_embeddings);
    }
    add_double(b, 4, "rope_theta", r->theta);
    add_text(b, 4, "rope_type", gr_rope_type_name(r->type));
    if (r->type == GR_ROPE_YARN && !r->truncate) {
        key(b, 4, "truncate");
        gr_buf_add_text(b, "false");
    }
    gr_buf_add_text(b, "\n  }");
}

static void add_layers(gr_buf *b, const gr_model_config *c) {
    key(b, 2, "layer_types");
    gr_buf_add_char(b, '[');
    for (int i = 0; i < c->n_layers; i++)
        gr_buf_add_format(b, "%s\n    \"%s\"", i ? "," : "",
                          c->layer_sliding[i] ? "sliding_attention" : "full_attention");
    gr_buf_add_text(b, "\n  ]");
}

static void add_rope_layers(gr_buf *b, const gr_model_config *c) {
    key(b, 2, "no_rope_layers");
    gr_buf_add_char(b, '[');
    for (int i = 0; i < c->n_layers; i++) gr_buf_add_format(b, "%s\n    %d", i ? "," : "", c->layer_rope[i]);
    gr_buf_add_text(b, "\n  ]");
}

const char *gr_model_architecture(const gr_model_config *c, char *out, size_t size) {
    static const char *const names[] = {[GR_MODEL_LLAMA] = "Llama",     [GR_MODEL_MISTRAL] = "Mistral",
                                        [GR_MODEL_QWEN2] = "Qwen2",     [GR_MODEL_QWEN3] = "Qwen3",
                                        [GR_MODEL_SMOLLM3] = "SmolLM3", [GR_MODEL_GPT2] = "GPT2",
                                        [GR_MODEL_BERT] = "Bert",       [GR_MODEL_ROBERTA] = "Roberta",
                                        [GR_MODEL_T5] = "T5"};
    static const char *const heads[] = {[GR_TASK_CAUSAL_LM] = "ForCausalLM",
                                        [GR_TASK_SEQ_2_SEQ_LM] = "ForConditionalGeneration",
                                        [GR_TASK_MASKED_LM] = "ForMaskedLM",
                                        [GR_TASK_SEQ_CLS] = "ForSequenceClassification",
                                        [GR_TASK_FEATURES] = "Model",
                                        [GR_TASK_UNKNOWN] = "Model"};
    bool old = c->type == GR_MODEL_GPT2 && c->task == GR_TASK_CAUSAL_LM;
    snprintf(out, size, "%s%s", names[c->type], old ? "LMHeadModel" : heads[c->task]);
    return out;
}

const char *gr_hidden_act_name(gr_hidden_act act) {
    static const char *const names[] = {"silu", "gelu", "gelu_new", "relu", "tanh"};
    return names[act];
}

static const char *dtype_name(gr_dtype dtype) {
    return dtype == GR_BF16 ? "bfloat16" : dtype == GR_F16 ? "float16" : "float32";
}

static void add_gpt2(gr_buf *b, const gr_model_config *c, gr_dtype dtype) {
    add_text(b, 2, "activation_function", gr_hidden_act_name(c->hidden_act));
    char class[100];
    key(b, 2, "architectures");
    gr_buf_add_format(b, "[\n    \"%s\"\n  ]", gr_model_architecture(c, class, sizeof class));
    add_double(b, 2, "attn_pdrop", c->attention_dropout);
    add_ids(b, "bos_token_id", &c->bos_token_id, c->bos_token_id >= 0);
    add_text(b, 2, "dtype", dtype_name(dtype));
    add_double(b, 2, "embd_pdrop", c->embedding_dropout);
    add_ids(b, "eos_token_id", c->eos_token_ids, c->n_eos);
    add_double(b, 2, "initializer_range", c->initializer_range);
    add_double(b, 2, "layer_norm_epsilon", c->rms_norm_eps);
    add_text(b, 2, "model_type", gr_model_type_name(c->type));
    add_int(b, "n_embd", c->hidden_size);
    add_int(b, "n_head", c->n_heads);
    add_int(b, "n_inner", c->intermediate_size);
    add_int(b, "n_layer", c->n_layers);
    add_int(b, "n_positions", c->max_position_embeddings);
    add_ids(b, "pad_token_id", &c->pad_token_id, c->pad_token_id >= 0);
    add_double(b, 2, "resid_pdrop", c->hidden_dropout);
    add_bool(b, "scale_attn_by_inverse_layer_idx", c->scale_attention_by_layer);
    add_bool(b, "scale_attn_weights", c->scale_attention);
    add_bool(b, "tie_word_embeddings", c->tie_word_embeddings);
    add_int(b, "vocab_size", c->vocab_size);
}

static void add_all(gr_buf *b, const gr_model_config *c, gr_dtype dtype) {
    bool windows = c->type != GR_MODEL_LLAMA, layered = windows && c->type != GR_MODEL_MISTRAL;
    char class[100];
    key(b, 2, "architectures");
    gr_buf_add_format(b, "[\n    \"%s\"\n  ]", gr_model_architecture(c, class, sizeof class));
    if (c->type != GR_MODEL_MISTRAL && c->type != GR_MODEL_QWEN2) add_bool(b, "attention_bias", c->qkv_bias);
    add_double(b, 2, "attention_dropout", c->attention_dropout);
    add_ids(b, "bos_token_id", &c->bos_token_id, c->bos_token_id >= 0);
    add_text(b, 2, "dtype", dtype_name(dtype));
    add_ids(b, "eos_token_id", c->eos_token_ids, c->n_eos);
    add_int(b, "head_dim", c->head_dim);
    add_text(b, 2, "hidden_act", "silu");
    add_int(b, "hidden_size", c->hidden_size);
    add_double(b, 2, "initializer_range", c->initializer_range);
    add_int(b, "intermediate_size", c->intermediate_size);
    if (layered) add_layers(b, c);
    add_int(b, "max_position_embeddings", c->max_position_embeddings);
    if (c->type == GR_MODEL_LLAMA || c->type == GR_MODEL_SMOLLM3) add_bool(b, "mlp_bias", c->mlp_bias);
    add_text(b, 2, "model_type", gr_model_type_name(c->type));
    if (c->type == GR_MODEL_SMOLLM3) add_rope_layers(b, c);
    add_int(b, "num_attention_heads", c->n_heads);
    add_int(b, "num_hidden_layers", c->n_layers);
    add_int(b, "num_key_value_heads", c->n_kv_heads);
    add_ids(b, "pad_token_id", &c->pad_token_id, c->pad_token_id >= 0);
    add_double(b, 2, "rms_norm_eps", c->rms_norm_eps);
    add_rope(b, "rope_parameters", &c->rope);
    if (c->rope.type != GR_ROPE_DEFAULT) add_rope(b, "rope_scaling", &c->rope);
    add_double(b, 2, "rope_theta", c->rope.theta);
    if (windows) add_ids(b, "sliding_window", &c->sliding_window, c->sliding_window > 0);
    add_bool(b, "tie_word_embeddings", c->tie_word_embeddings);
    if (layered) add_bool(b, "use_sliding_window", c->sliding_window > 0);
    add_int(b, "vocab_size", c->vocab_size);
}

graft_status gr_model_config_to_json(const graft_allocator *a, const gr_model_config *c, gr_dtype dtype, char **out,
                                     graft_error *err) {
    if (c->rope.freq_factors)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "config.json has no place for the frequency factors of this GGUF file");
    if (c->type == GR_MODEL_T5 || c->bidirectional)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "a config.json of a %s model can be carried along, not made",
                       gr_model_type_name(c->type));
    bool gpt2 = c->type == GR_MODEL_GPT2;
    bool llama_biases = c->type == GR_MODEL_LLAMA || c->type == GR_MODEL_QWEN3 || c->type == GR_MODEL_SMOLLM3;
    bool mlp_allowed = c->type == GR_MODEL_LLAMA || c->type == GR_MODEL_SMOLLM3;
    bool fits = llama_biases ? c->qkv_bias == c->o_bias : !c->o_bias && c->qkv_bias == (c->type == GR_MODEL_QWEN2);
    if (!gpt2 && (!fits || (c->mlp_bias && !mlp_allowed)))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "config.json of a %s model cannot say which biases this model has",
                       gr_model_type_name(c->type));
    gr_buf b;
    gr_buf_init(&b, a);
    gr_buf_add_char(&b, '{');
    if (b.data) (gpt2 ? add_gpt2 : add_all)(&b, c, dtype);
    gr_buf_add_text(&b, "\n}\n");
    graft_status st = gr_buf_take(&b, out, NULL, err);
    if (st != GRAFT_OK) gr_buf_free(&b);
    return st;
}

/* What is to stand under a key; "": the key goes. */
typedef struct edit {
    const char *key, *other; /* another spelling, or NULL */
    const char *value;
    bool untied;       /* of scale_decoder_outputs: the text ties nothing */
    bool found, keeps; /* keeps: a key that is there stays as it is, `value` is for where there is none */
} edit;

enum { EDIT_DTYPE, EDIT_TIED, EDIT_QUANTIZATION, EDIT_SCALED, EDITS };

/* Where t5 does not say whether outputs are scaled, the reference takes it from the very key that may change here: it is
 * said then. */
static void learn(edit *edits, const gr_json_text *key, const char *value, size_t len) {
    edit *scaled = &edits[EDIT_SCALED];
    if (gr_json_text_is(key, "model_type") && len == 4 && memcmp(value, "\"t5\"", 4) == 0) {
        scaled->value = scaled->untied ? "false" : "true";
    } else if (gr_json_text_is(key, "tie_word_embeddings") && *value == 'f') {
        if (scaled->value) scaled->value = "false";
        scaled->untied = true;
    }
}

static edit *edit_of(edit *edits, size_t n, const gr_json_text *key) {
    for (size_t i = 0; i < n; i++)
        if (gr_json_text_is(key, edits[i].key) || (edits[i].other && gr_json_text_is(key, edits[i].other))) return &edits[i];
    return NULL;
}

/* The text with some top-level keys replaced, removed or added, all else to the letter. */
static graft_status edit_text(gr_json_reader *r, edit *edits, size_t n, bool learns, gr_buf *b, graft_error *err) {
    const char *text = r->text;
    size_t copied = 0;
    bool more, any = false; /* a key stands in front, in what is written */
    gr_json_text k;
    GR_TRY(gr_json_open(r, GR_JSON_OBJECT, err));
    for (;;) {
        size_t end = r->at; /* of the last value, where a further key may stand */
        GR_TRY(gr_json_next(r, &more, err));
        if (!more) {
            gr_buf_add(b, text + copied, end > copied ? end - copied : 0);
            for (size_t i = 0; i < n; i++) {
                if (edits[i].found || !edits[i].value || !*edits[i].value) continue;
                gr_buf_add_format(b, "%s\n  \"%s\": %s", any ? "," : "", edits[i].key, edits[i].value);
                any = true;
            }
            copied = GR_MAX(end, copied);
            gr_buf_add(b, text + copied, r->len - copied);
            return gr_json_end(r, err);
        }
        GR_TRY(gr_json_read_key(r, &k, err));
        gr_json_peek(r); /* past the spaces */
        size_t start = r->at;
        GR_TRY(gr_json_skip(r, err));
        edit *e = edit_of(edits, n, &k);
        if (e && !e->keeps && !*e->value) { /* with the comma in front, or, of the first key, the one behind */
            gr_buf_add(b, text + copied, end > copied ? end - copied : 0);
            copied = r->at;
            if (!any) {
                while (copied < r->len && strchr(" \t\r\n", text[copied])) copied++;
                copied = copied < r->len && text[copied] == ',' ? copied + 1 : r->at;
            }
            continue;
        }
        any = true;
        if (learns) learn(edits, &k, text + start, r->at - start);
        if (e) e->found = true;
        if (!e || e->keeps) continue;
        gr_buf_add(b, text + copied, start - copied);
        gr_buf_add_text(b, e->value);
        copied = r->at;
    }
}

graft_status gr_model_config_edit(const graft_allocator *a, const char *name, const char *text, size_t len, gr_dtype dtype,
                                  bool tied, const char *quantization, char **out, graft_error *err) {
    edit edits[EDITS] = {
        {.key = "dtype", .other = "torch_dtype",
         .value = dtype == GR_BF16 ? "\"bfloat16\"" : dtype == GR_F16 ? "\"float16\"" : "\"float32\""},
        {.key = "tie_word_embeddings", .value = tied ? "true" : "false"},
        {.key = "quantization_config", .value = quantization ? quantization : ""},
        {.key = "scale_decoder_outputs", .keeps = true},
    };
    gr_json_reader r;
    gr_buf b;
    gr_buf_init(&b, a);
    gr_json_init(&r, name, text, len);
    graft_status st = edit_text(&r, edits, GR_COUNT(edits), true, &b, err);
    if (st == GRAFT_OK) st = gr_buf_take(&b, out, NULL, err);
    if (st != GRAFT_OK) gr_buf_free(&b);
    return st;
}

graft_status gr_model_config_edit_keys(const graft_allocator *a, const char *name, const char *text, size_t len,
                                       const gr_config_edit *with, size_t n, char **out, graft_error *err) {
    edit edits[8] = {{0}};
    gr_json_reader r;
    gr_buf b;
    if (n > GR_COUNT(edits)) return gr_fail(err, GRAFT_ERR_INTERNAL, "%zu edits", n);
    for (size_t i = 0; i < n; i++) edits[i] = (edit){.key = with[i].key, .value = with[i].json};
    gr_buf_init(&b, a);
    gr_json_init(&r, name, text, len);
    graft_status st = edit_text(&r, edits, n, false, &b, err);
    if (st == GRAFT_OK) st = gr_buf_take(&b, out, NULL, err);
    if (st != GRAFT_OK) gr_buf_free(&b);
    return st;
}
