/* Inside of room kernel, CPU: what a level provides and what the drivers share.
 *
 * A level fills row kernels (one row, or one stretch of elements) and block products. The drivers (drive.c,
 * attention.c, gemm.c, matrix.c) cut the work into items that do not depend on the number of threads and call them, so
 * that every level works in the same order and only the arithmetic inside a row differs. */
#ifndef GR_KERNEL_CPU_H
#define GR_KERNEL_CPU_H

#include "kernel/cpu/integer.h"
#include "kernel/kernel.h"
#include "quant/scaled.h"

/* Activations are F32, BF16 or F64; tables by compute type are indexed by gr_type_index. */
enum { GR_TYPE_F32, GR_TYPE_BF16, GR_TYPE_F64, GR_TYPE_COUNT };
static inline int gr_type_index(gr_dtype dt) {
    return dt == GR_F32 ? GR_TYPE_F32 : dt == GR_BF16 ? GR_TYPE_BF16 : GR_TYPE_F64;
}
static inline size_t gr_type_size(gr_dtype dt) { return dt == GR_F32 ? 4 : dt == GR_BF16 || dt == GR_F16 ? 2 : 8; }
/* Element i of an array of that type. */
static inline void *gr_at(void *p, gr_dtype dt, int64_t i) { return (char *)p + i * (int64_t)gr_type_size(dt); }
static inline const void *gr_at_const(const void *p, gr_dtype dt, int64_t i) {
    return (const char *)p + i * (int64_t)gr_type_size(dt);
}
/* Type of parameters and sums beside activations of type dt. */
static inline gr_dtype gr_param_type(gr_dtype dt) { return dt == GR_F64 ? GR_F64 : GR_F32; }

/* Row kernels of one compute type. Arrays are of that type; "param" marks float (double for F64). Arguments mean what
 * they mean in kernel.h. */
typedef struct gr_row_kernels {
    void (*add)(int64_t n, const void *a, const void *b, void *out);
    void (*scale)(int64_t n, double alpha, const void *x, void *y, bool add);
    void (*bias_add)(int64_t n, void *x, const void *bias /* param */);
    void (*mul)(int64_t n, const void *x, const void *w, const void *shift /* param; NULL: none */, void *y);
    void (*column_sum)(int64_t rows, int64_t cols, const void *x, int64_t ld, void *sum /* param */);
    double (*rmsnorm)(int64_t n, const void *x, const void *w /* param */, double eps, void *y); /* returns rstd */
    void (*rmsnorm_backward)(int64_t n, const void *x, const void *w, double rstd, const void *dy, void *dx, bool add);
    void (*rmsnorm_dw)(int64_t n, const void *x, double rstd, const void *dy, void *dw /* param */);
    /* stats: mean and rstd, of the parameters' type */
    void (*layernorm)(int64_t n, const void *x, const void *w, const void *b /* param or NULL */, double eps, void *y,
                      void *stats);
    void (*layernorm_backward)(int64_t n, const void *x, const void *w, const void *stats, const void *dy, void *dx, bool add);
    void (*layernorm_dw)(int64_t n, const void *x, const void *stats, const void *dy, void *dw /* param */);
    void (*rope)(int half, void *x, const void *cos, const void *sin /* param */, bool inverse); /* one head */
    void (*activation)(gr_activation f, int64_t n, const void *x, void *y);
    void (*activation_backward)(gr_activation f, int64_t n, const void *kept, const void *dy, void *dx);
    void (*gated)(gr_activation f, int64_t n, const void *gate, const void *up, void *out);
    void (*gated_backward)(gr_activation f, int64_t n, const void *gate, const void *up, const void *dout, void *dgate,
                           void *dup);
    void (*accumulate)(int64_t n, const void *x, void *sum /* param */); /* sum += x */
    void (*dropout)(int64_t n, const void *x, void *y, double p, uint64_t seed, uint64_t stream, uint64_t key);
    uint64_t (*dropout_bits)(double p, uint64_t seed, uint64_t stream, uint64_t key); /* which of 64 elements it keeps */
    /* log(sum(exp(x))), and where the largest value first stands */
    double (*log_sum_exp)(int64_t n, const void *x /* param */, int64_t *at);
    /* out = exp(x - lse) * weight; out may be x when the types are equal */
    void (*softmax_grad)(int64_t n, const void *x /* param */, double lse, double weight, void *out);
} gr_row_kernels;

