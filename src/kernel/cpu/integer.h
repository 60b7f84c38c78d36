/* Integer products: y = x W^T with the activations of a row in 8 bits, made on the fly, and sums of codes in
 * int32.
 *
 * Block formats. Activations go in blocks of 32: scale d = max|x| / 127, code = x * (127 / max|x|) to the
 * nearest even. A weight is scale * (code - offset) or scale * code + min, by blocks of 32 or 16 (of the
 * K-quants, scale and min are products of a factor and a small integer, exact in float). An element of y is
 * one chain along K: for each block of the weights y = fma(scale * d, sum of (code - offset) * a, y), then,
 * where there are minima, y = fma(min, d * sum of a, y) whose inner sums are exact. The chain's order depends
 * on nothing, so every level, every number of rows and of threads gives the same bits. As llama.cpp (Q8_0,
 * Q8_1 activations), but for d in float, and for blocks of 32 under K-quants too.
 *
 * INT8: LLM.int8() (Dettmers et al. 2022) as bitsandbytes 0.50 computes it on the CPU, one scale a row of x
 * after rounding to half precision, for each row apart: its elements of at least `threshold` stay as they are
 * and meet decoded weights.
 *
 * CHANNEL8: one scale s a row of x, max|x| / 127.5, or one that is known beforehand: codes x / s to the nearest even,
 * those beyond -128 and 127 become these; y = sum * (s * scale of w). The codes are those of compressed-tensors 0.20
 * in float.
 *
 * A block (INT8, CHANNEL8: a row) that holds anything not finite gives NaN. One whose largest magnitude is below
 * 2^-100 counts as zeros. */
#ifndef GR_KERNEL_CPU_INTEGER_H
#define GR_KERNEL_CPU_INTEGER_H

#include "kernel/kernel.h"

enum {
    GR_INT_LANES = 16,        /* outputs that are computed at once */
    GR_INT_BLOCK = 32,        /* activations that share a scale */
    GR_INT_STRIP = 1024,      /* elements of K that are unpacked at once: whole blocks of every format */
    GR_INT_LARGEST_K = 131008 /* whose sums of codes of 8 bits fit int32 */
};

/* How a stored format looks to these products; `elements` 0: there are none. */
typedef struct gr_int_format {
    int elements; /* of a block: 32 or 16; of INT8 and CHANNEL8 32, without scales */
    int offset;   /* of codes, which are stored as 0 .. largest */
    int largest;
    bool mins;
} gr_int_format;
const gr_int_format *gr_int_format_get(gr_dtype dtype);

/* Activations of some rows. d, ds and start have an element for each block of the weights: the block's scale,
 * scale times sum of codes, and -offset times sum of codes (of `elements` codes each). */
typedef struct gr_int_rows {
    int8_t *q; /* rows of ld codes, zero after K, which is rounded up to blocks of 32 */
    int64_t ld;
    float *d, *ds;
    int32_t *start;
    int64_t step; /* from block to block; neighbours are the same block of the next row */
} gr_int_rows;

/* Sixteen outputs of at most GR_INT_STRIP elements of K: codes [K / 4][16][4], scales and minima [block][16].
 */
typedef struct gr_int_panel {
    uint8_t *q;
    float *d, *m;
} gr_int_panel;

/* Unpacks elements k .. k + n - 1 (whole stored blocks; of INT8 and CHANNEL8 any k % 4 == 0, and zero codes up to a
 * multiple of 32) of 16 rows. */
typedef void (*gr_int_unpack_fn)(const uint8_t *const *rows, int64_t k, int64_t n, const gr_int_panel *to);

typedef struct gr_int_kernels {
    gr_int_unpack_fn unpack[GR_DTYPE_COUNT];
    /* Row `row` of activations, n elements of type dt (F32, BF16). */
    void (*quantize)(const gr_int_format *f, gr_dtype dt, int64_t n, const void *x, const gr_int_rows *to,
                     int64_t row);
    /* Codes of x[i] * by, |x[i] * by| < 127.5, n a multiple of 32 (INT8). */
    void (*round_row)(int64_t n, const float *x, float by, int8_t *q);
    /* Codes of x[i] / scale, a positive normal number whose inverse is one too, within -128 .. 127; n a multiple of
     * 32 (CHANNEL8). */
    void (*divide_row)(int64_t n, const float *x, float scale, int8_t *q);
    /* The largest magnitude's bits, from 0x7F800000 on where anything is not finite; n a multiple of 32. */
    uint32_t (*largest)(int64_t n, const float *x);
    /* c (m, 16) = or += m rows of a, from block `block` on, times `blocks` blocks of the panel. */
    void (*multiply)(const gr_int_format *f, int64_t m, int64_t block, int64_t blocks, const gr_int_rows *a,
                     const gr_int_panel *p, float *c, bool add);
    /* The sums alone: c (m, 16) = or += codes at q, n (a multiple of 32) of them, times (panel's codes -
     * 128). */
    void (*accumulate)(int64_t m, int64_t n, const int8_t *q, int64_t ld, const gr_int_panel *p, int32_t *c,
                       bool add);
} gr_int_kernels;

#if defined(__x86_64__)
/* For rows that fill no tile (integer_amx.c). */
void gr_int_multiply_avx512vnni(const gr_int_format *f, int64_t m, int64_t block, int64_t blocks, const gr_int_rows *a,
                                const gr_int_panel *p, float *c, bool add);
void gr_int_accumulate_avx512vnni(int64_t m, int64_t n, const int8_t *q, int64_t ld, const gr_int_panel *p, int32_t *c,
                                  bool add);
#endif

/* What gr_matrix_forward hands over: outputs 0 .. n - 1 of one format. */
typedef struct gr_int_product {
    gr_device *d;
    gr_dtype stored, dt; /* of the weights; of x */
    int64_t m, n, k;
    const void *x;
    int64_t x_ld;
    gr_dtype y_dt;
    void *y;
    int64_t y_ld;
    bool add;
    float threshold; /* INT8: 0: no outliers */
    float input;     /* CHANNEL8: the scale of x; 0: each row has its own */
    const void *owner;
    /* Stored rows of n outputs from j on, how long a row is, and the scale of output j (INT8, CHANNEL8). */
    void (*rows)(const void *owner, int64_t j, int64_t n, const uint8_t **rows);
    int64_t row_bytes;
    float (*scale)(const void *owner, int64_t j);
} gr_int_product;
graft_status gr_int_forward(const gr_int_product *p, graft_error *err);

/* Magnitudes that count as zero. */
#define GR_INT_ZERO 0x1p-100f

/* --- What the levels share ---------------------------------------------------------------------------------------- */

/* Where code of element e of output `lane` stands. */
static inline int64_t gr_int_place(int64_t e, int lane) {
    return (e / 4 * GR_INT_LANES + lane) * 4 + e % 4;
}

#endif
