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
    float (*softmax_row)(int64_t n, const float *s, uint64_t seen, float scale, float *max, float *lanes, void *p);
    void (*grad_row)(int64_t n, const float *s, const float *dp, uint64_t seen, float scale, float lse, float delta, void *p,
                     void *ds);
};

/* True when one gradient row may be written from several sequences: these must then follow one another. */
bool gr_attention_backward_shares(const gr_attention *a);

#endif
