/* Weights that bitsandbytes 0.50 serialised; those of compressed-tensors: weights_compressed.c. Beside the codes of NAME.weight stand
 *   4 bits: NAME.weight.absmax, .quant_map, .quant_state.bitsandbytes__nf4 (or fp4; JSON in bytes), and with double
 *           quantisation .nested_absmax, .nested_quant_map;
 *   8 bits: NAME.SCB, NAME.weight_format.
 * They are joined to one weight with scales; every size is checked against the shape. */
#include <stdio.h>

#include "io/config_fields.h"
#include "io/weights_parts.h"
#include "tensor/scales.h"

enum { STATE_LIMIT = 1 << 16 };

gr_weight *gr_joiner_find(const gr_joiner *j, const char *name) {
    size_t low = 0, high = j->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int order = strcmp(j->items[mid].name, name);
        if (order == 0) return &j->items[mid];
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

/* The tensor STEM + TAIL of a type and a number of elements, which is then no weight of its own. */
static graft_status take(gr_joiner *j, const char *file, const char *stem, const char *tail, gr_dtype dtype, int64_t n,
                         const void **data, graft_error *err) {
    char name[600];
    int64_t found;
    snprintf(name, sizeof name, "%s%s", stem, tail);
    gr_weight *w = gr_joiner_find(j, name);
    if (!w) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: tensor %s is missing", file, name);
    char shape[GR_SHAPE_TEXT];
    if (w->view.dtype != dtype || !gr_shape_elements(&w->view.shape, &found) || found != n)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: tensor %s: expected %lld elements of %s, found %s of shape %s",
                       w->file, name, (long long)n, gr_dtype_name(dtype), gr_dtype_name(w->view.dtype),
                       gr_shape_format(&w->view.shape, shape, sizeof shape));
    j->taken[w - j->items] = true;
    *data = w->view.data;
    return GRAFT_OK;
}

/* --- 4 bits ------------------------------------------------------------------------------------------------------- */

typedef struct state {
    gr_dtype dtype;
    gr_shape shape;
    int64_t block, nested_block;
    double offset;
    bool has_offset;
} state;

static void read_shape(gr_fields *f, state *s) {
    const gr_json_value *list = gr_field(f, "shape");
    bool good = list && list->kind == GR_JSON_ARRAY && list->len == 2;
    s->shape = gr_shape2(0, 0);
    int i = 0;
    for (const gr_json_value *d = good ? list->child : NULL; d; d = d->next, i++) {
        good = good && d->kind == GR_JSON_NUMBER && d->number.is_int && d->number.i >= 1 && d->number.i <= INT32_MAX;
        if (good) s->shape.d[i] = d->number.i;
    }
    if (!good)
        gr_field_fail(f, GRAFT_ERR_FORMAT, "shape", "expected a list of two sizes from 1 to 2147483647");
    else if (s->shape.d[1] % 2)
        gr_field_fail(f, GRAFT_ERR_UNSUPPORTED, "shape", "expected rows of an even number of elements, found %lld",
                      (long long)s->shape.d[1]);
}

