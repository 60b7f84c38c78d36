/* Room 3, kernel: the device table. Everything that touches many numbers goes through gr_kernels, filled per device and
 * CPU level; rooms above never see an instruction set or (later) CUDA.
 *
 * Arrays are row-major; `ld` is the distance between rows in elements. `dt` is the compute type of activations: F32,
 * BF16 or F64 (F64 only in the portable kernels, for gradient checks). Sums are kept in float (double for F64) and
 * rounded once. Parameters and their gradients are F32 (F64 when dt is F64).
 *
 * Same bits: an output element does not depend on the number of threads, nor on which other rows are in the call. */
#ifndef GR_KERNEL_H
#define GR_KERNEL_H

#include "quant/scaled.h"
#include "tensor/tensor.h"

typedef enum gr_cpu_level { GR_CPU_GENERIC, GR_CPU_AVX2, GR_CPU_AVX512, GR_CPU_AVX512BF16, GR_CPU_AMX, GR_CPU_LEVEL_COUNT } gr_cpu_level;

/* X(NAME): tanh(x); max(x, 0); x Phi(x) with the normal distribution's Phi (Hendrycks & Gimpel 2016); that with tanh in
 * place of erf, which transformers calls gelu_new and gelu_pytorch_tanh; x sigmoid(x); x sigmoid(1.702 x). */
#define GR_ACTIVATIONS(X) X(TANH) X(RELU) X(GELU) X(GELU_TANH) X(SILU) X(QUICK_GELU)
#define GR_ACTIVATION_NAME(name) GR_ACTIVATION_##name,
typedef enum gr_activation { GR_ACTIVATIONS(GR_ACTIVATION_NAME) GR_ACTIVATION_COUNT } gr_activation;

/* Whether the gradient is computed from f(x) instead of x. */
static inline bool gr_activation_keeps_output(gr_activation f) {
    return f == GR_ACTIVATION_TANH || f == GR_ACTIVATION_RELU;
}

typedef struct gr_kernels gr_kernels;

typedef struct gr_device {
    graft_context *ctx;
    int n_threads;
    gr_team *team;
    gr_cpu_level level; /* the best that CPU and ctx->cpu (GRAFT_CPU in the program) allow */
    bool fast_bf16;     /* bf16 products in hardware: the default compute type is then BF16, else F32 */
    const gr_kernels *k;
    size_t *noted; /* NULL, but where products only note the workspace that they would take (kernel/workspace.c) */
} gr_device;

/* The context's device, made at the first call and owned by the context. */
graft_status gr_device_get(graft_context *ctx, gr_device **out, graft_error *err);
/* "avx512bf16", "amx" and so on. */
const char *gr_cpu_level_name(gr_cpu_level level);

/* n values as n codes and one absmax for every GR_DYNAMIC_BLOCK of them (quant/scaled.h). */
typedef struct gr_moment_8bit {
    const gr_dynamic_code *code;
    uint8_t *codes;
    float *absmax;
} gr_moment_8bit;

/* --- Attention over ragged sequences --------------------------------------------------------------------------- */

/* How rows of keys and values are kept. INT8: each head of a row is blocks of 32 elements in GR_Q8_0, the last one filled up
 * with zeros; what attention computes with are the decoded floats, rounded to the compute type. */
typedef enum gr_kv_format { GR_KV_COMPUTED, GR_KV_BF16, GR_KV_INT8 } gr_kv_format; /* COMPUTED: in the compute type */

enum { GR_KV_BLOCK = 32, GR_KV_BLOCK_BYTES = 34 };
static inline int64_t gr_kv_head_blocks(int64_t head_dim) { return (head_dim + GR_KV_BLOCK - 1) / GR_KV_BLOCK; }
/* A head's part of a row in elements, of INT8 in blocks, and the distance between heads. */
static inline int64_t gr_kv_head_size(gr_kv_format f, int64_t head_dim) {
    return f == GR_KV_INT8 ? gr_kv_head_blocks(head_dim) : head_dim;
}
static inline int64_t gr_kv_head_step(gr_kv_format f, int64_t head_dim, int64_t head) {
    return head ? head : gr_kv_head_size(f, head_dim);
}
/* Bytes of a row of n_heads heads. */
static inline size_t gr_kv_row_bytes(gr_dtype dt, gr_kv_format f, int64_t n_heads, int64_t head_dim) {
    if (f == GR_KV_INT8) return (size_t)(n_heads * gr_kv_head_blocks(head_dim)) * GR_KV_BLOCK_BYTES;
    return gr_dtype_bytes(f == GR_KV_BF16 ? GR_BF16 : dt, (size_t)(n_heads * head_dim));
}

