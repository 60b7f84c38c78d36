#include <stdio.h>

#include "train/checkpoint.h"
#include "train/output.h"

/* --- Writing --- */

static graft_status save_optimizer(const gr_trainer *t, const char *dir, graft_error *err) {
    const gr_optimizer *o = t->optimizer;
    const gr_optimizer_rule *rule = gr_optimizer_get_rule(o);
    size_t n_states = (size_t)gr_optimizer_n_states(o), n = gr_optimizer_n_params(o) * n_states;
    gr_arena names;
    gr_arena_init(&names, t->a, 0);
    gr_named_tensor *list = gr_calloc(t->a, n + 1, sizeof *list);
    char *path = gr_path_join(t->a, dir, "optimizer.safetensors");
    graft_status st = list && path ? GRAFT_OK : gr_fail_memory(err);
    for (size_t i = 0; i < n && st == GRAFT_OK; i++) {
        int s = (int)(i % n_states);
        const gr_param *p = gr_optimizer_param(o, i / n_states);
        size_t len = strlen(rule->states[s]) + strlen(p->name) + 2;
        char *name = gr_arena_alloc(&names, len);
        if (!name) {
            st = gr_fail_memory(err);
            break;
        }
        snprintf(name, len, "%s.%s", rule->states[s], p->name);
        list[i] = (gr_named_tensor){.name = name,
                                    .view = {.dtype = GR_F32,
                                             .shape = p->shape,
                                             .data = gr_optimizer_state(o, i / n_states, s),
                                             .bytes = (size_t)p->n * sizeof(float)}};
    }
    if (st == GRAFT_OK) {
        char steps[32];
        snprintf(steps, sizeof steps, "%lld", (long long)gr_optimizer_steps(o));
        const char *const metadata[] = {"format", "pt", "optimizer", rule->names[0], "step", steps, NULL};
        st = gr_safetensors_save(t->a, path, list, n, metadata, err);
    }
    gr_free(t->a, path);
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

static graft_status copy_tensor(const gr_safetensors *f, const char *file, const char *name, const gr_param *p,
                                float *to, graft_error *err) {
    const gr_named_tensor *found = gr_tensor_list_find(gr_safetensors_tensors(f), name);
    char want[GR_SHAPE_TEXT], got[GR_SHAPE_TEXT];
    if (!found) return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: expected a tensor %s, found none", file, name);
    if (found->view.dtype != GR_F32 || !gr_shape_equal(&found->view.shape, &p->shape))
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: %s: expected F32 %s, found %s %s", file, name,
                       gr_shape_format(&p->shape, want, sizeof want), gr_dtype_name(found->view.dtype),
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
        st = copy_tensor(f, dir, t->params[i]->name, t->params[i], t->params[i]->value, err);
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
    const gr_optimizer_rule *rule = gr_optimizer_get_rule(o);
    const char *step = gr_safetensors_metadata(f, "step");
    double steps;
    if (!step || !gr_parse_double(step, strlen(step), &steps) || steps != (double)t->state.global_step)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: expected step %lld, found %s", file, (long long)t->state.global_step,
                       step ? step : "none");
    gr_optimizer_set_steps(o, t->state.global_step);
    gr_buf name;
    gr_buf_init(&name, t->a);
    graft_status st = GRAFT_OK;
    for (size_t i = 0; i < t->n_params && st == GRAFT_OK; i++)
        for (int s = 0; s < gr_optimizer_n_states(o) && st == GRAFT_OK; s++) {
            gr_buf_clear(&name);
            gr_buf_add_format(&name, "%s.%s", rule->states[s], t->params[i]->name);
            st = gr_buf_status(&name, err);
            if (st == GRAFT_OK)
                st = copy_tensor(f, file, gr_buf_text(&name), t->params[i], gr_optimizer_state(o, i, s), err);
        }
    gr_buf_free(&name);
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
