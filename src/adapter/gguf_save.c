/* Models as GGUF files (graft/convert.h): metadata from the GGUF file or the directory that the model came from,
 * tensors in the order of the model, each encoded some rows at a time. With an adapter, what it changes is decoded,
 * added to and encoded again; the rest keeps its bytes. */
#include <stdio.h>

#include "adapter/merged.h"
#include "adapter/method.h"
#include "graft/convert.h"
#include "io/gguf_export.h"
#include "model/public.h"
#include "quant/scaled.h"

enum { CHUNK_ELEMENTS = 1 << 22 };

typedef struct source {
    const char *name;   /* in the GGUF file */
    const char *tensor; /* in the model; NULL: none */
    const gr_weight *w;
    gr_tensor_view view;
    gr_shape shape;    /* to be written: the view's, or its transpose */
    int heads;         /* > 0: rows are written as llama.cpp's converter permutes them */
    bool merged;       /* the adapter changes it */
    bool read;         /* rows come from the model, in Hugging Face's order; else from the view as they stand */
    gr_dtype type;     /* to be written */
    const void *bytes; /* of `type`, or NULL: encoded */
} source;

typedef struct saver {
    gr_model *m;
    const gr_adapter *adapter; /* NULL: none */
    gr_merge_report *report;   /* NULL: nobody asks */
    const graft_allocator *a;
    gr_device *dev;
    gr_gguf_writer *w;
    gr_arena arena;
    source *items;
    size_t n, cap;
    gr_dtype type;   /* GR_DTYPE_COUNT: as stored */
    float *divisors; /* rope_freqs.weight of llama3 scaling */
} saver;

/* --- Types -------------------------------------------------------------------------------------------------------- */

/* For rows that are not whole blocks of 256, as llama.cpp chooses. */
static gr_dtype small_blocks(gr_dtype type) {
    switch (type) {
    case GR_Q2_K:
    case GR_Q3_K: return GR_Q4_0;
    case GR_Q4_K: return GR_Q5_0;
    case GR_Q5_K: return GR_Q5_1;
    case GR_Q6_K: return GR_Q8_0;
    default: return type;
    }
}

static double bits(gr_dtype type) {
    const gr_dtype_info *d = gr_dtype_get(type);
    return 8.0 * d->block_bytes / d->block_elements;
}

gr_dtype gr_gguf_matrix_type(gr_dtype type, const gr_tensor_view *v, int64_t row, bool output) {
    gr_dtype stored = v->dtype;
    if (v->shape.n < 2) return gr_can_dequantize(stored) ? GR_F32 : stored;
    if (type == GR_DTYPE_COUNT)
        type = gr_dtype_get(stored)->gguf >= 0 ? stored : GR_F32;
    else if (output && bits(type) < bits(GR_Q6_K))
        type = GR_Q6_K;
    if (row % gr_dtype_get(type)->block_elements) type = small_blocks(type);
    if (row % gr_dtype_get(type)->block_elements) type = GR_F16;
    return type;
}

/* --- What there is to write --------------------------------------------------------------------------------------- */

/* Tables of positions and token types are few rows, read a row a token: nothing is gained by fewer bits. */
static bool is_small_table(const char *gguf) {
    return !strcmp(gguf, "position_embd.weight") || !strcmp(gguf, "token_types.weight");
}

/* `tensor`: the model's name for it, NULL: it has none. */
static graft_status add(saver *s, const char *name, const char *tensor, const gr_weight *w, int heads, bool output,
                        graft_error *err) {
    source x = {.w = w, .tensor = tensor, .view = w->view, .shape = w->view.shape, .heads = heads};
    const bool turned = tensor && !w->turned && gr_turned_site(s->m, tensor);
    if (!(x.name = gr_arena_strndup(&s->arena, name, strlen(name)))) return gr_fail_memory(err);
    if (turned) x.shape = gr_shape2(x.shape.d[1], x.shape.d[0]);
    if (tensor) GR_TRY(gr_merge_changes(s->m, s->adapter, tensor, &x.merged, err));
    x.read = turned || x.merged;
    if (x.read && w->permuted_heads) x.heads = w->permuted_heads;
    const gr_dtype type = is_small_table(name) ? GR_DTYPE_COUNT : s->type;
    x.type = gr_gguf_matrix_type(type, &x.view, x.shape.n ? x.shape.d[x.shape.n - 1] : 1, output);
    if (x.type == x.view.dtype && !x.heads && !x.read) x.bytes = x.view.data;
    if (s->report && !x.merged) s->report->kept++;
    GR_TRY(gr_grow(s->a, (void **)&s->items, &s->cap, s->n + 1, sizeof x, err));
    s->items[s->n++] = x;
    return GRAFT_OK;
}