/* A run of key/value rows of one sequence: its own new rows, its history in a cache, a prefix shared with other
 * sequences, or virtual rows of an adapter. */
typedef struct gr_kv_segment {
    gr_kv_format format;
    const void *k, *v;
    int64_t k_ld, v_ld; /* in elements; of INT8 in blocks */
    int64_t head;       /* distance between the heads of a row, likewise; 0: they lie side by side */
    int64_t n;       /* rows */
    int64_t pos;     /* position of row 0 within the sequence */
    bool always;     /* visible from every query, whatever mask or window (virtual rows) */
    void *dk, *dv;   /* backward: gradient rows with ld dk_ld/dv_ld; NULL: not wanted */
    int64_t dk_ld, dv_ld;
    bool add;        /* backward: add to dk, dv instead of writing them */
} gr_kv_segment; /* the backward takes COMPUTED only */

typedef struct gr_attention_seq {
    int64_t q_begin, q_len; /* rows of q, out and lse */
    int64_t q_pos;          /* position of the first query row within the sequence */
    int n_segments;
    gr_kv_segment *segments; /* in order of position */
} gr_attention_seq;

/* A bias by relative position (Raffel et al. 2020, T5), added to the scaled products: table[bucket][head], the bucket a
 * function of key position - query position. Half of a direction's buckets are single distances, the others grow by a factor
 * up to max_distance; the last one holds all that is further. */
typedef struct gr_position_bias {
    const void *table; /* (buckets, n_heads) F32 (F64); NULL: no bias */
    int buckets;
    int max_distance;   /* more than the single distances, at most GR_BIAS_DISTANCE */
    bool bidirectional; /* half of the buckets are for keys behind the query; else those share the bucket of distance 0 */
    void *dtable;       /* backward: (n_seqs, buckets, n_heads) F32 (F64), each sequence's own, written; NULL: not wanted */
} gr_position_bias;

enum { GR_BIAS_DISTANCE = 65536 };
/* As transformers 5.23, T5Attention._relative_position_bucket, in float as there. */
int gr_position_bucket(const gr_position_bias *b, int64_t distance);

/* Dropout of probabilities (Srivastava et al. 2014) where p > 0: those of key j of a sequence, counted through its segments, are 0
 * or divided by 1 - p, as a function of (seed, stream, head, key[row], j). */
typedef struct gr_attention_dropout {
    double p; /* < 1 */
    uint64_t seed, stream;
    const uint64_t *key; /* identity of each row of q; NULL: its number */
} gr_attention_dropout;

typedef struct gr_attention {
    gr_dtype dt;
    int n_heads, n_kv_heads, head_dim;
    double scale;     /* of q.k, 1/sqrt(head_dim) for Llama */
    bool causal;      /* key position <= query position */
    int64_t window;   /* > 0: query position - key position < window */
    gr_position_bias bias;
    gr_attention_dropout drop;
    const void *q;
    int64_t q_ld;
    void *out;        /* (rows, n_heads * head_dim) */
    int64_t out_ld;
    float *lse;       /* (rows, n_heads) log of the softmax denominator, natural; NULL: not wanted. double when dt is F64 */
    int n_seqs;
    const gr_attention_seq *seqs;
    /* backward */
    const void *dout; /* as out */
    int64_t dout_ld;
    void *dq;         /* as q, ld dq_ld; written, not added */
    int64_t dq_ld;
    /* both */
    void *scratch;    /* gr_attention_scratch bytes, 64-byte aligned */
} gr_attention;

/* Bytes of scratch that attention (backward: attention_backward) needs on n_threads threads: linear in the keys of the
 * longest sequence. Reads the sizes in `a` and its segments, no data. */
