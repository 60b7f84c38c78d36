/* Dense products on the CPU: block kernels of a level, and the two drivers over them.
 *
 * Dot form, C = A B^T with the rows of A and B running along K: no operand is packed, so that B's rows may be those of a
 * mapped file, or decoded a panel at a time. The sum of one element: K in blocks of GR_DOT_BLOCK; inside a block a fixed
 * number of lanes, lane l taking steps l, l + lanes, ...; lanes added in a fixed tree; block sums added in order.
 *
 * Outer form, C = A B with the rows of B running along N: panels of GR_PANEL columns of B, packed; the sum of one element
 * is one chain along K.
 *
 * On tile registers (AMX) both forms are one: products_amx.c tells the sum, product_tiles.c is the driver.
 *
 * In all the the order depends on K (dot form) or on nothing, never on M, N, the place of the element or the threads. */
#ifndef GR_KERNEL_CPU_PRODUCT_H
#define GR_KERNEL_CPU_PRODUCT_H

#include "kernel/cpu/cpu.h"

enum { GR_DOT_BLOCK = 2048, GR_PANEL = 64 };

/* What products on tile registers need beside the block kernels. A panel of `width` columns (a multiple of 16) has `width`
 * elements for each of k rounded up to whole steps; columns after n may be anything. */
typedef struct gr_tile_source { /* sixteen rows in a format that can be decoded by tiles */
    const uint8_t *blocks;
    int64_t row_bytes;
    int block_bytes, steps; /* of a block: its length, and the steps of 32 elements in it */
    const gr_tile_ops *ops;
    const float *scales; /* [block][16], where they stand apart; else NULL */
} gr_tile_source;

typedef struct gr_tile_rows {
    const void *at;
    int64_t row_bytes, n;
} gr_tile_rows;

typedef struct gr_tile_kernels {
    /* c (m, n) = or += A * panel; A's rows, a_row bytes apart, are readable up to whole steps and whole tiles of 16 rows. */
    void (*multiply)(int64_t m, int64_t n, int64_t k, const void *a, int64_t a_row, const void *panel, int64_t width, void *c,
                     int64_t ldc, bool add);
    /* The same; on the way k elements of each of the rows `ahead`, if not NULL, come into the second-level cache. */
    void (*multiply_ahead)(int64_t m, int64_t n, int64_t k, const void *a, int64_t a_row, const void *panel,
                           int64_t width, void *c, int64_t ldc, bool add, const gr_tile_rows *ahead);
    /* c (16, n) = rows as they are stored * panel of n = 16 to 64 columns, the same sums. */
    void (*multiply_stored)(int64_t n, int64_t steps, const gr_tile_source *from, const void *panel, void *c, int64_t ldc);
    void (*pack)(int64_t k, int64_t n, const void *b, int64_t b_k, int64_t b_j, int64_t width, void *panel); /* as pack_panel */
    void (*pack_rows)(int64_t k, int64_t n, const void *const *rows, int64_t width, void *panel); /* columns at rows[0..n-1] */
    void (*turn)(int64_t m, int64_t n, const float *from, int64_t ld, float *to, int64_t to_ld); /* to = from^T, by squares of 16 */
} gr_tile_kernels;

