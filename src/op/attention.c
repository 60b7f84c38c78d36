/* Scaled dot-product attention over ragged sequences (Vaswani et al. 2017; grouped heads Ainslie et al. 2023). The kernel
 * keeps no scores: with the logarithm of each softmax denominator (lse) the backward makes them again, so memory grows with
 * the rows, not with their square (Dao et al. 2022). This file turns rows of variables into the kernel's segments.
 *
 * Gradients of fused rows: q, k and v columns of one buffer are written by one kernel call. Where sequences share key rows
 * (one prompt, several answers) their gradients are zeroed first and then added to, sequence after sequence. The gradient of
 * the position bias is made for each sequence apart, and these are added in their order. */
#include "op/common.h"

typedef struct sizes {
    int64_t q, kv;            /* columns of q, of k and of v */
    int64_t segments;         /* of all sequences */
    int64_t longest, keys;    /* queries and keys of the largest sequences */
} sizes;

static sizes measure(const gr_attention_params *p) {
    sizes z = {.q = (int64_t)p->n_heads * p->head_dim, .kv = (int64_t)p->n_kv_heads * p->head_dim};
    for (int s = 0; s < p->n_seqs; s++) {
        const gr_attention_rows *seq = &p->seqs[s];
        int64_t keys = seq->virtual_len;
        for (int i = 0; i < seq->n_history; i++) keys += seq->history[i].n;
        for (int i = 0; i < seq->n_rows; i++) keys += seq->rows[i].n;
        z.segments += 1 + seq->n_history + seq->n_rows;
        z.longest = GR_MAX(z.longest, seq->q_len);
        z.keys = GR_MAX(z.keys, keys);
    }
    return z;
}

/* --- Shape ------------------------------------------------------------------------------------------------------------ */

static graft_status want_rows(const char *what, int s, int64_t begin, int64_t n, int64_t rows, graft_error *err) {
    if (begin >= 0 && n >= 0 && begin <= rows && n <= rows - begin) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_MISMATCH, "sequence %d: %s rows %lld to %lld are not within %lld rows", s, what,
                   (long long)begin, (long long)begin + n, (long long)rows);
}

static graft_status check_seqs(const gr_op_call *c, const gr_attention_params *p, graft_error *err) {
    int64_t virt = gr_op_has(c, 3) ? gr_rows(&c->in[3]) : 0;
    for (int s = 0; s < p->n_seqs; s++) {
        const gr_attention_rows *seq = &p->seqs[s];
        GR_TRY(want_rows("query", s, seq->q_begin, seq->q_len, gr_rows(&c->in[0]), err));
        GR_TRY(want_rows("virtual", s, seq->virtual_begin, seq->virtual_len, virt, err));
        for (int i = 0; i < seq->n_rows; i++)
            GR_TRY(want_rows("key", s, seq->rows[i].begin, seq->rows[i].n, gr_rows(&c->in[1]), err));
        for (int i = 0; i < seq->n_history; i++)
            if (seq->history[i].n < 0 || seq->history[i].dk || seq->history[i].dv)
                return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d: history %d must have rows and no gradients", s, i);
    }
    return GRAFT_OK;
}

static graft_status check_bias(const gr_op_call *c, const gr_attention_params *p, gr_dtype dt, graft_error *err) {
    if (!gr_op_has(c, 5)) return GRAFT_OK;
    GR_TRY(gr_op_want_parameter(c, 5, "position bias", gr_shape2(-1, p->n_heads), dt, err));
    const int64_t buckets = gr_rows(&c->in[5]), each = p->bias_bidirectional ? buckets / 2 : buckets;
    if (each < 2 || p->bias_max_distance <= each / 2 || p->bias_max_distance > GR_BIAS_DISTANCE)
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "position bias: %lld buckets a direction cannot reach to distance %d (at least 2 buckets, a "
                       "distance beyond half of them and up to %d)",
                       (long long)each, p->bias_max_distance, GR_BIAS_DISTANCE);
    return GRAFT_OK;
}

