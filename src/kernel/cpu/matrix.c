/* Weight matrices: products straight from the stored format.
 *
 * No packed copy exists. A product decodes a panel of the matrix at a time into the calling thread's workspace and
 * multiplies it with up to 1024 rows of activations, so that decoding costs about a percent of the products; with few
 * rows the panel never leaves the first-level cache and the product runs at the speed at which the stored bytes arrive.
 * One row and many rows take the same path and the same order of additions.
 *
 * y = x W^T is the dot form (product.h) and dx = dy W the outer form; for a matrix stored (in, out) the other way round. */
#include "kernel/cpu/product.h"

#include "kernel/mapped.h"

typedef struct part {
    gr_tensor_view view;
    int64_t rows; /* outputs of this part */
    int64_t row_bytes;
    int permuted_heads;
    bool integer;
    gr_dequantize_fn to_f32;       /* NULL: stored as F64 */
    gr_dequantize_bf16_fn to_bf16;
    gr_scaled_ops scaled; /* of formats whose scales stand apart */
} part;

struct gr_matrix {
    gr_device *d;
    gr_dtype dt;
    int64_t out, in;
    bool transposed;
    bool direct; /* rows are of type dt and aligned: no decoding */
    bool stream; /* see mapped.h */
    const struct gr_matrix *follows;
    bool integer; /* any part */
    float outliers;
    int64_t block; /* elements of the longest block */
    int n_parts;
    part part[GR_MATRIX_PARTS];
};

/* --- Making ------------------------------------------------------------------------------------------------------- */

static graft_status check_part(const gr_matrix_spec *spec, int i, int64_t in, graft_error *err) {
    const gr_matrix_part *p = &spec->part[i];
    char text[GR_SHAPE_TEXT];
    gr_dtype stored = p->view.dtype;
    if (p->view.shape.n != 2 || p->view.shape.d[0] < 1 || p->view.shape.d[1] < 1)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: expected a matrix, found shape %s", spec->name,
                       gr_shape_format(&p->view.shape, text, sizeof text));
    if (!gr_can_decode(stored) && stored != GR_F64)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: %s cannot stand in a weight matrix", spec->name, gr_dtype_name(stored));
    if (p->transposed != spec->part[0].transposed)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: parts stored (out, in) and (in, out) in one matrix", spec->name);
    const bool by_rows = stored == GR_INT8 || stored == GR_CHANNEL8;
    if (p->transposed && (gr_dtype_get(stored)->block_elements > 1 || by_rows || p->permuted_heads))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: a matrix stored (in, out), as GPT-2's are, is not held as %s",
                       spec->name, gr_dtype_name(stored));
    int64_t found = p->view.shape.d[p->transposed ? 0 : 1], rows = p->view.shape.d[p->transposed ? 1 : 0];
    if (found != in)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: expected parts with %lld inputs, found %lld", spec->name, (long long)in,
                       (long long)found);
    if (p->permuted_heads && (p->permuted_heads < 0 || rows % p->permuted_heads || rows / p->permuted_heads % 2))
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: %lld rows are not %d heads of an even size", spec->name, (long long)rows,
                       p->permuted_heads);
    return GRAFT_OK;
}

bool gr_can_multiply_integers(gr_dtype stored) { return gr_int_format_get(stored)->elements > 0; }

static bool part_is_integer(const gr_matrix_spec *spec, int i) {
    return spec->integer || spec->part[i].integer;
}

static graft_status check_integer(const gr_matrix_spec *spec, int64_t in, graft_error *err) {
    if (spec->dt == GR_F64 || in > GR_INT_LARGEST_K)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: integer products of %s with %lld inputs: expected F32 or BF16 and up to %d",
                       spec->name, gr_dtype_name(spec->dt), (long long)in, GR_INT_LARGEST_K);
    for (int i = 0; i < spec->n_parts; i++)
        if (part_is_integer(spec, i) &&
            (!gr_can_multiply_integers(spec->part[i].view.dtype) || spec->part[i].transposed))
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: there are no integer products of %s%s", spec->name,
                           gr_dtype_name(spec->part[i].view.dtype), spec->part[i].transposed ? " stored (in, out)" : "");
    return GRAFT_OK;
}

