/* Generation: a loop that computes all running sequences in one ragged batch a step. A sequence's prompt is computed in
 * pieces of a fixed size, so that what a sequence gets does not depend on which others run beside it. */
#include <math.h>

#include "infer/job.h"

enum {
    CHUNK = 512,        /* prompt tokens of one sequence a step */
    STEP_TOKENS = 2048, /* prompt tokens of all sequences a step; at least one sequence always runs */
    STEP_PROPOSED = 256 /* tokens of prompt lookup a step: each has a row of logits */
};

graft_generate_options graft_generate_options_default(void) {
    return (graft_generate_options){.sampling = {.greedy = 1, .temperature = 1, .top_p = 1, .repeat_penalty = 1},
                                    .max_new_tokens = 256,
                                    .max_batch = 32,
                                    .length_penalty = 1};
}

graft_status graft_sampling_default(const graft_model *m, graft_sampling *out, graft_error *err) {
    gr_generation_config g;
    GR_TRY(gr_generation_config_load(gr_allocator(m->ctx), gr_model_path(m->model),
                                     gr_model_get_config(m->model), &g, err));
    *out = (graft_sampling){.greedy = !g.do_sample, .temperature = g.temperature, .top_k = g.top_k, .top_p = g.top_p,
                            .min_p = g.min_p, .repeat_penalty = g.repetition_penalty};
    return GRAFT_OK;
}

graft_status graft_session_new(graft_model *m, const graft_tokenizer *tok, graft_session **out, graft_error *err) {
    GR_TRY(gr_model_want_causal(m->model, "generation", err));
    const graft_allocator *a = gr_allocator(m->ctx);
    graft_session *s = gr_calloc(a, 1, sizeof *s);
    if (!s) return gr_fail_memory(err);
    *s = (graft_session){.m = m, .tok = tok, .a = a};
    s->sampler.a = a;
    gr_tape_options o = {0};
    graft_status st;
    GR_GO(fail, gr_kv_store_new(m->model, GR_KV_COMPUTED, &s->store, err));
    gr_kv_seq_init(&s->kept, s->store);
    GR_GO(fail, gr_pool_new(a, 0, false, &s->pool, err));
    GR_GO(fail, gr_tape_new(gr_model_device(m->model), s->pool, &o, &s->tape, err));
    GR_GO(fail, gr_pass_new(m->model, &s->pass, err));
    GR_GO(fail, gr_sampler_init(&s->sampler, a, gr_model_get_config(m->model)->vocab_size, err));
    *out = s;
    return GRAFT_OK;
fail:
    graft_session_free(s);
    return st;
}

void graft_session_free(graft_session *s) {
    if (!s) return;
    gr_kv_seq_free(&s->kept);
    gr_free(s->a, s->kept_ids);
    gr_sampler_free(&s->sampler);
    gr_pass_free(s->pass);
    gr_tape_free(s->tape);
    gr_pool_free(s->pool);
    gr_kv_store_free(s->store);
    gr_free(s->a, s);
}

graft_generate_stats graft_session_stats(const graft_session *s) { return s->stats; }

void graft_generation_free(graft_context *ctx, graft_generation *g) {
    graft_free(ctx, g->text);
    graft_free(ctx, g->ids);
    *g = (graft_generation){0};
}

static bool has_encoder(const graft_session *s) { return gr_model_get_config(s->m->model)->n_encoder_layers > 0; }

/* --- Rows --------------------------------------------------------------------------------------------------------- */

/* Takes over the rows that the session kept of a sequence that begins like this prompt. */
static graft_status reuse(gr_job *j, gr_row *r, graft_error *err) {
    graft_session *s = j->s;
    if (r->source || s->kept_adapter != r->identity) return GRAFT_OK;
    size_t same = 0, most = GR_MIN((size_t)s->kept.length, r->n_prompt - 1);
    while (same < most && s->kept_ids[same] == r->ids[same]) same++;
    if (same) GR_TRY(gr_kv_seq_fork(&r->kv, &s->kept, (int64_t)same, err));
    s->stats.reused_tokens += same;
    return GRAFT_OK;
}

/* Rows that a prompt may branch into. */
static size_t rows_of_prompt(const gr_job *j) { return GR_MAX(j->n_return, j->n_beams > 1 ? j->n_beams : 1); }

