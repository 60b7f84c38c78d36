#include "infer/pooling.h"

#include "base/json.h"
#include "io/paths.h"

enum { MAX_TEXT = 1 << 20 };

/* A JSON file of the directory; *out is NULL where there is none. */
static graft_status read_json(const graft_allocator *a, gr_arena *arena, const char *dir, const char *name,
                              const gr_json_value **out, graft_error *err) {
    char *path = gr_path_join(a, dir, name), *text = NULL;
    size_t len;
    graft_status st = path ? GRAFT_OK : gr_fail_memory(err);
    *out = NULL;
    if (st == GRAFT_OK && gr_path_exists(path)) {
        st = gr_read_file(a, path, MAX_TEXT, &text, &len, err);
        if (st == GRAFT_OK) st = gr_json_parse(arena, path, text, len, out, err);
    }
    gr_free(a, text);
    gr_free(a, path);
    return st;
}

static graft_status read_mode(const char *dir, const gr_json_value *json, gr_pooling *p, graft_error *err) {
    static const char *const keys[] = {[GR_POOL_MEAN] = "pooling_mode_mean_tokens",
                                       [GR_POOL_MEAN_SQRT] = "pooling_mode_mean_sqrt_len_tokens",
                                       [GR_POOL_MAX] = "pooling_mode_max_tokens",
                                       [GR_POOL_FIRST] = "pooling_mode_cls_token",
                                       [GR_POOL_LAST] = "pooling_mode_lasttoken"};
    static const char *const names[] = {"mean", "mean_sqrt_len_tokens", "max", "cls", "lasttoken"};
    const gr_json_value *mode = gr_json_get(json, "pooling_mode");
    int found = 0;
    for (size_t i = 0; i < GR_COUNT(keys); i++) {
        const gr_json_value *v = gr_json_get(json, keys[i]);
        bool named = mode && mode->kind == GR_JSON_STRING && strcmp(mode->text, names[i]) == 0;
        if (!named && !(v && v->kind == GR_JSON_TRUE)) continue;
        p->how = i;
        found++;
    }
    if (found == 1) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                   "%s: its pooling: expected one of mean, mean_sqrt_len, max, cls and lasttoken, found %d of them",
                   dir, found);
}

static graft_status read_module(const graft_allocator *a, gr_arena *arena, const char *dir, const gr_json_value *module,
                                gr_pooling *p, graft_error *err) {
    const gr_json_value *type = gr_json_get(module, "type"), *path = gr_json_get(module, "path"), *config;
    const char *name = type && type->kind == GR_JSON_STRING ? type->text : "", *dot = strrchr(name, '.');
    char *folder, *file;
    if (dot) name = dot + 1;
    if (strcmp(name, "Transformer") == 0) return GRAFT_OK;
    if (strcmp(name, "Normalize") == 0) {
        p->normalize = true;
        return GRAFT_OK;
    }
    if (strcmp(name, "Pooling") != 0)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "%s: modules.json: expected Transformer, Pooling and Normalize, found \"%.60s\"", dir, name);
    bool inside = path && path->kind == GR_JSON_STRING && !strstr(path->text, "..") && path->text[0] != '/';
    if (!inside)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: modules.json: the path of Pooling does not lie within it", dir);
    folder = gr_path_join(a, dir, path->text);
    file = folder ? gr_path_join(a, path->text, "config.json") : NULL;
    graft_status st = file ? read_json(a, arena, dir, file, &config, err) : gr_fail_memory(err);
    if (st == GRAFT_OK && config) st = read_mode(dir, config, p, err);
    gr_free(a, folder);
    gr_free(a, file);
    return st;
}

graft_status gr_pooling_load(const graft_allocator *a, const char *dir, gr_pooling *out, graft_error *err) {
    gr_pooling p = {.how = GR_POOL_MEAN};
    gr_arena arena;
    const gr_json_value *modules, *limits;
    graft_status st;
    gr_arena_init(&arena, a, (size_t)16 << 20);
    GR_GO(done, read_json(a, &arena, dir, "modules.json", &modules, err));
    GR_GO(done, read_json(a, &arena, dir, "sentence_bert_config.json", &limits, err));
    if (!modules) p.normalize = true;
    for (const gr_json_value *v = modules && modules->kind == GR_JSON_ARRAY ? modules->child : NULL; v; v = v->next)
        GR_GO(done, read_module(a, &arena, dir, v, &p, err));
    const gr_json_value *most = gr_json_get(limits, "max_seq_length");
    if (most && most->kind == GR_JSON_NUMBER && most->number.is_int && most->number.i > 0)
        p.max_length = (size_t)most->number.i;
    *out = p;
done:
    gr_arena_free(&arena);
    return st;
}
