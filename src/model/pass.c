/* Passes: one forward over a ragged batch, from the embedding to hidden states, logits or the loss. */
#include "model/pass.h"

static graft_status layer_body(gr_tape *t, void *arg, gr_var *const *in, int n_in, gr_var **out, graft_error *err) {
    const gr_layer_call *call = arg;
    (void)t;
    call->pass->encoded = n_in > 1 ? in[1] : NULL;
    return call->pass->model->family->layer(call->pass, call->layer, in[0], out, err);
}

/* Layers begin .. end-1. */
static graft_status run_layers(gr_pass *p, int begin, int end, gr_var **x, graft_error *err) {
    const gr_hooks *h = p->options.hooks;
    int lowest = h && h->lowest_layer ? h->lowest_layer(h->self, p->batch) : 0;
    bool recompute = p->options.recompute && gr_tape_records(p->tape);
    gr_var *encoded = p->encoded; /* what is run again later needs it too */
    for (int l = begin; l < end; l++) {
        gr_var *y, *in[2] = {*x, encoded};
        /* Below the lowest trained layer nothing is recorded anyway: running twice would gain nothing. */
        if (recompute && l >= lowest)
            GR_TRY(gr_tape_checkpoint(p->tape, layer_body, &p->calls[l], in, encoded ? 2 : 1, &y, err));
        else
            GR_TRY(p->model->family->layer(p, l, *x, &y, err));
        p->encoded = encoded;
        gr_var_drop(*x);
        *x = y;
    }
    return GRAFT_OK;
}

/* The encoder over the source's rows, whose output p->encoded keeps for the decoder's layers. */
static graft_status encode(gr_pass *p, graft_error *err) {
    const gr_family *f = p->model->family;
    gr_var *x, *y;
    if (!p->source.n_rows) return GRAFT_OK;
    gr_pass_use(p, &p->source);
    GR_TRY(f->enter_source(p, &x, err));
    GR_TRY(run_layers(p, 0, p->model->config.n_encoder_layers, &x, err));
    gr_pass_use(p, &p->source);
    GR_TRY(f->finish_source(p, x, &y, err));
    gr_var_drop(x);
    p->encoded = y;
    return GRAFT_OK;
}

graft_status gr_pass_residual_layer(gr_pass *p, int l, gr_var *x, gr_attend_fn attend, gr_feed_forward_fn feed_forward,
                                    gr_var **out, graft_error *err) {
    bool last = l == p->model->config.n_layers - 1;
    gr_run *run = last ? gr_pass_run_wanted(p) : &p->all;
    gr_var *y, *z;
    gr_pass_use(p, &p->all);
    GR_TRY(attend(p, l, x, &y, err));
    gr_var *rest = gr_var_keep(x);
    if (last) GR_TRY(gr_pass_gather(p, &rest, err));
    GR_TRY(gr_nn_add(run, &y, rest, err));
    gr_var_drop(rest);
    GR_TRY(feed_forward(p, run, l, y, &z, err));
    GR_TRY(gr_nn_add(run, &z, y, err));
    gr_var_drop(y);
    *out = z;
    return GRAFT_OK;
}

static graft_status embed(gr_pass *p, gr_var **x, graft_error *err) {
    const gr_family *f = p->model->family;
    return f->enter ? f->enter(p, x, err) : gr_nn_embedding(&p->all, &p->modules->embedding, x, err);
}

graft_status gr_pass_trunk(gr_pass *p, gr_tape *t, const gr_batch *b, const gr_pass_options *o, int layer, gr_var **out,
                           graft_error *err) {
    if (p->model->config.n_encoder_layers)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "the outputs of lower layers of an encoder-decoder cannot be kept");
    GR_TRY(gr_pass_begin(p, t, b, o, NULL, 0, err));
    gr_pass_use(p, &p->all);
    GR_TRY(embed(p, out, err));
    return run_layers(p, 0, layer, out, err);
}

