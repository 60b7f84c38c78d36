/* LoRA (Hu et al. 2021): y += s * dropout(x) A^T B^T with A (r, in), B (out, r) and s = alpha / r, or alpha / sqrt(r) with
 * rank stabilisation (Kalajdzievski 2023). Reference: peft 0.21 tuners/lora.
 *
 * Parts of one fused product are one op, so that x is read once for q, k and v; base weights stay as they are, whatever
 * format they have. B begins at zero: a fresh adapter changes nothing. */
#include <math.h>

#include "adapter/lora.h"

void gr_lora_free(gr_adapter *a) {
    gr_lora *s = a->state;
    gr_lora_thaw(a);
    for (size_t i = 0; s->pairs && i < s->n_pairs; i++) gr_matrix_free(s->pairs[i].w);
    gr_lora_free_config(&s->config);
}

/* peft's reset_lora_parameters: A as nn.Linear begins (Kaiming uniform with a = sqrt(5) is +-1/sqrt(in)), B zero. On an
 * embedding it is A that is zero, and B normal. */
static void initialise(const gr_lora *s, const gr_lora_pair *p, uint64_t seed) {
    bool normal = s->config.init == GR_LORA_GAUSSIAN;
    if (p->site->role == GR_ROLE_EMBED) {
        gr_adapter_fill(p->b, seed, true, 1);
        if (s->config.init == GR_LORA_RANDOM) gr_adapter_fill(p->a, seed, true, 1);
        return;
    }
    gr_adapter_fill(p->a, seed, normal, normal ? 1.0 / (double)p->r : 1 / sqrt((double)p->site->in));
    if (s->config.init == GR_LORA_RANDOM) gr_adapter_fill(p->b, seed, false, 1 / sqrt((double)p->r));
}

graft_status gr_lora_make_identity(gr_adapter *a, gr_lora_pair *p, graft_error *err) {
    size_t r = (size_t)p->r;
    bool wide = p->a->dtype == GR_F64;
    if (!(p->identity = gr_arena_alloc(&a->arena, r * r * (wide ? sizeof(double) : sizeof(float))))) return gr_fail_memory(err);
    for (size_t i = 0; i < r; i++)
        if (wide)
            ((double *)p->identity)[i * r + i] = 1;
        else
            ((float *)p->identity)[i * r + i] = 1;
    return GRAFT_OK;
}

static graft_status add_pair(gr_adapter *a, const gr_site *site, bool fresh, uint64_t seed, graft_error *err) {
    gr_lora *s = a->state;
    gr_lora_pair *p = &s->pairs[s->n_pairs];
    double r, alpha;
    GR_TRY(gr_lora_pattern_value(&s->config.rank, site->name, (double)s->config.r, &r, err));
    GR_TRY(gr_lora_pattern_value(&s->config.alpha_of, site->name, s->config.alpha, &alpha, err));
    bool start = gr_lora_starts_from_weight(&s->config);
    p->site = site;
    if (start) {
        r *= 2;
        alpha *= gr_lora_start_alpha(&s->config);
    }
    p->r = (int64_t)r;
    p->unit = alpha / (s->config.rslora ? sqrt(r) : r);
    p->scale = p->unit * a->scale;
    p->stream = gr_rng_stream(GR_RNG_DROPOUT, gr_hash_bytes(site->name, strlen(site->name), 0));
    bool lookup = site->role == GR_ROLE_EMBED;
    const char *ends[2] = {lookup ? "lora_embedding_A" : "lora_A.weight", lookup ? "lora_embedding_B" : "lora_B.weight"};
    const char *name_a = gr_adapter_text(a, err, "base_model.model.%s.%s", site->name, ends[0]);
    const char *name_b = name_a ? gr_adapter_text(a, err, "base_model.model.%s.%s", site->name, ends[1]) : NULL;
    if (!name_b) return GRAFT_ERR_MEMORY;
    gr_shape shape_a = gr_shape2(p->r, site->in), shape_b = gr_shape2(site->out, p->r);
    GR_TRY(gr_adapter_new_param(a, name_a, &shape_a, true, &p->a, err));
    GR_TRY(gr_adapter_new_param(a, name_b, &shape_b, true, &p->b, err));
    p->a->name = name_a;
    p->b->name = name_b;
    if (start)
        GR_TRY(gr_lora_start_add(a, p, &s->config, fresh, err));
    else {
        GR_TRY(gr_adapter_add(a, name_a, p->a, gr_adapter_depth(a->model, site), err));
        GR_TRY(gr_adapter_add(a, name_b, p->b, gr_adapter_depth(a->model, site), err));
        bool lost = fresh && s->config.init == GR_LORA_LOFTQ && gr_model_was_quantized(a->model, site);
        if (lost) GR_TRY(gr_loftq_fill(a, p, err));
        else if (fresh) initialise(s, p, seed);
    }
    s->pair_of_site[site->index] = (int)s->n_pairs++;
    if (s->config.dora) GR_TRY(gr_dora_add(a, p, s->config.dropout > 0, err));
    return site->role == GR_ROLE_HEAD ? gr_lora_make_identity(a, p, err) : GRAFT_OK;
}

