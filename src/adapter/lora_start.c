/* LoRA that starts from factors of the weight itself: its largest singular triplets (PiSSA, Meng et al. 2024) or the leading
 * part of its QR decomposition (OLoRA, Buyukakyuz 2024). Reference: peft 0.21 tuners/lora/layer.py, pissa_init and olora_init,
 * which replace the weight W by W - s B0 A0, and tuners/lora/model.py, subtract_mutated_init.
 *
 * W stays as it is here, whatever format it has: W - s B0 A0 + s B A = W + s [B, -B0] [A; A0], a LoRA of twice the rank whose
 * second half is frozen. So it is computed, merged and saved; what is trained are the first halves. A starts in A's rows, so
 * that it shares their memory; B's columns are copied in front of the passes of a step, and their gradient behind them. */
#include <math.h>

#include "adapter/lora.h"
#include "base/linalg.h"
#include "model/shape.h"

bool gr_lora_starts_from_weight(const gr_lora_config *c) { return c->init == GR_LORA_PISSA || c->init == GR_LORA_OLORA; }

double gr_lora_start_alpha(const gr_lora_config *c) { return c->rslora ? sqrt(2) : 2; }

static char *element(const gr_param *p, void *x, int64_t i) { return (char *)x + gr_dtype_bytes(p->dtype, (size_t)i); }

/* --- Factors of the weight ---------------------------------------------------------------------------------------------- */

/* Rows of A0 (r,in) and columns of B0, as rows (r,out), in double. */
static graft_status factors(gr_adapter *a, const gr_lora_pair *p, const gr_lora_config *c, int64_t r, double *a0, double *b0,
                            graft_error *err) {
    const gr_site *site = p->site;
    gr_team *team = gr_model_device(a->model)->team;
    float *w = gr_alloc(a->a, (size_t)(site->in * site->out) * sizeof *w);
    double *s = gr_alloc(a->a, (size_t)r * sizeof *s);
    graft_status st = w && s ? gr_model_read_outputs(a->model, site, 0, site->out, w, err) : gr_fail_memory(err);
    gr_model_leave(a->model, site, true);
    if (st == GRAFT_OK && c->init == GR_LORA_OLORA)
        st = gr_qr_leading(a->a, team, w, site->out, site->in, r, b0, a0, err);
    if (st == GRAFT_OK && c->init == GR_LORA_PISSA) {
        uint64_t seed = gr_hash_bytes(site->name, strlen(site->name), 0);
        st = gr_svd_largest(a->a, team, w, site->out, site->in, r, (int)c->pissa_rounds, seed, b0, s, a0, err);
        for (int64_t i = 0; st == GRAFT_OK && i < r; i++) {
            double root = sqrt(s[i] / fabs(p->scale));
            for (int64_t k = 0; k < site->in; k++) a0[i * site->in + k] *= root;
            for (int64_t k = 0; k < site->out; k++) b0[i * site->out + k] *= p->scale < 0 ? -root : root;
        }
    }
    gr_free(a->a, w);
    gr_free(a->a, s);
    return st == GRAFT_OK || st == GRAFT_ERR_MEMORY ? st : gr_error_prefix(err, st, "%s: %s.weight", a->where, site->name);
}

/* The frozen halves, and where the adapter is new the others too, from which it moves away. */
static graft_status fill(gr_adapter *a, gr_lora_pair *p, const gr_lora_config *c, bool fresh, graft_error *err) {
    int64_t r = p->r / 2, in = p->site->in, out = p->site->out;
    double *a0 = gr_alloc(a->a, (size_t)(r * (in + out)) * sizeof *a0), *b0 = a0 ? a0 + r * in : NULL;
    graft_status st = a0 ? factors(a, p, c, r, a0, b0, err) : gr_fail_memory(err);
    for (int64_t i = 0; st == GRAFT_OK && i < r * in; i++) {
        gr_param_put(p->a, r * in + i, (float)a0[i]);
        if (fresh) gr_param_put(p->own_a, i, (float)a0[i]);
    }
    for (int64_t i = 0; st == GRAFT_OK && i < out; i++)
        for (int64_t k = 0; k < r; k++) {
            gr_param_put(p->b, i * 2 * r + r + k, (float)-b0[k * out + i]);
            if (fresh) gr_param_put(p->own_b, i * r + k, (float)b0[k * out + i]);
        }
    size_t row = gr_dtype_bytes(p->b->dtype, (size_t)r);
    for (int64_t i = 0; st == GRAFT_OK && p->b_start && i < out; i++)
        memcpy((char *)p->b_start + (size_t)i * row, element(p->b, p->b->value, i * 2 * r + r), row);
    gr_free(a->a, a0);
    if (st == GRAFT_OK && fresh) gr_lora_start_refresh(p, false);
    return st;
}

static graft_status check(const gr_adapter *a, const gr_lora_pair *p, const gr_lora_config *c, graft_error *err) {
    const gr_site *site = p->site;
    bool tied = site->role == GR_ROLE_HEAD && gr_model_head_is_tied(a->model);
    if (site->role == GR_ROLE_EMBED || tied)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: init_lora_weights '%s' is not supported where LoRA adapts '%s', %s", a->where,
                       c->init_text, site->name, tied ? "whose weight is the embedding's" : "the embedding");
    if (p->r / 2 > GR_MIN(site->in, site->out))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: init_lora_weights '%s': '%s' of %lld x %lld has no rank of %lld", a->where,
                       c->init_text, site->name, (long long)site->out, (long long)site->in, (long long)(p->r / 2));
    if (p->scale == 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: init_lora_weights '%s' with a scale of 0", a->where, c->init_text);
    if (site->role == GR_ROLE_HEAD && c->dropout > 0)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: init_lora_weights '%s' with lora_dropout is not supported on the head", a->where,
                       c->init_text);
    return GRAFT_OK;
}