static graft_status shape(gr_op_call *c, graft_error *err) {
    const gr_attention_params *p = c->params;
    if (p->n_heads < 1 || p->n_kv_heads < 1 || p->head_dim < 1 || p->n_heads % p->n_kv_heads)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%d query heads do not share %d key heads of %d evenly", p->n_heads,
                       p->n_kv_heads, p->head_dim);
    if (!(p->dropout >= 0 && p->dropout < 1))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "dropout of attention weights: expected 0 to below 1, found %g", p->dropout);
    sizes z = measure(p);
    GR_TRY(gr_op_want(c, 0, "q", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_activation(c, 0, "q", err));
    gr_dtype dt = c->in[0].dtype;
    GR_TRY(gr_op_want(c, 1, "k", gr_shape2(-1, -1), err));
    GR_TRY(gr_op_want_type(c, 1, "k", dt, err));
    GR_TRY(gr_op_want(c, 2, "v", gr_shape2(gr_rows(&c->in[1]), -1), err));
    GR_TRY(gr_op_want_type(c, 2, "v", dt, err));
    GR_TRY(gr_op_want_columns("q", p->q_column, z.q, gr_cols(&c->in[0]), err));
    GR_TRY(gr_op_want_columns("k", p->k_column, z.kv, gr_cols(&c->in[1]), err));
    GR_TRY(gr_op_want_columns("v", p->v_column, z.kv, gr_cols(&c->in[2]), err));
    if (gr_op_has(c, 3) || gr_op_has(c, 4)) {
        GR_TRY(gr_op_want(c, 3, "virtual k", gr_shape2(-1, z.kv), err));
        GR_TRY(gr_op_want_type(c, 3, "virtual k", dt, err));
        GR_TRY(gr_op_want(c, 4, "virtual v", c->in[3].shape, err));
        GR_TRY(gr_op_want_type(c, 4, "virtual v", dt, err));
    }
    GR_TRY(check_bias(c, p, dt, err));
    GR_TRY(check_seqs(c, p, err));
    c->out[0] = (gr_array){dt, gr_shape2(gr_rows(&c->in[0]), z.q), NULL};
    c->out[1] = (gr_array){gr_param_dtype(dt), gr_shape2(gr_rows(&c->in[0]), p->n_heads), NULL}; /* lse */
    return GRAFT_OK;
}

/* --- The kernel's view ---------------------------------------------------------------------------------------------------- */

static gr_attention describe(const gr_op_call *c) {
    const gr_attention_params *p = c->params;
    gr_attention a = {.dt = c->in[0].dtype, .n_heads = p->n_heads, .n_kv_heads = p->n_kv_heads,
                      .head_dim = p->head_dim, .scale = p->scale, .causal = p->causal, .window = p->window,
                      .drop = {p->dropout, p->seed, p->stream, p->key}};
    if (gr_op_has(c, 5))
        a.bias = (gr_position_bias){.table = c->in[5].data, .buckets = (int)gr_rows(&c->in[5]),
                                    .max_distance = p->bias_max_distance, .bidirectional = p->bias_bidirectional};
    return a;
}

/* Where dq is not wanted while dk or dv is, the kernel writes it into scratch. */
static bool spare_dq(const gr_op_call *c, bool backward) { return backward && !c->din[0].data; }

typedef struct space {
    gr_attention_seq *seqs;
    gr_kv_segment *segments;
    void *dq, *dbias, *kernel;
    size_t kernel_bytes;
} space;

static size_t lay_out(const gr_op_call *c, bool backward, char *base, space *w) {
    const gr_attention_params *p = c->params;
    sizes z = measure(p);
    char *at = base;
    /* The kernel's need grows with its largest sequence: asked for one that is as large as all of them. */
    gr_kv_segment most = {.n = z.keys};
    gr_attention_seq largest = {.q_len = z.longest, .n_segments = 1, .segments = &most};
    gr_attention a = describe(c);
    a.n_seqs = 1;
    a.seqs = &largest;
    w->kernel_bytes = gr_attention_scratch(&a, c->dev->n_threads, backward);
    w->seqs = gr_op_cut(&at, (size_t)p->n_seqs * sizeof *w->seqs);
    w->segments = gr_op_cut(&at, (size_t)z.segments * sizeof *w->segments);
    w->dq = spare_dq(c, backward) ? gr_op_cut(&at, gr_op_bytes(c->in[0].dtype, gr_rows(&c->in[0]) * z.q)) : NULL;
    w->dbias = backward && c->din[5].data
                   ? gr_op_cut(&at, gr_op_bytes(c->in[5].dtype, p->n_seqs * gr_rows(&c->in[5]) * p->n_heads))
                   : NULL;
    w->kernel = gr_op_cut(&at, w->kernel_bytes);
    return (size_t)(at - base);
}

