/* The driver of dense products on tile registers (kernels: products_amx.c). Multiplying costs a tenth of what it does on
 * vectors, so that bytes moved decide:
 *
 * Many rows: a block of up to 288 columns of B is decoded and packed once, along all of K or in panels of it, and stays in the
 * second-level cache; rows of A pass it 32 at a time, where they stand unless too few sets of the first-level cache would hold
 * them, a piece of K after the other; 32 x 32 sums are rounded and stored when their K ends.
 * Few rows (decoding, dot form): turning a panel's pairs would cost more than using it. Decoded rows of B are the left
 * operand as they stand, the few rows of A are packed instead, and the small result is turned. The sums are the same.
 * Formats with a decoder of tiles are decoded a step at a time, beside the products of the steps before. */
#include "kernel/cpu/product.h"

enum {
    SIDE = 16,           /* of a tile */
    ROWS = 2 * SIDE,     /* rows of A that the kernel takes at once */
    ROW_CHUNK = 1024,
    SUM_ROWS = 512,      /* rows of a block whose K does not fit one panel: its sums are kept */
    PANEL_BYTES = 786432,
    PIECE = 640,         /* elements of K that are multiplied at once */
    PACK_FROM = 128,     /* columns from which on it pays to fetch the next rows, and to pack crowded ones */
    CACHE_WAY = 4096,    /* bytes of the first-level cache that lie in different sets */
    CROWD = 8,           /* rows that may share a set */
    SLICE = 64,          /* elements of K that are decoded together, outer form */
    FEW_ROWS = 64,
    FEW_COLUMNS = 32,    /* of an item with few rows */
    DECODE_ROWS = 160,   /* rows that decoding and packing a block of B costs as much as */
    FETCH_COLUMNS = 36,  /* columns that fetching a block of A costs as much as */
    NEAR_BYTES = 1 << 20,
    NEAR_COLUMNS = 256
};

typedef struct job {
    const gr_product *p;
    const gr_product_b *b;
    const gr_product_kernels *k;
    bool dot;
    int64_t rows, cols; /* of a block of C */
    int64_t row_blocks, col_blocks;
    int64_t inner;      /* elements of K per panel; few rows: columns at once */
    int64_t steps_k;    /* K rounded up to whole steps */
    size_t acc_bytes, panel_bytes, a_bytes, scratch_bytes, thread_bytes;
    char *workspace;
    char *few_a; /* few rows: all of A, packed */
} job;

static void finish(const job *w, int64_t i, int64_t j, int64_t m, int64_t n, const void *acc, int64_t ld) {
    const gr_product *p = w->p;
    if (p->turned) { /* up to ROWS x ROWS sums */
        float sums[ROWS * ROWS];
        w->k->tiles->turn(gr_round_up(m, SIDE), n, acc, ld, sums, ROWS);
        w->k->finish(n, m, p->alpha, sums, ROWS, p->beta, p->c_dt, gr_at(p->c, p->c_dt, j * p->ldc + i), p->ldc);
        return;
    }
    w->k->finish(m, n, p->alpha, acc, ld, p->beta, p->c_dt, gr_at(p->c, p->c_dt, i * p->ldc + j), p->ldc);
}

/* --- Many rows ---------------------------------------------------------------------------------------------------------- */

/* Elements of K that a panel of `cols` columns takes: all, if that fits. */
static int64_t panel_steps(const job *w, int64_t cols) {
    int64_t most = (int64_t)(PANEL_BYTES / w->k->packed_size) / cols / SLICE * SLICE;
    return w->dot ? w->steps_k : GR_MIN(w->steps_k, most);
}

/* What a block takes, in products of one row with one column: A comes from the second-level cache or, where that cannot
 * hold it, no faster than NEAR_COLUMNS columns are computed; sums that are kept are loaded and stored for each piece. */
static int64_t block_time(const job *w, int64_t rows, int64_t width, bool whole) {
    const bool near = w->p->m * w->p->k * (int64_t)w->k->packed_size <= NEAR_BYTES;
    const int64_t fetch = FETCH_COLUMNS + (near ? 0 : GR_MAX(NEAR_COLUMNS - width, (int64_t)0));
    return rows * (width + (whole ? 0 : width / 8) + fetch) + DECODE_ROWS * width;
}

