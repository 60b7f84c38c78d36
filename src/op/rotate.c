/* Turned input of a product (Qiu et al. 2023, orthogonal fine-tuning): y[:, column ..] += x D W^T on the covered rows, D a block
 * diagonal, what rotations add to the identity. With t = dy W: dx += t D^T; a block's gradient is x_k^T t_k over its columns.
 *
 * Blocks that share one matrix are one product of more rows: columns that follow each other are rows of a narrower matrix. */
#include "op/common.h"

static int64_t block_of(const gr_op_call *c) { return gr_cols(&c->in[2]); }
static bool is_shared(const gr_op_call *c) { return gr_rows(&c->in[2]) == block_of(c); }

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_rotate_params *p = c->params;
    gr_dtype dt = gr_matrix_dtype(p->w);
    int64_t in = gr_matrix_in(p->w);
    GR_TRY(gr_op_want(c, 0, "y", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_type(c, 0, "y", dt, err));
    GR_TRY(gr_op_want(c, 1, "x", gr_shape2(gr_rows(&c->in[0]), in), err));
    GR_TRY(gr_op_want_type(c, 1, "x", dt, err));
    GR_TRY(gr_op_want_parameter(c, 2, "blocks", gr_shape2(-1, -1), dt, err));
    int64_t rows = gr_rows(&c->in[2]), block = block_of(c);
    if (block < 1 || in % block || (rows != in && rows != block))
        return gr_fail(err, GRAFT_ERR_MISMATCH, "blocks: expected %lld rows, or as many as columns, a divisor of it; found %lld x %lld",
                       (long long)in, (long long)rows, (long long)block);
    GR_TRY(gr_op_want_columns("product", p->column, gr_matrix_out(p->w), gr_cols(&c->in[0]), err));
    GR_TRY(gr_op_want_ranges(p->n_ranges, p->ranges, gr_rows(&c->in[0]), err));
    c->out[0] = (gr_array){dt, c->in[0].shape, NULL};
    return GRAFT_OK;
}

static void saves(const gr_op_call *c, uint32_t *in, uint32_t *out) {
    *in = (c->wants & 4 ? 2u : 0) | (c->wants & 2 ? 4u : 0);
    *out = 0;
}

/* The blocks in the products' type, and rows as wide as the input: x D, or dy W. */
static size_t lay_out(const gr_op_call *c, char *base, void **blocks, void **wide) {
    char *at = base;
    gr_dtype dt = c->in[1].dtype;
    *blocks = gr_op_cut(&at, gr_op_bytes(dt, gr_rows(&c->in[2]) * block_of(c)));
    *wide = gr_op_cut(&at, gr_op_bytes(dt, gr_rows(&c->in[1]) * gr_cols(&c->in[1])));
    return (size_t)(at - base);
}

static size_t scratch(const gr_op_call *c, bool backward) {
    (void)backward;
    void *blocks, *wide;
    return lay_out(c, GR_OP_NO_BASE, &blocks, &wide);
}

/* to (n,in) = from D, or from D^T; `add`: += . */
static graft_status turn(const gr_op_call *c, int64_t n, const void *from, const void *blocks, bool back, bool add, void *to,
                         graft_error *err) {
    gr_dtype dt = c->in[1].dtype;
    int64_t in = gr_cols(&c->in[1]), b = block_of(c), k = in / b;
    if (is_shared(c))
        return gr_gemm(c->dev, false, back, n * k, b, b, 1, dt, from, b, blocks, b, add ? 1 : 0, dt, to, b, err);
    for (int64_t i = 0; i < k; i++)
        GR_TRY(gr_gemm(c->dev, false, back, n, b, b, 1, dt, gr_op_at(from, dt, i * b), in, gr_op_at(blocks, dt, i * b * b), b,
                       add ? 1 : 0, dt, gr_op_at(to, dt, i * b), in, err));
    return GRAFT_OK;
}

