/* Models as GGUF files (graft/convert.h): metadata from the GGUF file or the directory that the model came from,
 * tensors in the order of the model, each encoded some rows at a time. */
#include <math.h>
#include <stdio.h>

#include "adapter/method.h"
#include "graft/convert.h"
#include "io/gguf_export.h"
#include "model/public.h"
#include "quant/scaled.h"

enum { CHUNK_ELEMENTS = 1 << 22 };

typedef struct source {
    const char *name; /* in the GGUF file */
    const gr_weight *w;
    gr_tensor_view view; /* as it is stored; of an HF directory with another order of rows, see `heads` */
    int heads;           /* > 0: rows are written as llama.cpp's converter permutes them */
    gr_dtype type;       /* to be written */
    const void *bytes;   /* of `type`, or NULL: encoded from the view */
} source;

typedef struct saver {
    gr_model *m;
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

static gr_dtype choose_type(const saver *s, const gr_tensor_view *v, bool output) {
    gr_dtype stored = v->dtype;
    if (v->shape.n < 2) return gr_can_dequantize(stored) ? GR_F32 : stored;
    gr_dtype type = s->type;
    if (type == GR_DTYPE_COUNT)
        type = gr_dtype_get(stored)->gguf >= 0 ? stored : GR_F32;
    else if (output && bits(type) < bits(GR_Q6_K))
        type = GR_Q6_K;
    const int64_t row = gr_tensor_row_size(v);
    if (row % gr_dtype_get(type)->block_elements) type = small_blocks(type);
    if (row % gr_dtype_get(type)->block_elements) type = GR_F16;
    return type;
}

/* --- What there is to write --------------------------------------------------------------------------------------- */

static graft_status add(saver *s, const char *name, const gr_weight *w, int heads, bool output, graft_error *err) {
    source x = {.w = w, .view = w->view, .heads = heads};
    char *copy = gr_arena_strndup(&s->arena, name, strlen(name));
    if (!(x.name = copy)) return gr_fail_memory(err);
    x.type = choose_type(s, &x.view, output);
    if (x.type == x.view.dtype && !heads) x.bytes = x.view.data;
    GR_TRY(gr_grow(s->a, (void **)&s->items, &s->cap, s->n + 1, sizeof x, err));
    s->items[s->n++] = x;
    return GRAFT_OK;
}

static graft_status list_gguf(saver *s, graft_error *err) {
    const gr_weights *w = gr_model_weights(s->m);
    bool tied = !gr_tensor_list_find(gr_gguf_tensors(gr_weights_gguf(w)), "output.weight");
    for (size_t i = 0; i < gr_weights_count(w); i++) {
        const gr_weight *x = gr_weights_at(w, i);
        bool output = !strcmp(x->stored_name, tied ? "token_embd.weight" : "output.weight");
        GR_TRY(add(s, x->stored_name, x, 0, output, err));
    }
    return GRAFT_OK;
}

static int heads_of(const gr_model_config *c, const char *hf) {
    if (c->type != GR_MODEL_LLAMA && c->type != GR_MODEL_MISTRAL && c->type != GR_MODEL_SMOLLM3) return 0;
    if (strstr(hf, ".q_proj.")) return c->n_heads;
    return strstr(hf, ".k_proj.") ? c->n_kv_heads : 0;
}

static graft_status list_model(saver *s, graft_error *err) {
    const gr_model_config *c = gr_model_get_config(s->m);
    bool tied = gr_model_head_is_tied(s->m);
    for (size_t i = 0; i < gr_model_n_tensors(s->m); i++) {
        const char *hf = gr_model_tensor_name(s->m, i);
        const gr_weight *w;
        char name[300];
        if (!gr_name_to_gguf(hf, name, sizeof name))
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor %s has no name in GGUF files", gr_model_path(s->m),
                           hf);
        GR_TRY(gr_model_get_weight(s->m, hf, &w, err));
        GR_TRY(add(s, name, w, heads_of(c, hf), !strcmp(name, tied ? "token_embd.weight" : "output.weight"), err));
    }
    return GRAFT_OK;
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

/* The row of the view that is row r of the file: halves of a head become interleaved pairs. */
static int64_t view_row(const source *x, int64_t r) {
    if (!x->heads) return r;
    int64_t dim = x->view.shape.d[0] / x->heads, half = dim / 2, in = r % dim;
    return r - in + (in % 2 ? half + in / 2 : in / 2);
}

static void encode_item(void *arg, size_t begin, size_t end, int thread) {
    (void)thread;
    chunk *c = arg;
    for (size_t i = begin; i < end; i++) {
        int64_t row = view_row(c->x, c->first + (int64_t)i);
        float *x = c->floats + (int64_t)i * c->columns;
        if (gr_view_decode(&c->x->view, row * c->columns, c->columns, x, NULL) != GRAFT_OK ||
            gr_quantize_row(c->x->type, x, (size_t)c->columns, c->bytes + i * c->row_bytes, NULL) != GRAFT_OK)
            c->bad = row;
    }
}

static graft_status write_tensor(saver *s, const source *x, graft_error *err) {
    if (x->bytes) return gr_gguf_write(s->w, x->bytes, x->view.bytes, err);
    const gr_shape *shape = &x->view.shape;
    /* A vector of permuted rows is a matrix of one column. */
    int64_t columns = shape->n > 1 ? gr_tensor_row_size(&x->view) : x->heads ? 1 : shape->d[0];
    int64_t rows = shape->n > 1 ? gr_tensor_rows(&x->view) : x->heads ? shape->d[0] : 1;
    int64_t step = GR_MAX(CHUNK_ELEMENTS / GR_MAX(columns, (int64_t)1), (int64_t)1);
    chunk c = {.x = x, .columns = columns, .row_bytes = gr_dtype_bytes(x->type, (size_t)columns), .bad = -1};
    step = GR_MIN(step, rows);
    c.floats = gr_alloc_aligned(s->a, (size_t)(step * columns) * sizeof *c.floats);
    c.bytes = gr_alloc_aligned(s->a, (size_t)step * c.row_bytes);
    graft_status st = c.floats && c.bytes ? GRAFT_OK : gr_fail_memory(err);
    for (; c.first < rows && st == GRAFT_OK; c.first += step) {
        size_t n = (size_t)GR_MIN(step, rows - c.first);
        st = gr_check_cancel(gr_model_context(s->m), err);
        if (st != GRAFT_OK) break;
        gr_parallel_for(s->dev->team, n, 4, encode_item, &c);
        if (c.bad >= 0)
            st = gr_fail(err, GRAFT_ERR_NUMERIC,
                         "%s: tensor %s: row %lld holds a number that is not finite, which %s cannot hold", x->w->file,
                         x->w->stored_name, (long long)c.bad, gr_dtype_name(x->type));
        else
            st = gr_gguf_write(s->w, c.bytes, n * c.row_bytes, err);
    }
    gr_free_aligned(s->a, c.floats);
    gr_free_aligned(s->a, c.bytes);
    return st;
}

static graft_status save(saver *s, const char *path, graft_error *err) {
    const gr_weights *w = gr_model_weights(s->m);
    GR_TRY(gr_weights_gguf(w) ? list_gguf(s, err) : list_model(s, err));
    if (!gr_weights_gguf(w)) GR_TRY(add_divisors(s, err));
    GR_TRY(gr_gguf_writer_new(s->a, path, &s->w, err));
    GR_TRY(add_metadata(s, err));
    for (size_t i = 0; i < s->n; i++)
        GR_TRY(gr_gguf_declare(s->w, s->items[i].name, s->items[i].type, &s->items[i].view.shape, err));
    GR_TRY(gr_gguf_writer_begin(s->w, err));
    for (size_t i = 0; i < s->n; i++) GR_TRY(write_tensor(s, &s->items[i], err));
    gr_gguf_writer *done = s->w;
    s->w = NULL;
    return gr_gguf_writer_commit(done, err);
}

static graft_status parse_type(const char *type, gr_dtype *out, graft_error *err) {
    *out = GR_DTYPE_COUNT;
    if (!type) return GRAFT_OK;
    if (gr_dtype_by_name(type, out) && gr_quant_get(*out)->from_f32) return GRAFT_OK;
    return gr_fail(
        err, GRAFT_ERR_ARGUMENT,
        "type: expected nf4, fp4, int8 or a GGUF type (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, "
        "Q6_K, F16, BF16, F32), found %s",
        type);
}

graft_status graft_model_save_gguf(graft_model *m, const char *path, const char *type, graft_error *err) {
    saver s = {.m = m->model, .a = gr_allocator(m->ctx), .dev = gr_model_device(m->model)};
    GR_TRY(parse_type(type, &s.type, err));
    if (gr_is_same_file(path, gr_model_path(m->model)))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected another file than that of the model", path);
    if (gr_weights_gguf(gr_model_weights(m->model)) && gr_weights_owned_bytes(gr_model_weights(m->model)))
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "%s: expected a model without load_in_4bit or load_in_8bit, to be written as GGUF", path);
    gr_arena_init(&s.arena, s.a, 0);
    graft_status st = save(&s, path, err);
    gr_gguf_writer_abort(s.w);
    gr_free(s.a, s.items);
    gr_arena_free(&s.arena);
    return st;
}

