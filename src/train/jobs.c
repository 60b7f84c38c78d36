/* Several runs over one model, step by step together: a round takes the next batch of every job that has steps left, one crew
 * makes the gradients of all, and each job goes on for itself (log, evaluation, checkpoint). Jobs that bring tensors of
 * their own in place of the model's (full, modules_to_save) or keep a trunk cannot share passes: they have rounds too, but
 * passes of their own. */
#include "train/checkpoint.h"
#include "train/crew.h"

enum { PLAN_ROUNDS = 64, PLANNED = 4 }; /* rounds that are looked through, and the fullest ones, which are planned exactly */

typedef struct run {
    gr_trainer t;
    graft_train_plan plan;
    bool active, shares;
    gr_tally tally;
    graft_status step; /* of its gradient in this round */
} run;

typedef struct jobs {
    graft_context *ctx;
    const graft_allocator *a;
    graft_sft_job *jobs;
    size_t n;
    run *runs;
    gr_crew_item *items; /* of the round, with their jobs' numbers */
    size_t *owner;
    gr_trainer_base base;
    gr_pool *pool;
    gr_crew *crew;
    size_t resident; /* of the process before the first job */
} jobs;

/* The job is over; `st` says how. */
static void settle(jobs *s, size_t i, graft_status st) {
    graft_sft_job *j = &s->jobs[i];
    j->status = st;
    if (st == GRAFT_OK) gr_trainer_result(&s->runs[i].t, &j->result);
    else gr_error_prefix(&j->error, st, "job %s", j->name);
    s->runs[i].active = false;
    gr_trainer_close(&s->runs[i].t);
    s->runs[i].t = (gr_trainer){.lock = -1};
}

static bool same_text(const char *a, const char *b) { return a == b || (a && b && !strcmp(a, b)); }

static graft_status check(const jobs *s, graft_error *err) {
    if (s->n == 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "jobs: expected at least one, found none");
    for (size_t i = 0; i < s->n; i++) {
        const graft_sft_job *j = &s->jobs[i];
        if (!j->name || !*j->name) return gr_fail(err, GRAFT_ERR_ARGUMENT, "jobs: job %zu: expected a name, found none", i + 1);
        for (size_t k = 0; k < i; k++)
            if (!strcmp(j->name, s->jobs[k].name))
                return gr_fail(err, GRAFT_ERR_ARGUMENT, "jobs: expected names that differ, found %s twice", j->name);
        if (!same_text(j->options.model, s->jobs[0].options.model))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "job %s: model: expected %s as in job %s, found %s: the jobs of one run share it", j->name,
                           s->jobs[0].options.model ? s->jobs[0].options.model : "none", s->jobs[0].name,
                           j->options.model ? j->options.model : "none");
        if (!same_text(j->options.dtype, s->jobs[0].options.dtype))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "job %s: dtype: expected %s as in job %s, found %s: the jobs of one run share it", j->name,
                           s->jobs[0].options.dtype ? s->jobs[0].options.dtype : "auto", s->jobs[0].name,
                           j->options.dtype ? j->options.dtype : "auto");
        const graft_sft_options *a = &s->jobs[0].options, *b = &j->options;
        if (!a->load_in_4bit != !b->load_in_4bit || !a->load_in_8bit != !b->load_in_8bit ||
            !a->bnb_4bit_use_double_quant != !b->bnb_4bit_use_double_quant || !same_text(a->bnb_4bit_quant_type, b->bnb_4bit_quant_type))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "job %s: load_in_4bit, load_in_8bit and their settings: expected those of job %s: the jobs of one run share the model",
                           j->name, s->jobs[0].name);
    }
    return GRAFT_OK;
}