size_t gr_attention_scratch(const gr_attention *a, int n_threads, bool backward);

/* --- The table -------------------------------------------------------------------------------------------------- */

struct gr_kernels {
    /* to[i] = from[i], between F32, F64, F16 and BF16. */
    void (*convert)(gr_device *d, gr_dtype from_dt, const void *from, gr_dtype to_dt, void *to, int64_t n);
    /* out = a + b; out may be a or b. */
    void (*add)(gr_device *d, gr_dtype dt, int64_t n, const void *a, const void *b, void *out);
    /* y = alpha * x, or y += alpha * x. */
    void (*scale)(gr_device *d, gr_dtype dt, int64_t n, double alpha, const void *x, void *y, bool add);
    /* x[r][c] += bias[c]. */
    void (*bias_add)(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, void *x, int64_t ld, const void *bias);
    /* sum[c] += x[0][c] + x[1][c] + ..., one row after the other, so that splitting the rows over calls gives the same
     * bits. sum is F32 (F64). */
    void (*column_sum)(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *x, int64_t ld, void *sum);

    /* y[r][c] = x[r][c] * w[c] + shift[c], w and shift F32 (F64); shift NULL: none; y may be x. */
    void (*mul_columns)(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *x, int64_t x_ld, const void *w,
                        const void *shift, void *y, int64_t y_ld);
    /* sum[c] += a[0][c] b[0][c] + a[1][c] b[1][c] + ..., one row after the other. sum is F32 (F64). */
    void (*mul_column_sum)(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *a, int64_t a_ld, const void *b,
                           int64_t b_ld, void *sum);

    /* y = f(x), y may be x. */
    void (*activation)(gr_device *d, gr_dtype dt, gr_activation f, int64_t n, const void *x, void *y);
    /* dx = dy f'(x); kept: f(x) where gr_activation_keeps_output, else x; dx may be dy or kept. */
    void (*activation_backward)(gr_device *d, gr_dtype dt, gr_activation f, int64_t n, const void *kept, const void *dy,
                                void *dx);
    /* One step of an LSTM of size n (Hochreiter & Schmidhuber 1997, gates as torch orders them: i, f, g, o). gates (4n):
     * sums before their functions, after them when it returns. c = f c_prev + i g, h = o tanh(c); c_prev NULL: zeros. */
    void (*lstm_cell)(gr_device *d, gr_dtype dt, int64_t n, void *gates, const void *c_prev, void *c, void *h);
    /* dgates: of the sums; dc: gradient of c from later steps, replaced by that of c_prev. */
    void (*lstm_cell_backward)(gr_device *d, gr_dtype dt, int64_t n, const void *gates, const void *c_prev, const void *c,
                               const void *dh, void *dc, void *dgates);

    /* y = x * w / sqrt(mean(x^2) + eps), a group of `cols` at a time (Zhang & Sennrich 2019). rstd (rows) is kept for
     * the backward. Also for q/k head norms: rows = tokens, groups > 1 norms groups side by side with one w. */
    void (*rmsnorm)(gr_device *d, gr_dtype dt, int64_t rows, int groups, int64_t cols, const void *x, int64_t x_ld,
                    const void *w, double eps, void *y, int64_t y_ld, void *rstd);
    /* dx (written, or added when add_dx); dw (cols) += row after row, NULL: not wanted. dx may be dy. */
    void (*rmsnorm_backward)(gr_device *d, gr_dtype dt, int64_t rows, int groups, int64_t cols, const void *x,
                             int64_t x_ld, const void *w, const void *rstd, const void *dy, int64_t dy_ld, void *dx,
                             int64_t dx_ld, bool add_dx, void *dw);

    /* y = (x - mean) rstd w + b, rstd = 1 / sqrt(var + eps) with the variance of the whole row (Ba et al. 2016); b NULL: none.
     * stats (rows, 2): mean and rstd, F32 (F64), for the backward; NULL: not wanted. y may be x. */
    void (*layernorm)(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *x, int64_t x_ld, const void *w,
                      const void *b, double eps, void *y, int64_t y_ld, void *stats);
    /* As rmsnorm_backward; the gradient of b is column_sum's. */
    void (*layernorm_backward)(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *x, int64_t x_ld,
                               const void *w, const void *stats, const void *dy, int64_t dy_ld, void *dx, int64_t dx_ld,
                               bool add_dx, void *dw);