/* A tied head that follows the embedding's copy is stored under both names. */
static graft_status add_tied_copy(gr_adapter *a, graft_error *err) {
    const char *name = gr_adapter_text(a, err, "base_model.model.%s.weight", gr_model_embedding_site(a->model)->name);
    if (!name) return GRAFT_ERR_MEMORY;
    for (size_t i = 0; i < a->n_stored; i++)
        if (strcmp(a->stored[i].name, name) == 0)
            return gr_adapter_add(a, "base_model.model.lm_head.weight", a->stored[i].param, -1, err);
    return GRAFT_OK;
}

graft_status gr_lora_alloc(gr_adapter *a, size_t n, graft_error *err) {
    gr_lora *s = a->state;
    s->pairs = gr_arena_alloc(&a->arena, n * sizeof *s->pairs);
    s->pair_of_site = gr_arena_alloc(&a->arena, gr_model_n_sites(a->model) * sizeof *s->pair_of_site);
    if (!s->pairs || !s->pair_of_site) return gr_fail_memory(err);
    for (size_t i = 0; i < gr_model_n_sites(a->model); i++) s->pair_of_site[i] = -1;
    return GRAFT_OK;
}

graft_status gr_lora_rescale(gr_adapter *a, graft_error *err) {
    gr_lora *s = a->state;
    if (s->config.dora)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: DoRA's directions cannot be scaled by %g", a->where, a->scale);
    for (size_t i = 0; i < s->n_pairs; i++) s->pairs[i].scale = s->pairs[i].unit * a->scale;
    return GRAFT_OK;
}

/* DoRA takes the norms of the base's rows. */
static graft_status check_head(const gr_adapter *a, graft_error *err) {
    const gr_lora *s = a->state;
    for (size_t i = 0; i < s->n_pairs; i++) {
        const gr_site *site = s->pairs[i].site;
        if (site->role != GR_ROLE_HEAD) continue;
        const bool tied = gr_model_head_is_tied(a->model) && !gr_variant_unties(a->variant);
        const char *tensor = tied ? gr_model_embedding_site(a->model)->weight_tensor : site->weight_tensor;
        if (gr_variant_find(a->variant, tensor))
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: use_dora is not supported where LoRA adapts '%s' and modules_to_save has its weight",
                           a->where, site->name);
    }
    return GRAFT_OK;
}