static void convert_blocks(const gr_op_call *c, void *blocks) {
    c->dev->k->convert(c->dev, c->in[2].dtype, c->in[2].data, c->in[1].dtype, blocks, gr_rows(&c->in[2]) * block_of(c));
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    const gr_rotate_params *p = c->params;
    gr_dtype dt = c->in[1].dtype;
    int64_t rows = gr_rows(&c->in[0]), in = gr_cols(&c->in[1]), ld = gr_cols(&c->in[0]);
    void *blocks, *turned;
    lay_out(c, c->scratch, &blocks, &turned);
    convert_blocks(c, blocks);
    gr_op_carry(c);
    for (int i = 0; i < gr_op_n_ranges(p->n_ranges); i++) {
        gr_row_range r = gr_op_range(p->n_ranges, p->ranges, rows, i);
        int64_t n = r.end - r.begin;
        if (n == 0) continue;
        GR_TRY(turn(c, n, gr_op_at(c->in[1].data, dt, r.begin * in), blocks, false, false, turned, err));
        GR_TRY(gr_matrix_forward(p->w, n, turned, in, dt, gr_op_at(c->out[0].data, dt, r.begin * ld + p->column), ld, true, err));
    }
    return GRAFT_OK;
}

/* dD of the rows [begin, end) of one group, of which t has those from `origin` on. */
static graft_status block_gradient(const gr_op_call *c, int64_t begin, int64_t end, int64_t origin, const void *t, graft_error *err) {
    gr_dtype dt = c->in[1].dtype, to = c->in[2].dtype;
    int64_t in = gr_cols(&c->in[1]), b = block_of(c), k = in / b, n = end - begin;
    const gr_row_groups whole = {0};
    const void *x = gr_op_at(c->in[1].data, dt, begin * in);
    t = gr_op_at(t, dt, (begin - origin) * in);
    if (is_shared(c)) return gr_gemm_groups(c->dev, n * k, b, b, 1, dt, x, b, t, b, c->din[2].data, b, &whole, err);
    for (int64_t i = 0; i < k; i++)
        GR_TRY(gr_gemm_groups(c->dev, n, b, b, 1, dt, gr_op_at(x, dt, i * b), in, gr_op_at(t, dt, i * b), in,
                              gr_op_at(c->din[2].data, to, i * b * b), b, &whole, err));
    return GRAFT_OK;
}

/* Rows of dx that no range covers. */
static void zero_uncovered(const gr_op_call *c) {
    const gr_rotate_params *p = c->params;
    gr_dtype dt = c->in[1].dtype;
    int64_t next = 0, rows = gr_rows(&c->in[0]), in = gr_cols(&c->in[1]);
    for (int i = 0; i <= p->n_ranges && p->n_ranges; i++) {
        int64_t begin = i < p->n_ranges ? p->ranges[i].begin : rows;
        gr_op_zero(c->dev, dt, 1, (begin - next) * in, gr_op_at(c->din[1].data, dt, next * in), 0);
        if (i < p->n_ranges) next = p->ranges[i].end;
    }
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    const gr_rotate_params *p = c->params;
    gr_dtype dt = c->in[1].dtype;
    int64_t rows = gr_rows(&c->in[0]), in = gr_cols(&c->in[1]), ld = gr_cols(&c->in[0]);
    gr_op_groups groups = {0};
    void *blocks, *t;
    lay_out(c, c->scratch, &blocks, &t);
    if (c->din[2].data) GR_TRY(gr_op_get_groups(c, rows, &groups, err));
    if (c->din[1].data) convert_blocks(c, blocks);
    if (c->din[1].data && !c->add[1]) zero_uncovered(c);
    for (int i = 0; i < gr_op_n_ranges(p->n_ranges); i++) {
        gr_row_range r = gr_op_range(p->n_ranges, p->ranges, rows, i);
        int64_t n = r.end - r.begin;
        if (n == 0) continue;
        GR_TRY(gr_matrix_backward(p->w, n, gr_op_at(c->dout[0].data, dt, r.begin * ld + p->column), ld, t, in, false, err));
        for (int g = 0; c->din[2].data && g < groups.n; g++) {
            gr_row_range part = gr_op_group(&groups, g);
            int64_t begin = GR_MAX(part.begin, r.begin), end = GR_MIN(part.end, r.end);
            if (begin < end) GR_TRY(block_gradient(c, begin, end, r.begin, t, err));
        }
        if (c->din[1].data)
            GR_TRY(turn(c, n, t, blocks, true, c->add[1], gr_op_at(c->din[1].data, dt, r.begin * in), err));
    }
    return GRAFT_OK;
}

const gr_op gr_op_rotate = {.name = "rotate",
                            .params_size = sizeof(gr_rotate_params),
                            .shape = shape,
                            .forward = forward,
                            .backward = backward,
                            .scratch = scratch,
                            .save_in = 6,
                            .saves = saves,
                            .parameters = 4,
                            .adds = 2,
                            .passes = 1,
                            .in_place = true};