/* Rows that run or will when prompts branch into their copies or beams. */
static size_t reserved(const gr_job *j) {
    size_t n = 0;
    for (size_t i = 0; i < j->n_rows; i++) n += j->rows[i].copies ? j->n_return : !j->rows[i].group;
    return n + j->n_groups * j->n_beams;
}

static graft_status admit(gr_job *j, graft_error *err) {
    while (j->next < j->n_prompts && reserved(j) + rows_of_prompt(j) <= j->max_rows) {
        const graft_input_ids *p = &j->prompts[j->next];
        gr_row *r = &j->rows[j->n_rows];
        GR_TRY(gr_row_init(j, r, j->next * j->n_return, p->ids, p->n, NULL, err));
        j->n_rows++;
        r->copies = j->n_return > 1 && j->n_beams <= 1;
        if (j->n_beams > 1) GR_TRY(gr_group_new(j, r, err));
        j->next++;
        GR_TRY(reuse(j, r, err));
    }
    return GRAFT_OK;
}

/* --- One step ----------------------------------------------------------------------------------------------------- */

static graft_status room_for_batch(gr_job *j, size_t tokens, graft_error *err) {
    const graft_allocator *a = j->s->a;
    GR_TRY(gr_grow(a, (void **)&j->ids, &j->cap_ids, tokens, sizeof *j->ids, err));
    GR_TRY(gr_grow(a, (void **)&j->bounds, &j->cap_bounds, j->n_rows + 1, sizeof *j->bounds, err));
    GR_TRY(gr_grow(a, (void **)&j->wanted, &j->cap_wanted, tokens, sizeof *j->wanted, err));
    GR_TRY(gr_grow(a, (void **)&j->adapters, &j->cap_adapters, j->n_rows, sizeof *j->adapters, err));
    return gr_grow(a, (void **)&j->kv, &j->cap_kv, j->n_rows, sizeof *j->kv, err);
}

/* Lets rows whose last token is computed in this step propose what may follow it. What others propose decides how
 * many a row may, never what it gets. */
static graft_status propose(gr_job *j, size_t *tokens, graft_error *err) {
    const size_t share = GR_MAX(STEP_PROPOSED / j->n_rows, (size_t)1);
    size_t left = STEP_PROPOSED;
    for (size_t i = 0; i < j->n_rows; i++) {
        gr_row *r = &j->rows[i];
        r->n_proposed = 0;
        if (!j->o->prompt_lookup_num_tokens || !r->feed || r->copies) continue;
        if (r->kv.length + r->feed < (int64_t)r->n) continue;
        /* The last token that is computed chooses one more. */
        size_t to_come = (size_t)r->limit - (r->n - r->n_prompt) - 1;
        GR_TRY(gr_row_propose(j, r, GR_MIN(GR_MIN(share, left), to_come), err));
        r->feed += (int64_t)r->n_proposed;
        left -= r->n_proposed;
        *tokens += r->n_proposed;
    }
    return GRAFT_OK;
}

/* Decides how many tokens each row has in this step. */
static graft_status share_out(gr_job *j, size_t *out, graft_error *err) {
    size_t tokens = 0;
    for (size_t i = 0; i < j->n_rows; i++) {
        gr_row *r = &j->rows[i];
        int64_t left = (int64_t)r->n - r->kv.length;
        r->feed = GR_MIN(left, (int64_t)CHUNK);
        /* A source is encoded at once, for its tokens see each other both ways. */
        size_t cost = (size_t)r->feed + (r->source && !r->source->kv.length ? r->source->n : 0);
        if (cost > 1 && tokens > 0 && tokens + cost > STEP_TOKENS) r->feed = 0;
        if (r->feed) tokens += cost;
    }
    *out = tokens;
    return propose(j, out, err);
}

