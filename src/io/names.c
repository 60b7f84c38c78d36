/* Tensor names: GGUF to Hugging Face and back. */
#include <stdio.h>

#include "io/weights.h"

typedef enum name_family {
#define FAMILY(name, prefix) FAMILY_##name,
#include "io/names.def"
#undef FAMILY
} name_family;

static const char *const prefixes[] = {
#define FAMILY(name, prefix) prefix,
#include "io/names.def"
#undef FAMILY
};

typedef struct pair {
    name_family family;
    const char *gguf, *hf;
} pair;

static const pair globals[] =
    {
#define GLOBAL(family, gguf, hf) {FAMILY_##family, gguf, hf},
#include "io/names.def"
#undef GLOBAL
},
                  layers[] = {
#define LAYER(family, gguf, hf) {FAMILY_##family, gguf, hf},
#include "io/names.def"
#undef LAYER
};

static const struct {
    name_family family;
    const char *hf;
} turned[] = {
#define TURNED(family, hf) {FAMILY_##family, hf},
#include "io/names.def"
#undef TURNED
};

/* After "PREFIX.<digits>." gives the rest of the name and the number, NULL where the name has another form. */
static const char *after_layer(const char *name, const char *prefix, int *layer) {
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0 || name[n] != '.') return NULL;
    const char *p = name + n + 1;
    int v = 0, digits = 0;
    for (; *p >= '0' && *p <= '9' && digits < 6; p++, digits++) v = v * 10 + (*p - '0');
    if (digits == 0 || *p != '.') return NULL;
    *layer = v;
    return p + 1;
}

static bool put(char *out, size_t size, int n) { return n >= 0 && (size_t)n < size && out[0]; }

static bool is_text(const char *text, const char *begin, const char *end) {
    return strlen(text) == (size_t)(end - begin) && memcmp(text, begin, (size_t)(end - begin)) == 0;
}

bool gr_name_from_gguf(const char *arch, const char *gguf, char *out, size_t size) {
    name_family family = strcmp(arch, "gpt2") == 0 ? FAMILY_GPT2 : FAMILY_LLAMA;
    int layer;
    for (size_t i = 0; i < GR_COUNT(globals); i++)
        if (globals[i].family == family && strcmp(gguf, globals[i].gguf) == 0)
            return put(out, size, snprintf(out, size, "%s", globals[i].hf));
    const char *rest = after_layer(gguf, "blk", &layer), *dot = rest ? strrchr(rest, '.') : NULL;
    if (!dot) return false;
    for (size_t i = 0; i < GR_COUNT(layers); i++)
        if (layers[i].family == family && is_text(layers[i].gguf, rest, dot))
            return put(out, size, snprintf(out, size, "%s.%d.%s%s", prefixes[family], layer, layers[i].hf, dot));
    return false;
}

bool gr_name_to_gguf(const char *hf, char *out, size_t size) {
    int layer;
    for (size_t i = 0; i < GR_COUNT(globals); i++)
        if (strcmp(hf, globals[i].hf) == 0) return put(out, size, snprintf(out, size, "%s", globals[i].gguf));
    for (size_t i = 0; i < GR_COUNT(layers); i++) {
        const char *rest = after_layer(hf, prefixes[layers[i].family], &layer), *dot = rest ? strrchr(rest, '.') : NULL;
        if (dot && is_text(layers[i].hf, rest, dot))
            return put(out, size, snprintf(out, size, "blk.%d.%s%s", layer, layers[i].gguf, dot));
    }
    return false;
}

bool gr_name_is_turned(const char *hf) {
    int layer;
    for (size_t i = 0; i < GR_COUNT(turned); i++) {
        const char *rest = after_layer(hf, prefixes[turned[i].family], &layer), *dot = rest ? strrchr(rest, '.') : NULL;
        if (dot && strcmp(dot, ".weight") == 0 && is_text(turned[i].hf, rest, dot)) return true;
    }
    return false;
}
