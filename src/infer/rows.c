/* Rows of a generation: their beginning, their end, and what may not follow them. */
#include "infer/job.h"

int64_t gr_job_positions(const graft_session *s, int32_t adapter) {
    const gr_hooks *h = s->m->hooks;
    return graft_model_max_length(s->m) - h->n_virtual(h->self, adapter) - h->n_prefix(h->self, adapter);
}

static int64_t limit_of(const gr_job *j, int32_t adapter, size_t n) {
    int64_t most = gr_job_positions(j->s, adapter) - (int64_t)n;
    return j->o->max_new_tokens < 0 ? most : GR_MIN(most, j->o->max_new_tokens);
}

const char *gr_job_adapter(const gr_job *j, size_t prompt) {
    return j->o->adapters && j->o->adapters[prompt] ? j->o->adapters[prompt] : j->o->adapter;
}

static int32_t adapter_of(const gr_job *j, size_t prompt) {
    const gr_hooks *h = j->s->m->hooks;
    const char *name = gr_job_adapter(j, prompt);
    return name ? h->find(h->self, name) : -1; /* the name was checked */
}

void gr_row_free(graft_session *s, gr_row *r) {
    gr_kv_seq_free(&r->kv);
    gr_source_drop(s, r->source);
    gr_free(s->a, r->ids);
    gr_text_stream_free(&r->text);
}

void gr_source_drop(graft_session *s, gr_source *x) {
    if (!x || --x->users > 0) return;
    gr_kv_seq_free(&x->kv);
    gr_free(s->a, x->ids);
    gr_free(s->a, x);
}

static graft_status new_source(gr_job *j, size_t ahead, int32_t task, const int32_t *ids, size_t n, gr_source **out,
                               graft_error *err) {
    const graft_allocator *a = j->s->a;
    gr_source *x = gr_calloc(a, 1, sizeof *x);
    if (!x) return gr_fail_memory(err);
    *x = (gr_source){.users = 1, .n = ahead + n, .ids = gr_realloc_array(a, NULL, ahead + n, sizeof *x->ids)};
    gr_kv_seq_init(&x->kv, j->s->store);
    if (!x->ids) {
        gr_source_drop(j->s, x);
        return gr_fail_memory(err);
    }
    for (size_t i = 0; i < ahead; i++) x->ids[i] = -1 - task * (int32_t)ahead - (int32_t)i;
    memcpy(x->ids + ahead, ids, n * sizeof *ids);
    *out = x;
    return GRAFT_OK;
}

/* The source, and the token that a target begins with in place of the prompt. */
static graft_status begin_target(gr_job *j, gr_row *r, size_t ahead, int32_t task, const int32_t *ids,
                                 size_t n, const gr_row *from, graft_error *err) {
    if (from) {
        r->source = from->source;
        r->source->users++;
    } else
        GR_TRY(new_source(j, ahead, task, ids, n, &r->source, err));
    r->ids[0] = (int32_t)gr_model_get_config(j->s->m->model)->decoder_start_token_id;
    r->n = r->n_prompt = 1;
    return GRAFT_OK;
}

static graft_status begin(gr_job *j, gr_row *r, size_t ahead, int32_t task, const int32_t *ids, size_t n,
                          const gr_row *from, graft_error *err) {
    graft_session *s = j->s;
    GR_TRY(gr_grow(s->a, (void **)&r->ids, &r->cap, ahead + n + 1, sizeof *r->ids, err));
    if (gr_model_get_config(s->m->model)->n_encoder_layers)
        GR_TRY(begin_target(j, r, ahead, task, ids, n, from, err));
    else {
        for (size_t i = 0; i < ahead; i++) r->ids[i] = -1 - task * (int32_t)ahead - (int32_t)i;
        memcpy(r->ids + ahead, ids, n * sizeof *ids);
        r->n = r->n_prompt = ahead + n;
        r->n_virtual = ahead;
    }
    if (j->n_beams > 1) return GRAFT_OK; /* texts are made of what is returned */
    return gr_text_stream_init(&r->text, s->a, s->tok, j->o->keep_special != 0, j->o->stop, j->o->n_stop, err);
}

graft_status gr_row_init(gr_job *j, gr_row *r, size_t number, const int32_t *ids, size_t n, const gr_row *from,
                         graft_error *err) {
    graft_session *s = j->s;
    const gr_hooks *h = s->m->hooks;
    int32_t adapter = from ? from->adapter : adapter_of(j, number / j->n_return);
    *r = (gr_row){.number = number,
                  .finish = GRAFT_FINISH_LENGTH,
                  .adapter = adapter,
                  .identity = h->identity(h->self, adapter)};
    r->limit = limit_of(j, adapter, gr_model_get_config(s->m->model)->n_encoder_layers ? 1 : n);
    gr_kv_seq_init(&r->kv, s->store);
    r->text.text.a = s->a;
    int32_t task = j->o->task_ids ? GR_MAX(j->o->task_ids[number / j->n_return], 0) : 0;
    graft_status st = begin(j, r, (size_t)h->n_virtual(h->self, adapter), task, ids, n, from, err);
    if (st != GRAFT_OK) gr_row_free(s, r);
    return st;
}

/* Tokens that would make the last n-1 tokens an n-gram that is there already. */
static graft_status ban_ngrams(gr_job *j, const int32_t *ids, size_t n, size_t *n_banned, graft_error *err) {
    size_t size = (size_t)j->o->no_repeat_ngram_size;
    for (size_t i = 0; i + size <= n; i++) {
        if (memcmp(ids + i, ids + n - (size - 1), (size - 1) * sizeof *ids) != 0) continue;
        if (ids[i + size - 1] < 0) continue; /* a pseudo-token, which no one can choose */
        GR_TRY(gr_grow(j->s->a, (void **)&j->banned, &j->cap_banned, *n_banned + 1, sizeof *j->banned, err));
        j->banned[(*n_banned)++] = ids[i + size - 1];
    }
    return GRAFT_OK;
}

graft_status gr_row_banned(gr_job *j, const gr_row *r, size_t made, const int32_t **out, size_t *n, graft_error *err) {
    size_t n_eos = 0;
    const int32_t *eos = graft_tokenizer_eos_ids(j->s->tok, &n_eos);
    if ((int64_t)made >= j->o->min_new_tokens) n_eos = 0;
    GR_TRY(gr_grow(j->s->a, (void **)&j->banned, &j->cap_banned, n_eos + 1, sizeof *j->banned, err));
    if (n_eos) memcpy(j->banned, eos, n_eos * sizeof *eos);
    *n = n_eos;
    if (j->o->no_repeat_ngram_size > 0) GR_TRY(ban_ngrams(j, r->ids + r->n_virtual, r->n - r->n_virtual, n, err));
    *out = j->banned;
    return GRAFT_OK;
}