/* What enters the first layer that is run. */
static graft_status enter(gr_pass *p, gr_var **x, graft_error *err) {
    const gr_pass_options *o = &p->options;
    if (!o->first_layer) return embed(p, x, err);
    gr_array hidden = {p->model->dtype, gr_shape2(p->batch->n_tokens, p->model->config.hidden_size),
                       (void *)(uintptr_t)o->hidden};
    return gr_tape_leaf(p->tape, &hidden, NULL, x, err);
}

graft_status gr_pass_hidden(gr_pass *p, gr_tape *t, const gr_batch *b, const gr_pass_options *o, const int32_t *rows,
                            int64_t n_rows, gr_var **out, graft_error *err) {
    gr_var *x, *y;
    GR_TRY(gr_pass_begin(p, t, b, o, rows, n_rows, err));
    GR_TRY(encode(p, err));
    gr_pass_use(p, &p->all);
    GR_TRY(enter(p, &x, err));
    GR_TRY(run_layers(p, GR_MAX(p->options.first_layer, p->model->config.n_encoder_layers), p->model->config.n_layers,
                      &x, err));
    gr_var_drop(p->encoded);
    p->encoded = NULL;
    gr_pass_use(p, gr_pass_run_wanted(p));
    GR_TRY(p->model->family->finish(p, x, &y, err));
    gr_var_drop(x);
    *out = y;
    return GRAFT_OK;
}

graft_status gr_pass_logits(gr_pass *p, gr_tape *t, const gr_batch *b, const gr_pass_options *o, const int32_t *rows,
                            int64_t n_rows, gr_var **out, graft_error *err) {
    gr_var *h;
    GR_TRY(gr_pass_hidden(p, t, b, o, rows, n_rows, &h, err));
    GR_TRY(gr_nn_logits(gr_pass_run_wanted(p), &p->modules->head, h, 0, -1, NULL, out, err));
    gr_var_drop(h);
    return GRAFT_OK;
}

bool gr_model_has_pooler(const gr_model *m) {
    const gr_modules *mods = &m->modules;
    return m->config.task == GR_TASK_FEATURES && mods->linears[mods->n_linears - 1].site[0]->role == GR_ROLE_DENSE;
}

graft_status gr_pass_pooled(gr_pass *p, gr_tape *t, const gr_batch *b, const gr_pass_options *o, const int32_t *rows,
                            int64_t n_rows, gr_var **out, graft_error *err) {
    gr_var *h, *y;
    if (!gr_model_has_pooler(p->model))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: the model has no pooler", gr_model_path(p->model));
    GR_TRY(gr_pass_hidden(p, t, b, o, rows, n_rows, &h, err));
    gr_run *run = gr_pass_run_wanted(p);
    GR_TRY(gr_nn_linear(run, &p->modules->linears[p->modules->n_linears - 1], h, &y, err));
    gr_var_drop(h);
    GR_TRY(gr_nn_activate(run, GR_ACTIVATION_TANH, &y, NULL, err));
    *out = y;
    return GRAFT_OK;
}

graft_status gr_pass_head(gr_pass *p, gr_var *hidden, int64_t begin, int64_t n, gr_var **out, graft_error *err) {
    void *room;
    gr_run *run = gr_pass_run_wanted(p);
    GR_TRY(gr_pass_reserve(p, GR_PASS_HEAD_ROWS, gr_nn_logits_room(run, n), &room, err));
    return gr_nn_logits(run, &p->modules->head, hidden, begin, n, room, out, err);
}

