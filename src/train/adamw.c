/* AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), as torch.optim.AdamW computes it:
 *   p -= lr wd p;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
 *   p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps) */
#include <math.h>

#include "train/optimizer.h"

static int adamw_states(const gr_optimizer_options *o) {
    (void)o;
    return 2;
}

static void adamw_update(const gr_update *u) {
    const gr_optimizer_options *o = u->options;
    u->dev->k->adamw(u->dev, u->param->n, u->param->value, u->param->grad, u->state[0], u->state[1], u->grad_scale, u->lr,
                     o->beta1, o->beta2, o->epsilon, u->param->decay ? o->weight_decay : 0,
                     1 - pow(o->beta1, (double)u->step), 1 - pow(o->beta2, (double)u->step));
}

const gr_optimizer_rule gr_optimizer_adamw = {
    .names = {"adamw_torch", "adamw_torch_fused", "adamw"},
    .states = {"exp_avg", "exp_avg_sq"},
    .n_states = adamw_states,
    .update = adamw_update,
};
