/* A safetensors image: refused, or every tensor lies inside it. */
#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    gr_safetensors *f;
    graft_error err;
    if (gr_safetensors_parse(NULL, "fuzz", data, size, &f, &err) != GRAFT_OK) return 0;
    const gr_tensor_list *list = gr_safetensors_tensors(f);
    for (size_t i = 0; i < list->n; i++) {
        const gr_tensor_view *v = &list->items[i].view;
        const uint8_t *at = v->data;
        if (at < data || at > data + size || v->bytes > (size_t)(data + size - at)) __builtin_trap();
        if (gr_tensor_list_find(list, list->items[i].name) != &list->items[i]) __builtin_trap();
    }
    gr_safetensors_close(f);
    return 0;
}