graft_status gr_matrix_new(gr_device *d, const gr_matrix_spec *spec, gr_matrix **out, graft_error *err) {
    if (spec->n_parts < 1 || spec->n_parts > GR_MATRIX_PARTS)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected 1 to %d parts, found %d", spec->name, (int)GR_MATRIX_PARTS,
                       spec->n_parts);
    if (spec->dt != GR_F32 && spec->dt != GR_BF16 && spec->dt != GR_F64)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: compute type %s", spec->name, gr_dtype_name(spec->dt));
    const bool transposed = spec->part[0].transposed;
    const int64_t in = spec->part[0].view.shape.d[transposed ? 0 : 1];
    bool integer = false;
    for (int i = 0; i < spec->n_parts; i++) {
        GR_TRY(check_part(spec, i, in, err));
        integer = integer || part_is_integer(spec, i);
    }
    if (integer) GR_TRY(check_integer(spec, in, err));
    gr_matrix *w = gr_calloc(gr_allocator(d->ctx), 1, sizeof *w);
    if (!w) return gr_fail_memory(err);
    *w = (gr_matrix){.d = d,
                     .dt = spec->dt,
                     .in = in,
                     .transposed = transposed,
                     .direct = true,
                     .block = 1,
                     .integer = integer,
                     .outliers = spec->outliers,
                     .n_parts = spec->n_parts};
    for (int i = 0; i < spec->n_parts; i++) {
        const gr_tensor_view *v = &spec->part[i].view;
        w->part[i] = (part){.view = *v,
                            .rows = v->shape.d[transposed ? 1 : 0],
                            .row_bytes = (int64_t)gr_dtype_bytes(v->dtype, (size_t)v->shape.d[1]),
                            .permuted_heads = spec->part[i].permuted_heads,
                            .integer = part_is_integer(spec, i),
                            .to_f32 = gr_cpu(d)->to_f32[v->dtype],
                            .to_bf16 = gr_cpu(d)->to_bf16[v->dtype],
                            .scaled = gr_cpu(d)->scaled[v->dtype]};
        w->out += w->part[i].rows;
        w->direct = w->direct && v->dtype == w->dt && gr_tensor_aligned(v, gr_type_size(w->dt));
        w->block = GR_MAX(w->block, (int64_t)gr_dtype_get(v->dtype)->block_elements);
    }
    *out = w;
    return GRAFT_OK;
}

void gr_matrix_free(gr_matrix *w) {
    if (w) gr_free(gr_allocator(w->d->ctx), w);
}

int64_t gr_matrix_out(const gr_matrix *w) { return w->out; }
int64_t gr_matrix_in(const gr_matrix *w) { return w->in; }
gr_dtype gr_matrix_dtype(const gr_matrix *w) { return w->dt; }
bool gr_matrix_is_integer(const gr_matrix *w) { return w->integer; }
gr_dtype gr_matrix_stored(const gr_matrix *w) { return w->part[0].view.dtype; }

/* --- Reading stored rows ------------------------------------------------------------------------------------------ */

/* The same as decode() where scales stand apart: block by block. */
static void decode_scaled(const part *p, gr_dtype dt, int64_t row, int64_t i, int64_t n, void *out) {
    enum { PIECE = 256 };
    const gr_scales *s = p->view.scales;
    const char *data = p->view.data;
    float piece[PIECE];
    const int64_t first = row * p->view.shape.d[1] + i, end = first + n;
    int64_t block = first / s->block;
    for (int64_t at = first, stop, next = (block + 1) * s->block; at < end; at = stop) {
        stop = GR_MIN(end, next);
        if (dt == GR_F64) stop = GR_MIN(stop, at + PIECE);
        const char *from = data + gr_dtype_bytes(p->view.dtype, (size_t)at);
        const float scale = gr_scale_at(s, block);
        void *to = gr_at(out, dt, at - first);
        if (stop == next) {
            block++;
            next += s->block;
            gr_fetch_ahead(from, (int)GR_MIN(s->block, (int64_t)64));
        }
        if (dt == GR_BF16) {
            p->scaled.to_bf16(from, (size_t)(stop - at), scale, to);
            continue;
        }
        p->scaled.to_f32(from, (size_t)(stop - at), scale, dt == GR_F32 ? to : piece);
        for (int64_t k = 0; dt == GR_F64 && k < stop - at; k++) ((double *)to)[k] = piece[k];
    }
}

