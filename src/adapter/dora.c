/* DoRA (Liu et al. 2024): W' = m (W + s B A) / ||W + s B A||, row by row, with trained magnitudes m. Reference: peft 0.21
 * tuners/lora/dora.py, where the norm is a constant for the gradient. Rows are outputs: of an embedding the columns of its table.
 *
 * With c = m / ||W + s B A|| the output is c (y - b) + b of what LoRA gives, y, and the bias b: a scale of y's columns by c
 * and a shift by t = (1 - c) b. Both are the same for a whole step and are made once in front of its passes;
 * dm = (dc - b dt) / norm is taken behind them, and where
 * b is trained too (1 - c) dt is added to what came to it as a part of y. A row of zeros has no direction: c is 1 and dm is 0 there, where the
 * reference gives NaN.
 *
 * Where inputs are dropped out, in training, what DoRA adds to y sees x' = drop(x) and y itself x: y + (c - 1) W x' + c s B A x' (op
 * dora), with a second product of W; b is no part of it. On the head, whose logits are never held whole, the op of the loss does both, in
 * front of the bias. */
#include <math.h>

#include "adapter/lora.h"
#include "model/shape.h"

enum { BLOCK_ROWS = 64 };

graft_status gr_dora_add(gr_adapter *a, gr_lora_pair *p, bool dropout, graft_error *err) {
    const gr_site *site = p->site;
    gr_shape shape = gr_shape1(site->out);
    const bool head = site->role == GR_ROLE_HEAD, shifts = site->bias && !head;
    if (head && dropout && a->trainable && gr_model_get_config(a->model)->task == GR_TASK_SEQ_CLS)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: use_dora with lora_dropout is not supported where LoRA adapts '%s', the classifier",
                       a->where, site->name);
    if (a->scale != 1)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: DoRA's directions cannot be scaled by %g", a->where, a->scale);
    const char *name = gr_adapter_text(a, err, "base_model.model.%s.lora_magnitude_vector", site->name);
    if (!name) return GRAFT_ERR_MEMORY;
    GR_TRY(gr_adapter_new_param(a, name, &shape, true, &p->magnitude, err));
    GR_TRY(gr_adapter_new_param(a, name, &shape, false, &p->factor, err));
    if (shifts) GR_TRY(gr_adapter_new_param(a, name, &shape, false, &p->shift, err));
    if (!(p->norm = gr_arena_alloc(&a->arena, (size_t)site->out * sizeof *p->norm))) return gr_fail_memory(err);
    if (shifts) {
        if (!(p->bias = gr_arena_alloc(&a->arena, (size_t)site->out * sizeof *p->bias))) return gr_fail_memory(err);
        GR_TRY(gr_model_read_tensor(a->model, site->bias_tensor, 0, site->out, p->bias, err));
    }
    if (dropout && !head && site->role != GR_ROLE_EMBED) GR_TRY(gr_lora_make_matrix(a, site, &p->w, err));
    return gr_adapter_add(a, name, p->magnitude, gr_adapter_depth(a->model, site), err);
}

/* The sum is rounded once. */
static void add_grad(const gr_param *p, int64_t i, double v) {
    if (p->dtype == GR_F64)
        ((double *)p->grad)[i] += v;
    else
        ((float *)p->grad)[i] = (float)(((const float *)p->grad)[i] + v);
}

typedef struct norm_job {
    const gr_lora_pair *p;
    int64_t row, columns;
    const float *w;
} norm_job;

static void norm_rows(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    const norm_job *j = arg;
    for (size_t r = begin; r < end; r++) {
        double sum = 0;
        const float *w = j->w + (int64_t)r * j->columns;
        for (int64_t c = 0; c < j->columns; c++) sum += (double)w[c] * w[c];
        j->p->norm[j->row + (int64_t)r] = sqrt(sum);
    }
}

