/* Modules over ops. The order at a product is base, bias, linear delta, scale: as the reference libraries nest them. */
#include "nn/nn.h"

const char *gr_role_name(gr_role role) {
    static const char *const names[GR_ROLE_COUNT] = {"embed", "q", "k", "v", "o", "gate", "up", "down", "norm", "head", "qkv",
                                                    "table", "dense", "position_bias"};
    return (unsigned)role < GR_ROLE_COUNT ? names[role] : "?";
}

graft_status gr_nn_leaf(gr_tape *t, const gr_param *p, gr_var **out, graft_error *err) {
    gr_array a = {p->dtype, p->shape, p->value};
    return gr_tape_leaf(t, &a, p->grad, out, err);
}

graft_status gr_nn_constant(gr_tape *t, gr_dtype dt, int64_t n, void *data, gr_var **out, graft_error *err) {
    gr_array a = {dt, gr_shape1(n), data};
    return gr_tape_leaf(t, &a, NULL, out, err);
}

graft_status gr_nn_embedding(gr_run *run, const gr_embedding *e, gr_var **out, graft_error *err) {
    gr_var *in[1] = {NULL}, *y;
    if (e->param) {
        gr_param p = *e->param;
        p.grad = gr_param_grad(e->param, e->use + run->is_source);
        GR_TRY(gr_nn_leaf(run->tape, &p, &in[0], err));
    }
    gr_embedding_params params = {.table = e->matrix, .n = run->n_rows, .ids = run->ids, .has_pad = e->pad_id >= 0,
                                  .pad_id = e->pad_id};
    GR_TRY(gr_tape_apply(run->tape, &gr_op_embedding, in, 1, &params, &y, err));
    gr_var_drop(in[0]);
    if (run->hooks && run->hooks->embedding)
        GR_TRY(run->hooks->embedding(run->hooks->self, run, e, &y, err));
    *out = y;
    return GRAFT_OK;
}

graft_status gr_nn_add_table(gr_run *run, const gr_embedding *table, const int32_t *ids, gr_var **x, graft_error *err) {
    gr_var *in[1] = {NULL}, *rows;
    if (table->param) GR_TRY(gr_nn_leaf(run->tape, table->param, &in[0], err));
    gr_embedding_params params = {.table = table->matrix, .n = run->n_rows, .ids = ids, .has_pad = table->pad_id >= 0,
                                  .pad_id = table->pad_id};
    GR_TRY(gr_tape_apply(run->tape, &gr_op_embedding, in, 1, &params, &rows, err));
    gr_var_drop(in[0]);
    GR_TRY(gr_nn_add(run, x, rows, err));
    gr_var_drop(rows);
    return GRAFT_OK;
}

/* One op for a frozen bias over the whole row, one a part where parts are trained. */
static graft_status add_bias(gr_run *run, const gr_linear *l, gr_var **y, graft_error *err) {
    bool trained = false;
    for (int i = 0; i < l->n_parts; i++) trained |= l->bias_param[i] != NULL;
    gr_dtype dt = gr_param_dtype(gr_matrix_dtype(l->matrix));
    size_t size = gr_dtype_bytes(dt, 1);
    for (int i = 0; i < (trained ? l->n_parts : 1); i++) {
        gr_var *in[2] = {*y, NULL};
        gr_bias_params params = {.column = l->offset[i]};
        int64_t n = trained ? l->offset[i + 1] - l->offset[i] : l->out;
        if (trained && l->bias_param[i])
            GR_TRY(gr_nn_leaf(run->tape, l->bias_param[i], &in[1], err));
        else if (l->bias)
            GR_TRY(gr_nn_constant(run->tape, dt, n, (char *)l->bias + (size_t)l->offset[i] * size, &in[1], err));
        else
            continue;
        GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_bias, in, 2, &params, y, err));
        gr_var_drop(in[1]);
    }
    return GRAFT_OK;
}

/* The down projection's input is scaled where the activation function makes it, in place (gr_nn_swiglu). */
static graft_status scale_input(gr_run *run, const gr_linear *l, gr_var **x, graft_error *err) {
    const gr_hooks *h = run->hooks;
    if (!h || !h->scale || l->site[0]->role == GR_ROLE_DOWN) return GRAFT_OK;
    return h->scale(h->self, run, l, true, x, err);
}

