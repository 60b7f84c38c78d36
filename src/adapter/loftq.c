/* LoRA that starts from what quantisation lost (LoftQ, Li et al. 2024, arXiv 2310.08659): s B A is the best approximation of
 * W - Q by its largest singular triplets, where Q is what the base was loaded as and W what its file holds. Reference: peft 0.21
 * utils/loftq_utils.py, loftq_init with loftq_iter 1 and replace_lora_weights_loftq, which leave the scale s out: there the start is
 * the best one where lora_alpha is r, here it is for any.
 *
 * The base is not touched, so that the adapter is an ordinary one for the same base loaded the same way. More iterations would
 * quantise W - s B A instead of W: another base, which no file holds. */
#include <math.h>

#include "adapter/lora.h"
#include "base/linalg.h"
#include "quant/scaled.h"

graft_status gr_loftq_check(gr_adapter *a, const gr_lora_config *c, const gr_site *const *sites, size_t n, graft_error *err) {
    for (size_t i = 0; i < n; i++) {
        const gr_site *s = sites[i];
        const gr_quantize_spec spec = gr_model_quantized(a->model);
        if (!gr_model_was_quantized(a->model, s)) continue;
        if (c->loftq_bits && c->loftq_bits != (spec.dtype == GR_INT8 ? 8 : 4))
            return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: loftq_bits is %lld, the base is held as %s", a->where, (long long)c->loftq_bits,
                           gr_dtype_name(spec.dtype));
        return GRAFT_OK;
    }
    return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: init_lora_weights 'loftq' makes up for what loading in few bits loses: expected target modules "
                   "that load_in_4bit or load_in_8bit quantises, found none (of a base whose files are quantised the loss is not known)", a->where);
}

static graft_status read_loss(gr_adapter *a, const gr_site *s, float *loss, float *held, graft_error *err) {
    const int64_t n = s->in * s->out;
    GR_TRY(gr_model_read_file_outputs(a->model, s, loss, err));
    GR_TRY(gr_model_read_outputs(a->model, s, 0, s->out, held, err));
    for (int64_t i = 0; i < n; i++) loss[i] -= held[i];
    return GRAFT_OK;
}

static graft_status factor(gr_adapter *a, gr_lora_pair *p, const float *loss, double *u, double *s, double *v, graft_error *err) {
    const int64_t in = p->site->in, out = p->site->out, r = p->r;
    const uint64_t seed = gr_hash_bytes(p->site->name, strlen(p->site->name), 0);
    GR_TRY(gr_svd_largest(a->a, gr_model_device(a->model)->team, loss, out, in, r, -1, seed, u, s, v, err));
    for (int64_t i = 0; i < r; i++) {
        const double root = sqrt(s[i] / fabs(p->scale)), sign = p->scale < 0 ? -1 : 1;
        for (int64_t k = 0; k < in; k++) gr_param_put(p->a, i * in + k, (float)(root * v[i * in + k]));
        for (int64_t k = 0; k < out; k++) gr_param_put(p->b, k * r + i, (float)(sign * root * u[i * out + k]));
    }
    return GRAFT_OK;
}

graft_status gr_loftq_fill(gr_adapter *a, gr_lora_pair *p, graft_error *err) {
    const gr_site *site = p->site;
    if (p->r > GR_MIN(site->in, site->out))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: init_lora_weights 'loftq': '%s' of %lld x %lld has no rank of %lld", a->where, site->name,
                       (long long)site->out, (long long)site->in, (long long)p->r);
    if (p->scale == 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: init_lora_weights 'loftq' with a scale of 0", a->where);
    const size_t n = (size_t)(site->in * site->out);
    float *loss = gr_alloc(a->a, n * sizeof *loss), *held = gr_alloc(a->a, n * sizeof *held);
    double *u = gr_alloc(a->a, (size_t)(p->r * (site->in + site->out + 1)) * sizeof *u);
    double *v = u ? u + p->r * site->out : NULL, *s = u ? v + p->r * site->in : NULL;
    graft_status st = loss && held && u ? read_loss(a, site, loss, held, err) : gr_fail_memory(err);
    gr_free(a->a, held);
    if (st == GRAFT_OK) st = factor(a, p, loss, u, s, v, err);
    gr_free(a->a, loss);
    gr_free(a->a, u);
    return st == GRAFT_OK || st == GRAFT_ERR_MEMORY ? st : gr_error_prefix(err, st, "%s: %s.weight", a->where, site->name);
}
