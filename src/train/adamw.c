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
    u->dev->k->adamw(u->dev, u->n, u->value, u->grad, u->state[0].data, u->state[1].data, u->grad_scale, u->lr, o->beta1,
                     o->beta2, o->epsilon, u->decay ? o->weight_decay : 0, 1 - pow(o->beta1, (double)u->step),
                     1 - pow(o->beta2, (double)u->step));
}

static void adamw_8bit_update(const gr_update *u) {
    const gr_optimizer_options *o = u->options;
    if (!u->state[0].absmax) {
        adamw_update(u);
        return;
    }
    gr_moment_8bit moments[2];
    for (int s = 0; s < 2; s++)
        moments[s] = (gr_moment_8bit){.code = u->code[s], .codes = u->state[s].data, .absmax = u->state[s].absmax};
    u->dev->k->adamw_8bit(u->dev, u->n, u->value, u->grad, &moments[0], &moments[1], u->grad_scale, u->lr, o->beta1, o->beta2,
                          o->epsilon, u->decay ? o->weight_decay : 0, 1 - pow(o->beta1, (double)u->step),
                          1 - pow(o->beta2, (double)u->step));
}

const gr_optimizer_rule gr_optimizer_adamw = {
    .names = {"adamw_torch", "adamw_torch_fused", "adamw"},
    .paged_name = "paged_adamw_32bit",
    .states = {"exp_avg", "exp_avg_sq"},
    .n_states = adamw_states,
    .update = adamw_update,
};

/* Dettmers et al. 2022 (arXiv 2110.02861), block-wise dynamic quantisation, as bitsandbytes 0.50 has it. */
const gr_optimizer_rule gr_optimizer_adamw_8bit = {
    .names = {"adamw_8bit", "adamw_bnb_8bit"},
    .paged_name = "paged_adamw_8bit",
    .states = {"state1", "state2"},
    .absmax = {"absmax1", "absmax2"},
    .map = {gr_dynamic_map, gr_dynamic_map_unsigned},
    .n_states = adamw_states,
    .update = adamw_8bit_update,
};