/* A head of its own, which the adapter has made of a tied one. */
static graft_status add_untied(saver *s, graft_error *err) {
    const gr_site *head = gr_model_head_site(s->m);
    const gr_weight *w;
    GR_TRY(gr_model_get_weight(s->m, head->weight_tensor, &w, err));
    return add(s, "output.weight", head->weight_tensor, w, 0, true, err);
}

static graft_status list_gguf(saver *s, bool unties, graft_error *err) {
    const gr_weights *w = gr_model_weights(s->m);
    bool tied = !gr_tensor_list_find(gr_gguf_tensors(gr_weights_gguf(w)), "output.weight"), bias;
    for (size_t i = 0; i < gr_weights_count(w); i++) {
        const gr_weight *x = gr_weights_at(w, i);
        bool output = !strcmp(x->stored_name, tied && !unties ? "token_embd.weight" : "output.weight");
        const char *tensor = gr_model_site_of_tensor(s->m, x->name, &bias) ? x->name : NULL;
        GR_TRY(add(s, x->stored_name, tensor, x, 0, output, err));
    }
    return unties ? add_untied(s, err) : GRAFT_OK;
}

static int heads_of(const gr_model_config *c, const char *hf) {
    if (c->type != GR_MODEL_LLAMA && c->type != GR_MODEL_MISTRAL && c->type != GR_MODEL_SMOLLM3) return 0;
    if (strstr(hf, ".q_proj.")) return c->n_heads;
    return strstr(hf, ".k_proj.") ? c->n_kv_heads : 0;
}

static graft_status list_model(saver *s, bool unties, graft_error *err) {
    const gr_model_config *c = gr_model_get_config(s->m);
    bool tied = gr_model_head_is_tied(s->m) && !unties;
    for (size_t i = 0; i < gr_model_n_tensors(s->m); i++) {
        const char *hf = gr_model_tensor_name(s->m, i);
        const gr_weight *w;
        char name[300];
        if (!gr_name_to_gguf(hf, name, sizeof name))
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor %s has no name in GGUF files", gr_model_path(s->m),
                           hf);
        GR_TRY(gr_model_get_weight(s->m, hf, &w, err));
        GR_TRY(add(s, name, hf, w, heads_of(c, hf), !strcmp(name, tied ? "token_embd.weight" : "output.weight"), err));
    }
    return unties ? add_untied(s, err) : GRAFT_OK;
}

/* llama.cpp reads llama3's scaling as divisors of the frequencies. */
static graft_status add_divisors(saver *s, graft_error *err) {
    const gr_model_config *c = gr_model_get_config(s->m);
    const int n = c->head_dim / 2;
    if (c->rope.type != GR_ROPE_LLAMA3) return GRAFT_OK;
    double *exact = gr_arena_alloc(&s->arena, (size_t)n * sizeof *exact);
    s->divisors = gr_arena_alloc(&s->arena, (size_t)n * sizeof *s->divisors);
    if (!exact || !s->divisors) return gr_fail_memory(err);
    gr_llama3_divisors(&c->rope, c->head_dim, exact);
    for (int i = 0; i < n; i++) s->divisors[i] = (float)exact[i];
    source x = {.name = "rope_freqs.weight", .type = GR_F32, .bytes = s->divisors};
    x.view = (gr_tensor_view){GR_F32, gr_shape1(n), s->divisors, (size_t)n * sizeof(float), NULL};
    x.shape = x.view.shape;
    GR_TRY(gr_grow(s->a, (void **)&s->items, &s->cap, s->n + 1, sizeof x, err));
    s->items[s->n++] = x;
    return GRAFT_OK;
}

/* --- Metadata ----------------------------------------------------------------------------------------------------- */

static uint32_t file_type(gr_dtype type) {
    static const struct {
        gr_dtype type;
        uint32_t number;
    } known[] = {{GR_F32, 0},   {GR_F16, 1},   {GR_Q4_0, 2},  {GR_Q4_1, 3},  {GR_Q8_0, 7},  {GR_Q5_0, 8}, {GR_Q5_1, 9},
                 {GR_Q2_K, 10}, {GR_Q3_K, 11}, {GR_Q4_K, 14}, {GR_Q5_K, 16}, {GR_Q6_K, 18}, {GR_BF16, 32}};
    for (size_t i = 0; i < GR_COUNT(known); i++)
        if (known[i].type == type) return known[i].number;
    return 1024; /* guessed from the tensors */
}