/* n elements of stored row `row` from element i on, as type dt. i and n are whole blocks. */
static void decode(const part *p, gr_dtype dt, int64_t row, int64_t i, int64_t n, void *out) {
    const char *from = (const char *)p->view.data + row * p->row_bytes + (int64_t)gr_dtype_bytes(p->view.dtype, (size_t)i);
    if (p->view.scales) {
        decode_scaled(p, dt, row, i, n, out);
    } else if (p->view.dtype == dt) {
        memcpy(out, from, (size_t)n * gr_type_size(dt));
    } else if (p->view.dtype == GR_F64) {
        for (int64_t k = 0; k < n; k++) {
            double v;
            memcpy(&v, from + 8 * k, 8);
            if (dt == GR_F32)
                ((float *)out)[k] = (float)v;
            else
                ((uint16_t *)out)[k] = gr_f32_to_bf16((float)v);
        }
    } else if (dt == GR_F32) {
        p->to_f32(from, (size_t)n, out);
    } else if (dt == GR_BF16) {
        p->to_bf16(from, (size_t)n, out);
    } else {
        enum { PIECE = 256 };
        float piece[PIECE];
        for (int64_t k = 0; k < n; k += PIECE) {
            int64_t left = GR_MIN(n - k, (int64_t)PIECE);
            p->to_f32(from + gr_dtype_bytes(p->view.dtype, (size_t)k), (size_t)left, piece);
            for (int64_t c = 0; c < left; c++) ((double *)out)[k + c] = piece[c];
        }
    }
}

/* The part that holds output `row`, and its row there (gr_weight_row of io/weights.h for the permuted); also that of the outputs after
 * it: `count` of up to n outputs stand `apart` rows from each other. */
static const part *find_run(const gr_matrix *w, int64_t row, int64_t n, int64_t *stored, int64_t *apart, int64_t *count) {
    const part *p = w->part;
    while (row >= p->rows) row -= p++->rows;
    *stored = row;
    *apart = 1;
    *count = GR_MIN(n, p->rows - row);
    if (p->permuted_heads) {
        int64_t dim = p->rows / p->permuted_heads, half = dim / 2, in = row % dim;
        *stored = row - in + (in < half ? 2 * in : 2 * (in - half) + 1);
        *apart = 2;
        *count = GR_MIN(n, half - in % half);
    }
    return p;
}

static const part *find_row(const gr_matrix *w, int64_t row, int64_t *stored) {
    int64_t apart, count;
    return find_run(w, row, 1, stored, &apart, &count);
}

/* --- Operand B of the products ------------------------------------------------------------------------------------ */

typedef struct matrix_b {
    gr_product_b base;
    const gr_matrix *w;
    const gr_product_kernels *k;
    int64_t first; /* of a product with some outputs: the first of them */
} matrix_b;

/* Rows of W (dot form, forward). Rows that follow each other in the file are decoded together. */
static void output_rows(const gr_product_b *base, int64_t n0, int64_t nc, const void **ptrs, void *scratch) {
    const gr_matrix *w = ((const matrix_b *)base)->w;
    n0 += ((const matrix_b *)base)->first;
    for (int64_t j = 0; j < nc;) {
        int64_t row, apart, run;
        const part *p = find_run(w, n0 + j, nc - j, &row, &apart, &run);
        if (apart > 1) run = 1;
        void *to = gr_at(scratch, w->dt, j * w->in);
        if (!w->direct) decode(p, w->dt, row, 0, run * w->in, to);
        for (; run > 0; run--, j++, row++)
            ptrs[j] = w->direct ? (const char *)p->view.data + row * p->row_bytes : gr_at(scratch, w->dt, j * w->in);
    }
}

