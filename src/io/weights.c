/* One view of weights from safetensors and GGUF. */
#include "io/weights.h"

#include <stdio.h>
#include <stdlib.h>

#include "io/paths.h"
#include "io/weights_parts.h"

struct gr_weights {
    const graft_allocator *a;
    gr_arena arena; /* translated names */
    const char *path;
    gr_safetensors *safetensors; /* one of the two */
    gr_gguf *gguf;
    gr_weight *items;
    size_t n;
    struct owned *owned; /* storage that gr_weights_replace was given */
    size_t owned_bytes;
};

struct owned {
    struct owned *next;
    void *memory;
};

static int by_name(const void *a, const void *b) {
    return strcmp(((const gr_weight *)a)->name, ((const gr_weight *)b)->name);
}

/* Heads of the interleaved rows that llama.cpp's converter wrote, 0 for every other tensor. */
static int permuted(const char *hf_name, int n_heads, int n_kv_heads) {
    if (gr_ends_with(hf_name, ".q_proj.weight") || gr_ends_with(hf_name, ".q_proj.bias")) return n_heads;
    if (gr_ends_with(hf_name, ".k_proj.weight") || gr_ends_with(hf_name, ".k_proj.bias")) return n_kv_heads;
    return 0;
}

/* The architectures whose converter writes q and k for rotation of neighbouring pairs. */
static bool is_permuted_arch(const gr_text *arch) {
    return (arch->len == 5 && memcmp(arch->text, "llama", 5) == 0) ||
           (arch->len == 7 && memcmp(arch->text, "smollm3", 7) == 0);
}

/* What a GGUF file says of all its tensors: its architecture ("" where it says none), and head counts where that permutes
 * (llama and its kin), else 0. */
typedef struct gguf_facts {
    char arch[64];
    int64_t n_heads, n_kv_heads;
} gguf_facts;

static graft_status read_facts(const gr_gguf *g, gguf_facts *out, graft_error *err) {
    gr_text arch;
    int64_t *n_heads = &out->n_heads, *n_kv_heads = &out->n_kv_heads;
    if (!gr_gguf_find(g, "general.architecture")) return GRAFT_OK;
    GR_TRY(gr_gguf_get_text(g, "general.architecture", &arch, err));
    snprintf(out->arch, sizeof out->arch, "%.*s", (int)GR_MIN(arch.len, sizeof out->arch - 1), arch.text);
    if (!is_permuted_arch(&arch)) return GRAFT_OK;
    char key[64], key_kv[80];
    snprintf(key, sizeof key, "%.*s.attention.head_count", (int)arch.len, arch.text);
    snprintf(key_kv, sizeof key_kv, "%s_kv", key);
    if (!gr_gguf_find(g, key)) return GRAFT_OK; /* a vocabulary only */
    GR_TRY(gr_gguf_get_int(g, key, 1, 65536, n_heads, err));
    *n_kv_heads = *n_heads;
    if (gr_gguf_find(g, key_kv)) GR_TRY(gr_gguf_get_int(g, key_kv, 1, 65536, n_kv_heads, err));
    return GRAFT_OK;
}

static graft_status translate(gr_weights *w, const gr_named_tensor *t, const gguf_facts *facts, gr_weight *out,
                              graft_error *err) {
    char name[512];
    gr_weight item = {.name = t->name, .stored_name = t->name, .file = t->file, .view = t->view};
    if (w->gguf && gr_name_from_gguf(facts->arch, t->name, name, sizeof name)) {
        if (!(item.name = gr_arena_strndup(&w->arena, name, strlen(name)))) return gr_fail_memory(err);
        item.permuted_heads = permuted(name, (int)facts->n_heads, (int)facts->n_kv_heads);
        item.turned = gr_name_is_turned(name);
        int64_t rows = t->view.shape.n ? t->view.shape.d[0] : 0;
        if (item.permuted_heads && rows % (2 * item.permuted_heads))
            return gr_fail(err, GRAFT_ERR_MISMATCH,
                           "%s: tensor %s: expected rows of %d heads of even size, found %lld rows", t->file, t->name,
                           item.permuted_heads, (long long)rows);
    }
    *out = item;
    return GRAFT_OK;
}

