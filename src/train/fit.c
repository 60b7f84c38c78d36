/* Memory before the first step. What a run holds is known but for the step arena, whose peak a dry tape gives for each
 * of the heaviest batches of the data order. The cut into micro-batches and recomputation change no bit of the result,
 * so they are free to be chosen: first fewer tokens at a time down to where products become slow, then recomputation,
 * then single records. */
#include <math.h>

#include "tensor/scales.h"
#include "train/trainer.h"

enum {
    CANDIDATES = 6,       /* heaviest steps that are planned exactly */
    MICRO_TOKENS = 512,   /* 1,024 at a time would be 2 % faster and take half as much memory again */
    LEAST_TOKENS = 256,   /* fewer make them slow */
    SCAN_TOKENS = 1 << 27, /* of the data order */
    CODE_BYTES = 3 << 20   /* code and small objects that a run touches later than here */
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

/* Everything but the step arena. */
static size_t fixed_bytes(const gr_trainer *t, graft_train_plan *p) {
    const gr_weights *w = gr_model_weights(t->model);
    const gr_variant *v = gr_adapter_variant(t->set, t->adapter);
    p->program = t->resident_start + CODE_BYTES;
    p->tokenizer = t->resident_tokenizer;
    p->data = t->resident_data;
    p->model_mapped = 0;
    for (size_t i = 0; i < gr_weights_count(w); i++) p->model_mapped += gr_view_all_bytes(&gr_weights_at(w, i)->view);
    /* What was quantised while loading lies in memory of its own. */
    p->model_mapped -= GR_MIN(p->model_mapped, gr_weights_owned_bytes(w));
    p->model_packed = gr_model_planned_bytes(t->model, v, gr_lowest_layer(t)) + gr_weights_owned_bytes(w);
    p->gradients = (size_t)t->n_trainable * sizeof(float);
    p->parameters = gr_adapter_bytes(t->set, t->adapter) - p->gradients;
    p->gradients += gr_adapter_shared_bytes(t->set, t->adapter);
    p->optimizer = gr_optimizer_bytes(t->rule, &t->optimizer_options, t->params, t->n_params);
    p->optimizer_paged = t->optimizer_options.paged ? p->optimizer : 0;
    if (t->optimizer_options.paged) p->optimizer = GR_MIN(p->optimizer, (size_t)GR_OPTIMIZER_WINDOW);
    p->trunk = 0;
    if (t->trunk) {
        size_t row = gr_dtype_bytes(gr_model_dtype(t->model), (size_t)gr_model_get_config(t->model)->hidden_size);
        size_t all = gr_trunk_cost(row, t->stats.tokens + t->eval_stats.tokens) +
                     (t->stats.examples + t->eval_stats.examples) * gr_trunk_cost(row, 0);
        p->trunk = GR_MIN((size_t)t->o->cache_trunk, all);
    }
    return p->program + p->tokenizer + p->data + p->trunk + p->model_mapped + p->model_packed + p->gradients + p->parameters +
           p->optimizer;
}

static graft_status try_cut(gr_trainer *t, size_t seqs, size_t tokens, gr_recompute recompute, graft_train_plan *p,
                            graft_error *err) {
    size_t eval = 0, unused;
    gr_engine_set_limits(t->engine, seqs, tokens, recompute);
    GR_TRY(arena_peak(t, t->loader, t->state.max_steps, true, &t->pool_bytes, &t->micro_tokens, err));
    if (t->eval_loader) {
        int64_t batches = (int64_t)gr_loader_batches(t->eval_loader);
        GR_TRY(arena_peak(t, t->eval_loader, batches, false, &eval, &unused, err));
    }
    t->pool_bytes = GR_MAX(t->pool_bytes, eval);
    t->recompute = recompute;
    p->step = t->pool_bytes;
    p->micro_tokens = (int64_t)t->micro_tokens;
    p->gradient_checkpointing = recompute == GR_RECOMPUTE_LAYERS;
    p->peak = fixed_bytes(t, p) + p->step;
    return GRAFT_OK;
}

static graft_status choose(gr_trainer *t, size_t limit, graft_train_plan *p, graft_error *err) {
    const graft_sft_options *o = t->o;
    size_t rows = (size_t)o->per_device_train_batch_size, longest = t->stats.longest;
    size_t row = o->packing && o->max_length > 0 ? (size_t)o->max_length : longest;
    size_t most = GR_MIN(rows * row, (size_t)MICRO_TOKENS), seqs = o->packing ? 0 : rows;
    /* Level by level: GRAFT_NO has the first alone, GRAFT_YES the last, GRAFT_AUTO the last two. */
    int first = o->gradient_checkpointing == GRAFT_NO    ? GR_RECOMPUTE_NOTHING
                : o->gradient_checkpointing == GRAFT_YES ? GR_RECOMPUTE_LAYERS
                                                         : GR_RECOMPUTE_CHEAP;
    int final = o->gradient_checkpointing == GRAFT_NO ? GR_RECOMPUTE_NOTHING : GR_RECOMPUTE_LAYERS;
    for (int level = first; level <= final; level++)
        for (size_t tokens = GR_MAX(most, (size_t)1);; tokens /= 2) {
            if (tokens < LEAST_TOKENS && tokens < most && level < final) break;
            GR_TRY(try_cut(t, seqs, tokens, (gr_recompute)level, p, err));
            if (p->peak <= limit) return GRAFT_OK;
            if (tokens <= 1 || tokens < longest) break;
        }
    return gr_fail(err, GRAFT_ERR_LIMIT,
                   "memory: expected at most %.1f MiB, found %.1f MiB even with one record of %zu tokens at a time%s: "
                   "shorter records (max_length), a smaller rank or method lora would need less",
                   (double)limit / 1048576, (double)p->peak / 1048576, longest,
                   t->recompute == GR_RECOMPUTE_LAYERS ? " and recomputation" : "");
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
    size_t limit = (size_t)t->o->memory;
    /* The machine's memory is no hard limit: what is free now may change, and the kernel drops mapped pages first. */
    size_t available = gr_available_bytes();
    if (limit == 0 && available) limit = (size_t)((double)(available + t->resident_start) * 0.9);
    graft_status st = choose(t, limit ? limit : SIZE_MAX, &p, err);
    if (st == GRAFT_ERR_LIMIT && t->o->memory == 0) st = GRAFT_OK;
    GR_TRY(st);
    *plan = p;
    return GRAFT_OK;
}
