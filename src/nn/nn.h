/* Room 6, nn: what model families are built of. Linear products, norms, embeddings and attention at seams, over a
 * ragged batch. Each function applies ops to the tape and calls the hooks that belong to its place. Where one gives a
 * variable the caller has one reference to it; x is never dropped. After a failure the tape is to be reset. */
#ifndef GR_NN_H
#define GR_NN_H

#include "nn/batch.h"
#include "nn/rope.h"
#include "nn/seam.h"

/* Places at[i], ascending, where row id[i] of an adapter's own rows stands. */
typedef struct gr_own_rows {
    int64_t n;
    const int32_t *at, *id;
} gr_own_rows;

/* Row ranges of one adapter in a pass; n_ranges 0: all rows. */
typedef struct gr_run_adapter {
    int32_t index;
    int n_ranges;
    const gr_row_range *ranges;
    /* Where every token is in flight: its virtual input rows among the tokens (negative ids), and its key/value rows among all
     * sequences' (gr_run.prefix_bounds, gr_run.gated_bounds). */
    gr_own_rows input, prefix, gated;
} gr_run_adapter;

/* A running pass. Hooks read it; everything in it lives until the backward is done. */
struct gr_run {
    gr_tape *tape;
    bool is_source; /* the rows are those of a batch's source */
    const gr_batch *batch;
    const gr_hooks *hooks; /* NULL: the bare model */
    /* Rows in flight: n_rows rows, sequence s of the batch is bounds[s] .. bounds[s+1]-1; row r is token `token[r]` of
     * the batch (NULL: row r is token r). */
    int64_t n_rows;
    const int32_t *bounds;
    const int32_t *token;
    const int32_t *ids;          /* of every token of the batch, 0 in place of negative ones */
    const uint64_t *dropout_key; /* of each row in flight; NULL: the row number */
    const int32_t *prefix_bounds; /* n_seqs + 1: sequence s has rows prefix_bounds[s] .. prefix_bounds[s+1]-1 of the key/value
                                     rows that adapters put in front; NULL: there are none */
    const int32_t *gated_bounds;  /* the same of rows that the gated attention sees */
    const gr_attention_rows *gated_seqs; /* sequences of that attention */
    int n_adapters;              /* that have rows in flight */
    const gr_run_adapter *adapters;
};

/* A leaf over a parameter, or over a constant of n elements of the parameters' type. */
graft_status gr_nn_leaf(gr_tape *t, const gr_param *p, gr_var **out, graft_error *err);
graft_status gr_nn_constant(gr_tape *t, gr_dtype dt, int64_t n, void *data, gr_var **out, graft_error *err);

/* Rows of the table for the batch's ids, (n_tokens, size); rows of negative ids are whatever the hook puts there. */
graft_status gr_nn_embedding(gr_run *run, const gr_embedding *e, gr_var **out, graft_error *err);

/* *x += rows ids[0 .. n_rows-1] of a table. */
graft_status gr_nn_add_table(gr_run *run, const gr_embedding *table, const int32_t *ids, gr_var **x, graft_error *err);

/* y = x W^T + bias, then the hooks' deltas and scales: (rows, out). */
graft_status gr_nn_linear(gr_run *run, const gr_linear *l, gr_var *x, gr_var **out, graft_error *err);

/* What the hooks add to the head for rows x; see gr_hooks.head. */
graft_status gr_nn_head_updates(gr_run *run, const gr_linear *head, gr_var *x, gr_head_update *out, int *n,
                                graft_error *err);
/* A leaf over the head's bias; *out is NULL where it has none. */
graft_status gr_nn_head_bias(gr_run *run, const gr_linear *head, gr_var **out, graft_error *err);
/* Logits in F32 (F64) of rows begin .. begin+n-1 of x, which are the rows in flight; n < 0: of all. `room`: gr_nn_logits_room
 * bytes, until the backward is done; NULL where n < 0. */
size_t gr_nn_logits_room(const gr_run *run, int64_t n);
graft_status gr_nn_logits(gr_run *run, const gr_linear *head, gr_var *x, int64_t begin, int64_t n, void *room,
                          gr_var **out, graft_error *err);

graft_status gr_nn_norm(gr_run *run, const gr_norm *n, double eps, gr_var *x, gr_var **out, graft_error *err);

/* a + b; takes over the caller's reference to *a and gives the sum there. */
graft_status gr_nn_add(gr_run *run, gr_var **a, gr_var *b, graft_error *err);

/* SwiGLU over fused (gate, up) rows, with the hooks' scale of the down projection's input. */
graft_status gr_nn_swiglu(gr_run *run, gr_var *gate_up, const gr_linear *down, gr_var **out, graft_error *err);
/* The same with another function than SiLU. */
graft_status gr_nn_gated(gr_run *run, gr_activation f, gr_var *gate_up, const gr_linear *down, gr_var **out,
                         graft_error *err);
/* The same of a plain activation function over up rows, in place; takes over the caller's reference to *up.
 * `down` NULL: no down projection follows. */
graft_status gr_nn_activate(gr_run *run, gr_activation f, gr_var **up, const gr_linear *down, graft_error *err);

/* Columns of *x times the n constants at `factors`, in place. */
graft_status gr_nn_scale(gr_run *run, int64_t n, void *factors, gr_var **x, graft_error *err);

/* Dropout of the rows in flight while training, in place. `stream` tells it from others of the pass. */
graft_status gr_nn_dropout(gr_run *run, double p, uint64_t stream, gr_var **x, graft_error *err);

struct gr_nn_attention {
    int layer; /* among those that have a history */
    int n_heads, n_kv_heads, head_dim;
    double scale;
    bool causal;
    int64_t window;                /* 0: none */
    const gr_bias_table *bias;     /* NULL: none */
    bool bias_bidirectional;
    int bias_max_distance;
    const gr_norm *q_norm, *k_norm; /* NULL: none */
    double eps;
    const void *cos_sin;           /* NULL: no rotation */
    const gr_attention_rows *seqs; /* of the batch in this layer */
    double dropout;                /* of the weights while training */
    /* Where what the gated attention gives is added behind the output product (as the reference has it for gpt2): it is put
     * here, NULL where there is none. NULL: it is added in front of that product. */
    gr_var **gated;
};

/* Head norms, rotation, copies into the KV targets of the batch, attention, hooks; over fused (q, k, v) rows, whose
 * reference is taken over. out: (n_tokens, n_heads * head_dim). */
graft_status gr_nn_attend(gr_run *run, const gr_nn_attention *a, gr_var **qkv, gr_var **out, graft_error *err);
/* Attention of rows q, whose reference is taken over, over rows of a source that hold keys, then values (kv NULL: all
 * that a->seqs see is history). */
graft_status gr_nn_attend_across(gr_run *run, const gr_nn_attention *a, gr_var **q, gr_var *kv, gr_var **out,
                                 graft_error *err);
/* Copies keys, which begin at column k_column of every row in flight, and the values behind them into the KV targets.
 */
void gr_nn_keep_rows(gr_run *run, const gr_nn_attention *a, const gr_var *rows, int64_t k_column);

#endif