static graft_status read_state(const graft_allocator *a, const gr_weight *w, gr_dtype dtype, state *s,
                               graft_error *err) {
    gr_arena arena;
    gr_fields f = {.file = w->file, .where = w->name, .err = err};
    if (w->view.dtype != GR_U8 || w->view.shape.n != 1 || w->view.bytes > STATE_LIMIT)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensor %s: expected at most %d bytes of JSON", w->file, w->name,
                       STATE_LIMIT);
    gr_arena_init(&arena, a, 1 << 20);
    graft_status st = gr_json_parse(&arena, w->name, w->view.data, w->view.bytes, &f.object, err);
    if (st == GRAFT_OK && f.object->kind != GR_JSON_OBJECT)
        st = gr_fail(err, GRAFT_ERR_FORMAT, "%s: tensor %s: expected a JSON object, found %s", w->file, w->name,
                     gr_json_kind_name(f.object->kind));
    if (st == GRAFT_OK) {
        const char *type = gr_field_text(&f, "quant_type"), *want = dtype == GR_NF4 ? "nf4" : "fp4";
        *s = (state){.dtype = dtype, .block = gr_field_int(&f, "blocksize", 0, 1, 4096)};
        s->nested_block = gr_field_int(&f, "nested_blocksize", 0, 1, INT32_MAX);
        s->has_offset = gr_field(&f, "nested_offset") != NULL;
        s->offset = gr_field_double(&f, "nested_offset", 0, -3.4e38, 3.4e38);
        read_shape(&f, s);
        if (f.st == GRAFT_OK && (!type || strcmp(type, want)))
            gr_field_fail(&f, GRAFT_ERR_MISMATCH, "quant_type", "expected \"%s\" as the tensor's name has it", want);
        if (f.st == GRAFT_OK && !gr_is_4bit_block(s->block))
            gr_field_fail(&f, GRAFT_ERR_FORMAT, "blocksize", "expected a power of two from 32 to 4096, found %lld",
                          (long long)s->block);
        st = f.st;
    }
    gr_arena_free(&arena);
    return st;
}

static graft_status join_absmax(gr_joiner *j, const gr_weight *w, const state *s, gr_scales *scales, graft_error *err) {
    int64_t n = (s->shape.d[0] * s->shape.d[1] + s->block - 1) / s->block;
    char name[600];
    snprintf(name, sizeof name, "%s.absmax", w->name);
    const gr_weight *absmax = gr_joiner_find(j, name);
    scales->block = s->block;
    if (!absmax || absmax->view.dtype != GR_U8)
        return take(j, w->file, w->name, ".absmax", GR_F32, n, &scales->absmax, err);
    const void *codes;
    if (!s->nested_block || !s->has_offset)
        return gr_fail(err, GRAFT_ERR_FORMAT,
                       "%s: tensor %s is quantised, but its quant_state has no nested_blocksize and nested_offset",
                       w->file, name);
    GR_TRY(take(j, w->file, w->name, ".absmax", GR_U8, n, &codes, err));
    GR_TRY(take(j, w->file, w->name, ".nested_absmax", GR_F32, (n + s->nested_block - 1) / s->nested_block,
                &scales->nested, err));
    GR_TRY(take(j, w->file, w->name, ".nested_quant_map", GR_F32, 256, &scales->map, err));
    scales->codes = codes;
    scales->nested_block = s->nested_block;
    scales->offset = (float)s->offset;
    return GRAFT_OK;
}

static graft_status join_4bit(gr_joiner *j, const graft_allocator *a, size_t at, const char *stem, gr_dtype dtype,
                              graft_error *err) {
    gr_weight *w = gr_joiner_find(j, stem);
    const gr_weight *state_item = &j->items[at];
    state s;
    const void *map;
    if (!w) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: tensor %s is missing", state_item->file, stem);
    GR_TRY(read_state(a, state_item, dtype, &s, err));
    size_t bytes = (size_t)(s.shape.d[0] * s.shape.d[1] / 2);
    char shape[GR_SHAPE_TEXT];
    if (w->view.bytes != bytes)
        return gr_fail(err, GRAFT_ERR_MISMATCH,
                       "%s: tensor %s: expected %zu bytes for the shape %s of its quant_state, found %zu", w->file,
                       stem, bytes, gr_shape_format(&s.shape, shape, sizeof shape), w->view.bytes);
    gr_scales *scales = gr_arena_alloc(j->arena, sizeof *scales);
    if (!scales) return gr_fail_memory(err);
    memset(scales, 0, sizeof *scales);
    GR_TRY(join_absmax(j, w, &s, scales, err));
    GR_TRY(take(j, w->file, stem, ".quant_map", GR_F32, 16, &map, err));
    for (int i = 0; i < 16; i++)
        if (gr_scaled_float(map, i) != gr_scaled_values(dtype)[i])
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED,
                           "%s: tensor %s.quant_map: element %d: expected %.9g of %s, found %.9g", w->file, stem, i,
                           (double)gr_scaled_values(dtype)[i], gr_dtype_name(dtype), (double)gr_scaled_float(map, i));
    j->taken[at] = true;
    w->view = (gr_tensor_view){dtype, s.shape, w->view.data, bytes, scales};
    return GRAFT_OK;
}

