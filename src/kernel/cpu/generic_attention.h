/* Portable attention, included by generic_attention.c once for each compute type (macros as in generic_rows.h).
 *
 * Forward, for query row i of one head: s_j = scale * q_i.k_j + bias_ij over the visible keys j; p = softmax(s);
 * out = sum p_j v_j. Backward with D = dout.out: dp_j = dout.v_j; dbias_ij = p_j (dp_j - D); ds_j = dbias_ij scale;
 * dq = sum ds_j k_j; dk_j += ds_j q; dv_j += p_j dout. p is made again from lse = log sum exp s. Keys go in the order of the
 * segments, rows in order. With dropout p_j v_j and p_j dout, and dp_j, have a factor of 0 or 1 / (1 - p); D stays what it is. */

static S NAME(bias)(const gr_attention *a, const gr_kv_segment *seg, int64_t row, int head, int64_t q_pos) {
    if (!a->bias.table) return 0;
    return ((const S *)gr_bias_of_head(a, head))[gr_bias_at(a, seg->pos + row - q_pos)];
}

static const T *NAME(row_at)(const gr_attention *a, const gr_kv_segment *seg, bool values, int kv_head, int64_t j) {
    const T *rows = values ? seg->v : seg->k;
    return rows + j * (values ? seg->v_ld : seg->k_ld) + kv_head * gr_kv_head_step(GR_KV_COMPUTED, a->head_dim, seg->head);
}

/* Decoded into `row` where it must be. */
static const T *NAME(row_of)(const gr_attention *a, const gr_kv_segment *seg, bool values, int kv_head, int64_t j, T *row) {
    if (seg->format == GR_KV_COMPUTED) return NAME(row_at)(a, seg, values, kv_head, j);
    gr_kept_row(NULL, a, seg, values, kv_head, j, row);
    return row;
}

/* One query row against all keys. scores: as many as there are keys; acc: head_dim; row: one
 * row of a head. */
static void NAME(forward_row)(const gr_attention *a, const gr_attention_seq *seq, int head, int64_t i, S *scores,
                              S *acc, T *row) {
    const int kv_head = head / (a->n_heads / a->n_kv_heads), dim = a->head_dim;
    const T *q = (const T *)a->q + (seq->q_begin + i) * a->q_ld + (int64_t)head * dim;
    T *out = (T *)a->out + (seq->q_begin + i) * a->out_ld + (int64_t)head * dim;
    S max = -(S)INFINITY, sum = 0;
    int64_t n = 0;
    for (int s = 0; s < seq->n_segments; s++)
        for (int64_t j = 0; j < seq->segments[s].n; j++, n++) {
            const gr_kv_segment *seg = &seq->segments[s];
            scores[n] = -(S)INFINITY;
            if (!gr_attention_visible(a, seg, j, seq->q_pos + i)) continue;
            const T *k = NAME(row_of)(a, seg, false, kv_head, j, row);
            S dot = 0;
            for (int c = 0; c < dim; c++) dot += LOAD(q[c]) * LOAD(k[c]);
            scores[n] = dot * (S)a->scale + NAME(bias)(a, seg, j, head, seq->q_pos + i);
            if (scores[n] > max) max = scores[n];
        }
    for (int c = 0; c < dim; c++) acc[c] = 0;
    bool keep[GR_DROP_KEYS];
    n = 0;
    for (int s = 0; s < seq->n_segments; s++)
        for (int64_t j = 0; j < seq->segments[s].n; j++, n++) {
            const gr_kv_segment *seg = &seq->segments[s];
            const S factor = (S)drop_factor(a, seq->q_begin + i, head, n, keep);
            if (!gr_attention_visible(a, seg, j, seq->q_pos + i)) continue;
            const T *v = NAME(row_of)(a, seg, true, kv_head, j, row);
            S p = EXP(scores[n] - max);
            sum += p;
            p *= factor;
            for (int c = 0; c < dim; c++) acc[c] += p * LOAD(v[c]);
        }
    for (int c = 0; c < dim; c++) out[c] = STORE(sum == 0 ? 0 : acc[c] / sum);
    if (a->lse) ((S *)a->lse)[(seq->q_begin + i) * a->n_heads + head] = max + LOG(sum);
}

/* One query row's part of dq, and of the sums dk, dv (keys, head_dim) of its sequence and key/value head, and of the
 * sums by distance (gr_bias_span) of its head. */
