/* What the ops share: checks that name op inputs, addresses, copies of column blocks, row groups. */
#ifndef GR_OP_COMMON_H
#define GR_OP_COMMON_H

#include "op/params.h"

/* Input i must be present, of n dimensions with these sizes (-1: any). The error names the input and both shapes. */
graft_status gr_op_want(const gr_op_call *c, int i, const char *name, gr_shape shape, graft_error *err);
/* Type of input i: one of activations (F32, BF16, F64); exactly dt; the parameter type of dt. */
graft_status gr_op_want_activation(const gr_op_call *c, int i, const char *name, graft_error *err);
graft_status gr_op_want_type(const gr_op_call *c, int i, const char *name, gr_dtype dt, graft_error *err);
graft_status gr_op_want_parameter(const gr_op_call *c, int i, const char *name, gr_shape shape, gr_dtype dt,
                                  graft_error *err);
/* Columns [begin, begin + n) must lie within `width`. */
graft_status gr_op_want_columns(const char *what, int64_t begin, int64_t n, int64_t width, graft_error *err);

static inline bool gr_op_has(const gr_op_call *c, int i) { return i < c->n_in && c->in[i].data != NULL; }
static inline int64_t gr_rows(const gr_array *a) { return a->shape.d[0]; }
static inline int64_t gr_cols(const gr_array *a) { return a->shape.d[1]; }

/* Ascending, disjoint ranges within `rows` rows (n 0, or ranges NULL in a dry run: nothing to check); the i-th of them. */
graft_status gr_op_want_ranges(int n, const gr_row_range *ranges, int64_t rows, graft_error *err);
static inline int gr_op_n_ranges(int n) { return n ? n : 1; }
static inline gr_row_range gr_op_range(int n, const gr_row_range *ranges, int64_t rows, int i) {
    return n ? ranges[i] : (gr_row_range){0, rows};
}

/* Bytes of one element; element i of an array (NULL stays NULL: an array without rows may have no memory). */
static inline size_t gr_op_size(gr_dtype dt) { return dt == GR_F64 ? 8 : dt == GR_BF16 || dt == GR_F16 ? 2 : 4; }
static inline void *gr_op_at(const void *data, gr_dtype dt, int64_t i) {
    return data ? (char *)data + i * (int64_t)gr_op_size(dt) : NULL;
}

/* Sizes of scratch, rounded so that every piece stays aligned, and pieces cut off in turn. */
static inline size_t gr_op_bytes(gr_dtype dt, int64_t n) { return gr_round64((size_t)n * gr_op_size(dt)); }
static inline void *gr_op_cut(char **at, size_t bytes) {
    void *piece = *at;
    *at += gr_round64(bytes);
    return piece;
}

/* To cut from when only the size is asked for; any address but NULL, from which C forbids to count. */
#define GR_OP_NO_BASE ((char *)(uintptr_t)64)

/* Copies (zeroes) a block of columns; lds in elements. */
void gr_op_copy(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *from, int64_t from_ld, void *to,
                int64_t to_ld);
void gr_op_zero(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, void *to, int64_t ld);
/* For ops in place: where out[0] is not in[0]'s buffer, copies it whole. */
void gr_op_carry(const gr_op_call *c);

/* Row groups of a call of `rows` rows, for sums into parameters. */
typedef struct gr_op_groups {
    int n;
    const int32_t *bounds;
    int64_t rows;
} gr_op_groups;
/* GRAFT_ERR_MISMATCH when the groups do not cover the rows. */
graft_status gr_op_get_groups(const gr_op_call *c, int64_t rows, gr_op_groups *out, graft_error *err);
static inline gr_row_range gr_op_group(const gr_op_groups *g, int i) {
    return g->bounds ? (gr_row_range){g->bounds[i], g->bounds[i + 1]} : (gr_row_range){0, g->rows};
}

/* The groups for products over rows that begin at row `origin`. */
static inline gr_row_groups gr_op_row_groups(const gr_op_groups *g, int64_t origin) {
    return (gr_row_groups){g->bounds ? g->n : 0, g->bounds, origin};
}

/* dw (n,K) += dy^T x, group by group; dy (rows,n) with ld, x (rows,K). transposed: dw is (K,n). */
graft_status gr_op_weight_gradient(const gr_op_call *c, gr_dtype dt, int64_t rows, int64_t n, const void *dy,
                                   int64_t dy_ld, int64_t k, const void *x, int64_t x_ld, bool transposed, void *dw,
                                   graft_error *err);

/* Row keys for dropout: the caller's, or the row numbers written into scratch (rows * 8 bytes). */
const uint64_t *gr_op_keys(const uint64_t *key, int64_t rows, void *scratch);

#endif