/* --- 8 bits ------------------------------------------------------------------------------------------------------- */

static graft_status join_8bit(gr_joiner *j, size_t at, const char *module, graft_error *err) {
    char name[600];
    snprintf(name, sizeof name, "%s.weight", module);
    gr_weight *w = gr_joiner_find(j, name);
    const char *file = j->items[at].file;
    if (!w) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: tensor %s is missing", file, name);
    if (w->view.dtype != GR_I8 || w->view.shape.n != 2)
        return gr_fail(err, GRAFT_ERR_MISMATCH, "%s: tensor %s: expected a matrix of I8 beside %s.SCB, found %s",
                       w->file, name, module, gr_dtype_name(w->view.dtype));
    gr_scales *scales = gr_arena_alloc(j->arena, sizeof *scales);
    if (!scales) return gr_fail_memory(err);
    *scales = (gr_scales){.block = GR_MAX(w->view.shape.d[1], (int64_t)1)};
    GR_TRY(take(j, file, module, ".SCB", GR_F32, w->view.shape.d[0], &scales->absmax, err));
    snprintf(name, sizeof name, "%s.weight_format", module);
    if (gr_joiner_find(j, name)) {
        const void *format;
        GR_TRY(take(j, file, module, ".weight_format", GR_U8, 1, &format, err));
        if (*(const uint8_t *)format)
            return gr_fail(err, GRAFT_ERR_UNSUPPORTED, "%s: tensor %s.weight_format: expected 0 (rows), found %d", file,
                           module, *(const uint8_t *)format);
    }
    w->view.dtype = GR_INT8;
    w->view.scales = scales;
    return GRAFT_OK;
}

/* STEM of a name that ends in TAIL. */
static bool stem_of(const char *name, const char *tail, char *out, size_t size) {
    size_t n = strlen(name), k = strlen(tail);
    if (n <= k || n - k >= size || strcmp(name + n - k, tail)) return false;
    memcpy(out, name, n - k);
    out[n - k] = '\0';
    return true;
}

graft_status gr_weights_join_scales(const graft_allocator *a, gr_arena *arena, gr_weight *items, size_t *n,
                                    graft_error *err) {
    gr_joiner j = {.arena = arena, .items = items, .n = *n, .taken = gr_calloc(a, *n + 1, 1)};
    graft_status st = j.taken ? GRAFT_OK : gr_fail_memory(err);
    char stem[512];
    for (size_t i = 0; i < *n && st == GRAFT_OK; i++) {
        if (stem_of(items[i].name, ".quant_state.bitsandbytes__nf4", stem, sizeof stem))
            st = join_4bit(&j, a, i, stem, GR_NF4, err);
        else if (stem_of(items[i].name, ".quant_state.bitsandbytes__fp4", stem, sizeof stem))
            st = join_4bit(&j, a, i, stem, GR_FP4, err);
        else if (stem_of(items[i].name, ".SCB", stem, sizeof stem))
            st = join_8bit(&j, i, stem, err);
        else if (stem_of(items[i].name, ".weight_scale", stem, sizeof stem))
            st = gr_weights_join_channel8(&j, i, stem, err);
    }
    size_t kept = 0;
    for (size_t i = 0; i < *n && st == GRAFT_OK; i++)
        if (!j.taken[i]) items[kept++] = items[i];
    if (st == GRAFT_OK) *n = kept;
    gr_free(a, j.taken);
    return st;
}