graft_status gr_nn_linear(gr_run *run, const gr_linear *l, gr_var *x, gr_var **out, graft_error *err) {
    gr_var *in[1 + GR_MATRIX_PARTS] = {gr_var_keep(x)}, *y;
    gr_linear_params params = {.w = l->matrix};
    int n_in = 1;
    GR_TRY(scale_input(run, l, &in[0], err));
    for (int i = 0; i < l->n_parts; i++) {
        params.column[i] = l->offset[i];
        params.transposed[i] = l->site[i]->transposed;
        if (!l->weight[i]) continue;
        GR_TRY(gr_nn_leaf(run->tape, l->weight[i], &in[1 + i], err));
        n_in = 2 + i;
    }
    GR_TRY(gr_tape_apply(run->tape, &gr_op_linear, in, n_in, &params, &y, err));
    for (int i = 1; i < n_in; i++) gr_var_drop(in[i]);
    GR_TRY(add_bias(run, l, &y, err));
    const gr_hooks *h = run->hooks;
    if (h && h->linear) GR_TRY(h->linear(h->self, run, l, in[0], &y, err));
    if (h && h->scale) GR_TRY(h->scale(h->self, run, l, false, &y, err));
    gr_var_drop(in[0]);
    *out = y;
    return GRAFT_OK;
}

graft_status gr_nn_head_updates(gr_run *run, const gr_linear *head, gr_var *x, gr_head_update *out, int *n,
                                graft_error *err) {
    const gr_hooks *h = run->hooks;
    *n = 0;
    return h && h->head ? h->head(h->self, run, head, x, out, n, err) : GRAFT_OK;
}

graft_status gr_nn_head_bias(gr_run *run, const gr_linear *head, gr_var **out, graft_error *err) {
    *out = NULL;
    if (head->bias_param[0]) return gr_nn_leaf(run->tape, head->bias_param[0], out, err);
    return head->bias ? gr_nn_constant(run->tape, gr_param_dtype(gr_matrix_dtype(head->matrix)), head->out, head->bias, out, err)
                      : GRAFT_OK;
}

/* Some rows of *x in its place. */
static graft_status pick(gr_run *run, gr_var **x, int64_t n, const int32_t *rows, graft_error *err) {
    gr_gather_rows_params params = {.n = n, .rows = rows};
    gr_var *y;
    GR_TRY(gr_tape_apply(run->tape, &gr_op_gather_rows, x, 1, &params, &y, err));
    gr_var_drop(*x);
    *x = y;
    return GRAFT_OK;
}

/* Rows of an update among rows [begin, begin + n); `to` has room for them. A range of no rows stands for none: none at all would mean
 * every row. */
static void cut_ranges(const gr_head_rows *u, int64_t begin, int64_t n, gr_row_range *to, gr_scale_columns_params *out) {
    *out = (gr_scale_columns_params){.ranges = to};
    for (int i = 0; i < u->n_ranges && u->ranges; i++) {
        const gr_row_range r = {GR_MAX(u->ranges[i].begin - begin, (int64_t)0), GR_MIN(u->ranges[i].end - begin, n)};
        if (r.begin < r.end) to[out->n_ranges++] = r;
    }
    if (u->n_ranges && !out->n_ranges) to[out->n_ranges++] = (gr_row_range){0, 0};
}

static graft_status add_update(gr_run *run, gr_head_update *u, int64_t n, const int32_t *rows, const gr_scale_columns_params *scale,
                               gr_var **y, graft_error *err) {
    if (n >= 0) GR_TRY(pick(run, &u->u, n, rows, err));
    gr_var *low[3] = {*y, u->u, u->b};
    GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_low_rank, low, 3, NULL, y, err));
    gr_var_drop(u->u);
    gr_var_drop(u->b);
    if (!u->factor) return GRAFT_OK;
    if (u->rows.dropout > 0) return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "dropout in front of logits that are scaled");
    gr_var *in[2] = {*y, u->factor};
    GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_scale_columns, in, 2, scale, y, err));
    gr_var_drop(u->factor);
    return GRAFT_OK;
}

size_t gr_nn_logits_room(const gr_run *run, int64_t n) {
    size_t ranges = 0;
    for (int i = 0; i < run->n_adapters; i++) ranges += (size_t)run->adapters[i].n_ranges + 1;
    return ranges * sizeof(gr_row_range) + (size_t)n * sizeof(int32_t);
}

