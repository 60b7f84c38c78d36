/* graft_tokenizer_load: which kind of file it is, and what to read beside it. */
#include "base/ctx.h"
#include "io/gguf.h"
#include "io/tokenizer_files.h"
#include "text/tokenizer.h"

static graft_status read_json_file(gr_tokenizer_spec *spec, const char *path, graft_error *err) {
    gr_mapping m;
    GR_TRY(gr_map_file(path, &m, err));
    graft_status st = gr_tokenizer_json_read(spec, path, (const char *)m.data, m.size, err);
    gr_unmap_file(&m);
    return st;
}

static graft_status read_model_file(gr_tokenizer_spec *spec, const char *path, graft_error *err) {
    gr_mapping m;
    GR_TRY(gr_map_file(path, &m, err));
    graft_status st = gr_tokenizer_model_read(spec, path, m.data, m.size, err);
    gr_unmap_file(&m);
    return st;
}

static graft_status read_gguf_file(gr_tokenizer_spec *spec, const char *path, graft_error *err) {
    gr_gguf *g;
    GR_TRY(gr_gguf_open(spec->a, path, &g, err));
    graft_status st = gr_tokenizer_gguf_read(spec, g, err);
    gr_gguf_close(g);
    return st;
}

static bool has_suffix(const char *path, const char *suffix) {
    const size_t n = strlen(path), k = strlen(suffix);
    return n >= k && !strcmp(path + n - k, suffix);
}

static bool is_named(const char *path, const char *name) {
    const char *slash = strrchr(path, '/');
    return !strcmp(slash ? slash + 1 : path, name);
}

/* The configuration lies beside the file. */
static graft_status read_beside(gr_tokenizer_spec *spec, const char *path, graft_error *err) {
    const char *slash = strrchr(path, '/');
    char *dir = slash ? gr_strndup(spec->a, path, (size_t)(slash - path) + 1) : gr_strdup(spec->a, ".");
    if (!dir) return gr_fail_memory(err);
    graft_status st = is_named(path, "spiece.model") ? gr_tokenizer_t5_read(spec, dir, err) : GRAFT_OK;
    if (st == GRAFT_OK) st = gr_tokenizer_config_read(spec, dir, err);
    gr_free(spec->a, dir);
    return st;
}

static graft_status read_in_dir(gr_tokenizer_spec *spec, const char *dir, const char *name,
                                graft_status (*read)(gr_tokenizer_spec *spec, const char *path, graft_error *err),
                                bool *done, graft_error *err) {
    char *path = gr_path_join(spec->a, dir, name);
    if (!path) return gr_fail_memory(err);
    *done = gr_path_exists(path);
    graft_status st = *done ? read(spec, path, err) : GRAFT_OK;
    gr_free(spec->a, path);
    return st;
}

static graft_status read_dir(gr_tokenizer_spec *spec, const char *dir, graft_error *err) {
    bool done = false;
    GR_TRY(read_in_dir(spec, dir, "tokenizer.json", read_json_file, &done, err));
    if (!done) GR_TRY(read_in_dir(spec, dir, "vocab.json", gr_tokenizer_vocab_read, &done, err));
    if (!done) GR_TRY(read_in_dir(spec, dir, "tokenizer.model", read_model_file, &done, err));
    if (!done) {
        GR_TRY(read_in_dir(spec, dir, "spiece.model", read_model_file, &done, err));
        if (done) GR_TRY(gr_tokenizer_t5_read(spec, dir, err));
    }
    if (!done) GR_TRY(read_in_dir(spec, dir, "vocab.txt", gr_tokenizer_txt_read, &done, err));
    if (!done)
        return gr_fail(err, GRAFT_ERR_NOT_FOUND,
                       "%s holds no tokenizer (tokenizer.json, vocab.json with merges.txt, tokenizer.model, spiece.model or "
                       "vocab.txt)", dir);
    return gr_tokenizer_config_read(spec, dir, err);
}

graft_status gr_tokenizer_read(gr_tokenizer_spec *spec, const char *path, graft_error *err) {
    if (gr_is_dir(path)) return read_dir(spec, path, err);
    if (has_suffix(path, ".gguf")) return read_gguf_file(spec, path, err);
    if (has_suffix(path, ".model")) GR_TRY(read_model_file(spec, path, err));
    else GR_TRY(is_named(path, "vocab.txt") ? gr_tokenizer_txt_read(spec, path, err) : read_json_file(spec, path, err));
    return read_beside(spec, path, err);
}

graft_status graft_tokenizer_load(graft_context *ctx, const char *path, graft_tokenizer **out, graft_error *err) {
    if (!ctx || !path || !out) return gr_fail(err, GRAFT_ERR_ARGUMENT, "tokenizer: an argument is NULL");
    gr_tokenizer_spec spec;
    gr_spec_init(&spec, gr_allocator(ctx));
    graft_status st = gr_tokenizer_read(&spec, path, err);
    if (st == GRAFT_OK) {
        st = gr_tokenizer_new(ctx, &spec, out, err);
        if (st != GRAFT_OK) st = gr_error_prefix(err, st, "%s", path);
    }
    gr_spec_free(&spec);
    return st;
}