static graft_status copy_pairs(saver *s, const gr_gguf *g, graft_error *err) {
    for (size_t i = 0; i < gr_gguf_n_pairs(g); i++) {
        const gr_gguf_pair *p = gr_gguf_pair_at(g, i);
        bool ours = !strcmp(p->key, "general.file_type") || !strcmp(p->key, "general.quantization_version");
        if ((ours && s->type != GR_DTYPE_COUNT) || !strncmp(p->key, "split.", 6) ||
            !strcmp(p->key, "general.alignment"))
            continue;
        GR_TRY(gr_gguf_add_pair(s->w, p, err));
    }
    return GRAFT_OK;
}

static graft_status add_metadata(saver *s, graft_error *err) {
    const gr_gguf *g = gr_weights_gguf(gr_model_weights(s->m));
    const gr_model_config *c = gr_model_get_config(s->m);
    if (g) {
        GR_TRY(copy_pairs(s, g, err));
    } else {
        const char *path = gr_model_path(s->m);
        size_t end = strlen(path), begin;
        while (end > 1 && path[end - 1] == '/') end--;
        for (begin = end; begin > 0 && path[begin - 1] != '/';) begin--;
        char *name = gr_arena_strndup(&s->arena, path + begin, end - begin);
        if (!name) return gr_fail_memory(err);
        GR_TRY(gr_gguf_add_config(s->w, c, name, err));
        GR_TRY(gr_gguf_add_tokenizer(s->w, gr_model_context(s->m), path, c, err));
    }
    if (s->type == GR_DTYPE_COUNT) return GRAFT_OK;
    GR_TRY(gr_gguf_add_u32(s->w, "general.file_type", file_type(s->type), err));
    return gr_gguf_add_u32(s->w, "general.quantization_version", 2, err);
}

/* --- Data --------------------------------------------------------------------------------------------------------- */

typedef struct chunk {
    const source *x;
    int64_t first, columns;
    float *floats;
    char *bytes;
    size_t row_bytes;
    _Atomic int64_t bad;
} chunk;

/* The row in Hugging Face's order that is row r of the file: halves of a head become interleaved pairs. */
static int64_t hf_row(const source *x, int64_t r) {
    if (!x->heads) return r;
    int64_t dim = x->shape.d[0] / x->heads, half = dim / 2, in = r % dim;
    return r - in + (in % 2 ? half + in / 2 : in / 2);
}

static void encode_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    chunk *c = arg;
    for (size_t i = begin; i < end; i++) {
        int64_t row = hf_row(c->x, c->first + (int64_t)i);
        float *x = c->floats + (int64_t)i * c->columns;
        graft_status st = GRAFT_OK;
        if (!c->x->read) st = gr_view_decode(&c->x->view, row * c->columns, c->columns, x, NULL);
        if (st != GRAFT_OK ||
            gr_quantize_row(c->x->type, x, (size_t)c->columns, c->bytes + i * c->row_bytes, NULL) != GRAFT_OK)
            c->bad = row;
    }
}

/* n rows of the file from row `first`, with the adapter `a` or bare. */
static graft_status read_rows(const saver *s, const gr_adapter *a, const chunk *c, int64_t n, float *out,
                              graft_error *err) {
    const source *x = c->x;
    if (x->shape.n == 1 && !x->heads) return gr_merged_rows(s->m, a, x->tensor, 0, x->shape.d[0], out, err);
    if (!x->heads) return gr_merged_outputs(s->m, a, x->tensor, c->first, n, out, err);
    for (int64_t i = 0; i < n; i++)
        GR_TRY(gr_merged_outputs(s->m, a, x->tensor, hf_row(x, c->first + i), 1, out + i * c->columns, err));
    return GRAFT_OK;
}

/* What encoding made of the rows of a merged tensor. */
static graft_status weigh(const saver *s, const chunk *c, int64_t n, gr_cost *cost, graft_error *err) {
    float *base = gr_alloc(s->a, 2 * (size_t)(n * c->columns) * sizeof *base);
    if (!base) return gr_fail_memory(err);
    float *written = base + n * c->columns;
    graft_status st = read_rows(s, NULL, c, n, base, err);
    for (int64_t i = 0; i < n && st == GRAFT_OK; i++)
        st = gr_dequantize_row(c->x->type, c->bytes + (size_t)i * c->row_bytes, (size_t)c->columns,
                               written + i * c->columns, err);
    if (st == GRAFT_OK) gr_cost_add(cost, c->floats, written, base, n * c->columns);
    gr_free(s->a, base);
    return st;
}

static graft_status encode_chunk(saver *s, chunk *c, int64_t n, gr_cost *cost, graft_error *err) {
    const source *x = c->x;
    GR_TRY(gr_check_cancel(gr_model_context(s->m), err));
    if (x->read) GR_TRY(read_rows(s, s->adapter, c, n, c->floats, err));
    gr_parallel_for(s->dev->team, (size_t)n, 4, encode_item, c);
    if (c->bad >= 0)
        return gr_fail(err, GRAFT_ERR_NUMERIC,
                       "%s: tensor %s: row %lld holds a number that is not finite, which %s cannot hold", x->w->file,
                       x->w->stored_name, (long long)c->bad, gr_dtype_name(x->type));
    if (x->merged && s->report) GR_TRY(weigh(s, c, n, cost, err));
    return gr_gguf_write(s->w, c->bytes, (size_t)n * c->row_bytes, err);
}

