/* Evaluation over records: the loss through the same ragged batches as in training, answers through a session. Sums
 * are in double in the order of the records, so that batch size and threads change nothing. */
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/dataset.h"
#include "data/encode.h"
#include "data/targets.h"
#include "eval/verbaliser.h"
#include "graft/eval.h"
#include "model/public.h"

graft_eval_options graft_eval_options_default(void) {
    graft_eval_options o = {.what = GRAFT_EVAL_LOSS | GRAFT_EVAL_EXACT | GRAFT_EVAL_ROUGE,
                            .generate = graft_generate_options_default(),
                            .batch_size = 8};
    o.generate.max_new_tokens = 128;
    return o;
}

static graft_status adapter_index(const graft_model *m, const char *name, int32_t *out, graft_error *err) {
    *out = -1;
    if (!name) return GRAFT_OK;
    *out = m->hooks->find(m->hooks->self, name);
    return *out < 0 ? gr_fail(err, GRAFT_ERR_NOT_FOUND,
                              "adapter %s: expected one that was loaded, found none of that name", name)
                    : GRAFT_OK;
}

/* Records are read as the model and the adapter take them. */
static graft_data_options data_options(const graft_model *m, const graft_eval_options *o) {
    const gr_hooks *h = m->hooks;
    const char *name = o->generate.adapter;
    graft_data_options d = o->data;
    d.seq2seq = gr_model_get_config(m->model)->task == GR_TASK_SEQ_2_SEQ_LM;
    if (name) d.prompt_template = h->prompt_template(h->self, h->find(h->self, name)); /* the name was checked */
    if (name) d.n_tasks = h->n_tasks(h->self, h->find(h->self, name));
    return d;
}

/* Those of a decoder say which adapter is theirs, else it is the option's. */
static graft_data_options choosing(const graft_model *m, const graft_eval_options *o, graft_data_options d) {
    if (d.seq2seq) return d;
    d.model = m;
    d.adapter = o->generate.adapter;
    return d;
}

/* --- Loss --------------------------------------------------------------------------------------------------------- */

typedef struct loss_run {
    graft_dataset *ds;
    gr_loader *loader;
    gr_pool *pool;
    gr_tape *tape;
    gr_pass *pass;
    bool chosen; /* records name their adapters */
    gr_target_rows targets;
    gr_class_tally classes;
    gr_verbaliser words; /* of a masked language model whose adapter has some */
} loss_run;

static graft_status choose_learning(const graft_model *m, const graft_tokenizer *tok, const graft_eval_options *o,
                                    graft_data_options *d, gr_loader_options *l, graft_error *err) {
    const gr_model_config *c = gr_model_get_config(m->model);
    const gr_labels *labels = gr_model_labels(m->model);
    if (c->task == GR_TASK_SEQ_CLS) {
        d->learn = GRAFT_LEARN_CLASSES;
        d->labels = labels->names;
        d->n_labels = (size_t)labels->n;
        d->problem = (graft_problem)c->problem;
    }
    if (c->task != GR_TASK_MASKED_LM) return GRAFT_OK;
    d->learn = GRAFT_LEARN_MASKED;
    l->mask_id = graft_tokenizer_special_id(tok, GRAFT_TOKEN_MASK);
    l->vocab_size = GR_MIN((int64_t)graft_tokenizer_vocab_size(tok), c->vocab_size);
    l->mlm_probability = o->mlm_probability > 0 ? o->mlm_probability : 0.15;
    l->seed = o->generate.sampling.seed;
    return l->mask_id >= 0
               ? GRAFT_OK
               : gr_fail(err, GRAFT_ERR_MISMATCH, "the tokenizer has no mask token, to hide tokens with");
}