/* The block sizes with the shortest time of the thread that has most to do. */
static void cut(job *w) {
    static const int64_t widths[] = {32, 64, 96, 128, 192, 256, 288};
    const gr_product *p = w->p;
    const int64_t threads = p->d->n_threads;
    int64_t best = INT64_MAX;
    for (size_t c = 0; c < GR_COUNT(widths) && (c == 0 || widths[c - 1] < p->n); c++) {
        const int64_t cols = widths[c], inner = panel_steps(w, cols), width = GR_MIN(cols, gr_round_up(p->n, SIDE));
        const bool whole = inner == w->steps_k;
        if (w->dot && c > 0 && cols * inner * (int64_t)w->k->packed_size > PANEL_BYTES) break;
        for (int64_t rows = GR_MIN(gr_round_up(p->m, ROWS), whole ? (int64_t)ROW_CHUNK : (int64_t)SUM_ROWS);;
             rows = gr_round_up(rows / 2, ROWS)) {
            int64_t items = (p->m + rows - 1) / rows * ((p->n + cols - 1) / cols), longest = (items + threads - 1) / threads;
            int64_t time = longest * block_time(w, GR_MIN(rows, p->m), width, whole);
            if (time < best) {
                best = time;
                w->rows = rows;
                w->cols = cols;
                w->inner = inner;
            }
            if (threads == 1 || rows <= ROWS) break;
        }
    }
    w->row_blocks = (p->m + w->rows - 1) / w->rows;
    w->col_blocks = (p->n + w->cols - 1) / w->cols;
}

static void plan(job *w) {
    cut(w);
    const size_t size = w->k->packed_size;
    const int64_t sum_rows = w->inner == w->steps_k ? (int64_t)ROWS : gr_round_up(w->rows, ROWS);
    w->acc_bytes = gr_round64((size_t)(sum_rows * w->cols) * sizeof(float));
    w->panel_bytes = gr_round64((size_t)(w->inner * w->cols) * size);
    w->a_bytes = gr_round64((size_t)(ROWS * GR_MIN(w->inner, (int64_t)PIECE)) * size);
    w->scratch_bytes = gr_round64(w->dot ? SIDE * w->b->row_scratch
                                      : (size_t)(SLICE * GR_MAX(w->cols, (int64_t)GR_PANEL)) * w->b->panel_scratch);
    w->thread_bytes = w->acc_bytes + w->panel_bytes + w->a_bytes + w->scratch_bytes;
}

/* Columns j..j+n-1 of B, kc elements of K from k on. */
static void pack_b(const job *w, int64_t k, int64_t kc, int64_t j, int64_t n, char *panel, char *scratch) {
    const int64_t size = (int64_t)w->k->packed_size, step = w->k->step;
    if (!w->dot) {
        for (int64_t s = 0; s < kc; s += SLICE)
            w->b->panel(w->b, k + s, GR_MIN(kc - s, (int64_t)SLICE), j, n, w->cols, panel + s * w->cols * size, scratch);
        return;
    }
    for (int64_t c = 0; c < n; c += SIDE, panel += SIDE * step * size) { /* a tile's columns, one step of K */
        const void *rows[SIDE];
        const int64_t nc = GR_MIN(n - c, (int64_t)SIDE);
        w->b->rows(w->b, j + c, nc, rows, scratch);
        w->k->tiles->pack_rows(kc, nc, rows, w->cols, panel);
    }
}

/* Whether rows that stand so far apart share few sets of the first-level cache, so that a strip of them drives itself out. */
static bool are_crowded(int64_t row_bytes) {
    const int64_t apart = row_bytes & -row_bytes; /* the largest power of two in it */
    return apart > 0 && ROWS / (CACHE_WAY / GR_MIN(apart, (int64_t)CACHE_WAY)) > CROWD;
}

/* Rows i..i+m-1 of A from k on, where they stand or packed. */
static const void *left(const job *w, int64_t i, int64_t m, int64_t n, int64_t k, int64_t kc, char *packed,
                        int64_t *row_bytes) {
    const gr_product *p = w->p;
    const int64_t size = (int64_t)gr_type_size(p->dt);
    const void *a = gr_at_const(p->a, p->dt, p->trans_a ? k * p->lda + i : i * p->lda + k);
    *row_bytes = p->lda * size;
    if (!p->trans_a && m % SIDE == 0 && kc % w->k->step == 0 && (n < PACK_FROM || !are_crowded(*row_bytes))) return a;
    *row_bytes = gr_round_up(kc, w->k->step) * size;
    w->k->pack_a[p->trans_a](m, kc, a, p->lda, packed);
    return packed;
}

/* What the next strip adds to is read from memory while this one is computed. */
static void fetch_results(const job *w, int64_t i, int64_t i1, int64_t j) {
    const gr_product *p = w->p;
    if (p->beta == 0 || p->turned) return;
    for (int64_t r = i; r < GR_MIN(i + ROWS, i1); r++) __builtin_prefetch(gr_at(p->c, p->c_dt, r * p->ldc + j), 1);
}

