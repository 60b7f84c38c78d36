/* Tensor names: GGUF to Hugging Face and back. */
#include <stdio.h>

#include "io/weights.h"

static const struct {
    const char *gguf, *hf;
} globals[] =
    {
#define GLOBAL(gguf, hf) {gguf, hf},
#include "io/names.def"
#undef GLOBAL
},
  layers[] = {
#define LAYER(gguf, hf) {gguf, hf},
#include "io/names.def"
#undef LAYER
};

/* After "PREFIX<digits>." gives the rest of the name and the number, NULL where the name has another form. */
static const char *after_layer(const char *name, const char *prefix, int *layer) {
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0) return NULL;
    const char *p = name + n;
    int v = 0, digits = 0;
    for (; *p >= '0' && *p <= '9' && digits < 6; p++, digits++) v = v * 10 + (*p - '0');
    if (digits == 0 || *p != '.') return NULL;
    *layer = v;
    return p + 1;
}

static bool put(char *out, size_t size, int n) { return n >= 0 && (size_t)n < size && out[0]; }

bool gr_name_from_gguf(const char *gguf, char *out, size_t size) {
    int layer;
    for (size_t i = 0; i < GR_COUNT(globals); i++)
        if (strcmp(gguf, globals[i].gguf) == 0) return put(out, size, snprintf(out, size, "%s", globals[i].hf));
    const char *rest = after_layer(gguf, "blk.", &layer), *dot = rest ? strrchr(rest, '.') : NULL;
    if (!dot) return false;
    for (size_t i = 0; i < GR_COUNT(layers); i++)
        if (strlen(layers[i].gguf) == (size_t)(dot - rest) && memcmp(layers[i].gguf, rest, (size_t)(dot - rest)) == 0)
            return put(out, size, snprintf(out, size, "model.layers.%d.%s%s", layer, layers[i].hf, dot));
    return false;
}

bool gr_name_to_gguf(const char *hf, char *out, size_t size) {
    int layer;
    for (size_t i = 0; i < GR_COUNT(globals); i++)
        if (strcmp(hf, globals[i].hf) == 0) return put(out, size, snprintf(out, size, "%s", globals[i].gguf));
    const char *rest = after_layer(hf, "model.layers.", &layer), *dot = rest ? strrchr(rest, '.') : NULL;
    if (!dot) return false;
    for (size_t i = 0; i < GR_COUNT(layers); i++)
        if (strlen(layers[i].hf) == (size_t)(dot - rest) && memcmp(layers[i].hf, rest, (size_t)(dot - rest)) == 0)
            return put(out, size, snprintf(out, size, "blk.%d.%s%s", layer, layers[i].gguf, dot));
    return false;
}