    /* Rotates heads in place: halves (x1, x2) of a head become (x1 c - x2 s, x2 c + x1 s) with s negated for the
     * backward (inverse != 0). cos_sin (rows, head_dim): head_dim/2 cosines then head_dim/2 sines, F32 (F64). */
    void (*rope)(gr_device *d, gr_dtype dt, int64_t rows, int n_heads, int head_dim, void *x, int64_t ld,
                 const void *cos_sin, bool inverse);

    /* out = f(gate) * up (Shazeer 2020, SwiGLU and its relatives). gate and up are column blocks of wider rows. */
    void (*gated)(gr_device *d, gr_dtype dt, gr_activation f, int64_t rows, int64_t cols, const void *gate, const void *up,
                  int64_t ld, void *out, int64_t out_ld);
    /* dgate, dup written; they may be gate and up themselves. */
    void (*gated_backward)(gr_device *d, gr_dtype dt, gr_activation f, int64_t rows, int64_t cols, const void *gate,
                           const void *up, int64_t ld, const void *dout, int64_t dout_ld, void *dgate, void *dup,
                           int64_t d_ld);

    /* Rows of n_heads heads as a segment of that format holds them; what is not finite stays so in its block. */
    void (*keep_kv)(gr_device *d, gr_dtype dt, gr_kv_format format, int64_t rows, int n_heads, int head_dim, const void *x,
                    int64_t x_ld, void *to, int64_t to_ld, int64_t to_head);
    void (*attention)(gr_device *d, const gr_attention *a);
    void (*attention_backward)(gr_device *d, const gr_attention *a); /* needs q, k, v, out, lse, dout */

    /* dtable[ids[r]] += dy[r], row after row. dtable F32 (F64). */
    void (*embedding_backward)(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const int32_t *ids, const void *dy,
                               int64_t ld, void *dtable);

    /* Cross-entropy over a block of logits rows of `vocab` columns (logits_dt F32 or F64). For row r with label l >= 0:
     * lse[r] = log sum exp of the row; loss[r] = lse - logit[l]; hit[r] = the largest logit stands at l (lowest index on
     * a tie). Rows with l < 0 get loss 0, hit 0, lse 0. */
    void (*cross_entropy)(gr_device *d, int64_t rows, int64_t vocab, gr_dtype logits_dt, const void *logits, int64_t ld,
                          const int32_t *labels, double *loss, int32_t *hit, double *lse);
    /* Its gradient for columns first .. first+n-1, whose logits stand at `logits`:
     * dlogits[r] = (softmax - onehot(l)) * weight[r] in dt (may be the logits only when the types are equal), 0 where
     * l < 0. */
    void (*cross_entropy_backward)(gr_device *d, int64_t rows, int64_t first, int64_t n, gr_dtype logits_dt,
                                   const void *logits, int64_t ld, const int32_t *labels, const float *weight,
                                   const double *lse, gr_dtype dt, void *dlogits, int64_t d_ld);

    /* Inverted dropout: y[r][c] = keep ? x[r][c] / (1 - p) : 0, where keep is a function of (seed, stream, key[r], c). The
     * backward is the same call on gradients. y may be x. */
    void (*dropout)(gr_device *d, gr_dtype dt, int64_t rows, int64_t cols, const void *x, int64_t x_ld, void *y,
                    int64_t y_ld, double p, uint64_t seed, uint64_t stream, const uint64_t *key);

    /* Sum of squares in double over fixed blocks. Not finite when any element is not. */
    double (*sum_squares)(gr_device *d, int64_t n, const float *x);
    /* Decoupled weight decay Adam (Loshchilov & Hutter 2019, as torch.optim.AdamW): p, m, v updated in place with
     * gradient g * g_scale; bias1 = 1 - beta1^t, bias2 = 1 - beta2^t. */
    void (*adamw)(gr_device *d, int64_t n, float *p, const float *g, float *m, float *v, double g_scale, double lr,
                  double beta1, double beta2, double eps, double weight_decay, double bias1, double bias2);
    /* The same with both moments in blocks of 8 bits, operation by operation as bitsandbytes 0.50 (plain PyTorch on CPU). */
    void (*adamw_8bit)(gr_device *d, int64_t n, float *p, const float *g, const gr_moment_8bit *m, const gr_moment_8bit *v,
                       double g_scale, double lr, double beta1, double beta2, double eps, double weight_decay, double bias1,
                       double bias2);
};