graft_status gr_nn_logits(gr_run *run, const gr_linear *head, gr_var *x, int64_t begin, int64_t n, void *room,
                          gr_var **out, graft_error *err) {
    gr_head_update updates[GR_HEAD_UPDATES];
    gr_var *in[2] = {gr_var_keep(x), NULL}, *y;
    gr_row_range *ranges = room;
    int n_updates;
    GR_TRY(gr_nn_head_updates(run, head, x, updates, &n_updates, err));
    for (int i = 0; room && i < run->n_adapters; i++) ranges += run->adapters[i].n_ranges + 1;
    int32_t *rows = (int32_t *)ranges;
    for (int64_t i = 0; i < n; i++) rows[i] = (int32_t)(begin + i);
    if (n >= 0) GR_TRY(pick(run, &in[0], n, rows, err));
    if (head->weight[0]) GR_TRY(gr_nn_leaf(run->tape, head->weight[0], &in[1], err));
    gr_linear_params params = {.w = head->matrix, .wide = true};
    GR_TRY(gr_tape_apply(run->tape, &gr_op_linear, in, in[1] ? 2 : 1, &params, &y, err));
    gr_var_drop(in[0]);
    gr_var_drop(in[1]);
    ranges = room;
    for (int i = 0; i < n_updates; i++) {
        const gr_head_rows *u = &updates[i].rows;
        gr_scale_columns_params scale = {.n_ranges = u->n_ranges, .ranges = u->ranges};
        if (n >= 0) cut_ranges(u, begin, n, ranges, &scale);
        if (n >= 0) ranges += u->n_ranges + 1;
        GR_TRY(add_update(run, &updates[i], n, rows, &scale, &y, err));
    }
    GR_TRY(add_bias(run, head, &y, err));
    *out = y;
    return GRAFT_OK;
}

static graft_status norm_vector(gr_run *run, const gr_norm *n, bool bias, gr_dtype dt, gr_var **out, graft_error *err) {
    gr_param *p = bias ? n->bias_param : n->param;
    if (p) return gr_nn_leaf(run->tape, p, out, err);
    return gr_nn_constant(run->tape, gr_param_dtype(dt), n->size, bias ? n->bias : n->weight, out, err);
}

graft_status gr_nn_norm(gr_run *run, const gr_norm *n, double eps, gr_var *x, gr_var **out, graft_error *err) {
    gr_var *in[3] = {x, NULL, NULL}, *y;
    gr_dtype dt = gr_var_array(x)->dtype;
    GR_TRY(norm_vector(run, n, false, dt, &in[1], err));
    if (n->bias) {
        gr_layernorm_params params = {.eps = eps};
        GR_TRY(norm_vector(run, n, true, dt, &in[2], err));
        GR_TRY(gr_tape_apply(run->tape, &gr_op_layernorm, in, 3, &params, &y, err));
    } else {
        gr_rmsnorm_params params = {.eps = eps};
        GR_TRY(gr_tape_apply(run->tape, &gr_op_rmsnorm, in, 2, &params, &y, err));
    }
    gr_var_drop(in[1]);
    gr_var_drop(in[2]);
    *out = y;
    return GRAFT_OK;
}

graft_status gr_nn_add(gr_run *run, gr_var **a, gr_var *b, graft_error *err) {
    gr_var *in[2] = {*a, b};
    return gr_tape_apply_consume(run->tape, &gr_op_add, in, 2, NULL, a, err);
}

graft_status gr_nn_swiglu(gr_run *run, gr_var *gate_up, const gr_linear *down, gr_var **out, graft_error *err) {
    return gr_nn_gated(run, GR_ACTIVATION_SILU, gate_up, down, out, err);
}

graft_status gr_nn_gated(gr_run *run, gr_activation f, gr_var *gate_up, const gr_linear *down, gr_var **out,
                         graft_error *err) {
    gr_swiglu_params params = {.f = f};
    gr_var *y;
    GR_TRY(gr_tape_apply(run->tape, &gr_op_swiglu, &gate_up, 1, &params, &y, err));
    const gr_hooks *h = run->hooks;
    if (h && h->scale) GR_TRY(h->scale(h->self, run, down, true, &y, err));
    *out = y;
    return GRAFT_OK;
}

