/* The driver of integer products (integer.h): rows of activations are coded first, then sixteen outputs at a
 * time are unpacked, a strip of K after the other, and multiplied with all rows. */
#include <math.h>

#include "kernel/cpu/product.h"

enum {
    ROWS = 256,      /* rows at once: unpacking costs as much as four of them */
    FEW_ROWS = 16,   /* up to here the weights come from memory as fast as they are used */
    FEW_STRIP = 128, /* elements that are unpacked at once then: fetching goes on beside */
    LINE = 64
};

typedef struct job {
    const gr_int_product *p;
    const gr_int_kernels *k;
    const gr_int_format *f;
    int64_t first, m; /* rows of this round */
    gr_int_rows a;
    float *stat;          /* INT8: largest magnitude of a row, outliers left out; CHANNEL8: a row's scale */
    int32_t *n_out, *out; /* INT8: outliers of a row: how many, and where (k of them a row at most) */
    char *threads;
    size_t thread_bytes, acc_bytes;
} job;

static bool is_whole(const job *w) {
    return w->p->stored == GR_INT8 || w->p->stored == GR_CHANNEL8;
}

static const void *x_row(const job *w, int64_t i) {
    return gr_at_const(w->p->x, w->p->dt, (w->first + i) * w->p->x_ld);
}

/* --- Coding the activations --------------------------------------------------------------------------------------- */

/* As bitsandbytes' int8_vectorwise_quant: everything is compared and scaled after rounding to half precision.
 */
static void code_whole_row(const job *w, int64_t i, char *space) {
    const gr_int_product *p = w->p;
    const gr_cpu_kernels *cpu = gr_cpu(p->d);
    float *v = (float *)(void *)space, most = 0;
    uint16_t *half = (uint16_t *)(void *)(v + w->a.ld);
    const float threshold = gr_f16_to_f32(gr_f32_to_f16(p->threshold));
    int32_t n_out = 0;
    bool finite = true;
    cpu->convert(p->dt, x_row(w, i), GR_F16, half, p->k);
    cpu->convert(GR_F16, half, GR_F32, v, p->k);
    memset(v + p->k, 0, sizeof *v * (size_t)(w->a.ld - p->k));
    for (int64_t e = 0; e < p->k; e++) {
        const float size = fabsf(v[e]);
        if (p->threshold > 0 && size >= threshold) {
            w->out[i * p->k + n_out++] = (int32_t)e;
            v[e] = 0;
        } else if (!isfinite(size)) {
            finite = false;
        } else if (size > most) {
            most = size;
        }
    }
    int8_t *q = w->a.q + i * w->a.ld;
    if (finite && most > 0)
        w->k->round_row(w->a.ld, v, 127 / most, q);
    else
        memset(q, 0, (size_t)w->a.ld);
    w->stat[i] = finite ? most : NAN;
    if (w->n_out) w->n_out[i] = n_out;
}

static void code_channel_row(const job *w, int64_t i, float *v) {
    const gr_int_product *p = w->p;
    int8_t *q = w->a.q + i * w->a.ld;
    gr_cpu(p->d)->convert(p->dt, x_row(w, i), GR_F32, v, p->k);
    memset(v + p->k, 0, sizeof *v * (size_t)(w->a.ld - p->k));
    const float most = gr_float_from_bits(w->k->largest(w->a.ld, v));
    const bool finite = isfinite(most), zero = !finite || most < GR_INT_ZERO;
    const float scale = p->input > 0 ? p->input : most / 127.5f;
    w->stat[i] = !finite ? NAN : zero ? 0 : scale;
    if (zero)
        memset(q, 0, (size_t)w->a.ld);
    else
        w->k->divide_row(w->a.ld, v, scale, q);
}

static void code_item(void *arg, size_t begin, size_t end, int thread) {
    const job *w = arg;
    for (int64_t i = (int64_t)begin; i < (int64_t)end; i++)
        if (w->p->stored == GR_CHANNEL8)
            code_channel_row(w, i, (float *)(void *)(w->threads + (size_t)thread * w->thread_bytes));
        else if (is_whole(w))
            code_whole_row(w, i, w->threads + (size_t)thread * w->thread_bytes);
        else
            w->k->quantize(w->f, w->p->dt, w->p->k, x_row(w, i), &w->a, i);
}

/* --- Sixteen outputs ---------------------------------------------------------------------------------------------- */