graft_status gr_lora_start_add(gr_adapter *a, gr_lora_pair *p, const gr_lora_config *c, bool fresh, graft_error *err) {
    int layer = gr_adapter_depth(a->model, p->site);
    int64_t r = p->r / 2;
    gr_shape shape = gr_shape2(p->site->out, r);
    GR_TRY(check(a, p, c, err));
    if (!(p->own_a = gr_arena_alloc(&a->arena, sizeof *p->own_a))) return gr_fail_memory(err);
    *p->own_a = *p->a;
    p->own_a->shape = gr_shape2(r, p->site->in);
    p->own_a->n = r * p->site->in;
    GR_TRY(gr_adapter_new_param(a, p->b->name, &shape, true, &p->own_b, err));
    if (c->dropout > 0 && !(p->b_start = gr_arena_alloc(&a->arena, gr_dtype_bytes(p->b->dtype, (size_t)p->own_b->n))))
        return gr_fail_memory(err);
    GR_TRY(gr_adapter_enter(a, p->a->name, p->own_a, layer, err));
    GR_TRY(gr_adapter_enter(a, p->b->name, p->own_b, layer, err));
    GR_TRY(gr_adapter_store(a, p->a->name, fresh ? p->a : p->own_a, GR_FILE_ADAPTER, err));
    GR_TRY(gr_adapter_store(a, p->b->name, fresh ? p->b : p->own_b, GR_FILE_ADAPTER, err));
    return fill(a, p, c, fresh, err);
}

/* --- Around the passes of a step ------------------------------------------------------------------------------------------ */

void gr_lora_start_refresh(const gr_lora_pair *p, bool training) {
    int64_t r = p->r / 2;
    size_t row = gr_dtype_bytes(p->b->dtype, (size_t)r);
    for (int64_t i = 0; i < p->site->out; i++)
        memcpy(element(p->b, p->b->value, i * 2 * r), element(p->b, p->own_b->value, i * r), row);
    if (!training) return;
    memset(element(p->a, p->a->grad, r * p->site->in), 0, gr_dtype_bytes(p->a->dtype, (size_t)(r * p->site->in)));
    memset(p->b->grad, 0, gr_dtype_bytes(p->b->dtype, (size_t)p->b->n));
}

void gr_lora_start_collect(const gr_lora_pair *p) {
    int64_t r = p->r / 2;
    for (int64_t i = 0; i < p->site->out; i++)
        for (int64_t k = 0; k < r; k++)
            gr_param_add_grad(p->own_b, i * r + k, gr_param_grad_at(p->b, i * 2 * r + k));
}

/* A file of the reference's own form holds the first halves alone; from now on what is stored is whole. */
void gr_lora_start_loaded(gr_adapter *a, const gr_lora_pair *p) {
    int64_t r = p->r / 2;
    for (size_t i = 0; i < a->n_stored; i++) {
        gr_stored *s = &a->stored[i];
        if (s->param == p->own_a) s->param = p->a;
        if (s->param == p->own_b) {
            s->param = p->b;
            return;
        }
    }
    size_t row = gr_dtype_bytes(p->b->dtype, (size_t)r);
    for (int64_t i = 0; i < p->site->out; i++) {
        memcpy(element(p->b, p->own_b->value, i * r), element(p->b, p->b->value, i * 2 * r), row);
        if (p->b_start) memcpy((char *)p->b_start + (size_t)i * row, element(p->b, p->b->value, i * 2 * r + r), row);
    }
}

/* y += scale * B drop(x) A^T of the first half, which is trained, or of the second. */
static graft_status add_half(gr_run *run, const gr_run_adapter *rows, const gr_lora_pair *p, bool second, int64_t column, double scale,
                             double dropout, gr_var *x, gr_var **y, graft_error *err) {
    gr_lora_params params = {.column = {column}, .scale = {scale}, .n_ranges = rows->n_ranges, .ranges = rows->ranges,
                             .dropout = dropout, .seed = run->batch->seed, .stream = {p->stream}, .key = run->dropout_key};
    gr_array a0 = {p->a->dtype, p->own_a->shape, element(p->a, p->a->value, p->own_a->n)};
    gr_array b0 = {p->b->dtype, p->own_b->shape, p->b_start};
    gr_var *in[4] = {*y, x, NULL, NULL};
    if (second) {
        GR_TRY(gr_tape_leaf(run->tape, &a0, NULL, &in[2], err));
        GR_TRY(gr_tape_leaf(run->tape, &b0, NULL, &in[3], err));
    } else {
        GR_TRY(gr_nn_leaf(run->tape, p->own_a, &in[2], err));
        GR_TRY(gr_nn_leaf(run->tape, p->own_b, &in[3], err));
    }
    GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_lora, in, 4, &params, y, err));
    gr_var_drop(in[2]);
    gr_var_drop(in[3]);
    return GRAFT_OK;
}

graft_status gr_lora_start_dropped(gr_run *run, const gr_run_adapter *rows, const gr_lora_pair *p, int64_t column, double dropout,
                                   gr_var *x, gr_var **y, graft_error *err) {
    GR_TRY(add_half(run, rows, p, false, column, p->scale, dropout, x, y, err));
    return add_half(run, rows, p, true, column, p->scale, 0, x, y, err);
}

graft_status gr_lora_start_redropped(gr_run *run, const gr_run_adapter *rows, const gr_lora_pair *p, int64_t column, double dropout,
                                     gr_var *x, gr_var **y, graft_error *err) {
    GR_TRY(add_half(run, rows, p, true, column, -p->scale, dropout, x, y, err));
    return add_half(run, rows, p, true, column, p->scale, 0, x, y, err);
}