/* "sum" is float, double for F64. Strides are in elements unless they are called bytes. */
struct gr_product_kernels {
    /* A thread calls begin before it uses the kernels and end after: the state of its tile registers. NULL: none. */
    void (*begin)(void);
    void (*end)(void);
    const gr_tile_kernels *tiles; /* NULL: none. Then A is always packed, both ways to rows along K, of whole steps and
                                   * rounded up to 16 rows; a_step means nothing; `dot` is not the sum of a product. */
    /* c[i][j] (sum) = or += sum over k of a[i][k] * b[j][k], k <= GR_DOT_BLOCK. b: n row pointers, aligned for the type. */
    void (*dot)(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, const void *const *b, void *c, int64_t ldc,
                bool add);
    /* c[i][0..n) (sum) = or += a[i][.] * panel, n <= GR_PANEL. Step s of row i of A stands at i * a_row + s * a_step bytes;
     * a step is `step` elements (2 where the hardware multiplies pairs). A's row may end inside the last step. */
    void (*outer)(int64_t m, int64_t n, int64_t k, const void *a, int64_t a_row, int64_t a_step, const void *panel, void *c,
                  int64_t ldc, bool add);
    int step;
    size_t packed_size; /* bytes of one packed element, of A and of B */
    /* Packs rows 0..k-1 of n <= GR_PANEL columns; element (k, j) at b[k * b_k + j * b_j], one of the strides being 1. The
     * panel has k rounded up to whole steps (zeros) and GR_PANEL columns. */
    void (*pack_panel)(int64_t k, int64_t n, const void *b, int64_t b_k, int64_t b_j, void *panel);
    /* A as outer wants it. pack_a[0]: from rows along K, to rows of k rounded up to whole steps; pack_a[1]: from rows along
     * M (A transposed), to [step][m][elements of a step]. NULL: not needed, A is used where it stands. */
    void (*pack_a[2])(int64_t m, int64_t k, const void *a, int64_t lda, void *packed);
    /* c = alpha * acc + beta * c, rounded once; beta 0 does not read c. */
    void (*finish)(int64_t m, int64_t n, double alpha, const void *acc, int64_t ld, double beta, gr_dtype c_dt, void *c,
                   int64_t ldc);
};

/* --- Operand B of a driver -------------------------------------------------------------------------------------- */

/* Where B comes from: memory (gr_gemm) or a stored matrix (gr_matrix). `scratch` belongs to the calling thread. */
typedef struct gr_product_b gr_product_b;
struct gr_product_b {
    /* Dot form: pointers to rows n0..n0+nc-1 (K elements each), decoded into scratch or where they stand. */
    void (*rows)(const gr_product_b *b, int64_t n0, int64_t nc, const void **ptrs, void *scratch);
    /* Dot form, or NULL: whether rows n0 to n0 + 15 can be decoded by tiles, and from where. scratch: as for 16 rows. */
    bool (*stored)(const gr_product_b *b, int64_t n0, gr_tile_source *from, void *scratch);
    /* Outer form: packs columns n0..n0+nc-1 of rows k0..k0+kc-1 into a panel of `width` columns: GR_PANEL, or on tiles any. */
    void (*panel)(const gr_product_b *b, int64_t k0, int64_t kc, int64_t n0, int64_t nc, int64_t width, void *panel,
                  void *scratch);
    size_t row_scratch;   /* bytes of scratch for one row of `rows` */
    size_t panel_scratch; /* bytes of scratch for one element of a panel, at least GR_PANEL wide */
    int64_t column_block; /* outer form: columns that are decoded together, a multiple of GR_PANEL */
};

/* Operand A and the result. */
typedef struct gr_product {
    gr_device *d;
    gr_dtype dt; /* of A, and of what B yields */
    int64_t m, n, k;
    const void *a;
    int64_t lda;
    bool trans_a; /* outer form only */
    bool turned;  /* C is (n, m) in memory: outer form on tiles only */
    double alpha, beta;
    gr_dtype c_dt;
    void *c;
    int64_t ldc;
    const gr_row_groups *groups; /* outer form: each group's part of K is a sum of its own, added to C in turn (beta 1) */
} gr_product;

graft_status gr_product_dot(const gr_product *p, const gr_product_b *b, graft_error *err);
graft_status gr_product_outer(const gr_product *p, const gr_product_b *b, graft_error *err);
/* Either, where the level has tile registers. */
graft_status gr_product_tiles(const gr_product *p, const gr_product_b *b, bool dot, graft_error *err);

/* The panel callback's last step. */
static inline void gr_product_pack(const gr_product_kernels *k, int64_t kc, int64_t nc, const void *b, int64_t b_k, int64_t b_j,
                                   int64_t width, void *panel) {
    if (k->tiles)
        k->tiles->pack(kc, nc, b, b_k, b_j, width, panel);
    else
        k->pack_panel(kc, nc, b, b_k, b_j, panel);
}

#endif
