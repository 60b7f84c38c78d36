/* The JSON reader: walking and building a tree agree on what is well formed, and what is written reads back. */
#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    gr_arena arena;
    gr_json_reader r;
    const gr_json_value *root;
    graft_error err;
    gr_arena_init(&arena, NULL, (size_t)64 << 20);
    graft_status tree = gr_json_parse(&arena, "fuzz", (const char *)data, size, &root, &err);
    gr_json_init(&r, "fuzz", (const char *)data, size);
    graft_status walk = gr_json_skip(&r, &err);
    if (walk == GRAFT_OK) walk = gr_json_end(&r, &err);
    if (tree != walk && tree != GRAFT_ERR_MEMORY) __builtin_trap();
    if (tree == GRAFT_OK && root->kind == GR_JSON_STRING) {
        gr_buf b;
        gr_json_text text;
        gr_buf_init(&b, NULL);
        gr_json_add_text(&b, root->text, root->len);
        gr_json_init(&r, "written", b.data, b.len);
        char *back = gr_alloc(NULL, b.len);
        if (gr_json_read_text(&r, &text, &err) != GRAFT_OK || gr_json_unescape(&text, back) != root->len ||
            memcmp(back, root->text, root->len) != 0)
            __builtin_trap();
        gr_free(NULL, back);
        gr_buf_free(&b);
    }
    gr_arena_free(&arena);
    return 0;
}
