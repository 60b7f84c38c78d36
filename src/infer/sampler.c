/* The choice of the next token. The kept set shrinks step by step on a list of candidates in order of probability; only
 * as many candidates are sorted as top-k or top-p can keep. */
#include <math.h>
#include <stdlib.h>

#include "infer/infer.h"

graft_status gr_sampler_init(gr_sampler *s, const graft_allocator *a, int64_t vocab, graft_error *err) {
    *s = (gr_sampler){.a = a, .vocab = vocab};
    s->values = gr_realloc_array(a, NULL, (size_t)vocab, sizeof *s->values);
    s->order = gr_realloc_array(a, NULL, (size_t)vocab, sizeof *s->order);
    if (s->values && s->order) return GRAFT_OK;
    gr_sampler_free(s);
    return gr_fail_memory(err);
}

void gr_sampler_free(gr_sampler *s) {
    gr_free(s->a, s->values);
    gr_free(s->a, s->order);
    s->values = NULL;
    s->order = NULL;
}

graft_status gr_sampling_check(const graft_sampling *p, graft_error *err) {
    if (!p->greedy && !(p->temperature > 0 && isfinite(p->temperature)))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "temperature: expected a number above 0 (or greedy), found %g", p->temperature);
    if (p->top_k < 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "top_k: expected 0 or more, found %lld", (long long)p->top_k);
    if (!(p->top_p > 0 && p->top_p <= 1))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "top_p: expected a number in (0, 1], found %g", p->top_p);
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "min_p: expected a number in [0, 1], found %g", p->min_p);
    if (!(p->repeat_penalty > 0 && isfinite(p->repeat_penalty)))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "repeat_penalty: expected a number above 0, found %g",
                       p->repeat_penalty);
    return GRAFT_OK;
}

/* Descending by value, ascending by id on a tie. */
static bool before(const float *v, int32_t a, int32_t b) { return v[a] > v[b] || (v[a] == v[b] && a < b); }

/* Puts order[0 .. k-1] in order, the k best of order[0 .. n-1] (heap of the k best, then unrolled). */
static void sift(const float *v, int32_t *heap, size_t n, size_t i) {
    for (;;) { /* the worst of the kept ones stands on top */
        size_t child = 2 * i + 1;
        if (child >= n) return;
        if (child + 1 < n && before(v, heap[child], heap[child + 1])) child++;
        if (!before(v, heap[i], heap[child])) return;
        int32_t held = heap[i];
        heap[i] = heap[child];
        heap[child] = held;
        i = child;
    }
}

static void select_best(const float *v, int32_t *order, size_t n, size_t k) {
    for (size_t i = k / 2; i-- > 0;) sift(v, order, k, i);
    for (size_t i = k; i < n; i++)
        if (before(v, order[i], order[0])) {
            int32_t held = order[0];
            order[0] = order[i];
            order[i] = held;
            sift(v, order, k, 0);
        }
    for (size_t end = k; end > 1; end--) {
        int32_t held = order[0];
        order[0] = order[end - 1];
        order[end - 1] = held;
        sift(v, order, end - 1, 0);
    }
}

static int32_t best_of(const float *v, int64_t n) {
    int32_t best = -1;
    for (int64_t i = 0; i < n; i++)
        if (v[i] > -INFINITY && (best < 0 || v[i] > v[best])) best = (int32_t)i;
    return best;
}

static void penalise(gr_sampler *s, double penalty, const float *logits, const int32_t *seen, size_t n) {
    if (penalty == 1) return;
    /* From the untouched logit, so that a token seen twice is penalised once. */
    for (size_t i = 0; i < n; i++) {
        if (seen[i] < 0) continue; /* a pseudo-token */
        float l = logits[seen[i]];
        s->values[seen[i]] = l < 0 ? l * (float)penalty : l / (float)penalty;
    }
}

/* Sum of exp(v - top) over all candidates, in order of id. */
static double partition(const float *v, int64_t n, float top) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (v[i] > -INFINITY) sum += exp((double)v[i] - top); /* a NaN is no candidate */
    return sum;
}

/* How many of the candidates in order top-p and min-p keep. `sum`: of the weights that top-p sees. */
static size_t kept(const gr_sampler *s, const graft_sampling *p, size_t n, double sum) {
    const float *v = s->values;
    float top = v[s->order[0]];
    size_t keep = n;
    if (p->top_p < 1) {
        double seen = 0;
        for (keep = 0; keep < n && seen < p->top_p * sum; keep++) seen += exp((double)v[s->order[keep]] - top);
    }
    while (p->min_p > 0 && keep > 1 && exp((double)v[s->order[keep - 1]] - top) < p->min_p) keep--;
    return keep;
}

