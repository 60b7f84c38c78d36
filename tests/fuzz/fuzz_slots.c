/* Prompt templates with pseudo-tokens. */
#include <stdlib.h>

#include "text/slots.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = gr_strndup(NULL, (const char *)data, size);
    gr_arena arena;
    gr_slots s;
    gr_arena_init(&arena, NULL, (size_t)64 << 20);
    if (gr_slots_parse(&arena, "f", text, &s, NULL) == GRAFT_OK) {
        if (s.n_virtual < 1) abort();
        for (size_t i = 0; i < s.n; i++) {
            if (s.items[i].kind == GR_SLOT_VIRTUAL && s.items[i].last >= s.n_virtual) abort();
            if (s.items[i].kind != GR_SLOT_VIRTUAL && strlen(s.items[i].text) > size + strlen("completion")) abort();
        }
    }
    gr_arena_free(&arena);
    gr_free(NULL, text);
    return 0;
}
