/* Looking up a model in the cache without the network. */
#include "io/hub.h"
#include "io/paths.h"

enum { MAX_INDEX = 256 << 20 };

static bool has(const graft_allocator *a, const char *dir, const char *name) {
    char *path = gr_path_join(a, dir, name);
    bool there = path && gr_path_exists(path); /* follows the link: a missing blob is "no" */
    gr_free(a, path);
    return there;
}

/* Whether every shard that the index names is there. */
static graft_status index_complete(const graft_allocator *a, const char *dir, bool *out, graft_error *err) {
    char *path = gr_path_join(a, dir, "model.safetensors.index.json"), *text = NULL;
    size_t len;
    gr_arena arena;
    const gr_json_value *root;
    gr_arena_init(&arena, a, (size_t)1 << 30);
    graft_status st = path ? gr_read_file(a, path, MAX_INDEX, &text, &len, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_json_parse(&arena, path, text, len, &root, err);
    if (st == GRAFT_OK) {
        const gr_json_value *map = gr_json_get(root, "weight_map");
        bool all = map && map->kind == GR_JSON_OBJECT && map->len > 0;
        const char *last = "";
        for (const gr_json_value *v = all ? map->child : NULL; v && all; v = v->next) {
            if (v->kind == GR_JSON_STRING && strcmp(v->text, last) == 0) continue;
            all = v->kind == GR_JSON_STRING && gr_plain_file_name(v->text) && has(a, dir, v->text);
            last = all ? v->text : "";
        }
        *out = all;
    }
    gr_arena_free(&arena);
    gr_free(a, text);
    gr_free(a, path);
    return st;
}

/* A snapshot is good when the weights that it announces are all there. */
static graft_status snapshot_complete(const graft_allocator *a, const char *dir, bool *out, graft_error *err) {
    bool config = has(a, dir, "config.json") || has(a, dir, "adapter_config.json");
    if (config && (has(a, dir, "model.safetensors") || has(a, dir, "adapter_model.safetensors")))
        return *out = true, GRAFT_OK;
    if (config && has(a, dir, "model.safetensors.index.json")) return index_complete(a, dir, out, err);
    char **names;
    size_t n;
    bool gguf = false;
    GR_TRY(gr_list_dir(a, dir, &names, &n, err));
    for (size_t i = 0; i < n; i++) gguf = gguf || (gr_ends_with(names[i], ".gguf") && has(a, dir, names[i]));
    gr_free_names(a, names, n);
    *out = gguf;
    return GRAFT_OK;
}

/* The commit that the cache has for a revision; NULL when it has none. */
static graft_status cached_commit(const graft_allocator *a, const char *model, const char *revision, char **out,
                                  graft_error *err) {
    char *path = NULL, *text = NULL;
    graft_status st = GRAFT_OK;
    if (gr_hub_is_hex(revision, 40)) {
        if (!(text = gr_strdup(a, revision))) return gr_fail_memory(err);
    } else {
        if (!(path = gr_format_path(a, "%s/refs/%s", model, revision))) return gr_fail_memory(err);
        if (gr_path_exists(path)) st = gr_read_file(a, path, 256, &text, NULL, err);
        gr_free(a, path);
        if (st != GRAFT_OK) return st;
        if (text) text[strcspn(text, " \r\n")] = '\0';
        if (text && !gr_hub_is_hex(text, 40)) {
            gr_free(a, text);
            text = NULL;
        }
    }
    *out = text;
    return GRAFT_OK;
}

graft_status graft_hub_find(graft_context *ctx, const char *name, const graft_hub_options *options, char **local_path,
                            graft_error *err) {
    const graft_allocator *a = gr_allocator(ctx);
    graft_hub_options given = options ? *options : (graft_hub_options){0};
    const char *revision = given.revision ? given.revision : "main";
    char *cache = NULL, *model = NULL, *commit = NULL, *snapshot = NULL;
    bool complete = false;
    graft_status st;
    if (!gr_hub_valid_name(name) || !gr_hub_valid_path(revision))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%.200s (revision %.200s): expected a model's name, ORG/NAME", name,
                       revision);
    GR_GO(done, gr_hub_cache_dir(a, given.cache_dir, &cache, err));
    GR_GO(done, gr_hub_model_dir(a, cache, name, &model, err));
    GR_GO(done, cached_commit(a, model, revision, &commit, err));
    if (commit && !(snapshot = gr_format_path(a, "%s/snapshots/%s", model, commit))) {
        st = gr_fail_memory(err);
        goto done;
    }
    /* With patterns the caller knows best what it needs: a snapshot that is there will do. */
    if (snapshot && gr_is_dir(snapshot)) {
        if (given.patterns)
            complete = true;
        else
            GR_GO(done, snapshot_complete(a, snapshot, &complete, err));
    }
    if (complete) {
        *local_path = snapshot;
        snapshot = NULL;
    } else {
        st = gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s (revision %s): %s in the cache %s", name, revision,
                     snapshot && gr_is_dir(snapshot) ? "not all of it is" : "is not", cache);
    }
done:
    gr_free(a, cache);
    gr_free(a, model);
    gr_free(a, commit);
    gr_free(a, snapshot);
    return st;
}
