/* Who keeps which rank (Zhang et al. 2023, AdaLoRA, section 3.2 and Algorithm 1). Reference: peft 0.21 tuners/adalora/layer.py,
 * RankAllocator, and model.py, update_and_allocate.
 *
 * The sensitivity of a parameter is |w dw|; its average I and the average U of |sensitivity - I| give the parameter's score I U,
 * a triplet's score is E's and the means over A's row and B's column. Of all modules' triplets the lowest are left out, E = 0,
 * until the budget is met, which falls from init_r to target_r a module as a cubic between step tinit and step
 * total_step - tfinal. What was left out may come back until then; at that step the choice is final, and each later one sets E
 * to zero again where the optimiser has moved it. */
#include <math.h>
#include <stdlib.h>

#include "adapter/adalora.h"

graft_status gr_adalora_check_plan(const gr_adapter *a, const gr_rank_plan *p, graft_error *err) {
    if (!p->total_step || p->tinit < p->total_step - p->tfinal) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: tinit %lld and tfinal %lld leave no step of total_step %lld in which ranks could be "
                   "allocated", a->where, (long long)p->tinit, (long long)p->tfinal, (long long)p->total_step);
}

graft_status gr_adalora_begin_run(gr_adapter *a, int64_t n_steps, graft_error *err) {
    gr_adalora *s = a->state;
    gr_rank_plan p = s->plan;
    if (p.total_step && p.total_step != n_steps)
        gr_log(gr_model_context(a->model), GRAFT_LOG_WARNING, "%s: total_step is %lld, the run has %lld steps", a->where,
               (long long)p.total_step, (long long)n_steps);
    if (p.total_step) return GRAFT_OK;
    p.total_step = n_steps;
    GR_TRY(gr_adalora_check_plan(a, &p, err));
    s->plan.total_step = n_steps;
    return gr_adapter_rewrite_config(a, err);
}

/* Rounded as single precision rounds it. */
static void average(const gr_adalora *s, const gr_triplet *t, int part, double clip) {
    const gr_rank_plan *p = &s->plan;
    for (int64_t i = 0; i < t->part[part]->n; i++) {
        float grad = (float)(clip * gr_param_grad_at(t->part[part], i));
        float now = fabsf((float)gr_param_at(t->part[part], i) * grad);
        float ipt = (float)(p->beta1 * gr_param_at(t->ipt[part], i) + (1 - p->beta1) * (double)now);
        float unc = (float)(p->beta2 * gr_param_at(t->unc[part], i) + (1 - p->beta2) * fabs((double)now - (double)ipt));
        gr_param_put(t->ipt[part], i, (double)ipt);
        gr_param_put(t->unc[part], i, (double)unc);
    }
}

static double score_of(const gr_triplet *t, int part, int64_t i) { return gr_param_at(t->ipt[part], i) * gr_param_at(t->unc[part], i); }

static double score(const gr_triplet *t, int64_t k) {
    int64_t r = t->part[GR_TRIPLET_A]->shape.d[0], in = t->part[GR_TRIPLET_A]->shape.d[1], out = t->part[GR_TRIPLET_B]->shape.d[0];
    double a = 0, b = 0;
    for (int64_t c = 0; c < in; c++) a += score_of(t, GR_TRIPLET_A, k * in + c);
    for (int64_t o = 0; o < out; o++) b += score_of(t, GR_TRIPLET_B, o * r + k);
    return score_of(t, GR_TRIPLET_E, k) + (a / (double)in + b / (double)out);
}

static int by_size(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static int64_t all_ranks(const gr_adalora *s) {
    int64_t n = 0;
    for (size_t i = 0; i < s->lora.n_pairs; i++) n += s->of[i].part[GR_TRIPLET_E]->n;
    return n;
}

/* E to zero where it is left out. */
static void mask(const gr_adalora *s) {
    for (size_t i = 0; i < s->lora.n_pairs; i++)
        for (int64_t k = 0; k < s->of[i].kept->n; k++)
            if (gr_param_at(s->of[i].kept, k) == 0) gr_param_put(s->of[i].part[GR_TRIPLET_E], k, 0);
}

/* Leaves out the triplets whose score is not above that of the first to go beyond the budget. */
static graft_status allocate(gr_adapter *a, int64_t budget, graft_error *err) {
    gr_adalora *s = a->state;
    int64_t all = all_ranks(s), surplus = GR_MIN(all - budget, all), n = 0;
    double *scores = gr_alloc(a->a, 2 * (size_t)(all + 1) * sizeof *scores), *sorted;
    if (!scores) return gr_fail_memory(err);
    sorted = scores + all + 1;
    for (size_t i = 0; i < s->lora.n_pairs; i++)
        for (int64_t k = 0; k < s->of[i].part[GR_TRIPLET_E]->n; k++) scores[n++] = score(&s->of[i], k);
    memcpy(sorted, scores, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_size);
    n = 0;
    for (size_t i = 0; i < s->lora.n_pairs; i++)
        for (int64_t k = 0; k < s->of[i].kept->n; k++, n++)
            gr_param_put(s->of[i].kept, k, surplus <= 0 || scores[n] > sorted[surplus - 1] ? 1 : 0);
    gr_free(a->a, scores);
    gr_param_put(s->allocations, 0, gr_param_at(s->allocations, 0) + 1);
    mask(s);
    return GRAFT_OK;
}

static void forget(const gr_adalora *s) {
    for (size_t i = 0; i < s->lora.n_pairs; i++)
        for (int part = 0; part < GR_TRIPLET_PARTS; part++) {
            gr_adapter_set_all(s->of[i].ipt[part], 0);
            gr_adapter_set_all(s->of[i].unc[part], 0);
        }
}

graft_status gr_adalora_stepped(gr_adapter *a, int64_t step, double clip, graft_error *err) {
    gr_adalora *s = a->state;
    const gr_rank_plan *p = &s->plan;
    if (!s->allocations) return GRAFT_OK;
    if (!p->total_step) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected 'total_step' before the first step", a->where);
    int64_t last = p->total_step - p->tfinal, all = all_ranks(s), target = p->target_r * (int64_t)s->lora.n_pairs;
    if (step > last) {
        mask(s);
        return GRAFT_OK;
    }
    if (step == last) {
        GR_TRY(allocate(a, target, err));
        forget(s);
        return GRAFT_OK;
    }
    for (size_t i = 0; i < s->lora.n_pairs; i++)
        for (int part = 0; part < GR_TRIPLET_PARTS; part++) average(s, &s->of[i], part, clip);
    if (step <= p->tinit || step % p->delta_t) return GRAFT_OK;
    double left = 1 - (double)(step - p->tinit) / (double)(last - p->tinit);
    return allocate(a, (int64_t)((double)(all - target) * (left * left * left) + (double)target), err);
}
