/* All tensors of a shape are one map of zeros, as long as the longest of them. */
#define _GNU_SOURCE
#include "model/shape.h"

#include <errno.h>
#include <sys/mman.h>

#include "io/paths.h"
#include "kernel/mapped.h"
#include "model/family.h"
#include "quant/scaled.h"

enum { MOST_TENSORS = 1 << 15 };

static bool has(const graft_allocator *a, const char *dir, const char *name) {
    char *path = gr_path_join(a, dir, name);
    bool there = path && gr_path_exists(path);
    gr_free(a, path);
    return there;
}

bool gr_path_is_shape(const graft_allocator *a, const char *path) {
    char **names;
    size_t n;
    if (!path || !gr_is_dir(path) || !has(a, path, "config.json")) return false;
    if (gr_list_dir(a, path, &names, &n, NULL) != GRAFT_OK) return false;
    bool weights = false;
    for (size_t i = 0; i < n; i++)
        weights |= gr_ends_with(names[i], ".safetensors") || gr_ends_with(names[i], ".safetensors.index.json") ||
                   gr_ends_with(names[i], ".gguf") || gr_ends_with(names[i], ".bin");
    gr_free_names(a, names, n);
    return !weights;
}

static graft_status region(gr_region *r, size_t bytes, bool writable, graft_error *err) {
    if (bytes <= r->size[r->n ? r->n - 1 : 0]) return GRAFT_OK;
    if (r->n == (int)GR_COUNT(r->data)) return gr_fail(err, GRAFT_ERR_LIMIT, "a tensor of %zu bytes", bytes);
    const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    const size_t size = GR_MAX(bytes, r->n ? 2 * r->size[r->n - 1] : (size_t)1 << 20);
    void *data = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) return gr_fail_errno(err, GRAFT_ERR_MEMORY, errno, "a map of %zu bytes", size);
    r->data[r->n] = data;
    r->size[r->n++] = size;
    return GRAFT_OK;
}

static void free_region(gr_region *r) {
    for (int i = 0; i < r->n; i++) munmap(r->data[i], r->size[i]);
}

void gr_shape_free(gr_model *m) {
    free_region(&m->zeros);
    free_region(&m->scratch);
}

graft_status gr_model_shape_scratch(gr_model *m, size_t bytes, void **out, graft_error *err) {
    GR_TRY(region(&m->scratch, bytes, true, err));
    *out = m->scratch.data[m->scratch.n - 1];
    return GRAFT_OK;
}

graft_status gr_shape_weight(gr_model *m, const char *name, const gr_shape *shape, graft_error *err) {
    size_t bytes;
    GR_TRY(gr_tensor_bytes(m->config.dtype, shape, &bytes, err));
    GR_TRY(region(&m->zeros, bytes, false, err));
    /* They are pointed to: the list never moves. */
    if (m->n_fresh == MOST_TENSORS) return gr_fail(err, GRAFT_ERR_LIMIT, "more than %d tensors", MOST_TENSORS);
    GR_TRY(gr_grow(m->a, (void **)&m->fresh, &m->cap_fresh, MOST_TENSORS, sizeof *m->fresh, err));
    char *copy = gr_arena_strndup(&m->names, name, strlen(name));
    if (!copy) return gr_fail_memory(err);
    m->fresh[m->n_fresh++] = (gr_weight){
        .name = copy, .stored_name = copy, .file = gr_weights_path(m->weights),
        .view = {m->config.dtype, *shape, m->zeros.data[m->zeros.n - 1], bytes, NULL}};
    m->shape_mapped += bytes;
    return GRAFT_OK;
}

graft_status gr_shape_quantize(gr_model *m, const gr_weight *w, bool transposed, graft_error *err) {
    gr_weight *own = &m->fresh[w - m->fresh];
    gr_scales *s = gr_arena_alloc(&m->names, sizeof *s);
    const int64_t rows = w->view.shape.d[transposed], columns = w->view.shape.d[!transposed];
    const bool four = gr_is_4bit(m->quantize.dtype);
    if (!s) return gr_fail_memory(err);
    const char *zeros = w->view.data;
    *s = (gr_scales){.block = four ? (m->quantize.block ? m->quantize.block : 64) : columns};
    if (m->quantize.nested) {
        s->codes = (const uint8_t *)zeros;
        s->map = gr_dynamic_map;
        s->nested = (const float *)(const void *)zeros;
        s->nested_block = GR_NESTED_BLOCK;
    } else
        s->absmax = (const float *)(const void *)zeros;
    m->shape_mapped -= w->view.bytes;
    m->shape_made += gr_quantized_bytes(&m->quantize, rows, columns);
    own->view.shape = gr_shape2(rows, columns);
    own->turned = transposed;
    own->view.dtype = m->quantize.dtype;
    own->view.bytes = gr_dtype_bytes(m->quantize.dtype, (size_t)(rows * columns));
    own->view.scales = s;
    return GRAFT_OK;
}

