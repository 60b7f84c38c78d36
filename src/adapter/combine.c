/* One LoRA made of several. Reference: peft 0.21 tuners/lora/model.py (add_weighted_adapter) and utils/merge_utils.py; task
 * arithmetic (Ilharco et al. 2023), TIES (Yadav et al. 2023), DARE (Yu et al. 2024).
 *
 * "cat" puts the factors side by side and is exact; "svd" takes the largest singular triplets of the sum of the deltas; the
 * others mix A with A and B with B, each with the root of its weight. The result has lora_alpha equal to r: its scale is 1. */
#include <math.h>
#include <stdlib.h>

#include "adapter/lora.h"
#include "base/linalg.h"

typedef enum kind { LINEAR, CAT, SVD, TIES, DARE_LINEAR, DARE_TIES, MAGNITUDE_PRUNE, N_KINDS } kind;
static const char *const kinds[] = {"linear", "cat", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune"};

typedef struct combination {
    gr_adapter_set *set;
    const gr_combination *how;
    kind kind;
    const gr_adapter **from; /* n */
    const double *weights;
    size_t n;
    int64_t rank;
} combination;

static const gr_lora_pair *pair_at(const gr_adapter *a, const gr_site *site) {
    const gr_lora *s = a->state;
    int at = s->pair_of_site[site->index];
    return at < 0 ? NULL : &s->pairs[at];
}

static graft_status check(combination *c, const int *indices, graft_error *err) {
    int64_t sum = 0, most = 0, first = 0;
    for (size_t i = 0; i < c->n; i++) {
        const gr_adapter *a = gr_adapter_at(c->set, indices[i]);
        if (!a) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "there is no adapter %d", indices[i]);
        const gr_lora *s = a->state;
        bool lora = a->method == &gr_adapter_lora;
        if (!lora || s->config.dora || a->variant)
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "adapter '%s' (%s): only plain LoRA can be combined, without DoRA, trained biases "
                           "and modules_to_save", a->name, a->method->name);
        if (gr_model_param_dtype(a->model) != GR_F32)
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "adapters are combined in F32 or BF16 models");
        if (!isfinite(c->weights[i])) return gr_fail(err, GRAFT_ERR_ARGUMENT, "adapter '%s': weight %g", a->name, c->weights[i]);
        int64_t r = 0;
        for (size_t k = 0; k < s->n_pairs; k++) r = GR_MAX(r, s->pairs[k].r);
        c->from[i] = a;
        first = i ? first : r;
        sum += r;
        most = GR_MAX(most, r);
        if (c->kind != CAT && c->kind != SVD && r != first)
            return gr_fail(err, GRAFT_ERR_MISMATCH, "'%s' needs adapters of one rank: '%s' has %lld, '%s' %lld", kinds[c->kind],
                           c->from[0]->name, (long long)first, a->name, (long long)r);
    }
    c->rank = c->kind == CAT ? sum : c->kind == SVD && c->how->svd_rank ? c->how->svd_rank : most;
    if (c->rank > GR_LORA_MAX_RANK) return gr_fail(err, GRAFT_ERR_LIMIT, "a rank of %lld, expected at most %d", (long long)c->rank, GR_LORA_MAX_RANK);
    return GRAFT_OK;
}

/* The configuration: all modules that one of them adapts, by their whole names. */
static graft_status describe(const combination *c, gr_buf *b, graft_error *err) {
    bool first = true;
    gr_buf_add_format(b, "{\"peft_type\": \"LORA\", \"r\": %lld, \"lora_alpha\": %lld, \"target_modules\": [",
                      (long long)c->rank, (long long)c->rank);
    for (size_t i = 0; i < gr_model_n_sites(c->set->model); i++) {
        const gr_site *site = gr_model_site(c->set->model, i);
        bool adapted = false;
        for (size_t k = 0; k < c->n && !adapted; k++) adapted = pair_at(c->from[k], site) != NULL;
        if (!adapted) continue;
        gr_buf_add_text(b, first ? "" : ", ");
        gr_json_add_text(b, site->name, strlen(site->name));
        first = false;
    }
    gr_buf_add_text(b, "]}");
    return gr_buf_status(b, err);
}

/* --- Mixing tensors of equal shape ------------------------------------------------------------------------------------- */

static int by_falling_size(const void *x, const void *y) {
    float a = fabsf(*(const float *)x), b = fabsf(*(const float *)y);
    return a < b ? 1 : a > b ? -1 : 0;
}

