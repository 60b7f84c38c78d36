/* A chat template and a file of records, split at the first NUL byte: everything from bytes to labels, with the assistant
 * found by comparing renderings. */
#include <stdlib.h>

#include "data/encode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static graft_context *ctx;
static graft_tokenizer *tok;

static bool start(void) {
    return graft_context_new(&(graft_context_options){.n_threads = 1}, &ctx, NULL) == GRAFT_OK &&
           graft_tokenizer_load(ctx, TEST_SOURCE_DIR "/golden/data/tok-plain", &tok, NULL) == GRAFT_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!tok && !start()) abort();
    const uint8_t *end = memchr(data, 0, size);
    if (!end) return 0;
    size_t n = size - (size_t)(end + 1 - data);
    char *record_text = gr_strndup(NULL, (const char *)end + 1, n);
    graft_data_options o = {.chat_template = (const char *)data, .assistant_only_loss = 1, .max_length = 64};
    gr_encoder e;
    if (gr_encoder_open(&e, ctx, tok, &o, 1, NULL) == GRAFT_OK) {
        gr_arena arena;
        gr_record record;
        gr_tokens t;
        gr_question q;
        gr_arena_init(&arena, NULL, 0);
        if (gr_record_parse(&arena, "f:1", record_text, n, NULL, graft_tokenizer_vocab_size(tok), &record, NULL) == GRAFT_OK) {
            if (gr_encode_record(&e, &arena, &record, &t, NULL) == GRAFT_OK)
                for (size_t i = 0; i < t.n; i++)
                    if (t.ids[i] < 0 || (t.labels[i] != t.ids[i] && t.labels[i] != GRAFT_IGNORE_LABEL && !record.labels)) abort();
            gr_encode_question(&e, &arena, &record, &q, NULL);
        }
        gr_arena_free(&arena);
        gr_encoder_close(&e);
    }
    gr_free(NULL, record_text);
    return 0;
}
