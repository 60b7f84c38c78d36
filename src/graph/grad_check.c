/* Gradient check by central differences: d/dx sum(w out) = (f(x + h) - f(x - h)) / 2h + O(h^2), everything in double. */
#include "graph/graph.h"

#include <math.h>

typedef struct check {
    gr_device *dev;
    gr_tape_body body;
    void *arg;
    gr_array *in;
    int n_in;
    gr_pool *pool;
    gr_tape *probe, *tape; /* without and with a record */
    double *w;             /* seed of the backward, one per element of the output */
    int64_t n_out;
} check;

static graft_status run(check *k, gr_tape *t, gr_var **vars, gr_var **out, graft_error *err) {
    for (int i = 0; i < k->n_in; i++) {
        if (k->in[i].dtype != GR_F64) return gr_fail(err, GRAFT_ERR_ARGUMENT, "gradient check: input %d is not F64", i);
        int64_t n = 0;
        gr_shape_elements(&k->in[i].shape, &n);
        GR_TRY(gr_tape_input(t, GR_F64, &k->in[i].shape, true, &vars[i], err));
        if (n) memcpy(gr_var_array(vars[i])->data, k->in[i].data, (size_t)n * sizeof(double));
    }
    GR_TRY(k->body(t, k->arg, vars, k->n_in, out, err));
    if (gr_var_array(*out)->dtype != GR_F64) return gr_fail(err, GRAFT_ERR_ARGUMENT, "gradient check: output is not F64");
    return GRAFT_OK;
}

static graft_status value(check *k, double *f, graft_error *err) {
    gr_var *vars[GR_OP_MAX_IN], *out;
    graft_status st = run(k, k->probe, vars, &out, err);
    if (st == GRAFT_OK) {
        const double *y = gr_var_array(out)->data;
        *f = 0;
        for (int64_t i = 0; i < k->n_out; i++) *f += k->w[i] * y[i];
    }
    gr_tape_reset(k->probe);
    return st;
}

static graft_status backward(check *k, gr_var **vars, graft_error *err) {
    gr_var *out;
    GR_TRY(run(k, k->tape, vars, &out, err));
    gr_array seed = *gr_var_array(out);
    gr_shape_elements(&seed.shape, &k->n_out);
    k->w = gr_calloc(gr_allocator(k->dev->ctx), (size_t)k->n_out + 1, sizeof(double));
    if (!k->w) return gr_fail_memory(err);
    for (int64_t i = 0; i < k->n_out; i++) k->w[i] = gr_rng_normal(1, gr_rng_stream(GR_RNG_TEST, 0), (uint64_t)i);
    seed.data = k->w;
    return gr_tape_backward(k->tape, out, &seed, err);
}

static graft_status compare(check *k, gr_var **vars, double step, double *worst, graft_error *err) {
    for (int i = 0; i < k->n_in; i++) {
        const gr_array *grad = gr_tape_grad(k->tape, vars[i]);
        double *x = k->in[i].data;
        int64_t n = 0;
        gr_shape_elements(&k->in[i].shape, &n);
        for (int64_t e = 0; e < n; e++) {
            double old = x[e], above, below;
            x[e] = old + step;
            graft_status st = value(k, &above, err);
            x[e] = old - step;
            if (st == GRAFT_OK) st = value(k, &below, err);
            x[e] = old;
            if (st != GRAFT_OK) return st;
            double numeric = (above - below) / (2 * step), g = grad ? ((const double *)grad->data)[e] : 0;
            double error = fabs(g - numeric) / fmax(1, fabs(numeric));
            *worst = isfinite(error) ? fmax(*worst, error) : INFINITY;
        }
    }
    return GRAFT_OK;
}

graft_status gr_grad_check(gr_device *d, gr_tape_body body, void *arg, gr_array *in, int n_in, double step,
                           double *worst, graft_error *err) {
    if (n_in > GR_OP_MAX_IN) return gr_fail(err, GRAFT_ERR_ARGUMENT, "gradient check: at most %d inputs", GR_OP_MAX_IN);
    const graft_allocator *a = gr_allocator(d->ctx);
    check k = {.dev = d, .body = body, .arg = arg, .in = in, .n_in = n_in};
    gr_var *vars[GR_OP_MAX_IN];
    double found = 0;
    graft_status st;
    GR_GO(end, gr_pool_new(a, 0, false, &k.pool, err));
    GR_GO(end, gr_tape_new(d, k.pool, &(gr_tape_options){.record = true}, &k.tape, err));
    GR_GO(end, gr_tape_new(d, k.pool, &(gr_tape_options){.record = false}, &k.probe, err));
    GR_GO(end, backward(&k, vars, err));
    GR_GO(end, compare(&k, vars, step, &found, err));
    *worst = found;
end:
    gr_tape_free(k.probe);
    gr_tape_free(k.tape);
    gr_pool_free(k.pool);
    gr_free(a, k.w);
    return st;
}