/* Keeps the int(density n) largest values of t; of equal ones the first. */
static graft_status prune_small(const graft_allocator *a, float *t, int64_t n, double density, graft_error *err) {
    int64_t keep = (int64_t)(density * (double)n);
    if (density >= 1) return GRAFT_OK;
    float *sorted = gr_alloc(a, (size_t)n * sizeof *sorted);
    if (!sorted) return gr_fail_memory(err);
    memcpy(sorted, t, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_falling_size);
    float least = keep ? fabsf(sorted[keep - 1]) : INFINITY;
    int64_t equal = 0;
    while (equal < keep && fabsf(sorted[keep - 1 - equal]) == least) equal++;
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(t[i]) > least) && !(fabsf(t[i]) == least && equal-- > 0)) t[i] = 0;
    gr_free(a, sorted);
    return GRAFT_OK;
}

static void prune_random(float *t, int64_t n, double density, uint64_t seed, uint64_t stream) {
    for (int64_t i = 0; density < 1 && i < n; i++)
        t[i] = gr_rng_uniform(seed, stream, (uint64_t)i) < density ? (float)((double)t[i] / density) : 0;
}

static float sign(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f; }

/* out = sum of weights[k] t[k]; where signs are voted on, of those alone that agree with the majority, over their number. */
static void mix(const combination *c, float *const *t, const double *weights, size_t n_tensors, int64_t n, float *out) {
    bool vote = c->kind == TIES || c->kind == DARE_TIES;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0, ballot = 0;
        int agree = 0;
        for (size_t k = 0; vote && k < n_tensors; k++) ballot += c->how->frequency ? sign(t[k][i]) : t[k][i];
        float majority = ballot >= 0 ? 1 : -1;
        for (size_t k = 0; k < n_tensors; k++) {
            if (vote && sign(t[k][i]) != majority) continue;
            sum += weights[k] * (double)t[k][i];
            agree++;
        }
        out[i] = (float)(vote ? sum / GR_MAX(agree, 1) : sum);
    }
}

/* One of the two factors of all adapters that have the module. */
static graft_status mix_factor(const combination *c, const gr_lora_pair *const *pairs, const size_t *of, size_t n, bool second,
                               gr_param *to, graft_error *err) {
    const graft_allocator *a = c->set->a;
    float **t = gr_calloc(a, n, sizeof *t);
    double *weights = gr_calloc(a, n, sizeof *weights);
    graft_status st = t && weights ? GRAFT_OK : gr_fail_memory(err);
    for (size_t k = 0; k < n && st == GRAFT_OK; k++) {
        const gr_param *p = second ? pairs[k]->b : pairs[k]->a;
        double w = c->weights[of[k]] * pairs[k]->scale;
        weights[k] = sqrt(fabs(w)) * (w < 0 && !second ? -1 : 1);
        if (p->n != to->n)
            st = gr_fail(err, GRAFT_ERR_MISMATCH, "'%s' needs factors of one shape: '%s' has %lld elements, expected %lld", kinds[c->kind],
                         p->name, (long long)p->n, (long long)to->n);
        else if (!(t[k] = gr_alloc(a, (size_t)p->n * sizeof **t)))
            st = gr_fail_memory(err);
        if (st != GRAFT_OK) break;
        memcpy(t[k], p->value, (size_t)p->n * sizeof **t);
        if (c->kind == TIES || c->kind == MAGNITUDE_PRUNE) st = prune_small(a, t[k], p->n, c->how->density, err);
        if (c->kind == DARE_LINEAR || c->kind == DARE_TIES) {
            uint64_t name = gr_hash_bytes(p->name, strlen(p->name), of[k]);
            prune_random(t[k], p->n, c->how->density, c->how->seed, gr_rng_stream(GR_RNG_INIT, name));
        }
    }
    if (st == GRAFT_OK) mix(c, t, weights, n, to->n, to->value);
    for (size_t k = 0; t && k < n; k++) gr_free(a, t[k]);
    gr_free(a, t);
    gr_free(a, weights);
    return st;
}

static void put_side_by_side(const combination *c, const gr_lora_pair *const *pairs, const size_t *of, size_t n, gr_lora_pair *to) {
    int64_t at = 0, in = to->site->in, out = to->site->out;
    for (size_t k = 0; k < n; k++) {
        const gr_lora_pair *p = pairs[k];
        const float *a = p->a->value, *b = p->b->value;
        float *to_a = to->a->value, *to_b = to->b->value;
        double w = c->weights[of[k]] * p->scale;
        for (int64_t i = 0; i < p->r * in; i++) to_a[at * in + i] = (float)(w * (double)a[i]);
        for (int64_t i = 0; i < out; i++)
            for (int64_t r = 0; r < p->r; r++) to_b[i * to->r + at + r] = b[i * p->r + r];
        at += p->r;
    }
}

