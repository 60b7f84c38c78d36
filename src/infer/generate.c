/* Generation: a loop that computes all running sequences in one ragged batch a step. A sequence's prompt is computed in
 * pieces of a fixed size, so that what a sequence gets does not depend on which others run beside it. */
#include <math.h>

#include "infer/text_stream.h"

enum {
    CHUNK = 512,       /* prompt tokens of one sequence a step */
    STEP_TOKENS = 2048 /* prompt tokens of all sequences a step; at least one sequence always runs */
};

/* One running sequence. */
typedef struct row {
    gr_kv_seq kv;
    int32_t *ids; /* virtual tokens, prompt, then what was generated */
    size_t n, cap, n_prompt;
    size_t number; /* in the caller's order */
    bool copies;   /* its prompt is continued by the sequences number + 1 .. too */
    int64_t feed;  /* tokens that it has in the current step */
    gr_text_stream text;
    graft_finish finish;
    bool done;
} row;

struct graft_session {
    graft_model *m;
    const graft_tokenizer *tok;
    const graft_allocator *a;
    gr_kv_store *store;
    gr_pool *pool;
    gr_tape *tape;
    gr_pass *pass;
    gr_sampler sampler;
    /* The last prompt and its first continuation. */
    gr_kv_seq kept;
    int32_t *kept_ids;
    int64_t kept_adapter; /* its identity */
    graft_generate_stats stats;
};

/* What one call of graft_generate works on. */
typedef struct job {
    graft_session *s;
    const graft_input_ids *prompts;
    size_t n_prompts, n_return, next;
    const graft_generate_options *o;
    graft_piece_fn piece;
    void *user;
    graft_generation *out;
    row *rows; /* running */
    size_t n_rows, max_rows;
    int32_t adapter;
    int64_t identity; /* of the adapter */
    size_t n_virtual; /* virtual tokens in front of every prompt */
    int64_t limit; /* new tokens */
    double begin;
    /* Arrays of the batch. */
    int32_t *ids, *bounds, *wanted, *adapters;
    const gr_kv **kv;
    size_t cap_ids, cap_bounds, cap_wanted, cap_adapters, cap_kv;
} job;

graft_generate_options graft_generate_options_default(void) {
    return (graft_generate_options){
        .sampling = {.greedy = 1, .temperature = 1, .top_p = 1, .repeat_penalty = 1}, .max_new_tokens = 256, .max_batch = 32};
}

