/* AdaLoRA (Zhang et al. 2023): the delta of a weight is s B diag(E) A, s = alpha / (init_r + 1e-5), whose triplets are left out
 * one after the other where they matter least, over all modules together (adalora_ranks.c); the loss gets orth_reg_weight times
 * the mean over all A and B of ||A A^T - I|| and ||B^T B - I||. Reference: peft 0.21 tuners/adalora.
 *
 * So it is LoRA with the factors diag(E) A and B. What is saved has the triplets that are left, and rank_pattern says which of
 * the init_r they are; training goes on from all of them, which a checkpoint keeps beside. */
#include <math.h>

#include "adapter/adalora.h"

enum { MAX_RANK = 1024 };

static graft_status read_config(gr_adapter *a, const gr_json_value *json, bool fresh, graft_error *err) {
    static const char *const idle[] = {"use_rslora", "alpha_pattern", "rank_pattern"};
    gr_adalora *s = a->state;
    gr_rank_plan *p = &s->plan;
    gr_lora_config *c = &s->lora.config;
    *p = (gr_rank_plan){.init_r = 12, .target_r = 8, .delta_t = 1, .beta1 = 0.85, .beta2 = 0.85, .orth_reg_weight = 0.5, .adapter = a};
    GR_TRY(gr_lora_read_config(a, json, fresh, p, c, err));
    GR_TRY(gr_config_int(a, json, "init_r", 1, MAX_RANK, &p->init_r, err));
    GR_TRY(gr_config_int(a, json, "target_r", 0, MAX_RANK, &p->target_r, err));
    GR_TRY(gr_config_int(a, json, "tinit", 0, INT32_MAX, &p->tinit, err));
    GR_TRY(gr_config_int(a, json, "tfinal", 0, INT32_MAX, &p->tfinal, err));
    GR_TRY(gr_config_int(a, json, "deltaT", 1, INT32_MAX, &p->delta_t, err));
    GR_TRY(gr_config_int(a, json, "total_step", 1, INT64_MAX / 2, &p->total_step, err));
    GR_TRY(gr_config_number(a, json, "beta1", 0, 1, &p->beta1, err));
    GR_TRY(gr_config_number(a, json, "beta2", 0, 1, &p->beta2, err));
    GR_TRY(gr_config_number(a, json, "orth_reg_weight", 0, 1e9, &p->orth_reg_weight, err));
    if (!(p->beta1 > 0 && p->beta1 < 1 && p->beta2 > 0 && p->beta2 < 1))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: beta1 and beta2 must be between 0 and 1", a->where);
    if (fresh && p->target_r > p->init_r)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: target_r %lld above init_r %lld leaves nothing to allocate", a->where,
                       (long long)p->target_r, (long long)p->init_r);
    if (c->dora) return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: AdaLoRA has no use_dora", a->where);
    for (size_t i = 0; fresh && i < GR_COUNT(idle); i++)
        if (gr_config_says(json, idle[i]))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: '%s' has no effect on AdaLoRA", a->where, idle[i]);
    if (fresh && c->r != 8) return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: AdaLoRA has init_r and target_r in the place of 'r'", a->where);
    if (fresh && c->init != GR_LORA_KAIMING && c->init != GR_LORA_RANDOM)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: init_lora_weights '%s' is not supported with AdaLoRA, expected true or false",
                       a->where, c->init_text);
    if (c->init != GR_LORA_RANDOM) c->init = GR_LORA_KAIMING; /* how it began is of no matter any more */
    return gr_adalora_check_plan(a, p, err);
}

/* --- The saved ranks ---------------------------------------------------------------------------------------------------- */

static graft_status read_ranks(gr_adapter *a, const gr_json_value *v, gr_triplet *t, int64_t *r, graft_error *err) {
    const gr_adalora *s = a->state;
    bool *given;
    int64_t n = 0;
    if (v->kind != GR_JSON_ARRAY || v->len != (size_t)s->plan.init_r)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: rank_pattern: '%s': expected a list of %lld truth values", a->where, v->key,
                       (long long)s->plan.init_r);
    if (!(given = gr_arena_alloc(&a->arena, v->len * sizeof *given))) return gr_fail_memory(err);
    *r = 0;
    for (const gr_json_value *i = v->child; i; i = i->next) {
        if (i->kind != GR_JSON_TRUE && i->kind != GR_JSON_FALSE)
            return gr_fail(err, GRAFT_ERR_FORMAT, "%s: rank_pattern: '%s': expected true or false, found %s", a->where, v->key,
                           gr_json_kind_name(i->kind));
        given[n++] = i->kind == GR_JSON_TRUE;
        *r += i->kind == GR_JSON_TRUE;
    }
    t->given = given;
    return GRAFT_OK;
}