graft_status gr_nn_activate(gr_run *run, gr_activation f, gr_var **up, const gr_linear *down, graft_error *err) {
    gr_activation_params params = {.f = f};
    gr_var *in[1] = {*up};
    GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_activation, in, 1, &params, up, err));
    const gr_hooks *h = run->hooks;
    return h && h->scale && down ? h->scale(h->self, run, down, true, up, err) : GRAFT_OK;
}

graft_status gr_nn_scale(gr_run *run, int64_t n, void *factors, gr_var **x, graft_error *err) {
    gr_scale_columns_params params = {0};
    gr_var *in[2] = {*x, NULL};
    GR_TRY(gr_nn_constant(run->tape, gr_param_dtype(gr_var_array(*x)->dtype), n, factors, &in[1], err));
    GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_scale_columns, in, 2, &params, x, err));
    gr_var_drop(in[1]);
    return GRAFT_OK;
}

graft_status gr_nn_dropout(gr_run *run, double p, uint64_t stream, gr_var **x, graft_error *err) {
    if (!run->batch->training || p <= 0) return GRAFT_OK;
    gr_dropout_params params = {.p = p, .seed = run->batch->seed, .stream = stream, .key = run->dropout_key};
    gr_var *in[1] = {*x};
    return gr_tape_apply_consume(run->tape, &gr_op_dropout, in, 1, &params, x, err);
}

static graft_status head_norms(gr_run *run, const gr_nn_attention *a, gr_var **qkv, graft_error *err) {
    gr_var *in[3] = {*qkv, NULL, NULL};
    gr_dtype dt = gr_var_array(*qkv)->dtype;
    GR_TRY(norm_vector(run, a->q_norm, false, dt, &in[1], err));
    GR_TRY(norm_vector(run, a->k_norm, false, dt, &in[2], err));
    gr_qkv_norm_params params = {a->n_heads, a->n_kv_heads, a->head_dim, a->eps};
    GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_qkv_norm, in, 3, &params, qkv, err));
    gr_var_drop(in[1]);
    gr_var_drop(in[2]);
    return GRAFT_OK;
}

/* Rows of sequence s into its targets, which are filled one after the other. */
static void keep_rows(gr_device *d, const gr_nn_attention *a, const gr_array *from, int64_t k_column, int64_t begin, int64_t end,
                      const gr_kv_layer *kv) {
    const int64_t width = (int64_t)a->n_kv_heads * a->head_dim, ld = from->shape.d[1];
    const size_t size = gr_dtype_bytes(from->dtype, 1);
    for (int i = 0; i < kv->n_targets && begin < end; i++) {
        const gr_kv_target *to = &kv->targets[i];
        const int64_t n = GR_MIN(to->n, end - begin);
        const char *k = (const char *)from->data + (size_t)(begin * ld + k_column) * size, *v = k + (size_t)width * size;
        d->k->keep_kv(d, from->dtype, to->format, n, a->n_kv_heads, a->head_dim, k, ld, to->k, to->k_ld, to->head);
        d->k->keep_kv(d, from->dtype, to->format, n, a->n_kv_heads, a->head_dim, v, ld, to->v, to->v_ld, to->head);
        begin += n;
    }
}

void gr_nn_keep_rows(gr_run *run, const gr_nn_attention *a, const gr_var *from, int64_t k_column) {
    const gr_batch *b = run->batch;
    const gr_array *rows = gr_var_array(from);
    gr_device *d = gr_tape_device(run->tape);
    if (!b->kv || gr_tape_is_dry(run->tape)) return;
    for (int s = 0; s < b->n_seqs; s++)
        if (b->kv[s]) keep_rows(d, a, rows, k_column, b->bounds[s], b->bounds[s + 1], &b->kv[s]->layers[a->layer]);
}

/* The table of the bias as an input of attention; NULL where there is none. */
static graft_status bias_table(gr_run *run, const gr_nn_attention *a, gr_dtype dt, gr_var **out, graft_error *err) {
    *out = NULL;
    if (!a->bias) return GRAFT_OK;
    const gr_site *s = a->bias->site;
    gr_param *p = a->bias->param;
    gr_array table = {gr_param_dtype(dt), gr_shape2(s->in, s->out), p ? p->value : a->bias->weight};
    return gr_tape_leaf(run->tape, &table, p ? gr_param_grad(p, a->layer) : NULL, out, err);
}