static size_t scratch(const gr_op_call *c, bool backward) {
    space w;
    return lay_out(c, backward, GR_OP_NO_BASE, &w);
}

static gr_kv_segment rows_segment(const gr_op_call *c, int k_in, int64_t begin, int64_t n, int64_t k_column,
                                  int64_t v_column, bool add) {
    const gr_array *k = &c->in[k_in], *v = &c->in[k_in + 1], *dk = &c->din[k_in], *dv = &c->din[k_in + 1];
    gr_kv_segment s = {.n = n, .k_ld = gr_cols(k), .v_ld = gr_cols(v), .dk_ld = gr_cols(k), .dv_ld = gr_cols(v), .add = add};
    s.k = gr_op_at(k->data, k->dtype, begin * s.k_ld + k_column);
    s.v = gr_op_at(v->data, v->dtype, begin * s.v_ld + v_column);
    if (dk->data) s.dk = gr_op_at(dk->data, k->dtype, begin * s.k_ld + k_column);
    if (dv->data) s.dv = gr_op_at(dv->data, v->dtype, begin * s.v_ld + v_column);
    return s;
}

/* add: gradients of rows (of virtual rows) are added to zeros. */
static graft_status build(const gr_op_call *c, bool backward, bool add, bool add_virtual, space *w, gr_attention *out,
                          graft_error *err) {
    const gr_attention_params *p = c->params;
    gr_dtype dt = c->in[0].dtype;
    lay_out(c, backward, c->scratch, w);
    gr_kv_segment *next = w->segments;
    for (int s = 0; s < p->n_seqs; s++) {
        const gr_attention_rows *from = &p->seqs[s];
        w->seqs[s] = (gr_attention_seq){.q_begin = from->q_begin, .q_len = from->q_len, .q_pos = from->q_pos,
                                        .segments = next};
        if (from->virtual_len) {
            *next = rows_segment(c, 3, from->virtual_begin, from->virtual_len, 0, 0, add_virtual);
            next++->pos = -from->virtual_len;
        }
        for (int i = 0; i < from->n_history; i++) *next++ = from->history[i];
        for (int i = 0; i < from->n_rows; i++) {
            *next = rows_segment(c, 1, from->rows[i].begin, from->rows[i].n, p->k_column, p->v_column, add);
            next++->pos = from->rows[i].pos;
        }
        w->seqs[s].n_segments = (int)(next - w->seqs[s].segments);
    }
    gr_attention a = describe(c);
    a.q = gr_op_at(c->in[0].data, dt, p->q_column);
    a.q_ld = gr_cols(&c->in[0]);
    a.out = c->out[0].data;
    a.out_ld = gr_cols(&c->out[0]);
    a.lse = c->out[1].data;
    a.n_seqs = p->n_seqs;
    a.seqs = w->seqs;
    a.bias.dtable = w->dbias;
    a.scratch = w->kernel;
    if (gr_attention_scratch(&a, c->dev->n_threads, backward) > w->kernel_bytes)
        return gr_fail(err, GRAFT_ERR_INTERNAL, "the kernel's scratch is larger than planned");
    *out = a;
    return GRAFT_OK;
}

/* Whether the sequences' queries are all rows in order. */
static bool covers_queries(const gr_op_call *c) {
    const gr_attention_params *p = c->params;
    int64_t next = 0;
    for (int s = 0; s < p->n_seqs; s++) {
        if (p->seqs[s].q_begin != next) return false;
        next += p->seqs[s].q_len;
    }
    return next == gr_rows(&c->in[0]);
}

