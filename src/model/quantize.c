#include "model/quantize.h"

#include <math.h>
#include <stdatomic.h>

#include "model/family.h"
#include "quant/scaled.h"

graft_status gr_quantize_options(int load_in_4bit, int load_in_8bit, const char *quant_type, int double_quant,
                                 int block, gr_quantize_spec *out, graft_error *err) {
    if (load_in_4bit && load_in_8bit)
        return gr_fail(err, GRAFT_ERR_ARGUMENT,
                       "load_in_4bit and load_in_8bit: expected at most one of them, found both");
    if (!load_in_4bit && (quant_type || double_quant || block))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "%s: expected load_in_4bit too, found it without",
                       quant_type     ? "bnb_4bit_quant_type"
                       : double_quant ? "bnb_4bit_use_double_quant"
                                      : "bnb_4bit_blocksize");
    if (block && !gr_is_4bit_block(block))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "bnb_4bit_blocksize: expected a power of two from 32 to 4096, found %d",
                       block);
    if (quant_type && strcmp(quant_type, "nf4") && strcmp(quant_type, "fp4"))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "bnb_4bit_quant_type: expected nf4 or fp4, found %s", quant_type);
    const gr_dtype four = quant_type && strcmp(quant_type, "fp4") == 0 ? GR_FP4 : GR_NF4;
    *out = (gr_quantize_spec){.dtype = load_in_4bit ? four
                                     : load_in_8bit ? GR_INT8
                                                    : GR_F32,
                              .block = block,
                              .nested = double_quant != 0};
    return GRAFT_OK;
}

graft_status gr_activation_options(const char *activations, double threshold, gr_activation_spec *out, graft_error *err) {
    const bool integer = activations && strcmp(activations, "int8") == 0;
    if (activations && !integer && strcmp(activations, "float"))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "activations: expected float or int8, found %s", activations);
    if (!isfinite(threshold))
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "llm_int8_threshold: expected a number, found %g", threshold);
    if (threshold != 0 && !integer)
        return gr_fail(err, GRAFT_ERR_ARGUMENT, "llm_int8_threshold: expected activations int8 too, found it without");
    *out = (gr_activation_spec){.integer = integer, .decoded = activations && !integer, .threshold = threshold};
    return GRAFT_OK;
}

enum { ITEM_ELEMENTS = 1 << 16 };

typedef struct job {
    const gr_weight *w;
    bool transposed;
    const gr_quantize_spec *spec;
    int64_t rows, columns, block;
    int64_t step; /* rows of an item: whole blocks, whole bytes */
    float *scratch;
    uint8_t *codes;
    float *absmax;
    _Atomic int64_t bad; /* the first rows with something that cannot be encoded, -1: none */
} job;

static bool is_finite(const float *x, int64_t n) {
    float sum = 0; /* NaN and infinity stay */
    for (int64_t i = 0; i < n; i++) sum += x[i] * 0.0f;
    return sum == 0;
}

static void note_bad(job *j, int64_t row) {
    int64_t seen = atomic_load(&j->bad);
    while ((seen < 0 || row < seen) && !atomic_compare_exchange_weak(&j->bad, &seen, row)) continue;
}

static void encode_rows(job *j, int64_t row, int64_t n, float *x) {
    if (gr_weight_decode_outputs(j->w, j->transposed, row, n, x, NULL) != GRAFT_OK || !is_finite(x, n * j->columns)) {
        note_bad(j, row);
        return;
    }
    const int64_t at = row * j->columns;
    if (gr_is_4bit(j->spec->dtype)) {
        gr_quantize_4bit(j->spec->dtype, x, n * j->columns, j->block, j->codes + at / 2, j->absmax + at / j->block);
        return;
    }
    for (int64_t r = 0; r < n; r++) {
        const float *from = x + r * j->columns;
        int8_t *to = (int8_t *)j->codes + at + r * j->columns;
        j->absmax[row + r] = j->spec->dtype == GR_INT8
                                 ? gr_quantize_int8_row(from, j->columns, to)
                                 : gr_quantize_channel8_row(from, j->columns, j->spec->scale, to);
        if (!isfinite(j->absmax[row + r])) note_bad(j, row + r);
    }
}

static void item(void *arg, size_t begin, size_t end, int thread) {
    job *j = arg;
    float *x = j->scratch + (size_t)thread * (size_t)(j->step * j->columns);
    for (int64_t i = (int64_t)begin; i < (int64_t)end; i++)
        encode_rows(j, i * j->step, GR_MIN(j->step, j->rows - i * j->step), x);
}

/* The fewest rows that are whole blocks, as often as fits an item. */
static int64_t rows_of_item(int64_t columns, int64_t block) {
    int64_t a = block, b = columns;
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    int64_t unit = block / a;
    return unit * GR_MAX(ITEM_ELEMENTS / (unit * columns), (int64_t)1);
}