/* Dropout of a's weights; the source's layers, the targets' and those across have streams of their own. */
static void set_dropout(const gr_run *run, const gr_nn_attention *a, bool across, gr_attention_params *p) {
    if (!run->batch->training || !(a->dropout > 0)) return;
    const uint64_t place = (uint64_t)a->layer * 4 + (uint64_t)run->is_source + 2 * (uint64_t)across;
    p->dropout = a->dropout;
    p->seed = run->batch->seed;
    p->stream = gr_rng_stream(GR_RNG_ATTENTION, place);
    p->key = run->dropout_key;
}

graft_status gr_nn_attend_across(gr_run *run, const gr_nn_attention *a, gr_var **q, gr_var *kv, gr_var **out,
                                 graft_error *err) {
    gr_var *rows = kv ? kv : *q; /* without rows to look at any will do */
    gr_var *in[3] = {*q, rows, rows};
    gr_attention_params params = {.n_heads = a->n_heads, .n_kv_heads = a->n_kv_heads, .head_dim = a->head_dim,
                                  .v_column = kv ? (int64_t)a->n_kv_heads * a->head_dim : 0, .scale = a->scale,
                                  .n_seqs = run->batch->n_seqs, .seqs = a->seqs};
    set_dropout(run, a, true, &params);
    GR_TRY(gr_tape_apply(run->tape, &gr_op_attention, in, 3, &params, out, err));
    gr_var_drop(*q);
    *q = NULL;
    return GRAFT_OK;
}

static graft_status zeros_like(gr_run *run, const gr_var *y, gr_var **out, graft_error *err) {
    const gr_array *a = gr_var_array(y);
    GR_TRY(gr_tape_input(run->tape, a->dtype, &a->shape, false, out, err));
    void *zeros = gr_var_array(*out)->data;
    if (zeros) memset(zeros, 0, gr_dtype_bytes(a->dtype, (size_t)(a->shape.d[0] * a->shape.d[1])));
    return GRAFT_OK;
}

graft_status gr_nn_attend(gr_run *run, const gr_nn_attention *a, gr_var **qkv, gr_var **out, graft_error *err) {
    gr_tape *t = run->tape;
    if (a->q_norm) GR_TRY(head_norms(run, a, qkv, err));
    if (a->cos_sin) {
        gr_rope_params params = {0, a->n_heads + a->n_kv_heads, a->head_dim, a->cos_sin};
        gr_var *in[1] = {*qkv};
        GR_TRY(gr_tape_apply_consume(t, &gr_op_rope, in, 1, &params, qkv, err));
    }
    int64_t q = (int64_t)a->n_heads * a->head_dim, kv = (int64_t)a->n_kv_heads * a->head_dim;
    gr_nn_keep_rows(run, a, *qkv, q);
    gr_var *in[6] = {*qkv, *qkv, *qkv, NULL, NULL, NULL}, *y;
    const gr_hooks *h = run->hooks;
    if (run->prefix_bounds) GR_TRY(h->kv_rows(h->self, run, a->layer, &in[3], &in[4], err));
    GR_TRY(bias_table(run, a, gr_var_array(*qkv)->dtype, &in[5], err));
    gr_attention_params params = {.n_heads = a->n_heads, .n_kv_heads = a->n_kv_heads, .head_dim = a->head_dim,
                                  .k_column = q, .v_column = q + kv, .scale = a->scale, .causal = a->causal,
                                  .window = a->window, .bias_bidirectional = a->bias_bidirectional,
                                  .bias_max_distance = a->bias_max_distance, .n_seqs = run->batch->n_seqs,
                                  .seqs = a->seqs};
    set_dropout(run, a, false, &params);
    GR_TRY(gr_tape_apply(t, &gr_op_attention, in, in[5] ? 6 : in[3] ? 5 : 3, &params, &y, err));
    for (int i = 3; i < 6; i++) gr_var_drop(in[i]);
    if (a->gated) *a->gated = NULL;
    if (run->gated_bounds && a->gated) GR_TRY(zeros_like(run, y, a->gated, err));
    if (run->gated_bounds) GR_TRY(h->gated(h->self, run, a, *qkv, a->gated ? a->gated : &y, err));
    gr_var_drop(*qkv);
    *qkv = NULL;
    *out = y;
    return GRAFT_OK;
}
