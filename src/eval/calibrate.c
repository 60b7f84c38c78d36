/* Calibration (graft/calibrate.h): passes whose hook looks at what enters each product. Rows are measured apart and
 * joined in their order, so that threads change nothing. */
#include <math.h>

#include "adapter/calibration.h"
#include "data/dataset.h"
#include "data/encode.h"
#include "data/loader.h"
#include "model/public.h"
#include "quant/scaled.h"

enum { SAMPLES = 512, LENGTH = 2048, TOGETHER = 4 /* sequences */ };

typedef struct row {
    double squares, error, error_dynamic;
    int64_t clipped;
    float most;
    bool finite;
} row;

typedef struct watcher {
    const gr_model *m;
    gr_device *dev;
    const graft_allocator *a;
    gr_input_range *ranges;
    bool measure; /* against the scales of the first time */
    float *scratch;
    row *rows;
    size_t cap_scratch, cap_rows;
} watcher;

typedef struct look {
    const watcher *w;
    const gr_array *x;
    float scale; /* 0: the first time */
} look;

/* What is lost of a row under a scale. */
static double loss_of(const float *x, int64_t n, float scale, int64_t *clipped) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const float code = nearbyintf(x[i] / scale), kept = fminf(fmaxf(code, -128), 127);
        const double off = (double)x[i] - (double)(kept * scale);
        sum += off * off;
        *clipped += fabsf(x[i]) > 128 * scale;
    }
    return sum;
}

static void look_at_rows(void *arg, size_t begin, size_t end, int thread) {
    const look *l = arg;
    const int64_t n = l->x->shape.d[1];
    float *x = l->w->scratch + (int64_t)thread * n;
    for (size_t r = begin; r < end; r++) {
        const char *from = (const char *)l->x->data + r * gr_dtype_bytes(l->x->dtype, (size_t)n);
        row out = {.finite = true};
        int64_t nothing = 0;
        l->w->dev->k->convert(l->w->dev, l->x->dtype, from, GR_F32, x, n);
        for (int64_t i = 0; i < n; i++) {
            out.finite = out.finite && isfinite(x[i]);
            out.most = fmaxf(out.most, fabsf(x[i]));
            out.squares += (double)x[i] * x[i];
        }
        if (l->scale > 0) out.error = loss_of(x, n, l->scale, &out.clipped);
        if (l->scale > 0) out.error_dynamic = loss_of(x, n, gr_channel8_scale(out.most, GR_F32), &nothing);
        l->w->rows[r] = out;
    }
}

static graft_status watch(void *self, gr_run *run, const gr_linear *linear, gr_var *x, gr_var **y, graft_error *err) {
    watcher *w = self;
    const gr_array *a = gr_var_array(x);
    gr_input_range *range = &w->ranges[linear->site[0]->module];
    const size_t rows = (size_t)a->shape.d[0];
    const gr_weight *weight; /* parts of a product are stored alike */
    (void)run;
    (void)y;
    GR_TRY(gr_grow(w->a, (void **)&w->scratch, &w->cap_scratch, (size_t)w->dev->n_threads * (size_t)a->shape.d[1],
                   sizeof *w->scratch, err));
    GR_TRY(gr_grow(w->a, (void **)&w->rows, &w->cap_rows, rows, sizeof *w->rows, err));
    GR_TRY(gr_model_get_weight(w->m, linear->site[0]->weight_tensor, &weight, err));
    look l = {w, a, w->measure ? gr_channel8_scale(range->most, gr_channel8_scale_type(weight->view.dtype)) : 0};
    gr_parallel_for(w->dev->team, rows, 8, look_at_rows, &l);
    range->measured = w->measure;
    range->columns = a->shape.d[1];
    for (size_t r = 0; r < rows; r++) {
        const row *from = &w->rows[r];
        if (!from->finite)
            return gr_fail(err, GRAFT_ERR_NUMERIC,
                           "%s: module %s: its input is not finite on the calibration records", gr_model_path(w->m),
                           linear->site[0]->name);
        range->error += from->error;
        range->error_dynamic += from->error_dynamic;
        range->clipped += from->clipped;
        if (w->measure) continue;
        range->most = fmaxf(range->most, from->most);
        range->squares += from->squares;
        range->rows++;
    }
    return GRAFT_OK;
}

/* --- Passes ------------------------------------------------------------------------------------------------------- */

typedef struct calibrator {
    graft_model *m;
    const graft_calibration_options *o;
    graft_dataset *ds;
    gr_loader *loader;
    gr_pool *pool;
    gr_tape *tape;
    gr_pass *pass;
    watcher watcher;
} calibrator;

