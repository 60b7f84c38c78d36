/* A GGUF image: refused, or every tensor lies inside it and every value can be read; its configuration too. */
#include "io/hf_config.h"

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
    gr_gguf_close(g);
    return 0;
}