static graft_status check_pattern(const gr_adapter *a, const gr_json_value *pattern, graft_error *err) {
    const gr_adalora *s = a->state;
    if (!pattern || pattern->kind == GR_JSON_NULL) return GRAFT_OK;
    if (pattern->kind != GR_JSON_OBJECT)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: 'rank_pattern': expected an object, found %s", a->where,
                       gr_json_kind_name(pattern->kind));
    for (const gr_json_value *v = pattern->child; v; v = v->next) {
        bool found = false;
        for (size_t i = 0; i < s->lora.n_pairs && !found; i++) found = strcmp(s->of[i].name, v->key) == 0;
        if (!found)
            return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: rank_pattern: '%s' is no adapted module's", a->where, v->key);
    }
    return GRAFT_OK;
}

/* Whether triplet k of the init_r is left; `at` counts those that are in memory. */
static bool is_left(const gr_adalora *s, const gr_triplet *t, int64_t k, int64_t *at) {
    if (t->given && !t->given[k]) return false;
    int64_t i = (*at)++;
    return !gr_adalora_is_allocated(s) || gr_param_at(t->kept, i) != 0;
}

void gr_adalora_write_pattern(const gr_adapter *a, gr_buf *b) {
    const gr_adalora *s = a->state;
    bool any = false;
    if (!s->any_given && !gr_adalora_is_allocated(s)) {
        gr_config_add_text(b, "rank_pattern", NULL);
        return;
    }
    gr_buf_add_text(b, "  \"rank_pattern\": {");
    for (size_t i = 0; i < s->lora.n_pairs; i++) {
        const gr_triplet *t = &s->of[s->order[i]];
        int64_t at = 0;
        if (!t->given && !gr_adalora_is_allocated(s)) continue;
        gr_buf_add_text(b, any ? ",\n    " : "\n    ");
        gr_json_add_text(b, t->name, strlen(t->name));
        gr_buf_add_text(b, ": [");
        for (int64_t k = 0; k < s->plan.init_r; k++)
            gr_buf_add_format(b, "%s\n      %s", k ? "," : "", is_left(s, t, k, &at) ? "true" : "false");
        gr_buf_add_text(b, "\n    ]");
        any = true;
    }
    gr_buf_add_text(b, any ? "\n  },\n" : "},\n");
}

static graft_status stored_view(const gr_adapter *a, const gr_stored *s, gr_arena *arena, gr_tensor_view *out, graft_error *err) {
    const gr_adalora *all = a->state;
    const gr_triplet *t = NULL;
    int part = 0;
    for (size_t i = 0; gr_adalora_is_allocated(all) && i < all->lora.n_pairs * GR_TRIPLET_PARTS && !t; i++) {
        part = (int)(i % GR_TRIPLET_PARTS);
        if (all->of[i / GR_TRIPLET_PARTS].part[part] == s->param) t = &all->of[i / GR_TRIPLET_PARTS];
    }
    if (!t) return GRAFT_OK;
    const gr_param *p = s->param;
    int64_t r = t->kept->n, left = 0, n = 0, d0 = p->shape.d[0], d1 = p->shape.d[1];
    size_t size = gr_dtype_bytes(p->dtype, 1);
    for (int64_t k = 0; k < r; k++) left += gr_param_at(t->kept, k) != 0;
    bool columns = part == GR_TRIPLET_B;
    out->shape = columns ? gr_shape2(d0, left) : gr_shape2(left, d1);
    out->bytes = size * (size_t)(columns ? d0 * left : left * d1);
    char *to = gr_arena_alloc(arena, out->bytes + 1);
    if (!to) return gr_fail_memory(err);
    for (int64_t i = 0; i < p->n; i++)
        if (gr_param_at(t->kept, columns ? i % r : i / d1) != 0)
            memcpy(to + size * (size_t)n++, (const char *)p->value + size * (size_t)i, size);
    out->data = to;
    return GRAFT_OK;
}

