#include <math.h>

#include "support/op_case.h"

/* 4 query heads over 2 key heads of 6. Fused rows hold q, then k, then v. */
enum { H = 4, HKV = 2, D = 6, Q = H * D, KV = HKV * D, VIRTUAL = 2, HISTORY = 3, PICKS = 3 };

typedef struct variant {
    int64_t window, virtual_rows;
    bool causal, fused, history, shared, cross, bias, bidirectional, drops;
} variant;

/* Key and value rows of a cache, of the batch's type. */
static void *history_rows(const op_batch *b) {
    static double wide[HISTORY * 2 * KV];
    static float single[HISTORY * 2 * KV];
    static uint16_t half[HISTORY * 2 * KV];
    for (int i = 0; i < HISTORY * 2 * KV; i++) {
        half[i] = gr_f32_to_bf16((float)op_normal(60, (uint64_t)i));
        wide[i] = single[i] = gr_bf16_to_f32(half[i]);
    }
    return b->dt == GR_F64 ? (void *)wide : b->dt == GR_F32 ? (void *)single : half;
}

/* Identities of the query rows, which no cut of the batch changes. */
static const uint64_t *row_keys(const op_batch *b, bool picks) {
    static uint64_t keys[OP_GROUPS * 64];
    for (int g = 0; g < b->n_groups; g++)
        for (int64_t i = 0, n = picks ? PICKS : b->bounds[g + 1] - b->bounds[g]; i < n; i++)
            keys[picks ? g * PICKS + i : b->bounds[g] + i] = (uint64_t)(b->row0 + b->bounds[g]) * 1000 + (uint64_t)i;
    return keys;
}

static graft_status run(op_batch *b, gr_tape *t, gr_var *const *in, const variant *v, gr_var **out, graft_error *err) {
    static gr_attention_rows seqs[OP_GROUPS];
    static gr_kv_rows rows[OP_GROUPS * 2];
    static gr_kv_segment history;
    gr_attention_params p = {.n_heads = H, .n_kv_heads = HKV, .head_dim = D, .scale = 1 / sqrt(D), .causal = v->causal,
                             .window = v->window, .n_seqs = b->n_groups, .seqs = seqs,
                             .bias_bidirectional = v->bidirectional, .bias_max_distance = 9};
    if (v->drops) {
        p.dropout = 0.25;
        p.seed = 3;
        p.stream = 8;
        p.key = row_keys(b, v->cross);
    }
    if (v->fused) {
        p.k_column = Q;
        p.v_column = Q + KV;
    }
    char *cache = history_rows(b);
    history = (gr_kv_segment){.k = cache, .v = cache + gr_dtype_bytes(b->dt, KV), .k_ld = 2 * KV, .v_ld = 2 * KV, .n = HISTORY};
    for (int g = 0; g < b->n_groups; g++) {
        int64_t begin = b->bounds[g], n = b->bounds[g + 1] - begin, pos = v->history ? HISTORY : 0;
        /* Shared: groups 1 to 3 of each four continue the first. */
        int parent = g / 4 * 4, n_rows = 0;
        if (v->shared && g != parent) {
            int64_t before = b->bounds[parent + 1] - b->bounds[parent];
            rows[2 * g + n_rows++] = (gr_kv_rows){.begin = b->bounds[parent], .n = before, .pos = 0};
            pos = before;
        }
        rows[2 * g + n_rows++] = (gr_kv_rows){.begin = begin, .n = n, .pos = pos};
        seqs[g] = (gr_attention_rows){.q_begin = begin, .q_len = n, .q_pos = pos, .n_rows = n_rows, .rows = &rows[2 * g]};
        if (v->cross) { /* some queries a group over all of its keys */
            seqs[g].q_begin = g * PICKS;
            seqs[g].q_len = PICKS;
        }
        if (v->history) {
            seqs[g].n_history = 1;
            seqs[g].history = &history;
        }
        if (v->virtual_rows) {
            seqs[g].virtual_begin = v->virtual_rows == VIRTUAL ? 0 : g * VIRTUAL;
            seqs[g].virtual_len = VIRTUAL;
        }
    }
    return op_apply(b, t, &gr_op_attention, in, v->bias ? 6 : v->virtual_rows ? 5 : 3, &p, out, err);
}

#define VARIANT(name, ...)                                                                                             \
    static graft_status name(op_batch *b, gr_tape *t, gr_var *const *in, gr_var **out, graft_error *err) {             \
        return run(b, t, in, &(variant){__VA_ARGS__}, out, err);                                                       \
    }