bool gr_model_is_shape(const gr_model *m) { return m->is_shape; }

size_t gr_model_mapped_bytes(const gr_model *m) {
    if (m->is_shape) return m->shape_mapped;
    size_t bytes = 0;
    for (size_t i = 0; i < gr_weights_count(m->weights); i++) {
        const gr_tensor_view *v = &gr_weights_at(m->weights, i)->view;
        /* What was made lies in memory of its own; of a file that holds such tensors nothing is made. */
        if (m->quantize.dtype == GR_F32 || !v->scales) bytes += gr_view_all_bytes(v);
    }
    return bytes;
}

size_t gr_model_made_bytes(const gr_model *m) {
    return m->is_shape ? m->shape_made : gr_weights_owned_bytes(m->weights);
}

size_t gr_model_saved_by(const gr_model *m, const gr_quantize_spec *spec) {
    return gr_products_saved_by(&m->products, spec->dtype);
}

/* Bytes of all matrices and of the largest. */
static size_t count_matrices(const gr_model *m, size_t *largest) {
    size_t all = 0;
    *largest = 0;
    for (size_t i = 0; i < m->n_matrices; i++) {
        const size_t bytes = gr_matrix_stored_bytes(m->matrices[i]);
        all += bytes;
        *largest = GR_MAX(*largest, bytes);
    }
    return all;
}

size_t gr_model_least_mapped(const gr_model *m) {
    size_t all = gr_model_mapped_bytes(m), largest, matrices = count_matrices(m, &largest);
    /* What was made while loading is in memory that cannot be read again. */
    if (m->quantize.dtype != GR_F32 || (!m->is_shape && m->n_fresh)) return all;
    return GR_MIN(all, all - GR_MIN(all, matrices) + largest);
}

graft_status gr_model_stream(gr_model *m, size_t budget, bool apply, size_t *kept, size_t *streamed, graft_error *err) {
    size_t all = gr_model_mapped_bytes(m), least = gr_model_least_mapped(m), largest, held = 0;
    const size_t matrices = count_matrices(m, &largest);
    if (budget < least)
        return gr_fail(err, GRAFT_ERR_LIMIT, "weights: expected room for %zu bytes, found %zu", least, budget);
    for (size_t i = 0; i < m->n_matrices && budget < all; i++) {
        const size_t bytes = gr_matrix_stored_bytes(m->matrices[i]);
        const bool stays = bytes <= budget - least - held;
        held += stays ? bytes : 0;
        if (apply) gr_matrix_stream(m->matrices[i], !stays);
    }
    if (kept) *kept = budget < all ? least + held : all;
    if (streamed) *streamed = budget < all ? matrices - held : 0;
    return GRAFT_OK;
}

void gr_model_leave(const gr_model *m, const gr_site *s, bool anyway) {
    const bool table = s->role == GR_ROLE_EMBED || (s->role == GR_ROLE_HEAD && m->head_tied);
    const gr_linear *l = table ? NULL : gr_model_linear(m, s);
    const gr_matrix *matrix = table ? m->modules.embedding.matrix : l ? l->matrix : NULL;
    const gr_weight *w;
    const bool leaves = anyway || (table && !m->head_tied) || (matrix && gr_matrix_streams(matrix));
    if (!leaves || m->is_shape || gr_model_is_fresh(m, s->weight_tensor)) return;
    if (gr_model_get_weight(m, s->weight_tensor, &w, NULL) != GRAFT_OK || w->file_view.data) return;
    gr_release_mapped(w->view.data, w->view.bytes);
}

void gr_model_release(const gr_model *m) {
    for (size_t i = 0; i < gr_weights_count(m->weights) && m->quantize.dtype == GR_F32; i++) {
        const gr_tensor_view *v = &gr_weights_at(m->weights, i)->view;
        gr_release_mapped(v->data, v->bytes);
    }
}
