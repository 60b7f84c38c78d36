/* Checks of a ragged batch. Callers build batches from records and requests: whatever is wrong must be named here, for
 * nothing below looks again. */
#include "nn/batch.h"

static graft_status check_ids(const gr_batch *b, int64_t vocab, graft_error *err) {
    for (int64_t i = 0; i < b->n_tokens; i++) {
        if (b->ids[i] >= vocab)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "token %lld: id %d is outside the vocabulary of %lld", (long long)i,
                           b->ids[i], (long long)vocab);
        if (b->labels && b->labels[i] >= vocab)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "token %lld: label %d is outside the vocabulary of %lld",
                           (long long)i, b->labels[i], (long long)vocab);
        if (b->positions && b->positions[i] < 0)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "token %lld: position %d is negative", (long long)i, b->positions[i]);
    }
    return GRAFT_OK;
}

static bool is_whole(const gr_batch *b, int s) { return b->kv && b->kv[s] && b->kv[s]->whole; }

/* Sequences that others continue, or that nobody sees, are read from the batch. */
static graft_status check_whole(const gr_batch *b, int s, graft_error *err) {
    const int parent = b->parent ? b->parent[s] : -1;
    if ((parent < 0 || !is_whole(b, parent)) && !(is_whole(b, s) && (parent >= 0 || (b->blind && b->blind[s])))) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d is blind or continues another, but keys and values are read as they are kept",
                   s);
}

static graft_status check_history(const gr_batch *b, int s, int n_layers, graft_error *err) {
    const gr_kv *kv = b->kv[s];
    if (kv->n_layers != n_layers)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d: its history has %d layers, the model %d", s, kv->n_layers,
                       n_layers);
    for (int l = 0; l < n_layers; l++) {
        const gr_kv_layer *layer = &kv->layers[l];
        int64_t room = 0;
        for (int i = 0; i < layer->n_targets; i++) room += layer->targets[i].n;
        int64_t rows = 0;
        for (int i = 0; i < layer->n_segments; i++) rows += layer->segments[i].n;
        if (kv->whole && (!layer->n_targets || rows < b->bounds[s + 1] - b->bounds[s]))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d: layer %d holds %lld rows, expected those of its %d tokens too", s, l,
                           (long long)rows, b->bounds[s + 1] - b->bounds[s]);
        if (layer->n_targets && room < b->bounds[s + 1] - b->bounds[s])
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d: layer %d has room for %lld rows, needs %d", s, l,
                           (long long)room, b->bounds[s + 1] - b->bounds[s]);
    }
    return GRAFT_OK;
}

graft_status gr_batch_check(const gr_batch *b, int64_t vocab, int n_layers, int n_adapters, graft_error *err) {
    if (b->n_tokens <= 0 || b->n_seqs <= 0 || b->n_tokens > INT32_MAX || !b->bounds ||
        (!b->ids && vocab >= 0))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "a batch of %lld tokens in %d sequences", (long long)b->n_tokens, b->n_seqs);
    if (b->bounds[0] != 0 || b->bounds[b->n_seqs] != b->n_tokens)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "the sequences' bounds %d .. %d do not cover %lld tokens", b->bounds[0],
                       b->bounds[b->n_seqs], (long long)b->n_tokens);
    for (int s = 0; s < b->n_seqs; s++) {
        if (b->bounds[s + 1] < b->bounds[s])
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d ends before it begins", s);
        if (b->parent && (b->parent[s] < -1 || b->parent[s] >= s))
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d continues sequence %d, which is not an earlier one", s,
                           b->parent[s]);
        GR_TRY(check_whole(b, s, err));
        int32_t adapter = gr_batch_adapter(b, s);
        if (adapter < -1 || adapter >= n_adapters)
            return gr_fail(err, GRAFT_ERR_ARGUMENT, "sequence %d: adapter %d of %d", s, adapter, n_adapters);
        if (b->kv && b->kv[s]) GR_TRY(check_history(b, s, n_layers, err));
    }
    return vocab >= 0 ? check_ids(b, vocab, err) : GRAFT_OK;
}