static graft_status loss_open(loss_run *r, graft_model *m, const graft_tokenizer *tok,
                              const graft_eval_options *o, int32_t adapter, graft_error *err) {
    const graft_allocator *a = gr_allocator(m->ctx);
    gr_tape_options tape = {0};
    const gr_model_config *c = gr_model_get_config(m->model);
    gr_loader_options loader = {.batch_size = o->batch_size ? o->batch_size : 8,
                                .n_virtual = m->hooks->n_virtual(m->hooks->self, adapter),
                                .seq2seq = c->task == GR_TASK_SEQ_2_SEQ_LM,
                                .start_id = (int32_t)c->decoder_start_token_id,
                                .pad_id = (int32_t)GR_MAX(c->pad_token_id, 0)};
    graft_data_options data = data_options(m, o);
    GR_TRY(choose_learning(m, tok, o, &data, &loader, err));
    GR_TRY(gr_verbaliser_open(&r->words, m, tok, data.prompt_template, &r->classes, err));
    if (!loader.seq2seq && data.learn == GRAFT_LEARN_TEXT) { /* records choose, and bring virtual tokens along */
        data = choosing(m, o, data);
        loader.n_virtual = 0;
        r->chosen = true;
    }
    GR_TRY(gr_data_fit(m->model, m->hooks, adapter, &data, err));
    GR_TRY(graft_dataset_load(m->ctx, tok, &data, &r->ds, err));
    GR_TRY(gr_targets_check(m->model, r->ds, err));
    if (gr_dataset_n_labels(r->ds))
        GR_TRY(gr_class_tally_init(&r->classes, a, gr_dataset_problem(r->ds), gr_dataset_n_labels(r->ds), err));
    GR_TRY(gr_loader_new(m->ctx, r->ds, &loader, &r->loader, err));
    GR_TRY(gr_pool_new(a, 0, false, &r->pool, err));
    GR_TRY(gr_tape_new(gr_model_device(m->model), r->pool, &tape, &r->tape, err));
    return gr_pass_new(m->model, &r->pass, err);
}

static void loss_close(loss_run *r, const graft_allocator *a) {
    gr_verbaliser_close(&r->words);
    gr_target_rows_free(&r->targets, a);
    gr_class_tally_free(&r->classes);
    gr_pass_free(r->pass);
    gr_tape_free(r->tape);
    gr_pool_free(r->pool);
    gr_loader_free(r->loader);
    graft_dataset_free(r->ds);
}

static graft_status loss_batch(loss_run *r, graft_model *m, int32_t adapter, const gr_data_batch *d,
                               graft_eval_result *out, double *sum, graft_error *err) {
    gr_batch b = {.n_tokens = (int64_t)d->n_tokens,
                  .n_seqs = (int)d->n_seqs,
                  .bounds = d->bounds,
                  .ids = d->ids,
                  .one_adapter = adapter,
                  .labels = d->labels};
    gr_batch source = {.n_seqs = b.n_seqs, .bounds = d->source_bounds, .ids = d->source_ids, .one_adapter = adapter};
    if (r->chosen) b.adapter = d->adapters;
    gr_pass_options o = {.hooks = m->hooks};
    gr_loss loss;
    if (d->source_bounds) {
        source.n_tokens = d->source_bounds[d->n_seqs];
        b.source = &source;
    }
    GR_TRY(gr_target_rows_fill(&r->targets, gr_allocator(m->ctx), m->model, d, 0, &b, err));
    GR_TRY(gr_pass_loss(r->pass, r->tape, &b, &o, &loss, err));
    for (int64_t i = 0; i < loss.n_rows; i++) *sum += loss.losses[i];
    if (loss.logits) gr_target_rows_count(&r->targets, &loss, &r->classes);
    out->n_records += d->n_seqs;
    for (size_t i = 0; i < d->n_tokens; i++) out->n_tokens += d->ids[i] >= 0;
    for (int64_t i = 0; i < source.n_tokens; i++) out->n_tokens += source.ids[i] >= 0;
    out->n_labels += (uint64_t)loss.n_labels;
    out->n_correct += (uint64_t)loss.n_correct;
    gr_loss_drop(&loss);
    gr_tape_reset(r->tape);
    if (r->words.slots.n_words) return gr_verbaliser_count(&r->words, r->pass, r->tape, &b, &o, &r->classes, err);
    return GRAFT_OK;
}

