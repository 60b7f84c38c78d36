/* The two drivers of dense products (forms: product.h). A call is cut into blocks of C; one item computes its block from
 * beginning to end, so that no sum is shared. Block sizes may follow the number of threads: an element's sum does not
 * depend on them. */
#include "kernel/cpu/product.h"

enum {
    ROW_CHUNK = 1024,   /* rows of A per block: amortises the decoding of B */
    ROW_CHUNK_MIN = 48,
    DECODE_ROWS = 24,
    DOT_ROWS = 24,      /* rows of A that are multiplied with one panel before their results are stored */
    FEW_ROWS = 16,      /* up to here the panel is kept in the first-level cache: it is used only once or twice */
    PANEL_BYTES = 49152,
    FEW_PANEL_BYTES = 16384,
    DOT_PANEL_BYTES = 262144,
    PACKED_A_COLUMNS = 3 * GR_PANEL /* wider blocks where A is packed, to pack it less often */
};

typedef struct job {
    const gr_product *p;
    const gr_product_b *b;
    const gr_product_kernels *k;
    int64_t rows, cols; /* of a block of C */
    int64_t row_blocks, col_blocks;
    int64_t inner;      /* dot: columns per panel; outer: elements of K per panel */
    size_t acc_bytes, panel_bytes, a_bytes, scratch_bytes, thread_bytes;
    char *workspace;
} job;

static size_t sum_size(gr_dtype dt) { return dt == GR_F64 ? 8 : 4; }

/* Rows of a block: as many as give the shortest time of the thread that has most to do, where decoding B, which each block
 * does anew, takes as long as multiplying it with DECODE_ROWS rows. */
static void cut_rows(job *w) {
    const gr_product *p = w->p;
    int64_t threads = p->d->n_threads, rows = GR_MIN(p->m, w->rows), best = INT64_MAX;
    w->col_blocks = (p->n + w->cols - 1) / w->cols;
    for (;; rows = gr_round_up((rows + 1) / 2, ROW_CHUNK_MIN / 2)) {
        int64_t items = (p->m + rows - 1) / rows * w->col_blocks, longest = (items + threads - 1) / threads;
        int64_t time = longest * (GR_MIN(rows, p->m) + DECODE_ROWS);
        if (time < best) {
            best = time;
            w->rows = rows;
        }
        if (threads == 1 || rows <= ROW_CHUNK_MIN) break;
    }
    w->row_blocks = (p->m + w->rows - 1) / w->rows;
}

static graft_status run(job *w, gr_parallel_fn fn, graft_error *err) {
    const gr_product *p = w->p;
    gr_workspace *space;
    GR_TRY(gr_workspace_take(p->d, w->thread_bytes * (size_t)p->d->n_threads, &space, err));
    w->workspace = space->data;
    size_t items = (size_t)(w->row_blocks * w->col_blocks);
    size_t grain = p->m <= FEW_ROWS ? GR_MAX(items / ((size_t)p->d->n_threads * 8), (size_t)1) : 1;
    gr_parallel_for(p->d->team, items, grain, fn, w);
    gr_workspace_give(p->d, space);
    return GRAFT_OK;
}

static void finish(const job *w, int64_t i, int64_t j, int64_t m, int64_t n, const void *acc, int64_t ld) {
    const gr_product *p = w->p;
    w->k->finish(m, n, p->alpha, acc, ld, p->beta, p->c_dt, gr_at(p->c, p->c_dt, i * p->ldc + j), p->ldc);
}

/* --- Dot form ----------------------------------------------------------------------------------------------------- */

