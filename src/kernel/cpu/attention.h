/* Attention: what the portable and the vector versions share. */
#ifndef GR_KERNEL_CPU_ATTENTION_H
#define GR_KERNEL_CPU_ATTENTION_H

#include "kernel/cpu/cpu.h"

static inline bool gr_attention_visible(const gr_attention *a, const gr_kv_segment *seg, int64_t row, int64_t q_pos) {
    int64_t pos = seg->pos + row;
    return seg->always || ((!a->causal || pos <= q_pos) && (a->window <= 0 || q_pos - pos < a->window));
}

static inline int64_t gr_attention_keys(const gr_attention_seq *seq) {
    int64_t n = 0;
    for (int s = 0; s < seq->n_segments; s++) n += seq->segments[s].n;
    return n;
}

/* The position bias spread out by distance stands at the head of the scratch, the threads' scratch behind it: distances
 * -max_distance - GR_BIAS_MARGIN to max_distance + GR_BIAS_MARGIN - 1, so that the bias of up to GR_BIAS_MARGIN keys in order
 * is a stretch of it wherever they lie. First the bucket of each, then (n_heads, gr_bias_span) of the table's type. */
enum { GR_BIAS_MARGIN = 64 };
static inline size_t gr_bias_span(const gr_attention *a) {
    return a->bias.table ? 2 * ((size_t)a->bias.max_distance + GR_BIAS_MARGIN) : 0;
}
static inline size_t gr_bias_map_bytes(const gr_attention *a) {
    return gr_round64(gr_bias_span(a) * sizeof(int32_t));
}
static inline const void *gr_bias_of_head(const gr_attention *a, int head) {
    return gr_at_const((const char *)a->scratch + gr_bias_map_bytes(a), gr_param_type(a->dt),
                       (int64_t)((size_t)head * gr_bias_span(a)));
}
/* Where a stretch that begins at this distance begins. */
static inline int64_t gr_bias_at(const gr_attention *a, int64_t distance) {
    const int64_t most = a->bias.max_distance;
    return GR_MAX(GR_MIN(distance, most), -most - GR_BIAS_MARGIN) + most + GR_BIAS_MARGIN;
}
/* Bytes of all that, a multiple of 64. */
size_t gr_bias_bytes(const gr_attention *a);
/* Fills it. */
void gr_bias_spread(const gr_attention *a);
/* The gradient of sequence s and one head, summed up by distance, goes into dtable. */
void gr_bias_gather(const gr_attention *a, int64_t s, int head, const void *by_distance);

/* Dropout goes by blocks of keys, each with a stream of its own of the row kernels' dropout (cpu.h). */
enum { GR_DROP_KEYS = 64 };
static inline uint64_t gr_attention_drop_key(const gr_attention *a, int64_t row) {
    return a->drop.key ? a->drop.key[row] : (uint64_t)row;
}
static inline uint64_t gr_attention_drop_stream(const gr_attention *a, int head, int64_t block) {
    return a->drop.stream ^ (((uint64_t)head + 1) << 32 | (uint64_t)block) * 0xD6E8FEB86659FD93u;
}

/* One head of row j of a segment's keys or values, decoded to `to` in the compute type. */
void gr_kept_row(const gr_cpu_kernels *k, const gr_attention *a, const gr_kv_segment *seg, bool values, int kv_head, int64_t j,
                 void *to);

/* Scratch of one thread, a multiple of 64 bytes: what any level needs. */
size_t gr_attention_thread_scratch(const gr_attention *a, bool backward);
size_t gr_attention_blocks_scratch(const gr_attention *a, bool backward); /* of attention.c */

/* Attention in blocks (attention.c) and the portable one, which also serves F64. */
void gr_attention_blocks(gr_device *d, const gr_attention *a);
void gr_attention_backward_blocks(gr_device *d, const gr_attention *a);
void gr_attention_generic(gr_device *d, const gr_attention *a);
void gr_attention_backward_generic(gr_device *d, const gr_attention *a);

/* What a level provides for attention in blocks: see simd_attention.h. `p`, `ds` have the packed type of the level's
 * products; `lanes` has up to 16 floats. */
struct gr_attention_rows {
    float (*softmax_row)(int64_t n, const float *s, uint64_t seen, uint64_t kept, float scale, const float *bias, float *max,
                         float *lanes, void *p);
    void (*grad_row)(int64_t n, const float *s, const float *dp, uint64_t seen, uint64_t kept, float factor, float scale,
                     const float *bias, float lse, float delta, void *p, void *ds, float *dbias);
};

/* True when one gradient row may be written from several sequences: these must then follow one another. */
bool gr_attention_backward_shares(const gr_attention *a);

#endif
