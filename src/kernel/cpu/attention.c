/* Attention in blocks of 64 keys, on the block products of the level (Dao et al. 2022, "FlashAttention", and 2023).
 *
 * Keys are taken in the order of the segments and cut into blocks by their number in that order, wherever segments begin:
 * so a query row gets the same bits whether its keys lie in one segment or several and whether it comes alone or with
 * others. Blocks that no row of a tile sees are skipped; inside a block, keys after the last visible one and rows before
 * the first that sees anything are left out. What is masked inside the rest has probability 0, which adds exactly
 * nothing (unless that key or value is not finite).
 *
 * Forward, per tile of queries of one head: S = Q K^T; online softmax; O = O * factor + P V.
 * Backward: P from lse; dV += P^T dO; dP = dO V^T; dS = P (dP - D) scale; dQ += dS K; dK += dS^T Q.
 * Dropout: zeros in P where it meets V and dO, and in dP; the factor of the others is that of the sums O and dV, and of dP.
 * All heads that share a key/value head use the packed block of keys together; few queries, as of a step that makes one token, are
 * one tile of all these heads. On tile registers that tile is then what is packed, and keys are multiplied as they lie, S^T = K Q^T,
 * or decoded on the way: elements are the same sums. Memory: a constant part per thread, and
 * for the backward the float sums of dK and dV of one sequence and head. */
#include <math.h>

#include "kernel/cpu/attention_item.h"

typedef gr_attention_space space;
typedef gr_attention_item item;

/* Query positions of a chunk. */
static int64_t chunk_positions(const gr_attention *a) {
    int64_t group = a->n_heads / a->n_kv_heads;
    return GR_MAX((int64_t)GR_CHUNK_ROWS / group / GR_TILE, (int64_t)1) * GR_TILE;
}

static void *carve(char *base, size_t *at, size_t bytes) {
    void *p = base ? base + *at : NULL; /* NULL: only the size is wanted */
    *at += gr_round64(bytes);
    return p;
}

static space lay_out(const gr_attention *a, bool backward, int64_t max_keys, char *base) {
    const size_t group = (size_t)(a->n_heads / a->n_kv_heads), dim = (size_t)a->head_dim, f = sizeof(float);
    const size_t rows = (size_t)chunk_positions(a) * group, panels = (dim + GR_PANEL - 1) / GR_PANEL;
    const size_t tile = GR_TILE * GR_KEYS * f, panel_bytes = panels * GR_PANEL * GR_KEYS * f;
    const size_t packed = GR_MAX((dim + (dim & 1)) * f, (dim + GR_STEP - 1) / GR_STEP * GR_STEP * 2); /* a row of any level */
    space w;
    size_t at = 0;
    w.acc = carve(base, &at, rows * dim * f);
    w.max = carve(base, &at, rows * f);
    w.lanes = carve(base, &at, backward ? 0 : rows * GR_LANES * f);
    w.s = carve(base, &at, tile);
    w.dp = carve(base, &at, backward ? tile : 0);
    w.p = carve(base, &at, tile);
    w.ds = carve(base, &at, backward ? tile : 0);
    w.pt = carve(base, &at, backward ? tile : 0);
    w.keys = carve(base, &at, GR_KEYS * dim * f);
    w.values = carve(base, &at, GR_KEYS * dim * f);
    w.k_t = carve(base, &at, packed * GR_KEYS);
    w.v_t = carve(base, &at, backward ? packed * GR_KEYS : 0);
    w.k_panels = carve(base, &at, backward ? panel_bytes : 0);
    w.v_panels = carve(base, &at, backward ? 0 : panel_bytes);
    w.q_rows = carve(base, &at, rows * packed);
    w.do_rows = carve(base, &at, backward ? rows * packed : 0);
    w.q_panels = carve(base, &at, backward ? rows * panels * GR_PANEL * f : 0);
    w.do_panels = carve(base, &at, backward ? rows * panels * GR_PANEL * f : 0);
    w.q_few = carve(base, &at, backward ? 0 : packed * GR_FEW);
    w.s_t = carve(base, &at, backward ? 0 : GR_KEYS * GR_FEW * f);
    w.dk = carve(base, &at, backward ? (size_t)max_keys * dim * f : 0);
    w.dv = carve(base, &at, backward ? (size_t)max_keys * dim * f : 0);
    w.dbias = carve(base, &at, backward ? group * gr_bias_span(a) * f : 0);
    w.bytes = at;
    return w;
}

