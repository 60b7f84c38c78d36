/* Memory before the first step. What a run holds is known but for the step arena, whose peak a dry tape gives for each
 * of the heaviest batches of the data order. The cut into micro-batches and recomputation change no bit of the result,
 * so they are free to be chosen: first fewer tokens at a time down to where products become slow, then recomputation,
 * then single records. */
#include <math.h>

#include "model/shape.h"
#include "train/trainer.h"

enum {
    CANDIDATES = 6,       /* heaviest steps that are planned exactly */
    MICRO_TOKENS = 512,   /* 1,024 at a time would be 2 % faster and take half as much memory again */
    LEAST_TOKENS = 256,   /* fewer make them slow */
    SCAN_TOKENS = 1 << 27, /* of the data order */
    CODE_BYTES = 5 << 20   /* code, stacks and small objects that a run touches later than here */
};

typedef struct heavy {
    gr_data_cursor cursor;
    size_t weight;
} heavy;

/* The steps whose largest micro-batches have the most tokens. Labels count too: the loss works on them. */
static graft_status find_heavy(const gr_trainer *t, gr_loader *loader, int64_t steps, heavy *out, size_t *n,
                               graft_error *err) {
    gr_data_cursor cursor = {0};
    size_t scanned = 0;
    *n = 0;
    for (int64_t i = 0; i < steps && scanned < SCAN_TOKENS; i++) {
        gr_data_cursor at = cursor;
        gr_data_batch b;
        GR_TRY(gr_loader_next(loader, &cursor, &b, err));
        scanned += gr_data_batch_tokens(&b, 0, b.n_seqs);
        size_t weight = gr_engine_largest_micro(t->engine, &b, NULL) + b.n_labels / GR_MAX(b.n_seqs, (size_t)1);
        size_t k = *n < CANDIDATES ? (*n)++ : CANDIDATES;
        for (; k > 0 && out[k - 1].weight < weight; k--)
            if (k < CANDIDATES) out[k] = out[k - 1];
        if (k < CANDIDATES) out[k] = (heavy){at, weight};
    }
    return GRAFT_OK;
}

static graft_status arena_peak(const gr_trainer *t, gr_loader *loader, int64_t steps, bool backward, size_t *bytes,
                               size_t *micro_tokens, graft_error *err) {
    heavy list[CANDIDATES];
    size_t n;
    *bytes = *micro_tokens = 0;
    GR_TRY(find_heavy(t, loader, steps, list, &n, err));
    for (size_t i = 0; i < n; i++) {
        gr_data_cursor cursor = list[i].cursor;
        gr_data_batch b;
        size_t peak;
        GR_TRY(gr_loader_next(loader, &cursor, &b, err));
        GR_TRY(gr_engine_plan(t->engine, &b, backward, &peak, err));
        *bytes = GR_MAX(*bytes, peak);
        *micro_tokens = GR_MAX(*micro_tokens, gr_engine_largest_micro(t->engine, &b, NULL));
    }
    return GRAFT_OK;
}

/* --- Rows of the table of tokens that no record has ---
 *
 * Only what is looked up comes into memory, with the pages that the system maps around it. */

typedef struct window_map {
    const char *data;
    size_t bytes, row_bytes, n;
    size_t around; /* bytes that come with a page */
    bool *seen;
} window_map;

/* Systems differ: 64 KiB to 1 MiB. Measured at a page in the middle, which loading has left out of memory. */
static size_t measure_around(const char *data, size_t bytes) {
    enum { LEAST = 64 << 10, MOST = 2 << 20 };
    const volatile char *page = data + bytes / 2;
    size_t before = gr_resident_bytes(), around = LEAST;
    (void)*page;
    size_t after = gr_resident_bytes();
    while (around < MOST && after > before && around < after - before) around *= 2;
    gr_release_mapped(data, bytes);
    return around;
}

static void mark(window_map *w, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const size_t at = ids[i] < 0 ? w->bytes : (size_t)ids[i] * w->row_bytes;
        if (at >= w->bytes) continue; /* virtual */
        const uintptr_t first = (uintptr_t)w->data / w->around, from = (uintptr_t)w->data + at;
        w->seen[from / w->around - first] = w->seen[(from + w->row_bytes - 1) / w->around - first] = true;
    }
}