static graft_status fill(gr_weights *w, graft_error *err) {
    const gr_tensor_list *list = w->gguf ? gr_gguf_tensors(w->gguf) : gr_safetensors_tensors(w->safetensors);
    gguf_facts facts = {.arch = ""};
    if (w->gguf) GR_TRY(read_facts(w->gguf, &facts, err));
    if (!(w->items = gr_calloc(w->a, list->n, sizeof *w->items))) return gr_fail_memory(err);
    for (; w->n < list->n; w->n++) GR_TRY(translate(w, &list->items[w->n], &facts, &w->items[w->n], err));
    if (w->gguf && w->n) qsort(w->items, w->n, sizeof *w->items, by_name);
    for (size_t i = 1; i < w->n; i++)
        if (strcmp(w->items[i - 1].name, w->items[i].name) == 0)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensors %s and %s have one name (%s)", w->items[i].file,
                           w->items[i - 1].stored_name, w->items[i].stored_name, w->items[i].name);
    return w->gguf ? GRAFT_OK : gr_weights_join_scales(w->a, &w->arena, w->items, &w->n, err);
}

/* Finds the only model among a directory's .gguf files; the first part stands for a split one. */
static graft_status find_gguf(const graft_allocator *a, const char *dir, char **out, graft_error *err) {
    char **names, *found = NULL;
    size_t n;
    GR_TRY(gr_list_dir(a, dir, &names, &n, err));
    graft_status st = GRAFT_OK;
    for (size_t i = 0; i < n && st == GRAFT_OK; i++) {
        size_t len = strlen(names[i]);
        const char *tail = len > 20 ? names[i] + len - 20 : ""; /* "-00002-of-00003.gguf" */
        bool later_part = tail[0] == '-' && memcmp(tail + 6, "-of-", 4) == 0 && memcmp(tail + 1, "00001", 5) != 0;
        if (!gr_ends_with(names[i], ".gguf") || later_part) continue;
        if (found)
            st = gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: holds several .gguf files (%s, ...): name one", dir, names[i]);
        else if (!(found = gr_path_join(a, dir, names[i])))
            st = gr_fail_memory(err);
    }
    gr_free_names(a, names, n);
    if (st != GRAFT_OK) {
        gr_free(a, found);
        return st;
    }
    *out = found; /* NULL: none */
    return GRAFT_OK;
}

static bool has_file(const graft_allocator *a, const char *dir, const char *name) {
    char *path = gr_path_join(a, dir, name);
    bool there = path && gr_path_exists(path);
    gr_free(a, path);
    return there;
}

static graft_status open_dir(gr_weights *w, const char *dir, graft_error *err) {
    char *gguf = NULL;
    graft_error first = {0};
    graft_status st = gr_safetensors_open(w->a, dir, &w->safetensors, &first);
    bool any = has_file(w->a, dir, "model.safetensors") || has_file(w->a, dir, "model.safetensors.index.json") ||
               has_file(w->a, dir, "adapter_model.safetensors");
    if (st == GRAFT_ERR_NOT_FOUND && !any) {
        GR_TRY(find_gguf(w->a, dir, &gguf, err));
        if (gguf) {
            st = gr_gguf_open(w->a, gguf, &w->gguf, err);
            gr_free(w->a, gguf);
            return st;
        }
        if (has_file(w->a, dir, "pytorch_model.bin") || has_file(w->a, dir, "pytorch_model.bin.index.json"))
            return gr_fail(
                err, GRAFT_ERR_UNSUPPORTED,
                "%s: holds pytorch_model.bin only, which can run code when loaded: save the model again with "
                "safe_serialization=True to get model.safetensors",
                dir);
        return gr_fail(err, GRAFT_ERR_NOT_FOUND,
                       "%s: expected a model's weights (model.safetensors, model.safetensors.index.json, or one .gguf file), found none", dir);
    }
    if (st != GRAFT_OK && err) *err = first;
    return st;
}