/* --- Parameters --------------------------------------------------------------------------------------------------------- */

static graft_status add_state(gr_adapter *a, const gr_site *site, gr_triplet *t, graft_error *err) {
    gr_shape ranks = gr_shape1(t->part[GR_TRIPLET_E]->n);
    for (int part = 0; part < GR_TRIPLET_PARTS; part++) {
        const gr_param *p = t->part[part];
        const char *ipt = gr_adapter_text(a, err, "exp_avg_ipt.%s", p->name);
        const char *unc = ipt ? gr_adapter_text(a, err, "exp_avg_unc.%s", p->name) : NULL;
        if (!unc) return GRAFT_ERR_MEMORY;
        GR_TRY(gr_adapter_new_state(a, ipt, &p->shape, &t->ipt[part], err));
        GR_TRY(gr_adapter_new_state(a, unc, &p->shape, &t->unc[part], err));
        GR_TRY(gr_adapter_store(a, p->name, t->part[part], GR_FILE_STATE, err));
    }
    const char *name = gr_adapter_text(a, err, "kept.%s", site->name);
    if (!name) return GRAFT_ERR_MEMORY;
    GR_TRY(gr_adapter_new_state(a, name, &ranks, &t->kept, err));
    gr_adapter_set_all(t->kept, 1);
    return GRAFT_OK;
}

/* peft's update_layer and reset_lora_parameters. `r` is what is left of init_r, which the scale keeps. */
static graft_status add_parts(gr_adapter *a, size_t i, int64_t r, bool fresh, uint64_t seed, graft_error *err) {
    gr_adalora *s = a->state;
    gr_lora_pair *p = &s->lora.pairs[i];
    gr_triplet *t = &s->of[i];
    static const char *const names[] = {"lora_A", "lora_E", "lora_B"};
    const gr_shape shapes[] = {gr_shape2(r, p->site->in), gr_shape2(r, 1), gr_shape2(p->site->out, r)};
    bool random = s->lora.config.init == GR_LORA_RANDOM;
    for (int part = 0; part < GR_TRIPLET_PARTS; part++) {
        GR_TRY(gr_kin_param(a, p->site, names[part], shapes[part], 0, fresh, seed, &t->part[part], err));
        if (fresh && (part != GR_TRIPLET_E || random)) gr_adapter_fill(t->part[part], seed, true, random ? 1 : 0.02);
    }
    double alpha = s->lora.config.alpha > 0 ? s->lora.config.alpha : (double)r;
    p->r = r;
    p->unit = alpha / (double)((float)s->plan.init_r + 1e-5f);
    p->scale = p->unit * a->scale;
    p->b = t->part[GR_TRIPLET_B];
    if (r == 0) {
        s->lora.pair_of_site[p->site->index] = -1; /* nothing is left to compute */
        return GRAFT_OK;
    }
    GR_TRY(gr_adapter_new_param(a, p->site->name, &shapes[GR_TRIPLET_A], true, &p->a, err));
    return p->site->role == GR_ROLE_HEAD ? gr_lora_make_identity(a, p, err) : GRAFT_OK;
}

static graft_status add(gr_adapter *a, size_t i, const gr_site *site, bool fresh, uint64_t seed, graft_error *err) {
    gr_adalora *s = a->state;
    (void)site;
    s->of[i].name = gr_adapter_text(a, err, "%s.lora_E", s->lora.pairs[i].site->name);
    if (!s->of[i].name) return GRAFT_ERR_MEMORY;
    return fresh ? add_parts(a, i, s->plan.init_r, fresh, seed, err) : GRAFT_OK; /* else once all names are known */
}