static graft_status open_job(jobs *s, size_t i, graft_error *err) {
    run *r = &s->runs[i];
    GR_TRY(gr_trainer_open(&r->t, s->ctx, &s->jobs[i].options, &s->jobs[i].callbacks, err));
    r->t.base = &s->base;
    r->t.resident_start = s->resident;
    r->t.name = s->jobs[i].name;
    GR_TRY(gr_trainer_start(&r->t, &r->plan, err));
    r->shares = !gr_adapter_variant(r->t.set, r->t.adapter) && !r->t.trunk && gr_model_get_config(r->t.model)->task != GR_TASK_SEQ_CLS;
    return GRAFT_OK;
}

/* --- Memory ------------------------------------------------------------------------------------------------------------ */

static size_t fill_items(jobs *s, bool for_plan) {
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        run *r = &s->runs[i];
        if (!r->active || !r->shares || (!for_plan && r->step != GRAFT_OK)) continue;
        s->owner[n] = i;
        s->items[n++] = (gr_crew_item){.batch = &r->t.batch, .adapter = r->t.adapter, .seed = r->t.o->seed, .step = r->t.state.global_step,
                                       .tally = &r->tally};
    }
    return n;
}

/* The fullest rounds among the first ones; a later one that is fuller makes the arena grow. */
static graft_status plan_crew(jobs *s, gr_crew *crew, size_t *bytes, graft_error *err) {
    size_t best = 0, tokens, peak;
    int planned = 0;
    for (size_t i = 0; i < s->n; i++) s->runs[i].t.next = s->runs[i].t.state.cursor;
    for (int round = 0; round < PLAN_ROUNDS; round++) {
        tokens = 0;
        for (size_t i = 0; i < s->n; i++) {
            run *r = &s->runs[i];
            if (!r->active || !r->shares) continue;
            GR_TRY(gr_loader_next(r->t.loader, &r->t.next, &r->t.batch, err));
            tokens += r->t.batch.n_tokens;
        }
        if (planned >= PLANNED && tokens <= best) continue;
        best = GR_MAX(best, tokens);
        planned++;
        GR_TRY(gr_crew_plan(crew, s->items, fill_items(s, true), &peak, err));
        *bytes = GR_MAX(*bytes, peak);
    }
    return GRAFT_OK;
}

/* What all jobs take together must stay within the smallest limit that one of them names. */
static graft_status check_memory(const jobs *s, size_t pool, graft_error *err) {
    size_t own = 0, limit = 0, shared = 0, window = 0;
    for (size_t i = 0; i < s->n; i++) {
        const run *r = &s->runs[i];
        const graft_train_plan *p = &r->plan;
        if (!r->active) continue;
        own += p->parameters + p->gradients + p->data + p->trunk;
        /* Paged moments leave memory with a job's update, before the next one's. */
        if (p->optimizer_paged)
            window = GR_MAX(window, p->optimizer);
        else
            own += p->optimizer;
        shared = GR_MAX(shared, p->program + p->tokenizer + p->model_mapped + p->model_packed);
        size_t m = (size_t)r->t.o->memory;
        if (m) limit = limit ? GR_MIN(limit, m) : m;
    }
    size_t peak = own + shared + window + pool;
    if (!limit || peak <= limit) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_LIMIT, "memory: expected at most %.1f MiB, found %.1f MiB for the jobs together: fewer at a time would need less",
                   (double)limit / 1048576, (double)peak / 1048576);
}

/* The crew's arena at `tokens` a micro-batch. */
static graft_status try_crew(jobs *s, size_t tokens, gr_recompute level, size_t *bytes, graft_error *err) {
    gr_pool *none;
    gr_crew *probe = NULL;
    GR_TRY(gr_pool_new(s->a, 0, false, &none, err));
    graft_status st = gr_crew_new(s->base.set, none, tokens, level, &probe, err);
    if (st == GRAFT_OK) st = plan_crew(s, probe, bytes, err);
    gr_crew_free(probe);
    gr_pool_free(none);
    return st;
}

