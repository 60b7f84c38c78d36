/* Parameters, inputs and outputs of every op. T rows (tokens), dt the activations' type; a parameter is F32, or F64 where
 * dt is F64. Optional inputs may be NULL in gr_tape_apply. Arrays that the structs point to are borrowed until the backward
 * is done. Shapes that do not fit are GRAFT_ERR_MISMATCH, with the op, the input, what was expected and found. */
#ifndef GR_OP_PARAMS_H
#define GR_OP_PARAMS_H

#include "op/op.h"

/* gr_op_embedding: y[t] = scale * table[ids[t]].
 * in 0 (optional): the table (V,C) as a parameter, only its gradient matters. out: (n,C) in the table's compute type. */
typedef struct gr_embedding_params {
    gr_matrix *table;
    int64_t n;
    const int32_t *ids; /* n, each 0 <= id < V (else GRAFT_ERR_ARGUMENT) */
    double scale;       /* 0 means 1 */
    bool has_pad;       /* look-ups of pad_id give the table no gradient (padding_idx of torch's nn.Embedding) */
    int32_t pad_id;
} gr_embedding_params;

/* gr_op_linear: y = x W^T, W (N,K) of up to GR_MATRIX_PARTS parts stacked along N.
 * in 0: x (T,K). in 1 .. 4 (optional): weight of part i as a parameter (n_i,K), or (K,n_i) where transposed; only its
 * gradient matters. out: (T,N) in dt, or in F32 (F64) with `wide`: logits. */
typedef struct gr_linear_params {
    gr_matrix *w;
    int64_t column[GR_MATRIX_PARTS]; /* first output column of part i, read where in 1 + i is given */
    bool transposed[GR_MATRIX_PARTS];
    bool wide;
} gr_linear_params;

/* gr_op_bias: y[:, column .. column+n-1] = x[...] + b, other columns as they are; in place.
 * in 0: x (T,N); in 1: b (n), parameter. */
typedef struct gr_bias_params {
    int64_t column;
} gr_bias_params;

/* gr_op_rmsnorm: y = x / sqrt(mean(x^2) + eps) * w. in 0: x (T,C); in 1: w (C), parameter. out: (T,C). */
typedef struct gr_rmsnorm_params {
    double eps;
} gr_rmsnorm_params;

/* gr_op_layernorm: y = (x - mean(x)) / sqrt(var(x) + eps) * w + b. in 0: x (T,C); in 1: w (C), parameter; in 2 (optional): b
 * (C), parameter. out: (T,C). */
typedef struct gr_layernorm_params {
    double eps;
} gr_layernorm_params;

/* gr_op_qkv_norm: every q head (columns 0 .. n_heads*head_dim-1) and k head (the n_kv_heads*head_dim columns after) of a
 * fused row is rms-normed by itself, all q heads with one weight and all k heads with another (Qwen3); further columns stay;
 * in place. in 0: (T,W); in 1: q weight (head_dim); in 2: k weight (head_dim). */
typedef struct gr_qkv_norm_params {
    int n_heads, n_kv_heads, head_dim;
    double eps;
} gr_qkv_norm_params;

/* gr_op_rope: rotates n_heads heads of head_dim columns that begin at `column`, halves paired (x_i, x_{i+head_dim/2}),
 * other columns stay; in place. Fused rows: n_heads + n_kv_heads heads from column 0 are q and k. in 0: (T,W). */
typedef struct gr_rope_params {
    int64_t column;
    int n_heads, head_dim;
    const void *cos_sin; /* (T, head_dim) F32 (F64): of each row head_dim/2 cosines, then head_dim/2 sines */
} gr_rope_params;

/* A run of key/value rows of in 1 and in 2 that a sequence sees. */
typedef struct gr_kv_rows {
    int64_t begin, n;
    int64_t pos; /* position of the first within the sequence */
} gr_kv_rows;

/* One sequence of an attention. What it sees, in this order: its virtual rows (which stand in front of place 0, under the
 * same mask and window), its history, its rows. */