static graft_status create(gr_adapter *a, const gr_json_value *config, bool fresh, uint64_t seed, graft_error *err) {
    gr_lora *s = a->state;
    const gr_site **sites;
    size_t n, n_extra;
    const char **tensors, **stored;
    GR_TRY(gr_lora_read_config(a, config, fresh, NULL, &s->config, err));
    GR_TRY(gr_lora_find_targets(a, &s->config, fresh, &sites, &n, err));
    if (s->config.init == GR_LORA_LOFTQ) GR_TRY(gr_loftq_check(a, &s->config, sites, n, err));
    GR_TRY(gr_lora_alloc(a, n, err));
    for (size_t i = 0; i < n; i++) {
        GR_TRY(add_pair(a, sites[i], fresh, seed, err));
        if (fresh) s->config.fan_in_fan_out |= sites[i]->transposed; /* follows from the model, whatever the file says */
        if (fresh && s->config.dora) GR_TRY(gr_dora_initialise(a, &s->pairs[i], err));
    }
    GR_TRY(gr_lora_find_extra(a, &s->config, sites, n, &tensors, &stored, &n_extra, err));
    if (!n_extra) return GRAFT_OK;
    bool untie = !s->config.ensure_weight_tying;
    GR_TRY(gr_adapter_add_variant(a, tensors, stored, n_extra, untie, err));
    if (s->config.dora) GR_TRY(check_head(a, err));
    return !untie && gr_model_head_is_tied(a->model) ? add_tied_copy(a, err) : GRAFT_OK;
}

static void write_config(const gr_adapter *a, gr_buf *b) {
    const gr_lora *s = a->state;
    gr_lora_write_config(&s->config, b);
}

static graft_status dora_dropped(const gr_lora *s, gr_run *run, const gr_run_adapter *rows, const gr_linear *l, double dropout, gr_var *x,
                                 gr_var **y, graft_error *err) {
    for (int i = 0; i < l->n_parts; i++) {
        int at = s->pair_of_site[l->site[i]->index];
        if (at >= 0) GR_TRY(gr_dora_dropped(run, rows, &s->pairs[at], l->offset[i], dropout, x, y, err));
    }
    return GRAFT_OK;
}

graft_status gr_lora_linear(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_linear *l, gr_var *x,
                           gr_var **y, graft_error *err) {
    const gr_lora *s = a->state;
    gr_var *in[2 + 2 * GR_LORA_PAIRS] = {*y, x};
    gr_lora_params params = {.n_ranges = rows->n_ranges, .ranges = rows->ranges, .seed = run->batch->seed,
                             .key = run->dropout_key, .dropout = run->batch->training ? s->config.dropout : 0};
    bool apart = gr_lora_starts_from_weight(&s->config) && params.dropout > 0; /* only what is trained is dropped out */
    int n_in = 2;
    if (l->site[0]->role == GR_ROLE_HEAD) return GRAFT_OK; /* see head */
    if (l->n_parts > GR_LORA_PAIRS)
        return gr_fail(err, GRAFT_ERR_INTERNAL, "a product of %d parts, LoRA takes %d", l->n_parts, GR_LORA_PAIRS);
    if (s->config.dora && params.dropout > 0) return dora_dropped(s, run, rows, l, params.dropout, x, y, err);
    for (int i = 0; i < l->n_parts; i++) {
        int at = s->pair_of_site[l->site[i]->index];
        if (at < 0 || apart) continue;
        const gr_lora_pair *p = &s->pairs[at];
        params.column[i] = l->offset[i];
        params.scale[i] = p->scale;
        params.stream[i] = p->stream;
        GR_TRY(gr_nn_leaf(run->tape, p->a, &in[2 + 2 * i], err));
        GR_TRY(gr_nn_leaf(run->tape, p->b, &in[3 + 2 * i], err));
        n_in = 4 + 2 * i;
    }
    for (int i = 0; apart && i < l->n_parts; i++) {
        int at = s->pair_of_site[l->site[i]->index];
        if (at >= 0) GR_TRY(gr_lora_start_dropped(run, rows, &s->pairs[at], l->offset[i], params.dropout, x, y, err));
    }
    if (n_in > 2) GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_lora, in, n_in, &params, y, err));
    for (int i = 2; i < n_in; i++) gr_var_drop(in[i]);
    for (int i = 0; s->config.dora && i < l->n_parts; i++) {
        int at = s->pair_of_site[l->site[i]->index];
        if (at >= 0) GR_TRY(gr_dora_scale(run, rows, &s->pairs[at], l->offset[i], y, err));
    }
    return GRAFT_OK;
}