/* As many tokens at a time as memory allows, where it is limited. */
static graft_status make_crew(jobs *s, graft_error *err) {
    enum { CREW_TOKENS = 512, LEAST_TOKENS = 64 };
    size_t own = 0, bytes, tokens = CREW_TOKENS;
    gr_recompute level = GR_RECOMPUTE_NOTHING;
    for (size_t i = 0; i < s->n; i++) {
        const run *r = &s->runs[i];
        if (!r->active) continue;
        level = GR_MAX(level, r->t.recompute);
        own = GR_MAX(own, r->t.pool_bytes); /* evaluations, and jobs that do not share */
    }
    if (!s->base.set) return GRAFT_OK; /* no job came that far */
    for (;; tokens /= 2) {
        bytes = own;
        GR_TRY(try_crew(s, tokens, level, &bytes, err));
        graft_status st = check_memory(s, bytes, err);
        if (st == GRAFT_OK) break;
        if (tokens <= LEAST_TOKENS) return st;
    }
    GR_TRY(gr_pool_new(s->a, bytes, false, &s->pool, err));
    return gr_crew_new(s->base.set, s->pool, tokens, level, &s->crew, err);
}

static graft_status begin_job(jobs *s, size_t i, graft_error *err) {
    gr_trainer *t = &s->runs[i].t;
    gr_engine_use_pool(t->engine, s->pool);
    GR_TRY(gr_trainer_allocate(t, err));
    if (t->resumed_from) GR_TRY(gr_checkpoint_restore(t, err));
    GR_TRY(gr_run_log_start(t, err));
    return gr_trainer_begin(t, err);
}

/* --- Rounds ------------------------------------------------------------------------------------------------------------ */

static graft_status finish_job(gr_trainer *t, graft_error *err) {
    GR_TRY(gr_trainer_end(t, err));
    return gr_trainer_finish(t, err);
}

/* Jobs without steps left end; the others fetch. Returns how many go on. */
static size_t fetch(jobs *s) {
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        run *r = &s->runs[i];
        graft_error *e = &s->jobs[i].error;
        if (!r->active) continue;
        if (!gr_trainer_has_steps(&r->t)) {
            settle(s, i, finish_job(&r->t, e));
            continue;
        }
        r->tally = (gr_tally){0};
        r->step = GRAFT_OK;
        graft_status st = gr_trainer_fetch(&r->t, e);
        if (st != GRAFT_OK) settle(s, i, st);
        else n++;
    }
    return n;
}

static graft_status gradients(jobs *s, graft_error *err) {
    size_t n = fill_items(s, false);
    if (n) GR_TRY(gr_crew_train(s->crew, s->items, n, err));
    for (size_t k = 0; k < n; k++) {
        run *r = &s->runs[s->owner[k]];
        const gr_crew_item *x = &s->items[k];
        if (x->status == GRAFT_OK) continue;
        graft_error *e = &s->jobs[s->owner[k]].error;
        r->step = gr_fail(e, x->status, "the loss is %g", x->bad_loss);
        r->step = gr_trainer_bad_loss(&r->t, x->bad_example, e);
    }
    for (size_t i = 0; i < s->n; i++) {
        run *r = &s->runs[i];
        graft_error *e = &s->jobs[i].error;
        if (!r->active || r->shares) continue;
        r->step = gr_engine_train(r->t.engine, &r->t.batch, r->t.state.global_step, &r->tally, e);
        if (r->step == GRAFT_ERR_NUMERIC) r->step = gr_trainer_bad_loss(&r->t, gr_engine_bad_example(r->t.engine), e);
        if (r->step == GRAFT_ERR_CANCELLED) return gr_fail(err, GRAFT_ERR_CANCELLED, "cancelled");
    }
    return GRAFT_OK;
}