/* --- The report --------------------------------------------------------------------------------------------------- */

typedef struct cost {
    double error, values; /* sums of squares */
    double most;
    int64_t n;
} cost;

static void compare(cost *c, const float *x, const float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double off = (double)y[i] - x[i];
        c->error += off * off;
        c->values += (double)x[i] * x[i];
        if (off < 0) off = -off;
        if (off > c->most) c->most = off;
    }
    c->n += n;
}

/* `there`: the tensor in its new form, NULL: encoded row by row as `type`. */
static graft_status measure(saver *s, const gr_weight *w, gr_dtype type, const gr_tensor_view *there, cost *out,
                            graft_error *err) {
    const int64_t rows = w->view.shape.d[0], columns = gr_tensor_row_size(&w->view);
    float *x = gr_alloc(s->a, 2 * (size_t)columns * sizeof *x), *y = x ? x + columns : NULL;
    char *bytes = gr_alloc(s->a, (size_t)columns * sizeof *x + 512);
    graft_status st = x && bytes ? GRAFT_OK : gr_fail_memory(err);
    for (int64_t r = 0; r < rows && st == GRAFT_OK; r++) {
        if (r % 256 == 0) st = gr_check_cancel(gr_model_context(s->m), err);
        if (st == GRAFT_OK)
            st = there ? gr_weight_decode(w, r, 1, x, err) : gr_view_decode(&w->view, r * columns, columns, x, err);
        if (st == GRAFT_OK && there) st = gr_view_decode(there, r * columns, columns, y, err);
        if (st == GRAFT_OK && !there) st = gr_quantize_row(type, x, (size_t)columns, bytes, err);
        if (st == GRAFT_OK && !there) st = gr_dequantize_row(type, bytes, (size_t)columns, y, err);
        if (st == GRAFT_OK) compare(out, x, y, columns);
    }
    gr_free(s->a, x);
    gr_free(s->a, bytes);
    return st;
}