static graft_status refresh(gr_adapter *a, uint64_t key, bool training, graft_error *err) {
    gr_lora *s = a->state;
    (void)key;
    for (size_t i = 0; i < s->n_pairs; i++)
        if (s->pairs[i].own_a) gr_lora_start_refresh(&s->pairs[i], training);
    for (size_t i = 0; s->config.dora && i < s->n_pairs; i++) GR_TRY(gr_dora_refresh(a, &s->pairs[i], training, err));
    return GRAFT_OK;
}

static graft_status collect(gr_adapter *a, graft_error *err) {
    gr_lora *s = a->state;
    (void)err;
    for (size_t i = 0; s->config.dora && i < s->n_pairs; i++) gr_dora_collect(&s->pairs[i]);
    for (size_t i = 0; i < s->n_pairs; i++)
        if (s->pairs[i].own_a) gr_lora_start_collect(&s->pairs[i]);
    return GRAFT_OK;
}

static void loaded(gr_adapter *a) {
    const gr_lora *s = a->state;
    for (size_t i = 0; i < s->n_pairs; i++)
        if (s->pairs[i].own_a) gr_lora_start_loaded(a, &s->pairs[i]);
}

/* y[t] += s B A[:, id[t]]; no dropout, as the reference has none here. */
static graft_status embedding(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_embedding *e, gr_var **y,
                              graft_error *err) {
    const gr_lora *s = a->state;
    int at = s->pair_of_site[e->site->index];
    if (at < 0) return GRAFT_OK;
    const gr_lora_pair *p = &s->pairs[at];
    gr_var *in[3] = {*y, NULL, NULL}, *factor;
    gr_pick_columns_params params = {.dt = gr_model_dtype(a->model), .scale = p->scale, .n = run->n_rows, .ids = run->ids,
                                     .has_pad = e->pad_id >= 0, .pad_id = e->pad_id, .n_ranges = rows->n_ranges,
                                     .ranges = rows->ranges};
    GR_TRY(gr_nn_leaf(run->tape, p->a, &factor, err));
    GR_TRY(gr_tape_apply(run->tape, &gr_op_pick_columns, &factor, 1, &params, &in[1], err));
    gr_var_drop(factor);
    GR_TRY(gr_nn_leaf(run->tape, p->b, &in[2], err));
    GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_low_rank, in, 3, NULL, y, err));
    gr_var_drop(in[1]);
    gr_var_drop(in[2]);
    return s->config.dora ? gr_dora_scale(run, rows, p, 0, y, err) : GRAFT_OK;
}