static graft_status fill_batch(gr_job *j, gr_batch *b, size_t tokens, int64_t *n_wanted, graft_error *err) {
    GR_TRY(room_for_batch(j, tokens, err));
    int n_seqs = 0;
    int32_t at = 0;
    *n_wanted = 0;
    j->source = (gr_batch){0};
    for (size_t i = 0; i < j->n_rows; i++) {
        gr_row *r = &j->rows[i];
        if (!r->feed) continue;
        GR_TRY(gr_kv_seq_extend(&r->kv, r->feed, err));
        j->bounds[n_seqs] = at;
        j->kv[n_seqs] = &r->kv.kv;
        j->adapters[n_seqs] = r->adapter;
        if (r->source) GR_TRY(gr_job_add_source(j, r, n_seqs, err));
        n_seqs++;
        memcpy(j->ids + at, r->ids + r->kv.length, (size_t)r->feed * sizeof *j->ids);
        at += (int32_t)r->feed;
        if (r->kv.length + r->feed < (int64_t)r->n) continue;
        for (size_t k = r->n_proposed + 1; k-- > 0;) j->wanted[(*n_wanted)++] = at - 1 - (int32_t)k;
    }
    j->bounds[n_seqs] = at;
    *b = (gr_batch){.n_tokens = at,
                    .n_seqs = n_seqs,
                    .bounds = j->bounds,
                    .ids = j->ids,
                    .adapter = j->adapters,
                    .one_adapter = -1,
                    .kv = j->kv};
    return n_seqs && has_encoder(j->s) ? gr_job_finish_sources(j, b, err) : GRAFT_OK;
}

static graft_status take_token(gr_job *j, gr_row *r, int32_t id, graft_error *err) {
    graft_session *s = j->s;
    if (s->stats.new_tokens++ == 0) s->stats.first_token_seconds = gr_now_seconds() - j->begin;
    GR_TRY(gr_grow(s->a, (void **)&r->ids, &r->cap, r->n + 1, sizeof *r->ids, err));
    r->ids[r->n++] = id;
    bool end = graft_tokenizer_is_eos(s->tok, id) && !j->o->ignore_eos;
    if (!end) GR_TRY(gr_text_stream_push(&r->text, id, err));
    if (end || r->text.stopped) {
        r->finish = GRAFT_FINISH_STOP;
        r->done = true;
    } else if ((int64_t)(r->n - r->n_prompt) >= r->limit) {
        r->done = true;
    }
    if (r->done) GR_TRY(gr_text_stream_finish(&r->text, err));
    if (r->text.stopped) r->finish = GRAFT_FINISH_STOP;
    size_t len;
    const char *piece = gr_text_stream_next(&r->text, r->done, &len);
    if (j->piece && len && j->piece(j->user, r->number, piece, len) != 0 && !r->done) {
        r->finish = GRAFT_FINISH_CANCELLED;
        r->done = true;
    }
    return GRAFT_OK;
}

static graft_status choose(gr_job *j, gr_row *r, const float *logits, graft_error *err) {
    size_t n_banned, made = r->n - r->n_prompt;
    const int32_t *banned;
    int32_t id;
    GR_TRY(gr_row_banned(j, r, made, &banned, &n_banned, err));
    GR_TRY(gr_sampler_choose(&j->s->sampler, &j->o->sampling, logits, r->ids + r->n_virtual, r->n - r->n_virtual,
                             banned, n_banned, gr_rng_stream(GR_RNG_SAMPLE, r->number), made, &id, err));
    return take_token(j, r, id, err);
}

/* One token after the last, and one after each proposed token that was chosen. */
static graft_status choose_all(gr_job *j, gr_row *r, const float *logits, graft_error *err) {
    graft_generate_stats *stats = &j->s->stats;
    size_t accepted = 0;
    for (bool more = true; more && !r->done; logits += j->s->sampler.vocab) {
        bool proposed = accepted < r->n_proposed;
        int32_t id = proposed ? r->ids[r->n] : 0;
        GR_TRY(choose(j, r, logits, err));
        more = proposed && r->ids[r->n - 1] == id;
        accepted += more;
    }
    if (!r->n_proposed) return GRAFT_OK;
    gr_kv_seq_truncate(&r->kv, (int64_t)r->n - 1);
    /* Long proposals pay where they come true. */
    r->reach = accepted == r->n_proposed ? 2 * r->reach : accepted + 1;
    stats->proposed_tokens += r->n_proposed;
    stats->accepted_tokens += accepted;
    r->n_proposed = 0;
    return GRAFT_OK;
}

/* The other continuations of r's prompt, whose keys and values they share. */
static graft_status branch(gr_job *j, size_t at, const float *logits, graft_error *err) {
    size_t number = j->rows[at].number;
    j->rows[at].copies = false;
    for (size_t c = 1; c < j->n_return; c++) {
        gr_row *from = &j->rows[at], *r = &j->rows[j->n_rows];
        GR_TRY(gr_row_init(j, r, number + c, from->ids + from->n_virtual, from->n_prompt - from->n_virtual, from, err));
        j->n_rows++;
        GR_TRY(gr_kv_seq_fork(&r->kv, &from->kv, from->kv.length, err));
        GR_TRY(choose(j, r, logits, err));
    }
    return GRAFT_OK;
}

