#include <stdio.h>

#include "train/checkpoint.h"
#include "train/output.h"

/* --- Writing --- */

/* A tensor of optimizer.safetensors: a state of a parameter, or the absmax of one in 8 bits. */
typedef struct moment {
    char *name;
    gr_dtype dtype;
    gr_shape shape;
    void *data;
    size_t bytes;
} moment;

static moment moment_of(const gr_optimizer *o, size_t param, int s, bool absmax) {
    const gr_optimizer_state state = gr_optimizer_get_state(o, param, s);
    if (absmax)
        return (moment){.dtype = GR_F32, .shape = gr_shape1((int64_t)state.n_absmax), .data = state.absmax,
                        .bytes = state.n_absmax * sizeof(float)};
    return (moment){.dtype = state.absmax ? GR_U8 : GR_F32, .shape = gr_optimizer_param(o, param)->shape,
                    .data = state.data, .bytes = state.bytes};
}

static graft_status list_moments(const gr_optimizer *o, gr_arena *names, moment *list, size_t *n, graft_error *err) {
    const gr_optimizer_rule *rule = gr_optimizer_get_rule(o);
    *n = 0;
    for (size_t i = 0; i < gr_optimizer_n_params(o); i++)
        for (int s = 0; s < gr_optimizer_n_states(o); s++)
            for (int absmax = 0; absmax <= (gr_optimizer_get_state(o, i, s).absmax != NULL); absmax++) {
                const char *kind = absmax ? rule->absmax[s] : rule->states[s], *param = gr_optimizer_param(o, i)->name;
                moment *m = &list[(*n)++];
                size_t len = strlen(kind) + strlen(param) + 2;
                *m = moment_of(o, i, s, absmax);
                m->name = gr_arena_alloc(names, len);
                if (!m->name) return gr_fail_memory(err);
                snprintf(m->name, len, "%s.%s", kind, param);
            }
    return GRAFT_OK;
}

static graft_status write_moments(const gr_optimizer *o, gr_safetensors_writer *w, const moment *list, size_t n,
                                  graft_error *err) {
    const size_t *order = NULL;
    for (size_t i = 0; i < n; i++) GR_TRY(gr_safetensors_declare(w, list[i].name, list[i].dtype, &list[i].shape, err));
    GR_TRY(gr_safetensors_writer_begin(w, &order, err));
    for (size_t i = 0; i < n; i++) {
        const moment *m = &list[order[i]];
        for (size_t at = 0; at < m->bytes; at += GR_OPTIMIZER_WINDOW) {
            const size_t part = GR_MIN(m->bytes - at, (size_t)GR_OPTIMIZER_WINDOW);
            GR_TRY(gr_safetensors_write(w, (char *)m->data + at, part, err));
            gr_optimizer_release(o, (char *)m->data + at, part);
        }
    }
    return GRAFT_OK;
}

static graft_status save_optimizer(const gr_trainer *t, const char *dir, graft_error *err) {
    const gr_optimizer *o = t->optimizer;
    const size_t most = 2 * gr_optimizer_n_params(o) * (size_t)gr_optimizer_n_states(o);
    char steps[32];
    snprintf(steps, sizeof steps, "%lld", (long long)gr_optimizer_steps(o));
    const char *rule = gr_optimizer_get_rule(o)->names[0];
    const char *const metadata[] = {"format", "pt", "optimizer", rule, "step", steps, NULL};
    const gr_safetensors_options so = {.stem = "optimizer", .metadata = metadata};
    gr_arena names;
    gr_arena_init(&names, t->a, 0);
    size_t n;
    gr_safetensors_writer *w = NULL;
    moment *list = gr_calloc(t->a, most + 1, sizeof *list);
    graft_status st = list ? list_moments(o, &names, list, &n, err) : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_safetensors_writer_new(t->a, dir, &so, &w, err);
    if (st == GRAFT_OK) {
        st = write_moments(o, w, list, n, err);
        if (st == GRAFT_OK) st = gr_safetensors_writer_commit(w, err);
        else gr_safetensors_writer_abort(w);
    }
    gr_free(t->a, list);
    gr_arena_free(&names);
    return st;
}

