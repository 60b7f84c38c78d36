/* config.json to gr_model_config. */
#include "io/hf_config.h"

#include <stdio.h>
#include <stdlib.h>

#include "io/config_fields.h"
#include "io/config_parts.h"
#include "io/paths.h"

enum { MAX_CONFIG = 16 << 20, MAX_TREE = 256 << 20 };

static const struct type {
    const char *name;
    void (*read)(gr_fields *f, gr_model_config *c);
} types[] = {
#define X(name, text, reader) {text, gr_config_read_##reader},
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

void gr_config_read_tokens(gr_fields *f, gr_model_config *c, int bos, int eos, int pad) {
    int64_t one[1];
    c->bos_token_id = gr_json_get(f->object, "bos_token_id") ? -1 : bos;
    if (gr_field_ids(f, "bos_token_id", one, 1)) c->bos_token_id = one[0];
    c->pad_token_id = gr_json_get(f->object, "pad_token_id") ? -1 : pad;
    if (gr_field_ids(f, "pad_token_id", one, 1)) c->pad_token_id = one[0];
    c->n_eos = gr_field_ids(f, "eos_token_id", c->eos_token_ids, GR_MAX_EOS);
    if (!gr_json_get(f->object, "eos_token_id") && eos >= 0) c->eos_token_ids[c->n_eos++] = eos;
}

gr_hidden_act gr_config_read_act(gr_fields *f, const char *key, gr_hidden_act absent, const char *expected) {
    static const struct {
        const char *name;
        gr_hidden_act act;
    } names[] = {{"silu", GR_ACT_SILU}, {"swish", GR_ACT_SILU}, {"gelu", GR_ACT_GELU}, {"gelu_new", GR_ACT_GELU_TANH},
                 {"gelu_pytorch_tanh", GR_ACT_GELU_TANH}, {"gelu_fast", GR_ACT_GELU_TANH}, {"relu", GR_ACT_RELU},
                 {"tanh", GR_ACT_TANH}};
    const char *text = gr_field_text(f, key);
    if (!text) return absent;
    for (size_t i = 0; i < GR_COUNT(names); i++)
        if (strcmp(text, names[i].name) == 0 && strstr(expected, text)) return names[i].act;
    gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, key, "expected %s, found \"%.60s\"", expected, text);
    return absent;
}

graft_status gr_model_config_check(const char *file, const gr_model_config *c, graft_error *err) {
    if (c->n_heads % c->n_kv_heads)
        return gr_fail(err, GRAFT_ERR_FORMAT,
                       "%s: num_key_value_heads: expected a divisor of num_attention_heads (%d), found %d", file,
                       c->n_heads, c->n_kv_heads);
    bool rotated = c->rope.type != GR_ROPE_NONE; /* in pairs */
    if (c->head_dim < 1 || (rotated && c->head_dim % 2) || c->head_dim > GR_MAX_HEAD_DIM)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: head_dim: expected %s up to %d, found %d", file,
                       rotated ? "an even number" : "a number", GR_MAX_HEAD_DIM, c->head_dim);
    return GRAFT_OK;
}

graft_status gr_model_config_from_json(const graft_allocator *a, const char *name, const char *text, size_t len,
                                       gr_model_config *out, graft_error *err) {
    gr_arena arena;
    const gr_json_value *root;
    gr_model_config c = {.int8_threshold = GR_INT8_THRESHOLD};
    gr_arena_init(&arena, a, MAX_TREE);
    graft_status st;
    GR_GO(done, gr_json_parse(&arena, name, text, len, &root, err));
    gr_fields f = {.file = name, .where = "", .object = root, .err = err};
    const char *type = gr_field_text(&f, "model_type");
    GR_GO(done, f.st);
    GR_GO(done, find_type(name, type, &c.type, err));
    gr_config_read_quantization(&f, &c);
    read_dtype(&f, &c);
    if (f.st == GRAFT_OK) types[c.type].read(&f, &c);
    gr_config_read_task(&f, &c);
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
