/* The configuration files beside a Hugging Face tokenizer: tokenizer_config.json, special_tokens_map.json,
 * added_tokens.json, generation_config.json, config.json and the chat templates. What they say about tokens is applied
 * in transformers' order (5.23, TokenizersBackend): added_tokens_decoder replaces what tokenizer.json said of a token,
 * a token that has a role is special. */
#include <stdlib.h>

#include "base/json.h"
#include "io/tokenizer_files.h"

enum { MAX_FILE = 64 << 20 };

typedef struct files {
    gr_tokenizer_spec *spec;
    const char *dir;
    gr_arena arena; /* the JSON trees */
} files;

/* NULL when there is no such file. */
static graft_status read_tree(files *f, const char *name, const gr_json_value **out, graft_error *err) {
    *out = NULL;
    char *path = gr_path_join(f->spec->a, f->dir, name), *text = NULL;
    size_t len = 0;
    if (!path) return gr_fail_memory(err);
    graft_status st = GRAFT_OK;
    if (gr_path_exists(path)) {
        st = gr_read_file(f->spec->a, path, MAX_FILE, &text, &len, err);
        if (st == GRAFT_OK) st = gr_json_parse(&f->arena, path, text, len, out, err);
    }
    gr_free(f->spec->a, text);
    gr_free(f->spec->a, path);
    return st;
}

static bool has_text(const gr_json_value *v) { return v && v->kind == GR_JSON_STRING; }

/* A token is its text, or an object with "content". */
static const gr_json_value *content_of(const gr_json_value *v) {
    if (v && v->kind == GR_JSON_OBJECT) v = gr_json_get(v, "content");
    return has_text(v) ? v : NULL;
}

static bool flag(const gr_json_value *object, const char *key, bool otherwise) {
    const gr_json_value *v = gr_json_get(object, key);
    return v && (v->kind == GR_JSON_TRUE || v->kind == GR_JSON_FALSE) ? v->kind == GR_JSON_TRUE : otherwise;
}

static graft_status add_token(gr_tokenizer_spec *spec, const gr_json_value *v, bool special, bool normalized,
                              graft_error *err) {
    const gr_json_value *content = content_of(v);
    if (!content || content->len == 0) return GRAFT_OK;
    gr_added_spec t = {.text = (char *)content->text, .len = content->len};
    t.special = flag(v, "special", special);
    t.normalized = flag(v, "normalized", normalized);
    t.lstrip = flag(v, "lstrip", false);
    t.rstrip = flag(v, "rstrip", false);
    t.single_word = flag(v, "single_word", false);
    return gr_spec_add_added(spec, &t, err);
}

/* A token with a role is special; one that nobody added yet is added. */
static graft_status make_special(gr_tokenizer_spec *spec, const gr_json_value *v, graft_error *err) {
    const gr_json_value *content = content_of(v);
    if (!content || content->len == 0) return GRAFT_OK;
    int64_t at;
    if (gr_map_get(&spec->added_index, content->text, content->len, &at)) {
        spec->added[at].special = true;
        return GRAFT_OK;
    }
    return add_token(spec, v, true, false, err);
}

typedef struct numbered {
    int64_t id;
    const gr_json_value *token;
} numbered;

static int by_number(const void *x, const void *y) {
    const numbered *a = x, *b = y;
    return a->id < b->id ? -1 : a->id > b->id;
}

static graft_status collect(const files *f, const gr_json_value *object, bool by_key, numbered **out, size_t *n,
                            graft_error *err) {
    size_t cap = 0;
    for (const gr_json_value *v = object->child; v; v = v->next) {
        GR_TRY(gr_grow(f->spec->a, (void **)out, &cap, *n + 1, sizeof **out, err));
        int64_t id = -1;
        if (!by_key) {
            if (v->kind == GR_JSON_NUMBER && v->number.is_int) id = v->number.i;
        } else {
            char *end;
            id = strtoll(v->key, &end, 10);
            if (end == v->key || *end) id = -1;
        }
        if (id < 0)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: added token '%.60s' has no id", f->dir, v->key);
        (*out)[(*n)++] = (numbered){id, v};
    }
    return GRAFT_OK;
}

