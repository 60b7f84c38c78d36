/* Low-rank updates of frozen factors: what the driver (low_rank.c) and the kernels of tile registers (low_rank_amx.c)
 * share. */
#ifndef GR_KERNEL_CPU_LOW_RANK_H
#define GR_KERNEL_CPU_LOW_RANK_H

#include "kernel/cpu/product.h"

enum {
    GR_LOW_RANK_ROWS = 32,     /* of x that go through the factors together */
    GR_LOW_RANK_COLUMNS = 256, /* of y that are computed together */
    GR_LOW_RANK_GROUP = 4,     /* single rows that go from x to u together */
    GR_LOW_RANK_STEP = 32      /* u of a pair begins at a multiple of it; zeros behind the rank */
};

typedef struct gr_low_rank_part {
    int64_t rank, out, column;
    int64_t at;     /* first row in the stacked A */
    int64_t u_at;   /* first column in u */
    size_t b_bytes; /* where B begins, from `data` on */
} gr_low_rank_part;

struct gr_low_rank {
    gr_device *d;
    gr_dtype dt;
    int64_t in, rank, u_width; /* rank: of all parts */
    int n_parts;
    gr_low_rank_part part[GR_LOW_RANK_PAIRS];
    const gr_low_rank_kernels *k;
    size_t bytes;
    char *data; /* the stacked A, then each part's B */
    bool lent;  /* data is the caller's */
};

/* `space` is the calling thread's, gr_low_rank_space bytes that only these kernels write between begin and end. Up to
 * GR_LOW_RANK_ROWS rows. */
struct gr_low_rank_kernels {
    size_t (*a_bytes)(const gr_low_rank *f);
    size_t (*b_bytes)(const gr_low_rank *f, int64_t rank, int64_t out);
    void (*pack_a)(const gr_low_rank *f, const void *a);           /* (rank, in) in dt */
    void (*pack_b)(const gr_low_rank *f, int part, const void *b); /* (out, rank) in dt */
    void (*begin)(void *space);
    void (*end)(void);
    /* Columns of the stacked A that are computed together; u = x A^T for columns begin .. end-1, begin a multiple of
     * it. */
    int64_t (*unit)(const gr_low_rank *f);
    void (*down)(const gr_low_rank *f, int64_t m, const void *x, int64_t x_ld, int64_t begin, int64_t end, void *u,
                 void *space);
    /* The same, all columns, for a row each of up to GR_LOW_RANK_GROUP factors of one rank. NULL: one by one. */
    void (*down_rows)(int n, const gr_low_rank *const *f, const void *const *x, void *const *u, void *space);
    /* y += scale u B^T for the part's outputs begin .. end-1, begin a multiple of GR_PANEL; y: the rows' output 0. */
    void (*up)(const gr_low_rank *f, int part, int64_t m, const void *u, double scale, int64_t begin, int64_t end,
               void *y, int64_t y_ld, void *space);
};

/* First 64 bytes for begin, sums, rows of x padded to whole steps. */
enum { GR_LOW_RANK_SUMS = 64 + GR_LOW_RANK_ROWS * GR_LOW_RANK_COLUMNS * 8 };
static inline size_t gr_low_rank_space(const gr_low_rank *f) {
    const int64_t in = (f->in + GR_LOW_RANK_STEP - 1) / GR_LOW_RANK_STEP * GR_LOW_RANK_STEP;
    return GR_LOW_RANK_SUMS + (size_t)(GR_LOW_RANK_ROWS * GR_MAX(in, (int64_t)GR_PANEL)) * sizeof(float);
}

/* Sums of `n` columns of the stacked A from `begin` on, to u in dt. */
void gr_low_rank_put(const gr_low_rank *f, int64_t m, int64_t begin, int64_t n, const void *sums, int64_t ld, void *u);

#endif