static graft_status mark_records(window_map *w, gr_loader *loader, int64_t steps, graft_error *err) {
    gr_data_cursor cursor = {0};
    size_t scanned = 0;
    for (int64_t i = 0; i < steps && scanned < SCAN_TOKENS; i++) {
        gr_data_batch b;
        GR_TRY(gr_loader_next(loader, &cursor, &b, err));
        mark(w, b.ids, (size_t)b.bounds[b.n_seqs]);
        if (b.source_bounds) mark(w, b.source_ids, (size_t)b.source_bounds[b.n_seqs]);
        scanned += gr_data_batch_tokens(&b, 0, b.n_seqs);
    }
    return GRAFT_OK;
}

/* Tensors that have copies, which are trained, are not read after loading. */
static graft_status count_replaced(const gr_trainer *t, const gr_variant *v, size_t *out, graft_error *err) {
    for (size_t i = 0; i < gr_model_n_tensors(t->model); i++) {
        const char *name = gr_model_tensor_name(t->model, i);
        const gr_weight *w;
        GR_TRY(gr_model_get_weight(t->model, name, &w, err));
        if (gr_variant_find(v, name) && !gr_model_is_fresh(t->model, name) && !w->view.scales)
            *out += w->view.bytes;
    }
    return GRAFT_OK;
}

static graft_status count_unread(const gr_trainer *t, size_t *out, graft_error *err) {
    const gr_site *s = gr_model_embedding_site(t->model);
    const gr_variant *v = gr_adapter_variant(t->set, t->adapter);
    const gr_weight *w;
    *out = 0;
    if (v) GR_TRY(count_replaced(t, v, out, err));
    /* A head that has the same table reads all of it. */
    if (gr_model_head_is_tied(t->model) || (v && gr_variant_find(v, s->weight_tensor))) return GRAFT_OK;
    GR_TRY(gr_model_get_weight(t->model, s->weight_tensor, &w, err));
    if (w->view.scales || w->turned || w->view.shape.n != 2) return GRAFT_OK;
    window_map map = {.data = w->view.data, .bytes = w->view.bytes,
                      .row_bytes = w->view.bytes / (size_t)w->view.shape.d[0],
                      .around = measure_around(w->view.data, w->view.bytes)};
    map.n = ((uintptr_t)map.data + map.bytes - 1) / map.around - (uintptr_t)map.data / map.around + 1;
    map.seen = gr_calloc(t->a, map.n, sizeof *map.seen);
    if (!map.seen) return gr_fail_memory(err);
    graft_status st = mark_records(&map, t->loader, t->state.max_steps, err);
    if (st == GRAFT_OK && t->eval_loader)
        st = mark_records(&map, t->eval_loader, (int64_t)gr_loader_batches(t->eval_loader), err);
    for (size_t i = 1; i + 1 < map.n && st == GRAFT_OK; i++) *out += map.seen[i] ? 0 : map.around;
    gr_free(t->a, map.seen);
    return st;
}

/* --- All of it --- */

/* Everything but the step arena. */
static size_t fixed_bytes(const gr_trainer *t, graft_train_plan *p) {
    const gr_variant *v = gr_adapter_variant(t->set, t->adapter);
    p->program = t->resident_start + CODE_BYTES + t->workspace_bytes;
    p->tokenizer = t->resident_tokenizer;
    p->data = t->resident_data;
    p->model_mapped = gr_model_mapped_bytes(t->model);
    p->model_mapped -= GR_MIN(p->model_mapped, t->unread_bytes);
    p->model_streamed = 0;
    p->model_packed = gr_model_planned_bytes(t->model, v, gr_lowest_layer(t)) + gr_model_made_bytes(t->model);
    p->gradients = (size_t)t->n_trainable * sizeof(float);
    p->parameters = gr_adapter_bytes(t->set, t->adapter) - p->gradients;
    p->gradients += gr_adapter_shared_bytes(t->set, t->adapter);
    p->optimizer = gr_optimizer_bytes(t->rule, &t->optimizer_options, t->params, t->n_params);
    p->optimizer_paged = t->optimizer_options.paged ? p->optimizer : 0;
    if (t->optimizer_options.paged) p->optimizer = GR_MIN(p->optimizer, (size_t)GR_OPTIMIZER_WINDOW);
    p->trunk = 0;
    if (t->trunk) {
        const gr_model_config *c = gr_model_get_config(t->model);
        const bool types = c->type_vocab_size > 1 && c->task == GR_TASK_SEQ_CLS;
        size_t row = gr_dtype_bytes(gr_model_dtype(t->model), (size_t)c->hidden_size), n = t->stats.tokens + t->eval_stats.tokens;
        size_t all = gr_trunk_cost(row, n, types ? 2 * n : n) +
                     (t->stats.examples + t->eval_stats.examples) * gr_trunk_cost(row, 0, 0);
        p->trunk = GR_MIN((size_t)t->o->cache_trunk, all);
    }
    return p->program + p->tokenizer + p->data + p->trunk + p->model_mapped + p->model_packed + p->gradients + p->parameters +
           p->optimizer;
}

