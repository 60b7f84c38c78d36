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

/* Scratch of one thread, a multiple of 64 bytes. */
size_t gr_attention_thread_scratch(const gr_attention *a, bool backward);

/* True when one gradient row may be written from several sequences: these must then follow one another. */
bool gr_attention_backward_shares(const gr_attention *a);

#endif