static int64_t most_keys(const gr_attention *a) {
    int64_t keys = 0;
    for (int s = 0; s < a->n_seqs; s++) keys = GR_MAX(keys, gr_attention_keys(&a->seqs[s]));
    return keys;
}

size_t gr_attention_blocks_scratch(const gr_attention *a, bool backward) {
    if (a->dt == GR_F64) return 0;
    return lay_out(a, backward, most_keys(a), NULL).bytes;
}

/* --- One item: a chunk of the queries of one sequence, and one key/value head --------------------------------------- */

static const void *q_at(const item *t, int h, int64_t i) {
    const gr_attention *a = t->a;
    return gr_at_const(a->q, a->dt, (t->seq->q_begin + t->q0 + i) * a->q_ld + (int64_t)(t->kv_head * t->group + h) * t->dim);
}

static const void *dout_at(const item *t, int h, int64_t i) {
    const gr_attention *a = t->a;
    return gr_at_const(a->dout, a->dt,
                       (t->seq->q_begin + t->q0 + i) * a->dout_ld + (int64_t)(t->kv_head * t->group + h) * t->dim);
}

/* A operand: rows of q (or dout) where they stand, or packed. */
typedef struct operand {
    const void *a;
    int64_t row, step;
} operand;

static operand rows_operand(const item *t, const void *where, int64_t ld, const char *packed, int h, int64_t i) {
    int64_t size = (int64_t)gr_type_size(t->a->dt), dim = gr_round_up(t->dim, t->k->step);
    if (!t->k->pack_a[0]) return (operand){where, ld * size, size * t->k->step};
    return (operand){packed + ((int64_t)h * t->stride + i) * dim * (int64_t)t->packed, dim * (int64_t)t->packed,
                     (int64_t)t->step_bytes};
}

static float *acc_at(const item *t, int h, int64_t i) {
    return t->w.acc + ((int64_t)h * t->stride + i) * t->dim;
}

/* The block from key0 on. */
static void enter_block(item *t, int64_t key0, int64_t keys) {
    const gr_kv_segment *seg = t->seq->segments;
    if (key0 == 0) t->seg0 = 0, t->first0 = 0;
    t->key0 = key0;
    t->n_keys = GR_MIN(keys - key0, (int64_t)GR_KEYS);
    while (t->first0 + seg[t->seg0].n <= key0) t->first0 += seg[t->seg0++].n;
}

/* Rows [key0, key0 + n_keys) of the concatenated segments, one head: where they stand, or copied together and decoded. */
static const void *gather(const item *t, bool values, char *to, int64_t *ld) {
    const gr_attention *a = t->a;
    const int64_t size = (int64_t)gr_type_size(a->dt);
    GR_FOR_SEGMENTS(t, s, first) {
        const gr_kv_segment *seg = &t->seq->segments[s];
        int64_t begin = GR_MAX(t->key0, first), end = GR_MIN(t->key0 + t->n_keys, first + seg->n);
        if (begin >= end) continue;
        const void *from = values ? seg->v : seg->k;
        int64_t seg_ld = values ? seg->v_ld : seg->k_ld;
        if (seg->format != GR_KV_COMPUTED) {
            for (int64_t j = begin; j < end; j++)
                gr_kept_row(t->cpu, a, seg, values, t->kv_head, j - first, to + (j - t->key0) * t->dim * size);
            continue;
        }
        const int64_t col = t->kv_head * gr_kv_head_step(seg->format, t->dim, seg->head);
        if (end - begin == t->n_keys) {
            *ld = seg_ld;
            return gr_at_const(from, a->dt, (begin - first) * seg_ld + col);
        }
        for (int64_t j = begin; j < end; j++)
            memcpy(to + (j - t->key0) * t->dim * size, gr_at_const(from, a->dt, (j - first) * seg_ld + col),
                   (size_t)(t->dim * size));
    }
    *ld = t->dim;
    return to;
}