/* Rows of W + s B A in float; parameters in double are for tests and are rounded. */
static graft_status adapted_rows(gr_adapter *a, const gr_lora_pair *p, int64_t row, int64_t n, float *w, graft_error *err) {
    const gr_site *site = p->site;
    gr_device *dev = gr_model_device(a->model);
    GR_TRY(gr_model_read_outputs(a->model, site, row, n, w, err));
    if (p->a->dtype == GR_F32)
        return gr_gemm(dev, false, false, n, site->in, p->r, p->scale, GR_F32, (const float *)p->b->value + row * p->r, p->r,
                       p->a->value, site->in, 1, GR_F32, w, site->in, err);
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < site->in; c++)
            for (int64_t k = 0; k < p->r; k++)
                w[i * site->in + c] += (float)(p->scale * gr_param_at(p->b, (row + i) * p->r + k) *
                                               gr_param_at(p->a, k * site->in + c));
    return GRAFT_OK;
}

typedef struct column_job {
    const gr_lora_pair *p;
    int64_t n;
    const float *w;
} column_job;

static void add_squares(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    const column_job *j = arg;
    int64_t width = j->p->site->out;
    for (int64_t r = 0; r < j->n; r++)
        for (size_t c = begin; c < end; c++) j->p->norm[c] += (double)j->w[r * width + (int64_t)c] * j->w[r * width + (int64_t)c];
}

/* Rows [row, row + n) of a table, which is (W + s B A)^T. */
static graft_status adapted_table(gr_adapter *a, const gr_lora_pair *p, int64_t row, int64_t n, float *w, graft_error *err) {
    const gr_site *site = p->site;
    GR_TRY(gr_model_read_tensor(a->model, site->weight_tensor, row, n, w, err));
    if (p->a->dtype == GR_F32)
        return gr_gemm(gr_model_device(a->model), true, true, n, site->out, p->r, p->scale, GR_F32, (const float *)p->a->value + row,
                       site->in, p->b->value, p->r, 1, GR_F32, w, site->out, err);
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < site->out; c++)
            for (int64_t k = 0; k < p->r; k++)
                w[i * site->out + c] += (float)(p->scale * gr_param_at(p->b, c * p->r + k) *
                                                gr_param_at(p->a, k * site->in + row + i));
    return GRAFT_OK;
}

static graft_status take_table_norms(gr_adapter *a, const gr_lora_pair *p, bool once, graft_error *err) {
    const gr_site *site = p->site;
    float *w = gr_alloc(a->a, (size_t)(BLOCK_ROWS * site->out) * sizeof *w);
    graft_status st = w ? GRAFT_OK : gr_fail_memory(err);
    memset(p->norm, 0, (size_t)site->out * sizeof *p->norm);
    for (int64_t r = 0; r < site->in && st == GRAFT_OK; r += BLOCK_ROWS) {
        column_job j = {.p = p, .n = GR_MIN(site->in - r, (int64_t)BLOCK_ROWS), .w = w};
        st = adapted_table(a, p, r, j.n, w, err);
        if (st == GRAFT_OK) gr_parallel_for(gr_model_device(a->model)->team, (size_t)site->out, 64, add_squares, &j);
        gr_model_leave(a->model, site, once);
    }
    for (int64_t c = 0; st == GRAFT_OK && c < site->out; c++) p->norm[c] = sqrt(p->norm[c]);
    gr_free(a->a, w);
    return st;
}

/* `once`: what is read is not read again soon. */
static graft_status take_norms(gr_adapter *a, const gr_lora_pair *p, bool once, graft_error *err) {
    const gr_site *site = p->site;
    if (site->role == GR_ROLE_EMBED) return take_table_norms(a, p, once, err);
    float *w = gr_alloc(a->a, (size_t)(BLOCK_ROWS * site->in) * sizeof *w);
    graft_status st = w ? GRAFT_OK : gr_fail_memory(err);
    for (int64_t r = 0; r < site->out && st == GRAFT_OK; r += BLOCK_ROWS) {
        int64_t n = GR_MIN(site->out - r, (int64_t)BLOCK_ROWS);
        norm_job j = {.p = p, .row = r, .columns = site->in, .w = w};
        st = adapted_rows(a, p, r, n, w, err);
        if (st == GRAFT_OK) gr_parallel_for(gr_model_device(a->model)->team, (size_t)n, 8, norm_rows, &j);
    }
    gr_model_leave(a->model, site, once);
    gr_free(a->a, w);
    return st;
}