static void dot_plan(job *w) {
    const gr_product *p = w->p;
    size_t row_bytes = (size_t)GR_MAX(p->k, 1) * gr_type_size(p->dt);
    size_t target = p->m <= FEW_ROWS ? FEW_PANEL_BYTES : DOT_PANEL_BYTES;
    w->cols = GR_PANEL;
    w->rows = ROW_CHUNK;
    w->inner = GR_MAX(GR_MIN((int64_t)(target / row_bytes) / 4 * 4, (int64_t)GR_PANEL), 4);
    w->inner = GR_MIN(w->inner, p->n);
    cut_rows(w);
    w->acc_bytes = gr_round64((size_t)(DOT_ROWS * w->inner) * sum_size(p->dt));
    w->scratch_bytes = gr_round64((size_t)w->inner * w->b->row_scratch);
    w->thread_bytes = w->acc_bytes + w->scratch_bytes;
}

static void dot_panel(const job *w, int64_t i0, int64_t i1, int64_t j, int64_t n, char *space) {
    const gr_product *p = w->p;
    const void *ptrs[GR_PANEL], *at[GR_PANEL];
    w->b->rows(w->b, j, n, ptrs, space + w->acc_bytes);
    for (int64_t i = i0; i < i1; i += DOT_ROWS) {
        int64_t m = GR_MIN(i1 - i, (int64_t)DOT_ROWS), k = 0;
        do {
            for (int64_t c = 0; c < n; c++) at[c] = gr_at_const(ptrs[c], p->dt, k);
            w->k->dot(m, n, GR_MIN(p->k - k, (int64_t)GR_DOT_BLOCK), gr_at_const(p->a, p->dt, i * p->lda + k), p->lda, at,
                      space, n, k > 0);
            k += GR_DOT_BLOCK;
        } while (k < p->k);
        finish(w, i, j, m, n, space, n);
    }
}

static void dot_item(void *arg, size_t begin, size_t end, int thread) {
    const job *w = arg;
    for (int64_t item = (int64_t)begin; item < (int64_t)end; item++) {
        int64_t i0 = item / w->col_blocks * w->rows, i1 = GR_MIN(i0 + w->rows, w->p->m);
        int64_t j0 = item % w->col_blocks * w->cols, j1 = GR_MIN(j0 + w->cols, w->p->n);
        for (int64_t j = j0; j < j1; j += w->inner)
            dot_panel(w, i0, i1, j, GR_MIN(j1 - j, w->inner), w->workspace + (size_t)thread * w->thread_bytes);
    }
}

graft_status gr_product_dot(const gr_product *p, const gr_product_b *b, graft_error *err) {
    if (p->m <= 0 || p->n <= 0) return GRAFT_OK;
    job w = {.p = p, .b = b, .k = gr_cpu(p->d)->products[gr_type_index(p->dt)]};
    if (w.k->tiles) return gr_product_tiles(p, b, true, err);
    dot_plan(&w);
    return run(&w, dot_item, err);
}

/* --- Outer form --------------------------------------------------------------------------------------------------- */

static void outer_plan(job *w) {
    const gr_product *p = w->p;
    bool packs = w->k->pack_a[p->trans_a] != NULL;
    w->cols = GR_MIN(packs ? GR_MAX(w->b->column_block, (int64_t)PACKED_A_COLUMNS) : w->b->column_block,
                     gr_round_up(p->n, GR_PANEL));
    w->rows = GR_MAX(ROW_CHUNK * GR_PANEL / w->cols, (int64_t)ROW_CHUNK / 4);
    cut_rows(w);
    w->inner = GR_MIN((int64_t)(PANEL_BYTES / GR_PANEL / w->k->packed_size), gr_round_up(GR_MAX(p->k, 1), w->k->step));
    w->acc_bytes = gr_round64((size_t)(w->rows * w->cols) * sum_size(p->dt));
    w->panel_bytes = (size_t)(w->inner * GR_PANEL) * w->k->packed_size;
    w->a_bytes = packs ? gr_round64((size_t)(w->rows * w->inner) * w->k->packed_size) : 0;
    w->scratch_bytes = gr_round64((size_t)(w->inner * w->cols) * w->b->panel_scratch);
    w->thread_bytes = w->acc_bytes + w->panel_bytes + w->a_bytes + w->scratch_bytes;
}

