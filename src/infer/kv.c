/* Keys and values in blocks of GR_KV_ROWS rows over all layers, counted references. A sequence grows without copying,
 * and sequences that begin alike hold the same blocks (the paged cache of Kwon et al. 2023, without its page tables:
 * attention takes runs of rows as they lie). */
#include "infer/infer.h"

struct gr_kv_block {
    gr_kv_block *next; /* in the free list */
    int users;
    _Alignas(64) char rows[]; /* [layer][k, v][head][GR_KV_ROWS], so that a head reads a stretch of memory */
};

struct gr_kv_store {
    const graft_allocator *a;
    gr_kv_format format;
    int n_layers;
    int64_t n_heads, ld, head; /* the latter of rows and heads, as of gr_kv_segment */
    size_t row_bytes, block_bytes, n_blocks; /* row_bytes: of one head */
    gr_kv_block *unused;
};

graft_status gr_kv_store_new(const gr_model *m, gr_kv_format format, gr_kv_store **out, graft_error *err) {
    const graft_allocator *a = gr_allocator(gr_model_context(m));
    gr_kv_store *s = gr_calloc(a, 1, sizeof *s);
    if (!s) return gr_fail_memory(err);
    const gr_model_config *c = gr_model_get_config(m);
    s->a = a;
    s->format = format;
    s->n_layers = gr_model_kv_layers(m);
    s->n_heads = c->n_kv_heads;
    s->ld = gr_kv_head_size(format, c->head_dim);
    s->head = s->ld * GR_KV_ROWS;
    s->row_bytes = gr_kv_row_bytes(gr_model_dtype(m), format, 1, c->head_dim);
    s->block_bytes = (size_t)(s->n_layers * 2 * s->n_heads * GR_KV_ROWS) * s->row_bytes;
    *out = s;
    return GRAFT_OK;
}

void gr_kv_store_free(gr_kv_store *s) {
    if (!s) return;
    while (s->unused) {
        gr_kv_block *b = s->unused;
        s->unused = b->next;
        gr_free_aligned(s->a, b);
    }
    gr_free(s->a, s);
}

gr_kv_format gr_kv_store_format(const gr_kv_store *s) { return s->format; }
size_t gr_kv_store_bytes(const gr_kv_store *s) { return s->n_blocks * (s->block_bytes + sizeof(gr_kv_block)); }

static graft_status take_block(gr_kv_store *s, gr_kv_block **out, graft_error *err) {
    gr_kv_block *b = s->unused;
    if (b) {
        s->unused = b->next;
    } else {
        b = gr_alloc_aligned(s->a, sizeof *b + s->block_bytes);
        if (!b) return gr_fail_memory(err);
        s->n_blocks++;
    }
    b->users = 1;
    b->next = NULL;
    *out = b;
    return GRAFT_OK;
}

static void drop_block(gr_kv_store *s, gr_kv_block *b) {
    if (--b->users > 0) return;
    b->next = s->unused;
    s->unused = b;
}

/* Of the first head. */
static char *row_at(const gr_kv_store *s, gr_kv_block *b, int layer, int which, int64_t row) {
    return b->rows + (size_t)((layer * 2 + which) * s->n_heads * GR_KV_ROWS + row) * s->row_bytes;
}

void gr_kv_seq_init(gr_kv_seq *q, gr_kv_store *s) { *q = (gr_kv_seq){.store = s}; }

void gr_kv_seq_truncate(gr_kv_seq *q, int64_t length) {
    if (length >= q->length) return;
    size_t keep = ((size_t)length + GR_KV_ROWS - 1) / GR_KV_ROWS;
    while (q->n_blocks > keep) drop_block(q->store, q->blocks[--q->n_blocks]);
    q->length = length;
}

void gr_kv_seq_free(gr_kv_seq *q) {
    if (!q->store) return;
    const graft_allocator *a = q->store->a;
    while (q->n_blocks) drop_block(q->store, q->blocks[--q->n_blocks]);
    gr_free(a, q->blocks);
    gr_free(a, q->layers);
    gr_free(a, q->segments);
    gr_free(a, q->targets);
    gr_kv_seq_init(q, q->store);
}

static graft_status push_block(gr_kv_seq *q, gr_kv_block *b, graft_error *err) {
    graft_status st =
        gr_grow(q->store->a, (void **)&q->blocks, &q->cap_blocks, q->n_blocks + 1, sizeof *q->blocks, err);
    if (st == GRAFT_OK) q->blocks[q->n_blocks++] = b;
    return st;
}

