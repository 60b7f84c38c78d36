/* The files of a tokenizer in one folder, divided by NUL: the first byte chooses the first file, then come merges.txt,
 * tokenizer_config.json, special_tokens_map.json, added_tokens.json and config.json as far as there are bytes. What is read
 * encodes and decodes a text without harm. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <unistd.h>

#include "graft/tokenizer.h"
#include "support/support.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const first[] = {"vocab.txt", "vocab.json", "tokenizer.json", "spiece.model"};
static const char *const later[] = {"merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                                    "config.json"};
static char dir[64];

static void remove_dir(void) { gr_remove_tree(dir, NULL); }

static void write_file(const char *name, const uint8_t *data, size_t n) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f)) abort();
}

static void write_files(const uint8_t *data, size_t size) {
    const uint8_t *at = data + 1, *end = data + size;
    for (size_t i = 0; i <= GR_COUNT(later); i++) {
        const bool is_model = i == 0 && data[0] % GR_COUNT(first) == 3; /* which holds NUL itself */
        const uint8_t *nul = is_model || at == end ? NULL : memchr(at, 0, (size_t)(end - at)), *stop = nul ? nul : end;
        write_file(i ? later[i - 1] : first[data[0] % GR_COUNT(first)], at, (size_t)(stop - at));
        if (!nul) return;
        at = nul + 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const graft_context_options o = {.n_threads = 1};
    static const char text[] = "The river\n 12 \xc3\xa9 [CLS] <s>";
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "/tmp/graft-fuzz-XXXXXX");
        if (!mkdtemp(dir)) abort();
        atexit(remove_dir);
    }
    if (size < 1) return 0;
    if (gr_remove_tree(dir, NULL) != GRAFT_OK || gr_make_dirs(dir, NULL) != GRAFT_OK) abort();
    write_files(data, size);
    graft_context *ctx;
    graft_tokenizer *tok;
    graft_error err = {0};
    int32_t *ids = NULL;
    char *back = NULL;
    size_t n, len;
    if (graft_context_new(&o, &ctx, NULL) != GRAFT_OK) return 0;
    if (graft_tokenizer_load(ctx, dir, &tok, &err) == GRAFT_OK) {
        if (graft_tokenizer_encode(tok, text, sizeof text - 1, GRAFT_TOK_ADD_SPECIAL, &ids, &n, NULL) == GRAFT_OK &&
            graft_tokenizer_decode(tok, ids, n, 0, &back, &len, NULL) == GRAFT_OK && !gr_utf8_valid(back, len))
            abort();
        graft_free(ctx, back);
        graft_free(ctx, ids);
        graft_tokenizer_free(tok);
    } else if (!err.text[0] || !gr_utf8_valid(err.text, strlen(err.text))) {
        abort();
    }
    graft_context_free(ctx);
    return 0;
}