/* Every job that still runs saves where it is, or ends with `st`. */
static void stop(jobs *s, graft_status st, const graft_error *why) {
    for (size_t i = 0; i < s->n; i++) {
        if (!s->runs[i].active) continue;
        s->jobs[i].error = *why;
        settle(s, i, st == GRAFT_ERR_CANCELLED ? gr_trainer_cancelled(&s->runs[i].t, &s->jobs[i].error) : st);
    }
}

static void take(jobs *s) {
    bool cancelled = false;
    for (size_t i = 0; i < s->n && !cancelled; i++) {
        run *r = &s->runs[i];
        if (!r->active) continue;
        graft_status st = r->step != GRAFT_OK ? r->step : gr_trainer_take(&r->t, &r->tally, &s->jobs[i].error);
        if (st == GRAFT_ERR_CANCELLED) cancelled = true; /* within an evaluation or while saving; the round is not over for the others */
        else if (st != GRAFT_OK) settle(s, i, st);
    }
    const graft_error why = {0};
    if (cancelled) stop(s, GRAFT_ERR_CANCELLED, &why);
}

static void rounds(jobs *s) {
    graft_error why = {0};
    while (fetch(s)) {
        graft_status st = gr_check_cancel(s->ctx, &why);
        if (st == GRAFT_OK) st = gradients(s, &why);
        if (st != GRAFT_OK) stop(s, st, &why);
        else take(s);
    }
}

/* --- The call ------------------------------------------------------------------------------------------------------------ */

static graft_status start(jobs *s, graft_error *err) {
    for (size_t i = 0; i < s->n; i++) {
        s->jobs[i].status = GRAFT_OK;
        s->jobs[i].error = (graft_error){0};
    }
    s->runs = gr_calloc(s->a, s->n, sizeof *s->runs);
    for (size_t i = 0; s->runs && i < s->n; i++) s->runs[i].t.lock = -1;
    s->items = gr_calloc(s->a, s->n, sizeof *s->items);
    s->owner = gr_calloc(s->a, s->n, sizeof *s->owner);
    if (!s->runs || !s->items || !s->owner) return gr_fail_memory(err);
    for (size_t i = 0; i < s->n; i++) {
        s->runs[i].active = true;
        graft_status st = open_job(s, i, &s->jobs[i].error);
        if (st != GRAFT_OK) settle(s, i, st);
    }
    GR_TRY(make_crew(s, err));
    for (size_t i = 0; i < s->n; i++) {
        if (!s->runs[i].active) continue;
        graft_status st = begin_job(s, i, &s->jobs[i].error);
        if (st == GRAFT_ERR_CANCELLED) st = gr_trainer_cancelled(&s->runs[i].t, &s->jobs[i].error);
        if (st != GRAFT_OK) settle(s, i, st);
    }
    return GRAFT_OK;
}

static void close_all(jobs *s) {
    for (size_t i = 0; s->runs && i < s->n; i++) gr_trainer_close(&s->runs[i].t);
    gr_crew_free(s->crew);
    gr_pool_free(s->pool);
    gr_adapter_set_free(s->base.set);
    gr_model_close(s->base.model);
    graft_tokenizer_free(s->base.tok);
    gr_free(s->a, s->runs);
    gr_free(s->a, s->items);
    gr_free(s->a, s->owner);
}

graft_status graft_sft_jobs(graft_context *ctx, graft_sft_job *list, size_t n, graft_error *err) {
    jobs s = {.ctx = ctx, .a = gr_allocator(ctx), .jobs = list, .n = n, .resident = gr_resident_bytes()};
    GR_TRY(check(&s, err));
    graft_error why = {0};
    graft_status st = start(&s, &why);
    if (st == GRAFT_OK) rounds(&s);
    else if (s.runs) stop(&s, st, &why);
    close_all(&s);
    for (size_t i = 0; i < n && st == GRAFT_OK; i++) {
        st = list[i].status;
        if (st != GRAFT_OK) why = list[i].error;
    }
    if (st != GRAFT_OK && err) *err = why;
    return st;
}