static graft_status measure_loss(graft_model *m, const graft_tokenizer *tok, const graft_eval_options *o,
                                 int32_t adapter, graft_eval_result *out, graft_error *err) {
    loss_run r = {0};
    graft_status st = loss_open(&r, m, tok, o, adapter, err);
    double sum = 0;
    size_t n = st == GRAFT_OK ? graft_dataset_count(r.ds) : 0;
    gr_data_cursor cursor = {0};
    while (st == GRAFT_OK && out->n_records < n) {
        gr_data_batch d;
        st = gr_check_cancel(m->ctx, err);
        if (st == GRAFT_OK) st = gr_loader_next(r.loader, &cursor, &d, err);
        if (st == GRAFT_OK) st = loss_batch(&r, m, adapter, &d, out, &sum, err);
        if (st == GRAFT_OK && o->progress) o->progress(o->user, out->n_records, n);
    }
    const gr_class_tally *c = &r.classes;
    if (st == GRAFT_OK && c->n) {
        out->accuracy = gr_class_accuracy(c);
        out->macro_f1 = gr_class_f1(c);
        out->mse = gr_class_mse(c);
        out->pearson = gr_class_pearson(c);
        if (o->confusion && c->counts) o->confusion(o->user, c->problem, c->n, c->counts);
    }
    bool classified = c->n > 0 && !r.words.slots.n_words;
    loss_close(&r, gr_allocator(m->ctx));
    if (st != GRAFT_OK) return st;
    out->loss = sum / (double)out->n_labels;
    if (classified) return GRAFT_OK;
    out->perplexity = exp(out->loss);
    out->token_accuracy = (double)out->n_correct / (double)out->n_labels;
    return GRAFT_OK;
}

/* --- Answers ------------------------------------------------------------------------------------------------------ */

typedef struct sums {
    double exact, rouge1, rouge2, rougeL, rougeLsum, f1;
    graft_bleu bleu;
} sums;

static graft_status score(graft_model *m, const graft_eval_options *o, const graft_prompt *p,
                          const graft_generation *g, size_t index, sums *s, graft_error *err) {
    graft_eval_sample x = {.index = index,
                           .path = p->path,
                           .line = p->line,
                           .prompt = p->text,
                           .prompt_len = p->text_len,
                           .reference = p->reference,
                           .reference_len = p->reference_len,
                           .output = g->text,
                           .output_len = g->len};
    if (o->what & GRAFT_EVAL_EXACT)
        GR_TRY(graft_exact_match(m->ctx, x.reference, x.reference_len, x.output, x.output_len,
                                 o->match_flags | GRAFT_MATCH_STRIP, &x.exact, err));
    if (o->what & GRAFT_EVAL_ROUGE)
        GR_TRY(graft_rouge_score(m->ctx, x.reference, x.reference_len, x.output, x.output_len, o->rouge_stem,
                                 &x.rouge, err));
    if (o->what & GRAFT_EVAL_TOKEN_F1)
        GR_TRY(graft_token_f1(m->ctx, x.reference, x.reference_len, x.output, x.output_len, &x.token_f1, err));
    if (o->what & GRAFT_EVAL_BLEU)
        GR_TRY(graft_bleu_add(m->ctx, x.reference, x.reference_len, x.output, x.output_len, &s->bleu, err));
    s->exact += x.exact;
    s->rouge1 += x.rouge.rouge1.fmeasure;
    s->rouge2 += x.rouge.rouge2.fmeasure;
    s->rougeL += x.rouge.rougeL.fmeasure;
    s->rougeLsum += x.rouge.rougeLsum.fmeasure;
    s->f1 += x.token_f1.fmeasure;
    if (o->sample) o->sample(o->user, &x);
    return GRAFT_OK;
}

