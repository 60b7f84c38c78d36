/* Which head a run trains, and on which labels: what config.json names, or what is asked for; labels from there, from the
 * options, from the adapter that the run goes on with, or collected from the records. */
#include "train/trainer.h"

static graft_data_options data_options(const gr_trainer *t) {
    const graft_sft_options *o = t->o;
    return (graft_data_options){.paths = o->data.items, .n_paths = o->data.n, .skip_bad_records = o->skip_bad_records,
                                .problem = t->asked_problem, .prompt_template = o->methods.prompt_template};
}

static graft_status find_problem(const char *name, graft_problem *out, graft_error *err) {
    *out = GRAFT_PROBLEM_AUTO;
    for (int i = GR_PROBLEM_SINGLE; name && i <= GR_PROBLEM_REGRESSION; i++)
        if (!strcmp(name, gr_problem_name((gr_problem)i))) *out = (graft_problem)i;
    if (!name || *out != GRAFT_PROBLEM_AUTO) return GRAFT_OK;
    return gr_fail(
        err, GRAFT_ERR_ARGUMENT,
        "problem_type: expected single_label_classification, multi_label_classification or regression, found %s", name);
}

/* Copies names, so that all kinds of labels are freed alike. */
static graft_status take_labels(gr_trainer *t, const char *const *names, size_t n, graft_error *err) {
    if (!(t->labels.names = gr_calloc(t->a, n, sizeof *t->labels.names))) return gr_fail_memory(err);
    for (; t->labels.n < n; t->labels.n++)
        if (!(t->labels.names[t->labels.n] = gr_strdup(t->a, names[t->labels.n]))) return gr_fail_memory(err);
    t->labels.problem = t->asked_problem;
    return GRAFT_OK;
}

static graft_status choose_labels(gr_trainer *t, const gr_adapter_head *head, bool in_config, graft_error *err) {
    const graft_sft_options *o = t->o;
    for (size_t i = 1; i < o->labels.n; i++)
        for (size_t k = 0; k < i; k++)
            if (strcmp(o->labels.items[i], o->labels.items[k]) == 0)
                return gr_fail(err, GRAFT_ERR_ARGUMENT, "labels: expected different names, found \"%.60s\" twice", o->labels.items[i]);
    if (o->labels.n) return take_labels(t, o->labels.items, o->labels.n, err);
    if (head->labels.n) {
        GR_TRY(take_labels(t, head->labels.names, (size_t)head->labels.n, err));
        if (!t->labels.problem) t->labels.problem = (graft_problem)head->problem;
        return GRAFT_OK;
    }
    if (in_config) return GRAFT_OK;
    const graft_data_options d = data_options(t);
    return graft_labels_collect(t->ctx, &d, &t->labels, err);
}

static graft_status check_options(const gr_trainer *t, gr_task task, graft_error *err) {
    const graft_sft_options *o = t->o;
    const char *wrong = NULL;
    bool of_classes = !strcmp(t->metric, "eval_accuracy") || !strcmp(t->metric, "eval_f1");
    if (of_classes != (task == GR_TASK_SEQ_CLS) && strcmp(t->metric, "eval_loss") != 0)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "metric_for_best_model: %s is not measured for the task %s", t->metric,
                       gr_task_name(task));
    if (task != GR_TASK_SEQ_CLS && o->labels.n) wrong = "labels";
    if (task != GR_TASK_SEQ_CLS && o->problem_type) wrong = "problem_type";
    if (task != GR_TASK_MASKED_LM && o->mlm_probability != 0) wrong = "mlm_probability";
    const bool follows = task == GR_TASK_CAUSAL_LM || task == GR_TASK_SEQ_2_SEQ_LM;
    if (!follows && o->completion_only_loss != GRAFT_AUTO) wrong = "completion_only_loss";
    if (!follows && o->assistant_only_loss) wrong = "assistant_only_loss";
    if (wrong) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: has no meaning for the task %s", wrong, gr_task_name(task));
    if (o->mlm_probability < 0 || o->mlm_probability > 1)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "mlm_probability: expected 0 to 1, found %g", o->mlm_probability);
    if (task == GR_TASK_FEATURES)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                       "%s: a model without a head cannot be fine-tuned: task_type SEQ_CLS or MASKED_LM gives it one",
                       o->model);
    return GRAFT_OK;
}