static graft_status forward(gr_op_call *c, graft_error *err) {
    const gr_array *y = &c->out[0];
    gr_attention a;
    space w;
    GR_TRY(build(c, false, false, false, &w, &a, err));
    if (!covers_queries(c)) gr_op_zero(c->dev, y->dtype, gr_rows(y), gr_cols(y), y->data, gr_cols(y));
    c->dev->k->attention(c->dev, &a);
    return GRAFT_OK;
}

/* --- Backward -------------------------------------------------------------------------------------------------------------- */

/* Whether key rows are seen in order and each once, without a gap: then all of them are written, by one sequence each. */
static bool each_key_once(const gr_op_call *c) {
    const gr_attention_params *p = c->params;
    int64_t next = 0;
    for (int s = 0; s < p->n_seqs; s++)
        for (int i = 0; i < p->seqs[s].n_rows; i++) {
            if (p->seqs[s].rows[i].begin != next) return false;
            next += p->seqs[s].rows[i].n;
        }
    return next == gr_rows(&c->in[1]);
}

static bool each_virtual_once(const gr_op_call *c) {
    const gr_attention_params *p = c->params;
    int64_t next = 0;
    for (int s = 0; s < p->n_seqs; s++) {
        if (!p->seqs[s].virtual_len) continue;
        if (p->seqs[s].virtual_begin != next) return false;
        next += p->seqs[s].virtual_len;
    }
    return next == gr_rows(&c->in[3]);
}

/* Whether q, k and v columns are all of a row, and of the same one. */
static bool fused_whole(const gr_op_call *c, const sizes *z) {
    const gr_attention_params *p = c->params;
    return c->din[0].data == c->din[1].data && c->din[1].data == c->din[2].data &&
           gr_cols(&c->in[0]) == z->q + 2 * z->kv && p->k_column != p->v_column;
}

static void zero_gradient(const gr_op_call *c, int i) {
    const gr_array *d = &c->din[i];
    if (!d->data) return;
    for (int k = 0; k < i; k++)
        if (c->din[k].data == d->data) return;
    gr_op_zero(c->dev, d->dtype, gr_rows(d), gr_cols(d), d->data, gr_cols(d));
}

static graft_status want_computed(const gr_attention_params *p, graft_error *err) {
    for (int s = 0; s < p->n_seqs; s++)
        for (int i = 0; i < p->seqs[s].n_history; i++)
            if (p->seqs[s].history[i].format != GR_KV_COMPUTED)
                return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "sequence %d: the gradient needs keys and values in the compute type", s);
    return GRAFT_OK;
}

static graft_status backward(gr_op_call *c, graft_error *err) {
    const gr_attention_params *p = c->params;
    GR_TRY(want_computed(p, err));
    sizes z = measure(p);
    gr_attention a;
    space w;
    bool once = each_key_once(c), once_virtual = !gr_op_has(c, 3) || each_virtual_once(c);
    GR_TRY(build(c, true, !once, !once_virtual, &w, &a, err));
    if (!(once && covers_queries(c) && fused_whole(c, &z)))
        for (int i = 0; i < 3; i++) zero_gradient(c, i);
    for (int i = 3; !once_virtual && i < 5; i++) zero_gradient(c, i);
    a.dout = c->dout[0].data;
    a.dout_ld = gr_cols(&c->out[0]);
    a.dq = w.dq ? w.dq : gr_op_at(c->din[0].data, a.dt, p->q_column);
    a.dq_ld = w.dq ? z.q : gr_cols(&c->in[0]);
    c->dev->k->attention_backward(c->dev, &a);
    if (w.dbias) {
        const int64_t table = gr_rows(&c->in[5]) * p->n_heads;
        c->dev->k->column_sum(c->dev, c->in[5].dtype, p->n_seqs, table, w.dbias, table, c->din[5].data);
    }
    return GRAFT_OK;
}

const gr_op gr_op_attention = {.name = "attention",
                               .params_size = sizeof(gr_attention_params),
                               .n_aux = 1,
                               .shape = shape,
                               .forward = forward,
                               .backward = backward,
                               .scratch = scratch,
                               .save_in = 0x3Fu,
                               .save_out = 3,
                               .parameters = 1u << 5,
                               .joint = true};