static graft_status write_text(const gr_trainer *t, const char *dir, const char *name, const gr_buf *text,
                               graft_error *err) {
    GR_TRY(gr_buf_status(text, err));
    char *path = gr_path_join(t->a, dir, name);
    if (!path) return gr_fail_memory(err);
    graft_status st = gr_write_file(t->a, path, text->data, text->len, err);
    gr_free(t->a, path);
    return st;
}

static graft_status save_state(const gr_trainer *t, const char *dir, graft_error *err) {
    const graft_sft_options *o = t->o;
    char best[4096];
    bool has_best = t->state.best_step > 0 &&
                    (t->state.best_step == t->state.global_step || gr_checkpoint_exists(t, t->state.best_step));
    snprintf(best, sizeof best, "%s/checkpoint-%lld", o->output_dir, (long long)t->state.best_step);
    const gr_state_facts facts = {.logging_steps = (double)t->logging_steps,
                                  .eval_steps = (double)t->eval_steps,
                                  .save_steps = (double)t->save_steps,
                                  .num_train_epochs = o->num_train_epochs,
                                  .train_batch_size = o->per_device_train_batch_size,
                                  .early_stopping_patience = o->early_stopping_patience,
                                  .early_stopping_threshold = o->early_stopping_threshold,
                                  .best_checkpoint = has_best ? best : NULL};
    gr_buf text;
    gr_buf_init(&text, t->a);
    graft_status st = gr_state_write(&t->state, &facts, &text, err);
    if (st == GRAFT_OK) st = write_text(t, dir, "trainer_state.json", &text, err);
    gr_buf_clear(&text);
    gr_options_json(o, &text);
    if (st == GRAFT_OK) st = write_text(t, dir, "training_args.json", &text, err);
    gr_buf_free(&text);
    return st;
}

static graft_status fill(const gr_trainer *t, const char *dir, graft_error *err) {
    GR_TRY(gr_make_dirs(dir, err));
    GR_TRY(gr_adapter_save(t->set, t->adapter, dir, GR_F32, err));
    GR_TRY(gr_adapter_save_state(t->set, t->adapter, dir, err));
    GR_TRY(save_optimizer(t, dir, err));
    GR_TRY(save_state(t, dir, err));
    return gr_sync_dir(dir, err);
}

graft_status gr_checkpoint_save(gr_trainer *t, graft_error *err) {
    char name[64], temp_name[80];
    gr_trainer_progress(t, GRAFT_TRAIN_SAVING, 0, 0);
    snprintf(name, sizeof name, "checkpoint-%lld", (long long)t->state.global_step);
    snprintf(temp_name, sizeof temp_name, "%s.tmp", name);
    char *path = gr_path_join(t->a, t->o->output_dir, name), *temp = gr_path_join(t->a, t->o->output_dir, temp_name);
    graft_status st = path && temp ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK) st = gr_remove_tree(temp, err);
    if (st == GRAFT_OK && (st = fill(t, temp, err)) != GRAFT_OK) gr_remove_tree(temp, NULL);
    if (st == GRAFT_OK) st = gr_publish_dir(t->a, temp, path, err);
    if (st == GRAFT_OK) st = gr_sync_dir(t->o->output_dir, err);
    if (st == GRAFT_OK) {
        t->last_checkpoint = t->state.global_step;
        if (t->o->save_total_limit > 0)
            st = gr_rotate_checkpoints(t->a, t->o->output_dir, (size_t)t->o->save_total_limit, t->state.global_step,
                                       t->state.best_step, err);
    }
    gr_free(t->a, path);
    gr_free(t->a, temp);
    return st;
}

bool gr_checkpoint_exists(const gr_trainer *t, int64_t step) {
    char name[64];
    snprintf(name, sizeof name, "checkpoint-%lld/trainer_state.json", (long long)step);
    char *path = gr_path_join(t->a, t->o->output_dir, name);
    bool exists = path && gr_path_exists(path);
    gr_free(t->a, path);
    return exists;
}