/* Lines of the outputs after these, where they come from memory. */
static void fetch_next(const job *w, const gr_dtype_info *info, const uint8_t *const *rows, int64_t k, int64_t n) {
    if (w->m > FEW_ROWS) return;
    const uintptr_t at = (uintptr_t)(k / info->block_elements * info->block_bytes),
                    bytes = (uintptr_t)(n / info->block_elements * info->block_bytes);
    for (int lane = 0; lane < GR_INT_LANES; lane++) {
        const uintptr_t begin = (uintptr_t)rows[lane] + (uintptr_t)(GR_INT_LANES * w->p->row_bytes) + at;
        for (uintptr_t line = (begin + LINE - 1) / LINE * LINE; line < begin + bytes; line += LINE)
            __builtin_prefetch((const void *)line);
    }
}

/* CHANNEL8: y = sum * (scale of x * scale of w), of all lanes, so that it is done on vectors. */
static void scale_channels(const job *w, int64_t j, int n, const int32_t *sums, float *y) {
    const gr_int_product *p = w->p;
    float scales[GR_INT_LANES] = {0};
    for (int lane = 0; lane < n; lane++) scales[lane] = p->scale(p->owner, j + lane);
    for (int64_t i = 0; i < w->m; i++, sums += GR_INT_LANES, y += GR_INT_LANES) {
        const float scale = w->stat[i];
        for (int lane = 0; lane < GR_INT_LANES; lane++) y[lane] = (float)sums[lane] * (scale * scales[lane]);
    }
}

/* INT8: y = sum * (scale of x * scale of w) / 127^2 in this order, plus what the outliers give, one after the
 * other. */
static void scale_sums(const job *w, int64_t j, int n, const uint8_t *const *rows, const int32_t *sums,
                       float *y) {
    const gr_int_product *p = w->p;
    float scales[GR_INT_LANES];
    for (int lane = 0; lane < n; lane++) scales[lane] = p->scale(p->owner, j + lane);
    for (int64_t i = 0; i < w->m; i++)
        for (int lane = 0; lane < n; lane++) {
            const float scaled = (float)sums[i * GR_INT_LANES + lane] * (w->stat[i] * scales[lane]);
            float more = 0;
            for (int32_t o = 0; w->n_out && o < w->n_out[i]; o++) {
                const int32_t e = w->out[i * p->k + o];
                const float code = (float)(int8_t)rows[lane][e] * scales[lane], v = code * GR_INT8_STEP;
                const void *x = gr_at_const(x_row(w, i), p->dt, e);
                more += p->dt == GR_F32
                            ? *(const float *)x * v
                            : gr_bf16_to_f32(*(const uint16_t *)x) * gr_bf16_to_f32(gr_f32_to_bf16(v));
            }
            y[i * GR_INT_LANES + lane] = scaled * 6.200124e-05f + more;
        }
}

static void column_item(void *arg, size_t begin, size_t end, int thread) {
    const job *w = arg;
    const gr_int_product *p = w->p;
    char *space = w->threads + (size_t)thread * w->thread_bytes;
    float *y = (float *)(void *)space;
    int32_t *sums = (int32_t *)(void *)(space + w->acc_bytes);
    uint8_t *codes = (uint8_t *)space + w->acc_bytes * (is_whole(w) ? 2 : 1);
    float *scales = (float *)(void *)(codes + GR_INT_STRIP * GR_INT_LANES);
    const gr_int_panel panel = {codes, scales, scales + GR_INT_STRIP / 16 * GR_INT_LANES};
    const gr_int_unpack_fn unpack = w->k->unpack[p->stored];
    const gr_dtype_info *info = gr_dtype_get(p->stored);
    const int64_t most = w->m > FEW_ROWS ? GR_INT_STRIP : GR_MAX(FEW_STRIP, info->block_elements);
    for (int64_t item = (int64_t)begin; item < (int64_t)end; item++) {
        const int64_t j = item * GR_INT_LANES;
        const int n = (int)GR_MIN(p->n - j, (int64_t)GR_INT_LANES);
        const uint8_t *rows[GR_INT_LANES];
        p->rows(p->owner, j, n, rows);
        for (int lane = n; lane < GR_INT_LANES; lane++) rows[lane] = rows[n - 1];
        for (int64_t k = 0; k < p->k; k += most) {
            const int64_t strip = GR_MIN(p->k - k, most);
            fetch_next(w, info, rows, k, strip);
            unpack(rows, k, strip, &panel);
            if (is_whole(w))
                w->k->accumulate(w->m, (strip + GR_INT_BLOCK - 1) / GR_INT_BLOCK * GR_INT_BLOCK, w->a.q + k,
                                 w->a.ld, &panel, sums, k > 0);
            else
                w->k->multiply(w->f, w->m, k / w->f->elements, strip / w->f->elements, &w->a, &panel, y,
                               k > 0);
        }
        if (p->stored == GR_CHANNEL8) scale_channels(w, j, n, sums, y);
        else if (is_whole(w)) scale_sums(w, j, n, rows, sums, y);
        gr_cpu(p->d)->products[gr_type_index(p->dt)]->finish(
            w->m, n, 1, y, GR_INT_LANES, p->add ? 1 : 0, p->y_dt,
            gr_at(p->y, p->y_dt, w->first * p->y_ld + j), p->y_ld);
    }
}