/* Coefficients of adamw as torch's update has them, rounded to float once. */
typedef struct gr_adamw_coef {
    float g_scale, decay; /* decay = 1 - lr * weight_decay */
    float beta1_weight;   /* 1 - beta1, of the interpolation m + w (g - m) */
    float beta2, beta2_weight;
    float step; /* -lr / bias1 */
    float bias2_root, eps;
    float beta1; /* of adamw_fused, m = beta1 m + (1 - beta1) g */
} gr_adamw_coef;

typedef struct gr_product_kernels gr_product_kernels; /* product.h */
typedef struct gr_attention_rows gr_attention_rows;   /* attention.h */
typedef struct gr_low_rank_kernels gr_low_rank_kernels; /* low_rank.h */

/* Decoders of tiles, 16 rows whose blocks stand `row_bytes` apart. */
enum { GR_TILE_SCALES = 512 };
typedef struct gr_tile_ops {
    /* Scales (and minima) of `blocks` blocks one after the other, `floats` a block. NULL: none, or they stand apart. Apart from
     * `decode` and some blocks ahead of it, which would wait for them otherwise. */
    void (*scales)(const uint8_t *b, int64_t row_bytes, int blocks, float *to);
    int floats;
    /* Elements 32 `step` to 32 `step` + 31 of a block, to 16 x 32; scales: the block's. */
    void (*decode)(const uint8_t *b, int64_t row_bytes, int step, const float *scales, uint16_t *out);
    /* The same of steps `step`, an even one, and `step` + 1, to 2 x 16 x 32, where they share bytes or scales; else NULL. */
    void (*two)(const uint8_t *b, int64_t row_bytes, int step, const float *scales, uint16_t *out);
} gr_tile_ops;
/* Scales first + r * row + b of rows r = 0 .. 15 and blocks b = 0 .. blocks - 1, to [block][16]. False: one of them could give
 * subnormal values, which decoders of tiles do not make. */
typedef bool (*gr_tile_scales_fn)(const gr_scales *s, int64_t first, int64_t row, int64_t blocks, float *out);

typedef struct gr_cpu_kernels {
    const gr_row_kernels *rows[GR_TYPE_COUNT];
    const gr_product_kernels *products[GR_TYPE_COUNT];
    const gr_low_rank_kernels *low_rank; /* of BF16; NULL: those over `products` */
    gr_dequantize_fn to_f32[GR_DTYPE_COUNT]; /* decoders of stored formats, NULL where there is none; bits as in */
    gr_dequantize_bf16_fn to_bf16[GR_DTYPE_COUNT]; /* room quant */
    gr_scaled_ops scaled[GR_DTYPE_COUNT]; /* the same of formats whose scales stand apart */
    gr_tile_ops tile[GR_DTYPE_COUNT]; /* to BF16, the bits of to_bf16; NULL where there is none */
    gr_tile_scales_fn tile_scales;
    gr_int_kernels integer; /* products of activations in 8 bits */
    void (*convert)(gr_dtype from_dt, const void *from, gr_dtype to_dt, void *to, int64_t n);
    double (*sum_squares)(int64_t n, const float *x);
    void (*adamw)(int64_t n, float *p, const float *g, float *m, float *v, const gr_adamw_coef *c);
    void (*adamw_fused)(int64_t n, float *p, const float *g, float *m, float *v, const gr_adamw_coef *c); /* of adamw_8bit */
    const gr_attention_rows *attention_rows[GR_TYPE_COUNT]; /* NULL: the portable attention is used */
    void (*attention)(gr_device *d, const gr_attention *a);
    void (*attention_backward)(gr_device *d, const gr_attention *a);
} gr_cpu_kernels;

/* Between any two of F32, F64, F16 and BF16. */
void gr_generic_convert(gr_dtype from_dt, const void *from, gr_dtype to_dt, void *to, int64_t n);