static graft_status add_saved(gr_adapter *a, const gr_json_value *pattern, graft_error *err) {
    gr_adalora *s = a->state;
    GR_TRY(check_pattern(a, pattern, err));
    for (size_t i = 0; i < s->lora.n_pairs; i++) {
        int64_t r = s->plan.init_r;
        const gr_json_value *v = pattern && pattern->kind == GR_JSON_OBJECT ? gr_json_get(pattern, s->of[i].name) : NULL;
        if (v) GR_TRY(read_ranks(a, v, &s->of[i], &r, err));
        s->any_given |= v != NULL;
        GR_TRY(add_parts(a, i, r, false, 0, err));
    }
    return GRAFT_OK;
}

static void sort(gr_adalora *s) {
    for (size_t i = 0; i < s->lora.n_pairs; i++) {
        size_t at = i;
        for (; at > 0 && strcmp(s->of[s->order[at - 1]].name, s->of[i].name) > 0; at--) s->order[at] = s->order[at - 1];
        s->order[at] = i;
    }
}

static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    gr_adalora *s = a->state;
    const gr_site **sites;
    const gr_shape one = gr_shape1(1);
    size_t n;
    GR_TRY(read_config(a, config, fresh, err));
    GR_TRY(gr_lora_find_targets(a, &s->lora.config, fresh, &sites, &n, err));
    s->of = gr_arena_alloc(&a->arena, n * sizeof *s->of);
    s->order = gr_arena_alloc(&a->arena, n * sizeof *s->order);
    s->norms = gr_arena_alloc(&a->arena, 2 * n * sizeof *s->norms);
    if (!s->of || !s->order || !s->norms) return gr_fail_memory(err);
    GR_TRY(gr_kin_create(a, sites, n, fresh, seed, add, err));
    if (!fresh) GR_TRY(add_saved(a, gr_json_get(config, "rank_pattern"), err));
    sort(s);
    if (!a->trainable) return GRAFT_OK;
    for (size_t i = 0; i < n; i++) GR_TRY(add_state(a, s->lora.pairs[i].site, &s->of[i], err));
    return gr_adapter_new_state(a, "allocations", &one, &s->allocations, err);
}

/* --- Orthogonality ------------------------------------------------------------------------------------------------------ */

typedef struct orthogonal_job {
    gr_adalora *s;
    double times; /* of the gradient; 0: the norms are wanted */
} orthogonal_job;

/* Row i of A A^T - I, or of B^T B - I. */
static void covariances(const gr_param *p, bool columns, int64_t i, double *row) {
    int64_t r = p->shape.d[columns ? 1 : 0], n = p->shape.d[columns ? 0 : 1];
    for (int64_t j = 0; j < r; j++) row[j] = i == j ? -1 : 0;
    for (int64_t o = 0; columns && o < n; o++)
        for (int64_t j = 0; j < r; j++) row[j] += gr_param_at(p, o * r + i) * gr_param_at(p, o * r + j);
    for (int64_t j = 0; !columns && j < r; j++)
        for (int64_t c = 0; c < n; c++) row[j] += gr_param_at(p, i * n + c) * gr_param_at(p, j * n + c);
}

/* d ||C|| / dA = 2 C A / ||C||. */
static void add_gradient(const gr_param *p, bool columns, int64_t i, const double *row, double times) {
    int64_t r = p->shape.d[columns ? 1 : 0], n = p->shape.d[columns ? 0 : 1];
    for (int64_t c = 0; c < n; c++) {
        double sum = 0;
        for (int64_t j = 0; j < r; j++) sum += row[j] * gr_param_at(p, columns ? c * r + j : j * n + c);
        gr_param_add_grad(p, columns ? c * r + i : i * n + c, times * sum);
    }
}

static void orthogonal(void *arg, size_t begin, size_t end, int thread) {
    const orthogonal_job *j = arg;
    (void)thread;
    for (size_t x = begin; x < end; x++) {
        bool columns = x % 2;
        const gr_param *p = j->s->of[x / 2].part[columns ? GR_TRIPLET_B : GR_TRIPLET_A];
        int64_t r = p->shape.d[columns ? 1 : 0];
        double row[MAX_RANK], sum = 0, norm = j->s->norms[x];
        for (int64_t i = 0; i < r && (j->times == 0 || norm > 0); i++) {
            covariances(p, columns, i, row);
            if (j->times != 0)
                add_gradient(p, columns, i, row, 2 * j->times / norm);
            else
                for (int64_t k = 0; k < r; k++) sum += row[k] * row[k];
        }
        if (j->times == 0) j->s->norms[x] = sqrt(sum);
    }
}