/* kc steps along K, from k on, of a block of C: rows i..i+m-1, columns j0..j1-1. */
static void outer_step(const job *w, int64_t i, int64_t m, int64_t j0, int64_t j1, int64_t k, int64_t kc, bool add,
                       char *space) {
    const gr_product *p = w->p;
    char *panel = space + w->acc_bytes, *packed = panel + w->panel_bytes, *scratch = packed + w->a_bytes;
    int64_t size = (int64_t)gr_type_size(p->dt), step = w->k->step;
    const void *a = gr_at_const(p->a, p->dt, p->trans_a ? k * p->lda + i : i * p->lda + k);
    int64_t a_row = p->trans_a ? size : p->lda * size, a_step = p->trans_a ? p->lda * size * step : size * step;
    if (w->a_bytes) {
        w->k->pack_a[p->trans_a](m, kc, a, p->lda, packed);
        int64_t unit = (int64_t)w->k->packed_size * step;
        a = packed;
        a_row = p->trans_a ? unit : gr_round_up(kc, step) / step * unit;
        a_step = p->trans_a ? m * unit : unit;
    }
    for (int64_t j = j0; j < j1; j += GR_PANEL) {
        int64_t n = GR_MIN(j1 - j, (int64_t)GR_PANEL);
        w->b->panel(w->b, k, kc, j, n, GR_PANEL, panel, scratch);
        w->k->outer(m, n, kc, a, a_row, a_step, panel, gr_at(space, gr_param_type(p->dt), j - j0), w->cols, add);
    }
}

static void outer_item(void *arg, size_t first, size_t last, int thread) {
    const job *w = arg;
    const gr_row_groups groups = w->p->groups ? *w->p->groups : (gr_row_groups){0};
    char *space = w->workspace + (size_t)thread * w->thread_bytes;
    for (int64_t item = (int64_t)first; item < (int64_t)last; item++) {
        int64_t i = item / w->col_blocks * w->rows, m = GR_MIN(w->p->m - i, w->rows);
        int64_t j0 = item % w->col_blocks * w->cols, j1 = GR_MIN(j0 + w->cols, w->p->n);
        for (int g = 0; g < GR_MAX(groups.n, 1); g++) {
            int64_t begin = groups.n ? GR_MAX(groups.bounds[g] - groups.origin, (int64_t)0) : 0;
            int64_t end = groups.n ? GR_MIN(groups.bounds[g + 1] - groups.origin, w->p->k) : w->p->k;
            if (begin >= end && groups.n) continue;
            if (begin >= end) memset(space, 0, w->acc_bytes);
            for (int64_t k = begin; k < end; k += w->inner)
                outer_step(w, i, m, j0, j1, k, GR_MIN(end - k, w->inner), k > begin, space);
            finish(w, i, j0, m, j1 - j0, space, w->cols);
        }
    }
}

graft_status gr_product_outer(const gr_product *p, const gr_product_b *b, graft_error *err) {
    if (p->m <= 0 || p->n <= 0) return GRAFT_OK;
    job w = {.p = p, .b = b, .k = gr_cpu(p->d)->products[gr_type_index(p->dt)]};
    if (w.k->tiles) return gr_product_tiles(p, b, false, err);
    outer_plan(&w);
    return run(&w, outer_item, err);
}

/* --- Operand B in memory: gr_gemm --------------------------------------------------------------------------------- */

typedef struct memory_b {
    gr_product_b base;
    const gr_product_kernels *k;
    gr_dtype dt;
    const void *b;
    int64_t ld;
    bool trans;
} memory_b;

static void memory_rows(const gr_product_b *base, int64_t n0, int64_t nc, const void **ptrs, void *scratch) {
    (void)scratch;
    const memory_b *b = (const memory_b *)base;
    for (int64_t j = 0; j < nc; j++) ptrs[j] = gr_at_const(b->b, b->dt, (n0 + j) * b->ld);
}