/* Panels of n rows (along K) and head_dim columns. */
static void pack_panels(const item *t, int64_t n, const void *from, int64_t ld, char *to) {
    size_t panel = (size_t)gr_round_up(n, t->k->step) * GR_PANEL * t->packed;
    for (int64_t c = 0; c < t->dim; c += GR_PANEL, to += panel)
        t->k->pack_panel(n, GR_MIN(t->dim - c, (int64_t)GR_PANEL), gr_at_const(from, t->a->dt, c), ld, 1, to);
}

/* (m, dim) += A (m, n) * panels. */
static void times_panels(const item *t, int64_t m, int64_t n, operand a, int64_t panel_rows, const char *panels, float *c) {
    size_t panel = (size_t)gr_round_up(panel_rows, t->k->step) * GR_PANEL * t->packed;
    for (int64_t j = 0; j < t->dim; j += GR_PANEL, panels += panel)
        t->k->outer(m, GR_MIN(t->dim - j, (int64_t)GR_PANEL), n, a.a, a.row, a.step, panels, c + j, t->dim, true);
}

/* Bits of the keys of the block that the query at position q_pos sees. */
static uint64_t seen_bits(const item *t, int64_t q_pos) {
    const gr_attention *a = t->a;
    uint64_t bits = 0;
    GR_FOR_SEGMENTS(t, s, first) {
        const gr_kv_segment *seg = &t->seq->segments[s];
        int64_t begin = GR_MAX(t->key0, first), end = GR_MIN(t->key0 + t->n_keys, first + seg->n);
        if (!seg->always && a->causal) end = GR_MIN(end, first + q_pos - seg->pos + 1);
        if (!seg->always && a->window > 0) begin = GR_MAX(begin, first + q_pos - a->window + 1 - seg->pos);
        if (begin < end) bits |= (~(uint64_t)0 >> (64 - (end - begin))) << (begin - t->key0);
    }
    return bits;
}

/* What a tile of rows sees of the block: keys up to n, or `wide` in whole steps where the hardware takes nothing else; rows
 * before `skip` see nothing. False: none sees anything. */
typedef struct view {
    uint64_t seen[GR_TILE];
    int64_t n, wide, skip;
} view;

static bool look(const item *t, int64_t i, int64_t m, view *v) {
    const int64_t steps = GR_MAX(t->k->step, 2);
    uint64_t all = 0;
    v->skip = m;
    for (int64_t r = 0; r < m; r++) {
        v->seen[r] = i + r < t->n_q ? seen_bits(t, t->seq->q_pos + t->q0 + i + r) : v->seen[r - t->n_q];
        all |= v->seen[r];
        if (v->seen[r] && v->skip == m) v->skip = r / steps * steps; /* what is multiplied together stays together */
    }
    v->n = all ? 64 - __builtin_clzll(all) : 0;
    v->wide = t->k->tiles ? gr_round_up(v->n, t->k->step) : v->n;
    return all != 0;
}

/* --- Bias by position ------------------------------------------------------------------------------------------------ */

/* Position of key j of the block. */
static int64_t position(const item *t, int64_t j) {
    int64_t row = t->key0 + j - t->first0;
    const gr_kv_segment *seg = t->seq->segments + t->seg0;
    while (row >= seg->n) row -= seg++->n;
    return seg->pos + row;
}

/* Whether the bias of the block's keys is a stretch of the spread. */
static void order_block(item *t) {
    if (!t->a->bias.table) return;
    t->key_pos = position(t, 0);
    t->in_order = true;
    GR_FOR_SEGMENTS(t, s, first) {
        int64_t begin = GR_MAX(t->key0, first), end = GR_MIN(t->key0 + t->n_keys, first + t->seq->segments[s].n);
        if (begin < end && t->seq->segments[s].pos + begin - first != t->key_pos + begin - t->key0) t->in_order = false;
    }
}