/* Orders as many candidates as may be kept; for top-p the number is found by doubling. */
static size_t shortlist(gr_sampler *s, const graft_sampling *p, double *sum) {
    int64_t n = 0;
    float top = -INFINITY;
    for (int64_t i = 0; i < s->vocab; i++)
        if (s->values[i] > -INFINITY) {
            s->order[n++] = (int32_t)i;
            top = fmaxf(top, s->values[i]);
        }
    if (p->top_k > 0 && p->top_k < n) {
        select_best(s->values, s->order, (size_t)n, (size_t)p->top_k);
        n = p->top_k;
        *sum = 0;
        for (int64_t i = 0; i < n; i++) *sum += exp((double)s->values[s->order[i]] - top);
        return kept(s, p, (size_t)n, *sum);
    }
    *sum = partition(s->values, s->vocab, top);
    if (p->top_p >= 1 && p->min_p <= 0) return (size_t)n;
    for (size_t k = GR_MIN((size_t)n, (size_t)64);; k = GR_MIN((size_t)n, k * 8)) {
        select_best(s->values, s->order, (size_t)n, k);
        size_t keep = kept(s, p, k, *sum);
        if (keep < k || k == (size_t)n) return keep;
    }
}

static int32_t draw(const gr_sampler *s, size_t n, double u) {
    const float *v = s->values;
    float top = -INFINITY;
    for (size_t i = 0; i < n; i++) top = fmaxf(top, v[s->order[i]]);
    double sum = 0, seen = 0;
    for (size_t i = 0; i < n; i++) sum += exp((double)v[s->order[i]] - top);
    for (size_t i = 0; i + 1 < n; i++) {
        seen += exp((double)v[s->order[i]] - top);
        if (u * sum < seen) return s->order[i];
    }
    return s->order[n - 1];
}

graft_status gr_sampler_log_probs(gr_sampler *s, const graft_sampling *p, const float *logits, const int32_t *seen,
                                  size_t n_seen, const int32_t *banned, size_t n_banned, const float **out,
                                  graft_error *err) {
    int32_t best = best_of(logits, s->vocab);
    if (best < 0 || !isfinite(logits[best]))
        return gr_fail(err, GRAFT_ERR_NUMERIC, "expected finite logits, found none");
    float sum = (float)(logits[best] + log(partition(logits, s->vocab, logits[best])));
    for (int64_t i = 0; i < s->vocab; i++) s->values[i] = logits[i] - sum;
    for (size_t i = 0; i < n_seen && p->repeat_penalty != 1; i++) {
        float l = logits[seen[i]] - sum;
        s->values[seen[i]] = l < 0 ? l * (float)p->repeat_penalty : l / (float)p->repeat_penalty;
    }
    for (size_t i = 0; i < n_banned; i++) s->values[banned[i]] = -INFINITY;
    *out = s->values;
    return GRAFT_OK;
}

graft_status gr_sampler_choose(gr_sampler *s, const graft_sampling *p, const float *logits,
                               const int32_t *seen, size_t n_seen, const int32_t *banned, size_t n_banned,
                               uint64_t stream, uint64_t index, int32_t *out, graft_error *err) {
    memcpy(s->values, logits, (size_t)s->vocab * sizeof *s->values);
    penalise(s, p->repeat_penalty, logits, seen, n_seen);
    for (size_t i = 0; i < n_banned; i++) s->values[banned[i]] = -INFINITY;
    int32_t best = best_of(s->values, s->vocab);
    if (best < 0 || !isfinite(s->values[best]))
        return gr_fail(err, GRAFT_ERR_NUMERIC, "expected finite logits, found none");
    /* So low a temperature that the quotients overflow leaves the best one alone. */
    if (p->greedy || p->top_k == 1 || !isfinite((float)(s->values[best] / p->temperature))) {
        *out = best;
        return GRAFT_OK;
    }
    for (int64_t i = 0; i < s->vocab; i++) s->values[i] = (float)(s->values[i] / p->temperature);
    double sum;
    size_t n = shortlist(s, p, &sum);
    *out = draw(s, n, gr_rng_uniform(p->seed, stream, index));
    return GRAFT_OK;
}
