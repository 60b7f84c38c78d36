/* Beam search among the rows of a generation: the beams of a prompt are rows that share its keys and values, and each
 * step replaces them by those that run on. */
#include "infer/job.h"

graft_status gr_group_new(gr_job *j, gr_row *r, graft_error *err) {
    const graft_allocator *a = j->s->a;
    gr_beam_options o = {.num_beams = j->n_beams,
                         .length_penalty = j->o->length_penalty,
                         .early_stopping = j->o->early_stopping,
                         .max_new_tokens = r->limit};
    if (!j->o->ignore_eos) o.eos = graft_tokenizer_eos_ids(j->s->tok, &o.n_eos);
    gr_beam_group *g = gr_calloc(a, 1, sizeof *g);
    if (!g) return gr_fail_memory(err);
    g->number = r->number;
    j->groups[j->n_groups++] = g; /* room for one of every prompt that runs */
    r->group = g;
    return gr_beams_init(&g->beams, a, &o, err);
}

void gr_group_free(gr_job *j, gr_beam_group *g) {
    gr_beams_free(&g->beams);
    gr_free(j->s->a, g);
}

graft_status gr_group_offer(gr_job *j, gr_row *r, const float *logits, graft_error *err) {
    gr_beam_group *g = r->group;
    const int32_t *banned;
    const float *values;
    size_t n_banned;
    GR_TRY(gr_row_banned(j, r, r->n - r->n_prompt, &banned, &n_banned, err));
    GR_TRY(gr_sampler_log_probs(&j->s->sampler, &j->o->sampling, logits, r->ids + r->n_virtual, r->n - r->n_virtual,
                                banned, n_banned, &values, err));
    gr_beams_offer(&g->beams, r->beam, values, j->s->sampler.vocab);
    g->ready = true;
    return GRAFT_OK;
}

/* The rows of a group stand in order of their beams. */
static gr_row *row_of(gr_job *j, const gr_beam_group *g, size_t beam) {
    for (size_t i = 0; i < j->n_rows; i++)
        if (j->rows[i].group == g && j->rows[i].beam == beam) return &j->rows[i];
    return NULL;
}

static void drop_rows(gr_job *j, const gr_beam_group *g) {
    size_t n = 0;
    for (size_t i = 0; i < j->n_rows; i++)
        if (j->rows[i].group == g)
            gr_row_free(j->s, &j->rows[i]);
        else
            j->rows[n++] = j->rows[i];
    j->n_rows = n;
}

/* A row that goes on as `from` with one token more. */
static graft_status continue_row(gr_job *j, const gr_row *from, size_t beam, int32_t id, gr_row *out,
                                 graft_error *err) {
    graft_session *s = j->s;
    *out = *from;
    out->ids = NULL;
    out->cap = 0;
    out->beam = beam;
    out->text = (gr_text_stream){.text.a = s->a};
    gr_kv_seq_init(&out->kv, s->store);
    if (out->source) out->source->users++;
    graft_status st = gr_grow(s->a, (void **)&out->ids, &out->cap, from->n + 1, sizeof *out->ids, err);
    if (st == GRAFT_OK) st = gr_kv_seq_fork(&out->kv, &from->kv, from->kv.length, err);
    if (st != GRAFT_OK) {
        gr_row_free(s, out);
        return st;
    }
    memcpy(out->ids, from->ids, from->n * sizeof *out->ids);
    out->ids[out->n++] = id;
    return GRAFT_OK;
}

static graft_status replace_rows(gr_job *j, gr_beam_group *g, graft_error *err) {
    const graft_allocator *a = j->s->a;
    size_t n = g->beams.n_running, made = 0;
    gr_row *next = gr_calloc(a, n, sizeof *next);
    graft_status st = next ? GRAFT_OK : gr_fail_memory(err);
    for (; st == GRAFT_OK && made < n; made += st == GRAFT_OK) {
        const gr_beam_choice *c = &g->beams.next[made];
        st = continue_row(j, row_of(j, g, c->parent), made, c->id, &next[made], err);
    }
    if (st == GRAFT_OK) {
        drop_rows(j, g);
        memcpy(j->rows + j->n_rows, next, n * sizeof *next);
        j->n_rows += n;
    }
    for (size_t i = 0; st != GRAFT_OK && i < made; i++) gr_row_free(j->s, &next[i]);
    gr_free(a, next);
    return st;
}

static graft_status text_of(gr_job *j, const gr_beam_result *r, bool *ended, gr_text_stream *t, graft_error *err) {
    GR_TRY(gr_text_stream_init(t, j->s->a, j->s->tok, j->o->keep_special != 0, NULL, 0, err));
    *ended = r->n && graft_tokenizer_is_eos(j->s->tok, r->ids[r->n - 1]) && !j->o->ignore_eos;
    for (size_t i = 0; i + *ended < r->n; i++) GR_TRY(gr_text_stream_push(t, r->ids[i], err));
    return gr_text_stream_finish(t, err);
}

static graft_status hand_over_one(gr_job *j, const gr_beam_group *g, size_t k, graft_error *err) {
    gr_beam_result *r = &g->beams.results[k];
    graft_generation x = {.n_ids = r->n, .score = r->score};
    gr_text_stream t = {.text.a = j->s->a};
    bool ended;
    graft_status st = text_of(j, r, &ended, &t, err);
    if (st == GRAFT_OK) st = gr_buf_take(&t.text, &x.text, &x.len, err);
    gr_text_stream_free(&t);
    if (st != GRAFT_OK) return st;
    x.finish = ended ? GRAFT_FINISH_STOP : GRAFT_FINISH_LENGTH;
    x.ids = r->ids;
    r->ids = NULL;
    j->out[g->number + k] = x;
    j->s->stats.new_tokens += x.n_ids;
    if (j->piece && x.len) j->piece(j->user, g->number + k, x.text, x.len);
    return GRAFT_OK;
}

static graft_status finish(gr_job *j, gr_beam_group *g, graft_error *err) {
    for (size_t k = 0; k < j->n_return; k++) {
        if (k >= g->beams.n_results)
            return gr_fail(err, GRAFT_ERR_NUMERIC, "beam search ended with %zu sequences, expected %zu",
                           g->beams.n_results, j->n_return);
        GR_TRY(hand_over_one(j, g, k, err));
    }
    drop_rows(j, g);
    return GRAFT_OK;
}

static graft_status advance(gr_job *j, gr_beam_group *g, graft_error *err) {
    const graft_allocator *a = j->s->a;
    size_t n = g->beams.n_running;
    graft_generate_stats *stats = &j->s->stats;
    if (stats->first_token_seconds == 0) stats->first_token_seconds = gr_now_seconds() - j->begin;
    const int32_t **ids = gr_calloc(a, n, sizeof *ids);
    if (!ids) return gr_fail_memory(err);
    for (size_t i = 0; i < n; i++) {
        const gr_row *r = row_of(j, g, i);
        ids[i] = r->ids + r->n_prompt;
    }
    graft_status st = gr_beams_choose(&g->beams, ids, err);
    gr_free(a, ids);
    if (st == GRAFT_OK) st = g->beams.done ? finish(j, g, err) : replace_rows(j, g, err);
    return st;
}

graft_status gr_groups_advance(gr_job *j, graft_error *err) {
    for (size_t i = 0; i < j->n_groups;) {
        gr_beam_group *g = j->groups[i];
        if (g->ready) GR_TRY(advance(j, g, err));
        g->ready = false;
        if (g->beams.done) {
            gr_group_free(j, g);
            j->groups[i] = j->groups[--j->n_groups];
        } else
            i++;
    }
    return GRAFT_OK;
}