/* Bias of the block's keys for the query at q_pos, GR_KEYS floats; collected in `piece` where they are no stretch. */
static const float *bias_of(const item *t, int h, int64_t q_pos, float *piece) {
    const gr_attention *a = t->a;
    if (!a->bias.table) return NULL;
    const float *spread = gr_bias_of_head(a, t->kv_head * t->group + h);
    if (t->in_order) return spread + gr_bias_at(a, t->key_pos - q_pos);
    for (int64_t j = 0; j < GR_KEYS; j++) piece[j] = j < t->n_keys ? spread[gr_bias_at(a, position(t, j) - q_pos)] : 0;
    return piece;
}

/* Where the gradient of that is added up; `piece`, zeroed, where they are no stretch: add_dbias then takes it. */
static float *dbias_of(const item *t, int h, int64_t q_pos, float *piece) {
    const gr_attention *a = t->a;
    if (!a->bias.dtable) return NULL;
    if (t->in_order) return t->w.dbias + (size_t)h * gr_bias_span(a) + gr_bias_at(a, t->key_pos - q_pos);
    memset(piece, 0, GR_KEYS * sizeof *piece);
    return piece;
}

static void add_dbias(const item *t, int h, int64_t q_pos, const float *piece) {
    float *sum = t->w.dbias + (size_t)h * gr_bias_span(t->a);
    if (!t->a->bias.dtable || t->in_order) return;
    for (int64_t j = 0; j < t->n_keys; j++) sum[gr_bias_at(t->a, position(t, j) - q_pos)] += piece[j];
}

static void pack_rows_of_chunk(const item *t, bool backward) {
    if (!t->k->pack_a[0]) return;
    for (int h = 0; h < t->group; h++) { /* in order: rows of zeros behind one head's are the next one's */
        size_t at = (size_t)(h * t->stride * gr_round_up(t->dim, t->k->step)) * t->packed;
        t->k->pack_a[0](t->n_q, t->dim, q_at(t, h, 0), t->a->q_ld, t->w.q_rows + at);
        if (backward) t->k->pack_a[0](t->n_q, t->dim, dout_at(t, h, 0), t->a->dout_ld, t->w.do_rows + at);
    }
}

/* --- Dropout ------------------------------------------------------------------------------------------------------------ */

/* Bits of the keys of the block whose probabilities row i of the chunk keeps. */
static uint64_t kept_bits(const item *t, int h, int64_t i) {
    const gr_attention *a = t->a;
    if (!(a->drop.p > 0)) return ~(uint64_t)0;
    const uint64_t stream = gr_attention_drop_stream(a, t->kv_head * t->group + h, t->key0 / GR_KEYS);
    return t->plain->dropout_bits(a->drop.p, a->drop.seed, stream, gr_attention_drop_key(a, t->seq->q_begin + t->q0 + i));
}

static double kept_factor(const gr_attention *a) { return a->drop.p > 0 ? 1 / (1 - a->drop.p) : 1; }

/* --- Forward ---------------------------------------------------------------------------------------------------------- */

/* Scores of m rows from (h, i) on, which may run on into the next heads. `lies`: the block, where it is multiplied as it lies. */
static void forward_tile(const item *t, int h, int64_t i, int64_t m, const gr_kv_segment *lies) {
    view v;
    if (!look(t, i, m, &v)) return;
    const int64_t at = (int64_t)h * t->stride + i, row_bytes = GR_KEYS * (int64_t)t->packed;
    if (lies) {
        gr_few_scores(t, lies);
    } else {
        const operand q = rows_operand(t, q_at(t, h, i), m > t->n_q ? t->dim : t->a->q_ld, t->w.q_rows, h, i);
        t->k->outer(m, v.wide, t->dim, q.a, q.row, q.step, t->w.k_t, t->w.s, GR_KEYS, false);
    }
    float *o = acc_at(t, h, i), piece[GR_KEYS];
    for (int64_t r = 0; r < m; r++) {
        const int head = h + (int)((i + r) / t->n_q);
        const int64_t row = (i + r) % t->n_q;
        const float *bias = bias_of(t, head, t->seq->q_pos + t->q0 + row, piece);
        float factor = t->rows->softmax_row(v.wide, t->w.s + r * GR_KEYS, v.seen[r], kept_bits(t, head, row), (float)t->a->scale, bias,
                                            t->w.max + at + r, t->w.lanes + (at + r) * GR_LANES, t->w.p + r * row_bytes);
        for (int64_t c = 0; factor != 1.0f && c < t->dim; c++) o[r * t->dim + c] *= factor;
    }
    times_panels(t, m, v.wide, (operand){t->w.p, row_bytes, (int64_t)t->step_bytes}, t->n_keys, t->w.v_panels, o);
}