/* --- Reading --- */

static graft_status copy_tensor(const gr_safetensors *f, const char *file, const char *name, gr_dtype dtype,
                                const gr_shape *shape, void *to, graft_error *err) {
    const gr_named_tensor *found = gr_tensor_list_find(gr_safetensors_tensors(f), name);
    char want[GR_SHAPE_TEXT], got[GR_SHAPE_TEXT];
    if (!found) return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: expected a tensor %s, found none", file, name);
    if (found->view.dtype != dtype || !gr_shape_equal(&found->view.shape, shape))
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: %s: expected %s %s, found %s %s", file, name, gr_dtype_name(dtype),
                       gr_shape_format(shape, want, sizeof want), gr_dtype_name(found->view.dtype),
                       gr_shape_format(&found->view.shape, got, sizeof got));
    memcpy(to, found->view.data, found->view.bytes);
    return GRAFT_OK;
}

static graft_status load_params(gr_trainer *t, const char *dir, graft_error *err) {
    if (strcmp(gr_adapter_method_name(t->set, t->adapter), "full") != 0)
        return gr_adapter_reload(t->set, t->adapter, dir, err);
    gr_safetensors *f;
    GR_TRY(gr_safetensors_open(t->a, dir, &f, err));
    graft_status st = GRAFT_OK;
    for (size_t i = 0; i < t->n_params && st == GRAFT_OK; i++) {
        const gr_param *p = t->params[i];
        st = copy_tensor(f, dir, p->name, GR_F32, &p->shape, p->value, err);
        if (st == GRAFT_OK) gr_param_changed(t->params[i]);
    }
    gr_safetensors_close(f);
    return st;
}

graft_status gr_checkpoint_load_step(gr_trainer *t, int64_t step, graft_error *err) {
    char name[64];
    snprintf(name, sizeof name, "checkpoint-%lld", (long long)step);
    char *dir = gr_path_join(t->a, t->o->output_dir, name);
    if (!dir) return gr_fail_memory(err);
    graft_status st = load_params(t, dir, err);
    gr_free(t->a, dir);
    return st;
}

static graft_status load_states(gr_trainer *t, const gr_safetensors *f, const char *file, graft_error *err) {
    gr_optimizer *o = t->optimizer;
    const char *step = gr_safetensors_metadata(f, "step");
    double steps;
    if (!step || !gr_parse_double(step, strlen(step), &steps) || steps != (double)t->state.global_step)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: expected step %lld, found %s", file, (long long)t->state.global_step,
                       step ? step : "none");
    gr_optimizer_set_steps(o, t->state.global_step);
    const size_t most = 2 * t->n_params * (size_t)gr_optimizer_n_states(o);
    gr_arena names;
    gr_arena_init(&names, t->a, 0);
    size_t n = 0;
    moment *list = gr_calloc(t->a, most + 1, sizeof *list);
    graft_status st = list ? list_moments(o, &names, list, &n, err) : gr_fail_memory(err);
    for (size_t i = 0; i < n && st == GRAFT_OK; i++) {
        st = copy_tensor(f, file, list[i].name, list[i].dtype, &list[i].shape, list[i].data, err);
        gr_optimizer_release(o, list[i].data, list[i].bytes);
    }
    gr_free(t->a, list);
    gr_arena_free(&names);
    return st;
}

graft_status gr_checkpoint_restore(gr_trainer *t, graft_error *err) {
    GR_TRY(load_params(t, t->resumed_from, err));
    char *path = gr_path_join(t->a, t->resumed_from, "optimizer.safetensors");
    if (!path) return gr_fail_memory(err);
    gr_safetensors *f = NULL;
    graft_status st = gr_safetensors_open(t->a, path, &f, err);
    if (st == GRAFT_OK) st = load_states(t, f, path, err);
    if (st == GRAFT_OK) t->last_checkpoint = t->state.global_step;
    gr_safetensors_close(f);
    gr_free(t->a, path);
    return st;
}
