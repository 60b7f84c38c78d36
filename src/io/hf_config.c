/* config.json to gr_model_config. */
#include "io/hf_config.h"

#include <stdio.h>
#include <stdlib.h>

#include "io/config_fields.h"
#include "io/config_parts.h"
#include "io/paths.h"

enum { MAX_CONFIG = 16 << 20, MAX_TREE = 256 << 20 };

static const struct defaults {
    const char *name;
    int vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, positions, window;
    double theta;
    int bos, eos, pad;
    bool tied;
} types[] = {
#define X(name, ...) {__VA_ARGS__},
#include "io/model_type.def"
#undef X
};

const char *gr_model_type_name(gr_model_type type) { return types[type].name; }

static graft_status find_type(const char *file, const char *name, gr_model_type *out, graft_error *err) {
    char known[256];
    size_t n = 0;
    for (size_t i = 0; i < GR_COUNT(types); i++) {
        if (name && strcmp(name, types[i].name) == 0) {
            *out = (gr_model_type)i;
            return GRAFT_OK;
        }
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", types[i].name);
    }
    if (!name) return gr_fail(err, GRAFT_ERR_FORMAT, "%s: model_type is missing (known: %s)", file, known);
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: model_type \"%.100s\" is not supported (known: %s)", file, name,
                   known);
}

static void read_sizes(gr_fields *f, const struct defaults *d, gr_model_config *c) {
    c->vocab_size = gr_field_int(f, "vocab_size", d->vocab, 1, INT32_MAX);
    c->hidden_size = gr_field_int(f, "hidden_size", d->hidden, 1, 1 << 20);
    c->intermediate_size = gr_field_int(f, "intermediate_size", d->intermediate, 1, 1 << 24);
    c->n_layers = (int)gr_field_int(f, "num_hidden_layers", d->layers, 1, GR_MAX_LAYERS);
    c->n_heads = (int)gr_field_int(f, "num_attention_heads", d->heads, 1, 65536);
    bool kv_as_heads = d->kv_heads == 0 || gr_field_is_null(f, "num_key_value_heads");
    c->n_kv_heads = (int)gr_field_int(f, "num_key_value_heads", kv_as_heads ? c->n_heads : d->kv_heads, 1, 65536);
    c->head_dim = (int)gr_field_int(f, "head_dim", d->head_dim && !gr_field_is_null(f, "head_dim") ? d->head_dim : 0, 1,
                                    GR_MAX_HEAD_DIM);
    if (c->head_dim == 0) {
        if (f->st == GRAFT_OK && c->hidden_size % c->n_heads)
            gr_field_fail(f, GRAFT_ERR_FORMAT, "hidden_size",
                          "expected a multiple of num_attention_heads (%d), found %lld", c->n_heads,
                          (long long)c->hidden_size);
        c->head_dim = (int)(c->hidden_size / c->n_heads);
    }
    c->max_position_embeddings = gr_field_int(f, "max_position_embeddings", d->positions, 1, INT32_MAX);
    c->rms_norm_eps = gr_field_double(f, "rms_norm_eps", 1e-6, 0, 1);
    c->initializer_range = gr_field_double(f, "initializer_range", 0.02, 0, 1);
    c->attention_dropout = gr_field_double(f, "attention_dropout", 0, 0, 1);
}

static void read_dtype(gr_fields *f, gr_model_config *c) {
    static const struct {
        const char *name;
        gr_dtype dtype;
    } names[] = {{"float32", GR_F32}, {"float16", GR_F16}, {"bfloat16", GR_BF16}, {"auto", GR_F32}};
    const char *key = gr_field(f, "dtype") ? "dtype" : "torch_dtype", *text = gr_field_text(f, key);
    c->dtype = GR_F32;
    if (!text) return;
    if (strncmp(text, "torch.", 6) == 0) text += 6;
    for (size_t i = 0; i < GR_COUNT(names); i++)
        if (strcmp(text, names[i].name) == 0) {
            c->dtype = names[i].dtype;
            return;
        }
    gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, key, "expected float32, float16 or bfloat16, found \"%.60s\"", text);
}

