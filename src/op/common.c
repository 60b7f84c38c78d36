#include "op/common.h"

static bool fits(const gr_shape *have, const gr_shape *want) {
    if (have->n != want->n) return false;
    for (int i = 0; i < want->n; i++)
        if (want->d[i] >= 0 && have->d[i] != want->d[i]) return false;
    return true;
}

/* As gr_shape_format, -1 written as a star. */
static const char *format_want(const gr_shape *shape, char *buf, size_t size) {
    size_t n = 0;
    for (int i = 0; i < shape->n && n < size; i++)
        n += (size_t)(shape->d[i] < 0 ? snprintf(buf + n, size - n, "%s*", i ? ", " : "[")
                                      : snprintf(buf + n, size - n, "%s%lld", i ? ", " : "[", (long long)shape->d[i]));
    if (n < size) snprintf(buf + n, size - n, "]");
    return buf;
}

graft_status gr_op_want(const gr_op_call *c, int i, const char *name, gr_shape shape, graft_error *err) {
    char want[GR_SHAPE_TEXT], have[GR_SHAPE_TEXT];
    if (!gr_op_has(c, i))
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s is missing, expected shape %s", name,
                       format_want(&shape, want, sizeof want));
    if (fits(&c->in[i].shape, &shape)) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_MISMATCH, "%s must have shape %s, found %s", name,
                   format_want(&shape, want, sizeof want), gr_shape_format(&c->in[i].shape, have, sizeof have));
}

graft_status gr_op_want_activation(const gr_op_call *c, int i, const char *name, graft_error *err) {
    gr_dtype dt = c->in[i].dtype;
    if (dt == GR_F32 || dt == GR_BF16 || dt == GR_F64) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_MISMATCH, "%s must be F32, BF16 or F64, found %s", name, gr_dtype_name(dt));
}

graft_status gr_op_want_type(const gr_op_call *c, int i, const char *name, gr_dtype dt, graft_error *err) {
    if (c->in[i].dtype == dt) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_MISMATCH, "%s must be %s, found %s", name, gr_dtype_name(dt),
                   gr_dtype_name(c->in[i].dtype));
}

graft_status gr_op_want_parameter(const gr_op_call *c, int i, const char *name, gr_shape shape, gr_dtype dt,
                                  graft_error *err) {
    GR_TRY(gr_op_want(c, i, name, shape, err));
    return gr_op_want_type(c, i, name, gr_param_dtype(dt), err);
}

graft_status gr_op_want_columns(const char *what, int64_t begin, int64_t n, int64_t width, graft_error *err) {
    if (begin >= 0 && n >= 0 && begin <= width && n <= width - begin) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: columns %lld to %lld are not within a row of %lld", what,
                   (long long)begin, (long long)begin + n, (long long)width);
}

/* --- Copies ------------------------------------------------------------------------------------------------------- */

typedef struct block {
    const char *from; /* NULL: zero */
    char *to;
    size_t bytes, from_step, to_step;
} block;

static void copy_rows(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    const block *b = arg;
    for (size_t r = begin; r < end; r++) {
        if (b->from)
            memcpy(b->to + r * b->to_step, b->from + r * b->from_step, b->bytes);
        else
            memset(b->to + r * b->to_step, 0, b->bytes);
    }
}

static void run_block(gr_device *d, int64_t rows, block *b) {
    if (rows <= 0 || !b->bytes) return;
    if (b->to_step == b->bytes && (!b->from || b->from_step == b->bytes)) {
        /* Contiguous: rows of 64 KiB, the last one shorter. */
        size_t all = (size_t)rows * b->bytes, whole = all >> 16 << 16;
        block c = *b;
        c.bytes = c.to_step = c.from_step = (size_t)1 << 16;
        gr_parallel_for(d->team, whole >> 16, 4, copy_rows, &c);
        c.to += whole;
        if (c.from) c.from += whole;
        c.bytes = all - whole;
        copy_rows(&c, 0, 1, 0);
        return;
    }
    gr_parallel_for(d->team, (size_t)rows, ((size_t)1 << 18) / b->bytes + 1, copy_rows, b);
}

void gr_op_copy(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *from, int64_t from_ld, void *to,
                int64_t to_ld) {
    size_t size = gr_op_size(dt);
    run_block(d, rows, &(block){.from = from, .to = to, .bytes = (size_t)cols * size, .from_step = (size_t)from_ld * size,
                                .to_step = (size_t)to_ld * size});
}

void gr_op_zero(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, void *to, int64_t ld) {
    size_t size = gr_op_size(dt);
    run_block(d, rows, &(block){.to = to, .bytes = (size_t)cols * size, .to_step = (size_t)ld * size});
}

void gr_op_carry(const gr_op_call *c) {
    int64_t n;
    if (c->out[0].data == c->in[0].data || !gr_shape_elements(&c->in[0].shape, &n)) return;
    gr_op_copy(c->dev, c->in[0].dtype, 1, n, c->in[0].data, n, c->out[0].data, n);
}

/* --- Sums into parameters ------------------------------------------------------------------------------------------- */

graft_status gr_op_get_groups(const gr_op_call *c, int64_t rows, gr_op_groups *out, graft_error *err) {
    if (c->n_groups && (c->group[0] != 0 || c->group[c->n_groups] != rows))
        return gr_fail(err, GRAFT_ERR_MISMATCH, "row groups cover rows %lld to %lld of %lld", (long long)c->group[0],
                       (long long)c->group[c->n_groups], (long long)rows);
    *out = c->n_groups ? (gr_op_groups){c->n_groups, c->group, rows} : (gr_op_groups){1, NULL, rows};
    return GRAFT_OK;
}

graft_status gr_op_weight_gradient(const gr_op_call *c, gr_dtype dt, int64_t rows, int64_t n, const void *dy,
                                   int64_t dy_ld, int64_t k, const void *x, int64_t x_ld, bool transposed, void *dw,
                                   graft_error *err) {
    gr_op_groups groups;
    GR_TRY(gr_op_get_groups(c, rows, &groups, err));
    const gr_row_groups over = gr_op_row_groups(&groups, 0);
    if (transposed) return gr_gemm_groups(c->dev, rows, k, n, 1, dt, x, x_ld, dy, dy_ld, dw, n, &over, err);
    return gr_gemm_groups(c->dev, rows, n, k, 1, dt, dy, dy_ld, x, x_ld, dw, k, &over, err);
}

const uint64_t *gr_op_keys(const uint64_t *key, int64_t rows, void *scratch) {
    if (key) return key;
    uint64_t *own = scratch;
    for (int64_t r = 0; r < rows; r++) own[r] = (uint64_t)r;
    return own;
}

graft_status gr_op_want_ranges(int n, const gr_row_range *ranges, int64_t rows, graft_error *err) {
    int64_t end = 0;
    if (n < 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%d row ranges", n);
    for (int i = 0; ranges && i < n; i++) {
        if (ranges[i].begin < end || ranges[i].end < ranges[i].begin || ranges[i].end > rows)
            return gr_fail(err, GRAFT_ERR_MISMATCH, "row range %d, %lld to %lld, is not in order within %lld rows", i,
                           (long long)ranges[i].begin, (long long)ranges[i].end, (long long)rows);
        end = ranges[i].end;
    }
    return GRAFT_OK;
}
