#include "infer/beam.h"

#include <math.h>

graft_status gr_beams_init(gr_beams *b, const graft_allocator *a, const gr_beam_options *o, graft_error *err) {
    /* So many that beams enough are left when all that ends is taken away. */
    size_t most = o->num_beams * GR_MAX((size_t)2, 1 + o->n_eos);
    *b = (gr_beams){.a = a, .o = *o, .n_running = 1, .max_candidates = most, .improvable = true};
    b->scores = gr_calloc(a, o->num_beams, sizeof *b->scores);
    b->candidates = gr_calloc(a, most + 1, sizeof *b->candidates);
    b->next = gr_calloc(a, o->num_beams, sizeof *b->next);
    b->results = gr_calloc(a, o->num_beams + 1, sizeof *b->results);
    return b->scores && b->candidates && b->next && b->results ? GRAFT_OK : gr_fail_memory(err);
}

void gr_beams_free(gr_beams *b) {
    for (size_t i = 0; b->results && i < b->n_results; i++) gr_free(b->a, b->results[i].ids);
    gr_free(b->a, b->scores);
    gr_free(b->a, b->candidates);
    gr_free(b->a, b->next);
    gr_free(b->a, b->results);
    *b = (gr_beams){.a = b->a};
}

void gr_beams_offer(gr_beams *b, size_t beam, const float *log_probs, int64_t vocab) {
    for (int64_t id = 0; id < vocab; id++) {
        if (!(log_probs[id] > -INFINITY)) continue;
        double score = b->scores[beam] + (double)log_probs[id];
        if (b->n_candidates == b->max_candidates && !(score > b->candidates[b->n_candidates - 1].score)) continue;
        size_t at = b->n_candidates; /* on a tie the earlier one stands in front */
        for (; at > 0 && b->candidates[at - 1].score < score; at--) b->candidates[at] = b->candidates[at - 1];
        b->candidates[at] = (gr_beam_choice){beam, (int32_t)id, score};
        b->n_candidates = GR_MIN(b->n_candidates + 1, b->max_candidates);
    }
}

static bool ends(const gr_beams *b, int32_t id) {
    for (size_t i = 0; i < b->o.n_eos; i++)
        if (b->o.eos[i] == id) return true;
    return (int64_t)b->n_made >= b->o.max_new_tokens;
}

static graft_status add_result(gr_beams *b, const gr_beam_choice *c, const int32_t *ids, graft_error *err) {
    double score = c->score / pow((double)b->n_made, b->o.length_penalty);
    size_t at = b->n_results;
    while (at > 0 && b->results[at - 1].score < score) at--;
    if (at == b->o.num_beams) return GRAFT_OK;
    int32_t *copy = gr_alloc(b->a, b->n_made * sizeof *copy);
    if (!copy) return gr_fail_memory(err);
    if (b->n_made > 1) memcpy(copy, ids, (b->n_made - 1) * sizeof *copy);
    copy[b->n_made - 1] = c->id;
    memmove(&b->results[at + 1], &b->results[at], (b->n_results - at) * sizeof *b->results);
    b->results[at] = (gr_beam_result){copy, b->n_made, score};
    if (++b->n_results > b->o.num_beams) gr_free(b->a, b->results[--b->n_results].ids);
    return GRAFT_OK;
}

/* Whether the best running beam could still beat the worst result. A longer one may score more where length is
 * rewarded: NEVER then looks at the longest that could be. */
static bool may_improve(const gr_beams *b) {
    if (b->n_results < b->o.num_beams) return true;
    bool longest = b->o.early_stopping == GRAFT_EARLY_STOPPING_NEVER && b->o.length_penalty > 0;
    double length = longest ? (double)b->o.max_new_tokens : (double)b->n_made;
    return b->n_running && b->scores[0] / pow(length, b->o.length_penalty) > b->results[b->n_results - 1].score;
}

graft_status gr_beams_choose(gr_beams *b, const int32_t *const *ids, graft_error *err) {
    b->n_made++;
    bool full = b->n_results == b->o.num_beams && b->o.early_stopping == GRAFT_EARLY_STOPPING_YES;
    size_t n = 0;
    if (!b->n_candidates) return gr_fail(err, GRAFT_ERR_NUMERIC, "expected finite logits, found none");
    for (size_t i = 0; i < b->n_candidates; i++) {
        const gr_beam_choice *c = &b->candidates[i];
        if (!ends(b, c->id)) {
            if (n < b->o.num_beams) b->next[n++] = *c;
        } else if (i < b->o.num_beams && !full && b->improvable)
            GR_TRY(add_result(b, c, ids[c->parent], err));
    }
    b->n_running = n;
    b->n_candidates = 0;
    for (size_t i = 0; i < n; i++) b->scores[i] = b->next[i].score;
    b->improvable = b->improvable && may_improve(b);
    bool enough = b->n_results == b->o.num_beams && b->o.early_stopping == GRAFT_EARLY_STOPPING_YES;
    b->done = !b->improvable || enough || !n;
    return GRAFT_OK;
}