static void NAME(backward_row)(const gr_attention *a, const gr_attention_seq *seq, int head, int64_t i, S *dk, S *dv,
                               S *acc, S *dbias) {
    const int kv_head = head / (a->n_heads / a->n_kv_heads), dim = a->head_dim;
    const int64_t row = seq->q_begin + i, col = (int64_t)head * dim;
    const T *q = (const T *)a->q + row * a->q_ld + col, *out = (const T *)a->out + row * a->out_ld + col;
    const T *dout = (const T *)a->dout + row * a->dout_ld + col;
    T *dq = (T *)a->dq + row * a->dq_ld + col;
    const S lse = ((const S *)a->lse)[row * a->n_heads + head];
    S delta = 0;
    for (int c = 0; c < dim; c++) delta += LOAD(dout[c]) * LOAD(out[c]);
    for (int c = 0; c < dim; c++) acc[c] = 0;
    bool keep[GR_DROP_KEYS];
    int64_t n = 0;
    for (int s = 0; s < seq->n_segments; s++)
        for (int64_t j = 0; j < seq->segments[s].n; j++, n++) {
            const gr_kv_segment *seg = &seq->segments[s];
            const S factor = (S)drop_factor(a, row, head, n, keep);
            if (!gr_attention_visible(a, seg, j, seq->q_pos + i)) continue;
            const T *k = NAME(row_at)(a, seg, false, kv_head, j);
            const T *v = NAME(row_at)(a, seg, true, kv_head, j);
            S dot = 0, dp = 0;
            for (int c = 0; c < dim; c++) {
                dot += LOAD(q[c]) * LOAD(k[c]);
                dp += LOAD(dout[c]) * LOAD(v[c]);
            }
            S p = EXP(dot * (S)a->scale + NAME(bias)(a, seg, j, head, seq->q_pos + i) - lse), g = p * (factor * dp - delta);
            const S ds = g * (S)a->scale;
            if (a->bias.dtable) dbias[gr_bias_at(a, seg->pos + j - (seq->q_pos + i))] += g;
            for (int c = 0; c < dim; c++) {
                acc[c] += ds * LOAD(k[c]);
                dk[n * dim + c] += ds * LOAD(q[c]);
                dv[n * dim + c] += factor * p * LOAD(dout[c]);
            }
        }
    for (int c = 0; c < dim; c++) dq[c] = STORE(acc[c]);
}

static void NAME(store_rows)(S *from, int dim, int64_t n, void *to, int64_t ld, int kv_head, bool add) {
    for (int64_t j = 0; to && j < n; j++) {
        T *row = (T *)to + j * ld + (int64_t)kv_head * dim;
        for (int c = 0; c < dim; c++) row[c] = STORE(add ? LOAD(row[c]) + from[j * dim + c] : from[j * dim + c]);
    }
}

static void NAME(backward_head)(const gr_attention *a, const gr_attention_seq *seq, int kv_head, void *scratch) {
    const int group = a->n_heads / a->n_kv_heads, dim = a->head_dim;
    const int64_t keys = gr_attention_keys(seq);
    S *dk = scratch, *dv = dk + keys * dim, *acc = dv + keys * dim, *dbias = acc + dim;
    memset(dk, 0, (size_t)(keys * dim) * 2 * sizeof *dk);
    memset(dbias, 0, (size_t)group * gr_bias_span(a) * sizeof *dbias);
    for (int64_t i = 0; i < seq->q_len; i++)
        for (int h = 0; h < group; h++)
            NAME(backward_row)(a, seq, kv_head * group + h, i, dk, dv, acc, dbias + (size_t)h * gr_bias_span(a));
    for (int h = 0; a->bias.dtable && h < group; h++)
        gr_bias_gather(a, seq - a->seqs, kv_head * group + h, dbias + (size_t)h * gr_bias_span(a));
    for (int s = 0; s < seq->n_segments; s++) {
        const gr_kv_segment *seg = &seq->segments[s];
        NAME(store_rows)(dk, dim, seg->n, seg->dk, seg->dk_ld, kv_head, seg->add);
        NAME(store_rows)(dv, dim, seg->n, seg->dv, seg->dv_ld, kv_head, seg->add);
        dk += seg->n * dim;
        dv += seg->n * dim;
    }
}