static void read_tokens(gr_fields *f, const struct defaults *d, gr_model_config *c) {
    int64_t one[1];
    c->bos_token_id = gr_json_get(f->object, "bos_token_id") ? -1 : d->bos;
    if (gr_field_ids(f, "bos_token_id", one, 1)) c->bos_token_id = one[0];
    c->pad_token_id = gr_json_get(f->object, "pad_token_id") ? -1 : d->pad;
    if (gr_field_ids(f, "pad_token_id", one, 1)) c->pad_token_id = one[0];
    c->n_eos = gr_field_ids(f, "eos_token_id", c->eos_token_ids, GR_MAX_EOS);
    if (!gr_json_get(f->object, "eos_token_id") && d->eos >= 0) c->eos_token_ids[c->n_eos++] = d->eos;
}

static void read_biases(gr_fields *f, gr_model_config *c) {
    bool attention = gr_field_bool(f, "attention_bias", false);
    switch (c->type) {
    case GR_MODEL_MISTRAL: break;
    case GR_MODEL_QWEN2: c->qkv_bias = true; break;
    default: c->qkv_bias = c->o_bias = attention;
    }
    if (c->type == GR_MODEL_LLAMA || c->type == GR_MODEL_SMOLLM3) c->mlp_bias = gr_field_bool(f, "mlp_bias", false);
    c->qk_norm = c->type == GR_MODEL_QWEN3;
}

/* layer_types as written: true where sliding. Returns false when the key is absent. */
static bool read_layer_types(gr_fields *f, gr_model_config *c) {
    const gr_json_value *list = gr_field(f, "layer_types");
    if (!list) return false;
    if (list->kind != GR_JSON_ARRAY || list->len != (size_t)c->n_layers) {
        gr_field_fail(f, GRAFT_ERR_FORMAT, "layer_types", "expected a list of %d entries, one a layer", c->n_layers);
        return true;
    }
    int i = 0;
    for (const gr_json_value *v = list->child; v; v = v->next, i++) {
        bool text = v->kind == GR_JSON_STRING;
        c->layer_sliding[i] = text && strcmp(v->text, "sliding_attention") == 0;
        if (!c->layer_sliding[i] && !(text && strcmp(v->text, "full_attention") == 0)) {
            gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "layer_types",
                          "layer %d: expected full_attention or sliding_attention, found %.60s", i,
                          text ? v->text : gr_json_kind_name(v->kind));
            return true;
        }
    }
    return true;
}

/* Which layers see a window only. mistral: all. qwen2 and qwen3: those from max_window_layers on, if
 * use_sliding_window. smollm3: those without rotary embedding. layer_types overrides the latter three. */
static void read_windows(gr_fields *f, const struct defaults *d, gr_model_config *c) {
    if (c->type == GR_MODEL_LLAMA) return;
    bool is_null = gr_field_is_null(f, "sliding_window");
    int64_t window = gr_field_int(f, "sliding_window", is_null ? 0 : d->window, 0, INT32_MAX);
    if (c->type == GR_MODEL_MISTRAL) {
        c->sliding_window = window;
        for (int i = 0; i < c->n_layers; i++) c->layer_sliding[i] = window > 0;
        return;
    }
    bool use = gr_field_bool(f, "use_sliding_window", false), smollm = c->type == GR_MODEL_SMOLLM3, any = false;
    int64_t first = gr_field_int(f, "max_window_layers", 28, 0, INT32_MAX);
    if (!use && !smollm) window = 0;
    if (!read_layer_types(f, c))
        for (int i = 0; i < c->n_layers; i++)
            c->layer_sliding[i] = use && window > 0 && (smollm ? !c->layer_rope[i] : i >= first);
    for (int i = 0; i < c->n_layers; i++) any = any || c->layer_sliding[i];
    if (any && window == 0)
        gr_field_fail(f, GRAFT_ERR_FORMAT, "sliding_window",
                      "expected a window, because layer_types names sliding_attention");
    c->sliding_window = any ? window : 0;
}

static void read_rope_layers(gr_fields *f, gr_model_config *c) {
    for (int i = 0; i < c->n_layers; i++) c->layer_rope[i] = true;
    if (c->type != GR_MODEL_SMOLLM3) return;
    const gr_json_value *list = gr_field(f, "no_rope_layers");
    int64_t interval = gr_field_int(f, "no_rope_layer_interval", 4, 1, INT32_MAX);
    if (!list) {
        for (int i = 0; i < c->n_layers; i++) c->layer_rope[i] = (i + 1) % interval != 0;
        return;
    }
    const gr_json_value *v = list->kind == GR_JSON_ARRAY ? list->child : NULL;
    for (int i = 0; i < c->n_layers; i++, v = v->next) {
        if (!v || v->kind != GR_JSON_NUMBER) {
            gr_field_fail(f, GRAFT_ERR_FORMAT, "no_rope_layers", "expected a list of %d numbers, one a layer",
                          c->n_layers);
            return;
        }
        c->layer_rope[i] = v->number.d != 0; /* despite its name, 1 means "with" */
    }
}