/* {"id": {"content": ...}, ...} (added_tokens_decoder) or {"content": id, ...} (added_tokens.json), by ascending id. */
static graft_status add_numbered(const files *f, const gr_json_value *object, bool by_key, graft_error *err) {
    if (!object || object->kind != GR_JSON_OBJECT) return GRAFT_OK;
    numbered *list = NULL;
    size_t n = 0;
    graft_status st = collect(f, object, by_key, &list, &n, err);
    if (st == GRAFT_OK && n > 0) qsort(list, n, sizeof *list, by_number);
    for (size_t i = 0; i < n && st == GRAFT_OK; i++) {
        if (by_key) {
            st = add_token(f->spec, list[i].token, false, true, err);
        } else {
            const gr_json_value text = {.kind = GR_JSON_STRING, .text = list[i].token->key, .len = list[i].token->key_len};
            int64_t known;
            if (!gr_map_get(&f->spec->added_index, text.text, text.len, &known))
                st = add_token(f->spec, &text, false, true, err);
        }
    }
    gr_free(f->spec->a, list);
    return st;
}

static const char *const roles[GR_N_SPECIAL] = {
    [GRAFT_TOKEN_BOS] = "bos_token", [GRAFT_TOKEN_EOS] = "eos_token", [GRAFT_TOKEN_PAD] = "pad_token",
    [GRAFT_TOKEN_UNK] = "unk_token", [GRAFT_TOKEN_SEP] = "sep_token", [GRAFT_TOKEN_CLS] = "cls_token",
    [GRAFT_TOKEN_MASK] = "mask_token",
};

static graft_status add_roles(files *f, const gr_json_value *config, const gr_json_value *map, graft_error *err) {
    for (size_t i = 0; i < GR_N_SPECIAL; i++) {
        const gr_json_value *v = gr_json_get(config, roles[i]);
        if (!content_of(v)) v = gr_json_get(map, roles[i]);
        const gr_json_value *content = content_of(v);
        if (!content) continue;
        GR_TRY(gr_spec_text(f->spec, content->text, content->len, &f->spec->special[i], err));
        GR_TRY(make_special(f->spec, v, err));
    }
    static const char *const lists[] = {"additional_special_tokens", "extra_special_tokens"};
    for (size_t i = 0; i < GR_COUNT(lists); i++) {
        const gr_json_value *list = gr_json_get(config, lists[i]);
        if (!list) list = gr_json_get(map, lists[i]);
        if (!list || (list->kind != GR_JSON_ARRAY && list->kind != GR_JSON_OBJECT)) continue;
        for (const gr_json_value *v = list->child; v; v = v->next) GR_TRY(make_special(f->spec, v, err));
    }
    return GRAFT_OK;
}

static graft_status add_template_file(files *f, const char *path, const char *name, graft_error *err) {
    char *text = NULL;
    size_t len;
    graft_status st = gr_read_file(f->spec->a, path, MAX_FILE, &text, &len, err);
    if (st == GRAFT_OK && !gr_utf8_valid(text, len))
        st = gr_fail(err, GRAFT_ERR_FORMAT, "%s is not valid UTF-8", path);
    if (st == GRAFT_OK) st = gr_spec_add_template(f->spec, name, text, len, err);
    gr_free(f->spec->a, text);
    return st;
}

/* additional_chat_templates/NAME.jinja */
static graft_status add_template_dir(files *f, graft_error *err) {
    char *dir = gr_path_join(f->spec->a, f->dir, "additional_chat_templates");
    if (!dir) return gr_fail_memory(err);
    char **names = NULL;
    size_t n = 0;
    graft_status st = gr_is_dir(dir) ? gr_list_dir(f->spec->a, dir, &names, &n, err) : GRAFT_OK;
    for (size_t i = 0; i < n && st == GRAFT_OK; i++) {
        const size_t len = strlen(names[i]);
        if (len <= 6 || strcmp(names[i] + len - 6, ".jinja")) continue;
        char *path = gr_path_join(f->spec->a, dir, names[i]), *name = gr_strndup(f->spec->a, names[i], len - 6);
        st = path && name ? add_template_file(f, path, name, err) : gr_fail_memory(err);
        gr_free(f->spec->a, path);
        gr_free(f->spec->a, name);
    }
    if (names) gr_free_names(f->spec->a, names, n);
    gr_free(f->spec->a, dir);
    return st;
}