graft_status gr_dora_initialise(gr_adapter *a, gr_lora_pair *p, graft_error *err) {
    GR_TRY(take_norms(a, p, true, err));
    for (int64_t i = 0; i < p->magnitude->n; i++) gr_param_put(p->magnitude, i, p->norm[i]);
    return GRAFT_OK;
}

/* A trained bias is a tensor of the adapter's variant, which is made after the pairs. */
static void find_bias(gr_adapter *a, gr_lora_pair *p) {
    char tensor[300];
    if (!p->bias || !a->variant) return;
    snprintf(tensor, sizeof tensor, "%s.bias", p->site->name);
    p->own_bias = gr_variant_find(a->variant, tensor);
    for (int64_t i = 0; p->own_bias && i < p->site->out; i++) p->bias[i] = (float)gr_param_at(p->own_bias, i);
}

graft_status gr_dora_refresh(gr_adapter *a, gr_lora_pair *p, bool training, graft_error *err) {
    find_bias(a, p);
    size_t bytes = gr_dtype_bytes(p->magnitude->dtype, (size_t)p->magnitude->n);
    GR_TRY(take_norms(a, p, false, err));
    for (int64_t i = 0; i < p->magnitude->n; i++) {
        double c = p->norm[i] > 0 ? gr_param_at(p->magnitude, i) / p->norm[i] : 1;
        gr_param_put(p->factor, i, c);
        if (p->shift) gr_param_put(p->shift, i, (1 - c) * p->bias[i]);
    }
    if (training) memset(p->factor->grad, 0, bytes);
    if (training && p->shift) memset(p->shift->grad, 0, bytes);
    return GRAFT_OK;
}

void gr_dora_collect(gr_lora_pair *p) {
    for (int64_t i = 0; i < p->magnitude->n; i++) {
        double d = gr_param_grad_at(p->factor, i);
        if (p->shift) d -= p->bias[i] * gr_param_grad_at(p->shift, i);
        if (p->own_bias) {
            double more = (1 - gr_param_at(p->factor, i)) * gr_param_grad_at(p->shift, i);
            add_grad(p->own_bias, i, more);
        }
        if (p->norm[i] > 0) add_grad(p->magnitude, i, d / p->norm[i]);
    }
}

graft_status gr_dora_scale(gr_run *run, const gr_run_adapter *rows, const gr_lora_pair *p, int64_t column, gr_var **y,
                           graft_error *err) {
    gr_scale_columns_params params = {.column = column, .n_ranges = rows->n_ranges, .ranges = rows->ranges};
    gr_var *in[3] = {*y, NULL, NULL};
    GR_TRY(gr_nn_leaf(run->tape, p->factor, &in[1], err));
    if (p->shift) GR_TRY(gr_nn_leaf(run->tape, p->shift, &in[2], err));
    GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_scale_columns, in, p->shift ? 3 : 2, &params, y, err));
    gr_var_drop(in[1]);
    gr_var_drop(in[2]);
    return GRAFT_OK;
}

graft_status gr_dora_dropped(gr_run *run, const gr_run_adapter *rows, const gr_lora_pair *p, int64_t column, double dropout, gr_var *x,
                             gr_var **y, graft_error *err) {
    gr_dora_params params = {.w = p->w, .column = column, .scale = p->scale, .n_ranges = rows->n_ranges, .ranges = rows->ranges,
                             .dropout = dropout, .seed = run->batch->seed, .stream = p->stream, .key = run->dropout_key};
    const gr_param *const own[3] = {p->a, p->b, p->factor};
    gr_var *in[5] = {*y, x};
    for (int i = 0; i < 3; i++) GR_TRY(gr_nn_leaf(run->tape, own[i], &in[2 + i], err));
    GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_dora, in, 5, &params, y, err));
    for (int i = 2; i < 5; i++) gr_var_drop(in[i]);
    return p->own_a ? gr_lora_start_redropped(run, rows, p, column, dropout, x, y, err) : GRAFT_OK;
}