/* One part of a block's K, its columns of B packed. */
typedef struct part {
    int64_t k, n;
    bool first, last;
    const char *panel;
    char *packed; /* where rows of A are packed that cannot be used where they stand */
} part;

/* Rows i up to i + ROWS - 1 of those before i1, columns j..j+n-1. K goes in pieces that leave room for B beside the
 * rows' piece in the first-level cache. */
static void strip(const job *w, const part *of, int64_t i, int64_t i1, int64_t j, int64_t n, float *sums) {
    const gr_product *p = w->p;
    const int64_t m = GR_MIN(i1 - i, (int64_t)ROWS), size = (int64_t)w->k->packed_size, step = w->k->step;
    const int64_t pieces = (GR_MAX(of->n, (int64_t)1) + PIECE - 1) / PIECE;
    const int64_t piece = gr_round_up((of->n + pieces - 1) / pieces, step);
    const bool kept = pieces > 1 || !of->first || !of->last;
    const int64_t next = p->trans_a || n < PACK_FROM ? 0 : GR_MIN(i1 - i - m, (int64_t)ROWS);
    const int64_t blocks = (n + ROWS - 1) / ROWS;
    int64_t k = 0;
    do {
        const int64_t kc = GR_MIN(piece, of->n - k);
        int64_t row_bytes;
        const void *a = left(w, i, m, n, of->k + k, kc, of->packed, &row_bytes);
        for (int64_t c = 0, at = 0; c < n; c += ROWS, at++) {
            const int64_t nc = GR_MIN(n - c, (int64_t)ROWS), begin = at * next / blocks, end = (at + 1) * next / blocks;
            const gr_tile_rows ahead = {next ? gr_at_const(p->a, p->dt, (i + m + begin) * p->lda + of->k + k) : NULL,
                                        p->lda * size, end - begin};
            float *to = sums + (kept ? c * ROWS : 0);
            w->k->tiles->multiply_ahead(gr_round_up(m, SIDE), gr_round_up(nc, SIDE), kc, a, row_bytes,
                                        of->panel + (k * w->cols + c * step) * size, w->cols, to, ROWS,
                                        !of->first || k > 0, next ? &ahead : NULL);
            if (!of->last || k + kc < of->n) continue;
            fetch_results(w, i + ROWS, i1, j + c);
            finish(w, i, j + c, m, nc, to, ROWS);
        }
        k += piece;
    } while (k < of->n);
}

/* Rows i0..i1-1, columns j..j+n-1 of C: the sums over elements begin..end-1 of K. */
static void block(const job *w, int64_t i0, int64_t i1, int64_t j, int64_t n, int64_t begin, int64_t end, char *space) {
    char *panel = space + w->acc_bytes, *packed = panel + w->panel_bytes, *scratch = packed + w->a_bytes;
    int64_t k = begin;
    do {
        const int64_t kc = GR_MIN(end - k, w->inner);
        const part of = {.k = k, .n = kc, .first = k == begin, .last = k + kc >= end, .panel = panel, .packed = packed};
        pack_b(w, k, kc, j, n, panel, scratch);
        for (int64_t i = i0; i < i1; i += ROWS)
            strip(w, &of, i, i1, j, n, (float *)(void *)space + (of.first && of.last ? 0 : (i - i0) * w->cols));
        k += kc;
    } while (k < end);
}

static void item(void *arg, size_t first, size_t last, int thread) {
    const job *w = arg;
    const gr_row_groups groups = w->p->groups ? *w->p->groups : (gr_row_groups){0};
    char *space = w->workspace + (size_t)thread * w->thread_bytes;
    w->k->begin();
    for (int64_t at = (int64_t)first; at < (int64_t)last; at++) {
        int64_t i = at / w->col_blocks * w->rows, i1 = GR_MIN(i + w->rows, w->p->m);
        int64_t j = at % w->col_blocks * w->cols, n = GR_MIN(w->p->n - j, w->cols);
        if (!groups.n) block(w, i, i1, j, n, 0, w->p->k, space);
        for (int g = 0; g < groups.n; g++) {
            int64_t begin = GR_MAX(groups.bounds[g] - groups.origin, (int64_t)0);
            int64_t end = GR_MIN(groups.bounds[g + 1] - groups.origin, w->p->k);
            if (begin < end) block(w, i, i1, j, n, begin, end, space);
        }
    }
    w->k->end();
}

/* --- Few rows ----------------------------------------------------------------------------------------------------------- */

static int64_t few_width(const job *w) { return gr_round_up(w->p->m, SIDE); }