/* The rows that have a label, with label and weight of each. */
static graft_status collect_labels(gr_pass *p, const gr_batch *b, int32_t **rows, int64_t *n, graft_error *err) {
    int64_t count = 0;
    for (int64_t i = 0; b->labels && i < b->n_tokens; i++) count += b->labels[i] >= 0;
    if (!count) return gr_fail(err, GRAFT_ERR_ARGUMENT, "no token of the batch has a label");
    GR_TRY(gr_pass_reserve(p, GR_PASS_LABEL_ROWS, (size_t)count * sizeof **rows, (void **)rows, err));
    GR_TRY(gr_pass_reserve(p, GR_PASS_LABELS, (size_t)count * sizeof *p->labels, (void **)&p->labels, err));
    GR_TRY(gr_pass_reserve(p, GR_PASS_WEIGHTS, (size_t)count * sizeof *p->weights, (void **)&p->weights, err));
    GR_TRY(gr_pass_reserve(p, GR_PASS_LOSSES, (size_t)count * sizeof *p->losses, (void **)&p->losses, err));
    GR_TRY(gr_pass_reserve(p, GR_PASS_HITS, (size_t)count * sizeof *p->hits, (void **)&p->hits, err));
    int64_t k = 0;
    for (int64_t i = 0; i < b->n_tokens; i++) {
        if (b->labels[i] < 0) continue;
        (*rows)[k] = (int32_t)i;
        p->labels[k] = b->labels[i];
        p->weights[k] = b->weight ? b->weight[i] : 1;
        p->losses[k] = 0;
        p->hits[k++] = 0;
    }
    *n = count;
    return GRAFT_OK;
}

/* Sums over the rows of a loss. */
static void tally_rows(gr_pass *p, gr_loss *out) {
    for (int64_t i = 0; i < out->n_rows; i++) {
        out->sum += p->losses[i];
        out->n_correct += p->hits[i];
    }
}

static graft_status class_loss(gr_pass *p, gr_tape *t, const gr_batch *b, const gr_pass_options *o, gr_loss *out,
                               graft_error *err) {
    static const gr_class_loss kinds[] = {[GR_PROBLEM_SINGLE] = GR_CLASS_LOSS_CROSS_ENTROPY,
                                          [GR_PROBLEM_MULTI] = GR_CLASS_LOSS_BCE,
                                          [GR_PROBLEM_REGRESSION] = GR_CLASS_LOSS_MSE};
    const gr_class_targets *g = b->targets;
    gr_var *logits, *loss;
    if (!g || g->n <= 0) return gr_fail(err, GRAFT_ERR_ARGUMENT, "no sequence of the batch has a label");
    GR_TRY(gr_pass_reserve(p, GR_PASS_LOSSES, (size_t)g->n * sizeof *p->losses, (void **)&p->losses, err));
    GR_TRY(gr_pass_reserve(p, GR_PASS_HITS, (size_t)g->n * sizeof *p->hits, (void **)&p->hits, err));
    memset(p->losses, 0, (size_t)g->n * sizeof *p->losses);
    memset(p->hits, 0, (size_t)g->n * sizeof *p->hits);
    GR_TRY(gr_pass_logits(p, t, b, o, g->rows, g->n, &logits, err));
    gr_class_loss_params params = {.kind = kinds[g->problem], .labels = g->classes, .targets = g->values, .weight = g->weight,
                                   .losses = p->losses, .hits = p->hits};
    GR_TRY(gr_tape_apply(t, &gr_op_class_loss, &logits, 1, &params, &loss, err));
    gr_loss result = {.var = loss, .n_labels = g->n, .n_rows = g->n, .rows = g->rows, .losses = p->losses, .correct = p->hits};
    for (int64_t i = 0; g->classes && i < g->n; i++) result.n_labels -= g->classes[i] < 0;
    tally_rows(p, &result);
    result.logits = logits;
    *out = result;
    return GRAFT_OK;
}

void gr_loss_drop(gr_loss *l) {
    gr_var_drop(l->var);
    gr_var_drop(l->logits);
    l->var = l->logits = NULL;
}