static void forward_store(const item *t, int h) {
    const gr_attention *a = t->a;
    const int head = t->kv_head * t->group + h;
    for (int64_t i = 0; i < t->n_q; i++) {
        const int64_t at = (int64_t)h * t->stride + i, row = t->seq->q_begin + t->q0 + i;
        float sum = 0;
        for (int l = 0; l < GR_LANES; l++) sum += t->w.lanes[at * GR_LANES + l];
        t->k->finish(1, t->dim, sum == 0 ? 0 : kept_factor(a) / (double)sum, acc_at(t, h, i), t->dim, 0, a->dt,
                     gr_at(a->out, a->dt, row * a->out_ld + (int64_t)head * t->dim), a->out_ld);
        if (a->lse) a->lse[row * a->n_heads + head] = t->w.max[at] + logf(sum);
    }
}

/* Whether the rows of all heads are one tile, which is then packed for keys as they lie where that goes. */
static bool join_heads(item *t) {
    const int64_t m = t->group * t->n_q;
    if (m > t->tile || (!t->k->pack_a[0] && t->n_q > 1)) return false;
    t->stride = t->n_q;
    t->few = t->k->tiles && m <= GR_FEW && t->dim % GR_STEP == 0;
    const void *rows[GR_FEW];
    for (int64_t r = 0; t->few && r < m; r++) rows[r] = q_at(t, (int)(r / t->n_q), r % t->n_q);
    if (t->few) t->k->tiles->pack_rows(t->dim, m, rows, GR_FEW, t->w.q_few);
    return true;
}

static void forward_block(const item *t, bool joined) {
    const gr_kv_segment *lies = gr_few_lies_whole(t);
    if (joined) gr_few_fetch_next(t);
    int64_t ld;
    if (!lies) {
        const void *k = gather(t, false, t->w.keys, &ld);
        t->k->pack_panel(t->dim, t->n_keys, k, 1, ld, t->w.k_t);
    }
    if (lies && lies->format == GR_KV_INT8) {
        gr_few_values(t, lies);
    } else {
        const void *values = gather(t, true, t->w.values, &ld);
        pack_panels(t, t->n_keys, values, ld, t->w.v_panels);
    }
    if (joined) forward_tile(t, 0, 0, t->group * t->n_q, lies);
    for (int h = 0; !joined && h < t->group; h++)
        for (int64_t i = 0; i < t->n_q; i += t->tile) forward_tile(t, h, i, GR_MIN(t->n_q - i, t->tile), NULL);
}

static void forward_chunk(item *t) {
    const int64_t keys = gr_attention_keys(t->seq);
    const bool joined = join_heads(t);
    for (int h = 0; h < t->group; h++) {
        memset(acc_at(t, h, 0), 0, (size_t)(t->n_q * t->dim) * sizeof(float));
        memset(t->w.lanes + h * t->stride * GR_LANES, 0, (size_t)t->n_q * GR_LANES * sizeof(float));
        for (int64_t r = 0; r < t->n_q; r++) t->w.max[h * t->stride + r] = -INFINITY;
    }
    pack_rows_of_chunk(t, false);
    for (int64_t key0 = 0; key0 < keys; key0 += GR_KEYS) {
        enter_block(t, key0, keys);
        view v;
        bool any = false;
        for (int64_t i = 0; i < t->n_q && !any; i += t->tile) any = look(t, i, GR_MIN(t->n_q - i, t->tile), &v);
        if (!any) continue;
        order_block(t);
        forward_block(t, joined);
    }
    for (int h = 0; h < t->group; h++) forward_store(t, h);
}

/* --- Backward --------------------------------------------------------------------------------------------------------- */

