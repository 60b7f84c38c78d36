/* Prompt lookup: the last tokens are looked for in what is there already, and what followed them is proposed again. Ids
 * below 0 are virtual tokens, which nothing chooses. */
#include "infer/job.h"

/* A place whose last tokens are those of the row. */
typedef struct place {
    const int32_t *ids;
    size_t n, at; /* what follows begins at ids[at] */
    size_t same;  /* tokens in common */
} place;

/* The latest place among ids[0 .. n-1] with the most tokens in common with the end of `tail`, if more than *best. */
static void look_for(const int32_t *ids, size_t n, const int32_t *tail, size_t n_tail, size_t most, place *best) {
    for (size_t at = n - 1; at > 0 && best->same < most; at--) {
        if (ids[at] < 0) continue;
        size_t same = 0, limit = GR_MIN(GR_MIN(at, n_tail), most);
        while (same < limit && ids[at - 1 - same] == tail[n_tail - 1 - same]) same++;
        if (same > best->same) *best = (place){ids, n, at, same};
    }
}

graft_status gr_row_propose(gr_job *j, gr_row *r, size_t most, graft_error *err) {
    const int64_t ngram = j->o->max_matching_ngram_size;
    const size_t ahead = r->n_virtual, n = r->n - ahead;
    const size_t size = ngram ? (size_t)ngram : 2;
    place best = {0};
    r->n_proposed = 0;
    const size_t longest = (size_t)j->o->prompt_lookup_num_tokens;
    r->reach = r->reach ? GR_MIN(r->reach, longest) : longest;
    most = GR_MIN(most, r->reach);
    if (!most) return GRAFT_OK;
    GR_TRY(gr_grow(j->s->a, (void **)&r->ids, &r->cap, r->n + most, sizeof *r->ids, err));
    const int32_t *own = r->ids + ahead;
    look_for(own, n, own, n, size, &best);
    /* An encoder's prompt. */
    if (r->source) look_for(r->source->ids, r->source->n, own, n, size, &best);
    if (!best.same) return GRAFT_OK;
    if (best.ids != own) most = GR_MIN(most, best.n - best.at);
    /* What follows the row's own tokens may run into what is proposed: a text that goes round goes on so. */
    for (size_t i = 0; i < most && best.ids[best.at + i] >= 0; i++) {
        r->ids[r->n + i] = best.ids[best.at + i];
        r->n_proposed++;
    }
    return GRAFT_OK;
}