/* Answers records [from, from + n) together. */
static graft_status answer_some(graft_model *m, graft_session *session, const graft_prompts *ps, size_t from, size_t n,
                                const graft_eval_options *o, sums *s, graft_error *err) {
    const graft_allocator *a = gr_allocator(m->ctx);
    graft_prompt *p = gr_calloc(a, n, sizeof *p);
    graft_input_ids *ids = gr_calloc(a, n, sizeof *ids);
    graft_generation *g = gr_calloc(a, n, sizeof *g);
    const char **adapters = gr_calloc(a, n, sizeof *adapters);
    int32_t *tasks = gr_calloc(a, n, sizeof *tasks);
    graft_generate_options generate = o->generate;
    generate.adapters = adapters;
    generate.task_ids = tasks;
    graft_status st = p && ids && g && adapters && tasks ? GRAFT_OK : gr_fail_memory(err);
    for (size_t i = 0; st == GRAFT_OK && i < n; i++) {
        graft_prompts_get(ps, from + i, &p[i]);
        ids[i] = (graft_input_ids){.ids = p[i].ids, .n = p[i].n};
        adapters[i] = p[i].adapter;
        tasks[i] = p[i].task_id;
        if (!p[i].reference)
            st = gr_fail(err, GRAFT_ERR_FORMAT, "%s:%zu: expected an answer to compare with, found none",
                         p[i].path, p[i].line);
    }
    if (st == GRAFT_OK) st = graft_generate(session, ids, n, 1, &generate, NULL, NULL, g, err);
    for (size_t i = 0; st == GRAFT_OK && i < n; i++) st = score(m, o, &p[i], &g[i], from + i, s, err);
    for (size_t i = 0; g && i < n; i++) graft_generation_free(m->ctx, &g[i]);
    gr_free(a, p);
    gr_free(a, ids);
    gr_free(a, g);
    gr_free(a, adapters);
    gr_free(a, tasks);
    return st;
}

static void set_means(const graft_eval_options *o, const sums *s, size_t n, graft_eval_result *out) {
    double d = (double)n;
    out->n_answers = n;
    if (o->what & GRAFT_EVAL_EXACT) out->exact_match = s->exact / d;
    if (o->what & GRAFT_EVAL_TOKEN_F1) out->token_f1 = s->f1 / d;
    if (o->what & GRAFT_EVAL_BLEU) out->bleu = graft_bleu_score(&s->bleu);
    if (o->what & GRAFT_EVAL_ROUGE) {
        out->rouge1 = s->rouge1 / d;
        out->rouge2 = s->rouge2 / d;
        out->rougeL = s->rougeL / d;
        out->rougeLsum = s->rougeLsum / d;
    }
}

static graft_status measure_answers(graft_model *m, const graft_tokenizer *tok, const graft_eval_options *o,
                                    graft_eval_result *out, graft_error *err) {
    enum { TOGETHER = 64 }; /* records whose answers are held at a time */
    graft_prompts *ps = NULL;
    graft_session *session = NULL;
    sums s = {0};
    graft_data_options data = choosing(m, o, data_options(m, o));
    graft_status st;
    GR_GO(done, graft_prompts_load(m->ctx, tok, &data, &ps, err));
    size_t n = graft_prompts_count(ps);
    if (n == 0) goto done;
    GR_GO(done, graft_session_new(m, tok, &session, err));
    for (size_t i = 0; i < n; i += TOGETHER) {
        size_t some = GR_MIN(n - i, (size_t)TOGETHER);
        GR_GO(done, answer_some(m, session, ps, i, some, o, &s, err));
        if (o->progress) o->progress(o->user, i + some, n);
    }
    set_means(o, &s, n, out);
done:
    graft_session_free(session);
    graft_prompts_free(ps);
    return st;
}

static graft_status fail_twice(const char *path, graft_error *err) {
    const bool standard = strcmp(path, "-") == 0;
    return gr_fail(err, GRAFT_ERR_ARGUMENT,
                   "%s: cannot be read twice, for the loss and for the answers: expected a file",
                   standard ? "standard input" : path);
}

/* Loss and answers read the records one after the other, standard input too, from `start`: a pipe would be
 * empty the second time. */