static graft_status add_templates(files *f, const gr_json_value *config, graft_error *err) {
    char *path = gr_path_join(f->spec->a, f->dir, "chat_template.jinja");
    if (!path) return gr_fail_memory(err);
    graft_status st = gr_path_exists(path) ? add_template_file(f, path, "default", err) : GRAFT_OK;
    gr_free(f->spec->a, path);
    if (st == GRAFT_OK) st = add_template_dir(f, err);
    const gr_json_value *t = gr_json_get(config, "chat_template");
    if (st == GRAFT_OK && has_text(t)) st = gr_spec_add_template(f->spec, "default", t->text, t->len, err);
    /* [{"name": ..., "template": ...}, ...] */
    for (const gr_json_value *v = t && t->kind == GR_JSON_ARRAY ? t->child : NULL; v && st == GRAFT_OK; v = v->next) {
        const gr_json_value *name = gr_json_get(v, "name"), *text = gr_json_get(v, "template");
        if (has_text(name) && has_text(text)) st = gr_spec_add_template(f->spec, name->text, text->text, text->len, err);
    }
    return st;
}

static graft_status add_eos(gr_tokenizer_spec *spec, const gr_json_value *v, graft_error *err) {
    const gr_json_value *item = v && v->kind == GR_JSON_ARRAY ? v->child : v;
    for (; item; item = v->kind == GR_JSON_ARRAY ? item->next : NULL)
        if (item->kind == GR_JSON_NUMBER && item->number.is_int && item->number.i >= 0 && item->number.i <= INT32_MAX)
            GR_TRY(gr_spec_add_eos(spec, (int32_t)item->number.i, err));
    return GRAFT_OK;
}

static graft_status add_ids(files *f, graft_error *err) {
    static const char *const keys[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    const gr_json_value *generation, *config;
    GR_TRY(read_tree(f, "generation_config.json", &generation, err));
    GR_TRY(read_tree(f, "config.json", &config, err));
    const gr_json_value *eos = gr_json_get(generation, "eos_token_id");
    GR_TRY(add_eos(f->spec, eos ? eos : gr_json_get(config, "eos_token_id"), err));
    for (size_t i = 0; i < GR_COUNT(keys); i++) {
        const gr_json_value *v = gr_json_get(config, keys[i]);
        if (v && v->kind == GR_JSON_ARRAY) v = v->child;
        if (v && v->kind == GR_JSON_NUMBER && v->number.is_int && v->number.i >= 0 && v->number.i <= INT32_MAX)
            f->spec->special_id[i] = (int32_t)v->number.i;
    }
    return GRAFT_OK;
}

/* An absent key leaves *out alone. */
static void read_tri_state(const gr_json_value *config, const char *key, int *out) {
    const gr_json_value *v = gr_json_get(config, key);
    if (v) *out = v->kind == GR_JSON_TRUE;
}

static graft_status apply(files *f, graft_error *err) {
    const gr_json_value *config, *map, *added;
    GR_TRY(read_tree(f, "tokenizer_config.json", &config, err));
    GR_TRY(read_tree(f, "special_tokens_map.json", &map, err));
    GR_TRY(read_tree(f, "added_tokens.json", &added, err));
    GR_TRY(add_numbered(f, added, false, err));
    GR_TRY(add_numbered(f, gr_json_get(config, "added_tokens_decoder"), true, err));
    GR_TRY(add_roles(f, config, map, err));
    read_tri_state(config, "add_bos_token", &f->spec->add_bos);
    read_tri_state(config, "add_eos_token", &f->spec->add_eos);
    GR_TRY(add_templates(f, config, err));
    return add_ids(f, err);
}

graft_status gr_tokenizer_config_read(gr_tokenizer_spec *spec, const char *dir, graft_error *err) {
    files f = {.spec = spec, .dir = dir};
    gr_arena_init(&f.arena, spec->a, (size_t)1 << 30);
    graft_status st = apply(&f, err);
    gr_arena_free(&f.arena);
    return st;
}
