/* graft_forward: one pass on given tensors, to be held against the reference library. */
#include <stdio.h>

#include "adapter/forward.h"
#include "adapter/method.h"
#include "io/paths.h"
#include "model/public.h"

/* --- Running ---------------------------------------------------------------------------------------------------------------------------- */

typedef struct forward_job {
    gr_model *m;
    gr_adapter_set *set;
    const graft_allocator *a;
    int adapter; /* -1: none */
    bool backward;
    gr_padded in, source_in;
    gr_ragged r, source; /* source: of an encoder-decoder */
    gr_pass *pass;
    gr_pool *pool;
    double loss;
} forward_job;

static graft_status new_tape(forward_job *j, bool record, gr_tape **out, graft_error *err) {
    gr_tape_options o = {.record = record};
    return gr_tape_new(gr_model_device(j->m), j->pool, &o, out, err);
}

static graft_status run_loss(forward_job *j, graft_error *err) {
    gr_tape *t = NULL;
    gr_loss loss;
    gr_pass_options o = {.hooks = gr_adapter_set_hooks(j->set)};
    graft_status st = new_tape(j, j->backward, &t, err);
    if (st == GRAFT_OK) st = gr_pass_loss(j->pass, t, &j->r.batch, &o, &loss, err);
    if (st == GRAFT_OK) j->loss = loss.sum / (double)loss.n_labels + gr_adapter_penalty(j->set, j->adapter);
    if (st == GRAFT_OK && j->backward && gr_var_needs_grad(loss.var)) st = gr_tape_backward(t, loss.var, NULL, err);
    gr_tape_free(t);
    return st;
}

static graft_status write_zeros(gr_safetensors_writer *w, int64_t n, graft_error *err) {
    static const float zeros[1024];
    for (; n > 0; n -= (int64_t)GR_COUNT(zeros))
        GR_TRY(gr_safetensors_write(w, zeros, (size_t)GR_MIN(n, (int64_t)GR_COUNT(zeros)) * sizeof *zeros, err));
    return GRAFT_OK;
}

static graft_status write_floats(const forward_job *j, gr_safetensors_writer *w, gr_dtype dt, const void *x, int64_t n,
                                 graft_error *err) {
    gr_device *dev = gr_model_device(j->m);
    if (dt == GR_F32) return gr_safetensors_write(w, x, (size_t)n * sizeof(float), err);
    float part[256];
    for (int64_t i = 0; i < n; i += (int64_t)GR_COUNT(part)) {
        int64_t k = GR_MIN(n - i, (int64_t)GR_COUNT(part));
        dev->k->convert(dev, dt, (const char *)x + gr_dtype_bytes(dt, (size_t)i), GR_F32, part, k);
        GR_TRY(gr_safetensors_write(w, part, (size_t)k * sizeof *part, err));
    }
    return GRAFT_OK;
}

/* Rows of the result for each cell of the padded input, of hidden states or a few of the head at a time; masked cells get
 * zeros. */
static graft_status write_cells(forward_job *j, gr_tape *t, gr_safetensors_writer *w, graft_error *err) {
    enum { ROWS = 64 };
    const gr_model_config *c = gr_model_get_config(j->m);
    bool bare = c->task == GR_TASK_FEATURES;
    int64_t width = bare ? c->hidden_size : c->vocab_size, begin = 0, done = 0;
    gr_pass_options o = {.hooks = gr_adapter_set_hooks(j->set)};
    gr_var *hidden, *rows = NULL;
    GR_TRY(gr_pass_hidden(j->pass, t, &j->r.batch, &o, NULL, 0, &hidden, err));
    for (int64_t cell = 0; cell < j->in.rows * j->in.columns; cell++) {
        int64_t token = gr_padded_visible(&j->in, cell / j->in.columns, cell % j->in.columns) ? j->r.token[cell] : -1;
        if (token < 0) {
            GR_TRY(write_zeros(w, width, err));
            continue;
        }
        while (token >= done) {
            int64_t n = GR_MIN(ROWS, j->r.batch.n_tokens - done);
            begin = done;
            done += n;
            gr_var_drop(rows);
            rows = NULL;
            if (bare)
                begin = 0;
            else
                GR_TRY(gr_pass_head(j->pass, hidden, begin, n, &rows, err));
        }
        const gr_array *x = gr_var_array(bare ? hidden : rows);
        GR_TRY(write_floats(j, w, x->dtype, (const char *)x->data + gr_dtype_bytes(x->dtype, (size_t)((token - begin) * width)),
                            width, err));
    }
    gr_var_drop(rows);
    gr_var_drop(hidden);
    return GRAFT_OK;
}