typedef struct gr_attention_rows {
    int64_t q_begin, q_len; /* rows of in 0 */
    int64_t q_pos;          /* position of the first */
    int n_rows;             /* most often 1: the sequence itself, n = q_len; more where it continues other sequences of the
                               batch (the ones it shares a prefix with, in order of position) */
    const gr_kv_rows *rows;
    int n_history;          /* runs outside the tape (a cache); dk and dv must be NULL */
    const gr_kv_segment *history;
    int64_t virtual_begin, virtual_len; /* rows of in 3 and in 4 */
} gr_attention_rows;

/* gr_op_attention: out = softmax(scale * q k^T + bias under mask and window) v for each head, keys and values of kv head
 * h * n_kv_heads / n_heads.
 * in 0: rows that hold q (n_heads * head_dim columns from q_column); in 1 and in 2: rows that hold k and v; one fused
 * variable may be all three. in 3 and in 4 (optional): virtual k and v rows (P, n_kv_heads * head_dim). in 5 (optional): table
 * of a bias by relative position (buckets, n_heads), parameter (gr_position_bias); virtual row i has position i - virtual_len.
 * out: (rows of in 0, n_heads * head_dim); rows that belong to no sequence are zero. A query that sees nothing gives 0.
 * Each row of in 0 belongs to at most one sequence; rows of in 1 to 4 may be seen by several, whose gradients are then
 * added in the order of the sequences. */
typedef struct gr_attention_params {
    int n_heads, n_kv_heads, head_dim;
    int64_t q_column, k_column, v_column;
    double scale;
    bool causal;    /* key position <= query position */
    int64_t window; /* > 0: query position - key position < window */
    bool bias_bidirectional; /* of in 5 */
    int bias_max_distance;
    double dropout;      /* of the probabilities, 0: none; see gr_attention_dropout */
    uint64_t seed, stream;
    const uint64_t *key; /* identity of each row of q; NULL: its number */
    int n_seqs;
    const gr_attention_rows *seqs; /* needed in a dry tape too */
} gr_attention_params;

/* gr_op_swiglu: y = f(gate) * up. in 0: (T,2F), gate then up; out: (T,F). Without parameters f is SILU. */
typedef struct gr_swiglu_params {
    gr_activation f;
} gr_swiglu_params;

/* gr_op_add: y = a + b; in place of a. in 0, in 1: same type and shape. No parameters. */

typedef struct gr_row_range {
    int64_t begin, end;
} gr_row_range;

enum { GR_LORA_PAIRS = 3 };

/* gr_op_lora: y[r, column_i .. column_i + n_i - 1] += scale_i * drop_i(x[r]) A_i^T B_i^T for the covered rows r and up to
 * three pairs (q, k, v; gate, up); other rows and columns stay; in place. in 0: y (T,N); in 1: x (T,K); in 2 + 2i: A_i
 * (r_i,K), parameter; in 3 + 2i: B_i (n_i,r_i), parameter; a pair whose two inputs are NULL is absent. */
typedef struct gr_lora_params {
    int64_t column[GR_LORA_PAIRS];
    double scale[GR_LORA_PAIRS];
    int n_ranges;               /* 0: all rows */
    const gr_row_range *ranges; /* ascending, disjoint */
    double dropout;             /* 0: none. Inverted dropout of x, per pair */
    uint64_t seed, stream[GR_LORA_PAIRS];
    const uint64_t *key;        /* T: identity of each row; NULL: the row number */
} gr_lora_params;

/* gr_op_dora: y[r, column .. column+n-1] += (c - 1) x'[r] W^T + c scale x'[r] A^T B^T for the covered rows r, x' = drop(x) and W (n,K);
 * other rows and columns stay; in place. in 0: y (T,N); in 1: x (T,K); in 2: A (r,K), in 3: B (n,r), in 4: c (n); parameters. */
typedef struct gr_dora_params {
    gr_matrix *w;
    int64_t column;
    double scale;
    int n_ranges;               /* 0: all rows */
    const gr_row_range *ranges; /* ascending, disjoint */
    double dropout;             /* inverted dropout of x */
    uint64_t seed, stream;
    const uint64_t *key;        /* T: identity of each row; NULL: the row number */
} gr_dora_params;