static void plan_few(job *w) {
    const size_t row_bytes = (size_t)w->steps_k * w->k->packed_size;
    w->rows = w->p->m;
    w->row_blocks = 1;
    w->cols = FEW_COLUMNS;
    w->col_blocks = (w->p->n + w->cols - 1) / w->cols;
    w->inner = w->b->row_scratch ? SIDE : FEW_COLUMNS; /* decoded rows stay in the first-level cache */
    w->acc_bytes = gr_round64((size_t)(2 * FEW_COLUMNS * few_width(w)) * sizeof(float)); /* turned, and straight */
    w->a_bytes = gr_round64((size_t)w->inner * row_bytes);
    w->scratch_bytes = gr_round64((size_t)w->inner * w->b->row_scratch);
    w->thread_bytes = w->acc_bytes + w->a_bytes + w->scratch_bytes;
}

/* Rows of B as a left operand: where they stand, if whole tiles can be read there, else copied. */
static const void *few_left(const job *w, int64_t n, const void *const *rows, char *copy, int64_t *row_bytes) {
    const size_t bytes = (size_t)w->p->k * w->k->packed_size, whole = (size_t)w->steps_k * w->k->packed_size;
    *row_bytes = (const char *)rows[n > 1] - (const char *)rows[0];
    bool stands = w->p->k == w->steps_k && n % SIDE == 0;
    for (int64_t c = 1; stands && c < n; c++) stands = (const char *)rows[c] - (const char *)rows[c - 1] == *row_bytes;
    if (stands) return rows[0];
    for (int64_t c = 0; c < n; c++, copy += whole) {
        memcpy(copy, rows[c], bytes);
        memset(copy + bytes, 0, whole - bytes);
    }
    *row_bytes = (int64_t)whole;
    return copy - (size_t)n * whole;
}

static void few_item(void *arg, size_t first, size_t last, int thread) {
    const job *w = arg;
    const gr_product *p = w->p;
    char *space = w->workspace + (size_t)thread * w->thread_bytes, *copy = space + w->acc_bytes, *scratch = copy + w->a_bytes;
    const int64_t width = few_width(w), end = GR_MIN((int64_t)last * w->cols, p->n);
    float *turned = (float *)(void *)space, *acc = turned + FEW_COLUMNS * width;
    w->k->begin();
    for (int64_t j = (int64_t)first * w->cols; j < end; j += w->inner) {
        const void *rows[FEW_COLUMNS];
        const int64_t n = GR_MIN(end - j, w->inner), tiles = gr_round_up(n, SIDE);
        int64_t row_bytes;
        gr_tile_source stored;
        if (n == SIDE && w->b->stored && w->b->stored(w->b, j, &stored, scratch)) {
            w->k->tiles->multiply_stored(width, w->steps_k / w->k->step, &stored, w->few_a, turned, width);
        } else {
            w->b->rows(w->b, j, n, rows, scratch);
            const void *b = few_left(w, n, rows, copy, &row_bytes);
            w->k->tiles->multiply(tiles, width, p->k, b, row_bytes, w->few_a, width, turned, width, false);
        }
        w->k->tiles->turn(tiles, p->m, turned, width, acc, tiles);
        finish(w, 0, j, p->m, n, acc, tiles);
    }
    w->k->end();
}

static void pack_few(job *w) {
    const gr_product *p = w->p;
    const void *rows[FEW_ROWS];
    for (int64_t i = 0; i < p->m; i++) rows[i] = gr_at_const(p->a, p->dt, i * p->lda);
    w->k->tiles->pack_rows(p->k, p->m, rows, few_width(w), w->few_a);
}

graft_status gr_product_tiles(const gr_product *p, const gr_product_b *b, bool dot, graft_error *err) {
    job w = {.p = p, .b = b, .k = gr_cpu(p->d)->products[gr_type_index(p->dt)], .dot = dot};
    w.steps_k = gr_round_up(GR_MAX(p->k, 1), w.k->step);
    const bool few = dot && p->m <= FEW_ROWS;
    if (few)
        plan_few(&w);
    else
        plan(&w);
    const size_t few_bytes = few ? (size_t)(w.steps_k * few_width(&w)) * w.k->packed_size : 0;
    gr_workspace *space;
    GR_TRY(gr_workspace_take(p->d, few_bytes + w.thread_bytes * (size_t)p->d->n_threads, &space, err));
    w.few_a = space->data;
    w.workspace = space->data + few_bytes;
    if (few) pack_few(&w);
    size_t items = (size_t)(w.row_blocks * w.col_blocks);
    size_t grain = few ? GR_MAX(items / ((size_t)p->d->n_threads * 8), (size_t)1) : 1;
    gr_parallel_for(p->d->team, items, grain, few ? few_item : item, &w);
    gr_workspace_give(p->d, space);
    return GRAFT_OK;
}
