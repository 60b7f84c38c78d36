/* safetensors files with weights in bitsandbytes' serialisation: joined with their scales and decoded. */
#include "io/safetensors.h"
#include "io/weights_parts.h"
#include "quant/scaled.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void join_and_decode(const gr_tensor_list *list) {
    gr_weight *items = gr_calloc(NULL, list->n + 1, sizeof *items);
    gr_arena arena;
    size_t n = list->n;
    graft_error err;
    gr_arena_init(&arena, NULL, 0);
    for (size_t i = 0; items && i < n; i++) {
        const gr_named_tensor *t = &list->items[i];
        items[i] = (gr_weight){.name = t->name, .stored_name = t->name, .file = t->file, .view = t->view};
    }
    if (items && gr_weights_join_scales(NULL, &arena, items, &n, &err) == GRAFT_OK)
        for (size_t i = 0; i < n; i++) {
            const gr_tensor_view *v = &items[i].view;
            if (!v->scales) continue;
            float row[4096];
            const int64_t all = v->shape.d[0] * v->shape.d[1], step = (int64_t)GR_COUNT(row);
            for (int64_t at = 0; at < all; at += step)
                (void)gr_view_decode(v, at, GR_MIN(step, all - at), row, &err);
            (void)gr_view_all_bytes(v);
        }
    gr_arena_free(&arena);
    gr_free(NULL, items);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    gr_safetensors *f;
    graft_error err;
    if (gr_safetensors_parse(NULL, "fuzz", data, size, &f, &err) != GRAFT_OK) return 0;
    join_and_decode(gr_safetensors_tensors(f));
    gr_safetensors_close(f);
    return 0;
}