/* Logits of the classification, or what the pooler makes, a row each. */
static graft_status write_rows(forward_job *j, gr_tape *t, gr_safetensors_writer *w, graft_error *err) {
    gr_pass_options o = {.hooks = gr_adapter_set_hooks(j->set)};
    bool bare = gr_model_get_config(j->m)->task == GR_TASK_FEATURES;
    const gr_class_targets *g = &j->r.targets;
    gr_var *y;
    GR_TRY((bare ? gr_pass_pooled : gr_pass_logits)(j->pass, t, &j->r.batch, &o, g->rows, g->n, &y, err));
    const gr_array *x = gr_var_array(y);
    GR_TRY(write_floats(j, w, x->dtype, x->data, x->shape.d[0] * x->shape.d[1], err));
    gr_var_drop(y);
    return GRAFT_OK;
}

/* What comes out beside the gradients. */
enum { OUT_CELLS, OUT_ROWS, OUT_LOSS, OUTPUTS };

static int list_outputs(const forward_job *j, int *out) {
    gr_task task = gr_model_get_config(j->m)->task;
    int n = 0;
    if (task != GR_TASK_SEQ_CLS) out[n++] = OUT_CELLS;
    if (task == GR_TASK_SEQ_CLS || (task == GR_TASK_FEATURES && gr_model_has_pooler(j->m))) out[n++] = OUT_ROWS;
    if (j->r.n_labels) out[n++] = OUT_LOSS;
    return n;
}

static graft_status declare(const forward_job *j, const int *outputs, int n_outputs, gr_safetensors_writer *w, graft_error *err) {
    char name[400];
    const gr_model_config *c = gr_model_get_config(j->m);
    bool bare = c->task == GR_TASK_FEATURES;
    const gr_shape shapes[OUTPUTS] = {gr_shape3(j->in.rows, j->in.columns, bare ? c->hidden_size : c->vocab_size),
                                      gr_shape2(j->in.rows, bare ? c->hidden_size : c->n_labels), gr_shape1(1)};
    const char *const names[OUTPUTS] = {bare ? "last_hidden_state" : "logits", bare ? "pooler_output" : "logits", "loss"};
    for (int i = 0; i < n_outputs; i++)
        GR_TRY(gr_safetensors_declare(w, names[outputs[i]], GR_F32, &shapes[outputs[i]], err));
    for (size_t i = 0; j->backward && i < gr_adapter_n_params(j->set, j->adapter); i++) {
        const gr_param *p = gr_adapter_param(j->set, j->adapter, i);
        snprintf(name, sizeof name, "grad.%s", p->name);
        GR_TRY(gr_safetensors_declare(w, name, GR_F32, &p->shape, err));
    }
    return GRAFT_OK;
}

static graft_status write_all(forward_job *j, gr_tape *t, gr_safetensors_writer *w, graft_error *err) {
    const size_t *order;
    int outputs[OUTPUTS], n_outputs = list_outputs(j, outputs);
    size_t others = (size_t)n_outputs, n = others + (j->backward ? gr_adapter_n_params(j->set, j->adapter) : 0);
    float loss = (float)j->loss;
    GR_TRY(declare(j, outputs, n_outputs, w, err));
    GR_TRY(gr_safetensors_writer_begin(w, &order, err));
    for (size_t i = 0; i < n; i++) {
        if (order[i] >= others) {
            const gr_param *p = gr_adapter_param(j->set, j->adapter, order[i] - others);
            GR_TRY(write_floats(j, w, p->dtype, p->grad, p->n, err));
            continue;
        }
        switch (outputs[order[i]]) {
        case OUT_CELLS: GR_TRY(write_cells(j, t, w, err)); break;
        case OUT_ROWS: GR_TRY(write_rows(j, t, w, err)); break;
        default: GR_TRY(gr_safetensors_write(w, &loss, sizeof loss, err));
        }
        gr_tape_reset(t);
    }
    return GRAFT_OK;
}