/* c (n keys, dim) += p^T (n keys, m rows) * panels of the rows. */
static void transposed_times(const item *t, int64_t m, int64_t n, const char *p, int64_t panel_rows, const char *panels,
                             int64_t skip, float *c) {
    const int64_t row_bytes = GR_KEYS * (int64_t)t->packed;
    operand a = {p + skip * row_bytes, (int64_t)t->packed, row_bytes};
    if (t->k->step > 1) {
        t->k->pack_a[1](n, m - skip, a.a, GR_KEYS, t->w.pt);
        if (t->k->tiles)
            a = (operand){t->w.pt, gr_round_up(m - skip, t->k->step) * (int64_t)t->packed, (int64_t)t->step_bytes};
        else
            a = (operand){t->w.pt, (int64_t)t->step_bytes, n * (int64_t)t->step_bytes};
    }
    /* panels start at the tile's first row; skip is a multiple of the step */
    times_panels(t, n, m - skip, a, panel_rows, panels + (size_t)skip * GR_PANEL * t->packed, c);
}

/* Where the panels of the tile of rows from i on stand in q_panels and do_panels. */
static size_t tile_panels_at(const item *t, int h, int64_t i) {
    const size_t bytes = (size_t)((t->dim + GR_PANEL - 1) / GR_PANEL) * (size_t)(GR_PANEL * t->tile) * t->packed;
    return (size_t)(h * (gr_round_up(chunk_positions(t->a), t->tile) / t->tile) + i / t->tile) * bytes;
}

static void backward_tile(const item *t, int h, int64_t i, int64_t m) {
    const gr_attention *a = t->a;
    view v;
    if (!look(t, i, m, &v)) return;
    const int64_t skip = v.skip, live = m - skip, row_bytes = GR_KEYS * (int64_t)t->packed;
    const int64_t at = (int64_t)h * chunk_positions(a) + i;
    const operand q = rows_operand(t, q_at(t, h, i + skip), a->q_ld, t->w.q_rows, h, i + skip);
    const operand dout = rows_operand(t, dout_at(t, h, i + skip), a->dout_ld, t->w.do_rows, h, i + skip);
    t->k->outer(live, v.wide, t->dim, q.a, q.row, q.step, t->w.k_t, t->w.s + skip * GR_KEYS, GR_KEYS, false);
    t->k->outer(live, v.wide, t->dim, dout.a, dout.row, dout.step, t->w.v_t, t->w.dp + skip * GR_KEYS, GR_KEYS, false);
    float piece[GR_KEYS], dpiece[GR_KEYS];
    const float factor = (float)kept_factor(a);
    for (int64_t r = skip; r < m; r++) {
        const int64_t q_pos = t->seq->q_pos + t->q0 + i + r;
        float lse = a->lse[(t->seq->q_begin + t->q0 + i + r) * a->n_heads + t->kv_head * t->group + h];
        t->rows->grad_row(v.wide, t->w.s + r * GR_KEYS, t->w.dp + r * GR_KEYS, v.seen[r], kept_bits(t, h, i + r), factor,
                          (float)a->scale, bias_of(t, h, q_pos, piece), lse, t->w.max[at + r], t->w.p + r * row_bytes,
                          t->w.ds + r * row_bytes, dbias_of(t, h, q_pos, dpiece));
        add_dbias(t, h, q_pos, dpiece);
    }
    const size_t panels = tile_panels_at(t, h, i);
    transposed_times(t, m, v.n, t->w.p, m, t->w.do_panels + panels, skip, t->w.dv + t->key0 * t->dim);
    transposed_times(t, m, v.n, t->w.ds, m, t->w.q_panels + panels, skip, t->w.dk + t->key0 * t->dim);
    times_panels(t, live, v.wide, (operand){t->w.ds + skip * row_bytes, row_bytes, (int64_t)t->step_bytes}, t->n_keys,
                 t->w.k_panels, acc_at(t, h, i + skip));
}