static void add_cost(gr_buf *b, const char *name, gr_dtype type, const cost *c) {
    gr_buf_add_text(b, b->data[b->len - 1] == '[' ? "{\"name\": " : ", {\"name\": ");
    gr_json_add_text(b, name, strlen(name));
    gr_buf_add_format(b, ", \"type\": \"%s\", \"rmse\": ", gr_dtype_name(type));
    gr_json_add_double(b, sqrt(c->error / (double)GR_MAX(c->n, (int64_t)1)));
    gr_buf_add_text(b, ", \"max\": ");
    gr_json_add_double(b, c->most);
    gr_buf_add_text(b, ", \"relative\": ");
    gr_json_add_double(b, c->values > 0 ? sqrt(c->error / c->values) : 0);
    gr_buf_add_char(b, '}');
}

static graft_status report_one(saver *s, size_t i, const gr_quantize_spec *spec, gr_buf *b, graft_error *err) {
    const char *name = gr_model_tensor_name(s->m, i);
    const gr_weight *w;
    cost c = {0};
    bool bias;
    const gr_site *site = gr_model_site_of_tensor(s->m, name, &bias);
    GR_TRY(gr_model_get_weight(s->m, name, &w, err));
    if (w->view.shape.n != 2) return GRAFT_OK;
    gr_dtype type = spec->dtype;
    if (type != GR_F32) {
        gr_tensor_view view;
        void *memory;
        size_t bytes;
        if (!site || !gr_model_linear(s->m, site) || site->role == GR_ROLE_EMBED || site->role == GR_ROLE_HEAD)
            return GRAFT_OK;
        GR_TRY(gr_quantize_weight(s->dev, w, spec, &view, &memory, &bytes, err));
        graft_status st = measure(s, w, type, &view, &c, err);
        gr_free_aligned(s->a, memory);
        GR_TRY(st);
    } else {
        bool output =
            site && (site->role == GR_ROLE_HEAD || (site->role == GR_ROLE_EMBED && gr_model_head_is_tied(s->m)));
        type = choose_type(s, &w->view, output);
        GR_TRY(measure(s, w, type, NULL, &c, err));
    }
    add_cost(b, name, type, &c);
    return gr_buf_status(b, err);
}

graft_status graft_quantize_report(graft_model *m, const char *type, int double_quant, int blocksize, char **json,
                                   graft_error *err) {
    saver s = {.m = m->model, .a = gr_allocator(m->ctx), .dev = gr_model_device(m->model)};
    gr_quantize_spec spec = {.dtype = GR_F32};
    gr_buf b;
    bool four = type && (!strcmp(type, "nf4") || !strcmp(type, "fp4")), eight = type && !strcmp(type, "int8");
    if (!type) return gr_fail(err, GRAFT_ERR_ARGUMENT, "type: expected a format, found none");
    if (four || eight || double_quant || blocksize)
        GR_TRY(gr_quantize_options(four, eight, four ? type : NULL, double_quant, blocksize, &spec, err));
    if (!four && !eight) GR_TRY(parse_type(type, &s.type, err));
    gr_buf_init(&b, s.a);
    gr_buf_add_text(&b, "{\"tensors\": [");
    graft_status st = gr_buf_status(&b, err);
    for (size_t i = 0; i < gr_model_n_tensors(s.m) && st == GRAFT_OK; i++) st = report_one(&s, i, &spec, &b, err);
    gr_buf_add_text(&b, "]}");
    if (st == GRAFT_OK) st = gr_buf_take(&b, json, NULL, err);
    if (st != GRAFT_OK) gr_buf_free(&b);
    return st;
}