static graft_status decompose(const combination *c, const gr_lora_pair *const *pairs, const size_t *of, size_t n, gr_lora_pair *to,
                              graft_error *err) {
    const graft_allocator *a = c->set->a;
    gr_device *d = gr_model_device(c->set->model);
    int64_t in = to->site->in, out = to->site->out, r = GR_MIN(to->r, GR_MIN(in, out));
    float *w = gr_calloc(a, (size_t)(in * out), sizeof *w);
    double *u = gr_alloc(a, (size_t)(r * (in + out + 1)) * sizeof *u), *v = u ? u + r * out : NULL, *s = u ? v + r * in : NULL;
    graft_status st = w && u ? GRAFT_OK : gr_fail_memory(err);
    for (size_t k = 0; k < n && st == GRAFT_OK; k++)
        st = gr_gemm(d, false, false, out, in, pairs[k]->r, c->weights[of[k]] * pairs[k]->scale, GR_F32, pairs[k]->b->value, pairs[k]->r,
                     pairs[k]->a->value, in, 1, GR_F32, w, in, err);
    if (st == GRAFT_OK) st = gr_svd_largest(a, d->team, w, out, in, r, -1, 0, u, s, v, err);
    for (int64_t k = 0; st == GRAFT_OK && k < r; k++) {
        for (int64_t i = 0; i < in; i++) ((float *)to->a->value)[k * in + i] = (float)v[k * in + i];
        for (int64_t i = 0; i < out; i++) ((float *)to->b->value)[i * to->r + k] = (float)(s[k] * u[k * out + i]);
    }
    gr_free(a, w);
    gr_free(a, u);
    return st;
}

static graft_status fill(const combination *c, gr_adapter *to, graft_error *err) {
    const gr_lora *s = to->state;
    const gr_lora_pair **pairs = gr_calloc(c->set->a, c->n, sizeof *pairs);
    size_t *of = gr_calloc(c->set->a, c->n, sizeof *of);
    graft_status st = pairs && of ? GRAFT_OK : gr_fail_memory(err);
    for (size_t i = 0; i < s->n_pairs && st == GRAFT_OK; i++) {
        size_t n = 0;
        for (size_t k = 0; k < c->n; k++) {
            const gr_lora_pair *p = pair_at(c->from[k], s->pairs[i].site);
            if (!p) continue;
            pairs[n] = p;
            of[n++] = k;
        }
        if (c->kind == CAT)
            put_side_by_side(c, pairs, of, n, &s->pairs[i]);
        else if (c->kind == SVD)
            st = decompose(c, pairs, of, n, &s->pairs[i], err);
        else
            for (int second = 0; second < 2 && st == GRAFT_OK; second++)
                st = mix_factor(c, pairs, of, n, second, second ? s->pairs[i].b : s->pairs[i].a, err);
    }
    gr_free(c->set->a, pairs);
    gr_free(c->set->a, of);
    return st;
}

graft_status gr_adapter_combine(gr_adapter_set *set, const char *name, const int *indices, const double *weights, size_t n,
                                const gr_combination *how, int *index, graft_error *err) {
    combination c = {.set = set, .how = how, .weights = weights, .n = n, .kind = CAT};
    gr_adapter *a = NULL;
    gr_buf config;
    graft_status st;
    if (!n) return gr_fail(err, GRAFT_ERR_ARGUMENT, "expected at least one adapter to combine");
    if (how->type) {
        for (c.kind = 0; c.kind < N_KINDS && strcmp(kinds[c.kind], how->type) != 0;) c.kind++;
        if (c.kind == N_KINDS)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "combination type: expected linear, cat, svd, ties, dare_linear, dare_ties or "
                           "magnitude_prune, found '%s'", how->type);
    }
    bool prunes = c.kind >= TIES;
    if (prunes && !(how->density > 0 && how->density <= 1))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "density: '%s' needs a number above 0 and up to 1, found %g", kinds[c.kind], how->density);
    gr_buf_init(&config, set->a);
    if (!(c.from = gr_calloc(set->a, n, sizeof *c.from))) return gr_fail_memory(err);
    GR_GO(done, check(&c, indices, err));
    GR_GO(done, describe(&c, &config, err));
    GR_GO(done, gr_adapter_begin(set, name, name, false, 1, &a, err));
    GR_GO(done, gr_adapter_build(a, config.data, config.len, true, 0, err));
    GR_GO(done, fill(&c, a, err));
    GR_GO(done, gr_adapter_finish(set, a, index, err));
done:
    if (st != GRAFT_OK) gr_adapter_free(a);
    gr_buf_free(&config);
    gr_free(set->a, c.from);
    return st;
}