graft_status gr_trainer_choose_task(gr_trainer *t, gr_model_options *mo, graft_error *err) {
    const graft_sft_options *o = t->o;
    gr_model_config *c = gr_alloc(t->a, sizeof *c); /* large: one entry a layer */
    if (!c) return gr_fail_memory(err);
    graft_error unsaid;
    *c = (gr_model_config){0};
    graft_status st = gr_model_config_load(t->a, o->model, c, &unsaid);
    gr_task in_config = c->task, task = in_config;
    gr_free(t->a, c);
    if (st == GRAFT_ERR_MEMORY) return gr_fail_memory(err);
    if (st != GRAFT_OK) return GRAFT_OK; /* opening the model says what is wrong */
    if (o->task_type) GR_TRY(gr_task_find(o->task_type, &task, err));
    GR_TRY(check_options(t, task, err));
    GR_TRY(find_problem(o->problem_type, &t->asked_problem, err));
    gr_adapter_head head = {0};
    gr_arena_init(&t->head_arena, t->a, 0);
    if (o->adapter) GR_TRY(gr_adapter_find_head(t->a, o->adapter, &t->head_arena, &head, err));
    mo->brought = head.tensors;
    mo->n_brought = head.n_tensors;
    mo->seed = o->seed;
    mo->has_task = o->task_type != NULL || o->labels.n > 0;
    mo->task = task;
    if (task != GR_TASK_SEQ_CLS) return GRAFT_OK;
    if (!t->labels.n) GR_TRY(choose_labels(t, &head, in_config == GR_TASK_SEQ_CLS, err)); /* the model may be opened again */
    if (!t->labels.n) return GRAFT_OK;
    mo->has_task = true;
    mo->n_labels = (int)GR_MIN(t->labels.n, (size_t)GR_MAX_LABELS + 1);
    mo->labels = (const char *const *)t->labels.names;
    mo->problem = (gr_problem)t->labels.problem;
    return GRAFT_OK;
}

graft_status gr_trainer_check_base(const gr_trainer *t, const gr_model_options *mo, graft_error *err) {
    const gr_model_config *c = gr_model_get_config(t->model);
    const gr_labels *labels = gr_model_labels(t->model);
    bool same = !mo->has_task || (c->task == mo->task && (!mo->n_labels || labels->n == mo->n_labels));
    for (int i = 0; same && mo->labels && i < mo->n_labels; i++) same = strcmp(labels->names[i], mo->labels[i]) == 0;
    if (same) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_MISMATCH,
                   "jobs over one model need the same task and the same labels: name them with labels");
}

void gr_trainer_set_learning(const gr_trainer *t, graft_data_options *d) {
    const gr_model_config *c = gr_model_get_config(t->model);
    const gr_labels *labels = gr_model_labels(t->model);
    if (c->task == GR_TASK_MASKED_LM) d->learn = GRAFT_LEARN_MASKED;
    if (c->task != GR_TASK_SEQ_CLS) return;
    d->learn = GRAFT_LEARN_CLASSES;
    d->labels = labels->names;
    d->n_labels = (size_t)labels->n;
    d->problem = t->asked_problem != GRAFT_PROBLEM_AUTO ? t->asked_problem : (graft_problem)c->problem;
}

/* --- Modules that are trained whole -------------------------------------------------------------------------------------- */

static bool covered(const char *module, graft_texts names) {
    for (size_t i = 0; i < names.n; i++) {
        size_t n = strlen(module), m = strlen(names.items[i]);
        for (size_t k = n; k >= m; k--) /* the module, or one that it is in */
            if ((k == n || module[k] == '.') && memcmp(module + k - m, names.items[i], m) == 0) return true;
    }
    return false;
}

graft_status gr_trainer_whole_modules(const gr_trainer *t, const char **names, size_t cap, graft_texts *out,
                                      graft_error *err) {
    /* peft's, for a classification; of t5 it trains no classifier unless it is told to. */
    static const char *const usual[] = {"classifier", "score", "classification_head"};
    const gr_model_config *c = gr_model_get_config(t->model);
    const size_t n_usual = c->task != GR_TASK_SEQ_CLS ? 0 : c->n_encoder_layers ? 3 : 2;
    const graft_sft_options *o = t->o;
    size_t n = 0, given = o->lora.modules_to_save.n;
    if (given + GR_COUNT(usual) > cap)
        return gr_fail(err, GRAFT_ERR_LIMIT, "modules_to_save: more than %zu names", cap - GR_COUNT(usual));
    for (size_t i = 0; i < given; i++) names[n++] = o->lora.modules_to_save.items[i];
    for (size_t i = 0; i < n_usual; i++) names[n++] = usual[i];
    /* What the files lack is lost unless the adapter keeps it. */
    for (size_t i = 0; i < gr_model_n_sites(t->model); i++) {
        const gr_site *s = gr_model_site(t->model, i);
        if (!gr_model_is_fresh(t->model, s->weight_tensor) || covered(s->name, (graft_texts){names, n})) continue;
        if (n == cap) return gr_fail(err, GRAFT_ERR_LIMIT, "modules_to_save: more than %zu names", cap);
        names[n++] = s->name;
    }
    *out = (graft_texts){names, n};
    return GRAFT_OK;
}