static graft_status try_cut(gr_trainer *t, size_t seqs, size_t tokens, gr_recompute recompute, graft_train_plan *p,
                            graft_error *err) {
    size_t eval = 0, eval_tokens = 0;
    gr_engine_set_limits(t->engine, seqs, tokens, recompute);
    GR_TRY(arena_peak(t, t->loader, t->state.max_steps, true, &t->pool_bytes, &t->micro_tokens, err));
    if (t->eval_loader) {
        int64_t batches = (int64_t)gr_loader_batches(t->eval_loader);
        GR_TRY(arena_peak(t, t->eval_loader, batches, false, &eval, &eval_tokens, err));
    }
    GR_TRY(gr_model_planned_workspace(t->model, gr_adapter_variant(t->set, t->adapter),
                                      (int64_t)GR_MAX(t->micro_tokens, eval_tokens), &t->workspace_bytes, err));
    t->pool_bytes = GR_MAX(t->pool_bytes, eval);
    t->recompute = recompute;
    p->step = t->pool_bytes;
    p->micro_tokens = (int64_t)t->micro_tokens;
    p->gradient_checkpointing = recompute == GR_RECOMPUTE_LAYERS;
    p->peak = fixed_bytes(t, p) + p->step;
    return GRAFT_OK;
}

/* Whether all but the mapped weights fits the limit, and of them as much as a product needs. */
static bool fits_streamed(gr_trainer *t, size_t limit, graft_train_plan *p) {
    const size_t others = p->peak - p->model_mapped;
    size_t kept, streamed;
    if (t->base || others >= limit) return false;
    if (gr_model_stream(t->model, limit - others, false, &kept, &streamed, NULL) != GRAFT_OK) return false;
    t->mapped_budget = limit - others;
    p->model_mapped = kept;
    p->model_streamed = streamed;
    p->peak = others + kept;
    return true;
}

static graft_status choose(gr_trainer *t, size_t limit, bool stream, graft_train_plan *p, graft_error *err) {
    const graft_sft_options *o = t->o;
    size_t rows = (size_t)o->per_device_train_batch_size, longest = t->stats.longest;
    size_t row = o->packing && o->max_length > 0 ? (size_t)o->max_length : longest;
    size_t most = GR_MIN(rows * row, (size_t)MICRO_TOKENS), seqs = o->packing ? 0 : rows;
    /* Level by level: GRAFT_NO has the first alone, GRAFT_YES the last, GRAFT_AUTO the last two. */
    int first = o->gradient_checkpointing == GRAFT_NO    ? GR_RECOMPUTE_NOTHING
                : o->gradient_checkpointing == GRAFT_YES ? GR_RECOMPUTE_LAYERS
                                                         : GR_RECOMPUTE_CHEAP;
    size_t least = SIZE_MAX; /* that would do */
    int final = o->gradient_checkpointing == GRAFT_NO ? GR_RECOMPUTE_NOTHING : GR_RECOMPUTE_LAYERS;
    for (int level = first; level <= final; level++)
        for (size_t tokens = GR_MAX(most, (size_t)1);; tokens /= 2) {
            if (tokens < LEAST_TOKENS && tokens < most && level < final) break;
            GR_TRY(try_cut(t, seqs, tokens, (gr_recompute)level, p, err));
            if (p->peak <= limit || (stream && fits_streamed(t, limit, p))) return GRAFT_OK;
            const size_t spare = p->model_mapped - GR_MIN(p->model_mapped, gr_model_least_mapped(t->model));
            least = GR_MIN(least, p->peak - (stream ? spare : 0));
            if (tokens <= 1 || tokens < longest) break;
        }
    return gr_fail(err, GRAFT_ERR_LIMIT,
                   "memory: expected at most %.1f MiB, found %.1f MiB even with one record of %zu tokens at a time%s: "
                   "shorter records (max_length), a smaller rank or method lora would need less",
                   (double)limit / 1048576, (double)least / 1048576, longest,
                   t->recompute == GR_RECOMPUTE_LAYERS ? " and recomputation" : "");
}

