/* Writing tensors that lie in memory. */
#include "io/paths.h"
#include "io/safetensors.h"

static graft_status save(gr_safetensors_writer *w, const gr_named_tensor *tensors, size_t n, graft_error *err) {
    const size_t *order = NULL;
    for (size_t i = 0; i < n; i++)
        GR_TRY(gr_safetensors_declare(w, tensors[i].name, tensors[i].view.dtype, &tensors[i].view.shape, err));
    GR_TRY(gr_safetensors_writer_begin(w, &order, err));
    for (size_t i = 0; i < n; i++) {
        const gr_tensor_view *v = &tensors[order[i]].view;
        GR_TRY(gr_safetensors_write(w, v->data, v->bytes, err));
    }
    return GRAFT_OK;
}

graft_status gr_safetensors_save(const graft_allocator *a, const char *path, const gr_named_tensor *tensors, size_t n,
                                 const char *const *metadata, graft_error *err) {
    const char *base = gr_path_base(path), *tail = ".safetensors";
    if (!gr_ends_with(base, tail) || strlen(base) == strlen(tail))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected a name that ends with .safetensors", path);
    gr_safetensors_writer *w = NULL;
    char *dir = gr_path_dir(a, path), *stem = gr_strndup(a, base, strlen(base) - strlen(tail));
    graft_status st = GRAFT_OK;
    if (!dir || !stem)
        st = gr_fail_memory(err);
    else
        st = gr_safetensors_writer_new(a, dir, &(gr_safetensors_options){.stem = stem, .metadata = metadata}, &w, err);
    gr_free(a, dir);
    gr_free(a, stem);
    if (st != GRAFT_OK) return st;
    st = save(w, tensors, n, err);
    if (st == GRAFT_OK) return gr_safetensors_writer_commit(w, err);
    gr_safetensors_writer_abort(w);
    return st;
}