/* gr_op_low_rank: y = x + u B^T; in place of x. in 0: x (T,N) of the activations' type or of the parameters' (logits); in 1:
 * u (T,r); in 2: B (N,r), parameter. No parameters. */

/* gr_op_pick_columns: u[t] = scale * A[:, ids[t]] for the covered rows t, 0 for others: the first factor of a low-rank
 * update of a look-up. in 0: A (r,V), parameter. out: (n,r) in dt. */
typedef struct gr_pick_columns_params {
    gr_dtype dt;
    double scale;
    int64_t n;
    const int32_t *ids;         /* n, each 0 <= id < V (else GRAFT_ERR_ARGUMENT) */
    bool has_pad;               /* pad_id gives A no gradient */
    int32_t pad_id;
    int n_ranges;               /* 0: all rows */
    const gr_row_range *ranges; /* ascending, disjoint */
} gr_pick_columns_params;

/* gr_op_scale_columns: y[r, column .. column+n-1] = l * x[r, ...] + t for the covered rows r; other rows and columns stay; in
 * place. in 0: x (T,N); in 1: l (n), parameter; in 2 (optional): t (n), parameter. */
typedef struct gr_scale_columns_params {
    int64_t column;
    int n_ranges;               /* 0: all rows */
    const gr_row_range *ranges; /* ascending, disjoint */
} gr_scale_columns_params;

/* gr_op_rotate: y[r, column .. column+n-1] += x[r] D W^T for the covered rows r, D a block diagonal and W (n,K); other rows and
 * columns stay; in place. in 0: y (T,N); in 1: x (T,K); in 2: the blocks (K,b), one below the other, or (b,b), one for all;
 * parameter. */
typedef struct gr_rotate_params {
    gr_matrix *w;
    int64_t column;
    int n_ranges;               /* 0: all rows */
    const gr_row_range *ranges; /* ascending, disjoint */
} gr_rotate_params;

/* gr_op_put_rows: y[at[i]] = table[id[i] * stride + offset] for i < n, other rows y = x; in place. in 0 (optional): x (T,C),
 * absent: zeros; in 1: table (P,C), parameter, or not trained in the type of out. out: (T,C). */
typedef struct gr_put_rows_params {
    gr_dtype dt;    /* where in 0 is absent: type and rows */
    int64_t rows;
    int64_t n;
    const int32_t *at; /* n, ascending */
    const int32_t *id; /* n; table rows outside are GRAFT_ERR_ARGUMENT */
    int64_t stride, offset;
} gr_put_rows_params;

/* gr_op_affine: y = x W^T + b with W and b parameters as they stand (small networks; a model's weights go through
 * gr_op_linear). in 0: x (T,K); in 1: W (N,K), parameter; in 2 (optional): b (N), parameter. out: (T,N). No params. */

/* gr_op_activation: y = f(x); in place where the backward needs no x (gr_activation_keeps_output). in 0: x (T,C). */
typedef struct gr_activation_params {
    gr_activation f;
} gr_activation_params;

/* gr_op_gated_add: y = x + factor * g * u on the covered rows; in place of x. in 0: x (T,C); in 1: u (T,C); in 2: g (1),
 * parameter. */
typedef struct gr_gated_add_params {
    double factor;
    int n_ranges;               /* 0: all rows */
    const gr_row_range *ranges; /* ascending, disjoint */
} gr_gated_add_params;

/* gr_op_join_columns: y = [a, b]. in 0: a (T,A); in 1: b (T,B). out: (T,A+B). No parameters. */

/* gr_op_lstm: hidden states of an LSTM that reads the rows of x in order, or from the last to the first; it begins with zeros.
 * in 0: x (T,I); in 1: W_ih (4H,I); in 2: W_hh (4H,H); in 3: b_ih (4H); in 4: b_hh (4H); parameters. out: (T,H). */
typedef struct gr_lstm_params {
    bool reverse;
} gr_lstm_params;

