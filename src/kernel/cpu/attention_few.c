/* Attention of few queries on blocks of keys as they lie in memory: a step that makes a token. What it costs is to read keys and values
 * once, so that nothing is packed but the queries, and values, whose pairs tile registers want beside each other. */
#include "kernel/cpu/attention_item.h"

typedef gr_attention_item item;

const gr_kv_segment *gr_few_lies_whole(const item *t) {
    const gr_kv_segment *seg = &t->seq->segments[t->seg0];
    if (!t->few || t->n_keys < GR_KEYS || t->key0 + GR_KEYS > t->first0 + seg->n) return NULL;
    return seg->format == GR_KV_COMPUTED || (seg->format == GR_KV_INT8 && t->cpu->tile[GR_Q8_0].decode) ? seg : NULL;
}

static const uint8_t *blocks_at(const item *t, const gr_kv_segment *seg, bool values, int64_t key) {
    const int64_t row = (t->key0 - t->first0 + key) * (values ? seg->v_ld : seg->k_ld);
    return (const uint8_t *)(values ? seg->v : seg->k) +
           (row + t->kv_head * gr_kv_head_step(seg->format, t->dim, seg->head)) * GR_KV_BLOCK_BYTES;
}

/* (GR_KEYS, GR_FEW) = K q_few, turned. */
void gr_few_scores(const item *t, const gr_kv_segment *seg) {
    const gr_tile_kernels *k = t->k->tiles;
    const int64_t col = t->kv_head * gr_kv_head_step(seg->format, t->dim, seg->head);
    if (seg->format == GR_KV_COMPUTED)
        k->multiply(GR_KEYS, GR_FEW, t->dim, gr_at_const(seg->k, t->a->dt, (t->key0 - t->first0) * seg->k_ld + col),
                    seg->k_ld * (int64_t)t->packed, t->w.q_few, GR_FEW, t->w.s_t, GR_FEW, false);
    for (int64_t j = 0; seg->format == GR_KV_INT8 && j < GR_KEYS; j += GR_FEW) {
        const gr_tile_source from = {.blocks = blocks_at(t, seg, false, j), .row_bytes = seg->k_ld * GR_KV_BLOCK_BYTES,
                                     .block_bytes = GR_KV_BLOCK_BYTES, .steps = 1, .ops = &t->cpu->tile[GR_Q8_0]};
        k->multiply_stored(GR_FEW, t->dim / GR_KV_BLOCK, &from, t->w.q_few, t->w.s_t + j * GR_FEW, GR_FEW);
    }
    k->turn(GR_KEYS, GR_FEW, t->w.s_t, GR_FEW, t->w.s, GR_KEYS);
}

/* A block's columns at a time. */
void gr_few_values(const item *t, const gr_kv_segment *seg) {
    const int64_t panel = GR_KEYS * GR_PANEL * (int64_t)t->packed, ld = seg->v_ld * GR_KV_BLOCK_BYTES;
    const gr_tile_ops *ops = &t->cpu->tile[GR_Q8_0];
    float scales[GR_TILE_SCALES];
    for (int64_t c = 0; c < t->dim; c += GR_KV_BLOCK) {
        uint16_t *to = (uint16_t *)(void *)t->w.values;
        for (int64_t j = 0; j < GR_KEYS; j += GR_FEW) {
            const uint8_t *from = blocks_at(t, seg, true, j) + c / GR_KV_BLOCK * GR_KV_BLOCK_BYTES;
            ops->scales(from, ld, 1, scales);
            ops->decode(from, ld, 0, scales, to + j * GR_KV_BLOCK);
        }
        t->k->tiles->pack(GR_KEYS, GR_KV_BLOCK, to, GR_KV_BLOCK, 1, GR_PANEL,
                          t->w.v_panels + c / GR_PANEL * panel + c % GR_PANEL / GR_FEW * (GR_FEW * GR_STEP * (int64_t)t->packed));
    }
}

/* A step of few rows waits for memory. The processor's own prefetching knows nothing of the next block, which lies elsewhere. */
void gr_few_fetch_next(const item *t) {
    const gr_kv_segment *seg = &t->seq->segments[t->seg0];
    int64_t row = t->key0 + GR_KEYS - t->first0;
    if (row >= seg->n) row -= seg++->n;
    if (seg >= t->seq->segments + t->seq->n_segments) return;
    const bool blocks = seg->format == GR_KV_INT8;
    const int64_t size = blocks ? GR_KV_BLOCK_BYTES : (int64_t)gr_type_size(seg->format == GR_KV_BF16 ? GR_BF16 : t->a->dt);
    const int64_t head = size * gr_kv_head_size(seg->format, t->dim), col = t->kv_head * size * gr_kv_head_step(seg->format, t->dim, seg->head);
    for (int64_t end = GR_MIN(row + GR_KEYS, seg->n); row < end; row++) {
        const char *k = (const char *)seg->k + row * seg->k_ld * size + col;
        const char *v = (const char *)seg->v + row * seg->v_ld * size + col;
        for (int64_t b = 0; b < head; b += 64) {
            __builtin_prefetch(k + b, 0, 2);
            __builtin_prefetch(v + b, 0, 2);
        }
    }
}