static void memory_panel(const gr_product_b *base, int64_t k0, int64_t kc, int64_t n0, int64_t nc, int64_t width, void *panel,
                         void *scratch) {
    (void)scratch;
    const memory_b *b = (const memory_b *)base;
    int64_t b_k = b->trans ? 1 : b->ld, b_j = b->trans ? b->ld : 1;
    gr_product_pack(b->k, kc, nc, gr_at_const(b->b, b->dt, k0 * b_k + n0 * b_j), b_k, b_j, width, panel);
}

/* C (m, n) = A^T B with few columns, as gradients of thin factors are: on tiles C^T = B^T A, which turns the thin operand
 * in place of the wide one; the sums are the same. */
enum { THIN = 32, WIDE = 128 };

static graft_status outer_of_memory(gr_product *p, memory_b *source, graft_error *err) {
    if (source->k->tiles && p->trans_a && !source->trans && p->n <= THIN && p->m >= WIDE) {
        const gr_product q = *p;
        p->m = q.n;
        p->n = q.m;
        p->a = source->b;
        p->lda = source->ld;
        p->turned = true;
        source->b = q.a;
        source->ld = q.lda;
    }
    return gr_product_outer(p, &source->base, err);
}

/* Below this the dot form would spend its time adding lanes. */
enum { DOT_MIN_K = 64 };

graft_status gr_gemm(gr_device *d, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, double alpha, gr_dtype ab_dt,
                     const void *a, int64_t lda, const void *b, int64_t ldb, double beta, gr_dtype c_dt, void *c,
                     int64_t ldc, graft_error *err) {
    bool types = (ab_dt == GR_F64 && c_dt == GR_F64) || ((ab_dt == GR_F32 || ab_dt == GR_BF16) &&
                                                         (c_dt == GR_F32 || c_dt == GR_BF16));
    if (!types)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "matrix product of %s with result %s: expected F32 or BF16, or F64 for both",
                       gr_dtype_name(ab_dt), gr_dtype_name(c_dt));
    gr_product p = {.d = d, .dt = ab_dt, .m = m, .n = n, .k = k, .a = a, .lda = lda, .trans_a = trans_a, .alpha = alpha,
                    .beta = beta, .c_dt = c_dt, .c = c, .ldc = ldc};
    memory_b source = {.base = {.rows = memory_rows, .panel = memory_panel, .column_block = GR_PANEL},
                       .k = gr_cpu(d)->products[gr_type_index(ab_dt)], .dt = ab_dt, .b = b, .ld = ldb, .trans = trans_b};
    if (!trans_a && trans_b && k >= DOT_MIN_K) return gr_product_dot(&p, &source.base, err);
    return outer_of_memory(&p, &source, err);
}

graft_status gr_gemm_groups(gr_device *d, int64_t rows, int64_t m, int64_t n, double alpha, gr_dtype ab_dt, const void *a,
                            int64_t lda, const void *b, int64_t ldb, void *c, int64_t ldc, const gr_row_groups *groups,
                            graft_error *err) {
    if (ab_dt != GR_F32 && ab_dt != GR_BF16 && ab_dt != GR_F64)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "matrix product of %s", gr_dtype_name(ab_dt));
    gr_product p = {.d = d, .dt = ab_dt, .m = m, .n = n, .k = rows, .a = a, .lda = lda, .trans_a = true, .alpha = alpha,
                    .beta = 1, .c_dt = gr_param_type(ab_dt), .c = c, .ldc = ldc, .groups = groups};
    memory_b source = {.base = {.rows = memory_rows, .panel = memory_panel, .column_block = GR_PANEL},
                       .k = gr_cpu(d)->products[gr_type_index(ab_dt)], .dt = ab_dt, .b = b, .ld = ldb};
    return outer_of_memory(&p, &source, err);
}
