/* The workspace that products share: one a device, as large as the largest call so far needed; and how large calls would
 * make it, found by making them on a device that only notes what is asked for. */
#include "kernel/cpu/cpu.h"

graft_status gr_workspace_take(gr_device *d, size_t bytes, gr_workspace **out, graft_error *err) {
    gr_cpu_device *c = (gr_cpu_device *)(void *)d;
    if (d->noted) {
        *d->noted = GR_MAX(*d->noted, bytes);
        return GRAFT_ERR_LIMIT;
    }
    gr_workspace *w = atomic_exchange(&c->workspace, NULL);
    if (w && w->bytes < bytes) {
        gr_free_aligned(gr_allocator(d->ctx), w);
        w = NULL;
    }
    if (!w) {
        size_t size;
        if (__builtin_add_overflow(sizeof *w, bytes, &size)) return gr_fail_memory(err);
        w = gr_alloc_aligned(gr_allocator(d->ctx), size);
        if (!w) return gr_fail_memory(err);
        w->bytes = bytes;
    }
    *out = w;
    return GRAFT_OK;
}

void gr_workspace_give(gr_device *d, gr_workspace *w) {
    gr_cpu_device *c = (gr_cpu_device *)(void *)d;
    gr_free_aligned(gr_allocator(d->ctx), atomic_exchange(&c->workspace, w));
}

size_t gr_device_workspace_bytes(gr_device *d) {
    gr_workspace *w;
    gr_cpu_device *c = (gr_cpu_device *)(void *)d;
    w = atomic_exchange(&c->workspace, NULL);
    size_t bytes = w ? w->bytes : 0;
    if (w) gr_workspace_give(d, w);
    return bytes;
}

/* --- Noting ------------------------------------------------------------------------------------------------------- */

/* A product ends where it asks for workspace, which is before it reads or writes anything. */
static graft_status noted(graft_status st) { return st == GRAFT_ERR_LIMIT ? GRAFT_OK : st; }

/* Forward, backward, and what trained values of the same shape have. */
static graft_status note_products(gr_device *d, gr_matrix *w, int64_t rows, graft_error *err) {
    const int64_t in = gr_matrix_in(w), out = gr_matrix_out(w);
    const gr_dtype dt = gr_matrix_dtype(w), sum = dt == GR_F64 ? GR_F64 : GR_F32;
    GR_TRY(noted(gr_matrix_forward(w, rows, NULL, in, dt, NULL, out, false, err)));
    GR_TRY(noted(gr_matrix_backward(w, rows, NULL, out, NULL, in, false, err)));
    GR_TRY(noted(gr_gemm(d, false, true, rows, out, in, 1, dt, NULL, in, NULL, in, 0, dt, NULL, out, err)));
    GR_TRY(noted(gr_gemm(d, false, false, rows, in, out, 1, dt, NULL, out, NULL, in, 0, dt, NULL, in, err)));
    return noted(gr_gemm(d, true, false, out, in, rows, 1, dt, NULL, out, NULL, in, 1, sum, NULL, in, err));
}

graft_status gr_matrix_planned_workspace(gr_device *d, const gr_matrix *w, int64_t rows, size_t *bytes,
                                         graft_error *err) {
    const gr_cpu_device *real = (const gr_cpu_device *)(const void *)d;
    size_t most = 0;
    gr_cpu_device notes = {.base = real->base, .cpu = real->cpu};
    notes.base.noted = &most;
    /* Of the same format and shape, over no values: GPT-2's are turned, and its products those of gr_gemm above. */
    const gr_scales scales = {.block = gr_matrix_in(w)};
    const gr_tensor_view view = {.dtype = gr_matrix_stored(w),
                                 .shape = gr_shape2(gr_matrix_out(w), gr_matrix_in(w)),
                                 .scales = &scales};
    const gr_matrix_spec spec = {.name = "workspace", .dt = gr_matrix_dtype(w), .n_parts = 1, .part = {{.view = view}},
                                 .integer = gr_matrix_is_integer(w) && gr_can_multiply_integers(view.dtype)};
    gr_matrix *like;
    GR_TRY(gr_matrix_new(&notes.base, &spec, &like, err));
    graft_status st = GRAFT_OK;
    /* Fewer rows are another form of the product, and may need more. */
    for (int64_t n = rows; n > 0 && st == GRAFT_OK; n /= 2) st = note_products(&notes.base, like, n, err);
    gr_matrix_free(like);
    if (st == GRAFT_OK) *bytes = most;
    return st;
}