static double penalty(gr_adapter *a) {
    gr_adalora *s = a->state;
    orthogonal_job job = {.s = s};
    double sum = 0;
    if (!(s->plan.orth_reg_weight > 0)) return 0;
    gr_parallel_for(gr_model_device(a->model)->team, 2 * s->lora.n_pairs, 1, orthogonal, &job);
    for (size_t i = 0; i < 2 * s->lora.n_pairs; i++) sum += s->norms[i];
    return s->plan.orth_reg_weight * sum / (double)(2 * s->lora.n_pairs);
}

/* --- Around the passes of a step ------------------------------------------------------------------------------------------ */

static graft_status refresh(gr_adapter *a, uint64_t key, bool training, graft_error *err) {
    const gr_adalora *s = a->state;
    (void)key, (void)err;
    for (size_t i = 0; i < s->lora.n_pairs; i++) {
        const gr_lora_pair *p = &s->lora.pairs[i];
        const gr_triplet *t = &s->of[i];
        if (!p->a) continue;
        for (int64_t k = 0; k < p->r; k++)
            for (int64_t c = 0; c < p->site->in; c++)
                gr_param_put(p->a, k * p->site->in + c,
                             gr_param_at(t->part[GR_TRIPLET_E], k) * gr_param_at(t->part[GR_TRIPLET_A], k * p->site->in + c));
        if (training) memset(p->a->grad, 0, gr_dtype_bytes(p->a->dtype, (size_t)p->a->n));
    }
    return GRAFT_OK;
}

static graft_status collect(gr_adapter *a, graft_error *err) {
    gr_adalora *s = a->state;
    orthogonal_job job = {.s = s, .times = s->plan.orth_reg_weight / (double)(2 * s->lora.n_pairs)};
    (void)err;
    for (size_t i = 0; i < s->lora.n_pairs; i++) {
        const gr_lora_pair *p = &s->lora.pairs[i];
        const gr_triplet *t = &s->of[i];
        for (int64_t k = 0; p->a && k < p->r; k++) {
            double e = gr_param_at(t->part[GR_TRIPLET_E], k), sum = 0;
            for (int64_t c = 0; c < p->site->in; c++) {
                double d = gr_param_grad_at(p->a, k * p->site->in + c);
                sum += d * gr_param_at(t->part[GR_TRIPLET_A], k * p->site->in + c);
                gr_param_add_grad(t->part[GR_TRIPLET_A], k * p->site->in + c, d * e);
            }
            gr_param_add_grad(t->part[GR_TRIPLET_E], k, sum);
        }
    }
    if (penalty(a) > 0) gr_parallel_for(gr_model_device(a->model)->team, 2 * s->lora.n_pairs, 1, orthogonal, &job);
    return GRAFT_OK;
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const gr_adalora *s = a->state;
    gr_lora_write_config(&s->lora.config, b);
}

static void facts(const gr_adapter *a, gr_buf *b) {
    const gr_adalora *s = a->state;
    int64_t ranks = 0;
    for (size_t i = 0; i < s->lora.n_pairs; i++) ranks += s->lora.pairs[i].r;
    gr_buf_add_format(b, "\"init_r\": %lld, \"target_r\": %lld, \"ranks\": %lld, \"modules\": %zu, ", (long long)s->plan.init_r,
                      (long long)s->plan.target_r, (long long)ranks, s->lora.n_pairs);
}

const gr_adapter_method gr_adapter_adalora = {.name = "adalora", .peft_type = "ADALORA", .state_size = sizeof(gr_adalora),
                                              .create = create, .free = gr_lora_free, .write_config = write_config,
                                              .merge = gr_lora_merge, .unties = gr_lora_unties, .facts = facts,
                                              .linear = gr_lora_linear,
                                              .freeze = gr_lora_freeze, .update = gr_lora_update,
                                              .head = gr_lora_head, .refresh = refresh,
                                              .collect = collect, .rescale = gr_lora_rescale, .stored_view = stored_view,
                                              .begin_run = gr_adalora_begin_run, .penalty = penalty,
                                              .stepped = gr_adalora_stepped};
