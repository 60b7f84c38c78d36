/* Gradients of tensors that several places of a pass use: each place's is summed apart over the passes of a step, and
 * they are added behind them, so that the order of additions does not depend on how the step's batch was cut. */
#include "adapter/method.h"

typedef graft_status (*use_fn)(gr_adapter *a, gr_param *p, graft_error *err);

/* Parameters may stand in both lists; what is done here can be done twice. */
static graft_status each_shared(gr_adapter *a, use_fn f, graft_error *err) {
    for (size_t i = 0; i < a->n_params + a->n_owned; i++) {
        gr_param *p = i < a->n_params ? a->params[i] : a->owned[i - a->n_params];
        if (p->grad && gr_param_uses(p) > 1) GR_TRY(f(a, p, err));
    }
    return GRAFT_OK;
}

static size_t bytes_of(const gr_param *p) {
    return gr_dtype_bytes(p->dtype, (size_t)p->n) * (size_t)(gr_param_uses(p) - 1);
}

static graft_status begin(gr_adapter *a, gr_param *p, graft_error *err) {
    if (!p->more_grads && !(p->more_grads = gr_alloc_aligned(a->a, bytes_of(p)))) return gr_fail_memory(err);
    memset(p->more_grads, 0, bytes_of(p));
    return GRAFT_OK;
}

static graft_status join(gr_adapter *a, gr_param *p, graft_error *err) {
    gr_device *d = gr_model_device(a->model);
    (void)err;
    for (int use = 1; p->more_grads && use < gr_param_uses(p); use++)
        d->k->add(d, p->dtype, p->n, p->grad, gr_param_grad(p, use), p->grad);
    if (p->more_grads) memset(p->more_grads, 0, bytes_of(p));
    return GRAFT_OK;
}

static graft_status release(gr_adapter *a, gr_param *p, graft_error *err) {
    (void)err;
    gr_free_aligned(a->a, p->more_grads);
    p->more_grads = NULL;
    return GRAFT_OK;
}

graft_status gr_adapter_part_gradients(gr_adapter *a, graft_error *err) { return each_shared(a, begin, err); }
void gr_adapter_join_gradients(gr_adapter *a) { each_shared(a, join, NULL); }
void gr_adapter_free_gradients(gr_adapter *a) { each_shared(a, release, NULL); }

size_t gr_adapter_shared_bytes(const gr_adapter_set *s, int index) {
    const gr_adapter *a = gr_adapter_at(s, index);
    size_t bytes = 0;
    for (size_t i = 0; a && i < a->n_params; i++)
        if (a->params[i]->grad) bytes += bytes_of(a->params[i]);
    return bytes;
}