static graft_status write_output(forward_job *j, const char *path, graft_error *err) {
    char *dir = gr_path_dir(j->a, path);
    gr_safetensors_writer *w = NULL;
    gr_tape *t = NULL;
    gr_safetensors_options options = {.stem = gr_path_base(path), .exact = true};
    graft_status st = dir ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK) st = new_tape(j, false, &t, err);
    if (st == GRAFT_OK) st = gr_safetensors_writer_new(j->a, dir, &options, &w, err);
    if (st == GRAFT_OK && (st = write_all(j, t, w, err)) == GRAFT_OK) {
        st = gr_safetensors_writer_commit(w, err);
        w = NULL;
    }
    gr_safetensors_writer_abort(w);
    gr_tape_free(t);
    gr_free(j->a, dir);
    return st;
}

static graft_status run_forward(forward_job *j, const graft_forward_options *o, graft_error *err) {
    gr_safetensors *f;
    GR_TRY(gr_safetensors_open(j->a, o->input, &f, err));
    graft_status st;
    GR_GO(done, gr_padded_read(gr_safetensors_tensors(f), o->input, j->m, gr_adapter_n_virtual(j->set, j->adapter), gr_adapter_n_tasks(j->set, j->adapter), &j->in,
                               &j->source_in, err));
    const gr_hooks *h = gr_adapter_set_hooks(j->set);
    gr_padded *prompted = j->source_in.ids ? &j->source_in : &j->in;
    if (gr_adapter_prompt_template(j->set, j->adapter)) prompted->placed = h->n_rows(h->self, j->adapter);
    GR_GO(done, gr_ragged_fill(j->a, &j->r, j->m, &j->in, j->adapter, err));
    if (j->source_in.ids) {
        GR_GO(done, gr_ragged_fill(j->a, &j->source, j->m, &j->source_in, j->adapter, err));
        GR_GO(done, gr_ragged_read(&j->r, &j->in, &j->source, err));
    }
    if (j->backward && !j->r.n_labels)
        GR_GO(done, gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: gradients need 'labels' that are not all ignored", o->input));
    GR_GO(done, gr_pool_new(j->a, 0, false, &j->pool, err));
    GR_GO(done, gr_pass_new(j->m, &j->pass, err));
    for (size_t i = 0; j->backward && i < gr_adapter_n_params(j->set, j->adapter); i++) {
        gr_param *p = gr_adapter_param(j->set, j->adapter, i);
        memset(p->grad, 0, gr_dtype_bytes(p->dtype, (size_t)p->n));
    }
    if (j->backward) GR_GO(done, gr_adapter_refresh(j->set, j->adapter, 0, true, err));
    if (j->r.n_labels) GR_GO(done, run_loss(j, err));
    if (j->backward) GR_GO(done, gr_adapter_collect(j->set, j->adapter, err));
    GR_GO(done, write_output(j, o->output, err));
done:
    gr_pass_free(j->pass);
    gr_pool_free(j->pool);
    gr_ragged_free(j->a, &j->r);
    gr_ragged_free(j->a, &j->source);
    gr_safetensors_close(f);
    return st;
}

graft_status graft_forward(graft_model *m, const graft_forward_options *o, graft_error *err) {
    static const char everything[] = "{\"peft_type\": \"FULL\"}";
    forward_job j = {.m = m->model, .set = m->adapters, .a = gr_allocator(m->ctx), .backward = o->backward != 0};
    int temporary = -1;
    if (!o->input || !o->output) return gr_fail(err, GRAFT_ERR_ARGUMENT, "a forward pass needs an input and an output file");
    GR_TRY(gr_model_choose_adapter(m, o->adapter, &j.adapter, err));
    if (j.backward && j.adapter < 0 && gr_model_is_integer(m->model))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "activations int8: expected an adapter to train, found none: trained weights are not in 8 bits");
    if (j.backward && j.adapter < 0) {
        GR_TRY(gr_adapter_set_create(j.set, "all tensors", everything, strlen(everything), 0, &temporary, err));
        j.adapter = temporary;
    } else if (j.backward && gr_adapter_n_params(j.set, j.adapter) && !gr_adapter_param(j.set, j.adapter, 0)->grad)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "adapter '%s' was not loaded to be trained: it has no gradients",
                       gr_adapter_set_name(j.set, j.adapter));
    graft_status st = run_forward(&j, o, err);
    if (temporary >= 0) gr_adapter_set_remove(j.set, temporary);
    return st;
}
