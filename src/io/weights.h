/* One view of a model's weights, whatever holds them: a Hugging Face directory (safetensors) or a GGUF file, with
 * Hugging Face tensor names ("model.layers.0.self_attn.q_proj.weight") for both. Data stays mapped and is never copied.
 * Weights that bitsandbytes serialised (4 and 8 bits) are NF4, FP4 and INT8 views with their scales. */
#ifndef GR_IO_WEIGHTS_H
#define GR_IO_WEIGHTS_H

#include "io/gguf.h"
#include "io/safetensors.h"

typedef struct gr_weight {
    const char *name; /* Hugging Face's; a GGUF tensor that has no such name keeps its own ("rope_freqs.weight") */
    const char *stored_name; /* as the file has it */
    const char *file;
    gr_tensor_view view;
    /* 0: rows stand as in Hugging Face's layout. Otherwise the number of heads whose rows converted llama GGUF files
     * interleave (q and k projections): row r of the Hugging Face matrix is row gr_weight_row(w, r) of `view`. */
    int permuted_heads;
    /* The view is the transpose of Hugging Face's matrix: (out, in) where that is (in, out) (gpt2 in GGUF files). */
    bool turned;
    /* Where gr_weights_replace gave it other storage: what the file has, as above. NULL data: it has that. */
    gr_tensor_view file_view;
    int file_permuted_heads;
    bool file_turned;
} gr_weight;

/* As the file has it. */
static inline gr_weight gr_weight_in_file(const gr_weight *w) {
    gr_weight x = *w;
    if (!w->file_view.data) return x;
    x.view = w->file_view;
    x.permuted_heads = w->file_permuted_heads;
    x.turned = w->file_turned;
    return x;
}

/* llama.cpp's converter stores each head of D rows as (2, D/2) transposed: halves become interleaved pairs. */
static inline int64_t gr_weight_row(const gr_weight *w, int64_t row) {
    if (!w->permuted_heads) return row;
    int64_t dim = w->view.shape.d[0] / w->permuted_heads, half = dim / 2, in = row % dim;
    return row - in + (in < half ? 2 * in : 2 * (in - half) + 1);
}

typedef struct gr_weights gr_weights;

/* `path`: a .gguf file, a .safetensors or index file, or a directory that holds safetensors (else exactly one .gguf,
 * or one split set). A directory with pytorch_model.bin only is refused with what to do. */
graft_status gr_weights_open(const graft_allocator *a, const char *path, gr_weights **out, graft_error *err);
/* Of a directory that holds a config.json and no weights: none. */
graft_status gr_weights_open_none(const graft_allocator *a, const char *path, gr_weights **out, graft_error *err);
void gr_weights_close(gr_weights *w);

const char *gr_weights_path(const gr_weights *w);
const gr_gguf *gr_weights_gguf(const gr_weights *w); /* NULL when the weights are safetensors */
size_t gr_weights_count(const gr_weights *w);
const gr_weight *gr_weights_at(const gr_weights *w, size_t i);           /* ascending bytewise by name */
const gr_weight *gr_weights_find(const gr_weights *w, const char *name); /* NULL when absent */
/* As find, but absent or of another shape (Hugging Face's; NULL: any) is an error that names file, tensor, expected and
 * found. */
graft_status gr_weights_get(const gr_weights *w, const char *name, const gr_shape *shape, const gr_weight **out,
                            graft_error *err);
/* The same of one that was found by another name (NULL: absent). */
graft_status gr_weights_check(const gr_weights *w, const char *name, const gr_weight *found, const gr_shape *shape,
                              const gr_weight **out, graft_error *err);

/* Gives a weight other storage, in Hugging Face's order of rows or (`turned`) as its transpose: `memory` (gr_alloc_aligned, `bytes`
 * long) holds what `view` points to; it belongs to the weights from then on. */
graft_status gr_weights_replace(gr_weights *w, const gr_weight *which, const gr_tensor_view *view, bool turned, void *memory,
                                size_t bytes, graft_error *err);
/* Says that a weight's view is the transpose of Hugging Face's matrix, which its file does not say. */
void gr_weights_set_turned(gr_weights *w, const gr_weight *which);
/* Bytes that were given so. */
size_t gr_weights_owned_bytes(const gr_weights *w);

/* Names. Both return false when there is no counterpart; `out` gets at most `size` bytes with the NUL. `arch`: the file's
 * general.architecture. */
bool gr_name_from_gguf(const char *arch, const char *gguf, char *out, size_t size);
bool gr_name_to_gguf(const char *hf, char *out, size_t size);
/* Whether the tensor of this name is stored transposed in GGUF files. */
bool gr_name_is_turned(const char *hf);

#endif