static graft_status use_logits(gr_job *j, const float *logits, size_t n_rows, graft_error *err) {
    int64_t vocab = j->s->sampler.vocab;
    size_t at = 0;
    for (size_t i = 0; i < n_rows; i++) {
        gr_row *r = &j->rows[i];
        if (!r->feed) continue;
        r->kv.length += r->feed;
        if (r->kv.length < (int64_t)r->n) continue;
        const float *mine = logits + (int64_t)at * vocab;
        at += 1 + r->n_proposed;
        if (r->group) {
            GR_TRY(gr_group_offer(j, r, mine, err));
            continue;
        }
        if (r->copies) GR_TRY(branch(j, i, mine, err));
        GR_TRY(choose_all(j, &j->rows[i], mine, err));
    }
    return gr_groups_advance(j, err);
}

static graft_status step(gr_job *j, graft_error *err) {
    graft_session *s = j->s;
    gr_batch b;
    int64_t n_wanted;
    size_t n_rows = j->n_rows; /* branches made in this step have their tokens already */
    double begin = gr_now_seconds();
    size_t tokens;
    GR_TRY(share_out(j, &tokens, err));
    GR_TRY(fill_batch(j, &b, tokens, &n_wanted, err));
    gr_pass_options o = {.hooks = s->m->hooks};
    gr_var *out = NULL;
    graft_status st = n_wanted ? gr_pass_logits(s->pass, s->tape, &b, &o, j->wanted, n_wanted, &out, err)
                               : gr_pass_hidden(s->pass, s->tape, &b, &o, NULL, 0, &out, err);
    if (st == GRAFT_OK) st = gr_job_keep_sources(j, err);
    if (st == GRAFT_OK) st = use_logits(j, n_wanted ? gr_var_array(out)->data : NULL, n_rows, err);
    gr_var_drop(out);
    gr_tape_reset(s->tape);
    bool decoding = (int64_t)tokens == n_wanted;
    *(decoding ? &s->stats.new_seconds : &s->stats.prompt_seconds) += gr_now_seconds() - begin;
    return st;
}

/* --- The call ----------------------------------------------------------------------------------------------------- */

static graft_status hand_over(gr_job *j, gr_row *r, graft_error *err) {
    graft_generation g = {.finish = r->finish, .n_ids = r->n - r->n_prompt};
    GR_TRY(gr_buf_take(&r->text.text, &g.text, &g.len, err));
    g.ids = gr_alloc(j->s->a, g.n_ids * sizeof *g.ids);
    if (!g.ids) {
        gr_free(j->s->a, g.text);
        return gr_fail_memory(err);
    }
    memcpy(g.ids, r->ids + r->n_prompt, g.n_ids * sizeof *g.ids);
    j->out[r->number] = g;
    return GRAFT_OK;
}

/* The first sequence of the call stays in the session. */
static void keep(gr_job *j, gr_row *r) {
    graft_session *s = j->s;
    gr_kv_seq_free(&s->kept);
    gr_free(s->a, s->kept_ids);
    s->kept = r->kv;
    s->kept_ids = r->ids;
    s->kept_adapter = r->identity;
    gr_kv_seq_init(&r->kv, s->store);
    r->ids = NULL;
}

static graft_status retire(gr_job *j, graft_error *err) {
    for (size_t i = 0; i < j->n_rows;) {
        gr_row *r = &j->rows[i];
        if (!r->done) {
            i++;
            continue;
        }
        GR_TRY(hand_over(j, r, err));
        if (r->number == 0 && !r->source) keep(j, r);
        gr_row_free(j->s, r);
        memmove(r, r + 1, (--j->n_rows - i) * sizeof *r);
    }
    return GRAFT_OK;
}