static graft_status write_tensor(saver *s, const source *x, graft_error *err) {
    if (x->bytes) return gr_gguf_write(s->w, x->bytes, x->view.bytes, err);
    const gr_shape *shape = &x->shape;
    /* A vector of permuted rows is a matrix of one column. */
    int64_t columns = shape->n > 1 ? shape->d[shape->n - 1] : x->heads ? 1 : shape->d[0];
    int64_t rows = shape->n > 1 ? gr_tensor_rows(&(gr_tensor_view){.shape = *shape}) : x->heads ? shape->d[0] : 1;
    int64_t step = GR_MAX(CHUNK_ELEMENTS / GR_MAX(columns, (int64_t)1), (int64_t)1);
    chunk c = {.x = x, .columns = columns, .row_bytes = gr_dtype_bytes(x->type, (size_t)columns), .bad = -1};
    gr_cost cost = {0};
    step = GR_MIN(step, rows);
    c.floats = gr_alloc_aligned(s->a, (size_t)(step * columns) * sizeof *c.floats);
    c.bytes = gr_alloc_aligned(s->a, (size_t)step * c.row_bytes);
    graft_status st = c.floats && c.bytes ? GRAFT_OK : gr_fail_memory(err);
    for (; c.first < rows && st == GRAFT_OK; c.first += step)
        st = encode_chunk(s, &c, GR_MIN(step, rows - c.first), &cost, err);
    gr_free_aligned(s->a, c.floats);
    gr_free_aligned(s->a, c.bytes);
    if (st == GRAFT_OK && x->merged && s->report) gr_merge_note(s->report, x->tensor, x->type, &cost);
    return st;
}

static graft_status save(saver *s, const char *path, graft_error *err) {
    const bool gguf = gr_weights_gguf(gr_model_weights(s->m)) != NULL;
    const bool unties = gr_adapter_unties(s->m, s->adapter);
    GR_TRY(gguf ? list_gguf(s, unties, err) : list_model(s, unties, err));
    if (!gguf) GR_TRY(add_divisors(s, err));
    GR_TRY(gr_gguf_writer_new(s->a, path, &s->w, err));
    GR_TRY(add_metadata(s, err));
    for (size_t i = 0; i < s->n; i++)
        GR_TRY(gr_gguf_declare(s->w, s->items[i].name, s->items[i].type, &s->items[i].shape, err));
    GR_TRY(gr_gguf_writer_begin(s->w, err));
    for (size_t i = 0; i < s->n; i++) GR_TRY(write_tensor(s, &s->items[i], err));
    gr_gguf_writer *done = s->w;
    s->w = NULL;
    return gr_gguf_writer_commit(done, err);
}

graft_status gr_gguf_type_of(const char *type, gr_dtype *out, graft_error *err) {
    *out = GR_DTYPE_COUNT;
    if (!type) return GRAFT_OK;
    if (gr_dtype_by_name(type, out) && gr_quant_get(*out)->from_f32) return GRAFT_OK;
    return gr_fail(err, GRAFT_ERR_ARGUMENT,
                   "type: expected one that a GGUF file can be written in (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, "
                   "Q5_K, Q6_K, F16, BF16, F32), found %s",
                   type);
}

graft_status gr_write_gguf(gr_model *m, const gr_adapter *a, const char *path, gr_dtype type, gr_merge_report *report,
                           graft_error *err) {
    saver s = {.m = m, .adapter = a, .report = report, .a = gr_allocator(gr_model_context(m)),
               .dev = gr_model_device(m), .type = type};
    if (gr_is_same_file(path, gr_model_path(m)))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected another file than that of the model", path);
    if (gr_weights_gguf(gr_model_weights(m)) && gr_weights_owned_bytes(gr_model_weights(m)))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "%s: expected a model without load_in_4bit or load_in_8bit, to be written as GGUF", path);
    gr_arena_init(&s.arena, s.a, 0);
    graft_status st = save(&s, path, err);
    gr_gguf_writer_abort(s.w);
    gr_free(s.a, s.items);
    gr_arena_free(&s.arena);
    return st;
}

graft_status graft_model_save_gguf(graft_model *m, const char *path, const char *type, graft_error *err) {
    gr_dtype dtype;
    GR_TRY(gr_gguf_type_of(type, &dtype, err));
    return gr_write_gguf(m->model, NULL, path, dtype, NULL, err);
}