static void refuse_unknown_kinds(gr_fields *f) {
    const char *act = gr_field_text(f, "hidden_act");
    if (act && strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "hidden_act", "expected silu, found \"%.60s\"", act);
    const gr_json_value *quant = gr_field(f, "quantization_config"), *method = gr_json_get(quant, "quant_method");
    if (quant)
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "quantization_config", "weights quantised by %.60s are not supported",
                      method && method->kind == GR_JSON_STRING ? method->text : "an unnamed method");
}

graft_status gr_model_config_check(const char *file, const gr_model_config *c, graft_error *err) {
    if (c->n_heads % c->n_kv_heads)
        return gr_fail(err, GRAFT_ERR_FORMAT,
                       "%s: num_key_value_heads: expected a divisor of num_attention_heads (%d), found %d", file,
                       c->n_heads, c->n_kv_heads);
    if (c->head_dim < 2 || c->head_dim % 2 || c->head_dim > GR_MAX_HEAD_DIM)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: head_dim: expected an even number up to %d, found %d", file,
                       GR_MAX_HEAD_DIM, c->head_dim);
    return GRAFT_OK;
}

graft_status gr_model_config_from_json(const graft_allocator *a, const char *name, const char *text, size_t len,
                                       gr_model_config *out, graft_error *err) {
    gr_arena arena;
    const gr_json_value *root;
    gr_model_config c = {0};
    gr_arena_init(&arena, a, MAX_TREE);
    graft_status st;
    GR_GO(done, gr_json_parse(&arena, name, text, len, &root, err));
    gr_fields f = {.file = name, .where = "", .object = root, .err = err};
    const char *type = gr_field_text(&f, "model_type");
    GR_GO(done, f.st);
    GR_GO(done, find_type(name, type, &c.type, err));
    const struct defaults *d = &types[c.type];
    refuse_unknown_kinds(&f);
    read_sizes(&f, d, &c);
    GR_GO(done, f.st); /* the loops over layers below need valid sizes */
    read_dtype(&f, &c);
    read_tokens(&f, d, &c);
    read_biases(&f, &c);
    read_rope_layers(&f, &c);
    read_windows(&f, d, &c);
    c.tie_word_embeddings = gr_field_bool(&f, "tie_word_embeddings", d->tied);
    gr_rope_from_json(&f, d->theta, &c);
    GR_GO(done, f.st);
    GR_GO(done, gr_model_config_check(name, &c, err));
    *out = c;
done:
    gr_arena_free(&arena);
    return st;
}

static graft_status load_json(const graft_allocator *a, const char *path, gr_model_config *out, graft_error *err) {
    char *text;
    size_t len;
    GR_TRY(gr_read_file(a, path, MAX_CONFIG, &text, &len, err));
    graft_status st = gr_model_config_from_json(a, path, text, len, out, err);
    gr_free(a, text);
    return st;
}

graft_status gr_model_config_load(const graft_allocator *a, const char *path, gr_model_config *out, graft_error *err) {
    if (gr_ends_with(path, ".gguf")) {
        gr_gguf *g;
        GR_TRY(gr_gguf_open(a, path, &g, err));
        graft_status st = gr_model_config_from_gguf(g, out, err);
        gr_gguf_close(g);
        return st;
    }
    if (gr_ends_with(path, ".json") && !gr_ends_with(path, ".index.json")) return load_json(a, path, out, err);
    char *dir = gr_is_dir(path) ? gr_strdup(a, path) : gr_path_dir(a, path);
    char *file = dir ? gr_path_join(a, dir, "config.json") : NULL;
    graft_status st = file ? load_json(a, file, out, err) : gr_fail_memory(err);
    gr_free(a, dir);
    gr_free(a, file);
    return st;
}

graft_status gr_model_config_of(const graft_allocator *a, const gr_weights *w, gr_model_config *out, graft_error *err) {
    const gr_gguf *g = gr_weights_gguf(w);
    return g ? gr_model_config_from_gguf(g, out, err) : gr_model_config_load(a, gr_weights_path(w), out, err);
}