/* Sixteen rows of W, where one row after the other, or every second, can be decoded by tiles. */
static bool output_stored(const gr_product_b *base, int64_t n0, gr_tile_source *from, void *scratch) {
    enum { ROWS = 16, STEP = 32 };
    const gr_matrix *w = ((const matrix_b *)base)->w;
    int64_t row, apart, run;
    n0 += ((const matrix_b *)base)->first;
    const part *p = find_run(w, n0, ROWS, &row, &apart, &run);
    const gr_tile_ops *ops = &gr_cpu(w->d)->tile[p->view.dtype];
    if (!ops->decode || run < ROWS || p->row_bytes > INT32_MAX / (2 * ROWS)) return false;
    const gr_scales *s = p->view.scales;
    const int64_t block = s ? s->block : GR_MAX(gr_dtype_get(p->view.dtype)->block_elements, (int)STEP);
    if (w->in % block || block % STEP) return false; /* a block would lie in two rows, or in a part of a step */
    *from = (gr_tile_source){.blocks = (const uint8_t *)p->view.data + row * p->row_bytes,
                             .row_bytes = p->row_bytes * apart,
                             .block_bytes = (int)gr_dtype_bytes(p->view.dtype, (size_t)block),
                             .steps = (int)(block / STEP), .ops = ops, .scales = s ? scratch : NULL};
    if (!s) return true;
    const int64_t blocks = w->in / block;
    return gr_cpu(w->d)->tile_scales(s, row * blocks, blocks * apart, blocks, scratch);
}

/* Columns n0.. of rows k0.. of W (outer form, backward). Decodes whole blocks around the columns. */
static void output_panel(const gr_product_b *base, int64_t k0, int64_t kc, int64_t n0, int64_t nc, int64_t width_to,
                         void *panel, void *scratch) {
    const matrix_b *b = (const matrix_b *)base;
    const gr_matrix *w = b->w;
    int64_t at, last;
    const part *p0 = find_row(w, b->first + k0, &at);
    if (w->direct && !p0->permuted_heads && find_row(w, b->first + k0 + kc - 1, &last) == p0) { /* from where they stand */
        const char *rows = (const char *)p0->view.data + at * p0->row_bytes;
        gr_product_pack(b->k, kc, nc, gr_at_const(rows, w->dt, n0), p0->row_bytes / (int64_t)gr_type_size(w->dt), 1, width_to,
                        panel);
        return;
    }
    int64_t from = n0 / w->block * w->block, to = GR_MIN((n0 + nc + w->block - 1) / w->block * w->block, w->in);
    int64_t width = to - from;
    for (int64_t k = 0; k < kc; k++) {
        int64_t row;
        const part *p = find_row(w, b->first + k0 + k, &row);
        decode(p, w->dt, row, from, width, gr_at(scratch, w->dt, k * width));
    }
    gr_product_pack(b->k, kc, nc, gr_at_const(scratch, w->dt, n0 - from), width, 1, width_to, panel);
}

/* Rows of the stored (in, out) matrix, across its parts (dot form, backward of a transposed matrix). */
static void input_rows(const gr_product_b *base, int64_t n0, int64_t nc, const void **ptrs, void *scratch) {
    const gr_matrix *w = ((const matrix_b *)base)->w;
    for (int64_t j = 0; j < nc; j++) {
        int64_t at = 0;
        ptrs[j] = gr_at(scratch, w->dt, j * w->out + ((const matrix_b *)base)->first);
        for (int i = 0; i < w->n_parts; i++) {
            decode(&w->part[i], w->dt, n0 + j, 0, w->part[i].rows, gr_at(scratch, w->dt, j * w->out + at));
            at += w->part[i].rows;
        }
    }
}

/* Columns n0.. (outputs) of rows k0.. (inputs) of a transposed matrix (outer form, forward). */
static void input_panel(const gr_product_b *base, int64_t k0, int64_t kc, int64_t n0, int64_t nc, int64_t width, void *panel,
                        void *scratch) {
    const matrix_b *b = (const matrix_b *)base;
    const gr_matrix *w = b->w;
    int64_t first = 0;
    for (int i = 0; i < w->n_parts; first += w->part[i++].rows) {
        int64_t begin = GR_MAX(n0, first), end = GR_MIN(n0 + nc, first + w->part[i].rows);
        for (int64_t k = 0; begin < end && k < kc; k++)
            decode(&w->part[i], w->dt, k0 + k, begin - first, end - begin, gr_at(scratch, w->dt, k * nc + begin - n0));
    }
    gr_product_pack(b->k, kc, nc, scratch, nc, 1, width, panel);
}

