/* Tensors with an adapter merged in, and what writing them in fewer bits costs. Inside room adapter only. */
#ifndef GR_ADAPTER_MERGED_H
#define GR_ADAPTER_MERGED_H

#include "adapter/adapter.h"

struct gr_adapter;

/* Rows [row, row + n) of a tensor in Hugging Face's layout (elements, where it has one dimension). `a` NULL: the base. */
graft_status gr_merged_rows(const gr_model *m, const struct gr_adapter *a, const char *tensor, int64_t row, int64_t n,
                            float *out, graft_error *err);
/* The same with the rows of products along their outputs, whichever way Hugging Face stores the matrix. */
graft_status gr_merged_outputs(const gr_model *m, const struct gr_adapter *a, const char *tensor, int64_t row, int64_t n,
                               float *out, graft_error *err);
/* The module of a weight that Hugging Face stores as (in, out), NULL: it is another tensor. */
const gr_site *gr_turned_site(const gr_model *m, const char *tensor);
/* Whether the adapter changes any value of a tensor. */
graft_status gr_merge_changes(const gr_model *m, const struct gr_adapter *a, const char *tensor, bool *out,
                              graft_error *err);

/* Sums over the elements of a tensor. */
typedef struct gr_cost {
    double error, values, change; /* of squares: written less wanted, wanted, wanted less the base's */
    double kept;                  /* of products: written less the base's, wanted less the base's */
    double most;                  /* the largest error */
    int64_t n;
} gr_cost;

/* `base` NULL: it is what is wanted. */
void gr_cost_add(gr_cost *c, const float *wanted, const float *written, const float *base, int64_t n);
void gr_cost_join(gr_cost *c, const gr_cost *more);
/* Members of a JSON object: rmse, max, relative (to the values); where there is a change, of_change and change_kept. */
void gr_cost_write(gr_buf *b, const gr_cost *c);
/* An element of a list: name, type, cost. */
void gr_cost_list(gr_buf *b, const char *name, gr_dtype type, const gr_cost *c);

/* What merging did, as it goes along. */
typedef struct gr_merge_report {
    gr_buf *list; /* of the changed tensors */
    gr_cost all;
    int64_t encoded, plain, kept; /* tensors: changed and encoded again, changed in a float format, left alone */
} gr_merge_report;

/* Notes a changed tensor in its new format. */
void gr_merge_note(gr_merge_report *r, const char *name, gr_dtype type, const gr_cost *c);

/* gguf_save.c: a GGUF file, `type` as in graft_model_save_gguf (GR_DTYPE_COUNT: as stored). */
graft_status gr_write_gguf(gr_model *m, const struct gr_adapter *a, const char *path, gr_dtype type, gr_merge_report *r,
                           graft_error *err);
graft_status gr_gguf_type_of(const char *name, gr_dtype *out, graft_error *err);
/* Which format a tensor gets in one whose rows have `row` elements there; `output`: it makes the logits. */
gr_dtype gr_gguf_matrix_type(gr_dtype type, const gr_tensor_view *v, int64_t row, bool output);
/* write_model.c: whether a tied head is no longer the embedding once the adapter is merged. */
bool gr_adapter_unties(const gr_model *m, const struct gr_adapter *a);
/* convert.c: the directory that keeps what is in bitsandbytes' formats. */
graft_status gr_write_as_stored(gr_model *m, const struct gr_adapter *a, const char *dir, gr_merge_report *r,
                                graft_error *err);

#endif