/* D = dout.out of each row, and the chunk's q and dout as panels. */
static void backward_prepare(const item *t) {
    const gr_attention *a = t->a;
    const int64_t chunk = chunk_positions(a);
    memset(t->w.acc, 0, (size_t)(t->group * chunk * t->dim) * sizeof(float));
    pack_rows_of_chunk(t, true);
    for (int h = 0; h < t->group; h++) {
        for (int64_t i = 0; i < t->n_q; i++) {
            const void *out = gr_at_const(a->out, a->dt, (t->seq->q_begin + t->q0 + i) * a->out_ld +
                                                             (int64_t)(t->kv_head * t->group + h) * t->dim);
            t->k->dot(1, 1, t->dim, dout_at(t, h, i), a->dout_ld, &out, t->w.max + h * chunk + i, 1, false);
        }
        for (int64_t i = 0; i < t->n_q; i += t->tile) {
            size_t to = tile_panels_at(t, h, i);
            int64_t m = GR_MIN(t->n_q - i, t->tile);
            pack_panels(t, m, q_at(t, h, i), a->q_ld, t->w.q_panels + to);
            pack_panels(t, m, dout_at(t, h, i), a->dout_ld, t->w.do_panels + to);
        }
    }
}

static void backward_chunk(item *t) {
    const gr_attention *a = t->a;
    const int64_t keys = gr_attention_keys(t->seq);
    backward_prepare(t);
    for (int64_t key0 = 0; key0 < keys; key0 += GR_KEYS) {
        enter_block(t, key0, keys);
        view v;
        bool any = false;
        for (int64_t i = 0; i < t->n_q && !any; i += t->tile) any = look(t, i, GR_MIN(t->n_q - i, t->tile), &v);
        if (!any) continue;
        order_block(t);
        int64_t ld;
        const void *k = gather(t, false, t->w.keys, &ld);
        t->k->pack_panel(t->dim, t->n_keys, k, 1, ld, t->w.k_t);
        pack_panels(t, t->n_keys, k, ld, t->w.k_panels);
        const void *values = gather(t, true, t->w.values, &ld);
        t->k->pack_panel(t->dim, t->n_keys, values, 1, ld, t->w.v_t);
        for (int h = 0; h < t->group; h++)
            for (int64_t i = 0; i < t->n_q; i += t->tile) backward_tile(t, h, i, GR_MIN(t->n_q - i, t->tile));
    }
    for (int h = 0; h < t->group; h++)
        t->k->finish(t->n_q, t->dim, 1, acc_at(t, h, 0), t->dim, 0, a->dt,
                     gr_at(a->dq, a->dt, (t->seq->q_begin + t->q0) * a->dq_ld + (int64_t)(t->kv_head * t->group + h) * t->dim),
                     a->dq_ld);
}

static void backward_seq(item *t) {
    const gr_attention *a = t->a;
    const int64_t keys = gr_attention_keys(t->seq), chunk = chunk_positions(a), col = (int64_t)t->kv_head * t->dim;
    memset(t->w.dk, 0, (size_t)(keys * t->dim) * sizeof(float));
    memset(t->w.dv, 0, (size_t)(keys * t->dim) * sizeof(float));
    if (a->bias.dtable) memset(t->w.dbias, 0, (size_t)t->group * gr_bias_span(a) * sizeof(float));
    for (t->q0 = 0; t->q0 < t->seq->q_len; t->q0 += chunk) {
        t->n_q = GR_MIN(t->seq->q_len - t->q0, chunk);
        backward_chunk(t);
    }
    for (int h = 0; a->bias.dtable && h < t->group; h++)
        gr_bias_gather(a, t->seq - a->seqs, t->kv_head * t->group + h, t->w.dbias + (size_t)h * gr_bias_span(a));
    int64_t first = 0;
    for (int s = 0; s < t->seq->n_segments; first += t->seq->segments[s++].n) {
        const gr_kv_segment *seg = &t->seq->segments[s];
        const double beta = seg->add ? 1 : 0;
        if (seg->dk)
            t->k->finish(seg->n, t->dim, 1, t->w.dk + first * t->dim, t->dim, beta, a->dt, gr_at(seg->dk, a->dt, col),
                         seg->dk_ld);
        if (seg->dv)
            t->k->finish(seg->n, t->dim, kept_factor(a), t->w.dv + first * t->dim, t->dim, beta, a->dt, gr_at(seg->dv, a->dt, col),
                         seg->dv_ld);
    }
}

/* --- Items ------------------------------------------------------------------------------------------------------------ */