static graft_status check_twice(const graft_data_options *data, off_t start, graft_error *err) {
    struct stat st;
    for (size_t i = 0; i < data->n_paths; i++) {
        const char *path = data->paths[i];
        if (strcmp(path, "-") == 0 ? start < 0
                                   : stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
            return fail_twice(path, err);
    }
    return GRAFT_OK;
}

static graft_status rewind_input(const graft_data_options *data, off_t start, graft_error *err) {
    for (size_t i = 0; i < data->n_paths; i++)
        if (strcmp(data->paths[i], "-") == 0 && lseek(STDIN_FILENO, start, SEEK_SET) < 0) return fail_twice("-", err);
    return GRAFT_OK;
}

/* What only answers are made with and compared by, where no metric has them. The seed is that of masks too, and the
 * loss has an adapter. */
static graft_status refuse_answers(const graft_eval_options *o, graft_error *err) {
    const graft_generate_options *g = &o->generate, d = graft_eval_options_default().generate;
    const graft_sampling *s = &g->sampling;
    const struct {
        const char *name;
        bool given;
    } uses[] = {
        {"greedy", s->greedy != d.sampling.greedy},
        {"temperature", s->temperature != d.sampling.temperature},
        {"top_k", s->top_k != d.sampling.top_k},
        {"top_p", s->top_p != d.sampling.top_p},
        {"min_p", s->min_p != d.sampling.min_p},
        {"repeat_penalty", s->repeat_penalty != d.sampling.repeat_penalty},
        {"max_new_tokens", g->max_new_tokens != d.max_new_tokens},
        {"min_new_tokens", g->min_new_tokens != d.min_new_tokens},
        {"stop", g->n_stop > 0},
        {"ignore_eos", g->ignore_eos},
        {"keep_special", g->keep_special},
        {"no_repeat_ngram_size", g->no_repeat_ngram_size != d.no_repeat_ngram_size},
        {"num_beams", g->num_beams != d.num_beams},
        {"length_penalty", g->length_penalty != d.length_penalty},
        {"early_stopping", g->early_stopping != d.early_stopping},
        {"prompt_lookup_num_tokens", g->prompt_lookup_num_tokens != d.prompt_lookup_num_tokens},
        {"max_matching_ngram_size", g->max_matching_ngram_size != d.max_matching_ngram_size},
        {"kv_cache_dtype", g->kv_cache_dtype != d.kv_cache_dtype},
        {"match_flags", o->match_flags != 0},
        {"rouge_stem", o->rouge_stem},
    };
    for (size_t i = 0; i < GR_COUNT(uses); i++)
        if (uses[i].given)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected a metric of answers too, found none", uses[i].name);
    return GRAFT_OK;
}

graft_status graft_eval(graft_model *m, const graft_tokenizer *tok, const graft_eval_options *options,
                        graft_eval_result *out, graft_error *err) {
    double begin = gr_now_seconds();
    graft_eval_result r = {.loss = NAN,
                           .perplexity = NAN,
                           .token_accuracy = NAN,
                           .exact_match = NAN,
                           .rouge1 = NAN,
                           .rouge2 = NAN,
                           .rougeL = NAN,
                           .rougeLsum = NAN,
                           .token_f1 = NAN,
                           .accuracy = NAN,
                           .macro_f1 = NAN,
                           .mse = NAN,
                           .pearson = NAN,
                           .bleu = NAN};
    int32_t adapter;
    gr_task task = gr_model_get_config(m->model)->task;
    if (!(options->what & GRAFT_EVAL_GENERATES)) GR_TRY(refuse_answers(options, err));
    if (options->what & GRAFT_EVAL_GENERATES || (task != GR_TASK_SEQ_CLS && task != GR_TASK_MASKED_LM))
        GR_TRY(gr_model_want_causal(m->model, "evaluation", err));
    GR_TRY(adapter_index(m, options->generate.adapter, &adapter, err));
    bool twice = options->what & GRAFT_EVAL_LOSS && options->what & GRAFT_EVAL_GENERATES;
    off_t start = twice ? lseek(STDIN_FILENO, 0, SEEK_CUR) : 0;
    if (twice) GR_TRY(check_twice(&options->data, start, err));
    if (options->what & GRAFT_EVAL_LOSS) GR_TRY(measure_loss(m, tok, options, adapter, &r, err));
    if (twice) GR_TRY(rewind_input(&options->data, start, err));
    if (options->what & GRAFT_EVAL_GENERATES) GR_TRY(measure_answers(m, tok, options, &r, err));
    r.seconds = gr_now_seconds() - begin;
    *out = r;
    return GRAFT_OK;
}