static graft_status run(gr_device *d, job *j, graft_error *err) {
    const graft_allocator *a = gr_allocator(d->ctx);
    size_t items = (size_t)((j->rows + j->step - 1) / j->step);
    j->scratch = gr_alloc(a, sizeof(float) * (size_t)(j->step * j->columns) * (size_t)d->n_threads);
    if (!j->scratch) return gr_fail_memory(err);
    gr_parallel_for(d->team, items, 1, item, j);
    gr_free(a, j->scratch);
    if (j->bad >= 0)
        return gr_fail(
            err, GRAFT_ERR_NUMERIC,
            "%s: tensor %s: row %lld or one behind it holds a number that is not finite or too large for %s",
            j->w->file, j->w->stored_name, (long long)j->bad, gr_dtype_name(j->spec->dtype));
    return GRAFT_OK;
}

/* Replaces the floats of absmax by their quantised form. `to`: n codes, then the nested floats. */
static void nest(const float *absmax, int64_t n, gr_scales *s, uint8_t *to) {
    float *nested = (float *)(void *)(to + gr_round64((size_t)n));
    gr_quantize_absmax(absmax, n, to, nested, &s->offset);
    s->absmax = NULL;
    s->codes = to;
    s->map = gr_dynamic_map;
    s->nested = nested;
    s->nested_block = GR_NESTED_BLOCK;
}

/* Scales first, then codes, then absmax. */
typedef struct layout {
    int64_t block, n;
    size_t head, codes, floats, total;
} layout;

static layout layout_of(const gr_quantize_spec *spec, int64_t rows, int64_t columns) {
    const bool four = gr_is_4bit(spec->dtype);
    layout l = {.block = four ? (spec->block ? spec->block : 64) : columns, .head = gr_round64(sizeof(gr_scales))};
    l.n = (rows * columns + l.block - 1) / l.block;
    l.codes = gr_round64((size_t)(rows * columns) / (four ? 2 : 1));
    l.floats = gr_round64((size_t)l.n * sizeof(float));
    const size_t nested = gr_round64((size_t)l.n) + gr_round64((size_t)(l.n / GR_NESTED_BLOCK + 1) * sizeof(float));
    l.total = l.head + l.codes + (spec->nested ? nested : l.floats);
    return l;
}

void gr_count_product(gr_products *p, gr_dtype stored, size_t bytes, int64_t rows, int64_t columns) {
    const gr_quantize_spec eight = {.dtype = GR_INT8}, four = {.dtype = GR_NF4, .nested = true};
    p->others |= stored != GR_F32 && stored != GR_F16 && stored != GR_BF16;
    p->odd |= columns % 2;
    p->stored += bytes;
    p->in_int8 += gr_quantized_bytes(&eight, rows, columns);
    p->in_nf4 += gr_quantized_bytes(&four, rows, columns);
}

size_t gr_products_saved_by(const gr_products *p, gr_dtype format) {
    const size_t made = format == GR_INT8 ? p->in_int8 : p->in_nf4;
    return p->others || (p->odd && format != GR_INT8) || made >= p->stored ? 0 : p->stored - made;
}

size_t gr_quantized_bytes(const gr_quantize_spec *spec, int64_t rows, int64_t columns) {
    return layout_of(spec, rows, columns).total;
}

graft_status gr_quantize_weight(gr_device *d, const gr_weight *w, bool transposed, const gr_quantize_spec *spec,
                                gr_tensor_view *view, void **memory, size_t *bytes, graft_error *err) {
    const graft_allocator *a = gr_allocator(d->ctx);
    const bool four = gr_is_4bit(spec->dtype);
    const bool across = transposed && !w->turned; /* rows along the output are columns of what is stored */
    const gr_shape shape = across ? gr_shape2(w->view.shape.d[1], w->view.shape.d[0]) : w->view.shape;
    job j = {.w = w, .transposed = transposed, .spec = spec, .rows = shape.d[0], .columns = shape.d[1], .bad = -1};
    if (w->view.shape.n != 2 || j.rows < 1 || j.columns < 1 || (w->turned && !transposed) || (four && j.columns % 2))
        return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor %s: expected a matrix%s, to be held as %s", w->file,
                       w->stored_name, four ? " with an even number of inputs" : "", gr_dtype_name(spec->dtype));
    const layout l = layout_of(spec, j.rows, j.columns);
    j.block = l.block;
    j.step = rows_of_item(j.columns, j.block);
    char *at = gr_alloc_aligned(a, l.total);
    float *apart = spec->nested ? gr_alloc_aligned(a, l.floats) : NULL;
    graft_status st = at && (apart || !spec->nested) ? GRAFT_OK : gr_fail_memory(err);
    if (st == GRAFT_OK) {
        gr_scales *s = (gr_scales *)(void *)at;
        j.codes = (uint8_t *)at + l.head;
        j.absmax = apart ? apart : (float *)(void *)(at + l.head + l.codes);
        *s = (gr_scales){.block = j.block, .absmax = j.absmax, .input = spec->input};
        st = run(d, &j, err);
        if (st == GRAFT_OK && apart) nest(apart, l.n, s, (uint8_t *)at + l.head + l.codes);
        if (st == GRAFT_OK) {
            *view = (gr_tensor_view){spec->dtype, shape, j.codes,
                                     gr_dtype_bytes(spec->dtype, (size_t)(j.rows * j.columns)), s};
            *memory = at;
            *bytes = l.total;
        }
    }
    gr_free_aligned(a, apart);
    if (st != GRAFT_OK) gr_free_aligned(a, at);
    return st;
}