graft_status gr_weights_open(const graft_allocator *a, const char *path, gr_weights **out, graft_error *err) {
    gr_weights *w = gr_calloc(a, 1, sizeof *w);
    if (!w) return gr_fail_memory(err);
    w->a = a;
    gr_arena_init(&w->arena, a, 0);
    graft_status st;
    if (!(w->path = gr_arena_strndup(&w->arena, path, strlen(path))))
        st = gr_fail_memory(err);
    else if (gr_is_dir(path))
        st = open_dir(w, path, err);
    else if (gr_ends_with(path, ".gguf"))
        st = gr_gguf_open(a, path, &w->gguf, err);
    else
        st = gr_safetensors_open(a, path, &w->safetensors, err);
    if (st == GRAFT_OK) st = fill(w, err);
    if (st != GRAFT_OK) {
        gr_weights_close(w);
        return st;
    }
    *out = w;
    return GRAFT_OK;
}

graft_status gr_weights_open_none(const graft_allocator *a, const char *path, gr_weights **out, graft_error *err) {
    gr_weights *w = gr_calloc(a, 1, sizeof *w);
    if (!w) return gr_fail_memory(err);
    w->a = a;
    gr_arena_init(&w->arena, a, 0);
    if (!(w->path = gr_arena_strndup(&w->arena, path, strlen(path)))) {
        gr_weights_close(w);
        return gr_fail_memory(err);
    }
    *out = w;
    return GRAFT_OK;
}

void gr_weights_close(gr_weights *w) {
    if (!w) return;
    gr_safetensors_close(w->safetensors);
    gr_gguf_close(w->gguf);
    gr_free(w->a, w->items);
    for (struct owned *o = w->owned; o; o = o->next) gr_free_aligned(w->a, o->memory);
    gr_arena_free(&w->arena);
    gr_free(w->a, w);
}

const char *gr_weights_path(const gr_weights *w) { return w->path; }
const gr_gguf *gr_weights_gguf(const gr_weights *w) { return w->gguf; }
size_t gr_weights_count(const gr_weights *w) { return w->n; }
const gr_weight *gr_weights_at(const gr_weights *w, size_t i) { return &w->items[i]; }

const gr_weight *gr_weights_find(const gr_weights *w, const char *name) {
    gr_weight key = {.name = name};
    return w->n ? bsearch(&key, w->items, w->n, sizeof key, by_name) : NULL;
}

graft_status gr_weights_replace(gr_weights *w, const gr_weight *which, const gr_tensor_view *view, bool turned, void *memory,
                                size_t bytes, graft_error *err) {
    struct owned *o = gr_arena_alloc(&w->arena, sizeof *o);
    if (!o) return gr_fail_memory(err);
    *o = (struct owned){w->owned, memory};
    w->owned = o;
    w->owned_bytes += bytes;
    gr_weight *item = &w->items[which - w->items];
    item->file_view = item->view;
    item->file_permuted_heads = item->permuted_heads;
    item->file_turned = item->turned;
    item->turned = turned;
    item->view = *view;
    item->permuted_heads = 0;
    return GRAFT_OK;
}

void gr_weights_set_turned(gr_weights *w, const gr_weight *which) { w->items[which - w->items].turned = true; }

size_t gr_weights_owned_bytes(const gr_weights *w) { return w->owned_bytes; }

graft_status gr_weights_get(const gr_weights *w, const char *name, const gr_shape *shape, const gr_weight **out,
                            graft_error *err) {
    return gr_weights_check(w, name, gr_weights_find(w, name), shape, out, err);
}

graft_status gr_weights_check(const gr_weights *w, const char *name, const gr_weight *found, const gr_shape *shape,
                              const gr_weight **out, graft_error *err) {
    char expected[GR_SHAPE_TEXT], given[GR_SHAPE_TEXT];
    if (!found) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: tensor %s is missing", w->path, name);
    gr_shape stored = shape ? *shape : found->view.shape;
    if (shape && found->turned && shape->n == 2) stored = gr_shape2(shape->d[1], shape->d[0]);
    if (!gr_shape_equal(&stored, &found->view.shape))
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: tensor %s: expected shape %s, found %s", found->file,
                       found->stored_name, gr_shape_format(&stored, expected, sizeof expected),
                       gr_shape_format(&found->view.shape, given, sizeof given));
    *out = found;
    return GRAFT_OK;
}