/* --- Dense products --------------------------------------------------------------------------------------------- */

/* C (M,N) = alpha * op(A) op(B) + beta * C, row-major; thin shapes (rank-r factors) have kernels of their own.
 * op(A) is (M,K). ab_dt is A's and B's type, c_dt C's (F32 for bf16 sums kept whole). beta 0 or 1. Every element of C is
 * one fixed-order sum, whatever M and the number of threads. */
graft_status gr_gemm(gr_device *d, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, double alpha, gr_dtype ab_dt,
                     const void *a, int64_t lda, const void *b, int64_t ldb, double beta, gr_dtype c_dt, void *c,
                     int64_t ldc, graft_error *err);

/* Row groups of a sum over rows: group g is rows bounds[g] - origin .. bounds[g+1] - origin - 1, cut to the rows there are.
 * n 0: all rows are one. */
typedef struct gr_row_groups {
    int n;
    const int32_t *bounds;
    int64_t origin;
} gr_row_groups;
/* C (M,N) += alpha A^T B group after group, A (rows,M), B (rows,N): each group's sum is made apart and added whole, as one
 * gr_gemm a group would do. C is of the parameters' type. */
graft_status gr_gemm_groups(gr_device *d, int64_t rows, int64_t m, int64_t n, double alpha, gr_dtype ab_dt, const void *a,
                            int64_t lda, const void *b, int64_t ldb, void *c, int64_t ldc, const gr_row_groups *groups,
                            graft_error *err);

/* A weight matrix made ready for products with activations: y = x W^T and dx = dy W, W (out, in). Made of one to four
 * parts stacked along `out` (q, k, v; gate, up), from any format that room quant decodes, mapped or in memory. Nothing
 * is packed before the first product that needs it; few rows (decoding) may be served from the stored format itself. */
typedef struct gr_matrix_part {
    gr_tensor_view view; /* (out, in), or (in, out) when transposed */
    int permuted_heads;  /* see gr_weight_row in io/weights.h */
    bool transposed;
    bool integer; /* of this part alone, see gr_matrix_spec */
} gr_matrix_part;

enum { GR_MATRIX_PARTS = 4 };
typedef struct gr_matrix_spec {
    const char *name; /* for errors */
    int n_parts;
    gr_matrix_part part[GR_MATRIX_PARTS];
    gr_dtype dt; /* compute type */
    /* y = x W^T with x in 8 bits and sums of integers (cpu/integer.h), of all parts: where gr_can_multiply_integers says so of them and
     * dt is F32 or BF16; dx = dy W is the same either way. */
    bool integer;
    float outliers; /* of INT8: elements of x of at least this size are left out of the integers; 0: none */
} gr_matrix_spec;
/* Whether integer products exist for a stored format. */
bool gr_can_multiply_integers(gr_dtype stored);

typedef struct gr_matrix gr_matrix;

/* The views' memory must outlive the matrix. */
graft_status gr_matrix_new(gr_device *d, const gr_matrix_spec *spec, gr_matrix **out, graft_error *err);
void gr_matrix_free(gr_matrix *w);
int64_t gr_matrix_out(const gr_matrix *w);
int64_t gr_matrix_in(const gr_matrix *w);
gr_dtype gr_matrix_dtype(const gr_matrix *w);
bool gr_matrix_is_integer(const gr_matrix *w); /* any of its parts */
gr_dtype gr_matrix_stored(const gr_matrix *w); /* of its first part */
/* y (rows, out) = x W^T, or += when add. y_dt is dt or F32. */
graft_status gr_matrix_forward(gr_matrix *w, int64_t rows, const void *x, int64_t x_ld, gr_dtype y_dt, void *y,
                               int64_t y_ld, bool add, graft_error *err);
