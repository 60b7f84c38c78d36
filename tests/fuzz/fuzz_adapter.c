/* Adapters over small models. The first byte chooses the model and the kind of file; what follows is adapter_config.json
 * alone (a new adapter), or that and, behind a NUL, adapter_model.safetensors (one that is loaded, to be used or trained),
 * or a GGUF adapter. What is taken can be saved, and what was saved can be loaded. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <unistd.h>

#include "graft/convert.h"
#include "support/model_support.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_BYTES = 64 << 20, MODELS = 4 };

static bool refused; /* an allocation, since the input began */
static graft_model *models[MODELS];
static char input[64], output[64], gguf[96];

static void *limited_resize(void *user, void *ptr, size_t size) {
    (void)user;
    if (size == 0) {
        free(ptr);
        return NULL;
    }
    void *p = size <= MOST_BYTES ? realloc(ptr, size) : NULL;
    if (!p) refused = true;
    return p;
}

static void remove_dirs(void) {
    gr_remove_tree(input, NULL);
    gr_remove_tree(output, NULL);
}

static void start(void) {
    static const char *const names[MODELS] = {"models/llama", "families/gpt2", "families/t5", "families/bert_cls"};
    const graft_context_options o = {.allocator = {.resize = limited_resize}, .n_threads = 1};
    graft_context *ctx;
    if (graft_context_new(&o, &ctx, NULL) != GRAFT_OK) abort();
    for (int i = 0; i < MODELS; i++)
        if (graft_model_load(ctx, test_golden(names[i]), NULL, &models[i], NULL) != GRAFT_OK) abort();
    snprintf(input, sizeof input, "/tmp/graft-fuzz-XXXXXX");
    snprintf(output, sizeof output, "/tmp/graft-fuzz-XXXXXX");
    if (!mkdtemp(input) || !mkdtemp(output)) abort();
    snprintf(gguf, sizeof gguf, "%s/adapter.gguf", input);
    atexit(remove_dirs);
}

static void write_file(const char *name, const void *data, size_t n) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", input, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f)) abort();
}

static void check(graft_status st, const graft_error *err) {
    if (st == GRAFT_OK) return;
    if (!err->text[0] || !gr_utf8_valid(err->text, strlen(err->text)) || st == GRAFT_ERR_INTERNAL) abort();
    if (st == GRAFT_ERR_MEMORY && !refused) abort();
}

static void empty(const char *dir) {
    if (gr_remove_tree(dir, NULL) != GRAFT_OK || gr_make_dirs(dir, NULL) != GRAFT_OK) abort();
}

/* The adapter "a", which was taken; of FULL there is a model to save, no adapter. */
static void use(graft_model *m) {
    graft_error err = {0};
    const bool is_full = !strcmp(gr_adapter_method_name(m->adapters, gr_adapter_set_find(m->adapters, "a")), "full");
    empty(output);
    graft_status st = is_full ? GRAFT_OK : graft_adapter_save(m, "a", output, &err);
    check(st, &err);
    if (graft_adapter_remove(m, "a", &err) != GRAFT_OK) abort();
    if (st != GRAFT_OK || is_full) return;
    st = graft_adapter_load(m, "b", output, 1, &err);
    if (st == GRAFT_OK && graft_adapter_remove(m, "b", &err) != GRAFT_OK) abort();
    if (st != GRAFT_OK && !refused) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!models[0]) start();
    if (size < 1) return 0;
    graft_model *m = models[data[0] & (MODELS - 1)];
    const bool is_gguf = data[0] & MODELS;
    const uint8_t *bytes = data + 1, *nul = size > 1 ? memchr(bytes, 0, --size) : NULL;
    graft_error err = {0};
    graft_status st;
    refused = false;
    empty(input);
    if (is_gguf) {
        write_file("adapter.gguf", bytes, size);
        st = graft_adapter_from_gguf(m, gguf, output, &err);
        check(st, &err);
        if (st != GRAFT_OK) return 0;
        st = graft_adapter_load(m, "a", output, 1, &err);
        if (st != GRAFT_OK && !refused) abort();
    } else if (nul) {
        const size_t n = (size_t)(nul - bytes);
        write_file("adapter_config.json", bytes, n);
        write_file("adapter_model.safetensors", nul + 1, size - n - 1);
        st = data[0] & 2 * MODELS ? graft_adapter_load(m, "a", input, 1, &err)
                                  : graft_adapter_load_trainable(m, "a", input, &err);
    } else {
        char *config = gr_strndup(NULL, (const char *)bytes, size);
        st = graft_adapter_new(m, "a", config, 1, &err);
        gr_free(NULL, config);
    }
    check(st, &err);
    if (st == GRAFT_OK) use(m);
    return 0;
}