/* u = s drop(x) A^T on the adapter's rows and zero on others: the LoRA op over zeros with the identity for B. */
graft_status gr_lora_head(gr_adapter *a, gr_run *run, const gr_run_adapter *rows, const gr_linear *l, gr_var *x,
                         gr_head_update *out, int *n, graft_error *err) {
    const gr_lora *s = a->state;
    int at = s->pair_of_site[l->site[0]->index];
    if (at < 0) return GRAFT_OK;
    if (*n == GR_HEAD_UPDATES)
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "more than %d adapters of the head in one batch", GR_HEAD_UPDATES);
    const gr_lora_pair *p = &s->pairs[at];
    gr_shape shape = gr_shape2(run->n_rows, p->r);
    gr_array unit = {p->a->dtype, gr_shape2(p->r, p->r), p->identity};
    gr_var *in[4] = {NULL, x, NULL, NULL};
    gr_lora_params params = {.scale = {p->scale}, .n_ranges = rows->n_ranges, .ranges = rows->ranges,
                             .dropout = run->batch->training ? s->config.dropout : 0, .seed = run->batch->seed,
                             .stream = {p->stream}, .key = run->dropout_key};
    GR_TRY(gr_tape_input(run->tape, gr_model_dtype(a->model), &shape, false, &in[0], err));
    void *zeros = gr_var_array(in[0])->data;
    if (zeros) memset(zeros, 0, gr_dtype_bytes(gr_model_dtype(a->model), (size_t)(run->n_rows * p->r)));
    GR_TRY(gr_nn_leaf(run->tape, p->a, &in[2], err));
    GR_TRY(gr_tape_leaf(run->tape, &unit, NULL, &in[3], err));
    GR_TRY(gr_tape_apply_consume(run->tape, &gr_op_lora, in, 4, &params, &out[*n].u, err));
    gr_var_drop(in[2]);
    gr_var_drop(in[3]);
    GR_TRY(gr_nn_leaf(run->tape, p->b, &out[*n].b, err));
    out[*n].factor = NULL;
    out[*n].rows = (gr_head_rows){.n_ranges = rows->n_ranges, .ranges = rows->ranges, .dropout = params.dropout, .stream = p->stream};
    if (p->factor) GR_TRY(gr_nn_leaf(run->tape, p->factor, &out[*n].factor, err));
    (*n)++;
    return GRAFT_OK;
}

bool gr_lora_unties(const gr_adapter *a) {
    const gr_lora *s = a->state;
    for (size_t i = 0; i < s->n_pairs; i++)
        if (s->pairs[i].site->role == GR_ROLE_HEAD || s->pairs[i].site->role == GR_ROLE_EMBED) return true;
    return false;
}

graft_status gr_lora_merge(const gr_adapter *a, const gr_site *site, int64_t row, int64_t n, float *w, graft_error *err) {
    const gr_lora *s = a->state;
    int at = s->pair_of_site[site->index];
    if (at < 0) return GRAFT_OK;
    const gr_lora_pair *p = &s->pairs[at];
    if (p->a->dtype != GR_F32) return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "merging is done in F32 or BF16 models");
    if (site->role == GR_ROLE_EMBED) { /* the table is (B A)^T: rows are columns of A */
        GR_TRY(gr_gemm(gr_model_device(a->model), true, true, n, site->out, p->r, p->scale, GR_F32, (const float *)p->a->value + row,
                       site->in, p->b->value, p->r, 1, GR_F32, w, site->out, err));
        for (int64_t i = 0; p->factor && i < n * site->out; i++) w[i] *= ((const float *)p->factor->value)[i % site->out];
        return GRAFT_OK;
    }
    GR_TRY(gr_gemm(gr_model_device(a->model), false, false, n, site->in, p->r, p->scale, GR_F32,
                   (const float *)p->b->value + row * p->r, p->r, p->a->value, site->in, 1, GR_F32, w, site->in, err));
    for (int64_t i = 0; p->factor && i < n; i++)
        for (int64_t c = 0; c < site->in; c++) w[i * site->in + c] *= ((const float *)p->factor->value)[row + i];
    return GRAFT_OK;
}

static void facts(const gr_adapter *a, gr_buf *b) {
    const gr_lora *s = a->state;
    gr_buf_add_format(b, "\"r\": %lld, \"lora_alpha\": ", (long long)s->config.r);
    gr_json_add_double(b, s->config.alpha);
    gr_buf_add_format(b, ", \"modules\": %zu, ", s->n_pairs);
}

const gr_adapter_method gr_adapter_lora = {.name = "lora", .peft_type = "LORA", .state_size = sizeof(gr_lora),
                                           .create = create, .free = gr_lora_free, .write_config = write_config,
                                           .merge = gr_lora_merge, .unties = gr_lora_unties, .facts = facts,
                                           .linear = gr_lora_linear,
                                           .freeze = gr_lora_freeze, .update = gr_lora_update,
                                           .rescale = gr_lora_rescale,
                                           .embedding = embedding, .head = gr_lora_head, .refresh = refresh,
                                           .collect = collect, .loaded = loaded};