static void tell_choice(const gr_trainer *t, const graft_train_plan *p) {
    char weights[160] = "";
    if (t->o == &t->chosen)
        snprintf(weights, sizeof weights, "; weights of products are held in %s, as load_in_%dbit%s would", p->quantization,
                 t->o->load_in_8bit ? 8 : 4, t->o->bnb_4bit_use_double_quant ? " with double quantisation" : "");
    if (p->model_streamed)
        snprintf(weights, sizeof weights,
                 "; %.1f MiB of weights find no room and are read from the files for each product (held in fewer "
                 "bits they might)",
                 (double)p->model_streamed / 1048576);
    gr_log(t->ctx, GRAFT_LOG_INFO, "memory: %.1f of %.1f MiB with at most %lld tokens at a time%s%s",
           (double)p->peak / 1048576, (double)t->o->memory / 1048576, (long long)p->micro_tokens,
           p->gradient_checkpointing ? " and layers that are computed again" : "", weights);
}

graft_status gr_trainer_would_fit(gr_trainer *t, size_t saved, bool *fits, graft_error *err) {
    graft_train_plan p = {0};
    graft_error unsaid;
    graft_status st = choose(t, (size_t)t->o->memory + saved, false, &p, &unsaid);
    *fits = st == GRAFT_OK;
    if (st == GRAFT_OK || st == GRAFT_ERR_LIMIT) return GRAFT_OK;
    if (err) *err = unsaid;
    return st;
}

graft_status gr_trainer_fit(gr_trainer *t, graft_train_plan *plan, graft_error *err) {
    graft_train_plan p = {.n_parameters = gr_model_n_params(t->model),
                          .n_trainable = t->n_trainable,
                          .n_records = (int64_t)t->stats.examples,
                          .n_tokens = (int64_t)t->stats.tokens,
                          .n_label_tokens = (int64_t)t->stats.labels,
                          .longest_record = (int64_t)t->stats.longest,
                          .steps_per_epoch = t->steps_per_epoch,
                          .total_steps = t->state.max_steps,
                          .tokens_per_second = NAN,
                          .seconds = NAN};
    snprintf(p.dtype, sizeof p.dtype, "%s", gr_model_dtype(t->model) == GR_BF16 ? "bf16" : "f32");
    const char *quantization = gr_trainer_quantization(t->o);
    snprintf(p.quantization, sizeof p.quantization, "%s", quantization ? quantization : "");
    GR_TRY(count_unread(t, &t->unread_bytes, err));
    size_t limit = (size_t)t->o->memory;
    /* The machine's memory is no hard limit: what is free now may change, and the kernel drops mapped pages first. */
    size_t available = gr_available_bytes();
    if (limit == 0 && available) limit = (size_t)((double)(available + t->resident_start) * 0.9);
    graft_status st = choose(t, limit ? limit : SIZE_MAX, false, &p, err);
    /* Reading weights again costs more time than any of the choices above. */
    if (st == GRAFT_ERR_LIMIT && t->o->memory && !t->keeps_weights) st = choose(t, limit, true, &p, err);
    if (st == GRAFT_ERR_LIMIT && t->o->memory == 0) st = GRAFT_OK;
    GR_TRY(st);
    if (t->o->memory && !t->plans) tell_choice(t, &p);
    *plan = p;
    return GRAFT_OK;
}