/* A block of its own for rows [0, n) of `from`'s block. */
static graft_status copy_block(gr_kv_seq *q, gr_kv_block *from, int64_t n, gr_kv_block **out, graft_error *err) {
    gr_kv_store *s = q->store;
    gr_kv_block *b;
    GR_TRY(take_block(s, &b, err));
    const size_t head = GR_KV_ROWS * s->row_bytes;
    for (size_t i = 0; i < (size_t)(s->n_layers * 2 * s->n_heads); i++)
        memcpy(b->rows + i * head, from->rows + i * head, (size_t)n * s->row_bytes);
    *out = b;
    return GRAFT_OK;
}

graft_status gr_kv_seq_fork(gr_kv_seq *to, const gr_kv_seq *from, int64_t length, graft_error *err) {
    size_t n = ((size_t)length + GR_KV_ROWS - 1) / GR_KV_ROWS;
    for (size_t i = 0; i < n; i++) {
        graft_status st = push_block(to, from->blocks[i], err);
        if (st != GRAFT_OK) {
            gr_kv_seq_free(to);
            return st;
        }
        from->blocks[i]->users++;
    }
    to->length = length;
    return GRAFT_OK;
}

/* Rows may only be written in blocks that no other sequence has. */
static graft_status own_last_block(gr_kv_seq *q, graft_error *err) {
    if (q->length % GR_KV_ROWS == 0 || q->blocks[q->n_blocks - 1]->users == 1) return GRAFT_OK;
    gr_kv_block *b;
    GR_TRY(copy_block(q, q->blocks[q->n_blocks - 1], q->length % GR_KV_ROWS, &b, err));
    drop_block(q->store, q->blocks[q->n_blocks - 1]);
    q->blocks[q->n_blocks - 1] = b;
    return GRAFT_OK;
}

static graft_status room_for_view(gr_kv_seq *q, size_t n_segments, size_t n_targets, graft_error *err) {
    gr_kv_store *s = q->store;
    size_t layers = (size_t)s->n_layers;
    if (!q->layers && !(q->layers = gr_calloc(s->a, layers, sizeof *q->layers))) return gr_fail_memory(err);
    GR_TRY(gr_grow(s->a, (void **)&q->segments, &q->cap_segments, n_segments * layers, sizeof *q->segments, err));
    return gr_grow(s->a, (void **)&q->targets, &q->cap_targets, n_targets * layers, sizeof *q->targets, err);
}

graft_status gr_kv_seq_extend(gr_kv_seq *q, int64_t n, graft_error *err) {
    gr_kv_store *s = q->store;
    GR_TRY(own_last_block(q, err));
    while ((int64_t)q->n_blocks * GR_KV_ROWS < q->length + n) {
        gr_kv_block *b;
        GR_TRY(take_block(s, &b, err));
        graft_status st = push_block(q, b, err);
        if (st != GRAFT_OK) {
            drop_block(s, b);
            return st;
        }
    }
    const bool whole = s->format != GR_KV_COMPUTED;
    const int64_t seen = whole ? q->length + n : q->length;
    size_t n_segments = ((size_t)seen + GR_KV_ROWS - 1) / GR_KV_ROWS, first = (size_t)q->length / GR_KV_ROWS;
    size_t n_targets = q->n_blocks - first;
    GR_TRY(room_for_view(q, n_segments, n_targets, err));
    for (int layer = 0; layer < s->n_layers; layer++) {
        gr_kv_segment *segments = n_segments ? q->segments + (size_t)layer * n_segments : NULL;
        gr_kv_target *targets = q->targets + (size_t)layer * n_targets;
        for (size_t i = 0; i < n_segments; i++) {
            int64_t pos = (int64_t)i * GR_KV_ROWS;
            segments[i] = (gr_kv_segment){.format = s->format,
                                          .k = row_at(s, q->blocks[i], layer, 0, 0),
                                          .v = row_at(s, q->blocks[i], layer, 1, 0),
                                          .k_ld = s->ld,
                                          .v_ld = s->ld,
                                          .head = s->head,
                                          .n = GR_MIN(seen - pos, (int64_t)GR_KV_ROWS),
                                          .pos = pos};
        }
        for (size_t i = 0; i < n_targets; i++) {
            int64_t row = i == 0 ? q->length % GR_KV_ROWS : 0;
            targets[i] = (gr_kv_target){.k = row_at(s, q->blocks[first + i], layer, 0, row),
                                        .v = row_at(s, q->blocks[first + i], layer, 1, row),
                                        .k_ld = s->ld,
                                        .v_ld = s->ld,
                                        .n = GR_KV_ROWS - row,
                                        .format = s->format,
                                        .head = s->head};
        }
        q->layers[layer] = (gr_kv_layer){.n_segments = (int)n_segments,
                                         .n_targets = (int)n_targets,
                                         .segments = segments,
                                         .targets = targets};
    }
    q->kv = (gr_kv){.n_layers = s->n_layers, .layers = q->layers, .whole = whole};
    return GRAFT_OK;
}