static matrix_b operand(const gr_matrix *w, bool dot) {
    size_t size = gr_type_size(w->dt);
    matrix_b b = {.base = {.column_block = GR_PANEL}, .w = w, .k = gr_cpu(w->d)->products[gr_type_index(w->dt)]};
    b.base.rows = w->transposed ? input_rows : output_rows;
    b.base.panel = w->transposed ? input_panel : output_panel;
    if (dot && !w->transposed && w->dt == GR_BF16) b.base.stored = output_stored;
    if (dot)
        b.base.row_scratch = w->direct && !w->transposed ? 0 : size * (size_t)(w->transposed ? w->out : w->in);
    else /* whole blocks around a panel's columns: 96 of them may lie in two blocks of 256 */
        b.base.panel_scratch = w->block > GR_PANEL ? size * (size_t)(w->block / GR_PANEL + 2) : 2 * size;
    return b;
}

/* --- Products ----------------------------------------------------------------------------------------------------- */

void gr_matrix_stream(gr_matrix *w, bool on) { w->stream = on; }
void gr_matrix_follow(gr_matrix *w, const gr_matrix *other) { w->follows = other; }
bool gr_matrix_streams(const gr_matrix *w) { return w->stream || (w->follows && w->follows->stream); }

size_t gr_matrix_stored_bytes(const gr_matrix *w) {
    size_t bytes = 0;
    for (int i = 0; i < w->n_parts; i++) bytes += gr_view_all_bytes(&w->part[i].view);
    return bytes;
}

static graft_status leave(const gr_matrix *w, graft_status st) {
    for (int i = 0; i < w->n_parts && gr_matrix_streams(w); i++) gr_release_mapped(w->part[i].view.data, w->part[i].view.bytes);
    return st;
}

typedef struct integer_rows {
    const gr_matrix *w;
    int64_t first; /* output */
} integer_rows;

static void integer_rows_at(const void *owner, int64_t j, int64_t n, const uint8_t **rows) {
    const integer_rows *r = owner;
    while (n > 0) {
        int64_t row, apart, run;
        const part *p = find_run(r->w, r->first + j, n, &row, &apart, &run);
        const uint8_t *at = (const uint8_t *)p->view.data + row * p->row_bytes;
        for (int64_t i = 0; i < run; i++) *rows++ = at + i * apart * p->row_bytes;
        j += run;
        n -= run;
    }
}

static float integer_scale(const void *owner, int64_t j) {
    const integer_rows *r = owner;
    int64_t row;
    const part *p = find_row(r->w, r->first + j, &row);
    return gr_scale_at(p->view.scales, row);
}

/* Whether one product does for two parts that follow each other. */
static bool are_alike(const part *a, const part *b) {
    if (a->integer != b->integer) return false;
    return !a->integer || (a->view.dtype == b->view.dtype &&
                           (a->view.dtype != GR_CHANNEL8 || a->view.scales->input == b->view.scales->input));
}

/* Parts that are alike at a time; those that are not in integers as they would be alone. */
static graft_status integer_forward(const gr_matrix *w, int64_t rows, const void *x, int64_t x_ld, gr_dtype y_dt, void *y,
                                    int64_t y_ld, bool add, graft_error *err) {
    integer_rows owner = {.w = w};
    for (int i = 0, next; i < w->n_parts; i = next) {
        const part *of = &w->part[i];
        void *to = y ? gr_at(y, y_dt, owner.first) : NULL; /* NULL: workspace.c */
        int64_t n = 0;
        for (next = i; next < w->n_parts && are_alike(&w->part[next], of); next++) n += w->part[next].rows;
        if (of->integer) {
            gr_int_product p = {.d = w->d,
                                .stored = of->view.dtype,
                                .dt = w->dt,
                                .m = rows,
                                .n = n,
                                .k = w->in,
                                .x = x,
                                .x_ld = x_ld,
                                .y_dt = y_dt,
                                .y = to,
                                .y_ld = y_ld,
                                .add = add,
                                .threshold = w->outliers,
                                .input = of->view.scales ? of->view.scales->input : 0,
                                .owner = &owner,
                                .rows = integer_rows_at,
                                .row_bytes = of->row_bytes,
                                .scale = integer_scale};
            GR_TRY(gr_int_forward(&p, err));
        } else {
            gr_product p = {.d = w->d,
                            .dt = w->dt,
                            .m = rows,
                            .n = n,
                            .k = w->in,
                            .a = x,
                            .lda = x_ld,
                            .alpha = 1,
                            .beta = add ? 1 : 0,
                            .c_dt = y_dt,
                            .c = to,
                            .ldc = y_ld};
            matrix_b b = operand(w, true);
            b.first = owner.first;
            GR_TRY(gr_product_dot(&p, &b.base, err));
        }
        owner.first += n;
    }
    return GRAFT_OK;
}