graft_status gr_pass_loss(gr_pass *p, gr_tape *t, const gr_batch *b, const gr_pass_options *o, gr_loss *out,
                          graft_error *err) {
    if (p->model->config.task == GR_TASK_SEQ_CLS) return class_loss(p, t, b, o, out, err);
    if (p->model->config.task == GR_TASK_FEATURES)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: a model without a head has no loss", gr_model_path(p->model));
    int32_t *rows = NULL;
    int64_t n = 0;
    enum { BIAS = 2 + 2 * GR_HEAD_UPDATES, FACTORS, INPUTS = FACTORS + GR_HEAD_UPDATES };
    gr_var *h, *in[INPUTS] = {NULL}, *loss;
    gr_head_update updates[GR_HEAD_UPDATES];
    int n_updates;
    GR_TRY(collect_labels(p, b, &rows, &n, err));
    GR_TRY(gr_pass_hidden(p, t, b, o, rows, n, &h, err));
    const gr_linear *head = &p->modules->head;
    GR_TRY(gr_nn_head_updates(gr_pass_run_wanted(p), head, h, updates, &n_updates, err));
    in[0] = h;
    if (head->weight[0]) GR_TRY(gr_nn_leaf(t, head->weight[0], &in[1], err));
    gr_cross_entropy_params params = {.head = head->matrix, .labels = p->labels, .weight = p->weights,
                                      .losses = p->losses, .hits = p->hits, .seed = b->seed,
                                      .key = gr_pass_run_wanted(p)->dropout_key};
    for (int i = 0; i < n_updates; i++) {
        in[2 + 2 * i] = updates[i].u;
        in[3 + 2 * i] = updates[i].b;
        in[FACTORS + i] = updates[i].factor;
        params.update[i] = updates[i].rows;
    }
    GR_TRY(gr_nn_head_bias(gr_pass_run_wanted(p), head, &in[BIAS], err));
    GR_TRY(gr_tape_apply(t, &gr_op_cross_entropy_head, in, INPUTS, &params, &loss, err));
    for (int i = 0; i < INPUTS; i++) gr_var_drop(in[i]);
    gr_loss result = {.var = loss, .n_labels = n, .n_rows = n, .rows = rows, .losses = p->losses, .correct = p->hits};
    tally_rows(p, &result);
    *out = result;
    return GRAFT_OK;
}

graft_status gr_pass_plan_trunk(gr_pass *p, const gr_batch *b, const gr_pass_options *o, int layer, size_t *pool_bytes,
                                graft_error *err) {
    gr_pool *pool = NULL;
    gr_tape *tape = NULL;
    gr_var *x;
    graft_status st = gr_pool_new(p->model->a, 0, true, &pool, err);
    gr_tape_options options = {.dry = true};
    if (st == GRAFT_OK) st = gr_tape_new(p->model->dev, pool, &options, &tape, err);
    if (st == GRAFT_OK) st = gr_pass_trunk(p, tape, b, o, layer, &x, err);
    if (st == GRAFT_OK) *pool_bytes = gr_pool_peak(pool);
    gr_tape_free(tape);
    gr_pool_free(pool);
    return st;
}

graft_status gr_pass_plan(gr_pass *p, const gr_batch *b, const gr_pass_options *o, bool backward, size_t *pool_bytes,
                          graft_error *err) {
    gr_pool *pool = NULL;
    gr_tape *tape = NULL;
    gr_loss loss;
    graft_status st = gr_pool_new(p->model->a, 0, true, &pool, err);
    gr_tape_options options = {.record = backward, .dry = true, .recompute_cheap = o && o->recompute_cheap};
    if (st == GRAFT_OK) st = gr_tape_new(p->model->dev, pool, &options, &tape, err);
    if (st == GRAFT_OK) st = gr_pass_loss(p, tape, b, o, &loss, err);
    if (st == GRAFT_OK && backward && gr_var_needs_grad(loss.var)) st = gr_tape_backward(tape, loss.var, NULL, err);
    if (st == GRAFT_OK) *pool_bytes = gr_pool_peak(pool);
    gr_tape_free(tape);
    gr_pool_free(pool);
    return st;
}
