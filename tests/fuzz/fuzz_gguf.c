/* A GGUF image: refused, or every tensor lies inside it and every value can be read; its configuration and its
 * tokenizer too, which encodes and decodes a text without harm. */
#include "io/hf_config.h"
#include "io/tokenizer_files.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_pair(const gr_gguf *g, const gr_gguf_pair *p) {
    size_t at = 0;
    int64_t i;
    double d;
    bool b;
    gr_text t;
    gr_gguf_get_int(g, p->key, INT64_MIN, INT64_MAX, &i, NULL);
    gr_gguf_get_float(g, p->key, &d, NULL);
    gr_gguf_get_bool(g, p->key, &b, NULL);
    gr_gguf_get_text(g, p->key, &t, NULL);
    if (p->type != GR_GGUF_ARRAY) return;
    for (uint64_t k = 0; k < p->array.n; k++) {
        if (p->array.type == GR_GGUF_STRING) {
            gr_gguf_next_string(&p->array, &at);
        } else {
            gr_gguf_array_int(&p->array, k);
            gr_gguf_array_float(&p->array, k);
        }
    }
}

static void read_tokenizer(const gr_gguf *g) {
    static const graft_context_options o = {.n_threads = 1};
    static const char text[] = "a river\n 12 \xc3\xa9 <s>";
    graft_context *ctx;
    graft_tokenizer *tok = NULL;
    graft_error err = {0};
    gr_tokenizer_spec spec;
    if (graft_context_new(&o, &ctx, NULL) != GRAFT_OK) return;
    gr_spec_init(&spec, gr_allocator(ctx));
    graft_status st = gr_tokenizer_gguf_read(&spec, g, &err);
    if (st == GRAFT_OK) st = gr_tokenizer_new(ctx, &spec, &tok, &err);
    if (st != GRAFT_OK && !gr_utf8_valid(err.text, strlen(err.text))) __builtin_trap();
    int32_t *ids = NULL;
    char *back = NULL;
    size_t n, len;
    if (st == GRAFT_OK && graft_tokenizer_encode(tok, text, sizeof text - 1, 0, &ids, &n, NULL) == GRAFT_OK &&
        graft_tokenizer_decode(tok, ids, n, 0, &back, &len, NULL) == GRAFT_OK && !gr_utf8_valid(back, len))
        __builtin_trap();
    graft_free(ctx, back);
    graft_free(ctx, ids);
    graft_tokenizer_free(tok);
    gr_spec_free(&spec);
    graft_context_free(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    gr_gguf *g;
    graft_error err;
    gr_model_config c;
    if (gr_gguf_parse(NULL, "fuzz", data, size, &g, &err) != GRAFT_OK) return 0;
    const gr_tensor_list *list = gr_gguf_tensors(g);
    for (size_t i = 0; i < list->n; i++) {
        const gr_tensor_view *v = &list->items[i].view;
        const uint8_t *at = v->data;
        if (at < data || at > data + size || v->bytes > (size_t)(data + size - at)) __builtin_trap();
    }
    for (size_t i = 0; i < gr_gguf_n_pairs(g); i++) read_pair(g, gr_gguf_pair_at(g, i));
    if (gr_model_config_from_gguf(g, &c, &err) == GRAFT_OK && (c.n_layers < 1 || c.head_dim % 2)) __builtin_trap();
    read_tokenizer(g);
    gr_gguf_close(g);
    return 0;
}
