/* Stochastic gradient descent with momentum (Sutskever et al. 2013), as torch.optim.SGD computes it (dampening 0):
 *   g += wd p;  b = momentum b + g;  p -= lr b, or with Nesterov's momentum p -= lr (g + momentum b) */
#include "train/optimizer.h"

static int sgd_states(const gr_optimizer_options *o) { return o->momentum > 0; }

static void sgd_update(const gr_update *u) {
    const gr_optimizer_options *o = u->options;
    const gr_kernels *k = u->dev->k;
    int64_t n = u->n;
    float *p = u->value, *g = u->grad, *b = u->state[0].data;
    if (u->grad_scale != 1) k->scale(u->dev, GR_F32, n, u->grad_scale, g, g, false);
    if (u->decay && o->weight_decay != 0) k->scale(u->dev, GR_F32, n, o->weight_decay, p, g, true);
    if (!(o->momentum > 0)) {
        k->scale(u->dev, GR_F32, n, -u->lr, g, p, true);
        return;
    }
    k->scale(u->dev, GR_F32, n, o->momentum, b, b, false);
    k->scale(u->dev, GR_F32, n, 1, g, b, true);
    if (o->nesterov) {
        k->scale(u->dev, GR_F32, n, o->momentum, b, g, true);
        k->scale(u->dev, GR_F32, n, -u->lr, g, p, true);
    } else
        k->scale(u->dev, GR_F32, n, -u->lr, b, p, true);
}

const gr_optimizer_rule gr_optimizer_sgd = {
    .names = {"sgd"},
    .states = {"momentum_buffer"},
    .n_states = sgd_states,
    .update = sgd_update,
};