static graft_status check_prompt(const gr_job *j, size_t i, graft_error *err) {
    const graft_input_ids *p = &j->prompts[i];
    const gr_hooks *h = j->s->m->hooks;
    const char *name = gr_job_adapter(j, i);
    if (name && h->find(h->self, name) < 0)
        return gr_fail(err, GRAFT_ERR_NOT_FOUND,
                       "adapter %s: expected one that was loaded, found none of that name", name);
    int32_t adapter = name ? h->find(h->self, name) : -1;
    int64_t vocab = j->s->sampler.vocab, most = gr_job_positions(j->s, adapter);
    int64_t rows = h->prompt_template && h->prompt_template(h->self, adapter) ? h->n_rows(h->self, adapter) : 0;
    const int n_tasks = h->n_tasks ? h->n_tasks(h->self, adapter) : 0, task = j->o->task_ids ? j->o->task_ids[i] : -1;
    if (task >= n_tasks || (n_tasks > 1 && task < 0))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       n_tasks ? "prompt %zu: expected one of the adapter's %d tasks (task_ids), found %d"
                               : "prompt %zu: the adapter has %d tasks, found task %d",
                       i + 1, n_tasks, task);
    if (!p->n) return gr_fail(err, GRAFT_ERR_ARGUMENT, "prompt %zu: expected at least one token, found none", i + 1);
    for (size_t k = 0; k < p->n; k++)
        if (p->ids[k] < -rows || p->ids[k] >= vocab)
            return gr_fail(err, GRAFT_ERR_ARGUMENT,
                           "prompt %zu: token %zu: expected an id below %lld, found %d", i + 1, k + 1,
                           (long long)vocab, p->ids[k]);
    if ((int64_t)p->n >= most)
        return gr_fail(err, GRAFT_ERR_LIMIT, "prompt of %zu tokens: expected fewer than the model's %lld positions",
                       p->n, (long long)most);
    return GRAFT_OK;
}

static graft_status check_beams(const gr_job *j, graft_error *err) {
    const graft_generate_options *o = j->o;
    if (o->no_repeat_ngram_size < 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "no_repeat_ngram_size: expected 0 or more, found %lld",
                       (long long)o->no_repeat_ngram_size);
    if (j->n_beams <= 1) return GRAFT_OK;
    if (j->n_beams > 1024 || j->n_return > j->n_beams)
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "num_beams: expected at least the %zu sequences that are returned and at most 1024, found %zu",
                       j->n_return, j->n_beams);
    if (!o->sampling.greedy)
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "num_beams: beam search takes the likeliest tokens, it does not sample");
    if (o->n_stop) return gr_fail(err, GRAFT_ERR_ARGUMENT, "num_beams: beam search does not look for stop texts");
    if (!isfinite(o->length_penalty) || fabs(o->length_penalty) > 100)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "length_penalty: expected a number from -100 to 100, found %g",
                       o->length_penalty);
    return GRAFT_OK;
}

static graft_status check_lookup(const gr_job *j, graft_error *err) {
    const graft_generate_options *o = j->o;
    if (o->prompt_lookup_num_tokens < 0 || o->prompt_lookup_num_tokens > STEP_PROPOSED)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "prompt_lookup_num_tokens: expected 0 to %d, found %lld", STEP_PROPOSED,
                       (long long)o->prompt_lookup_num_tokens);
    if (o->max_matching_ngram_size < 0 || (o->max_matching_ngram_size && !o->prompt_lookup_num_tokens))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "max_matching_ngram_size: expected 1 or more, with prompt_lookup_num_tokens, found %lld",
                       (long long)o->max_matching_ngram_size);
    if (o->prompt_lookup_num_tokens && j->n_beams > 1)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "prompt_lookup_num_tokens: beam search does not look tokens up");
    return GRAFT_OK;
}

static graft_status check(const gr_job *j, graft_error *err) {
    const graft_generate_options *o = j->o;
    const gr_hooks *h = j->s->m->hooks;
    GR_TRY(gr_sampling_check(&o->sampling, err));
    if (o->adapter && h->find(h->self, o->adapter) < 0)
        return gr_fail(err, GRAFT_ERR_NOT_FOUND, "adapter %s: expected one that was loaded, found none of that name",
                       o->adapter);
    if (j->n_return < 1 || j->n_return > 4096)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequences a prompt: expected 1 to 4096, found %zu", j->n_return);
    GR_TRY(check_beams(j, err));
    GR_TRY(check_lookup(j, err));
    for (size_t i = 0; i < j->n_prompts; i++) GR_TRY(check_prompt(j, i, err));
    if (o->max_new_tokens == 0 || o->max_new_tokens < -1)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "new tokens: expected at least 1, or -1 for all that fit, found %lld",
                       (long long)o->max_new_tokens);
    if (o->max_new_tokens < 0 && has_encoder(j->s))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "new tokens: expected a number, for this model's positions have no end");
    return GRAFT_OK;
}

