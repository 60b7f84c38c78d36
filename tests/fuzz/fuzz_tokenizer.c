/* The bytes are a tokenizer.json (first byte odd: a SentencePiece model) and, after the last NUL, a text: what is read is built,
 * and encodes and decodes the text without harm. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "io/tokenizer_files.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const graft_context *ctx, const graft_tokenizer *tok, const char *text, size_t len) {
    int32_t *ids = NULL;
    char *back = NULL;
    size_t n, back_len;
    if (graft_tokenizer_encode(tok, text, len, 0, &ids, &n, NULL) == GRAFT_OK &&
        graft_tokenizer_decode(tok, ids, n, 0, &back, &back_len, NULL) == GRAFT_OK && !gr_utf8_valid(back, back_len))
        abort();
    graft_free((graft_context *)(uintptr_t)ctx, back);
    graft_free((graft_context *)(uintptr_t)ctx, ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    const graft_context_options co = {.n_threads = 1};
    const char *bytes = (const char *)data + 1, *text = "two river\n 12 \xc3\xa9\xff";
    size_t n = size - 1, len = strlen(text);
    const char *nul = memrchr(bytes, 0, n);
    if (!(data[0] & 1) && nul) {
        text = nul + 1;
        len = GR_MIN((size_t)(bytes + n - text), (size_t)256);
        n = (size_t)(nul - bytes);
    }
    graft_context *ctx;
    graft_tokenizer *tok = NULL;
    graft_error err = {0};
    gr_tokenizer_spec spec;
    if (graft_context_new(&co, &ctx, NULL) != GRAFT_OK) return 0;
    gr_spec_init(&spec, gr_allocator(ctx));
    graft_status st = data[0] & 1 ? gr_tokenizer_model_read(&spec, "file", bytes, n, &err) : gr_tokenizer_json_read(&spec, "file", bytes, n, &err);
    if (st == GRAFT_OK) st = gr_tokenizer_new(ctx, &spec, &tok, &err);
    if (st == GRAFT_OK) use(ctx, tok, text, len);
    if (st != GRAFT_OK && !gr_utf8_valid(err.text, strlen(err.text))) abort();
    graft_tokenizer_free(tok);
    gr_spec_free(&spec);
    graft_context_free(ctx);
    return 0;
}