static graft_status open_calibrator(calibrator *c, const graft_tokenizer *tok, graft_error *err) {
    gr_model *m = c->m->model;
    graft_data_options data = c->o->data;
    const gr_loader_options loader = {.batch_size = TOGETHER};
    const gr_tape_options tape = {0};
    const size_t samples = c->o->num_calibration_samples ? c->o->num_calibration_samples : SAMPLES;
    data.max_records = data.max_records ? GR_MIN(data.max_records, samples) : samples;
    data.max_length = c->o->max_seq_length ? c->o->max_seq_length
                                           : GR_MIN((int64_t)LENGTH, gr_model_get_config(m)->max_position_embeddings);
    if (data.max_length < 1)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "max_seq_length: expected 1 or more, found %lld",
                       (long long)data.max_length);
    data.completion_only_loss = GRAFT_NO; /* every token counts, and a record is no worse without an answer */
    GR_TRY(gr_data_fit(m, c->m->hooks, -1, &data, err));
    GR_TRY(graft_dataset_load(c->m->ctx, tok, &data, &c->ds, err));
    GR_TRY(gr_loader_new(c->m->ctx, c->ds, &loader, &c->loader, err));
    GR_TRY(gr_pool_new(gr_allocator(c->m->ctx), 0, false, &c->pool, err));
    GR_TRY(gr_tape_new(gr_model_device(m), c->pool, &tape, &c->tape, err));
    return gr_pass_new(m, &c->pass, err);
}

static void close_calibrator(calibrator *c) {
    gr_pass_free(c->pass);
    gr_tape_free(c->tape);
    gr_pool_free(c->pool);
    gr_loader_free(c->loader);
    graft_dataset_free(c->ds);
    gr_free(c->watcher.a, c->watcher.scratch);
    gr_free(c->watcher.a, c->watcher.rows);
}

static graft_status run_all(calibrator *c, size_t done, size_t total, uint64_t *n_tokens, graft_error *err) {
    const gr_hooks hooks = {.self = &c->watcher, .linear = watch};
    const gr_pass_options o = {.hooks = &hooks};
    gr_data_cursor cursor = {0};
    *n_tokens = 0;
    for (size_t seen = 0; seen < graft_dataset_count(c->ds);) {
        gr_data_batch d;
        gr_var *hidden = NULL;
        GR_TRY(gr_check_cancel(c->m->ctx, err));
        GR_TRY(gr_loader_next(c->loader, &cursor, &d, err));
        const gr_batch b = {.n_tokens = (int64_t)d.n_tokens,
                            .n_seqs = (int)d.n_seqs,
                            .bounds = d.bounds,
                            .ids = d.ids,
                            .one_adapter = -1};
        GR_TRY(gr_pass_hidden(c->pass, c->tape, &b, &o, NULL, 0, &hidden, err));
        gr_var_drop(hidden);
        gr_tape_reset(c->tape);
        seen += d.n_seqs;
        *n_tokens += d.n_tokens;
        if (c->o->progress) c->o->progress(c->o->user, done + seen, total);
    }
    return GRAFT_OK;
}

static graft_status new_calibration(const gr_model *m, graft_calibration **out, graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(m));
    graft_calibration *c = gr_calloc(a, 1, sizeof *c);
    if (!c) return gr_fail_memory(err);
    c->a = a;
    gr_arena_init(&c->arena, a, 0);
    const size_t n = gr_model_n_sites(m); /* as many products at most */
    c->modules = gr_calloc(a, n + 1, sizeof *c->modules);
    c->ranges = gr_calloc(a, n + 1, sizeof *c->ranges);
    graft_status st = c->modules && c->ranges ? GRAFT_OK : gr_fail_memory(err);
    for (size_t i = 0; i < n && st == GRAFT_OK; i++) {
        const gr_site *s = gr_model_site(m, i);
        if (s->role == GR_ROLE_HEAD || !gr_model_linear(m, s)) continue;
        char *name = gr_arena_strndup(&c->arena, s->name, strlen(s->name));
        if (!name) st = gr_fail_memory(err);
        c->modules[c->n_modules++] = (gr_calibrated){name, s->module};
        c->n_ranges = GR_MAX(c->n_ranges, (size_t)s->module + 1);
    }
    if (st != GRAFT_OK) {
        graft_calibration_free(c);
        return st;
    }
    *out = c;
    return GRAFT_OK;
}

graft_status graft_calibrate(graft_model *m, const graft_tokenizer *tok, const graft_calibration_options *options,
                             graft_calibration **out, graft_error *err) {
    const gr_model_config *config = gr_model_get_config(m->model);
    graft_calibration *found = NULL;
    calibrator c = {
        .m = m,
        .o = options,
        .watcher = {.m = m->model, .dev = gr_model_device(m->model), .a = gr_allocator(m->ctx)}};
    if (config->task != GR_TASK_CAUSAL_LM || config->n_encoder_layers)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "%s: calibration: expected a decoder that writes texts, found the task %s of a %s model",
                       gr_model_path(m->model), gr_task_name(config->task), gr_model_type_name(config->type));
    if (gr_model_is_integer(m->model))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "%s: calibration: expected activations in floats, found them in 8 bits",
                       gr_model_path(m->model));
    graft_status st = new_calibration(m->model, &found, err);
    if (st == GRAFT_OK) st = open_calibrator(&c, tok, err);
    if (st == GRAFT_OK) {
        const size_t n = graft_dataset_count(c.ds), total = options->measure ? 2 * n : n;
        c.watcher.ranges = found->ranges;
        found->n_examples = n;
        st = run_all(&c, 0, total, &found->n_tokens, err);
        c.watcher.measure = true;
        if (st == GRAFT_OK && options->measure) st = run_all(&c, n, total, &found->n_tokens, err);
    }
    close_calibrator(&c);
    if (st != GRAFT_OK) {
        graft_calibration_free(found);
        return st;
    }
    *out = found;
    return GRAFT_OK;
}