VARIANT(fused, .causal = true, .fused = true)
VARIANT(apart, .causal = false)
VARIANT(windowed, .causal = true, .fused = true, .window = 3)
VARIANT(cached, .causal = true, .fused = true, .history = true)
VARIANT(continued, .causal = true, .fused = true, .shared = true)
VARIANT(own_virtual, .causal = true, .fused = true, .virtual_rows = OP_GROUPS *VIRTUAL)
VARIANT(one_virtual, .causal = true, .fused = true, .virtual_rows = VIRTUAL)
VARIANT(cross, .cross = true)
VARIANT(cross_virtual, .cross = true, .virtual_rows = VIRTUAL)
VARIANT(dropped, .causal = true, .fused = true, .drops = true)
VARIANT(dropped_continued, .causal = true, .fused = true, .shared = true, .bias = true, .drops = true)
VARIANT(dropped_cross, .cross = true, .drops = true)
VARIANT(biased, .causal = true, .fused = true, .bias = true)
VARIANT(biased_both, .fused = true, .bias = true, .bidirectional = true)
VARIANT(biased_cached, .causal = true, .fused = true, .history = true, .bias = true)
VARIANT(biased_continued, .causal = true, .fused = true, .shared = true, .bias = true)
VARIANT(biased_virtual, .causal = true, .virtual_rows = VIRTUAL, .bias = true)

#define APART {OP_ROWS, 0, Q, 0}, {OP_ROWS, 0, KV, 0}, {OP_ROWS, 0, KV, 0}
#define ACROSS {OP_PICKS, 0, Q, 0}, {OP_ROWS, 0, KV, 0}, {OP_ROWS, 0, KV, 0}
#define NO_VIRTUAL {.kind = OP_NONE}, {.kind = OP_NONE}
#define FUSED {OP_ROWS, 0, Q + 2 * KV, 0}, {.kind = OP_SAME}, {.kind = OP_SAME}

const op_case op_cases_attention[] = {
    {.name = "attention, fused rows", .op = &gr_op_attention, .in = {FUSED}, .apply = fused},
    {.name = "attention, not causal",
     .op = &gr_op_attention,
     .in = {APART},
     .apply = apart},
    {.name = "attention, window", .op = &gr_op_attention, .in = {FUSED}, .apply = windowed},
    {.name = "attention, history", .op = &gr_op_attention, .in = {FUSED}, .apply = cached},
    {.name = "attention, shared beginning", .op = &gr_op_attention, .in = {FUSED}, .apply = continued, .step = 4},
    {.name = "attention, virtual rows of each sequence",
     .op = &gr_op_attention,
     .in = {FUSED, {OP_FIXED, OP_GROUPS * VIRTUAL, KV, 0}, {OP_FIXED, OP_GROUPS * VIRTUAL, KV, 0}},
     .apply = own_virtual,
     .step = OP_GROUPS},
    {.name = "attention, virtual rows of all sequences",
     .op = &gr_op_attention,
     .in = {FUSED, {OP_FIXED, VIRTUAL, KV, 0}, {OP_FIXED, VIRTUAL, KV, 0}},
     .apply = one_virtual},
    {.name = "attention across", .op = &gr_op_attention, .in = {ACROSS}, .apply = cross, .picks = PICKS},
    {.name = "attention across, virtual rows",
     .op = &gr_op_attention,
     .in = {ACROSS, {OP_FIXED, VIRTUAL, KV, 0}, {OP_FIXED, VIRTUAL, KV, 0}},
     .apply = cross_virtual,
     .picks = PICKS},
    {.name = "attention, dropout", .op = &gr_op_attention, .in = {FUSED}, .apply = dropped},
    {.name = "attention, dropout, position bias and shared beginning",
     .op = &gr_op_attention,
     .in = {FUSED, NO_VIRTUAL, {OP_PARAM, 6, H, 0}},
     .apply = dropped_continued,
     .step = 4},
    {.name = "attention across, dropout", .op = &gr_op_attention, .in = {ACROSS}, .apply = dropped_cross, .picks = PICKS},
    {.name = "attention, position bias",
     .op = &gr_op_attention,
     .in = {FUSED, NO_VIRTUAL, {OP_PARAM, 5, H, 0}},
     .apply = biased},
    {.name = "attention, position bias both ways",
     .op = &gr_op_attention,
     .in = {FUSED, NO_VIRTUAL, {OP_PARAM, 8, H, 0}},
     .apply = biased_both},
    {.name = "attention, frozen position bias",
     .op = &gr_op_attention,
     .in = {FUSED, NO_VIRTUAL, {OP_FROZEN, 8, H, 0}},
     .apply = biased_both},
    {.name = "attention, position bias and history",
     .op = &gr_op_attention,
     .in = {FUSED, NO_VIRTUAL, {OP_PARAM, 5, H, 0}},
     .apply = biased_cached},
    {.name = "attention, position bias and shared beginning",
     .op = &gr_op_attention,
     .in = {FUSED, NO_VIRTUAL, {OP_PARAM, 6, H, 0}},
     .apply = biased_continued,
     .step = 4},
    {.name = "attention, position bias and virtual rows",
     .op = &gr_op_attention,
     .in = {APART, {OP_FIXED, VIRTUAL, KV, 0}, {OP_FIXED, VIRTUAL, KV, 0}, {OP_PARAM, 5, H, 0}},
     .apply = biased_virtual},
    {0},
};