/* --- A product ---------------------------------------------------------------------------------------------------- */

/* Cuts the workspace; with base NULL only counts. */
static size_t lay_out(job *w, char *base) {
    const gr_int_product *p = w->p;
    const int64_t m = GR_MIN(p->m, (int64_t)ROWS),
                  ld = (p->k + GR_INT_BLOCK - 1) / GR_INT_BLOCK * GR_INT_BLOCK;
    const int64_t blocks = is_whole(w) ? 0 : ld / w->f->elements, step = m + GR_INT_LANES; /* not whole pages */
    const bool outliers = p->stored == GR_INT8 && p->threshold > 0;
    size_t at = 0;
    const size_t pieces[] = {(size_t)(m * ld),
                             sizeof(float) * (size_t)(step * blocks),
                             sizeof(float) * (size_t)(step * blocks),
                             sizeof(int32_t) * (size_t)(step * blocks),
                             is_whole(w) ? sizeof(float) * (size_t)m : 0,
                             outliers ? sizeof(int32_t) * (size_t)m : 0,
                             outliers ? sizeof(int32_t) * (size_t)(m * p->k) : 0};
    size_t where[GR_COUNT(pieces)];
    for (size_t i = 0; i < GR_COUNT(pieces); i++) {
        where[i] = at;
        at += gr_round64(pieces[i]);
    }
    w->acc_bytes = gr_round64(sizeof(float) * GR_INT_LANES * (size_t)m);
    const size_t panel = GR_INT_STRIP * GR_INT_LANES + 2 * sizeof(float) * GR_INT_STRIP / 16 * GR_INT_LANES;
    const size_t coding = is_whole(w) ? gr_round64((sizeof(float) + sizeof(uint16_t)) * (size_t)ld) : 0;
    w->thread_bytes = GR_MAX(w->acc_bytes * (is_whole(w) ? 2 : 1) + panel, coding);
    if (base) {
        w->a = (gr_int_rows){.q = (int8_t *)base,
                             .ld = ld,
                             .d = (float *)(void *)(base + where[1]),
                             .ds = (float *)(void *)(base + where[2]),
                             .start = (int32_t *)(void *)(base + where[3]),
                             .step = step};
        w->stat = (float *)(void *)(base + where[4]);
        w->n_out = outliers ? (int32_t *)(void *)(base + where[5]) : NULL;
        w->out = outliers ? (int32_t *)(void *)(base + where[6]) : NULL;
        w->threads = base + at;
    }
    return at + w->thread_bytes * (size_t)p->d->n_threads;
}

graft_status gr_int_forward(const gr_int_product *p, graft_error *err) {
    if (p->m <= 0 || p->n <= 0) return GRAFT_OK;
    job w = {.p = p, .k = &gr_cpu(p->d)->integer, .f = gr_int_format_get(p->stored)};
    gr_workspace *space;
    GR_TRY(gr_workspace_take(p->d, lay_out(&w, NULL), &space, err));
    lay_out(&w, space->data);
    const size_t items = (size_t)((p->n + GR_INT_LANES - 1) / GR_INT_LANES),
                 threads = (size_t)p->d->n_threads;
    for (w.first = 0; w.first < p->m; w.first += ROWS) {
        w.m = GR_MIN(p->m - w.first, (int64_t)ROWS);
        if (w.m == 1)
            code_item(&w, 0, 1, 0);
        else
            gr_parallel_for(p->d->team, (size_t)w.m, 1, code_item, &w);
        gr_parallel_for(p->d->team, items, w.m <= FEW_ROWS ? GR_MAX(items / (threads * 8), (size_t)1) : 1,
                        column_item, &w);
    }
    gr_workspace_give(p->d, space);
    return GRAFT_OK;
}