static graft_status find_format(const gr_job *j, gr_kv_format *out, graft_error *err) {
    static const gr_dtype types[] = {[GRAFT_KV_F32] = GR_F32, [GRAFT_KV_BF16] = GR_BF16};
    const graft_kv_dtype kept = j->o->kv_cache_dtype;
    const gr_dtype dt = gr_model_dtype(j->s->m->model);
    *out = GR_KV_COMPUTED;
    if ((unsigned)kept > GRAFT_KV_INT8)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "kv_cache_dtype: expected 0 to %d, found %d", GRAFT_KV_INT8,
                       (int)kept);
    if (kept == GRAFT_KV_INT8) *out = GR_KV_INT8;
    if (kept == GRAFT_KV_AUTO || kept == GRAFT_KV_INT8 || types[kept] == dt) return GRAFT_OK;
    if (kept == GRAFT_KV_F32)
        return gr_fail(
            err, GRAFT_ERR_ARGUMENT,
            "kv_cache_dtype: expected bf16 or int8, for keys and values are computed in bf16, found f32");
    *out = GR_KV_BF16;
    return GRAFT_OK;
}

/* A store of the format that is asked for. What was kept in another one is dropped. */
static graft_status choose_store(gr_job *j, graft_error *err) {
    graft_session *s = j->s;
    gr_kv_format format;
    gr_kv_store *store;
    GR_TRY(find_format(j, &format, err));
    if (format == gr_kv_store_format(s->store)) return GRAFT_OK;
    GR_TRY(gr_kv_store_new(s->m->model, format, &store, err));
    gr_kv_seq_free(&s->kept);
    gr_kv_store_free(s->store);
    s->store = store;
    gr_kv_seq_init(&s->kept, store);
    return GRAFT_OK;
}

static graft_status run(gr_job *j, graft_error *err) {
    while (j->next < j->n_prompts || j->n_rows) {
        GR_TRY(gr_check_cancel(j->s->m->ctx, err));
        GR_TRY(admit(j, err));
        GR_TRY(step(j, err));
        GR_TRY(retire(j, err));
    }
    return GRAFT_OK;
}

static void job_free(gr_job *j) {
    const graft_allocator *a = j->s->a;
    for (size_t i = 0; i < j->n_rows; i++) gr_row_free(j->s, &j->rows[i]);
    for (size_t i = 0; i < j->n_groups; i++) gr_group_free(j, j->groups[i]);
    void *const all[] = {j->rows,     j->groups, j->ids,        j->bounds,        j->wanted,
                         j->adapters, j->reads,  j->source_ids, j->source_bounds, j->source_adapters,
                         j->banned,   j->kv,     j->source_kv,  j->encoded_kv,    j->sources};
    for (size_t i = 0; i < GR_COUNT(all); i++) gr_free(a, all[i]);
}

graft_status graft_generate(graft_session *s, const graft_input_ids *prompts, size_t n, size_t n_return,
                            const graft_generate_options *options, graft_piece_fn piece, void *user,
                            graft_generation *out, graft_error *err) {
    graft_generate_options defaults = graft_generate_options_default();
    gr_job j = {.s = s, .prompts = prompts, .n_prompts = n, .n_return = n_return, .o = options ? options : &defaults,
                .piece = piece, .user = user, .begin = gr_now_seconds()};
    j.n_beams = j.o->num_beams;
    GR_TRY(check(&j, err));
    GR_TRY(choose_store(&j, err));
    s->stats = (graft_generate_stats){0};
    for (size_t i = 0; i < n; i++) s->stats.prompt_tokens += prompts[i].n;
    j.max_rows = GR_MAX(j.o->max_batch ? j.o->max_batch : 32, rows_of_prompt(&j));
    j.rows = gr_calloc(s->a, j.max_rows, sizeof *j.rows);
    j.groups = gr_calloc(s->a, j.max_rows, sizeof *j.groups);
    j.out = gr_calloc(s->a, n * n_return, sizeof *j.out);
    graft_status st = j.rows && j.groups && j.out ? run(&j, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) memcpy(out, j.out, n * n_return * sizeof *out);
    for (size_t i = 0; st != GRAFT_OK && j.out && i < n * n_return; i++) graft_generation_free(s->m->ctx, &j.out[i]);
    gr_free(s->a, j.out);
    job_free(&j);
    s->stats.kv_bytes = gr_kv_store_bytes(s->store);
    return st;
}