/* Each overwrites the entries that it does better than the level below. */
void gr_cpu_fill_generic(gr_cpu_kernels *k);
#if defined(__x86_64__)
void gr_cpu_fill_avx2(gr_cpu_kernels *k);
void gr_cpu_fill_avx512(gr_cpu_kernels *k);
void gr_cpu_fill_avx512bf16(gr_cpu_kernels *k);
void gr_cpu_fill_amx(gr_cpu_kernels *k);
/* parts of these: products_*.c, attention_*.c, decode_*.c */
void gr_cpu_fill_avx2_products(gr_cpu_kernels *k);
void gr_cpu_fill_avx512_products(gr_cpu_kernels *k);
void gr_cpu_fill_avx512bf16_products(gr_cpu_kernels *k);
void gr_cpu_fill_avx2_attention(gr_cpu_kernels *k);
void gr_cpu_fill_avx2_decode(gr_cpu_kernels *k);
void gr_cpu_fill_avx2_integer(gr_cpu_kernels *k);
void gr_cpu_fill_avx512vnni_integer(gr_cpu_kernels *k);
void gr_cpu_fill_amx_integer(gr_cpu_kernels *k); /* needs VNNI too */
void gr_cpu_fill_amx_low_rank(gr_cpu_kernels *k);
void gr_cpu_fill_avx512_attention(gr_cpu_kernels *k);
void gr_cpu_fill_avx512_decode(gr_cpu_kernels *k);
void gr_cpu_fill_avx512bf16_attention(gr_cpu_kernels *k);
void gr_cpu_fill_avx512bf16_decode(gr_cpu_kernels *k);
void gr_cpu_fill_avx512bf16_tiles(gr_cpu_kernels *k);
#endif
void gr_cpu_fill_generic_attention(gr_cpu_kernels *k); /* called by gr_cpu_fill_generic */
void gr_cpu_fill_generic_products(gr_cpu_kernels *k);  /* likewise */
void gr_cpu_fill_generic_integer(gr_cpu_kernels *k);

/* Called by decoders where they begin to read `bytes` bytes: the processor's own prefetching ends with a page, which is decoded
 * in less time than memory takes to answer. Beyond the end of a matrix this fetches nothing, or some lines in vain. */
enum { GR_FETCH_AHEAD = 4096 };
static inline void gr_fetch_ahead(const void *at, int bytes) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch((const void *)((uintptr_t)at + GR_FETCH_AHEAD + (uintptr_t)i));
}

/* Workspace of products. One is kept between calls; calls at the same time make their own. */
typedef struct gr_workspace {
    size_t bytes;
    _Alignas(64) char data[];
} gr_workspace;

typedef struct gr_cpu_device {
    gr_device base; /* first: a gr_device of this room is one of these */
    gr_cpu_kernels cpu;
    _Atomic(gr_workspace *) workspace;
} gr_cpu_device;

graft_status gr_workspace_take(gr_device *d, size_t bytes, gr_workspace **out, graft_error *err);
void gr_workspace_give(gr_device *d, gr_workspace *w);

static inline const gr_cpu_kernels *gr_cpu(const gr_device *d) { return &((const gr_cpu_device *)(const void *)d)->cpu; }

/* Entries of the device table in files of their own: kept_rows.c, columns.c, gates.c. */
void gr_cpu_keep_kv(gr_device *d, gr_dtype dt, gr_kv_format format, int64_t rows, int n_heads, int head_dim, const void *x,
                    int64_t x_ld, void *to, int64_t to_ld, int64_t to_head);
void gr_cpu_lstm_cell(gr_device *d, gr_dtype dt, int64_t n, void *gates, const void *c_prev, void *c, void *h);
void gr_cpu_lstm_cell_backward(gr_device *d, gr_dtype dt, int64_t n, const void *gates, const void *c_prev, const void *c,
                               const void *dh, void *dc, void *dgates);
void gr_cpu_mul_columns(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *x, int64_t x_ld, const void *w,
                        const void *shift, void *y, int64_t y_ld);
void gr_cpu_mul_column_sum(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *a, int64_t a_ld, const void *b,
                           int64_t b_ld, void *sum);

/* The device table over the row kernels. */
extern const gr_kernels gr_cpu_table;

/* Dropout: element c of row `key` is dropped when its 32-bit draw is below the threshold. Four elements share a Philox
 * block, whose counter is the row's key and whose stream is the op's stream turned by the column block. */
static inline uint32_t gr_dropout_threshold(double p) {
    double t = p * 0x1p32;
    return t >= 0x1p32 - 1 ? UINT32_MAX : t <= 0 ? 0 : (uint32_t)t;
}
static inline uint64_t gr_dropout_stream(uint64_t stream, uint64_t block) {
    return stream ^ block * 0x9E3779B97F4A7C15u;
}

#endif