typedef struct job {
    gr_device *d;
    const gr_attention *a;
    size_t per_thread;
    int64_t max_keys;
    bool backward, shares;
} job;

static const gr_product_kernels *products(const job *j) { return gr_cpu(j->d)->products[gr_type_index(j->a->dt)]; }

static item make_item(const job *j, int thread) {
    const gr_attention *a = j->a;
    const gr_product_kernels *k = products(j);
    char *scratch = (char *)a->scratch + gr_bias_bytes(a);
    return (item){.a = a,
                  .cpu = gr_cpu(j->d),
                  .k = k,
                  .rows = gr_cpu(j->d)->attention_rows[gr_type_index(a->dt)],
                  .plain = gr_cpu(j->d)->rows[gr_type_index(GR_F32)],
                  .w = lay_out(a, j->backward, j->max_keys, scratch + j->per_thread * (size_t)thread),
                  .group = a->n_heads / a->n_kv_heads,
                  .dim = a->head_dim,
                  .stride = chunk_positions(a),
                  .tile = k->tiles ? GR_STEP : GR_TILE,
                  .packed = k->packed_size,
                  .step_bytes = k->packed_size * (size_t)k->step};
}

/* Item: one chunk of one sequence, and one key/value head. */
static void forward_item(void *arg, size_t begin, size_t end, int thread) {
    const job *j = arg;
    const int64_t chunk = chunk_positions(j->a);
    const gr_product_kernels *k = products(j);
    if (k->begin) k->begin();
    for (size_t i = begin; i < end; i++) {
        item t = make_item(j, thread);
        int64_t chunk_no = (int64_t)(i / (size_t)j->a->n_kv_heads);
        t.kv_head = (int)(i % (size_t)j->a->n_kv_heads);
        t.seq = j->a->seqs;
        while (chunk_no >= (t.seq->q_len + chunk - 1) / chunk) chunk_no -= (t.seq++->q_len + chunk - 1) / chunk;
        t.q0 = chunk_no * chunk;
        t.n_q = GR_MIN(t.seq->q_len - t.q0, chunk);
        forward_chunk(&t);
    }
    if (k->end) k->end();
}

void gr_attention_blocks(gr_device *d, const gr_attention *a) {
    if (a->dt == GR_F64) {
        gr_attention_generic(d, a);
        return;
    }
    if (a->bias.table) gr_bias_spread(a);
    const int64_t chunk = chunk_positions(a);
    int64_t chunks = 0;
    for (int s = 0; s < a->n_seqs; s++) chunks += (a->seqs[s].q_len + chunk - 1) / chunk;
    job j = {.d = d, .a = a, .per_thread = gr_attention_thread_scratch(a, false)};
    gr_parallel_for(d->team, (size_t)chunks * (size_t)a->n_kv_heads, 1, forward_item, &j);
}

/* Item: one key/value head of one sequence, or of all sequences in turn where they share gradient rows. */
static void backward_item(void *arg, size_t begin, size_t end, int thread) {
    const job *j = arg;
    const size_t heads = (size_t)j->a->n_kv_heads;
    const gr_product_kernels *k = products(j);
    if (k->begin) k->begin();
    for (size_t i = begin; i < end; i++) {
        item t = make_item(j, thread);
        t.kv_head = (int)(i % heads);
        size_t first = j->shares ? 0 : i / heads, last = j->shares ? (size_t)j->a->n_seqs : first + 1;
        for (size_t s = first; s < last; s++) {
            t.seq = &j->a->seqs[s];
            backward_seq(&t);
        }
    }
    if (k->end) k->end();
}

void gr_attention_backward_blocks(gr_device *d, const gr_attention *a) {
    if (a->dt == GR_F64) {
        gr_attention_backward_generic(d, a);
        return;
    }
    if (a->bias.table) gr_bias_spread(a);
    job j = {.d = d, .a = a, .per_thread = gr_attention_thread_scratch(a, true), .max_keys = most_keys(a), .backward = true,
             .shares = gr_attention_backward_shares(a)};
    gr_parallel_for(d->team, (j.shares ? 1 : (size_t)a->n_seqs) * (size_t)a->n_kv_heads, 1, backward_item, &j);
}