/* gr_op_dropout: y[r][c] = keep ? x / (1-p) : 0, keep a function of (seed, stream, key[r], c); in place.
 * in 0: (T,C). */
typedef struct gr_dropout_params {
    double p; /* 0 <= p < 1 */
    uint64_t seed, stream;
    const uint64_t *key; /* T; NULL: the row number */
} gr_dropout_params;

/* gr_op_gather_rows: y[i] = x[rows[i]]. Rows may repeat: their gradients are added in the order of i.
 * in 0: (T,C) of any float type; out: (n,C) of the same. */
typedef struct gr_gather_rows_params {
    int64_t n;
    const int32_t *rows;
} gr_gather_rows_params;

/* gr_op_cross_entropy_head: sum over r of weight[r] * -log softmax(x[r] W^T + b + sum_i u_i[r] B_i^T)[label[r]], chunk by
 * chunk of rows, so that logits are never held for more than a chunk. in 0: x (R,C); in 1 (optional): the head's weight (V,C) as
 * a parameter, only its gradient matters; in 2 + 2i and in 3 + 2i (optional, i < 3): u_i (R,r_i) and B_i (V,r_i), parameter:
 * low-rank updates of the head; in 8 (optional): b (V), parameter; in 9 + i (optional): c (V), parameter: rows of update i have
 * c (x W^T + u_i B_i^T) in place of that sum (DoRA), or with dropout x W^T + (c - 1) x' W^T + c u_i B_i^T, x' = drop(x), which excludes
 * in 1. out: (1) F64. Rows whose label is negative count nothing.
 * The gradient of x is made in the forward, where the logits are; with a trainable head or bias, or updates, the backward makes
 * them again. */
enum { GR_HEAD_UPDATES = 3 };
typedef struct gr_head_rows { /* of an update with a factor, and what drops its input out; rows of two of them are disjoint */
    int n_ranges;             /* 0: all rows */
    const gr_row_range *ranges; /* ascending, disjoint */
    double dropout;           /* 0: none */
    uint64_t stream;
} gr_head_rows;
typedef struct gr_cross_entropy_params {
    gr_matrix *head;
    const int32_t *labels; /* R, below V (else GRAFT_ERR_ARGUMENT) */
    const float *weight;   /* R; NULL: 1 each */
    int64_t chunk;         /* rows at a time; 0: chosen by V */
    double *losses;        /* R, written: -log p of each row, without weight; NULL: not wanted */
    int32_t *hits;         /* R, written: 1 where the largest logit is the label's; NULL: not wanted */
    gr_head_rows update[GR_HEAD_UPDATES];
    uint64_t seed;         /* of dropout */
    const uint64_t *key;   /* R; NULL: the row number */
} gr_cross_entropy_params;

/* gr_op_class_loss: sum over r of weight[r] * loss[r], the losses of transformers' classification heads, for R rows of L
 * logits x: cross-entropy -log softmax(x)[label], rows whose label is negative (-100) count nothing; binary cross-entropy, the
 * mean over the columns of -t log sigmoid(x) - (1 - t) log sigmoid(-x); squares, the mean over the columns of (x - t)^2. The
 * mean over rows is the weights' doing: 1 / R, and 1 / number of labelled rows for cross-entropy.
 * in 0: logits (R,L). out: (1) F64. */
typedef enum gr_class_loss { GR_CLASS_LOSS_CROSS_ENTROPY, GR_CLASS_LOSS_BCE, GR_CLASS_LOSS_MSE } gr_class_loss;
typedef struct gr_class_loss_params {
    gr_class_loss kind;
    const int32_t *labels; /* R, of cross-entropy, below L (else GRAFT_ERR_ARGUMENT) */
    const float *targets;  /* (R,L), of the others */
    const float *weight;   /* R; NULL: 1 each */
    double *losses;        /* R, written, without weight; NULL: not wanted */
    int32_t *hits;         /* R, written: 1 where the largest logit (the first of equals) is the label's, or where each column
                              is positive as its target is above 1/2; 0 for squares; NULL: not wanted */
} gr_class_loss_params;

#endif