graft_status graft_sampling_default(const graft_model *m, graft_sampling *out, graft_error *err) {
    gr_generation_config g;
    GR_TRY(gr_generation_config_load(gr_allocator(m->ctx), gr_model_path(m->model), gr_model_get_config(m->model), &g, err));
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
    GR_GO(fail, gr_kv_store_new(m->model, &s->store, err));
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

/* --- Rows ----------------------------------------------------------------------------------------------------------- */

static void row_free(graft_session *s, row *r) {
    gr_kv_seq_free(&r->kv);
    gr_free(s->a, r->ids);
    gr_text_stream_free(&r->text);
}

static graft_status row_init(job *j, row *r, size_t number, const int32_t *ids, size_t n, graft_error *err) {
    graft_session *s = j->s;
    size_t ahead = j->n_virtual;
    *r = (row){.number = number, .n_prompt = ahead + n, .finish = GRAFT_FINISH_LENGTH};
    gr_kv_seq_init(&r->kv, s->store);
    r->text.text.a = s->a;
    graft_status st = gr_grow(s->a, (void **)&r->ids, &r->cap, ahead + n + 1, sizeof *r->ids, err);
    if (st == GRAFT_OK) {
        for (size_t i = 0; i < ahead; i++) r->ids[i] = -1 - (int32_t)i;
        memcpy(r->ids + ahead, ids, n * sizeof *ids);
        r->n = ahead + n;
        st = gr_text_stream_init(&r->text, s->a, s->tok, j->o->keep_special != 0, j->o->stop, j->o->n_stop, err);
    }
    if (st != GRAFT_OK) row_free(s, r);
    return st;
}

/* Takes over the rows that the session kept of a sequence that begins like this prompt. */
static graft_status reuse(job *j, row *r, graft_error *err) {
    graft_session *s = j->s;
    if (s->kept_adapter != j->identity) return GRAFT_OK;
    size_t same = 0, most = GR_MIN((size_t)s->kept.length, r->n_prompt - 1);
    while (same < most && s->kept_ids[same] == r->ids[same]) same++;
    if (same) GR_TRY(gr_kv_seq_fork(&r->kv, &s->kept, (int64_t)same, err));
    s->stats.reused_tokens += same;
    return GRAFT_OK;
}

/* Rows that run or will when prompts branch into their copies. */
static size_t reserved(const job *j) {
    size_t n = 0;
    for (size_t i = 0; i < j->n_rows; i++) n += j->rows[i].copies ? j->n_return : 1;
    return n;
}

static graft_status admit(job *j, graft_error *err) {
    while (j->next < j->n_prompts && reserved(j) + j->n_return <= j->max_rows) {
        const graft_input_ids *p = &j->prompts[j->next];
        row *r = &j->rows[j->n_rows];
        GR_TRY(row_init(j, r, j->next * j->n_return, p->ids, p->n, err));
        j->n_rows++;
        r->copies = j->n_return > 1;
        j->next++;
        GR_TRY(reuse(j, r, err));
    }
    return GRAFT_OK;
}

/* --- One step ------------------------------------------------------------------------------------------------------- */

static graft_status room_for_batch(job *j, size_t tokens, graft_error *err) {
    const graft_allocator *a = j->s->a;
    GR_TRY(gr_grow(a, (void **)&j->ids, &j->cap_ids, tokens, sizeof *j->ids, err));
    GR_TRY(gr_grow(a, (void **)&j->bounds, &j->cap_bounds, j->n_rows + 1, sizeof *j->bounds, err));
    GR_TRY(gr_grow(a, (void **)&j->wanted, &j->cap_wanted, j->n_rows, sizeof *j->wanted, err));
    GR_TRY(gr_grow(a, (void **)&j->adapters, &j->cap_adapters, j->n_rows, sizeof *j->adapters, err));
    return gr_grow(a, (void **)&j->kv, &j->cap_kv, j->n_rows, sizeof *j->kv, err);
}

/* Decides how many tokens each row has in this step. */
static size_t share_out(job *j) {
    size_t tokens = 0;
    for (size_t i = 0; i < j->n_rows; i++) {
        row *r = &j->rows[i];
        int64_t left = (int64_t)r->n - r->kv.length;
        r->feed = GR_MIN(left, (int64_t)CHUNK);
        if (r->feed > 1 && tokens > 0 && tokens + (size_t)r->feed > STEP_TOKENS) r->feed = 0;
        tokens += (size_t)r->feed;
    }
    return tokens;
}

static graft_status fill_batch(job *j, gr_batch *b, size_t tokens, int64_t *n_wanted, graft_error *err) {
    GR_TRY(room_for_batch(j, tokens, err));
    int n_seqs = 0;
    int32_t at = 0;
    *n_wanted = 0;
    for (size_t i = 0; i < j->n_rows; i++) {
        row *r = &j->rows[i];
        if (!r->feed) continue;
        GR_TRY(gr_kv_seq_extend(&r->kv, r->feed, err));
        j->bounds[n_seqs] = at;
        j->kv[n_seqs] = &r->kv.kv;
        j->adapters[n_seqs++] = j->adapter;
        memcpy(j->ids + at, r->ids + r->kv.length, (size_t)r->feed * sizeof *j->ids);
        at += (int32_t)r->feed;
        if (r->kv.length + r->feed == (int64_t)r->n) j->wanted[(*n_wanted)++] = at - 1;
    }
    j->bounds[n_seqs] = at;
    *b = (gr_batch){.n_tokens = at, .n_seqs = n_seqs, .bounds = j->bounds, .ids = j->ids, .adapter = j->adapters, .one_adapter = -1, .kv = j->kv};
    return GRAFT_OK;
}

static graft_status take_token(job *j, row *r, int32_t id, graft_error *err) {
    graft_session *s = j->s;
    if (s->stats.new_tokens++ == 0) s->stats.first_token_seconds = gr_now_seconds() - j->begin;
    GR_TRY(gr_grow(s->a, (void **)&r->ids, &r->cap, r->n + 1, sizeof *r->ids, err));
    r->ids[r->n++] = id;
    bool end = graft_tokenizer_is_eos(s->tok, id) && !j->o->ignore_eos;
    if (!end) GR_TRY(gr_text_stream_push(&r->text, id, err));
    if (end || r->text.stopped) {
        r->finish = GRAFT_FINISH_STOP;
        r->done = true;
    } else if ((int64_t)(r->n - r->n_prompt) >= j->limit) {
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

static graft_status choose(job *j, row *r, const float *logits, graft_error *err) {
    size_t n_banned = 0, made = r->n - r->n_prompt;
    const int32_t *banned = NULL;
    if ((int64_t)made < j->o->min_new_tokens) banned = graft_tokenizer_eos_ids(j->s->tok, &n_banned);
    int32_t id;
    GR_TRY(gr_sampler_choose(&j->s->sampler, &j->o->sampling, logits, r->ids + j->n_virtual, r->n - j->n_virtual, banned, n_banned,
                             gr_rng_stream(GR_RNG_SAMPLE, r->number), made, &id, err));
    return take_token(j, r, id, err);
}

/* The other continuations of r's prompt, whose keys and values they share. */
static graft_status branch(job *j, size_t at, const float *logits, graft_error *err) {
    size_t number = j->rows[at].number;
    j->rows[at].copies = false;
    for (size_t c = 1; c < j->n_return; c++) {
        row *from = &j->rows[at], *r = &j->rows[j->n_rows];
        GR_TRY(row_init(j, r, number + c, from->ids + j->n_virtual, from->n_prompt - j->n_virtual, err));
        j->n_rows++;
        GR_TRY(gr_kv_seq_fork(&r->kv, &from->kv, from->kv.length, err));
        GR_TRY(choose(j, r, logits, err));
    }
    return GRAFT_OK;
}

static graft_status use_logits(job *j, const float *logits, size_t n_rows, graft_error *err) {
    int64_t vocab = j->s->sampler.vocab;
    size_t at = 0;
    for (size_t i = 0; i < n_rows; i++) {
        row *r = &j->rows[i];
        if (!r->feed) continue;
        r->kv.length += r->feed;
        if (r->kv.length < (int64_t)r->n) continue;
        const float *mine = logits + (int64_t)at++ * vocab;
        if (r->copies) GR_TRY(branch(j, i, mine, err));
        GR_TRY(choose(j, &j->rows[i], mine, err));
    }
    return GRAFT_OK;
}

static graft_status step(job *j, graft_error *err) {
    graft_session *s = j->s;
    gr_batch b;
    int64_t n_wanted;
    size_t n_rows = j->n_rows; /* branches made in this step have their tokens already */
    double begin = gr_now_seconds();
    size_t tokens = share_out(j);
    GR_TRY(fill_batch(j, &b, tokens, &n_wanted, err));
    gr_pass_options o = {.hooks = s->m->hooks};
    gr_var *out = NULL;
    graft_status st = n_wanted ? gr_pass_logits(s->pass, s->tape, &b, &o, j->wanted, n_wanted, &out, err)
                               : gr_pass_hidden(s->pass, s->tape, &b, &o, NULL, 0, &out, err);
    if (st == GRAFT_OK) st = use_logits(j, n_wanted ? gr_var_array(out)->data : NULL, n_rows, err);
    gr_var_drop(out);
    gr_tape_reset(s->tape);
    bool decoding = (int64_t)tokens == n_wanted;
    *(decoding ? &s->stats.new_seconds : &s->stats.prompt_seconds) += gr_now_seconds() - begin;
    return st;
}

/* --- The call --------------------------------------------------------------------------------------------------------- */

static graft_status hand_over(job *j, row *r, graft_error *err) {
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
static void keep(job *j, row *r) {
    graft_session *s = j->s;
    gr_kv_seq_free(&s->kept);
    gr_free(s->a, s->kept_ids);
    s->kept = r->kv;
    s->kept_ids = r->ids;
    s->kept_adapter = j->identity;
    gr_kv_seq_init(&r->kv, s->store);
    r->ids = NULL;
}

static graft_status retire(job *j, graft_error *err) {
    for (size_t i = 0; i < j->n_rows;) {
        row *r = &j->rows[i];
        if (!r->done) {
            i++;
            continue;
        }
        GR_TRY(hand_over(j, r, err));
        if (r->number == 0) keep(j, r);
        row_free(j->s, r);
        memmove(r, r + 1, (--j->n_rows - i) * sizeof *r);
    }
    return GRAFT_OK;
}

static graft_status check(const graft_session *s, const graft_input_ids *prompts, size_t n, size_t n_return,
                          const graft_generate_options *o, int64_t ahead, int64_t *limit, graft_error *err) {
    int64_t most = graft_model_max_length(s->m) - ahead, vocab = s->sampler.vocab;
    size_t longest = 0;
    GR_TRY(gr_sampling_check(&o->sampling, err));
    if (n_return < 1 || n_return > 4096) return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequences a prompt: expected 1 to 4096, found %zu", n_return);
    for (size_t i = 0; i < n; i++) {
        if (!prompts[i].n) return gr_fail(err, GRAFT_ERR_ARGUMENT, "prompt %zu: expected at least one token, found none", i + 1);
        for (size_t k = 0; k < prompts[i].n; k++)
            if (prompts[i].ids[k] < 0 || prompts[i].ids[k] >= vocab)
                return gr_fail(err, GRAFT_ERR_ARGUMENT, "prompt %zu: token %zu: expected an id below %lld, found %d", i + 1, k + 1,
                               (long long)vocab, prompts[i].ids[k]);
        longest = GR_MAX(longest, prompts[i].n);
    }
    *limit = o->max_new_tokens < 0 ? most - (int64_t)longest : o->max_new_tokens;
    if (o->max_new_tokens == 0 || o->max_new_tokens < -1)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "new tokens: expected at least 1, or -1 for all that fit, found %lld",
                       (long long)o->max_new_tokens);
    if ((int64_t)longest >= most)
        return gr_fail(err, GRAFT_ERR_LIMIT, "prompt of %zu tokens: expected fewer than the model's %lld positions", longest, (long long)most);
    *limit = GR_MIN(*limit, most - (int64_t)longest);
    return GRAFT_OK;
}

static graft_status run(job *j, graft_error *err) {
    while (j->next < j->n_prompts || j->n_rows) {
        GR_TRY(gr_check_cancel(j->s->m->ctx, err));
        GR_TRY(admit(j, err));
        GR_TRY(step(j, err));
        GR_TRY(retire(j, err));
    }
    return GRAFT_OK;
}

static void job_free(job *j) {
    const graft_allocator *a = j->s->a;
    for (size_t i = 0; i < j->n_rows; i++) row_free(j->s, &j->rows[i]);
    gr_free(a, j->rows);
    gr_free(a, j->ids);
    gr_free(a, j->bounds);
    gr_free(a, j->wanted);
    gr_free(a, j->adapters);
    gr_free(a, j->kv);
}

graft_status graft_generate(graft_session *s, const graft_input_ids *prompts, size_t n, size_t n_return,
                            const graft_generate_options *options, graft_piece_fn piece, void *user,
                            graft_generation *out, graft_error *err) {
    graft_generate_options defaults = graft_generate_options_default();
    job j = {.s = s, .prompts = prompts, .n_prompts = n, .n_return = n_return, .o = options ? options : &defaults,
             .piece = piece, .user = user, .adapter = -1, .begin = gr_now_seconds()};
    const gr_hooks *h = s->m->hooks;
    if (j.o->adapter && (j.adapter = h->find(h->self, j.o->adapter)) < 0)
        return gr_fail(err, GRAFT_ERR_NOT_FOUND, "adapter %s: expected one that was loaded, found none of that name", j.o->adapter);
    j.identity = h->identity(h->self, j.adapter);
    j.n_virtual = (size_t)h->n_virtual(h->self, j.adapter);
    GR_TRY(check(s, prompts, n, n_return, j.o, (int64_t)j.n_virtual + h->n_prefix(h->self, j.adapter), &j.limit, err));
    s->stats = (graft_generate_stats){0};
    for (size_t i = 0; i < n; i++) s->stats.prompt_tokens += prompts[i].n;
    j.max_rows = GR_MAX(j.o->max_batch ? j.o->max_batch : 32, n_return);
    j.rows = gr_calloc(s->a, j.max_rows, sizeof *j.rows);
    j.out = gr_calloc(s->a, n * n_return, sizeof *j.out);
    graft_status st = j.rows && j.out ? run(&j, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) memcpy(out, j.out, n * n_return * sizeof *out);
    for (size_t i = 0; st != GRAFT_OK && j.out && i < n * n_return; i++) graft_generation_free(s->m->ctx, &j.out[i]);
    gr_free(s->a, j.out);
    if (j.rows) job_free(&j);
    return st;
}