graft_status gr_matrix_forward(gr_matrix *w, int64_t rows, const void *x, int64_t x_ld, gr_dtype y_dt, void *y,
                               int64_t y_ld, bool add, graft_error *err) {
    if (y_dt != w->dt && y_dt != GR_F32)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "product of %s with result %s", gr_dtype_name(w->dt), gr_dtype_name(y_dt));
    if (w->integer) return leave(w, integer_forward(w, rows, x, x_ld, y_dt, y, y_ld, add, err));
    gr_product p = {.d = w->d, .dt = w->dt, .m = rows, .n = w->out, .k = w->in, .a = x, .lda = x_ld, .alpha = 1,
                    .beta = add ? 1 : 0, .c_dt = y_dt, .c = y, .ldc = y_ld};
    matrix_b b = operand(w, !w->transposed);
    return leave(w, w->transposed ? gr_product_outer(&p, &b.base, err) : gr_product_dot(&p, &b.base, err));
}

graft_status gr_matrix_backward_slab(gr_matrix *w, int64_t first, int64_t n, int64_t rows, const void *dy, int64_t dy_ld,
                                     gr_dtype dx_dt, void *dx, int64_t dx_ld, bool add, graft_error *err) {
    gr_product p = {.d = w->d, .dt = w->dt, .m = rows, .n = w->in, .k = n, .a = dy, .lda = dy_ld, .alpha = 1,
                    .beta = add ? 1 : 0, .c_dt = dx_dt, .c = dx, .ldc = dx_ld};
    matrix_b b = operand(w, w->transposed);
    b.first = first;
    return leave(w, w->transposed ? gr_product_dot(&p, &b.base, err) : gr_product_outer(&p, &b.base, err));
}

graft_status gr_matrix_backward(gr_matrix *w, int64_t rows, const void *dy, int64_t dy_ld, void *dx, int64_t dx_ld,
                                bool add, graft_error *err) {
    return gr_matrix_backward_slab(w, 0, w->out, rows, dy, dy_ld, w->dt, dx, dx_ld, add, err);
}

typedef struct gather_job {
    const gr_matrix *w;
    const int32_t *rows;
    gr_dtype dt;
    void *out;
    int64_t ld;
} gather_job;

static void gather_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    const gather_job *g = arg;
    for (size_t i = begin; i < end; i++) {
        int64_t row;
        void *to = gr_at(g->out, g->dt, (int64_t)i * g->ld);
        if (g->w->transposed) {
            const part *p = g->w->part;
            row = g->rows[i];
            while (row >= p->rows) row -= p++->rows;
            for (int64_t k = 0; k < g->w->in; k++) decode(p, g->dt, k, row, 1, gr_at(to, g->dt, k));
        } else {
            const part *p = find_row(g->w, g->rows[i], &row);
            decode(p, g->dt, row, 0, g->w->in, to);
        }
    }
}

graft_status gr_matrix_gather(gr_matrix *w, int64_t n, const int32_t *rows, gr_dtype out_dt, void *out, int64_t ld,
                              graft_error *err) {
    if (out_dt != GR_F32 && out_dt != GR_BF16 && out_dt != GR_F64)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "rows of a matrix as %s", gr_dtype_name(out_dt));
    gather_job g = {.w = w, .rows = rows, .dt = out_dt, .out = out, .ld = ld};
    gr_parallel_for(w->d->team, (size_t)n, 16, gather_item, &g);
    return leave(w, GRAFT_OK);
}

/* Nothing is packed, so nothing goes stale and nothing can be made ready. */
void gr_matrix_changed(gr_matrix *w) { (void)w; }

graft_status gr_matrix_prepare(gr_matrix *w, bool forward, bool backward, graft_error *err) {
    (void)w;
    (void)forward;
    (void)backward;
    (void)err;
    return GRAFT_OK;
}

size_t gr_matrix_bytes(const gr_matrix *w) {
    (void)w;
    return sizeof *w;
}

size_t gr_matrix_planned_bytes(const gr_matrix *w, bool forward, bool backward) {
    (void)forward;
    (void)backward;
    return gr_matrix_bytes(w);
}
