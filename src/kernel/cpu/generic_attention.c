/* Portable attention (generic_attention.h) for F32, BF16 and F64, and the scratch that every level is given. */
#include <math.h>

#include "kernel/cpu/attention.h"

/* Which keys of a block a row of q keeps. */
static void find_kept(const gr_attention *a, int64_t row, int head, int64_t block, bool *keep) {
    const uint32_t threshold = gr_dropout_threshold(a->drop.p);
    const uint64_t stream = gr_attention_drop_stream(a, head, block);
    for (int i = 0; i < GR_DROP_KEYS; i += 4) {
        uint32_t draw[4];
        gr_rng_draw4(a->drop.seed, gr_dropout_stream(stream, (uint64_t)i / 4), gr_attention_drop_key(a, row), draw);
        for (int k = 0; k < 4; k++) keep[i + k] = draw[k] >= threshold;
    }
}

/* The factor of the probability of key n, which come in order; `keep` holds those of its block. */
static double drop_factor(const gr_attention *a, int64_t row, int head, int64_t n, bool *keep) {
    if (!(a->drop.p > 0)) return 1;
    if (n % GR_DROP_KEYS == 0) find_kept(a, row, head, n / GR_DROP_KEYS, keep);
    return keep[n % GR_DROP_KEYS] ? 1 / (1 - a->drop.p) : 0;
}

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)

#define NAME(x) PASTE(x, f32)
#define T float
#define S float
#define LOAD(t) (t)
#define STORE(s) (s)
#define EXP expf
#define LOG logf
#include "kernel/cpu/generic_attention.h"
#undef NAME
#undef T
#undef LOAD
#undef STORE

#define NAME(x) PASTE(x, bf16)
#define T uint16_t
#define LOAD(t) gr_bf16_to_f32(t)
#define STORE(s) gr_f32_to_bf16(s)
#include "kernel/cpu/generic_attention.h"
#undef NAME
#undef T
#undef S
#undef LOAD
#undef STORE
#undef EXP
#undef LOG

#define NAME(x) PASTE(x, f64)
#define T double
#define S double
#define LOAD(t) (t)
#define STORE(s) (s)
#define EXP exp
#define LOG log
#include "kernel/cpu/generic_attention.h"

size_t gr_attention_thread_scratch(const gr_attention *a, bool backward) {
    size_t keys = 0, dim = (size_t)a->head_dim;
    for (int s = 0; s < a->n_seqs; s++) keys = GR_MAX(keys, (size_t)gr_attention_keys(&a->seqs[s]));
    size_t group = (size_t)(a->n_heads / a->n_kv_heads);
    size_t n = backward ? keys * dim * 2 + dim + group * gr_bias_span(a) : keys + 2 * dim;
    size_t bytes = gr_round64(n * (a->dt == GR_F64 ? sizeof(double) : sizeof(float)));
    return GR_MAX(bytes, gr_attention_blocks_scratch(a, backward));
}

size_t gr_attention_scratch(const gr_attention *a, int n_threads, bool backward) {
    return gr_bias_bytes(a) + gr_attention_thread_scratch(a, backward) * (size_t)GR_MAX(n_threads, 1);
}

bool gr_attention_backward_shares(const gr_attention *a) {
    for (int s = 0; s < a->n_seqs; s++)
        for (int i = 0; i < a->seqs[s].n_segments; i++) {
            const gr_kv_segment *seg = &a->seqs[s].segments[i];
            if (seg->add && (seg->dk || seg->dv)) return a->n_seqs > 1;
        }
    return false;
}

typedef struct job {
    const gr_attention *a;
    size_t per_thread;
    bool shares;
} job;

static void *scratch_of(const job *w, int thread) {
    return (char *)w->a->scratch + gr_bias_bytes(w->a) + w->per_thread * (size_t)thread;
}

/* Item: one sequence and head. */
static void forward_item(void *arg, size_t begin, size_t end, int thread) {
    const job *w = arg;
    const gr_attention *a = w->a;
    for (size_t item = begin; item < end; item++) {
        const gr_attention_seq *seq = &a->seqs[item / (size_t)a->n_heads];
        int head = (int)(item % (size_t)a->n_heads);
        int64_t keys = gr_attention_keys(seq);
        double *wide = scratch_of(w, thread);
        float *narrow = scratch_of(w, thread);
        for (int64_t i = 0; i < seq->q_len; i++) {
            if (a->dt == GR_F64)
                forward_row_f64(a, seq, head, i, wide, wide + keys, wide + keys + a->head_dim);
            else if (a->dt == GR_F32)
                forward_row_f32(a, seq, head, i, narrow, narrow + keys, narrow + keys + a->head_dim);
            else
                forward_row_bf16(a, seq, head, i, narrow, narrow + keys, (uint16_t *)(void *)(narrow + keys + a->head_dim));
        }
    }
}

void gr_attention_generic(gr_device *d, const gr_attention *a) {
    job w = {.a = a, .per_thread = gr_attention_thread_scratch(a, false)};
    if (a->bias.table) gr_bias_spread(a);
    gr_parallel_for(d->team, (size_t)a->n_seqs * (size_t)a->n_heads, 1, forward_item, &w);
}

static void backward_head(const gr_attention *a, const gr_attention_seq *seq, int kv_head, void *scratch) {
    if (a->dt == GR_F64)
        backward_head_f64(a, seq, kv_head, scratch);
    else if (a->dt == GR_F32)
        backward_head_f32(a, seq, kv_head, scratch);
    else
        backward_head_bf16(a, seq, kv_head, scratch);
}

/* Item: one key/value head of one sequence, or of all sequences in turn where they share gradient rows. */
static void backward_item(void *arg, size_t begin, size_t end, int thread) {
    const job *w = arg;
    const gr_attention *a = w->a;
    size_t heads = (size_t)a->n_kv_heads;
    for (size_t item = begin; item < end; item++) {
        size_t first = w->shares ? 0 : item / heads, last = w->shares ? (size_t)a->n_seqs : first + 1;
        for (size_t s = first; s < last; s++)
            backward_head(a, &a->seqs[s], (int)(item % heads), scratch_of(w, thread));
    }
}

void gr_attention_backward_generic(gr_device *d, const gr_attention *a) {
    job w = {.a = a, .per_thread = gr_attention_thread_scratch(a, true), .shares = gr_attention_backward_shares(a)};
    if (a->bias.table) gr_bias_spread(a);
    size_t seqs = w.shares ? 1 : (size_t)a->n_seqs;
    gr_parallel_for(d->team, seqs * (size_t)a->n_kv_heads, 1, backward_item, &w);
}

void gr_cpu_fill_generic_attention(gr_cpu_kernels *k) {
    k->attention = gr_attention_generic;
    k->attention_backward = gr_attention_backward_generic;
}