/* dx (rows, in) = dy W, or += when add; dy and dx of type dt. */
graft_status gr_matrix_backward(gr_matrix *w, int64_t rows, const void *dy, int64_t dy_ld, void *dx, int64_t dx_ld,
                                bool add, graft_error *err);
/* The part of dx that n outputs from `first` on give: dx (rows, in) = dy W[first ..], dy (rows, n); dx_dt is dt or F32. Sums
 * over calls that go through all outputs in order do not depend on the number of rows. */
graft_status gr_matrix_backward_slab(gr_matrix *w, int64_t first, int64_t n, int64_t rows, const void *dy, int64_t dy_ld,
                                     gr_dtype dx_dt, void *dx, int64_t dx_ld, bool add, graft_error *err);
/* out[i] = W[rows[i]] in type out_dt (embedding look-up). Ids must be in range. */
graft_status gr_matrix_gather(gr_matrix *w, int64_t n, const int32_t *rows, gr_dtype out_dt, void *out, int64_t ld,
                              graft_error *err);
/* The parts' memory has changed (training): whatever was packed is packed again before its next use. */
void gr_matrix_changed(gr_matrix *w);
/* Makes ready now what forward (and backward) need for calls of many rows, so that memory is known and no step pays. */
graft_status gr_matrix_prepare(gr_matrix *w, bool forward, bool backward, graft_error *err);
/* Bytes that the matrix owns now (packed copies), and that it would own after gr_matrix_prepare. The workspace of
 * products belongs to the device. */
size_t gr_matrix_bytes(const gr_matrix *w);
size_t gr_matrix_planned_bytes(const gr_matrix *w, bool forward, bool backward);
/* Bytes of the workspace that gr_gemm and gr_matrix_* share on this device: grows to what the largest call so far
 * needed, one to two megabytes a thread. */
size_t gr_device_workspace_bytes(gr_device *d);
/* What it grows to by products of up to `rows` rows with w (whose parts are alike, and without outliers) and with trained values
 * of that shape, forward and backward. */
graft_status gr_matrix_planned_workspace(gr_device *d, const gr_matrix *w, int64_t rows, size_t *bytes,
                                         graft_error *err);

/* --- Low-rank updates of frozen factors ------------------------------------------------------------------------- */

/* Pairs of factors that read the same input: y[:, column ..] += scale (x A^T) B^T, A (rank, in), B (out, rank), F32. */
enum { GR_LOW_RANK_PAIRS = 4 };
typedef struct gr_low_rank_pair {
    int64_t rank, out, column;
    const float *a, *b;
} gr_low_rank_pair;

/* Factors made ready for products with activations of type dt, rounded to it and laid out as the level wants them. A
 * row's sums are those of two gr_gemm, x A^T rounded to dt and then added to y, whatever rows are in the call. */
typedef struct gr_low_rank gr_low_rank;
/* memory: NULL, or gr_low_rank_planned_bytes that the caller keeps, 64-byte aligned; many factors that are read one after the
 * other stand in one piece then. */
graft_status gr_low_rank_new(gr_device *d, gr_dtype dt, int64_t in, int n_pairs, const gr_low_rank_pair *pairs,
                             void *memory, gr_low_rank **out, graft_error *err);
void gr_low_rank_free(gr_low_rank *f);
size_t gr_low_rank_bytes(const gr_low_rank *f);
/* Of the laid out values alone, a multiple of 64; the pairs' values are not read. */
graft_status gr_low_rank_planned_bytes(gr_device *d, gr_dtype dt, int64_t in, int n_pairs,
                                       const gr_low_rank_pair *pairs, size_t *bytes, graft_error *err);

/* Rows begin .. end-1 take the update of these factors. */
typedef struct gr_low_rank_use {
    const gr_low_rank *f;
    double scale[GR_LOW_RANK_PAIRS];
    int64_t begin, end;
} gr_low_rank_use;
/* All uses in one parallel loop. They have one type and width of x, and no row in common. */
graft_status gr_low_rank_apply(gr_device *d, int n, const gr_low_rank_use *uses, const void *x, int64_t x_ld, void *y,
                               int64_t y_ld, graft_error *err);

#endif
